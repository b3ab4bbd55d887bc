/* encode_block.c - pixels of a block of one group -> its bytes. May include: encode.h. */
#include "encode.h"

bool slot_create(const encoder *e, slot *s, size_t exact)
{
    s->bits = malloc(3 * mask_stride(BLOCK) * BLOCK);
    s->planes = malloc(exact > 0 ? exact : 1);
    s->scratch = nsvq_scratch_create();
    if (!s->bits || !s->planes || !s->scratch) return false;
    if (!e->model) return true;
    const nsvq_model_desc *m = &e->model->desc;
    size_t side = BLOCK / m->stride, window = BLOCK + 2 * e->halo * m->stride, n = side * side;
    s->base_cap = nsvq_block_bound(e->model->engine, (int)side, (int)side);
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
    return s->window && s->known && s->y && s->y_hat && s->base;
}

void slot_free(slot *s)
{
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
    int rc = lossless_encode(&layer, s->scratch, s->planes, shape, usual, e->opt.effort);

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
    const strip *st = strip_of(e);
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
    const strip *st = strip_of(e);
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
    const strip *st = strip_of(e);
    size_t bytes = group_bytes(g), step = st->item;
    uint8_t *to = s->planes;

    for (uint32_t b = 0; b < g->n_bands; b++)
        for (int part = 0; part <= g->complex; part++)
            for (uint32_t y = 0; y < h; y++, to += w * bytes) {
                const uint8_t *p = from + (ptrdiff_t)b * st->band_stride + (ptrdiff_t)y * st->stride +
                                   (size_t)part * bytes;
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
    gather_planes(e, s, strip_at(strip_of(e), bx * BLOCK, e->by * BLOCK), shape.width, shape.height);
    size_t n = (size_t)shape.width * shape.height * shape.n_bands;
    if (nodata && !memcmp(s->planes, nodata, bytes) && !memcmp(s->planes, s->planes + bytes, (n - 1) * bytes))
        return NSVQ_OK; // not stored
    wr_le(out, PART_EXACT, 1);
    put_exact(e, out, PART_EXACT, s, &shape, nodata);
    return out->bad ? NSVQ_E_NOMEM : NSVQ_OK;
}

static nsvq_status encode_mask(encoder *e, slot *s, uint32_t bx, wr *out)
{
    const uint8_t *px = strip_at(strip_of(e), bx * BLOCK, e->by * BLOCK);
    uint32_t w, h;
    wr layer = {0};

    block_extent(&e->w.h, e->level, bx, e->by, &w, &h);
    if (find_equal(s->bits, px, strip_of(e)->stride, 1, 1, w, h, 0) == (size_t)w * h) return NSVQ_OK; // not stored
    mask_encode(&layer, s->bits, 1, w, h);
    wr_le(out, PART_MASK, 1);
    put_part(out, PART_MASK, layer.p, layer.size, true);
    out->bad |= layer.bad;
    wr_free(&layer);
    return out->bad ? NSVQ_E_NOMEM : NSVQ_OK;
}

nsvq_status encode_block(encoder *e, slot *s, uint32_t bx, wr *out)
{
    const group *g = &e->w.h.groups[e->g];

    if (is_lossy(g)) return encode_lossy(e, s, bx, out);
    return g->coding == CODING_MASK ? encode_mask(e, s, bx, out) : encode_exact(e, s, bx, out);
}
