/* lossless_band.c - see lossless_band.h. */
#include "lossless_band.h"

/* ---- memory ---- */

static size_t plane_samples(const bands *b)
{
    return (size_t)b->stride * (b->h + MARGIN + 1);
}

void bands_place(bands *b, uint32_t n_bands, uint32_t w, uint32_t h, carver *c)
{
    b->n_ring = n_bands < 2 ? 2 : n_bands < N_RING ? n_bands : N_RING;
    b->w = w;
    b->h = h;
    b->stride = (ptrdiff_t)w + 2 * MARGIN;
    b->cells_x = (w + CELL - 1) / CELL;
    b->cells_y = (h + CELL - 1) / CELL;
    size_t n = plane_samples(b), origin = MARGIN * (size_t)b->stride + MARGIN;
    b->wide_sums = carve(c, w * sizeof *b->wide_sums);
    b->sums = carve(c, w * sizeof *b->sums);
    b->scale = carve(c, w * sizeof *b->scale);
    for (uint32_t i = 0; i < b->n_ring; i++) {
        int32_t *plane = carve(c, n * sizeof *plane);
        b->sample[i] = plane ? plane + origin : NULL;
    }
    for (int i = 0; i < N_MAGNITUDES; i++) {
        uint16_t *plane = carve(c, n * sizeof *plane);
        b->magnitude[i] = plane ? plane + origin : NULL;
    }
    b->cell = carve(c, (size_t)b->cells_x * b->cells_y);
}

void bands_next(bands *b)
{
    int32_t *s = b->sample[b->n_ring - 1];
    uint16_t *m = b->magnitude[N_MAGNITUDES - 1];

    memmove(b->sample + 1, b->sample, (b->n_ring - 1) * sizeof *b->sample);
    memmove(b->magnitude + 1, b->magnitude, (N_MAGNITUDES - 1) * sizeof *b->magnitude);
    memmove(b->most + 1, b->most, (b->n_ring - 1) * sizeof *b->most);
    b->sample[0] = s;
    b->magnitude[0] = m;
    b->band++;
}

void bands_range(bands *b, int32_t low, int32_t high)
{
    b->low = low;
    b->high = high;
    b->most[0] = high > -(int64_t)low ? high : -low;
}

/* ---- taps ---- */

enum { MAX_HERE = 12, MAX_BEFORE = 9, MAX_FAR = N_RING - 4 };

bool fit_taps(fit *f, uint32_t band)
{
    static const int8_t here[MAX_HERE][2] = {{-1, 0}, {0, -1},  {-1, -1}, {1, -1},
                                             {-2, 0}, {0, -2},  {1, -2},  {-2, -1},
                                             {2, -1}, {-1, -2}, {2, -2},  {-2, -2}};
    static const int8_t before[MAX_BEFORE][2] = {{0, 0},   {-1, 0}, {0, -1}, {1, 0}, {0, 1},
                                                 {-1, -1}, {1, -1}, {-1, 1}, {1, 1}};
    int n = 0;

    if (f->count[0] > MAX_HERE) return false;
    for (int i = 0; i < f->count[0]; i++) f->taps[n++] = (tap){0, here[i][0], here[i][1]};
    for (uint8_t g = 1; g < N_GROUPS - 1; g++) {
        if (f->count[g] > (g <= band ? MAX_BEFORE : 0)) return false;
        for (int i = 0; i < f->count[g]; i++) f->taps[n++] = (tap){g, before[i][0], before[i][1]};
    }
    if (f->count[4] > MAX_FAR || (f->count[4] && f->count[4] + 3u > band)) return false;
    for (uint8_t i = 0; i < f->count[4]; i++) f->taps[n++] = (tap){(uint8_t)(4 + i), 0, 0};
    if (n > MAX_TAPS) return false;
    f->n_taps = (uint8_t)n;
    return true;
}

/* ---- prediction ---- */

/* Before a row is known its left margin holds the sample above its first. */
static void open_row(const bands *b, int32_t *row, uint16_t *magnitude)
{
    for (int i = 1; i <= MARGIN; i++) {
        row[-i] = row[-b->stride];
        magnitude[-i] = magnitude[-b->stride];
    }
}

static void close_magnitudes(const bands *b, uint16_t *row, uint32_t y)
{
    for (uint32_t i = 0; i < MARGIN; i++) {
        row[b->w + i] = row[b->w - 1];
        row[(ptrdiff_t)i - MARGIN] = row[0];
    }
    if (y + 1 == b->h)
        memcpy(row - MARGIN + b->stride, row - MARGIN, (size_t)b->stride * sizeof *row);
}

static bool is_serial(const tap *t)
{
    return !t->back && !t->dy;
}

typedef uint32_t eight __attribute__((vector_size(32)));
typedef eight eight_at __attribute__((aligned(4), may_alias));

/* What the samples of other rows and bands, and of this row if `serial`, add up to for each sample of row y, before
 * they are divided. */
CLONES static void predict_row(const bands *b, bool serial, uint32_t y)
{
    const fit *f = &b->f;
    const uint8_t *sets = b->cell + (size_t)(y / CELL) * b->cells_x;
    const int32_t *from[MAX_TAPS];
    int tap_of[MAX_TAPS], n = 0;

    for (int t = 0; t < f->n_taps; t++) {
        const tap *p = &f->taps[t];
        if (!serial && is_serial(p)) continue;
        tap_of[n] = t;
        from[n++] = b->sample[p->back] + ((ptrdiff_t)y + p->dy) * b->stride + p->dx;
    }
    for (uint32_t x0 = 0; x0 < b->w; x0 += CELL) {
        uint32_t set = sets[x0 / CELL], bias = (uint32_t)f->bias[set] + (1 << (COEF_BITS - 1));
        if (x0 + CELL <= b->w) {
            eight left = {0}, right = {0};
            left += bias;
            right += bias;
            for (int i = 0; i < n; i++) {
                const eight_at *s = (const eight_at *)(from[i] + x0);
                uint32_t c = (uint32_t)f->coef[set][tap_of[i]];
                left += s[0] * c;
                right += s[1] * c;
            }
            ((eight_at *)(b->sums + x0))[0] = left;
            ((eight_at *)(b->sums + x0))[1] = right;
            continue;
        }
        for (uint32_t x = x0; x < b->w; x++) {
            uint32_t sum = bias;
            for (int i = 0; i < n; i++)
                sum += (uint32_t)f->coef[set][tap_of[i]] * (uint32_t)from[i][x];
            b->sums[x] = (int32_t)sum;
        }
    }
}

CLONES static void predict_row_wide(const bands *b, bool serial, uint32_t y)
{
    const fit *f = &b->f;
    const uint8_t *sets = b->cell + (size_t)(y / CELL) * b->cells_x;

    for (uint32_t x0 = 0; x0 < b->w; x0 += CELL) {
        uint32_t set = sets[x0 / CELL], n = b->w - x0 < CELL ? b->w - x0 : CELL;
        int64_t *restrict sums = b->wide_sums + x0;
        for (uint32_t x = 0; x < n; x++) sums[x] = f->bias[set] + (1 << (COEF_BITS - 1));
        for (int t = 0; t < f->n_taps; t++) {
            const tap *p = &f->taps[t];
            if (!serial && is_serial(p)) continue;
            const int32_t *s = b->sample[p->back] + ((ptrdiff_t)y + p->dy) * b->stride + p->dx + x0;
            int64_t c = f->coef[set][t];
            for (uint32_t x = 0; x < n; x++) sums[x] += c * s[x];
        }
    }
}

void bands_predict_row(const bands *b, bool wide, uint32_t y)
{
    (wide ? predict_row_wide : predict_row)(b, true, y);
}

/* Can sums leave 32 bits, or magnitudes 16? */
bool bands_need_wide(const bands *b)
{
    int64_t most = 0;

    if (((int64_t)b->high - b->low) >> b->f.shift > UINT16_MAX) return true;
    for (uint32_t i = 0; i < b->n_ring; i++) most = b->most[i] > most ? b->most[i] : most;
    for (uint32_t s = 0; s < b->f.n_sets; s++) {
        int64_t sum = 0;
        for (int t = 0; t < b->f.n_taps; t++)
            sum += b->f.coef[s][t] < 0 ? -b->f.coef[s][t] : b->f.coef[s][t];
        int32_t bias = b->f.bias[s] < 0 ? -b->f.bias[s] : b->f.bias[s];
        if (sum * most + bias >= INT32_MAX - (1 << COEF_BITS)) return true;
    }
    return false;
}

/* ---- scale ---- */

/* Estimated magnitude of the residuals in 1 / 64, without what this row adds. */
CLONES static void scale_row(const bands *b, uint32_t y)
{
    const uint32_t *k = b->f.scale;
    const uint16_t *up = b->magnitude[0] + ((ptrdiff_t)y - 1) * b->stride, *up2 = up - b->stride;
    const uint16_t *p = b->magnitude[1] + (ptrdiff_t)y * b->stride, *below = p + b->stride;
    const uint16_t *above = p - b->stride, *q = b->magnitude[2] + (ptrdiff_t)y * b->stride;
    uint32_t *restrict out = b->scale;
    uint32_t k0 = k[0], k2 = k[2], k3 = k[3], k4 = k[4], k6 = k[6], k7 = k[7], k8 = k[8], k9 = k[9];
    uint32_t ka = k[10], kb = k[11], kc = k[12];
    const uint16_t *q0 = q - b->stride, *q1 = q + b->stride;
    ptrdiff_t w = b->w;

    for (ptrdiff_t x = 0; x < w; x++)
        out[x] = k0 + k2 * up[x] + k3 * up[x + 1] + k4 * up[x - 1] + k6 * up2[x] + k7 * p[x] +
                 (k8 * ((uint32_t)p[x - 1] + p[x + 1] + above[x] + below[x]) >> 2) + k9 * q[x] +
                 (ka * ((uint32_t)up[x - 2] + up[x + 2]) >> 1) +
                 (kb * ((uint32_t)up2[x - 1] + up2[x + 1]) >> 1) +
                 (kc * ((uint32_t)q[x - 1] + q[x + 1] + q0[x] + q1[x]) >> 2);
}

static inline unsigned class_of(uint32_t scale)
{
    scale = scale < (1u << 27) - 4 ? scale + 4 : 1u << 27;
    unsigned octave = 31 - (unsigned)__builtin_clz(scale);

    return 4 * octave + (scale >> (octave - 2) & 3) - 8;
}

/* ---- masks and repeats ---- */

enum { BIT_MASK, BIT_LEFT = 512, BIT_ABOVE = BIT_LEFT + 256 }; /* contexts of bits */

void mask_code(coder *c, uint8_t *mask, const uint8_t *before, uint32_t w, uint32_t h)
{
    static const uint8_t none[512 + 8];

    for (uint32_t y = 0; y < h && !c->bad; y++, mask += w, before += before ? w : 0) {
        const uint8_t *up = y ? mask - w : none, *up2 = y > 1 ? up - w : up,
                      *b = before ? before : none;
        const uint8_t *below = before && y + 1 < h ? before + w : b;
        unsigned left = up[0], left2 = up[0];
        for (uint32_t x = 0; x < w; x++) {
            unsigned next = x + 1 < w ? x + 1 : x, last = x ? x - 1 : x;
            unsigned context = left | left2 << 1 | (unsigned)up[x] << 2 | (unsigned)up[last] << 3 |
                               (unsigned)up[next] << 4 | (unsigned)up2[x] << 5 |
                               (unsigned)b[x] << 6 | (unsigned)b[next] << 7 |
                               (unsigned)below[x] << 8;
            mask[x] = code_bit(c, &c->r, BIT_MASK + context, mask[x]);
            left2 = left;
            left = mask[x];
        }
        check_read(c);
    }
}

/* Is row[x] the sample to its left or above? Sets it when read. *from: 1 or 2, where it came from.
 */
static inline __attribute__((always_inline)) bool
code_repeat(bands *b, reader *r, int32_t *row, const int32_t *before, ptrdiff_t x, int *from)
{
    const int32_t *up = row - b->stride, *up_before = before - b->stride;
    int32_t w = row[x - 1], n = up[x], v = row[x];
    unsigned context = (unsigned)(w == up[x - 1]) | (unsigned)(n == up[x - 1]) << 1 |
                       (unsigned)(n == up[x + 1]) << 2 | (unsigned)(w == row[x - 2]) << 3 |
                       (unsigned)(before[x] == before[x - 1]) << 4 |
                       (unsigned)(before[x] == up_before[x]) << 5 |
                       (unsigned)(n == *(up - b->stride + x)) << 6;

    *from = 1;
    if (code_bit(&b->c, r, BIT_LEFT + context + (w == n ? 128 : 0), v == w)) {
        row[x] = w;
        return true;
    }
    *from = 2;
    if (w == n || !code_bit(&b->c, r, BIT_ABOVE + context, v == n)) return false;
    row[x] = n;
    return true;
}

/* ---- samples ---- */

static inline __attribute__((always_inline)) void
code_row(bands *b, uint32_t y, bool writing, bool wide, const uint8_t *mask, bool repeats)
{
    coder *c = &b->c;
    int32_t *row = b->sample[0] + (ptrdiff_t)y * b->stride;
    const int32_t *before = b->sample[1] + (ptrdiff_t)y * b->stride;
    uint16_t *magnitude = b->magnitude[0] + (ptrdiff_t)y * b->stride;
    const uint8_t *sets = b->cell + (size_t)(y / CELL) * b->cells_x;
    uint32_t k1 = b->f.scale[1], k5 = b->f.scale[5], m1, m2;
    int32_t low = b->low, high = b->high, s1, s2;
    unsigned shift = b->f.shift;
    reader r = c->r;
    int i1 = b->f.count[0] > 0 ? 0 : -1, i2 = b->f.count[0] > 4 ? 4 : -1;

    open_row(b, row, magnitude);
    s1 = row[-1];
    s2 = row[-2];
    m1 = magnitude[-1];
    m2 = magnitude[-2];
    for (uint32_t x0 = 0; x0 < b->w; x0 += CELL) {
        const int32_t *coef = b->f.coef[sets[x0 / CELL]];
        int32_t c1 = i1 < 0 ? 0 : coef[i1], c2 = i2 < 0 ? 0 : coef[i2];
        uint32_t x1 = x0 + CELL < b->w ? x0 + CELL : b->w;
        for (uint32_t x = x0; x < x1; x++) {
            int64_t sum = wide ? b->wide_sums[x] + (int64_t)c1 * s1 + (int64_t)c2 * s2
                               : (int32_t)((uint32_t)b->sums[x] + (uint32_t)c1 * (uint32_t)s1 +
                                           (uint32_t)c2 * (uint32_t)s2);
            int32_t p = clamp(sum >> COEF_BITS, low, high);
            uint32_t turn = (uint32_t)(sum >> (COEF_BITS - 1) & 1) - 1; // all bits: the sign turns
            unsigned class = class_of(b->scale[x] + k1 * m1 + k5 * m2);
            unsigned k = b->cut[class];
            model *m = &c->residual[class];
            s2 = s1;
            m2 = m1;
            if (mask && mask[x]) {
                s1 = row[(ptrdiff_t)x - 1];
                m1 = 0;
                row[x] = s1;
                magnitude[x] = 0;
                continue;
            }
            int from;
            if (repeats && code_repeat(b, &r, row, before, x, &from)) {
                s1 = row[x];
                m1 = from == 1 ? m1 : magnitude[(ptrdiff_t)x - b->stride];
                magnitude[x] = (uint16_t)m1;
                continue;
            }
            uint32_t e;
            if (writing) {
                e = (uint32_t)row[x] - (uint32_t)p;
                put_value(c, m, k, (int32_t)((e ^ turn) - turn));
            } else {
                e = (uint32_t)get_value(&r, m, k);
                row[x] = (int32_t)((uint32_t)p + ((e ^ turn) - turn));
            }
            s1 = row[x];
            m1 = ((e ^ (0 - (e >> 31))) + (e >> 31)) >> shift;
            if (wide) m1 = m1 < 65535 ? m1 : 65535;
            magnitude[x] = (uint16_t)m1;
        }
    }
    c->r = r;
    close_row(b, row, y);
    close_magnitudes(b, magnitude, y);
    check_read(c);
}

/* A damaged stream may give samples outside of the range. */
CLONES static bool row_in_range(const bands *b, uint32_t y)
{
    const int32_t *row = b->sample[0] + (ptrdiff_t)y * b->stride;
    int32_t low = b->low, high = b->high, least = low, most = high;
    uint32_t w = b->w;

    for (uint32_t x = 0; x < w; x++) {
        least = row[x] < least ? row[x] : least;
        most = row[x] > most ? row[x] : most;
    }
    return least == low && most == high;
}

CLONES static void code_samples(bands *b)
{
    bool wide = bands_need_wide(b), writing = b->c.writing;

    for (int i = 0; i < N_CLASSES; i++) {
        int k = i / 4 - 5 + b->f.shift;
        b->cut[i] = (uint8_t)(k < 0 ? 0 : k > 28 ? 28 : k);
    }
    for (uint32_t y = 0; y < b->h && !b->c.bad; y++) {
        const uint8_t *mask = b->mask ? b->mask + (size_t)y * b->w : NULL;
        if (b->sparse && y / CELL % 4) continue;
        (wide ? predict_row_wide : predict_row)(b, false, y);
        scale_row(b, y);
        if (writing)
            code_row(b, y, true, wide, mask, b->repeats);
        else if (wide || mask || b->repeats)
            code_row(b, y, false, wide, mask, b->repeats);
        else
            code_row(b, y, false, false, NULL, false);
        if (!writing && !row_in_range(b, y)) b->c.bad = true;
    }
}

/* ---- parameters ---- */

enum {                    /* contexts of numbers; 0 .. 15 belong to lossless.c */
       NUMBER_COUNT = 16, /* N_GROUPS */
       NUMBER_SETS = NUMBER_COUNT + N_GROUPS,
       NUMBER_REPEATS,
       NUMBER_CELL, /* 2 */
       NUMBER_SHIFT = NUMBER_CELL + 2,
       NUMBER_BIAS,
       NUMBER_SCALE,                         /* N_SCALES */
       NUMBER_COEF = NUMBER_SCALE + N_SCALES /* 12 here, 9 of each of three, far */
};

static void code_cells(bands *b)
{
    coder *c = &b->c;

    for (uint32_t y = 0; y < b->cells_y; y++)
        for (uint32_t x = 0; x < b->cells_x; x++) {
            uint8_t *at = b->cell + (size_t)y * b->cells_x + x;
            int32_t near = x ? at[-1] : y ? *(at - b->cells_x) : 0;
            int32_t above = y ? *(at - b->cells_x) : near;
            *at = (uint8_t)number(c, NUMBER_CELL + (above == near), 0, *at, 0, b->f.n_sets - 1);
        }
}

static void code_fit(bands *b)
{
    coder *c = &b->c;
    fit *f = &b->f;

    for (int g = 0; g < N_GROUPS; g++)
        f->count[g] = (uint8_t)number(c, NUMBER_COUNT + (unsigned)g, 0, f->count[g], 0, 16);
    b->repeats = number(c, NUMBER_REPEATS, 0, b->repeats, 0, 1);
    f->n_sets = (uint8_t)number(c, NUMBER_SETS, 0, f->n_sets, 1, MAX_SETS);
    f->shift = (uint8_t)number(c, NUMBER_SHIFT, 0, f->shift, 0, 24);
    if (c->bad || !fit_taps(f, b->band)) {
        c->bad = true;
        return;
    }
    for (int i = 0; i < N_SCALES; i++)
        f->scale[i] = (uint32_t)number(c, NUMBER_SCALE + (unsigned)i, i ? 2 : 4,
                                       (int32_t)f->scale[i], 0, i ? 255 : SCALE_MAX);
    for (uint32_t s = 0; s < f->n_sets; s++) {
        f->bias[s] = number(c, NUMBER_BIAS, COEF_BITS - 2, f->bias[s], -(1 << 28), 1 << 28);
        for (int t = 0, in_group = 0; t < f->n_taps; t++) {
            in_group = t && f->taps[t].back == f->taps[t - 1].back ? in_group + 1 : 0;
            unsigned back = f->taps[t].back;
            unsigned context = back == 0  ? (unsigned)in_group
                               : back < 4 ? 3 + 9 * back + (unsigned)in_group
                                          : 39;
            f->coef[s][t] =
                number(c, NUMBER_COEF + context, COEF_BITS - 5, f->coef[s][t], -32768, 32767);
        }
    }
    if (f->n_sets > 1)
        code_cells(b);
    else
        memset(b->cell, 0, (size_t)b->cells_x * b->cells_y);
}

void bands_code(bands *b)
{
    code_fit(b);
    if (!b->c.bad) code_samples(b);
}
