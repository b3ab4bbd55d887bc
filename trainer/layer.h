/* layer.h - the trainer's float networks: the layers of codec/model/desc.h with gradients.
 * May include: model/desc.h. Never: GDAL (dataset.c alone).
 *
 * Parameters of all layers lie in one array of a store, so that optimiser, checkpoint and gradient
 * reduction are loops over it. Tensors are float, NHWC, one picture (patch) at a time; a thread works
 * on a patch of its own and adds into a gradient array of its own. */
#ifndef NSVQ_TRAINER_LAYER_H
#define NSVQ_TRAINER_LAYER_H

#include <stddef.h>
#include <stdint.h>

#include "model/desc.h"

#define LATENT_ONE 128.f /* integer latent units in 1.0; pixels are (p - 128) / 64 */

typedef struct layer {
    uint8_t kind;           /* nsvq_layer_kind */
    uint8_t src, dst, res;  /* registers, NSVQ_NO_REGISTER = none */
    uint8_t k, rep;
    uint8_t in_type, out_type; /* nsvq_elem of the integer layer; U8 output means ReLU */
    int     cin, cout;
    size_t  w, b;           /* offsets into the store */
} layer;

typedef struct segment { /* one array of the store */
    size_t at, n;
    float  lr;    /* factor on the learning rate */
    uint8_t decay, linear; /* weight decay applies; part of a linear path */
    const float *column;   /* [n_columns] further factors, per input of a layer; NULL: none */
    size_t n_columns;
    int    rows;  /* of a matrix; 0: not one */
} segment;

#define MAX_SEGMENTS 512
typedef struct store {
    float  *p;
    size_t  n;
    int     n_segments;
    segment seg[MAX_SEGMENTS];
} store;

/* Reserves n parameters (before store_alloc); returns their offset. */
size_t store_add(store *s, size_t n, int decay);
void   store_alloc(store *s);

typedef struct network {
    int   n_layers, output;
    layer l[NSVQ_MAX_LAYERS];
    int   channels[NSVQ_MAX_REGISTERS]; /* per position of the register's own grid */
    int   shrink[NSVQ_MAX_REGISTERS];   /* log2 of the register's downscale against register 0 */
} network;

/* A pointwise layer outside a network. */
layer layer_plain(store *s, int cin, int cout, nsvq_elem in, nsvq_elem out);
segment *store_find(store *s, size_t at); /* the one that begins there */

/* Building: each returns the register it writes. */
int net_pointwise(network *n, store *s, int src, int res, int cout, nsvq_elem in, nsvq_elem out);
int net_pointwise_rep(network *n, store *s, int src, int res, int rep, int cout, nsvq_elem in,
                      nsvq_elem out);
int net_depthwise(network *n, store *s, int src, int k);
int net_space_to_depth(network *n, int src, int k);

typedef struct tensor {
    int    h, w, c;
    float *v, *g; /* values, gradients */
} tensor;

/* Registers of one network for one patch; reallocated when a patch is larger than all before. */
typedef struct workspace {
    tensor r[NSVQ_MAX_REGISTERS];
    size_t cap[NSVQ_MAX_REGISTERS];
} workspace;

void workspace_shape(workspace *ws, const network *n, int h, int w); /* of register 0 */
void workspace_free(workspace *ws);

/* Multiplications per position of register 0. */
double net_macs(const network *n);

/* r[0].v -> r[output].v */
void net_forward(const network *n, const float *p, workspace *ws);
/* r[output].g -> r[0].g (if want_input) and g += parameter gradients. Overwrites all other r[].g. */
void net_backward(const network *n, const float *p, float *g, workspace *ws, int want_input);

/* ---- operators (ops.c); n positions ---- */

/* y [n][cout] = x [n][cin] w^T + b (+ res), ReLU if relu. w [cout][cin]. y may equal res. */
void op_pointwise(float *y, const float *x, const float *res, const float *w, const float *b, int n,
                  int cin, int cout, int relu);
/* dy is masked in place by y > 0 when relu. dx (may be NULL) = or += dy w; dw += dy^T x; db += sum dy. */
void op_pointwise_back(float *dy, const float *y, const float *x, const float *w, float *dx, int dx_add,
                       float *dw, float *db, int n, int cin, int cout, int relu);
/* y [h][w][c] = relu(depthwise(x) + b), zero outside. wt [k][k][c]. c is a multiple of 16. */
void op_depthwise(float *y, const float *x, const float *wt, const float *b, int h, int w, int c, int k);
/* dy is masked in place. dx (may be NULL) = or +=; dwt, db += */
void op_depthwise_back(float *dy, const float *y, const float *x, const float *wt, float *dx,
                       int dx_add, float *dwt, float *db, int h, int w, int c, int k);
void op_space_to_depth(float *y, const float *x, int h, int w, int c, int k); /* h, w of x */
void op_space_to_depth_back(const float *dy, float *dx, int dx_add, int h, int w, int c, int k);

#endif
