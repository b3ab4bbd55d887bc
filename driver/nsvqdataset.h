/* nsvqdataset.h - the driver's classes: GDAL's calls on one side, nsvq.h on the other. */
#ifndef NSVQDATASET_H
#define NSVQDATASET_H

#include "gdal_compat.h"
#include "gdal_pam.h"
#include "gdal_rat.h"
#include "ogr_spatialref.h"

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "nsvq.h"

/* One CPLError from a status of the library; pszDoing says what failed ("a.nsvq: cannot read"). */
void NSVQError(nsvq_status eStatus, const nsvq_error &sError, const char *pszDoing);

/* NUM_THREADS of papszOptions, else the configuration option GDAL_NUM_THREADS, else all CPUs.
 * False, with a CPLError, when the option is neither a number from 1 nor ALL_CPUS. */
bool NSVQGetNumThreads(CSLConstList papszOptions, int &nThreads);

/* ---- nsvqmeta.cpp ---- */

/* Whether a metadata domain describes one file or driver, not what the raster shows: such domains
 * are neither written nor believed. */
bool NSVQIsOwnDomain(const char *pszDomain);

/* ---- nsvqtypes.cpp ---- */

/* The type of GDAL's that holds samples of eType; GDT_Unknown for what is no type. */
GDALDataType NSVQToGDALType(nsvq_type eType);

/* The type that holds what a band has, and the one to read it as: wider where there is none of the
 * same width. 0: none. */
nsvq_type NSVQFromGDALBand(GDALRasterBand *poBand);

/* A value as the bits of a sample of eType. False where no sample is it. */
bool NSVQGetSampleBits(nsvq_type eType, double dfValue, uint64_t &nBits);
/* The same of the band's nodata value. False, too, where it has none. */
bool NSVQGetNoDataBits(GDALRasterBand *poBand, uint64_t &nBits);

/* ---- nsvqwrite.cpp ---- */

GDALDataset *NSVQCreate(const char *pszFilename, int nXSize, int nYSize, int nBands,
                        GDALDataType eType, NSVQ_CSL papszOptions);

/* ---- vsisource.cpp ---- */

/* Positional reads on a VSILFILE, from any number of threads. Owns the handle. */
class NSVQSource final
{
  public:
    NSVQSource(VSILFILE *fp, const char *pszFilename);
    ~NSVQSource();
    bool IsLocal() const
    {
        return m_bLocal;
    }
    /* As the library wants it; valid as long as this object. False when the size is unknown. */
    bool Get(nsvq_source &sSource);

  private:
    static int ReadAt(void *pUser, uint64_t nOffset, void *pBuffer, size_t nBytes);
    static int ReadMany(void *pUser, size_t nRanges, const uint64_t *panOffsets,
                        const size_t *panSizes, void *const *papBuffers);
    size_t Read(uint64_t nOffset, void *pBuffer, size_t nBytes);

    VSILFILE *m_fp;
    const bool m_bLocal;
    const bool m_bParallel; // by several threads, at places
    std::mutex m_oMutex{}; // around seek + read, where reads are not parallel
    CPL_DISALLOW_COPY_ASSIGN(NSVQSource)
};

/* Writes to a VSILFILE. Owns the handle. */
class NSVQSink final
{
  public:
    explicit NSVQSink(VSILFILE *fp) : m_fp(fp)
    {
    }
    ~NSVQSink();
    nsvq_sink Get();
    /* False when something of what was written may be missing. */
    bool Close();

  private:
    static int WriteAt(void *pUser, uint64_t nOffset, const void *pBuffer, size_t nBytes);

    VSILFILE *m_fp;
    uint64_t m_nPos = 0;
    CPL_DISALLOW_COPY_ASSIGN(NSVQSink)
};

/* ---- nsvqdataset.cpp, nsvqpixels.cpp, nsvqmeta.cpp ---- */

class NSVQBand;
class NSVQMaskBand;

struct NSVQGroup { // bands nFirst .. nFirst + nCount - 1, from 0, are coded together
    nsvq_coding eCoding;
    nsvq_type eType;
    int nFirst;
    int nCount;
};

struct NSVQFileReleaser {
    void operator()(nsvq_file *p) const
    {
        nsvq_close(p);
    }
};
struct NSVQDecoderReleaser {
    void operator()(nsvq_decoder *p) const
    {
        nsvq_decoder_destroy(p);
    }
};

class NSVQDataset final : public GDALPamDataset
{
    friend class NSVQBand;
    friend class NSVQMaskBand;

  public:
    NSVQDataset();
    ~NSVQDataset() override;

    static int Identify(GDALOpenInfo *poOpenInfo);
    static GDALDataset *Open(GDALOpenInfo *poOpenInfo);
    /* psModel (may be NULL) is tried before the embedded and the shipped models. */
    static GDALDataset *OpenWithModel(GDALOpenInfo *poOpenInfo, const nsvq_model *psModel);
    static GDALDataset *CreateCopy(const char *pszFilename, GDALDataset *poSrcDS, int bStrict,
                                   NSVQ_CSL papszOptions, GDALProgressFunc pfnProgress,
                                   void *pProgressData);

    // What a later edit put into the .aux.xml wins over what the file holds.
    CPLErr NSVQ_GET_GEOTRANSFORM(adfGT) override;
    const OGRSpatialReference *GetSpatialRef() const override;
    int GetGCPCount() override;
    const GDAL_GCP *GetGCPs() override;
    const OGRSpatialReference *GetGCPSpatialRef() const override;
    const char *GetMetadataItem(const char *pszName, const char *pszDomain = "") override;
    CPLErr SetSpatialRef(const OGRSpatialReference *poSRS) override;
    CPLErr SetGCPs(int nCount, const GDAL_GCP *pasGCPs, const OGRSpatialReference *poSRS) override;
    CPLErr CreateMaskBand(int nFlags) override;
    /* Blocks of the window that are then read one by one come with those to the right of them. */
    CPLErr AdviseRead(int nXOff, int nYOff, int nXSize, int nYSize, int nBufXSize, int nBufYSize,
                      GDALDataType eBufType, int nBandCount, int *panBandList,
                      NSVQ_CSL papszOptions) override;

  protected:
    CPLErr IBuildOverviews(const char *pszResampling, int nOverviews, const int *panOverviews,
                           int nListBands, const int *panBands, GDALProgressFunc pfnProgress,
                           void *pProgressData, CSLConstList papszOptions) override;
    CPLErr IRasterIO(GDALRWFlag eRWFlag, int nXOff, int nYOff, int nXSize, int nYSize, void *pData,
                     int nBufXSize, int nBufYSize, GDALDataType eBufType, int nBandCount,
                     BANDMAP_TYPE panBandMap, GSpacing nPixelSpace, GSpacing nLineSpace,
                     GSpacing nBandSpace, GDALRasterIOExtraArg *psExtraArg) override;

  private:
    struct Window { // in pixels
        int nX, nY, nW, nH;
    };
    struct Buffer { // the caller's, of any type and spacing
        GByte *pabyData;
        GDALDataType eType;
        GSpacing nPixelSpace, nLineSpace, nBandSpace;
    };

    bool OpenFile(GDALOpenInfo *poOpenInfo, const nsvq_model *psModel);
    NSVQDataset *GetLevel(int nLevel);
    int GetLevelCount() const
    {
        return m_bHideLevels ? 0 : static_cast<int>(m_sInfo.n_levels) - 1 - m_nLevel;
    }
    GDALRasterBand *GetMaskOf(int nBand);
    nsvq_window MakeWindow(int nX, int nY, int nW, int nH) const;
    void LoadGroups();
    void LoadMetadata();
    void LoadRecord(const nsvq_meta &sMeta);
    void LoadDomain(GDALMajorObject *poObject, const char *pszText, size_t nSize);
    void LoadGCPs(const nsvq_meta &sMeta);
    void SetStructureMetadata();

    nsvq_decoder *GetDecoder();
    bool ReadPixels(nsvq_window sWindow, bool bMask, bool bQuiet);
    int GetAdvisedEnd(GDALRasterBand *poBand, int nBX, int nBY);
    CPLErr ReadBlocks(int iGroup, int nBY, int nBX0, int nBX1, bool bQuiet, int nOwnBand,
                      void *pOwnBlock);
    GDALDataType GetTypeOf(int nBandCount, const int *panBandMap);
    bool IsDirect(const Window &oWin, int nBandCount, const int *panBandMap,
                  GDALDataType eBufType);
    CPLErr ReadDirect(const Window &oWin, int nBandCount, const int *panBandMap,
                      const Buffer &oBuffer, GDALRasterIOExtraArg *psExtraArg);
    bool CanCopy(const Window &oWin, int nBandCount, GDALDataType eType, GDALDataType eBufType) const;
    template <class Cached>
    CPLErr ReadAround(Cached ReadCached, const Window &oWin, int nBandCount, const int *panBandMap,
                      const Buffer &oBuffer, GDALRasterIOExtraArg *psExtraArg);
    void Prefetch(const Window &oWin, int nBandCount, const int *panBandMap);

    std::unique_ptr<NSVQSource> m_poSource{}; // outlives m_psFile, which outlives m_psDecoder
    std::unique_ptr<nsvq_file, NSVQFileReleaser> m_psFile{};
    std::unique_ptr<nsvq_decoder, NSVQDecoderReleaser> m_psDecoder{}; // made by the first read
    nsvq_info m_sInfo{};
    int m_nLevel = 0;
    NSVQDataset *m_poBase = nullptr; // of an overview: the full resolution, which owns it
    std::vector<std::unique_ptr<NSVQDataset>> m_apoLevels{}; // made when asked for; [0] is empty
    bool m_bHideLevels = false;      // while external overviews are built
    int m_nThreads = 1;
    bool m_bTolerant = false; // ON_ERROR=NODATA
    bool m_bToldOfDamage = false;
    Window m_oAdvised{0, 0, 0, 0};
    std::vector<NSVQGroup> m_aoGroups{};

    OGRSpatialReference m_oSRS{};
    OGRSpatialReference m_oGCPSRS{};
    std::vector<int> m_anAxes{}, m_anGCPAxes{};
    double m_dfEpoch = 0, m_dfGCPEpoch = 0;
    bool m_bGeoTransform = false;
    double m_adfGeoTransform[6] = {0, 1, 0, 0, 0, 1};
    std::vector<GDAL_GCP> m_asGCPs{};
    std::vector<std::unique_ptr<NSVQMaskBand>> m_apoMasks{}; // none, the dataset's, or each band's
};

class NSVQBand final : public GDALPamRasterBand
{
    friend class NSVQDataset;

  public:
    NSVQBand(NSVQDataset *poDS, int nBand, int iGroup);

    CPLErr IReadBlock(int nBlockXOff, int nBlockYOff, void *pImage) override;
    CPLErr IRasterIO(GDALRWFlag eRWFlag, int nXOff, int nYOff, int nXSize, int nYSize, void *pData,
                     int nBufXSize, int nBufYSize, GDALDataType eBufType, GSpacing nPixelSpace,
                     GSpacing nLineSpace, GDALRasterIOExtraArg *psExtraArg) override;
    GDALColorInterp GetColorInterpretation() override;
    double GetNoDataValue(int *pbSuccess = nullptr) override;
    int64_t GetNoDataValueAsInt64(int *pbSuccess = nullptr) override;
    uint64_t GetNoDataValueAsUInt64(int *pbSuccess = nullptr) override;
    CPLErr DeleteNoDataValue() override;
    double GetScale(int *pbSuccess = nullptr) override;
    double GetOffset(int *pbSuccess = nullptr) override;
    CPLErr SetScale(double dfScale) override;
    CPLErr SetOffset(double dfOffset) override;
    const char *GetUnitType() override;
    char **GetCategoryNames() override;
    GDALRasterBand *GetMaskBand() override;
    int GetMaskFlags() override;
    CPLErr CreateMaskBand(int nFlags) override;
    GDALColorTable *GetColorTable() override;
    GDALRasterAttributeTable *GetDefaultRAT() override;
    // An edit that would take away what the file holds has no effect, so it fails.
    CPLErr SetColorInterpretation(GDALColorInterp eInterp) override;
    CPLErr SetUnitType(const char *pszUnit) override;
    CPLErr SetCategoryNames(char **papszNames) override;
    CPLErr SetColorTable(GDALColorTable *poTable) override;
    CPLErr SetDefaultRAT(const GDALRasterAttributeTable *poTable) override;
    int GetOverviewCount() override;
    GDALRasterBand *GetOverview(int iLevel) override;

  private:
    NSVQDataset *Owner() const
    {
        return static_cast<NSVQDataset *>(poDS);
    }
    struct Scaling {
        double dfScale, dfOffset;
        bool bHasScale, bHasOffset;
    };
    Scaling GetScaling();
    CPLErr SetScaling(double dfScale, double dfOffset);
    // Of an overview's band: that of the full resolution, which knows all but the pixels.
    NSVQBand *Base() const;

    int m_iGroup;
    GDALColorInterp m_eColorInterp = GCI_Undefined;
    bool m_bHasNoData = false;
    double m_dfNoData = 0;
    Scaling m_oScaling{1, 0, false, false};
    uint64_t m_nNoData = 0; // of the types of 64 bits, whose values doubles do not hold
    std::string m_osUnit{};
    CPLStringList m_aosCategories{};
    std::unique_ptr<GDALColorTable> m_poColorTable{};
    std::unique_ptr<GDALDefaultRasterAttributeTable> m_poRAT{};
};

class NSVQMaskBand final : public GDALRasterBand
{
  public:
    /* iMask: from 0, of the file's masks */
    NSVQMaskBand(NSVQDataset *poDS, int iMask);
    CPLErr IReadBlock(int nBlockXOff, int nBlockYOff, void *pImage) override;
    CPLErr IRasterIO(GDALRWFlag eRWFlag, int nXOff, int nYOff, int nXSize, int nYSize, void *pData,
                     int nBufXSize, int nBufYSize, GDALDataType eBufType, GSpacing nPixelSpace,
                     GSpacing nLineSpace, GDALRasterIOExtraArg *psExtraArg) override;
    int GetOverviewCount() override;
    GDALRasterBand *GetOverview(int iLevel) override;
    bool IsMaskBand() const override
    {
        return true;
    }

  private:
    int m_iMask;
};

#endif
