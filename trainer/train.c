/* train.c - networks of both families, the training loop, checkpoints. */
#include <math.h>
#include <omp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "qat.h"
#include "random.h"
#include "train.h"

#define VQ    NSVQ_FAMILY_VQ
#define HYPER NSVQ_FAMILY_HYPER
const preset presets[] = {
    /* name      family stride latent c4 n4  c8 n8 c16 n16 body n render n slices dim codes hidden z wide side */
    {"standard",     VQ, 16,  96, 64, 2, 128, 3, 256, 4, 256, 6, 64, 2, 4, 24, 4096, 192, 0, 0, 0},
    {"small",        VQ, 16,  96, 32, 1,  64, 1, 128, 2, 128, 3, 32, 1, 4, 24,  512,  64, 0, 0, 0},
    {"hyper16",   HYPER, 16, 192, 64, 2, 128, 3, 256, 4, 256, 5, 64, 2, 0, 0, 0, 0, 48, 128, 48},
    {"hyper8",    HYPER,  8, 128, 64, 2, 192, 5,   0, 0, 128, 5, 48, 2, 0, 0, 0, 0, 48, 128, 32},
    {"hyper-small", HYPER, 16, 48, 32, 1, 32, 1,  64, 1,  64, 1, 16, 1, 0, 0, 0, 0, 16,  32, 16},
    {.name = ""},
};
#undef VQ
#undef HYPER

static int is_hyper(const model *m)
{
    return m->pre.family == NSVQ_FAMILY_HYPER;
}

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

static float *zeros(size_t n)
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

void model_free(model *m)
{
    free(m->st.p);
    free(m->m);
    free(m->v);
    free(m->mean);
    free(m->norm);
    free(m->h.column);
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

static const char checkpoint_magic[8] = "NSVQCK4";

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

/* ---- one patch ---- */

typedef struct latents { /* one patch's, of the model's family */
    vq_patch    vq;
    hyper_patch hyper;
} latents;

typedef struct worker {
    workspace ana, syn;
    latents   lat;
    qat_buffers ib[N_NETS];
    float    *g; /* gradients of the store */
    vq_sums  *sums; /* vq */
    uint8_t  *rgb;
    uint64_t  rng;
    double    samples, psnr, bits;
    int       n;
} worker;

static void worker_init(worker *w, const model *m, int size)
{
    *w = (worker){0};
    w->g = zeros(m->st.n);
    w->sums = is_hyper(m) ? NULL : vq_sums_new(&m->q);
    w->rgb = malloc((size_t)size * (size_t)size * 3);
    if (!w->rgb) abort();
}

static void latents_free(latents *l)
{
    vq_patch_free(&l->vq);
    hyper_patch_free(&l->hyper);
}

static void worker_free(worker *w)
{
    workspace_free(&w->ana);
    workspace_free(&w->syn);
    latents_free(&w->lat);
    for (int i = 0; i < N_NETS; i++) qat_buffers_free(&w->ib[i]);
    free(w->g);
    if (w->sums) {
        free(w->sums->n); free(w->sums->sum); free(w->sums->spare); free(w->sums);
    }
    free(w->rgb);
}

void pixels_in(float *to, const uint8_t *rgb, int w, int h)
{
    for (int y = 0; y < h / 4; y++)
        for (int x = 0; x < w / 4; x++)
            for (int py = 0; py < 4; py++) {
                const uint8_t *p = rgb + ((size_t)(y * 4 + py) * (size_t)w + (size_t)x * 4) * 3;
                for (int i = 0; i < 12; i++) *to++ = ((float)p[i] - 128.f) / 64.f;
            }
}

/* y -> y_hat; returns the bits. noise: for the rates of the hyper family's training. */
static double quantise(const model *m, const qat *qt, qat_buffers *ib, latents *l, const tensor *y,
                       float quality, float *y_hat, vq_sums *sums, uint64_t *noise)
{
    if (!is_hyper(m))
        return vq_quantise(&m->q, m->st.p, &l->vq, y->v, y->w, y->h, quality, y_hat, sums);
    if (qt) return qat_quantise(qt, m, &l->hyper, ib, y->v, y->w, y->h, quality, y_hat, NULL, noise);
    return hyper_quantise(&m->h, m->st.p, &l->hyper, y->v, y->w, y->h, quality, y_hat, noise);
}

/* Pixels -> y -> y_hat -> pixels, in syn's output; through the integer kernels if qt. Returns the bits. */
static double run_patch(const model *m, const qat *qt, workspace *ana, workspace *syn, qat_buffers *ib,
                        latents *l, const uint8_t *rgb, int pw, int ph, float quality, vq_sums *sums,
                        uint64_t *noise)
{
    const int stride = m->pre.stride;
    workspace_shape(ana, &m->ana, ph / 4, pw / 4);
    workspace_shape(syn, &m->syn, ph / stride, pw / stride);
    pixels_in(ana->r[0].v, rgb, pw, ph);
    if (qt)
        qat_forward(qt, m, NET_ANALYSIS, ana, &ib[NET_ANALYSIS]);
    else
        net_forward(&m->ana, m->st.p, ana);
    const double bits =
        quantise(m, qt, ib, l, &ana->r[m->ana.output], quality, syn->r[0].v, sums, noise);
    if (qt)
        qat_forward(qt, m, NET_SYNTHESIS, syn, &ib[NET_SYNTHESIS]);
    else
        net_forward(&m->syn, m->st.p, syn);
    return bits;
}

struct forward { workspace ana, syn; latents lat; };

forward *forward_new(void)
{
    forward *f = calloc(1, sizeof *f);
    if (!f) abort();
    return f;
}

void forward_free(forward *f)
{
    workspace_free(&f->ana);
    workspace_free(&f->syn);
    latents_free(&f->lat);
    free(f);
}

void forward_run(forward *f, const model *m, const uint8_t *rgb, int w, int h, float quality)
{
    run_patch(m, NULL, &f->ana, &f->syn, NULL, &f->lat, rgb, w, h, quality, NULL, NULL);
}

const workspace *forward_net(const forward *f, int which)
{
    const workspace *const ws[N_NETS] = {&f->ana, &f->syn, &f->lat.hyper.ha, &f->lat.hyper.hs};
    return ws[which];
}

const vq_patch *forward_patch(const forward *f)
{
    return &f->lat.vq;
}

#define COMMITMENT 0.7f
#define CHARBONNIER (16.f / 64.f) /* grey levels / 64 */
#define MSE_FLOOR ((3.f / 64.f) * (3.f / 64.f))
#define RATE_FLOOR 0.2 /* bits per pixel: below it patches do not count for more */

/* Each patch counts by its decibels: Charbonnier loss over the patch's own error; codes are paid in
 * squared latent units. */
static void back_vq(const model *m, const float *p, worker *w, float mse, float quality, float weight)
{
    const tensor *x = &w->ana.r[m->squares], *o = &w->syn.r[m->syn.output];
    const size_t n = (size_t)o->h * o->w * o->c;
    const float scale = weight / ((float)n * (mse + MSE_FLOOR));
    for (size_t i = 0; i < n; i++) {
        const float e = o->v[i] - x->v[i];
        o->g[i] = 2.f * scale * e / sqrtf(1.f + e * e / (CHARBONNIER * CHARBONNIER));
    }
    net_backward(&m->syn, p, w->g, &w->syn, 1);
    const tensor *y = &w->ana.r[m->ana.output], *yh = &w->syn.r[0];
    const size_t ny = (size_t)y->h * y->w * y->c;
    for (size_t i = 0; i < ny; i++) y->g[i] = yh->g[i] + COMMITMENT * 2.f * scale * (y->v[i] - yh->v[i]);
    net_backward(&m->ana, p, w->g, &w->ana, 0);
    vq_backward(&m->q, m->st.p, w->g, &w->lat.vq, quality, weight / (float)w->lat.vq.n);
}

/* Bits and squared error, that one in steps of the quality, over the patch's own rate: each patch counts
 * by the per cents of its rate. */
static void back_hyper(const model *m, const float *p, worker *w, double bits, float quality, float weight)
{
    const tensor *x = &w->ana.r[m->squares], *o = &w->syn.r[m->syn.output];
    const size_t n = (size_t)o->h * o->w * o->c;
    const double pixels = (double)n / 3;
    const float step = hyper_step(quality), bit = weight / (float)(bits + pixels * RATE_FLOOR);
    const float scale = bit / (HYPER_RATE * step * step);
    for (size_t i = 0; i < n; i++) o->g[i] = 2.f * scale * (o->v[i] - x->v[i]);
    net_backward(&m->syn, p, w->g, &w->syn, 1);
    hyper_backward(&m->h, p, w->g, &w->lat.hyper, quality, bit, w->syn.r[0].g,
                   w->ana.r[m->ana.output].g);
    net_backward(&m->ana, p, w->g, &w->ana, 0);
}

static void train_patch(const model *m, const qat *qt, worker *w, const dataset *d, float weight)
{
    int pw, ph;
    const run *r = &m->run;
    const cut c = model_cut(m, r->patch);
    dataset_patch(d, &w->rng, &c, w->rgb, &pw, &ph);
    float quality = r->low + (r->high - r->low) * random_unit(&w->rng);
    if (is_hyper(m)) quality = rintf(quality * 16.f) / 16.f; /* as files have it */
    const double bits = run_patch(m, qt, &w->ana, &w->syn, w->ib, &w->lat, w->rgb, pw, ph, quality,
                                  w->sums, &w->rng);
    const float *p = qt ? qt->p : m->st.p;
    const tensor *x = &w->ana.r[m->squares], *o = &w->syn.r[m->syn.output];
    const size_t n = (size_t)o->h * o->w * o->c;
    double se = 0;
    for (size_t i = 0; i < n; i++) {
        const float e = o->v[i] - x->v[i];
        se += (double)e * e;
    }
    const float mse = (float)(se / (double)n);
    if (is_hyper(m))
        back_hyper(m, p, w, bits, quality, weight);
    else
        back_vq(m, p, w, mse, quality, weight);
    w->bits += bits;
    w->samples += (double)n;
    w->psnr += 10 * log10(255. * 255 / (mse * 64 * 64 + 1e-9));
    w->n++;
}

figures validate(const model *m, const formats *exact, const dataset *d, float quality, int size)
{
    figures f = {0};
    int n = 0, w, h;
    qat qt;
    const char *name;
    const cut c = model_cut(m, size);
    uint8_t *rgb = malloc((size_t)size * (size_t)size * 3);
    while (dataset_held_out(d, n, &c, rgb, &w, &h, &name)) n++;
    free(rgb);
    if (exact) qat_init(&qt, m, exact);
    if (exact) qat_refresh(&qt, m);
#pragma omp parallel
    {
        worker k;
        worker_init(&k, m, size);
#pragma omp for schedule(dynamic, 1)
        for (int i = 0; i < n; i++) {
            int pw, ph;
            const char *nm;
            dataset_held_out(d, i, &c, k.rgb, &pw, &ph, &nm);
            const double bits = run_patch(m, exact ? &qt : NULL, &k.ana, &k.syn, k.ib, &k.lat, k.rgb, pw,
                                          ph, quality, NULL, NULL);
            const tensor *x = &k.ana.r[m->squares], *o = &k.syn.r[m->syn.output];
            const size_t count = (size_t)o->h * o->w * o->c;
            double se = 0;
            for (size_t j = 0; j < count; j++) {
                const float v = roundf(o->v[j] * 64.f + 128.f), t = v < 0.f ? 0.f : v > 255.f ? 255.f : v;
                const float e = t - (x->v[j] * 64.f + 128.f);
                se += (double)e * e;
            }
            const double mse = se / (double)count;
#pragma omp critical
            {
                f.psnr += 10 * log10(255. * 255 / (mse + 1e-6));
                f.mse += mse;
                f.bpp += bits / ((double)count / 3);
                f.n++;
            }
        }
        worker_free(&k);
    }
    if (exact) qat_free(&qt);
    if (f.n) {
        f.psnr /= f.n;
        f.bpp /= f.n;
        f.mse /= f.n;
    }
    return f;
}

/* ---- the loop ---- */

static volatile sig_atomic_t interrupted;
static void on_signal(int s)
{
    interrupted = 1;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* One segment: p, m, v and the average, if there is one. scale: of the gradient. */
typedef struct adamw_step { float b1, b2, c1, c2, rate, decay, scale, keep; } adamw_step;

static void adamw_row(const adamw_step *k, float *p, float *m, float *v, float *mean, const float *g,
                      const float *column, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const float gi = k->scale * g[i], rate = column ? k->rate * column[i] : k->rate;
        m[i] = k->b1 * m[i] + (1.f - k->b1) * gi;
        v[i] = k->b2 * v[i] + (1.f - k->b2) * gi * gi;
        p[i] -= rate * (m[i] / k->c1) / (sqrtf(v[i] / k->c2) + 1e-10f) + k->decay * p[i];
    }
    for (size_t i = 0; mean && i < n; i++) mean[i] = k->keep * mean[i] + (1.f - k->keep) * p[i];
}

static double squared(const float *g, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)g[i] * g[i];
    return sum;
}

/* Factor that brings a segment's gradient down to twice its running norm. Without it the analysis and
 * the hyper networks run away from each other (gradient norms that grow from step to step). */
static float clip(float *running, const float *g, size_t n)
{
    const float norm = (float)sqrt(squared(g, n)), most = 2.f * *running;
    const float f = most > 0.f && norm > most ? most / norm : 1.f;
    *running = most > 0.f ? 0.98f * *running + 0.02f * norm * f : norm;
    return f;
}

/* 0, or -1 and nothing done when the gradient is not finite. */
static int adamw(model *m, const float *g, float lr)
{
    const int h = is_hyper(m);
    const long n = m->moments + 1;
    adamw_step k = {.b1 = 0.9f, .b2 = h ? 0.999f : 0.99f,
                    .keep = fminf(0.999f, (float)(1 + n) / (float)(10 + n))};
    k.c1 = 1.f - powf(k.b1, (float)n);
    k.c2 = 1.f - powf(k.b2, (float)n);
    if (h && !isfinite(squared(g, m->st.n))) return -1;
    m->moments = n;
#pragma omp parallel for schedule(static)
    for (int i = 0; i < m->st.n_segments; i++) {
        const segment *s = &m->st.seg[i];
        adamw_step t = k;
        t.rate = lr * s->lr;
        t.decay = s->decay ? t.rate * 0.01f : 0.f;
        t.scale = h ? clip(&m->norm[i], g + s->at, s->n) : 1.f;
        const size_t row = s->column ? s->n_columns : s->n;
        for (size_t at = s->at; at < s->at + s->n; at += row)
            adamw_row(&t, m->st.p + at, m->m + at, m->v + at, m->mean ? m->mean + at : NULL, g + at,
                      s->column, row);
    }
    return 0;
}

/* Of the hyper family: what a step of 1 means for the layers that read latents. */
static void measure_columns(model *m, const dataset *d)
{
    const int L = m->h.latent, n = 100;
    const cut c = model_cut(m, 256);
    double *sum = calloc((size_t)L, sizeof *sum), count = 0;
    uint8_t *rgb = malloc(256 * 256 * 3);
    workspace ws = {0};
    uint64_t rng = 9;
    if (!sum || !rgb) abort();
    for (int k = 0; k < n; k++) {
        int w, h;
        dataset_patch(d, &rng, &c, rgb, &w, &h);
        workspace_shape(&ws, &m->ana, h / 4, w / 4);
        pixels_in(ws.r[0].v, rgb, w, h);
        net_forward(&m->ana, m->st.p, &ws);
        const tensor *y = &ws.r[m->ana.output];
        for (int i = 0; i < y->h * y->w * L; i++) sum[i % L] += (double)y->v[i] * y->v[i];
        count += y->h * y->w;
    }
    float *to = m->h.column, *z = to + m->h.context;
    for (int i = 0; i < NSVQ_N_NEIGHBOURS * L; i++) to[i] = 1.f / ((float)sqrt(sum[i % L] / count) + 0.3f);
    for (int i = 0; i < m->h.z; i++) z[i] = 1.f;
    for (int i = 0; i < NSVQ_N_EXTRA; i++) to[NSVQ_N_NEIGHBOURS * L + i] = z[m->h.z + i] = 0.04f;
    workspace_free(&ws);
    free(sum);
    free(rgb);
}

static run run_begin(const model *m, const train_options *o)
{
    const int h = is_hyper(m);
    return (run){.first = m->step, .steps = o->steps, .minutes = o->minutes, .lr = o->lr, .qat = o->qat,
                 .low = o->high > 0.f ? o->low : h ? 5.f : 20.f,
                 .high = o->high > 0.f ? o->high : h ? 95.f : 80.f, .batch = o->batch, .patch = o->patch};
}

static double run_done(const model *m)
{
    const run *r = &m->run;
    return r->steps ? (double)(m->step - r->first) / (double)r->steps : r->used / r->minutes;
}

/* Gradients of a step into w[0]; each thread has its own patches, so that a number of threads always
 * gives the same sums. */
static void step_gradients(const model *m, const qat *qt, worker *w, int nt, const dataset *d, uint64_t seed)
{
    const int batch = m->run.batch;
#pragma omp parallel num_threads(nt)
    {
        worker *k = &w[omp_get_thread_num()];
#pragma omp for schedule(static, 1)
        for (int i = 0; i < batch; i++) {
            k->rng = seed + (uint64_t)i * 0x5851F42D4C957F2Du;
            train_patch(m, qt, k, d, 1.f / (float)batch);
        }
#pragma omp for schedule(static)
        for (int b = 0; b < 64; b++) {
            const size_t a = m->st.n * (size_t)b / 64, e = m->st.n * (size_t)(b + 1) / 64;
            for (int j = 1; j < nt; j++)
                for (size_t i = a; i < e; i++) {
                    w[0].g[i] += w[j].g[i];
                    w[j].g[i] = 0;
                }
        }
    }
    for (int j = 1; j < nt; j++) {
        if (w[j].sums) {
            vq_sums_add(&m->q, w[0].sums, w[j].sums);
            vq_sums_clear(&m->q, w[j].sums);
        }
        w[0].samples += w[j].samples;
        w[0].psnr += w[j].psnr;
        w[0].bits += w[j].bits;
        w[0].n += w[j].n;
        w[j].samples = w[j].psnr = w[j].bits = w[j].n = 0;
    }
}

static void step_codes(model *m, const vq_sums *sums, double done)
{
    vq_update(&m->q, sums, 0.99f + 0.008f * (float)done);
    if (m->step % 10) return;
    if (m->step % 50 == 0 && done < 0.8) vq_revive(&m->q, sums, &m->rng);
    vq_refresh(&m->q);
    vq_member_table(&m->q);
}

/* What is shown of a training: means that forget, and since the last line. */
typedef struct progress {
    double psnr, bpp, mpixel, shown_mpixel, shown_at;
    char   family[96];
} progress;

static void progress_add(progress *g, const model *m, const worker *w)
{
    const double keep = m->step - m->run.first == 1 ? 0 : 0.98;
    g->psnr = keep * g->psnr + (1 - keep) * w->psnr / w->n;
    g->bpp = keep * g->bpp + (1 - keep) * w->bits / (w->samples / 3);
    g->mpixel += w->samples / 3e6;
    if (w->sums)
        snprintf(g->family, sizeof g->family, "  (cells %.2f)  latent error %.1f of %.1f",
                 w->sums->cell_bits / w->sums->bits, w->sums->distortion / (double)w->sums->n_latents,
                 w->sums->residual / (double)w->sums->n_latents);
}

static void progress_show(progress *g, const model *m, double t, double start, float lr)
{
    const double done = run_done(m);
    fprintf(stderr, "step %ld  %.2f dB  %.4f bpp%s  %.2f Mpixel/s  lr %.1e  %.0f min left\n", m->step,
            g->psnr, g->bpp, g->family, (g->mpixel - g->shown_mpixel) / (t - g->shown_at), (double)lr,
            (t - start) * (1 - done) / (done + 1e-9) / 60);
    g->shown_mpixel = g->mpixel;
    g->shown_at = t;
}

static void show_held_out(model *m, const dataset *d, const progress *g, FILE *log, int quiet)
{
    model_average(m);
    const figures f = validate(m, NULL, d, 50, 256);
    model_average(m);
    if (!quiet) fprintf(stderr, "held out: %.3f dB  %.4f bpp  (%d patches)\n", f.psnr, f.bpp, f.n);
    if (!log) return;
    fprintf(log, "step %ld minutes %.1f Mpixel %.0f train %.3f dB %.4f bpp held-out %.3f dB %.4f bpp\n",
            m->step, m->trained_minutes, m->trained_mpixel, g->psnr, g->bpp, f.psnr, f.bpp);
    fflush(log);
}

static int save(model *m, const worker *w, const char *out)
{
    char ck[1024];
    snprintf(ck, sizeof ck, "%s.ckpt", out);
    if (w->sums) memcpy(m->q.spare, w->sums->spare, sizeof(float) * (size_t)(m->q.slices * m->q.cells * m->q.dim));
    return checkpoint_save(m, ck);
}

int train(model *m, const dataset *d, const train_options *o)
{
    const int nt = o->threads > 0 ? o->threads : omp_get_max_threads();
    const double start = now(), before = m->trained_minutes;
    const int go_on = o->go_on && run_done(m) < 1;
    int aware = go_on && m->has_formats; /* its formats stay */
    if (!go_on) m->run = run_begin(m, o);
    const double used = m->run.used;
    double last_save = start;
    progress shown = {.shown_at = start};
    worker *w = calloc((size_t)nt, sizeof *w);
    FILE *log = o->log ? fopen(o->log, "a") : NULL;
    qat qt;
    omp_set_num_threads(nt);
    for (int i = 0; i < nt; i++) worker_init(&w[i], m, m->run.patch);
    if (is_hyper(m) && m->h.column[0] == 0.f) measure_columns(m, d);
    if (m->mean && !m->moments) memcpy(m->mean, m->st.p, sizeof(float) * m->st.n);
    if (w->sums) memcpy(w->sums->spare, m->q.spare, sizeof(float) * (size_t)(m->q.slices * m->q.cells * m->q.dim));
    if (aware) qat_init(&qt, m, &m->f);
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    while (!interrupted && !(o->stop && m->step - m->run.first >= o->stop)) {
        m->run.used = used + (now() - start) / 60;
        const double done = run_done(m);
        if (!(done < 1)) break;
        m->has_formats = aware;
        const float warm = fminf(1.f, (float)(m->step - m->run.first + 1) / 300.f);
        const float lr = m->run.lr * warm * (0.02f + 0.98f * 0.5f * (1.f + cosf(3.14159265f * (float)done)));
        const uint64_t seed = random_u64(&m->rng);
        if (done >= 1 - m->run.qat && !aware) {
            formats_calibrate(m, d, &m->f);
            m->has_formats = aware = 1;
            qat_init(&qt, m, &m->f);
            if (!o->quiet) fprintf(stderr, "step %ld: quantisation-aware from here\n", m->step);
        }
        if (aware) qat_refresh(&qt, m);
        step_gradients(m, aware ? &qt : NULL, w, nt, d, seed);
        m->step++;
        if (adamw(m, w->g, lr)) fprintf(stderr, "step %ld: the gradient is not finite, left out\n", m->step);
        memset(w->g, 0, m->st.n * sizeof(float));
        if (w->sums) step_codes(m, w->sums, done);
        m->trained_mpixel += w->samples / 3e6;
        progress_add(&shown, m, w);
        w->samples = w->psnr = w->bits = w->n = 0;
        if (w->sums) vq_sums_clear(&m->q, w->sums);
        const double t = now();
        m->trained_minutes = before + (t - start) / 60;
        if (!o->quiet && t - shown.shown_at > 15) progress_show(&shown, m, t, start, lr);
        if (t - last_save > 300) {
            show_held_out(m, d, &shown, log, o->quiet);
            save(m, w, o->out);
            last_save = now();
        }
    }
    const int bad = save(m, w, o->out);
    if (aware) qat_free(&qt);
    for (int i = 0; i < nt; i++) worker_free(&w[i]);
    free(w);
    if (log) fclose(log);
    return bad;
}
