/* checkkern.c - compares every table of kernels that this machine can run with C, bit for bit.
 *   checkkern [--seed N]          all checks; exit 1 when one fails
 *   checkkern --bench [FILTER]    speed per operator, shape and instruction set
 */
#include "checkkern.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { GUARD = 0xA5 };

static ck *running;  // for the signal handler

static void die(const char *what)
{
    perror(what);
    exit(1);
}

ck_buf ck_buf_new(size_t room)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    ck_buf b = {0};
    uint8_t *p;

    b.room = (room + page - 1) / page * page;
    p = mmap(NULL, b.room + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) die("mmap");
    b.base = p + page;
    if (mprotect(b.base, b.room, PROT_READ | PROT_WRITE)) die("mprotect");
    return b;
}

/* Guard bytes that are looked at: enough for any store beside the piece. */
static size_t margin(const ck_buf *buf)
{
    return buf->room - buf->bytes < 4096 ? buf->room - buf->bytes : 4096;
}

void *ck_place(ck *t, ck_buf *buf, size_t bytes)
{
    if (bytes > buf->room) {
        fprintf(stderr, "checkkern: buffer of %zu bytes for %zu (%s)\n", buf->room, bytes, t->text);
        exit(1);
    }
    buf->bytes = bytes;
    buf->piece = t->at_end ? buf->base + buf->room - bytes : buf->base;
    memset(t->at_end ? buf->piece - margin(buf) : buf->piece, GUARD, bytes + margin(buf));
    return buf->piece;
}

uint32_t ck_random(ck *t)  // xorshift64*
{
    t->rng ^= t->rng >> 12;
    t->rng ^= t->rng << 25;
    t->rng ^= t->rng >> 27;
    return (uint32_t)((t->rng * 0x2545F4914F6CDD1Dull) >> 32);
}

int32_t ck_between(ck *t, int32_t least, int32_t greatest)
{
    uint64_t span = (uint64_t)((int64_t)greatest - least) + 1;

    return (int32_t)(least + (int64_t)(ck_random(t) % span));
}

int32_t ck_value(ck *t, ck_fill fill, int32_t least, int32_t greatest)
{
    switch (fill) {
    case CK_MIN: return least;
    case CK_MAX: return greatest;
    case CK_MIXED: return ck_random(t) & 1 ? least : greatest;
    case CK_RANDOM:
    case CK_FILLS: break;
    }
    return ck_between(t, least, greatest);
}

void ck_fill_s8(ck *t, int8_t *p, size_t n, ck_fill fill, int32_t least, int32_t greatest)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (int8_t)ck_value(t, fill, least, greatest);
}

void ck_fill_u8(ck *t, uint8_t *p, size_t n, ck_fill fill)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)ck_value(t, fill, 0, 255);
}

void ck_fill_s16(ck *t, int16_t *p, size_t n, ck_fill fill, int32_t least, int32_t greatest)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (int16_t)ck_value(t, fill, least, greatest);
}

static int bits(int32_t v)
{
    int n = 0;

    for (; v > 0; v >>= 1)
        n++;
    return n;
}

void ck_requant(ck *t, int32_t *bias, uint8_t *shift, int16_t *mul, const int32_t *bound, size_t n,
                bool extreme, ck_fill fill)
{
    for (size_t c = 0; c < n; c++) {
        int32_t room = INT32_MAX - bound[c];

        if (extreme) {
            shift[c] = (uint8_t)ck_between(t, 0, 24);
            mul[c] = (int16_t)ck_value(t, (ck_fill)ck_between(t, 0, CK_FILLS - 1), 0, 32767);
            bias[c] = ck_value(t, fill, -room, room);
        } else {
            int s = bits(bound[c]) - 15 - ck_between(t, 0, 3);

            shift[c] = (uint8_t)(s < 0 ? 0 : s > 24 ? 24 : s);
            mul[c] = (int16_t)ck_between(t, 0, (1 << ck_between(t, 6, 15)) - 1);
            room = room < bound[c] / 8 ? room : bound[c] / 8;
            bias[c] = ck_between(t, -room, room);
        }
    }
}

void ck_case(ck *t, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(t->text, sizeof t->text, format, args);
    va_end(args);
    t->n_cases++;
}

static void failed(ck *t)
{
    t->n_failed++;
    printf("%s %s FAILED seed=%llu %s at=%s: ", t->isa, t->op, (unsigned long long)t->seed, t->text,
           t->at_end ? "end" : "begin");
}

static int element(const ck_buf *b, nsvq_elem type, size_t i)
{
    return type == NSVQ_U8 ? b->piece[i] : ((const int16_t *)b->piece)[i];
}

static bool guards_hold(ck *t, const ck_buf *b)
{
    const uint8_t *p = t->at_end ? b->piece - margin(b) : b->piece + b->bytes;

    for (size_t i = 0; i < margin(b); i++)
        if (p[i] != GUARD) {
            failed(t);
            printf("wrote outside: byte %td of the output\n", p + i - b->piece);
            return false;
        }
    return true;
}

bool ck_same(ck *t, const ck_buf *got, const ck_buf *want, nsvq_elem type)
{
    size_t n = want->bytes / (type == NSVQ_U8 ? 1 : 2);

    if (!guards_hold(t, got)) return false;
    if (!memcmp(got->piece, want->piece, want->bytes)) return true;
    for (size_t i = 0; i < n; i++)
        if (element(got, type, i) != element(want, type, i)) {
            failed(t);
            printf("out[%zu]=%d, c: %d\n", i, element(got, type, i), element(want, type, i));
            break;
        }
    return false;
}

bool ck_equal(ck *t, const char *what, int64_t got, int64_t want)
{
    if (got == want) return true;
    failed(t);
    printf("%s=%lld, expected %lld\n", what, (long long)got, (long long)want);
    return false;
}

static void crashed(int sig)
{
    char text[400];
    int n = snprintf(text, sizeof text, "%s %s FAILED seed=%llu %s at=%s: signal %d (touched a "
                     "guard page?)\n", running->isa, running->op,
                     (unsigned long long)running->seed, running->text,
                     running->at_end ? "end" : "begin", sig);

    if (write(STDOUT_FILENO, text, (size_t)n) < 0) _exit(2);
    _exit(1);
}

/* Starts an operator: the same seed gives the same cases to every table. */
static void start(ck *t, const char *isa, const char *op)
{
    t->isa = isa;
    t->op = op;
    t->rng = (t->seed + 1) * 0x9E3779B97F4A7C15ull;
    t->n_cases = 0;
}

static void finish(const ck *t, int failed_before)
{
    if (t->n_failed == failed_before)
        printf("%-10s %-10s %6d cases equal\n", t->isa, t->op, t->n_cases);
}

static void check_table(ck *t, const nsvq_kernels *ref, const nsvq_kernels *lower,
                        const nsvq_kernels *k)
{
    /* `fresh`: the table below had another function; otherwise it is tested there. */
    const struct {
        const char *op;
        void (*check)(ck *, const nsvq_kernels *, const nsvq_kernels *);
        bool fresh;
    } ops[] = {
        {"pointwise", check_pointwise, k->pointwise != lower->pointwise},
        {"depthwise", check_depthwise, k->depthwise != lower->depthwise},
        {"codebook", check_codebook, k->search != lower->search},
        {"pixels", check_pixels,
         k->to_pixels != lower->to_pixels || k->from_pixels != lower->from_pixels},
    };

    for (size_t i = 0; i < COUNT(ops); i++) {
        int before = t->n_failed;

        if (!ops[i].fresh) continue;
        start(t, k->name, ops[i].op);
        ops[i].check(t, ref, k);
        finish(t, before);
    }
}

static void check_ceiling(ck *t)
{
    static const struct { const char *word; unsigned ceiling; } words[] = {
        {"c", 0}, {"avx2", NSVQ_CPU_AVX2}, {"avx512vnni", NSVQ_CPU_AVX2 | NSVQ_CPU_AVX512VNNI}};
    static const char *const wrong[] = {"", "C", "avx", "avx512", "avx2 "};
    int before = t->n_failed;

    start(t, "any", "NSVQ_CPU");
    unsetenv("NSVQ_CPU");
    ck_case(t, "unset");
    ck_equal(t, "flags", nsvq_cpu_flags(), nsvq_cpu_detect());
    for (size_t i = 0; i < COUNT(words); i++) {
        ck_case(t, "NSVQ_CPU=%s", words[i].word);
        setenv("NSVQ_CPU", words[i].word, 1);
        ck_equal(t, "flags", nsvq_cpu_flags(), nsvq_cpu_detect() & words[i].ceiling);
    }
    for (size_t i = 0; i < COUNT(wrong); i++) {
        ck_case(t, "NSVQ_CPU='%s'", wrong[i]);
        setenv("NSVQ_CPU", wrong[i], 1);
        ck_equal(t, "flags", nsvq_cpu_flags(), -1);
    }
    unsetenv("NSVQ_CPU");
    finish(t, before);
}

static int check_all(uint64_t seed)
{
    static const unsigned levels[] = {NSVQ_CPU_AVX2, NSVQ_CPU_AVX2 | NSVQ_CPU_AVX512VNNI};
    unsigned cpu = nsvq_cpu_detect();
    nsvq_kernels ref, lower, k;
    ck t = {.seed = seed};

    running = &t;
    signal(SIGSEGV, crashed);
    signal(SIGBUS, crashed);
    signal(SIGILL, crashed);
    signal(SIGFPE, crashed);
    nsvq_kernels_init(&ref, NSVQ_CPU_C);
    start(&t, "c", "examples");
    check_examples(&t, &ref);
    finish(&t, 0);
    check_ceiling(&t);
    lower = ref;
    for (size_t i = 0; i < COUNT(levels); i++) {
        if ((cpu & levels[i]) != levels[i]) continue;
        nsvq_kernels_init(&k, levels[i]);
        check_table(&t, &ref, &lower, &k);
        lower = k;
    }
    if (t.n_failed) printf("%d FAILED\n", t.n_failed);
    return t.n_failed ? 1 : 0;
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 1) return check_all(1);
    if (argc == 3 && !strcmp(argv[1], "--seed")) return check_all(strtoull(argv[2], NULL, 10));
    if ((argc == 2 || argc == 3) && !strcmp(argv[1], "--bench")) {
        bench(nsvq_cpu_detect(), argc == 3 ? argv[2] : NULL);
        return 0;
    }
    fprintf(stderr, "usage: checkkern [--seed N | --bench [FILTER]]\n");
    return 2;
}
