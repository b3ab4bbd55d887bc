/* measure.c - what of a band's samples the networks' levels stand for, found by a pass over the raster:
 * all that is usual, with room around it. A fill value that nobody declared, and a few hot pixels, stay
 * outside, so that they do not take the levels from the rest; they are coded exactly. Then which bands go
 * together, from some rows. Rows come first and bands within them: sources may store pixel by pixel.
 * May include: codec.h. */
#include "codec.h"

#include <math.h>

enum { ROWS = 64, N_PICKED = 16384 /* about */, CAP = N_PICKED / 4 * 5 };
enum { FEW = 1024 /* one of so many may lie far off */ };
enum { BATCH = 128 /* bands in a pass */, GROUP_ROWS = 512 /* about, to choose groups by */ };

/* Three bands are like a picture's when so much of their differences from pixel to pixel is common to them. Over
 * ten files to train on, bytes at equal PSNR are least from 0.61 to 0.67: 1 % more at 0.7 and 0.55, 3 % at 0.45, 14 %
 * where all are taken in threes, 42 % where all stand alone. */
#define COMMON 0.64

typedef struct survey {
    const nsvq_raster *r;
    nsvq_band *bands;
    uint8_t *px, *valid; /* ROWS rows */
} survey;

/* Of a band. */
typedef struct found {
    uint32_t band;
    double least, most;
    float *picked; /* [CAP] */
    size_t n;
} found;

static bool needs_range(const nsvq_band *b)
{
    return !is_exact(b) && type_of(b) != NSVQ_TYPE_U8;
}

static nsvq_status go_on(const survey *s, nsvq_error *err)
{
    const nsvq_raster *r = s->r;
    bool stop = r->progress && !r->progress(r->user, 0);

    return stop ? fail(err, NSVQ_E_CANCELLED, NO_OFFSET, "cancelled") : NSVQ_OK;
}

/* h rows of n bands, pixel by pixel. */
static nsvq_status load(const survey *s, uint32_t band, uint32_t n, uint32_t y, uint32_t h, nsvq_error *err)
{
    const nsvq_raster *r = s->r;
    ptrdiff_t bytes = (ptrdiff_t)nsvq_type_bytes(type_of(&s->bands[band]));
    nsvq_pull p = {.y = y, .w = r->width, .h = h, .first = band, .n = n, .pixels = s->px, .pixel_stride = bytes * n,
                   .row_stride = bytes * n * r->width, .band_stride = bytes};

    if (!r->read(r->user, &p)) return NSVQ_OK;
    return fail(err, NSVQ_E_IO, NO_OFFSET, "cannot get rows %u to %u of the raster", y, y + h - 1);
}

static nsvq_status load_valid(const survey *s, uint32_t mask, uint32_t y, uint32_t h, nsvq_error *err)
{
    const nsvq_raster *r = s->r;
    nsvq_pull p = {.y = y, .w = r->width, .h = h, .first = mask, .n = 1, .pixels = s->valid, .pixel_stride = 1,
                   .row_stride = r->width};

    if (!r->read_mask(r->user, &p)) return NSVQ_OK;
    return fail(err, NSVQ_E_IO, NO_OFFSET, "cannot get rows %u to %u of the mask", y, y + h - 1);
}

/* Rows that are loaded, from row y on. */
static void take(const survey *s, found *f, uint32_t y, uint32_t h)
{
    const nsvq_raster *r = s->r;
    const nsvq_band *band = &s->bands[f->band];
    nsvq_type type = type_of(band);
    size_t bytes = nsvq_type_bytes(type), n = (size_t)r->width * h;
    double share = fmin(1, N_PICKED / ((double)r->width * r->height)) * 0x1p32;

    for (size_t i = 0; i < n; i++) {
        uint32_t bits = range_load(type, s->px + i * bytes);
        double v = range_value(type, bits);
        if (!isfinite(v) || (r->has_mask && !s->valid[i]) ||
            (band->has_nodata && range_is_nodata(type, bits, (uint32_t)band->nodata)))
            continue;
        f->least = fmin(f->least, v);
        f->most = fmax(f->most, v);
        uint64_t hash = ((uint64_t)y * r->width + i) * UINT64_C(0x9e3779b97f4a7c15) >> 32;
        if ((double)hash < share && f->n < CAP) f->picked[f->n++] = (float)v;
    }
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

/* a - b, which may be too large for floats. */
static double less(float a, float b)
{
    return (double)a - (double)b;
}

/* Takes away the value at an end of the sorted ones when it is farther off than all others lie apart. */
static void drop_fill(const float **v, size_t *n)
{
    size_t low = 1, high = 1;

    while (low < *n && (*v)[low] == (*v)[0]) low++;
    if (low < *n && low > 1 && less((*v)[low], (*v)[0]) > less((*v)[*n - 1], (*v)[low])) {
        *v += low;
        *n -= low;
    }
    while (high < *n && (*v)[*n - 1 - high] == (*v)[*n - 1]) high++;
    if (high < *n && high > 1 && less((*v)[*n - 1], (*v)[*n - 1 - high]) > less((*v)[*n - 1 - high], (*v)[0])) *n -= high;
}

static void choose_range(const found *f, nsvq_band *band)
{
    const float *v = f->picked;
    nsvq_type type = type_of(band);
    size_t n = f->n;

    band->has_range = 1;
    band->low = band->high = 0;
    if (f->least > f->most) return; // nothing is valid
    double low = f->least, high = f->most;
    if (n > 1) {
        qsort(f->picked, n, sizeof *v, by_value);
        drop_fill(&v, &n);
        size_t few = n > 2 ? n / FEW + 1 : 0;
        double room = less(v[n - 1], v[0]) / 16, usual = less(v[n - 1 - few], v[few]);
        low = fmax(low, (double)v[0] - room);
        high = fmin(high, (double)v[n - 1] + room);
        if (usual > 0) {
            low = fmax(low, (double)v[few] - usual / 4);
            high = fmin(high, (double)v[n - 1 - few] + usual / 4);
        }
    }
    band->low = range_bits(type, type == NSVQ_TYPE_F32 ? low : floor(low));
    band->high = range_bits(type, type == NSVQ_TYPE_F32 ? high : ceil(high));
}

/* The ranges of n bands. */
static nsvq_status find_ranges(const survey *s, found *f, size_t n, nsvq_error *err)
{
    const nsvq_raster *r = s->r;
    nsvq_status st = NSVQ_OK;

    for (uint32_t y = 0; y < r->height && st == NSVQ_OK; y += ROWS) {
        uint32_t h = r->height - y < ROWS ? r->height - y : ROWS;
        st = go_on(s, err);
        if (st == NSVQ_OK && r->has_mask == 1) st = load_valid(s, 0, y, h, err);
        for (size_t i = 0; i < n && st == NSVQ_OK; i++) {
            if (r->has_mask == 2) st = load_valid(s, f[i].band, y, h, err);
            if (st == NSVQ_OK) st = load(s, f[i].band, 1, y, h, err);
            if (st == NSVQ_OK) take(s, &f[i], y, h);
        }
    }
    for (size_t i = 0; i < n && st == NSVQ_OK; i++) choose_range(&f[i], &s->bands[f[i].band]);
    return st;
}

/* Squared differences along rows of three bands: all, and of their mean. */
typedef struct differences {
    double all, common;
} differences;

/* A row of three bands. */
static void add_differences(const survey *s, const nsvq_band *band, differences *sum)
{
    nsvq_type type = type_of(band);
    size_t bytes = nsvq_type_bytes(type);
    double before[3] = {0}, now[3], low[3], scale[3];
    bool had = false, has;

    for (int c = 0; c < 3; c++) {
        low[c] = range_value(type, band[c].low);
        double span = range_value(type, band[c].high) - low[c];
        scale[c] = span > 0 ? 1 / span : 0;
    }
    for (size_t x = 0; x < s->r->width; x++, had = has) {
        double mean = 0;
        has = true;
        for (size_t c = 0; c < 3; c++) {
            uint32_t bits = range_load(type, s->px + (3 * x + c) * bytes);
            has &= range_holds(type, (range){band[c].low, band[c].high}, bits) &&
                   !(band->has_nodata && range_is_nodata(type, bits, (uint32_t)band->nodata));
            now[c] = has ? (range_value(type, bits) - low[c]) * scale[c] : 0;
        }
        for (int c = 0; c < 3; c++) {
            double d = had && has ? now[c] - before[c] : 0;
            sum->all += d * d;
            mean += d;
            before[c] = now[c];
        }
        sum->common += mean * mean / 3;
    }
}

static bool may_be_three(const survey *s, uint32_t b)
{
    const nsvq_band *band = &s->bands[b];

    return b + 2 < s->r->n_bands && needs_range(band) && is_pair(band, band + 1) && is_pair(band, band + 2);
}

static nsvq_status choose_groups(const survey *s, differences *sum, nsvq_error *err)
{
    const nsvq_raster *r = s->r;
    nsvq_status st = NSVQ_OK;

    for (uint32_t y = 0; y < r->height && st == NSVQ_OK; y += r->height / GROUP_ROWS + 1) {
        st = go_on(s, err);
        for (uint32_t b = 0; b < r->n_bands && st == NSVQ_OK; b++) {
            if (!may_be_three(s, b)) continue;
            st = load(s, b, 3, y, 1, err);
            if (st == NSVQ_OK) add_differences(s, &s->bands[b], &sum[b]);
        }
    }
    for (uint32_t b = 0; b < r->n_bands && st == NSVQ_OK; b++)
        if (may_be_three(s, b)) s->bands[b].alone |= sum[b].common < COMMON * sum[b].all;
    return st;
}

static nsvq_status measure(survey *s, found *f, differences *sum, nsvq_error *err)
{
    nsvq_status st = NSVQ_OK;
    size_t n = 0;

    for (uint32_t b = 0; b < s->r->n_bands && st == NSVQ_OK; b++) {
        if (needs_range(&s->bands[b]) && !s->bands[b].has_range) {
            f[n] = (found){.band = b, .least = INFINITY, .most = -INFINITY, .picked = f[n].picked};
            n++;
        }
        if (n < BATCH && b + 1 < s->r->n_bands) continue;
        st = find_ranges(s, f, n, err);
        n = 0;
    }
    return st == NSVQ_OK ? choose_groups(s, sum, err) : st;
}

nsvq_status measure_ranges(const nsvq_raster *r, nsvq_band *bands, nsvq_error *err)
{
    survey s = {.r = r, .bands = bands};
    found f[BATCH];
    size_t n = 0, rows = (size_t)r->width * ROWS;

    for (uint32_t b = 0; b < r->n_bands; b++) n += needs_range(&bands[b]) && !bands[b].has_range;
    if (!n) return NSVQ_OK;
    n = n < BATCH ? n : BATCH;
    float *picked = malloc(n * CAP * sizeof *picked);
    differences *sum = calloc(r->n_bands, sizeof *sum);
    s.px = malloc(5 * rows);
    nsvq_status st = NSVQ_E_NOMEM;
    if (picked && sum && s.px) {
        s.valid = s.px + 4 * rows;
        for (size_t i = 0; i < n; i++) f[i].picked = picked + i * CAP;
        st = measure(&s, f, sum, err);
    } else {
        fail(err, st, NO_OFFSET, "no memory");
    }
    free(picked);
    free(sum);
    free(s.px);
    return st;
}
