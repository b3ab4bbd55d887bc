/* gpu.c - where everything of a step lies on the device, what comes back, the device itself. */
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gpu_impl.h"
#include "order.h"

/* ---- memory ---- */

static void *reserve(gpu *g, size_t bytes)
{
    return g->dev->alloc(g->dev, bytes, MEMORY_RAW);
}

static float *floats(gpu *g, size_t n)
{
    return g->dev->alloc(g->dev, n * sizeof(float), MEMORY_F32);
}

static array values(gpu *g, size_t n, int f32)
{
    const int wide = f32 || g->dev->exact;
    return wide ? (array){floats(g, n), 1} : (array){g->dev->alloc(g->dev, n * 2, MEMORY_BF16), 0};
}

static void *upload(gpu *g, const void *from, size_t bytes)
{
    void *p = reserve(g, bytes);
    if (p) g->dev->put(g->dev, p, from, bytes);
    return p;
}

static float *upload_floats(gpu *g, const float *from, size_t n)
{
    float *p = floats(g, n);
    if (p) g->dev->put(g->dev, p, from, n * sizeof *p);
    return p;
}

/* ---- sums over all positions ---- */

static void plan_sum(gpu *g, size_t at, int n)
{
    g->sum_at[g->n_sum] = at;
    g->sum_column[g->n_sum++] = g->n_sums;
    g->n_sums += n;
}

static int plan_sums(gpu *g, const hyper *h)
{
    for (int k = 0; k < N_NETS; k++)
        for (int i = 0; i < g->net[k].n_layers; i++) {
            const layer *l = &g->net[k].l[i];
            if (l->kind == NSVQ_LAYER_SPACE_TO_DEPTH) continue;
            plan_sum(g, l->b, l->cout);
            if (l->kind == NSVQ_LAYER_DEPTHWISE) plan_sum(g, l->w, l->k * l->k * l->cin);
        }
    for (int i = 1; i < NSVQ_N_PASSES; i++) plan_sum(g, g->mean[i].b, h->latent);
    plan_sum(g, h->z_mean, h->z);
    plan_sum(g, h->z_scale, h->z);
    uint32_t *place = malloc(sizeof *place * (size_t)g->n_sums);
    if (!place) return -1;
    for (int k = 0; k < g->n_sum; k++) {
        const int end = k + 1 < g->n_sum ? g->sum_column[k + 1] : g->n_sums;
        for (int j = g->sum_column[k]; j < end; j++)
            place[j] = (uint32_t)(g->sum_at[k] + (size_t)(j - g->sum_column[k]));
    }
    g->sum_place = upload(g, place, sizeof *place * (size_t)g->n_sums);
    g->folded = floats(g, (size_t)FOLDS * (size_t)g->n_sums);
    free(place);
    return 0;
}

/* ---- registers ---- */

static int is_wide(const gpu *g, int which, int r) /* float32: network's ends, linear paths */
{
    const network *n = &g->net[which];
    if (r == n->output || (which != NET_ANALYSIS && r == 0)) return 1;
    for (int i = 0; i < n->n_layers; i++)
        if (n->l[i].res == r && n->l[i].dst == n->output) return 1; /* what is added has its type */
    return 0;
}

static void plan_network(gpu *g, int which, int h, int w)
{
    const network *n = &g->net[which];
    for (int i = 0; i <= n->n_layers; i++) {
        reg *r = &g->r[which][i];
        r->h = h >> n->shrink[i];
        r->w = w >> n->shrink[i];
        r->c = n->channels[i];
        if (which == NET_HA && i == 0)
            r->v = g->r[NET_ANALYSIS][g->net[NET_ANALYSIS].output].v;
        else
            r->v = values(g, gpu_count(g, r), is_wide(g, which, i));
    }
    /* From the output on: what a layer adds has the gradient of its result, unless that is itself read. */
    for (int i = n->n_layers - 1; i >= 0; i--) {
        const layer *l = &n->l[i];
        reg *r = g->r[which], *y = &r[l->dst];
        if (!y->g.p) y->g = values(g, gpu_count(g, y), y->v.f32);
        if (l->res != NSVQ_NO_REGISTER && l->res != l->src) r[l->res].g = y->g;
    }
    reg *in = &g->r[which][0];
    if (which == NET_HA)
        in->g = g->r[NET_ANALYSIS][g->net[NET_ANALYSIS].output].g;
    else if (which != NET_ANALYSIS)
        in->g = values(g, gpu_count(g, in), 1);
}

static size_t largest(size_t a, size_t b)
{
    return a > b ? a : b;
}

static void plan_scratch(gpu *g)
{
    size_t cast_n = 0, sums = 0;
    for (int k = 0; k < N_NETS; k++)
        for (int i = 0; i < g->net[k].n_layers; i++) {
            const layer *l = &g->net[k].l[i];
            const reg *x = &g->r[k][l->src], *y = &g->r[k][l->dst];
            const size_t rows = (size_t)(g->batch * y->h), chunk = SUM_ROWS;
            sums = largest(sums, gpu_count(g, y) / chunk + (size_t)y->c);
            if (l->kind == NSVQ_LAYER_DEPTHWISE) sums = largest(sums, rows * (size_t)(l->k * l->k * l->cin));
            if (l->kind == NSVQ_LAYER_POINTWISE && x->v.f32 != y->v.f32) cast_n = largest(cast_n, gpu_count(g, y));
        }
    g->sums = floats(g, largest(sums, (size_t)g->batch * (size_t)g->lat.n * (size_t)g->lat.latent));
    cast_n += 16;
    g->scratch[0] = (array){g->dev->alloc(g->dev, cast_n * 2, MEMORY_BF16), 0};
    g->scratch[1] = (array){floats(g, cast_n), 1};
}

/* The coding order of all patches. 0, or -1 without memory. */
static int plan_order(gpu *g)
{
    latent_args *q = &g->lat;
    const int n = q->n, all = n * g->batch;
    int *pos = malloc(sizeof *pos * (size_t)n), *row_of = malloc(sizeof *row_of * (size_t)all);
    int *at_row = malloc(sizeof *at_row * (size_t)all), pass_at[NSVQ_N_PASSES + 1];
    int (*near)[NSVQ_N_NEIGHBOURS] = malloc(sizeof *near * (size_t)n);
    const int bad = !pos || !row_of || !at_row || !near;
    if (!bad) {
        order_positions(pos, pass_at, q->w, n / q->w);
        for (int k = 0; k < n; k++) {
            const int first = order_neighbours(pos[k], q->w, n / q->w, near[k]);
            for (int j = 0; j < NSVQ_N_NEIGHBOURS; j++)
                if (near[k][j] < 0) near[k][j] = first;
        }
        for (int s = 0; s < NSVQ_N_PASSES; s++) {
            const int has = pass_at[s + 1] - pass_at[s];
            g->pass[s] = (code_pass){.first = g->batch * pass_at[s], .has = has, .before = pass_at[s]};
            g->pass[s].mean = floats(g, (size_t)(g->batch * has) * (size_t)q->latent + 16);
            for (int i = 0; i < g->batch * has; i++) {
                const int row = g->batch * pass_at[s] + i, at = i / has * n + pos[pass_at[s] + i % has];
                row_of[at] = row;
                at_row[row] = at;
            }
        }
        q->row_of = upload(g, row_of, sizeof *row_of * (size_t)all);
        q->at_row = upload(g, at_row, sizeof *at_row * (size_t)all);
        q->near = upload(g, near, sizeof *near * (size_t)n);
    }
    free(pos); free(row_of); free(at_row); free(near);
    return bad ? -1 : 0;
}

static int plan_latents(gpu *g, const hyper *h, int stride)
{
    latent_args *q = &g->lat;
    const size_t B = (size_t)g->batch;
    *q = (latent_args){.p = g->drawn, .batch = g->batch, .latent = h->latent, .z = h->z, .per = h->per,
                       .w = g->size / stride};
    q->n = q->w * q->w;
    q->n_z = q->n / (h->per * h->per);
    const size_t n = B * (size_t)(q->n * q->latent), nz = B * (size_t)(q->n_z * q->z);
    float **const of_latents[] = {&q->t, &q->r, &q->dv, &q->ds, &q->g_mu, &q->gain_part};
    float **const of_z[] = {&q->z_t, &q->z_r, &q->z_dv, &q->z_ds, &q->z_gain_part, &q->z_mean_part,
                            &q->z_scale_part};
    for (size_t i = 0; i < sizeof of_latents / sizeof *of_latents; i++) *of_latents[i] = floats(g, n);
    for (size_t i = 0; i < sizeof of_z / sizeof *of_z; i++) *of_z[i] = floats(g, nz);
    const reg *y = &g->r[NET_ANALYSIS][g->net[NET_ANALYSIS].output], *in = &g->r[NET_SYNTHESIS][0];
    const reg *z = &g->r[NET_HA][g->net[NET_HA].output], *hs = g->r[NET_HS];
    const reg *side = &hs[g->net[NET_HS].output];
    q->y = y->v.p;
    q->g_y = y->g.p;
    q->y_hat = in->v.p;
    q->g_y_hat = in->g.p;
    q->z_y = z->v.p;
    q->g_z = z->g.p;
    q->z_in = hs[0].v.p;
    q->g_z_in = hs[0].g.p;
    q->side = side->v;
    q->g_side = side->g.p;
    q->z_mean = g->p + h->z_mean;
    q->z_scale = g->p + h->z_scale;
    q->log_step = floats(g, B * (size_t)q->latent);
    q->z_log_step = floats(g, B * (size_t)q->z);
    q->ctx = floats(g, B * (size_t)(q->n * h->context));
    g->gain_sum = floats(g, B * (size_t)q->latent);
    g->n_bits = (q->n * q->latent + q->n_z * q->z) / 4;
    g->n_errors = 3 * g->size * g->size / SUM_ROWS;
    g->bits_part = q->bits = floats(g, B * (size_t)g->n_bits);
    g->error_part = floats(g, B * (size_t)g->n_errors);
    g->bits_sum = floats(g, B * FOLDS);
    g->error_sum = floats(g, B * FOLDS);
    return plan_order(g);
}

/* Spans of at most 64 of each of n stretches; their own stretches per old one in *next. */
static stretch *cut_stretches(const stretch *of, size_t n, stretch *next, size_t *out_n)
{
    size_t total = 0;
    for (size_t i = 0; i < n; i++) {
        next[i] = (stretch){(uint32_t)total, (of[i].n + 63) / 64};
        total += next[i].n;
    }
    stretch *out = malloc(sizeof *out * total);
    if (!out) abort();
    for (size_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < next[i].n; k++)
            out[next[i].at + k] = (stretch){of[i].at + 64 * k, of[i].n - 64 * k < 64 ? of[i].n - 64 * k : 64};
    *out_n = total;
    return out;
}

static int columns(const segment *s)
{
    return (int)s->n / s->rows;
}

static int shorter(const segment *s)
{
    return s->rows < columns(s) ? s->rows : columns(s);
}

static int by_shape(const void *a, const void *b)
{
    const segment *s = *(const segment *const *)a, *t = *(const segment *const *)b;
    const int of[3] = {shorter(s) - shorter(t), s->rows - t->rows, columns(s) - columns(t)};
    return of[0] ? of[0] : of[1] ? of[1] : of[2] ? of[2] : (s > t) - (s < t);
}

static void add_to_group(muon_group *list, int *n, muon_group m)
{
    if (!*n || list[*n - 1].rows != m.rows || list[*n - 1].cols != m.cols) list[(*n)++] = m;
    list[*n - 1].n++;
}

/* Places by shape, so that one call multiplies all matrices of a shape. */
static void plan_muon(gpu *g, const store *s, seg_rates *parts)
{
    const segment *of[MAX_SEGMENTS];
    muon_square squares[MAX_SEGMENTS + 1];
    uint32_t x = 0, at = 0;
    int n = 0;
    for (int i = 0; i < s->n_segments; i++)
        if (s->seg[i].rows) of[n++] = &s->seg[i];
    qsort(of, (size_t)n, sizeof *of, by_shape);
    for (int k = 0; k < n; k++) {
        const int rows = of[k]->rows, cols = columns(of[k]), r = shorter(of[k]);
        seg_rates *t = &parts[of[k] - s->seg];
        add_to_group(g->shape, &g->n_shapes, (muon_group){.rows = rows, .cols = cols, .x = x, .square = at});
        add_to_group(g->side, &g->n_sides, (muon_group){.rows = r, .cols = r, .square = at});
        t->matrix = k;
        t->x = x;
        t->size = MUON_RATE * MUON_SIZE * sqrtf((float)(rows > cols ? rows : cols));
        squares[k] = (muon_square){.at = at, .side = (uint32_t)r};
        x += gpu_whole(rows, cols);
        at += gpu_whole(r, r);
    }
    uint16_t *square_of = malloc(sizeof *square_of * (at / 16 + 1));
    if (!square_of) abort();
    squares[n].at = at;
    for (int k = 0; k < n; k++)
        for (uint32_t i = squares[k].at / 16; i < squares[k + 1].at / 16; i++) square_of[i] = (uint16_t)k;
    g->n_matrices = n;
    g->n_squares = at;
    g->ahead = floats(g, x);
    g->moved = floats(g, x);
    for (int i = 0; i < 4; i++) g->square[i] = floats(g, at);
    g->trace = floats(g, (size_t)n);
    g->square_at = upload(g, squares, sizeof *squares * (size_t)n);
    g->square_of = upload(g, square_of, sizeof *square_of * (at / 16));
    free(square_of);
}

static void plan_update(gpu *g, const model *m)
{
    const store *s = &m->st;
    const size_t n = (size_t)s->n_segments;
    stretch of[3][MAX_SEGMENTS];
    seg_rates *parts = calloc(n, sizeof *parts);
    uint16_t *part_of = calloc(s->n / 16, sizeof *part_of);
    if (!parts || !part_of) abort();
    for (size_t i = 0; i < n; i++) {
        const segment *e = &s->seg[i];
        of[0][i] = (stretch){(uint32_t)e->at, (uint32_t)e->n};
        parts[i] = (seg_rates){.at = (uint32_t)e->at, .n_columns = (uint32_t)e->n_columns,
                          .column = e->column ? g->column + (e->column - m->h.column) : NULL, .lr = e->lr,
                          .decay = e->decay ? 0.01f : 0.f, .matrix = -1};
        for (size_t k = e->at / 16; k < (e->at + e->n + 15) / 16; k++) part_of[k] = (uint16_t)i;
    }
    for (int k = 0; k < 3; k++) {
        size_t spans = n;
        stretch *list = k < 2 ? cut_stretches(of[k], n, of[k + 1], &spans) : NULL;
        g->n_spans[k] = (uint32_t)spans;
        g->span[k] = upload(g, list ? list : of[2], sizeof **of * spans);
        g->span_sum[k] = floats(g, spans);
        free(list);
    }
    plan_muon(g, s, parts);
    g->n_segments = s->n_segments;
    g->parts = upload(g, parts, n * sizeof *parts);
    g->part_of = upload(g, part_of, s->n / 16 * sizeof *part_of);
    g->running = upload_floats(g, m->norm, n);
    g->scale = floats(g, n);
    free(parts);
    free(part_of);
}

static void plan_state(gpu *g, const model *m)
{
    const run_state s = {.moments = m->moments};
    g->n = m->st.n;
    g->p = upload_floats(g, m->st.p, m->st.n);
    g->m = upload_floats(g, m->m, m->st.n);
    g->v = upload_floats(g, m->v, m->st.n);
    g->average = upload_floats(g, m->mean, m->st.n);
    g->grad = floats(g, m->st.n);
    g->column = upload_floats(g, m->h.column, (size_t)(m->h.context + m->h.z + NSVQ_N_EXTRA));
    g->low = g->dev->exact ? (array){g->p, 1} : values(g, m->st.n, 0);
    if (!g->dev->exact) LAUNCH(g, cast, m->st.n / 4, .x = {g->p, 1}, .y = g->low);
    g->s = upload(g, &s, sizeof s);
    g->in = reserve(g, sizeof *g->in);
    g->drawn = reserve(g, sizeof *g->drawn * (size_t)g->batch);
}

/* Pictures to the device, class by class. 0, or -1 after a message. */
static int plan_pictures(gpu *g, const dataset *d)
{
    source *src = calloc((size_t)d->n, sizeof *src);
    source_class *cls = calloc((size_t)d->n_classes, sizeof *cls);
    size_t bytes = 0;
    int n = 0, small = 0;
    if (!src || !cls) abort();
    for (int i = 0; i < d->n; i++) bytes += (size_t)d->pic[i].w * (size_t)d->pic[i].h * 3;
    uint8_t *rgb = reserve(g, bytes);
    for (int c = 0; c < d->n_classes; c++) {
        double pixels = 0;
        cls[c].first = n;
        for (int i = 0; i < d->n; i++) {
            const picture *p = &d->pic[i];
            if (p->class_at != c || p->held_out) continue;
            if (p->w < g->size || p->h < g->size) {
                small++;
                continue;
            }
            pixels += (double)p->w * p->h;
            src[n++] = (source){.rgb = rgb, .w = p->w, .h = p->h, .end = pixels};
            if (rgb) g->dev->put(g->dev, rgb, p->rgb, (size_t)p->w * (size_t)p->h * 3);
            rgb += rgb ? (size_t)p->w * (size_t)p->h * 3 : 0;
        }
        cls[c].n = n - cls[c].first;
        cls[c].weight = cls[c].n ? d->class_weight[c] : 0;
    }
    g->n_cls = d->n_classes;
    g->src = upload(g, src, sizeof *src * (size_t)(n ? n : 1));
    g->cls = upload(g, cls, sizeof *cls * (size_t)d->n_classes);
    free(src);
    free(cls);
    if (small) fprintf(stderr, "nsvq-train: %d pictures are smaller than a patch and left out\n", small);
    if (!n) fprintf(stderr, "nsvq-train: no picture is as large as a patch\n");
    return n ? 0 : -1;
}

static int healthy(const gpu *g)
{
    const char *why = g->dev->trouble(g->dev);
    if (why) fprintf(stderr, "nsvq-train: %s: %s\n", g->dev->name, why);
    return !why;
}

gpu *gpu_open(device *v, const model *m, const dataset *d)
{
    gpu *g = calloc(1, sizeof *g);
    if (!g) abort();
    const int stride = m->pre.stride, size = m->run.patch;
    g->dev = v;
    g->batch = m->run.batch;
    g->size = size;
    g->squares = m->squares;
    g->from = m->run.low;
    g->to = m->run.high;
    g->vivid = model_cut(m, size).vivid;
    for (int k = 0; k < N_NETS; k++) g->net[k] = *model_net(m, k);
    memcpy(g->mean, m->h.mean, sizeof g->mean);
    g->gain = m->h.gain;
    g->z_gain = m->h.z_gain;
    g->z_mean = m->h.z_mean;
    g->z_scale = m->h.z_scale;
    int bad = plan_pictures(g, d);
    plan_state(g, m);
    plan_network(g, NET_ANALYSIS, size / 4, size / 4);
    plan_network(g, NET_SYNTHESIS, size / stride, size / stride);
    plan_network(g, NET_HA, size / stride, size / stride);
    plan_network(g, NET_HS, size / NSVQ_Z_STRIDE, size / NSVQ_Z_STRIDE);
    bad |= plan_latents(g, &m->h, stride) | plan_sums(g, &m->h);
    plan_scratch(g);
    plan_update(g, m);
    if (bad || !healthy(g)) {
        gpu_close(g);
        return NULL;
    }
    return g;
}

void gpu_close(gpu *g)
{
    free(g);
}

/* ---- back to the host ---- */

int gpu_fetch(gpu *g, model *m)
{
    const size_t bytes = g->n * sizeof(float);
    run_state s = {0};
    device *v = g->dev;
    v->get(v, m->st.p, g->p, bytes);
    v->get(v, m->m, g->m, bytes);
    v->get(v, m->v, g->v, bytes);
    v->get(v, m->mean, g->average, bytes);
    v->get(v, m->norm, g->running, sizeof(float) * (size_t)g->n_segments);
    v->get(v, &s, g->s, sizeof s);
    if (!healthy(g)) return -1;
    m->moments = s.moments;
    return 0;
}

int gpu_figures(gpu *g, gpu_sums *to)
{
    run_state s = {0};
    g->dev->get(g->dev, &s, g->s, sizeof s);
    *to = (gpu_sums){.patches = (long)s.patches, .left_out = (long)s.left_out, .psnr = s.psnr, .bits = s.bits};
    return healthy(g) ? 0 : -1;
}

void gpu_gradient(gpu *g, float *to)
{
    g->dev->get(g->dev, to, g->grad, g->n * sizeof *to);
}

/* ---- the device itself ---- */

device *gpu_cuda(int shared)
{
    char why[256] = "";
    void *lib = dlopen("libnsvq_train_cuda.so", RTLD_NOW | RTLD_LOCAL);
    cuda_open_fn *open = NULL;
    if (lib) *(void **)&open = dlsym(lib, "nsvq_train_cuda_open");
    device *v = open ? open(shared, why, sizeof why) : NULL;
    if (!v) fprintf(stderr, "nsvq-train: --device cuda: %s\n", open ? why : dlerror());
    return v;
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds of `runs` products of side x side matrices. */
static double time_products(device *v, int side, int runs)
{
    const size_t bytes = (size_t)side * (size_t)side * (v->exact ? 4 : 2);
    product p = {.m = side, .n = side, .k = side, .ta = 1, .lda = side, .ldb = side};
    array *const of[3] = {&p.a, &p.b, &p.d};
    uint16_t *noise = malloc(bytes);
    char c;
    if (!noise) abort();
    for (size_t i = 0; i < bytes / 2; i++) noise[i] = (uint16_t)(0x3e00 | (i * 2654435761u >> 7 & 0x81ff));
    for (int i = 0; i < 3; i++) {
        *of[i] = (array){v->alloc(v, bytes, v->exact ? MEMORY_F32 : MEMORY_BF16), v->exact};
        if (of[i]->p) v->put(v, of[i]->p, noise, bytes);
    }
    free(noise);
    v->multiply(v, &p);
    v->get(v, &c, p.d.p, 1);
    const double start = seconds();
    for (int i = 0; i < runs; i++) v->multiply(v, &p);
    v->get(v, &c, p.d.p, 1);
    return seconds() - start;
}

double gpu_peak(device *v)
{
    int side = 256; /* until one takes a millisecond */
    while (side < 8192 && time_products(v, side, 1) < 1e-3) side *= 2;
    const int runs = side < 1024 ? 1 : 50;
    const double t = time_products(v, side, runs);
    return v->trouble(v) ? 0 : 2e-9 * side * side * side * runs / t;
}
