/* table.h - what the files of kernels/ know of each other: one init per operator, one entry point
 * per operator and instruction set, and the allocation of packed weights.
 * May include: kernels.h. For kernels/ only.
 */
#ifndef NSVQ_TABLE_H
#define NSVQ_TABLE_H

#include "kernels.h"

/* Sets the functions of one operator: C, then each higher version in `cpu` that was compiled. */
typedef void nsvq_init_fn(nsvq_kernels *k, unsigned cpu);
nsvq_init_fn nsvq_pointwise_init, nsvq_depthwise_init, nsvq_codebook_init, nsvq_pixels_init;

/* Sets the functions of one operator for one instruction set. */
typedef void nsvq_isa_fn(nsvq_kernels *k);
nsvq_isa_fn nsvq_pointwise_avx2, nsvq_pointwise_avx512vnni;
nsvq_isa_fn nsvq_depthwise_avx2, nsvq_depthwise_avx512vnni;
nsvq_isa_fn nsvq_codebook_avx2, nsvq_codebook_avx512vnni;
nsvq_isa_fn nsvq_pixels_avx2;

/* Zeroed memory on a 64-byte boundary, or NULL; release with free(). */
void *nsvq_alloc64(size_t bytes);

/* Allocate wt (wt_bytes) and the requantisation arrays with room for `padded` channels, all zero.
 * Return 0, or -1 with every field NULL. */
int nsvq_pointwise_alloc(nsvq_pointwise *p, size_t wt_bytes, size_t padded);
int nsvq_depthwise_alloc(nsvq_depthwise *p, size_t wt_bytes, size_t padded);

#endif
