/* fuzz.h - one fuzz target per program: libFuzzer's functions, which run.c stands in for. */
#ifndef NSVQ_FUZZ_H
#define NSVQ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

enum { FUZZ_SEED = 1 }; /* of the model that the seeds are made with */

/* The target. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
/* The target's: mutates in place, then repairs what no mutation would hit. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
/* The fuzzer's. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

static inline void fuzz_put_le(uint8_t *p, uint64_t v, int n)
{
    for (int i = 0; i < n; i++) p[i] = (uint8_t)(v >> 8 * i);
}

#endif
