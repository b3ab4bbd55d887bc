/* random.h - a small counter-based generator (splitmix64): the same numbers on every machine. */
#ifndef NSVQ_TRAINER_RANDOM_H
#define NSVQ_TRAINER_RANDOM_H

#include <math.h>
#include <stdint.h>

#include "shape.h"

NSVQ_HD uint64_t random_u64(uint64_t *s)
{
    uint64_t z = (*s += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

NSVQ_HD float random_unit(uint64_t *s) /* [0, 1) */
{
    return (float)(random_u64(s) >> 40) * (1.f / 16777216.f);
}

NSVQ_HD uint32_t random_below(uint64_t *s, uint32_t n)
{
    return (uint32_t)(((random_u64(s) >> 32) * n) >> 32);
}

NSVQ_HD float random_normal(uint64_t *s)
{
    const float u = random_unit(s) + 1e-7f, v = random_unit(s);
    return sqrtf(-2.f * logf(u)) * cosf(6.2831853f * v);
}

#endif
