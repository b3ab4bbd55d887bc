"""Programs and libraries that people use: they take .nsvq as any other raster."""
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from osgeo import gdal

from conftest import copy, memory, noise, picture, psnr, reopen
from test_walk import crs

HERE = os.path.dirname(os.path.abspath(__file__))
WIDTH, HEIGHT = 1100, 900


def run(*command, **arguments):
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **arguments)
    assert done.returncode == 0, done.stderr
    assert "ERROR" not in done.stderr, done.stderr
    return done.stdout


@pytest.fixture
def scene(tmp_path):
    """a.nsvq, its pixels as they decode, and a.tif with the same."""
    ds = memory(picture(WIDTH, HEIGHT))
    ds.SetGeoTransform((400000, 0.5, 0, 5800000, 0, -0.5))
    ds.SetSpatialRef(crs("EPSG:32633"))
    path = copy(tmp_path / "a.nsvq", ds)
    pixels = reopen(path).ReadAsArray()
    gdal.Translate(str(tmp_path / "a.tif"), path, format="GTiff")
    return tmp_path, pixels


def test_gdalinfo(scene):
    folder, pixels = scene
    info = json.loads(run("gdalinfo", "-json", "-checksum", "-stats", "-mdd", "all", folder / "a.nsvq"))
    want = json.loads(run("gdalinfo", "-json", "-checksum", "-stats", folder / "a.tif"))
    assert info["driverShortName"] == "NSVQ" and info["size"] == [WIDTH, HEIGHT]
    assert info["geoTransform"] == want["geoTransform"]
    assert [b["checksum"] for b in info["bands"]] == [b["checksum"] for b in want["bands"]]
    assert [o["size"] for o in info["bands"][0]["overviews"]] == [[550, 450], [275, 225]]
    assert [b["mean"] for b in info["bands"]] == [b["mean"] for b in want["bands"]]
    assert sorted(os.listdir(folder)) == ["a.nsvq", "a.nsvq.aux.xml", "a.tif", "a.tif.aux.xml"]  # the statistics


def test_gdal_translate(scene):
    folder, pixels = scene
    run("gdal_translate", "-q", "-srcwin", 100, 200, 300, 400, "-b", 3, "-b", 1, folder / "a.nsvq", folder / "b.nsvq",
        "-co", "LOSSLESS=YES")
    assert np.array_equal(reopen(folder / "b.nsvq").ReadAsArray(), pixels[[2, 0], 200:600, 100:400])
    run("gdal_translate", "-q", "-outsize", "50%", "50%", "-co", "LOSSLESS=YES", folder / "a.nsvq", folder / "c.nsvq")
    ds = reopen(folder / "a.nsvq")
    overview = ds.GetRasterBand(1).GetOverview(0)
    assert np.array_equal(reopen(folder / "c.nsvq").ReadAsArray()[0], overview.ReadAsArray())
    run("gdal_translate", "-q", "-of", "COG", folder / "a.nsvq", folder / "cog.tif")
    assert np.array_equal(gdal.Open(str(folder / "cog.tif")).ReadAsArray(), pixels)


@pytest.mark.parametrize("to", ["a.nsvq", "a.tif"])
def test_gdalwarp(scene, to):
    folder, pixels = scene
    arguments = ["-t_srs", "EPSG:4326", "-r", "near", "-ts", "300", "280", "-ovr", "NONE"]
    run("gdalwarp", "-q", *arguments, folder / to, folder / "w.tif")
    run("gdalwarp", "-q", *arguments, "-of", "NSVQ", "-co", "LOSSLESS=YES", "-multi", folder / to, folder / "w.nsvq")
    a, b = reopen(folder / "w.nsvq"), gdal.Open(str(folder / "w.tif"))
    assert np.array_equal(a.ReadAsArray(), b.ReadAsArray()) and a.GetGeoTransform() == b.GetGeoTransform()
    assert a.GetSpatialRef().IsSame(b.GetSpatialRef())
    assert not [name for name in os.listdir(folder) if "tmp" in name]


def test_gdalbuildvrt(scene):
    folder, pixels = scene
    ds = memory(picture(WIDTH, HEIGHT, seed=2))
    ds.SetGeoTransform((400000 + WIDTH / 2, 0.5, 0, 5800000, 0, -0.5))
    ds.SetSpatialRef(crs("EPSG:32633"))
    copy(folder / "b.nsvq", ds)
    run("gdalbuildvrt", "-q", folder / "m.vrt", folder / "a.nsvq", folder / "b.nsvq")
    got = gdal.Open(str(folder / "m.vrt")).ReadAsArray()
    assert np.array_equal(got, np.concatenate([pixels, reopen(folder / "b.nsvq").ReadAsArray()], 2))


def test_gdallocationinfo(scene):
    folder, pixels = scene
    points = [(0, 0), (1099, 899), (512, 511), (700, 3)]
    out = run("gdallocationinfo", "-valonly", folder / "a.nsvq", input="".join("%d %d\n" % p for p in points))
    assert [int(v) for v in out.split()] == [int(pixels[b, y, x]) for x, y in points for b in range(3)]


def test_gdalmanage(scene):
    folder, _ = scene
    assert "NSVQ" in run("gdalmanage", "identify", folder / "a.nsvq")
    run("gdalmanage", "copy", folder / "a.nsvq", folder / "b.nsvq")
    run("gdalmanage", "rename", folder / "b.nsvq", folder / "c.nsvq")
    assert reopen(folder / "c.nsvq").RasterXSize == WIDTH and not (folder / "b.nsvq").exists()
    run("gdalmanage", "delete", folder / "c.nsvq")
    assert sorted(os.listdir(folder)) == ["a.nsvq", "a.tif"]


def test_gdal_rasterize_and_calc(scene):
    """Programs that want Create()."""
    folder, pixels = scene
    (folder / "p.csv").write_text('id,WKT\n1,"POLYGON((400010 5799990,400100 5799990,400100 5799900,400010 5799900,400010 5799990))"\n')
    run("gdal_rasterize", "-q", "-burn", 7, "-ot", "Byte", "-te", 400000, 5799800, 400200, 5800000, "-ts", 200, 200,
        "-of", "NSVQ", "-co", "LOSSLESS=YES", folder / "p.csv", folder / "r.nsvq")
    assert (reopen(folder / "r.nsvq").ReadAsArray() == 7).sum() == 90 * 90
    run("gdal_calc.py", "--quiet", "-A", folder / "a.nsvq", "--calc", "A/2", "--type", "Float32", "--format", "NSVQ",
        "--outfile", folder / "h.nsvq")
    assert np.array_equal(reopen(folder / "h.nsvq").ReadAsArray(), (pixels[0] / 2).astype(np.float32))


def test_gdalcompare(scene):
    """Of a lossless copy it finds nothing but the format."""
    folder, _ = scene
    run("gdal_translate", "-q", "-co", "LOSSLESS=YES", folder / "a.tif", folder / "l.nsvq")
    code = "import sys; from osgeo_utils.gdalcompare import compare_db; from osgeo import gdal;" \
           "print('differences', compare_db(gdal.Open(sys.argv[1]), gdal.Open(sys.argv[2])))"
    out = run(sys.executable, "-c", code, folder / "a.tif", folder / "l.nsvq")
    lines = [line for line in out.splitlines() if not line.startswith(" ")]
    allowed = ["Dataset metadata", "Difference in Dataset metadata", "differences", "Metadata value difference",
               "Band 1 overview count", "Overview"]
    odd = [line for line in lines if line and not line.startswith(tuple(allowed)) and "verview" not in line
           and "etadata" not in line]
    assert odd == [], out


CONCURRENT = """
import sys, threading
from osgeo import gdal
sums, path, n = [], sys.argv[1], int(sys.argv[2])
def work():
    ds = gdal.OpenEx(path, open_options=["NUM_THREADS=2"])
    for _ in range(3):
        sums.append(tuple(ds.GetRasterBand(b).Checksum() for b in (1, 2, 3)))
        ds.FlushCache()
threads = [threading.Thread(target=work) for _ in range(n)]
for t in threads: t.start()
for t in threads: t.join()
assert len(sums) == 3 * n and len(set(sums)) == 1, sums
print(*sums[0])
"""


def test_many_threads_each_with_a_handle(scene):
    folder, _ = scene
    got = run(sys.executable, "-c", CONCURRENT, folder / "a.nsvq", 8)
    want = run(sys.executable, "-c", CONCURRENT, folder / "a.tif", 1)
    assert got == want


def test_rasterio(tmp_path, scene):
    rasterio = pytest.importorskip("rasterio")
    folder, pixels = scene
    code = r"""
import sys, numpy as np, rasterio, rasterio.shutil
from rasterio.windows import Window
folder = sys.argv[1]
want = rasterio.open(folder + "/a.tif").read()
with rasterio.open(folder + "/a.nsvq") as src:
    assert src.driver == "NSVQ" and src.count == 3 and src.crs.to_epsg() == 32633
    assert np.array_equal(src.read(), want)
    assert np.array_equal(src.read(2, window=Window(500, 300, 40, 50)), want[1, 300:350, 500:540])
    assert src.overviews(1) == [2, 4] and src.block_shapes[0] == (512, 512)
    profile = src.profile
    profile.update(driver="NSVQ", lossless="YES")
    with rasterio.open(folder + "/w.nsvq", "w", **profile) as dst:
        dst.write(want)
        dst.update_tags(a="b")
rasterio.shutil.copy(folder + "/a.tif", folder + "/c.nsvq", driver="NSVQ", LOSSLESS="YES")
for name in ["w", "c"]:
    with rasterio.open(folder + "/%s.nsvq" % name) as src:
        assert np.array_equal(src.read(), want), name
assert rasterio.open(folder + "/w.nsvq").tags()["a"] == "b"
with rasterio.open(folder + "/f.nsvq", "w", driver="NSVQ", width=70, height=50, count=2, dtype="float32", nodata=-1) as dst:
    dst.write(np.full((50, 70), 1.5, "float32"), 1)
with rasterio.open(folder + "/f.nsvq") as src:
    assert src.nodata == -1 and (src.read(1) == 1.5).all() and src.dtypes == ("float32", "float32")
"""
    run(sys.executable, "-c", code, folder)


def test_rioxarray(scene):
    pytest.importorskip("rioxarray")
    folder, pixels = scene
    np.save(folder / "pixels.npy", pixels)
    code = r"""
import sys, numpy as np, rioxarray
folder = sys.argv[1]
want = np.load(folder + "/pixels.npy")
array = rioxarray.open_rasterio(folder + "/a.nsvq")
assert array.rio.crs.to_epsg() == 32633 and np.array_equal(array.values, want)
part = array.isel(x=slice(100, 700), y=slice(3, 600))
assert np.array_equal(part.values, want[:, 3:600, 100:700])
(part.astype("float32") / 3).rio.to_raster(folder + "/x.nsvq", driver="NSVQ")
again = rioxarray.open_rasterio(folder + "/x.nsvq")
assert np.array_equal(again.values, want[:, 3:600, 100:700].astype("float32") / 3)
try:
    import dask
    lazy = rioxarray.open_rasterio(folder + "/a.nsvq", chunks={"x": 512, "y": 512}, lock=False)
    assert np.array_equal(lazy.compute(scheduler="threads").values, want)
except ImportError:
    pass
"""
    run(sys.executable, "-c", code, folder)


def test_qgis(scene):
    """Offscreen: the file and the same pixels in a GeoTIFF render alike, and Save as works."""
    pytest.importorskip("qgis.core")
    folder, _ = scene
    code = r"""
import os, sys
from qgis.core import (QgsApplication, QgsRasterLayer, QgsMapSettings, QgsMapRendererParallelJob, QgsRasterFileWriter,
                       QgsRasterPipe, QgsRectangle)
from qgis.PyQt.QtCore import QSize
app = QgsApplication([], False)
app.initQgis()
folder, images = sys.argv[1], []
for name in ["a.nsvq", "a.tif"]:
    layer = QgsRasterLayer(folder + "/" + name, name, "gdal")
    assert layer.isValid() and layer.bandCount() == 3
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setDestinationCrs(layer.crs())
    settings.setOutputSize(QSize(550, 450))
    e = layer.extent()
    for extent in [QgsRectangle(e.xMinimum(), e.yMaximum() - 225, e.xMinimum() + 275, e.yMaximum())]:
        settings.setExtent(extent)
        job = QgsMapRendererParallelJob(settings)
        job.start()
        job.waitForFinished()
        image = job.renderedImage()
        image.save(folder + "/" + name + ".png")
        images.append(image)
assert images[0].width() == 550 and images[0] == images[1]
layer = QgsRasterLayer(folder + "/a.tif", "a", "gdal")
pipe = QgsRasterPipe()
assert pipe.set(layer.dataProvider().clone())
writer = QgsRasterFileWriter(folder + "/saved.nsvq")
writer.setOutputFormat("NSVQ")
writer.setCreateOptions(["LOSSLESS=YES"])
code = writer.writeRaster(pipe, layer.width(), layer.height(), layer.extent(), layer.crs())
assert code == 0, code
print("done", flush=True)
os._exit(0)  # PyQGIS does not survive its own end
"""
    assert "done" in run(sys.executable, "-c", code, folder, env=dict(os.environ, QT_QPA_PLATFORM="offscreen", XDG_RUNTIME_DIR=str(folder)))
    assert np.array_equal(reopen(folder / "saved.nsvq").ReadAsArray(), gdal.Open(str(folder / "a.tif")).ReadAsArray())
