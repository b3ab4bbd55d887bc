/* lossless.c - the lossless layer on planes: nsvq-lossless TYPE BANDS HEIGHT WIDTH NODATA EFFORT
 * FILE FILE: raw samples [bands][height][width] in the host's byte order; NODATA: a number, nan, or
 * -. Bands are split into groups as in files. Prints: bytes of all blocks, number of blocks, seconds of
 * encoding and of decoding. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "lossless.h"

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static nsvq_type type_of(const char *name)
{
    static const char *const names[] = {"uint8", "int8",   "uint16", "int16",   "uint32",
                                        "int32", "uint64", "int64",  "float32", "float64"};

    for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i])) return (nsvq_type)(i + 1);
    return 0;
}

/* One sample; false when the type cannot hold it. */
static int nodata_of(uint8_t out[8], nsvq_type type, const char *text)
{
    double v;
    char *end;

    if (!strcmp(text, "-")) return 0;
    v = strtod(text, &end);
    if (*end) return 0;
    float f = (float)v;
    if (type == NSVQ_TYPE_F64) {
        memcpy(out, &v, 8);
    } else if (type == NSVQ_TYPE_F32) {
        memcpy(out, &f, 4);
    } else {
        if (!(fabs(v) < 9e18)) return 0;
        put_le(out, (uint64_t)(int64_t)v, 8);
    }
    return 1;
}

int main(int argc, char **argv)
{
    if (argc != 8) {
        fprintf(stderr, "usage: %s TYPE BANDS HEIGHT WIDTH NODATA EFFORT FILE\n", argv[0]);
        return 2;
    }
    nsvq_type type = type_of(argv[1]);
    size_t n_bands = strtoul(argv[2], NULL, 10), h = strtoul(argv[3], NULL, 10),
           w = strtoul(argv[4], NULL, 10);
    size_t bytes = type ? nsvq_type_bytes(type) : 0, total = n_bands * h * w * bytes;
    uint8_t nodata[8] = {0}, *px = malloc(total + 1);
    int has_nodata = nodata_of(nodata, type, argv[5]), effort = atoi(argv[6]);
    FILE *f = fopen(argv[7], "rb");

    if (!total || !px || !f || fread(px, 1, total + 1, f) != total) {
        fprintf(stderr, "%s: cannot be read as told\n", argv[7]);
        return 1;
    }
    fclose(f);
    enum { BLOCK = LOSSLESS_MAX_SIDE, GROUP = 32 };
    size_t n_groups = (n_bands + GROUP - 1) / GROUP, per = (n_bands + n_groups - 1) / n_groups;
    uint8_t *block = malloc(GROUP * BLOCK * BLOCK * bytes), *back = malloc(GROUP * BLOCK * BLOCK * bytes);
    nsvq_scratch *work = nsvq_scratch_create();
    double encode = 0, decode = 0, t;
    size_t size = 0, n_blocks = 0;
    for (size_t i = 0; i < (h + BLOCK - 1) / BLOCK * n_groups; i++)
        for (size_t x = 0; x < w; x += BLOCK, n_blocks++) {
            size_t y = i / n_groups * BLOCK, g = i % n_groups;
            size_t first = g * per, n = n_bands - first < per ? n_bands - first : per;
            size_t bh = h - y < BLOCK ? h - y : BLOCK, bw = w - x < BLOCK ? w - x : BLOCK;
            lossless_shape s = {type, (uint32_t)n, (uint32_t)bw, (uint32_t)bh};
            wr out = {0};
            for (size_t b = 0; b < n; b++)
                for (size_t r = 0; r < bh; r++)
                    memcpy(block + (b * bh + r) * bw * bytes,
                           px + (((first + b) * h + y + r) * w + x) * bytes, bw * bytes);
            t = now();
            int rc = lossless_encode(&out, work, block, &s, has_nodata ? nodata : NULL, effort);
            encode += now() - t;
            if (rc || out.bad) return 1;
            size += out.size;
            t = now();
            rc = lossless_decode(work, back, &s, out.p, out.size);
            decode += now() - t;
            if (rc || memcmp(back, block, n * bh * bw * bytes)) {
                fprintf(stderr, "%s: block %zu,%zu does not come back (%d)\n", argv[7], x, y, rc);
                return 1;
            }
            wr_free(&out);
        }
    printf("%zu %zu %.4f %.4f\n", size, n_blocks, encode, decode);
    nsvq_scratch_destroy(work);
    free(block);
    free(back);
    free(px);
    return 0;
}
