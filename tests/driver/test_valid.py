"""Every raster of valid/ there and back, lossless and lossy: with sanitizers (cmake --preset asan; cmake --build build/asan;
ctest --test-dir build/asan -R driver.valid) any report of theirs ends the test."""
import glob
import os

import numpy as np
import pytest
from osgeo import gdal

from conftest import copy, errors, reopen


@pytest.mark.parametrize("options", [["EFFORT=3"], ["QUALITY=30", "EFFORT=2"], ["RATE=1", "FAMILY=VQ"]])
def test_valid(shared_data, tmp_path, options):
    files = sorted(glob.glob(os.path.join(shared_data, "valid", "*", "*.tif")))
    assert len(files) >= 30
    for file in files:
        source = gdal.Open(file)
        with errors() as found:
            ds = reopen(copy(tmp_path / "a.nsvq", source, *options, strict=False), "NUM_THREADS=3")
            whole = ds.ReadAsArray()
            w, h = ds.RasterXSize // 3 + 1, ds.RasterYSize // 2
            part = reopen(tmp_path / "a.nsvq").ReadAsArray(w, h, w, h)
            ds.ReadRaster(buf_xsize=50, buf_ysize=40)
        assert [text for cls, _, text in found if cls >= gdal.CE_Failure] == [], file
        assert whole.shape == source.ReadAsArray().shape
        assert np.array_equal(part, whole[..., h:2 * h, w:2 * w], equal_nan=whole.dtype.kind == "f"), file
    print("%d files with %s" % (len(files), " ".join(options)))
