"""Real rasters, where the folder of shared imagery exists."""
import glob
import os
import subprocess

import numpy as np
import pytest
from osgeo import gdal

from conftest import copy, memory, no_sidecar, psnr, reopen


def rgb_images(shared_data):
    valid = os.path.join(shared_data, "valid")
    files = sorted(glob.glob(os.path.join(valid, "aerial", "*.tif")))
    files += sorted(glob.glob(os.path.join(valid, "satellite", "*RGB*.tif")))
    assert len(files) == 20
    return files


@pytest.mark.parametrize("options,bpp,decibels,drift", [([], 3.6, 29, 1), (["FAMILY=VQ", "OVERVIEWS=NONE"], 0.19, 17.5, 3)])
def test_rgb_images(shared_data, tmp_path, options, bpp, decibels, drift):
    """With all options at their defaults, and at the lowest rates: small, alike, of the same colours, nothing lost."""
    for file in rgb_images(shared_data):
        source = gdal.Open(file)
        pixels = source.ReadAsArray()
        path = copy(tmp_path / "a.nsvq", source, *options)
        ds = reopen(path)
        got = ds.ReadAsArray()
        assert 8 * os.path.getsize(path) / pixels[0].size <= bpp, file
        assert psnr(got, pixels) > decibels, file
        assert np.abs(got.mean((1, 2)) - pixels.mean((1, 2))).max() < drift, file
        assert ds.GetMetadata() == source.GetMetadata(), file
        assert ds.GetGeoTransform() == source.GetGeoTransform(), file
        assert (ds.GetSpatialRef() is None) == (source.GetSpatialRef() is None), file
        assert source.GetSpatialRef() is None or ds.GetSpatialRef().IsSame(source.GetSpatialRef()), file
        assert no_sidecar(path), file


def test_quality_is_monotone(shared_data, vsimem):
    """A higher QUALITY never has the larger error."""
    qualities = [1, 2.5, 3.9, 4, 7, 10, 12, 13.9, 14, 18, 22, 26, 30, 36, 42, 50, 58, 66, 74, 82, 90, 99]
    for file in rgb_images(shared_data):
        source, last = gdal.Open(file), 0
        pixels = source.ReadAsArray()
        for quality in qualities:
            ds = reopen(copy(vsimem + "/q.nsvq", source, "QUALITY=%g" % quality, "OVERVIEWS=NONE"))
            now = psnr(ds.ReadAsArray(), pixels)
            assert now >= last, (file, quality, now, last)
            last = now


@pytest.fixture(scope="module")
def mosaic(shared_data):
    """Corners of real images, 1050 x 1200 pixels: three by three blocks, the last ones small."""
    pixels = np.zeros((3, 1200, 1050), np.uint8)
    for i, file in enumerate(rgb_images(shared_data)):
        x, y = i % 4 * 262, i // 4 * 240
        pixels[:, y:y + 240, x:x + 262] = gdal.Open(file).ReadAsArray(0, 0, 262, 240)
    return pixels


def test_windows_of_a_file_are_windows_of_the_whole(mosaic, tmp_path):
    ds = reopen(copy(tmp_path / "a.nsvq", memory(mosaic)))
    whole = ds.ReadAsArray()
    height, width = mosaic.shape[1:]
    rng = np.random.default_rng(3)
    for _ in range(200):
        w, h = 1 + (rng.random(2) ** 3 * (width, height)).astype(int)
        w, h = int(min(w, width)), int(min(h, height))
        x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        ds = reopen(tmp_path / "a.nsvq")  # nothing is left in a cache
        assert np.array_equal(ds.ReadAsArray(x, y, w, h), whole[:, y:y + h, x:x + w]), (x, y, w, h)


def test_same_on_every_cpu_and_number_of_threads(mosaic, tmp_path):
    source = str(tmp_path / "a.tif")
    gdal.GetDriverByName("GTiff").CreateCopy(source, memory(mosaic)).FlushCache()
    files, pixels = set(), set()
    flags = open("/proc/cpuinfo").read()
    levels = ["c", "avx2"] + ["avx512vnni"] * ("avx512_vnni" in flags)
    for level in levels:
        for threads in "12":
            env = dict(os.environ, NSVQ_CPU=level, GDAL_NUM_THREADS=threads)
            for args in [source, "a.nsvq", "-of", "NSVQ"], ["a.nsvq", "a.ppm", "-of", "PNM"]:
                subprocess.run(["gdal_translate", "-q"] + args, cwd=tmp_path, env=env, check=True)
            files.add((tmp_path / "a.nsvq").read_bytes())
            pixels.add((tmp_path / "a.ppm").read_bytes())
    assert len(files) == 1 and len(pixels) == 1
