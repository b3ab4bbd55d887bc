/* windows.c - a window is a window of the whole, for any threads, strides, bands and cache; the same
 * input gives the same bytes and pixels on every kernel table. */
#include <sys/wait.h>
#include <unistd.h>

#include "kernels.h"
#include "support.h"

/* Two lossy groups, an exact band, nodata, a mask, an empty block. */
static picture mixed_picture(uint32_t w, uint32_t h)
{
    picture p = picture_make(w, h, 5, 42);

    for (uint32_t b = 0; b < 3; b++) p.bands[b] = (nsvq_band){.has_nodata = 1, .nodata = 0};
    p.bands[4].exact = 1;
    picture_punch(&p, 0, 0);
    picture_punch(&p, 2, 0);
    for (uint32_t b = 0; b < 3 && w > 1100 && h > 700; b++) picture_fill(&p, b, 0, 512, 200, 520, 500);
    p.has_mask = true;
    picture_punch(&p, 5, 0);
    return p;
}

static void check_window(nsvq_file *f, const uint8_t *whole, const picture *p, uint32_t x, uint32_t y,
                         uint32_t w, uint32_t h, int n_threads)
{
    uint8_t *got = malloc((size_t)w * h * p->n);
    nsvq_error err;

    assert_non_null(got);
    assert_ok(read_window(f, n_threads, x, y, w, h, got, &err), err);
    for (uint32_t r = 0; r < h; r++)
        assert_memory_equal(got + (size_t)r * w * p->n, whole + ((size_t)(y + r) * p->w + x) * p->n,
                            (size_t)w * p->n);
    assert_ok(read_mask_window(f, x, y, w, h, got, &err), err);
    for (uint32_t r = 0; r < h; r++)
        assert_memory_equal(got + (size_t)r * w, p->mask + (size_t)(y + r) * p->w + x, w);
    free(got);
}

static void random_windows(void **state)
{
    picture p = mixed_picture(1900, 1300);
    blob b = encode(&p, 2, 2);
    nsvq_file *f = open_blob(&b);
    uint8_t *whole = read_all(f, 1);
    test_rng rng = {3};

    for (int i = 0; i < 200; i++) {
        uint32_t x = test_rand(&rng) % p.w, y = test_rand(&rng) % p.h;
        uint32_t max_w = p.w - x < 700 ? p.w - x : 700, max_h = p.h - y < 700 ? p.h - y : 700;
        uint32_t w = 1 + test_rand(&rng) % max_w, h = 1 + test_rand(&rng) % max_h;
        check_window(f, whole, &p, x, y, i % 4 ? w : 1, i % 5 ? h : 1, 1 + i % 3);
    }
    check_window(f, whole, &p, 512, 512, 512, 512, 3);
    free(whole);
    nsvq_close(f);
    blob_free(&b);
    picture_free(&p);
}

/* The whole, with and without a cache that holds anything, by 1, 2, 3 and 7 threads. */
static void threads_and_cache(void **state)
{
    picture p = mixed_picture(1900, 1300);
    blob first = encode(&p, 1, 2);
    nsvq_file *f = open_blob(&first);
    uint8_t *whole = read_all(f, 1);
    nsvq_error err;

    nsvq_close(f);
    for (int n = 2; n <= 7; n += n > 2 ? 4 : 1) {
        blob b = encode(&p, n, 2);
        assert_int_equal(b.size, first.size);
        assert_memory_equal(b.p, first.p, b.size);
        for (int tiny = 0; tiny < 2; tiny++) {
            nsvq_open_options opt = {.struct_size = sizeof opt, .model = test_model(),
                                     .max_cache_bytes = tiny};
            nsvq_source src = blob_source(&b);
            assert_ok(nsvq_open(&f, &src, &opt, &err), err);
            uint8_t *again = read_all(f, n);
            assert_memory_equal(again, whole, (size_t)p.w * p.h * p.n);
            free(again);
            nsvq_close(f);
        }
        blob_free(&b);
    }
    free(whole);
    blob_free(&first);
    picture_free(&p);
}

/* Bands in any order, repeated; planar, negative and sparse strides; nothing else is written. */
static void strides_and_bands(void **state)
{
    picture p = mixed_picture(700, 560);
    blob b = encode(&p, 1, 2);
    nsvq_file *f = open_blob(&b);
    uint8_t *whole = read_all(f, 1);
    static const uint32_t bands[] = {4, 0, 3, 2, 0};
    const uint32_t x = 100, y = 50, w = 450, h = 500;
    size_t size = 5 * 2 * (size_t)w * (h + 3);
    uint8_t *px = malloc(size), *expected = malloc(size);
    nsvq_decoder *d;
    nsvq_error err;

    assert_non_null(px);
    assert_non_null(expected);
    assert_ok(nsvq_decoder_create(&d, f, 2, &err), err);
    for (int layout = 0; layout < 3; layout++) {
        // planar top down; planar bottom up with every second pixel; pixels backwards, interleaved
        ptrdiff_t pixel = (ptrdiff_t[]){1, 2, -5}[layout];
        ptrdiff_t row = (ptrdiff_t[]){w + 2, -2 * (ptrdiff_t)w, 5 * w}[layout];
        ptrdiff_t band = (ptrdiff_t[]){(ptrdiff_t)(w + 2) * h, 2 * (ptrdiff_t)w * h, 1}[layout];
        ptrdiff_t origin = (ptrdiff_t[]){7, 2 * (ptrdiff_t)w * (h - 1), 5 * (w - 1)}[layout];
        nsvq_window win = {.struct_size = sizeof win, .x = x, .y = y, .w = w, .h = h, .n_bands = 5,
                           .bands = bands, .pixels = px + origin, .pixel_stride = pixel,
                           .row_stride = row, .band_stride = band};
        memset(px, 0xa5, size);
        memset(expected, 0xa5, size);
        for (uint32_t r = 0; r < h; r++)
            for (uint32_t c = 0; c < w; c++)
                for (int i = 0; i < 5; i++)
                    expected[origin + i * band + (ptrdiff_t)r * row + (ptrdiff_t)c * pixel] =
                        whole[((size_t)(y + r) * p.w + x + c) * p.n + bands[i]];
        assert_ok(nsvq_read(d, &win, &err), err);
        assert_memory_equal(px, expected, size);
    }
    nsvq_decoder_destroy(d);
    free(px);
    free(expected);
    free(whole);
    nsvq_close(f);
    blob_free(&b);
    picture_free(&p);
}

/* One block costs one block: the bytes of a file that a window reads are those of its blocks. */
static void small_reads(void **state)
{
    picture p = picture_make(5000, 5000, 1, 4);
    blob b = encode(&p, 2, 2);
    nsvq_file *f = open_blob(&b);
    uint8_t *px = malloc(512 * 512);
    nsvq_error err;

    assert_non_null(px);
    b.n_reads = 0;
    assert_ok(read_window(f, 1, 2048, 2048, 512, 512, px, &err), err);
    assert_in_range(b.n_reads, 1, 3); // rows of neighbours, merged
    b.n_reads = 0;
    assert_ok(read_window(f, 1, 2200, 2200, 100, 100, px, &err), err);
    assert_int_equal(b.n_reads, 0); // all in the cache
    free(px);
    nsvq_close(f);
    blob_free(&b);
    picture_free(&p);
}

/* File and pixels of a child process that runs with NSVQ_CPU = level, as one checksum. */
static uint64_t on_cpu(const char *level)
{
    int fd[2];
    uint64_t hash = 0;

    assert_int_equal(pipe(fd), 0);
    pid_t child = fork();
    if (!child) {
        setenv("NSVQ_CPU", level, 1);
        picture p = mixed_picture(600, 560);
        blob b = encode(&p, 1, 1);
        nsvq_file *f = open_blob(&b);
        uint8_t *px = read_all(f, 1);
        hash = UINT64_C(0xcbf29ce484222325); // FNV-1a
        for (size_t i = 0; i < b.size; i++) hash = (hash ^ b.p[i]) * UINT64_C(0x100000001b3);
        for (size_t i = 0; i < (size_t)p.w * p.h * p.n; i++)
            hash = (hash ^ px[i]) * UINT64_C(0x100000001b3);
        bool named = !strcmp(nsvq_cpu_name(), level);
        _exit(named && write(fd[1], &hash, sizeof hash) == sizeof hash ? 0 : 1);
    }
    int rc = -1;
    close(fd[1]);
    assert_int_equal(read(fd[0], &hash, sizeof hash), sizeof hash);
    close(fd[0]);
    assert_true(child > 0 && waitpid(child, &rc, 0) == child && rc == 0);
    return hash;
}

static void same_on_every_cpu(void **state)
{
    unsigned cpu = nsvq_cpu_detect();
    uint64_t want = on_cpu("c");

    if (cpu & NSVQ_CPU_AVX2) assert_true(on_cpu("avx2") == want);
    if (cpu & NSVQ_CPU_AVX512VNNI) assert_true(on_cpu("avx512vnni") == want);
    print_message("checked: c%s%s\n", cpu & NSVQ_CPU_AVX2 ? " avx2" : "",
                  cpu & NSVQ_CPU_AVX512VNNI ? " avx512vnni" : "");
}

/* A word that NSVQ_CPU does not know is an error everywhere. */
static void unknown_cpu(void **state)
{
    int rc = -1;
    pid_t child = fork();

    if (!child) {
        nsvq_model *m;
        nsvq_file *f;
        uint8_t none[64] = {0};
        blob b = {.p = none, .size = sizeof none};
        nsvq_source src = blob_source(&b);
        setenv("NSVQ_CPU", "avx3", 1);
        bool ok = !nsvq_cpu_name() && nsvq_model_open(&m, none, 64, NULL) == NSVQ_E_ARG &&
                  nsvq_open(&f, &src, NULL, NULL) == NSVQ_E_ARG;
        _exit(ok ? 0 : 1);
    }
    assert_true(child > 0 && waitpid(child, &rc, 0) == child);
    assert_int_equal(rc, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        // first, before this process has chosen its kernels
        cmocka_unit_test(same_on_every_cpu), cmocka_unit_test(unknown_cpu),
        cmocka_unit_test(random_windows),    cmocka_unit_test(threads_and_cache),
        cmocka_unit_test(strides_and_bands), cmocka_unit_test(small_reads)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
