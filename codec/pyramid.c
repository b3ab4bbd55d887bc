/* pyramid.c - see pyramid.h. */
#include "pyramid.h"

#include <assert.h>

static size_t item(const pyramid *p, uint32_t plane)
{
    return p->before[plane + 1] - p->before[plane];
}

static size_t row_bytes(const pyramid *p, uint32_t level, uint32_t plane)
{
    return p->h->levels[level].width * item(p, plane);
}

static uint8_t *row_at(const pyramid *p, uint32_t level, uint32_t plane, uint32_t y)
{
    const waiting *v = &p->levels[level];

    assert(y >= v->y0 && y - v->y0 < v->cap);
    return v->px + (size_t)v->cap * p->h->levels[level].width * p->before[plane] +
           (size_t)(y - v->y0) * row_bytes(p, level, plane);
}

static bool level_create(pyramid *p, uint32_t level)
{
    const grid *of = &p->h->levels[level];
    waiting *v = &p->levels[level];

    // what a row of blocks needs, and what the level above adds at once
    v->cap = BLOCK + 2 * p->margin + BLOCK / 2;
    if (v->cap > of->height) v->cap = of->height;
    v->px = malloc((size_t)v->cap * of->width * p->before[p->n_planes]);
    return v->px != NULL;
}

bool pyramid_create(pyramid *p, const header *h, const nsvq_raster *r, uint32_t margin)
{
    p->h = h;
    p->margin = margin;
    p->n_masks = h->n_masks ? h->n_masks : r->has_alpha;
    p->n_planes = h->n_bands + p->n_masks;
    p->bands = calloc(h->n_bands, sizeof *p->bands);
    p->plain = calloc(h->n_bands, sizeof *p->plain);
    p->before = calloc((size_t)p->n_planes + 1, sizeof *p->before);
    if (!p->bands || !p->plain || !p->before) return false;
    for (uint32_t i = 0; i < h->n_groups; i++) {
        const group *g = &h->groups[i];
        for (uint32_t b = g->first_band; b < g->first_band + g->n_bands; b++)
            p->bands[b] = (reduce_band){(nsvq_type)g->type, g->complex, g->has_nodata, g->nodata,
                                        (nsvq_resampling)r->bands[b].resampling};
    }
    for (uint32_t i = 0; i < p->n_planes; i++) {
        size_t bytes = i < h->n_bands ? nsvq_type_bytes(p->bands[i].type) << p->bands[i].complex : 1;
        p->before[i + 1] = p->before[i] + bytes;
    }
    if (!h->n_masks && r->has_alpha) p->plain[r->alpha] = true;
    for (uint32_t l = 1; l < h->n_levels; l++)
        if (!level_create(p, l)) return false;
    return true;
}

void pyramid_free(pyramid *p)
{
    for (uint32_t l = 1; l < MAX_LEVELS; l++) free(p->levels[l].px);
    free(p->bands);
    free(p->plain);
    free(p->before);
}

void pyramid_put(pyramid *p, uint32_t level, uint32_t band, uint32_t x, uint32_t y, uint32_t w, uint32_t h,
                 const uint8_t *px, ptrdiff_t step, ptrdiff_t stride, const uint8_t *valid,
                 ptrdiff_t valid_stride)
{
    for (uint32_t r = 0; r < h; r += 2) {
        ptrdiff_t a = r, b = r + 1 < h ? r + 1 : r;
        uint8_t *out = row_at(p, level, band, (y + r) / 2) + x / 2 * item(p, band);
        reduce_row(out, &p->bands[band], px + a * stride, px + b * stride, step, w,
                   valid ? valid + a * valid_stride : NULL, valid ? valid + b * valid_stride : NULL);
    }
}

void pyramid_put_mask(pyramid *p, uint32_t level, uint32_t mask, uint32_t x, uint32_t y, uint32_t w, uint32_t h,
                      const uint8_t *valid, ptrdiff_t valid_stride)
{
    for (uint32_t r = 0; r < h; r += 2) {
        ptrdiff_t a = r, b = r + 1 < h ? r + 1 : r;
        reduce_mask(row_at(p, level, p->h->n_bands + mask, (y + r) / 2) + x / 2, valid + a * valid_stride,
                    valid + b * valid_stride, w);
    }
}

void pyramid_advance(pyramid *p, uint64_t rows)
{
    if (p->h && p->h->n_levels > 1) {
        uint32_t height = p->h->levels[1].height;
        p->levels[1].y1 = rows / 2 < height ? (uint32_t)(rows / 2) : height;
    }
}

void pyramid_halve(pyramid *p, uint32_t level)
{
    if (level < 2) return;
    const grid *from = &p->h->levels[level - 1];
    const waiting *above = &p->levels[level - 1];
    waiting *v = &p->levels[level];
    uint32_t end = above->y1 == from->height ? p->h->levels[level].height : above->y1 / 2;
    uint32_t n_bands = p->h->n_bands, y = 2 * v->y1;

    if (end <= v->y1) return;
    uint32_t h = (end == p->h->levels[level].height ? from->height : 2 * end) - y;
    for (uint32_t i = 0; i < p->n_masks; i++)
        pyramid_put_mask(p, level, i, 0, y, from->width, h, row_at(p, level - 1, n_bands + i, y), from->width);
    for (uint32_t i = 0; i < n_bands; i++) {
        const uint8_t *valid = NULL;
        if (p->n_masks && !p->plain[i]) valid = row_at(p, level - 1, n_bands + (p->h->band_masks ? i : 0), y);
        pyramid_put(p, level, i, 0, y, from->width, h, row_at(p, level - 1, i, y), (ptrdiff_t)item(p, i),
                    (ptrdiff_t)row_bytes(p, level - 1, i), valid, from->width);
    }
    v->y1 = end;
}

bool pyramid_ready(pyramid *p, uint32_t level, uint32_t *by)
{
    const grid *of = &p->h->levels[level];
    waiting *v = &p->levels[level];
    uint64_t end = (uint64_t)(v->next_by + 1) * BLOCK + p->margin;

    *by = v->next_by;
    if (v->next_by == of->blocks_y || v->y1 < (end < of->height ? end : of->height)) return false;
    v->next_by++;
    return true;
}

void pyramid_get(const pyramid *p, uint32_t level, const nsvq_pull *to, bool mask)
{
    for (uint32_t b = 0; b < to->n; b++) {
        uint32_t plane = (mask ? p->h->n_bands : 0) + to->first + b;
        size_t bytes = item(p, plane);
        for (uint32_t y = 0; y < to->h; y++) {
            const uint8_t *from = row_at(p, level, plane, to->y + y) + to->x * bytes;
            uint8_t *out = (uint8_t *)to->pixels + (ptrdiff_t)b * to->band_stride + (ptrdiff_t)y * to->row_stride;
            if (to->pixel_stride == (ptrdiff_t)bytes)
                memcpy(out, from, to->w * bytes);
            else
                for (uint32_t x = 0; x < to->w; x++) memcpy(out + x * to->pixel_stride, from + x * bytes, bytes);
        }
    }
}

static void forget(pyramid *p, uint32_t level)
{
    waiting *v = &p->levels[level];
    uint64_t keep = (uint64_t)v->next_by * BLOCK;

    keep -= keep < p->margin ? keep : p->margin;
    if (level + 1 < p->h->n_levels && 2 * (uint64_t)p->levels[level + 1].y1 < keep) keep = 2 * (uint64_t)p->levels[level + 1].y1;
    if (keep > v->y1) keep = v->y1;
    if (keep <= v->y0) return;
    for (uint32_t i = 0; i < p->n_planes && keep < v->y1; i++)
        memmove(row_at(p, level, i, v->y0), row_at(p, level, i, (uint32_t)keep),
                (size_t)(v->y1 - keep) * row_bytes(p, level, i));
    v->y0 = (uint32_t)keep;
}

void pyramid_drop(pyramid *p, uint32_t level)
{
    if (level > 1) forget(p, level - 1);
    if (level + 1 == p->h->n_levels) forget(p, level);
}
