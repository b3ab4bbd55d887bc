/* reduce.c - see reduce.h. Integers round to the nearest, halves up; floats are summed as doubles, in
 * order, so that every machine has the same overviews. */
#include "reduce.h"

#include <math.h>
#include <string.h>

typedef struct cell4 {
    const uint8_t *p[4]; /* samples of a 2 x 2 */
    bool valid[4];
    int n;               /* 1, 2 or 4 */
} cell4;

static uint64_t bits_of(const uint8_t *p, size_t bytes)
{
    uint64_t v = 0;

    memcpy(&v, p, bytes);
    return v;
}

static double float_of(const uint8_t *p, nsvq_type type)
{
    float f;
    double d;

    if (type == NSVQ_TYPE_F64) {
        memcpy(&d, p, sizeof d);
        return d;
    }
    memcpy(&f, p, sizeof f);
    return (double)f;
}

static bool is_float(nsvq_type type)
{
    return type == NSVQ_TYPE_F32 || type == NSVQ_TYPE_F64;
}

static bool is_nan(const uint8_t *p, const reduce_band *r)
{
    size_t bytes = nsvq_type_bytes(r->type);

    if (!is_float(r->type)) return false;
    return isnan(float_of(p, r->type)) || (r->complex && isnan(float_of(p + bytes, r->type)));
}

/* ---- averages: of the n samples in p ---- */

#define AVERAGE_OF(T, name, sum_type, floor_half)                                                  \
    static void name(uint8_t *out, const uint8_t *const *p, int n)                                 \
    {                                                                                              \
        sum_type sum = 0;                                                                          \
        T v;                                                                                       \
        for (int i = 0; i < n; i++) {                                                              \
            memcpy(&v, p[i], sizeof v);                                                            \
            sum += (sum_type)v;                                                                    \
        }                                                                                          \
        v = (T)(floor_half);                                                                       \
        memcpy(out, &v, sizeof v);                                                                 \
    }
/* Rounds down, of a positive divisor. */
static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}
AVERAGE_OF(uint8_t, average_u8, uint64_t, (sum + (uint64_t)n / 2) / (uint64_t)n)
AVERAGE_OF(uint16_t, average_u16, uint64_t, (sum + (uint64_t)n / 2) / (uint64_t)n)
AVERAGE_OF(uint32_t, average_u32, uint64_t, (sum + (uint64_t)n / 2) / (uint64_t)n)
AVERAGE_OF(int8_t, average_s8, int64_t, floor_div(2 * sum + n, 2 * n))
AVERAGE_OF(int16_t, average_s16, int64_t, floor_div(2 * sum + n, 2 * n))
AVERAGE_OF(int32_t, average_s32, int64_t, floor_div(2 * sum + n, 2 * n))
#undef AVERAGE_OF

/* Of 64 bits the sum could pass the type, so quotients and remainders are summed apart. */
static void average_u64(uint8_t *out, const uint8_t *const *p, int n)
{
    uint64_t q = 0, r = 0, v, by = (uint64_t)n;

    for (int i = 0; i < n; i++) {
        v = bits_of(p[i], sizeof v);
        q += v / by;
        r += v % by;
    }
    v = q + (r + by / 2) / by;
    memcpy(out, &v, sizeof v);
}

static void average_s64(uint8_t *out, const uint8_t *const *p, int n)
{
    int64_t q = 0, r = 0, v;

    for (int i = 0; i < n; i++) {
        memcpy(&v, p[i], sizeof v);
        int64_t d = floor_div(v, n);
        q += d;
        r += v - d * n;
    }
    v = q + (r + n / 2) / n;
    memcpy(out, &v, sizeof v);
}

static void average_float(uint8_t *out, const uint8_t *const *p, int n, nsvq_type type)
{
    double sum = 0;

    for (int i = 0; i < n; i++) sum += float_of(p[i], type);
    sum /= n;
    if (!isfinite(sum)) { // perhaps the sum alone was too large
        sum = 0;
        for (int i = 0; i < n; i++) sum += float_of(p[i], type) / n;
    }
    float f = (float)sum;
    if (type == NSVQ_TYPE_F64)
        memcpy(out, &sum, sizeof sum);
    else
        memcpy(out, &f, sizeof f);
}

static void average(uint8_t *out, const uint8_t *const *p, int n, nsvq_type type)
{
    switch (type) {
    case NSVQ_TYPE_U8:
        average_u8(out, p, n);
        break;
    case NSVQ_TYPE_S8:
        average_s8(out, p, n);
        break;
    case NSVQ_TYPE_U16:
        average_u16(out, p, n);
        break;
    case NSVQ_TYPE_S16:
        average_s16(out, p, n);
        break;
    case NSVQ_TYPE_U32:
        average_u32(out, p, n);
        break;
    case NSVQ_TYPE_S32:
        average_s32(out, p, n);
        break;
    case NSVQ_TYPE_U64:
        average_u64(out, p, n);
        break;
    case NSVQ_TYPE_S64:
        average_s64(out, p, n);
        break;
    case NSVQ_TYPE_F32:
    case NSVQ_TYPE_F64:
        average_float(out, p, n, type);
        break;
    case NSVQ_TYPE_COMPLEX:
    case NSVQ_TYPE_CS16:
    case NSVQ_TYPE_CS32:
    case NSVQ_TYPE_CF32:
    case NSVQ_TYPE_CF64:
        break; // r->type is that of a part
    }
}

/* ---- one sample ---- */

static const uint8_t *most_frequent(const uint8_t *const *p, int n, size_t bytes)
{
    int best = 0, best_count = 0;

    for (int i = 0; i < n; i++) {
        int count = 0;
        for (int k = 0; k < n; k++) count += !memcmp(p[i], p[k], bytes);
        if (count <= best_count) continue;
        best = i;
        best_count = count;
    }
    return p[best];
}

static void combine(uint8_t *out, const reduce_band *r, const uint8_t *const *p, int n)
{
    size_t part = nsvq_type_bytes(r->type), bytes = part << r->complex;
    const uint8_t *second[4];

    if (r->how != NSVQ_AVERAGE) {
        memcpy(out, r->how == NSVQ_NEAREST ? p[0] : most_frequent(p, n, bytes), bytes);
        return;
    }
    average(out, p, n, r->type);
    for (int i = 0; r->complex && i < n; i++) second[i] = p[i] + part;
    if (r->complex) average(out + part, second, n, r->type);
    if (r->has_nodata && bits_of(out, part) == r->nodata) memcpy(out, p[0], bytes); // valid stays so
}

static void reduce_cell(uint8_t *out, const reduce_band *r, const cell4 *c)
{
    size_t part = nsvq_type_bytes(r->type), bytes = part << r->complex;
    const uint8_t *valid[4], *real[4];
    int n_valid = 0, n_real = 0;

    for (int i = 0; i < c->n; i++) {
        const uint8_t *p = c->p[i];
        if (is_nan(p, r)) continue;
        real[n_real++] = p;
        bool is_nodata = r->has_nodata && bits_of(p, part) == r->nodata;
        if (c->valid[i] && !is_nodata) valid[n_valid++] = p;
    }
    if (n_valid)
        combine(out, r, valid, n_valid);
    else if (r->has_nodata)
        memcpy(out, &r->nodata, part); // the low bytes come first
    else if (n_real)
        combine(out, r, real, n_real);
    else
        memcpy(out, c->p[0], bytes);
}

/* ---- rows ---- */

static void reduce_plain_u8(uint8_t *out, const uint8_t *a, const uint8_t *b, ptrdiff_t step, uint32_t n)
{
    for (uint32_t x = 0; x < n; x++, a += 2 * step, b += 2 * step)
        out[x] = (uint8_t)((a[0] + a[step] + b[0] + b[step] + 2) >> 2);
}

void reduce_row(uint8_t *out, const reduce_band *r, const uint8_t *a, const uint8_t *b, ptrdiff_t step,
                uint32_t width, const uint8_t *valid_a, const uint8_t *valid_b)
{
    size_t bytes = nsvq_type_bytes(r->type) << r->complex;
    uint32_t x = 0;

    if (r->type == NSVQ_TYPE_U8 && r->how == NSVQ_AVERAGE && !r->has_nodata && !valid_a && a != b) {
        reduce_plain_u8(out, a, b, step, width / 2);
        x = width / 2;
    }
    for (; x < (width + 1) / 2; x++) {
        cell4 c = {.n = 0};
        for (int i = 0; i < 4; i++) {
            uint32_t at = 2 * x + (i & 1);
            if (at == width || (i > 1 && a == b)) continue;
            const uint8_t *valid = i > 1 ? valid_b : valid_a;
            c.p[c.n] = (i > 1 ? b : a) + (ptrdiff_t)at * step;
            c.valid[c.n++] = !valid || valid[at];
        }
        reduce_cell(out + x * bytes, r, &c);
    }
}

void reduce_mask(uint8_t *out, const uint8_t *a, const uint8_t *b, uint32_t width)
{
    for (uint32_t x = 0; x < width; x += 2) {
        unsigned any = a[x] | b[x];
        if (x + 1 < width) any |= a[x + 1] | b[x + 1];
        out[x / 2] = any ? 255 : 0;
    }
}
