/* dataset.c - pictures to train on. The only file of the trainer that knows GDAL. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#if NSVQ_HAVE_GDAL
#include <cpl_conv.h>
#include <cpl_string.h>
#include <cpl_vsi.h>
#include <gdal.h>
#endif

#include "dataset.h"
#include "random.h"

#define MIN_SIDE 64 /* pixels */

static const char pack_magic[8] = {'N', 'S', 'V', 'Q', 'P', 'A', 'C', 'K'};

static int class_index(dataset *d, const char *name)
{
    for (int i = 0; i < d->n_classes; i++)
        if (!strcmp(d->class_name[i], name)) return i;
    d->class_name = realloc(d->class_name, sizeof *d->class_name * (size_t)(d->n_classes + 1));
    snprintf(d->class_name[d->n_classes], sizeof *d->class_name, "%s", name);
    return d->n_classes++;
}

static picture *add_picture(dataset *d, const char *name, const char *cls, int w, int h, uint8_t *rgb)
{
    d->pic = realloc(d->pic, sizeof *d->pic * (size_t)(d->n + 1));
    picture *p = &d->pic[d->n++];
    *p = (picture){.w = w, .h = h, .rgb = rgb, .class_at = class_index(d, cls)};
    snprintf(p->name, sizeof p->name, "%.90s", name);
    p->held_out = crc32(0, (const Bytef *)p->name, (uInt)strlen(p->name)) % 16 == 0;
    d->pixels += (double)w * h;
    return p;
}

#if NSVQ_HAVE_GDAL
static int load_raster(dataset *d, const char *root, const char *rel, int quiet)
{
    const char *path = CPLFormFilename(root, rel, NULL);
    GDALDatasetH ds = GDALOpenEx(path, GDAL_OF_RASTER | GDAL_OF_READONLY, NULL, NULL, NULL);
    if (!ds) return 0;
    const int w = GDALGetRasterXSize(ds), h = GDALGetRasterYSize(ds), n = GDALGetRasterCount(ds);
    int take = n >= 1 && w >= MIN_SIDE && h >= MIN_SIDE && (double)w * h < 2e9;
    for (int b = 1; take && b <= n && b <= 3; b++)
        take = GDALGetRasterDataType(GDALGetRasterBand(ds, b)) == GDT_Byte;
    uint8_t *rgb = take ? malloc((size_t)w * (size_t)h * 3) : NULL;
    if (rgb) {
        int bands[3] = {1, n >= 3 ? 2 : 1, n >= 3 ? 3 : 1};
        if (GDALDatasetRasterIO(ds, GF_Read, 0, 0, w, h, rgb, w, h, GDT_Byte, 3, bands, 3, 3 * w, 1) !=
            CE_None) {
            free(rgb);
            rgb = NULL;
        }
    }
    GDALClose(ds);
    if (!rgb) {
        if (!quiet) fprintf(stderr, "nsvq-train: left out %s (not a readable 8-bit raster)\n", rel);
        return 0;
    }
    char cls[64];
    snprintf(cls, sizeof cls, "%.63s", CPLGetPath(rel));
    add_picture(d, rel, cls[0] ? cls : ".", w, h, rgb);
    return 1;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int load_folder(dataset *d, const char *path, int quiet)
{
    GDALAllRegister();
    char **list = VSIReadDirRecursive(path);
    const int n = CSLCount(list);
    if (n) qsort(list, (size_t)n, sizeof *list, by_text);
    CPLPushErrorHandler(CPLQuietErrorHandler);
    for (int i = 0; i < n; i++) {
        const size_t len = strlen(list[i]);
        if (len && list[i][len - 1] != '/') load_raster(d, path, list[i], quiet);
    }
    CPLPopErrorHandler();
    CSLDestroy(list);
    return 0;
}
#else
static int load_folder(dataset *d, const char *path, int quiet)
{
    fprintf(stderr, "nsvq-train: %s: built without GDAL, only packs can be read\n", path);
    return -1;
}
#endif

/* Lossless residuals of the gradient-adjusted (MED) predictor; in place both ways. */
static uint8_t med(const uint8_t *p, size_t row, int x, int y)
{
    const int a = x ? p[-3] : y ? *(p - row) : 0, b = y ? *(p - row) : a, c = x && y ? *(p - row - 3) : a;
    const int lo = a < b ? a : b, hi = a < b ? b : a;
    return (uint8_t)(c >= hi ? lo : c <= lo ? hi : a + b - c);
}

static void put_u32(FILE *f, uint32_t v)
{
    const uint8_t b[4] = {(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16), (uint8_t)(v >> 24)};
    fwrite(b, 1, 4, f);
}

static uint32_t get_u32(const uint8_t *b)
{
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

int dataset_pack(const dataset *d, const char *file, int part_mib)
{
    FILE *f = NULL;
    long in_part = 0;
    int part = 0, failed = 0;
    for (int i = 0; i < d->n && !failed; i++) {
        const picture *p = &d->pic[i];
        const size_t n = (size_t)p->w * (size_t)p->h * 3, row = (size_t)p->w * 3;
        uLongf size = compressBound((uLong)n);
        uint8_t *res = malloc(n), *z = malloc(size);
        for (int y = 0; y < p->h; y++)
            for (size_t x = 0; x < row; x++) {
                const uint8_t *at = p->rgb + (size_t)y * row + x;
                res[(size_t)y * row + x] = (uint8_t)(*at - med(at, row, (int)(x / 3), y));
            }
        failed = compress2(z, &size, res, (uLong)n, 9) != Z_OK;
        if (!f || in_part + (long)size > (long)part_mib << 20) {
            char name[1024];
            if (f) failed |= fclose(f) != 0;
            if (part++) snprintf(name, sizeof name, "%s.%d", file, part);
            else snprintf(name, sizeof name, "%s", file);
            f = fopen(name, "wb");
            if (!f) {
                fprintf(stderr, "nsvq-train: cannot write %s\n", name);
                free(res);
                free(z);
                return -1;
            }
            fwrite(pack_magic, 1, 8, f);
            in_part = 0;
        }
        const char *cls = d->class_name[p->class_at];
        put_u32(f, (uint32_t)p->w);
        put_u32(f, (uint32_t)p->h);
        put_u32(f, (uint32_t)strlen(p->name));
        put_u32(f, (uint32_t)strlen(cls));
        put_u32(f, (uint32_t)size);
        fwrite(p->name, 1, strlen(p->name), f);
        fwrite(cls, 1, strlen(cls), f);
        failed |= fwrite(z, 1, size, f) != size;
        in_part += (long)size;
        free(res);
        free(z);
    }
    if (f) failed |= fclose(f) != 0;
    if (failed) fprintf(stderr, "nsvq-train: writing %s failed\n", file);
    return failed ? -1 : 0;
}

static int load_pack_part(dataset *d, const char *name)
{
    FILE *f = fopen(name, "rb");
    char magic[8] = {0};
    if (!f) return -1;
    int bad = fread(magic, 1, 8, f) != 8 || memcmp(magic, pack_magic, 8) != 0;
    while (!bad) {
        uint8_t head[20];
        const size_t n_head = fread(head, 1, sizeof head, f);
        if (!n_head) break;
        const uint32_t w = get_u32(head), h = get_u32(head + 4), nn = get_u32(head + 8),
                       nc = get_u32(head + 12), nz = get_u32(head + 16);
        char pic[96] = "", cls[64] = "";
        const uint64_t n = (uint64_t)w * h * 3;
        if (n_head < sizeof head || w < MIN_SIDE || h < MIN_SIDE || n > 6000000000u || nn >= sizeof pic || nc >= sizeof cls || nz > 2 * n + 1024) {
            bad = 1;
            break;
        }
        uint8_t *rgb = malloc(n), *z = malloc(nz);
        uLongf got = (uLongf)n;
        bad = !rgb || !z || fread(pic, 1, nn, f) != nn || fread(cls, 1, nc, f) != nc ||
              fread(z, 1, nz, f) != nz || uncompress(rgb, &got, z, nz) != Z_OK || got != n;
        for (size_t i = 0, row = (size_t)w * 3; !bad && i < n; i++)
            rgb[i] = (uint8_t)(rgb[i] + med(rgb + i, row, (int)(i % row / 3), (int)(i / row)));
        free(z);
        if (bad) free(rgb);
        else add_picture(d, pic, cls, (int)w, (int)h, rgb);
    }
    fclose(f);
    if (bad) fprintf(stderr, "nsvq-train: %s is damaged or no pack\n", name);
    return bad ? -1 : 0;
}

static int is_pack(const char *path)
{
    char magic[8] = {0};
    FILE *f = fopen(path, "rb");
    if (!f) return 0;
    const int yes = fread(magic, 1, 8, f) == 8 && !memcmp(magic, pack_magic, 8);
    fclose(f);
    return yes;
}

static int load_pack(dataset *d, const char *path)
{
    char name[1024];
    int bad = load_pack_part(d, path);
    for (int part = 2; !bad; part++) {
        snprintf(name, sizeof name, "%s.%d", path, part);
        if (!is_pack(name)) break;
        bad = load_pack_part(d, name);
    }
    return bad;
}

/* Between "each class equal" and "each pixel equal": the square root of a class's pixels. */
static void weigh_classes(dataset *d)
{
    double sum = 0;
    free(d->class_weight);
    d->class_weight = calloc((size_t)d->n_classes, sizeof *d->class_weight);
    for (int i = 0; i < d->n; i++)
        if (!d->pic[i].held_out) d->class_weight[d->pic[i].class_at] += (double)d->pic[i].w * d->pic[i].h;
    for (int c = 0; c < d->n_classes; c++) sum += d->class_weight[c] = sqrt(d->class_weight[c]);
    for (int c = 0; c < d->n_classes; c++) d->class_weight[c] /= sum;
}

int dataset_load(dataset *d, const char *path, int quiet)
{
    *d = (dataset){0};
    const int bad = is_pack(path) ? load_pack(d, path) : load_folder(d, path, quiet);
    if (!bad && !d->n) fprintf(stderr, "nsvq-train: no usable raster under %s\n", path);
    if (bad || !d->n) {
        dataset_free(d);
        return -1;
    }
    for (int i = 0; i < d->n; i++) d->n_held_out += d->pic[i].held_out;
    if (d->n_held_out == d->n) { /* too few files to hold one out */
        for (int i = 0; i < d->n; i++) d->pic[i].held_out = 0;
        d->n_held_out = 0;
    }
    weigh_classes(d);
    return 0;
}

void dataset_add_halves(dataset *d, int side)
{
    for (int i = 0, n = d->n_held_out ? d->n : 0; i < n; i++) {
        const picture p = d->pic[i];
        const int w = p.w / 2, h = p.h / 2;
        const size_t row = (size_t)p.w * 3;
        if (p.held_out || w < side || h < side) continue;
        uint8_t *half = malloc((size_t)w * (size_t)h * 3), *to = half;
        if (!half) abort();
        for (int y = 0; y < h; y++)
            for (int x = 0; x < w; x++)
                for (int c = 0; c < 3; c++) {
                    const uint8_t *at = p.rgb + (size_t)(2 * y) * row + (size_t)(6 * x + c);
                    *to++ = (uint8_t)((at[0] + at[3] + at[row] + at[row + 3] + 2) / 4);
                }
        add_picture(d, p.name, d->class_name[p.class_at], w, h, half);
    }
    weigh_classes(d);
}

void dataset_free(dataset *d)
{
    for (int i = 0; i < d->n; i++) free(d->pic[i].rgb);
    free(d->pic);
    free(d->class_name);
    free(d->class_weight);
    *d = (dataset){0};
}

static const picture *choose(const dataset *d, uint64_t *rng)
{
    double u = random_unit(rng), pixels = 0;
    int c = 0;
    while (c < d->n_classes - 1 && u >= d->class_weight[c]) u -= d->class_weight[c++];
    while (d->class_weight[c] == 0.) c = (c + 1) % d->n_classes;
    for (int i = 0; i < d->n; i++)
        if (d->pic[i].class_at == c && !d->pic[i].held_out) pixels += (double)d->pic[i].w * d->pic[i].h;
    double at = random_unit(rng) * pixels;
    const picture *last = NULL;
    for (int i = 0; i < d->n; i++) {
        const picture *p = &d->pic[i];
        if (p->class_at != c || p->held_out) continue;
        last = p;
        at -= (double)p->w * p->h;
        if (at < 0) break;
    }
    return last;
}

/* Rare colours were the worst loss of earlier trials: channel order, saturation and contrast vary. */
static void change_colours(uint8_t *rgb, int n, uint64_t *rng)
{
    static const uint8_t order[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    const uint8_t *o = order[random_unit(rng) < 0.35f ? random_below(rng, 6) : 0];
    const int keep = random_unit(rng) < 0.5f;
    const float sat = keep ? 1.f : 0.6f + 1.2f * random_unit(rng);
    const float con = keep ? 1.f : 0.7f + 0.6f * random_unit(rng);
    const float off = keep ? 0.f : 30.f * (random_unit(rng) - 0.5f);
    if (keep && o == order[0]) return;
    for (int i = 0; i < n; i++, rgb += 3) {
        const float c[3] = {rgb[o[0]], rgb[o[1]], rgb[o[2]]};
        const float grey = (c[0] + c[1] + c[2]) / 3.f;
        for (int b = 0; b < 3; b++) {
            const float v = keep ? c[b] : ((c[b] - grey) * sat + grey - 128.f) * con + 128.f + off;
            rgb[b] = (uint8_t)(v < 0.f ? 0 : v > 255.f ? 255 : (int)(v + 0.5f));
        }
    }
}

/* Turns the plane of colour differences, the grey axis stays; then saturation and contrast. With one
 * chance in two channels change places as well. */
static void turn_colours(uint8_t *rgb, int n, uint64_t *rng)
{
    static const uint8_t order[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    const uint8_t *o = order[random_unit(rng) < 0.5f ? random_below(rng, 6) : 0];
    const float angle = 6.2831853f * random_unit(rng), sat = 0.6f + 1.2f * random_unit(rng);
    const float con = 0.75f + 0.5f * random_unit(rng), off = 30.f * (random_unit(rng) - 0.5f);
    const float co = sat * cosf(angle), si = sat * sinf(angle) / 1.7320508f;
    for (int i = 0; i < n; i++, rgb += 3) {
        const float c[3] = {rgb[o[0]], rgb[o[1]], rgb[o[2]]}, grey = (c[0] + c[1] + c[2]) / 3.f;
        for (int b = 0; b < 3; b++) {
            const float turned = co * (c[b] - grey) + si * (c[(b + 1) % 3] - c[(b + 2) % 3]);
            const float v = (grey + turned - 128.f) * con + 128.f + off;
            rgb[b] = (uint8_t)(v < 0.f ? 0 : v > 255.f ? 255 : (int)(v + 0.5f));
        }
    }
}

void dataset_patch(const dataset *d, uint64_t *rng, const cut *c, uint8_t *rgb, int *w, int *h)
{
    const picture *p = choose(d, rng);
    const uint64_t turn = random_u64(rng);
    const int swap = (int)(turn & 1), fx = (int)(turn & 2), fy = (int)(turn & 4);
    const int pw = (p->w < c->size ? p->w : c->size) / c->unit * c->unit;
    const int ph = (p->h < c->size ? p->h : c->size) / c->unit * c->unit;
    const int x0 = (int)random_below(rng, (uint32_t)(p->w - pw + 1));
    const int y0 = (int)random_below(rng, (uint32_t)(p->h - ph + 1));
    *w = swap ? ph : pw;
    *h = swap ? pw : ph;
    for (int y = 0; y < *h; y++)
        for (int x = 0; x < *w; x++) {
            int sx = swap ? y : x, sy = swap ? x : y;
            if (fx) sx = pw - 1 - sx;
            if (fy) sy = ph - 1 - sy;
            memcpy(rgb + ((size_t)y * (size_t)*w + (size_t)x) * 3,
                   p->rgb + ((size_t)(y0 + sy) * (size_t)p->w + (size_t)(x0 + sx)) * 3, 3);
        }
    if (c->vivid > 0.f) {
        if (random_unit(rng) < c->vivid) turn_colours(rgb, *w * *h, rng);
    } else {
        change_colours(rgb, *w * *h, rng);
    }
}

int dataset_held_out(const dataset *d, int i, const cut *c, uint8_t *rgb, int *w, int *h,
                     const char **name)
{
    for (int k = 0; k < d->n; k++) {
        const picture *p = &d->pic[k];
        if ((d->n_held_out && !p->held_out) || i--) continue;
        *w = (p->w < c->size ? p->w : c->size) / c->unit * c->unit;
        *h = (p->h < c->size ? p->h : c->size) / c->unit * c->unit;
        const int x0 = (p->w - *w) / 2, y0 = (p->h - *h) / 2;
        for (int y = 0; y < *h; y++)
            memcpy(rgb + (size_t)y * (size_t)*w * 3,
                   p->rgb + ((size_t)(y0 + y) * (size_t)p->w + (size_t)x0) * 3, (size_t)*w * 3);
        *name = p->name;
        return 1;
    }
    return 0;
}
