/* reference.c - see reference.h. */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "random.h"
#include "reference.h"

void ref_pointwise(double *y, const double *x, const double *res, const double *w, const double *b,
                   int n, int cin, int cout)
{
    for (int i = 0; i < n; i++)
        for (int o = 0; o < cout; o++) {
            double sum = b[o] + (res ? res[i * cout + o] : 0);
            for (int c = 0; c < cin; c++) sum += w[o * cin + c] * x[i * cin + c];
            y[i * cout + o] = sum;
        }
}

void ref_depthwise(double *y, const double *x, const double *wt, const double *b, int h, int w,
                   int c, int k)
{
    for (int oy = 0; oy < h; oy++)
        for (int ox = 0; ox < w; ox++)
            for (int ch = 0; ch < c; ch++) {
                double sum = b[ch];
                for (int t = 0; t < k * k; t++) {
                    const int iy = oy + t / k - k / 2, ix = ox + t % k - k / 2;
                    if (iy >= 0 && iy < h && ix >= 0 && ix < w)
                        sum += wt[t * c + ch] * x[(iy * w + ix) * c + ch];
                }
                y[(oy * w + ox) * c + ch] = sum;
            }
}

void ref_space_to_depth(double *y, const double *x, int h, int w, int c, int k)
{
    for (int iy = 0; iy < h; iy++)
        for (int ix = 0; ix < w; ix++)
            for (int ch = 0; ch < c; ch++)
                y[((iy / k * (w / k) + ix / k) * k * k + iy % k * k + ix % k) * c + ch] =
                    x[(iy * w + ix) * c + ch];
}

void ref_gate(double *y, const float *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!(out[i] > 0.f)) y[i] = 0;
}

void ref_network(const network *n, const double *p, double *const *r, const workspace *ws)
{
    for (int i = 0; i < n->n_layers; i++) {
        const layer *l = &n->l[i];
        const tensor *x = &ws->r[l->src], *y = &ws->r[l->dst];
        switch ((nsvq_layer_kind)l->kind) {
        case NSVQ_LAYER_POINTWISE:
            ref_pointwise(r[l->dst], r[l->src], l->res == NSVQ_NO_REGISTER ? NULL : r[l->res],
                          p + l->w, p + l->b, x->h * x->w * l->rep, l->cin, l->cout);
            break;
        case NSVQ_LAYER_DEPTHWISE:
            ref_depthwise(r[l->dst], r[l->src], p + l->w, p + l->b, x->h, x->w, x->c, l->k);
            break;
        case NSVQ_LAYER_SPACE_TO_DEPTH:
            ref_space_to_depth(r[l->dst], r[l->src], x->h, x->w, x->c, l->k);
            break;
        }
        if (l->out_type == NSVQ_U8) ref_gate(r[l->dst], y->v, (size_t)y->h * y->w * y->c);
    }
}

void ref_position(const vq *q, const double *w, int pass, const double *ctx, double *mean, double *hid)
{
    const layer *lm = &q->mean[pass], *lc = &q->ctx[pass];
    ref_pointwise(mean, ctx, NULL, w + lm->w, w + lm->b, 1, q->context, q->latent);
    ref_pointwise(hid, ctx, NULL, w + lc->w, w + lc->b, 1, q->context, q->hidden);
}

void ref_slice(const vq *q, const double *w, int s, const double *hid, const double *words,
               const double *base, const float *gate, double *logit, double *mu)
{
    const layer *lp = &q->prev[s], *ll = &q->logit[s], *lm = &q->shiftm[s];
    const int H = q->hidden, D = q->dim;
    double h[512];
    if (H > 512) abort();
    if (s) ref_pointwise(h, words, hid, w + lp->w, w + lp->b, 1, s * D, H);
    else memcpy(h, hid, sizeof *h * (size_t)H);
    for (int i = 0; i < H; i++)
        if (gate ? !(gate[i] > 0.f) : h[i] < 0) h[i] = 0;
    ref_pointwise(logit, h, NULL, w + ll->w, w + ll->b, 1, H, q->cells);
    ref_pointwise(mu, h, base, w + lm->w, w + lm->b, 1, H, D);
}

double ref_bits(const double *logit, int n, int chosen)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += exp2(logit[i] - logit[chosen]);
    return log2(sum);
}

double *ref_doubles(const float *v, size_t n)
{
    double *d = malloc((n + 1) * sizeof *d);
    if (!d) abort();
    for (size_t i = 0; i < n; i++) d[i] = v ? v[i] : 0;
    return d;
}

double ref_dot(const float *a, const double *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

uint64_t ref_fill(float *v, size_t n, float std, uint64_t seed)
{
    for (size_t i = 0; i < n; i++) v[i] = std * random_normal(&seed);
    return seed;
}

void ref_differences(const ref_check *c, ref_loss *f, void *user)
{
    const size_t n = (c->n + c->every - 1) / c->every;
    double *slope = ref_doubles(NULL, n), squares = 0;
    for (size_t i = 0; i < n; i++) {
        double *p = &c->p[i * c->every];
        const double keep = *p;
        *p = keep + c->step;
        const double above = f(user);
        *p = keep - c->step;
        const double below = f(user);
        *p = keep;
        slope[i] = (above - below) / (2 * c->step);
        squares += slope[i] * slope[i];
    }
    const double rms = sqrt(squares / (double)n);
    if (!(rms > 0)) fail_msg("%s: nothing depends on it", c->what);
    for (size_t i = 0; i < n; i++) {
        const size_t at = i * c->every;
        const double got = (double)c->grown[at] - (c->before ? c->before[at] : 0);
        if (!(fabs(got - slope[i]) <= c->tolerance * rms))
            fail_msg("%s[%zu]: gradient %.7g, differences %.7g, rms %.3g", c->what, at, got,
                     slope[i], rms);
    }
    free(slope);
}
