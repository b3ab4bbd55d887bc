/* reference.h - the trainer's operators and networks once more, in double and plainly, and finite
 * differences on them.
 *
 * A ReLU is a gate here: it passes where the float output is above zero, as the backward pass has it.
 * With the gates fixed, a network is linear in each single parameter and input, so that wide steps
 * give exact differences and none of them steps over a corner. */
#ifndef NSVQ_TRAINER_REFERENCE_H
#define NSVQ_TRAINER_REFERENCE_H

#include <stddef.h>
#include <stdint.h>

#include "vq.h"

/* As the functions of ops.c, without their ReLU. */
void ref_pointwise(double *y, const double *x, const double *res, const double *w, const double *b,
                   int n, int cin, int cout);
void ref_depthwise(double *y, const double *x, const double *wt, const double *b, int h, int w,
                   int c, int k);
void ref_space_to_depth(double *y, const double *x, int h, int w, int c, int k);
void ref_gate(double *y, const float *out, size_t n); /* 0 where out is not above 0 */

/* r[0] -> all other r, gates by the values that net_forward left in ws. */
void ref_network(const network *n, const double *p, double *const *r, const workspace *ws);

/* The prior at one position of a pass, out of parameters w (the store's, in double). ctx [context] ->
 * mean [latent], hid [hidden]. Then slice by slice: words [s * dim] chosen before, base [dim] -> logit
 * [cells], mu [dim]. gate [hidden]: the float h; NULL: a ReLU. */
void ref_position(const vq *q, const double *w, int pass, const double *ctx, double *mean, double *hid);
void ref_slice(const vq *q, const double *w, int s, const double *hid, const double *words,
               const double *base, const float *gate, double *logit, double *mu);
double ref_bits(const double *logit, int n, int chosen); /* -log2 of its share of 2^logit */

double  *ref_doubles(const float *v, size_t n); /* copies; aborts without memory */
double   ref_dot(const float *a, const double *b, size_t n);
uint64_t ref_fill(float *v, size_t n, float std, uint64_t seed); /* normal; returns the next seed */

/* Central differences of f in the n values at p[0], p[every], .. are grown - before, up to
 * `tolerance` of the root mean square of all of them. what: for the failure's text. */
typedef double ref_loss(void *user);
typedef struct ref_check {
    char         what[96];
    double      *p;
    size_t       n, every;
    double       step, tolerance;
    const float *grown, *before; /* before NULL: zeros */
} ref_check;
void ref_differences(const ref_check *c, ref_loss *f, void *user);

#endif
