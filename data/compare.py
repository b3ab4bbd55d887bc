#!/usr/bin/python3
"""Compress rasters to NSVQ and back, beside JPEG 2000 at about the same number of bytes.

JPEG 2000 is OpenJPEG through GDAL at its strongest: one tile, 6 resolutions, irreversible, colour
transform; its size is steered to within 1 % of the NSVQ file's (the model, if embedded, included).
PSNR is over all pixels and bands, peak 255. Sizes are whole files; NSVQ is written without overviews.
"""
import argparse
import os
import sys

import numpy as np
from osgeo import gdal

gdal.UseExceptions()


def psnr(path, source):
    got = gdal.Open(path).ReadAsArray()
    mse = np.mean((got.astype(np.float64) - source) ** 2)
    return np.inf if mse == 0 else 10 * np.log10(255.0**2 / mse)


def write(driver, path, source, options):
    if gdal.VSIStatL(path) is not None:
        gdal.Unlink(path)
    if gdal.GetDriverByName(driver).CreateCopy(path, source, 0, options) is None:
        raise RuntimeError(gdal.GetLastErrorMsg())
    return gdal.VSIStatL(path).size


def write_jpeg2000(path, source, target):
    raw = source.RasterXSize * source.RasterYSize * source.RasterCount
    percent = 100.0 * target / raw
    for _ in range(6):
        size = write("JP2OpenJPEG", path, source, [
            "CODEC=JP2", f"QUALITY={percent:.6f}", "REVERSIBLE=NO", "RESOLUTIONS=6",
            "YCBCR420=NO", f"BLOCKXSIZE={source.RasterXSize}", f"BLOCKYSIZE={source.RasterYSize}"])
        if abs(size - target) <= 0.01 * target:
            break
        percent = min(100.0, percent * target / size)
    return size


def row(name, codec, size, pixels, quality):
    print(f"{name:28} {codec:14} {size:>10} {8 * size / pixels:7.3f} {quality:8.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", required=True, help="where the converted files go")
    parser.add_argument("--quality", type=int, nargs="+", default=[25, 50, 75])
    parser.add_argument("images", nargs="+")
    args = parser.parse_args()
    if gdal.GetDriverByName("NSVQ") is None:
        sys.exit("the NSVQ driver is not loaded: set GDAL_DRIVER_PATH to the folder of gdal_NSVQ.so")
    jpeg2000 = gdal.GetDriverByName("JP2OpenJPEG") is not None

    print(f"{'image':28} {'codec':14} {'bytes':>10} {'bpp':>7} {'PSNR dB':>8}")
    for image in args.images:
        source = gdal.Open(image)
        pixels = source.RasterXSize * source.RasterYSize
        original = source.ReadAsArray()
        stem = os.path.splitext(os.path.basename(image))[0]
        for quality in args.quality:
            path = os.path.join(args.folder, f"{stem}_q{quality}")
            size = write("NSVQ", path + ".nsvq", source, [f"QUALITY={quality}", "OVERVIEWS=NONE"])
            row(stem[:28], f"NSVQ q{quality}", size, pixels, psnr(path + ".nsvq", original))
            back = path + ".tif"  # what any program without the driver can read
            write("GTiff", back, gdal.Open(path + ".nsvq"), ["COMPRESS=DEFLATE", "TILED=YES"])
            if jpeg2000:
                size = write_jpeg2000(path + ".jp2", source, size)
                row("", "JPEG 2000", size, pixels, psnr(path + ".jp2", original))


if __name__ == "__main__":
    main()
