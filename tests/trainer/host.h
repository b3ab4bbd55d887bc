/* host.h - the device of the trainer's GPU backend in plain loops: every kernel and product on the host. */
#ifndef NSVQ_TEST_HOST_H
#define NSVQ_TEST_HOST_H

#include "cuda/device.h"

device *host_open(int exact);
/* What launch and multiply do, for any memory that the host sees. */
void host_launch(int kernel, const void *args, uint32_t n);
void host_multiply(const product *p);

#endif
