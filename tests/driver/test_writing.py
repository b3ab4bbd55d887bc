"""Writing: options, refusals, failures. Whatever goes wrong, no half file stays."""
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
from osgeo import gdal

from conftest import copy, errors, failures, memory, noise, picture, reopen


def fails(path, source, *options, strict=True, **arguments):
    """The error numbers of a CreateCopy that must fail."""
    with errors() as found:
        ds = gdal.GetDriverByName("NSVQ").CreateCopy(str(path), source, int(strict), list(options), **arguments)
    assert ds is None
    assert failures(found)
    return failures(found)


BAD_OPTIONS = ["QUALITY=0", "QUALITY=101", "QUALITY=-1", "QUALITY=0.5", "QUALITY=high", "QUALITY=",
               "QUALITY=99999999999999999999", "LOSSLESS=MAYBE", "LOSSLESS=", "EMBED_MODEL=SOMETIMES", "NUM_THREADS=0",
               "NUM_THREADS=-2", "NUM_THREADS=many", "NUM_THREADS=1.5", "NUM_THREADS=4294967297",
               "MODEL=no such model", "MODEL=/nowhere/x.nsvqm", "MODEL="]


@pytest.mark.parametrize("option", BAD_OPTIONS)
@pytest.mark.parametrize("validate", ["YES", "NO"])
def test_bad_creation_options(tmp_path, option, validate):
    """GDAL itself only warns, and not even that when told so."""
    gdal.SetConfigOption("GDAL_VALIDATE_CREATION_OPTIONS", validate)
    try:
        assert gdal.CPLE_IllegalArg in fails(tmp_path / "a.nsvq", memory(noise(20, 20)), option)
    finally:
        gdal.SetConfigOption("GDAL_VALIDATE_CREATION_OPTIONS", None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["QUALITY=1", "QUALITY=100", "LOSSLESS=no", "LOSSLESS=TRUE", "EMBED_MODEL=auto",
                                    "NUM_THREADS=ALL_CPUS", "NUM_THREADS=all_cpus", "NUM_THREADS=3"])
def test_good_creation_options(tmp_path, option):
    with errors() as found:
        copy(tmp_path / "a.nsvq", memory(picture(30, 30)), option)
    assert found == []


@pytest.mark.parametrize("option", ["NUM_THREADS=0", "NUM_THREADS=x", "NUM_THREADS="])
def test_bad_open_option(vsimem, option):
    path = copy(vsimem + "/a.nsvq", memory(noise(20, 20)))
    with errors() as found:
        assert gdal.OpenEx(path, gdal.OF_RASTER | gdal.OF_VERBOSE_ERROR, open_options=[option]) is None
    assert gdal.CPLE_IllegalArg in failures(found)


def test_odd_thread_setting_of_the_environment_does_not_stop_a_read(vsimem):
    path = copy(vsimem + "/a.nsvq", memory(noise(20, 20)))
    gdal.SetConfigOption("GDAL_NUM_THREADS", "plenty")
    try:
        with errors() as found:
            assert reopen(path).ReadAsArray() is not None
        assert failures(found) == [] and len(found) > 0
    finally:
        gdal.SetConfigOption("GDAL_NUM_THREADS", None)


def test_no_bands_is_refused(tmp_path):
    source = gdal.GetDriverByName("MEM").Create("", 20, 20, 0)
    assert fails(tmp_path / "a.nsvq", source) == [gdal.CPLE_NotSupported]


def test_stdout_is_refused():
    assert fails("/vsistdout/a.nsvq", memory(noise(20, 20))) == [gdal.CPLE_NotSupported]


@pytest.mark.parametrize("window", [None, [0, 0, 10, 10]])
@pytest.mark.parametrize("option", ["QUIET_DELETE_ON_CREATE_COPY=YES", "QUIET_DELETE_ON_CREATE_COPY=NO"])
def test_copy_onto_itself(tmp_path, window, option):
    path = copy(tmp_path / "a.nsvq", memory(noise(600, 20)), "LOSSLESS=YES")
    source = reopen(path)
    want = reopen(path).ReadAsArray(*(window or []))
    if window:  # through a VRT, as gdal_translate does
        source = gdal.Translate("", source, format="VRT", srcWin=window)
    copy(path, source, "LOSSLESS=YES", option)
    source = None
    assert np.array_equal(reopen(path).ReadAsArray(), want)
    assert os.listdir(tmp_path) == ["a.nsvq"]


def test_more_threads_than_the_library_takes(vsimem):
    pixels = noise(600, 20)
    path = copy(vsimem + "/a.nsvq", memory(pixels), "LOSSLESS=YES", "NUM_THREADS=1024")
    assert np.array_equal(reopen(path, "NUM_THREADS=1024").ReadAsArray(), pixels[0])


def test_update_mode_is_refused(tmp_path):
    path = copy(tmp_path / "a.nsvq", memory(noise(20, 20)))
    with errors() as found:
        assert gdal.OpenEx(path, gdal.OF_RASTER | gdal.OF_UPDATE | gdal.OF_VERBOSE_ERROR) is None
    assert gdal.CPLE_NotSupported in failures(found)


def test_existing_target_is_replaced(tmp_path):
    path = copy(tmp_path / "a.nsvq", memory(noise(200, 200)), "LOSSLESS=YES")
    new = noise(20, 20, seed=2)
    copy(path, memory(new), "LOSSLESS=YES")
    assert np.array_equal(reopen(path).ReadAsArray(), new[0])
    assert os.listdir(tmp_path) == ["a.nsvq"]


def test_missing_folder(tmp_path):
    assert gdal.CPLE_OpenFailed in fails(tmp_path / "no" / "a.nsvq", memory(noise(20, 20)))


def test_target_is_a_folder(tmp_path):
    (tmp_path / "a.nsvq").mkdir()
    (tmp_path / "a.nsvq" / "file").write_text("kept")
    fails(tmp_path / "a.nsvq", memory(noise(20, 20)))
    assert os.listdir(tmp_path) == ["a.nsvq"] and os.listdir(tmp_path / "a.nsvq") == ["file"]


def test_target_is_a_device(tmp_path):
    """A finished file must not take its name."""
    path = tmp_path / "a.nsvq"
    path.symlink_to("/dev/null")
    fails(path, memory(noise(20, 20)))
    assert os.listdir(tmp_path) == ["a.nsvq"] and path.is_char_device()


def test_name_as_long_as_they_come(tmp_path):
    path = copy(tmp_path / ("x" * 250 + ".nsvq"), memory(noise(20, 20)))
    assert np.array_equal(reopen(path).ReadAsArray(), reopen(copy(tmp_path / "a.nsvq", memory(noise(20, 20)))).ReadAsArray())
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize("path", ["/vsigzip/%s/a.nsvq.gz", "/vsizip/%s/a.zip/a.nsvq"])
def test_into_an_archive(tmp_path, path):
    pixels = noise(300, 200)
    ds = reopen(copy(path % tmp_path, memory(pixels), "LOSSLESS=YES"))
    assert np.array_equal(ds.ReadAsArray(), pixels[0])
    assert set(os.listdir(tmp_path)) <= {"a.nsvq.gz", "a.nsvq.gz.properties", "a.zip"}  # the second is GDAL's own


@pytest.mark.parametrize("at", [0, 0.2, 0.6, 1])
def test_cancelling(tmp_path, at):
    seen = []

    def stop(done, text, data):
        seen.append(done)
        return 0 if done >= at else 1

    numbers = fails(tmp_path / "a.nsvq", memory(picture(1100, 1100)), callback=stop)
    assert gdal.CPLE_UserInterrupt in numbers
    assert seen and seen == sorted(seen) and all(s < at for s in seen[:-1])
    assert list(tmp_path.iterdir()) == []


def test_cancelling_at_every_call(tmp_path):
    """Blocks of all levels, two groups, a mask: whatever call says no, nothing stays."""
    source = memory(picture(1030, 520, 4), alpha=True)
    source.CreateMaskBand(gdal.GMF_PER_DATASET)
    source.GetRasterBand(1).GetMaskBand().Fill(255)
    calls = []
    copy(tmp_path / "a.nsvq", source, "NUM_THREADS=1", callback=lambda done, text, data: calls.append(done) or 1)
    (tmp_path / "a.nsvq").unlink()
    assert len(calls) > 12
    for n in range(len(calls)):
        left = [n]

        def stop(done, text, data):
            left[0] -= 1
            return left[0] >= 0

        assert gdal.CPLE_UserInterrupt in fails(tmp_path / "a.nsvq", source, "NUM_THREADS=1", callback=stop)
        assert list(tmp_path.iterdir()) == []


def test_writes_that_fail_one_by_one(tmp_path):
    """The file stops growing after every share of its size, header and overviews last."""
    source = noise(700, 600, 2)
    path = copy(tmp_path / "whole.nsvq", memory(source), "LOSSLESS=YES")
    size = os.path.getsize(path)
    os.remove(path)
    code = FULL.replace("memory(noise(700, 600, 3))", "memory(noise(700, 600, 2))")
    for i in range(16):
        limit = size * i // 16
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.nsvq"), str(limit)],
                              cwd=os.path.dirname(os.path.abspath(__file__)))
        assert done.returncode == 0 and list(tmp_path.iterdir()) == [], limit


def test_progress(vsimem):
    seen = []
    copy(vsimem + "/a.nsvq", memory(picture(1100, 1100)), callback=lambda done, text, data: seen.append(done) or 1)
    assert seen[0] == 0 and seen[-1] == 1 and seen == sorted(seen) and len(seen) > 4


def test_old_file_survives_a_cancelled_copy_when_gdal_keeps_it(tmp_path):
    old = noise(50, 50)
    path = copy(tmp_path / "a.nsvq", memory(old), "LOSSLESS=YES")
    keep = "QUIET_DELETE_ON_CREATE_COPY=NO"  # from 3.7 on not a driver's option any more
    fails(path, memory(picture(600, 600)), "@" + keep if gdal.VersionInfo() >= "3070000" else keep,
          callback=lambda done, text, data: done < 0.5)
    assert np.array_equal(reopen(path).ReadAsArray(), old[0])
    assert os.listdir(tmp_path) == ["a.nsvq"]


def test_source_that_cannot_be_read(tmp_path):
    path = str(tmp_path / "in.tif")
    gdal.GetDriverByName("GTiff").CreateCopy(path, memory(noise(600, 600, 3)), 0, ["TILED=YES", "COMPRESS=DEFLATE"])
    size = os.path.getsize(path)
    with open(path, "r+b") as f:  # most tiles are gone
        f.seek(size // 3)
        f.write(bytes(size // 3))
    numbers = fails(tmp_path / "a.nsvq", gdal.Open(path))
    assert numbers and os.listdir(tmp_path) == ["in.tif"]


FULL = """
import resource, signal, sys
from osgeo import gdal
from conftest import memory, noise
source = memory(noise(700, 600, 3))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
gdal.PushErrorHandler("CPLQuietErrorHandler")
ds = gdal.GetDriverByName("NSVQ").CreateCopy(sys.argv[1], source, 1, ["LOSSLESS=YES"])
sys.exit(0 if ds is None and gdal.GetLastErrorType() == gdal.CE_Failure else 1)
"""


def test_disk_full(tmp_path):
    """Writing stops at some byte: at the start, on the way, and at the very last one."""
    path = copy(tmp_path / "whole.nsvq", memory(noise(700, 600, 3)), "LOSSLESS=YES")
    size = os.path.getsize(path)
    os.remove(path)
    for limit in [0, 1, 4096, size // 3, size - 5000, size - 1]:
        done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path / "a.nsvq"), str(limit)],
                              cwd=os.path.dirname(os.path.abspath(__file__)))
        assert done.returncode == 0, limit
        assert list(tmp_path.iterdir()) == [], limit
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path / "a.nsvq"), str(size)],
                          cwd=os.path.dirname(os.path.abspath(__file__)))
    assert done.returncode == 1 and os.listdir(tmp_path) == ["a.nsvq"]  # the limit was what failed


def test_killed_writer_leaves_no_file_of_the_name(tmp_path):
    code = ("import os, sys\nfrom osgeo import gdal\nfrom conftest import memory, picture\n"
            "gdal.GetDriverByName('NSVQ').CreateCopy(sys.argv[1], memory(picture(1100, 1100)),"
            " callback=lambda done, text, data: os._exit(9) if done > 0.5 else 1)\n")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.nsvq")],
                          cwd=os.path.dirname(os.path.abspath(__file__)))
    assert done.returncode == 9 and not (tmp_path / "a.nsvq").exists()
    for left in tmp_path.iterdir():  # an unfinished file must not pass for a good one
        with errors() as found:
            assert gdal.Open(str(left)) is None
        assert failures(found)


def test_vsimem(vsimem):
    pixels = noise(600, 530, 3)
    path = copy(vsimem + "/sub.nsvq", memory(pixels), "LOSSLESS=YES")
    assert gdal.ReadDir(vsimem) == ["sub.nsvq"]
    assert np.array_equal(reopen(path).ReadAsArray(), pixels)


def test_delete_and_file_list(tmp_path):
    path = copy(tmp_path / "a.nsvq", memory(noise(20, 20)))
    assert reopen(path).GetFileList() == [path]
    ds = reopen(path)
    ds.GetRasterBand(1).ComputeStatistics(False)
    ds = None
    assert reopen(path).GetFileList() == [path, path + ".aux.xml"]
    assert gdal.GetDriverByName("NSVQ").Delete(path) == 0
    assert list(tmp_path.iterdir()) == []


# ---- models ----

def shipped_model():
    """Name of the library's default model, as files tell it."""
    path = "/vsimem/model_name.nsvq"
    name = reopen(copy(path, memory(picture(20, 20)))).GetMetadataItem("MODEL", "NSVQ")
    gdal.Unlink(path)
    return name


def test_embedding(vsimem):
    source = memory(picture(60, 60))
    sizes, pixels = {}, {}
    for embed in ["AUTO", "YES", "NO"]:
        path = copy(vsimem + "/%s.nsvq" % embed, source, "EMBED_MODEL=" + embed)
        ds = reopen(path)
        assert ds.GetMetadataItem("MODEL_EMBEDDED", "NSVQ") == ("YES" if embed == "YES" else "NO")
        sizes[embed], pixels[embed] = gdal.VSIStatL(path).size, ds.ReadAsArray()
    assert sizes["AUTO"] == sizes["NO"] < sizes["YES"]
    assert np.array_equal(pixels["AUTO"], pixels["YES"]) and np.array_equal(pixels["AUTO"], pixels["NO"])


def test_shipped_model_by_name(vsimem):
    name = shipped_model()
    path = copy(vsimem + "/a.nsvq", memory(picture(60, 60)), "MODEL=" + name)
    assert reopen(path).GetMetadataItem("MODEL", "NSVQ") == name


@pytest.fixture(scope="module")
def other_model(tmp_path_factory):
    """A model file that the library does not ship."""
    path = tmp_path_factory.mktemp("models") / "other.nsvqm"
    subprocess.run([os.environ["NSVQ_WRITEMODEL"], "7", str(path)], check=True)
    return path


@pytest.mark.parametrize("embed", ["AUTO", "YES"])
def test_foreign_model_travels_in_the_file(vsimem, other_model, embed):
    source = memory(picture(600, 100))
    path = vsimem + "/a.nsvq"
    ds = gdal.GetDriverByName("NSVQ").CreateCopy(path, source, 1, ["MODEL=%s" % other_model, "EMBED_MODEL=" + embed])
    pixels = ds.ReadAsArray()
    ds = None
    ds = reopen(path)
    assert ds.GetMetadataItem("MODEL_EMBEDDED", "NSVQ") == "YES"
    assert np.array_equal(ds.ReadAsArray(), pixels)
    assert gdal.VSIStatL(path).size > os.path.getsize(other_model) // 8


def test_foreign_model_outside_the_file(tmp_path, other_model):
    source = memory(picture(600, 100))
    path = str(tmp_path / "a.nsvq")
    ds = gdal.GetDriverByName("NSVQ").CreateCopy(path, source, 1, ["MODEL=%s" % other_model, "EMBED_MODEL=NO"])
    pixels, model_id = ds.ReadAsArray(), ds.GetMetadataItem("MODEL_ID", "NSVQ")  # what was made is readable
    assert pixels is not None and ds.GetMetadataItem("MODEL_EMBEDDED", "NSVQ") == "NO"
    ds = None

    with errors() as found:
        assert gdal.OpenEx(path, gdal.OF_RASTER | gdal.OF_VERBOSE_ERROR) is None
    assert failures(found) and any(model_id in text for _, _, text in found)

    folder = tmp_path / "models"
    folder.mkdir()
    (folder / (model_id + ".nsvqm")).write_bytes(other_model.read_bytes())
    gdal.SetConfigOption("NSVQ_MODEL_PATH", "/nowhere:" + str(folder))
    try:
        assert np.array_equal(reopen(path).ReadAsArray(), pixels)
    finally:
        gdal.SetConfigOption("NSVQ_MODEL_PATH", None)


def test_file_without_its_model_is_replaced(tmp_path, other_model):
    target = tmp_path / "a.nsvq"
    copy(target, memory(noise(20, 20)), "MODEL=%s" % other_model, "EMBED_MODEL=NO")
    with errors() as found:
        assert gdal.Translate(str(target), memory(noise(30, 20)), format="NSVQ") is not None
    assert found == [] and reopen(target).RasterXSize == 30


def test_file_that_is_no_model(tmp_path):
    (tmp_path / "x.nsvqm").write_bytes(b"not a model" * 100)
    numbers = fails(tmp_path / "a.nsvq", memory(picture(60, 60)), "MODEL=" + str(tmp_path / "x.nsvqm"))
    assert numbers and os.listdir(tmp_path) == ["x.nsvqm"]
