/* lossless_coder.h - numbers <-> one rANS stream of adaptive symbols and one stream of raw bits
 * (FORMAT.md 4.5.2). May include: bytes.h, rans.h.
 * One `coder` either writes or reads: what both directions do is written once. */
#ifndef NSVQ_LOSSLESS_CODER_H
#define NSVQ_LOSSLESS_CODER_H

#include "bytes.h"
#include "rans.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* Loops that gain by wider vectors; the results are the same. */
#if defined __x86_64__ && defined __GNUC__ && __GNUC__ >= 12 && !defined __clang__ && defined __linux__ &&           \
    !defined __SANITIZE_ADDRESS__
#define CLONES __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

#define N_SYMBOLS 32
#define COUNT_STEP 24 /* what a symbol counts */
#define LOG2_LANES 2
#define N_LANES (1u << LOG2_LANES)
#define N_CLASSES 112   /* of residuals: four an octave */
#define N_NUMBERS 96    /* contexts of everything else */
#define N_BITS 1024     /* contexts of single bits */
#define READ_AHEAD 8192 /* bytes past the end that reading may touch before it is checked */

/* start[i] of symbol i; start[0] = 0, start[N_SYMBOLS] = RANS_TOTAL. They follow from the counts
 * whenever `left` symbols have come. */
typedef struct model {
    _Alignas(16) uint16_t start[N_SYMBOLS + 1];
    uint16_t left, period;
    uint16_t count[N_SYMBOLS];
} model;

/* What reading moves. A loop works on a copy of its own, which no store of samples can touch. */
typedef struct reader {
    uint32_t state[N_LANES], lane;
    const uint8_t *words, *bits;
    uint64_t bit;
} reader;

typedef struct coder {
    bool writing, bad, no_memory;
    /* writing */
    rans_symbol *symbols;
    size_t n, cap;
    wr raw;
    uint64_t acc; /* raw bits not yet written */
    unsigned n_acc;
    /* reading */
    uint8_t *copy; /* the stream with READ_AHEAD zeros behind it */
    reader r;
    const uint8_t *words_end;
    uint64_t bit_end;
    /* both */
    model number[N_NUMBERS], residual[N_CLASSES];
    uint16_t one[N_BITS]; /* chance of a set bit, of RANS_TOTAL */
} coder;

/* Symbol 16 + i stands for a number h >= 0, 15 - i for ~h: the values from base on, of 2^bits. */
static const uint8_t bin_base[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 24, 40, 72};
static const uint8_t bin_bits[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 0};
#define BIN_REST 15 /* 72 and more: an Elias gamma code of h - 71 follows */

void coder_write(coder *c);
/* 0, -1 not such a stream, -2 without memory. */
int coder_read(coder *c, const uint8_t *in, size_t size);
/* Appends what was written. */
void coder_store(coder *c, wr *w);
/* True when all was read and nothing was missing. */
bool coder_done(const coder *c);
void coder_free(coder *c);

/* A place in writing to come back to. */
typedef struct coder_mark {
    size_t n, raw_size;
    uint64_t acc;
    unsigned n_acc;
    model number[N_NUMBERS], residual[N_CLASSES];
    uint16_t one[N_BITS];
} coder_mark;

void coder_set_mark(coder_mark *m, const coder *c);
void coder_go_back(coder *c, const coder_mark *m);
/* 1 / 256 bits written since. */
uint64_t coder_cost(const coder *c, const coder_mark *m);

/* Makes start from count, and lets the next time be later. */
void model_renew(model *m);

static inline void model_update(model *m, unsigned symbol)
{
    m->count[symbol] += COUNT_STEP;
    if (!--m->left) model_renew(m);
}

static inline void put_symbol(coder *c, uint32_t start, uint32_t freq)
{
    if (c->n == c->cap) {
        size_t cap = 2 * c->cap + 4096;
        rans_symbol *p = realloc(c->symbols, cap * sizeof *p);
        if (!p) {
            c->bad = true;
            return;
        }
        c->symbols = p;
        c->cap = cap;
    }
    c->symbols[c->n++] = (rans_symbol){(uint16_t)start, (uint16_t)freq};
}

/* n <= 32, v < 2^n */
static inline void put_bits(coder *c, uint32_t v, unsigned n)
{
    c->acc |= (uint64_t)v << c->n_acc;
    c->n_acc += n;
    if (c->n_acc >= 32) {
        wr_le(&c->raw, c->acc & UINT32_MAX, 4);
        c->acc >>= 32;
        c->n_acc -= 32;
    }
}

/* 57 bits at least. */
static inline uint64_t peek_bits(const reader *r)
{
    const uint8_t *p = r->bits + (r->bit >> 3);
    uint64_t v;

#if defined __BYTE_ORDER__ && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    memcpy(&v, p, 8);
#else
    v = 0;
    for (int i = 7; i >= 0; i--) v = v << 8 | p[i];
#endif
    return v >> (r->bit & 7);
}

static inline uint32_t get_bits(reader *r, unsigned n)
{
    uint64_t v = peek_bits(r);

    r->bit += n;
    return (uint32_t)(v & ((UINT64_C(1) << n) - 1));
}

/* May be called for READ_AHEAD / 16 values without looking whether the input is used up. */
static inline void check_read(coder *c)
{
    if (!c->writing && (c->r.words > c->words_end || c->r.bit > c->bit_end)) {
        c->bad = true; // and from here on no bytes behind the copy
        c->r.words = c->words_end;
        c->r.bit = c->bit_end;
    }
}

static inline uint32_t rans_slot(const reader *r)
{
    return r->state[r->lane] & (RANS_TOTAL - 1);
}

static inline void reader_advance(reader *r, uint32_t start, uint32_t freq, uint32_t slot)
{
    uint32_t x = freq * (r->state[r->lane] >> RANS_BITS) + slot - start;
    uint32_t word = (uint32_t)r->words[0] | (uint32_t)r->words[1] << 8, more = 0u - (x < RANS_LOW);

    r->state[r->lane] =
        x << (more & 16) | (word & more); // no branch: it would be guessed wrong too often
    r->words += more & 2;
    r->lane = (r->lane + 1) & (N_LANES - 1);
}

/* The last symbol that starts at slot or before. */
static inline unsigned find_symbol(const model *m, uint32_t slot)
{
#ifdef __SSE2__
    const __m128i *p = (const __m128i *)m->start, s = _mm_set1_epi16((short)slot);
    __m128i a = _mm_packs_epi16(_mm_cmpgt_epi16(p[0], s), _mm_cmpgt_epi16(p[1], s));
    __m128i b = _mm_packs_epi16(_mm_cmpgt_epi16(p[2], s), _mm_cmpgt_epi16(p[3], s));
    uint32_t after = (uint32_t)_mm_movemask_epi8(a) | (uint32_t)_mm_movemask_epi8(b) << 16;

    return (unsigned)__builtin_ctzll(after | UINT64_C(1) << N_SYMBOLS) - 1;
#else
    unsigned symbol = 0;

    for (int i = 1; i < N_SYMBOLS; i++) symbol += m->start[i] <= slot;
    return symbol;
#endif
}

static inline unsigned get_symbol(reader *r, model *m)
{
    uint32_t slot = rans_slot(r);
    unsigned symbol = find_symbol(m, slot);

    reader_advance(r, m->start[symbol], (uint32_t)m->start[symbol + 1] - m->start[symbol], slot);
    model_update(m, symbol);
    return symbol;
}

/* |v| < 2^31, k <= 28. */
static inline void put_value(coder *c, model *m, unsigned k, int32_t v)
{
    uint32_t sign = v < 0 ? UINT32_MAX : 0, a = (uint32_t)(v >> k) ^ sign,
             bin = a < 10 ? a : 40 - (unsigned)__builtin_clz(a - 8);

    bin = bin < BIN_REST ? bin : BIN_REST;
    unsigned symbol = 16 + (bin ^ sign);
    put_symbol(c, m->start[symbol], (uint32_t)m->start[symbol + 1] - m->start[symbol]);
    model_update(m, symbol);
    a -= bin_base[bin];
    if (bin == BIN_REST) {
        unsigned n = 31 - (unsigned)__builtin_clz(a + 1);
        put_bits(c, 1u << n, n + 1);
        put_bits(c, (a + 1) & ((1u << n) - 1), n);
    } else {
        put_bits(c, a, bin_bits[bin]);
    }
    put_bits(c, (uint32_t)v & ((1u << k) - 1), k);
}

static inline int32_t get_value(reader *r, model *m, unsigned k)
{
    unsigned symbol = get_symbol(r, m);
    uint64_t bits = peek_bits(r);

    if (symbol - 6 < 20) { // most: the symbol says all but the low bits
        r->bit += k;
        return (int32_t)(((symbol - 16) << k) | ((uint32_t)bits & ((1u << k) - 1)));
    }
    uint32_t sign = symbol < 16 ? UINT32_MAX : 0, bin = (symbol - 16) ^ sign, a;
    unsigned n = bin_bits[bin];
    if (bin == BIN_REST) {
        n = (uint32_t)bits ? (unsigned)__builtin_ctz((uint32_t)bits) : 31;
        r->bit += n + 1;
        a = bin_base[BIN_REST] + (get_bits(r, n) | 1u << n) - 1;
        bits = peek_bits(r);
        n = 0;
    } else {
        a = bin_base[bin] + ((uint32_t)bits & ((1u << n) - 1));
    }
    r->bit += n + k;
    return (int32_t)(((a ^ sign) << k) | ((uint32_t)(bits >> n) & ((1u << k) - 1)));
}

/* Writes v, or returns what is read: outside of low .. high the stream is bad and low is returned.
 */
static inline int32_t number(coder *c, unsigned context, unsigned k, int32_t v, int32_t low,
                             int32_t high)
{
    if (c->writing) {
        put_value(c, &c->number[context], k, v);
        return v;
    }
    v = get_value(&c->r, &c->number[context], k);
    check_read(c);
    if (v < low || v > high) c->bad = true;
    return c->bad ? low : v;
}

static inline uint64_t number64(coder *c, unsigned context, uint64_t v)
{
    unsigned n = v ? 64 - (unsigned)__builtin_clzll(v) : 0;

    n = (unsigned)number(c, context, 2, (int32_t)n, 0, 64);
    if (c->writing) {
        put_bits(c, (uint32_t)v, n < 32 ? n : 32);
        if (n > 32) put_bits(c, (uint32_t)(v >> 32), n - 32);
        return v;
    }
    v = get_bits(&c->r, n < 32 ? n : 32);
    if (n > 32) v |= (uint64_t)get_bits(&c->r, n - 32) << 32;
    check_read(c);
    return c->bad ? 0 : v;
}

/* A bit with its chance in c->one[context]; r: c's, or a copy. */
static inline bool code_bit(coder *c, reader *r, unsigned context, bool bit)
{
    uint32_t one = c->one[context], slot = 0;

    if (c->writing) {
        put_symbol(c, bit ? 0 : one, bit ? one : RANS_TOTAL - one);
    } else {
        slot = rans_slot(r);
        bit = slot < one;
        reader_advance(r, bit ? 0 : one, bit ? one : RANS_TOTAL - one, slot);
    }
    c->one[context] =
        (uint16_t)(bit ? one + ((RANS_TOTAL - 16 - one) >> 5) : one - ((one - 16) >> 5));
    return bit;
}

#endif
