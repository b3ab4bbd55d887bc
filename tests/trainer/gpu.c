/* gpu.c - the GPU backend on the host device: all its kernels in loops, against the trainer's own step. */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "cuda/kernels.h"
#include "gpu.h"
#include "host.h"
#include "random.h"
#include "support.h"

static dataset pictures;

static double rms(const float *p, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)p[i] * p[i];
    return sqrt(sum / (double)n);
}

/* got is want up to `most` of a segment's rms. */
static void same(const model *m, const char *what, const float *got, const float *want, double most)
{
    for (int s = 0; s < m->st.n_segments; s++) {
        const segment *e = &m->st.seg[s];
        const double scale = rms(want + e->at, e->n) + 1e-12;
        for (size_t i = e->at; i < e->at + e->n; i++)
            if (!(fabs((double)got[i] - want[i]) <= most * scale))
                fail_msg("%s %s, segment %d, [%zu] of %zu: %g, not %g (rms %g)", m->pre.name, what, s,
                         i - e->at, e->n, (double)got[i], (double)want[i], scale);
    }
}

static void make(model *m, const preset *p, int batch, int patch)
{
    uint64_t rng = 3;
    model_random(m, p, 5);
    m->run = (run){.batch = batch, .patch = patch, .low = 5.f, .high = 95.f};
    for (int i = 0; i < m->h.context + m->h.z + NSVQ_N_EXTRA; i++) m->h.column[i] = 0.2f + random_unit(&rng);
    for (int i = 0; i < m->st.n_segments; i += 2) m->norm[i] = 1e-3f; /* these are clipped */
    memcpy(m->mean, m->st.p, m->st.n * sizeof(float));
}

/* Steps as they are, recorded and replayed; each from the state that the one before left. */
static void check_steps(const preset *p, int batch, int patch)
{
    model m, got;
    make(&m, p, batch, patch);
    make(&got, p, batch, patch);
    device *v = host_open(1);
    gpu *g = gpu_open(v, &m, &pictures);
    float *want = malloc(m.st.n * sizeof *want), *grad = malloc(m.st.n * sizeof *grad);
    double all_bits = 0, all_psnr = 0;
    gpu_sums sums;
    assert_true(g && want && grad);
    for (int step = 0; step < 3; step++) {
        double bits, psnr;
        train_gradient(&m, &pictures, (uint64_t)step + 7, want, &bits, &psnr);
        all_bits += bits;
        all_psnr += psnr;
        gpu_step(g, (uint64_t)step + 7, 0.01f);
        gpu_gradient(g, grad);
        same(&m, "gradient", grad, want, 2e-3);
        assert_int_equal(train_update(&m, grad, 0.01f), 0);
        assert_int_equal(gpu_fetch(g, &got), 0);
        same(&m, "parameters", got.st.p, m.st.p, 1e-5);
        same(&m, "first moment", got.m, m.m, 1e-5);
        same(&m, "second moment", got.v, m.v, 1e-5);
        same(&m, "average", got.mean, m.mean, 1e-5);
        for (int i = 0; i < m.st.n_segments; i++)
            assert_true(fabsf(got.norm[i] - m.norm[i]) <= 1e-5f * m.norm[i]);
        assert_int_equal(got.moments, m.moments);
        memcpy(m.st.p, got.st.p, m.st.n * sizeof(float));
        memcpy(m.m, got.m, m.st.n * sizeof(float));
        memcpy(m.v, got.v, m.st.n * sizeof(float));
        memcpy(m.mean, got.mean, m.st.n * sizeof(float));
    }
    assert_int_equal(gpu_figures(g, &sums), 0);
    assert_true(sums.patches == 3 * batch && sums.left_out == 0);
    assert_true(fabs(sums.bits / all_bits - 1) < 1e-4 && fabs(sums.psnr / all_psnr - 1) < 1e-4);
    gpu_close(g);
    v->close(v);
    free(want); free(grad);
    model_free(&m);
    model_free(&got);
}

static const preset sixteen = {"sixteen", NSVQ_FAMILY_HYPER, 16, 16, 16, 1, 32, 1, 16, 1, 16, 1, 16, 2,
                               0, 0, 0, 0, 8, 16, 6};
static const preset eight = {"eight", NSVQ_FAMILY_HYPER, 8, 12, 16, 1, 16, 1, 0, 0, 32, 1, 16, 1,
                             0, 0, 0, 0, 12, 16, 4};

static void steps_are_the_trainers(void **state)
{
    check_steps(&sixteen, 3, 64);
    check_steps(&sixteen, 2, 192);
    check_steps(&eight, 2, 64);
    check_steps(&eight, 3, 128);
}

/* In bfloat16 the gradient points where it should, and masters and moments stay float32. */
static void low_precision_is_near(void **state)
{
    model m;
    make(&m, &sixteen, 3, 128);
    device *v = host_open(0);
    gpu *g = gpu_open(v, &m, &pictures);
    float *want = malloc(m.st.n * sizeof *want), *grad = malloc(m.st.n * sizeof *grad);
    double bits, psnr;
    gpu_sums sums;
    assert_true(g && want && grad);
    train_gradient(&m, &pictures, 7, want, &bits, &psnr);
    gpu_step(g, 7, 0.01f);
    gpu_gradient(g, grad);
    assert_int_equal(gpu_figures(g, &sums), 0);
    assert_true(fabs(sums.bits / bits - 1) < 0.01 && fabs(sums.psnr / psnr - 1) < 0.01);
    for (int s = 0; s < m.st.n_segments; s++) {
        const segment *e = &m.st.seg[s];
        double dot = 0;
        if (e->at == m.h.gain || e->at == m.h.z_gain) continue; /* of rounding errors, which differ */
        for (size_t i = e->at; i < e->at + e->n; i++) dot += (double)grad[i] * want[i];
        const double a = rms(grad + e->at, e->n), b = rms(want + e->at, e->n);
        const double along = dot / ((double)e->n * a * b + 1e-30);
        if (b > 0 && !(along > 0.99 && a / b > 0.97 && a / b < 1.03))
            fail_msg("segment %d: cosine %g, %g times as long", s, along, a / b);
    }
    gpu_close(g);
    v->close(v);
    free(want); free(grad);
    model_free(&m);
}

static void infinite_gradients_are_left_out(void **state)
{
    model m, got;
    gpu_sums sums;
    make(&m, &sixteen, 2, 64);
    make(&got, &sixteen, 2, 64);
    m.st.p[m.syn.l[0].b] = NAN;
    for (int exact = 0; exact < 2; exact++) {
        device *v = host_open(exact);
        gpu *g = gpu_open(v, &m, &pictures);
        assert_non_null(g);
        gpu_step(g, 1, 0.01f);
        assert_int_equal(gpu_figures(g, &sums), 0);
        assert_true(sums.left_out == 1 && sums.patches == 2);
        assert_int_equal(gpu_fetch(g, &got), 0);
        assert_memory_equal(got.st.p, m.st.p, m.st.n * sizeof(float));
        assert_memory_equal(got.norm, m.norm, (size_t)m.st.n_segments * sizeof(float));
        assert_int_equal(got.moments, 0);
        gpu_close(g);
        v->close(v);
    }
    model_free(&m);
    model_free(&got);
}

static void rates_are_the_trainers(void **state)
{
    uint64_t rng = 4;
    for (int i = 0; i < 20000; i++) {
        const float ls = -6.f + 16.f * random_unit(&rng);
        const float v = (random_unit(&rng) * 60.f * exp2f(ls) + 0.5f) * (i % 2 ? 1.f : -1.f);
        float dv, ds, want_dv, want_ds;
        const double want = hyper_rate(&v, &ls, &want_dv, &want_ds, 1), got = rate_of(v, ls, &dv, &ds);
        if (!(fabs(got - want) < 2e-3 + 2e-4 * want && fabsf(dv - want_dv) < 5e-3f && fabsf(ds - want_ds) < 5e-3f))
            fail_msg("v %g, ls %g: %g %g %g, not %g %g %g", (double)v, (double)ls, got, (double)dv, (double)ds,
                     want, (double)want_dv, (double)want_ds);
    }
}

static void bfloat16_rounds_to_even(void **state)
{
    assert_int_equal(to_bf16(1.f), 0x3f80);
    assert_int_equal(to_bf16(1.f + 1.f / 256), 0x3f80);     /* a tie */
    assert_int_equal(to_bf16(1.f + 3.f / 256), 0x3f82);     /* another */
    assert_int_equal(to_bf16(1.f + 1.1f / 256), 0x3f81);
    assert_true(isnan(from_bf16(to_bf16(NAN))) && isinf(from_bf16(to_bf16(INFINITY))));
    assert_true(isinf(from_bf16(to_bf16(3.4e38f))));
    for (uint32_t i = 0; i < 0x7f80; i++) assert_int_equal(to_bf16(from_bf16(i)), i);
}

static void small_pictures_are_left_out(void **state)
{
    model m;
    make(&m, &sixteen, 2, 192); /* all are as large; none reaches 256 */
    device *v = host_open(1);
    gpu *g = gpu_open(v, &m, &pictures);
    assert_non_null(g);
    gpu_close(g);
    m.run.patch = 256;
    silence(true);
    g = gpu_open(v, &m, &pictures);
    silence(false);
    assert_null(g);
    v->close(v);
    model_free(&m);
}

static int prepare(void **state)
{
    pictures_make(&pictures, 6);
    return 0;
}

static int clear(void **state)
{
    dataset_free(&pictures);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bfloat16_rounds_to_even),  cmocka_unit_test(rates_are_the_trainers),
        cmocka_unit_test(steps_are_the_trainers),   cmocka_unit_test(low_precision_is_near),
        cmocka_unit_test(infinite_gradients_are_left_out), cmocka_unit_test(small_pictures_are_left_out),
    };
    return cmocka_run_group_tests(tests, prepare, clear);
}
