"""Real rasters, where the folder of shared imagery exists."""
import glob
import os

import numpy as np
import pytest
from osgeo import gdal

from conftest import copy, errors, memory, no_sidecar, psnr, reopen


def test_aerial_images(shared_data, tmp_path):
    files = sorted(glob.glob(os.path.join(shared_data, "valid", "aerial", "*.tif")))
    assert len(files) >= 10
    for file in files:
        source = gdal.Open(file)
        pixels = source.ReadAsArray()
        path = copy(tmp_path / "a.nsvq", source)
        ds = reopen(path)
        assert psnr(ds.ReadAsArray(), pixels) > 18, file
        assert ds.GetMetadata() == source.GetMetadata(), file
        assert ds.GetGeoTransform() == source.GetGeoTransform(), file
        assert (ds.GetSpatialRef() is None) == (source.GetSpatialRef() is None), file
        assert source.GetSpatialRef() is None or ds.GetSpatialRef().IsSame(source.GetSpatialRef()), file
        assert 8 * os.path.getsize(path) / pixels[0].size < 4, file
        assert no_sidecar(path), file


def byte_sources(folder):
    for file in sorted(glob.glob(os.path.join(folder, "odd", "*"))):
        name = os.path.basename(file)
        if name.startswith("damaged_") or name.endswith((".msk", ".aux.xml")):
            continue
        with errors():
            ds = gdal.Open(file)
        if ds is None or ds.RasterCount == 0 or ds.RasterXSize * ds.RasterYSize * ds.RasterCount > 4e6:
            continue
        kinds = {ds.GetRasterBand(i).DataType for i in range(1, ds.RasterCount + 1)}
        signed = ds.GetRasterBand(1).GetMetadataItem("PIXELTYPE", "IMAGE_STRUCTURE") == "SIGNEDBYTE"
        yield name, ds, kinds == {gdal.GDT_Byte} and not signed


def test_odd_rasters(shared_data, tmp_path):
    """Byte rasters come back whole under LOSSLESS; all others are refused, not mangled."""
    written = refused = 0
    for name, source, suits in byte_sources(shared_data):
        path = tmp_path / "a.nsvq"
        with errors() as found:
            ds = gdal.GetDriverByName("NSVQ").CreateCopy(str(path), source, 1, ["LOSSLESS=YES"])
        assert (ds is not None) == suits, (name, found)
        ds = None
        if not suits:
            refused += 1
            assert list(tmp_path.iterdir()) == [], name
            continue
        written += 1
        ds = reopen(path)
        assert np.array_equal(ds.ReadAsArray(), source.ReadAsArray()), name
        assert ds.GetGeoTransform() == source.GetGeoTransform(), name
        assert ds.GetGCPCount() == source.GetGCPCount(), name
        assert ds.GetMetadata() == source.GetMetadata(), name
        assert ds.GetMetadata("RPC") == source.GetMetadata("RPC"), name
        srs, want = ds.GetSpatialRef(), source.GetSpatialRef()
        assert (srs is None) == (want is None) and (srs is None or srs.IsSame(want)), name
        for i in range(1, source.RasterCount + 1):
            got, band = ds.GetRasterBand(i), source.GetRasterBand(i)
            assert got.GetNoDataValue() == band.GetNoDataValue(), name
            assert got.GetColorInterpretation() == band.GetColorInterpretation(), name
            assert got.GetMaskFlags() == band.GetMaskFlags(), name
            assert np.array_equal(got.GetMaskBand().ReadAsArray(), band.GetMaskBand().ReadAsArray()), name
            assert (got.GetColorTable() is None) == (band.GetColorTable() is None), name
        ds = None
        gdal.GetDriverByName("NSVQ").Delete(str(path))
    assert written >= 15 and refused >= 40
