/* cache.c - blocks made ready (latents, exact samples, masks), shared by the decoders of a file.
 * Invariants, under the lock:
 *   (1) an entry stands in its bucket unless it has failed;
 *   (2) it stands in the list newest .. oldest when and only when it is ready and refs = 0;
 *   (3) bytes is the sum over the ready entries; over max_bytes only while they are in use. */
#include "codec.h"

enum { N_BUCKETS = 1024 };

nsvq_status cache_create(cache *c, uint64_t max_bytes)
{
    entry **buckets = calloc(N_BUCKETS, sizeof *buckets);

    if (!buckets) return NSVQ_E_NOMEM;
    if (pthread_mutex_init(&c->lock, NULL)) goto no_lock;
    if (pthread_cond_init(&c->ready, NULL)) goto no_condition;
    c->buckets = buckets;
    c->max_bytes = max_bytes;
    return NSVQ_OK;
no_condition:
    pthread_mutex_destroy(&c->lock);
no_lock:
    free(buckets);
    return NSVQ_E_NOMEM;
}

static void entry_free(entry *e)
{
    free(e->latents);
    free(e->pixels);
    free(e->mask);
    free(e);
}

void cache_destroy(cache *c)
{
    if (!c->buckets) return;
    for (entry *e = c->newest, *older; e; e = older) {
        older = e->older;
        entry_free(e);
    }
    pthread_cond_destroy(&c->ready);
    pthread_mutex_destroy(&c->lock);
    free(c->buckets);
    c->buckets = NULL;
}

static entry **bucket(cache *c, uint64_t number)
{
    return &c->buckets[number * UINT64_C(0x9e3779b97f4a7c15) >> 54]; // 2^64 / golden ratio
}

static void unchain(cache *c, entry *e)
{
    entry **p = bucket(c, e->number);

    while (*p != e) p = &(*p)->chain;
    *p = e->chain;
}

static void unlist(cache *c, entry *e)
{
    *(e->newer ? &e->newer->older : &c->newest) = e->older;
    *(e->older ? &e->older->newer : &c->oldest) = e->newer;
    e->newer = e->older = NULL;
}

static void list_newest(cache *c, entry *e)
{
    e->older = c->newest;
    *(c->newest ? &c->newest->newer : &c->oldest) = e;
    c->newest = e;
}

/* The entry with one more reference, or a fresh one; NULL: no memory. */
static entry *claim(cache *c, uint64_t number)
{
    entry **b = bucket(c, number), *e = *b;

    while (e && e->number != number) e = e->chain;
    if (e) {
        if (!e->refs) unlist(c, e);
    } else {
        if (!(e = calloc(1, sizeof *e))) return NULL;
        e->number = number;
        e->bytes = sizeof *e;
        e->chain = *b;
        *b = e;
    }
    e->refs++;
    return e;
}

static void unref(cache *c, entry *e)
{
    if (--e->refs) return;
    if (e->state == ENTRY_FAILED)
        entry_free(e);
    else
        list_newest(c, e);
}

static void settle(cache *c, entry *e, nsvq_status st, const nsvq_error *error)
{
    e->state = st == NSVQ_OK ? ENTRY_READY : ENTRY_FAILED;
    e->status = st;
    if (st == NSVQ_OK) {
        c->bytes += e->bytes;
    } else {
        e->error = *error;
        unchain(c, e);
    }
}

nsvq_status cache_claim(cache *c, const uint64_t *numbers, size_t n, entry **out)
{
    static const nsvq_error no_memory = {NO_OFFSET, "no memory"};
    size_t i;

    pthread_mutex_lock(&c->lock);
    for (i = 0; i < n; i++)
        if (!(out[i] = claim(c, numbers[i]))) break;
    bool done = i == n;
    while (!done && i-- > 0) {
        if (out[i]->state == ENTRY_WANTED && out[i]->refs == 1) settle(c, out[i], NSVQ_E_NOMEM, &no_memory);
        unref(c, out[i]);
    }
    pthread_mutex_unlock(&c->lock);
    return done ? NSVQ_OK : NSVQ_E_NOMEM;
}

entry *cache_take(cache *c, entry **entries, size_t n)
{
    entry *e = NULL;

    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < n && !e; i++)
        if (entries[i]->state == ENTRY_WANTED) e = entries[i];
    if (e) e->state = ENTRY_LOADING;
    pthread_mutex_unlock(&c->lock);
    return e;
}

size_t cache_missing(cache *c, uint64_t *numbers, size_t n)
{
    size_t kept = 0;

    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < n; i++) {
        const entry *e = *bucket(c, numbers[i]);
        while (e && e->number != numbers[i]) e = e->chain;
        if (!e) numbers[kept++] = numbers[i];
    }
    pthread_mutex_unlock(&c->lock);
    return kept;
}

void cache_publish(cache *c, entry *e, nsvq_status st, const nsvq_error *error)
{
    pthread_mutex_lock(&c->lock);
    settle(c, e, st, error);
    pthread_cond_broadcast(&c->ready);
    pthread_mutex_unlock(&c->lock);
}

nsvq_status cache_wait(cache *c, entry *e, nsvq_error *err)
{
    nsvq_status st;

    pthread_mutex_lock(&c->lock);
    while (e->state < ENTRY_READY) pthread_cond_wait(&c->ready, &c->lock);
    st = e->status;
    if (st != NSVQ_OK && err) *err = e->error;
    pthread_mutex_unlock(&c->lock);
    return st;
}

void cache_release(cache *c, entry **entries, size_t n)
{
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < n; i++) unref(c, entries[i]);
    while (c->bytes > c->max_bytes && c->oldest) {
        entry *e = c->oldest;
        unlist(c, e);
        unchain(c, e);
        c->bytes -= e->bytes;
        entry_free(e);
    }
    pthread_mutex_unlock(&c->lock);
}
