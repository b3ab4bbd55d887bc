/* peak.c - what registers alone reach: loops of the multiply-accumulate that each instruction set
 * uses, 12 independent chains, no memory. Assembly, so that this file needs no flags. */
#include "checkkern.h"

#include <time.h>

enum { ROUNDS = 20000, CHAINS = 12 };

double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#if NSVQ_HAVE_AVX2
#define CHAINS_OF(OP) OP(0) OP(1) OP(2) OP(3) OP(4) OP(5) OP(6) OP(7) OP(8) OP(9) OP(10) OP(11)
#define CLOBBERS "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", \
                 "xmm10", "xmm11", "xmm12"

#define PMADDWD(i) "vpmaddwd %%ymm13, %%ymm14, %%ymm12\n vpaddd %%ymm12, %%ymm" #i ", %%ymm" #i "\n"

static void loop_maddwd(void)
{
    for (int i = 0; i < ROUNDS; i++)
        __asm__ volatile(CHAINS_OF(PMADDWD) : : : CLOBBERS);
    __asm__ volatile("vzeroupper");
}
#endif

#if NSVQ_HAVE_AVX512VNNI
#define PDPBUSD(i) "vpdpbusd %%zmm13, %%zmm14, %%zmm" #i "\n"
#define PDPWSSD(i) "vpdpwssd %%zmm13, %%zmm14, %%zmm" #i "\n"

static void loop_dpbusd(void)
{
    for (int i = 0; i < ROUNDS; i++)
        __asm__ volatile(CHAINS_OF(PDPBUSD) : : : CLOBBERS);
    __asm__ volatile("vzeroupper");
}

static void loop_dpwssd(void)
{
    for (int i = 0; i < ROUNDS; i++)
        __asm__ volatile(CHAINS_OF(PDPWSSD) : : : CLOBBERS);
    __asm__ volatile("vzeroupper");
}
#endif

double peak(unsigned cpu, nsvq_elem type)
{
    void (*loop)(void) = NULL;
    double macs = 0, start;

#if NSVQ_HAVE_AVX2
    if (cpu & NSVQ_CPU_AVX2) {
        loop = loop_maddwd;
        macs = 16;
    }
#endif
#if NSVQ_HAVE_AVX512VNNI
    if (cpu & NSVQ_CPU_AVX512VNNI) {
        loop = type == NSVQ_U8 ? loop_dpbusd : loop_dpwssd;
        macs = type == NSVQ_U8 ? 64 : 32;
    }
#endif
    if (!loop) return 0;
    start = seconds();
    loop();
    return macs * ROUNDS * CHAINS / (seconds() - start);
}
