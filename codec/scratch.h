/* scratch.h - memory that a thread keeps from one block to the next: fresh memory would cost the kernel more
 * than decoding costs us. May include: engine.h. */
#ifndef NSVQ_SCRATCH_H
#define NSVQ_SCRATCH_H

#include <stddef.h>
#include <stdint.h>

#include "engine.h"

/* At least `bytes` bytes, 64-byte aligned, of undefined content; what was got before by the same
 * function is lost. A network's run and the fit of the lossless layer get, who calls them keeps. NULL without memory. */
void *scratch_get(nsvq_scratch *s, size_t bytes);
void *scratch_keep(nsvq_scratch *s, size_t bytes);

/* Carves pieces, each 64-byte aligned, out of one buffer: with base NULL it only adds up sizes. */
typedef struct carver {
    uint8_t *base;
    size_t   used;
} carver;

static inline void *carve(carver *c, size_t bytes)
{
    uint8_t *p = c->base ? c->base + c->used : NULL;
    c->used += (bytes + 63) & ~(size_t)63;
    return p;
}

#endif
