/* walk.c - model files: load, store and id through one walk, so that they cannot disagree.
 * FORMAT.md section 7. A file is a header and parts; a part is length-prefixed, checksummed, and
 * deflated where that helps.
 * May include: desc.h, io.h, sha256.h, zlib. */
#include <stdlib.h>
#include <string.h>

#include <zlib.h>

#include "checksum.h"
#include "desc.h"
#include "io.h"
#include "sha256.h"

#define VERSION 1
#define HEADER_BYTES 20
#define PART_BYTES 20
#define MAX_PARTS 64
#define MAX_PART (64u << 20) /* plain bytes */
#define MAX_RATIO 64          /* plain to stored; a larger one is refused as a bomb */

static const uint8_t signature[8] = {0x8e, 'N', 'S', 'M', '\r', '\n', 0x1a, '\n'};

enum { PART_OPTIONAL = 1 }; /* flag: a reader that does not know the tag skips it */
enum { METHOD_PLAIN = 0, METHOD_ZLIB = 1 };
enum { FAIL_MEMORY = -1, FAIL_BYTES = -2, FAIL_VERSION = -3 };

/* ---- the walk ---- */

static void walk_arrays(io *s, nsvq_layer *l, size_t n_weights)
{
    io_s8s(s, &l->wt, n_weights);
    io_s32s(s, &l->bias, l->cout);
    io_u8s(s, &l->shift, l->cout);
    io_s16s(s, &l->mul, l->cout);
}

static void walk_layer(io *s, nsvq_layer *l)
{
    io_u8(s, &l->kind, NSVQ_LAYER_POINTWISE, NSVQ_LAYER_SPACE_TO_DEPTH);
    io_u8(s, &l->src, 0, NSVQ_MAX_REGISTERS - 1);
    io_u8(s, &l->dst, 0, NSVQ_MAX_REGISTERS - 1);
    io_u8(s, &l->res, 0, NSVQ_NO_REGISTER);
    io_u8(s, &l->in_type, NSVQ_U8, NSVQ_S16);
    io_u8(s, &l->out_type, NSVQ_U8, NSVQ_S16);
    io_u8(s, &l->k, 1, 5);
    io_u8(s, &l->rep, 1, 255);
    io_u16(s, &l->cin, 1, NSVQ_MAX_CHANNELS);
    io_u16(s, &l->cout, 1, NSVQ_MAX_CHANNELS);
    if (l->kind == NSVQ_LAYER_POINTWISE)
        walk_arrays(s, l, (size_t)l->cout * l->cin);
    else if (l->kind == NSVQ_LAYER_DEPTHWISE)
        walk_arrays(s, l, (size_t)l->k * l->k * l->cin);
}

static void walk_net(io *s, nsvq_net *net)
{
    io_u8(s, &net->n_layers, 1, NSVQ_MAX_LAYERS);
    io_u8(s, &net->output, 0, NSVQ_MAX_REGISTERS - 1);
    for (int i = 0; i < net->n_layers; i++) walk_layer(s, &net->layer[i]);
}

static void walk_head(io *s, nsvq_model_desc *m)
{
    io_bytes(s, m->name, sizeof m->name);
    io_u8(s, &m->family, NSVQ_FAMILY_VQ, NSVQ_FAMILY_HYPER);
    io_u8(s, &m->stride, 8, 16);
    io_u16(s, &m->latent, 1, NSVQ_MAX_CHANNELS);
    io_u32(s, &m->lambda50, 0, UINT32_MAX);
    if (m->family != NSVQ_FAMILY_VQ) return;
    io_u8(s, &m->n_slices, 1, NSVQ_MAX_SLICES);
    io_u8(s, &m->seed_shift, 0, 255);
    io_u16(s, &m->dim, 1, NSVQ_MAX_CHANNELS);
    io_u32(s, &m->n_codes, 1, 1u << 16);
    for (int i = 0; i < 3; i++) io_u16(s, &m->seed_channel[i], 0, NSVQ_MAX_CHANNELS);
}

static void walk_codes(io *s, nsvq_model_desc *m)
{
    io_s16s(s, &m->codes, (size_t)m->n_slices * m->n_codes * m->dim);
}

static void walk_synthesis(io *s, nsvq_model_desc *m)
{
    walk_net(s, &m->synthesis);
}

static void walk_analysis(io *s, nsvq_model_desc *m)
{
    walk_net(s, &m->analysis);
    if (s->mode == IO_LOAD) m->has_analysis = 1;
}

/* A pointwise layer whose shape follows from other fields and is not stored. */
static void walk_plain(io *s, nsvq_layer *l, int in_type, int cin, int out_type, int cout)
{
    if (s->mode == IO_LOAD)
        *l = (nsvq_layer){.kind = NSVQ_LAYER_POINTWISE,
                          .dst = 1,
                          .res = NSVQ_NO_REGISTER,
                          .in_type = (uint8_t)in_type,
                          .out_type = (uint8_t)out_type,
                          .k = 1,
                          .rep = 1,
                          .cin = (uint16_t)cin,
                          .cout = (uint16_t)cout};
    if (l->cin != cin || l->cout != cout)
        s->bad = true;
    else
        walk_arrays(s, l, (size_t)cout * (size_t)cin);
}

static void walk_prior(io *s, nsvq_model_desc *m)
{
    nsvq_prior *p = &m->prior;
    int n_latent = m->n_slices * m->dim, n_ctx = 4 * n_latent + NSVQ_N_EXTRA;
    int n_cells = (int)(m->n_codes / NSVQ_CELL);

    io_u16(s, &p->hidden, 1, NSVQ_MAX_CHANNELS);
    for (int i = 0; i < NSVQ_N_PASSES; i++) {
        walk_plain(s, &p->mean[i], NSVQ_S16, n_ctx, NSVQ_S16, n_latent);
        walk_plain(s, &p->ctx[i], NSVQ_S16, n_ctx, NSVQ_S16, p->hidden);
    }
    for (int i = 0; i < m->n_slices; i++) {
        if (i > 0) walk_plain(s, &p->prev[i], NSVQ_S16, i * m->dim, NSVQ_U8, p->hidden);
        walk_plain(s, &p->logit[i], NSVQ_U8, p->hidden, NSVQ_S16, n_cells);
        walk_plain(s, &p->shiftm[i], NSVQ_U8, p->hidden, NSVQ_S16, m->dim);
    }
    io_u16s(s, &p->member, (size_t)m->n_slices * (size_t)n_cells * NSVQ_CELL);
}

static void walk_hyper(io *s, nsvq_model_desc *m)
{
    nsvq_hyper *h = &m->hyper;
    size_t n = m->latent;

    io_u16(s, &h->z, 1, NSVQ_MAX_Z);
    io_u16(s, &h->side, 1, NSVQ_MAX_CHANNELS);
    io_u8(s, &h->first_class, 0, NSVQ_N_CLASSES - 1);
    walk_net(s, &h->synthesis);
    walk_plain(s, &h->scale, NSVQ_U8, h->side, NSVQ_S16, m->latent);
    walk_plain(s, &h->base, NSVQ_U8, h->side, NSVQ_S16, m->latent);
    for (int i = 1; i < NSVQ_N_PASSES; i++)
        walk_plain(s, &h->mean[i], NSVQ_S16, 4 * m->latent + NSVQ_N_EXTRA, NSVQ_S16, m->latent);
    io_s16s(s, &h->gain, NSVQ_N_GAINS * (n + h->z));
    io_s16s(s, &h->z_mean, h->z);
    io_s16s(s, &h->z_scale, h->z);
    io_u8s(s, &h->shift, NSVQ_N_CLASSES);
    io_u8s(s, &h->half, NSVQ_N_CLASSES);
    io_u16s(s, &h->freq, NSVQ_N_CLASSES * NSVQ_CLASS_SYMBOLS);
}

static void walk_trellis(io *s, nsvq_model_desc *m)
{
    nsvq_trellis *t = &m->hyper.trellis;

    io_u8s(s, &t->shift, 2 * NSVQ_N_CLASSES);
    io_u8s(s, &t->half, 2 * NSVQ_N_CLASSES);
    io_u16s(s, &t->freq, 2 * NSVQ_N_CLASSES * NSVQ_CLASS_SYMBOLS);
}

static void walk_passes(io *s, nsvq_model_desc *m)
{
    io_s16s(s, &m->hyper.pass_gain, (size_t)NSVQ_N_PASSES * m->latent);
}

static bool has_trellis(const nsvq_model_desc *m)
{
    return m->hyper.trellis.freq;
}

static bool has_passes(const nsvq_model_desc *m)
{
    return m->hyper.pass_gain;
}

static void walk_hyper_analysis(io *s, nsvq_model_desc *m)
{
    walk_net(s, &m->hyper.analysis);
}

static void walk_card(io *s, nsvq_model_desc *m)
{
    if (s->mode == IO_LOAD) m->card_bytes = (size_t)(s->end - s->p);
    uint8_t *text = (uint8_t *)m->card;
    io_u8s(s, &text, m->card_bytes);
    m->card = (char *)text;
}

static void walk_master(io *s, nsvq_model_desc *m)
{
    if (s->mode == IO_LOAD) m->master_bytes = (size_t)(s->end - s->p);
    io_u8s(s, &m->master, m->master_bytes);
}

typedef struct part {
    char tag[5];
    uint16_t flags;
    uint8_t families; /* bits of 1 << nsvq_family: those that have it */
    unsigned keep; /* NSVQ_STORE_ bit; 0: stored if the model has it, and hashed into the id */
    void (*walk)(io *s, nsvq_model_desc *m);
    bool (*has)(const nsvq_model_desc *m); /* NULL, or mandatory for readers, yet a model may do without it */
} part;

enum { VQ = 1 << NSVQ_FAMILY_VQ, HYPER = 1 << NSVQ_FAMILY_HYPER, ALL = VQ | HYPER };

static const part parts[] = {
    /* in the order of the file */
    {"HEAD", 0, ALL, 0, walk_head, NULL},
    {"CODE", 0, VQ, 0, walk_codes, NULL},
    {"SYNT", 0, ALL, 0, walk_synthesis, NULL},
    {"PRIO", 0, VQ, 0, walk_prior, NULL},
    {"HYPR", 0, HYPER, 0, walk_hyper, NULL},
    {"TREL", 0, HYPER, 0, walk_trellis, has_trellis},
    {"PASS", 0, HYPER, 0, walk_passes, has_passes},
    {"ANAL", PART_OPTIONAL, ALL, NSVQ_STORE_ANALYSIS, walk_analysis, NULL},
    {"HYPA", PART_OPTIONAL, HYPER, NSVQ_STORE_ANALYSIS, walk_hyper_analysis, NULL},
    {"CARD", PART_OPTIONAL, ALL, NSVQ_STORE_CARD, walk_card, NULL},
    {"MAST", PART_OPTIONAL, ALL, NSVQ_STORE_MASTER, walk_master, NULL},
};
#define N_PARTS ((int)(sizeof parts / sizeof *parts))

static bool may_have(const nsvq_model_desc *m, const part *p)
{
    return m->family < 8 && p->families >> m->family & 1;
}

static bool must_have(const nsvq_model_desc *m, const part *p)
{
    return !p->keep && !p->has && (p == parts || may_have(m, p)); // before the first there is no family
}

static bool wanted(const part *p, const nsvq_model_desc *m, unsigned keep)
{
    if (!may_have(m, p)) return false;
    if (p->keep == 0) return !p->has || p->has(m);
    if (p->keep == NSVQ_STORE_ANALYSIS) return keep & p->keep && m->has_analysis;
    if (p->keep == NSVQ_STORE_CARD) return keep & p->keep && m->card_bytes;
    return keep & p->keep && m->master_bytes;
}

/* ---- id ---- */

uint64_t nsvq_model_id(const nsvq_model_desc *m)
{
    nsvq_sha256 hash;
    uint8_t digest[32];
    nsvq_model_desc copy = *m; // the walk takes a writable model; hashing writes nothing

    nsvq_sha256_init(&hash);
    for (int i = 0; i < N_PARTS; i++) {
        io s = {.mode = IO_HASH, .hash = &hash};
        if (!wanted(&parts[i], m, 0)) continue;
        nsvq_sha256_add(&hash, parts[i].tag, 4);
        parts[i].walk(&s, &copy);
    }
    nsvq_sha256_end(&hash, digest);
    return (uint64_t)io_get(digest + 4, 4) << 32 | io_get(digest, 4);
}

/* ---- store ---- */

static uint32_t part_crc(const uint8_t *head, const uint8_t *payload, size_t n)
{
    uLong crc = crc32(crc32(0, NULL, 0), head, PART_BYTES - 4);
    return (uint32_t)crc32(crc, payload, (uInt)n); // a uInt holds any part: MAX_PART
}

/* Appends one part. plain: its walked bytes. */
static void put_part(io *file, const part *p, const uint8_t *plain, size_t n_plain)
{
    uLongf n_packed = compressBound((uLong)n_plain);
    uint8_t *packed = malloc(n_packed), head[PART_BYTES];

    if (!packed || compress2(packed, &n_packed, plain, (uLong)n_plain, 9) != Z_OK) {
        free(packed);
        file->no_memory = true;
        return;
    }
    bool deflate = n_packed < n_plain && n_plain / MAX_RATIO < n_packed;
    size_t n = deflate ? n_packed : n_plain;
    const uint8_t *payload = deflate ? packed : plain;

    memcpy(head, p->tag, 4);
    io_put(head + 4, 2, p->flags);
    io_put(head + 6, 2, deflate ? METHOD_ZLIB : METHOD_PLAIN);
    io_put(head + 8, 4, (uint32_t)n);
    io_put(head + 12, 4, (uint32_t)n_plain);
    io_put(head + 16, 4, part_crc(head, payload, n));
    io_bytes(file, head, sizeof head);
    io_bytes(file, (void *)(uintptr_t)payload, n);
    free(packed);
}

uint8_t *nsvq_model_store(const nsvq_model_desc *m, unsigned keep, size_t *size)
{
    nsvq_model_desc copy = *m; // as in nsvq_model_id
    io file = {.mode = IO_STORE};
    uint8_t head[HEADER_BYTES] = {0};
    uint32_t n = 0;

    io_bytes(&file, head, sizeof head);
    for (int i = 0; i < N_PARTS && !file.bad; i++) {
        io s = {.mode = IO_STORE};
        if (!wanted(&parts[i], m, keep)) continue;
        parts[i].walk(&s, &copy);
        file.no_memory |= s.no_memory;
        file.bad |= s.bad || s.size > MAX_PART;
        if (!file.no_memory && !file.bad) put_part(&file, &parts[i], s.out, s.size);
        free(s.out);
        n++;
    }
    if (file.no_memory || file.bad || file.size > UINT32_MAX) {
        free(file.out);
        return NULL;
    }
    memcpy(file.out, signature, sizeof signature);
    io_put(file.out + 8, 2, VERSION);
    io_put(file.out + 10, 2, n);
    io_put(file.out + 12, 4, (uint32_t)file.size);
    io_put(file.out + 16, 4, (uint32_t)crc32(crc32(0, NULL, 0), file.out, HEADER_BYTES - 4));
    *size = file.size;
    return file.out;
}

/* ---- load ---- */

typedef struct loader {
    nsvq_model_desc *m;
    const uint8_t *p, *end;
    int next; /* first of parts[] that may still come */
    const char *why;
} loader;

static int fail(loader *l, int status, const char *why)
{
    l->why = why;
    return status;
}

/* *plain: the bytes of a part, the payload itself or *owned, which the caller frees. */
static int unpack(const uint8_t *head, const uint8_t *payload, const uint8_t **plain, uint8_t **owned)
{
    uint32_t method = io_get(head + 6, 2), n = io_get(head + 8, 4), n_plain = io_get(head + 12, 4);
    uLongf got = n_plain;

    *owned = NULL;
    *plain = payload;
    if (method == METHOD_PLAIN) return n == n_plain ? 0 : FAIL_BYTES;
    if (method != METHOD_ZLIB || n_plain > MAX_PART || n_plain / MAX_RATIO >= n || n_plain == 0)
        return FAIL_BYTES;
    *plain = *owned = malloc(n_plain);
    if (!*owned) return FAIL_MEMORY;
    uLong used = n;
    int rc = uncompress2(*owned, &got, payload, &used);
    if (rc == Z_OK && got == n_plain && used == n) return 0;
    free(*owned);
    *owned = NULL;
    return rc == Z_MEM_ERROR ? FAIL_MEMORY : FAIL_BYTES;
}

static int walk_part(loader *l, const part *p, const uint8_t *plain, size_t n)
{
    io s = {.mode = IO_LOAD, .p = plain, .end = plain + n};
    p->walk(&s, l->m);
    if (s.no_memory) return fail(l, FAIL_MEMORY, "out of memory");
    if (s.bad || s.p != s.end) return fail(l, FAIL_BYTES, "model part with impossible content");
    return 0;
}

/* Which of parts[] comes with this tag: its number, or -1 for a tag that is to be skipped. */
static int identify_part(loader *l, const uint8_t *head, int *index)
{
    bool optional = io_get(head + 4, 2) == PART_OPTIONAL;

    *index = -1;
    if (io_get(head + 4, 2) > PART_OPTIONAL)
        return fail(l, FAIL_VERSION, "model part with unknown flags");
    for (int i = 0; i < N_PARTS; i++)
        if (!memcmp(parts[i].tag, head, 4)) *index = i;
    if (*index < 0)
        return optional ? 0 : fail(l, FAIL_VERSION, "model with an unknown mandatory part");
    if (*index < l->next) return fail(l, FAIL_BYTES, "model part out of order");
    if (*index > 0 && !may_have(l->m, &parts[*index]))
        return fail(l, FAIL_BYTES, "model part of another family");
    if (optional != (parts[*index].flags == PART_OPTIONAL))
        return fail(l, FAIL_BYTES, "model part with wrong flags");
    for (int i = l->next; i < *index; i++)
        if (must_have(l->m, &parts[i])) return fail(l, FAIL_BYTES, "model without a mandatory part");
    l->next = *index + 1;
    return 0;
}

static int load_part(loader *l)
{
    const uint8_t *head = l->p, *payload = l->p + PART_BYTES, *plain;
    uint8_t *owned;
    int index, st;

    if (l->end - l->p < PART_BYTES) return fail(l, FAIL_BYTES, "model file cut short");
    uint32_t n = io_get(head + 8, 4);
    if (n > (size_t)(l->end - payload) || n > MAX_PART)
        return fail(l, FAIL_BYTES, "model part beyond the end of the file");
    if (!same_checksum(io_get(head + 16, 4), part_crc(head, payload, n)))
        return fail(l, FAIL_BYTES, "model part with a wrong checksum");
    l->p = payload + n;
    if ((st = identify_part(l, head, &index)) || index < 0) return st;
    if ((st = unpack(head, payload, &plain, &owned)))
        return fail(l, st, st == FAIL_MEMORY ? "out of memory" : "model part that does not inflate");
    st = walk_part(l, &parts[index], plain, io_get(head + 12, 4));
    free(owned);
    return st;
}

static int load_file(loader *l)
{
    const uint8_t *head = l->p;
    int st;

    if (l->end - head < HEADER_BYTES || memcmp(head, signature, sizeof signature))
        return fail(l, FAIL_BYTES, "not a model file");
    if (!same_checksum(io_get(head + 16, 4), (uint32_t)crc32(crc32(0, NULL, 0), head, HEADER_BYTES - 4)))
        return fail(l, FAIL_BYTES, "model header with a wrong checksum");
    if (io_get(head + 8, 2) != VERSION) return fail(l, FAIL_VERSION, "model of an unknown version");
    if (io_get(head + 12, 4) != (size_t)(l->end - head))
        return fail(l, FAIL_BYTES, "model file of the wrong size");
    uint32_t n = io_get(head + 10, 2);
    if (n > MAX_PARTS) return fail(l, FAIL_BYTES, "model with too many parts");

    l->p += HEADER_BYTES;
    for (uint32_t i = 0; i < n; i++)
        if ((st = load_part(l))) return st;
    if (l->p != l->end) return fail(l, FAIL_BYTES, "model file with bytes after its parts");
    for (int i = l->next; i < N_PARTS; i++)
        if (must_have(l->m, &parts[i])) return fail(l, FAIL_BYTES, "model without a mandatory part");
    l->why = nsvq_model_check(l->m);
    return l->why ? FAIL_BYTES : 0;
}

/* 0; -1 without memory, -2 when the bytes are not a sound model, -3 when they are of a version or
 * hold a mandatory part that this library does not know. why may be NULL. */
int nsvq_model_load(nsvq_model_desc *m, const uint8_t *bytes, size_t size, const char **why)
{
    loader l = {.m = m, .p = bytes, .end = bytes + size};

    memset(m, 0, sizeof *m);
    int st = load_file(&l);
    if (st) nsvq_model_free(m);
    if (why) *why = l.why;
    return st;
}
