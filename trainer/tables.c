/* tables.c - symbol tables of the hyper family. */
#include "tables.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "hyper.h"

#define PRIOR_WEIGHT 300. /* residuals that the density counts for */
#define MAX_LOSS 0.001    /* share of the rate that leaving classes out may cost */
#define MAX_SHIFT 12
#define MAX_HALF (NSVQ_CLASS_SYMBOLS / 2 - 1) /* 1 2 3 4 6 8 11 14 18 23 29 are tried */
#define REACH TABLES_REACH
#define TRELLIS_LAMBDA 2  /* times that of residuals without trellis, whose steps are coarser: measured */

static int log2_floor(int v)
{
    int n = 0;
    while (v >>= 1) n++;
    return n;
}

/* As the encoder estimates it: log2 of the first nine digits, unit 1/256. */
static int bits_of(int freq)
{
    const int whole = log2_floor(freq), part = (freq << (15 - whole) >> 7) & 255;
    const int bits = 15 * 256 - whole * 256 - (int)floor(256 * log2(1 + (part + 0.5) / 256) + 0.5);
    return bits > 0 ? bits : 0;
}

static int choose(const class_tables *t, int cls, int d, int step, int lambda, int64_t *cost_of)
{
    const int a = abs(d) * 256 / step, near = (a + 128) >> 8;
    int best = 0;
    int64_t least = INT64_MAX;
    for (int k = near; k >= 0 && k >= near - 1; k--) {
        const int err = a - (k << 8);
        const int64_t cost =
            (int64_t)err * err + (int64_t)lambda * symbol_costs_of(&t->costs[cls], d < 0 ? -k : k) / 4;
        if (cost > least) continue;
        least = cost;
        best = k;
    }
    *cost_of = least;
    return d < 0 ? -best : best;
}

int tables_choose(const class_tables *t, int first_class, int cls, int d, int step, choice_sums *sums)
{
    int64_t cost;
    const int64_t a = abs(d) * 256 / step;
    const int r = choose(t, cls, d, step, t->lambda, &cost);
    if (cls >= first_class) {
        sums->spent += cost;
        return r;
    }
    sums->skipping += a * a - cost;
    return 0;
}

int tables_choose_z(const class_tables *t, int cls, int d, int step)
{
    int64_t cost;
    return choose(t, cls, d, step, t->lambda / 2, &cost);
}

/* Distances in steps, from low to high, that make the encoder take a residual of magnitude v. */
static void whole(double v, double *low, double *high)
{
    *low = v - 0.5;
    *high = v + 0.5;
}

/* An index of each quantiser: what is nearer to it than to its neighbours. */
static void first_quantiser(double k, double *low, double *high)
{
    *low = 2 * k - 1;
    *high = 2 * k + 1;
}

static void second_quantiser(double k, double *low, double *high)
{
    *low = k < 1 ? -0.5 : k < 2 ? 0.5 : 2 * k - 2;
    *high = k < 1 ? 0.5 : 2 * k;
}

/* Share of each residual of a class by the logistic density in the middle of its scales, whole; mirrored
 * counts on top. share [2 * REACH + 1] sums to 1. */
static void shares_of(int cls, void (*interval)(double, double *, double *), const double *n, double *share)
{
    const double scale = exp2(HYPER_LS_MIN + (cls + 0.5) * 12 / NSVQ_N_CLASSES);
    double sum = 0;
    for (int i = 0; i <= 2 * REACH; i++) {
        double low, high;
        interval(abs(i - REACH), &low, &high);
        const double density = 1 / (1 + exp(low / scale)) - 1 / (1 + exp(high / scale));
        share[i] = PRIOR_WEIGHT * density + (n ? (n[i] + n[2 * REACH - i]) / 2 : 0) + 1e-9;
        sum += share[i];
    }
    for (int i = 0; i <= 2 * REACH; i++) share[i] /= sum;
}

/* Mean bits of a table; symbol [2 half + 2]: its shares. */
static double cost_of(const double *share, int shift, int half, double *symbol)
{
    double bits = shift;
    memset(symbol, 0, sizeof *symbol * NSVQ_CLASS_SYMBOLS);
    for (int i = 0; i <= 2 * REACH; i++) {
        const int v = (i - REACH) >> shift, out = abs(v) > half;
        symbol[out ? 2 * half + 1 : v + half] += share[i];
        if (out) bits += share[i] * (5 + log2_floor(abs(v) - half));
    }
    for (int i = 0; i < 2 * half + 2; i++)
        if (symbol[i] > 0) bits -= symbol[i] * log2(fmax(symbol[i], 1. / 32768));
    return bits;
}

/* A table of least cost; freq [NSVQ_CLASS_SYMBOLS]. */
static void set_table(symbol_costs *costs, uint16_t *freq, const double *share)
{
    double symbol[NSVQ_CLASS_SYMBOLS], best = 1e30;
    for (int shift = 0; shift <= MAX_SHIFT && shift < best; shift++) /* small tables first: they are faster */
        for (int half = 1; half <= MAX_HALF; half += 1 + half / 4) {
            const double bits = cost_of(share, shift, half, symbol);
            if (bits >= best * 0.999) continue;
            best = bits;
            costs->shift = (uint8_t)shift;
            costs->half = (uint8_t)half;
        }
    const int n = 2 * costs->half + 2;
    int total = 0, top = 0;
    cost_of(share, costs->shift, costs->half, symbol);
    memset(freq, 0, sizeof *freq * NSVQ_CLASS_SYMBOLS);
    for (int i = 0; i < n; i++) {
        freq[i] = (uint16_t)(1 + (int)floor(symbol[i] * (32768 - n)));
        total += freq[i];
        if (freq[i] > freq[top]) top = i;
    }
    freq[top] = (uint16_t)(freq[top] + 32768 - total);
    for (int i = 0; i < n; i++) costs->bits[i] = (uint16_t)bits_of(freq[i]);
}

void tables_make(class_tables *t, const class_counts *counts)
{
    double *share = malloc(sizeof *share * (2 * REACH + 1)), bits[NSVQ_N_CLASSES], all = 0, lost = 0;
    if (!share) abort();
    *t = (class_tables){.lambda = t->lambda, .trellis = t->trellis};
    for (int c = 0; c < NSVQ_N_CLASSES; c++) {
        shares_of(c, whole, counts ? counts->n[c] : NULL, share);
        set_table(&t->costs[c], t->freq + c * NSVQ_CLASS_SYMBOLS, share);
        bits[c] = 0;
        for (int i = 0; counts && i <= 2 * REACH; i++)
            bits[c] += counts->n[c][i] * symbol_costs_of(&t->costs[c], i - REACH) / 256.;
        all += bits[c];
    }
    free(share);
    /* Symbols of the smallest classes are a third of all; without them the rest is read faster. */
    for (int c = 0; all > 0 && c < NSVQ_N_CLASSES - 1; c++) {
        lost += counts->gain[c] * 1024 / t->lambda - bits[c];
        if (lost > MAX_LOSS * all) break;
        t->first_class = (uint8_t)(c + 1);
    }
}

void tables_make_trellis(class_tables *t, const trellis_counts *counts)
{
    trellis_tables *to = t->trellis;
    double *share = malloc(sizeof *share * (2 * REACH + 1));
    if (!share) abort();
    to->search.lambda = TRELLIS_LAMBDA * (uint32_t)t->lambda;
    for (int i = 0; i < 2 * NSVQ_N_CLASSES; i++) {
        const int c = i % NSVQ_N_CLASSES, q = i / NSVQ_N_CLASSES;
        shares_of(c, q ? second_quantiser : first_quantiser, counts ? counts->n[i] : NULL, share);
        set_table(&to->search.costs[c][q], to->freq + i * NSVQ_CLASS_SYMBOLS, share);
    }
    free(share);
    trellis_set_prices(&to->search);
}
