/* vsisource.cpp - the library's sources and sinks on GDAL's virtual files. */
#include "nsvqdataset.h"

#include "cpl_vsi_virtual.h"

#include <climits>

NSVQSource::~NSVQSource()
{
    VSIFCloseL(m_fp);
}

NSVQSource::NSVQSource(VSILFILE *fp, const char *pszFilename)
    : m_fp(fp), m_bLocal(VSIIsLocal(pszFilename)),
      // Positional reads of remote files open a connection each.
      m_bParallel(m_bLocal && reinterpret_cast<VSIVirtualHandle *>(fp)->HasPRead())
{
}

bool NSVQSource::Get(nsvq_source &sSource)
{
    if (VSIFSeekL(m_fp, 0, SEEK_END) != 0) return false;
    sSource.user = this;
    sSource.size = VSIFTellL(m_fp);
    sSource.read_at = ReadAt;
    sSource.read_many = m_bLocal ? nullptr : ReadMany;
    return true;
}

/* All ranges together, over connections that stay open. */
int NSVQSource::ReadMany(void *pUser, size_t nRanges, const uint64_t *panOffsets,
                         const size_t *panSizes, void *const *papBuffers)
{
    CPLErrorHandlerPusher oPusher(CPLQuietErrorHandler);
    NSVQSource *poSource = static_cast<NSVQSource *>(pUser);
    if (nRanges > INT_MAX) return -1;
    std::vector<vsi_l_offset> anOffsets(panOffsets, panOffsets + nRanges);
    std::vector<void *> apBuffers(papBuffers, papBuffers + nRanges);
    std::lock_guard<std::mutex> oLock(poSource->m_oMutex);
    return VSIFReadMultiRangeL(static_cast<int>(nRanges), apBuffers.data(), anOffsets.data(),
                               panSizes, poSource->m_fp);
}

size_t NSVQSource::Read(uint64_t nOffset, void *pBuffer, size_t nBytes)
{
    if (m_bParallel)
        return reinterpret_cast<VSIVirtualHandle *>(m_fp)->PRead(pBuffer, nBytes, nOffset);
    std::lock_guard<std::mutex> oLock(m_oMutex);
    return VSIFSeekL(m_fp, nOffset, SEEK_SET) == 0 ? VSIFReadL(pBuffer, 1, nBytes, m_fp) : 0;
}

int NSVQSource::ReadAt(void *pUser, uint64_t nOffset, void *pBuffer, size_t nBytes)
{
    // Called from the library's threads, where an application's error handler must not run: the
    // status alone goes back, and the calling thread reports it.
    CPLErrorHandlerPusher oPusher(CPLQuietErrorHandler);
    return static_cast<NSVQSource *>(pUser)->Read(nOffset, pBuffer, nBytes) == nBytes ? 0 : -1;
}

NSVQSink::~NSVQSink()
{
    if (m_fp) VSIFCloseL(m_fp);
}

nsvq_sink NSVQSink::Get()
{
    nsvq_sink sSink;
    sSink.user = this;
    sSink.write_at = WriteAt;
    return sSink;
}

int NSVQSink::WriteAt(void *pUser, uint64_t nOffset, const void *pBuffer, size_t nBytes)
{
    NSVQSink *poSink = static_cast<NSVQSink *>(pUser);

    if (nOffset != poSink->m_nPos && VSIFSeekL(poSink->m_fp, nOffset, SEEK_SET) != 0) return -1;
    const size_t nWritten = VSIFWriteL(pBuffer, 1, nBytes, poSink->m_fp);
    poSink->m_nPos = nOffset + nWritten;
    return nWritten == nBytes ? 0 : -1;
}

bool NSVQSink::Close()
{
    const bool bFlushed = VSIFFlushL(m_fp) == 0;
    const bool bClosed = VSIFCloseL(m_fp) == 0;
    m_fp = nullptr;
    return bFlushed && bClosed;
}
