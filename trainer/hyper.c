/* hyper.c - quantiser of the hyper family in float. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fast.h"
#include "hyper.h"
#include "order.h"
#include "random.h"

#define LN2 0.69314718f
#define LOG2E 1.4426950f

void hyper_build(hyper *q, store *s, int stride, int latent, int z, int wide, int side)
{
    const int per = NSVQ_Z_STRIDE / stride;
    *q = (hyper){.latent = latent, .z = z, .per = per, .side = side,
                 .context = NSVQ_N_NEIGHBOURS * latent + NSVQ_N_EXTRA};
    network *a = &q->ha, *n = &q->hs;
    a->channels[0] = latent;
    int x = net_pointwise(a, s, 0, -1, wide, NSVQ_S16, NSVQ_S16);
    for (int left = per; left > 1; left /= 2) {
        x = net_pointwise(a, s, net_depthwise(a, s, x, 3), x, wide, NSVQ_U8, NSVQ_S16);
        x = net_pointwise(a, s, net_space_to_depth(a, x, 2), -1, left > 2 ? wide : z, NSVQ_S16, NSVQ_S16);
    }
    n->channels[0] = z + NSVQ_N_EXTRA;
    x = net_pointwise(n, s, 0, -1, wide, NSVQ_S16, NSVQ_S16);
    x = net_pointwise(n, s, net_depthwise(n, s, x, 3), x, wide, NSVQ_U8, NSVQ_S16);
    x = net_pointwise(n, s, net_depthwise(n, s, x, 3), -1, per * per * side, NSVQ_U8, NSVQ_U8);
    net_pointwise_rep(n, s, x, -1, per * per, 2 * latent, NSVQ_U8, NSVQ_S16);
    for (int p = 1; p < NSVQ_N_PASSES; p++)
        q->mean[p] = layer_plain(s, q->context, latent, NSVQ_S16, NSVQ_S16);
    q->gain = store_add(s, (size_t)NSVQ_N_GAINS * latent, 0);
    q->z_mean = store_add(s, (size_t)z, 0);
    q->z_scale = store_add(s, (size_t)z, 0);
    q->z_gain = store_add(s, (size_t)NSVQ_N_GAINS * z, 0);
    q->tables.lambda = (int)lrintf(HYPER_CHOICE * 1024.f);
    tables_make(&q->tables, NULL);
    q->column = calloc((size_t)(q->context + z + NSVQ_N_EXTRA), sizeof *q->column);
    if (!q->column) abort();
}

float hyper_step(float quality)
{
    return 0.5f * exp2f((50.f - quality) / 20.f);
}

balance hyper_balance(int stride)
{
    return stride == 16 ? (balance){2.378f, 0.5f, 0.05f} : (balance){1.f, 1.f, 0.2f};
}

float hyper_quality(float quality)
{
    return (quality - 50.f) * 0.5f;
}

/* Share of the second of two anchors, the first in *at. */
static float gain_place(float quality, int *at)
{
    const float x = quality / HYPER_ANCHOR;
    *at = x < 0.f ? 0 : x < NSVQ_N_GAINS - 1 ? (int)x : NSVQ_N_GAINS - 2;
    return x - (float)*at;
}

static void reserve(const hyper *q, hyper_patch *p, int n)
{
    if (n <= p->cap) return;
    const size_t m = (size_t)n * q->latent, nz = (size_t)n / (size_t)(q->per * q->per) * q->z;
    const size_t n_ctx = (size_t)n * q->context, n_exact[3] = {n_ctx, m, m};
    float **of_latents[] = {&p->y, &p->mu, &p->ls, &p->t, &p->r, &p->dv, &p->ds, &p->tmp};
    float **of_z[] = {&p->z_t, &p->z_r, &p->z_dv, &p->z_ds};
    for (size_t i = 0; i < sizeof of_latents / sizeof *of_latents; i++)
        *of_latents[i] = grow(*of_latents[i], m);
    for (size_t i = 0; i < sizeof of_z / sizeof *of_z; i++) *of_z[i] = grow(*of_z[i], nz);
    for (int i = 0; i < 3; i++) {
        free(p->exact[i]);
        p->exact[i] = malloc(n_exact[i] * sizeof *p->exact[i]);
        if (!p->exact[i]) abort();
    }
    free(p->cls);
    free(p->z_cls);
    p->cls = malloc(m);
    p->z_cls = malloc((size_t)q->z);
    if (!p->cls || !p->z_cls) abort();
    p->ctx = grow(p->ctx, n_ctx);
    p->step = grow(p->step, (size_t)q->latent);
    p->log_step = grow(p->log_step, (size_t)q->latent);
    p->z_step = grow(p->z_step, (size_t)q->z);
    p->z_log_step = grow(p->z_log_step, (size_t)q->z);
    free(p->pos);
    p->pos = malloc((size_t)n * sizeof *p->pos);
    if (!p->pos) abort();
    p->cap = n;
}

void hyper_patch_free(hyper_patch *p)
{
    workspace_free(&p->ha);
    workspace_free(&p->hs);
    free(p->pos);
    free(p->y); free(p->mu); free(p->ls); free(p->t); free(p->r); free(p->dv); free(p->ds);
    free(p->ctx); free(p->tmp);
    free(p->z_t); free(p->z_r); free(p->z_dv); free(p->z_ds);
    free(p->step); free(p->z_step); free(p->log_step); free(p->z_log_step);
    for (int i = 0; i < 3; i++) free(p->exact[i]);
    free(p->cls);
    free(p->z_cls);
    memset(p, 0, sizeof *p);
}

/* 2^x and log2(x), relative error 2e-7: written so that the compiler vectorises them. */
INLINE float fast_exp2(float x)
{
    x = x < -126.f ? -126.f : x > 126.f ? 126.f : x;
    const float r = (x + 12582912.f) - 12582912.f, f = x - r;
    float y = 1.3333558e-3f;
    y = y * f + 9.6181291e-3f;
    y = y * f + 5.5504109e-2f;
    y = y * f + 2.4022651e-1f;
    y = y * f + 6.9314718e-1f;
    y = y * f + 1.f;
    union { float f; int32_t i; } u = {y};
    u.i += (int32_t)r * (1 << 23);
    return u.f;
}

INLINE float fast_log2(float x)
{
    union { float f; int32_t i; } u = {x};
    const int32_t e = (u.i - 0x3f3504f3) >> 23;
    u.i -= e * (1 << 23); /* [sqrt(1/2), sqrt(2)) */
    const float m = (u.f - 1.f) / (u.f + 1.f), m2 = m * m;
    float y = 2.f / 9 * m2 + 2.f / 7;
    y = y * m2 + 2.f / 5;
    y = y * m2 + 2.f / 3;
    y = y * m2 + 2.f;
    return (float)e + y * m * LOG2E;
}

/* Gradients are bounded, or a few outliers drive the whole network; and a scale beyond the classes is
 * not pushed further, or it runs away: the rate of what is always zero falls with it for ever. */
FAST double hyper_rate(const float *v, const float *ls, float *dv, float *ds, int n)
{
    double sum = 0;
    for (int a = 0; a < n; a += 1024) {
        const int end = n - a < 1024 ? n : a + 1024;
        float bits = 0;
        for (int i = a; i < end; i++) {
            const float l = ls[i] < HYPER_LS_MIN ? HYPER_LS_MIN : ls[i] > HYPER_LS_MAX ? HYPER_LS_MAX : ls[i];
            const float is = fast_exp2(-l), far = 0.5f + 50.f * fast_exp2(l);
            const float m = v[i] < 0.f ? -v[i] : v[i], x = m > far ? far : m;
            const float ea = fast_exp2((x - 0.5f) * is * LOG2E);
            const float eb = fast_exp2((x + 0.5f) * is * LOG2E);
            const float A = 1.f / (1.f + ea), B = 1.f / (1.f + eb);
            const float p = A - B + 1e-37f;
            const float fa = A * (1.f - A), fb = B * (1.f - B);
            const float c = LOG2E / p * is;
            float d = c * (fa - fb); /* d bits / d |v| */
            d = d > HYPER_MAX_SLOPE ? HYPER_MAX_SLOPE : d;
            bits -= fast_log2(p);
            dv[i] = v[i] < 0.f ? -d : d;
            /* d p / d s = (fa (x - 1/2) - fb (x + 1/2)) / s^2; d s / d ls = s ln 2 */
            float e = -c * LN2 * (fa * (x - 0.5f) - fb * (x + 0.5f));
            e = e < -HYPER_MAX_SLOPE ? -HYPER_MAX_SLOPE : e;
            ds[i] = (ls[i] <= HYPER_LS_MIN && e > 0.f) || (ls[i] >= HYPER_LS_MAX && e < 0.f) ? 0.f : e;
        }
        sum += bits;
    }
    return sum;
}

static void find_steps(const hyper *q, const float *params, hyper_patch *p, float quality)
{
    int at;
    const float f = gain_place(quality, &at), base = log2f(hyper_step(quality));
    const float *g = params + q->gain + (size_t)at * q->latent;
    const float *zg = params + q->z_gain + (size_t)at * q->z;
    for (int c = 0; c < q->latent; c++) {
        p->log_step[c] = base + (1.f - f) * g[c] + f * g[q->latent + c];
        p->step[c] = exp2f(p->log_step[c]);
    }
    for (int c = 0; c < q->z; c++) {
        p->z_log_step[c] = (1.f - f) * zg[c] + f * zg[q->z + c];
        p->z_step[c] = exp2f(p->z_log_step[c]);
    }
}

/* Sets the side inputs behind n channels at v. */
static void set_side(float *v, int n, float quality)
{
    memset(v + n, 0, NSVQ_N_EXTRA * sizeof *v);
    v[n] = hyper_quality(quality);
}

void hyper_open(const hyper *q, hyper_patch *p, const float *y, int w, int h)
{
    reserve(q, p, w * h);
    p->w = w;
    p->h = h;
    memcpy(p->y, y, sizeof *y * (size_t)(w * h) * (size_t)q->latent);
    order_positions(p->pos, p->pass_at, w, h);
    workspace_shape(&p->ha, &q->ha, h, w);
    workspace_shape(&p->hs, &q->hs, h / q->per, w / q->per);
    memcpy(p->ha.r[0].v, y, sizeof *y * (size_t)(w * h) * (size_t)q->latent);
}

/* Where hs has its results for latent i of the patch. */
static size_t side_place(const hyper *q, const hyper_patch *p, int i)
{
    const int x = i % p->w, y = i / p->w, per = q->per, zw = p->w / per;
    const int k = y % per * per + x % per;
    return ((size_t)(y / per * zw + x / per) * (size_t)(per * per) + (size_t)k) * 2 * (size_t)q->latent;
}

void hyper_spread(const hyper *q, hyper_patch *p)
{
    const size_t L = (size_t)q->latent;
    const float *out = p->hs.r[q->hs.output].v;
    for (int i = 0; i < p->w * p->h; i++) {
        const float *o = out + side_place(q, p, i);
        memcpy(p->ls + (size_t)i * L, o, sizeof *o * L);
        memcpy(p->mu + (size_t)i * L, o + L, sizeof *o * L);
    }
}

void hyper_context(const hyper *q, hyper_patch *p, int i, const float *y_hat, float quality)
{
    const int L = q->latent;
    float *ctx = p->ctx + (size_t)i * q->context;
    int at[NSVQ_N_NEIGHBOURS];
    const int first = order_neighbours(p->pos[i], p->w, p->h, at);
    for (int j = 0; j < NSVQ_N_NEIGHBOURS; j++)
        memcpy(ctx + (size_t)j * L, y_hat + (size_t)(at[j] < 0 ? first : at[j]) * (L + NSVQ_N_EXTRA),
               sizeof *ctx * (size_t)L);
    set_side(ctx, NSVQ_N_NEIGHBOURS * L, quality);
}

static void quantise_z(const hyper *q, const float *params, hyper_patch *p, float quality)
{
    const int Z = q->z, n = p->w * p->h / (q->per * q->per);
    const float *z = p->ha.r[q->ha.output].v, *mean = params + q->z_mean;
    for (int i = 0; i < n; i++) {
        float *in = p->hs.r[0].v + (size_t)i * (Z + NSVQ_N_EXTRA);
        for (int c = 0; c < Z; c++) {
            const float t = fmaxf(-HYPER_MAX_Z, fminf(HYPER_MAX_Z, (z[i * Z + c] - mean[c]) / p->z_step[c]));
            const float r = rintf(t);
            p->z_t[i * Z + c] = t;
            p->z_r[i * Z + c] = r;
            in[c] = r * p->z_step[c] + mean[c];
        }
        set_side(in, Z, quality);
    }
}

FAST static void quantise_row(const float *y, const float *mu, const float *step, float *t, float *r,
                              float *y_hat, int n)
{
    for (int c = 0; c < n; c++) {
        t[c] = (y[c] - mu[c]) / step[c];
        r[c] = (t[c] + 12582912.f) - 12582912.f;
        y_hat[c] = mu[c] + step[c] * r[c];
    }
}

/* t, r [n][C] -> bits, derivatives; ls [n][C], or [C] for all when fixed. */
static double rates_of(const float *t, const float *r, const float *ls, int fixed, const float *log_step,
                       int n, int C, float *dv, float *ds, uint64_t *noise)
{
    float v[512], l[512];
    double bits = 0;
    for (int i = 0; i < n; i++) {
        const size_t at = (size_t)i * (size_t)C;
        for (int c = 0; c < C; c++) {
            v[c] = noise ? t[at + (size_t)c] + random_unit(noise) - 0.5f : r[at + (size_t)c];
            l[c] = ls[fixed ? (size_t)c : at + (size_t)c] - log_step[c];
        }
        bits += hyper_rate(v, l, dv + at, ds + at, C);
    }
    return bits;
}

void hyper_rates(const hyper *q, const float *params, hyper_patch *p, uint64_t *noise)
{
    const int n = p->w * p->h;
    p->z_bits = rates_of(p->z_t, p->z_r, params + q->z_scale, 1, p->z_log_step, n / (q->per * q->per),
                         q->z, p->z_dv, p->z_ds, noise);
    p->y_bits = rates_of(p->t, p->r, p->ls, 0, p->log_step, n, q->latent, p->dv, p->ds, noise);
}

double hyper_quantise(const hyper *q, const float *params, hyper_patch *p, const float *y, int w, int h,
                      float quality, float *y_hat, uint64_t *noise)
{
    const int L = q->latent;
    hyper_open(q, p, y, w, h);
    find_steps(q, params, p, quality);
    net_forward(&q->ha, params, &p->ha);
    quantise_z(q, params, p, quality);
    net_forward(&q->hs, params, &p->hs);
    hyper_spread(q, p);
    for (int pass = 0; pass < NSVQ_N_PASSES; pass++) {
        const int a = p->pass_at[pass], n = p->pass_at[pass + 1] - a;
        const layer *l = &q->mean[pass];
        for (int i = a; pass && i < a + n; i++) hyper_context(q, p, i, y_hat, quality);
        if (pass && n)
            op_pointwise(p->tmp, p->ctx + (size_t)a * q->context, NULL, params + l->w, params + l->b, n,
                         q->context, L, 0);
        for (int i = 0; i < n; i++) {
            const size_t at = (size_t)p->pos[a + i] * L;
            float *mu = p->mu + at, *out = y_hat + (size_t)p->pos[a + i] * (L + NSVQ_N_EXTRA);
            for (int c = 0; pass && c < L; c++) mu[c] += p->tmp[(size_t)i * L + c];
            quantise_row(p->y + at, mu, p->step, p->t + at, p->r + at, out, L);
            set_side(out, L, quality);
        }
    }
    hyper_rates(q, params, p, noise);
    return p->y_bits + p->z_bits;
}

/* Latents of the patch: gradients of y, of hs' results, of the gains; mu becomes its own gradient. */
FAST static void back_latents(const hyper *q, float *g, hyper_patch *p, float quality, float weight,
                              const float *g_y_hat, float *g_y)
{
    const int L = q->latent;
    float *side = p->hs.r[q->hs.output].g;
    int anchor;
    const float f = gain_place(quality, &anchor);
    float *gain = g + q->gain + (size_t)anchor * L;
    for (int i = 0; i < p->w * p->h; i++) {
        float *o = side + side_place(q, p, i);
        for (int c = 0; c < L; c++) {
            const size_t j = (size_t)i * L + c;
            const float step = p->step[c], gh = g_y_hat[(size_t)i * (L + NSVQ_N_EXTRA) + c];
            const float gt = weight * p->dv[j], gs = weight * p->ds[j], gm = -gt / step;
            g_y[j] = gh - gm;
            p->mu[j] = gm;
            o[c] = gs;
            o[L + c] = gm;
            /* y_hat = mu + step r, and r follows t straight through. */
            const float gl = -gs + LN2 * (gh * (p->r[j] - p->t[j]) * step - gt * p->t[j]);
            gain[c] += (1.f - f) * gl;
            gain[L + c] += f * gl;
        }
    }
}

static void back_z(const hyper *q, float *g, hyper_patch *p, float quality, float weight)
{
    const tensor *in = &p->hs.r[0], *z = &p->ha.r[q->ha.output];
    const int Z = q->z;
    int anchor;
    const float f = gain_place(quality, &anchor);
    float *gain = g + q->z_gain + (size_t)anchor * Z;
    for (int i = 0; i < z->h * z->w; i++)
        for (int c = 0; c < Z; c++) {
            const int j = i * Z + c;
            const float gi = in->g[i * (Z + NSVQ_N_EXTRA) + c], step = p->z_step[c];
            const float gt = weight * p->z_dv[j], gs = weight * p->z_ds[j];
            z->g[j] = gi + gt / step;
            if (fabsf(p->z_t[j]) >= HYPER_MAX_Z && z->g[j] * p->z_t[j] < 0.f) z->g[j] = 0.f;
            g[q->z_mean + (size_t)c] -= gt / step;
            g[q->z_scale + (size_t)c] += gs;
            const float gl = -gs + LN2 * (gi * (p->z_r[j] - p->z_t[j]) * step - gt * p->z_t[j]);
            gain[c] += (1.f - f) * gl;
            gain[Z + c] += f * gl;
        }
}

void hyper_backward(const hyper *q, const float *params, float *g, hyper_patch *p, float quality,
                    float weight, const float *g_y_hat, float *g_y)
{
    const int L = q->latent;
    back_latents(q, g, p, quality, weight, g_y_hat, g_y);
    for (int pass = 1; pass < NSVQ_N_PASSES; pass++) {
        const int a = p->pass_at[pass], n = p->pass_at[pass + 1] - a;
        const layer *l = &q->mean[pass];
        for (int i = 0; i < n; i++)
            memcpy(p->tmp + (size_t)i * L, p->mu + (size_t)p->pos[a + i] * L, sizeof(float) * (size_t)L);
        if (n)
            op_pointwise_back(p->tmp, NULL, p->ctx + (size_t)a * q->context, params + l->w, NULL, 0,
                              g + l->w, g + l->b, n, q->context, L, 0);
    }
    net_backward(&q->hs, params, g, &p->hs, 1);
    back_z(q, g, p, quality, weight);
    net_backward(&q->ha, params, g, &p->ha, 1);
    const float *g_ha = p->ha.r[0].g;
    for (size_t i = 0; i < (size_t)(p->w * p->h) * (size_t)L; i++) g_y[i] += g_ha[i];
}
