"""Bits per sample of the lossless layer and of other lossless codecs at their best: one table."""

import argparse
import hashlib
import json
import os
import re
import subprocess
import tempfile

import imagecodecs
import numpy as np
from osgeo import gdal

gdal.UseExceptions()

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
DATA = os.path.join(os.path.dirname(TOP), "shared", "data")
FOLDERS = ["hyper/valid", "valid/multispectral", "valid/aerial", "valid/satellite"]
BLOCK, BLOCK_COST = 512, 10  # bytes of index and record for each block
TYPES = {
    gdal.GDT_Byte: "uint8", gdal.GDT_UInt16: "uint16", gdal.GDT_Int16: "int16",
    gdal.GDT_UInt32: "uint32", gdal.GDT_Int32: "int32", gdal.GDT_Float32: "float32",
    gdal.GDT_Float64: "float64",
}  # fmt: skip
GDAL_TYPES = {name: number for number, name in TYPES.items()}


def load(path):
    """Planes [band][row][column] and the nodata value or None."""
    name = os.path.basename(path)
    if name.endswith(".npy"):
        return np.load(path), None
    if name.endswith(".raw"):  # NAME.BANDS_WIDTH_HEIGHT_TYPE_ORDER_RGB.raw
        n, w, h, kind, little = map(int, re.search(r"\.(\d+)_(\d+)_(\d+)_(\d)_(\d)_\d\.raw$", name).groups())
        dtype = np.dtype({2: "u2", 3: "i2"}[kind]).newbyteorder("<" if little else ">")
        return np.fromfile(path, dtype).reshape(n, h, w).astype(dtype.newbyteorder("=")), None
    ds = gdal.Open(path)
    band = ds.GetRasterBand(1)
    raw = ds.ReadRaster(0, 0, ds.RasterXSize, ds.RasterYSize)
    planes = np.frombuffer(raw, TYPES[band.DataType]).reshape(ds.RasterCount, ds.RasterYSize, ds.RasterXSize)
    return planes, band.GetNoDataValue()


# ---- the others ----


def geotiff(options, planes):
    """The smallest of strips and tiles, by pixel and by band."""
    n, h, w = planes.shape
    predictor = "PREDICTOR=3" if planes.dtype.kind == "f" else "PREDICTOR=2"
    sizes = []
    for layout in ([], ["TILED=YES", "BLOCKXSIZE=512", "BLOCKYSIZE=512"]):
        for interleave in ("PIXEL", "BAND"):
            path = "/vsimem/lossless.tif"
            form = [*options, predictor, *layout, f"INTERLEAVE={interleave}", "NUM_THREADS=1"]
            ds = gdal.GetDriverByName("GTiff").Create(path, w, h, n, GDAL_TYPES[planes.dtype.name], form)
            ds.WriteRaster(0, 0, w, h, planes.tobytes())
            ds = None
            sizes.append(gdal.VSIStatL(path).size)
            gdal.Unlink(path)
    return min(sizes)


def unsigned(planes):
    """What codecs of unsigned 16 bits can take: the offset costs them nothing."""
    if planes.dtype.kind == "f":
        if not np.isfinite(planes).all() or (planes != np.rint(planes)).any() or np.abs(planes).max() > 1e6:
            return None
        planes = planes.astype(np.int64)
    if planes.dtype == np.uint8:
        return planes
    low, high = int(planes.min()), int(planes.max())
    if planes.dtype == np.uint16:
        low = 0
    return (planes.astype(np.int64) - low).astype(np.uint16) if high - low < 65536 else None


def together(planes):
    return np.ascontiguousarray(planes.transpose(1, 2, 0))


def best(planes, encode, groups):
    """Planes one by one, or all in one picture, whichever is smaller."""
    sizes = [sum(len(encode(p)) for p in planes)]
    if len(planes) in groups:
        try:
            sizes.append(len(encode(together(planes))))
        except (imagecodecs.ImcdError, RuntimeError, ValueError):
            pass  # not with so many bands
    return min(sizes)


def jpegxl(effort):
    def size(planes):
        whole = unsigned(planes)
        if whole is None:
            if planes.dtype != np.float32:
                return None
            whole = planes
        kind = {"photometric": "rgb"} if whole.dtype != np.float32 else {}

        def encode(a):
            return imagecodecs.jpegxl_encode(
                a, lossless=True, effort=effort, numthreads=1, **(kind if a.ndim == 3 else {})
            )

        return best(whole, encode, range(3, 17))

    return size


def on_unsigned(encode, groups=(3,)):
    def size(planes):
        whole = unsigned(planes)
        return None if whole is None else best(whole, encode, groups)

    return size


def lerc(planes):
    if planes.dtype == np.float32 and np.isnan(planes).any():
        return None
    return best(planes, lambda a: imagecodecs.lerc_encode(a, level=0, compression="zstd"), range(2, 17))


def webp(planes):
    if planes.dtype != np.uint8 or len(planes) != 3:
        return None
    return len(imagecodecs.webp_encode(together(planes), level=100, method=6, lossless=True))


PEERS = {
    "DEFLATE": lambda a: geotiff(["COMPRESS=DEFLATE", "ZLEVEL=9"], a),
    "ZSTD": lambda a: geotiff(["COMPRESS=ZSTD", "ZSTD_LEVEL=19"], a),
    "JXL e7": jpegxl(7),
    "JXL e9": jpegxl(9),
    "JP2K": on_unsigned(lambda a: imagecodecs.jpeg2k_encode(a, level=0, reversible=True, codecformat="j2k")),
    "JPEG-LS": on_unsigned(lambda a: imagecodecs.jpegls_encode(a, level=0)),
    "LERC": lerc,
    "WebP": webp,
}


class Cache:
    def __init__(self, path):
        self.path = path
        self.known = {}
        if os.path.exists(path):
            with open(path) as f:
                self.known = json.load(f)

    def get(self, digest, name, make):
        key = f"{digest} {name} {imagecodecs.__version__} {gdal.VersionInfo()}"
        if key not in self.known:
            self.known[key] = make()
            with open(self.path + ".part", "w") as f:
                json.dump(self.known, f)
            os.replace(self.path + ".part", self.path)
        return self.known[key]


# ---- NSVQ ----


def nsvq(build, planes, nodata, effort):
    """Bytes with what the container adds, and seconds of writing and reading; every block is compared."""
    n, h, w = planes.shape
    text = "-" if nodata is None else repr(float(nodata))
    with tempfile.NamedTemporaryFile() as f:
        f.write(planes.tobytes())
        f.flush()
        tool = os.path.join(build, "tests", "bench", "nsvq-lossless")
        words = [tool, planes.dtype.name, str(n), str(h), str(w), text, str(effort), f.name]
        out = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
    return int(out[0]) + BLOCK_COST * int(out[1]), float(out[2]), float(out[3])


def percent(a, b):
    return f"{100 * (a / b - 1):+6.1f}" if b else "   n/a"


def report(folder, files, args, cache):
    names = [name for name in PEERS if not args.quick or name not in ("JXL e9",)]
    print(f"\n{folder}: bits per sample; NSVQ against JPEG XL e7 and the best GeoTIFF in %, MB/s of a core")
    heads = "".join(f"{name:>9}" for name in names)
    print(f"{'file':34} {'bands x rows x columns':>20} {'type':>8} {'NSVQ':>8}{heads}  JXL e7  GTiff  write   read")
    totals, writes, reads, worst = {}, [], [], []
    for path in files:
        planes, nodata = load(path)
        digest = hashlib.sha256(str((planes.shape, planes.dtype)).encode() + planes.tobytes()).hexdigest()[:24]
        sizes = {name: cache.get(digest, name, lambda name=name: PEERS[name](planes)) for name in names}
        size, write, read = nsvq(args.build, planes, nodata, args.effort)
        n, h, w = planes.shape
        tiff = min(sizes["DEFLATE"], sizes["ZSTD"])
        for name in names:
            if sizes[name] is not None:
                mine, other = totals.get(name, (0, 0))
                totals[name] = (mine + size, other + sizes[name])
        writes.append(planes.nbytes / write / 1e6)
        reads.append(planes.nbytes / read / 1e6)
        if size >= tiff:
            worst.append(os.path.basename(path))
        cells = "".join(f"{8 * sizes[k] / planes.size:9.3f}" if sizes[k] else f"{'-':>9}" for k in names)
        print(
            f"{os.path.basename(path)[:34]:34} {f'{n} x {h} x {w}':>22} {planes.dtype.name:>8}"
            f" {8 * size / planes.size:8.3f}{cells}  {percent(size, sizes['JXL e7'])} {percent(size, tiff)}"
            f" {writes[-1]:6.1f} {reads[-1]:6.1f}",
            flush=True,
        )
    for name, (mine, other) in totals.items():
        print(f"  NSVQ {percent(mine, other)} % beside {name} in total")
    print(
        f"  mean and least of {len(files)} files: writing {np.mean(writes):.1f} and {min(writes):.1f} MB/s,"
        f" reading {np.mean(reads):.1f} and {min(reads):.1f} MB/s"
    )
    print(f"  not below GeoTIFF: {', '.join(worst) or 'none'}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", help="files or folders; default: the valid ones of ../shared/data")
    parser.add_argument("--build", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--effort", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="without JPEG XL e9")
    args = parser.parse_args()
    cache = Cache(os.path.join(TOP, "build", "lossless-cache.json"))
    paths = args.paths or [os.path.join(DATA, f) for f in FOLDERS]
    for path in paths:
        files = [path]
        if os.path.isdir(path):
            names = sorted(os.listdir(path))
            files = [os.path.join(path, f) for f in names if f.endswith((".tif", ".npy", ".raw"))]
        report(os.path.relpath(path, DATA), files, args, cache)


if __name__ == "__main__":
    main()
