/* train.h - the whole of a model in training. */
#ifndef NSVQ_TRAINER_TRAIN_H
#define NSVQ_TRAINER_TRAIN_H

#include "dataset.h"
#include "hyper.h"
#include "vq.h"

typedef struct preset {
    char name[16];
    int  family, stride, latent;   /* nsvq_family; pixels per latent; channels of a latent */
    int  c4, n4, c8, n8, c16, n16; /* analysis: channels and residual blocks at 1/4, 1/8, 1/16 */
    int  body, n_body;             /* synthesis: channels and blocks at 1/stride */
    int  render, n_render;         /* channels and residual layers at 1/4 */
    int  slices, dim, codes, hidden; /* vq; latent = slices * dim */
    int  z, wide, side;            /* hyper: hyper-latents, channels of its networks, side channels */
} preset;

enum { NET_ANALYSIS, NET_SYNTHESIS, NET_HA, NET_HS, N_NETS }; /* a vq model has the first two */

/* Number format of every register: real = scale * integer. Registers that meet in a residual sum
 * share one; input, latents, output pixels and the priors' outputs have fixed ones. */
typedef struct formats {
    float ana[NSVQ_MAX_REGISTERS], syn[NSVQ_MAX_REGISTERS];
    float hidden; /* vq: the prior's hidden layer */
    float ha[NSVQ_MAX_REGISTERS], hs[NSVQ_MAX_REGISTERS];
} formats;

/* A training that may be cut short and gone on with. */
typedef struct run {
    long   first, steps;  /* step that it began with; length, or 0: by minutes */
    double minutes, used; /* length, time spent */
    float  lr, qat, low, high, ms_ssim;
    int    batch, patch;
} run;

typedef struct model {
    preset  pre;
    store   st;
    network ana, syn;
    vq      q; /* of the vq family */
    hyper   h; /* of the hyper family */
    int     ana_linear, ana_last, syn_linear, syn_head, syn_last; /* layer numbers */
    int     squares;    /* register of the analysis that holds the patch in squares of a latent */
    float  *m, *v;      /* AdamW moments, bias-corrected by `moments` steps */
    float  *mean;       /* hyper: moving average of the parameters, which is what is evaluated */
    float  *norm;       /* hyper: running norm of each segment's gradient; 0: none yet */
    long    moments;
    long    step;
    double  trained_minutes, trained_mpixel;
    formats f;          /* valid from the quantisation-aware part of a training on */
    int     has_formats;
    run     run;        /* the last */
    uint64_t rng;
} model;

typedef struct train_options {
    const char *data, *out, *resume, *init, *log, *preset, *name;
    double minutes;
    long   steps;  /* instead of minutes when not 0 */
    long   stop;   /* for tests: leaves after so many steps of the run, as a signal would; 0: never */
    int    go_on;  /* with the model's own run, if that is not done: minutes to patch below do not count */
    int    batch, patch, threads, quiet;
    float  lr;
    float  lambda; /* vq: squared latent units per bit at quality 50; 0: the model's */
    float  qat;    /* share of the run, at its end, that is quantisation-aware */
    float  low, high; /* range of qualities; 0: the family's */
    float  ms_ssim;   /* hyper: share of the distortion that MS-SSIM is, the rest being squared error */
    int    reshape;   /* the model of init gets the preset's shape */
    int    trellis;   /* hyper: the model that is written has dependent quantisation */
    int    cuda;      /* hyper: on a GPU until the quantisation-aware part, which is the CPU's */
    double save;      /* minutes between checkpoints; 0: 5 */
} train_options;

static inline int is_hyper(const model *m)
{
    return m->pre.family == NSVQ_FAMILY_HYPER;
}

float *zeros(size_t n); /* calloc; aborts without memory */

extern const preset presets[];
int  preset_find(const char *name, preset *out);
/* For those that a file holds: sizes that model_build takes, seed channels that exist. */
int  preset_valid(const preset *p, const int *seed_channel);
void model_build(model *m, const preset *p);
/* To p's shape, which has other numbers of residual blocks: new ones come last and pass on what they get, so that
 * the model computes what it did before; of fewer the first stay. 0; or -1, m as it was: vq, or p differs in more. */
int  model_reshape(model *m, const preset *p);
void model_free(model *m);
/* Random weights, then principal components, least squares and (vq) k-means from the data. */
void model_start(model *m, const dataset *d, int quiet);
/* Multiplications per pixel, in thousands. */
typedef struct model_cost { double analysis, entropy, synthesis; } model_cost;
model_cost model_costs(const model *m);
const network *model_net(const model *m, int which);
int  model_nets(const model *m); /* how many: 2 or N_NETS */
const float *formats_of(const formats *f, int which);
/* The average of the parameters and the trained ones change places; vq has no average. */
void model_average(model *m);
/* Patches as the family has them; size: pixels per side. */
cut  model_cut(const model *m, int size);
/* Pixels [h][w][3] -> [h / 4][w / 4][48], the analysis' input. */
void pixels_in(float *to, const uint8_t *rgb, int w, int h);

int  checkpoint_save(const model *m, const char *file);
int  checkpoint_load(model *m, const char *file); /* builds the model */

/* The float network on one patch: for calibration and figures. */
typedef struct forward forward;
forward *forward_new(void);
void     forward_free(forward *f);
void     forward_run(forward *f, const model *m, const uint8_t *rgb, int w, int h, float quality);
const workspace *forward_net(const forward *f, int which);
const vq_patch  *forward_patch(const forward *f);

typedef struct figures { double psnr, bpp, mse; int n; } figures;
/* Mean over held-out patches of PSNR (of rounded, clipped pixels) and bits per pixel by the densities that
 * the training assumes: in float, or with formats in the engine's integers. */
figures validate(const model *m, const formats *f, const dataset *d, float quality, int size);

int  train(model *m, const dataset *d, const train_options *o);

/* Parts of a step, for checks: the gradient [st.n] of m->run's batch with this seed, sums of bits and PSNR
 * over it; the update by a gradient, 0, or -1 and nothing done when that is not finite. */
void train_gradient(const model *m, const dataset *d, uint64_t seed, float *g, double *bits, double *psnr);
int  train_update(model *m, const float *g, float lr);

/* Where the time of a step goes. */
enum { PART_PATCH, PART_ANALYSIS, PART_QUANTISER, PART_SYNTHESIS, PART_SYNTHESIS_BACK, PART_QUANTISER_BACK,
       PART_ANALYSIS_BACK, PART_SUM, PART_UPDATE, N_PARTS };
/* n steps; returns their seconds. spent: those that a thread was busy with each part, on the mean. */
double bench_steps(model *m, const dataset *d, const train_options *o, int n, double *spent);
#define BENCH_SECONDS 10.
/* The same on a GPU; peak: of its products, GFLOP/s; ms: of each kernel (gpu_kernel). -1 after a message. */
typedef struct bench_result {
    char   device[120];
    long   steps;
    int    kernels;
    double seconds, peak, ms[64];
} bench_result;
int  bench_gpu(model *m, const dataset *d, const train_options *o, bench_result *r);
/* nsvq-train bench: an exit status. */
int  bench(const preset *p, const train_options *o);

#endif
