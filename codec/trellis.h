/* trellis.h - dependent quantisation of residuals (FORMAT.md 6.5, 6.7): two quantisers, of which a channel's
 * state takes one for each residual; the state follows from the residuals before. Used by the codec and by the
 * trainer's export. Source: Schwarz et al., Hybrid Video Coding with Trellis-Coded Quantization, DCC 2019.
 * May include: model/desc.h. */
#ifndef NSVQ_TRELLIS_H
#define NSVQ_TRELLIS_H

#include <stddef.h>

#include "model/desc.h"

#define TRELLIS_STATES 8
#define TRELLIS_LANES  32    /* channels searched at a time */
#define TRELLIS_PRICED 32    /* magnitudes that prices are kept of */
#define TRELLIS_MAX    16383 /* of an index: residuals are twice as large */

/* The state after an index, by its parity. State s has quantiser s & 1. */
static const uint8_t trellis_next[TRELLIS_STATES][2] = {{0, 2}, {5, 7}, {1, 3}, {6, 4},
                                                        {2, 0}, {4, 6}, {3, 1}, {7, 5}};

/* The residual, in steps, that index k of quantiser q stands for, and back. */
static inline int trellis_residual(int k, int q)
{
    return 2 * k - q * ((k > 0) - (k < 0));
}

static inline int trellis_index(int r, int q)
{
    return (r + q * ((r > 0) - (r < 0))) / 2;
}

/* What the symbols of a table cost. */
typedef struct symbol_costs {
    uint8_t  half, shift;
    uint16_t bits[NSVQ_CLASS_SYMBOLS]; /* unit 1/256 bit */
} symbol_costs;

/* Bits of a residual or an index with all its symbols, unit 1/256. */
int symbol_costs_of(const symbol_costs *t, int r);

/* The encoder's search for models with tables of their own for each quantiser. */
typedef struct trellis {
    uint32_t     lambda; /* 1/1024 squared step per bit */
    symbol_costs costs[NSVQ_N_CLASSES][2];
    int32_t      price[NSVQ_N_CLASSES][2][2][TRELLIS_PRICED]; /* [class][negative][quantiser][magnitude] */
} trellis;

/* To be called when costs and lambda are there. */
void trellis_set_prices(trellis *t);

/* The positions of a pass. y, cls, residual: arrays of latents [..][n_channels]. */
typedef struct trellis_pass {
    int            n, n_channels, first_class; /* n: positions */
    const int     *at;       /* [n] rows of those arrays */
    const int16_t *y, *mu;   /* mu [n][n_channels] */
    const uint8_t *cls;      /* below first_class the residual is 0 and the state stays */
    const int32_t *step;     /* [n_channels] 1/16 unit of y, 16 to 32768 */
    uint8_t       *state;    /* [n_channels]; in: before the pass, out: after it */
    int16_t       *residual;
    void          *work;     /* trellis_work() bytes */
    int64_t        spent;    /* out: squared error + lambda * bits, unit 1/65536 squared step */
    int64_t        skipping; /* out: what leaving classes out has cost more than coding them would, at most about */
} trellis_pass;

/* Whether a block is better coded with all its classes: something unforeseen is in it. Of any quantisation. */
static inline int skips_too_much(int64_t skipping, int64_t spent)
{
    return skipping > spent / 8;
}

size_t trellis_work(int n);
/* The residuals of least cost of each channel, among those near the latents and 0. */
void trellis_search(const trellis *t, trellis_pass *p);

#endif
