/* depthwise_avx2.c - depthwise convolution by vpmaddwd on pairs of taps.
 * May include: table.h, simd.h.
 *
 * Taps go in pairs in row-major order; interleaving their two inputs for 8 channels gives what one
 * vpmaddwd multiplies with both taps and adds. The last tap, alone, goes with itself and weight 0.
 *   wt: [channel / 16][tap pair][half 2][channel 8][2 x s16];
 *   bias and shift: [channel / 16][half 2][8]; mul: [channel]
 */
#include "../table.h"
#include "simd.h"

#include <string.h>

enum { GROUP = 16, MAX_K = 5 };

/* Channel within its group of word e of half h: as unpacklo and unpackhi split them. */
static size_t half_channel(size_t h, size_t e)
{
    return e / 4 * 8 + h * 4 + e % 4;
}

static int pack(nsvq_depthwise *p, const int8_t *wt, const int32_t *bias, const uint8_t *shift,
                const int16_t *mul)
{
    size_t taps = (size_t)p->k * p->k, pairs = (taps + 1) / 2;
    int16_t *dst;

    if (nsvq_depthwise_alloc(p, pairs * p->channels * 2 * sizeof *dst, p->channels)) return -1;
    dst = p->wt;
    for (size_t i = 0; i < pairs * p->channels; i++, dst += 2) {
        size_t g = i / (pairs * GROUP), t = i / GROUP % pairs * 2;
        size_t c = g * GROUP + half_channel(i / 8 % 2, i % 8);

        dst[0] = wt[t * p->channels + c];
        dst[1] = t + 1 < taps ? wt[(t + 1) * p->channels + c] : 0;
    }
    for (size_t i = 0; i < p->channels; i++) {
        size_t c = i / GROUP * GROUP + half_channel(i / 8 % 2, i % 8);

        p->bias[i] = bias[c];
        p->shift[i] = shift[c];
    }
    memcpy(p->mul, mul, p->channels * sizeof *mul);
    return 0;
}

INLINE __m256i load(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

/* As assembly, because gcc 12 would load once for unpacklo and once more for unpackhi. */
INLINE __m256i load_once(const int16_t *p)
{
    __m256i v;

    __asm__("vmovdqu %1, %0" : "=x"(v) : "m"(*(const __m256i_u *)p));
    return v;
}

/* 16 channels of one position; k is a constant. at: element of the left-most tap in each row. */
INLINE void position(uint8_t *out, const int16_t *const *rows, const nsvq_depthwise *p, size_t at,
                     size_t first, int k)
{
    const size_t stride = p->channels;
    const int taps = k * k;
    const __m256i *w = (const __m256i *)p->wt + first / GROUP * (size_t)(taps + 1);
    const uint8_t *s = p->shift + first;
    __m256i lo = load(p->bias + first), hi = load(p->bias + first + 8), t;

    UNROLL
    for (int i = 0; i < taps; i += 2, w += 2) {
        int j = i + 1 < taps ? i + 1 : i;
        __m256i a = load_once(rows[i / k] + at + i % k * stride);
        __m256i b = load_once(rows[j / k] + at + j % k * stride);

        lo = _mm256_add_epi32(lo, _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), w[0]));
        hi = _mm256_add_epi32(hi, _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), w[1]));
    }
    lo = _mm256_srav_epi32(lo, _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)s)));
    hi = _mm256_srav_epi32(hi, _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(s + 8))));
    t = _mm256_mulhrs_epi16(_mm256_packs_epi32(lo, hi), load(p->mul + first));
    _mm_storeu_si128((__m128i *)out, _mm_packus_epi16(_mm256_castsi256_si128(t),
                                                      _mm256_extracti128_si256(t, 1)));
}

INLINE void row(uint8_t *out, const int16_t *const *rows, const nsvq_depthwise *p, size_t n, int k)
{
    const int16_t *row_at[MAX_K] = {0};  // a copy, which the stores to out cannot alias

    for (int j = 0; j < k; j++)
        row_at[j] = rows[j];
    for (size_t x = 0; x < n; x++)
        for (size_t c = 0; c < p->channels; c += GROUP) {
            size_t at = x * p->channels + c;
            position(out + at, row_at, p, at, c, k);
        }
}

static void depthwise(uint8_t *out, const int16_t *const *rows, const nsvq_depthwise *p, int n)
{
    if (p->k == 3)
        row(out, rows, p, (size_t)n, 3);
    else
        row(out, rows, p, (size_t)n, 5);
}

void nsvq_depthwise_avx2(nsvq_kernels *k)
{
    k->depthwise_pack = pack;
    k->depthwise = depthwise;
}
