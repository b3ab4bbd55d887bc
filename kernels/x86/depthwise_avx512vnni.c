/* depthwise_avx512vnni.c - depthwise convolution by vpdpwssd on pairs of taps.
 * May include: table.h, simd.h.
 *
 * Rows of taps go in pairs: interleaving input rows 2j and 2j + 1 at one column gives, for 16
 * channels, the two words that one vpdpwssd multiplies with two taps and adds. The last row is
 * interleaved with itself one column on. unpacklo / unpackhi split 32 channels into two halves,
 * and packs of the two accumulators puts them back in order.
 *   wt: [channel / 32][taps][half 2][channel 16][2 x s16], taps = row pairs x k, then (k + 1) / 2
 *       pairs of the last row; bias and shift: [channel / 32][half 2][16]; mul: [channel]
 */
#include "../table.h"
#include "simd.h"

#include <string.h>

enum { GROUP = 32, BLOCK = 8, MAX_K = 5 };

static size_t n_taps(size_t k)
{
    return k / 2 * k + (k + 1) / 2;
}

/* Channel within its group of word e of half h. */
static size_t half_channel(size_t h, size_t e)
{
    return e / 4 * 8 + h * 4 + e % 4;
}

/* Tap pair t: the flat indices into [k][k] of its two taps, the second -1 if there is none. */
static void tap_pair(size_t k, size_t t, size_t *first, int *second)
{
    if (t < k / 2 * k) {
        *first = t / k * 2 * k + t % k;
        *second = (int)(*first + k);
    } else {
        size_t kx = (t - k / 2 * k) * 2;
        *first = (k - 1) * k + kx;
        *second = kx + 1 < k ? (int)*first + 1 : -1;
    }
}

static int pack(nsvq_depthwise *p, const int8_t *wt, const int32_t *bias, const uint8_t *shift,
                const int16_t *mul)
{
    size_t groups = ((size_t)p->channels + GROUP - 1) / GROUP, taps = n_taps(p->k);
    int16_t *dst;

    if (nsvq_depthwise_alloc(p, groups * taps * 2 * GROUP * sizeof *dst, groups * GROUP))
        return -1;
    dst = p->wt;
    for (size_t i = 0; i < groups * taps * GROUP; i++, dst += 2) {
        size_t g = i / (taps * GROUP), t = i / GROUP % taps;
        size_t c = g * GROUP + half_channel(i / 16 % 2, i % 16), first;
        int second;

        if (c >= p->channels) continue;
        tap_pair(p->k, t, &first, &second);
        dst[0] = wt[first * p->channels + c];
        dst[1] = second < 0 ? 0 : wt[(size_t)second * p->channels + c];
    }
    for (size_t i = 0; i < groups * GROUP; i++) {
        size_t c = i / GROUP * GROUP + half_channel(i / 16 % 2, i % 16);

        if (c >= p->channels) continue;
        p->bias[i] = bias[c];
        p->shift[i] = shift[c];
    }
    memcpy(p->mul, mul, p->channels * sizeof *mul);
    return 0;
}

/* As assembly, because gcc 12 would load once for unpacklo and once more for unpackhi, which costs
 * the 3 x 3 kernel 15 %. */
INLINE __m512i load(const int16_t *p, int full)
{
    __m512i v;

    if (!full) return _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)p));
    __asm__("vmovdqu64 %1, %0" : "=v"(v) : "m"(*(const __m512i_u *)p));
    return v;
}

/* Adds `taps` tap pairs: outputs o = 0 .. n-1 take tap t at column o + dx * t. Columns are pairs of
 * a[column] and b[column]; `ahead` tells that b is a one column on, and has no last column. */
INLINE void add_taps(__m512i acc[BLOCK][2], const int16_t *a, const int16_t *b, size_t stride,
                     const __m512i *wt, int taps, int dx, int ahead, int n, int full)
{
    const int last = n - 1 + dx * (taps - 1);
    __m512i w[MAX_K][2];

    UNROLL
    for (int t = 0; t < taps; t++) {
        w[t][0] = wt[2 * t];
        w[t][1] = wt[2 * t + 1];
    }
    UNROLL
    for (int x = 0; x <= last; x++, a += stride, b += stride) {
        __m512i va = load(a, full), vb = ahead && x == last ? va : load(b, full);
        __m512i lo = _mm512_unpacklo_epi16(va, vb), hi = _mm512_unpackhi_epi16(va, vb);
        UNROLL
        for (int t = 0; t < taps; t++) {
            int o = x - dx * t;
            if (o < 0 || o >= n) continue;
            acc[o][0] = _mm512_dpwssd_epi32(acc[o][0], lo, w[t][0]);
            acc[o][1] = _mm512_dpwssd_epi32(acc[o][1], hi, w[t][1]);
        }
    }
}

INLINE __m512i finish(const __m512i acc[2], const __m512i shift[2], __m512i mul)
{
    return _mm512_mulhrs_epi16(_mm512_packs_epi32(_mm512_srav_epi32(acc[0], shift[0]),
                                                  _mm512_srav_epi32(acc[1], shift[1])), mul);
}

INLINE void store(uint8_t *out, __m256i y, int full)
{
    if (full)
        _mm256_storeu_si256((__m256i *)out, y);
    else
        _mm_storeu_si128((__m128i *)out, _mm256_castsi256_si128(y));
}

/* n outputs (k, n and full are constants) from position `pos` on, channels [first, first + 32). */
INLINE void block(uint8_t *out, const int16_t *const *rows, const nsvq_depthwise *p, size_t pos,
                  size_t first, int k, int n, int full)
{
    const size_t stride = p->channels, at = pos * stride + first;
    const __m512i *wt = (const __m512i *)p->wt + first / GROUP * n_taps((size_t)k) * 2;
    const int16_t *end = rows[k - 1] + at;
    const int row_pairs = k / 2;
    __m512i acc[BLOCK][2], shift[2], mul;

    UNROLL
    for (int i = 0; i < n; i++) {
        acc[i][0] = _mm512_loadu_si512(p->bias + first);
        acc[i][1] = _mm512_loadu_si512(p->bias + first + 16);
    }
    UNROLL
    for (int j = 0; j < row_pairs; j++)
        add_taps(acc, rows[2 * j] + at, rows[2 * j + 1] + at, stride, wt + 2 * j * k, k, 1, 0, n,
                 full);
    add_taps(acc, end, end + stride, stride, wt + row_pairs * k * 2, (k + 1) / 2, 2, 1, n, full);
    UNROLL
    for (int h = 0; h < 2; h++)
        shift[h] = _mm512_cvtepu8_epi32(
            _mm_loadu_si128((const __m128i *)(p->shift + first + 16 * h)));
    mul = _mm512_loadu_si512(p->mul + first);
    UNROLL
    for (int i = 0; i < n; i += 2) {
        int j = i + 1 < n ? i + 1 : i;
        __m512i y = _mm512_packus_epi16(finish(acc[i], shift, mul), finish(acc[j], shift, mul));

        y = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), y);
        store(out + at + i * stride, _mm512_castsi512_si256(y), full);
        store(out + at + j * stride, _mm512_extracti64x4_epi64(y, 1), full);
    }
}

/* All channels of n outputs. */
INLINE void columns(uint8_t *out, const int16_t *const *rows, const nsvq_depthwise *p, size_t pos,
                    int k, int n)
{
    const size_t whole = p->channels / GROUP * GROUP;

    for (size_t c = 0; c < whole; c += GROUP)
        block(out, rows, p, pos, c, k, n, 1);
    if (whole < p->channels) block(out, rows, p, pos, whole, k, n, 0);
}

INLINE void row(uint8_t *out, const int16_t *const *rows, const nsvq_depthwise *p, size_t n, int k)
{
    size_t pos = 0;

    for (; pos + BLOCK <= n; pos += BLOCK)
        columns(out, rows, p, pos, k, BLOCK);
    for (; pos + 2 <= n; pos += 2)
        columns(out, rows, p, pos, k, 2);
    if (pos < n) columns(out, rows, p, pos, k, 1);
}

static void depthwise(uint8_t *out, const int16_t *const *rows, const nsvq_depthwise *p, int n)
{
    if (p->k == 3)
        row(out, rows, p, (size_t)n, 3);
    else
        row(out, rows, p, (size_t)n, 5);
}

void nsvq_depthwise_avx512vnni(nsvq_kernels *k)
{
    k->depthwise_pack = pack;
    k->depthwise = depthwise;
}
