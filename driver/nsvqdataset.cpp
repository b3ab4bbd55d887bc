/* nsvqdataset.cpp - reading: Identify, Open, levels, pixels.
 *
 * Pixels take one of two ways. Windows that consist mostly of whole blocks go straight from the
 * library into the caller's buffer. All else goes through GDAL's block cache, so that reading line
 * by line or band by band decodes a block once; blocks that such a request will need are decoded
 * together beforehand, in parallel. The library's threads never touch the block cache, and no lock
 * of ours is held while GDAL's is. */
#include "nsvqdataset.h"

#include <algorithm>
#include <climits>
#include <cstring>
#include <numeric>

constexpr size_t kMaxTemporaryBytes = 256 << 20; // of a direct read into another type
constexpr uint64_t kRemoteGap = 128 << 10;       // costs less than one more request
constexpr int kBlocksPerRead = 64;               // enough to keep many threads busy

struct VSIReleaser {
    void operator()(void *p) const
    {
        VSIFree(p);
    }
};
using ByteBuffer = std::unique_ptr<GByte, VSIReleaser>;

static ByteBuffer AllocatePixels(size_t nCount, size_t nWidth, size_t nHeight)
{
    return ByteBuffer(static_cast<GByte *>(VSI_MALLOC3_VERBOSE(nCount, nWidth, nHeight)));
}

/* ---- shared with the writer ---- */

void NSVQError(nsvq_status eStatus, const nsvq_error &sError, const char *pszDoing)
{
    CPLErrorNum nNum = CPLE_AppDefined;
    if (eStatus == NSVQ_E_NOMEM) nNum = CPLE_OutOfMemory;
    if (eStatus == NSVQ_E_IO || eStatus == NSVQ_E_CORRUPT) nNum = CPLE_FileIO;
    if (eStatus == NSVQ_E_UNSUPPORTED) nNum = CPLE_NotSupported;
    if (eStatus == NSVQ_E_NO_MODEL) nNum = CPLE_OpenFailed;
    if (eStatus == NSVQ_E_CANCELLED) nNum = CPLE_UserInterrupt;

    const char *pszText = sError.text[0] ? sError.text : nsvq_status_text(eStatus);
    if (sError.offset != UINT64_MAX)
        CPLError(CE_Failure, nNum, "%s: %s (at byte " CPL_FRMT_GUIB ")", pszDoing, pszText,
                 static_cast<GUIntBig>(sError.offset));
    else
        CPLError(CE_Failure, nNum, "%s: %s", pszDoing, pszText);
}

static int ParseThreads(const char *pszValue) // 0: not a number of threads
{
    if (EQUAL(pszValue, "ALL_CPUS")) return CPLGetNumCPUs();
    if (CPLGetValueType(pszValue) != CPL_VALUE_INTEGER) return 0;
    const GIntBig nThreads = CPLAtoGIntBig(pszValue);
    return nThreads >= 1 && nThreads <= 1024 ? static_cast<int>(nThreads) : 0;
}

bool NSVQGetNumThreads(CSLConstList papszOptions, int &nThreads)
{
    const char *pszOption = CSLFetchNameValue(papszOptions, "NUM_THREADS");
    if (pszOption) {
        nThreads = ParseThreads(pszOption);
        if (nThreads) return true;
        CPLError(CE_Failure, CPLE_IllegalArg,
                 "NUM_THREADS=%s: must be a number from 1 to 1024 or ALL_CPUS", pszOption);
        return false;
    }
    const char *pszConfig = CPLGetConfigOption("GDAL_NUM_THREADS", "ALL_CPUS");
    nThreads = ParseThreads(pszConfig);
    if (nThreads == 0) {
        CPLError(CE_Warning, CPLE_IllegalArg, "GDAL_NUM_THREADS=%s is ignored", pszConfig);
        nThreads = 1;
    }
    return true;
}

bool NSVQIsOwnDomain(const char *pszDomain)
{
    static const char *const apszOwn[] = {"IMAGE_STRUCTURE", "NSVQ", "DERIVED_SUBDATASETS",
                                          "SUBDATASETS", "OVERVIEWS"};
    for (const char *pszOwn : apszOwn)
        if (EQUAL(pszDomain, pszOwn)) return true;
    return false;
}

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

/* ---- opening ---- */

NSVQDataset::NSVQDataset() = default;

NSVQDataset::~NSVQDataset()
{
    FlushCache(true);
    if (!m_asGCPs.empty()) GDALDeinitGCPs(static_cast<int>(m_asGCPs.size()), m_asGCPs.data());
}

int NSVQDataset::Identify(GDALOpenInfo *poOpenInfo)
{
    return poOpenInfo->fpL != nullptr && poOpenInfo->nHeaderBytes > 0 &&
           nsvq_identify(poOpenInfo->pabyHeader, static_cast<size_t>(poOpenInfo->nHeaderBytes));
}

GDALDataset *NSVQDataset::Open(GDALOpenInfo *poOpenInfo)
{
    return OpenWithModel(poOpenInfo, nullptr);
}

GDALDataset *NSVQDataset::OpenWithModel(GDALOpenInfo *poOpenInfo, const nsvq_model *psModel)
{
    if (!Identify(poOpenInfo)) return nullptr;
    if (poOpenInfo->eAccess == GA_Update) {
        CPLError(CE_Failure, CPLE_NotSupported,
                 "NSVQ files cannot be opened in update mode; copy to another format first");
        return nullptr;
    }
    auto poDS = std::make_unique<NSVQDataset>();
    if (!poDS->OpenFile(poOpenInfo, psModel)) return nullptr;

    poDS->SetDescription(poOpenInfo->pszFilename);
    poDS->TryLoadXML(poOpenInfo->GetSiblingFiles());
    poDS->SetStructureMetadata(); // after the .aux.xml, which may be of an older file
    poDS->oOvManager.Initialize(poDS.get(), poOpenInfo->pszFilename, poOpenInfo->GetSiblingFiles());
    return poDS.release();
}

bool NSVQDataset::OpenFile(GDALOpenInfo *poOpenInfo, const nsvq_model *psModel)
{
    if (!NSVQGetNumThreads(poOpenInfo->papszOpenOptions, m_nThreads)) return false;

    const char *pszOnError = CSLFetchNameValueDef(poOpenInfo->papszOpenOptions, "ON_ERROR", "FAIL");
    m_bTolerant = EQUAL(pszOnError, "NODATA");
    if (!m_bTolerant && !EQUAL(pszOnError, "FAIL")) {
        CPLError(CE_Failure, CPLE_IllegalArg, "ON_ERROR=%s: must be FAIL or NODATA", pszOnError);
        return false;
    }
    m_poSource = std::make_unique<NSVQSource>(poOpenInfo->fpL, poOpenInfo->pszFilename);
    poOpenInfo->fpL = nullptr;
    nsvq_source sSource{};
    if (!m_poSource->Get(sSource)) {
        CPLError(CE_Failure, CPLE_FileIO, "%s: cannot seek", poOpenInfo->pszFilename);
        return false;
    }

    const std::string osModelPath = CPLGetConfigOption("NSVQ_MODEL_PATH", "");
    nsvq_open_options sOptions{};
    sOptions.struct_size = sizeof(sOptions);
    sOptions.model = psModel;
    sOptions.model_path = osModelPath.empty() ? nullptr : osModelPath.c_str();
    // Beside GDAL's cache of pixels; a mosaic opens hundreds of files.
    sOptions.max_cache_bytes = std::clamp<GUIntBig>(GDALGetCacheMax64() / 16, 1 << 20, 64 << 20);
    if (!m_poSource->IsLocal()) sOptions.max_gap = kRemoteGap;
    nsvq_error sError{UINT64_MAX, ""};
    nsvq_file *psFile = nullptr;
    const nsvq_status eStatus = nsvq_open(&psFile, &sSource, &sOptions, &sError);
    if (eStatus != NSVQ_OK) {
        NSVQError(eStatus, sError, poOpenInfo->pszFilename);
        return false;
    }
    m_psFile.reset(psFile);
    m_sInfo.struct_size = sizeof(m_sInfo);
    nsvq_get_info(psFile, &m_sInfo);

    if (m_sInfo.width > INT_MAX || m_sInfo.height > INT_MAX || m_sInfo.n_bands > INT_MAX) {
        CPLError(CE_Failure, CPLE_NotSupported, "%s: more pixels or bands than GDAL can address",
                 poOpenInfo->pszFilename);
        return false;
    }
    nRasterXSize = static_cast<int>(m_sInfo.width);
    nRasterYSize = static_cast<int>(m_sInfo.height);
    if (!GDALCheckDatasetDimensions(nRasterXSize, nRasterYSize) ||
        !GDALCheckBandCount(static_cast<int>(m_sInfo.n_bands), FALSE))
        return false;

    LoadGroups();
    LoadMetadata();
    return true;
}

/* The dataset of a level, with all bands, as GDAL wants it for reading several bands at once. */
NSVQDataset *NSVQDataset::GetLevel(int nLevel)
{
    if (m_poBase) return m_poBase->GetLevel(nLevel);
    if (nLevel == 0) return this;
    m_apoLevels.resize(m_sInfo.n_levels);
    std::unique_ptr<NSVQDataset> &poLevel = m_apoLevels[nLevel];
    if (!poLevel) {
        poLevel = std::make_unique<NSVQDataset>();
        poLevel->m_poBase = this;
        poLevel->m_nLevel = nLevel;
        poLevel->m_sInfo = m_sInfo;
        poLevel->m_nThreads = m_nThreads;
        poLevel->nRasterXSize = ((nRasterXSize - 1) >> nLevel) + 1;
        poLevel->nRasterYSize = ((nRasterYSize - 1) >> nLevel) + 1;
        poLevel->nPamFlags |= GPF_NOSAVE;
        poLevel->SetDescription(GetDescription());
        poLevel->LoadGroups();
        poLevel->SetStructureMetadata();
    }
    return poLevel.get();
}

/* Whoever builds external overviews wants those, not the file's. */
CPLErr NSVQDataset::IBuildOverviews(const char *pszResampling, int nOverviews,
                                    const int *panOverviews, int nListBands,
                                    const int *panBands, GDALProgressFunc pfnProgress,
                                    void *pProgressData, CSLConstList papszOptions)
{
    m_bHideLevels = true;
    const CPLErr eErr =
        GDALPamDataset::IBuildOverviews(pszResampling, nOverviews, panOverviews, nListBands,
                                        panBands, pfnProgress, pProgressData, papszOptions);
    m_bHideLevels = false;
    return eErr;
}

/* Of bits of 16 or 32. */
static double SampleValue(nsvq_type eType, uint32_t nBits)
{
    float fValue;
    memcpy(&fValue, &nBits, sizeof(fValue));
    if (eType == NSVQ_TYPE_F32) return static_cast<double>(fValue);
    return eType == NSVQ_TYPE_S16 ? static_cast<int16_t>(nBits) : static_cast<uint16_t>(nBits);
}

void NSVQDataset::LoadGroups()
{
    const nsvq_file *psFile = GetLevel(0)->m_psFile.get();
    for (uint32_t i = 0; i < m_sInfo.n_groups; i++) {
        nsvq_group sGroup{};
        sGroup.struct_size = sizeof(sGroup);
        if (nsvq_group_get(psFile, i, &sGroup) != NSVQ_OK) break;
        m_aoGroups.push_back({sGroup.coding, sGroup.type, static_cast<int>(sGroup.first_band),
                              static_cast<int>(sGroup.n_bands)});
        for (uint32_t j = 0; j < sGroup.n_bands; j++) {
            const int nBandIn = static_cast<int>(sGroup.first_band + j) + 1;
            SetBand(nBandIn, new NSVQBand(this, nBandIn, static_cast<int>(i)));
            if (sGroup.coding == NSVQ_CODING_EXACT || sGroup.type == NSVQ_TYPE_U8) continue;
            GetRasterBand(nBandIn)->GDALMajorObject::SetMetadataItem(
                "RANGE",
                CPLSPrintf("%.9g to %.9g", SampleValue(sGroup.type, sGroup.low[j]),
                           SampleValue(sGroup.type, sGroup.high[j])),
                "NSVQ");
        }
    }
    const int nMasks = m_sInfo.has_mask == 2 ? nBands : m_sInfo.has_mask;
    for (int i = 0; i < nMasks; i++)
        m_apoMasks.push_back(std::make_unique<NSVQMaskBand>(this, i));
}

/* COMPRESSION answers when asked for, but is not listed: rasterio fails on a listed compression that
 * it does not know. */
const char *NSVQDataset::GetMetadataItem(const char *pszName, const char *pszDomain)
{
    if (pszName && EQUAL(pszName, "COMPRESSION") && pszDomain && EQUAL(pszDomain, "IMAGE_STRUCTURE"))
        return "NSVQ";
    return GDALPamDataset::GetMetadataItem(pszName, pszDomain);
}

void NSVQDataset::SetStructureMetadata()
{
    static const char *const apszCoding[] = {"", "LOSSY3", "LOSSY1", "EXACT"};
    const char *pszReversibility = "LOSSLESS";
    for (const NSVQGroup &oGroup : m_aoGroups) {
        if (oGroup.eCoding != NSVQ_CODING_EXACT) pszReversibility = "LOSSY";
        for (int i = 0; i < oGroup.nCount; i++) {
            GDALRasterBand *poBand = GetRasterBand(oGroup.nFirst + i + 1);
            poBand->GDALMajorObject::SetMetadataItem("CODING", apszCoding[oGroup.eCoding], "NSVQ");
            if (oGroup.eType == NSVQ_TYPE_S8 && poBand->GetRasterDataType() == GDT_Byte)
                poBand->GDALMajorObject::SetMetadataItem("PIXELTYPE", "SIGNEDBYTE",
                                                         "IMAGE_STRUCTURE");
        }
    }
    GDALMajorObject::SetMetadataItem("COMPRESSION_REVERSIBILITY", pszReversibility,
                                     "IMAGE_STRUCTURE");
    // One decode yields several bands: GDAL then reads all bands of a block before the next block.
    GDALMajorObject::SetMetadataItem("INTERLEAVE", "PIXEL", "IMAGE_STRUCTURE");

    if (m_sInfo.model_id != 0) {
        GDALMajorObject::SetMetadataItem("MODEL", m_sInfo.model_name, "NSVQ");
        GDALMajorObject::SetMetadataItem("MODEL_ID",
                                         CPLSPrintf("%016" CPL_FRMT_GB_WITHOUT_PREFIX "x",
                                                    static_cast<GUIntBig>(m_sInfo.model_id)),
                                         "NSVQ");
        GDALMajorObject::SetMetadataItem("MODEL_EMBEDDED", m_sInfo.embedded ? "YES" : "NO", "NSVQ");
    }
    if (m_sInfo.quality != 0)
        GDALMajorObject::SetMetadataItem("QUALITY", CPLSPrintf("%.8g", m_sInfo.quality), "NSVQ");
}

/* ---- pixels ---- */

nsvq_decoder *NSVQDataset::GetDecoder()
{
    if (m_poBase) return m_poBase->GetDecoder();
    if (!m_psDecoder) {
        nsvq_error sError{UINT64_MAX, ""};
        nsvq_decoder *psDecoder = nullptr;
        const nsvq_status eStatus =
            nsvq_decoder_create(&psDecoder, m_psFile.get(), m_nThreads, &sError);
        if (eStatus != NSVQ_OK) NSVQError(eStatus, sError, GetDescription());
        m_psDecoder.reset(psDecoder);
    }
    return m_psDecoder.get();
}

bool NSVQDataset::ReadPixels(nsvq_window sWindow, bool bMask, bool bQuiet)
{
    NSVQDataset *poBase = GetLevel(0);
    nsvq_decoder *psDecoder = GetDecoder();
    if (!psDecoder) return false;
    nsvq_error sError{UINT64_MAX, ""};
    uint32_t nFilled = 0;
    if (poBase->m_bTolerant) sWindow.filled = &nFilled;
    const nsvq_status eStatus = bMask ? nsvq_read_mask(psDecoder, &sWindow, &sError)
                                      : nsvq_read(psDecoder, &sWindow, &sError);
    if (eStatus != NSVQ_OK && !bQuiet) NSVQError(eStatus, sError, GetDescription());
    if (nFilled > 0 && !poBase->m_bToldOfDamage) {
        poBase->m_bToldOfDamage = true;
        CPLError(CE_Warning, CPLE_FileIO, "%s: %s (at byte " CPL_FRMT_GUIB "): nodata instead",
                 GetDescription(), sError.text, static_cast<GUIntBig>(sError.offset));
    }
    return eStatus == NSVQ_OK;
}

/* Pixels as the library counts them, without the bands and the buffer. */
nsvq_window NSVQDataset::MakeWindow(int nX, int nY, int nW, int nH) const
{
    nsvq_window sWindow{};
    sWindow.struct_size = sizeof(sWindow);
    sWindow.level = static_cast<uint32_t>(m_nLevel);
    sWindow.x = static_cast<uint32_t>(nX);
    sWindow.y = static_cast<uint32_t>(nY);
    sWindow.w = static_cast<uint32_t>(nW);
    sWindow.h = static_cast<uint32_t>(nH);
    sWindow.pixel_stride = 1;
    return sWindow;
}

static bool IsCached(GDALRasterBand *poBand, int nBX, int nBY)
{
    GDALRasterBlock *poBlock = poBand->TryGetLockedBlockRef(nBX, nBY);
    if (poBlock) poBlock->DropLock();
    return poBlock != nullptr;
}

/* Decodes blocks nBX0 .. nBX1 - 1 of block row nBY at once, all bands of a group, and puts them
 * into the block cache, if it has room for them. Where pOwnBlock is given, the first block of
 * nOwnBand goes there instead: GDAL is loading it. */
CPLErr NSVQDataset::ReadBlocks(int iGroup, int nBY, int nBX0, int nBX1, bool bQuiet, int nOwnBand,
                               void *pOwnBlock)
{
    const NSVQGroup &oGroup = m_aoGroups[iGroup];
    const int nBlock = static_cast<int>(m_sInfo.block_size);
    const int nX = nBX0 * nBlock, nY = nBY * nBlock;
    const int nW = std::min(nRasterXSize - nX, (nBX1 - nBX0) * nBlock);
    const int nH = std::min(nRasterYSize - nY, nBlock);
    const size_t nBytes = nsvq_type_bytes(oGroup.eType);
    const size_t nRowBytes = nW * nBytes, nBandBytes = nRowBytes * nH;
    const GIntBig nGroupBytes = GIntBig(nBlock) * nBlock * nBytes * oGroup.nCount * (nBX1 - nBX0);

    // All bands of a group when the cache holds them; else the library's own cache has to do.
    std::vector<uint32_t> anBands;
    if (pOwnBlock && nGroupBytes > GDALGetCacheMax64() / 4) {
        anBands.push_back(static_cast<uint32_t>(nOwnBand - 1));
    } else {
        anBands.resize(oGroup.nCount);
        std::iota(anBands.begin(), anBands.end(), static_cast<uint32_t>(oGroup.nFirst));
    }
    const ByteBuffer pabyPixels = AllocatePixels(anBands.size(), nRowBytes, nH);
    if (!pabyPixels) return CE_Failure;

    nsvq_window sWindow = MakeWindow(nX, nY, nW, nH);
    sWindow.n_bands = static_cast<uint32_t>(anBands.size());
    sWindow.bands = anBands.data();
    sWindow.pixels = pabyPixels.get();
    sWindow.pixel_stride = static_cast<ptrdiff_t>(nBytes);
    sWindow.row_stride = static_cast<ptrdiff_t>(nRowBytes);
    sWindow.band_stride = static_cast<ptrdiff_t>(nBandBytes);
    if (!ReadPixels(sWindow, false, bQuiet)) return CE_Failure;

    for (int nBX = nBX0; nBX < nBX1; nBX++) {
        const int nCopyW = std::min(nBlock, nRasterXSize - nBX * nBlock);
        for (size_t i = 0; i < anBands.size(); i++) {
            GDALRasterBand *poBand = GetRasterBand(static_cast<int>(anBands[i]) + 1);
            GDALRasterBlock *poBlock = nullptr;
            GByte *pabyOut = static_cast<GByte *>(pOwnBlock);
            if (!pOwnBlock || poBand->GetBand() != nOwnBand || nBX != nBX0) {
                if (IsCached(poBand, nBX, nBY)) continue;
                poBlock = poBand->GetLockedBlockRef(nBX, nBY, TRUE);
                if (!poBlock) return CE_Failure;
                pabyOut = static_cast<GByte *>(poBlock->GetDataRef());
            }
            const GByte *pabyIn = pabyPixels.get() + i * nBandBytes + (nBX - nBX0) * nBlock * nBytes;
            if (nCopyW < nBlock || nH < nBlock)
                memset(pabyOut, 0, static_cast<size_t>(nBlock) * nBlock * nBytes);
            for (int nRow = 0; nRow < nH; nRow++)
                memcpy(pabyOut + static_cast<size_t>(nRow) * nBlock * nBytes,
                       pabyIn + static_cast<size_t>(nRow) * nRowBytes, nCopyW * nBytes);
            if (poBlock) poBlock->DropLock();
        }
    }
    return CE_None;
}

/* The type that the bands have in common, or GDT_Unknown. */
GDALDataType NSVQDataset::GetTypeOf(int nBandCount, const int *panBandMap)
{
    const GDALDataType eType = GetRasterBand(panBandMap[0])->GetRasterDataType();
    for (int i = 1; i < nBandCount; i++)
        if (GetRasterBand(panBandMap[i])->GetRasterDataType() != eType) return GDT_Unknown;
    return eType;
}

/* Whether a window is better decoded straight into the caller's buffer: it has more than one block,
 * at least half of the pixels of its blocks are asked for, and all bands of every group that it
 * touches. */
bool NSVQDataset::IsDirect(const Window &oWin, int nBandCount, const int *panBandMap,
                           GDALDataType eBufType)
{
    const int nBlock = static_cast<int>(m_sInfo.block_size);
    const int nX0 = oWin.nX / nBlock * nBlock, nY0 = oWin.nY / nBlock * nBlock;
    const int nX1 = std::min<GIntBig>(nRasterXSize,
                                      (oWin.nX + oWin.nW - 1) / nBlock * GIntBig(nBlock) + nBlock);
    const int nY1 = std::min<GIntBig>(nRasterYSize,
                                      (oWin.nY + oWin.nH - 1) / nBlock * GIntBig(nBlock) + nBlock);
    if (nX1 - nX0 <= nBlock && nY1 - nY0 <= nBlock) return false;
    if (2 * GIntBig(oWin.nW) * oWin.nH < GIntBig(nX1 - nX0) * (nY1 - nY0)) return false;
    const GDALDataType eType = GetTypeOf(nBandCount, panBandMap);
    if (eType == GDT_Unknown) return false;
    if (eBufType != eType && static_cast<size_t>(nBandCount) * oWin.nW >
                                 kMaxTemporaryBytes / nBlock / GDALGetDataTypeSizeBytes(eType))
        return false;

    std::vector<bool> abAsked(nBands);
    for (int i = 0; i < nBandCount; i++) abAsked[panBandMap[i] - 1] = true;
    for (const NSVQGroup &oGroup : m_aoGroups) {
        const auto oFirst = abAsked.begin() + oGroup.nFirst;
        const auto nAsked = std::count(oFirst, oFirst + oGroup.nCount, true);
        if (nAsked != 0 && nAsked != oGroup.nCount) return false;
    }
    return true;
}

CPLErr NSVQDataset::ReadDirect(const Window &oWin, int nBandCount, const int *panBandMap,
                               const Buffer &oBuffer, GDALRasterIOExtraArg *psExtraArg)
{
    std::vector<uint32_t> anBands(nBandCount);
    for (int i = 0; i < nBandCount; i++) anBands[i] = static_cast<uint32_t>(panBandMap[i] - 1);

    // In strips of whole block rows, for the sake of progress and of the temporary buffer.
    const int nBlock = static_cast<int>(m_sInfo.block_size);
    const int nBlocksX = oWin.nW / nBlock + 1;
    GIntBig nStrip =
        GIntBig(nBlock) * std::max(1, std::max(kBlocksPerRead, 8 * m_nThreads) / nBlocksX);
    const GDALDataType eType = GetTypeOf(nBandCount, panBandMap);
    const size_t nBytes = static_cast<size_t>(GDALGetDataTypeSizeBytes(eType));
    const bool bSame = oBuffer.eType == eType;
    ByteBuffer pabyTemporary;
    if (!bSame) {
        const GIntBig nMaxRows =
            static_cast<GIntBig>(kMaxTemporaryBytes / (size_t(nBandCount) * oWin.nW * nBytes));
        nStrip = std::min(nStrip, std::max<GIntBig>(nMaxRows / nBlock, 1) * nBlock);
        pabyTemporary =
            AllocatePixels(nBandCount, oWin.nW * nBytes, std::min<GIntBig>(nStrip, oWin.nH));
        if (!pabyTemporary) return CE_Failure;
    }

    int nRows = 0;
    for (int nDone = 0; nDone < oWin.nH; nDone += nRows) {
        const int nY = oWin.nY + nDone;
        const GIntBig nEnd = (nY / nBlock) * GIntBig(nBlock) + nStrip; // on the block grid
        nRows = static_cast<int>(
            std::min<GIntBig>(std::min<GIntBig>(nEnd - nY, nStrip), oWin.nH - nDone));

        GByte *pabyOut = oBuffer.pabyData + nDone * oBuffer.nLineSpace;
        nsvq_window sWindow = MakeWindow(oWin.nX, nY, oWin.nW, nRows);
        sWindow.n_bands = static_cast<uint32_t>(nBandCount);
        sWindow.bands = anBands.data();
        sWindow.pixels = bSame ? pabyOut : pabyTemporary.get();
        if (bSame) {
            sWindow.pixel_stride = static_cast<ptrdiff_t>(oBuffer.nPixelSpace);
            sWindow.row_stride = static_cast<ptrdiff_t>(oBuffer.nLineSpace);
            sWindow.band_stride = static_cast<ptrdiff_t>(oBuffer.nBandSpace);
        } else {
            sWindow.pixel_stride = static_cast<ptrdiff_t>(nBytes);
            sWindow.row_stride = static_cast<ptrdiff_t>(oWin.nW * nBytes);
            sWindow.band_stride = static_cast<ptrdiff_t>(nRows) * sWindow.row_stride;
        }
        if (!ReadPixels(sWindow, false, false)) return CE_Failure;
        for (int i = 0; !bSame && i < nBandCount; i++)
            for (int nRow = 0; nRow < nRows; nRow++)
                GDALCopyWords64(pabyTemporary.get() + i * sWindow.band_stride +
                                    nRow * sWindow.row_stride,
                                eType, static_cast<int>(nBytes),
                                pabyOut + i * oBuffer.nBandSpace + nRow * oBuffer.nLineSpace,
                                oBuffer.eType, static_cast<int>(oBuffer.nPixelSpace), oWin.nW);
        if (psExtraArg->pfnProgress && !psExtraArg->pfnProgress(double(nDone + nRows) / oWin.nH, "",
                                                                psExtraArg->pProgressData)) {
            CPLError(CE_Failure, CPLE_UserInterrupt, "User terminated");
            return CE_Failure;
        }
    }
    return CE_None;
}

/* Decodes together, in parallel, the blocks that a request will ask of the cache one by one. A mere
 * hint: it says nothing when it fails, the blocks are then asked for again. */
void NSVQDataset::Prefetch(const Window &oWin, int nBandCount, const int *panBandMap)
{
    const int nBlock = static_cast<int>(m_sInfo.block_size);
    const int nBX0 = oWin.nX / nBlock, nBX1 = (oWin.nX + oWin.nW - 1) / nBlock + 1;
    const int nBY0 = oWin.nY / nBlock, nBY1 = (oWin.nY + oWin.nH - 1) / nBlock + 1;
    const GIntBig nCount = GIntBig(nBX1 - nBX0) * (nBY1 - nBY0);
    if (m_nThreads < 2 || nCount < 2) return;

    std::vector<int> anGroups;
    std::vector<bool> abSeen(m_aoGroups.size());
    GIntBig nBytes = 0;
    for (int i = 0; i < nBandCount; i++) {
        const int iGroup = static_cast<NSVQBand *>(GetRasterBand(panBandMap[i]))->m_iGroup;
        if (abSeen[iGroup]) continue;
        abSeen[iGroup] = true;
        anGroups.push_back(iGroup);
        nBytes += nCount * nBlock * nBlock * m_aoGroups[iGroup].nCount *
                  static_cast<GIntBig>(nsvq_type_bytes(m_aoGroups[iGroup].eType));
        if (nBytes > GDALGetCacheMax64() / 2) return;
    }
    for (const int iGroup : anGroups) {
        GDALRasterBand *poBand = GetRasterBand(m_aoGroups[iGroup].nFirst + 1);
        for (int nBY = nBY0; nBY < nBY1; nBY++) {
            int nBX = nBX0;
            while (nBX < nBX1) { // a run of missing blocks, then one that is there
                const int nFrom = nBX;
                while (nBX < nBX1 && nBX - nFrom < kBlocksPerRead && !IsCached(poBand, nBX, nBY))
                    nBX++;
                if (nBX > nFrom)
                    ReadBlocks(iGroup, nBY, nFrom, nBX, true, 0, nullptr);
                else
                    nBX++;
            }
        }
    }
}

/* Whether a request wants pixels as they are, and its exact window is in whole pixels. */
static bool IsPlainRead(GDALRWFlag eRWFlag, int nXOff, int nYOff, int nXSize, int nYSize,
                        int nBufXSize, int nBufYSize, const GDALRasterIOExtraArg *psExtraArg)
{
    return eRWFlag == GF_Read && nBufXSize == nXSize && nBufYSize == nYSize &&
           (!psExtraArg->bFloatingPointWindowValidity ||
            (psExtraArg->dfXOff == nXOff && psExtraArg->dfYOff == nYOff &&
             psExtraArg->dfXSize == nXSize && psExtraArg->dfYSize == nYSize));
}

CPLErr NSVQDataset::IRasterIO(GDALRWFlag eRWFlag, int nXOff, int nYOff, int nXSize, int nYSize,
                              void *pData, int nBufXSize, int nBufYSize, GDALDataType eBufType,
                              int nBandCount, BANDMAP_TYPE panBandMap, GSpacing nPixelSpace,
                              GSpacing nLineSpace, GSpacing nBandSpace,
                              GDALRasterIOExtraArg *psExtraArg)
{
    if (IsPlainRead(eRWFlag, nXOff, nYOff, nXSize, nYSize, nBufXSize, nBufYSize, psExtraArg)) {
        const Window oWin{nXOff, nYOff, nXSize, nYSize};
        if (IsDirect(oWin, nBandCount, panBandMap, eBufType))
            return ReadDirect(
                oWin, nBandCount, panBandMap,
                {static_cast<GByte *>(pData), eBufType, nPixelSpace, nLineSpace, nBandSpace},
                psExtraArg);
        Prefetch(oWin, nBandCount, panBandMap);
    }
    return GDALPamDataset::IRasterIO(eRWFlag, nXOff, nYOff, nXSize, nYSize, pData, nBufXSize,
                                     nBufYSize, eBufType, nBandCount, panBandMap, nPixelSpace,
                                     nLineSpace, nBandSpace, psExtraArg);
}

/* ---- bands ---- */

NSVQBand::NSVQBand(NSVQDataset *poDSIn, int nBandIn, int iGroup) : m_iGroup(iGroup)
{
    poDS = poDSIn;
    nBand = nBandIn;
    eDataType = NSVQToGDALType(poDSIn->m_aoGroups[iGroup].eType);
    nBlockXSize = nBlockYSize = static_cast<int>(poDSIn->m_sInfo.block_size);
}

CPLErr NSVQBand::IReadBlock(int nBlockXOff, int nBlockYOff, void *pImage)
{
    const int nEnd = Owner()->GetAdvisedEnd(this, nBlockXOff, nBlockYOff);
    return Owner()->ReadBlocks(m_iGroup, nBlockYOff, nBlockXOff, nEnd, false, nBand, pImage);
}

CPLErr NSVQDataset::AdviseRead(int nXOff, int nYOff, int nXSize, int nYSize, int nBufXSize,
                               int nBufYSize, GDALDataType, int, int *, NSVQ_CSL)
{
    if (nBufXSize == nXSize && nBufYSize == nYSize) m_oAdvised = {nXOff, nYOff, nXSize, nYSize};
    return CE_None;
}

/* One past the last block that is worth reading together with this one. */
int NSVQDataset::GetAdvisedEnd(GDALRasterBand *poBand, int nBX, int nBY)
{
    const int nBlock = static_cast<int>(m_sInfo.block_size);
    const Window &oWin = m_oAdvised;
    int nEnd = nBX + 1;
    if (oWin.nW == 0 || nBY < oWin.nY / nBlock || nBY > (oWin.nY + oWin.nH - 1) / nBlock ||
        nBX < oWin.nX / nBlock)
        return nEnd;
    const NSVQGroup &oGroup = m_aoGroups[static_cast<NSVQBand *>(poBand)->m_iGroup];
    const GIntBig nBytes = GIntBig(nBlock) * nBlock * oGroup.nCount *
                           static_cast<GIntBig>(nsvq_type_bytes(oGroup.eType));
    const GIntBig nMost = std::min<GIntBig>(kBlocksPerRead, GDALGetCacheMax64() / 8 / nBytes);
    while (nEnd <= (oWin.nX + oWin.nW - 1) / nBlock && nEnd - nBX < nMost &&
           !IsCached(poBand, nEnd, nBY))
        nEnd++;
    return nEnd;
}

CPLErr NSVQBand::IRasterIO(GDALRWFlag eRWFlag, int nXOff, int nYOff, int nXSize, int nYSize,
                           void *pData, int nBufXSize, int nBufYSize, GDALDataType eBufType,
                           GSpacing nPixelSpace, GSpacing nLineSpace,
                           GDALRasterIOExtraArg *psExtraArg)
{
    if (IsPlainRead(eRWFlag, nXOff, nYOff, nXSize, nYSize, nBufXSize, nBufYSize, psExtraArg)) {
        const NSVQDataset::Window oWin{nXOff, nYOff, nXSize, nYSize};
        if (Owner()->IsDirect(oWin, 1, &nBand, eBufType))
            return Owner()->ReadDirect(
                oWin, 1, &nBand,
                {static_cast<GByte *>(pData), eBufType, nPixelSpace, nLineSpace, 0}, psExtraArg);
        Owner()->Prefetch(oWin, 1, &nBand);
    }
    return GDALPamRasterBand::IRasterIO(eRWFlag, nXOff, nYOff, nXSize, nYSize, pData, nBufXSize,
                                        nBufYSize, eBufType, nPixelSpace, nLineSpace, psExtraArg);
}

NSVQBand *NSVQBand::Base() const
{
    NSVQDataset *poBase = Owner()->m_poBase;
    return poBase ? static_cast<NSVQBand *>(poBase->GetRasterBand(nBand)) : nullptr;
}

/* Overviews that were built later, beside the file, come before its own. */
int NSVQBand::GetOverviewCount()
{
    const int nExternal = Base() ? 0 : GDALPamRasterBand::GetOverviewCount();
    return nExternal > 0 ? nExternal : Owner()->GetLevelCount();
}

GDALRasterBand *NSVQBand::GetOverview(int iLevel)
{
    if (!Base() && GDALPamRasterBand::GetOverviewCount() > 0)
        return GDALPamRasterBand::GetOverview(iLevel);
    if (iLevel < 0 || iLevel >= Owner()->GetLevelCount()) return nullptr;
    return Owner()->GetLevel(Owner()->m_nLevel + 1 + iLevel)->GetRasterBand(nBand);
}

GDALRasterBand *NSVQDataset::GetMaskOf(int nBandIn)
{
    if (m_apoMasks.empty()) return nullptr;
    return m_apoMasks[m_sInfo.has_mask == 2 ? nBandIn - 1 : 0].get();
}

GDALRasterBand *NSVQBand::GetMaskBand()
{
    GDALRasterBand *poMaskBand = Owner()->GetMaskOf(nBand);
    return poMaskBand ? poMaskBand : GDALPamRasterBand::GetMaskBand();
}

int NSVQBand::GetMaskFlags()
{
    if (!Owner()->GetMaskOf(nBand)) return GDALPamRasterBand::GetMaskFlags();
    return Owner()->m_sInfo.has_mask == 2 ? 0 : GMF_PER_DATASET;
}

NSVQMaskBand::NSVQMaskBand(NSVQDataset *poDSIn, int iMask) : m_iMask(iMask)
{
    poDS = poDSIn;
    nBand = 0;
    nRasterXSize = poDSIn->GetRasterXSize();
    nRasterYSize = poDSIn->GetRasterYSize();
    eDataType = GDT_Byte;
    nBlockXSize = nBlockYSize = static_cast<int>(poDSIn->m_sInfo.block_size);
}

CPLErr NSVQMaskBand::IReadBlock(int nBlockXOff, int nBlockYOff, void *pImage)
{
    NSVQDataset *poOwner = static_cast<NSVQDataset *>(poDS);
    const int nX = nBlockXOff * nBlockXSize, nY = nBlockYOff * nBlockYSize;
    const uint32_t nMask = static_cast<uint32_t>(m_iMask);
    nsvq_window sWindow =
        poOwner->MakeWindow(nX, nY, std::min(nBlockXSize, nRasterXSize - nX),
                            std::min(nBlockYSize, nRasterYSize - nY));
    sWindow.n_bands = 1;
    sWindow.bands = &nMask;
    sWindow.pixels = pImage;
    sWindow.row_stride = nBlockXSize;
    memset(pImage, 0, static_cast<size_t>(nBlockXSize) * nBlockYSize);
    return poOwner->ReadPixels(sWindow, true, false) ? CE_None : CE_Failure;
}

/* Windows of several blocks go straight into the caller's bytes, in few reads of the file. */
CPLErr NSVQMaskBand::IRasterIO(GDALRWFlag eRWFlag, int nXOff, int nYOff, int nXSize, int nYSize,
                               void *pData, int nBufXSize, int nBufYSize, GDALDataType eBufType,
                               GSpacing nPixelSpace, GSpacing nLineSpace,
                               GDALRasterIOExtraArg *psExtraArg)
{
    const bool bBlocks = nXSize > nBlockXSize || nYSize > nBlockYSize;
    if (bBlocks && eBufType == GDT_Byte &&
        IsPlainRead(eRWFlag, nXOff, nYOff, nXSize, nYSize, nBufXSize, nBufYSize, psExtraArg)) {
        NSVQDataset *poOwner = static_cast<NSVQDataset *>(poDS);
        const uint32_t nMask = static_cast<uint32_t>(m_iMask);
        nsvq_window sWindow = poOwner->MakeWindow(nXOff, nYOff, nXSize, nYSize);
        sWindow.n_bands = 1;
        sWindow.bands = &nMask;
        sWindow.pixels = pData;
        sWindow.pixel_stride = static_cast<ptrdiff_t>(nPixelSpace);
        sWindow.row_stride = static_cast<ptrdiff_t>(nLineSpace);
        return poOwner->ReadPixels(sWindow, true, false) ? CE_None : CE_Failure;
    }
    return GDALRasterBand::IRasterIO(eRWFlag, nXOff, nYOff, nXSize, nYSize, pData, nBufXSize,
                                     nBufYSize, eBufType, nPixelSpace, nLineSpace, psExtraArg);
}

int NSVQMaskBand::GetOverviewCount()
{
    return static_cast<NSVQDataset *>(poDS)->GetLevelCount();
}

GDALRasterBand *NSVQMaskBand::GetOverview(int iLevel)
{
    NSVQDataset *poOwner = static_cast<NSVQDataset *>(poDS);
    if (iLevel < 0 || iLevel >= poOwner->GetLevelCount()) return nullptr;
    return poOwner->GetLevel(poOwner->m_nLevel + 1 + iLevel)->m_apoMasks[m_iMask].get();
}
