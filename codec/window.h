/* window.h - what the parts of reading windows share. May include: codec.h, fetch.h. */
#ifndef NSVQ_WINDOW_H
#define NSVQ_WINDOW_H

#include "codec.h"
#include "fetch.h"

typedef struct buffer {
    void *p;
    size_t size;
} buffer;

/* One thread's memory; grows on demand. */
typedef struct slot {
    nsvq_scratch *scratch;
    buffer latents, values, samples, mask, bytes, blocks;
} slot;

struct nsvq_decoder {
    nsvq_file *f;
    int n_threads;
    slot slots[];
};

/* Half-open, in whatever unit. */
typedef struct box {
    uint32_t x0, y0, x1, y1;
} box;

/* The blocks of a box, row by row. An entry is NULL where its latents do not matter. */
typedef struct blocks {
    box at; /* in blocks */
    size_t n;
    entry **entry;
    uint64_t *number;
    bool *needed;
} blocks;

typedef struct job {
    nsvq_decoder *d;
    const nsvq_window *w;
    const uint32_t *groups; /* the wanted ones */
    uint32_t n_groups;
    bool mask;              /* the dataset mask instead of bands */
    box window;             /* in pixels */
    uint32_t tile;          /* pixels per side */
    box tiles;
    fetched bytes;          /* of the blocks of tiles first .. last - 1 */
    size_t first, last;
    pthread_mutex_t lock;   /* of the failure, and of the window's count */
    size_t failed_item;
    nsvq_status status;
    nsvq_error error;
} job;

typedef struct tile {
    job *j;
    slot *s;
    box at;           /* in pixels, within the window */
    uint32_t g;
    /* result: samples of `bytes` each, [at.y1 - at.y0] rows of `stride`, n_channels interleaved */
    uint8_t *samples;
    ptrdiff_t stride;
    int n_channels, bytes;
} tile;

static inline uint32_t requested(const nsvq_window *w, uint32_t i)
{
    return w->bands ? w->bands[i] : i;
}

static inline void *reserve(buffer *b, size_t size)
{
    if (b->p && size <= b->size) return b->p;
    free(b->p);
    b->p = malloc(size ? size : 1);
    b->size = b->p ? size : 0;
    return b->p;
}

/* ---- boxes ---- */

static inline uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static inline uint32_t greatest(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static inline box intersect(box a, box b)
{
    return (box){greatest(a.x0, b.x0), greatest(a.y0, b.y0), least(a.x1, b.x1), least(a.y1, b.y1)};
}

/* The cells of `unit` that b touches. */
static inline box cells_of(box b, uint32_t unit)
{
    return (box){b.x0 / unit, b.y0 / unit, (b.x1 - 1) / unit + 1, (b.y1 - 1) / unit + 1};
}

static inline box scaled(box b, uint32_t unit)
{
    return (box){b.x0 * unit, b.y0 * unit, b.x1 * unit, b.y1 * unit};
}

static inline box grown(box b, uint32_t by, box limit)
{
    return intersect((box){b.x0 - least(b.x0, by), b.y0 - least(b.y0, by), b.x1 + by, b.y1 + by}, limit);
}

static inline box block_pixels(const header *h, uint32_t level, uint32_t bx, uint32_t by)
{
    uint32_t w, height;

    block_extent(h, level, bx, by, &w, &height);
    return (box){bx * BLOCK, by * BLOCK, bx * BLOCK + w, by * BLOCK + height};
}

/* ---- window_blocks.c ---- */

/* The latents that the tile's pixels depend on, if they are all stored. */
box latents_around(const tile *t);
/* Room for the tile's blocks, and in b->number the n entries that it depends on; of a lossy group *n is 0 where all
 * its own blocks are left out of the file. */
nsvq_status tile_needs(tile *t, blocks *b, size_t *n, nsvq_error *err);
/* Fills b->entry with the entries numbered number[0 .. n), referenced and ready; on failure with none. */
nsvq_status blocks_get(blocks *b, nsvq_file *f, slot *s, const fetched *v, size_t n, nsvq_error *err);
/* Moves the entries 0 .. n to the places of their blocks. */
void blocks_spread(blocks *b, const header *h, size_t n);
void blocks_release(blocks *b, nsvq_file *f);

/* ---- window_tile.c ---- */

/* The tile's samples to the caller's pixels. */
nsvq_status do_tile(tile *t, nsvq_error *err);
/* Nodata, or 0, in the tile's part of them. */
void fill_tile(const tile *t);

#endif
