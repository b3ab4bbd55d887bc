/* depthwise.c - checks of the depthwise convolution. */
#include "checkkern.h"

#include <stdio.h>
#include <stdlib.h>

static const int all_k[] = {3, 5};
static const int all_channels[] = {16, 32, 48, 64, 80, 128, 256};
static const int all_n[] = {1, 2, 3, 5, 7, 8, 9, 15, 16, 33};
static const char *const fill_name[] = {"random", "min", "max", "mixed"};

enum { MAX_K = 5, MAX_CHANNELS = 256, MAX_N = 33 };

typedef struct bufs {
    ck_buf row[MAX_K], got, want, wt, bias, shift, mul;
    int32_t bound[MAX_CHANNELS];
} bufs;

static void fill_weights(ck *t, bufs *b, int k, int channels, ck_fill fill)
{
    int8_t *wt = ck_place(t, &b->wt, (size_t)(k * k * channels));

    ck_fill_s8(t, wt, (size_t)(k * k * channels), fill, -128, 127);
    for (int c = 0; c < channels; c++) {
        b->bound[c] = 0;
        for (int i = 0; i < k * k; i++)
            b->bound[c] += abs(wt[i * channels + c]) * 32767;
    }
}

static void pack(const nsvq_kernels *kern, nsvq_depthwise *p, int k, int channels, const bufs *b)
{
    *p = (nsvq_depthwise){.channels = (uint16_t)channels, .k = (uint8_t)k};
    if (kern->depthwise_pack(p, (const int8_t *)b->wt.piece, (const int32_t *)b->bias.piece,
                             b->shift.piece, (const int16_t *)b->mul.piece)) {
        fprintf(stderr, "checkkern: out of memory\n");
        exit(1);
    }
}

static bool one(ck *t, const nsvq_kernels *ref, const nsvq_kernels *kern, bufs *b, int k,
                int channels, int n, ck_fill fill)
{
    bool extreme = ck_random(t) & 1, same;
    ck_fill wt_fill = fill == CK_RANDOM ? fill : (ck_fill)ck_between(t, 0, CK_FILLS - 1);
    size_t in_elems = (size_t)(n + k - 1) * (size_t)channels, c = (size_t)channels;
    const int16_t *rows[MAX_K];
    nsvq_depthwise p_ref, p;

    ck_case(t, "n=%d channels=%d k=%d fill=%s requant=%s", n, channels, k, fill_name[fill],
            extreme ? "extreme" : "typical");
    for (int j = 0; j < k; j++) {
        int16_t *row = ck_place(t, &b->row[j], 2 * in_elems);

        ck_fill_s16(t, row, in_elems, fill, -32767, 32767);
        rows[j] = row;
    }
    ck_place(t, &b->got, (size_t)n * c);
    ck_place(t, &b->want, (size_t)n * c);
    fill_weights(t, b, k, channels, wt_fill);
    ck_requant(t, ck_place(t, &b->bias, 4 * c), ck_place(t, &b->shift, c),
               ck_place(t, &b->mul, 2 * c), b->bound, c, extreme, wt_fill);
    pack(ref, &p_ref, k, channels, b);
    pack(kern, &p, k, channels, b);
    ref->depthwise(b->want.piece, rows, &p_ref, n);
    kern->depthwise(b->got.piece, rows, &p, n);
    same = ck_same(t, &b->got, &b->want, NSVQ_U8);
    nsvq_depthwise_free(&p_ref);
    nsvq_depthwise_free(&p);
    return same;
}

void check_depthwise(ck *t, const nsvq_kernels *ref, const nsvq_kernels *kern)
{
    static bufs b;

    if (!b.got.base) {
        for (int j = 0; j < MAX_K; j++)
            b.row[j] = ck_buf_new(2 * MAX_CHANNELS * (MAX_N + MAX_K - 1));
        b.got = ck_buf_new(MAX_CHANNELS * MAX_N);
        b.want = ck_buf_new(MAX_CHANNELS * MAX_N);
        b.wt = ck_buf_new(MAX_CHANNELS * MAX_K * MAX_K);
        b.bias = ck_buf_new(4 * MAX_CHANNELS);
        b.shift = ck_buf_new(MAX_CHANNELS);
        b.mul = ck_buf_new(2 * MAX_CHANNELS);
    }
    for (size_t i = 0; i < COUNT(all_k) * COUNT(all_channels) * COUNT(all_n) * CK_FILLS; i++) {
        int k = all_k[i % COUNT(all_k)];
        int channels = all_channels[i / COUNT(all_k) % COUNT(all_channels)];
        int n = all_n[i / COUNT(all_k) / COUNT(all_channels) % COUNT(all_n)];
        int fill = (int)(i / COUNT(all_k) / COUNT(all_channels) / COUNT(all_n));

        for (int end = 0; end < 2; end++) {
            t->at_end = end;
            if (!one(t, ref, kern, &b, k, channels, n, (ck_fill)fill)) return;
        }
    }
}
