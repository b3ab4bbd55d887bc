/* open.c - any bytes as a file: open, read everything. Whatever comes, no access outside of the bytes;
 * what can be read can be read again, and a window of it holds the same. */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "nsvq.h"
#include "testmodel.h"

enum { MAX_SIDE = 1100, MAX_BANDS_READ = 5, SIZE_AT = 12 };

typedef struct bytes {
    const uint8_t *p;
    size_t size;
} bytes;

static int read_bytes(void *user, uint64_t offset, void *buf, size_t len)
{
    const bytes *b = user;

    if (offset > b->size || len > b->size - offset) abort(); // the library has to check
    memcpy(buf, b->p + offset, len);
    return 0;
}

static nsvq_model *model(void)
{
    static nsvq_model *m;
    nsvq_model_desc desc;
    size_t size;

    if (m) return m;
    if (!testmodel_make(&desc, TESTMODEL_TINY, FUZZ_SEED)) abort();
    uint8_t *p = nsvq_model_store(&desc, NSVQ_STORE_ANALYSIS, &size);
    nsvq_model_free(&desc);
    if (!p || nsvq_model_open(&m, p, size, NULL) != NSVQ_OK) abort();
    free(p);
    return m;
}

static nsvq_status read_part(nsvq_decoder *d, uint32_t level, uint32_t x, uint32_t y, uint32_t w, uint32_t h, uint32_t n,
                             size_t sample, uint8_t *px)
{
    ptrdiff_t item = n ? (ptrdiff_t)(n * sample) : 1;
    nsvq_window win = {.struct_size = sizeof win, .level = level, .x = x, .y = y, .w = w, .h = h, .n_bands = n,
                       .pixels = px, .pixel_stride = item, .row_stride = w * item,
                       .band_stride = (ptrdiff_t)sample};

    return n ? nsvq_read(d, &win, NULL) : nsvq_read_mask(d, &win, NULL);
}

/* n bands, or for n = 0 the mask: the corner of the picture, then a window in it. */
static void read_corner(nsvq_decoder *d, uint32_t level, uint32_t w, uint32_t h, uint32_t n, size_t sample)
{
    uint32_t x = w / 3, y = h / 3, ww = w - x - w / 5, wh = h - y - h / 5;
    size_t item = n ? n * sample : 1;
    uint8_t *all = calloc((size_t)w * h, item), *part = calloc((size_t)ww * wh, item);

    if (!all || !part) abort();
    nsvq_status st = read_part(d, level, 0, 0, w, h, n, sample, all),
                st2 = read_part(d, level, x, y, ww, wh, n, sample, part);
    if (st == NSVQ_OK && st2 != NSVQ_OK) abort();
    for (uint32_t r = 0; r < wh && st == NSVQ_OK; r++)
        if (memcmp(part + (size_t)r * ww * item, all + ((size_t)(y + r) * w + x) * item, ww * item))
            abort();
    free(all);
    free(part);
}

static uint32_t most(uint32_t v, uint32_t limit)
{
    return v < limit ? v : limit;
}

static void read_pixels(nsvq_file *f, const nsvq_info *info)
{
    uint32_t n = most(info->n_bands, MAX_BANDS_READ);
    uint8_t last[MAX_BANDS_READ * 16];
    nsvq_group group = {.struct_size = sizeof group};
    nsvq_decoder *d;
    size_t sample = 1;

    for (uint32_t g = 0; nsvq_group_get(f, g, &group) == NSVQ_OK; g++) {
        size_t size = nsvq_type_bytes(group.type);
        if (group.n_bands * size > 40) return; // slow, and no different
        sample = size > sample ? size : sample;
    }
    if (nsvq_decoder_create(&d, f, 1, NULL) != NSVQ_OK) abort();
    for (uint32_t level = 0; level < info->n_levels; level += info->n_levels > 2 ? info->n_levels - 1 : 1) {
        uint32_t w = ((info->width - 1) >> level) + 1, h = ((info->height - 1) >> level) + 1;
        uint32_t x = w - 1, y = h - 1;
        w = most(w, MAX_SIDE);
        h = most(h, w > MAX_SIDE / 2 ? MAX_SIDE / 2 : MAX_SIDE); // rows of one block where both are large
        read_corner(d, level, w, h, n, sample);
        read_corner(d, level, w, h, 0, 1);
        read_part(d, level, x, y, 1, 1, n, sample, last);
    }
    nsvq_decoder_destroy(d);
}

static void read_tables(const nsvq_file *f, const nsvq_info *info, size_t size)
{
    nsvq_meta meta;
    nsvq_group group = {.struct_size = sizeof group};
    uint64_t offset, n_bytes;

    for (size_t i = 0; i < nsvq_meta_count(f); i++)
        if (nsvq_meta_get(f, i, &meta) != NSVQ_OK || !meta.data || meta.band > info->n_bands) abort();
    for (uint32_t g = 0; g < info->n_groups; g++) {
        if (nsvq_group_get(f, g, &group) != NSVQ_OK || group.first_band + group.n_bands > info->n_bands) abort();
        if (nsvq_block_get(f, 0, 0, 0, g, &offset, &n_bytes, NULL) == NSVQ_OK && offset + n_bytes > size)
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bytes b = {data, size};
    nsvq_source src = {.user = &b, .size = size, .read_at = read_bytes};
    nsvq_open_options opt = {.struct_size = sizeof opt, .model = model(), .model_path = "", .any_size = size % 2};
    nsvq_info info = {.struct_size = sizeof info};
    nsvq_error err;
    nsvq_file *f;

    nsvq_identify(data, size);
    if (nsvq_open(&f, &src, &opt, &err) != NSVQ_OK) return 0;
    nsvq_get_info(f, &info);
    read_tables(f, &info, size);
    read_pixels(f, &info);
    nsvq_close(f);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    size = LLVMFuzzerMutate(data, size, max_size);
    if (size >= SIZE_AT + 8) fuzz_put_le(data + SIZE_AT, size, 8);
    return size;
}
