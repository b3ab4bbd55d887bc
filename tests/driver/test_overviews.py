"""Overviews in the file: from the source's pixels, masks and nodata heeded, for every band and mask."""
import subprocess

import numpy as np
import pytest
from osgeo import gdal

from conftest import copy, errors, failures, memory, no_sidecar, noise, picture, psnr, reopen
from test_types import samples, source

WIDTH, HEIGHT = 1301, 2050  # levels: 651 x 1025, 326 x 513, 163 x 257


def halve(pixels, valid=None, fill=None):
    """The mean of the valid ones of each 2 x 2, halves up; where none is, `fill`, or the mean of all."""
    height, width = pixels.shape
    padded = np.full((height + height % 2, width + width % 2), np.nan)
    padded[:height, :width] = pixels
    cells = padded.reshape(padded.shape[0] // 2, 2, -1, 2).swapaxes(1, 2).reshape(padded.shape[0] // 2, -1, 4)
    all_mean = np.nanmean(cells, -1)
    if valid is not None:
        padded[:height, :width][~valid] = np.nan
        with np.errstate(all="ignore"):
            import warnings
            warnings.simplefilter("ignore")
            mean = np.nanmean(cells if np.shares_memory(cells, padded) else
                              padded.reshape(padded.shape[0] // 2, 2, -1, 2).swapaxes(1, 2).reshape(cells.shape), -1)
        all_mean = np.where(np.isnan(mean), all_mean if fill is None else fill, mean)
    return np.floor(all_mean + 0.5).astype(pixels.dtype)


def sizes(path):
    """Widths of the overviews of the first band."""
    ds = reopen(path)
    band = ds.GetRasterBand(1)
    return [band.GetOverview(i).XSize for i in range(band.GetOverviewCount())]


def levels(band):
    return [band.GetOverview(i) for i in range(band.GetOverviewCount())]


@pytest.mark.parametrize("name", ["uint8", "uint16", "float32"])
def test_sizes_and_averages(tmp_path, name):
    pixels = picture(WIDTH, HEIGHT, 2).astype(name)
    path = copy(tmp_path / "a.nsvq", source(pixels), "LOSSLESS=YES")
    ds = reopen(path)
    for b in range(2):
        want = pixels[b]
        found = levels(ds.GetRasterBand(b + 1))
        assert [(o.XSize, o.YSize) for o in found] == [(651, 1025), (326, 513), (163, 257)]
        for overview in found:
            if name == "float32":
                got = overview.ReadAsArray()
                assert got.dtype == np.float32 and abs(got.mean() - want.mean()) < 0.1
                continue
            want = halve(want)
            assert overview.DataType == ds.GetRasterBand(1).DataType
            assert np.array_equal(overview.ReadAsArray(), want)
    assert no_sidecar(path)


def test_lossy_overviews_come_from_the_source(tmp_path):
    pixels = picture(WIDTH, HEIGHT)
    ds = reopen(copy(tmp_path / "a.nsvq", memory(pixels), "QUALITY=60", "OVERVIEW_QUALITY=60"))
    overview = ds.GetRasterBand(2).GetOverview(0)
    assert psnr(overview.ReadAsArray(), halve(pixels[1])) > psnr(halve(ds.GetRasterBand(2).ReadAsArray()), halve(pixels[1])) - 3
    assert psnr(overview.ReadAsArray(), halve(pixels[1])) > 22


@pytest.mark.parametrize("options", [[], ["LOSSLESS=YES"]])
def test_what_a_small_read_gives_is_the_overview(tmp_path, options):
    """One band and all, in the file's types and others; without it, it would be the full resolution."""
    pixels = picture(WIDTH, HEIGHT, 4)
    ds = reopen(copy(tmp_path / "a.nsvq", memory(pixels), *options))
    overviews = [ds.GetRasterBand(b + 1).GetOverview(1) for b in range(4)]
    want = np.stack([o.ReadAsArray() for o in overviews])
    level = overviews[0].GetDataset()
    assert level is None or level.RasterCount == 4
    ds = reopen(tmp_path / "a.nsvq")
    assert np.array_equal(ds.ReadAsArray(buf_xsize=326, buf_ysize=513), want)
    assert np.array_equal(ds.GetRasterBand(3).ReadAsArray(buf_xsize=326, buf_ysize=513), want[2])
    assert np.array_equal(ds.ReadAsArray(buf_xsize=326, buf_ysize=513, buf_type=gdal.GDT_Float32), want)
    ds = gdal.OpenEx(str(tmp_path / "a.nsvq"), open_options=["OVERVIEW_LEVEL=1"])
    assert np.array_equal(ds.ReadAsArray(), want)


def test_nodata_and_masks(tmp_path):
    pixels = picture(WIDTH, HEIGHT, 2)
    pixels[0][pixels[0] == 9] = 8
    hole = noise(WIDTH, HEIGHT)[0] < 90
    hole[300:900, 400:1200] = True
    pixels[0][hole] = 9
    ds = memory(pixels)
    ds.GetRasterBand(1).SetNoDataValue(9)
    got = reopen(copy(tmp_path / "a.nsvq", ds, "LOSSLESS=YES"))
    band, want, valid = got.GetRasterBand(1), pixels[0], ~hole
    for overview in levels(band):
        first = want
        want = halve(want, valid, 9)
        odd = (want == 9) & halve_any(valid)  # a mean that equals nodata: a valid neighbour instead
        read = overview.ReadAsArray()
        assert np.array_equal(read[~odd], want[~odd]) and (read[odd] != 9).all()
        want = read
        valid = halve_any(valid)
        assert overview.GetNoDataValue() == 9 and overview.GetMaskFlags() == gdal.GMF_NODATA
        assert np.array_equal(overview.GetMaskBand().ReadAsArray(), np.where(valid, 255, 0))
    assert got.GetRasterBand(2).GetOverview(0).GetNoDataValue() is None


def halve_any(valid):
    height, width = valid.shape
    padded = np.zeros((height + height % 2, width + width % 2), bool)
    padded[:height, :width] = valid
    return padded.reshape(padded.shape[0] // 2, 2, -1, 2).any((1, 3))


def with_mask(pixels, mask, path):
    """A GeoTIFF with an internal mask."""
    gdal.SetConfigOption("GDAL_TIFF_INTERNAL_MASK", "YES")
    ds = gdal.GetDriverByName("GTiff").CreateCopy(str(path), memory(pixels))
    ds.CreateMaskBand(gdal.GMF_PER_DATASET)
    ds.GetRasterBand(1).GetMaskBand().WriteArray(mask)
    ds = None
    gdal.SetConfigOption("GDAL_TIFF_INTERNAL_MASK", None)
    return gdal.Open(str(path))


@pytest.mark.parametrize("options", [[], ["LOSSLESS=YES"]])
def test_dataset_mask(tmp_path, options):
    pixels = picture(WIDTH, HEIGHT)
    mask = np.where(picture(WIDTH, HEIGHT, 1, 5)[0] > 110, 255, 0).astype(np.uint8)
    path = copy(tmp_path / "a.nsvq", with_mask(pixels, mask, tmp_path / "a.tif"), *options)
    ds = reopen(path)
    band = ds.GetRasterBand(2)
    assert np.array_equal(band.GetMaskBand().ReadAsArray(), mask) and no_sidecar(path)
    assert band.GetMaskBand().GetOverviewCount() == 3
    valid, want = mask > 0, pixels[1]
    for i, overview in enumerate(levels(band)):
        if options:
            want = halve(want, valid)
            assert np.array_equal(overview.ReadAsArray(), want)
        valid = halve_any(valid)
        assert overview.GetMaskFlags() == gdal.GMF_PER_DATASET
        for found in [overview.GetMaskBand(), band.GetMaskBand().GetOverview(i)]:
            assert np.array_equal(found.ReadAsArray(), np.where(valid, 255, 0))


def test_masks_of_bands(tmp_path):
    """In the file, each on its own."""
    pixels = picture(700, 600)
    masks = [np.where(picture(700, 600, 1, 7 + b)[0] > 110, 255, 0).astype(np.uint8) for b in range(3)]
    ds = memory(pixels)
    for b in range(3):
        ds.GetRasterBand(b + 1).CreateMaskBand(0)
        ds.GetRasterBand(b + 1).GetMaskBand().WriteArray(masks[b])
        assert ds.GetRasterBand(b + 1).GetMaskFlags() == 0
    path = copy(tmp_path / "a.nsvq", ds)
    assert no_sidecar(path)
    got = reopen(path)
    for b in range(3):
        band = got.GetRasterBand(b + 1)
        assert band.GetMaskFlags() == 0 and np.array_equal(band.GetMaskBand().ReadAsArray(), masks[b])
        valid = halve_any(masks[b] > 0)
        assert np.array_equal(band.GetOverview(0).GetMaskBand().ReadAsArray(), np.where(valid, 255, 0))


def test_palettes_and_labels_are_not_mixed(tmp_path):
    pixels = noise(1100, 900) % 3 * 100
    for kind in ["palette", "names"]:
        ds = memory(pixels)
        if kind == "palette":
            table = gdal.ColorTable()
            table.SetColorEntry(200, (1, 2, 3, 255))
            ds.GetRasterBand(1).SetColorTable(table)
            ds.GetRasterBand(1).SetColorInterpretation(gdal.GCI_PaletteIndex)
        else:
            ds.GetRasterBand(1).SetCategoryNames(["a", "b"])
        made = reopen(copy(tmp_path / "a.nsvq", ds))
        overview = made.GetRasterBand(1).GetOverview(0)
        got = overview.ReadAsArray()
        assert set(np.unique(got)) == {0, 100, 200}
        assert (overview.GetColorTable() is not None) == (kind == "palette")
        cells = pixels[0].reshape(450, 2, 550, 2).swapaxes(1, 2).reshape(450, 550, 4)
        counts = np.stack([(cells == v).sum(-1) for v in [0, 100, 200]])
        assert np.array_equal(np.choose(got // 100, counts), counts.max(0))  # the most frequent


def test_options(tmp_path):
    pixels = noise(1100, 900)
    ds = reopen(copy(tmp_path / "a.nsvq", memory(pixels), "LOSSLESS=YES", "OVERVIEW_RESAMPLING=NEAREST"))
    assert np.array_equal(ds.GetRasterBand(1).GetOverview(0).ReadAsArray(), pixels[0, ::2, ::2])
    small = gdal.VSIStatL(copy(tmp_path / "b.nsvq", memory(pixels), "LOSSLESS=YES", "OVERVIEWS=NONE")).size
    assert sizes(tmp_path / "b.nsvq") == []
    assert small < 0.8 * gdal.VSIStatL(str(tmp_path / "a.nsvq")).size
    for bad in ["OVERVIEWS=MAYBE", "OVERVIEW_RESAMPLING=CUBIC"]:
        with errors() as found:
            assert gdal.GetDriverByName("NSVQ").CreateCopy(str(tmp_path / "c.nsvq"), memory(pixels), 1, [bad]) is None
        assert gdal.CPLE_IllegalArg in failures(found)
    assert sizes(copy(tmp_path / "d.nsvq", memory(noise(512, 512)))) == []


def test_external_overviews(tmp_path):
    """gdaladdo -ro: they come before the file's own, and go away with the .ovr."""
    pixels = picture(1100, 900)
    path = copy(tmp_path / "a.nsvq", memory(pixels))
    subprocess.run(["gdaladdo", "-q", "-ro", "-r", "nearest", path, "2", "4", "16"], check=True)
    assert (tmp_path / "a.nsvq.ovr").exists()
    ds = reopen(path)
    band = ds.GetRasterBand(1)
    assert [o.XSize for o in levels(band)] == [550, 275, 69]
    assert np.array_equal(band.GetOverview(0).ReadAsArray(), band.ReadAsArray()[::2, ::2])
    ds = band = None
    subprocess.run(["gdaladdo", "-q", "-ro", "-clean", path], check=True)
    assert not (tmp_path / "a.nsvq.ovr").exists()
    assert sizes(path) == [550, 275]
    subprocess.run(["gdaladdo", "-q", path, "2"], check=True)  # opens read-only after all
    assert sizes(path) == [550]


def test_many_bands(tmp_path):
    pixels = samples("uint16", (70, 530, 600))
    ds = reopen(copy(tmp_path / "a.nsvq", source(pixels)))
    for b in [1, 33, 70]:
        assert np.array_equal(ds.GetRasterBand(b).GetOverview(0).ReadAsArray(), halve(pixels[b - 1]))


# ---- quality ----


def first_overview(path, bands=3):
    ds = reopen(path)
    return np.array([ds.GetRasterBand(b + 1).GetOverview(0).ReadAsArray() for b in range(bands)]), ds.ReadAsArray()


@pytest.mark.parametrize("family", ["VQ", "HYPER"])
def test_quality_of_overviews(vsimem, family):
    """Changes the overviews alone; 10 less than QUALITY where it is not given."""
    pixels = picture(700, 640, 3, 7)
    want = pixels.reshape(3, 320, 2, 350, 2).mean((2, 4))
    sizes, found, files = [], [], {}
    for quality in [20, 40, 60, 80, None]:
        options = ["OVERVIEW_QUALITY=%d" % quality] if quality else []
        path = copy(vsimem + "/q.nsvq", memory(pixels), "QUALITY=50", "FAMILY=" + family, *options)
        half, whole = first_overview(path)
        sizes.append(gdal.VSIStatL(path).size)
        found.append(psnr(want, half))
        files[quality] = half.tobytes(), whole.tobytes()
    assert sizes[:4] == sorted(set(sizes[:4])) and found[:4] == sorted(set(found[:4])), (sizes, found)
    assert len({whole for _, whole in files.values()}) == 1
    assert files[None] == files[40] and sizes[4] == sizes[1]


def test_quality_of_overviews_at_the_lowest(vsimem):
    path = copy(vsimem + "/q.nsvq", memory(picture(600, 530)), "FAMILY=VQ", "QUALITY=8")
    other = copy(vsimem + "/r.nsvq", memory(picture(600, 530)), "FAMILY=VQ", "QUALITY=8", "OVERVIEW_QUALITY=1")
    assert np.array_equal(first_overview(path)[0], first_overview(other)[0])


def test_targets_with_overviews(vsimem):
    """RATE is of the whole file, PSNR of the full resolution."""
    pixels = picture(700, 640, 3, 7)
    for option in [[], ["OVERVIEW_QUALITY=60"]]:
        path = copy(vsimem + "/t.nsvq", memory(pixels), "RATE=0.6", *option)
        assert abs(gdal.VSIStatL(path).size * 8 / (700 * 640) / 0.6 - 1) < 0.02
        path = copy(vsimem + "/t.nsvq", memory(pixels), "PSNR=36", *option)
        assert abs(psnr(pixels, reopen(path).ReadAsArray()) - 36) < 0.1


@pytest.mark.parametrize("value", ["0", "101", "best", "-3"])
def test_bad_quality_of_overviews(vsimem, value):
    with errors() as found:
        ds = gdal.GetDriverByName("NSVQ").CreateCopy(vsimem + "/b.nsvq", memory(picture(20, 20)), 1, ["OVERVIEW_QUALITY=" + value])
    assert ds is None and gdal.CPLE_IllegalArg in failures(found)
