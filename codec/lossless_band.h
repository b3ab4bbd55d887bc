/* lossless_band.h - a band of integers <-> numbers of the coder: prediction and scale of the
 * residuals (FORMAT.md 4.5.4). May include: lossless_coder.h, scratch.h. */
#ifndef NSVQ_LOSSLESS_BAND_H
#define NSVQ_LOSSLESS_BAND_H

#include "lossless_coder.h"
#include "scratch.h"

#define MARGIN 4   /* samples left and right of a plane; also rows above */
#define N_GROUPS 5 /* of taps: this band, each of the three before, bands further before */
#define MAX_TAPS 48
#define MAX_SETS 16
#define N_RING 17 /* this band and 16 before */
#define N_MAGNITUDES 3
#define N_SCALES 13 /* features of the scale, with the constant */
#define SCALE_MAX (1 << 22)
#define COEF_BITS 11
#define CELL 16 /* a cell of CELL x CELL samples has one set of coefficients */

typedef struct tap {
    uint8_t back; /* bands */
    int8_t dx, dy;
} tap;

typedef struct fit {
    uint8_t count[N_GROUPS]; /* taps of each group */
    uint8_t n_taps, n_sets;
    tap taps[MAX_TAPS];
    int32_t coef[MAX_SETS][MAX_TAPS], bias[MAX_SETS];
    uint8_t shift; /* of magnitudes */
    uint32_t scale[N_SCALES];
} fit;

typedef struct bands {
    coder c;
    uint32_t w, h, band;
    uint32_t cells_x, cells_y;
    ptrdiff_t stride;
    uint32_t n_ring;
    int32_t *sample[N_RING];           /* of this band, the one before ...: at its (0, 0) */
    uint16_t *magnitude[N_MAGNITUDES]; /* same stride and margins */
    uint8_t *cell;                     /* [cells_y][cells_x] set of each cell */
    const uint8_t *mask;               /* [h][w] 1: not coded; NULL: none */
    bool repeats;                      /* samples equal to a neighbour are coded as such */
    uint8_t *skip;                     /* writer: [h][w] 1: masked or repeated; NULL: none */
    int32_t low, high;                 /* what samples are */
    int32_t most[N_RING];              /* greatest magnitude of samples, of each band as above */
    fit f;
    uint8_t cut[N_CLASSES]; /* low bits of a residual of each class */
    nsvq_scratch *work;  /* writer */
    bool sparse;         /* writer, in a trial: only every fourth row of cells is coded */
    int32_t *sums;      /* [w] */
    int64_t *wide_sums; /* [w] */
    uint32_t *scale;    /* [w] */
} bands;

/* Carves what b needs, all of it 0 when coding begins. */
void bands_place(bands *b, uint32_t n_bands, uint32_t w, uint32_t h, carver *c);
/* This band becomes the one before. */
void bands_next(bands *b);
/* Samples of this band are low .. high; low <= 0 <= high. */
void bands_range(bands *b, int32_t low, int32_t high);
/* The taps that the counts mean. False: no such counts. */
bool fit_taps(fit *f, uint32_t band);
/* Codes f and cell, then the samples of sample[0]. A writer has set mask, f, cell, samples. */
void bands_code(bands *b);

/* Sums of row y of sample[0], all of which is known, go to b->sums or, if wide, to b->wide_sums. */
void bands_predict_row(const bands *b, bool wide, uint32_t y);
bool bands_need_wide(const bands *b);

/* The part of the stream that tells masked samples; mask [h][w], before: that of the band before or
 * NULL. */
void mask_code(coder *c, uint8_t *mask, const uint8_t *before, uint32_t w, uint32_t h);

#define SETS_MIN 16384 /* samples of a band that may get several sets */
_Static_assert(SETS_MIN / 512 >= 2 * CELL, "the first cell of several sets is whole");

/* lossless_fit.c: sets f and cell for sample[0]. effort 1 .. 3: one set; 8 and 9: longer looks at
 * several. False without memory. */
bool bands_fit(bands *b, int effort);

static inline int32_t clamp(int64_t v, int32_t low, int32_t high)
{
    return (int32_t)(v < low ? low : v > high ? high : v);
}

/* Margins of a row whose samples are known, and of what lies below the last. */
static inline void close_row(const bands *b, int32_t *row, uint32_t y)
{
    for (uint32_t i = 0; i < MARGIN; i++) {
        row[b->w + i] = row[b->w - 1];
        row[(ptrdiff_t)i - MARGIN] = row[0];
    }
    if (y + 1 == b->h)
        memcpy(row - MARGIN + b->stride, row - MARGIN, (size_t)b->stride * sizeof *row);
}

#endif
