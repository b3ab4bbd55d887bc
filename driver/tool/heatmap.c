/* heatmap.c - cells of errors, written through GDAL's PNG driver. */
#include "heatmap.h"

#include <cpl_conv.h>
#include <cpl_error.h>
#include <cpl_string.h>
#include <cpl_vsi.h>
#include <gdal.h>
#include <stdlib.h>
#include <string.h>

#define WHITE          253 /* palette: 0 .. WHITE, then the other two */
#define INDEX_EXCLUDED 254
#define INDEX_MISMATCH 255
#define MEAN_EXCLUDED  -1.0f
#define MEAN_MISMATCH  -2.0f

heatmap *heatmap_new(int width, int height)
{
    heatmap *h = calloc(1, sizeof *h);
    if (!h) return NULL;
    h->width = width;
    h->height = height;
    h->cell = ((width > height ? width : height) - 1) / HEATMAP_SIDE + 1;
    h->columns = (width - 1) / h->cell + 1;
    h->rows = (height - 1) / h->cell + 1;
    h->sums = calloc((size_t)h->columns, sizeof *h->sums);
    h->counts = calloc((size_t)h->columns, sizeof *h->counts);
    h->means = calloc((size_t)h->columns * h->rows, sizeof *h->means);
    if (!h->sums || !h->counts || !h->means) {
        heatmap_free(h);
        h = NULL;
    }
    return h;
}

void heatmap_free(heatmap *h)
{
    if (!h) return;
    free(h->sums);
    free(h->counts);
    free(h->means);
    free(h);
}

void heatmap_row(heatmap *h, const double *error, const uint8_t *state)
{
    float *mean = h->means + (size_t)(h->done / h->cell) * h->columns;
    for (int x = 0, c = 0; c < h->columns; c++) {
        const int right = h->width - x > h->cell ? x + h->cell : h->width;
        for (; x < right; x++) {
            if (state[x] == STATE_MISMATCH) mean[c] = MEAN_MISMATCH;
            if (state[x] != STATE_COMPARED) continue;
            h->sums[c] += error[x];
            h->counts[c]++;
        }
    }
    h->done++;
    if (h->done % h->cell && h->done < h->height) return;
    for (int c = 0; c < h->columns; c++) {
        if (mean[c] != MEAN_MISMATCH)
            mean[c] = h->counts[c] ? (float)(h->sums[c] / h->counts[c]) : MEAN_EXCLUDED;
        h->sums[c] = 0;
        h->counts[c] = 0;
    }
}

static GByte index_of(float mean, double full)
{
    if (mean == MEAN_MISMATCH) return INDEX_MISMATCH;
    if (mean == MEAN_EXCLUDED) return INDEX_EXCLUDED;
    return full > 0 ? (GByte)(WHITE * (mean / full) + 0.5) : 0;
}

static short ramp(int i, int third)
{
    const int v = 3 * i * 255 / WHITE - third * 255;
    return (short)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* Black, red, yellow, white; excluded transparent, mismatch cyan. */
static GDALColorTableH palette(void)
{
    GDALColorTableH t = GDALCreateColorTable(GPI_RGB);
    for (int i = 0; i <= WHITE; i++) {
        const GDALColorEntry e = {ramp(i, 0), ramp(i, 1), ramp(i, 2), 255};
        GDALSetColorEntry(t, i, &e);
    }
    const GDALColorEntry excluded = {128, 128, 128, 0}, mismatch = {0, 255, 255, 255};
    GDALSetColorEntry(t, INDEX_EXCLUDED, &excluded);
    GDALSetColorEntry(t, INDEX_MISMATCH, &mismatch);
    return t;
}

static bool fill(const heatmap *h, GDALDatasetH ds)
{
    const GDALRasterBandH band = GDALGetRasterBand(ds, 1);
    GDALColorTableH colours = palette();
    GByte row[HEATMAP_SIDE];
    bool ok = GDALSetRasterColorTable(band, colours) == CE_None;
    GDALDestroyColorTable(colours);
    for (int y = 0; ok && y < h->rows; y++) {
        for (int c = 0; c < h->columns; c++)
            row[c] = index_of(h->means[(size_t)y * h->columns + c], h->full);
        ok = GDALRasterIO(band, GF_Write, 0, y, h->columns, 1, row, h->columns, 1, GDT_Byte, 0,
                          0) == CE_None;
    }
    GDALSetMetadataItem(ds, "DESCRIPTION",
                        CPLSPrintf("absolute error, mean over %d x %d pixels of the largest of "
                                   "the bands; index %d (white) = %.6g",
                                   h->cell, h->cell, WHITE, h->full),
                        NULL);
    return ok;
}

bool heatmap_write(heatmap *h, const char *path)
{
    GDALDriverH png = GDALGetDriverByName("PNG"), mem = GDALGetDriverByName("MEM");
    char *part = CPLStrdup(CPLSPrintf("%s.part", path));
    bool ok = false;

    for (size_t i = 0; i < (size_t)h->columns * h->rows; i++)
        if (h->means[i] > h->full) h->full = h->means[i];
    if (!png || !mem) CPLError(CE_Failure, CPLE_AppDefined, "this GDAL has no PNG driver");
    GDALDatasetH ds = NULL;
    if (png && mem) ds = GDALCreate(mem, "", h->columns, h->rows, 1, GDT_Byte, NULL);
    if (ds && fill(h, ds)) {
        char **options = CSLSetNameValue(NULL, "WRITE_METADATA_AS_TEXT", "YES");
        CPLSetThreadLocalConfigOption("GDAL_PAM_ENABLED", "NO"); // no .aux.xml beside it
        GDALDatasetH out = GDALCreateCopy(png, part, ds, FALSE, options, NULL, NULL);
        ok = out != NULL;
        if (out) GDALClose(out);
        CPLSetThreadLocalConfigOption("GDAL_PAM_ENABLED", NULL);
        CSLDestroy(options);
        if (ok && VSIRename(part, path)) {
            CPLError(CE_Failure, CPLE_FileIO, "the finished file cannot be renamed");
            ok = false;
        }
        if (!ok) VSIUnlink(part);
    }
    if (ds) GDALClose(ds);
    CPLFree(part);
    return ok;
}
