/* index.c - (level, block, group) -> bytes of the file (FORMAT.md 3.4). Pages are read when first
 * needed, without a lock: whoever comes second throws its copy away. */
#include "codec.h"

uint64_t index_entry(const header *h, cell c)
{
    return ((uint64_t)c.by * h->blocks_x + c.bx) * h->n_groups + c.g;
}

cell index_cell(const header *h, uint64_t e)
{
    uint64_t block = e / h->n_groups;

    return (cell){.bx = (uint32_t)(block % h->blocks_x),
                  .by = (uint32_t)(block / h->blocks_x),
                  .g = (uint32_t)(e % h->n_groups)};
}

static uint32_t page_entries(const header *h, uint64_t i)
{
    uint64_t left = h->n_entries - i * PAGE_ENTRIES;

    return left < PAGE_ENTRIES ? (uint32_t)left : PAGE_ENTRIES;
}

/* bytes: index_bytes(page_entries) of them. */
static nsvq_status page_parse(const nsvq_file *f, uint64_t i, const uint8_t *bytes, page **out,
                              nsvq_error *err)
{
    uint64_t at = index_page_offset(&f->h, i), end = f->src.size - FOOTER_BYTES;
    uint32_t n = page_entries(&f->h, i);
    size_t size = (size_t)index_bytes(n);
    rd r = rd_over(bytes, size);
    page *p = malloc(sizeof *p + (n + 1) * sizeof p->start[0]);

    if (!p) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    p->n = n;
    p->start[0] = rd_u64(&r);
    for (uint32_t k = 0; k < n; k++)
        if (!add_u64(&p->start[k + 1], p->start[k], rd_u32(&r))) p->start[k + 1] = UINT64_MAX;
    bool whole = same_checksum(rd_u32(&r), checksum(0, bytes, size - 4));
    if (!whole || p->start[0] < f->h.blocks_offset || p->start[n] > end) {
        free(p);
        return fail(err, NSVQ_E_CORRUPT, at, "index page %llu: %s", (unsigned long long)i,
                    whole ? "blocks outside the file" : "checksum differs");
    }
    *out = p;
    return NSVQ_OK;
}

/* Returns the page that now stands there. */
static page *page_install(nsvq_file *f, uint64_t i, page *p)
{
    page *before = NULL;

    if (atomic_compare_exchange_strong(&f->pages[i], &before, p)) return p;
    free(p);
    return before;
}

void index_take_front(nsvq_file *f, const uint8_t *front, size_t size)
{
    page *p;

    for (uint64_t i = 0; i < f->n_pages; i++) {
        uint64_t at = index_page_offset(&f->h, i);
        if (at + index_bytes(page_entries(&f->h, i)) > size) break;
        if (page_parse(f, i, front + at, &p, NULL) == NSVQ_OK) page_install(f, i, p);
    }
}

static nsvq_status page_load(nsvq_file *f, uint64_t i, page **out, nsvq_error *err)
{
    uint8_t bytes[12 + 4 * PAGE_ENTRIES];
    page *p;
    nsvq_status st = source_read(&f->src, index_page_offset(&f->h, i), bytes,
                                 (size_t)index_bytes(page_entries(&f->h, i)), "index", err);

    if (st == NSVQ_OK) st = page_parse(f, i, bytes, &p, err);
    if (st == NSVQ_OK) *out = page_install(f, i, p);
    return st;
}

nsvq_status index_locate(nsvq_file *f, uint64_t e, uint64_t *offset, uint32_t *size,
                         nsvq_error *err)
{
    uint64_t i = e / PAGE_ENTRIES, k = e % PAGE_ENTRIES;
    page *p = atomic_load(&f->pages[i]);

    if (!p) {
        nsvq_status st = page_load(f, i, &p, err);
        if (st != NSVQ_OK) return st;
    }
    *offset = p->start[k];
    *size = (uint32_t)(p->start[k + 1] - p->start[k]);
    return NSVQ_OK;
}
