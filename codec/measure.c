/* measure.c - what of a band's samples the networks' levels stand for, found by a pass over the raster:
 * all that is usual, with room around it. A fill value that nobody declared, and a few hot pixels, stay
 * outside, so that they do not take the levels from the rest; they are coded exactly. Then which bands go
 * together, from some rows.
 * May include: codec.h. */
#include "codec.h"

#include <math.h>

enum { ROWS = 64, N_PICKED = 16384 /* about */, FEW = 1024 /* one of so many may lie far off */ };
enum { GROUP_ROWS = 512 /* about, to choose groups by */ };

/* Three bands are like a picture's when so much of their differences from pixel to pixel is common to them.
 * Below it a group of three does worse than each alone (0.34 to 0.5: by 1 dB at QUALITY=30, 4 at 90), from
 * 0.6 on better, but for the highest qualities. */
#define COMMON 0.55

typedef struct survey {
    const nsvq_raster *r;
    uint32_t band;
    double least, most;
    double *picked; /* [2 * N_PICKED] */
    size_t n;
    uint8_t *px, *valid; /* ROWS rows */
} survey;

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static nsvq_status survey_rows(survey *s, uint32_t y, uint32_t h, nsvq_error *err)
{
    const nsvq_raster *r = s->r;
    const nsvq_band *band = &r->bands[s->band];
    size_t bytes = nsvq_type_bytes(type_of(band)), n = (size_t)r->width * h;
    double all = (double)r->width * r->height, share = fmin(1, N_PICKED / all) * 0x1p32;
    nsvq_pull p = {.y = y, .w = r->width, .h = h, .first = s->band, .n = 1, .pixels = s->px,
                   .pixel_stride = (ptrdiff_t)bytes, .row_stride = (ptrdiff_t)(r->width * bytes)};
    nsvq_pull mask = {.y = y, .w = r->width, .h = h, .first = r->has_mask == 2 ? s->band : 0, .n = 1,
                      .pixels = s->valid, .pixel_stride = 1, .row_stride = r->width};

    if (r->read(r->user, &p) || (r->has_mask && r->read_mask(r->user, &mask)))
        return fail(err, NSVQ_E_IO, NO_OFFSET, "cannot get rows %u to %u of the raster", y, y + h - 1);
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = range_load(type_of(band), s->px + i * bytes);
        double v = range_value(type_of(band), bits);
        if (!isfinite(v) || (r->has_mask && !s->valid[i]) ||
            (band->has_nodata && range_is_nodata(type_of(band), bits, (uint32_t)band->nodata)))
            continue;
        s->least = fmin(s->least, v);
        s->most = fmax(s->most, v);
        uint64_t hash = ((uint64_t)y * r->width + i) * UINT64_C(0x9e3779b97f4a7c15) >> 32;
        if ((double)hash < share && s->n < 2 * N_PICKED) s->picked[s->n++] = v;
    }
    return NSVQ_OK;
}

/* Takes away the value at an end of the sorted ones when it is farther off than all others lie apart. */
static void drop_fill(const double **v, size_t *n)
{
    size_t low = 1, high = 1;

    while (low < *n && (*v)[low] == (*v)[0]) low++;
    if (low < *n && low > 1 && (*v)[low] - (*v)[0] > (*v)[*n - 1] - (*v)[low]) {
        *v += low;
        *n -= low;
    }
    while (high < *n && (*v)[*n - 1 - high] == (*v)[*n - 1]) high++;
    if (high < *n && high > 1 && (*v)[*n - 1] - (*v)[*n - 1 - high] > (*v)[*n - 1 - high] - (*v)[0]) *n -= high;
}

static uint32_t bits_of(nsvq_type type, double v)
{
    float f = (float)v;
    uint32_t bits;

    if (type != NSVQ_TYPE_F32) return (uint16_t)(int32_t)v;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static void choose_range(const survey *s, nsvq_band *band)
{
    const double *v = s->picked;
    nsvq_type type = type_of(band);
    size_t n = s->n;

    band->has_range = 1;
    if (s->least > s->most) return; // nothing is valid
    double low = s->least, high = s->most;
    if (n > 1) {
        qsort(s->picked, n, sizeof *v, by_value);
        drop_fill(&v, &n);
        size_t few = n > 2 ? n / FEW + 1 : 0;
        double room = (v[n - 1] - v[0]) / 16, usual = v[n - 1 - few] - v[few];
        low = fmax(low, v[0] - room);
        high = fmin(high, v[n - 1] + room);
        if (usual > 0) {
            low = fmax(low, v[few] - usual / 4);
            high = fmin(high, v[n - 1 - few] + usual / 4);
        }
    }
    band->low = bits_of(type, type == NSVQ_TYPE_F32 ? low : floor(low));
    band->high = bits_of(type, type == NSVQ_TYPE_F32 ? high : ceil(high));
}

static nsvq_status survey_band(survey *s, nsvq_band *band, nsvq_error *err)
{
    const nsvq_raster *r = s->r;
    nsvq_status st = NSVQ_OK;

    s->least = INFINITY;
    s->most = -INFINITY;
    s->n = 0;
    for (uint32_t y = 0; y < r->height && st == NSVQ_OK; y += ROWS) {
        if (r->progress && !r->progress(r->user, 0)) return fail(err, NSVQ_E_CANCELLED, NO_OFFSET, "cancelled");
        st = survey_rows(s, y, r->height - y < ROWS ? r->height - y : ROWS, err);
    }
    if (st == NSVQ_OK) choose_range(s, band);
    return st;
}

/* Adds up squared differences along a row of three bands: all, and of their mean. */
static void add_differences(const survey *s, double *all, double *common)
{
    const nsvq_band *band = &s->r->bands[s->band];
    nsvq_type type = type_of(band);
    size_t bytes = nsvq_type_bytes(type);
    double before[3] = {0}, now[3];
    bool had = false, has;

    for (size_t x = 0; x < s->r->width; x++, had = has) {
        double sum = 0;
        has = true;
        for (size_t c = 0; c < 3; c++) {
            range r = {band[c].low, band[c].high};
            uint32_t bits = range_load(type, s->px + (3 * x + c) * bytes);
            has &= range_holds(type, r, bits) &&
                   !(band->has_nodata && range_is_nodata(type, bits, (uint32_t)band->nodata));
            now[c] = has && r.low != r.high ? (range_value(type, bits) - range_value(type, r.low)) /
                                                  (range_value(type, r.high) - range_value(type, r.low)) : 0;
        }
        for (int c = 0; c < 3; c++) {
            double d = had && has ? now[c] - before[c] : 0;
            *all += d * d;
            sum += d;
            before[c] = now[c];
        }
        *common += sum * sum / 3;
    }
}

/* Do the three bands from s->band on belong together? */
static nsvq_status find_picture(const survey *s, bool *found, nsvq_error *err)
{
    const nsvq_raster *r = s->r;
    ptrdiff_t bytes = (ptrdiff_t)nsvq_type_bytes(type_of(&r->bands[s->band]));
    double all = 0, common = 0;

    for (uint32_t y = 0; y < r->height; y += r->height / GROUP_ROWS + 1) {
        nsvq_pull p = {.y = y, .w = r->width, .h = 1, .first = s->band, .n = 3, .pixels = s->px,
                       .pixel_stride = 3 * bytes, .row_stride = 3 * bytes * r->width, .band_stride = bytes};
        if (r->progress && !r->progress(r->user, 0)) return fail(err, NSVQ_E_CANCELLED, NO_OFFSET, "cancelled");
        if (r->read(r->user, &p)) return fail(err, NSVQ_E_IO, NO_OFFSET, "cannot get row %u of the raster", y);
        add_differences(s, &all, &common);
    }
    *found = common >= COMMON * all;
    return NSVQ_OK;
}

static nsvq_status choose_groups(survey *s, nsvq_band *bands, nsvq_error *err)
{
    nsvq_status st = NSVQ_OK;
    uint32_t n;

    for (s->band = 0; s->band < s->r->n_bands && st == NSVQ_OK; s->band += n) {
        nsvq_band *band = &bands[s->band];
        bool found = true;
        for (n = 1; n < 3 && s->band + n < s->r->n_bands && is_pair(band, band + n);) n++;
        if (n == 3 && !is_exact(band) && type_of(band) != NSVQ_TYPE_U8) {
            st = find_picture(s, &found, err);
            band->alone |= !found;
        }
        if (!found) n = 1;
    }
    return st;
}

nsvq_status measure_ranges(const nsvq_raster *r, nsvq_band *bands, nsvq_error *err)
{
    survey s = {.r = r};
    nsvq_status st = NSVQ_OK;

    for (s.band = 0; s.band < r->n_bands && st == NSVQ_OK; s.band++) {
        nsvq_band *band = &bands[s.band];
        if (is_exact(band) || type_of(band) == NSVQ_TYPE_U8 || band->has_range) continue;
        if (!s.px) {
            s.picked = malloc(2 * N_PICKED * sizeof *s.picked);
            s.px = malloc((size_t)r->width * ROWS * 5);
            if (!s.px || !s.picked) {
                st = fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
                break;
            }
            s.valid = s.px + (size_t)r->width * ROWS * 4;
        }
        st = survey_band(&s, band, err);
    }
    if (st == NSVQ_OK && s.px) st = choose_groups(&s, bands, err);
    free(s.picked);
    free(s.px);
    return st;
}
