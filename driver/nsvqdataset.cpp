/* nsvqdataset.cpp - a file becomes a dataset: Identify, Open, bands, levels, masks. */
#include "nsvqdataset.h"

#include <algorithm>
#include <climits>
#include <cstring>

constexpr uint64_t kRemoteGap = 128 << 10; // costs less than one more request

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
    sOptions.any_size = m_bTolerant;
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

/* ---- bands ---- */

NSVQBand::NSVQBand(NSVQDataset *poDSIn, int nBandIn, int iGroup) : m_iGroup(iGroup)
{
    poDS = poDSIn;
    nBand = nBandIn;
    eDataType = NSVQToGDALType(poDSIn->m_aoGroups[iGroup].eType);
    nBlockXSize = nBlockYSize = static_cast<int>(poDSIn->m_sInfo.block_size);
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

/* ---- levels ---- */

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
    if (nOverviews > 0 && !m_apoMasks.empty())
        CPLError(CE_Warning, CPLE_NotSupported,
                 "%s: external overviews of a file with masks have no masks", GetDescription());
    m_bHideLevels = true;
    const CPLErr eErr =
        GDALPamDataset::IBuildOverviews(pszResampling, nOverviews, panOverviews, nListBands,
                                        panBands, pfnProgress, pProgressData, papszOptions);
    m_bHideLevels = false;
    return eErr;
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

/* ---- masks ---- */

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
