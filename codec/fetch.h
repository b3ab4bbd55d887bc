/* fetch.h - the bytes of the blocks that a part of a window needs, read before they are decoded: in few
 * reads, whatever the number of threads that decode.
 * May include: codec.h. */
#ifndef NSVQ_FETCH_H
#define NSVQ_FETCH_H

#include "codec.h"

typedef struct piece {
    uint64_t number, offset; /* entry; place in the file */
    uint32_t size;
    const uint8_t *bytes;    /* NULL: could not be read */
} piece;

typedef struct fetched {
    uint64_t *numbers;       /* entries that are wanted, as they come */
    size_t n_numbers, cap;
    piece *pieces;           /* [n_pieces], by entry */
    size_t n_pieces;
    uint8_t *bytes;
    bool failed;             /* no memory: whoever needs a block reads it */
} fetched;

/* Notes an entry; any number of times. */
void fetch_want(fetched *v, uint64_t number);
/* Reads what was noted and is not in the cache; then nothing is noted any more. Failures are silent:
 * whoever needs the block tries again and tells. */
void fetch_all(fetched *v, nsvq_file *f);
/* The bytes of an entry, or NULL. */
const uint8_t *fetch_get(const fetched *v, const entry *e);
void fetch_free(fetched *v);

#endif
