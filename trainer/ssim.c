/* ssim.c - see ssim.h. */
#include "ssim.h"

#include <math.h>
#include <string.h>

#include "fast.h"

#define TAPS 11
#define EDGE (TAPS - 1)
#define N_SCALES 5
#define C1 ((0.01f * 255 / 64) * (0.01f * 255 / 64))
#define C2 ((0.03f * 255 / 64) * (0.03f * 255 / 64))
#define LEAST 1e-3f /* a scale's mean below it counts as that */

static const float exponents[N_SCALES] = {0.0448f, 0.2856f, 0.3001f, 0.2363f, 0.1333f};
static const float window[TAPS] = {0.00102838f, 0.00759876f, 0.03600077f, 0.10936069f, 0.21300553f, 0.26601172f,
                                   0.21300553f, 0.10936069f, 0.03600077f, 0.00759876f, 0.00102838f};

/* out [h - EDGE][w - EDGE], t [h][w - EDGE] */
FAST static void blur(float *restrict out, float *restrict t, const float *restrict in, int w, int h)
{
    const int n = w - EDGE;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < n; x++) {
            float sum = 0;
            for (int k = 0; k < TAPS; k++) sum += window[k] * in[(size_t)y * w + x + k];
            t[(size_t)y * n + x] = sum;
        }
    for (int y = 0; y < h - EDGE; y++)
        for (int x = 0; x < n; x++) {
            float sum = 0;
            for (int k = 0; k < TAPS; k++) sum += window[k] * t[(size_t)(y + k) * n + x];
            out[(size_t)y * n + x] = sum;
        }
}

/* The adjoint: in [h - EDGE][w - EDGE] -> out [h][w]. */
FAST static void blur_back(float *restrict out, float *restrict t, const float *restrict in, int w, int h)
{
    const int n = w - EDGE;
    memset(t, 0, sizeof *t * (size_t)h * n);
    memset(out, 0, sizeof *out * (size_t)h * w);
    for (int y = 0; y < h - EDGE; y++)
        for (int k = 0; k < TAPS; k++)
            for (int x = 0; x < n; x++) t[(size_t)(y + k) * n + x] += window[k] * in[(size_t)y * n + x];
    for (int y = 0; y < h; y++)
        for (int k = 0; k < TAPS; k++)
            for (int x = 0; x < n; x++) out[(size_t)y * w + x + k] += window[k] * t[(size_t)y * n + x];
}

FAST static void products(float *restrict out, const float *restrict a, const float *restrict b, size_t n)
{
    for (size_t i = 0; i < n; i++) out[i] = a[i] * b[i];
}

FAST static void halve(float *restrict out, const float *restrict in, int w, int h)
{
    for (int y = 0; y < h / 2; y++)
        for (int x = 0; x < w / 2; x++) {
            const float *p = in + (size_t)(2 * y) * w + 2 * x;
            out[(size_t)y * (w / 2) + x] = 0.25f * (p[0] + p[1] + p[w] + p[w + 1]);
        }
}

FAST static void halve_back(float *restrict g, const float *restrict g_half, int w, int h)
{
    for (int y = 0; y < h / 2 * 2; y++)
        for (int x = 0; x < w / 2 * 2; x++) g[(size_t)y * w + x] += 0.25f * g_half[(size_t)(y / 2) * (w / 2) + x / 2];
}

/* The maps of a window's means; after `measure` the first three hold derivatives by themselves. */
typedef struct maps { float *mx, *xx, *xy, *my, *yy; } maps;

/* Mean over n windows of contrast and structure, with the luminance if last. */
FAST static float measure(const maps *m, size_t n, int last)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        const float mx = m->mx[i], my = m->my[i];
        const float a = 2.f * (m->xy[i] - mx * my) + C2, b = m->xx[i] - mx * mx + m->yy[i] - my * my + C2;
        const float p = 2.f * mx * my + C1, q = mx * mx + my * my + C1;
        const float cs = a / b, l = last ? p / q : 1.f;
        const float d_mx = 2.f * (mx * cs - my) / b;
        sum += l * cs;
        m->mx[i] = l * d_mx + (last ? cs * 2.f * (my - mx * l) / q : 0.f);
        m->xx[i] = -l * cs / b;
        m->xy[i] = l * 2.f / b;
    }
    return (float)(sum / (double)n);
}

/* What the derivatives by the maps are by x, times f. */
static void measure_back(const maps *m, float *g, float *t, float *u, const float *x, const float *y, int w, int h, float f)
{
    const size_t n = (size_t)w * h;
    blur_back(u, t, m->mx, w, h);
    for (size_t i = 0; i < n; i++) g[i] = f * u[i];
    blur_back(u, t, m->xx, w, h);
    for (size_t i = 0; i < n; i++) g[i] += f * 2.f * x[i] * u[i];
    blur_back(u, t, m->xy, w, h);
    for (size_t i = 0; i < n; i++) g[i] += f * y[i] * u[i];
}

static void reserve(ssim_work *s, int w, int h)
{
    if (s->memory && w * h <= s->w * s->h) return;
    s->memory = grow(s->memory, 8 * (size_t)w * h);
    s->w = w;
    s->h = h;
}

float ms_ssim(ssim_work *s, const float *x, const float *y, int w, int h, float *g)
{
    const size_t whole = (size_t)w * h;
    const float *xs[N_SCALES], *ys[N_SCALES];
    float *gs[N_SCALES], *p, value = 1, total = 0, mean[N_SCALES];
    int n = 0;

    reserve(s, w, h);
    p = s->memory + 7 * whole; // behind the maps of a scale: smaller pictures, with gradients
    for (int j = 0; j < N_SCALES && (w < h ? w : h) >> j >= TAPS; j++, n++) {
        const size_t size = (size_t)(w >> j) * (size_t)(h >> j);
        total += exponents[j];
        xs[j] = j ? p : x;
        ys[j] = j ? p + size : y;
        gs[j] = j ? p + 2 * size : g;
        if (!j) continue;
        halve(p, xs[j - 1], w >> (j - 1), h >> (j - 1));
        halve(p + size, ys[j - 1], w >> (j - 1), h >> (j - 1));
        p += 3 * size;
    }
    for (int j = 0; j < n; j++) {
        const int sw = w >> j, sh = h >> j;
        const size_t size = (size_t)sw * sh;
        float *t = s->memory, *u = t + size;
        const maps m = {u + size, u + 2 * size, u + 3 * size, u + 4 * size, u + 5 * size};
        blur(m.mx, t, xs[j], sw, sh);
        blur(m.my, t, ys[j], sw, sh);
        products(u, xs[j], xs[j], size);
        blur(m.xx, t, u, sw, sh);
        products(u, xs[j], ys[j], size);
        blur(m.xy, t, u, sw, sh);
        products(u, ys[j], ys[j], size);
        blur(m.yy, t, u, sw, sh);
        const size_t windows = (size_t)(sw - EDGE) * (sh - EDGE);
        const float v = measure(&m, windows, j == n - 1), e = exponents[j] / total;
        mean[j] = v > LEAST ? v : LEAST;
        value *= powf(mean[j], e);
        measure_back(&m, gs[j], t, u, xs[j], ys[j], sw, sh, v > LEAST ? e / mean[j] / (float)windows : 0.f);
    }
    for (int j = n - 1; j > 0; j--) halve_back(gs[j - 1], gs[j], w >> (j - 1), h >> (j - 1));
    for (size_t i = 0; i < whole; i++) g[i] *= value;
    return value;
}

void ssim_free(ssim_work *s)
{
    free(s->memory);
    *s = (ssim_work){0};
}

static const float part[3] = {0.299f, 0.587f, 0.114f};

/* Where pixel i of square (x, y) lies in the plane. */
static size_t place(const tensor *t, int stride, int x, int y, int i)
{
    const int per = stride / 4, px = 4 * (i / 16 % per) + i % 4, py = 4 * (i / 16 / per) + i / 4 % 4;
    return (size_t)(y * stride + py) * (size_t)(t->w * stride) + (size_t)(x * stride + px);
}

void luma_of(const tensor *t, int stride, float *luma)
{
    const float *v = t->v;
    for (int y = 0; y < t->h; y++)
        for (int x = 0; x < t->w; x++)
            for (int i = 0; i < stride * stride; i++, v += 3)
                luma[place(t, stride, x, y, i)] = part[0] * v[0] + part[1] * v[1] + part[2] * v[2] + 2.f;
}

void luma_back(const tensor *t, int stride, const float *g, float scale)
{
    float *to = t->g;
    for (int y = 0; y < t->h; y++)
        for (int x = 0; x < t->w; x++)
            for (int i = 0; i < stride * stride; i++, to += 3)
                for (int c = 0; c < 3; c++) to[c] += scale * part[c] * g[place(t, stride, x, y, i)];
}
