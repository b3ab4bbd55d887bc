/* pointwise.c - 1 x 1 convolution, scalar: the specification.
 * May include: kernels.h, table.h, shape.h.
 *   in [n][cin] u8 or s16   wt [cout][cin]   res [n][cout] u8 or s16   out [n][cout] u8 or s16
 * Invariants, proven by model/desc.c when a model is loaded:
 *   (1) sum |wt[o]| * max |in| + |bias[o]| <= INT32_MAX: no order of summation overflows, so that
 *       any SIMD order gives the same bits.
 *   (2) 0 <= mul < 2^15, 0 <= shift <= 24: nsvq_requantise() cannot overflow.
 */
#include "shape.h"
#include "table.h"

#include <stdlib.h>
#include <string.h>

int nsvq_pointwise_alloc(nsvq_pointwise *p, size_t wt_bytes, size_t padded)
{
    p->wt = nsvq_alloc64(wt_bytes);
    p->bias = nsvq_alloc64(padded * sizeof *p->bias);
    p->shift = nsvq_alloc64(padded * sizeof *p->shift);
    p->mul = nsvq_alloc64(padded * sizeof *p->mul);
    if (p->wt && p->bias && p->shift && p->mul) return 0;
    nsvq_pointwise_free(p);
    return -1;
}

void nsvq_pointwise_free(nsvq_pointwise *p)
{
    free(p->wt);
    free(p->bias);
    free(p->shift);
    free(p->mul);
    p->wt = NULL;
    p->bias = NULL;
    p->shift = NULL;
    p->mul = NULL;
}

static int pointwise_pack_c(nsvq_pointwise *p, const int8_t *wt, const int32_t *bias,
                            const uint8_t *shift, const int16_t *mul)
{
    size_t n = (size_t)p->cout * p->cin;

    if (nsvq_pointwise_alloc(p, n, p->cout)) return -1;
    memcpy(p->wt, wt, n);
    memcpy(p->bias, bias, p->cout * sizeof *bias);
    memcpy(p->shift, shift, p->cout * sizeof *shift);
    memcpy(p->mul, mul, p->cout * sizeof *mul);
    return 0;
}

/* Element i of a tensor of type `type`, widened. */
static int32_t element(const void *tensor, int type, size_t i)
{
    return type == NSVQ_U8 ? ((const uint8_t *)tensor)[i] : ((const int16_t *)tensor)[i];
}

static int32_t pointwise_acc(const void *in, const nsvq_pointwise *p, size_t i, size_t o)
{
    const int8_t *wt = (const int8_t *)p->wt + o * p->cin;
    int32_t acc = 0;

    for (size_t c = 0; c < p->cin; c++)
        acc += wt[c] * element(in, p->in_type, i * p->cin + c);
    return acc;
}

static void pointwise_c(void *out, const void *in, const void *res, const nsvq_pointwise *p, int n)
{
    for (size_t i = 0; i < (size_t)n; i++)
        for (size_t o = 0; o < p->cout; o++) {
            size_t e = i * p->cout + o;
            int32_t t = nsvq_requantise(pointwise_acc(in, p, i, o), p->bias[o], p->shift[o],
                                        p->mul[o]);

            if (p->res_type != NSVQ_NONE) t = nsvq_sat16(t + element(res, p->res_type, e));
            if (p->out_type == NSVQ_U8)
                ((uint8_t *)out)[e] = (uint8_t)nsvq_clamp_u8(t);
            else
                ((int16_t *)out)[e] = (int16_t)t;
        }
}

void nsvq_pointwise_init(nsvq_kernels *k, unsigned cpu)
{
    k->pointwise_pack = pointwise_pack_c;
    k->pointwise = pointwise_c;
#if NSVQ_HAVE_AVX2
    if (cpu & NSVQ_CPU_AVX2) nsvq_pointwise_avx2(k);
#endif
#if NSVQ_HAVE_AVX512VNNI
    if (cpu & NSVQ_CPU_AVX512VNNI) nsvq_pointwise_avx512vnni(k);
#endif
}
