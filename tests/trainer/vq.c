/* vq.c - the float quantiser against FORMAT.md 5.2 to 5.4 and against the integer engine: order,
 * contexts, choices, bits. */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "engine.h"
#include "export.h"
#include "prior.h"
#include "rans.h"
#include "reference.h"
#include "support.h"

static dataset pictures;
static model   trained;

/* ---- order and contexts, once more from the text ---- */

/* The pass of (x, y), rule by rule as the table of 5.2 words them. */
static int table_pass(int x, int y)
{
    const bool rule[NSVQ_N_PASSES] = {x % 4 == 0 && y % 4 == 0, x % 4 == 2 && y % 4 == 2,
                                      x % 2 == 0 && y % 2 == 0, x % 2 == 1 && y % 2 == 1,
                                      (x + y) % 2 == 1};
    for (int pass = 0; pass < NSVQ_N_PASSES; pass++)
        if (rule[pass]) return pass;
    return -1;
}

/* Neighbours of 5.2 in their order, as text; step: the distance of the pass. */
static void table_neighbour(int pass, int i, int *dx, int *dy)
{
    static const char *const text[NSVQ_N_PASSES] = {
        "(-4,0) (0,-4) (-4,-4) (4,-4)", "(-2,-2) (2,2) (2,-2) (-2,2)", "(-2,0) (2,0) (0,-2) (0,2)",
        "(-1,-1) (1,1) (1,-1) (-1,1)",  "(-1,0) (1,0) (0,-1) (0,1)"};
    const char *t = text[pass];
    while (i-- > 0) t = strchr(t + 1, '(');
    char *end;
    *dx = (int)strtol(t + 1, &end, 10);
    *dy = (int)strtol(end + 1, NULL, 10);
}

static void check_order(const vq_patch *p, int w, int h)
{
    int at = 0;
    assert_int_equal(p->n, w * h);
    for (int pass = 0; pass < NSVQ_N_PASSES; pass++) {
        assert_int_equal(p->pass_at[pass], at);
        for (int i = 0; i < w * h; i++)
            if (table_pass(i % w, i / w) == pass) {
                if (p->pos[at] != i)
                    fail_msg("%d x %d: number %d is %d, not %d", w, h, at, p->pos[at], i);
                at++;
            }
    }
    assert_int_equal(p->pass_at[NSVQ_N_PASSES], at);
    assert_int_equal(at, w * h);
}

/* Context i of the patch; y_hat [h][w][L] has values that tell position and channel. */
static void check_context(const vq *q, const vq_patch *p, int i, int w, int h, const float *y_hat,
                          float quality)
{
    const int x = p->pos[i] % w, y = p->pos[i] / w, L = q->latent, pass = table_pass(x, y);
    const float *ctx = p->ctx + (size_t)i * (size_t)q->context;
    int inside[NSVQ_N_NEIGHBOURS], first = -1, outside = 0;
    for (int j = 0; j < NSVQ_N_NEIGHBOURS; j++) {
        int dx, dy;
        table_neighbour(pass, j, &dx, &dy);
        const bool in = x + dx >= 0 && x + dx < w && y + dy >= 0 && y + dy < h;
        inside[j] = in ? (y + dy) * w + x + dx : -1;
        outside += !in;
        if (in && first < 0) first = inside[j];
        /* What a context looks at has been decoded. */
        for (int k = i; in && k < p->n; k++) assert_int_not_equal(p->pos[k], inside[j]);
    }
    for (int j = 0; j < NSVQ_N_NEIGHBOURS; j++)
        for (int c = 0; c < L; c++) {
            const int from = inside[j] >= 0 ? inside[j] : first;
            float want = from >= 0 ? y_hat[(size_t)from * (size_t)L + (size_t)c] : 0.f;
            for (int k = 0; from < 0 && k < 3; k++)
                if (q->seed_channel[k] == c) want = p->seed[k];
            if (ctx[j * L + c] != want)
                fail_msg("%d x %d at (%d, %d): neighbour %d, channel %d: %g, not %g", w, h, x, y, j, c,
                         ctx[j * L + c], want);
        }
    const float *extra = ctx + NSVQ_N_NEIGHBOURS * L;
    assert_true(extra[0] * LATENT_ONE == (quality - 50.f) * 64.f);
    assert_true(extra[1] * LATENT_ONE == 1024.f * (float)outside);
    assert_true(extra[2] == 0.f && extra[3] == 0.f);
}

/* The same context out of the engine's own function, in its integers. */
static void check_engine_context(const vq *q, const vq_patch *p, int i, int w, int h,
                                 const int16_t *latents, const int16_t *seed, int quality)
{
    const int x = p->pos[i] % w, y = p->pos[i] / w;
    const prior_block b = {.bw = w, .bh = h, .n_latent = q->latent, .quality = quality,
                           .pitch = q->latent, .latents = latents, .seed = seed};
    int16_t ctx[4 * 64 + NSVQ_N_EXTRA];
    assert_true(q->context <= 4 * 64 + NSVQ_N_EXTRA);
    prior_context(ctx, &b, table_pass(x, y), (prior_position){(uint8_t)x, (uint8_t)y});
    for (int c = 0; c < q->context; c++)
        assert_true(p->ctx[(size_t)i * (size_t)q->context + (size_t)c] * LATENT_ONE == ctx[c]);
}

static void check_block(const vq *q, vq_patch *p, int w, int h, int quality)
{
    const size_t L = (size_t)q->latent, n = (size_t)(w * h) * L;
    int16_t *latents = malloc(n * sizeof *latents), *seed = calloc(L, sizeof *seed);
    float *y_hat = malloc(n * sizeof *y_hat);
    assert_true(latents && seed && y_hat);
    for (size_t i = 0; i < n; i++) { /* position in the high bits, channel in the low ones */
        latents[i] = (int16_t)((int)(i / L) * 8 % 8000 + (int)(i % L));
        y_hat[i] = (float)latents[i] / LATENT_ONE;
    }
    for (int k = 0; k < 3; k++) {
        seed[q->seed_channel[k]] = (int16_t)(-64 * (k + 1));
        p->seed[k] = -64.f * (float)(k + 1) / LATENT_ONE;
    }
    vq_reserve(q, p, w * h);
    vq_order(p, w, h);
    check_order(p, w, h);
    for (int i = 0; i < p->n; i++) {
        vq_context(q, p, i, w, h, y_hat, (float)quality);
        check_context(q, p, i, w, h, y_hat, (float)quality);
        check_engine_context(q, p, i, w, h, latents, seed, quality);
    }
    free(latents); free(seed); free(y_hat);
}

static void order_and_contexts_are_the_formats(void **state)
{
    model m;
    vq_patch p = {0};
    model_random(&m, &tiny_preset, 1);
    for (int h = 1; h <= 10; h++)
        for (int w = 1; w <= 10; w++) check_block(&m.q, &p, w, h, 1 + 9 * h + w);
    check_block(&m.q, &p, 32, 32, 50);
    check_block(&m.q, &p, 31, 1, 100);
    vq_patch_free(&p);
    model_free(&m);
}

/* ---- against the engine ---- */

typedef struct block {
    const nsvq_model_desc *d;
    nsvq_kernels k;
    prior        prior;
    int          w, h, quality;
    int16_t     *y_hat, *seed; /* what the engine made of it */
    int         *number;       /* [position][slice]: its codes */
} block;

static int clamp(int v, int low, int high)
{
    return v < low ? low : v > high ? high : v;
}

static const int16_t *code_of(const nsvq_model_desc *d, int s, int number)
{
    return d->codes + ((size_t)s * d->n_codes + (size_t)number) * d->dim;
}

/* A position while a block is read (FORMAT.md 5.4). */
typedef struct reading { int16_t mean[128], hid[256], words[8 * 64]; } reading;

static void read_context(const block *b, int at, int pass, reading *r)
{
    const prior_block pb = {.bw = b->w, .bh = b->h, .n_latent = b->d->n_slices * b->d->dim,
                            .quality = b->quality, .pitch = b->d->latent, .latents = b->y_hat, .seed = b->seed};
    int16_t ctx[4 * 128 + NSVQ_N_EXTRA];
    prior_context(ctx, &pb, pass, (prior_position){(uint8_t)(at % b->w), (uint8_t)(at / b->w)});
    b->k.pointwise(r->mean, ctx, NULL, &b->prior.mean[pass], 1);
    b->k.pointwise(r->hid, ctx, NULL, &b->prior.ctx[pass], 1);
}

static void read_code(const block *b, int at, int s, reading *r, rans_reader *in)
{
    const nsvq_model_desc *d = b->d;
    const int D = d->dim, K = (int)(d->n_codes / NSVQ_CELL);
    int16_t *y = b->y_hat + (size_t)(at * d->n_slices * D + s * D);
    int16_t logit[64], mu[64];
    uint8_t h[256];
    uint16_t start[65];
    if (s) b->k.pointwise(h, r->words, r->hid, &b->prior.prev[s], 1);
    for (int i = 0; !s && i < d->prior.hidden; i++) h[i] = (uint8_t)clamp(r->hid[i], 0, 255);
    b->k.pointwise(logit, h, NULL, &b->prior.logit[s], 1);
    b->k.pointwise(mu, h, r->mean + s * D, &b->prior.shiftm[s], 1);
    prior_cells(&b->prior, logit, K, start);
    const int cell = rans_get(in, start, K);
    const uint16_t *members = b->prior.member_start + (size_t)(s * K + cell) * PRIOR_MEMBER_START;
    const int number = cell * NSVQ_CELL + rans_get(in, members, NSVQ_CELL);
    b->number[at * d->n_slices + s] = number;
    memcpy(r->words + s * D, code_of(d, s, number), sizeof *mu * (size_t)D);
    for (int i = 0; i < D; i++)
        y[i] = (int16_t)clamp(clamp(mu[i], -NSVQ_LATENT_MAX, NSVQ_LATENT_MAX) + r->words[s * D + i],
                              -NSVQ_LATENT_MAX, NSVQ_LATENT_MAX);
}

/* Reads a block as FORMAT.md says, for the numbers of its codes. */
static void read_block(const block *b, const uint8_t *bytes, size_t size)
{
    const nsvq_model_desc *d = b->d;
    reading *r = malloc(sizeof *r * (size_t)(b->w * b->h));
    int *list = malloc(sizeof *list * (size_t)(b->w * b->h));
    rans_reader in;
    assert_true(r && list && d->n_slices * d->dim <= 128 && d->prior.hidden <= 256);
    assert_true(rans_open(&in, bytes + 4, size - 4, bytes[0]));
    memset(b->seed, 0, sizeof *b->seed * (size_t)(d->n_slices * d->dim));
    for (int i = 0; i < 3; i++)
        b->seed[d->seed_channel[i]] =
            (int16_t)clamp((int8_t)bytes[1 + i] * (1 << d->seed_shift), -NSVQ_LATENT_MAX, NSVQ_LATENT_MAX);
    for (int pass = 0; pass < NSVQ_N_PASSES; pass++) {
        int n = 0;
        for (int at = 0; at < b->w * b->h; at++)
            if (table_pass(at % b->w, at / b->w) == pass) list[n++] = at;
        for (int from = 0, step; from < n; from += step) {
            step = pass ? n : 1;
            for (int i = from; i < from + step; i++) read_context(b, list[i], pass, &r[i]);
            for (int s = 0; s < d->n_slices; s++)
                for (int i = from; i < from + step; i++) read_code(b, list[i], s, &r[i], &in);
        }
    }
    assert_true(rans_done(&in));
    free(r);
    free(list);
}

/* The weights that the integers of an emitted layer stand for. */
static void dequantise(float *params, const layer *l, const nsvq_layer *e, float in, float out)
{
    for (int o = 0; o < l->cout; o++) {
        const float unit = out * (float)e->mul[o] / 32768.f / (float)(1 << e->shift[o]);
        const int half = e->shift[o] ? 1 << (e->shift[o] - 1) : 0;
        params[l->b + (size_t)o] = unit * (float)(e->bias[o] - half);
        for (int i = 0; i < l->cin; i++) {
            const size_t at = (size_t)o * (size_t)l->cin + (size_t)i;
            params[l->w + at] = unit / in * (float)e->wt[at];
        }
    }
}

/* The float model with the integers' own weights and codes: what differs then is rounding alone. */
static void adopt_integers(model *m, const nsvq_model_desc *d, float hidden)
{
    vq *q = &m->q;
    const float latent = 1.f / LATENT_ONE;
    float *p = m->st.p;
    for (int i = 0; i < NSVQ_N_PASSES; i++) {
        dequantise(p, &q->mean[i], &d->prior.mean[i], latent, latent);
        dequantise(p, &q->ctx[i], &d->prior.ctx[i], latent, hidden);
    }
    for (int s = 0; s < q->slices; s++) {
        if (s) dequantise(p, &q->prev[s], &d->prior.prev[s], latent, hidden);
        dequantise(p, &q->logit[s], &d->prior.logit[s], hidden, 1.f / 32);
        dequantise(p, &q->shiftm[s], &d->prior.shiftm[s], hidden, latent);
    }
    for (size_t i = 0; i < (size_t)q->slices * q->codes * q->dim; i++)
        q->code[i] = (float)d->codes[i] / LATENT_ONE;
    vq_refresh(q);
}

typedef struct tally {
    long   same, forced, all, bytes;              /* forced: same from the engine's own contexts */
    double bits, error, engine_error;             /* squared error of y_hat, latent units */
} tally;

/* The code that the float model chooses for slice s, with mu and logit given. */
static int best_code(const block *b, const model *m, int s, const float *y, const double *mu,
                                const double *logit)
{
    const vq *q = &m->q;
    const double lambda = vq_lambda(q, (float)b->quality);
    double least = 1e30;
    int best = 0;
    for (int k = 0; k < q->codes; k++) {
        double cost = lambda * (fmin(ref_bits(logit, q->cells, k / NSVQ_CELL), 15) +
                                q->member_bits[s * q->codes + k]);
        for (int c = 0; c < q->dim; c++) {
            const double e = y[c] - mu[c] - q->code[(s * q->codes + k) * q->dim + c];
            cost += e * e;
        }
        if (cost < least) {
            least = cost;
            best = k;
        }
    }
    return best;
}

/* How many codes of a position the float model chooses as the engine did when it sees, each time, what
 * the engine saw: its decoded neighbours and earlier codewords. w: parameters in double. */
static int forced_choices(const block *b, const model *m, const double *w, vq_patch *p, int i,
                          const float *y)
{
    const vq *q = &m->q;
    const int L = q->latent, D = q->dim;
    const int pass = table_pass(p->pos[i] % b->w, p->pos[i] / b->w);
    const int *number = b->number + p->pos[i] * q->slices;
    double mean[128], hid[256], mu[64], logit[64], words[8 * 64];
    int same = 0;
    double *ctx = ref_doubles(p->ctx + (size_t)i * (size_t)q->context, (size_t)q->context);
    ref_position(q, w, pass, ctx, mean, hid);
    for (int s = 0; s < q->slices; s++) {
        const int16_t *code = code_of(b->d, s, number[s]);
        ref_slice(q, w, s, hid, words, mean + s * D, NULL, logit, mu);
        same += best_code(b, m, s, y + p->pos[i] * L + s * D, mu, logit) == number[s];
        for (int c = 0; c < D; c++) words[s * D + c] = code[c] / (double)LATENT_ONE;
    }
    free(ctx);
    return same;
}

static void add_forced(const block *b, const model *m, const float *y, tally *t)
{
    const size_t n = (size_t)(b->w * b->h * m->q.latent);
    double *w = ref_doubles(m->st.p, m->st.n);
    float *y_hat = malloc(n * sizeof *y_hat);
    vq_patch p = {0};
    assert_non_null(y_hat);
    for (size_t i = 0; i < n; i++) y_hat[i] = (float)b->y_hat[i] / LATENT_ONE;
    for (int i = 0; i < 3; i++) p.seed[i] = (float)b->seed[m->q.seed_channel[i]] / LATENT_ONE;
    vq_reserve(&m->q, &p, b->w * b->h);
    vq_order(&p, b->w, b->h);
    for (int i = 0; i < p.n; i++) {
        vq_context(&m->q, &p, i, b->w, b->h, y_hat, (float)b->quality);
        t->forced += forced_choices(b, m, w, &p, i, y);
    }
    vq_patch_free(&p);
    free(w);
    free(y_hat);
}

/* m: whose float quantiser runs. */
static void compare_block(block *b, const nsvq_engine *e, nsvq_scratch *sc, const int16_t *y,
                          const model *m, tally *t)
{
    const nsvq_model_desc *d = b->d;
    const size_t n = (size_t)(b->w * b->h), L = (size_t)m->q.latent;
    const size_t cap = nsvq_block_bound(e, b->w, b->h);
    uint8_t *bytes = malloc(cap);
    int16_t *decoded = malloc(n * L * sizeof *decoded);
    float *fy = malloc(n * L * sizeof *fy), *fy_hat = malloc(n * L * sizeof *fy_hat);
    size_t used = 0;
    vq_patch p = {0};
    assert_true(bytes && decoded && fy && fy_hat);
    assert_int_equal(nsvq_block_encode(e, sc, y, b->w, b->h, 16 * b->quality, bytes, cap, &used, b->y_hat), 0);
    assert_int_equal(nsvq_block_decode(e, sc, bytes, used, b->w, b->h, 16 * b->quality, decoded, NULL), 0);
    assert_memory_equal(decoded, b->y_hat, n * L * sizeof *decoded);
    read_block(b, bytes, used);
    assert_memory_equal(decoded, b->y_hat, n * L * sizeof *decoded);
    for (size_t i = 0; i < n * L; i++) fy[i] = (float)y[i] / LATENT_ONE;
    t->bits += vq_quantise(&m->q, m->st.p, &p, fy, b->w, b->h, (float)b->quality, fy_hat, NULL);
    t->bytes += (long)used;
    t->all += p.n * d->n_slices;
    for (int i = 0; i < p.n; i++)
        for (int s = 0; s < d->n_slices; s++)
            t->same += p.choice[s][i] == b->number[p.pos[i] * d->n_slices + s];
    add_forced(b, m, fy, t);
    for (size_t i = 0; i < n * L; i++) {
        t->error += pow(fy_hat[i] * LATENT_ONE - y[i], 2);
        t->engine_error += pow(b->y_hat[i] - y[i], 2);
    }
    vq_patch_free(&p);
    free(bytes); free(decoded); free(fy); free(fy_hat);
}

/* Over the held-out pictures, at three qualities: the share of codes that the float model chooses as
 * the engine does. Left to itself its choices drift apart after the first near tie, as every choice
 * enters the contexts of later ones: then bits and error must still agree. */
static void compare_choices(const nsvq_model_desc *d, const model *m, const char *what, double least)
{
    enum { SIZE = 192 };
    static const int quality[] = {20, 50, 80};
    const size_t L = (size_t)m->q.latent, n = SIZE / 16 * (SIZE / 16) * L;
    block b = {.d = d, .w = SIZE / 16, .h = SIZE / 16, .y_hat = malloc(n * sizeof(int16_t)),
               .number = malloc(n * sizeof(int)), .seed = malloc(L * sizeof(int16_t))};
    int16_t *y = malloc(n * sizeof *y);
    uint8_t *rgb = malloc(SIZE * SIZE * 3);
    const char *name;
    int w, h;
    nsvq_kernels_init(&b.k, NSVQ_CPU_C);
    nsvq_engine *e = nsvq_engine_create(d, &b.k);
    nsvq_scratch *sc = nsvq_scratch_create();
    assert_true(e && sc && y && rgb && b.y_hat && b.number && b.seed);
    assert_int_equal(prior_create(&b.prior, d, &b.k), 0);
    for (int q = 0; q < 3; q++) {
        tally t = {0};
        b.quality = quality[q];
        for (int i = 0; dataset_held_out(&pictures, i, &(cut){SIZE, 16, 0}, rgb, &w, &h, &name); i++) {
            const nsvq_rect all = {0, 0, w / 16, h / 16};
            assert_int_equal(nsvq_engine_analyse(e, sc, rgb, (ptrdiff_t)w * 3, all.w, all.h, all, y), 0);
            for (int c = 0; c < 3; c++) /* a seed that needs no rounding */
                y[d->seed_channel[c]] = (int16_t)(y[d->seed_channel[c]] / 64 * 64);
            compare_block(&b, e, sc, y, m, &t);
        }
        const double share = (double)t.forced / (double)t.all;
        print_message("%s, quality %d: %.1f %% of %ld codes the same, %.1f %% left to itself; "
                      "bits %.0f, engine %ld; error %.3f of the engine's\n", what, quality[q],
                      100 * share, t.all, 100. * (double)t.same / (double)t.all, t.bits, 8 * t.bytes,
                      t.error / t.engine_error);
        assert_true(share > least);
        assert_true(fabs(t.error / t.engine_error - 1) < 0.03);
        /* 20 bytes of head and states a block; rounding of the rest. */
        assert_true(fabs(t.bits + 2 * 8 * 20 - 8. * (double)t.bytes) < 0.03 * t.bits);
    }
    prior_free(&b.prior);
    nsvq_scratch_destroy(sc);
    nsvq_engine_destroy(e);
    free(b.y_hat); free(b.number); free(b.seed); free(y); free(rgb);
}

static void engine_chooses_the_same_codes(void **state)
{
    nsvq_model_desc desc;
    model m;
    assert_null(model_emit(&trained, &trained.f, &desc));
    compare_choices(&desc, &trained, "float weights", 0.9);
    assert_int_equal(checkpoint_load(&m, "vq.ckpt"), 0);
    adopt_integers(&m, &desc, trained.f.hidden);
    compare_choices(&desc, &m, "the integers' weights", 0.98);
    model_free(&m);
    nsvq_model_free(&desc);
}

/* ---- choices ---- */

/* The code with the least |r - c|^2 + lambda * bits, found plainly. */
static void every_choice_is_the_best(void **state)
{
    enum { W = 6, H = 5 };
    const float quality = 60.f;
    model m;
    vq_patch p = {0};
    model_random(&m, &tiny_preset, 11);
    const vq *q = &m.q;
    const int L = q->latent, D = q->dim, K = q->cells;
    const double lambda = vq_lambda(q, quality);
    float y[W * H * 32], y_hat[W * H * 32];
    assert_int_equal(L, 32);
    ref_fill(y, W * H * 32, 1.f, 12);
    vq_quantise(q, m.st.p, &p, y, W, H, quality, y_hat, NULL);
    for (int s = 0; s < q->slices; s++)
        for (int i = 0; i < p.n; i++) {
            const float *mu = p.mu[s] + i * D;
            double logit[2], cost[128], least = 1e30;
            assert_true(q->codes == 128 && K == 2);
            for (int c = 0; c < K; c++) logit[c] = p.logit[s][i * K + c];
            for (int k = 0; k < q->codes; k++) {
                const double bits = fmin(ref_bits(logit, K, k / NSVQ_CELL), 15.);
                cost[k] = lambda * (bits + q->member_bits[s * q->codes + k]);
                for (int c = 0; c < D; c++) {
                    const double r = y[p.pos[i] * L + s * D + c] - mu[c];
                    const double e = r - q->code[(s * q->codes + k) * D + c];
                    cost[k] += e * e;
                }
                least = fmin(least, cost[k]);
            }
            if (!(cost[p.choice[s][i]] <= least + 1e-4))
                fail_msg("slice %d, position %d: cost %g, least %g", s, i, cost[p.choice[s][i]], least);
        }
    for (int i = 0; i < p.n; i++)
        for (int s = 0; s < q->slices; s++)
            for (int c = 0; c < D; c++)
                assert_true(y_hat[p.pos[i] * L + s * D + c] ==
                            p.mu[s][i * D + c] + q->code[(s * q->codes + p.choice[s][i]) * D + c]);
    /* 12 steps of quality halve it. */
    assert_true(fabs(vq_lambda(q, 38.f) / vq_lambda(q, 50.f) - 2) < 1e-6);
    vq_patch_free(&p);
    model_free(&m);
}

/* Hidden units of very different sizes get one peak; the bits and the latents stay. */
static void balancing_changes_no_result(void **state)
{
    enum { W = 16, H = 16 };
    model m;
    vq_patch p = {0};
    model_random(&m, &tiny_preset, 31);
    m.q.lambda50 = 1e-6f; // so that choices hang on no rounding of bits
    const vq *q = &m.q;
    const size_t n = (size_t)(W * H * q->latent);
    float *y = malloc(n * sizeof *y), *before = malloc(n * sizeof *y), *after = malloc(n * sizeof *y);
    float peak[2][64] = {{0}}, top = 0;
    assert_true(y && before && after && q->hidden <= 64);
    ref_fill(y, n, 1.f, 5);
    for (int j = 0; j < q->hidden; j++) { /* unit j is 2^(j % 8) times as large */
        for (int i = 0; i < NSVQ_N_PASSES; i++) {
            for (int c = 0; c < q->ctx[i].cin; c++)
                m.st.p[q->ctx[i].w + (size_t)(j * q->ctx[i].cin + c)] *= (float)(1 << j % 8);
            m.st.p[q->ctx[i].b + (size_t)j] *= (float)(1 << j % 8);
        }
    }
    double bits[2];
    for (int round = 0; round < 2; round++) {
        bits[round] = vq_quantise(q, m.st.p, &p, y, W, H, 50, round ? after : before, NULL);
        for (int s = 0; s < q->slices; s++)
            for (int i = 0; i < p.n * q->hidden; i++)
                peak[round][i % q->hidden] = fmaxf(peak[round][i % q->hidden], p.h[s][i]);
        if (!round) top = vq_balance(q, m.st.p, peak[0]);
    }
    for (int j = 0; j < q->hidden; j++)
        if (peak[0][j] > 1e-3f && fabsf(peak[1][j] / top - 1.f) > 1e-4f)
            fail_msg("unit %d: %g, then %g, not %g", j, (double)peak[0][j], (double)peak[1][j], (double)top);
    float largest = 0; /* random predictors let latents grow */
    for (size_t i = 0; i < n; i++) largest = fmaxf(largest, fabsf(before[i]));
    for (size_t i = 0; i < n; i++) assert_true(fabsf(after[i] - before[i]) < 1e-4f * largest);
    assert_true(fabs(bits[1] / bits[0] - 1) < 1e-3);
    free(y);
    free(before);
    free(after);
    vq_patch_free(&p);
    model_free(&m);
}

static int prepare(void **state)
{
    preset p;
    if (preset_find("small", &p)) return -1;
    p.codes = 256;
    pictures_make(&pictures, 6);
    model_trained(&trained, &p, &pictures, "vq");
    return 0;
}

static int clear(void **state)
{
    dataset_free(&pictures);
    model_free(&trained);
    remove("vq.ckpt");
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(order_and_contexts_are_the_formats),
        cmocka_unit_test(engine_chooses_the_same_codes),
        cmocka_unit_test(every_choice_is_the_best),
        cmocka_unit_test(balancing_changes_no_result),
    };
    return cmocka_run_group_tests(tests, prepare, clear);
}
