/* testmodel.c - see testmodel.h. Scales follow from assumed deviations of inputs and weights. */
#include "testmodel.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WEIGHT_SD 30.0

uint32_t test_rand(test_rng *r) /* splitmix64, upper half */
{
    uint64_t z = r->s += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ (z >> 31)) >> 32);
}

int test_range(test_rng *r, int lo, int hi)
{
    return lo + (int)(test_rand(r) % (uint32_t)(hi - lo + 1));
}

double test_bell(test_rng *r) /* Irwin-Hall with 6 terms */
{
    double sum = 0;
    for (int i = 0; i < 6; i++) sum += test_rand(r) / 4294967296.0;
    return (sum - 3.0) * 1.4142135623730951;
}

static int clip(double v, int max)
{
    return v > max ? max : v < -max ? -max : (int)floor(v + 0.5);
}

typedef struct maker {
    test_rng rng;
    bool ok, coarse; // coarse: few different weights and biases
} maker;

static void *get(maker *k, size_t n, size_t size)
{
    void *p = calloc(n, size);
    if (!p) k->ok = false;
    return p;
}

/* A bell of deviation sd. */
static int bell(maker *k, double sd, int max)
{
    double v = test_bell(&k->rng);
    return clip((k->coarse ? 2 * floor(v / 2 + 0.5) : v) * sd, max);
}

/* Weights and requantisation: inputs of deviation sd_in become outputs of about sd_out. */
static void fill(maker *k, nsvq_layer *l, double sd_in, double sd_out)
{
    size_t n_in = l->kind == NSVQ_LAYER_DEPTHWISE ? (size_t)l->k * l->k : l->cin;
    double acc = sd_in * WEIGHT_SD * sqrt((double)n_in);
    int shift = 0;

    l->wt = get(k, n_in * l->cout, 1);
    l->bias = get(k, l->cout, sizeof *l->bias);
    l->shift = get(k, l->cout, 1);
    l->mul = get(k, l->cout, sizeof *l->mul);
    if (!k->ok) return;
    while (shift < 24 && acc / (1 << shift) > 3 * sd_out) shift++;
    for (size_t i = 0; i < n_in * l->cout; i++)
        l->wt[i] = (int8_t)bell(k, WEIGHT_SD, 127);
    for (int o = 0; o < l->cout; o++) {
        l->shift[o] = (uint8_t)shift;
        l->bias[o] = (shift ? 1 << (shift - 1) : 0) + bell(k, acc * 0.2, 1 << 28);
        l->mul[o] = (int16_t)clip(32768.0 * sd_out / (acc / (1 << shift)), 32767);
    }
}

static nsvq_layer *add(nsvq_net *net, int kind, int src, int dst, int cin, int cout)
{
    nsvq_layer *l = &net->layer[net->n_layers++];
    l->kind = (uint8_t)kind;
    l->src = (uint8_t)src;
    l->dst = (uint8_t)dst;
    l->res = NSVQ_NO_REGISTER;
    l->in_type = l->out_type = NSVQ_S16;
    l->k = l->rep = 1;
    l->cin = (uint16_t)cin;
    l->cout = (uint16_t)cout;
    net->output = (uint8_t)dst;
    return l;
}

static void pointwise(maker *k, nsvq_net *net, int src, int dst, int cin, int cout, double sd_in,
                      double sd_out)
{
    fill(k, add(net, NSVQ_LAYER_POINTWISE, src, dst, cin, cout), sd_in, sd_out);
}

/* dst = src + pointwise(depthwise(src)); the register dst - 1 lies between. */
static void block(maker *k, nsvq_net *net, int src, int dst, int channels, int size)
{
    nsvq_layer *l = add(net, NSVQ_LAYER_DEPTHWISE, src, dst - 1, channels, channels);
    l->out_type = NSVQ_U8;
    l->k = (uint8_t)size;
    fill(k, l, 1000, 50);
    l = add(net, NSVQ_LAYER_POINTWISE, dst - 1, dst, channels, channels);
    l->in_type = NSVQ_U8;
    l->res = (uint8_t)src;
    fill(k, l, 40, 400);
}

static void space_to_depth(nsvq_net *net, int src, int dst, int channels, int factor)
{
    add(net, NSVQ_LAYER_SPACE_TO_DEPTH, src, dst, channels, channels * factor * factor)->k =
        (uint8_t)factor;
}

static void make_analysis(maker *k, nsvq_net *net, const int c[3], const int n[3], int n_latent,
                          int stride)
{
    int r = 1, factor = stride / 4, last = stride == 16 ? 2 : 1;
    pointwise(k, net, 0, r, 48, c[0], 50, 1000);
    for (int scale = 0; scale <= last; scale++) {
        if (scale) {
            space_to_depth(net, r, r + 1, c[scale - 1], 2);
            pointwise(k, net, r + 1, r + 2, c[scale - 1] * 4, c[scale], 1100, 1000);
            r += 2;
        }
        for (int i = 0; i < n[scale]; i++, r += 2)
            block(k, net, r, r + 2, c[scale], scale < 2 ? 5 : 3);
    }
    space_to_depth(net, 0, r + 1, 48, factor);
    pointwise(k, net, r + 1, r + 2, 48 * factor * factor, n_latent, 50, 400);
    pointwise(k, net, r, r + 3, c[last], n_latent, 1200, 300);
    net->layer[net->n_layers - 1].res = (uint8_t)(r + 2);
}

static void sub_layer(maker *k, nsvq_net *net, int rep, int src, int res, int dst, int out_type,
                      double sd_out)
{
    nsvq_layer *l = add(net, NSVQ_LAYER_POINTWISE, src, dst, 48, 48);
    l->in_type = NSVQ_U8;
    l->out_type = (uint8_t)out_type;
    l->rep = (uint8_t)rep;
    l->res = (uint8_t)res;
    fill(k, l, 40, sd_out);
}

static void make_synthesis(maker *k, nsvq_net *net, int c, int n_blocks, int n_latent, int stride)
{
    nsvq_layer *l;
    int r = 1, rep = stride / 4 * (stride / 4), square = 48 * rep;

    pointwise(k, net, 0, r, n_latent, c, 500, 1000);
    for (int i = 0; i < n_blocks; i++, r += 2) block(k, net, r, r + 2, c, 3);
    l = add(net, NSVQ_LAYER_DEPTHWISE, r, r + 1, c, c);
    l->out_type = NSVQ_U8;
    l->k = 3;
    fill(k, l, 1200, 60);
    l = add(net, NSVQ_LAYER_POINTWISE, r + 1, r + 2, c, square);
    l->in_type = l->out_type = NSVQ_U8;
    fill(k, l, 40, 60);
    pointwise(k, net, 0, r + 3, n_latent, square, 500, 1000);
    sub_layer(k, net, rep, r + 2, r + 2, r + 4, NSVQ_U8, 30);
    sub_layer(k, net, rep, r + 4, r + 4, r + 5, NSVQ_U8, 30);
    sub_layer(k, net, rep, r + 5, r + 3, r + 6, NSVQ_S16, 500);
}

static void prior_layer(maker *k, nsvq_layer *l, int in_type, int cin, int out_type, int cout,
                        double sd_in, double sd_out)
{
    nsvq_net one = {0};
    *l = *add(&one, NSVQ_LAYER_POINTWISE, 0, 0, cin, cout);
    l->in_type = (uint8_t)in_type;
    l->out_type = (uint8_t)out_type;
    fill(k, l, sd_in, sd_out);
}

static void make_members(maker *k, nsvq_model_desc *m)
{
    size_t n_cells = (size_t)m->n_slices * m->n_codes / NSVQ_CELL;
    m->prior.member = get(k, n_cells * NSVQ_CELL, sizeof *m->prior.member);
    if (!k->ok) return;
    for (size_t c = 0; c < n_cells; c++) {
        uint16_t *f = m->prior.member + c * NSVQ_CELL;
        uint32_t left = 1u << 15;
        for (int i = 0; i < NSVQ_CELL; i++) {
            f[i] = (uint16_t)(1u << test_range(&k->rng, 0, 8));
            left -= f[i]; // at most 64 * 256 = 2^14 go
        }
        f[test_range(&k->rng, 0, NSVQ_CELL - 1)] += (uint16_t)left;
    }
}

static void make_prior(maker *k, nsvq_model_desc *m, int hidden)
{
    nsvq_prior *p = &m->prior;
    int n_latent = m->n_slices * m->dim, n_ctx = 4 * n_latent + NSVQ_N_EXTRA;

    p->hidden = (uint16_t)hidden;
    for (int i = 0; i < NSVQ_N_PASSES; i++) {
        prior_layer(k, &p->mean[i], NSVQ_S16, n_ctx, NSVQ_S16, n_latent, 500, 250);
        prior_layer(k, &p->ctx[i], NSVQ_S16, n_ctx, NSVQ_S16, hidden, 500, 80);
    }
    for (int s = 0; s < m->n_slices; s++) {
        if (s) prior_layer(k, &p->prev[s], NSVQ_S16, s * m->dim, NSVQ_U8, hidden, 400, 60);
        prior_layer(k, &p->logit[s], NSVQ_U8, hidden, NSVQ_S16, (int)m->n_codes / NSVQ_CELL, 50,
                    60);
        prior_layer(k, &p->shiftm[s], NSVQ_U8, hidden, NSVQ_S16, m->dim, 50, 60);
    }
    make_members(k, m);
}

static void make_codes(maker *k, nsvq_model_desc *m)
{
    size_t n = (size_t)m->n_slices * m->n_codes * m->dim;
    m->codes = get(k, n, sizeof *m->codes);
    if (!k->ok) return;
    for (size_t i = 0; i < n; i++)
        m->codes[i] = (int16_t)bell(k, 400, NSVQ_CODE_MAX);
}

/* Tables of all classes, of each quantiser; frequencies that fall from the middle; every class has a number
 * of symbols and of low bits of its own. */
static void make_classes(maker *k, int quantisers, uint8_t **to_shift, uint8_t **to_half, uint16_t **freq)
{
    size_t n = (size_t)quantisers * NSVQ_N_CLASSES;
    uint8_t *shifts = *to_shift = get(k, n, 1), *halves = *to_half = get(k, n, 1);
    *freq = get(k, n * NSVQ_CLASS_SYMBOLS, sizeof **freq);
    if (!k->ok) return;
    for (size_t t = 0; t < n; t++) {
        uint16_t *f = *freq + t * NSVQ_CLASS_SYMBOLS;
        int c = (int)t % NSVQ_N_CLASSES;
        int half = halves[t] = (uint8_t)(c < 4 ? c / 2 : test_range(&k->rng, 1, 31));
        uint32_t left = 1u << 15;
        shifts[t] = (uint8_t)(c < 30 ? 0 : test_range(&k->rng, 0, 12));
        for (int i = 0; i < 2 * half + 2; i++) {
            f[i] = (uint16_t)(1u << test_range(&k->rng, 0, 8));
            left -= f[i];
        }
        f[half] += (uint16_t)left;
    }
}

static void make_hyper(maker *k, nsvq_model_desc *m, int z, int side, bool trellis)
{
    nsvq_hyper *h = &m->hyper;
    int n = m->latent, per = NSVQ_Z_STRIDE / m->stride, r = 1, total = n + z;
    nsvq_layer *l;

    h->z = (uint16_t)z;
    h->side = (uint16_t)side;
    h->first_class = 9;
    pointwise(k, &h->analysis, 0, r, n, 16, 500, 1000);
    for (int left = per; left > 1; left /= 2, r += 2) {
        space_to_depth(&h->analysis, r, r + 1, 16, 2);
        pointwise(k, &h->analysis, r + 1, r + 2, 64, left > 2 ? 16 : z, 1000, left > 2 ? 1000 : 400);
    }
    pointwise(k, &h->synthesis, 0, 1, z + NSVQ_N_EXTRA, 16, 400, 1000);
    block(k, &h->synthesis, 1, 3, 16, 3);
    l = add(&h->synthesis, NSVQ_LAYER_DEPTHWISE, 3, 4, 16, 16);
    l->out_type = NSVQ_U8;
    l->k = 3;
    fill(k, l, 1000, 60);
    l = add(&h->synthesis, NSVQ_LAYER_POINTWISE, 4, 5, 16, per * per * side);
    l->in_type = l->out_type = NSVQ_U8;
    fill(k, l, 40, 60);
    prior_layer(k, &h->scale, NSVQ_U8, side, NSVQ_S16, n, 50, 300);
    prior_layer(k, &h->base, NSVQ_U8, side, NSVQ_S16, n, 50, 200);
    for (int p = 1; p < NSVQ_N_PASSES; p++)
        prior_layer(k, &h->mean[p], NSVQ_S16, 4 * n + NSVQ_N_EXTRA, NSVQ_S16, n, 500, 200);
    h->gain = get(k, (size_t)(NSVQ_N_GAINS * total), sizeof *h->gain);
    h->z_mean = get(k, (size_t)z, sizeof *h->z_mean);
    h->z_scale = get(k, (size_t)z, sizeof *h->z_scale);
    if (k->ok)
        for (int i = 0; i < NSVQ_N_GAINS * total; i++) h->gain[i] = (int16_t)bell(k, 100, 2048);
    for (int i = 0; k->ok && i < z; i++) {
        h->z_mean[i] = (int16_t)bell(k, 100, NSVQ_LATENT_MAX);
        h->z_scale[i] = (int16_t)bell(k, 200, 2048);
    }
    make_classes(k, 1, &h->shift, &h->half, &h->freq);
    if (!trellis) return;
    make_classes(k, 2, &h->trellis.shift, &h->trellis.half, &h->trellis.freq);
    h->pass_gain = get(k, (size_t)(NSVQ_N_PASSES * n), sizeof *h->pass_gain);
    for (int i = 0; k->ok && i < NSVQ_N_PASSES * n; i++) h->pass_gain[i] = (int16_t)bell(k, 100, 2048);
}

/* Everything that differs between the shapes. */
typedef struct shape {
    const char *name;
    int n_slices, dim, n_codes, hidden, synthesis, n_blocks;
    int analysis[3], n_analysis[3];
    uint32_t lambda50;
    int stride, latent, z, side; /* hyper */
    bool trellis;
} shape;

static const shape shapes[] = {
    [TESTMODEL_TINY] = {"test-tiny", 2, 4, 256, 7, 16, 1, {16, 16, 16}, {1, 0, 1}, 30000},
    [TESTMODEL_SMALL] = {"test-small", 2, 8, 128, 21, 32, 2, {16, 32, 16}, {1, 0, 1}, 30000},
    [TESTMODEL_SHIPPED] = {"test-shipped", 4, 24, 4096, 64, 256, 6, {64, 128, 256}, {2, 2, 3}, 100000},
    [TESTMODEL_HYPER8] = {"test-hyper8", 0, 0, 0, 0, 32, 1, {16, 16}, {1, 1}, 164, 8, 12, 5, 8, false},
    [TESTMODEL_HYPER16] = {"test-hyper16", 0, 0, 0, 0, 16, 2, {16, 32, 16}, {1, 0, 1}, 164, 16, 20, 3, 16, false},
    [TESTMODEL_TRELLIS] = {"test-trel", 0, 0, 0, 0, 16, 1, {16, 16}, {1, 0}, 204, 8, 18, 4, 8, true}};

static void make_vq(maker *k, nsvq_model_desc *m, const shape *s)
{
    m->n_slices = (uint8_t)s->n_slices;
    m->dim = (uint16_t)s->dim;
    m->n_codes = (uint32_t)s->n_codes;
    for (int i = 0; i < 3; i++) m->seed_channel[i] = (uint16_t)(i * 5 % m->latent);
    m->seed_shift = 5;
    make_codes(k, m);
    make_prior(k, m, s->hidden);
}

bool testmodel_make(nsvq_model_desc *m, testmodel_shape which, uint64_t seed)
{
    const shape *s = &shapes[which];
    maker k = {.rng = {seed}, .ok = true, .coarse = which == TESTMODEL_TINY};
    bool hyper = s->latent > 0;

    memset(m, 0, sizeof *m);
    memcpy(m->name, s->name, strlen(s->name));
    m->family = hyper ? NSVQ_FAMILY_HYPER : NSVQ_FAMILY_VQ;
    m->stride = (uint8_t)(hyper ? s->stride : 16);
    m->latent = (uint16_t)(hyper ? s->latent : s->n_slices * s->dim);
    m->lambda50 = s->lambda50;
    m->has_analysis = 1;
    make_analysis(&k, &m->analysis, s->analysis, s->n_analysis, m->latent, m->stride);
    make_synthesis(&k, &m->synthesis, s->synthesis, s->n_blocks, m->latent + (hyper ? NSVQ_N_EXTRA : 0),
                   m->stride);
    if (hyper)
        make_hyper(&k, m, s->z, s->side, s->trellis);
    else
        make_vq(&k, m, s);
    if (!k.ok) nsvq_model_free(m);
    return k.ok;
}
