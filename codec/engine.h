/* engine.h - a model made ready for one kernel table: integer networks and entropy coding of one block
 * of latents. Knows nothing of files, bands, threads. Used by the codec and by the trainer's checks.
 * May include: model/desc.h, kernels.h. */
#ifndef NSVQ_ENGINE_H
#define NSVQ_ENGINE_H

#include "model/desc.h"

#define NSVQ_BLOCK 512 /* pixels per side of a block */
#define NSVQ_MIN_QUALITY16 16 /* quality in sixteenths: 1 .. 100 */
#define NSVQ_MAX_QUALITY16 1600

typedef struct nsvq_engine  nsvq_engine;  /* immutable: packed weights and tables; shared by threads */
typedef struct nsvq_scratch nsvq_scratch; /* buffers, one per thread; grows on demand */

/* m must outlive the engine (it is not copied), and have passed nsvq_model_check. NULL: no memory. */
nsvq_engine  *nsvq_engine_create(const nsvq_model_desc *m, const nsvq_kernels *k);
void          nsvq_engine_destroy(nsvq_engine *e);
nsvq_scratch *nsvq_scratch_create(void);
void          nsvq_scratch_destroy(nsvq_scratch *s);

/* Channels of a decoded latent: the model's, and in the hyper family its side inputs. */
int nsvq_engine_channels(const nsvq_engine *e);
/* Latents around a wanted rectangle that its exact result depends on. */
int nsvq_engine_synthesis_halo(const nsvq_engine *e);
int nsvq_engine_analysis_halo(const nsvq_engine *e);

typedef struct nsvq_rect { int x, y, w, h; } nsvq_rect; /* in latents */

/* Squared latent units per bit: lambda50 * 2^((50 - quality) / 12), rounded (FORMAT.md 5.6). */
uint64_t nsvq_lambda(const nsvq_model_desc *m, int quality);

/* All return 0, or -1 without memory (block_decode: or -2 when the bytes are not a block). L is the
 * model's number of latents, C what nsvq_engine_channels() says; a latent is `stride` pixels each way.
 *
 * rgb: window of ww x wh latents, interleaved, rows `stride` apart. The borders of the window count as
 * borders of the picture: where they are not, the caller passes analysis_halo latents more than `want`
 * on that side. y: [want.h][want.w][L]. */
int nsvq_engine_analyse(const nsvq_engine *e, nsvq_scratch *s, const uint8_t *rgb, ptrdiff_t stride,
                        int ww, int wh, nsvq_rect want, int16_t *y);
/* y_hat: window [wh][ww][C]; rgb receives the pixels of want, interleaved. */
int nsvq_engine_synthesise(const nsvq_engine *e, nsvq_scratch *s, const int16_t *y_hat, int ww, int wh,
                           nsvq_rect want, uint8_t *rgb, ptrdiff_t stride);
/* The same before rounding: unit 1/32 level around 128. stride: in values. */
int nsvq_engine_synthesise_fine(const nsvq_engine *e, nsvq_scratch *s, const int16_t *y_hat, int ww, int wh,
                                nsvq_rect want, int16_t *values, ptrdiff_t stride);
/* y [bh][bw][L], at most a block; quality16: the vq family drops the fraction. *out (cap bytes, at least
 * nsvq_block_bound()) receives the block's base layer, *size its bytes; y_hat [bh][bw][C] what
 * block_decode makes of it. */
int nsvq_block_encode(const nsvq_engine *e, nsvq_scratch *s, const int16_t *y, int bw, int bh,
                      int quality16, uint8_t *out, size_t cap, size_t *size, int16_t *y_hat);
/* quality16: the file's; blocks of the hyper family have their own. quiet [bh][bw] (may be NULL): 1
 * where the code words add little to what was predicted. */
int nsvq_block_decode(const nsvq_engine *e, nsvq_scratch *s, const uint8_t *in, size_t size, int bw,
                      int bh, int quality16, int16_t *y_hat, uint8_t *quiet);
size_t nsvq_block_bound(const nsvq_engine *e, int bw, int bh);

#endif
