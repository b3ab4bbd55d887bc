/* vq.h - the quantiser of the vq family in float: codebooks, prior, their training. Mirrors
 * codec/FORMAT.md section 5 (passes, contexts, slices). Latents in real units are the integer ones
 * divided by LATENT_ONE. */
#ifndef NSVQ_TRAINER_VQ_H
#define NSVQ_TRAINER_VQ_H

#include "layer.h"

typedef struct vq {
    int    slices, dim, codes, cells, hidden;
    int    latent, context; /* channels: slices * dim; neighbours and side inputs */
    layer  mean[NSVQ_N_PASSES], ctx[NSVQ_N_PASSES];
    layer  prev[NSVQ_MAX_SLICES], logit[NSVQ_MAX_SLICES], shiftm[NSVQ_MAX_SLICES];
    int    seed_channel[3];
    float  lambda50;        /* squared real latent units per bit at quality 50 */
    float *code;            /* [slice][code][dim] */
    float *code_t;          /* [slice][code / 16][dim][16], for the search */
    float *norm;            /* [slice][code]: |code|^2 */
    float *member_bits;     /* [slice][code] */
    float *ema_n, *ema_sum; /* [slice][code], [slice][code][dim] */
    float *spare;           /* [slice][cell][dim], vq_sums' while no training runs */
} vq;

/* Sums of one thread over a step. */
typedef struct vq_sums {
    float *n, *sum;       /* like ema_n, ema_sum */
    float *spare;         /* [slice][cell][dim]: a recent residual of each cell, for dead codes */
    double bits, cell_bits, distortion, residual;
    long   n_latents;
} vq_sums;

/* Everything of one patch, in coding order: pass ranges are contiguous. */
typedef struct vq_patch {
    int    n, cap;
    int    pass_at[NSVQ_N_PASSES + 1];
    int   *pos;                 /* raster index of each */
    float *ctx, *mean, *hid;    /* [n][context], [n][latent], [n][hidden] */
    float *h[NSVQ_MAX_SLICES];  /* [n][hidden] */
    float *logit[NSVQ_MAX_SLICES]; /* [n][cells], bits */
    float *mu[NSVQ_MAX_SLICES]; /* [n][dim] */
    float *word;                /* [n][latent]: chosen codewords */
    float *packed;              /* scratch: words without gaps */
    int   *choice[NSVQ_MAX_SLICES];
    float *y;                   /* [n][latent], coding order */
    float *g_mean, *g_hid, *g_h, *g_logit, *g_mu; /* gradients */
    float  seed[3];
} vq_patch;

void vq_build(vq *q, store *s, int slices, int dim, int codes, int hidden);
void vq_refresh(vq *q);        /* code_t and norm from code */
void vq_member_table(vq *q);   /* member_bits from ema_n */
float vq_lambda(const vq *q, float quality);
void vq_reserve(const vq *q, vq_patch *p, int n); /* room for n latents */
/* How the positions of a w x h block order; fills pos and pass_at. */
void vq_order(vq_patch *p, int w, int h);
void vq_context(const vq *q, vq_patch *p, int i, int w, int h, const float *y_hat, float quality);
/* y [h][w][latent] -> y_hat; sums may be NULL. Returns the bits. */
double vq_quantise(const vq *q, const float *params, vq_patch *p, const float *y, int w, int h,
                   float quality, float *y_hat, vq_sums *sums);
/* Gradients of bits + |y - mu|^2 / (2 lambda), times weight, into g. After vq_quantise. */
void vq_backward(const vq *q, const float *params, float *g, vq_patch *p, float quality, float weight);
void vq_update(vq *q, const vq_sums *sums, float decay);
int  vq_revive(vq *q, const vq_sums *sums, uint64_t *rng); /* returns how many codes moved */
/* Scales the hidden units, whose largest values are in peak, so that all have the peak that is returned;
 * what leaves them shrinks as they grow. Units near zero stay under it. */
float vq_balance(const vq *q, float *params, const float *peak);
void vq_patch_free(vq_patch *p);
vq_sums *vq_sums_new(const vq *q);
void vq_sums_clear(const vq *q, vq_sums *s);
void vq_sums_add(const vq *q, vq_sums *to, const vq_sums *from);

#endif
