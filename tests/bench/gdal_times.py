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
ALL = ["TILED=YES", "BLOCKXSIZE=512", "BLOCKYSIZE=512"]


def formats(width, height, percent, nsvq_options):
    """Name -> driver, creation options. percent: NSVQ's size of the raw size."""
    jp2 = ["CODEC=J2K", f"QUALITY={percent:.6f}", "REVERSIBLE=NO", "RESOLUTIONS=6", "YCBCR420=NO"]
    return {
        "NSVQ": ("NSVQ", nsvq_options),
        "JPEG 2000, 512 tiles, NSVQ's size": (
            "JP2OpenJPEG",
            jp2 + ["BLOCKXSIZE=512", "BLOCKYSIZE=512"],
        ),
        "JPEG 2000, one tile, NSVQ's size": (
            "JP2OpenJPEG",
            jp2 + [f"BLOCKXSIZE={width}", f"BLOCKYSIZE={height}"],
        ),
        "JPEG q75 in GTiff": ("GTiff", ALL + ["COMPRESS=JPEG", "PHOTOMETRIC=YCBCR"]),
        "WebP q75": ("WEBP", []),
        "LERC error 4 in GTiff": ("GTiff", ALL + ["COMPRESS=LERC_DEFLATE", "MAX_Z_ERROR=4"]),
    }


def available(driver, options):
    found = gdal.GetDriverByName(driver)
    if found is None:
        return False
    method = next((o[9:] for o in options if o.startswith("COMPRESS=")), "")
    return (
        f"<Value>{method}</Value>" in found.GetMetadataItem("DMD_CREATIONOPTIONLIST")
        if method
        else True
    )


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
    known, table = {}, {}

    path = os.path.join(args.folder, "speed")
    write("NSVQ", path, source, args.nsvq)
    percent = 100 * os.path.getsize(path) / (3 * w * h)
    for name, (driver, options) in formats(w, h, percent, args.nsvq).items():
        if available(driver, options):
            known[name] = (driver, options, os.path.join(args.folder, f"speed{len(known)}"))
            table[name] = {"write_s": {}, "read_s": {}, "window_s": {}}
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
    return table


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", required=True, help="an RGB raster of 8 bits")
    parser.add_argument("--folder", required=True, help="for files")
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--threads", type=int, nargs="+", required=True)
    parser.add_argument("--nsvq", nargs="*", default=[], help="creation options")
    args = parser.parse_args()
    source = gdal.GetDriverByName("MEM").CreateCopy("", gdal.Open(args.source))
    table = measure(args, source)
    openjpeg = gdal.GetDriverByName("JP2OpenJPEG")
    print(
        json.dumps(
            {
                "gdal": gdal.__version__,
                "formats": table,
                "width": source.RasterXSize,
                "height": source.RasterYSize,
                "jp2openjpeg": openjpeg is not None,
            }
        )
    )


main()
