/* window.c - windows: which tiles and blocks they need, halo, samples, the caller's strides.
 *
 * A window is cut into tiles, aligned to the grid of blocks and clipped to the window; a task is one
 * group of one tile. Its samples depend on its own blocks and, in lossy groups, on latents around its
 * pixels as far as the synthesis' halo and the joins between blocks reach: no other block is touched, so
 * no other block's damage can hurt. */
#include "codec.h"
#include "fetch.h"
#include "join.h"

#include <assert.h>

enum {
    TILE = 1024,      /* pixels per side: the halo's cost against memory and threads */
    STRIP = 8,        /* tiles side by side before going down: keeps the halo's latents in the cache */
    FETCH = 32 << 20, /* bytes of blocks that are read before any is decoded, about */
    PIECE = 64        /* pixels per side of what damage is narrowed down to */
};

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

/* ---- memory ---- */

static void *reserve(buffer *b, size_t size)
{
    if (b->p && size <= b->size) return b->p;
    free(b->p);
    b->p = malloc(size ? size : 1);
    b->size = b->p ? size : 0;
    return b->p;
}

nsvq_status nsvq_decoder_create(nsvq_decoder **out, nsvq_file *f, int n_threads, nsvq_error *err)
{
    if (!out) return fail(err, NSVQ_E_ARG, NO_OFFSET, "out is NULL");
    *out = NULL;
    if (!f || n_threads < 0)
        return fail(err, NSVQ_E_ARG, NO_OFFSET, "no file, or %d threads", n_threads);
    if (!n_threads) n_threads = 1;
    if (n_threads > MAX_THREADS) n_threads = MAX_THREADS;
    nsvq_decoder *d = calloc(1, sizeof *d + (size_t)n_threads * sizeof d->slots[0]);
    if (!d) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    d->f = f;
    d->n_threads = n_threads;
    *out = d;
    return NSVQ_OK;
}

void nsvq_decoder_destroy(nsvq_decoder *d)
{
    for (int i = 0; d && i < d->n_threads; i++) {
        slot *s = &d->slots[i];
        nsvq_scratch_destroy(s->scratch);
        free(s->latents.p);
        free(s->values.p);
        free(s->samples.p);
        free(s->mask.p);
        free(s->bytes.p);
        free(s->blocks.p);
    }
    free(d);
}

/* ---- boxes ---- */

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint32_t greatest(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static box intersect(box a, box b)
{
    return (box){greatest(a.x0, b.x0), greatest(a.y0, b.y0), least(a.x1, b.x1), least(a.y1, b.y1)};
}

/* The cells of `unit` that b touches. */
static box cells_of(box b, uint32_t unit)
{
    return (box){b.x0 / unit, b.y0 / unit, (b.x1 - 1) / unit + 1, (b.y1 - 1) / unit + 1};
}

static box scaled(box b, uint32_t unit)
{
    return (box){b.x0 * unit, b.y0 * unit, b.x1 * unit, b.y1 * unit};
}

static box grown(box b, uint32_t by, box limit)
{
    return intersect((box){b.x0 - least(b.x0, by), b.y0 - least(b.y0, by), b.x1 + by, b.y1 + by}, limit);
}

static box block_pixels(const header *h, uint32_t level, uint32_t bx, uint32_t by)
{
    uint32_t w, height;

    block_extent(h, level, bx, by, &w, &height);
    return (box){bx * BLOCK, by * BLOCK, bx * BLOCK + w, by * BLOCK + height};
}

/* ---- blocks ---- */

/* Room for all blocks of `at` (in blocks); entries are NULL. */
static nsvq_status blocks_room(blocks *b, slot *s, box at, nsvq_error *err)
{
    b->at = at;
    b->n = (size_t)(at.x1 - at.x0) * (at.y1 - at.y0);
    size_t one = sizeof(entry *) + sizeof(uint64_t) + sizeof(bool);
    b->entry = reserve(&s->blocks, b->n * one);
    if (!b->entry) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    b->number = (uint64_t *)(b->entry + b->n);
    b->needed = (bool *)(b->number + b->n);
    memset(b->entry, 0, b->n * sizeof(entry *));
    return NSVQ_OK;
}

/* Loads an entry that this thread has taken; it is published whatever happens. */
static void load(nsvq_file *f, slot *s, const fetched *v, entry *e)
{
    nsvq_error err;
    nsvq_status st = index_locate(f, e->number, &e->offset, &e->size, &err);
    const uint8_t *bytes = fetch_get(v, e);

    if (st == NSVQ_OK && e->size && !bytes) { // nobody thought that it was needed, or it failed
        uint8_t *own = reserve(&s->bytes, e->size);
        if (!own)
            st = fail(&err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
        else if ((st = source_read(&f->src, e->offset, own, e->size, "blocks", &err)) == NSVQ_E_IO)
            block_error(&err, st, e, &f->h, "cannot be read");
        bytes = own;
    }
    if (st == NSVQ_OK) st = block_parse(f, e, bytes, s->scratch, &err);
    cache_publish(&f->cache, e, st, &err);
}

/* Fills b->entry with the entries numbered number[0 .. n), referenced and ready; on failure with
 * none. */
static nsvq_status blocks_get(blocks *b, nsvq_file *f, slot *s, const fetched *v, size_t n,
                              nsvq_error *err)
{
    nsvq_status st = cache_claim(&f->cache, b->number, n, b->entry);

    if (st != NSVQ_OK) return fail(err, st, NO_OFFSET, "no memory");
    for (entry *e; (e = cache_take(&f->cache, b->entry, n));) load(f, s, v, e);
    for (size_t i = 0; i < n; i++) {
        nsvq_status one = cache_wait(&f->cache, b->entry[i], st == NSVQ_OK ? err : NULL);
        if (st == NSVQ_OK) st = one;
    }
    if (st != NSVQ_OK) cache_release(&f->cache, b->entry, n);
    return st;
}

/* ---- latents ---- */

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

/* Latents around its own that a tile depends on. */
static uint32_t halo_of(const tile *t)
{
    const nsvq_model *m = t->j->d->f->model;
    uint32_t reach = m->desc.family == NSVQ_FAMILY_VQ ? JOIN_REACH : 0;

    return (uint32_t)nsvq_engine_synthesis_halo(m->engine) + reach;
}

/* The latents of the tile's whole level. */
static box level_latents(const tile *t)
{
    const grid *v = &t->j->d->f->h.levels[t->j->w->level];

    return cells_of((box){0, 0, v->width, v->height}, t->j->d->f->model->desc.stride);
}

/* Marks in b the blocks whose latents the pixels of stored block c within the tile depend on. */
static void mark_needed(const tile *t, const blocks *b, cell c, uint32_t halo, bool *needed)
{
    const header *h = &t->j->d->f->h;
    uint32_t side = t->j->d->f->model->desc.stride;
    box own = cells_of(intersect(t->at, block_pixels(h, c.level, c.bx, c.by)), side);
    box in = cells_of(grown(own, halo, level_latents(t)), BLOCK / side);
    uint32_t columns = b->at.x1 - b->at.x0;

    for (uint32_t y = in.y0; y < in.y1; y++)
        for (uint32_t x = in.x0; x < in.x1; x++)
            needed[(size_t)(y - b->at.y0) * columns + (x - b->at.x0)] = true;
}

/* Finds what the tile depends on; *n_needed 0: all its own blocks are left out of the file. */
static nsvq_status find_needed(const tile *t, blocks *b, uint32_t halo, size_t *n_needed,
                               nsvq_error *err)
{
    nsvq_file *f = t->j->d->f;
    box own = cells_of(t->at, BLOCK);
    bool *needed = b->needed;
    uint64_t offset;
    uint32_t size;

    memset(needed, 0, b->n);
    for (cell c = {.level = t->j->w->level, .g = t->g, .by = own.y0}; c.by < own.y1; c.by++)
        for (c.bx = own.x0; c.bx < own.x1; c.bx++) {
            nsvq_status st = index_locate(f, index_entry(&f->h, c), &offset, &size, err);
            if (st != NSVQ_OK) return st;
            if (size || !may_be_empty(&f->h.groups[t->g])) mark_needed(t, b, c, halo, needed);
        }
    *n_needed = 0;
    for (size_t i = 0; i < b->n; i++) {
        uint32_t columns = b->at.x1 - b->at.x0;
        cell c = {.level = t->j->w->level, .g = t->g, .bx = b->at.x0 + (uint32_t)(i % columns),
                  .by = b->at.y0 + (uint32_t)(i / columns)};
        if (needed[i]) b->number[(*n_needed)++] = index_entry(&f->h, c);
    }
    return NSVQ_OK;
}

/* Moves the entries 0 .. n to the places of their blocks. */
static void spread(blocks *b, const header *h, size_t n)
{
    uint32_t columns = b->at.x1 - b->at.x0;

    for (size_t i = n; i-- > 0;) {
        entry *e = b->entry[i];
        cell c = index_cell(h, e->number);
        b->entry[i] = NULL;
        b->entry[(size_t)(c.by - b->at.y0) * columns + (c.bx - b->at.x0)] = e;
    }
}

static void blocks_release(blocks *b, nsvq_file *f)
{
    size_t n = 0;

    for (size_t i = 0; i < b->n; i++)
        if (b->entry[i]) b->entry[n++] = b->entry[i];
    cache_release(&f->cache, b->entry, n);
}

/* The latents of `around`, dense; zero, and not quiet, where there is no block. */
static void gather(int16_t *out, uint8_t *quiet, const blocks *b, const tile *t, box around)
{
    const nsvq_file *f = t->j->d->f;
    size_t n_latent = (size_t)nsvq_engine_channels(f->model->engine);
    size_t columns = b->at.x1 - b->at.x0, width = around.x1 - around.x0, row = width * n_latent;

    for (size_t i = 0; i < b->n; i++) {
        const entry *e = b->entry[i];
        uint32_t bx = b->at.x0 + (uint32_t)(i % columns), by = b->at.y0 + (uint32_t)(i / columns);
        box all = cells_of(block_pixels(&f->h, t->j->w->level, bx, by), f->model->desc.stride);
        box in = intersect(all, around);
        size_t n = (in.x1 - in.x0) * n_latent * sizeof *out;
        for (uint32_t y = in.y0; y < in.y1; y++) {
            int16_t *to = out + (y - around.y0) * row + (in.x0 - around.x0) * n_latent;
            uint8_t *to_quiet = quiet + (y - around.y0) * width + (in.x0 - around.x0);
            size_t from = (size_t)(y - all.y0) * (all.x1 - all.x0) + (in.x0 - all.x0);
            if (e && e->latents) {
                memcpy(to, e->latents + from * n_latent, n);
                memcpy(to_quiet, e->quiet + from, in.x1 - in.x0);
            } else {
                memset(to, 0, n);
                memset(to_quiet, 0, in.x1 - in.x0);
            }
        }
    }
}

/* Edges between blocks in the window: first those between columns, then those between rows. */
static void join_blocks(const join_window *j, box around, uint32_t side)
{
    for (uint32_t x = (around.x0 / side + 1) * side; x < around.x1; x += side)
        join_before_column(j, (int)(x - around.x0), 0, j->h);
    for (uint32_t y = (around.y0 / side + 1) * side; y < around.y1; y += side)
        join_before_row(j, (int)(y - around.y0), 0, j->w);
}

/* The tile's latents with those around them, joined at the edges of blocks. NULL without memory. */
static const int16_t *take_latents(const tile *t, const blocks *b, box around)
{
    const nsvq_model *m = t->j->d->f->model;
    size_t n_latent = (size_t)nsvq_engine_channels(m->engine);
    size_t ww = around.x1 - around.x0, wh = around.y1 - around.y0;
    int16_t *latents = reserve(&t->s->latents, ww * wh * (n_latent * sizeof *latents + 1));

    if (!latents) return NULL;
    uint8_t *quiet = (uint8_t *)(latents + ww * wh * n_latent);
    gather(latents, quiet, b, t, around);
    if (m->desc.family == NSVQ_FAMILY_VQ) {
        join_window join = {latents, quiet, (int)ww, (int)wh, (int)n_latent,
                            JOIN_BITS * (int64_t)nsvq_lambda(&m->desc, vq_quality_at(&t->j->d->f->h, t->j->w->level))};
        join_blocks(&join, around, BLOCK / m->desc.stride);
    }
    return latents;
}

static nsvq_status synthesise(tile *t, const blocks *b, box around, nsvq_error *err)
{
    const nsvq_model *m = t->j->d->f->model;
    const group *g = &t->j->d->f->h.groups[t->g];
    uint32_t side = m->desc.stride;
    box want = cells_of(t->at, side);
    int ww = (int)(around.x1 - around.x0), wh = (int)(around.y1 - around.y0);
    size_t width = (want.x1 - want.x0) * side, n = width * (want.y1 - want.y0) * side;
    const int16_t *latents = take_latents(t, b, around);
    int16_t *values = has_range(g) ? reserve(&t->s->values, 3 * n * sizeof *values) : NULL;
    uint8_t *samples = reserve(&t->s->samples, 3 * n * group_bytes(g));
    nsvq_rect rect = {(int)(want.x0 - around.x0), (int)(want.y0 - around.y0), (int)(want.x1 - want.x0),
                      (int)(want.y1 - want.y0)};

    if (!latents || !samples || (has_range(g) && !values)) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    int rc = values ? nsvq_engine_synthesise_fine(m->engine, t->s->scratch, latents, ww, wh, rect, values,
                                                  3 * (ptrdiff_t)width)
                    : nsvq_engine_synthesise(m->engine, t->s->scratch, latents, ww, wh, rect, samples,
                                             3 * (ptrdiff_t)width);
    if (rc) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    t->bytes = (int)group_bytes(g);
    t->n_channels = values ? (int)g->n_bands : 3;
    size_t item = (size_t)t->n_channels * group_bytes(g);
    for (uint32_t c = 0; values && c < g->n_bands; c++)
        range_samples(samples + c * group_bytes(g), (ptrdiff_t)item, g->type, g->range[c], values + c,
                      g->n_bands == 1, n);
    t->stride = (ptrdiff_t)(width * item);
    t->samples = samples + (ptrdiff_t)(t->at.y0 - want.y0 * side) * t->stride +
                 (ptrdiff_t)((t->at.x0 - want.x0 * side) * item);
    return NSVQ_OK;
}

/* ---- samples ---- */

static uint8_t *sample(const tile *t, uint32_t x, uint32_t y)
{
    return t->samples + (ptrdiff_t)(y - t->at.y0) * t->stride +
           (ptrdiff_t)(x - t->at.x0) * t->n_channels * t->bytes;
}

/* Three equal bands of bytes went in: their rounded mean comes out. In place. */
static void make_grey(tile *t)
{
    for (uint32_t y = t->at.y0; y < t->at.y1; y++) {
        uint8_t *row = sample(t, t->at.x0, y);
        for (uint32_t x = 0; x < t->at.x1 - t->at.x0; x++)
            row[x] = (uint8_t)((row[3 * x] + row[3 * x + 1] + row[3 * x + 2] + 1) / 3);
    }
    t->n_channels = 1;
}

/* Masked samples become nodata, and no other stays it. bits: planes of the block, or NULL for none;
 * in: the block's part of the tile. */
static void put_nodata(const tile *t, const group *g, box block, box in, const uint8_t *bits)
{
    size_t stride = mask_stride(block.x1 - block.x0), plane = stride * (block.y1 - block.y0);
    uint8_t nodata = (uint8_t)g->nodata, other = nodata == 255 ? 254 : nodata + 1;

    for (int c = 0; c < t->n_channels; c++)
        for (uint32_t y = in.y0; y < in.y1; y++) {
            uint8_t *p = sample(t, in.x0, y) + c;
            const uint8_t *row = bits ? bits + (size_t)c * plane + (y - block.y0) * stride : NULL;
            for (uint32_t x = in.x0 - block.x0; x < in.x1 - block.x0; x++, p += t->n_channels) {
                if (row && mask_get(row, x))
                    *p = nodata;
                else if (*p == nodata)
                    *p = other;
            }
        }
}

/* Samples that have a range: none stays nodata, then come those that the exact layer tells, then nodata. */
static void put_wide(const tile *t, const group *g, const entry *e, box block, box in, const uint8_t *bits)
{
    size_t bytes = (size_t)t->bytes, item = (size_t)t->n_channels * bytes, width = block.x1 - block.x0;
    uint32_t nodata = (uint32_t)g->nodata, n = in.x1 - in.x0, left = in.x0 - block.x0;

    for (int c = 0; c < t->n_channels; c++)
        for (uint32_t y = in.y0; y < in.y1; y++) {
            uint8_t *p = sample(t, in.x0, y) + (size_t)c * bytes;
            size_t row = (size_t)c * (block.y1 - block.y0) + (y - block.y0);
            if (g->has_nodata) range_avoid(p, (ptrdiff_t)item, g->type, g->range[c], nodata, n);
            for (uint32_t x = 0; e->pixels && x < n; x++) {
                uint32_t told = range_load(g->type, e->pixels + (row * width + left + x) * bytes);
                if (!range_holds(g->type, g->range[c], told) && !is_nodata(g, told))
                    range_store(g->type, p + x * item, told);
            }
            for (uint32_t x = 0; bits && x < n; x++)
                if (mask_get(bits + row * mask_stride((uint32_t)width), left + x))
                    range_store(g->type, p + x * item, nodata);
        }
}

/* value: bits of a sample. */
static void put_all(const tile *t, box in, uint64_t value)
{
    size_t n = (in.x1 - in.x0) * (size_t)t->n_channels;

    for (uint32_t y = in.y0; y < in.y1; y++) {
        uint8_t *p = sample(t, in.x0, y);
        if (t->bytes == 1) memset(p, (uint8_t)value, n);
        for (size_t i = 0; t->bytes > 1 && i < n; i++)
            memcpy(p + i * (size_t)t->bytes, &value, (size_t)t->bytes); // the low bytes come first
    }
}

/* Mask planes of entry e; *bits NULL: nothing is masked. */
static nsvq_status load_mask(const tile *t, const entry *e, box block, uint32_t n_planes,
                             uint8_t **bits, nsvq_error *err)
{
    const header *h = &t->j->d->f->h;
    uint32_t width = block.x1 - block.x0, height = block.y1 - block.y0;

    *bits = NULL;
    if (e->mask_damaged)
        return block_error(err, NSVQ_E_CORRUPT, e, h, "mask layer: checksum differs");
    if (!e->mask) return NSVQ_OK;
    *bits = reserve(&t->s->mask, mask_stride(width) * height * n_planes);
    int rc = *bits ? mask_decode(*bits, n_planes, width, height, e->mask, e->mask_bytes) : -2;
    if (rc == -2) return block_error(err, NSVQ_E_NOMEM, e, h, "no memory");
    if (rc) return block_error(err, NSVQ_E_CORRUPT, e, h, "mask layer: not a valid stream");
    return NSVQ_OK;
}

/* Does `put` for each of the tile's own blocks. */
typedef nsvq_status put_block(tile *t, const entry *e, box block, box in, nsvq_error *err);

static nsvq_status each_block(tile *t, const blocks *b, put_block *put, nsvq_error *err)
{
    const header *h = &t->j->d->f->h;
    box own = cells_of(t->at, BLOCK);
    size_t columns = b->at.x1 - b->at.x0;
    nsvq_status st = NSVQ_OK;

    for (uint32_t by = own.y0; by < own.y1 && st == NSVQ_OK; by++)
        for (uint32_t bx = own.x0; bx < own.x1 && st == NSVQ_OK; bx++) {
            box block = block_pixels(h, t->j->w->level, bx, by);
            const entry *e = b->entry[(by - b->at.y0) * columns + (bx - b->at.x0)];
            st = put(t, e, block, intersect(block, t->at), err);
        }
    return st;
}

static nsvq_status put_lossy(tile *t, const entry *e, box block, box in, nsvq_error *err)
{
    const header *h = &t->j->d->f->h;
    const group *g = &h->groups[t->g];
    uint8_t *bits;

    if (!e || !e->size) {
        if (g->has_nodata) put_all(t, in, g->nodata);
        return NSVQ_OK;
    }
    if (e->exact_damaged) return block_error(err, NSVQ_E_CORRUPT, e, h, "exact layer: damaged");
    nsvq_status st = load_mask(t, e, block, g->n_bands, &bits, err);
    if (st == NSVQ_OK && has_range(g))
        put_wide(t, g, e, block, in, bits);
    else if (st == NSVQ_OK && g->has_nodata)
        put_nodata(t, g, block, in, bits);
    return st;
}

static uint32_t requested(const nsvq_window *w, uint32_t i)
{
    return w->bands ? w->bands[i] : i;
}

/* Where the caller wants band i of the request at (x, y). */
static uint8_t *wanted_at(const nsvq_window *w, uint32_t i, uint32_t x, uint32_t y)
{
    return (uint8_t *)w->pixels + (ptrdiff_t)i * w->band_stride + (ptrdiff_t)(y - w->y) * w->row_stride +
           (ptrdiff_t)(x - w->x) * w->pixel_stride;
}

/* n samples, `step` bytes apart, to where they are `to_step` apart. */
static void copy_samples(uint8_t *to, ptrdiff_t to_step, const uint8_t *from, ptrdiff_t step, uint32_t n,
                         size_t bytes)
{
    if (to_step == (ptrdiff_t)bytes && step == (ptrdiff_t)bytes) {
        memcpy(to, from, n * bytes);
        return;
    }
    switch (bytes) {
    case 1:
        for (; n > 0; n--, to += to_step, from += step) *to = *from;
        break;
    case 2:
        for (; n > 0; n--, to += to_step, from += step) memcpy(to, from, 2);
        break;
    case 4:
        for (; n > 0; n--, to += to_step, from += step) memcpy(to, from, 4);
        break;
    case 8:
        for (; n > 0; n--, to += to_step, from += step) memcpy(to, from, 8);
        break;
    }
}

/* Samples of an exact block go straight to the caller's pixels. */
static nsvq_status put_exact(tile *t, const entry *e, box block, box in, nsvq_error *err)
{
    const nsvq_window *w = t->j->w;
    const group *g = &t->j->d->f->h.groups[t->g];
    size_t bytes = group_bytes(g), row = (block.x1 - block.x0) * bytes, plane = row * (block.y1 - block.y0);

    for (uint32_t i = 0; i < w->n_bands; i++) {
        size_t band = requested(w, i) - g->first_band;
        if (band >= g->n_bands) continue;
        for (size_t part = 0; part <= g->complex; part++) {
            size_t p = (band << g->complex) + part;
            for (uint32_t y = in.y0; y < in.y1; y++) {
                const uint8_t *from = (const uint8_t *)&g->nodata; // its low bytes come first
                if (e->pixels) from = e->pixels + p * plane + (y - block.y0) * row + (in.x0 - block.x0) * bytes;
                copy_samples(wanted_at(w, i, in.x0, y) + part * bytes, w->pixel_stride, from,
                             e->pixels ? (ptrdiff_t)bytes : 0, in.x1 - in.x0, bytes);
            }
        }
    }
    return NSVQ_OK;
}

static nsvq_status put_mask(tile *t, const entry *e, box block, box in, nsvq_error *err)
{
    uint8_t *bits;
    nsvq_status st = load_mask(t, e, block, 1, &bits, err);

    if (st != NSVQ_OK) return st;
    put_all(t, in, e->size ? 255 : 0);
    for (uint32_t y = in.y0; bits && y < in.y1; y++) {
        const uint8_t *row = bits + (y - block.y0) * mask_stride(block.x1 - block.x0);
        uint8_t *p = sample(t, in.x0, y);
        for (uint32_t x = in.x0; x < in.x1; x++)
            if (mask_get(row, x - block.x0)) p[x - in.x0] = 0;
    }
    return NSVQ_OK;
}

/* Samples of a tile without networks: one channel. */
static nsvq_status plain_room(tile *t, size_t bytes, nsvq_error *err)
{
    t->stride = (ptrdiff_t)((t->at.x1 - t->at.x0) * bytes);
    t->n_channels = 1;
    t->bytes = (int)bytes;
    t->samples = reserve(&t->s->samples, (size_t)t->stride * (t->at.y1 - t->at.y0));
    return t->samples ? NSVQ_OK : fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
}

/* The latents that the tile's pixels depend on, if they are all stored. */
static box latents_around(const tile *t)
{
    return grown(cells_of(t->at, t->j->d->f->model->desc.stride), halo_of(t), level_latents(t));
}

/* Room for the tile's blocks, and in b->number the n entries that it depends on. */
static nsvq_status tile_needs(tile *t, blocks *b, size_t *n, nsvq_error *err)
{
    const header *h = &t->j->d->f->h;
    bool lossy = is_lossy(&h->groups[t->g]);
    box at = lossy ? cells_of(latents_around(t), BLOCK / t->j->d->f->model->desc.stride) : cells_of(t->at, BLOCK);
    nsvq_status st = blocks_room(b, t->s, at, err);

    if (st != NSVQ_OK) return st;
    if (lossy) return find_needed(t, b, halo_of(t), n, err);
    *n = 0;
    for (cell c = {.level = t->j->w->level, .g = t->g, .by = at.y0}; c.by < at.y1; c.by++)
        for (c.bx = at.x0; c.bx < at.x1; c.bx++) b->number[(*n)++] = index_entry(h, c);
    return NSVQ_OK;
}

static nsvq_status plain_tile(tile *t, nsvq_error *err)
{
    nsvq_file *f = t->j->d->f;
    bool is_mask = f->h.groups[t->g].coding == CODING_MASK;
    blocks b;
    size_t n;
    nsvq_status st = is_mask ? plain_room(t, 1, err) : NSVQ_OK;

    if (st == NSVQ_OK) st = tile_needs(t, &b, &n, err);
    if (st == NSVQ_OK) st = blocks_get(&b, f, t->s, &t->j->bytes, n, err);
    if (st != NSVQ_OK) return st;
    st = each_block(t, &b, is_mask ? put_mask : put_exact, err);
    blocks_release(&b, f);
    return st;
}

static nsvq_status lossy_tile(tile *t, nsvq_error *err)
{
    nsvq_file *f = t->j->d->f;
    const group *g = &f->h.groups[t->g];
    size_t n;
    blocks b;
    nsvq_status st = tile_needs(t, &b, &n, err);

    if (st != NSVQ_OK) return st;
    if (!n) {
        if ((st = plain_room(t, group_bytes(g), err)) != NSVQ_OK) return st;
        put_all(t, t->at, g->nodata);
        return NSVQ_OK;
    }
    if ((st = blocks_get(&b, f, t->s, &t->j->bytes, n, err)) != NSVQ_OK) return st;
    spread(&b, &f->h, n);
    st = synthesise(t, &b, latents_around(t), err);
    if (st == NSVQ_OK && g->coding == NSVQ_CODING_LOSSY1 && t->n_channels == 3) make_grey(t);
    if (st == NSVQ_OK) st = each_block(t, &b, put_lossy, err);
    blocks_release(&b, f);
    return st;
}

/* ---- the caller's pixels ---- */

/* One band of the request. channel: of the tile's samples. */
static void put_band(const tile *t, uint32_t i, int channel)
{
    const nsvq_window *w = t->j->w;

    for (uint32_t y = t->at.y0; y < t->at.y1; y++)
        copy_samples(wanted_at(w, i, t->at.x0, y), w->pixel_stride, sample(t, t->at.x0, y) + channel * t->bytes,
                     t->n_channels * t->bytes, t->at.x1 - t->at.x0, (size_t)t->bytes);
}

static void put_samples(const tile *t)
{
    const group *g = &t->j->d->f->h.groups[t->g];

    if (t->j->mask && !t->j->d->f->h.band_masks) {
        put_band(t, 0, 0);
        return;
    }
    for (uint32_t i = 0; (is_lossy(g) || t->j->mask) && i < t->j->w->n_bands; i++) {
        uint32_t channel = requested(t->j->w, i) - g->first_band;
        if (channel < (t->j->mask ? 1 : g->n_bands)) put_band(t, i, t->n_channels == 1 ? 0 : (int)channel);
    }
}

/* ---- the window ---- */

/* Tiles go down in strips of STRIP columns. */
static box tile_box(const job *j, size_t i)
{
    size_t columns = j->tiles.x1 - j->tiles.x0, rows = j->tiles.y1 - j->tiles.y0;
    size_t strip = i / (STRIP * rows), rest = i % (STRIP * rows);
    size_t width = columns - strip * STRIP < STRIP ? columns - strip * STRIP : STRIP;
    uint32_t x = j->tiles.x0 + (uint32_t)(strip * STRIP + rest % width);
    uint32_t y = j->tiles.y0 + (uint32_t)(rest / width);

    return intersect(scaled((box){x, y, x + 1, y + 1}, j->tile), j->window);
}

static nsvq_status do_tile(tile *t, nsvq_error *err)
{
    bool lossy = is_lossy(&t->j->d->f->h.groups[t->g]);
    nsvq_status st = lossy ? lossy_tile(t, err) : plain_tile(t, err);

    if (st == NSVQ_OK) put_samples(t);
    return st;
}

/* Nodata, or 0, in the tile's part of the caller's pixels. */
static void fill_tile(const tile *t)
{
    const nsvq_window *w = t->j->w;
    const header *h = &t->j->d->f->h;
    const group *g = &h->groups[t->g];
    bool dataset_mask = t->j->mask && !h->band_masks;
    size_t bytes = t->j->mask ? 1 : group_bytes(g);

    for (uint32_t i = 0; i < w->n_bands || (dataset_mask && !i); i++) {
        uint32_t band = dataset_mask ? 0 : requested(w, i) - g->first_band;
        if (band >= (t->j->mask ? 1 : g->n_bands)) continue;
        for (size_t part = 0; part <= g->complex; part++)
            for (uint32_t y = t->at.y0; y < t->at.y1; y++)
                copy_samples(wanted_at(w, i, t->at.x0, y) + part * bytes, w->pixel_stride,
                             (const uint8_t *)&g->nodata, 0, t->at.x1 - t->at.x0, bytes);
    }
}

static bool is_damage(nsvq_status st)
{
    return st == NSVQ_E_CORRUPT || st == NSVQ_E_IO;
}

/* What can be read of a tile that failed so, in ever smaller pieces; the rest is filled. */
static nsvq_status salvage(tile t, nsvq_status st, const nsvq_error *why)
{
    job *j = t.j;
    uint32_t unit = st == NSVQ_E_IO || !is_lossy(&j->d->f->h.groups[t.g]) ? BLOCK : PIECE;
    box all = t.at, cells = cells_of(all, unit);
    nsvq_error err;

    if (cells.x1 - cells.x0 == 1 && cells.y1 - cells.y0 == 1) {
        fill_tile(&t);
        pthread_mutex_lock(&j->lock);
        if (!(*j->w->filled)++) j->error = *why;
        pthread_mutex_unlock(&j->lock);
        return NSVQ_OK;
    }
    uint32_t x = (cells.x0 + cells.x1 + 1) / 2, y = (cells.y0 + cells.y1 + 1) / 2;
    for (int i = 0; i < 4; i++) {
        box quarter = {i & 1 ? x : cells.x0, i & 2 ? y : cells.y0, i & 1 ? cells.x1 : x, i & 2 ? cells.y1 : y};
        if (quarter.x0 == quarter.x1 || quarter.y0 == quarter.y1) continue;
        t.at = intersect(scaled(quarter, unit), all);
        nsvq_status one = do_tile(&t, &err);
        if (is_damage(one)) one = salvage(t, one, &err);
        if (one != NSVQ_OK) return one;
    }
    return NSVQ_OK;
}

static tile tile_of(job *j, int thread, size_t item)
{
    return (tile){.j = j, .s = &j->d->slots[thread], .at = tile_box(j, item / j->n_groups),
                  .g = j->groups[item % j->n_groups]};
}

static int run_task(void *user, int thread, size_t i)
{
    job *j = user;
    size_t item = j->first + i;
    nsvq_error err = {NO_OFFSET, ""};
    tile t = tile_of(j, thread, item);
    nsvq_status st = NSVQ_OK;

    assert(t.at.x0 < t.at.x1 && t.at.y0 < t.at.y1);
    if (!t.s->scratch && !(t.s->scratch = nsvq_scratch_create()))
        st = fail(&err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    if (st == NSVQ_OK) st = do_tile(&t, &err);
    if (is_damage(st) && j->w->filled) st = salvage(t, st, &err);
    if (st == NSVQ_OK) return 0;
    pthread_mutex_lock(&j->lock);
    if (item < j->failed_item) {
        j->failed_item = item;
        j->status = st;
        j->error = err;
    }
    pthread_mutex_unlock(&j->lock);
    return 1;
}

/* Reads the blocks of some tiles from j->first on, and sets j->last behind them. What fails here fails
 * again, and is told, where it is needed. */
static void fetch_tiles(job *j, size_t n)
{
    nsvq_file *f = j->d->f;
    uint64_t offset, bytes = 0;
    uint32_t size;
    size_t k;
    blocks b;

    for (j->last = j->first; j->last < n && bytes < FETCH; j->last++) {
        tile t = tile_of(j, 0, j->last);
        if (tile_needs(&t, &b, &k, NULL) != NSVQ_OK) continue;
        for (size_t i = 0; i < k; i++) {
            fetch_want(&j->bytes, b.number[i]);
            if (index_locate(f, b.number[i], &offset, &size, NULL) == NSVQ_OK) bytes += size;
        }
    }
    fetch_all(&j->bytes, f);
}

/* The index pages of the window and one block around it, in one read. */
static void load_pages(const job *j)
{
    nsvq_file *f = j->d->f;
    const grid *v = &f->h.levels[j->w->level];
    box at = grown(cells_of(j->window, BLOCK), 1, (box){0, 0, v->blocks_x, v->blocks_y});

    index_load(f, index_entry(&f->h, (cell){j->w->level, at.x0, at.y0, 0}),
               index_entry(&f->h, (cell){j->w->level, at.x1 - 1, at.y1 - 1, f->h.n_groups - 1}));
}

static nsvq_status run_job(job *j, nsvq_error *err)
{
    const nsvq_window *w = j->w;

    j->window = (box){w->x, w->y, w->x + w->w, w->y + w->h};
    j->tile = TILE;
    j->tiles = cells_of(j->window, j->tile);
    size_t n = (size_t)(j->tiles.x1 - j->tiles.x0) * (j->tiles.y1 - j->tiles.y0);
    if (n * j->n_groups < (size_t)j->d->n_threads) {
        j->tile = BLOCK;
        j->tiles = cells_of(j->window, j->tile);
        n = (size_t)(j->tiles.x1 - j->tiles.x0) * (j->tiles.y1 - j->tiles.y0);
    }
    j->failed_item = SIZE_MAX;
    j->status = NSVQ_OK;
    if (w->filled) *w->filled = 0;
    if (pthread_mutex_init(&j->lock, NULL)) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    load_pages(j);
    for (j->first = 0; j->first < n * j->n_groups && j->status == NSVQ_OK; j->first = j->last) {
        fetch_tiles(j, n * j->n_groups);
        pool_run(j->d->n_threads, j->last - j->first, run_task, j);
    }
    fetch_free(&j->bytes);
    pthread_mutex_destroy(&j->lock);
    if ((j->status != NSVQ_OK || (w->filled && *w->filled)) && err) *err = j->error;
    return j->status;
}

static nsvq_status check_window(const nsvq_decoder *d, nsvq_window *w, const nsvq_window *from,
                                nsvq_error *err)
{
    nsvq_status st;

    if (!d || !from) return fail(err, NSVQ_E_ARG, NO_OFFSET, "no decoder or window");
    if ((st = copy_options(w, sizeof *w, from, "nsvq_window", err)) != NSVQ_OK) return st;
    const header *h = &d->f->h;
    const grid *v = &h->levels[w->level < h->n_levels ? w->level : 0];
    if (w->level >= h->n_levels || !w->w || !w->h || w->x >= v->width || w->y >= v->height ||
        w->w > v->width - w->x || w->h > v->height - w->y || !w->pixels)
        return fail(err, NSVQ_E_ARG, NO_OFFSET, "no window (%u, %u) %u x %u at level %u", w->x, w->y,
                    w->w, w->h, w->level);
    return NSVQ_OK;
}

static nsvq_status read_groups(job *j, nsvq_error *err)
{
    const nsvq_window *w = j->w;
    const header *h = &j->d->f->h;

    for (uint32_t i = 0; i < w->n_bands; i++)
        if (requested(w, i) >= h->n_bands)
            return fail(err, NSVQ_E_ARG, NO_OFFSET, "no band %u", requested(w, i));
    uint32_t *groups = malloc(h->n_groups * sizeof *groups);
    if (!groups) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    for (uint32_t g = 0; g < h->n_groups; g++) {
        bool is_mask = h->groups[g].coding == CODING_MASK;
        uint32_t i = 0, n = is_mask ? 1 : h->groups[g].n_bands;
        if (is_mask != j->mask) continue;
        while (i < w->n_bands && requested(w, i) - h->groups[g].first_band >= n) i++;
        if (i < w->n_bands || (is_mask && !h->band_masks)) groups[j->n_groups++] = g;
    }
    j->groups = groups;
    nsvq_status st = j->n_groups ? run_job(j, err) : NSVQ_OK;
    free(groups);
    return st;
}

nsvq_status nsvq_read(nsvq_decoder *d, const nsvq_window *window, nsvq_error *err)
{
    nsvq_window w;
    job j = {.d = d, .w = &w};
    nsvq_status st = check_window(d, &w, window, err);

    return st == NSVQ_OK ? read_groups(&j, err) : st;
}

nsvq_status nsvq_read_mask(nsvq_decoder *d, const nsvq_window *window, nsvq_error *err)
{
    nsvq_window w;
    job j = {.d = d, .w = &w, .mask = true};
    nsvq_status st = check_window(d, &w, window, err);

    if (st != NSVQ_OK) return st;
    if (!d->f->h.band_masks) w.n_bands = 0;
    if (d->f->h.n_masks) return read_groups(&j, err);
    for (uint32_t y = 0; y < w.h; y++)
        for (uint32_t x = 0; x < w.w; x++)
            ((uint8_t *)w.pixels)[(ptrdiff_t)y * w.row_stride + (ptrdiff_t)x * w.pixel_stride] = 255;
    return NSVQ_OK;
}
