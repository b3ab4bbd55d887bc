/* window.c - windows: tiles, threads, damage.
 *
 * A window is cut into tiles, aligned to the grid of blocks and clipped to the window; a task is one
 * group of one tile. Its samples depend on its own blocks and, in lossy groups, on latents around its
 * pixels as far as the synthesis' halo and the joins between blocks reach: no other block is touched, so
 * no other block's damage can hurt. */
#include "window.h"

#include <assert.h>

enum {
    TILE = 1024,      /* pixels per side: the halo's cost against memory and threads */
    STRIP = 8,        /* tiles side by side before going down: keeps the halo's latents in the cache */
    FETCH = 32 << 20, /* bytes of blocks that are read before any is decoded, about */
    PIECE = 64        /* pixels per side of what damage is narrowed down to */
};

/* ---- memory ---- */

nsvq_status nsvq_decoder_create(nsvq_decoder **out, nsvq_file *f, int n_threads, nsvq_error *err)
{
    if (!out) return fail(err, NSVQ_E_ARG, NO_OFFSET, "out is NULL");
    *out = NULL;
    if (!f || n_threads < 0)
        return fail(err, NSVQ_E_ARG, NO_OFFSET, "no file, or %d threads", n_threads);
    if (!n_threads) n_threads = 1;
    if (n_threads > MAX_THREADS) n_threads = MAX_THREADS;
    nsvq_decoder *d = calloc(1, sizeof *d + (size_t)n_threads * sizeof d->slots[0]);
    if (!d) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    d->f = f;
    d->n_threads = n_threads;
    *out = d;
    return NSVQ_OK;
}

void nsvq_decoder_destroy(nsvq_decoder *d)
{
    for (int i = 0; d && i < d->n_threads; i++) {
        slot *s = &d->slots[i];
        nsvq_scratch_destroy(s->scratch);
        free(s->latents.p);
        free(s->values.p);
        free(s->samples.p);
        free(s->mask.p);
        free(s->bytes.p);
        free(s->blocks.p);
    }
    free(d);
}

/* ---- the window ---- */

/* Tiles go down in strips of STRIP columns. */
static box tile_box(const job *j, size_t i)
{
    size_t columns = j->tiles.x1 - j->tiles.x0, rows = j->tiles.y1 - j->tiles.y0;
    size_t strip = i / (STRIP * rows), rest = i % (STRIP * rows);
    size_t width = columns - strip * STRIP < STRIP ? columns - strip * STRIP : STRIP;
    uint32_t x = j->tiles.x0 + (uint32_t)(strip * STRIP + rest % width);
    uint32_t y = j->tiles.y0 + (uint32_t)(rest / width);

    return intersect(scaled((box){x, y, x + 1, y + 1}, j->tile), j->window);
}

static bool is_damage(nsvq_status st)
{
    return st == NSVQ_E_CORRUPT || st == NSVQ_E_IO;
}

/* What can be read of a tile that failed so, in ever smaller pieces; the rest is filled. */
static nsvq_status salvage(tile t, nsvq_status st, const nsvq_error *why)
{
    job *j = t.j;
    uint32_t unit = st == NSVQ_E_IO || !is_lossy(&j->d->f->h.groups[t.g]) ? BLOCK : PIECE;
    box all = t.at, cells = cells_of(all, unit);
    nsvq_error err;

    if (cells.x1 - cells.x0 == 1 && cells.y1 - cells.y0 == 1) {
        fill_tile(&t);
        pthread_mutex_lock(&j->lock);
        if (!(*j->w->filled)++) j->error = *why;
        pthread_mutex_unlock(&j->lock);
        return NSVQ_OK;
    }
    uint32_t x = (cells.x0 + cells.x1 + 1) / 2, y = (cells.y0 + cells.y1 + 1) / 2;
    for (int i = 0; i < 4; i++) {
        box quarter = {i & 1 ? x : cells.x0, i & 2 ? y : cells.y0, i & 1 ? cells.x1 : x, i & 2 ? cells.y1 : y};
        if (quarter.x0 == quarter.x1 || quarter.y0 == quarter.y1) continue;
        t.at = intersect(scaled(quarter, unit), all);
        nsvq_status one = do_tile(&t, &err);
        if (is_damage(one)) one = salvage(t, one, &err);
        if (one != NSVQ_OK) return one;
    }
    return NSVQ_OK;
}

static tile tile_of(job *j, int thread, size_t item)
{
    return (tile){.j = j, .s = &j->d->slots[thread], .at = tile_box(j, item / j->n_groups),
                  .g = j->groups[item % j->n_groups]};
}

static int run_task(void *user, int thread, size_t i)
{
    job *j = user;
    size_t item = j->first + i;
    nsvq_error err = {NO_OFFSET, ""};
    tile t = tile_of(j, thread, item);
    nsvq_status st = NSVQ_OK;

    assert(t.at.x0 < t.at.x1 && t.at.y0 < t.at.y1);
    if (!t.s->scratch && !(t.s->scratch = nsvq_scratch_create()))
        st = fail(&err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    if (st == NSVQ_OK) st = do_tile(&t, &err);
    if (is_damage(st) && j->w->filled) st = salvage(t, st, &err);
    if (st == NSVQ_OK) return 0;
    pthread_mutex_lock(&j->lock);
    if (item < j->failed_item) {
        j->failed_item = item;
        j->status = st;
        j->error = err;
    }
    pthread_mutex_unlock(&j->lock);
    return 1;
}

/* Reads the blocks of some tiles from j->first on, and sets j->last behind them. What fails here fails
 * again, and is told, where it is needed. */
static void fetch_tiles(job *j, size_t n)
{
    nsvq_file *f = j->d->f;
    uint64_t offset, bytes = 0;
    uint32_t size;
    size_t k;
    blocks b;

    for (j->last = j->first; j->last < n && bytes < FETCH; j->last++) {
        tile t = tile_of(j, 0, j->last);
        if (tile_needs(&t, &b, &k, NULL) != NSVQ_OK) continue;
        for (size_t i = 0; i < k; i++) {
            fetch_want(&j->bytes, b.number[i]);
            if (index_locate(f, b.number[i], &offset, &size, NULL) == NSVQ_OK) bytes += size;
        }
    }
    fetch_all(&j->bytes, f);
}

/* The index pages of the window and one block around it, in one read. */
static void load_pages(const job *j)
{
    nsvq_file *f = j->d->f;
    const grid *v = &f->h.levels[j->w->level];
    box at = grown(cells_of(j->window, BLOCK), 1, (box){0, 0, v->blocks_x, v->blocks_y});

    index_load(f, index_entry(&f->h, (cell){j->w->level, at.x0, at.y0, 0}),
               index_entry(&f->h, (cell){j->w->level, at.x1 - 1, at.y1 - 1, f->h.n_groups - 1}));
}

static nsvq_status run_job(job *j, nsvq_error *err)
{
    const nsvq_window *w = j->w;

    j->window = (box){w->x, w->y, w->x + w->w, w->y + w->h};
    j->tile = TILE;
    j->tiles = cells_of(j->window, j->tile);
    size_t n = (size_t)(j->tiles.x1 - j->tiles.x0) * (j->tiles.y1 - j->tiles.y0);
    if (n * j->n_groups < (size_t)j->d->n_threads) {
        j->tile = BLOCK;
        j->tiles = cells_of(j->window, j->tile);
        n = (size_t)(j->tiles.x1 - j->tiles.x0) * (j->tiles.y1 - j->tiles.y0);
    }
    j->failed_item = SIZE_MAX;
    j->status = NSVQ_OK;
    if (w->filled) *w->filled = 0;
    if (pthread_mutex_init(&j->lock, NULL)) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    load_pages(j);
    for (j->first = 0; j->first < n * j->n_groups && j->status == NSVQ_OK; j->first = j->last) {
        fetch_tiles(j, n * j->n_groups);
        pool_run(j->d->n_threads, j->last - j->first, run_task, j);
    }
    fetch_free(&j->bytes);
    pthread_mutex_destroy(&j->lock);
    if ((j->status != NSVQ_OK || (w->filled && *w->filled)) && err) *err = j->error;
    return j->status;
}

static nsvq_status check_window(const nsvq_decoder *d, nsvq_window *w, const nsvq_window *from,
                                nsvq_error *err)
{
    nsvq_status st;

    if (!d || !from) return fail(err, NSVQ_E_ARG, NO_OFFSET, "no decoder or window");
    if ((st = copy_options(w, sizeof *w, from, "nsvq_window", err)) != NSVQ_OK) return st;
    const header *h = &d->f->h;
    const grid *v = &h->levels[w->level < h->n_levels ? w->level : 0];
    if (w->level >= h->n_levels || !w->w || !w->h || w->x >= v->width || w->y >= v->height ||
        w->w > v->width - w->x || w->h > v->height - w->y || !w->pixels)
        return fail(err, NSVQ_E_ARG, NO_OFFSET, "no window (%u, %u) %u x %u at level %u", w->x, w->y,
                    w->w, w->h, w->level);
    return NSVQ_OK;
}

static nsvq_status read_groups(job *j, nsvq_error *err)
{
    const nsvq_window *w = j->w;
    const header *h = &j->d->f->h;

    for (uint32_t i = 0; i < w->n_bands; i++)
        if (requested(w, i) >= h->n_bands)
            return fail(err, NSVQ_E_ARG, NO_OFFSET, "no band %u", requested(w, i));
    uint32_t *groups = malloc(h->n_groups * sizeof *groups);
    if (!groups) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    for (uint32_t g = 0; g < h->n_groups; g++) {
        bool is_mask = h->groups[g].coding == CODING_MASK;
        uint32_t i = 0, n = is_mask ? 1 : h->groups[g].n_bands;
        if (is_mask != j->mask) continue;
        while (i < w->n_bands && requested(w, i) - h->groups[g].first_band >= n) i++;
        if (i < w->n_bands || (is_mask && !h->band_masks)) groups[j->n_groups++] = g;
    }
    j->groups = groups;
    nsvq_status st = j->n_groups ? run_job(j, err) : NSVQ_OK;
    free(groups);
    return st;
}

nsvq_status nsvq_read(nsvq_decoder *d, const nsvq_window *window, nsvq_error *err)
{
    nsvq_window w;
    job j = {.d = d, .w = &w};
    nsvq_status st = check_window(d, &w, window, err);

    return st == NSVQ_OK ? read_groups(&j, err) : st;
}

nsvq_status nsvq_read_mask(nsvq_decoder *d, const nsvq_window *window, nsvq_error *err)
{
    nsvq_window w;
    job j = {.d = d, .w = &w, .mask = true};
    nsvq_status st = check_window(d, &w, window, err);

    if (st != NSVQ_OK) return st;
    if (!d->f->h.band_masks) w.n_bands = 0;
    if (d->f->h.n_masks) return read_groups(&j, err);
    for (uint32_t y = 0; y < w.h; y++)
        for (uint32_t x = 0; x < w.w; x++)
            ((uint8_t *)w.pixels)[(ptrdiff_t)y * w.row_stride + (ptrdiff_t)x * w.pixel_stride] = 255;
    return NSVQ_OK;
}
