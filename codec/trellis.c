/* trellis.c - see trellis.h. Integers only: every processor finds the same path. May include: trellis.h. */
#include "trellis.h"

#include <stdlib.h>
#include <string.h>

#define MAX_COST (1 << 26) /* of an index, above the best one: no model comes near */
#define FAR (1 << 29)      /* of states that are not reached: three samples lead from any state to any other */
#define RECIPROCAL 24      /* digits of 4096 / step */

/* The state before, by the parity of the index that led to a state. */
static const uint8_t before[TRELLIS_STATES][2] = {{0, 4}, {2, 6}, {4, 0}, {6, 2}, {5, 3}, {1, 7}, {3, 5}, {7, 1}};

/* A residual of a lane that has one. */
typedef struct sample {
    uint32_t at;      /* in y, cls, residual */
    int32_t  d;       /* from the mean */
    uint8_t  lane, cls;
    uint8_t  parity;  /* bit s: of the index that led to state s */
    uint16_t k[2][2]; /* [quantiser][parity] the best magnitude */
} sample;

typedef struct lane {
    uint64_t reciprocal; /* of the step */
    int64_t  spent;      /* costs are above it */
    int32_t  cost[TRELLIS_STATES];
} lane;

typedef int32_t four __attribute__((vector_size(16)));

int symbol_costs_of(const symbol_costs *t, int r)
{
    int v = r >> t->shift, excess = abs(v) - t->half;

    if (excess <= 0) return t->bits[v + t->half] + 256 * t->shift;
    return t->bits[2 * t->half + 1] + 256 * (t->shift + 5 + 31 - __builtin_clz((unsigned)excess));
}

static int64_t price_of(const trellis *t, int cls, int negative, int q, int k)
{
    return (int64_t)t->lambda * symbol_costs_of(&t->costs[cls][q], negative ? -k : k) / 4;
}

void trellis_set_prices(trellis *t)
{
    for (int i = 0; i < NSVQ_N_CLASSES * 4 * TRELLIS_PRICED; i++) {
        int k = i % TRELLIS_PRICED, q = i / TRELLIS_PRICED % 2, negative = i / TRELLIS_PRICED / 2 % 2;
        int cls = i / TRELLIS_PRICED / 4;
        int64_t price = price_of(t, cls, negative, q, k);
        t->price[cls][negative][q][k] = (int32_t)(price < INT32_MAX ? price : INT32_MAX);
    }
}

size_t trellis_work(int n)
{
    return (size_t)n * TRELLIS_LANES * sizeof(sample);
}

static inline int64_t square(int64_t v)
{
    return v * v;
}

/* a: the distance from the mean, in 1/256 step. */
static int64_t cost_of(const trellis *t, int cls, int negative, int q, int k, int64_t a)
{
    int64_t price = k < TRELLIS_PRICED ? t->price[cls][negative][q][k] : price_of(t, cls, negative, q, k);
    return square(a - 256 * (int64_t)trellis_residual(k, q)) + price;
}

/* The best even and the best odd index of each quantiser: of the two around the distance, the next towards 0,
 * and 0. */
static void weigh(const trellis *t, const sample *s, int64_t a, int64_t cost[2][2], uint16_t best[2][2])
{
    int negative = s->d < 0;

    for (int q = 0; q < 2; q++) {
        int64_t mid = ((a >> 8) + q) / 2 + 1;
        int high = (int)(mid < TRELLIS_MAX ? mid : TRELLIS_MAX), odd = high & 1;
        cost[q][odd] = cost_of(t, s->cls, negative, q, high, a);
        cost[q][!odd] = cost_of(t, s->cls, negative, q, high - 1, a);
        best[q][odd] = (uint16_t)high;
        best[q][!odd] = (uint16_t)(high - 1);
        for (int k = high - 2; k >= 0; k = k ? 0 : -1) {
            int64_t v = cost_of(t, s->cls, negative, q, k, a);
            if (v >= cost[q][k & 1]) continue;
            cost[q][k & 1] = v;
            best[q][k & 1] = (uint16_t)k;
        }
    }
}

/* The same within a step of the mean. */
static void weigh_small(const trellis *t, const sample *s, int64_t a, int64_t cost[2][2], uint16_t best[2][2])
{
    static const uint16_t zero_one[2][2] = {{0, 1}, {0, 1}};
    const int32_t(*price)[TRELLIS_PRICED] = t->price[s->cls][s->d < 0];

    cost[0][0] = a * a + price[0][0];
    cost[0][1] = square(512 - a) + price[0][1];
    cost[1][0] = a * a + price[1][0];
    cost[1][1] = square(256 - a) + price[1][1];
    memcpy(best, zero_one, sizeof zero_one);
}

static int64_t distance(const lane *l, int32_t d)
{
    return (int64_t)((uint64_t)abs(d) * l->reciprocal >> RECIPROCAL);
}

static int32_t above(int64_t cost, int64_t least)
{
    return (int32_t)(cost - least < MAX_COST ? cost - least : MAX_COST);
}

/* Costs are small numbers again, before they leave 32 bits: states are at most three samples apart. */
static void settle(lane *l)
{
    int32_t least = l->cost[0];

    for (int i = 1; i < TRELLIS_STATES; i++) least = l->cost[i] < least ? l->cost[i] : least;
    for (int i = 0; i < TRELLIS_STATES; i++) l->cost[i] -= least;
    l->spent += least;
}

/* Every state is reached in two ways, by an even index and by an odd one: 0 to 3 from states of the first
 * quantiser, 4 to 7 from those of the second, as `before` has it. */
static void advance(const trellis *t, lane *l, sample *s)
{
    int64_t a = distance(l, s->d), add[2][2];
    four low, high;

    if (a < 256)
        weigh_small(t, s, a, add, s->k);
    else
        weigh(t, s, a, add, s->k);
    int64_t first = add[0][0] < add[0][1] ? add[0][0] : add[0][1];
    int64_t second = add[1][0] < add[1][1] ? add[1][0] : add[1][1], least = first < second ? first : second;
    l->spent += least;
    memcpy(&low, l->cost, sizeof low);
    memcpy(&high, l->cost + 4, sizeof high);
    four even_low = (four){low[0], low[2], high[0], high[2]} + above(add[0][0], least);
    four odd_low = (four){high[0], high[2], low[0], low[2]} + above(add[0][1], least);
    four even_high = (four){high[1], low[1], low[3], high[3]} + above(add[1][0], least);
    four odd_high = (four){low[3], high[3], high[1], low[1]} + above(add[1][1], least);
    four is_low = odd_low < even_low, is_high = odd_high < even_high;
    low = (odd_low & is_low) | (even_low & ~is_low);
    high = (odd_high & is_high) | (even_high & ~is_high);
    memcpy(l->cost, &low, sizeof low);
    memcpy(l->cost + 4, &high, sizeof high);
    four bits = (is_low & (four){1, 2, 4, 8}) | (is_high & (four){16, 32, 64, 128});
    s->parity = (uint8_t)(bits[0] | bits[1] | bits[2] | bits[3]);
    if (low[0] > FAR) settle(l);
}

static void open_lanes(lane *l, const trellis_pass *p, int from, int n)
{
    for (int i = 0; i < n; i++) {
        l[i].reciprocal = (UINT64_C(4096) << RECIPROCAL) / (uint64_t)p->step[from + i];
        for (int j = 0; j < TRELLIS_STATES; j++) l[i].cost[j] = FAR;
        l[i].cost[p->state[from + i]] = 0;
        l[i].spent = 0;
    }
}

/* What zeros instead of residuals at one position have cost more than their own best would, halfway between the
 * quantisers; those near the mean have not. */
static int64_t cost_of_skipping(const trellis *t, const trellis_pass *p, const lane *l, size_t at, const int16_t *mu,
                                int n)
{
    int64_t sum = 0;

    for (int j = 0; j < n; j++) {
        sample s = {.cls = p->cls[at + (size_t)j], .d = nsvq_clamp_latent(p->y[at + (size_t)j]) - mu[j]};
        int64_t a = distance(&l[j], s.d), cost[2][2];
        if (s.cls >= p->first_class || a < 128) continue;
        weigh(t, &s, a, cost, s.k);
        int64_t first = cost[0][0] < cost[0][1] ? cost[0][0] : cost[0][1];
        int64_t second = cost[1][0] < cost[1][1] ? cost[1][0] : cost[1][1];
        sum += a * a - (first + second) / 2;
    }
    return sum;
}

/* Samples with a residual, in their order; returns their number. */
static size_t gather(const trellis *t, trellis_pass *p, const lane *l, int from, int n, sample *out)
{
    uint8_t coded[TRELLIS_LANES];
    int32_t near[TRELLIS_LANES];
    sample *s = out;

    for (int j = 0; j < n; j++) near[j] = p->step[from + j] / 32; // half a step
    for (int i = 0; i < p->n; i++) {
        const int16_t *mu = p->mu + (size_t)i * (size_t)p->n_channels + from;
        size_t at = (size_t)p->at[i] * (size_t)p->n_channels + (size_t)from;
        const int16_t *y = p->y + at;
        const uint8_t *cls = p->cls + at;
        int n_coded = 0, far = 0;
        memset(p->residual + at, 0, (size_t)n * sizeof *p->residual);
        for (int j = 0; j < n; j++) {
            coded[n_coded] = (uint8_t)j;
            n_coded += cls[j] >= p->first_class;
        }
        for (int j = 0; j < n; j++)
            far |= (cls[j] < p->first_class) & (abs(nsvq_clamp_latent(y[j]) - mu[j]) > near[j]);
        if (far) p->skipping += cost_of_skipping(t, p, l, at, mu, n);
        for (int m = 0; m < n_coded; m++, s++) {
            int j = coded[m];
            s->at = (uint32_t)(at + (size_t)j);
            s->d = nsvq_clamp_latent(y[j]) - mu[j];
            s->lane = (uint8_t)j;
            s->cls = cls[j];
        }
    }
    return (size_t)(s - out);
}

/* From the best last state back. */
static void trace(trellis_pass *p, const lane *l, int from, int n, const sample *samples, size_t n_samples)
{
    uint8_t state[TRELLIS_LANES];

    for (int i = 0; i < n; i++) {
        int best = 0;
        for (int s = 1; s < TRELLIS_STATES; s++)
            if (l[i].cost[s] < l[i].cost[best]) best = s;
        p->spent += l[i].spent + l[i].cost[best];
        p->state[from + i] = (uint8_t)best;
        state[i] = (uint8_t)best;
    }
    for (const sample *s = samples + n_samples; s-- > samples;) {
        int to = state[s->lane], odd = s->parity >> to & 1, q = before[to][odd] & 1;
        int r = trellis_residual(s->k[q][odd], q), sign = -(s->d < 0);
        p->residual[s->at] = (int16_t)((r ^ sign) - sign); // not a branch: nobody could foresee it
        state[s->lane] = before[to][odd];
    }
}

void trellis_search(const trellis *t, trellis_pass *p)
{
    lane lanes[TRELLIS_LANES];
    sample *samples = p->work;

    p->spent = p->skipping = 0;
    for (int from = 0; from < p->n_channels; from += TRELLIS_LANES) {
        int n = p->n_channels - from < TRELLIS_LANES ? p->n_channels - from : TRELLIS_LANES;
        open_lanes(lanes, p, from, n);
        size_t n_samples = gather(t, p, lanes, from, n, samples);
        for (size_t i = 0; i < n_samples; i++) advance(t, &lanes[samples[i].lane], &samples[i]);
        trace(p, lanes, from, n, samples, n_samples);
    }
}
