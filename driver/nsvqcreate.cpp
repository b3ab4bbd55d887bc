/* nsvqcreate.cpp - CreateCopy: which sources can be written, and the way of the bytes to disk. */
#include "nsvqcreate.h"

#include "cpl_vsi_error.h"

#include <atomic>
#include <cmath>
#include <cstring>

namespace
{

/* What the library pulls while it encodes. */
struct Source {
    GDALDataset *poDS;
    std::vector<int> anBandMap; // 1, 2, 3, ...
    const nsvq_band *pasBands;
    GDALProgressFunc pfnProgress;
    void *pProgressData;
    bool bGreyMask; // a mask has had values between 0 and 255
};

} // namespace

/* ---- which sources can be written ---- */

static bool CheckTarget(const char *pszFilename)
{
    VSIStatBufL sStat;
    if (STARTS_WITH(pszFilename, "/vsistdout")) {
        CPLError(CE_Failure, CPLE_NotSupported,
                 "NSVQ files cannot be written to a stream: the index at the start comes last");
        return false;
    }
    // Renaming the finished file to the name would replace a device by it.
    if (VSIStatExL(pszFilename, &sStat, VSI_STAT_EXISTS_FLAG | VSI_STAT_NATURE_FLAG) == 0 &&
        !VSI_ISREG(sStat.st_mode)) {
        CPLError(CE_Failure, CPLE_OpenFailed, "%s is there and no file", pszFilename);
        return false;
    }
    return true;
}

bool NSVQCheckOptions(const char *pszFilename, CSLConstList papszOptions)
{
    NSVQCreateOptions oOptions;
    return CheckTarget(pszFilename) && NSVQParseOptions(papszOptions, oOptions);
}

static bool CheckSource(const char *pszFilename, GDALDataset *poSrcDS)
{
    const int nBands = poSrcDS->GetRasterCount();
    if (nBands == 0 || nBands > 16384) {
        CPLError(CE_Failure, CPLE_NotSupported, "NSVQ files have 1 to 16384 bands, not %d", nBands);
        return false;
    }
    for (int i = 1; i <= nBands; i++) {
        GDALRasterBand *poBand = poSrcDS->GetRasterBand(i);
        if (!NSVQFromGDALBand(poBand)) {
            CPLError(CE_Failure, CPLE_NotSupported, "band %d is of type %s, which NSVQ does not store",
                     i, GDALGetDataTypeName(poBand->GetRasterDataType()));
            return false;
        }
    }
    return CheckTarget(pszFilename);
}

static bool HasLossyCoding(unsigned nType)
{
    return nType == NSVQ_TYPE_U8 || nType == NSVQ_TYPE_U16 || nType == NSVQ_TYPE_S16 || nType == NSVQ_TYPE_F32;
}

/* Values whose neighbours mean something else: classes, indices, flags. */
static bool IsLabelBand(GDALRasterBand *poBand)
{
    if (poBand->GetColorInterpretation() == GCI_PaletteIndex || poBand->GetColorTable() ||
        poBand->GetCategoryNames() || poBand->GetDefaultRAT())
        return true;
    const char *pszBits = poBand->GetMetadataItem("NBITS", "IMAGE_STRUCTURE");
    return pszBits && atoi(pszBits) < 8; // a lossy value could leave the range
}

/* A nodata value that no sample is, but which GDAL's masks round to one: only exact samples keep those. */
static bool HasFractionalNoData(GDALRasterBand *poBand)
{
    int bHasNoData = FALSE;
    const double dfNoData = poBand->GetNoDataValue(&bHasNoData);
    return bHasNoData && !GDALDataTypeIsFloating(poBand->GetRasterDataType()) &&
           std::isfinite(dfNoData) && dfNoData != std::floor(dfNoData);
}

static std::vector<nsvq_band> DescribeBands(GDALDataset *poSrcDS, const NSVQCreateOptions &oOptions)
{
    const int nBands = poSrcDS->GetRasterCount();
    // One nodata value per band, where pixels are missing when all bands have theirs.
    const CPLStringList aosValues(
        CSLTokenizeString2(poSrcDS->GetMetadataItem("NODATA_VALUES"), " ", 0));

    std::vector<nsvq_band> asBands(nBands);
    for (int i = 0; i < nBands; i++) {
        GDALRasterBand *poBand = poSrcDS->GetRasterBand(i + 1);
        nsvq_band &sBand = asBands[i];
        sBand.type = static_cast<uint8_t>(NSVQFromGDALBand(poBand));
        const bool bLabels = IsLabelBand(poBand);
        sBand.exact = oOptions.bLossless || bLabels ||
                      poBand->GetColorInterpretation() == GCI_AlphaBand ||
                      !HasLossyCoding(sBand.type) || (sBand.type != NSVQ_TYPE_U8 && !oOptions.bLossy);
        sBand.resampling = static_cast<uint8_t>(oOptions.eResampling);
        if (bLabels && oOptions.eResampling == NSVQ_AVERAGE) sBand.resampling = NSVQ_MODE;
        uint64_t nBits = 0;
        sBand.has_nodata = NSVQGetNoDataBits(poBand, nBits);
        if (aosValues.size() == nBands && (sBand.type == NSVQ_TYPE_U8 || !sBand.exact)) {
            uint64_t nValue = 0;
            const bool bValue =
                NSVQGetSampleBits(static_cast<nsvq_type>(sBand.type), CPLAtof(aosValues[i]), nValue);
            if (sBand.has_nodata && !(bValue && nValue == nBits))
                sBand.exact = true; // only so both are kept
            sBand.has_nodata = bValue;
            nBits = nValue;
        }
        if (!sBand.has_nodata && HasFractionalNoData(poBand)) sBand.exact = true;
        sBand.nodata = sBand.has_nodata ? nBits : 0;
    }
    return asBands;
}

/* Whether what was asked for can be done: there is no lossy coding for most types. */
static bool CheckCoding(const std::vector<nsvq_band> &asBands, const NSVQCreateOptions &oOptions,
                        int bStrict)
{
    if (!oOptions.bLossy) return true;
    for (const nsvq_band &sBand : asBands) {
        if (HasLossyCoding(sBand.type)) continue;
        const char *pszType = GDALGetDataTypeName(NSVQToGDALType(static_cast<nsvq_type>(sBand.type)));
        CPLError(bStrict ? CE_Failure : CE_Warning, CPLE_NotSupported,
                 "there is no lossy coding of %s%s", pszType,
                 bStrict ? ": leave QUALITY, RATE and PSNR out, or set LOSSLESS=YES" : ": such bands are lossless");
        return !bStrict;
    }
    return true;
}

/* ---- callbacks: C++ exceptions must not leave them, so nothing here allocates ---- */

static int ReadSource(void *pUser, const nsvq_pull *psPull)
{
    Source *poSource = static_cast<Source *>(pUser);
    const int nW = static_cast<int>(psPull->w), nH = static_cast<int>(psPull->h);
    const nsvq_type eType = static_cast<nsvq_type>(poSource->pasBands[psPull->first].type);
    return poSource->poDS->RasterIO(
               GF_Read, static_cast<int>(psPull->x), static_cast<int>(psPull->y), nW, nH,
               psPull->pixels, nW, nH, NSVQToGDALType(eType), static_cast<int>(psPull->n),
               poSource->anBandMap.data() + psPull->first, psPull->pixel_stride,
               psPull->row_stride, psPull->band_stride, nullptr) == CE_None
               ? 0
               : -1;
}

static int ReadSourceMask(void *pUser, const nsvq_pull *psPull)
{
    Source *poSource = static_cast<Source *>(pUser);
    const int nW = static_cast<int>(psPull->w), nH = static_cast<int>(psPull->h);
    if (poSource->poDS->GetRasterBand(static_cast<int>(psPull->first) + 1)->GetMaskBand()->RasterIO(
            GF_Read, static_cast<int>(psPull->x), static_cast<int>(psPull->y), nW, nH,
            psPull->pixels, nW, nH, GDT_Byte, psPull->pixel_stride, psPull->row_stride,
            nullptr) != CE_None)
        return -1;
    for (int nRow = 0; nRow < nH; nRow++) {
        GByte *pabyRow = static_cast<GByte *>(psPull->pixels) + nRow * psPull->row_stride;
        for (int i = 0; i < nW; i++) {
            GByte &nValue = pabyRow[i * psPull->pixel_stride];
            poSource->bGreyMask |= nValue != 0 && nValue != 255;
            nValue = nValue ? 255 : 0;
        }
    }
    return 0;
}

static int ReportProgress(void *pUser, double dfDone)
{
    const Source *poSource = static_cast<Source *>(pUser);
    return poSource->pfnProgress(dfDone, "", poSource->pProgressData);
}

/* ---- the file ---- */

/* Small files and those at the ends of the scale of qualities miss what was asked for. */
static void WarnOfMiss(const NSVQCreateOptions &oOptions, double dfReached)
{
    if (oOptions.dfPSNR > 0 && std::fabs(dfReached - oOptions.dfPSNR) > 0.1)
        CPLError(CE_Warning, CPLE_AppDefined, "PSNR=%g: the nearest that there is has %.2f dB",
                 oOptions.dfPSNR, dfReached);
    if (oOptions.dfRate > 0 && std::fabs(dfReached / oOptions.dfRate - 1) > 0.1)
        CPLError(CE_Warning, CPLE_AppDefined, "RATE=%g: the nearest that there is has %.4g bits per pixel",
                 oOptions.dfRate, dfReached);
}

static bool Encode(const char *pszTemporary, const char *pszFilename, const nsvq_raster &sRaster,
                   const NSVQCreateOptions &oOptions)
{
    VSILFILE *fp = VSIFOpenExL(pszTemporary, "wb", TRUE);
    if (!fp) {
        CPLError(CE_Failure, CPLE_OpenFailed, "cannot create %s: %s", pszFilename,
                 VSIGetLastErrorMsg());
        return false;
    }
    NSVQSink oSink(fp);
    const nsvq_sink sSink = oSink.Get();
    nsvq_encode_options sOptions{};
    sOptions.struct_size = sizeof(sOptions);
    sOptions.model = oOptions.psModel.get();
    sOptions.family = oOptions.nFamily;
    sOptions.quality = oOptions.dfQuality;
    sOptions.overview_quality = oOptions.dfOverviewQuality;
    sOptions.effort = oOptions.nEffort;
    sOptions.rate = oOptions.dfRate;
    sOptions.psnr = oOptions.dfPSNR;
    sOptions.n_threads = oOptions.nThreads;
    sOptions.embed = oOptions.nEmbed;
    sOptions.n_levels = oOptions.bOverviews ? 0 : 1;
    double dfReached = 0;
    sOptions.reached = &dfReached;
    nsvq_error sError{UINT64_MAX, ""};
    const nsvq_status eStatus = nsvq_encode(&sSink, &sRaster, &sOptions, nullptr, &sError);
    if (eStatus == NSVQ_E_CANCELLED) {
        CPLError(CE_Failure, CPLE_UserInterrupt, "User terminated");
    } else if (eStatus != NSVQ_OK) {
        NSVQError(eStatus, sError, pszFilename);
    } else if (!oSink.Close()) {
        CPLError(CE_Failure, CPLE_FileIO, "%s: cannot write all of the file", pszFilename);
        return false;
    } else if (dfReached > 0) {
        WarnOfMiss(oOptions, dfReached);
    }
    return eStatus == NSVQ_OK;
}

/* Object stores and archives take bytes in one sequence and keep nothing until the last. */
static bool IsUpload(const char *pszFilename)
{
    if (STARTS_WITH(pszFilename, "/vsigzip/") || STARTS_WITH(pszFilename, "/vsizip/")) return true;
    return !VSISupportsRandomWrite(pszFilename, FALSE) &&
           VSISupportsSequentialWrite(pszFilename, FALSE);
}

std::string NSVQGetTemporaryName(const char *pszFilename)
{
    static std::atomic<int> nCounter{0};
    constexpr size_t nMaxName = 200; // with the ending below it must not get longer than names can be
    if (IsUpload(pszFilename)) return CPLGenerateTempFilename("nsvq");
    const size_t nFolder = strlen(pszFilename) - strlen(CPLGetFilename(pszFilename));
    std::string osName = std::string(pszFilename).substr(0, nFolder + nMaxName);
    if (osName.size() < strlen(pszFilename)) // not within a character of several bytes
        while ((static_cast<unsigned char>(pszFilename[osName.size()]) & 0xC0) == 0x80) osName.pop_back();
    return osName +
           CPLSPrintf(".%d-%d.tmp", static_cast<int>(CPLGetCurrentProcessID()), nCounter++);
}

void NSVQDeleteTemporary(const std::string &osName)
{
    for (const char *pszEnding : {"", ".aux.xml", ".msk", ".ovr"}) {
        const std::string osFile = osName + pszEnding;
        VSIStatBufL sStat;
        if (VSIStatExL(osFile.c_str(), &sStat, VSI_STAT_EXISTS_FLAG) == 0)
            VSIUnlink(osFile.c_str());
    }
}

/* The target gets its name only when it is whole; object stores get a copy of a local file. */
static bool EncodeToTarget(const char *pszFilename, const nsvq_raster &sRaster,
                           const NSVQCreateOptions &oOptions)
{
    const bool bUpload = IsUpload(pszFilename);
    const std::string osTemporary = NSVQGetTemporaryName(pszFilename);

    bool bDone = Encode(osTemporary.c_str(), pszFilename, sRaster, oOptions);
    if (bDone) {
        bDone = (bUpload ? CPLCopyFile(pszFilename, osTemporary.c_str())
                         : VSIRename(osTemporary.c_str(), pszFilename)) == 0;
        if (!bDone)
            CPLError(CE_Failure, CPLE_FileIO, "cannot %s %s to %s", bUpload ? "copy" : "rename",
                     osTemporary.c_str(), pszFilename);
    }
    if (bUpload || !bDone) VSIUnlink(osTemporary.c_str());
    return bDone;
}

/* Opens what was written. What the file does not hold goes the way of other formats: into sidecar
 * files. */
static GDALDataset *Finish(const char *pszFilename, GDALDataset *poSrcDS,
                           const NSVQCreateOptions &oOptions, int nLeftToPam, int bStrict)
{
    CPLStringList aosOpenOptions;
    aosOpenOptions.SetNameValue("NUM_THREADS", CPLSPrintf("%d", oOptions.nThreads));
    GDALOpenInfo oOpenInfo(pszFilename, GDAL_OF_RASTER);
    oOpenInfo.papszOpenOptions = aosOpenOptions.List();
    std::unique_ptr<GDALDataset> poDS(
        NSVQDataset::OpenWithModel(&oOpenInfo, oOptions.psModel.get()));

    bool bDone = poDS != nullptr;
    if (bDone && nLeftToPam)
        bDone = static_cast<NSVQDataset *>(poDS.get())
                    ->CloneInfo(poSrcDS, nLeftToPam | GCIF_ONLY_IF_MISSING) == CE_None;
    if (poDS && (bDone || !bStrict)) return poDS.release();
    poDS.reset();
    GDALDriver::QuietDelete(pszFilename);
    return nullptr;
}

GDALDataset *NSVQDataset::CreateCopy(const char *pszFilename, GDALDataset *poSrcDS, int bStrict,
                                     NSVQ_CSL papszOptions, GDALProgressFunc pfnProgress,
                                     void *pProgressData)
{
    if (!pfnProgress) pfnProgress = GDALDummyProgress;
    NSVQCreateOptions oOptions;
    if (!CheckSource(pszFilename, poSrcDS) || !NSVQParseOptions(papszOptions, oOptions))
        return nullptr;
    if (!pfnProgress(0, nullptr, pProgressData)) {
        CPLError(CE_Failure, CPLE_UserInterrupt, "User terminated");
        return nullptr;
    }

    const int nBands = poSrcDS->GetRasterCount();
    const std::vector<nsvq_band> asBands = DescribeBands(poSrcDS, oOptions);
    if (!CheckCoding(asBands, oOptions, bStrict)) return nullptr;
    NSVQMetaRecords oMeta;
    int nLeftToPam = NSVQAddDatasetRecords(oMeta, poSrcDS);
    Source oSource{poSrcDS, {}, asBands.data(), pfnProgress, pProgressData, false};
    bool bBandMasks = false;
    nsvq_raster sRaster{};
    for (int i = 1; i <= nBands; i++) {
        GDALRasterBand *poBand = poSrcDS->GetRasterBand(i);
        nLeftToPam |= NSVQAddBandRecords(oMeta, i, poBand, asBands[i - 1].exact);
        oSource.anBandMap.push_back(i);
        bBandMasks |= poBand->GetMaskFlags() == 0;
        if (poBand->GetColorInterpretation() == GCI_AlphaBand) {
            sRaster.has_alpha = 1;
            sRaster.alpha = static_cast<uint32_t>(i - 1);
        }
    }

    sRaster.struct_size = sizeof(sRaster);
    sRaster.user = &oSource;
    sRaster.width = static_cast<uint32_t>(poSrcDS->GetRasterXSize());
    sRaster.height = static_cast<uint32_t>(poSrcDS->GetRasterYSize());
    sRaster.n_bands = static_cast<uint32_t>(nBands);
    sRaster.bands = asBands.data();
    sRaster.meta = oMeta.Get().data();
    sRaster.n_meta = static_cast<uint32_t>(oMeta.Get().size());
    if (bBandMasks)
        sRaster.has_mask = 2;
    else
        sRaster.has_mask = poSrcDS->GetRasterBand(1)->GetMaskFlags() == GMF_PER_DATASET;
    sRaster.read = ReadSource;
    sRaster.read_mask = ReadSourceMask;
    sRaster.progress = ReportProgress;
    if (!EncodeToTarget(pszFilename, sRaster, oOptions)) return nullptr;
    if (oSource.bGreyMask)
        CPLError(CE_Warning, CPLE_AppDefined, "masks say yes or no: values from 1 to 254 have become 255");
    return Finish(pszFilename, poSrcDS, oOptions, nLeftToPam, bStrict);
}
