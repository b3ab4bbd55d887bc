/* qat.c - integer forward pass of a float model. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "qat.h"

void qat_init(qat *q, const model *m, const formats *f)
{
    *q = (qat){.f = *f, .p = malloc(m->st.n * sizeof *q->p)};
    if (!q->p) abort();
    memcpy(q->p, m->st.p, m->st.n * sizeof *q->p);
    const int cpu = nsvq_cpu_flags();
    nsvq_kernels_init(&q->k, cpu < 0 ? NSVQ_CPU_C : (unsigned)cpu);
}

static void free_layers(qat *q)
{
    for (int w = 0; w < N_NETS; w++)
        for (int i = 0; i < NSVQ_MAX_LAYERS; i++) {
            nsvq_pointwise_free(&q->pw[w][i]);
            nsvq_depthwise_free(&q->dw[w][i]);
        }
    for (int i = 0; i < NSVQ_N_PASSES; i++) nsvq_pointwise_free(&q->mean[i]);
}

static void free_numbers(nsvq_hyper *h)
{
    free(h->gain);
    free(h->pass_gain);
    free(h->z_mean);
    free(h->z_scale);
    *h = (nsvq_hyper){0};
}

void qat_free(qat *q)
{
    free_layers(q);
    free_numbers(&q->numbers);
    free(q->p);
    memset(q, 0, sizeof *q);
}

static int type_of(const network *n, int r)
{
    for (int j = 0; j < n->n_layers; j++)
        if (n->l[j].dst == r) return n->l[j].out_type;
    return NSVQ_S16;
}

/* Packs layer l into p or d and writes the weights that its integers stand for. */
static void refresh_layer(qat *q, const model *m, const layer *l, int res_type, nsvq_pointwise *p,
                          nsvq_depthwise *d, float in, float out)
{
    nsvq_layer e;
    if (l->kind == NSVQ_LAYER_SPACE_TO_DEPTH) return;
    if (layer_emit(m, l, in, out, &e)) abort();
    const int deep = l->kind == NSVQ_LAYER_DEPTHWISE, taps = deep ? l->k * l->k : l->cin;
    for (int o = 0; o < l->cout; o++) {
        const float unit = out * (float)e.mul[o] / 32768.f / (float)(1 << e.shift[o]);
        const int half = e.shift[o] ? 1 << (e.shift[o] - 1) : 0;
        q->p[l->b + (size_t)o] = unit * (float)(e.bias[o] - half);
        for (int t = 0; t < taps; t++) {
            const size_t at = deep ? (size_t)t * l->cin + (size_t)o : (size_t)o * taps + (size_t)t;
            q->p[l->w + at] = unit / in * (float)e.wt[at];
        }
    }
    int bad;
    if (deep) {
        nsvq_depthwise_free(d);
        d->channels = (uint16_t)l->cin;
        d->k = l->k;
        bad = q->k.depthwise_pack(d, e.wt, e.bias, e.shift, e.mul);
    } else {
        nsvq_pointwise_free(p);
        p->cin = (uint16_t)l->cin;
        p->cout = (uint16_t)l->cout;
        p->in_type = l->in_type;
        p->out_type = l->out_type;
        p->res_type = (uint8_t)res_type;
        bad = q->k.pointwise_pack(p, e.wt, e.bias, e.shift, e.mul);
    }
    free(e.wt); free(e.bias); free(e.shift); free(e.mul);
    if (bad) abort();
}

static void refresh_numbers(qat *q, const model *m)
{
    const hyper *h = &m->h;
    free_numbers(&q->numbers);
    if (hyper_numbers(m, &q->numbers)) abort();
    for (int a = 0; a < NSVQ_N_GAINS; a++) {
        const int16_t *g = q->numbers.gain + a * (h->latent + h->z);
        for (int c = 0; c < h->latent; c++) q->p[h->gain + (size_t)(a * h->latent + c)] = g[c] / 256.f;
        for (int c = 0; c < h->z; c++) q->p[h->z_gain + (size_t)(a * h->z + c)] = g[h->latent + c] / 256.f;
    }
    for (int c = 0; c < h->z; c++) {
        q->p[h->z_mean + (size_t)c] = q->numbers.z_mean[c] / LATENT_ONE;
        q->p[h->z_scale + (size_t)c] = q->numbers.z_scale[c] / 128.f;
    }
}

void qat_refresh(qat *q, const model *m)
{
    const int n_nets = model_nets(m);
#pragma omp parallel for schedule(dynamic, 1)
    for (int j = 0; j < n_nets * NSVQ_MAX_LAYERS; j++) {
        const int which = j / NSVQ_MAX_LAYERS, i = j % NSVQ_MAX_LAYERS;
        const network *n = model_net(m, which);
        const float *scale = formats_of(&q->f, which);
        if (i >= n->n_layers) continue;
        const layer *l = &n->l[i];
        const int res = l->res == NSVQ_NO_REGISTER ? NSVQ_NONE : type_of(n, l->res);
        refresh_layer(q, m, l, res, &q->pw[which][i], &q->dw[which][i], scale[l->src], scale[l->dst]);
    }
    if (n_nets < N_NETS) return;
    refresh_numbers(q, m);
#pragma omp parallel for schedule(dynamic, 1)
    for (int i = 1; i < NSVQ_N_PASSES; i++)
        refresh_layer(q, m, &m->h.mean[i], NSVQ_S16, &q->mean[i], NULL, 1.f / LATENT_ONE, 1.f / LATENT_ONE);
}

static void depthwise(const qat *q, const nsvq_depthwise *d, uint8_t *out, const int16_t *in, int h, int w)
{
    const int r = d->k / 2, c = d->channels;
    const size_t row = (size_t)(w + 2 * r) * (size_t)c;
    int16_t *pad = calloc((size_t)(d->k + 1) * row, sizeof *pad); /* rows with zeros around; last: zero */
    if (!pad) abort();
    for (int y = 0; y < h; y++) {
        const int16_t *rows[5];
        for (int j = 0; j < d->k; j++) {
            const int iy = y + j - r;
            int16_t *to = pad + (size_t)(((iy % d->k) + d->k) % d->k) * row;
            rows[j] = iy < 0 || iy >= h ? pad + (size_t)d->k * row : to;
            if (iy >= 0 && iy < h && (j == d->k - 1 || y == 0))
                memcpy(to + r * c, in + (size_t)iy * (size_t)w * (size_t)c, sizeof *to * (size_t)w * (size_t)c);
        }
        q->k.depthwise(out + (size_t)y * (size_t)w * (size_t)c, rows, d, w);
    }
    free(pad);
}

void qat_forward(const qat *q, const model *m, int which, workspace *ws, qat_buffers *b)
{
    const network *n = model_net(m, which);
    const float *scale = formats_of(&q->f, which);
    for (int r = 0; r <= n->n_layers; r++) {
        const size_t need = (size_t)ws->r[r].h * ws->r[r].w * ws->r[r].c;
        if (need > b->cap[r]) {
            free(b->r[r]);
            b->r[r] = malloc(need * sizeof(int16_t));
            if (!b->r[r]) abort();
            b->cap[r] = need;
        }
    }
    const tensor *x0 = &ws->r[0];
    for (size_t i = 0; i < (size_t)x0->h * x0->w * x0->c; i++) {
        const float v = fmaxf(-32767.f, fminf(32767.f, roundf(x0->v[i] / scale[0])));
        ((int16_t *)b->r[0])[i] = (int16_t)v;
        x0->v[i] = v * scale[0];
    }
    for (int i = 0; i < n->n_layers; i++) {
        const layer *l = &n->l[i];
        const tensor *x = &ws->r[l->src], *y = &ws->r[l->dst];
        const size_t count = (size_t)y->h * y->w * y->c;
        void *out = b->r[l->dst];
        switch ((nsvq_layer_kind)l->kind) {
        case NSVQ_LAYER_POINTWISE:
            q->k.pointwise(out, b->r[l->src], l->res == NSVQ_NO_REGISTER ? NULL : b->r[l->res],
                           &q->pw[which][i], x->h * x->w * l->rep);
            break;
        case NSVQ_LAYER_DEPTHWISE:
            depthwise(q, &q->dw[which][i], out, b->r[l->src], x->h, x->w);
            break;
        case NSVQ_LAYER_SPACE_TO_DEPTH: {
            const int16_t *in = b->r[l->src];
            int16_t *to = out;
            for (int oy = 0; oy < y->h; oy++)
                for (int ox = 0; ox < y->w; ox++)
                    for (int ky = 0; ky < l->k; ky++, to += (size_t)l->k * x->c)
                        memcpy(to, in + ((size_t)(oy * l->k + ky) * x->w + (size_t)ox * l->k) * x->c,
                               sizeof *to * (size_t)l->k * x->c);
            break;
        }
        }
        if (type_of(n, l->dst) == NSVQ_U8)
            for (size_t j = 0; j < count; j++) y->v[j] = scale[l->dst] * ((const uint8_t *)out)[j];
        else
            for (size_t j = 0; j < count; j++) y->v[j] = scale[l->dst] * ((const int16_t *)out)[j];
    }
}

/* ---- the hyper family's quantiser ---- */

int qat_log_step(const nsvq_hyper *numbers, int latent, int c, int pass, int quality16)
{
    const int16_t *g = numbers->gain + (quality16 >> 9) * (latent + numbers->z) + c;
    const int part = quality16 & 511, gain = (g[0] * (512 - part) + g[latent + numbers->z] * part + 256) >> 9;
    const int base = c < latent ? 2560 + (int)floor((800 - quality16) * 4 / 5.) : 2816;
    const int l = base + gain + (c < latent && numbers->pass_gain ? numbers->pass_gain[pass * latent + c] : 0);
    return l < 1024 ? 1024 : l > 3840 ? 3840 : l;
}

int qat_step(int log_step)
{
    const uint32_t root = (uint32_t)lround(32768. * exp2((log_step >> 2 & 63) / 64.));
    return (int)(((root << (log_step >> 8)) + (1 << 14)) >> 15);
}

/* Halves away from 0; step > 0. */
static int nearest(int d, int step)
{
    return d < 0 ? -((step / 2 - d) / step) : (step / 2 + d) / step;
}

/* mean + r steps of the latent's 1/16. */
static int add_steps(int mean, int r, int step)
{
    return nsvq_clamp_latent(mean + ((r * step + 8) >> 4));
}

int qat_class(int log2_scale, int log_step)
{
    const int v = log2_scale - ((log_step - 2816) >> 1) + 512;
    return (v < 0 ? 0 : v > 1535 ? 1535 : v) / 24;
}

static int integer(float real)
{
    return (int)lrintf(real * LATENT_ONE);
}

typedef struct steps { /* in integers */
    int log[NSVQ_N_PASSES][512], of[NSVQ_N_PASSES][512], z_log[NSVQ_MAX_Z], of_z[NSVQ_MAX_Z];
} steps;

/* Those in p, which training has, are the last pass's; a training has no others. */
static void find_steps(const qat *q, const hyper *h, hyper_patch *p, int quality16, steps *s)
{
    for (int pass = 0; pass < NSVQ_N_PASSES; pass++)
        for (int c = 0; c < h->latent; c++) {
            const int l = s->log[pass][c] = qat_log_step(&q->numbers, h->latent, c, pass, quality16);
            s->of[pass][c] = qat_step(l);
            p->step[c] = (float)s->of[pass][c] / (16 * LATENT_ONE);
            p->log_step[c] = (float)(l - 2816) / 256.f;
        }
    for (int c = 0; c < h->z; c++) {
        const int l = s->z_log[c] = qat_log_step(&q->numbers, h->latent, h->latent + c, 0, quality16);
        s->of_z[c] = qat_step(l);
        p->z_step[c] = (float)s->of_z[c] / (16 * LATENT_ONE);
        p->z_log_step[c] = (float)(l - 2816) / 256.f;
    }
}

static void quantise_z(const qat *q, const hyper *h, hyper_patch *p, const int *step,
                       const class_tables *tables, float side)
{
    const int Z = h->z, n = p->w * p->h / (h->per * h->per);
    const float *z = p->ha.r[h->ha.output].v;
    for (int i = 0; i < n; i++) {
        float *in = p->hs.r[0].v + (size_t)i * (size_t)(Z + NSVQ_N_EXTRA);
        memset(in + Z, 0, NSVQ_N_EXTRA * sizeof *in);
        in[Z] = side;
        for (int c = 0; c < Z; c++) {
            const int mean = q->numbers.z_mean[c], d = 16 * (integer(z[i * Z + c]) - mean);
            const int r = tables ? tables_choose_z(tables, p->z_cls[c], d, step[c]) : nearest(d, step[c]);
            p->z_t[i * Z + c] = (float)d / (float)step[c];
            p->z_r[i * Z + c] = (float)r;
            in[c] = (float)add_steps(mean, r, step[c]) / LATENT_ONE;
        }
    }
}

/* The residuals of a block, as the encoder has them. */
typedef struct choices {
    int         first_class;
    uint8_t     state[512]; /* [L] with trellis */
    choice_sums sums;
} choices;

/* n latents of a pass from number `a` of the order on; their means are in mu. */
static void quantise_pass(const hyper *h, hyper_patch *p, int a, int n, const int16_t *mu, const int *step,
                          const class_tables *tables, choices *s, float side, float *y_hat)
{
    const size_t L = (size_t)h->latent;
    for (int i = 0; i < n; i++) {
        const size_t at = (size_t)p->pos[a + i] * L;
        float *out = y_hat + (size_t)p->pos[a + i] * (L + NSVQ_N_EXTRA);
        for (size_t c = 0; c < L; c++) {
            const int u = mu[(size_t)i * L + c], d = integer(p->y[at + c]) - u;
            const int r = !tables           ? nearest(16 * d, step[c])
                          : tables->trellis ? (int)p->r[at + c] /* of the search */
                                            : tables_choose(tables, s->first_class, p->cls[at + c], 16 * d,
                                                            step[c], &s->sums);
            p->mu[at + c] = (float)u / LATENT_ONE;
            p->t[at + c] = 16.f * (float)d / (float)step[c];
            p->r[at + c] = (float)r;
            out[c] = (float)add_steps(u, r, step[c]) / LATENT_ONE;
        }
        memset(out + L, 0, NSVQ_N_EXTRA * sizeof *out);
        out[L] = side;
    }
}

/* The residuals of a pass. */
static void search_pass(const hyper *h, hyper_patch *p, int a, int n, const int16_t *mu, const int *step,
                        const class_tables *tables, choices *s)
{
    const size_t L = (size_t)h->latent, n_all = (size_t)(p->w * p->h) * L;
    int16_t *y = malloc(n_all * sizeof *y), *r = malloc(n_all * sizeof *r);
    trellis_pass pass = {.n = n, .n_channels = h->latent, .first_class = s->first_class,
                         .at = p->pos + a, .y = y, .mu = mu, .cls = p->cls, .step = step, .state = s->state,
                         .residual = r, .work = malloc(trellis_work(n))};
    if (!y || !r || !pass.work) abort();
    for (size_t i = 0; i < n_all; i++) y[i] = (int16_t)integer(p->y[i]);
    trellis_search(&tables->trellis->search, &pass);
    s->sums.spent += pass.spent;
    s->sums.skipping += pass.skipping;
    for (int i = 0; i < n; i++)
        for (size_t c = 0, at = (size_t)p->pos[a + i] * L; c < L; c++) p->r[at + c] = (float)r[at + c];
    free(y);
    free(r);
    free(pass.work);
}

/* All passes, from what hyper_spread has left in p. */
static void quantise_latents(const qat *q, const hyper *h, hyper_patch *p, float quality, const steps *st,
                             const class_tables *tables, choices *s, float *y_hat)
{
    const size_t L = (size_t)h->latent, X = (size_t)h->context;
    const float side = hyper_quality(quality);
    for (int pass = 0; pass < NSVQ_N_PASSES; pass++) {
        const int a = p->pass_at[pass], n = p->pass_at[pass + 1] - a, *step = st->of[pass];
        int16_t *ctx = p->exact[0], *base = p->exact[1], *mu = p->exact[2];
        for (int i = 0; i < n; i++) {
            const float *from = p->mu + (size_t)p->pos[a + i] * L, *f = p->ctx + (size_t)(a + i) * X;
            for (size_t c = 0; c < L; c++) base[(size_t)i * L + c] = (int16_t)integer(from[c]);
            if (pass) hyper_context(h, p, a + i, y_hat, quality);
            for (size_t c = 0; pass && c < X; c++) ctx[(size_t)i * X + c] = (int16_t)integer(f[c]);
        }
        if (pass && n) q->k.pointwise(mu, ctx, base, &q->mean[pass], n);
        if (!pass) mu = base;
        if (tables && tables->trellis) search_pass(h, p, a, n, mu, step, tables, s);
        quantise_pass(h, p, a, n, mu, step, tables, s, side, y_hat);
    }
}

double qat_quantise(const qat *q, const model *m, hyper_patch *p, qat_buffers *b, const float *y, int w,
                    int h, float quality, float *y_hat, const class_tables *tables, uint64_t *noise)
{
    const hyper *hy = &m->h;
    const size_t L = (size_t)hy->latent, n_all = (size_t)(w * h) * L;
    const int quality16 = (int)lrintf(quality * 16.f);
    const float side = hyper_quality(quality);
    steps st;
    choices s = {.first_class = !tables ? 0 : tables->trellis ? tables->trellis->first_class : tables->first_class};
    hyper_open(hy, p, y, w, h);
    find_steps(q, hy, p, quality16, &st);
    for (size_t i = 0; i < n_all; i++)
        p->y[i] = p->ha.r[0].v[i] = (float)nsvq_clamp_latent(integer(y[i])) / LATENT_ONE;
    qat_forward(q, m, NET_HA, &p->ha, &b[NET_HA]);
    for (int c = 0; c < hy->z; c++)
        p->z_cls[c] = (uint8_t)qat_class(q->numbers.z_scale[c], st.z_log[c]);
    quantise_z(q, hy, p, st.of_z, tables, side);
    qat_forward(q, m, NET_HS, &p->hs, &b[NET_HS]);
    hyper_spread(hy, p);
    for (int pass = 0; pass < NSVQ_N_PASSES; pass++)
        for (int k = p->pass_at[pass]; k < p->pass_at[pass + 1]; k++)
            for (size_t c = 0, i = (size_t)p->pos[k] * L; c < L; c++, i++)
                p->cls[i] = (uint8_t)qat_class(integer(p->ls[i]), st.log[pass][c]);
    quantise_latents(q, hy, p, quality, &st, tables, &s, y_hat);
    if (skips_too_much(s.sums.skipping, s.sums.spent)) {
        s = (choices){.first_class = 0};
        hyper_spread(hy, p);
        quantise_latents(q, hy, p, quality, &st, tables, &s, y_hat);
    }
    hyper_rates(hy, q->p, p, noise);
    return p->y_bits + p->z_bits;
}

void qat_buffers_free(qat_buffers *b)
{
    for (int i = 0; i < NSVQ_MAX_REGISTERS; i++) free(b->r[i]);
    memset(b, 0, sizeof *b);
}
