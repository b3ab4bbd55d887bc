/* scenes.c - nsvq-scenes: makes aerial scenes for demonstrations and tests, the same for a seed.
 *
 * A scene is a plan in metres: a tree of splits (roads, streets, field borders) whose leaves are
 * fields, meadows, forests, gardens or yards, and a list of things that stand on them. Plan space
 * is the world turned and gently bent, so that nothing runs along the pixels. Tiles are rendered
 * from the plan one by one at twice the resolution, so memory does not grow with the image:
 * heights, then colours, sunlight with cast shadows, haze and clouds, blur, noise.
 * Not photographs: good for looking at artefacts and for tests, never for training or reporting. */
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpl_conv.h"
#include "cpl_string.h"
#include "gdal.h"
#include "ogr_srs_api.h"

#include "scenes.h"

/* ---- random numbers and noise ---- */

uint32_t hash3(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t h =
        a * 0x9E3779B1u ^ (b + 0x7F4A7C15u) * 0x85EBCA6Bu ^ (c + 0x165667B1u) * 0xC2B2AE35u;
    h = (h ^ (h >> 15)) * 0x2C1B3C6Du;
    h = (h ^ (h >> 12)) * 0x297A2D39u;
    return h ^ (h >> 15);
}

float unit(uint32_t h) /* 0 .. 1 */
{
    return (float)(h >> 8) * (1.0f / 16777216.0f);
}

float draw(uint32_t *state, float lo, float hi)
{
    *state = hash3(*state, 0x51ED27u, 0xA53u);
    return lo + (hi - lo) * unit(*state);
}

/* Smooth noise, -1 .. 1, one bump per unit of x and y. */
float noise(uint32_t seed, float x, float y)
{
    const float fx = floorf(x), fy = floorf(y);
    const uint32_t ix = (uint32_t)(int32_t)fx, iy = (uint32_t)(int32_t)fy;
    float u = x - fx, v = y - fy;
    u = u * u * (3 - 2 * u);
    v = v * v * (3 - 2 * v);
    const float a = unit(hash3(ix, iy, seed)), b = unit(hash3(ix + 1, iy, seed));
    const float c = unit(hash3(ix, iy + 1, seed)), d = unit(hash3(ix + 1, iy + 1, seed));
    return 2 * (a + (b - a) * u + (c - a) * v + (a - b - c + d) * u * v) - 1;
}

float octaves(uint32_t seed, float x, float y, int n)
{
    float sum = 0, weight = 0.5f;
    for (int i = 0; i < n; i++, weight *= 0.55f) {
        sum += weight * noise(seed + (uint32_t)i, x, y);
        const float t = 1.6f * x + 1.2f * y; // turned, so that the lattices do not line up
        y = 1.6f * y - 1.2f * x;
        x = t;
    }
    return sum;
}

/* ---- output ---- */

static bool write_scene(const char *folder, uint32_t seed, int size)
{
    char name[32];
    snprintf(name, sizeof name, "scene%u.tif", (unsigned)seed);
    char *path = CPLStrdup(CPLFormFilename(folder, name, NULL));
    char **options = CSLSetNameValue(NULL, "COMPRESS", "DEFLATE");
    options = CSLSetNameValue(options, "PREDICTOR", "2");
    options = CSLSetNameValue(options, "TILED", "YES");
    options = CSLSetNameValue(options, "PHOTOMETRIC", "RGB");
    GDALDatasetH ds =
        GDALCreate(GDALGetDriverByName("GTiff"), path, size, size, 3, GDT_Byte, options);
    CSLDestroy(options);
    scene *s = scene_plan(seed, (float)size * SCENE_GSD);
    uint8_t *pixels = malloc((size_t)SCENE_TILE * SCENE_TILE * 3);
    bool ok = ds && s && pixels;

    if (ok) {
        double gt[6] = {400000 + seed % 100 * 5000.0, SCENE_GSD, 0, 5800000, 0, -SCENE_GSD};
        OGRSpatialReferenceH srs = OSRNewSpatialReference(NULL);
        ok = OSRImportFromEPSG(srs, 32633) == OGRERR_NONE &&
             GDALSetSpatialRef(ds, srs) == CE_None && GDALSetGeoTransform(ds, gt) == CE_None;
        OSRDestroySpatialReference(srs);
    }
    for (int y = 0; ok && y < size; y += SCENE_TILE) {
        for (int x = 0; ok && x < size; x += SCENE_TILE) {
            const int w = size - x < SCENE_TILE ? size - x : SCENE_TILE;
            const int h = size - y < SCENE_TILE ? size - y : SCENE_TILE;
            ok = scene_render(s, x, y, w, h, pixels) &&
                 GDALDatasetRasterIO(ds, GF_Write, x, y, w, h, pixels, w, h, GDT_Byte, 3, NULL, 3,
                                     3 * w, 1) == CE_None;
        }
    }
    if (ds) {
        CPLErrorReset(); // GDALClose has no result here: what it fails to write shows as an error
        GDALClose(ds);
        ok = ok && CPLGetLastErrorType() < CE_Failure;
    }
    if (ok)
        printf("%s\n", path);
    else
        fprintf(stderr, "nsvq-scenes: cannot make %s\n", path);
    free(pixels);
    scene_free(s);
    CPLFree(path);
    return ok;
}

static bool whole_number(const char *text, long lo, long hi, long *out)
{
    char *end;
    *out = text ? strtol(text, &end, 10) : 0;
    return text && *text && *end == 0 && *out >= lo && *out <= hi;
}

int main(int argc, char **argv)
{
    long size = 1536, count = 3, seed = 1;
    const char *folder = NULL;
    bool ok = true;

    for (int i = 1; i < argc && ok; i++) {
        const char *value = argv[i + 1]; // NULL past the last
        if (strcmp(argv[i], "--size") == 0)
            ok = whole_number(value, 16, 100000, &size), i++;
        else if (strcmp(argv[i], "--count") == 0)
            ok = whole_number(value, 1, 10000, &count), i++;
        else if (strcmp(argv[i], "--seed") == 0)
            ok = whole_number(value, 0, 1000000000, &seed), i++;
        else if (argv[i][0] == '-' || folder)
            ok = false;
        else
            folder = argv[i];
    }
    if (!ok || !folder) {
        fprintf(stderr, "usage: nsvq-scenes [--size PIXELS] [--count N] [--seed N] folder\n"
                        "writes folder/scene<seed>.tif, scene<seed + 1>.tif, ...\n");
        return 2;
    }
    GDALAllRegister();
    for (long i = 0; i < count && ok; i++)
        ok = write_scene(folder, (uint32_t)(seed + i), (int)size);
    GDALDestroyDriverManager();
    return ok ? 0 : 1;
}
