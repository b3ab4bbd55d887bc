/* lossless_map.c - see lossless_map.h. */
#include "lossless_map.h"

void samples_load(uint64_t *bits, const uint8_t *p, size_t bytes, size_t n)
{
    uint16_t b;
    uint32_t c;

    for (size_t i = 0; i < n && bytes == 1; i++) bits[i] = p[i];
    for (size_t i = 0; i < n && bytes == 2; i++) memcpy(&b, p + 2 * i, 2), bits[i] = b;
    for (size_t i = 0; i < n && bytes == 4; i++) memcpy(&c, p + 4 * i, 4), bits[i] = c;
    if (bytes == 8) memcpy(bits, p, 8 * n);
}

void samples_store(uint8_t *p, size_t bytes, const uint64_t *bits, size_t n)
{
    uint16_t b;
    uint32_t c;

    for (size_t i = 0; i < n && bytes == 1; i++) p[i] = (uint8_t)bits[i];
    for (size_t i = 0; i < n && bytes == 2; i++) b = (uint16_t)bits[i], memcpy(p + 2 * i, &b, 2);
    for (size_t i = 0; i < n && bytes == 4; i++) c = (uint32_t)bits[i], memcpy(p + 4 * i, &c, 4);
    if (bytes == 8) memcpy(p, bits, 8 * n);
}

static bool is_signed(nsvq_type t)
{
    return t == NSVQ_TYPE_S8 || t == NSVQ_TYPE_S16 || t == NSVQ_TYPE_S32 || t == NSVQ_TYPE_S64;
}

static bool is_float(nsvq_type t)
{
    return t == NSVQ_TYPE_F32 || t == NSVQ_TYPE_F64;
}

static uint64_t top_bit(nsvq_type t)
{
    return UINT64_C(1) << (8 * nsvq_type_bytes(t) - 1);
}

/* Bits of a sample <-> a number that grows as the sample does. */
static uint64_t ordered(uint64_t bits, nsvq_type t)
{
    uint64_t top = top_bit(t);

    if (is_signed(t)) return bits ^ top;
    if (is_float(t)) return bits & top ? ~bits & (top | (top - 1)) : bits | top;
    return bits;
}

static uint64_t unordered(uint64_t v, nsvq_type t)
{
    uint64_t top = top_bit(t);

    if (is_signed(t)) return v ^ top;
    if (is_float(t)) return v & top ? v ^ top : ~v & (top | (top - 1));
    return v;
}

/* ---- floats that are whole numbers in disguise ---- */

enum { MAX_BINARY = 30, MAX_DECIMAL = 6 };

/* Bits of the float nearest to n / divisor / 2^shift, ties to even; no subnormal arises.
 * |n| < 2^31, divisor < 2^20. */
static uint64_t float_of(int64_t n, uint32_t divisor, unsigned shift, unsigned fraction_bits,
                         int bias)
{
    uint64_t sign = n < 0, a = (uint64_t)(n < 0 ? -n : n);

    if (!a) return 0;
    int up = __builtin_clzll(a);
    a <<= up;
    uint64_t q = a / divisor, rest = a % divisor;
    // twenty more digits where there is room: then q has 62 bits or more
    int more = __builtin_clzll(q);
    rest <<= more;
    q = q << more | rest / divisor;
    rest %= divisor;
    int e = 63 - __builtin_clzll(q); // value = q / 2^(up + more + shift)
    unsigned cut = (unsigned)e - fraction_bits;
    uint64_t half = UINT64_C(1) << (cut - 1), tail = q & (2 * half - 1), m = q >> cut;
    m += tail > half || (tail == half && (rest || m & 1));
    int exponent = e - up - more - (int)shift + bias;
    uint64_t bits = ((uint64_t)exponent << fraction_bits) + (m - (UINT64_C(1) << fraction_bits));
    return bits | sign << (fraction_bits == 23 ? 31 : 63);
}

static uint64_t float_bits(const map *m, nsvq_type type, int64_t n)
{
    static const uint32_t tens[] = {1, 10, 100, 1000, 10000, 100000, 1000000};
    uint32_t divisor = m->kind == MAP_DECIMAL ? tens[m->exponent] : 1;
    unsigned shift = m->kind == MAP_BINARY ? m->exponent : 0;

    return type == NSVQ_TYPE_F32 ? float_of(n, divisor, shift, 23, 127)
                                 : float_of(n, divisor, shift, 52, 1023);
}

static double value_of(uint64_t bits, nsvq_type type)
{
    uint32_t low = (uint32_t)bits;
    float f;
    double d;

    if (type == NSVQ_TYPE_F64) {
        memcpy(&d, &bits, 8);
        return d;
    }
    memcpy(&f, &low, 4);
    return f;
}

/* The number of a sample, if it has one. */
static bool number_of(const map *m, nsvq_type type, uint64_t bits, int64_t *n)
{
    static const double tens[] = {1, 10, 100, 1000, 10000, 100000, 1000000};
    double v = value_of(bits, type);

    v *= m->kind == MAP_DECIMAL ? tens[m->exponent] : (double)(UINT64_C(1) << m->exponent);
    if (!(v > -2e8 && v < 2e8)) return false;
    *n = (int64_t)(v < 0 ? v - 0.5 : v + 0.5);
    return float_bits(m, type, *n) == bits;
}

static bool all_are_numbers(const map *m, nsvq_type type, const uint64_t *in, const uint8_t *mask,
                            size_t n, size_t step)
{
    int64_t number;

    for (size_t i = 0; i < n; i += step)
        if (!(mask && mask[i]) && !number_of(m, type, in[i], &number)) return false;
    return true;
}

/* Numbers of at most 2^24 are worth it: that is what a float's fraction holds anyway. */
static bool choose_kind(map *m, nsvq_type type, const uint64_t *in, const uint8_t *mask, size_t n)
{
    for (int kind = MAP_BINARY; kind <= MAP_DECIMAL; kind++)
        for (unsigned e = kind == MAP_DECIMAL;
             e <= (kind == MAP_DECIMAL ? MAX_DECIMAL : MAX_BINARY); e++) {
            m->kind = (uint8_t)kind;
            m->exponent = (uint8_t)e;
            if (all_are_numbers(m, type, in, mask, n, 1 + n / 61) &&
                all_are_numbers(m, type, in, mask, n, 1))
                return true;
        }
    m->kind = MAP_ORDER;
    m->exponent = 0;
    return false;
}

/* ---- choosing ---- */

static uint64_t gcd(uint64_t a, uint64_t b)
{
    while (b) {
        uint64_t c = a % b;
        a = b;
        b = c;
    }
    return a;
}

#define DIFFERENCE_ZERO (UINT64_C(1) << 33)

/* Of a float: numbers with an offset, so that they are positive. */
static uint64_t float_key(const map *m, nsvq_type type, uint64_t bits)
{
    int64_t n = 0;

    if (m->kind == MAP_ORDER) return ordered(bits, type);
    number_of(m, type, bits, &n);
    return (uint64_t)(n + INT32_MAX);
}

/* Of n samples; before: of the band before, where m->difference. */
CLONES static void find_keys(const map *m, nsvq_type type, const uint64_t *in, const uint64_t *before, size_t n, uint64_t *key)
{
    uint64_t flip = is_signed(type) ? top_bit(type) : 0;

    if (is_float(type))
        for (size_t i = 0; i < n; i++) key[i] = float_key(m, type, in[i]);
    else if (m->difference)
        for (size_t i = 0; i < n; i++) key[i] = (in[i] ^ flip) - (before[i] ^ flip) + DIFFERENCE_ZERO;
    else
        for (size_t i = 0; i < n; i++) key[i] = in[i] ^ flip;
}

static uint64_t sample_of_key(const map *m, nsvq_type type, uint64_t key, uint64_t before)
{
    if (m->difference) {
        key += ordered(before, type) - DIFFERENCE_ZERO;
        return unordered(key & (top_bit(type) | (top_bit(type) - 1)), type);
    }
    if (m->kind == MAP_ORDER) return unordered(key, type);
    return float_bits(m, type, (int64_t)(key - INT32_MAX));
}

static unsigned bits_of(uint64_t v)
{
    return v ? 64 - (unsigned)__builtin_clzll(v) : 0;
}

static void sort_numbers(uint32_t *v, uint32_t *other, size_t n, uint32_t most)
{
    uint32_t *from = v, *to = other;

    for (unsigned shift = 0; shift < 32 && most >> shift; shift += 11) {
        size_t count[2049] = {0};
        for (size_t i = 0; i < n; i++) count[(from[i] >> shift & 2047) + 1]++;
        for (int i = 0; i < 2048; i++) count[i + 1] += count[i];
        for (size_t i = 0; i < n; i++) to[count[from[i] >> shift & 2047]++] = from[i];
        uint32_t *swap = from;
        from = to;
        to = swap;
    }
    if (from != v) memcpy(v, from, n * sizeof *v);
}

/* The distinct numbers of v, ascending, and how many there are of each; returns their number. */
static size_t sort_and_count(const map *m, const uint32_t *v, const uint8_t *mask, size_t n, uint32_t *sorted,
                             uint32_t *count)
{
    size_t used = 0, distinct = 0;

    for (size_t i = 0; i < n; i++)
        if (!(mask && mask[i])) sorted[used++] = v[i];
    sort_numbers(sorted, count, used, m->range);
    for (size_t i = 0; i < used; i++) {
        if (!i || sorted[i] != sorted[i - 1]) count[distinct++] = 0;
        count[distinct - 1]++;
        sorted[distinct - 1] = sorted[i];
    }
    return distinct;
}

/* The same where the range is below n. */
static size_t count_numbers(const map *m, const uint32_t *v, const uint8_t *mask, size_t n, uint32_t *sorted,
                            uint32_t *count)
{
    size_t distinct = 0;

    memset(count, 0, (m->range + (size_t)1) * sizeof *count);
    for (size_t i = 0; i < n; i++) count[v[i]] += !(mask && mask[i]);
    for (uint32_t i = 0; i <= m->range; i++) {
        if (!count[i]) continue;
        sorted[distinct] = i;
        count[distinct++] = count[i];
    }
    return distinct;
}

/* The distinct numbers of v, if a table of them saves more than it takes. */
static bool choose_table(map *m, uint32_t *v, const uint8_t *mask, size_t n, uint32_t *room)
{
    uint64_t table_bits = 64, saved = 0; // saved in 1/8

    if (m->range < 3) return true;
    uint32_t *sorted = room, *count = room + n;
    size_t distinct = (m->range < n ? count_numbers : sort_and_count)(m, v, mask, n, sorted, count);
    for (size_t i = 0; i < distinct; i++) {
        if (i) table_bits += bits_of(sorted[i] - sorted[i - 1]) + 1;
        // a sample saves about log2 of how sparse the values around it are
        size_t first = i < 8 ? 0 : i - 8, last = i + 8 < distinct ? i + 8 : distinct - 1;
        uint64_t gap =
            last > first ? (uint64_t)(sorted[last] - sorted[first]) * 16 / (last - first) : 16;
        unsigned e = bits_of(gap) - 1;
        saved += count[i] * ((8 * e + (gap << 3 >> e & 7)) - 32);
    }
    if (saved * 7 / 10 <= 8 * table_bits) return true;
    if (!(m->table = malloc(distinct * sizeof *m->table))) return false;
    memcpy(m->table, sorted, distinct * sizeof *m->table);
    m->n_table = (uint32_t)distinct;
    for (size_t i = 0; i < n; i++) {
        if (mask && mask[i]) continue;
        size_t low = 0, high = distinct;
        while (high - low > 1) {
            size_t mid = (low + high) / 2;
            if (sorted[mid] <= v[i])
                low = mid;
            else
                high = mid;
        }
        v[i] = (uint32_t)low;
    }
    m->range = (uint32_t)distinct - 1;
    return true;
}

/* Least and greatest of the keys that no mask covers, 0 if there are none; returns their number. */
CLONES static size_t find_ends(const uint64_t *key, const uint8_t *mask, size_t n, uint64_t *low,
                               uint64_t *high)
{
    int64_t least = INT64_MAX, most = INT64_MIN; // of keys with the top bit turned
    size_t used = 0;

    for (size_t i = 0; i < n; i++) {
        int64_t k = (int64_t)(key[i] ^ UINT64_C(1) << 63);
        if (mask && mask[i]) continue;
        least = k < least ? k : least;
        most = k > most ? k : most;
        used++;
    }
    *low = used ? (uint64_t)least ^ UINT64_C(1) << 63 : 0;
    *high = used ? (uint64_t)most ^ UINT64_C(1) << 63 : 0;
    return used;
}

/* v = key - low, 0 where the mask covers. */
CLONES static void from_base(uint32_t *restrict v, const uint64_t *key, uint64_t low,
                             const uint8_t *mask, size_t n)
{
    for (size_t i = 0; i < n; i++) v[i] = (uint32_t)(key[i] - low);
    for (size_t i = 0; mask && i < n; i++)
        if (mask[i]) v[i] = 0;
}

bool map_choose(map *m, nsvq_type type, const uint64_t *in, const uint64_t *before,
                const uint8_t *mask, size_t n, uint32_t *v, uint64_t *low_bits, uint32_t *room)
{
    uint64_t low, high, steps = 0, sum = 0;

    m->step = 1;
    m->difference = before != NULL;
    if (is_float(type) && choose_kind(m, type, in, mask, n) && m->kind == MAP_BINARY &&
        m->exponent) {
        uint64_t least = UINT64_MAX, most = 0, first = UINT64_MAX, last = 0;
        for (size_t i = 0; i < n; i++) {
            if (mask && mask[i]) continue;
            uint64_t k = float_key(m, type, in[i]), o = ordered(in[i], type);
            least = k < least ? k : least;
            most = k > most ? k : most;
            first = o < first ? o : first;
            last = o > last ? o : last;
        }
        if (most - least > last - first) m->kind = MAP_ORDER, m->exponent = 0;
    }
    uint64_t *key = low_bits; // until it is known which bits these are
    find_keys(m, type, in, before, n, key);
    size_t used = find_ends(key, mask, n, &low, &high);
    for (size_t i = 0; i < n && steps != 1; i++)
        if (!(mask && mask[i])) steps = gcd(key[i] - low, steps);
    m->base = low;
    m->step = steps ? steps : 1;
    while ((high - low) / m->step >> m->low_bits >= MAX_RANGE) m->low_bits++;
    m->range = (uint32_t)((high - low) / m->step >> m->low_bits);
    if (m->step == 1 && !m->low_bits)
        from_base(v, key, low, mask, n);
    else
        for (size_t i = 0; i < n; i++) {
            v[i] = 0;
            if (mask && mask[i]) continue;
            uint64_t k = (key[i] - low) / m->step;
            if (m->low_bits) low_bits[i] = k & ((UINT64_C(1) << m->low_bits) - 1);
            v[i] = (uint32_t)(k >> m->low_bits);
        }
    if (!m->low_bits && used && !choose_table(m, v, mask, n, room)) return false;
    for (size_t i = 0; i < n; i++) sum += v[i]; // masked ones are 0
    m->mean = used ? (uint32_t)(sum / used) : 0;
    return true;
}

/* ---- fields ---- */

enum { /* contexts of numbers */
       NUMBER_KIND,
       NUMBER_EXPONENT,
       NUMBER_BASE,
       NUMBER_STEP,
       NUMBER_LOW,
       NUMBER_RANGE,
       NUMBER_MEAN,
       NUMBER_TABLE,
       NUMBER_DELTA /* 6 */
};

static uint32_t limited(coder *c, unsigned context, uint32_t v, uint32_t high)
{
    uint64_t n = number64(c, context, v);

    if (n > high) c->bad = true;
    return c->bad ? 0 : (uint32_t)n;
}

static void code_table(map *m, coder *c, size_t n)
{
    uint32_t last = 0;

    m->n_table = limited(c, NUMBER_TABLE, m->n_table, (uint32_t)n);
    if (!m->n_table) {
        c->bad = true;
        return;
    }
    if (!c->writing && !(m->table = calloc(m->n_table, sizeof *m->table))) c->bad = c->no_memory = true;
    unsigned k = 0;
    if (c->writing) {
        uint64_t mean = m->table[m->n_table - 1] / m->n_table;
        k = bits_of(mean) > 3 ? bits_of(mean) - 3 : 0;
    }
    k = (unsigned)number(c, NUMBER_TABLE, 0, (int32_t)k, 0, 28);
    unsigned context = 0;
    for (uint32_t i = 1; i < m->n_table && !c->bad; i++) {
        int32_t d = c->writing ? (int32_t)(m->table[i] - m->table[i - 1] - 1) : 0;
        d = number(c, NUMBER_DELTA + context, k, d, 0, MAX_RANGE);
        last += (uint32_t)d + 1;
        if (last > MAX_RANGE) c->bad = true;
        if (!c->writing) m->table[i] = last;
        context = (uint32_t)d >> k < 5 ? (uint32_t)d >> k : 5;
    }
    m->range = m->n_table - 1;
}

void map_code(map *m, coder *c, nsvq_type type, size_t n)
{
    int flags = m->kind | (m->n_table > 0) << 2 | (m->low_bits > 0) << 3 | (m->step != 1) << 4 |
                m->difference << 5;

    flags = number(c, NUMBER_KIND, 1, flags, 0, 63);
    m->kind = flags & 3;
    m->difference = flags >> 5 & 1;
    if (m->difference && (is_float(type) || nsvq_type_bytes(type) > 4)) c->bad = true;
    if (m->kind >= N_MAPS || (m->kind != MAP_ORDER && !is_float(type))) c->bad = true;
    if (m->kind != MAP_ORDER)
        m->exponent = (uint8_t)number(c, NUMBER_EXPONENT, 0, m->exponent, 0,
                                      m->kind == MAP_DECIMAL ? MAX_DECIMAL : MAX_BINARY);
    m->base = number64(c, NUMBER_BASE, m->base);
    m->step = flags & 16 ? number64(c, NUMBER_STEP, m->step) : 1;
    if (flags & 8) m->low_bits = (unsigned)number(c, NUMBER_LOW, 1, (int32_t)m->low_bits, 1, 35);
    if (flags & 4)
        code_table(m, c, n);
    else
        m->range = limited(c, NUMBER_RANGE, m->range, MAX_RANGE - 1);
    // the mean is near the last band's more often than not, but small beside all else
    m->mean = limited(c, NUMBER_MEAN, m->mean, m->range);
    if (m->kind != MAP_ORDER && !c->bad) { // numbers stay where float_of is defined
        uint64_t most = m->n_table ? m->table[m->n_table - 1] : m->range;
        if (m->low_bits || m->step > UINT32_MAX || m->base > UINT32_MAX ||
            most * m->step + m->base > UINT32_MAX - 1)
            c->bad = true;
    }
}

void map_samples(const map *m, nsvq_type type, uint64_t *bits, const int32_t *row,
                 const uint64_t *low, const uint64_t *before, uint32_t n)
{
    uint64_t top = top_bit(type), base = m->base, all = top | (top - 1), flip = is_signed(type) ? top : 0;
    bool usual = !m->n_table && !m->low_bits && m->step == 1 && !is_float(type);

    if (usual && m->difference) {
        base -= DIFFERENCE_ZERO;
        for (uint32_t i = 0; i < n; i++)
            bits[i] = (((uint32_t)row[i] + m->mean + base + (before[i] ^ flip)) & all) ^ flip;
        return;
    }
    if (usual) {
        for (uint32_t i = 0; i < n; i++) bits[i] = ((uint32_t)row[i] + m->mean + base) ^ flip;
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint64_t v = (uint32_t)row[i] + m->mean;
        if (m->n_table) v = m->table[v];
        bits[i] = sample_of_key(
            m, type, (v << m->low_bits | (m->low_bits ? low[i] : 0)) * m->step + base, before[i]);
    }
}

void map_free(map *m)
{
    free(m->table);
    *m = (map){0};
}
