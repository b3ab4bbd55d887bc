/* file.c - opening and what is known of an open file; the texts of errors. */
#include "codec.h"

#include <stdarg.h>
#include <stdio.h>
#include <zlib.h>

#define TEXT_(x) #x
#define TEXT(x)  TEXT_(x)

const char *nsvq_version(void)
{
    return TEXT(NSVQ_VERSION_MAJOR) "." TEXT(NSVQ_VERSION_MINOR) "." TEXT(NSVQ_VERSION_PATCH);
}

const char *nsvq_status_text(nsvq_status st)
{
    switch (st) {
    case NSVQ_OK:
        return "no error";
    case NSVQ_E_ARG:
        return "bad argument";
    case NSVQ_E_NOMEM:
        return "out of memory";
    case NSVQ_E_IO:
        return "input or output failed";
    case NSVQ_E_CORRUPT:
        return "damaged file";
    case NSVQ_E_UNSUPPORTED:
        return "not supported by this version";
    case NSVQ_E_LIMIT:
        return "larger than the limits";
    case NSVQ_E_DEVICE:
        return "device failed";
    case NSVQ_E_NO_MODEL:
        return "model not found";
    case NSVQ_E_CANCELLED:
        return "cancelled";
    }
    return "unknown status";
}

nsvq_status fail(nsvq_error *err, nsvq_status st, uint64_t offset, const char *format, ...)
{
    va_list args;

    if (err) {
        err->offset = offset;
        va_start(args, format);
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
    }
    return st;
}

nsvq_status copy_options(void *dst, size_t known, const void *src, const char *what,
                         nsvq_error *err)
{
    size_t size;

    memset(dst, 0, known);
    if (!src) return NSVQ_OK;
    memcpy(&size, src, sizeof size);
    if (size < sizeof size) return fail(err, NSVQ_E_ARG, NO_OFFSET, "%s: struct_size not set", what);
    memcpy(dst, src, size < known ? size : known);
    for (size_t i = known; i < size; i++)
        if (((const uint8_t *)src)[i])
            return fail(err, NSVQ_E_ARG, NO_OFFSET, "%s: a field that this library does not know", what);
    return NSVQ_OK;
}

nsvq_status source_read(const nsvq_source *src, uint64_t offset, void *buf, size_t len,
                        const char *what, nsvq_error *err)
{
    if (offset > src->size || len > src->size - offset)
        return fail(err, NSVQ_E_CORRUPT, offset, "%s: passes the end of the file", what);
    if (len && src->read_at(src->user, offset, buf, len))
        return fail(err, NSVQ_E_IO, offset, "%s: cannot read %zu bytes", what, len);
    return NSVQ_OK;
}

uint32_t checksum(uint32_t seed, const void *bytes, size_t n)
{
    return (uint32_t)crc32_z(seed, bytes, n);
}

/* Header and metadata. *front receives what was read of the file's start. */
static nsvq_status read_front(nsvq_file *f, uint8_t **front, size_t *front_size, nsvq_error *err)
{
    const nsvq_source *src = &f->src;
    uint32_t header_bytes;
    size_t size = src->size < FRONT_BYTES ? (size_t)src->size : FRONT_BYTES;
    nsvq_status st;

    if (src->size < PREFIX_BYTES)
        return fail(err, NSVQ_E_CORRUPT, 0, "a file of %llu bytes is no NSVQ file",
                    (unsigned long long)src->size);
    uint8_t *p = malloc(size);
    if (!p) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    *front = p;
    if ((st = source_read(src, 0, p, size, "header", err)) != NSVQ_OK) return st;
    if ((st = header_prefix(p, &header_bytes, err)) != NSVQ_OK) return st;
    if (header_bytes > src->size)
        return fail(err, NSVQ_E_CORRUPT, SIGNATURE_BYTES + 2, "header passes the end of the file");
    if (header_bytes > size) {
        p = realloc(p, header_bytes);
        if (!p) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
        *front = p;
        st = source_read(src, size, p + size, header_bytes - size, "header", err);
        if (st != NSVQ_OK) return st;
        size = header_bytes;
    }
    *front_size = size;
    return header_parse(&f->h, p, header_bytes, src->size, f->any_size, err);
}

static nsvq_status read_sections(nsvq_file *f, nsvq_error *err)
{
    for (uint32_t i = 0; i < f->h.n_sections; i++) {
        const section *s = &f->h.sections[i];
        if (s->kind == SECTION_MODEL) f->embedded = true;
        if (s->kind != SECTION_META) continue;
        nsvq_status st = section_load(&f->src, s, "metadata", &f->meta_bytes, err);
        if (st == NSVQ_OK) st = meta_parse(f, (size_t)s->raw, err);
        if (st != NSVQ_OK) return st;
    }
    return NSVQ_OK;
}

nsvq_status nsvq_open(nsvq_file **out, const nsvq_source *src, const nsvq_open_options *options,
                      nsvq_error *err)
{
    nsvq_open_options opt;
    nsvq_file *f = NULL;
    uint8_t *front = NULL;
    size_t front_size = 0;
    nsvq_status st;

    if (!out) return fail(err, NSVQ_E_ARG, NO_OFFSET, "out is NULL");
    *out = NULL;
    if (!src || !src->read_at) return fail(err, NSVQ_E_ARG, NO_OFFSET, "no source");
    if (!kernels_get()) return fail(err, NSVQ_E_ARG, NO_OFFSET, "NSVQ_CPU holds an unknown word");
    st = copy_options(&opt, sizeof opt, options, "nsvq_open_options", err);
    if (st != NSVQ_OK) return st;

    f = calloc(1, sizeof *f);
    if (!f || cache_create(&f->cache, opt.max_cache_bytes ? opt.max_cache_bytes : UINT64_C(64) << 20)) {
        st = fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
        goto done;
    }
    f->src = *src;
    f->max_gap = opt.max_gap ? opt.max_gap : 8192;
    f->any_size = opt.any_size;
    if ((st = read_front(f, &front, &front_size, err)) != NSVQ_OK) goto done;
    f->pages = calloc((size_t)f->h.n_pages, sizeof *f->pages);
    if (!f->pages) {
        st = fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
        goto done;
    }
    index_take_front(f, front, front_size);
    if ((st = read_sections(f, err)) != NSVQ_OK) goto done;
    if (f->h.model_id && (st = model_find(f, &opt, err)) != NSVQ_OK) goto done;
    if (f->model && (f->model->desc.family == NSVQ_FAMILY_VQ) != (f->h.quality[0] > 0)) {
        st = fail(err, NSVQ_E_CORRUPT, 0, "header: quality of another family than the model's");
        goto done;
    }
    *out = f;
    f = NULL; // ownership moved to the caller
done:
    free(front);
    nsvq_close(f);
    return st;
}

void nsvq_close(nsvq_file *f)
{
    if (!f) return;
    cache_destroy(&f->cache);
    for (uint64_t i = 0; f->pages && i < f->h.n_pages; i++) free(atomic_load(&f->pages[i]));
    free((void *)f->pages);
    free(f->meta);
    free(f->meta_bytes);
    nsvq_model_release(f->model);
    header_free(&f->h);
    free(f);
}

void nsvq_get_info(const nsvq_file *f, nsvq_info *info)
{
    const header *h = &f->h;
    nsvq_info known = {.struct_size = info->struct_size,
                       .width = h->width,
                       .height = h->height,
                       .n_bands = h->n_bands,
                       .block_size = BLOCK,
                       .n_levels = h->n_levels,
                       .quality = h->quality16 / 16.,
                       .n_groups = h->n_groups - h->n_masks,
                       .model_id = h->model_id,
                       .embedded = f->embedded,
                       .has_mask = !h->n_masks ? 0 : h->band_masks ? 2 : 1};

    memcpy(known.model_name, h->model_name, sizeof known.model_name);
    memcpy(info, &known, info->struct_size < sizeof known ? info->struct_size : sizeof known);
}

size_t nsvq_meta_count(const nsvq_file *f)
{
    return f->n_meta;
}

nsvq_status nsvq_meta_get(const nsvq_file *f, size_t i, nsvq_meta *out)
{
    if (i >= f->n_meta) return NSVQ_E_ARG;
    *out = f->meta[i];
    return NSVQ_OK;
}

nsvq_status nsvq_group_get(const nsvq_file *f, uint32_t g, nsvq_group *out)
{
    if (g >= f->h.n_groups - f->h.n_masks) return NSVQ_E_ARG;
    const group *from = &f->h.groups[g];
    nsvq_group known = {.struct_size = out->struct_size,
                        .coding = (nsvq_coding)from->coding,
                        .type = (nsvq_type)(from->type + (from->complex ? NSVQ_TYPE_COMPLEX : 0)),
                        .first_band = from->first_band,
                        .n_bands = from->n_bands,
                        .has_nodata = from->has_nodata,
                        .nodata = from->nodata};

    for (int b = 0; b < 3; b++) {
        known.low[b] = from->range[b].low;
        known.high[b] = from->range[b].high;
    }
    memcpy(out, &known, out->struct_size < sizeof known ? out->struct_size : sizeof known);
    return NSVQ_OK;
}

nsvq_status nsvq_block_get(const nsvq_file *f, uint32_t level, uint32_t bx, uint32_t by,
                           uint32_t g, uint64_t *offset, uint64_t *size, nsvq_error *err)
{
    const header *h = &f->h;
    uint32_t stored = 0;

    if (level >= h->n_levels || bx >= h->levels[level].blocks_x || by >= h->levels[level].blocks_y ||
        g >= h->n_groups)
        return fail(err, NSVQ_E_ARG, NO_OFFSET, "no block (%u, %u) of group %u at level %u", bx, by, g,
                    level);
    // pages are loaded behind the file's back: it looks the same before and after
    nsvq_status st = index_locate((nsvq_file *)f, index_entry(h, (cell){level, bx, by, g}), offset,
                                  &stored, err);
    *size = stored;
    return st;
}
