/* gpu_step.c - a step of the hyper family's training as kernels and products on a device. Mirrors net.c,
 * hyper.c, muon.c and train.c's back_hyper and train_update; all patches of a step at once.
 * Activations and their gradients are bfloat16; float32 are latents, what comes out of a network, the
 * linear paths and every sum: where a step of quality 95 is a tenth, a latent of 50 does not fit into 8
 * bits. A layer that reads float32 multiplies in tf32. */
#include "gpu_impl.h"

/* ---- sums over all positions ---- */

/* Column sums of part [n][c], whose gradients lie at `at` in the store. */
static void sum_up(gpu *g, const float *part, int n, int c, size_t at)
{
    int k = 0;
    while (g->sum_at[k] != at) k++;
    LAUNCH(g, fold, FOLDS * c, .from = part, .to = g->folded + g->sum_column[k], .n = n, .c = c,
           .per = (n + FOLDS - 1) / FOLDS, .stride = g->n_sums);
}

/* Masks dy [n][c] where y is given; its column sums are the gradient at `at`. */
static void bias_back(gpu *g, array dy, array y, int n, int c, size_t at)
{
    const int chunks = (n + SUM_ROWS - 1) / SUM_ROWS;
    LAUNCH(g, mask_sum, chunks * (c / 4), .dy = dy, .y = y, .to = g->sums, .n = n, .c = c);
    sum_up(g, g->sums, chunks, c, at);
}

/* ---- layers ---- */

static array weights(const gpu *g, int f32, size_t at)
{
    return f32 ? (array){g->p + at, 1} : (array){(uint16_t *)g->low.p + at, 0};
}

static void cast(gpu *g, array y, array x, size_t n)
{
    LAUNCH(g, cast, n / 4, .x = x, .y = y);
}

static array none(void)
{
    return (array){0};
}

/* y [n][cout] = x w^T + b (+ res), ReLU. */
static void pointwise(gpu *g, const layer *l, array y, array x, array res, int n)
{
    const int narrow = x.f32 && !y.f32; /* tf32 gives float */
    product p = {.m = l->cout, .n = n, .k = l->cin, .ta = 1, .lda = l->cin, .ldb = l->cin,
                 .a = weights(g, x.f32, l->w), .b = x, .d = narrow ? g->scratch[1] : y, .add = res,
                 .relu = l->out_type == NSVQ_U8};
    p.bias = weights(g, p.d.f32, l->b);
    g->dev->multiply(g->dev, &p);
    if (narrow) cast(g, y, p.d, (size_t)n * (size_t)l->cout);
}

/* dx (or none) = dy w + add, gradients of w and b. dy is masked in place. */
static void pointwise_back(gpu *g, const layer *l, array dy, array y, array x, array dx, array add, int n)
{
    bias_back(g, dy, l->out_type == NSVQ_U8 ? y : none(), n, l->cout, l->b);
    array d = dy;
    if (dy.f32 != x.f32) {
        d = g->scratch[x.f32];
        cast(g, d, dy, (size_t)n * (size_t)l->cout);
    }
    g->dev->multiply(g->dev, &(product){.m = l->cin, .n = l->cout, .k = n, .tb = 1, .lda = l->cin,
                                        .ldb = l->cout, .a = x, .b = d, .d = {g->grad + l->w, 1}});
    if (dx.p)
        g->dev->multiply(g->dev, &(product){.m = l->cin, .n = n, .k = l->cout, .lda = l->cin,
                                            .ldb = l->cout, .a = weights(g, x.f32, l->w), .b = d,
                                            .d = dx, .add = add});
}

static void depthwise(gpu *g, const layer *l, array y, array x, const reg *of, int back, int add)
{
    const depthwise_args a = {.x = x, .y = y, .wt = weights(g, g->low.f32, l->w),
                              .b = back ? none() : weights(g, g->low.f32, l->b),
                              .h = of->h, .w = of->w, .c = of->c, .add = add};
    g->dev->launch(g->dev, l->k == 3 ? KERNEL_depthwise3 : KERNEL_depthwise5, &a,
                   (uint32_t)(g->batch * of->h * ((of->w + 3) / 4) * (of->c / 8)));
}

static void depthwise_back(gpu *g, const layer *l, const reg *y, const reg *x, int add)
{
    const int rows = g->batch * x->h;
    const depthwise_w_args a = {.dy = y->g, .x = x->v, .to = g->sums, .h = x->h, .w = x->w, .c = x->c};
    bias_back(g, y->g, y->v, rows * x->w, x->c, l->b);
    g->dev->launch(g->dev, l->k == 3 ? KERNEL_depthwise_w3 : KERNEL_depthwise_w5, &a,
                   (uint32_t)(rows * l->k * (x->c / 8)));
    sum_up(g, g->sums, rows, l->k * l->k * x->c, l->w);
    depthwise(g, l, x->g, y->g, x, 1, add);
}

static depth_args depth_of(const layer *l, const reg *flat, array f, array deep, int add)
{
    return (depth_args){.flat = f, .deep = deep, .w = flat->w, .c = flat->c, .k = l->k, .add = add};
}

static void net_run(gpu *g, int which)
{
    const network *n = &g->net[which];
    for (int i = 0; i < n->n_layers; i++) {
        const layer *l = &n->l[i];
        const reg *r = g->r[which], *x = &r[l->src], *y = &r[l->dst];
        switch ((nsvq_layer_kind)l->kind) {
        case NSVQ_LAYER_POINTWISE:
            pointwise(g, l, y->v, x->v, l->res == NSVQ_NO_REGISTER ? none() : r[l->res].v,
                      g->batch * x->h * x->w * l->rep);
            break;
        case NSVQ_LAYER_DEPTHWISE:
            depthwise(g, l, y->v, x->v, x, 0, 0);
            break;
        case NSVQ_LAYER_SPACE_TO_DEPTH: {
            const depth_args a = depth_of(l, x, x->v, y->v, 0);
            g->dev->launch(g->dev, KERNEL_to_depth, &a, (uint32_t)(gpu_count(g, x) / 8));
            break;
        }
        }
    }
}

/* As net_backward. A residual hands its gradient on as it is: plan_gradients has given both registers
 * the same memory. has_input: register 0's gradient holds a sum already. */
static void net_run_back(gpu *g, int which, int want_input, int has_input)
{
    const network *n = &g->net[which];
    uint8_t has[NSVQ_MAX_REGISTERS] = {0}, needs[NSVQ_MAX_REGISTERS] = {0};
    has[0] = (uint8_t)has_input;
    needs[0] = (uint8_t)want_input;
    for (int i = 0; i < n->n_layers; i++)
        needs[n->l[i].dst] = n->l[i].kind != NSVQ_LAYER_SPACE_TO_DEPTH || needs[n->l[i].src];
    for (int i = n->n_layers - 1; i >= 0; i--) {
        const layer *l = &n->l[i];
        const reg *r = g->r[which], *x = &r[l->src], *y = &r[l->dst];
        const int add = has[l->src], skip = !needs[l->src];
        switch ((nsvq_layer_kind)l->kind) {
        case NSVQ_LAYER_POINTWISE:
            pointwise_back(g, l, y->g, y->v, x->v, skip ? none() : x->g,
                           add ? x->g : l->src == l->res ? y->g : none(), g->batch * x->h * x->w * l->rep);
            break;
        case NSVQ_LAYER_DEPTHWISE:
            depthwise_back(g, l, y, x, add);
            break;
        case NSVQ_LAYER_SPACE_TO_DEPTH:
            if (!skip) {
                const depth_args a = depth_of(l, x, x->g, y->g, add);
                g->dev->launch(g->dev, KERNEL_from_depth, &a, (uint32_t)(gpu_count(g, x) / 8));
            }
            break;
        }
        has[l->src] = 1;
        if (l->res != NSVQ_NO_REGISTER) has[l->res] = 1;
    }
}

/* ---- a step ---- */

static void quantise(gpu *g)
{
    const latent_args *q = &g->lat;
    const int rows_z = g->batch * q->n_z;
    LAUNCH(g, steps, g->batch * (q->latent + q->z), .p = g->drawn, .gain = g->p + g->gain,
           .z_gain = g->p + g->z_gain, .log_step = (float *)q->log_step,
           .z_log_step = (float *)q->z_log_step, .latent = q->latent, .z = q->z);
    net_run(g, NET_HA);
    g->dev->launch(g->dev, KERNEL_quantise_z, q, (uint32_t)(rows_z * (q->z + NSVQ_N_EXTRA)));
    net_run(g, NET_HS);
    for (int k = 0; k < NSVQ_N_PASSES; k++) {
        const code_pass *s = &g->pass[k];
        const int rows = g->batch * s->has;
        latent_args a = *q;
        a.first = s->first;
        a.has = s->has;
        a.before = s->before;
        a.mean = k ? s->mean : NULL;
        if (!rows) continue;
        if (k) {
            const array ctx = {a.ctx + (size_t)a.first * (size_t)g->mean[k].cin, 1};
            g->dev->launch(g->dev, KERNEL_context, &a, (uint32_t)(rows * (a.latent + 1)));
            pointwise(g, &g->mean[k], (array){s->mean, 1}, ctx, none(), rows);
        }
        g->dev->launch(g->dev, KERNEL_quantise_y, &a, (uint32_t)(rows * a.latent));
    }
    g->dev->launch(g->dev, KERNEL_rates_z, q, (uint32_t)(rows_z * (q->z / 4)));
    g->dev->launch(g->dev, KERNEL_rates_y, q, (uint32_t)(g->batch * q->n * (q->latent / 4)));
}

static void quantise_back(gpu *g)
{
    const latent_args *q = &g->lat;
    const int L = q->latent, chunks = q->n / SUM_ROWS;
    g->dev->launch(g->dev, KERNEL_back_y, q, (uint32_t)(g->batch * chunks * L));
    LAUNCH(g, fold, g->batch * L, .from = q->gain_part, .to = g->gain_sum, .n = g->batch * chunks, .c = L,
           .per = chunks, .stride = L);
    LAUNCH(g, gain_grad, NSVQ_N_GAINS * L, .p = g->drawn, .from = g->gain_sum, .to = g->grad + g->gain,
           .batch = g->batch, .c = L);
    for (int k = 1; k < NSVQ_N_PASSES; k++) {
        const code_pass *s = &g->pass[k];
        const array ctx = {q->ctx + (size_t)s->first * (size_t)g->mean[k].cin, 1};
        const array dy = {q->g_mu + (size_t)s->first * (size_t)L, 1};
        if (s->has) pointwise_back(g, &g->mean[k], dy, none(), ctx, none(), none(), g->batch * s->has);
    }
    net_run_back(g, NET_HS, 1, 0);
    g->dev->launch(g->dev, KERNEL_back_z, q, (uint32_t)(g->batch * q->z));
    LAUNCH(g, gain_grad, NSVQ_N_GAINS * q->z, .p = g->drawn, .from = q->z_gain_part,
           .to = g->grad + g->z_gain, .batch = g->batch, .c = q->z);
    sum_up(g, q->z_mean_part, g->batch, q->z, g->z_mean);
    sum_up(g, q->z_scale_part, g->batch, q->z, g->z_scale);
    net_run_back(g, NET_HA, 1, 1); /* into the gradient of y */
}

static void loss(gpu *g)
{
    const reg *o = &g->r[NET_SYNTHESIS][g->net[NET_SYNTHESIS].output], *x = &g->r[NET_ANALYSIS][g->squares];
    const int n = 3 * g->size * g->size, B = g->batch;
    const error_args e = {.p = g->drawn, .x = x->v, .o = o->v, .g = o->g, .to = g->error_part, .batch = B,
                          .n = n};
    g->dev->launch(g->dev, KERNEL_error, &e, (uint32_t)(B * g->n_errors));
    LAUNCH(g, fold, FOLDS * B, .from = g->error_part, .to = g->error_sum, .n = g->n_errors, .c = B,
           .per = (g->n_errors + FOLDS - 1) / FOLDS, .stride = B);
    LAUNCH(g, fold, FOLDS * B, .from = g->bits_part, .to = g->bits_sum, .n = g->n_bits, .c = B,
           .per = (g->n_bits + FOLDS - 1) / FOLDS, .stride = B);
    const balance by = hyper_balance(NSVQ_Z_STRIDE / g->lat.per);
    LAUNCH(g, weigh, B, .p = g->drawn, .bits = g->bits_sum, .errors = g->error_sum, .batch = B, .n = n,
           .coarse = by.coarse, .least = by.least);
    LAUNCH(g, tally, 1, .p = g->drawn, .s = g->s, .batch = B);
    g->dev->launch(g->dev, KERNEL_error_back, &e, (uint32_t)(B * (n / 4)));
}

/* d = b a, of all squares. Squares of a size lie behind one another. */
static void multiply_squares(gpu *g, float *d, const float *b, const float *a)
{
    for (int i = 0; i < g->n_sides; i++) {
        const muon_group *s = &g->side[i];
        const int r = s->rows;
        const size_t at = s->square, apart = gpu_whole(r, r);
        g->dev->multiply(g->dev, &(product){.m = r, .n = r, .k = r, .lda = r, .ldb = r,
                                            .a = {(float *)a + at, 1}, .b = {(float *)b + at, 1},
                                            .d = {d + at, 1}, .full = 1, .batch = s->n,
                                            .apart = {apart, apart, apart}});
    }
}

/* Gram matrices of x, or, `of` given, x times these matrices: on the shorter side of x. */
static void multiply_matrices(gpu *g, float *d, const float *of)
{
    for (int i = 0; i < g->n_shapes; i++) {
        const muon_group *s = &g->shape[i];
        const int rows = s->rows, cols = s->cols, wide = rows < cols, r = wide ? rows : cols;
        const size_t each = gpu_whole(rows, cols), square = gpu_whole(r, r);
        const array x = {g->ahead + s->x, 1}, q = {(float *)of + (of ? s->square : 0), 1};
        product p = {.m = r, .n = r, .k = wide ? cols : rows, .ta = wide, .tb = !wide, .lda = cols, .ldb = cols,
                     .a = x, .b = x, .d = {d + s->square, 1}, .batch = s->n, .apart = {each, each, square}};
        if (of)
            p = (product){.m = cols, .n = rows, .k = r, .lda = cols, .ldb = r, .a = wide ? x : q, .b = wide ? q : x,
                          .d = {d + s->x, 1}, .batch = s->n,
                          .apart = {wide ? each : square, wide ? square : each, each}};
        g->dev->multiply(g->dev, &p);
    }
}

/* As muon.c, the root of the trace left to `move`.
 * Products with a matrix itself may be tf32: a Gram matrix of rounded values is one of another matrix very
 * near, and steps turn by less than 3 degrees even where singular values fall by the cube. The polynomials are
 * full float32, within 4e-4 of double: where small eigenvalues come out negative they grow twelvefold a round,
 * and with tf32 steps of such matrices were twice as long and 50 degrees off.
 * hyper16 has 38 matrices of 19 shapes with 7 shorter sides: 157 products and 8 kernels, 11 GFLOP, 9 of them in
 * full float32. At 3 us a launch and 20 TFLOP/s that is 0.9 ms; the rest of a step at batch 64, 212 GFLOP of
 * layers and some 8 GB of activations moved, should take an H100 4 to 8. Estimates: not yet measured. */
static void muon(gpu *g)
{
    float *s = g->square[0], *t = g->square[1], *u = g->square[2], *q = g->square[3];
    LAUNCH(g, muon_ahead, g->n, .s = g->s, .parts = g->parts, .part_of = g->part_of, .g = g->grad,
           .scale = g->scale, .m = g->m, .x = g->ahead);
    multiply_matrices(g, s, NULL);
    LAUNCH(g, muon_trace, g->n_matrices, .of = g->square_at, .s = s, .to = g->trace);
    LAUNCH(g, muon_scale, g->n_squares, .square_of = g->square_of, .trace = g->trace, .s = s);
    for (int k = 0; k < MUON_ROUNDS; k++) {
        float *of = t;
        multiply_squares(g, t, s, s);
        LAUNCH(g, muon_sum, g->n_squares, .of = g->square_at, .square_of = g->square_of, .s = s, .t = t);
        if (k + 1 < MUON_ROUNDS) {
            multiply_squares(g, u, s, t);
            multiply_squares(g, s, u, t);
        }
        if (k) { /* before the first q is one */
            multiply_squares(g, u, q, t);
            of = u;
            u = q;
        } else {
            t = q;
        }
        q = of;
    }
    multiply_matrices(g, g->moved, q);
}

static void update(gpu *g)
{
    LAUNCH(g, collect, g->n_sums, .from = g->folded, .to = g->grad, .place = g->sum_place, .n = g->n_sums);
    for (int k = 0; k < 3; k++)
        LAUNCH(g, sum_span, g->n_spans[k], .from = k ? g->span_sum[k - 1] : g->grad, .of = g->span[k],
               .to = g->span_sum[k], .whole = k == 2 ? g->s : NULL, .squares = !k);
    LAUNCH(g, advance, 1, .s = g->s);
    LAUNCH(g, clip_norm, g->n_segments, .s = g->s, .squares = g->span_sum[2], .running = g->running,
           .scale = g->scale);
    muon(g);
    LAUNCH(g, move, g->n, .s = g->s, .in = g->in, .parts = g->parts, .part_of = g->part_of, .g = g->grad,
           .scale = g->scale, .x = g->moved, .trace = g->trace, .p = g->p, .m = g->m, .v = g->v,
           .mean = g->average, .low = g->low.f32 ? none() : g->low);
}

static void step(gpu *g)
{
    LAUNCH(g, draw, g->batch, .src = g->src, .cls = g->cls, .in = g->in, .to = g->drawn,
           .n_classes = g->n_cls, .size = g->size, .vivid = g->vivid, .low = g->from, .high = g->to);
    LAUNCH(g, cut_pixels, g->batch * g->size * g->size, .p = g->drawn, .to = g->r[NET_ANALYSIS][0].v,
           .size = g->size);
    net_run(g, NET_ANALYSIS);
    quantise(g);
    net_run(g, NET_SYNTHESIS);
    loss(g);
    net_run_back(g, NET_SYNTHESIS, 1, 0);
    quantise_back(g);
    net_run_back(g, NET_ANALYSIS, 0, 0);
    update(g);
}

/* The first runs as it is, so that all code is loaded when the second is recorded. */
void gpu_step(gpu *g, uint64_t seed, float lr)
{
    const orders o = {.seed = seed, .lr = lr};
    g->dev->put(g->dev, g->in, &o, sizeof o);
    if (g->steps == 1) {
        g->dev->record(g->dev, 1);
        step(g);
        g->dev->record(g->dev, 0);
    }
    if (g->steps)
        g->dev->replay(g->dev);
    else
        step(g);
    g->steps++;
}

const char *gpu_kernel(int kernel)
{
    static const char *const names[KERNEL_N + 1] = {
#define X(name) #name,
        KERNELS(X)
#undef X
        "multiply"};
    return kernel <= KERNEL_N ? names[kernel] : NULL;
}

int gpu_watch(gpu *g, double *ms)
{
    double spent[KERNEL_N + 1] = {0};
    g->dev->watch(g->dev, spent);
    step(g);
    g->dev->watch(g->dev, NULL);
    for (int i = 0; i <= KERNEL_N; i++) ms[i] = 1e3 * spent[i];
    return KERNEL_N + 1;
}
