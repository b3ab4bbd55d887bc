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
    nsvq_pointwise pw[2][NSVQ_MAX_LAYERS]; /* analysis, synthesis */
    nsvq_depthwise dw[2][NSVQ_MAX_LAYERS];
} qat;

typedef struct qat_buffers { /* of one thread and network */
    void  *r[NSVQ_MAX_REGISTERS];
    size_t cap[NSVQ_MAX_REGISTERS];
} qat_buffers;

void qat_init(qat *q, const model *m, const formats *f);
void qat_free(qat *q);
/* Emits and packs the current weights. */
void qat_refresh(qat *q, const model *m);
/* As net_forward; which = 0: analysis, 1: synthesis. Register 0 is rounded in place. */
void qat_forward(const qat *q, const model *m, int which, workspace *ws, qat_buffers *b);
void qat_buffers_free(qat_buffers *b);

#endif
