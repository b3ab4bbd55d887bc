/* gdal_compat.h - every difference between GDAL versions that the driver meets, in one place.
 * Built and tested against 3.6; the later branches follow the headers of those versions. */
#ifndef GDAL_COMPAT_H
#define GDAL_COMPAT_H

#include "gdal_version.h"
#include "gdal_priv.h"

#if GDAL_VERSION_NUM < GDAL_COMPUTE_VERSION(3, 6, 0)
#error "GDAL 3.6 or later is needed"
#endif

// 3.10 names the type of a dataset's band map.
#ifndef BANDMAP_TYPE
#define BANDMAP_TYPE int *
#endif

// 3.12 passes geotransforms by reference; both kinds are indexed alike.
#if GDAL_VERSION_NUM >= GDAL_COMPUTE_VERSION(3, 12, 0)
#define NSVQ_GET_GEOTRANSFORM(gt) GetGeoTransform(GDALGeoTransform &gt) const
#else
#define NSVQ_GET_GEOTRANSFORM(gt) GetGeoTransform(double *gt)
#endif

// 3.13 makes option lists constant.
#if GDAL_VERSION_NUM >= GDAL_COMPUTE_VERSION(3, 13, 0)
#define NSVQ_CSL CSLConstList
#else
#define NSVQ_CSL char **
#endif

// From 3.7 on datasets are closed before they are destroyed, and can say that it failed.
#if GDAL_VERSION_NUM >= GDAL_COMPUTE_VERSION(3, 13, 0)
#define NSVQ_CLOSE_ARGUMENTS GDALProgressFunc = nullptr, void * = nullptr
#define NSVQ_CLOSE_PARAMETERS GDALProgressFunc, void *
#elif GDAL_VERSION_NUM >= GDAL_COMPUTE_VERSION(3, 7, 0)
#define NSVQ_CLOSE_ARGUMENTS
#define NSVQ_CLOSE_PARAMETERS
#endif
#ifdef NSVQ_CLOSE_PARAMETERS
#define NSVQ_CLOSE_OVERRIDE CPLErr Close(NSVQ_CLOSE_ARGUMENTS) override;
#define NSVQ_CLOSE_DEFINE(type)                                                                    \
    CPLErr type::Close(NSVQ_CLOSE_PARAMETERS)                                                      \
    {                                                                                              \
        if (nOpenFlags == OPEN_FLAGS_CLOSED) return CE_None;                                       \
        const CPLErr eErr = Finish();                                                              \
        const CPLErr eBase = GDALPamDataset::Close();                                              \
        return eErr != CE_None ? eErr : eBase;                                                     \
    }
#else
#define NSVQ_CLOSE_OVERRIDE
#define NSVQ_CLOSE_DEFINE(type)
#endif

// 3.7 lets the flushing of a dataset fail.
#if GDAL_VERSION_NUM >= GDAL_COMPUTE_VERSION(3, 7, 0)
#define NSVQ_FLUSH_RESULT CPLErr
#define NSVQ_FLUSHED(eErr) return eErr
#else
#define NSVQ_FLUSH_RESULT void
#define NSVQ_FLUSHED(eErr) (void)(eErr)
#endif

// 3.7 has a type for signed bytes; before, they are Byte with an item in IMAGE_STRUCTURE.
#if GDAL_VERSION_NUM >= GDAL_COMPUTE_VERSION(3, 7, 0)
#define NSVQ_HAVE_INT8 1
#else
#define NSVQ_HAVE_INT8 0
#endif

// 3.11 has half floats, which the driver widens.
#if GDAL_VERSION_NUM >= GDAL_COMPUTE_VERSION(3, 11, 0)
#define NSVQ_HAVE_FLOAT16 1
#else
#define NSVQ_HAVE_FLOAT16 0
#endif

#endif
