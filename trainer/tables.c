/* tables.c - symbol tables of the hyper family. */
#include "tables.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "hyper.h"

#define PRIOR_WEIGHT 300. /* residuals that the density counts for */
#define MAX_SHIFT 12
#define MAX_HALF (NSVQ_CLASS_SYMBOLS / 2 - 1)
#define REACH TABLES_REACH

static int log2_floor(int v)
{
    int n = 0;
    while (v >>= 1) n++;
    return n;
}

int tables_bits(const class_tables *t, int cls, int r)
{
    const int half = t->half[cls], shift = t->shift[cls], v = r >> shift;
    if (abs(v) <= half) return t->bits[cls][v + half] + 256 * shift;
    return t->bits[cls][2 * half + 1] + 256 * (shift + 5 + log2_floor(abs(v) - half));
}

int tables_choose(const class_tables *t, int cls, int d, int step, int lambda)
{
    const int a = abs(d) * 256 / step, near = (a + 128) >> 8;
    int best = 0;
    int64_t least = INT64_MAX;
    if (cls < t->first_class) return 0;
    for (int k = near; k >= 0 && k >= near - 1; k--) {
        const int err = a - (k << 8);
        const int64_t cost =
            (int64_t)err * err + (int64_t)lambda * tables_bits(t, cls, d < 0 ? -k : k) / 4;
        if (cost > least) continue;
        least = cost;
        best = k;
    }
    return d < 0 ? -best : best;
}

/* Share of each residual of a class by the logistic density in the middle of its scales, whole; mirrored
 * counts on top. share [2 * REACH + 1] sums to 1. */
static void shares_of(int cls, const double *n, double *share)
{
    const double scale = exp2(HYPER_LS_MIN + (cls + 0.5) * 12 / NSVQ_N_CLASSES);
    double seen = 0, sum = 0;
    for (int i = 0; n && i <= 2 * REACH; i++) seen += n[i];
    for (int i = 0; i <= 2 * REACH; i++) {
        const double v = fabs((double)(i - REACH));
        const double density = 1 / (1 + exp((v - 0.5) / scale)) - 1 / (1 + exp((v + 0.5) / scale));
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

static void set_class(class_tables *t, int cls, const double *share)
{
    double symbol[NSVQ_CLASS_SYMBOLS], best = 1e30;
    uint16_t *freq = t->freq + cls * NSVQ_CLASS_SYMBOLS;
    for (int shift = 0; shift <= MAX_SHIFT; shift++) /* small tables first: they are faster */
        for (int half = 1; half <= MAX_HALF; half++) {
            const double bits = cost_of(share, shift, half, symbol);
            if (bits >= best * 0.999) continue;
            best = bits;
            t->shift[cls] = (uint8_t)shift;
            t->half[cls] = (uint8_t)half;
        }
    const int n = 2 * t->half[cls] + 2;
    int total = 0, top = 0;
    cost_of(share, t->shift[cls], t->half[cls], symbol);
    memset(freq, 0, sizeof *freq * NSVQ_CLASS_SYMBOLS);
    for (int i = 0; i < n; i++) {
        freq[i] = (uint16_t)(1 + (int)floor(symbol[i] * (32768 - n)));
        total += freq[i];
        if (freq[i] > freq[top]) top = i;
    }
    freq[top] = (uint16_t)(freq[top] + 32768 - total);
    for (int i = 0; i < n; i++) t->bits[cls][i] = (uint16_t)lround(256 * (15 - log2(freq[i])));
}

void tables_make(class_tables *t, const class_counts *counts)
{
    double *share = malloc(sizeof *share * (2 * REACH + 1)), saved = 0, most = 0;
    if (!share) abort();
    *t = (class_tables){0};
    for (int c = 0; c < NSVQ_N_CLASSES; c++) {
        shares_of(c, counts ? counts->n[c] : NULL, share);
        set_class(t, c, share);
    }
    free(share);
    /* Classes below are left out as long as their bits are worth more than the error they take away. */
    for (int c = 0; counts && c < NSVQ_N_CLASSES - 1; c++) {
        double bits = 0;
        for (int i = 0; i <= 2 * REACH; i++)
            bits += counts->n[c][i] * tables_bits(t, c, i - REACH) / 256.;
        saved += (double)HYPER_RATE * bits - counts->gain[c];
        if (saved < most) continue;
        most = saved;
        if (bits > 0) t->first_class = (uint8_t)(c + 1);
    }
}
