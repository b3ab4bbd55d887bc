"""Times of reading and writing through GDAL: NSVQ and other drivers in turns, in one process.

Prints one JSON object. Read = open + all pixels of all bands into memory. Write = CreateCopy from a
raster in memory. Every read opens the file anew, so nothing is in GDAL's block cache."""

import argparse
import json
import os
import time

import numpy as np
from osgeo import gdal

gdal.UseExceptions()
TILES = ["TILED=YES", "BLOCKXSIZE=512", "BLOCKYSIZE=512"]


class Format:
    """A driver and how its file gets about a size: knob's values from small files to large ones.

    Without a knob the options say it all."""

    def __init__(self, driver, options, knob=None, values=()):
        self.driver, self.options, self.knob, self.values = driver, options, knob, values

    def at(self, value):
        return self.options + ([f"{self.knob}={value}"] if self.knob else [])


def formats(width, height, percent, nsvq_options):
    """percent: NSVQ's size of the raw size."""
    jp2 = ["CODEC=J2K", f"QUALITY={percent:.6f}", "REVERSIBLE=NO", "RESOLUTIONS=6", "YCBCR420=NO"]
    whole = [f"BLOCKXSIZE={width}", f"BLOCKYSIZE={height}"]
    jxl = ["LOSSLESS=NO", "LOSSLESS_COPY=NO", "EFFORT=7"]
    distances = [d / 10 for d in range(150, 2, -1)]
    return {
        "NSVQ": Format("NSVQ", nsvq_options + ["OVERVIEWS=NONE"]),
        "NSVQ with overviews (its default)": Format("NSVQ", nsvq_options),
        "JPEG 2000, 512 tiles": Format("JP2OpenJPEG", jp2 + TILES[1:]),
        "JPEG 2000, one tile": Format("JP2OpenJPEG", jp2 + whole),
        "JPEG XL, effort 7": Format("JPEGXL", jxl, "DISTANCE", distances),
        "WebP, method 6": Format("WEBP", ["METHOD=6"], "QUALITY", range(1, 101)),
        "WebP": Format("WEBP", [], "QUALITY", range(1, 101)),
        "AVIF, speed 6": Format(
            "AVIF", ["SPEED=6", "YUV_SUBSAMPLING=444"], "QUALITY", range(1, 100)
        ),
        "JPEG": Format("JPEG", [], "QUALITY", range(10, 101)),
        "JPEG in GTiff, 512 tiles": Format(
            "GTiff",
            TILES + ["COMPRESS=JPEG", "PHOTOMETRIC=YCBCR"],
            "JPEG_QUALITY",
            range(10, 101),
        ),
    }


def available(form):
    """The driver is there, it can write, and it has the method."""
    found = gdal.GetDriverByName(form.driver)
    if found is None or found.GetMetadataItem("DCAP_CREATECOPY") is None:
        return False
    method = next((o[9:] for o in form.options if o.startswith("COMPRESS=")), "")
    known = found.GetMetadataItem("DMD_CREATIONOPTIONLIST")
    return not method or f"<Value>{method}</Value>" in known


def options_near(form, path, source, size):
    """Those whose file is the nearest to size."""
    tried = {}

    def distance(i):
        if i not in tried:
            write(form.driver, path, source, form.at(form.values[i]))
            tried[i] = os.path.getsize(path) / size - 1
        return tried[i]

    if not form.knob:
        return form.options
    low, high = 0, len(form.values) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if distance(middle) < 0 else (low, middle)
    return form.at(form.values[min((low, high), key=lambda i: abs(distance(i)))])


def write(driver, path, source, options):
    if os.path.exists(path):
        os.remove(path)
    start = time.perf_counter()
    copy = gdal.GetDriverByName(driver).CreateCopy(path, source, 0, options)
    del copy  # closes it
    return time.perf_counter() - start


def read(path, window, pixels):
    """Seconds; pixels is overwritten."""
    start = time.perf_counter()
    dataset = gdal.Open(path)
    dataset.ReadRaster(*window, buf_obj=pixels)
    dataset = None
    return time.perf_counter() - start


def measure(args, source):
    w, h = source.RasterXSize, source.RasterYSize
    original = np.frombuffer(source.ReadRaster(), np.uint8)
    pixels = bytearray(3 * w * h)
    patch = bytearray(3 * 512 * 512)
    inside = (w // 3 + 7, h // 3 + 5, 512, 512)  # on no block's edge
    known, table, left_out = {}, {}, []

    path = os.path.join(args.folder, "speed")
    write("NSVQ", path, source, args.nsvq + ["OVERVIEWS=NONE"])
    size = os.path.getsize(path)
    for name, form in formats(w, h, 100 * size / (3 * w * h), args.nsvq).items():
        if not available(form):
            left_out.append(name)
            continue
        path = os.path.join(args.folder, f"speed{len(known)}")
        try:
            options = options_near(form, path, source, size)
        except RuntimeError as error:
            left_out.append(f"{name} ({error})")
            continue
        known[name] = (form.driver, options, path)
        table[name] = {"options": options, "write_s": {}, "read_s": {}, "window_s": {}}
    for threads in map(str, args.threads):
        gdal.SetConfigOption("GDAL_NUM_THREADS", threads)
        for run in range(args.runs):
            for name, (driver, options, path) in known.items():
                row = table[name]
                row["write_s"].setdefault(threads, []).append(write(driver, path, source, options))
                row["window_s"].setdefault(threads, []).append(read(path, inside, patch))
                row["read_s"].setdefault(threads, []).append(read(path, (0, 0, w, h), pixels))
                if run == 0:
                    mse = np.mean(
                        np.square(original - np.frombuffer(pixels, np.uint8).astype(np.float32)),
                        dtype=np.float64,
                    )
                    row["psnr"] = float(10 * np.log10(255.0**2 / max(mse, 1e-10)))
                    row["bpp"] = 8 * os.path.getsize(path) / (w * h)
    for _, _, path in known.values():
        gdal.Unlink(path)
    os.remove(os.path.join(args.folder, "speed"))
    return table, left_out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", required=True, help="an RGB raster of 8 bits")
    parser.add_argument("--folder", required=True, help="for files")
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--threads", type=int, nargs="+", required=True)
    parser.add_argument("--nsvq", nargs="*", default=[], help="creation options")
    args = parser.parse_args()
    source = gdal.GetDriverByName("MEM").CreateCopy("", gdal.Open(args.source))
    table, left_out = measure(args, source)
    print(
        json.dumps(
            {
                "gdal": gdal.__version__,
                "formats": table,
                "left_out": left_out,
                "width": source.RasterXSize,
                "height": source.RasterYSize,
            }
        )
    )


main()
