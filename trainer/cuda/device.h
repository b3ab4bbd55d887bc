/* device.h - what the trainer's GPU backend asks of a device: memory, the kernels of kernels.h, matrix
 * products, a recorded step. device.cu is a GPU; tests/trainer/host.c is the same in plain loops.
 * Everything runs in the order in which it was asked for. The first failure stays in trouble(), and
 * nothing more is done after it. */
#ifndef NSVQ_TRAINER_DEVICE_H
#define NSVQ_TRAINER_DEVICE_H

#include <stddef.h>
#include <stdint.h>

typedef struct array { /* on the device */
    void *p;   /* NULL: none */
    int   f32; /* float, else bfloat16 */
} array;

/* d [n][m] = op(b) op(a) + add + bias, ReLU if relu: in the terms of BLAS, column by column,
 * d (m x n) = op(a) (m x k) op(b) (k x n). a and b are of one type, add, bias and d of one.
 * batch > 1: so many products, without add and bias; their matrices follow each other, `apart` elements from
 * one to the next. */
typedef struct product {
    int   m, n, k, ta, tb; /* ta, tb: transposed */
    int   lda, ldb;        /* ldd = m */
    array a, b, d, add, bias;
    int   relu;
    int   full;            /* float32 operands are not rounded to tf32 */
    int   batch;
    size_t apart[3];       /* a, b, d */
} product;

typedef enum memory_kind { MEMORY_RAW, MEMORY_F32, MEMORY_BF16 } memory_kind; /* what lies there */

typedef struct device device;
struct device {
    const char *name;
    int  exact; /* set by the caller: float32 products stay float32, else they may be tf32 */
    void *(*alloc)(device *v, size_t bytes, memory_kind kind); /* zeros; goes with the device */
    void  (*put)(device *v, void *to, const void *from, size_t bytes); /* from may change at once */
    void  (*get)(device *v, void *to, const void *from, size_t bytes); /* waits */
    void  (*launch)(device *v, int kernel, const void *args, uint32_t n); /* KERNEL_; args are copied */
    void  (*multiply)(device *v, const product *p);
    void  (*record)(device *v, int on); /* from on to off nothing runs, but is kept for replay */
    void  (*replay)(device *v);
    const char *(*trouble)(device *v); /* NULL: none so far */
    /* Seconds of each kernel so far, [KERNEL_N] those of multiply; NULL ends it. Slow. */
    void  (*watch)(device *v, double *seconds);
    void  (*close)(device *v);
};

/* Of libnsvq_train_cuda.so. shared: memory that the host may use as well, slow, for checks. NULL: none, and
 * the reason in why [size]. */
typedef device *cuda_open_fn(int shared, char *why, size_t size);

#endif
