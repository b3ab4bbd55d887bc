/* export.c - float model -> integers of codec/model/desc.h, and back from half-precision weights. */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "fast.h"
#include "qat.h"
#include "random.h"

#define STREAM_PEAK 8000.f     /* calibrated peak of an s16 register: headroom of 2 at least */
#define PIXEL_IN (1.f / 64.f)  /* register 0 of the analysis holds p - 128 */
#define PIXEL_OUT (1.f / 2048.f) /* 1/32 grey level */
#define LATENT (1.f / LATENT_ONE)
#define LOGIT (1.f / 32.f)     /* bits */
#define N_CALIBRATION 48
#define N_TABLES 160              /* patches that the class tables are measured on */
#define MAX_GAIN 2048             /* of desc.c */
#define TRELLIS_FINER 129         /* 1/256 octave, of steps of dependent quantisation: for the same error at a quality */
#define TRELLIS_FIRST 4           /* classes more that carry no symbol: measured */

/* ---- number formats ---- */

static int find(uint8_t *parent, int r)
{
    while (parent[r] != r) r = parent[r];
    return r;
}

/* peak[r]: the largest magnitude seen. Groups registers that must agree, then fixes their scales. */
static void net_formats(const network *n, const float *peak, float in, float out, float *scale)
{
    uint8_t parent[NSVQ_MAX_REGISTERS], type[NSVQ_MAX_REGISTERS];
    float top[NSVQ_MAX_REGISTERS] = {0};
    for (int r = 0; r <= n->n_layers; r++) parent[r] = (uint8_t)r;
    type[0] = NSVQ_S16;
    for (int i = 0; i < n->n_layers; i++) {
        const layer *l = &n->l[i];
        type[l->dst] = l->out_type;
        if (l->res != NSVQ_NO_REGISTER) parent[find(parent, l->dst)] = (uint8_t)find(parent, l->res);
        if (l->kind == NSVQ_LAYER_SPACE_TO_DEPTH)
            parent[find(parent, l->dst)] = (uint8_t)find(parent, l->src);
    }
    for (int r = 0; r <= n->n_layers; r++) top[find(parent, r)] = fmaxf(top[find(parent, r)], peak[r]);
    for (int r = 0; r <= n->n_layers; r++) {
        const int g = find(parent, r);
        scale[r] = g == find(parent, 0)           ? in
                   : g == find(parent, n->output) ? out
                   : type[r] == NSVQ_U8           ? top[g] / 255.f
                                                  : top[g] / STREAM_PEAK;
        if (!(scale[r] > 0.f)) scale[r] = 1.f; /* a register that never moved */
    }
}

static float magnitude(const float *v, size_t n, int type)
{
    float top = 0;
    for (size_t i = 0; i < n; i++) top = fmaxf(top, fabsf(v[i]));
    if (type == NSVQ_S16 || top <= 0.f) return top;
    /* u8: the value that one in 20,000 exceeds; the rest may clip. */
    enum { BINS = 4096 };
    size_t *bin = calloc(BINS, sizeof *bin), over = 0;
    for (size_t i = 0; i < n; i++) bin[(size_t)(v[i] / top * (BINS - 1))]++;
    int b = BINS - 1;
    while (b > 0 && over + bin[b] < n / 20000) over += bin[b--];
    free(bin);
    return top * (float)(b + 1) / BINS;
}

/* Runs the float model on N_CALIBRATION patches, the same in every call; take sees each. */
static void calibrate(const model *m, const dataset *d, void (*take)(void *user, const forward *fw),
                      void *user)
{
    const cut c = model_cut(m, 256);
    const float low = is_hyper(m) ? 1.f : 30.f, range = is_hyper(m) ? 99.f : 40.f; /* qualities */
    uint64_t rng = 12345;
    uint8_t *rgb = malloc(256 * 256 * 3);
    forward *fw = forward_new();
    if (!rgb) abort();
    for (int k = 0; k < N_CALIBRATION; k++) {
        int w, h;
        dataset_patch(d, &rng, &c, rgb, &w, &h);
        forward_run(fw, m, rgb, w, h, low + range * random_unit(&rng));
        take(user, fw);
    }
    forward_free(fw);
    free(rgb);
}

typedef struct peaks {
    const model *m;
    float top[N_NETS][NSVQ_MAX_REGISTERS];
} peaks;

static void take_registers(void *user, const forward *fw)
{
    peaks *p = user;
    for (int which = 0; which < model_nets(p->m); which++) {
        const network *n = model_net(p->m, which);
        for (int i = 0; i < n->n_layers; i++) {
            const layer *l = &n->l[i];
            const tensor *t = &forward_net(fw, which)->r[l->dst];
            float *top = &p->top[which][l->dst];
            *top = fmaxf(*top, magnitude(t->v, (size_t)t->h * t->w * t->c, l->out_type));
        }
    }
}

void formats_calibrate(const model *m, const dataset *d, formats *f)
{
    peaks *p = calloc(1, sizeof *p);
    if (!p) abort();
    p->m = m;
    calibrate(m, d, take_registers, p);
    net_formats(&m->ana, p->top[NET_ANALYSIS], PIXEL_IN, LATENT, f->ana);
    net_formats(&m->syn, p->top[NET_SYNTHESIS], LATENT, PIXEL_OUT, f->syn);
    if (is_hyper(m)) { /* hs gives log2 scales in 1/128 octave, and means */
        net_formats(&m->h.ha, p->top[NET_HA], LATENT, LATENT, f->ha);
        net_formats(&m->h.hs, p->top[NET_HS], LATENT, LATENT, f->hs);
    }
    free(p);
}

typedef struct hidden_peaks {
    const vq *q;
    float *peak; /* [hidden] */
} hidden_peaks;

static void take_hidden(void *user, const forward *fw)
{
    const hidden_peaks *h = user;
    const vq_patch *p = forward_patch(fw);
    const int H = h->q->hidden;
    for (int s = 0; s < h->q->slices; s++)
        for (int i = 0; i < p->n * H; i++) h->peak[i % H] = fmaxf(h->peak[i % H], p->h[s][i]);
}

static void count_residuals(const model *m, const hyper_patch *p, const class_tables *t, void *counts)
{
    const hyper *h = &m->h;
    class_counts *to = counts;
    const size_t L = (size_t)h->latent, n = (size_t)(p->w * p->h) * L;
    for (size_t i = 0; i < n; i++) {
        const double e = p->t[i] - p->r[i], x = p->t[i];
        const int r = (int)fmaxf(-TABLES_REACH, fminf(TABLES_REACH, p->r[i]));
        to->n[p->cls[i]][TABLES_REACH + r] += 1;
        to->gain[p->cls[i]] += x * x - e * e;
    }
    for (int i = 0; i < p->w * p->h / (h->per * h->per) * h->z; i++) {
        const int r = (int)fmaxf(-TABLES_REACH, fminf(TABLES_REACH, p->z_r[i]));
        const int cls = p->z_cls[i % h->z];
        to->n[cls > t->first_class ? cls : t->first_class][TABLES_REACH + r] += 1;
    }
}

/* Indices of both quantisers; every class is coded. */
static void count_indices(const model *m, const hyper_patch *p, const class_tables *t, void *counts)
{
    trellis_counts *to = counts;
    const int L = m->h.latent;
    (void)t;
    uint8_t state[512] = {0};
    for (int i = 0; i < p->w * p->h * L; i++) { /* position by position of the coding order */
        const int c = i % L, at = p->pos[i / L] * L + c, q = state[c] & 1;
        const int k = trellis_index((int)p->r[at], q);
        const int near = k < -TABLES_REACH ? -TABLES_REACH : k > TABLES_REACH ? TABLES_REACH : k;
        to->n[q * NSVQ_N_CLASSES + p->cls[at]][TABLES_REACH + near] += 1;
        state[c] = trellis_next[state[c]][k & 1];
    }
}

/* The integer network over patches at all qualities, with the encoder's choice by tables t. */
static void measure(const qat *qt, const model *m, const dataset *d, const class_tables *t,
                    void (*take)(const model *m, const hyper_patch *p, const class_tables *t, void *to), void *to)
{
    const cut c = model_cut(m, 256);
#pragma omp parallel
    {
        uint8_t *rgb = malloc(256 * 256 * 3);
        workspace ana = {0};
        hyper_patch p = {0};
        qat_buffers ib[N_NETS] = {{{0}, {0}}};
        float *y_hat = NULL;
        int w, h;
#pragma omp for schedule(dynamic, 1) ordered
        for (int i = 0; i < N_TABLES; i++) {
            uint64_t rng = 777 + (uint64_t)i;
            const tensor *y = &ana.r[m->ana.output];
            dataset_patch(d, &rng, &c, rgb, &w, &h);
            workspace_shape(&ana, &m->ana, h / 4, w / 4);
            y_hat = grow(y_hat, (size_t)(y->h * y->w * (y->c + NSVQ_N_EXTRA)));
            pixels_in(ana.r[0].v, rgb, w, h);
            qat_forward(qt, m, NET_ANALYSIS, &ana, &ib[NET_ANALYSIS]);
            const float quality = 1.f + (float)random_below(&rng, 99 * 16 + 1) / 16.f;
            qat_quantise(qt, m, &p, ib, y->v, y->w, y->h, quality, y_hat, t, NULL);
#pragma omp ordered
            take(m, &p, t, to);
        }
        free(rgb);
        free(y_hat);
        workspace_free(&ana);
        hyper_patch_free(&p);
        for (int i = 0; i < N_NETS; i++) qat_buffers_free(&ib[i]);
    }
}

/* Gains of latents, not of hyper-latents, as dependent quantisation has them. Finer still are the first channels, which
 * hold the three mean colours (start.c), in all passes but the last: what a position gets wrong there, those that
 * are predicted from it get wrong too, for nothing in them is coded on smooth ground. */
static void finer_steps(const model *m, nsvq_hyper *numbers)
{
    static const int16_t by_pass[NSVQ_N_PASSES] = {-192, -160, -96, -64, 0}; /* measured */
    const int L = m->h.latent, n = L + m->h.z;
    for (int i = 0; i < NSVQ_N_GAINS * n; i++)
        if (i % n < L) numbers->gain[i] = (int16_t)fmax(-MAX_GAIN, numbers->gain[i] - TRELLIS_FINER);
    numbers->pass_gain = calloc((size_t)(NSVQ_N_PASSES * L), sizeof *numbers->pass_gain);
    if (!numbers->pass_gain) abort();
    for (int i = 0; i < NSVQ_N_PASSES * 3; i++) numbers->pass_gain[i / 3 * L + i % 3] = by_pass[i / 3];
}

/* By residuals that were chosen with the tables of before: twice, as the choice depends on them. Tables of
 * residuals without trellis come first: hyper-latents have them always. */
static void measure_tables(model *m, const dataset *d, const formats *f)
{
    class_counts *sum = malloc(sizeof *sum);
    trellis_counts *indices = malloc(sizeof *indices);
    trellis_tables *of_trellis = m->h.tables.trellis;
    qat qt;
    if (!sum || !indices) abort();
    qat_init(&qt, m, f);
    qat_refresh(&qt, m);
    tables_make(&m->h.tables, NULL);
    for (int round = 0; round < 2; round++) {
        memset(sum, 0, sizeof *sum);
        class_tables t = m->h.tables;
        t.first_class = 0; /* so that every class is seen */
        t.trellis = NULL;
        measure(&qt, m, d, &t, count_residuals, sum);
        tables_make(&m->h.tables, sum);
    }
    if (of_trellis) {
        const int first = m->h.tables.first_class + TRELLIS_FIRST;
        finer_steps(m, &qt.numbers);
        of_trellis->first_class = 0;
        tables_make_trellis(&m->h.tables, NULL);
        for (int round = 0; round < 2; round++) {
            memset(indices, 0, sizeof *indices);
            measure(&qt, m, d, &m->h.tables, count_indices, indices);
            tables_make_trellis(&m->h.tables, indices);
        }
        of_trellis->first_class = (uint8_t)(first < NSVQ_N_CLASSES ? first : NSVQ_N_CLASSES - 1);
    }
    qat_free(&qt);
    free(indices);
    free(sum);
}

void use_trellis(model *m)
{
    if (!m->h.tables.trellis) m->h.tables.trellis = calloc(1, sizeof *m->h.tables.trellis);
    if (!m->h.tables.trellis) abort();
}

void prior_calibrate(model *m, const dataset *d, formats *f)
{
    if (is_hyper(m)) {
        measure_tables(m, d, f);
        return;
    }
    hidden_peaks h = {&m->q, calloc((size_t)m->q.hidden, sizeof *h.peak)};
    if (!h.peak) abort();
    calibrate(m, d, take_hidden, &h);
    f->hidden = vq_balance(&m->q, m->st.p, h.peak) / 255.f;
    free(h.peak);
}

/* ---- layers ---- */

int layer_emit(const model *m, const layer *l, float in_scale, float out_scale, nsvq_layer *out)
{
    *out = (nsvq_layer){.kind = l->kind, .src = l->src, .dst = l->dst, .res = l->res,
                        .in_type = l->in_type, .out_type = l->out_type, .k = l->k, .rep = l->rep,
                        .cin = (uint16_t)l->cin, .cout = (uint16_t)l->cout};
    if (l->kind == NSVQ_LAYER_SPACE_TO_DEPTH) return 0;
    const int deep = l->kind == NSVQ_LAYER_DEPTHWISE;
    const int taps = deep ? l->k * l->k : l->cin;
    const size_t step = deep ? (size_t)l->cin : 1; /* between the taps of one output */
    out->wt = malloc((size_t)taps * (size_t)l->cout);
    out->bias = malloc(sizeof *out->bias * (size_t)l->cout);
    out->shift = malloc((size_t)l->cout);
    out->mul = malloc(sizeof *out->mul * (size_t)l->cout);
    if (!out->wt || !out->bias || !out->shift || !out->mul) return -1;
    for (int o = 0; o < l->cout; o++) {
        const size_t at = deep ? (size_t)o : (size_t)o * (size_t)taps;
        const float *w = m->st.p + l->w + at;
        float top = 0;
        for (int i = 0; i < taps; i++) top = fmaxf(top, fabsf(w[(size_t)i * step]));
        /* Not so fine that mul or the bias leave their range: a channel without inputs is constant. */
        double unit = fmax(top / 127., out_scale / in_scale / 65536.);
        unit = fmin(unit, out_scale / in_scale); /* nor too coarse for mul: the largest weights clip */
        const double factor = in_scale * unit / out_scale;
        /* u8: 12 bits of mul leave 3 to 4 bits of rounding below the result; s16: 15 bits. */
        int shift = (int)floor((l->out_type == NSVQ_U8 ? 12. : 15.) - 15. - log2(factor) - 1e-4);
        shift = shift < 0 ? 0 : shift > 24 ? 24 : shift;
        const double mul = round(factor * exp2(15 + shift));
        const double bias = round(m->st.p[l->b + (size_t)o] / (in_scale * unit));
        out->shift[o] = (uint8_t)shift;
        out->mul[o] = (int16_t)fmin(mul, 32767.);
        out->bias[o] = (int32_t)fmax(-1e9, fmin(1e9, bias)) + (shift ? 1 << (shift - 1) : 0);
        for (int i = 0; i < taps; i++)
            out->wt[at + (size_t)i * step] =
                (int8_t)fmax(-127., fmin(127., round(w[(size_t)i * step] / unit)));
    }
    return 0;
}

static int net_emit(const model *m, const network *n, const float *scale, nsvq_net *out)
{
    *out = (nsvq_net){.n_layers = (uint8_t)n->n_layers, .output = (uint8_t)n->output};
    for (int i = 0; i < n->n_layers; i++)
        if (layer_emit(m, &n->l[i], scale[n->l[i].src], scale[n->l[i].dst], &out->layer[i])) return -1;
    return 0;
}

static int prior_emit(const model *m, const formats *f, nsvq_prior *out)
{
    const vq *q = &m->q;
    int bad = 0;
    *out = (nsvq_prior){.hidden = (uint16_t)q->hidden};
    for (int p = 0; p < NSVQ_N_PASSES; p++) {
        bad |= layer_emit(m, &q->mean[p], LATENT, LATENT, &out->mean[p]);
        bad |= layer_emit(m, &q->ctx[p], LATENT, f->hidden, &out->ctx[p]);
    }
    for (int s = 0; s < q->slices; s++) {
        if (s) bad |= layer_emit(m, &q->prev[s], LATENT, f->hidden, &out->prev[s]);
        bad |= layer_emit(m, &q->logit[s], f->hidden, LOGIT, &out->logit[s]);
        bad |= layer_emit(m, &q->shiftm[s], f->hidden, LATENT, &out->shiftm[s]);
    }
    const int n_cells = q->slices * q->cells;
    out->member = malloc(sizeof *out->member * (size_t)n_cells * NSVQ_CELL);
    if (!out->member || bad) return -1;
    for (int c = 0; c < n_cells; c++) {
        const float *bits = q->member_bits + (size_t)c * NSVQ_CELL;
        uint16_t *freq = out->member + (size_t)c * NSVQ_CELL;
        double sum = 0;
        int total = 0, top = 0;
        for (int i = 0; i < NSVQ_CELL; i++) sum += exp2(-bits[i]);
        for (int i = 0; i < NSVQ_CELL; i++) {
            freq[i] = (uint16_t)(1 + (int)floor(exp2(-bits[i]) / sum * (32768 - NSVQ_CELL)));
            total += freq[i];
            if (freq[i] > freq[top]) top = i;
        }
        freq[top] = (uint16_t)(freq[top] + 32768 - total);
    }
    return 0;
}

/* Rows [first, first + n) of a pointwise layer with two results. */
static int take_rows(const nsvq_layer *l, int first, int n, nsvq_layer *out)
{
    const size_t cin = l->cin, count = (size_t)n, at = (size_t)first;
    *out = *l;
    out->src = 0;
    out->dst = 1;
    out->rep = 1;
    out->cout = (uint16_t)n;
    out->wt = malloc(count * cin);
    out->bias = malloc(count * sizeof *out->bias);
    out->shift = malloc(count);
    out->mul = malloc(count * sizeof *out->mul);
    if (!out->wt || !out->bias || !out->shift || !out->mul) return -1;
    memcpy(out->wt, l->wt + at * cin, count * cin);
    memcpy(out->bias, l->bias + at, count * sizeof *out->bias);
    memcpy(out->shift, l->shift + at, count);
    memcpy(out->mul, l->mul + at, count * sizeof *out->mul);
    return 0;
}

static int16_t fixed(float v, float one, int limit)
{
    return (int16_t)fmaxf((float)-limit, fminf((float)limit, roundf(v * one)));
}

int hyper_numbers(const model *m, nsvq_hyper *out)
{
    const hyper *h = &m->h;
    const float *p = m->st.p;
    const int L = h->latent, Z = h->z;
    *out = (nsvq_hyper){.z = (uint16_t)Z, .side = (uint16_t)h->side};
    out->gain = malloc(sizeof *out->gain * (size_t)(NSVQ_N_GAINS * (L + Z)));
    out->z_mean = malloc(sizeof *out->z_mean * (size_t)Z);
    out->z_scale = malloc(sizeof *out->z_scale * (size_t)Z);
    if (!out->gain || !out->z_mean || !out->z_scale) return -1;
    for (int a = 0; a < NSVQ_N_GAINS; a++) {
        int16_t *g = out->gain + a * (L + Z);
        for (int c = 0; c < L; c++) g[c] = fixed(p[h->gain + (size_t)(a * L + c)], 256.f, MAX_GAIN);
        for (int c = 0; c < Z; c++) g[L + c] = fixed(p[h->z_gain + (size_t)(a * Z + c)], 256.f, MAX_GAIN);
    }
    for (int c = 0; c < Z; c++) {
        out->z_mean[c] = fixed(p[h->z_mean + (size_t)c], LATENT_ONE, NSVQ_LATENT_MAX);
        out->z_scale[c] = fixed(p[h->z_scale + (size_t)c], 128.f, MAX_GAIN);
    }
    return 0;
}

/* Tables of n quantisers, all of the first one before the next: costs [NSVQ_N_CLASSES][n]. */
static int tables_emit(const symbol_costs *costs, const uint16_t *freq, int n, uint8_t **shift, uint8_t **half,
                       uint16_t **to_freq)
{
    const size_t rows = (size_t)n * NSVQ_N_CLASSES, bytes = rows * NSVQ_CLASS_SYMBOLS * sizeof *freq;
    *shift = malloc(rows);
    *half = malloc(rows);
    *to_freq = malloc(bytes);
    if (!*shift || !*half || !*to_freq) return -1;
    for (size_t i = 0; i < rows; i++) {
        const symbol_costs *from = &costs[i % NSVQ_N_CLASSES * (size_t)n + i / NSVQ_N_CLASSES];
        (*shift)[i] = from->shift;
        (*half)[i] = from->half;
    }
    memcpy(*to_freq, freq, bytes);
    return 0;
}

/* hs without its last layer, which gives log2 scales and means: these become layers of their own. */
static int hyper_emit(const model *m, const formats *f, nsvq_model_desc *desc)
{
    const hyper *h = &m->h;
    nsvq_hyper *out = &desc->hyper;
    const int last = h->hs.n_layers - 1, L = h->latent;
    desc->lambda50 = (uint32_t)h->tables.lambda;
    if (hyper_numbers(m, out) || net_emit(m, &h->ha, f->ha, &out->analysis) ||
        net_emit(m, &h->hs, f->hs, &out->synthesis))
        return -1;
    nsvq_layer both = out->synthesis.layer[last];
    out->synthesis.layer[last] = (nsvq_layer){0};
    out->synthesis.n_layers = (uint8_t)last;
    out->synthesis.output = both.src;
    int bad = take_rows(&both, 0, L, &out->scale) || take_rows(&both, L, L, &out->base);
    free(both.wt); free(both.bias); free(both.shift); free(both.mul);
    for (int p = 1; p < NSVQ_N_PASSES; p++) bad |= layer_emit(m, &h->mean[p], LATENT, LATENT, &out->mean[p]);
    out->first_class = h->tables.first_class;
    if (bad || tables_emit(h->tables.costs, h->tables.freq, 1, &out->shift, &out->half, &out->freq)) return -1;
    const trellis_tables *t = h->tables.trellis;
    if (!t) return 0;
    desc->lambda50 = t->search.lambda;
    out->first_class = t->first_class;
    finer_steps(m, out);
    return tables_emit(&t->search.costs[0][0], t->freq, 2, &out->trellis.shift, &out->trellis.half,
                       &out->trellis.freq);
}

static int vq_emit(const model *m, const formats *f, nsvq_model_desc *out)
{
    const vq *q = &m->q;
    const size_t n = (size_t)q->slices * q->codes * q->dim;
    out->n_slices = (uint8_t)q->slices;
    out->dim = (uint16_t)q->dim;
    out->n_codes = (uint32_t)q->codes;
    out->seed_shift = 6;
    out->lambda50 = (uint32_t)lrintf(q->lambda50 * LATENT_ONE * LATENT_ONE);
    for (int i = 0; i < 3; i++) out->seed_channel[i] = (uint16_t)q->seed_channel[i];
    out->codes = malloc(n * sizeof *out->codes);
    if (!out->codes || prior_emit(m, f, &out->prior)) return -1;
    for (size_t i = 0; i < n; i++)
        out->codes[i] = (int16_t)fmaxf(-NSVQ_CODE_MAX, fminf(NSVQ_CODE_MAX, roundf(q->code[i] * LATENT_ONE)));
    return 0;
}

const char *model_emit(const model *m, const formats *f, nsvq_model_desc *out)
{
    *out = (nsvq_model_desc){.family = (uint8_t)m->pre.family, .stride = (uint8_t)m->pre.stride,
                             .latent = (uint16_t)m->pre.latent, .has_analysis = 1};
    snprintf(out->name, sizeof out->name, "unnamed");
    if (net_emit(m, &m->ana, f->ana, &out->analysis) || net_emit(m, &m->syn, f->syn, &out->synthesis) ||
        (is_hyper(m) ? hyper_emit(m, f, out) : vq_emit(m, f, out)))
        return "out of memory";
    return nsvq_model_check(out);
}

/* ---- master weights: a state record, then parameters, codes and counts in half precision ---- */

typedef _Float16 half;

typedef struct master_head {
    char    magic[8];
    preset  pre;
    int32_t seed_channel[3];
    float   lambda50;
    double  minutes, mpixel;
    uint64_t n;
    formats f;
} master_head;

static const char master_magic[8] = "NSVQMW2";

/* Arrays that stand in the file in this order; returns how many. */
static int master_spans(const model *m, float **at, size_t *n)
{
    const size_t k = (size_t)m->q.slices * m->q.codes;
    float *const all[3] = {m->st.p, m->q.code, m->q.ema_n};
    const size_t count[3] = {m->st.n, k * m->q.dim, k};
    memcpy(at, all, sizeof all);
    memcpy(n, count, sizeof count);
    return is_hyper(m) ? 1 : 3;
}

static size_t master_size(const model *m)
{
    float *at[3];
    size_t n[3], sum = 0;
    for (int i = master_spans(m, at, n) - 1; i >= 0; i--) sum += n[i];
    return sizeof(master_head) + sum * sizeof(half);
}

static uint8_t *master_make(const model *m, const formats *f, size_t *size)
{
    *size = master_size(m);
    uint8_t *b = calloc(1, *size);
    if (!b) return NULL;
    master_head h;
    memset(&h, 0, sizeof h);
    memcpy(h.magic, master_magic, 8);
    h.pre = m->pre;
    for (int i = 0; i < 3; i++) h.seed_channel[i] = m->q.seed_channel[i];
    h.lambda50 = m->q.lambda50;
    h.minutes = m->trained_minutes;
    h.mpixel = m->trained_mpixel;
    h.n = m->st.n;
    h.f = *f;
    memcpy(b, &h, sizeof h);
    half *to = (half *)(b + sizeof h);
    float *at[3];
    size_t n[3];
    const int spans = master_spans(m, at, n);
    for (int i = 0; i < spans; i++)
        for (size_t j = 0; j < n[i]; j++) *to++ = (half)at[i][j];
    return b;
}

static uint8_t *read_file(const char *file, size_t *size)
{
    FILE *f = fopen(file, "rb");
    uint8_t *b = NULL;
    *size = 0;
    if (f && !fseek(f, 0, SEEK_END)) {
        const long n = ftell(f);
        rewind(f);
        b = n > 0 ? malloc((size_t)n) : NULL;
        if (b && fread(b, 1, (size_t)n, f) == (size_t)n) *size = (size_t)n;
    }
    if (f) fclose(f);
    return b;
}

/* NULL, or what is wrong (then m holds nothing). */
static const char *master_take(model *m, const nsvq_model_desc *desc)
{
    master_head h;
    if (desc->master_bytes < sizeof h || memcmp(desc->master, master_magic, 8) != 0)
        return "holds no master weights";
    memcpy(&h, desc->master, sizeof h);
    if (!preset_valid(&h.pre, h.seed_channel)) return "damaged master weights";
    model_build(m, &h.pre);
    if (h.n != m->st.n || desc->master_bytes != master_size(m)) {
        model_free(m);
        return "master weights of another version";
    }
    const half *from = (const half *)(desc->master + sizeof h);
    float *at[3];
    size_t n[3];
    const int spans = master_spans(m, at, n);
    for (int i = 0; i < spans; i++)
        for (size_t j = 0; j < n[i]; j++) at[i][j] = (float)*from++;
    m->trained_minutes = h.minutes;
    m->trained_mpixel = h.mpixel;
    if (is_hyper(m)) return NULL;
    for (size_t i = 0; i < n[1]; i++) m->q.ema_sum[i] = m->q.code[i] * m->q.ema_n[i / (size_t)m->q.dim];
    for (int i = 0; i < 3; i++) m->q.seed_channel[i] = h.seed_channel[i];
    m->q.lambda50 = h.lambda50;
    vq_refresh(&m->q);
    vq_member_table(&m->q);
    return NULL;
}

int model_from_master(model *m, const char *file)
{
    size_t size;
    uint8_t *bytes = read_file(file, &size);
    nsvq_model_desc desc;
    const char *why = "not readable";
    memset(&desc, 0, sizeof desc);
    if (bytes && !nsvq_model_load(&desc, bytes, size, &why)) why = master_take(m, &desc);
    if (why) fprintf(stderr, "nsvq-train: %s: %s\n", file, why);
    nsvq_model_free(&desc);
    free(bytes);
    return why ? -1 : 0;
}

int model_export(const model *m, const formats *f, const char *name, const char *card, const char *file)
{
    nsvq_model_desc desc;
    const char *why = model_emit(m, f, &desc);
    if (!why && nsvq_model_set_name(&desc, name)) why = "cannot have this name";
    size_t size = 0;
    uint8_t *bytes = NULL;
    if (!why) {
        desc.card = strdup(card);
        desc.card_bytes = strlen(card);
        desc.master = master_make(m, f, &desc.master_bytes);
        bytes = nsvq_model_store(&desc, NSVQ_STORE_ANALYSIS | NSVQ_STORE_CARD | NSVQ_STORE_MASTER, &size);
        if (!bytes) why = "out of memory";
    }
    char tmp[1024];
    snprintf(tmp, sizeof tmp, "%s.part", file);
    FILE *out = why ? NULL : fopen(tmp, "wb");
    if (!why && (!out || fwrite(bytes, 1, size, out) != size)) why = "cannot be written";
    if (out && fclose(out) != 0 && !why) why = "cannot be written";
    if (!why && rename(tmp, file) != 0) why = "cannot be renamed";
    if (why) fprintf(stderr, "nsvq-train: %s: %s\n", file, why);
    free(bytes);
    nsvq_model_free(&desc);
    return why ? -1 : 0;
}

char *model_card(const char *file)
{
    size_t size;
    uint8_t *bytes = read_file(file, &size);
    nsvq_model_desc desc;
    const char *why = "not readable";
    char *card = NULL;
    memset(&desc, 0, sizeof desc);
    if (bytes && !nsvq_model_load(&desc, bytes, size, &why)) {
        card = malloc(desc.card_bytes + 128);
        if (card) {
            const int at = snprintf(card, 128, "model %s, id %016llx\n", desc.name,
                                    (unsigned long long)nsvq_model_id(&desc));
            if (desc.card_bytes) memcpy(card + at, desc.card, desc.card_bytes);
            card[(size_t)at + desc.card_bytes] = 0;
        }
    } else {
        fprintf(stderr, "nsvq-train: %s: %s\n", file, why);
    }
    nsvq_model_free(&desc);
    free(bytes);
    return card;
}

/* ---- the integer engine against the trainer ---- */

static long differing(const tensor *out, const uint8_t *got, int w, int stride)
{
    const int f = stride / 4, n_values = 3 * stride * stride;
    long n = 0;
    for (int i = 0; i < out->h * out->w; i++)
        for (int j = 0; j < n_values; j++) { /* [sy][sx][py][px][c], unit 1/32 level */
            const int v = (int)lrintf(out->v[(size_t)i * (size_t)n_values + (size_t)j] / PIXEL_OUT);
            const int level = ((v + 16) >> 5) + 128, px = j / 3 % 4, py = j / 12 % 4, sx = j / 48 % f;
            const int y = i / out->w * stride + j / (48 * f) * 4 + py, x = i % out->w * stride + sx * 4 + px;
            const int want = level < 0 ? 0 : level > 255 ? 255 : level;
            n += got[((size_t)y * (size_t)w + (size_t)x) * 3 + (size_t)(j % 3)] != want;
        }
    return n;
}

typedef struct check { /* both sides of a comparison, for one patch after the other */
    const model *m;
    nsvq_engine  *e;
    nsvq_scratch *s;
    qat           qt;
    workspace     ana, syn;
    hyper_patch   hp;
    qat_buffers   ib[N_NETS];
    uint8_t      *rgb, *got, *bytes;
    int16_t      *y, *y_hat;
    size_t        cap;
} check;

static void check_open(check *k, const model *m, const formats *f, const nsvq_model_desc *desc, int size)
{
    nsvq_kernels c_only;
    nsvq_kernels_init(&c_only, NSVQ_CPU_C); /* the reference, against the fastest in qat_forward */
    *k = (check){.m = m, .e = nsvq_engine_create(desc, &c_only), .s = nsvq_scratch_create()};
    const int side = size / desc->stride;
    const size_t n = (size_t)(side * side) * (size_t)(desc->latent + NSVQ_N_EXTRA);
    if (!k->e || !k->s) abort();
    k->cap = nsvq_block_bound(k->e, side, side);
    k->rgb = malloc((size_t)(size * size) * 3);
    k->got = malloc((size_t)(size * size) * 3);
    k->bytes = malloc(k->cap);
    k->y = malloc(n * sizeof *k->y);
    k->y_hat = malloc(n * sizeof *k->y_hat);
    if (!k->rgb || !k->got || !k->bytes || !k->y || !k->y_hat) abort();
    qat_init(&k->qt, m, f);
    qat_refresh(&k->qt, m);
    if (is_hyper(m) && m->h.tables.trellis) finer_steps(m, &k->qt.numbers);
}

static void check_close(check *k)
{
    qat_free(&k->qt);
    for (int i = 0; i < N_NETS; i++) qat_buffers_free(&k->ib[i]);
    hyper_patch_free(&k->hp);
    workspace_free(&k->ana);
    workspace_free(&k->syn);
    nsvq_scratch_destroy(k->s);
    nsvq_engine_destroy(k->e);
    free(k->rgb); free(k->got); free(k->bytes); free(k->y); free(k->y_hat);
}

/* Values of a patch in which engine and trainer differ: latents; in the hyper family what a block at
 * `quality` makes of them; pixels of the latents that the engine has then. */
static long check_patch(check *k, int w, int h, float quality)
{
    const model *m = k->m;
    const int stride = m->pre.stride, L = m->pre.latent, C = nsvq_engine_channels(k->e);
    const nsvq_rect all = {0, 0, w / stride, h / stride};
    const int16_t *y_hat = k->y;
    size_t used;
    long wrong = 0;
    workspace_shape(&k->ana, &m->ana, h / 4, w / 4);
    workspace_shape(&k->syn, &m->syn, all.h, all.w);
    const tensor *y = &k->ana.r[m->ana.output], *in = &k->syn.r[0];
    pixels_in(k->ana.r[0].v, k->rgb, w, h);
    qat_forward(&k->qt, m, NET_ANALYSIS, &k->ana, &k->ib[NET_ANALYSIS]);
    if (nsvq_engine_analyse(k->e, k->s, k->rgb, (ptrdiff_t)w * 3, all.w, all.h, all, k->y)) abort();
    for (int i = 0; i < all.w * all.h * L; i++) {
        const float v = fmaxf(-NSVQ_LATENT_MAX, fminf(NSVQ_LATENT_MAX, y->v[i] / LATENT));
        wrong += fmaxf(-NSVQ_LATENT_MAX, fminf(NSVQ_LATENT_MAX, k->y[i])) != rintf(v);
    }
    if (is_hyper(m)) {
        qat_quantise(&k->qt, m, &k->hp, k->ib, y->v, all.w, all.h, quality, in->v, &m->h.tables, NULL);
        if (nsvq_block_encode(k->e, k->s, k->y, all.w, all.h, (int)lrintf(quality * 16.f), k->bytes, k->cap,
                              &used, k->y_hat))
            abort();
        y_hat = k->y_hat;
    }
    for (int i = 0; i < all.w * all.h * C; i++) {
        if (is_hyper(m)) wrong += y_hat[i] != (int)lrintf(in->v[i] / LATENT);
        in->v[i] = (float)y_hat[i] * LATENT;
    }
    qat_forward(&k->qt, m, NET_SYNTHESIS, &k->syn, &k->ib[NET_SYNTHESIS]);
    if (nsvq_engine_synthesise(k->e, k->s, y_hat, all.w, all.h, all, k->got, (ptrdiff_t)w * 3)) abort();
    return wrong + differing(&k->syn.r[m->syn.output], k->got, w, stride);
}

int export_check(const model *m, const formats *f, const nsvq_model_desc *desc, const dataset *d)
{
    const cut c = model_cut(m, 256);
    long wrong = 0, patches = 0;
    const char *name;
    int w, h;
    check k;
    check_open(&k, m, f, desc, c.size);
    for (int i = 0; i < 4 && dataset_held_out(d, i, &c, k.rgb, &w, &h, &name); i++, patches++)
        wrong += check_patch(&k, w, h, 20.f + 20.f * (float)i);
    check_close(&k);
    if (wrong)
        fprintf(stderr, "nsvq-train: the engine differs from the trained integer network in %ld values "
                        "of %ld patches\n", wrong, patches);
    return wrong ? -1 : 0;
}

/* ---- figures of the integer engine ---- */

figures validate_integer(const nsvq_model_desc *desc, const dataset *d, int quality, int size)
{
    figures f = {0};
    nsvq_kernels k;
    const int cpu = nsvq_cpu_flags(), stride = desc->stride, side = size / stride;
    const cut c = {size, desc->family == NSVQ_FAMILY_HYPER ? NSVQ_Z_STRIDE : 16, 0.f};
    nsvq_kernels_init(&k, cpu < 0 ? 0 : (unsigned)cpu);
    nsvq_engine *e = nsvq_engine_create(desc, &k);
    nsvq_scratch *s = nsvq_scratch_create();
    const size_t n_latent = (size_t)(side * side) * (size_t)(desc->latent + NSVQ_N_EXTRA);
    uint8_t *rgb = malloc((size_t)size * (size_t)size * 3), *got = malloc((size_t)size * (size_t)size * 3);
    int16_t *y = malloc(n_latent * sizeof *y), *y_hat = malloc(n_latent * sizeof *y_hat);
    const size_t cap = e ? nsvq_block_bound(e, side, side) : 0;
    uint8_t *bytes = malloc(cap + 1);
    const char *name;
    int w, h;
    for (int i = 0; e && s && dataset_held_out(d, i, &c, rgb, &w, &h, &name); i++) {
        const nsvq_rect all = {0, 0, w / stride, h / stride};
        size_t used = 0;
        if (nsvq_engine_analyse(e, s, rgb, (ptrdiff_t)w * 3, all.w, all.h, all, y) ||
            nsvq_block_encode(e, s, y, all.w, all.h, 16 * quality, bytes, cap, &used, y_hat) ||
            nsvq_engine_synthesise(e, s, y_hat, all.w, all.h, all, got, (ptrdiff_t)w * 3))
            break;
        double se = 0;
        const size_t n = (size_t)w * (size_t)h * 3;
        for (size_t j = 0; j < n; j++) se += (double)(got[j] - rgb[j]) * (got[j] - rgb[j]);
        f.psnr += 10 * log10(255. * 255 / (se / (double)n + 1e-6));
        f.mse += se / (double)n;
        f.bpp += 8. * (double)used / (double)(n / 3);
        f.n++;
    }
    if (f.n) {
        f.psnr /= f.n;
        f.bpp /= f.n;
        f.mse /= f.n;
    }
    nsvq_scratch_destroy(s);
    nsvq_engine_destroy(e);
    free(rgb); free(got); free(y); free(y_hat); free(bytes);
    return f;
}

/* log of the rate at a PSNR between the ends of a curve in rising order. */
static double rate_at(const figures *f, int n, double psnr)
{
    int i = 1;
    while (i < n - 1 && f[i].psnr < psnr) i++;
    const double part = (psnr - f[i - 1].psnr) / (f[i].psnr - f[i - 1].psnr);
    return log(f[i - 1].bpp) * (1 - part) + log(f[i].bpp) * part;
}

double bd_rate(const figures *anchor, const figures *other, int n)
{
    enum { POINTS = 200 };
    const double low = fmax(anchor[0].psnr, other[0].psnr), high = fmin(anchor[n - 1].psnr, other[n - 1].psnr);
    double sum = 0;
    if (high - low < 0.5) return NAN;
    for (int i = 0; i < POINTS; i++) {
        const double psnr = low + (high - low) * (i + 0.5) / POINTS;
        sum += rate_at(other, n, psnr) - rate_at(anchor, n, psnr);
    }
    return 100 * (exp(sum / POINTS) - 1);
}
