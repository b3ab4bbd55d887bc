/* fast.h - loops compiled for several instruction sets, buffers for them. */
#ifndef NSVQ_TRAINER_FAST_H
#define NSVQ_TRAINER_FAST_H

#include <stdlib.h>

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
#define FAST __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FAST
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float v16 __attribute__((vector_size(64), aligned(4), may_alias));

/* n floats of undefined content on a cache line's border instead of `old`. */
static inline float *grow(float *old, size_t n)
{
    free(old);
    float *p = aligned_alloc(64, (n * sizeof *p + 63) & ~(size_t)63);
    if (!p) abort();
    return p;
}

#endif
