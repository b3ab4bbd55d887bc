/* types.c - samples of every type come back bit for bit, in groups, windows and strides of any kind. */
#include "codec.h"
#include "support.h"

enum { MOST_BANDS = 80 };

typedef struct typed {
    uint32_t w, h, n;
    nsvq_band bands[MOST_BANDS];
    uint64_t blank; /* samples of this share of 2^64, by hash of the place, are nodata */
} typed;

static uint64_t mix(uint64_t v)
{
    v = (v ^ v >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    v = (v ^ v >> 27) * UINT64_C(0x94d049bb133111eb);
    return v ^ v >> 31;
}

/* What stands at a place: slopes with noise in the low bits, sometimes anything. */
static void sample_at(const typed *t, uint32_t b, uint32_t x, uint32_t y, uint8_t out[16])
{
    size_t bytes = nsvq_type_bytes((nsvq_type)t->bands[b].type);
    uint64_t place = ((uint64_t)b << 40) + ((uint64_t)y << 20) + x, r = mix(place);
    uint64_t v[2] = {3 * x + 5 * y + 7 * b + r % 4, mix(r)};

    if (r % 100 == 0) v[0] = mix(v[1]);
    if (t->bands[b].has_nodata && mix(place / 64 + 1) < t->blank) v[0] = t->bands[b].nodata;
    memcpy(out, v, bytes == 16 ? 16 : 8);
    if (t->bands[b].type > NSVQ_TYPE_COMPLEX && bytes < 16) memcpy(out + bytes / 2, &v[1], bytes / 2);
}

static int typed_read(void *user, const nsvq_pull *p)
{
    const typed *t = user;
    size_t bytes = nsvq_type_bytes((nsvq_type)t->bands[p->first].type);
    uint8_t s[16];

    for (uint32_t b = 0; b < p->n; b++) {
        assert_int_equal(t->bands[p->first + b].type, t->bands[p->first].type);
        for (uint32_t y = 0; y < p->h; y++)
            for (uint32_t x = 0; x < p->w; x++) {
                sample_at(t, p->first + b, p->x + x, p->y + y, s);
                memcpy((uint8_t *)p->pixels + (ptrdiff_t)b * p->band_stride + (ptrdiff_t)y * p->row_stride +
                           (ptrdiff_t)x * p->pixel_stride, s, bytes);
            }
    }
    return 0;
}

static blob typed_encode(typed *t, uint32_t max_group)
{
    nsvq_raster raster = {.struct_size = sizeof raster, .user = t, .width = t->w, .height = t->h, .n_bands = t->n,
                          .bands = t->bands, .read = typed_read};
    nsvq_encode_options opt = {.struct_size = sizeof opt, .max_group = max_group, .n_threads = 2};
    blob b = {0};
    nsvq_sink sink = blob_sink(&b);
    nsvq_error err;

    assert_ok(nsvq_encode(&sink, &raster, &opt, NULL, &err), err);
    return b;
}

/* A window of some bands of one type, with the given space between samples. */
static void check_window(nsvq_decoder *d, const typed *t, uint32_t x, uint32_t y, uint32_t w, uint32_t h,
                         const uint32_t *bands, uint32_t n, ptrdiff_t space)
{
    size_t bytes = nsvq_type_bytes((nsvq_type)t->bands[bands[0]].type), size = (size_t)space * w * h * n;
    uint8_t *px = malloc(size), s[16];
    nsvq_error err;

    assert_non_null(px);
    memset(px, 0x5a, size);
    nsvq_window win = {.struct_size = sizeof win, .x = x, .y = y, .w = w, .h = h, .n_bands = n, .bands = bands,
                       .pixels = px, .pixel_stride = space, .row_stride = space * w, .band_stride = space * w * h};
    assert_ok(nsvq_read(d, &win, &err), err);
    for (uint32_t b = 0; b < n; b++)
        for (uint32_t r = 0; r < h; r++)
            for (uint32_t c = 0; c < w; c++) {
                const uint8_t *got = px + win.band_stride * b + win.row_stride * r + space * c;
                sample_at(t, bands[b], x + c, y + r, s);
                assert_memory_equal(got, s, bytes);
                for (ptrdiff_t i = (ptrdiff_t)bytes; i < space; i++) assert_int_equal(got[i], 0x5a);
            }
    free(px);
}

static const nsvq_type all_types[] = {NSVQ_TYPE_U8, NSVQ_TYPE_S8, NSVQ_TYPE_U16, NSVQ_TYPE_S16, NSVQ_TYPE_U32,
                                      NSVQ_TYPE_S32, NSVQ_TYPE_U64, NSVQ_TYPE_S64, NSVQ_TYPE_F32, NSVQ_TYPE_F64,
                                      NSVQ_TYPE_CS16, NSVQ_TYPE_CS32, NSVQ_TYPE_CF32, NSVQ_TYPE_CF64};

static void sizes_of_types(void **state)
{
    static const size_t want[] = {1, 1, 2, 2, 4, 4, 8, 8, 4, 8, 4, 8, 8, 16};
    size_t found = 0;

    for (size_t i = 0; i < sizeof want / sizeof *want; i++) assert_int_equal(nsvq_type_bytes(all_types[i]), want[i]);
    for (int v = -5; v < 300; v++) found += nsvq_type_bytes((nsvq_type)v) > 0;
    assert_int_equal(found, sizeof want / sizeof *want);
}

static void every_type(void **state)
{
    for (size_t i = 0; i < sizeof all_types / sizeof *all_types; i++) {
        typed t = {.w = 530, .h = 519, .n = 3};
        for (uint32_t b = 0; b < 3; b++) t.bands[b] = (nsvq_band){.exact = 1, .type = (uint8_t)all_types[i]};
        blob b = typed_encode(&t, 0);
        nsvq_file *f = open_blob(&b);
        nsvq_group g = {.struct_size = sizeof g};
        nsvq_decoder *d;
        nsvq_error err;
        static const uint32_t all[] = {0, 1, 2}, some[] = {2, 0, 2};
        assert_int_equal(nsvq_group_get(f, 0, &g), NSVQ_OK);
        assert_int_equal(g.type, all_types[i]);
        assert_int_equal(g.n_bands, 3);
        assert_ok(nsvq_decoder_create(&d, f, 2, &err), err);
        ptrdiff_t bytes = (ptrdiff_t)nsvq_type_bytes(all_types[i]);
        check_window(d, &t, 0, 0, t.w, t.h, all, 3, bytes);
        check_window(d, &t, 500, 490, 25, 29, some, 3, bytes + 3);
        nsvq_decoder_destroy(d);
        nsvq_close(f);
        blob_free(&b);
    }
}

/* Types and nodata end a group, and so does the largest size; groups that could be one are about equal. */
static void groups(void **state)
{
    typed t = {.w = 20, .h = 10, .n = 80, .blank = UINT64_MAX / 3};
    static const struct {
        uint32_t first, n;
        nsvq_type type;
    } want[] = {{0, 24, NSVQ_TYPE_F32}, {24, 23, NSVQ_TYPE_F32}, {47, 23, NSVQ_TYPE_F32}, {70, 2, NSVQ_TYPE_U16},
                {72, 2, NSVQ_TYPE_U16}, {74, 1, NSVQ_TYPE_S16}, {75, 3, NSVQ_TYPE_U8},
                {78, 2, NSVQ_TYPE_CS16}};
    nsvq_group g = {.struct_size = sizeof g};

    for (uint32_t b = 0; b < 80; b++) {
        t.bands[b].exact = 1;
        t.bands[b].type = b < 70 ? NSVQ_TYPE_F32 : b < 74 ? NSVQ_TYPE_U16 : b < 75 ? NSVQ_TYPE_S16
                                                               : b < 78   ? NSVQ_TYPE_U8
                                                                          : NSVQ_TYPE_CS16;
        if (b == 70 || b == 71) t.bands[b].has_nodata = 1, t.bands[b].nodata = 65535;
        if (b == 72 || b == 73) t.bands[b].has_nodata = 1, t.bands[b].nodata = 300;
    }
    blob b = typed_encode(&t, 0);
    nsvq_file *f = open_blob(&b);
    for (uint32_t i = 0; i < sizeof want / sizeof *want; i++) {
        assert_int_equal(nsvq_group_get(f, i, &g), NSVQ_OK);
        assert_int_equal(g.coding, NSVQ_CODING_EXACT);
        assert_int_equal(g.first_band, want[i].first);
        assert_int_equal(g.n_bands, want[i].n);
        assert_int_equal(g.type, want[i].type);
        assert_int_equal(g.has_nodata, i == 3 || i == 4);
        assert_true(g.nodata == (i == 3 ? 65535 : i == 4 ? 300 : 0));
    }
    assert_int_equal(nsvq_group_get(f, sizeof want / sizeof *want, &g), NSVQ_E_ARG);
    nsvq_decoder *d;
    nsvq_error err;
    assert_ok(nsvq_decoder_create(&d, f, 1, &err), err);
    for (uint32_t band = 0; band < 80; band++) check_window(d, &t, 3, 2, 15, 8, &band, 1, 16);
    nsvq_decoder_destroy(d);
    nsvq_close(f);
    blob_free(&b);
    b = typed_encode(&t, 1);
    f = open_blob(&b);
    nsvq_info info = {.struct_size = sizeof info};
    nsvq_get_info(f, &info);
    assert_int_equal(info.n_groups, 80);
    nsvq_close(f);
    blob_free(&b);
}

/* Blocks of nothing but nodata are not stored, whatever its bits; a NaN of other bits is a sample. */
static void blocks_without_data(void **state)
{
    static const struct {
        nsvq_type type;
        uint64_t bits;
    } kind[] = {{NSVQ_TYPE_S16, 0x8000}, {NSVQ_TYPE_F32, 0x7fc00000}, {NSVQ_TYPE_F64, UINT64_C(0xfff8000000000001)},
                {NSVQ_TYPE_U64, UINT64_MAX}, {NSVQ_TYPE_S8, 0xf9}};

    for (size_t i = 0; i < sizeof kind / sizeof *kind; i++) {
        typed t = {.w = 600, .h = 40, .n = 2, .blank = UINT64_MAX};
        for (uint32_t b = 0; b < 2; b++)
            t.bands[b] = (nsvq_band){.exact = 1, .has_nodata = 1, .nodata = kind[i].bits, .type = (uint8_t)kind[i].type};
        blob b = typed_encode(&t, 0);
        nsvq_file *f = open_blob(&b);
        nsvq_decoder *d;
        nsvq_error err;
        static const uint32_t all[] = {0, 1};
        assert_true(b.size < 130);
        assert_ok(nsvq_decoder_create(&d, f, 1, &err), err);
        check_window(d, &t, 0, 0, 600, 40, all, 2, (ptrdiff_t)nsvq_type_bytes(kind[i].type));
        nsvq_decoder_destroy(d);
        nsvq_close(f);
        blob_free(&b);
    }
}

static void arguments(void **state)
{
    typed t = {.w = 5, .h = 5, .n = 1};
    nsvq_raster raster = {.struct_size = sizeof raster, .user = &t, .width = 5, .height = 5, .n_bands = 1,
                          .bands = t.bands, .read = typed_read};
    nsvq_encode_options opt = {.struct_size = sizeof opt};
    blob b = {0};
    nsvq_sink sink = blob_sink(&b);
    nsvq_error err;

    for (int i = 0; i < 8; i++) {
        t.bands[0] = (nsvq_band){.exact = 1, .type = NSVQ_TYPE_U16};
        opt.max_group = 0;
        raster.has_mask = 0;
        raster.has_alpha = 0;
        if (i == 0) t.bands[0].type = 11;
        if (i == 1) t.bands[0].type = NSVQ_TYPE_COMPLEX + NSVQ_TYPE_U16;
        if (i == 2) t.bands[0].has_nodata = 1, t.bands[0].nodata = 65536;
        if (i == 3) t.bands[0].has_nodata = 1, t.bands[0].type = NSVQ_TYPE_CF32;
        if (i == 4) t.bands[0].resampling = 3;
        if (i == 5) opt.max_group = MAX_GROUP + 1;
        if (i == 6) raster.has_mask = 3;
        if (i == 7) raster.has_alpha = 1, raster.alpha = 1;
        assert_int_equal(nsvq_encode(&sink, &raster, &opt, NULL, &err), NSVQ_E_ARG);
        assert_int_equal(b.size, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(sizes_of_types), cmocka_unit_test(every_type),
                                       cmocka_unit_test(groups), cmocka_unit_test(blocks_without_data),
                                       cmocka_unit_test(arguments)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
