/* nsvqmeta.cpp - what a dataset and its bands know beside pixels: the records of the file, which the
 * library hands over unread, so anything may stand there; and later edits (PAM), which win. */
#include "nsvqdataset.h"

#include <algorithm>
#include <cstring>

/* ---- records ---- */

static bool GetDoubles(const nsvq_meta &sMeta, double *padfOut, size_t nCount)
{
    if (sMeta.size != nCount * sizeof(double)) return false;
    memcpy(padfOut, sMeta.data, sMeta.size);
    for (size_t i = 0; i < nCount; i++) CPL_LSBPTR64(padfOut + i);
    return true;
}

/* Strings of which each ends with a 0. */
static CPLStringList GetStrings(const char *pszText, size_t nSize)
{
    CPLStringList aosList;
    const char *pszEnd = pszText + nSize;
    while (pszText < pszEnd) {
        const std::string osItem(pszText, strnlen(pszText, static_cast<size_t>(pszEnd - pszText)));
        aosList.AddString(osItem.c_str());
        pszText += osItem.size() + 1;
    }
    return aosList;
}

static std::vector<int> GetAxes(const nsvq_meta &sMeta)
{
    std::vector<int> anAxes(std::min<size_t>(sMeta.size / 4, 4));
    for (size_t i = 0; i < anAxes.size(); i++) {
        GInt32 nAxis;
        memcpy(&nAxis, static_cast<const char *>(sMeta.data) + 4 * i, 4);
        anAxes[i] = CPL_LSBWORD32(nAxis);
    }
    return anAxes;
}

static void SetAxes(OGRSpatialReference &oSRS, const std::vector<int> &anAxes, double dfEpoch)
{
    if (oSRS.IsEmpty()) return;
    if (anAxes.size() >= 2 && anAxes.size() <= 3) oSRS.SetDataAxisToSRSAxisMapping(anAxes);
    if (dfEpoch > 0) oSRS.SetCoordinateEpoch(dfEpoch);
}

/* Reads what a record holds piece by piece; past its end all pieces are empty. */
class RecordReader
{
  public:
    explicit RecordReader(const nsvq_meta &sMeta)
        : m_pabyAt(static_cast<const GByte *>(sMeta.data)), m_nLeft(sMeta.size)
    {
    }
    size_t Left() const
    {
        return m_nLeft;
    }
    template <class T> T Number()
    {
        T tValue = 0;
        if (m_nLeft < sizeof(T)) {
            m_nLeft = 0;
            return tValue;
        }
        GByte abyBytes[sizeof(T)];
        for (size_t i = 0; i < sizeof(T); i++)
            abyBytes[CPL_IS_LSB ? i : sizeof(T) - 1 - i] = m_pabyAt[i];
        memcpy(&tValue, abyBytes, sizeof(T));
        Skip(sizeof(T));
        return tValue;
    }
    std::string Text()
    {
        const char *pszText = reinterpret_cast<const char *>(m_pabyAt);
        const std::string osText(m_nLeft ? pszText : "", m_nLeft ? strnlen(pszText, m_nLeft) : 0);
        Skip(std::min(osText.size() + 1, m_nLeft));
        return osText;
    }

  private:
    void Skip(size_t nBytes)
    {
        m_pabyAt += nBytes;
        m_nLeft -= nBytes;
    }

    const GByte *m_pabyAt;
    size_t m_nLeft;
};

static std::unique_ptr<GDALColorTable> GetPalette(const nsvq_meta &sMeta)
{
    RecordReader oReader(sMeta);
    const int nInterp = oReader.Number<uint8_t>();
    if (nInterp > GPI_HLS || sMeta.size > 1 + 8 * 65536) return nullptr;
    auto poTable = std::make_unique<GDALColorTable>(static_cast<GDALPaletteInterp>(nInterp));
    for (int i = 0; oReader.Left() >= 8; i++) {
        GDALColorEntry sEntry;
        sEntry.c1 = oReader.Number<int16_t>();
        sEntry.c2 = oReader.Number<int16_t>();
        sEntry.c3 = oReader.Number<int16_t>();
        sEntry.c4 = oReader.Number<int16_t>();
        poTable->SetColorEntry(i, &sEntry);
    }
    return poTable;
}

static std::unique_ptr<GDALDefaultRasterAttributeTable> GetAttributes(const nsvq_meta &sMeta)
{
    RecordReader oReader(sMeta);
    auto poTable = std::make_unique<GDALDefaultRasterAttributeTable>();
    poTable->SetTableType(oReader.Number<uint8_t>() ? GRTT_ATHEMATIC : GRTT_THEMATIC);
    if (oReader.Number<uint8_t>()) {
        const double dfRow0 = oReader.Number<double>();
        poTable->SetLinearBinning(dfRow0, oReader.Number<double>());
    }
    const uint32_t nColumns = oReader.Number<uint32_t>(), nRows = oReader.Number<uint32_t>();
    for (uint32_t i = 0; i < nColumns && oReader.Left(); i++) {
        const std::string osName = oReader.Text();
        const int nType = oReader.Number<uint8_t>(), nUsage = oReader.Number<uint8_t>();
        if (nRows > oReader.Left() || nType > GFT_String || nUsage >= GFU_MaxCount) return nullptr;
        if (i == 0) poTable->SetRowCount(static_cast<int>(nRows));
        poTable->CreateColumn(osName.c_str(), static_cast<GDALRATFieldType>(nType),
                              static_cast<GDALRATFieldUsage>(nUsage));
        for (uint32_t j = 0; j < nRows; j++) {
            const int iRow = static_cast<int>(j), iColumn = static_cast<int>(i);
            if (nType == GFT_Integer) poTable->SetValue(iRow, iColumn, oReader.Number<int32_t>());
            if (nType == GFT_Real) poTable->SetValue(iRow, iColumn, oReader.Number<double>());
            if (nType == GFT_String) poTable->SetValue(iRow, iColumn, oReader.Text().c_str());
        }
    }
    return poTable;
}

static void SetCRS(OGRSpatialReference &oSRS, const std::string &osWKT)
{
    CPLErrorStateBackuper oBackuper;
    CPLErrorHandlerPusher oPusher(CPLQuietErrorHandler);
    const OGRErr eErr = oSRS.importFromWkt(osWKT.c_str());
    if (eErr != OGRERR_NONE) oSRS.Clear();
    // WKT2 names the parts of a CRS that has a code by that code alone; others want theirs too.
    const char *pszAuthority = oSRS.GetAuthorityName(nullptr);
    const char *pszCode = oSRS.GetAuthorityCode(nullptr);
    OGRSpatialReference oFull;
    double adfShift[7];
    if (pszAuthority && pszCode &&
        oFull.SetFromUserInput(CPLSPrintf("%s:%s", pszAuthority, pszCode),
                               OGRSpatialReference::SET_FROM_USER_INPUT_LIMITATIONS_get()) == OGRERR_NONE &&
        oFull.IsSame(&oSRS) && EQUAL(oFull.GetName(), oSRS.GetName()) &&
        oSRS.GetTOWGS84(adfShift, 7) != OGRERR_NONE)
        oSRS = oFull;
    oSRS.SetAxisMappingStrategy(OAMS_TRADITIONAL_GIS_ORDER);
}

void NSVQDataset::LoadMetadata()
{
    const size_t nRecords = nsvq_meta_count(m_psFile.get());
    bool bHasCRS = false;

    for (size_t i = 0; i < nRecords; i++) {
        nsvq_meta sMeta;
        if (nsvq_meta_get(m_psFile.get(), i, &sMeta) != NSVQ_OK || sMeta.band > nBands) continue;
        bHasCRS |= sMeta.tag == NSVQ_META_CRS_WKT2;
        LoadRecord(sMeta);
    }
    if (bHasCRS && m_oSRS.IsEmpty())
        CPLError(CE_Warning, CPLE_AppDefined, "the CRS of the file cannot be understood");
    SetAxes(m_oSRS, m_anAxes, m_dfEpoch);
    SetAxes(m_oGCPSRS, m_anGCPAxes, m_dfGCPEpoch);
}

void NSVQDataset::LoadRecord(const nsvq_meta &sMeta)
{
    const char *pszText = static_cast<const char *>(sMeta.data);
    const std::string osText(sMeta.size ? pszText : "", sMeta.size);
    NSVQBand *poBand = sMeta.band ? static_cast<NSVQBand *>(GetRasterBand(sMeta.band)) : nullptr;

    switch (sMeta.tag) { // records of other tags are of a later version
    case NSVQ_META_CRS_WKT2:
        SetCRS(m_oSRS, osText);
        break;
    case NSVQ_META_GCP_WKT2:
        SetCRS(m_oGCPSRS, osText);
        break;
    case NSVQ_META_CRS_AXES:
        m_anAxes = GetAxes(sMeta);
        break;
    case NSVQ_META_GCP_AXES:
        m_anGCPAxes = GetAxes(sMeta);
        break;
    case NSVQ_META_GCP_EPOCH:
        GetDoubles(sMeta, &m_dfGCPEpoch, 1);
        break;
    case NSVQ_META_CRS_EPOCH:
        GetDoubles(sMeta, &m_dfEpoch, 1);
        break;
    case NSVQ_META_GEOTRANSFORM:
        m_bGeoTransform = GetDoubles(sMeta, m_adfGeoTransform, 6);
        break;
    case NSVQ_META_GCPS:
        LoadGCPs(sMeta);
        break;
    case NSVQ_META_DOMAIN:
        LoadDomain(poBand ? static_cast<GDALMajorObject *>(poBand) : this, osText.data(),
                   osText.size());
        break;
    case NSVQ_META_DESCRIPTION:
        if (poBand) poBand->GDALMajorObject::SetDescription(osText.c_str());
        break;
    case NSVQ_META_COLOR_INTERP:
        if (poBand) poBand->m_eColorInterp = GDALGetColorInterpretationByName(osText.c_str());
        break;
    case NSVQ_META_NODATA:
        if (!poBand || sMeta.size != 8) break;
        poBand->m_bHasNoData = true;
        memcpy(&poBand->m_nNoData, sMeta.data, 8);
        CPL_LSBPTR64(&poBand->m_nNoData);
        if (poBand->eDataType == GDT_Int64)
            poBand->m_dfNoData =
                GDALGetNoDataValueCastToDouble(static_cast<int64_t>(poBand->m_nNoData));
        else if (poBand->eDataType == GDT_UInt64)
            poBand->m_dfNoData = GDALGetNoDataValueCastToDouble(poBand->m_nNoData);
        else
            GetDoubles(sMeta, &poBand->m_dfNoData, 1);
        break;
    case NSVQ_META_SCALE:
        if (poBand) poBand->m_oScaling.bHasScale = GetDoubles(sMeta, &poBand->m_oScaling.dfScale, 1);
        break;
    case NSVQ_META_OFFSET:
        if (poBand) poBand->m_oScaling.bHasOffset = GetDoubles(sMeta, &poBand->m_oScaling.dfOffset, 1);
        break;
    case NSVQ_META_UNIT:
        if (poBand) poBand->m_osUnit = osText;
        break;
    case NSVQ_META_CATEGORIES:
        if (poBand) poBand->m_aosCategories = GetStrings(osText.data(), osText.size());
        break;
    case NSVQ_META_PALETTE:
        if (poBand) poBand->m_poColorTable = GetPalette(sMeta);
        break;
    case NSVQ_META_ATTRIBUTES:
        if (poBand) poBand->m_poRAT = GetAttributes(sMeta);
        break;
    case NSVQ_META_BITS:
        if (poBand && sMeta.size == 1)
            poBand->GDALMajorObject::SetMetadataItem(
                "NBITS", CPLSPrintf("%d", static_cast<const GByte *>(sMeta.data)[0]),
                "IMAGE_STRUCTURE");
        break;
    }
}

bool NSVQIsOwnDomain(const char *pszDomain)
{
    static const char *const apszOwn[] = {"IMAGE_STRUCTURE", "NSVQ", "DERIVED_SUBDATASETS",
                                          "SUBDATASETS", "OVERVIEWS"};
    for (const char *pszOwn : apszOwn)
        if (EQUAL(pszDomain, pszOwn)) return true;
    return false;
}

void NSVQDataset::LoadDomain(GDALMajorObject *poObject, const char *pszText, size_t nSize)
{
    const CPLStringList aosParts = GetStrings(pszText, nSize); // the first is the domain's name
    if (aosParts.empty() || NSVQIsOwnDomain(aosParts[0])) return;
    // Past PAM, which would write all of it into an .aux.xml.
    poObject->GDALMajorObject::SetMetadata(const_cast<char **>(aosParts.List()) + 1, aosParts[0]);
}

void NSVQDataset::LoadGCPs(const nsvq_meta &sMeta)
{
    RecordReader oReader(sMeta);
    while (oReader.Left() > 0) {
        GDAL_GCP sGCP;
        GDALInitGCPs(1, &sGCP);
        CPLFree(sGCP.pszId);
        CPLFree(sGCP.pszInfo);
        sGCP.pszId = CPLStrdup(oReader.Text().c_str());
        sGCP.pszInfo = CPLStrdup(oReader.Text().c_str());
        sGCP.dfGCPPixel = oReader.Number<double>();
        sGCP.dfGCPLine = oReader.Number<double>();
        sGCP.dfGCPX = oReader.Number<double>();
        sGCP.dfGCPY = oReader.Number<double>();
        sGCP.dfGCPZ = oReader.Number<double>();
        m_asGCPs.push_back(sGCP);
    }
}

CPLErr NSVQDataset::NSVQ_GET_GEOTRANSFORM(adfGT)
{
    if (GDALPamDataset::GetGeoTransform(adfGT) == CE_None) return CE_None;
    for (int i = 0; i < 6; i++) adfGT[i] = m_adfGeoTransform[i];
    return m_bGeoTransform ? CE_None : CE_Failure;
}

const OGRSpatialReference *NSVQDataset::GetSpatialRef() const
{
    const OGRSpatialReference *poSRS = GDALPamDataset::GetSpatialRef();
    if (poSRS || m_oSRS.IsEmpty()) return poSRS;
    return &m_oSRS;
}

int NSVQDataset::GetGCPCount()
{
    const int nCount = GDALPamDataset::GetGCPCount();
    return nCount > 0 ? nCount : static_cast<int>(m_asGCPs.size());
}

const GDAL_GCP *NSVQDataset::GetGCPs()
{
    if (GDALPamDataset::GetGCPCount() > 0) return GDALPamDataset::GetGCPs();
    return m_asGCPs.empty() ? nullptr : m_asGCPs.data();
}

const OGRSpatialReference *NSVQDataset::GetGCPSpatialRef() const
{
    const OGRSpatialReference *poSRS = GDALPamDataset::GetGCPSpatialRef();
    if (poSRS || m_oGCPSRS.IsEmpty()) return poSRS;
    return &m_oGCPSRS;
}

/* ---- bands ---- */

GDALColorTable *NSVQBand::GetColorTable()
{
    if (Base()) return Base()->GetColorTable();
    GDALColorTable *poTable = GDALPamRasterBand::GetColorTable();
    return poTable ? poTable : m_poColorTable.get();
}

GDALRasterAttributeTable *NSVQBand::GetDefaultRAT()
{
    if (Base()) return Base()->GetDefaultRAT();
    GDALRasterAttributeTable *poTable = GDALPamRasterBand::GetDefaultRAT();
    return poTable ? poTable : m_poRAT.get();
}

GDALColorInterp NSVQBand::GetColorInterpretation()
{
    if (Base()) return Base()->GetColorInterpretation();
    const GDALColorInterp eInterp = GDALPamRasterBand::GetColorInterpretation();
    return eInterp != GCI_Undefined ? eInterp : m_eColorInterp;
}

double NSVQBand::GetNoDataValue(int *pbSuccess)
{
    if (Base()) return Base()->GetNoDataValue(pbSuccess);
    int bFromPam = FALSE;
    const double dfPam = GDALPamRasterBand::GetNoDataValue(&bFromPam);
    if (pbSuccess) *pbSuccess = bFromPam || m_bHasNoData;
    return !bFromPam && m_bHasNoData ? m_dfNoData : dfPam;
}

/* What an edit has set them to, else the file's. Whatever an .aux.xml holds, PAM then says that both are set, to 1
 * and 0 if nothing is. */
NSVQBand::Scaling NSVQBand::GetScaling()
{
    if (Base()) return Base()->GetScaling();
    const Scaling oEdited{GDALPamRasterBand::GetScale(), GDALPamRasterBand::GetOffset(), true, true};
    return oEdited.dfScale != 1 || oEdited.dfOffset != 0 ? oEdited : m_oScaling;
}

double NSVQBand::GetScale(int *pbSuccess)
{
    const Scaling oScaling = GetScaling();
    if (pbSuccess) *pbSuccess = oScaling.bHasScale;
    return oScaling.dfScale;
}

double NSVQBand::GetOffset(int *pbSuccess)
{
    const Scaling oScaling = GetScaling();
    if (pbSuccess) *pbSuccess = oScaling.bHasOffset;
    return oScaling.dfOffset;
}

int64_t NSVQBand::GetNoDataValueAsInt64(int *pbSuccess)
{
    if (Base()) return Base()->GetNoDataValueAsInt64(pbSuccess);
    int bFromPam = FALSE;
    const int64_t nPam = GDALPamRasterBand::GetNoDataValueAsInt64(&bFromPam);
    if (pbSuccess) *pbSuccess = bFromPam || m_bHasNoData;
    return bFromPam ? nPam : static_cast<int64_t>(m_nNoData);
}

uint64_t NSVQBand::GetNoDataValueAsUInt64(int *pbSuccess)
{
    if (Base()) return Base()->GetNoDataValueAsUInt64(pbSuccess);
    int bFromPam = FALSE;
    const uint64_t nPam = GDALPamRasterBand::GetNoDataValueAsUInt64(&bFromPam);
    if (pbSuccess) *pbSuccess = bFromPam || m_bHasNoData;
    return bFromPam ? nPam : m_nNoData;
}

const char *NSVQBand::GetUnitType()
{
    if (Base()) return Base()->GetUnitType();
    const char *pszUnit = GDALPamRasterBand::GetUnitType();
    return pszUnit && pszUnit[0] ? pszUnit : m_osUnit.c_str();
}

char **NSVQBand::GetCategoryNames()
{
    if (Base()) return Base()->GetCategoryNames();
    char **papszNames = GDALPamRasterBand::GetCategoryNames();
    return papszNames ? papszNames : m_aosCategories.List();
}

/* ---- edits: later ones go beside the file; what the file holds cannot be taken out of it ---- */

static CPLErr CannotRemove(const char *pszWhat)
{
    CPLError(CE_Failure, CPLE_NotSupported, "the file holds %s, which cannot be removed from it",
             pszWhat);
    return CE_Failure;
}

CPLErr NSVQDataset::SetSpatialRef(const OGRSpatialReference *poSRS)
{
    if ((!poSRS || poSRS->IsEmpty()) && !m_oSRS.IsEmpty()) return CannotRemove("a CRS");
    return GDALPamDataset::SetSpatialRef(poSRS);
}

CPLErr NSVQDataset::SetGCPs(int nCount, const GDAL_GCP *pasGCPs, const OGRSpatialReference *poSRS)
{
    if (nCount == 0 && !m_asGCPs.empty()) return CannotRemove("GCPs");
    return GDALPamDataset::SetGCPs(nCount, pasGCPs, poSRS);
}

static CPLErr HasMask()
{
    CPLError(CE_Failure, CPLE_NotSupported, "the file holds a mask, and takes no other");
    return CE_Failure;
}

CPLErr NSVQDataset::CreateMaskBand(int nNewFlags)
{
    return m_apoMasks.empty() && !m_poBase ? GDALPamDataset::CreateMaskBand(nNewFlags) : HasMask();
}

CPLErr NSVQBand::CreateMaskBand(int nNewFlags)
{
    return Owner()->m_apoMasks.empty() && !Base() ? GDALPamRasterBand::CreateMaskBand(nNewFlags)
                                                  : HasMask();
}

CPLErr NSVQBand::DeleteNoDataValue()
{
    return m_bHasNoData ? CannotRemove("a nodata value") : GDALPamRasterBand::DeleteNoDataValue();
}

// PAM stores scale and offset together, so an edit of one takes the file's other along; 1 and 0 are none.
CPLErr NSVQBand::SetScaling(double dfScale, double dfOffset)
{
    if (Base() || (dfScale == 1 && dfOffset == 0 && (m_oScaling.dfScale != 1 || m_oScaling.dfOffset != 0)))
        return CannotRemove("a scale or an offset");
    const CPLErr eErr = GDALPamRasterBand::SetScale(dfScale);
    return eErr == CE_None ? GDALPamRasterBand::SetOffset(dfOffset) : eErr;
}

CPLErr NSVQBand::SetScale(double dfScale)
{
    return SetScaling(dfScale, GetOffset());
}

CPLErr NSVQBand::SetOffset(double dfOffset)
{
    return SetScaling(GetScale(), dfOffset);
}

CPLErr NSVQBand::SetColorInterpretation(GDALColorInterp eInterp)
{
    if (eInterp == GCI_Undefined && m_eColorInterp != GCI_Undefined)
        return CannotRemove("a colour interpretation");
    return GDALPamRasterBand::SetColorInterpretation(eInterp);
}

CPLErr NSVQBand::SetUnitType(const char *pszUnit)
{
    if ((!pszUnit || !pszUnit[0]) && !m_osUnit.empty()) return CannotRemove("a unit");
    return GDALPamRasterBand::SetUnitType(pszUnit);
}

CPLErr NSVQBand::SetCategoryNames(char **papszNames)
{
    if ((!papszNames || !papszNames[0]) && !m_aosCategories.empty())
        return CannotRemove("category names");
    return GDALPamRasterBand::SetCategoryNames(papszNames);
}

CPLErr NSVQBand::SetColorTable(GDALColorTable *poTable)
{
    if (!poTable && m_poColorTable) return CannotRemove("a palette");
    return GDALPamRasterBand::SetColorTable(poTable);
}

CPLErr NSVQBand::SetDefaultRAT(const GDALRasterAttributeTable *poTable)
{
    if (!poTable && m_poRAT) return CannotRemove("an attribute table");
    return GDALPamRasterBand::SetDefaultRAT(poTable);
}
