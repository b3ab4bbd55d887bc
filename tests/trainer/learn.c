/* learn.c - the start from data (principal components, predictors, k-means codes), how codes follow
 * their residuals and dead ones are revived, what a training leaves behind. */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "reference.h"
#include "support.h"

static dataset pictures;
static model   started;

/* ---- start ---- */

static const float *analysis_row(const model *m, int c)
{
    return m->st.p + m->ana.l[m->ana_linear].w + (size_t)c * 768;
}

/* Rows of the analysis are orthonormal, the synthesis is their transpose. */
static void linear_paths_are_inverse(void **state)
{
    const int L = started.q.latent;
    const float *syn = started.st.p + started.syn.l[started.syn_linear].w;
    for (int i = 0; i < L; i++)
        for (int j = 0; j <= i; j++) {
            const float *a = analysis_row(&started, i), *b = analysis_row(&started, j);
            double dot = 0;
            for (int k = 0; k < 768; k++) dot += (double)a[k] * b[k];
            assert_true(fabs(dot - (i == j)) < 1e-4);
        }
    for (int c = 0; c < L; c++)
        for (int k = 0; k < 768; k++) assert_true(syn[k * L + c] == analysis_row(&started, c)[k]);
}

typedef struct moments { int n; double *sum, pixels; } moments;

static void add_patch(moments *s, const model *m, const workspace *ws)
{
    const tensor *x = &ws->r[m->squares], *y = &ws->r[m->ana.l[m->ana_linear].dst];
    const int L = m->q.latent;
    for (int i = 0; i < x->h * x->w * 768; i++) s->pixels += (double)x->v[i] * x->v[i];
    for (int i = 0; i < y->h * y->w; i++, s->n++)
        for (int a = 0; a < L; a++)
            for (int b = 0; b <= a; b++) s->sum[a * L + b] += (double)y->v[i * L + a] * y->v[i * L + b];
}

/* On patches that the start has not seen: no correlation between components, shares of the energy
 * that fall in the order in which they are dealt to the slices, nearly all of it in them. */
static void components_are_principal(void **state)
{
    const model *m = &started;
    const int L = m->q.latent, S = m->q.slices;
    moments s = {.sum = ref_doubles(NULL, (size_t)(L * L))};
    uint8_t *rgb = malloc(128 * 128 * 3);
    uint64_t rng = 999;
    forward *f = forward_new();
    assert_non_null(rgb);
    for (int i = 0, w, h; i < 100; i++) {
        dataset_patch(&pictures, &rng, &(cut){128, 16, 0}, rgb, &w, &h);
        forward_run(f, m, rgb, w, h, 50);
        add_patch(&s, m, forward_net(f, NET_ANALYSIS));
    }
    double kept = 0, last = 1e30;
    for (int i = 0; i < L; i++) {
        const int slice = i % (2 * S) < S ? i % S : S - 1 - i % S;
        const int c = slice * m->q.dim + i / S;
        const double energy = s.sum[c * L + c];
        if (!(energy < 1.3 * last)) fail_msg("component %d has %g, the one before %g", i, energy, last);
        last = energy;
        kept += energy;
        for (int b = 0; b < c; b++)
            if (!(fabs(s.sum[c * L + b]) < 0.15 * sqrt(energy * s.sum[b * L + b])))
                fail_msg("components %d and %d correlate", c, b);
    }
    print_message("%d components keep %.1f %% of the energy\n", L, 100 * kept / s.pixels);
    assert_true(kept > 0.9 * s.pixels && kept < 1.0001 * s.pixels);
    free(s.sum);
    free(rgb);
    forward_free(f);
}

/* Flat pictures have three components: they are the seed's channels, and the rest is zero. */
static void flat_pictures_have_three_components(void **state)
{
    model m;
    dataset d;
    pictures_make(&d, 8);
    for (int i = 0; i < d.n; i++)
        for (int j = 0; j < d.pic[i].w * d.pic[i].h * 3; j++)
            d.pic[i].rgb[j] = (uint8_t)(40 + (i * 37 + j % 3 * (11 + i * i)) % 170);
    model_build(&m, &tiny_preset);
    model_start(&m, &d, 1);
    const int L = m.q.latent;
    double flat = 0;
    for (int k = 0; k < 3; k++) {
        const float *row = analysis_row(&m, m.q.seed_channel[k]);
        for (int b = 0; b < 3; b++) {
            double sum = 0;
            for (int i = b; i < 768; i += 3) sum += row[i] / 16; /* with the unit vector of the band */
            flat += sum * sum;
        }
    }
    assert_true(fabs(flat - 3) < 1e-3);
    for (size_t i = 0; i < m.st.n; i++) assert_true(isfinite(m.st.p[i]));
    for (int i = 0; i < m.q.codes * L; i++) assert_true(isfinite(m.q.code[i]));
    model_free(&m);
    dataset_free(&d);
}

typedef struct residuals { int n; double predicted, nearest, latents; float *r; } residuals;

static void add_residuals(residuals *to, const model *m, const vq_patch *p)
{
    const int L = m->q.latent, D = m->q.dim, X = m->q.context;
    for (int i = 0; i < p->n; i++, to->n++)
        for (int c = 0; c < L; c++) {
            const float y = p->y[i * L + c], r = y - p->mean[i * L + c];
            const float copied = y - p->ctx[i * X + c]; /* the first neighbour */
            to->r[(to->n * m->q.slices + c / D) * D + c % D] = r;
            to->predicted += r * r;
            to->nearest += copied * copied;
            to->latents += y * y;
        }
}

static double nearest_code(const float *code, int n, int dim, const float *r)
{
    double least = 1e30;
    for (int k = 0; k < n; k++) {
        double e = 0;
        for (int c = 0; c < dim; c++) e += pow(r[c] - code[k * dim + c], 2);
        least = fmin(least, e);
    }
    return least;
}

/* Least squares beat a copied neighbour; k-means beats residuals picked at random; its first code is
 * zero, and a cell holds codes that are near each other. */
static void prior_starts_from_the_data(void **state)
{
    enum { N_PATCHES = 60 };
    const model *m = &started;
    const vq *q = &m->q;
    const int D = q->dim, S = q->slices;
    residuals all = {.r = malloc(sizeof(float) * N_PATCHES * 64 * (size_t)q->latent)};
    uint8_t *rgb = malloc(128 * 128 * 3);
    uint64_t rng = 4321;
    forward *f = forward_new();
    assert_true(all.r && rgb);
    for (int i = 0, w, h; i < N_PATCHES; i++) {
        dataset_patch(&pictures, &rng, &(cut){128, 16, 0}, rgb, &w, &h);
        forward_run(f, m, rgb, w, h, 100); /* fine codes: contexts near the latents */
        add_residuals(&all, m, forward_patch(f));
    }
    print_message("residual energy %.3f of the latents', %.3f of a copied neighbour's\n",
                  all.predicted / all.latents, all.predicted / all.nearest);
    assert_true(all.predicted < 0.7 * all.nearest && all.predicted < 0.7 * all.latents);
    for (int s = 0; s < S; s++) {
        const float *code = q->code + s * q->codes * D;
        float *picked = malloc(sizeof *picked * (size_t)(q->codes * D));
        double trained = 0, random = 0, spread = 0, within = 0;
        int zeros = 0;
        assert_non_null(picked);
        for (int k = 0; k < q->codes; k++)
            memcpy(picked + k * D, all.r + (k * (all.n / q->codes) * S + s) * D, sizeof *picked * (size_t)D);
        for (int i = 1; i < all.n; i += 7) {
            trained += nearest_code(code, q->codes, D, all.r + (i * S + s) * D);
            random += nearest_code(picked, q->codes, D, all.r + (i * S + s) * D);
        }
        if (!(trained < 0.85 * random)) fail_msg("slice %d: error %g, random %g", s, trained, random);
        for (int k = 0; k < q->codes; k++) {
            double size = 0;
            for (int c = 0; c < D; c++) {
                double whole = 0, cell = 0;
                for (int j = 0; j < q->codes; j++) {
                    whole += code[j * D + c] / (double)q->codes;
                    if (j / NSVQ_CELL == k / NSVQ_CELL) cell += code[j * D + c] / (double)NSVQ_CELL;
                }
                spread += pow(code[k * D + c] - whole, 2);
                within += pow(code[k * D + c] - cell, 2);
                size += fabs(code[k * D + c]);
            }
            zeros += size == 0;
        }
        assert_int_equal(zeros, 1);
        if (!(within < 0.9 * spread)) fail_msg("slice %d: %g in the cells of %g", s, within, spread);
        free(picked);
    }
    free(all.r);
    free(rgb);
    forward_free(f);
}

/* ---- codes ---- */

static void sums_free(vq_sums *s)
{
    free(s->n); free(s->sum); free(s->spare); free(s);
}

/* One step of the moving averages; a code is their ratio, one that nothing chose in a long time stays. */
static void codes_follow_their_residuals(void **state)
{
    const float decay = 0.9f;
    model m;
    model_random(&m, &tiny_preset, 21);
    vq *q = &m.q;
    const size_t D = (size_t)q->dim, n = (size_t)(q->slices * q->codes), asleep = 70;
    vq_sums *sums = vq_sums_new(q), *part = vq_sums_new(q);
    ref_fill(sums->sum, n * D, 2.f, 1);
    ref_fill(part->sum, n * D, 2.f, 2);
    for (size_t k = 0; k < n; k++) {
        sums->n[k] = k % 3;
        part->n[k] = k % 4;
    }
    q->ema_n[asleep] = 1e-5f;
    sums->n[asleep] = part->n[asleep] = 0;
    double *count = ref_doubles(q->ema_n, n), *sum = ref_doubles(q->ema_sum, n * D);
    double *code = ref_doubles(q->code, n * D);
    for (size_t i = 0; i < n * D; i++) {
        const size_t k = i / D;
        if (i % D == 0) count[k] = decay * count[k] + (1 - decay) * (sums->n[k] + part->n[k]);
        sum[i] = decay * sum[i] + (1 - decay) * (sums->sum[i] + part->sum[i]);
        if (k != asleep) code[i] = sum[i] / count[k];
    }
    vq_sums_add(q, sums, part);
    vq_update(q, sums, decay);
    for (size_t i = 0; i < n * D; i++) {
        const size_t s = i / D / (size_t)q->codes, k = i / D % (size_t)q->codes, c = i % D;
        assert_true(fabs(q->ema_sum[i] - sum[i]) < 1e-5);
        assert_true(fabs(q->code[i] - code[i]) < 1e-4 * (1 + fabs(code[i])));
        /* The search's own table follows. */
        assert_true(q->code_t[(s * (size_t)q->codes + k / 16 * 16) * D + c * 16 + k % 16] == q->code[i]);
    }
    for (size_t k = 0; k < n; k++) {
        double norm = 0;
        for (size_t c = 0; c < D; c++) norm += pow(q->code[k * D + c], 2);
        assert_true(fabs(q->ema_n[k] - count[k]) < 1e-5);
        assert_true(fabs(q->norm[k] - norm) < 1e-5 * (1 + norm));
    }
    vq_sums_clear(q, sums);
    for (size_t i = 0; i < n * D; i++) assert_true(sums->sum[i] == 0.f && sums->n[i / D] == 0.f);
    vq_member_table(q);
    for (int c = 0; c < q->slices * q->cells; c++) {
        double whole = 0;
        for (int i = 0; i < NSVQ_CELL; i++) whole += exp2(-q->member_bits[c * NSVQ_CELL + i]);
        assert_true(fabs(whole - 1) < 1e-3);
    }
    free(count); free(sum); free(code);
    sums_free(sums);
    sums_free(part);
    model_free(&m);
}

/* Cell 1 has dead codes and a spare residual, cell 2 dead ones and none, cell 3 a spare and no dead. */
static void dead_codes_take_a_spare_residual(void **state)
{
    enum { D = 8 };
    model m;
    model_random(&m, &tiny_preset, 22);
    vq *q = &m.q;
    const int n = q->slices * q->codes, dead[2] = {NSVQ_CELL + 5, NSVQ_CELL + 40};
    vq_sums *sums = vq_sums_new(q);
    uint64_t rng = 1;
    int moved = 0, at = -1;
    assert_int_equal(q->dim, D);
    for (int k = 0; k < n; k++) q->ema_n[k] = 1.f;
    q->ema_n[dead[0]] = q->ema_n[dead[1]] = q->ema_n[2 * NSVQ_CELL + 9] = 0.01f;
    for (int c = 0; c < D; c++) sums->spare[D + c] = sums->spare[3 * D + c] = 7.f + (float)c;
    double *before = ref_doubles(q->code, (size_t)(n * D));
    assert_int_equal(vq_revive(q, sums, &rng), 1);
    for (int k = 0; k < n; k++)
        if (q->code[k * D] != before[k * D]) moved++, at = k;
    assert_int_equal(moved, 1);
    assert_true(at == dead[0] || at == dead[1]);
    for (int c = 0; c < D; c++) {
        assert_true(q->code[at * D + c] == 7.f + (float)c);
        assert_true(fabsf(q->ema_sum[at * D + c] / q->ema_n[at] - q->code[at * D + c]) < 1e-5f);
    }
    assert_true(q->ema_n[at] > 0.1f && q->ema_n[at] < 1.f); /* alive, and not a favourite */
    assert_int_equal(vq_revive(q, sums, &rng), 1);          /* the other one */
    assert_true(q->code[dead[0] * D] == 7.f && q->code[dead[1] * D] == 7.f);
    assert_int_equal(vq_revive(q, sums, &rng), 0);
    free(before);
    sums_free(sums);
    model_free(&m);
}

/* ---- training ---- */

static void training_lowers_the_error(void **state)
{
    const train_options o = {.out = "learn", .steps = 200, .batch = 2, .patch = 128, .threads = 1,
                             .quiet = 1, .lr = 8e-3f};
    model m;
    model_random(&m, &tiny_preset, 8);
    const figures before = validate(&m, NULL, &pictures, 50, 192);
    assert_int_equal(train(&m, &pictures, &o), 0);
    const figures after = validate(&m, NULL, &pictures, 50, 192);
    print_message("held out: %.2f dB %.3f bpp, after %ld steps %.2f dB %.3f bpp\n", before.psnr,
                  before.bpp, m.step, after.psnr, after.bpp);
    assert_int_equal(before.n, 2);
    assert_int_equal(m.step, o.steps);
    assert_true(after.psnr > before.psnr + 0.3 && after.bpp < before.bpp * 1.05);
    model_free(&m);
}

static void check_same(const model *a, const model *b)
{
    const size_t k = (size_t)(a->q.slices * a->q.codes), f = sizeof(float);
    assert_memory_equal(&a->pre, &b->pre, sizeof a->pre);
    assert_memory_equal(a->st.p, b->st.p, a->st.n * f);
    assert_memory_equal(a->m, b->m, a->st.n * f);
    assert_memory_equal(a->v, b->v, a->st.n * f);
    assert_memory_equal(a->q.code, b->q.code, k * (size_t)a->q.dim * f);
    assert_memory_equal(a->q.code_t, b->q.code_t, k * (size_t)a->q.dim * f);
    assert_memory_equal(a->q.ema_n, b->q.ema_n, k * f);
    assert_memory_equal(a->q.ema_sum, b->q.ema_sum, k * (size_t)a->q.dim * f);
    assert_memory_equal(a->q.seed_channel, b->q.seed_channel, sizeof a->q.seed_channel);
    assert_memory_equal(&a->f, &b->f, sizeof a->f);
    assert_true(a->step == b->step && a->moments == b->moments && a->rng == b->rng);
    assert_true(a->q.lambda50 == b->q.lambda50 && a->has_formats == b->has_formats);
    assert_true(a->trained_minutes == b->trained_minutes && a->trained_mpixel == b->trained_mpixel);
}

static int load(model *m)
{
    silence(true);
    const int st = checkpoint_load(m, "learn.ckpt");
    silence(false);
    return st;
}

/* Overwrites byte `at`, which must matter, and puts it back. */
static void check_damage(long at)
{
    model m;
    FILE *f = fopen("learn.ckpt", "r+b");
    assert_non_null(f);
    fseek(f, at, SEEK_SET);
    const int keep = fgetc(f);
    fseek(f, at, SEEK_SET);
    fputc(keep ^ 0x81, f);
    fflush(f);
    if (load(&m) == 0) fail_msg("byte %ld: no error", at);
    fseek(f, at, SEEK_SET);
    fputc(keep, f);
    assert_int_equal(fclose(f), 0);
}

static void checkpoints_keep_everything(void **state)
{
    model m, again;
    model_trained(&m, &tiny_preset, &pictures, "learn");
    assert_int_equal(load(&again), 0);
    assert_true(m.has_formats && m.step == 6);
    check_same(&m, &again);
    model_free(&again);
    model_free(&m);
    check_damage(0);
    for (long i = 8 + 16; i < 8 + (long)sizeof(preset); i++) check_damage(i);
    for (long i = 3; i < 12; i += 4) check_damage(8 + (long)sizeof(preset) + i); /* a seed channel */
    FILE *f = fopen("learn.ckpt", "r+b");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    const long size = ftell(f);
    fclose(f);
    const long shorter[] = {size - 1, size / 2, 100, 8, 0};
    for (int i = 0; i < 5; i++) {
        assert_int_equal(truncate("learn.ckpt", shorter[i]), 0);
        assert_int_equal(load(&again), -1);
    }
    remove("learn.ckpt");
    assert_int_equal(load(&again), -1);
}

static int prepare(void **state)
{
    pictures_make(&pictures, 6);
    model_build(&started, &tiny_preset);
    model_start(&started, &pictures, 1);
    return 0;
}

static int clear(void **state)
{
    dataset_free(&pictures);
    model_free(&started);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_paths_are_inverse),
        cmocka_unit_test(components_are_principal),
        cmocka_unit_test(flat_pictures_have_three_components),
        cmocka_unit_test(prior_starts_from_the_data),
        cmocka_unit_test(codes_follow_their_residuals),
        cmocka_unit_test(dead_codes_take_a_spare_residual),
        cmocka_unit_test(training_lowers_the_error),
        cmocka_unit_test(checkpoints_keep_everything),
    };
    return cmocka_run_group_tests(tests, prepare, clear);
}
