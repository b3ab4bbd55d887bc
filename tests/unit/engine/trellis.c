/* trellis.c - the search for dependent residuals: against all paths, and what it promises of any tables. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "testmodel.h"
#include "trellis.h"

enum { N = 6, CHANNELS = TRELLIS_LANES + 3 }; /* positions of the short sequences; a group of lanes and more */

typedef struct fixture {
    trellis t;
    test_rng rng;
    int16_t y[N * CHANNELS], mu[N * CHANNELS], r[N * CHANNELS];
    uint8_t cls[N * CHANNELS], state[CHANNELS];
    int32_t step[CHANNELS];
    int at[N];
    uint8_t work[N * TRELLIS_LANES * 64];
} fixture;

static void random_tables(fixture *f, uint32_t lambda)
{
    f->t.lambda = lambda;
    for (int c = 0; c < NSVQ_N_CLASSES; c++)
        for (int q = 0; q < 2; q++) {
            symbol_costs *s = &f->t.costs[c][q];
            s->half = (uint8_t)test_range(&f->rng, 0, 31);
            s->shift = (uint8_t)(test_range(&f->rng, 0, 3) ? 0 : test_range(&f->rng, 1, 12));
            for (int i = 0; i < 2 * s->half + 2; i++) s->bits[i] = (uint16_t)test_range(&f->rng, 0, 15 * 256);
        }
    trellis_set_prices(&f->t);
}

/* scale: of the distances, in steps. */
static void random_pass(fixture *f, trellis_pass *p, int first_class, double scale)
{
    for (int j = 0; j < CHANNELS; j++) {
        f->step[j] = 1 << test_range(&f->rng, 4, 12);
        f->state[j] = (uint8_t)test_range(&f->rng, 0, TRELLIS_STATES - 1);
    }
    for (int i = 0; i < N * CHANNELS; i++) {
        double d = test_bell(&f->rng) * scale * f->step[i % CHANNELS] / 16;
        f->mu[i] = (int16_t)test_range(&f->rng, -500, 500);
        f->cls[i] = (uint8_t)test_range(&f->rng, 0, NSVQ_N_CLASSES - 1);
        f->y[i] = (int16_t)d;
        f->r[i] = 77;
    }
    for (int i = 0; i < N; i++) f->at[i] = N - 1 - i;
    assert_true(trellis_work(N) <= sizeof f->work);
    *p = (trellis_pass){.n = N, .n_channels = CHANNELS, .first_class = first_class, .at = f->at, .y = f->y,
                        .mu = f->mu, .cls = f->cls, .step = f->step, .state = f->state, .residual = f->r,
                        .work = f->work};
}

/* As the search has it, by a reciprocal. */
static int64_t distance(const fixture *f, int i, int j)
{
    int64_t d = nsvq_clamp_latent(f->y[f->at[i] * CHANNELS + j]) - f->mu[i * CHANNELS + j];
    return (d < 0 ? -d : d) * ((INT64_C(1) << 36) / f->step[j]) >> 24;
}

static int64_t cost_of(const fixture *f, int i, int j, int k, int q)
{
    int at = f->at[i] * CHANNELS + j, negative = f->y[at] < f->mu[i * CHANNELS + j];
    int64_t e = distance(f, i, j) - 256 * (int64_t)trellis_residual(k, q);
    return e * e + (int64_t)f->t.lambda * symbol_costs_of(&f->t.costs[f->cls[at]][q], negative ? -k : k) / 4;
}

/* The least cost of positions from i on, whatever their indices are; *first: that of i. */
static int64_t best_path(const fixture *f, const trellis_pass *p, int i, int j, int state, int *first)
{
    if (i == N) return 0;
    if (f->cls[f->at[i] * CHANNELS + j] < p->first_class) return best_path(f, p, i + 1, j, state, first);
    int q = state & 1, high = ((int)(distance(f, i, j) >> 8) + q) / 2 + 1, ignored;
    int64_t best = INT64_MAX;
    for (int k = high; k >= 0; k = k > high - 2 ? k - 1 : k ? 0 : -1) {
        int64_t cost = cost_of(f, i, j, k, q);
        if (cost < best) cost += best_path(f, p, i + 1, j, trellis_next[state][k & 1], &ignored);
        if (cost >= best) continue;
        best = cost;
        *first = k;
    }
    return best;
}

/* What a channel's residuals cost; its last state. */
static int64_t path_cost(const fixture *f, const trellis_pass *p, int j, int *state)
{
    int64_t sum = 0;
    for (int i = 0; i < N; i++) {
        int at = f->at[i] * CHANNELS + j, r = f->r[at], q = *state & 1, k = trellis_index(r, q);
        if (f->cls[at] < p->first_class) {
            assert_int_equal(r, 0);
            continue;
        }
        assert_int_equal(trellis_residual(k, q), r);
        assert_true(f->y[at] < f->mu[i * CHANNELS + j] ? k <= 0 : k >= 0);
        sum += cost_of(f, i, j, abs(k), q);
        *state = trellis_next[*state][k & 1];
    }
    return sum;
}

static void paths_are_the_best(void **state)
{
    static const uint32_t lambda[] = {0, 204, 20000};
    fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->rng.s = 5;
    for (int round = 0; round < 60; round++) {
        trellis_pass p;
        random_tables(f, lambda[round % 3]);
        random_pass(f, &p, round & 1 ? 20 : 0, round % 5 ? 1.5 : 40);
        uint8_t start[CHANNELS];
        memcpy(start, f->state, sizeof start);
        trellis_search(&f->t, &p);
        int64_t sum = 0;
        for (int j = 0; j < CHANNELS; j++) {
            int at = start[j], ignored;
            int64_t got = path_cost(f, &p, j, &at), want = best_path(f, &p, 0, j, start[j], &ignored);
            assert_int_equal(got, want);
            assert_int_equal(f->state[j], at);
            sum += got;
        }
        assert_int_equal(p.spent, sum);
    }
    free(f);
}

/* Every index leads where the table says, by both quantisers, there and back. */
static void indices_return(void **state)
{
    for (int k = -TRELLIS_MAX; k <= TRELLIS_MAX; k++)
        for (int q = 0; q < 2; q++) {
            int r = trellis_residual(k, q);
            assert_int_equal(trellis_index(r, q), k);
            assert_true(abs(r) <= INT16_MAX && (k == 0 || (r & 1) == q));
        }
    for (int s = 0; s < TRELLIS_STATES; s++) { // every state is reached once by each parity
        int reached[2] = {0};
        for (int from = 0; from < TRELLIS_STATES; from++)
            for (int parity = 0; parity < 2; parity++) reached[parity] += trellis_next[from][parity] == s;
        assert_true(reached[0] == 1 && reached[1] == 1);
    }
}

/* Latents at the ends of their range, tables and lambda that no training makes: in bounds. */
static void extremes_are_in_bounds(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->rng.s = 6;
    for (int round = 0; round < 40; round++) {
        trellis_pass p;
        random_tables(f, round & 1 ? UINT32_MAX : 0);
        random_pass(f, &p, round % 3 * 20, 1);
        for (int i = 0; i < N * CHANNELS; i++) {
            f->y[i] = i % 3 ? INT16_MAX : INT16_MIN;
            f->mu[i] = i % 5 ? INT16_MIN : INT16_MAX;
        }
        for (int j = 0; j < CHANNELS; j++) f->step[j] = round & 2 ? 16 : 32768;
        trellis_search(&f->t, &p);
        for (int i = 0; i < N * CHANNELS; i++) assert_true(abs(f->r[i]) <= 2 * TRELLIS_MAX);
    }
    free(f);
}

/* Zeros instead of large distances show in `skipping`; those of small ones do not. */
static void skipping_is_noticed(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    trellis_pass p;
    assert_non_null(f);
    f->rng.s = 7;
    random_tables(f, 204);
    random_pass(f, &p, NSVQ_N_CLASSES - 1, 0);
    memcpy(f->y, f->mu, sizeof f->y);
    for (int i = 0; i < N; i++) f->at[i] = i;
    trellis_search(&f->t, &p);
    assert_true(p.skipping <= 0);
    for (int i = 0; i < N * CHANNELS; i++) f->y[i] = (int16_t)(f->mu[i] + 7000);
    trellis_search(&f->t, &p);
    assert_true(p.skipping > p.spent);
    free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(indices_return),
        cmocka_unit_test(paths_are_the_best),
        cmocka_unit_test(extremes_are_in_bounds),
        cmocka_unit_test(skipping_is_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
