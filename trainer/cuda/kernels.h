/* kernels.h - the kernels of the GPU backend: each a function of its arguments and of the number of a
 * thread, without shared memory or atomics, so that the host runs the same code in a loop. Sums go in
 * two or three steps of fixed order: the same numbers on every run.
 * C and CUDA. Arrays hold all patches of a step: [batch][h][w][c]. Latents are in raster order in y and
 * y_hat; elsewhere in coded order, pass by pass and within a pass patch by patch: row_of [batch * n] has
 * the row of a latent there, at_row the latent of a row. */
#ifndef NSVQ_TRAINER_KERNELS_H
#define NSVQ_TRAINER_KERNELS_H

#include <math.h>

#include "device.h"
#include "../hyper.h"
#include "../muon.h"
#include "../random.h"

#ifdef __CUDA_ARCH__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL
#endif

/* X(kernel): kernel_args are its arguments, kernel_body(args, i) its thread i. */
#define KERNELS(X)                                                                                          \
    X(draw) X(cut_pixels) X(steps) X(cast) X(depthwise3) X(depthwise5) X(depthwise_w3) X(depthwise_w5)      \
    X(to_depth) X(from_depth) X(mask_sum) X(fold) X(collect) X(quantise_z) X(context) X(quantise_y)         \
    X(rates_z) X(rates_y) X(error) X(weigh) X(tally) X(error_back) X(back_y) X(back_z) X(gain_grad)         \
    X(sum_span) X(advance) X(clip_norm) X(muon_ahead) X(muon_trace) X(muon_scale) X(muon_sum) X(move)
#define X(name) KERNEL_##name,
enum { KERNELS(X) KERNEL_N };
#undef X

#define LN2 0.69314718f
#define SUM_ROWS 16 /* rows that a thread of mask_sum adds up, latents that one of back_y does */
#define FOLDS 64    /* rows of the partial sums that collect adds up */

/* ---- elements ---- */

typedef union word { float f; uint32_t u; } word;

NSVQ_HD float from_bf16(uint32_t b)
{
    word w;
    w.u = b << 16;
    return w.f;
}

NSVQ_HD uint32_t to_bf16(float v) /* to the nearest, even on a tie; what is not finite stays so */
{
    word w;
    w.f = v;
    return (w.u & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : (w.u + 0x7fffu + (w.u >> 16 & 1)) >> 16;
}

NSVQ_HD float get(array a, size_t i)
{
    return a.f32 ? ((const float *)a.p)[i] : from_bf16(((const uint16_t *)a.p)[i]);
}

NSVQ_HD void put(array a, size_t i, float v)
{
    if (a.f32)
        ((float *)a.p)[i] = v;
    else
        ((uint16_t *)a.p)[i] = (uint16_t)to_bf16(v);
}

/* Four or eight at a time; i is a multiple of that. */
#ifdef __cplusplus
typedef struct alignas(16) quad { word w[4]; } quad;
typedef struct alignas(8) pair { uint32_t w[2]; } pair;
#else
typedef struct quad { _Alignas(16) word w[4]; } quad;
typedef struct pair { _Alignas(8) uint32_t w[2]; } pair;
#endif

NSVQ_HD void get4(float *v, array a, size_t i)
{
    if (a.f32) {
        const quad q = *(const quad *)((const float *)a.p + i);
        UNROLL for (int k = 0; k < 4; k++) v[k] = q.w[k].f;
    } else {
        const pair q = *(const pair *)((const uint16_t *)a.p + i);
        UNROLL for (int k = 0; k < 4; k++) v[k] = from_bf16(q.w[k / 2] >> 16 * (k & 1) & 0xffff);
    }
}

NSVQ_HD void put4(array a, size_t i, const float *v)
{
    if (a.f32) {
        quad q;
        UNROLL for (int k = 0; k < 4; k++) q.w[k].f = v[k];
        *(quad *)((float *)a.p + i) = q;
    } else {
        pair q;
        UNROLL for (int k = 0; k < 2; k++) q.w[k] = to_bf16(v[2 * k]) | to_bf16(v[2 * k + 1]) << 16;
        *(pair *)((uint16_t *)a.p + i) = q;
    }
}

NSVQ_HD void get8(float *v, array a, size_t i)
{
    if (a.f32) {
        get4(v, a, i);
        get4(v + 4, a, i + 4);
    } else {
        const quad q = *(const quad *)((const uint16_t *)a.p + i);
        UNROLL for (int k = 0; k < 8; k++) v[k] = from_bf16(q.w[k / 2].u >> 16 * (k & 1) & 0xffff);
    }
}

NSVQ_HD void put8(array a, size_t i, const float *v)
{
    if (a.f32) {
        put4(a, i, v);
        put4(a, i + 4, v + 4);
    } else {
        quad q;
        UNROLL for (int k = 0; k < 4; k++) q.w[k].u = to_bf16(v[2 * k]) | to_bf16(v[2 * k + 1]) << 16;
        *(quad *)((uint16_t *)a.p + i) = q;
    }
}

/* ---- patches: as dataset_patch cuts them ---- */

typedef struct orders { uint64_t seed; float lr; } orders; /* what the host says of a step */

typedef struct run_state { /* of the training, on the device */
    int64_t moments, patches, left_out;
    double  psnr, bits;
    float   c1, c2, keep; /* AdamW: bias corrections; of the average */
    int     bad;          /* the step's gradient is not finite */
} run_state;

typedef struct source { /* a picture; those of a class follow each other */
    const uint8_t *rgb;
    int    w, h;
    double end; /* pixels of its class up to here */
} source;

typedef struct source_class { double weight; int first, n; } source_class;

typedef struct drawn { /* of a patch */
    const uint8_t *rgb; /* its first pixel */
    uint64_t noise;     /* state of the generator behind it */
    int   row;          /* of the picture, pixels */
    int   swap, fx, fy, turned, channels; /* channels: three digits */
    float co, si, con, off;
    float quality, share; /* share: of the second anchor of the gains */
    int   anchor;
    float bit, scale;   /* weights of a bit, of a squared error */
    double bits, psnr;
} drawn;

typedef struct draw_args {
    const source *src;
    const source_class *cls;
    const orders *in;
    drawn *to;
    int   n_classes, size;
    float vivid, low, high;
} draw_args;

NSVQ_HD const source *choose_source(const draw_args *a, uint64_t *rng)
{
    double u = random_unit(rng);
    int c = 0;
    while (c < a->n_classes - 1 && u >= a->cls[c].weight) u -= a->cls[c++].weight;
    while (a->cls[c].weight == 0.) c = (c + 1) % a->n_classes;
    int low = a->cls[c].first, high = low + a->cls[c].n - 1;
    const double at = random_unit(rng) * a->src[high].end;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (at < a->src[middle].end)
            high = middle;
        else
            low = middle + 1;
    }
    return &a->src[low];
}

NSVQ_HD void draw_colours(drawn *p, uint64_t *rng)
{
    const int order = random_unit(rng) < 0.5f ? (int)random_below(rng, 6) : 0;
    const float angle = 6.2831853f * random_unit(rng), sat = 0.6f + 1.2f * random_unit(rng);
    p->channels = order == 0 ? 012 : order == 1 ? 021 : order == 2 ? 0102 : order == 3 ? 0120 : order == 4 ? 0201
                                                                                                           : 0210;
    p->con = 0.75f + 0.5f * random_unit(rng);
    p->off = 30.f * (random_unit(rng) - 0.5f);
    p->co = sat * cosf(angle);
    p->si = sat * sinf(angle) / 1.7320508f;
}

NSVQ_HD void draw_body(const draw_args *a, uint32_t i)
{
    drawn *p = &a->to[i];
    uint64_t rng = a->in->seed + (uint64_t)i * 0x5851F42D4C957F2Du;
    const source *s = choose_source(a, &rng);
    const uint64_t turn = random_u64(&rng);
    const uint32_t x0 = random_below(&rng, (uint32_t)(s->w - a->size + 1));
    const uint32_t y0 = random_below(&rng, (uint32_t)(s->h - a->size + 1));
    p->swap = (int)(turn & 1);
    p->fx = (int)(turn & 2);
    p->fy = (int)(turn & 4);
    p->row = s->w;
    p->rgb = s->rgb + ((size_t)y0 * (size_t)s->w + x0) * 3;
    p->turned = random_unit(&rng) < a->vivid;
    if (p->turned) draw_colours(p, &rng);
    p->quality = rintf((a->low + (a->high - a->low) * random_unit(&rng)) * 16.f) / 16.f;
    const float x = p->quality / HYPER_ANCHOR;
    p->anchor = x < 0.f ? 0 : x < NSVQ_N_GAINS - 1 ? (int)x : NSVQ_N_GAINS - 2;
    p->share = x - (float)p->anchor;
    p->noise = rng;
}

typedef struct cut_pixels_args { const drawn *p; array to; int size; } cut_pixels_args;

/* A pixel -> its place in [size / 4][size / 4][48]. */
NSVQ_HD void cut_pixels_body(const cut_pixels_args *a, uint32_t i)
{
    const int size = a->size, x = (int)(i % (uint32_t)size), row = (int)(i / (uint32_t)size);
    const int y = row % size, last = size - 1;
    const drawn *p = &a->p[row / size];
    const int tx = p->swap ? y : x, ty = p->swap ? x : y;
    const int sx = p->fx ? last - tx : tx, sy = p->fy ? last - ty : ty;
    const uint8_t *rgb = p->rgb + ((size_t)sy * (size_t)p->row + (size_t)sx) * 3;
    const size_t at = ((size_t)(row / 4) * (size_t)(size / 4) + (size_t)(x / 4)) * 48 +
                      (size_t)(y % 4 * 12 + x % 4 * 3);
    float c[3];
    for (int b = 0; b < 3; b++) c[b] = rgb[p->turned ? p->channels >> (6 - 3 * b) & 7 : b];
    const float grey = (c[0] + c[1] + c[2]) / 3.f;
    for (int b = 0; b < 3; b++) {
        float v = c[b];
        if (p->turned) {
            const float turned = p->co * (c[b] - grey) + p->si * (c[(b + 1) % 3] - c[(b + 2) % 3]);
            v = (grey + turned - 128.f) * p->con + 128.f + p->off;
            v = v < 0.f ? 0.f : v > 255.f ? 255.f : floorf(v + 0.5f);
        }
        put(a->to, at + (size_t)b, (v - 128.f) / 64.f);
    }
}

NSVQ_HD float step_of(float quality)
{
    return 0.5f * exp2f((50.f - quality) / 20.f);
}

typedef struct steps_args { /* log_step [batch][latent]: log2 of the steps; z_log_step [batch][z] */
    const drawn *p;
    const float *gain, *z_gain;
    float *log_step, *z_log_step;
    int latent, z;
} steps_args;

NSVQ_HD void steps_body(const steps_args *a, uint32_t i)
{
    const int all = a->latent + a->z, c = (int)(i % (uint32_t)all), b = (int)(i / (uint32_t)all);
    const drawn *p = &a->p[b];
    if (c < a->latent) {
        const float *g = a->gain + p->anchor * a->latent + c;
        a->log_step[b * a->latent + c] =
            log2f(step_of(p->quality)) + (1.f - p->share) * g[0] + p->share * g[a->latent];
    } else {
        const float *g = a->z_gain + p->anchor * a->z + (c - a->latent);
        a->z_log_step[b * a->z + c - a->latent] = (1.f - p->share) * g[0] + p->share * g[a->z];
    }
}

/* ---- layers ---- */

typedef struct cast_args { array x, y; } cast_args; /* y = x, four values */

NSVQ_HD void cast_body(const cast_args *a, uint32_t i)
{
    float v[4];
    get4(v, a->x, (size_t)i * 4);
    put4(a->y, (size_t)i * 4, v);
}

/* y = relu(depthwise(x) + b); without b: y = or += the same with the kernel turned round, no ReLU. Four
 * positions of a row, eight channels. wt [k][k][c], x and y [rows / h][h][w][c]. */
typedef struct depthwise_args { array x, wt, b, y; int h, w, c, add; } depthwise_args;
typedef depthwise_args depthwise3_args;
typedef depthwise_args depthwise5_args;

NSVQ_HD void depthwise_k(const depthwise_args *a, uint32_t i, const int k)
{
    const uint32_t groups = (uint32_t)a->c / 8, along = ((uint32_t)a->w + 3) / 4;
    const size_t c = (size_t)a->c, c0 = i % groups * 8;
    const int ox = (int)(i / groups % along) * 4, row = (int)(i / groups / along), oy = row % a->h;
    const int r = k / 2, n = a->w - ox < 4 ? a->w - ox : 4, turned = !a->b.p;
    float acc[4][8], v[8], t[8];
    UNROLL for (int o = 0; o < 4; o++) {
        UNROLL for (int e = 0; e < 8; e++) acc[o][e] = 0.f;
        if (a->b.p) get8(acc[o], a->b, c0);
        if (a->add && o < n) get8(acc[o], a->y, ((size_t)row * (size_t)a->w + (size_t)(ox + o)) * c + c0);
    }
    for (int ky = 0; ky < k; ky++) {
        const int dy = ky - r;
        if (oy + dy < 0 || oy + dy >= a->h) continue;
        float wt[5][8];
        UNROLL for (int kx = 0; kx < k; kx++) {
            const int tap = ky * k + kx;
            get8(wt[kx], a->wt, (size_t)(turned ? k * k - 1 - tap : tap) * c + c0);
        }
        UNROLL for (int j = 0; j < k + 3; j++) {
            const int ix = ox + j - r;
            if (ix < 0 || ix >= a->w) continue;
            get8(v, a->x, ((size_t)(row + dy) * (size_t)a->w + (size_t)ix) * c + c0);
            UNROLL for (int o = 0; o < 4; o++)
                if (j - o >= 0 && j - o < k)
                    UNROLL for (int e = 0; e < 8; e++) acc[o][e] += v[e] * wt[j - o][e];
        }
    }
    UNROLL for (int o = 0; o < 4; o++) {
        if (o >= n) continue;
        UNROLL for (int e = 0; e < 8; e++) t[e] = !a->b.p || acc[o][e] > 0.f ? acc[o][e] : 0.f;
        put8(a->y, ((size_t)row * (size_t)a->w + (size_t)(ox + o)) * c + c0, t);
    }
}

NSVQ_HD void depthwise3_body(const depthwise_args *a, uint32_t i)
{
    depthwise_k(a, i, 3);
}

NSVQ_HD void depthwise5_body(const depthwise_args *a, uint32_t i)
{
    depthwise_k(a, i, 5);
}

/* Sums over a row of the picture of dy x: [rows][k][k][c], one row of the kernel and eight channels. */
typedef struct depthwise_w_args { array dy, x; float *to; int h, w, c; } depthwise_w_args;
typedef depthwise_w_args depthwise_w3_args;
typedef depthwise_w_args depthwise_w5_args;

NSVQ_HD void depthwise_w_k(const depthwise_w_args *a, uint32_t i, const int k)
{
    const uint32_t groups = (uint32_t)a->c / 8;
    const size_t c = (size_t)a->c, c0 = i % groups * 8;
    const int ky = (int)(i / groups % (uint32_t)k), row = (int)(i / groups / (uint32_t)k);
    const int r = k / 2, dy = ky - r, iy = row % a->h + dy;
    float acc[5][8], d[8], v[8];
    UNROLL for (int kx = 0; kx < k; kx++)
        UNROLL for (int e = 0; e < 8; e++) acc[kx][e] = 0.f;
    for (int ox = 0; iy >= 0 && iy < a->h && ox < a->w; ox++) {
        get8(d, a->dy, ((size_t)row * (size_t)a->w + (size_t)ox) * c + c0);
        UNROLL for (int kx = 0; kx < k; kx++) {
            const int ix = ox + kx - r;
            if (ix < 0 || ix >= a->w) continue;
            get8(v, a->x, ((size_t)(row + dy) * (size_t)a->w + (size_t)ix) * c + c0);
            UNROLL for (int e = 0; e < 8; e++) acc[kx][e] += d[e] * v[e];
        }
    }
    const array to = {a->to, 1};
    UNROLL for (int kx = 0; kx < k; kx++)
        put8(to, ((size_t)row * (size_t)(k * k) + (size_t)(ky * k + kx)) * c + c0, acc[kx]);
}

NSVQ_HD void depthwise_w3_body(const depthwise_w_args *a, uint32_t i)
{
    depthwise_w_k(a, i, 3);
}

NSVQ_HD void depthwise_w5_body(const depthwise_w_args *a, uint32_t i)
{
    depthwise_w_k(a, i, 5);
}

/* deep [rows / k][w / k][k][k][c] from or to flat [rows][w][c], eight values; they are of one type. */
typedef struct depth_args { array flat, deep; int w, c, k, add; } depth_args;
typedef depth_args to_depth_args;
typedef depth_args from_depth_args;

NSVQ_HD size_t flat_place(const depth_args *a, uint32_t at)
{
    const uint32_t c = (uint32_t)a->c, k = (uint32_t)a->k, run = k * c, e = at % run, block = at / run;
    const uint32_t ky = block % k, across = (uint32_t)a->w / k, x = block / k % across, y = block / k / across;
    return ((size_t)(y * k + ky) * (size_t)a->w + (size_t)x * k) * c + e;
}

NSVQ_HD void to_depth_body(const depth_args *a, uint32_t i)
{
    float v[8];
    get8(v, a->flat, flat_place(a, i * 8));
    put8(a->deep, (size_t)i * 8, v);
}

NSVQ_HD void from_depth_body(const depth_args *a, uint32_t i)
{
    float v[8], before[8];
    const size_t at = flat_place(a, i * 8);
    get8(v, a->deep, (size_t)i * 8);
    if (a->add) get8(before, a->flat, at);
    for (int k = 0; a->add && k < 8; k++) v[k] += before[k];
    put8(a->flat, at, v);
}

/* Where y is given, dy [n][c] is masked by y > 0; sums of SUM_ROWS rows of it go to [..][c]. Four
 * channels. */
typedef struct mask_sum_args { array dy, y; float *to; int n, c; } mask_sum_args;

NSVQ_HD void mask_sum_body(const mask_sum_args *a, uint32_t i)
{
    const uint32_t groups = (uint32_t)a->c / 4, chunk = i / groups, c0 = i % groups * 4;
    const int from = (int)chunk * SUM_ROWS, end = from + SUM_ROWS < a->n ? from + SUM_ROWS : a->n;
    float sum[4] = {0.f, 0.f, 0.f, 0.f}, d[4], y[4];
    for (int row = from; row < end; row++) {
        const size_t at = (size_t)row * (size_t)a->c + c0;
        get4(d, a->dy, at);
        if (a->y.p) {
            get4(y, a->y, at);
            UNROLL for (int k = 0; k < 4; k++) d[k] = y[k] > 0.f ? d[k] : 0.f;
            put4(a->dy, at, d);
        }
        UNROLL for (int k = 0; k < 4; k++) sum[k] += d[k];
    }
    const array to = {a->to, 1};
    put4(to, (size_t)chunk * (size_t)a->c + c0, sum);
}

/* from [n][c] -> to, sums of `per` rows each, `stride` from row to row. */
typedef struct fold_args { const float *from; float *to; int n, c, per, stride; } fold_args;

NSVQ_HD void fold_body(const fold_args *a, uint32_t i)
{
    const int c = (int)(i % (uint32_t)a->c), group = (int)(i / (uint32_t)a->c), from = group * a->per;
    const int end = from + a->per < a->n ? from + a->per : a->n;
    float sum = 0.f;
    UNROLL for (int row = from; row < end; row++) sum += a->from[(size_t)row * (size_t)a->c + (size_t)c];
    a->to[(size_t)group * (size_t)a->stride + (size_t)c] = sum;
}

/* from [FOLDS][n]: the sum of column i goes to to[place[i]]. */
typedef struct collect_args { const float *from; float *to; const uint32_t *place; int n; } collect_args;

NSVQ_HD void collect_body(const collect_args *a, uint32_t i)
{
    float sum = 0.f;
    UNROLL for (int row = 0; row < FOLDS; row++) sum += a->from[(size_t)row * (size_t)a->n + i];
    a->to[a->place[i]] = sum;
}

/* ---- quantiser: as hyper.c ---- */

typedef struct latent_args { /* of all kernels of the quantiser */
    const drawn *p;
    int   batch, n, latent, n_z, z, per, w; /* per patch: n latents, w in a row; n_z hyper-latents */
    const int *row_of, *at_row;
    const float *y;            /* raster, [latent] */
    float *y_hat;              /* raster, [latent + 4] */
    array side;                /* [n_z][per * per][2 latent] log2 scales, means */
    const float *log_step, *z_log_step;
    float *t, *r, *dv, *ds;    /* coded */
    const float *z_y, *z_mean, *z_scale; /* what ha gives; parameters */
    float *z_in;               /* [latent of the hyper kind][z + 4], what hs takes */
    float *z_t, *z_r, *z_dv, *z_ds;
    float *bits;               /* [parts of a patch][batch] */
    /* A pass: rows from first on, of patches has each. near [n][4] in coded order: neighbours. */
    const int *near;
    const float *mean;         /* what its predictor says, NULL: nothing */
    float *ctx;
    int   first, has, before;  /* before: latents of a patch in earlier passes */
    /* Backwards. */
    const float *g_y_hat, *g_z_in;
    float *g_y, *g_mu, *g_side, *g_z, *gain_part, *z_gain_part, *z_mean_part, *z_scale_part;
} latent_args;
typedef latent_args quantise_z_args;
typedef latent_args context_args;
typedef latent_args quantise_y_args;
typedef latent_args rates_z_args;
typedef latent_args rates_y_args;
typedef latent_args back_y_args;
typedef latent_args back_z_args;

NSVQ_HD float side_input(const drawn *p, int k) /* k >= 0 behind the channels */
{
    return k ? 0.f : (p->quality - 50.f) * 0.5f;
}

NSVQ_HD void quantise_z_body(const latent_args *a, uint32_t i)
{
    const int Z = a->z, c = (int)(i % (uint32_t)(Z + NSVQ_N_EXTRA)), at = (int)(i / (uint32_t)(Z + NSVQ_N_EXTRA));
    const int b = at / a->n_z;
    if (c >= Z) {
        a->z_in[i] = side_input(&a->p[b], c - Z);
        return;
    }
    const float step = exp2f(a->z_log_step[b * Z + c]), v = (a->z_y[at * Z + c] - a->z_mean[c]) / step;
    const float t = fmaxf(-HYPER_MAX_Z, fminf(HYPER_MAX_Z, v)), r = rintf(t);
    a->z_t[at * Z + c] = t;
    a->z_r[at * Z + c] = r;
    a->z_in[i] = r * step + a->z_mean[c];
}

/* Four values of a context. */
NSVQ_HD void context_body(const latent_args *a, uint32_t i)
{
    const int L = a->latent, quads = L + 1, q = (int)(i % (uint32_t)quads), row = (int)(i / (uint32_t)quads);
    const int b = row / a->has, k = a->before + row % a->has, j = q / (L / 4);
    const array to = {a->ctx, 1}, from = {a->y_hat, 1};
    float v[4];
    if (j == NSVQ_N_NEIGHBOURS)
        for (int e = 0; e < 4; e++) v[e] = side_input(&a->p[b], e);
    else
        get4(v, from, (size_t)(b * a->n + a->near[k * NSVQ_N_NEIGHBOURS + j]) * (size_t)(L + NSVQ_N_EXTRA) +
                          (size_t)(q % (L / 4) * 4));
    put4(to, (size_t)(a->first + row) * (size_t)(4 * quads) + (size_t)(q * 4), v);
}

/* Where hs has its results for latent `at` (of all patches). */
NSVQ_HD size_t side_at(const latent_args *a, int at)
{
    const int in = at % a->n, x = in % a->w, y = in / a->w, per = a->per, zw = a->w / per;
    const int z = at / a->n * a->n_z + y / per * zw + x / per;
    return (size_t)(z * per * per + y % per * per + x % per) * 2 * (size_t)a->latent;
}

NSVQ_HD void quantise_y_body(const latent_args *a, uint32_t i)
{
    const int L = a->latent, c = (int)(i % (uint32_t)L), row = a->first + (int)(i / (uint32_t)L);
    const int at = a->at_row[row], b = at / a->n;
    const size_t j = (size_t)row * (size_t)L + (size_t)c;
    const float step = exp2f(a->log_step[b * L + c]);
    const float mu = get(a->side, side_at(a, at) + (size_t)(L + c)) + (a->mean ? a->mean[i] : 0.f);
    const float t = (a->y[(size_t)at * (size_t)L + (size_t)c] - mu) / step, r = rintf(t);
    float *out = a->y_hat + (size_t)at * (size_t)(L + NSVQ_N_EXTRA);
    a->t[j] = t;
    a->r[j] = r;
    out[c] = mu + step * r;
    if (c < NSVQ_N_EXTRA) out[L + c] = side_input(&a->p[b], c);
}

/* As hyper_rate. */
NSVQ_HD float rate_of(float v, float ls, float *dv, float *ds)
{
    const float LOG2E = 1.4426950f;
    const float l = ls < HYPER_LS_MIN ? HYPER_LS_MIN : ls > HYPER_LS_MAX ? HYPER_LS_MAX : ls;
    const float is = exp2f(-l), far = 0.5f + 50.f * exp2f(l), m = fabsf(v), x = m > far ? far : m;
    const float ea = exp2f((x - 0.5f) * is * LOG2E), eb = exp2f((x + 0.5f) * is * LOG2E);
    const float A = 1.f / (1.f + ea), B = 1.f / (1.f + eb), p = A - B + 1e-37f;
    const float fa = A * (1.f - A), fb = B * (1.f - B), c = LOG2E / p * is;
    float d = c * (fa - fb), e = -c * LN2 * (fa * (x - 0.5f) - fb * (x + 0.5f));
    d = d > HYPER_MAX_SLOPE ? HYPER_MAX_SLOPE : d;
    e = e < -HYPER_MAX_SLOPE ? -HYPER_MAX_SLOPE : e;
    *dv = v < 0.f ? -d : d;
    *ds = (ls <= HYPER_LS_MIN && e > 0.f) || (ls >= HYPER_LS_MAX && e < 0.f) ? 0.f : e;
    return -log2f(p);
}

NSVQ_HD float noise_at(uint64_t from, int i) /* the i-th draw from there, in [-1/2, 1/2) */
{
    uint64_t s = from + (uint64_t)i * 0x9E3779B97F4A7C15u;
    return random_unit(&s) - 0.5f;
}

/* Four hyper-latents. */
NSVQ_HD void rates_z_body(const latent_args *a, uint32_t i)
{
    const int Z = a->z, quads = Z / 4, c0 = (int)(i % (uint32_t)quads) * 4, at = (int)(i / (uint32_t)quads);
    const int b = at / a->n_z, in = at % a->n_z;
    float bits = 0.f;
    for (int c = c0; c < c0 + 4; c++) {
        const int j = at * Z + c;
        bits += rate_of(a->z_t[j] + noise_at(a->p[b].noise, in * Z + c), a->z_scale[c] - a->z_log_step[b * Z + c],
                        &a->z_dv[j], &a->z_ds[j]);
    }
    a->bits[(in * quads + c0 / 4) * a->batch + b] = bits;
}

/* Four channels of a latent. */
NSVQ_HD void rates_y_body(const latent_args *a, uint32_t i)
{
    const int L = a->latent, quads = L / 4, c0 = (int)(i % (uint32_t)quads) * 4, row = (int)(i / (uint32_t)quads);
    const int at = a->at_row[row], b = at / a->n, in = at % a->n, z = a->n_z * a->z;
    const size_t side = side_at(a, at);
    float bits = 0.f;
    for (int c = c0; c < c0 + 4; c++) {
        const size_t j = (size_t)row * (size_t)L + (size_t)c;
        bits += rate_of(a->t[j] + noise_at(a->p[b].noise, z + in * L + c),
                        get(a->side, side + (size_t)c) - a->log_step[b * L + c], &a->dv[j], &a->ds[j]);
    }
    a->bits[(z / 4 + in * quads + c0 / 4) * a->batch + b] = bits;
}

/* Gradients of SUM_ROWS latents' channel c: of y, of what hs gives, of the predictors' results, and the
 * sum of those of log2(step). */
NSVQ_HD void back_y_body(const latent_args *a, uint32_t i)
{
    const int L = a->latent, c = (int)(i % (uint32_t)L), chunk = (int)(i / (uint32_t)L), from = chunk * SUM_ROWS;
    const int b = from / a->n;
    const float step = exp2f(a->log_step[b * L + c]), weight = a->p[b].bit;
    float sum = 0.f;
    for (int at = from; at < from + SUM_ROWS; at++) {
        const size_t j = (size_t)a->row_of[at] * (size_t)L + (size_t)c, side = side_at(a, at) + (size_t)c;
        const float gh = a->g_y_hat[(size_t)at * (size_t)(L + NSVQ_N_EXTRA) + (size_t)c];
        const float gt = weight * a->dv[j], gs = weight * a->ds[j], gm = -gt / step;
        a->g_y[(size_t)at * (size_t)L + (size_t)c] = gh - gm;
        a->g_mu[j] = gm;
        a->g_side[side] = gs;
        a->g_side[side + (size_t)L] = gm;
        sum += -gs + LN2 * (gh * (a->r[j] - a->t[j]) * step - gt * a->t[j]);
    }
    a->gain_part[i] = sum;
}

/* Channel c of a patch's hyper-latents. */
NSVQ_HD void back_z_body(const latent_args *a, uint32_t i)
{
    const int Z = a->z, c = (int)(i % (uint32_t)Z), b = (int)(i / (uint32_t)Z);
    const float step = exp2f(a->z_log_step[b * Z + c]), weight = a->p[b].bit;
    float gain = 0.f, mean = 0.f, scale = 0.f;
    for (int at = b * a->n_z; at < (b + 1) * a->n_z; at++) {
        const int j = at * Z + c;
        const float gi = a->g_z_in[at * (Z + NSVQ_N_EXTRA) + c], t = a->z_t[j];
        const float gt = weight * a->z_dv[j], gs = weight * a->z_ds[j], g = gi + gt / step;
        a->g_z[j] = fabsf(t) >= HYPER_MAX_Z && g * t < 0.f ? 0.f : g;
        mean -= gt / step;
        scale += gs;
        gain += -gs + LN2 * (gi * (a->z_r[j] - t) * step - gt * t);
    }
    a->z_gain_part[i] = gain;
    a->z_mean_part[i] = mean;
    a->z_scale_part[i] = scale;
}

/* from [batch][c] -> gradients [NSVQ_N_GAINS][c] of the gains. */
typedef struct gain_grad_args { const drawn *p; const float *from; float *to; int batch, c; } gain_grad_args;

NSVQ_HD void gain_grad_body(const gain_grad_args *a, uint32_t i)
{
    const int c = (int)(i % (uint32_t)a->c), anchor = (int)(i / (uint32_t)a->c);
    float sum = 0.f;
    for (int b = 0; b < a->batch; b++) {
        const drawn *p = &a->p[b];
        const float share = p->anchor == anchor ? 1.f - p->share : p->anchor + 1 == anchor ? p->share : 0.f;
        sum += share * a->from[b * a->c + c];
    }
    a->to[i] = sum;
}

/* ---- loss ---- */

/* x what is wanted, o what came out, each [batch][n]: squared errors of SUM_ROWS values to
 * [n / SUM_ROWS][batch]; the gradient of o, four values. */
typedef struct error_args { const drawn *p; array x, o, g; float *to; int batch, n; } error_args;
typedef error_args error_back_args;

NSVQ_HD void error_body(const error_args *a, uint32_t i)
{
    const int parts = a->n / SUM_ROWS, b = (int)i / parts, part = (int)i % parts;
    float sum = 0.f, x[4], o[4];
    for (int k = 0; k < SUM_ROWS; k += 4) {
        get4(x, a->x, (size_t)i * SUM_ROWS + (size_t)k);
        get4(o, a->o, (size_t)i * SUM_ROWS + (size_t)k);
        UNROLL for (int e = 0; e < 4; e++) sum += (o[e] - x[e]) * (o[e] - x[e]);
    }
    a->to[part * a->batch + b] = sum;
}

NSVQ_HD void error_back_body(const error_args *a, uint32_t i)
{
    const float scale = 2.f * a->p[i / (uint32_t)(a->n / 4)].scale;
    float x[4], o[4];
    get4(x, a->x, (size_t)i * 4);
    get4(o, a->o, (size_t)i * 4);
    UNROLL for (int e = 0; e < 4; e++) o[e] = scale * (o[e] - x[e]);
    put4(a->g, (size_t)i * 4, o);
}

/* A patch: bits and squared errors [FOLDS][batch] -> its weights, figures. n: values; coarse, least: of
 * hyper_balance(). */
typedef struct weigh_args { drawn *p; const float *bits, *errors; int batch, n; float coarse, least; } weigh_args;

NSVQ_HD void weigh_body(const weigh_args *a, uint32_t i)
{
    drawn *p = &a->p[i];
    double bits = 0., errors = 0.;
    for (int k = 0; k < FOLDS; k++) {
        bits += a->bits[k * a->batch + (int)i];
        errors += a->errors[k * a->batch + (int)i];
    }
    const float step = step_of(p->quality) * a->coarse;
    p->bit = 1.f / (float)a->batch / (float)(bits + a->n / 3. * (double)a->least);
    p->scale = p->bit / (HYPER_RATE * step * step);
    p->bits = bits;
    p->psnr = 10 * log10(255. * 255 / (errors / a->n * 64 * 64 + 1e-9));
}

typedef struct tally_args { const drawn *p; run_state *s; int batch; } tally_args; /* one thread */

NSVQ_HD void tally_body(const tally_args *a, uint32_t i)
{
    double bits = 0., psnr = 0.;
    for (int b = 0; b < a->batch; b++) {
        bits += a->p[b].bits;
        psnr += a->p[b].psnr;
    }
    a->s->bits += bits;
    a->s->psnr += psnr;
    a->s->patches += a->batch;
    a->s->bad = 0;
}

/* ---- optimiser: as train_update ---- */

typedef struct stretch { uint32_t at, n; } stretch;

/* to[i]: sum over a stretch, of the squares if squares; where whole is given, sets bad if that is not
 * finite. */
typedef struct sum_span_args {
    const float *from;
    const stretch *of;
    float *to;
    run_state *whole;
    int squares;
} sum_span_args;

NSVQ_HD void sum_span_body(const sum_span_args *a, uint32_t i)
{
    const stretch s = a->of[i];
    float sum = 0.f;
    for (uint32_t k = s.at; k < s.at + s.n; k++) sum += a->squares ? a->from[k] * a->from[k] : a->from[k];
    a->to[i] = sum;
    if (a->whole && !(sum < 3e38f)) a->whole->bad = 1;
}

typedef struct advance_args { run_state *s; } advance_args; /* one thread */

NSVQ_HD void advance_body(const advance_args *a, uint32_t i)
{
    run_state *s = a->s;
    if (s->bad) {
        s->left_out++;
        return;
    }
    const float n = (float)++s->moments;
    s->c1 = 1.f - powf(0.9f, n);
    s->c2 = 1.f - powf(0.999f, n);
    s->keep = fminf(0.999f, (1.f + n) / (10.f + n));
}

typedef struct seg_rates { /* a segment of the store */
    uint32_t at, n_columns;
    const float *column; /* NULL: none */
    float lr, decay;     /* decay: of the rate */
    int   matrix;        /* its number among those that step by Muon, or -1 */
    uint32_t x;          /* where it lies among them */
    float size;          /* of its step, of the rate */
} seg_rates;

typedef struct clip_norm_args { const run_state *s; const float *squares; float *running, *scale; } clip_norm_args;

NSVQ_HD void clip_norm_body(const clip_norm_args *a, uint32_t i)
{
    const float norm = sqrtf(a->squares[i]), most = 2.f * a->running[i];
    if (a->s->bad) return;
    const float f = most > 0.f && norm > most ? most / norm : 1.f;
    a->running[i] = most > 0.f ? 0.98f * a->running[i] + 0.02f * norm * f : norm;
    a->scale[i] = f;
}

/* Momenta of matrices, and x: those a step ahead. */
typedef struct muon_ahead_args {
    const run_state *s;
    const seg_rates *parts;
    const uint16_t *part_of; /* of each 16 parameters */
    const float *g, *scale;
    float *m, *x;
} muon_ahead_args;

NSVQ_HD void muon_ahead_body(const muon_ahead_args *a, uint32_t i)
{
    const int at = a->part_of[i / 16];
    const seg_rates *t = &a->parts[at];
    const uint32_t k = i - t->at;
    if (a->s->bad || t->matrix < 0) return;
    const float g = a->scale[at] * a->g[i] * (t->column ? t->column[k % t->n_columns] : 1.f);
    const float m = MUON_MOMENTUM * a->m[i] + (1.f - MUON_MOMENTUM) * g;
    a->m[i] = m;
    a->x[t->x + k] = MUON_MOMENTUM * m + (1.f - MUON_MOMENTUM) * g;
}

typedef struct muon_square { uint32_t at, side; } muon_square; /* Gram matrix of matrix k, what it becomes */

typedef struct muon_trace_args { const muon_square *of; const float *s; float *to; } muon_trace_args;

NSVQ_HD void muon_trace_body(const muon_trace_args *a, uint32_t i)
{
    const muon_square q = a->of[i];
    float sum = 0.f;
    UNROLL for (uint32_t k = 0; k < q.side; k++) sum += a->s[q.at + k * (q.side + 1)];
    a->to[i] = sum + 1e-30f;
}

/* square_of: of each 16 elements of the squares. */
typedef struct muon_scale_args { const uint16_t *square_of; const float *trace; float *s; } muon_scale_args;

NSVQ_HD void muon_scale_body(const muon_scale_args *a, uint32_t i)
{
    a->s[i] /= a->trace[a->square_of[i / 16]];
}

/* t, which is s s, becomes the polynomial of s. */
typedef struct muon_sum_args {
    const muon_square *of;
    const uint16_t *square_of;
    const float *s;
    float *t;
} muon_sum_args;

NSVQ_HD void muon_sum_body(const muon_sum_args *a, uint32_t i)
{
    const muon_square q = a->of[a->square_of[i / 16]];
    const float one = (i - q.at) % (q.side + 1) ? 0.f : MUON_A;
    a->t[i] = MUON_B * a->s[i] + MUON_D * a->t[i] + one;
}

/* x: steps of matrices, but for the root of the trace. low: the parameters in bfloat16, or none. */
typedef struct move_args {
    const run_state *s;
    const orders *in;
    const seg_rates *parts;
    const uint16_t *part_of;
    const float *g, *scale, *x, *trace;
    float *p, *m, *v, *mean;
    array low;
} move_args;

/* Moments and what AdamW takes off a parameter. */
NSVQ_HD float adamw(const move_args *a, int at, uint32_t i, float rate)
{
    const float b1 = 0.9f, b2 = 0.999f, g = a->scale[at] * a->g[i];
    const float m = b1 * a->m[i] + (1.f - b1) * g, v = b2 * a->v[i] + (1.f - b2) * g * g;
    a->m[i] = m;
    a->v[i] = v;
    return rate * (m / a->s->c1) / (sqrtf(v / a->s->c2) + 1e-10f);
}

NSVQ_HD void move_body(const move_args *a, uint32_t i)
{
    const int at = a->part_of[i / 16];
    const seg_rates *t = &a->parts[at];
    const uint32_t k = i - t->at;
    if (a->s->bad) return;
    const float all = a->in->lr * t->lr, rate = t->column ? all * t->column[k % t->n_columns] : all;
    const int matrix = t->matrix >= 0;
    const float off = matrix ? rate * t->size * (a->x[t->x + k] / sqrtf(a->trace[t->matrix])) : adamw(a, at, i, rate);
    const float p = a->p[i] - off - all * t->decay * (matrix ? a->p[i] - off : a->p[i]);
    a->p[i] = p;
    a->mean[i] = a->s->keep * a->mean[i] + (1.f - a->s->keep) * p;
    if (a->low.p) put(a->low, i, p);
}

#endif
