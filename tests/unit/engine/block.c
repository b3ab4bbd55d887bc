/* block.c - the base layer of blocks: rANS, frequencies, round trips, garbage. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "engine.h"
#include "prior.h"
#include "rans.h"
#include "testmodel.h"

/* ---- rANS ---- */

static void random_frequencies(test_rng *r, uint16_t *start, int n)
{
    uint32_t left = RANS_TOTAL - (uint32_t)n;
    start[0] = 0;
    for (int i = 0; i < n; i++) {
        uint32_t f = i == n - 1 ? left : test_rand(r) % (left + 1) / (uint32_t)test_range(r, 1, 9);
        start[i + 1] = (uint16_t)(start[i] + 1 + f);
        left -= f;
    }
}

static void rans_round_trip(test_rng *r, size_t n, int lanes)
{
    rans_symbol *symbols = malloc((n + 1) * sizeof *symbols);
    uint16_t(*start)[65] = malloc((n + 1) * sizeof *start);
    int *n_of = malloc((n + 1) * sizeof *n_of), *want = malloc((n + 1) * sizeof *want);
    uint8_t *bytes = malloc(rans_bound(n, lanes));
    rans_reader reader;

    assert_true(symbols && start && n_of && want && bytes);
    for (size_t i = 0; i < n; i++) {
        n_of[i] = test_range(r, 1, 64);
        want[i] = test_range(r, 0, n_of[i] - 1);
        random_frequencies(r, start[i], n_of[i]);
        assert_int_equal(start[i][n_of[i]], RANS_TOTAL);
        symbols[i] =
            (rans_symbol){start[i][want[i]], (uint16_t)(start[i][want[i] + 1] - start[i][want[i]])};
    }
    size_t size = rans_encode(bytes, symbols, n, lanes);
    assert_true(size <= rans_bound(n, lanes));
    uint8_t *copy = malloc(size); // the sanitizer watches its end
    assert_non_null(copy);
    memcpy(copy, bytes, size);
    assert_true(rans_open(&reader, copy, size, lanes));
    for (size_t i = 0; i < n; i++) assert_int_equal(rans_get(&reader, start[i], n_of[i]), want[i]);
    assert_true(rans_done(&reader));
    free(copy);
    free(symbols);
    free(start);
    free(n_of);
    free(want);
    free(bytes);
}

static void rans_returns_what_it_was_given(void **state)
{
    test_rng r = {1};
    for (int lanes = 0; lanes <= 5; lanes++) {
        rans_round_trip(&r, 0, lanes);
        for (int i = 0; i < 20; i++) rans_round_trip(&r, (size_t)test_range(&r, 1, 300), lanes);
    }
}

static void rans_refuses_what_is_no_stream(void **state)
{
    static const uint8_t low[4] = {0xff, 0xff, 0, 0}, rest[6] = {0, 0, 1, 0, 7, 7};
    rans_reader r;
    assert_false(rans_open(&r, low, 3, 0));
    assert_false(rans_open(&r, low, 4, 0));  // state below 2^16
    assert_false(rans_open(&r, rest, 5, 0)); // half a word
    assert_false(rans_open(&r, rest, 6, 1)); // room for one lane
    assert_true(rans_open(&r, rest, 4, 0) && rans_done(&r));
    assert_true(rans_open(&r, rest, 6, 0) && !rans_done(&r)); // a word is left
}

/* ---- frequencies ---- */

static void cells_always_sum_up(void **state)
{
    nsvq_model_desc m;
    nsvq_kernels k;
    prior p;
    test_rng r = {3};
    int16_t logit[64];
    uint16_t start[65];

    assert_true(testmodel_make(&m, TESTMODEL_SMALL, 3));
    nsvq_kernels_init(&k, NSVQ_CPU_C);
    assert_int_equal(prior_create(&p, &m, &k), 0);
    for (int i = 0; i < 3000; i++) {
        int n = test_range(&r, 1, 64), spread = 1 << test_range(&r, 0, 15), top = 0;
        for (int j = 0; j < n; j++) {
            logit[j] = (int16_t)test_range(&r, -spread, spread - 1);
            if (logit[j] > logit[top]) top = j;
        }
        prior_cells(&p, logit, n, start);
        assert_int_equal(start[0], 0);
        assert_int_equal(start[n], RANS_TOTAL);
        for (int j = 0; j < n; j++) {
            assert_true(start[j + 1] > start[j]);
            assert_true(start[j + 1] - start[j] <= start[top + 1] - start[top]);
        }
    }
    /* The worked example of FORMAT.md 5.4.2. */
    static const int16_t example[4] = {40, 72, 72, -500};
    static const uint16_t want[5] = {0, 6553, 19661, 32767, 32768};
    prior_cells(&p, example, 4, start);
    assert_memory_equal(start, want, sizeof want);
    prior_free(&p);
    nsvq_model_free(&m);
}

/* ---- blocks ---- */

typedef struct fixture {
    nsvq_model_desc m;
    int n_latent, n_channels, side; /* side: a block's, in latents */
    nsvq_scratch *s;
    nsvq_engine *engine[N_TABLES]; /* NULL: not on this machine */
    test_rng rng;
    int16_t *y, *y_hat, *back;
    uint8_t *bytes, *again;
} fixture;

static void set_up(fixture *f, testmodel_shape shape)
{
    nsvq_kernels k;
    *f = (fixture){.rng = {31}, .s = nsvq_scratch_create()};
    assert_true(testmodel_make(&f->m, shape, 32));
    f->n_latent = f->m.latent;
    f->side = NSVQ_BLOCK / f->m.stride;
    for (int i = 0; i < N_TABLES; i++)
        if (kernel_table(&k, i)) assert_non_null(f->engine[i] = nsvq_engine_create(&f->m, &k));
    f->n_channels = nsvq_engine_channels(f->engine[0]);
    size_t n = (size_t)(f->side * f->side * f->n_channels) * sizeof *f->y;
    f->y = malloc(n);
    f->y_hat = malloc(n);
    f->back = malloc(n);
    f->bytes = malloc(nsvq_block_bound(f->engine[0], f->side, f->side));
    f->again = malloc(nsvq_block_bound(f->engine[0], f->side, f->side));
    assert_true(f->s && f->y && f->y_hat && f->back && f->bytes && f->again);
}

static void tear_down(fixture *f)
{
    for (int i = 0; i < N_TABLES; i++) nsvq_engine_destroy(f->engine[i]);
    nsvq_scratch_destroy(f->s);
    nsvq_model_free(&f->m);
    free(f->y);
    free(f->y_hat);
    free(f->back);
    free(f->bytes);
    free(f->again);
}

/* Latents of some smoothness, so that contexts matter; now and then extreme ones. */
static void random_latents(fixture *f, int n)
{
    int range = test_range(&f->rng, 0, 9) ? 500 : 12000;
    for (int i = 0; i < n * f->n_latent; i++) {
        double v = test_bell(&f->rng) * range;
        if (i >= f->n_latent) v = (v + f->y[i - f->n_latent]) / 1.5;
        f->y[i] = (int16_t)(v > 32767 ? 32767 : v < -32768 ? -32768 : v);
    }
}

/* Encodes on the first table; every table must make the same bytes and read them back. */
static size_t check_block(fixture *f, int bw, int bh, int quality16)
{
    size_t n = (size_t)(bw * bh * f->n_channels) * sizeof *f->y,
           cap = nsvq_block_bound(f->engine[0], bw, bh);
    size_t size = 0, again = 0;

    assert_int_equal(nsvq_block_encode(f->engine[0], f->s, f->y, bw, bh, quality16, f->bytes, cap,
                                       &size, f->y_hat),
                     0);
    assert_true(size <= cap);
    for (int i = 0; i < N_TABLES; i++) {
        if (!f->engine[i]) continue;
        assert_int_equal(nsvq_block_encode(f->engine[i], f->s, f->y, bw, bh, quality16, f->again, cap,
                                           &again, f->back),
                         0);
        assert_int_equal(again, size);
        assert_memory_equal(f->again, f->bytes, size);
        assert_memory_equal(f->back, f->y_hat, n);
        memset(f->back, 0x55, n);
        assert_int_equal(
            nsvq_block_decode(f->engine[i], f->s, f->bytes, size, bw, bh, quality16, f->back, NULL), 0);
        assert_memory_equal(f->back, f->y_hat, n);
    }
    return size;
}

static const testmodel_shape shapes[] = {TESTMODEL_SMALL, TESTMODEL_HYPER8, TESTMODEL_HYPER16, TESTMODEL_TRELLIS};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static void all_sizes(testmodel_shape shape)
{
    static const int odd[] = {1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17, 25, 31, 32};
    const int n = sizeof odd / sizeof *odd;
    fixture f;

    set_up(&f, shape);
    for (int i = 0; i < n * n; i++) {
        int bw = odd[i / n], bh = odd[i % n];
        random_latents(&f, bw * bh);
        check_block(&f, bw, bh, test_range(&f.rng, NSVQ_MIN_QUALITY16, NSVQ_MAX_QUALITY16));
    }
    random_latents(&f, f.side * f.side);
    check_block(&f, f.side, f.side, 800);
    tear_down(&f);
}

static void blocks_of_all_sizes_return(void **state)
{
    for (int i = 0; i < N_SHAPES; i++) all_sizes(shapes[i]);
}

static void blocks_of_the_shipped_shape_return(void **state)
{
    static const int size[][3] = {{1, 1, 50}, {5, 3, 1}, {9, 9, 100}, {12, 7, 70}};
    fixture f;

    set_up(&f, TESTMODEL_SHIPPED);
    for (size_t i = 0; i < sizeof size / sizeof *size; i++) {
        random_latents(&f, size[i][0] * size[i][1]);
        check_block(&f, size[i][0], size[i][1], 16 * size[i][2]);
    }
    tear_down(&f);
}

static double squared_error(const fixture *f, int n)
{
    double sum = 0;
    for (int i = 0; i < n * f->n_latent; i++)
        sum += (double)(f->y[i] - f->y_hat[i]) * (f->y[i] - f->y_hat[i]);
    return sum;
}

/* A bit that costs more is spent less. Quality itself also is a side input of the (random) prior.
 */
static void lambda_trades_bytes_for_fidelity(void **state)
{
    fixture f;
    size_t last_size = SIZE_MAX;
    double last_error = 0;

    set_up(&f, TESTMODEL_SMALL);
    for (int i = 0; i < 1024 * f.n_latent; i++) f.y[i] = (int16_t)(test_bell(&f.rng) * 400);
    for (uint32_t lambda = 300; lambda <= 3000000; lambda *= 100) {
        f.m.lambda50 = lambda; // the engines read it when they encode
        size_t size = check_block(&f, 32, 32, 800);
        double error = squared_error(&f, 1024);
        assert_true(size < last_size && error > last_error);
        last_size = size;
        last_error = error;
    }
    tear_down(&f);
}

/* A decode-only model decodes like its origin. */
static void decode_without_analysis(testmodel_shape shape)
{
    fixture f;
    nsvq_model_desc bare;
    nsvq_kernels k;
    size_t size, block;

    set_up(&f, shape);
    random_latents(&f, 20 * 11);
    block = check_block(&f, 20, 11, 640);
    uint8_t *bytes = nsvq_model_store(&f.m, 0, &size);
    assert_int_equal(nsvq_model_load(&bare, bytes, size, NULL), 0);
    nsvq_kernels_init(&k, nsvq_cpu_detect());
    nsvq_engine *e = nsvq_engine_create(&bare, &k);
    assert_int_equal(nsvq_block_decode(e, f.s, f.bytes, block, 20, 11, 640, f.back, NULL), 0);
    assert_memory_equal(f.back, f.y_hat, (size_t)(20 * 11 * f.n_channels) * sizeof *f.back);
    nsvq_engine_destroy(e);
    nsvq_model_free(&bare);
    free(bytes);
    tear_down(&f);
}

static void decoding_needs_no_analysis(void **state)
{
    for (int i = 0; i < N_SHAPES; i++) decode_without_analysis(shapes[i]);
}

/* Residuals as large as numbers allow, of latents and hyper-latents: what is written can be read. */
static void largest_residuals(testmodel_shape shape)
{
    for (int mean = -1; mean <= 1; mean++) {
        fixture f;
        set_up(&f, shape);
        nsvq_hyper *h = &f.m.hyper;
        const nsvq_layer *last = &h->analysis.layer[h->analysis.n_layers - 1];
        for (int i = 0; i < NSVQ_N_GAINS * (f.n_latent + h->z); i++) h->gain[i] = -2048; // the finest steps
        for (int i = 0; i < h->z; i++) {
            h->z_mean[i] = (int16_t)mean;
            memset(last->wt + (size_t)i * last->cin, 0, last->cin);
            last->bias[i] = i & 1 ? -(1 << 30) : 1 << 30; // every hyper-latent is at an end
            last->shift[i] = 0;
            last->mul[i] = 32767;
        }
        for (int i = 0; i < N_TABLES; i++) { // packed anew
            nsvq_kernels k;
            nsvq_engine_destroy(f.engine[i]);
            f.engine[i] = kernel_table(&k, i) ? nsvq_engine_create(&f.m, &k) : NULL;
        }
        for (int i = 0; i < 9 * 9 * f.n_latent; i++) f.y[i] = i % 3 ? 32767 : -32768;
        check_block(&f, 9, 9, NSVQ_MAX_QUALITY16);
        tear_down(&f);
    }
}

static void the_largest_residuals_return(void **state)
{
    largest_residuals(TESTMODEL_HYPER8);
    largest_residuals(TESTMODEL_TRELLIS);
}

/* ---- damage ---- */

static int decode_copy(fixture *f, const uint8_t *bytes, size_t size, int bw, int bh)
{
    uint8_t *copy = malloc(size ? size : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, size);
    int st =
        nsvq_block_decode(f->engine[0], f->s, size ? copy : copy + 1, size, bw, bh, 800, f->back, NULL);
    free(copy);
    assert_true(st == 0 || st == -2);
    return st;
}

static void refuse_cut_blocks(testmodel_shape shape)
{
    bool vq = shape == TESTMODEL_SMALL;
    fixture f;

    set_up(&f, shape);
    random_latents(&f, 9 * 8);
    size_t size = check_block(&f, 9, 8, 800);
    for (size_t n = 0; n < size; n++) assert_int_equal(decode_copy(&f, f.bytes, n, 9, 8), -2);
    f.bytes[size] = f.bytes[size + 1] = 0;
    assert_int_equal(decode_copy(&f, f.bytes, size + 2, 9, 8), -2);
    assert_int_equal(decode_copy(&f, f.bytes, size, 9, 7), -2);
    f.bytes[vq ? 0 : 2] = 6; // lanes
    assert_int_equal(decode_copy(&f, f.bytes, size, 9, 8), -2);
    f.bytes[2] = 0;
    for (int i = 0; !vq && i < 4; i++) {
        static const int no_quality[4] = {0, NSVQ_MIN_QUALITY16 - 1, NSVQ_MAX_QUALITY16 + 1, 65535};
        f.bytes[0] = (uint8_t)no_quality[i];
        f.bytes[1] = (uint8_t)(no_quality[i] >> 8);
        assert_int_equal(decode_copy(&f, f.bytes, size, 9, 8), -2);
    }
    tear_down(&f);
}

static void cut_blocks_are_refused(void **state)
{
    for (int i = 0; i < N_SHAPES; i++) refuse_cut_blocks(shapes[i]);
}

static void decode_garbage(testmodel_shape shape)
{
    fixture f;
    int n_refused = 0;

    set_up(&f, shape);
    random_latents(&f, 6 * 6);
    size_t size = check_block(&f, 6, 6, 800);
    for (int i = 0; i < 4000; i++) {
        size_t n = i & 1 ? size : (size_t)test_range(&f.rng, 0, 200);
        memcpy(f.again, f.bytes, size);
        if (i & 1)
            f.again[test_rand(&f.rng) % size] ^= (uint8_t)(1 << test_range(&f.rng, 0, 7));
        else
            for (size_t j = 0; j < n; j++)
                f.again[j] = (uint8_t)(test_rand(&f.rng) >> (j ? 24 : 29));
        n_refused += decode_copy(&f, f.again, n, 6, 6) == -2;
    }
    assert_true(n_refused > 3000);
    tear_down(&f);
}

static void garbage_never_crashes(void **state)
{
    for (int i = 0; i < N_SHAPES; i++) decode_garbage(shapes[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rans_returns_what_it_was_given),
        cmocka_unit_test(rans_refuses_what_is_no_stream),
        cmocka_unit_test(cells_always_sum_up),
        cmocka_unit_test(blocks_of_all_sizes_return),
        cmocka_unit_test(blocks_of_the_shipped_shape_return),
        cmocka_unit_test(lambda_trades_bytes_for_fidelity),
        cmocka_unit_test(decoding_needs_no_analysis),
        cmocka_unit_test(the_largest_residuals_return),
        cmocka_unit_test(cut_blocks_are_refused),
        cmocka_unit_test(garbage_never_crashes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
