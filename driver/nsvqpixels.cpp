/* nsvqpixels.cpp - reading pixels.
 *
 * Pixels take one of two ways. Windows that consist mostly of whole blocks go straight from the
 * library into the caller's buffer. All else goes through GDAL's block cache, so that reading line
 * by line or band by band decodes a block once; blocks that such a request will need are decoded
 * together beforehand, in parallel. The library's threads never touch the block cache, and no lock
 * of ours is held while GDAL's is. */
#include "nsvqdataset.h"

#include <algorithm>
#include <cstring>
#include <numeric>

constexpr size_t kMaxTemporaryBytes = 256 << 20; // of a direct read into another type
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

/* ---- from the library ---- */

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

/* ---- through the block cache ---- */

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

CPLErr NSVQBand::IReadBlock(int nBlockXOff, int nBlockYOff, void *pImage)
{
    const int nEnd = Owner()->GetAdvisedEnd(this, nBlockXOff, nBlockYOff);
    return Owner()->ReadBlocks(m_iGroup, nBlockYOff, nBlockXOff, nEnd, false, nBand, pImage);
}

CPLErr NSVQDataset::AdviseRead(int nXOff, int nYOff, int nXSize, int nYSize, int nBufXSize,
                               int nBufYSize, GDALDataType, int, int *, NSVQ_CSL)
{
    const bool bInside = nXOff >= 0 && nYOff >= 0 && nXSize > 0 && nYSize > 0 &&
                         nXSize <= nRasterXSize - nXOff && nYSize <= nRasterYSize - nYOff;
    if (bInside && nBufXSize == nXSize && nBufYSize == nYSize)
        m_oAdvised = {nXOff, nYOff, nXSize, nYSize};
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

/* ---- into the caller's buffer ---- */

/* The type that the bands have in common, or GDT_Unknown. */
GDALDataType NSVQDataset::GetTypeOf(int nBandCount, const int *panBandMap)
{
    const GDALDataType eType = GetRasterBand(panBandMap[0])->GetRasterDataType();
    for (int i = 1; i < nBandCount; i++)
        if (GetRasterBand(panBandMap[i])->GetRasterDataType() != eType) return GDT_Unknown;
    return eType;
}

/* Whether a direct read fits into the temporary buffer that another type of the caller's asks for. */
bool NSVQDataset::CanCopy(const Window &oWin, int nBandCount, GDALDataType eType,
                          GDALDataType eBufType) const
{
    return eType != GDT_Unknown &&
           (eBufType == eType || static_cast<size_t>(nBandCount) * oWin.nW <=
                                     kMaxTemporaryBytes / m_sInfo.block_size / GDALGetDataTypeSizeBytes(eType));
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
    if (!CanCopy(oWin, nBandCount, eType, eBufType)) return false;

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

/* ---- which way ---- */

struct Message {
    CPLErr eErr;
    CPLErrorNum nNumber;
    std::string osText;
};

static void CPL_STDCALL KeepMessage(CPLErr eErr, CPLErrorNum nNumber, const char *pszText)
{
    static_cast<std::vector<Message> *>(CPLGetErrorHandlerUserData())->push_back({eErr, nNumber, pszText});
}

/* The cache takes whole blocks. Damage in a neighbour reaches but the edge of a lossy one: a window
 * that it does not reach is then read alone. */
template <class Cached>
CPLErr NSVQDataset::ReadAround(Cached ReadCached, const Window &oWin, int nBandCount,
                               const int *panBandMap, const Buffer &oBuffer,
                               GDALRasterIOExtraArg *psExtraArg)
{
    std::vector<Message> aoMessages;
    CPLErr eErr;
    bool bCancelled;
    {
        CPLErrorStateBackuper oBackuper;
        CPLErrorHandlerPusher oPusher(KeepMessage, &aoMessages);
        CPLSetCurrentErrorHandlerCatchDebug(FALSE);
        eErr = ReadCached();
        bCancelled = CPLGetLastErrorNo() == CPLE_UserInterrupt;
    }
    if (eErr == CE_Failure && !bCancelled &&
        CanCopy(oWin, nBandCount, GetTypeOf(nBandCount, panBandMap), oBuffer.eType))
        return ReadDirect(oWin, nBandCount, panBandMap, oBuffer, psExtraArg);
    for (const Message &oMessage : aoMessages)
        CPLError(oMessage.eErr, oMessage.nNumber, "%s", oMessage.osText.c_str());
    return eErr;
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
    const auto ReadCached = [&]() {
        return GDALPamDataset::IRasterIO(eRWFlag, nXOff, nYOff, nXSize, nYSize, pData, nBufXSize,
                                         nBufYSize, eBufType, nBandCount, panBandMap, nPixelSpace,
                                         nLineSpace, nBandSpace, psExtraArg);
    };
    if (!IsPlainRead(eRWFlag, nXOff, nYOff, nXSize, nYSize, nBufXSize, nBufYSize, psExtraArg))
        return ReadCached();
    const Window oWin{nXOff, nYOff, nXSize, nYSize};
    const Buffer oBuffer{static_cast<GByte *>(pData), eBufType, nPixelSpace, nLineSpace, nBandSpace};
    if (IsDirect(oWin, nBandCount, panBandMap, eBufType))
        return ReadDirect(oWin, nBandCount, panBandMap, oBuffer, psExtraArg);
    Prefetch(oWin, nBandCount, panBandMap);
    return ReadAround(ReadCached, oWin, nBandCount, panBandMap, oBuffer, psExtraArg);
}

CPLErr NSVQBand::IRasterIO(GDALRWFlag eRWFlag, int nXOff, int nYOff, int nXSize, int nYSize,
                           void *pData, int nBufXSize, int nBufYSize, GDALDataType eBufType,
                           GSpacing nPixelSpace, GSpacing nLineSpace,
                           GDALRasterIOExtraArg *psExtraArg)
{
    const auto ReadCached = [&]() {
        return GDALPamRasterBand::IRasterIO(eRWFlag, nXOff, nYOff, nXSize, nYSize, pData, nBufXSize,
                                            nBufYSize, eBufType, nPixelSpace, nLineSpace, psExtraArg);
    };
    if (!IsPlainRead(eRWFlag, nXOff, nYOff, nXSize, nYSize, nBufXSize, nBufYSize, psExtraArg))
        return ReadCached();
    const NSVQDataset::Window oWin{nXOff, nYOff, nXSize, nYSize};
    const NSVQDataset::Buffer oBuffer{static_cast<GByte *>(pData), eBufType, nPixelSpace, nLineSpace, 0};
    if (Owner()->IsDirect(oWin, 1, &nBand, eBufType))
        return Owner()->ReadDirect(oWin, 1, &nBand, oBuffer, psExtraArg);
    Owner()->Prefetch(oWin, 1, &nBand);
    return Owner()->ReadAround(ReadCached, oWin, 1, &nBand, oBuffer, psExtraArg);
}

/* ---- masks ---- */

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
