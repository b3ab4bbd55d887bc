/* support.h - what the tests of the codec share: files in memory, pictures, a random model. */
#ifndef NSVQ_TEST_SUPPORT_H
#define NSVQ_TEST_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "nsvq.h"
#include "testmodel.h"

/* A file in memory that counts calls; the fail_at-th (from 1) fails. */
typedef struct blob {
    uint8_t *p;
    size_t size, cap;
    int n_reads, n_writes, fail_read, fail_write;
} blob;

nsvq_source blob_source(blob *b);
nsvq_sink blob_sink(blob *b);
void blob_free(blob *b);

typedef struct picture {
    uint32_t w, h, n;
    nsvq_band bands[32];
    uint8_t has_mask; /* as nsvq_raster's; of the bands: the same for each */
    uint8_t *px;   /* [h][w][n], of other types than bytes what picture_sample() makes of them */
    uint8_t *mask; /* [h][w] */
    int n_reads, fail_read; /* as blob's */
    int n_progress, cancel_at;
} picture;

/* Slopes, edges and noise. Nothing is nodata yet; all of the mask is 255. */
picture picture_make(uint32_t w, uint32_t h, uint32_t n, uint64_t seed);
/* Band b (the mask for b = n) gets `value` inside an ellipse and on some scattered pixels. */
void picture_punch(picture *p, uint32_t b, uint8_t value);
/* A rectangle of band b gets `value`. */
void picture_fill(picture *p, uint32_t b, uint8_t value, uint32_t x, uint32_t y, uint32_t w, uint32_t h);
nsvq_raster picture_raster(picture *p);
void picture_free(picture *p);
static inline uint8_t *picture_at(const picture *p, uint32_t x, uint32_t y, uint32_t b)
{
    return p->px + ((size_t)y * p->w + x) * p->n + b;
}

/* Bits of the sample of U16, S16 or F32 that a byte stands for. PICTURE_ODD stands for one far off the others,
 * or NaN. */
enum { PICTURE_ODD = 13 };
uint32_t picture_sample(nsvq_type type, uint8_t v);

/* The small random model; made once, the caller does not release it. */
nsvq_model *test_model(void);
/* As bytes of a model file. Free them. */
/* The tests' model: TEST_FAMILY=vq (default), hyper, or trellis (hyper with dependent quantisation). */
testmodel_shape test_shape(void);
uint8_t *test_model_bytes(size_t *size);

/* Encodes with test_model and n_threads, fails the test on an error. embed as the option. */
blob encode(picture *p, int n_threads, int embed);
blob encode_at(picture *p, int n_threads, int embed, double quality); /* 0: the default */
/* Opens with test_model. */
nsvq_file *open_blob(blob *b);
/* Bytes of the widest type in the file. */
size_t widest_sample(const nsvq_file *f);
/* Reads all bands of a window, pixel-interleaved, samples as far apart as the widest, with a decoder of its own. */
nsvq_status read_window(nsvq_file *f, int n_threads, uint32_t x, uint32_t y, uint32_t w, uint32_t h,
                        uint8_t *px, nsvq_error *err);
nsvq_status read_mask_window(nsvq_file *f, uint32_t x, uint32_t y, uint32_t w, uint32_t h, uint8_t *px,
                             nsvq_error *err);
/* The whole picture; fails the test on an error. Free it. */
uint8_t *read_all(nsvq_file *f, int n_threads);

#define assert_ok(call, err) check_ok((call), &(err), __FILE__, __LINE__)
void check_ok(nsvq_status st, const nsvq_error *err, const char *file, int line);

#endif
