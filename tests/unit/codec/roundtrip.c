/* roundtrip.c - pictures of many shapes there and back: sizes, bands, masks, nodata, metadata. */
#include "support.h"

/* What must come back of p: exact bands and nodata as they are; a lossy value never as nodata. */
static void check_picture(const picture *p, const uint8_t *got)
{
    for (size_t i = 0; i < (size_t)p->w * p->h * p->n; i++) {
        const nsvq_band *band = &p->bands[i % p->n];
        bool is_nodata = band->has_nodata && p->px[i] == band->nodata;
        if (band->exact || is_nodata)
            assert_int_equal(got[i], p->px[i]);
        else if (band->has_nodata)
            assert_int_not_equal(got[i], band->nodata);
    }
}

static void check_mask(const picture *p, nsvq_file *f)
{
    uint8_t *got = malloc((size_t)p->w * p->h);
    nsvq_error err;

    assert_non_null(got);
    assert_ok(read_mask_window(f, 0, 0, p->w, p->h, got, &err), err);
    assert_memory_equal(got, p->mask, (size_t)p->w * p->h);
    free(got);
}

/* Encodes and reads back p; returns the file's size. */
static size_t round_trip(picture *p)
{
    blob b = encode(p, 1, 2);
    nsvq_file *f = open_blob(&b);
    nsvq_info info = {.struct_size = sizeof info};
    size_t size = b.size;

    nsvq_get_info(f, &info);
    assert_int_equal(info.width, p->w);
    assert_int_equal(info.height, p->h);
    assert_int_equal(info.n_bands, p->n);
    assert_int_equal(info.has_mask, p->has_mask);
    uint8_t *got = read_all(f, 1);
    check_picture(p, got);
    check_mask(p, f);
    free(got);
    nsvq_close(f);
    blob_free(&b);
    return size;
}

static void sizes(void **state)
{
    static const uint32_t size[][2] = {{1, 1}, {1, 5000}, {5000, 1}, {15, 17}, {16, 16}, {511, 513},
                                       {513, 511}, {512, 512}, {600, 300}, {1025, 40}, {33, 1100}};

    for (size_t i = 0; i < sizeof size / sizeof *size; i++)
        for (uint32_t n = 1; n <= 3; n += 2) {
            picture p = picture_make(size[i][0], size[i][1], n, i);
            round_trip(&p);
            picture_free(&p);
        }
}

static void band_counts(void **state)
{
    for (uint32_t n = 1; n <= 5; n++)
        for (int exact = -1; exact < (int)n; exact++) {
            picture p = picture_make(530, 40, n, n);
            if (exact >= 0) p.bands[exact].exact = 1;
            round_trip(&p);
            picture_free(&p);
        }
}

static void group_rules(void **state)
{
    picture p = picture_make(20, 20, 11, 1);
    // 0 1 2 | 3 (exact) | 4 5 6 nodata 7 | 7 nodata 7, 8 nodata 9, 9 nodata 9, 10: one each
    static const struct {
        nsvq_coding coding;
        uint32_t first, n;
    } want[] = {{NSVQ_CODING_LOSSY3, 0, 3}, {NSVQ_CODING_EXACT, 3, 1}, {NSVQ_CODING_LOSSY3, 4, 3},
                {NSVQ_CODING_LOSSY1, 7, 1}, {NSVQ_CODING_LOSSY1, 8, 1}, {NSVQ_CODING_LOSSY1, 9, 1},
                {NSVQ_CODING_LOSSY1, 10, 1}};
    nsvq_info info = {.struct_size = sizeof info};
    nsvq_group group = {.struct_size = sizeof group};

    p.bands[3].exact = 1;
    for (uint32_t i = 4; i < 10; i++) p.bands[i] = (nsvq_band){.has_nodata = 1, .nodata = i < 8 ? 7 : 9};
    blob b = encode(&p, 1, 2);
    nsvq_file *f = open_blob(&b);
    nsvq_get_info(f, &info);
    assert_int_equal(info.n_groups, 7);
    assert_true(info.quality == 50);
    assert_true(info.model_id == nsvq_model_id_of(test_model()));
    for (uint32_t g = 0; g < 7; g++) {
        assert_int_equal(nsvq_group_get(f, g, &group), NSVQ_OK);
        assert_int_equal(group.coding, want[g].coding);
        assert_int_equal(group.first_band, want[g].first);
        assert_int_equal(group.n_bands, want[g].n);
    }
    assert_int_equal(nsvq_group_get(f, 7, &group), NSVQ_E_ARG);
    nsvq_close(f);
    blob_free(&b);
    picture_free(&p);
}

static void nodata_stays(void **state)
{
    static const uint8_t values[] = {0, 1, 128, 254, 255};

    for (size_t i = 0; i < sizeof values; i++)
        for (uint32_t n = 1; n <= 4; n++) {
            picture p = picture_make(700, 530, n, i);
            for (uint32_t b = 0; b < n; b++) {
                p.bands[b] = (nsvq_band){.exact = n == 4 && b == 3, .has_nodata = 1, .nodata = values[i]};
                picture_punch(&p, n == 3 ? 0 : b, values[i]); // of three bands in one only
            }
            round_trip(&p);
            picture_free(&p);
        }
}

/* One band all nodata, two not; a block all nodata; a whole picture all nodata. */
static void nodata_everywhere(void **state)
{
    picture p = picture_make(1100, 520, 3, 5);
    uint64_t offset, size;

    for (uint32_t b = 0; b < 3; b++) p.bands[b] = (nsvq_band){.has_nodata = 1, .nodata = 255};
    picture_fill(&p, 1, 255, 0, 0, p.w, p.h);
    round_trip(&p);
    picture_fill(&p, 0, 255, 512, 0, 512, p.h);
    picture_fill(&p, 2, 255, 512, 0, 512, p.h);
    round_trip(&p);
    blob b = encode(&p, 1, 2);
    nsvq_file *f = open_blob(&b);
    for (uint32_t bx = 0; bx < 3; bx++) {
        assert_int_equal(nsvq_block_get(f, 0, bx, 0, 0, &offset, &size, NULL), NSVQ_OK);
        assert_true((size == 0) == (bx == 1));
    }
    assert_int_equal(nsvq_block_get(f, 0, 3, 0, 0, &offset, &size, NULL), NSVQ_E_ARG);
    nsvq_close(f);
    blob_free(&b);
    for (uint32_t i = 0; i < 3; i++) picture_fill(&p, i, 255, 0, 0, p.w, p.h);
    assert_true(round_trip(&p) < 160);
    picture_free(&p);
}

static void masks(void **state)
{
    picture p = picture_make(1100, 600, 3, 6);

    p.has_mask = true;
    round_trip(&p);
    picture_punch(&p, 3, 0);
    round_trip(&p);
    picture_fill(&p, 3, 0, 0, 0, 512, 512);
    round_trip(&p);
    picture_fill(&p, 3, 0, 0, 0, p.w, p.h);
    round_trip(&p);
    for (uint32_t i = 0; i < 3; i++) p.bands[i].exact = 1;
    round_trip(&p);
    picture_free(&p);
}

/* Samples that make each filter of an exact band win, noise, and constants. */
static void exact_bands(void **state)
{
    picture p = picture_make(700, 520, 6, 7);

    for (uint32_t i = 0; i < 6; i++) p.bands[i].exact = 1;
    for (uint32_t y = 0; y < p.h; y++)
        for (uint32_t x = 0; x < p.w; x++) {
            uint8_t *px = picture_at(&p, x, y, 0);
            px[0] = (uint8_t)(x * 7);
            px[1] = (uint8_t)(y * 91);
            px[2] = (uint8_t)(x * 3 + y * 5);
            px[3] = (uint8_t)(test_rand(&(test_rng){(uint64_t)y * p.w + x}) >> 9);
            px[4] = 77;
        }
    p.bands[5] = (nsvq_band){.exact = 1, .has_nodata = 1, .nodata = 9};
    picture_fill(&p, 5, 9, 0, 0, 512, 512);
    round_trip(&p);
    picture_free(&p);
}

static void metadata(void **state)
{
    picture p = picture_make(40, 30, 2, 8);
    static const char wkt[] = "PROJCRS[\"somewhere\"]";
    const double gt[6] = {1, 2, 3, 4, 5, 6};
    char *large = malloc(300000);
    assert_non_null(large);
    memset(large, 'x', 300000);
    const nsvq_meta meta[] = {{NSVQ_META_CRS_WKT2, 0, sizeof wkt - 1, wkt},
                              {NSVQ_META_GEOTRANSFORM, 0, sizeof gt, gt},
                              {NSVQ_META_DESCRIPTION, 2, 0, NULL},
                              {40000, 1, 300000, large}};
    nsvq_raster raster = picture_raster(&p);
    nsvq_encode_options opt = {.struct_size = sizeof opt, .model = test_model()};
    blob b = {0};
    nsvq_sink sink = blob_sink(&b);
    nsvq_error err;
    nsvq_meta got;

    raster.meta = meta;
    raster.n_meta = 4;
    assert_ok(nsvq_encode(&sink, &raster, &opt, NULL, &err), err);
    nsvq_file *f = open_blob(&b);
    assert_int_equal(nsvq_meta_count(f), 4);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(nsvq_meta_get(f, i, &got), NSVQ_OK);
        assert_int_equal(got.tag, meta[i].tag);
        assert_int_equal(got.band, meta[i].band);
        assert_int_equal(got.size, meta[i].size);
        if (got.size) assert_memory_equal(got.data, meta[i].data, got.size);
    }
    assert_int_equal(nsvq_meta_get(f, 4, &got), NSVQ_E_ARG);
    nsvq_close(f);
    blob_free(&b);
    free(large);
    picture_free(&p);
}

/* An embedded model needs nothing else. */
static void embedded(void **state)
{
    picture p = picture_make(300, 200, 3, 9);
    blob with = encode(&p, 1, 1), without = encode(&p, 1, 2), as_default = encode(&p, 1, 0);
    nsvq_source src = blob_source(&with);
    nsvq_info info = {.struct_size = sizeof info};
    nsvq_file *f, *g = open_blob(&without);
    nsvq_error err;

    assert_int_equal(as_default.size, with.size); // not shipped, so embedded
    assert_ok(nsvq_open(&f, &src, NULL, &err), err);
    nsvq_get_info(f, &info);
    assert_int_equal(info.embedded, 1);
    assert_string_equal(info.model_name, nsvq_model_name(test_model()));
    uint8_t *a = read_all(f, 1), *b = read_all(g, 1);
    assert_memory_equal(a, b, (size_t)p.w * p.h * p.n);
    free(a);
    free(b);
    nsvq_close(f);
    nsvq_close(g);
    blob_free(&with);
    blob_free(&without);
    blob_free(&as_default);
    picture_free(&p);
}

/* Bytes beside the base layers of a small picture: FORMAT.md 2.3 promises at most 110. */
static void overhead(void **state)
{
    picture p = picture_make(600, 300, 3, 10);
    blob b = encode(&p, 1, 2);
    nsvq_file *f = open_blob(&b);
    uint64_t offset, size, layers = 0;

    for (uint32_t i = 0; i < 3; i++) { // two blocks, and one of the overview
        assert_int_equal(nsvq_block_get(f, i / 2, i % 2, 0, 0, &offset, &size, NULL), NSVQ_OK);
        layers += size - 5; // flags, checksum
    }
    print_message("600 x 300: %zu bytes, %zu of them beside the base layers\n", b.size,
                  (size_t)(b.size - layers));
    assert_in_range(b.size - layers, 60, 110);
    nsvq_close(f);
    blob_free(&b);
    picture_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes), cmocka_unit_test(band_counts), cmocka_unit_test(group_rules),
        cmocka_unit_test(nodata_stays), cmocka_unit_test(nodata_everywhere), cmocka_unit_test(masks),
        cmocka_unit_test(exact_bands), cmocka_unit_test(metadata), cmocka_unit_test(embedded),
        cmocka_unit_test(overhead)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
