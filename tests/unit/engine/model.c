/* model.c - the model's checks, its file, its id, SHA-256. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <zlib.h>

#include "check.h"
#include "engine.h"
#include "model/io.h"
#include "model/sha256.h"
#include "testmodel.h"

#define ALL (NSVQ_STORE_ANALYSIS | NSVQ_STORE_CARD | NSVQ_STORE_MASTER)
#define HEADER_BYTES 20
#define PART_BYTES 20

static void sha256_of_known_texts(void **state)
{
    static const uint8_t abc[8] = {0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea};
    static const uint8_t none[8] = {0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14};
    static const uint8_t two[8] = {0x24, 0x8d, 0x6a, 0x61, 0xd2, 0x06, 0x38, 0xb8};
    static const char text[] = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    nsvq_sha256 h;
    uint8_t digest[32];

    nsvq_sha256_init(&h);
    nsvq_sha256_add(&h, "abc", 3);
    nsvq_sha256_end(&h, digest);
    assert_memory_equal(digest, abc, 8);
    nsvq_sha256_init(&h);
    nsvq_sha256_end(&h, digest);
    assert_memory_equal(digest, none, 8);
    nsvq_sha256_init(&h);
    for (size_t i = 0; i < 56; i++) nsvq_sha256_add(&h, text + i, 1);
    nsvq_sha256_end(&h, digest);
    assert_memory_equal(digest, two, 8);
}

static void same_layer(const nsvq_layer *a, const nsvq_layer *b)
{
    size_t n =
        a->kind == NSVQ_LAYER_DEPTHWISE ? (size_t)a->k * a->k * a->cin : (size_t)a->cin * a->cout;
    assert_int_equal(a->kind, b->kind);
    assert_int_equal(a->in_type, b->in_type);
    assert_int_equal(a->out_type, b->out_type);
    assert_int_equal(a->k, b->k);
    assert_int_equal(a->rep, b->rep);
    assert_int_equal(a->cin, b->cin);
    assert_int_equal(a->cout, b->cout);
    if (!a->wt) return assert_null(b->wt);
    assert_memory_equal(a->wt, b->wt, n);
    assert_memory_equal(a->bias, b->bias, a->cout * sizeof *a->bias);
    assert_memory_equal(a->shift, b->shift, a->cout);
    assert_memory_equal(a->mul, b->mul, a->cout * sizeof *a->mul);
}

static void same_net(const nsvq_net *a, const nsvq_net *b)
{
    assert_int_equal(a->n_layers, b->n_layers);
    assert_int_equal(a->output, b->output);
    for (int i = 0; i < a->n_layers; i++) {
        same_layer(&a->layer[i], &b->layer[i]);
        assert_int_equal(a->layer[i].src, b->layer[i].src);
        assert_int_equal(a->layer[i].dst, b->layer[i].dst);
        assert_int_equal(a->layer[i].res, b->layer[i].res);
    }
}

static void same_tables(const uint8_t *const a[2], const uint8_t *const b[2], const uint16_t *freq_a,
                        const uint16_t *freq_b, size_t n)
{
    for (int i = 0; i < 2; i++) assert_memory_equal(a[i], b[i], n);
    assert_memory_equal(freq_a, freq_b, n * NSVQ_CLASS_SYMBOLS * sizeof *freq_a);
}

static void same_hyper(const nsvq_model_desc *a, const nsvq_model_desc *b)
{
    const nsvq_hyper *x = &a->hyper, *y = &b->hyper;
    size_t n = (size_t)NSVQ_N_GAINS * (a->latent + x->z);

    same_net(&x->synthesis, &y->synthesis);
    same_layer(&x->scale, &y->scale);
    same_layer(&x->base, &y->base);
    for (int i = 1; i < NSVQ_N_PASSES; i++) same_layer(&x->mean[i], &y->mean[i]);
    assert_int_equal(x->first_class, y->first_class);
    assert_memory_equal(x->gain, y->gain, n * sizeof *x->gain);
    same_tables((const uint8_t *[2]){x->shift, x->half}, (const uint8_t *[2]){y->shift, y->half}, x->freq,
                y->freq, NSVQ_N_CLASSES);
    assert_int_equal(!x->pass_gain, !y->pass_gain);
    if (x->pass_gain)
        assert_memory_equal(x->pass_gain, y->pass_gain, NSVQ_N_PASSES * a->latent * sizeof *x->pass_gain);
    assert_int_equal(!x->trellis.freq, !y->trellis.freq);
    if (x->trellis.freq)
        same_tables((const uint8_t *[2]){x->trellis.shift, x->trellis.half},
                    (const uint8_t *[2]){y->trellis.shift, y->trellis.half}, x->trellis.freq, y->trellis.freq,
                    2 * NSVQ_N_CLASSES);
}

static void same_model(const nsvq_model_desc *a, const nsvq_model_desc *b)
{
    size_t n = (size_t)a->n_slices * a->n_codes;
    assert_string_equal(a->name, b->name);
    assert_int_equal(a->family, b->family);
    assert_int_equal(a->lambda50, b->lambda50);
    same_net(&a->synthesis, &b->synthesis);
    if (a->family == NSVQ_FAMILY_HYPER) return same_hyper(a, b);
    assert_int_equal(a->n_slices, b->n_slices);
    assert_int_equal(a->dim, b->dim);
    assert_int_equal(a->n_codes, b->n_codes);
    assert_memory_equal(a->codes, b->codes, n * a->dim * sizeof *a->codes);
    assert_memory_equal(a->prior.member, b->prior.member, n * sizeof *a->prior.member);
    assert_memory_equal(a->seed_channel, b->seed_channel, sizeof a->seed_channel);
    assert_int_equal(a->seed_shift, b->seed_shift);
    for (int i = 0; i < NSVQ_N_PASSES; i++) {
        same_layer(&a->prior.mean[i], &b->prior.mean[i]);
        same_layer(&a->prior.ctx[i], &b->prior.ctx[i]);
    }
    for (int s = 0; s < a->n_slices; s++) {
        same_layer(&a->prior.prev[s], &b->prior.prev[s]);
        same_layer(&a->prior.logit[s], &b->prior.logit[s]);
        same_layer(&a->prior.shiftm[s], &b->prior.shiftm[s]);
    }
}

static void add_tail(nsvq_model_desc *m)
{
    static const char card[] = "seed 1, steps 0";
    m->card_bytes = sizeof card - 1;
    m->master_bytes = 5000;
    m->card = malloc(m->card_bytes);
    m->master = malloc(m->master_bytes);
    assert_true(m->card && m->master);
    memcpy(m->card, card, m->card_bytes);
    for (size_t i = 0; i < m->master_bytes; i++) m->master[i] = (uint8_t)(i * i >> 3);
}

static void store_then_load(testmodel_shape shape)
{
    nsvq_model_desc m, back;
    size_t size, again_size;
    const char *why;

    assert_true(testmodel_make(&m, shape, 11));
    assert_null(nsvq_model_check(&m));
    add_tail(&m);
    uint8_t *bytes = nsvq_model_store(&m, ALL, &size);
    assert_non_null(bytes);
    assert_int_equal(nsvq_model_load(&back, bytes, size, &why), 0);
    same_model(&m, &back);
    assert_int_equal(back.has_analysis, 1);
    same_net(&m.analysis, &back.analysis);
    assert_int_equal(back.card_bytes, m.card_bytes);
    assert_memory_equal(back.card, m.card, m.card_bytes);
    assert_int_equal(back.master_bytes, m.master_bytes);
    assert_memory_equal(back.master, m.master, m.master_bytes);

    uint8_t *again = nsvq_model_store(&back, ALL, &again_size);
    assert_int_equal(again_size, size);
    assert_memory_equal(again, bytes, size);
    free(again);
    free(bytes);
    nsvq_model_free(&m);
    nsvq_model_free(&back);
}

static void stored_models_load(void **state)
{
    store_then_load(TESTMODEL_SMALL);
    store_then_load(TESTMODEL_SHIPPED);
    store_then_load(TESTMODEL_HYPER8);
    store_then_load(TESTMODEL_TRELLIS);
}

static void id_ignores_optional_parts(void **state)
{
    nsvq_model_desc m, back;
    size_t size;

    assert_true(testmodel_make(&m, TESTMODEL_SMALL, 12));
    uint64_t id = nsvq_model_id(&m);
    add_tail(&m);
    assert_true(nsvq_model_id(&m) == id);
    for (unsigned keep = 0; keep <= ALL; keep++) {
        uint8_t *bytes = nsvq_model_store(&m, keep, &size);
        assert_int_equal(nsvq_model_load(&back, bytes, size, NULL), 0);
        assert_true(nsvq_model_id(&back) == id);
        assert_int_equal(back.has_analysis, keep & NSVQ_STORE_ANALYSIS ? 1 : 0);
        assert_int_equal(back.card != NULL, keep & NSVQ_STORE_CARD ? 1 : 0);
        assert_int_equal(back.master != NULL, keep & NSVQ_STORE_MASTER ? 1 : 0);
        nsvq_model_free(&back);
        free(bytes);
    }
    m.codes[3] ^= 1;
    assert_true(nsvq_model_id(&m) != id);
    m.codes[3] ^= 1;
    m.synthesis.layer[0].bias[2]++;
    assert_true(nsvq_model_id(&m) != id);
    m.synthesis.layer[0].bias[2]--;
    m.analysis.layer[0].bias[2]++;
    assert_true(nsvq_model_id(&m) == id);
    nsvq_model_free(&m);
}

/* ---- damage ---- */

/* A copy that ends where its allocation ends, so that the sanitizer sees any overrun. */
static int load_copy(nsvq_model_desc *m, const uint8_t *bytes, size_t size)
{
    const char *why = NULL;
    uint8_t *copy = malloc(size ? size : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, size);
    int st = nsvq_model_load(m, size ? copy : copy + 1, size, &why);
    free(copy);
    assert_true(st == 0 || why);
    return st;
}

static void cut_or_flipped_files_are_refused(void **state)
{
    nsvq_model_desc m, back;
    size_t size;

    assert_true(testmodel_make(&m, TESTMODEL_SMALL, 13));
    uint8_t *bytes = nsvq_model_store(&m, ALL, &size);
    for (size_t n = 0; n < size; n += n < 400 ? 1 : 37) assert_true(load_copy(&back, bytes, n) < 0);
    for (size_t i = 0; i < size; i += i < 400 ? 1 : 23) {
        uint8_t bit = (uint8_t)(1 << i % 8);
        bytes[i] ^= bit;
        assert_true(load_copy(&back, bytes, size) < 0);
        bytes[i] ^= bit;
    }
    assert_int_equal(load_copy(&back, bytes, size), 0);
    nsvq_model_free(&back);
    free(bytes);
    nsvq_model_free(&m);
}

static uint32_t crc_of(const uint8_t *p, size_t n)
{
    return (uint32_t)crc32(crc32(0, NULL, 0), p, (uInt)n);
}

/* The same file with every part inflated; sums are left to reseal(). */
static uint8_t *inflate_parts(const uint8_t *file, size_t size, size_t *out_size)
{
    uint8_t *out = malloc(size * 70), *to = out + HEADER_BYTES;
    assert_non_null(out);
    memcpy(out, file, HEADER_BYTES);
    for (const uint8_t *p = file + HEADER_BYTES; p < file + size;) {
        uint32_t n = io_get(p + 8, 4), plain = io_get(p + 12, 4);
        uLongf got = plain;
        memcpy(to, p, PART_BYTES);
        io_put(to + 6, 2, 0);
        io_put(to + 8, 4, plain);
        if (io_get(p + 6, 2))
            assert_int_equal(uncompress(to + PART_BYTES, &got, p + PART_BYTES, n), Z_OK);
        else
            memcpy(to + PART_BYTES, p + PART_BYTES, n);
        to += PART_BYTES + plain;
        p += PART_BYTES + n;
    }
    *out_size = (size_t)(to - out);
    return out;
}

static void reseal(uint8_t *file, size_t size)
{
    io_put(file + 12, 4, (uint32_t)size);
    io_put(file + 16, 4, crc_of(file, HEADER_BYTES - 4));
    for (uint8_t *p = file + HEADER_BYTES; file + size - p >= PART_BYTES;) {
        size_t n = io_get(p + 8, 4), left = (size_t)(file + size - p) - PART_BYTES;
        if (n > left) return;
        uLong crc = crc32(crc32(0, NULL, 0), p, PART_BYTES - 4);
        io_put(p + 16, 4, (uint32_t)crc32(crc, p + PART_BYTES, (uInt)n));
        p += PART_BYTES + n;
    }
}

/* Parts of a file in another order: order[i] is the number of the part that comes i-th. */
static uint8_t *reordered(const uint8_t *file, size_t size, const int *order, int n, size_t *out_size)
{
    const uint8_t *part[16], *p = file + HEADER_BYTES;
    uint8_t *out = calloc(2, size), *to = out + HEADER_BYTES;

    assert_non_null(out);
    for (int i = 0; p < file + size; p += PART_BYTES + io_get(p + 8, 4)) part[i++] = p;
    memcpy(out, file, HEADER_BYTES);
    for (int i = 0; i < n; i++) {
        size_t bytes = PART_BYTES + io_get(part[order[i]] + 8, 4);
        memcpy(to, part[order[i]], bytes);
        to += bytes;
    }
    *out_size = (size_t)(to - out);
    io_put(out + 10, 2, (uint32_t)n);
    reseal(out, *out_size);
    return out;
}

static int load_order(const uint8_t *file, size_t size, const int *order, int n)
{
    nsvq_model_desc back;
    size_t got;
    uint8_t *bytes = reordered(file, size, order, n, &got);
    int st = load_copy(&back, bytes, got);

    if (st == 0) nsvq_model_free(&back);
    free(bytes);
    return st;
}

/* HEAD SYNT HYPR TREL PASS ANAL HYPA: a model may do without TREL and without PASS, which then is another one; their
 * places, family and flags are given. A reader that does not know a tag refuses it. */
static void spare_parts_are_checked(void **state)
{
    static const struct { int order[8], n, status; } orders[] = {
        {{0, 1, 2, 3, 4, 5, 6}, 7, 0},     {{0, 1, 2, 4, 5, 6}, 6, 0},        {{0, 1, 2, 3, 5, 6}, 6, 0},
        {{0, 1, 2, 5, 6}, 5, 0},           {{0, 1, 3, 2, 4, 5, 6}, 7, -2},    {{0, 1, 2, 4, 3, 5, 6}, 7, -2},
        {{0, 1, 2, 3, 5, 4, 6}, 7, -2},    {{0, 1, 3, 4, 5, 6}, 6, -2},       {{0, 1, 2, 3, 3, 4, 5, 6}, 8, -2},
        {{0, 1, 2, 3, 4, 4, 5, 6}, 8, -2},
    };
    static const int *all = orders[0].order, *without = orders[3].order;
    static const int vq[] = {0, 1, 2, 3, 4};
    nsvq_model_desc m, other, back;
    size_t size, other_size;

    assert_true(testmodel_make(&m, TESTMODEL_TRELLIS, 20));
    uint8_t *bytes = nsvq_model_store(&m, ALL, &size);
    for (size_t i = 0; i < sizeof orders / sizeof *orders; i++)
        assert_int_equal(load_order(bytes, size, orders[i].order, orders[i].n), orders[i].status);

    uint64_t id = nsvq_model_id(&m);
    m.hyper.trellis.freq[70 * NSVQ_CLASS_SYMBOLS]++;
    assert_true(nsvq_model_id(&m) != id);
    m.hyper.trellis.freq[70 * NSVQ_CLASS_SYMBOLS]--;
    m.hyper.pass_gain[3]++;
    assert_true(nsvq_model_id(&m) != id);
    m.hyper.pass_gain[3]--;
    assert_true(nsvq_model_id(&m) == id);
    uint8_t *bare = reordered(bytes, size, without, 5, &other_size);
    assert_int_equal(load_copy(&back, bare, other_size), 0);
    assert_null(back.hyper.trellis.freq);
    assert_null(back.hyper.pass_gain);
    assert_true(nsvq_model_id(&back) != id);
    nsvq_model_free(&back);
    free(bare);

    uint8_t *part = bytes + HEADER_BYTES;
    for (int i = 0; i < 3; i++) part += PART_BYTES + io_get(part + 8, 4);
    for (int i = 0; i < 2; i++, part += PART_BYTES + io_get(part + 8, 4)) {
        char last = (char)part[3];
        assert_memory_equal(part, i ? "PASS" : "TREL", 4);
        io_put(part + 4, 2, 1); // optional
        assert_int_equal(load_order(bytes, size, all, 7), -2);
        io_put(part + 4, 2, 0);
        part[3] = 'M'; // a tag of later
        assert_int_equal(load_order(bytes, size, all, 7), -3);
        part[3] = (uint8_t)last;
    }

    assert_true(testmodel_make(&other, TESTMODEL_SMALL, 21)); // HEAD CODE SYNT PRIO ANAL
    uint8_t *small = nsvq_model_store(&other, NSVQ_STORE_ANALYSIS, &other_size);
    part = small + HEADER_BYTES;
    for (int i = 0; i < 4; i++) part += PART_BYTES + io_get(part + 8, 4);
    assert_int_equal(load_order(small, other_size, vq, 5), 0);
    io_put(part + 4, 2, 0);
    for (int i = 0; i < 2; i++) {
        memcpy(part, i ? "PASS" : "TREL", 4);
        assert_int_equal(load_order(small, other_size, vq, 5), -2);
    }
    free(small);
    free(bytes);
    nsvq_model_free(&other);
    nsvq_model_free(&m);
}

/* Whatever loads has to run. */
static void run_model(const nsvq_model_desc *m)
{
    nsvq_kernels k;
    nsvq_engine *e = (nsvq_kernels_init(&k, nsvq_cpu_detect()), nsvq_engine_create(m, &k));
    nsvq_scratch *s = nsvq_scratch_create();
    int n_channels = nsvq_engine_channels(e);
    int16_t *y = calloc((size_t)(12 * n_channels), sizeof *y);
    uint8_t rgb[4 * 16 * 3 * 48], noise[64];
    nsvq_rect all = {0, 0, 4, 3};

    assert_true(e && s && y);
    for (int i = 0; i < 64; i++) noise[i] = (uint8_t)(i * 37 + 8);
    noise[0] = m->family == NSVQ_FAMILY_VQ ? 1 : 100; // lanes; quality
    noise[1] = 2;
    noise[2] = 1;
    int st = nsvq_block_decode(e, s, noise, sizeof noise, 4, 3, 50, y, NULL);
    assert_true(st == 0 || st == -2);
    assert_int_equal(nsvq_engine_synthesise(e, s, y, 4, 3, all, rgb, 4 * 48), 0);
    if (m->has_analysis) assert_int_equal(nsvq_engine_analyse(e, s, rgb, 4 * 48, 4, 3, all, y), 0);
    free(y);
    nsvq_scratch_destroy(s);
    nsvq_engine_destroy(e);
}

/* Damage behind correct checksums: refused, or a model that is sound. */
static void resealed_damage(testmodel_shape shape)
{
    nsvq_model_desc m, back;
    size_t packed_size, size;
    test_rng rng = {99};
    int n_sound = 0, n_refused = 0;

    assert_true(testmodel_make(&m, shape, 14));
    uint8_t *packed = nsvq_model_store(&m, ALL, &packed_size);
    uint8_t *file = inflate_parts(packed, packed_size, &size), *hurt = malloc(size);
    assert_non_null(hurt);
    for (int i = 0; i < 1500; i++) {
        memcpy(hurt, file, size);
        for (int n = test_range(&rng, 1, 3); n > 0; n--) {
            /* half of the hits where shapes stand: heads of the file, its parts and layers */
            uint32_t at = test_rand(&rng) % (uint32_t)(i & 1 ? size : 140);
            hurt[at] = (uint8_t)(test_rand(&rng) >> (i & 2 ? 0 : 5));
        }
        reseal(hurt, size);
        if (load_copy(&back, hurt, size) == 0) {
            run_model(&back);
            nsvq_model_free(&back);
            n_sound++;
        } else {
            n_refused++;
        }
    }
    assert_true(n_sound > 50 && n_refused > 50);
    free(hurt);
    free(file);
    free(packed);
    nsvq_model_free(&m);
}

static void resealed_damage_is_refused_or_sound(void **state)
{
    resealed_damage(TESTMODEL_SMALL);
    resealed_damage(TESTMODEL_TRELLIS);
}

static void deflate_bombs_are_refused(void **state)
{
    nsvq_model_desc m, back;
    size_t size;
    uint8_t *plain = calloc(1, 1 << 20), *bomb = malloc(1 << 18);
    uLongf n = 1 << 15;

    assert_true(plain && bomb && testmodel_make(&m, TESTMODEL_SMALL, 15));
    uint8_t *bytes = nsvq_model_store(&m, 0, &size);
    assert_true(size + PART_BYTES + n < 1 << 18);
    memcpy(bomb, bytes, size);
    uint8_t *part = bomb + size;
    assert_int_equal(compress2(part + PART_BYTES, &n, plain, 1 << 20, 9), Z_OK);
    memcpy(part, "CARD", 4);
    io_put(part + 4, 2, 1);
    io_put(part + 6, 2, 1);
    io_put(part + 8, 4, (uint32_t)n);
    io_put(part + 12, 4, 1 << 20);
    io_put(bomb + 10, 2, io_get(bomb + 10, 2) + 1);
    reseal(bomb, size + PART_BYTES + n);
    assert_int_equal(load_copy(&back, bomb, size + PART_BYTES + n), -2);

    memcpy(part, "WHAT", 4); // an optional part that nobody knows is skipped
    reseal(bomb, size + PART_BYTES + n);
    assert_int_equal(load_copy(&back, bomb, size + PART_BYTES + n), 0);
    nsvq_model_free(&back);
    io_put(part + 4, 2, 0); // a mandatory one is not
    reseal(bomb, size + PART_BYTES + n);
    assert_int_equal(load_copy(&back, bomb, size + PART_BYTES + n), -3);
    free(plain);
    free(bomb);
    free(bytes);
    nsvq_model_free(&m);
}

/* ---- unsound models ---- */

static void must_fail(nsvq_model_desc *m, const char *what)
{
    const char *why = nsvq_model_check(m);
    if (!why) fail_msg("accepted: %s", what);
}

/* Sets an integer, expects a refusal, sets it back. */
#define REFUSED(field, value)                                                                      \
    do {                                                                                           \
        __typeof__(field) before = (field);                                                        \
        (field) = (value);                                                                         \
        must_fail(&m, #field " = " #value);                                                        \
        (field) = before;                                                                          \
    } while (0)

static void unsound_tables_are_refused(void **state)
{
    nsvq_model_desc m;

    assert_true(testmodel_make(&m, TESTMODEL_TRELLIS, 17));
    nsvq_trellis *t = &m.hyper.trellis;
    assert_null(nsvq_model_check(&m));
    REFUSED(m.hyper.first_class, NSVQ_N_CLASSES);
    REFUSED(m.hyper.pass_gain[0], 2049);
    REFUSED(m.hyper.pass_gain[NSVQ_N_PASSES * m.latent - 1], -2049);
    REFUSED(m.hyper.shift[63], 13);
    REFUSED(m.hyper.freq[0], 0);
    REFUSED(t->shift[127], 13);
    REFUSED(t->half[127], 32);
    REFUSED(t->half[127], (uint8_t)(t->half[127] - 1));
    REFUSED(t->freq[64 * NSVQ_CLASS_SYMBOLS], 0);
    REFUSED(t->freq[64 * NSVQ_CLASS_SYMBOLS], (uint16_t)(t->freq[64 * NSVQ_CLASS_SYMBOLS] + 1));
    REFUSED(t->freq[65 * NSVQ_CLASS_SYMBOLS - 1], 1);
    REFUSED(t->freq, NULL);
    REFUSED(t->half, NULL);
    assert_null(nsvq_model_check(&m));
    nsvq_model_free(&m);
}

static void unsound_models_are_refused(void **state)
{
    nsvq_model_desc m;

    assert_true(testmodel_make(&m, TESTMODEL_SMALL, 16));
    nsvq_layer *pw = &m.synthesis.layer[0], *dw = &m.synthesis.layer[1];
    nsvq_layer *res = &m.synthesis.layer[2], *last = &m.synthesis.layer[m.synthesis.n_layers - 1];
    REFUSED(m.name[0], 0);
    REFUSED(m.name[31], 'x');
    REFUSED(m.n_slices, 0);
    REFUSED(m.n_slices, 9);
    REFUSED(m.dim, 6);
    REFUSED(m.dim, 64);
    REFUSED(m.n_codes, 100);
    REFUSED(m.n_codes, 8192);
    REFUSED(m.codes[5], 4096);
    REFUSED(m.codes[5], -4096);
    REFUSED(m.seed_channel[2], 16);
    REFUSED(m.seed_shift, 7);
    REFUSED(pw->shift[0], 25);
    REFUSED(pw->mul[1], -1);
    REFUSED(pw->bias[0], INT32_MAX);
    REFUSED(pw->bias[0], INT32_MIN);
    REFUSED(pw->src, 1);
    REFUSED(pw->src, 64);
    REFUSED(pw->dst, 0);
    REFUSED(pw->kind, 4);
    REFUSED(pw->cin, 8);
    REFUSED(pw->cout, 16);
    REFUSED(pw->rep, 2);
    REFUSED(pw->in_type, NSVQ_U8);
    REFUSED(pw->out_type, NSVQ_U8);
    REFUSED(dw->k, 7);
    REFUSED(dw->out_type, NSVQ_S16);
    REFUSED(dw->res, 1);
    REFUSED(dw->bias[3], INT32_MAX - 1000);
    REFUSED(res->res, 0);
    REFUSED(res->res, 63);
    REFUSED(last->out_type, NSVQ_U8);
    REFUSED(m.synthesis.output, 0);
    REFUSED(m.synthesis.output, 2);
    REFUSED(m.synthesis.n_layers, 0);
    REFUSED(m.synthesis.n_layers, 65);
    REFUSED(m.analysis.layer[0].cout, 15);
    REFUSED(m.analysis.layer[3].k, 3);
    REFUSED(m.prior.hidden, 22);
    REFUSED(m.prior.member[7], 0);
    REFUSED(m.prior.member[7], (uint16_t)(m.prior.member[7] + 1));
    REFUSED(m.prior.mean[4].cin, 64);
    REFUSED(m.prior.prev[1].out_type, NSVQ_S16);
    REFUSED(m.prior.logit[1].bias[0], INT32_MAX);
    REFUSED(m.prior.shiftm[0].wt, NULL);
    assert_null(nsvq_model_check(&m));
    nsvq_model_free(&m);
}

/* Behind the first block comes a chain of n layers. A residual is what the layer before read. */
static nsvq_net spliced(const nsvq_net *from, const nsvq_layer *chain, int n)
{
    nsvq_net net = *from;

    for (int i = 3; i < from->n_layers; i++) {
        nsvq_layer *l = &net.layer[i + n];
        *l = from->layer[i];
        l->src = (uint8_t)(l->src < 3 ? l->src : l->src + n);
        l->dst = (uint8_t)(l->dst + n);
        if (l->res != NSVQ_NO_REGISTER) l->res = (uint8_t)(l->res + n);
    }
    for (int i = 0; i < n; i++) {
        nsvq_layer *l = &net.layer[3 + i];
        *l = chain[i];
        l->src = (uint8_t)(3 + i);
        l->dst = (uint8_t)(4 + i);
        if (l->res != NSVQ_NO_REGISTER) l->res = (uint8_t)(2 + i);
    }
    net.n_layers = (uint8_t)(from->n_layers + n);
    net.output = (uint8_t)(from->output + n);
    return net;
}

static void check_splice(const nsvq_model_desc *m, const nsvq_layer *chain, int n, const char *refused)
{
    nsvq_model_desc longer = *m;

    longer.synthesis = spliced(&m->synthesis, chain, n);
    const char *why = nsvq_model_check(&longer);
    if (refused ? !why || strcmp(why, refused) != 0 : why != NULL)
        fail_msg("%d layers more: %s", n, why ? why : "accepted");
}

static void reach_is_limited(void **state)
{
    static int8_t taps[25 * 32];
    nsvq_layer chain[30];
    nsvq_model_desc m;

    assert_true(testmodel_make(&m, TESTMODEL_SMALL, 17));
    for (int i = 0; i < 30; i++) chain[i] = m.synthesis.layer[1 + i % 2];
    for (int i = 0; i < 30; i += 2) {
        chain[i].k = 5;
        chain[i].wt = taps;
    }
    check_splice(&m, chain, 28, NULL); // 3 * 16 + 14 * 32 = 496 pixels
    check_splice(&m, chain, 30, "layer that reaches beyond a block");
    nsvq_model_free(&m);
}

static void work_is_limited(void **state)
{
    static int8_t wt[2048 * 2048];
    static int32_t bias[2048];
    static uint8_t shift[2048];
    static int16_t mul[2048];
    nsvq_layer chain[10];
    nsvq_model_desc m;

    assert_true(testmodel_make(&m, TESTMODEL_SMALL, 18));
    for (int i = 0; i < 10; i++)
        chain[i] = (nsvq_layer){.kind = NSVQ_LAYER_POINTWISE, .res = NSVQ_NO_REGISTER,
                                .in_type = NSVQ_S16, .out_type = NSVQ_S16, .k = 1, .rep = 1,
                                .cin = 2048, .cout = 2048, .wt = wt, .bias = bias, .shift = shift,
                                .mul = mul};
    chain[0].cin = 32;
    chain[8].cout = chain[9].cout = 32;
    check_splice(&m, chain, 9, NULL); // 7 * 2^22 and little more
    chain[8].cout = 2048;
    check_splice(&m, chain, 10, "network: too much work per pixel"); // 8 * 2^22 and little more
    nsvq_model_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sha256_of_known_texts),
        cmocka_unit_test(stored_models_load),
        cmocka_unit_test(id_ignores_optional_parts),
        cmocka_unit_test(cut_or_flipped_files_are_refused),
        cmocka_unit_test(resealed_damage_is_refused_or_sound),
        cmocka_unit_test(reach_is_limited),
        cmocka_unit_test(work_is_limited),
        cmocka_unit_test(deflate_bombs_are_refused),
        cmocka_unit_test(unsound_models_are_refused),
        cmocka_unit_test(unsound_tables_are_refused),
        cmocka_unit_test(spare_parts_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
