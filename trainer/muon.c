/* muon.c - see muon.h. */
#include "muon.h"

#include <math.h>
#include <string.h>

#include "fast.h"
#include "gemm.h"

/* c = a b [r][r]. Not op_pointwise, which would transpose b: that is b but for rounding errors, whose
 * antisymmetric part then grows sevenfold a round. */
static void square(float *c, const float *a, const float *b, int r)
{
    gemm('N', 'N', r, r, r, 1.f, a, r, b, r, 0.f, c, r);
}

/* s [r][r], the Gram matrix of x, to q [r][r] so that q x has singular values about 1: the product of rounds
 * x <- (a + b x x^T + d (x x^T)^2) x, whose singular values are drawn from (0, 1] to about 1. */
static void whiten(float *q, float *s, float *t, float *u, int r)
{
    const size_t n = (size_t)r * r;
    float trace = 0;
    for (int i = 0; i < r; i++) trace += s[(size_t)i * r + i];
    for (size_t i = 0; i < n; i++) s[i] /= trace + 1e-30f;
    for (size_t i = 0; i < n; i++) q[i] = 0;
    for (int i = 0; i < r; i++) q[(size_t)i * r + i] = 1.f / sqrtf(trace + 1e-30f);
    for (int k = 0; k < MUON_ROUNDS; k++) { // all of them commute and are symmetric
        square(t, s, s, r);
        for (size_t i = 0; i < n; i++) t[i] = MUON_B * s[i] + MUON_D * t[i];
        for (int i = 0; i < r; i++) t[(size_t)i * r + i] += MUON_A;
        square(u, q, t, r);
        memcpy(q, u, n * sizeof *q);
        square(u, s, t, r);
        square(s, u, t, r);
    }
}

void muon_step(float *p, float *m, const float *g, float scale, const float *column, int rows, int cols,
               float rate)
{
    const int wide = rows < cols, r = wide ? rows : cols, c = wide ? cols : rows;
    const size_t n = (size_t)rows * cols, each = (size_t)r * r;
    float *x = grow(NULL, n), *t = grow(NULL, n), *q = grow(NULL, 4 * each);
    const float step = rate * MUON_SIZE * sqrtf((float)c);
    for (size_t i = 0; i < n; i++) {
        const float of = scale * g[i] * (column ? column[i % (size_t)cols] : 1.f);
        m[i] = MUON_MOMENTUM * m[i] + (1.f - MUON_MOMENTUM) * of;
        x[i] = MUON_MOMENTUM * m[i] + (1.f - MUON_MOMENTUM) * of; // a step ahead (Nesterov)
    }
    gemm(wide ? 'N' : 'T', wide ? 'T' : 'N', r, r, c, 1.f, x, cols, x, cols, 0.f, q + each, r);
    whiten(q, q + each, q + 2 * each, q + 3 * each, r);
    if (wide)
        gemm('N', 'N', r, c, r, 1.f, q, r, x, c, 0.f, t, c);
    else
        gemm('N', 'N', c, r, r, 1.f, x, r, q, r, 0.f, t, r);
    for (size_t i = 0; i < n; i++) p[i] -= step * t[i] * (column ? column[i % (size_t)cols] : 1.f);
    free(x);
    free(t);
    free(q);
}
