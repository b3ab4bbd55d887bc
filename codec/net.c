/* net.c - the executor of integer networks.
 *
 * Going through the layers backwards gives the margin that each register needs around the wanted
 * rectangle; everything is clipped to the window, outside of which registers are zero. The run then
 * goes down the picture latent row by latent row: in each step every layer computes the rows that
 * have become possible. A register keeps a ring of the rows that are still read, so that a
 * depthwise result, say, is a buffer of one row that never leaves the cache. (Steps of 2 or 4
 * latent rows were no faster; on 4096 pixels of width they cost the analysis a quarter.)
 *
 * Invariant: in the step of latent row t a register gets its rows from t * scale + margin up to
 * (t + 1) * scale + margin, not included; a reader with margin m and factor f (space to depth)
 * reads none before t * scale + m * f - k/2. The difference is the length of the ring. */
#include "net.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

#include "engine_impl.h"

static int max_int(int a, int b)
{
    return a > b ? a : b;
}

static int min_int(int a, int b)
{
    return a < b ? a : b;
}

/* ---- preparation ---- */

static void set_shapes(net *n, int in_channels, int in_scale)
{
    n->reg[0] = (net_register){
        .channels = (uint16_t)in_channels, .item_bytes = 2, .scale = (uint8_t)in_scale};
    for (int i = 0; i < n->desc->n_layers; i++) {
        const nsvq_layer *l = &n->desc->layer[i];
        const net_register *src = &n->reg[l->src];
        bool shrinks = l->kind == NSVQ_LAYER_SPACE_TO_DEPTH;
        n->reg[l->dst] =
            (net_register){.channels = (uint16_t)(l->cout * l->rep),
                           .item_bytes = l->out_type == NSVQ_U8 ? 1 : 2,
                           .scale = (uint8_t)(shrinks ? src->scale / l->k : src->scale)};
    }
}

static int reach_of(const nsvq_layer *l)
{
    return l->kind == NSVQ_LAYER_DEPTHWISE ? l->k / 2 : 0;
}

static int factor_of(const nsvq_layer *l)
{
    return l->kind == NSVQ_LAYER_SPACE_TO_DEPTH ? l->k : 1;
}

static void set_margins(net *n)
{
    for (int i = n->desc->n_layers; i-- > 0;) {
        const nsvq_layer *l = &n->desc->layer[i];
        const net_register *dst = &n->reg[l->dst];
        net_register *src = &n->reg[l->src];
        src->margin = max_int(src->margin, dst->margin * factor_of(l) + reach_of(l));
        src->pad = (uint8_t)max_int(src->pad, reach_of(l));
        if (l->res == NSVQ_NO_REGISTER) continue;
        n->reg[l->res].margin = max_int(n->reg[l->res].margin, dst->margin);
    }
}

/* first: the first row, relative to t * scale, that a reader still wants. */
static void need_rows(net_register *r, int first)
{
    r->rows = max_int(r->rows, r->scale + r->margin - first);
}

static void set_rings(net *n)
{
    for (int i = 0; i < n->desc->n_layers; i++) {
        const nsvq_layer *l = &n->desc->layer[i];
        int margin = n->reg[l->dst].margin;
        need_rows(&n->reg[l->src], margin * factor_of(l) - reach_of(l));
        if (l->res != NSVQ_NO_REGISTER) need_rows(&n->reg[l->res], margin);
    }
    need_rows(&n->reg[n->desc->output], 0);
}

int net_pack(nsvq_pointwise *p, const nsvq_layer *l, uint8_t res_type, const nsvq_kernels *k)
{
    *p = (nsvq_pointwise){.cin = l->cin,
                          .cout = l->cout,
                          .in_type = l->in_type,
                          .out_type = l->out_type,
                          .res_type = res_type};
    return k->pointwise_pack(p, l->wt, l->bias, l->shift, l->mul);
}

static int pack_layers(net *n)
{
    for (int i = 0; i < n->desc->n_layers; i++) {
        const nsvq_layer *l = &n->desc->layer[i];
        int st = 0;
        if (l->kind == NSVQ_LAYER_POINTWISE) {
            uint8_t res_type = NSVQ_NONE;
            if (l->res != NSVQ_NO_REGISTER)
                res_type = n->reg[l->res].item_bytes == 1 ? NSVQ_U8 : NSVQ_S16;
            st = net_pack(&n->layer[i].pointwise, l, res_type, n->k);
        } else if (l->kind == NSVQ_LAYER_DEPTHWISE) {
            n->layer[i].depthwise = (nsvq_depthwise){.channels = l->cin, .k = l->k};
            st = n->k->depthwise_pack(&n->layer[i].depthwise, l->wt, l->bias, l->shift, l->mul);
        }
        if (st) return -1;
    }
    return 0;
}

int net_create(net *n, const nsvq_net *desc, const nsvq_kernels *k, int in_channels, int in_scale)
{
    memset(n, 0, sizeof *n);
    n->desc = desc;
    n->k = k;
    set_shapes(n, in_channels, in_scale);
    set_margins(n);
    set_rings(n);
    if (pack_layers(n) == 0) return 0;
    net_free(n);
    return -1;
}

void net_free(net *n)
{
    for (int i = 0; n->desc && i < n->desc->n_layers; i++) {
        if (n->desc->layer[i].kind == NSVQ_LAYER_POINTWISE)
            nsvq_pointwise_free(&n->layer[i].pointwise);
        else if (n->desc->layer[i].kind == NSVQ_LAYER_DEPTHWISE)
            nsvq_depthwise_free(&n->layer[i].depthwise);
    }
    memset(n, 0, sizeof *n);
}

int net_halo(const net *n)
{
    return (n->reg[0].margin + n->reg[0].scale - 1) / n->reg[0].scale;
}

/* ---- run ---- */

/* Rows of a register in one run. Columns x0 .. x0 + w - 1, rows y0 .. y1 - 1, in positions of the
 * window; rows before `next` are done. */
typedef struct ring {
    uint8_t *rows;    /* first position of row 0, behind its pad */
    size_t row_bytes; /* with pads */
    size_t position_bytes;
    int n_rows, x0, w, y0, y1, next;
} ring;

typedef struct run {
    const net *n;
    const net_job *job;
    const void *zero; /* a row outside the window */
    ring ring[NSVQ_MAX_REGISTERS];
} run;

static void place_ring(run *r, int i, carver *c)
{
    const net_register *reg = &r->n->reg[i];
    const nsvq_rect *want = &r->job->want;
    ring *g = &r->ring[i];
    int s = reg->scale, x1 = min_int(r->job->ww * s, (want->x + want->w) * s + reg->margin);

    g->x0 = max_int(0, want->x * s - reg->margin);
    g->y0 = g->next = max_int(0, want->y * s - reg->margin);
    g->y1 = min_int(r->job->wh * s, (want->y + want->h) * s + reg->margin);
    g->w = x1 - g->x0;
    g->n_rows = reg->rows;
    g->position_bytes = (size_t)reg->channels * reg->item_bytes;
    g->row_bytes = (size_t)(g->w + 2 * reg->pad) * g->position_bytes;
    g->rows = carve(c, g->row_bytes * (size_t)g->n_rows);
    if (!g->rows) return;
    for (int y = 0; reg->pad && y < g->n_rows; y++) {
        uint8_t *row = g->rows + (size_t)y * g->row_bytes;
        memset(row, 0, reg->pad * g->position_bytes);
        memset(row + ((size_t)g->w + reg->pad) * g->position_bytes, 0,
               reg->pad * g->position_bytes);
    }
    g->rows += reg->pad * g->position_bytes;
}

/* Lays the rings out, or with c->base NULL finds out how many bytes they take. */
static void place(run *r, carver *c)
{
    size_t zero_bytes = 0;

    for (int i = 0; i < NSVQ_MAX_REGISTERS; i++)
        if (r->n->reg[i].channels) place_ring(r, i, c);
    for (int i = 0; i < NSVQ_MAX_REGISTERS; i++)
        if (r->n->reg[i].pad && r->ring[i].row_bytes > zero_bytes)
            zero_bytes = r->ring[i].row_bytes;
    void *zero = carve(c, zero_bytes);
    if (zero) memset(zero, 0, zero_bytes);
    r->zero = zero;
}

static void *row_of(const ring *g, int y)
{
    assert(y >= g->y0 && y <= g->next && y > g->next - g->n_rows - (y < g->next));
    return g->rows + (size_t)(y % g->n_rows) * g->row_bytes;
}

/* Where column x of a finished row lies; x may reach into the pad. */
static const void *at(const ring *g, int x, int y)
{
    return (const uint8_t *)row_of(g, y) + (ptrdiff_t)(x - g->x0) * (ptrdiff_t)g->position_bytes;
}

static void depthwise_row(run *r, int i, int y)
{
    const nsvq_layer *l = &r->n->desc->layer[i];
    const ring *src = &r->ring[l->src];
    ring *dst = &r->ring[l->dst];
    const int16_t *rows[5];

    for (int j = 0; j < l->k; j++) {
        int from = y + j - l->k / 2;
        bool inside = from >= src->y0 && from < src->y1;
        rows[j] = inside ? at(src, dst->x0 - l->k / 2, from) : r->zero;
    }
    r->n->k->depthwise(row_of(dst, y), rows, &r->n->layer[i].depthwise, dst->w);
}

static void space_to_depth_row(run *r, int i, int y)
{
    const nsvq_layer *l = &r->n->desc->layer[i];
    const ring *src = &r->ring[l->src];
    ring *dst = &r->ring[l->dst];
    size_t bytes = l->k * src->position_bytes;

    for (int ky = 0; ky < l->k; ky++) {
        const uint8_t *from = at(src, dst->x0 * l->k, y * l->k + ky);
        uint8_t *to = (uint8_t *)row_of(dst, y) + (size_t)ky * bytes;
        for (int x = 0; x < dst->w; x++, from += bytes, to += dst->position_bytes)
            memcpy(to, from, bytes);
    }
}

static void pointwise_row(run *r, int i, int y)
{
    const nsvq_layer *l = &r->n->desc->layer[i];
    ring *dst = &r->ring[l->dst];
    const void *in = at(&r->ring[l->src], dst->x0, y);
    const void *res = l->res == NSVQ_NO_REGISTER ? NULL : at(&r->ring[l->res], dst->x0, y);

    r->n->k->pointwise(row_of(dst, y), in, res, &r->n->layer[i].pointwise, dst->w * l->rep);
}

/* One past the last row of register i that step t computes. */
static int step_end(const run *r, int i, int t)
{
    const net_register *reg = &r->n->reg[i];
    return min_int(r->ring[i].y1, (t + 1) * reg->scale + reg->margin);
}

static void step(run *r, int t)
{
    const nsvq_net *desc = r->n->desc;
    ring *in = &r->ring[0], *out = &r->ring[desc->output];
    int first = out->next;

    for (int end = step_end(r, 0, t); in->next < end; in->next++)
        r->job->load(r->job->user, row_of(in, in->next), in->x0, in->next, in->w);
    for (int i = 0; i < desc->n_layers; i++) {
        const nsvq_layer *l = &desc->layer[i];
        ring *dst = &r->ring[l->dst];
        for (int end = step_end(r, l->dst, t); dst->next < end; dst->next++) {
            if (l->kind == NSVQ_LAYER_POINTWISE)
                pointwise_row(r, i, dst->next);
            else if (l->kind == NSVQ_LAYER_DEPTHWISE)
                depthwise_row(r, i, dst->next);
            else
                space_to_depth_row(r, i, dst->next);
        }
    }
    for (int y = first; y < out->next; y++) r->job->emit(r->job->user, row_of(out, y), y);
}

int net_run(const net *n, nsvq_scratch *s, const net_job *job)
{
    run r = {.n = n, .job = job};
    carver size = {0}, c = {0};
    int end = job->want.y + job->want.h;

    assert(job->want.x >= 0 && job->want.y >= 0 && job->want.w > 0 && job->want.h > 0);
    assert(job->want.x + job->want.w <= job->ww && end <= job->wh);
    place(&r, &size);
    if (!(c.base = scratch_get(s, size.used))) return -1;
    place(&r, &c);
    // Twice the halo early, so that the invariant holds from the first row of every register on.
    for (int t = job->want.y - 2 * net_halo(n); t < end; t++) step(&r, t);
    return 0;
}
