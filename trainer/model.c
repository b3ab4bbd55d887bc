/* model.c - shapes of both families, their networks and parameters, checkpoints. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "random.h"
#include "train.h"

#define VQ    NSVQ_FAMILY_VQ
#define HYPER NSVQ_FAMILY_HYPER
const preset presets[] = {
    /* family, stride, latent; c4 n4 c8 n8 c16 n16; body n render n; slices dim codes hidden; z wide side */
    {"standard",     VQ, 16,  96, 64, 2, 128, 3, 256, 4, 256, 6, 64, 2, 4, 24, 4096, 192, 0, 0, 0},
    {"small",        VQ, 16,  96, 32, 1,  64, 1, 128, 2, 128, 3, 32, 1, 4, 24,  512,  64, 0, 0, 0},
    {"hyper16",   HYPER, 16, 192, 64, 2, 128, 4, 256, 6, 256, 8, 64, 2, 0, 0, 0, 0, 48, 128, 48},
    {"hyper8",    HYPER,  8, 128, 64, 2, 192, 5,   0, 0, 128, 5, 48, 2, 0, 0, 0, 0, 48, 128, 32},
    {"hyper8-large", HYPER, 8, 128, 64, 2, 192, 9, 0, 0, 128, 7, 48, 2, 0, 0, 0, 0, 48, 128, 32},
    {"hyper-small", HYPER, 16, 48, 32, 1, 32, 1,  64, 1,  64, 1, 16, 1, 0, 0, 0, 0, 16,  32, 16},
    {.name = ""},
};
#undef VQ
#undef HYPER

int preset_find(const char *name, preset *out)
{
    for (const preset *p = presets; p->name[0]; p++)
        if (!strcmp(p->name, name)) {
            *out = *p;
            return 0;
        }
    return -1;
}

static int vq_valid(const preset *p, const int *seed_channel)
{
    if (p->stride != 16 || p->z || p->wide || p->side) return 0;
    if (p->slices < 1 || p->slices > NSVQ_MAX_SLICES || p->dim < 4 || p->dim > 64 || p->dim % 4 ||
        p->codes < NSVQ_CELL || p->codes > 4096 || p->codes % NSVQ_CELL || p->latent != p->slices * p->dim)
        return 0;
    for (int i = 0; i < 3; i++)
        if (seed_channel[i] < 0 || seed_channel[i] >= p->latent) return 0;
    return p->hidden >= 16 && p->hidden <= 1024 && p->hidden % 16 == 0;
}

static int hyper_valid(const preset *p)
{
    if (p->slices || p->dim || p->codes || p->hidden || (p->stride != 8 && p->stride != 16)) return 0;
    return p->latent >= 4 && p->latent <= 508 && p->latent % 4 == 0 && p->z >= 4 && p->z <= NSVQ_MAX_Z &&
           p->z % 4 == 0 && p->side >= 2 && p->side <= 128 && p->side % 2 == 0 && p->wide >= 16 &&
           p->wide <= 1024 && p->wide % 16 == 0;
}

int preset_valid(const preset *p, const int *seed_channel)
{
    const int width[] = {p->c4, p->c8, p->body, p->render, p->stride == 16 ? p->c16 : 16};
    const int depth[] = {p->n4, p->n8, p->n16, p->n_body, p->n_render};
    for (int i = 0; i < 5; i++)
        if (width[i] < 16 || width[i] > 1024 || width[i] % 16 || depth[i] < 0 || depth[i] > NSVQ_MAX_LAYERS)
            return 0;
    if (p->stride == 8 && (p->c16 || p->n16)) return 0;
    /* Beside the blocks: 8 and 5 layers. */
    if (8 + 2 * (p->n4 + p->n8 + p->n16) >= NSVQ_MAX_REGISTERS ||
        5 + 2 * p->n_body + p->n_render >= NSVQ_MAX_REGISTERS || !memchr(p->name, 0, sizeof p->name))
        return 0;
    return p->family == NSVQ_FAMILY_VQ      ? vq_valid(p, seed_channel)
           : p->family == NSVQ_FAMILY_HYPER ? hyper_valid(p)
                                            : 0;
}

static int residual_blocks(network *n, store *s, int x, int count, int k)
{
    for (int i = 0; i < count; i++) {
        const int d = net_depthwise(n, s, x, k);
        x = net_pointwise(n, s, d, x, n->channels[x], NSVQ_U8, NSVQ_S16);
    }
    return x;
}

/* A linear path from the squares of a latent beside a deep one by 1/4, 1/8 and (stride 16) 1/16. */
static void build_analysis(model *m)
{
    const preset *p = &m->pre;
    network *n = &m->ana;
    store *s = &m->st;
    n->channels[0] = 48;
    m->squares = net_space_to_depth(n, 0, p->stride / 4);
    m->ana_linear = n->n_layers;
    const int lin = net_pointwise(n, s, m->squares, -1, p->latent, NSVQ_S16, NSVQ_S16);
    int x = net_pointwise(n, s, 0, -1, p->c4, NSVQ_S16, NSVQ_S16);
    x = residual_blocks(n, s, x, p->n4, 5);
    x = net_pointwise(n, s, net_space_to_depth(n, x, 2), -1, p->c8, NSVQ_S16, NSVQ_S16);
    x = residual_blocks(n, s, x, p->n8, 5);
    if (p->stride == 16) {
        x = net_pointwise(n, s, net_space_to_depth(n, x, 2), -1, p->c16, NSVQ_S16, NSVQ_S16);
        x = residual_blocks(n, s, x, p->n16, 3);
    }
    m->ana_last = n->n_layers;
    net_pointwise(n, s, x, lin, p->latent, NSVQ_S16, NSVQ_S16);
}

static void build_synthesis(model *m)
{
    const preset *p = &m->pre;
    network *n = &m->syn;
    store *s = &m->st;
    const int quarters = p->stride / 4 * (p->stride / 4); /* positions at 1/4 per latent */
    n->channels[0] = p->latent + (is_hyper(m) ? NSVQ_N_EXTRA : 0);
    m->syn_head = n->n_layers;
    int x = net_pointwise(n, s, 0, -1, p->body, NSVQ_S16, NSVQ_S16);
    x = residual_blocks(n, s, x, p->n_body, 3);
    x = net_pointwise(n, s, net_depthwise(n, s, x, 3), -1, quarters * p->render, NSVQ_U8, NSVQ_U8);
    m->syn_linear = n->n_layers;
    const int lin = net_pointwise(n, s, 0, -1, quarters * 48, NSVQ_S16, NSVQ_S16);
    for (int i = 0; i < p->n_render; i++)
        x = net_pointwise_rep(n, s, x, x, quarters, p->render, NSVQ_U8, NSVQ_U8);
    m->syn_last = n->n_layers;
    net_pointwise_rep(n, s, x, lin, quarters, 48, NSVQ_U8, NSVQ_S16);
}

/* The store's segments of a layer get a learning rate of their own. */
static void slow(model *m, const layer *l, float lr)
{
    segment *both[2] = {store_find(&m->st, l->w), store_find(&m->st, l->b)};
    for (int i = 0; i < 2; i++) {
        both[i]->lr = lr;
        both[i]->decay = 0;
        both[i]->linear = 1;
    }
}

/* Steps of layers that read latents are in units of the latents' spread. */
static void scale_columns(model *m)
{
    const hyper *h = &m->h;
    const size_t L = (size_t)h->latent, X = (size_t)h->context;
    const struct { size_t w, at, n; } use[] = {
        {m->syn.l[m->syn_head].w, 3 * L, L + NSVQ_N_EXTRA}, {h->ha.l[0].w, 0, L},
        {h->hs.l[0].w, X, (size_t)h->z + NSVQ_N_EXTRA}, {h->mean[1].w, 0, X}, {h->mean[2].w, 0, X},
        {h->mean[3].w, 0, X}, {h->mean[4].w, 0, X}};
    for (size_t i = 0; i < sizeof use / sizeof *use; i++) {
        segment *s = store_find(&m->st, use[i].w);
        s->column = h->column + use[i].at;
        s->n_columns = use[i].n;
    }
}

/* Logarithms move faster, the layers that add to the linear paths slower. */
static void set_rates(model *m)
{
    const hyper *h = &m->h;
    const layer *side = &h->hs.l[h->hs.n_layers - 1];
    const struct { size_t at; float lr; } of[] = {
        {h->gain, 8}, {h->z_mean, 8}, {h->z_scale, 8}, {side->b, 4}, {side->w, 0.5f},
        {m->ana.l[m->ana_last].w, 0.5f}, {m->syn.l[m->syn_last].w, 0.5f}};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) store_find(&m->st, of[i].at)->lr = of[i].lr;
}

float *zeros(size_t n)
{
    float *p = calloc(n, sizeof *p);
    if (!p) abort();
    return p;
}

void model_build(model *m, const preset *p)
{
    *m = (model){.pre = *p, .rng = 1};
    build_analysis(m);
    build_synthesis(m);
    slow(m, &m->ana.l[m->ana_linear], 0.03f);
    slow(m, &m->syn.l[m->syn_linear], 0.03f);
    if (is_hyper(m)) {
        hyper_build(&m->h, &m->st, p->stride, p->latent, p->z, p->wide, p->side);
        scale_columns(m);
        for (int i = 1; i < NSVQ_N_PASSES; i++) slow(m, &m->h.mean[i], 0.05f);
        set_rates(m);
    } else {
        vq_build(&m->q, &m->st, p->slices, p->dim, p->codes, p->hidden);
        m->q.lambda50 = 0.5f;
        for (int i = 0; i < NSVQ_N_PASSES; i++) slow(m, &m->q.mean[i], 0.05f);
    }
    store_alloc(&m->st);
    m->m = zeros(m->st.n);
    m->v = zeros(m->st.n);
    if (is_hyper(m)) {
        m->mean = zeros(m->st.n);
        m->norm = zeros((size_t)m->st.n_segments);
    }
}

/* ---- another shape ---- */

#define MAX_RUNS 7

/* Layers of a network by turns: those of any shape, then those of its residual blocks. */
static void runs_of(const preset *p, int which, int *runs)
{
    const int deep = p->stride == 16;
    const int analysis[MAX_RUNS] = {3, 2 * p->n4, 2, 2 * p->n8, deep ? 2 : 0, 2 * p->n16, 1};
    const int synthesis[MAX_RUNS] = {1, 2 * p->n_body, 3, p->n_render, 1};
    memcpy(runs, which == NET_ANALYSIS ? analysis : synthesis, sizeof analysis);
}

static size_t weights_of(const layer *l)
{
    if (l->kind == NSVQ_LAYER_SPACE_TO_DEPTH) return 0;
    return (size_t)l->cin * (size_t)(l->kind == NSVQ_LAYER_DEPTHWISE ? l->k * l->k : l->cout);
}

static void copy_layer(model *to, const layer *a, const model *from, const layer *b)
{
    const size_t n = weights_of(a);
    if (!n) return;
    memcpy(to->st.p + a->w, from->st.p + b->w, n * sizeof(float));
    memcpy(to->st.p + a->b, from->st.p + b->b, (size_t)a->cout * sizeof(float));
}

/* A new block's last layer stays 0, so that the block passes on what it gets. */
static void new_layer(model *m, const layer *l, uint64_t *rng)
{
    for (size_t i = 0; l->kind == NSVQ_LAYER_DEPTHWISE && i < weights_of(l); i++)
        m->st.p[l->w + i] = random_normal(rng) / (float)l->k;
}

/* Residual blocks that are more come last and do nothing yet; the last ones of those that are fewer are lost. */
static void reshape_net(model *to, const model *from, int which, uint64_t *rng)
{
    const layer *a = model_net(to, which)->l, *b = model_net(from, which)->l;
    int now[MAX_RUNS], before[MAX_RUNS];
    runs_of(&to->pre, which, now);
    runs_of(&from->pre, which, before);
    for (int r = 0; r < MAX_RUNS; b += before[r++])
        for (int i = 0; i < now[r]; i++, a++) {
            if (i < before[r]) copy_layer(to, a, from, b + i);
            else new_layer(to, a, rng);
        }
}

int model_reshape(model *m, const preset *p)
{
    const preset *old = &m->pre;
    preset same = *p;
    uint64_t rng = 1;
    model next;
    memcpy(same.name, old->name, sizeof same.name);
    same.n4 = old->n4;
    same.n8 = old->n8;
    same.n16 = old->n16;
    same.n_body = old->n_body;
    same.n_render = old->n_render;
    if (!is_hyper(m) || memcmp(&same, old, sizeof same) != 0) return -1;
    model_build(&next, p);
    reshape_net(&next, m, NET_ANALYSIS, &rng);
    reshape_net(&next, m, NET_SYNTHESIS, &rng);
    const size_t at = next.h.ha.l[0].w, from = m->h.ha.l[0].w; /* the rest of the store */
    memcpy(next.st.p + at, m->st.p + from, (next.st.n - at) * sizeof(float));
    next.trained_minutes = m->trained_minutes;
    next.trained_mpixel = m->trained_mpixel;
    model_free(m);
    *m = next;
    return 0;
}

model_cost model_costs(const model *m)
{
    const double latents = 1e-3 / (m->pre.stride * m->pre.stride), means = 15. / 16; /* pass 0 has none */
    model_cost c = {.analysis = net_macs(&m->ana) * 1e-3 / 16, .synthesis = net_macs(&m->syn) * latents};
    if (is_hyper(m))
        c.entropy = net_macs(&m->h.hs) * 1e-3 / (NSVQ_Z_STRIDE * NSVQ_Z_STRIDE) +
                    means * m->h.context * m->h.latent * latents;
    if (is_hyper(m)) c.analysis += net_macs(&m->h.ha) * latents;
    return c;
}

void model_free(model *m)
{
    free(m->st.p);
    free(m->m);
    free(m->v);
    free(m->mean);
    free(m->norm);
    free(m->h.column);
    free(m->h.tables.trellis);
    free(m->q.code); free(m->q.code_t); free(m->q.norm); free(m->q.member_bits);
    free(m->q.ema_n); free(m->q.ema_sum); free(m->q.spare);
    memset(m, 0, sizeof *m);
}

int model_nets(const model *m)
{
    return is_hyper(m) ? N_NETS : 2;
}

const network *model_net(const model *m, int which)
{
    const network *const n[N_NETS] = {&m->ana, &m->syn, &m->h.ha, &m->h.hs};
    return n[which];
}

const float *formats_of(const formats *f, int which)
{
    const float *const s[N_NETS] = {f->ana, f->syn, f->ha, f->hs};
    return s[which];
}

void model_average(model *m)
{
    float *p = m->st.p;
    if (!m->mean || !m->moments) return;
    m->st.p = m->mean;
    m->mean = p;
}

/* Whole hyper-latents only; hues are turned for the family that is to keep them at all rates. */
cut model_cut(const model *m, int size)
{
    return is_hyper(m) ? (cut){size, NSVQ_Z_STRIDE, 0.35f} : (cut){size, 16, 0.f};
}

/* ---- checkpoints: a header, the state, the arrays, in this machine's byte order ---- */

static const char checkpoint_magic[8] = "NSVQCK5";

typedef struct checkpoint_state {
    preset   pre;
    int      seed_channel[3];
    float    lambda50;
    long     step;
    double   minutes, mpixel;
    uint64_t rng, n;
    long     moments;
    formats  f;
    int      has_formats;
    run      run;
} checkpoint_state;

#define MAX_SPANS 8
typedef struct span { float *p; size_t n; } span;

static int checkpoint_spans(const model *m, span *out)
{
    const size_t k = (size_t)m->q.slices * m->q.codes, n = m->st.n;
    const span both[3] = {{m->st.p, n}, {m->m, n}, {m->v, n}};
    const span of_vq[5] = {{m->q.code, k * m->q.dim}, {m->q.ema_n, k}, {m->q.ema_sum, k * m->q.dim},
                        {m->q.member_bits, k}, {m->q.spare, k / NSVQ_CELL * m->q.dim}};
    const span of_hyper[3] = {{m->mean, n}, {m->norm, (size_t)m->st.n_segments},
                           {m->h.column, (size_t)(m->h.context + m->h.z + NSVQ_N_EXTRA)}};
    memcpy(out, both, sizeof both);
    memcpy(out + 3, is_hyper(m) ? of_hyper : of_vq, is_hyper(m) ? sizeof of_hyper : sizeof of_vq);
    return is_hyper(m) ? 6 : 8;
}

int checkpoint_save(const model *m, const char *file)
{
    char tmp[1024];
    snprintf(tmp, sizeof tmp, "%s.part", file);
    FILE *f = fopen(tmp, "wb");
    checkpoint_state s;
    memset(&s, 0, sizeof s);
    s.pre = m->pre;
    memcpy(s.seed_channel, m->q.seed_channel, sizeof s.seed_channel);
    s.lambda50 = m->q.lambda50;
    s.step = m->step;
    s.minutes = m->trained_minutes;
    s.mpixel = m->trained_mpixel;
    s.rng = m->rng;
    s.n = m->st.n;
    s.moments = m->moments;
    s.f = m->f;
    s.has_formats = m->has_formats;
    s.run = m->run;
    span sp[MAX_SPANS];
    const int n = checkpoint_spans(m, sp);
    int bad = !f || fwrite(checkpoint_magic, 1, 8, f) != 8 || fwrite(&s, sizeof s, 1, f) != 1;
    for (int i = 0; !bad && i < n; i++) bad = fwrite(sp[i].p, sizeof(float), sp[i].n, f) != sp[i].n;
    if (f) bad |= fclose(f) != 0;
    if (!bad) bad = rename(tmp, file) != 0;
    if (bad) {
        fprintf(stderr, "nsvq-train: writing %s failed\n", file);
        remove(tmp);
    }
    return bad ? -1 : 0;
}

int checkpoint_load(model *m, const char *file)
{
    FILE *f = fopen(file, "rb");
    char magic[8];
    checkpoint_state s;
    int bad = !f || fread(magic, 1, 8, f) != 8 || memcmp(magic, checkpoint_magic, 8) != 0 ||
              fread(&s, sizeof s, 1, f) != 1 || !preset_valid(&s.pre, s.seed_channel);
    if (!bad) {
        span sp[MAX_SPANS];
        model_build(m, &s.pre);
        bad = s.n != m->st.n;
        const int n = checkpoint_spans(m, sp);
        for (int i = 0; !bad && i < n; i++) bad = fread(sp[i].p, sizeof(float), sp[i].n, f) != sp[i].n;
        memcpy(m->q.seed_channel, s.seed_channel, sizeof s.seed_channel);
        m->q.lambda50 = s.lambda50;
        m->step = s.step;
        m->trained_minutes = s.minutes;
        m->trained_mpixel = s.mpixel;
        m->rng = s.rng;
        m->moments = s.moments;
        m->f = s.f;
        m->has_formats = s.has_formats;
        m->run = s.run;
        if (!is_hyper(m)) vq_refresh(&m->q);
        if (bad) model_free(m);
    }
    if (f) fclose(f);
    if (bad) fprintf(stderr, "nsvq-train: %s is no checkpoint of this version\n", file);
    return bad ? -1 : 0;
}
