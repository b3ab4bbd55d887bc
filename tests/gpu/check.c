/* check.c - nsvq-gpu-check: the trainer's GPU backend on a GPU. First each kernel and product of a step,
 * run by the host and by the GPU on the same memory; then whole steps against the CPU trainer's. With the
 * argument "host" the GPU is the host as well: that checks this program. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/kernels.h"
#include "host.h"
#include "random.h"
#include "steps.h"

/* ---- a device that does everything twice ---- */

typedef struct block { void *p, *before, *want; size_t bytes; memory_kind kind; } block;

typedef struct shadow {
    device  base, *real;
    block   memory[1024];
    int     n_blocks, failures, runs[GPU_KERNELS];
    double  worst[GPU_KERNELS]; /* deviation over what is allowed */
} shadow;

static void *shadow_alloc(device *v, size_t bytes, memory_kind kind)
{
    shadow *s = (shadow *)v;
    block *b = &s->memory[s->n_blocks++];
    if (s->n_blocks == 1024) abort();
    *b = (block){s->real->alloc(s->real, bytes, kind), malloc(bytes + 8), malloc(bytes + 8), bytes, kind};
    if (!b->before || !b->want) abort();
    return b->p;
}

static void shadow_put(device *v, void *to, const void *from, size_t bytes)
{
    shadow *s = (shadow *)v;
    s->real->put(s->real, to, from, bytes);
}

static void shadow_get(device *v, void *to, const void *from, size_t bytes)
{
    shadow *s = (shadow *)v;
    s->real->get(s->real, to, from, bytes);
}

static const char *shadow_trouble(device *v)
{
    shadow *s = (shadow *)v;
    return s->real->trouble(s->real);
}

static void wait_for(shadow *s)
{
    char c;
    s->real->get(s->real, &c, s->memory[0].p, 1);
}

static double value(const void *p, memory_kind kind, size_t i)
{
    uint32_t u;
    float f;
    if (kind == MEMORY_BF16)
        u = (uint32_t)((const uint16_t *)p)[i] << 16;
    else
        memcpy(&u, (const char *)p + 4 * i, sizeof u);
    memcpy(&f, &u, sizeof f);
    return f;
}

/* Words of structs that differ: near as floats, or as doubles. What would be denormal is an integer. */
static int raw_near(const char *a, const char *b, size_t at)
{
    float fa, fb;
    double da, db;
    memcpy(&fa, a + at, sizeof fa);
    memcpy(&fb, b + at, sizeof fb);
    memcpy(&da, a + (at & ~(size_t)7), sizeof da);
    memcpy(&db, b + (at & ~(size_t)7), sizeof db);
    const int floats = (fa == 0 || fabsf(fa) > 1e-30f) && (fb == 0 || fabsf(fb) > 1e-30f);
    const int doubles = (da == 0 || fabs(da) > 1e-200) && (db == 0 || fabs(db) > 1e-200);
    return (floats && fabsf(fa - fb) <= 1e-4f * fabsf(fa) + 1e-6f) ||
           (doubles && fabs(da - db) <= 1e-4 * fabs(da) + 1e-6);
}

/* Values of a block whose deviation is more than `most` of themselves plus of the root mean square of what
 * has changed. Where values are rounded to steps, one in 10,000 may be a tie that fell the other way. */
static int compare_values(shadow *s, const block *b, int kernel, double most)
{
    const size_t n = b->bytes / (b->kind == MEMORY_BF16 ? 2 : 4);
    double sum = 0, worst = 0;
    size_t changed = 0, off = 0, first = 0;
    for (size_t i = 0; i < n; i++) {
        const double w = value(b->want, b->kind, i);
        if (w == value(b->before, b->kind, i)) continue;
        sum += w * w;
        changed++;
    }
    const double scale = sqrt(sum / (double)(changed ? changed : 1)) + 1e-30;
    for (size_t i = 0; i < n; i++) {
        const double w = value(b->want, b->kind, i), g = value(b->p, b->kind, i);
        const double e = w == g ? 0 : fabs(g - w) / (most * (fabs(w) + scale));
        if (!(e <= 1) && !off++) first = i;
        if (e > worst && e <= 1) worst = e;
    }
    if (worst > s->worst[kernel]) s->worst[kernel] = worst;
    const int steps = kernel == KERNEL_cut_pixels || kernel == KERNEL_quantise_z || kernel == KERNEL_quantise_y;
    if (!off || (steps && off <= 1 + changed / 10000)) return 0;
    printf("%s FAILED run=%d: %zu of %zu changed values; [%zu] %g, host: %g (rms %g)\n", gpu_kernel(kernel),
           s->runs[kernel], off, changed, first, value(b->p, b->kind, first), value(b->want, b->kind, first), scale);
    return 1;
}

static int compare_raw(shadow *s, const block *b, int kernel)
{
    const char *want = b->want, *got = b->p;
    for (size_t at = 0; at + 8 <= b->bytes; at += 4)
        if (memcmp(want + at, got + at, 4) != 0 && !raw_near(want, got, at)) {
            printf("%s FAILED run=%d: word %zu of a struct of %zu bytes\n", gpu_kernel(kernel), s->runs[kernel],
                   at / 4, b->bytes);
            return 1;
        }
    return 0;
}

static void host_first(shadow *s, int kernel, const void *args, uint32_t n, const product *p)
{
    wait_for(s);
    for (int i = 0; i < s->n_blocks; i++) memcpy(s->memory[i].before, s->memory[i].p, s->memory[i].bytes);
    if (p)
        host_multiply(p);
    else
        host_launch(kernel, args, n);
    for (int i = 0; i < s->n_blocks; i++) {
        memcpy(s->memory[i].want, s->memory[i].p, s->memory[i].bytes);
        memcpy(s->memory[i].p, s->memory[i].before, s->memory[i].bytes);
    }
}

static void then_compare(shadow *s, int kernel, double most)
{
    wait_for(s);
    s->runs[kernel]++;
    for (int i = 0; i < s->n_blocks; i++) {
        const block *b = &s->memory[i];
        if (!memcmp(b->want, b->p, b->bytes)) continue;
        s->failures += b->kind == MEMORY_RAW ? compare_raw(s, b, kernel)
                                             : compare_values(s, b, kernel, b->kind == MEMORY_BF16 ? 1e-2 : most);
        memcpy(b->p, b->want, b->bytes); /* so that one failure makes no others */
    }
}

static void shadow_launch(device *v, int kernel, const void *args, uint32_t n)
{
    shadow *s = (shadow *)v;
    host_first(s, kernel, args, n, NULL);
    s->real->launch(s->real, kernel, args, n);
    then_compare(s, kernel, 2e-3);
}

static void shadow_multiply(device *v, const product *p)
{
    shadow *s = (shadow *)v;
    host_first(s, KERNEL_N, NULL, 0, p);
    s->real->multiply(s->real, p);
    then_compare(s, KERNEL_N, p->a.f32 && !p->full && !s->base.exact ? 1e-2 : 2e-4);
}

/* ---- checks ---- */

static int use_host;

static device *open_device(int exact, int shared)
{
    device *v = use_host ? host_open(exact) : gpu_cuda(shared);
    if (v) v->exact = exact;
    return v;
}

static int check_kernels(const dataset *d, const preset *p, int patch, int exact)
{
    shadow *s = calloc(1, sizeof *s);
    model m;
    if (!s) abort();
    s->real = open_device(exact, 1);
    if (!s->real) {
        free(s);
        return 1;
    }
    s->base = (device){.name = s->real->name, .exact = exact, .alloc = shadow_alloc, .put = shadow_put,
                       .get = shadow_get, .launch = shadow_launch, .multiply = shadow_multiply,
                       .trouble = shadow_trouble};
    steps_model(&m, p, 2, patch);
    gpu *g = gpu_open(&s->base, &m, d);
    int bad = !g;
    if (g) gpu_step(g, 5, 0.01f);
    if (g && s->real->trouble(s->real)) printf("FAILED: %s\n", s->real->trouble(s->real)), bad = 1;
    for (int i = 0; !bad && gpu_kernel(i); i++)
        if (s->runs[i])
            printf("%-10s %-8s %-14s %4d runs, deviation %5.1f %% of what is allowed\n", p->name,
                   exact ? "float32" : "bfloat16", gpu_kernel(i), s->runs[i], 100 * s->worst[i]);
    bad |= s->failures > 0;
    gpu_close(g);
    s->real->close(s->real);
    for (int i = 0; i < s->n_blocks; i++) {
        free(s->memory[i].before);
        free(s->memory[i].want);
    }
    free(s);
    model_free(&m);
    return bad;
}

/* Value by value only for few latents in float32: of many, some lie where sums in another order round to the
 * other side. */
static int check_steps(const dataset *d, const preset *p, int batch, int patch, int exact, int values)
{
    device *v = open_device(exact, 0);
    if (!v) return 1;
    const char *why = values ? steps_same(v, d, p, batch, patch, 5e-3) : steps_near(v, d, p, batch, patch);
    const char *trouble = v->trouble(v);
    printf("%-10s %-8s steps, batch %d of %d x %d: %s%s%s\n", p->name, exact ? "float32" : "bfloat16", batch, patch,
           patch, why || trouble ? "FAILED: " : "ok", why ? why : "", trouble ? trouble : "");
    v->close(v);
    return why || trouble;
}

static void make_pictures(dataset *d, int n)
{
    static char name[2][64] = {"even", "odd"};
    static double weight[2] = {0.4, 0.6};
    uint64_t rng = 1;
    *d = (dataset){.n = n, .n_classes = 2, .class_name = name, .class_weight = weight};
    d->pic = calloc((size_t)n, sizeof *d->pic);
    if (!d->pic) abort();
    for (int i = 0; i < n; i++) {
        picture *p = &d->pic[i];
        *p = (picture){.w = 264 + 5 * i, .h = 256 + 3 * i, .class_at = i % 2};
        p->rgb = malloc((size_t)(p->w * p->h) * 3);
        if (!p->rgb) abort();
        for (int k = 0; k < p->w * p->h * 3; k++) {
            const float x = (float)(k / 3 % p->w), y = (float)(k / 3 / p->w), c = (float)(k % 3);
            const float v = 128.f + 60.f * sinf(0.05f * x + c) * sinf(0.03f * y + (float)i) + 12.f * random_normal(&rng);
            p->rgb[k] = (uint8_t)(v < 0.f ? 0.f : v > 255.f ? 255.f : v);
        }
    }
}

int main(int argc, char **argv)
{
    static const preset *const small[2] = {&steps_sixteen, &steps_eight};
    static const char *const large[2] = {"hyper16", "hyper8"};
    dataset d;
    int bad = 0;
    use_host = argc == 2 && !strcmp(argv[1], "host");
    if (argc > 1 && !use_host) {
        fprintf(stderr, "usage: nsvq-gpu-check [host]\n");
        return 2;
    }
    device *there = open_device(1, 0);
    if (!there) return 1;
    there->close(there);
    make_pictures(&d, 4);
    for (int i = 0; i < 2; i++)
        for (int exact = 1; exact >= 0; exact--) {
            bad |= check_kernels(&d, small[i], 128, exact);
            bad |= check_steps(&d, small[i], 3, 64, exact, exact) | check_steps(&d, small[i], 2, 192, exact, 0);
        }
    for (int i = 0; i < 2 && !use_host; i++) {
        preset p;
        bad |= preset_find(large[i], &p) || check_steps(&d, &p, 2, 256, 1, 0) || check_steps(&d, &p, 2, 256, 0, 0);
    }
    for (int i = 0; i < d.n; i++) free(d.pic[i].rgb);
    free(d.pic);
    printf(bad ? "FAILED\n" : "all the same\n");
    return bad;
}
