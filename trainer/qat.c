/* qat.c - integer forward pass of a float model. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "qat.h"

void qat_init(qat *q, const model *m, const formats *f)
{
    *q = (qat){.f = *f, .p = malloc(m->st.n * sizeof *q->p)};
    if (!q->p) abort();
    memcpy(q->p, m->st.p, m->st.n * sizeof *q->p);
    const int cpu = nsvq_cpu_flags();
    nsvq_kernels_init(&q->k, cpu < 0 ? NSVQ_CPU_C : (unsigned)cpu);
}

static void free_layers(qat *q)
{
    for (int w = 0; w < 2; w++)
        for (int i = 0; i < NSVQ_MAX_LAYERS; i++) {
            nsvq_pointwise_free(&q->pw[w][i]);
            nsvq_depthwise_free(&q->dw[w][i]);
        }
}

void qat_free(qat *q)
{
    free_layers(q);
    free(q->p);
    memset(q, 0, sizeof *q);
}

/* Packs layer l and writes the weights that its integers stand for. */
static void refresh_layer(qat *q, const model *m, const layer *l, int which, int i, float in, float out)
{
    nsvq_layer e;
    if (l->kind == NSVQ_LAYER_SPACE_TO_DEPTH) return;
    if (layer_emit(m, l, in, out, &e)) abort();
    const int deep = l->kind == NSVQ_LAYER_DEPTHWISE, taps = deep ? l->k * l->k : l->cin;
    for (int o = 0; o < l->cout; o++) {
        const float unit = out * (float)e.mul[o] / 32768.f / (float)(1 << e.shift[o]);
        const int half = e.shift[o] ? 1 << (e.shift[o] - 1) : 0;
        q->p[l->b + (size_t)o] = unit * (float)(e.bias[o] - half);
        for (int t = 0; t < taps; t++) {
            const size_t at = deep ? (size_t)t * l->cin + (size_t)o : (size_t)o * taps + (size_t)t;
            q->p[l->w + at] = unit / in * (float)e.wt[at];
        }
    }
    int bad;
    if (deep) {
        nsvq_depthwise *d = &q->dw[which][i];
        nsvq_depthwise_free(d);
        d->channels = (uint16_t)l->cin;
        d->k = l->k;
        bad = q->k.depthwise_pack(d, e.wt, e.bias, e.shift, e.mul);
    } else {
        nsvq_pointwise *p = &q->pw[which][i];
        nsvq_pointwise_free(p);
        p->cin = (uint16_t)l->cin;
        p->cout = (uint16_t)l->cout;
        p->in_type = l->in_type;
        p->out_type = l->out_type;
        const network *n = which ? &m->syn : &m->ana;
        p->res_type = NSVQ_NONE;
        if (l->res != NSVQ_NO_REGISTER) {
            p->res_type = NSVQ_S16;
            for (int j = 0; j < n->n_layers; j++)
                if (n->l[j].dst == l->res) p->res_type = n->l[j].out_type;
        }
        bad = q->k.pointwise_pack(p, e.wt, e.bias, e.shift, e.mul);
    }
    free(e.wt); free(e.bias); free(e.shift); free(e.mul);
    if (bad) abort();
}

void qat_refresh(qat *q, const model *m)
{
#pragma omp parallel for schedule(dynamic, 1)
    for (int j = 0; j < m->ana.n_layers + m->syn.n_layers; j++) {
        const int which = j >= m->ana.n_layers, i = which ? j - m->ana.n_layers : j;
        const layer *l = which ? &m->syn.l[i] : &m->ana.l[i];
        const float *scale = which ? q->f.syn : q->f.ana;
        refresh_layer(q, m, l, which, i, scale[l->src], scale[l->dst]);
    }
}

static void depthwise(const qat *q, const nsvq_depthwise *d, uint8_t *out, const int16_t *in, int h, int w)
{
    const int r = d->k / 2, c = d->channels;
    const size_t row = (size_t)(w + 2 * r) * (size_t)c;
    int16_t *pad = calloc((size_t)(d->k + 1) * row, sizeof *pad); /* rows with zeros around; last: zero */
    if (!pad) abort();
    for (int y = 0; y < h; y++) {
        const int16_t *rows[5];
        for (int j = 0; j < d->k; j++) {
            const int iy = y + j - r;
            int16_t *to = pad + (size_t)(((iy % d->k) + d->k) % d->k) * row;
            rows[j] = iy < 0 || iy >= h ? pad + (size_t)d->k * row : to;
            if (iy >= 0 && iy < h && (j == d->k - 1 || y == 0))
                memcpy(to + r * c, in + (size_t)iy * (size_t)w * (size_t)c, sizeof *to * (size_t)w * (size_t)c);
        }
        q->k.depthwise(out + (size_t)y * (size_t)w * (size_t)c, rows, d, w);
    }
    free(pad);
}

static int type_of(const network *n, int r)
{
    for (int j = 0; j < n->n_layers; j++)
        if (n->l[j].dst == r) return n->l[j].out_type;
    return NSVQ_S16;
}

void qat_forward(const qat *q, const model *m, int which, workspace *ws, qat_buffers *b)
{
    const network *n = which ? &m->syn : &m->ana;
    const float *scale = which ? q->f.syn : q->f.ana;
    for (int r = 0; r <= n->n_layers; r++) {
        const size_t need = (size_t)ws->r[r].h * ws->r[r].w * ws->r[r].c;
        if (need > b->cap[r]) {
            free(b->r[r]);
            b->r[r] = malloc(need * sizeof(int16_t));
            if (!b->r[r]) abort();
            b->cap[r] = need;
        }
    }
    const tensor *x0 = &ws->r[0];
    for (size_t i = 0; i < (size_t)x0->h * x0->w * x0->c; i++) {
        const float v = fmaxf(-32767.f, fminf(32767.f, roundf(x0->v[i] / scale[0])));
        ((int16_t *)b->r[0])[i] = (int16_t)v;
        x0->v[i] = v * scale[0];
    }
    for (int i = 0; i < n->n_layers; i++) {
        const layer *l = &n->l[i];
        const tensor *x = &ws->r[l->src], *y = &ws->r[l->dst];
        const size_t count = (size_t)y->h * y->w * y->c;
        void *out = b->r[l->dst];
        switch ((nsvq_layer_kind)l->kind) {
        case NSVQ_LAYER_POINTWISE:
            q->k.pointwise(out, b->r[l->src], l->res == NSVQ_NO_REGISTER ? NULL : b->r[l->res],
                           &q->pw[which][i], x->h * x->w * l->rep);
            break;
        case NSVQ_LAYER_DEPTHWISE:
            depthwise(q, &q->dw[which][i], out, b->r[l->src], x->h, x->w);
            break;
        case NSVQ_LAYER_SPACE_TO_DEPTH: {
            const int16_t *in = b->r[l->src];
            int16_t *to = out;
            for (int oy = 0; oy < y->h; oy++)
                for (int ox = 0; ox < y->w; ox++)
                    for (int ky = 0; ky < l->k; ky++, to += (size_t)l->k * x->c)
                        memcpy(to, in + ((size_t)(oy * l->k + ky) * x->w + (size_t)ox * l->k) * x->c,
                               sizeof *to * (size_t)l->k * x->c);
            break;
        }
        }
        if (type_of(n, l->dst) == NSVQ_U8)
            for (size_t j = 0; j < count; j++) y->v[j] = scale[l->dst] * ((const uint8_t *)out)[j];
        else
            for (size_t j = 0; j < count; j++) y->v[j] = scale[l->dst] * ((const int16_t *)out)[j];
    }
}

void qat_buffers_free(qat_buffers *b)
{
    for (int i = 0; i < NSVQ_MAX_REGISTERS; i++) free(b->r[i]);
    memset(b, 0, sizeof *b);
}
