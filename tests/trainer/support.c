/* support.c - see support.h. */
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "export.h"
#include "random.h"
#include "reference.h"
#include "support.h"

const preset tiny_preset = {"tiny", NSVQ_FAMILY_VQ, 16, 32, 16, 1, 32, 1, 32, 2, 32, 1, 16, 2,
                            4, 8, 128, 32, 0, 0, 0};

/* Waves, rectangles, some noise. */
static uint8_t *draw(int w, int h, uint64_t rng)
{
    uint8_t *rgb = malloc((size_t)w * (size_t)h * 3);
    float wave[6][4], box[12][7];
    if (!rgb) abort();
    for (int i = 0; i < 6; i++)
        for (int j = 0; j < 4; j++) wave[i][j] = random_unit(&rng);
    for (int i = 0; i < 12; i++)
        for (int j = 0; j < 7; j++) box[i][j] = random_unit(&rng);
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            const float fx = (float)x / (float)w, fy = (float)y / (float)h;
            for (int c = 0; c < 3; c++) {
                float v = 128.f + 8.f * random_normal(&rng);
                for (int i = 0; i < 6; i++)
                    v += 18.f * sinf(6.2831853f * ((float)(1 << i) * (wave[i][0] * fx + wave[i][1] * fy) +
                                                   wave[i][2] + wave[i][3] * (float)c * 0.3f));
                for (int i = 0; i < 12; i++)
                    if (fabsf(fx - box[i][0]) < 0.2f * box[i][2] && fabsf(fy - box[i][1]) < 0.2f * box[i][3])
                        v = 255.f * box[i][4 + c] + 0.1f * v;
                rgb[((size_t)y * (size_t)w + (size_t)x) * 3 + (size_t)c] =
                    (uint8_t)(v < 0.f ? 0.f : v > 255.f ? 255.f : v);
            }
        }
    return rgb;
}

void pictures_make(dataset *d, int n)
{
    *d = (dataset){.n = n, .n_classes = 2, .n_held_out = 2};
    d->pic = calloc((size_t)n, sizeof *d->pic);
    d->class_name = calloc(2, sizeof *d->class_name);
    d->class_weight = calloc(2, sizeof *d->class_weight);
    if (!d->pic || !d->class_name || !d->class_weight) abort();
    strcpy(d->class_name[0], "even");
    strcpy(d->class_name[1], "odd");
    d->class_weight[0] = d->class_weight[1] = 0.5;
    for (int i = 0; i < n; i++) {
        picture *p = &d->pic[i];
        *p = (picture){.w = 208 + 5 * i, .h = 192 + 3 * i, .class_at = i % 2, .held_out = i >= n - 2};
        snprintf(p->name, sizeof p->name, "%s/picture-%d.tif", d->class_name[i % 2], i);
        p->rgb = draw(p->w, p->h, (uint64_t)i + 1);
        d->pixels += (double)p->w * p->h;
    }
}

static uint64_t random_net(model *m, const network *n, uint64_t rng)
{
    for (int i = 0; i < n->n_layers; i++) {
        const layer *l = &n->l[i];
        const int taps = l->kind == NSVQ_LAYER_DEPTHWISE ? l->k * l->k : l->cin;
        const size_t weights = l->kind == NSVQ_LAYER_DEPTHWISE ? (size_t)taps * (size_t)l->cin
                                                               : (size_t)taps * (size_t)l->cout;
        const float gain = l->res == NSVQ_NO_REGISTER ? 2.f : 0.5f;
        if (l->kind == NSVQ_LAYER_SPACE_TO_DEPTH) continue;
        rng = ref_fill(m->st.p + l->w, weights, sqrtf(gain / (float)taps), rng);
        rng = ref_fill(m->st.p + l->b, (size_t)l->cout, 0.1f, rng);
    }
    return rng;
}

static uint64_t random_layer(model *m, const layer *l, float std, uint64_t rng)
{
    rng = ref_fill(m->st.p + l->w, (size_t)l->cin * (size_t)l->cout, std / sqrtf((float)l->cin), rng);
    return ref_fill(m->st.p + l->b, (size_t)l->cout, 0.2f, rng);
}

void model_random(model *m, const preset *p, uint64_t seed)
{
    model_build(m, p);
    vq *q = &m->q;
    const size_t n = (size_t)q->slices * (size_t)q->codes;
    uint64_t rng = random_net(m, &m->syn, random_net(m, &m->ana, seed));
    m->rng = seed;
    if (p->family == NSVQ_FAMILY_HYPER) {
        hyper *h = &m->h;
        rng = random_net(m, &h->hs, random_net(m, &h->ha, rng));
        for (int i = 1; i < NSVQ_N_PASSES; i++) rng = random_layer(m, &h->mean[i], 0.5f, rng);
        rng = ref_fill(m->st.p + h->gain, (size_t)(NSVQ_N_GAINS * h->latent), 0.3f, rng);
        rng = ref_fill(m->st.p + h->z_gain, (size_t)(NSVQ_N_GAINS * h->z), 0.3f, rng);
        rng = ref_fill(m->st.p + h->z_mean, (size_t)h->z, 0.5f, rng);
        ref_fill(m->st.p + h->z_scale, (size_t)h->z, 0.5f, rng);
        return;
    }
    for (int i = 0; i < NSVQ_N_PASSES; i++)
        rng = random_layer(m, &q->ctx[i], 1.f, random_layer(m, &q->mean[i], 0.5f, rng));
    for (int s = 0; s < q->slices; s++) {
        if (s) rng = random_layer(m, &q->prev[s], 1.f, rng);
        rng = random_layer(m, &q->shiftm[s], 0.3f, random_layer(m, &q->logit[s], 1.f, rng));
    }
    rng = ref_fill(q->code, n * (size_t)q->dim, 0.5f, rng);
    for (size_t i = 0; i < n; i++) {
        q->ema_n[i] = 5.f * random_unit(&rng);
        for (int c = 0; c < q->dim; c++)
            q->ema_sum[i * (size_t)q->dim + (size_t)c] =
                q->code[i * (size_t)q->dim + (size_t)c] * q->ema_n[i];
    }
    for (int i = 0; i < 3; i++) q->seed_channel[i] = i * 2;
    vq_refresh(q);
    vq_member_table(q);
}

void model_trained(model *m, const preset *p, const dataset *d, const char *name)
{
    const train_options o = {.out = name, .steps = 6, .batch = 2, .patch = 128, .threads = 1,
                             .quiet = 1, .lr = 3e-3f, .qat = 0.5f};
    model_build(m, p);
    m->q.lambda50 = 0.4f;
    model_start(m, d, 1);
    if (train(m, d, &o)) abort();
    prior_calibrate(m, d, &m->f);
    char file[256];
    snprintf(file, sizeof file, "%s.ckpt", name);
    if (checkpoint_save(m, file)) abort();
}

void silence(bool on)
{
    static int kept = -1;
    fflush(stderr);
    if (on && kept < 0) {
        const int nowhere = open("/dev/null", O_WRONLY);
        kept = dup(STDERR_FILENO);
        if (nowhere < 0 || kept < 0 || dup2(nowhere, STDERR_FILENO) < 0) abort();
        close(nowhere);
    } else if (!on && kept >= 0) {
        if (dup2(kept, STDERR_FILENO) < 0) abort();
        close(kept);
        kept = -1;
    }
}
