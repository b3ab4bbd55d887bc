/* lossless_solve.h - weighted least squares in double precision, without fused or reordered
 * operations, so that every processor finds the same. May include: lossless_coder.h,
 * lossless_band.h. */
#ifndef NSVQ_LOSSLESS_SOLVE_H
#define NSVQ_LOSSLESS_SOLVE_H

#include "lossless_band.h"

enum { MAX_UNKNOWNS = MAX_TAPS + 1 };

/* Sums of products of the unknowns' samples, the last one being what is predicted. */
typedef struct moments {
    double m[MAX_UNKNOWNS + 1][MAX_UNKNOWNS + 1];
} moments;

#define LANES 4 /* samples are taken by so many: arrays are padded with weights of 0 */

/* Zeros for n_x unknowns. */
void moments_clear(moments *g, int n_x);
/* m[i][j] += weight . x[i] . x[j] for j >= i. n: samples. */
void moments_add(moments *g, const double *const *x, const double *weight, int n_x, int n);
/* The same, on processors without vectors of 512 bits. */
void moments_add_narrow(moments *g, const double *const *x, const double *weight, int n_x, int n);
void moments_mirror(moments *g, int n);
/* Solution c of the n unknowns in list for `target`, r with r^T r = their moments; returns the sum
 * of squares left, or -1 when they are not independent. */
double solve(double *c, double r[MAX_UNKNOWNS][MAX_UNKNOWNS], const moments *g, const int *list,
             int n, int target);
/* Whole numbers near c: from the last on, each rounding is made good by the coefficients before it.
 */
void round_coefs(int32_t *out, const double *c, double r[MAX_UNKNOWNS][MAX_UNKNOWNS], int n,
                 const double *limit);
int32_t round_to(double v, double limit);

#endif
