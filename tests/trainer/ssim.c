/* ssim.c - MS-SSIM against its definition, in double and plainly; its gradient against differences. */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "reference.h"
#include "ssim.h"
#include "train.h"

#define MOST (192 * 200)

typedef struct planes {
    int w, h;
    double x[MOST], y[MOST];
} planes;

static double one_scale(const double *x, const double *y, int w, int h, bool luminance)
{
    double window[11], all = 0, sum = 0;
    const double c1 = pow(0.01 * 255 / 64, 2), c2 = pow(0.03 * 255 / 64, 2);
    for (int i = 0; i < 11; i++) all += window[i] = exp(-(i - 5) * (i - 5) / 4.5);
    for (int b = 0; b + 11 <= h; b++)
        for (int a = 0; a + 11 <= w; a++) {
            double mx = 0, my = 0, xx = 0, xy = 0, yy = 0;
            for (int j = 0; j < 11; j++)
                for (int i = 0; i < 11; i++) {
                    const double k = window[i] * window[j] / all / all;
                    const double p = x[(b + j) * w + a + i], q = y[(b + j) * w + a + i];
                    mx += k * p;
                    my += k * q;
                    xx += k * p * p;
                    xy += k * p * q;
                    yy += k * q * q;
                }
            const double cs = (2 * (xy - mx * my) + c2) / (xx - mx * mx + yy - my * my + c2);
            sum += luminance ? cs * (2 * mx * my + c1) / (mx * mx + my * my + c1) : cs;
        }
    return sum / (w - 10) / (h - 10);
}

static void halved(double *x, int w, int h)
{
    for (int b = 0; b < h / 2; b++)
        for (int a = 0; a < w / 2; a++)
            x[b * (w / 2) + a] = (x[2 * b * w + 2 * a] + x[2 * b * w + 2 * a + 1] + x[(2 * b + 1) * w + 2 * a] +
                                  x[(2 * b + 1) * w + 2 * a + 1]) / 4;
}

static double definition(void *user)
{
    static const double exponent[5] = {0.0448, 0.2856, 0.3001, 0.2363, 0.1333};
    static double x[MOST], y[MOST];
    const planes *p = user;
    double value = 1, total = 0;
    int n = 0;
    while (n < 5 && (p->w < p->h ? p->w : p->h) >> n >= 11) total += exponent[n++];
    memcpy(x, p->x, sizeof x);
    memcpy(y, p->y, sizeof y);
    for (int j = 0; j < n; j++) {
        const int w = p->w >> j, h = p->h >> j;
        value *= pow(one_scale(x, y, w, h, j == n - 1), exponent[j] / total);
        halved(x, w, h);
        halved(y, w, h);
    }
    return value;
}

static void by_definition(void **state)
{
    static const int size[][2] = {{16, 16}, {45, 24}, {192, 200}};
    static planes p;
    static float x[MOST], y[MOST], g[MOST];
    ssim_work s = {0};
    (void)state;
    for (int i = 0; i < 3; i++) {
        const int w = size[i][0], h = size[i][1], n = w * h;
        p.w = w;
        p.h = h;
        uint64_t seed = ref_fill(x, (size_t)n, 0.15f, 5);
        ref_fill(y, (size_t)n, 0.05f, seed);
        for (int k = 0; k < n; k++) { // waves and noise; some of the noise is lost
            y[k] += x[k] + 2.f + sinf(0.3f * (float)(k % w)) * cosf(0.2f * (float)(k / w));
            x[k] = y[k] - x[k];
        }
        for (int k = 0; k < n; k++) {
            p.x[k] = x[k];
            p.y[k] = y[k];
        }
        const double want = definition(&p);
        assert_in_range((int)(1000 * want), 300, 990);
        assert_float_equal(ms_ssim(&s, x, y, w, h, g), want, 1e-5);
        ref_check c = {.p = p.x, .n = (size_t)n, .every = (size_t)(1 + n / 12), .step = 1e-3, .tolerance = 1e-2,
                       .grown = g};
        snprintf(c.what, sizeof c.what, "%d x %d", w, h);
        ref_differences(&c, definition, &p);
        assert_float_equal(ms_ssim(&s, y, y, w, h, g), 1, 1e-5);
    }
    ssim_free(&s);
}

/* Luma of squares as the analysis makes them is that of the pixels; backwards is its adjoint. */
static void luma_of_squares(void **state)
{
    enum { W = 48, H = 32, N = W * H };
    static uint8_t rgb[3 * N];
    static float in[3 * N], v[3 * N], g[3 * N], luma[N], random[N];
    (void)state;
    for (int i = 0; i < 3 * N; i++) rgb[i] = (uint8_t)(i * 7919 % 251);
    ref_fill(random, N, 1, 3);
    pixels_in(in, rgb, W, H);
    for (int stride = 8; stride <= 16; stride += 8) {
        const tensor t = {H / stride, W / stride, 3 * stride * stride, v, g};
        double forwards = 0, backwards = 0;
        op_space_to_depth(v, in, H / 4, W / 4, 48, stride / 4);
        luma_of(&t, stride, luma);
        for (int i = 0; i < N; i++) {
            const double want = 0.299 * rgb[3 * i] + 0.587 * rgb[3 * i + 1] + 0.114 * rgb[3 * i + 2];
            assert_float_equal(64 * luma[i], want, 1e-3);
            forwards += random[i] * (luma[i] - 2.);
        }
        memset(g, 0, sizeof g);
        luma_back(&t, stride, random, 0.5f);
        for (int i = 0; i < 3 * N; i++) backwards += 2. * g[i] * v[i];
        assert_float_equal(forwards, backwards, 1e-2);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(by_definition), cmocka_unit_test(luma_of_squares)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
