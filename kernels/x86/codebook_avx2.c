/* codebook_avx2.c - codebook search, one cell of 64 codewords at a time.
 * May include: table.h, simd.h.
 *   packed: [cell][dim / 2][codeword 64][2 x s16], holding -2 * code, so that the accumulator,
 *   started at base + cell, ends as the cost
 * One query reads the whole book, 196 KB for 4096 x 24, from the second cache, and that bounds it:
 * 85 GMAC/s on AVX2 and AVX-512 alike, with or without prefetching.
 */
#include "../table.h"
#include "simd.h"

#include <string.h>

enum { CELL = 64, VECTORS = CELL / 8 };

static int pack(nsvq_codebook *b, const int16_t *codes)
{
    int16_t *dst = b->packed = nsvq_alloc64((size_t)b->n_codes * b->dim * sizeof *dst);

    if (!dst) return -1;
    for (size_t k = 0; k < b->n_codes; k++)
        for (size_t i = 0; i < b->dim; i++)
            dst[((k / CELL * (b->dim / 2) + i / 2) * CELL + k % CELL) * 2 + i % 2] =
                (int16_t)(-2 * codes[k * b->dim + i]);
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

static uint32_t search(const nsvq_codebook *b, const int16_t *r, const int32_t *base,
                       const int32_t *cell, int32_t *cost)
{
    const __m256i *w = b->packed;
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i best = _mm256_set1_epi32(INT32_MAX), best_k = _mm256_setzero_si256();
    int32_t lane_cost[8], lane_k[8];
    int winner = 0;

    for (uint32_t k = 0; k < b->n_codes; k += CELL) {
        __m256i cell_cost = _mm256_set1_epi32(cell[k / CELL]), acc[VECTORS];
        UNROLL
        for (int v = 0; v < VECTORS; v++)
            acc[v] = _mm256_add_epi32(load(base + k + 8 * v), cell_cost);
        for (int i = 0; i < b->dim; i += 2, w += VECTORS) {
            __m256i x = broadcast(r + i);
            UNROLL
            for (int v = 0; v < VECTORS; v++)
                acc[v] = _mm256_add_epi32(acc[v], _mm256_madd_epi16(x, w[v]));
        }
        UNROLL
        for (int v = 0; v < VECTORS; v++) {  // strictly less: each lane keeps its smallest k
            __m256i less = _mm256_cmpgt_epi32(best, acc[v]);
            __m256i k_v = _mm256_add_epi32(lane, _mm256_set1_epi32((int)k + 8 * v));
            best = _mm256_min_epi32(best, acc[v]);
            best_k = _mm256_blendv_epi8(best_k, k_v, less);
        }
    }
    _mm256_storeu_si256((__m256i *)lane_cost, best);
    _mm256_storeu_si256((__m256i *)lane_k, best_k);
    for (int i = 1; i < 8; i++)
        if (lane_cost[i] < lane_cost[winner] ||
            (lane_cost[i] == lane_cost[winner] && lane_k[i] < lane_k[winner]))
            winner = i;
    *cost = lane_cost[winner];
    return (uint32_t)lane_k[winner];
}

void nsvq_codebook_avx2(nsvq_kernels *k)
{
    k->codebook_pack = pack;
    k->search = search;
}
