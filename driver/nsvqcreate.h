/* nsvqcreate.h - shared by the files that write: options, records, temporary names. */
#ifndef NSVQCREATE_H
#define NSVQCREATE_H

#include "nsvqdataset.h"

#include <deque>

/* ---- nsvqoptions.cpp ---- */

struct NSVQModelReleaser {
    void operator()(nsvq_model *p) const
    {
        nsvq_model_release(p);
    }
};
using NSVQModelPtr = std::unique_ptr<nsvq_model, NSVQModelReleaser>;

struct NSVQCreateOptions {
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

/* False, with a CPLError, when an option has no meaning or the model cannot be had. */
bool NSVQParseOptions(CSLConstList papszOptions, NSVQCreateOptions &oOptions);

/* ---- nsvqrecords.cpp ---- */

/* The records for nsvq_raster, with the memory that they point to. */
class NSVQMetaRecords
{
  public:
    void Add(nsvq_meta_tag eTag, int nBand, std::string osPayload);
    void AddDoubles(nsvq_meta_tag eTag, int nBand, const double *padfValues, size_t nCount);
    void AddInteger(nsvq_meta_tag eTag, int nBand, uint64_t nValue);
    const std::vector<nsvq_meta> &Get() const
    {
        return m_asRecords;
    }

  private:
    std::deque<std::string> m_aosPayloads{};
    std::vector<nsvq_meta> m_asRecords{};
};

/* Add what the source, or a band of it, knows beside pixels. They return GCIF_ flags of what the
 * file cannot hold, for PAM. bExact: as the band is coded; else its statistics are left out. */
int NSVQAddDatasetRecords(NSVQMetaRecords &oMeta, GDALDataset *poSrcDS);
int NSVQAddBandRecords(NSVQMetaRecords &oMeta, int nBand, GDALRasterBand *poBand, bool bExact);

/* ---- nsvqcreate.cpp ---- */

/* Whether CreateCopy() would take the name and the options; else a CPLError says why not. */
bool NSVQCheckOptions(const char *pszFilename, CSLConstList papszOptions);
/* A name that no other writer has: beside the target, or local where the target's place takes bytes in
 * one sequence only. */
std::string NSVQGetTemporaryName(const char *pszFilename);
/* A file and what GDAL may have put beside it, where they exist. */
void NSVQDeleteTemporary(const std::string &osName);

#endif
