/* models.c - models in memory: from bytes, compiled into the library, or found for a file. The one
 * place of the library with state of the whole process: the kernel table, and shipped models once
 * somebody has asked for them. Both are filled on first use, nothing at load. */
#include "codec.h"
#include "shipped.h"

#include <inttypes.h>
#include <stdio.h>

/* ---- kernels ---- */

static pthread_once_t kernels_once = PTHREAD_ONCE_INIT;
static nsvq_kernels kernels;
static bool kernels_known;

static void kernels_choose(void)
{
    int cpu = nsvq_cpu_flags();

    if (cpu < 0) return;
    nsvq_kernels_init(&kernels, (unsigned)cpu);
    kernels_known = true;
}

const nsvq_kernels *kernels_get(void)
{
    pthread_once(&kernels_once, kernels_choose);
    return kernels_known ? &kernels : NULL;
}

const char *nsvq_cpu_name(void)
{
    const nsvq_kernels *k = kernels_get();

    return k ? k->name : NULL;
}

/* ---- one model ---- */

nsvq_model *model_retain(const nsvq_model *m)
{
    nsvq_model *own = (nsvq_model *)m; // immutable but for its count

    atomic_fetch_add(&own->refs, 1);
    return own;
}

void nsvq_model_release(nsvq_model *m)
{
    if (!m || atomic_fetch_sub(&m->refs, 1) != 1) return;
    nsvq_engine_destroy(m->engine);
    nsvq_model_free(&m->desc);
    free(m);
}

nsvq_status nsvq_model_open(nsvq_model **out, const void *bytes, size_t size, nsvq_error *err)
{
    const nsvq_kernels *k = kernels_get();
    const char *why = NULL;
    nsvq_model *m;

    if (!out) return fail(err, NSVQ_E_ARG, NO_OFFSET, "out is NULL");
    *out = NULL;
    if (!bytes) return fail(err, NSVQ_E_ARG, NO_OFFSET, "bytes is NULL");
    if (!k) return fail(err, NSVQ_E_ARG, NO_OFFSET, "NSVQ_CPU holds an unknown word");
    m = calloc(1, sizeof *m);
    if (!m) return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    int rc = nsvq_model_load(&m->desc, bytes, size, &why);
    if (rc) {
        static const nsvq_status st[] = {NSVQ_E_NOMEM, NSVQ_E_CORRUPT, NSVQ_E_UNSUPPORTED};
        free(m);
        return fail(err, st[-1 - rc], NO_OFFSET, "%s", why);
    }
    atomic_init(&m->refs, 1);
    m->id = nsvq_model_id(&m->desc);
    m->engine = nsvq_engine_create(&m->desc, k);
    if (!m->engine) {
        nsvq_model_release(m);
        return fail(err, NSVQ_E_NOMEM, NO_OFFSET, "no memory");
    }
    *out = m;
    return NSVQ_OK;
}

const char *nsvq_model_name(const nsvq_model *m)
{
    return m->desc.name;
}

uint64_t nsvq_model_id_of(const nsvq_model *m)
{
    return m->id;
}

/* ---- shipped ones ---- */

static pthread_mutex_t shipped_lock = PTHREAD_MUTEX_INITIALIZER;

static nsvq_status shipped_get(int i, nsvq_model **out, nsvq_error *err)
{
    const shipped *s = &shipped_models[i];
    nsvq_status st = NSVQ_OK;

    pthread_mutex_lock(&shipped_lock);
    if (!shipped_loaded[i]) // no memory now may be memory later, so not pthread_once
        st = nsvq_model_open(&shipped_loaded[i], s->bytes, (size_t)(s->end - s->bytes), err);
    if (st == NSVQ_OK) *out = model_retain(shipped_loaded[i]);
    pthread_mutex_unlock(&shipped_lock);
    return st;
}

const char *nsvq_model_shipped_name(int i)
{
    return i >= 0 && i < n_shipped_models ? shipped_models[i].name : NULL;
}

bool model_is_shipped(uint64_t id)
{
    for (int i = 0; i < n_shipped_models; i++)
        if (shipped_models[i].id == id) return true;
    return false;
}

nsvq_status nsvq_model_shipped(nsvq_model **out, const char *name, nsvq_error *err)
{
    if (!out) return fail(err, NSVQ_E_ARG, NO_OFFSET, "out is NULL");
    *out = NULL;
    for (int i = 0; i < n_shipped_models; i++)
        if (!name || !strcmp(name, shipped_models[i].name)) return shipped_get(i, out, err);
    return name ? fail(err, NSVQ_E_ARG, NO_OFFSET, "no model '%s' is compiled into this library", name)
                : fail(err, NSVQ_E_NO_MODEL, NO_OFFSET, "no model is compiled into this library");
}

nsvq_status model_like(nsvq_model **out, int family, int stride, nsvq_error *err)
{
    int best = 0, least = 3;

    for (int i = 0; i < n_shipped_models; i++) {
        int miss = 2 * (shipped_models[i].family != family) + (shipped_models[i].stride != stride);
        if (miss >= least) continue;
        least = miss;
        best = i;
    }
    return n_shipped_models ? shipped_get(best, out, err) : nsvq_model_shipped(out, NULL, err);
}

/* ---- the model of a file ---- */

static nsvq_status find_embedded(nsvq_file *f, nsvq_model **out, nsvq_error *err)
{
    const section *s = NULL;
    uint8_t *raw;
    nsvq_status st;

    for (uint32_t i = 0; i < f->h.n_sections; i++)
        if (f->h.sections[i].kind == SECTION_MODEL) s = &f->h.sections[i];
    if (!s) return NSVQ_OK;
    if ((st = section_load(&f->src, s, "embedded model", &raw, err)) != NSVQ_OK) return st;
    st = nsvq_model_open(out, raw, (size_t)s->raw, err);
    free(raw);
    if (st == NSVQ_OK && !same_checksum(f->h.model_id, (*out)->id)) {
        nsvq_model_release(*out);
        *out = NULL;
        st = fail(err, NSVQ_E_CORRUPT, s->offset, "embedded model: another id than the header's");
    }
    return st;
}

/* Whole file in memory; *bytes stays NULL when there is none. */
static nsvq_status read_file(const char *path, uint8_t **bytes, size_t *size)
{
    FILE *file = fopen(path, "rb");
    wr w = {0};
    size_t n = 0;

    *bytes = NULL;
    if (!file) return NSVQ_OK;
    do {
        uint8_t *p = wr_room(&w, 1 << 16);
        if (!p) break;
        n = fread(p, 1, 1 << 16, file);
        w.size -= (1 << 16) - n;
    } while (n && w.size <= MAX_SECTION_RAW);
    bool broken = ferror(file);
    fclose(file);
    if (w.bad || broken) {
        nsvq_status st = w.bad ? NSVQ_E_NOMEM : NSVQ_E_IO;
        wr_free(&w);
        return st;
    }
    *bytes = w.p;
    *size = w.size;
    return NSVQ_OK;
}

static nsvq_status find_in_folder(const char *folder, size_t len, uint64_t id, nsvq_model **out,
                                  nsvq_error *err)
{
    char path[4096];
    uint8_t *bytes;
    size_t size;
    nsvq_status st;

    if (!len || len > sizeof path - 32) return NSVQ_OK;
    snprintf(path, sizeof path, "%.*s/%016" PRIx64 ".nsvqm", (int)len, folder, id);
    if ((st = read_file(path, &bytes, &size)) != NSVQ_OK)
        return fail(err, st, NO_OFFSET, "%.200s: cannot be read", path);
    if (!bytes) return NSVQ_OK;
    st = nsvq_model_open(out, bytes, size, err);
    free(bytes);
    if (st == NSVQ_OK && (*out)->id != id) {
        nsvq_model_release(*out);
        *out = NULL;
        st = fail(err, NSVQ_E_CORRUPT, NO_OFFSET, "%.200s: holds another model", path);
    }
    return st;
}

/* The caller's, a shipped one, the embedded one, then folders. A source that is damaged or unreadable
 * counts only when none after it has the model. */
nsvq_status model_find(nsvq_file *f, const nsvq_open_options *opt, nsvq_error *err)
{
    uint64_t id = f->h.model_id;
    const char *path = opt->model_path;
    nsvq_error first;
    nsvq_status st;

    if (opt->model && opt->model->id == id) {
        f->model = model_retain(opt->model);
        return NSVQ_OK;
    }
    for (int i = 0; i < n_shipped_models; i++)
        if (shipped_models[i].id == id) return shipped_get(i, &f->model, err);
    st = find_embedded(f, &f->model, &first);
    if (f->model) return NSVQ_OK;

    if (!path) path = getenv("NSVQ_MODEL_PATH");
    if (!path) path = NSVQ_MODEL_FOLDER;
    for (const char *p = path, *end; *p; p = *end ? end + 1 : end) {
        end = p + strcspn(p, ":");
        nsvq_error later;
        nsvq_status st2 = find_in_folder(p, (size_t)(end - p), id, &f->model, &later);
        if (f->model) return NSVQ_OK;
        if (st == NSVQ_OK && st2 != NSVQ_OK) {
            st = st2;
            first = later;
        }
    }
    if (st != NSVQ_OK) {
        if (err) *err = first;
        return st;
    }
    return fail(err, NSVQ_E_NO_MODEL, NO_OFFSET,
                "model %016" PRIx64 " (%s) is neither embedded nor compiled in nor in %.120s", id,
                f->h.model_name, path);
}
