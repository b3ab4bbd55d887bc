/* lossless_fit.c - the encoder's choice of predictors and scales: least squares in double
 * precision, without fused or reordered operations, so that every processor finds the same
 * coefficients. */
#include "lossless_band.h"
#include "lossless_solve.h"

/* log2, good to 0.01, of a normal x > 0. */
static double log2_of(double x)
{
    uint64_t bits;
    double m;

    memcpy(&bits, &x, 8);
    int e = (int)(bits >> 52) - 1023;
    bits = (bits & ((UINT64_C(1) << 52) - 1)) | UINT64_C(1023) << 52;
    memcpy(&m, &bits, 8);
    m -= 1;
    return e + m * (1.3465 - m * 0.3465);
}

typedef struct fitting {
    bands *b;
    fit all;      /* every tap that may be chosen */
    double *rows; /* [n_taps + 2][padded width] */
    size_t pitch, n_values; /* n_values: weight and rows */
    double scale;    /* of samples, so that products stay exact */
    double *weight;  /* [pitch] of a row's squared errors */
    double *weights; /* [h][w], for the sets */
    double *cell_moments, *cell_rows;
    uint8_t *best_sets; /* [2 * cells] */
    int effort;
    moments g;
} fitting;

/* Unknown 0 is the constant, 1 + t tap t, the last one the sample itself. f->weight is the row's.
 */
CLONES static void add_row(fitting *f, moments *g, uint32_t y, uint32_t x0, uint32_t x1)
{
    const bands *b = f->b;
    int n = f->all.n_taps + 2;
    const double *x[MAX_UNKNOWNS + 1];
    int width = (int)((x1 - x0 + LANES - 1) / LANES * LANES);

    for (int i = 0; i < n; i++) {
        double *restrict row = f->rows + (size_t)i * f->pitch;
        tap t = i && i + 1 < n ? f->all.taps[i - 1] : (tap){0};
        const int32_t *s = b->sample[t.back] + ((ptrdiff_t)y + t.dy) * b->stride + t.dx + x0;
        x[i] = row;
        if (i == 0)
            for (uint32_t k = 0; k < x1 - x0; k++) row[k] = 1;
        else
            for (uint32_t k = 0; k < x1 - x0; k++) row[k] = s[k] * f->scale;
    }
    for (int i = 0; i < LANES; i++)
        f->weight[x1 + (uint32_t)i] = 0; // what lies behind does not count
    moments_add(g, x, f->weight + x0, n, width);
}

/* Every how manyth row is looked at, so that about n samples count. Odd, for pictures that repeat
 * each row. */
static uint32_t rows_step(const bands *b, uint32_t n)
{
    size_t samples = (size_t)b->w * b->h, count = b->skip ? 0 : samples;

    for (size_t i = 0; b->skip && i < samples; i++) count += !b->skip[i];
    uint32_t step = (uint32_t)(count / n);
    return step ? step | 1 : 1;
}

/* ---- choosing taps ---- */

/* Counts of taps tried, where the bands before are there. */
static const uint8_t trials[][N_GROUPS] = {
    {1, 0, 0, 0, 0},  {4, 0, 0, 0, 0},  {6, 0, 0, 0, 0}, {12, 0, 0, 0, 0}, {4, 3, 0, 0, 0},
    {6, 5, 0, 0, 0},  {10, 9, 0, 0, 0}, {4, 3, 3, 0, 0}, {6, 5, 3, 0, 0},  {6, 5, 3, 3, 0},
    {10, 9, 5, 3, 0}, {3, 3, 1, 1, 3},  {6, 5, 3, 3, 4}, {6, 5, 5, 3, 8},  {6, 5, 3, 3, 13},
};
static const uint8_t every[N_GROUPS] = {12, 9, 5, 3, 13};

static void clip_counts(uint8_t *out, const uint8_t *counts, uint32_t band)
{
    for (uint32_t g = 0; g < N_GROUPS; g++) out[g] = g > band ? 0 : counts[g];
    out[4] = band < 4 ? 0 : counts[4] < band - 3 ? counts[4] : (uint8_t)(band - 3);
}

/* Unknowns of the moments for what f->counts mean: the constant, bands before, this band. */
static int list_unknowns(int *list, const fitting *f, const fit *part)
{
    int n = 0;

    list[n++] = 0;
    for (int here = 0; here < 2; here++)
        for (int t = 0; t < part->n_taps; t++) {
            if ((part->taps[t].back == 0) != here) continue;
            for (int a = 0; a < f->all.n_taps; a++)
                if (!memcmp(&part->taps[t], &f->all.taps[a], sizeof(tap))) list[n++] = 1 + a;
        }
    return n;
}

/* Sets coefficients of set s of part. False: not with these taps. */
static bool set_coefs(const fitting *f, const moments *g, fit *part, int s, double *left)
{
    double r[MAX_UNKNOWNS][MAX_UNKNOWNS], c[MAX_UNKNOWNS], limit[MAX_UNKNOWNS];
    int list[MAX_UNKNOWNS], n = list_unknowns(list, f, part);
    int32_t out[MAX_UNKNOWNS];

    *left = solve(c, r, g, list, n, f->all.n_taps + 1);
    if (*left < 0) return false;
    for (int i = 0; i < n; i++) {
        c[i] *= 1 << COEF_BITS;
        limit[i] = 32767;
    }
    c[0] /= f->scale;
    for (int i = 1; i < n; i++) r[0][i] *= f->scale; // the constant is in samples
    limit[0] = 1 << 28;
    round_coefs(out, c, r, n, limit);
    part->bias[s] = out[0];
    for (int i = 1; i < n; i++)
        for (int t = 0; t < part->n_taps; t++)
            if (!memcmp(&part->taps[t], &f->all.taps[list[i] - 1], sizeof(tap)))
                part->coef[s][t] = out[i];
    return true;
}

static void choose_taps(fitting *f)
{
    bands *b = f->b;
    double best = 1e300, left, samples = f->g.m[0][0];
    fit part;

    memset(&b->f, 0, sizeof b->f);
    b->f.n_sets = 1;
    for (size_t i = 0; i < sizeof trials / sizeof *trials; i++) {
        memset(&part, 0, sizeof part);
        part.n_sets = 1;
        clip_counts(part.count, trials[i], b->band);
        if (!fit_taps(&part, b->band) || !set_coefs(f, &f->g, &part, 0, &left)) continue;
        left /= samples * f->scale * f->scale;
        double cost = (double)b->w * b->h * 0.5 * log2_of(left + 0.05) + 9 * part.n_taps;
        if (cost >= best) continue;
        best = cost;
        b->f = part;
    }
}

/* New coefficients for the taps chosen. */
static void refine(fitting *f)
{
    double left;
    fit again = f->b->f;

    if (set_coefs(f, &f->g, &again, 0, &left)) f->b->f = again;
}

/* ---- scales ---- */

/* Magnitudes around those of row y: of this band, of the one before and of the one before that. */
typedef struct surroundings {
    const uint16_t *m, *up, *up2, *p, *p0, *p1, *q, *q0, *q1;
} surroundings;

static surroundings surroundings_of(const bands *b, uint32_t y)
{
    const uint16_t *m = b->magnitude[0] + (ptrdiff_t)y * b->stride, *p = b->magnitude[1] + (ptrdiff_t)y * b->stride,
                   *q = b->magnitude[2] + (ptrdiff_t)y * b->stride;

    return (surroundings){m, m - b->stride, m - 2 * b->stride, p, p - b->stride, p + b->stride,
                          q, q - b->stride, q + b->stride};
}

/* Features of the scale of sample x, the constant first, then the magnitude itself. */
static inline __attribute__((always_inline)) void features(double f[N_SCALES + 1], const surroundings *s, ptrdiff_t x)
{
    const uint16_t *m = s->m, *up = s->up, *up2 = s->up2, *p = s->p, *q = s->q;

    f[0] = 1;
    f[1] = m[x - 1];
    f[2] = up[x];
    f[3] = up[x + 1];
    f[4] = up[x - 1];
    f[5] = m[x - 2];
    f[6] = up2[x];
    f[7] = p[x];
    f[8] = (p[x - 1] + p[x + 1] + s->p0[x] + s->p1[x]) * 0.25;
    f[9] = q[x];
    f[10] = (up[x - 2] + up[x + 2]) * 0.5;
    f[11] = (up2[x - 1] + up2[x + 1]) * 0.5;
    f[12] = (q[x - 1] + q[x + 1] + s->q0[x] + s->q1[x]) * 0.25;
    f[13] = m[x];
}

CLONES static void scale_features(const fitting *f, uint32_t y)
{
    const surroundings s = surroundings_of(f->b, y);
    double *restrict rows = f->rows;
    ptrdiff_t w = f->b->w, pitch = (ptrdiff_t)f->pitch;

    for (ptrdiff_t x = 0; x < w; x++) {
        double each[N_SCALES + 1];
        features(each, &s, x);
        for (int i = 0; i <= N_SCALES; i++) rows[i * pitch + x] = each[i];
    }
}

/* Errors count in units of what is usual around them: 1 / (sum of scale[i] * feature / unit)^2. Robust ones count less
 * where the magnitude found so far is far beyond that: edges would decide all else. */
CLONES static void set_weights(fitting *f, const double *scale, uint32_t y, bool robust)
{
    const bands *b = f->b;
    const uint8_t *skip = b->skip ? b->skip + (size_t)y * b->w : NULL;
    const surroundings s = surroundings_of(b, y);
    double *restrict weight = f->weight, k[N_SCALES], reach = robust ? 0.5 : 0;
    ptrdiff_t w = b->w;

    memcpy(k, scale, sizeof k);
    for (ptrdiff_t x = 0; x < w; x++) {
        double each[N_SCALES + 1], usual = 0.2, far;
        features(each, &s, x);
        for (int i = 0; i < N_SCALES; i++) usual += k[i] * each[i];
        far = each[N_SCALES] * reach;
        weight[x] = 1 / (usual * (usual > far ? usual : far));
    }
    for (ptrdiff_t x = 0; skip && x < w; x++) weight[x] = skip[x] ? 0 : weight[x];
}

/* Magnitudes of 8 times what is usual are edges, of which the scale around them knows nothing. */
static void cut_outliers(fitting *f)
{
    double *m = f->rows + N_SCALES * f->pitch;

    for (uint32_t x = 0; x < f->b->w; x++)
        if (m[x] * m[x] * f->weight[x] > 64) m[x] = 8 / __builtin_sqrt(f->weight[x]);
}

static void fit_scale(fitting *f, uint32_t first, uint32_t step)
{
    enum { N = N_SCALES };
    static const double plain[N] = {0.1, 0.23, 0.17, 0.09, 0.11, 0.06, 0.06, 0.14, 0.14};
    static const uint32_t fallback[N] = {8, 16, 12, 6, 8, 4, 4};
    const bands *b = f->b;
    uint32_t *scale = f->b->f.scale;
    const double *x[N + 1];
    double c[MAX_UNKNOWNS], r[MAX_UNKNOWNS][MAX_UNKNOWNS];
    moments *g = &f->g;
    uint32_t x0 = b->w > 4 ? 1 : 0;
    int width = (int)((b->w - x0 + LANES - 1) / LANES * LANES);

    moments_clear(g, N + 1);
    for (int i = 0; i <= N; i++) x[i] = f->rows + (size_t)i * f->pitch + x0;
    for (uint32_t y = first; y < b->h; y += step) {
        scale_features(f, y);
        set_weights(f, plain, y, false);
        cut_outliers(f);
        for (int i = 0; i < LANES; i++)
            f->weight[b->w + (uint32_t)i] = 0; // what lies behind does not count
        moments_add(g, x, f->weight + x0, N + 1, width);
    }
    moments_mirror(g, N + 1);
    int list[N], n = 0;
    for (int i = 0; i < N; i++)
        if (g->m[i][i] > 0 && (b->band || !(i >= 7 && i != 10 && i != 11))) list[n++] = i;
    memset(scale, 0, N * sizeof *scale);
    while (n) { // drop what would be negative, one by one
        double left = solve(c, r, g, list, n, N);
        int worst = -1;
        for (int i = 0; left >= 0 && i < n; i++)
            if (c[i] < 0 && (worst < 0 || c[i] < c[worst])) worst = i;
        if (left >= 0 && worst < 0) break;
        if (worst < 0) worst = n - 1;
        for (int i = worst; i + 1 < n; i++) list[i] = list[i + 1];
        n--;
    }
    if (!n) memcpy(scale, fallback, sizeof fallback);
    for (int i = 0; i < n; i++)
        scale[list[i]] = (uint32_t)round_to(c[i] * 64, list[i] ? 255 : SCALE_MAX);
}

/* Magnitudes of the residuals of row y, nearly as the coder will find them, go to b->scale. */
CLONES static void find_errors(const bands *b, bool wide, uint32_t y)
{
    const int32_t *row = b->sample[0] + (ptrdiff_t)y * b->stride, *sums = b->sums;
    int32_t low = b->low, high = b->high;
    uint32_t *restrict error = b->scale, w = b->w;

    bands_predict_row(b, wide, y);
    for (uint32_t x = 0; wide && x < w; x++) {
        int32_t p = clamp(b->wide_sums[x] >> COEF_BITS, low, high);
        error[x] = (uint32_t)(row[x] > p ? row[x] - p : p - row[x]);
    }
    for (uint32_t x = 0; !wide && x < w; x++) { // never past 32 bits: twice as many at once
        int32_t p = sums[x] >> COEF_BITS;
        p = p < low ? low : p;
        p = p > high ? high : p;
        error[x] = (uint32_t)(row[x] > p ? row[x] - p : p - row[x]);
    }
}

/* b->scale to the magnitudes of row y. */
CLONES static void set_magnitudes_of_row(const bands *b, uint32_t y)
{
    const int32_t *row = b->sample[0] + (ptrdiff_t)y * b->stride;
    const uint8_t *skip = b->skip ? b->skip + (size_t)y * b->w : NULL;
    uint16_t *restrict out = b->magnitude[0] + (ptrdiff_t)y * b->stride;
    const uint32_t *error = b->scale;
    unsigned shift = b->f.shift;
    uint32_t w = b->w;

    for (uint32_t x = 0; x < w; x++) {
        uint32_t a = error[x] >> shift;
        out[x] = (uint16_t)(a < 65535 ? a : 65535);
    }
    for (uint32_t x = 0; skip && x < w; x++)
        if (skip[x]) {
            bool left = x && row[x] == row[x - 1];
            out[x] = b->mask && b->mask[(size_t)y * w + x] ? 0
                     : left                                ? out[x - 1]
                                                           : *(out + x - b->stride);
        }
    for (int i = 1; i <= MARGIN; i++) {
        out[-i] = out[0];
        out[w + (uint32_t)i - 1] = out[w - 1];
    }
}

static void set_magnitudes(bands *b)
{
    bool wide = bands_need_wide(b);

    if (b->high - b->low > 65535) { // magnitudes have 16 bits
        double mean = 0;
        for (uint32_t y = 0; y < b->h; y += 4) {
            find_errors(b, wide, y);
            for (uint32_t x = 0; x < b->w; x++) mean += b->scale[x] * 4.0;
        }
        mean /= (double)b->w * b->h;
        for (b->f.shift = 0; mean >= 512; mean /= 2) b->f.shift++;
    }
    for (uint32_t y = 0; y < b->h; y++) {
        find_errors(b, wide, y);
        set_magnitudes_of_row(b, y);
    }
    uint16_t *last = b->magnitude[0] + ((ptrdiff_t)b->h - 1) * b->stride - MARGIN;
    memcpy(last + b->stride, last, (size_t)b->stride * sizeof *last);
}

/* ---- sets of coefficients ---- */

/* A triangle of moments for each cell. */
typedef struct cells {
    int n; /* unknowns, constant and target counted */
    uint32_t n_cells;
    double *m;        /* [n_cells][n * (n + 1) / 2] */
    uint8_t *set;     /* [n_cells] */
    double *products; /* [n * (n + 1) / 2][MAX_SETS] */
} cells;

static double *cell_moments(const cells *k, uint32_t i)
{
    return k->m + (size_t)i * ((size_t)k->n * ((size_t)k->n + 1) / 2);
}

/* Sums of squares that each set leaves in a cell. products [triangle][MAX_SETS]: of its
 * coefficients. */
CLONES static void cell_left(double left[MAX_SETS], const cells *k, uint32_t i,
                             const double *products, uint32_t n_sets)
{
    const double *m = cell_moments(k, i), *end = cell_moments(k, i + 1), *p = products;
    double even[MAX_SETS] = {0}, odd[MAX_SETS] = {0}; // sums that do not wait for each other

    if (n_sets <= 4)
        for (; end - m > 1; m += 2, p += 2 * MAX_SETS) {
            for (int s = 0; s < 4; s++) even[s] += m[0] * p[s];
            for (int s = 0; s < 4; s++) odd[s] += m[1] * p[MAX_SETS + s];
        }
    else
        for (; end - m > 1; m += 2, p += 2 * MAX_SETS) {
            for (int s = 0; s < MAX_SETS; s++) even[s] += m[0] * p[s];
            for (int s = 0; s < MAX_SETS; s++) odd[s] += m[1] * p[MAX_SETS + s];
        }
    for (int s = 0; m < end && s < MAX_SETS; s++) even[s] += m[0] * p[s];
    for (int s = 0; s < MAX_SETS; s++) left[s] = even[s] + odd[s];
}

/* products of c_a c_b, twice where a and b differ. */
static void set_products(double *products, int n, const double *c)
{
    for (int a = 0; a < n; a++)
        for (int b = a; b < n; b++, products += MAX_SETS)
            *products = (a == b ? 1 : 2) * c[a] * c[b];
}

CLONES static void gather_cells(fitting *f, cells *k)
{
    const bands *b = f->b;
    double *rows = f->cell_rows;
    const double *x[MAX_UNKNOWNS + 1];
    moments *g = &f->g;
    bool half = f->effort < 8 && b->w * b->h >= 65536;

    for (int i = 0; i < k->n; i++) x[i] = rows + i * CELL * CELL;
    double *weight = rows + k->n * CELL * CELL;
    for (uint32_t cy = 0; cy < b->cells_y; cy++)
        for (uint32_t cx = 0; cx < b->cells_x; cx++) {
            uint32_t y1 = cy * CELL + CELL < b->h ? cy * CELL + CELL : b->h;
            uint32_t x0 = cx * CELL, n_x = b->w - x0 < CELL ? b->w - x0 : CELL;
            int n = 0;
            for (uint32_t y = cy * CELL; y < y1; y++) {
                if (half && (y ^ y >> 1) & 1) continue; // rows 0, 3, 4, 7 ...: either row of twins
                for (int i = 0; i < k->n; i++) {
                    double *out = rows + i * CELL * CELL + n;
                    tap t = i && i + 1 < k->n ? f->all.taps[i - 1] : (tap){0};
                    const int32_t *s =
                        b->sample[t.back] + ((ptrdiff_t)y + t.dy) * b->stride + t.dx + x0;
                    if (i == 0)
                        for (uint32_t j = 0; j < CELL; j++) out[j] = 1;
                    else
                        for (uint32_t j = 0; j < n_x; j++) out[j] = s[j] * f->scale;
                }
                for (uint32_t j = 0; j < CELL; j++)
                    weight[n + (int)j] =
                        j < n_x && x0 + j >= 2 && y ? f->weights[(size_t)y * b->w + x0 + j] : 0;
                n += CELL;
            }
            moments_clear(g, k->n);
            moments_add(g, x, weight, k->n, n);
            double *m = cell_moments(k, cy * b->cells_x + cx);
            for (int i = 0; i < k->n; i++)
                for (int j = i; j < k->n; j++) *m++ = g->m[i][j];
        }
}

/* Moments of all cells of a set. */
CLONES static void sum_cells(const cells *k, moments *g, uint32_t set)
{
    double sums[(MAX_UNKNOWNS + 1) * (MAX_UNKNOWNS + 2) / 2], *s = sums;
    int n = k->n * (k->n + 1) / 2;

    memset(sums, 0, (size_t)n * sizeof *sums);
    for (uint32_t c = 0; c < k->n_cells; c++) {
        if (k->set[c] != set) continue;
        const double *m = cell_moments(k, c);
        for (int i = 0; i < n; i++) sums[i] += m[i];
    }
    for (int i = 0; i < k->n; i++)
        for (int j = i; j < k->n; j++) g->m[i][j] = *s++;
    moments_mirror(g, k->n);
}

/* Coefficients of each set, then the best set of each cell, and again; returns what is left. */
static double settle_cells(const fitting *f, cells *k, uint32_t n_sets, fit *out)
{
    double c[MAX_UNKNOWNS + 1] = {0}, r[MAX_UNKNOWNS][MAX_UNKNOWNS], left = 0, unused;
    moments g;
    int list[MAX_UNKNOWNS], n = list_unknowns(list, f, out);
    bool good[MAX_SETS];

    for (int round = 0; round < (f->effort < 8 ? 2 : 5); round++) {
        for (uint32_t s = 0; s < n_sets; s++) {
            double part[MAX_UNKNOWNS];
            sum_cells(k, &g, s);
            good[s] = solve(part, r, &g, list, n, k->n - 1) >= 0;
            for (int i = 0; i < n && good[s]; i++) c[list[i]] = part[i];
            c[k->n - 1] = -1;
            set_products(k->products + s, k->n, c);
        }
        left = 0;
        for (uint32_t i = 0; i < k->n_cells; i++) {
            double least = 1e300, each[MAX_SETS];
            cell_left(each, k, i, k->products, n_sets);
            for (uint32_t s = 0; s < n_sets; s++)
                if (good[s] && each[s] < least) {
                    least = each[s];
                    k->set[i] = (uint8_t)s;
                }
            left += least;
        }
    }
    for (uint32_t s = 0; s < n_sets; s++) {
        sum_cells(k, &g, s);
        if (!set_coefs(f, &g, out, (int)s, &unused)) {
            if (!s) return 1e300;
            out->bias[s] = out->bias[0];
            memcpy(out->coef[s], out->coef[0], sizeof out->coef[s]);
        }
    }
    out->n_sets = (uint8_t)n_sets;
    return left;
}

/* Several sets of coefficients where they save more than they take. */
static void fit_sets(fitting *f)
{
    bands *b = f->b;
    cells k = {.n = b->f.n_taps + 2, .n_cells = b->cells_x * b->cells_y};
    size_t triangle = (size_t)k.n * ((size_t)k.n + 1) / 2;
    uint8_t *best_sets = f->best_sets;
    double samples = 0, best;
    fit trial;

    k.m = f->cell_moments;
    k.set = best_sets + k.n_cells;
    k.products = k.m + k.n_cells * triangle;
    f->cell_rows = k.products + MAX_SETS * triangle;
    f->all = b->f;
    gather_cells(f, &k);
    for (uint32_t i = 0; i < k.n_cells; i++) samples += cell_moments(&k, i)[0];
    double n = 0;
    for (size_t i = 0; i < (size_t)b->w * b->h; i++) n += f->weights[i] > 0;
    memset(k.set, 0, k.n_cells);
    memset(best_sets, 0, k.n_cells);
    trial = b->f;
    double one = settle_cells(f, &k, 1, &trial);
    bool good = samples > 0 && one > 0 && one < 1e300; // 0: nothing is left to win
    best = good ? 0.5 * n * log2_of(one / samples) : 0;
    if (one < 1e300) b->f = trial;
    for (uint32_t n_sets = 4; n_sets <= MAX_SETS && good; n_sets *= 2) {
        // parts of the sets so far, by turns
        for (uint32_t i = 0; i < k.n_cells; i++) {
            uint32_t turn = i % b->cells_x + i / b->cells_x * 2;
            k.set[i] = (uint8_t)(n_sets == 4 ? turn % 4 : k.set[i] * 2 + turn % 2);
        }
        trial = b->f;
        double left = settle_cells(f, &k, n_sets, &trial);
        double cost = 0.5 * n * log2_of(left / samples) + n_sets * (b->f.n_taps * 10.0 + 12) +
                      k.n_cells * 0.6 * log2_of(n_sets);
        if (!(left > 0 && left < 1e300 && cost < best)) break;
        best = cost;
        b->f = trial;
        memcpy(best_sets, k.set, k.n_cells);
    }
    memcpy(b->cell, best_sets, k.n_cells);
}

/* Room for the rows, and for several sets if there are to be some. */
static void place(fitting *f, bool sets, carver *c)
{
    const bands *b = f->b;
    size_t n = (size_t)f->all.n_taps + 2, n_rows = n > N_SCALES + 1 ? n : N_SCALES + 1;
    size_t n_cells = (size_t)b->cells_x * b->cells_y;

    f->pitch = b->w + 2 * LANES;
    f->n_values = (n_rows + 1) * f->pitch;
    f->weight = carve(c, f->n_values * sizeof *f->weight);
    f->rows = f->weight ? f->weight + f->pitch : NULL;
    if (!sets) return;
    f->weights = carve(c, (size_t)b->w * b->h * sizeof *f->weights);
    f->cell_moments = carve(c, ((n_cells + MAX_SETS) * (n * (n + 1) / 2) + (n + 1) * CELL * CELL) * sizeof(double));
    f->best_sets = carve(c, 2 * n_cells);
}

bool bands_fit(bands *b, int effort)
{
    fitting f = {.b = b, .scale = 1, .effort = effort};
    carver size = {0}, c = {0};

    for (int64_t most = (int64_t)b->high - b->low; most >= 1 << 17; most /= 2) f.scale /= 2;
    clip_counts(f.all.count, every, b->band);
    if (!fit_taps(&f.all, b->band)) return false;
    bool many = b->w * b->h >= SETS_MIN, sets = effort > 3 && many;
    place(&f, sets, &size);
    if (!(c.base = scratch_get(b->work, size.used))) return false;
    place(&f, sets, &c);
    memset(f.weight, 0, f.n_values * sizeof *f.weight);
    memset(b->cell, 0, (size_t)b->cells_x * b->cells_y);
    uint32_t x0 = b->w > 4 ? 2 : 0, y0 = b->h > 4 ? 1 : 0;
    for (int pass = 0; pass < 2; pass++) {
        double scale[N_SCALES];
        uint32_t step = rows_step(b, pass && many ? 8000 : 4000);
        for (int i = 0; i < N_SCALES; i++) scale[i] = b->f.scale[i] / 64.0;
        moments_clear(&f.g, f.all.n_taps + 2);
        for (uint32_t y = y0; y < b->h; y += step) {
            if (pass)
                set_weights(&f, scale, y, true);
            else
                for (uint32_t x = 0; x < b->w; x++)
                    f.weight[x] = !(b->skip && b->skip[(size_t)y * b->w + x]);
            add_row(&f, &f.g, y, x0, b->w);
        }
        moments_mirror(&f.g, f.all.n_taps + 2);
        if (pass)
            refine(&f);
        else
            choose_taps(&f);
        f.all = b->f;
        set_magnitudes(b);
        fit_scale(&f, y0, rows_step(b, 12000));
    }
    if (sets && b->f.n_taps) {
        double scale[N_SCALES];
        for (int i = 0; i < N_SCALES; i++) scale[i] = b->f.scale[i] / 64.0;
        for (uint32_t y = 0; y < b->h; y++) {
            set_weights(&f, scale, y, true);
            memcpy(f.weights + (size_t)y * b->w, f.weight, b->w * sizeof *f.weights);
        }
        fit_sets(&f);
        set_magnitudes(b);
        fit_scale(&f, y0, rows_step(b, 12000));
    }
    return true;
}
