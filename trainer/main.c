/* main.c - nsvq-train: command line. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "export.h"
#include "train.h"

static const char usage_text[] =
    "usage: nsvq-train --data FOLDER|PACK [options]     train a model\n"
    "       nsvq-train pack --data FOLDER --out FILE    losslessly pack pictures for training without GDAL\n"
    "       nsvq-train info MODEL                       print a model's training card\n"
    "       nsvq-train bench [options]                  pixels a second of a training step\n"
    "\n"
    "  --data PATH       folder of rasters (sub-folders are classes) or a pack\n"
    "  --out FILE        model to write (default model.nsvqm; FILE.ckpt holds the checkpoint)\n"
    "  --minutes N       length of the training (default 20)\n"
    "  --steps N         length in steps instead\n"
    "  --family NAME     vq (default) or hyper: its preset standard or hyper16\n"
    "  --preset NAME     standard, small; hyper16, hyper8, hyper8-large, hyper-small: shape of the networks\n"
    "  --body N          residual blocks of the synthesis at the latents' scale, 1 to 16, instead of the preset's\n"
    "  --resume FILE     go on from a checkpoint: without --steps and --minutes with the run that it was\n"
    "                    saved in, exactly as if that had not been cut short\n"
    "  --init MODEL      start from a model file that holds master weights; hyper: with --preset it takes\n"
    "                    that shape, by residual blocks that change nothing yet, or without the last ones\n"
    "  --name NAME       name written into the model (default: trained)\n"
    "  --batch N         patches a step (default 8)\n"
    "  --patch N         pixels per side of a patch, a multiple of 64 (default 256)\n"
    "  --lr X            peak learning rate (default 0.003)\n"
    "  --lambda X        vq: squared latent units per bit at quality 50 (default: 0.5, or the model's)\n"
    "  --ms-ssim X       hyper: share of the distortion that is MS-SSIM of luma, 0 to 1 (default 0: all is\n"
    "                    squared error)\n"
    "  --quality-range A-B  qualities to train (default 20-80; hyper 5-95)\n"
    "  --qat X           share of the run that is quantisation-aware (default 0.1)\n"
    "  --trellis         hyper: the model written codes latents by dependent quantisation, for 3 % smaller files;\n"
    "                    training does not depend on it\n"
    "  --threads N       default: all\n"
    "  --device NAME     cpu (default) or cuda: hyper, all but the quantisation-aware part on a GPU; not with\n"
    "                    --ms-ssim\n"
    "  --save N          minutes between checkpoints (default 5)\n"
    "  --log FILE        append a line of figures at each checkpoint\n"
    "  --part-mib N      pack: largest part (default 60)\n"
    "  -q, --quiet       errors only\n"
    "  -h, --help        this text\n"
    "\n"
    "Ctrl-C saves the checkpoint, writes the model and leaves.\n";

static int usage(const char *what)
{
    fprintf(stderr, "nsvq-train: %s\nTry nsvq-train --help.\n", what);
    return 2;
}

/* v, if it is a number from low to high; else *bad is set. */
static double number(const char *v, double low, double high, int *bad)
{
    char *end;
    const double x = strtod(v, &end);
    if (end != v && !*end && x >= low && x <= high) return x;
    *bad = 1;
    return low;
}

/* "A-B", 1 <= A <= B <= 100; else -1. */
static int range(const char *v, float *low, float *high)
{
    int n = 0;
    return sscanf(v, "%f-%f%n", low, high, &n) != 2 || v[n] || !(*low >= 1 && *high >= *low && *high <= 100)
               ? -1
               : 0;
}

static const int card_quality[5] = {10, 30, 50, 70, 90};
enum { N_CARD = sizeof card_quality / sizeof *card_quality };

/* f, i [n]: figures of the float network, of the integer one as files have it; of quality 50 for vq, of
 * card_quality's for hyper. plain: integer, but with rates and rounding as the float network has them. */
static char *make_card(const model *m, const dataset *d, const figures *f, const figures *i,
                       const figures *plain)
{
    enum { SIZE = 4096 };
    char *card = malloc(SIZE), day[32] = "", recipe[96];
    const run *r = &m->run;
    const time_t t = time(NULL);
    struct tm tm;
    if (!card) return NULL;
    if (gmtime_r(&t, &tm)) strftime(day, sizeof day, "%Y-%m-%d", &tm);
    if (is_hyper(m))
        snprintf(recipe, sizeof recipe, "qualities %g to %g, MS-SSIM share %g", (double)r->low, (double)r->high,
                 (double)r->ms_ssim);
    else
        snprintf(recipe, sizeof recipe, "lambda %g", (double)m->q.lambda50);
    const char *who = d->n_held_out ? "held out" : "trained on, none held out";
    int at = snprintf(card, SIZE,
                      "family: %s, preset %s%s\ndate: %s\ndata: %d pictures, %.1f Mpixel, %d classes\n"
                      "trained: %ld steps, %.0f Mpixel, %.1f minutes\n"
                      "batch %d of %d x %d, learning rate %g, %s, quantisation-aware share %g\n",
                      is_hyper(m) ? "hyper" : "vq", m->pre.name, m->h.tables.trellis ? ", trellis" : "", day,
                      d->n, d->pixels / 1e6, d->n_classes, m->step, m->trained_mpixel, m->trained_minutes,
                      r->batch, r->patch, r->patch, (double)r->lr, recipe, (double)r->qat);
    if (is_hyper(m)) {
        const model_cost c = model_costs(m);
        at += snprintf(card + at, (size_t)(SIZE - at),
                       "thousands of multiplications per pixel: analysis %.2f; synthesis %.2f, entropy model %.2f\n",
                       c.analysis, c.synthesis, c.entropy);
    }
    for (int k = 0; k < (is_hyper(m) ? N_CARD : 1); k++)
        at += snprintf(card + at, (size_t)(SIZE - at),
                       "%s (%d patches, quality %d): float %.3f dB %.4f bpp, integer %.3f dB %.4f bpp\n",
                       who, f[k].n, is_hyper(m) ? card_quality[k] : 50, f[k].psnr, f[k].bpp, i[k].psnr,
                       i[k].bpp);
    if (is_hyper(m))
        snprintf(card + at, (size_t)(SIZE - at),
                 "rate at equal PSNR: integer against float %+.2f %%, with the encoder's choices and whole files "
                 "%+.2f %%\n",
                 bd_rate(f, plain, N_CARD), bd_rate(f, i, N_CARD));
    return card;
}

static int finish(model *m, const train_options *o, const dataset *d)
{
    nsvq_model_desc desc;
    figures f[N_CARD], i[N_CARD], plain[N_CARD];
    model_average(m);
    if (!m->has_formats) formats_calibrate(m, d, &m->f);
    if (o->trellis) use_trellis(m);
    prior_calibrate(m, d, &m->f);
    const char *why = model_emit(m, &m->f, &desc);
    if (why) {
        fprintf(stderr, "nsvq-train: the trained weights make no valid model: %s\n", why);
        nsvq_model_free(&desc);
        return 1;
    }
    if (export_check(m, &m->f, &desc, d)) {
        nsvq_model_free(&desc);
        return 1;
    }
    for (int k = 0; k < (is_hyper(m) ? N_CARD : 1); k++) {
        const int quality = is_hyper(m) ? card_quality[k] : 50;
        f[k] = validate(m, NULL, d, (float)quality, 256);
        i[k] = validate_integer(&desc, d, quality, 256);
        if (is_hyper(m)) plain[k] = validate(m, &m->f, d, (float)quality, 256);
    }
    nsvq_model_free(&desc);
    char *card = make_card(m, d, f, i, plain);
    const int bad = !card || model_export(m, &m->f, o->name, card, o->out);
    if (!bad && !o->quiet) printf("%s", card);
    free(card);
    return bad;
}

/* Better now than after hours. */
static int can_write(const char *file)
{
    char part[1024];
    snprintf(part, sizeof part, "%s.part", file);
    FILE *f = fopen(part, "wb");
    if (!f) {
        fprintf(stderr, "nsvq-train: %s: %s\n", file, strerror(errno));
        return 0;
    }
    fclose(f);
    remove(part);
    return 1;
}

/* p: the shape of a new model, or the one that init's takes. */
static int run_training(const train_options *o, const preset *p)
{
    dataset d;
    model m;
    if (!can_write(o->out)) return 1;
    if (dataset_load(&d, o->data, o->quiet)) return 3;
    if (!o->quiet)
        fprintf(stderr, "%d pictures, %.1f Mpixel, %d classes\n", d.n, d.pixels / 1e6, d.n_classes);
    int bad = 0;
    if (o->resume) {
        bad = checkpoint_load(&m, o->resume);
    } else if (o->init) {
        bad = model_from_master(&m, o->init);
    } else {
        model_build(&m, p);
    }
    if (bad) {
        dataset_free(&d);
        return 3;
    }
    if (o->reshape && model_reshape(&m, p)) {
        fprintf(stderr, "nsvq-train: --preset %s: %s cannot take this shape\n", o->preset, o->init);
        model_free(&m);
        dataset_free(&d);
        return 2;
    }
    dataset_add_halves(&d, o->go_on ? m.run.patch : o->patch);
    if (o->lambda > 0) m.q.lambda50 = o->lambda;
    if ((o->cuda || o->trellis) && !is_hyper(&m)) {
        fprintf(stderr, "nsvq-train: %s: for the hyper family\n", o->cuda ? "--device cuda" : "--trellis");
        model_free(&m);
        dataset_free(&d);
        return 2;
    }
    if (!o->resume && !o->init) model_start(&m, &d, o->quiet);
    bad = train(&m, &d, o) || finish(&m, o, &d);
    model_free(&m);
    dataset_free(&d);
    return bad;
}

static int run_info(const char *file)
{
    char *card = model_card(file);
    if (!card) return 3;
    fputs(card, stdout);
    free(card);
    return 0;
}

static int run_pack(const char *data, const char *out, int part_mib, int quiet)
{
    dataset d;
    if (dataset_load(&d, data, quiet)) return 3;
    const int bad = dataset_pack(&d, out, part_mib);
    if (!bad && !quiet) printf("%d pictures, %.1f Mpixel packed into %s\n", d.n, d.pixels / 1e6, out);
    dataset_free(&d);
    return bad != 0;
}

int main(int argc, char **argv)
{
    train_options o = {.out = "model.nsvqm", .minutes = 20, .batch = 8, .patch = 256, .lr = 3e-3f,
                       .qat = 0.1f, .name = "trained"};
    const char *family = "vq";
    int length_given = 0, family_given = 0;
    int part_mib = 60, body = 0, pack = 0, speed = 0, out_given = 0, bad = 0;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (!strcmp(a, "-h") || !strcmp(a, "--help")) {
            fputs(usage_text, stdout);
            return 0;
        }
        if (!strcmp(a, "-q") || !strcmp(a, "--quiet")) {
            o.quiet = 1;
            continue;
        }
        if (!strcmp(a, "--trellis")) {
            o.trellis = 1;
            continue;
        }
        if (i == 1 && !strcmp(a, "pack")) {
            pack = 1;
            continue;
        }
        if (i == 1 && !strcmp(a, "bench")) {
            speed = 1;
            continue;
        }
        if (i == 1 && !strcmp(a, "info")) return argc == 3 ? run_info(argv[2]) : usage("info: one MODEL");
        if (i + 1 >= argc) return usage("an option lacks its value, or is unknown");
        const char *v = argv[++i];
        if (!strcmp(a, "--data")) o.data = v;
        else if (!strcmp(a, "--out")) o.out = v, out_given = 1;
        else if (!strcmp(a, "--minutes")) o.minutes = number(v, 0, 1e6, &bad), length_given = 1;
        else if (!strcmp(a, "--steps")) o.steps = (long)number(v, 0, 1e9, &bad), length_given = 1;
        else if (!strcmp(a, "--family")) family = v, family_given = 1;
        else if (!strcmp(a, "--preset")) o.preset = v;
        else if (!strcmp(a, "--body")) body = (int)number(v, 1, 16, &bad);
        else if (!strcmp(a, "--resume")) o.resume = v;
        else if (!strcmp(a, "--init")) o.init = v;
        else if (!strcmp(a, "--name")) o.name = v;
        else if (!strcmp(a, "--batch")) o.batch = (int)number(v, 1, 4096, &bad);
        else if (!strcmp(a, "--patch")) o.patch = (int)number(v, 64, 512, &bad);
        else if (!strcmp(a, "--lr")) o.lr = (float)number(v, 1e-9, 1, &bad);
        else if (!strcmp(a, "--lambda")) o.lambda = (float)number(v, 0, 1e3, &bad);
        else if (!strcmp(a, "--quality-range")) bad |= range(v, &o.low, &o.high);
        else if (!strcmp(a, "--qat")) o.qat = (float)number(v, 0, 1, &bad);
        else if (!strcmp(a, "--ms-ssim")) o.ms_ssim = (float)number(v, 0, 1, &bad);
        else if (!strcmp(a, "--threads")) o.threads = (int)number(v, 0, 1024, &bad);
        else if (!strcmp(a, "--log")) o.log = v;
        else if (!strcmp(a, "--device")) o.cuda = !strcmp(v, "cuda"), bad |= !o.cuda && strcmp(v, "cpu") != 0;
        else if (!strcmp(a, "--save")) o.save = number(v, 0.01, 1e6, &bad);
        else if (!strcmp(a, "--part-mib")) part_mib = (int)number(v, 1, 1024, &bad);
        else return usage("unknown option");
    }
    const int hyper_wanted = !strcmp(family, "hyper");
    preset p;
    if (!hyper_wanted && strcmp(family, "vq")) return usage("--family: vq or hyper");
    o.reshape = o.init && o.preset;
    if (!o.preset) o.preset = hyper_wanted ? "hyper16" : "standard";
    if (preset_find(o.preset, &p)) return usage("--preset: unknown name");
    if (body && (o.resume || (o.init && !o.reshape))) return usage("--body: the model has its shape already");
    if (body) p.n_body = body;
    if (family_given && hyper_wanted != (p.family == NSVQ_FAMILY_HYPER))
        return usage("--preset: of another family");
    if ((o.cuda || o.trellis) && !o.resume && !o.init && p.family != NSVQ_FAMILY_HYPER)
        return usage(o.cuda ? "--device cuda: for the hyper family" : "--trellis: for the hyper family");
    if (o.cuda && o.ms_ssim > 0.f) return usage("--device cuda: not with --ms-ssim");
    o.go_on = o.resume && !length_given;
    if (!o.data && !speed) return usage("--data is missing");
    if (bad || o.patch % 64) return usage("an option's value is no number or out of range");
    if (speed) return bench(&p, &o);
    nsvq_model_desc named;
    if (nsvq_model_set_name(&named, o.name)) return usage("--name: not 1 to 31 printable ASCII characters");
    if (pack) return out_given ? run_pack(o.data, o.out, part_mib, o.quiet) : usage("pack: --out is missing");
    return run_training(&o, &p);
}
