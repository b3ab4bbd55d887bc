/* engine.c - a model packed for one kernel table, and the two networks on pictures.
 * May include: engine_impl.h. */
#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "engine_impl.h"

/* ---- memory ---- */

nsvq_scratch *nsvq_scratch_create(void)
{
    return calloc(1, sizeof(nsvq_scratch));
}

void nsvq_scratch_destroy(nsvq_scratch *s)
{
    if (!s) return;
    free(s->passing.p);
    free(s->kept.p);
    free(s);
}

static void *room_for(room *r, size_t bytes)
{
    if (bytes <= r->bytes) return r->p;
    bytes = (bytes + bytes / 4 + 4095) & ~(size_t)4095;
    free(r->p);
    r->p = aligned_alloc(64, bytes);
    r->bytes = r->p ? bytes : 0;
    return r->p;
}

void *scratch_get(nsvq_scratch *s, size_t bytes)
{
    return room_for(&s->passing, bytes);
}

void *scratch_keep(nsvq_scratch *s, size_t bytes)
{
    return room_for(&s->kept, bytes);
}

/* ---- the encoder's tables ---- */

/* By repeated squaring: each yields a binary digit of the logarithm; the ninth rounds. */
static uint16_t log2_of(uint64_t x) /* 1 <= x < 2 in units of 2^-30 */
{
    uint32_t digits = 0;
    for (int i = 0; i < 9; i++) {
        x = x * x >> 30;
        digits = digits << 1 | (uint32_t)(x >> 31);
        x >>= x >> 31;
    }
    return (uint16_t)((digits + 1) >> 1);
}

void log2_table(uint16_t log2_q8[256])
{
    for (uint32_t i = 0; i < 256; i++) log2_q8[i] = log2_of((uint64_t)(512 + 2 * i + 1) << 21);
}

uint32_t symbol_bits(const uint16_t *log2_q8, uint32_t freq)
{
    uint32_t whole = 31 - (uint32_t)__builtin_clz(freq);
    uint32_t log2 = whole * 256 + log2_q8[(freq << (15 - whole) >> 7) & 255];
    return log2 < 15 * 256 ? 15 * 256 - log2 : 0;
}

static void set_costs(search_tables *t, const nsvq_model_desc *m)
{
    size_t n = (size_t)m->n_slices * m->n_codes;

    log2_table(t->log2_q8);
    for (size_t i = 0; i < n; i++) {
        const int16_t *code = m->codes + i * m->dim;
        t->norm[i] = 0;
        for (int j = 0; j < m->dim; j++) t->norm[i] += code[j] * code[j];
        t->member_bits[i] = (uint16_t)symbol_bits(t->log2_q8, m->prior.member[i]);
    }
}

static int search_create(search_tables *t, const nsvq_model_desc *m, const nsvq_kernels *k)
{
    size_t n = (size_t)m->n_slices * m->n_codes;

    t->norm = malloc(n * sizeof *t->norm);
    t->member_bits = malloc(n * sizeof *t->member_bits);
    if (!t->norm || !t->member_bits) return -1;
    set_costs(t, m);
    for (int s = 0; s < m->n_slices; s++) {
        t->codebook[s] = (nsvq_codebook){.n_codes = m->n_codes, .dim = m->dim};
        if (k->codebook_pack(&t->codebook[s], m->codes + (size_t)s * m->n_codes * m->dim))
            return -1;
    }
    return 0;
}

static void search_free(search_tables *t)
{
    for (int s = 0; s < NSVQ_MAX_SLICES; s++) nsvq_codebook_free(&t->codebook[s]);
    free(t->norm);
    free(t->member_bits);
}

/* ---- engine ---- */

static int engine_init(nsvq_engine *e)
{
    const nsvq_model_desc *m = e->m;
    bool vq = m->family == NSVQ_FAMILY_VQ;

    if (net_create(&e->synthesis, &m->synthesis, &e->k, nsvq_engine_channels(e), 1)) return -1;
    if (m->has_analysis && net_create(&e->analysis, &m->analysis, &e->k, 48, m->stride / 4)) return -1;
    if (!vq) return hyper_create(&e->hyper, m, &e->k);
    if (prior_create(&e->prior, m, &e->k)) return -1;
    return m->has_analysis ? search_create(&e->search, m, &e->k) : 0;
}

nsvq_engine *nsvq_engine_create(const nsvq_model_desc *m, const nsvq_kernels *k)
{
    nsvq_engine *e = calloc(1, sizeof *e);
    if (!e) return NULL;
    e->m = m;
    e->k = *k;
    if (engine_init(e) == 0) return e;
    nsvq_engine_destroy(e);
    return NULL;
}

void nsvq_engine_destroy(nsvq_engine *e)
{
    if (!e) return;
    net_free(&e->analysis);
    net_free(&e->synthesis);
    prior_free(&e->prior);
    search_free(&e->search);
    hyper_free(&e->hyper);
    free(e);
}

int nsvq_engine_channels(const nsvq_engine *e)
{
    return e->m->latent + (e->m->family == NSVQ_FAMILY_HYPER ? NSVQ_N_EXTRA : 0);
}

int nsvq_engine_synthesis_halo(const nsvq_engine *e)
{
    return net_halo(&e->synthesis);
}

int nsvq_engine_analysis_halo(const nsvq_engine *e)
{
    return e->m->has_analysis ? net_halo(&e->analysis) : 0;
}

/* ---- pictures ---- */

typedef struct picture { /* one side of a run is pixels, the other latents */
    const nsvq_kernels *k;
    const uint8_t *in;
    uint8_t *out;
    int16_t *values; /* instead of out */
    ptrdiff_t stride;
    const int16_t *y_hat;
    int16_t *y;
    int n_channels, ww, side; /* side: latent's, in pixels */
    nsvq_rect want;
} picture;

static void load_pixels(const void *user, int16_t *out, int x, int y, int n)
{
    const picture *p = user;
    p->k->from_pixels(out, p->in + 4 * y * p->stride + 12 * (ptrdiff_t)x, p->stride, n);
}

static void emit_latents(const void *user, const int16_t *row, int y)
{
    const picture *p = user;
    size_t n = (size_t)p->want.w * (size_t)p->n_channels;
    memcpy(p->y + (size_t)(y - p->want.y) * n, row, n * sizeof *row);
}

static void load_latents(const void *user, int16_t *out, int x, int y, int n)
{
    const picture *p = user;
    size_t at = (size_t)y * (size_t)p->ww + (size_t)x;
    size_t width = (size_t)p->n_channels;
    memcpy(out, p->y_hat + at * width, (size_t)n * width * sizeof *out);
}

static void emit_pixels(const void *user, const int16_t *row, int y)
{
    const picture *p = user;
    uint8_t *out = p->out + (ptrdiff_t)p->side * (y - p->want.y) * p->stride;
    p->k->to_pixels(out, p->stride, row, p->want.w, p->side);
}

/* As to_pixels, by rows of squares of 4 x 4 pixels. */
static void emit_values(const void *user, const int16_t *row, int y)
{
    const picture *p = user;
    int16_t *out = p->values + (ptrdiff_t)p->side * (y - p->want.y) * p->stride;

    for (int x = 0; x < p->want.w; x++, out += 3 * p->side)
        for (int sy = 0; sy < p->side / 4; sy++)
            for (int sx = 0; sx < p->side / 4; sx++)
                for (int py = 0; py < 4; py++, row += 12)
                    memcpy(out + (4 * sy + py) * p->stride + 12 * sx, row, 12 * sizeof *row);
}

int nsvq_engine_analyse(const nsvq_engine *e, nsvq_scratch *s, const uint8_t *rgb, ptrdiff_t stride,
                        int ww, int wh, nsvq_rect want, int16_t *y)
{
    picture p = {.k = &e->k,
                 .in = rgb,
                 .stride = stride,
                 .y = y,
                 .want = want,
                 .n_channels = e->m->latent};
    net_job job = {
        .ww = ww, .wh = wh, .want = want, .user = &p, .load = load_pixels, .emit = emit_latents};
    return net_run(&e->analysis, s, &job);
}

static int synthesise(const nsvq_engine *e, nsvq_scratch *s, int wh, picture *p)
{
    p->k = &e->k;
    p->side = e->m->stride;
    p->n_channels = nsvq_engine_channels(e);
    net_job job = {.ww = p->ww, .wh = wh, .want = p->want, .user = p, .load = load_latents,
                   .emit = p->values ? emit_values : emit_pixels};
    return net_run(&e->synthesis, s, &job);
}

int nsvq_engine_synthesise(const nsvq_engine *e, nsvq_scratch *s, const int16_t *y_hat, int ww,
                           int wh, nsvq_rect want, uint8_t *rgb, ptrdiff_t stride)
{
    picture p = {.out = rgb, .stride = stride, .y_hat = y_hat, .want = want, .ww = ww};
    return synthesise(e, s, wh, &p);
}

int nsvq_engine_synthesise_fine(const nsvq_engine *e, nsvq_scratch *s, const int16_t *y_hat, int ww,
                                int wh, nsvq_rect want, int16_t *values, ptrdiff_t stride)
{
    picture p = {.values = values, .stride = stride, .y_hat = y_hat, .want = want, .ww = ww};
    return synthesise(e, s, wh, &p);
}

/* ---- blocks ---- */

size_t nsvq_block_bound(const nsvq_engine *e, int bw, int bh)
{
    return e->m->family == NSVQ_FAMILY_VQ ? vq_block_bound(e, bw, bh) : hyper_block_bound(e, bw, bh);
}

int nsvq_block_encode(const nsvq_engine *e, nsvq_scratch *s, const int16_t *y, int bw, int bh,
                      int quality16, uint8_t *out, size_t cap, size_t *size, int16_t *y_hat)
{
    int side = NSVQ_BLOCK / e->m->stride;

    assert(e->m->has_analysis && cap >= nsvq_block_bound(e, bw, bh));
    assert(bw >= 1 && bw <= side && bh >= 1 && bh <= side);
    assert(quality16 >= NSVQ_MIN_QUALITY16 && quality16 <= NSVQ_MAX_QUALITY16);
    (void)cap, (void)side;
    if (e->m->family == NSVQ_FAMILY_VQ)
        return vq_block_encode(e, s, y, bw, bh, quality16 / 16, out, size, y_hat);
    return hyper_block_encode(e, s, y, bw, bh, quality16, out, size, y_hat);
}

int nsvq_block_decode(const nsvq_engine *e, nsvq_scratch *s, const uint8_t *in, size_t size, int bw,
                      int bh, int quality16, int16_t *y_hat, uint8_t *quiet)
{
    int side = NSVQ_BLOCK / e->m->stride;

    assert(bw >= 1 && bw <= side && bh >= 1 && bh <= side);
    (void)side;
    if (e->m->family == NSVQ_FAMILY_VQ)
        return vq_block_decode(e, s, in, size, bw, bh, quality16 / 16, y_hat, quiet);
    if (quiet) memset(quiet, 0, (size_t)bw * (size_t)bh);
    return hyper_block_decode(e, s, in, size, bw, bh, y_hat);
}
