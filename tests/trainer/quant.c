/* quant.c - from float layers to integers: how near they come, that every kernel table and the codec's
 * engine compute the same with them, and that the check of an export notices a single weight. */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "qat.h"
#include "random.h"
#include "reference.h"
#include "support.h"

static dataset pictures;
static model   trained; /* its formats are in m.f */

/* ---- single layers ---- */

typedef struct emit_case { int kind, k, cin, cout, in_type, out_type; float in_scale; } emit_case;

typedef struct emit_run {
    char       name[64];
    model      m;       /* its store holds the layer, nothing else of it is used */
    layer      l;
    nsvq_layer e;
    int        n, taps; /* positions; weights of an output */
    size_t     n_in, n_out;
    float      out_scale;
    void      *in;  /* integers of in_type */
    double    *x, *y, *size; /* reals; size: sum of the |inputs| of an output */
} emit_run;

static double weight_of(const emit_run *r, int o, int t)
{
    const size_t deep = (size_t)t * (size_t)r->l.cin + (size_t)o;
    const size_t flat = (size_t)o * (size_t)r->l.cin + (size_t)t;
    return r->m.st.p[r->l.w + (r->l.kind == NSVQ_LAYER_DEPTHWISE ? deep : flat)];
}

/* Input t of output o at position i. Depthwise: n positions of one row, k rows of input. */
static double input_of(const emit_run *r, int i, int o, int t)
{
    const int k = r->l.k, c = r->l.cin;
    if (r->l.kind != NSVQ_LAYER_DEPTHWISE) return r->x[i * c + t];
    return r->x[((t / k) * (r->n + k - 1) + i + t % k) * c + o];
}

static void emit_make(emit_run *r, const emit_case *c)
{
    uint64_t rng = (uint64_t)(c->cin * 7 + c->cout + c->in_type * 3 + c->out_type);
    const int deep = c->kind == NSVQ_LAYER_DEPTHWISE;
    *r = (emit_run){.n = 37, .taps = deep ? c->k * c->k : c->cin};
    snprintf(r->name, sizeof r->name, "kind %d k %d, %d to %d, type %d to %d", c->kind, c->k, c->cin,
             c->cout, c->in_type, c->out_type);
    r->l = (layer){.kind = (uint8_t)c->kind, .k = (uint8_t)c->k, .rep = 1, .res = NSVQ_NO_REGISTER,
                   .in_type = (uint8_t)c->in_type, .out_type = (uint8_t)c->out_type, .cin = c->cin,
                   .cout = c->cout};
    const size_t n_w = (size_t)r->taps * (size_t)c->cout;
    r->l.w = store_add(&r->m.st, n_w, 1);
    r->l.b = store_add(&r->m.st, (size_t)c->cout, 0);
    store_alloc(&r->m.st);
    r->n_in = deep ? (size_t)(c->k * (r->n + c->k - 1) * c->cin) : (size_t)(r->n * c->cin);
    r->n_out = (size_t)r->n * (size_t)c->cout;
    r->in = malloc(r->n_in * sizeof(int16_t));
    r->x = ref_doubles(NULL, r->n_in);
    r->y = ref_doubles(NULL, r->n_out);
    r->size = ref_doubles(NULL, r->n_out);
    assert_non_null(r->in);
    for (size_t i = 0; i < r->n_in; i++) {
        const int u8 = (int)random_below(&rng, 256), s16 = (int)random_below(&rng, 16001) - 8000;
        if (c->in_type == NSVQ_U8) ((uint8_t *)r->in)[i] = (uint8_t)u8;
        else ((int16_t *)r->in)[i] = (int16_t)s16;
        r->x[i] = c->in_scale * (c->in_type == NSVQ_U8 ? u8 : s16);
    }
    /* Channels of very different sizes: each has a format of its own. */
    for (size_t i = 0; i < n_w; i++) {
        const size_t o = deep ? i % (size_t)c->cin : i / (size_t)c->cin;
        r->m.st.p[r->l.w + i] = random_normal(&rng) * exp2f(-(float)(o % 6));
    }
    for (int o = 0; o < c->cout; o++) r->m.st.p[r->l.b + (size_t)o] = 3.f * random_normal(&rng);
    double top = 0;
    for (int i = 0; i < r->n; i++)
        for (int o = 0; o < c->cout; o++) {
            double *y = &r->y[i * c->cout + o];
            *y = r->m.st.p[r->l.b + (size_t)o];
            for (int t = 0; t < r->taps; t++) {
                *y += weight_of(r, o, t) * input_of(r, i, o, t);
                r->size[i * c->cout + o] += fabs(input_of(r, i, o, t));
            }
            top = fmax(top, fabs(*y));
        }
    r->out_scale = (float)top / (c->out_type == NSVQ_U8 ? 255.f : 8000.f);
    assert_int_equal(layer_emit(&r->m, &r->l, c->in_scale, r->out_scale, &r->e), 0);
}

static void emit_free(emit_run *r)
{
    free(r->m.st.p);
    free(r->e.wt); free(r->e.bias); free(r->e.shift); free(r->e.mul);
    free(r->in); free(r->x); free(r->y); free(r->size);
}

static void emit_compute(const emit_run *r, const nsvq_kernels *k, void *out)
{
    const layer *l = &r->l;
    const nsvq_layer *e = &r->e;
    if (l->kind == NSVQ_LAYER_DEPTHWISE) {
        nsvq_depthwise d = {.channels = e->cin, .k = e->k};
        const int16_t *rows[5];
        for (int j = 0; j < l->k; j++)
            rows[j] = (const int16_t *)r->in + (size_t)(j * (r->n + l->k - 1) * l->cin);
        assert_int_equal(k->depthwise_pack(&d, e->wt, e->bias, e->shift, e->mul), 0);
        k->depthwise(out, rows, &d, r->n);
        nsvq_depthwise_free(&d);
    } else {
        nsvq_pointwise p = {.cin = e->cin, .cout = e->cout, .in_type = e->in_type,
                            .out_type = e->out_type};
        assert_int_equal(k->pointwise_pack(&p, e->wt, e->bias, e->shift, e->mul), 0);
        k->pointwise(out, r->in, NULL, &p, r->n);
        nsvq_pointwise_free(&p);
    }
}

/* Half a unit each of: every weight, the bias, both roundings of the requantisation, the factor. */
static void check_error(const emit_run *r, const void *out)
{
    const layer *l = &r->l;
    double squares = 0, errors = 0;
    for (size_t i = 0; i < r->n_out; i++) {
        const int o = (int)(i % (size_t)l->cout), u8 = l->out_type == NSVQ_U8;
        double unit = 0;
        for (int t = 0; t < r->taps; t++) unit = fmax(unit, fabs(weight_of(r, o, t)) / 127);
        const double in = l->in_type == NSVQ_U8 ? r->x[0] / ((uint8_t *)r->in)[0]
                                                : r->x[0] / ((int16_t *)r->in)[0];
        const double sum = 0.5 * unit * (r->size[i] + in), mul = r->e.mul[o];
        const double bound = sum + 0.5 * r->out_scale * (1 + mul / 32768) +
                             0.5 / mul * (fabs(r->y[i]) + sum) + 1e-5 * fabs(r->y[i]);
        const double want = u8 && r->y[i] < 0 ? 0 : r->y[i];
        const double got = r->out_scale * (u8 ? ((const uint8_t *)out)[i] : ((const int16_t *)out)[i]);
        if (!(fabs(got - want) <= bound))
            fail_msg("%s: out[%zu] = %g, float: %g, bound of the error: %g", r->name, i, got, want,
                     bound);
        squares += want * want;
        errors += (got - want) * (got - want);
    }
    if (!(errors < 1e-4 * squares)) /* 40 dB below the signal */
        fail_msg("%s: error %g of %g", r->name, errors, squares);
}

static void check_layer(const emit_case *c)
{
    emit_run r;
    emit_make(&r, c);
    uint8_t *want = malloc(r.n_out * 2), *got = malloc(r.n_out * 2);
    const size_t bytes = r.n_out * (c->out_type == NSVQ_U8 ? 1 : 2);
    assert_true(want && got);
    for (int i = 0; i < N_TABLES; i++) {
        nsvq_kernels k;
        if (!kernel_table(&k, i)) continue;
        emit_compute(&r, &k, i ? got : want);
        if (i == 0) check_error(&r, want);
        else if (memcmp(want, got, bytes)) fail_msg("%s: %s differs from c", r.name, k.name);
    }
    free(want);
    free(got);
    emit_free(&r);
}

static void layers_come_near(void **state)
{
    static const emit_case cases[] = {
        {NSVQ_LAYER_POINTWISE, 1, 48, 64, NSVQ_S16, NSVQ_S16, 1.f / 64},
        {NSVQ_LAYER_POINTWISE, 1, 388, 33, NSVQ_S16, NSVQ_S16, 1.f / 128},
        {NSVQ_LAYER_POINTWISE, 1, 64, 17, NSVQ_U8, NSVQ_S16, 0.05f},
        {NSVQ_LAYER_POINTWISE, 1, 128, 64, NSVQ_U8, NSVQ_U8, 0.003f},
        {NSVQ_LAYER_POINTWISE, 1, 24, 40, NSVQ_S16, NSVQ_U8, 0.01f},
        {NSVQ_LAYER_DEPTHWISE, 3, 48, 48, NSVQ_S16, NSVQ_U8, 0.002f},
        {NSVQ_LAYER_DEPTHWISE, 5, 32, 32, NSVQ_S16, NSVQ_U8, 0.1f},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_layer(&cases[i]);
}

/* An output that no input reaches any more still has its bias. */
static void a_constant_channel_keeps_its_bias(void **state)
{
    static const float bias[4] = {1.f, -1.f, 0.01f, 0.f}, weight[4] = {0.f, 1e-9f, 1e-5f, 0.f};
    model m = {0};
    layer l = {.kind = NSVQ_LAYER_POINTWISE, .k = 1, .rep = 1, .res = NSVQ_NO_REGISTER,
               .in_type = NSVQ_S16, .out_type = NSVQ_S16, .cin = 16, .cout = 4};
    int16_t in[16], out[4];
    nsvq_layer e;
    nsvq_kernels k;
    l.w = store_add(&m.st, 64, 1);
    l.b = store_add(&m.st, 4, 0);
    store_alloc(&m.st);
    for (int o = 0; o < 4; o++) m.st.p[l.b + (size_t)o] = bias[o];
    for (int i = 0; i < 64; i++) m.st.p[l.w + (size_t)i] = weight[i / 16];
    for (int i = 0; i < 16; i++) in[i] = (int16_t)(i * 100 - 750);
    assert_int_equal(layer_emit(&m, &l, 0.01f, 0.001f, &e), 0);
    nsvq_pointwise p = {.cin = 16, .cout = 4, .in_type = NSVQ_S16, .out_type = NSVQ_S16};
    nsvq_kernels_init(&k, NSVQ_CPU_C);
    assert_int_equal(k.pointwise_pack(&p, e.wt, e.bias, e.shift, e.mul), 0);
    k.pointwise(out, in, NULL, &p, 1);
    nsvq_pointwise_free(&p);
    free(e.wt); free(e.bias); free(e.shift); free(e.mul);
    free(m.st.p);
    for (int o = 0; o < 4; o++)
        if (fabsf((float)out[o] * 0.001f - bias[o]) > 0.0011f)
            fail_msg("channel %d: bias %g became %g", o, bias[o], (float)out[o] * 0.001f);
}

/* ---- networks ---- */

static size_t bytes_of(const network *n, const workspace *ws, int r)
{
    int type = NSVQ_S16;
    for (int i = 0; i < n->n_layers; i++)
        if (n->l[i].dst == r) type = n->l[i].out_type;
    return (size_t)ws->r[r].h * (size_t)ws->r[r].w * (size_t)ws->r[r].c * (type == NSVQ_U8 ? 1 : 2);
}

static void shape_and_fill(const model *m, int which, workspace *ws, int h, int w)
{
    const network *n = which ? &m->syn : &m->ana;
    workspace_shape(ws, n, which ? h : 4 * h, which ? w : 4 * w);
    ref_fill(ws->r[0].v, (size_t)ws->r[0].h * ws->r[0].w * ws->r[0].c, 1.f, 17);
}

/* All registers of both networks, sizes of one latent up: borders meet. */
static void check_tables(const model *m, const formats *f)
{
    static const int size[][2] = {{1, 1}, {1, 4}, {3, 2}, {5, 7}};
    for (int s = 0; s < 4; s++)
        for (int which = 0; which < 2; which++) {
            const network *n = which ? &m->syn : &m->ana;
            qat_buffers want = {{0}, {0}};
            workspace ws = {0};
            for (int i = 0; i < N_TABLES; i++) {
                nsvq_kernels k;
                qat_buffers got = {{0}, {0}};
                qat q;
                if (!kernel_table(&k, i)) continue;
                qat_init(&q, m, f);
                q.k = k;
                qat_refresh(&q, m);
                shape_and_fill(m, which, &ws, size[s][0], size[s][1]);
                qat_forward(&q, m, which, &ws, i ? &got : &want);
                for (int r = 0; i && r <= n->n_layers; r++)
                    if (memcmp(want.r[r], got.r[r], bytes_of(n, &ws, r)))
                        fail_msg("%s, network %d, %d x %d: register %d differs from c", k.name, which,
                                 size[s][1], size[s][0], r);
                qat_buffers_free(&got);
                qat_free(&q);
            }
            qat_buffers_free(&want);
            workspace_free(&ws);
        }
}

static void kernel_tables_agree(void **state)
{
    model m;
    formats f;
    model_random(&m, &tiny_preset, 5);
    formats_calibrate(&m, &pictures, &f);
    prior_calibrate(&m, &pictures, &f);
    check_tables(&m, &f);
    check_tables(&trained, &trained.f);
    model_free(&m);
}

/* Weights that the integers stand for are within half a unit of the float ones, biases as near. */
static void dequantised_weights_are_near(void **state)
{
    const model *m = &trained;
    qat q;
    qat_init(&q, m, &m->f);
    qat_refresh(&q, m);
    for (int which = 0; which < 2; which++) {
        const network *n = which ? &m->syn : &m->ana;
        const float *scale = which ? q.f.syn : q.f.ana;
        for (int i = 0; i < n->n_layers; i++) {
            const layer *l = &n->l[i];
            const int deep = l->kind == NSVQ_LAYER_DEPTHWISE, taps = deep ? l->k * l->k : l->cin;
            if (l->kind == NSVQ_LAYER_SPACE_TO_DEPTH) continue;
            for (int o = 0; o < l->cout; o++) {
                float top = 0, worst = 0;
                for (int t = 0; t < taps; t++) {
                    const size_t at = l->w + (deep ? (size_t)(t * l->cin + o) : (size_t)(o * taps + t));
                    top = fmaxf(top, fabsf(m->st.p[at]));
                    worst = fmaxf(worst, fabsf(m->st.p[at] - q.p[at]));
                }
                if (!(worst <= top / 127 * 0.5f + top * 3e-4f)) /* 3e-4: 12 bits of mul */
                    fail_msg("network %d layer %d output %d: %g off, largest weight %g", which, i, o,
                             worst, top);
                const float b = m->st.p[l->b + (size_t)o], unit = scale[l->src] * top / 127;
                if (!(fabsf(q.p[l->b + (size_t)o] - b) <= 0.51f * unit + fabsf(b) * 3e-4f))
                    fail_msg("network %d layer %d output %d: bias %g is %g", which, i, o, b,
                             q.p[l->b + (size_t)o]);
            }
        }
    }
    qat_free(&q);
}

static double rms_of(const tensor *a, const tensor *b)
{
    const size_t n = (size_t)a->h * (size_t)a->w * (size_t)a->c;
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        const double d = a->v[i] - (b ? b->v[i] : 0);
        sum += d * d;
    }
    return sqrt(sum / (double)n);
}

/* After training on quantised weights: latents within 3 %, pixels within 1.5 grey levels rms of what
 * the float network makes. */
static void networks_come_near(void **state)
{
    const model *m = &trained;
    uint8_t *rgb = malloc(192 * 192 * 3);
    const char *name;
    int w, h;
    qat q;
    qat_buffers b[2] = {{{0}, {0}}, {{0}, {0}}};
    workspace ws[2] = {0};
    assert_non_null(rgb);
    forward *f = forward_new();
    qat_init(&q, m, &m->f);
    qat_refresh(&q, m);
    assert_true(dataset_held_out(&pictures, 0, &(cut){192, 16, 0}, rgb, &w, &h, &name));
    forward_run(f, m, rgb, w, h, 50);
    const workspace *want[2] = {forward_net(f, NET_ANALYSIS), forward_net(f, NET_SYNTHESIS)};
    for (int i = 0; i < 2; i++) {
        const network *n = i ? &m->syn : &m->ana;
        workspace_shape(&ws[i], n, want[i]->r[0].h, want[i]->r[0].w);
        memcpy(ws[i].r[0].v, want[i]->r[0].v,
               sizeof(float) * (size_t)ws[i].r[0].h * ws[i].r[0].w * ws[i].r[0].c);
        qat_forward(&q, m, i, &ws[i], &b[i]);
        const tensor *in = &ws[i].r[0];
        const float unit = i ? m->f.syn[0] : m->f.ana[0];
        for (int j = 0; j < in->h * in->w * in->c; j++)
            assert_true(fabsf(in->v[j] - want[i]->r[0].v[j]) <= 0.501f * unit);
    }
    const tensor *y = &ws[0].r[m->ana.output], *o = &ws[1].r[m->syn.output];
    const double latent = rms_of(y, &want[0]->r[m->ana.output]) / rms_of(y, NULL);
    const double pixel = 64 * rms_of(o, &want[1]->r[m->syn.output]);
    print_message("integer against float: latents %.2f %%, pixels %.2f levels rms\n", 100 * latent,
                  pixel);
    assert_true(latent < 0.03);
    assert_true(pixel < 1.5);
    for (int i = 0; i < 2; i++) {
        workspace_free(&ws[i]);
        qat_buffers_free(&b[i]);
    }
    qat_free(&q);
    forward_free(f);
    free(rgb);
}

/* ---- the whole model ---- */

static void emitted_model_is_valid(void **state)
{
    const vq *q = &trained.q;
    nsvq_model_desc desc;
    const char *why = model_emit(&trained, &trained.f, &desc);
    if (why) fail_msg("%s", why);
    assert_null(nsvq_model_check(&desc));
    for (int c = 0; c < q->slices * q->cells; c++) {
        const uint16_t *f = desc.prior.member + (size_t)c * NSVQ_CELL;
        const float *bits = q->member_bits + (size_t)c * NSVQ_CELL;
        int sum = 0;
        for (int i = 0; i < NSVQ_CELL; i++) {
            sum += f[i];
            assert_true(f[i] >= 1);
            /* Within 2 % of the float table's bits, or a member that costs next to nothing to miss. */
            if (f[i] > 100) assert_true(fabs(15 - log2(f[i]) - bits[i]) < 0.03);
        }
        assert_int_equal(sum, 32768);
    }
    for (size_t i = 0; i < (size_t)q->slices * q->codes * q->dim; i++) {
        const float v = fmaxf(-NSVQ_CODE_MAX, fminf(NSVQ_CODE_MAX, q->code[i] * LATENT_ONE));
        assert_true(fabsf((float)desc.codes[i] - v) <= 0.501f);
    }
    nsvq_model_free(&desc);
}

static uint8_t *file_bytes(const char *file, size_t *size)
{
    FILE *f = fopen(file, "rb");
    assert_true(f && !fseek(f, 0, SEEK_END));
    *size = (size_t)ftell(f);
    rewind(f);
    uint8_t *b = malloc(*size);
    assert_true(b && fread(b, 1, *size, f) == *size);
    fclose(f);
    return b;
}

/* What is read back from the file is the integer network of the training, with its card. */
static void exported_file_is_the_trained_network(void **state)
{
    nsvq_model_desc desc;
    const char *why = NULL;
    size_t size;
    assert_int_equal(model_export(&trained, &trained.f, "one", "a card\n", "quant.nsvqm"), 0);
    uint8_t *bytes = file_bytes("quant.nsvqm", &size);
    if (nsvq_model_load(&desc, bytes, size, &why)) fail_msg("%s", why);
    assert_string_equal(desc.name, "one");
    assert_int_equal(export_check(&trained, &trained.f, &desc, &pictures), 0);
    char *card = model_card("quant.nsvqm"), want[80];
    snprintf(want, sizeof want, "model one, id %016llx\na card\n",
             (unsigned long long)nsvq_model_id(&desc));
    assert_string_equal(card, want);
    free(card);
    nsvq_model_free(&desc);
    free(bytes);
}

static void near_halves(const float *got, const float *want, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(got[i] - want[i]) <= fabsf(want[i]) / 2048 + 3.1e-8f))
            fail_msg("[%zu]: %g, not %g", i, got[i], want[i]);
}

static void master_weights_come_back(void **state)
{
    model m;
    const vq *q = &trained.q;
    const size_t k = (size_t)(q->slices * q->codes);
    assert_int_equal(model_from_master(&m, "quant.nsvqm"), 0);
    near_halves(m.st.p, trained.st.p, m.st.n);
    near_halves(m.q.code, q->code, k * (size_t)q->dim);
    near_halves(m.q.ema_n, q->ema_n, k);
    for (size_t i = 0; i < k * (size_t)q->dim; i++)
        assert_true(m.q.ema_sum[i] == m.q.code[i] * m.q.ema_n[i / (size_t)q->dim]);
    assert_memory_equal(&m.pre, &trained.pre, sizeof m.pre);
    assert_memory_equal(m.q.seed_channel, q->seed_channel, sizeof q->seed_channel);
    assert_true(m.q.lambda50 == q->lambda50 && m.step == 0 && m.trained_mpixel == trained.trained_mpixel);
    model_free(&m);
}

/* A model from elsewhere may hold anything as master weights. */
static void wrong_master_weights_are_errors(void **state)
{
    static const struct { size_t at; uint8_t v; } wrong[] = {
        {0, 'X'}, {8 + 28 + 4 + 1, 1}, {8 + 28, 0xF0}, {8 + 28 + 3, 0x80}, {8 + 28 + 40, 9},
        {8 + 16, 2}, {8 + 20, 8},
        {8 + sizeof(preset) + 1, 0x7F}, {8 + sizeof(preset) + 3, 0x80}};
    nsvq_model_desc desc;
    const char *why = NULL;
    size_t size;
    uint8_t *bytes = file_bytes("quant.nsvqm", &size);
    assert_int_equal(nsvq_model_load(&desc, bytes, size, &why), 0);
    const size_t n = desc.master_bytes;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong + 2; i++) {
        const bool change = i < sizeof wrong / sizeof *wrong;
        const uint8_t keep = change ? desc.master[wrong[i].at] : 0;
        model m;
        if (change) desc.master[wrong[i].at] = wrong[i].v;
        else desc.master_bytes = i & 1 ? n - 2 : 20;
        size_t stored;
        uint8_t *file = nsvq_model_store(&desc, NSVQ_STORE_ANALYSIS | NSVQ_STORE_MASTER, &stored);
        FILE *f = fopen("quant.nsvqm", "wb");
        assert_true(file && f && fwrite(file, 1, stored, f) == stored && !fclose(f));
        silence(true);
        const int st = model_from_master(&m, "quant.nsvqm");
        silence(false);
        if (st != -1) fail_msg("damage %zu: no error", i);
        if (change) desc.master[wrong[i].at] = keep;
        desc.master_bytes = n;
        free(file);
    }
    nsvq_model_free(&desc);
    free(bytes);
    remove("quant.nsvqm");
}

static void export_check_notices_one_weight(void **state)
{
    nsvq_model_desc desc;
    assert_null(model_emit(&trained, &trained.f, &desc));
    for (int which = 0; which < 2; which++) {
        nsvq_net *n = which ? &desc.synthesis : &desc.analysis;
        for (int i = 0; i < n->n_layers; i++) {
            nsvq_layer *l = &n->layer[i];
            const size_t n_w = (size_t)l->cin * (l->kind == NSVQ_LAYER_DEPTHWISE ? l->k * l->k : l->cout);
            int noticed = 0;
            if (l->kind == NSVQ_LAYER_SPACE_TO_DEPTH) continue;
            /* A weight on a channel that is zero everywhere changes nothing: four tries. */
            silence(true);
            for (size_t t = 0; t < 4 && !noticed; t++) {
                int8_t *w = &l->wt[n_w * (2 * t + 1) / 8];
                const int8_t keep = *w;
                *w = (int8_t)(keep > 0 ? keep - 1 : keep + 1);
                noticed = export_check(&trained, &trained.f, &desc, &pictures) != 0;
                *w = keep;
            }
            silence(false);
            if (!noticed) fail_msg("network %d, layer %d: a changed weight went unnoticed", which, i);
        }
    }
    assert_int_equal(export_check(&trained, &trained.f, &desc, &pictures), 0);
    nsvq_model_free(&desc);
}

static int prepare(void **state)
{
    preset p;
    if (preset_find("small", &p)) return -1;
    pictures_make(&pictures, 6);
    model_trained(&trained, &p, &pictures, "quant");
    remove("quant.ckpt");
    return 0;
}

static int clear(void **state)
{
    dataset_free(&pictures);
    model_free(&trained);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layers_come_near),
        cmocka_unit_test(a_constant_channel_keeps_its_bias),
        cmocka_unit_test(kernel_tables_agree),
        cmocka_unit_test(dequantised_weights_are_near),
        cmocka_unit_test(networks_come_near),
        cmocka_unit_test(emitted_model_is_valid),
        cmocka_unit_test(exported_file_is_the_trained_network),
        cmocka_unit_test(master_weights_come_back),
        cmocka_unit_test(wrong_master_weights_are_errors),
        cmocka_unit_test(export_check_notices_one_weight),
    };
    return cmocka_run_group_tests(tests, prepare, clear);
}
