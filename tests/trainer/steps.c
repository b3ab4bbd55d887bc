/* steps.c - see steps.h. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "random.h"
#include "steps.h"

const preset steps_sixteen = {"sixteen", NSVQ_FAMILY_HYPER, 16, 16, 16, 1, 32, 1, 16, 1, 16, 1, 16, 2,
                              0, 0, 0, 0, 8, 16, 6};
const preset steps_eight = {"eight", NSVQ_FAMILY_HYPER, 8, 12, 16, 1, 16, 1, 0, 0, 32, 1, 16, 1,
                            0, 0, 0, 0, 12, 16, 4};

static const char *say(const char *format, ...)
{
    static char text[256];
    va_list a;
    va_start(a, format);
    vsnprintf(text, sizeof text, format, a);
    va_end(a);
    return text;
}

static void fill(float *p, size_t n, float std, uint64_t *rng)
{
    for (size_t i = 0; i < n; i++) p[i] = std * random_normal(rng);
}

void steps_model(model *m, const preset *p, int batch, int patch)
{
    uint64_t rng = 3;
    model_build(m, p);
    float *w = m->st.p;
    const hyper *h = &m->h;
    for (int k = 0; k < N_NETS; k++)
        for (int i = 0; i < model_net(m, k)->n_layers; i++) {
            const layer *l = &model_net(m, k)->l[i];
            const int deep = l->kind == NSVQ_LAYER_DEPTHWISE, taps = deep ? l->k * l->k : l->cin;
            if (l->kind == NSVQ_LAYER_SPACE_TO_DEPTH) continue;
            fill(w + l->w, (size_t)taps * (size_t)l->cout, sqrtf((l->res == NSVQ_NO_REGISTER ? 2.f : 0.5f) / (float)taps),
                 &rng);
            fill(w + l->b, (size_t)l->cout, 0.1f, &rng);
        }
    for (int i = 1; i < NSVQ_N_PASSES; i++) {
        fill(w + h->mean[i].w, (size_t)(h->context * h->latent), 0.5f / sqrtf((float)h->context), &rng);
        fill(w + h->mean[i].b, (size_t)h->latent, 0.1f, &rng);
    }
    fill(w + h->gain, (size_t)(NSVQ_N_GAINS * h->latent), 0.3f, &rng);
    fill(w + h->z_gain, (size_t)(NSVQ_N_GAINS * h->z), 0.3f, &rng);
    fill(w + h->z_mean, (size_t)h->z, 0.5f, &rng);
    fill(w + h->z_scale, (size_t)h->z, 0.5f, &rng);
    for (int i = 0; i < h->context + h->z + NSVQ_N_EXTRA; i++) h->column[i] = 0.2f + random_unit(&rng);
    for (int i = 0; i < m->st.n_segments; i += 2) m->norm[i] = 1e-3f;
    memcpy(m->mean, w, m->st.n * sizeof *w);
    m->run = (run){.batch = batch, .patch = patch, .low = 5.f, .high = 95.f};
}

static double rms(const float *p, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)p[i] * p[i];
    return sqrt(sum / (double)n);
}

/* Of a matrix's step this may be rounding errors: small eigenvalues of a Gram matrix are little else. */
#define OF_MATRIX 1e-2

/* before, or NULL: what steps began with. */
static const char *same(const model *m, const char *what, const float *got, const float *want, const float *before,
                        double most)
{
    for (int s = 0; s < m->st.n_segments; s++) {
        const segment *e = &m->st.seg[s];
        const double scale = rms(want + e->at, e->n) + 1e-12;
        double step = 0;
        for (size_t i = e->at; before && e->rows && i < e->at + e->n; i++)
            step += ((double)want[i] - before[i]) * ((double)want[i] - before[i]) / (double)e->n;
        for (size_t i = e->at; i < e->at + e->n; i++)
            if (!(fabs((double)got[i] - want[i]) <= most * (scale + fabs((double)want[i])) + OF_MATRIX * sqrt(step)))
                return say("%s, batch %d of %d: %s, segment %d, [%zu] of %zu: %g, not %g (rms %g)", m->pre.name,
                           m->run.batch, m->run.patch, what, s, i - e->at, e->n, (double)got[i], (double)want[i],
                           scale);
    }
    return NULL;
}

/* m after the update by the device's own gradient, and what the device has; `before` both. */
static const char *same_state(const model *m, const model *got, const model *before)
{
    const char *why = NULL;
    if (!why) why = same(m, "parameters", got->st.p, m->st.p, before->st.p, 1e-5);
    if (!why) why = same(m, "first moment", got->m, m->m, NULL, 1e-5);
    if (!why) why = same(m, "second moment", got->v, m->v, NULL, 1e-5);
    if (!why) why = same(m, "average", got->mean, m->mean, before->mean, 1e-5);
    for (int i = 0; !why && i < m->st.n_segments; i++)
        if (!(fabsf(got->norm[i] - m->norm[i]) <= 1e-4f * m->norm[i]))
            why = say("norm of segment %d: %g, not %g", i, (double)got->norm[i], (double)m->norm[i]);
    return why ? why : got->moments != m->moments ? say("%ld moments, not %ld", got->moments, m->moments) : NULL;
}

const char *steps_same(device *v, const dataset *d, const preset *p, int batch, int patch, double most)
{
    model m, got, before;
    const char *why = NULL;
    double bits = 0, psnr = 0;
    gpu_sums sums;
    steps_model(&m, p, batch, patch);
    steps_model(&got, p, batch, patch);
    steps_model(&before, p, batch, patch);
    gpu *g = gpu_open(v, &m, d);
    float *want = zeros(m.st.n), *grad = zeros(m.st.n);
    if (!g) why = "gpu_open failed";
    for (uint64_t seed = 7; !why && seed < 10; seed++) {
        double b, q;
        train_gradient(&m, d, seed, want, &b, &q);
        bits += b;
        psnr += q;
        gpu_step(g, seed, 0.01f);
        gpu_gradient(g, grad);
        why = same(&m, "gradient", grad, want, NULL, most);
        if (!why && train_update(&m, grad, 0.01f)) why = "the gradient is not finite";
        if (!why && gpu_fetch(g, &got)) why = "the device failed";
        if (!why) why = same_state(&m, &got, &before);
        memcpy(m.st.p, got.st.p, m.st.n * sizeof(float));
        memcpy(m.m, got.m, m.st.n * sizeof(float));
        memcpy(m.v, got.v, m.st.n * sizeof(float));
        memcpy(m.mean, got.mean, m.st.n * sizeof(float));
        memcpy(before.st.p, got.st.p, m.st.n * sizeof(float));
        memcpy(before.mean, got.mean, m.st.n * sizeof(float));
    }
    if (!why && gpu_figures(g, &sums)) why = "the device failed";
    if (!why && (sums.patches != 3 * batch || sums.left_out || !(fabs(sums.bits / bits - 1) < 1e-4) ||
                 !(fabs(sums.psnr / psnr - 1) < 1e-4)))
        why = say("%ld patches, %ld left out, %g bits, not %g, PSNR %g, not %g", sums.patches, sums.left_out,
                  sums.bits, bits, sums.psnr, psnr);
    gpu_close(g);
    free(want);
    free(grad);
    model_free(&m);
    model_free(&got);
    model_free(&before);
    return why;
}

/* By network: some of a layer's gradient is of rounding errors, which differ; those of gains are all so. */
static const char *near(const model *m, const float *got, const float *want)
{
    const size_t begin[] = {m->ana.l[m->ana_linear].w, m->syn.l[0].w, m->h.ha.l[0].w, m->h.hs.l[0].w,
                            m->h.mean[1].w, m->h.gain};
    static const char *const name[] = {"analysis", "synthesis", "ha", "hs", "predictors"};
    for (int k = 0; k < 5; k++) {
        const size_t at = begin[k], n = begin[k + 1] - at;
        double dot = 0;
        for (size_t i = at; i < at + n; i++) dot += (double)got[i] * want[i];
        const double a = rms(got + at, n), b = rms(want + at, n), cosine = dot / ((double)n * a * b + 1e-30);
        if (!(cosine > 0.98 && a / b > 0.95 && a / b < 1.05))
            return say("%s, %s: cosine %g, %g times as long", m->pre.name, name[k], cosine, a / b);
    }
    return NULL;
}

const char *steps_near(device *v, const dataset *d, const preset *p, int batch, int patch)
{
    model m;
    const char *why = NULL;
    double bits, psnr;
    gpu_sums sums;
    steps_model(&m, p, batch, patch);
    gpu *g = gpu_open(v, &m, d);
    float *want = zeros(m.st.n), *grad = zeros(m.st.n);
    if (!g) why = "gpu_open failed";
    if (g) {
        train_gradient(&m, d, 7, want, &bits, &psnr);
        gpu_step(g, 7, 0.01f);
        gpu_gradient(g, grad);
        why = gpu_figures(g, &sums) ? "the device failed" : near(&m, grad, want);
    }
    if (!why && !(fabs(sums.bits / bits - 1) < 0.05 && fabs(sums.psnr / psnr - 1) < 0.01))
        why = say("%g bits, not %g, PSNR %g, not %g", sums.bits, bits, sums.psnr, psnr);
    gpu_close(g);
    free(want);
    free(grad);
    model_free(&m);
    return why;
}
