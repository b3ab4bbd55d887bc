/* codebook.c - the encoder's search for the cheapest codeword, scalar: the specification.
 * May include: kernels.h, table.h.
 *   codes [n_codes][dim] s16   r [dim] s16   base [n_codes]   cell [n_codes / 64]
 */
#include "table.h"

#include <stdlib.h>
#include <string.h>

void nsvq_codebook_free(nsvq_codebook *b)
{
    free(b->packed);
    b->packed = NULL;
}

static int codebook_pack_c(nsvq_codebook *b, const int16_t *codes)
{
    size_t bytes = (size_t)b->n_codes * b->dim * sizeof *codes;

    b->packed = nsvq_alloc64(bytes);
    if (!b->packed) return -1;
    memcpy(b->packed, codes, bytes);
    return 0;
}

static uint32_t search_c(const nsvq_codebook *b, const int16_t *r, const int32_t *base,
                         const int32_t *cell, int32_t *cost)
{
    const int16_t *code = b->packed;
    uint32_t best = 0;
    int32_t best_cost = INT32_MAX;

    for (uint32_t k = 0; k < b->n_codes; k++, code += b->dim) {
        int32_t c = base[k] + cell[k / 64];

        for (size_t i = 0; i < b->dim; i++)
            c -= 2 * r[i] * code[i];
        if (c < best_cost) {
            best_cost = c;
            best = k;
        }
    }
    *cost = best_cost;
    return best;
}

void nsvq_codebook_init(nsvq_kernels *k, unsigned cpu)
{
    k->codebook_pack = codebook_pack_c;
    k->search = search_c;
#if NSVQ_HAVE_AVX2
    if (cpu & NSVQ_CPU_AVX2) nsvq_codebook_avx2(k);
#endif
#if NSVQ_HAVE_AVX512VNNI
    if (cpu & NSVQ_CPU_AVX512VNNI) nsvq_codebook_avx512vnni(k);
#endif
}
