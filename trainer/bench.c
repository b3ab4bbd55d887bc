/* bench.c - nsvq-train bench: how fast a step is, against what the machine's GEMM can do. */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

#include "gemm.h"
#include "gpu.h"
#include "random.h"
#include "train.h"

#define SIDE 512      /* of the matrices that the peak is measured with */
#define PEAK_SECONDS 1.

/* Billions of floating-point operations a second, all threads at once, each with matrices of its own. */
static double gemm_peak(int threads)
{
    double best = 0;
#pragma omp parallel num_threads(threads) reduction(+ : best)
    {
        float *a = zeros(SIDE * SIDE), *b = zeros(SIDE * SIDE), *c = zeros(SIDE * SIDE);
        double mine = 0;
        const double start = omp_get_wtime();
        for (double t = start; t - start < PEAK_SECONDS;) {
            gemm('N', 'N', SIDE, SIDE, SIDE, 1.f, a, SIDE, b, SIDE, 0.f, c, SIDE);
            const double end = omp_get_wtime(), rate = 2e-9 * SIDE * SIDE * SIDE / (end - t);
            if (rate > mine) mine = rate;
            t = end;
        }
        best += mine;
        free(a); free(b); free(c);
    }
    return best;
}

/* Multiplications of the pointwise layers forwards and backwards, per pixel; start: whether register 0
 * gets a gradient. pixels: of a position of register 0. */
static double work_of(const network *n, double pixels, int start)
{
    double sum = 0;
    for (int i = 0; i < n->n_layers; i++) {
        const layer *l = &n->l[i];
        if (l->kind != NSVQ_LAYER_POINTWISE) continue;
        const double per = pixels * (double)(1 << 2 * n->shrink[l->src]);
        sum += (l->src || start ? 3. : 2.) * l->rep * l->cin * l->cout / per;
    }
    return sum;
}

static double work(const model *m)
{
    const double latent = m->pre.stride * m->pre.stride;
    double sum = work_of(&m->ana, 16, 0) + work_of(&m->syn, latent, 1);
    const layer *plain[64];
    int n = 0;
    if (is_hyper(m)) {
        sum += work_of(&m->h.ha, latent, 1) + work_of(&m->h.hs, 4096, 1);
        return sum + 2. * m->h.context * m->h.latent / latent * 15 / 16; /* all passes but the first */
    }
    for (int s = 0; s < m->q.slices; s++) {
        if (s) plain[n++] = &m->q.prev[s];
        plain[n++] = &m->q.logit[s];
        plain[n++] = &m->q.shiftm[s];
    }
    for (int i = 0; i < n; i++) sum += 3. * plain[i]->cin * plain[i]->cout / latent;
    return sum + 2. * m->q.context * (m->q.latent + m->q.hidden) / latent;
}

static void make_picture(dataset *d)
{
    static double one = 1;
    static char name[1][64] = {"noise"};
    static picture p = {.w = 1024, .h = 1024, .name = "noise"};
    uint64_t rng = 1;
    p.rgb = malloc((size_t)p.w * (size_t)p.h * 3);
    if (!p.rgb) abort();
    for (int i = 0; i < p.w * p.h * 3; i++) p.rgb[i] = (uint8_t)random_u64(&rng);
    *d = (dataset){.n = 1, .n_classes = 1, .pic = &p, .class_name = name, .class_weight = &one};
}

static int bench_on_gpu(model *m, const dataset *d, const train_options *o)
{
    const double pixels = (double)o->batch * o->patch * o->patch;
    bench_result r = {0};
    double all = 0;
    for (size_t i = 0; i < m->st.n; i++) m->st.p[i] = 0.05f * random_normal(&m->rng); /* zeros would run cooler */
    if (bench_gpu(m, d, o, &r)) return 1;
    const double rate = pixels * (double)r.steps / r.seconds;
    printf("# %s, preset %s, batch %d of %d x %d, %ld steps, GEMM peak %.1f TFLOP/s\n", r.device, m->pre.name,
           o->batch, o->patch, o->patch, r.steps, r.peak / 1e3);
    printf("%.1f Mpixel/s, %.2f ms a step, %.1f kFLOP a pixel in GEMM, %.1f %% of the peak\n", rate / 1e6,
           1e3 * r.seconds / (double)r.steps, 2e-3 * work(m), 2e-9 * work(m) * rate / r.peak * 100);
    for (int i = 0; i < r.kernels; i++) all += r.ms[i];
    for (int i = 0; i < r.kernels; i++)
        printf("%-24s %8.3f ms %5.1f %%\n", gpu_kernel(i), r.ms[i], 100 * r.ms[i] / all);
    printf("%-24s %8.3f ms, each on its own\n", "all", all);
    return 0;
}

int bench(const preset *p, const train_options *o)
{
    static const char *const part[N_PARTS] = {
        "patch", "analysis", "quantiser", "synthesis", "synthesis backward", "quantiser backward",
        "analysis backward", "sum of threads", "update"};
    const int nt = o->threads > 0 ? o->threads : omp_get_max_threads();
    const double pixels = (double)o->batch * o->patch * o->patch;
    double spent[N_PARTS], sum = 0;
    dataset d;
    model m;
    make_picture(&d);
    model_build(&m, p);
    if (!is_hyper(&m)) vq_refresh(&m.q);
    if (o->cuda) {
        const int status = bench_on_gpu(&m, &d, o);
        model_free(&m);
        free(d.pic->rgb);
        return status;
    }
    const double peak = gemm_peak(nt), once = bench_steps(&m, &d, o, 1, spent);
    const int n = o->steps ? (int)o->steps : 1 + (int)(BENCH_SECONDS / once);
    const double seconds = bench_steps(&m, &d, o, n, spent), rate = pixels * n / seconds;
    printf("# preset %s, batch %d of %d x %d, %d threads, %d steps, GEMM peak %.0f GFLOP/s\n", p->name,
           o->batch, o->patch, o->patch, nt, n, peak);
    printf("%.2f Mpixel/s, %.1f ms a step, %.1f kFLOP a pixel in GEMM, %.1f %% of the peak\n", rate / 1e6,
           1e3 * seconds / n, 2e-3 * work(&m), 2e-9 * work(&m) * rate / peak * 100);
    for (int i = 0; i < N_PARTS; i++) {
        printf("%-24s %8.2f ms %5.1f %%\n", part[i], 1e3 * spent[i] / n, 100 * spent[i] / seconds);
        sum += spent[i];
    }
    printf("%-24s %8.2f ms %5.1f %%\n", "waiting", 1e3 * (seconds - sum) / n, 100 - 100 * sum / seconds);
    printf("busy: %.2f Mpixel/s, %.1f %% of the peak\n", pixels * n / sum / 1e6,
           2e-9 * work(&m) * pixels * n / sum / peak * 100);
    model_free(&m);
    free(d.pic->rgb);
    return 0;
}
