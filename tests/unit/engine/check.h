/* check.h - what the engine's tests share: cmocka, and every kernel table of this machine. */
#ifndef NSVQ_ENGINE_CHECK_H
#define NSVQ_ENGINE_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels.h"

#define N_TABLES 3

/* Table i of this machine; false: it has no such one. */
static inline bool kernel_table(nsvq_kernels *k, int i)
{
    static const unsigned cpu[N_TABLES] = {NSVQ_CPU_C, NSVQ_CPU_AVX2,
                                           NSVQ_CPU_AVX2 | NSVQ_CPU_AVX512VNNI};
    if (cpu[i] & ~nsvq_cpu_detect()) return false;
    nsvq_kernels_init(k, cpu[i]);
    return true;
}

#endif
