/* muon.c - steps of matrices. */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "check.h"

#include "muon.h"
#include "random.h"

#define N 24

static void random_matrix(float *x, int n, uint64_t seed)
{
    for (int i = 0; i < n; i++) x[i] = random_normal(&seed);
}

/* Largest and smallest |x v| / |v| that power iterations on x x^T and shifted by the largest find. */
static void check_singular(const float *x, int rows, int cols, double one)
{
    double g[N][N] = {{0}}, v[N], top = 0;
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < rows; j++)
            for (int k = 0; k < cols; k++) g[i][j] += (double)x[i * cols + k] * x[j * cols + k] / one / one;
    for (int turn = 0; turn < 2; turn++) { // of g, then of top - g
        double value = 0;
        for (int i = 0; i < rows; i++) v[i] = 1 + 0.1 * i;
        for (int k = 0; k < 400; k++) {
            double to[N], norm = 0;
            for (int i = 0; i < rows; i++) {
                to[i] = turn ? top * v[i] : 0;
                for (int j = 0; j < rows; j++) to[i] += (turn ? -1 : 1) * g[i][j] * v[j];
                norm += to[i] * to[i];
            }
            value = sqrt(norm);
            for (int i = 0; i < rows; i++) v[i] = to[i] / value;
        }
        if (!turn) top = value;
        assert_true(sqrt(turn ? top - value : value) > 0.5);
        assert_true(sqrt(turn ? top - value : value) < 1.5);
    }
}

/* Whatever the gradient's scale, a step has singular values about 1 and a size that AdamW's has. */
static void steps_are_orthogonal(void **state)
{
    static const int shape[][2] = {{16, 40}, {12, 40}, {40, 12}};
    (void)state;
    for (int s = 0; s < 3; s++) {
        const int rows = shape[s][0], cols = shape[s][1], longer = rows > cols ? rows : cols;
        float p[640] = {0}, m[640] = {0}, g[640], t[640];
        random_matrix(g, rows * cols, 7);
        muon_step(p, m, g, 1e-4f, NULL, rows, cols, 1.f);
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < cols; j++) t[rows > cols ? j * rows + i : i * cols + j] = p[i * cols + j];
        check_singular(t, rows < cols ? rows : cols, longer, 0.2 * sqrt(longer));
    }
}

static void multiply(double *c, const double *a, const double *b, int n)
{
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            double sum = 0;
            for (int k = 0; k < n; k++) sum += a[i * n + k] * b[k * n + j];
            c[i * n + j] = sum;
        }
}

/* The same in doubles, for a gradient whose singular values fall by half: rounding errors stay rounding errors. */
static void errors_do_not_grow(void **state)
{
    enum { SIDE = 16, ALL = SIDE * SIDE };
    float p[ALL] = {0}, m[ALL] = {0}, g[ALL], other[ALL];
    double x[ALL] = {0}, s[ALL], t[ALL], u[ALL], xt[ALL], trace = 0, error = 0, size = 0;
    (void)state;
    random_matrix(g, ALL, 5);
    random_matrix(other, ALL, 6);
    for (int i = 0; i < ALL; i++)
        for (int k = 0; k < SIDE; k++)
            x[i] += (double)g[i / SIDE * SIDE + k] * exp2(-k) * other[k * SIDE + i % SIDE];
    for (int i = 0; i < ALL; i++) g[i] = (float)x[i], x[i] = g[i];
    muon_step(p, m, g, 1.f, NULL, SIDE, SIDE, 1.f);
    for (int i = 0; i < ALL; i++) trace += x[i] * x[i];
    for (int i = 0; i < ALL; i++) x[i] /= sqrt(trace);
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < ALL; i++) xt[i % SIDE * SIDE + i / SIDE] = x[i];
        multiply(s, x, xt, SIDE);
        multiply(t, s, s, SIDE);
        for (int i = 0; i < ALL; i++)
            t[i] = 2.0315 * t[i] - 4.7750 * s[i] + (i % (SIDE + 1) ? 0 : 3.4445);
        multiply(u, t, x, SIDE);
        for (int i = 0; i < ALL; i++) x[i] = u[i];
    }
    for (int i = 0; i < ALL; i++) {
        const double want = -0.2 * sqrt(SIDE) * x[i];
        error += (p[i] - want) * (p[i] - want);
        size += want * want;
    }
    assert_true(sqrt(error / size) < 1e-3);
}

static void tall_is_wide_turned(void **state)
{
    float p[2][480] = {{0}}, m[2][480] = {{0}}, g[2][480];
    (void)state;
    random_matrix(g[0], 480, 3);
    for (int i = 0; i < 12; i++)
        for (int j = 0; j < 40; j++) g[1][j * 12 + i] = g[0][i * 40 + j];
    muon_step(p[0], m[0], g[0], 1.f, NULL, 12, 40, 0.1f);
    muon_step(p[1], m[1], g[1], 1.f, NULL, 40, 12, 0.1f);
    for (int i = 0; i < 12; i++)
        for (int j = 0; j < 40; j++) assert_float_equal(p[0][i * 40 + j], p[1][j * 12 + i], 1e-5);
}

/* min |w x - t|^2 over inputs of very different size: units of columns make up for them. */
static void it_learns_in_units_of_columns(void **state)
{
    enum { IN = 16, OUT = 16, COUNT = 64 };
    float w[OUT * IN] = {0}, m[OUT * IN] = {0}, x[COUNT * IN], truth[OUT * IN], column[IN];
    double error[2] = {0};
    (void)state;
    random_matrix(x, COUNT * IN, 1);
    random_matrix(truth, OUT * IN, 2);
    for (int i = 0; i < IN; i++) column[i] = i % 2 ? 0.02f : 1.f;
    for (int i = 0; i < COUNT * IN; i++) x[i] /= column[i % IN];
    for (int i = 0; i < OUT * IN; i++) truth[i] *= column[i % IN];
    for (int step = 0; step <= 400; step++) {
        float g[OUT * IN] = {0};
        double sum = 0;
        for (int k = 0; k < COUNT; k++)
            for (int o = 0; o < OUT; o++) {
                float e = 0;
                for (int i = 0; i < IN; i++) e += (w[o * IN + i] - truth[o * IN + i]) * x[k * IN + i];
                for (int i = 0; i < IN; i++) g[o * IN + i] += e * x[k * IN + i];
                sum += (double)e * e;
            }
        if (step % 400 == 0) error[step / 400] = sum;
        muon_step(w, m, g, 1.f, column, OUT, IN, 0.1f * (1.f - (float)step / 400.f));
    }
    assert_true(error[1] < error[0] * 1e-4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_are_orthogonal),
        cmocka_unit_test(errors_do_not_grow),
        cmocka_unit_test(tall_is_wide_turned),
        cmocka_unit_test(it_learns_in_units_of_columns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
