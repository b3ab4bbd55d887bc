/* raster.h - a raster of any type, read once from top to bottom in strips of rows. */
#ifndef NSVQ_TOOL_RASTER_H
#define NSVQ_TOOL_RASTER_H

#include <gdal.h>
#include <stdbool.h>
#include <stdint.h>

/* What GDAL has said first since the last clearing: later messages only tell who passed it on. */
typedef struct message {
    bool quiet; /* no warnings on stderr */
    char text[400];
} message;

typedef struct raster {
    const char *path;
    GDALDatasetH ds;
    int width, height;
    int n_bands;       /* those that are compared; all of the dataset unless chosen */
    int *bands;        /* [n_bands], from 1 */
    GDALDataType type; /* holds the values of all bands; real */
    bool signed_bytes; /* GDAL before 3.7 reads them as 0 .. 255 */
    GDALRasterBandH *masks; /* [n_bands]; NULL: no mask */
    int first, rows;   /* strip in memory */
    int strip_rows;    /* its largest height */
    uint8_t *pixels;   /* [row][band][width] of type */
    uint8_t *valid;    /* [band][strip_rows][width]: the masks' values */
    message *said;
    char problem[1024]; /* set when a function returns false */
} raster;

/* A handler for CPLPushErrorHandlerEx() whose user data is a message. */
void CPL_STDCALL raster_on_error(CPLErr level, CPLErrorNum number, const char *text);

/* chosen [n_chosen]: bands, from 1; 0 = all. r is to be closed in either case. */
bool raster_open(raster *r, const char *path, const int *chosen, int n_chosen, message *said);
/* Once, after raster_open(): strips of `rows` rows, or fewer where that takes much memory. */
bool raster_start(raster *r, int rows);
/* Row y of the i-th compared band, and which pixels are valid (0 or 1): not masked, finite. */
bool raster_row(raster *r, int y, int i, double *values, uint8_t *valid);
/* What 2^bits - 1 is for the bands compared; 0 where one is wider than 8 bits: those seldom fill their type. */
double raster_peak(const raster *r);
/* Rows of a block of the bands compared. */
int raster_block_rows(const raster *r);
void raster_close(raster *r);

#endif
