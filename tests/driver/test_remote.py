"""Files that are not local: over HTTP with ranges, and in archives."""
import numpy as np
import pytest
from osgeo import gdal

from conftest import copy, errors, failures, memory, noise, picture, reopen
from range_server import RangeServer
from test_damage import load


@pytest.fixture
def served():
    """A server of /a.nsvq, 2 x 2 blocks and more than 1 MB, and its pixels."""
    pixels = noise(1024, 1024, 2)
    path = copy("/vsimem/served.nsvq", memory(pixels), "LOSSLESS=YES")
    server = RangeServer({"/a.nsvq": bytes(load(path))})
    gdal.Unlink(path)
    gdal.SetConfigOption("GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR")
    yield server, pixels
    gdal.SetConfigOption("GDAL_DISABLE_READDIR_ON_OPEN", None)
    server.close()
    gdal.VSICurlClearCache()


def bytes_read(server):
    return sum(last - first + 1 for method, _, first, last in server.requests if method == "GET")


@pytest.mark.parametrize("threads", [1, 4])
def test_whole_file_over_http(served, threads):
    server, pixels = served
    ds = reopen("/vsicurl/" + server.url + "/a.nsvq", "NUM_THREADS=%d" % threads)
    assert np.array_equal(ds.ReadAsArray(), pixels)


def test_a_window_reads_a_part_of_the_file(served):
    server, pixels = served
    size = len(server.files["/a.nsvq"])
    ds = reopen("/vsicurl/" + server.url + "/a.nsvq")
    opening = len([r for r in server.requests if r[0] == "GET"])
    assert opening <= 2 and bytes_read(server) <= 64 * 1024
    got = ds.GetRasterBand(2).ReadAsArray(600, 700, 50, 60)
    assert np.array_equal(got, pixels[1, 700:760, 600:650])
    assert bytes_read(server) < size * 0.4


def test_server_that_goes_away(served):
    server, pixels = served
    ds = reopen("/vsicurl/" + server.url + "/a.nsvq", "NUM_THREADS=4")
    server.files.clear()
    gdal.VSICurlClearCache()
    with errors() as found:
        assert ds.ReadAsArray() is None
    assert failures(found)


def test_missing_file(served):
    server, _ = served
    with errors() as found:
        assert gdal.OpenEx("/vsicurl/" + server.url + "/b.nsvq", gdal.OF_RASTER | gdal.OF_VERBOSE_ERROR) is None
    assert failures(found)


def test_in_a_zip_archive(tmp_path):
    """Handles without positional reads, from several threads."""
    import zipfile
    pixels = picture(1100, 1030, 4)
    path = copy(tmp_path / "a.nsvq", memory(pixels), "LOSSLESS=YES")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, "folder/a.nsvq")
    for threads in [1, 4]:
        ds = reopen("/vsizip/%s/folder/a.nsvq" % (tmp_path / "a.zip"), "NUM_THREADS=%d" % threads)
        assert np.array_equal(ds.ReadAsArray(), pixels)


def test_part_of_a_file(tmp_path):
    pixels = noise(300, 200)
    path = copy(tmp_path / "a.nsvq", memory(pixels), "LOSSLESS=YES")
    data = bytes(load(path))
    (tmp_path / "box").write_bytes(b"x" * 777 + data + b"y" * 10)
    ds = reopen("/vsisubfile/777_%d,%s" % (len(data), tmp_path / "box"))
    assert np.array_equal(ds.ReadAsArray(), pixels[0])


@pytest.mark.parametrize("writable", [True, False])
def test_upload_to_an_object_store(tmp_path, writable):
    server = RangeServer({}, writable)
    settings = {"AWS_S3_ENDPOINT": server.url.replace("http://", ""), "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE",
                "AWS_NO_SIGN_REQUEST": "YES", "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
                "CPL_TMPDIR": str(tmp_path)}
    for name, value in settings.items():
        gdal.SetConfigOption(name, value)
    pixels = noise(600, 700)
    try:
        with errors() as found:
            ds = gdal.GetDriverByName("NSVQ").CreateCopy("/vsis3/bucket/a.nsvq", memory(pixels), 1, ["LOSSLESS=YES"])
        if writable:
            assert np.array_equal(ds.ReadAsArray(), pixels[0])
            assert server.files["/bucket/a.nsvq"][1:5] == b"NSVQ"
        else:
            assert ds is None and gdal.CPLE_FileIO in failures(found)
        assert list(tmp_path.iterdir()) == []
    finally:
        ds = None
        for name in settings:
            gdal.SetConfigOption(name, None)
        server.close()
        gdal.VSICurlClearCache()
