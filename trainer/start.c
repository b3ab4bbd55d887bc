/* start.c - a working linear codec before the first step: principal components in the linear paths,
 * least-squares predictors in the prior, k-means codebooks ordered as a tree. Measured (design.md):
 * worth hours of training. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gemm.h"
#include "random.h"
#include "train.h"

#define N_SAMPLES 60000

static void *need(size_t n, size_t size)
{
    void *p = calloc(n, size);
    if (!p) abort();
    return p;
}

/* Eigenvectors of the symmetric a [n][n] in the columns of v, eigenvalues in e: cyclic Jacobi. */
static void jacobi(double *a, double *v, double *e, int n)
{
    for (int i = 0; i < n * n; i++) v[i] = i % (n + 1) == 0;
    for (int sweep = 0; sweep < 30; sweep++) {
        double off = 0;
        for (int i = 0; i < n; i++)
            for (int j = 0; j < i; j++) off += a[i * n + j] * a[i * n + j];
        if (off < 1e-18 * n) break;
        for (int p = 0; p < n; p++)
            for (int q = p + 1; q < n; q++) {
                const double apq = a[p * n + q];
                if (fabs(apq) < 1e-300) continue;
                const double t0 = (a[q * n + q] - a[p * n + p]) / (2 * apq);
                const double t = (t0 < 0 ? -1 : 1) / (fabs(t0) + sqrt(t0 * t0 + 1));
                const double c = 1 / sqrt(t * t + 1), s = t * c;
                for (int k = 0; k < n; k++) {
                    const double x = a[k * n + p], y = a[k * n + q];
                    a[k * n + p] = c * x - s * y;
                    a[k * n + q] = s * x + c * y;
                }
                for (int k = 0; k < n; k++) {
                    const double x = a[p * n + k], y = a[q * n + k];
                    a[p * n + k] = c * x - s * y;
                    a[q * n + k] = s * x + c * y;
                    const double vx = v[k * n + p], vy = v[k * n + q];
                    v[k * n + p] = c * vx - s * vy;
                    v[k * n + q] = s * vx + c * vy;
                }
            }
    }
    for (int i = 0; i < n; i++) e[i] = a[i * n + i];
}

static double normalise(float *a, int n) /* returns the length it had */
{
    double s = 0;
    for (int k = 0; k < n; k++) s += (double)a[k] * a[k];
    s = sqrt(s);
    for (int k = 0; k < n && s > 0; k++) a[k] = (float)(a[k] / s);
    return s;
}

/* rows vectors of n, Gram-Schmidt; one that depends on the earlier ones is drawn anew. */
static void orthonormalise(float *q, int rows, int n, uint64_t *rng)
{
    for (int i = 0; i < rows; i++) {
        float *a = q + (size_t)i * n;
        normalise(a, n);
        for (int pass = 0; pass < 2; pass++) {
            for (int j = 0; j < i; j++) {
                const float *b = q + (size_t)j * n;
                double d = 0;
                for (int k = 0; k < n; k++) d += (double)a[k] * b[k];
                for (int k = 0; k < n; k++) a[k] -= (float)d * b[k];
            }
            if (normalise(a, n) > 1e-6) continue;
            for (int k = 0; k < n; k++) a[k] = random_normal(rng);
            normalise(a, n);
            pass = -1;
        }
    }
}

/* The `want` leading eigenvectors (rows of basis [want][n]) of cov by iteration of a subspace of 32 more. */
static void principal(const float *cov, int n, int want, float *basis, float *variance, uint64_t *rng)
{
    const int m = want + 32 < n ? want + 32 : n;
    float *q = need((size_t)m * n, sizeof *q), *z = need((size_t)m * n, sizeof *z);
    double *a = need((size_t)m * m, sizeof *a), *v = need((size_t)m * m, sizeof *v);
    double *e = need((size_t)m, sizeof *e);
    for (int i = 0; i < m * n; i++) q[i] = random_normal(rng);
    for (int it = 0; it < 40; it++) {
        orthonormalise(q, m, n, rng);
        gemm('N', 'N', m, n, n, 1.f, q, n, cov, n, 0.f, z, n);
        float *t = q;
        q = z;
        z = t;
    }
    orthonormalise(q, m, n, rng);
    gemm('N', 'N', m, n, n, 1.f, q, n, cov, n, 0.f, z, n);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < m; j++) {
            double d = 0;
            for (int k = 0; k < n; k++) d += (double)q[(size_t)i * n + k] * z[(size_t)j * n + k];
            a[i * m + j] = d;
        }
    for (int i = 0; i < m; i++)
        for (int j = 0; j < i; j++) a[i * m + j] = a[j * m + i] = (a[i * m + j] + a[j * m + i]) / 2;
    jacobi(a, v, e, m);
    for (int r = 0; r < want; r++) {
        int top = 0;
        for (int i = 1; i < m; i++)
            if (e[i] > e[top]) top = i;
        variance[r] = (float)fmax(e[top], 0.);
        e[top] = -HUGE_VAL;
        for (int k = 0; k < n; k++) {
            double d = 0;
            for (int i = 0; i < m; i++) d += v[i * m + top] * q[(size_t)i * n + k];
            basis[(size_t)r * n + k] = (float)d;
        }
    }
    free(q); free(z); free(a); free(v); free(e);
}

/* Solves (a + diag) x = b for symmetric positive a [n][n], b [n][m] in place (Cholesky). */
static void solve(double *a, double *b, int n, int m)
{
    for (int j = 0; j < n; j++) {
        for (int k = 0; k < j; k++)
            for (int i = j; i < n; i++) a[(size_t)i * n + j] -= a[(size_t)i * n + k] * a[(size_t)j * n + k];
        const double d = 1 / sqrt(a[(size_t)j * n + j]);
        for (int i = j; i < n; i++) a[(size_t)i * n + j] *= d;
    }
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < i; k++)
            for (int c = 0; c < m; c++) b[(size_t)i * m + c] -= a[(size_t)i * n + k] * b[(size_t)k * m + c];
        for (int c = 0; c < m; c++) b[(size_t)i * m + c] /= a[(size_t)i * n + i];
    }
    for (int i = n - 1; i >= 0; i--) {
        for (int k = i + 1; k < n; k++)
            for (int c = 0; c < m; c++) b[(size_t)i * m + c] -= a[(size_t)k * n + i] * b[(size_t)k * m + c];
        for (int c = 0; c < m; c++) b[(size_t)i * m + c] /= a[(size_t)i * n + i];
    }
}

/* Random weights of variance gain / cin, scaled per input by 1 / scale[i] (NULL: 1). */
static void random_layer(model *m, const layer *l, float gain, const float *scale, uint64_t *rng)
{
    const int taps = l->kind == NSVQ_LAYER_DEPTHWISE ? l->k * l->k : l->cin;
    const float std = sqrtf(gain / (float)taps);
    if (l->kind == NSVQ_LAYER_SPACE_TO_DEPTH) return;
    float *w = m->st.p + l->w;
    const size_t n = l->kind == NSVQ_LAYER_DEPTHWISE ? (size_t)taps * l->cin : (size_t)l->cin * l->cout;
    for (size_t i = 0; i < n; i++)
        w[i] = std * random_normal(rng) / (scale ? scale[i % (size_t)l->cin] : 1.f);
}

/* Random weights of two networks. Residual branches start small, so that depth does not multiply the
 * variance. */
static void start_networks(model *m, const network *a, const network *b, uint64_t *rng)
{
    const network *const both[2] = {a, b};
    for (int j = 0; j < 4; j++) {
        const network *n = both[j % 2];
        for (int i = 0; i < n->n_layers; i++)
            if (j < 2 || n->l[i].res != NSVQ_NO_REGISTER)
                random_layer(m, &n->l[i], j < 2 ? 2.f : 0.2f, NULL, rng);
    }
}

/* x [n][3 * stride^2]: squares of latents, [sy][sx][py][px][c]; at most 256 out of a patch. */
static void samples(const model *m, const dataset *d, uint64_t *rng, float *x, int n)
{
    const cut k = model_cut(m, 256);
    const int stride = m->pre.stride, f = stride / 4, every = 16 / stride;
    uint8_t *rgb = need((size_t)k.size * k.size * 3, 1);
    for (int got = 0, w, h; got < n;) {
        dataset_patch(d, rng, &k, rgb, &w, &h);
        for (int by = 0; by < h / stride && got < n; by += every)
            for (int bx = 0; bx < w / stride && got < n; bx += every, got++) {
                float *to = x + (size_t)got * 3 * stride * stride;
                for (int i = 0; i < stride * stride; i++) {
                    const int px = i % 4, py = i / 4 % 4, sx = i / 16 % f, sy = i / 16 / f;
                    const uint8_t *p = rgb + ((size_t)(by * stride + sy * 4 + py) * (size_t)w +
                                              (size_t)(bx * stride + sx * 4 + px)) * 3;
                    for (int c = 0; c < 3; c++) to[i * 3 + c] = ((float)p[c] - 128.f) / 64.f;
                }
            }
    }
    free(rgb);
}

/* Least squares of latents [n][L] from contexts [n][X] in chunks. */
typedef struct fit { double *a, *b; float *fa, *fb; int X, L, n; } fit;

static fit fit_new(int X, int L)
{
    return (fit){.a = need((size_t)X * X, sizeof(double)), .b = need((size_t)X * L, sizeof(double)),
                 .fa = need((size_t)X * X, sizeof(float)), .fb = need((size_t)X * L, sizeof(float)),
                 .X = X, .L = L};
}

static void fit_free(fit *f)
{
    free(f->a); free(f->b); free(f->fa); free(f->fb);
}

static void fit_add(fit *f, const float *ctx, const float *t, int n)
{
    const int X = f->X, L = f->L;
    gemm('T', 'N', X, X, n, 1.f, ctx, X, ctx, X, 0.f, f->fa, X);
    gemm('T', 'N', X, L, n, 1.f, ctx, X, t, L, 0.f, f->fb, L);
    for (int i = 0; i < X * X; i++) f->a[i] += f->fa[i];
    for (int i = 0; i < X * L; i++) f->b[i] += f->fb[i];
    f->n += n;
}

/* Neighbours will be quantised: ridge with the noise of a low rate, at most `noise`, and much of it for
 * the side inputs. w [L][X]. */
static void fit_solve(fit *f, const float *std, float noise, float *w)
{
    const int X = f->X, L = f->L;
    for (int i = 0; i < X; i++) {
        const float var = i < 4 * L ? std[i % L] * std[i % L] : 0.f;
        f->a[(size_t)i * X + i] += f->n * (i < 4 * L ? 0.5 * fminf(var, noise) + 1e-3 : 300.);
    }
    solve(f->a, f->b, X, L);
    for (int o = 0; o < L; o++)
        for (int i = 0; i < X; i++) w[(size_t)o * X + i] = (float)f->b[(size_t)i * L + o];
}

/* Latents of a random patch, in ws. */
static const tensor *draw_latents(const model *m, const dataset *d, uint64_t *rng, uint8_t *rgb,
                                  workspace *ws)
{
    const cut c = model_cut(m, 256);
    int w, h;
    dataset_patch(d, rng, &c, rgb, &w, &h);
    workspace_shape(ws, &m->ana, h / 4, w / 4);
    pixels_in(ws->r[0].v, rgb, w, h);
    net_forward(&m->ana, m->st.p, ws);
    return &ws->r[m->ana.output];
}

/* Codes as the leaves of a balanced tree: halves along the widest axis until cells of 64 remain. */
typedef struct keyed { float key; int at; } keyed;
static int by_key(const void *a, const void *b)
{
    const float x = ((const keyed *)a)->key, y = ((const keyed *)b)->key;
    return x < y ? -1 : x > y;
}

static void tree_order(const float *code, int dim, int *at, int n)
{
    if (n <= NSVQ_CELL) return;
    int axis = 0;
    double widest = -1;
    for (int c = 0; c < dim; c++) {
        double s = 0, s2 = 0;
        for (int i = 0; i < n; i++) {
            const double v = code[(size_t)at[i] * dim + c];
            s += v;
            s2 += v * v;
        }
        const double var = s2 / n - s / n * (s / n);
        if (var > widest) {
            widest = var;
            axis = c;
        }
    }
    keyed *k = need((size_t)n, sizeof *k);
    for (int i = 0; i < n; i++) k[i] = (keyed){code[(size_t)at[i] * dim + axis], at[i]};
    qsort(k, (size_t)n, sizeof *k, by_key);
    for (int i = 0; i < n; i++) at[i] = k[i].at;
    free(k);
    tree_order(code, dim, at, n / 2);
    tree_order(code, dim, at + n / 2, n - n / 2);
}

/* k-means by the nearest of all codes; x [n][dim]; codes [k][dim], counts of members. */
static void kmeans(const float *x, int n, int dim, int k, float *code, float *count, uint64_t *rng)
{
    const int chunk = 256;
    float *dot = need((size_t)chunk * k, sizeof *dot), *sum = need((size_t)k * dim, sizeof *sum);
    float *norm = need((size_t)k, sizeof *norm);
    for (int i = 0; i < k; i++)
        memcpy(code + (size_t)i * dim, x + (size_t)random_below(rng, (uint32_t)n) * dim,
               sizeof *x * (size_t)dim);
    memset(code, 0, sizeof *code * (size_t)dim); /* one code says: as predicted */
    for (int it = 0; it < 10; it++) {
        memset(sum, 0, sizeof *sum * (size_t)k * dim);
        memset(count, 0, sizeof *count * (size_t)k);
        for (int i = 0; i < k; i++) {
            norm[i] = 0;
            for (int c = 0; c < dim; c++) norm[i] += code[(size_t)i * dim + c] * code[(size_t)i * dim + c];
        }
        for (int a = 0; a < n; a += chunk) {
            const int m = n - a < chunk ? n - a : chunk;
            gemm('N', 'T', m, k, dim, -2.f, x + (size_t)a * dim, dim, code, dim, 0.f, dot, k);
            for (int i = 0; i < m; i++) {
                const float *row = dot + (size_t)i * k;
                int best = 0;
                for (int c = 1; c < k; c++)
                    if (row[c] + norm[c] < row[best] + norm[best]) best = c;
                count[best] += 1;
                for (int c = 0; c < dim; c++) sum[(size_t)best * dim + c] += x[(size_t)(a + i) * dim + c];
            }
        }
        for (int i = 1; i < k; i++)
            for (int c = 0; c < dim; c++)
                code[(size_t)i * dim + c] = count[i] > 0.f
                                                ? sum[(size_t)i * dim + c] / count[i]
                                                : x[(size_t)random_below(rng, (uint32_t)n) * dim + c];
    }
    free(dot); free(sum); free(norm);
}

static void start_prior(model *m, const dataset *d, const float *std, uint64_t *rng, int quiet)
{
    vq *q = &m->q;
    const int L = q->latent, X = q->context, D = q->dim, size = 256, max_n = 60000;
    float *scale = need((size_t)X, sizeof *scale);
    for (int i = 0; i < X; i++) scale[i] = i < 4 * L ? std[i % L] + 0.3f : 8.f;
    fit f[NSVQ_N_PASSES];
    for (int p = 0; p < NSVQ_N_PASSES; p++) {
        f[p] = fit_new(X, L);
        random_layer(m, &q->ctx[p], 1.f, scale, rng);
    }
    /* Least squares of each latent from the context of its pass, on unquantised latents. */
    uint8_t *rgb = need((size_t)size * size * 3, 1);
    workspace ws = {0};
    vq_patch vp = {0};
    float *res = need((size_t)max_n * L, sizeof *res);
    int n_res = 0;
    for (int round = 0; round < 2; round++) {
        for (int patch = 0; patch < 240; patch++) {
            const tensor *y = draw_latents(m, d, rng, rgb, &ws);
            const float quality = 20.f + 60.f * random_unit(rng);
            float *y_hat = y->g; /* any buffer of the size */
            memcpy(y_hat, y->v, sizeof *y_hat * (size_t)y->h * y->w * L);
            vq_reserve(q, &vp, y->h * y->w);
            vq_order(&vp, y->w, y->h);
            for (int c = 0; c < 3; c++) vp.seed[c] = y->v[q->seed_channel[c]];
            for (int i = 0; i < vp.n; i++) vq_context(q, &vp, i, y->w, y->h, y_hat, quality);
            for (int i = 0; i < vp.n; i++)
                memcpy(vp.y + (size_t)i * L, y->v + (size_t)vp.pos[i] * L, sizeof(float) * (size_t)L);
            for (int p = 0; p < NSVQ_N_PASSES; p++) {
                const int at = vp.pass_at[p], n = vp.pass_at[p + 1] - at;
                const float *ctx = vp.ctx + (size_t)at * X, *t = vp.y + (size_t)at * L;
                if (!n) continue;
                if (round == 0) {
                    fit_add(&f[p], ctx, t, n);
                } else {
                    const layer *l = &q->mean[p];
                    for (int i = 0; i < n && n_res < max_n; i++, n_res++) {
                        float *r = res + (size_t)n_res * L;
                        op_pointwise(r, ctx + (size_t)i * X, NULL, m->st.p + l->w, m->st.p + l->b, 1, X, L, 0);
                        for (int c = 0; c < L; c++) r[c] = t[(size_t)i * L + c] - r[c];
                    }
                }
            }
        }
        for (int p = 0; p < NSVQ_N_PASSES && round == 0; p++)
            fit_solve(&f[p], std, 0.5f, m->st.p + q->mean[p].w);
    }
    double e = 0, v = 0;
    for (int i = 0; i < n_res; i++)
        for (int c = 0; c < L; c++) e += (double)res[(size_t)i * L + c] * res[(size_t)i * L + c];
    for (int c = 0; c < L; c++) v += (double)std[c] * std[c];
    if (!quiet) fprintf(stderr, "prediction: residual energy %.3f of %.3f\n", e / n_res, v);

    float *x = need((size_t)n_res * D, sizeof *x), *code = need((size_t)q->codes * D, sizeof *code);
    float *count = need((size_t)q->codes, sizeof *count);
    int *at = need((size_t)q->codes, sizeof *at);
    for (int s = 0; s < q->slices; s++) {
        int n = 0;
        for (int i = 0; i < n_res; i++) { /* what is nearly as predicted needs no code of its own */
            const float *r = res + (size_t)i * L + s * D;
            float norm = 0;
            for (int c = 0; c < D; c++) norm += r[c] * r[c];
            if (norm > q->lambda50) memcpy(x + (size_t)n++ * D, r, sizeof *r * (size_t)D);
        }
        if (n < q->codes) { /* little or very smooth data */
            n = n_res;
            for (int i = 0; i < n_res; i++)
                memcpy(x + (size_t)i * D, res + (size_t)i * L + s * D, sizeof *x * (size_t)D);
        }
        kmeans(x, n, D, q->codes, code, count, rng);
        for (int i = 0; i < q->codes; i++) at[i] = i;
        tree_order(code, D, at, q->codes);
        for (int i = 0; i < q->codes; i++) {
            const size_t k = (size_t)s * q->codes + (size_t)i;
            memcpy(q->code + k * D, code + (size_t)at[i] * D, sizeof *code * (size_t)D);
            q->ema_n[k] = 0.5f * (count[at[i]] + 1.f) * 2048.f / (float)(n + q->codes);
            if (at[i] == 0) q->ema_n[k] = 200.f;
            for (int c = 0; c < D; c++) q->ema_sum[k * D + c] = q->code[k * D + c] * q->ema_n[k];
        }
        float *word = need((size_t)q->latent, sizeof *word);
        for (int c = 0; c < q->latent; c++) word[c] = fminf(std[c], 1.f) + 0.2f;
        if (s) random_layer(m, &q->prev[s], 0.5f, word, rng);
        random_layer(m, &q->logit[s], 0.02f, NULL, rng);
        random_layer(m, &q->shiftm[s], 1e-4f, NULL, rng);
        free(word);
        if (!quiet) fprintf(stderr, "slice %d: %d residuals for %d codes\n", s, n, q->codes);
    }
    for (int p = 0; p < NSVQ_N_PASSES; p++) fit_free(&f[p]);
    workspace_free(&ws);
    vq_patch_free(&vp);
    free(x); free(code); free(count); free(at); free(rgb); free(res); free(scale);
}

/* Runs the quantiser on patches: deviations of the hyper-latents [Z], means of |y - mu| [L]. */
static void measure_hyper(const model *m, const dataset *d, uint64_t rng, float *z_mean, float *z_std,
                          float *spread)
{
    const hyper *q = &m->h;
    const int L = q->latent, Z = q->z;
    double *z1 = need((size_t)Z, sizeof *z1), *z2 = need((size_t)Z, sizeof *z2), *a = need((size_t)L, sizeof *a);
    uint8_t *rgb = need(256 * 256 * 3, 1);
    workspace ws = {0};
    hyper_patch p = {0};
    long nz = 0, ny = 0;
    for (int k = 0; k < 60; k++) {
        const tensor *y = draw_latents(m, d, &rng, rgb, &ws);
        float *y_hat = need((size_t)(y->h * y->w) * (size_t)(L + NSVQ_N_EXTRA), sizeof *y_hat);
        hyper_quantise(q, m->st.p, &p, y->v, y->w, y->h, 50.f, y_hat, NULL);
        const tensor *z = &p.ha.r[q->ha.output];
        for (int i = 0; i < z->h * z->w * Z; i++) {
            z1[i % Z] += z->v[i];
            z2[i % Z] += (double)z->v[i] * z->v[i];
        }
        for (int i = 0; i < y->h * y->w * L; i++) a[i % L] += fabsf(p.t[i]) * p.step[i % L];
        nz += z->h * z->w;
        ny += y->h * y->w;
        free(y_hat);
    }
    for (int c = 0; c < Z; c++) {
        z_mean[c] = (float)(z1[c] / (double)nz);
        z_std[c] = (float)sqrt(fmax(z2[c] / (double)nz - (double)z_mean[c] * z_mean[c], 1e-12));
    }
    for (int c = 0; c < L; c++) spread[c] = (float)(a[c] / (double)ny);
    free(z1); free(z2); free(a); free(rgb);
    workspace_free(&ws);
    hyper_patch_free(&p);
}

/* Hyper-latents of deviation 2, scales of what the predictors leave: a start far from either makes the
 * entropy model's networks learn to shout. */
static void fit_scales(model *m, const dataset *d, uint64_t rng)
{
    const hyper *q = &m->h;
    const layer *to_z = &q->ha.l[q->ha.n_layers - 1], *last = &q->hs.l[q->hs.n_layers - 1];
    float *p = m->st.p, *z_mean = need((size_t)q->z, sizeof *z_mean), *z_std = need((size_t)q->z, sizeof *z_std);
    float *spread = need((size_t)q->latent, sizeof *spread);
    for (int round = 0; round < 2; round++) {
        measure_hyper(m, d, rng, z_mean, z_std, spread);
        for (int c = 0; c < q->z && round == 0; c++) {
            const float f = 2.f / z_std[c];
            for (int i = 0; i < to_z->cin; i++) p[to_z->w + (size_t)(c * to_z->cin + i)] *= f;
            p[to_z->b + (size_t)c] = (p[to_z->b + (size_t)c] - z_mean[c]) * f;
        }
        /* The mean magnitude of a logistic density is 2 ln 2 times its scale. */
        for (int c = 0; c < q->latent; c++) p[last->b + (size_t)c] = log2f(spread[c] / 1.386f + 1e-3f);
    }
    free(z_mean); free(z_std); free(spread);
}

/* Predictors by least squares; scales of what they leave, base means of zero; hyper-latents whose steps
 * are finer at high qualities. */
static void start_hyper(model *m, const dataset *d, const float *std, uint64_t *rng)
{
    const hyper *q = &m->h;
    const int L = q->latent, X = q->context;
    const balance by = hyper_balance(m->pre.stride);
    float *p = m->st.p, *scale = need((size_t)(L + NSVQ_N_EXTRA), sizeof *scale);
    uint8_t *rgb = need(256 * 256 * 3, 1);
    workspace ws = {0};
    hyper_patch hp = {0};
    fit f[NSVQ_N_PASSES];
    const layer *last = &q->hs.l[q->hs.n_layers - 1];
    start_networks(m, &q->ha, &q->hs, rng);
    for (int c = 0; c < L + NSVQ_N_EXTRA; c++) scale[c] = c < L ? std[c] + 0.3f : 24.f;
    random_layer(m, &q->ha.l[0], 1.f, scale, rng);
    for (int c = 0; c < q->z + NSVQ_N_EXTRA; c++) {
        const float s = c < q->z ? 1.f : 1.f / 8;
        for (int o = 0; o < q->hs.l[0].cout; o++) p[q->hs.l[0].w + (size_t)(o * q->hs.l[0].cin + c)] *= s;
    }
    random_layer(m, last, 0.02f, NULL, rng);
    memset(p + last->w + (size_t)L * (size_t)last->cin, 0, (size_t)L * (size_t)last->cin * sizeof *p);
    for (int c = 0; c < L; c++) p[last->b + (size_t)c] = log2f(0.4f * std[c]);
    for (int i = 0; i < NSVQ_N_GAINS * L; i++) p[q->gain + (size_t)i] = log2f(by.coarse * by.unit);
    for (int a = 0; a < NSVQ_N_GAINS; a++)
        for (int c = 0; c < q->z; c++) p[q->z_gain + (size_t)(a * q->z + c)] = 0.3f - 0.2f * (float)a;

    for (int i = 1; i < NSVQ_N_PASSES; i++) f[i] = fit_new(X, L);
    for (int k = 0; k < 200; k++) {
        const tensor *y = draw_latents(m, d, rng, rgb, &ws);
        float *wide = need((size_t)(y->h * y->w) * (size_t)(L + NSVQ_N_EXTRA), sizeof *wide);
        const float step = by.coarse * by.unit * hyper_step(15.f + 70.f * random_unit(rng)); /* of the neighbours */
        hyper_open(q, &hp, y->v, y->w, y->h);
        for (int i = 0; i < y->h * y->w * L; i++)
            wide[i / L * (L + NSVQ_N_EXTRA) + i % L] = step * rintf(y->v[i] / step);
        for (int i = 1; i < NSVQ_N_PASSES; i++) {
            const int at = hp.pass_at[i], n = hp.pass_at[i + 1] - at;
            for (int j = at; j < at + n; j++) {
                hyper_context(q, &hp, j, wide, 50.f);
                memcpy(hp.tmp + (size_t)j * L, y->v + (size_t)hp.pos[j] * L, sizeof *wide * (size_t)L);
            }
            if (n) fit_add(&f[i], hp.ctx + (size_t)at * X, hp.tmp + (size_t)at * L, n);
        }
        free(wide);
    }
    for (int i = 1; i < NSVQ_N_PASSES; i++) {
        fit_solve(&f[i], std, 2e-3f, p + q->mean[i].w);
        fit_free(&f[i]);
    }
    fit_scales(m, d, random_u64(rng));
    workspace_free(&ws);
    hyper_patch_free(&hp);
    free(scale);
    free(rgb);
}

/* Linear paths there and back. Components in order of variance go 0 1 2 3 3 2 1 0 .. over the slices of
 * the vq family: about equal loads. The seed channels are the three that answer most to flat colours. */
static void start_linear(model *m, const float *basis, const float *variance, float *std)
{
    const int L = m->pre.latent, P = 3 * m->pre.stride * m->pre.stride, S = m->pre.slices;
    const int cin = m->syn.channels[0];
    const float unit = m->pre.family == NSVQ_FAMILY_HYPER ? hyper_balance(m->pre.stride).unit : 1.f;
    float *ana = m->st.p + m->ana.l[m->ana_linear].w, *syn = m->st.p + m->syn.l[m->syn_linear].w;
    int fill[NSVQ_MAX_SLICES] = {0};
    float flat[3] = {0};
    memset(syn, 0, sizeof *syn * (size_t)P * (size_t)cin); /* side inputs have no say */
    for (int i = 0; i < L; i++) {
        int c = i;
        if (S) {
            int s = i % (2 * S) < S ? i % S : S - 1 - i % S;
            while (fill[s] == m->pre.dim) s = (s + 1) % S;
            c = s * m->pre.dim + fill[s]++;
        }
        std[c] = unit * sqrtf(variance[i]);
        for (int p = 0; p < P; p++) {
            ana[(size_t)c * P + p] = unit * basis[(size_t)i * P + p];
            syn[(size_t)p * cin + c] = basis[(size_t)i * P + p] / unit;
        }
        if (!S) continue;
        float e = 0;
        for (int b = 0; b < 3; b++) {
            float sum = 0;
            for (int p = b; p < P; p += 3) sum += basis[(size_t)i * P + p];
            e += sum * sum;
        }
        for (int k = 0; k < 3; k++)
            if (e > flat[k]) {
                for (int j = 2; j > k; j--) {
                    flat[j] = flat[j - 1];
                    m->q.seed_channel[j] = m->q.seed_channel[j - 1];
                }
                flat[k] = e;
                m->q.seed_channel[k] = c;
                break;
            }
    }
}

void model_start(model *m, const dataset *d, int quiet)
{
    const int n = N_SAMPLES, L = m->pre.latent, P = 3 * m->pre.stride * m->pre.stride;
    uint64_t rng = m->rng;
    float *x = need((size_t)n * P, sizeof *x), *cov = need((size_t)P * P, sizeof *cov);
    float *basis = need((size_t)L * P, sizeof *basis), *var = need((size_t)L, sizeof *var);
    float *std = need((size_t)L, sizeof *std);
    samples(m, d, &rng, x, n);
    gemm('T', 'N', P, P, n, 1.f / (float)n, x, P, x, P, 0.f, cov, P);
    free(x);
    double total = 0, kept = 0;
    for (int i = 0; i < P; i++) total += cov[(size_t)i * P + i];
    principal(cov, P, L, basis, var, &rng);
    free(cov);
    for (int i = 0; i < L; i++) kept += var[i];
    if (!quiet)
        fprintf(stderr, "principal components: %d of %d keep all but %.2f grey levels rms\n", L, P,
                64. * sqrt((total - kept) / P));

    start_networks(m, &m->ana, &m->syn, &rng);
    random_layer(m, &m->ana.l[m->ana_last], 4e-4f, NULL, &rng);
    random_layer(m, &m->syn.l[m->syn_last], 4e-4f, NULL, &rng);
    start_linear(m, basis, var, std);
    free(basis);
    free(var);
    const layer *head = &m->syn.l[m->syn_head];
    float *head_scale = need((size_t)head->cin, sizeof *head_scale);
    for (int c = 0; c < head->cin; c++) head_scale[c] = c < L ? std[c] + 0.3f : 24.f;
    random_layer(m, head, 1.f, head_scale, &rng);
    free(head_scale);
    if (m->pre.family == NSVQ_FAMILY_HYPER) {
        start_hyper(m, d, std, &rng);
    } else {
        start_prior(m, d, std, &rng, quiet);
        vq_refresh(&m->q);
        vq_member_table(&m->q);
    }
    free(std);
    m->rng = rng;
}
