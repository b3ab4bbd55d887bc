/* nsvq.h - read and write NSVQ raster files. The only installed header.
 *
 * The library never prints, never exits and keeps no mutable globals besides once-initialised caches.
 * Promised: pixels decoded from given bytes never change, whatever the CPU and the number of threads.
 * The encoder's bytes depend on input and options alone, whatever the CPU and the number of threads,
 * within one version of the library and of zlib; they may change between versions. */
#ifndef NSVQ_H
#define NSVQ_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define NSVQ_API __attribute__((visibility("default")))
#else
#define NSVQ_API
#endif

#define NSVQ_VERSION_MAJOR 0
#define NSVQ_VERSION_MINOR 1
#define NSVQ_VERSION_PATCH 0

typedef enum nsvq_status { /* ABI: append, never renumber */
    NSVQ_OK = 0,
    NSVQ_E_ARG = 1,         /* the caller's mistake */
    NSVQ_E_NOMEM = 2,
    NSVQ_E_IO = 3,          /* a callback failed */
    NSVQ_E_CORRUPT = 4,     /* the bytes are not what was written */
    NSVQ_E_UNSUPPORTED = 5, /* a version, type or mandatory section that this library does not know */
    NSVQ_E_LIMIT = 6,       /* larger than the caller's limits */
    NSVQ_E_DEVICE = 7,
    NSVQ_E_NO_MODEL = 8,    /* the file's model is neither embedded nor found; text names its id */
    NSVQ_E_CANCELLED = 9    /* the progress callback returned 0 */
} nsvq_status;

typedef struct nsvq_error { /* caller-owned, so it works when open fails; left alone by success */
    uint64_t offset;        /* byte in the file, or UINT64_MAX */
    char     text[248];
} nsvq_error;

NSVQ_API const char *nsvq_version(void);               /* "0.1.0" */
NSVQ_API const char *nsvq_status_text(nsvq_status st); /* never NULL */
/* Name of the kernels that this process uses: "c", "avx2", "avx512vnni"; NULL when NSVQ_CPU holds an
 * unknown word (everything else then fails with NSVQ_E_ARG). */
NSVQ_API const char *nsvq_cpu_name(void);

/* ---- models ---- */

typedef struct nsvq_model nsvq_model; /* immutable, shared by threads, reference-counted */

/* From bytes (NSVQ_E_CORRUPT with a text saying what is wrong). bytes are copied. */
NSVQ_API nsvq_status nsvq_model_open(nsvq_model **out, const void *bytes, size_t size, nsvq_error *err);
/* A model compiled into the library, by name; NULL = the first one. */
NSVQ_API nsvq_status nsvq_model_shipped(nsvq_model **out, const char *name, nsvq_error *err);
/* Name of the i-th shipped model, NULL past the last. */
NSVQ_API const char *nsvq_model_shipped_name(int i);
NSVQ_API void        nsvq_model_release(nsvq_model *m);
NSVQ_API const char *nsvq_model_name(const nsvq_model *m);
NSVQ_API uint64_t    nsvq_model_id_of(const nsvq_model *m);

/* ---- samples ---- */

/* Of a band; in memory in the machine's byte order. */
typedef enum nsvq_type {
    NSVQ_TYPE_U8 = 1,
    NSVQ_TYPE_S8,
    NSVQ_TYPE_U16,
    NSVQ_TYPE_S16,
    NSVQ_TYPE_U32,
    NSVQ_TYPE_S32,
    NSVQ_TYPE_U64,
    NSVQ_TYPE_S64,
    NSVQ_TYPE_F32,
    NSVQ_TYPE_F64,
    NSVQ_TYPE_COMPLEX = 16, /* added to one of the types above: a real part, then an imaginary one */
    NSVQ_TYPE_CS16 = NSVQ_TYPE_COMPLEX + NSVQ_TYPE_S16,
    NSVQ_TYPE_CS32 = NSVQ_TYPE_COMPLEX + NSVQ_TYPE_S32,
    NSVQ_TYPE_CF32 = NSVQ_TYPE_COMPLEX + NSVQ_TYPE_F32,
    NSVQ_TYPE_CF64 = NSVQ_TYPE_COMPLEX + NSVQ_TYPE_F64
} nsvq_type;

/* Bytes of a sample, both parts of a complex one; 0 for what is no type. */
NSVQ_API size_t nsvq_type_bytes(nsvq_type type);

/* ---- metadata ---- */

/* What a raster carries beside its pixels: a list of records, each for the whole dataset (band 0) or
 * for one band (from 1). Payloads are little endian; texts are UTF-8 without a terminating 0. The
 * payloads are defined in FORMAT.md; the library stores them unread. */
typedef enum nsvq_meta_tag {
    NSVQ_META_CRS_WKT2 = 1,      /* text */
    NSVQ_META_CRS_AXES = 2,      /* s32 x n: data axis to CRS axis mapping */
    NSVQ_META_CRS_EPOCH = 3,     /* f64 */
    NSVQ_META_GEOTRANSFORM = 4,  /* f64 x 6, GDAL's order */
    NSVQ_META_DOMAIN = 5,        /* text: domain name, 0, then "KEY=VALUE" or XML items, each + 0 */
    NSVQ_META_DESCRIPTION = 6,   /* text; band */
    NSVQ_META_COLOR_INTERP = 7,  /* text: GDAL's name of the interpretation; band */
    NSVQ_META_NODATA = 8,        /* f64, or a sample of 64 bits; band */
    NSVQ_META_GCPS = 9,          /* each: id, 0, info, 0, f64 x 5: pixel, line, x, y, z */
    NSVQ_META_GCP_WKT2 = 10,     /* text */
    NSVQ_META_SCALE = 11,        /* f64; band */
    NSVQ_META_OFFSET = 12,       /* f64; band */
    NSVQ_META_UNIT = 13,         /* text; band */
    NSVQ_META_CATEGORIES = 14,   /* texts, each + 0; band */
    NSVQ_META_PALETTE = 15,      /* u8 interpretation, s16 x 4 an entry; band */
    NSVQ_META_ATTRIBUTES = 16,   /* raster attribute table; band */
    NSVQ_META_BITS = 17,         /* u8: bits of a sample that are used; band */
    NSVQ_META_GCP_AXES = 18,     /* as CRS_AXES, of the GCPs' CRS */
    NSVQ_META_GCP_EPOCH = 19     /* as CRS_EPOCH */
} nsvq_meta_tag;

typedef struct nsvq_meta {
    uint16_t    tag;  /* nsvq_meta_tag; unknown ones are kept */
    uint16_t    band; /* 0 = dataset */
    uint32_t    size;
    const void *data;
} nsvq_meta;

/* ---- reading ---- */

typedef struct nsvq_source { /* positional: no cursor, callable from many threads */
    void    *user;
    uint64_t size;
    int    (*read_at)(void *user, uint64_t offset, void *buf, size_t len); /* 0 = got all len */
    /* NULL, or several ranges at once, for sources where a read takes long: sizes[i] bytes at
     * offsets[i] go to bufs[i]. From one thread at a time. 0 = got all of all */
    int    (*read_many)(void *user, size_t n, const uint64_t *offsets, const size_t *sizes,
                        void *const *bufs);
} nsvq_source;

typedef struct nsvq_open_options { /* in every field 0 = default */
    size_t            struct_size;     /* sizeof(nsvq_open_options); fields get appended */
    const nsvq_model *model;           /* tried before embedded and shipped models, if its id matches */
    const char       *model_path;      /* folders, ':'-separated, searched for <id>.nsvqm; default:
                                          the environment's NSVQ_MODEL_PATH, or the install folder */
    uint64_t          max_cache_bytes; /* of decoded latents, masks, exact samples; default 64 MiB */
    uint64_t          max_gap;         /* bytes between blocks that are read rather than skipped;
                                          default 8 KiB */
    int               any_size;        /* 1: a file that was cut, or has grown, opens too if its index is whole;
                                          blocks that it lacks are as damaged ones */
} nsvq_open_options;

/* How the bands of a group are coded. */
typedef enum nsvq_coding {
    NSVQ_CODING_LOSSY3 = 1,  /* three bands through a model */
    NSVQ_CODING_LOSSY1 = 2,  /* one band, as three equal ones, through a model */
    NSVQ_CODING_EXACT = 3 /* bands of one type, lossless */
} nsvq_coding;

typedef struct nsvq_info {
    size_t   struct_size; /* set by the caller */
    uint32_t width, height, n_bands;
    uint32_t block_size;  /* 512 */
    uint32_t n_levels;    /* with the full resolution; sides of level l are ceil(side / 2^l) */
    double   quality;     /* as asked for, 1..100 in sixteenths; 0 when no group is lossy */
    uint32_t n_groups;
    uint64_t model_id;    /* 0: none needed */
    char     model_name[32];
    uint8_t  embedded;    /* the file holds its model */
    uint8_t  has_mask;    /* masks, 0 or 255 per pixel: 1 of the dataset, 2 of each band */
} nsvq_info;

typedef struct nsvq_file    nsvq_file;    /* immutable once open, shared by threads */
typedef struct nsvq_decoder nsvq_decoder; /* scratch memory, one per thread */

/* Reads header, index and metadata; no block. src is copied; src->user must outlive *out. opt and
 * err may be NULL. On failure *out is NULL. Release with nsvq_close(); nsvq_close(NULL) is fine. */
NSVQ_API nsvq_status nsvq_open(nsvq_file **out, const nsvq_source *src, const nsvq_open_options *opt,
                               nsvq_error *err);
NSVQ_API void        nsvq_close(nsvq_file *f);
/* True when the (at least 12) first bytes are an NSVQ file's. Reads nothing else. */
NSVQ_API int         nsvq_identify(const void *bytes, size_t size);
NSVQ_API void        nsvq_get_info(const nsvq_file *f, nsvq_info *info);
NSVQ_API size_t      nsvq_meta_count(const nsvq_file *f);
/* The record lives as long as f. NSVQ_E_ARG past the end. */
NSVQ_API nsvq_status nsvq_meta_get(const nsvq_file *f, size_t i, nsvq_meta *out);

typedef struct nsvq_group { /* bands that are coded, and best read, together */
    size_t      struct_size; /* set by the caller */
    nsvq_coding coding;
    nsvq_type   type;
    uint32_t    first_band, n_bands; /* bands from 0 */
    uint8_t     has_nodata;
    uint64_t    nodata; /* the bits of a sample */
    uint32_t low[3], high[3]; /* of the bands of a lossy group of U16, S16, F32: as in nsvq_band */
} nsvq_group;
NSVQ_API nsvq_status nsvq_group_get(const nsvq_file *f, uint32_t g, nsvq_group *out);
/* Where block (bx, by) of group g lies: for tools. size 0: the block is not stored (all nodata). */
NSVQ_API nsvq_status nsvq_block_get(const nsvq_file *f, uint32_t level, uint32_t bx, uint32_t by,
                                    uint32_t g, uint64_t *offset, uint64_t *size, nsvq_error *err);

/* Keeps the memory of its threads until it is destroyed: 15 to 35 MB each where there are lossless blocks. */
NSVQ_API nsvq_status nsvq_decoder_create(nsvq_decoder **out, nsvq_file *f, int n_threads,
                                         nsvq_error *err); /* as for encoding; f must outlive it */
NSVQ_API void        nsvq_decoder_destroy(nsvq_decoder *d);

typedef struct nsvq_window {
    size_t   struct_size;
    uint32_t level;          /* 0 = full resolution */
    uint32_t x, y, w, h;     /* pixels of that level, inside it */
    uint32_t n_bands;        /* of this request */
    const uint32_t *bands;   /* from 0, any order, repeats allowed; NULL = 0 .. n_bands - 1 */
    void    *pixels;         /* sample of bands[i] at (x + c, y + r): at this address
                                + i * band_stride + r * row_stride + c * pixel_stride */
    ptrdiff_t pixel_stride, row_stride, band_stride; /* bytes */
    uint32_t *filled;        /* NULL: damage fails. Else what depends on damaged or unreadable blocks
                                becomes nodata, or 0 without; *filled: in how many pieces. If it is not
                                0, err tells of one of the blocks although the call succeeds */
} nsvq_window;

/* Any window holds exactly what a read of the whole level holds there. Fails (NSVQ_E_CORRUPT, text
 * names group and block) when and only when its pixels depend on damaged bytes; pixels is then
 * undefined. */
NSVQ_API nsvq_status nsvq_read(nsvq_decoder *d, const nsvq_window *w, nsvq_error *err);
/* Masks, bytes of 0 or 255 (all 255, as one band, when none is stored). Where the dataset has one, it
 * is read as one band, whatever bands says. */
NSVQ_API nsvq_status nsvq_read_mask(nsvq_decoder *d, const nsvq_window *w, nsvq_error *err);

/* ---- writing ---- */

typedef struct nsvq_sink { /* random access: the index is patched at the end */
    void *user;
    int (*write_at)(void *user, uint64_t offset, const void *buf, size_t len); /* 0 = wrote all */
} nsvq_sink;

typedef struct nsvq_band {
    uint8_t  exact;      /* code this band losslessly (alpha, labels) */
    uint8_t  has_nodata; /* pixels equal to nodata stay exactly so, and no other becomes so */
    uint64_t nodata;     /* the bits of a sample; not for complex types */
    uint8_t  type;       /* nsvq_type; 0: U8. Lossy: U8, U16, S16, F32; all others are coded losslessly */
    uint8_t  resampling; /* nsvq_resampling, to overviews */
    /* Lossy U16, S16, F32: */
    uint8_t  has_range;  /* the next three are set; else they are found by one more pass */
    uint8_t  alone;      /* not in a group with the two bands behind */
    uint32_t low, high;  /* bits of samples: between them the coding is lossy, outside of them exact */
} nsvq_band;

/* How a sample of an overview comes from those of the 2 x 2 below that are valid: neither nodata nor
 * NaN nor masked. Where none is, it is nodata or masked too. */
typedef enum nsvq_resampling {
    NSVQ_AVERAGE = 0,
    NSVQ_NEAREST = 1, /* the first, from the upper left */
    NSVQ_MODE = 2     /* the most frequent, of several the first */
} nsvq_resampling;

/* A part of the raster to encode, and where its samples go, as in nsvq_window: of bands first ..
 * first + n - 1, which have one type. */
typedef struct nsvq_pull {
    uint32_t  x, y, w, h, first, n;
    void     *pixels;
    ptrdiff_t pixel_stride, row_stride, band_stride;
} nsvq_pull;

typedef struct nsvq_raster { /* what to encode: pulled by callbacks, from the calling thread only */
    size_t   struct_size;
    void    *user;
    uint32_t width, height, n_bands;
    const nsvq_band *bands;       /* n_bands */
    const nsvq_meta *meta;        /* n_meta records, stored as they are */
    uint32_t n_meta;
    uint8_t  has_mask;  /* as in nsvq_info */
    uint8_t  has_alpha; /* band `alpha` tells what is invisible, for overviews */
    uint32_t alpha;
    /* 0 = fine; anything else ends the encoding with NSVQ_E_IO. */
    int (*read)(void *user, const nsvq_pull *p);
    int (*read_mask)(void *user, const nsvq_pull *p); /* bytes, 0 or 255; n is 1 */
    int (*progress)(void *user, double done); /* 0..1; return 0 to stop: NSVQ_E_CANCELLED. May be NULL */
} nsvq_raster;

typedef struct nsvq_encode_options { /* in every field 0 = default */
    size_t            struct_size;
    const nsvq_model *model;     /* default: a shipped one of the family */
    int               family;    /* without model: 0 = what is best at the quality; 1 = vq, by its own scale; 2 = hyper */
    double            quality;   /* 1..100, rounded to sixteenths; default 50 */
    int               n_threads; /* default 1; above 256 as 256 */
    int               embed;     /* 0 = when the library does not ship the model, 1 = always, 2 = never */
    uint32_t          max_group; /* bands of a lossless group: 1..64; default 32 */
    uint32_t          n_levels;  /* at most; 1: no overviews; default: down to one block */
    /* Instead of a quality (one of the two; with lossy bands only): the nearest one that there is. The
     * raster is read several times, and for a PSNR the compressed file is held in memory. */
    double            rate;      /* bits per pixel of the whole file, all bands together */
    double            psnr;      /* dB over all samples of lossy bands but nodata; the peak is 255 if all are U8,
                                    else the largest minus the smallest of them */
    int               effort;    /* 1..9: time for smaller files; default 5 */
    double            overview_quality; /* as quality, of the levels below the full one; default: 10 less, at least 1 */
    double           *reached;   /* may be NULL: receives the rate or PSNR found nearest to the one asked for; untouched
                                    where none is asked for, or no band is lossy */
} nsvq_encode_options;

/* Writes a whole file into an empty sink; *bytes (may be NULL) receives its size. Consecutive runs of
 * three lossy bands of one type and nodata, the first not alone, form a group, other lossy ones stand alone; lossless
 * ones of one type and nodata share groups of equal size. The header comes last: what a failed call
 * leaves is never a valid file. Memory: a chunk of blocks, and of the levels below the full one some
 * rows of blocks. */
NSVQ_API nsvq_status nsvq_encode(const nsvq_sink *sink, const nsvq_raster *raster,
                                 const nsvq_encode_options *opt, uint64_t *bytes, nsvq_error *err);

#ifdef __cplusplus
}
#endif
#endif
