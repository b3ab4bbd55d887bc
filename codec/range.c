/* range.c - see range.h. Floats are IEEE 754, and every operation of a double rounds once: what is
 * multiplied has few enough digits, so that fused or not the bits are the same. */
#include "range.h"

#include <float.h>
#include <math.h>
#include <string.h>

_Static_assert(FLT_EVAL_METHOD == 0, "doubles must be rounded to doubles");

enum { ZERO = 4096, UNITS = 8160 }; /* of 1/32 level: from level 0 to 128, to 255 */

bool range_type(unsigned type)
{
    return type == NSVQ_TYPE_U16 || type == NSVQ_TYPE_S16 || type == NSVQ_TYPE_F32;
}

double range_value(unsigned type, uint32_t bits)
{
    float f;

    if (type != NSVQ_TYPE_F32) return type == NSVQ_TYPE_S16 ? (int16_t)bits : (uint16_t)bits;
    memcpy(&f, &bits, sizeof f);
    return (double)f;
}

uint32_t range_bits(unsigned type, double value)
{
    float f = (float)value;
    uint32_t bits;

    if (type != NSVQ_TYPE_F32) return (uint16_t)(int32_t)value;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

uint32_t range_load(unsigned type, const uint8_t *p)
{
    uint32_t wide;
    uint16_t narrow;

    if (type == NSVQ_TYPE_F32) {
        memcpy(&wide, p, sizeof wide);
        return wide;
    }
    memcpy(&narrow, p, sizeof narrow);
    return narrow;
}

void range_store(unsigned type, uint8_t *p, uint32_t bits)
{
    uint16_t narrow = (uint16_t)bits;

    if (type == NSVQ_TYPE_F32)
        memcpy(p, &bits, sizeof bits);
    else
        memcpy(p, &narrow, sizeof narrow);
}

bool range_valid(unsigned type, range r)
{
    double low = range_value(type, r.low), high = range_value(type, r.high);

    return isfinite(low) && isfinite(high) && low <= high;
}

bool range_holds(unsigned type, range r, uint32_t bits)
{
    double v = range_value(type, bits);

    return v >= range_value(type, r.low) && v <= range_value(type, r.high);
}

bool range_is_nodata(unsigned type, uint32_t bits, uint32_t nodata)
{
    if (bits == nodata || type != NSVQ_TYPE_F32) return bits == nodata;
    double v = range_value(type, bits), to = range_value(type, nodata); // NaN: no comparison holds
    return v == to || fabs(v - to) < 0x1p-22 * fabs(v + to);
}

/* A number that grows with the sample, and back. */
static uint32_t ordered(unsigned type, uint32_t bits)
{
    if (type == NSVQ_TYPE_F32) return bits >> 31 ? ~bits : bits | 0x80000000;
    return type == NSVQ_TYPE_S16 ? bits ^ 0x8000 : bits;
}

static uint32_t unordered(unsigned type, uint32_t v)
{
    if (type == NSVQ_TYPE_F32) return v >> 31 ? v & 0x7fffffff : ~v;
    return type == NSVQ_TYPE_S16 ? v ^ 0x8000 : v;
}

void range_avoid(uint8_t *p, ptrdiff_t step, unsigned type, range r, uint32_t nodata, size_t n)
{
    uint32_t avoid = ordered(type, nodata), near = type == NSVQ_TYPE_F32 ? 16 : 1;
    bool above = (uint64_t)avoid + near <= ordered(type, r.high);
    uint32_t other = unordered(type, above ? avoid + near : avoid - near);

    for (; n > 0; n--, p += step) {
        uint32_t v = ordered(type, range_load(type, p));
        if (v > avoid ? v - avoid < near : avoid - v < near) range_store(type, p, other);
    }
}

/* 0 .. UNITS, or of grey bands three times that. */
static inline uint32_t unit_of(const int16_t *in, bool grey)
{
    int32_t u = grey ? in[0] + in[1] + in[2] + 3 * ZERO : in[0] + ZERO, most = grey ? 3 * UNITS : UNITS;

    return (uint32_t)(u < 0 ? 0 : u > most ? most : u);
}

/* grey is a constant where this is used, so that the division is none. */
static inline void put_16(uint8_t *out, ptrdiff_t step, uint32_t low, uint32_t span, const int16_t *in, bool grey,
                          size_t n)
{
    const uint32_t units = grey ? 3 * UNITS : UNITS;

    for (; n > 0; n--, out += step, in += 3) {
        uint16_t v = (uint16_t)(low + (2 * unit_of(in, grey) * span + units) / (2 * units)); // below 2^32
        memcpy(out, &v, sizeof v);
    }
}

static void samples_16(uint8_t *out, ptrdiff_t step, unsigned type, range r, const int16_t *in, bool grey, size_t n)
{
    uint32_t span = (uint32_t)(range_value(type, r.high) - range_value(type, r.low));

    if (grey)
        put_16(out, step, r.low, span, in, true, n);
    else
        put_16(out, step, r.low, span, in, false, n);
}

/* A step of 38 digits at most: times a unit, of 15, it is exact. */
static double step_of(double span, uint32_t units)
{
    double step = span / units;
    uint64_t bits;

    memcpy(&bits, &step, sizeof bits);
    bits &= ~UINT64_C(0x7fff);
    memcpy(&step, &bits, sizeof step);
    return step;
}

static void samples_f32(uint8_t *out, ptrdiff_t step, range r, const int16_t *in, bool grey, size_t n)
{
    double low = range_value(NSVQ_TYPE_F32, r.low), high = range_value(NSVQ_TYPE_F32, r.high);
    double unit = step_of(high - low, grey ? 3 * UNITS : UNITS);

    for (; n > 0; n--, out += step, in += 3) {
        double d = low + unit_of(in, grey) * unit;
        float f = (float)(d > high ? high : d) + 0.f; // no -0
        memcpy(out, &f, sizeof f);
    }
}

void range_samples(uint8_t *out, ptrdiff_t step, unsigned type, range r, const int16_t *in, bool grey, size_t n)
{
    if (type == NSVQ_TYPE_F32)
        samples_f32(out, step, r, in, grey, n);
    else
        samples_16(out, step, type, r, in, grey, n);
}

uint8_t range_level(unsigned type, range r, uint32_t bits)
{
    double low = range_value(type, r.low), span = range_value(type, r.high) - low;

    return span > 0 ? (uint8_t)((range_value(type, bits) - low) / span * 255 + 0.5) : 0;
}
