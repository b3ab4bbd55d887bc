/* gpu_impl.h - what gpu.c plans and gpu_step.c runs. */
#ifndef NSVQ_TRAINER_GPU_IMPL_H
#define NSVQ_TRAINER_GPU_IMPL_H

#include "cuda/kernels.h"
#include "gpu.h"

typedef struct reg { /* of all patches */
    array v, g;
    int   h, w, c;
} reg;

/* Matrices of one shape that step by Muon: the first one's place in x, its Gram matrix's among the squares. */
typedef struct muon_group { int n, rows, cols; uint32_t x, square; } muon_group;

/* Of the coding order: first row, latents of a patch in it and before it; what its predictor says. */
typedef struct code_pass { int first, has, before; float *mean; } code_pass;

struct gpu {
    device *dev;
    network net[N_NETS];
    layer   mean[NSVQ_N_PASSES];
    reg     r[N_NETS][NSVQ_MAX_REGISTERS];
    int     squares, batch, size, n_cls, n_segments, n_sums, steps;
    size_t  n;                       /* parameters */
    float  *p, *m, *v, *average, *grad, *column;
    array   low;                     /* p in bfloat16; in exact mode p itself */
    orders *in;
    run_state *s;
    drawn  *drawn;
    source *src;
    source_class *cls;
    float   vivid, from, to;
    latent_args lat;
    code_pass pass[NSVQ_N_PASSES];
    float  *gain_sum, *z_gain_part, *bits_part, *error_part, *bits_sum, *error_sum;
    size_t  gain, z_gain, z_mean, z_scale;
    int     n_bits, n_errors;
    /* Partial sums: of a layer, then [FOLDS][n_sums] of all, and where each column belongs. */
    float  *sums, *folded;
    uint32_t *sum_place;
    size_t  sum_at[2 * 4 * NSVQ_MAX_LAYERS + 2 * NSVQ_N_PASSES + 2]; /* store offsets in order */
    int     sum_column[2 * 4 * NSVQ_MAX_LAYERS + 2 * NSVQ_N_PASSES + 2], n_sum;
    array   scratch[2];              /* bfloat16, float32 */
    /* Norms: spans of 64, sums of 64 of those, segments. */
    stretch *span[3];
    float   *span_sum[3], *running, *scale;
    uint32_t n_spans[3];
    seg_rates *parts;
    uint16_t *part_of;
    /* Muon: shapes, and, across shapes, groups of squares of one size. */
    muon_group shape[MAX_SEGMENTS], side[MAX_SEGMENTS];
    int     n_matrices, n_shapes, n_sides;
    uint32_t n_squares;              /* their elements */
    float  *ahead, *moved, *square[4], *trace;
    muon_square *square_at;
    uint16_t *square_of;
};

static inline size_t gpu_count(const gpu *g, const reg *r)
{
    return (size_t)g->batch * (size_t)r->h * (size_t)r->w * (size_t)r->c;
}

/* Elements that a matrix takes up, as in the store. */
static inline uint32_t gpu_whole(int rows, int cols)
{
    return ((uint32_t)rows * (uint32_t)cols + 15) & ~15u;
}

#define LAUNCH(g, kernel, n, ...)                                                                           \
    (g)->dev->launch((g)->dev, KERNEL_##kernel, &(kernel##_args){__VA_ARGS__}, (uint32_t)(n))

#endif
