"""Create(): files that are written piece by piece."""
import os
import subprocess
import sys

import numpy as np
import pytest
from osgeo import gdal

from conftest import copy, errors, failures, memory, no_sidecar, noise, picture, reopen
from test_types import TYPES, samples, source
from test_walk import crs, decorate, differences


def create(path, width, height, bands=1, kind=gdal.GDT_Byte, *options):
    ds = gdal.GetDriverByName("NSVQ").Create(str(path), width, height, bands, kind, list(options))
    assert ds is not None, gdal.GetLastErrorMsg()
    assert ds.GetDriver().ShortName == "NSVQ"
    return ds


@pytest.mark.parametrize("name", TYPES)
def test_pixels(tmp_path, name):
    pixels = samples(name, (3, 600, 700))
    ds = create(tmp_path / "a.nsvq", 700, 600, 3, TYPES[name], "LOSSLESS=YES")
    for y in range(0, 600, 37):  # strips, band by band
        for b in range(3):
            part = np.ascontiguousarray(pixels[b, y:y + 37])
            ds.GetRasterBand(b + 1).WriteRaster(0, y, 700, len(part), part.tobytes())
    assert not (tmp_path / "a.nsvq").exists()
    assert ds.GetRasterBand(2).ReadRaster(5, 6, 70, 80) == pixels[1, 6:86, 5:75].tobytes()  # what was written
    ds = None
    assert os.listdir(tmp_path) == ["a.nsvq"]
    got = reopen(tmp_path / "a.nsvq")
    assert got.ReadRaster() == pixels.tobytes()


@pytest.mark.parametrize("seed", range(20))
def test_metadata(tmp_path, seed):
    """Whatever is set on it is as if it had been copied."""
    if seed % 7 < 2:
        seed += 2  # masks of their own follow below
    want = source(samples("uint8", (3, 40, 50), seed))
    ds = create(tmp_path / "a.nsvq", 50, 40, 3, gdal.GDT_Byte, "LOSSLESS=YES")
    ds.WriteRaster(0, 0, 50, 40, want.ReadRaster())
    decorate(want, seed)
    decorate(ds, seed)
    ds = None
    assert os.listdir(tmp_path) == ["a.nsvq"]
    assert differences(reopen(tmp_path / "a.nsvq"), want) == []


def test_mask(tmp_path):
    ds = create(tmp_path / "a.nsvq", 700, 600, 3)
    ds.WriteArray(picture(700, 600))
    ds.CreateMaskBand(gdal.GMF_PER_DATASET)
    mask = noise(700, 600)[0] // 128 * 255
    ds.GetRasterBand(1).GetMaskBand().WriteArray(mask)
    ds = None
    assert os.listdir(tmp_path) == ["a.nsvq"]
    got = reopen(tmp_path / "a.nsvq")
    assert got.GetRasterBand(3).GetMaskFlags() == gdal.GMF_PER_DATASET
    assert np.array_equal(got.GetRasterBand(3).GetMaskBand().ReadAsArray(), mask)


def test_nothing_written_is_zero(tmp_path):
    create(tmp_path / "a.nsvq", 20, 30, 2, gdal.GDT_Float32)
    assert not reopen(tmp_path / "a.nsvq").ReadAsArray().any()


def test_lossy_is_as_a_copy(tmp_path):
    pixels = picture(600, 500)
    ds = create(tmp_path / "a.nsvq", 600, 500, 3, gdal.GDT_Byte, "QUALITY=30")
    ds.WriteArray(pixels)
    for b, name in enumerate([gdal.GCI_RedBand, gdal.GCI_GreenBand, gdal.GCI_BlueBand]):
        ds.GetRasterBand(b + 1).SetColorInterpretation(name)
    ds = None
    path = copy(tmp_path / "b.nsvq", memory(pixels), "QUALITY=30")
    assert (tmp_path / "a.nsvq").read_bytes() == open(path, "rb").read()


def test_refusals(tmp_path):
    driver = gdal.GetDriverByName("NSVQ")
    for option in ["QUALITY=0", "MODEL=none", "OVERVIEWS=2"]:
        with errors() as found:
            assert driver.Create(str(tmp_path / "a.nsvq"), 20, 20, 1, gdal.GDT_Byte, [option]) is None
        assert gdal.CPLE_IllegalArg in failures(found)
    with errors() as found:
        assert driver.Create(str(tmp_path / "no" / "a.nsvq"), 20, 20, 1) is None
        assert driver.Create("/vsistdout/", 20, 20, 1) is None
        assert driver.Create(str(tmp_path / "a.nsvq"), 20, 20, 0) is None
    assert len(failures(found)) >= 3 and os.listdir(tmp_path) == []


def test_existing_file_stays_until_the_end(tmp_path):
    old = noise(30, 20)
    path = copy(tmp_path / "a.nsvq", memory(old), "LOSSLESS=YES")
    ds = create(path, 50, 40)
    ds.WriteArray(noise(50, 40)[0])
    ds = None
    assert reopen(path).RasterXSize == 50 and os.listdir(tmp_path) == ["a.nsvq"]


def test_in_memory(vsimem):
    pixels = noise(600, 500)
    ds = create(vsimem + "/a.nsvq", 600, 500, 1, gdal.GDT_Byte, "LOSSLESS=YES")
    ds.WriteArray(pixels[0])
    ds = None
    assert gdal.ReadDir(vsimem) == ["a.nsvq"]
    assert np.array_equal(reopen(vsimem + "/a.nsvq").ReadAsArray(), pixels[0])


FULL = """
import resource, signal, sys
from osgeo import gdal
from conftest import noise
gdal.DontUseExceptions()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
gdal.PushErrorHandler("CPLQuietErrorHandler")
ds = gdal.GetDriverByName("NSVQ").Create(sys.argv[1], 700, 600, 3, gdal.GDT_Byte, ["LOSSLESS=YES"])
gdal.ErrorReset()
if ds is not None:
    ds.WriteArray(noise(700, 600, 3))
    ds = None
    sys.exit(0 if gdal.GetLastErrorType() == gdal.CE_Failure else 1)
"""


FULL_ONCE = """
import resource, signal, sys
from osgeo import gdal
from conftest import noise
gdal.DontUseExceptions()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
gdal.PushErrorHandler("CPLQuietErrorHandler")
gdal.SetConfigOption("GDAL_TIFF_INTERNAL_MASK", "YES")
gdal.SetCacheMax(600000)
ds = gdal.GetDriverByName("NSVQ").Create(sys.argv[1], 2048, 1024, 1, gdal.GDT_Byte, ["LOSSLESS=YES"])
band = ds.GetRasterBand(1)
if sys.argv[2] == "mask":
    band.WriteArray(noise(2048, 1024)[0])
    ds.CreateMaskBand(gdal.GMF_PER_DATASET)
    band = band.GetMaskBand()
all = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, all[1]))
failed = 0
for i in range(4):
    failed += band.WriteArray(noise(2048, 1024)[0]) != 0
resource.setrlimit(resource.RLIMIT_FSIZE, all)
gdal.ErrorReset()
band = None
ds = None
sys.exit(0 if failed and gdal.GetLastErrorType() == gdal.CE_Failure else 1)
"""


def test_no_file_after_a_write_that_failed(tmp_path):
    """Even if there is room again when it is closed: of the raster or of its mask."""
    for what in ["raster", "mask"]:
        done = subprocess.run([sys.executable, "-c", FULL_ONCE, str(tmp_path / "a.nsvq"), what],
                              cwd=os.path.dirname(os.path.abspath(__file__)))
        assert done.returncode == 0 and os.listdir(tmp_path) == [], what


@pytest.mark.parametrize("limit", [0, 3000, 500000, 1000000, 1500000])
def test_disk_full(tmp_path, limit):
    """While pixels arrive, and while the file is made of them."""
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path / "a.nsvq"), str(limit)],
                          cwd=os.path.dirname(os.path.abspath(__file__)))
    assert done.returncode == 0 and os.listdir(tmp_path) == []


def test_reading_before_closing(tmp_path):
    """Statistics and checksums are of what has been written so far, whichever way it came."""
    ds = create(tmp_path / "a.nsvq", 800, 700, 2, gdal.GDT_UInt16, "LOSSLESS=YES")
    band = ds.GetRasterBand(1)
    pixels = noise(800, 700, 2).astype(np.uint16) + 300
    want = memory(pixels // 256)  # any of the size
    for step in range(3):
        pixels[0, 100 * step:100 * step + 50] += 1000 * step + 5
        if step == 1:
            ds.WriteArray(pixels)
        else:
            band.WriteArray(pixels[0])
        assert band.ComputeStatistics(False)[:2] == [pixels[0].min(), pixels[0].max()]
        want = gdal.GetDriverByName("MEM").Create("", 800, 700, 1, gdal.GDT_UInt16)
        want.GetRasterBand(1).WriteArray(pixels[0])
        assert band.Checksum() == want.GetRasterBand(1).Checksum()
        assert np.array_equal(band.ReadAsArray(), pixels[0])
    band = ds = None
    ds = reopen(tmp_path / "a.nsvq")
    assert np.array_equal(ds.GetRasterBand(1).ReadAsArray(), pixels[0])
    assert float(ds.GetRasterBand(1).GetMetadataItem("STATISTICS_MAXIMUM")) == pixels[0].max()


def test_what_was_never_written_is_nodata(tmp_path):
    ds = create(tmp_path / "a.nsvq", 1100, 600, 2, gdal.GDT_Int16, "LOSSLESS=YES")
    with errors() as found:
        for b, value in [(1, -9999), (2, 77)]:
            ds.GetRasterBand(b).SetNoDataValue(value)
            ds.GetRasterBand(b).WriteArray(np.full((20, 30), 5, np.int16), 40, 50)
    assert found == []
    ds = None
    ds = reopen(tmp_path / "a.nsvq")
    for b, value in [(1, -9999), (2, 77)]:
        want = np.full((600, 1100), value, np.int16)
        want[50:70, 40:70] = 5
        assert ds.GetRasterBand(b).GetNoDataValue() == value
        assert np.array_equal(ds.GetRasterBand(b).ReadAsArray(), want)


def test_nodata_values_that_were_written_stay(tmp_path):
    """A block of one band's nodata, zeros, and values written before their nodata changes."""
    ds = create(tmp_path / "a.nsvq", 1100, 600, 3, gdal.GDT_Int16, "LOSSLESS=YES")
    first, second, third = (ds.GetRasterBand(b + 1) for b in range(3))
    second.WriteArray(np.zeros((512, 1024), np.int16))
    third.WriteArray(np.full((600, 600), 5, np.int16))
    third.SetNoDataValue(5)
    ds.FlushCache()
    third.SetNoDataValue(7)
    first.SetNoDataValue(-9999)
    first.WriteArray(np.full((512, 512), 77, np.int16))
    second.SetNoDataValue(77)
    assert first.ReadAsArray(600, 550, 2, 2).tolist() == [[-9999, -9999], [-9999, -9999]]
    first = second = third = ds = None
    ds = reopen(tmp_path / "a.nsvq")
    want = [np.full((600, 1100), value, np.int16) for value in (-9999, 77, 7)]
    want[0][:512, :512] = 77
    want[1][:512, :1024] = 0
    want[2][:, :512] = want[2][:, 512:600] = 5
    want[2][:, 600:1024] = 0  # of blocks that were written when there was no nodata value
    for b in range(3):
        assert np.array_equal(ds.GetRasterBand(b + 1).ReadAsArray(), want[b]), b


def test_overviews_asked_for_before_closing(tmp_path):
    ds = create(tmp_path / "a.nsvq", 1100, 600, 1, gdal.GDT_Byte, "LOSSLESS=YES", "OVERVIEWS=NONE")
    pixels = noise(1100, 600)
    ds.WriteArray(pixels)
    with errors() as found:
        assert ds.BuildOverviews("CUBIC", [2]) == 0 and ds.BuildOverviews("NEAREST", [2, 4]) == 0
    assert [cls for cls, _, _ in found] == [gdal.CE_Warning]
    ds = None
    assert os.listdir(tmp_path) == ["a.nsvq"]
    ds = reopen(tmp_path / "a.nsvq")
    small = ds.GetRasterBand(1).GetOverview(0).ReadAsArray()
    assert small.shape == (300, 550) and np.isin(small[5, 5], pixels[0, 10:12, 10:12])
    ds = create(tmp_path / "b.nsvq", 1100, 600)
    assert ds.BuildOverviews("NONE", []) == 0
    ds = None
    ds = reopen(tmp_path / "b.nsvq")
    assert ds.GetRasterBand(1).GetOverviewCount() == 0


FULL_FLUSH = """
import resource, sys
from conftest import noise
from osgeo import gdal
ds = gdal.GetDriverByName("NSVQ").Create(sys.argv[1], 700, 600, 3)
gdal.PushErrorHandler("CPLQuietErrorHandler")
ds.WriteArray(noise(700, 600, 3))
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
gdal.ErrorReset()
ds.FlushCache()
failed = gdal.GetLastErrorType() == gdal.CE_Failure
ds = None
sys.exit(0 if failed else 1)
"""


def test_flushing_tells_of_a_full_disk(tmp_path):
    """As gdalwarp asks."""
    done = subprocess.run([sys.executable, "-c", FULL_FLUSH, str(tmp_path / "a.nsvq")],
                          cwd=os.path.dirname(os.path.abspath(__file__)))
    assert done.returncode == 0 and os.listdir(tmp_path) == []
