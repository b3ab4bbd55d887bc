/* main.c - nsvq-train: command line. */
#include <errno.h>
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
    "\n"
    "  --data PATH       folder of rasters (sub-folders are classes) or a pack\n"
    "  --out FILE        model to write (default model.nsvqm; FILE.ckpt holds the checkpoint)\n"
    "  --minutes N       length of the training (default 20)\n"
    "  --steps N         length in steps instead\n"
    "  --family vq       family of networks (vq is the only one)\n"
    "  --preset NAME     standard (default) or small\n"
    "  --resume FILE     go on from a checkpoint\n"
    "  --init MODEL      start from a model file that holds master weights\n"
    "  --name NAME       name written into the model (default: trained)\n"
    "  --batch N         patches a step (default 8)\n"
    "  --patch N         pixels per side of a patch, a multiple of 64 (default 256)\n"
    "  --lr X            peak learning rate (default 0.003)\n"
    "  --lambda X        squared latent units per bit at quality 50 (default: 0.5, or the model's)\n"
    "  --qat X           share of the run that is quantisation-aware (default 0.1)\n"
    "  --threads N       default: all\n"
    "  --log FILE        append a line of figures every five minutes\n"
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

static char *make_card(const model *m, const train_options *o, const dataset *d, figures f, figures i)
{
    char *card = malloc(2048), day[32] = "";
    const time_t t = time(NULL);
    struct tm tm;
    if (gmtime_r(&t, &tm)) strftime(day, sizeof day, "%Y-%m-%d", &tm);
    if (card)
        snprintf(card, 2048,
                 "family: vq, preset %s\ndate: %s\ndata: %d pictures, %.1f Mpixel, %d classes\n"
                 "trained: %ld steps, %.0f Mpixel, %.1f minutes\n"
                 "batch %d of %d x %d, learning rate %g, lambda %g, quantisation-aware share %g\n"
                 "%s (%d patches, quality 50): float %.3f dB %.4f bpp, integer %.3f dB %.4f bpp\n",
                 m->pre.name, day, d->n, d->pixels / 1e6, d->n_classes, m->step, m->trained_mpixel,
                 m->trained_minutes, o->batch, o->patch, o->patch, (double)o->lr, (double)m->q.lambda50,
                 (double)o->qat, d->n_held_out ? "held out" : "trained on, none held out", f.n, f.psnr,
                 f.bpp, i.psnr, i.bpp);
    return card;
}

static int finish(model *m, const train_options *o, const dataset *d)
{
    nsvq_model_desc desc;
    if (!m->has_formats) formats_calibrate(m, d, &m->f);
    prior_calibrate(m, d, &m->f);
    const char *why = model_emit(m, &m->f, &desc);
    if (why) {
        fprintf(stderr, "nsvq-train: the trained weights make no valid model: %s\n", why);
        return 1;
    }
    if (export_check(m, &m->f, &desc, d)) {
        nsvq_model_free(&desc);
        return 1;
    }
    const figures f = validate(m, d, 50, 256), i = validate_integer(&desc, d, 50, 256);
    nsvq_model_free(&desc);
    char *card = make_card(m, o, d, f, i);
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

static int run_training(const train_options *o)
{
    dataset d;
    model m;
    preset p;
    if (!can_write(o->out)) return 1;
    if (preset_find(o->preset, &p)) return usage("--preset: unknown name");
    if (dataset_load(&d, o->data, o->quiet)) return 3;
    if (!o->quiet)
        fprintf(stderr, "%d pictures, %.1f Mpixel, %d classes\n", d.n, d.pixels / 1e6, d.n_classes);
    int bad = 0;
    if (o->resume) {
        bad = checkpoint_load(&m, o->resume);
    } else if (o->init) {
        bad = model_from_master(&m, o->init);
    } else {
        model_build(&m, &p);
    }
    if (bad) {
        dataset_free(&d);
        return 3;
    }
    if (o->lambda > 0) m.q.lambda50 = o->lambda;
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
                       .qat = 0.1f, .preset = "standard", .name = "trained"};
    int part_mib = 60, pack = 0, out_given = 0, bad = 0;
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
        if (i == 1 && !strcmp(a, "pack")) {
            pack = 1;
            continue;
        }
        if (i == 1 && !strcmp(a, "info")) return argc == 3 ? run_info(argv[2]) : usage("info: one MODEL");
        if (i + 1 >= argc) return usage("an option lacks its value, or is unknown");
        const char *v = argv[++i];
        if (!strcmp(a, "--data")) o.data = v;
        else if (!strcmp(a, "--out")) o.out = v, out_given = 1;
        else if (!strcmp(a, "--minutes")) o.minutes = number(v, 0, 1e6, &bad);
        else if (!strcmp(a, "--steps")) o.steps = (long)number(v, 0, 1e9, &bad);
        else if (!strcmp(a, "--family")) {
            if (strcmp(v, "vq")) return usage("--family: vq is the only one");
        } else if (!strcmp(a, "--preset")) o.preset = v;
        else if (!strcmp(a, "--resume")) o.resume = v;
        else if (!strcmp(a, "--init")) o.init = v;
        else if (!strcmp(a, "--name")) o.name = v;
        else if (!strcmp(a, "--batch")) o.batch = (int)number(v, 1, 4096, &bad);
        else if (!strcmp(a, "--patch")) o.patch = (int)number(v, 64, 512, &bad);
        else if (!strcmp(a, "--lr")) o.lr = (float)number(v, 1e-9, 1, &bad);
        else if (!strcmp(a, "--lambda")) o.lambda = (float)number(v, 0, 1e3, &bad);
        else if (!strcmp(a, "--qat")) o.qat = (float)number(v, 0, 1, &bad);
        else if (!strcmp(a, "--threads")) o.threads = (int)number(v, 0, 1024, &bad);
        else if (!strcmp(a, "--log")) o.log = v;
        else if (!strcmp(a, "--part-mib")) part_mib = (int)number(v, 1, 1024, &bad);
        else return usage("unknown option");
    }
    if (!o.data) return usage("--data is missing");
    if (bad || o.patch % 64) return usage("an option's value is no number or out of range");
    nsvq_model_desc named;
    if (nsvq_model_set_name(&named, o.name)) return usage("--name: not 1 to 31 printable ASCII characters");
    if (pack) return out_given ? run_pack(o.data, o.out, part_mib, o.quiet) : usage("pack: --out is missing");
    return run_training(&o);
}
