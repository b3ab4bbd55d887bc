/* export.c - float model -> integers of codec/model/desc.h, and back from half-precision weights. */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "qat.h"
#include "random.h"

#define STREAM_PEAK 8000.f     /* calibrated peak of an s16 register: headroom of 2 at least */
#define PIXEL_IN (1.f / 64.f)  /* register 0 of the analysis holds p - 128 */
#define PIXEL_OUT (1.f / 2048.f) /* 1/32 grey level */
#define LATENT (1.f / LATENT_ONE)
#define LOGIT (1.f / 32.f)     /* bits */
#define N_CALIBRATION 48

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
    uint64_t rng = 12345;
    uint8_t *rgb = malloc(256 * 256 * 3);
    forward *fw = forward_new();
    if (!rgb) abort();
    for (int k = 0; k < N_CALIBRATION; k++) {
        int w, h;
        dataset_patch(d, &rng, 256, rgb, &w, &h);
        forward_run(fw, m, rgb, w, h, 30.f + 40.f * random_unit(&rng));
        take(user, fw);
    }
    forward_free(fw);
    free(rgb);
}

typedef struct peaks {
    const model *m;
    float ana[NSVQ_MAX_REGISTERS], syn[NSVQ_MAX_REGISTERS];
} peaks;

static void raise_registers(const network *n, const workspace *ws, float *peak)
{
    for (int i = 0; i < n->n_layers; i++) {
        const layer *l = &n->l[i];
        const tensor *t = &ws->r[l->dst];
        peak[l->dst] = fmaxf(peak[l->dst], magnitude(t->v, (size_t)t->h * t->w * t->c, l->out_type));
    }
}

static void take_registers(void *user, const forward *fw)
{
    peaks *p = user;
    raise_registers(&p->m->ana, forward_analysis(fw), p->ana);
    raise_registers(&p->m->syn, forward_synthesis(fw), p->syn);
}

void formats_calibrate(const model *m, const dataset *d, formats *f)
{
    peaks p = {.m = m};
    calibrate(m, d, take_registers, &p);
    net_formats(&m->ana, p.ana, PIXEL_IN, LATENT, f->ana);
    net_formats(&m->syn, p.syn, LATENT, PIXEL_OUT, f->syn);
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

void prior_calibrate(model *m, const dataset *d, formats *f)
{
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

const char *model_emit(const model *m, const formats *f, nsvq_model_desc *out)
{
    const vq *q = &m->q;
    const size_t n = (size_t)q->slices * q->codes * q->dim;
    *out = (nsvq_model_desc){.n_slices = (uint8_t)q->slices, .dim = (uint16_t)q->dim,
                             .n_codes = (uint32_t)q->codes, .seed_shift = 6, .has_analysis = 1,
                             .lambda50 = (uint32_t)lrintf(q->lambda50 * LATENT_ONE * LATENT_ONE)};
    snprintf(out->name, sizeof out->name, "unnamed");
    for (int i = 0; i < 3; i++) out->seed_channel[i] = (uint16_t)q->seed_channel[i];
    out->codes = malloc(n * sizeof *out->codes);
    if (!out->codes || net_emit(m, &m->ana, f->ana, &out->analysis) ||
        net_emit(m, &m->syn, f->syn, &out->synthesis) || prior_emit(m, f, &out->prior))
        return "out of memory";
    for (size_t i = 0; i < n; i++)
        out->codes[i] = (int16_t)fmaxf(-NSVQ_CODE_MAX, fminf(NSVQ_CODE_MAX, roundf(q->code[i] * LATENT_ONE)));
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

static const char master_magic[8] = "NSVQMW1";

static uint8_t *master_make(const model *m, const formats *f, size_t *size)
{
    const size_t k = (size_t)m->q.slices * m->q.codes, nc = k * m->q.dim;
    *size = sizeof(master_head) + (m->st.n + nc + k) * sizeof(half);
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
    for (size_t i = 0; i < m->st.n; i++) *to++ = (half)m->st.p[i];
    for (size_t i = 0; i < nc; i++) *to++ = (half)m->q.code[i];
    for (size_t i = 0; i < k; i++) *to++ = (half)m->q.ema_n[i];
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

int model_from_master(model *m, const char *file)
{
    size_t size;
    uint8_t *bytes = read_file(file, &size);
    nsvq_model_desc desc;
    const char *why = "not readable";
    memset(&desc, 0, sizeof desc);
    int bad = !bytes || nsvq_model_load(&desc, bytes, size, &why) != 0;
    master_head h;
    if (!bad && (desc.master_bytes < sizeof h || memcmp(desc.master, master_magic, 8) != 0)) {
        why = "holds no master weights";
        bad = 1;
    }
    if (!bad) {
        memcpy(&h, desc.master, sizeof h);
        if (!preset_valid(&h.pre, h.seed_channel)) {
            why = "damaged master weights";
            bad = 1;
        }
    }
    if (!bad) {
        model_build(m, &h.pre);
        const size_t k = (size_t)m->q.slices * m->q.codes, nc = k * m->q.dim;
        if (h.n != m->st.n || desc.master_bytes != sizeof h + (h.n + nc + k) * sizeof(half)) {
            why = "master weights of another version";
            bad = 1;
            model_free(m);
        } else {
            const half *from = (const half *)(desc.master + sizeof h);
            for (size_t i = 0; i < m->st.n; i++) m->st.p[i] = (float)*from++;
            for (size_t i = 0; i < nc; i++) m->q.code[i] = (float)*from++;
            for (size_t i = 0; i < k; i++) m->q.ema_n[i] = (float)*from++;
            for (size_t i = 0; i < nc; i++)
                m->q.ema_sum[i] = m->q.code[i] * m->q.ema_n[i / (size_t)m->q.dim];
            for (int i = 0; i < 3; i++) m->q.seed_channel[i] = h.seed_channel[i];
            m->q.lambda50 = h.lambda50;
            m->trained_minutes = h.minutes;
            m->trained_mpixel = h.mpixel;
            vq_refresh(&m->q);
            vq_member_table(&m->q);
        }
    }
    if (bad) fprintf(stderr, "nsvq-train: %s: %s\n", file, why);
    nsvq_model_free(&desc);
    free(bytes);
    return bad ? -1 : 0;
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

static long differing(const tensor *out, const uint8_t *got, int w)
{
    long n = 0;
    for (int i = 0; i < out->h * out->w; i++)
        for (int j = 0; j < 768; j++) { /* [sy][sx][py][px][c], unit 1/32 level */
            const int v = (int)lrintf(out->v[(size_t)i * 768 + (size_t)j] / PIXEL_OUT);
            const int level = ((v + 16) >> 5) + 128, px = j / 3 % 4, py = j / 12 % 4, sx = j / 48 % 4;
            const int y = i / out->w * 16 + j / 192 * 4 + py, x = i % out->w * 16 + sx * 4 + px;
            const int want = level < 0 ? 0 : level > 255 ? 255 : level;
            n += got[((size_t)y * (size_t)w + (size_t)x) * 3 + (size_t)(j % 3)] != want;
        }
    return n;
}

int export_check(const model *m, const formats *f, const nsvq_model_desc *desc, const dataset *d)
{
    const int size = 256;
    nsvq_kernels c_only;
    nsvq_kernels_init(&c_only, NSVQ_CPU_C); /* the reference, against the fastest in qat_forward */
    nsvq_engine *e = nsvq_engine_create(desc, &c_only);
    nsvq_scratch *s = nsvq_scratch_create();
    const int L = m->q.latent;
    uint8_t *rgb = malloc((size_t)size * size * 3), *got = malloc((size_t)size * size * 3);
    int16_t *y = malloc(sizeof *y * (size_t)(size / 16 * size / 16 * L));
    workspace ana = {0}, syn = {0};
    qat_buffers ib[2] = {{{0}, {0}}, {{0}, {0}}};
    qat qt;
    long wrong = 0, patches = 0;
    const char *name;
    int w, h;
    if (!e || !s || !rgb || !got || !y) abort();
    qat_init(&qt, m, f);
    qat_refresh(&qt, m);
    for (int i = 0; i < 4 && dataset_held_out(d, i, size, rgb, &w, &h, &name); i++, patches++) {
        const nsvq_rect all = {0, 0, w / 16, h / 16};
        workspace_shape(&ana, &m->ana, h / 4, w / 4);
        workspace_shape(&syn, &m->syn, h / 16, w / 16);
        for (int k = 0; k < w * h / 16; k++)
            for (int t = 0; t < 48; t++)
                ana.r[0].v[(size_t)k * 48 + (size_t)t] =
                    ((float)rgb[((size_t)(k / (w / 4) * 4 + t / 12) * (size_t)w +
                                 (size_t)(k % (w / 4) * 4)) * 3 + (size_t)(t % 12)] - 128.f) / 64.f;
        qat_forward(&qt, m, 0, &ana, &ib[0]);
        if (nsvq_engine_analyse(e, s, rgb, (ptrdiff_t)w * 3, all.w, all.h, all, y)) abort();
        const tensor *a = &ana.r[m->ana.output], *o = &syn.r[m->syn.output];
        for (int k = 0; k < all.w * all.h * L; k++) {
            const float v = fmaxf(-NSVQ_LATENT_MAX, fminf(NSVQ_LATENT_MAX, a->v[k] / LATENT));
            wrong += y[k] != (int)lrintf(v);
            syn.r[0].v[k] = (float)y[k] * LATENT;
        }
        qat_forward(&qt, m, 1, &syn, &ib[1]);
        if (nsvq_engine_synthesise(e, s, y, all.w, all.h, all, got, (ptrdiff_t)w * 3)) abort();
        wrong += differing(o, got, w);
    }
    qat_free(&qt);
    qat_buffers_free(&ib[0]);
    qat_buffers_free(&ib[1]);
    workspace_free(&ana);
    workspace_free(&syn);
    nsvq_scratch_destroy(s);
    nsvq_engine_destroy(e);
    free(rgb); free(got); free(y);
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
    const int cpu = nsvq_cpu_flags();
    nsvq_kernels_init(&k, cpu < 0 ? 0 : (unsigned)cpu);
    nsvq_engine *e = nsvq_engine_create(desc, &k);
    nsvq_scratch *s = nsvq_scratch_create();
    const size_t n_latent = (size_t)(size / 16) * (size_t)(size / 16) * desc->n_slices * desc->dim;
    uint8_t *rgb = malloc((size_t)size * (size_t)size * 3), *got = malloc((size_t)size * (size_t)size * 3);
    int16_t *y = malloc(n_latent * sizeof *y), *y_hat = malloc(n_latent * sizeof *y_hat);
    const size_t cap = e ? nsvq_block_bound(e, 32, 32) : 0;
    uint8_t *bytes = malloc(cap + 1);
    const char *name;
    int w, h;
    for (int i = 0; e && s && dataset_held_out(d, i, size, rgb, &w, &h, &name); i++) {
        const nsvq_rect all = {0, 0, w / 16, h / 16};
        size_t used = 0;
        if (nsvq_engine_analyse(e, s, rgb, (ptrdiff_t)w * 3, all.w, all.h, all, y) ||
            nsvq_block_encode(e, s, y, all.w, all.h, quality, bytes, cap, &used, y_hat) ||
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
