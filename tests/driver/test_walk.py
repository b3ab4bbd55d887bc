"""Every file of the shared data there and back: all that it carries is compared with the source."""
import glob
import os

import numpy as np
import pytest
from osgeo import gdal

from conftest import errors, reopen
from test_types import raw

OWN = {"IMAGE_STRUCTURE", "DERIVED_SUBDATASETS", "NSVQ", "SUBDATASETS", "OVERVIEWS"}
MOST = 60e6  # samples of a file


def sources(folder, pattern):
    """(name, dataset) of all that GDAL opens, subdatasets too."""
    for file in sorted(glob.glob(os.path.join(folder, pattern))):
        if file.endswith((".msk", ".aux.xml", ".md")) or os.path.basename(file).startswith("damaged_"):
            continue
        with errors():
            ds = gdal.Open(file)
        if ds is None:
            continue
        names = [file] + [name for name, _ in ds.GetSubDatasets()]
        for name in names:
            with errors():
                ds = gdal.Open(name)
            if ds is not None and ds.RasterCount and ds.RasterXSize * ds.RasterYSize * ds.RasterCount <= MOST:
                yield name, ds


def domains(thing):
    found = {}
    for domain in set(thing.GetMetadataDomainList() or []) - OWN:
        items = thing.GetMetadata_List(domain)
        if items:
            found[domain] = sorted(items)
    return found


def table(band):
    colors = band.GetColorTable()
    return colors and [colors.GetColorEntry(i) for i in range(colors.GetCount())]


def attributes(band):
    rat = band.GetDefaultRAT()
    if rat is None:
        return None
    columns = [(rat.GetNameOfCol(c), rat.GetTypeOfCol(c), rat.GetUsageOfCol(c)) for c in range(rat.GetColumnCount())]
    rows = [[rat.GetValueAsString(r, c) for c in range(rat.GetColumnCount())] for r in range(rat.GetRowCount())]
    return columns, rows


def gcps(ds):
    return [(g.Id, g.Info, g.GCPX, g.GCPY, g.GCPZ, g.GCPPixel, g.GCPLine) for g in ds.GetGCPs() or []]


def same_crs(a, b):
    return (a is None) == (b is None) and (a is None or bool(a.IsSame(b)) and
            a.GetDataAxisToSRSAxisMapping() == b.GetDataAxisToSRSAxisMapping() and
            a.GetCoordinateEpoch() == b.GetCoordinateEpoch())


def nodata(band):
    value = band.GetNoDataValue()
    return "nan" if value is not None and np.isnan(float(value)) else value


def differences(got, want):
    """What a lossless copy does not have as its source has it."""
    out = []

    def check(what, a, b):
        if a != b:
            out.append("%s: %.200r instead of %.200r" % (what, a, b))

    check("size", (got.RasterXSize, got.RasterYSize, got.RasterCount), (want.RasterXSize, want.RasterYSize, want.RasterCount))
    check("geotransform", got.GetGeoTransform(can_return_null=True), want.GetGeoTransform(can_return_null=True))
    check("gcps", gcps(got), gcps(want))
    check("crs", same_crs(got.GetSpatialRef(), want.GetSpatialRef()), True)
    check("gcp crs", same_crs(got.GetGCPSpatialRef(), want.GetGCPSpatialRef()), True)
    check("metadata", domains(got), domains(want))
    for i in range(1, want.RasterCount + 1):
        a, b = got.GetRasterBand(i), want.GetRasterBand(i)
        for what in ["DataType", "GetDescription", "GetColorInterpretation", "GetScale", "GetOffset", "GetUnitType",
                     "GetCategoryNames", "GetMaskFlags"]:
            x, y = getattr(a, what), getattr(b, what)
            x, y = (x(), y()) if callable(x) else (x, y)
            if what in ("GetScale", "GetOffset"):  # VRT and others say 1 and 0 where nothing is set
                neutral = 1 if what == "GetScale" else 0
                x, y = neutral if x is None else x, neutral if y is None else y
            check("band %d %s" % (i, what), x, y)
        check("band %d nodata" % i, nodata(a), nodata(b))
        check("band %d bits" % i, a.GetMetadataItem("NBITS", "IMAGE_STRUCTURE"), b.GetMetadataItem("NBITS", "IMAGE_STRUCTURE"))
        check("band %d metadata" % i, domains(a), domains(b))
        check("band %d palette" % i, table(a), table(b))
        check("band %d attribute table" % i, attributes(a), attributes(b))
        if not np.array_equal(a.GetMaskBand().ReadAsArray(), b.GetMaskBand().ReadAsArray()):
            out.append("band %d mask" % i)
    if raw(got) != raw(want):
        out.append("pixels")
    return out


FOLDERS = ["valid/multispectral/*", "valid/satellite/*", "valid/aerial/neon*", "train16/*", "radio/valid/*",
           "radio/train/first300_Bent*", "hyper/valid/*.tif"]


@pytest.mark.parametrize("pattern", FOLDERS)
def test_lossless_copies(shared_data, tmp_path, pattern):
    n, bad = 0, []
    for name, source in sources(shared_data, pattern):
        path = str(tmp_path / "a.nsvq")
        with errors() as found:
            ds = gdal.GetDriverByName("NSVQ").CreateCopy(path, source, 1, ["LOSSLESS=YES"])
        assert ds is not None, (name, found)
        ds = None
        sidecars = [file for file in os.listdir(tmp_path) if file != "a.nsvq"]
        bad += [(name, d) for d in differences(reopen(path), source) + sidecars]
        gdal.GetDriverByName("NSVQ").Delete(path)
        n += 1
    assert n > 0 and bad == []
