/* encode.h - what the parts of the encoder share. May include: codec.h, pyramid.h. */
#ifndef NSVQ_ENCODE_H
#define NSVQ_ENCODE_H

#include "codec.h"
#include "pyramid.h"

enum { MAX_EFFORT = 9 };

/* One thread's memory. */
typedef struct slot {
    nsvq_scratch *scratch;
    uint8_t *window;     /* levels of a block with halo, filled */
    uint8_t *known;      /* as window: 0 where filled */
    int16_t *y, *y_hat;  /* of a block */
    int16_t *alone, *again; /* refine: latents of the block alone, before and after; NULL without */
    uint8_t *rgb;
    uint8_t *base;       /* [base_cap] base layer */
    uint8_t *bits;       /* mask planes of a block */
    uint8_t *planes;     /* of a block of the largest group with an exact layer, dense */
    size_t base_cap;
} slot;

/* Pixels of a group: columns x0 .. x1 - 1 and rows y0 .. y1 - 1 of the picture. Lossy groups: three
 * channels side by side, padded to the right and below by edge replication. Others: band after band. */
typedef struct strip {
    uint8_t *px;
    size_t cap;
    ptrdiff_t stride, band_stride;
    size_t item; /* bytes from a pixel to the next */
    uint32_t level, g, x0, y0, x1, y1;
} strip;

typedef struct encoder {
    nsvq_raster r;
    nsvq_band *bands;  /* r's, with ranges */
    nsvq_encode_options opt;
    nsvq_model *model; /* NULL: no lossy group */
    writer w;
    uint32_t halo; /* latents */
    int quality16[2]; /* of the blocks: full resolution, overviews */
    slot *slots;   /* [opt.n_threads] */
    strip strips[2]; /* of the full resolution, of the others */
    pyramid pyramid; /* the others' pixels, waiting */
    uint8_t *valid;  /* [row][column] of the chunk at full resolution: 0 where masked; NULL: no masks */
    /* the chunk: blocks bx0 .. bx0 + n - 1 of row by */
    uint32_t chunk, level, bx0, by, n, g;
    wr *pieces;      /* [n][groups] a block each */
    uint32_t *sizes; /* as pieces */
    wr joined;
    atomic_ullong done; /* blocks, groups counted apart */
    atomic_int status;
} encoder;

/* To whole latents. */
static inline uint32_t round_up(const encoder *e, uint32_t v)
{
    uint32_t side = e->model->desc.stride;
    return (v + side - 1) / side * side;
}

/* That of the chunk. */
static inline const strip *strip_of(const encoder *e)
{
    return &e->strips[e->level > 0];
}

/* ---- encode_strip.c ---- */

/* Pixels of group e->g for the chunk, with the analysis' halo, from the caller or from the pyramid. */
nsvq_status strip_load(encoder *e, nsvq_error *err);
nsvq_status pull_failed(const nsvq_pull *p, nsvq_error *err);

static inline const uint8_t *strip_at(const strip *s, uint32_t x, uint32_t y)
{
    return s->px + (ptrdiff_t)(y - s->y0) * s->stride + (ptrdiff_t)((x - s->x0) * s->item);
}

/* ---- encode_block.c ---- */

/* exact: bytes of a block of the largest group with an exact layer. What a failure leaves is to be freed too. */
bool slot_create(const encoder *e, slot *s, size_t exact);
void slot_free(slot *s);
/* Block bx of the row, of group e->g: appended to out, or nothing where all of it is nodata. */
nsvq_status encode_block(encoder *e, slot *s, uint32_t bx, wr *out);

#endif
