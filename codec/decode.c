/* decode.c - the bytes of a stored block (FORMAT.md 4.1) -> what windows need of it. */
#include "codec.h"

typedef struct part {
    const uint8_t *p;
    size_t size;
    bool damaged;
} part;

nsvq_status block_error(nsvq_error *err, nsvq_status st, const entry *e, const header *h,
                        const char *what)
{
    cell c = index_cell(h, e->number);

    if (h->groups[c.g].coding == CODING_MASK)
        return fail(err, st, e->offset, "block (%u, %u) of %s at level %u: %s", c.bx, c.by,
                    h->band_masks ? "a band's mask" : "the mask", c.level, what);
    return fail(err, st, e->offset, "block (%u, %u) of group %u at level %u: %s", c.bx, c.by, c.g,
                c.level, what);
}

/* Splits the block at `r` into its parts. NULL, or what is wrong with it. */
static const char *split(rd *r, const group *g, part parts[3])
{
    static const uint8_t none[1];
    uint8_t flags = rd_u8(r);
    uint8_t needed = is_lossy(g) ? PART_BASE : g->coding == CODING_MASK ? PART_MASK : PART_EXACT;
    uint8_t allowed = needed;

    if (is_lossy(g) && g->has_nodata) allowed |= PART_MASK;
    if (has_range(g)) allowed |= PART_EXACT;

    if ((flags & needed) != needed || (flags & ~allowed)) return "bad flags";
    for (int i = 0; i < 3; i++) {
        parts[i] = (part){.p = none};
        if (!(flags >> i & 1)) continue;
        bool last = !(flags >> (i + 1));
        uint64_t size = last ? 0 : rd_varint(r, UINT32_MAX);
        uint32_t crc = rd_u32(r);
        if (last) size = rd_left(r);
        parts[i].size = (size_t)size;
        parts[i].p = rd_bytes(r, (size_t)size);
        if (r->bad || !size) return "bad sizes";
        uint32_t computed = checksum(checksum(0, &flags, 1), parts[i].p, (size_t)size);
        parts[i].damaged = !same_checksum(crc, computed);
    }
    return NULL;
}

static nsvq_status take_base(const nsvq_file *f, entry *e, const part *p, nsvq_scratch *s,
                             nsvq_error *err)
{
    const nsvq_model_desc *m = &f->model->desc;
    cell c = index_cell(&f->h, e->number);
    uint32_t w, h;

    block_extent(&f->h, c.level, c.bx, c.by, &w, &h);
    int side = m->stride, bw = ((int)w + side - 1) / side, bh = ((int)h + side - 1) / side;
    size_t n = (size_t)bw * (size_t)bh;
    size_t bytes = n * (size_t)nsvq_engine_channels(f->model->engine) * sizeof *e->latents;
    e->latents = malloc(bytes + n);
    if (!e->latents) return block_error(err, NSVQ_E_NOMEM, e, &f->h, "no memory");
    e->quiet = (uint8_t *)e->latents + bytes;
    e->bytes += bytes + n;
    int rc = nsvq_block_decode(f->model->engine, s, p->p, p->size, bw, bh, 16 * vq_quality_at(&f->h, c.level),
                               e->latents, e->quiet);
    if (rc == -1) return block_error(err, NSVQ_E_NOMEM, e, &f->h, "no memory");
    if (rc) return block_error(err, NSVQ_E_CORRUPT, e, &f->h, "base layer: not a valid stream");
    return NSVQ_OK;
}

static nsvq_status take_exact(const nsvq_file *f, entry *e, const part *p, nsvq_scratch *work, nsvq_error *err)
{
    cell c = index_cell(&f->h, e->number);
    const group *g = &f->h.groups[c.g];
    lossless_shape s = {.type = (nsvq_type)g->type, .n_bands = group_planes(g)};

    block_extent(&f->h, c.level, c.bx, c.by, &s.width, &s.height);
    size_t bytes = (size_t)s.width * s.height * s.n_bands * group_bytes(g);
    e->pixels = malloc(bytes);
    if (!e->pixels) return block_error(err, NSVQ_E_NOMEM, e, &f->h, "no memory");
    e->bytes += bytes;
    int rc = lossless_decode(work, e->pixels, &s, p->p, p->size);
    if (rc == -1 && is_lossy(g)) {
        free(e->pixels);
        e->pixels = NULL;
        e->bytes -= bytes;
        e->exact_damaged = true;
        return NSVQ_OK;
    }
    if (rc == -2) return block_error(err, NSVQ_E_NOMEM, e, &f->h, "no memory");
    if (rc) return block_error(err, NSVQ_E_CORRUPT, e, &f->h, "exact layer: not a valid stream");
    return NSVQ_OK;
}

nsvq_status block_parse(const nsvq_file *f, entry *e, const uint8_t *bytes, nsvq_scratch *s,
                        nsvq_error *err)
{
    const group *g = &f->h.groups[index_cell(&f->h, e->number).g];
    part parts[3];

    if (!e->size) {
        if (may_be_empty(g)) return NSVQ_OK;
        return block_error(err, NSVQ_E_CORRUPT, e, &f->h, "not stored");
    }
    rd r = rd_over(bytes, e->size);
    const char *why = split(&r, g, parts);
    if (!why && parts[1].damaged) why = "base layer: checksum differs";
    if (!why && parts[2].damaged && !is_lossy(g)) why = "exact layer: checksum differs";
    if (why) return block_error(err, NSVQ_E_CORRUPT, e, &f->h, why);

    e->mask_damaged = parts[0].damaged;
    if (parts[0].size && !parts[0].damaged) {
        e->mask = malloc(parts[0].size);
        if (!e->mask) return block_error(err, NSVQ_E_NOMEM, e, &f->h, "no memory");
        memcpy(e->mask, parts[0].p, parts[0].size);
        e->mask_bytes = parts[0].size;
        e->bytes += parts[0].size;
    }
    nsvq_status st = is_lossy(g) ? take_base(f, e, &parts[1], s, err) : NSVQ_OK;
    e->exact_damaged = parts[2].damaged;
    if (st == NSVQ_OK && parts[2].size && !parts[2].damaged) st = take_exact(f, e, &parts[2], s, err);
    return st;
}
