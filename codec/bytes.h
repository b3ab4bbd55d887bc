/* bytes.h - bounded reader, growing writer, checked arithmetic: every byte of a file passes here.
 * May include: the standard library only. */
#ifndef NSVQ_BYTES_H
#define NSVQ_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* After a short read all reads yield 0 and bad stays set: parse a record, then test bad. */
typedef struct rd {
    const uint8_t *p, *end;
    bool bad;
} rd;

static inline rd rd_over(const void *bytes, size_t size)
{
    return (rd){bytes, (const uint8_t *)bytes + size, false};
}

static inline size_t rd_left(const rd *r)
{
    return (size_t)(r->end - r->p);
}

/* The next n bytes, or NULL when there are fewer. */
static inline const uint8_t *rd_bytes(rd *r, size_t n)
{
    if (r->bad || n > rd_left(r)) {
        r->bad = true;
        return NULL;
    }
    r->p += n;
    return r->p - n;
}

static inline uint64_t rd_le(rd *r, int n)
{
    const uint8_t *b = rd_bytes(r, (size_t)n);
    uint64_t v = 0;

    for (int i = 0; b && i < n; i++) v |= (uint64_t)b[i] << (8 * i);
    return v;
}

static inline uint8_t rd_u8(rd *r)
{
    return (uint8_t)rd_le(r, 1);
}

static inline uint16_t rd_u16(rd *r)
{
    return (uint16_t)rd_le(r, 2);
}

static inline uint32_t rd_u32(rd *r)
{
    return (uint32_t)rd_le(r, 4);
}

static inline uint64_t rd_u64(rd *r)
{
    return rd_le(r, 8);
}

/* FORMAT.md 1.2: seven bits a byte, low ones first, shortest form only, at most `max`. */
static inline uint64_t rd_varint(rd *r, uint64_t max)
{
    uint64_t v = 0;

    for (int shift = 0; shift < 64; shift += 7) {
        uint8_t b = rd_u8(r);
        if (shift == 63 && b > 1) break;
        v |= (uint64_t)(b & 127) << shift;
        if (b & 128) continue;
        if (r->bad || v > max || (!b && shift)) break;
        return v;
    }
    r->bad = true;
    return 0;
}

/* A buffer that grows; after a failed growth writes do nothing and bad stays set. */
typedef struct wr {
    uint8_t *p;
    size_t size, cap;
    bool bad;
} wr;

/* Room for n more bytes, counted as written; NULL without memory. */
static inline uint8_t *wr_room(wr *w, size_t n)
{
    if (w->bad || n > SIZE_MAX / 4 - w->size) {
        w->bad = true;
        return NULL;
    }
    if (w->size + n > w->cap) {
        size_t cap = 2 * (w->size + n) + 64;
        uint8_t *p = realloc(w->p, cap);
        if (!p) {
            w->bad = true;
            return NULL;
        }
        w->p = p;
        w->cap = cap;
    }
    w->size += n;
    return w->p + w->size - n;
}

static inline void wr_bytes(wr *w, const void *bytes, size_t n)
{
    uint8_t *p = n ? wr_room(w, n) : NULL;

    if (p) memcpy(p, bytes, n);
}

static inline void put_le(uint8_t *p, uint64_t v, int n)
{
    for (int i = 0; i < n; i++) p[i] = (uint8_t)(v >> (8 * i));
}

static inline void wr_le(wr *w, uint64_t v, int n)
{
    uint8_t *p = wr_room(w, (size_t)n);

    if (p) put_le(p, v, n);
}

static inline void wr_varint(wr *w, uint64_t v)
{
    for (; v >= 128; v >>= 7) wr_le(w, (v & 127) | 128, 1);
    wr_le(w, v, 1);
}

static inline void wr_free(wr *w)
{
    free(w->p);
    *w = (wr){0};
}

static inline bool add_u64(uint64_t *sum, uint64_t a, uint64_t b)
{
    *sum = a + b;
    return *sum >= a;
}

#endif
