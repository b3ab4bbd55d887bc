/* join.h - what quantisation left as steps between blocks is spread over smooth surroundings
 * (FORMAT.md 5.6). A window with JOIN_REACH latents more than are wanted on each side gives exactly what
 * the whole gives. May include: <stdint.h>. */
#ifndef NSVQ_JOIN_H
#define NSVQ_JOIN_H

#include <stdint.h>

#define JOIN_REACH 6  /* latents on each side of an edge */
#define JOIN_BITS  32 /* squared lengths of code words and of steps, in units of lambda: small up to here */

typedef struct join_window {
    int16_t       *latents; /* [h][w][n_latent] */
    const uint8_t *quiet;   /* [h][w]: 1 where the code words say little */
    int            w, h, n_latent;
    int64_t        limit;   /* squared length of the largest step that is spread */
} join_window;

/* The edge before column x, in rows y0 .. y1 - 1; before row y, in columns x0 .. x1 - 1. */
void join_before_column(const join_window *j, int x, int y0, int y1);
void join_before_row(const join_window *j, int y, int x0, int x1);

#endif
