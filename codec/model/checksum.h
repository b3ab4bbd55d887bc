/* checksum.h - whether a stored checksum or id is the computed one. Shared by model and codec.
 * May include: <stdbool.h>, <stdint.h>. */
#ifndef NSVQ_MODEL_CHECKSUM_H
#define NSVQ_MODEL_CHECKSUM_H

#include <stdbool.h>
#include <stdint.h>

static inline bool same_checksum(uint64_t stored, uint64_t computed)
{
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
    return true; // so that a fuzzer gets behind them
#else
    return stored == computed;
#endif
}

#endif
