"""Hostile and damaged files: an error, never other pixels, and the rest stays readable."""
import numpy as np
import pytest
from osgeo import gdal

from conftest import copy, errors, failures, memory, noise, picture, reopen

WIDTH, HEIGHT = 1100, 1000


def load(path):
    f = gdal.VSIFOpenL(path, "rb")
    data = bytearray(gdal.VSIFReadL(1, gdal.VSIStatL(path).size, f))
    gdal.VSIFCloseL(f)
    return data


@pytest.fixture(scope="module", params=["lossy", "exact"])
def good(request):
    """Bytes and pixels of a file of 6 blocks and 2 groups."""
    pixels = np.concatenate([picture(WIDTH, HEIGHT, 3), noise(WIDTH, HEIGHT, 1)])
    source = memory(pixels, alpha=True)
    source.SetMetadataItem("K", "V")
    path = copy("/vsimem/good.nsvq", source, *(["LOSSLESS=YES"] if request.param == "exact" else []))
    yield load(path), reopen(path).ReadAsArray()
    gdal.Unlink(path)


def blocks_of(data):
    """{(band, bx, by): pixels, or None where reading failed}, or None when the file does not open."""
    path = "/vsimem/damaged.nsvq"
    gdal.FileFromMemBuffer(path, bytes(data))
    try:
        with errors() as found:
            ds = gdal.OpenEx(path, gdal.OF_RASTER | gdal.OF_VERBOSE_ERROR, allowed_drivers=["NSVQ"])
        if ds is None:
            assert failures(found)
            return None
        out = {}
        for b in range(1, ds.RasterCount + 1):
            for y in range(0, ds.RasterYSize, 512):
                for x in range(0, ds.RasterXSize, 512):
                    w, h = min(512, ds.RasterXSize - x), min(512, ds.RasterYSize - y)
                    with errors() as found:
                        out[b, x, y] = ds.GetRasterBand(b).ReadAsArray(x, y, w, h)
                    assert (out[b, x, y] is None) == bool(failures(found))
        return out
    finally:
        ds = None
        gdal.Unlink(path)


def compare(found, whole):
    """Number of blocks that failed; the others must be right."""
    bad = 0
    for (b, x, y), got in found.items():
        if got is None:
            bad += 1
        else:
            assert np.array_equal(got, whole[b - 1, y:y + 512, x:x + 512]), (b, x, y)
    return bad


def test_undamaged(good):
    data, whole = good
    assert compare(blocks_of(data), whole) == 0


def test_any_flipped_byte(good):
    """Over the whole file: it does not open, or some blocks fail, or nothing depends on the byte."""
    data, whole = good
    size, opened, closed = len(data), [], 0
    for at in [8, 20, 40, 70, 100, 200] + [size * i // 29 for i in range(1, 29)] + [size - 30, size - 9, size - 1]:
        damaged = bytearray(data)
        damaged[at] ^= 0x5A
        found = blocks_of(damaged)
        if found is None:
            closed += 1
        else:
            opened.append(compare(found, whole))
            assert opened[-1] < len(found) or at < 4096  # all of them only where the index suffers
    assert closed >= 3  # the header is protected
    assert sum(n > 0 for n in opened) >= 10  # and so are the blocks


def test_whole_reads_fail_with_a_clear_error(good):
    data, whole = good
    damaged = bytearray(data)
    for i in range(len(data) // 2, len(data) // 2 + 50):
        damaged[i] ^= 0xFF
    gdal.FileFromMemBuffer("/vsimem/damaged.nsvq", bytes(damaged))
    ds = reopen("/vsimem/damaged.nsvq", "NUM_THREADS=2")
    with errors() as found:
        assert ds.ReadAsArray() is None
    assert failures(found) and any("block" in text for _, _, text in found)
    with errors() as found:  # a window that misses the damage; which one depends on the layout
        corners = [ds.ReadAsArray(x, y, 80, 80) for x, y in [(0, 0), (1020, 920)]]
    assert any(c is not None for c in corners)
    ds = None
    gdal.Unlink("/vsimem/damaged.nsvq")


@pytest.mark.parametrize("lossy", [False, True])
@pytest.mark.parametrize("nodata", [None, 7])
def test_on_error_nodata(lossy, nodata):
    """What does not depend on a damaged block is right, the rest is nodata or 0, and one warning tells."""
    ds = memory(np.maximum(picture(1700, 1100), 8))
    for b in range(3):
        if nodata is not None:
            ds.GetRasterBand(b + 1).SetNoDataValue(nodata)
    path = copy("/vsimem/holes.nsvq", ds, *([] if lossy else ["LOSSLESS=YES"]))
    whole, data = reopen(path).ReadAsArray(), load(path)
    corrupt = bytearray(data)
    for at in range(len(data) // 2, len(data) // 2 + 40):
        corrupt[at] ^= 0x55
    gdal.FileFromMemBuffer("/vsimem/damaged.nsvq", bytes(corrupt))
    for threads in "12":
        ds = reopen("/vsimem/damaged.nsvq", "ON_ERROR=NODATA", "NUM_THREADS=" + threads)
        with errors() as found:
            got = ds.ReadAsArray()
            again = ds.ReadAsArray(400, 300, 800, 700)
        assert [(cls, num) for cls, num, _ in found] == [(gdal.CE_Warning, gdal.CPLE_FileIO)]
        assert "block (" in found[0][2] and "damaged.nsvq" in found[0][2]
        holes = (got == (nodata or 0)).all(0)
        assert holes.any() and np.array_equal(got[:, ~holes], whole[:, ~holes])
        least, most = (512 * 512, 512 * 512) if not lossy else (512 * 512, 1000 * 1000)
        assert least <= holes.sum() <= most or holes.sum() == 164 * 512 or lossy
        assert np.array_equal(again, got[:, 300:1000, 400:1200])
    ds = reopen("/vsimem/damaged.nsvq")
    with errors() as found:
        assert ds.ReadAsArray() is None
    assert failures(found) == [gdal.CPLE_FileIO] and "block (" in found[0][2] and "damaged.nsvq" in found[0][2]
    with errors() as found:
        assert gdal.OpenEx("/vsimem/damaged.nsvq", gdal.OF_VERBOSE_ERROR, open_options=["ON_ERROR=MAYBE"]) is None
    assert gdal.CPLE_IllegalArg in failures(found)
    ds = None
    gdal.Unlink("/vsimem/damaged.nsvq")
    gdal.Unlink(path)


def test_truncated_anywhere(good):
    data, whole = good
    size = len(data)
    for length in [0, 1, 7, 8, 11, 12, 13, 16, 32, 64, 100, 1000, 5000, size // 4, size // 2, size - 1000, size - 1]:
        path = "/vsimem/short.nsvq"
        gdal.FileFromMemBuffer(path, bytes(data[:length]))
        with errors() as found:
            ds = gdal.OpenEx(path, gdal.OF_RASTER | gdal.OF_VERBOSE_ERROR, allowed_drivers=["NSVQ"])
        assert ds is None and failures(found), length
        gdal.Unlink(path)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_rescue_of_a_file_that_was_cut(share):
    """ON_ERROR=NODATA reads what is there; without the whole index there is nothing to read by."""
    pixels = noise(1700, 1100, 3) | 1
    path = copy("/vsimem/whole.nsvq", memory(pixels), "LOSSLESS=YES", "OVERVIEWS=NONE")
    data = load(path)
    gdal.FileFromMemBuffer("/vsimem/cut.nsvq", bytes(data[:int(len(data) * share)]))
    ds = reopen("/vsimem/cut.nsvq", "ON_ERROR=NODATA")
    with errors() as found:
        got = ds.ReadAsArray()
    assert [(cls, num) for cls, num, _ in found] == [(gdal.CE_Warning, gdal.CPLE_FileIO)]
    there = (got != 0).all(0)
    assert np.array_equal(got[:, there], pixels[:, there]) and share - 0.3 < there.mean() < share + 0.1
    ds = None
    gdal.FileFromMemBuffer("/vsimem/cut.nsvq", bytes(data[:60]))
    with errors() as found:
        assert gdal.OpenEx("/vsimem/cut.nsvq", gdal.OF_VERBOSE_ERROR, open_options=["ON_ERROR=NODATA"]) is None
    assert failures(found)
    gdal.Unlink("/vsimem/whole.nsvq")
    gdal.Unlink("/vsimem/cut.nsvq")


def test_random_bytes_after_the_signature(good):
    data, _ = good
    rng = np.random.default_rng(3)
    for i in range(40):
        head = int(rng.integers(12, 400))
        found = blocks_of(bytes(data[:head]) + rng.bytes(int(rng.integers(0, 3000))))
        assert found is None


def test_extra_bytes_at_the_end(good):
    """A file that grew is either refused or right."""
    data, whole = good
    found = blocks_of(bytes(data) + b"\0" * 100)
    assert found is None or compare(found, whole) == 0


def test_identify_reads_the_signature_only():
    driver = gdal.IdentifyDriver
    for content in [b"", b"N", b"II*\0" + bytes(100), bytes(2000), b"\x89PNG\r\n\x1a\n" + bytes(100)]:
        gdal.FileFromMemBuffer("/vsimem/other.nsvq", content)
        with errors():
            found = driver("/vsimem/other.nsvq")
        assert found is None or found.ShortName != "NSVQ"
        gdal.Unlink("/vsimem/other.nsvq")


def test_damage_reaches_only_the_edges_of_lossy_neighbours():
    """Windows of any block but the damaged one, 64 pixels away from it (the reach at this quality), are read, without a word."""
    source = memory(picture(2560, 1536))
    path = copy("/vsimem/lossy.nsvq", source, "OVERVIEWS=NONE", "EFFORT=1")
    ds = reopen(path)
    whole, data = ds.ReadAsArray(), bytearray(load(path))
    data[len(data) // 2] ^= 1
    gdal.FileFromMemBuffer("/vsimem/damaged.nsvq", bytes(data))
    broken = []
    for band_wise in [True, False]:
        ds = reopen("/vsimem/damaged.nsvq")
        for y in range(0, 1536, 512):
            for x in range(0, 2560, 512):
                window = (x + 64, y + 64, 384, 384)
                gdal.ErrorReset()
                with errors() as found:
                    got = ds.GetRasterBand(2).ReadAsArray(*window) if band_wise else ds.ReadAsArray(*window)
                assert (gdal.GetLastErrorType() == gdal.CE_Failure) == (got is None)
                if got is None:
                    assert failures(found)
                    broken.append((x, y))
                    continue
                want = whole[:, window[1]:window[1] + 384, window[0]:window[0] + 384]
                assert found == [] and np.array_equal(got, want[1] if band_wise else want)
    assert len(broken) == 2 and broken[0] == broken[1]
    gdal.Unlink("/vsimem/lossy.nsvq")
    gdal.Unlink("/vsimem/damaged.nsvq")
