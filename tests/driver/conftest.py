"""Common to the driver's tests. GDAL_DRIVER_PATH must name the folder of the plugin under test."""
import contextlib
import os

import numpy as np
import pytest
from osgeo import gdal, osr

# Sidecar files belong to what is tested, caches of directories do not.
gdal.SetConfigOption("CPL_VSIL_CURL_NON_CACHED", "/vsicurl/http://127.0.0.1")


def pytest_sessionstart(session):
    gdal.DontUseExceptions()
    osr.DontUseExceptions()
    if gdal.GetDriverByName("NSVQ") is None:
        pytest.exit("no NSVQ driver: set GDAL_DRIVER_PATH to the folder of gdal_NSVQ.so", 2)


@contextlib.contextmanager
def errors():
    """Collects what GDAL reports as (class, number, text), printing nothing."""
    found = []
    gdal.PushErrorHandler(lambda cls, num, text: cls == gdal.CE_Debug or found.append((cls, num, text)))
    try:
        yield found
    finally:
        gdal.PopErrorHandler()


def failures(found):
    return [num for cls, num, _ in found if cls == gdal.CE_Failure]


def noise(width, height, bands=1, seed=1):
    """Pixels without any structure: shape (bands, height, width)."""
    return np.random.default_rng(seed).integers(0, 256, (bands, height, width), dtype=np.uint8)


def picture(width, height, bands=3, seed=1):
    """Pixels as of a photograph: smooth areas, edges, a little grain."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    out = np.empty((bands, height, width))
    for b in range(bands):
        out[b] = 120 + 50 * np.sin(x / (37 + 5 * b)) * np.cos(y / (53 - 4 * b)) + 20 * np.sin((x + y) / 190)
    for _ in range(12):  # roofs and fields
        x0, y0 = rng.integers(0, max(width - 4, 1)), rng.integers(0, max(height - 4, 1))
        w, h = rng.integers(3, max(width // 3, 4)), rng.integers(3, max(height // 3, 4))
        out[:, y0:y0 + h, x0:x0 + w] += rng.uniform(-45, 45, (bands, 1, 1))
    out += rng.normal(0, 2, out.shape)
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)


def crs(text, mapping=None, epoch=None):
    srs = osr.SpatialReference()
    assert srs.SetFromUserInput(text) == 0
    srs.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    if mapping:
        srs.SetDataAxisToSRSAxisMapping(mapping)
    if epoch:
        srs.SetCoordinateEpoch(epoch)
    return srs


def memory(pixels, alpha=False):
    """A MEM dataset of pixels (bands, height, width); three bands and more are RGB."""
    bands, height, width = pixels.shape
    ds = gdal.GetDriverByName("MEM").Create("", width, height, bands, gdal.GDT_Byte)
    ds.WriteArray(pixels)
    names = [gdal.GCI_RedBand, gdal.GCI_GreenBand, gdal.GCI_BlueBand] if bands >= 3 else [gdal.GCI_GrayIndex]
    for i, name in enumerate(names):
        ds.GetRasterBand(i + 1).SetColorInterpretation(name)
    if alpha:
        ds.GetRasterBand(bands).SetColorInterpretation(gdal.GCI_AlphaBand)
    return ds


def copy(path, source, *options, strict=True, **arguments):
    """CreateCopy that must succeed; closed again, so that what follows reads the file."""
    ds = gdal.GetDriverByName("NSVQ").CreateCopy(str(path), source, int(strict), list(options), **arguments)
    assert ds is not None, gdal.GetLastErrorMsg()
    assert ds.GetDriver().ShortName == "NSVQ"
    ds = None
    return str(path)


def reopen(path, *options, flags=gdal.OF_RASTER):
    ds = gdal.OpenEx(str(path), flags | gdal.OF_VERBOSE_ERROR, open_options=list(options),
                     allowed_drivers=["NSVQ"])
    assert ds is not None, gdal.GetLastErrorMsg()
    return ds


def psnr(a, b):
    mse = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return np.inf if mse == 0 else 10 * np.log10(255.0**2 / mse)


def no_sidecar(path):
    return gdal.VSIStatL(str(path) + ".aux.xml") is None and gdal.VSIStatL(str(path) + ".msk") is None


@pytest.fixture
def vsimem(request):
    """A /vsimem folder of the test's own, which must be gone when it ends."""
    folder = "/vsimem/" + "".join(c if c.isalnum() else "_" for c in request.node.name)
    gdal.Mkdir(folder, 0o755)
    yield folder
    gdal.RmdirRecursive(folder)


@pytest.fixture(scope="session")
def shared_data():
    root = os.environ.get("NSVQ_SHARED") or os.path.join(
        os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "shared")
    data = os.path.join(root, "data")
    if not os.path.isdir(data):
        pytest.skip("no folder of real imagery: set NSVQ_SHARED")
    return data
