/* simd.h - what every file of x86/ needs. May include: <immintrin.h>.
 */
#ifndef NSVQ_SIMD_H
#define NSVQ_SIMD_H

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

/* Before a loop with a constant count (at most 16) over an array of vectors, which stays in
 * registers only if the loop is unrolled altogether. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#endif
