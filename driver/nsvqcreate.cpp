/* nsvqcreate.cpp - CreateCopy: options, what the source carries, and the way of the bytes to disk.
 */
#include "nsvqdataset.h"

#include "cpl_vsi_error.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <deque>
#include <limits>

namespace
{

struct CreateOptions {
    double dfQuality = 0; // 0: the library's default
    double dfOverviewQuality = 0; // 0: the library's default
    double dfRate = 0;    // instead of a quality
    double dfPSNR = 0;    // instead of a quality
    int nFamily = 0;      // as in nsvq_encode_options
    int nEffort = 0;      // as in nsvq_encode_options
    int nThreads = 1;
    int nEmbed = 0; // as in nsvq_encode_options
    bool bLossless = false; // asked for
    bool bLossy = false;    // asked for
    bool bOverviews = true;
    nsvq_resampling eResampling = NSVQ_AVERAGE;
    NSVQModelPtr psModel{}; // NULL: the library's default
};

/* The records for nsvq_raster, with the memory that they point to. */
class MetaRecords
{
  public:
    void Add(nsvq_meta_tag eTag, int nBand, std::string osPayload)
    {
        m_aosPayloads.push_back(std::move(osPayload));
        const std::string &osKept = m_aosPayloads.back(); // stays where it is: a deque
        m_asRecords.push_back({static_cast<uint16_t>(eTag), static_cast<uint16_t>(nBand),
                               static_cast<uint32_t>(osKept.size()), osKept.data()});
    }
    void AddDoubles(nsvq_meta_tag eTag, int nBand, const double *padfValues, size_t nCount)
    {
        std::string osPayload(nCount * sizeof(double), 0);
        memcpy(&osPayload[0], padfValues, osPayload.size());
        for (size_t i = 0; i < nCount; i++) CPL_LSBPTR64(&osPayload[i * sizeof(double)]);
        Add(eTag, nBand, std::move(osPayload));
    }
    void AddInteger(nsvq_meta_tag eTag, int nBand, uint64_t nValue)
    {
        CPL_LSBPTR64(&nValue);
        Add(eTag, nBand, std::string(reinterpret_cast<const char *>(&nValue), sizeof(nValue)));
    }
    const std::vector<nsvq_meta> &Get() const
    {
        return m_asRecords;
    }

  private:
    std::deque<std::string> m_aosPayloads{};
    std::vector<nsvq_meta> m_asRecords{};
};

/* What the library pulls while it encodes. */
struct Source {
    GDALDataset *poDS;
    std::vector<int> anBandMap; // 1, 2, 3, ...
    const nsvq_band *pasBands;
    GDALProgressFunc pfnProgress;
    void *pProgressData;
};

} // namespace

/* ---- options ---- */

static bool IllegalOption(const char *pszName, const char *pszValue, const char *pszAllowed)
{
    CPLError(CE_Failure, CPLE_IllegalArg, "%s=%s: must be %s", pszName, pszValue, pszAllowed);
    return false;
}

static bool ParseBoolean(const char *pszValue, bool &bValue)
{
    bValue = EQUAL(pszValue, "YES") || EQUAL(pszValue, "TRUE") || EQUAL(pszValue, "ON") ||
             EQUAL(pszValue, "1");
    return bValue || EQUAL(pszValue, "NO") || EQUAL(pszValue, "FALSE") || EQUAL(pszValue, "OFF") ||
           EQUAL(pszValue, "0");
}

static bool LoadModel(const char *pszModel, NSVQModelPtr &psModel)
{
    nsvq_error sError{UINT64_MAX, ""};
    nsvq_model *psOpened = nullptr;
    nsvq_status eStatus = NSVQ_OK;
    std::string osShipped; // names, for the message

    for (int i = 0; nsvq_model_shipped_name(i); i++) {
        if (strcmp(nsvq_model_shipped_name(i), pszModel) == 0)
            eStatus = nsvq_model_shipped(&psOpened, pszModel, &sError);
        osShipped += std::string(" ") + nsvq_model_shipped_name(i);
    }
    if (!psOpened && eStatus == NSVQ_OK) {
        constexpr GIntBig nMaxModelBytes = 256 << 20;
        GByte *pabyModel = nullptr;
        vsi_l_offset nSize = 0;
        CPLPushErrorHandler(CPLQuietErrorHandler);
        const int bRead = VSIIngestFile(nullptr, pszModel, &pabyModel, &nSize, nMaxModelBytes);
        CPLPopErrorHandler();
        if (!bRead)
            return IllegalOption("MODEL", pszModel,
                                 ("a file that can be read or one of:" + osShipped).c_str());
        eStatus = nsvq_model_open(&psOpened, pabyModel, static_cast<size_t>(nSize), &sError);
        VSIFree(pabyModel);
    }
    psModel.reset(psOpened);
    if (eStatus != NSVQ_OK) NSVQError(eStatus, sError, pszModel);
    return eStatus == NSVQ_OK;
}

/* RATE and PSNR: positive numbers, instead of QUALITY. */
static bool ParseTarget(CSLConstList papszOptions, const char *pszName, double &dfTarget)
{
    const char *pszValue = CSLFetchNameValue(papszOptions, pszName);
    if (!pszValue) return true;
    dfTarget = CPLGetValueType(pszValue) == CPL_VALUE_STRING ? 0 : CPLAtof(pszValue);
    return (dfTarget > 0 && dfTarget <= 1000) || IllegalOption(pszName, pszValue, "a number above 0");
}

static bool ParseOptions(CSLConstList papszOptions, CreateOptions &oOptions)
{
    if (!NSVQGetNumThreads(papszOptions, oOptions.nThreads)) return false;

    const char *pszQuality = CSLFetchNameValue(papszOptions, "QUALITY");
    if (pszQuality) {
        const bool bNumber = CPLGetValueType(pszQuality) != CPL_VALUE_STRING;
        const double dfQuality = bNumber ? CPLAtof(pszQuality) : 0;
        if (!(dfQuality >= 1 && dfQuality <= 100))
            return IllegalOption("QUALITY", pszQuality, "a number from 1 to 100");
        oOptions.dfQuality = dfQuality;
        oOptions.bLossless = dfQuality == 100;
        oOptions.bLossy = dfQuality < 100;
    }
    const char *pszOverviewQuality = CSLFetchNameValue(papszOptions, "OVERVIEW_QUALITY");
    if (pszOverviewQuality) {
        const bool bNumber = CPLGetValueType(pszOverviewQuality) != CPL_VALUE_STRING;
        oOptions.dfOverviewQuality = bNumber ? CPLAtof(pszOverviewQuality) : 0;
        if (!(oOptions.dfOverviewQuality >= 1 && oOptions.dfOverviewQuality <= 100))
            return IllegalOption("OVERVIEW_QUALITY", pszOverviewQuality, "a number from 1 to 100");
    }
    if (!ParseTarget(papszOptions, "RATE", oOptions.dfRate)) return false;
    if (!ParseTarget(papszOptions, "PSNR", oOptions.dfPSNR)) return false;
    if ((pszQuality != nullptr) + (oOptions.dfRate > 0) + (oOptions.dfPSNR > 0) > 1) {
        CPLError(CE_Failure, CPLE_IllegalArg, "only one of QUALITY, RATE and PSNR can be asked for");
        return false;
    }
    if (oOptions.dfRate > 0 || oOptions.dfPSNR > 0) oOptions.bLossy = true;
    const char *pszEffort = CSLFetchNameValue(papszOptions, "EFFORT");
    if (pszEffort) {
        oOptions.nEffort = strlen(pszEffort) == 1 ? atoi(pszEffort) : 0;
        if (oOptions.nEffort < 1) return IllegalOption("EFFORT", pszEffort, "a whole number from 1 to 9");
    }
    const char *pszFamily = CSLFetchNameValueDef(papszOptions, "FAMILY", "AUTO");
    if (EQUAL(pszFamily, "VQ")) oOptions.nFamily = 1;
    else if (EQUAL(pszFamily, "HYPER")) oOptions.nFamily = 2;
    else if (!EQUAL(pszFamily, "AUTO")) return IllegalOption("FAMILY", pszFamily, "AUTO, VQ or HYPER");
    const char *pszLossless = CSLFetchNameValue(papszOptions, "LOSSLESS");
    if (pszLossless && !ParseBoolean(pszLossless, oOptions.bLossless))
        return IllegalOption("LOSSLESS", pszLossless, "YES or NO");
    if (pszLossless || oOptions.bLossless) oOptions.bLossy = !oOptions.bLossless;

    const char *pszOverviews = CSLFetchNameValueDef(papszOptions, "OVERVIEWS", "AUTO");
    oOptions.bOverviews = EQUAL(pszOverviews, "AUTO");
    if (!oOptions.bOverviews && !EQUAL(pszOverviews, "NONE"))
        return IllegalOption("OVERVIEWS", pszOverviews, "AUTO or NONE");
    const char *pszResampling = CSLFetchNameValueDef(papszOptions, "OVERVIEW_RESAMPLING", "AVERAGE");
    if (EQUAL(pszResampling, "NEAREST")) oOptions.eResampling = NSVQ_NEAREST;
    else if (EQUAL(pszResampling, "MODE")) oOptions.eResampling = NSVQ_MODE;
    else if (!EQUAL(pszResampling, "AVERAGE"))
        return IllegalOption("OVERVIEW_RESAMPLING", pszResampling, "AVERAGE, NEAREST or MODE");

    const char *pszEmbed = CSLFetchNameValueDef(papszOptions, "EMBED_MODEL", "AUTO");
    bool bEmbed = false;
    if (!EQUAL(pszEmbed, "AUTO")) {
        if (!ParseBoolean(pszEmbed, bEmbed))
            return IllegalOption("EMBED_MODEL", pszEmbed, "AUTO, YES or NO");
        oOptions.nEmbed = bEmbed ? 1 : 2;
    }
    const char *pszModel = CSLFetchNameValue(papszOptions, "MODEL");
    return !pszModel || LoadModel(pszModel, oOptions.psModel);
}

/* ---- which sources can be written ---- */

static bool CheckTarget(const char *pszFilename)
{
    if (!STARTS_WITH(pszFilename, "/vsistdout")) return true;
    CPLError(CE_Failure, CPLE_NotSupported,
             "NSVQ files cannot be written to a stream: the index at the start comes last");
    return false;
}

bool NSVQCheckOptions(const char *pszFilename, CSLConstList papszOptions)
{
    CreateOptions oOptions;
    return CheckTarget(pszFilename) && ParseOptions(papszOptions, oOptions);
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

/* A value as the bits of a sample. False where no sample is it. */
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

static bool GetSampleBits(nsvq_type eType, double dfValue, uint64_t &nBits)
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

/* The band's nodata value as the bits of a sample. */
static bool GetNoDataBits(GDALRasterBand *poBand, uint64_t &nBits)
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
    return bHas && GetSampleBits(NSVQFromGDALBand(poBand), dfNoData, nBits);
}

static std::vector<nsvq_band> DescribeBands(GDALDataset *poSrcDS, const CreateOptions &oOptions)
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
        sBand.has_nodata = GetNoDataBits(poBand, nBits);
        if (aosValues.size() == nBands && (sBand.type == NSVQ_TYPE_U8 || !sBand.exact)) {
            uint64_t nValue = 0;
            const bool bValue =
                GetSampleBits(static_cast<nsvq_type>(sBand.type), CPLAtof(aosValues[i]), nValue);
            if (sBand.has_nodata && !(bValue && nValue == nBits))
                sBand.exact = true; // only so both are kept
            sBand.has_nodata = bValue;
            nBits = nValue;
        }
        sBand.nodata = sBand.has_nodata ? nBits : 0;
    }
    return asBands;
}

/* Whether what was asked for can be done: there is no lossy coding for most types. */
static bool CheckCoding(const std::vector<nsvq_band> &asBands, const CreateOptions &oOptions,
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

/* ---- metadata ---- */

/* WKT2:2019, else whatever the CRS can be written as; empty when it cannot. */
static std::string GetWKT(const OGRSpatialReference *poSRS)
{
    CPLErrorStateBackuper oBackuper;
    CPLErrorHandlerPusher oPusher(CPLQuietErrorHandler);
    static const char *const apszWKT2[] = {"FORMAT=WKT2_2019", nullptr};
    char *pszWKT = nullptr;
    if (poSRS->exportToWkt(&pszWKT, apszWKT2) != OGRERR_NONE || !pszWKT || !pszWKT[0]) {
        CPLFree(pszWKT);
        pszWKT = nullptr;
        poSRS->exportToWkt(&pszWKT);
    }
    const std::string osWKT = pszWKT ? pszWKT : "";
    CPLFree(pszWKT);
    return osWKT;
}

/* Numbers and texts of a record. */
template <class T> static void Append(std::string &osPayload, T tValue)
{
    GByte abyBytes[sizeof(T)];
    memcpy(abyBytes, &tValue, sizeof(T));
    for (size_t i = 0; i < sizeof(T); i++)
        osPayload += static_cast<char>(abyBytes[CPL_IS_LSB ? i : sizeof(T) - 1 - i]);
}

static void AppendText(std::string &osPayload, const char *pszText)
{
    osPayload.append(pszText ? pszText : "", (pszText ? strlen(pszText) : 0) + 1);
}

/* eTag: of the CRS; its mapping and epoch stand in eAxes and eEpoch. */
static bool AddCRS(MetaRecords &oMeta, nsvq_meta_tag eTag, nsvq_meta_tag eAxes,
                   nsvq_meta_tag eEpoch, const OGRSpatialReference *poSRS)
{
    if (poSRS->IsEmpty()) return true;
    const std::string osWKT = GetWKT(poSRS);
    if (osWKT.empty()) return false;
    oMeta.Add(eTag, 0, osWKT);
    std::string osAxes;
    for (const int nAxis : poSRS->GetDataAxisToSRSAxisMapping())
        Append(osAxes, static_cast<int32_t>(nAxis));
    oMeta.Add(eAxes, 0, osAxes);
    const double dfEpoch = poSRS->GetCoordinateEpoch();
    if (dfEpoch > 0) oMeta.AddDoubles(eEpoch, 0, &dfEpoch, 1);
    return true;
}

/* Returns GCIF_ flags of what the file cannot hold, for PAM. */
static int AddGeoreferencing(MetaRecords &oMeta, GDALDataset *poSrcDS)
{
    int nLeftToPam = 0;
    const OGRSpatialReference *poSRS = poSrcDS->GetSpatialRef();
    if (poSRS && !AddCRS(oMeta, NSVQ_META_CRS_WKT2, NSVQ_META_CRS_AXES, NSVQ_META_CRS_EPOCH, poSRS))
        nLeftToPam |= GCIF_PROJECTION;

    double adfGT[6];
    if (GDALGetGeoTransform(GDALDataset::ToHandle(poSrcDS), adfGT) == CE_None)
        oMeta.AddDoubles(NSVQ_META_GEOTRANSFORM, 0, adfGT, 6);

    const int nGCPs = poSrcDS->GetGCPCount();
    if (nGCPs == 0) return nLeftToPam;
    const GDAL_GCP *pasGCPs = poSrcDS->GetGCPs();
    std::string osText;
    for (int i = 0; i < nGCPs; i++) {
        const GDAL_GCP &sGCP = pasGCPs[i];
        AppendText(osText, sGCP.pszId);
        AppendText(osText, sGCP.pszInfo);
        for (const double dfValue :
             {sGCP.dfGCPPixel, sGCP.dfGCPLine, sGCP.dfGCPX, sGCP.dfGCPY, sGCP.dfGCPZ})
            Append(osText, dfValue);
    }
    const OGRSpatialReference *poGCPSRS = poSrcDS->GetGCPSpatialRef();
    if (poGCPSRS && !AddCRS(oMeta, NSVQ_META_GCP_WKT2, NSVQ_META_GCP_AXES, NSVQ_META_GCP_EPOCH, poGCPSRS))
        return nLeftToPam | GCIF_GCPS;
    oMeta.Add(NSVQ_META_GCPS, 0, osText);
    return nLeftToPam;
}

/* bStatistics: whether the source's statistics hold for what is written. */
static void AddDomains(MetaRecords &oMeta, int nBand, GDALMajorObject *poObject, bool bStatistics)
{
    CPLStringList aosDomains(poObject->GetMetadataDomainList());
    if (aosDomains.FindString("") < 0) aosDomains.AddString("");
    for (int i = 0; i < aosDomains.size(); i++) {
        const char *pszDomain = aosDomains[i];
        if (NSVQIsOwnDomain(pszDomain)) continue;
        std::string osPayload(pszDomain, strlen(pszDomain) + 1);
        const size_t nEmpty = osPayload.size();
        const CSLConstList papszItems = poObject->GetMetadata(pszDomain);
        for (int j = 0; papszItems && papszItems[j]; j++)
            if (bStatistics || pszDomain[0] != 0 || !STARTS_WITH_CI(papszItems[j], "STATISTICS_"))
                osPayload.append(papszItems[j], strlen(papszItems[j]) + 1);
        if (osPayload.size() > nEmpty) oMeta.Add(NSVQ_META_DOMAIN, nBand, osPayload);
    }
}

static void AddPalette(MetaRecords &oMeta, int nBand, const GDALColorTable *poTable)
{
    std::string osPayload(1, static_cast<char>(poTable->GetPaletteInterpretation()));
    for (int i = 0; i < poTable->GetColorEntryCount(); i++) {
        const GDALColorEntry *psEntry = poTable->GetColorEntry(i);
        for (const short nPart : {psEntry->c1, psEntry->c2, psEntry->c3, psEntry->c4})
            Append(osPayload, static_cast<int16_t>(nPart));
    }
    oMeta.Add(NSVQ_META_PALETTE, nBand, osPayload);
}

/* False where a column is of a type that the file does not know. */
static bool AddAttributes(MetaRecords &oMeta, int nBand, const GDALRasterAttributeTable *poTable)
{
    std::string osPayload;
    double dfRow0 = 0, dfWidth = 0;
    const bool bBins = poTable->GetLinearBinning(&dfRow0, &dfWidth);
    const int nColumns = poTable->GetColumnCount(), nRows = poTable->GetRowCount();

    Append(osPayload, static_cast<uint8_t>(poTable->GetTableType() == GRTT_ATHEMATIC));
    Append(osPayload, static_cast<uint8_t>(bBins));
    if (bBins) {
        Append(osPayload, dfRow0);
        Append(osPayload, dfWidth);
    }
    Append(osPayload, static_cast<uint32_t>(nColumns));
    Append(osPayload, static_cast<uint32_t>(nRows));
    for (int i = 0; i < nColumns; i++) {
        const GDALRATFieldType eType = poTable->GetTypeOfCol(i);
        if (eType != GFT_Integer && eType != GFT_Real && eType != GFT_String) return false;
        AppendText(osPayload, poTable->GetNameOfCol(i));
        Append(osPayload, static_cast<uint8_t>(eType));
        Append(osPayload, static_cast<uint8_t>(poTable->GetUsageOfCol(i)));
        for (int j = 0; j < nRows; j++) {
            if (eType == GFT_Integer)
                Append(osPayload, static_cast<int32_t>(poTable->GetValueAsInt(j, i)));
            if (eType == GFT_Real) Append(osPayload, poTable->GetValueAsDouble(j, i));
            if (eType == GFT_String) AppendText(osPayload, poTable->GetValueAsString(j, i));
        }
    }
    oMeta.Add(NSVQ_META_ATTRIBUTES, nBand, osPayload);
    return true;
}

/* Returns GCIF_ flags of what the file cannot hold, for PAM. */
static int AddBandRecords(MetaRecords &oMeta, int nBand, GDALRasterBand *poBand, bool bExact)
{
    int nLeftToPam = 0;
    AddDomains(oMeta, nBand, poBand, bExact);
    if (poBand->GetDescription()[0])
        oMeta.Add(NSVQ_META_DESCRIPTION, nBand, poBand->GetDescription());
    const GDALColorInterp eInterp = poBand->GetColorInterpretation();
    if (eInterp != GCI_Undefined)
        oMeta.Add(NSVQ_META_COLOR_INTERP, nBand, GDALGetColorInterpretationName(eInterp));

    int bHas = FALSE;
    uint64_t nBits = 0;
    if (poBand->GetRasterDataType() == GDT_Int64 || poBand->GetRasterDataType() == GDT_UInt64) {
        if (GetNoDataBits(poBand, nBits)) oMeta.AddInteger(NSVQ_META_NODATA, nBand, nBits);
    } else {
        const double dfNoData = poBand->GetNoDataValue(&bHas);
        if (bHas) oMeta.AddDoubles(NSVQ_META_NODATA, nBand, &dfNoData, 1);
    }

    int bHasOffset = FALSE;
    const double dfScale = poBand->GetScale(&bHas), dfOffset = poBand->GetOffset(&bHasOffset);
    if (dfScale != 1 || dfOffset != 0) { // VRT bands say that they have a scale of 1
        if (bHas) oMeta.AddDoubles(NSVQ_META_SCALE, nBand, &dfScale, 1);
        if (bHasOffset) oMeta.AddDoubles(NSVQ_META_OFFSET, nBand, &dfOffset, 1);
    }
    const char *pszUnit = poBand->GetUnitType();
    if (pszUnit && pszUnit[0]) oMeta.Add(NSVQ_META_UNIT, nBand, pszUnit);

    const CSLConstList papszNames = poBand->GetCategoryNames();
    std::string osNames;
    for (int i = 0; papszNames && papszNames[i]; i++)
        osNames.append(papszNames[i], strlen(papszNames[i]) + 1);
    if (!osNames.empty()) oMeta.Add(NSVQ_META_CATEGORIES, nBand, osNames);

    if (poBand->GetColorTable()) AddPalette(oMeta, nBand, poBand->GetColorTable());
    const GDALRasterAttributeTable *poRAT = poBand->GetDefaultRAT();
    if (poRAT && !AddAttributes(oMeta, nBand, poRAT)) nLeftToPam = GCIF_RAT | GCIF_PROCESS_BANDS;
    const char *pszBits = poBand->GetMetadataItem("NBITS", "IMAGE_STRUCTURE");
    if (pszBits && atoi(pszBits) > 0 && atoi(pszBits) <= 64)
        oMeta.Add(NSVQ_META_BITS, nBand, std::string(1, static_cast<char>(atoi(pszBits))));
    return nLeftToPam;
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
    GDALDataset *poSrcDS = static_cast<Source *>(pUser)->poDS;
    const int nW = static_cast<int>(psPull->w), nH = static_cast<int>(psPull->h);
    if (poSrcDS->GetRasterBand(static_cast<int>(psPull->first) + 1)->GetMaskBand()->RasterIO(
            GF_Read, static_cast<int>(psPull->x), static_cast<int>(psPull->y), nW, nH,
            psPull->pixels, nW, nH, GDT_Byte, psPull->pixel_stride, psPull->row_stride,
            nullptr) != CE_None)
        return -1;
    for (int nRow = 0; nRow < nH; nRow++) {
        GByte *pabyRow = static_cast<GByte *>(psPull->pixels) + nRow * psPull->row_stride;
        for (int i = 0; i < nW; i++)
            pabyRow[i * psPull->pixel_stride] = pabyRow[i * psPull->pixel_stride] ? 255 : 0;
    }
    return 0;
}

static int ReportProgress(void *pUser, double dfDone)
{
    const Source *poSource = static_cast<Source *>(pUser);
    return poSource->pfnProgress(dfDone, "", poSource->pProgressData);
}

/* ---- the file ---- */

static bool Encode(const char *pszTemporary, const char *pszFilename, const nsvq_raster &sRaster,
                   const CreateOptions &oOptions)
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
    nsvq_error sError{UINT64_MAX, ""};
    const nsvq_status eStatus = nsvq_encode(&sSink, &sRaster, &sOptions, nullptr, &sError);
    if (eStatus == NSVQ_E_CANCELLED) {
        CPLError(CE_Failure, CPLE_UserInterrupt, "User terminated");
    } else if (eStatus != NSVQ_OK) {
        NSVQError(eStatus, sError, pszFilename);
    } else if (!oSink.Close()) {
        CPLError(CE_Failure, CPLE_FileIO, "%s: cannot write all of the file", pszFilename);
        return false;
    }
    return eStatus == NSVQ_OK;
}

/* Object stores take bytes in one sequence and keep nothing until the last. */
static bool IsUpload(const char *pszFilename)
{
    return !VSISupportsRandomWrite(pszFilename, FALSE) &&
           VSISupportsSequentialWrite(pszFilename, FALSE);
}

std::string NSVQGetTemporaryName(const char *pszFilename)
{
    static std::atomic<int> nCounter{0};
    if (IsUpload(pszFilename)) return CPLGenerateTempFilename("nsvq");
    return std::string(pszFilename) +
           CPLSPrintf(".%d-%d.tmp", CPLGetCurrentProcessID(), nCounter++);
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
                           const CreateOptions &oOptions)
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
                           const CreateOptions &oOptions, int nLeftToPam, int bStrict)
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
    CreateOptions oOptions;
    if (!CheckSource(pszFilename, poSrcDS) || !ParseOptions(papszOptions, oOptions)) return nullptr;
    if (!pfnProgress(0, nullptr, pProgressData)) {
        CPLError(CE_Failure, CPLE_UserInterrupt, "User terminated");
        return nullptr;
    }

    const int nBands = poSrcDS->GetRasterCount();
    const std::vector<nsvq_band> asBands = DescribeBands(poSrcDS, oOptions);
    if (!CheckCoding(asBands, oOptions, bStrict)) return nullptr;
    MetaRecords oMeta;
    int nLeftToPam = AddGeoreferencing(oMeta, poSrcDS);
    AddDomains(oMeta, 0, poSrcDS, true);
    Source oSource{poSrcDS, {}, asBands.data(), pfnProgress, pProgressData};
    bool bBandMasks = false;
    nsvq_raster sRaster{};
    for (int i = 1; i <= nBands; i++) {
        GDALRasterBand *poBand = poSrcDS->GetRasterBand(i);
        nLeftToPam |= AddBandRecords(oMeta, i, poBand, asBands[i - 1].exact);
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
    return Finish(pszFilename, poSrcDS, oOptions, nLeftToPam, bStrict);
}
