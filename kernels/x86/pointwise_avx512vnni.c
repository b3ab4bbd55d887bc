/* pointwise_avx512vnni.c - 1 x 1 convolution on 512-bit vectors: vpdpbusd for u8 input (which does
 * not saturate, unlike vpdpbusds), vpdpwssd for s16 input.
 * May include: table.h, simd.h.
 *
 * The output channels are cut into vectors of 16 and these into groups of 1 to 4 vectors. A block
 * is up to 8 positions x one group: all its accumulators stay in registers, each vector of weights
 * is loaded once for all positions, and each step broadcasts 4 bytes of one position.
 *   wt: [group][step][vector of the group][channel 16][4 x s8, or 2 x s16], zero where padded
 */
#include "../table.h"
#include "simd.h"

#include <string.h>

enum { VECTOR = 16, MAX_GROUP = 4, MAX_BLOCK = 8 };

/* What a block needs beside its compile-time size. */
typedef struct task {
    const nsvq_pointwise *p;
    size_t in_bytes;    /* of one position of the input */
    size_t n_steps;     /* whole steps of 4 bytes in a position */
    size_t tail_bytes;  /* what is left then: 0 to 3 */
    /* of the current group */
    const uint8_t *wt;
    size_t first;       /* channel */
    __mmask64 mask;     /* channels that exist */
} task;

/* Groups of 4 vectors, and 3s where that leaves no group of 1 behind. */
static size_t group_size(size_t vectors_left)
{
    if (vectors_left <= MAX_GROUP) return vectors_left;
    return vectors_left % 4 == 1 || vectors_left % 4 == 2 ? 3 : MAX_GROUP;
}

static size_t n_vectors(const nsvq_pointwise *p)
{
    return ((size_t)p->cout + VECTOR - 1) / VECTOR;
}

static size_t n_steps_padded(const nsvq_pointwise *p)
{
    return p->in_type == NSVQ_U8 ? ((size_t)p->cin + 3) / 4 : ((size_t)p->cin + 1) / 2;
}

/* Weights of channel o in the 4 bytes of step k. */
static void pack_step(uint8_t *dst, const nsvq_pointwise *p, const int8_t *wt, size_t o, size_t k)
{
    size_t per_step = p->in_type == NSVQ_U8 ? 4 : 2;

    for (size_t e = 0; e < per_step; e++) {
        size_t c = k * per_step + e;
        int8_t w = o < p->cout && c < p->cin ? wt[o * p->cin + c] : 0;
        int16_t wide = w;

        if (p->in_type == NSVQ_U8)
            dst[e] = (uint8_t)w;
        else
            memcpy(dst + 2 * e, &wide, 2);
    }
}

static int pack(nsvq_pointwise *p, const int8_t *wt, const int32_t *bias, const uint8_t *shift,
                const int16_t *mul)
{
    size_t vectors = n_vectors(p), steps = n_steps_padded(p);
    uint8_t *dst;

    /* finish() loads mul in pairs of vectors, so up to one vector more. */
    if (nsvq_pointwise_alloc(p, vectors * steps * 64, (vectors + 1) * VECTOR)) return -1;
    dst = p->wt;
    for (size_t v = 0, group; v < vectors; v += group) {
        group = group_size(vectors - v);
        for (size_t k = 0; k < steps; k++)
            for (size_t o = v * VECTOR; o < (v + group) * VECTOR; o++, dst += 4)
                pack_step(dst, p, wt, o, k);
    }
    memcpy(p->bias, bias, p->cout * sizeof *bias);
    memcpy(p->shift, shift, p->cout * sizeof *shift);
    memcpy(p->mul, mul, p->cout * sizeof *mul);
    return 0;
}

/* acc += dot of the 4 bytes (2 words) in each lane of x and w. As assembly, because gcc 12 copies
 * accumulators around the intrinsics, at half the speed. */
INLINE __m512i dot(__m512i acc, __m512i x, __m512i w, int in_type)
{
    if (in_type == NSVQ_U8)
        __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));
    else
        __asm__("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));
    return acc;
}

INLINE __m512i broadcast(const uint8_t *in, size_t bytes)
{
    int32_t x = 0;

    memcpy(&x, in, bytes);
    return _mm512_set1_epi32(x);
}

/* packs() leaves the 4-channel pieces of two vectors a, b in the order a0 b0 a1 b1 a2 b2 a3 b3. */
INLINE __m512i interleave(__m512i natural)
{
    return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), natural);
}

INLINE __m512i deinterleave(__m512i packed)
{
    return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), packed);
}

/* packs and packus leave 4 x 4 pieces of 4 bytes transposed. */
INLINE __m512i transpose(__m512i v)
{
    return _mm512_permutexvar_epi32(
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), v);
}

/* Adds the residual at element e to v[2], in the order that packs() left. */
INLINE void add_residual(__m512i v[2], const void *res, int res_type, size_t e, __mmask64 mask,
                         int wide)
{
    const __m512i zero = _mm512_setzero_si512();
    __m512i r[2];

    if (res_type == NSVQ_U8) {
        r[1] = transpose(_mm512_maskz_loadu_epi8(mask, (const uint8_t *)res + e));
        r[0] = _mm512_unpacklo_epi8(r[1], zero);
        r[1] = _mm512_unpackhi_epi8(r[1], zero);
    } else {
        const int16_t *p = (const int16_t *)res + e;

        r[0] = interleave(_mm512_maskz_loadu_epi16((__mmask32)mask, p));
        if (wide) r[1] = interleave(_mm512_maskz_loadu_epi16((__mmask32)(mask >> 32), p + 32));
    }
    v[0] = _mm512_adds_epi16(v[0], r[0]);
    if (wide) v[1] = _mm512_adds_epi16(v[1], r[1]);
}

/* Requantises `count` vectors of accumulators and stores them at element e of out, as far as mask
 * goes. shift: one a vector; mul: one a pair of vectors, interleaved. */
INLINE void finish(const nsvq_pointwise *p, const __m512i *acc, const __m512i *shift,
                   const __m512i *mul, int count, void *out, const void *res, size_t e,
                   __mmask64 mask)
{
    const int wide = count > 2;
    __m512i t[MAX_GROUP] = {0}, v[2];

    UNROLL
    for (int j = 0; j < count; j++)
        t[j] = _mm512_srav_epi32(acc[j], shift[j]);
    v[0] = _mm512_mulhrs_epi16(_mm512_packs_epi32(t[0], t[1]), mul[0]);
    v[1] = wide ? _mm512_mulhrs_epi16(_mm512_packs_epi32(t[2], t[3]), mul[1]) : t[3];
    if (p->res_type != NSVQ_NONE) add_residual(v, res, p->res_type, e, mask, wide);
    if (p->out_type == NSVQ_U8) {
        v[0] = transpose(_mm512_packus_epi16(v[0], v[1]));
        _mm512_mask_storeu_epi8((uint8_t *)out + e, mask, v[0]);
    } else {
        int16_t *y = (int16_t *)out + e;

        _mm512_mask_storeu_epi16(y, (__mmask32)mask, deinterleave(v[0]));
        if (wide) _mm512_mask_storeu_epi16(y + 32, (__mmask32)(mask >> 32), deinterleave(v[1]));
    }
}

/* Multipliers of the vectors a and b of a group. */
INLINE __m512i load_mul(const int16_t *mul, int a, int b)
{
    __m256i lo = _mm256_loadu_si256((const __m256i *)(mul + a * VECTOR));
    __m256i hi = _mm256_loadu_si256((const __m256i *)(mul + b * VECTOR));

    return interleave(_mm512_inserti64x4(_mm512_castsi256_si512(lo), hi, 1));
}

/* finish() for 4 positions of 48 channels, the whole of cout: as positions are dense, they are 3
 * times 4 full vectors. */
INLINE void finish48(const nsvq_pointwise *p, __m512i acc[4][MAX_GROUP], const __m512i s[3],
                     void *out, const void *res, size_t e)
{
    const __m512i m01 = load_mul(p->mul, 0, 1), m20 = load_mul(p->mul, 2, 0);
    const __m512i m12 = load_mul(p->mul, 1, 2);
    const __m512i a[3][4] = {{acc[0][0], acc[0][1], acc[0][2], acc[1][0]},
                             {acc[1][1], acc[1][2], acc[2][0], acc[2][1]},
                             {acc[2][2], acc[3][0], acc[3][1], acc[3][2]}};
    const __m512i shift[3][4] = {{s[0], s[1], s[2], s[0]}, {s[1], s[2], s[0], s[1]},
                                 {s[2], s[0], s[1], s[2]}};
    const __m512i mul[3][2] = {{m01, m20}, {m12, m01}, {m20, m12}};

    UNROLL
    for (int i = 0; i < 3; i++)
        finish(p, a[i], shift[i], mul[i], 4, out, res, e + 64 * (size_t)i, ~0ull);
}

/* `n` positions from `pos` on x one group of vectors. n, group and in_type are constants. */
INLINE void block(const task *t, void *out, const uint8_t *in, const void *res, size_t pos, int n,
                  int group, int in_type)
{
    const nsvq_pointwise *p = t->p;
    const uint8_t *x = in + pos * t->in_bytes, *w = t->wt;
    __m512i acc[MAX_BLOCK][MAX_GROUP], wv[MAX_GROUP], shift[MAX_GROUP], mul[2];

    UNROLL
    for (int j = 0; j < group; j++) {
        __m512i bias = _mm512_loadu_si512(p->bias + t->first + j * VECTOR);
        UNROLL
        for (int i = 0; i < n; i++)
            acc[i][j] = bias;
    }
    for (size_t k = 0; k < t->n_steps; k++, x += 4, w += group * 64) {
        UNROLL
        for (int j = 0; j < group; j++)
            wv[j] = _mm512_load_si512(w + j * 64);
        UNROLL
        for (int i = 0; i < n; i++) {
            __m512i b = broadcast(x + i * t->in_bytes, 4);
            UNROLL
            for (int j = 0; j < group; j++)
                acc[i][j] = dot(acc[i][j], b, wv[j], in_type);
        }
    }
    if (t->tail_bytes) {
        UNROLL
        for (int i = 0; i < n; i++) {
            __m512i b = broadcast(x + i * t->in_bytes, t->tail_bytes);
            UNROLL
            for (int j = 0; j < group; j++)
                acc[i][j] = dot(acc[i][j], b, _mm512_load_si512(w + j * 64), in_type);
        }
    }
    UNROLL
    for (int j = 0; j < group; j++)
        shift[j] = _mm512_cvtepu8_epi32(
            _mm_loadu_si128((const __m128i *)(p->shift + t->first + j * VECTOR)));
    if (group == 3 && n % 4 == 0 && p->cout == 48) {
        UNROLL
        for (int i = 0; i < n; i += 4)
            finish48(p, acc + i, shift, out, res, (pos + i) * 48);
        return;
    }
    mul[0] = load_mul(p->mul + t->first, 0, 1);
    mul[1] = group > 2 ? load_mul(p->mul + t->first, 2, 3) : mul[0];
    UNROLL
    for (int i = 0; i < n; i++)
        finish(p, acc[i], shift, mul, group, out, res, (pos + i) * p->cout + t->first, t->mask);
}

INLINE void blocks(const task *t, void *out, const uint8_t *in, const void *res, size_t pos,
                   size_t end, int group, int in_type)
{
    const int full = group == 4 ? 6 : MAX_BLOCK;  // 24 accumulators and 3 or 4 weights

    for (; pos + full <= end; pos += full)
        block(t, out, in, res, pos, full, group, in_type);
    for (; pos + 4 <= end; pos += 4)
        block(t, out, in, res, pos, 4, group, in_type);
    for (; pos + 2 <= end; pos += 2)
        block(t, out, in, res, pos, 2, group, in_type);
    if (pos < end)
        block(t, out, in, res, pos, 1, group, in_type);
}

INLINE void dispatch(const task *t, void *out, const uint8_t *in, const void *res, size_t pos,
                     size_t end, size_t group, int in_type)
{
    if (group == 4)
        blocks(t, out, in, res, pos, end, 4, in_type);
    else if (group == 3)
        blocks(t, out, in, res, pos, end, 3, in_type);
    else if (group == 2)
        blocks(t, out, in, res, pos, end, 2, in_type);
    else
        blocks(t, out, in, res, pos, end, 1, in_type);
}

/* Positions in runs of 16 KB of input, so that it and a group's weights (16 KB for 256 channels of
 * u8) stay together in a first cache of 32 KB or more. A multiple of both block sizes, 6 and 8. */
static size_t run_length(size_t in_bytes)
{
    size_t n = 16384 / in_bytes;

    return n < 24 ? 24 : n / 24 * 24;
}

static void pointwise(void *out, const void *in, const void *res, const nsvq_pointwise *p, int n)
{
    size_t in_bytes = (size_t)p->cin * (p->in_type == NSVQ_U8 ? 1 : 2);
    size_t step = run_length(in_bytes), steps_padded = n_steps_padded(p), vectors = n_vectors(p);
    task t = {.p = p, .in_bytes = in_bytes, .n_steps = in_bytes / 4, .tail_bytes = in_bytes % 4};

    for (size_t pos = 0, end; pos < (size_t)n; pos = end) {
        end = pos + step < (size_t)n ? pos + step : (size_t)n;
        t.wt = p->wt;
        for (size_t v = 0, group; v < vectors; v += group) {
            size_t left = p->cout - v * VECTOR, width;

            group = group_size(vectors - v);
            width = left < group * VECTOR ? left : group * VECTOR;
            t.first = v * VECTOR;
            t.mask = ~0ull >> (64 - width);
            if (p->in_type == NSVQ_U8)
                dispatch(&t, out, in, res, pos, end, group, NSVQ_U8);
            else
                dispatch(&t, out, in, res, pos, end, group, NSVQ_S16);
            t.wt += group * steps_padded * 64;
        }
    }
}

void nsvq_pointwise_avx512vnni(nsvq_kernels *k)
{
    k->pointwise_pack = pack;
    k->pointwise = pointwise;
}
