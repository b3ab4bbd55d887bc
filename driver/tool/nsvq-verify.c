/* nsvq-verify.c - command line and report. */
#include "compare.h"

#include <cpl_error.h>
#include <cpl_string.h>
#include <cpl_vsi.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_BANDS 65536

enum { EXIT_OK = 0, EXIT_MISSED = 1, EXIT_USAGE = 2, EXIT_INPUT = 3 };

static const char usage_text[] =
    "usage: nsvq-verify [options] ORIGINAL RECONSTRUCTED\n"
    "\n"
    "Compares two rasters of any format and type that GDAL reads: PSNR, SSIM, MS-SSIM, MSE and\n"
    "largest error per band and of all bands, PSNR of patches, bits per pixel.\n"
    "\n"
    "  --bands LIST           compare these bands only, as in 1,2,3 (default: all)\n"
    "  --peak X               peak value (default: of 8 bits 2^bits - 1, else the range of ORIGINAL)\n"
    "  --patch N              pixels per side of a patch (default 64)\n"
    "  --heatmap FILE.png     write a picture of the errors\n"
    "  -f, --force            overwrite the heat map\n"
    "  --min-psnr X           status 1 if the PSNR of all bands is under X dB\n"
    "  --min-patch-psnr X     status 1 if the PSNR of a patch is under X dB\n"
    "  --max-error X          status 1 if an absolute error is over X\n"
    "  --json                 print one JSON object instead of the table\n"
    "  -q, --quiet            no table, no progress, no warnings\n"
    "  -h, --help             this text\n"
    "\n"
    "Exit status: 0 fine, 1 a threshold is missed or masks differ, 2 usage, 3 rasters unreadable\n"
    "or not comparable.\n";

typedef struct settings {
    const char *paths[2];
    int n_paths;
    int *bands; /* [n_bands], from 1; n_bands 0: all */
    int n_bands;
    double peak;      /* 0: default */
    int patch;
    const char *heatmap;
    double min_psnr, min_patch_psnr; /* -INFINITY: no threshold */
    double max_error;                /* INFINITY: no threshold */
    bool json, quiet, force;
} settings;

typedef struct report {
    const settings *s;
    const raster *a;
    const comparison *c;
    const heatmap *heat; /* NULL: none */
    int64_t bytes;       /* of RECONSTRUCTED; -1: no file */
    char missed[4][120]; /* what makes the status 1 */
    int n_missed;
} report;

static int usage(const char *what, const char *about)
{
    fprintf(stderr, "nsvq-verify: %s%s\nTry nsvq-verify --help.\n", about, what);
    return EXIT_USAGE;
}

/* v, if it is a number from low to high; else *bad is set. */
static double number(const char *v, double low, double high, bool *bad)
{
    char *end;
    const double x = strtod(v, &end);
    if (end != v && !*end && x >= low && x <= high) return x;
    *bad = true;
    return low;
}

static void band_list(settings *s, const char *v, bool *bad)
{
    free(s->bands);
    s->n_bands = 0;
    s->bands = malloc((strlen(v) / 2 + 1) * sizeof *s->bands);
    while (s->bands) {
        char *end;
        const long n = strtol(v, &end, 10);
        if (end == v || n < 1 || n > MAX_BANDS || (*end && *end != ',')) break;
        s->bands[s->n_bands++] = (int)n;
        if (!*end) return;
        v = end + 1;
    }
    *bad = true;
}

/* Takes an option with a value. False: there is no such option. */
static bool take_value(settings *s, const char *a, const char *v, bool *bad)
{
    if (!strcmp(a, "--bands")) band_list(s, v, bad);
    else if (!strcmp(a, "--peak")) s->peak = number(v, 1e-100, 1e100, bad);
    else if (!strcmp(a, "--patch")) s->patch = (int)number(v, 1, 1 << 20, bad);
    else if (!strcmp(a, "--heatmap")) s->heatmap = v;
    else if (!strcmp(a, "--min-psnr")) s->min_psnr = number(v, -1e3, 1e3, bad);
    else if (!strcmp(a, "--min-patch-psnr")) s->min_patch_psnr = number(v, -1e3, 1e3, bad);
    else if (!strcmp(a, "--max-error")) s->max_error = number(v, 0, 1e300, bad);
    else return false;
    return true;
}

/* -1: go on; else the exit status. */
static int parse(settings *s, int argc, char **argv)
{
    bool bad = false, names_only = false;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (names_only || a[0] != '-' || !a[1]) {
            if (s->n_paths == 2) return usage("two rasters are compared, no more", "");
            s->paths[s->n_paths++] = a;
        } else if (!strcmp(a, "--")) {
            names_only = true;
        } else if (!strcmp(a, "-h") || !strcmp(a, "--help")) {
            fputs(usage_text, stdout);
            return EXIT_OK;
        } else if (!strcmp(a, "-q") || !strcmp(a, "--quiet")) {
            s->quiet = true;
        } else if (!strcmp(a, "-f") || !strcmp(a, "--force")) {
            s->force = true;
        } else if (!strcmp(a, "--json")) {
            s->json = true;
        } else {
            const char *v = i + 1 < argc ? argv[i + 1] : "";
            if (!take_value(s, a, v, &bad)) return usage(": unknown option", a);
            if (++i == argc) return usage(": a value is missing", a);
            if (bad) return usage(": the value is no number, or out of range", a);
        }
    }
    if (s->n_paths < 2) return usage("two rasters are needed: ORIGINAL RECONSTRUCTED", "");
    VSIStatBufL st;
    if (s->heatmap && !s->force && VSIStatL(s->heatmap, &st) == 0)
        return usage(" exists; -f overwrites it", s->heatmap);
    return -1;
}

static void miss(report *r, const char *what)
{
    snprintf(r->missed[r->n_missed++], sizeof r->missed[0], "%s", what);
}

/* NAN (nothing was compared) misses nothing. */
static void judge(report *r)
{
    const figures *all = &r->c->all;
    const patch_figures *p = &r->c->patches;
    if (all->mismatches)
        miss(r, CPLSPrintf("%lld pixels are valid in one raster only", (long long)all->mismatches));
    if (all->psnr < r->s->min_psnr)
        miss(r, CPLSPrintf("PSNR %.4f dB is under %g", all->psnr, r->s->min_psnr));
    if (p->min < r->s->min_patch_psnr)
        miss(r, CPLSPrintf("PSNR of the patch at column %d, row %d, %.4f dB, is under %g", p->min_x,
                           p->min_y, p->min, r->s->min_patch_psnr));
    if (all->max_error > r->s->max_error)
        miss(r, CPLSPrintf("largest error %g is over %g", all->max_error, r->s->max_error));
}

static double bits_per_pixel(const report *r)
{
    return 8.0 * (double)r->bytes / ((double)r->a->width * r->a->height);
}

static void text_row(const char *name, const figures *f)
{
    printf("%-6s %9.4f %14.6g %12.6g %9.6f %9.6f", name, f->psnr, f->mse,
           f->samples ? f->max_error : NAN, f->sim.ssim, f->sim.ms_ssim);
    if (f->mismatches) printf("  %lld mismatches", (long long)f->mismatches);
    printf("\n");
}

static void print_text(const report *r)
{
    const raster *a = r->a;
    const comparison *c = r->c;
    const patch_figures *p = &c->patches;
    const double samples = (double)a->width * a->height * a->n_bands;

    printf("original       %s: %d x %d, %d band%s, %s\n", r->s->paths[0], a->width, a->height,
           a->n_bands, a->n_bands == 1 ? "" : "s", GDALGetDataTypeName(a->type));
    printf("reconstructed  %s", r->s->paths[1]);
    if (r->bytes >= 0) printf(": %lld bytes, %.4f bpp", (long long)r->bytes, bits_per_pixel(r));
    printf("\npeak           %.10g\ncompared       %.6g %% of the samples\n\n", c->peak,
           100 * (double)c->all.samples / samples);
    printf("band     PSNR dB            MSE    max error      SSIM   MS-SSIM\n");
    for (int i = 0; i < a->n_bands; i++)
        text_row(CPLSPrintf("%d", a->bands[i]), &c->bands[i]);
    text_row("all", &c->all);
    if (c->all.sim.scales && c->all.sim.scales < SIMILARITY_SCALES)
        printf("MS-SSIM of %d scales only\n", c->all.sim.scales);
    printf("\n%lld patches of %d x %d", (long long)p->count, r->s->patch, r->s->patch);
    if (p->count)
        printf(": PSNR minimum %.4f dB at column %d, row %d; 1 %% %.4f, 5 %% %.4f, median %.4f",
               p->min, p->min_x, p->min_y, p->p1, p->p5, p->p50);
    printf("\n");
    if (r->heat)
        printf("heat map       %s: %d x %d pixels a cell, white = mean error %.6g\n", r->s->heatmap,
               r->heat->cell, r->heat->cell, r->heat->full);
}

static void json_string(const char *v)
{
    putchar('"');
    for (; *v; v++) {
        const unsigned char ch = (unsigned char)*v;
        if (ch == '"' || ch == '\\') printf("\\%c", ch);
        else if (ch < 0x20) printf("\\u%04x", ch);
        else putchar(ch);
    }
    putchar('"');
}

/* JSON knows neither infinity nor NaN. */
static void json_number(const char *name, double v)
{
    if (isfinite(v)) printf("\"%s\": %.12g", name, v);
    else printf("\"%s\": null", name);
}

static void json_figures(const figures *f)
{
    printf("\"samples\": %lld, \"mismatches\": %lld, ", (long long)f->samples,
           (long long)f->mismatches);
    json_number("psnr", f->psnr);
    printf(", ");
    json_number("mse", f->mse);
    printf(", ");
    json_number("max_error", f->samples ? f->max_error : NAN);
    printf(", ");
    json_number("ssim", f->sim.ssim);
    printf(", ");
    json_number("ms_ssim", f->sim.ms_ssim);
    printf(", \"ms_ssim_scales\": %d}", f->sim.scales);
}

static void json_patches(const patch_figures *p, int side)
{
    printf("\"patches\": {\"side\": %d, \"count\": %lld", side, (long long)p->count);
    if (p->count) {
        printf(", \"min_x\": %d, \"min_y\": %d, ", p->min_x, p->min_y);
        json_number("psnr_min", p->min);
        printf(", ");
        json_number("psnr_p1", p->p1);
        printf(", ");
        json_number("psnr_p5", p->p5);
        printf(", ");
        json_number("psnr_p50", p->p50);
    }
    printf("}");
}

static void print_json(const report *r)
{
    const raster *a = r->a;
    printf("{\"original\": ");
    json_string(r->s->paths[0]);
    printf(", \"reconstructed\": ");
    json_string(r->s->paths[1]);
    printf(", \"width\": %d, \"height\": %d, ", a->width, a->height);
    json_number("peak", r->c->peak);
    if (r->bytes >= 0) {
        printf(", \"bytes\": %lld, ", (long long)r->bytes);
        json_number("bpp", bits_per_pixel(r));
    }
    printf(", \"bands\": [");
    for (int i = 0; i < a->n_bands; i++) {
        printf("%s{\"band\": %d, ", i ? ", " : "", a->bands[i]);
        json_figures(&r->c->bands[i]);
    }
    printf("], \"all\": {");
    json_figures(&r->c->all);
    printf(", ");
    json_patches(&r->c->patches, r->s->patch);
    if (r->heat) {
        printf(", \"heatmap\": {\"file\": ");
        json_string(r->s->heatmap);
        printf(", \"cell\": %d, ", r->heat->cell);
        json_number("white", r->heat->full);
        printf("}");
    }
    printf(", \"missed\": [");
    for (int i = 0; i < r->n_missed; i++) {
        if (i) printf(", ");
        json_string(r->missed[i]);
    }
    printf("]}\n");
}

static void show_progress(double done)
{
    static int shown = -1;
    const int percent = (int)(100 * done);
    if (percent == shown) return;
    shown = percent;
    if (percent < 100) fprintf(stderr, "\r%3d %%", percent);
    else fprintf(stderr, "\r     \r");
}

static int input_error(const char *problem)
{
    fprintf(stderr, "nsvq-verify: %s\n", problem);
    return EXIT_INPUT;
}

static int finish(report *r, heatmap *heat, message *said)
{
    int status = EXIT_OK;
    said->text[0] = 0;
    if (heat && !heatmap_write(heat, r->s->heatmap)) {
        fprintf(stderr, "nsvq-verify: %s: cannot be written: %s\n", r->s->heatmap, said->text);
        status = EXIT_MISSED;
    } else {
        r->heat = heat;
    }
    judge(r);
    if (r->s->json) print_json(r);
    else if (!r->s->quiet) print_text(r);
    for (int i = 0; i < r->n_missed; i++) fprintf(stderr, "nsvq-verify: %s\n", r->missed[i]);
    return r->n_missed ? EXIT_MISSED : status;
}

static int verify(const settings *s, raster *a, raster *b, message *said)
{
    compare_options o = {.peak = s->peak, .patch = s->patch};
    comparison c = {0};
    report r = {.s = s, .a = a, .c = &c, .bytes = -1};
    VSIStatBufL st;
    heatmap *heat = NULL;
    int status;

    if (!raster_open(a, s->paths[0], s->bands, s->n_bands, said)) return input_error(a->problem);
    if (!raster_open(b, s->paths[1], s->bands, s->n_bands, said)) return input_error(b->problem);
    if (a->width != b->width || a->height != b->height)
        return input_error(CPLSPrintf("different sizes: %d x %d and %d x %d", a->width, a->height,
                                      b->width, b->height));
    if (a->n_bands != b->n_bands)
        return input_error(CPLSPrintf("different numbers of bands: %d and %d", a->n_bands,
                                      b->n_bands));
    if (s->heatmap && !(heat = heatmap_new(a->width, a->height))) return input_error("no memory");
    o.heat = heat;
    if (!s->quiet && isatty(STDERR_FILENO)) o.progress = show_progress;
    if (VSIStatL(s->paths[1], &st) == 0 && VSI_ISREG(st.st_mode)) r.bytes = (int64_t)st.st_size;

    const char *problem = compare(&c, a, b, &o);
    status = problem ? input_error(problem) : finish(&r, heat, said);
    comparison_free(&c);
    heatmap_free(heat);
    return status;
}

int main(int argc, char **argv)
{
    settings s = {.patch = 64, .min_psnr = -INFINITY, .min_patch_psnr = -INFINITY,
                  .max_error = INFINITY};
    raster a = {0}, b = {0};
    message said = {0};
    int status = parse(&s, argc, argv);
    if (status < 0) {
        said.quiet = s.quiet;
        GDALAllRegister();
        CPLPushErrorHandlerEx(raster_on_error, &said);
        status = verify(&s, &a, &b, &said);
        raster_close(&a);
        raster_close(&b);
        CPLPopErrorHandler();
        GDALDestroyDriverManager();
    }
    free(s.bands);
    if (fflush(stdout) || ferror(stdout)) {
        fprintf(stderr, "nsvq-verify: the report cannot be written\n");
        status = status ? status : EXIT_MISSED;
    }
    return status;
}
