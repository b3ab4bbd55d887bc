/* similarity.c - SSIM and MS-SSIM as a pipeline of scales, each with the last eleven rows.
 *
 * A scale keeps s = x + y and d = x - y instead of x and y. With m and v for mean and variance in a
 * window, all that SSIM needs follows from four filtered maps (s, d, s^2, d^2) instead of five:
 *   2 mx my = (ms^2 - md^2) / 2    mx^2 + my^2 = (ms^2 + md^2) / 2
 *   2 cov   = (vs - vd) / 2        vx + vy     = (vs + vd) / 2 */
#include "similarity.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#define WINDOW SIMILARITY_WINDOW
#define RADIUS (WINDOW / 2)
#define MAPS   4

// Wang, Simoncelli, Bovik: Multi-scale structural similarity for image quality assessment, 2003.
static const double weights[SIMILARITY_SCALES] = {0.0448, 0.2856, 0.3001, 0.2363, 0.1333};
static const double k1 = 0.01, k2 = 0.03, sigma = 1.5;

typedef struct scale {
    int width, height, rows; /* rows taken so far */
    int whole;               /* last rows without an invalid pixel */
    double *sum, *diff;      /* [WINDOW][width], row r at r % WINDOW; 0 where invalid */
    uint8_t *run;            /* [width]: valid pixels up to the last row, at most WINDOW */
    double ssim, contrast;   /* sums over the valid windows; contrast: without the luminance term */
    int64_t windows;
} scale;

struct similarity {
    double taps[RADIUS + 1]; /* centre first */
    double c1, c2;
    int n_scales;
    scale scales[SIMILARITY_SCALES];
    /* [width], shared by the scales */
    double *columns[MAPS]; /* s, s^2, d, d^2 filtered along columns */
    double *ssim_row, *contrast_row;
};

similarity *similarity_new(int width, int height, double peak)
{
    similarity *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    double total = 0;
    for (int i = 0; i <= RADIUS; i++) {
        s->taps[i] = exp(-0.5 * i * i / (sigma * sigma));
        total += i ? 2 * s->taps[i] : s->taps[i];
    }
    for (int i = 0; i <= RADIUS; i++) s->taps[i] /= total;
    s->c1 = (k1 * peak) * (k1 * peak);
    s->c2 = (k2 * peak) * (k2 * peak);

    bool ok = true;
    int w = width, h = height;
    for (; s->n_scales < SIMILARITY_SCALES && w >= WINDOW && h >= WINDOW; s->n_scales++) {
        scale *c = &s->scales[s->n_scales];
        c->width = w;
        c->height = h;
        c->sum = malloc((size_t)w * WINDOW * sizeof *c->sum);
        c->diff = malloc((size_t)w * WINDOW * sizeof *c->diff);
        c->run = calloc((size_t)w, 1);
        ok = ok && c->sum && c->diff && c->run;
        w = w / 2 + w % 2;
        h = h / 2 + h % 2;
    }
    if (s->n_scales) {
        for (int i = 0; i < MAPS; i++) {
            s->columns[i] = malloc((size_t)width * sizeof(double));
            ok = ok && s->columns[i];
        }
        s->ssim_row = malloc((size_t)width * sizeof(double));
        s->contrast_row = malloc((size_t)width * sizeof(double));
        ok = ok && s->ssim_row && s->contrast_row;
    }
    if (!ok) {
        similarity_free(s);
        s = NULL;
    }
    return s;
}

void similarity_free(similarity *s)
{
    if (!s) return;
    for (int i = 0; i < SIMILARITY_SCALES; i++) {
        free(s->scales[i].sum);
        free(s->scales[i].diff);
        free(s->scales[i].run);
    }
    for (int i = 0; i < MAPS; i++) free(s->columns[i]);
    free(s->ssim_row);
    free(s->contrast_row);
    free(s);
}

/* The last WINDOW rows, oldest first. */
static void ring_rows(const double *ring, const scale *c, const double *rows[WINDOW])
{
    for (int i = 0; i < WINDOW; i++)
        rows[i] = ring + (size_t)((c->rows + i) % WINDOW) * c->width;
}

/* mean and square [width]: the ring's values and their squares, filtered along columns. */
static void filter_columns(const similarity *s, const scale *c, const double *ring,
                           double *restrict mean, double *restrict square)
{
    const double *r[WINDOW], *t = s->taps;
    ring_rows(ring, c, r);
    const double *restrict r0 = r[0], *restrict r1 = r[1], *restrict r2 = r[2], *restrict r3 = r[3],
                 *restrict r4 = r[4], *restrict r5 = r[5], *restrict r6 = r[6], *restrict r7 = r[7],
                 *restrict r8 = r[8], *restrict r9 = r[9], *restrict r10 = r[10];
    const double t0 = t[0], t1 = t[1], t2 = t[2], t3 = t[3], t4 = t[4], t5 = t[5];
    for (int x = 0; x < c->width; x++) {
        mean[x] = t0 * r5[x] + t1 * (r4[x] + r6[x]) + t2 * (r3[x] + r7[x]) +
                  t3 * (r2[x] + r8[x]) + t4 * (r1[x] + r9[x]) + t5 * (r0[x] + r10[x]);
        square[x] = t0 * (r5[x] * r5[x]) + t1 * (r4[x] * r4[x] + r6[x] * r6[x]) +
                    t2 * (r3[x] * r3[x] + r7[x] * r7[x]) + t3 * (r2[x] * r2[x] + r8[x] * r8[x]) +
                    t4 * (r1[x] * r1[x] + r9[x] * r9[x]) + t5 * (r0[x] * r0[x] + r10[x] * r10[x]);
    }
}

static inline double filter_row(const double *v, const double *t)
{
    return t[0] * v[5] + t[1] * (v[4] + v[6]) + t[2] * (v[3] + v[7]) + t[3] * (v[2] + v[8]) +
           t[4] * (v[1] + v[9]) + t[5] * (v[0] + v[10]);
}

/* ssim and contrast [n]: of the n windows of a row, from the filtered columns. */
static void measure_row(const similarity *s, int n, double *restrict ssim,
                        double *restrict contrast)
{
    const double *restrict s1 = s->columns[0], *restrict s2 = s->columns[1],
                 *restrict d1 = s->columns[2], *restrict d2 = s->columns[3];
    const double t[RADIUS + 1] = {s->taps[0], s->taps[1], s->taps[2],
                                  s->taps[3], s->taps[4], s->taps[5]};
    const double c1 = s->c1, c2 = s->c2;
    for (int x = 0; x < n; x++) {
        const double ms = filter_row(s1 + x, t), md = filter_row(d1 + x, t);
        const double ms2 = ms * ms, md2 = md * md;
        const double vs = filter_row(s2 + x, t) - ms2, vd = filter_row(d2 + x, t) - md2;
        contrast[x] = (0.5 * (vs - vd) + c2) / (0.5 * (vs + vd) + c2);
        ssim[x] = contrast[x] * (0.5 * (ms2 - md2) + c1) / (0.5 * (ms2 + md2) + c1);
    }
}

/* Zeroes what belongs to windows with an invalid pixel; returns how many windows remain. */
static int drop_invalid(const scale *c, double *ssim, double *contrast)
{
    int n = 0, run = 0;
    for (int x = 0; x < c->width; x++) {
        run = c->run[x] == WINDOW ? run + 1 : 0;
        if (x < WINDOW - 1) continue;
        if (run >= WINDOW) n++;
        else ssim[x - WINDOW + 1] = contrast[x - WINDOW + 1] = 0;
    }
    return n;
}

static double row_sum(const double *v, int n)
{
    double sum[4] = {0};
    int x = 0;
    for (; x + 4 <= n; x += 4)
        for (int i = 0; i < 4; i++) sum[i] += v[x + i];
    for (; x < n; x++) sum[0] += v[x];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

static void measure(similarity *s, scale *c)
{
    const int n = c->width - WINDOW + 1;
    filter_columns(s, c, c->sum, s->columns[0], s->columns[1]);
    filter_columns(s, c, c->diff, s->columns[2], s->columns[3]);
    measure_row(s, n, s->ssim_row, s->contrast_row);
    c->windows += c->whole >= WINDOW ? n : drop_invalid(c, s->ssim_row, s->contrast_row);
    c->ssim += row_sum(s->ssim_row, n);
    c->contrast += row_sum(s->contrast_row, n);
}

/* out [half the width, rounded up]: means of 2 x 2 pixels of rows a and b; an odd last column
 * counts twice. */
static void halve(double *restrict out, const double *a, const double *b, int width)
{
    const int n = width / 2;
    for (int x = 0; x < n; x++)
        out[x] = 0.25 * ((a[2 * x] + b[2 * x]) + (a[2 * x + 1] + b[2 * x + 1]));
    if (width % 2) out[n] = 0.5 * (a[width - 1] + b[width - 1]);
}

/* Counts a row that stands in the ring and in run. whole: without an invalid pixel. */
static void row_done(scale *c, bool whole)
{
    c->rows++;
    c->whole = whole ? c->whole + 1 : 0;
}

/* The next row of scale b from the last two of scale a, or from the last alone, counted twice. */
static void pass_on(const scale *a, scale *b)
{
    const int need = a->rows % 2 ? 1 : 2; // rows
    const size_t to = (size_t)(b->rows % WINDOW) * b->width;
    const size_t last = (size_t)((a->rows - 1) % WINDOW) * a->width;
    const size_t before = (size_t)((a->rows - need) % WINDOW) * a->width;
    bool whole = true;

    halve(b->sum + to, a->sum + before, a->sum + last, a->width);
    halve(b->diff + to, a->diff + before, a->diff + last, a->width);
    for (int x = 0; x < b->width; x++) {
        const int right = 2 * x + 1 < a->width ? 2 * x + 1 : 2 * x;
        if (a->run[2 * x] >= need && a->run[right] >= need) {
            if (b->run[x] < WINDOW) b->run[x]++;
        } else {
            b->run[x] = 0;
            b->sum[to + x] = b->diff[to + x] = 0;
            whole = false;
        }
    }
    row_done(b, whole);
}

void similarity_row(similarity *s, const double *x, const double *y, const uint8_t *valid)
{
    scale *c = s->scales;
    bool whole = true;
    if (!s->n_scales) return;
    double *sum = c->sum + (size_t)(c->rows % WINDOW) * c->width;
    double *diff = c->diff + (size_t)(c->rows % WINDOW) * c->width;

    for (int i = 0; i < c->width; i++) {
        if (!valid || valid[i]) {
            sum[i] = x[i] + y[i];
            diff[i] = x[i] - y[i];
            if (c->run[i] < WINDOW) c->run[i]++;
        } else {
            sum[i] = diff[i] = 0;
            c->run[i] = 0;
            whole = false;
        }
    }
    row_done(c, whole);
    for (int i = 0;; i++, c++) {
        if (c->rows >= WINDOW) measure(s, c);
        const bool pair = c->rows % 2 == 0 || c->rows == c->height;
        if (i + 1 == s->n_scales || !pair) return;
        pass_on(c, c + 1);
    }
}

similarity_figures similarity_result(const similarity *s)
{
    similarity_figures f = {NAN, NAN, 0};
    double total = 0;
    while (f.scales < s->n_scales && s->scales[f.scales].windows) total += weights[f.scales++];
    if (!f.scales) return f;

    f.ssim = s->scales[0].ssim / (double)s->scales[0].windows;
    f.ms_ssim = 1;
    for (int i = 0; i < f.scales; i++) {
        const scale *c = &s->scales[i];
        const double mean = (i == f.scales - 1 ? c->ssim : c->contrast) / (double)c->windows;
        f.ms_ssim *= pow(fmax(mean, 0), weights[i] / total);
    }
    return f;
}
