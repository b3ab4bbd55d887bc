/* encode.c - pixels -> blocks. Goes through the rows of blocks in chunks of some blocks side by side;
 * of a chunk one group after the other: its pixels with the analysis' halo are pulled into a strip,
 * its blocks coded in parallel, then all blocks of the chunk are written in the order of the index.
 * Whatever is pulled of the full resolution is halved on the way, into the rows that wait for the
 * level below; a row of blocks there is coded as soon as its pixels and halo are complete, and so on
 * downwards. So memory does not depend on the height, and bytes not on the number of threads. */
#include "encode.h"

enum { OVERVIEWS_LESS = 10 /* driver/README.md has the figures */ };

enum { MAX_CHUNK = 64, MIN_CHUNK = 4, CHUNK_PIECES = 256 }; /* blocks; blocks times groups, about */
enum { CHUNK_BYTES = 256 << 20 }; /* of exact samples, about */

/* ---- halving of the chunk ---- */

/* Fills e->valid, from mask number `mask` or the alpha band, and halves it too. */
static nsvq_status load_valid(encoder *e, uint32_t mask, nsvq_error *err)
{
    const nsvq_raster *r = &e->r;
    uint32_t w, h;

    block_extent(&e->w.h, 0, e->bx0 + e->n - 1, e->by, &w, &h);
    w += (e->n - 1) * BLOCK;
    uint8_t *to = e->valid;
    nsvq_pull p = {.x = e->bx0 * BLOCK, .y = e->by * BLOCK, .w = w, .h = h, .first = mask, .n = 1, .pixels = to,
                   .pixel_stride = 1, .row_stride = w};
    if (e->w.h.n_masks) {
        if (r->read_mask(r->user, &p)) return pull_failed(&p, err);
    } else { // of a wider alpha band what is not 0
        size_t bytes = nsvq_type_bytes(type_of(&r->bands[r->alpha])), n = (size_t)w * h;
        uint8_t *wide = malloc(n * bytes);
        if (!wide) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
        p.first = r->alpha;
        p.pixels = wide;
        p.pixel_stride = (ptrdiff_t)bytes;
        p.row_stride = (ptrdiff_t)(w * bytes);
        int failed = r->read(r->user, &p);
        for (size_t i = 0; i < n; i++) {
            uint8_t any = 0;
            for (size_t k = 0; k < bytes; k++) any |= wide[i * bytes + k];
            to[i] = any ? 255 : 0;
        }
        free(wide);
        if (failed) return pull_failed(&p, err);
    }
    pyramid_put_mask(&e->pyramid, 1, mask, p.x, p.y, w, h, to, w);
    return NSVQ_OK;
}

/* The strip's own pixels, without halo, to level 1. */
static nsvq_status halve_strip(encoder *e, nsvq_error *err)
{
    const group *g = &e->w.h.groups[e->g];
    const strip *s = &e->strips[0];
    nsvq_status st = NSVQ_OK;
    uint32_t w, h;

    if (e->w.h.n_levels == 1 || g->coding == CODING_MASK) return NSVQ_OK;
    block_extent(&e->w.h, 0, e->bx0 + e->n - 1, e->by, &w, &h);
    w += (e->n - 1) * BLOCK;
    const uint8_t *px = strip_at(s, e->bx0 * BLOCK, e->by * BLOCK);
    for (uint32_t b = 0; b < g->n_bands; b++) {
        const uint8_t *valid = e->valid;
        uint32_t band = g->first_band + b;
        if (e->w.h.band_masks) st = load_valid(e, band, err);
        if (st != NSVQ_OK) return st;
        if (!e->w.h.n_masks && band == e->r.alpha) valid = NULL; // alpha itself is averaged whole
        pyramid_put(&e->pyramid, 1, band, e->bx0 * BLOCK, e->by * BLOCK, w, h, px + (ptrdiff_t)b * s->band_stride,
                    (ptrdiff_t)s->item, s->stride, valid, w);
    }
    return NSVQ_OK;
}

/* ---- chunks, rows, levels ---- */

static bool go_on(encoder *e)
{
    double total = 0, done = (double)atomic_load(&e->done);

    for (uint32_t l = 0; l < e->w.h.n_levels; l++) total += (double)e->w.h.levels[l].n_entries;
    return !e->r.progress || e->r.progress(e->r.user, done / total);
}

static int encode_task(void *user, int thread, size_t item)
{
    encoder *e = user;
    wr *out = &e->pieces[item * e->w.h.n_groups + e->g];
    nsvq_status st = encode_block(e, &e->slots[thread], e->bx0 + (uint32_t)item, out);

    atomic_fetch_add(&e->done, 1);
    if (st == NSVQ_OK && !thread && !go_on(e)) st = NSVQ_E_CANCELLED; // thread 0 is the caller's
    if (st != NSVQ_OK) atomic_store(&e->status, (int)st);
    return st != NSVQ_OK;
}

static nsvq_status encode_chunk(encoder *e, nsvq_error *err)
{
    uint32_t n_groups = e->w.h.n_groups;
    size_t n = (size_t)e->n * n_groups;
    nsvq_status st = NSVQ_OK;

    for (size_t i = 0; i < n; i++) e->pieces[i].size = 0;
    if (!e->level && e->valid && !e->w.h.band_masks) st = load_valid(e, 0, err);
    for (e->g = 0; e->g < n_groups && st == NSVQ_OK; e->g++) {
        if ((st = strip_load(e, err)) != NSVQ_OK) return st;
        if (!e->level && (st = halve_strip(e, err)) != NSVQ_OK) return st;
        pool_run(e->opt.n_threads, e->n, encode_task, e);
        st = (nsvq_status)atomic_load(&e->status);
        if (st != NSVQ_OK) return fail(err, st, NO_OFFSET, "%s", nsvq_status_text(st));
    }
    if (st != NSVQ_OK) return st;
    e->joined.size = 0;
    for (size_t i = 0; i < n; i++) {
        e->sizes[i] = (uint32_t)e->pieces[i].size;
        wr_bytes(&e->joined, e->pieces[i].p, e->pieces[i].size);
    }
    if (e->joined.bad) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    return writer_blocks(&e->w, e->level, e->joined.p, e->sizes, n, err);
}

static nsvq_status encode_row(encoder *e, uint32_t level, uint32_t by, nsvq_error *err)
{
    uint32_t blocks_x = e->w.h.levels[level].blocks_x;

    e->level = level;
    e->by = by;
    for (e->bx0 = 0; e->bx0 < blocks_x; e->bx0 += e->n) {
        e->n = blocks_x - e->bx0 < e->chunk ? blocks_x - e->bx0 : e->chunk;
        nsvq_status st = encode_chunk(e, err);
        if (st != NSVQ_OK) return st;
        if (!go_on(e)) return fail(err, NSVQ_E_CANCELLED, NO_OFFSET, "cancelled");
    }
    return NSVQ_OK;
}

static nsvq_status encode_blocks(encoder *e, nsvq_error *err)
{
    const header *h = &e->w.h;
    nsvq_status st = NSVQ_OK;
    uint32_t by;

    for (uint32_t row = 0; row < h->levels[0].blocks_y && st == NSVQ_OK; row++) {
        st = encode_row(e, 0, row, err);
        if (st == NSVQ_OK) pyramid_advance(&e->pyramid, (uint64_t)(row + 1) * BLOCK);
        for (uint32_t l = 1; l < h->n_levels && st == NSVQ_OK; l++) {
            pyramid_halve(&e->pyramid, l);
            while (st == NSVQ_OK && pyramid_ready(&e->pyramid, l, &by)) st = encode_row(e, l, by, err);
            pyramid_drop(&e->pyramid, l);
        }
    }
    return st;
}

/* ---- memory ---- */

/* Bytes of a block of the largest group with an exact layer; *all: of all of them. */
static size_t exact_bytes(const header *h, size_t *all)
{
    size_t most = 0;

    *all = 0;
    for (uint32_t i = 0; i < h->n_groups; i++) {
        const group *g = &h->groups[i];
        bool may_have = g->coding == NSVQ_CODING_EXACT || has_range(g);
        size_t bytes = may_have ? group_planes(g) * group_bytes(g) * BLOCK * BLOCK : 0;
        most = bytes > most ? bytes : most;
        *all += bytes;
    }
    return most;
}

static nsvq_status encoder_room(encoder *e, nsvq_error *err)
{
    uint32_t n_groups = e->w.h.n_groups, blocks_x = e->w.h.levels[0].blocks_x;

    e->chunk = CHUNK_PIECES / n_groups;
    size_t all, exact = exact_bytes(&e->w.h, &all);
    if (all && e->chunk > CHUNK_BYTES / all) e->chunk = (uint32_t)(CHUNK_BYTES / all);
    e->chunk = e->chunk < MIN_CHUNK ? MIN_CHUNK : e->chunk > MAX_CHUNK ? MAX_CHUNK : e->chunk;
    e->chunk = e->chunk < blocks_x ? e->chunk : blocks_x;
    e->strips[0].g = e->strips[1].g = UINT32_MAX; // of no group yet
    e->pieces = calloc((size_t)e->chunk * n_groups, sizeof *e->pieces);
    e->sizes = calloc((size_t)e->chunk * n_groups, sizeof *e->sizes);
    e->slots = calloc((size_t)e->opt.n_threads, sizeof *e->slots);
    bool ok = e->pieces && e->sizes && e->slots;
    for (int i = 0; ok && i < e->opt.n_threads; i++) ok = slot_create(e, &e->slots[i], exact);
    if (e->w.h.n_levels > 1) {
        ok = ok && pyramid_create(&e->pyramid, &e->w.h, &e->r, e->model ? e->halo * e->model->desc.stride : 0);
        if (e->w.h.n_masks || e->r.has_alpha) {
            e->valid = malloc((size_t)e->chunk * BLOCK * BLOCK);
            ok = ok && e->valid;
        }
    }
    return ok ? NSVQ_OK : fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
}

static void encoder_free(encoder *e)
{
    for (int i = 0; e->slots && i < e->opt.n_threads; i++) slot_free(&e->slots[i]);
    for (size_t i = 0; e->pieces && i < (size_t)e->chunk * e->w.h.n_groups; i++) wr_free(&e->pieces[i]);
    free(e->slots);
    free(e->pieces);
    free(e->sizes);
    free(e->strips[0].px);
    free(e->strips[1].px);
    free(e->valid);
    pyramid_free(&e->pyramid);
    wr_free(&e->joined);
    writer_free(&e->w);
    nsvq_model_release(e->model);
    free(e->bands);
}

/* ---- before the first block ---- */

static bool range_fits(const nsvq_band *b)
{
    if (!b->has_range || is_exact(b) || type_of(b) == NSVQ_TYPE_U8) return true;
    if (type_of(b) != NSVQ_TYPE_F32 && (b->low | b->high) > UINT16_MAX) return false;
    return range_valid(type_of(b), (range){b->low, b->high});
}

static nsvq_status check_arguments(encoder *e, const nsvq_sink *sink, const nsvq_raster *raster,
                                   const nsvq_encode_options *opt, nsvq_error *err)
{
    nsvq_raster *r = &e->r;
    nsvq_encode_options *o = &e->opt;
    nsvq_status st;

    if (!sink || !sink->write_at || !raster) return fail(err, NSVQ_E_ARG, NO_OFFSET, "no sink or raster");
    if (!kernels_get()) return fail(err, NSVQ_E_ARG, NO_OFFSET, "NSVQ_CPU holds an unknown word");
    if ((st = copy_options(r, sizeof *r, raster, "nsvq_raster", err)) != NSVQ_OK) return st;
    if ((st = copy_options(o, sizeof *o, opt, "nsvq_encode_options", err)) != NSVQ_OK) return st;
    if (!r->width || !r->height || r->width > MAX_DIMENSION || r->height > MAX_DIMENSION ||
        !r->n_bands || r->n_bands > MAX_BANDS)
        return fail(err, NSVQ_E_ARG, NO_OFFSET, "%u x %u pixels, %u bands", r->width, r->height,
                    r->n_bands);
    if (r->has_mask > 2 || (r->has_alpha && r->alpha >= r->n_bands))
        return fail(err, NSVQ_E_ARG, NO_OFFSET, "has_mask %u, alpha %u", r->has_mask, r->alpha);
    if (!r->bands || !r->read || (r->has_mask && !r->read_mask) || (r->n_meta && !r->meta))
        return fail(err, NSVQ_E_ARG, NO_OFFSET, "a field of nsvq_raster is NULL");
    if (!o->quality) o->quality = 50;
    if (!o->n_threads) o->n_threads = 1;
    if (!o->effort) o->effort = 5;
    if (o->effort < 1 || o->effort > MAX_EFFORT) return fail(err, NSVQ_E_ARG, NO_OFFSET, "effort %d", o->effort);
    if (!(o->quality >= 1 && o->quality <= 100) || o->family < 0 || o->family > NSVQ_FAMILY_HYPER ||
        o->n_threads < 1 || o->embed < 0 || o->embed > 2)
        return fail(err, NSVQ_E_ARG, NO_OFFSET, "quality %g, family %d, %d threads, embed %d", o->quality,
                    o->family, o->n_threads, o->embed);
    if (o->overview_quality != 0 && !(o->overview_quality >= 1 && o->overview_quality <= 100))
        return fail(err, NSVQ_E_ARG, NO_OFFSET, "overview_quality %g", o->overview_quality);
    if (!(o->rate >= 0) || !(o->psnr >= 0) || o->rate > 1e6 || o->psnr > 1e3 || (o->rate > 0 && o->psnr > 0))
        return fail(err, NSVQ_E_ARG, NO_OFFSET, "rate %g, PSNR %g", o->rate, o->psnr);
    if (o->n_threads > MAX_THREADS) o->n_threads = MAX_THREADS;
    if (!o->max_group) o->max_group = 32;
    if (o->max_group > MAX_GROUP) return fail(err, NSVQ_E_ARG, NO_OFFSET, "groups of %u bands", o->max_group);
    for (uint32_t b = 0; b < r->n_bands; b++) {
        const nsvq_band *band = &r->bands[b];
        size_t bytes = band->type ? nsvq_type_bytes((nsvq_type)band->type) : 1;
        if (!bytes || (band->has_nodata && (band->type > NSVQ_TYPE_COMPLEX ||
                                            (bytes < 8 && band->nodata >> (8 * bytes)))) ||
            band->resampling > NSVQ_MODE || !range_fits(band))
            return fail(err, NSVQ_E_ARG, NO_OFFSET, "band %u: type %u, nodata %llx, resampling %u, range %x to %x", b,
                        band->type, (unsigned long long)band->nodata, band->resampling, band->low, band->high);
    }
    return NSVQ_OK;
}

/* Bands from `first` on that share a group: three or one lossy ones; exact ones so that the groups of
 * all that could share one are about equal. */
static uint32_t group_size(const encoder *e, uint32_t first)
{
    const nsvq_raster *r = &e->r;
    const nsvq_band *band = &r->bands[first];
    uint32_t n = 1, most = e->opt.max_group;

    while (first + n < r->n_bands && is_pair(band, band + n)) n++;
    if (!is_exact(band)) return n >= 3 && !band->alone ? 3 : 1;
    uint32_t n_groups = (n + most - 1) / most;
    return (n + n_groups - 1) / n_groups;
}

static nsvq_status plan_groups(const encoder *e, header *h, nsvq_error *err)
{
    const nsvq_raster *r = &e->r;

    h->n_masks = r->has_mask == 2 ? r->n_bands : r->has_mask;
    h->band_masks = r->has_mask == 2;
    h->groups = calloc((size_t)r->n_bands + h->n_masks, sizeof *h->groups);
    if (!h->groups) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    for (uint32_t b = 0; b < r->n_bands; b += h->groups[h->n_groups++].n_bands) {
        const nsvq_band *band = &r->bands[b];
        unsigned type = type_of(band);
        uint32_t n = group_size(e, b);
        h->groups[h->n_groups] = (group){
            .coding = is_exact(band) ? NSVQ_CODING_EXACT : n == 3 ? NSVQ_CODING_LOSSY3 : NSVQ_CODING_LOSSY1,
            .type = (uint8_t)(type & ~(unsigned)NSVQ_TYPE_COMPLEX),
            .complex = type > NSVQ_TYPE_COMPLEX,
            .has_nodata = !!band->has_nodata,
            .nodata = band->has_nodata ? band->nodata : 0,
            .n_bands = n,
            .first_band = b};
        group *g = &h->groups[h->n_groups];
        for (uint32_t i = 0; has_range(g) && i < n; i++) g->range[i] = (range){band[i].low, band[i].high};
    }
    for (uint32_t i = 0; i < h->n_masks; i++)
        h->groups[h->n_groups++] = (group){.coding = CODING_MASK, .first_band = i};
    h->n_bands = r->n_bands;
    return NSVQ_OK;
}

static nsvq_status take_model(encoder *e, header *h, nsvq_error *err)
{
    bool lossy = false;

    for (uint32_t g = 0; g < h->n_groups; g++) lossy |= is_lossy(&h->groups[g]);
    if (!lossy) return NSVQ_OK;
    if (e->opt.model) {
        e->model = model_retain(e->opt.model);
    } else {
        nsvq_status st = scale_model(&e->model, e->opt.family, e->opt.quality, err);
        if (st != NSVQ_OK) return st;
    }
    const nsvq_model_desc *m = &e->model->desc;
    if (!m->has_analysis)
        return fail(err, NSVQ_E_ARG, NO_OFFSET, "model '%.31s' is a decode-only copy", m->name);
    e->halo = (uint32_t)nsvq_engine_analysis_halo(e->model->engine);
    h->quality16 = (uint16_t)(16 * e->opt.quality + 0.5);
    bool own = e->opt.model || e->opt.family == NSVQ_FAMILY_VQ;
    e->quality16[0] = scale_quality16(e->model, own, e->opt.quality);
    e->quality16[1] = e->quality16[0] - 16 * OVERVIEWS_LESS;
    if (e->opt.overview_quality > 0) e->quality16[1] = scale_quality16(e->model, own, e->opt.overview_quality);
    if (e->quality16[1] < NSVQ_MIN_QUALITY16) e->quality16[1] = NSVQ_MIN_QUALITY16;
    for (int i = 0; i < 2 && m->family == NSVQ_FAMILY_VQ; i++) h->quality[i] = (uint8_t)(e->quality16[i] >> 4);
    h->model_id = e->model->id;
    memcpy(h->model_name, m->name, sizeof h->model_name);
    return NSVQ_OK;
}

static nsvq_status add_section(header *h, wr *payload, section s, const uint8_t *raw, nsvq_error *err)
{
    wr_deflate(&payload[h->n_sections], raw, (size_t)s.raw, s.kind == SECTION_META);
    if (payload[h->n_sections].bad) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    h->sections[h->n_sections++] = s;
    return NSVQ_OK;
}

static nsvq_status add_sections(const encoder *e, header *h, wr *payload, nsvq_error *err)
{
    nsvq_status st;

    if (e->r.n_meta) {
        wr raw = {0};
        st = meta_store(&raw, e->r.meta, e->r.n_meta, h->n_bands, err);
        section s = {.kind = SECTION_META, .mandatory = true, .raw = raw.size};
        if (st == NSVQ_OK) st = add_section(h, payload, s, raw.p, err);
        wr_free(&raw);
        if (st != NSVQ_OK) return st;
    }
    if (e->model && (e->opt.embed == 1 || (e->opt.embed == 0 && !model_is_shipped(e->model->id)))) {
        section s = {.kind = SECTION_MODEL, .behind_index = true};
        size_t size;
        uint8_t *raw = nsvq_model_store(&e->model->desc, 0, &size);
        if (!raw) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
        s.raw = size;
        st = add_section(h, payload, s, raw, err);
        free(raw);
        return st;
    }
    return NSVQ_OK;
}

static nsvq_status begin(encoder *e, const nsvq_sink *sink, nsvq_error *err)
{
    header h = {.width = e->r.width, .height = e->r.height};
    wr payload[2] = {{0}};
    nsvq_status st = plan_groups(e, &h, err);

    h.n_levels = (uint8_t)levels_of(h.width, h.height);
    if (e->opt.n_levels && e->opt.n_levels < h.n_levels) h.n_levels = (uint8_t)e->opt.n_levels;

    if (st == NSVQ_OK) st = take_model(e, &h, err);
    if (st == NSVQ_OK) st = add_sections(e, &h, payload, err);
    if (st == NSVQ_OK) st = writer_begin(&e->w, sink, &h, payload, err);
    wr_free(&payload[0]);
    wr_free(&payload[1]);
    header_free(&h);
    return st == NSVQ_OK ? encoder_room(e, err) : st;
}

static nsvq_status take_ranges(encoder *e, nsvq_error *err)
{
    e->bands = malloc(e->r.n_bands * sizeof *e->bands);
    if (!e->bands) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    memcpy(e->bands, e->r.bands, e->r.n_bands * sizeof *e->bands);
    e->r.bands = e->bands;
    return measure_ranges(&e->r, e->bands, err);
}

nsvq_status nsvq_encode(const nsvq_sink *sink, const nsvq_raster *raster,
                        const nsvq_encode_options *opt, uint64_t *bytes, nsvq_error *err)
{
    encoder e = {0};
    uint64_t size;
    nsvq_status st = check_arguments(&e, sink, raster, opt, err);

    if (bytes) *bytes = 0;
    if (st == NSVQ_OK) st = take_ranges(&e, err);
    if (st == NSVQ_OK && (e.opt.rate > 0 || e.opt.psnr > 0)) st = find_quality(&e.r, &e.opt, err);
    if (st == NSVQ_OK && (st = begin(&e, sink, err)) == NSVQ_OK) {
        st = go_on(&e) ? NSVQ_OK : fail(err, NSVQ_E_CANCELLED, NO_OFFSET, "cancelled");
        if (st == NSVQ_OK) st = encode_blocks(&e, err);
        if (st == NSVQ_OK) st = writer_end(&e.w, &size, err);
        if (st == NSVQ_OK && bytes) *bytes = size;
    }
    encoder_free(&e);
    return st;
}
