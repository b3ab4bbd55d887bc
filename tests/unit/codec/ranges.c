/* ranges.c - lossy samples of 16 bits and floats: the arithmetic of the range, how it is chosen, and what comes
 * back through a shipped model. */
#include "codec.h"
#include "support.h"

#include <float.h>
#include <math.h>

static uint32_t float_bits(float f)
{
    return range_bits(NSVQ_TYPE_F32, (double)f);
}

static float bits_float(uint32_t bits)
{
    return (float)range_value(NSVQ_TYPE_F32, bits);
}

/* The sample of one value of the synthesis. */
static uint32_t sample_of(nsvq_type type, range r, int v, bool grey)
{
    int16_t in[3] = {(int16_t)v, (int16_t)v, (int16_t)v};
    uint8_t out[4] = {0};

    range_samples(out, 4, type, r, in, grey, 1);
    return range_load(type, out);
}

/* Level 0 is low, level 255 high, and no value leads outside or backwards. */
static void arithmetic(void **state)
{
    const struct {
        nsvq_type type;
        range r;
    } of[] = {{NSVQ_TYPE_U16, {0, 65535}}, {NSVQ_TYPE_U16, {0, 1}}, {NSVQ_TYPE_U16, {65535, 65535}},
              {NSVQ_TYPE_S16, {0x8000, 0x7fff}}, {NSVQ_TYPE_S16, {0x8000, 0x8001}}, {NSVQ_TYPE_S16, {0xff9c, 1000}},
              {NSVQ_TYPE_F32, {float_bits(-FLT_MAX), float_bits(FLT_MAX)}}, {NSVQ_TYPE_F32, {0x80000003, 5}},
              {NSVQ_TYPE_F32, {float_bits(0.1f), float_bits(0.1000001f)}}, {NSVQ_TYPE_F32, {0, 0}},
              {NSVQ_TYPE_F32, {float_bits(-5), float_bits(7e-40f)}}};

    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        for (int grey = 0; grey < 2; grey++) {
            double last = -INFINITY;
            assert_true(range_valid(of[i].type, of[i].r));
            for (int v = INT16_MIN; v <= INT16_MAX; v++) {
                double now = range_value(of[i].type, sample_of(of[i].type, of[i].r, v, grey));
                assert_true(now >= last && range_holds(of[i].type, of[i].r, sample_of(of[i].type, of[i].r, v, grey)));
                last = now;
            }
            double low = range_value(of[i].type, of[i].r.low), high = range_value(of[i].type, of[i].r.high);
            assert_true(range_value(of[i].type, sample_of(of[i].type, of[i].r, -4096, grey)) == low);
            assert_true(fabs(range_value(of[i].type, sample_of(of[i].type, of[i].r, 4064, grey)) - high) <=
                        (high - low) / 1e7);
            assert_int_equal(range_level(of[i].type, of[i].r, of[i].r.low), 0);
            assert_int_equal(range_level(of[i].type, of[i].r, of[i].r.high), high > low ? 255 : 0);
        }
}

/* Bits that every machine must have: the example of FORMAT.md 4.4, and floats, where an operation more or less
 * that rounds would show. */
static void known_bits(void **state)
{
    range third = {float_bits(1 / 3.f), float_bits(1e7f)}, small = {0, 7}, s16 = {0xff9c, 1000};
    uint32_t sum = 0;

    assert_int_equal(sample_of(NSVQ_TYPE_S16, s16, 0, false), 452);
    assert_int_equal(sample_of(NSVQ_TYPE_F32, small, 0, true), 4);
    for (int v = -4096; v < 4096; v++) sum = sum * 31 + sample_of(NSVQ_TYPE_F32, third, v, v & 1);
    assert_int_equal(sum, 0xd57fcfec); // computed apart, from the text of FORMAT.md
    // no -0, which is nodata where 0 is
    assert_int_equal(sample_of(NSVQ_TYPE_F32, (range){0x80000000, 0x80000000}, 0, false), 0);
}

static uint32_t avoided(nsvq_type type, range r, uint32_t nodata, uint32_t bits)
{
    uint8_t p[4];

    range_store(type, p, bits);
    range_avoid(p, 4, type, r, nodata, 1);
    return range_load(type, p);
}

static void nodata_is_avoided(void **state)
{
    range all = {0, 65535}, s16 = {0x8000, 0x7fff}, f32 = {float_bits(-9e9f), float_bits(9e9f)};
    static const float nodata[] = {0, -9999, 1e-42f, 9e9f, -9e9f, 3.14f};

    assert_int_equal(avoided(NSVQ_TYPE_U16, all, 7, 7), 8);
    assert_int_equal(avoided(NSVQ_TYPE_U16, all, 7, 6), 6);
    assert_int_equal(avoided(NSVQ_TYPE_U16, all, 65535, 65535), 65534);
    assert_int_equal(avoided(NSVQ_TYPE_S16, s16, 0xffff, 0xffff), 0);
    assert_int_equal(avoided(NSVQ_TYPE_S16, s16, 0x7fff, 0x7fff), 0x7ffe);
    for (size_t i = 0; i < sizeof nodata / sizeof *nodata; i++)
        for (int d = -40; d <= 40; d++) {
            uint32_t n = float_bits(nodata[i]), bits = n + (uint32_t)d;
            if (!n && d < 0) bits = 0x80000000u - (uint32_t)d;
            uint32_t got = avoided(NSVQ_TYPE_F32, f32, n, bits);
            assert_false(range_is_nodata(NSVQ_TYPE_F32, got, n));
            assert_true(abs(d) < 17 || got == bits);
            assert_true(fabsf(bits_float(got) - bits_float(bits)) <= fabsf(bits_float(bits)) * 0x1p-18f + 0x1p-143f);
        }
    assert_true(range_is_nodata(NSVQ_TYPE_F32, 0x80000000, 0));
    assert_true(range_is_nodata(NSVQ_TYPE_F32, float_bits(-3.40282306e38f), float_bits(-FLT_MAX)));
    assert_true(range_is_nodata(NSVQ_TYPE_F32, 0x7fc00000, 0x7fc00000));
    assert_false(range_is_nodata(NSVQ_TYPE_F32, 0x7fc00001, 0x7fc00000));
    assert_false(range_is_nodata(NSVQ_TYPE_F32, float_bits(9998), float_bits(9999)));
}

/* ---- whole files ---- */

/* Slopes, waves and edges from low to high, the same in all bands but for their phase; of every `odd` samples
 * about one is another. */
typedef struct field {
    uint32_t w, h, n;
    nsvq_band bands[3];
    double low, high;
    uint32_t others[4], n_others, odd;
    bool has_mask; /* the left quarter, where samples are the last of the others */
} field;

static uint32_t hash(uint32_t x, uint32_t y, uint32_t b)
{
    uint32_t v = (x * 73856093u) ^ (y * 19349663u) ^ (b * 83492791u);

    v = (v ^ v >> 15) * 0x2c1b3c6d;
    return v ^ v >> 13;
}

static uint32_t field_at(const field *f, uint32_t b, uint32_t x, uint32_t y)
{
    nsvq_type type = (nsvq_type)f->bands[b].type;
    double s = 0.5 + 0.2 * sin(x / 17. + b * 0.3) + 0.2 * cos(y / 23.) + ((x / 40 + y / 60) % 2 ? 0.08 : 0);
    uint32_t r = hash(x, y, b);

    s += (r >> 16) / 65536. * 0.02;
    if (f->has_mask && x < f->w / 4) return f->others[f->n_others - 1];
    if (f->odd && r % f->odd == 0) return f->others[r / f->odd % f->n_others];
    double v = f->low * (1 - s) + f->high * s;
    return type == NSVQ_TYPE_F32 ? float_bits((float)v) : (uint16_t)(int32_t)floor(v + 0.5);
}

static int field_read(void *user, const nsvq_pull *p)
{
    const field *f = user;

    for (uint32_t b = 0; b < p->n; b++)
        for (uint32_t y = 0; y < p->h; y++)
            for (uint32_t x = 0; x < p->w; x++)
                range_store(f->bands[0].type, (uint8_t *)p->pixels + (ptrdiff_t)b * p->band_stride +
                            (ptrdiff_t)y * p->row_stride + (ptrdiff_t)x * p->pixel_stride,
                            field_at(f, p->first + b, p->x + x, p->y + y));
    return 0;
}

static int field_mask(void *user, const nsvq_pull *p)
{
    const field *f = user;

    for (uint32_t y = 0; y < p->h; y++)
        for (uint32_t x = 0; x < p->w; x++)
            ((uint8_t *)p->pixels)[(ptrdiff_t)y * p->row_stride + x] = p->x + x < f->w / 4 ? 0 : 255;
    return 0;
}

static blob field_encode(field *f, int n_threads, double psnr)
{
    nsvq_raster raster = {.struct_size = sizeof raster, .user = f, .width = f->w, .height = f->h, .n_bands = f->n,
                          .bands = f->bands, .has_mask = f->has_mask, .read = field_read, .read_mask = field_mask};
    nsvq_encode_options opt = {.struct_size = sizeof opt, .n_threads = n_threads, .psnr = psnr, .effort = 2};
    blob b = {0};
    nsvq_sink sink = blob_sink(&b);
    nsvq_error err;

    assert_ok(nsvq_encode(&sink, &raster, &opt, NULL, &err), err);
    return b;
}

static void read_field(nsvq_file *f, int n_threads, uint32_t x, uint32_t y, uint32_t w, uint32_t h, size_t bytes,
                       uint32_t n, uint8_t *px)
{
    nsvq_window win = {.struct_size = sizeof win, .x = x, .y = y, .w = w, .h = h, .n_bands = n, .pixels = px,
                       .pixel_stride = (ptrdiff_t)(n * bytes), .row_stride = (ptrdiff_t)(w * n * bytes),
                       .band_stride = (ptrdiff_t)bytes};
    nsvq_decoder *d;
    nsvq_error err;

    assert_ok(nsvq_decoder_create(&d, f, n_threads, &err), err);
    assert_ok(nsvq_read(d, &win, &err), err);
    nsvq_decoder_destroy(d);
}

/* What must be exact is, nothing else is nodata, and the rest is near. Returns dB, peak: high - low. */
static double check_samples(const field *f, const uint8_t *px)
{
    const nsvq_band *band = &f->bands[0];
    size_t bytes = nsvq_type_bytes((nsvq_type)band->type), n = 0;
    double squares = 0;

    for (uint32_t y = 0; y < f->h; y++)
        for (uint32_t x = f->has_mask ? f->w / 4 : 0; x < f->w; x++)
            for (uint32_t b = 0; b < f->n; b++) {
                uint32_t want = field_at(f, b, x, y), got = range_load(band->type, px + ((size_t)y * f->w + x) * f->n * bytes + b * bytes);
                bool usual = range_value(band->type, want) >= fmin(f->low, f->high) &&
                             range_value(band->type, want) <= fmax(f->low, f->high);
                if (band->has_nodata && range_is_nodata(band->type, want, (uint32_t)band->nodata)) {
                    assert_int_equal(got, (uint32_t)band->nodata);
                    continue;
                }
                if (!usual) assert_int_equal(got, want);
                assert_false(band->has_nodata && range_is_nodata(band->type, got, (uint32_t)band->nodata));
                double d = usual ? (range_value(band->type, got) - range_value(band->type, want)) / (f->high - f->low) : 0;
                squares += d * d;
                n++;
            }
    return -10 * log10(squares / (double)n + 1e-12);
}

/* Encodes, checks samples, windows, threads; returns dB. */
static double check_field(field *f, double psnr)
{
    blob b = field_encode(f, 1, psnr), again = field_encode(f, 3, psnr);
    nsvq_file *file = open_blob(&b);
    size_t bytes = nsvq_type_bytes((nsvq_type)f->bands[0].type), item = f->n * bytes;
    uint8_t *px = malloc(f->w * f->h * item), *part = malloc(f->w * f->h * item);
    test_rng rng = {5};

    assert_non_null(px);
    assert_non_null(part);
    assert_int_equal(b.size, again.size);
    assert_memory_equal(b.p, again.p, b.size);
    read_field(file, 2, 0, 0, f->w, f->h, bytes, f->n, px);
    double found = check_samples(f, px);
    for (int i = 0; i < 8; i++) {
        uint32_t x = test_rand(&rng) % f->w, y = test_rand(&rng) % f->h;
        uint32_t w = 1 + test_rand(&rng) % (f->w - x), h = 1 + test_rand(&rng) % (f->h - y);
        nsvq_file *fresh = open_blob(&b);
        read_field(fresh, 1, x, y, w, h, bytes, f->n, part);
        for (uint32_t r = 0; r < h; r++)
            assert_memory_equal(part + r * w * item, px + ((y + r) * (size_t)f->w + x) * item, w * item);
        nsvq_close(fresh);
    }
    free(px);
    free(part);
    nsvq_close(file);
    blob_free(&b);
    blob_free(&again);
    return found;
}

static field make_field(nsvq_type type, uint32_t n, double low, double high)
{
    field f = {.w = 560, .h = 130, .n = n, .low = low, .high = high};

    for (uint32_t b = 0; b < n; b++) f.bands[b].type = (uint8_t)type;
    return f;
}

static void values_of_all_kinds(void **state)
{
    const struct {
        nsvq_type type;
        double low, high, psnr;
    } of[] = {{NSVQ_TYPE_U16, 0, 4095, 33}, {NSVQ_TYPE_U16, 0, 65535, 33}, {NSVQ_TYPE_U16, 30000, 30003, 20},
              {NSVQ_TYPE_U16, 65000, 65535, 33}, {NSVQ_TYPE_S16, -32768, 32767, 33}, {NSVQ_TYPE_S16, -900, -300, 33},
              {NSVQ_TYPE_F32, 0, 1, 33}, {NSVQ_TYPE_F32, -3.4e38, 3.4e38, 33}, {NSVQ_TYPE_F32, 0, 1e-41, 33},
              {NSVQ_TYPE_F32, 1e6, 1e6 + 20, 33}, {NSVQ_TYPE_F32, -1e-3, 1e-3, 33}};

    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        for (uint32_t n = 1; n <= 3; n += 2) {
            field f = make_field(of[i].type, n, of[i].low, of[i].high);
            double found = check_field(&f, 0);
            print_message("%u of type %d, %g to %g: %.2f dB\n", n, of[i].type, of[i].low, of[i].high, found);
            assert_true(found > of[i].psnr);
        }
}

static void constants(void **state)
{
    static const nsvq_type types[] = {NSVQ_TYPE_U16, NSVQ_TYPE_S16, NSVQ_TYPE_F32};

    for (size_t i = 0; i < 3; i++)
        for (uint32_t n = 1; n <= 3; n += 2) {
            field f = make_field(types[i], n, 300, 300);
            blob b = field_encode(&f, 1, 0);
            nsvq_file *file = open_blob(&b);
            uint8_t *px = malloc((size_t)f.w * f.h * 12);
            assert_non_null(px);
            size_t bytes = nsvq_type_bytes(types[i]);
            read_field(file, 1, 0, 0, f.w, f.h, bytes, n, px);
            for (size_t k = 0; k < (size_t)f.w * f.h * n; k++)
                assert_true(range_value(types[i], range_load(types[i], px + k * bytes)) == 300);
            free(px);
            nsvq_close(file);
            blob_free(&b);
        }
}

/* The range of band 0. */
static range range_of(field *f)
{
    nsvq_group g = {.struct_size = sizeof g};
    blob b = field_encode(f, 1, 0);
    nsvq_file *file = open_blob(&b);

    assert_int_equal(nsvq_group_get(file, 0, &g), NSVQ_OK);
    nsvq_close(file);
    blob_free(&b);
    return (range){g.low[0], g.high[0]};
}

/* Hot pixels, infinities and NaN of any bits, fill values that nobody declared, nodata: all exact, and the rest
 * as good as without. */
static void what_is_odd_is_exact(void **state)
{
    const struct {
        nsvq_type type;
        double low, high;
        uint32_t others[4], n_others, odd;
        bool has_nodata;
        uint32_t nodata;
    } of[] = {{NSVQ_TYPE_U16, 100, 4000, {60000, 65535}, 2, 5000, false, 0},
              {NSVQ_TYPE_U16, 1000, 4000, {0}, 1, 3, true, 0},
              {NSVQ_TYPE_U16, 0, 4000, {2000}, 1, 7, true, 2000},
              {NSVQ_TYPE_S16, -200, 300, {0x8000}, 1, 4, false, 0},
              {NSVQ_TYPE_S16, -200, 300, {0x7fff, 0x8000}, 2, 4, true, 0x7fff},
              {NSVQ_TYPE_F32, -1, 1, {0x7fc00000, 0x7f800000, 0xff800000, 0xffc12345}, 4, 9, false, 0},
              {NSVQ_TYPE_F32, -1, 1, {0x7fc00000, 0x7fc00001}, 2, 9, true, 0x7fc00000},
              {NSVQ_TYPE_F32, -1, 1, {0, 0x80000000}, 2, 5, true, 0},
              {NSVQ_TYPE_F32, 200, 300, {0xc61c3c00, 0x7e967699}, 2, 5, true, 0xc61c3c00}};

    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        for (uint32_t n = 1; n <= 3; n += 2) {
            field f = make_field(of[i].type, n, of[i].low, of[i].high);
            double plain = check_field(&f, 0);
            memcpy(f.others, of[i].others, sizeof f.others);
            f.n_others = of[i].n_others;
            f.odd = of[i].odd;
            for (uint32_t b = 0; b < n; b++) {
                f.bands[b].has_nodata = of[i].has_nodata;
                f.bands[b].nodata = of[i].nodata;
            }
            double found = check_field(&f, 0);
            range r = range_of(&f);
            print_message("%zu, %u bands: %.2f dB, without the others %.2f\n", i, n, found, plain);
            assert_true(found > plain - 1.5);
            double room = (f.high - f.low) / 4;
            assert_true(range_value(f.bands[0].type, r.low) >= f.low - room);
            assert_true(range_value(f.bands[0].type, r.high) <= f.high + room);
        }
}

/* What lies under a mask has no say in the range. */
static void masked_samples(void **state)
{
    field f = make_field(NSVQ_TYPE_U16, 1, 1000, 1200);

    f.others[0] = 0;
    f.n_others = 1;
    f.has_mask = true;
    range r = range_of(&f);
    assert_true(r.low >= 1000 && r.high <= 1200);
    assert_true(check_field(&f, 0) > 33);
}

/* A range that the caller sets, narrower than the samples: the rest is exact. */
static void given_range(void **state)
{
    field f = make_field(NSVQ_TYPE_S16, 1, -1000, 1000);

    f.bands[0].has_range = 1;
    f.bands[0].low = (uint16_t)-100;
    f.bands[0].high = 700;
    blob b = field_encode(&f, 1, 0);
    nsvq_file *file = open_blob(&b);
    uint8_t *px = malloc((size_t)f.w * f.h * 2);
    size_t n = 0;
    assert_non_null(px);
    read_field(file, 1, 0, 0, f.w, f.h, 2, 1, px);
    for (uint32_t y = 0; y < f.h; y++)
        for (uint32_t x = 0; x < f.w; x++) {
            uint32_t want = field_at(&f, 0, x, y), got = range_load(NSVQ_TYPE_S16, px + 2 * ((size_t)y * f.w + x));
            int v = (int16_t)want;
            if (v < -100 || v > 700) assert_int_equal(got, want), n++;
            else assert_true((int16_t)got >= -100 && (int16_t)got <= 700);
        }
    assert_true(n > 1000);
    free(px);
    nsvq_close(file);
    blob_free(&b);
}

/* Bands that have nothing in common stand alone. */
static void groups(void **state)
{
    field f = make_field(NSVQ_TYPE_U16, 3, 0, 4000);
    nsvq_group g = {.struct_size = sizeof g};

    for (int alone = 0; alone < 2; alone++) {
        f.odd = alone ? 1 : 0; // noise
        f.n_others = 4;
        memcpy(f.others, (uint32_t[4]){0, 1000, 2000, 4000}, sizeof f.others);
        blob b = field_encode(&f, 1, 0);
        nsvq_file *file = open_blob(&b);
        assert_int_equal(nsvq_group_get(file, 0, &g), NSVQ_OK);
        assert_int_equal(g.coding, alone ? NSVQ_CODING_LOSSY1 : NSVQ_CODING_LOSSY3);
        assert_int_equal(g.type, NSVQ_TYPE_U16);
        nsvq_close(file);
        blob_free(&b);
    }
}

/* Peak: the range of the samples. */
static void wanted_psnr(void **state)
{
    field f = make_field(NSVQ_TYPE_F32, 3, -7, 5);
    double least = INFINITY, most = -INFINITY;

    for (uint32_t y = 0; y < f.h; y++)
        for (uint32_t x = 0; x < f.w; x++)
            for (uint32_t b = 0; b < 3; b++) {
                double v = (double)bits_float(field_at(&f, b, x, y));
                least = fmin(least, v);
                most = fmax(most, v);
            }
    double off = 20 * log10((f.high - f.low) / (most - least)), found = check_field(&f, 40);
    print_message("asked for 40 dB, found %.3f\n", found - off);
    assert_true(fabs(found - off - 40) < 0.1);
}

static void arguments(void **state)
{
    field f = make_field(NSVQ_TYPE_F32, 1, 0, 1);
    nsvq_raster raster = {.struct_size = sizeof raster, .user = &f, .width = 9, .height = 9, .n_bands = 1,
                          .bands = f.bands, .read = field_read};
    nsvq_encode_options opt = {.struct_size = sizeof opt};
    blob b = {0};
    nsvq_sink sink = blob_sink(&b);
    nsvq_error err;

    f.bands[0].has_range = 1;
    for (int i = 0; i < 3; i++) {
        f.bands[0].type = i < 2 ? NSVQ_TYPE_F32 : NSVQ_TYPE_U16;
        f.bands[0].low = i == 0 ? float_bits(2) : 0;
        f.bands[0].high = i == 0 ? float_bits(1) : i == 1 ? float_bits(INFINITY) : 65536;
        assert_int_equal(nsvq_encode(&sink, &raster, &opt, NULL, &err), NSVQ_E_ARG);
        assert_int_equal(b.size, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arithmetic), cmocka_unit_test(known_bits), cmocka_unit_test(nodata_is_avoided),
        cmocka_unit_test(values_of_all_kinds), cmocka_unit_test(constants), cmocka_unit_test(what_is_odd_is_exact),
        cmocka_unit_test(masked_samples), cmocka_unit_test(given_range), cmocka_unit_test(groups),
        cmocka_unit_test(wanted_psnr), cmocka_unit_test(arguments)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
