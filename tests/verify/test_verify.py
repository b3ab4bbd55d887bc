"""nsvq-verify: NSVQ_VERIFY names the program, NSVQ_VERIFY_MAN its man page."""
import json
import os
import re
import subprocess
import time

import numpy as np
import pytest
from osgeo import gdal

import reference

gdal.UseExceptions()
gdal.SetConfigOption("GDAL_TIFF_INTERNAL_MASK", "YES")
PROGRAM = os.environ["NSVQ_VERIFY"]
ASAN = "libasan" in os.environ.get("LD_PRELOAD", "")


def run(*arguments, status=0):
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == status, done
    return done


def report(*arguments, status=0):
    return json.loads(run("--json", *arguments, status=status).stdout)


def picture(height, width, bands=1, seed=1):
    """Waves with grain and an edge, about 0.1 .. 0.9."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    out = 0.5 + 0.2 * np.sin(x / (13 + 3 * np.arange(bands)[:, None, None])) * np.cos(y / 19)
    out[:, height // 3:, width // 2:] += 0.1
    return out + rng.normal(0, 0.03, out.shape)


def pair(height, width, bands, dtype, low, high, noise=0.02):
    a = picture(height, width, bands)
    b = a + np.random.default_rng(7).normal(0, noise, a.shape) * np.linspace(0.2, 2, width)
    a, b = low + a * (high - low), low + b * (high - low)
    if np.issubdtype(dtype, np.integer):
        a, b = np.clip(np.rint(a), low, high), np.clip(np.rint(b), low, high)
    return a.astype(dtype), b.astype(dtype)


def write(path, pixels, nodata=None, mask=None, alpha=False, options=(), dtype=None):
    bands, height, width = pixels.shape
    kind = dtype or {"uint8": gdal.GDT_Byte, "uint16": gdal.GDT_UInt16, "int16": gdal.GDT_Int16,
                     "uint32": gdal.GDT_UInt32, "float32": gdal.GDT_Float32,
                     "float64": gdal.GDT_Float64}[pixels.dtype.name]
    options = list(options) + (["PHOTOMETRIC=RGB", "ALPHA=YES"] if alpha else [])
    ds = gdal.GetDriverByName("GTiff").Create(str(path), width, height, bands, kind, options)
    if nodata is not None:
        for i in range(bands):
            ds.GetRasterBand(i + 1).SetNoDataValue(nodata)
    if mask is not None:
        ds.CreateMaskBand(gdal.GMF_PER_DATASET)
        ds.GetRasterBand(1).GetMaskBand().WriteArray(mask.astype(np.uint8) * 255)
    ds.WriteArray(pixels)
    ds = None
    return path


def holes(height, width):
    """False where there is nothing: a corner, a bar, single pixels."""
    valid = np.ones((height, width), bool)
    valid[: height // 4, : width // 3] = False
    valid[height // 2:height // 2 + 3, 40:] = False
    valid[np.random.default_rng(3).random((height, width)) < 0.0005] = False
    return valid


def same(got, want):
    for key, value in want.items():
        if value is None or value == np.inf:
            assert got[key] is None, key
        elif key in ("samples", "mismatches", "ms_ssim_scales"):
            assert got[key] == value, key
        else:
            assert got[key] == pytest.approx(value, rel=1e-9, abs=1e-9), key


def check(got, a, b, peak, valid_a=None, valid_b=None):
    valid_a = np.ones(a.shape, bool) if valid_a is None else np.broadcast_to(valid_a, a.shape)
    valid_b = np.ones(a.shape, bool) if valid_b is None else np.broadcast_to(valid_b, a.shape)
    assert got["peak"] == pytest.approx(peak, rel=1e-11)
    whole, bands = reference.figures(a, b, valid_a, valid_b, got["peak"])
    same(got["all"], whole)
    assert len(got["bands"]) == len(bands)
    for one, want in zip(got["bands"], bands):
        same(one, want)


@pytest.mark.parametrize("dtype, low, high", [
    ("uint8", 0, 255), ("uint8", 50, 90), ("uint16", 0, 65535), ("uint16", 0, 1000), ("int16", -2000, 4000),
    ("uint32", 0, 4e9)])
def test_integers(tmp_path, dtype, low, high):
    a, b = pair(233, 301, 3, dtype, low, high)
    got = report(write(tmp_path / "a.tif", a), write(tmp_path / "b.tif", b))
    check(got, a, b, 255 if dtype == "uint8" else float(a.max()) - float(a.min()))
    assert got["all"]["ms_ssim_scales"] == 5
    assert got["bytes"] == os.path.getsize(tmp_path / "b.tif")
    assert got["bpp"] == pytest.approx(8 * got["bytes"] / (233 * 301))
    assert got["missed"] == []


@pytest.mark.parametrize("dtype, low, high", [("float32", -3, 12), ("float64", 1000, 1050)])
def test_floats(tmp_path, dtype, low, high):
    a, b = pair(180, 200, 2, dtype, low, high)
    files = write(tmp_path / "a.tif", a), write(tmp_path / "b.tif", b)
    check(report(*files), a, b, float(a.max()) - float(a.min()))
    check(report("--peak", 70, *files), a, b, 70)


def test_nbits_and_peak(tmp_path):
    a, b = pair(64, 80, 1, "uint8", 0, 31)
    files = [write(tmp_path / name, z, options=["NBITS=5"]) for name, z in (("a.tif", a), ("b.tif", b))]
    check(report(*files), a, b, 31)
    check(report("--peak", 4095, *files), a, b, 4095)


def test_types_may_differ(tmp_path):
    a, b = pair(64, 80, 1, "uint8", 0, 255)
    b = b.astype(np.float32) + np.float32(0.25)
    check(report(write(tmp_path / "a.tif", a), write(tmp_path / "b.tif", b)), a, b, 255)


@pytest.mark.skipif(int(gdal.VersionInfo()) >= 3070000, reason="GDAL knows signed bytes by their type")
def test_signed_bytes(tmp_path):
    a, b = pair(40, 50, 1, "int16", -128, 127)
    files = [write(tmp_path / n, z.astype(np.int8).view(np.uint8), options=["PIXELTYPE=SIGNEDBYTE"])
             for n, z in (("a.tif", a), ("b.tif", b))]
    check(report(*files), a, b, 255)


@pytest.mark.parametrize("height, width", [(1, 1), (1, 300), (11, 11), (10, 40), (23, 12), (45, 47),
                                           (160, 200), (161, 177), (176, 161)])
def test_small(tmp_path, height, width):
    a, b = pair(height, width, 2, "uint8", 0, 255)
    check(report(write(tmp_path / "a.tif", a), write(tmp_path / "b.tif", b)), a, b, 255)


def test_equal(tmp_path):
    a, _ = pair(70, 90, 1, "uint8", 0, 255)
    f = write(tmp_path / "a.tif", a)
    got = report("--max-error", 0, "--min-psnr", 900, "--min-patch-psnr", 900, f, f)
    check(got, a, a, 255)
    assert got["all"]["ssim"] == pytest.approx(1, abs=1e-12)
    assert "inf" in run(f, f).stdout


def test_negative_correlation(tmp_path):
    a = np.random.default_rng(1).integers(0, 256, (1, 170, 170), dtype=np.uint8)
    got = report(write(tmp_path / "a.tif", a), write(tmp_path / "b.tif", 255 - a))
    check(got, a, 255 - a, 255)
    assert got["all"]["ssim"] < 0 and got["all"]["ms_ssim"] == 0


def test_nodata(tmp_path):
    a, b = pair(230, 250, 2, "uint8", 10, 255)
    valid = holes(230, 250)
    a[:, ~valid] = 0
    b[:, ~valid] = 0
    check(report(write(tmp_path / "a.tif", a, nodata=0), write(tmp_path / "b.tif", b, nodata=0)),
          a, b, 255, valid, valid)


@pytest.mark.parametrize("value", [-9999.0, float("nan"), float("inf")])
def test_float_nodata(tmp_path, value):
    a, b = pair(230, 250, 1, "float32", 0, 90)
    valid = holes(230, 250)
    a[:, ~valid] = value
    b[:, ~valid] = value
    nodata = value if value != float("inf") else None
    got = report(write(tmp_path / "a.tif", a, nodata), write(tmp_path / "b.tif", b, nodata))
    range_ = float(a[:, valid].max()) - float(a[:, valid].min())
    check(got, np.where(valid, a, 0), np.where(valid, b, 0), range_, valid, valid)


def test_mask(tmp_path):
    a, b = pair(190, 200, 3, "uint8", 0, 255)
    valid = holes(190, 200)
    b[:, ~valid] = 77  # must not count
    check(report(write(tmp_path / "a.tif", a, mask=valid), write(tmp_path / "b.tif", b, mask=valid)),
          a, b, 255, valid, valid)


@pytest.mark.parametrize("dtype, high", [("uint8", 255), ("uint16", 65535)])
def test_alpha(tmp_path, dtype, high):
    a, b = pair(190, 200, 4, dtype, 0, high)
    valid = holes(190, 200)
    for z in (a, b):
        z[3] = np.where(valid, np.maximum(a[3], 1), 0)
    files = [write(tmp_path / n, z, alpha=True) for n, z in (("a.tif", a), ("b.tif", b))]
    everywhere = np.stack([valid] * 3 + [np.ones_like(valid)])
    def peak(of):
        return high if dtype == "uint8" else float(np.ptp(of))

    check(report(*files), a, b, peak(a[everywhere]), everywhere, everywhere)
    got = report("--bands", "3,1", *files)
    check(got, a[[2, 0]], b[[2, 0]], peak(a[[2, 0]][:, valid]), valid, valid)
    assert [band["band"] for band in got["bands"]] == [3, 1]


def test_nodata_of_one_band(tmp_path):
    a, b = pair(60, 70, 2, "uint8", 10, 255)
    a[1, 5:9, 5:30] = 0
    b[1, 5:9, 5:30] = 0
    check(report(write(tmp_path / "a.tif", a, nodata=0), write(tmp_path / "b.tif", b, nodata=0)),
          a, b, 255, a != 0, b != 0)


def test_mismatch(tmp_path):
    a, b = pair(120, 130, 2, "uint8", 10, 255)
    a[:, 3:6, 7:9] = 0   # filled in the reconstruction
    b[1, 50, 60:64] = 0  # lost in it
    files = write(tmp_path / "a.tif", a, nodata=0), write(tmp_path / "b.tif", b, nodata=0)
    got = report(*files, status=1)
    check(got, a, b, 255, a != 0, b != 0)
    assert got["all"]["mismatches"] == 6 + 4
    assert [band["mismatches"] for band in got["bands"]] == [6, 10]
    assert got["missed"] == ["10 pixels are valid in one raster only"]
    assert "10 pixels are valid in one raster only" in run("-q", *files, status=1).stderr
    assert "10 mismatches" in run(*files, status=1).stdout


def test_nothing_valid(tmp_path):
    f = write(tmp_path / "a.tif", np.zeros((1, 30, 30), np.uint8), nodata=0)
    got = report("--min-psnr", 40, "--min-patch-psnr", 40, "--max-error", 0, f, f)
    assert got["all"]["samples"] == got["patches"]["count"] == 0
    assert all(got["all"][key] is None for key in ("psnr", "mse", "max_error", "ssim", "ms_ssim"))
    assert "nan" in run(f, f).stdout


@pytest.mark.parametrize("side", [64, 32, 7, 1000])
def test_patches(tmp_path, side):
    a, b = pair(200, 333, 2, "uint8", 10, 255)
    b[:, 100:164, 64:128] = a[:, 100:164, 64:128]
    valid = holes(200, 333)
    a[:, ~valid] = 0
    b[:, ~valid] = 0
    got = report("--patch", side, write(tmp_path / "a.tif", a, nodata=0),
                 write(tmp_path / "b.tif", b, nodata=0))["patches"]
    found = reference.patch_psnrs(a.astype(float), b.astype(float),
                                  np.broadcast_to(valid, a.shape), 255, side)
    place, least = min(found.items(), key=lambda kv: kv[1])
    assert got["count"] == len(found) and got["side"] == side
    assert got["psnr_min"] == pytest.approx(least, abs=1e-9)
    assert (got["min_x"], got["min_y"]) == place
    ordered = sorted(found.values())
    for percent in (1, 5, 50):
        want = ordered[max(int(np.ceil(percent / 100 * len(ordered))), 1) - 1]
        if want == np.inf:
            assert got[f"psnr_p{percent}"] is None
        else:
            assert got[f"psnr_p{percent}"] == pytest.approx(want, abs=1.01e-4)


def test_thresholds(tmp_path):
    a, b = pair(128, 128, 1, "uint8", 0, 255)
    b[0, 64:, 64:] = 255 - b[0, 64:, 64:]
    files = write(tmp_path / "a.tif", a), write(tmp_path / "b.tif", b)
    got = report(*files)
    psnr, least, error = got["all"]["psnr"], got["patches"]["psnr_min"], got["all"]["max_error"]
    for option, good, bad in (("--min-psnr", psnr - 1e-6, psnr + 1e-6),
                              ("--min-patch-psnr", least - 1e-6, least + 1e-6),
                              ("--max-error", error, error - 1)):
        done = run("-q", option, repr(good), *files)
        assert done.stdout == done.stderr == ""
        done = run("-q", option, repr(bad), *files, status=1)
        assert done.stdout == "" and len(done.stderr.splitlines()) == 1
        assert len(report(option, repr(bad), *files, status=1)["missed"]) == 1
    assert "column 64, row 64" in run("--min-patch-psnr", 90, *files, status=1).stderr
    assert len(report("--min-psnr", 90, "--min-patch-psnr", 90, "--max-error", 0, *files,
                      status=1)["missed"]) == 3


def test_table(tmp_path):
    a, b = pair(100, 100, 2, "uint8", 0, 255)
    files = write(tmp_path / "a.tif", a), write(tmp_path / "b.tif", b)
    got, text = report(*files), run(*files).stdout
    for name, one in ([str(band["band"]), band] for band in got["bands"] + [dict(got["all"], band="all")]):
        row = re.search(rf"^{name} +(.*)$", text, re.M).group(1).split()
        want = [one[key] for key in ("psnr", "mse", "max_error", "ssim", "ms_ssim")]
        assert [float(v) for v in row] == pytest.approx(want, rel=1e-5)
    assert f"{got['bytes']} bytes, {got['bpp']:.4f} bpp" in text
    assert "MS-SSIM of 4 scales only" in text


def test_strips_do_not_matter(tmp_path):
    a, b = pair(700, 260, 2, "uint8", 10, 255)
    valid = holes(700, 260)
    a[:, ~valid] = 0
    b[:, ~valid] = 0
    plain = write(tmp_path / "a.tif", a, nodata=0)
    results = []
    for i, options in enumerate((["BLOCKYSIZE=1"], ["BLOCKYSIZE=13"], ["BLOCKYSIZE=700"],
                                 ["TILED=YES", "BLOCKXSIZE=256", "BLOCKYSIZE=256"],
                                 ["TILED=YES", "BLOCKXSIZE=64", "BLOCKYSIZE=512", "INTERLEAVE=BAND"])):
        other = write(tmp_path / f"b{i}.tif", b, nodata=0, options=options)
        got = report(plain, other)
        results.append([got["all"], got["bands"], got["patches"]])
    assert all(result == results[0] for result in results[1:])
    check(got, a, b, 255, valid, valid)


def peak_kib(*arguments):
    """Of the program's resident memory, polled: getrusage() would count the parent's."""
    child = subprocess.Popen([PROGRAM, *map(str, arguments)], stdout=subprocess.DEVNULL,
                             env=dict(os.environ, GDAL_CACHEMAX="16"))
    peak = 0
    while child.poll() is None:
        with open(f"/proc/{child.pid}/status") as f:
            found = re.search(r"VmHWM:\s+(\d+) kB", f.read())
        peak = max(peak, int(found.group(1)) if found else 0)
        time.sleep(0.005)
    assert child.returncode == 0
    return peak


@pytest.mark.skipif(ASAN, reason="the sanitizer's memory is not the program's")
def test_memory_does_not_grow_with_height(tmp_path):
    a, b = pair(1500, 1500, 1, "uint8", 0, 255)
    write(tmp_path / "a.tif", a), write(tmp_path / "b.tif", b)
    peaks = []
    for tiles in (1, 20):
        for name in "ab":
            sources = "".join(
                f"<SimpleSource><SourceFilename relativeToVRT='1'>{name}.tif</SourceFilename>"
                f"<SourceBand>1</SourceBand><SrcRect xOff='0' yOff='0' xSize='1500' ySize='1500'/>"
                f"<DstRect xOff='0' yOff='{1500 * i}' xSize='1500' ySize='1500'/></SimpleSource>"
                for i in range(tiles))
            (tmp_path / f"{name}{tiles}.vrt").write_text(
                f"<VRTDataset rasterXSize='1500' rasterYSize='{1500 * tiles}'>"
                f"<VRTRasterBand dataType='Byte' band='1'>{sources}</VRTRasterBand></VRTDataset>")
        peaks.append(peak_kib(tmp_path / f"a{tiles}.vrt", tmp_path / f"b{tiles}.vrt"))
    assert peaks[1] < peaks[0] + 24 * 1024, peaks  # 43 MB of pixels more in each raster


def test_heatmap(tmp_path):
    a, b = pair(90, 120, 2, "uint8", 10, 255)
    a[:, :20, :30] = b[:, :20, :30] = 0
    b[0, 80, 100] = 0
    files = write(tmp_path / "a.tif", a, nodata=0), write(tmp_path / "b.tif", b, nodata=0)
    png = tmp_path / "heat.png"
    got = report("--heatmap", png, *files, status=1)["heatmap"]
    error = np.abs(a.astype(float) - b).max(0)
    error[80, 100] = 0
    assert got == {"file": str(png), "cell": 1, "white": pytest.approx(error.max())}
    want = np.floor(253 * error / error.max() + 0.5)
    want[:20, :30] = 254
    want[80, 100] = 255
    ds = gdal.Open(str(png))
    assert np.array_equal(ds.ReadAsArray(), want)
    colours = ds.GetRasterBand(1).GetColorTable()
    assert [colours.GetColorEntry(i) for i in (0, 253, 255)] == [
        (0, 0, 0, 255), (255, 255, 255, 255), (0, 255, 255, 255)]
    assert colours.GetColorEntry(254)[3] == 0
    assert f"index 253 (white) = {error.max():.6g}" in str(ds.GetMetadata())
    ds = None
    assert sorted(os.listdir(tmp_path)) == ["a.tif", "b.tif", "heat.png"]

    before = png.read_bytes()
    assert "exists" in run("--heatmap", png, files[0], files[0], status=2).stderr
    assert png.read_bytes() == before
    run("-f", "--heatmap", png, files[0], files[0])
    assert png.read_bytes() != before
    assert "cannot be written" in run("--heatmap", tmp_path / "none" / "h.png", files[0], files[0],
                                      status=1).stderr


def test_heatmap_of_cells(tmp_path):
    rng = np.random.default_rng(5)
    a = rng.integers(0, 256, (1, 101, 4500), dtype=np.uint8)
    b = rng.integers(0, 256, (1, 101, 4500), dtype=np.uint8)
    got = report("--heatmap", tmp_path / "h.png", write(tmp_path / "a.tif", a), write(tmp_path / "b.tif", b))
    error = np.abs(a[0].astype(float) - b[0])
    cells = np.array([[error[y:y + 3, x:x + 3].mean() for x in range(0, 4500, 3)] for y in range(0, 101, 3)])
    assert got["heatmap"]["cell"] == 3 and got["heatmap"]["white"] == pytest.approx(cells.max())
    picture_ = gdal.Open(str(tmp_path / "h.png")).ReadAsArray().astype(int)
    assert np.abs(picture_ - 253 * cells / cells.max()).max() <= 0.5 + 1e-4


def test_nsvq_file(tmp_path):
    a, _ = pair(600, 700, 3, "uint8", 0, 255)
    source = write(tmp_path / "a.tif", a)
    out = tmp_path / "a.nsvq"
    gdal.Translate(str(out), str(source), format="NSVQ", creationOptions=["LOSSLESS=YES"])
    got = report("--max-error", 0, source, out)
    assert got["all"]["mse"] == 0 and got["bytes"] == os.path.getsize(out)

    data = bytearray(out.read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "bad.nsvq").write_bytes(data)
    done = run(source, tmp_path / "bad.nsvq", status=3)
    assert done.stdout == "" and "bad.nsvq: cannot be read: " in done.stderr


def test_not_comparable(tmp_path):
    a, _ = pair(20, 30, 2, "uint8", 0, 255)
    f = write(tmp_path / "a.tif", a)
    complex_ = write(tmp_path / "c.tif", a.astype(np.float32), dtype=gdal.GDT_CFloat32)
    (tmp_path / "text.tif").write_text("no raster")
    for first, second, text in (
            (f, write(tmp_path / "w.tif", a[:, :, 1:]), "different sizes: 30 x 20 and 29 x 20"),
            (f, write(tmp_path / "n.tif", a[:1]), "different numbers of bands: 2 and 1"),
            (f, complex_, "c.tif: complex numbers are not compared"),
            (f, tmp_path / "none.tif", "none.tif: cannot be opened"),
            (tmp_path / "text.tif", f, "text.tif: cannot be opened")):
        done = run(first, second, status=3)
        assert done.stdout == "" and text in done.stderr and len(done.stderr.splitlines()) == 1
    assert "--bands" in run("--bands", "1,3", f, f, status=3).stderr
    report("--bands", "1", f, tmp_path / "n.tif")


@pytest.mark.parametrize("arguments", [
    [], ["a"], ["a", "b", "c"], ["--nonsense", "a", "b"], ["a", "b", "--peak"], ["--peak", "x", "a", "b"],
    ["--peak", "0", "a", "b"], ["--patch", "0", "a", "b"], ["--bands", "1,,2", "a", "b"],
    ["--bands", "0", "a", "b"], ["--bands", "1,", "a", "b"], ["--bands", "", "a", "b"],
    ["--max-error", "-1", "a", "b"], ["--min-psnr", "nan", "a", "b"], ["--min-psnr", "", "a", "b"]])
def test_usage(arguments):
    done = run(*arguments, status=2)
    assert done.stdout == "" and done.stderr.startswith("nsvq-verify: ")


def test_names_with_a_dash(tmp_path):
    a, _ = pair(20, 30, 1, "uint8", 0, 255)
    write(tmp_path / "-a.tif", a)
    done = subprocess.run([PROGRAM, "-q", "--", "-a.tif", "-a.tif"], cwd=tmp_path)
    assert done.returncode == 0


def options_of(text):
    return set(re.findall(r"(?<![\w-])(--?[a-z][a-z-]*)", text))


def test_help_and_man_page_agree():
    man = open(os.environ["NSVQ_VERIFY_MAN"]).read()
    section = man.split(".SH OPTIONS")[1].split(".SH ")[0]
    heads = " ".join(re.findall(r"^\.TP\n\.B (.*)$", section, re.M)).replace("\\fR", " ").replace("\\fB", " ")
    text = run("--help").stdout
    lines = " ".join(line[2:24] for line in text.splitlines() if line.startswith("  -"))
    assert options_of(lines) == options_of(heads) and len(options_of(lines)) == 14
    assert run("-h").stdout == text
