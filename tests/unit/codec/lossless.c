/* lossless.c - the lossless layer: every type, odd shapes, odd values; damaged streams. */
#include <stdio.h>

#include "lossless.h"
#include "lossless_solve.h"
#include "support.h"

typedef enum fill {
    FILL_CONSTANT,
    FILL_NOISE,
    FILL_SMOOTH,
    FILL_SPARSE,
    FILL_FEW,
    FILL_EXTREMES,
    FILL_TWINS,
    FILL_NUMBERS,
    FILL_ODD_FLOATS,
    FILL_HOLES,
    FILL_SPLIT,
    FILL_SHORE,
    N_FILLS
} fill;

static const nsvq_type types[] = {NSVQ_TYPE_U8,  NSVQ_TYPE_S8,  NSVQ_TYPE_U16, NSVQ_TYPE_S16,
                                  NSVQ_TYPE_U32, NSVQ_TYPE_S32, NSVQ_TYPE_U64, NSVQ_TYPE_S64,
                                  NSVQ_TYPE_F32, NSVQ_TYPE_F64};

/* Something like ground, about 0 .. 200, another in each band. */
static int ground(test_rng *r, uint32_t band, uint32_t x, uint32_t y)
{
    int slope = (int)(x * (1 + band % 3) / 8 + y / 4 + (x / 9 + y / 7) % 2 * 20);

    return slope % 190 + test_range(r, 0, 4);
}

static void put_number(uint8_t *p, nsvq_type type, double v)
{
    float f = (float)v;

    if (type == NSVQ_TYPE_F32)
        memcpy(p, &f, 4);
    else if (type == NSVQ_TYPE_F64)
        memcpy(p, &v, 8);
    else
        put_le(p, (uint64_t)(int64_t)v,
               (int)nsvq_type_bytes(type)); // little endian hosts only
}

static void odd_float(uint8_t *p, nsvq_type type, uint32_t n)
{
    static const uint32_t f32[] = {0x7fc00000, 0xffc00001, 0x7f800001, 0x80000000,
                                   0,          0x7f800000, 0xff800000, 0x3f800000,
                                   0x00000001, 0x807fffff, 0x7f7fffff, 0xff7fffff};
    static const uint64_t f64[] = {0x7ff8000000000000,
                                   0xfff8000000000001,
                                   0x7ff0000000000001,
                                   0x8000000000000000,
                                   0,
                                   0x7ff0000000000000,
                                   0xfff0000000000000,
                                   0x3ff0000000000000,
                                   1,
                                   0x800fffffffffffff,
                                   0x7fefffffffffffff,
                                   0xffefffffffffffff};

    if (type == NSVQ_TYPE_F32)
        memcpy(p, &f32[n % 12], 4);
    else if (type == NSVQ_TYPE_F64)
        memcpy(p, &f64[n % 12], 8);
    else
        put_le(p, n % 12 * 0x1234567, (int)nsvq_type_bytes(type));
}

static void fill_sample(uint8_t *p, nsvq_type type, fill f, test_rng *r, uint32_t band, uint32_t x,
                        uint32_t y)
{
    size_t bytes = nsvq_type_bytes(type);
    test_rng same = {7 + band % 2}; // of the band alone

    switch (f) {
    case FILL_CONSTANT:
        odd_float(p, type, test_rand(&same));
        break;
    case FILL_NOISE:
        for (size_t i = 0; i < bytes; i++) p[i] = (uint8_t)test_rand(r);
        break;
    case FILL_SMOOTH:
        put_number(p, type,
                   ground(r, band, x, y) * (bytes > 1 ? 13 : 1) - (type == NSVQ_TYPE_S8 ? 100 : 0));
        break;
    case FILL_SPARSE:
        put_number(p, type, ground(r, band, x, y) / 11 * 7 - 20);
        break;
    case FILL_FEW:
        put_number(p, type, (int)((x / 5 + y / 6 + band) % 3) * 40 + test_range(r, 0, 30) / 30);
        break;
    case FILL_EXTREMES:
        memset(p, test_range(r, 0, 1) ? 0xff : 0, bytes);
        if (test_range(r, 0, 1)) p[bytes - 1] ^= 0x80;
        break;
    case FILL_TWINS: // each sample twice, in x and in y
        same.s = (uint64_t)(x / 2) * 7919 + (y / 2) * 104729 + band + 1;
        test_rand(&same);
        put_number(p, type, test_range(&same, 0, 100));
        break;
    case FILL_NUMBERS: // floats that are decimal
        put_number(p, type,
                   type >= NSVQ_TYPE_F32 ? (ground(r, band, x, y) - 60) / (band % 2 ? 1000.0 : 8.0)
                                         : band);
        break;
    case FILL_ODD_FLOATS:
        odd_float(p, type, test_rand(r));
        break;
    case FILL_HOLES: // nodata is 0xee..
        put_number(p, type, ground(r, band, x, y) - 30);
        if ((x / 7 + y / 5) % 3 == band % 3) memset(p, 0xee, bytes);
        break;
    case FILL_SPLIT: // the last band without its second half
        put_number(p, type, x + y < 30 ? ground(r, band, x, y) : 3);
        break;
    case FILL_SHORE: // two values, nothing to predict within
        put_number(p, type,
                   y > 100 && ((int)(x % 32) - 16) * ((int)(x % 32) - 16) +
                                      ((int)(y % 32) - 16) * ((int)(y % 32) - 16) <
                                  150);
        break;
    case N_FILLS:
        break;
    }
}

static uint8_t *make(const lossless_shape *s, fill f, size_t *size)
{
    size_t bytes = nsvq_type_bytes(s->type);
    test_rng r = {f + 1};

    *size = (size_t)s->n_bands * s->width * s->height * bytes;
    uint8_t *px = malloc(*size), *p = px;
    assert_non_null(px);
    for (uint32_t b = 0; b < s->n_bands; b++)
        for (uint32_t y = 0; y < s->height; y++)
            for (uint32_t x = 0; x < s->width; x++, p += bytes)
                fill_sample(p, s->type, f, &r, b, x, y);
    return px;
}

/* One for all tests: what earlier blocks have left in it must not matter. */
static nsvq_scratch *work;

/* Encodes and decodes; returns the size of the stream. */
static size_t round_trip(const lossless_shape *s, fill f, int effort)
{
    static const uint8_t nodata[8] = {0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee};
    size_t size;
    uint8_t *px = make(s, f, &size), *back = malloc(size);
    wr w = {0}, again = {0};

    assert_non_null(back);
    assert_int_equal(lossless_encode(&w, work, px, s, f == FILL_HOLES ? nodata : NULL, effort), 0);
    assert_false(w.bad);
    // in a buffer of its own size, so that a sanitizer sees what is read behind it
    uint8_t *exact = malloc(w.size);
    assert_non_null(exact);
    memcpy(exact, w.p, w.size);
    memset(back, 0x55, size);
    if (lossless_decode(work, back, s, exact, w.size) || memcmp(back, px, size))
        fail_msg("type %d, %u x %u x %u, fill %d does not come back", s->type, s->n_bands, s->width,
                 s->height, f);
    assert_int_equal(lossless_encode(&again, work, px, s, f == FILL_HOLES ? nodata : NULL, effort), 0);
    assert_int_equal(again.size, w.size);
    assert_memory_equal(again.p, w.p, w.size);
    size = w.size;
    free(exact);
    wr_free(&w);
    wr_free(&again);
    free(px);
    free(back);
    return size;
}

static void small_shapes(void **state)
{
    static const uint16_t sizes[][2] = {{1, 1},  {2, 1},  {1, 2},   {3, 3},
                                        {1, 40}, {40, 1}, {15, 17}, {33, 31}};

    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            for (fill f = 0; f < N_FILLS; f++) {
                lossless_shape s = {types[t], 1 + (uint32_t)(i + f) % 6, sizes[i][0], sizes[i][1]};
                round_trip(&s, f, 0);
            }
}

static void many_bands(void **state)
{
    for (fill f = 0; f < N_FILLS; f++) {
        lossless_shape s = {f % 2 ? NSVQ_TYPE_U16 : NSVQ_TYPE_F32, 25, 24, 20};
        round_trip(&s, f, 7);
    }
}

/* Large enough for several sets of coefficients, and for some that have nothing to tell. */
static void large_blocks(void **state)
{
    static const lossless_shape shapes[] = {
        {NSVQ_TYPE_U8, 3, 512, 120},  {NSVQ_TYPE_S16, 2, 130, 512}, {NSVQ_TYPE_U16, 1, 512, 512},
        {NSVQ_TYPE_F32, 1, 200, 200}, {NSVQ_TYPE_S64, 1, 256, 256}, {NSVQ_TYPE_U8, 1, 1, 512},
        {NSVQ_TYPE_F64, 2, 512, 1},   {NSVQ_TYPE_U32, 5, 150, 140}, {NSVQ_TYPE_U8, 1, 320, 176}};

    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (fill f = 0; f < N_FILLS; f++)
            if ((f + i) % 2 == 0 || f == FILL_SHORE)
                round_trip(&shapes[i], f, i == 2 ? 9 : 1 + (int)f % 7);
}

/* What must not cost much. */
static void sizes(void **state)
{
    lossless_shape s = {NSVQ_TYPE_U16, 4, 512, 256};

    assert_in_range(round_trip(&s, FILL_CONSTANT, 0), 1, 60);
    s = (lossless_shape){NSVQ_TYPE_F64, 1, 64, 64};
    assert_in_range(round_trip(&s, FILL_CONSTANT, 0), 1, 40);
    s = (lossless_shape){NSVQ_TYPE_U16, 1, 128, 128}; // noise of 5 values, 2.3 bits, and edges
    assert_in_range(round_trip(&s, FILL_SMOOTH, 0), 128 * 128 * 2 / 8, 128 * 128 * 4 / 8);
    s = (lossless_shape){NSVQ_TYPE_F64, 2, 128, 128}; // decimal floats
    assert_in_range(round_trip(&s, FILL_NUMBERS, 0), 2 * 128 * 128 * 2 / 8, 2 * 128 * 128 * 4 / 8);
    s = (lossless_shape){NSVQ_TYPE_U8, 1, 128, 128}; // a quarter of the samples, 6.7 bits each
    assert_in_range(round_trip(&s, FILL_TWINS, 0), 64 * 64 * 6 / 8, 64 * 64 * 8 / 8);
    s = (lossless_shape){NSVQ_TYPE_U64, 1, 64, 64}; // noise stays noise
    assert_in_range(round_trip(&s, FILL_NOISE, 0), 64 * 64 * 8, 64 * 64 * 8 + 800);
}

/* A scene with an empty collar on top is coded in the way that its pixels want: 8 x 8 alike here. */
static void collars(void **state)
{
    enum { SIDE = 256, CELLS = SIDE / 8 };
    static const lossless_shape s = {NSVQ_TYPE_U8, 1, SIDE, SIDE};
    uint8_t *px = calloc(SIDE, SIDE), cell[CELLS * CELLS];
    size_t size[2];
    test_rng r = {11};

    assert_non_null(px);
    for (int i = 0; i < CELLS * CELLS; i++) cell[i] = (uint8_t)test_rand(&r);
    for (int collar = 0; collar < 2; collar++) {
        wr w = {0};
        for (int i = 0; i < SIDE * SIDE; i++)
            px[i] = collar && i < SIDE * SIDE / 4 ? 0 : cell[i / SIDE / 8 * CELLS + i % SIDE / 8];
        assert_int_equal(lossless_encode(&w, work, px, &s, NULL, 0), 0);
        size[collar] = w.size;
        wr_free(&w);
    }
    assert_in_range(size[1], size[0] / 2, size[0]);
    free(px);
}

static void limits(void **state)
{
    static const lossless_shape bad[] = {
        {NSVQ_TYPE_U8, 1, 513, 1},    {NSVQ_TYPE_U8, 1, 1, 513},        {NSVQ_TYPE_U8, 0, 1, 1},
        {NSVQ_TYPE_U8, 1, 0, 1},      {NSVQ_TYPE_U8, 1025, 512, 512},   {0, 1, 1, 1},
        {NSVQ_TYPE_F64 + 1, 1, 1, 1}, {NSVQ_TYPE_F64, UINT32_MAX, 1, 1}};
    uint8_t px[8] = {0}, out[8];
    wr w = {0};

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(lossless_encode(&w, work, px, &bad[i], NULL, 0), -1);
        assert_int_equal(lossless_decode(work, out, &bad[i], px, sizeof px), -1);
    }
    assert_int_equal(w.size, 0);
}

/* Every truncated stream is refused; a changed one does no harm. */
static void damage(void **state)
{
    test_rng r = {3};

    for (fill f = 0; f < N_FILLS; f++) {
        lossless_shape s = {types[f % 10], 3, 20, 18};
        size_t size;
        uint8_t *px = make(&s, f, &size), *back = malloc(size);
        wr w = {0};
        assert_non_null(back);
        assert_int_equal(lossless_encode(&w, work, px, &s, NULL, 0), 0);
        uint8_t *copy = malloc(w.size + 1);
        assert_non_null(copy);
        for (size_t n = 0; n < w.size; n++) {
            uint8_t *part = malloc(n + !n);
            memcpy(part, w.p, n);
            assert_int_equal(lossless_decode(work, back, &s, part, n), -1);
            free(part);
        }
        memcpy(copy, w.p, w.size);
        copy[w.size] = 0;
        assert_int_equal(lossless_decode(work, back, &s, copy, w.size + 1), -1);
        for (int i = 0; i < 2000; i++) {
            memcpy(copy, w.p, w.size);
            for (int n = test_range(&r, 1, 3); n > 0; n--)
                copy[test_rand(&r) % (i % 2 || w.size < 60 ? w.size : 60)] ^=
                    (uint8_t)(1 << test_range(&r, 0, 7));
            lossless_decode(work, back, &s, copy, w.size);
        }
        for (int i = 0; i < 300; i++) {
            for (size_t n = 0; n < w.size; n++) copy[n] = (uint8_t)test_rand(&r);
            copy[0] = (uint8_t)test_range(&r, 0, 9);
            for (int l = 0; l < 4 && (size_t)(4 * l + 4) < w.size; l++)
                copy[1 + 4 * l + 3] |= 1; // states that open
            lossless_decode(work, back, &s, copy, w.size);
        }
        free(copy);
        free(back);
        free(px);
        wr_free(&w);
    }
}

/* Sums of products are the same bits on every processor. */
static void moments_of_any_width(void **state)
{
    enum { N = 36 };
    static double rows[MAX_UNKNOWNS + 1][N], weight[N];
    const double *x[MAX_UNKNOWNS + 1];
    moments got, narrow;
    test_rng r = {11};

    (void)state;
    for (int i = 0; i <= MAX_UNKNOWNS; i++) {
        x[i] = rows[i];
        for (int k = 0; k < N; k++) rows[i][k] = test_range(&r, -30000, 30000) / 64.;
    }
    for (int k = 0; k < N; k++) weight[k] = 1. / test_range(&r, 1, 5000);
    for (int n = 1; n <= MAX_UNKNOWNS + 1; n += n < 10 ? 1 : 13) {
        moments_clear(&got, n);
        moments_add(&got, x, weight, n, N);
        moments_clear(&narrow, n);
        moments_add_narrow(&narrow, x, weight, n, N);
        for (int i = 0; i < n; i++)
            for (int j = i; j < n; j++) {
                double lane[LANES] = {0};
                for (int k = 0; k < N; k++) lane[k % LANES] += rows[i][k] * weight[k] * rows[j][k];
                double want = lane[0] + lane[1] + lane[2] + lane[3];
                assert_memory_equal(&got.m[i][j], &want, sizeof want);
                assert_memory_equal(&narrow.m[i][j], &want, sizeof want);
            }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(small_shapes), cmocka_unit_test(many_bands),
                                       cmocka_unit_test(large_blocks), cmocka_unit_test(sizes),
                                       cmocka_unit_test(limits),       cmocka_unit_test(damage),
                                       cmocka_unit_test(collars),
                                       cmocka_unit_test(moments_of_any_width)};

    if (!(work = nsvq_scratch_create())) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    nsvq_scratch_destroy(work);
    return failed;
}
