/* checkkern.h - the runner that compares every table of kernels with C, bit for bit.
 * May include: kernels.h, the standard library.
 */
#ifndef NSVQ_CHECKKERN_H
#define NSVQ_CHECKKERN_H

#include "kernels.h"

#include <stdbool.h>

#define COUNT(a) (sizeof(a) / sizeof *(a))

/* How inputs are filled. MIXED: the least or the greatest value, at random. */
typedef enum ck_fill { CK_RANDOM, CK_MIN, CK_MAX, CK_MIXED, CK_FILLS } ck_fill;

/* Memory between two pages that cannot be touched. ck_place() gives a piece of it. */
typedef struct ck_buf {
    uint8_t *base;   /* first byte after the lower guard page */
    size_t   room;   /* up to the upper guard page */
    uint8_t *piece;
    size_t   bytes;
} ck_buf;

typedef struct ck {
    uint64_t    seed, rng;
    const char *isa, *op;
    char        text[200];  /* the running case, for messages */
    bool        at_end;     /* pieces end at the upper guard page, else begin at the lower one */
    int         n_cases, n_failed;
} ck;

/* Room for `room` bytes; ends the program when there is none. Never given back. */
ck_buf ck_buf_new(size_t room);
/* `bytes` of buf at one of its guard pages. The piece and what is around it become guard bytes. */
void *ck_place(ck *t, ck_buf *buf, size_t bytes);

uint32_t ck_random(ck *t);
int32_t ck_between(ck *t, int32_t least, int32_t greatest);
/* A value of the fill, each bound included. */
int32_t ck_value(ck *t, ck_fill fill, int32_t least, int32_t greatest);
void ck_fill_s8(ck *t, int8_t *p, size_t n, ck_fill fill, int32_t least, int32_t greatest);
void ck_fill_u8(ck *t, uint8_t *p, size_t n, ck_fill fill);
void ck_fill_s16(ck *t, int16_t *p, size_t n, ck_fill fill, int32_t least, int32_t greatest);

/* Names the running case; a crash prints it. */
void ck_case(ck *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Compares two pieces of `type`, then the guard bytes around them. Prints and counts a failure. */
bool ck_same(ck *t, const ck_buf *got, const ck_buf *want, nsvq_elem type);
/* Prints and counts a failure of single values unless they are equal. */
bool ck_equal(ck *t, const char *what, int64_t got, int64_t want);

/* Random requantisation of n channels, whose |acc| stays within bound[c]. Extreme: shift, mul and
 * bias anywhere, bias often at the limit; otherwise values that keep most results in range. */
void ck_requant(ck *t, int32_t *bias, uint8_t *shift, int16_t *mul, const int32_t *bound, size_t n,
                bool extreme, ck_fill fill);

void check_pointwise(ck *t, const nsvq_kernels *ref, const nsvq_kernels *k);
void check_depthwise(ck *t, const nsvq_kernels *ref, const nsvq_kernels *k);
void check_codebook(ck *t, const nsvq_kernels *ref, const nsvq_kernels *k);
void check_pixels(ck *t, const nsvq_kernels *ref, const nsvq_kernels *k);
/* Worked examples of the specification itself, for the C table. */
void check_examples(ck *t, const nsvq_kernels *c);

/* Prints the speed of all operators whose name holds `filter` (or of all: NULL). */
void bench(unsigned cpu, const char *filter);

/* Multiply-accumulates a second that registers alone reach; the best instruction of the set for
 * inputs of `type`. 0 where the set has no such loop (C). One call takes about 0.2 ms. */
double peak(unsigned cpu, nsvq_elem type);
double seconds(void);

#endif
