/* qat.h - the forward pass in the engine's own integers, for quantisation-aware training: the layers of
 * the float model are emitted, packed and run by the codec's kernels; what they give, dequantised, is
 * what the float backward pass sees (straight-through gradients). */
#ifndef NSVQ_TRAINER_QAT_H
#define NSVQ_TRAINER_QAT_H

#include "export.h"

typedef struct qat {
    nsvq_kernels   k;
    formats        f;
    float         *p; /* dequantised parameters, laid out like the store */
    nsvq_pointwise pw[N_NETS][NSVQ_MAX_LAYERS];
    nsvq_depthwise dw[N_NETS][NSVQ_MAX_LAYERS];
    nsvq_pointwise mean[NSVQ_N_PASSES]; /* hyper: [0] unused */
    nsvq_hyper     numbers;             /* hyper: gains, z_mean, z_scale; the rest is empty */
} qat;

typedef struct qat_buffers { /* of one thread and network */
    void  *r[NSVQ_MAX_REGISTERS];
    size_t cap[NSVQ_MAX_REGISTERS];
} qat_buffers;

void qat_init(qat *q, const model *m, const formats *f);
void qat_free(qat *q);
/* Emits and packs the current weights. */
void qat_refresh(qat *q, const model *m);
/* As net_forward; which: NET_. Register 0 is rounded in place. */
void qat_forward(const qat *q, const model *m, int which, workspace *ws, qat_buffers *b);
/* As hyper_quantise, in the integers of the engine, whose results it leaves in p in real units; then
 * hyper_backward works with q->p. b [N_NETS]. quality is a multiple of 1/16. tables: for the encoder's
 * choice of residuals; NULL: to the nearest. */
double qat_quantise(const qat *q, const model *m, hyper_patch *p, qat_buffers *b, const float *y, int w,
                    int h, float quality, float *y_hat, const class_tables *tables, uint64_t *noise);
int  qat_class(int log2_scale, int log_step); /* units 1/128 and 1/256 octave */
/* log2 of the step of channel c (hyper-latents from L on; of latents in a pass), unit 1/256 octave, and the step
 * in 1/16 of integer latent units; numbers: gains. */
int  qat_log_step(const nsvq_hyper *numbers, int latent, int c, int pass, int quality16);
int  qat_step(int log_step);
void qat_buffers_free(qat_buffers *b);

#endif
