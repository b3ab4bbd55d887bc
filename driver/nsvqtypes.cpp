/* nsvqtypes.cpp - samples: their types on both sides, values as their bits. */
#include "nsvqdataset.h"

#include <cmath>
#include <cstring>
#include <limits>

/* ---- types ---- */

GDALDataType NSVQToGDALType(nsvq_type eType)
{
    switch (eType) {
    case NSVQ_TYPE_U8:
        return GDT_Byte;
    case NSVQ_TYPE_S8:
#if NSVQ_HAVE_INT8
        return GDT_Int8;
#else
        return GDT_Byte;
#endif
    case NSVQ_TYPE_U16:
        return GDT_UInt16;
    case NSVQ_TYPE_S16:
        return GDT_Int16;
    case NSVQ_TYPE_U32:
        return GDT_UInt32;
    case NSVQ_TYPE_S32:
        return GDT_Int32;
    case NSVQ_TYPE_U64:
        return GDT_UInt64;
    case NSVQ_TYPE_S64:
        return GDT_Int64;
    case NSVQ_TYPE_F32:
        return GDT_Float32;
    case NSVQ_TYPE_F64:
        return GDT_Float64;
    case NSVQ_TYPE_CS16:
        return GDT_CInt16;
    case NSVQ_TYPE_CS32:
        return GDT_CInt32;
    case NSVQ_TYPE_CF32:
        return GDT_CFloat32;
    case NSVQ_TYPE_CF64:
        return GDT_CFloat64;
    case NSVQ_TYPE_COMPLEX:
        break;
    }
    return GDT_Unknown;
}

#if !NSVQ_HAVE_INT8
static bool IsSignedByte(GDALRasterBand *poBand)
{
    const char *pszType = poBand->GetMetadataItem("PIXELTYPE", "IMAGE_STRUCTURE");
    return pszType && EQUAL(pszType, "SIGNEDBYTE");
}
#endif

nsvq_type NSVQFromGDALBand(GDALRasterBand *poBand)
{
    const GDALDataType eType = poBand->GetRasterDataType();
#if NSVQ_HAVE_INT8
    if (eType == GDT_Byte) return NSVQ_TYPE_U8;
    if (eType == GDT_Int8) return NSVQ_TYPE_S8;
#else
    if (eType == GDT_Byte) return IsSignedByte(poBand) ? NSVQ_TYPE_S8 : NSVQ_TYPE_U8;
#endif
#if NSVQ_HAVE_FLOAT16
    if (eType == GDT_Float16) return NSVQ_TYPE_F32;
    if (eType == GDT_CFloat16) return NSVQ_TYPE_CF32;
#endif
    for (const nsvq_type eOurs :
         {NSVQ_TYPE_U16, NSVQ_TYPE_S16, NSVQ_TYPE_U32, NSVQ_TYPE_S32, NSVQ_TYPE_U64, NSVQ_TYPE_S64,
          NSVQ_TYPE_F32, NSVQ_TYPE_F64, NSVQ_TYPE_CS16, NSVQ_TYPE_CS32, NSVQ_TYPE_CF32, NSVQ_TYPE_CF64})
        if (NSVQToGDALType(eOurs) == eType) return eOurs;
    return static_cast<nsvq_type>(0);
}

/* ---- values ---- */

template <class T> static bool GetBits(double dfValue, uint64_t &nBits)
{
    if (std::numeric_limits<T>::is_integer &&
        (!(dfValue >= static_cast<double>(std::numeric_limits<T>::lowest()) &&
           dfValue <= static_cast<double>(std::numeric_limits<T>::max())) ||
         dfValue != std::floor(dfValue)))
        return false;
    if (!std::numeric_limits<T>::is_integer && std::isfinite(dfValue) &&
        std::fabs(dfValue) > static_cast<double>(std::numeric_limits<T>::max()))
        return false;
    const T tValue = static_cast<T>(dfValue);
    nBits = 0;
    memcpy(&nBits, &tValue, sizeof(tValue)); // the low bytes come first
    return true;
}

bool NSVQGetSampleBits(nsvq_type eType, double dfValue, uint64_t &nBits)
{
    switch (eType) {
    case NSVQ_TYPE_U8:
        return GetBits<uint8_t>(dfValue, nBits);
    case NSVQ_TYPE_S8:
        return GetBits<int8_t>(dfValue, nBits);
    case NSVQ_TYPE_U16:
        return GetBits<uint16_t>(dfValue, nBits);
    case NSVQ_TYPE_S16:
        return GetBits<int16_t>(dfValue, nBits);
    case NSVQ_TYPE_U32:
        return GetBits<uint32_t>(dfValue, nBits);
    case NSVQ_TYPE_S32:
        return GetBits<int32_t>(dfValue, nBits);
    case NSVQ_TYPE_F32:
        return GetBits<float>(dfValue, nBits);
    case NSVQ_TYPE_F64:
        return GetBits<double>(dfValue, nBits);
    default: // 64-bit integers have a way of their own, complex ones none
        return false;
    }
}

bool NSVQGetNoDataBits(GDALRasterBand *poBand, uint64_t &nBits)
{
    int bHas = FALSE;
    if (poBand->GetRasterDataType() == GDT_Int64) {
        nBits = static_cast<uint64_t>(poBand->GetNoDataValueAsInt64(&bHas));
        return bHas;
    }
    if (poBand->GetRasterDataType() == GDT_UInt64) {
        nBits = poBand->GetNoDataValueAsUInt64(&bHas);
        return bHas;
    }
    const double dfNoData = poBand->GetNoDataValue(&bHas);
    return bHas && NSVQGetSampleBits(NSVQFromGDALBand(poBand), dfNoData, nBits);
}
