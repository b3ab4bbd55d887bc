"""Every type of sample comes back bit for bit; only Byte has a lossy coding."""
import numpy as np
import pytest
from osgeo import gdal

from conftest import copy, errors, failures, memory, no_sidecar, noise, picture, reopen

TYPES = {"uint8": gdal.GDT_Byte, "uint16": gdal.GDT_UInt16, "int16": gdal.GDT_Int16, "uint32": gdal.GDT_UInt32,
         "int32": gdal.GDT_Int32, "uint64": gdal.GDT_UInt64, "int64": gdal.GDT_Int64, "float32": gdal.GDT_Float32,
         "float64": gdal.GDT_Float64, "complex64": gdal.GDT_CFloat32, "complex128": gdal.GDT_CFloat64}
INTEGERS = [name for name in TYPES if "int" in name]


def source(pixels, kind=None):
    """A MEM dataset; pixels (bands, height, width)."""
    bands, height, width = pixels.shape
    ds = gdal.GetDriverByName("MEM").Create("", width, height, bands, kind or TYPES[pixels.dtype.name])
    for b in range(bands):
        assert ds.GetRasterBand(b + 1).WriteRaster(0, 0, width, height, pixels[b].tobytes()) == 0
    return ds


# What half floats become, where GDAL has them.
WIDER = {getattr(gdal, "GDT_Float16", -1): gdal.GDT_Float32, getattr(gdal, "GDT_CFloat16", -1): gdal.GDT_CFloat32}


def wider(band):
    return WIDER.get(band.DataType, band.DataType)


def raw(ds):
    """The bytes of all samples, band after band."""
    bands = [ds.GetRasterBand(b + 1) for b in range(ds.RasterCount)]
    return b"".join(bytes(band.ReadRaster(buf_type=wider(band))) for band in bands)


def samples(name, shape, seed=1):
    """Smooth, with noise, jumps, and the ends of the type's range; floats with odd bits."""
    rng = np.random.default_rng(seed)
    bands, height, width = shape
    y, x = np.mgrid[0:height, 0:width]
    smooth = 90 + 60 * np.sin(x / 31) + 40 * np.cos(y / 17) + 10 * np.arange(bands)[:, None, None]
    smooth = smooth + rng.normal(0, 2, shape)
    kind = np.dtype(name)
    if kind.kind == "c":
        part = {"complex64": "float32", "complex128": "float64"}[name]
        out = np.empty(shape, kind)
        out.real, out.imag = samples(part, shape, seed), samples(part, shape, seed + 1)[:, ::-1]
        return out
    out = smooth.astype(kind) if kind.itemsize > 1 else np.clip(smooth, 0, 255).astype(kind)
    flat = out.reshape(-1)
    if kind.kind == "f":
        flat[:] = flat * kind.type(1.1)
        special = np.frombuffer(rng.bytes(kind.itemsize * 64), kind).copy()  # NaNs with payloads among them
        special[:6] = [0.0, -0.0, np.inf, -np.inf, np.nan, np.finfo(kind).tiny / 4]
    else:
        special = np.array([np.iinfo(kind).min, np.iinfo(kind).max], kind)
    flat[rng.integers(0, flat.size, 40)] = special[rng.integers(0, special.size, 40)]
    return out


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 5000), (3, 5000, 1), (1, 513, 511), (5, 70, 600)])
def test_every_type(tmp_path, name, shape):
    pixels = samples(name, shape)
    path = copy(tmp_path / "a.nsvq", source(pixels), *(["LOSSLESS=YES"] if name == "uint8" else []))
    ds = reopen(path)
    assert [ds.GetRasterBand(b + 1).DataType for b in range(shape[0])] == [TYPES[name]] * shape[0]
    assert raw(ds) == pixels.tobytes() and no_sidecar(path)
    assert ds.GetMetadataItem("COMPRESSION_REVERSIBILITY", "IMAGE_STRUCTURE") == "LOSSLESS"


@pytest.mark.parametrize("kind,part", [(gdal.GDT_CInt16, "int16"), (gdal.GDT_CInt32, "int32")])
def test_complex_integers(tmp_path, kind, part):
    parts = samples(part, (2, 600, 1040))  # twice as wide: real, imaginary
    ds = gdal.GetDriverByName("MEM").Create("", 520, 600, 2, kind)
    for b in range(2):
        ds.GetRasterBand(b + 1).WriteRaster(0, 0, 520, 600, parts[b].tobytes())
    got = reopen(copy(tmp_path / "a.nsvq", ds))
    assert got.GetRasterBand(2).DataType == kind
    assert raw(got) == parts.tobytes()


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 7, 13, 33, 70])
@pytest.mark.parametrize("name", ["uint16", "float32"])
def test_band_counts(tmp_path, bands, name):
    """Groups of up to 32 bands; whatever is read, in whatever order."""
    pixels = samples(name, (bands, 40, 530))
    ds = reopen(copy(tmp_path / "a.nsvq", source(pixels)))
    order = list(np.random.default_rng(bands).permutation(bands))
    for b in order:
        got = ds.GetRasterBand(int(b) + 1).ReadRaster(500, 3, 25, 20)
        assert bytes(got) == pixels[b, 3:23, 500:525].tobytes()
    ds = reopen(tmp_path / "a.nsvq")
    some = [int(b) + 1 for b in order[:5]] + [1]
    got = ds.ReadRaster(2, 1, 520, 33, band_list=some)
    assert bytes(got) == pixels[[b - 1 for b in some], 1:34, 2:522].tobytes()


@pytest.mark.parametrize("name", ["uint16", "int32", "float64", "complex64"])
@pytest.mark.parametrize("threads", [1, 3])
def test_buffers_of_other_types_and_spacings(tmp_path, name, threads):
    pixels = samples(name, (4, 1100, 700))
    want = source(pixels)
    ds = reopen(copy(tmp_path / "a.nsvq", want, "OVERVIEWS=NONE"), "NUM_THREADS=%d" % threads)
    for kind in [gdal.GDT_Byte, gdal.GDT_UInt16, gdal.GDT_Float32, gdal.GDT_CFloat64, TYPES[name]]:
        size = gdal.GetDataTypeSize(kind) // 8
        for arguments in [dict(), dict(buf_pixel_space=4 * size, buf_line_space=700 * 4 * size, buf_band_space=size),
                          dict(buf_xsize=100, buf_ysize=90)]:
            got = ds.ReadRaster(buf_type=kind, **arguments)
            assert got == want.ReadRaster(buf_type=kind, **arguments)


def test_small_cache(tmp_path):
    """Blocks of a group that GDAL's cache cannot hold together."""
    pixels = samples("uint16", (40, 600, 530))
    path = copy(tmp_path / "a.nsvq", source(pixels))
    before = gdal.GetCacheMax()
    gdal.SetCacheMax(4 << 20)
    try:
        ds = reopen(path)
        for b in [1, 2, 40, 17]:
            assert bytes(ds.GetRasterBand(b).ReadRaster(500, 500, 20, 50)) == pixels[b - 1, 500:550, 500:520].tobytes()
        assert raw(ds) == pixels.tobytes()
    finally:
        gdal.SetCacheMax(before)


def test_types_may_differ_by_band(tmp_path):
    ds = memory(noise(60, 50))
    for name in ["uint16", "float32", "float32", "uint8"]:
        ds.AddBand(TYPES[name])
        band = ds.GetRasterBand(ds.RasterCount)
        band.WriteArray(samples(name, (1, 50, 60), ds.RasterCount)[0])
    got = reopen(copy(tmp_path / "a.nsvq", ds, "LOSSLESS=YES"))
    assert [got.GetRasterBand(b + 1).DataType for b in range(5)] == [ds.GetRasterBand(b + 1).DataType for b in range(5)]
    assert raw(got) == raw(ds)
    assert np.array_equal(got.ReadAsArray(), ds.ReadAsArray(), equal_nan=True)


def test_signed_bytes(tmp_path):
    if hasattr(gdal, "GDT_Int8"):
        ds = source(noise(60, 50), gdal.GDT_Int8)
    else:
        ds = memory(noise(60, 50))
        ds.GetRasterBand(1).SetMetadataItem("PIXELTYPE", "SIGNEDBYTE", "IMAGE_STRUCTURE")
    ds.GetRasterBand(1).SetNoDataValue(-7)
    got = reopen(copy(tmp_path / "a.nsvq", ds))
    assert got.GetRasterBand(1).DataType == ds.GetRasterBand(1).DataType
    if not hasattr(gdal, "GDT_Int8"):
        assert got.GetRasterBand(1).GetMetadataItem("PIXELTYPE", "IMAGE_STRUCTURE") == "SIGNEDBYTE"
    assert got.GetRasterBand(1).GetNoDataValue() == -7 and raw(got) == raw(ds)


@pytest.mark.parametrize("name,value", [("uint16", 65535), ("int16", -32768), ("uint32", 4294967295), ("int32", -9999),
                                        ("float32", float("nan")), ("float32", -3.4028234663852886e38),
                                        ("float32", float("-inf")), ("float32", 0.1), ("float64", -1e300),
                                        ("int16", 0.5), ("uint16", -1), ("complex64", 7)])
def test_nodata(tmp_path, name, value):
    pixels = samples(name, (2, 300, 600))
    with np.errstate(all="ignore"):
        pixels[:, :, 200:] = np.array(value).astype(pixels.dtype)
    ds = source(pixels)
    for b in range(2):
        ds.GetRasterBand(b + 1).SetNoDataValue(value)
    path = copy(tmp_path / "a.nsvq", ds)
    got = reopen(path)
    found = got.GetRasterBand(2).GetNoDataValue()
    assert found == value or (np.isnan(found) and np.isnan(value))
    assert raw(got) == pixels.tobytes() and no_sidecar(path)
    assert got.GetRasterBand(1).GetMaskFlags() == ds.GetRasterBand(1).GetMaskFlags()
    assert np.array_equal(got.GetRasterBand(1).GetMaskBand().ReadAsArray(), ds.GetRasterBand(1).GetMaskBand().ReadAsArray())


@pytest.mark.parametrize("name,value", [("int64", -9223372036854775807), ("uint64", 18446744073709551615)])
def test_nodata_of_64_bits(tmp_path, name, value):
    pixels = samples(name, (1, 30, 60))
    pixels[0, 3:20, 5:50] = value
    ds = source(pixels)
    ds.GetRasterBand(1).SetNoDataValue(value)
    path = copy(tmp_path / "a.nsvq", ds)
    got = reopen(path)
    assert got.GetRasterBand(1).GetNoDataValue() == value
    assert raw(got) == pixels.tobytes() and no_sidecar(path)
    assert np.array_equal(got.GetRasterBand(1).GetMaskBand().ReadAsArray(), ds.GetRasterBand(1).GetMaskBand().ReadAsArray())


def test_blocks_without_data_take_no_room(tmp_path):
    pixels = np.full((3, 1024, 1024), np.nan, np.float32)
    pixels[:, :10, :10] = 1
    ds = source(pixels)
    sizes = {}
    for nodata in [None, float("nan")]:
        for b in range(3):
            if nodata is not None:
                ds.GetRasterBand(b + 1).SetNoDataValue(nodata)
        path = copy(tmp_path / "a.nsvq", ds)
        sizes[nodata is None] = gdal.VSIStatL(path).size
        assert raw(reopen(path)) == pixels.tobytes()
    assert sizes[False] < sizes[True]


# ---- lossy and lossless ----

def reversibility(path):
    return reopen(path).GetMetadataItem("COMPRESSION_REVERSIBILITY", "IMAGE_STRUCTURE")


@pytest.mark.parametrize("options,kept", [([], False), (["LOSSLESS=YES"], True), (["QUALITY=100"], True),
                                          (["QUALITY=99"], False), (["QUALITY=20", "LOSSLESS=YES"], True),
                                          (["QUALITY=100", "LOSSLESS=NO"], False)])
def test_which_options_are_lossless(tmp_path, options, kept):
    pixels = picture(100, 90)
    path = copy(tmp_path / "a.nsvq", memory(pixels), *options)
    assert np.array_equal(reopen(path).ReadAsArray(), pixels) == kept
    assert reversibility(path) == ("LOSSLESS" if kept else "LOSSY")


@pytest.mark.parametrize("name", ["int32", "float64", "complex64"])
@pytest.mark.parametrize("option", ["QUALITY=50", "RATE=1", "PSNR=40", "LOSSLESS=NO"])
def test_lossy_coding_of_a_type_that_has_none(tmp_path, name, option):
    ds = source(samples(name, (1, 50, 60)))
    path = str(tmp_path / "a.nsvq")
    with errors() as found:
        assert gdal.GetDriverByName("NSVQ").CreateCopy(path, ds, 1, [option]) is None
    assert failures(found) == [gdal.CPLE_NotSupported] and list(tmp_path.iterdir()) == []
    with errors() as found:
        copy(path, ds, option, strict=False)
    assert [cls for cls, _, _ in found] == [gdal.CE_Warning]
    assert reversibility(path) == "LOSSLESS" and raw(reopen(path)) == raw(ds)
    with errors() as found:
        copy(path, ds, "QUALITY=100")
        copy(path, ds, "QUALITY=50", "LOSSLESS=YES")
    assert found == []
