/* pixels_avx2.c - pictures into the first layer and out of the last one.
 * May include: table.h, simd.h.
 * Both are bound by pieces of 12 bytes (4 pixels); wider vectors gain nothing.
 */
#include "../table.h"
#include "simd.h"

#include <string.h>

/* 16 values of the last layer as bytes. (v + 16) >> 5 without overflow is mulhrs by 2^10, and
 * clamp(t + 128, 0, 255) is packs(t) with the top bit turned. */
INLINE __m128i pixels16(const int16_t *in)
{
    __m256i t = _mm256_mulhrs_epi16(_mm256_loadu_si256((const __m256i *)in),
                                    _mm256_set1_epi16(1 << 10));
    __m128i y = _mm_packs_epi16(_mm256_castsi256_si128(t), _mm256_extracti128_si256(t, 1));

    return _mm_xor_si128(y, _mm_set1_epi8((char)0x80));
}

INLINE void store12(uint8_t *out, __m128i v)
{
    int32_t last = _mm_extract_epi32(v, 2);

    _mm_storel_epi64((__m128i *)out, v);
    memcpy(out + 8, &last, 4);
}

/* 4 x 4 pixels from 48 values. */
INLINE void square(uint8_t *out, ptrdiff_t stride, const int16_t *in)
{
    __m128i a = pixels16(in), b = pixels16(in + 16), c = pixels16(in + 32);

    store12(out, a);
    store12(out + stride, _mm_alignr_epi8(b, a, 12));
    store12(out + 2 * stride, _mm_alignr_epi8(c, b, 8));
    store12(out + 3 * stride, _mm_srli_si128(c, 4));
}

static void to_pixels(uint8_t *out, ptrdiff_t stride, const int16_t *in, int n, int side)
{
    for (int i = 0; i < n; i++, out += 3 * side)
        for (int sy = 0; sy < side / 4; sy++)
            for (int sx = 0; sx < side / 4; sx++, in += 48)
                square(out + 4 * sy * stride + 12 * sx, stride, in);
}

/* 12 bytes at `in`, 4 after them not read. */
INLINE __m128i load12(const uint8_t *in)
{
    int32_t last;

    memcpy(&last, in + 8, 4);
    return _mm_insert_epi32(_mm_loadl_epi64((const __m128i *)in), last, 2);
}

/* Each row of 12 values is stored as 16: the next row overwrites what is too much, except after the
 * last one, which is stored exactly. */
static void from_pixels(int16_t *out, const uint8_t *in, ptrdiff_t stride, int n)
{
    const __m256i level = _mm256_set1_epi16(128);

    for (int i = 0; i < n; i++, in += 12)
        for (int py = 0; py < 4; py++, out += 12) {
            __m256i v = _mm256_sub_epi16(_mm256_cvtepu8_epi16(load12(in + py * stride)), level);

            if (i + 1 < n || py < 3) {
                _mm256_storeu_si256((__m256i *)out, v);
            } else {
                _mm_storeu_si128((__m128i *)out, _mm256_castsi256_si128(v));
                _mm_storel_epi64((__m128i *)(out + 8), _mm256_extracti128_si256(v, 1));
            }
        }
}

void nsvq_pixels_avx2(nsvq_kernels *k)
{
    k->to_pixels = to_pixels;
    k->from_pixels = from_pixels;
}
