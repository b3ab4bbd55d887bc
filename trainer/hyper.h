/* hyper.h - the quantiser of the hyper family in float: hyper-latent, scales, means, gains, rates.
 * Mirrors codec/FORMAT.md, "Base layer of a block (hyper family)"; the engine's own integers are in
 * qat.h. Latents in real units are the integer ones divided by LATENT_ONE. Names: L latents per
 * position, Z hyper-latents, S side channels per latent, P = per * per latents under one hyper-latent.
 *
 * Sources: scales and means from a hyper-latent: Minnen et al., Joint Autoregressive and Hierarchical
 * Priors, NeurIPS 2018; gains per channel, exponential between anchors: Cui et al., Asymmetric Gained
 * Deep Image Compression, CVPR 2021. */
#ifndef NSVQ_TRAINER_HYPER_H
#define NSVQ_TRAINER_HYPER_H

#include "layer.h"
#include "tables.h"

#define HYPER_RATE 0.16f /* squared steps that a bit is worth: 6 dB a bit, at the optimum */
#define HYPER_CHOICE 0.1f /* the same, where the encoder chooses residuals: measured on the model's files */
#define HYPER_ANCHOR 32  /* quality between two anchors of the gains */
#define HYPER_LS_MIN (-4.f) /* log2 of scale / step, the classes' range */
#define HYPER_LS_MAX 8.f
#define HYPER_MAX_SLOPE 4.f  /* of a rate: bits per step, or octave of the scale */
#define HYPER_MAX_Z 6.f      /* steps: hyper-latents are clamped */

typedef struct hyper {
    int     latent, z, per, side, context; /* L, Z, latents per hyper-latent each way, S, 4 L + 4 */
    network ha, hs;                 /* y [L] -> z [Z]; z_hat [Z + 4] -> [P][2 L]: log2 scales, means */
    layer   mean[NSVQ_N_PASSES];    /* [4 L + 4] -> [L]; [0] unused */
    size_t  gain, z_gain;           /* store: log2 factors on the steps [NSVQ_N_GAINS][L], [..][Z] */
    size_t  z_mean, z_scale;        /* store: [Z], [Z] (log2) */
    class_tables tables;            /* measured when a model is written */
    float  *column;                 /* factors on the learning rate per input, 0: not known yet:
                                     * contexts [4 L + 4], of which [L + 4] at 3 L serve y_hat; then
                                     * z_hat [Z + 4] */
} hyper;

/* Everything of one patch of w x h latents; arrays of latents are [h][w][L], of hyper-latents
 * [h / per][w / per][Z]. */
typedef struct hyper_patch {
    int       cap, w, h, pass_at[NSVQ_N_PASSES + 1];
    int      *pos;               /* [n] raster index of each in coding order */
    workspace ha, hs;
    float    *y, *mu, *ls;       /* mu: base plus the pass's mean; ls: log2 of the scale */
    float    *t, *r;             /* (y - mu) / step, the same rounded */
    float    *dv, *ds;           /* derivatives of the bits by t and by ls - log2(step) */
    float    *ctx, *tmp;         /* [n][4 L + 4], [n][L], coding order */
    float    *z_t, *z_r, *z_dv, *z_ds;
    float    *step, *z_step;     /* [L], [Z] */
    float    *log_step, *z_log_step;
    int16_t  *exact[3];          /* qat.c: contexts, base, result of a pass */
    uint8_t  *cls, *z_cls;       /* qat.c: classes of latents, of hyper-latents [Z] */
    double    y_bits, z_bits;
} hyper_patch;

void  hyper_build(hyper *q, store *s, int stride, int latent, int z, int wide, int side);
float hyper_step(float quality); /* in real latent units, without gains */
/* What training balances rate and distortion by. Stride 16 is for lower rates: at the same quality its errors
 * may be larger. */
typedef struct balance {
    float coarse; /* factor on the errors */
    float unit;   /* latents of a start from principal components: a flat white has to stay within their range */
    float least;  /* bits per pixel: below it patches do not count for more */
} balance;
balance hyper_balance(int stride);
/* Side input of the networks that know the quality. */
float hyper_quality(float quality);
/* y [h][w][L] -> y_hat [h][w][L + 4]; w, h are multiples of per. noise: a generator for the rates of
 * training; NULL: rates of the rounded values. Returns the bits. */
double hyper_quantise(const hyper *q, const float *params, hyper_patch *p, const float *y, int w, int h,
                      float quality, float *y_hat, uint64_t *noise);
/* After hyper_quantise: g_y_hat [h][w][L + 4] -> g_y [h][w][L]; parameter gradients are added to g; a
 * bit weighs `weight`. Rounding passes gradients; contexts pass none to the neighbours. */
void  hyper_backward(const hyper *q, const float *params, float *g, hyper_patch *p, float quality,
                     float weight, const float *g_y_hat, float *g_y);
void  hyper_patch_free(hyper_patch *p);

/* Bits of n values v under a logistic density of scale 2^ls, integrated over a unit; dv, ds receive the
 * derivatives by v and ls. Far out the density has the slope of its edge. */
double hyper_rate(const float *v, const float *ls, float *dv, float *ds, int n);

/* Parts of hyper_quantise, for the same in integers (qat.c). */
void  hyper_open(const hyper *q, hyper_patch *p, const float *y, int w, int h);
void  hyper_spread(const hyper *q, hyper_patch *p); /* hs -> ls, mu */
void  hyper_context(const hyper *q, hyper_patch *p, int i, const float *y_hat, float quality);
void  hyper_rates(const hyper *q, const float *params, hyper_patch *p, uint64_t *noise);

#endif
