/* muon.c - see muon.h. */
#include "muon.h"

#include <math.h>
#include <string.h>

#include "fast.h"
#include "layer.h"

#define MOMENTUM 0.95f
#define SIZE 0.2f /* root mean square of a step at rate 1 */
#define ROUNDS 5

/* [rows][cols] -> [cols][rows] */
static void transpose(float *to, const float *from, int rows, int cols)
{
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < cols; j++) to[(size_t)j * rows + i] = from[(size_t)i * cols + j];
}

/* s [r][r], the Gram matrix of x, to q [r][r] so that q x has singular values about 1: the product of rounds
 * x <- (a + b x x^T + d (x x^T)^2) x, whose singular values are drawn from (0, 1] to about 1. */
static void whiten(float *q, float *s, float *t, float *u, const float *zero, int r)
{
    const float a = 3.4445f, b = -4.7750f, d = 2.0315f;
    const size_t n = (size_t)r * r;
    float trace = 0;
    for (int i = 0; i < r; i++) trace += s[(size_t)i * r + i];
    for (size_t i = 0; i < n; i++) s[i] /= trace + 1e-30f;
    for (size_t i = 0; i < n; i++) q[i] = 0;
    for (int i = 0; i < r; i++) q[(size_t)i * r + i] = 1.f / sqrtf(trace + 1e-30f);
    for (int k = 0; k < ROUNDS; k++) { // all of them commute and are symmetric
        op_pointwise(t, s, NULL, s, zero, r, r, r, 0);
        for (size_t i = 0; i < n; i++) t[i] = b * s[i] + d * t[i];
        for (int i = 0; i < r; i++) t[(size_t)i * r + i] += a;
        op_pointwise(u, q, NULL, t, zero, r, r, r, 0);
        memcpy(q, u, n * sizeof *q);
        op_pointwise(u, s, NULL, t, zero, r, r, r, 0);
        op_pointwise(s, u, NULL, t, zero, r, r, r, 0);
    }
}

void muon_step(float *p, float *m, const float *g, float scale, const float *column, int rows, int cols,
               float rate)
{
    const int wide = rows < cols, r = wide ? rows : cols, c = wide ? cols : rows;
    const size_t n = (size_t)rows * cols, square = (size_t)r * r;
    float *x = grow(NULL, n), *t = grow(NULL, n), *q = grow(NULL, 4 * square), *zero = grow(NULL, (size_t)c);
    const float step = rate * SIZE * sqrtf((float)c);
    memset(zero, 0, sizeof *zero * (size_t)c);
    for (size_t i = 0; i < n; i++) {
        const float of = scale * g[i] * (column ? column[i % (size_t)cols] : 1.f);
        m[i] = MOMENTUM * m[i] + (1.f - MOMENTUM) * of;
        x[i] = MOMENTUM * m[i] + (1.f - MOMENTUM) * of; // a step ahead (Nesterov)
    }
    transpose(t, x, rows, cols);
    op_pointwise(q + square, wide ? x : t, NULL, wide ? x : t, zero, r, c, r, 0);
    whiten(q, q + square, q + 2 * square, q + 3 * square, zero, r);
    if (wide) { // q x, else x q
        op_pointwise(x, q, NULL, t, zero, r, r, c, 0);
    } else {
        memcpy(t, x, n * sizeof *t);
        op_pointwise(x, t, NULL, q, zero, c, r, r, 0);
    }
    for (size_t i = 0; i < n; i++) p[i] -= step * x[i] * (column ? column[i % (size_t)cols] : 1.f);
    free(x);
    free(t);
    free(q);
    free(zero);
}
