/* fetch.c - see fetch.h. */
#include "fetch.h"

enum { MAX_RANGE = 4 << 20 };

typedef struct ranges {
    size_t n;
    uint64_t *offset;
    size_t *size;
    void **at;
} ranges;

void fetch_want(fetched *v, uint64_t number)
{
    if (v->n_numbers == v->cap) {
        size_t cap = 2 * v->cap + 64;
        uint64_t *p = realloc(v->numbers, cap * sizeof *p);
        if (!p) {
            v->failed = true;
            return;
        }
        v->numbers = p;
        v->cap = cap;
    }
    v->numbers[v->n_numbers++] = number;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static int by_number(const void *a, const void *b)
{
    return by_value(&((const piece *)a)->number, &((const piece *)b)->number);
}

static int by_offset(const void *a, const void *b)
{
    return by_value(&((const piece *)a)->offset, &((const piece *)b)->offset);
}

/* Sorts the numbers, each once. */
static void unique(fetched *v)
{
    size_t n = 0;

    if (!v->n_numbers) return; // numbers may be NULL
    qsort(v->numbers, v->n_numbers, sizeof *v->numbers, by_value);
    for (size_t i = 0; i < v->n_numbers; i++)
        if (!n || v->numbers[i] != v->numbers[n - 1]) v->numbers[n++] = v->numbers[i];
    v->n_numbers = n;
}

/* Where the blocks lie, in the order of the file. */
static void locate(fetched *v, nsvq_file *f)
{
    v->n_pieces = 0;
    for (size_t i = 0; i < v->n_numbers; i++) {
        piece *p = &v->pieces[v->n_pieces];
        *p = (piece){.number = v->numbers[i]};
        if (index_locate(f, p->number, &p->offset, &p->size, NULL) == NSVQ_OK && p->size) v->n_pieces++;
    }
    qsort(v->pieces, v->n_pieces, sizeof *v->pieces, by_offset);
}

/* Joins pieces that lie near each other; r NULL: only counts. Returns the bytes of all. */
static size_t plan(const fetched *v, uint64_t gap, ranges *r, size_t *n)
{
    size_t total = 0;

    *n = 0;
    for (size_t i = 0, end; i < v->n_pieces; i = end) {
        uint64_t first = v->pieces[i].offset, last = first + v->pieces[i].size;
        for (end = i + 1; end < v->n_pieces; end++) {
            const piece *p = &v->pieces[end];
            if ((p->offset > last && p->offset - last > gap) || p->offset + p->size - first > MAX_RANGE) break;
            if (p->offset + p->size > last) last = p->offset + p->size;
        }
        if (r) {
            r->offset[*n] = first;
            r->size[*n] = (size_t)(last - first);
            r->at[*n] = v->bytes + total;
            for (size_t k = i; k < end; k++) v->pieces[k].bytes = v->bytes + total + (v->pieces[k].offset - first);
        }
        total += (size_t)(last - first);
        ++*n;
    }
    return total;
}

static bool read_ranges(fetched *v, const nsvq_file *f, const ranges *r)
{
    const nsvq_source *src = &f->src;
    bool all = true;

    if (src->read_many && r->n > 1) return !src->read_many(src->user, r->n, r->offset, r->size, r->at);
    for (size_t i = 0; i < r->n; i++) {
        if (!src->read_at(src->user, r->offset[i], r->at[i], r->size[i])) continue;
        const uint8_t *at = r->at[i];
        for (size_t k = 0; k < v->n_pieces; k++) {
            const uint8_t *p = v->pieces[k].bytes;
            if (p >= at && p < at + r->size[i]) v->pieces[k].bytes = NULL;
        }
        all = false;
    }
    return all || !src->read_many;
}

void fetch_all(fetched *v, nsvq_file *f)
{
    ranges r = {0};
    size_t n;

    free(v->bytes);
    free(v->pieces);
    v->bytes = NULL;
    v->pieces = NULL;
    v->n_pieces = 0;
    unique(v);
    v->n_numbers = cache_missing(&f->cache, v->numbers, v->n_numbers);
    if (!v->failed && v->n_numbers) v->pieces = malloc(v->n_numbers * sizeof *v->pieces);
    if (v->pieces) {
        locate(v, f);
        v->bytes = malloc(plan(v, f->max_gap, NULL, &n) + 1);
        r = (ranges){n, malloc((n + 1) * sizeof *r.offset), malloc((n + 1) * sizeof *r.size),
                     malloc((n + 1) * sizeof *r.at)};
        bool done = v->bytes && r.offset && r.size && r.at;
        if (done) {
            plan(v, f->max_gap, &r, &r.n);
            done = read_ranges(v, f, &r);
        }
        if (!done) v->n_pieces = 0;
        qsort(v->pieces, v->n_pieces, sizeof *v->pieces, by_number);
        free(r.offset);
        free(r.size);
        free(r.at);
    }
    v->n_numbers = 0;
    v->failed = false;
}

const uint8_t *fetch_get(const fetched *v, const entry *e)
{
    piece key = {.number = e->number};
    const piece *p = v->n_pieces ? bsearch(&key, v->pieces, v->n_pieces, sizeof key, by_number) : NULL;

    return p ? p->bytes : NULL;
}

void fetch_free(fetched *v)
{
    free(v->numbers);
    free(v->pieces);
    free(v->bytes);
    *v = (fetched){0};
}
