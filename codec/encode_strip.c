/* encode_strip.c - pixels of a group for a chunk of blocks: what the strip before holds of them stays, the rest is
 * pulled. May include: encode.h. */
#include "encode.h"

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

nsvq_status pull_failed(const nsvq_pull *p, nsvq_error *err)
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

static nsvq_status strip_lossy(encoder *e, strip next, nsvq_error *err)
{
    const header *h = &e->w.h;
    const grid *v = &h->levels[e->level];
    strip *s = &e->strips[e->level > 0];
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

nsvq_status strip_load(encoder *e, nsvq_error *err)
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
    strip *s = &e->strips[e->level > 0];
    nsvq_status st = strip_room(s, n * (size_t)next.band_stride, err);
    if (st != NSVQ_OK) return st;
    next.px = s->px;
    next.cap = s->cap;
    *s = next;
    return pull(e, s, next.y0, next.y1, err);
}
