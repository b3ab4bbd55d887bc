"""RATE, PSNR, FAMILY and the scale of QUALITY."""
import numpy as np
import pytest
from osgeo import gdal

from conftest import copy, errors, failures, memory, picture, psnr, reopen


def scene(width, height, seed=1):
    """Fields with edges, texture and some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    bands = []
    fields = rng.integers(40, 200, (3, height // 64 + 1, width // 64 + 1))
    texture = 20 * np.sin(x / 3.7 + y / 9.1) * (x > width // 2)
    for b in range(3):
        flat = np.kron(fields[b], np.ones((64, 64)))[:height, :width]
        bands.append(flat + texture + rng.normal(0, 5, (height, width)))
    return np.clip(bands, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("rate", [0.08, 0.15, 0.25, 0.5, 1.3])
def test_rate(vsimem, rate):
    pixels = scene(700, 600)
    path = copy(vsimem + "/rate.nsvq", memory(pixels), "RATE=%g" % rate)
    got = gdal.VSIStatL(path).size * 8 / (700 * 600)
    print("asked for %g bpp, got %.4f" % (rate, got))
    assert abs(got / rate - 1) < 0.02


@pytest.mark.parametrize("wanted", [30.5, 35])
def test_psnr(vsimem, wanted):
    pixels = scene(700, 600, 2)
    ds = reopen(copy(vsimem + "/psnr.nsvq", memory(pixels), "PSNR=%g" % wanted))
    got = psnr(pixels, ds.ReadAsArray())
    print("asked for %g dB, got %.3f" % (wanted, got))
    assert abs(got - wanted) < 0.1


@pytest.mark.parametrize("option", ["PSNR=70", "PSNR=1", "RATE=0.0001", "RATE=300"])
def test_what_cannot_be_reached_is_told(vsimem, option):
    with errors() as found:
        copy(vsimem + "/a.nsvq", memory(scene(300, 200)), option)
    assert [cls for cls, _, _ in found] == [gdal.CE_Warning] and "nearest" in found[0][2]


def test_psnr_leaves_nodata_out(vsimem):
    pixels = scene(300, 300, 3)
    pixels[:, 100:200, :] = 0
    source = memory(pixels)
    for b in range(3):
        source.GetRasterBand(b + 1).SetNoDataValue(0)
    ds = reopen(copy(vsimem + "/nodata.nsvq", source, "PSNR=32"))
    got, valid = ds.ReadAsArray(), pixels != 0
    assert (got[~valid] == 0).all()
    assert abs(psnr(pixels[valid], got[valid]) - 32) < 0.1


def test_quality_is_monotone(vsimem):
    """A higher QUALITY never has the larger error, from model to model too."""
    pixels = picture(520, 300, 3, 4)
    last, models = 0, []
    for quality in [1, 2, 3, 3.875, 4, 6, 9, 12, 13.875, 14, 16, 19, 22, 24, 27, 30, 40, 50, 60, 70, 80, 90, 95, 99]:
        ds = reopen(copy(vsimem + "/q.nsvq", memory(pixels), "QUALITY=%g" % quality))
        assert float(ds.GetMetadataItem("QUALITY", "NSVQ")) == quality
        models.append(ds.GetMetadataItem("MODEL", "NSVQ"))
        got = psnr(pixels, ds.ReadAsArray())
        assert got >= last - 0.005, (quality, got, last)
        last = got
    assert len(set(models)) == 3


def test_effort(vsimem):
    """More effort: more decibels for the same bits."""
    pixels, found = picture(520, 520, 3, 5), []
    for effort in [1, 9]:
        points = []
        for quality in [30, 35, 40, 45]:
            path = copy(vsimem + "/e.nsvq", memory(pixels), "QUALITY=%d" % quality, "EFFORT=%d" % effort)
            points.append((gdal.VSIStatL(path).size, psnr(pixels, reopen(path).ReadAsArray())))
        found.append(np.array(points).T)
    sizes = np.linspace(max(f[0][0] for f in found), min(f[0][-1] for f in found), 9)
    quick, slow = (np.interp(sizes, *f) for f in found)
    print("gain of EFFORT=9 over 1: %.3f dB" % np.mean(slow - quick))
    assert np.mean(slow - quick) > 0.02


def test_family(vsimem):
    pixels = scene(64, 64)
    models = {f: reopen(copy(vsimem + "/f.nsvq", memory(pixels), "QUALITY=50", "FAMILY=" + f))
              .GetMetadataItem("MODEL", "NSVQ") for f in ["AUTO", "VQ", "HYPER"]}
    assert models["AUTO"] == models["HYPER"] != models["VQ"]


@pytest.mark.parametrize("options", [["RATE=0"], ["RATE=-1"], ["RATE=many"], ["PSNR=0"], ["PSNR=nan"], ["FAMILY=BEST"],
                                     ["EFFORT=0"], ["EFFORT=10"], ["EFFORT=most"],
                                     ["RATE=1", "PSNR=30"], ["QUALITY=50", "RATE=1"]])
def test_bad_targets(vsimem, options):
    with errors() as found:
        ds = gdal.GetDriverByName("NSVQ").CreateCopy(vsimem + "/bad.nsvq", memory(scene(32, 32)), 1, options)
    assert ds is None and failures(found)
    assert gdal.VSIStatL(vsimem + "/bad.nsvq") is None
