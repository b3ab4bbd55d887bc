/* pool.c - a counter shared by threads that live for one call. No pool stays behind, so a process may
 * fork between calls. */
#include "codec.h"

#include <signal.h>

typedef struct pool {
    pool_task task;
    void *user;
    size_t n;
    atomic_size_t next;
    atomic_bool stop;
} pool;

typedef struct worker {
    pool *p;
    int number;
} worker;

static void *work(void *arg)
{
    worker *w = arg;
    pool *p = w->p;

    while (!atomic_load(&p->stop)) {
        size_t item = atomic_fetch_add(&p->next, 1);
        if (item >= p->n) break;
        if (p->task(p->user, w->number, item)) atomic_store(&p->stop, true);
    }
    return NULL;
}

void pool_run(int n_threads, size_t n, pool_task task, void *user)
{
    pool p = {.task = task, .user = user, .n = n};
    worker w[MAX_THREADS];
    pthread_t t[MAX_THREADS];
    sigset_t all, before;
    int started = 1;

    // the caller's signal handlers are not to run on our threads
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; started < n_threads && (size_t)started < n; started++) {
        w[started] = (worker){&p, started};
        if (pthread_create(&t[started], NULL, work, &w[started])) break; // fewer will do
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    w[0] = (worker){&p, 0};
    work(&w[0]);
    while (--started > 0) pthread_join(t[started], NULL);
}
