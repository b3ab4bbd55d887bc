/* lossless_map.h - samples <-> numbers 0 .. range of a band (FORMAT.md 4.5.3). May include:
 * lossless.h, lossless_coder.h. */
#ifndef NSVQ_LOSSLESS_MAP_H
#define NSVQ_LOSSLESS_MAP_H

#include "lossless.h"
#include "lossless_coder.h"

#define MAX_RANGE (1u << 29)

enum { MAP_ORDER, MAP_BINARY, MAP_DECIMAL, N_MAPS }; /* how a float is a whole number */

typedef struct map {
    uint8_t kind;    /* of those; MAP_ORDER for whole types */
    bool difference; /* numbers are of the sample minus that of the band before, whole types only */
    uint8_t exponent; /* value = number / 2^exponent or 10^exponent */
    uint64_t base, step;
    unsigned low_bits; /* raw ones of each sample, below the number */
    uint32_t range, mean;
    uint32_t n_table; /* values used, or 0: all */
    uint32_t *table;  /* [n_table] owned: number of table index */
} map;

/* n samples of a few bytes <-> their bits. */
void samples_load(uint64_t *bits, const uint8_t *p, size_t bytes, size_t n);
void samples_store(uint8_t *p, size_t bytes, const uint64_t *bits, size_t n);

/* Chooses a map for samples in[i] (their bits) that are not masked; sets v[i], and low[i] when
 * m->low_bits. before: the samples of the band before, for a difference, or NULL; room [2 n]. False
 * without memory. */
bool map_choose(map *m, nsvq_type type, const uint64_t *in, const uint64_t *before,
                const uint8_t *mask, size_t n, uint32_t *v, uint64_t *low, uint32_t *room);
/* Reads or writes the fields. */
void map_code(map *m, coder *c, nsvq_type type, size_t n);
/* Bits of n samples for numbers row[i] + mean and raw bits; before: those of the band before. */
void map_samples(const map *m, nsvq_type type, uint64_t *bits, const int32_t *row,
                 const uint64_t *low, const uint64_t *before, uint32_t n);
void map_free(map *m);

#endif
