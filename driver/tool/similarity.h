/* similarity.h - SSIM and MS-SSIM of one band, fed row by row; memory is O(width).
 * Knows no GDAL. Definitions: nsvq-verify.1, SSIM. */
#ifndef NSVQ_TOOL_SIMILARITY_H
#define NSVQ_TOOL_SIMILARITY_H

#include <stdint.h>

#define SIMILARITY_SCALES 5
#define SIMILARITY_WINDOW 11

typedef struct similarity similarity;

typedef struct similarity_figures {
    double ssim, ms_ssim; /* NAN where no window is valid */
    int scales;           /* of ms_ssim: 5, or as many, from the first, as have a valid window */
} similarity_figures;

/* peak > 0. NULL: no memory. */
similarity *similarity_new(int width, int height, double peak);
/* The next of exactly height rows. valid [width], 0: left out; NULL: all valid. Values under
 * valid != 0 are finite; others do not matter. */
void similarity_row(similarity *s, const double *x, const double *y, const uint8_t *valid);
/* After the last row. */
similarity_figures similarity_result(const similarity *s);
void similarity_free(similarity *s);

#endif
