/* prior.h - the probability model of a block's latents (FORMAT.md 5.2 to 5.4).
 * May include: engine.h. */
#ifndef NSVQ_PRIOR_H
#define NSVQ_PRIOR_H

#include "engine.h"

#define PRIOR_MAX_CELLS    64  /* 4096 codes */
#define PRIOR_DECAY        512
#define PRIOR_MEMBER_START (NSVQ_CELL + 1)

typedef struct prior {
    nsvq_pointwise mean[NSVQ_N_PASSES], ctx[NSVQ_N_PASSES];
    nsvq_pointwise prev[NSVQ_MAX_SLICES], logit[NSVQ_MAX_SLICES], shiftm[NSVQ_MAX_SLICES];
    uint16_t      *member_start;       /* [slice][cell][65] cumulated frequencies */
    uint16_t       decay[PRIOR_DECAY]; /* 2^15 * 2^(-d / 32) */
} prior;

/* 0, or -1 without memory (nothing to free). */
int  prior_create(prior *p, const nsvq_model_desc *m, const nsvq_kernels *k);
void prior_free(prior *p);

/* Cumulated frequencies of n <= 64 cells: start[0] = 0 .. start[n] = 2^15, each cell at least 1. */
void prior_cells(const prior *p, const int16_t *logit, int n, uint16_t *start);

int prior_pass(int x, int y);
/* Positions of a pass, in raster order; returns their number. list has room for bw * bh. */
typedef struct prior_position { uint8_t x, y; } prior_position;
int prior_positions(prior_position *list, int pass, int bw, int bh);

/* latents [bh][bw][pitch], of which the first n_latent count; seed [n_latent], or NULL in passes that
 * always have a neighbour. */
typedef struct prior_block {
    int            bw, bh, n_latent, pitch, quality;
    const int16_t *latents, *seed;
} prior_block;
/* The latents of the four neighbours: 4 * n_latent values. Returns how many lie outside. */
int prior_neighbours(int16_t *ctx, const prior_block *b, int pass, prior_position at);
/* Context of a position of the vq family from the decoded latents of its neighbours: X values. */
void prior_context(int16_t *ctx, const prior_block *b, int pass, prior_position at);

/* block.c: as nsvq_block_encode, nsvq_block_decode, nsvq_block_bound; quality 1 .. 100. */
int    vq_block_encode(const nsvq_engine *e, nsvq_scratch *s, const int16_t *y, int bw, int bh, int quality,
                       uint8_t *out, size_t *size, int16_t *y_hat);
int    vq_block_decode(const nsvq_engine *e, nsvq_scratch *s, const uint8_t *in, size_t size, int bw,
                       int bh, int quality, int16_t *y_hat, uint8_t *quiet);
size_t vq_block_bound(const nsvq_engine *e, int bw, int bh);

#endif
