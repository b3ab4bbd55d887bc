/* api.c - the contracts of nsvq.h: arguments, sizes of structs, ownership, progress; FORMAT.md's own
 * figures. */
#include <stdio.h>

#include "codec.h"
#include "support.h"

static void texts(void **state)
{
    assert_string_equal(nsvq_version(), "0.1.0");
    for (int st = NSVQ_OK; st <= NSVQ_E_CANCELLED; st++) {
        assert_non_null(nsvq_status_text((nsvq_status)st));
        assert_string_not_equal(nsvq_status_text((nsvq_status)st), "unknown status");
    }
    assert_string_equal(nsvq_status_text((nsvq_status)99), "unknown status");
    assert_non_null(nsvq_cpu_name());
}

static void models(void **state)
{
    nsvq_model *m = NULL;
    nsvq_error err;
    size_t size;
    uint8_t *bytes = test_model_bytes(&size);

    assert_int_equal(nsvq_model_open(NULL, bytes, size, &err), NSVQ_E_ARG);
    assert_int_equal(nsvq_model_open(&m, NULL, size, &err), NSVQ_E_ARG);
    for (size_t n = 0; n < size; n += 1 + n / 7) {
        assert_int_equal(nsvq_model_open(&m, bytes, n, &err), NSVQ_E_CORRUPT);
        assert_null(m);
    }
    bytes[8] = 99; // version; the checksum tells of it first
    assert_int_equal(nsvq_model_open(&m, bytes, size, NULL), NSVQ_E_CORRUPT);
    nsvq_model_release(NULL);
    assert_int_equal(nsvq_model_shipped(&m, "no such model", &err), NSVQ_E_ARG);
    assert_non_null(strstr(err.text, "no such model"));
    assert_null(m);
    assert_null(nsvq_model_shipped_name(-1));
    assert_null(nsvq_model_shipped_name(1000));
    free(bytes);
}

/* Every shipped model loads, is what its name and id say, and encodes. */
static void shipped_models_work(void **state)
{
    picture p = picture_make(100, 70, 3, 1);
    nsvq_raster raster = picture_raster(&p);
    nsvq_model *m, *again;
    nsvq_error err;
    nsvq_file *f;

    if (!nsvq_model_shipped_name(0)) {
        assert_int_equal(nsvq_model_shipped(&m, NULL, &err), NSVQ_E_NO_MODEL);
        assert_int_equal(nsvq_encode(&(nsvq_sink){&p, NULL}, &raster, NULL, NULL, &err), NSVQ_E_ARG);
    }
    for (int i = 0; nsvq_model_shipped_name(i); i++) {
        const char *name = nsvq_model_shipped_name(i);
        assert_ok(nsvq_model_shipped(&m, i ? name : NULL, &err), err);
        assert_ok(nsvq_model_shipped(&again, name, &err), err);
        assert_ptr_equal(m, again);
        assert_string_equal(nsvq_model_name(m), name);
        assert_true(model_is_shipped(nsvq_model_id_of(m)));
        blob b = {0};
        nsvq_sink sink = blob_sink(&b);
        nsvq_encode_options opt = {.struct_size = sizeof opt, .model = i ? m : NULL};
        assert_ok(nsvq_encode(&sink, &raster, &opt, NULL, &err), err);
        nsvq_source src = blob_source(&b);
        assert_ok(nsvq_open(&f, &src, NULL, &err), err);
        nsvq_info info = {.struct_size = sizeof info};
        nsvq_get_info(f, &info);
        assert_int_equal(info.embedded, 0);
        free(read_all(f, 1));
        nsvq_close(f);
        blob_free(&b);
        nsvq_model_release(m);
        nsvq_model_release(again);
    }
    picture_free(&p);
}

/* Structs of other versions: shorter, longer with zeros, longer with something. */
static void struct_sizes(void **state)
{
    picture p = picture_make(20, 20, 3, 1);
    nsvq_raster raster = picture_raster(&p);
    blob b = {0};
    nsvq_sink sink = blob_sink(&b);
    nsvq_error err;
    struct {
        nsvq_encode_options o;
        uint8_t tail[16];
    } opt = {.o = {.struct_size = sizeof opt, .model = test_model(), .quality = 101}};

    assert_int_equal(nsvq_encode(&sink, &raster, &opt.o, NULL, &err), NSVQ_E_ARG);
    opt.o.struct_size = offsetof(nsvq_encode_options, quality); // not seen then
    assert_ok(nsvq_encode(&sink, &raster, &opt.o, NULL, &err), err);
    opt.o.struct_size = sizeof opt;
    opt.o.quality = 0;
    assert_ok(nsvq_encode(&sink, &raster, &opt.o, NULL, &err), err);
    opt.tail[15] = 1;
    assert_int_equal(nsvq_encode(&sink, &raster, &opt.o, NULL, &err), NSVQ_E_ARG);
    opt.o.struct_size = 0;
    assert_int_equal(nsvq_encode(&sink, &raster, &opt.o, NULL, &err), NSVQ_E_ARG);
    raster.struct_size = 0;
    assert_int_equal(nsvq_encode(&sink, &raster, NULL, NULL, &err), NSVQ_E_ARG);

    nsvq_file *f = open_blob(&b);
    nsvq_info info;
    memset(&info, 0xee, sizeof info);
    info.struct_size = offsetof(nsvq_info, height);
    nsvq_get_info(f, &info);
    assert_int_equal(info.width, 20);
    assert_int_equal(info.height, 0xeeeeeeee);
    nsvq_close(f);
    blob_free(&b);
    picture_free(&p);
}

static void open_arguments(void **state)
{
    nsvq_file *f;
    nsvq_error err;
    blob b = {0};
    nsvq_source src = blob_source(&b), none = {0};

    assert_int_equal(nsvq_open(NULL, &src, NULL, &err), NSVQ_E_ARG);
    assert_int_equal(nsvq_open(&f, NULL, NULL, &err), NSVQ_E_ARG);
    assert_int_equal(nsvq_open(&f, &none, NULL, NULL), NSVQ_E_ARG);
    assert_null(f);
    assert_int_equal(nsvq_open(&f, &src, NULL, &err), NSVQ_E_CORRUPT);
    nsvq_close(NULL);
    nsvq_decoder_destroy(NULL);
}

static void encode_arguments(void **state)
{
    picture p = picture_make(20, 20, 3, 1);
    const nsvq_raster good = picture_raster(&p);
    nsvq_encode_options opt = {.struct_size = sizeof opt, .model = test_model()};
    static nsvq_meta empty[MAX_META + 1];
    nsvq_meta meta = {1, 4, 3, "abc"};
    blob b = {0};
    nsvq_sink sink = blob_sink(&b), none = {0};
    nsvq_error err;

    assert_int_equal(nsvq_encode(NULL, &good, &opt, NULL, &err), NSVQ_E_ARG);
    assert_int_equal(nsvq_encode(&none, &good, &opt, NULL, &err), NSVQ_E_ARG);
    assert_int_equal(nsvq_encode(&sink, NULL, &opt, NULL, &err), NSVQ_E_ARG);
    for (int i = 0; i < 10; i++) {
        nsvq_raster bad = good;
        if (i == 0) bad.width = 0;
        if (i == 1) bad.height = UINT32_MAX;
        if (i == 2) bad.n_bands = 0;
        if (i == 3) bad.n_bands = MAX_BANDS + 1;
        if (i == 4) bad.bands = NULL;
        if (i == 5) bad.read = NULL;
        if (i == 6) bad.has_mask = 1, bad.read_mask = NULL;
        if (i == 7) bad.n_meta = 1;
        if (i == 8) bad.n_meta = 1, bad.meta = &meta; // of a band that is not there
        if (i == 9) bad.n_meta = MAX_META + 1, bad.meta = empty;
        assert_int_equal(nsvq_encode(&sink, &bad, &opt, NULL, &err), NSVQ_E_ARG);
        assert_int_equal(b.size, 0);
    }
    for (int i = 0; i < 5; i++) {
        nsvq_encode_options bad = opt;
        if (i == 0) bad.quality = -1;
        if (i == 1) bad.quality = 101;
        if (i == 2) bad.n_threads = -1;
        if (i == 3) bad.embed = 3;
        if (i == 4) bad.embed = -1;
        assert_int_equal(nsvq_encode(&sink, &good, &bad, NULL, &err), NSVQ_E_ARG);
        assert_int_equal(b.size, 0);
    }
    picture_free(&p);
}

/* A decode-only copy decodes what its origin encoded, but does not encode. */
static void decode_only(void **state)
{
    picture p = picture_make(20, 20, 3, 1);
    nsvq_raster raster = picture_raster(&p);
    blob b = encode(&p, 1, 2), none = {0};
    nsvq_sink sink = blob_sink(&none);
    nsvq_source src = blob_source(&b);
    nsvq_model_desc desc;
    nsvq_model *m;
    nsvq_file *f;
    nsvq_error err;
    size_t size;

    assert_true(testmodel_make(&desc, test_shape(), 11));
    uint8_t *bytes = nsvq_model_store(&desc, 0, &size);
    nsvq_model_free(&desc);
    assert_ok(nsvq_model_open(&m, bytes, size, &err), err);
    assert_true(nsvq_model_id_of(m) == nsvq_model_id_of(test_model()));
    nsvq_encode_options encode_opt = {.struct_size = sizeof encode_opt, .model = m};
    assert_int_equal(nsvq_encode(&sink, &raster, &encode_opt, NULL, &err), NSVQ_E_ARG);
    assert_non_null(strstr(err.text, "decode-only"));
    nsvq_open_options opt = {.struct_size = sizeof opt, .model = m};
    assert_ok(nsvq_open(&f, &src, &opt, &err), err);
    nsvq_model_release(m); // the file keeps it
    free(read_all(f, 1));
    nsvq_close(f);
    free(bytes);
    blob_free(&b);
    picture_free(&p);
}

static void success_leaves_the_error_alone(void **state)
{
    picture p = picture_make(20, 20, 3, 1);
    nsvq_raster raster = picture_raster(&p);
    nsvq_encode_options opt = {.struct_size = sizeof opt, .model = test_model()};
    blob b = {0};
    nsvq_sink sink = blob_sink(&b);
    nsvq_error err = {7, "before"};
    uint8_t pixels[20 * 20 * 3];
    nsvq_file *f;

    assert_int_equal(nsvq_encode(&sink, &raster, &opt, NULL, &err), NSVQ_OK);
    nsvq_source src = blob_source(&b);
    assert_int_equal(nsvq_open(&f, &src, NULL, &err), NSVQ_OK);
    assert_int_equal(read_window(f, 1, 0, 0, 20, 20, pixels, &err), NSVQ_OK);
    assert_int_equal(err.offset, 7);
    assert_string_equal(err.text, "before");
    nsvq_close(f);
    blob_free(&b);
    picture_free(&p);
}

static void read_arguments(void **state)
{
    picture p = picture_make(100, 50, 3, 1);
    blob b = encode(&p, 1, 2);
    nsvq_file *f = open_blob(&b);
    uint32_t band = 3;
    uint8_t px[30000];
    nsvq_decoder *d;
    nsvq_error err;

    assert_int_equal(nsvq_decoder_create(NULL, f, 1, &err), NSVQ_E_ARG);
    assert_int_equal(nsvq_decoder_create(&d, NULL, 1, &err), NSVQ_E_ARG);
    assert_int_equal(nsvq_decoder_create(&d, f, -1, &err), NSVQ_E_ARG);
    assert_null(d);
    assert_ok(nsvq_decoder_create(&d, f, 0, &err), err);
    const nsvq_window good = {.struct_size = sizeof good, .w = 100, .h = 50, .n_bands = 3, .pixels = px,
                              .pixel_stride = 3, .row_stride = 300, .band_stride = 1};
    assert_ok(nsvq_read(d, &good, &err), err);
    for (int i = 0; i < 11; i++) {
        nsvq_window w = good;
        if (i == 0) w.w = 0;
        if (i == 1) w.h = 0;
        if (i == 2) w.w = 101;
        if (i == 3) w.h = 51;
        if (i == 4) w.x = 1;
        if (i == 5) w.y = UINT32_MAX;
        if (i == 6) w.x = UINT32_MAX - 50;
        if (i == 7) w.level = 1;
        if (i == 8) w.pixels = NULL;
        if (i == 9) w.struct_size = 0;
        if (i == 10) w.n_bands = 4;
        assert_int_equal(nsvq_read(d, &w, &err), NSVQ_E_ARG);
        if (i < 10) assert_int_equal(nsvq_read_mask(d, &w, &err), NSVQ_E_ARG);
    }
    nsvq_window w = good;
    w.n_bands = 1;
    w.bands = &band;
    assert_int_equal(nsvq_read(d, &w, &err), NSVQ_E_ARG);
    memset(px, 7, sizeof px);
    w.n_bands = 0;
    assert_ok(nsvq_read(d, &w, &err), err);
    assert_int_equal(px[0], 7);
    assert_int_equal(nsvq_read(NULL, &good, &err), NSVQ_E_ARG);
    assert_int_equal(nsvq_read(d, NULL, &err), NSVQ_E_ARG);
    // no mask stored: all valid
    assert_ok(nsvq_read_mask(d, &good, &err), err);
    for (size_t i = 0; i < 15000; i += 3) assert_int_equal(px[i], 255);
    nsvq_decoder_destroy(d);
    nsvq_close(f);
    blob_free(&b);
    picture_free(&p);
}

/* ---- progress ---- */

static double last_done;

static int note_progress(void *user, double done)
{
    assert_true(done >= last_done && done <= 1);
    last_done = done;
    return 1;
}

static int read_zeros(void *user, const nsvq_pull *p)
{
    for (uint32_t b = 0; b < p->n; b++)
        for (uint32_t y = 0; y < p->h; y++)
            for (uint32_t x = 0; x < p->w; x++)
                ((uint8_t *)p->pixels)[b * p->band_stride + y * p->row_stride + x * p->pixel_stride] = 0;
    return 0;
}

static void too_many_records(void **state)
{
    uint8_t *bytes = calloc(MAX_META + 1, 3); // tag 0, band 0, size 0
    nsvq_file f = {.meta_bytes = bytes};
    nsvq_error err;

    assert_non_null(bytes);
    assert_int_equal(meta_parse(&f, 3 * MAX_META, &err), NSVQ_OK);
    assert_int_equal(f.n_meta, MAX_META);
    free(f.meta);
    f = (nsvq_file){.meta_bytes = bytes};
    assert_int_equal(meta_parse(&f, 3 * (MAX_META + 1), &err), NSVQ_E_CORRUPT);
    free(bytes);
}

static void progress(void **state)
{
    nsvq_band bands[4] = {{0}, {0}, {0}, {.exact = 1}};
    nsvq_raster r = {.struct_size = sizeof r, .width = 1500, .height = 1100, .n_bands = 4,
                     .bands = bands, .read = read_zeros, .progress = note_progress};
    nsvq_encode_options opt = {.struct_size = sizeof opt, .model = test_model(), .n_threads = 3};
    blob b = {0};
    nsvq_sink sink = blob_sink(&b);
    nsvq_error err;

    last_done = 0;
    assert_ok(nsvq_encode(&sink, &r, &opt, NULL, &err), err);
    assert_true(last_done == 1);
    blob_free(&b);
}

/* ---- FORMAT.md ---- */

static char *read_text(const char *path)
{
    FILE *f = fopen(path, "rb");
    char *text = calloc(1, 1 << 20);

    assert_non_null(f);
    assert_non_null(text);
    assert_in_range(fread(text, 1, (1 << 20) - 1, f), 1000, (1 << 20) - 2);
    fclose(f);
    return text;
}

/* Annex A is the dictionary in words.c. */
static void format_annex(void **state)
{
    char *text = read_text(NSVQ_FORMAT_MD), *p = strstr(text, "\n## Annex A"), *out = text;

    assert_non_null(p);
    assert_non_null(p = strstr(p, "\n```\n"));
    p += 5;
    char *end = strstr(p, "\n```");
    assert_non_null(end);
    for (; p < end; p++)
        if (*p != '\n') *out++ = *p; // lines are joined
    assert_int_equal(out - text, meta_words_bytes);
    assert_memory_equal(text, meta_words, meta_words_bytes);
    assert_int_equal(meta_words_bytes, 8835);
    assert_true(checksum(0, meta_words, meta_words_bytes) == 0xc01fccd1);
    free(text);
}

/* The example of 3.1, and what the dictionary does for the CRS of a UTM zone. */
static void format_examples(void **state)
{
    static const uint8_t want[] = {0x8e, 0x4e, 0x53, 0x56, 0x51, 0x0d, 0x0a, 0x1a, 1, 0, 0x38, 0,
                                   0x40, 0x42, 0x0f, 0, 0, 0, 0, 0, 0xd8, 4, 0xac, 2, 9, 2, 1, 1, 1, 1, 0x20, 3, 0, 0,
                                   1, 2, 3, 4, 5, 6, 7, 8, 8, 0x61, 0x65, 0x72, 0x69, 0x61, 0x6c, 0x2d, 0x32, 0};
    group g = {.coding = NSVQ_CODING_LOSSY3, .type = NSVQ_TYPE_U8, .n_bands = 3};
    header h = {.width = 600, .height = 300, .n_levels = 2, .quality16 = 800, .groups = &g, .n_groups = 1,
                .model_id = UINT64_C(0x0807060504030201), .model_name = "aerial-2"};
    wr w = {0};
    nsvq_error err;

    assert_ok(header_store(&h, &w, &err), err);
    header_seal(&w, 1000000);
    assert_int_equal(w.size, sizeof want + 4);
    assert_memory_equal(w.p, want, sizeof want);
    assert_int_equal(h.index_offset, 56);
    assert_int_equal(h.blocks_offset, 92);
    w.size = 0;

    static const char wkt[] =
        "PROJCRS[\"WGS 84 / UTM zone 55S\",BASEGEOGCRS[\"WGS 84\",ENSEMBLE[\"World Geodetic System 1984 "
        "ensemble\",MEMBER[\"World Geodetic System 1984 (Transit)\"],MEMBER[\"World Geodetic System 1984 "
        "(G730)\"],MEMBER[\"World Geodetic System 1984 (G873)\"],MEMBER[\"World Geodetic System 1984 "
        "(G1150)\"],MEMBER[\"World Geodetic System 1984 (G1674)\"],MEMBER[\"World Geodetic System 1984 "
        "(G1762)\"],ELLIPSOID[\"WGS 84\",6378137,298.257223563,LENGTHUNIT[\"metre\",1]],"
        "ENSEMBLEACCURACY[2.0]],PRIMEM[\"Greenwich\",0,ANGLEUNIT[\"degree\",0.0174532925199433]],"
        "ID[\"EPSG\",4326]],CONVERSION[\"UTM zone 55S\",METHOD[\"Transverse Mercator\",ID[\"EPSG\",9807]]]]";
    wr_deflate(&w, (const uint8_t *)wkt, sizeof wkt - 1, true);
    assert_in_range(w.size, 1, 80);
    wr_free(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts), cmocka_unit_test(models), cmocka_unit_test(shipped_models_work),
        cmocka_unit_test(struct_sizes), cmocka_unit_test(open_arguments),
        cmocka_unit_test(encode_arguments), cmocka_unit_test(decode_only),
        cmocka_unit_test(success_leaves_the_error_alone),
        cmocka_unit_test(read_arguments), cmocka_unit_test(too_many_records),
        cmocka_unit_test(progress), cmocka_unit_test(format_annex),
        cmocka_unit_test(format_examples)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
