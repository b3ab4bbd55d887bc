/* levels.c - overviews: the halved pixels of the level above, coded like it; masks and nodata; places in
 * the file. */
#include <math.h>

#include "codec.h"
#include "reduce.h"
#include "support.h"

/* All bands and the mask of a level: a picture of its own. */
static picture read_level(nsvq_file *f, uint32_t level, int n_threads)
{
    nsvq_info info = {.struct_size = sizeof info};
    nsvq_decoder *d;
    nsvq_error err;

    nsvq_get_info(f, &info);
    picture p = {.w = ((info.width - 1) >> level) + 1, .h = ((info.height - 1) >> level) + 1, .n = info.n_bands,
                 .has_mask = info.has_mask};
    size_t n = (size_t)p.w * p.h;
    p.px = malloc(n * p.n);
    p.mask = malloc(n);
    assert_non_null(p.px);
    assert_non_null(p.mask);
    nsvq_window w = {.struct_size = sizeof w, .level = level, .w = p.w, .h = p.h, .n_bands = p.n, .pixels = p.px,
                     .pixel_stride = p.n, .row_stride = (ptrdiff_t)p.w * p.n, .band_stride = 1};
    assert_ok(nsvq_decoder_create(&d, f, n_threads, &err), err);
    assert_ok(nsvq_read(d, &w, &err), err);
    w.pixels = p.mask;
    w.pixel_stride = 1;
    w.row_stride = p.w;
    assert_ok(nsvq_read_mask(d, &w, &err), err);
    nsvq_decoder_destroy(d);
    return p;
}

/* A sample of half the size, straight from the text of nsvq.h; where nothing is valid and there is no
 * nodata, as if all were. */
static uint8_t halved(const picture *p, uint32_t x, uint32_t y, uint32_t b)
{
    const nsvq_band *band = &p->bands[b];
    int v[4], n = 0, sum = 0, best = 0;

    for (int any = 0; any < 2 && !n; any++)
        for (uint32_t r = 2 * y; r < 2 * y + 2 && r < p->h; r++)
            for (uint32_t c = 2 * x; c < 2 * x + 2 && c < p->w; c++) {
                int value = *picture_at(p, c, r, b);
                bool masked = p->has_mask && !p->mask[(size_t)r * p->w + c];
                bool missing = band->has_nodata && value == (int)band->nodata;
                if (any || (!masked && !missing)) v[n++] = value;
            }
    if (band->has_nodata) {
        bool all = true;
        for (uint32_t r = 2 * y; r < 2 * y + 2 && r < p->h; r++)
            for (uint32_t c = 2 * x; c < 2 * x + 2 && c < p->w; c++)
                all &= (p->has_mask && !p->mask[(size_t)r * p->w + c]) || *picture_at(p, c, r, b) == band->nodata;
        if (all) return (uint8_t)band->nodata;
    }
    if (band->resampling == NSVQ_NEAREST) return (uint8_t)v[0];
    for (int i = 0, most = 0; i < n; i++) {
        int count = 0;
        for (int k = 0; k < n; k++) count += v[k] == v[i];
        best = count > most ? i : best;
        most = count > most ? count : most;
        sum += v[i];
    }
    if (band->resampling == NSVQ_MODE) return (uint8_t)v[best];
    int average = (sum + n / 2) / n;
    return (uint8_t)(band->has_nodata && average == (int)band->nodata ? v[0] : average);
}

static picture half(const picture *p)
{
    picture out = {.w = (p->w + 1) / 2, .h = (p->h + 1) / 2, .n = p->n, .has_mask = p->has_mask};

    memcpy(out.bands, p->bands, sizeof out.bands);
    out.px = malloc((size_t)out.w * out.h * out.n);
    out.mask = malloc((size_t)out.w * out.h);
    assert_non_null(out.px);
    assert_non_null(out.mask);
    for (uint32_t y = 0; y < out.h; y++)
        for (uint32_t x = 0; x < out.w; x++) {
            for (uint32_t b = 0; b < p->n; b++) *picture_at(&out, x, y, b) = halved(p, x, y, b);
            uint8_t any = 0;
            for (uint32_t r = 2 * y; r < 2 * y + 2 && r < p->h; r++)
                for (uint32_t c = 2 * x; c < 2 * x + 2 && c < p->w; c++) any |= p->mask[(size_t)r * p->w + c];
            out.mask[(size_t)y * out.w + x] = any ? 255 : 0;
        }
    return out;
}

/* Every level of an all exact picture is the half of the one above. */
static void check_exact(picture *p)
{
    blob b = encode(p, 2, 2);
    nsvq_file *f = open_blob(&b);
    nsvq_info info = {.struct_size = sizeof info};
    picture above = half(p);

    nsvq_get_info(f, &info);
    assert_int_equal(info.n_levels, levels_of(p->w, p->h));
    for (uint32_t l = 1; l < info.n_levels; l++) {
        picture got = read_level(f, l, 1 + (int)l % 3), next = half(&above);
        assert_int_equal(got.w, above.w);
        assert_int_equal(got.h, above.h);
        assert_memory_equal(got.px, above.px, (size_t)got.w * got.h * got.n);
        assert_memory_equal(got.mask, above.mask, (size_t)got.w * got.h);
        picture_free(&got);
        picture_free(&above);
        above = next;
    }
    picture_free(&above);
    nsvq_close(f);
    blob_free(&b);
}

static void exact_levels(void **state)
{
    static const uint32_t size[][2] = {{513, 1}, {1, 1025}, {1023, 2049}, {1300, 1100}, {20001, 700}, {700, 9000}};

    for (size_t i = 0; i < sizeof size / sizeof *size; i++) {
        picture p = picture_make(size[i][0], size[i][1], 4, i);
        for (uint32_t b = 0; b < 4; b++) {
            p.bands[b].exact = 1;
            p.bands[b].resampling = (uint8_t)(b % 3);
            if (b < 3) continue;
            p.bands[b].has_nodata = 1;
            p.bands[b].nodata = 99;
            picture_punch(&p, b, 99);
        }
        if (i % 2) {
            p.has_mask = true;
            picture_punch(&p, 4, 0);
        }
        check_exact(&p);
        picture_free(&p);
    }
}

/* A lossy level holds what a file of the halved picture holds, 10 qualities lower. */
static void lossy_levels(void **state)
{
    picture p = picture_make(1500, 2100, 4, 3);

    for (uint32_t b = 0; b < 3; b++) {
        p.bands[b].has_nodata = 1;
        p.bands[b].nodata = 0;
    }
    picture_punch(&p, 1, 0);
    p.has_mask = true;
    picture_punch(&p, 4, 0);
    blob b = encode(&p, 3, 2);
    nsvq_file *f = open_blob(&b);
    picture reference = half(&p);
    for (uint32_t l = 1; l < f->h.n_levels; l++) {
        blob rb = encode_at(&reference, 1, 2, 40);
        nsvq_file *rf = open_blob(&rb);
        picture got = read_level(f, l, 2), want = read_level(rf, 0, 1), next = half(&reference);
        assert_memory_equal(got.px, want.px, (size_t)got.w * got.h * got.n);
        assert_memory_equal(got.mask, want.mask, (size_t)got.w * got.h);
        picture_free(&got);
        picture_free(&want);
        picture_free(&reference);
        reference = next;
        nsvq_close(rf);
        blob_free(&rb);
    }
    picture_free(&reference);
    nsvq_close(f);
    blob_free(&b);
    picture_free(&p);
}

/* What is invisible under an alpha band does not colour what is visible. */
static void alpha(void **state)
{
    picture p = picture_make(600, 600, 2, 5);
    nsvq_raster raster = picture_raster(&p);
    nsvq_encode_options opt = {.struct_size = sizeof opt};
    blob b = {0};
    nsvq_sink sink = blob_sink(&b);
    nsvq_error err;

    p.bands[0].exact = p.bands[1].exact = 1;
    picture_fill(&p, 0, 200, 0, 0, 600, 600);
    picture_fill(&p, 1, 255, 0, 0, 600, 600);
    picture_fill(&p, 0, 3, 101, 0, 77, 600);
    picture_fill(&p, 1, 0, 101, 0, 77, 600);
    raster.has_alpha = 1;
    raster.alpha = 1;
    assert_ok(nsvq_encode(&sink, &raster, &opt, NULL, &err), err);
    nsvq_file *f = open_blob(&b);
    picture got = read_level(f, 1, 1);
    for (uint32_t x = 0; x < 300; x++) {
        bool inside = x > 50 && x < 89, edge = x == 50;
        assert_int_equal(*picture_at(&got, x, 7, 0), inside ? 3 : 200);
        assert_int_equal(*picture_at(&got, x, 7, 1), inside ? 0 : edge ? 128 : 255);
    }
    picture_free(&got);
    nsvq_close(f);
    blob_free(&b);
    picture_free(&p);
}

static void fewer_levels(void **state)
{
    picture p = picture_make(5000, 30, 1, 5);
    nsvq_raster raster = picture_raster(&p);
    nsvq_error err;

    p.bands[0].exact = 1;
    for (uint32_t n = 1; n < 9; n++) {
        nsvq_encode_options opt = {.struct_size = sizeof opt, .n_levels = n};
        blob b = {0};
        nsvq_sink sink = blob_sink(&b);
        assert_ok(nsvq_encode(&sink, &raster, &opt, NULL, &err), err);
        nsvq_file *f = open_blob(&b);
        assert_int_equal(f->h.n_levels, n < 5 ? n : 5);
        nsvq_close(f);
        blob_free(&b);
    }
    picture_free(&p);
}

/* Levels of up to a run of blocks lie together, the coarsest last; nothing overlaps, nothing is lost. */
static void places(void **state)
{
    picture p = picture_make(30000, 1600, 1, 5);

    p.bands[0].exact = 1;
    blob b = encode(&p, 2, 2);
    nsvq_file *f = open_blob(&b);
    const header *h = &f->h;
    uint64_t offset, size, sum = 0, before = 0;
    nsvq_error err;

    for (uint32_t l = 0; l < h->n_levels; l++) {
        const grid *v = &h->levels[l];
        uint64_t first = UINT64_MAX, last = 0, bytes = 0;
        for (uint32_t by = 0; by < v->blocks_y; by++)
            for (uint32_t bx = 0; bx < v->blocks_x; bx++) {
                assert_ok(nsvq_block_get(f, l, bx, by, 0, &offset, &size, &err), err);
                first = offset < first ? offset : first;
                last = offset + size > last ? offset + size : last;
                bytes += size;
            }
        sum += bytes;
        if (v->n_entries > RUN_ENTRIES) continue;
        assert_int_equal(last - first, bytes);
        if (before) assert_int_equal(first, before);
        before = last;
    }
    assert_int_equal(before, b.size);
    assert_int_equal(sum, b.size - h->blocks_offset);
    nsvq_close(f);
    blob_free(&b);
    picture_free(&p);
}

/* Averages of other types: rounding, ends of the range, NaN, parts. */
static void averages(void **state)
{
    reduce_band r = {.type = NSVQ_TYPE_S16};
    int16_t a16[] = {-3, -4, 32767, 32767}, b16[] = {-3, -4, 32767, 32766}, out16[2];
    int64_t a64[] = {INT64_MAX, INT64_MIN}, b64[] = {INT64_MAX, INT64_MIN}, out64;
    uint64_t au[] = {UINT64_MAX, UINT64_MAX}, outu;
    float af[] = {NAN, 3, -1, INFINITY, 1, 3}, bf[] = {5, NAN, -2, 1, 3, 3}, outf[3];
    double ad[] = {1.7e308, 1.7e308}, outd;

    reduce_row((uint8_t *)out16, &r, (uint8_t *)a16, (uint8_t *)b16, 2, 4, NULL, NULL);
    assert_int_equal(out16[0], -3); // -3.5 goes up
    assert_int_equal(out16[1], 32767);
    r = (reduce_band){.type = NSVQ_TYPE_S16, .complex = true};
    reduce_row((uint8_t *)out16, &r, (uint8_t *)a16, (uint8_t *)b16, 4, 2, NULL, NULL);
    assert_int_equal(out16[0], 16382);
    assert_int_equal(out16[1], 16381);
    r = (reduce_band){.type = NSVQ_TYPE_S64};
    reduce_row((uint8_t *)&out64, &r, (uint8_t *)a64, (uint8_t *)b64, 8, 2, NULL, NULL);
    assert_true(out64 == 0); // -0.5 goes up
    r.type = NSVQ_TYPE_U64;
    reduce_row((uint8_t *)&outu, &r, (uint8_t *)au, (uint8_t *)au, 8, 2, NULL, NULL);
    assert_true(outu == UINT64_MAX);
    r.type = NSVQ_TYPE_F32;
    reduce_row((uint8_t *)outf, &r, (uint8_t *)af, (uint8_t *)bf, 4, 6, NULL, NULL);
    assert_true(outf[0] == 4 && outf[1] == INFINITY && outf[2] == 2.5f);
    r.type = NSVQ_TYPE_F64;
    reduce_row((uint8_t *)&outd, &r, (uint8_t *)ad, (uint8_t *)ad, 8, 2, NULL, NULL);
    assert_true(outd == 1.7e308);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(exact_levels), cmocka_unit_test(lossy_levels),
                                       cmocka_unit_test(alpha),        cmocka_unit_test(fewer_levels),
                                       cmocka_unit_test(places),       cmocka_unit_test(averages)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
