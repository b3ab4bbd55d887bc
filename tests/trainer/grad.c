/* grad.c - every backward pass against finite differences of the plain operators of reference.c, and
 * every forward pass against their values. */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "gemm.h"
#include "random.h"
#include "reference.h"
#include "support.h"

#define TOLERANCE 5e-5 /* of the rms of all that is compared: float sums against double ones */

static float *normals(size_t n, float std, uint64_t *rng)
{
    float *p = malloc((n ? n : 1) * sizeof *p);
    if (!p) abort();
    *rng = ref_fill(p, n, std, *rng);
    return p;
}

static void same_values(const char *what, const float *got, const double *want, size_t n)
{
    double rms = 0;
    for (size_t i = 0; i < n; i++) rms += want[i] * want[i] / (double)n;
    rms = sqrt(rms);
    for (size_t i = 0; i < n; i++)
        if (!(fabs(got[i] - want[i]) <= TOLERANCE * rms))
            fail_msg("%s[%zu]: %.7g, reference: %.7g", what, i, got[i], want[i]);
}

/* At most some 250 differences. what: "case: array". */
static void check_gradient(const char *what, const char *array, double *p, size_t n,
                           const float *grown, const float *before, ref_loss *f, void *user)
{
    ref_check c = {.p = p, .n = n, .every = 1 + n / 250, .step = 0.5, .tolerance = TOLERANCE,
                   .grown = grown, .before = before};
    snprintf(c.what, sizeof c.what, "%s: %s", what, array);
    ref_differences(&c, f, user);
}

/* ---- products ---- */

/* Our own product, which stands in where oneDNN is missing, for all its borders. */
static void own_products(void **state)
{
    const int sides[] = {1, 5, 6, 31, 33, 70}, depths[] = {1, 17, 384, 800};
    uint64_t rng = 3;
    float *a = normals(70 * 800, 1.f, &rng), *b = normals(70 * 800, 1.f, &rng), *c = malloc(70 * 70 * sizeof *c);
    double *want = malloc(70 * 70 * sizeof *want);
    assert_true(c && want);
    for (int at = 0; at < 6 * 6 * 4 * 4; at++) {
        const int m = sides[at % 6], n = sides[at / 6 % 6], k = depths[at / 36 % 4], ta = at / 144 % 2, tb = at / 288;
        const int lda = ta ? m : k, ldb = tb ? k : n;
        for (int i = 0; i < m; i++)
            for (int j = 0; j < n; j++) {
                double sum = 0;
                for (int l = 0; l < k; l++)
                    sum += (double)a[ta ? l * lda + i : i * lda + l] * b[tb ? j * ldb + l : l * ldb + j];
                c[i * n + j] = 2.f;
                want[i * n + j] = (at & 1 ? 2. * 0.75 : 0.) + 0.5 * sum;
            }
        if (!(at & 1)) c[0] = NAN; /* not read */
        gemm_plain(ta ? 'T' : 'N', tb ? 'T' : 'N', m, n, k, 0.5f, a, lda, b, ldb, at & 1 ? 0.75f : 0.f, c, n);
        for (int i = 0; i < m * n; i++)
            if (!(fabs(c[i] - want[i]) < 1e-4 * sqrt(k)))
                fail_msg("%d x %d x %d, %d %d: [%d] %g, not %g", m, n, k, ta, tb, i, (double)c[i], want[i]);
    }
    free(a); free(b); free(c); free(want);
}

/* ---- operators ---- */

enum { RES = 1, RELU = 2, IN_PLACE = 4 /* y = res */, ADD = 8 /* to dx */, NO_INPUT = 16 };

typedef struct op_case { int kind, h, w, cin, cout, k, flags; } op_case;

typedef struct op_run {
    op_case c;
    char    name[64];
    size_t  nx, ny, nw, nb;
    float  *x, *res, *wt, *b, *y, *dy;
    double *rx, *rres, *rwt, *rb, *ry;
} op_run;

static void op_reference(op_run *r)
{
    const op_case *c = &r->c;
    switch ((nsvq_layer_kind)c->kind) {
    case NSVQ_LAYER_POINTWISE:
        ref_pointwise(r->ry, r->rx, r->rres, r->rwt, r->rb, c->h * c->w, c->cin, c->cout);
        break;
    case NSVQ_LAYER_DEPTHWISE:
        ref_depthwise(r->ry, r->rx, r->rwt, r->rb, c->h, c->w, c->cin, c->k);
        break;
    case NSVQ_LAYER_SPACE_TO_DEPTH:
        ref_space_to_depth(r->ry, r->rx, c->h, c->w, c->cin, c->k);
        break;
    }
}

static double op_loss(void *user)
{
    op_run *r = user;
    op_reference(r);
    return ref_dot(r->dy, r->ry, r->ny); /* dy has been gated by the backward pass */
}

static void op_make(op_run *r, const op_case *c)
{
    static const char *const kind[] = {"", "pointwise", "depthwise", "space to depth"};
    uint64_t rng = (uint64_t)(c->h * 1000 + c->w * 100 + c->cin + c->flags);
    *r = (op_run){.c = *c, .nb = (size_t)c->cout, .nx = (size_t)c->h * c->w * c->cin,
                  .ny = (size_t)c->h * c->w * c->cout};
    r->nw = (size_t)c->cin * c->cout;
    if (c->kind == NSVQ_LAYER_DEPTHWISE) r->nw = (size_t)c->k * c->k * c->cin;
    if (c->kind == NSVQ_LAYER_SPACE_TO_DEPTH) r->nw = r->nb = 0, r->ny = r->nx;
    snprintf(r->name, sizeof r->name, "%s %d x %d, %d to %d, k=%d flags=%d", kind[c->kind], c->w,
             c->h, c->cin, c->cout, c->k, c->flags);
    r->x = normals(r->nx, 1.f, &rng);
    r->res = normals(r->ny, 1.f, &rng);
    r->wt = normals(r->nw, 0.5f, &rng);
    r->b = normals(r->nb, 0.5f, &rng);
    r->y = normals(r->ny, 9.f, &rng);
    r->dy = normals(r->ny, 1.f, &rng);
    r->rx = ref_doubles(r->x, r->nx);
    r->rres = c->flags & RES ? ref_doubles(r->res, r->ny) : NULL;
    r->rwt = ref_doubles(r->wt, r->nw);
    r->rb = ref_doubles(r->b, r->nb);
    r->ry = ref_doubles(NULL, r->ny);
}

static void op_free(op_run *r)
{
    free(r->x); free(r->res); free(r->wt); free(r->b); free(r->y); free(r->dy);
    free(r->rx); free(r->rres); free(r->rwt); free(r->rb); free(r->ry);
}

static void op_forward(op_run *r)
{
    const op_case *c = &r->c;
    switch ((nsvq_layer_kind)c->kind) {
    case NSVQ_LAYER_POINTWISE:
        if (c->flags & IN_PLACE) memcpy(r->y, r->res, r->ny * sizeof *r->y);
        op_pointwise(r->y, r->x, !(c->flags & RES) ? NULL : c->flags & IN_PLACE ? r->y : r->res,
                     r->wt, r->b, c->h * c->w, c->cin, c->cout, c->flags & RELU);
        break;
    case NSVQ_LAYER_DEPTHWISE:
        op_depthwise(r->y, r->x, r->wt, r->b, c->h, c->w, c->cin, c->k);
        break;
    case NSVQ_LAYER_SPACE_TO_DEPTH:
        op_space_to_depth(r->y, r->x, c->h, c->w, c->cin, c->k);
        break;
    }
    op_reference(r);
    for (size_t i = 0; c->flags & RELU && i < r->ny; i++) r->ry[i] = r->ry[i] > 0 ? r->ry[i] : 0;
    same_values(r->name, r->y, r->ry, r->ny);
}

static void op_backward(op_run *r, float *dx, float *dw, float *db)
{
    const op_case *c = &r->c;
    float *to = c->flags & NO_INPUT ? NULL : dx;
    const int add = (c->flags & ADD) != 0;
    switch ((nsvq_layer_kind)c->kind) {
    case NSVQ_LAYER_POINTWISE:
        op_pointwise_back(r->dy, r->y, r->x, r->wt, to, add, dw, db, c->h * c->w, c->cin, c->cout,
                          c->flags & RELU);
        break;
    case NSVQ_LAYER_DEPTHWISE:
        op_depthwise_back(r->dy, r->y, r->x, r->wt, to, add, dw, db, c->h, c->w, c->cin, c->k);
        break;
    case NSVQ_LAYER_SPACE_TO_DEPTH:
        op_space_to_depth_back(r->dy, dx, add, c->h, c->w, c->cin, c->k);
        break;
    }
}

static void check_op(const op_case *c)
{
    op_run r;
    op_make(&r, c);
    op_forward(&r);
    uint64_t rng = 77;
    float *dx = normals(r.nx, 1.f, &rng), *dw = normals(r.nw, 1.f, &rng);
    float *db = normals(r.nb, 1.f, &rng), *want_dy = normals(r.ny, 0.f, &rng);
    rng = 77;
    float *dx0 = normals(r.nx, 1.f, &rng), *dw0 = normals(r.nw, 1.f, &rng);
    float *db0 = normals(r.nb, 1.f, &rng);
    for (size_t i = 0; i < r.ny; i++)
        want_dy[i] = c->flags & RELU && !(r.y[i] > 0.f) ? 0.f : r.dy[i];

    op_backward(&r, dx, dw, db);
    /* dy, gated in place, is also the gradient of the residual. */
    for (size_t i = 0; i < r.ny; i++)
        if (r.dy[i] != want_dy[i]) fail_msg("%s: dy[%zu] is not gated", r.name, i);
    if (c->flags & RES) check_gradient(r.name, "res", r.rres, r.ny, r.dy, NULL, op_loss, &r);
    if (c->flags & NO_INPUT)
        assert_memory_equal(dx, dx0, r.nx * sizeof *dx);
    else
        check_gradient(r.name, "x", r.rx, r.nx, dx, c->flags & ADD ? dx0 : NULL, op_loss, &r);
    if (r.nw) {
        check_gradient(r.name, "w", r.rwt, r.nw, dw, dw0, op_loss, &r);
        check_gradient(r.name, "b", r.rb, r.nb, db, db0, op_loss, &r);
    }
    free(dx); free(dw); free(db); free(want_dy); free(dx0); free(dw0); free(db0);
    op_free(&r);
}

static void pointwise_gradients(void **state)
{
    static const int shape[][4] = {{1, 1, 1, 1},   {1, 1, 388, 64}, {3, 11, 5, 7},
                                   {4, 4, 48, 16}, {2, 16, 33, 48}, {5, 1, 16, 3}};
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int flags = 0; flags < 32; flags++) {
            if (flags & IN_PLACE && !(flags & RES)) continue;
            if (flags & NO_INPUT && flags & ADD) continue;
            if (shape[i][0] * shape[i][1] * shape[i][2] < 4 && flags & RELU) continue; /* all shut? */
            const op_case c = {NSVQ_LAYER_POINTWISE, shape[i][0], shape[i][1], shape[i][2],
                               shape[i][3], 1, flags};
            check_op(&c);
        }
}

/* Pictures smaller than the kernel, as large, larger; widths around the four outputs done at once. */
static void depthwise_gradients(void **state)
{
    static const int size[][2] = {{1, 1}, {1, 2}, {2, 1}, {2, 3}, {3, 3}, {4, 4},
                                  {5, 5}, {6, 4}, {3, 7}, {7, 9}, {4, 13}};
    static const int flags[] = {RELU, RELU | ADD, RELU | NO_INPUT};
    for (int k = 3; k <= 5; k += 2)
        for (size_t i = 0; i < sizeof size / sizeof *size; i++)
            for (int f = 0; f < 3; f++) {
                const int c = i % 2 ? 32 : 16;
                check_op(&(op_case){NSVQ_LAYER_DEPTHWISE, size[i][0], size[i][1], c, c, k, flags[f]});
            }
}

static void space_to_depth_gradients(void **state)
{
    for (int k = 2; k <= 4; k += 2)
        for (int add = 0; add <= ADD; add += ADD) {
            check_op(&(op_case){NSVQ_LAYER_SPACE_TO_DEPTH, k, k, 1, k * k, k, add});
            check_op(&(op_case){NSVQ_LAYER_SPACE_TO_DEPTH, 2 * k, 3 * k, 5, 5 * k * k, k, add});
        }
}

/* ---- networks ---- */

typedef struct net_run {
    const network *n;
    workspace      ws;
    double        *p, *r[NSVQ_MAX_REGISTERS];
    float         *dy;
    size_t         n_out;
} net_run;

static size_t count_of(const tensor *t)
{
    return (size_t)t->h * (size_t)t->w * (size_t)t->c;
}

static double net_loss(void *user)
{
    net_run *r = user;
    ref_network(r->n, r->p, r->r, &r->ws);
    return ref_dot(r->dy, r->r[r->n->output], r->n_out);
}

static void net_open(net_run *r, const network *n, const store *s, int h, int w)
{
    uint64_t rng = 5;
    *r = (net_run){.n = n, .p = ref_doubles(s->p, s->n)};
    workspace_shape(&r->ws, n, h, w);
    ref_fill(r->ws.r[0].v, count_of(&r->ws.r[0]), 1.f, 9);
    for (int i = 0; i <= n->n_layers; i++)
        r->r[i] = ref_doubles(i ? NULL : r->ws.r[0].v, count_of(&r->ws.r[i]));
    r->n_out = count_of(&r->ws.r[n->output]);
    r->dy = normals(r->n_out, 1.f, &rng);
}

static void net_close(net_run *r)
{
    for (int i = 0; i <= r->n->n_layers; i++) free(r->r[i]);
    workspace_free(&r->ws);
    free(r->p);
    free(r->dy);
}

static void net_back(net_run *r, const store *s, float *g, int want_input)
{
    /* Nothing left over from an earlier run may count. */
    for (int i = 0; i <= r->n->n_layers; i++)
        for (size_t j = 0; j < count_of(&r->ws.r[i]); j++) r->ws.r[i].g[j] = 1e6f;
    memcpy(r->ws.r[r->n->output].g, r->dy, r->n_out * sizeof *r->dy);
    net_backward(r->n, s->p, g, &r->ws, want_input);
}

static void check_net(const char *name, const network *n, const store *s, int h, int w)
{
    net_run r;
    net_open(&r, n, s, h, w);
    net_forward(n, s->p, &r.ws);
    ref_network(n, r.p, r.r, &r.ws);
    for (int i = 1; i <= n->n_layers; i++)
        same_values(name, r.ws.r[i].v, r.r[i], count_of(&r.ws.r[i]));

    uint64_t rng = 31;
    float *before = normals(s->n, 1.f, &rng), *g = normals(s->n, 0.f, &rng);
    memcpy(g, before, s->n * sizeof *g);
    net_back(&r, s, g, 1);
    for (int i = 0; i < n->n_layers; i++) {
        const layer *l = &n->l[i];
        const size_t taps = (size_t)(l->kind == NSVQ_LAYER_DEPTHWISE ? l->k * l->k : l->cin);
        char what[64];
        if (l->kind == NSVQ_LAYER_SPACE_TO_DEPTH) continue;
        snprintf(what, sizeof what, "%s %d x %d, layer %d", name, w, h, i);
        check_gradient(what, "w", r.p + l->w, taps * (size_t)l->cout, g + l->w, before + l->w,
                       net_loss, &r);
        check_gradient(what, "b", r.p + l->b, (size_t)l->cout, g + l->b, before + l->b, net_loss, &r);
    }
    check_gradient(name, "input", r.r[0], count_of(&r.ws.r[0]), r.ws.r[0].g, NULL, net_loss, &r);

    float *without = normals(s->n, 0.f, &rng);
    memcpy(without, before, s->n * sizeof *g);
    net_back(&r, s, without, 0);
    assert_memory_equal(without, g, s->n * sizeof *g);
    free(before); free(g); free(without);
    net_close(&r);
}

/* Linear path beside the deep one, register 0 read by both, residual sums, factors 4 and 2. */
static void analysis_gradients(void **state)
{
    model m;
    model_random(&m, &tiny_preset, 3);
    check_net("analysis", &m.ana, &m.st, 4, 4); /* one latent: all borders */
    check_net("analysis", &m.ana, &m.st, 8, 12);
    model_free(&m);
}

/* Sub-positions, a residual that is the layer's own input, the linear path as the last residual. */
static void synthesis_gradients(void **state)
{
    model m;
    model_random(&m, &tiny_preset, 4);
    check_net("synthesis", &m.syn, &m.st, 1, 1);
    check_net("synthesis", &m.syn, &m.st, 2, 3);
    model_free(&m);
}

/* A register that is read three times and is a residual twice, before and after its last reader. */
static void shared_registers(void **state)
{
    network n = {0};
    store s = {0};
    n.channels[0] = 16;
    const int a = net_pointwise(&n, &s, 0, -1, 16, NSVQ_S16, NSVQ_S16);
    const int b = net_depthwise(&n, &s, a, 5);
    const int c = net_pointwise(&n, &s, b, a, 16, NSVQ_U8, NSVQ_S16);
    const int d = net_depthwise(&n, &s, c, 3);
    const int e = net_pointwise(&n, &s, a, c, 16, NSVQ_S16, NSVQ_S16);
    const int f = net_pointwise_rep(&n, &s, d, a, 4, 4, NSVQ_U8, NSVQ_U8);
    const int g = net_pointwise(&n, &s, e, 0, 16, NSVQ_S16, NSVQ_S16);
    net_pointwise(&n, &s, f, g, 16, NSVQ_U8, NSVQ_S16);
    store_alloc(&s);
    ref_fill(s.p, s.n, 0.3f, 8);
    check_net("shared", &n, &s, 5, 6);
    free(s.p);
}

/* ---- prior ---- */

typedef struct prior_run {
    const vq *q;
    vq_patch *p;
    double   *w, *ctx, *word, *y;
    double    lambda, weight, cell_bits;
} prior_run;

/* weight * (bits of the cells + |y - mu|^2 / (2 lambda)), choices and contexts as they are. */
static double prior_loss(void *user)
{
    prior_run *r = user;
    const vq *q = r->q;
    const int L = q->latent, D = q->dim, H = q->hidden;
    double mean[64], hid[64], mu[16], logit[16], squares = 0;
    assert_true(L <= 64 && H <= 64 && D <= 16 && q->cells <= 16);
    r->cell_bits = 0;
    for (int pass = 0; pass < NSVQ_N_PASSES; pass++)
        for (int i = r->p->pass_at[pass]; i < r->p->pass_at[pass + 1]; i++) {
            ref_position(q, r->w, pass, r->ctx + (size_t)i * (size_t)q->context, mean, hid);
            for (int s = 0; s < q->slices; s++) {
                ref_slice(q, r->w, s, hid, r->word + (size_t)(i * L), mean + s * D,
                          r->p->h[s] + i * H, logit, mu);
                r->cell_bits += ref_bits(logit, q->cells, r->p->choice[s][i] / NSVQ_CELL);
                for (int c = 0; c < D; c++) {
                    const double e = r->y[i * L + s * D + c] - mu[c];
                    squares += e * e;
                }
            }
        }
    return r->weight * (r->cell_bits + squares / (2 * r->lambda));
}

static void check_prior_layer(prior_run *r, const char *name, int number, const layer *l,
                              const float *g, const float *before)
{
    const size_t n = (size_t)l->cin * (size_t)l->cout;
    ref_check c = {.p = r->w + l->w, .n = n, .every = 1 + n / 60, .step = 1e-4,
                   .tolerance = TOLERANCE, .grown = g + l->w, .before = before + l->w};
    snprintf(c.what, sizeof c.what, "%s %d: w", name, number);
    ref_differences(&c, prior_loss, r);
    c.p = r->w + l->b;
    c.n = (size_t)l->cout;
    c.every = 1;
    c.grown = g + l->b;
    c.before = before + l->b;
    snprintf(c.what, sizeof c.what, "%s %d: b", name, number);
    ref_differences(&c, prior_loss, r);
}

static void prior_gradients(void **state)
{
    enum { W = 7, H = 6 };
    static const preset six = {"six", NSVQ_FAMILY_VQ, 16, 48, 16, 1, 16, 1, 16, 1, 16, 1, 16, 1,
                               6, 8, 192, 16, 0, 0, 0};
    const float quality = 35.f, weight = 0.7f;
    model m;
    vq_patch p = {0};
    uint64_t rng = 2;
    model_random(&m, &six, 6);
    const vq *q = &m.q;
    const size_t L = (size_t)q->latent;
    float *y = normals(W * H * L, 0.8f, &rng), *y_hat = normals(W * H * L, 9.f, &rng);
    float *before = normals(m.st.n, 0.5f, &rng), *g = normals(m.st.n, 0.f, &rng);
    vq_sums *sums = vq_sums_new(q);
    const double bits = vq_quantise(q, m.st.p, &p, y, W, H, quality, y_hat, sums);
    memcpy(g, before, m.st.n * sizeof *g);
    vq_backward(q, m.st.p, g, &p, quality, weight);

    prior_run r = {.q = q, .p = &p, .w = ref_doubles(m.st.p, m.st.n),
                   .ctx = ref_doubles(p.ctx, (size_t)p.n * (size_t)q->context),
                   .word = ref_doubles(p.word, (size_t)p.n * L),
                   .y = ref_doubles(p.y, (size_t)p.n * L),
                   .lambda = vq_lambda(q, quality), .weight = weight};
    for (int i = 0; i < NSVQ_N_PASSES; i++) {
        check_prior_layer(&r, "mean", i, &q->mean[i], g, before);
        check_prior_layer(&r, "ctx", i, &q->ctx[i], g, before);
    }
    for (int s = 0; s < q->slices; s++) {
        if (s) check_prior_layer(&r, "prev", s, &q->prev[s], g, before);
        check_prior_layer(&r, "logit", s, &q->logit[s], g, before);
        check_prior_layer(&r, "shiftm", s, &q->shiftm[s], g, before);
    }
    /* What is differentiated is what the quantiser counts. */
    prior_loss(&r);
    assert_true(fabs(sums->cell_bits - r.cell_bits) < 1e-5 * r.cell_bits);
    double members = 0;
    for (int s = 0; s < q->slices; s++)
        for (int i = 0; i < p.n; i++) members += q->member_bits[s * q->codes + p.choice[s][i]];
    assert_true(fabs(bits - r.cell_bits - members) < 1e-5 * bits);
    assert_true(sums->bits == bits && sums->n_latents == W * H);
    /* Only the prior's layers have got a gradient. */
    const size_t nets = q->mean[0].w;
    assert_memory_equal(g, before, nets * sizeof *g);

    free(r.w); free(r.ctx); free(r.word); free(r.y);
    free(sums->n); free(sums->sum); free(sums->spare); free(sums);
    free(y); free(y_hat); free(before); free(g);
    vq_patch_free(&p);
    model_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(own_products),
        cmocka_unit_test(pointwise_gradients),      cmocka_unit_test(depthwise_gradients),
        cmocka_unit_test(space_to_depth_gradients), cmocka_unit_test(analysis_gradients),
        cmocka_unit_test(synthesis_gradients),      cmocka_unit_test(shared_registers),
        cmocka_unit_test(prior_gradients),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
