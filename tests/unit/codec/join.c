/* join.c - steps between blocks are spread over quiet latents (FORMAT.md 5.6). */
#include "join.h"

#include "support.h"

enum { W = 32, H = 5, N = 2, EDGE = 16 };

typedef struct field {
    int16_t y[H * W * N];
    uint8_t quiet[H * W];
    join_window j;
} field;

/* Channel 0 steps by `step` at column EDGE, channel 1 is flat; all quiet. */
static void make(field *f, int step)
{
    for (int i = 0; i < H * W; i++) {
        f->y[N * i] = (int16_t)(i % W < EDGE ? 100 : 100 + step);
        f->y[N * i + 1] = -7;
        f->quiet[i] = 1;
    }
    f->j = (join_window){f->y, f->quiet, W, H, N, 10000};
}

static void check_row(const field *f, int row, const int *want, int from, int n)
{
    for (int x = 0; x < W; x++) {
        int16_t got = f->y[(row * W + x) * N];
        int expect = x < from ? 100 : x < from + n ? want[x - from] : f->y[(row * W + W - 1) * N];
        if (got != expect) fail_msg("row %d, column %d: %d, not %d", row, x, got, expect);
        assert_int_equal(f->y[(row * W + x) * N + 1], -7);
    }
}

static void steps_become_ramps(void **state)
{
    static const int ramp[] = {102, 107, 112, 117, 122, 127, 133, 138, 143, 148, 153, 158};
    field f;

    make(&f, 60); // 60 * (11, 9, .. 1) / 24
    join_before_column(&f.j, EDGE, 1, 4);
    check_row(&f, 1, ramp, EDGE - 6, 12);
    check_row(&f, 3, ramp, EDGE - 6, 12);
    assert_int_equal(f.y[(0 * W + EDGE - 1) * N], 100); // rows not asked for
    assert_int_equal(f.y[(4 * W + EDGE) * N], 160);
}

static void large_steps_stay(void **state)
{
    field f;

    make(&f, 100);
    join_before_column(&f.j, EDGE, 0, H);
    assert_int_not_equal(f.y[(EDGE - 1) * N], 100);
    make(&f, -101);
    join_before_column(&f.j, EDGE, 0, H);
    assert_int_equal(f.y[(EDGE - 1) * N], 100);
    assert_int_equal(f.y[EDGE * N], -1);
}

static void what_is_not_quiet_stays(void **state)
{
    static const int narrow[] = {107, 122, 135, 145, 155};
    field f;

    make(&f, 60);
    f.quiet[0 * W + EDGE - 3] = 0; // two before the edge, three behind it
    f.quiet[0 * W + EDGE + 3] = 0;
    f.quiet[1 * W + EDGE] = 0;     // none
    f.quiet[2 * W + EDGE - 1] = 0;
    join_before_column(&f.j, EDGE, 0, 3);
    check_row(&f, 0, narrow, EDGE - 2, 5);
    for (int row = 1; row < 3; row++) {
        assert_int_equal(f.y[(row * W + EDGE - 1) * N], 100);
        assert_int_equal(f.y[(row * W + EDGE) * N], 160);
    }
}

/* Rows are columns with the axes changed; the picture ends after four. */
static void rows_too(void **state)
{
    field f;

    make(&f, 0);
    for (int i = 0; i < W; i++) f.y[i * N] = 160;
    join_before_row(&f.j, 1, 3, 4);
    assert_int_equal(f.y[3 * N], 160 - 60 / 4);              // one before
    assert_int_equal(f.y[(1 * W + 3) * N], 100 + 60 * 7 / 16); // four behind
    assert_int_equal(f.y[(4 * W + 3) * N], 100 + 60 / 16);
    assert_int_equal(f.y[(1 * W + 4) * N], 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(steps_become_ramps), cmocka_unit_test(large_steps_stay),
                                       cmocka_unit_test(what_is_not_quiet_stays), cmocka_unit_test(rows_too)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
