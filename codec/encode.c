/* encode.c - pixels -> blocks. Goes through the rows of blocks in chunks of some blocks side by side;
 * of a chunk one group after the other: its pixels with the analysis' halo are pulled into a strip,
 * its blocks coded in parallel, then all blocks of the chunk are written in the order of the index.
 * Whatever is pulled of the full resolution is halved on the way, into the rows that wait for the
 * level below; a row of blocks there is coded as soon as its pixels and halo are complete, and so on
 * downwards. So memory does not depend on the height, and bytes not on the number of threads. */
#include "codec.h"
#include "pyramid.h"

#include <assert.h>

#define HYPER_FROM 10 /* QUALITY from which on the hyper family is the better one (data/models/README.md) */

enum { MAX_EFFORT = 9, OVERVIEWS_LESS = 10 /* driver/README.md has the figures */ };

enum { MAX_CHUNK = 64, MIN_CHUNK = 4, CHUNK_PIECES = 256 }; /* blocks; blocks times groups, about */
enum { CHUNK_BYTES = 256 << 20 }; /* of exact samples, about */

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

/* ---- strips ---- */

static strip *strip_of(encoder *e)
{
    return &e->strips[e->level > 0];
}

/* Grows the strip's memory, keeping what it holds. */
static nsvq_status strip_room(strip *s, size_t size, nsvq_error *err)
{
    if (size <= s->cap) return NSVQ_OK;
    uint8_t *p = realloc(s->px, size);
    if (!p) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    s->px = p;
    s->cap = size;
    return NSVQ_OK;
}

static nsvq_status pull_failed(const nsvq_pull *p, nsvq_error *err)
{
    return fail(err, NSVQ_E_IO, NO_OFFSET, "cannot get rows %u to %u of the raster", p->y, p->y + p->h - 1);
}

/* Rows y0 .. y1 - 1, from the caller or the pyramid, to their places in the strip. */
static nsvq_status pull(encoder *e, const strip *s, uint32_t y0, uint32_t y1, nsvq_error *err)
{
    const nsvq_raster *r = &e->r;
    const group *g = &e->w.h.groups[s->g];
    nsvq_pull p = {.x = s->x0, .y = y0, .w = s->x1 - s->x0, .h = y1 - y0, .first = g->first_band,
                   .n = g->n_bands, .pixels = s->px + (ptrdiff_t)(y0 - s->y0) * s->stride,
                   .pixel_stride = (ptrdiff_t)s->item, .row_stride = s->stride,
                   .band_stride = s->band_stride};

    bool is_mask = g->coding == CODING_MASK;
    if (is_mask) p.n = 1;
    if (e->level) {
        pyramid_get(&e->pyramid, e->level, &p, is_mask);
        return NSVQ_OK;
    }
    return (is_mask ? r->read_mask(r->user, &p) : r->read(r->user, &p)) ? pull_failed(&p, err) : NSVQ_OK;
}

/* n rows of pixels of three samples at p: a band that stands alone is copied to the other two channels, the
 * last pixel on to the end of the row. */
static void widen(uint8_t *p, uint32_t width, uint32_t n, bool grey, size_t bytes, ptrdiff_t stride)
{
    size_t item = 3 * bytes;

    for (; n > 0; n--, p += stride) {
        for (size_t x = 0; grey && x < width; x++) {
            memcpy(p + x * item + bytes, p + x * item, bytes);
            memcpy(p + x * item + 2 * bytes, p + x * item, bytes);
        }
        for (ptrdiff_t i = (ptrdiff_t)(item * width); i < stride; i++) p[i] = p[i - (ptrdiff_t)item];
    }
}

/* Floats that GDAL takes for nodata become it, so that no overview counts them. n rows of `width` samples. */
static void settle_nodata(const group *g, uint8_t *p, size_t width, uint32_t n, ptrdiff_t stride)
{
    size_t bytes = group_bytes(g);

    for (; g->has_nodata && g->type == NSVQ_TYPE_F32 && n > 0; n--, p += stride)
        for (size_t i = 0; i < width; i++)
            if (range_is_nodata(g->type, range_load(g->type, p + i * bytes), (uint32_t)g->nodata))
                range_store(g->type, p + i * bytes, (uint32_t)g->nodata);
}

/* To whole latents. */
static uint32_t round_up(const encoder *e, uint32_t v)
{
    uint32_t side = e->model->desc.stride;
    return (v + side - 1) / side * side;
}

static nsvq_status strip_lossy(encoder *e, strip next, nsvq_error *err)
{
    const header *h = &e->w.h;
    const grid *v = &h->levels[e->level];
    strip *s = strip_of(e);
    size_t bytes = group_bytes(&h->groups[e->g]);
    uint32_t margin = e->halo * e->model->desc.stride, from;

    next.x0 -= next.x0 < margin ? next.x0 : margin;
    next.y0 -= next.y0 < margin ? next.y0 : margin;
    next.x1 = v->width - next.x1 < margin ? v->width : next.x1 + margin;
    next.y1 = v->height - next.y1 < margin ? v->height : next.y1 + margin;
    next.item = 3 * bytes;
    next.band_stride = (ptrdiff_t)bytes;
    next.stride = (ptrdiff_t)(next.item * round_up(e, next.x1 - next.x0));
    nsvq_status st = strip_room(s, (size_t)next.stride * round_up(e, next.y1 - next.y0), err);
    if (st != NSVQ_OK) return st;
    next.px = s->px;
    next.cap = s->cap;
    // the rows above that the strip before holds, if it is of the same columns
    from = next.y0;
    bool same = s->g == next.g && s->level == next.level && s->x0 == next.x0 && s->x1 == next.x1;
    if (same && s->y0 <= next.y0 && s->y1 > next.y0) {
        memmove(s->px, s->px + (ptrdiff_t)(next.y0 - s->y0) * s->stride,
                (size_t)(s->y1 - next.y0) * (size_t)s->stride);
        from = s->y1;
    }
    *s = next;
    if (from < s->y1 && (st = pull(e, s, from, s->y1, err)) != NSVQ_OK) return st;
    uint8_t *rows = s->px + (ptrdiff_t)(from - s->y0) * s->stride;
    widen(rows, s->x1 - s->x0, s->y1 - from, h->groups[s->g].n_bands == 1, bytes, s->stride);
    if (!e->level) settle_nodata(&h->groups[s->g], rows, (size_t)s->stride / bytes, s->y1 - from, s->stride);
    for (uint32_t y = s->y1 - s->y0; y < round_up(e, s->y1 - s->y0); y++)
        memcpy(s->px + (ptrdiff_t)y * s->stride, s->px + ((ptrdiff_t)y - 1) * s->stride, (size_t)s->stride);
    return NSVQ_OK;
}

static nsvq_status strip_load(encoder *e, nsvq_error *err)
{
    const header *h = &e->w.h;
    uint32_t w, height;

    block_extent(h, e->level, e->bx0 + e->n - 1, e->by, &w, &height);
    strip next = {.level = e->level, .g = e->g, .x0 = e->bx0 * BLOCK, .y0 = e->by * BLOCK,
                  .x1 = (e->bx0 + e->n - 1) * BLOCK + w, .y1 = e->by * BLOCK + height};
    const group *g = &h->groups[e->g];
    if (is_lossy(g)) return strip_lossy(e, next, err);
    next.item = g->coding == CODING_MASK ? 1 : group_bytes(g) << g->complex;
    next.stride = (ptrdiff_t)((next.x1 - next.x0) * next.item);
    next.band_stride = next.stride * (ptrdiff_t)height;
    size_t n = g->coding == CODING_MASK ? 1 : g->n_bands;
    strip *s = strip_of(e);
    nsvq_status st = strip_room(s, n * (size_t)next.band_stride, err);
    if (st != NSVQ_OK) return st;
    next.px = s->px;
    next.cap = s->cap;
    *s = next;
    return pull(e, s, next.y0, next.y1, err);
}

static const uint8_t *strip_at(const strip *s, uint32_t x, uint32_t y)
{
    return s->px + (ptrdiff_t)(y - s->y0) * s->stride + (ptrdiff_t)((x - s->x0) * s->item);
}

/* ---- blocks ---- */

static void put_part(wr *out, uint8_t flags, const uint8_t *bytes, size_t n, bool last)
{
    if (!last) wr_varint(out, n);
    wr_le(out, checksum(checksum(0, &flags, 1), bytes, n), 4);
    wr_bytes(out, bytes, n);
}

/* One bit per pixel whose byte, of `step` ones, equals `value`: planes of the first n_planes of them. Returns
 * how many bits are set. */
static size_t find_equal(uint8_t *bits, const uint8_t *px, ptrdiff_t stride, int step, int n_planes,
                         uint32_t w, uint32_t h, uint8_t value)
{
    size_t n = 0;

    memset(bits, 0, mask_stride(w) * h * (size_t)n_planes);
    for (int c = 0; c < n_planes; c++)
        for (uint32_t y = 0; y < h; y++, bits += mask_stride(w))
            for (uint32_t x = 0; x < w; x++) {
                if (px[(ptrdiff_t)y * stride + (ptrdiff_t)x * step + c] != value) continue;
                bits[x >> 3] |= (uint8_t)(0x80 >> (x & 7));
                n++;
            }
    return n;
}

/* A sample that is within the ranges of all bands, if there is one. */
static uint32_t common_sample(const group *g)
{
    range best = g->range[0];

    for (uint32_t b = 1; b < g->n_bands; b++)
        if (range_value(g->type, g->range[b].low) > range_value(g->type, best.low)) best = g->range[b];
    return best.low;
}

/* What the base layer of a block cannot tell, of samples with a range: nodata to s->bits, what is outside
 * to s->planes, where others are a sample that is inside. Returns how many of each. */
static size_t find_special(const group *g, slot *s, const uint8_t *px, ptrdiff_t stride, uint32_t w, uint32_t h,
                           size_t *n_outside)
{
    size_t bytes = group_bytes(g), n = 0;
    uint32_t common = common_sample(g);
    uint8_t *to = s->planes, *row = s->bits;

    *n_outside = 0;
    memset(row, 0, mask_stride(w) * h * g->n_bands);
    for (uint32_t b = 0; b < g->n_bands; b++) {
        uint32_t inside = range_holds(g->type, g->range[b], common) ? common : g->range[b].low;
        for (uint32_t y = 0; y < h; y++, row += mask_stride(w))
            for (uint32_t x = 0; x < w; x++, to += bytes) {
                uint32_t bits = range_load(g->type, px + (ptrdiff_t)y * stride + (3 * x + b) * bytes);
                bool nodata = is_nodata(g, bits);
                bool outside = !nodata && !range_holds(g->type, g->range[b], bits);
                if (nodata) row[x >> 3] |= (uint8_t)(0x80 >> (x & 7));
                range_store(g->type, to, outside ? bits : inside);
                n += nodata;
                *n_outside += outside;
            }
    }
    return n;
}

/* The slot's planes as an exact layer, the last part of a block. */
static void put_exact(const encoder *e, wr *out, uint8_t flags, const slot *s, const lossless_shape *shape,
                      const void *usual)
{
    wr layer = {0};
    int rc = lossless_encode(&layer, s->planes, shape, usual, e->opt.effort);

    put_part(out, flags, layer.p, layer.size, true);
    out->bad |= layer.bad || rc;
    wr_free(&layer);
}

/* The window of a block with halo: where it lies in the strip, its size in latents, and the block
 * within it. Filled pixels stand in the slot's memory. */
typedef struct view {
    const uint8_t *px;
    ptrdiff_t stride;
    int ww, wh;
    nsvq_rect want;
} view;

/* n samples, three a pixel, as levels; known: 0 where the base layer says nothing of a sample. */
static void to_levels(const group *g, uint8_t *level, uint8_t *known, const uint8_t *px, size_t n)
{
    size_t bytes = group_bytes(g);

    for (size_t i = 0; i < n; i++, px += bytes) {
        if (!has_range(g)) {
            level[i] = *px;
            known[i] = *px != (uint8_t)g->nodata;
            continue;
        }
        range r = g->range[g->n_bands == 1 ? 0 : i % 3];
        uint32_t bits = range_load(g->type, px);
        known[i] = range_holds(g->type, r, bits) && !is_nodata(g, bits);
        level[i] = known[i] ? range_level(g->type, r, bits) : 0;
    }
}

static int view_of(const encoder *e, slot *s, uint32_t bx, view *v)
{
    const strip *st = &e->strips[e->level > 0];
    const group *g = &e->w.h.groups[e->g];
    uint32_t side = e->model->desc.stride, margin = e->halo * side, w, h, x = bx * BLOCK, y = e->by * BLOCK;

    block_extent(&e->w.h, e->level, bx, e->by, &w, &h);
    uint32_t x0 = x - st->x0 < margin ? st->x0 : x - margin, x1 = x + round_up(e, w) + margin;
    uint32_t y0 = y - st->y0 < margin ? st->y0 : y - margin, y1 = y + round_up(e, h) + margin;
    if (x1 > round_up(e, st->x1)) x1 = round_up(e, st->x1);
    if (y1 > round_up(e, st->y1)) y1 = round_up(e, st->y1);
    *v = (view){strip_at(st, x0, y0), st->stride, (int)((x1 - x0) / side), (int)((y1 - y0) / side),
                {(int)((x - x0) / side), (int)((y - y0) / side), (int)(round_up(e, w) / side),
                 (int)(round_up(e, h) / side)}};
    if (!g->has_nodata && !has_range(g)) return 0;
    size_t n = 3 * (size_t)(x1 - x0);
    for (uint32_t i = 0; i < y1 - y0; i++)
        to_levels(g, s->window + i * n, s->known + i * n, v->px + (ptrdiff_t)i * v->stride, n);
    v->px = s->window;
    v->stride = (ptrdiff_t)n;
    return fill_unknown(s->window, s->known, (int)(x1 - x0), (int)(y1 - y0));
}

/* y, of one latent, towards what would have given `alone` and gave `again`; later rounds go half the way. */
static void correct(int16_t *y, const int16_t *y_hat, const int16_t *alone, const int16_t *again, int n, bool half)
{
    for (int i = 0; i < n; i++) {
        int target = y_hat[i] + alone[i] - again[i];
        int v = half ? y[i] + (target - y[i]) / 2 : target;
        y[i] = nsvq_clamp_latent(v);
    }
}

/* What analysis and choice of residuals have lost together, seen through the analysis: the block is
 * synthesised and analysed again, and what its latents are off goes into the next choice. Within the block
 * alone, as if its edges were the picture's. The decoder does not know. */
static int refine(const encoder *e, slot *s, const view *v, size_t *size)
{
    static const uint8_t rounds[MAX_EFFORT] = {0, 1, 1, 2, 2, 3, 4, 6, 8};
    const nsvq_engine *engine = e->model->engine;
    int n_latent = e->model->desc.latent, n_channels = nsvq_engine_channels(engine), n = rounds[e->opt.effort - 1];
    ptrdiff_t side = e->model->desc.stride, stride = 3 * side * v->want.w;
    const uint8_t *px = v->px + side * v->want.y * v->stride + side * 3 * v->want.x;
    nsvq_rect all = {0, 0, v->want.w, v->want.h};

    if (e->model->desc.family != NSVQ_FAMILY_HYPER || !n) return 0;
    if (nsvq_engine_analyse(engine, s->scratch, px, v->stride, all.w, all.h, all, s->alone)) return -1;
    for (int round = 0; round < n; round++) {
        if (nsvq_engine_synthesise(engine, s->scratch, s->y_hat, all.w, all.h, all, s->rgb, stride) ||
            nsvq_engine_analyse(engine, s->scratch, s->rgb, stride, all.w, all.h, all, s->again))
            return -1;
        for (int at = 0; at < all.w * all.h; at++)
            correct(s->y + at * n_latent, s->y_hat + at * n_channels, s->alone + at * n_latent,
                    s->again + at * n_latent, n_latent, round > 0);
        if (nsvq_block_encode(engine, s->scratch, s->y, all.w, all.h, e->quality16[e->level > 0], s->base,
                              s->base_cap, size, s->y_hat))
            return -1;
    }
    return 0;
}

static nsvq_status encode_lossy(encoder *e, slot *s, uint32_t bx, wr *out)
{
    const group *g = &e->w.h.groups[e->g];
    const nsvq_engine *engine = e->model->engine;
    uint8_t flags = PART_BASE;
    uint32_t w, h;
    size_t size;
    view v;
    const strip *st = &e->strips[e->level > 0];
    const uint8_t *px = strip_at(st, bx * BLOCK, e->by * BLOCK);
    size_t n_nodata = 0, n_outside = 0;

    block_extent(&e->w.h, e->level, bx, e->by, &w, &h);
    if (has_range(g))
        n_nodata = find_special(g, s, px, st->stride, w, h, &n_outside);
    else if (g->has_nodata)
        n_nodata = find_equal(s->bits, px, st->stride, 3, (int)g->n_bands, w, h, (uint8_t)g->nodata);
    if (n_nodata == (size_t)w * h * g->n_bands) return NSVQ_OK; // not stored
    if (n_nodata) flags |= PART_MASK;
    if (n_outside) flags |= PART_EXACT;
    if (view_of(e, s, bx, &v)) return NSVQ_E_NOMEM;
    if (nsvq_engine_analyse(engine, s->scratch, v.px, v.stride, v.ww, v.wh, v.want, s->y) ||
        nsvq_block_encode(engine, s->scratch, s->y, v.want.w, v.want.h, e->quality16[e->level > 0],
                          s->base, s->base_cap, &size, s->y_hat) ||
        refine(e, s, &v, &size))
        return NSVQ_E_NOMEM;
    wr_le(out, flags, 1);
    if (flags & PART_MASK) {
        wr mask = {0};
        mask_encode(&mask, s->bits, g->n_bands, w, h);
        put_part(out, flags, mask.p, mask.size, false);
        out->bad |= mask.bad;
        wr_free(&mask);
    }
    put_part(out, flags, s->base, size, !n_outside);
    if (n_outside) {
        lossless_shape shape = {(nsvq_type)g->type, g->n_bands, w, h};
        uint64_t usual = common_sample(g); // the low bytes come first
        put_exact(e, out, flags, s, &shape, &usual);
    }
    return out->bad ? NSVQ_E_NOMEM : NSVQ_OK;
}

/* Samples of a block to the slot's planes. */
static void gather_planes(const encoder *e, slot *s, const uint8_t *from, uint32_t w, uint32_t h)
{
    const group *g = &e->w.h.groups[e->g];
    size_t bytes = group_bytes(g), step = e->strips[e->level > 0].item;
    uint8_t *to = s->planes;

    for (uint32_t b = 0; b < g->n_bands; b++)
        for (int part = 0; part <= g->complex; part++)
            for (uint32_t y = 0; y < h; y++, to += w * bytes) {
                const uint8_t *p = from + (ptrdiff_t)b * e->strips[e->level > 0].band_stride +
                                   (ptrdiff_t)y * e->strips[e->level > 0].stride + (size_t)part * bytes;
                if (step == bytes) memcpy(to, p, w * bytes);
                for (uint32_t x = 0; step != bytes && x < w; x++) memcpy(to + x * bytes, p + x * step, bytes);
            }
}

static nsvq_status encode_exact(encoder *e, slot *s, uint32_t bx, wr *out)
{
    const group *g = &e->w.h.groups[e->g];
    lossless_shape shape = {.type = (nsvq_type)g->type, .n_bands = group_planes(g)};
    const void *nodata = g->has_nodata ? &g->nodata : NULL; // the low bytes come first
    size_t bytes = group_bytes(g);

    block_extent(&e->w.h, e->level, bx, e->by, &shape.width, &shape.height);
    gather_planes(e, s, strip_at(&e->strips[e->level > 0], bx * BLOCK, e->by * BLOCK), shape.width, shape.height);
    size_t n = (size_t)shape.width * shape.height * shape.n_bands;
    if (nodata && !memcmp(s->planes, nodata, bytes) && !memcmp(s->planes, s->planes + bytes, (n - 1) * bytes))
        return NSVQ_OK; // not stored
    wr_le(out, PART_EXACT, 1);
    put_exact(e, out, PART_EXACT, s, &shape, nodata);
    return out->bad ? NSVQ_E_NOMEM : NSVQ_OK;
}

static nsvq_status encode_mask(encoder *e, slot *s, uint32_t bx, wr *out)
{
    const uint8_t *px = strip_at(&e->strips[e->level > 0], bx * BLOCK, e->by * BLOCK);
    uint32_t w, h;
    wr layer = {0};

    block_extent(&e->w.h, e->level, bx, e->by, &w, &h);
    if (find_equal(s->bits, px, e->strips[e->level > 0].stride, 1, 1, w, h, 0) == (size_t)w * h) return NSVQ_OK; // not stored
    mask_encode(&layer, s->bits, 1, w, h);
    wr_le(out, PART_MASK, 1);
    put_part(out, PART_MASK, layer.p, layer.size, true);
    out->bad |= layer.bad;
    wr_free(&layer);
    return out->bad ? NSVQ_E_NOMEM : NSVQ_OK;
}

static bool go_on(encoder *e)
{
    double total = 0, done = (double)atomic_load(&e->done);

    for (uint32_t l = 0; l < e->w.h.n_levels; l++) total += (double)e->w.h.levels[l].n_entries;
    return !e->r.progress || e->r.progress(e->r.user, done / total);
}

static int encode_task(void *user, int thread, size_t item)
{
    encoder *e = user;
    slot *s = &e->slots[thread];
    uint32_t bx = e->bx0 + (uint32_t)item;
    wr *out = &e->pieces[item * e->w.h.n_groups + e->g];
    const group *g = &e->w.h.groups[e->g];
    nsvq_status st = is_lossy(g)               ? encode_lossy(e, s, bx, out)
                     : g->coding == CODING_MASK ? encode_mask(e, s, bx, out)
                                               : encode_exact(e, s, bx, out);

    atomic_fetch_add(&e->done, 1);
    if (st == NSVQ_OK && !thread && !go_on(e)) st = NSVQ_E_CANCELLED; // thread 0 is the caller's
    if (st != NSVQ_OK) atomic_store(&e->status, (int)st);
    return st != NSVQ_OK;
}

/* ---- halving of the chunk ---- */

/* Fills e->valid, from mask number `mask` or the alpha band, and halves it too. */
static nsvq_status load_valid(encoder *e, uint32_t mask, nsvq_error *err)
{
    const nsvq_raster *r = &e->r;
    uint32_t w, h;

    block_extent(&e->w.h, 0, e->bx0 + e->n - 1, e->by, &w, &h);
    w += (e->n - 1) * BLOCK;
    uint8_t *to = e->valid;
    nsvq_pull p = {.x = e->bx0 * BLOCK, .y = e->by * BLOCK, .w = w, .h = h, .first = mask, .n = 1, .pixels = to,
                   .pixel_stride = 1, .row_stride = w};
    if (e->w.h.n_masks) {
        if (r->read_mask(r->user, &p)) return pull_failed(&p, err);
    } else { // of a wider alpha band what is not 0
        size_t bytes = nsvq_type_bytes(type_of(&r->bands[r->alpha])), n = (size_t)w * h;
        uint8_t *wide = malloc(n * bytes);
        if (!wide) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
        p.first = r->alpha;
        p.pixels = wide;
        p.pixel_stride = (ptrdiff_t)bytes;
        p.row_stride = (ptrdiff_t)(w * bytes);
        int failed = r->read(r->user, &p);
        for (size_t i = 0; i < n; i++) {
            uint8_t any = 0;
            for (size_t k = 0; k < bytes; k++) any |= wide[i * bytes + k];
            to[i] = any ? 255 : 0;
        }
        free(wide);
        if (failed) return pull_failed(&p, err);
    }
    pyramid_put_mask(&e->pyramid, 1, mask, p.x, p.y, w, h, to, w);
    return NSVQ_OK;
}

/* The strip's own pixels, without halo, to level 1. */
static nsvq_status halve_strip(encoder *e, nsvq_error *err)
{
    const group *g = &e->w.h.groups[e->g];
    const strip *s = &e->strips[0];
    nsvq_status st = NSVQ_OK;
    uint32_t w, h;

    if (e->w.h.n_levels == 1 || g->coding == CODING_MASK) return NSVQ_OK;
    block_extent(&e->w.h, 0, e->bx0 + e->n - 1, e->by, &w, &h);
    w += (e->n - 1) * BLOCK;
    const uint8_t *px = strip_at(s, e->bx0 * BLOCK, e->by * BLOCK);
    for (uint32_t b = 0; b < g->n_bands; b++) {
        const uint8_t *valid = e->valid;
        uint32_t band = g->first_band + b;
        if (e->w.h.band_masks) st = load_valid(e, band, err);
        if (st != NSVQ_OK) return st;
        if (!e->w.h.n_masks && band == e->r.alpha) valid = NULL; // alpha itself is averaged whole
        pyramid_put(&e->pyramid, 1, band, e->bx0 * BLOCK, e->by * BLOCK, w, h, px + (ptrdiff_t)b * s->band_stride,
                    (ptrdiff_t)s->item, s->stride, valid, w);
    }
    return NSVQ_OK;
}

/* ---- chunks, rows, levels ---- */

static nsvq_status encode_chunk(encoder *e, nsvq_error *err)
{
    uint32_t n_groups = e->w.h.n_groups;
    size_t n = (size_t)e->n * n_groups;
    nsvq_status st = NSVQ_OK;

    for (size_t i = 0; i < n; i++) e->pieces[i].size = 0;
    if (!e->level && e->valid && !e->w.h.band_masks) st = load_valid(e, 0, err);
    for (e->g = 0; e->g < n_groups && st == NSVQ_OK; e->g++) {
        if ((st = strip_load(e, err)) != NSVQ_OK) return st;
        if (!e->level && (st = halve_strip(e, err)) != NSVQ_OK) return st;
        pool_run(e->opt.n_threads, e->n, encode_task, e);
        st = (nsvq_status)atomic_load(&e->status);
        if (st != NSVQ_OK) return fail(err, st, NO_OFFSET, "%s", nsvq_status_text(st));
    }
    if (st != NSVQ_OK) return st;
    e->joined.size = 0;
    for (size_t i = 0; i < n; i++) {
        e->sizes[i] = (uint32_t)e->pieces[i].size;
        wr_bytes(&e->joined, e->pieces[i].p, e->pieces[i].size);
    }
    if (e->joined.bad) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    return writer_blocks(&e->w, e->level, e->joined.p, e->sizes, n, err);
}

static nsvq_status encode_row(encoder *e, uint32_t level, uint32_t by, nsvq_error *err)
{
    uint32_t blocks_x = e->w.h.levels[level].blocks_x;

    e->level = level;
    e->by = by;
    for (e->bx0 = 0; e->bx0 < blocks_x; e->bx0 += e->n) {
        e->n = blocks_x - e->bx0 < e->chunk ? blocks_x - e->bx0 : e->chunk;
        nsvq_status st = encode_chunk(e, err);
        if (st != NSVQ_OK) return st;
        if (!go_on(e)) return fail(err, NSVQ_E_CANCELLED, NO_OFFSET, "cancelled");
    }
    return NSVQ_OK;
}

static nsvq_status encode_blocks(encoder *e, nsvq_error *err)
{
    const header *h = &e->w.h;
    nsvq_status st = NSVQ_OK;
    uint32_t by;

    for (uint32_t row = 0; row < h->levels[0].blocks_y && st == NSVQ_OK; row++) {
        st = encode_row(e, 0, row, err);
        if (st == NSVQ_OK) pyramid_advance(&e->pyramid, (uint64_t)(row + 1) * BLOCK);
        for (uint32_t l = 1; l < h->n_levels && st == NSVQ_OK; l++) {
            pyramid_halve(&e->pyramid, l);
            while (st == NSVQ_OK && pyramid_ready(&e->pyramid, l, &by)) st = encode_row(e, l, by, err);
            pyramid_drop(&e->pyramid, l);
        }
    }
    return st;
}

/* ---- memory ---- */

/* Bytes of a block of the largest group with an exact layer; *all: of all of them. */
static size_t exact_bytes(const header *h, size_t *all)
{
    size_t most = 0;

    *all = 0;
    for (uint32_t i = 0; i < h->n_groups; i++) {
        const group *g = &h->groups[i];
        bool may_have = g->coding == NSVQ_CODING_EXACT || has_range(g);
        size_t bytes = may_have ? group_planes(g) * group_bytes(g) * BLOCK * BLOCK : 0;
        most = bytes > most ? bytes : most;
        *all += bytes;
    }
    return most;
}

static bool slot_create(const encoder *e, slot *s, size_t exact)
{
    s->bits = malloc(3 * mask_stride(BLOCK) * BLOCK);
    s->planes = malloc(exact > 0 ? exact : 1);
    if (!s->bits || !s->planes) return false;
    if (!e->model) return true;
    const nsvq_model_desc *m = &e->model->desc;
    size_t side = BLOCK / m->stride, window = BLOCK + 2 * e->halo * m->stride, n = side * side;
    s->base_cap = nsvq_block_bound(e->model->engine, (int)side, (int)side);
    s->scratch = nsvq_scratch_create();
    s->window = malloc(3 * window * window);
    s->known = malloc(3 * window * window);
    s->y = malloc(n * m->latent * sizeof *s->y);
    s->y_hat = malloc(n * (size_t)nsvq_engine_channels(e->model->engine) * sizeof *s->y_hat);
    s->base = malloc(s->base_cap);
    if (m->family == NSVQ_FAMILY_HYPER && e->opt.effort > 1) {
        s->alone = malloc(n * m->latent * sizeof *s->alone);
        s->again = malloc(n * m->latent * sizeof *s->again);
        s->rgb = malloc((size_t)BLOCK * BLOCK * 3);
        if (!s->alone || !s->again || !s->rgb) return false;
    }
    return s->scratch && s->window && s->known && s->y && s->y_hat && s->base;
}

static nsvq_status encoder_room(encoder *e, nsvq_error *err)
{
    uint32_t n_groups = e->w.h.n_groups, blocks_x = e->w.h.levels[0].blocks_x;

    e->chunk = CHUNK_PIECES / n_groups;
    size_t all, exact = exact_bytes(&e->w.h, &all);
    if (all && e->chunk > CHUNK_BYTES / all) e->chunk = (uint32_t)(CHUNK_BYTES / all);
    e->chunk = e->chunk < MIN_CHUNK ? MIN_CHUNK : e->chunk > MAX_CHUNK ? MAX_CHUNK : e->chunk;
    e->chunk = e->chunk < blocks_x ? e->chunk : blocks_x;
    e->strips[0].g = e->strips[1].g = UINT32_MAX; // of no group yet
    e->pieces = calloc((size_t)e->chunk * n_groups, sizeof *e->pieces);
    e->sizes = calloc((size_t)e->chunk * n_groups, sizeof *e->sizes);
    e->slots = calloc((size_t)e->opt.n_threads, sizeof *e->slots);
    bool ok = e->pieces && e->sizes && e->slots;
    for (int i = 0; ok && i < e->opt.n_threads; i++) ok = slot_create(e, &e->slots[i], exact);
    if (e->w.h.n_levels > 1) {
        ok = ok && pyramid_create(&e->pyramid, &e->w.h, &e->r, e->model ? e->halo * e->model->desc.stride : 0);
        if (e->w.h.n_masks || e->r.has_alpha) {
            e->valid = malloc((size_t)e->chunk * BLOCK * BLOCK);
            ok = ok && e->valid;
        }
    }
    return ok ? NSVQ_OK : fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
}

static void encoder_free(encoder *e)
{
    for (int i = 0; e->slots && i < e->opt.n_threads; i++) {
        slot *s = &e->slots[i];
        nsvq_scratch_destroy(s->scratch);
        free(s->window);
        free(s->known);
        free(s->y);
        free(s->y_hat);
        free(s->alone);
        free(s->again);
        free(s->rgb);
        free(s->base);
        free(s->bits);
        free(s->planes);
    }
    for (size_t i = 0; e->pieces && i < (size_t)e->chunk * e->w.h.n_groups; i++) wr_free(&e->pieces[i]);
    free(e->slots);
    free(e->pieces);
    free(e->sizes);
    free(e->strips[0].px);
    free(e->strips[1].px);
    free(e->valid);
    pyramid_free(&e->pyramid);
    wr_free(&e->joined);
    writer_free(&e->w);
    nsvq_model_release(e->model);
    free(e->bands);
}

/* ---- before the first block ---- */

static bool range_fits(const nsvq_band *b)
{
    if (!b->has_range || is_exact(b) || type_of(b) == NSVQ_TYPE_U8) return true;
    if (type_of(b) != NSVQ_TYPE_F32 && (b->low | b->high) > UINT16_MAX) return false;
    return range_valid(type_of(b), (range){b->low, b->high});
}

static nsvq_status check_arguments(encoder *e, const nsvq_sink *sink, const nsvq_raster *raster,
                                   const nsvq_encode_options *opt, nsvq_error *err)
{
    nsvq_raster *r = &e->r;
    nsvq_encode_options *o = &e->opt;
    nsvq_status st;

    if (!sink || !sink->write_at || !raster) return fail(err, NSVQ_E_ARG, NO_OFFSET, "no sink or raster");
    if (!kernels_get()) return fail(err, NSVQ_E_ARG, NO_OFFSET, "NSVQ_CPU holds an unknown word");
    if ((st = copy_options(r, sizeof *r, raster, "nsvq_raster", err)) != NSVQ_OK) return st;
    if ((st = copy_options(o, sizeof *o, opt, "nsvq_encode_options", err)) != NSVQ_OK) return st;
    if (!r->width || !r->height || r->width > MAX_DIMENSION || r->height > MAX_DIMENSION ||
        !r->n_bands || r->n_bands > MAX_BANDS)
        return fail(err, NSVQ_E_ARG, NO_OFFSET, "%u x %u pixels, %u bands", r->width, r->height,
                    r->n_bands);
    if (r->has_mask > 2 || (r->has_alpha && r->alpha >= r->n_bands))
        return fail(err, NSVQ_E_ARG, NO_OFFSET, "has_mask %u, alpha %u", r->has_mask, r->alpha);
    if (!r->bands || !r->read || (r->has_mask && !r->read_mask) || (r->n_meta && !r->meta))
        return fail(err, NSVQ_E_ARG, NO_OFFSET, "a field of nsvq_raster is NULL");
    if (!o->quality) o->quality = 50;
    if (!o->n_threads) o->n_threads = 1;
    if (!o->effort) o->effort = 5;
    if (o->effort < 1 || o->effort > MAX_EFFORT) return fail(err, NSVQ_E_ARG, NO_OFFSET, "effort %d", o->effort);
    if (!(o->quality >= 1 && o->quality <= 100) || o->family < 0 || o->family > NSVQ_FAMILY_HYPER ||
        o->n_threads < 1 || o->embed < 0 || o->embed > 2)
        return fail(err, NSVQ_E_ARG, NO_OFFSET, "quality %g, family %d, %d threads, embed %d", o->quality,
                    o->family, o->n_threads, o->embed);
    if (o->overview_quality != 0 && !(o->overview_quality >= 1 && o->overview_quality <= 100))
        return fail(err, NSVQ_E_ARG, NO_OFFSET, "overview_quality %g", o->overview_quality);
    if (!(o->rate >= 0) || !(o->psnr >= 0) || o->rate > 1e6 || o->psnr > 1e3 || (o->rate > 0 && o->psnr > 0))
        return fail(err, NSVQ_E_ARG, NO_OFFSET, "rate %g, PSNR %g", o->rate, o->psnr);
    if (o->n_threads > MAX_THREADS) o->n_threads = MAX_THREADS;
    if (!o->max_group) o->max_group = 32;
    if (o->max_group > MAX_GROUP) return fail(err, NSVQ_E_ARG, NO_OFFSET, "groups of %u bands", o->max_group);
    for (uint32_t b = 0; b < r->n_bands; b++) {
        const nsvq_band *band = &r->bands[b];
        size_t bytes = band->type ? nsvq_type_bytes((nsvq_type)band->type) : 1;
        if (!bytes || (band->has_nodata && (band->type > NSVQ_TYPE_COMPLEX ||
                                            (bytes < 8 && band->nodata >> (8 * bytes)))) ||
            band->resampling > NSVQ_MODE || !range_fits(band))
            return fail(err, NSVQ_E_ARG, NO_OFFSET, "band %u: type %u, nodata %llx, resampling %u, range %x to %x", b,
                        band->type, (unsigned long long)band->nodata, band->resampling, band->low, band->high);
    }
    return NSVQ_OK;
}

/* Bands from `first` on that share a group: three or one lossy ones; exact ones so that the groups of
 * all that could share one are about equal. */
static uint32_t group_size(const encoder *e, uint32_t first)
{
    const nsvq_raster *r = &e->r;
    const nsvq_band *band = &r->bands[first];
    uint32_t n = 1, most = e->opt.max_group;

    while (first + n < r->n_bands && is_pair(band, band + n)) n++;
    if (!is_exact(band)) return n >= 3 && !band->alone ? 3 : 1;
    uint32_t n_groups = (n + most - 1) / most;
    return (n + n_groups - 1) / n_groups;
}

static nsvq_status plan_groups(const encoder *e, header *h, nsvq_error *err)
{
    const nsvq_raster *r = &e->r;

    h->n_masks = r->has_mask == 2 ? r->n_bands : r->has_mask;
    h->band_masks = r->has_mask == 2;
    h->groups = calloc((size_t)r->n_bands + h->n_masks, sizeof *h->groups);
    if (!h->groups) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    for (uint32_t b = 0; b < r->n_bands; b += h->groups[h->n_groups++].n_bands) {
        const nsvq_band *band = &r->bands[b];
        unsigned type = type_of(band);
        uint32_t n = group_size(e, b);
        h->groups[h->n_groups] = (group){
            .coding = is_exact(band) ? NSVQ_CODING_EXACT : n == 3 ? NSVQ_CODING_LOSSY3 : NSVQ_CODING_LOSSY1,
            .type = (uint8_t)(type & ~(unsigned)NSVQ_TYPE_COMPLEX),
            .complex = type > NSVQ_TYPE_COMPLEX,
            .has_nodata = !!band->has_nodata,
            .nodata = band->has_nodata ? band->nodata : 0,
            .n_bands = n,
            .first_band = b};
        group *g = &h->groups[h->n_groups];
        for (uint32_t i = 0; has_range(g) && i < n; i++) g->range[i] = (range){band[i].low, band[i].high};
    }
    for (uint32_t i = 0; i < h->n_masks; i++)
        h->groups[h->n_groups++] = (group){.coding = CODING_MASK, .first_band = i};
    h->n_bands = r->n_bands;
    return NSVQ_OK;
}

/* The vq family's own quality. Where it is the lower end of one scale with the hyper family, it stays below
 * what that one has from HYPER_FROM on. */
static int vq_quality(const encoder *e, double q)
{
    bool own_scale = e->opt.model || e->opt.family;

    return (int)((own_scale ? q : 5 + 3 * (q - 1)) + 0.5);
}

static nsvq_status take_model(encoder *e, header *h, nsvq_error *err)
{
    bool lossy = false;

    for (uint32_t g = 0; g < h->n_groups; g++) lossy |= is_lossy(&h->groups[g]);
    if (!lossy) return NSVQ_OK;
    if (e->opt.model) {
        e->model = model_retain(e->opt.model);
    } else {
        int better = e->opt.quality < HYPER_FROM ? NSVQ_FAMILY_VQ : NSVQ_FAMILY_HYPER;
        nsvq_status st = model_of_family(&e->model, e->opt.family ? e->opt.family : better, err);
        if (st != NSVQ_OK) return st;
    }
    const nsvq_model_desc *m = &e->model->desc;
    if (!m->has_analysis)
        return fail(err, NSVQ_E_ARG, NO_OFFSET, "model '%.31s' is a decode-only copy", m->name);
    e->halo = (uint32_t)nsvq_engine_analysis_halo(e->model->engine);
    h->quality16 = (uint16_t)(16 * e->opt.quality + 0.5);
    double overviews = e->opt.overview_quality > 0 ? e->opt.overview_quality : e->opt.quality - OVERVIEWS_LESS;
    for (int i = 0; i < 2; i++) {
        double q = !i ? e->opt.quality : overviews < 1 ? 1 : overviews;
        h->quality[i] = m->family == NSVQ_FAMILY_VQ ? (uint8_t)vq_quality(e, q) : 0;
        e->quality16[i] = h->quality[i] ? 16 * h->quality[i] : (int)(16 * q + 0.5);
    }
    h->model_id = e->model->id;
    memcpy(h->model_name, m->name, sizeof h->model_name);
    return NSVQ_OK;
}

static nsvq_status add_section(header *h, wr *payload, section s, const uint8_t *raw, nsvq_error *err)
{
    wr_deflate(&payload[h->n_sections], raw, (size_t)s.raw, s.kind == SECTION_META);
    if (payload[h->n_sections].bad) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    h->sections[h->n_sections++] = s;
    return NSVQ_OK;
}

static nsvq_status add_sections(const encoder *e, header *h, wr *payload, nsvq_error *err)
{
    nsvq_status st;

    if (e->r.n_meta) {
        wr raw = {0};
        st = meta_store(&raw, e->r.meta, e->r.n_meta, h->n_bands, err);
        section s = {.kind = SECTION_META, .mandatory = true, .raw = raw.size};
        if (st == NSVQ_OK) st = add_section(h, payload, s, raw.p, err);
        wr_free(&raw);
        if (st != NSVQ_OK) return st;
    }
    if (e->model && (e->opt.embed == 1 || (e->opt.embed == 0 && !model_is_shipped(e->model->id)))) {
        section s = {.kind = SECTION_MODEL, .behind_index = true};
        size_t size;
        uint8_t *raw = nsvq_model_store(&e->model->desc, 0, &size);
        if (!raw) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
        s.raw = size;
        st = add_section(h, payload, s, raw, err);
        free(raw);
        return st;
    }
    return NSVQ_OK;
}

static nsvq_status begin(encoder *e, const nsvq_sink *sink, nsvq_error *err)
{
    header h = {.width = e->r.width, .height = e->r.height};
    wr payload[2] = {{0}};
    nsvq_status st = plan_groups(e, &h, err);

    h.n_levels = (uint8_t)levels_of(h.width, h.height);
    if (e->opt.n_levels && e->opt.n_levels < h.n_levels) h.n_levels = (uint8_t)e->opt.n_levels;

    if (st == NSVQ_OK) st = take_model(e, &h, err);
    if (st == NSVQ_OK) st = add_sections(e, &h, payload, err);
    if (st == NSVQ_OK) st = writer_begin(&e->w, sink, &h, payload, err);
    wr_free(&payload[0]);
    wr_free(&payload[1]);
    header_free(&h);
    return st == NSVQ_OK ? encoder_room(e, err) : st;
}

static nsvq_status take_ranges(encoder *e, nsvq_error *err)
{
    e->bands = malloc(e->r.n_bands * sizeof *e->bands);
    if (!e->bands) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    memcpy(e->bands, e->r.bands, e->r.n_bands * sizeof *e->bands);
    e->r.bands = e->bands;
    return measure_ranges(&e->r, e->bands, err);
}

nsvq_status nsvq_encode(const nsvq_sink *sink, const nsvq_raster *raster,
                        const nsvq_encode_options *opt, uint64_t *bytes, nsvq_error *err)
{
    encoder e = {0};
    uint64_t size;
    nsvq_status st = check_arguments(&e, sink, raster, opt, err);

    if (bytes) *bytes = 0;
    if (st == NSVQ_OK) st = take_ranges(&e, err);
    if (st == NSVQ_OK && (e.opt.rate > 0 || e.opt.psnr > 0)) st = find_quality(&e.r, &e.opt, err);
    if (st == NSVQ_OK && (st = begin(&e, sink, err)) == NSVQ_OK) {
        st = go_on(&e) ? NSVQ_OK : fail(err, NSVQ_E_CANCELLED, NO_OFFSET, "cancelled");
        if (st == NSVQ_OK) st = encode_blocks(&e, err);
        if (st == NSVQ_OK) st = writer_end(&e.w, &size, err);
        if (st == NSVQ_OK && bytes) *bytes = size;
    }
    encoder_free(&e);
    return st;
}
