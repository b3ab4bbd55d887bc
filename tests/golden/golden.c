/* golden.c - streams that every later version decodes to the same.
 *   golden check FOLDER          every *.nsvq holds what its .crc32 says, on each kernel table
 *   golden make FOLDER           adds those streams of the shipped models that are not there yet
 *   golden make FOLDER tiny      the same of random test models of each family, which each file then embeds
 * A .crc32 holds one line: width height bands quality, then CRC-32 of the samples (pixel-interleaved, as far
 * apart as the widest, level after level), of the masks (255 where none is stored) and of the metadata. */
#include <dirent.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>

#include "kernels.h"
#include "support.h"

enum { LINE = 100, PATH = 4096 };

/* ---- check ---- */

static void path_of(char path[PATH], const char *folder, const char *name, const char *ending)
{
    snprintf(path, PATH, "%s/%s%s", folder, name, ending);
}

static bool read_blob(const char *path, blob *b)
{
    FILE *f = fopen(path, "rb");
    size_t n;

    if (!f) return false;
    *b = (blob){.cap = 64 << 20, .p = malloc(64 << 20)};
    assert_non_null(b->p);
    while ((n = fread(b->p + b->size, 1, b->cap - b->size, f))) b->size += n;
    fclose(f);
    return true;
}

static uint32_t crc_of_meta(const nsvq_file *f)
{
    uLong crc = crc32(0, NULL, 0);
    nsvq_meta m;

    for (size_t i = 0; nsvq_meta_get(f, i, &m) == NSVQ_OK; i++) {
        uint8_t head[8] = {(uint8_t)m.tag, (uint8_t)(m.tag >> 8), (uint8_t)m.band, (uint8_t)(m.band >> 8)};
        for (int k = 0; k < 4; k++) head[4 + k] = (uint8_t)(m.size >> 8 * k);
        crc = crc32(crc, head, sizeof head);
        if (m.size) crc = crc32(crc, m.data, m.size);
    }
    return (uint32_t)crc;
}

/* The line of the .crc32. */
static nsvq_status describe(blob *b, char line[LINE], nsvq_error *err)
{
    nsvq_source src = blob_source(b);
    nsvq_info info = {.struct_size = sizeof info};
    nsvq_file *f;
    nsvq_status st = nsvq_open(&f, &src, NULL, err);

    if (st != NSVQ_OK) return st;
    nsvq_get_info(f, &info);
    size_t n = (size_t)info.width * info.height, bytes = widest_sample(f);
    uint8_t *px = calloc(n * info.n_bands, bytes);
    nsvq_decoder *d = NULL;
    uLong pixels = crc32(0, NULL, 0), masks = pixels;
    assert_non_null(px);
    st = nsvq_decoder_create(&d, f, 2, err);
    for (uint32_t l = 0; l < info.n_levels && st == NSVQ_OK; l++) {
        uint32_t w = ((info.width - 1) >> l) + 1, h = ((info.height - 1) >> l) + 1;
        uint32_t n_masks = info.has_mask == 2 ? info.n_bands : 1;
        nsvq_window win = {.struct_size = sizeof win, .level = l, .w = w, .h = h, .n_bands = info.n_bands,
                           .pixels = px, .pixel_stride = (ptrdiff_t)(info.n_bands * bytes),
                           .row_stride = (ptrdiff_t)(w * info.n_bands * bytes), .band_stride = (ptrdiff_t)bytes};
        st = nsvq_read(d, &win, err);
        pixels = crc32(pixels, px, (uInt)(w * h * info.n_bands * bytes));
        win.pixel_stride = n_masks;
        win.row_stride = (ptrdiff_t)w * n_masks;
        win.band_stride = 1;
        if (st == NSVQ_OK) st = nsvq_read_mask(d, &win, err);
        masks = crc32(masks, px, w * h * n_masks);
    }
    if (st == NSVQ_OK)
        snprintf(line, LINE, "%u %u %u %u %08lx %08lx %08x\n", info.width, info.height, info.n_bands,
                 (unsigned)info.quality, pixels, masks, crc_of_meta(f));
    nsvq_decoder_destroy(d);
    nsvq_close(f);
    free(px);
    return st;
}

static bool check_one(const char *folder, const char *name)
{
    char path[PATH], want[LINE] = "nothing\n", got[LINE];
    nsvq_error err;
    blob b;

    path_of(path, folder, name, ".crc32");
    FILE *f = fopen(path, "r");
    if (f && !fgets(want, sizeof want, f)) want[0] = 0;
    if (f) fclose(f);
    path_of(path, folder, name, ".nsvq");
    if (!read_blob(path, &b)) return false;
    nsvq_status st = describe(&b, got, &err);
    blob_free(&b);
    if (st != NSVQ_OK) snprintf(got, sizeof got, "%.90s\n", err.text);
    if (st == NSVQ_OK && !strcmp(want, got)) return true;
    fprintf(stderr, "%s: %s\n  want %s  got  %s", nsvq_cpu_name(), path, want, got);
    return false;
}

static int check_all(const char *level, const char *folder)
{
    DIR *d = opendir(folder);
    int n = 0, n_failed = 0;

    for (struct dirent *e; d && (e = readdir(d));) {
        char *dot = strrchr(e->d_name, '.');
        if (!dot || strcmp(dot, ".nsvq")) continue;
        *dot = 0;
        n_failed += !check_one(folder, e->d_name);
        n++;
    }
    if (d) closedir(d);
    printf("%s: %d streams, %d failed\n", level, n, n_failed);
    return !n || n_failed; // an empty folder checks nothing
}

/* A process for each table: the choice is made once in a process. */
static int check(const char *folder)
{
    static const char *const level[] = {"c", "avx2", "avx512vnni"};
    static const unsigned flag[] = {0, NSVQ_CPU_AVX2, NSVQ_CPU_AVX512VNNI};
    int failed = 0;

    for (int i = 0; i < 3; i++) {
        int rc = 0;
        if ((nsvq_cpu_detect() & flag[i]) != flag[i]) continue;
        pid_t child = fork();
        if (!child) {
            setenv("NSVQ_CPU", level[i], 1);
            exit(check_all(level[i], folder));
        }
        failed |= child < 0 || waitpid(child, &rc, 0) != child || rc;
    }
    return failed != 0;
}

/* ---- make ---- */

typedef struct maker {
    const char *folder;
    const char *prefix;
    nsvq_encode_options opt;
} maker;

#define WKT                                                                                           \
    "PROJCRS[\"ETRS89 / UTM zone 32N\",BASEGEOGCRS[\"ETRS89\",DATUM[\"European Terrestrial Reference " \
    "System 1989\",ELLIPSOID[\"GRS 1980\",6378137,298.257222101,LENGTHUNIT[\"metre\",1]]]],"           \
    "CONVERSION[\"UTM zone 32N\",METHOD[\"Transverse Mercator\"]],ID[\"EPSG\",25832]]"
#define ZERO "\0\0\0\0\0\0\0\0"
#define RECORD(tag, band, text) {tag, band, sizeof text - 1, text}

/* A record of every kind, an empty one, one of an unknown tag. */
static const nsvq_meta meta[] = {
    RECORD(NSVQ_META_CRS_WKT2, 0, WKT),
    RECORD(NSVQ_META_CRS_AXES, 0, "\1\0\0\0\2\0\0\0"),
    RECORD(NSVQ_META_CRS_EPOCH, 0, "\0\0\0\0\0\224\237@"), // 2021.0
    RECORD(NSVQ_META_GEOTRANSFORM, 0, "\0\0\0\0\200\204\36A\0\0\0\0\0\0\340?\0\0\0\0\0\0\0\0"
                                      "\0\0\0\0\200\204\126A\0\0\0\0\0\0\0\0\0\0\0\0\0\0\340\277"),
    RECORD(NSVQ_META_DOMAIN, 0, "\0AREA_OR_POINT=Area\0TIFFTAG_SOFTWARE=none\0"),
    RECORD(NSVQ_META_DESCRIPTION, 1, "first"),
    RECORD(NSVQ_META_COLOR_INTERP, 1, "Red"),
    RECORD(NSVQ_META_NODATA, 1, "\0\0\0\0\0\0\0\0"),
    RECORD(NSVQ_META_GCPS, 0, "1\0\0" ZERO ZERO "\0\0\0\0\200\204\36A\0\0\0\0\200\204\126A" ZERO),
    RECORD(NSVQ_META_GCP_WKT2, 0, WKT),
    RECORD(NSVQ_META_SCALE, 1, "\0\0\0\0\0\0\360?"),
    RECORD(NSVQ_META_OFFSET, 1, "\0\0\0\0\0\0\0\0"),
    RECORD(NSVQ_META_UNIT, 1, "m"),
    RECORD(NSVQ_META_CATEGORIES, 1, "water\0forest\0"),
    RECORD(NSVQ_META_PALETTE, 2, "\1\0\0\0\0\0\0\0\0\377\0\200\0\0\0\377\0"),
    RECORD(NSVQ_META_ATTRIBUTES, 2, "\0\0\1\0\0\0\2\0\0\0Class\0\2\2wood\0water\0"),
    RECORD(NSVQ_META_BITS, 2, "\7"),
    RECORD(NSVQ_META_GCP_AXES, 0, "\1\0\0\0\2\0\0\0"),
    RECORD(NSVQ_META_GCP_EPOCH, 0, "\0\0\0\0\0\224\237@"),
    RECORD(NSVQ_META_DESCRIPTION, 0, ""),
    RECORD(60000, 0, "unknown"),
};

static void put(const char *path, const void *bytes, size_t size)
{
    FILE *f = fopen(path, "wb");

    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

static void add(const maker *m, const char *name, picture p, int quality)
{
    char path[PATH], full[200], line[LINE];
    nsvq_encode_options opt = m->opt;
    blob b = {0};
    nsvq_sink sink = blob_sink(&b);
    nsvq_error err;

    snprintf(full, sizeof full, "%s-%s", m->prefix, name);
    path_of(path, m->folder, full, ".nsvq");
    if (access(path, F_OK)) {
        nsvq_raster raster = picture_raster(&p);
        bool all_meta = !strcmp(name, "metadata");
        raster.meta = meta;
        raster.n_meta = all_meta ? sizeof meta / sizeof *meta : 0;
        opt.quality = quality;
        assert_ok(nsvq_encode(&sink, &raster, &opt, NULL, &err), err);
        assert_ok(describe(&b, line, &err), err);
        put(path, b.p, b.size);
        path_of(path, m->folder, full, ".crc32");
        put(path, line, strlen(line));
    }
    blob_free(&b);
    picture_free(&p);
}

static picture exact(uint32_t w, uint32_t h, uint64_t seed)
{
    picture p = picture_make(w, h, 1, seed);

    p.bands[0].exact = 1;
    return p;
}

/* Bands of several types, in groups; only the type tells what the bytes of a picture mean. */
static picture typed(void)
{
    picture p = picture_make(540, 30, 8, 15);

    for (uint32_t b = 0; b < 8; b++) p.bands[b].exact = 1;
    for (uint32_t b = 2; b < 5; b++) p.bands[b].type = NSVQ_TYPE_S8;
    p.bands[5].has_nodata = 1;
    p.bands[5].nodata = 7;
    p.bands[6].resampling = NSVQ_MODE;
    return p;
}

/* A mask of each band; levels down to one block. */
static picture band_masks(void)
{
    picture p = picture_make(1030, 550, 2, 16);

    p.bands[0].exact = 1;
    p.has_mask = 2;
    picture_punch(&p, 2, 0);
    return p;
}

static picture with_nodata(picture p, uint8_t nodata)
{
    for (uint32_t b = 0; b < p.n; b++) {
        p.bands[b] = (nsvq_band){.has_nodata = 1, .nodata = nodata};
        picture_punch(&p, b, nodata);
    }
    return p;
}

/* Lossy bands of another type; nodata: a byte, or -1. Some samples are PICTURE_ODD. */
static picture wide(picture p, nsvq_type type, int nodata)
{
    for (uint32_t b = 0; b < p.n; b++) {
        p.bands[b].type = (uint8_t)type;
        picture_fill(&p, b, PICTURE_ODD, 7 + b, 5, 9, 4);
        if (nodata < 0) continue;
        p.bands[b].has_nodata = 1;
        p.bands[b].nodata = picture_sample(type, (uint8_t)nodata);
        picture_punch(&p, b, (uint8_t)nodata);
    }
    return p;
}

/* Three lossy bands, a lossy one with nodata, an exact one; a mask. */
static picture five_bands(void)
{
    picture p = picture_make(90, 70, 5, 8);

    p.bands[3] = (nsvq_band){.has_nodata = 1, .nodata = 0};
    picture_punch(&p, 3, 0);
    p.bands[4].exact = 1;
    p.has_mask = true;
    picture_punch(&p, 5, 0);
    return p;
}

/* The second of three blocks is all nodata; the mask lacks its last block. */
static picture empty_block(void)
{
    picture p = picture_make(1030, 100, 3, 7);

    for (uint32_t b = 0; b < 3; b++) {
        p.bands[b] = (nsvq_band){.has_nodata = 1, .nodata = 9};
        picture_fill(&p, b, 9, 512, 0, 512, 100);
    }
    p.has_mask = true;
    picture_fill(&p, 3, 0, 1000, 0, 30, 100);
    return p;
}

/* Values next to nodata, which must not become it. */
static picture near_nodata(void)
{
    picture p = with_nodata(picture_make(65, 33, 3, 10), 255);

    picture_fill(&p, 1, 254, 0, 0, 65, 9);
    return p;
}

static void add_any_model(const maker *m)
{
    add(m, "1x1", picture_make(1, 1, 3, 1), 50);
    add(m, "q50", picture_make(530, 300, 3, 2), 50);
    add(m, "q1", picture_make(200, 100, 3, 3), 1);
    add(m, "q100", picture_make(100, 100, 3, 4), 100);
    add(m, "grey", picture_make(65, 130, 1, 5), 50);
    add(m, "nodata", with_nodata(picture_make(150, 140, 3, 6), 255), 50);
    add(m, "u16", wide(picture_make(90, 60, 3, 17), NSVQ_TYPE_U16, 0), 50);
    add(m, "f32", wide(picture_make(60, 70, 1, 18), NSVQ_TYPE_F32, -1), 90);
}

static void add_everything(const maker *m)
{
    add(m, "blocks", picture_make(530, 1040, 3, 9), 20);
    add(m, "grey-nodata", with_nodata(picture_make(515, 41, 1, 11), 0), 80);
    add(m, "five-bands-mask", five_bands(), 50);
    add(m, "empty-block", empty_block(), 50);
    add(m, "near-nodata", near_nodata(), 50);
    add(m, "metadata", picture_make(17, 15, 3, 12), 50);
    add(m, "exact", exact(530, 21, 13), 50);
    add(m, "exact-1x1", exact(1, 1, 14), 50);
    add(m, "types", typed(), 50);
    add(m, "band-masks", band_masks(), 50);
    add(m, "s16", wide(picture_make(530, 60, 1, 19), NSVQ_TYPE_S16, 100), 50);
    add(m, "f32-nan", wide(picture_make(530, 30, 4, 20), NSVQ_TYPE_F32, PICTURE_ODD), 50);
}

static nsvq_model *random_model(testmodel_shape shape)
{
    nsvq_model_desc desc;
    nsvq_model *m;
    nsvq_error err;
    size_t size;

    assert_true(testmodel_make(&desc, shape, 1));
    uint8_t *bytes = nsvq_model_store(&desc, NSVQ_STORE_ANALYSIS, &size);
    nsvq_model_free(&desc);
    assert_non_null(bytes);
    assert_ok(nsvq_model_open(&m, bytes, size, &err), err);
    free(bytes);
    return m;
}

static void make_shipped(void **state)
{
    for (int i = 0; nsvq_model_shipped_name(i); i++) {
        maker m = {*state, nsvq_model_shipped_name(i), {.struct_size = sizeof m.opt}};
        nsvq_model *model;
        nsvq_error err;
        assert_ok(nsvq_model_shipped(&model, m.prefix, &err), err);
        m.opt.model = model;
        add_any_model(&m);
        nsvq_model_release(model);
    }
}

static void make_tiny(void **state)
{
    static const struct { const char *prefix; testmodel_shape shape; } of[] = {
        {"tiny", TESTMODEL_TINY}, {"hyper8", TESTMODEL_HYPER8}, {"hyper16", TESTMODEL_HYPER16},
        {"trellis", TESTMODEL_TRELLIS}}; // only what its entropy coding adds

    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        nsvq_model *model = random_model(of[i].shape);
        maker m = {*state, of[i].prefix, {.struct_size = sizeof m.opt, .model = model, .embed = 1}};
        if (of[i].shape == TESTMODEL_TRELLIS)
            add(&m, "q50", picture_make(530, 300, 3, 2), 50);
        else
            add_any_model(&m);
        if (i == 0) add_everything(&m);
        nsvq_model_release(model);
    }
}

int main(int argc, char **argv)
{
    bool tiny = argc == 4 && !strcmp(argv[3], "tiny");

    if (argc == 3 && !strcmp(argv[1], "check")) return check(argv[2]);
    if ((argc == 3 || tiny) && !strcmp(argv[1], "make")) {
        const struct CMUnitTest tests[] = {
            cmocka_unit_test_prestate(tiny ? make_tiny : make_shipped, argv[2])};
        return cmocka_run_group_tests(tests, NULL, NULL);
    }
    fprintf(stderr, "usage: golden check FOLDER\n       golden make FOLDER [tiny]\n");
    return 2;
}
