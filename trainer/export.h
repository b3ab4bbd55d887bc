/* export.h - float model -> integer model. */
#ifndef NSVQ_TRAINER_EXPORT_H
#define NSVQ_TRAINER_EXPORT_H

#include "train.h"

/* Formats of analysis and synthesis. */
void formats_calibrate(const model *m, const dataset *d, formats *f);
/* What is emitted from now on has dependent quantisation; hyper, before prior_calibrate. Training does not know. */
void use_trellis(model *m);
/* vq: of the prior; before, its hidden units are scaled to equal peaks, which changes no result. hyper:
 * the tables of the classes, from residuals of the integer network. */
void prior_calibrate(model *m, const dataset *d, formats *f);
/* One layer in integers; the caller frees the arrays (nsvq_model_free). 0, or -1 without memory. */
int  layer_emit(const model *m, const layer *l, float in_scale, float out_scale, nsvq_layer *out);
/* Gains, z_mean, z_scale in integers, as training has them; the caller frees the arrays. 0, or -1 without memory. */
int  hyper_numbers(const model *m, nsvq_hyper *out);
/* The whole model. *out is to be freed by nsvq_model_free. NULL, or what is wrong. */
const char *model_emit(const model *m, const formats *f, nsvq_model_desc *out);
/* With card text and half-precision master weights, to a file (temporary name, then rename). */
int  model_export(const model *m, const formats *f, const char *name, const char *card, const char *file);
/* The integer engine on held-out patches gives exactly the pixels of the trainer's own integer forward
 * pass (qat.h), fed with the engine's latents. 0, or -1 after a message. */
int  export_check(const model *m, const formats *f, const nsvq_model_desc *desc, const dataset *d);
/* The training card of a model file, malloc'ed; NULL after a message. */
char *model_card(const char *file);
/* From a model file that holds master weights (--init). */
int  model_from_master(model *m, const char *file);

/* PSNR and bits per pixel of the integer engine, whole bytes of block records counted, over the held-out
 * patches. */
figures validate_integer(const nsvq_model_desc *desc, const dataset *d, int quality, int size);
/* Mean difference in rate at equal PSNR between two curves of n figures each, in per cent; piecewise
 * linear in (PSNR, log rate), over the PSNR that both have. NAN where that is under 0.5 dB. */
double bd_rate(const figures *anchor, const figures *other, int n);

#endif
