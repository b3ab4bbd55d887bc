/* make_corpus.c - the seeds of the fuzz targets: make_corpus FOLDER writes into open/, model/ and lossless/. */
#include <stdio.h>
#include <zlib.h>

#include "fuzz.h"
#include "lossless.h"
#include "support.h"

static void put(const char *folder, const char *name, const uint8_t *p, size_t size)
{
    char path[4096];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

static uint8_t *model_bytes(testmodel_shape shape, uint64_t seed, size_t *size)
{
    nsvq_model_desc desc;

    assert_true(testmodel_make(&desc, shape, seed));
    uint8_t *bytes = nsvq_model_store(&desc, NSVQ_STORE_ANALYSIS, size);
    nsvq_model_free(&desc);
    assert_non_null(bytes);
    return bytes;
}

/* Made with a model, embedded unless it is the one that the target has. */
static void put_coded(const char *folder, const char *name, picture p, testmodel_shape shape, uint64_t seed)
{
    static const nsvq_meta meta[] = {{NSVQ_META_DESCRIPTION, 1, 5, "first"},
                                     {NSVQ_META_UNIT, 0, 0, ""}};
    nsvq_raster raster = picture_raster(&p);
    nsvq_model *model;
    nsvq_error err;
    blob b = {0};
    nsvq_sink sink = blob_sink(&b);
    size_t size;
    uint8_t *bytes = model_bytes(shape, seed, &size);

    raster.meta = meta;
    raster.n_meta = 2;
    assert_ok(nsvq_model_open(&model, bytes, size, &err), err);
    nsvq_encode_options opt = {.struct_size = sizeof opt, .model = model,
                               .embed = shape == TESTMODEL_TINY && seed == FUZZ_SEED ? 2 : 1};
    assert_ok(nsvq_encode(&sink, &raster, &opt, NULL, &err), err);
    put(folder, name, b.p, b.size);
    free(bytes);
    nsvq_model_release(model);
    blob_free(&b);
    picture_free(&p);
}

static void put_picture(const char *folder, const char *name, picture p, uint64_t seed)
{
    put_coded(folder, name, p, TESTMODEL_TINY, seed);
}

/* Small in the file. */
static picture flat(uint32_t w, uint32_t h, uint32_t n)
{
    picture p = picture_make(w, h, n, 1);

    for (uint32_t b = 0; b < n; b++)
        for (uint32_t y = 0; y < h; y++) picture_fill(&p, b, (uint8_t)(20 * b + y / 4), 0, y, w, 1);
    return p;
}

static picture exact(picture p)
{
    for (uint32_t b = 0; b < p.n; b++) p.bands[b].exact = 1;
    return p;
}

static picture everything(void)
{
    picture p = flat(600, 20, 5);

    for (uint32_t b = 0; b < 3; b++) p.bands[b] = (nsvq_band){.has_nodata = 1, .nodata = 0};
    p.bands[4].exact = 1;
    p.has_mask = true;
    picture_fill(&p, 0, 0, 3, 3, 100, 9);
    picture_fill(&p, 5, 0, 400, 2, 150, 15);
    return p;
}

static picture nodata(void)
{
    picture p = flat(520, 520, 2);

    p.bands[0] = (nsvq_band){.exact = 1, .has_nodata = 1, .nodata = 0};
    p.bands[1] = (nsvq_band){.has_nodata = 1, .nodata = 20};
    return p;
}

/* U16 in a group of three and alone, some samples far off; F32 with NaN. */
static picture wide(picture p)
{
    for (uint32_t b = 0; b < p.n; b++) {
        p.bands[b].type = b < 4 ? NSVQ_TYPE_U16 : NSVQ_TYPE_F32;
        picture_fill(&p, b, PICTURE_ODD, 2 * b, 3, 5, 2);
    }
    p.bands[3].has_nodata = 1;
    p.bands[3].nodata = picture_sample(NSVQ_TYPE_U16, 61);
    return p;
}

static void make_files(void **state)
{
    const char *folder = *state;

    put_picture(folder, "open/exact-1", exact(flat(9, 9, 1)), FUZZ_SEED);
    put_picture(folder, "open/exact-2", exact(picture_make(20, 11, 2, 2)), FUZZ_SEED);
    put_picture(folder, "open/two-pages", exact(flat(512 * 513, 1, 1)), FUZZ_SEED);
    put_picture(folder, "open/rgb", flat(70, 40, 3), FUZZ_SEED);
    put_picture(folder, "open/two-blocks", flat(530, 17, 3), FUZZ_SEED);
    put_picture(folder, "open/embedded", flat(16, 16, 3), FUZZ_SEED + 1);
    put_coded(folder, "open/trellis", flat(40, 24, 3), TESTMODEL_TRELLIS, FUZZ_SEED);
    put_picture(folder, "open/everything", everything(), FUZZ_SEED);
    put_picture(folder, "open/nodata", nodata(), FUZZ_SEED);
    put_picture(folder, "open/wide", wide(flat(40, 20, 5)), FUZZ_SEED);
}

static size_t get_le(const uint8_t *p, int n)
{
    size_t v = 0;

    while (n-- > 0) v = v << 8 | p[n];
    return v;
}

/* A copy without deflate, so that a mutation changes one number (FORMAT.md 7.1). */
static uint8_t *inflated(const uint8_t *in, size_t size, size_t *out_size)
{
    enum { HEADER = 20, PART = 20 };
    uint8_t *out = calloc(64, size);
    size_t at = HEADER;

    assert_non_null(out);
    memcpy(out, in, HEADER);
    for (const uint8_t *p = in + HEADER; p < in + size; p += PART + get_le(p + 8, 4)) {
        uLongf n = get_le(p + 12, 4);
        memcpy(out + at, p, PART);
        if (get_le(p + 6, 2))
            assert_int_equal(uncompress(out + at + PART, &n, p + PART, get_le(p + 8, 4)), Z_OK);
        else
            memcpy(out + at + PART, p + PART, n);
        fuzz_put_le(out + at + 6, 0, 2);
        fuzz_put_le(out + at + 8, n, 4);
        at += PART + n;
    }
    fuzz_put_le(out + 12, at, 4);
    *out_size = at;
    return out;
}

static void make_models(void **state)
{
    static const struct { testmodel_shape shape; const char *packed, *plain; } of[] = {
        {TESTMODEL_TINY, "model/packed", "model/plain"},
        {TESTMODEL_TRELLIS, "model/trellis-packed", "model/trellis-plain"}};

    for (int i = 0; i < 2; i++) {
        size_t size, plain_size;
        uint8_t *bytes = model_bytes(of[i].shape, FUZZ_SEED, &size), *plain = inflated(bytes, size, &plain_size);
        put(*state, of[i].packed, bytes, size);
        put(*state, of[i].plain, plain, plain_size);
        free(plain);
        free(bytes);
    }
}

/* value(kind, band, x, y) in the type's width. */
static uint64_t lossless_value(int kind, uint32_t b, uint32_t x, uint32_t y)
{
    test_rng r = {x * 31 + y * 1009 + b * 7 + 1};

    test_rand(&r);
    switch (kind) {
    case 0: return 90 + b * 3 + x + y / 2 + test_rand(&r) % 4;                   // smooth
    case 1: return (x / 2 * 37 + y / 2 * 91) % 50 * 5 + b;                        // twins, sparse
    case 2: return (x + y) % 5 ? 700 + b + test_rand(&r) % 30 : 0;                // with nodata
    case 3: return UINT64_C(0x40490fdb00000000) * (1 + x) + test_rand(&r);       // anything
    case 4: return 0x42c80000 + (x + y) * 0x10000;                                // whole floats
    }
    return 5;
}

static void make_lossless(void **state)
{
    static const uint8_t shapes[][4] = {{NSVQ_TYPE_U8, 3, 24, 17}, {NSVQ_TYPE_U16, 2, 30, 20}, {NSVQ_TYPE_S16, 7, 12, 12},
                                        {NSVQ_TYPE_F64, 1, 16, 9}, {NSVQ_TYPE_F32, 2, 18, 18}, {NSVQ_TYPE_U32, 3, 9, 9}};

    for (int i = 0; i < 6; i++) {
        lossless_shape s = {shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3]};
        size_t bytes = nsvq_type_bytes(s.type);
        uint8_t px[8 * 8192], *p = px, nodata[8] = {0};
        char name[32];
        wr w = {0};
        for (uint32_t b = 0; b < s.n_bands; b++)
            for (uint32_t y = 0; y < s.height; y++)
                for (uint32_t x = 0; x < s.width; x++, p += bytes) fuzz_put_le(p, lossless_value(i, b, x, y), (int)bytes);
        for (int k = 0; k < 4; k++) wr_le(&w, shapes[i][k] - 1u, 1);
        nsvq_scratch *work = nsvq_scratch_create();
        assert_int_equal(lossless_encode(&w, work, px, &s, nodata, 0), 0);
        nsvq_scratch_destroy(work);
        snprintf(name, sizeof name, "lossless/%d", i);
        put(*state, name, w.p, w.size);
        wr_free(&w);
    }
}

int main(int argc, char **argv)
{
    char *folder = argc == 2 ? argv[1] : ".";
    const struct CMUnitTest tests[] = {cmocka_unit_test_prestate(make_files, folder),
                                       cmocka_unit_test_prestate(make_models, folder),
                                       cmocka_unit_test_prestate(make_lossless, folder)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
