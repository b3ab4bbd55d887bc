/* pointwise.c - checks of the pointwise convolution, and worked examples of the arithmetic. */
#include "checkkern.h"
#include "shape.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct shape {
    int cin, cout, in_type, out_type, res_type;
} shape;

/* What the shipped networks use. */
static const shape shipped[] = {
    {256, 256, NSVQ_U8, NSVQ_S16, NSVQ_S16}, {256, 768, NSVQ_U8, NSVQ_U8, NSVQ_NONE},
    {48, 48, NSVQ_U8, NSVQ_U8, NSVQ_U8},     {48, 48, NSVQ_U8, NSVQ_S16, NSVQ_S16},
    {96, 256, NSVQ_S16, NSVQ_S16, NSVQ_NONE}, {96, 768, NSVQ_S16, NSVQ_S16, NSVQ_NONE},
    {48, 64, NSVQ_S16, NSVQ_S16, NSVQ_NONE}, {256, 128, NSVQ_S16, NSVQ_S16, NSVQ_NONE},
    {512, 256, NSVQ_S16, NSVQ_S16, NSVQ_NONE}, {768, 96, NSVQ_S16, NSVQ_S16, NSVQ_S16},
    {388, 96, NSVQ_S16, NSVQ_U8, NSVQ_NONE}, {388, 128, NSVQ_S16, NSVQ_U8, NSVQ_NONE},
    {128, 64, NSVQ_U8, NSVQ_U8, NSVQ_NONE},  {128, 24, NSVQ_U8, NSVQ_S16, NSVQ_NONE},
    {2048, 20, NSVQ_U8, NSVQ_S16, NSVQ_U8},  {2047, 20, NSVQ_S16, NSVQ_S16, NSVQ_U8},
    {8, 2048, NSVQ_S16, NSVQ_U8, NSVQ_S16},
};
static const int odd_cin[] = {1, 2, 3, 4, 5, 7, 16, 31, 48, 65};
static const int odd_cout[] = {1, 3, 7, 15, 16, 17, 31, 33, 48, 63, 64, 65, 80, 97, 130, 145};
static const int odd_n[] = {1, 2, 3, 5, 6, 7, 8, 13, 15, 17, 24, 25, 49};
static const int in_types[] = {NSVQ_U8, NSVQ_S16}, out_types[] = {NSVQ_U8, NSVQ_S16};
static const int res_types[] = {NSVQ_NONE, NSVQ_U8, NSVQ_S16};
static const char *const type_name[] = {"none", "u8", "s16"};
static const char *const fill_name[] = {"random", "min", "max", "mixed"};

typedef struct bufs {
    ck_buf in, res, got, want, wt, bias, shift, mul;
    int32_t bound[NSVQ_MAX_CHANNELS];
} bufs;

static size_t size_of(int type)
{
    return type == NSVQ_S16 ? 2 : type == NSVQ_U8 ? 1 : 0;
}

static void fill_tensor(ck *t, void *p, int type, size_t n, ck_fill fill)
{
    if (type == NSVQ_U8) ck_fill_u8(t, p, n, fill);
    if (type == NSVQ_S16) ck_fill_s16(t, p, n, fill, -32767, 32767);
}

/* Weights within the load check's bound; b->bound[o] becomes the greatest |acc|. */
static void fill_weights(ck *t, bufs *b, const shape *s, ck_fill fill)
{
    int64_t max_in = s->in_type == NSVQ_U8 ? 255 : 32767;
    int64_t most = INT32_MAX / (max_in * s->cin);
    int32_t least = most < 128 ? (int32_t)-most : -128;
    int8_t *wt = ck_place(t, &b->wt, (size_t)s->cin * s->cout);

    ck_fill_s8(t, wt, (size_t)s->cin * s->cout, fill, least, least == -128 ? 127 : -least);
    for (int o = 0; o < s->cout; o++) {
        b->bound[o] = 0;
        for (int c = 0; c < s->cin; c++)
            b->bound[o] += abs(wt[o * s->cin + c]) * (int32_t)max_in;
    }
}

static void pack(const nsvq_kernels *k, nsvq_pointwise *p, const shape *s, const bufs *b)
{
    *p = (nsvq_pointwise){.cin = (uint16_t)s->cin, .cout = (uint16_t)s->cout,
                          .in_type = (uint8_t)s->in_type, .out_type = (uint8_t)s->out_type,
                          .res_type = (uint8_t)s->res_type};
    if (k->pointwise_pack(p, (const int8_t *)b->wt.piece, (const int32_t *)b->bias.piece,
                          b->shift.piece, (const int16_t *)b->mul.piece)) {
        fprintf(stderr, "checkkern: out of memory\n");
        exit(1);
    }
}

static bool one(ck *t, const nsvq_kernels *ref, const nsvq_kernels *k, bufs *b, const shape *s,
                int n, ck_fill fill)
{
    bool extreme = ck_random(t) & 1, over_res = s->res_type == s->out_type && ck_random(t) & 1;
    ck_fill wt_fill = fill == CK_RANDOM ? fill : (ck_fill)ck_between(t, 0, CK_FILLS - 1);
    size_t n_in = (size_t)n * s->cin, n_out = (size_t)n * s->cout;
    size_t out_bytes = n_out * size_of(s->out_type);
    nsvq_pointwise p_ref, p;
    void *in, *res, *got, *want;
    bool same;

    ck_case(t, "n=%d cin=%d cout=%d %s->%s res=%s%s fill=%s requant=%s", n, s->cin, s->cout,
            type_name[s->in_type], type_name[s->out_type], type_name[s->res_type],
            over_res ? " (is out)" : "", fill_name[fill], extreme ? "extreme" : "typical");
    in = ck_place(t, &b->in, n_in * size_of(s->in_type));
    res = ck_place(t, &b->res, n_out * size_of(s->res_type));
    got = ck_place(t, &b->got, out_bytes);
    want = ck_place(t, &b->want, out_bytes);
    fill_tensor(t, in, s->in_type, n_in, fill);
    fill_tensor(t, res, s->res_type, n_out, fill);
    fill_weights(t, b, s, wt_fill);
    ck_requant(t, ck_place(t, &b->bias, 4 * (size_t)s->cout),
               ck_place(t, &b->shift, (size_t)s->cout), ck_place(t, &b->mul, 2 * (size_t)s->cout),
               b->bound, (size_t)s->cout, extreme, wt_fill);
    pack(ref, &p_ref, s, b);
    pack(k, &p, s, b);
    ref->pointwise(want, in, s->res_type ? res : NULL, &p_ref, n);
    if (over_res) memcpy(got, res, out_bytes);
    k->pointwise(got, in, over_res ? got : s->res_type ? res : NULL, &p, n);
    same = ck_same(t, &b->got, &b->want, (nsvq_elem)s->out_type);
    nsvq_pointwise_free(&p_ref);
    nsvq_pointwise_free(&p);
    return same;
}

static bool fills(ck *t, const nsvq_kernels *ref, const nsvq_kernels *k, bufs *b, const shape *s,
                  int n)
{
    for (int fill = 0; fill < CK_FILLS; fill++)
        for (int end = 0; end < 2; end++) {
            t->at_end = end;
            if (!one(t, ref, k, b, s, n, (ck_fill)fill)) return false;
        }
    return true;
}

void check_pointwise(ck *t, const nsvq_kernels *ref, const nsvq_kernels *k)
{
    const size_t room = 1u << 19;
    static bufs b;

    if (!b.in.base) {
        b = (bufs){.in = ck_buf_new(room), .res = ck_buf_new(room), .got = ck_buf_new(room),
                   .want = ck_buf_new(room), .wt = ck_buf_new(room), .bias = ck_buf_new(1 << 14),
                   .shift = ck_buf_new(1 << 14), .mul = ck_buf_new(1 << 14)};
    }
    for (size_t i = 0; i < COUNT(shipped); i++) {
        static const int n[] = {1, 11, 65};

        for (size_t j = 0; j < COUNT(n); j++)
            if (!fills(t, ref, k, &b, &shipped[i], n[j])) return;
    }
    for (size_t i = 0; i < COUNT(odd_cin) * COUNT(odd_cout); i++)
        for (size_t j = 0; j < 12; j++) {
            shape s = {odd_cin[i % COUNT(odd_cin)], odd_cout[i / COUNT(odd_cin)],
                       in_types[j % 2], out_types[j / 2 % 2], res_types[j / 4]};
            int n = odd_n[ck_random(t) % COUNT(odd_n)];

            if (!fills(t, ref, k, &b, &s, n)) return;
        }
}

/* acc = in * wt with bias, shift, mul and residual, worked by hand. */
typedef struct example {
    int in, wt, bias, shift, mul, res, s16, u8;
} example;

static const example examples[] = {
    /* 10 * 3 + 2 = 32 >> 1 = 16; (16 * 16384 + 16384) >> 15 = 8 (8.5 rounds down at the floor) */
    {10, 3, 2, 1, 16384, 0, 8, 8},
    /* -7 >> 1 = -4 (towards minus infinity); (-4 * 32767 + 16384) >> 15 = -4 */
    {7, -1, 0, 1, 32767, 0, -4, 0},
    /* 255 * 127 = 32385; mul 0 leaves the residual alone */
    {255, 127, 0, 0, 0, -5, -5, 0},
    /* 2^31 - 1 - 32385 + 32385 saturates at 32767; (32767 * 32767 + 16384) >> 15 = 32766 */
    {255, 127, 2147451262, 0, 32767, 0, 32766, 255},
    /* and the residual saturates again */
    {255, 127, 2147451262, 0, 32767, 32767, 32767, 255},
    {255, -128, -2147451007, 0, 32767, -32768, -32768, 0},
    /* -2147483647 >> 24 = -128; (-128 * 32767 + 16384) >> 15 = -128; + 300 = 172 */
    {255, -128, -2147451007, 24, 32767, 300, 172, 172},
};

void check_examples(ck *t, const nsvq_kernels *c)
{
    for (size_t i = 0; i < COUNT(examples); i++) {
        const example *x = &examples[i];
        uint8_t in = (uint8_t)x->in, shift = (uint8_t)x->shift, u8;
        int8_t wt = (int8_t)x->wt;
        int16_t mul = (int16_t)x->mul, res = (int16_t)x->res, s16;
        nsvq_pointwise p = {.cin = 1, .cout = 1, .in_type = NSVQ_U8, .out_type = NSVQ_S16,
                            .res_type = NSVQ_S16};

        ck_case(t, "example %zu", i);
        if (!ck_equal(t, "pack", c->pointwise_pack(&p, &wt, &x->bias, &shift, &mul), 0)) return;
        c->pointwise(&s16, &in, &res, &p, 1);
        p.out_type = NSVQ_U8;
        c->pointwise(&u8, &in, &res, &p, 1);
        nsvq_pointwise_free(&p);
        ck_equal(t, "s16", s16, x->s16);
        ck_equal(t, "u8", u8, x->u8);
    }
    ck_case(t, "pixels");
    ck_equal(t, "channel of (5, 14, 2)", nsvq_square_channel(5, 14, 2, 16), (1 * 4 + 3) * 48 + 20);
    ck_equal(t, "of side 8: (5, 6, 2)", nsvq_square_channel(5, 6, 2, 8), (1 * 2 + 1) * 48 + 20);
    ck_equal(t, "pixel(15)", nsvq_pixel(15), 128);
    ck_equal(t, "pixel(16)", nsvq_pixel(16), 129);
    ck_equal(t, "pixel(-16)", nsvq_pixel(-16), 128);
    ck_equal(t, "pixel(-17)", nsvq_pixel(-17), 127);
    ck_equal(t, "pixel(32767)", nsvq_pixel(32767), 255);
    ck_equal(t, "pixel(-32768)", nsvq_pixel(-32768), 0);
}
