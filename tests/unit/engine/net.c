/* net.c - the executor against a plain evaluation of whole tensors, and windows against the whole.
 */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "engine.h"
#include "testmodel.h"

/* ---- plain evaluation ---- */

typedef struct tensor {
    int w, h, channels;
    int32_t *v; /* NHWC */
} tensor;

static tensor new_tensor(int w, int h, int channels)
{
    tensor t = {w, h, channels, calloc((size_t)w * (size_t)h * (size_t)channels, sizeof(int32_t))};
    assert_non_null(t.v);
    return t;
}

static int32_t get(const tensor *t, int x, int y, int c)
{
    if (x < 0 || y < 0 || x >= t->w || y >= t->h) return 0;
    return t->v[((size_t)y * (size_t)t->w + (size_t)x) * (size_t)t->channels + (size_t)c];
}

static int32_t sat16(int32_t v)
{
    return v < -32768 ? -32768 : v > 32767 ? 32767 : v;
}

static int32_t requantise(const nsvq_layer *l, int o, int32_t acc, const int32_t *res)
{
    int32_t t = sat16((acc + l->bias[o]) >> l->shift[o]);
    t = (t * l->mul[o] + (1 << 14)) >> 15;
    if (res) t = sat16(t + *res);
    return l->out_type == NSVQ_S16 ? t : t < 0 ? 0 : t > 255 ? 255 : t;
}

static tensor plain_layer(const nsvq_layer *l, const tensor *in, const tensor *res)
{
    int f = l->kind == NSVQ_LAYER_SPACE_TO_DEPTH ? l->k : 1;
    tensor out = new_tensor(in->w / f, in->h / f, l->cout * l->rep);

    for (int y = 0; y < out.h; y++)
        for (int x = 0; x < out.w; x++)
            for (int c = 0; c < out.channels; c++) {
                size_t e =
                    ((size_t)y * (size_t)out.w + (size_t)x) * (size_t)out.channels + (size_t)c;
                int o = c % l->cout, first = c / l->cout * l->cin;
                int32_t acc = 0;
                if (l->kind == NSVQ_LAYER_SPACE_TO_DEPTH) {
                    int at = c / l->cin;
                    out.v[e] = get(in, x * f + at % f, y * f + at / f, c % l->cin);
                    continue;
                }
                if (l->kind == NSVQ_LAYER_POINTWISE)
                    for (int i = 0; i < l->cin; i++)
                        acc += l->wt[o * l->cin + i] * get(in, x, y, first + i);
                else
                    for (int j = 0; j < l->k * l->k; j++)
                        acc += l->wt[j * l->cin + o] *
                               get(in, x + j % l->k - l->k / 2, y + j / l->k - l->k / 2, o);
                out.v[e] = requantise(l, o, acc, res ? &res->v[e] : NULL);
            }
    return out;
}

/* Takes over `in`. */
static tensor plain_net(const nsvq_net *net, tensor in)
{
    tensor reg[NSVQ_MAX_REGISTERS] = {[0] = in}, out;

    for (int i = 0; i < net->n_layers; i++) {
        const nsvq_layer *l = &net->layer[i];
        reg[l->dst] =
            plain_layer(l, &reg[l->src], l->res == NSVQ_NO_REGISTER ? NULL : &reg[l->res]);
    }
    out = reg[net->output];
    for (int i = 0; i < NSVQ_MAX_REGISTERS; i++)
        if (i != net->output) free(reg[i].v);
    return out;
}

/* ---- pictures ---- */

typedef struct fixture {
    nsvq_model_desc m;
    int n_latent;
    nsvq_scratch *s;
    test_rng rng;
} fixture;

static void set_up(fixture *f, testmodel_shape shape)
{
    assert_true(testmodel_make(&f->m, shape, 21));
    f->n_latent = f->m.n_slices * f->m.dim;
    f->s = nsvq_scratch_create();
    f->rng = (test_rng){5};
    assert_non_null(f->s);
}

static void tear_down(fixture *f)
{
    nsvq_scratch_destroy(f->s);
    nsvq_model_free(&f->m);
}

static int16_t *random_latents(fixture *f, int w, int h)
{
    int16_t *y = malloc((size_t)(w * h * f->n_latent) * sizeof *y);
    assert_non_null(y);
    for (int i = 0; i < w * h * f->n_latent; i++) y[i] = (int16_t)(test_bell(&f->rng) * 500);
    return y;
}

static uint8_t *random_pixels(fixture *f, int w, int h)
{
    uint8_t *rgb = malloc((size_t)(w * h * 768));
    assert_non_null(rgb);
    for (int i = 0; i < w * h * 768; i++) rgb[i] = (uint8_t)(test_rand(&f->rng) >> 24);
    return rgb;
}

/* Neither constant nor mostly at the ends: the test models would prove nothing. */
static void is_lively(const uint8_t *rgb, size_t n)
{
    size_t ends = 0, middle = 0;
    for (size_t i = 0; i < n; i++) {
        ends += rgb[i] == 0 || rgb[i] == 255;
        middle += rgb[i] == 128;
    }
    assert_true(ends < n / 4 && middle < n / 4);
}

static void plain_synthesis(const fixture *f, const int16_t *y, int w, int h, uint8_t *rgb)
{
    tensor in = new_tensor(w, h, f->n_latent);
    for (int i = 0; i < w * h * f->n_latent; i++) in.v[i] = y[i];
    tensor out = plain_net(&f->m.synthesis, in);
    for (int py = 0; py < h * 16; py++)
        for (int px = 0; px < w * 48; px++) {
            int x = px / 3 % 16,
                c = (py % 16 / 4 * 4 + x / 4) * 48 + (py % 4 * 4 + x % 4) * 3 + px % 3;
            int32_t v = ((get(&out, px / 48, py / 16, c) + 16) >> 5) + 128;
            rgb[py * w * 48 + px] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
        }
    free(out.v);
}

static tensor plain_analysis(const fixture *f, const uint8_t *rgb, int w, int h)
{
    tensor in = new_tensor(4 * w, 4 * h, 48);
    for (int y = 0; y < 4 * h; y++)
        for (int x = 0; x < 4 * w; x++)
            for (int c = 0; c < 48; c++)
                in.v[(y * 4 * w + x) * 48 + c] =
                    rgb[(4 * y + c / 12) * w * 48 + 12 * x + c % 12] - 128;
    return plain_net(&f->m.analysis, in);
}

static void equals_plain(testmodel_shape shape, int w, int h)
{
    fixture f;
    nsvq_kernels k;

    set_up(&f, shape);
    size_t n_rgb = (size_t)(w * h * 768), n_y = (size_t)(w * h * f.n_latent);
    int16_t *y = random_latents(&f, w, h), *got_y = malloc(n_y * sizeof *got_y);
    uint8_t *want = malloc(n_rgb), *got = malloc(n_rgb), *rgb = random_pixels(&f, w, h);
    nsvq_rect all = {0, 0, w, h};
    plain_synthesis(&f, y, w, h, want);
    tensor want_y = plain_analysis(&f, rgb, w, h);
    is_lively(want, n_rgb);
    for (int i = 0; i < N_TABLES; i++) {
        if (!kernel_table(&k, i)) continue;
        nsvq_engine *e = nsvq_engine_create(&f.m, &k);
        assert_non_null(e);
        assert_int_equal(nsvq_engine_synthesise(e, f.s, y, w, h, all, got, w * 48), 0);
        assert_memory_equal(got, want, n_rgb);
        assert_int_equal(nsvq_engine_analyse(e, f.s, rgb, w * 48, w, h, all, got_y), 0);
        for (size_t j = 0; j < n_y; j++) assert_int_equal(got_y[j], want_y.v[j]);
        nsvq_engine_destroy(e);
    }
    free(want_y.v);
    free(y);
    free(got_y);
    free(want);
    free(got);
    free(rgb);
    tear_down(&f);
}

static void runs_equal_plain_evaluation(void **state)
{
    equals_plain(TESTMODEL_SMALL, 1, 1);
    equals_plain(TESTMODEL_SMALL, 5, 3);
    equals_plain(TESTMODEL_SMALL, 11, 13);
    equals_plain(TESTMODEL_SHIPPED, 3, 2);
}

/* ---- windows ---- */

static int min_int(int a, int b)
{
    return a < b ? a : b;
}

static int max_int(int a, int b)
{
    return a > b ? a : b;
}

/* The window that a caller passes for `want` of a w x h picture. */
static nsvq_rect with_halo(nsvq_rect want, int halo, int w, int h)
{
    int x = max_int(0, want.x - halo), y = max_int(0, want.y - halo);
    return (nsvq_rect){x, y, min_int(w, want.x + want.w + halo) - x,
                       min_int(h, want.y + want.h + halo) - y};
}

static nsvq_rect random_rect(fixture *f, int w, int h)
{
    int x = test_range(&f->rng, 0, w - 1), y = test_range(&f->rng, 0, h - 1);
    return (nsvq_rect){x, y, test_range(&f->rng, 1, w - x), test_range(&f->rng, 1, h - y)};
}

static void check_synthesis_window(fixture *f, const nsvq_engine *e, const int16_t *y, int w, int h,
                                   nsvq_rect want, const uint8_t *whole)
{
    nsvq_rect win = with_halo(want, nsvq_engine_synthesis_halo(e), w, h);
    nsvq_rect in = {want.x - win.x, want.y - win.y, want.w, want.h};
    size_t row = (size_t)(win.w * f->n_latent), stride = (size_t)want.w * 48 + 5;
    int16_t *cut = malloc((size_t)win.h * row * sizeof *cut);
    uint8_t *rgb = malloc((size_t)want.h * 16 * stride);

    assert_true(cut && rgb);
    memset(rgb, 0xa5, (size_t)want.h * 16 * stride);
    for (int i = 0; i < win.h; i++)
        memcpy(cut + (size_t)i * row, y + ((win.y + i) * w + win.x) * f->n_latent,
               row * sizeof *cut);
    assert_int_equal(nsvq_engine_synthesise(e, f->s, cut, win.w, win.h, in, rgb, (ptrdiff_t)stride),
                     0);
    for (int i = 0; i < want.h * 16; i++) {
        const uint8_t *line = rgb + (size_t)i * stride;
        assert_memory_equal(line, whole + ((want.y * 16 + i) * w + want.x) * 48,
                            (size_t)want.w * 48);
        assert_memory_equal(line + want.w * 48, "\xa5\xa5\xa5\xa5\xa5", 5);
    }
    free(cut);
    free(rgb);
}

static void check_analysis_window(fixture *f, const nsvq_engine *e, const uint8_t *rgb, int w,
                                  int h, nsvq_rect want, const int16_t *whole)
{
    nsvq_rect win = with_halo(want, nsvq_engine_analysis_halo(e), w, h);
    nsvq_rect in = {want.x - win.x, want.y - win.y, want.w, want.h};
    size_t row = (size_t)(want.w * f->n_latent);
    int16_t *y = malloc((size_t)want.h * row * sizeof *y);
    const uint8_t *from = rgb + win.y * 16 * w * 48 + win.x * 48;

    assert_non_null(y);
    assert_int_equal(nsvq_engine_analyse(e, f->s, from, w * 48, win.w, win.h, in, y), 0);
    for (int i = 0; i < want.h; i++)
        assert_memory_equal(y + (size_t)i * row, whole + ((want.y + i) * w + want.x) * f->n_latent,
                            row * sizeof *y);
    free(y);
}

static void check_windows(testmodel_shape shape, int w, int h, int n)
{
    fixture f;
    nsvq_kernels k;

    set_up(&f, shape);
    nsvq_kernels_init(&k, nsvq_cpu_detect());
    nsvq_engine *e = nsvq_engine_create(&f.m, &k);
    int16_t *y = random_latents(&f, w, h), *whole_y = malloc((size_t)(w * h * f.n_latent) * 2);
    uint8_t *rgb = random_pixels(&f, w, h), *whole = malloc((size_t)(w * h * 768));
    nsvq_rect all = {0, 0, w, h};
    assert_true(e && whole_y && whole);
    assert_int_equal(nsvq_engine_synthesise(e, f.s, y, w, h, all, whole, w * 48), 0);
    assert_int_equal(nsvq_engine_analyse(e, f.s, rgb, w * 48, w, h, all, whole_y), 0);
    for (int i = 0; i < n; i++) {
        check_synthesis_window(&f, e, y, w, h, random_rect(&f, w, h), whole);
        check_analysis_window(&f, e, rgb, w, h, random_rect(&f, w, h), whole_y);
    }
    nsvq_engine_destroy(e);
    free(y);
    free(whole_y);
    free(rgb);
    free(whole);
    tear_down(&f);
}

static void windows_equal_the_whole(void **state)
{
    check_windows(TESTMODEL_SMALL, 29, 31, 200);
    check_windows(TESTMODEL_SHIPPED, 33, 34, 12);
}

static void halos_are_as_expected(void **state)
{
    nsvq_kernels k;
    fixture f;

    set_up(&f, TESTMODEL_SHIPPED);
    nsvq_kernels_init(&k, nsvq_cpu_detect());
    nsvq_engine *e = nsvq_engine_create(&f.m, &k);
    assert_int_equal(nsvq_engine_synthesis_halo(e), 7); // 7 depthwise 3 x 3
    assert_int_equal(nsvq_engine_analysis_halo(e), 6);  // 3 + (4 / 2) + (4 / 4)
    nsvq_engine_destroy(e);
    tear_down(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_equal_plain_evaluation),
        cmocka_unit_test(windows_equal_the_whole),
        cmocka_unit_test(halos_are_as_expected),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
