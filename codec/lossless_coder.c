/* lossless_coder.c - see lossless_coder.h. */
#include "lossless_coder.h"

enum { COUNT_START = 2000, COUNT_MAX = 60000, PERIOD_START = 6, PERIOD_MAX = 64 };

static void model_set(model *m)
{
    uint32_t sum = 0, at = 0;

    for (int i = 0; i < N_SYMBOLS; i++) sum += m->count[i];
    if (sum > COUNT_MAX) {
        sum = 0;
        for (int i = 0; i < N_SYMBOLS; i++) sum += m->count[i] -= m->count[i] >> 1;
    }
    uint32_t scale = ((RANS_TOTAL - N_SYMBOLS) << 16) / sum;
    for (int i = 0; i < N_SYMBOLS; i++) {
        m->start[i] = (uint16_t)at;
        at += 1 + (uint32_t)(((uint64_t)m->count[i] * scale) >> 16);
    }
    m->left = m->period;
}

void model_renew(model *m)
{
    m->period = m->period + m->period / 2 < PERIOD_MAX ? m->period + m->period / 2 : PERIOD_MAX;
    model_set(m);
}

/* Two-sided geometric: mean magnitude mu / 16 in bins. */
static void model_start(model *m, uint32_t mu)
{
    uint64_t weight[N_SYMBOLS] = {0}, sum = 0, theta, power = UINT64_C(1) << 32;
    uint32_t root = 0, square = 256 + mu * mu;

    while ((root + 1) * (root + 1) <= square) root++;
    theta = ((uint64_t)(root - 16) << 16) / mu; // 2 theta / (1 - theta^2) = mu / 16, nearly
    theta = theta < 1000 ? 1000 : theta;
    for (uint32_t a = 0, bin = 0; a < 200; a++) {
        if (bin < BIN_REST && a >= bin_base[bin + 1]) bin++;
        weight[16 + bin] += power >> 4;
        power = (power * theta) >> 16;
        weight[15 - bin] += power >> 4;
    }
    for (int i = 0; i < N_SYMBOLS; i++) sum += weight[i];
    for (int i = 0; i < N_SYMBOLS; i++)
        m->count[i] = (uint16_t)((weight[i] + (sum >> 10)) * COUNT_START / (sum + (sum >> 5)));
    m->start[N_SYMBOLS] = RANS_TOTAL;
    m->period = PERIOD_START;
    model_set(m);
}

static void start(coder *c)
{
    for (unsigned i = 0; i < N_NUMBERS; i++) model_start(&c->number[i], 48);
    for (unsigned i = 0; i < N_CLASSES; i++) {
        // class: 4 an octave, 16 for a mean of 1
        uint32_t octave = i / 4 < 5 ? i / 4 : 5; // from here on low bits are cut off
        uint32_t mu =
            octave >= 4 ? (4 + i % 4) * 4 << (octave - 4) : (4 + i % 4) * 4 >> (4 - octave);
        model_start(&c->residual[i], mu ? mu : 1);
    }
    for (unsigned i = 0; i < N_BITS; i++) c->one[i] = RANS_TOTAL / 2;
}

void coder_write(coder *c)
{
    memset(c, 0, sizeof *c);
    c->writing = true;
    start(c);
}

void coder_store(coder *c, wr *w)
{
    size_t bound = rans_bound(c->n, LOG2_LANES);
    uint8_t *p;

    if (c->n_acc) wr_le(&c->raw, c->acc, (int)(c->n_acc + 7) / 8);
    if (c->bad || c->raw.bad) {
        w->bad = true;
        return;
    }
    wr words = {0};
    if (!(p = wr_room(&words, bound))) {
        w->bad = true;
        return;
    }
    size_t n = rans_encode(p, c->symbols, c->n, LOG2_LANES);
    wr_varint(w, n / 2 - 2 * N_LANES);
    wr_bytes(w, p, n);
    wr_bytes(w, c->raw.p, c->raw.size);
    wr_free(&words);
}

int coder_read(coder *c, const uint8_t *in, size_t size)
{
    rd r = rd_over(in, size);
    uint64_t n = rd_varint(&r, size);

    memset(c, 0, sizeof *c);
    start(c);
    n = 2 * n + 4 * N_LANES;
    if (r.bad || n > rd_left(&r)) return -1;
    size = rd_left(&r);
    if (!(c->copy = malloc(size + READ_AHEAD))) return -2;
    memcpy(c->copy, r.p, size);
    memset(c->copy + size, 0, READ_AHEAD);
    for (unsigned i = 0; i < N_LANES; i++) {
        const uint8_t *b = c->copy + 4 * i;
        c->r.state[i] =
            (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
        if (c->r.state[i] < RANS_LOW) return -1;
    }
    c->r.words = c->copy + 4 * N_LANES;
    c->words_end = c->r.bits = c->copy + n;
    c->bit_end = 8 * (uint64_t)(size - n);
    return 0;
}

bool coder_done(const coder *c)
{
    uint64_t padding = c->bit_end - c->r.bit;

    if (c->bad || c->r.words != c->words_end || c->r.bit > c->bit_end || padding > 7) return false;
    if (peek_bits(&c->r) & ((1u << padding) - 1)) return false;
    for (unsigned i = 0; i < N_LANES; i++)
        if (c->r.state[i] != RANS_LOW) return false;
    return true;
}

void coder_free(coder *c)
{
    free(c->symbols);
    free(c->copy);
    wr_free(&c->raw);
}

/* ---- trials ---- */

void coder_set_mark(coder_mark *m, const coder *c)
{
    m->n = c->n;
    m->raw_size = c->raw.size;
    m->acc = c->acc;
    m->n_acc = c->n_acc;
    memcpy(m->number, c->number, sizeof m->number);
    memcpy(m->residual, c->residual, sizeof m->residual);
    memcpy(m->one, c->one, sizeof m->one);
}

void coder_go_back(coder *c, const coder_mark *m)
{
    c->n = m->n;
    c->raw.size = m->raw_size;
    c->acc = m->acc;
    c->n_acc = m->n_acc;
    memcpy(c->number, m->number, sizeof m->number);
    memcpy(c->residual, m->residual, sizeof m->residual);
    memcpy(c->one, m->one, sizeof m->one);
}

uint64_t coder_cost(const coder *c, const coder_mark *m)
{
    uint64_t cost = 256 * (8 * (uint64_t)(c->raw.size - m->raw_size) + c->n_acc) - 256 * m->n_acc;

    for (size_t i = m->n; i < c->n; i++) {
        uint32_t f = c->symbols[i].freq;
        unsigned e = 31 - (unsigned)__builtin_clz(f);
        uint32_t part = (f << (31 - e) & 0x7fffffff) >> 15; // of an octave, 16 bits
        // log2(1 + t) = t * (1.3465 - 0.3465 t), nearly
        cost += 256 * (RANS_BITS - e) - ((uint64_t)part * (88244 - (part * 22708ull >> 16)) >> 24);
    }
    return cost;
}
