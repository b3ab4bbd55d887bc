/* header.c - the header (FORMAT.md 3.1), and the places that follow from it. */
#include "codec.h"

/* As PNG's: a high bit, then what text-mode transfers change (CR LF) or stop at (^Z). */
static const uint8_t signature[SIGNATURE_BYTES] = {0x8e, 'N', 'S', 'V', 'Q', '\r', '\n', 0x1a};

enum { LOG2_BLOCK = 9, SIZE_AT = 12 };
enum { GROUP_CODING = 0x0f, GROUP_NODATA = 0x10, GROUP_OF_BANDS = 0x20 };
enum { TYPE_BASE = 0x0f, TYPE_COMPLEX = 0x10 };
enum { SECTION_KIND = 0x3f, SECTION_BEHIND = 0x40, SECTION_MANDATORY = 0x80 };

int nsvq_identify(const void *bytes, size_t size)
{
    return bytes && size >= PREFIX_BYTES && !memcmp(bytes, signature, sizeof signature);
}

nsvq_status header_prefix(const uint8_t *bytes, uint32_t *header_bytes, nsvq_error *err)
{
    rd r = rd_over(bytes + SIGNATURE_BYTES, PREFIX_BYTES - SIGNATURE_BYTES);

    if (!nsvq_identify(bytes, PREFIX_BYTES))
        return fail(err, NSVQ_E_CORRUPT, 0, "no NSVQ signature");
    uint16_t version = rd_u16(&r);
    if (version != FORMAT_VERSION)
        return fail(err, NSVQ_E_UNSUPPORTED, SIGNATURE_BYTES,
                    "format version %u; this library reads version %d", version, FORMAT_VERSION);
    *header_bytes = rd_u16(&r);
    if (*header_bytes <= PREFIX_BYTES + 8 + SEAL_BYTES)
        return fail(err, NSVQ_E_CORRUPT, SIGNATURE_BYTES + 2, "header of %u bytes", *header_bytes);
    return NSVQ_OK;
}

void header_seal(wr *head, uint64_t file_size)
{
    put_le(head->p + SIZE_AT, file_size, 8);
    put_le(head->p + head->size - SEAL_BYTES, checksum(0, head->p, head->size - SEAL_BYTES), SEAL_BYTES);
}

static nsvq_status check_seal(const uint8_t *bytes, uint32_t header_bytes, uint64_t file_size, bool any_size,
                              nsvq_error *err)
{
    uint32_t n = header_bytes - SEAL_BYTES;
    rd size = rd_over(bytes + SIZE_AT, 8), crc = rd_over(bytes + n, SEAL_BYTES);
    uint64_t written = rd_u64(&size);

    if (!same_checksum(rd_u32(&crc), checksum(0, bytes, n)))
        return fail(err, NSVQ_E_CORRUPT, 0, "header: checksum differs");
    if (written != file_size && !any_size)
        return fail(err, NSVQ_E_CORRUPT, SIZE_AT, "written with %llu bytes, now %llu: the file is cut or has grown",
                    (unsigned long long)written, (unsigned long long)file_size);
    return NSVQ_OK;
}

static bool is_type(unsigned base, bool is_complex)
{
    if (!is_complex) return base >= NSVQ_TYPE_U8 && base <= NSVQ_TYPE_F64;
    return base == NSVQ_TYPE_S16 || base == NSVQ_TYPE_S32 || base == NSVQ_TYPE_F32 || base == NSVQ_TYPE_F64;
}

size_t nsvq_type_bytes(nsvq_type type)
{
    static const uint8_t bytes[] = {0, 1, 1, 2, 2, 4, 4, 8, 8, 4, 8};
    unsigned base = (unsigned)type & ~(unsigned)NSVQ_TYPE_COMPLEX;
    bool is_complex = base != (unsigned)type;

    return is_type(base, is_complex) ? (size_t)bytes[base] << is_complex : 0;
}

/* What stands behind a run's first byte, but for its count. */
static nsvq_status parse_group(rd *r, group *g, uint64_t at, nsvq_error *err)
{
    uint8_t type;

    switch (g->coding) {
    case NSVQ_CODING_LOSSY3:
    case NSVQ_CODING_LOSSY1:
        g->n_bands = g->coding == NSVQ_CODING_LOSSY3 ? 3 : 1;
        g->type = rd_u8(r);
        if (!r->bad && g->type != NSVQ_TYPE_U8 && !range_type(g->type))
            return fail(err, NSVQ_E_UNSUPPORTED, at, "lossy band group with sample type %u", g->type);
        break;
    case NSVQ_CODING_EXACT:
        type = rd_u8(r);
        g->type = type & TYPE_BASE;
        g->complex = !!(type & TYPE_COMPLEX);
        g->n_bands = (uint32_t)rd_varint(r, MAX_GROUP);
        if (!r->bad && ((type & ~(TYPE_BASE | TYPE_COMPLEX)) || !is_type(g->type, g->complex)))
            return fail(err, NSVQ_E_UNSUPPORTED, at, "band group with unknown sample type %u", type);
        r->bad |= !g->n_bands || (g->complex && g->has_nodata);
        break;
    case CODING_MASK:
        r->bad |= g->has_nodata;
        break;
    default: // a number from the file, not an enumerator
        return fail(err, NSVQ_E_UNSUPPORTED, at, "band group with unknown coding %u", g->coding);
    }
    if (!r->bad && g->has_nodata) g->nodata = rd_le(r, (int)group_bytes(g));
    return NSVQ_OK;
}

static nsvq_status parse_run(rd *r, group *g, uint32_t *count, bool *of_bands, const uint8_t *origin,
                             nsvq_error *err)
{
    uint64_t at = (uint64_t)(r->p - origin);
    uint8_t b = rd_u8(r);

    *g = (group){.coding = b & GROUP_CODING, .has_nodata = !!(b & GROUP_NODATA)};
    *of_bands = !!(b & GROUP_OF_BANDS);
    r->bad |= !!(b & ~(GROUP_CODING | GROUP_NODATA | GROUP_OF_BANDS)) || (*of_bands && g->coding != CODING_MASK);
    nsvq_status st = r->bad ? NSVQ_OK : parse_group(r, g, at, err);
    if (st != NSVQ_OK) return st;
    *count = (uint32_t)rd_varint(r, MAX_BANDS);
    if (r->bad || !*count || (g->coding == CODING_MASK && !*of_bands && *count > 1))
        return fail(err, NSVQ_E_CORRUPT, at, "header: bad band group");
    return NSVQ_OK;
}

static void parse_ranges(rd *r, group *g)
{
    for (uint32_t b = 0; has_range(g) && b < g->n_bands; b++) {
        g->range[b].low = (uint32_t)rd_le(r, (int)group_bytes(g));
        g->range[b].high = (uint32_t)rd_le(r, (int)group_bytes(g));
        r->bad |= !range_valid(g->type, g->range[b]);
    }
}

/* Reads the runs twice: first to count, so that groups are allocated only once the caller knows that
 * an index of that size fits the file. */
static nsvq_status parse_groups(header *h, rd *r, const uint8_t *origin, nsvq_error *err)
{
    uint64_t at = (uint64_t)(r->p - origin);
    uint32_t n_runs = (uint32_t)rd_varint(r, MAX_BANDS + 1), count;
    group g;

    h->n_groups = h->n_bands = h->n_masks = 0;
    for (uint32_t i = 0; i < n_runs; i++) {
        nsvq_status st = parse_run(r, &g, &count, &h->band_masks, origin, err);
        if (st != NSVQ_OK) return st;
        if (h->n_masks || count * g.n_bands > MAX_BANDS - h->n_bands)
            return fail(err, NSVQ_E_CORRUPT, at, "header: too many bands, or one behind the masks");
        if (h->band_masks && count != h->n_bands)
            return fail(err, NSVQ_E_CORRUPT, at, "header: %u masks for %u bands", count, h->n_bands);
        if (g.coding == CODING_MASK) h->n_masks = count;
        for (uint32_t k = 0; k < count; k++, h->n_groups++, h->n_bands += g.n_bands) {
            g.first_band = g.coding == CODING_MASK ? k : h->n_bands;
            parse_ranges(r, &g);
            if (h->groups) h->groups[h->n_groups] = g;
        }
    }
    if (r->bad || !h->n_bands) return fail(err, NSVQ_E_CORRUPT, at, "header: no bands, or a bad range");
    return NSVQ_OK;
}

static bool any_lossy(const header *h)
{
    for (uint32_t g = 0; g < h->n_groups; g++)
        if (is_lossy(&h->groups[g])) return true;
    return false;
}

static nsvq_status parse_model(header *h, rd *r, const uint8_t *origin, nsvq_error *err)
{
    uint64_t at = (uint64_t)(r->p - origin);

    h->quality16 = rd_u16(r);
    h->quality[0] = rd_u8(r);
    h->quality[1] = rd_u8(r);
    h->model_id = rd_u64(r);
    size_t n = rd_u8(r);
    const uint8_t *name = rd_bytes(r, n);
    if (!name || n >= sizeof h->model_name || h->quality16 < NSVQ_MIN_QUALITY16 ||
        h->quality16 > NSVQ_MAX_QUALITY16 || h->quality[0] > 100 || h->quality[1] > 100 ||
        !h->quality[0] != !h->quality[1] || !h->model_id)
        return fail(err, NSVQ_E_CORRUPT, at, "header: bad quality or model");
    for (size_t i = 0; i < n; i++)
        if (name[i] < ' ' || name[i] > '~')
            return fail(err, NSVQ_E_CORRUPT, at, "header: bad model name");
    memcpy(h->model_name, name, n);
    return NSVQ_OK;
}

static nsvq_status parse_sections(header *h, rd *r, const uint8_t *origin, nsvq_error *err)
{
    uint64_t at = (uint64_t)(r->p - origin);
    uint64_t seen = 0;

    h->n_sections = (uint32_t)rd_varint(r, MAX_SECTIONS);
    for (uint32_t i = 0; i < h->n_sections; i++) {
        section *s = &h->sections[i];
        uint8_t b = rd_u8(r);
        s->kind = b & SECTION_KIND;
        s->behind_index = b & SECTION_BEHIND;
        s->mandatory = b & SECTION_MANDATORY;
        s->stored = rd_varint(r, UINT64_MAX);
        s->raw = rd_varint(r, UINT64_MAX);
        s->crc = rd_u32(r);
        if (r->bad || seen >> s->kind & 1)
            return fail(err, NSVQ_E_CORRUPT, at, "header: bad section table");
        seen |= UINT64_C(1) << s->kind;
        bool known = s->kind == SECTION_META || s->kind == SECTION_MODEL;
        if (!known && s->mandatory)
            return fail(err, NSVQ_E_UNSUPPORTED, at, "mandatory section of unknown kind %u", s->kind);
        // no deflate stream expands by more than 1032; a model's parts are deflated already
        uint64_t most = s->kind == SECTION_MODEL ? 64 : 1032;
        if (known && (s->raw > MAX_SECTION_RAW || s->raw / most > s->stored))
            return fail(err, NSVQ_E_CORRUPT, at, "section %u of %llu bytes claims %llu", s->kind,
                        (unsigned long long)s->stored, (unsigned long long)s->raw);
    }
    return r->bad ? fail(err, NSVQ_E_CORRUPT, at, "header: bad section table") : NSVQ_OK;
}

/* Size of a picture's side at a level. */
static uint32_t reduced(uint32_t side, uint32_t l)
{
    return ((side - 1) >> l) + 1;
}

uint32_t levels_of(uint32_t width, uint32_t height)
{
    uint32_t most = width > height ? width : height, n = 1;

    while (reduced(most, n - 1) > BLOCK) n++;
    return n;
}

/* The index at `at`, coarse levels first. False when it passes 2^64. */
static bool place_index(header *h, uint64_t *at)
{
    h->index_offset = *at;
    h->n_pages = 0;
    for (uint32_t l = h->n_levels; l-- > 0;) {
        grid *v = &h->levels[l];
        *v = (grid){.width = reduced(h->width, l), .height = reduced(h->height, l),
                     .first_page = h->n_pages, .index_offset = *at};
        v->blocks_x = (v->width - 1) / BLOCK + 1;
        v->blocks_y = (v->height - 1) / BLOCK + 1;
        // at most 2^22 * 2^22 * 2^15 entries of 4 bytes
        v->n_entries = (uint64_t)v->blocks_x * v->blocks_y * h->n_groups;
        h->n_pages += (v->n_entries + PAGE_ENTRIES - 1) / PAGE_ENTRIES;
        if (!add_u64(at, *at, index_bytes(v->n_entries))) return false;
    }
    return true;
}

/* Offsets of sections, index and blocks. False when they pass 2^64. */
static bool place(header *h, uint64_t header_bytes)
{
    uint64_t at = header_bytes;

    for (int behind = 0; behind < 2; behind++) {
        if (behind && !place_index(h, &at)) return false;
        for (uint32_t i = 0; i < h->n_sections; i++) {
            section *s = &h->sections[i];
            if (s->behind_index != behind) continue;
            s->offset = at;
            if (!add_u64(&at, at, s->stored)) return false;
        }
    }
    h->blocks_offset = at;
    return true;
}

static nsvq_status parse_picture(header *h, rd *r, nsvq_error *err)
{
    h->width = (uint32_t)rd_varint(r, MAX_DIMENSION);
    h->height = (uint32_t)rd_varint(r, MAX_DIMENSION);
    uint8_t log2_block = rd_u8(r);
    h->n_levels = rd_u8(r);
    if (r->bad || !h->width || !h->height)
        return fail(err, NSVQ_E_CORRUPT, PREFIX_BYTES, "header: bad size");
    if (log2_block != LOG2_BLOCK) return fail(err, NSVQ_E_UNSUPPORTED, PREFIX_BYTES, "blocks of 2^%u", log2_block);
    if (!h->n_levels || h->n_levels > levels_of(h->width, h->height))
        return fail(err, NSVQ_E_CORRUPT, PREFIX_BYTES, "header: %u levels", h->n_levels);
    return NSVQ_OK;
}

nsvq_status header_parse(header *h, const uint8_t *bytes, uint32_t header_bytes,
                         uint64_t file_size, bool any_size, nsvq_error *err)
{
    rd r = rd_over(bytes, header_bytes - SEAL_BYTES);
    nsvq_status st = check_seal(bytes, header_bytes, file_size, any_size, err);

    *h = (header){0};
    if (st != NSVQ_OK) return st;
    rd_bytes(&r, PREFIX_BYTES + 8);
    if ((st = parse_picture(h, &r, err)) != NSVQ_OK) return st;

    rd runs = r;
    if ((st = parse_groups(h, &r, bytes, err)) != NSVQ_OK) return st;
    if (!place(h, header_bytes) || h->blocks_offset > file_size)
        return fail(err, NSVQ_E_CORRUPT, PREFIX_BYTES,
                    "%u x %u pixels in %u groups need a larger index than the file has bytes",
                    h->width, h->height, h->n_groups);
    h->groups = calloc(h->n_groups, sizeof *h->groups);
    if (!h->groups) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    parse_groups(h, &runs, bytes, NULL);

    if (any_lossy(h) && (st = parse_model(h, &r, bytes, err)) != NSVQ_OK) goto failed;
    if ((st = parse_sections(h, &r, bytes, err)) != NSVQ_OK) goto failed;
    if (rd_left(&r)) {
        st = fail(err, NSVQ_E_CORRUPT, header_bytes - rd_left(&r), "header: bytes left over");
        goto failed;
    }
    if (!place(h, header_bytes) || h->blocks_offset > file_size) {
        st = fail(err, NSVQ_E_CORRUPT, PREFIX_BYTES, "sections pass the end of the file");
        goto failed;
    }
    return NSVQ_OK;
failed:
    header_free(h);
    return st;
}

static void store_groups(const header *h, wr *w)
{
    wr runs = {0};
    uint32_t n_runs = 0;

    for (uint32_t i = 0, n; i < h->n_groups; i += n, n_runs++) {
        const group *g = &h->groups[i];
        for (n = 1; i + n < h->n_groups; n++) {
            const group *next = g + n;
            if (next->coding != g->coding || next->type != g->type || next->complex != g->complex ||
                next->n_bands != g->n_bands || next->has_nodata != g->has_nodata ||
                next->nodata != g->nodata)
                break;
        }
        bool of_bands = g->coding == CODING_MASK && h->band_masks;
        wr_le(&runs, g->coding | (g->has_nodata ? GROUP_NODATA : 0u) | (of_bands ? GROUP_OF_BANDS : 0u), 1);
        if (g->coding != CODING_MASK) wr_le(&runs, g->type | (g->complex ? TYPE_COMPLEX : 0u), 1);
        if (g->coding == NSVQ_CODING_EXACT) wr_varint(&runs, g->n_bands);
        if (g->has_nodata) wr_le(&runs, g->nodata, (int)group_bytes(g));
        wr_varint(&runs, n);
        for (uint32_t k = 0; has_range(g) && k < n; k++)
            for (uint32_t b = 0; b < g->n_bands; b++) {
                wr_le(&runs, g[k].range[b].low, (int)group_bytes(g));
                wr_le(&runs, g[k].range[b].high, (int)group_bytes(g));
            }
    }
    wr_varint(w, n_runs);
    wr_bytes(w, runs.p, runs.size);
    w->bad |= runs.bad;
    wr_free(&runs);
}

nsvq_status header_store(header *h, wr *w, nsvq_error *err)
{
    wr_bytes(w, signature, sizeof signature);
    wr_le(w, FORMAT_VERSION, 2);
    wr_le(w, 0, 2); // patched below
    wr_le(w, 0, 8); // the file's size, patched at the end
    wr_varint(w, h->width);
    wr_varint(w, h->height);
    wr_le(w, LOG2_BLOCK, 1);
    wr_le(w, h->n_levels, 1);
    store_groups(h, w);
    if (any_lossy(h)) {
        size_t n = strlen(h->model_name);
        wr_le(w, h->quality16, 2);
        wr_le(w, h->quality[0], 1);
        wr_le(w, h->quality[1], 1);
        wr_le(w, h->model_id, 8);
        wr_le(w, n, 1);
        wr_bytes(w, h->model_name, n);
    }
    wr_varint(w, h->n_sections);
    for (uint32_t i = 0; i < h->n_sections; i++) {
        const section *s = &h->sections[i];
        wr_le(w, s->kind | (s->behind_index ? SECTION_BEHIND : 0u) |
                     (s->mandatory ? SECTION_MANDATORY : 0u), 1);
        wr_varint(w, s->stored);
        wr_varint(w, s->raw);
        wr_le(w, s->crc, 4);
    }
    wr_le(w, 0, SEAL_BYTES);
    if (w->bad) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    if (w->size > UINT16_MAX)
        return fail(err, NSVQ_E_ARG, NO_OFFSET, "too many different bands for one header");
    put_le(w->p + SIGNATURE_BYTES + 2, w->size, 2);
    place(h, w->size);
    return NSVQ_OK;
}

void header_free(header *h)
{
    free(h->groups);
    *h = (header){0};
}

void block_extent(const header *h, uint32_t level, uint32_t bx, uint32_t by, uint32_t *w, uint32_t *h_out)
{
    uint32_t left = h->levels[level].width - bx * BLOCK, below = h->levels[level].height - by * BLOCK;

    *w = left < BLOCK ? left : BLOCK;
    *h_out = below < BLOCK ? below : BLOCK;
}
