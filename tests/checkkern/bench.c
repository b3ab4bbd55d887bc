/* bench.c - speed per operator, shape and instruction set.
 *
 * A sample is at least 2 ms of one operator, with the peak of the registers measured right before
 * it; the columns are medians over the samples, so that a neighbour's load hits both. Spread is the
 * distance of the quartiles, in per cent of the median.
 */
#include "checkkern.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLES = 15, BYTES = 16 << 20 };

typedef struct job {
    const char *op;
    int cin, cout, in_type, out_type, res_type, k, n;
} job;

static const job jobs[] = {
    {"pointwise", 256, 256, NSVQ_U8, NSVQ_S16, NSVQ_S16, 0, 32},
    {"pointwise", 256, 256, NSVQ_U8, NSVQ_S16, NSVQ_S16, 0, 1024},
    {"pointwise", 256, 768, NSVQ_U8, NSVQ_U8, NSVQ_NONE, 0, 32},
    {"pointwise", 256, 768, NSVQ_U8, NSVQ_U8, NSVQ_NONE, 0, 1024},
    {"pointwise", 48, 48, NSVQ_U8, NSVQ_U8, NSVQ_U8, 0, 512},
    {"pointwise", 48, 48, NSVQ_U8, NSVQ_U8, NSVQ_U8, 0, 4096},
    {"pointwise", 48, 48, NSVQ_U8, NSVQ_S16, NSVQ_S16, 0, 512},
    {"pointwise", 48, 48, NSVQ_U8, NSVQ_S16, NSVQ_S16, 0, 4096},
    {"pointwise", 128, 64, NSVQ_U8, NSVQ_U8, NSVQ_NONE, 0, 1024},
    {"pointwise", 128, 24, NSVQ_U8, NSVQ_S16, NSVQ_NONE, 0, 1024},
    {"pointwise", 96, 256, NSVQ_S16, NSVQ_S16, NSVQ_NONE, 0, 1024},
    {"pointwise", 96, 768, NSVQ_S16, NSVQ_S16, NSVQ_NONE, 0, 1024},
    {"pointwise", 48, 64, NSVQ_S16, NSVQ_S16, NSVQ_NONE, 0, 1024},
    {"pointwise", 256, 128, NSVQ_S16, NSVQ_S16, NSVQ_NONE, 0, 1024},
    {"pointwise", 512, 256, NSVQ_S16, NSVQ_S16, NSVQ_NONE, 0, 1024},
    {"pointwise", 768, 96, NSVQ_S16, NSVQ_S16, NSVQ_NONE, 0, 1024},
    {"pointwise", 388, 96, NSVQ_S16, NSVQ_U8, NSVQ_NONE, 0, 1024},
    {"pointwise", 388, 128, NSVQ_S16, NSVQ_U8, NSVQ_NONE, 0, 1024},
    {"depthwise", 256, 256, NSVQ_S16, NSVQ_U8, NSVQ_NONE, 3, 32},
    {"depthwise", 64, 64, NSVQ_S16, NSVQ_U8, NSVQ_NONE, 5, 128},
    {"depthwise", 128, 128, NSVQ_S16, NSVQ_U8, NSVQ_NONE, 5, 64},
    {"search", 24, 4096, NSVQ_S16, NSVQ_S16, NSVQ_NONE, 0, 1},
    {"to_pixels", 768, 768, NSVQ_S16, NSVQ_U8, NSVQ_NONE, 0, 32},
    {"from_pixels", 48, 48, NSVQ_U8, NSVQ_S16, NSVQ_NONE, 0, 128},
};

typedef struct work {
    uint8_t *in, *res, *out;
    int8_t *wt;
    int32_t *bias;
    uint8_t *shift;
    int16_t *mul;
    nsvq_pointwise pw;
    nsvq_depthwise dw;
    nsvq_codebook book;
} work;

static void *filled(size_t bytes, unsigned mask)
{
    uint8_t *p = aligned_alloc(64, bytes);
    uint32_t x = 1;

    if (!p) {
        fprintf(stderr, "checkkern: out of memory\n");
        exit(1);
    }
    for (size_t i = 0; i < bytes; i++) {
        x = x * 1664525 + 1013904223;
        p[i] = (uint8_t)(x >> 24 & mask);
    }
    return p;
}

/* Work counted: multiply-accumulates, or pixels where there are none. */
static double units(const job *j)
{
    if (!strcmp(j->op, "depthwise")) return (double)j->n * j->cin * j->k * j->k;
    if (!strcmp(j->op, "to_pixels")) return j->n * 256.0;
    if (!strcmp(j->op, "from_pixels")) return j->n * 16.0;
    return (double)j->n * j->cin * j->cout;
}

static bool has_macs(const job *j)
{
    return strcmp(j->op, "to_pixels") && strcmp(j->op, "from_pixels");
}

static void prepare(const nsvq_kernels *k, const job *j, work *w)
{
    int failed = 0;

    w->pw = (nsvq_pointwise){.cin = (uint16_t)j->cin, .cout = (uint16_t)j->cout,
                             .in_type = (uint8_t)j->in_type, .out_type = (uint8_t)j->out_type,
                             .res_type = (uint8_t)j->res_type};
    w->dw = (nsvq_depthwise){.channels = (uint16_t)j->cin, .k = (uint8_t)j->k};
    w->book = (nsvq_codebook){.n_codes = (uint32_t)j->cout, .dim = (uint16_t)j->cin};
    if (!strcmp(j->op, "pointwise"))
        failed = k->pointwise_pack(&w->pw, w->wt, w->bias, w->shift, w->mul);
    if (!strcmp(j->op, "depthwise"))
        failed = k->depthwise_pack(&w->dw, w->wt, w->bias, w->shift, w->mul);
    if (!strcmp(j->op, "search")) failed = k->codebook_pack(&w->book, (const int16_t *)w->in);
    if (failed) {
        fprintf(stderr, "checkkern: out of memory\n");
        exit(1);
    }
}

static void run(const nsvq_kernels *k, const job *j, work *w)
{
    if (!strcmp(j->op, "pointwise")) {
        k->pointwise(w->out, w->in, j->res_type ? w->res : NULL, &w->pw, j->n);
    } else if (!strcmp(j->op, "depthwise")) {
        size_t row = 2 * (size_t)j->cin * (size_t)(j->n + j->k - 1);
        const int16_t *rows[5];

        for (int i = 0; i < j->k; i++)
            rows[i] = (const int16_t *)(w->in + (size_t)i * row);
        k->depthwise(w->out, rows, &w->dw, j->n);
    } else if (!strcmp(j->op, "search")) {
        int32_t cost;

        w->out[0] = (uint8_t)k->search(&w->book, (const int16_t *)w->res, w->bias, w->bias, &cost);
    } else if (!strcmp(j->op, "to_pixels")) {
        k->to_pixels(w->out, 48 * j->n, (const int16_t *)w->in, j->n, 16);
    } else {
        k->from_pixels((int16_t *)w->out, w->in, 12 * j->n, j->n);
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

/* One line; returns the median speed in units a second. */
static double measure(const nsvq_kernels *k, unsigned cpu, const job *j, work *w, double c_speed)
{
    double speed[SAMPLES], share[SAMPLES], once, median;
    char shape[64];
    int repeats;

    prepare(k, j, w);
    run(k, j, w);
    once = seconds();
    run(k, j, w);
    once = seconds() - once;
    repeats = once > 2e-3 ? 1 : (int)(2e-3 / (once + 1e-7)) + 1;
    for (int i = 0; i < SAMPLES; i++) {
        double top = peak(cpu, (nsvq_elem)j->in_type), start = seconds();

        for (int r = 0; r < repeats; r++)
            run(k, j, w);
        speed[i] = units(j) * repeats / (seconds() - start);
        share[i] = top > 0 && has_macs(j) ? speed[i] / top : 0;
    }
    nsvq_pointwise_free(&w->pw);
    nsvq_depthwise_free(&w->dw);
    nsvq_codebook_free(&w->book);
    qsort(speed, SAMPLES, sizeof *speed, by_value);
    qsort(share, SAMPLES, sizeof *share, by_value);
    median = speed[SAMPLES / 2];
    if (j->k)
        snprintf(shape, sizeof shape, "%dx%d c%d", j->k, j->k, j->cin);
    else
        snprintf(shape, sizeof shape, "%d->%d %s>%s%s", j->cin, j->cout,
                 j->in_type == NSVQ_U8 ? "u8" : "s16", j->out_type == NSVQ_U8 ? "u8" : "s16",
                 j->res_type == NSVQ_U8 ? "+u8" : j->res_type == NSVQ_S16 ? "+s16" : "");
    printf("%-11s %-20s %5d %-10s %8.2f %s %5.1f%% ", j->op, shape, j->n, k->name,
           median * (has_macs(j) ? 1e-9 : 1e-6), has_macs(j) ? "GMAC/s  " : "Mpixel/s",
           100 * (speed[SAMPLES * 3 / 4] - speed[SAMPLES / 4]) / median);
    if (share[SAMPLES / 2] > 0)
        printf("%6.1f%%", 100 * share[SAMPLES / 2]);
    else
        printf("%7s", "-");
    printf(" %7.1f\n", c_speed > 0 ? median / c_speed : 1.0);
    return median;
}

static void header(unsigned cpu)
{
    char line[256], name[128] = "unknown CPU";
    FILE *f = fopen("/proc/cpuinfo", "r");

    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "model name : %127[^\n]", name) == 1) break;
    if (f) fclose(f);
    printf("# %s, 1 thread, %d samples; registers only, GMAC/s:", name, SAMPLES);
    printf(" avx2 %.0f", 1e-9 * peak(cpu & NSVQ_CPU_AVX2, NSVQ_S16));
    if (cpu & NSVQ_CPU_AVX512VNNI)
        printf(", avx512vnni u8 %.0f, s16 %.0f", 1e-9 * peak(cpu, NSVQ_U8),
               1e-9 * peak(cpu, NSVQ_S16));
    printf("\n%-11s %-20s %5s %-10s %8s %-8s %6s %7s %7s\n", "operator", "shape", "n", "isa",
           "median", "", "spread", "of peak", "x C");
}

void bench(unsigned cpu, const char *filter)
{
    static const unsigned levels[] = {NSVQ_CPU_C, NSVQ_CPU_AVX2,
                                      NSVQ_CPU_AVX2 | NSVQ_CPU_AVX512VNNI};
    work w = {.in = filled(BYTES, 0x0f), .res = filled(BYTES, 0x0f), .out = filled(BYTES, 0),
              .wt = filled(1 << 20, 0xff), .bias = filled(1 << 16, 0x01),
              .shift = filled(4096, 0x07), .mul = filled(8192, 0x7f)};

    header(cpu);
    for (size_t i = 0; i < COUNT(jobs); i++) {
        double c_speed = 0;

        if (filter && !strstr(jobs[i].op, filter)) continue;
        for (size_t l = 0; l < COUNT(levels); l++) {
            nsvq_kernels k;
            double speed;

            if ((cpu & levels[l]) != levels[l]) continue;
            nsvq_kernels_init(&k, levels[l]);
            speed = measure(&k, levels[l], &jobs[i], &w, c_speed);
            if (l == 0) c_speed = speed;
        }
    }
    free(w.in);
    free(w.res);
    free(w.out);
    free(w.wt);
    free(w.bias);
    free(w.shift);
    free(w.mul);
}
