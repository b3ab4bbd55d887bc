/* kernels.h - the operators of the networks behind one table of functions.
 *
 * The scalar C functions are the specification (codec/FORMAT.md, "Arithmetic"); every other version
 * equals them bit for bit for every input that satisfies the contracts below. May include: the
 * standard library only. Never: codec, GDAL, stdio.
 *
 * Layout is NHWC. "Position" means one pixel of a feature map, n counts positions, tensors are dense
 * ([n][channels]) unless said otherwise. No alignment is required of activations; kernels read and
 * write nothing outside the stated extents.
 */
#ifndef NSVQ_KERNELS_H
#define NSVQ_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#define NSVQ_MAX_CHANNELS 2048

/* Element types of activations. */
typedef enum nsvq_elem { NSVQ_NONE = 0, NSVQ_U8 = 1, NSVQ_S16 = 2 } nsvq_elem;

/* Requantisation of output channel c, one definition for all operators:
 *     t = sat16((acc + bias[c]) >> shift[c])           arithmetic shift; 0 <= shift <= 24
 *     t = (t * mul[c] + (1 << 14)) >> 15               0 <= mul <= 32767
 *     if res:  t = sat16(t + res)                      res is u8 or s16, widened
 *     out = S16: t      U8: clamp(t, 0, 255)
 * The rounding of the first shift is folded into bias by whoever makes the model. */

/* 1 x 1 convolution. acc = sum over i of wt[o][i] * in[i], exact in int32.
 * Proven at load (model/desc.c): sum_i |wt[o][i]| * max|in| + |bias[o]| <= INT32_MAX, and for U8
 * input cin <= 2048, for S16 input |in| <= 32768.
 * `wt` is packed by pointwise_pack of the same table; bias, shift, mul have cout entries and are
 * padded by the packer too, so that kernels may load whole vectors of them. */
typedef struct nsvq_pointwise {
    uint16_t  cin, cout;
    uint8_t   in_type;   /* nsvq_elem: U8 or S16 */
    uint8_t   out_type;  /* U8 or S16 */
    uint8_t   res_type;  /* NONE, U8 or S16: a tensor [n][cout] */
    void     *wt;        /* packed; 64-byte aligned, owned; free with nsvq_pointwise_free */
    int32_t  *bias;      /* [cout padded]; a backend may fold zero points into it */
    uint8_t  *shift;     /* [cout padded] */
    int16_t  *mul;       /* [cout padded] */
} nsvq_pointwise;

/* k x k depthwise convolution on s16 followed by requantisation to u8 (which is its ReLU).
 * acc = sum over ky, kx of wt[ky][kx][c] * in[y + ky - k/2][x + kx - k/2][c].
 * Proven at load: sum |wt| * 32768 + |bias| <= INT32_MAX. */
typedef struct nsvq_depthwise {
    uint16_t  channels;
    uint8_t   k;      /* 3 or 5 */
    void     *wt;     /* packed; owned; free with nsvq_depthwise_free */
    int32_t  *bias;   /* [channels padded] */
    uint8_t  *shift;
    int16_t  *mul;
} nsvq_depthwise;

/* A codebook slice for the encoder's search: n_codes x dim of s16, n_codes a multiple of 64,
 * dim a multiple of 4, dim <= 64. |code| <= 4095. */
typedef struct nsvq_codebook {
    uint32_t n_codes;
    uint16_t dim;
    void    *packed;  /* owned; free with nsvq_codebook_free */
} nsvq_codebook;

typedef struct nsvq_kernels {
    const char *name; /* "c", "avx2", "avx512vnni" */

    /* Packs weights wt [cout][cin] (row major, s8) and the requantisation arrays (cout entries).
     * Returns 0, or -1 when memory is short (then *p holds nothing to free). cin, cout, in_type,
     * out_type and res_type of *p are set by the caller before. */
    int (*pointwise_pack)(nsvq_pointwise *p, const int8_t *wt, const int32_t *bias,
                          const uint8_t *shift, const int16_t *mul);
    /* out [n][cout], in [n][cin], res [n][cout] or NULL. out may equal res (same type), never in. */
    void (*pointwise)(void *out, const void *in, const void *res, const nsvq_pointwise *p, int n);

    /* wt [k][k][channels], s8. As pointwise_pack. channels is a multiple of 16. */
    int (*depthwise_pack)(nsvq_depthwise *p, const int8_t *wt, const int32_t *bias,
                          const uint8_t *shift, const int16_t *mul);
    /* One row of output: out [n][channels]. rows[j], j < k, points at the input position under the
     * left-most tap of output position 0, in input row y + j - k/2; each has n + k - 1 positions. */
    void (*depthwise)(uint8_t *out, const int16_t *const *rows, const nsvq_depthwise *p, int n);

    /* codes [n_codes][dim]. */
    int (*codebook_pack)(nsvq_codebook *b, const int16_t *codes);
    /* The code k with the least   base[k] + cell[k / 64] - 2 * dot(r, code_k)   in int32, the smallest
     * k among equals; *cost is that value. |r[i]| <= 4095; the caller keeps |base| + |cell| below
     * 2^30, so that no sum leaves int32 (dim 24: 2 * 24 * 4095^2 < 2^30). */
    uint32_t (*search)(const nsvq_codebook *b, const int16_t *r, const int32_t *base,
                       const int32_t *cell, int32_t *cost);

    /* Picture out of the last layer. in [n][3 * side * side]: n positions of a row of latents, each a
     * square of side x side pixels x 3 channels (side: 8 or 16) in the order [sy side / 4][sx side / 4]
     * [py 4][px 4][c 3], unit 1/32 grey level, zero = level 128. Pixel (side*i + 4*sx + px, 4*sy + py)
     * is clamp(((v + 16) >> 5) + 128, 0, 255). out: `side` rows of `stride` bytes, 3 * side * n bytes
     * each, interleaved. */
    void (*to_pixels)(uint8_t *out, ptrdiff_t stride, const int16_t *in, int n, int side);
    /* Picture into the first layer: 4 rows of 12 * n bytes (interleaved, `stride` apart) become
     * out [n][48], order [py 4][px 4][c 3], value p - 128. */
    void (*from_pixels)(int16_t *out, const uint8_t *in, ptrdiff_t stride, int n);
} nsvq_kernels;

void nsvq_pointwise_free(nsvq_pointwise *p); /* fields become NULL; fine on a zeroed struct */
void nsvq_depthwise_free(nsvq_depthwise *p);
void nsvq_codebook_free(nsvq_codebook *b);

/* CPU features, as bits. Each level includes the ones before. */
enum { NSVQ_CPU_C = 0, NSVQ_CPU_AVX2 = 1, NSVQ_CPU_AVX512VNNI = 2 };

/* Detects the CPU (with the state that the operating system saves) and applies the ceiling of the
 * environment variable NSVQ_CPU = c | avx2 | avx512vnni. Returns the bits, or -1 when the variable
 * holds another word: a typo would test nothing. */
int nsvq_cpu_flags(void);
/* What this machine can do, whatever the environment says (for tests that build every table). */
unsigned nsvq_cpu_detect(void);
/* Fills the table for the given bits: C first, then each higher version that was compiled in. */
void nsvq_kernels_init(nsvq_kernels *k, unsigned cpu);

#endif
