/* compare.h - all figures of one raster against another, in one pass from top to bottom. */
#ifndef NSVQ_TOOL_COMPARE_H
#define NSVQ_TOOL_COMPARE_H

#include "heatmap.h"
#include "raster.h"
#include "similarity.h"

typedef struct figures {
    int64_t samples;    /* valid in both */
    int64_t mismatches; /* valid in one only; of all bands: pixels where any band is */
    double mse, psnr;   /* NAN without samples; psnr INFINITY where mse is 0 */
    double max_error;
    similarity_figures sim; /* of all bands: means over the bands, the least number of scales */
} figures;

typedef struct patch_figures {
    int64_t count;        /* patches with at least half of their samples valid */
    double min;           /* dB; NAN without patches, as below */
    int min_x, min_y;     /* its left upper pixel */
    double p1, p5, p50;   /* percentiles, to 1e-4 dB */
} patch_figures;

typedef struct comparison {
    double peak;
    figures *bands; /* [n_bands] */
    figures all;
    patch_figures patches;
} comparison;

typedef struct compare_options {
    double peak; /* 0: of the original's type, or the range of its values */
    int patch;   /* pixels per side */
    heatmap *heat; /* NULL: none */
    void (*progress)(double done); /* NULL: none */
} compare_options;

/* NULL, or what went wrong, in memory of a or b or static. Both rasters are open, of one size and
 * number of bands. out is to be freed in either case. */
const char *compare(comparison *out, raster *a, raster *b, const compare_options *o);
void comparison_free(comparison *c);

#endif
