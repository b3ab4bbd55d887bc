/* nsvqrecords.cpp - what the source knows beside pixels, as the records of the file; nsvqmeta.cpp
 * reads them. */
#include "nsvqcreate.h"

#include <cstring>

/* ---- records ---- */

void NSVQMetaRecords::Add(nsvq_meta_tag eTag, int nBand, std::string osPayload)
{
    m_aosPayloads.push_back(std::move(osPayload));
    const std::string &osKept = m_aosPayloads.back(); // stays where it is: a deque
    m_asRecords.push_back({static_cast<uint16_t>(eTag), static_cast<uint16_t>(nBand),
                           static_cast<uint32_t>(osKept.size()), osKept.data()});
}

void NSVQMetaRecords::AddDoubles(nsvq_meta_tag eTag, int nBand, const double *padfValues,
                                 size_t nCount)
{
    std::string osPayload(nCount * sizeof(double), 0);
    memcpy(&osPayload[0], padfValues, osPayload.size());
    for (size_t i = 0; i < nCount; i++) CPL_LSBPTR64(&osPayload[i * sizeof(double)]);
    Add(eTag, nBand, std::move(osPayload));
}

void NSVQMetaRecords::AddInteger(nsvq_meta_tag eTag, int nBand, uint64_t nValue)
{
    CPL_LSBPTR64(&nValue);
    Add(eTag, nBand, std::string(reinterpret_cast<const char *>(&nValue), sizeof(nValue)));
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

/* ---- georeferencing ---- */

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

/* eTag: of the CRS; its mapping and epoch stand in eAxes and eEpoch. */
static bool AddCRS(NSVQMetaRecords &oMeta, nsvq_meta_tag eTag, nsvq_meta_tag eAxes,
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
static int AddGeoreferencing(NSVQMetaRecords &oMeta, GDALDataset *poSrcDS)
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

/* ---- dataset and bands ---- */

/* bStatistics: whether the source's statistics hold for what is written. */
static void AddDomains(NSVQMetaRecords &oMeta, int nBand, GDALMajorObject *poObject,
                       bool bStatistics)
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

static void AddPalette(NSVQMetaRecords &oMeta, int nBand, const GDALColorTable *poTable)
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
static bool AddAttributes(NSVQMetaRecords &oMeta, int nBand,
                          const GDALRasterAttributeTable *poTable)
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

int NSVQAddDatasetRecords(NSVQMetaRecords &oMeta, GDALDataset *poSrcDS)
{
    const int nLeftToPam = AddGeoreferencing(oMeta, poSrcDS);
    AddDomains(oMeta, 0, poSrcDS, true);
    return nLeftToPam;
}

int NSVQAddBandRecords(NSVQMetaRecords &oMeta, int nBand, GDALRasterBand *poBand, bool bExact)
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
        if (NSVQGetNoDataBits(poBand, nBits)) oMeta.AddInteger(NSVQ_META_NODATA, nBand, nBits);
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
