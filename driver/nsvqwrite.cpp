/* nsvqwrite.cpp - Create(): a dataset to be written piece by piece, as QGIS, rasterio and gdalwarp do.
 *
 * Pixels go to a temporary GeoTIFF, all else stays in memory (PAM that is never saved). Closing copies
 * both to the file of the asked name, which does not exist before, and never does when that fails or any
 * write before has failed. */
#include "nsvqcreate.h"

#include <algorithm>

namespace
{

class WriteDataset;

class WriteBand final : public GDALPamRasterBand
{
  public:
    WriteBand(WriteDataset *poDSIn, GDALRasterBand *poTemporary);

    CPLErr IReadBlock(int nBlockXOff, int nBlockYOff, void *pImage) override
    {
        return TransferBlock(GF_Read, nBlockXOff, nBlockYOff, pImage);
    }
    CPLErr IWriteBlock(int nBlockXOff, int nBlockYOff, void *pImage) override;
    CPLErr IRasterIO(GDALRWFlag eRWFlag, int nXOff, int nYOff, int nXSize, int nYSize, void *pData,
                     int nBufXSize, int nBufYSize, GDALDataType eBufType, GSpacing nPixelSpace,
                     GSpacing nLineSpace, GDALRasterIOExtraArg *psExtraArg) override;
    CPLErr Fill(double dfReal, double dfImaginary) override;
    CPLErr FlushCache(bool bAtClosing) override;
    /* Before the temporary file is read or written past this band's own blocks, which statistics come by and which are
     * older or newer than what it holds. */
    CPLErr Settle(GDALRWFlag eRWFlag, int nX, int nY, int nW, int nH)
    {
        GDALPamRasterBand::FlushCache(false);
        return FillUntouched(eRWFlag, nX, nY, nW, nH);
    }
    bool IsMaskBand() const override
    {
        return m_poTemporary->IsMaskBand();
    }
    // A mask is made of pixels too.
    CPLErr CreateMaskBand(int nNewFlags) override
    {
        const CPLErr eErr = m_poTemporary->CreateMaskBand(nNewFlags);
        m_bMask = m_bMask || eErr == CE_None;
        return eErr;
    }
    bool HasMask() const
    {
        return m_bMask || m_poTemporary->GetMaskFlags() == GMF_PER_DATASET;
    }
    GDALRasterBand *GetMaskBand() override
    {
        if (!HasMask()) return GDALPamRasterBand::GetMaskBand();
        if (!m_poMask) m_poMask = std::make_unique<WriteBand>(Owner(), m_poTemporary->GetMaskBand());
        return m_poMask.get();
    }
    int GetMaskFlags() override
    {
        return HasMask() ? m_poTemporary->GetMaskFlags() : GDALPamRasterBand::GetMaskFlags();
    }

  private:
    WriteDataset *Owner() const;
    /* Before pixels of a window are read or written: what was never written is nodata, as in other formats. The
     * temporary file must not know of it: GeoTIFF has but one nodata value, and leaves out blocks that consist of it. */
    CPLErr FillUntouched(GDALRWFlag eRWFlag, int nX, int nY, int nW, int nH);
    CPLErr TransferBlock(GDALRWFlag eRWFlag, int nBlockXOff, int nBlockYOff, void *pImage);

    GDALRasterBand *m_poTemporary; // its dataset's
    std::vector<bool> m_abTouched{}; // blocks that hold pixels that were written
    std::unique_ptr<WriteBand> m_poMask{};
    bool m_bMask = false;
};

class WriteDataset final : public GDALPamDataset
{
  public:
    WriteDataset(GDALDataset *poTemporary, const char *pszFilename, CSLConstList papszOptions);
    ~WriteDataset() override;

    CPLErr IRasterIO(GDALRWFlag eRWFlag, int nXOff, int nYOff, int nXSize, int nYSize, void *pData,
                     int nBufXSize, int nBufYSize, GDALDataType eBufType, int nBandCount,
                     BANDMAP_TYPE panBandMap, GSpacing nPixelSpace, GSpacing nLineSpace,
                     GSpacing nBandSpace, GDALRasterIOExtraArg *psExtraArg) override
    {
        for (int i = 0; i < nBandCount; i++)
            if (static_cast<WriteBand *>(GetRasterBand(panBandMap[i]))
                    ->Settle(eRWFlag, nXOff, nYOff, nXSize, nYSize) != CE_None)
                return CE_Failure;
        const CPLErr eErr = m_poTemporary->RasterIO(
            eRWFlag, nXOff, nYOff, nXSize, nYSize, pData, nBufXSize, nBufYSize, eBufType, nBandCount,
            panBandMap, nPixelSpace, nLineSpace, nBandSpace, psExtraArg);
        return eRWFlag == GF_Write ? Written(eErr) : eErr;
    }
    CPLErr CreateMaskBand(int nNewFlags) override
    {
        return m_poTemporary->CreateMaskBand(nNewFlags);
    }
    NSVQ_FLUSH_RESULT FlushCache(bool bAtClosing) override;
    NSVQ_CLOSE_OVERRIDE

    // What a write came to: whoever goes on after a failure gets no file with holes.
    CPLErr Written(CPLErr eErr)
    {
        m_bFailed = m_bFailed || eErr != CE_None;
        return eErr;
    }

  protected:
    // The file gets overviews when it is closed.
    CPLErr IBuildOverviews(const char *pszResampling, int nOverviews, const int *, int, const int *,
                           GDALProgressFunc, void *, CSLConstList) override
    {
        m_aosOptions.SetNameValue("OVERVIEWS", nOverviews > 0 ? "AUTO" : "NONE");
        if (nOverviews > 0) {
            const bool bKnown = EQUAL(pszResampling, "NEAREST") || EQUAL(pszResampling, "MODE");
            m_aosOptions.SetNameValue("OVERVIEW_RESAMPLING", bKnown ? pszResampling : "AVERAGE");
            if (!bKnown && !EQUAL(pszResampling, "AVERAGE"))
                CPLError(CE_Warning, CPLE_NotSupported, "overviews by AVERAGE, there are none by %s",
                         pszResampling);
        }
        return CE_None;
    }

  private:
    CPLErr Finish();

    std::unique_ptr<GDALDataset> m_poTemporary;
    const std::string m_osFilename;
    CPLStringList m_aosOptions;
    bool m_bFinished = false, m_bFailed = false;
};

} // namespace

WriteDataset *WriteBand::Owner() const
{
    return static_cast<WriteDataset *>(poDS);
}

WriteBand::WriteBand(WriteDataset *poDSIn, GDALRasterBand *poTemporary) : m_poTemporary(poTemporary)
{
    poDS = poDSIn;
    nBand = poTemporary->GetBand();
    eAccess = GA_Update;
    eDataType = poTemporary->GetRasterDataType();
    nRasterXSize = poTemporary->GetXSize();
    nRasterYSize = poTemporary->GetYSize();
    poTemporary->GetBlockSize(&nBlockXSize, &nBlockYSize);
    m_abTouched.resize(static_cast<size_t>(DIV_ROUND_UP(nRasterXSize, nBlockXSize)) *
                       DIV_ROUND_UP(nRasterYSize, nBlockYSize));
}

CPLErr WriteBand::FillUntouched(GDALRWFlag eRWFlag, int nX, int nY, int nW, int nH)
{
    const nsvq_type eType = NSVQFromGDALBand(this);
    const GDALDataType eBufType = NSVQToGDALType(eType);
    uint64_t nNoData = 0;
    const bool bFill = NSVQGetNoDataBits(this, nNoData) && nNoData != 0;
    std::vector<GByte> abyBlock;

    if (eRWFlag == GF_Read && !bFill) return CE_None;
    for (int nBY = nY / nBlockYSize; nBY <= (nY + nH - 1) / nBlockYSize; nBY++)
        for (int nBX = nX / nBlockXSize; nBX <= (nX + nW - 1) / nBlockXSize; nBX++) {
            const size_t iBlock = static_cast<size_t>(nBY) * DIV_ROUND_UP(nRasterXSize, nBlockXSize) + nBX;
            if (m_abTouched[iBlock]) continue;
            const int nX0 = nBX * nBlockXSize, nX1 = std::min(nX0 + nBlockXSize, nRasterXSize);
            const int nY0 = nBY * nBlockYSize, nY1 = std::min(nY0 + nBlockYSize, nRasterYSize);
            const bool bWhole = nX <= nX0 && nY <= nY0 && nX1 - nX <= nW && nY1 - nY <= nH;
            m_abTouched[iBlock] = true;
            if (!bFill || (eRWFlag == GF_Write && bWhole)) continue;
            if (abyBlock.empty()) {
                const int nBytes = GDALGetDataTypeSizeBytes(eBufType);
                abyBlock.resize(static_cast<size_t>(nBytes) * nBlockXSize * nBlockYSize);
                GDALCopyWords64(&nNoData, eBufType, 0, abyBlock.data(), eBufType, nBytes,
                                GPtrDiff_t(nBlockXSize) * nBlockYSize);
            }
            if (Owner()->Written(m_poTemporary->RasterIO(GF_Write, nX0, nY0, nX1 - nX0, nY1 - nY0, abyBlock.data(),
                                                         nX1 - nX0, nY1 - nY0, eBufType, 0, 0, nullptr)) != CE_None)
                return CE_Failure;
        }
    return CE_None;
}

/* Through the temporary file's cache, where what was written may still be. */
CPLErr WriteBand::TransferBlock(GDALRWFlag eRWFlag, int nBlockXOff, int nBlockYOff, void *pImage)
{
    const int nX = nBlockXOff * nBlockXSize, nY = nBlockYOff * nBlockYSize;
    const int nW = std::min(nBlockXSize, nRasterXSize - nX), nH = std::min(nBlockYSize, nRasterYSize - nY);
    const GSpacing nBytes = GDALGetDataTypeSizeBytes(eDataType);
    if (FillUntouched(eRWFlag, nX, nY, nW, nH) != CE_None) return CE_Failure;
    return m_poTemporary->RasterIO(eRWFlag, nX, nY, nW, nH, pImage, nW, nH, eDataType, nBytes,
                                   nBytes * nBlockXSize, nullptr);
}

CPLErr WriteBand::IWriteBlock(int nBlockXOff, int nBlockYOff, void *pImage)
{
    return Owner()->Written(TransferBlock(GF_Write, nBlockXOff, nBlockYOff, pImage));
}

CPLErr WriteBand::IRasterIO(GDALRWFlag eRWFlag, int nXOff, int nYOff, int nXSize, int nYSize, void *pData,
                            int nBufXSize, int nBufYSize, GDALDataType eBufType, GSpacing nPixelSpace,
                            GSpacing nLineSpace, GDALRasterIOExtraArg *psExtraArg)
{
    if (Settle(eRWFlag, nXOff, nYOff, nXSize, nYSize) != CE_None) return CE_Failure;
    const CPLErr eErr = m_poTemporary->RasterIO(eRWFlag, nXOff, nYOff, nXSize, nYSize, pData, nBufXSize,
                                                nBufYSize, eBufType, nPixelSpace, nLineSpace, psExtraArg);
    return eRWFlag == GF_Write ? Owner()->Written(eErr) : eErr;
}

CPLErr WriteBand::Fill(double dfReal, double dfImaginary)
{
    GDALPamRasterBand::FlushCache(false);
    m_abTouched.assign(m_abTouched.size(), true);
    return Owner()->Written(m_poTemporary->Fill(dfReal, dfImaginary));
}

CPLErr WriteBand::FlushCache(bool bAtClosing)
{
    const CPLErr eMask = m_poMask ? m_poMask->FlushCache(bAtClosing) : CE_None;
    const CPLErr eErr = GDALPamRasterBand::FlushCache(bAtClosing);
    return eErr != CE_None ? eErr : eMask;
}

WriteDataset::WriteDataset(GDALDataset *poTemporary, const char *pszFilename,
                           CSLConstList papszOptions)
    : m_poTemporary(poTemporary), m_osFilename(pszFilename), m_aosOptions(CSLDuplicate(papszOptions))
{
    eAccess = GA_Update;
    nRasterXSize = poTemporary->GetRasterXSize();
    nRasterYSize = poTemporary->GetRasterYSize();
    nPamFlags |= GPF_NOSAVE;
    for (int i = 1; i <= poTemporary->GetRasterCount(); i++)
        SetBand(i, new WriteBand(this, poTemporary->GetRasterBand(i)));
}

WriteDataset::~WriteDataset()
{
    Finish();
}

NSVQ_CLOSE_DEFINE(WriteDataset)

/* Blocks that were written through the cache, then what GeoTIFF holds back: a full disk shows here. */
NSVQ_FLUSH_RESULT WriteDataset::FlushCache(bool bAtClosing)
{
    const bool bBefore = m_bFailed;
    if (m_poTemporary) {
        CPLErrorStateBackuper oBackuper;
        CPLErrorReset();
        GDALPamDataset::FlushCache(bAtClosing);
        m_poTemporary->FlushCache(false);
        m_bFailed |= CPLGetLastErrorType() == CE_Failure;
    }
    if (m_bFailed && !bBefore) // gdalwarp looks for the last error
        CPLError(CE_Failure, CPLE_FileIO, "%s: not all could be written", m_osFilename.c_str());
    NSVQ_FLUSHED(m_bFailed ? CE_Failure : CE_None);
}

CPLErr WriteDataset::Finish()
{
    if (m_bFinished) return CE_None;
    m_bFinished = true;
    const std::string osTemporary = m_poTemporary->GetDescription();
    CPLErr eErr = CE_None;
    FlushCache(false);
    if (!m_bFailed) {
        std::unique_ptr<GDALDataset> poDone(NSVQDataset::CreateCopy(
            m_osFilename.c_str(), this, FALSE, m_aosOptions.List(), nullptr, nullptr));
        if (!poDone) eErr = CE_Failure;
    } else {
        eErr = CE_Failure;
        CPLError(CE_Failure, CPLE_FileIO, "%s: what was written cannot be kept",
                 m_osFilename.c_str());
    }
    m_poTemporary.reset();
    NSVQDeleteTemporary(osTemporary);
    return eErr;
}

GDALDataset *NSVQCreate(const char *pszFilename, int nXSize, int nYSize, int nBands,
                        GDALDataType eType, NSVQ_CSL papszOptions)
{
    if (!NSVQCheckOptions(pszFilename, papszOptions)) return nullptr;
    if (nBands < 1 || nBands > 16384) {
        CPLError(CE_Failure, CPLE_NotSupported, "NSVQ files have 1 to 16384 bands, not %d", nBands);
        return nullptr;
    }
    GDALDriver *poGTiff = GetGDALDriverManager()->GetDriverByName("GTiff");
    if (!poGTiff) {
        CPLError(CE_Failure, CPLE_NotSupported, "writing piece by piece needs the GTiff driver");
        return nullptr;
    }
    const std::string osTemporary = NSVQGetTemporaryName(pszFilename) + ".tif";
    CPLStringList aosOptions;
    aosOptions.SetNameValue("TILED", "YES");
    aosOptions.SetNameValue("BLOCKXSIZE", "512");
    aosOptions.SetNameValue("BLOCKYSIZE", "512");
    aosOptions.SetNameValue("INTERLEAVE", "BAND");
    aosOptions.SetNameValue("SPARSE_OK", "YES");
    aosOptions.SetNameValue("BIGTIFF", "IF_SAFER");
    GDALDataset *poTemporary =
        poGTiff->Create(osTemporary.c_str(), nXSize, nYSize, nBands, eType, aosOptions.List());
    if (!poTemporary) {
        NSVQDeleteTemporary(osTemporary);
        return nullptr;
    }
    auto poDS = std::make_unique<WriteDataset>(poTemporary, pszFilename, papszOptions);
    poDS->SetDescription(pszFilename);
    return poDS.release();
}
