/* heatmap.h - a picture of where the errors are, at most HEATMAP_SIDE pixels a side. */
#ifndef NSVQ_TOOL_HEATMAP_H
#define NSVQ_TOOL_HEATMAP_H

#include <stdbool.h>
#include <stdint.h>

#define HEATMAP_SIDE 2048

/* Of a pixel. */
enum { STATE_EXCLUDED = 0, STATE_COMPARED = 1, STATE_MISMATCH = 2 };

typedef struct heatmap {
    int width, height;  /* of the rasters */
    int cell;           /* a cell is cell x cell pixels */
    int columns, rows;  /* cells */
    int done;           /* rows of pixels taken */
    double *sums;       /* [columns] of the row of cells at hand */
    int64_t *counts;    /* [columns] compared pixels */
    float *means;       /* [rows][columns]; negative: nothing compared, or a mismatch */
    double full;        /* mean error that is shown as white, set by heatmap_write() */
} heatmap;

/* NULL: no memory. */
heatmap *heatmap_new(int width, int height);
/* The next row: error and state of each pixel. */
void heatmap_row(heatmap *h, const double *error, const uint8_t *state);
/* Writes a PNG with a palette beside path and renames it. False: GDAL's last message says why. */
bool heatmap_write(heatmap *h, const char *path);
void heatmap_free(heatmap *h);

#endif
