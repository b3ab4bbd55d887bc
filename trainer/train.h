/* train.h - the whole of a model in training. */
#ifndef NSVQ_TRAINER_TRAIN_H
#define NSVQ_TRAINER_TRAIN_H

#include "dataset.h"
#include "vq.h"

typedef struct preset {
    char name[16];
    int  c4, n4, c8, n8, c16, n16; /* analysis: channels and residual blocks at 1/4, 1/8, 1/16 */
    int  body, n_body;             /* synthesis: channels and blocks at 1/16 */
    int  render, n_render;         /* channels and residual layers at 1/4 */
    int  slices, dim, codes, hidden;
} preset;

/* Number format of every register: real = scale * integer. Registers that meet in a residual sum
 * share one; input, latents, output pixels and the prior's outputs have fixed ones. */
typedef struct formats {
    float ana[NSVQ_MAX_REGISTERS], syn[NSVQ_MAX_REGISTERS];
    float hidden; /* the prior's hidden layer */
} formats;

typedef struct model {
    preset  pre;
    store   st;
    network ana, syn;
    vq      q;
    int     ana_linear, ana_last, syn_linear, syn_head, syn_last; /* layer numbers */
    int     pixels16; /* register of the analysis that holds the patch in 16 x 16 squares */
    float  *m, *v;    /* AdamW moments, bias-corrected by `moments` steps */
    long    moments;
    long    step;
    double  trained_minutes, trained_mpixel;
    formats f;          /* valid from the quantisation-aware part of a training on */
    int     has_formats;
    uint64_t rng;
} model;

typedef struct train_options {
    const char *data, *out, *resume, *init, *log, *preset, *name;
    double minutes;
    long   steps;  /* instead of minutes when not 0 */
    int    batch, patch, threads, quiet;
    float  lr;
    float  lambda; /* squared latent units per bit at quality 50; 0: the model's */
    float  qat;    /* share of the run, at its end, that is quantisation-aware */
} train_options;

extern const preset presets[];
int  preset_find(const char *name, preset *out);
/* For those that a file holds: sizes that model_build takes, seed channels that exist. */
int  preset_valid(const preset *p, const int *seed_channel);
void model_build(model *m, const preset *p);
void model_free(model *m);
/* Random weights, then principal components, least squares and k-means from the data. */
void model_start(model *m, const dataset *d, int quiet);

int  checkpoint_save(const model *m, const char *file);
int  checkpoint_load(model *m, const char *file); /* builds the model */

/* The float network on one patch: for calibration and figures. */
typedef struct forward forward;
forward *forward_new(void);
void     forward_free(forward *f);
void     forward_run(forward *f, const model *m, const uint8_t *rgb, int w, int h, float quality);
const workspace *forward_analysis(const forward *f);
const workspace *forward_synthesis(const forward *f);
const vq_patch  *forward_patch(const forward *f);

typedef struct figures { double psnr, bpp, mse; int n; } figures;
/* Mean over held-out patches of PSNR (of rounded, clipped pixels) and bits per pixel, in float. */
figures validate(const model *m, const dataset *d, float quality, int size);

int  train(model *m, const dataset *d, const train_options *o);

#endif
