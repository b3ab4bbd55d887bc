/* index.c - (level, block, group) -> bytes of the file (FORMAT.md 3.3). Pages are read when first
 * needed, without a lock: whoever comes second throws its copy away. */
#include "codec.h"

uint64_t index_entry(const header *h, cell c)
{
    const grid *v = &h->levels[c.level];

    return v->first_page * PAGE_ENTRIES + ((uint64_t)c.by * v->blocks_x + c.bx) * h->n_groups + c.g;
}

/* The level that page i belongs to: coarse ones come first. */
static uint32_t page_level(const header *h, uint64_t i)
{
    uint32_t l = 0;

    while (i < h->levels[l].first_page) l++;
    return l;
}

cell index_cell(const header *h, uint64_t e)
{
    uint32_t l = page_level(h, e / PAGE_ENTRIES);
    const grid *v = &h->levels[l];
    uint64_t of_level = e - v->first_page * PAGE_ENTRIES, block = of_level / h->n_groups;

    return (cell){.level = l,
                  .bx = (uint32_t)(block % v->blocks_x),
                  .by = (uint32_t)(block / v->blocks_x),
                  .g = (uint32_t)(of_level % h->n_groups)};
}

uint64_t index_page(const header *h, uint64_t i, uint32_t *n)
{
    const grid *v = &h->levels[page_level(h, i)];
    uint64_t before = (i - v->first_page) * PAGE_ENTRIES, left = v->n_entries - before;

    *n = left < PAGE_ENTRIES ? (uint32_t)left : PAGE_ENTRIES;
    return v->index_offset + (i - v->first_page) * PAGE_BYTES;
}

/* bytes: index_bytes(n) of them. */
static nsvq_status page_parse(const nsvq_file *f, uint64_t i, const uint8_t *bytes, page **out,
                              nsvq_error *err)
{
    uint32_t n, n_runs;
    uint64_t at = index_page(&f->h, i, &n);
    size_t size = (size_t)index_bytes(n);
    page *p = malloc(sizeof *p + n * sizeof p->start[0]);

    if (!p) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    n_runs = (n + RUN_ENTRIES - 1) / RUN_ENTRIES;
    rd bases = rd_over(bytes, 8 * n_runs), r = rd_over(bytes + 8 * n_runs, size - 8 * n_runs);
    bool inside = true;
    uint64_t next = 0;
    p->n = n;
    for (uint32_t k = 0; k < n; k++) {
        if (k % RUN_ENTRIES == 0) inside &= (next = rd_u64(&bases)) >= f->h.blocks_offset;
        p->start[k] = next;
        p->size[k] = rd_u32(&r);
        inside &= add_u64(&next, next, p->size[k]) && (next <= f->src.size || f->any_size);
    }
    bool whole = same_checksum(rd_u32(&r), checksum(0, bytes, size - 4));
    if (!whole || !inside) {
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

    for (uint64_t i = 0; i < f->h.n_pages; i++) {
        uint32_t n;
        uint64_t at = index_page(&f->h, i, &n);
        if (at + index_bytes(n) > size) break;
        if (page_parse(f, i, front + at, &p, NULL) == NSVQ_OK) page_install(f, i, p);
    }
}

static nsvq_status page_load(nsvq_file *f, uint64_t i, page **out, nsvq_error *err)
{
    uint8_t bytes[PAGE_BYTES];
    uint32_t n;
    page *p;
    uint64_t at = index_page(&f->h, i, &n);
    nsvq_status st = source_read(&f->src, at, bytes, (size_t)index_bytes(n), "index", err);

    if (st == NSVQ_OK) st = page_parse(f, i, bytes, &p, err);
    if (st == NSVQ_OK) *out = page_install(f, i, p);
    return st;
}

void index_load(nsvq_file *f, uint64_t first, uint64_t last)
{
    enum { MOST = 128 };
    uint64_t i = first / PAGE_ENTRIES, end = last / PAGE_ENTRIES + 1;
    uint32_t n;

    while (i < end && atomic_load(&f->pages[i])) i++;
    while (end > i && atomic_load(&f->pages[end - 1])) end--;
    if (end - i < 2 || end - i > MOST) return; // none is missing, or whoever needs one reads it
    uint64_t at = index_page(&f->h, i, &n), stop = index_page(&f->h, end - 1, &n) + index_bytes(n);
    uint8_t *bytes = malloc((size_t)(stop - at));
    if (bytes && source_read(&f->src, at, bytes, (size_t)(stop - at), "index", NULL) == NSVQ_OK)
        for (; i < end; i++) {
            page *p;
            uint64_t here = index_page(&f->h, i, &n);
            if (page_parse(f, i, bytes + (here - at), &p, NULL) == NSVQ_OK) page_install(f, i, p);
        }
    free(bytes);
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
    *size = p->size[k];
    if (*offset + *size > f->src.size)
        return fail(err, NSVQ_E_CORRUPT, *offset, "block passes the end of the file");
    return NSVQ_OK;
}
