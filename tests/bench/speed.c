/* speed.c - times of libnsvq in this process, without GDAL and without a disk.
 * usage: nsvq-speed [-n RUNS] [-q QUALITY] [-m MODEL] [-t THREADS,THREADS..] PICTURE.ppm
 *        nsvq-speed -i FILE.nsvq      what is in a file, as JSON
 *        nsvq-speed -m MODEL -i -     the model's id
 * Prints one JSON object; seconds of every run, so that the caller forms medians. Encode =
 * nsvq_encode from memory into memory. Decode = nsvq_decoder_create + nsvq_read of the whole
 * picture, on a newly opened file, so no latents are kept. Window = nsvq_open + decoder + 512 x 512
 * pixels. */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "nsvq.h"

typedef struct picture {
    uint32_t w, h;
    uint8_t *pixels; /* RGB, dense */
} picture;

typedef struct bytes { /* grows as it is written */
    uint8_t *data;
    size_t size, room;
} bytes;

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "nsvq-speed: %s: %s\n", what, why);
    exit(1);
}

static void check(nsvq_status st, const nsvq_error *err, const char *what)
{
    if (st != NSVQ_OK) fail(what, err->text[0] ? err->text : nsvq_status_text(st));
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- callbacks ---- */

static int read_pixels(void *user, const nsvq_pull *w)
{
    const picture *p = user;

    if (w->first != 0 || w->n != 3 || w->pixel_stride != 3 || w->band_stride != 1) return -1;
    for (uint32_t r = 0; r < w->h; r++)
        memcpy((uint8_t *)w->pixels + (ptrdiff_t)r * w->row_stride,
               p->pixels + 3 * ((size_t)p->w * (w->y + r) + w->x), (size_t)3 * w->w);
    return 0;
}

static int write_bytes(void *user, uint64_t offset, const void *buf, size_t len)
{
    bytes *b = user;

    if (offset + len > b->room) {
        size_t room = 2 * (offset + len);
        uint8_t *data = realloc(b->data, room);
        if (!data) return -1;
        memset(data + b->room, 0, room - b->room);
        b->data = data;
        b->room = room;
    }
    if (len) memcpy(b->data + offset, buf, len);
    if (offset + len > b->size) b->size = offset + len;
    return 0;
}

static int read_bytes(void *user, uint64_t offset, void *buf, size_t len)
{
    const bytes *b = user;

    if (offset > b->size || len > b->size - offset) return -1;
    memcpy(buf, b->data + offset, len);
    return 0;
}

/* ---- files ---- */

static bytes load(const char *path)
{
    bytes b = {0};
    uint8_t part[65536];
    size_t n;
    FILE *f = fopen(path, "rb");

    if (!f) fail(path, "cannot be read");
    while ((n = fread(part, 1, sizeof part, f)) > 0)
        if (write_bytes(&b, b.size, part, n)) fail(path, "no memory");
    fclose(f);
    return b;
}

/* P6, maximum 255, no comments: what bench.py writes. p->pixels points into b. */
static picture parse_picture(const char *path, const bytes *b)
{
    picture p = {0};
    int start = 0;
    char head[64] = {0};

    memcpy(head, b->data, b->size < 63 ? b->size : 63);
    if (sscanf(head, "P6 %" SCNu32 " %" SCNu32 " 255%n", &p.w, &p.h, &start) != 2 || start == 0 ||
        b->size - (size_t)start - 1 != (size_t)3 * p.w * p.h)
        fail(path, "is no P6 picture of 8 bits");
    p.pixels = b->data + start + 1;
    return p;
}

static nsvq_model *load_model(const char *path)
{
    nsvq_error err = {0};
    nsvq_model *m = NULL;

    if (path) {
        bytes b = load(path);
        check(nsvq_model_open(&m, b.data, b.size, &err), &err, path);
        free(b.data);
    } else {
        check(nsvq_model_shipped(&m, NULL, &err), &err, "shipped model");
    }
    return m;
}

static nsvq_file *open_file(bytes *b, const nsvq_model *m)
{
    nsvq_error err = {0};
    nsvq_file *f = NULL;
    nsvq_source source = {.user = b, .size = b->size, .read_at = read_bytes};
    nsvq_open_options opt = {.struct_size = sizeof opt, .model = m};

    check(nsvq_open(&f, &source, &opt, &err), &err, "open");
    return f;
}

/* ---- what is timed ---- */

static double time_encode(bytes *out, picture *p, const nsvq_model *m, int quality, int threads)
{
    static const nsvq_band bands[3];
    nsvq_raster raster = {.struct_size = sizeof raster,
                          .user = p,
                          .width = p->w,
                          .height = p->h,
                          .n_bands = 3,
                          .bands = bands,
                          .read = read_pixels};
    nsvq_encode_options opt = {.struct_size = sizeof opt,
                               .model = m,
                               .quality = quality,
                               .n_threads = threads,
                               .embed = 2,
                               .n_levels = 1};
    nsvq_sink sink = {.user = out, .write_at = write_bytes};
    nsvq_error err = {0};
    double start = now();

    out->size = 0;
    check(nsvq_encode(&sink, &raster, &opt, NULL, &err), &err, "encode");
    return now() - start;
}

static void read_window(nsvq_file *f, uint8_t *pixels, uint32_t x, uint32_t y, uint32_t w,
                        uint32_t h, int threads)
{
    nsvq_error err = {0};
    nsvq_decoder *d = NULL;
    nsvq_window win = {.struct_size = sizeof win,
                       .x = x,
                       .y = y,
                       .w = w,
                       .h = h,
                       .n_bands = 3,
                       .pixels = pixels,
                       .pixel_stride = 3,
                       .row_stride = (ptrdiff_t)3 * w,
                       .band_stride = 1};

    check(nsvq_decoder_create(&d, f, threads, &err), &err, "decoder");
    check(nsvq_read(d, &win, &err), &err, "read");
    nsvq_decoder_destroy(d);
}

static double time_decode(bytes *b, const picture *p, const nsvq_model *m, uint8_t *pixels,
                          int threads)
{
    nsvq_file *f = open_file(b, m);
    double start = now();

    read_window(f, pixels, 0, 0, p->w, p->h, threads);
    double seconds = now() - start;
    nsvq_close(f);
    return seconds;
}

static double time_window(bytes *b, const picture *p, const nsvq_model *m, uint8_t *pixels,
                          int threads)
{
    uint32_t w = p->w < 512 ? p->w : 512, h = p->h < 512 ? p->h : 512;
    double start = now();
    nsvq_file *f = open_file(b, m);

    read_window(f, pixels, (p->w - w) / 3, (p->h - h) / 3, w, h, threads);
    nsvq_close(f);
    return now() - start;
}

/* ---- output ---- */

static void print_seconds(const char *name, const double *s, int n, const char *end)
{
    printf("\"%s\": [", name);
    for (int i = 0; i < n; i++) printf("%s%.6f", i ? ", " : "", s[i]);
    printf("]%s", end);
}

static void speed(const char *path, const char *model_path, int quality, int runs,
                  const char *threads)
{
    bytes source = load(path), coded = {0};
    picture p = parse_picture(path, &source);
    nsvq_model *m = load_model(model_path);
    uint8_t *pixels = malloc((size_t)3 * p.w * p.h);
    double *encode = malloc((size_t)runs * sizeof *encode),
           *decode = malloc((size_t)runs * sizeof *decode),
           *window = malloc((size_t)runs * sizeof *window);
    const char *comma = "";

    if (!pixels || !encode || !decode || !window) fail(path, "no memory");
    printf("{\"version\": \"%s\", \"cpu\": \"%s\", \"width\": %" PRIu32 ", \"height\": %" PRIu32
           ", \"threads\": {",
           nsvq_version(), nsvq_cpu_name(), p.w, p.h);
    for (const char *t = threads; *t;) {
        char *end;
        int n = (int)strtol(t, &end, 10);
        if (end == t || n < 1) fail(threads, "is no list of numbers");
        for (int i = 0; i < runs; i++) {
            encode[i] = time_encode(&coded, &p, m, quality, n);
            decode[i] = time_decode(&coded, &p, m, pixels, n);
            window[i] = time_window(&coded, &p, m, pixels, n);
        }
        printf("%s\"%d\": {", comma, n);
        print_seconds("encode_s", encode, runs, ", ");
        print_seconds("decode_s", decode, runs, ", ");
        print_seconds("window_s", window, runs, "}");
        comma = ", ";
        t = *end == ',' ? end + 1 : end;
    }
    printf("}, \"bytes\": %zu}\n", coded.size);
    free(window);
    free(decode);
    free(encode);
    free(pixels);
    nsvq_model_release(m);
    free(coded.data);
    free(source.data);
}

/* Bytes of all blocks (level 0, all groups), so that the container's share is known. */
static uint64_t sum_blocks(const nsvq_file *f, const nsvq_info *info)
{
    nsvq_error err = {0};
    uint64_t sum = 0, offset, size;

    for (uint32_t g = 0; g < info->n_groups; g++)
        for (uint32_t y = 0; y * info->block_size < info->height; y++)
            for (uint32_t x = 0; x * info->block_size < info->width; x++) {
                check(nsvq_block_get(f, 0, x, y, g, &offset, &size, &err), &err, "block");
                sum += size;
            }
    return sum;
}

static void describe(const char *path, const char *model_path)
{
    nsvq_model *m = load_model(model_path);

    if (strcmp(path, "-") == 0) {
        printf("{\"version\": \"%s\", \"cpu\": \"%s\", \"model\": \"%s\", \"id\": \"%016" PRIx64
               "\"}\n",
               nsvq_version(), nsvq_cpu_name(), nsvq_model_name(m), nsvq_model_id_of(m));
    } else {
        bytes b = load(path);
        nsvq_file *f = open_file(&b, m);
        nsvq_info info = {.struct_size = sizeof info};
        nsvq_get_info(f, &info);
        printf("{\"bytes\": %zu, \"block_bytes\": %" PRIu64
               ", \"embedded\": %s, \"quality\": %g}\n",
               b.size, sum_blocks(f, &info), info.embedded ? "true" : "false", info.quality);
        nsvq_close(f);
        free(b.data);
    }
    nsvq_model_release(m);
}

int main(int argc, char **argv)
{
    const char *model = NULL, *threads = "1", *file = NULL;
    int runs = 5, quality = 0, option;

    while ((option = getopt(argc, argv, "n:q:m:t:i:")) != -1) {
        if (option == 'n')
            runs = atoi(optarg);
        else if (option == 'q')
            quality = atoi(optarg);
        else if (option == 'm')
            model = optarg;
        else if (option == 't')
            threads = optarg;
        else if (option == 'i')
            file = optarg;
        else
            return 2;
    }
    if (runs < 1 || (file ? optind != argc : optind != argc - 1)) {
        fprintf(stderr,
                "usage: nsvq-speed [-n RUNS] [-q QUALITY] [-m MODEL] [-t THREADS,..] PICTURE.ppm\n"
                "       nsvq-speed [-m MODEL] -i FILE.nsvq|-\n");
        return 2;
    }
    if (!nsvq_cpu_name()) fail("NSVQ_CPU", "unknown word");
    if (file)
        describe(file, model);
    else
        speed(argv[optind], model, quality, runs, threads);
    return 0;
}
