/* pyramid.h - the pixels of the levels below the full one, on their way from halving to coding: of each
 * level the rows that its next row of blocks, with halo, and the level below it still need.
 * May include: codec.h, reduce.h. */
#ifndef NSVQ_PYRAMID_H
#define NSVQ_PYRAMID_H

#include "codec.h"
#include "reduce.h"

/* Rows y0 .. y1 - 1 of all planes: those of the bands, then of the masks. */
typedef struct waiting {
    uint8_t *px;
    uint32_t y0, y1, cap; /* rows; cap: room */
    uint32_t next_by;     /* row of blocks to be coded next */
} waiting;

typedef struct pyramid {
    const header *h;
    uint32_t margin;      /* rows around a row of blocks */
    uint32_t n_planes, n_masks;
    reduce_band *bands;   /* [n_bands] */
    bool *plain;          /* [n_bands]: whatever the mask says */
    size_t *before;       /* [n_planes + 1]: bytes of a pixel in the planes before */
    waiting levels[MAX_LEVELS];
} pyramid;

bool pyramid_create(pyramid *p, const header *h, const nsvq_raster *r, uint32_t margin);
void pyramid_free(pyramid *p);
/* Halves a part of the level above into `level`, whose rows stay invisible until pyramid_advance().
 * x and y: of the level above, even; w and h too, unless they end at its edge. valid: as reduce_row's. */
void pyramid_put(pyramid *p, uint32_t level, uint32_t band, uint32_t x, uint32_t y, uint32_t w, uint32_t h,
                 const uint8_t *px, ptrdiff_t step, ptrdiff_t stride, const uint8_t *valid,
                 ptrdiff_t valid_stride);
void pyramid_put_mask(pyramid *p, uint32_t level, uint32_t mask, uint32_t x, uint32_t y, uint32_t w, uint32_t h,
                      const uint8_t *valid, ptrdiff_t valid_stride);
/* Rows of the full resolution before `rows` have been put: those of level 1 are there. */
void pyramid_advance(pyramid *p, uint64_t rows);
/* Takes what is new from the level above (from level 2 on). */
void pyramid_halve(pyramid *p, uint32_t level);
/* True, and which, when the pixels of the next row of blocks are there; counts it as coded. */
bool pyramid_ready(pyramid *p, uint32_t level, uint32_t *by);
/* Copies rows that are there; a mask instead of bands. */
void pyramid_get(const pyramid *p, uint32_t level, const nsvq_pull *to, bool mask);
/* Forgets rows of the level above that nobody needs any more, and at the last level its own. */
void pyramid_drop(pyramid *p, uint32_t level);

#endif
