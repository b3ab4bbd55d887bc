/* data.c - training pictures from folders and from packs, and the patches cut out of them. */
#include <gdal.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "random.h"
#include "support.h"

static char folder[] = "/tmp/nsvq-data-XXXXXX"; /* the working directory of the tests */

/* Band b at (x, y) holds (7 x + 3 y + 50 b + seed) mod 251. */
static int value_at(int x, int y, int band, int seed)
{
    return (7 * x + 3 * y + 50 * band + seed) % 251;
}

static void raster(const char *name, int w, int h, int bands, GDALDataType type, int seed)
{
    GDALDriverH driver = GDALGetDriverByName("GTiff");
    GDALDatasetH ds = GDALCreate(driver, name, w, h, bands, type, NULL);
    int *row = malloc((size_t)w * sizeof *row);
    assert_true(ds && row);
    for (int b = 1; b <= bands; b++)
        for (int y = 0; y < h; y++) {
            for (int x = 0; x < w; x++) row[x] = value_at(x, y, b, seed);
            assert_int_equal(GDALRasterIO(GDALGetRasterBand(ds, b), GF_Write, 0, y, w, 1, row, w, 1,
                                          GDT_Int32, 0, 0), CE_None);
        }
    GDALSetRasterNoDataValue(GDALGetRasterBand(ds, 1), 7);
    GDALClose(ds);
    free(row);
}

static const picture *find(const dataset *d, const char *name)
{
    for (int i = 0; i < d->n; i++)
        if (!strcmp(d->pic[i].name, name)) return &d->pic[i];
    return NULL;
}

/* band[c]: the raster's band that channel c shows. */
static void check_picture(const dataset *d, const char *name, const char *cls, int w, int h,
                          const int *band, int seed)
{
    const picture *p = find(d, name);
    if (!p) fail_msg("%s is missing", name);
    assert_true(p->w == w && p->h == h);
    assert_string_equal(d->class_name[p->class_at], cls);
    for (int i = 0; i < w * h * 3; i++)
        if (p->rgb[i] != value_at(i / 3 % w, i / 3 / w, band[i % 3], seed))
            fail_msg("%s differs at (%d, %d), channel %d", name, i / 3 % w, i / 3 / w, i % 3);
}

static int load(dataset *d, const char *path)
{
    silence(true);
    const int st = dataset_load(d, path, 0);
    silence(false);
    return st;
}

static void text_file(const char *name, const char *text)
{
    FILE *f = fopen(name, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void check_mixed(const dataset *d)
{
    static const int rgb[3] = {1, 2, 3}, grey[3] = {1, 1, 1};
    assert_int_equal(d->n, 5);
    assert_int_equal(d->n_classes, 3);
    check_picture(d, "top.tif", ".", 64, 100, rgb, 0);
    check_picture(d, "town/four.tif", "town", 80, 64, rgb, 1);
    check_picture(d, "town/grey.tif", "town", 65, 67, grey, 2);
    check_picture(d, "town/two.tif", "town", 64, 64, grey, 3);
    check_picture(d, "town/old/deep.tif", "town/old", 70, 64, rgb, 4);
    assert_true(d->pixels == 64 * 100 + 80 * 64 + 65 * 67 + 64 * 64 + 70 * 64);
    for (int i = 1; i < d->n; i++) assert_true(strcmp(d->pic[i - 1].name, d->pic[i].name) < 0);
}

/* A folder may hold anything: what is no 8-bit raster of 64 x 64 or more is left out. Nodata is a
 * value like others. */
static void folders_are_read(void **state)
{
    dataset d, e;
    struct stat whole;
    assert_int_equal(mkdir("mixed", 0700) | mkdir("mixed/town", 0700) | mkdir("mixed/town/old", 0700) |
                     mkdir("mixed/empty", 0700), 0);
    raster("mixed/top.tif", 64, 100, 3, GDT_Byte, 0);
    raster("mixed/town/four.tif", 80, 64, 4, GDT_Byte, 1);
    raster("mixed/town/grey.tif", 65, 67, 1, GDT_Byte, 2);
    raster("mixed/town/two.tif", 64, 64, 2, GDT_Byte, 3);
    raster("mixed/town/old/deep.tif", 70, 64, 3, GDT_Byte, 4);
    raster("mixed/town/narrow.tif", 63, 200, 3, GDT_Byte, 5);
    raster("mixed/town/sixteen.tif", 64, 64, 3, GDT_UInt16, 6);
    raster("mixed/town/cut.tif", 128, 128, 3, GDT_Byte, 7);
    assert_int_equal(stat("mixed/town/cut.tif", &whole), 0);
    assert_int_equal(truncate("mixed/town/cut.tif", whole.st_size / 2), 0);
    text_file("mixed/town/notes.txt", "no raster\n");
    text_file("mixed/town/broken.tif", "II*");
    assert_int_equal(load(&d, "mixed"), 0);
    check_mixed(&d);
    assert_int_equal(dataset_pack(&d, "mixed.pack", 60), 0);
    assert_int_equal(load(&e, "mixed.pack"), 0);
    check_mixed(&e);
    dataset_free(&d);
    dataset_free(&e);
}

static void nothing_usable_is_an_error(void **state)
{
    dataset d;
    assert_int_equal(load(&d, "mixed/empty"), -1);
    assert_int_equal(load(&d, "nowhere"), -1);
    assert_int_equal(load(&d, "mixed/town/notes.txt"), -1);
    assert_int_equal(d.n, 0);
}

/* ---- held-out share, classes ---- */

static int held_out(const dataset *d)
{
    int n = 0;
    for (int i = 0; i < d->n; i++) n += d->pic[i].held_out;
    return n;
}

static void numbered(char *name, int i)
{
    snprintf(name, 128, "many/%u.tif", (unsigned)i * 2654435761u);
}

static void one_file_in_16_is_held_out(void **state)
{
    enum { N = 160 };
    dataset all, less;
    char name[128];
    assert_int_equal(mkdir("many", 0700), 0);
    for (int i = 0; i < N; i++) {
        numbered(name, i);
        raster(name, 64, 64, 1, GDT_Byte, i);
    }
    assert_int_equal(load(&all, "many"), 0);
    if (held_out(&all) < N / 32 || held_out(&all) > N / 8) fail_msg("%d of %d", held_out(&all), N);

    /* The same ones when others are gone. */
    for (int i = 0; i < N; i += 2) {
        numbered(name, i);
        assert_int_equal(remove(name), 0);
    }
    assert_int_equal(load(&less, "many"), 0);
    assert_int_equal(less.n, N / 2);
    for (int i = 0; i < less.n; i++)
        assert_int_equal(less.pic[i].held_out, find(&all, less.pic[i].name)->held_out);

    /* When all would be held out, none is. */
    for (int i = 0; i < less.n; i++) {
        snprintf(name, sizeof name, "many/%s", less.pic[i].name);
        if (!less.pic[i].held_out) assert_int_equal(remove(name), 0);
    }
    const int left = held_out(&less);
    dataset_free(&less);
    dataset_free(&all);
    assert_int_equal(load(&less, "many"), 0);
    assert_true(left > 0 && less.n == left);
    assert_int_equal(held_out(&less), 0);

    /* Figures are then those of what was trained on. */
    uint8_t rgb[64 * 64 * 3];
    const char *any;
    int w, h;
    assert_int_equal(dataset_held_out(&less, left - 1, &(cut){64, 16, 0}, rgb, &w, &h, &any), 1);
    assert_int_equal(dataset_held_out(&less, left, &(cut){64, 16, 0}, rgb, &w, &h, &any), 0);
    dataset_free(&less);
}

/* Names longer than a picture keeps. */
static void packs_hold_out_the_same_files(void **state)
{
    enum { N = 64 };
    dataset d, e;
    char name[128];
    assert_int_equal(mkdir("long", 0700), 0);
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "long/%d%0100d.tif", i, i);
        raster(name, 64, 64, 1, GDT_Byte, i);
    }
    assert_int_equal(load(&d, "long"), 0);
    assert_int_equal(dataset_pack(&d, "long.pack", 60), 0);
    assert_int_equal(load(&e, "long.pack"), 0);
    assert_true(e.n == N && d.n == N && held_out(&d) > 0);
    for (int i = 0; i < N; i++) assert_int_equal(d.pic[i].held_out, e.pic[i].held_out);
    dataset_free(&d);
    dataset_free(&e);
}

/* ---- packs ---- */

static void noise(dataset *d, int n)
{
    uint64_t rng = 3;
    pictures_make(d, n);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < d->pic[i].w * d->pic[i].h * 3; j++)
            d->pic[i].rgb[j] = (uint8_t)random_u64(&rng); /* does not shrink */
}

static long size_of(const char *file)
{
    struct stat s;
    return stat(file, &s) ? -1 : (long)s.st_size;
}

static void check_same(const dataset *a, const dataset *b)
{
    assert_int_equal(a->n, b->n);
    assert_int_equal(a->n_classes, b->n_classes);
    assert_true(a->pixels == b->pixels);
    for (int i = 0; i < a->n; i++) {
        const picture *p = &a->pic[i], *q = &b->pic[i];
        assert_string_equal(p->name, q->name);
        assert_string_equal(a->class_name[p->class_at], b->class_name[q->class_at]);
        assert_true(p->w == q->w && p->h == q->h);
        assert_memory_equal(p->rgb, q->rgb, (size_t)(p->w * p->h * 3));
    }
}

static void parts_are_limited(void **state)
{
    enum { N = 30 }; /* some 6 MiB */
    dataset d, e;
    noise(&d, N);
    assert_int_equal(dataset_pack(&d, "noise.pack", 2), 0);
    long all = 0, size = size_of("noise.pack");
    int n = 0;
    for (char name[32]; size >= 0; size = size_of(name)) {
        assert_true(size < (2 << 20) + 1024); /* room for the pictures' heads */
        all += size;
        snprintf(name, sizeof name, "noise.pack.%d", ++n + 1);
    }
    assert_true(n >= 3 && all >= 3 * d.pixels && n <= 2 + all / (2 << 20));
    assert_int_equal(load(&e, "noise.pack"), 0);
    check_same(&d, &e);
    dataset_free(&e);
    dataset_free(&d);
}

static void smooth_pictures_shrink(void **state)
{
    dataset d, e;
    pictures_make(&d, 3);
    for (int i = 0; i < d.pic[0].w * d.pic[0].h * 3; i++) /* a slope: its residuals are constant */
        d.pic[0].rgb[i] = (uint8_t)(i / 3 % d.pic[0].w + 2 * (i / 3 / d.pic[0].w));
    d.n = 1;
    assert_int_equal(dataset_pack(&d, "slope.pack", 60), 0);
    assert_true(size_of("slope.pack") < 5000);
    assert_int_equal(load(&e, "slope.pack"), 0);
    assert_memory_equal(e.pic[0].rgb, d.pic[0].rgb, (size_t)(d.pic[0].w * d.pic[0].h * 3));
    dataset_free(&e);
    d.n = 3;
    dataset_free(&d);
}

static uint8_t *bytes_of(const char *file, long *size)
{
    FILE *f = fopen(file, "rb");
    *size = size_of(file);
    uint8_t *b = malloc((size_t)*size);
    assert_true(f && b && fread(b, 1, (size_t)*size, f) == (size_t)*size);
    fclose(f);
    return b;
}

static void write_bytes(const char *file, const uint8_t *b, long size)
{
    FILE *f = fopen(file, "wb");
    assert_true(f && fwrite(b, 1, (size_t)size, f) == (size_t)size);
    assert_int_equal(fclose(f), 0);
}

static void put_u32(uint8_t *b, uint32_t v)
{
    for (int i = 0; i < 4; i++) b[i] = (uint8_t)(v >> 8 * i);
}

static void check_damaged(const char *what, const uint8_t *b, long size)
{
    dataset d;
    write_bytes("damaged.pack", b, size);
    if (load(&d, "damaged.pack") != -1) fail_msg("%s: no error", what);
    assert_int_equal(d.n, 0);
}

static void damaged_packs_are_errors(void **state)
{
    dataset d;
    long size;
    char what[64];
    noise(&d, 3);
    assert_int_equal(dataset_pack(&d, "whole.pack", 60), 0);
    uint8_t *b = bytes_of("whole.pack", &size);
    /* 8 bytes of magic; then w, h, length of name, of class, of data. */
    const long first = 28 + (long)strlen(d.pic[0].name) + 4 + (b[24] | b[25] << 8 | b[26] << 16);
    dataset_free(&d);
    const long at[] = {7, 8, 9, 20, 27, 28, 40, 100, first - 1, first + 1, first + 4, first + 19, first + 20,
                       size / 2, size - 1};
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        snprintf(what, sizeof what, "cut to %ld of %ld", at[i], size);
        check_damaged(what, b, at[i]);
    }
    static const struct { int at; uint32_t v; } field[] = {
        {8, 0}, {8, 48}, {8, 0xFFFFFFFF}, {12, 0}, {12, 48}, {12, 209}, {16, 96}, {16, 0xFFFFFFFF},
        {20, 64}, {20, 5}, {24, 0}, {24, 100}, {24, 0xFFFFFFFF}};
    for (size_t i = 0; i < sizeof field / sizeof *field; i++) {
        uint8_t keep[4];
        memcpy(keep, b + field[i].at, 4);
        put_u32(b + field[i].at, field[i].v);
        snprintf(what, sizeof what, "byte %d: %u", field[i].at, field[i].v);
        check_damaged(what, b, size);
        memcpy(b + field[i].at, keep, 4);
    }
    b[size / 2] ^= 16;
    check_damaged("a flipped bit", b, size);
    b[size / 2] ^= 16;
    write_bytes("good.pack", b, size);
    write_bytes("good.pack.2", b, size - 5);
    assert_int_equal(load(&d, "good.pack"), -1); /* a second part is damaged */
    free(b);
}

/* ---- patches ---- */

/* A held-out picture, one of the same class, a small one of another. Red: x, green: y, blue: which. */
static void coordinates(dataset *d)
{
    static const int size[3][2] = {{240, 240}, {240, 240}, {120, 120}};
    *d = (dataset){.n = 3, .n_classes = 2, .n_held_out = 1};
    d->pic = calloc(3, sizeof *d->pic);
    d->class_name = calloc(2, sizeof *d->class_name);
    d->class_weight = calloc(2, sizeof *d->class_weight);
    for (int i = 0; i < 3; i++) {
        picture *p = &d->pic[i];
        *p = (picture){.w = size[i][0], .h = size[i][1], .class_at = i == 2, .held_out = i == 0};
        p->rgb = malloc((size_t)(p->w * p->h * 3));
        for (int j = 0; j < p->w * p->h; j++) {
            p->rgb[3 * j] = (uint8_t)(j % p->w);
            p->rgb[3 * j + 1] = (uint8_t)(j / p->w);
            p->rgb[3 * j + 2] = (uint8_t)(251 + i);
        }
        snprintf(p->name, sizeof p->name, "%d", i);
    }
    d->class_weight[0] = 2. / 3;
    d->class_weight[1] = 1. / 3;
}

/* Which of the eight orientations the patch is of an unchanged picture; -1: its colours are changed. */
static int orientation(const uint8_t *rgb, int w, int h)
{
    const int dx[2] = {rgb[3] - rgb[0], rgb[4] - rgb[1]};
    const uint8_t *below = rgb + 3 * w;
    const int dy[2] = {below[0] - rgb[0], below[1] - rgb[1]};
    for (int i = 0; i < w * h; i++)
        for (int c = 0; c < 2; c++)
            if (rgb[3 * i + c] != rgb[c] + i % w * dx[c] + i / w * dy[c]) return -1;
    if (rgb[2] < 251 || abs(dx[0]) + abs(dy[0]) != 1 || abs(dx[1]) + abs(dy[1]) != 1) return -1;
    return (dx[0] ? 0 : 4) + (dx[0] + dy[0] > 0 ? 0 : 2) + (dx[1] + dy[1] > 0 ? 0 : 1);
}

static void patches_are_turned_pictures(void **state)
{
    enum { N = 3000 };
    dataset d;
    uint8_t rgb[96 * 96 * 3];
    int seen[8] = {0}, large = 0, plain = 0, w, h;
    uint64_t rng = 1;
    bool edge[4] = {false};
    coordinates(&d);
    for (int i = 0; i < N; i++) {
        dataset_patch(&d, &rng, &(cut){96, 16, 0}, rgb, &w, &h);
        assert_true(w == 96 && h == 96);
        const int o = orientation(rgb, w, h);
        if (o < 0) continue;
        const uint8_t *last = rgb + 3 * (96 * 96 - 1);
        assert_true(rgb[2] != 251); /* held out */
        plain++;
        seen[o]++;
        large += rgb[2] == 252;
        edge[0] |= rgb[2] == 253 && (rgb[0] == 0 || last[0] == 0);
        edge[1] |= rgb[2] == 253 && (rgb[0] == 119 || last[0] == 119);
        edge[2] |= rgb[2] == 253 && (rgb[1] == 0 || last[1] == 0);
        edge[3] |= rgb[2] == 253 && (rgb[1] == 119 || last[1] == 119);
    }
    assert_true(plain > N / 4 && plain < N / 2); /* the others' colours are changed */
    for (int o = 0; o < 8; o++) assert_true(seen[o] > plain / 12);
    assert_true(abs(3 * large - 2 * plain) < plain / 5);
    assert_true(edge[0] && edge[1] && edge[2] && edge[3]);
    dataset_free(&d);
}

/* Of what is large enough and not held out: means of 2 x 2 pixels. */
static void halves_are_means(void **state)
{
    dataset d;
    pictures_make(&d, 6); /* the last two are held out */
    const double before = d.class_weight[0];
    dataset_add_halves(&d, 98);
    assert_int_equal(d.n, 8); /* heights are 192, 195, 198, 201 */
    for (int i = 0; i < 2; i++) {
        const picture *p = &d.pic[2 + i], *h = &d.pic[6 + i];
        assert_int_equal(h->w, p->w / 2);
        assert_int_equal(h->h, p->h / 2);
        assert_int_equal(h->class_at, p->class_at);
        assert_int_equal(h->held_out, 0);
        for (int y = 0; y < h->h; y++)
            for (int x = 0; x < h->w; x++)
                for (int c = 0; c < 3; c++) {
                    int sum = 2;
                    for (int k = 0; k < 4; k++)
                        sum += p->rgb[((2 * y + k / 2) * p->w + 2 * x + k % 2) * 3 + c];
                    assert_int_equal(h->rgb[(y * h->w + x) * 3 + c], sum / 4);
                }
    }
    assert_true(d.class_weight[0] > 0 && fabs(d.class_weight[0] + d.class_weight[1] - 1) < 1e-9);
    assert_true(d.class_weight[0] != before);
    dataset_free(&d);
    pictures_make(&d, 3);
    d.n_held_out = 0;
    dataset_add_halves(&d, 64);
    assert_int_equal(d.n, 3);
    dataset_free(&d);
}

static void patches_of_small_pictures(void **state)
{
    dataset d;
    uint8_t *rgb = malloc(256 * 256 * 3);
    uint64_t rng = 5;
    const char *name;
    int w, h;
    assert_non_null(rgb);
    coordinates(&d);
    d.class_weight[0] = 0;
    d.class_weight[1] = 1;
    d.pic[2].h = 100;
    for (int i = 0; i < 50; i++) {
        dataset_patch(&d, &rng, &(cut){256, 16, 0}, rgb, &w, &h);
        assert_true((w == 112 && h == 96) || (w == 96 && h == 112));
    }
    /* The middle of the held-out one, as it is. */
    assert_int_equal(dataset_held_out(&d, 0, &(cut){64, 16, 0}, rgb, &w, &h, &name), 1);
    assert_true(w == 64 && h == 64);
    assert_string_equal(name, "0");
    assert_int_equal(orientation(rgb, w, h), 0);
    assert_true(rgb[0] == 88 && rgb[1] == 88 && rgb[2] == 251);
    assert_int_equal(dataset_held_out(&d, 1, &(cut){64, 16, 0}, rgb, &w, &h, &name), 0);
    dataset_free(&d);
    free(rgb);
}

/* The square root of a class's pixels, held-out ones not counted. */
static void classes_are_weighted(void **state)
{
    dataset d;
    assert_int_equal(mkdir("classes", 0700) | mkdir("classes/a", 0700) | mkdir("classes/b", 0700), 0);
    raster("classes/a/1.tif", 320, 320, 1, GDT_Byte, 0);
    raster("classes/b/1.tif", 80, 80, 1, GDT_Byte, 0);
    assert_int_equal(load(&d, "classes"), 0);
    assert_int_equal(held_out(&d), 0);
    for (int c = 0; c < 2; c++)
        assert_true(fabs(d.class_weight[c] - (d.class_name[c][0] == 'a' ? 0.8 : 0.2)) < 1e-9);
    dataset_free(&d);
}

static int enter(void **state)
{
    GDALAllRegister();
    return !mkdtemp(folder) || chdir(folder);
}

static int leave(void **state)
{
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return chdir("/") || system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(folders_are_read),
        cmocka_unit_test(nothing_usable_is_an_error),
        cmocka_unit_test(one_file_in_16_is_held_out),
        cmocka_unit_test(packs_hold_out_the_same_files),
        cmocka_unit_test(parts_are_limited),
        cmocka_unit_test(smooth_pictures_shrink),
        cmocka_unit_test(damaged_packs_are_errors),
        cmocka_unit_test(patches_are_turned_pictures),
        cmocka_unit_test(patches_of_small_pictures),
        cmocka_unit_test(halves_are_means),
        cmocka_unit_test(classes_are_weighted),
    };
    return cmocka_run_group_tests(tests, enter, leave);
}
