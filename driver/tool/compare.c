/* compare.c - the pass over both rasters. All sums grow row by row in one order, so that figures
 * do not depend on the height of the strips that raster.c reads. */
#include "compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// PSNR of patches is counted in bins, so that memory does not grow with the raster.
#define BIN_LOW   -100.0 /* dB */
#define BIN_WIDTH 2e-4
#define N_BINS    1500000 /* up to 200 dB; the last one: infinite */

#define MIN_STRIP 64 /* rows */
#define MAX_STRIP 1024

static const char no_memory[] = "no memory";

typedef struct pass {
    raster *a, *b;
    const compare_options *o;
    comparison *out;
    similarity **sim;            /* [n_bands] */
    double *x, *y;               /* [width] a row of either raster, of one band */
    uint8_t *x_valid, *y_valid;
    double *error;               /* [width] largest absolute error of the bands */
    uint8_t *state;              /* [width] STATE_ of the pixel, the worst of the bands */
    int n_patches;               /* per row of patches */
    double *patch_squares;       /* [n_patches] of the row of patches at hand */
    int64_t *patch_samples;
    int64_t *bins;               /* [N_BINS] */
} pass;

static double psnr_of(double peak, double mse)
{
    return mse > 0 ? 10 * log10(peak * peak / mse) : mse == 0 ? INFINITY : NAN;
}

static bool pass_start(pass *p)
{
    const size_t w = (size_t)p->a->width, n_bands = (size_t)p->a->n_bands;
    p->n_patches = (p->a->width - 1) / p->o->patch + 1;
    p->sim = calloc(n_bands, sizeof(similarity *));
    p->x = malloc(w * sizeof *p->x);
    p->y = malloc(w * sizeof *p->y);
    p->x_valid = malloc(w);
    p->y_valid = malloc(w);
    p->error = malloc(w * sizeof *p->error);
    p->state = malloc(w);
    p->patch_squares = calloc((size_t)p->n_patches, sizeof *p->patch_squares);
    p->patch_samples = calloc((size_t)p->n_patches, sizeof *p->patch_samples);
    p->bins = calloc(N_BINS, sizeof *p->bins);
    return p->sim && p->x && p->y && p->x_valid && p->y_valid && p->error && p->state &&
           p->patch_squares && p->patch_samples && p->bins;
}

static void pass_free(pass *p)
{
    for (int i = 0; p->sim && i < p->a->n_bands; i++) similarity_free(p->sim[i]);
    free(p->sim);
    free(p->x);
    free(p->y);
    free(p->x_valid);
    free(p->y_valid);
    free(p->error);
    free(p->state);
    free(p->patch_squares);
    free(p->patch_samples);
    free(p->bins);
}

/* A band's row, p->x against p->y, into the sums of band, patches and pixels. Then x_valid says
 * which pixels were compared. */
static void add_row(pass *p, figures *f)
{
    for (int i = 0, x = 0; i < p->n_patches; i++) {
        const int right = p->a->width - x > p->o->patch ? x + p->o->patch : p->a->width;
        double squares = 0;
        int samples = 0;
        for (; x < right; x++) {
            const bool mismatch = p->x_valid[x] != p->y_valid[x];
            const bool valid = p->x_valid[x] && p->y_valid[x];
            if (mismatch) {
                f->mismatches++;
                p->state[x] = STATE_MISMATCH;
            }
            p->x_valid[x] = valid;
            if (!valid) continue;
            const double error = fabs(p->x[x] - p->y[x]);
            if (p->state[x] == STATE_EXCLUDED) p->state[x] = STATE_COMPARED;
            if (error > p->error[x]) p->error[x] = error;
            if (error > f->max_error) f->max_error = error;
            squares += error * error;
            samples++;
        }
        f->mse += squares; // a sum until finish()
        f->samples += samples;
        p->patch_squares[i] += squares;
        p->patch_samples[i] += samples;
    }
}

/* Files a complete row of patches whose first row of pixels is y. */
static void count_patches(pass *p, int y, int rows)
{
    const int side = p->o->patch;
    patch_figures *f = &p->out->patches;
    for (int i = 0; i < p->n_patches; i++) {
        const int left = p->a->width - i * side, columns = left < side ? left : side;
        const int64_t samples = p->patch_samples[i];
        const double squares = p->patch_squares[i];
        p->patch_samples[i] = 0;
        p->patch_squares[i] = 0;
        if (!samples || 2 * samples < (int64_t)columns * rows * p->a->n_bands) continue;
        const double psnr = psnr_of(p->out->peak, squares / (double)samples);
        const double bin = fmin(fmax((psnr - BIN_LOW) / BIN_WIDTH, 0), N_BINS - 1);
        p->bins[(int)bin]++;
        if (!f->count++ || psnr < f->min) {
            f->min = psnr;
            f->min_x = i * side;
            f->min_y = y;
        }
    }
}

/* The smallest value that at least percent of the patches do not exceed. */
static double percentile(const pass *p, double percent)
{
    const patch_figures *f = &p->out->patches;
    const double rank = ceil(percent / 100 * (double)f->count);
    int64_t n = 0;
    if (!f->count) return NAN;
    for (int i = 0; i < N_BINS - 1; i++) {
        n += p->bins[i];
        if (n && (double)n >= rank) return fmax(BIN_LOW + (i + 0.5) * BIN_WIDTH, f->min);
    }
    return INFINITY;
}

static bool take_row(pass *p, int y)
{
    const int side = p->o->patch, w = p->a->width, h = p->a->height;
    memset(p->error, 0, (size_t)w * sizeof *p->error);
    memset(p->state, STATE_EXCLUDED, (size_t)w);
    for (int i = 0; i < p->a->n_bands; i++) {
        if (!raster_row(p->a, y, i, p->x, p->x_valid) || !raster_row(p->b, y, i, p->y, p->y_valid))
            return false;
        add_row(p, &p->out->bands[i]);
        similarity_row(p->sim[i], p->x, p->y, p->x_valid);
    }
    for (int x = 0; x < w; x++) p->out->all.mismatches += p->state[x] == STATE_MISMATCH;
    if (p->o->heat) heatmap_row(p->o->heat, p->error, p->state);
    if ((y + 1) % side == 0 || y + 1 == h) count_patches(p, y - y % side, y % side + 1);
    return true;
}

static void finish(pass *p)
{
    figures *all = &p->out->all;
    patch_figures *f = &p->out->patches;
    int n_ssim = 0;
    all->sim = (similarity_figures){0, 0, SIMILARITY_SCALES};
    for (int i = 0; i < p->a->n_bands; i++) {
        figures *b = &p->out->bands[i];
        all->samples += b->samples;
        all->mse += b->mse;
        all->max_error = fmax(all->max_error, b->max_error);
        b->mse = b->samples ? b->mse / (double)b->samples : NAN;
        b->psnr = psnr_of(p->out->peak, b->mse);
        b->sim = similarity_result(p->sim[i]);
        if (!b->sim.scales) continue;
        n_ssim++;
        all->sim.ssim += b->sim.ssim;
        all->sim.ms_ssim += b->sim.ms_ssim;
        if (b->sim.scales < all->sim.scales) all->sim.scales = b->sim.scales;
    }
    if (n_ssim) {
        all->sim.ssim /= n_ssim;
        all->sim.ms_ssim /= n_ssim;
    } else {
        all->sim = (similarity_figures){NAN, NAN, 0};
    }
    all->mse = all->samples ? all->mse / (double)all->samples : NAN;
    all->psnr = psnr_of(p->out->peak, all->mse);
    if (!f->count) f->min = NAN;
    f->p1 = percentile(p, 1);
    f->p5 = percentile(p, 5);
    f->p50 = percentile(p, 50);
}

/* Largest minus smallest valid value of the original; 1 where all are the same or none is valid. */
static bool value_range(pass *p, double *range)
{
    double low = INFINITY, high = -INFINITY;
    for (int y = 0; y < p->a->height; y++)
        for (int i = 0; i < p->a->n_bands; i++) {
            if (!raster_row(p->a, y, i, p->x, p->x_valid)) return false;
            for (int x = 0; x < p->a->width; x++) {
                if (!p->x_valid[x]) continue;
                if (p->x[x] < low) low = p->x[x];
                if (p->x[x] > high) high = p->x[x];
            }
        }
    *range = high > low ? high - low : 1;
    return true;
}

static const char *find_peak(pass *p)
{
    double *peak = &p->out->peak;
    *peak = p->o->peak > 0 ? p->o->peak : raster_peak(p->a);
    if (*peak == 0 && !value_range(p, peak)) return p->a->problem;
    return NULL;
}

static const char *pass_run(pass *p)
{
    const int h = p->a->height;
    const char *problem;
    if (!pass_start(p)) return no_memory;
    if ((problem = find_peak(p))) return problem;
    for (int i = 0; i < p->a->n_bands; i++) {
        p->sim[i] = similarity_new(p->a->width, h, p->out->peak);
        if (!p->sim[i]) return no_memory;
    }
    for (int y = 0; y < h; y++) {
        if (!take_row(p, y)) return p->a->problem[0] ? p->a->problem : p->b->problem;
        if (p->o->progress) p->o->progress((y + 1.0) / h);
    }
    finish(p);
    return NULL;
}

const char *compare(comparison *out, raster *a, raster *b, const compare_options *o)
{
    pass p = {.a = a, .b = b, .o = o, .out = out};
    const int block_a = raster_block_rows(a), block_b = raster_block_rows(b);
    int rows = block_a > block_b ? block_a : block_b;
    rows = rows < MIN_STRIP ? MIN_STRIP : rows > MAX_STRIP ? MAX_STRIP : rows;

    *out = (comparison){.bands = calloc((size_t)a->n_bands, sizeof *out->bands)};
    if (!out->bands) return no_memory;
    if (!raster_start(a, rows)) return a->problem;
    if (!raster_start(b, rows)) return b->problem;
    const char *problem = pass_run(&p);
    pass_free(&p);
    return problem;
}

void comparison_free(comparison *c)
{
    free(c->bands);
    *c = (comparison){0};
}
