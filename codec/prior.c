/* prior.c - see prior.h. Integers only: one differing bit destroys the rest of a block.
 * May include: prior.h, net.h. */
#include "prior.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "net.h"

/* FORMAT.md 5.4.1: round(2^15 * 2^(-j / 32)). */
static const uint16_t decay32[32] = {32768, 32066, 31379, 30706, 30048, 29405, 28774, 28158,
                                     27554, 26964, 26386, 25821, 25268, 24726, 24196, 23678,
                                     23170, 22674, 22188, 21713, 21247, 20792, 20347, 19911,
                                     19484, 19066, 18658, 18258, 17867, 17484, 17109, 16743};

/* FORMAT.md 5.2: dx, dy. */
static const int8_t neighbours[NSVQ_N_PASSES][NSVQ_N_NEIGHBOURS][2] = {
    {{-4, 0}, {0, -4}, {-4, -4}, {4, -4}},
    {{-2, -2}, {2, 2}, {2, -2}, {-2, 2}},
    {{-2, 0}, {2, 0}, {0, -2}, {0, 2}},
    {{-1, -1}, {1, 1}, {1, -1}, {-1, 1}},
    {{-1, 0}, {1, 0}, {0, -1}, {0, 1}}};

/* ---- tables ---- */

static int pack_layers(prior *p, const nsvq_model_desc *m, const nsvq_kernels *k)
{
    int st = 0;
    for (int i = 0; i < NSVQ_N_PASSES && !st; i++) {
        st = net_pack(&p->mean[i], &m->prior.mean[i], NSVQ_NONE, k);
        if (!st) st = net_pack(&p->ctx[i], &m->prior.ctx[i], NSVQ_NONE, k);
    }
    for (int s = 0; s < m->n_slices && !st; s++) {
        if (s > 0) st = net_pack(&p->prev[s], &m->prior.prev[s], NSVQ_S16, k);
        if (!st) st = net_pack(&p->logit[s], &m->prior.logit[s], NSVQ_NONE, k);
        if (!st) st = net_pack(&p->shiftm[s], &m->prior.shiftm[s], NSVQ_S16, k);
    }
    return st;
}

static int cumulate_members(prior *p, const nsvq_model_desc *m)
{
    size_t n_cells = (size_t)m->n_slices * (m->n_codes / NSVQ_CELL);

    p->member_start = malloc(n_cells * PRIOR_MEMBER_START * sizeof *p->member_start);
    if (!p->member_start) return -1;
    for (size_t c = 0; c < n_cells; c++) {
        const uint16_t *freq = m->prior.member + c * NSVQ_CELL;
        uint16_t *start = p->member_start + c * PRIOR_MEMBER_START;
        start[0] = 0;
        for (int i = 0; i < NSVQ_CELL; i++) start[i + 1] = (uint16_t)(start[i] + freq[i]);
    }
    return 0;
}

int prior_create(prior *p, const nsvq_model_desc *m, const nsvq_kernels *k)
{
    memset(p, 0, sizeof *p);
    for (int d = 0; d < PRIOR_DECAY; d++) p->decay[d] = (uint16_t)(decay32[d & 31] >> (d >> 5));
    if (cumulate_members(p, m) == 0 && pack_layers(p, m, k) == 0) return 0;
    prior_free(p);
    return -1;
}

void prior_free(prior *p)
{
    for (int i = 0; i < NSVQ_N_PASSES; i++) {
        nsvq_pointwise_free(&p->mean[i]);
        nsvq_pointwise_free(&p->ctx[i]);
    }
    for (int s = 0; s < NSVQ_MAX_SLICES; s++) {
        nsvq_pointwise_free(&p->prev[s]);
        nsvq_pointwise_free(&p->logit[s]);
        nsvq_pointwise_free(&p->shiftm[s]);
    }
    free(p->member_start);
    memset(p, 0, sizeof *p);
}

/* ---- frequencies ---- */

void prior_cells(const prior *p, const int16_t *logit, int n, uint16_t *start)
{
    uint32_t v[PRIOR_MAX_CELLS], sum = 0, at = 0;
    int16_t max = logit[0];
    int first = 0;

    for (int i = 1; i < n; i++) max = logit[i] > max ? logit[i] : max;
    for (int i = 0; i < n; i++) {
        int d = max - logit[i];
        v[i] = p->decay[d < PRIOR_DECAY ? d : PRIOR_DECAY - 1];
        sum += v[i];
    }
    uint32_t scale = ((32768u - (uint32_t)n) << 16) / sum; // sum >= 2^15: v * scale < 2^32
    for (int i = 0; i < n; i++) v[i] = 1 + ((v[i] * scale) >> 16);
    while (logit[first] != max) first++;
    for (int i = 0; i < n; i++) {
        start[i] = (uint16_t)at;
        at += v[i];
    }
    uint16_t missing = (uint16_t)(32768u - at);
    for (int i = first + 1; i < n; i++) start[i] = (uint16_t)(start[i] + missing);
    start[n] = 32768u;
}

/* ---- order and context ---- */

int prior_pass(int x, int y)
{
    if ((x + y) & 1) return 4;
    if (x & 1) return 3;
    if (((x ^ y) & 2) != 0) return 2;
    return x & 2 ? 1 : 0;
}

int prior_positions(prior_position *list, int pass, int bw, int bh)
{
    int n = 0;
    for (int y = 0; y < bh; y++)
        for (int x = 0; x < bw; x++)
            if (prior_pass(x, y) == pass) list[n++] = (prior_position){(uint8_t)x, (uint8_t)y};
    return n;
}

int prior_neighbours(int16_t *ctx, const prior_block *b, int pass, prior_position at)
{
    const int16_t *from[NSVQ_N_NEIGHBOURS], *first = NULL;
    size_t n = (size_t)b->n_latent;
    int n_outside = 0;

    for (int i = 0; i < NSVQ_N_NEIGHBOURS; i++) {
        int x = at.x + neighbours[pass][i][0], y = at.y + neighbours[pass][i][1];
        bool inside = x >= 0 && x < b->bw && y >= 0 && y < b->bh;
        from[i] = inside ? b->latents + (size_t)(y * b->bw + x) * (size_t)b->pitch : NULL;
        if (inside && !first) first = from[i];
        n_outside += !inside;
    }
    if (!first) first = b->seed;
    for (int i = 0; i < NSVQ_N_NEIGHBOURS; i++, ctx += n)
        memcpy(ctx, from[i] ? from[i] : first, n * sizeof *ctx);
    return n_outside;
}

void prior_context(int16_t *ctx, const prior_block *b, int pass, prior_position at)
{
    int n_outside = prior_neighbours(ctx, b, pass, at);

    ctx += NSVQ_N_NEIGHBOURS * b->n_latent;
    ctx[0] = (int16_t)((b->quality - 50) * 64);
    ctx[1] = (int16_t)(1024 * n_outside);
    ctx[2] = ctx[3] = 0;
}
