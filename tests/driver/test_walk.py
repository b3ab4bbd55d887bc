"""Every file of the shared data there and back: all that it carries is compared with the source."""
import contextlib
import glob
import io
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from osgeo import gdal
from osgeo_utils.gdalcompare import compare_db

from conftest import crs, errors, noise, reopen
from test_types import TYPES, raw, samples, source, wider

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
    a, b = (None if srs is None or srs.GetName() is None else srs for srs in (a, b))  # none, or an empty one
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
        check("band %d type" % i, a.DataType, wider(b))
        for what in ["GetDescription", "GetColorInterpretation", "GetScale", "GetOffset", "GetUnitType",
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


def compared(want, got):
    """What gdalcompare.py prints, less what is no difference: NaN beside NaN, overviews that the copy has of its own,
    and how the band of a mask is called. CRSs differ for it where only names do."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        compare_db(want, got, ["SKIP_SRS"])
    found = re.split(r"\n(?! )", printed.getvalue().strip())
    return ["gdalcompare: " + text for text in found if text and not (
        "verview" in text.split("\n")[0] or "mask band color interpretation" in text
        or re.search(r"nodata values differ.*Golden: nan.*New: *nan", text, re.S))]


FOLDERS = ["odd/*", "valid/multispectral/*", "valid/satellite/*", "valid/aerial/neon*", "train16/*", "radio/valid/*",
           "radio/train/first300_Bent*", "hyper/valid/*.tif"]


@pytest.mark.parametrize("pattern", FOLDERS)
def test_lossless_copies(shared_data, tmp_path, pattern):
    n, bad = 0, []
    for name, want in sources(shared_data, pattern):
        path = str(tmp_path / "a.nsvq")
        with errors() as found:
            ds = gdal.GetDriverByName("NSVQ").CreateCopy(path, want, 1, ["LOSSLESS=YES"])
        assert ds is not None, (name, found)
        ds = None
        sidecars = [file for file in os.listdir(tmp_path) if file != "a.nsvq"]
        got = reopen(path)
        bad += [(name, d) for d in differences(got, want) + compared(want, got) + sidecars]
        got = None
        gdal.GetDriverByName("NSVQ").Delete(path)
        n += 1
    assert n > 0 and bad == []


DAMAGED = """
import resource, sys
from osgeo import gdal
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
gdal.SetCacheMax(100 << 20)
gdal.PushErrorHandler("CPLQuietErrorHandler")
ds = gdal.Open(sys.argv[1])
if ds is not None and ds.RasterCount:
    gdal.GetDriverByName("NSVQ").CreateCopy(sys.argv[2], ds, 0, [])
"""


def test_damaged_sources(shared_data, tmp_path):
    """Files that no driver likes: an error or a copy, in little time and memory, and never half a file."""
    files = sorted(glob.glob(os.path.join(shared_data, "odd", "damaged_*")))
    assert len(files) > 40
    for file in files:
        target = str(tmp_path / "a.nsvq")
        done = subprocess.run([sys.executable, "-c", DAMAGED, file, target], timeout=60)
        assert done.returncode == 0, file
        left = os.listdir(tmp_path)
        assert left in ([], ["a.nsvq"]), (file, left)
        if left:
            assert reopen(target) is not None
            gdal.GetDriverByName("NSVQ").Delete(target)


# ---- made here ----

def palette():
    table = gdal.ColorTable(gdal.GPI_RGB)
    for i in range(7):
        table.SetColorEntry(i, (i, 2 * i, 255 - i, 255 if i else 0))
    return table


def attribute_table():
    rat = gdal.RasterAttributeTable()
    rat.CreateColumn("Value", gdal.GFT_Integer, gdal.GFU_MinMax)
    rat.CreateColumn("Räl", gdal.GFT_Real, gdal.GFU_Generic)
    rat.CreateColumn("Name", gdal.GFT_String, gdal.GFU_Name)
    rat.SetRowCount(3)
    rat.SetLinearBinning(0.1, 1 / 3)
    for r, (a, b, c) in enumerate([(-5, 1 / 3, "a\tb"), (7, 1e300, ""), (2 ** 31 - 1, -0.1, "ünï\n")]):
        rat.SetValueAsInt(r, 0, a)
        rat.SetValueAsDouble(r, 1, b)
        rat.SetValueAsString(r, 2, c)
    return rat


def decorate(ds, seed):
    """Some of all that a dataset can carry."""
    rng = np.random.default_rng(seed)

    def some(share=0.4):
        return rng.random() < share

    kind = rng.integers(0, 4)
    if kind == 0:
        ds.SetGeoTransform((1000.1, 0.1 + rng.random(), 0.3, 5e6, -0.2, -rng.random()))
        ds.SetSpatialRef(crs("EPSG:4326", [[1, 2], [2, 1]][rng.integers(0, 2)], 2020.25 if some() else None))
    elif kind == 1:
        points = [gdal.GCP(rng.random(), rng.random(), rng.random(), 3.25 * i, 7.1 * i, "in\tfo", "id\n%d" % i) for i in range(5)]
        ds.SetGCPs(points, crs("EPSG:4326", [1, 2], 2011.5))
    elif kind == 2:
        ds.SetSpatialRef(crs("EPSG:32633+5773"))
        ds.SetGeoTransform((0, 1, 0, 0, 0, 1.5))
    if some():
        ds.SetMetadata({"AREA_OR_POINT": "Point" if some() else "Area", "Empty": "", "Ünï": "two\nlines = x"})
    if some():
        ds.SetMetadata({"LINE_OFF": "1", "SAMP_OFF": "2.5", "LINE_NUM_COEFF": "1 2 3"}, "RPC")
    if some():
        ds.SetMetadata({"X_DATASET": "a.tif", "PIXEL_OFFSET": "0"}, "GEOLOCATION")
    if some():
        ds.SetMetadata(["<x:xmpmeta>&lt;</x:xmpmeta>"], "xml:XMP")
    if some():
        ds.SetMetadata({"EXIF_Make": "none"}, "EXIF")
    if some():
        ds.SetMetadata({"SOURCE_ICC_PROFILE": "AAAA"}, "COLOR_PROFILE")
    for b in range(1, ds.RasterCount + 1):
        band = ds.GetRasterBand(b)
        if some():
            band.SetDescription("band %d ü" % b)
        if some():
            band.SetNoDataValue([0, 7, 255][rng.integers(0, 3)])
        if some():
            band.SetScale(rng.random())
            band.SetOffset(-rng.random())
        if some():
            band.SetUnitType("W/m²")
        if some():
            band.SetMetadata({"WAVELENGTH": "0.1", "STATISTICS_MEAN": "3"})
        if some():
            band.SetMetadata({"k": "v"}, "own")
        if some(0.15):
            band.SetCategoryNames(["", "one", "two words"])
        if some(0.15):
            band.SetDefaultRAT(attribute_table())
        if some(0.15) and band.DataType in (gdal.GDT_Byte, gdal.GDT_UInt16):
            band.SetColorTable(palette())
            band.SetColorInterpretation(gdal.GCI_PaletteIndex)
        elif some():
            band.SetColorInterpretation(int(rng.integers(1, 17)))
        if ds.RasterCount > 1 and seed % 7 == 0:
            band.CreateMaskBand(0)
            band.GetMaskBand().WriteArray(noise(ds.RasterXSize, ds.RasterYSize, 1, b)[0] // 128 * 255)
    if seed % 7 == 1:
        ds.CreateMaskBand(gdal.GMF_PER_DATASET)
        ds.GetRasterBand(1).GetMaskBand().WriteArray(noise(ds.RasterXSize, ds.RasterYSize)[0] // 200 * 255)


SIZES = [(1, 1), (1, 5000), (5000, 1), (513, 511), (40, 30), (17, 600)]


@pytest.mark.parametrize("bands", range(1, 14))
def test_generated(tmp_path, bands):
    names = list(TYPES)
    bad = []
    for i in range(12):
        seed = 100 * bands + i
        width, height = SIZES[seed % len(SIZES)]
        want = source(samples(names[seed % len(names)], (bands, height, width), seed))
        decorate(want, seed)
        path = str(tmp_path / "a.nsvq")
        with errors() as found:
            ds = gdal.GetDriverByName("NSVQ").CreateCopy(path, want, 1, ["LOSSLESS=YES"])
        assert ds is not None, (seed, found)
        assert found == []
        ds = None
        sidecars = [file for file in os.listdir(tmp_path) if file != "a.nsvq"]
        bad += [(seed, d) for d in differences(reopen(path), want) + sidecars]
        gdal.GetDriverByName("NSVQ").Delete(path)
    assert bad == []
