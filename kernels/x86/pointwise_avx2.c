/* pointwise_avx2.c - 1 x 1 convolution on 256-bit vectors. vpmaddubsw saturates, so u8 input is
 * widened to s16 and everything goes through vpmaddwd, which is exact.
 * May include: table.h, simd.h.
 *
 * A block is up to 4 positions x 16 output channels.
 *   wt: [channel / 16][cin / 2][channel 16][2 x s16], zero where padded
 */
#include "../table.h"
#include "simd.h"

#include <string.h>

enum { GROUP = 16, BLOCK = 4, RUN = 16 };

static size_t n_groups(const nsvq_pointwise *p)
{
    return ((size_t)p->cout + GROUP - 1) / GROUP;
}

static size_t n_pairs(const nsvq_pointwise *p)
{
    return ((size_t)p->cin + 1) / 2;
}

static int pack(nsvq_pointwise *p, const int8_t *wt, const int32_t *bias, const uint8_t *shift,
                const int16_t *mul)
{
    size_t padded = n_groups(p) * GROUP, pairs = n_pairs(p);
    int16_t *dst;

    if (nsvq_pointwise_alloc(p, padded * pairs * 2 * sizeof *dst, padded)) return -1;
    dst = p->wt;
    for (size_t o = 0; o < p->cout; o++)
        for (size_t c = 0; c < p->cin; c++)
            dst[((o / GROUP * pairs + c / 2) * GROUP + o % GROUP) * 2 + c % 2] =
                wt[o * p->cin + c];
    memcpy(p->bias, bias, p->cout * sizeof *bias);
    memcpy(p->shift, shift, p->cout * sizeof *shift);
    memcpy(p->mul, mul, p->cout * sizeof *mul);
    return 0;
}

INLINE __m256i load(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

INLINE __m256i broadcast(const int16_t *pair)
{
    int32_t x;

    memcpy(&x, pair, 4);
    return _mm256_set1_epi32(x);
}

/* Adds the residual at element e and stores there; all 16 channels exist. */
INLINE void store(const nsvq_pointwise *p, __m256i t, void *out, const void *res, size_t e)
{
    if (p->res_type == NSVQ_U8)
        t = _mm256_adds_epi16(t, _mm256_cvtepu8_epi16(
            _mm_loadu_si128((const __m128i *)((const uint8_t *)res + e))));
    else if (p->res_type == NSVQ_S16)
        t = _mm256_adds_epi16(t, load((const int16_t *)res + e));
    if (p->out_type == NSVQ_U8)
        _mm_storeu_si128((__m128i *)((uint8_t *)out + e),
                         _mm_packus_epi16(_mm256_castsi256_si128(t),
                                          _mm256_extracti128_si256(t, 1)));
    else
        _mm256_storeu_si256((__m256i *)((int16_t *)out + e), t);
}

/* store() for the first `count` channels, by way of buffers that are large enough. */
static void store_part(const nsvq_pointwise *p, __m256i t, void *out, const void *res, size_t e,
                       size_t count)
{
    uint8_t part_out[2 * GROUP], part_res[2 * GROUP] = {0};
    size_t out_size = p->out_type == NSVQ_U8 ? 1 : 2, res_size = p->res_type == NSVQ_U8 ? 1 : 2;

    if (p->res_type != NSVQ_NONE)
        memcpy(part_res, (const uint8_t *)res + e * res_size, count * res_size);
    store(p, t, part_out, part_res, 0);
    memcpy((uint8_t *)out + e * out_size, part_out, count * out_size);
}

/* n positions (a constant) x the channels [first, first + 16). x: [n][stride] s16. */
INLINE void block(const nsvq_pointwise *p, const int16_t *x, size_t stride, size_t first,
                  void *out, const void *res, size_t pos, int n)
{
    size_t pairs = n_pairs(p), left = p->cout - first;
    const int16_t *w = (const int16_t *)p->wt + first * pairs * 2;
    __m256i acc[BLOCK][2], mul = load(p->mul + first);

    UNROLL
    for (int i = 0; i < n; i++) {
        acc[i][0] = load(p->bias + first);
        acc[i][1] = load(p->bias + first + 8);
    }
    for (size_t k = 0; k < pairs; k++, x += 2, w += 2 * GROUP) {
        __m256i w0 = load(w), w1 = load(w + GROUP);
        UNROLL
        for (int i = 0; i < n; i++) {
            __m256i b = broadcast(x + i * stride);
            acc[i][0] = _mm256_add_epi32(acc[i][0], _mm256_madd_epi16(b, w0));
            acc[i][1] = _mm256_add_epi32(acc[i][1], _mm256_madd_epi16(b, w1));
        }
    }
    UNROLL
    for (int i = 0; i < n; i++) {
        const uint8_t *s = p->shift + first;
        size_t e = (pos + i) * p->cout + first;
        __m256i lo = _mm256_srav_epi32(
            acc[i][0], _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)s)));
        __m256i hi = _mm256_srav_epi32(
            acc[i][1], _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(s + 8))));
        __m256i t = _mm256_permute4x64_epi64(_mm256_packs_epi32(lo, hi), 0xd8);

        t = _mm256_mulhrs_epi16(t, mul);
        if (left >= GROUP)
            store(p, t, out, res, e);
        else
            store_part(p, t, out, res, e, left);
    }
}

/* The run of n positions from pos on, widened to s16 and padded to whole pairs. */
static void widen(int16_t *x, const nsvq_pointwise *p, const void *in, size_t pos, size_t n)
{
    size_t stride = n_pairs(p) * 2;

    for (size_t i = pos; i < pos + n; i++, x += stride) {
        if (p->in_type == NSVQ_U8) {
            const uint8_t *src = (const uint8_t *)in + i * p->cin;
            for (size_t c = 0; c < p->cin; c++)
                x[c] = src[c];
        } else {
            memcpy(x, (const int16_t *)in + i * p->cin, p->cin * sizeof *x);
        }
        if (p->cin < stride) x[p->cin] = 0;
    }
}

static void pointwise(void *out, const void *in, const void *res, const nsvq_pointwise *p, int n)
{
    int16_t wide[RUN * NSVQ_MAX_CHANNELS];
    size_t stride = n_pairs(p) * 2;
    int in_place = p->in_type == NSVQ_S16 && p->cin % 2 == 0;

    for (size_t pos = 0, count; pos < (size_t)n; pos += count) {
        const int16_t *run = wide;

        count = (size_t)n - pos < RUN ? (size_t)n - pos : RUN;
        if (in_place)
            run = (const int16_t *)in + pos * stride;
        else
            widen(wide, p, in, pos, count);
        for (size_t first = 0; first < p->cout; first += GROUP) {
            size_t i = 0;

            for (; i + BLOCK <= count; i += BLOCK)
                block(p, run + i * stride, stride, first, out, res, pos + i, BLOCK);
            for (; i < count; i++)
                block(p, run + i * stride, stride, first, out, res, pos + i, 1);
        }
    }
}

void nsvq_pointwise_avx2(nsvq_kernels *k)
{
    k->pointwise_pack = pack;
    k->pointwise = pointwise;
}
