/* window_blocks.c - which blocks a tile depends on, and getting them. May include: window.h, join.h. */
#include "window.h"

#include "join.h"

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

nsvq_status blocks_get(blocks *b, nsvq_file *f, slot *s, const fetched *v, size_t n, nsvq_error *err)
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

void blocks_spread(blocks *b, const header *h, size_t n)
{
    uint32_t columns = b->at.x1 - b->at.x0;

    for (size_t i = n; i-- > 0;) {
        entry *e = b->entry[i];
        cell c = index_cell(h, e->number);
        b->entry[i] = NULL;
        b->entry[(size_t)(c.by - b->at.y0) * columns + (c.bx - b->at.x0)] = e;
    }
}

void blocks_release(blocks *b, nsvq_file *f)
{
    size_t n = 0;

    for (size_t i = 0; i < b->n; i++)
        if (b->entry[i]) b->entry[n++] = b->entry[i];
    cache_release(&f->cache, b->entry, n);
}

box latents_around(const tile *t)
{
    return grown(cells_of(t->at, t->j->d->f->model->desc.stride), halo_of(t), level_latents(t));
}

nsvq_status tile_needs(tile *t, blocks *b, size_t *n, nsvq_error *err)
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
