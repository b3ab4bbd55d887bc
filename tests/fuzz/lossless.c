/* lossless.c - any bytes as a block of the lossless layer: four bytes of shape, then the stream.
 * What can be decoded can be encoded and decoded again. */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "lossless.h"

enum { HEAD = 4 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < HEAD) return 0;
    lossless_shape s = {(nsvq_type)(1 + data[0] % NSVQ_TYPE_F64), 1 + data[1] % 20u,
                        1 + data[2] % 64u, 1 + data[3] % 64u};
    size_t n = (size_t)s.n_bands * s.width * s.height * nsvq_type_bytes(s.type);
    uint8_t *px = malloc(n), *back = malloc(n);
    nsvq_scratch *work = nsvq_scratch_create();
    wr w = {0};

    if (!px || !back || !work) abort();
    if (lossless_decode(work, px, &s, data + HEAD, size - HEAD) == 0) {
        if (lossless_encode(&w, work, px, &s, NULL, 0) || w.bad) abort();
        if (lossless_decode(work, back, &s, w.p, w.size) || memcmp(px, back, n)) abort();
    }
    wr_free(&w);
    nsvq_scratch_destroy(work);
    free(px);
    free(back);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    // shapes seldom: a stream of another shape is soon at its end
    if (size <= HEAD || seed % 16 == 0) return LLVMFuzzerMutate(data, size, max_size);
    return HEAD + LLVMFuzzerMutate(data + HEAD, size - HEAD, max_size - HEAD);
}
