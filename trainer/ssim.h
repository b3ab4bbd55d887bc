/* ssim.h - MS-SSIM of a plane with its gradient.
 * Source: Z. Wang, E. Simoncelli, A. Bovik, "Multiscale structural similarity for image quality assessment"
 * (2003); Gaussian window of 11 x 11, deviation 1.5, no padding, scales halved by means of 2 x 2. */
#ifndef NSVQ_TRAINER_SSIM_H
#define NSVQ_TRAINER_SSIM_H

#include "layer.h"

typedef struct ssim_work { /* buffers that grow; zeroed at first */
    float *memory;
    int    w, h;
} ssim_work;

/* x, y [h][w] in grey levels / 64, w and h from 16 on. As many of the five scales as fit, their exponents
 * scaled to sum 1. g [h][w] becomes the derivative by x. */
float ms_ssim(ssim_work *s, const float *x, const float *y, int w, int h, float *g);
void  ssim_free(ssim_work *s);

/* Luma of pixels in squares, [h][w][sy][sx][py 4][px 4][c 3] of stride x stride pixels each, in grey levels /
 * 64 from black on: luma [h * stride][w * stride]. Backwards t's gradients grow by scale times what luma's
 * gradient g says. */
void luma_of(const tensor *t, int stride, float *luma);
void luma_back(const tensor *t, int stride, const float *g, float scale);

#endif
