/* lossless.c - see lossless.h: bands with their masks and maps, one after the other. */
#include "lossless.h"
#include "lossless_band.h"
#include "lossless_map.h"

static bool shape_fits(const lossless_shape *s)
{
    if (s->type < NSVQ_TYPE_U8 || s->type > NSVQ_TYPE_F64 || !s->n_bands || !s->width ||
        !s->height || s->width > LOSSLESS_MAX_SIDE || s->height > LOSSLESS_MAX_SIDE)
        return false;
    return s->n_bands <=
           LOSSLESS_MAX_BYTES / ((uint64_t)s->width * s->height * nsvq_type_bytes(s->type));
}

/* What belongs to one block, either way. */
typedef struct block {
    bands b;
    const lossless_shape *s;
    uint64_t *bits[2], *low; /* [n] samples of this band and the one before; raw bits */
    uint32_t *v;             /* [n] numbers */
    uint8_t *mask[2];        /* [n] of this band, and of the last that had one */
    bool has_before;         /* mask[1] holds one */
    uint64_t special;        /* bits of the samples in it */
    uint8_t *skip;           /* [n] */
    uint32_t *sorted;        /* [2 n] room */
    coder_mark mark;         /* for trials */
    bool spiky;
    int prepared;       /* way that map and samples are set for, -1: none */
    int habit, n_habit; /* how the last bands were coded, and how many of them alike by far */
} block;

/* Carves first what is 0 at the beginning; *n_zero: its bytes. */
static void place(block *k, const lossless_shape *s, bool writing, carver *c, size_t *n_zero)
{
    size_t n = (size_t)s->width * s->height;

    bands_place(&k->b, s->n_bands, s->width, s->height, c);
    k->bits[1] = carve(c, n * sizeof *k->bits[1]);
    k->low = carve(c, n * sizeof *k->low);
    *n_zero = c->used;
    k->bits[0] = carve(c, n * sizeof *k->bits[0]);
    for (int i = 0; i < 2; i++) k->mask[i] = carve(c, n);
    if (!writing) return;
    k->skip = carve(c, n);
    k->v = carve(c, n * sizeof *k->v);
    k->sorted = carve(c, 2 * n * sizeof *k->sorted);
}

/* NULL without memory. */
static block *block_create(const lossless_shape *s, nsvq_scratch *work, bool writing)
{
    carver size = {0}, c = {0};
    size_t n_zero;
    block *k = calloc(1, sizeof *k);

    if (!k) return NULL;
    place(k, s, writing, &size, &n_zero);
    if (!(c.base = scratch_keep(work, size.used))) {
        free(k);
        return NULL;
    }
    place(k, s, writing, &c, &n_zero);
    memset(c.base, 0, n_zero);
    k->s = s;
    k->b.work = work;
    return k;
}

static void block_free(block *k)
{
    if (k) coder_free(&k->b.c);
    free(k);
}

static void next_band(block *k)
{
    uint64_t *swap = k->bits[0];

    k->bits[0] = k->bits[1];
    k->bits[1] = swap;
    bands_next(&k->b);
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
        kind = !k->has_before || special != k->special ? SPECIAL_NEW
               : memcmp(k->mask[0], k->mask[1], n)     ? SPECIAL_MASK
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
            k->low[i] = get_bits(&c->r, first);
            if (rest) k->low[i] |= (uint64_t)get_bits(&c->r, rest) << 32;
            check_read(c);
        }
    }
}

static void set_map(block *k, const map *m)
{
    bands_range(&k->b, -(int32_t)m->mean, (int32_t)(m->range - m->mean));
}

static void constant_band(bands *b)
{
    for (uint32_t y = 0; y < b->h; y++) {
        int32_t *row = b->sample[0] + (ptrdiff_t)y * b->stride;
        uint16_t *magnitude = b->magnitude[0] + (ptrdiff_t)y * b->stride;
        memset(row, 0, b->w * sizeof *row);
        memset(magnitude - MARGIN, 0,
               (size_t)(y + 1 < b->h ? 1 : 2) * (size_t)b->stride * sizeof *magnitude);
        close_row(b, row, y);
    }
}

/* ---- encoder ---- */

/* The bits of samples that are better told by a mask. */
static bool find_special(const block *k, const void *nodata, uint64_t *special)
{
    size_t n = (size_t)k->s->width * k->s->height, bytes = nsvq_type_bytes(k->s->type),
           count = 0;

    if (nodata) {
        samples_load(special, nodata, bytes, 1);
        for (size_t i = 0; i < n; i++) count += k->bits[0][i] == *special;
        if (count) return count < n;
    }
    return false;
}

/* Samples of the band into b, masked ones as the one to the left, in the first column as that
 * above. */
CLONES static void place_samples(block *k, const map *m)
{
    bands *b = &k->b;
    uint32_t w = b->w, mean = m->mean;

    for (uint32_t y = 0; y < b->h; y++) {
        int32_t *restrict row = b->sample[0] + (ptrdiff_t)y * b->stride;
        const uint32_t *v = k->v + (size_t)y * w;
        const uint8_t *mask = b->mask ? b->mask + (size_t)y * w : NULL;
        for (uint32_t x = 0; x < w; x++) row[x] = (int32_t)(v[x] - mean);
        for (uint32_t x = 0; mask && x < w; x++)
            if (mask[x]) row[x] = x ? row[x - 1] : *(row - b->stride);
        close_row(b, row, y);
    }
}

/* Marks what need not be predicted. True when samples repeat a neighbour more often than noise
 * does. */
CLONES static bool mark_repeats(block *k)
{
    static const uint8_t none[LOSSLESS_MAX_SIDE];
    const bands *b = &k->b;
    size_t same = 0, near = 0;
    ptrdiff_t w = b->w;

    for (uint32_t y = 0; y < b->h; y++) {
        const int32_t *row = b->sample[0] + (ptrdiff_t)y * b->stride, *up = row - b->stride;
        const uint8_t *mask = b->mask ? b->mask + (size_t)y * b->w : none;
        uint8_t *restrict skip = k->skip + (size_t)y * b->w;
        uint32_t row_same = 0, row_near = 0;
        skip[0] = (mask[0] != 0) | (row[0] == up[0]);
        for (ptrdiff_t x = 1; x < w; x++) {
            uint32_t left = (uint32_t)row[x] - (uint32_t)row[x - 1];
            skip[x] = (mask[x] != 0) | (row[x] == up[x]) | !left;
            row_same += !mask[x] & !left;
            row_near += !mask[x] & (left + 1 <= 2) & (left != 0);
        }
        same += row_same;
        near += row_near;
    }
    return 4 * same > 3 * near;
}

static void write_map(block *k, map *m)
{
    map_code(m, &k->b.c, k->s->type, (size_t)k->b.w * k->b.h);
    code_low_bits(k, m);
}

static bool write_samples(block *k, const map *m, bool repeats, int effort)
{
    bands *b = &k->b;

    if (!m->range) {
        constant_band(b);
        return true;
    }
    b->repeats = repeats;
    b->skip = repeats ? k->skip : (uint8_t *)b->mask;
    if (!bands_fit(b, effort)) return false;
    bands_code(b);
    return true;
}

/* Ways to code a band. */
enum { WAY_REPEATS = 1, WAY_DIFFERENCE = 2, N_WAYS = 4 };

/* Chooses the map of a way and places samples. k->spiky: repeats look promising. */
static bool prepare(block *k, map *m, int way)
{
    size_t n = (size_t)k->s->width * k->s->height;

    if (k->prepared == (way & WAY_DIFFERENCE)) return true;
    k->prepared = way & WAY_DIFFERENCE;
    map_free(m);
    if (!map_choose(m, k->s->type, k->bits[0], way & WAY_DIFFERENCE ? k->bits[1] : NULL, k->b.mask,
                    n, k->v, k->low, k->sorted))
        return false;
    set_map(k, m);
    place_samples(k, m);
    k->spiky = mark_repeats(k);
    return true;
}

static bool may_differ(const block *k)
{
    return k->b.band && k->s->n_bands <= 4 && k->s->type >= NSVQ_TYPE_U8 &&
           k->s->type <= NSVQ_TYPE_S16;
}

/* The ways that look promising; 0 without memory. */
static int find_ways(block *k, map *m, int effort, int ways[N_WAYS])
{
    int n = 0;

    k->prepared = -1;
    if (!prepare(k, m, 0)) return 0;
    ways[n++] = 0;
    if (!m->range) return n;
    if (k->spiky) ways[n++] = WAY_REPEATS;
    if (may_differ(k)) {
        if (!prepare(k, m, WAY_DIFFERENCE)) return 0;
        if (m->n_table || k->spiky) ways[n++] = WAY_DIFFERENCE;
        if (k->spiky && m->range) ways[n++] = WAY_DIFFERENCE | WAY_REPEATS;
    }
    if (effort < 4) { // no trials
        ways[0] = ways[n - 1];
        return 1;
    }
    // what has been best by far need not be tried each time
    for (int i = 0; i < n && n > 1 && k->n_habit >= 2 && k->n_habit % 16; i++)
        if (ways[i] == k->habit) {
            ways[0] = k->habit;
            k->n_habit++;
            return 1;
        }
    return n;
}

/* Writes the band in a way as a trial; returns about what it costs. Of a large one a quarter, by a quick fit, stands for
 * all. 0 without memory. */
static uint64_t try_way(block *k, map *m, int way, bool large, int effort)
{
    coder *c = &k->b.c;

    if (!prepare(k, m, way)) return 0;
    write_map(k, m);
    uint64_t head = coder_cost(c, &k->mark);
    k->b.sparse = large;
    bool ok = write_samples(k, m, way & WAY_REPEATS, large ? 1 : effort);
    k->b.sparse = false;
    uint64_t rest = coder_cost(c, &k->mark) - head;
    return ok ? head + (large ? 4 * rest : rest) : 0;
}

/* Writes the band in the cheapest way. */
static bool write_best(block *k, int effort)
{
    coder *c = &k->b.c;
    map m = {0};
    uint64_t least = UINT64_MAX, second = UINT64_MAX;
    bool large = k->b.w * k->b.h >= SETS_MIN;
    int ways[N_WAYS], n = find_ways(k, &m, effort, ways), best = n ? ways[0] : 0, written = -1;
    bool ok = n > 0;

    coder_set_mark(&k->mark, c);
    for (int i = 0; ok && n > 1 && i < n; i++) {
        if (i) coder_go_back(c, &k->mark);
        uint64_t cost = try_way(k, &m, ways[i], large, effort);
        ok = cost > 0;
        written = ways[i];
        second = cost < least ? least : cost < second ? cost : second;
        best = cost < least ? ways[i] : best;
        least = cost < least ? cost : least;
    }
    if (ok && (written != best || large)) {
        if (written >= 0) coder_go_back(c, &k->mark);
        if ((ok = prepare(k, &m, best))) {
            write_map(k, &m);
            ok = write_samples(k, &m, best & WAY_REPEATS, effort);
        }
    }
    if (n > 1) {
        k->n_habit = best == k->habit && second - least > least / 40 ? k->n_habit + 1 : 0;
        k->habit = best;
    }
    map_free(&m);
    return ok;
}

static bool encode_band(block *k, const uint8_t *in, const void *nodata, int effort)
{
    size_t n = (size_t)k->s->width * k->s->height, bytes = nsvq_type_bytes(k->s->type);
    uint64_t special = 0;

    samples_load(k->bits[0], in, bytes, n);
    bool has_special = find_special(k, nodata, &special);
    for (size_t i = 0; has_special && i < n; i++) k->mask[0][i] = k->bits[0][i] == special;
    code_special(k, has_special, special);
    return write_best(k, effort);
}

int lossless_encode(wr *w, nsvq_scratch *work, const void *planes, const lossless_shape *s, const void *nodata,
                    int effort)
{
    if (!shape_fits(s)) return -1;
    if (!effort) effort = 7;
    size_t plane = (size_t)s->width * s->height * nsvq_type_bytes(s->type);
    block *k = block_create(s, work, true);
    bool ok = k != NULL;

    if (ok) coder_write(&k->b.c);
    for (uint32_t i = 0; ok && i < s->n_bands; i++) {
        if (i) next_band(k);
        ok = encode_band(k, (const uint8_t *)planes + i * plane, nodata, effort);
    }
    if (ok) coder_store(&k->b.c, w);
    if (!ok) w->bad = true;
    block_free(k);
    return 0;
}

/* ---- decoder ---- */

static void decode_band(block *k, uint8_t *out)
{
    size_t bytes = nsvq_type_bytes(k->s->type), n = (size_t)k->s->width * k->s->height;
    nsvq_type type = k->s->type;
    bands *b = &k->b;
    coder *c = &b->c;
    map m = {0};

    code_special(k, false, 0);
    if (!c->bad) map_code(&m, c, type, n);
    if (!c->bad) code_low_bits(k, &m);
    set_map(k, &m);
    if (!c->bad && m.range) bands_code(b);
    if (!c->bad && !m.range) constant_band(b);
    for (uint32_t y = 0; y < b->h && !c->bad; y++) {
        const int32_t *row = b->sample[0] + (ptrdiff_t)y * b->stride;
        const uint8_t *mask = b->mask ? b->mask + (size_t)y * b->w : NULL;
        size_t at = (size_t)y * b->w;
        map_samples(&m, type, k->bits[0] + at, row, k->low + at, k->bits[1] + at, b->w);
        for (uint32_t x = 0; mask && x < b->w; x++)
            if (mask[x]) k->bits[0][at + x] = k->special;
    }
    if (!c->bad) samples_store(out, bytes, k->bits[0], n);
    map_free(&m);
}

int lossless_decode(nsvq_scratch *work, void *planes, const lossless_shape *s, const uint8_t *in, size_t size)
{
    if (!shape_fits(s)) return -1;
    size_t plane = (size_t)s->width * s->height * nsvq_type_bytes(s->type);
    block *k = block_create(s, work, false);
    int rc = -2;

    if (!k) return -2;
    if ((rc = coder_read(&k->b.c, in, size)) != 0) goto done;
    for (uint32_t i = 0; i < s->n_bands && !k->b.c.bad; i++) {
        if (i) next_band(k);
        decode_band(k, (uint8_t *)planes + i * plane);
    }
    rc = coder_done(&k->b.c) ? 0 : k->b.c.no_memory ? -2 : -1;
done:
    block_free(k);
    return rc;
}
