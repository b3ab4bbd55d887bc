/* lossless_solve.c - see lossless_solve.h. */
#include "lossless_solve.h"

#if defined __x86_64__ && defined __GNUC__ && !defined __SANITIZE_ADDRESS__
#define HAVE_512 1
#include <immintrin.h>
#endif

static double floor_of(double x) /* |x| < 2^62 */
{
    double t = (double)(int64_t)x;

    return t > x ? t - 1 : t;
}

/* ---- solving ---- */

/* R with R^T R = the moments of the unknowns listed. False: they are not independent. */
static bool cholesky(double r[MAX_UNKNOWNS][MAX_UNKNOWNS], const moments *g, const int *list, int n)
{
    for (int i = 0; i < n; i++) {
        for (int j = i; j < n; j++) {
            double sum = g->m[list[i]][list[j]];
            for (int k = 0; k < i; k++) sum -= r[k][i] * r[k][j];
            if (i == j) {
                if (!(sum > 1e-9 * g->m[list[i]][list[i]])) return false;
                r[i][i] = __builtin_sqrt(sum);
            } else {
                r[i][j] = sum / r[i][i];
            }
        }
    }
    return true;
}

double solve(double *c, double r[MAX_UNKNOWNS][MAX_UNKNOWNS], const moments *g, const int *list,
             int n, int target)
{
    double z[MAX_UNKNOWNS], left = g->m[target][target];

    if (!cholesky(r, g, list, n)) return -1;
    for (int i = 0; i < n; i++) {
        double sum = g->m[list[i]][target];
        for (int k = 0; k < i; k++) sum -= r[k][i] * z[k];
        z[i] = sum / r[i][i];
        left -= z[i] * z[i];
    }
    for (int i = n - 1; i >= 0; i--) {
        double sum = z[i];
        for (int k = i + 1; k < n; k++) sum -= r[i][k] * c[k];
        c[i] = sum / r[i][i];
    }
    return left < 0 ? 0 : left;
}

int32_t round_to(double v, double limit)
{
    v = v < -limit ? -limit : v > limit ? limit : v;
    return (int32_t)floor_of(v + 0.5);
}

void round_coefs(int32_t *out, const double *c, double r[MAX_UNKNOWNS][MAX_UNKNOWNS], int n,
                 const double *limit)
{
    double off[MAX_UNKNOWNS];

    for (int i = n - 1; i >= 0; i--) {
        double want = c[i];
        for (int k = i + 1; k < n; k++) want += r[i][k] * off[k] / r[i][i];
        out[i] = round_to(want, limit[i]);
        off[i] = c[i] - out[i];
    }
}

/* ---- moments ---- */

typedef double lanes __attribute__((vector_size(8 * LANES)));

typedef lanes lanes_at __attribute__((aligned(8), may_alias));
#define load(p) (*(const lanes_at *)(p))

void moments_clear(moments *g, int n_x)
{
    for (int i = 0; i < n_x; i++) memset(g->m[i], 0, (size_t)n_x * sizeof *g->m[i]);
}

static void keep_sum(double *to, const double *sum)
{
    *to += sum[0] + sum[1] + sum[2] + sum[3];
}

/* No order matters to sums of whole numbers below 2^53; weighted ones depend on this one. */
CLONES void moments_add_narrow(moments *g, const double *const *x, const double *weight, int n_x, int n)
{
    for (int i = 0; i < n_x; i += 2) { // blocks of 2 x 4 products, in registers
        const double *x0 = x[i], *x1 = x[i + 1 < n_x ? i + 1 : i];
        for (int j = i; j < n_x; j += 4) {
            int m = n_x - j < 4 ? n_x - j : 4;
            const double *y0 = x[j], *y1 = x[m > 1 ? j + 1 : j], *y2 = x[m > 2 ? j + 2 : j],
                         *y3 = x[m > 3 ? j + 3 : j];
            lanes s00 = {0}, s01 = {0}, s02 = {0}, s03 = {0}, s10 = {0}, s11 = {0}, s12 = {0},
                  s13 = {0};
            for (int k = 0; k < n; k += LANES) {
                lanes w = load(weight + k), v0 = load(x0 + k) * w, v1 = load(x1 + k) * w, u;
                u = load(y0 + k), s00 += v0 * u, s10 += v1 * u;
                u = load(y1 + k), s01 += v0 * u, s11 += v1 * u;
                u = load(y2 + k), s02 += v0 * u, s12 += v1 * u;
                u = load(y3 + k), s03 += v0 * u, s13 += v1 * u;
            }
            const lanes sums[2][4] = {{s00, s01, s02, s03}, {s10, s11, s12, s13}};
            for (int r = 0; r < 2 && i + r < n_x; r++)
                for (int t = 0; t < m; t++)
                    keep_sum(&g->m[i + r][j + t], (const double *)&sums[r][t]);
        }
    }
}

#ifdef HAVE_512
/* The same sums, two of them side by side in a register: blocks of 4 x 4 products. */
__attribute__((target("avx512f"))) static void
add_moments_512(moments *g, const double *const *x, const double *weight, int n_x, int n)
{
    for (int i = 0; i < n_x; i += 4) {
        const double *a[4];
        for (int r = 0; r < 4; r++) a[r] = x[i + r < n_x ? i + r : n_x - 1];
        for (int j = i; j < n_x; j += 4) {
            const double *b[4];
            __m512d s[2][4];
            for (int t = 0; t < 4; t++) b[t] = x[j + t < n_x ? j + t : n_x - 1];
            for (int t = 0; t < 8; t++) s[t / 4][t % 4] = _mm512_setzero_pd();
            for (int k = 0; k < n; k += LANES) {
                __m256d w = _mm256_loadu_pd(weight + k);
                __m512d v[2];
                for (int r = 0; r < 2; r++)
                    v[r] = _mm512_insertf64x4(
                        _mm512_castpd256_pd512(_mm256_mul_pd(_mm256_loadu_pd(a[2 * r] + k), w)),
                        _mm256_mul_pd(_mm256_loadu_pd(a[2 * r + 1] + k), w), 1);
                for (int t = 0; t < 4; t++) {
                    __m512d u = _mm512_broadcast_f64x4(_mm256_loadu_pd(b[t] + k));
                    s[0][t] = _mm512_add_pd(s[0][t], _mm512_mul_pd(v[0], u));
                    s[1][t] = _mm512_add_pd(s[1][t], _mm512_mul_pd(v[1], u));
                }
            }
            for (int r = 0; r < 4; r++)
                for (int t = 0; t < 4 && i + r < n_x && j + t < n_x; t++) {
                    double both[2 * LANES];
                    _mm512_storeu_pd(both, s[r / 2][t]);
                    keep_sum(&g->m[i + r][j + t], both + r % 2 * LANES);
                }
        }
    }
}

void moments_add(moments *g, const double *const *x, const double *weight, int n_x, int n)
{
    (__builtin_cpu_supports("avx512f") ? add_moments_512 : moments_add_narrow)(g, x, weight, n_x, n);
}
#else
void moments_add(moments *g, const double *const *x, const double *weight, int n_x, int n)
{
    moments_add_narrow(g, x, weight, n_x, n);
}
#endif

void moments_mirror(moments *g, int n)
{
    for (int i = 0; i < n; i++)
        for (int j = 0; j < i; j++) g->m[i][j] = g->m[j][i];
}
