/* device.cu - a CUDA GPU behind device.h: one stream, products by cuBLASLt, a step as a graph. */
#include <cublasLt.h>
#include <cuda_runtime.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

#define THREADS 128
#define WORKSPACE ((size_t)64 << 20) /* for products; NVIDIA asks for 32 MiB on sm_90 */

#define X(name)                                                                                             \
    __global__ void __launch_bounds__(THREADS) name##_kernel(const __grid_constant__ name##_args a, uint32_t n) \
    {                                                                                                       \
        const uint32_t i = blockIdx.x * THREADS + threadIdx.x;                                              \
        if (i < n) name##_body(&a, i);                                                                      \
    }
KERNELS(X)
#undef X

/* The fastest of the ways that cuBLASLt proposes for a product, measured when it is first met. */
enum { WAYS = 8, TRIALS = 3 };
typedef struct way {
    int m, n, k, ta, tb, wide[2], bias, relu, add, full, batch;
    size_t apart[3];
    uint32_t align[4];
    cublasLtMatmulAlgo_t algo;
} way;

typedef struct cuda {
    device           base;
    cudaStream_t     stream;
    cublasLtHandle_t lt;
    cudaGraphExec_t  graph;
    cudaEvent_t      done[2], lap[2]; /* done: of the last two replays */
    void            *workspace, **memory;
    size_t           n_memory;
    long             replays;
    double          *seconds;
    way             *ways;
    size_t           n_ways;
    int              shared;
    char             text[200], model[120];
} cuda;

static int failed(cuda *c, const char *what, const char *why)
{
    if (!c->text[0]) snprintf(c->text, sizeof c->text, "%s: %s", what, why);
    return 1;
}

/* True after a failure, this one or an earlier one. */
static int bad(cuda *c, const char *what, cudaError_t e)
{
    return c->text[0] || (e != cudaSuccess && failed(c, what, cudaGetErrorString(e)));
}

static int bad_lt(cuda *c, const char *what, cublasStatus_t e)
{
    return c->text[0] || (e != CUBLAS_STATUS_SUCCESS && failed(c, what, cublasLtGetStatusString(e)));
}

static void *cuda_alloc(device *v, size_t bytes, memory_kind kind)
{
    cuda *c = (cuda *)v;
    void *p = NULL, **list = (void **)realloc(c->memory, (c->n_memory + 1) * sizeof *list);
    if (!list) abort();
    c->memory = list;
    if (c->text[0]) return NULL;
    if (bad(c, "memory", c->shared ? cudaHostAlloc(&p, bytes, cudaHostAllocMapped) : cudaMalloc(&p, bytes)))
        return NULL;
    c->memory[c->n_memory++] = p;
    if (c->shared)
        memset(p, 0, bytes);
    else
        bad(c, "memory", cudaMemsetAsync(p, 0, bytes, c->stream));
    return p;
}

static void cuda_put(device *v, void *to, const void *from, size_t bytes)
{
    cuda *c = (cuda *)v;
    if (!c->text[0]) bad(c, "copy to the device", cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, c->stream));
    /* Of memory that the host may change at once, only small pieces are taken before the call returns. */
    if (bytes > 4096) bad(c, "copy to the device", cudaStreamSynchronize(c->stream));
}

static void cuda_get(device *v, void *to, const void *from, size_t bytes)
{
    cuda *c = (cuda *)v;
    if (c->text[0]) return;
    bad(c, "copy from the device", cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, c->stream));
    bad(c, "running", cudaStreamSynchronize(c->stream));
}

static void lap_begin(cuda *c)
{
    if (c->seconds) bad(c, "clock", cudaEventRecord(c->lap[0], c->stream));
}

static void lap_end(cuda *c, int kernel)
{
    float ms = 0;
    if (!c->seconds || bad(c, "clock", cudaEventRecord(c->lap[1], c->stream))) return;
    if (bad(c, "running", cudaEventSynchronize(c->lap[1]))) return;
    if (!bad(c, "clock", cudaEventElapsedTime(&ms, c->lap[0], c->lap[1]))) c->seconds[kernel] += 1e-3 * ms;
}

static void cuda_launch(device *v, int kernel, const void *args, uint32_t n)
{
    cuda *c = (cuda *)v;
    const uint32_t blocks = (n + THREADS - 1) / THREADS;
    if (c->text[0] || !n) return;
    lap_begin(c);
    switch (kernel) {
#define X(name)                                                                                             \
    case KERNEL_##name:                                                                                     \
        name##_kernel<<<blocks, THREADS, 0, c->stream>>>(*(const name##_args *)args, n);                    \
        bad(c, #name, cudaGetLastError());                                                                  \
        break;
        KERNELS(X)
#undef X
    }
    lap_end(c, kernel);
}

static cudaDataType_t type_of(array a)
{
    return a.f32 ? CUDA_R_32F : CUDA_R_16BF;
}

static uint32_t alignment(uintptr_t p)
{
    const uint32_t low = (uint32_t)(p & 255);
    return low ? low & (0 - low) : 256;
}

static way way_of(const product *p)
{
    way w;
    memset(&w, 0, sizeof w);
    w.m = p->m, w.n = p->n, w.k = p->k, w.ta = p->ta, w.tb = p->tb;
    w.wide[0] = p->a.f32, w.wide[1] = p->d.f32;
    w.bias = p->bias.p != NULL, w.relu = p->relu, w.add = p->add.p != NULL;
    w.full = p->full, w.batch = p->batch;
    const array at[4] = {p->a, p->b, p->add.p ? p->add : p->d, p->d};
    for (int i = 0; i < 4; i++) {
        const int k = i < 2 ? i : 2;
        w.apart[k] = p->apart[k];
        w.align[i] = alignment((uintptr_t)at[i].p | p->apart[k] * (at[i].f32 ? 4 : 2));
    }
    return w;
}

typedef struct plan { /* of a product, while it is set up */
    cublasLtMatmulDesc_t   what;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulPreference_t wish;
} plan;

static int plan_make(cuda *c, const product *p, const way *w, plan *t)
{
    const cublasOperation_t op[2] = {CUBLAS_OP_N, CUBLAS_OP_T};
    const cublasComputeType_t compute =
        p->a.f32 && !p->full && !c->base.exact ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    const cublasLtEpilogue_t epilogue = w->bias ? p->relu ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_BIAS
                                                : CUBLASLT_EPILOGUE_DEFAULT;
    const size_t room = WORKSPACE;
    if (bad_lt(c, "product", cublasLtMatmulDescCreate(&t->what, compute, CUDA_R_32F)) ||
        bad_lt(c, "product", cublasLtMatrixLayoutCreate(&t->a, type_of(p->a), p->ta ? p->k : p->m,
                                                        p->ta ? p->m : p->k, p->lda)) ||
        bad_lt(c, "product", cublasLtMatrixLayoutCreate(&t->b, type_of(p->b), p->tb ? p->n : p->k,
                                                        p->tb ? p->k : p->n, p->ldb)) ||
        bad_lt(c, "product", cublasLtMatrixLayoutCreate(&t->d, type_of(p->d), p->m, p->n, p->m)) ||
        bad_lt(c, "product", cublasLtMatmulPreferenceCreate(&t->wish)))
        return 1;
    const struct { cublasLtMatmulDescAttributes_t name; const void *v; size_t bytes; } set[4] = {
        {CUBLASLT_MATMUL_DESC_TRANSA, &op[p->ta], sizeof *op},
        {CUBLASLT_MATMUL_DESC_TRANSB, &op[p->tb], sizeof *op},
        {CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue},
        {CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p->bias.p, sizeof p->bias.p}};
    for (int i = 0; i < 3 + w->bias; i++)
        if (bad_lt(c, "product", cublasLtMatmulDescSetAttribute(t->what, set[i].name, set[i].v, set[i].bytes)))
            return 1;
    const cublasLtMatmulPreferenceAttributes_t name[4] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    for (int i = 0; i < 4; i++)
        if (bad_lt(c, "product",
                   cublasLtMatmulPreferenceSetAttribute(t->wish, name[i], &w->align[i], sizeof *w->align)))
            return 1;
    const cublasLtMatrixLayout_t layout[3] = {t->a, t->b, t->d};
    for (int i = 0; p->batch > 1 && i < 3; i++) {
        const int32_t batch = p->batch;
        const int64_t apart = (int64_t)p->apart[i];
        if (bad_lt(c, "product", cublasLtMatrixLayoutSetAttribute(layout[i], CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
                                                                  &batch, sizeof batch)) ||
            bad_lt(c, "product", cublasLtMatrixLayoutSetAttribute(
                                     layout[i], CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &apart, sizeof apart)))
            return 1;
    }
    return bad_lt(c, "product", cublasLtMatmulPreferenceSetAttribute(
                                    t->wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room, sizeof room));
}

static void plan_free(plan *t)
{
    if (t->wish) cublasLtMatmulPreferenceDestroy(t->wish);
    if (t->d) cublasLtMatrixLayoutDestroy(t->d);
    if (t->b) cublasLtMatrixLayoutDestroy(t->b);
    if (t->a) cublasLtMatrixLayoutDestroy(t->a);
    if (t->what) cublasLtMatmulDescDestroy(t->what);
}

static cublasStatus_t plan_run(cuda *c, const product *p, const plan *t, const cublasLtMatmulAlgo_t *algo, void *to)
{
    const float one = 1.f, addend = p->add.p ? 1.f : 0.f;
    return cublasLtMatmul(c->lt, t->what, &one, p->a.p, t->a, p->b.p, t->b, &addend, p->add.p ? p->add.p : to, t->d,
                          to, t->d, algo, c->workspace, WORKSPACE, c->stream);
}

/* Seconds of the fastest of TRIALS; those that fail take for ever. */
static float trial(cuda *c, const product *p, const plan *t, const cublasLtMatmulAlgo_t *algo, void *to)
{
    float best = 1e30f, ms;
    for (int i = 0; i < TRIALS; i++) {
        cudaEventRecord(c->lap[0], c->stream);
        const cublasStatus_t e = plan_run(c, p, t, algo, to);
        cudaEventRecord(c->lap[1], c->stream);
        cudaEventSynchronize(c->lap[1]);
        if (e != CUBLAS_STATUS_SUCCESS || cudaEventElapsedTime(&ms, c->lap[0], c->lap[1]) != cudaSuccess) {
            cudaGetLastError(); /* it is no failure of the step */
            return 1e30f;
        }
        if (ms < best) best = ms;
    }
    return best;
}

static int choose_way(cuda *c, const product *p, const plan *t, way *w)
{
    cublasLtMatmulHeuristicResult_t found[WAYS];
    int n = 0, best = 0;
    float least = 1e30f;
    void *to = NULL; /* the result is not touched: it may be an addend */
    const cublasStatus_t e =
        cublasLtMatmulAlgoGetHeuristic(c->lt, t->what, t->a, t->b, t->d, t->d, t->wish, WAYS, found, &n);
    if (e != CUBLAS_STATUS_SUCCESS || !n) {
        char what[100];
        snprintf(what, sizeof what, "product %d x %d x %d, transposed %d %d, float32 %d %d", p->m, p->n, p->k, p->ta,
                 p->tb, p->a.f32, p->d.f32);
        return failed(c, what, "cuBLASLt knows no way");
    }
    const size_t room = (p->batch > 1 ? p->apart[2] * p->batch : (size_t)p->m * p->n) * 4;
    if (n > 1 && !c->base.exact && cudaMalloc(&to, room) != cudaSuccess) {
        cudaGetLastError(); /* then the first will do */
        to = NULL;
    }
    for (int i = 0; to && i < n; i++) {
        const float ms = found[i].state == CUBLAS_STATUS_SUCCESS ? trial(c, p, t, &found[i].algo, to) : 1e30f;
        if (ms < least) least = ms, best = i;
    }
    if (to) cudaFree(to);
    w->algo = found[best].algo;
    c->ways = (way *)realloc(c->ways, (c->n_ways + 1) * sizeof *c->ways);
    if (!c->ways) abort();
    c->ways[c->n_ways++] = *w;
    return c->text[0] != 0;
}

static void cuda_multiply(device *v, const product *p)
{
    cuda *c = (cuda *)v;
    way w = way_of(p);
    plan t = {};
    size_t i = 0;
    if (c->text[0] || !p->m || !p->n || !p->k) return;
    if (!plan_make(c, p, &w, &t)) {
        while (i < c->n_ways && memcmp(&c->ways[i], &w, offsetof(way, algo)) != 0) i++;
        if (i < c->n_ways || !choose_way(c, p, &t, &w)) {
            lap_begin(c);
            bad_lt(c, "product", plan_run(c, p, &t, &c->ways[i].algo, p->d.p));
            lap_end(c, KERNEL_N);
        }
    }
    plan_free(&t);
}

static void cuda_record(device *v, int on)
{
    cuda *c = (cuda *)v;
    cudaGraph_t graph = NULL;
    if (c->text[0]) return;
    if (on) {
        bad(c, "recording", cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal));
        return;
    }
    if (!bad(c, "recording", cudaStreamEndCapture(c->stream, &graph)))
        bad(c, "recording", cudaGraphInstantiate(&c->graph, graph, 0));
    if (graph) cudaGraphDestroy(graph);
}

static void cuda_replay(device *v)
{
    cuda *c = (cuda *)v;
    cudaEvent_t done = c->done[c->replays++ % 2];
    if (c->text[0] || bad(c, "running", cudaEventSynchronize(done))) return;
    bad(c, "running", cudaGraphLaunch(c->graph, c->stream));
    bad(c, "running", cudaEventRecord(done, c->stream));
}

static const char *cuda_trouble(device *v)
{
    cuda *c = (cuda *)v;
    bad(c, "running", cudaPeekAtLastError());
    return c->text[0] ? c->text : NULL;
}

static void cuda_watch(device *v, double *seconds)
{
    ((cuda *)v)->seconds = seconds;
}

static void cuda_close(device *v)
{
    cuda *c = (cuda *)v;
    if (c->stream) cudaStreamSynchronize(c->stream);
    for (size_t i = 0; i < c->n_memory; i++) c->shared ? cudaFreeHost(c->memory[i]) : cudaFree(c->memory[i]);
    if (c->workspace) cudaFree(c->workspace);
    if (c->graph) cudaGraphExecDestroy(c->graph);
    for (int i = 0; i < 2; i++) {
        if (c->done[i]) cudaEventDestroy(c->done[i]);
        if (c->lap[i]) cudaEventDestroy(c->lap[i]);
    }
    if (c->lt) cublasLtDestroy(c->lt);
    if (c->stream) cudaStreamDestroy(c->stream);
    free(c->memory);
    free(c->ways);
    free(c);
}

extern "C" __attribute__((visibility("default"))) device *nsvq_train_cuda_open(int shared, char *why, size_t size)
{
    cuda *c = (cuda *)calloc(1, sizeof *c);
    cudaDeviceProp is;
    if (!c) abort();
    c->base.name = "cuda";
    c->base.alloc = cuda_alloc;
    c->base.put = cuda_put;
    c->base.get = cuda_get;
    c->base.launch = cuda_launch;
    c->base.multiply = cuda_multiply;
    c->base.record = cuda_record;
    c->base.replay = cuda_replay;
    c->base.trouble = cuda_trouble;
    c->base.watch = cuda_watch;
    c->base.close = cuda_close;
    c->shared = shared;
    if (!bad(c, "no GPU", cudaGetDeviceProperties(&is, 0)) &&
        !bad(c, "stream", cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking)) &&
        !bad(c, "memory", cudaMalloc(&c->workspace, WORKSPACE)) && !bad_lt(c, "cuBLASLt", cublasLtCreate(&c->lt))) {
        for (int i = 0; i < 2; i++) {
            bad(c, "event", cudaEventCreateWithFlags(&c->done[i], cudaEventDisableTiming));
            bad(c, "event", cudaEventCreate(&c->lap[i]));
        }
        snprintf(c->model, sizeof c->model, "%.100s", is.name);
        c->base.name = c->model;
    }
    if (!c->text[0]) return &c->base;
    snprintf(why, size, "%s", c->text);
    cuda_close(&c->base);
    return NULL;
}
