/* order.h - the hierarchical order of a block's latents and the neighbours of their contexts
 * (FORMAT.md 5.2), for the quantisers of both families. May include: model/desc.h. */
#ifndef NSVQ_TRAINER_ORDER_H
#define NSVQ_TRAINER_ORDER_H

#include "model/desc.h"

static const int8_t order_neighbour[NSVQ_N_PASSES][NSVQ_N_NEIGHBOURS][2] = {
    {{-4, 0}, {0, -4}, {-4, -4}, {4, -4}}, {{-2, -2}, {2, 2}, {2, -2}, {-2, 2}},
    {{-2, 0}, {2, 0}, {0, -2}, {0, 2}},    {{-1, -1}, {1, 1}, {1, -1}, {-1, 1}},
    {{-1, 0}, {1, 0}, {0, -1}, {0, 1}},
};

static inline int order_pass(int x, int y)
{
    if (x % 4 == 0 && y % 4 == 0) return 0;
    if (x % 4 == 2 && y % 4 == 2) return 1;
    if (x % 2 == 0 && y % 2 == 0) return 2;
    return x % 2 && y % 2 ? 3 : 4;
}

/* pos [w * h]: raster indices in coding order; pass_at [NSVQ_N_PASSES + 1]. */
static inline void order_positions(int *pos, int *pass_at, int w, int h)
{
    int n = 0;
    for (int pass = 0; pass < NSVQ_N_PASSES; pass++) {
        pass_at[pass] = n;
        for (int i = 0; i < w * h; i++)
            if (order_pass(i % w, i / w) == pass) pos[n++] = i;
    }
    pass_at[NSVQ_N_PASSES] = n;
}

/* at [NSVQ_N_NEIGHBOURS]: raster indices of the neighbours of latent i, -1 outside. Returns the first
 * inside, or -1. */
static inline int order_neighbours(int i, int w, int h, int *at)
{
    const int x = i % w, y = i / w, pass = order_pass(x, y);
    int first = -1;
    for (int j = 0; j < NSVQ_N_NEIGHBOURS; j++) {
        const int nx = x + order_neighbour[pass][j][0], ny = y + order_neighbour[pass][j][1];
        at[j] = nx >= 0 && nx < w && ny >= 0 && ny < h ? ny * w + nx : -1;
        if (first < 0) first = at[j];
    }
    return first;
}

#endif
