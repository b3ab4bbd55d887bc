/* codec.h - the codec's internal types and what its files offer each other.
 * May include: nsvq.h, engine.h, bytes.h, the standard library, pthread. Never: GDAL; stdio only for
 * texts (file.c) and model files (models.c). */
#ifndef NSVQ_CODEC_H
#define NSVQ_CODEC_H

#include "nsvq.h"
#include "bytes.h"
#include "engine.h"
#include "lossless.h"
#include "model/checksum.h"
#include "range.h"

#include <pthread.h>
#include <stdatomic.h>

#define FORMAT_VERSION  1
#define BLOCK           NSVQ_BLOCK
#define MAX_DIMENSION   0x7fffffffu
#define MAX_BANDS       16384u
#define MAX_GROUP       64u /* bands of an exact group */
#define MAX_THREADS     256
#define MAX_SECTIONS    64u
#define MAX_SECTION_RAW (UINT64_C(1) << 28)
#define MAX_META        (1u << 20) /* records */
#define SIGNATURE_BYTES 8u
#define PREFIX_BYTES    12u /* signature, version, header size */
#define SEAL_BYTES      4u  /* the header's checksum, at its end */
#define FRONT_BYTES     16384u /* what open reads at first */
#define PAGE_ENTRIES    512u
#define RUN_ENTRIES     64u /* of a page: their blocks lie one after the other */
#define PAGE_BYTES      (8 * PAGE_ENTRIES / RUN_ENTRIES + 4 * PAGE_ENTRIES + 4)
#define MAX_LEVELS      23u /* from 2^31 pixels to one block */
#define NO_OFFSET       UINT64_MAX

/* Group codings in the file: nsvq_coding and one more. */
#define CODING_MASK 4u /* masks: the last groups, without bands */

typedef struct group {
    uint8_t coding;     /* nsvq_coding or CODING_MASK */
    uint8_t type;       /* nsvq_type of its planes; 0 for the mask */
    bool complex;       /* two planes a band: real parts, imaginary parts */
    bool has_nodata;    /* equal in all bands of a group */
    uint64_t nodata;    /* bits of a sample */
    uint32_t first_band; /* of the mask of a band: that band */
    uint32_t n_bands;   /* 3, 1, up to MAX_GROUP, or 0 for a mask */
    range range[3];     /* of the bands of a lossy group, if its type has one */
} group;

typedef enum section_kind { SECTION_META = 1, SECTION_MODEL = 2 } section_kind;

typedef struct section {
    uint8_t kind;
    bool behind_index, mandatory;
    uint32_t crc;
    uint64_t stored, raw; /* bytes in the file, and inflated */
    uint64_t offset;      /* computed */
} section;

/* A grid of blocks, and where its part of the index lies. */
typedef struct grid {
    uint32_t width, height, blocks_x, blocks_y;
    uint64_t n_entries, first_page, index_offset;
} grid;

/* FORMAT.md 3: header, and the places that follow from it. */
typedef struct header {
    uint32_t width, height, n_bands;
    uint8_t n_levels;
    uint16_t quality16;        /* asked for, in sixteenths; 0: no lossy group */
    uint8_t quality[2];        /* of the vq family's streams: full resolution, overviews; 0: another family */
    uint64_t model_id;         /* 0: none needed */
    char model_name[32];
    uint32_t n_groups;         /* with the masks */
    uint32_t n_masks;          /* 0, 1 or n_bands */
    bool band_masks;           /* n_masks = n_bands: of the bands, not of the dataset */
    group *groups;             /* [n_groups], owned */
    uint32_t n_sections;
    section sections[MAX_SECTIONS];
    /* computed */
    grid levels[MAX_LEVELS];
    uint64_t n_pages, index_offset, blocks_offset;
} header;

/* A page of the index. */
typedef struct page {
    uint32_t n, size[PAGE_ENTRIES];
    uint64_t start[];
} page;

struct nsvq_model {
    atomic_int refs;
    nsvq_model_desc desc;
    nsvq_engine *engine;
    uint64_t id;
};

/* Flags of a stored block: its parts, in this order (FORMAT.md 4.1). */
enum { PART_MASK = 1, PART_BASE = 2, PART_EXACT = 4 };

typedef struct entry entry;

/* Blocks made ready, least recently used first out; see cache.c. */
typedef struct cache {
    pthread_mutex_t lock;
    pthread_cond_t ready;
    entry **buckets; /* [CACHE_BUCKETS] */
    entry *newest, *oldest; /* unused ones only */
    uint64_t bytes, max_bytes;
} cache;

struct nsvq_file {
    nsvq_source src;
    header h;
    nsvq_model *model;      /* NULL: no lossy group */
    bool embedded;
    uint8_t *meta_bytes;    /* inflated section; meta points into it */
    nsvq_meta *meta;
    size_t n_meta;
    _Atomic(page *) *pages; /* loaded on demand, each once */
    uint64_t max_gap;       /* bytes between two blocks that are read rather than skipped */
    bool     any_size;      /* blocks may lie past the end: they are damaged ones */
    cache cache;
};

/* One cell of the grid. */
typedef struct cell {
    uint32_t level, bx, by, g;
} cell;

/* ---- file.c ---- */

/* Fills err (may be NULL) and returns st. */
nsvq_status fail(nsvq_error *err, nsvq_status st, uint64_t offset, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* Copies a caller's struct that begins with its struct_size; fields past it become 0. */
nsvq_status copy_options(void *dst, size_t known, const void *src, const char *what,
                         nsvq_error *err);
nsvq_status source_read(const nsvq_source *src, uint64_t offset, void *buf, size_t len,
                        const char *what, nsvq_error *err);
uint32_t checksum(uint32_t seed, const void *bytes, size_t n); /* zlib's crc32 */

/* ---- header.c ---- */

/* Signature and version, then the size of the whole header. bytes: at least PREFIX_BYTES. */
nsvq_status header_prefix(const uint8_t *bytes, uint32_t *header_bytes, nsvq_error *err);
/* any_size: the file may have another size than it was written with, but holds the whole index. */
nsvq_status header_parse(header *h, const uint8_t *bytes, uint32_t header_bytes,
                         uint64_t file_size, bool any_size, nsvq_error *err);
/* Appends the header to w, without seal; fills h's computed fields. */
nsvq_status header_store(header *h, wr *w, nsvq_error *err);
/* Writes the file's size and the checksum into the header that header_store() made. */
void header_seal(wr *head, uint64_t file_size);
void header_free(header *h);
/* Levels that lead down to one block. */
uint32_t levels_of(uint32_t width, uint32_t height);
/* Pixels of a block, clipped to the picture. */
void block_extent(const header *h, uint32_t level, uint32_t bx, uint32_t by, uint32_t *w, uint32_t *h_out);
static inline bool is_lossy(const group *g)
{
    return g->coding == NSVQ_CODING_LOSSY3 || g->coding == NSVQ_CODING_LOSSY1;
}
/* Lossy, and its samples are not the networks' levels themselves? */
static inline bool has_range(const group *g)
{
    return is_lossy(g) && g->type != NSVQ_TYPE_U8;
}
static inline uint8_t vq_quality_at(const header *h, uint32_t level)
{
    return h->quality[level > 0];
}
/* Of a sample as its group keeps it. */
static inline bool is_nodata(const group *g, uint64_t bits)
{
    return g->has_nodata && bits == g->nodata;
}
static inline uint32_t group_planes(const group *g)
{
    return g->complex ? 2 * g->n_bands : g->n_bands;
}
/* Bytes of a plane's sample. */
static inline size_t group_bytes(const group *g)
{
    return nsvq_type_bytes((nsvq_type)g->type);
}
/* May a block of the group be left out of the file? */
static inline bool may_be_empty(const group *g)
{
    return g->has_nodata || g->coding == CODING_MASK;
}

/* ---- index.c ---- */

/* Entries of all levels are numbered so that number / PAGE_ENTRIES is the page. */
uint64_t index_entry(const header *h, cell c);
cell index_cell(const header *h, uint64_t e);
/* Bytes of the pages of a level. */
static inline uint64_t index_bytes(uint64_t n_entries)
{
    uint64_t n_pages = (n_entries + PAGE_ENTRIES - 1) / PAGE_ENTRIES;
    uint64_t n_runs = (n_entries + RUN_ENTRIES - 1) / RUN_ENTRIES;
    return 4 * n_pages + 8 * n_runs + 4 * n_entries;
}
/* Where page i lies, and how many entries it has. */
uint64_t index_page(const header *h, uint64_t i, uint32_t *n);
/* Takes the pages that lie in the first `size` bytes of the file. Damaged ones are left for whoever
 * needs them. */
void index_take_front(nsvq_file *f, const uint8_t *front, size_t size);
/* Loads the pages of entries first .. last in one read, if they are not too many. Failures are left for
 * whoever needs a page. */
void index_load(nsvq_file *f, uint64_t first, uint64_t last);
nsvq_status index_locate(nsvq_file *f, uint64_t e, uint64_t *offset, uint32_t *size,
                         nsvq_error *err);

/* ---- meta.c, deflate.c, words.c ---- */

nsvq_status section_load(const nsvq_source *src, const section *s, const char *what, uint8_t **raw,
                         nsvq_error *err);
nsvq_status meta_parse(nsvq_file *f, size_t size, nsvq_error *err);
nsvq_status meta_store(wr *w, const nsvq_meta *meta, uint32_t n, uint32_t n_bands, nsvq_error *err);

/* Raw deflate; words: with the preset dictionary. inflate: 0 when exactly in_size bytes gave exactly
 * out_size, -1 when not, -2 without memory. deflate: appends at level 9. */
int inflate_exact(uint8_t *out, size_t out_size, const uint8_t *in, size_t in_size, bool words);
void wr_deflate(wr *w, const uint8_t *in, size_t n, bool words);
extern const char meta_words[]; /* words.c */
extern const size_t meta_words_bytes;

/* ---- models.c ---- */

const nsvq_kernels *kernels_get(void); /* NULL: NSVQ_CPU holds an unknown word */
nsvq_model *model_retain(const nsvq_model *m);
/* The shipped model of a family and a stride, or what comes next to it. */
nsvq_status model_like(nsvq_model **out, int family, int stride, nsvq_error *err);
bool model_is_shipped(uint64_t id);
nsvq_status model_find(nsvq_file *f, const nsvq_open_options *opt, nsvq_error *err);

/* ---- exact.c ---- */

/* Masks: one bit per pixel, 1 = masked, rows of mask_stride(w) bytes, high bit first, padding 0. */
static inline size_t mask_stride(uint32_t w)
{
    return (w + 7) / 8;
}
static inline bool mask_get(const uint8_t *row, uint32_t x)
{
    return row[x >> 3] >> (7 - (x & 7)) & 1;
}
/* bits: n_bands planes. */
void mask_encode(wr *w, const uint8_t *bits, uint32_t n_bands, uint32_t width, uint32_t height);
/* 0, -1 corrupt, -2 without memory. */
int mask_decode(uint8_t *bits, uint32_t n_bands, uint32_t width, uint32_t height,
                const uint8_t *in, size_t size);

/* Replaces samples that are not known (0 in `known`) by a smooth continuation of the others, per channel.
 * px, known: interleaved, 3 channels, w x h, dense. Returns -1 without memory. */
int fill_unknown(uint8_t *px, const uint8_t *known, int w, int h);

/* ---- decode.c: bytes of a block -> what windows need of it ---- */

typedef enum entry_state { ENTRY_WANTED, ENTRY_LOADING, ENTRY_READY, ENTRY_FAILED } entry_state;

struct entry {
    uint64_t number;         /* in the index */
    entry *chain, *newer, *older;
    uint32_t refs;
    entry_state state;
    nsvq_status status;      /* of a failed one */
    nsvq_error error;
    uint64_t offset;         /* in the file */
    uint32_t size;           /* 0: not stored, everything is masked */
    int16_t *latents;        /* lossy: [bh][bw][L]; NULL: zero vectors */
    uint8_t *quiet;          /* [bh][bw], behind the latents */
    uint8_t *pixels;         /* exact layer: [planes][h][w] samples; NULL: all nodata, or lossy without */
    uint8_t *mask;           /* mask layer as stored; NULL: nothing is masked, or size is 0 */
    size_t mask_bytes;
    bool mask_damaged;       /* fails only who needs the mask: mask is NULL then */
    bool exact_damaged;      /* of a lossy block: the same, with pixels */
    size_t bytes;            /* of memory */
};

nsvq_status block_error(nsvq_error *err, nsvq_status st, const entry *e, const header *h,
                        const char *what);
nsvq_status block_parse(const nsvq_file *f, entry *e, const uint8_t *bytes, nsvq_scratch *s,
                        nsvq_error *err);

/* ---- cache.c ---- */

nsvq_status cache_create(cache *c, uint64_t max_bytes);
void cache_destroy(cache *c);
/* References n entries. Whoever does takes, loads and publishes those that are wanted, until there are none,
 * and only then waits: so nobody waits in a circle, and threads that want the same entries share the work. */
nsvq_status cache_claim(cache *c, const uint64_t *numbers, size_t n, entry **out);
/* One of the n entries that is the caller's to load and publish; NULL: no more. */
entry *cache_take(cache *c, entry **entries, size_t n);
/* Keeps of n numbers those that no entry has; returns how many. */
size_t cache_missing(cache *c, uint64_t *numbers, size_t n);
void cache_publish(cache *c, entry *e, nsvq_status st, const nsvq_error *error);
nsvq_status cache_wait(cache *c, entry *e, nsvq_error *err);
void cache_release(cache *c, entry **entries, size_t n);

/* ---- pool.c ---- */

/* Runs task(user, thread, item) for items 0 .. n - 1, taken in order, on up to n_threads threads of
 * which number 0 is the caller's. A task that returns nonzero stops the taking; those with smaller
 * numbers have been taken by then and are finished. */
typedef int (*pool_task)(void *user, int thread, size_t item);
void pool_run(int n_threads, size_t n, pool_task task, void *user);

static inline nsvq_type type_of(const nsvq_band *b)
{
    return b->type ? (nsvq_type)b->type : NSVQ_TYPE_U8;
}
/* Samples of other types have no lossy coding. */
static inline bool is_exact(const nsvq_band *b)
{
    return b->exact || (type_of(b) != NSVQ_TYPE_U8 && !range_type(type_of(b)));
}

/* May two bands share a group? */
static inline bool is_pair(const nsvq_band *a, const nsvq_band *b)
{
    return is_exact(a) == is_exact(b) && type_of(a) == type_of(b) && !a->has_nodata == !b->has_nodata &&
           (!a->has_nodata || a->nodata == b->nodata);
}

/* ---- measure.c ---- */

/* Sets low, high and alone of the lossy bands that need a range and have none, by a pass over the raster. */
nsvq_status measure_ranges(const nsvq_raster *r, nsvq_band *bands, nsvq_error *err);

/* ---- scale.c ---- */

/* The shipped model that is best at a QUALITY; family: 0, or the one that it has to be of. */
nsvq_status scale_model(nsvq_model **out, int family, double quality, nsvq_error *err);
/* What blocks have as their quality for a QUALITY of the common scale, in sixteenths; own: of the model's own. */
int scale_quality16(const nsvq_model *m, bool own, double quality);

/* ---- target.c ---- */

/* Replaces rate or psnr by a quality. raster, o: as nsvq_encode has checked them. */
nsvq_status find_quality(const nsvq_raster *raster, nsvq_encode_options *o, nsvq_error *err);

/* ---- write.c ---- */

/* Blocks of a level on their way. Those of the full resolution go to the file at once; others wait
 * until a run of them is whole and one of the full resolution just ended. */
typedef struct level_writer {
    uint64_t n_done;            /* entries in the file */
    uint64_t base[PAGE_ENTRIES / RUN_ENTRIES];
    uint32_t size[PAGE_ENTRIES]; /* the page's, so far */
    wr bytes, sizes;            /* waiting */
} level_writer;

typedef struct writer {
    const nsvq_sink *sink;
    header h;
    wr head;          /* the header's bytes */
    uint64_t at;      /* where the next block goes */
    level_writer *levels; /* [h.n_levels] */
} writer;

/* Takes over h (groups, sections' payloads are copied to the sink). payload[i] belongs to section i. */
nsvq_status writer_begin(writer *w, const nsvq_sink *sink, header *h, const wr *payload,
                         nsvq_error *err);
/* n blocks in the order of the level's index, their bytes one after the other. */
nsvq_status writer_blocks(writer *w, uint32_t level, const uint8_t *bytes, const uint32_t *sizes, size_t n,
                          nsvq_error *err);
/* Whatever waits, and the header last: what is not finished has no signature. */
nsvq_status writer_end(writer *w, uint64_t *size, nsvq_error *err);
void writer_free(writer *w);

#endif
