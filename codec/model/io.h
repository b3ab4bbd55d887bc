/* io.h - one stream that loads, stores or hashes, so that a single walk does all three.
 *
 * Loading: after a short read or a value out of range `bad` stays set and everything yields 0; walk a
 * part, then test it. Arrays are malloc'ed for the caller, never larger than the bytes left.
 * Storing and hashing check the same ranges. Little endian. May include: sha256.h. */
#ifndef NSVQ_IO_H
#define NSVQ_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sha256.h"

typedef enum io_mode { IO_LOAD, IO_STORE, IO_HASH } io_mode;

typedef struct io {
    io_mode        mode;
    const uint8_t *p, *end;   /* load */
    uint8_t       *out;       /* store: malloc'ed, the caller's */
    size_t         size, cap;
    nsvq_sha256   *hash;
    bool           bad, no_memory;
} io;

/* Raw bytes, both ways. */
void io_bytes(io *s, void *p, size_t n);

/* value, min, max */
void io_u8(io *s, uint8_t *v, uint32_t min, uint32_t max);
void io_u16(io *s, uint16_t *v, uint32_t min, uint32_t max);
void io_u32(io *s, uint32_t *v, uint32_t min, uint32_t max);

/* n items at *p; loading allocates *p (n = 0: NULL). */
void io_u8s(io *s, uint8_t **p, size_t n);
void io_s8s(io *s, int8_t **p, size_t n);
void io_s16s(io *s, int16_t **p, size_t n);
void io_u16s(io *s, uint16_t **p, size_t n);
void io_s32s(io *s, int32_t **p, size_t n);

/* Plain little-endian words in memory. */
uint32_t io_get(const uint8_t *p, int n_bytes);
void     io_put(uint8_t *p, int n_bytes, uint32_t v);

#endif
