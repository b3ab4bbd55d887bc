/* rans.c - see rans.h. May include: rans.h. */
#include "rans.h"

#include <string.h>

bool rans_open(rans_reader *r, const uint8_t *in, size_t size, int log2_lanes)
{
    size_t lanes = (size_t)1 << log2_lanes;

    memset(r, 0, sizeof *r);
    if (lanes > RANS_MAX_LANES || size < 4 * lanes || size % 2) return false;
    for (size_t i = 0; i < lanes; i++, in += 4) {
        r->state[i] =
            (uint32_t)in[0] | (uint32_t)in[1] << 8 | (uint32_t)in[2] << 16 | (uint32_t)in[3] << 24;
        if (r->state[i] < RANS_LOW) return false;
    }
    r->mask = (uint32_t)lanes - 1;
    r->p = in;
    r->end = in + (size - 4 * lanes);
    return true;
}

bool rans_done(const rans_reader *r)
{
    if (r->bad || r->p != r->end) return false;
    for (uint32_t i = 0; i <= r->mask; i++)
        if (r->state[i] != RANS_LOW) return false;
    return true;
}

/* The stream is made from its end: words go down from the end of the buffer and are moved at last.
 */
size_t rans_encode(uint8_t *out, const rans_symbol *symbols, size_t n, int log2_lanes)
{
    uint32_t state[RANS_MAX_LANES], mask = (1u << log2_lanes) - 1;
    uint8_t *end = out + rans_bound(n, log2_lanes), *p = end;

    for (uint32_t i = 0; i <= mask; i++) state[i] = RANS_LOW;
    for (size_t i = n; i-- > 0;) {
        uint32_t x = state[i & mask], f = symbols[i].freq;
        if (x >= (uint64_t)f << (32 - RANS_BITS)) {
            *--p = (uint8_t)(x >> 8);
            *--p = (uint8_t)x;
            x >>= 16;
        }
        state[i & mask] = ((x / f) << RANS_BITS) + x % f + symbols[i].start;
    }
    for (uint32_t i = 0; i <= mask; i++)
        for (int b = 0; b < 4; b++) *out++ = (uint8_t)(state[i] >> (8 * b));
    memmove(out, p, (size_t)(end - p));
    return ((size_t)4 << log2_lanes) + (size_t)(end - p);
}
