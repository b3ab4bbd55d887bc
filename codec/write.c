/* write.c - container assembly: header and sections, blocks as they come, index pages as they fill,
 * the footer last. Memory: one page of the index. */
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
    for (uint32_t i = 0; i < w->h.n_sections; i++) {
        w->h.sections[i].stored = payload[i].size;
        w->h.sections[i].crc = checksum(0, payload[i].p, payload[i].size);
    }
    if ((st = header_store(&w->h, &w->head, err)) != NSVQ_OK) return st;
    if ((st = put(w, 0, w->head.p, w->head.size, err)) != NSVQ_OK) return st;
    for (uint32_t i = 0; i < w->h.n_sections; i++) {
        st = put(w, w->h.sections[i].offset, payload[i].p, payload[i].size, err);
        if (st != NSVQ_OK) return st;
    }
    w->at = w->h.blocks_offset;
    return NSVQ_OK;
}

static nsvq_status flush_page(writer *w, nsvq_error *err)
{
    uint64_t i = (w->entry - 1) / PAGE_ENTRIES;

    wr_le(&w->page, checksum(0, w->page.p, w->page.size), 4);
    if (w->page.bad) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    nsvq_status st = put(w, index_page_offset(&w->h, i), w->page.p, w->page.size, err);
    w->page.size = 0;
    return st;
}

nsvq_status writer_blocks(writer *w, const uint8_t *bytes, const uint32_t *sizes, size_t n,
                          nsvq_error *err)
{
    uint64_t before = w->at;

    for (size_t i = 0; i < n; i++) {
        if (!w->page.size) wr_le(&w->page, w->at, 8);
        wr_le(&w->page, sizes[i], 4);
        if (w->page.bad) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
        w->at += sizes[i];
        if (++w->entry % PAGE_ENTRIES && w->entry < w->h.n_entries) continue;
        nsvq_status st = flush_page(w, err);
        if (st != NSVQ_OK) return st;
    }
    return put(w, before, bytes, (size_t)(w->at - before), err);
}

nsvq_status writer_end(writer *w, uint64_t *size, nsvq_error *err)
{
    uint8_t footer[FOOTER_BYTES];

    assert(w->entry == w->h.n_entries);
    *size = w->at + FOOTER_BYTES;
    header_seal(footer, w->head.p, w->head.size, *size);
    return put(w, w->at, footer, sizeof footer, err);
}

void writer_free(writer *w)
{
    header_free(&w->h);
    wr_free(&w->head);
    wr_free(&w->page);
}
