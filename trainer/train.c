/* train.c - one patch forwards and backwards, the optimiser, the training loop. */
#include <math.h>
#include <omp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fast.h"
#include "gpu.h"
#include "muon.h"
#include "qat.h"
#include "random.h"
#include "ssim.h"
#include "train.h"

/* ---- one patch ---- */

static double seconds_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double now(void)
{
    return seconds_of(CLOCK_MONOTONIC);
}

static double busy(void) /* of this thread, whatever else the machine does */
{
    return seconds_of(CLOCK_THREAD_CPUTIME_ID);
}

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
    ssim_work ssim;
    float    *luma[3]; /* of the patch, of what comes back, gradient */
    uint64_t  rng;
    double    samples, psnr, bits;
    int       n;
    double    spent[N_PARTS], lap; /* busy seconds; the clock at the last part's end */
} worker;

static void lap(worker *w, int part)
{
    if (!w) return;
    const double t = busy();
    w->spent[part] += t - w->lap;
    w->lap = t;
}

static void worker_init(worker *w, const model *m, int size)
{
    *w = (worker){0};
    w->g = zeros(m->st.n);
    w->sums = is_hyper(m) ? NULL : vq_sums_new(&m->q);
    w->rgb = malloc((size_t)size * (size_t)size * 3);
    if (!w->rgb) abort();
    for (int i = 0; i < 3 && m->run.ms_ssim > 0.f; i++) w->luma[i] = grow(NULL, (size_t)size * (size_t)size);
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
    ssim_free(&w->ssim);
    for (int i = 0; i < 3; i++) free(w->luma[i]);
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

/* Pixels -> y -> y_hat -> pixels, in syn's output; through the integer kernels if qt. Returns the bits.
 * clock: whose laps these are, or NULL. */
static double run_patch(const model *m, const qat *qt, workspace *ana, workspace *syn, qat_buffers *ib,
                        latents *l, const uint8_t *rgb, int pw, int ph, float quality, vq_sums *sums,
                        uint64_t *noise, worker *clock)
{
    const int stride = m->pre.stride;
    workspace_shape(ana, &m->ana, ph / 4, pw / 4);
    workspace_shape(syn, &m->syn, ph / stride, pw / stride);
    pixels_in(ana->r[0].v, rgb, pw, ph);
    if (qt)
        qat_forward(qt, m, NET_ANALYSIS, ana, &ib[NET_ANALYSIS]);
    else
        net_forward(&m->ana, m->st.p, ana);
    lap(clock, PART_ANALYSIS);
    const double bits =
        quantise(m, qt, ib, l, &ana->r[m->ana.output], quality, syn->r[0].v, sums, noise);
    lap(clock, PART_QUANTISER);
    if (qt)
        qat_forward(qt, m, NET_SYNTHESIS, syn, &ib[NET_SYNTHESIS]);
    else
        net_forward(&m->syn, m->st.p, syn);
    lap(clock, PART_SYNTHESIS);
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
    run_patch(m, NULL, &f->ana, &f->syn, NULL, &f->lat, rgb, w, h, quality, NULL, NULL, NULL);
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
    lap(w, PART_SYNTHESIS_BACK);
    const tensor *y = &w->ana.r[m->ana.output], *yh = &w->syn.r[0];
    const size_t ny = (size_t)y->h * y->w * y->c;
    for (size_t i = 0; i < ny; i++) y->g[i] = yh->g[i] + COMMITMENT * 2.f * scale * (y->v[i] - yh->v[i]);
    net_backward(&m->ana, p, w->g, &w->ana, 0);
    lap(w, PART_ANALYSIS_BACK);
    vq_backward(&m->q, m->st.p, w->g, &w->lat.vq, quality, weight / (float)w->lat.vq.n);
    lap(w, PART_QUANTISER_BACK);
}

/* Bits and squared error, that one in steps of the quality, over the patch's own rate: each patch counts
 * by the per cents of its rate. 1 - MS-SSIM counts by its logarithm, as the squared error does that it stands
 * in for. */
static void back_hyper(const model *m, const float *p, worker *w, double bits, float mse, float quality, float weight)
{
    const tensor *x = &w->ana.r[m->squares], *o = &w->syn.r[m->syn.output];
    const size_t n = (size_t)o->h * o->w * o->c;
    const int stride = m->pre.stride;
    const double pixels = (double)n / 3;
    const balance by = hyper_balance(stride);
    const float step = hyper_step(quality) * by.coarse, bit = weight / (float)(bits + pixels * (double)by.least);
    const float scale = bit / (HYPER_RATE * step * step), share = m->run.ms_ssim;
    for (size_t i = 0; i < n; i++) o->g[i] = 2.f * (1.f - share) * scale * (o->v[i] - x->v[i]);
    if (share > 0.f) {
        luma_of(x, stride, w->luma[0]);
        luma_of(o, stride, w->luma[1]);
        const float s = ms_ssim(&w->ssim, w->luma[1], w->luma[0], o->w * stride, o->h * stride, w->luma[2]);
        luma_back(o, stride, w->luma[2], -share * scale * (float)n * mse / (1.f - s + 1e-4f));
    }
    net_backward(&m->syn, p, w->g, &w->syn, 1);
    lap(w, PART_SYNTHESIS_BACK);
    hyper_backward(&m->h, p, w->g, &w->lat.hyper, quality, bit, w->syn.r[0].g,
                   w->ana.r[m->ana.output].g);
    lap(w, PART_QUANTISER_BACK);
    net_backward(&m->ana, p, w->g, &w->ana, 0);
    lap(w, PART_ANALYSIS_BACK);
}

static void train_patch(const model *m, const qat *qt, worker *w, const dataset *d, float weight)
{
    int pw, ph;
    const run *r = &m->run;
    const cut c = model_cut(m, r->patch);
    dataset_patch(d, &w->rng, &c, w->rgb, &pw, &ph);
    lap(w, PART_PATCH);
    float quality = r->low + (r->high - r->low) * random_unit(&w->rng);
    if (is_hyper(m)) quality = rintf(quality * 16.f) / 16.f; /* as files have it */
    const double bits = run_patch(m, qt, &w->ana, &w->syn, w->ib, &w->lat, w->rgb, pw, ph, quality,
                                  w->sums, &w->rng, w);
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
        back_hyper(m, p, w, bits, mse, quality, weight);
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
                                          ph, quality, NULL, NULL, NULL);
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

/* No handler: in oneDNN's products rsp lies in a heap buffer, and the kernel would write the handler's frame below
 * it. Signals stay pending in every thread. */
static void hold_signals(void)
{
    sigset_t s;
    sigemptyset(&s);
    sigaddset(&s, SIGINT);
    sigaddset(&s, SIGTERM);
#pragma omp parallel
    pthread_sigmask(SIG_BLOCK, &s, NULL); /* later threads inherit it */
}

static int interrupted(void)
{
    sigset_t s;
    return sigpending(&s) == 0 && (sigismember(&s, SIGINT) > 0 || sigismember(&s, SIGTERM) > 0);
}

/* Of one segment. keep: share of the average; scale: of the gradient. */
typedef struct adamw_step { float b1, b2, c1, c2, rate, decay, scale, keep; } adamw_step;

static void adamw_row(const adamw_step *k, float *p, float *m, float *v, const float *g, const float *column,
                      size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const float gi = k->scale * g[i], rate = column ? k->rate * column[i] : k->rate;
        m[i] = k->b1 * m[i] + (1.f - k->b1) * gi;
        v[i] = k->b2 * v[i] + (1.f - k->b2) * gi * gi;
        p[i] -= rate * (m[i] / k->c1) / (sqrtf(v[i] / k->c2) + 1e-10f) + k->decay * p[i];
    }
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

/* One segment: matrices of the hyper family step by Muon. */
static void update_segment(model *m, const segment *s, const float *g, const adamw_step *k, int muon)
{
    float *p = m->st.p + s->at, *mean = m->mean ? m->mean + s->at : NULL;
    const size_t row = s->column ? s->n_columns : s->n;

    if (muon) {
        muon_step(p, m->m + s->at, g + s->at, k->scale, s->column, s->rows, (int)s->n / s->rows, MUON_RATE * k->rate);
        for (size_t i = 0; i < s->n; i++) p[i] -= k->decay * p[i];
    } else {
        for (size_t at = 0; at < s->n; at += row)
            adamw_row(k, p + at, m->m + s->at + at, m->v + s->at + at, g + s->at + at, s->column, row);
    }
    for (size_t i = 0; mean && i < s->n; i++) mean[i] = k->keep * mean[i] + (1.f - k->keep) * p[i];
}

int train_update(model *m, const float *g, float lr)
{
    const int h = is_hyper(m);
    const long n = m->moments + 1;
    adamw_step k = {.b1 = 0.9f, .b2 = h ? 0.999f : 0.99f,
                    .keep = fminf(0.999f, (float)(1 + n) / (float)(10 + n))};
    k.c1 = 1.f - powf(k.b1, (float)n);
    k.c2 = 1.f - powf(k.b2, (float)n);
    if (h && !isfinite(squared(g, m->st.n))) return -1;
    m->moments = n;
#pragma omp parallel for schedule(dynamic, 1)
    for (int i = 0; i < m->st.n_segments; i++) {
        const segment *s = &m->st.seg[i];
        adamw_step t = k;
        t.rate = lr * s->lr;
        t.decay = s->decay ? t.rate * 0.01f : 0.f;
        t.scale = h ? clip(&m->norm[i], g + s->at, s->n) : 1.f;
        update_segment(m, s, g, &t, h && s->rows);
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
                 .high = o->high > 0.f ? o->high : h ? 95.f : 80.f, .ms_ssim = o->ms_ssim, .batch = o->batch, .patch = o->patch};
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
        k->lap = busy();
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
        lap(k, PART_SUM);
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

void train_gradient(const model *m, const dataset *d, uint64_t seed, float *g, double *bits, double *psnr)
{
    worker w;
    worker_init(&w, m, m->run.patch);
    step_gradients(m, NULL, &w, 1, d, seed);
    memcpy(g, w.g, m->st.n * sizeof *g);
    *bits = w.bits;
    *psnr = w.psnr;
    worker_free(&w);
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

/* A step by the gradients and sums in w. */
static void step_apply(model *m, worker *w, float lr, double done)
{
    m->step++;
    if (train_update(m, w->g, lr)) fprintf(stderr, "step %ld: the gradient is not finite, left out\n", m->step);
    memset(w->g, 0, m->st.n * sizeof(float));
    if (w->sums) step_codes(m, w->sums, done);
    m->trained_mpixel += w->samples / 3e6;
}

static void worker_clear(const model *m, worker *w)
{
    w->samples = w->psnr = w->bits = w->n = 0;
    if (w->sums) vq_sums_clear(&m->q, w->sums);
}

static size_t n_spare(const model *m)
{
    return (size_t)m->q.slices * (size_t)m->q.cells * (size_t)m->q.dim;
}

static int save(model *m, const worker *w, const char *out)
{
    char ck[1024];
    snprintf(ck, sizeof ck, "%s.ckpt", out);
    if (w->sums) memcpy(m->q.spare, w->sums->spare, sizeof(float) * n_spare(m));
    return checkpoint_save(m, ck);
}

/* A training's GPU, while it has one. */
typedef struct on_gpu {
    device  *dev;
    gpu     *g;
    gpu_sums seen;
} on_gpu;

static void leave_gpu(on_gpu *a)
{
    gpu_close(a->g);
    if (a->dev) a->dev->close(a->dev);
    *a = (on_gpu){0};
}

static int enter_gpu(on_gpu *a, const model *m, const dataset *d)
{
    if (m->run.ms_ssim > 0.f) {
        fprintf(stderr, "nsvq-train: --device cuda: not for this run, which has --ms-ssim\n");
        return -1;
    }
    a->dev = gpu_cuda(0);
    if (a->dev) a->g = gpu_open(a->dev, m, d);
    if (!a->g) leave_gpu(a);
    return a->g ? 0 : -1;
}

/* Figures of the steps since the last time. */
static int gpu_progress(on_gpu *a, const model *m, progress *to)
{
    gpu_sums s;
    const gpu_sums b = a->seen;
    if (gpu_figures(a->g, &s)) return -1;
    if (s.left_out > b.left_out)
        fprintf(stderr, "step %ld: %ld gradients were not finite, left out\n", m->step, s.left_out - b.left_out);
    if (s.patches > b.patches) {
        const double n = (double)(s.patches - b.patches);
        to->psnr = (s.psnr - b.psnr) / n;
        to->bpp = (s.bits - b.bits) / n / m->run.patch / m->run.patch;
    }
    a->seen = s;
    return 0;
}

int train(model *m, const dataset *d, const train_options *o)
{
    const int nt = o->threads > 0 ? o->threads : omp_get_max_threads();
    const double start = now(), before = m->trained_minutes;
    const int go_on = o->go_on && run_done(m) < 1;
    int aware = go_on && m->has_formats; /* its formats stay */
    if (!go_on) m->run = run_begin(m, o);
    const double used = m->run.used;
    const double save_every = 60 * (o->save > 0 ? o->save : 5);
    double last_save = start;
    int bad = 0;
    on_gpu acc = {0};
    progress shown = {.shown_at = start};
    worker *w = calloc((size_t)nt, sizeof *w);
    FILE *log = o->log ? fopen(o->log, "a") : NULL;
    qat qt;
    hold_signals();
    omp_set_num_threads(nt);
    for (int i = 0; i < nt; i++) worker_init(&w[i], m, m->run.patch);
    if (is_hyper(m) && m->h.column[0] == 0.f) measure_columns(m, d);
    if (m->mean && !m->moments) memcpy(m->mean, m->st.p, sizeof(float) * m->st.n);
    if (w->sums) memcpy(w->sums->spare, m->q.spare, sizeof(float) * n_spare(m));
    if (aware) qat_init(&qt, m, &m->f);
    if (o->cuda && !aware && run_done(m) < 1 - m->run.qat) bad = enter_gpu(&acc, m, d);
    while (!bad && !interrupted() && !(o->stop && m->step - m->run.first >= o->stop)) {
        m->run.used = used + (now() - start) / 60;
        const double done = run_done(m);
        if (!(done < 1)) break;
        m->has_formats = aware;
        const float warm = fminf(1.f, (float)(m->step - m->run.first + 1) / 300.f);
        const float lr = m->run.lr * warm * (0.02f + 0.98f * 0.5f * (1.f + cosf(3.14159265f * (float)done)));
        const uint64_t seed = random_u64(&m->rng);
        if (done >= 1 - m->run.qat && !aware) {
            if (acc.g && (bad = gpu_fetch(acc.g, m))) break;
            leave_gpu(&acc);
            formats_calibrate(m, d, &m->f);
            m->has_formats = aware = 1;
            qat_init(&qt, m, &m->f);
            if (!o->quiet) fprintf(stderr, "step %ld: quantisation-aware from here\n", m->step);
        }
        if (aware) qat_refresh(&qt, m);
        if (acc.g) {
            const double mpixel = 1e-6 * m->run.batch * m->run.patch * m->run.patch;
            gpu_step(acc.g, seed, lr);
            m->step++;
            m->trained_mpixel += mpixel;
            shown.mpixel += mpixel;
        } else {
            step_gradients(m, aware ? &qt : NULL, w, nt, d, seed);
            step_apply(m, w, lr, done);
            progress_add(&shown, m, w);
            worker_clear(m, w);
        }
        const double t = now();
        m->trained_minutes = before + (t - start) / 60;
        const int show = !o->quiet && t - shown.shown_at > 15, save_now = t - last_save > save_every;
        if (acc.g && (show || save_now) && (bad = gpu_progress(&acc, m, &shown))) break;
        if (show) progress_show(&shown, m, t, start, lr);
        if (save_now) {
            if (acc.g && (bad = gpu_fetch(acc.g, m))) break;
            show_held_out(m, d, &shown, log, o->quiet);
            save(m, w, o->out);
            last_save = now();
        }
    }
    if (!bad && acc.g) bad = gpu_fetch(acc.g, m);
    if (!bad) bad = save(m, w, o->out);
    leave_gpu(&acc);
    if (aware) qat_free(&qt);
    for (int i = 0; i < nt; i++) worker_free(&w[i]);
    free(w);
    if (log) fclose(log);
    return bad;
}

int bench_gpu(model *m, const dataset *d, const train_options *o, bench_result *r)
{
    on_gpu acc = {0};
    gpu_sums s;
    m->run = run_begin(m, o);
    if (enter_gpu(&acc, m, d)) return -1;
    r->peak = gpu_peak(acc.dev);
    snprintf(r->device, sizeof r->device, "%s", acc.dev->name);
    for (int i = 0; i < 4; i++) gpu_step(acc.g, (uint64_t)i, o->lr); /* made ready, recorded */
    int bad = gpu_figures(acc.g, &s);
    const double start = now();
    while (!bad && (o->steps ? r->steps < o->steps : now() - start < BENCH_SECONDS))
        gpu_step(acc.g, (uint64_t)++r->steps, o->lr);
    bad |= gpu_figures(acc.g, &s);
    r->seconds = now() - start;
    r->kernels = gpu_watch(acc.g, r->ms);
    bad |= gpu_figures(acc.g, &s);
    leave_gpu(&acc);
    return bad;
}

double bench_steps(model *m, const dataset *d, const train_options *o, int n, double *spent)
{
    const int nt = o->threads > 0 ? o->threads : omp_get_max_threads();
    worker *w = calloc((size_t)nt, sizeof *w);
    double seconds = 0;
    if (!w) abort();
    omp_set_num_threads(nt);
    m->run = run_begin(m, o);
    memset(spent, 0, N_PARTS * sizeof *spent);
    for (int i = 0; i < nt; i++) worker_init(&w[i], m, o->patch);
    for (int s = -1; s < n; s++) { /* the first makes buffers */
        const double t0 = now();
        step_gradients(m, NULL, w, nt, d, (uint64_t)(s + 2));
        const double t1 = busy();
        train_update(m, w->g, o->lr);
        memset(w->g, 0, m->st.n * sizeof *w->g);
        if (w->sums) step_codes(m, w->sums, 0);
        const double t2 = busy();
        for (int i = 0; i < nt; i++)
            for (int p = 0; p < N_PARTS; p++) {
                if (s >= 0) spent[p] += w[i].spent[p] / nt;
                w[i].spent[p] = 0;
            }
        if (s < 0) continue;
        spent[PART_UPDATE] += t2 - t1;
        seconds += now() - t0;
    }
    for (int i = 0; i < nt; i++) worker_free(&w[i]);
    free(w);
    return seconds;
}
