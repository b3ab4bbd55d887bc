/* meta.c - sections, and the list of metadata records in one of them (FORMAT.md 3.2, 3.4). */
#include "codec.h"

nsvq_status section_load(const nsvq_source *src, const section *s, const char *what, uint8_t **raw,
                         nsvq_error *err)
{
    uint8_t *stored = malloc(s->stored ? s->stored : 1);
    uint8_t *out = malloc(s->raw ? s->raw : 1);
    nsvq_status st = NSVQ_E_NOMEM;
    int rc;

    *raw = NULL;
    if (!stored || !out) {
        fail(err, st, NO_OFFSET, "%s: no memory", what);
        goto done;
    }
    if ((st = source_read(src, s->offset, stored, s->stored, what, err)) != NSVQ_OK) goto done;
    if (!same_checksum(s->crc, checksum(0, stored, s->stored))) {
        st = fail(err, NSVQ_E_CORRUPT, s->offset, "%s: checksum differs", what);
        goto done;
    }
    rc = inflate_exact(out, s->raw, stored, s->stored, s->kind == SECTION_META);
    if (rc) {
        st = rc == -2 ? fail(err, NSVQ_E_NOMEM, NO_OFFSET, "%s: no memory", what)
                      : fail(err, NSVQ_E_CORRUPT, s->offset, "%s: not a deflate stream", what);
        goto done;
    }
    *raw = out;
    out = NULL;
done:
    free(stored);
    free(out);
    return st;
}

/* One record; data points into the reader's bytes. */
static void parse_record(rd *r, nsvq_meta *m)
{
    m->tag = (uint16_t)rd_varint(r, UINT16_MAX);
    m->band = (uint16_t)rd_varint(r, UINT16_MAX);
    m->size = (uint32_t)rd_varint(r, UINT32_MAX);
    m->data = rd_bytes(r, m->size);
}

nsvq_status meta_parse(nsvq_file *f, size_t size, nsvq_error *err)
{
    nsvq_meta m;
    rd r = rd_over(f->meta_bytes, size);
    size_t n = 0;

    for (; rd_left(&r) && !r.bad; n++) {
        parse_record(&r, &m);
        r.bad |= m.band > f->h.n_bands;
    }
    if (r.bad) return fail(err, NSVQ_E_CORRUPT, NO_OFFSET, "metadata: record %zu is bad", n - 1);
    if (n > MAX_META) return fail(err, NSVQ_E_CORRUPT, NO_OFFSET, "%zu metadata records", n);
    f->meta = calloc(n ? n : 1, sizeof *f->meta);
    if (!f->meta) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    r = rd_over(f->meta_bytes, size);
    for (; f->n_meta < n; f->n_meta++) parse_record(&r, &f->meta[f->n_meta]);
    return NSVQ_OK;
}

nsvq_status meta_store(wr *w, const nsvq_meta *meta, uint32_t n, uint32_t n_bands, nsvq_error *err)
{
    if (n > MAX_META) return fail(err, NSVQ_E_ARG, NO_OFFSET, "%u metadata records", n);
    for (uint32_t i = 0; i < n; i++) {
        const nsvq_meta *m = &meta[i];
        if (m->band > n_bands || (m->size && !m->data))
            return fail(err, NSVQ_E_ARG, NO_OFFSET, "metadata record %u: band %u, %u bytes at %p", i,
                        m->band, m->size, m->data);
        wr_varint(w, m->tag);
        wr_varint(w, m->band);
        wr_varint(w, m->size);
        wr_bytes(w, m->data, m->size);
    }
    if (w->bad) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    if (w->size > MAX_SECTION_RAW)
        return fail(err, NSVQ_E_ARG, NO_OFFSET, "%zu bytes of metadata", w->size);
    return NSVQ_OK;
}
