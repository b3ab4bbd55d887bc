/* depthwise.c - k x k convolution per channel on s16, scalar: the specification.
 * May include: kernels.h, table.h, shape.h.
 *   rows[k] -> [n + k - 1][channels] s16   wt [k][k][channels]   out [n][channels] u8
 * Invariant, proven by model/desc.c: sum |wt| * 32768 + |bias| <= INT32_MAX for every channel.
 */
#include "shape.h"
#include "table.h"

#include <stdlib.h>
#include <string.h>

int nsvq_depthwise_alloc(nsvq_depthwise *p, size_t wt_bytes, size_t padded)
{
    p->wt = nsvq_alloc64(wt_bytes);
    p->bias = nsvq_alloc64(padded * sizeof *p->bias);
    p->shift = nsvq_alloc64(padded * sizeof *p->shift);
    p->mul = nsvq_alloc64(padded * sizeof *p->mul);
    if (p->wt && p->bias && p->shift && p->mul) return 0;
    nsvq_depthwise_free(p);
    return -1;
}

void nsvq_depthwise_free(nsvq_depthwise *p)
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

static int depthwise_pack_c(nsvq_depthwise *p, const int8_t *wt, const int32_t *bias,
                            const uint8_t *shift, const int16_t *mul)
{
    size_t n = (size_t)p->k * p->k * p->channels;

    if (nsvq_depthwise_alloc(p, n, p->channels)) return -1;
    memcpy(p->wt, wt, n);
    memcpy(p->bias, bias, p->channels * sizeof *bias);
    memcpy(p->shift, shift, p->channels * sizeof *shift);
    memcpy(p->mul, mul, p->channels * sizeof *mul);
    return 0;
}

static int32_t depthwise_acc(const int16_t *const *rows, const nsvq_depthwise *p, size_t x,
                             size_t c)
{
    const int8_t *wt = p->wt;
    int32_t acc = 0;

    for (size_t ky = 0; ky < p->k; ky++)
        for (size_t kx = 0; kx < p->k; kx++)
            acc += wt[(ky * p->k + kx) * p->channels + c] * rows[ky][(x + kx) * p->channels + c];
    return acc;
}

static void depthwise_c(uint8_t *out, const int16_t *const *rows, const nsvq_depthwise *p, int n)
{
    for (size_t x = 0; x < (size_t)n; x++)
        for (size_t c = 0; c < p->channels; c++)
            *out++ = (uint8_t)nsvq_clamp_u8(nsvq_requantise(depthwise_acc(rows, p, x, c),
                                                            p->bias[c], p->shift[c], p->mul[c]));
}

void nsvq_depthwise_init(nsvq_kernels *k, unsigned cpu)
{
    k->depthwise_pack = depthwise_pack_c;
    k->depthwise = depthwise_c;
#if NSVQ_HAVE_AVX2
    if (cpu & NSVQ_CPU_AVX2) nsvq_depthwise_avx2(k);
#endif
#if NSVQ_HAVE_AVX512VNNI
    if (cpu & NSVQ_CPU_AVX512VNNI) nsvq_depthwise_avx512vnni(k);
#endif
}
