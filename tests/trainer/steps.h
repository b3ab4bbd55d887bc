/* steps.h - the GPU backend's steps against the trainer's own, on any device. */
#ifndef NSVQ_TEST_STEPS_H
#define NSVQ_TEST_STEPS_H

#include "gpu.h"

/* Small shapes of both strides. */
extern const preset steps_sixteen, steps_eight;

/* A model with random weights, ready for steps of batch patches; half its segments are clipped. */
void steps_model(model *m, const preset *p, int batch, int patch);
/* Steps as they are, recorded and replayed, each from the state that the one before left: gradients within
 * `most` of themselves and of a segment's root mean square, states after the update. NULL, or what differs. */
const char *steps_same(device *v, const dataset *d, const preset *p, int batch, int patch, double most);
/* The same for one step in low precision: directions and lengths. */
const char *steps_near(device *v, const dataset *d, const preset *p, int batch, int patch);

#endif
