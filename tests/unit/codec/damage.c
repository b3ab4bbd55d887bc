/* damage.c - files that are cut, flipped, absurd, or of another version: always a clear error or the
 * same pixels, and what is undamaged stays readable. */
#include <stdio.h>
#include <unistd.h>

#include "codec.h"
#include "join.h"
#include "support.h"

/* Every kind of part in few bytes: two groups, masks, an exact band, metadata, two blocks a group. */
static blob small_file(picture *p)
{
    static const nsvq_meta meta[] = {{NSVQ_META_DESCRIPTION, 1, 9, "something"},
                                     {NSVQ_META_NODATA, 1, 8, "\0\0\0\0\0\0\0\0"}};
    nsvq_raster raster;
    nsvq_encode_options opt = {.struct_size = sizeof opt, .model = test_model(), .embed = 2};
    blob b = {0};
    nsvq_sink sink = blob_sink(&b);
    nsvq_error err;

    *p = picture_make(530, 20, 4, 1);
    for (uint32_t i = 0; i < 3; i++) p->bands[i] = (nsvq_band){.has_nodata = 1, .nodata = 0};
    p->bands[3].exact = 1;
    p->has_mask = true;
    picture_punch(p, 1, 0);
    picture_punch(p, 4, 0);
    raster = picture_raster(p);
    raster.meta = meta;
    raster.n_meta = 2;
    assert_ok(nsvq_encode(&sink, &raster, &opt, NULL, &err), err);
    return b;
}

/* All that can be read of a file: pixels, mask, metadata. */
typedef struct content {
    uint8_t *bytes;
    size_t size;
} content;

static nsvq_status read_content(blob *b, const picture *p, content *c, nsvq_error *err)
{
    nsvq_open_options opt = {.struct_size = sizeof opt, .model = test_model()};
    nsvq_source src = blob_source(b);
    size_t n = (size_t)p->w * p->h;
    nsvq_file *f;
    nsvq_meta m;
    nsvq_status st = nsvq_open(&f, &src, &opt, err);
    wr out = {0};

    *c = (content){0};
    if (st != NSVQ_OK) {
        assert_null(f);
        return st;
    }
    for (size_t i = 0; nsvq_meta_get(f, i, &m) == NSVQ_OK; i++) {
        wr_le(&out, m.tag, 2);
        wr_le(&out, m.band, 2);
        wr_bytes(&out, m.data, m.size);
    }
    uint8_t *px = wr_room(&out, n * (p->n + 1));
    assert_non_null(px);
    st = read_window(f, 1, 0, 0, p->w, p->h, px, err);
    if (st == NSVQ_OK) st = read_mask_window(f, 0, 0, p->w, p->h, px + n * p->n, err);
    nsvq_close(f);
    *c = (content){out.p, out.size};
    return st;
}

static void truncation(void **state)
{
    picture p;
    blob b = small_file(&p);
    nsvq_error err;
    content c;

    for (size_t size = 0; size < b.size; size++) {
        uint8_t *copy = malloc(size ? size : 1); // exact, so that a sanitiser sees reads past it
        assert_non_null(copy);
        memcpy(copy, b.p, size);
        blob cut = {.p = copy, .size = size};
        err.text[0] = 0;
        assert_int_equal(read_content(&cut, &p, &c, &err), NSVQ_E_CORRUPT);
        assert_true(err.text[0] != 0);
        free(copy);
    }
    blob_free(&b);
    picture_free(&p);
}

static void flips(void **state)
{
    picture p;
    blob b = small_file(&p);
    content whole, c;
    nsvq_error err;
    size_t n_failed = 0, n_same = 0;

    assert_ok(read_content(&b, &p, &whole, &err), err);
    for (size_t i = 0; i < b.size; i++)
        for (int k = 0; k < 2; k++) {
            uint8_t flip = k ? 0xff : (uint8_t)(1 << i % 8);
            b.p[i] ^= flip;
            err.text[0] = 0;
            nsvq_status st = read_content(&b, &p, &c, &err);
            if (st == NSVQ_OK) {
                assert_int_equal(c.size, whole.size);
                assert_memory_equal(c.bytes, whole.bytes, c.size);
                n_same++;
            } else {
                if (st != NSVQ_E_CORRUPT && st != NSVQ_E_UNSUPPORTED)
                    fail_msg("byte %zu: status %d, %s", i, st, err.text);
                assert_true(err.text[0] != 0);
                n_failed++;
            }
            free(c.bytes);
            b.p[i] ^= flip;
        }
    print_message("%zu flips: %zu fail, %zu change nothing\n", n_failed + n_same, n_failed, n_same);
    free(whole.bytes);
    blob_free(&b);
    picture_free(&p);
}

/* ---- what is undamaged stays readable ---- */

static bool overlaps(uint32_t a0, uint32_t a1, uint32_t b0, uint32_t b1)
{
    return a0 < b1 && b0 < a1;
}

/* Does the window reach into block (bx, by) when it is grown by `halo` latents? */
static bool reaches(uint32_t x, uint32_t y, uint32_t w, uint32_t h, uint32_t bx, uint32_t by,
                    uint32_t halo)
{
    uint32_t s = test_model()->desc.stride;
    uint32_t x0 = x / s, y0 = y / s, x1 = (x + w + s - 1) / s, y1 = (y + h + s - 1) / s;

    uint32_t n = NSVQ_BLOCK / s;

    return overlaps(x0 < halo ? 0 : x0 - halo, x1 + halo, n * bx, n * bx + n) &&
           overlaps(y0 < halo ? 0 : y0 - halo, y1 + halo, n * by, n * by + n);
}

/* Random windows fail when and only when they depend on the block whose byte is flipped. */
static void check_locality(nsvq_file *f, const picture *p, const uint8_t *whole, uint32_t bx,
                           uint32_t by, uint32_t halo, test_rng *rng)
{
    uint8_t *px = malloc((size_t)p->w * p->h * p->n);
    nsvq_error err;

    assert_non_null(px);
    for (int i = 0; i < 30; i++) {
        // corners near those of blocks, where the halo decides
        uint32_t x = test_rand(rng) % p->w, y = test_rand(rng) % p->h;
        if (i % 2) {
            x = (uint32_t)test_range(rng, 0, (int)p->w / 512) * 512 + (uint32_t)test_range(rng, 0, 80);
            y = (uint32_t)test_range(rng, 0, (int)p->h / 512) * 512 + (uint32_t)test_range(rng, 0, 80);
            x = x < p->w ? x : p->w - 1;
            y = y < p->h ? y : p->h - 1;
        }
        uint32_t w = 1 + test_rand(rng) % (p->w - x), h = 1 + test_rand(rng) % (p->h - y);
        if (i % 3) {
            w = w < 60 ? w : 60;
            h = h < 60 ? h : 60;
        }
        nsvq_status st = read_window(f, 1 + i % 2, x, y, w, h, px, &err);
        bool depends = reaches(x, y, w, h, bx, by, halo);
        if (st != (depends ? NSVQ_E_CORRUPT : NSVQ_OK))
            fail_msg("(%u, %u) %u x %u: status %d (%s), depends on (%u, %u): %d", x, y, w, h, st,
                     err.text, bx, by, depends);
        for (uint32_t r = 0; r < h && st == NSVQ_OK; r++)
            assert_memory_equal(px + (size_t)r * w * p->n,
                                whole + ((size_t)(y + r) * p->w + x) * p->n, (size_t)w * p->n);
    }
    free(px);
}

static void locality(void **state)
{
    bool vq = test_model()->desc.family == NSVQ_FAMILY_VQ;
    uint32_t halo = (uint32_t)nsvq_engine_synthesis_halo(test_model()->engine) + (vq ? JOIN_REACH : 0);
    picture p = picture_make(1700, 1100, 3, 2);
    blob b = encode(&p, 2, 2);
    nsvq_file *f = open_blob(&b);
    uint8_t *whole = read_all(f, 2);
    uint64_t offset, size;
    test_rng rng = {8};
    nsvq_error err;

    assert_in_range(halo, 1, 31);
    nsvq_close(f);
    for (uint32_t by = 0; by < 3; by++)
        for (uint32_t bx = 0; bx < 4; bx++) {
            f = open_blob(&b);
            assert_ok(nsvq_block_get(f, 0, bx, by, 0, &offset, &size, &err), err);
            size_t at = (size_t)offset + test_rand(&rng) % size;
            b.p[at] ^= 0x40;
            check_locality(f, &p, whole, bx, by, halo, &rng);
            b.p[at] ^= 0x40;
            nsvq_close(f);
        }
    free(whole);
    blob_free(&b);
    picture_free(&p);
}

/* A damaged mask hurts its own block only; neighbours use the latents behind it. And blocks that are
 * not stored need no neighbours. */
static void mask_damage(void **state)
{
    picture p = picture_make(1500, 500, 3, 3);
    uint64_t offset, size;
    nsvq_error err;
    uint8_t *px = malloc((size_t)p.w * p.h * p.n);

    assert_non_null(px);
    for (uint32_t i = 0; i < 3; i++) {
        p.bands[i] = (nsvq_band){.has_nodata = 1, .nodata = 0};
        picture_fill(&p, i, 0, 1024, 0, p.w - 1024, p.h);
    }
    picture_punch(&p, 0, 0);
    blob b = encode(&p, 1, 2);
    nsvq_file *f = open_blob(&b);
    assert_ok(nsvq_block_get(f, 0, 0, 0, 0, &offset, &size, &err), err);
    b.p[offset + 10] ^= 1; // flags, size (2), checksum (4), mask
    assert_ok(read_window(f, 1, 512, 0, 300, 500, px, &err), err);
    assert_int_equal(read_window(f, 1, 500, 0, 300, 500, px, &err), NSVQ_E_CORRUPT);
    assert_non_null(strstr(err.text, "block (0, 0) of group 0"));
    assert_non_null(strstr(err.text, "mask layer"));
    assert_true(err.offset == offset);
    nsvq_close(f);

    f = open_blob(&b);
    assert_ok(nsvq_block_get(f, 0, 1, 0, 0, &offset, &size, &err), err);
    b.p[offset + size - 1] ^= 1;
    assert_ok(read_window(f, 1, 1024, 0, 400, 500, px, &err), err);
    assert_int_equal(read_window(f, 1, 1000, 0, 400, 500, px, &err), NSVQ_E_CORRUPT);
    assert_non_null(strstr(err.text, "block (1, 0) of group 0"));
    nsvq_close(f);
    free(px);
    blob_free(&b);
    picture_free(&p);
}

/* So does a damaged exact layer of a lossy block. */
static void exact_damage(void **state)
{
    picture p = picture_make(1500, 300, 1, 3);
    uint64_t offset, size;
    nsvq_error err;
    uint8_t *px = malloc((size_t)p.w * p.h * 4);

    assert_non_null(px);
    p.bands[0].type = NSVQ_TYPE_F32;
    picture_fill(&p, 0, PICTURE_ODD, 0, 0, 60, 60);
    blob b = encode(&p, 1, 2);
    nsvq_file *f = open_blob(&b);
    assert_ok(nsvq_block_get(f, 0, 0, 0, 0, &offset, &size, &err), err);
    assert_int_equal(b.p[offset], PART_BASE | PART_EXACT);
    b.p[offset + size - 1] ^= 1;
    nsvq_window w = {.struct_size = sizeof w, .x = 512, .w = 300, .h = 300, .n_bands = 1, .pixels = px,
                     .pixel_stride = 4, .row_stride = 4 * 300};
    nsvq_decoder *d;
    assert_ok(nsvq_decoder_create(&d, f, 1, &err), err);
    assert_ok(nsvq_read(d, &w, &err), err);
    w.x = 500;
    assert_int_equal(nsvq_read(d, &w, &err), NSVQ_E_CORRUPT);
    assert_non_null(strstr(err.text, "block (0, 0) of group 0"));
    assert_non_null(strstr(err.text, "exact layer"));
    nsvq_decoder_destroy(d);
    nsvq_close(f);
    free(px);
    blob_free(&b);
    picture_free(&p);
}

/* 600 blocks, two pages: damage of one leaves the blocks of the other. */
static void index_damage(void **state)
{
    picture p = picture_make(600 * 512, 1, 1, 4);
    uint8_t *px = malloc(p.w);
    nsvq_error err;

    assert_non_null(px);
    p.bands[0].exact = 1;
    blob b = encode(&p, 1, 2);
    nsvq_file *f = open_blob(&b);
    uint32_t n;
    uint64_t second = f->h.levels[0].first_page + 1, at = index_page(&f->h, second, &n) + 40;
    assert_int_equal(f->h.n_pages, second + 1);
    assert_int_equal(n, 600 - PAGE_ENTRIES);
    nsvq_close(f);
    b.p[at] ^= 4;
    f = open_blob(&b);
    assert_ok(read_window(f, 1, 0, 0, 512 * 512, 1, px, &err), err);
    assert_memory_equal(px, p.px, 512 * 512);
    assert_int_equal(read_window(f, 1, 512 * 512, 0, 1, 1, px, &err), NSVQ_E_CORRUPT);
    assert_non_null(strstr(err.text, "index page 11"));
    b.p[at] ^= 4; // whoever damaged it repairs it: nothing remembers the failure
    assert_ok(read_window(f, 1, 512 * 512, 0, 1, 1, px, &err), err);
    nsvq_close(f);
    free(px);
    blob_free(&b);
    picture_free(&p);
}

/* ---- absurd headers, with checksums that fit ---- */

/* A file of `size` bytes with the given header behind its prefix and size, rightly sealed. */
static blob sealed(const wr *head, size_t size)
{
    static const uint8_t prefix[] = {0x8e, 'N', 'S', 'V', 'Q', '\r', '\n', 0x1a, 1, 0};
    size_t header_bytes = PREFIX_BYTES + 8 + head->size + SEAL_BYTES;
    blob b = {.p = calloc(1, size), .size = size};
    wr whole = {.p = b.p, .size = header_bytes};

    assert_non_null(b.p);
    assert_true(size >= header_bytes);
    memcpy(b.p, prefix, sizeof prefix);
    put_le(b.p + sizeof prefix, header_bytes, 2);
    memcpy(b.p + PREFIX_BYTES + 8, head->p, head->size);
    header_seal(&whole, size);
    return b;
}

typedef struct absurd {
    uint64_t width, height;
    int log2_block, n_levels;
    uint8_t runs[40];
    int n_runs, run_bytes; /* runs as bytes */
    uint8_t tail[40];      /* model, sections */
    int tail_bytes;
    nsvq_status want;
} absurd;

static const absurd absurds[] = {
    // no pixels, too many pixels, an index larger than the file
    {0, 9, 9, 1, {3, 1, 1, 1}, 1, 4, {0}, 1, NSVQ_E_CORRUPT},
    {9, 0, 9, 1, {3, 1, 1, 1}, 1, 4, {0}, 1, NSVQ_E_CORRUPT},
    {UINT64_C(1) << 31, 9, 9, 1, {3, 1, 1, 1}, 1, 4, {0}, 1, NSVQ_E_CORRUPT},
    {UINT64_MAX, 9, 9, 1, {3, 1, 1, 1}, 1, 4, {0}, 1, NSVQ_E_CORRUPT},
    {MAX_DIMENSION, MAX_DIMENSION, 9, 1, {3, 1, 1, 1}, 1, 4, {0}, 1, NSVQ_E_CORRUPT},
    {100000, 10000, 9, 1, {3, 1, 1, 1}, 1, 4, {0}, 1, NSVQ_E_CORRUPT},
    {MAX_DIMENSION, MAX_DIMENSION, 9, 1, {3, 1, 1, 0x80, 0x80, 1}, 1, 6, {0}, 1, NSVQ_E_CORRUPT},
    // other types, blocks, levels
    {9, 9, 31, 1, {3, 1, 1, 1}, 1, 4, {0}, 1, NSVQ_E_UNSUPPORTED},
    {9, 9, 9, 0, {3, 1, 1, 1}, 1, 4, {0}, 1, NSVQ_E_CORRUPT},
    {9, 9, 9, 2, {3, 1, 1, 1}, 1, 4, {0}, 1, NSVQ_E_CORRUPT},
    {513, 9, 9, 2, {3, 1, 1, 1}, 1, 4, {0}, 1, NSVQ_OK},
    {513, 9, 9, 3, {3, 1, 1, 1}, 1, 4, {0}, 1, NSVQ_E_CORRUPT},
    {9, 9, 9, 255, {3, 1, 1, 1}, 1, 4, {0}, 1, NSVQ_E_CORRUPT},
    // groups: none, of none, unknown, too many, reserved bits, bands behind the mask, a mask alone
    {9, 9, 9, 1, {0}, 0, 0, {0}, 1, NSVQ_E_CORRUPT},
    {9, 9, 9, 1, {3, 1, 1, 0}, 1, 4, {0}, 1, NSVQ_E_CORRUPT},
    {9, 9, 9, 1, {9, 1}, 1, 2, {0}, 1, NSVQ_E_UNSUPPORTED},
    {9, 9, 9, 1, {3, 1, 1, 0xff, 0xff, 0xff, 0xff, 15}, 1, 8, {0}, 1, NSVQ_E_CORRUPT},
    {9, 9, 9, 1, {3, 1, 1, 0x81, 0x80, 1}, 1, 6, {0}, 1, NSVQ_E_CORRUPT},
    {9, 9, 9, 1, {0x23, 1, 1, 1}, 1, 4, {0}, 1, NSVQ_E_CORRUPT},
    {9, 9, 9, 1, {3, 1, 1, 1, 4, 1, 3, 1, 1, 1}, 3, 10, {0}, 1, NSVQ_E_CORRUPT},
    {9, 9, 9, 1, {3, 1, 1, 1, 4, 2}, 2, 6, {0}, 1, NSVQ_E_CORRUPT},
    {9, 9, 9, 1, {4, 1}, 1, 2, {0}, 1, NSVQ_E_CORRUPT},
    // masks of bands: one each, too few, of no bands, of a group that is none
    {9, 9, 9, 1, {3, 1, 2, 1, 0x24, 2}, 2, 6, {0}, 1, NSVQ_OK},
    {9, 9, 9, 1, {3, 1, 2, 1, 0x24, 1}, 2, 6, {0}, 1, NSVQ_E_CORRUPT},
    {9, 9, 9, 1, {0x24, 1}, 1, 2, {0}, 1, NSVQ_E_CORRUPT},
    {9, 9, 9, 1, {3, 1, 2, 1, 0x24, 2, 4, 1}, 3, 8, {0}, 1, NSVQ_E_CORRUPT},
    // exact groups: no type, an unknown one, reserved bits, an odd complex one, one with nodata, too large
    {9, 9, 9, 1, {3, 0, 1, 1}, 1, 4, {0}, 1, NSVQ_E_UNSUPPORTED},
    {9, 9, 9, 1, {3, 11, 1, 1}, 1, 4, {0}, 1, NSVQ_E_UNSUPPORTED},
    {9, 9, 9, 1, {3, 0x21, 1, 1}, 1, 4, {0}, 1, NSVQ_E_UNSUPPORTED},
    {9, 9, 9, 1, {3, 0x13, 1, 1}, 1, 4, {0}, 1, NSVQ_E_UNSUPPORTED},
    {9, 9, 9, 1, {0x13, 0x14, 1, 0, 0, 1}, 1, 6, {0}, 1, NSVQ_E_CORRUPT},
    {9, 9, 9, 1, {3, 1, 65, 1}, 1, 4, {0}, 1, NSVQ_E_CORRUPT},
    {9, 9, 9, 1, {3, 1, 0, 1}, 1, 4, {0}, 1, NSVQ_E_CORRUPT},
    // lossy groups: of no type, of one without lossy coding, S16 without, with a range upside down, F32 up to NaN
    {9, 9, 9, 1, {1, 0, 1}, 1, 3, {0}, 1, NSVQ_E_UNSUPPORTED},
    {9, 9, 9, 1, {2, 6, 1, 0, 0, 0, 0, 0, 0, 0, 0}, 1, 11, {0}, 1, NSVQ_E_UNSUPPORTED},
    {9, 9, 9, 1, {2, 4, 1, 5, 0, 3}, 1, 6, {0}, 1, NSVQ_E_CORRUPT},
    {9, 9, 9, 1, {2, 4, 1, 0, 0, 0xff, 0xff}, 1, 7, {32, 3, 50, 50, 1, 0, 0, 0, 0, 0, 0, 0, 1, 'm', 0}, 15, NSVQ_E_CORRUPT},
    {9, 9, 9, 1, {2, 4, 1, 0xff, 0xff, 0, 0}, 1, 7, {32, 3, 50, 50, 1, 0, 0, 0, 0, 0, 0, 0, 1, 'm', 0}, 15, NSVQ_E_NO_MODEL},
    {9, 9, 9, 1, {2, 9, 1, 0, 0, 0, 0, 0, 0, 0xc0, 0x7f}, 1, 11, {32, 3, 50, 50, 1, 0, 0, 0, 0, 0, 0, 0, 1, 'm', 0}, 15,
     NSVQ_E_CORRUPT},
    {9, 9, 9, 1, {2, 9, 1, 0, 0, 0x80, 0xff, 0, 0, 0, 0}, 1, 11, {32, 3, 50, 50, 1, 0, 0, 0, 0, 0, 0, 0, 1, 'm', 0}, 15,
     NSVQ_E_CORRUPT},
    // model: qualities asked 15, 1601, of the vq family 101, id 0, name too long, not text, cut
    {9, 9, 9, 1, {1, 1, 1}, 1, 3, {15, 0, 50, 50, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 14, NSVQ_E_CORRUPT},
    {9, 9, 9, 1, {1, 1, 1}, 1, 3, {0x41, 6, 50, 50, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 14, NSVQ_E_CORRUPT},
    {9, 9, 9, 1, {1, 1, 1}, 1, 3, {32, 3, 101, 50, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 14, NSVQ_E_CORRUPT},
    {9, 9, 9, 1, {1, 1, 1}, 1, 3, {32, 3, 50, 50, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 14, NSVQ_E_CORRUPT},
    {9, 9, 9, 1, {1, 1, 1}, 1, 3, {32, 3, 50, 50, 1, 0, 0, 0, 0, 0, 0, 0, 200, 0}, 14, NSVQ_E_CORRUPT},
    {9, 9, 9, 1, {1, 1, 1}, 1, 3, {32, 3, 50, 50, 1, 0, 0, 0, 0, 0, 0, 0, 1, '\n', 0}, 15, NSVQ_E_CORRUPT},
    {9, 9, 9, 1, {1, 1, 1}, 1, 3, {32, 3, 50, 50, 1}, 5, NSVQ_E_CORRUPT},
    {9, 9, 9, 1, {1, 1, 1}, 1, 3, {32, 3, 50, 50, 1, 0, 0, 0, 0, 0, 0, 0, 1, 'm', 0}, 15, NSVQ_E_NO_MODEL},
    // one family for the full resolution, another for overviews
    {9, 9, 9, 1, {1, 1, 1}, 1, 3, {32, 3, 0, 50, 1, 0, 0, 0, 0, 0, 0, 0, 1, 'm', 0}, 15, NSVQ_E_CORRUPT},
    // sections: too many, cut, past the end, bombs, twice, mandatory and unknown, bytes left over
    {9, 9, 9, 1, {3, 1, 1, 1}, 1, 4, {65}, 1, NSVQ_E_CORRUPT},
    {9, 9, 9, 1, {3, 1, 1, 1}, 1, 4, {1, 1, 0}, 3, NSVQ_E_CORRUPT},
    {9, 9, 9, 1, {3, 1, 1, 1}, 1, 4, {1, 1, 0xff, 1, 1, 0, 0, 0, 0}, 9, NSVQ_E_CORRUPT},
    {9, 9, 9, 1, {3, 1, 1, 1}, 1, 4,
     {2, 5, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1, 0, 0, 0, 0, 6, 9, 9, 0, 0, 0, 0},
     24, NSVQ_E_CORRUPT},
    {9, 9, 9, 1, {3, 1, 1, 1}, 1, 4, {1, 1, 2, 0xff, 0xff, 0x7f, 0, 0, 0, 0}, 10, NSVQ_E_CORRUPT},
    {9, 9, 9, 1, {3, 1, 1, 1}, 1, 4, {2, 5, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0}, 15, NSVQ_E_CORRUPT},
    {9, 9, 9, 1, {3, 1, 1, 1}, 1, 4, {1, 0x85, 0, 0, 0, 0, 0, 0}, 8, NSVQ_E_UNSUPPORTED},
    {9, 9, 9, 1, {3, 1, 1, 1}, 1, 4, {0, 0}, 2, NSVQ_E_CORRUPT},
    // fine: an unknown optional section, and one behind the index
    {9, 9, 9, 1, {3, 1, 1, 1}, 1, 4, {2, 5, 0, 0, 0, 0, 0, 0, 0x46, 9, 3, 0, 0, 0, 0}, 15, NSVQ_OK},
};

static void absurd_headers(void **state)
{
    for (size_t i = 0; i < sizeof absurds / sizeof *absurds; i++) {
        const absurd *a = &absurds[i];
        wr head = {0};
        nsvq_file *f;
        nsvq_error err;

        wr_varint(&head, a->width);
        wr_varint(&head, a->height);
        wr_le(&head, (uint64_t)a->log2_block, 1);
        wr_le(&head, (uint64_t)a->n_levels, 1);
        wr_varint(&head, (uint64_t)a->n_runs);
        wr_bytes(&head, a->runs, (size_t)a->run_bytes);
        wr_bytes(&head, a->tail, (size_t)a->tail_bytes);
        blob b = sealed(&head, 200);
        nsvq_source src = blob_source(&b);
        nsvq_status st = nsvq_open(&f, &src, NULL, &err);
        if (st != a->want) fail_msg("header %zu: status %d, not %d: %s", i, st, a->want, err.text);
        nsvq_close(f);
        blob_free(&b);
        wr_free(&head);
    }
}

/* Varints: longest, too long, not the shortest. */
static void varints(void **state)
{
    static const uint8_t max[] = {255, 255, 255, 255, 255, 255, 255, 255, 255, 1};
    static const uint8_t more[] = {255, 255, 255, 255, 255, 255, 255, 255, 255, 2};
    static const uint8_t padded[] = {0x81, 0};
    rd r = rd_over(max, sizeof max);

    assert_true(rd_varint(&r, UINT64_MAX) == UINT64_MAX && !r.bad);
    r = rd_over(max, sizeof max);
    assert_true(rd_varint(&r, UINT64_MAX - 1) == 0 && r.bad);
    r = rd_over(max, sizeof max - 1);
    assert_true(rd_varint(&r, UINT64_MAX) == 0 && r.bad);
    r = rd_over(more, sizeof more);
    assert_true(rd_varint(&r, UINT64_MAX) == 0 && r.bad);
    r = rd_over(padded, sizeof padded);
    assert_true(rd_varint(&r, UINT64_MAX) == 0 && r.bad);
    for (uint64_t v = 1; v; v *= 2)
        for (int d = -1; d < 2; d++) {
            wr w = {0};
            wr_varint(&w, v + (uint64_t)d);
            r = rd_over(w.p, w.size);
            assert_true(rd_varint(&r, UINT64_MAX) == v + (uint64_t)d && !r.bad && !rd_left(&r));
            wr_free(&w);
        }
}

/* ---- hostile blocks, with checksums that fit ---- */

/* A file of one 9 x 9 block (bits: the group's byte in the header, then nodata if it has one) whose
 * record is flags and parts as given; checksums are set here. */
static nsvq_status one_block(const uint8_t *groups, size_t n_groups_bytes, uint8_t flags,
                             const uint8_t *layer, size_t n, nsvq_error *err)
{
    wr head = {0}, record = {0};
    uint8_t px[9 * 9];
    nsvq_file *f;

    wr_bytes(&head, "\x09\x09\x09\x01", 4);
    wr_bytes(&head, groups, n_groups_bytes);
    wr_le(&head, 0, 1);
    wr_le(&record, flags, 1);
    wr_le(&record, checksum(checksum(0, &flags, 1), layer, n), 4);
    wr_bytes(&record, layer, n);
    size_t index = PREFIX_BYTES + 8 + head.size + SEAL_BYTES;
    size_t n_entries = groups[0] == 2 ? 2 : 1;
    size_t blocks = index + (size_t)index_bytes(n_entries);
    blob b = sealed(&head, blocks + n_entries * record.size);
    put_le(b.p + index, blocks, 8);
    for (size_t i = 0; i < n_entries; i++) {
        put_le(b.p + index + 8 + 4 * i, record.size, 4);
        memcpy(b.p + blocks + i * record.size, record.p, record.size);
    }
    put_le(b.p + blocks - 4, checksum(0, b.p + index, blocks - 4 - index), 4);
    nsvq_source src = blob_source(&b);
    nsvq_status st = nsvq_open(&f, &src, NULL, err);
    assert_int_equal(st, NSVQ_OK);
    st = n_entries == 2 ? read_mask_window(f, 0, 0, 9, 9, px, err)
                        : read_window(f, 1, 0, 0, 9, 9, px, err);
    nsvq_close(f);
    blob_free(&b);
    wr_free(&head);
    wr_free(&record);
    return st;
}

static void hostile_blocks(void **state)
{
    static const uint8_t exact[] = {1, 3, 1, 1, 1}, mask[] = {2, 3, 1, 1, 1, 4, 1};
    static const lossless_shape shape = {NSVQ_TYPE_U8, 1, 9, 9};
    uint8_t rows[9 * 9] = {0}, bits[18] = {0};
    nsvq_error err;
    wr layer = {0};

    // right; every cut; bytes behind the stream; wrong flags
    for (int i = 0; i < 81; i++) rows[i] = (uint8_t)(i * i);
    nsvq_scratch *work = nsvq_scratch_create();
    assert_int_equal(lossless_encode(&layer, work, rows, &shape, NULL, 0), 0);
    nsvq_scratch_destroy(work);
    assert_ok(one_block(exact, 5, PART_EXACT, layer.p, layer.size, &err), err);
    for (size_t n = 0; n < layer.size; n++)
        assert_int_equal(one_block(exact, 5, PART_EXACT, layer.p, n, &err), NSVQ_E_CORRUPT);
    assert_int_equal(one_block(exact, 5, PART_BASE, layer.p, layer.size, &err), NSVQ_E_CORRUPT);
    assert_int_equal(one_block(exact, 5, PART_EXACT | 8, layer.p, layer.size, &err), NSVQ_E_CORRUPT);
    wr_le(&layer, 0, 1);
    assert_int_equal(one_block(exact, 5, PART_EXACT, layer.p, layer.size, &err), NSVQ_E_CORRUPT);
    // masks: all, kinds of bands that are not there, same as none, bytes behind, padding bits
    assert_ok(one_block(mask, 7, PART_MASK, (const uint8_t *)"\x01", 1, &err), err);
    assert_int_equal(one_block(mask, 7, PART_MASK, (const uint8_t *)"\x04", 1, &err), NSVQ_E_CORRUPT);
    assert_int_equal(one_block(mask, 7, PART_MASK, (const uint8_t *)"\x03", 1, &err), NSVQ_E_CORRUPT);
    assert_int_equal(one_block(mask, 7, PART_MASK, (const uint8_t *)"\x01\x00", 2, &err), NSVQ_E_CORRUPT);
    assert_int_equal(one_block(mask, 7, PART_MASK, (const uint8_t *)"\x02", 1, &err), NSVQ_E_CORRUPT);
    for (int padding = 0; padding < 2; padding++) {
        bits[1] = padding ? 0x40 : 0x80;
        layer.size = 0;
        wr_le(&layer, 2, 1);
        wr_deflate(&layer, bits, sizeof bits, false);
        nsvq_status st = one_block(mask, 7, PART_MASK, layer.p, layer.size, &err);
        assert_int_equal(st, padding ? NSVQ_E_CORRUPT : NSVQ_OK);
    }
    wr_free(&layer);
}

/* ---- other versions, missing models ---- */

static void versions(void **state)
{
    picture p;
    blob b = small_file(&p);
    nsvq_error err;
    content c;

    assert_true(nsvq_identify(b.p, b.size));
    assert_true(nsvq_identify(b.p, 12));
    assert_false(nsvq_identify(b.p, 11));
    b.p[8] = 2;
    assert_true(nsvq_identify(b.p, b.size));
    assert_int_equal(read_content(&b, &p, &c, &err), NSVQ_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "version 2"));
    b.p[8] = 1;
    b.p[0] = 0x89;
    assert_false(nsvq_identify(b.p, b.size));
    assert_int_equal(read_content(&b, &p, &c, &err), NSVQ_E_CORRUPT);
    blob_free(&b);
    picture_free(&p);
}

static nsvq_status open_with_path(blob *b, const char *path, nsvq_error *err)
{
    nsvq_open_options opt = {.struct_size = sizeof opt, .model_path = path};
    nsvq_source src = blob_source(b);
    nsvq_file *f;
    nsvq_status st = nsvq_open(&f, &src, &opt, err);

    nsvq_close(f);
    return st;
}

static void write_file(const char *path, const uint8_t *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");

    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void missing_model(void **state)
{
    picture p;
    blob b = small_file(&p);
    char folder[] = "/tmp/nsvq-models-XXXXXX", id[17], path[200], both[100];
    nsvq_error err;
    size_t size;
    uint8_t *bytes = test_model_bytes(&size);

    assert_non_null(mkdtemp(folder));
    snprintf(id, sizeof id, "%016llx", (unsigned long long)nsvq_model_id_of(test_model()));
    snprintf(path, sizeof path, "%s/%s.nsvqm", folder, id);
    snprintf(both, sizeof both, "/nowhere::%s", folder);
    assert_int_equal(open_with_path(&b, both, &err), NSVQ_E_NO_MODEL);
    assert_non_null(strstr(err.text, id));
    assert_non_null(strstr(err.text, both));
    assert_non_null(strstr(err.text, nsvq_model_name(test_model())));
    setenv("NSVQ_MODEL_PATH", "/elsewhere", 1);
    assert_int_equal(open_with_path(&b, NULL, &err), NSVQ_E_NO_MODEL);
    assert_non_null(strstr(err.text, "/elsewhere"));

    write_file(path, bytes, size);
    assert_ok(open_with_path(&b, both, &err), err);
    setenv("NSVQ_MODEL_PATH", folder, 1);
    assert_ok(open_with_path(&b, NULL, &err), err);
    unsetenv("NSVQ_MODEL_PATH");
    write_file(path, bytes, size - 1);
    assert_int_equal(open_with_path(&b, both, &err), NSVQ_E_CORRUPT);
    remove(path);
    remove(folder);
    free(bytes);
    blob_free(&b);
    picture_free(&p);
}

/* A damaged embedded model is an error only when there is no other copy. */
static void damaged_embedded_model(void **state)
{
    picture p = picture_make(30, 30, 3, 5);
    blob b = encode(&p, 1, 1);
    nsvq_error err;
    content c;

    b.p[b.size / 2] ^= 1;
    assert_ok(read_content(&b, &p, &c, &err), err); // the caller has it
    free(c.bytes);
    assert_int_equal(open_with_path(&b, "/nowhere", &err), NSVQ_E_CORRUPT);
    assert_non_null(strstr(err.text, "embedded model"));
    blob_free(&b);
    picture_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(truncation),     cmocka_unit_test(flips),
        cmocka_unit_test(locality),       cmocka_unit_test(mask_damage), cmocka_unit_test(exact_damage),
        cmocka_unit_test(index_damage),   cmocka_unit_test(absurd_headers),
        cmocka_unit_test(varints),        cmocka_unit_test(hostile_blocks),
        cmocka_unit_test(versions),       cmocka_unit_test(missing_model),
        cmocka_unit_test(damaged_embedded_model)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
