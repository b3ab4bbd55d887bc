/* scale.c - QUALITY: one scale over the models of the library. May include: codec.h. */
#include "codec.h"

/* From which QUALITY on the next model is the best: vq, then hyper at stride 16, then at stride 8
 * (data/models/README.md). */
#define COARSE_FROM 4.
#define FINE_FROM 14.

/* QUALITY and a model's own quality: straight lines between these. */
typedef struct knot {
    double quality, own;
} knot;
static const knot vq[] = {{1, 5}, {4, 39}, {100, 99}};
static const knot coarse[] = {{1, 1}, {4, 25}, {14, 40}, {100, 100}};
static const knot fine[] = {{1, 1}, {14, 16}, {40, 40}, {100, 100}};

static double own_quality(const knot *k, double quality)
{
    while (k[1].quality < quality) k++;
    return k->own + (k[1].own - k->own) * (quality - k->quality) / (k[1].quality - k->quality);
}

nsvq_status scale_model(nsvq_model **out, int family, double quality, nsvq_error *err)
{
    if (!family) family = quality < COARSE_FROM ? NSVQ_FAMILY_VQ : NSVQ_FAMILY_HYPER;
    return model_like(out, family, family == NSVQ_FAMILY_VQ || quality < FINE_FROM ? 16 : 8, err);
}

int scale_quality16(const nsvq_model *m, bool own, double quality)
{
    bool is_vq = m->desc.family == NSVQ_FAMILY_VQ;

    if (!own) quality = own_quality(is_vq ? vq : m->desc.stride == 16 ? coarse : fine, quality);
    return is_vq ? 16 * (int)(quality + 0.5) : (int)(16 * quality + 0.5);
}
