/* train.c - networks of the vq family, the training loop, checkpoints. */
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

const preset presets[] = {
    /* name      c4 n4  c8 n8 c16 n16 body n render n slices dim codes hidden */
    {"standard", 64, 2, 128, 3, 256, 4, 256, 6, 64, 2, 4, 24, 4096, 192},
    {"small",    32, 1,  64, 1, 128, 2, 128, 3, 32, 1, 4, 24,  512,  64},
    {"", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
};

int preset_find(const char *name, preset *out)
{
    for (const preset *p = presets; p->name[0]; p++)
        if (!strcmp(p->name, name)) {
            *out = *p;
            return 0;
        }
    return -1;
}

int preset_valid(const preset *p, const int *seed_channel)
{
    const int width[] = {p->c4, p->c8, p->c16, p->body, p->render, p->hidden};
    const int depth[] = {p->n4, p->n8, p->n16, p->n_body, p->n_render};
    for (int i = 0; i < 6; i++)
        if (width[i] < 16 || width[i] > 1024 || width[i] % 16) return 0;
    for (int i = 0; i < 5; i++)
        if (depth[i] < 0 || depth[i] > NSVQ_MAX_LAYERS) return 0;
    /* Beside the blocks: 8 and 5 layers. */
    if (8 + 2 * (p->n4 + p->n8 + p->n16) >= NSVQ_MAX_REGISTERS ||
        5 + 2 * p->n_body + p->n_render >= NSVQ_MAX_REGISTERS)
        return 0;
    if (p->slices < 1 || p->slices > NSVQ_MAX_SLICES || p->dim < 4 || p->dim > 64 || p->dim % 4 ||
        p->codes < NSVQ_CELL || p->codes > 4096 || p->codes % NSVQ_CELL)
        return 0;
    for (int i = 0; i < 3; i++)
        if (seed_channel[i] < 0 || seed_channel[i] >= p->slices * p->dim) return 0;
    return memchr(p->name, 0, sizeof p->name) != NULL;
}

static int residual_blocks(network *n, store *s, int x, int count, int k)
{
    for (int i = 0; i < count; i++) {
        const int d = net_depthwise(n, s, x, k);
        x = net_pointwise(n, s, d, x, n->channels[x], NSVQ_U8, NSVQ_S16);
    }
    return x;
}

static void build_analysis(model *m)
{
    const preset *p = &m->pre;
    network *n = &m->ana;
    store *s = &m->st;
    n->channels[0] = 48;
    m->pixels16 = net_space_to_depth(n, 0, 4);
    m->ana_linear = n->n_layers;
    const int lin = net_pointwise(n, s, m->pixels16, -1, p->slices * p->dim, NSVQ_S16, NSVQ_S16);
    int x = net_pointwise(n, s, 0, -1, p->c4, NSVQ_S16, NSVQ_S16);
    x = residual_blocks(n, s, x, p->n4, 5);
    x = net_pointwise(n, s, net_space_to_depth(n, x, 2), -1, p->c8, NSVQ_S16, NSVQ_S16);
    x = residual_blocks(n, s, x, p->n8, 5);
    x = net_pointwise(n, s, net_space_to_depth(n, x, 2), -1, p->c16, NSVQ_S16, NSVQ_S16);
    x = residual_blocks(n, s, x, p->n16, 3);
    m->ana_last = n->n_layers;
    net_pointwise(n, s, x, lin, p->slices * p->dim, NSVQ_S16, NSVQ_S16);
}

static void build_synthesis(model *m)
{
    const preset *p = &m->pre;
    network *n = &m->syn;
    store *s = &m->st;
    n->channels[0] = p->slices * p->dim;
    m->syn_head = n->n_layers;
    int x = net_pointwise(n, s, 0, -1, p->body, NSVQ_S16, NSVQ_S16);
    x = residual_blocks(n, s, x, p->n_body, 3);
    x = net_pointwise(n, s, net_depthwise(n, s, x, 3), -1, 16 * p->render, NSVQ_U8, NSVQ_U8);
    m->syn_linear = n->n_layers;
    const int lin = net_pointwise(n, s, 0, -1, 768, NSVQ_S16, NSVQ_S16);
    for (int i = 0; i < p->n_render; i++)
        x = net_pointwise_rep(n, s, x, x, 16, p->render, NSVQ_U8, NSVQ_U8);
    m->syn_last = n->n_layers;
    net_pointwise_rep(n, s, x, lin, 16, 48, NSVQ_U8, NSVQ_S16);
}

/* The store's segments of a layer get a learning rate of their own. */
static void slow(model *m, const layer *l, float lr)
{
    for (int i = 0; i < m->st.n_segments; i++)
        if (m->st.seg[i].at == l->w || m->st.seg[i].at == l->b) {
            m->st.seg[i].lr = lr;
            m->st.seg[i].decay = 0;
            m->st.seg[i].linear = 1;
        }
}

void model_build(model *m, const preset *p)
{
    *m = (model){.pre = *p, .rng = 1};
    build_analysis(m);
    build_synthesis(m);
    vq_build(&m->q, &m->st, p->slices, p->dim, p->codes, p->hidden);
    m->q.lambda50 = 0.5f;
    slow(m, &m->ana.l[m->ana_linear], 0.03f);
    slow(m, &m->syn.l[m->syn_linear], 0.03f);
    for (int i = 0; i < NSVQ_N_PASSES; i++) slow(m, &m->q.mean[i], 0.05f);
    store_alloc(&m->st);
    m->m = calloc(m->st.n, sizeof(float));
    m->v = calloc(m->st.n, sizeof(float));
}

void model_free(model *m)
{
    free(m->st.p);
    free(m->m);
    free(m->v);
    free(m->q.code); free(m->q.code_t); free(m->q.norm); free(m->q.member_bits);
    free(m->q.ema_n); free(m->q.ema_sum);
    memset(m, 0, sizeof *m);
}

/* ---- checkpoints: a header, the state, the arrays, in this machine's byte order ---- */

static const char checkpoint_magic[8] = "NSVQCK3";

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
} checkpoint_state;

typedef struct span { float *p; size_t n; } span;

static void checkpoint_spans(const model *m, span *out)
{
    const size_t k = (size_t)m->q.slices * m->q.codes;
    const span s[6] = {{m->st.p, m->st.n}, {m->m, m->st.n}, {m->v, m->st.n},
                       {m->q.code, k * m->q.dim}, {m->q.ema_n, k}, {m->q.ema_sum, k * m->q.dim}};
    memcpy(out, s, sizeof s);
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
    span sp[6];
    checkpoint_spans(m, sp);
    int bad = !f || fwrite(checkpoint_magic, 1, 8, f) != 8 || fwrite(&s, sizeof s, 1, f) != 1;
    for (int i = 0; !bad && i < 6; i++) bad = fwrite(sp[i].p, sizeof(float), sp[i].n, f) != sp[i].n;
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
        span sp[6];
        model_build(m, &s.pre);
        bad = s.n != m->st.n;
        checkpoint_spans(m, sp);
        for (int i = 0; !bad && i < 6; i++) bad = fread(sp[i].p, sizeof(float), sp[i].n, f) != sp[i].n;
        memcpy(m->q.seed_channel, s.seed_channel, sizeof s.seed_channel);
        m->q.lambda50 = s.lambda50;
        m->step = s.step;
        m->trained_minutes = s.minutes;
        m->trained_mpixel = s.mpixel;
        m->rng = s.rng;
        m->moments = s.moments;
        m->f = s.f;
        m->has_formats = s.has_formats;
        vq_refresh(&m->q);
        vq_member_table(&m->q);
        if (bad) model_free(m);
    }
    if (f) fclose(f);
    if (bad) fprintf(stderr, "nsvq-train: %s is no checkpoint of this version\n", file);
    return bad ? -1 : 0;
}

/* ---- one patch ---- */

typedef struct worker {
    workspace ana, syn;
    vq_patch  vp;
    qat_buffers ib[2]; /* analysis, synthesis */
    float    *g; /* gradients of the store */
    vq_sums  *sums;
    uint8_t  *rgb;
    uint64_t  rng;
    double    squared, samples, psnr;
    int       n;
} worker;

static void worker_init(worker *w, const model *m, int size)
{
    *w = (worker){0};
    w->g = calloc(m->st.n, sizeof(float));
    w->sums = vq_sums_new(&m->q);
    w->rgb = malloc((size_t)size * (size_t)size * 3);
    if (!w->g || !w->sums || !w->rgb) abort();
}

static void worker_free(worker *w)
{
    workspace_free(&w->ana);
    workspace_free(&w->syn);
    vq_patch_free(&w->vp);
    qat_buffers_free(&w->ib[0]);
    qat_buffers_free(&w->ib[1]);
    free(w->g);
    if (w->sums) {
        free(w->sums->n); free(w->sums->sum); free(w->sums->spare); free(w->sums);
    }
    free(w->rgb);
}

static void pixels_in(float *to, const uint8_t *rgb, int w, int h)
{
    for (int y = 0; y < h / 4; y++)
        for (int x = 0; x < w / 4; x++)
            for (int py = 0; py < 4; py++) {
                const uint8_t *p = rgb + ((size_t)(y * 4 + py) * (size_t)w + (size_t)x * 4) * 3;
                for (int i = 0; i < 12; i++) *to++ = ((float)p[i] - 128.f) / 64.f;
            }
}

/* Pixels -> y -> y_hat -> pixels, in syn's output; through the integer kernels if qt. */
static void run_patch(const model *m, const qat *qt, workspace *ana, workspace *syn, qat_buffers *ib,
                      vq_patch *vp, const uint8_t *rgb, int pw, int ph, float quality, vq_sums *sums)
{
    workspace_shape(ana, &m->ana, ph / 4, pw / 4);
    workspace_shape(syn, &m->syn, ph / 16, pw / 16);
    pixels_in(ana->r[0].v, rgb, pw, ph);
    if (qt)
        qat_forward(qt, m, 0, ana, &ib[0]);
    else
        net_forward(&m->ana, m->st.p, ana);
    const tensor *y = &ana->r[m->ana.output];
    vq_quantise(&m->q, m->st.p, vp, y->v, y->w, y->h, quality, syn->r[0].v, sums);
    if (qt)
        qat_forward(qt, m, 1, syn, &ib[1]);
    else
        net_forward(&m->syn, m->st.p, syn);
}

struct forward { workspace ana, syn; vq_patch vp; };

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
    vq_patch_free(&f->vp);
    free(f);
}

void forward_run(forward *f, const model *m, const uint8_t *rgb, int w, int h, float quality)
{
    run_patch(m, NULL, &f->ana, &f->syn, NULL, &f->vp, rgb, w, h, quality, NULL);
}

const workspace *forward_analysis(const forward *f)
{
    return &f->ana;
}

const workspace *forward_synthesis(const forward *f)
{
    return &f->syn;
}

const vq_patch *forward_patch(const forward *f)
{
    return &f->vp;
}

#define COMMITMENT 0.7f
#define CHARBONNIER (16.f / 64.f) /* grey levels / 64 */
#define MSE_FLOOR ((3.f / 64.f) * (3.f / 64.f))

static void train_patch(const model *m, const qat *qt, worker *w, const dataset *d, int size,
                        float weight)
{
    int pw, ph;
    dataset_patch(d, &w->rng, size, w->rgb, &pw, &ph);
    const float quality = 20.f + 60.f * random_unit(&w->rng);
    run_patch(m, qt, &w->ana, &w->syn, w->ib, &w->vp, w->rgb, pw, ph, quality, w->sums);
    const float *p = qt ? qt->p : m->st.p;
    const tensor *x = &w->ana.r[m->pixels16], *o = &w->syn.r[m->syn.output];
    const size_t n = (size_t)o->h * o->w * o->c;
    double se = 0;
    for (size_t i = 0; i < n; i++) {
        const float e = o->v[i] - x->v[i];
        se += (double)e * e;
    }
    const float mse = (float)(se / (double)n);
    /* Each patch counts by its decibels: Charbonnier loss over the patch's own error. */
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
    vq_backward(&m->q, m->st.p, w->g, &w->vp, quality, weight / (float)w->vp.n);
    w->squared += se * 64 * 64;
    w->samples += (double)n;
    w->psnr += 10 * log10(255. * 255 / (mse * 64 * 64 + 1e-9));
    w->n++;
}

figures validate(const model *m, const dataset *d, float quality, int size)
{
    figures f = {0};
    int n = 0, w, h;
    const char *name;
    uint8_t *rgb = malloc((size_t)size * (size_t)size * 3);
    while (dataset_held_out(d, n, size, rgb, &w, &h, &name)) n++;
    free(rgb);
#pragma omp parallel
    {
        worker k;
        worker_init(&k, m, size);
#pragma omp for schedule(dynamic, 1)
        for (int i = 0; i < n; i++) {
            int pw, ph;
            const char *nm;
            dataset_held_out(d, i, size, k.rgb, &pw, &ph, &nm);
            run_patch(m, NULL, &k.ana, &k.syn, NULL, &k.vp, k.rgb, pw, ph, quality, k.sums);
            const tensor *x = &k.ana.r[m->pixels16], *o = &k.syn.r[m->syn.output];
            const size_t count = (size_t)o->h * o->w * o->c;
            double se = 0;
            for (size_t j = 0; j < count; j++) {
                const float v = roundf(o->v[j] * 64.f + 128.f), c = v < 0.f ? 0.f : v > 255.f ? 255.f : v;
                const float e = c - (x->v[j] * 64.f + 128.f);
                se += (double)e * e;
            }
            const double mse = se / (double)count, bits = k.sums->bits;
            vq_sums_clear(&m->q, k.sums);
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

static void adamw(model *m, const float *g, float lr)
{
    const float b1 = 0.9f, b2 = 0.99f, decay = 0.01f;
    const float c1 = 1.f - powf(b1, (float)m->moments), c2 = 1.f - powf(b2, (float)m->moments);
#pragma omp parallel for schedule(static)
    for (int s = 0; s < m->st.n_segments; s++) {
        const segment *sg = &m->st.seg[s];
        const float rate = lr * sg->lr, wd = sg->decay ? rate * decay : 0.f;
        for (size_t i = sg->at; i < sg->at + sg->n; i++) {
            m->m[i] = b1 * m->m[i] + (1.f - b1) * g[i];
            m->v[i] = b2 * m->v[i] + (1.f - b2) * g[i] * g[i];
            m->st.p[i] -= rate * (m->m[i] / c1) / (sqrtf(m->v[i] / c2) + 1e-10f) + wd * m->st.p[i];
        }
    }
}

int train(model *m, const dataset *d, const train_options *o)
{
    const int nt = o->threads > 0 ? o->threads : omp_get_max_threads();
    const double start = now(), limit = o->minutes * 60;
    double last_print = start, last_save = start, mpix = 0, psnr = 0, bpp = 0, shown_pix = 0;
    const long first = m->step;
    worker *w = calloc((size_t)nt, sizeof *w);
    FILE *log = o->log ? fopen(o->log, "a") : NULL;
    char ck[1024];
    snprintf(ck, sizeof ck, "%s.ckpt", o->out);
    omp_set_num_threads(nt);
    for (int i = 0; i < nt; i++) worker_init(&w[i], m, o->patch);
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    const double before = m->trained_minutes;
    qat qt;
    int aware = 0;
    while (!interrupted) {
        const double t = now() - start;
        const double done = o->steps ? (double)(m->step - first) / (double)o->steps : t / limit;
        if (done >= 1) break;
        m->has_formats = aware;
        const float warm = fminf(1.f, (float)(m->step - first + 1) / 300.f);
        const float lr = o->lr * warm * (0.02f + 0.98f * 0.5f * (1.f + cosf(3.14159265f * (float)done)));
        const uint64_t seed = random_u64(&m->rng);
        if (done >= 1 - o->qat && !aware) {
            formats_calibrate(m, d, &m->f);
            m->has_formats = aware = 1;
            qat_init(&qt, m, &m->f);
            if (!o->quiet) fprintf(stderr, "step %ld: quantisation-aware from here\n", m->step);
        }
        if (aware) qat_refresh(&qt, m);
#pragma omp parallel num_threads(nt)
        {
            worker *k = &w[omp_get_thread_num()];
#pragma omp for schedule(dynamic, 1)
            for (int i = 0; i < o->batch; i++) {
                k->rng = seed + (uint64_t)i * 0x5851F42D4C957F2Du;
                train_patch(m, aware ? &qt : NULL, k, d, o->patch, 1.f / (float)o->batch);
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
            vq_sums_add(&m->q, w[0].sums, w[j].sums);
            vq_sums_clear(&m->q, w[j].sums);
            w[0].samples += w[j].samples;
            w[0].psnr += w[j].psnr;
            w[0].n += w[j].n;
            w[j].samples = w[j].psnr = w[j].n = 0;
        }
        m->step++;
        m->moments++;
        adamw(m, w[0].g, lr);
        memset(w[0].g, 0, m->st.n * sizeof(float));
        vq_update(&m->q, w[0].sums, 0.99f + 0.008f * (float)done);
        if (m->step % 10 == 0) {
            if (m->step % 50 == 0 && done < 0.8) vq_revive(&m->q, w[0].sums, &m->rng);
            vq_refresh(&m->q);
            vq_member_table(&m->q);
        }
        const double pix = w[0].samples / 3e6, p1 = w[0].psnr / w[0].n,
                     b1 = w[0].sums->bits / (w[0].samples / 3);
        const double cellshare = w[0].sums->cell_bits / w[0].sums->bits,
                     lat_e = w[0].sums->distortion / (double)w[0].sums->n_latents,
                     lat_r = w[0].sums->residual / (double)w[0].sums->n_latents;
        const double keep = m->step - first == 1 ? 0 : 0.98;
        mpix += pix;
        m->trained_mpixel += pix;
        psnr = keep * psnr + (1 - keep) * p1;
        bpp = keep * bpp + (1 - keep) * b1;
        w[0].samples = w[0].psnr = w[0].n = 0;
        vq_sums_clear(&m->q, w[0].sums);
        const double t1 = now();
        m->trained_minutes = before + (t1 - start) / 60;
        if (!o->quiet && t1 - last_print > 15) {
            const double eta = o->steps ? (t1 - start) * (1 - done) / (done + 1e-9) : limit - (t1 - start);
            fprintf(stderr, "step %ld  %.2f dB  %.4f bpp (cells %.2f)  latent error %.1f of %.1f  %.2f Mpixel/s  lr %.1e  %.0f min left\n", m->step,
                    psnr, bpp, cellshare, lat_e, lat_r, (mpix - shown_pix) / (t1 - last_print), (double)lr, eta / 60);
            shown_pix = mpix;
            last_print = t1;
        }
        if (t1 - last_save > 300) {
            const figures f = validate(m, d, 50, 256);
            if (!o->quiet)
                fprintf(stderr, "held out: %.3f dB  %.4f bpp  (%d patches)\n", f.psnr, f.bpp, f.n);
            if (log) {
                fprintf(log, "step %ld minutes %.1f Mpixel %.0f train %.3f dB %.4f bpp held-out %.3f dB %.4f bpp\n",
                        m->step, m->trained_minutes, m->trained_mpixel, psnr, bpp, f.psnr, f.bpp);
                fflush(log);
            }
            checkpoint_save(m, ck);
            last_save = now();
        }
    }
    const int bad = checkpoint_save(m, ck);
    if (aware) qat_free(&qt);
    for (int i = 0; i < nt; i++) worker_free(&w[i]);
    free(w);
    if (log) fclose(log);
    return bad;
}
