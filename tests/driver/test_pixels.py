"""Pixels: exact where they must be, and the same however they are read."""
import numpy as np
import pytest
from osgeo import gdal, gdal_array

from conftest import copy, errors, failures, memory, no_sidecar, noise, picture, psnr, reopen

SIZES = [(1, 1), (1, 700), (1100, 1), (17, 1), (2, 3), (255, 257), (512, 512), (513, 511), (1025, 600)]


@pytest.mark.parametrize("width,height", SIZES)
@pytest.mark.parametrize("bands", [1, 3, 4])
def test_lossless(vsimem, width, height, bands):
    pixels = noise(width, height, bands)
    path = copy(vsimem + "/a.nsvq", memory(pixels), "LOSSLESS=YES")
    assert np.array_equal(reopen(path).ReadAsArray().reshape(pixels.shape), pixels)
    assert no_sidecar(path)


@pytest.mark.parametrize("width,height", SIZES)
@pytest.mark.parametrize("bands", [1, 2, 3, 5, 6])
def test_lossy_resembles(vsimem, width, height, bands):
    pixels = picture(width, height, bands)
    ds = reopen(copy(vsimem + "/a.nsvq", memory(pixels), "QUALITY=80"))
    got = ds.ReadAsArray().reshape(pixels.shape)
    assert (ds.RasterXSize, ds.RasterYSize, ds.RasterCount) == (width, height, bands)
    assert not np.array_equal(got, pixels) or pixels.size < 1000
    least = 20 if min(width, height) >= 32 else 15  # the mean of each band has about 13 dB
    for b in range(bands):
        assert psnr(got[b], pixels[b]) > least, b


def test_quality_means_size_and_likeness(vsimem):
    pixels = picture(768, 600)
    found = []
    for quality in [10, 50, 90]:
        path = copy(vsimem + "/%d.nsvq" % quality, memory(pixels), "QUALITY=%d" % quality)
        found.append((gdal.VSIStatL(path).size, psnr(reopen(path).ReadAsArray(), pixels)))
    assert found == sorted(found) and found[0][0] < found[2][0] and found[0][1] < found[2][1]


def test_alpha_is_exact(vsimem):
    pixels = picture(600, 520, 4)
    pixels[3] = noise(600, 520)
    ds = reopen(copy(vsimem + "/a.nsvq", memory(pixels, alpha=True), "QUALITY=5"))
    assert np.array_equal(ds.GetRasterBand(4).ReadAsArray(), pixels[3])
    assert ds.GetRasterBand(4).GetColorInterpretation() == gdal.GCI_AlphaBand
    assert ds.GetRasterBand(1).GetMaskFlags() == gdal.GMF_ALPHA | gdal.GMF_PER_DATASET
    assert np.array_equal(ds.GetRasterBand(1).GetMaskBand().ReadAsArray(), pixels[3])


@pytest.mark.parametrize("value", [0, 255, 118])
@pytest.mark.parametrize("bands", [1, 3, 4])
def test_nodata_neither_lost_nor_invented(vsimem, value, bands):
    pixels = picture(700, 300, bands)
    pixels[:, 40:220, 500:] = value
    pixels[:, 7, ::3] = value
    pixels[0, 150:170, 10:200] = value  # of one band alone
    pixels[:, 100:140, 100:140] = min(value + 1, 254)  # close to it, not it
    source = memory(pixels)
    for b in range(bands):
        source.GetRasterBand(b + 1).SetNoDataValue(value)
    ds = reopen(copy(vsimem + "/a.nsvq", source, "QUALITY=20"))
    assert np.array_equal(ds.ReadAsArray().reshape(pixels.shape) == value, pixels == value)
    for b in range(bands):
        mask = ds.GetRasterBand(b + 1).GetMaskBand().ReadAsArray()
        assert np.array_equal(mask == 0, pixels[b] == value)


def test_all_nodata(vsimem):
    pixels = np.full((3, 600, 530), 9, np.uint8)
    source = memory(pixels)
    for b in range(3):
        source.GetRasterBand(b + 1).SetNoDataValue(9)
    assert np.array_equal(reopen(copy(vsimem + "/a.nsvq", source)).ReadAsArray(), pixels)


def test_nodata_values_of_the_dataset(vsimem):
    """NODATA_VALUES: missing is where all bands have their value."""
    pixels = picture(300, 200)
    pixels[:, 20:60, 30:90] = np.array([0, 0, 255]).reshape(3, 1, 1)
    pixels[0, 100:120] = 0
    source = memory(pixels)
    source.SetMetadataItem("NODATA_VALUES", "0 0 255")
    want = source.GetRasterBand(1).GetMaskBand().ReadAsArray()
    assert (want == 0).sum() == 40 * 60
    ds = reopen(copy(vsimem + "/a.nsvq", source, "QUALITY=20"))
    assert ds.GetRasterBand(1).GetMaskFlags() == gdal.GMF_NODATA | gdal.GMF_PER_DATASET
    assert np.array_equal(ds.GetRasterBand(1).GetMaskBand().ReadAsArray(), want)


@pytest.mark.parametrize("options", [["LOSSLESS=YES"], ["QUALITY=20"]])
def test_dataset_mask(tmp_path, options):
    pixels = picture(700, 560)
    mask = np.where(noise(700, 560)[0] < 100, 0, 255).astype(np.uint8)
    mask[:, 300:] = 255
    mask[:200, 600:] = 0
    source = memory(pixels)
    source.CreateMaskBand(gdal.GMF_PER_DATASET)
    source.GetRasterBand(1).GetMaskBand().WriteArray(mask)
    path = copy(tmp_path / "a.nsvq", source, *options)
    assert [p.name for p in tmp_path.iterdir()] == ["a.nsvq"]
    ds = reopen(path)
    for b in range(1, 4):
        band = ds.GetRasterBand(b)
        assert band.GetMaskFlags() == gdal.GMF_PER_DATASET
        assert np.array_equal(band.GetMaskBand().ReadAsArray(), mask)
    assert np.array_equal(band.GetMaskBand().ReadAsArray(490, 500, 100, 60), mask[500:560, 490:590])
    if options == ["LOSSLESS=YES"]:
        assert np.array_equal(ds.ReadAsArray()[:, mask == 255], pixels[:, mask == 255])


def test_mask_of_one_band_goes_beside_the_file(tmp_path):
    masked = memory(picture(60, 50, 3))
    source = gdal.GetDriverByName("GTiff").CreateCopy(str(tmp_path / "in.tif"), masked)
    mask = noise(60, 50)[0] // 128 * 255
    source.GetRasterBand(2).CreateMaskBand(0)
    source.GetRasterBand(2).GetMaskBand().WriteArray(mask)
    assert source.GetRasterBand(2).GetMaskFlags() == 0
    ds = reopen(copy(tmp_path / "a.nsvq", source))
    assert np.array_equal(ds.GetRasterBand(2).GetMaskBand().ReadAsArray(), mask)


# ---- all ways of reading give the same pixels ----

WIDTH, HEIGHT, BANDS = 1300, 1100, 5


@pytest.fixture(scope="module", params=["lossy", "exact"])
def stack(request):
    """A file of several blocks and groups, and the pixels that a plain read gives."""
    path = "/vsimem/stack_%s.nsvq" % request.param
    pixels = picture(WIDTH, HEIGHT, BANDS)
    copy(path, memory(pixels, alpha=True), *(["LOSSLESS=YES"] if request.param == "exact" else []))
    whole = reopen(path, "NUM_THREADS=1").ReadAsArray()
    assert request.param == "lossy" or np.array_equal(whole, pixels)
    yield path, whole
    gdal.Unlink(path)


@pytest.fixture(scope="module", params=["lossy", "exact"])
def whole_only(request):
    """The same without overviews, which would be taken for what they are."""
    path = "/vsimem/whole_%s.nsvq" % request.param
    options = ["OVERVIEWS=NONE"] + (["LOSSLESS=YES"] if request.param == "exact" else [])
    copy(path, memory(picture(WIDTH, HEIGHT, BANDS), alpha=True), *options)
    yield path, reopen(path).ReadAsArray()
    gdal.Unlink(path)


@pytest.mark.parametrize("threads", ["1", "2", "5", "ALL_CPUS"])
def test_threads(stack, threads):
    path, whole = stack
    assert np.array_equal(reopen(path, "NUM_THREADS=" + threads).ReadAsArray(), whole)
    gdal.SetConfigOption("GDAL_NUM_THREADS", threads)
    try:
        assert np.array_equal(reopen(path).ReadAsArray(), whole)
    finally:
        gdal.SetConfigOption("GDAL_NUM_THREADS", None)


def test_blocks(stack):
    path, whole = stack
    ds = reopen(path)
    for b in [4, 0, 2, 1, 3]:
        for by in range(3):
            for bx in range(3):
                raw = ds.GetRasterBand(b + 1).ReadBlock(bx, by)
                block = np.frombuffer(raw, np.uint8).reshape(512, 512)
                want = whole[b, by * 512:by * 512 + 512, bx * 512:bx * 512 + 512]
                assert np.array_equal(block[:want.shape[0], :want.shape[1]], want)
                assert not block[want.shape[0]:].any() and not block[:, want.shape[1]:].any()


WINDOWS = [(0, 0, 1, 1), (1299, 1099, 1, 1), (511, 511, 2, 2), (500, 500, 30, 600), (0, 0, 1300, 1), (0, 600, 1300, 3),
           (700, 0, 1, 1100), (3, 5, 1290, 1090), (512, 512, 512, 512), (512, 0, 788, 512), (256, 256, 1024, 800),
           (37, 411, 501, 309), (1000, 1000, 300, 100)]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("threads", [1, 3])
def test_windows(stack, window, threads):
    path, whole = stack
    x, y, w, h = window
    ds = reopen(path, "NUM_THREADS=%d" % threads)
    want = whole[:, y:y + h, x:x + w]
    assert np.array_equal(ds.ReadAsArray(x, y, w, h), want)
    ds = reopen(path, "NUM_THREADS=%d" % threads)
    for b in [1, 0, 4]:
        assert np.array_equal(ds.GetRasterBand(b + 1).ReadAsArray(x, y, w, h), want[b])


def test_line_by_line(stack):
    path, whole = stack
    ds = reopen(path, "NUM_THREADS=2")
    got = np.concatenate([ds.ReadAsArray(0, y, WIDTH, 1) for y in range(HEIGHT)], axis=1)
    assert np.array_equal(got, whole)


@pytest.mark.parametrize("cache", [0, 300 * 1024, 4 * 1024 * 1024])
def test_small_block_cache(stack, cache):
    path, whole = stack
    before = gdal.GetCacheMax()
    gdal.SetCacheMax(cache)
    try:
        ds = reopen(path, "NUM_THREADS=2")
        assert np.array_equal(ds.ReadAsArray(400, 400, 300, 300), whole[:, 400:700, 400:700])
        assert np.array_equal(ds.GetRasterBand(3).ReadAsArray(), whole[2])
        assert np.array_equal(ds.ReadAsArray(), whole)
    finally:
        gdal.SetCacheMax(before)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.float32, np.float64, np.complex64])
def test_types(stack, kind):
    path, whole = stack
    code = gdal_array.NumericTypeCodeToGDALTypeCode(kind)
    ds = reopen(path)
    for x, y, w, h in [(0, 0, WIDTH, HEIGHT), (100, 300, 1100, 700), (500, 500, 40, 40)]:
        got = ds.ReadAsArray(x, y, w, h, buf_type=code)
        assert got.dtype == kind
        assert np.array_equal(got, whole[:, y:y + h, x:x + w].astype(kind))


@pytest.mark.parametrize("order", [[1], [3, 2, 1], [1, 2, 3], [5, 4, 3, 2, 1], [2, 2, 2], [1, 2, 3, 1, 2, 3, 4], [4, 4], [5]])
@pytest.mark.parametrize("kind", [gdal.GDT_Byte, gdal.GDT_UInt16])
def test_band_order(stack, order, kind):
    path, whole = stack
    ds = reopen(path)
    raw = ds.ReadRaster(0, 0, WIDTH, HEIGHT, band_list=order, buf_type=kind)
    got = np.frombuffer(raw, np.uint8 if kind == gdal.GDT_Byte else np.uint16).reshape(len(order), HEIGHT, WIDTH)
    assert np.array_equal(got, whole[[b - 1 for b in order]])


@pytest.mark.parametrize("kind", [gdal.GDT_Byte, gdal.GDT_Int16])
def test_spacings(stack, kind):
    path, whole = stack
    size = gdal.GetDataTypeSize(kind) // 8
    dtype = np.uint8 if size == 1 else np.int16
    x, y, w, h = 10, 20, 1200, 1000
    raw = reopen(path).ReadRaster(x, y, w, h, buf_type=kind, buf_pixel_space=BANDS * size,
                                  buf_line_space=w * BANDS * size, buf_band_space=size)
    got = np.frombuffer(raw, dtype).reshape(h, w, BANDS)
    assert np.array_equal(got, whole[:, y:y + h, x:x + w].transpose(1, 2, 0))


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_negative_line_spacing(stack, kind):
    """Through a numpy view that stands on its head."""
    path, whole = stack
    ds = reopen(path)
    got = np.zeros((HEIGHT, WIDTH), kind)[::-1]
    assert gdal_array.BandReadAsArray(ds.GetRasterBand(4), buf_obj=got) is not None
    assert np.array_equal(got, whole[3])
    got = np.zeros((BANDS, HEIGHT, WIDTH), kind)[:, ::-1, ::-1]
    assert gdal_array.DatasetReadAsArray(ds, buf_obj=got) is not None
    assert np.array_equal(got, whole)


@pytest.mark.parametrize("method", [gdal.GRIORA_NearestNeighbour, gdal.GRIORA_Bilinear, gdal.GRIORA_Average, gdal.GRIORA_Cubic])
@pytest.mark.parametrize("size", [(650, 550), (100, 77), (1, 1), (1500, 1200)])
def test_resampling_is_that_of_any_raster(whole_only, method, size):
    path, whole = whole_only
    want = memory(whole, alpha=True).ReadAsArray(buf_xsize=size[0], buf_ysize=size[1], resample_alg=method)
    got = reopen(path).ReadAsArray(buf_xsize=size[0], buf_ysize=size[1], resample_alg=method)
    assert np.array_equal(got, want)


@pytest.mark.parametrize("method", [gdal.GRIORA_NearestNeighbour, gdal.GRIORA_Bilinear])
@pytest.mark.parametrize("shift", [0, 0.3, 0.7])
def test_windows_between_pixels(stack, method, shift):
    path, whole = stack
    plain = gdal.GetDriverByName("GTiff").CreateCopy("/vsimem/plain.tif", memory(whole), 1, ["TILED=YES"])
    want = plain.ReadAsArray(10 + shift, 20 + shift, 1200, 1000, buf_xsize=1200, buf_ysize=1000, resample_alg=method)
    got = reopen(path).ReadAsArray(10 + shift, 20 + shift, 1200, 1000, buf_xsize=1200, buf_ysize=1000, resample_alg=method)
    assert np.array_equal(got, want)
    plain = None
    gdal.Unlink("/vsimem/plain.tif")


def test_checksums(stack):
    path, whole = stack
    want, ds = memory(whole), reopen(path)
    for b in range(1, BANDS + 1):
        assert ds.GetRasterBand(b).Checksum() == want.GetRasterBand(b).Checksum()


def test_progress_of_a_read_can_stop_it(stack):
    path, whole = stack
    seen = []

    def stop(done, text, data):
        seen.append(done)
        return 0

    with errors() as found:
        assert reopen(path).ReadAsArray(callback=stop) is None
    assert len(seen) == 1 and gdal.CPLE_UserInterrupt in failures(found)
    seen.clear()
    got = reopen(path).ReadAsArray(callback=lambda done, text, data: seen.append(done) or 1)
    assert np.array_equal(got, whole) and seen == sorted(seen) and seen[-1] == 1


def test_many_bands(vsimem):
    pixels = noise(40, 30, 300)
    ds = reopen(copy(vsimem + "/a.nsvq", memory(pixels), "LOSSLESS=YES"))
    assert ds.RasterCount == 300 and np.array_equal(ds.ReadAsArray(), pixels)
    assert np.array_equal(ds.GetRasterBand(200).ReadAsArray(), pixels[199])


def test_handles_in_many_threads(stack):
    from concurrent.futures import ThreadPoolExecutor
    path, whole = stack

    def read(i):
        x, y = 97 * i % 900, 61 * i % 800
        return np.array_equal(reopen(path).ReadAsArray(x, y, 400, 300), whole[:, y:y + 300, x:x + 400])

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(read, range(24)))


def test_external_overviews(tmp_path):
    path = copy(tmp_path / "a.nsvq", memory(picture(1100, 900)))
    ds = reopen(path)
    assert ds.BuildOverviews("AVERAGE", [2, 4]) == 0
    ds = None
    ds = reopen(path)
    assert ds.GetRasterBand(1).GetOverviewCount() == 2
    assert (tmp_path / "a.nsvq.ovr").exists()
    small = ds.GetRasterBand(1).GetOverview(1).ReadAsArray()
    assert np.array_equal(ds.GetRasterBand(1).ReadAsArray(buf_xsize=275, buf_ysize=225), small)


def test_external_overviews_have_no_masks(tmp_path):
    source = memory(picture(600, 500))
    source.CreateMaskBand(gdal.GMF_PER_DATASET)
    ds = reopen(copy(tmp_path / "a.nsvq", source))
    with errors() as found:
        assert ds.BuildOverviews("AVERAGE", [2]) == 0
    assert [(cls, num) for cls, num, _ in found] == [(gdal.CE_Warning, gdal.CPLE_NotSupported)]


def test_same_bytes_for_any_number_of_threads(vsimem):
    source = memory(picture(1100, 700, 4), alpha=True)
    files = []
    for threads in ["1", "2", "7"]:
        path = copy(vsimem + "/a.nsvq", source, "NUM_THREADS=" + threads)
        f = gdal.VSIFOpenL(path, "rb")
        files.append(gdal.VSIFReadL(1, gdal.VSIStatL(path).size, f))
        gdal.VSIFCloseL(f)
    assert files[0] == files[1] == files[2]


@pytest.mark.parametrize("window", [(0, 0, 2000, 500), (-5, 0, 20, 20), (500, 400, 800, 700), (0, 0, 0, 0)])
def test_advice_that_makes_no_sense(tmp_path, window):
    pixels = picture(1100, 900)
    ds = reopen(copy(tmp_path / "a.nsvq", memory(pixels), "LOSSLESS=YES"))
    with errors():
        ds.AdviseRead(*window)
    with errors() as found:
        assert np.array_equal(ds.GetRasterBand(1).ReadAsArray(1000, 0, 20, 20), pixels[0, :20, 1000:1020])
    assert found == []
