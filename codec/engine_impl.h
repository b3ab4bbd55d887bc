/* engine_impl.h - what the engine's own files share. May include: engine.h, hyper.h, net.h, prior.h, scratch.h. */
#ifndef NSVQ_ENGINE_IMPL_H
#define NSVQ_ENGINE_IMPL_H

#include "engine.h"
#include "hyper.h"
#include "net.h"
#include "prior.h"
#include "scratch.h"

typedef struct room { /* 64-byte aligned */
    void  *p;
    size_t bytes;
} room;

struct nsvq_scratch {
    room passing, kept;
};

static inline int clamp_int(int v, int min, int max)
{
    return v < min ? min : v > max ? max : v;
}

/* Tables of the vq encoder; only for models with an analysis network. */
typedef struct search_tables {
    nsvq_codebook codebook[NSVQ_MAX_SLICES];
    int32_t      *norm;         /* [slice][code] |code|^2 */
    uint16_t     *member_bits;  /* [slice][code], unit 1/256 bit */
    uint16_t      log2_q8[256];
} search_tables;

/* log2(1 + (i + 1/2) / 256), unit 1/256. */
void log2_table(uint16_t log2_q8[256]);
/* Bits that a symbol of frequency freq / 2^15 costs, unit 1/256. */
uint32_t symbol_bits(const uint16_t *log2_q8, uint32_t freq);

struct nsvq_engine {
    const nsvq_model_desc *m;
    nsvq_kernels           k;
    net                    analysis, synthesis;
    prior                  prior;  /* vq */
    search_tables          search; /* vq */
    hyper                  hyper;
};

#endif
