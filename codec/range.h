/* range.h - samples of 16 bits and floats on the networks' levels 0 .. 255 (FORMAT.md 4.4).
 * May include: nsvq.h. */
#ifndef NSVQ_RANGE_H
#define NSVQ_RANGE_H

#include <stdbool.h>

#include "nsvq.h"

/* Of a band: bits of the samples that level 0 and level 255 stand for. */
typedef struct range {
    uint32_t low, high;
} range;

/* Has the type a range: U16, S16, F32? Nothing else may go to the functions below. */
bool range_type(unsigned type);
/* Finite, and low not above high? */
bool range_valid(unsigned type, range r);
/* Exact. */
double range_value(unsigned type, uint32_t bits);
/* The way back; of floats the nearest to value, which the type can hold. */
uint32_t range_bits(unsigned type, double value);
/* Bits of the sample at p. */
uint32_t range_load(unsigned type, const uint8_t *p);
void     range_store(unsigned type, uint8_t *p, uint32_t bits);
/* Is a sample within? NaN is not. Others are told by the exact layer. */
bool range_holds(unsigned type, range r, uint32_t bits);
/* Is a sample of a source nodata? Of floats also one so near that GDAL takes it for it. */
bool range_is_nodata(unsigned type, uint32_t bits, uint32_t nodata);
/* Moves those of n samples, `step` bytes apart, that are nodata or too near to it. */
void range_avoid(uint8_t *p, ptrdiff_t step, unsigned type, range r, uint32_t nodata, size_t n);

/* n samples, `step` bytes apart, from what the synthesis gives: three values a pixel, of which the first
 * counts, or of grey bands the sum. */
void range_samples(uint8_t *out, ptrdiff_t step, unsigned type, range r, const int16_t *in, bool grey, size_t n);
/* The level of a sample within the range, for the analysis. */
uint8_t range_level(unsigned type, range r, uint32_t bits);

#endif
