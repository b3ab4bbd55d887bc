/* reduce.h - pictures of half the size: what a sample of an overview is.
 * May include: nsvq.h. */
#ifndef NSVQ_REDUCE_H
#define NSVQ_REDUCE_H

#include <stdbool.h>

#include "nsvq.h"

typedef struct reduce_band {
    nsvq_type type;      /* of a part */
    bool complex;
    bool has_nodata;
    uint64_t nodata;     /* bits */
    nsvq_resampling how;
} reduce_band;

/* Two rows of `width` samples, `step` bytes apart (b = a where there is no second one), become one of
 * (width + 1) / 2, dense. valid_a and valid_b: a byte each, 0: masked; NULL: none is. */
void reduce_row(uint8_t *out, const reduce_band *r, const uint8_t *a, const uint8_t *b, ptrdiff_t step,
                uint32_t width, const uint8_t *valid_a, const uint8_t *valid_b);
/* The same of masks: 255 where any is not 0. */
void reduce_mask(uint8_t *out, const uint8_t *a, const uint8_t *b, uint32_t width);

#endif
