/* support.c - see support.h. */
#include "support.h"

/* ---- files in memory ---- */

static int blob_read(void *user, uint64_t offset, void *buf, size_t len)
{
    blob *b = user;

    if (__atomic_add_fetch(&b->n_reads, 1, __ATOMIC_RELAXED) == b->fail_read) return -1;
    if (offset > b->size || len > b->size - offset) return -1;
    memcpy(buf, b->p + offset, len);
    return 0;
}

static int blob_write(void *user, uint64_t offset, const void *buf, size_t len)
{
    blob *b = user;

    if (++b->n_writes == b->fail_write) return -1;
    if (offset + len > b->cap) {
        size_t cap = 2 * (offset + len);
        uint8_t *p = calloc(1, cap);
        if (!p) return -1;
        if (b->size) memcpy(p, b->p, b->size);
        free(b->p);
        b->p = p;
        b->cap = cap;
    }
    memcpy(b->p + offset, buf, len);
    if (offset + len > b->size) b->size = offset + len;
    return 0;
}

nsvq_source blob_source(blob *b)
{
    return (nsvq_source){.user = b, .size = b->size, .read_at = blob_read};
}

nsvq_sink blob_sink(blob *b)
{
    return (nsvq_sink){b, blob_write};
}

void blob_free(blob *b)
{
    free(b->p);
    *b = (blob){0};
}

/* ---- pictures ---- */

picture picture_make(uint32_t w, uint32_t h, uint32_t n, uint64_t seed)
{
    picture p = {.w = w, .h = h, .n = n};
    test_rng rng = {seed};
    uint32_t slope = 1 + test_rand(&rng) % 5;

    p.px = malloc((size_t)w * h * n);
    p.mask = malloc((size_t)w * h);
    assert_non_null(p.px);
    assert_non_null(p.mask);
    memset(p.mask, 255, (size_t)w * h);
    for (uint32_t y = 0; y < h; y++)
        for (uint32_t x = 0; x < w; x++)
            for (uint32_t b = 0; b < n; b++) {
                uint32_t v = (slope * x + 3 * y) / 8 + 40 * b + ((x / 37 + y / 51) % 2 ? 60 : 0);
                *picture_at(&p, x, y, b) = (uint8_t)(v + test_rand(&rng) % 16);
            }
    return p;
}

void picture_fill(picture *p, uint32_t b, uint8_t value, uint32_t x, uint32_t y, uint32_t w, uint32_t h)
{
    for (uint32_t r = y; r < y + h; r++)
        for (uint32_t c = x; c < x + w; c++) {
            if (b == p->n)
                p->mask[(size_t)r * p->w + c] = value;
            else
                *picture_at(p, c, r, b) = value;
        }
}

void picture_punch(picture *p, uint32_t b, uint8_t value)
{
    test_rng rng = {1000 + b};

    for (uint32_t y = 0; y < p->h; y++)
        for (uint32_t x = 0; x < p->w; x++) {
            double dx = (double)x / p->w - 0.3 - 0.05 * b, dy = (double)y / p->h - 0.6;
            if (dx * dx + dy * dy < 0.05 || test_rand(&rng) % 500 == 0)
                picture_fill(p, b, value, x, y, 1, 1);
        }
}

uint32_t picture_sample(nsvq_type type, uint8_t v)
{
    float f = (float)v / 8 - 5;
    uint32_t bits;

    if (type == NSVQ_TYPE_U16) return v == PICTURE_ODD ? 60000 : 40u * v;
    if (type == NSVQ_TYPE_S16) return (uint16_t)(v == PICTURE_ODD ? 32000 : 100 * v - 20000);
    memcpy(&bits, &f, sizeof bits);
    return v == PICTURE_ODD ? 0x7fc00000 : bits;
}

static int picture_read(void *user, const nsvq_pull *w)
{
    picture *p = user;

    if (++p->n_reads == p->fail_read) return -1;
    assert_true(w->w && w->h && w->n && w->w <= p->w - w->x && w->h <= p->h - w->y && w->n <= p->n - w->first);
    nsvq_type type = (nsvq_type)p->bands[w->first].type;
    size_t bytes = type ? nsvq_type_bytes(type) : 1;
    for (uint32_t b = 0; b < w->n; b++)
        for (uint32_t r = 0; r < w->h; r++)
            for (uint32_t c = 0; c < w->w; c++) {
                uint8_t v = *picture_at(p, w->x + c, w->y + r, w->first + b);
                uint32_t sample = bytes == 1 ? v : picture_sample(type, v); // the low bytes come first
                memcpy((uint8_t *)w->pixels + b * w->band_stride + r * w->row_stride + c * w->pixel_stride, &sample,
                       bytes);
            }
    return 0;
}

static int picture_read_mask(void *user, const nsvq_pull *w)
{
    picture *p = user;

    if (++p->n_reads == p->fail_read) return -1;
    assert_int_equal(w->pixel_stride, 1);
    for (uint32_t r = 0; r < w->h; r++)
        memcpy((uint8_t *)w->pixels + r * w->row_stride, p->mask + (size_t)(w->y + r) * p->w + w->x, w->w);
    return 0;
}

static int picture_progress(void *user, double done)
{
    picture *p = user;

    assert_true(done >= 0 && done <= 1);
    return ++p->n_progress != p->cancel_at;
}

nsvq_raster picture_raster(picture *p)
{
    return (nsvq_raster){.struct_size = sizeof(nsvq_raster), .user = p, .width = p->w, .height = p->h,
                         .n_bands = p->n, .bands = p->bands, .has_mask = p->has_mask,
                         .read = picture_read, .read_mask = picture_read_mask,
                         .progress = picture_progress};
}

void picture_free(picture *p)
{
    free(p->px);
    free(p->mask);
    *p = (picture){0};
}

/* ---- model ---- */

testmodel_shape test_shape(void)
{
    const char *family = getenv("TEST_FAMILY");

    if (!family || !strcmp(family, "vq")) return TESTMODEL_SMALL;
    if (!strcmp(family, "trellis")) return TESTMODEL_TRELLIS;
    assert_string_equal(family, "hyper");
    return TESTMODEL_HYPER8;
}

uint8_t *test_model_bytes(size_t *size)
{
    nsvq_model_desc m;

    assert_true(testmodel_make(&m, test_shape(), 11));
    uint8_t *bytes = nsvq_model_store(&m, NSVQ_STORE_ANALYSIS, size);
    nsvq_model_free(&m);
    assert_non_null(bytes);
    return bytes;
}

nsvq_model *test_model(void)
{
    static nsvq_model *model;
    nsvq_error err;
    size_t size;

    if (!model) {
        uint8_t *bytes = test_model_bytes(&size);
        assert_ok(nsvq_model_open(&model, bytes, size, &err), err);
        free(bytes);
    }
    return model;
}

/* ---- calls that have to work ---- */

void check_ok(nsvq_status st, const nsvq_error *err, const char *file, int line)
{
    if (st != NSVQ_OK) print_error("%s: %s\n", nsvq_status_text(st), err->text);
    _assert_true(st == NSVQ_OK, "status is NSVQ_OK", file, line);
}

blob encode(picture *p, int n_threads, int embed)
{
    return encode_at(p, n_threads, embed, 0);
}

blob encode_at(picture *p, int n_threads, int embed, double quality)
{
    blob b = {0};
    nsvq_sink sink = blob_sink(&b);
    nsvq_raster raster = picture_raster(p);
    nsvq_encode_options opt = {.struct_size = sizeof opt, .model = test_model(), .n_threads = n_threads,
                               .embed = embed, .quality = quality};
    nsvq_error err;
    uint64_t size;

    assert_ok(nsvq_encode(&sink, &raster, &opt, &size, &err), err);
    assert_int_equal(size, b.size);
    return b;
}

nsvq_file *open_blob(blob *b)
{
    nsvq_open_options opt = {.struct_size = sizeof opt, .model = test_model()};
    nsvq_source src = blob_source(b);
    nsvq_file *f;
    nsvq_error err;

    assert_ok(nsvq_open(&f, &src, &opt, &err), err);
    return f;
}

static nsvq_status read_with(nsvq_file *f, int n_threads, nsvq_window *w, bool mask, nsvq_error *err)
{
    nsvq_decoder *d;
    nsvq_status st = nsvq_decoder_create(&d, f, n_threads, err);

    if (st != NSVQ_OK) return st;
    st = mask ? nsvq_read_mask(d, w, err) : nsvq_read(d, w, err);
    nsvq_decoder_destroy(d);
    return st;
}

size_t widest_sample(const nsvq_file *f)
{
    nsvq_group g = {.struct_size = sizeof g};
    size_t most = 1;

    for (uint32_t i = 0; nsvq_group_get(f, i, &g) == NSVQ_OK; i++) {
        size_t bytes = nsvq_type_bytes(g.type);
        most = bytes > most ? bytes : most;
    }
    return most;
}

nsvq_status read_window(nsvq_file *f, int n_threads, uint32_t x, uint32_t y, uint32_t w, uint32_t h,
                        uint8_t *px, nsvq_error *err)
{
    nsvq_info info = {.struct_size = sizeof info};

    nsvq_get_info(f, &info);
    ptrdiff_t bytes = (ptrdiff_t)widest_sample(f);
    nsvq_window win = {.struct_size = sizeof win, .x = x, .y = y, .w = w, .h = h,
                       .n_bands = info.n_bands, .pixels = px, .pixel_stride = bytes * info.n_bands,
                       .row_stride = bytes * w * info.n_bands, .band_stride = bytes};
    return read_with(f, n_threads, &win, false, err);
}

nsvq_status read_mask_window(nsvq_file *f, uint32_t x, uint32_t y, uint32_t w, uint32_t h, uint8_t *px,
                             nsvq_error *err)
{
    nsvq_window win = {.struct_size = sizeof win, .x = x, .y = y, .w = w, .h = h, .pixels = px,
                       .pixel_stride = 1, .row_stride = w};

    return read_with(f, 1, &win, true, err);
}

uint8_t *read_all(nsvq_file *f, int n_threads)
{
    nsvq_info info = {.struct_size = sizeof info};
    nsvq_error err;

    nsvq_get_info(f, &info);
    uint8_t *px = calloc((size_t)info.width * info.height * info.n_bands, widest_sample(f));
    assert_non_null(px);
    assert_ok(read_window(f, n_threads, 0, 0, info.width, info.height, px, &err), err);
    return px;
}
