/* codebook.c - checks of the codebook search. */
#include "checkkern.h"

#include <stdio.h>
#include <stdlib.h>

static const uint32_t all_codes[] = {64, 128, 192, 4096};
static const int all_dims[] = {4, 8, 12, 24, 64};
static const char *const fill_name[] = {"random", "min", "max", "mixed"};

enum { MAX_CODE = 4095, MAX_DIM = 64, MAX_CODES = 4096, N_QUERIES = 8 };

typedef struct bufs {
    ck_buf codes, r, base, cell;
} bufs;

/* Costs of a few values only, so that equal ones are frequent: the smallest index must win. */
static int32_t cost_value(ck *t, bool ties, ck_fill fill, int32_t limit)
{
    return ties ? ck_between(t, -1, 1) : ck_value(t, fill, -limit, limit);
}

static bool query(ck *t, const nsvq_kernels *ref, const nsvq_kernels *k, bufs *b,
                  const nsvq_codebook *b_ref, const nsvq_codebook *b_k, ck_fill fill)
{
    const uint32_t n_codes = b_ref->n_codes;
    const int dim = b_ref->dim;
    const int64_t left = INT32_MAX - 2ll * dim * MAX_CODE * MAX_CODE;
    const int32_t limit = (int32_t)((left < (1 << 30) ? left : (1 << 30) - 2) / 2);
    bool ties = ck_random(t) & 1;
    int16_t *r = ck_place(t, &b->r, 2 * (size_t)dim);
    int32_t *base = ck_place(t, &b->base, 4 * n_codes), *cell, cost_ref = 0, cost = 0;
    uint32_t want, got;

    cell = ck_place(t, &b->cell, 4 * (n_codes / 64));
    ck_case(t, "n_codes=%u dim=%d fill=%s ties=%d", n_codes, dim, fill_name[fill], ties);
    ck_fill_s16(t, r, (size_t)dim, fill, ties ? -1 : -MAX_CODE, ties ? 1 : MAX_CODE);
    for (uint32_t i = 0; i < n_codes; i++)
        base[i] = cost_value(t, ties, fill, limit);
    for (uint32_t i = 0; i < n_codes / 64; i++)
        cell[i] = cost_value(t, ties, fill, limit);
    want = ref->search(b_ref, r, base, cell, &cost_ref);
    got = k->search(b_k, r, base, cell, &cost);
    return ck_equal(t, "code", got, want) && ck_equal(t, "cost", cost, cost_ref);
}

static bool book(ck *t, const nsvq_kernels *ref, const nsvq_kernels *k, bufs *b, uint32_t n_codes,
                 int dim, ck_fill fill, bool small)
{
    nsvq_codebook b_ref = {.n_codes = n_codes, .dim = (uint16_t)dim}, b_k = b_ref;
    size_t n = (size_t)n_codes * (size_t)dim;
    int16_t *codes = ck_place(t, &b->codes, 2 * n);
    bool same = true;

    ck_fill_s16(t, codes, n, fill, small ? -1 : -MAX_CODE, small ? 1 : MAX_CODE);
    if (ref->codebook_pack(&b_ref, codes) || k->codebook_pack(&b_k, codes)) {
        fprintf(stderr, "checkkern: out of memory\n");
        exit(1);
    }
    for (int i = 0; i < N_QUERIES * CK_FILLS && same; i++)
        same = query(t, ref, k, b, &b_ref, &b_k, (ck_fill)(i % CK_FILLS));
    nsvq_codebook_free(&b_ref);
    nsvq_codebook_free(&b_k);
    return same;
}

void check_codebook(ck *t, const nsvq_kernels *ref, const nsvq_kernels *k)
{
    static bufs b;

    if (!b.r.base)
        b = (bufs){ck_buf_new(2 * MAX_CODES * MAX_DIM), ck_buf_new(2 * MAX_DIM),
                   ck_buf_new(4 * MAX_CODES), ck_buf_new(4 * MAX_CODES / 64)};
    for (size_t i = 0; i < COUNT(all_codes) * COUNT(all_dims) * CK_FILLS * 2; i++) {
        uint32_t n_codes = all_codes[i % COUNT(all_codes)];
        int dim = all_dims[i / COUNT(all_codes) % COUNT(all_dims)];
        int fill = (int)(i / COUNT(all_codes) / COUNT(all_dims) % CK_FILLS);

        t->at_end = ck_random(t) & 1;
        if (!book(t, ref, k, &b, n_codes, dim, (ck_fill)fill, i % 2)) return;
    }
}
