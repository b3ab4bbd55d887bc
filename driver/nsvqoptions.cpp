/* nsvqoptions.cpp - creation options, from texts to what the library takes. */
#include "nsvqcreate.h"

#include <cstring>

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

bool NSVQParseOptions(CSLConstList papszOptions, NSVQCreateOptions &oOptions)
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
