/* cpu.c - CPU detection, the ceiling NSVQ_CPU, and the table of functions.
 * The only file of kernels/ with platform checks. May include: kernels.h, table.h.
 */
#include "table.h"

#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>

/* XCR0: which registers the operating system saves on a context switch. */
static unsigned xcr0(void)
{
    unsigned lo, hi;

    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return lo;
}

unsigned nsvq_cpu_detect(void)
{
    const unsigned ymm = 0x06;                               // SSE and AVX state
    const unsigned zmm = ymm | 0xe0;                         // and k0-k7, zmm0-15, zmm16-31
    const unsigned f_bw_vl = 1u << 16 | 1u << 30 | 1u << 31; // leaf 7, ebx
    const unsigned vnni = 1u << 11;                          // leaf 7, ecx
    unsigned a, b, c, d, os;
    unsigned cpu = NSVQ_CPU_C;

    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & 1u << 27)) return cpu;  // OSXSAVE
    os = xcr0();
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return cpu;
    if ((os & ymm) != ymm || !(b & 1u << 5)) return cpu;
    cpu |= NSVQ_CPU_AVX2;
    if ((os & zmm) != zmm || (b & f_bw_vl) != f_bw_vl || !(c & vnni)) return cpu;
    return cpu | NSVQ_CPU_AVX512VNNI;
}
#else
unsigned nsvq_cpu_detect(void)
{
    return NSVQ_CPU_C;
}
#endif

int nsvq_cpu_flags(void)
{
    static const struct { const char *word; unsigned ceiling; } levels[] = {
        {"c", NSVQ_CPU_C},
        {"avx2", NSVQ_CPU_AVX2},
        {"avx512vnni", NSVQ_CPU_AVX2 | NSVQ_CPU_AVX512VNNI},
    };
    const char *word = getenv("NSVQ_CPU");

    if (!word) return (int)nsvq_cpu_detect();
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++)
        if (!strcmp(word, levels[i].word)) return (int)(nsvq_cpu_detect() & levels[i].ceiling);
    return -1;
}

void nsvq_kernels_init(nsvq_kernels *k, unsigned cpu)
{
    if (!(cpu & NSVQ_CPU_AVX2)) cpu = NSVQ_CPU_C;  // each level includes the ones before
    k->name = "c";
#if NSVQ_HAVE_AVX2
    if (cpu & NSVQ_CPU_AVX2) k->name = "avx2";
#endif
#if NSVQ_HAVE_AVX512VNNI
    if (cpu & NSVQ_CPU_AVX512VNNI) k->name = "avx512vnni";
#endif
    nsvq_pointwise_init(k, cpu);
    nsvq_depthwise_init(k, cpu);
    nsvq_codebook_init(k, cpu);
    nsvq_pixels_init(k, cpu);
}

void *nsvq_alloc64(size_t bytes)
{
    size_t rounded = (bytes + 63) & ~(size_t)63;
    void *p = aligned_alloc(64, rounded ? rounded : 64);

    if (p) memset(p, 0, rounded);
    return p;
}
