/* desc.h - what a model is: integer layers, codebooks, prior; their shapes and bounds.
 * Both the trainer's export and the codec's load go through this description and through walk.c, so
 * that they cannot disagree. May include: kernels.h (element types). Never: codec, GDAL, stdio.
 *
 * A network is a list of layers on numbered registers (tensors). Register 0 is the input, `output`
 * the result; a register is written once per run. */
#ifndef NSVQ_MODEL_DESC_H
#define NSVQ_MODEL_DESC_H

#include "kernels.h"

#define NSVQ_MAX_LAYERS    64
#define NSVQ_MAX_REGISTERS 64
#define NSVQ_MAX_SLICES    8
#define NSVQ_N_PASSES      5   /* of the hierarchical order of a block's latents */
#define NSVQ_N_NEIGHBOURS  4
#define NSVQ_N_EXTRA       4   /* side inputs of the prior's context */
#define NSVQ_LATENT_MAX    8191
#define NSVQ_CODE_MAX      4095
#define NSVQ_CELL          64  /* members per cell */
#define NSVQ_NO_REGISTER   255
#define NSVQ_N_CLASSES     64  /* of the hyper family's scales */
#define NSVQ_CLASS_SYMBOLS 64  /* at most, in the table of a class */
#define NSVQ_N_GAINS       5   /* anchors: qualities 0, 32, 64, 96, 128 */
#define NSVQ_MAX_Z         256 /* channels of a hyper-latent */
#define NSVQ_Z_STRIDE      64  /* pixels per hyper-latent */

typedef enum nsvq_family { NSVQ_FAMILY_VQ = 1, NSVQ_FAMILY_HYPER = 2 } nsvq_family;

typedef enum nsvq_layer_kind {
    NSVQ_LAYER_POINTWISE = 1, /* rep > 1: each position is rep sub-positions of cin channels */
    NSVQ_LAYER_DEPTHWISE = 2, /* s16 -> u8; cin = cout = channels; zero outside the picture */
    NSVQ_LAYER_SPACE_TO_DEPTH = 3 /* factor k; out channel order [ky][kx][c]; type of src kept */
} nsvq_layer_kind;

typedef struct nsvq_layer {
    uint8_t   kind;
    uint8_t   src, dst, res; /* registers; res = NSVQ_NO_REGISTER: none */
    uint8_t   in_type, out_type;
    uint8_t   k;             /* depthwise: 3 or 5; space to depth: factor; else 1 */
    uint8_t   rep;           /* pointwise: sub-positions per position, else 1 */
    uint16_t  cin, cout;     /* per sub-position */
    int8_t   *wt;            /* pointwise [cout][cin]; depthwise [k][k][cin] */
    int32_t  *bias;          /* [cout] */
    uint8_t  *shift;         /* [cout] */
    int16_t  *mul;           /* [cout] */
} nsvq_layer;

typedef struct nsvq_net {
    uint8_t    n_layers, output;
    nsvq_layer layer[NSVQ_MAX_LAYERS];
} nsvq_net;

/* The prior of the vq family: see FORMAT.md "Prior". With L = slices * dim channels,
 * X = 4 * L + NSVQ_N_EXTRA context channels, H = hidden channels, K = n_codes / 64 cells:
 *   per pass    mean   S16 [X] -> S16 [L]          ctx    S16 [X] -> S16 [H]
 *   per slice s prev   S16 [s * dim] -> U8 [H], residual S16 (s = 0: absent, clamp of ctx to U8)
 *               logit  U8 [H] -> S16 [K], unit 1/32 bit
 *               shiftm U8 [H] -> S16 [dim], residual S16 (slice s of the pass's mean)
 *   member      frequencies [slice][cell][64], each >= 1, sum 2^15 per cell */
typedef struct nsvq_prior {
    uint16_t   hidden;
    nsvq_layer mean[NSVQ_N_PASSES], ctx[NSVQ_N_PASSES];
    nsvq_layer prev[NSVQ_MAX_SLICES]; /* [0] unused */
    nsvq_layer logit[NSVQ_MAX_SLICES], shiftm[NSVQ_MAX_SLICES];
    uint16_t  *member;
} nsvq_prior;

/* Tables of dependent quantisation, as in nsvq_hyper, for quantiser 0, then for quantiser 1; without it all is
 * NULL: shift, half [2 * NSVQ_N_CLASSES], freq [2 * NSVQ_N_CLASSES][NSVQ_CLASS_SYMBOLS]. */
typedef struct nsvq_trellis {
    uint8_t   *shift, *half;
    uint16_t  *freq;
} nsvq_trellis;

/* The quantiser and the entropy model of the hyper family: see FORMAT.md "Base layer of a block (hyper
 * family)". With L latents, Z hyper-latents, P = (64 / stride)^2 latents per hyper-latent, S side
 * channels per latent, X = 4 * L + NSVQ_N_EXTRA:
 *   analysis   S16 [L] at the latents -> S16 [Z] at 1/64
 *   synthesis  S16 [Z + NSVQ_N_EXTRA] at 1/64 -> U8 [P * S] at 1/64
 *   scale      U8 [S] -> S16 [L], unit 1/128 octave      base   U8 [S] -> S16 [L]
 *   mean       per pass but the first S16 [X] -> S16 [L], residual S16 (base) */
typedef struct nsvq_hyper {
    uint16_t   z, side;        /* Z, S */
    uint8_t    first_class;    /* classes below carry no symbol: the residual is 0 */
    nsvq_net   analysis, synthesis;
    nsvq_layer scale, base, mean[NSVQ_N_PASSES]; /* mean[0] unused */
    int16_t   *gain;           /* [NSVQ_N_GAINS][L + Z] log2 factors on the steps, unit 1/256 octave */
    int16_t   *pass_gain;      /* [NSVQ_N_PASSES][L] added to gain for latents of a pass; NULL: all 0 */
    int16_t   *z_mean, *z_scale; /* [Z]; z_scale: log2, unit 1/128 octave */
    uint8_t   *shift, *half;   /* per class: raw low bits; symbols -half .. half, then the escape */
    uint16_t  *freq;           /* [NSVQ_N_CLASSES][NSVQ_CLASS_SYMBOLS], sum 2^15 per class, 0 past the last */
    nsvq_trellis trellis;
} nsvq_hyper;

/* A model. Pictures have 3 channels of 8 bits. */
typedef struct nsvq_model_desc {
    char       name[32];       /* for people: "aerial-1" */
    uint8_t    family;         /* nsvq_family; the other one's fields are 0 */
    uint8_t    stride;         /* pixels per latent, each way: 16; hyper: 16 or 8 */
    uint16_t   latent;         /* channels of a latent; vq: n_slices * dim */
    uint8_t    n_slices;       /* 1..NSVQ_MAX_SLICES */
    uint16_t   dim;            /* channels per slice, multiple of 4 */
    uint32_t   n_codes;        /* per slice: multiple of 64, at most 4096 */
    int16_t   *codes;          /* [slice][code][dim], |code| <= NSVQ_CODE_MAX */
    uint16_t   seed_channel[3];/* latent channels that a block's seed sets */
    uint8_t    seed_shift;     /* latent = seed << seed_shift */
    uint32_t   lambda50;       /* encoder: squared latent units per bit at quality 50; hyper: 1/1024
                                * squared steps per bit */
    uint8_t    has_analysis;   /* 0: a decode-only copy */
    nsvq_net   analysis;       /* S16 [48] at 1/4 -> S16 [latent] at 1/stride */
    nsvq_net   synthesis;      /* S16 [latent, hyper: + NSVQ_N_EXTRA] -> S16 [3 * stride^2] at 1/stride */
    nsvq_prior prior;
    nsvq_hyper hyper;
    /* Optional tail, not part of the id: training card (text) and master weights (trainer's). */
    char      *card;     size_t card_bytes;
    uint8_t   *master;   size_t master_bytes;
} nsvq_model_desc;

static inline int16_t nsvq_clamp_latent(int v)
{
    return (int16_t)(v < -NSVQ_LATENT_MAX ? -NSVQ_LATENT_MAX : v > NSVQ_LATENT_MAX ? NSVQ_LATENT_MAX : v);
}

/* Checks every shape, register, shift and worst-case accumulator. Returns NULL when fine, else a
 * static text that names what is wrong. */
const char *nsvq_model_check(const nsvq_model_desc *m);
/* 0, or -1 when the name is not 1 to 31 printable ASCII characters. */
int nsvq_model_set_name(nsvq_model_desc *m, const char *name);
void nsvq_model_free(nsvq_model_desc *m); /* frees the arrays, not m itself */

/* Model file (FORMAT.md "Model"). load: bytes are hostile; allocations never outgrow the input; the
 * result has passed nsvq_model_check. store: returns malloc'ed bytes, NULL without memory.
 * keep: parts to write. The id is the first 8 bytes of the content hash over the mandatory parts
 * without the analysis network, so that a decode-only copy keeps the id of its origin. */
enum { NSVQ_STORE_ANALYSIS = 1, NSVQ_STORE_CARD = 2, NSVQ_STORE_MASTER = 4 };
int nsvq_model_load(nsvq_model_desc *m, const uint8_t *bytes, size_t size, const char **why);
uint8_t *nsvq_model_store(const nsvq_model_desc *m, unsigned keep, size_t *size);
uint64_t nsvq_model_id(const nsvq_model_desc *m);

#endif
