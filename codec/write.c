/* write.c - container assembly: sections, blocks as they come, index pages as they fill, the header
 * last. Memory: a page of the index and about a run of blocks for each level. */
#include "codec.h"

#include <assert.h>

static nsvq_status put(writer *w, uint64_t offset, const void *bytes, size_t n, nsvq_error *err)
{
    if (n && w->sink->write_at(w->sink->user, offset, bytes, n))
        return fail(err, NSVQ_E_IO, offset, "cannot write %zu bytes", n);
    return NSVQ_OK;
}

nsvq_status writer_begin(writer *w, const nsvq_sink *sink, header *h, const wr *payload,
                         nsvq_error *err)
{
    nsvq_status st;

    *w = (writer){.sink = sink, .h = *h};
    *h = (header){0};
    w->levels = calloc(w->h.n_levels, sizeof *w->levels);
    if (!w->levels) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    for (uint32_t i = 0; i < w->h.n_sections; i++) {
        w->h.sections[i].stored = payload[i].size;
        w->h.sections[i].crc = checksum(0, payload[i].p, payload[i].size);
    }
    if ((st = header_store(&w->h, &w->head, err)) != NSVQ_OK) return st;
    for (uint32_t i = 0; i < w->h.n_sections; i++) {
        st = put(w, w->h.sections[i].offset, payload[i].p, payload[i].size, err);
        if (st != NSVQ_OK) return st;
    }
    w->at = w->h.blocks_offset;
    return NSVQ_OK;
}

/* The page of the level's last n entries. */
static nsvq_status put_page(writer *w, uint32_t level, uint32_t n, nsvq_error *err)
{
    level_writer *v = &w->levels[level];
    uint8_t bytes[PAGE_BYTES], *p = bytes;
    uint32_t entries;

    for (uint32_t i = 0; i < n; i += RUN_ENTRIES, p += 8) put_le(p, v->base[i / RUN_ENTRIES], 8);
    for (uint32_t i = 0; i < n; i++, p += 4) put_le(p, v->size[i], 4);
    put_le(p, checksum(0, bytes, (size_t)(p - bytes)), 4);
    uint64_t number = w->h.levels[level].first_page + (v->n_done - 1) / PAGE_ENTRIES;
    uint64_t at = index_page(&w->h, number, &entries);
    assert(entries == n);
    return put(w, at, bytes, (size_t)(p + 4 - bytes), err);
}

/* Notes a block that goes to w->at. */
static nsvq_status note(writer *w, uint32_t level, uint32_t size, nsvq_error *err)
{
    level_writer *v = &w->levels[level];
    uint32_t i = (uint32_t)(v->n_done % PAGE_ENTRIES);

    if (i % RUN_ENTRIES == 0) v->base[i / RUN_ENTRIES] = w->at;
    v->size[i] = size;
    w->at += size;
    v->n_done++;
    bool full = i + 1 == PAGE_ENTRIES || v->n_done == w->h.levels[level].n_entries;
    return full ? put_page(w, level, i + 1, err) : NSVQ_OK;
}

/* Writes what waits of a level: whole runs, or all of it. */
static nsvq_status put_waiting(writer *w, uint32_t level, bool all, nsvq_error *err)
{
    level_writer *v = &w->levels[level];
    uint32_t *size = (uint32_t *)(void *)v->sizes.p;
    size_t n = v->sizes.size / sizeof *size, bytes = 0;

    if (!all) n -= n % RUN_ENTRIES;
    if (!n) return NSVQ_OK;
    for (size_t i = 0; i < n; i++) bytes += size[i];
    nsvq_status st = put(w, w->at, v->bytes.p, bytes, err);
    for (size_t i = 0; i < n && st == NSVQ_OK; i++) st = note(w, level, size[i], err);
    v->bytes.size -= bytes;
    v->sizes.size -= n * sizeof *size;
    if (v->bytes.size) memmove(v->bytes.p, v->bytes.p + bytes, v->bytes.size);
    if (v->sizes.size) memmove(size, size + n, v->sizes.size);
    return st;
}

static nsvq_status put_levels(writer *w, bool all, nsvq_error *err)
{
    nsvq_status st = NSVQ_OK;

    for (uint32_t l = 1; l < w->h.n_levels && st == NSVQ_OK; l++) st = put_waiting(w, l, all, err);
    return st;
}

nsvq_status writer_blocks(writer *w, uint32_t level, const uint8_t *bytes, const uint32_t *sizes, size_t n,
                          nsvq_error *err)
{
    level_writer *v = &w->levels[level];
    nsvq_status st;
    size_t end;

    if (level) {
        size_t sum = 0;
        for (size_t i = 0; i < n; i++) sum += sizes[i];
        wr_bytes(&v->bytes, bytes, sum);
        wr_bytes(&v->sizes, sizes, n * sizeof *sizes);
        if (v->bytes.bad || v->sizes.bad) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
        return NSVQ_OK;
    }
    for (size_t i = 0; i < n; i = end) { // up to the end of a run
        size_t sum = 0, left = RUN_ENTRIES - v->n_done % RUN_ENTRIES;
        end = left < n - i ? i + left : n;
        for (size_t k = i; k < end; k++) sum += sizes[k];
        if ((st = put(w, w->at, bytes, sum, err)) != NSVQ_OK) return st;
        bytes += sum;
        for (size_t k = i; k < end; k++)
            if ((st = note(w, 0, sizes[k], err)) != NSVQ_OK) return st;
        if (v->n_done % RUN_ENTRIES == 0 && (st = put_levels(w, false, err)) != NSVQ_OK) return st;
    }
    return NSVQ_OK;
}

nsvq_status writer_end(writer *w, uint64_t *size, nsvq_error *err)
{
    nsvq_status st = put_levels(w, true, err);

    if (st != NSVQ_OK) return st;
    for (uint32_t l = 0; l < w->h.n_levels; l++) assert(w->levels[l].n_done == w->h.levels[l].n_entries);
    *size = w->at;
    header_seal(&w->head, *size);
    return put(w, 0, w->head.p, w->head.size, err);
}

void writer_free(writer *w)
{
    for (uint32_t l = 0; w->levels && l < w->h.n_levels; l++) {
        wr_free(&w->levels[l].bytes);
        wr_free(&w->levels[l].sizes);
    }
    free(w->levels);
    header_free(&w->h);
    wr_free(&w->head);
}
