/* hyper.c - the hyper family's quantiser: rates and gradients against doubles and finite differences,
 * integers against the engine, class tables, a training that is cut short and goes on. */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "engine.h"
#include "qat.h"
#include "random.h"
#include "reference.h"
#include "support.h"

static const preset sixteen = {"sixteen", NSVQ_FAMILY_HYPER, 16, 16, 16, 1, 16, 1, 16, 1, 16, 1, 16, 1,
                               0, 0, 0, 0, 8, 16, 6};
static const preset eight = {"eight", NSVQ_FAMILY_HYPER, 8, 16, 16, 1, 16, 1, 0, 0, 16, 1, 16, 1,
                             0, 0, 0, 0, 8, 16, 6};
static dataset pictures;

#define MAX_SLOPE 4. /* of hyper.c, as MAX_Z */
#define MAX_Z 6.

/* ---- rates ---- */

static double rate_of(double v, double ls)
{
    const double s = exp2(ls), x = fabs(v);
    return -log2(1 / (1 + exp((x - 0.5) / s)) - 1 / (1 + exp((x + 0.5) / s)));
}

static void rates_and_slopes(void **state)
{
    enum { N = 5000 };
    const double h = 1e-4;
    float *v = malloc(N * sizeof *v), *ls = malloc(N * sizeof *ls), *dv = malloc(N * sizeof *dv),
          *ds = malloc(N * sizeof *ds);
    uint64_t rng = 4;
    double want = 0;
    assert_true(v && ls && dv && ds);
    for (int i = 0; i < N; i++) { /* out to 12 scales and 6 units */
        ls[i] = -3.f + 10.f * random_unit(&rng);
        v[i] = (random_unit(&rng) * 12.f * exp2f(ls[i]) + 0.5f) * (i % 2 ? 1.f : -1.f);
    }
    const double got = hyper_rate(v, ls, dv, ds, N);
    for (int i = 0; i < N; i++) {
        want += rate_of(v[i], ls[i]);
        double sv = (rate_of(v[i] + h, ls[i]) - rate_of(v[i] - h, ls[i])) / (2 * h);
        double ss = (rate_of(v[i], ls[i] + h) - rate_of(v[i], ls[i] - h)) / (2 * h);
        sv = fmax(-MAX_SLOPE, fmin(MAX_SLOPE, sv));
        ss = fmax(-MAX_SLOPE, ss);
        if (!(fabs(dv[i] - sv) < 2e-3 * (1 + fabs(sv)) && fabs(ds[i] - ss) < 2e-3 * (1 + fabs(ss))))
            fail_msg("v %g, log2 scale %g: slopes %g %g, not %g %g", v[i], ls[i], dv[i], ds[i], sv, ss);
    }
    assert_true(fabs(got / want - 1) < 1e-5);
    /* Far outside: finite, and still pulled inwards; scales beyond the classes go only back. */
    v[0] = 3000.f;
    ls[0] = ls[1] = -5.f;
    v[1] = 0.f;
    assert_true(isfinite(hyper_rate(v, ls, dv, ds, 2)));
    assert_true(dv[0] > 1.f && ds[0] < -1.f && fabsf(dv[1]) < 1e-4f && ds[1] == 0.f);
    ls[0] = ls[1] = 9.f;
    hyper_rate(v, ls, dv, ds, 2);
    assert_true(ds[0] == 0.f && ds[1] > 0.5f);
    free(v); free(ls); free(dv); free(ds);
}

/* ---- gradients of the quantiser ----
 * Rounding passes gradients: y_hat = y + step d, z_hat = z + step d with d = rounded - not rounded, a
 * constant. So are contexts and the noise of the rates. */

typedef struct quantiser_run {
    const hyper *q;
    hyper_patch  p;
    double      *w, *y, *ctx, *ha[NSVQ_MAX_REGISTERS], *hs[NSVQ_MAX_REGISTERS];
    double      *u, *u_z; /* noise */
    float       *pull;    /* [n][L + 4] gradient of y_hat */
    float        quality;
    double       weight;
    int          n, n_z;
} quantiser_run;

static double log_step_of(const quantiser_run *r, const double *gain, int channels, int c, double base)
{
    const int a = (int)(r->quality / 32);
    const double f = r->quality / 32 - a;
    return base + (1 - f) * gain[a * channels + c] + f * gain[(a + 1) * channels + c];
}

static double quantiser_loss(void *user)
{
    quantiser_run *r = user;
    const hyper *q = r->q;
    const hyper_patch *p = &r->p;
    const int L = q->latent, Z = q->z, per = q->per, zw = p->w / per;
    double bits = 0, pulled = 0, mean[64];
    memcpy(r->ha[0], r->y, sizeof(double) * (size_t)(r->n * L));
    ref_network(&q->ha, r->w, r->ha, &p->ha);
    for (int i = 0; i < r->n_z * Z; i++) {
        const double ls = log_step_of(r, r->w + q->z_gain, Z, i % Z, 0), step = exp2(ls);
        const double z = r->ha[q->ha.output][i], t = (z - r->w[q->z_mean + (size_t)(i % Z)]) / step;
        bits += rate_of(t + r->u_z[i], r->w[q->z_scale + (size_t)(i % Z)] - ls);
        r->hs[0][i / Z * (Z + 4) + i % Z] = z + step * ((double)p->z_r[i] - p->z_t[i]);
    }
    ref_network(&q->hs, r->w, r->hs, &p->hs);
    for (int pass = 0; pass < NSVQ_N_PASSES; pass++)
        for (int k = p->pass_at[pass]; k < p->pass_at[pass + 1]; k++) {
            const int i = p->pos[k], x = i % p->w, y = i / p->w;
            const double *o = r->hs[q->hs.output] +
                              ((y / per * zw + x / per) * per * per + y % per * per + x % per) * 2 * L;
            if (pass)
                ref_pointwise(mean, r->ctx + k * q->context, NULL, r->w + q->mean[pass].w,
                              r->w + q->mean[pass].b, 1, q->context, L);
            for (int c = 0; c < L; c++) {
                const double ls = log_step_of(r, r->w + q->gain, L, c, log2(0.5) + (50 - r->quality) / 20);
                const double step = exp2(ls), v = r->y[i * L + c];
                const double t = (v - o[L + c] - (pass ? mean[c] : 0)) / step;
                bits += rate_of(t + r->u[i * L + c], o[c] - ls);
                pulled += r->pull[i * (L + 4) + c] *
                          (v + step * ((double)p->r[i * L + c] - p->t[i * L + c]));
            }
        }
    return r->weight * bits + pulled;
}

static void check_parameters(quantiser_run *r, const char *what, size_t at, size_t n, const float *g,
                             const float *before)
{
    ref_check c = {.p = r->w + at, .n = n, .every = 1 + n / 40, .step = 1e-4, .tolerance = 2e-3,
                   .grown = g + at, .before = before + at};
    snprintf(c.what, sizeof c.what, "%s", what);
    ref_differences(&c, quantiser_loss, r);
}

static void check_network(quantiser_run *r, const char *name, const network *n, const float *g,
                          const float *before)
{
    char what[64];
    for (int i = 0; i < n->n_layers; i++) {
        const layer *l = &n->l[i];
        const int taps = l->kind == NSVQ_LAYER_DEPTHWISE ? l->k * l->k : l->cin * l->cout;
        if (l->kind == NSVQ_LAYER_SPACE_TO_DEPTH) continue;
        snprintf(what, sizeof what, "%s, layer %d: w", name, i);
        check_parameters(r, what, l->w,
                         (size_t)(l->kind == NSVQ_LAYER_DEPTHWISE ? taps * l->cin : taps), g, before);
        snprintf(what, sizeof what, "%s, layer %d: b", name, i);
        check_parameters(r, what, l->b, (size_t)l->cout, g, before);
    }
}

static void check_quantiser(const preset *pre, float quality)
{
    const int per = 64 / pre->stride, W = 2 * per, H = per, n = W * H, L = pre->latent;
    model m;
    uint64_t rng = 8, noise = 99, again = 99;
    model_random(&m, pre, 5);
    const hyper *q = &m.h;
    const layer *last = &q->hs.l[q->hs.n_layers - 1];
    const layer *to_z = &q->ha.l[q->ha.n_layers - 1];
    for (int i = 0; i < last->cin * last->cout; i++) m.st.p[last->w + (size_t)i] *= 0.1f; /* nothing at a bound */
    for (int i = 0; i < to_z->cin * to_z->cout; i++) m.st.p[to_z->w + (size_t)i] *= 0.2f;
    for (int i = 0; i < q->z; i++) m.st.p[q->z_scale + (size_t)i] += 1.f;
    for (int i = 0; i < L; i++) m.st.p[last->b + (size_t)i] += 1.f;
    quantiser_run r = {.q = q, .quality = quality, .weight = 0.6, .n = n, .n_z = 2};
    float *y = malloc(sizeof *y * (size_t)(n * L)), *g_y = malloc(sizeof *g_y * (size_t)(n * L));
    float *y_hat = malloc(sizeof *y_hat * (size_t)(n * (L + 4))), *before = malloc(sizeof *before * m.st.n);
    float *g = malloc(sizeof *g * m.st.n);
    r.pull = malloc(sizeof *r.pull * (size_t)(n * (L + 4)));
    assert_true(y && g_y && y_hat && before && g && r.pull);
    rng = ref_fill(y, (size_t)(n * L), quality > 90.f ? 0.2f : 0.4f, rng);
    rng = ref_fill(r.pull, (size_t)(n * (L + 4)), 1.f, rng);
    ref_fill(before, m.st.n, 0.5f, rng);
    memcpy(g, before, m.st.n * sizeof *g);
    const double bits = hyper_quantise(q, m.st.p, &r.p, y, W, H, quality, y_hat, &noise);
    r.w = ref_doubles(m.st.p, m.st.n);
    r.y = ref_doubles(y, (size_t)(n * L));
    r.ctx = ref_doubles(r.p.ctx, (size_t)(n * q->context));
    r.u = ref_doubles(NULL, (size_t)(n * L));
    r.u_z = ref_doubles(NULL, (size_t)(r.n_z * q->z));
    for (int i = 0; i < r.n_z * q->z; i++) r.u_z[i] = random_unit(&again) - 0.5f;
    for (int i = 0; i < n * L; i++) r.u[i] = random_unit(&again) - 0.5f;
    for (int i = 0; i <= q->ha.n_layers; i++)
        r.ha[i] = ref_doubles(NULL, (size_t)(r.p.ha.r[i].h * r.p.ha.r[i].w * r.p.ha.r[i].c));
    for (int i = 0; i <= q->hs.n_layers; i++)
        r.hs[i] = ref_doubles(r.p.hs.r[i].v, (size_t)(r.p.hs.r[i].h * r.p.hs.r[i].w * r.p.hs.r[i].c));
    for (int i = 0; i < n * L; i++) {
        const float ls = r.p.ls[i] - r.p.log_step[i % L];
        assert_true(ls > HYPER_LS_MIN && ls < HYPER_LS_MAX);
        assert_true(fabs(r.p.dv[i]) < MAX_SLOPE && r.p.ds[i] > -MAX_SLOPE);
    }
    for (int i = 0; i < r.n_z * q->z; i++)
        assert_true(fabs(r.p.z_t[i]) < MAX_Z && fabs(r.p.z_dv[i]) < MAX_SLOPE && r.p.z_ds[i] > -MAX_SLOPE);
    hyper_backward(q, m.st.p, g, &r.p, quality, (float)r.weight, r.pull, g_y);

    check_network(&r, "ha", &q->ha, g, before);
    check_network(&r, "hs", &q->hs, g, before);
    for (int pass = 1; pass < NSVQ_N_PASSES; pass++) {
        check_parameters(&r, "mean: w", q->mean[pass].w, (size_t)(q->context * L), g, before);
        check_parameters(&r, "mean: b", q->mean[pass].b, (size_t)L, g, before);
    }
    check_parameters(&r, "gain", q->gain, (size_t)(NSVQ_N_GAINS * L), g, before);
    check_parameters(&r, "z_gain", q->z_gain, (size_t)(NSVQ_N_GAINS * q->z), g, before);
    check_parameters(&r, "z_mean", q->z_mean, (size_t)q->z, g, before);
    check_parameters(&r, "z_scale", q->z_scale, (size_t)q->z, g, before);
    ref_check c = {.what = "y", .p = r.y, .n = (size_t)(n * L), .every = 3, .step = 1e-4,
                   .tolerance = 2e-3, .grown = g_y};
    ref_differences(&c, quantiser_loss, &r);
    /* What is differentiated is what the quantiser counts. */
    double pulled = 0;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < L; k++) pulled += (double)r.pull[i * (L + 4) + k] * y_hat[i * (L + 4) + k];
    assert_true(fabs((quantiser_loss(&r) - pulled) / r.weight / bits - 1) < 1e-4);
    /* Analysis and synthesis have got nothing. */
    assert_memory_equal(g, before, q->ha.l[0].w * sizeof *g);

    free(r.w); free(r.y); free(r.ctx); free(r.u); free(r.u_z); free(r.pull);
    for (int i = 0; i < NSVQ_MAX_REGISTERS; i++) {
        free(r.ha[i]);
        free(r.hs[i]);
    }
    hyper_patch_free(&r.p);
    free(y); free(g_y); free(y_hat); free(before); free(g);
    model_free(&m);
}

static void quantiser_gradients(void **state)
{
    check_quantiser(&sixteen, 35.f);
    check_quantiser(&sixteen, 97.f);
    check_quantiser(&eight, 60.f);
}

/* ---- integers ---- */

/* Steps of FORMAT.md: double per 20 of quality, gains on top. */
static void steps_are_the_formats(void **state)
{
    int16_t gain[NSVQ_N_GAINS * 2];
    int16_t pass_gain[NSVQ_N_PASSES] = {-300, -20, 0, 5, 60};
    nsvq_hyper numbers = {.z = 1, .gain = gain};
    for (int a = 0; a < NSVQ_N_GAINS; a++) {
        gain[2 * a] = (int16_t)(100 * a - 150);
        gain[2 * a + 1] = (int16_t)(40 - 20 * a);
    }
    for (int q16 = 16; q16 <= 1600; q16++) {
        const double quality = q16 / 16., at = quality / 32;
        const double l = log2(hyper_step((float)quality)) + (100 * at - 150) / 256;
        numbers.pass_gain = NULL;
        const int y = qat_log_step(&numbers, 1, 0, 0, q16), z = qat_log_step(&numbers, 1, 1, 0, q16);
        numbers.pass_gain = pass_gain;
        for (int p = 0; p < NSVQ_N_PASSES; p++) {
            assert_int_equal(qat_log_step(&numbers, 1, 0, p, q16), y + pass_gain[p]);
            assert_int_equal(qat_log_step(&numbers, 1, 1, p, q16), z);
        }
        assert_true(fabs((y - 2816) / 256. - l) < 2. / 256);
        assert_true(fabs((z - 2816) / 256. - (40 - 20 * at) / 256) < 1. / 256);
        assert_true(fabs(qat_step(y) / (exp2((y - 2816) / 256.) * 2048) - 1) < 0.01);
    }
    assert_int_equal(qat_class(-5 * 128, 2816), 0);
    assert_int_equal(qat_class(0, 2816), 512 / 24);
    assert_int_equal(qat_class(128, 2816 + 256), 512 / 24);
    assert_int_equal(qat_class(9 * 128, 2816), NSVQ_N_CLASSES - 1);
}

static void train_hyper(model *m, const preset *p, const train_options *o)
{
    model_build(m, p);
    model_start(m, &pictures, 1);
    if (p->family == NSVQ_FAMILY_HYPER) { /* hs has a say in means from the start */
        const layer *last = &m->h.hs.l[m->h.hs.n_layers - 1];
        ref_fill(m->st.p + last->w, (size_t)(last->cin * last->cout), 0.1f, 3);
    }
    if (train(m, &pictures, o)) abort();
}

static const train_options short_run = {.out = "hyper", .steps = 8, .batch = 2, .patch = 128, .threads = 1,
                                        .quiet = 1, .lr = 2e-3f, .qat = 0.5f};

/* A changed number in any part of the quantiser: latents of the engine differ from the trainer's. */
static void check_noticed(const model *m, nsvq_model_desc *desc, const char *what, void *at, size_t size,
                          size_t n)
{
    int noticed = 0;
    silence(true);
    for (size_t t = 0; t < 8 && !noticed; t++) {
        int8_t *b = (int8_t *)at + n * (2 * t + 1) / 16 * size;
        const int8_t keep = *b;
        *b = (int8_t)(keep ^ 0x40);
        noticed = export_check(m, &m->f, desc, &pictures) != 0;
        *b = keep;
    }
    silence(false);
    if (!noticed) fail_msg("%s: a changed number went unnoticed", what);
}

static void check_net_noticed(const model *m, nsvq_model_desc *desc, nsvq_net *n)
{
    for (int i = 0; i < n->n_layers; i++) {
        nsvq_layer *l = &n->layer[i];
        const int taps = l->kind == NSVQ_LAYER_DEPTHWISE ? l->k * l->k : l->cout;
        if (l->kind != NSVQ_LAYER_SPACE_TO_DEPTH)
            check_noticed(m, desc, n == &desc->hyper.analysis ? "ha" : "hs", l->wt, 1, (size_t)(taps * l->cin));
    }
}

static void engine_is_the_trainers(void **state)
{
    const preset *const all[3] = {&sixteen, &eight, &eight};
    for (int i = 0; i < 3; i++) {
        model m;
        nsvq_model_desc desc;
        train_hyper(&m, all[i], &short_run);
        assert_true(m.has_formats);
        if (i == 2) use_trellis(&m);
        prior_calibrate(&m, &pictures, &m.f);
        const char *why = model_emit(&m, &m.f, &desc);
        if (why) fail_msg("%s", why);
        assert_int_equal(export_check(&m, &m.f, &desc, &pictures), 0);
        nsvq_hyper *h = &desc.hyper;
        const size_t L = desc.latent, X = 4 * L + NSVQ_N_EXTRA;
        check_net_noticed(&m, &desc, &h->analysis);
        check_net_noticed(&m, &desc, &h->synthesis);
        check_noticed(&m, &desc, "base", h->base.wt, 1, L * h->side);
        for (int p = 1; p < NSVQ_N_PASSES; p++)
            check_noticed(&m, &desc, "mean", h->mean[p].wt, 1, 3 * L); /* of the first latent */
        check_noticed(&m, &desc, "gain", h->gain + 1 * (L + h->z), 2, L);
        check_noticed(&m, &desc, "z_mean", h->z_mean, 2, h->z);
        assert_true(X == h->mean[1].cin);
        nsvq_model_free(&desc);
        model_free(&m);
    }
    remove("hyper.ckpt");
}

/* Of one training: the trellis has finer steps of latents alone, and smaller files of the same quality. Its
 * model starts another training as the other one does. */
static void trellis_saves_rate(void **state)
{
    static const int quality[4] = {20, 45, 70, 95};
    figures f[2][4];
    nsvq_model_desc desc[2];
    train_options o = short_run;
    model m, again;
    o.steps = 60;
    train_hyper(&m, &eight, &o);
    for (int i = 0; i < 2; i++) {
        if (i) use_trellis(&m);
        prior_calibrate(&m, &pictures, &m.f);
        assert_null(model_emit(&m, &m.f, &desc[i]));
        for (int k = 0; k < 4; k++) f[i][k] = validate_integer(&desc[i], &pictures, quality[k], 192);
    }
    const nsvq_hyper *a = &desc[0].hyper, *b = &desc[1].hyper;
    const int n = desc[0].latent + a->z;
    assert_true(!a->trellis.freq && b->trellis.freq);
    for (int i = 0; i < NSVQ_N_GAINS * n; i++)
        assert_int_equal(a->gain[i] - b->gain[i], i % n < desc[0].latent ? 129 : 0);
    assert_memory_equal(a->freq, b->freq, sizeof m.h.tables.freq); /* of hyper-latents */
    assert_int_equal(b->first_class, a->first_class + 4);
    const double saved = -bd_rate(f[0], f[1], 4);
    print_message("dependent quantisation: %.2f %% less rate\n", saved);
    assert_true(saved > 1);

    assert_int_equal(model_export(&m, &m.f, "three", "a card\n", "hyper.nsvqm"), 0);
    assert_int_equal(model_from_master(&again, "hyper.nsvqm"), 0);
    assert_null(again.h.tables.trellis);
    for (size_t i = 0; i < m.st.n; i++)
        assert_true(fabsf(again.st.p[i] - m.st.p[i]) <= fabsf(m.st.p[i]) / 2048 + 3.1e-8f);
    model_free(&again);
    for (int i = 0; i < 2; i++) nsvq_model_free(&desc[i]);
    model_free(&m);
    remove("hyper.nsvqm");
    remove("hyper.ckpt");
}

/* ---- tables ---- */

/* Counts by the density itself: the table costs what the density does. */
static void tables_fit_their_counts(void **state)
{
    class_counts *c = calloc(1, sizeof *c);
    class_tables t = {.lambda = 100};
    assert_non_null(c);
    tables_make(&t, NULL);
    assert_int_equal(t.first_class, 0);
    for (int cls = 0; cls < NSVQ_N_CLASSES; cls++) {
        const double ls = -4 + (cls + 0.5) * 12 / 64;
        for (int r = -TABLES_REACH; r <= TABLES_REACH; r++)
            c->n[cls][TABLES_REACH + r] = 1e6 * exp2(-rate_of(r, ls));
        c->gain[cls] = 1e9;
    }
    choice_sums sums = {0};
    c->gain[0] = c->gain[1] = 0;
    tables_make(&t, c);
    assert_int_equal(t.first_class, 2);
    for (int cls = 0; cls < NSVQ_N_CLASSES; cls++) {
        double bits = 0, least = 0, n = 0;
        int sum = 0;
        for (int i = 0; i < NSVQ_CLASS_SYMBOLS; i++) {
            const int f = t.freq[cls * NSVQ_CLASS_SYMBOLS + i];
            assert_true((f > 0) == (i < 2 * t.costs[cls].half + 2));
            sum += f;
        }
        assert_int_equal(sum, 32768);
        for (int r = -TABLES_REACH; r <= TABLES_REACH; r++) {
            const double k = c->n[cls][TABLES_REACH + r];
            n += k;
            bits += k * symbol_costs_of(&t.costs[cls], r) / 256;
        }
        for (int i = 0; i <= 2 * TABLES_REACH; i++)
            if (c->n[cls][i] > 0) least -= c->n[cls][i] * log2(c->n[cls][i] / n);
        if (!(bits < 1.03 * least + 0.004 * n))
            fail_msg("class %d: %g bits a symbol, at least %g", cls, bits / n, least / n);
    }
    /* The nearest, or what costs less. */
    for (int d = -4000; d <= 4000; d += 7) {
        const int cls = 30, r = tables_choose(&t, t.first_class, cls, d, 100, &sums);
        double cost[2], best = 1e30;
        for (int k = -41; k <= 41; k++) {
            const double e = d / 100. - k;
            best = fmin(best, e * e + 100 / 1024. * symbol_costs_of(&t.costs[cls], k) / 256);
        }
        cost[0] = pow(d / 100. - r, 2) + 100 / 1024. * symbol_costs_of(&t.costs[cls], r) / 256;
        assert_true(cost[0] < best + 0.02);
    }
    assert_int_equal(tables_choose(&t, t.first_class, 1, 1000, 100, &sums), 0);
    free(c);
}

/* As tables_fit_their_counts, of both quantisers; without counts small classes have zeros almost alone. */
static void trellis_tables_fit_their_counts(void **state)
{
    trellis_counts *c = calloc(1, sizeof *c);
    trellis_tables *of = calloc(1, sizeof *of);
    class_tables t = {.lambda = 102, .trellis = of};
    assert_true(c && of);
    tables_make(&t, NULL);
    assert_ptr_equal(t.trellis, of);
    for (int round = 0; round < 2; round++) {
        tables_make_trellis(&t, round ? c : NULL);
        assert_int_equal(of->search.lambda, 204);
        for (int row = 0; row < 2 * NSVQ_N_CLASSES; row++) {
            const symbol_costs *costs = &of->search.costs[row % NSVQ_N_CLASSES][row / NSVQ_N_CLASSES];
            const double ls = -4 + (row % NSVQ_N_CLASSES + 0.5) * 12 / 64;
            double bits = 0, least = 0, n = 0;
            int sum = 0;
            for (int i = 0; i < NSVQ_CLASS_SYMBOLS; i++) sum += of->freq[row * NSVQ_CLASS_SYMBOLS + i];
            assert_int_equal(sum, 32768);
            for (int k = -TABLES_REACH; k <= TABLES_REACH; k++) { /* by distances of two steps */
                const double count = c->n[row][TABLES_REACH + k] = 1e6 * exp2(-rate_of(k, ls - 1));
                n += count;
                bits += count * symbol_costs_of(costs, k) / 256;
            }
            for (int i = 0; round && i <= 2 * TABLES_REACH; i++)
                if (c->n[row][i] > 0) least -= c->n[row][i] * log2(c->n[row][i] / n);
            if (round && !(bits < 1.03 * least + 0.004 * n))
                fail_msg("table %d: %g bits a symbol, at least %g", row, bits / n, least / n);
        }
    }
    free(of);
    free(c);
}

static void bd_rates(void **state)
{
    const figures a[3] = {{.psnr = 30, .bpp = 0.5}, {.psnr = 34, .bpp = 1}, {.psnr = 38, .bpp = 2}};
    figures b[3] = {a[0], a[1], a[2]};
    assert_true(fabs(bd_rate(a, b, 3)) < 1e-9);
    for (int i = 0; i < 3; i++) b[i].bpp *= 0.9;
    assert_true(fabs(bd_rate(a, b, 3) + 10) < 1e-6);
    for (int i = 0; i < 3; i++) b[i].bpp = a[i].bpp, b[i].psnr += 1; /* a quarter of an octave */
    assert_true(fabs(bd_rate(a, b, 3) - 100 * (exp2(-0.25) - 1)) < 1e-6);
    for (int i = 0; i < 3; i++) b[i].psnr += 6.7;
    assert_true(isnan(bd_rate(a, b, 3)));
}

/* ---- training ---- */

static void training_lowers_the_loss(void **state)
{
    train_options o = short_run;
    model m;
    model_build(&m, &sixteen);
    model_start(&m, &pictures, 1);
    figures before[3], after[3];
    for (int i = 0; i < 3; i++) before[i] = validate(&m, NULL, &pictures, 20.f + 30.f * (float)i, 192);
    o.steps = 200;
    o.qat = 0;
    o.lr = 1e-2f;
    assert_int_equal(train(&m, &pictures, &o), 0);
    model_average(&m);
    for (int i = 0; i < 3; i++) after[i] = validate(&m, NULL, &pictures, 20.f + 30.f * (float)i, 192);
    for (int i = 0; i < 3; i++)
        print_message("%.2f dB %.3f bpp, then %.2f dB %.3f bpp\n", before[i].psnr, before[i].bpp, after[i].psnr,
                      after[i].bpp);
    for (int i = 0; i < 3; i++)
        assert_true(after[i].psnr > before[i].psnr - 0.2 && after[i].bpp < 0.93 * before[i].bpp);
    model_free(&m);
    remove("hyper.ckpt");
}

/* Cut short before, at and after the beginning of its quantisation-aware part, a run ends as if it had not
 * been. */
static void check_resume(const preset *p)
{
    model whole, part;
    train_options o = short_run;
    train_hyper(&whole, p, &o);
    for (long stop = 1; stop < o.steps; stop += 2) {
        o.stop = stop;
        train_hyper(&part, p, &o);
        assert_int_equal(part.step, stop);
        model_free(&part);
        assert_int_equal(checkpoint_load(&part, "hyper.ckpt"), 0);
        const train_options on = {.out = "hyper", .threads = 1, .quiet = 1, .go_on = 1, .steps = 77, .lr = 9};
        assert_int_equal(train(&part, &pictures, &on), 0);
        assert_true(part.step == whole.step && part.moments == whole.moments && part.rng == whole.rng);
        assert_memory_equal(part.st.p, whole.st.p, part.st.n * sizeof(float));
        assert_memory_equal(part.m, whole.m, part.st.n * sizeof(float));
        assert_memory_equal(part.v, whole.v, part.st.n * sizeof(float));
        assert_memory_equal(&part.f, &whole.f, sizeof part.f);
        if (part.mean) assert_memory_equal(part.mean, whole.mean, part.st.n * sizeof(float));
        model_free(&part);
    }
    model_free(&whole);
    remove("hyper.ckpt");
}

static void interrupted_runs_end_alike(void **state)
{
    check_resume(&sixteen);
    check_resume(&tiny_preset);
}

static void master_weights_come_back(void **state)
{
    model m, again;
    train_hyper(&m, &sixteen, &short_run);
    assert_int_equal(model_export(&m, &m.f, "one", "a card\n", "hyper.nsvqm"), 0);
    assert_int_equal(model_from_master(&again, "hyper.nsvqm"), 0);
    assert_memory_equal(&again.pre, &m.pre, sizeof m.pre);
    for (size_t i = 0; i < m.st.n; i++)
        assert_true(fabsf(again.st.p[i] - m.st.p[i]) <= fabsf(m.st.p[i]) / 2048 + 3.1e-8f);
    model_free(&again);
    model_free(&m);
    remove("hyper.nsvqm");
    remove("hyper.ckpt");
}

/* Every network gets more blocks; the figures stay, also without them again, and new blocks learn. */
static void reshaped_models_compute_the_same(void **state)
{
    const preset *const all[2] = {&sixteen, &eight};
    for (int i = 0; i < 2; i++) {
        train_options o = short_run;
        model m;
        o.qat = 0;
        train_hyper(&m, all[i], &o);
        const figures before = validate(&m, NULL, &pictures, 50.f, 192);
        const size_t n = m.st.n;
        preset p = *all[i];
        p.latent += 4;
        assert_int_equal(model_reshape(&m, &p), -1);
        assert_true(m.st.n == n);
        p = *all[i];
        strcpy(p.name, "grown");
        p.n4 += 2;
        p.n8 += 1;
        if (p.n16) p.n16 += 1;
        p.n_body += 2;
        p.n_render += 1;
        assert_int_equal(model_reshape(&m, &p), 0);
        assert_memory_equal(&m.pre, &p, sizeof p);
        assert_true(m.st.n > n);
        for (int round = 0; round < 3; round++) {
            const figures after = validate(&m, NULL, &pictures, 50.f, 192);
            assert_true(fabs(after.psnr - before.psnr) < 1e-4 && fabs(after.bpp / before.bpp - 1) < 1e-5);
            if (round < 2) assert_int_equal(model_reshape(&m, round ? &p : all[i]), 0);
            assert_true((m.st.n == n) == (round == 0));
        }
        assert_int_equal(train(&m, &pictures, &o), 0);
        const layer *l = &m.syn.l[1 + 2 * all[i]->n_body + 1]; /* the first new block's pointwise */
        float moved = 0;
        for (int k = 0; k < l->cin * l->cout; k++) moved = fmaxf(moved, fabsf(m.st.p[l->w + (size_t)k]));
        assert_true(moved > 1e-4f);
        model_free(&m);
    }
    model m;
    model_build(&m, &tiny_preset);
    assert_int_equal(model_reshape(&m, &tiny_preset), -1);
    model_free(&m);
    remove("hyper.ckpt");
}

static int prepare(void **state)
{
    pictures_make(&pictures, 6);
    return 0;
}

static int clear(void **state)
{
    dataset_free(&pictures);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rates_and_slopes),         cmocka_unit_test(quantiser_gradients),
        cmocka_unit_test(steps_are_the_formats),    cmocka_unit_test(engine_is_the_trainers),
        cmocka_unit_test(tables_fit_their_counts),  cmocka_unit_test(trellis_tables_fit_their_counts),
        cmocka_unit_test(trellis_saves_rate),       cmocka_unit_test(bd_rates),
        cmocka_unit_test(training_lowers_the_loss), cmocka_unit_test(interrupted_runs_end_alike),
        cmocka_unit_test(reshaped_models_compute_the_same),
        cmocka_unit_test(master_weights_come_back),
    };
    return cmocka_run_group_tests(tests, prepare, clear);
}
