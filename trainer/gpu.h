/* gpu.h - steps of the hyper family's training on a device: patches, weights and moments stay there, and a
 * step is one recorded graph. */
#ifndef NSVQ_TRAINER_GPU_H
#define NSVQ_TRAINER_GPU_H

#include "cuda/device.h"
#include "train.h"

typedef struct gpu gpu;

typedef struct gpu_sums { /* of all steps so far */
    long   patches, left_out; /* left_out: steps whose gradient was not finite */
    double psnr, bits;        /* sums over the patches */
} gpu_sums;

/* The device of --device cuda, by libnsvq_train_cuda.so. NULL after a message. */
device *gpu_cuda(int shared);
/* Takes the model's state over, and the pictures of at least patch x patch pixels; m->run says what a step
 * is. Nothing of m or d but m's networks is used later. NULL after a message; v stays the caller's. */
gpu  *gpu_open(device *v, const model *m, const dataset *d);
/* The step of train() with this seed. Returns when the one before the last is done. */
void  gpu_step(gpu *g, uint64_t seed, float lr);
/* Parameters, moments, average, norms back into the model. 0, or -1 after a message when the device has
 * failed. */
int   gpu_fetch(gpu *g, model *m);
/* As far as it has come. 0 or -1 as gpu_fetch. */
int   gpu_figures(gpu *g, gpu_sums *s);
void  gpu_gradient(gpu *g, float *to); /* of the last step, for checks: [m->st.n] */
void  gpu_close(gpu *g); /* NULL: nothing */
/* Another step, launched piece by piece: milliseconds of each kernel to ms [GPU_KERNELS]; returns how many
 * there are. */
#define GPU_KERNELS 64
int   gpu_watch(gpu *g, double *ms);
const char *gpu_kernel(int kernel); /* its name, "multiply" for all products; NULL past the last */
/* Billions of operations a second in a large product, in the type that most layers have. */
double gpu_peak(device *v);

#endif
