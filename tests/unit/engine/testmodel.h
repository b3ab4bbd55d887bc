/* testmodel.h - deterministic random models for tests: valid, with activations that are neither all
 * zero nor all saturated. Their pictures are noise. */
#ifndef NSVQ_TESTMODEL_H
#define NSVQ_TESTMODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "model/desc.h"

typedef enum testmodel_shape {
    TESTMODEL_TINY,   /* 2 slices of 4, 256 codes, numbers that deflate well: 9 KB in a file */
    TESTMODEL_SMALL,  /* 2 slices of 8, 128 codes: fast, every layer kind, odd channel counts */
    TESTMODEL_SHIPPED, /* the shape of the shipped vq model: 4 slices of 24, 4096 codes */
    TESTMODEL_HYPER8, /* hyper family: 12 latents at stride 8, 5 hyper-latents */
    TESTMODEL_HYPER16, /* 20 latents at stride 16 */
    TESTMODEL_TRELLIS /* 18 latents at stride 8, by dependent quantisation */
} testmodel_shape;

/* Fills *m; free it with nsvq_model_free. False: no memory (nothing to free). */
bool testmodel_make(nsvq_model_desc *m, testmodel_shape shape, uint64_t seed);

/* Deterministic random numbers, the same everywhere. */
typedef struct test_rng { uint64_t s; } test_rng;
uint32_t test_rand(test_rng *r);                    /* 32 bits */
int      test_range(test_rng *r, int lo, int hi);   /* lo..hi, both included */
double   test_bell(test_rng *r);                    /* about normal: mean 0, deviation 1 */

#endif
