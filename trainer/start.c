/* start.c - a working linear codec before the first step: principal components in the linear paths,
 * least-squares predictors in the prior, k-means codebooks ordered as a tree. Measured (design.md):
 * worth hours of training. */
#include <dnnl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "random.h"
#include "train.h"

#define N_PIXELS 768 /* 16 x 16 x 3 */
#define N_SUBSPACE 128

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

/* The `want` leading eigenvectors (rows of basis [want][n]) of cov by subspace iteration. */
static void principal(const float *cov, int n, int want, float *basis, float *variance, uint64_t *rng)
{
    const int m = N_SUBSPACE;
    float *q = need((size_t)m * n, sizeof *q), *z = need((size_t)m * n, sizeof *z);
    double *a = need((size_t)m * m, sizeof *a), *v = need((size_t)m * m, sizeof *v), e[N_SUBSPACE];
    for (int i = 0; i < m * n; i++) q[i] = random_normal(rng);
    for (int it = 0; it < 40; it++) {
        orthonormalise(q, m, n, rng);
        dnnl_sgemm('N', 'N', m, n, n, 1.f, q, n, cov, n, 0.f, z, n);
        float *t = q;
        q = z;
        z = t;
    }
    orthonormalise(q, m, n, rng);
    dnnl_sgemm('N', 'N', m, n, n, 1.f, q, n, cov, n, 0.f, z, n);
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
        variance[r] = (float)e[top];
        e[top] = -1;
        for (int k = 0; k < n; k++) {
            double d = 0;
            for (int i = 0; i < m; i++) d += v[i * m + top] * q[(size_t)i * n + k];
            basis[(size_t)r * n + k] = (float)d;
        }
    }
    free(q); free(z); free(a); free(v);
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

static void samples(const model *m, const dataset *d, uint64_t *rng, float *x, int n)
{
    const int size = 256;
    uint8_t *rgb = need((size_t)size * size * 3, 1);
    for (int got = 0, w, h; got < n;) {
        dataset_patch(d, rng, size, rgb, &w, &h);
        for (int by = 0; by < h / 16 && got < n; by++)
            for (int bx = 0; bx < w / 16 && got < n; bx++, got++) {
                float *to = x + (size_t)got * N_PIXELS; /* order [sy][sx][py][px][c] */
                for (int i = 0; i < 256; i++) {
                    const int sx = i / 16 % 4, sy = i / 64, px = i % 4, py = i / 4 % 4;
                    const uint8_t *p = rgb + ((size_t)(by * 16 + sy * 4 + py) * (size_t)w +
                                              (size_t)(bx * 16 + sx * 4 + px)) * 3;
                    for (int c = 0; c < 3; c++) to[i * 3 + c] = ((float)p[c] - 128.f) / 64.f;
                }
            }
    }
    free(rgb);
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
            dnnl_sgemm('N', 'T', m, k, dim, -2.f, x + (size_t)a * dim, dim, code, dim, 0.f, dot, k);
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
    double *a[NSVQ_N_PASSES], *b[NSVQ_N_PASSES];
    for (int p = 0; p < NSVQ_N_PASSES; p++) {
        a[p] = need((size_t)X * X, sizeof **a);
        b[p] = need((size_t)X * L, sizeof **b);
        random_layer(m, &q->ctx[p], 1.f, scale, rng);
    }
    /* Least squares of each latent from the context of its pass, on unquantised latents. */
    uint8_t *rgb = need((size_t)size * size * 3, 1);
    workspace ws = {0};
    vq_patch vp = {0};
    float *res = need((size_t)max_n * L, sizeof *res), *fa = need((size_t)X * X, sizeof *fa),
          *fb = need((size_t)X * L, sizeof *fb);
    int n_res = 0, n_seen[NSVQ_N_PASSES] = {0};
    for (int round = 0; round < 2; round++) {
        for (int patch = 0; patch < 240; patch++) {
            int w, h;
            dataset_patch(d, rng, size, rgb, &w, &h);
            workspace_shape(&ws, &m->ana, h / 4, w / 4);
            for (int i = 0; i < w * h / 16; i++) {
                const int x = i % (w / 4), y = i / (w / 4);
                for (int t = 0; t < 48; t++)
                    ws.r[0].v[(size_t)i * 48 + t] =
                        ((float)rgb[((size_t)(y * 4 + t / 12) * (size_t)w + (size_t)x * 4) * 3 + t % 12] -
                         128.f) / 64.f;
            }
            net_forward(&m->ana, m->st.p, &ws);
            const tensor *y = &ws.r[m->ana.output];
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
                    dnnl_sgemm('T', 'N', X, X, n, 1.f, ctx, X, ctx, X, 0.f, fa, X);
                    dnnl_sgemm('T', 'N', X, L, n, 1.f, ctx, X, t, L, 0.f, fb, L);
                    for (int i = 0; i < X * X; i++) a[p][i] += fa[i];
                    for (int i = 0; i < X * L; i++) b[p][i] += fb[i];
                    n_seen[p] += n;
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
        if (round == 1) break;
        for (int p = 0; p < NSVQ_N_PASSES; p++) {
            /* Neighbours will be quantised: ridge with the noise of a low rate. */
            for (int i = 0; i < X; i++) {
                const float var = i < 4 * L ? std[i % L] * std[i % L] : 0.f;
                a[p][(size_t)i * X + i] += n_seen[p] * (i < 4 * L ? 0.5 * fminf(var, 0.5f) + 1e-3 : 300.);
            }
            solve(a[p], b[p], X, L);
            for (int o = 0; o < L; o++)
                for (int i = 0; i < X; i++)
                    m->st.p[q->mean[p].w + (size_t)o * X + i] = (float)b[p][(size_t)i * L + o];
        }
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
    for (int p = 0; p < NSVQ_N_PASSES; p++) {
        free(a[p]);
        free(b[p]);
    }
    workspace_free(&ws);
    vq_patch_free(&vp);
    free(x); free(code); free(count); free(at); free(rgb); free(res); free(fa); free(fb); free(scale);
}

void model_start(model *m, const dataset *d, int quiet)
{
    const int n = 60000, L = m->q.latent;
    uint64_t rng = m->rng;
    float *x = need((size_t)n * N_PIXELS, sizeof *x), *cov = need(N_PIXELS * N_PIXELS, sizeof *cov);
    float *basis = need((size_t)L * N_PIXELS, sizeof *basis), *var = need((size_t)L, sizeof *var);
    float *std = need((size_t)L, sizeof *std);
    samples(m, d, &rng, x, n);
    dnnl_sgemm('T', 'N', N_PIXELS, N_PIXELS, n, 1.f / (float)n, x, N_PIXELS, x, N_PIXELS, 0.f, cov, N_PIXELS);
    double total = 0, kept = 0;
    for (int i = 0; i < N_PIXELS; i++) total += cov[(size_t)i * N_PIXELS + i];
    principal(cov, N_PIXELS, L, basis, var, &rng);
    for (int i = 0; i < L; i++) kept += var[i];
    if (!quiet)
        fprintf(stderr, "principal components: %d of %d keep all but %.2f grey levels rms\n", L, N_PIXELS,
                64. * sqrt((total - kept) / N_PIXELS));

    for (int i = 0; i < m->ana.n_layers; i++) random_layer(m, &m->ana.l[i], 2.f, NULL, &rng);
    for (int i = 0; i < m->syn.n_layers; i++) random_layer(m, &m->syn.l[i], 2.f, NULL, &rng);
    /* Residual branches start small, so that depth does not multiply the variance. */
    for (int i = 0; i < m->ana.n_layers; i++)
        if (m->ana.l[i].res != NSVQ_NO_REGISTER) random_layer(m, &m->ana.l[i], 0.2f, NULL, &rng);
    for (int i = 0; i < m->syn.n_layers; i++)
        if (m->syn.l[i].res != NSVQ_NO_REGISTER) random_layer(m, &m->syn.l[i], 0.2f, NULL, &rng);
    random_layer(m, &m->ana.l[m->ana_last], 4e-4f, NULL, &rng);
    random_layer(m, &m->syn.l[m->syn_last], 4e-4f, NULL, &rng);

    /* Components in order of variance go 0 1 2 3 3 2 1 0 .. over the slices: about equal loads. */
    float *ana = m->st.p + m->ana.l[m->ana_linear].w, *syn = m->st.p + m->syn.l[m->syn_linear].w;
    int fill[NSVQ_MAX_SLICES] = {0}, S = m->q.slices;
    float flat[3] = {0};
    for (int i = 0; i < L; i++) {
        int s = i % (2 * S) < S ? i % S : S - 1 - i % S;
        while (fill[s] == m->q.dim) s = (s + 1) % S;
        const int c = s * m->q.dim + fill[s]++;
        std[c] = sqrtf(var[i]);
        memcpy(ana + (size_t)c * N_PIXELS, basis + (size_t)i * N_PIXELS, sizeof(float) * N_PIXELS);
        for (int p = 0; p < N_PIXELS; p++) syn[(size_t)p * L + c] = basis[(size_t)i * N_PIXELS + p];
        /* The seed channels are the three that answer most to flat colours. */
        float e = 0;
        for (int b = 0; b < 3; b++) {
            float sum = 0;
            for (int p = b; p < N_PIXELS; p += 3) sum += basis[(size_t)i * N_PIXELS + p];
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
    float *head_scale = need((size_t)L, sizeof *head_scale);
    for (int c = 0; c < L; c++) head_scale[c] = std[c] + 0.3f;
    random_layer(m, &m->syn.l[m->syn_head], 1.f, head_scale, &rng);
    free(head_scale);
    free(x); free(cov); free(basis); free(var);
    start_prior(m, d, std, &rng, quiet);
    vq_refresh(&m->q);
    vq_member_table(&m->q);
    free(std);
    m->rng = rng;
}
