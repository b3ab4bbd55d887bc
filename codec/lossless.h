/* lossless.h - the lossless layer: samples of any type <-> bytes, exact, a block at a time
 * (FORMAT.md 4.5). May include: nsvq.h, bytes.h, engine.h. */
#ifndef NSVQ_LOSSLESS_H
#define NSVQ_LOSSLESS_H

#include "bytes.h"
#include "engine.h"
#include "nsvq.h"

#define LOSSLESS_MAX_SIDE 512u
#define LOSSLESS_MAX_BYTES (UINT64_C(1) << 28)

typedef struct lossless_shape {
    nsvq_type type;
    uint32_t n_bands, width, height; /* 1 .. LOSSLESS_MAX_SIDE pixels, LOSSLESS_MAX_BYTES in all */
} lossless_shape;

/* Appends to w. planes: [n_bands][height][width], dense, in the host's byte order, any alignment.
 * nodata: one sample, or NULL; a hint only. effort 1 .. 9, 0: the default (7). The bytes depend on
 * the arguments alone. Without memory w->bad is set. -1: a shape beyond the limits. work: what it holds is lost. */
int lossless_encode(wr *w, nsvq_scratch *work, const void *planes, const lossless_shape *s, const void *nodata,
                    int effort);
/* 0, -1 corrupt (planes are undefined then), -2 without memory. Any bytes are safe. */
int lossless_decode(nsvq_scratch *work, void *planes, const lossless_shape *s, const uint8_t *in, size_t size);

#endif
