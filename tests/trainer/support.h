/* support.h - what the trainer's tests share: pictures in memory, models. */
#ifndef NSVQ_TRAINER_SUPPORT_H
#define NSVQ_TRAINER_SUPPORT_H

#include <stdbool.h>

#include "train.h"

/* Every layer kind and every sharing of registers, few channels. */
extern const preset tiny_preset;

/* n pictures (at least 3) of 208 x 192 and more, two classes; the last two are held out. Free with
 * dataset_free. */
void pictures_make(dataset *d, int n);

/* Random weights and codes: no start from data. */
void model_random(model *m, const preset *p, uint64_t seed);
/* Started on the pictures and trained for some steps, half of them quantisation-aware, all formats fixed;
 * the checkpoint goes to NAME.ckpt. */
void model_trained(model *m, const preset *p, const dataset *d, const char *name);

/* What is printed on stderr in between is thrown away. */
void silence(bool on);

#endif
