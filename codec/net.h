/* net.h - runs a layer list over a window of the picture, row by row.
 * May include: engine.h. */
#ifndef NSVQ_NET_H
#define NSVQ_NET_H

#include "engine.h"

/* A register, as far as it does not depend on the window. Its rows live in a ring: only those that a
 * later layer still reads. */
typedef struct net_register {
    uint16_t channels;
    uint8_t  item_bytes; /* per channel */
    uint8_t  scale;      /* positions per latent, each way */
    uint8_t  pad;        /* zero positions before and after each row */
    int      margin;     /* positions needed around the wanted ones */
    int      rows;       /* of the ring */
} net_register;

typedef struct net {
    const nsvq_net     *desc;
    const nsvq_kernels *k;
    net_register        reg[NSVQ_MAX_REGISTERS];
    union {
        nsvq_pointwise pointwise;
        nsvq_depthwise depthwise;
    } layer[NSVQ_MAX_LAYERS];
} net;

/* desc and k must outlive *n; register 0 has in_channels of s16, in_scale positions per latent.
 * 0, or -1 without memory (nothing to free). */
int  net_create(net *n, const nsvq_net *desc, const nsvq_kernels *k, int in_channels, int in_scale);
void net_free(net *n); /* fine on a zeroed struct */
int  net_halo(const net *n); /* latents around the wanted ones that the result depends on */

/* Window of ww x wh latents whose borders count as the picture's, and the wanted rectangle in it.
 * load: n positions of register 0 from (x, y) on, in positions of the window. emit: row y (a latent's)
 * of the output, all of `want`'s columns; rows come in order. */
typedef struct net_job {
    int         ww, wh;
    nsvq_rect   want;
    const void *user;
    void      (*load)(const void *user, int16_t *out, int x, int y, int n);
    void      (*emit)(const void *user, const int16_t *row, int y);
} net_job;

/* A pointwise layer, ready to run. 0, or -1 without memory (nothing to free). */
int net_pack(nsvq_pointwise *p, const nsvq_layer *l, uint8_t res_type, const nsvq_kernels *k);

int net_run(const net *n, nsvq_scratch *s, const net_job *job); /* 0, or -1 without memory */

#endif
