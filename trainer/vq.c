/* vq.c - quantiser of the vq family in float. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fast.h"
#include "order.h"
#include "random.h"
#include "vq.h"

void vq_build(vq *q, store *s, int slices, int dim, int codes, int hidden)
{
    *q = (vq){.slices = slices, .dim = dim, .codes = codes, .cells = codes / NSVQ_CELL,
              .hidden = hidden, .latent = slices * dim};
    q->context = NSVQ_N_NEIGHBOURS * q->latent + NSVQ_N_EXTRA;
    for (int p = 0; p < NSVQ_N_PASSES; p++) {
        q->mean[p] = layer_plain(s, q->context, q->latent, NSVQ_S16, NSVQ_S16);
        q->ctx[p] = layer_plain(s, q->context, hidden, NSVQ_S16, NSVQ_S16);
    }
    for (int i = 0; i < slices; i++) {
        if (i) q->prev[i] = layer_plain(s, i * dim, hidden, NSVQ_S16, NSVQ_U8);
        q->logit[i] = layer_plain(s, hidden, q->cells, NSVQ_U8, NSVQ_S16);
        q->shiftm[i] = layer_plain(s, hidden, dim, NSVQ_U8, NSVQ_S16);
    }
    const size_t n = (size_t)slices * codes;
    q->code = calloc(n * dim, sizeof(float));
    q->code_t = aligned_alloc(64, n * dim * sizeof(float));
    q->norm = calloc(n, sizeof(float));
    q->member_bits = calloc(n, sizeof(float));
    q->ema_n = calloc(n, sizeof(float));
    q->ema_sum = calloc(n * dim, sizeof(float));
    q->spare = calloc((size_t)slices * q->cells * dim, sizeof(float));
}

void vq_refresh(vq *q)
{
    const int d = q->dim;
    for (int s = 0; s < q->slices; s++)
        for (int k = 0; k < q->codes; k++) {
            const float *c = q->code + ((size_t)s * q->codes + k) * d;
            float *t = q->code_t + (size_t)s * q->codes * d + (size_t)(k / 16) * d * 16 + k % 16;
            float sum = 0;
            for (int i = 0; i < d; i++) {
                t[i * 16] = c[i];
                sum += c[i] * c[i];
            }
            q->norm[s * q->codes + k] = sum;
        }
}

void vq_member_table(vq *q)
{
    for (int c = 0; c < q->slices * q->cells; c++) {
        const float *n = q->ema_n + (size_t)c * NSVQ_CELL;
        float sum = 0;
        for (int i = 0; i < NSVQ_CELL; i++) sum += n[i] + 0.02f;
        for (int i = 0; i < NSVQ_CELL; i++)
            q->member_bits[(size_t)c * NSVQ_CELL + i] = -log2f((n[i] + 0.02f) / sum * 0.998f + 1.f / 32768);
    }
}

float vq_lambda(const vq *q, float quality)
{
    return q->lambda50 * exp2f((50.f - quality) / 12.f);
}

void vq_reserve(const vq *q, vq_patch *p, int n)
{
    if (n <= p->cap) return;
    const size_t m = (size_t)n;
    free(p->pos);
    p->pos = malloc(m * sizeof *p->pos);
    p->ctx = grow(p->ctx, m * q->context);
    p->mean = grow(p->mean, m * q->latent);
    p->hid = grow(p->hid, m * q->hidden);
    p->word = grow(p->word, m * q->latent);
    p->packed = grow(p->packed, m * q->latent);
    p->y = grow(p->y, m * q->latent);
    p->g_mean = grow(p->g_mean, m * q->latent);
    p->g_hid = grow(p->g_hid, m * q->hidden);
    p->g_h = grow(p->g_h, m * q->hidden);
    p->g_logit = grow(p->g_logit, m * q->cells);
    p->g_mu = grow(p->g_mu, m * q->dim);
    for (int s = 0; s < q->slices; s++) {
        p->h[s] = grow(p->h[s], m * q->hidden);
        p->logit[s] = grow(p->logit[s], m * q->cells);
        p->mu[s] = grow(p->mu[s], m * q->dim);
        free(p->choice[s]);
        p->choice[s] = malloc(m * sizeof(int));
    }
    p->cap = n;
}

void vq_patch_free(vq_patch *p)
{
    free(p->pos);
    free(p->ctx); free(p->mean); free(p->hid); free(p->word); free(p->packed); free(p->y);
    free(p->g_mean); free(p->g_hid); free(p->g_h); free(p->g_logit); free(p->g_mu);
    for (int s = 0; s < NSVQ_MAX_SLICES; s++) {
        free(p->h[s]); free(p->logit[s]); free(p->mu[s]); free(p->choice[s]);
    }
    memset(p, 0, sizeof *p);
}

void vq_order(vq_patch *p, int w, int h)
{
    order_positions(p->pos, p->pass_at, w, h);
    p->n = w * h;
}

void vq_context(const vq *q, vq_patch *p, int i, int w, int h, const float *y_hat, float quality)
{
    const int L = q->latent;
    float *ctx = p->ctx + (size_t)i * q->context;
    int at[NSVQ_N_NEIGHBOURS], missing = 0;
    const int first = order_neighbours(p->pos[i], w, h, at);
    for (int j = 0; j < NSVQ_N_NEIGHBOURS; j++) {
        const int from = at[j] < 0 ? first : at[j];
        missing += at[j] < 0;
        if (from >= 0) {
            memcpy(ctx + (size_t)j * L, y_hat + (size_t)from * L, sizeof(float) * (size_t)L);
        } else {
            memset(ctx + (size_t)j * L, 0, sizeof(float) * (size_t)L);
            for (int c = 0; c < 3; c++) ctx[j * L + q->seed_channel[c]] = p->seed[c];
        }
    }
    float *extra = ctx + NSVQ_N_NEIGHBOURS * L;
    extra[0] = (quality - 50.f) * 64.f / LATENT_ONE;
    extra[1] = 1024.f * (float)missing / LATENT_ONE;
    extra[2] = extra[3] = 0.f;
}

/* Codes with the least norm + lambda * bits - 2 r.c for up to 8 residuals r at once. */
FAST static void search(const vq *q, int s, const float *const *r, int n, float lambda,
                        const float *const *cell_bits, int *best)
{
    const int d = q->dim;
    const float *ct = q->code_t + (size_t)s * q->codes * d;
    const float *norm = q->norm + (size_t)s * q->codes, *mb = q->member_bits + (size_t)s * q->codes;
    float r2[8][64];
    v16 least[8];
    typedef int i16 __attribute__((vector_size(64)));
    i16 which[8];
    for (int j = 0; j < 8; j++) {
        for (int i = 0; i < d; i++) r2[j][i] = j < n ? -2.f * r[j][i] : 0.f;
        least[j] = (v16){0} + 1e30f;
        which[j] = (i16){0};
    }
    for (int k = 0; k < q->codes; k += 16, ct += 16 * (size_t)d) {
        const v16 base = *(const v16 *)(norm + k) + lambda * *(const v16 *)(mb + k);
        v16 acc[8];
        for (int j = 0; j < 8; j++) acc[j] = base + (j < n ? lambda * cell_bits[j][k / NSVQ_CELL] : 0.f);
        for (int i = 0; i < d; i++) {
            const v16 c = *(const v16 *)(ct + (size_t)i * 16);
            for (int j = 0; j < 8; j++) acc[j] += c * r2[j][i];
        }
        for (int j = 0; j < 8; j++) {
            const i16 less = acc[j] < least[j];
            least[j] = (v16)(((i16)acc[j] & less) | ((i16)least[j] & ~less));
            which[j] = (less & k) | (which[j] & ~less);
        }
    }
    for (int j = 0; j < n; j++) {
        int b = 0;
        for (int i = 1; i < 16; i++)
            if (least[j][i] < least[j][b]) b = i;
        best[j] = which[j][b] + b;
    }
}

/* bits[i] = -log2 of the softmax (base 2) of l; in the engine no frequency is under 1 / 2^15. */
FAST static void cell_bits_of(const float *l, int n, float *bits)
{
    float top = l[0], sum = 0;
    for (int i = 1; i < n; i++) top = l[i] > top ? l[i] : top;
    for (int i = 0; i < n; i++) sum += exp2f(l[i] - top);
    const float ls = log2f(sum) + top;
    for (int i = 0; i < n; i++) bits[i] = fminf(ls - l[i], 15.f);
}

double vq_quantise(const vq *q, const float *params, vq_patch *p, const float *y, int w, int h,
                   float quality, float *y_hat, vq_sums *sums)
{
    const int L = q->latent, D = q->dim, H = q->hidden, K = q->cells;
    const float lambda = vq_lambda(q, quality);
    double bits = 0;
    vq_reserve(q, p, w * h);
    vq_order(p, w, h);
    for (int c = 0; c < 3; c++) p->seed[c] = y[q->seed_channel[c]];
    for (int i = 0; i < p->n; i++)
        memcpy(p->y + (size_t)i * L, y + (size_t)p->pos[i] * L, sizeof(float) * (size_t)L);
    for (int pass = 0; pass < NSVQ_N_PASSES; pass++) {
        const int end = p->pass_at[pass + 1];
        for (int a = p->pass_at[pass], n; a < end; a += n) {
            n = pass == 0 ? 1 : end - a;
            for (int i = a; i < a + n; i++) vq_context(q, p, i, w, h, y_hat, quality);
            const layer *lm = &q->mean[pass], *lc = &q->ctx[pass];
            float *ctx = p->ctx + (size_t)a * q->context, *word = p->word + (size_t)a * L;
            float *mean = p->mean + (size_t)a * L, *hid = p->hid + (size_t)a * H;
            op_pointwise(mean, ctx, NULL, params + lm->w, params + lm->b, n, q->context, L, 0);
            op_pointwise(hid, ctx, NULL, params + lc->w, params + lc->b, n, q->context, H, 0);
            for (int s = 0; s < q->slices; s++) {
                float *hs = p->h[s] + (size_t)a * H, *lg = p->logit[s] + (size_t)a * K;
                float *mu = p->mu[s] + (size_t)a * D;
                if (s) {
                    const layer *lp = &q->prev[s];
                    for (int i = 0; i < n; i++) /* packs the first s codewords densely */
                        memcpy(p->packed + (size_t)i * s * D, word + (size_t)i * L,
                               sizeof(float) * (size_t)(s * D));
                    op_pointwise(hs, p->packed, hid, params + lp->w, params + lp->b, n, s * D, H, 1);
                } else {
                    for (int i = 0; i < n * H; i++) hs[i] = hid[i] > 0.f ? hid[i] : 0.f;
                }
                op_pointwise(lg, hs, NULL, params + q->logit[s].w, params + q->logit[s].b, n, H, K, 0);
                for (int i = 0; i < n; i++)
                    memcpy(mu + (size_t)i * D, mean + (size_t)i * L + s * D, sizeof(float) * (size_t)D);
                op_pointwise(mu, hs, mu, params + q->shiftm[s].w, params + q->shiftm[s].b, n, H, D, 0);
                for (int i0 = 0; i0 < n; i0 += 8) {
                    const int m = n - i0 < 8 ? n - i0 : 8;
                    float r[8][64], cb[8][64];
                    const float *rp[8], *cp[8];
                    int best[8];
                    for (int j = 0; j < m; j++) {
                        const float *ys = p->y + (size_t)(a + i0 + j) * L + s * D;
                        for (int c = 0; c < D; c++) r[j][c] = ys[c] - mu[(size_t)(i0 + j) * D + c];
                        cell_bits_of(lg + (size_t)(i0 + j) * K, K, cb[j]);
                        rp[j] = r[j];
                        cp[j] = cb[j];
                    }
                    search(q, s, rp, m, lambda, cp, best);
                    for (int j = 0; j < m; j++) {
                        const int k = best[j], i = i0 + j;
                        const size_t at = (size_t)s * q->codes + k;
                        const float *c = q->code + at * D;
                        float *out = y_hat + (size_t)p->pos[a + i] * L + s * D;
                        double e = 0, rr = 0;
                        for (int t = 0; t < D; t++) {
                            word[(size_t)i * L + s * D + t] = c[t];
                            out[t] = mu[(size_t)i * D + t] + c[t];
                            e += (double)(r[j][t] - c[t]) * (r[j][t] - c[t]);
                            rr += (double)r[j][t] * r[j][t];
                        }
                        p->choice[s][a + i] = k;
                        const double b = cb[j][k / NSVQ_CELL] + q->member_bits[at];
                        bits += b;
                        if (!sums) continue;
                        sums->n[at] += 1.f;
                        for (int t = 0; t < D; t++) {
                            sums->sum[at * D + t] += r[j][t];
                            sums->spare[((size_t)s * K + k / NSVQ_CELL) * D + t] = r[j][t];
                        }
                        sums->cell_bits += cb[j][k / NSVQ_CELL];
                        sums->distortion += e;
                        sums->residual += rr;
                    }
                }
            }
        }
    }
    if (sums) {
        sums->bits += bits;
        sums->n_latents += p->n;
    }
    return bits;
}

void vq_backward(const vq *q, const float *params, float *g, vq_patch *p, float quality, float weight)
{
    const int L = q->latent, D = q->dim, H = q->hidden, K = q->cells, n = p->n;
    const float wm = weight / vq_lambda(q, quality);
    memset(p->g_hid, 0, sizeof(float) * (size_t)n * H);
    for (int s = q->slices - 1; s >= 0; s--) {
        for (int i = 0; i < n; i++) {
            const float *l = p->logit[s] + (size_t)i * K;
            float *gl = p->g_logit + (size_t)i * K, top = l[0], sum = 0;
            for (int c = 1; c < K; c++) top = l[c] > top ? l[c] : top;
            for (int c = 0; c < K; c++) sum += gl[c] = exp2f(l[c] - top);
            for (int c = 0; c < K; c++) gl[c] *= weight / sum;
            gl[p->choice[s][i] / NSVQ_CELL] -= weight;
            for (int c = 0; c < D; c++) {
                const float e = p->mu[s][(size_t)i * D + c] - p->y[(size_t)i * L + s * D + c];
                p->g_mu[(size_t)i * D + c] = p->g_mean[(size_t)i * L + s * D + c] = wm * e;
            }
        }
        const layer *ll = &q->logit[s], *lm = &q->shiftm[s];
        op_pointwise_back(p->g_logit, NULL, p->h[s], params + ll->w, p->g_h, 0, g + ll->w, g + ll->b, n,
                          H, K, 0);
        op_pointwise_back(p->g_mu, NULL, p->h[s], params + lm->w, p->g_h, 1, g + lm->w, g + lm->b, n, H,
                          D, 0);
        if (s) {
            const layer *lp = &q->prev[s];
            for (int i = 0; i < n; i++)
                memcpy(p->packed + (size_t)i * s * D, p->word + (size_t)i * L,
                       sizeof(float) * (size_t)(s * D));
            op_pointwise_back(p->g_h, p->h[s], p->packed, params + lp->w, NULL, 0, g + lp->w, g + lp->b, n,
                              s * D, H, 1);
        } else {
            for (int i = 0; i < n * H; i++)
                if (p->h[0][i] <= 0.f) p->g_h[i] = 0.f;
        }
        for (int i = 0; i < n * H; i++) p->g_hid[i] += p->g_h[i];
    }
    for (int pass = 0; pass < NSVQ_N_PASSES; pass++) {
        const int a = p->pass_at[pass], m = p->pass_at[pass + 1] - a;
        const layer *lm = &q->mean[pass], *lc = &q->ctx[pass];
        if (!m) continue;
        const float *ctx = p->ctx + (size_t)a * q->context;
        op_pointwise_back(p->g_mean + (size_t)a * L, NULL, ctx, params + lm->w, NULL, 0, g + lm->w,
                          g + lm->b, m, q->context, L, 0);
        op_pointwise_back(p->g_hid + (size_t)a * H, NULL, ctx, params + lc->w, NULL, 0, g + lc->w,
                          g + lc->b, m, q->context, H, 0);
    }
}

/* Inputs and bias of unit j of a layer that writes hidden units. */
static void scale_unit(float *params, const layer *l, int j, float s)
{
    for (int i = 0; i < l->cin; i++) params[l->w + (size_t)j * l->cin + i] *= s;
    params[l->b + (size_t)j] *= s;
}

float vq_balance(const vq *q, float *params, const float *peak)
{
    const float least = 1e-6f;
    double sum = 0;
    for (int j = 0; j < q->hidden; j++) sum += log(fmaxf(peak[j], least));
    const float top = expf((float)(sum / q->hidden));
    for (int j = 0; j < q->hidden; j++) {
        const float s = fminf(top / fmaxf(peak[j], least), 1000.f);
        for (int p = 0; p < NSVQ_N_PASSES; p++) scale_unit(params, &q->ctx[p], j, s);
        for (int k = 0; k < q->slices; k++) {
            const layer *out[2] = {&q->logit[k], &q->shiftm[k]};
            if (k) scale_unit(params, &q->prev[k], j, s);
            for (int o = 0; o < 2; o++)
                for (int i = 0; i < out[o]->cout; i++)
                    params[out[o]->w + (size_t)i * q->hidden + j] /= s;
        }
    }
    return top;
}

void vq_update(vq *q, const vq_sums *sums, float decay)
{
    const size_t n = (size_t)q->slices * q->codes;
    const int D = q->dim;
    for (size_t k = 0; k < n; k++) {
        q->ema_n[k] = decay * q->ema_n[k] + (1.f - decay) * sums->n[k];
        for (int t = 0; t < D; t++) {
            float *e = &q->ema_sum[k * D + t];
            *e = decay * *e + (1.f - decay) * sums->sum[k * D + t];
            if (q->ema_n[k] > 1e-4f) q->code[k * D + t] = *e / q->ema_n[k];
        }
    }
    vq_refresh(q);
}

int vq_revive(vq *q, const vq_sums *sums, uint64_t *rng)
{
    const int D = q->dim;
    int moved = 0;
    for (int c = 0; c < q->slices * q->cells; c++) {
        float *n = q->ema_n + (size_t)c * NSVQ_CELL, sum = 0;
        for (int i = 0; i < NSVQ_CELL; i++) sum += n[i];
        const float *spare = sums->spare + (size_t)c * D;
        int alive = 0;
        for (int t = 0; t < D; t++) alive |= spare[t] != 0.f;
        if (!alive) continue;
        int dead = -1; /* at most one a cell and call: each gets a residual of its own */
        for (int i = 0; i < NSVQ_CELL; i++)
            if (n[i] < 0.02f * sum / NSVQ_CELL && (dead < 0 || random_unit(rng) < 0.3f)) dead = i;
        if (dead < 0) continue;
        const size_t k = (size_t)c * NSVQ_CELL + (size_t)dead;
        q->ema_n[k] = 0.2f * sum / NSVQ_CELL;
        for (int t = 0; t < D; t++) {
            q->code[k * D + t] = spare[t];
            q->ema_sum[k * D + t] = spare[t] * q->ema_n[k];
        }
        moved++;
    }
    return moved;
}

vq_sums *vq_sums_new(const vq *q)
{
    const size_t n = (size_t)q->slices * q->codes;
    vq_sums *s = calloc(1, sizeof *s);
    s->n = calloc(n, sizeof(float));
    s->sum = calloc(n * q->dim, sizeof(float));
    s->spare = calloc((size_t)q->slices * q->cells * q->dim, sizeof(float));
    return s;
}

void vq_sums_clear(const vq *q, vq_sums *s)
{
    const size_t n = (size_t)q->slices * q->codes;
    memset(s->n, 0, n * sizeof(float));
    memset(s->sum, 0, n * q->dim * sizeof(float));
    s->bits = s->cell_bits = s->distortion = s->residual = 0;
    s->n_latents = 0;
}

void vq_sums_add(const vq *q, vq_sums *to, const vq_sums *from)
{
    const size_t n = (size_t)q->slices * q->codes;
    for (size_t i = 0; i < n; i++) to->n[i] += from->n[i];
    for (size_t i = 0; i < n * (size_t)q->dim; i++) to->sum[i] += from->sum[i];
    to->bits += from->bits;
    to->cell_bits += from->cell_bits;
    to->distortion += from->distortion;
    to->residual += from->residual;
    to->n_latents += from->n_latents;
}
