/* hyper.h - the base layer of a block in the hyper family (FORMAT.md 6).
 * May include: engine.h, net.h, trellis.h. */
#ifndef NSVQ_HYPER_H
#define NSVQ_HYPER_H

#include "engine.h"
#include "net.h"
#include "trellis.h"

typedef struct symbol_table {
    uint16_t     start[NSVQ_CLASS_SYMBOLS + 1]; /* cumulated frequencies */
    uint8_t      first[256];                    /* see rans_get_by */
    symbol_costs costs;
} symbol_table;

typedef struct dependent {
    symbol_table table[NSVQ_N_CLASSES][2]; /* of both quantisers */
    trellis      search;
} dependent;

typedef struct hyper {
    net            analysis, synthesis;
    nsvq_pointwise scale, base, mean[NSVQ_N_PASSES];
    symbol_table   table[NSVQ_N_CLASSES];
    dependent     *dependent; /* NULL: residuals of latents have the same tables as hyper-latents */
} hyper;

/* 0, or -1 without memory (nothing to free). */
int  hyper_create(hyper *h, const nsvq_model_desc *m, const nsvq_kernels *k);
void hyper_free(hyper *h); /* fine on a zeroed struct */

/* As nsvq_block_encode, nsvq_block_decode, nsvq_block_bound. */
int    hyper_block_encode(const nsvq_engine *e, nsvq_scratch *s, const int16_t *y, int bw, int bh,
                          int quality16, uint8_t *out, size_t *size, int16_t *y_hat);
int    hyper_block_decode(const nsvq_engine *e, nsvq_scratch *s, const uint8_t *in, size_t size, int bw,
                          int bh, int16_t *y_hat);
size_t hyper_block_bound(const nsvq_engine *e, int bw, int bh);

#endif
