/* host.c - see host.h. A recorded step is a list of what was asked for. */
#include <stdlib.h>
#include <string.h>

#include "cuda/kernels.h"
#include "host.h"

typedef union any_args {
#define X(name) name##_args name;
    KERNELS(X)
#undef X
    product multiply;
} any_args;

typedef struct command { int kernel; uint32_t n; any_args args; } command;

typedef struct host {
    device   base;
    void   **memory;
    size_t   n_memory, n_commands;
    command *commands;
    int      recording;
} host;

static const size_t args_bytes[KERNEL_N] = {
#define X(name) sizeof(name##_args),
    KERNELS(X)
#undef X
};

void host_launch(int kernel, const void *args, uint32_t n)
{
    switch (kernel) {
#define X(name)                                                                                             \
    case KERNEL_##name:                                                                                     \
        for (uint32_t i = 0; i < n; i++) name##_body((const name##_args *)args, i);                         \
        break;
        KERNELS(X)
#undef X
    }
}

static void multiply_one(const product *p)
{
    for (int j = 0; j < p->n; j++)
        for (int i = 0; i < p->m; i++) {
            const size_t at = (size_t)j * (size_t)p->m + (size_t)i;
            double sum = 0;
            for (int l = 0; l < p->k; l++)
                sum += (double)get(p->a, p->ta ? (size_t)i * (size_t)p->lda + (size_t)l
                                               : (size_t)l * (size_t)p->lda + (size_t)i) *
                       get(p->b, p->tb ? (size_t)l * (size_t)p->ldb + (size_t)j
                                       : (size_t)j * (size_t)p->ldb + (size_t)l);
            if (p->add.p) sum += get(p->add, at);
            if (p->bias.p) sum += get(p->bias, (size_t)i);
            put(p->d, at, p->relu && sum < 0 ? 0.f : (float)sum);
        }
}

static array behind(array a, size_t n)
{
    return (array){(char *)a.p + n * (a.f32 ? 4 : 2), a.f32};
}

void host_multiply(const product *p)
{
    product one = *p;
    for (int i = 0; !i || i < p->batch; i++) {
        multiply_one(&one);
        one.a = behind(one.a, p->apart[0]);
        one.b = behind(one.b, p->apart[1]);
        one.d = behind(one.d, p->apart[2]);
    }
}

static void *host_alloc(device *v, size_t bytes, memory_kind kind)
{
    host *h = (host *)v;
    const size_t whole = (bytes + 255) & ~(size_t)255;
    h->memory = realloc(h->memory, (h->n_memory + 1) * sizeof *h->memory);
    void *p = h->memory ? aligned_alloc(256, whole) : NULL;
    if (!p) abort();
    return h->memory[h->n_memory++] = memset(p, 0, whole);
}

static void host_copy(device *v, void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
}

static void run_command(int kernel, const void *args, uint32_t n)
{
    if (kernel < KERNEL_N)
        host_launch(kernel, args, n);
    else
        host_multiply(args);
}

static void take(device *v, int kernel, const void *args, uint32_t n)
{
    host *h = (host *)v;
    if (!h->recording) {
        run_command(kernel, args, n);
        return;
    }
    h->commands = realloc(h->commands, (h->n_commands + 1) * sizeof *h->commands);
    if (!h->commands) abort();
    command *c = &h->commands[h->n_commands++];
    *c = (command){.kernel = kernel, .n = n};
    memcpy(&c->args, args, kernel < KERNEL_N ? args_bytes[kernel] : sizeof(product));
}

static void take_product(device *v, const product *p)
{
    take(v, KERNEL_N, p, 0);
}

static void host_record(device *v, int on)
{
    ((host *)v)->recording = on;
}

static void host_replay(device *v)
{
    const host *h = (host *)v;
    for (size_t i = 0; i < h->n_commands; i++)
        run_command(h->commands[i].kernel, &h->commands[i].args, h->commands[i].n);
}

static const char *host_trouble(device *v)
{
    return NULL;
}

static void host_watch(device *v, double *seconds)
{
}

static void host_close(device *v)
{
    host *h = (host *)v;
    for (size_t i = 0; i < h->n_memory; i++) free(h->memory[i]);
    free(h->memory);
    free(h->commands);
    free(h);
}

device *host_open(int exact)
{
    host *h = calloc(1, sizeof *h);
    if (!h) abort();
    h->base = (device){.name = "host", .exact = exact, .alloc = host_alloc, .put = host_copy, .get = host_copy,
                       .launch = take, .multiply = take_product, .record = host_record, .replay = host_replay,
                       .trouble = host_trouble, .watch = host_watch, .close = host_close};
    return &h->base;
}

/* As a module: nsvq-train --device cuda runs on the host. */
cuda_open_fn nsvq_train_cuda_open;
__attribute__((visibility("default"))) device *nsvq_train_cuda_open(int shared, char *why, size_t size)
{
    return host_open(0);
}
