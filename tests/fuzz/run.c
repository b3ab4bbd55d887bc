/* run.c - a fuzz target without a fuzzer: program N FOLDER. Runs every file of the folder as it is, then
 * N mutations of it, the same in each run, in a buffer that ends at a guard page. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"
#include "testmodel.h"

enum { MAX_BYTES = 1 << 20 };

static test_rng rng;

/* Runs the target on a copy that ends where memory does. */
static void run_guarded(const uint8_t *p, size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (size + page - 1) / page * page;
    uint8_t *m = mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (m == MAP_FAILED || mprotect(m + room, page, PROT_NONE)) abort();
    memcpy(m + room - size, p, size);
    LLVMFuzzerTestOneInput(m + room - size, size);
    munmap(m, room + page);
}

static size_t below(size_t n)
{
    return test_rand(&rng) % n;
}

/* size >= 1. */
static size_t mutate_once(uint8_t *p, size_t size, size_t max)
{
    static const uint8_t edges[] = {0, 1, 2, 3, 0x7f, 0x80, 0xfe, 0xff};
    // half of them near the start, where most decisions are
    size_t at = below(below(2) && size > 80 ? 80 : size), n = below(16) + 1;

    switch (below(7)) {
    case 0:
        p[at] ^= (uint8_t)(1 << below(8));
        break;
    case 1:
        p[at] = edges[below(sizeof edges)];
        break;
    case 2:
        p[at] = (uint8_t)test_rand(&rng);
        break;
    case 3:
        p[at] = (uint8_t)(p[at] + below(9) - 4);
        break;
    case 4: // a piece is copied
        n = n < size - at ? n : size - at;
        memmove(p + at, p + below(size - n + 1), n);
        break;
    case 5: // a piece goes
        n = n < size - at ? n : size - at;
        memmove(p + at, p + at + n, size - at - n);
        return size - n;
    case 6: // a piece comes
        n = n < max - size ? n : max - size;
        memmove(p + at + n, p + at, size - at);
        return size + n;
    }
    return size;
}

size_t LLVMFuzzerMutate(uint8_t *p, size_t size, size_t max)
{
    for (size_t n = 1 + below(4); n > 0 && size; n--) size = mutate_once(p, size, max);
    return size;
}

static int run_file(const char *path, int n)
{
    static uint8_t bytes[MAX_BYTES], copy[MAX_BYTES];
    FILE *f = fopen(path, "rb");

    if (!f) return -1;
    size_t size = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    run_guarded(bytes, size);
    for (int i = 0; i < n; i++) {
        memcpy(copy, bytes, size);
        size_t left = LLVMFuzzerCustomMutator(copy, size, sizeof copy, test_rand(&rng));
        run_guarded(copy, left);
    }
    return 0;
}

int main(int argc, char **argv)
{
    char path[4096];
    DIR *d = argc == 3 ? opendir(argv[2]) : NULL;
    int n_files = 0, n = argc == 3 ? atoi(argv[1]) : 0;

    if (!d) {
        fprintf(stderr, "usage: %s N FOLDER\n", argv[0]);
        return 2;
    }
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        rng.s = 7; // the order of files does not matter
        for (const char *c = e->d_name; *c; c++) rng.s = rng.s * 31 + (uint8_t)*c;
        snprintf(path, sizeof path, "%s/%s", argv[2], e->d_name);
        if (run_file(path, n)) return 1;
        n_files++;
    }
    closedir(d);
    printf("%d files, %d mutations each\n", n_files, n);
    return n_files ? 0 : 1;
}
