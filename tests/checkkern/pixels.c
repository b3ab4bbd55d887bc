/* pixels.c - checks of to_pixels and from_pixels. */
#include "checkkern.h"

static const int all_n[] = {1, 2, 3, 5, 8, 33};
static const int all_padding[] = {0, 1, 5, 64};
static const int all_ranges[] = {100, 4200, 32767};
static const char *const fill_name[] = {"random", "min", "max", "mixed"};

enum { MAX_N = 33, MAX_STRIDE = 48 * MAX_N + 64 };

typedef struct bufs {
    ck_buf in, got, want;
} bufs;

/* The bytes between the rows are compared too: both sides start as guard bytes. */
static bool to_pixels(ck *t, const nsvq_kernels *ref, const nsvq_kernels *k, bufs *b, int n,
                      int padding, ck_fill fill, int side)
{
    int range = all_ranges[ck_random(t) % COUNT(all_ranges)];
    size_t row = (size_t)(3 * side * n), stride = row + (size_t)padding, n_in = row * (size_t)side;
    size_t bytes = (size_t)(side - 1) * stride + row;
    int16_t *in = ck_place(t, &b->in, n_in * 2);

    ck_case(t, "to_pixels n=%d side=%d stride=%zu fill=%s range=%d", n, side, stride, fill_name[fill],
            range);
    ck_fill_s16(t, in, n_in, fill, -range - 1, range);
    ref->to_pixels(ck_place(t, &b->want, bytes), (ptrdiff_t)stride, in, n, side);
    k->to_pixels(ck_place(t, &b->got, bytes), (ptrdiff_t)stride, in, n, side);
    return ck_same(t, &b->got, &b->want, NSVQ_U8);
}

static bool from_pixels(ck *t, const nsvq_kernels *ref, const nsvq_kernels *k, bufs *b, int n,
                        int padding, ck_fill fill)
{
    size_t stride = (size_t)(12 * n + padding), bytes = 3 * stride + 12 * (size_t)n;
    uint8_t *in = ck_place(t, &b->in, bytes);
    size_t out_bytes = (size_t)n * 48 * 2;

    ck_case(t, "from_pixels n=%d stride=%zu fill=%s", n, stride, fill_name[fill]);
    ck_fill_u8(t, in, bytes, fill);
    ref->from_pixels(ck_place(t, &b->want, out_bytes), in, (ptrdiff_t)stride, n);
    k->from_pixels(ck_place(t, &b->got, out_bytes), in, (ptrdiff_t)stride, n);
    return ck_same(t, &b->got, &b->want, NSVQ_S16);
}

void check_pixels(ck *t, const nsvq_kernels *ref, const nsvq_kernels *k)
{
    static bufs b;

    if (!b.in.base)
        b = (bufs){ck_buf_new(MAX_N * 768 * 2), ck_buf_new(16 * MAX_STRIDE),
                   ck_buf_new(16 * MAX_STRIDE)};
    for (size_t i = 0; i < COUNT(all_n) * COUNT(all_padding) * CK_FILLS * 2; i++) {
        int n = all_n[i / 2 % COUNT(all_n)];
        int padding = all_padding[i / 2 / COUNT(all_n) % COUNT(all_padding)];
        ck_fill fill = (ck_fill)(i / 2 / COUNT(all_n) / COUNT(all_padding));

        t->at_end = i % 2;
        if (!to_pixels(t, ref, k, &b, n, padding, fill, 16)) return;
        if (!to_pixels(t, ref, k, &b, n, padding, fill, 8)) return;
        if (!from_pixels(t, ref, k, &b, n, padding, fill)) return;
    }
}
