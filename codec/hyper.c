/* hyper.c - the base layer of a block in the hyper family: latents to bytes and back (FORMAT.md 6).
 *
 * Hyper-latents come first; they give every latent a class and so the table of its residual. All
 * residuals follow, in raster order or, of dependent quantisation, in that of the passes, and need nothing
 * else: means, which depend on decoded neighbours, are added when all symbols have been read.
 * May include: engine_impl.h, rans.h, trellis.h. */
#include <stdlib.h>
#include <string.h>

#include "engine_impl.h"
#include "rans.h"
#include "trellis.h"

#define HEAD_BYTES 3     /* quality, lanes and flag */
#define ALL_CLASSES 0x80 /* flag: every residual is coded */
#define BATCH 32         /* contexts gathered at a time */
#define MAX_LOG2_LANES 5
#define MAX_SYMBOLS 4    /* of one residual: table, low bits, sign and size of the excess, the excess */
#define MAX_EXCESS_BITS 14
#define MAX_RESIDUAL INT16_MAX
#define CLASS_WIDTH 24   /* 1/128 octave */
#define CLASS_ZERO 512   /* where class 0 ends below: 2^-4 steps */

/* ---- tables ---- */

/* round(2^15 * 2^(j / 64)) */
static const uint16_t root64[64] = {
    32768, 33125, 33486, 33850, 34219, 34591, 34968, 35349, 35734, 36123, 36516, 36914, 37316,
    37722, 38133, 38548, 38968, 39392, 39821, 40255, 40693, 41136, 41584, 42037, 42495, 42958,
    43425, 43898, 44376, 44859, 45348, 45842, 46341, 46846, 47356, 47871, 48393, 48920, 49452,
    49991, 50535, 51085, 51642, 52204, 52773, 53347, 53928, 54515, 55109, 55709, 56316, 56929,
    57549, 58176, 58809, 59449, 60097, 60751, 61413, 62081, 62757, 63441, 64132, 64830};

static void set_table(symbol_table *t, const uint16_t *log2_q8, int half, int shift, const uint16_t *freq)
{
    t->costs.half = (uint8_t)half;
    t->costs.shift = (uint8_t)shift;
    for (int i = 0; i < NSVQ_CLASS_SYMBOLS; i++) {
        t->start[i + 1] = (uint16_t)(t->start[i] + freq[i]);
        t->costs.bits[i] = freq[i] ? (uint16_t)symbol_bits(log2_q8, freq[i]) : 0;
    }
    for (int i = 0, symbol = 0; i < 256; i++) {
        while (t->start[symbol + 1] <= i << 7) symbol++;
        t->first[i] = (uint8_t)symbol;
    }
}

static void set_dependent(dependent *t, const uint16_t *log2_q8, const nsvq_trellis *d, uint32_t lambda)
{
    t->search.lambda = lambda;
    for (int i = 0; i < 2 * NSVQ_N_CLASSES; i++) {
        int c = i % NSVQ_N_CLASSES, q = i / NSVQ_N_CLASSES;
        set_table(&t->table[c][q], log2_q8, d->half[i], d->shift[i], d->freq + i * NSVQ_CLASS_SYMBOLS);
        t->search.costs[c][q] = t->table[c][q].costs;
    }
    trellis_set_prices(&t->search);
}

static int set_tables(hyper *h, const nsvq_model_desc *m)
{
    const nsvq_hyper *d = &m->hyper;
    uint16_t log2_q8[256];

    log2_table(log2_q8);
    for (int c = 0; c < NSVQ_N_CLASSES; c++)
        set_table(&h->table[c], log2_q8, d->half[c], d->shift[c], d->freq + c * NSVQ_CLASS_SYMBOLS);
    if (!d->trellis.freq) return 0;
    h->dependent = calloc(1, sizeof *h->dependent);
    if (!h->dependent) return -1;
    set_dependent(h->dependent, log2_q8, &d->trellis, m->lambda50);
    return 0;
}

int hyper_create(hyper *h, const nsvq_model_desc *m, const nsvq_kernels *k)
{
    const nsvq_hyper *d = &m->hyper;
    int per = NSVQ_Z_STRIDE / m->stride, st;

    memset(h, 0, sizeof *h);
    st = set_tables(h, m);
    if (!st) st = net_create(&h->synthesis, &d->synthesis, k, d->z + NSVQ_N_EXTRA, 1);
    if (!st && m->has_analysis) st = net_create(&h->analysis, &d->analysis, k, m->latent, per);
    if (!st) st = net_pack(&h->scale, &d->scale, NSVQ_NONE, k);
    if (!st) st = net_pack(&h->base, &d->base, NSVQ_NONE, k);
    for (int p = 1; p < NSVQ_N_PASSES && !st; p++) st = net_pack(&h->mean[p], &d->mean[p], NSVQ_S16, k);
    if (st) hyper_free(h);
    return st;
}

void hyper_free(hyper *h)
{
    net_free(&h->analysis);
    net_free(&h->synthesis);
    nsvq_pointwise_free(&h->scale);
    nsvq_pointwise_free(&h->base);
    for (int p = 0; p < NSVQ_N_PASSES; p++) nsvq_pointwise_free(&h->mean[p]);
    free(h->dependent);
}

/* ---- steps of both ---- */

typedef struct coder {
    const nsvq_engine *e;
    const nsvq_model_desc *m;
    const hyper *h;
    nsvq_scratch *s;
    int n_latent, n_z, n_side, per, bw, bh, zw, zh, quality16;
    int first_class;   /* below it residuals are 0: the model's, or 0 */
    int32_t *step[NSVQ_N_PASSES], *z_step;   /* [L], [Z] 1/16 unit */
    int16_t *below[NSVQ_N_PASSES], *z_below; /* [L], [Z] what a log2 scale has to exceed to leave class 0 */
    int16_t *z_hat;    /* [zh][zw][Z + NSVQ_N_EXTRA] */
    uint8_t *side;     /* [bh][bw][S] */
    int16_t *scale;    /* [bw][L] of a row */
    uint8_t *cls;      /* [bh][bw][L] */
    int16_t *residual; /* [bh][bw][L] */
    int16_t *base;     /* [bh][bw][L] */
    int16_t *ctx, *mu; /* [BATCH][X], [BATCH][L]; what searches dependent residuals needs a pass of mu */
    prior_position *list;
    uint8_t *state;    /* [L] dependent quantisation */
    uint16_t *coded;   /* [L] channels that have a residual */
    int16_t *y_hat;    /* [bh][bw][L + NSVQ_N_EXTRA] */
    /* encoder: y is NULL in the decoder */
    const int16_t *y;
    int16_t *z;        /* [zh][zw][Z], then residuals */
    rans_symbol *symbols;
    size_t n_symbols;
    int64_t spent;     /* on residuals, as in choose */
    int64_t skipping;  /* what leaving classes out has cost more than coding them would */
    trellis_pass search;
    int *at;           /* raster number of each position of a pass */
    /* decoder */
    rans_reader reader;
} coder;

static size_t n_residuals(const nsvq_model_desc *m, int bw, int bh)
{
    int per = NSVQ_Z_STRIDE / m->stride;
    size_t zw = (size_t)((bw + per - 1) / per), zh = (size_t)((bh + per - 1) / per);
    return (size_t)bw * (size_t)bh * m->latent + zw * zh * m->hyper.z;
}

static void place(coder *c, carver *k)
{
    size_t n = (size_t)c->bw * (size_t)c->bh, nz = (size_t)c->zw * (size_t)c->zh;
    size_t L = (size_t)c->n_latent, Z = (size_t)c->n_z, item = sizeof(int16_t);
    size_t n_pass = (n + 1) / 2; // the last pass has half of all positions, the others together what is left
    bool searches = c->y && c->h->dependent;

    for (int p = 0; p < NSVQ_N_PASSES; p++) {
        c->step[p] = carve(k, L * sizeof *c->step[p]);
        c->below[p] = carve(k, L * item);
    }
    c->z_step = carve(k, Z * sizeof *c->z_step);
    c->z_below = carve(k, Z * item);
    c->z_hat = carve(k, nz * (Z + NSVQ_N_EXTRA) * item);
    c->side = carve(k, n * (size_t)c->n_side);
    c->scale = carve(k, (size_t)c->bw * L * item);
    c->cls = carve(k, n * L);
    c->residual = carve(k, n * L * item);
    c->base = carve(k, n * L * item);
    c->ctx = carve(k, BATCH * (4 * L + NSVQ_N_EXTRA) * item);
    c->mu = carve(k, (searches && n_pass > BATCH ? n_pass : BATCH) * L * item);
    c->list = carve(k, n * sizeof *c->list);
    c->state = carve(k, L);
    c->coded = carve(k, L * sizeof *c->coded);
    if (!c->y) return;
    c->z = carve(k, nz * Z * item);
    c->symbols = carve(k, MAX_SYMBOLS * n_residuals(c->m, c->bw, c->bh) * sizeof *c->symbols);
    if (!searches) return;
    c->at = carve(k, n_pass * sizeof *c->at);
    c->search.work = carve(k, trellis_work((int)n_pass));
}

/* Step and class bound of a log2 step, unit 1/256. */
static void set_step(int l, int32_t *step, int16_t *below)
{
    l = clamp_int(l, 1024, 3840);
    *step = (int32_t)((((uint32_t)root64[l >> 2 & 63] << (l >> 8)) + (1 << 14)) >> 15);
    *below = (int16_t)(((l - 2816) >> 1) - CLASS_ZERO);
}

static void set_steps(coder *c)
{
    const nsvq_hyper *d = &c->m->hyper;
    int k = c->quality16 >> 9, r = c->quality16 & 511, L = c->n_latent, n = L + c->n_z;
    int base = 2560 + (5 * 1600 + (800 - c->quality16) * 4) / 5 - 1600; // a division that rounds down

    for (int i = 0; i < n; i++) {
        const int16_t *g = d->gain + (size_t)k * (size_t)n + i;
        int gain = (g[0] * (512 - r) + g[n] * r + 256) >> 9;
        if (i >= L) set_step(2816 + gain, &c->z_step[i - L], &c->z_below[i - L]);
        for (int p = 0; i < L && p < NSVQ_N_PASSES; p++)
            set_step(base + gain + (d->pass_gain ? d->pass_gain[p * L + i] : 0), &c->step[p][i], &c->below[p][i]);
    }
}

static int coder_init(coder *c, nsvq_scratch *s)
{
    carver size = {0}, k = {0};

    c->m = c->e->m;
    c->h = &c->e->hyper;
    c->s = s;
    c->n_latent = c->m->latent;
    c->n_z = c->m->hyper.z;
    c->n_side = c->m->hyper.side;
    c->first_class = c->m->hyper.first_class;
    c->per = NSVQ_Z_STRIDE / c->m->stride;
    c->zw = (c->bw + c->per - 1) / c->per;
    c->zh = (c->bh + c->per - 1) / c->per;
    place(c, &size);
    if (!(k.base = scratch_keep(s, size.used))) return -1;
    place(c, &k);
    set_steps(c);
    return 0;
}

/* In 16 bits, for the vectoriser: below is within -1408 .. 0, and the quotient by CLASS_WIDTH is that of
 * 2^16 / CLASS_WIDTH, rounded up, for these numbers. */
static uint8_t class_of(int16_t log2_scale, int16_t below)
{
    int16_t v = log2_scale < -8191 ? -8191 : log2_scale > 8191 ? 8191 : log2_scale;

    v = (int16_t)(v - below);
    v = v < 0 ? 0 : v > NSVQ_N_CLASSES * CLASS_WIDTH - 1 ? NSVQ_N_CLASSES * CLASS_WIDTH - 1 : v;
    return (uint8_t)((uint16_t)v * (uint32_t)((65536 + CLASS_WIDTH - 1) / CLASS_WIDTH) >> 16);
}

static void classes_of(uint8_t *restrict cls, const int16_t *restrict log2_scale, const int16_t *restrict below, size_t n)
{
    for (size_t i = 0; i < n; i++) cls[i] = class_of(log2_scale[i], below[i]);
}

static void set_extra(const coder *c, int16_t *to)
{
    to[0] = (int16_t)((c->quality16 - 800) * 4);
    to[1] = to[2] = to[3] = 0;
}

static void load_z_hat(const void *user, int16_t *out, int x, int y, int n)
{
    const coder *c = user;
    size_t width = (size_t)c->n_z + NSVQ_N_EXTRA;
    memcpy(out, c->z_hat + (size_t)(y * c->zw + x) * width, (size_t)n * width * sizeof *out);
}

/* Row y of the hyper-latents' synthesis goes to its latents. */
static void emit_side(const void *user, const int16_t *row, int y)
{
    const coder *c = user;
    const uint8_t *from = (const uint8_t *)row;
    size_t n = (size_t)c->n_side;

    for (int x = 0; x < c->zw; x++)
        for (int ky = 0; ky < c->per; ky++)
            for (int kx = 0; kx < c->per; kx++, from += n) {
                int lx = x * c->per + kx, ly = y * c->per + ky;
                if (lx < c->bw && ly < c->bh) memcpy(c->side + (size_t)(ly * c->bw + lx) * n, from, n);
            }
}

/* z_hat -> what scales and means are made of. */
static int run_synthesis(coder *c)
{
    net_job job = {.ww = c->zw, .wh = c->zh, .want = {0, 0, c->zw, c->zh}, .user = c,
                   .load = load_z_hat, .emit = emit_side};
    for (int i = 0; i < c->zw * c->zh; i++)
        set_extra(c, c->z_hat + (size_t)i * ((size_t)c->n_z + NSVQ_N_EXTRA) + c->n_z);
    return net_run(&c->h->synthesis, c->s, &job);
}

/* Classes and means of row y. */
static void row_model(coder *c, int y)
{
    const nsvq_kernels *k = &c->e->k;
    size_t L = (size_t)c->n_latent, first = (size_t)y * (size_t)c->bw;
    const uint8_t *side = c->side + first * (size_t)c->n_side;
    uint8_t *cls = c->cls + first * L;

    k->pointwise(c->scale, side, NULL, &c->h->scale, c->bw);
    k->pointwise(c->base + first * L, side, NULL, &c->h->base, c->bw);
    for (size_t x = 0; x < (size_t)c->bw; x++)
        classes_of(cls + x * L, c->scale + x * L, c->below[prior_pass((int)x, y)], L);
}

static void z_value(coder *c, int position, int i, int r)
{
    const nsvq_hyper *d = &c->m->hyper;
    c->z_hat[(size_t)position * ((size_t)c->n_z + NSVQ_N_EXTRA) + (size_t)i] =
        nsvq_clamp_latent(d->z_mean[i] + ((r * c->z_step[i] + 8) >> 4));
}

static const symbol_table *z_table(const coder *c, int i)
{
    return &c->h->table[class_of(c->m->hyper.z_scale[i], c->z_below[i])];
}

static void quantise(coder *c, const int16_t *mu, const int32_t *step, prior_position at);

static void add_residuals(int16_t *restrict y_hat, const int16_t *restrict mu, const int16_t *restrict r,
                          const int32_t *restrict step, size_t n)
{
    for (size_t i = 0; i < n; i++) y_hat[i] = nsvq_clamp_latent(mu[i] + ((r[i] * step[i] + 8) >> 4));
}

/* Latents from means and residuals; the encoder chooses residuals here that do not depend on each other. */
static void put_latent(coder *c, const int16_t *mu, const int32_t *step, prior_position at)
{
    size_t L = (size_t)c->n_latent, i = (size_t)(at.y * c->bw + at.x);
    int16_t *out = c->y_hat + i * (L + NSVQ_N_EXTRA);

    if (c->y && !c->h->dependent) quantise(c, mu, step, at);
    add_residuals(out, mu, c->residual + i * L, step, L);
    set_extra(c, out + L);
}

/* mu of positions: first the base, then with what the neighbours say. */
static void find_means(coder *c, int pass, const prior_position *list, int n, int16_t *mu)
{
    size_t L = (size_t)c->n_latent, X = 4 * L + NSVQ_N_EXTRA;
    prior_block b = {.bw = c->bw, .bh = c->bh, .n_latent = c->n_latent,
                     .pitch = c->n_latent + NSVQ_N_EXTRA, .latents = c->y_hat};

    for (int i = 0; i < n; i++) {
        memcpy(mu + (size_t)i * L, c->base + (size_t)(list[i].y * c->bw + list[i].x) * L, L * sizeof *mu);
        if (!pass) continue;
        prior_neighbours(c->ctx + (size_t)i * X, &b, pass, list[i]);
        set_extra(c, c->ctx + (size_t)i * X + 4 * L);
    }
    if (pass) c->e->k.pointwise(mu, c->ctx, mu, &c->h->mean[pass], n);
}

static void search_pass(coder *c, int n, const int32_t *step);

static void run_pass(coder *c, int pass)
{
    size_t L = (size_t)c->n_latent;
    const int32_t *step = c->step[pass];
    int n = prior_positions(c->list, pass, c->bw, c->bh);
    bool searches = c->y && c->h->dependent;

    for (int from = 0, count; from < n; from += count) {
        int16_t *mu = c->mu + (searches ? (size_t)from * L : 0);
        count = n - from < BATCH ? n - from : BATCH;
        find_means(c, pass, c->list + from, count, mu);
        for (int i = 0; !searches && i < count; i++) put_latent(c, mu + (size_t)i * L, step, c->list[from + i]);
    }
    if (!searches) return;
    search_pass(c, n, step);
    for (int i = 0; i < n; i++) put_latent(c, c->mu + (size_t)i * L, step, c->list[i]);
}

/* Lists the channels of position i of the raster that have a residual, without a branch that nobody could
 * foresee; returns their number. */
static size_t find_coded(coder *c, size_t i)
{
    const uint8_t *cls = c->cls + i * (size_t)c->n_latent;
    size_t n = 0;

    for (int j = 0; j < c->n_latent; j++) {
        c->coded[n] = (uint16_t)j;
        n += cls[j] >= c->first_class;
    }
    return n;
}

/* ---- decoder ---- */

/* A residual or, of dependent quantisation, its index. */
static int get_residual(coder *c, const symbol_table *t)
{
    int half = t->costs.half, shift = t->costs.shift;
    int v = rans_get_by(&c->reader, t->start, t->first) - half;

    if (v > half) {
        unsigned head = rans_get_bits(&c->reader, 5), size = head >> 1;
        if (size > MAX_EXCESS_BITS) {
            c->reader.bad = true;
            return 0;
        }
        v += (1 << size) - 1 + (size ? (int)rans_get_bits(&c->reader, (int)size) : 0);
        if (head & 1) v = -v;
    }
    if (shift) v = v * (1 << shift) + (int)rans_get_bits(&c->reader, shift);
    if (v > MAX_RESIDUAL || v < -MAX_RESIDUAL) c->reader.bad = true;
    return clamp_int(v, -MAX_RESIDUAL, MAX_RESIDUAL);
}

static void get_z(coder *c)
{
    for (int p = 0; p < c->zw * c->zh; p++)
        for (int i = 0; i < c->n_z; i++) z_value(c, p, i, get_residual(c, z_table(c, i)));
}

static void get_row(coder *c, int y)
{
    size_t n = (size_t)c->bw * (size_t)c->n_latent;
    const uint8_t *cls = c->cls + (size_t)y * n;
    int16_t *r = c->residual + (size_t)y * n;

    memset(r, 0, n * sizeof *r);
    for (size_t i = 0; i < n; i++)
        if (cls[i] >= c->first_class) r[i] = (int16_t)get_residual(c, &c->h->table[cls[i]]);
}

/* Residuals of position i of the raster. */
static void get_dependent(coder *c, size_t i)
{
    size_t L = (size_t)c->n_latent, n = find_coded(c, i);
    const uint8_t *cls = c->cls + i * L;
    int16_t *r = c->residual + i * L;

    memset(r, 0, L * sizeof *r);
    for (size_t m = 0; m < n; m++) {
        size_t j = c->coded[m];
        int q = c->state[j] & 1, k = get_residual(c, &c->h->dependent->table[cls[j]][q]);
        if (abs(k) > TRELLIS_MAX) {
            c->reader.bad = true;
            return;
        }
        r[j] = (int16_t)trellis_residual(k, q);
        c->state[j] = trellis_next[c->state[j]][k & 1];
    }
}

static void get_all_dependent(coder *c)
{
    memset(c->state, 0, (size_t)c->n_latent);
    for (int pass = 0; pass < NSVQ_N_PASSES; pass++) {
        int n = prior_positions(c->list, pass, c->bw, c->bh);
        for (int i = 0; i < n && !c->reader.bad; i++)
            get_dependent(c, (size_t)(c->list[i].y * c->bw + c->list[i].x));
    }
}

int hyper_block_decode(const nsvq_engine *e, nsvq_scratch *s, const uint8_t *in, size_t size, int bw,
                       int bh, int16_t *y_hat)
{
    coder c = {.e = e, .bw = bw, .bh = bh, .y_hat = y_hat};

    if (size < HEAD_BYTES || (in[2] & ~ALL_CLASSES) > MAX_LOG2_LANES) return -2;
    c.quality16 = in[0] | in[1] << 8;
    if (c.quality16 < NSVQ_MIN_QUALITY16 || c.quality16 > NSVQ_MAX_QUALITY16) return -2;
    if (!rans_open(&c.reader, in + HEAD_BYTES, size - HEAD_BYTES, in[2] & ~ALL_CLASSES)) return -2;
    if (coder_init(&c, s)) return -1;
    if (in[2] & ALL_CLASSES) c.first_class = 0;
    get_z(&c);
    if (c.reader.bad) return -2;
    if (run_synthesis(&c)) return -1;
    for (int y = 0; y < bh && !c.reader.bad; y++) {
        row_model(&c, y);
        if (!c.h->dependent) get_row(&c, y);
    }
    if (c.h->dependent) get_all_dependent(&c);
    if (!rans_done(&c.reader)) return -2;
    for (int pass = 0; pass < NSVQ_N_PASSES; pass++) run_pass(&c, pass);
    return 0;
}

/* ---- encoder ---- */

static void note(coder *c, unsigned start, unsigned freq)
{
    c->symbols[c->n_symbols++] = (rans_symbol){(uint16_t)start, (uint16_t)freq};
}

static void note_bits(coder *c, unsigned v, int n)
{
    note(c, v << (RANS_BITS - n), 1u << (RANS_BITS - n));
}

static int log2_floor(unsigned v)
{
    return 31 - __builtin_clz(v);
}

static void put_residual(coder *c, const symbol_table *t, int r)
{
    const uint16_t *start = t->start;
    int half = t->costs.half, shift = t->costs.shift, v = r >> shift, symbol = v + half;

    if (abs(v) > half) {
        unsigned excess = (unsigned)(abs(v) - half); // from 1 on
        int n = log2_floor(excess);
        symbol = 2 * half + 1;
        note(c, start[symbol], start[symbol + 1] - start[symbol]);
        note_bits(c, (unsigned)n << 1 | (v < 0), 5);
        if (n) note_bits(c, excess - (1u << n), n);
    } else {
        note(c, start[symbol], start[symbol + 1] - start[symbol]);
    }
    if (shift) note_bits(c, (unsigned)r & ((1u << shift) - 1), shift);
}

/* Nearest residual, or the next towards 0 when that is cheaper by squared error + lambda * bits (*cost);
 * in steps, squares in 1/65536, lambda in 1/1024. a: the distance from the mean, in 1/256 step. */
static int choose(const symbol_table *t, int a, bool negative, int64_t lambda, int64_t *cost_of)
{
    int near = clamp_int((a + 128) >> 8, 0, MAX_RESIDUAL), best = 0;
    int64_t least = INT64_MAX;

    for (int k = near; k >= 0 && k >= near - 1; k--) {
        int err = a - (k << 8);
        int64_t cost = (int64_t)err * err + lambda * symbol_costs_of(&t->costs, negative ? -k : k) / 4;
        if (cost > least) continue;
        least = cost;
        best = k;
    }
    *cost_of = least;
    return negative ? -best : best;
}

static void quantise(coder *c, const int16_t *mu, const int32_t *step, prior_position at)
{
    size_t L = (size_t)c->n_latent, i = (size_t)(at.y * c->bw + at.x);
    const int16_t *y = c->y + i * L;
    const uint8_t *cls = c->cls + i * L;
    int16_t *r = c->residual + i * L;

    for (size_t j = 0; j < L; j++) {
        int d = nsvq_clamp_latent(y[j]) - mu[j], a = abs(d) * 4096 / step[j];
        int64_t cost;
        r[j] = (int16_t)choose(&c->h->table[cls[j]], a, d < 0, c->m->lambda50, &cost);
        if (cls[j] >= c->first_class) {
            c->spent += cost;
            continue;
        }
        c->skipping += (int64_t)a * a - cost;
        r[j] = 0;
    }
}

static void search_pass(coder *c, int n, const int32_t *step)
{
    trellis_pass *p = &c->search;

    for (int i = 0; i < n; i++) c->at[i] = c->list[i].y * c->bw + c->list[i].x;
    *p = (trellis_pass){.n = n, .n_channels = c->n_latent, .first_class = c->first_class, .at = c->at, .y = c->y,
                        .mu = c->mu, .cls = c->cls, .step = step, .state = c->state, .residual = c->residual,
                        .work = p->work};
    trellis_search(&c->h->dependent->search, p);
    c->spent += p->spent;
    c->skipping += p->skipping;
}

/* All passes: residuals and what the decoder makes of them. */
static void quantise_all(coder *c)
{
    memset(c->state, 0, (size_t)c->n_latent);
    for (int pass = 0; pass < NSVQ_N_PASSES; pass++) run_pass(c, pass);
}

static void put_dependent(coder *c, size_t i)
{
    size_t L = (size_t)c->n_latent, n = find_coded(c, i);
    const uint8_t *cls = c->cls + i * L;
    const int16_t *r = c->residual + i * L;

    for (size_t m = 0; m < n; m++) {
        size_t j = c->coded[m];
        int q = c->state[j] & 1, k = trellis_index(r[j], q);
        put_residual(c, &c->h->dependent->table[cls[j]][q], k);
        c->state[j] = trellis_next[c->state[j]][k & 1];
    }
}

static void put_residuals(coder *c)
{
    size_t n = (size_t)c->bw * (size_t)c->bh * (size_t)c->n_latent;

    for (size_t i = 0; !c->h->dependent && i < n; i++)
        if (c->cls[i] >= c->first_class) put_residual(c, &c->h->table[c->cls[i]], c->residual[i]);
    memset(c->state, 0, (size_t)c->n_latent);
    for (int pass = 0; c->h->dependent && pass < NSVQ_N_PASSES; pass++) {
        int n_positions = prior_positions(c->list, pass, c->bw, c->bh);
        for (int i = 0; i < n_positions; i++)
            put_dependent(c, (size_t)(c->list[i].y * c->bw + c->list[i].x));
    }
}

/* The last column and row go on to the end of their hyper-latent. */
static void load_y(const void *user, int16_t *out, int x, int y, int n)
{
    const coder *c = user;
    size_t L = (size_t)c->n_latent;

    y = y < c->bh ? y : c->bh - 1;
    for (int i = 0; i < n; i++, out += L) {
        int from = x + i < c->bw ? x + i : c->bw - 1;
        const int16_t *in = c->y + (size_t)(y * c->bw + from) * L;
        for (size_t j = 0; j < L; j++) out[j] = nsvq_clamp_latent(in[j]);
    }
}

static void emit_z(const void *user, const int16_t *row, int y)
{
    const coder *c = user;
    size_t n = (size_t)c->zw * (size_t)c->n_z;
    memcpy(c->z + (size_t)y * n, row, n * sizeof *row);
}

static int make_z(coder *c)
{
    net_job job = {.ww = c->zw, .wh = c->zh, .want = {0, 0, c->zw, c->zh}, .user = c,
                   .load = load_y, .emit = emit_z};
    // 1/2: measured; dependent quantisation has finer steps of latents, of which a bit is worth twice as many squared
    int64_t lambda = c->m->lambda50 / (c->h->dependent ? 4 : 2);
    if (net_run(&c->h->analysis, c->s, &job)) return -1;
    for (int p = 0; p < c->zw * c->zh; p++)
        for (int i = 0; i < c->n_z; i++) {
            int16_t *z = c->z + (size_t)p * (size_t)c->n_z + (size_t)i;
            int d = *z - c->m->hyper.z_mean[i], a = abs(d) * 4096 / c->z_step[i];
            int64_t cost;
            *z = (int16_t)choose(z_table(c, i), a, d < 0, lambda, &cost);
            z_value(c, p, i, *z);
            put_residual(c, z_table(c, i), *z);
        }
    return 0;
}

/* A lane costs 4 bytes and gives the decoder's processor more to do at once. */
static int choose_lanes(int bw, int bh)
{
    return bw * bh >= 256 ? 2 : bw * bh >= 64 ? 1 : 0;
}

size_t hyper_block_bound(const nsvq_engine *e, int bw, int bh)
{
    return HEAD_BYTES + rans_bound(MAX_SYMBOLS * n_residuals(e->m, bw, bh), choose_lanes(bw, bh));
}

int hyper_block_encode(const nsvq_engine *e, nsvq_scratch *s, const int16_t *y, int bw, int bh,
                       int quality16, uint8_t *out, size_t *size, int16_t *y_hat)
{
    coder c = {.e = e, .y = y, .y_hat = y_hat, .bw = bw, .bh = bh, .quality16 = quality16};
    int lanes = choose_lanes(bw, bh);

    if (coder_init(&c, s)) return -1;
    if (make_z(&c) || run_synthesis(&c)) return -1;
    for (int r = 0; r < bh; r++) row_model(&c, r);
    quantise_all(&c);
    if (skips_too_much(c.skipping, c.spent)) {
        c.first_class = 0;
        quantise_all(&c);
    }
    put_residuals(&c);

    out[0] = (uint8_t)quality16;
    out[1] = (uint8_t)(quality16 >> 8);
    out[2] = (uint8_t)(c.first_class ? lanes : lanes | ALL_CLASSES);
    *size = HEAD_BYTES + rans_encode(out + HEAD_BYTES, c.symbols, c.n_symbols, lanes);
    return 0;
}
