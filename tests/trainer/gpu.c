/* gpu.c - the GPU backend on the host device: all its kernels in loops, against the trainer's own step. */
#include <math.h>
#include <stdbool.h>

#include "check.h"
#include "cuda/kernels.h"
#include "host.h"
#include "random.h"
#include "steps.h"
#include "support.h"

static dataset pictures;

static void steps_are_the_trainers(void **state)
{
    const struct { const preset *p; int batch, patch; } shapes[] = {
        {&steps_sixteen, 3, 64}, {&steps_sixteen, 2, 192}, {&steps_eight, 2, 64}, {&steps_eight, 3, 128}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        device *v = host_open(1);
        const char *why = steps_same(v, &pictures, shapes[i].p, shapes[i].batch, shapes[i].patch, 2e-3);
        v->close(v);
        if (why) fail_msg("%s", why);
    }
}

/* In bfloat16 the gradient points where it should. */
static void low_precision_is_near(void **state)
{
    device *v = host_open(0);
    const char *why = steps_near(v, &pictures, &steps_sixteen, 3, 128);
    v->close(v);
    if (why) fail_msg("%s", why);
}

static void infinite_gradients_are_left_out(void **state)
{
    model m, got;
    gpu_sums sums;
    steps_model(&m, &steps_sixteen, 2, 64);
    steps_model(&got, &steps_sixteen, 2, 64);
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
    steps_model(&m, &steps_sixteen, 2, 192); /* all are as large; none reaches 256 */
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
