/* nsvqdriver.cpp - registration: what GDAL knows of the driver before it opens a file. */
#include "nsvqdataset.h"

#include "gdal_frmts.h"

#include <cerrno>

static const char kOpenOptions[] =
    "<OpenOptionList>"
    "  <Option name='NUM_THREADS' type='string' default='ALL_CPUS' "
    "description='Threads that decode: a number or ALL_CPUS. GDAL_NUM_THREADS when not set'/>"
    "  <Option name='ON_ERROR' type='string-select' default='FAIL' description='What becomes of pixels "
    "that depend on damaged or unreadable blocks: a failure, or nodata (0 without) and a warning'>"
    "    <Value>FAIL</Value><Value>NODATA</Value>"
    "  </Option>"
    "</OpenOptionList>";

static const char kTypes[] = "Byte "
#if NSVQ_HAVE_INT8
                             "Int8 "
#endif
                             "UInt16 Int16 UInt32 Int32 UInt64 Int64 Float32 Float64 CInt16 CInt32 "
                             "CFloat32 CFloat64";

static const char kCreationOptions[] =
    "<CreationOptionList>"
    "  <Option name='QUALITY' type='float' min='1' max='100' default='50' "
    "description='Quality of the lossy bands: higher is better and larger, 100 is lossless. "
    "Byte is lossy by default; UInt16, Int16 and Float32 become so by this'/>"
    "  <Option name='RATE' type='float' min='0' "
    "description='Instead of QUALITY: bits per pixel of the file. Encodes several times'/>"
    "  <Option name='PSNR' type='float' min='0' "
    "description='Instead of QUALITY: dB over all lossy samples, of other types than Byte relative to their "
    "range. Encodes and decodes several times'/>"
    "  <Option name='EFFORT' type='int' min='1' max='9' default='5' "
    "description='Time that the encoder takes for smaller files'/>"
    "  <Option name='FAMILY' type='string-select' default='AUTO' "
    "description='Family of the model. AUTO: the one that needs fewer bytes at the quality, VQ at "
    "the lowest rates'>"
    "    <Value>AUTO</Value><Value>VQ</Value><Value>HYPER</Value>"
    "  </Option>"
    "  <Option name='LOSSLESS' type='boolean' "
    "description='Whether all bands are coded exactly. Default: Byte no, all other types yes unless "
    "QUALITY, RATE or PSNR is given'/>"
    "  <Option name='OVERVIEWS' type='string-select' default='AUTO' "
    "description='Whether the file gets overviews: powers of two, down to one block'>"
    "    <Value>AUTO</Value><Value>NONE</Value>"
    "  </Option>"
    "  <Option name='OVERVIEW_QUALITY' type='float' min='1' max='100' "
    "description='As QUALITY, of the overviews of lossy bands. Default: 10 less'/>"
    "  <Option name='OVERVIEW_RESAMPLING' type='string-select' default='AVERAGE' "
    "description='How overviews are computed. Palettes and labels are never averaged: MODE then'>"
    "    <Value>AVERAGE</Value><Value>NEAREST</Value><Value>MODE</Value>"
    "  </Option>"
    "  <Option name='MODEL' type='string' "
    "description='Name of a model of the library, or a model file (.nsvqm)'/>"
    "  <Option name='EMBED_MODEL' type='string-select' default='AUTO' "
    "description='Whether the file holds its model. AUTO: when the library does not ship it'>"
    "    <Value>AUTO</Value><Value>YES</Value><Value>NO</Value>"
    "  </Option>"
    "  <Option name='NUM_THREADS' type='string' default='ALL_CPUS' "
    "description='Threads that encode: a number or ALL_CPUS. GDAL_NUM_THREADS when not set'/>"
    "</CreationOptionList>";

/* GDAL's own way opens the file to list what belongs to it, and so fails where the model is missing:
 * such a file must be as easy to delete, or to replace, as any other. */
static CPLErr Delete(const char *pszFilename)
{
    if (VSIUnlink(pszFilename) != 0) {
        CPLError(CE_Failure, CPLE_FileIO, "%s cannot be deleted: %s", pszFilename,
                 VSIStrerror(errno));
        return CE_Failure;
    }
    for (const char *pszEnding : {".aux.xml", ".ovr", ".msk", ".msk.ovr"}) {
        const std::string osSidecar = std::string(pszFilename) + pszEnding;
        VSIStatBufL sStat;
        if (VSIStatExL(osSidecar.c_str(), &sStat, VSI_STAT_EXISTS_FLAG) == 0)
            VSIUnlink(osSidecar.c_str());
    }
    return CE_None;
}

CPL_C_START
void CPL_DLL GDALRegister_NSVQ(void);
void CPL_DLL GDALRegisterMe(void);
CPL_C_END

void GDALRegister_NSVQ(void)
{
    if (!GDAL_CHECK_VERSION("NSVQ")) return;
    if (GDALGetDriverByName("NSVQ") != nullptr) return;

    GDALDriver *poDriver = new GDALDriver();
    poDriver->SetDescription("NSVQ");
    poDriver->SetMetadataItem(GDAL_DCAP_RASTER, "YES");
    poDriver->SetMetadataItem(GDAL_DCAP_VIRTUALIO, "YES");
    poDriver->SetMetadataItem(GDAL_DCAP_COORDINATE_EPOCH, "YES");
    poDriver->SetMetadataItem(GDAL_DMD_LONGNAME, "NSVQ: learned raster compression");
    poDriver->SetMetadataItem(GDAL_DMD_HELPTOPIC, "drivers/raster/nsvq.html");
    poDriver->SetMetadataItem(GDAL_DMD_EXTENSION, "nsvq");
    poDriver->SetMetadataItem(GDAL_DMD_EXTENSIONS, "nsvq");
    poDriver->SetMetadataItem(GDAL_DMD_MIMETYPE, "image/x-nsvq");
    poDriver->SetMetadataItem(GDAL_DMD_CREATIONDATATYPES, kTypes);
    poDriver->SetMetadataItem(GDAL_DMD_OPENOPTIONLIST, kOpenOptions);
    poDriver->SetMetadataItem(GDAL_DMD_CREATIONOPTIONLIST, kCreationOptions);
    poDriver->pfnIdentify = NSVQDataset::Identify;
    poDriver->pfnOpen = NSVQDataset::Open;
    poDriver->pfnCreateCopy = NSVQDataset::CreateCopy;
    poDriver->pfnCreate = NSVQCreate;
    poDriver->pfnDelete = Delete;
    GetGDALDriverManager()->RegisterDriver(poDriver);
}

// The name that GDAL falls back to, for a plugin file that was renamed.
void GDALRegisterMe(void)
{
    GDALRegister_NSVQ();
}
