/* window_tile.c - the samples of a tile: latents with their halo through the networks, exact layers, masks, nodata,
 * and the caller's strides. May include: window.h, join.h. */
#include "window.h"

#include "join.h"

/* ---- latents ---- */

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
    blocks_spread(&b, &f->h, n);
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

nsvq_status do_tile(tile *t, nsvq_error *err)
{
    bool lossy = is_lossy(&t->j->d->f->h.groups[t->g]);
    nsvq_status st = lossy ? lossy_tile(t, err) : plain_tile(t, err);

    if (st == NSVQ_OK) put_samples(t);
    return st;
}

void fill_tile(const tile *t)
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
