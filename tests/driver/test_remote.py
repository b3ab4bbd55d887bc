"""Files that are not local: over HTTP with ranges, and in archives."""
import numpy as np
import pytest
from osgeo import gdal, osr

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


def gets(server):
    return [r for r in server.requests if r[0] == "GET"]


class Remote:
    """A file over HTTP that has just been opened; how many requests a thing costs."""

    def __init__(self, path, *options):
        self.server = RangeServer({"/a.nsvq": bytes(load(path))})
        gdal.SetConfigOption("GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR")
        self.url = "/vsicurl/" + self.server.url + "/a.nsvq"
        self.options = options
        self.open()

    def open(self):
        self.ds = None
        gdal.VSICurlClearCache()
        self.server.requests.clear()
        self.ds = reopen(self.url, *self.options)
        self.opening = gets(self.server)
        self.server.requests.clear()

    def cost(self, *window, level=None, **arguments):
        """Pixels of a window of a file that has just been opened, and the requests for them."""
        self.open()
        got = self.ds.ReadAsArray(*window, **arguments)
        return got, len(gets(self.server))

    def close(self):
        self.ds = None
        gdal.SetConfigOption("GDAL_DISABLE_READDIR_ON_OPEN", None)
        self.server.close()
        gdal.VSICurlClearCache()


def test_opening_takes_one_small_request(vsimem):
    """1000 blocks and their overviews, with metadata."""
    ds = gdal.GetDriverByName("MEM").Create("", 20480, 12800, 1)
    ds.GetRasterBand(1).Fill(7)
    ds.SetMetadata({"K%d" % i: "value %d" % i for i in range(200)})
    srs = osr.SpatialReference()
    srs.ImportFromEPSG(32633)
    ds.SetSpatialRef(srs)
    ds.SetGeoTransform((0, 1, 0, 0, 0, -1))
    remote = Remote(copy(vsimem + "/a.nsvq", ds, "LOSSLESS=YES"))
    assert len(remote.opening) == 1 and remote.opening[0][2] == 0 and remote.opening[0][3] < 16384
    assert remote.ds.GetSpatialRef().IsSame(srs) and len(remote.ds.GetMetadata()) == 200
    band = remote.ds.GetRasterBand(1)
    for i in range(band.GetOverviewCount()):
        band.GetOverview(i)
    assert gets(remote.server) == []
    remote.close()


@pytest.mark.parametrize("threads,lossy", [(1, False), (3, False), (3, True)])
def test_requests_for_windows(vsimem, threads, lossy):
    """Rows and squares of k blocks: at most k / 4 + 3."""
    columns, rows = (5, 4) if lossy else (8, 6)
    pixels = picture(512 * columns, 512 * rows) if lossy else noise(512 * columns, 512 * rows, 2)
    path = copy(vsimem + "/a.nsvq", memory(pixels), *([] if lossy else ["LOSSLESS=YES"]))
    pixels = reopen(path).ReadAsArray()
    remote = Remote(path, "NUM_THREADS=%d" % threads)
    for w, h in [(1, 1), (2, 1), (4, 1), (columns, 1), (2, 2), (3, 3), (columns, rows)]:
        for x, y in [(0, 0), (columns - w, rows - h), ((columns - w) // 2, (rows - h) // 2)]:
            got, requests = remote.cost(x * 512, y * 512, w * 512, h * 512)
            assert np.array_equal(got, pixels[:, y * 512:(y + h) * 512, x * 512:(x + w) * 512])
            assert requests <= w * h / 4 + 3, (w, h, x, y)
    remote.close()


def test_small_overviews_take_one_request(vsimem):
    pixels = noise(6000, 4000)
    path = copy(vsimem + "/a.nsvq", memory(pixels), "LOSSLESS=YES")
    remote = Remote(path)
    local = reopen(path)
    for i in range(local.GetRasterBand(1).GetOverviewCount()):
        want = local.GetRasterBand(1).GetOverview(i).ReadAsArray()
        got, requests = remote.cost(buf_xsize=want.shape[1], buf_ysize=want.shape[0])
        assert np.array_equal(got, want)
        assert requests <= 1 + want.size // (4 << 20)
    remote.close()


def test_advice_joins_blocks_that_are_read_one_by_one(vsimem):
    pixels = noise(4096, 1024)
    remote = Remote(copy(vsimem + "/a.nsvq", memory(pixels), "LOSSLESS=YES"))
    costs = []
    for advise in [False, True]:
        remote.open()
        if advise:
            remote.ds.AdviseRead(0, 0, 4096, 1024)
        for y in range(2):
            for x in range(8):
                got = remote.ds.GetRasterBand(1).ReadBlock(x, y)
                assert bytes(got) == pixels[0, y * 512:y * 512 + 512, x * 512:x * 512 + 512].tobytes()
        costs.append(len(gets(remote.server)))
    assert costs[1] <= 2 < costs[0]
    remote.close()


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
    assert len(gets(server)) == 1 and bytes_read(server) <= 16384
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
