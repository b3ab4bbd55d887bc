/* target.c - the quality that meets a rate or a PSNR, by trial: the whole is encoded a few times, for a
 * PSNR also decoded and compared. May include: codec.h. */
#include "codec.h"

#include <math.h>

enum { MAX_TRIALS = 10 };

/* What a trial is measured by: log2 of the bits per pixel, or dB. Both rise with the quality. */
typedef struct goal {
    bool psnr;
    double want, tolerance, slope; /* slope: about, per unit of quality */
} goal;

/* A file in memory; without `keep` only its size. */
typedef struct memory {
    uint8_t *p;
    size_t size, cap;
    bool keep;
} memory;

static int memory_write(void *user, uint64_t offset, const void *bytes, size_t n)
{
    memory *m = user;

    if (offset + n > m->size) m->size = (size_t)offset + n;
    if (!m->keep) return 0;
    if (m->size > m->cap) {
        size_t cap = m->size + m->size / 2 + 4096;
        uint8_t *p = realloc(m->p, cap);
        if (!p) return -1;
        memset(p + m->cap, 0, cap - m->cap);
        m->p = p;
        m->cap = cap;
    }
    memcpy(m->p + offset, bytes, n);
    return 0;
}

static int memory_read(void *user, uint64_t offset, void *to, size_t n)
{
    const memory *m = user;

    if (offset > m->size || n > m->size - offset) return -1;
    memcpy(to, m->p + offset, n);
    return 0;
}

typedef struct error_sum {
    double squares, n, least, most; /* least, most: of the source */
    bool wide;                      /* some have a range */
} error_sum;

/* Adds the squared errors of n bytes of a band; nodata does not count. */
static void add_errors(error_sum *e, const uint8_t *a, const uint8_t *b, size_t n, const nsvq_band *band)
{
    uint64_t sum = 0, count = 0;
    int least = 255, most = 0;

    for (size_t i = 0; i < n; i++) {
        int d = a[i] - b[i];
        if (band->has_nodata && a[i] == band->nodata) continue;
        sum += (uint64_t)(d * d);
        count++;
        least = a[i] < least ? a[i] : least;
        most = a[i] > most ? a[i] : most;
    }
    e->squares += (double)sum;
    e->n += (double)count;
    e->least = fmin(e->least, least);
    e->most = fmax(e->most, most);
}

static void add_wide_errors(error_sum *e, const uint8_t *a, const uint8_t *b, size_t n, const nsvq_band *band)
{
    nsvq_type type = type_of(band);
    size_t bytes = nsvq_type_bytes(type);

    e->wide = true;
    for (size_t i = 0; i < n; i++, a += bytes, b += bytes) {
        uint32_t bits = range_load(type, a);
        double v = range_value(type, bits), d = v - range_value(type, range_load(type, b));
        if (!isfinite(v) || (band->has_nodata && range_is_nodata(type, bits, (uint32_t)band->nodata))) continue;
        e->squares += d * d;
        e->n++;
        e->least = fmin(e->least, v);
        e->most = fmax(e->most, v);
    }
}

static nsvq_status compare(nsvq_decoder *d, const nsvq_raster *r, double *psnr, nsvq_error *err)
{
    size_t most = (size_t)r->width * BLOCK * 4;
    uint8_t *source = malloc(most), *decoded = malloc(most);
    nsvq_status st = source && decoded ? NSVQ_OK : fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    error_sum e = {.least = INFINITY, .most = -INFINITY};

    for (uint32_t y = 0; y < r->height && st == NSVQ_OK; y += BLOCK)
        for (uint32_t b = 0; b < r->n_bands && st == NSVQ_OK; b++) {
            const nsvq_band *band = &r->bands[b];
            uint32_t h = r->height - y < BLOCK ? r->height - y : BLOCK;
            ptrdiff_t bytes = (ptrdiff_t)nsvq_type_bytes(type_of(band));
            nsvq_pull pull = {.y = y, .w = r->width, .h = h, .first = b, .n = 1, .pixels = source,
                              .pixel_stride = bytes, .row_stride = bytes * r->width};
            nsvq_window w = {.struct_size = sizeof w, .y = y, .w = r->width, .h = h, .n_bands = 1, .bands = &b,
                             .pixels = decoded, .pixel_stride = bytes, .row_stride = bytes * r->width};
            if (is_exact(band)) continue;
            if (r->read(r->user, &pull))
                st = fail(err, NSVQ_E_IO, NO_OFFSET, "reading the raster failed at row %u", y);
            if (st == NSVQ_OK) st = nsvq_read(d, &w, err);
            if (st == NSVQ_OK)
                (bytes == 1 ? add_errors : add_wide_errors)(&e, source, decoded, (size_t)r->width * h, band);
        }
    double peak = !e.wide ? 255 : e.most > e.least ? e.most - e.least : 1;
    *psnr = 10 * log10(fmax(e.n, 1) / fmax(e.squares / (peak * peak), 1e-8));
    free(source);
    free(decoded);
    return st;
}

static nsvq_status measure_psnr(memory *m, const nsvq_raster *r, const nsvq_encode_options *o, double *psnr,
                                nsvq_error *err)
{
    nsvq_source src = {.user = m, .size = m->size, .read_at = memory_read};
    nsvq_open_options open = {.struct_size = sizeof open, .model = o->model};
    nsvq_decoder *d = NULL;
    nsvq_file *f;
    nsvq_status st = nsvq_open(&f, &src, &open, err);

    if (st != NSVQ_OK) return st;
    st = nsvq_decoder_create(&d, f, o->n_threads ? o->n_threads : 1, err);
    if (st == NSVQ_OK) st = compare(d, r, psnr, err);
    nsvq_decoder_destroy(d);
    nsvq_close(f);
    return st;
}

static nsvq_status try(const goal *g, const nsvq_raster *raster, const nsvq_encode_options *o, double *got,
                       nsvq_error *err)
{
    memory m = {.keep = g->psnr};
    nsvq_sink sink = {.user = &m, .write_at = memory_write};
    nsvq_raster silent = *raster;

    silent.progress = NULL;
    nsvq_status st = nsvq_encode(&sink, &silent, o, NULL, err);
    if (st == NSVQ_OK && g->psnr) st = measure_psnr(&m, raster, o, got, err);
    if (st == NSVQ_OK && !g->psnr) *got = log2(8. * (double)m.size / raster->width / raster->height);
    free(m.p);
    return st;
}

/* Secants within the bracket, in sixteenths of a quality. *miss: how far the best of them is off, below 0 if what it
 * got is too little. */
static nsvq_status search(const goal *g, const nsvq_raster *raster, nsvq_encode_options *o, double *miss,
                          nsvq_error *err)
{
    int low = NSVQ_MIN_QUALITY16, high = NSVQ_MAX_QUALITY16, q = 800, best = q, last = 0;
    double least = HUGE_VAL, before = 0, slope = g->slope / 16, got;

    for (int i = 0; i < MAX_TRIALS && low <= high; i++) {
        if (raster->progress && !raster->progress(raster->user, 0))
            return fail(err, NSVQ_E_CANCELLED, NO_OFFSET, "cancelled");
        o->quality = q / 16.;
        nsvq_status st = try(g, raster, o, &got, err);
        if (st != NSVQ_OK) return st;
        double off = g->want - got;
        if (fabs(off) < least) {
            least = fabs(off);
            *miss = -off;
            best = q;
        }
        if (least <= g->tolerance) break;
        if (off > 0)
            low = q + 1;
        else
            high = q - 1;
        if (last && q != last && (got - before) / (q - last) > slope / 8) slope = (got - before) / (q - last);
        last = q;
        before = got;
        q += (int)lrint(fmax(-1600, fmin(1600, off / slope)));
        q = q < low ? low : q > high ? high : q;
    }
    o->quality = best / 16.;
    return NSVQ_OK;
}

nsvq_status find_quality(const nsvq_raster *raster, nsvq_encode_options *o, nsvq_error *err)
{
    goal rate = {.want = log2(o->rate), .tolerance = 0.015, .slope = 0.047};
    goal psnr = {.psnr = true, .want = o->psnr, .tolerance = 0.04, .slope = 0.2};
    const goal *g = o->psnr > 0 ? &psnr : &rate;
    bool lossy = false, choose = !o->model && o->family != NSVQ_FAMILY_VQ;
    double miss = HUGE_VAL;

    for (uint32_t b = 0; b < raster->n_bands; b++) lossy |= !is_exact(&raster->bands[b]);
    o->rate = o->psnr = 0;
    if (!lossy) return NSVQ_OK;
    nsvq_status st = search(g, raster, o, &miss, err);
    /* Where the scale goes from one model to the next it may have a step, into which a model's own scale reaches. */
    for (int i = 0; i < 2 && choose && st == NSVQ_OK && fabs(miss) > g->tolerance; i++) {
        nsvq_encode_options other = *o;
        nsvq_model *m;
        double missed;
        st = scale_model(&m, NSVQ_FAMILY_HYPER, i ? 1 : 100, err);
        if (st != NSVQ_OK) return st;
        other.model = m;
        st = search(g, raster, &other, &missed, err);
        if (st == NSVQ_OK && fabs(missed) < fabs(miss)) {
            *o = other;
            miss = missed;
        }
        nsvq_model_release(m); // the library keeps it
    }
    if (st == NSVQ_OK && o->reached) *o->reached = g->psnr ? g->want + miss : exp2(g->want + miss);
    return st;
}
