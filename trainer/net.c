/* net.c - building and running the float networks. */
#include <stdlib.h>
#include <string.h>

#include "layer.h"

size_t store_add(store *s, size_t n, int decay)
{
    const size_t at = s->n;
    segment *g = &s->seg[s->n_segments++];
    if (s->n_segments > MAX_SEGMENTS) abort();
    *g = (segment){.at = at, .n = n, .lr = 1.f, .decay = (uint8_t)decay};
    s->n += (n + 15) & ~(size_t)15;
    return at;
}

void store_alloc(store *s)
{
    s->p = calloc(s->n, sizeof *s->p);
    if (!s->p) abort();
}

segment *store_find(store *s, size_t at)
{
    for (int i = 0; i < s->n_segments; i++)
        if (s->seg[i].at == at) return &s->seg[i];
    abort();
}

/* Weights [cout][cin]. */
static size_t add_matrix(store *s, int cin, int cout)
{
    const size_t at = store_add(s, (size_t)cin * cout, 1);
    s->seg[s->n_segments - 1].rows = cout;
    return at;
}

layer layer_plain(store *s, int cin, int cout, nsvq_elem in, nsvq_elem out)
{
    return (layer){.kind = NSVQ_LAYER_POINTWISE, .res = NSVQ_NO_REGISTER, .k = 1, .rep = 1, .cin = cin,
                   .cout = cout, .in_type = (uint8_t)in, .out_type = (uint8_t)out,
                   .w = add_matrix(s, cin, cout), .b = store_add(s, (size_t)cout, 0)};
}

static int new_register(network *n, int channels, int shrink)
{
    const int r = n->n_layers + 1;
    n->channels[r] = channels;
    n->shrink[r] = shrink;
    n->output = r;
    return r;
}

int net_pointwise_rep(network *n, store *s, int src, int res, int rep, int cout, nsvq_elem in,
                      nsvq_elem out)
{
    const int cin = n->channels[src] / rep;
    const int dst = new_register(n, cout * rep, n->shrink[src]);
    n->l[n->n_layers++] = (layer){.kind = NSVQ_LAYER_POINTWISE, .src = (uint8_t)src,
                                  .dst = (uint8_t)dst, .res = (uint8_t)(res < 0 ? NSVQ_NO_REGISTER : res),
                                  .k = 1, .rep = (uint8_t)rep, .in_type = (uint8_t)in,
                                  .out_type = (uint8_t)out, .cin = cin, .cout = cout,
                                  .w = add_matrix(s, cin, cout),
                                  .b = store_add(s, (size_t)cout, 0)};
    return dst;
}

int net_pointwise(network *n, store *s, int src, int res, int cout, nsvq_elem in, nsvq_elem out)
{
    return net_pointwise_rep(n, s, src, res, 1, cout, in, out);
}

int net_depthwise(network *n, store *s, int src, int k)
{
    const int c = n->channels[src];
    const int dst = new_register(n, c, n->shrink[src]);
    n->l[n->n_layers++] = (layer){.kind = NSVQ_LAYER_DEPTHWISE, .src = (uint8_t)src,
                                  .dst = (uint8_t)dst, .res = NSVQ_NO_REGISTER, .k = (uint8_t)k,
                                  .rep = 1, .in_type = NSVQ_S16, .out_type = NSVQ_U8, .cin = c,
                                  .cout = c, .w = store_add(s, (size_t)k * k * c, 1),
                                  .b = store_add(s, (size_t)c, 0)};
    return dst;
}

int net_space_to_depth(network *n, int src, int k)
{
    const int c = n->channels[src];
    const int dst = new_register(n, c * k * k, n->shrink[src] + (k == 4 ? 2 : 1));
    n->l[n->n_layers++] = (layer){.kind = NSVQ_LAYER_SPACE_TO_DEPTH, .src = (uint8_t)src,
                                  .dst = (uint8_t)dst, .res = NSVQ_NO_REGISTER, .k = (uint8_t)k,
                                  .rep = 1, .in_type = NSVQ_S16, .out_type = NSVQ_S16, .cin = c,
                                  .cout = c * k * k};
    return dst;
}

void workspace_shape(workspace *ws, const network *n, int h, int w)
{
    for (int i = 0; i <= n->n_layers; i++) {
        tensor *t = &ws->r[i];
        t->h = h >> n->shrink[i];
        t->w = w >> n->shrink[i];
        t->c = n->channels[i];
        const size_t need = (size_t)t->h * t->w * t->c;
        if (need > ws->cap[i]) {
            free(t->v);
            free(t->g);
            t->v = aligned_alloc(64, (need * sizeof(float) + 63) & ~(size_t)63);
            t->g = aligned_alloc(64, (need * sizeof(float) + 63) & ~(size_t)63);
            if (!t->v || !t->g) abort();
            ws->cap[i] = need;
        }
    }
}

void workspace_free(workspace *ws)
{
    for (int i = 0; i < NSVQ_MAX_REGISTERS; i++) {
        free(ws->r[i].v);
        free(ws->r[i].g);
    }
    memset(ws, 0, sizeof *ws);
}

double net_macs(const network *n)
{
    double sum = 0;
    for (int i = 0; i < n->n_layers; i++) {
        const layer *l = &n->l[i];
        const double at = 1. / (1 << 2 * n->shrink[l->src]);
        if (l->kind == NSVQ_LAYER_POINTWISE) sum += at * l->rep * l->cin * l->cout;
        if (l->kind == NSVQ_LAYER_DEPTHWISE) sum += at * l->k * l->k * l->cin;
    }
    return sum;
}

void net_forward(const network *n, const float *p, workspace *ws)
{
    for (int i = 0; i < n->n_layers; i++) {
        const layer *l = &n->l[i];
        const tensor *x = &ws->r[l->src], *y = &ws->r[l->dst];
        switch ((nsvq_layer_kind)l->kind) {
        case NSVQ_LAYER_POINTWISE:
            op_pointwise(y->v, x->v, l->res == NSVQ_NO_REGISTER ? NULL : ws->r[l->res].v, p + l->w,
                         p + l->b, x->h * x->w * l->rep, l->cin, l->cout, l->out_type == NSVQ_U8);
            break;
        case NSVQ_LAYER_DEPTHWISE:
            op_depthwise(y->v, x->v, p + l->w, p + l->b, x->h, x->w, x->c, l->k);
            break;
        case NSVQ_LAYER_SPACE_TO_DEPTH:
            op_space_to_depth(y->v, x->v, x->h, x->w, x->c, l->k);
            break;
        }
    }
}

void net_backward(const network *n, const float *p, float *g, workspace *ws, int want_input)
{
    uint8_t has[NSVQ_MAX_REGISTERS] = {0}; /* its gradient holds a sum already */
    has[n->output] = 1;
    for (int i = n->n_layers - 1; i >= 0; i--) {
        const layer *l = &n->l[i];
        const tensor *x = &ws->r[l->src], *y = &ws->r[l->dst];
        const int n_pos = x->h * x->w * l->rep;
        float *dx = l->src == 0 && !want_input ? NULL : x->g;
        switch ((nsvq_layer_kind)l->kind) {
        case NSVQ_LAYER_POINTWISE:
            op_pointwise_back(y->g, y->v, x->v, p + l->w, dx, has[l->src], g + l->w, g + l->b, n_pos,
                              l->cin, l->cout, l->out_type == NSVQ_U8);
            break;
        case NSVQ_LAYER_DEPTHWISE:
            op_depthwise_back(y->g, y->v, x->v, p + l->w, dx, has[l->src], g + l->w, g + l->b, x->h,
                              x->w, x->c, l->k);
            break;
        case NSVQ_LAYER_SPACE_TO_DEPTH:
            if (dx) op_space_to_depth_back(y->g, dx, has[l->src], x->h, x->w, x->c, l->k);
            break;
        }
        has[l->src] = 1;
        if (l->res != NSVQ_NO_REGISTER) {
            const tensor *r = &ws->r[l->res];
            const size_t count = (size_t)r->h * r->w * r->c;
            if (has[l->res])
                for (size_t j = 0; j < count; j++) r->g[j] += y->g[j];
            else
                memcpy(r->g, y->g, count * sizeof *r->g);
            has[l->res] = 1;
        }
    }
}
