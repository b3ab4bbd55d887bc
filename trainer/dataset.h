/* dataset.h - training pictures: read by GDAL from any raster, or from a pack. */
#ifndef NSVQ_TRAINER_DATASET_H
#define NSVQ_TRAINER_DATASET_H

#include <stdint.h>

typedef struct picture {
    int      w, h;     /* pixels, RGB interleaved */
    uint8_t *rgb;
    int      class_at; /* index of its sub-folder */
    int      held_out; /* for validation only */
    char     name[96];
} picture;

typedef struct dataset {
    int      n, n_classes, n_held_out;
    picture *pic;
    char   (*class_name)[64];
    double  *class_weight; /* sampling probability of each class, sums to 1 */
    double   pixels;
} dataset;

/* Reads a folder (sub-folders are classes) or a pack. One file in 16, by a hash of its name, is held
 * out. Rasters with fewer than three 8-bit bands are taken as grey or left out with a note. Returns 0
 * or -1 after a message on stderr. */
int  dataset_load(dataset *d, const char *path, int quiet);
void dataset_free(dataset *d);
/* Lossless pack of all pictures in parts of at most part_mib MiB: FILE, FILE.2, ... */
int  dataset_pack(const dataset *d, const char *file, int part_mib);

/* Adds a copy of half the size, means of 2 x 2 pixels, of every picture of which it is at least side x side
 * and that is not held out: what overviews look like. Nothing where no picture is held out. */
void dataset_add_halves(dataset *d, int side);

/* How patches are cut. */
typedef struct cut {
    int   size, unit; /* at most size x size pixels; sides are multiples of unit (16 or 64) */
    float vivid;      /* share of patches whose hues are turned too; 0: the vq family's changes alone */
} cut;

/* Cuts a patch (smaller when the picture is) with random place, flips and colour changes. rgb has room
 * for size * size * 3. */
void dataset_patch(const dataset *d, uint64_t *rng, const cut *c, uint8_t *rgb, int *w, int *h);
/* The i-th patch for validation: the middle of a held-out picture, or of any where none is held out,
 * unchanged. 0 past the last. */
int  dataset_held_out(const dataset *d, int i, const cut *c, uint8_t *rgb, int *w, int *h,
                      const char **name);

#endif
