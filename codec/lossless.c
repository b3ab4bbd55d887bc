/* lossless.c - see lossless.h: bands with their masks and maps, one after the other. */
#include "lossless.h"
#include "lossless_band.h"
#include "lossless_map.h"

static bool shape_fits(const lossless_shape *s)
{
    if (s->type < NSVQ_TYPE_U8 || s->type > NSVQ_TYPE_F64 || !s->n_bands || !s->width || !s->height ||
        s->width > LOSSLESS_MAX_SIDE || s->height > LOSSLESS_MAX_SIDE)
        return false;
    return s->n_bands <= LOSSLESS_MAX_BYTES / ((uint64_t)s->width * s->height * lossless_sample_bytes(s->type));
}

/* What belongs to one block, either way. */
typedef struct block {
    bands b;
    const lossless_shape *s;
    uint64_t *bits, *low;   /* [n] of the band: samples, raw bits */
    uint32_t *v;            /* [n] numbers */
    uint8_t *mask[2];       /* [n] of this band, and of the last that had one */
    bool has_before;        /* mask[1] holds one */
    uint64_t special;       /* bits of the samples in it */
    uint8_t *skip;          /* [n] */
    coder_mark mark;        /* for trials */
} block;

static bool block_create(block *k, const lossless_shape *s)
{
    size_t n = (size_t)s->width * s->height;

    k->s = s;
    k->bits = malloc(n * sizeof *k->bits);
    k->low = calloc(n, sizeof *k->low);
    k->v = malloc(n * sizeof *k->v);
    k->mask[0] = malloc(3 * n);
    if (!k->bits || !k->low || !k->v || !k->mask[0] || !bands_create(&k->b, s->width, s->height)) return false;
    k->mask[1] = k->mask[0] + n;
    k->skip = k->mask[1] + n;
    return true;
}

static void block_free(block *k)
{
    uint8_t *masks = k->mask[0] < k->mask[1] || !k->mask[1] ? k->mask[0] : k->mask[1];

    bands_free(&k->b);
    free(k->bits);
    free(k->low);
    free(k->v);
    free(masks);
}

enum { /* contexts of numbers: lossless_map.c and lossless_band.c have those below */
    NUMBER_SPECIAL = N_NUMBERS - 2,
    NUMBER_SPECIAL_VALUE
};

enum { SPECIAL_NONE, SPECIAL_SAME, SPECIAL_MASK, SPECIAL_NEW };

/* One value may be told by a mask instead. A writer with `has` set has filled mask[0]. */
static void code_special(block *k, bool has, uint64_t special)
{
    coder *c = &k->b.c;
    size_t n = (size_t)k->s->width * k->s->height;
    int kind = SPECIAL_NONE;

    if (has)
        kind = !k->has_before || special != k->special  ? SPECIAL_NEW
               : memcmp(k->mask[0], k->mask[1], n)      ? SPECIAL_MASK
                                                        : SPECIAL_SAME;
    kind = number(c, NUMBER_SPECIAL, 0, kind, 0, SPECIAL_NEW);
    if (!k->has_before && (kind == SPECIAL_SAME || kind == SPECIAL_MASK)) c->bad = true;
    k->b.mask = NULL;
    if (c->bad || kind == SPECIAL_NONE) return;
    if (kind == SPECIAL_NEW) k->special = number64(c, NUMBER_SPECIAL_VALUE, special);
    if (kind != SPECIAL_SAME) {
        mask_code(c, k->mask[0], k->has_before ? k->mask[1] : NULL, k->s->width, k->s->height);
        uint8_t *swap = k->mask[0];
        k->mask[0] = k->mask[1];
        k->mask[1] = swap;
        k->has_before = true;
    }
    k->b.mask = k->mask[1];
}

static void code_low_bits(block *k, const map *m)
{
    coder *c = &k->b.c;
    size_t n = (size_t)k->s->width * k->s->height;
    unsigned first = m->low_bits < 32 ? m->low_bits : 32, rest = m->low_bits - first;

    for (size_t i = 0; m->low_bits && i < n && !c->bad; i++) {
        if (k->b.mask && k->b.mask[i]) continue;
        if (c->writing) {
            put_bits(c, (uint32_t)k->low[i], first);
            put_bits(c, (uint32_t)(k->low[i] >> 32), rest);
        } else {
            k->low[i] = get_bits(c, first);
            if (rest) k->low[i] |= (uint64_t)get_bits(c, rest) << 32;
            check_read(c);
        }
    }
}

static void constant_band(bands *b)
{
    for (uint32_t y = 0; y < b->h; y++) {
        int32_t *row = b->sample[0] + (ptrdiff_t)y * b->stride;
        uint16_t *magnitude = b->magnitude[0] + (ptrdiff_t)y * b->stride;
        memset(row, 0, b->w * sizeof *row);
        memset(magnitude - MARGIN, 0, (size_t)b->stride * sizeof *magnitude);
        close_row(b, row, y);
    }
}

/* ---- encoder ---- */

/* The bits of samples that are better told by a mask. */
static bool find_special(const block *k, const void *nodata, uint64_t *special)
{
    size_t n = (size_t)k->s->width * k->s->height, bytes = lossless_sample_bytes(k->s->type), count = 0;

    if (nodata) {
        *special = sample_load(nodata, bytes);
        for (size_t i = 0; i < n; i++) count += k->bits[i] == *special;
        if (count) return count < n;
    }
    return false;
}

/* Samples of the band into b, masked ones as the one to the left, in the first column as that above. */
static void place_samples(block *k, const map *m)
{
    bands *b = &k->b;

    for (uint32_t y = 0; y < b->h; y++) {
        int32_t *row = b->sample[0] + (ptrdiff_t)y * b->stride;
        for (uint32_t x = 0; x < b->w; x++) {
            size_t i = (size_t)y * b->w + x;
            row[x] = b->mask && b->mask[i] ? x ? row[x - 1] : *(row - b->stride) : (int32_t)(k->v[i] - m->mean);
        }
        close_row(b, row, y);
    }
}

/* Marks what need not be predicted; returns how many samples repeat a neighbour. */
static size_t mark_repeats(block *k)
{
    const bands *b = &k->b;
    size_t n = 0;

    for (uint32_t y = 0; y < b->h; y++) {
        const int32_t *row = b->sample[0] + (ptrdiff_t)y * b->stride;
        for (uint32_t x = 0; x < b->w; x++) {
            size_t i = (size_t)y * b->w + x;
            bool masked = b->mask && b->mask[i], same = row[x] == *(row + x - b->stride) || (x && row[x] == row[x - 1]);
            k->skip[i] = masked || same;
            n += !masked && same;
        }
    }
    return n;
}

/* How a band may be coded. */
typedef struct variant {
    bool table, repeats;
} variant;

static bool write_band(block *k, variant t, int effort)
{
    size_t n = (size_t)k->s->width * k->s->height;
    bands *b = &k->b;
    map m = {0};

    if (!map_choose(&m, k->s->type, k->bits, b->mask, n, k->v, k->low, t.table)) return false;
    map_code(&m, &b->c, k->s->type, n);
    code_low_bits(k, &m);
    b->low = -(int32_t)m.mean;
    b->high = (int32_t)(m.range - m.mean);
    bool ok = true;
    if (m.range) {
        place_samples(k, &m);
        mark_repeats(k);
        b->repeats = t.repeats;
        b->skip = t.repeats ? k->skip : (uint8_t *)b->mask;
        ok = bands_fit(b, effort);
        if (ok) bands_code(b);
    } else {
        constant_band(b);
    }
    map_free(&m);
    return ok;
}

/* How many samples that are not masked are equal to a neighbour. */
static size_t count_repeats(const block *k, const uint8_t *mask, size_t *valid)
{
    uint32_t w = k->s->width;
    size_t n = (size_t)w * k->s->height, repeats = 0;

    *valid = 0;
    for (size_t i = 0; i < n; i++) {
        if (mask && mask[i]) continue;
        ++*valid;
        repeats += (i % w && k->bits[i] == k->bits[i - 1]) || (i >= w && k->bits[i] == k->bits[i - w]);
    }
    return repeats;
}

static bool encode_band(block *k, const uint8_t *in, const void *nodata, int effort)
{
    size_t n = (size_t)k->s->width * k->s->height, bytes = lossless_sample_bytes(k->s->type), valid;
    coder *c = &k->b.c;
    uint64_t special = 0;
    variant tries[4], best = {0};
    int n_tries = 0;
    uint64_t least = UINT64_MAX;

    for (size_t i = 0; i < n; i++) k->bits[i] = sample_load(in + i * bytes, bytes);
    bool has_special = find_special(k, nodata, &special);
    for (size_t i = 0; has_special && i < n; i++) k->mask[0][i] = k->bits[i] == special;
    code_special(k, has_special, special);
    size_t repeats = count_repeats(k, k->b.mask, &valid);
    if (repeats < valid / 100 * 85) tries[n_tries++] = (variant){true, false};
    if (repeats > valid / 100 * 15) tries[n_tries++] = (variant){true, true};
    if (n_tries == 1) return write_band(k, tries[0], effort);
    coder_set_mark(&k->mark, c);
    for (int i = 0; i <= n_tries; i++) {
        if (i == n_tries && !memcmp(&best, &tries[i - 1], sizeof best)) break; // the last one stays
        if (i) coder_go_back(c, &k->mark);
        if (!write_band(k, i < n_tries ? tries[i] : best, effort)) return false;
        uint64_t cost = coder_cost(c, &k->mark);
        if (cost >= least) continue;
        least = cost;
        best = tries[i];
    }
    return true;
}

int lossless_encode(wr *w, const void *planes, const lossless_shape *s, const void *nodata, int effort)
{
    if (!shape_fits(s)) return -1;
    size_t plane = (size_t)s->width * s->height * lossless_sample_bytes(s->type);
    block *k = calloc(1, sizeof *k);
    bool ok = k && block_create(k, s);

    if (ok) coder_write(&k->b.c);
    for (uint32_t i = 0; ok && i < s->n_bands; i++) {
        if (i) bands_next(&k->b);
        ok = encode_band(k, (const uint8_t *)planes + i * plane, nodata, effort);
    }
    if (ok) coder_store(&k->b.c, w);
    if (!ok) w->bad = true;
    if (k) block_free(k);
    free(k);
    return 0;
}

/* ---- decoder ---- */

static void decode_band(block *k, uint8_t *out)
{
    size_t bytes = lossless_sample_bytes(k->s->type), n = (size_t)k->s->width * k->s->height;
    nsvq_type type = k->s->type;
    bands *b = &k->b;
    coder *c = &b->c;
    map m = {0};

    code_special(k, false, 0);
    if (!c->bad) map_code(&m, c, type, n);
    if (!c->bad) code_low_bits(k, &m);
    b->low = -(int32_t)m.mean;
    b->high = (int32_t)(m.range - m.mean);
    if (!c->bad && m.range) bands_code(b);
    if (!c->bad && !m.range) constant_band(b);
    for (uint32_t y = 0; y < b->h && !c->bad; y++) {
        const int32_t *row = b->sample[0] + (ptrdiff_t)y * b->stride;
        const uint8_t *mask = b->mask ? b->mask + (size_t)y * b->w : NULL;
        const uint64_t *low = k->low + (size_t)y * b->w;
        for (uint32_t x = 0; x < b->w; x++, out += bytes) {
            uint64_t bits = mask && mask[x] ? k->special
                                            : map_sample(&m, type, (uint32_t)row[x] + m.mean, m.low_bits ? low[x] : 0);
            sample_store(out, bytes, bits);
        }
    }
    map_free(&m);
}

int lossless_decode(void *planes, const lossless_shape *s, const uint8_t *in, size_t size)
{
    if (!shape_fits(s)) return -1;
    size_t plane = (size_t)s->width * s->height * lossless_sample_bytes(s->type);
    block *k = calloc(1, sizeof *k);
    int rc = -2;

    if (!k || !block_create(k, s)) goto done;
    if ((rc = coder_read(&k->b.c, in, size)) != 0) goto done;
    for (uint32_t i = 0; i < s->n_bands && !k->b.c.bad; i++) {
        if (i) bands_next(&k->b);
        decode_band(k, (uint8_t *)planes + i * plane);
    }
    rc = coder_done(&k->b.c) ? 0 : -1;
done:
    if (k) block_free(k);
    free(k);
    return rc;
}
