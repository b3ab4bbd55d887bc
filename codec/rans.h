/* rans.h - interleaved rANS with 15-bit frequencies (FORMAT.md 5.5).
 * Symbols take the lanes in turn. Decoding survives any bytes: `bad` says that they ran out. */
#ifndef NSVQ_RANS_H
#define NSVQ_RANS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RANS_BITS      15
#define RANS_TOTAL     (1u << RANS_BITS)
#define RANS_LOW       (1u << 16) /* states lie in [RANS_LOW, 2^32) */
#define RANS_MAX_LANES 32         /* a power of two */

typedef struct rans_reader {
    uint32_t       state[RANS_MAX_LANES];
    uint32_t       next, mask; /* lane of the next symbol; lanes - 1 */
    const uint8_t *p, *end;    /* words left */
    bool           bad;
} rans_reader;

/* in: states, then words. False: not such a stream. */
bool rans_open(rans_reader *r, const uint8_t *in, size_t size, int log2_lanes);
/* True when everything was used up as the encoder left it. */
bool rans_done(const rans_reader *r);

/* The lane's state after a symbol, before renormalisation: fetches a word if one is due. */
static inline void rans_advance(rans_reader *r, uint32_t x)
{
    if (x < RANS_LOW) {
        if (r->end - r->p >= 2) {
            x = x << 16 | (uint32_t)r->p[0] | (uint32_t)r->p[1] << 8;
            r->p += 2;
        } else {
            r->bad = true;
        }
    }
    r->state[r->next] = x;
    r->next = (r->next + 1) & r->mask;
}

/* The symbol among n <= 64 ones; symbol i owns [start[i], start[i + 1]), start[0] = 0 and
 * start[n] = RANS_TOTAL. */
static inline int rans_get(rans_reader *r, const uint16_t *start, int n)
{
    uint32_t x = r->state[r->next], slot = x & (RANS_TOTAL - 1);
    int16_t  symbol = 0; // as wide as what is compared, for the sake of the vectoriser

    for (int i = 1; i < n; i++) symbol += (int16_t)((int16_t)start[i] <= (int16_t)slot);
    x = (uint32_t)(start[symbol + 1] - start[symbol]) * (x >> RANS_BITS) + slot - start[symbol];
    rans_advance(r, x);
    return symbol;
}

/* The same with a table: first[slot >> 7] is the first symbol that may own the slot. */
static inline int rans_get_by(rans_reader *r, const uint16_t *start, const uint8_t first[RANS_TOTAL >> 7])
{
    uint32_t x = r->state[r->next], slot = x & (RANS_TOTAL - 1);
    int symbol = first[slot >> 7];

    while (start[symbol + 1] <= slot) symbol++;
    rans_advance(r, (uint32_t)(start[symbol + 1] - start[symbol]) * (x >> RANS_BITS) + slot - start[symbol]);
    return symbol;
}

/* A symbol among 2^n equally likely ones, 1 <= n <= RANS_BITS. */
static inline uint32_t rans_get_bits(rans_reader *r, int n)
{
    uint32_t x = r->state[r->next], slot = x & (RANS_TOTAL - 1), low = RANS_BITS - (uint32_t)n;

    rans_advance(r, (x >> RANS_BITS << low) + (slot & ((1u << low) - 1)));
    return slot >> low;
}
typedef struct rans_symbol {
    uint16_t start, freq; /* 1 <= freq <= 2^15 */
} rans_symbol;

/* Writes states and words of n symbols to out, which has room for rans_bound() bytes; returns their
 * number. */
size_t rans_encode(uint8_t *out, const rans_symbol *symbols, size_t n, int log2_lanes);
static inline size_t rans_bound(size_t n, int log2_lanes)
{
    return ((size_t)4 << log2_lanes) + 2 * n; // a symbol moves at most one word
}

#endif
