/* model.c - any bytes as a model: what loads is stored and loaded again as the same, and runs without a
 * fault and alike on all kernels. */
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "fuzz.h"
#include "testmodel.h"

enum { W = 3, H = 2, MAX_LATENT = 515, HEAD_SIZE = 12 };

#define REQUIRE(condition)        \
    do {                          \
        if (!(condition)) abort(); \
    } while (0)

static void check_store(const nsvq_model_desc *m)
{
    nsvq_model_desc again;
    size_t size;
    uint8_t *bytes =
        nsvq_model_store(m, NSVQ_STORE_ANALYSIS | NSVQ_STORE_CARD | NSVQ_STORE_MASTER, &size);

    REQUIRE(bytes && nsvq_model_load(&again, bytes, size, NULL) == 0);
    REQUIRE(nsvq_model_id(m) == nsvq_model_id(&again));
    nsvq_model_free(&again);
    free(bytes);
}

/* What a model makes of fixed input. */
typedef struct result {
    int16_t y[W * H * MAX_LATENT], coded[W * H * MAX_LATENT];
    uint8_t rgb[W * H * 768];
    uint8_t stream[1 << 15];
    size_t n_stream;
} result;

static void noise(uint8_t *p, size_t n)
{
    test_rng rng = {5};

    for (size_t i = 0; i < n; i++) p[i] = (uint8_t)test_rand(&rng);
}

/* Pixels -> latents -> bytes, and the bytes to the same latents. */
static void run_encoder(const nsvq_engine *e, nsvq_scratch *s, result *r)
{
    static uint8_t in[W * H * 768];
    static int16_t back[W * H * MAX_LATENT];
    nsvq_rect all = {0, 0, W, H};

    noise(in, sizeof in);
    memset(back, 0, sizeof back);
    REQUIRE(nsvq_engine_analyse(e, s, in, W * 48, W, H, all, r->y) == 0);
    REQUIRE(nsvq_block_bound(e, W, H) <= sizeof r->stream);
    REQUIRE(nsvq_block_encode(e, s, r->y, W, H, 50, r->stream, sizeof r->stream, &r->n_stream,
                              r->coded) == 0);
    REQUIRE(nsvq_block_decode(e, s, r->stream, r->n_stream, W, H, 50, back, NULL) == 0);
    REQUIRE(!memcmp(back, r->coded, sizeof back));
    memset(r->coded, 0, sizeof r->coded);
}

static void run_engine(const nsvq_model_desc *m, unsigned cpu, result *r)
{
    nsvq_rect all = {0, 0, W, H};
    uint8_t in[1024];
    nsvq_kernels k;

    nsvq_kernels_init(&k, cpu);
    nsvq_engine *e = nsvq_engine_create(m, &k);
    nsvq_scratch *s = nsvq_scratch_create();
    REQUIRE(e && s);
    memset(r, 0, sizeof *r);
    if (m->has_analysis) run_encoder(e, s, r);
    noise(in, sizeof in);
    in[0] = in[2] = 2; // four lanes: vq, hyper
    in[1] = 1;         // a quality of the hyper family
    nsvq_block_decode(e, s, in, sizeof in, W, H, 100, r->coded, NULL);
    REQUIRE(nsvq_engine_synthesise(e, s, r->coded, W, H, all, r->rgb, W * 48) == 0);
    nsvq_scratch_destroy(s);
    nsvq_engine_destroy(e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static result plain, fast;
    nsvq_model_desc m;

    if (nsvq_model_load(&m, data, size, NULL)) return 0;
    check_store(&m);
    run_engine(&m, 0, &plain);
    run_engine(&m, nsvq_cpu_detect(), &fast);
    REQUIRE(!memcmp(&plain, &fast, sizeof plain));
    nsvq_model_free(&m);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    size = LLVMFuzzerMutate(data, size, max_size);
    if (size >= HEAD_SIZE + 4) fuzz_put_le(data + HEAD_SIZE, size, 4);
    return size;
}
