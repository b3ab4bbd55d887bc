/* block.c - the base layer of a block in the vq family: latents to bytes and back (FORMAT.md 5).
 *
 * Encoder and decoder run the same steps; where the decoder reads the codeword of a slice at a
 * position, the encoder chooses it, by |r - c|^2 + lambda * bits, and notes its two symbols.
 * May include: engine_impl.h, join.h, rans.h. */
#include <string.h>

#include "engine_impl.h"
#include "join.h"
#include "rans.h"

#define HEAD_BYTES 4             /* lanes, seed */
#define BATCH 32                 /* contexts gathered at a time */
#define MAX_COST ((1 << 28) - 1) /* two of them and |code|^2 stay below 2^30 (search) */
#define MAX_LOG2_LANES 5

typedef struct coder {
    const nsvq_engine *e;
    const nsvq_model_desc *m;
    int n_latent, n_cells, pass;
    prior_block block;
    int16_t *y_hat;
    int16_t *seed;
    prior_position *list;
    /* of a step: n positions at most */
    int16_t *ctx;        /* [BATCH][X] */
    int16_t *mean, *hid; /* [n][L], [n][H] */
    int16_t *code;       /* [n][L] codewords chosen so far */
    int16_t *dense;      /* [n][L] what a layer of the prior wants without gaps */
    int16_t *logit, *mu; /* [n][K], [n][dim] */
    uint8_t *h;          /* [n][H] */
    /* decoder */
    rans_reader reader;
    uint8_t *quiet;      /* [bh][bw], or NULL */
    int64_t quiet_limit; /* squared length of code words */
    /* encoder: y is NULL in the decoder */
    const int16_t *y;
    rans_symbol *symbols;
    size_t n_symbols;
    uint64_t lambda;
    int32_t *base; /* [slice][code] */
} coder;

/* ---- steps of both ---- */

static size_t n_symbols_of(const nsvq_model_desc *m, int bw, int bh)
{
    return (size_t)2 * m->n_slices * (size_t)(bw * bh);
}

static void place(coder *c, carver *k)
{
    int bw = c->block.bw, bh = c->block.bh;
    size_t n = (size_t)(bw * bh + 1) / 2; // pass 4 is the longest step
    size_t n_latent = (size_t)c->n_latent, hidden = c->m->prior.hidden, item = sizeof(int16_t);
    size_t n_codes = (size_t)c->m->n_slices * c->m->n_codes;

    c->seed = carve(k, n_latent * item);
    c->list = carve(k, (size_t)(bw * bh) * sizeof *c->list);
    c->ctx = carve(k, BATCH * (4 * n_latent + NSVQ_N_EXTRA) * item);
    c->mean = carve(k, n * n_latent * item);
    c->hid = carve(k, n * hidden * item);
    c->code = carve(k, n * n_latent * item);
    c->dense = carve(k, n * n_latent * item);
    c->logit = carve(k, n * (size_t)c->n_cells * item);
    c->mu = carve(k, n * c->m->dim * item);
    c->h = carve(k, n * hidden);
    if (!c->y) return;
    c->symbols = carve(k, n_symbols_of(c->m, bw, bh) * sizeof *c->symbols);
    c->base = carve(k, n_codes * sizeof *c->base);
}

static int coder_init(coder *c, nsvq_scratch *s)
{
    carver size = {0}, k = {0};

    c->m = c->e->m;
    c->n_latent = c->block.n_latent = c->m->n_slices * c->m->dim;
    c->n_cells = (int)(c->m->n_codes / NSVQ_CELL);
    place(c, &size);
    if (!(k.base = scratch_get(s, size.used))) return -1;
    place(c, &k);
    c->block.latents = c->y_hat;
    c->block.pitch = c->n_latent;
    c->block.seed = c->seed;
    memset(c->seed, 0, (size_t)c->n_latent * sizeof *c->seed);
    return 0;
}

static void set_seed(coder *c, const int8_t seed[3])
{
    for (int i = 0; i < 3; i++)
        c->seed[c->m->seed_channel[i]] = nsvq_clamp_latent(seed[i] * (1 << c->m->seed_shift));
}

/* mean and hid of the n positions of a step. */
static void step_context(coder *c, const prior_position *list, int n)
{
    const nsvq_kernels *k = &c->e->k;
    size_t n_ctx = 4 * (size_t)c->n_latent + NSVQ_N_EXTRA;

    for (int from = 0; from < n; from += BATCH) {
        int count = n - from < BATCH ? n - from : BATCH;
        for (int i = 0; i < count; i++)
            prior_context(c->ctx + (size_t)i * n_ctx, &c->block, c->pass, list[from + i]);
        k->pointwise(c->mean + (size_t)(from * c->n_latent), c->ctx, NULL,
                     &c->e->prior.mean[c->pass], count);
        k->pointwise(c->hid + (size_t)(from * c->m->prior.hidden), c->ctx, NULL,
                     &c->e->prior.ctx[c->pass], count);
    }
}

/* Copies n rows of `width` values, from rows of n_latent ones. */
static void make_dense(coder *c, const int16_t *from, int width, int n)
{
    for (int i = 0; i < n; i++)
        memcpy(c->dense + (size_t)(i * width), from + (size_t)(i * c->n_latent),
               (size_t)width * sizeof *from);
}

/* logit and mu of slice s at the n positions of a step. */
static void step_slice(coder *c, int s, int n)
{
    const nsvq_kernels *k = &c->e->k;
    const prior *p = &c->e->prior;
    int dim = c->m->dim;

    if (s == 0) {
        for (int i = 0; i < n * c->m->prior.hidden; i++)
            c->h[i] = (uint8_t)clamp_int(c->hid[i], 0, 255);
    } else {
        make_dense(c, c->code, s * dim, n);
        k->pointwise(c->h, c->dense, c->hid, &p->prev[s], n);
    }
    k->pointwise(c->logit, c->h, NULL, &p->logit[s], n);
    make_dense(c, c->mean + (size_t)(s * dim), dim, n);
    k->pointwise(c->mu, c->h, c->dense, &p->shiftm[s], n);
    for (int i = 0; i < n * dim; i++) c->mu[i] = nsvq_clamp_latent(c->mu[i]);
}

static size_t latent_at(const coder *c, prior_position at, int s)
{
    return (size_t)((at.y * c->block.bw + at.x) * c->n_latent + s * c->m->dim);
}

/* Position i of the step, slice s, gets codeword `number`. */
static void put_code(coder *c, prior_position at, int i, int s, uint32_t number)
{
    int dim = c->m->dim;
    const int16_t *code = c->m->codes + ((size_t)s * c->m->n_codes + number) * (size_t)dim;
    const int16_t *mu = c->mu + (size_t)(i * dim);
    int16_t *out = c->y_hat + latent_at(c, at, s);

    memcpy(c->code + (size_t)(i * c->n_latent + s * dim), code, (size_t)dim * sizeof *code);
    for (int j = 0; j < dim; j++) out[j] = nsvq_clamp_latent(mu[j] + code[j]);
}

static const uint16_t *member_start(const coder *c, int s, uint32_t cell)
{
    return c->e->prior.member_start + ((size_t)(s * c->n_cells) + cell) * PRIOR_MEMBER_START;
}

static void decode_slice(coder *c, const prior_position *list, int s, int n)
{
    uint16_t start[PRIOR_MAX_CELLS + 1];

    for (int i = 0; i < n; i++) {
        prior_cells(&c->e->prior, c->logit + (size_t)(i * c->n_cells), c->n_cells, start);
        uint32_t cell = (uint32_t)rans_get(&c->reader, start, c->n_cells);
        uint32_t member = (uint32_t)rans_get(&c->reader, member_start(c, s, cell), NSVQ_CELL);
        put_code(c, list[i], i, s, cell * NSVQ_CELL + member);
    }
}

static void note_quiet(coder *c, const prior_position *list, int n)
{
    for (int i = 0; i < n; i++) {
        const int16_t *code = c->code + (size_t)(i * c->n_latent);
        int64_t length = 0;
        for (int j = 0; j < c->n_latent; j++) length += code[j] * code[j];
        c->quiet[list[i].y * c->block.bw + list[i].x] = length <= c->quiet_limit;
    }
}

static void encode_slice(coder *c, const prior_position *list, int s, int n);

static void run_step(coder *c, const prior_position *list, int n)
{
    step_context(c, list, n);
    for (int s = 0; s < c->m->n_slices; s++) {
        step_slice(c, s, n);
        if (c->y)
            encode_slice(c, list, s, n);
        else
            decode_slice(c, list, s, n);
    }
    if (c->quiet) note_quiet(c, list, n);
}

static void run_pass(coder *c, int pass)
{
    int n = prior_positions(c->list, pass, c->block.bw, c->block.bh);

    c->pass = pass;
    if (pass == 0)
        for (int i = 0; i < n; i++) run_step(c, c->list + i, 1);
    else if (n > 0)
        run_step(c, c->list, n);
}

uint64_t nsvq_lambda(const nsvq_model_desc *m, int quality)
{
    static const uint32_t root[12] = {65536, 69433,  73562,  77936,  82570, 87480, 92682,
                                      98193, 104032, 110218, 116772, 123715}; // 2^(16 + i/12)
    int octave = (50 - quality + 60) / 12 - 5, i = (50 - quality + 60) % 12;
    int shift = 16 - octave;
    return ((uint64_t)m->lambda50 * root[i] + (1u << (shift - 1))) >> shift;
}

/* ---- encoder ---- */

/* bits: unit 1/256 bit. */
static int32_t rate_cost(uint64_t lambda, uint32_t bits)
{
    uint64_t cost = (lambda * bits) >> 8;
    return cost < MAX_COST ? (int32_t)cost : MAX_COST;
}

static void set_costs(coder *c, int quality)
{
    const search_tables *t = &c->e->search;
    size_t n = (size_t)c->m->n_slices * c->m->n_codes;

    c->lambda = nsvq_lambda(c->m, quality);
    for (size_t i = 0; i < n; i++)
        c->base[i] = t->norm[i] + rate_cost(c->lambda, t->member_bits[i]);
}

static void note(coder *c, const uint16_t *start, uint32_t symbol)
{
    c->symbols[c->n_symbols++] =
        (rans_symbol){start[symbol], (uint16_t)(start[symbol + 1] - start[symbol])};
}

static void encode_slice(coder *c, const prior_position *list, int s, int n)
{
    const search_tables *t = &c->e->search;
    const int32_t *base = c->base + (size_t)s * c->m->n_codes;
    int dim = c->m->dim;
    uint16_t start[PRIOR_MAX_CELLS + 1];
    int32_t cell_cost[PRIOR_MAX_CELLS], cost;
    int16_t r[64];

    for (int i = 0; i < n; i++) {
        const int16_t *y = c->y + latent_at(c, list[i], s), *mu = c->mu + (size_t)(i * dim);
        prior_cells(&c->e->prior, c->logit + (size_t)(i * c->n_cells), c->n_cells, start);
        for (int j = 0; j < c->n_cells; j++)
            cell_cost[j] =
                rate_cost(c->lambda, symbol_bits(t->log2_q8, (uint32_t)(start[j + 1] - start[j])));
        for (int j = 0; j < dim; j++)
            r[j] = (int16_t)clamp_int(y[j] - mu[j], -NSVQ_CODE_MAX, NSVQ_CODE_MAX);
        uint32_t number = c->e->k.search(&t->codebook[s], r, base, cell_cost, &cost);
        note(c, start, number / NSVQ_CELL);
        note(c, member_start(c, s, number / NSVQ_CELL), number % NSVQ_CELL);
        put_code(c, list[i], i, s, number);
    }
}

/* The nearest seed to the first latent: the best guess without side cost. */
static void choose_seed(const coder *c, int8_t seed[3])
{
    int shift = c->m->seed_shift, half = (1 << shift) >> 1;
    for (int i = 0; i < 3; i++)
        seed[i] = (int8_t)clamp_int((c->y[c->m->seed_channel[i]] + half) >> shift, -128, 127);
}

/* A lane costs 4 bytes and gives the decoder's processor more to do at once. */
static int choose_lanes(int bw, int bh)
{
    return bw * bh >= 64 ? 2 : bw * bh >= 16 ? 1 : 0;
}

size_t vq_block_bound(const nsvq_engine *e, int bw, int bh)
{
    return HEAD_BYTES + rans_bound(n_symbols_of(e->m, bw, bh), choose_lanes(bw, bh));
}

int vq_block_encode(const nsvq_engine *e, nsvq_scratch *s, const int16_t *y, int bw, int bh, int quality,
                    uint8_t *out, size_t *size, int16_t *y_hat)
{
    coder c = {.e = e, .y = y, .y_hat = y_hat, .block = {.bw = bw, .bh = bh, .quality = quality}};
    int8_t seed[3];

    if (coder_init(&c, s)) return -1;
    choose_seed(&c, seed);
    set_seed(&c, seed);
    set_costs(&c, quality);
    for (int pass = 0; pass < NSVQ_N_PASSES; pass++) run_pass(&c, pass);

    int lanes = choose_lanes(bw, bh);
    out[0] = (uint8_t)lanes;
    memcpy(out + 1, seed, sizeof seed);
    *size = HEAD_BYTES + rans_encode(out + HEAD_BYTES, c.symbols, c.n_symbols, lanes);
    return 0;
}

/* ---- decoder ---- */

int vq_block_decode(const nsvq_engine *e, nsvq_scratch *s, const uint8_t *in, size_t size, int bw, int bh,
                    int quality, int16_t *y_hat, uint8_t *quiet)
{
    coder c = {.e = e, .y_hat = y_hat, .block = {.bw = bw, .bh = bh, .quality = quality},
               .quiet = quiet, .quiet_limit = JOIN_BITS * (int64_t)nsvq_lambda(e->m, quality)};
    int8_t seed[3];

    if (size < HEAD_BYTES || in[0] > MAX_LOG2_LANES) return -2;
    if (!rans_open(&c.reader, in + HEAD_BYTES, size - HEAD_BYTES, in[0])) return -2;
    if (coder_init(&c, s)) return -1;
    memcpy(seed, in + 1, sizeof seed);
    set_seed(&c, seed);
    for (int pass = 0; pass < NSVQ_N_PASSES && !c.reader.bad; pass++) run_pass(&c, pass);
    return rans_done(&c.reader) ? 0 : -2;
}
