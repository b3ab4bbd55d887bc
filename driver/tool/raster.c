/* raster.c - strips of rows through GDAL. */
#include "raster.h"

#include <cpl_error.h>
#include <cpl_string.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STRIP_BYTES (64 << 20)

void CPL_STDCALL raster_on_error(CPLErr level, CPLErrorNum number, const char *text)
{
    message *m = CPLGetErrorHandlerUserData();
    if (level >= CE_Failure) {
        if (!m->text[0]) snprintf(m->text, sizeof m->text, "%s", text);
    } else if (!m->quiet) {
        CPLDefaultErrorHandler(level, number, text);
    }
}

static bool fail(raster *r, const char *what)
{
    const char *said = r->said->text;
    snprintf(r->problem, sizeof r->problem, "%s: %s%s%s", r->path, what, *said ? ": " : "", said);
    return false;
}

static GDALRasterBandH band_of(const raster *r, int i)
{
    return GDALGetRasterBand(r->ds, r->bands[i]);
}

static bool choose_bands(raster *r, const int *chosen, int n_chosen)
{
    const int all = GDALGetRasterCount(r->ds);
    r->n_bands = n_chosen ? n_chosen : all;
    if (!all) return fail(r, "has no bands (subdatasets are named as gdalinfo prints them)");
    r->bands = malloc((size_t)r->n_bands * sizeof *r->bands);
    r->masks = calloc((size_t)r->n_bands, sizeof *r->masks);
    if (!r->bands || !r->masks) return fail(r, "no memory");
    for (int i = 0; i < r->n_bands; i++) {
        r->bands[i] = n_chosen ? chosen[i] : i + 1;
        if (r->bands[i] > all) return fail(r, "lacks a band that --bands names");
    }
    return true;
}

bool raster_open(raster *r, const char *path, const int *chosen, int n_chosen, message *said)
{
    *r = (raster){.path = path, .said = said};
    said->text[0] = 0;
    r->ds = GDALOpenEx(path, GDAL_OF_RASTER | GDAL_OF_VERBOSE_ERROR, NULL, NULL, NULL);
    if (!r->ds) return fail(r, "cannot be opened");
    r->width = GDALGetRasterXSize(r->ds);
    r->height = GDALGetRasterYSize(r->ds);
    if (!choose_bands(r, chosen, n_chosen)) return false;
    for (int i = 0; i < r->n_bands; i++) {
        const GDALRasterBandH band = band_of(r, i);
        const GDALDataType type = GDALGetRasterDataType(band);
        r->type = i ? GDALDataTypeUnion(r->type, type) : type;
#if GDAL_VERSION_NUM < GDAL_COMPUTE_VERSION(3, 7, 0) /* later they have a type, and the question is warned of */
        const char *pixel_type = GDALGetMetadataItem(band, "PIXELTYPE", "IMAGE_STRUCTURE");
        if (pixel_type && EQUAL(pixel_type, "SIGNEDBYTE")) r->signed_bytes = true;
#endif
        if (!(GDALGetMaskFlags(band) & GMF_ALL_VALID)) r->masks[i] = GDALGetMaskBand(band);
    }
    if (GDALDataTypeIsComplex(r->type)) return fail(r, "complex numbers are not compared");
    return true;
}

double raster_peak(const raster *r)
{
    int bits = 0;
    for (int i = 0; i < r->n_bands; i++) {
        const GDALRasterBandH band = band_of(r, i);
        const char *n = GDALGetMetadataItem(band, "NBITS", "IMAGE_STRUCTURE");
        int own = 8;
        if (GDALGetDataTypeSizeBits(GDALGetRasterDataType(band)) > own) return 0;
        if (n && atoi(n) > 0 && atoi(n) < own) own = atoi(n);
        if (own > bits) bits = own;
    }
    return ldexp(1, bits) - 1;
}

int raster_block_rows(const raster *r)
{
    int most = 1;
    for (int i = 0; i < r->n_bands; i++) {
        int w, h;
        GDALGetBlockSize(band_of(r, i), &w, &h);
        if (h > most) most = h;
    }
    return most;
}

bool raster_start(raster *r, int rows)
{
    const size_t row_samples = (size_t)r->width * r->n_bands;
    const size_t row_bytes = row_samples * (size_t)(GDALGetDataTypeSizeBytes(r->type) + 1);
    while (rows > 1 && row_bytes * rows > STRIP_BYTES) rows /= 2; // stays in step with the blocks
    r->strip_rows = rows;
    r->first = r->rows = 0;
    r->pixels = malloc(row_bytes * r->strip_rows);
    if (!r->pixels) return fail(r, "no memory");
    r->valid = r->pixels + (row_bytes - row_samples) * r->strip_rows;
    return true;
}

/* Reads the strip that starts with row y. Bands share a mask of the dataset: it is read once. Rows of a mask are
 * asked for without gaps: GDAL 3.10 loses them for masks of nodata. */
static bool read_strip(raster *r, int y)
{
    const GSpacing size = GDALGetDataTypeSizeBytes(r->type), w = r->width;
    const int rows = r->height - y < r->strip_rows ? r->height - y : r->strip_rows;

    r->said->text[0] = 0;
    if (GDALDatasetRasterIOEx(r->ds, GF_Read, 0, y, r->width, rows, r->pixels, r->width, rows,
                              r->type, r->n_bands, r->bands, size, size * w * r->n_bands, size * w,
                              NULL) != CE_None)
        return fail(r, "cannot be read");
    for (int i = 0; i < r->n_bands; i++) {
        const size_t n = (size_t)r->strip_rows * r->width;
        uint8_t *to = r->valid + i * n;
        if (!r->masks[i]) continue;
        if (i && r->masks[i] == r->masks[i - 1]) {
            memcpy(to, to - n, n);
        } else if (GDALRasterIOEx(r->masks[i], GF_Read, 0, y, r->width, rows, to, r->width, rows,
                                  GDT_Byte, 1, w, NULL) != CE_None) {
            return fail(r, "mask cannot be read");
        }
    }
    r->first = y;
    r->rows = rows;
    return true;
}

bool raster_row(raster *r, int y, int i, double *values, uint8_t *valid)
{
    if ((y < r->first || y >= r->first + r->rows) && !read_strip(r, y)) return false;
    const size_t at = ((size_t)(y - r->first) * r->n_bands + i) * r->width;
    const uint8_t *mask = r->valid + ((size_t)i * r->strip_rows + (y - r->first)) * r->width;
    const int size = GDALGetDataTypeSizeBytes(r->type);
    GDALCopyWords(r->pixels + at * size, r->type, size, values, GDT_Float64, sizeof *values,
                  r->width);
    if (r->signed_bytes)
        for (int x = 0; x < r->width; x++) values[x] -= values[x] > 127 ? 256 : 0;
    if (r->masks[i])
        for (int x = 0; x < r->width; x++) valid[x] = mask[x] != 0;
    else
        memset(valid, 1, (size_t)r->width);
    if (GDALDataTypeIsFloating(r->type))
        for (int x = 0; x < r->width; x++) valid[x] = valid[x] && isfinite(values[x]);
    return true;
}

void raster_close(raster *r)
{
    if (r->ds) GDALClose(r->ds);
    free(r->bands);
    free(r->masks);
    free(r->pixels);
    *r = (raster){0};
}
