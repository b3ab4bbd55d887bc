/* ops.c - float operators of the trainer: products by gemm.h, the rest own loops on 16-wide vectors. */
#include <string.h>

#include "fast.h"
#include "gemm.h"
#include "layer.h"

FAST void op_pointwise(float *y, const float *x, const float *res, const float *w, const float *b,
                       int n, int cin, int cout, int relu)
{
    if (res && res != y)
        for (int i = 0; i < n; i++)
            for (int o = 0; o < cout; o++)
                y[(size_t)i * cout + o] = res[(size_t)i * cout + o] + b[o];
    else if (res)
        for (int i = 0; i < n; i++)
            for (int o = 0; o < cout; o++) y[(size_t)i * cout + o] += b[o];
    else
        for (int i = 0; i < n; i++) memcpy(y + (size_t)i * cout, b, sizeof *b * (size_t)cout);
    gemm('N', 'T', n, cout, cin, 1.f, x, cin, w, cin, 1.f, y, cout);
    if (relu)
        for (size_t i = 0; i < (size_t)n * cout; i++) y[i] = y[i] > 0.f ? y[i] : 0.f;
}

FAST static void mask_by_output(float *dy, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++) dy[i] = y[i] > 0.f ? dy[i] : 0.f;
}

FAST void op_pointwise_back(float *dy, const float *y, const float *x, const float *w, float *dx,
                            int dx_add, float *dw, float *db, int n, int cin, int cout, int relu)
{
    if (relu) mask_by_output(dy, y, (size_t)n * cout);
    for (int i = 0; i < n; i++)
        for (int o = 0; o < cout; o++) db[o] += dy[(size_t)i * cout + o];
    gemm('T', 'N', cout, cin, n, 1.f, dy, cout, x, cin, 1.f, dw, cin);
    if (dx) gemm('N', 'N', n, cin, cout, 1.f, dy, cout, w, cin, dx_add ? 1.f : 0.f, dx, cin);
}

/* One row segment of four outputs and 16 channels: the taps that fall outside are left out. k is a
 * constant in each caller, so that the accumulators stay in registers. */
INLINE void depthwise_k(float *y, const float *x, const float *wt, const float *b, int h, int w, int c,
                        const int k)
{
    const int r = k / 2;
    for (int oy = 0; oy < h; oy++)
        for (int c0 = 0; c0 < c; c0 += 16)
            for (int ox = 0; ox < w; ox += 4) {
                const int n = w - ox < 4 ? w - ox : 4;
                v16 acc[4];
                for (int j = 0; j < 4; j++) acc[j] = *(const v16 *)(b + c0);
                for (int ky = 0; ky < k; ky++) {
                    const int iy = oy + ky - r;
                    if (iy < 0 || iy >= h) continue;
                    const float *row = x + ((size_t)iy * w) * c + c0;
                    const float *wk = wt + (size_t)ky * k * c + c0;
                    if (n == 4 && ox >= r && ox + 3 + r < w) {
                        for (int kx = 0; kx < k; kx++) {
                            const v16 t = *(const v16 *)(wk + (size_t)kx * c);
                            const float *in = row + (size_t)(ox + kx - r) * c;
                            for (int j = 0; j < 4; j++)
                                acc[j] += t * *(const v16 *)(in + (size_t)j * c);
                        }
                    } else {
                        for (int kx = 0; kx < k; kx++) {
                            const v16 t = *(const v16 *)(wk + (size_t)kx * c);
                            for (int j = 0; j < n; j++) {
                                const int ix = ox + j + kx - r;
                                if (ix >= 0 && ix < w)
                                    acc[j] += t * *(const v16 *)(row + (size_t)ix * c);
                            }
                        }
                    }
                }
                for (int j = 0; j < n; j++) {
                    float *out = y + ((size_t)oy * w + ox + j) * c + c0;
                    for (int i = 0; i < 16; i++) out[i] = acc[j][i] > 0.f ? acc[j][i] : 0.f;
                }
            }
}

/* dx: correlation of dy with the mirrored kernel. */
INLINE void back_input_k(const float *dy, const float *wt, float *dx, int dx_add, int h, int w, int c,
                         const int k)
{
    const int r = k / 2;
    for (int iy = 0; iy < h; iy++)
        for (int c0 = 0; c0 < c; c0 += 16)
            for (int ix = 0; ix < w; ix += 4) {
                const int n = w - ix < 4 ? w - ix : 4;
                v16 acc[4];
                for (int j = 0; j < 4; j++)
                    acc[j] = dx_add && j < n ? *(v16 *)(dx + ((size_t)iy * w + ix + j) * c + c0)
                                             : (v16){0};
                for (int ky = 0; ky < k; ky++) {
                    const int oy = iy - ky + r;
                    if (oy < 0 || oy >= h) continue;
                    const float *row = dy + ((size_t)oy * w) * c + c0;
                    const float *wk = wt + (size_t)ky * k * c + c0;
                    if (n == 4 && ix >= r && ix + 3 + r < w) {
                        for (int kx = 0; kx < k; kx++) {
                            const v16 t = *(const v16 *)(wk + (size_t)kx * c);
                            const float *in = row + (size_t)(ix - kx + r) * c;
                            for (int j = 0; j < 4; j++)
                                acc[j] += t * *(const v16 *)(in + (size_t)j * c);
                        }
                    } else {
                        for (int kx = 0; kx < k; kx++) {
                            const v16 t = *(const v16 *)(wk + (size_t)kx * c);
                            for (int j = 0; j < n; j++) {
                                const int ox = ix + j - kx + r;
                                if (ox >= 0 && ox < w)
                                    acc[j] += t * *(const v16 *)(row + (size_t)ox * c);
                            }
                        }
                    }
                }
                for (int j = 0; j < n; j++) *(v16 *)(dx + ((size_t)iy * w + ix + j) * c + c0) = acc[j];
            }
}

INLINE void back_weights_k(const float *dy, const float *x, float *dwt, float *db, int h, int w, int c,
                           const int k)
{
    const int r = k / 2;
    for (int c0 = 0; c0 < c; c0 += 16) {
        v16 acc[25] = {{0}}, bias = {0};
        for (int oy = 0; oy < h; oy++) {
            const float *g = dy + (size_t)oy * w * c + c0;
            for (int ox = 0; ox < w; ox++) bias += *(const v16 *)(g + (size_t)ox * c);
            for (int ky = 0; ky < k; ky++) {
                const int iy = oy + ky - r;
                if (iy < 0 || iy >= h) continue;
                const float *row = x + (size_t)iy * w * c + c0;
                v16 a[5];
                for (int kx = 0; kx < k; kx++) a[kx] = acc[ky * k + kx];
                for (int ox = 0; ox < w; ox++) {
                    const v16 d = *(const v16 *)(g + (size_t)ox * c);
                    if (ox >= r && ox + r < w) {
                        for (int kx = 0; kx < k; kx++)
                            a[kx] += d * *(const v16 *)(row + (size_t)(ox + kx - r) * c);
                    } else {
                        for (int kx = 0; kx < k; kx++) {
                            const int ix = ox + kx - r;
                            if (ix >= 0 && ix < w) a[kx] += d * *(const v16 *)(row + (size_t)ix * c);
                        }
                    }
                }
                for (int kx = 0; kx < k; kx++) acc[ky * k + kx] = a[kx];
            }
        }
        for (int t = 0; t < k * k; t++) *(v16 *)(dwt + (size_t)t * c + c0) += acc[t];
        *(v16 *)(db + c0) += bias;
    }
}

FAST void op_depthwise(float *y, const float *x, const float *wt, const float *b, int h, int w, int c,
                       int k)
{
    if (k == 3)
        depthwise_k(y, x, wt, b, h, w, c, 3);
    else
        depthwise_k(y, x, wt, b, h, w, c, 5);
}

FAST void op_depthwise_back(float *dy, const float *y, const float *x, const float *wt, float *dx,
                       int dx_add, float *dwt, float *db, int h, int w, int c, int k)
{
    mask_by_output(dy, y, (size_t)h * w * c);
    if (k == 3) {
        back_weights_k(dy, x, dwt, db, h, w, c, 3);
        if (dx) back_input_k(dy, wt, dx, dx_add, h, w, c, 3);
    } else {
        back_weights_k(dy, x, dwt, db, h, w, c, 5);
        if (dx) back_input_k(dy, wt, dx, dx_add, h, w, c, 5);
    }
}

void op_space_to_depth(float *y, const float *x, int h, int w, int c, int k)
{
    for (int oy = 0; oy < h / k; oy++)
        for (int ox = 0; ox < w / k; ox++)
            for (int ky = 0; ky < k; ky++, y += (size_t)k * c)
                memcpy(y, x + ((size_t)(oy * k + ky) * w + (size_t)ox * k) * c,
                       sizeof *y * (size_t)k * c);
}

void op_space_to_depth_back(const float *dy, float *dx, int dx_add, int h, int w, int c, int k)
{
    for (int oy = 0; oy < h / k; oy++)
        for (int ox = 0; ox < w / k; ox++)
            for (int ky = 0; ky < k; ky++, dy += (size_t)k * c) {
                float *d = dx + ((size_t)(oy * k + ky) * w + (size_t)ox * k) * c;
                for (int i = 0; i < k * c; i++) d[i] = dx_add ? d[i] + dy[i] : dy[i];
            }
}
