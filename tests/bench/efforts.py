"""What EFFORT brings and costs: BD-rate against EFFORT=1 at equal PSNR, mean over the files, and the speed of writing
with one thread at QUALITY=50.
usage: GDAL_DRIVER_PATH=build/release/driver python3 tests/bench/efforts.py [--efforts N...] FILE..."""
import argparse
import time

import numpy as np
from osgeo import gdal

import curve
import quality

gdal.UseExceptions()
RANGES = (0.1, 0.8), (0.8, 2.5)  # bits per pixel


def write(source, effort, setting):
    """Seconds, bytes."""
    start = time.perf_counter()
    gdal.GetDriverByName("NSVQ").CreateCopy(
        "/vsimem/a.nsvq", source, 1,
        ["EFFORT=%d" % effort, "QUALITY=%g" % setting, "OVERVIEWS=NONE", "NUM_THREADS=1"])
    return time.perf_counter() - start, gdal.VSIStatL("/vsimem/a.nsvq").size


def measure(source, pixels, effort):
    """A variant of a curve, seconds at QUALITY=50."""
    points = []
    for setting in (12, 20, 30, 40, 50, 62, 75, 88):
        seconds, size = write(source, effort, setting)
        points.append({"bytes": size, "psnr": quality.psnr(pixels, gdal.Open("/vsimem/a.nsvq").ReadAsArray())})
        if setting == 50:
            at_50 = seconds
    return points, at_50


def bd_rate(points, base, pixels, bpp):
    """Over the dB that base has at these bits per pixel, as far as both reach."""
    sizes = [p["bytes"] for p in base]
    ends = [curve.at_bytes([base], "psnr", float(np.clip(b * pixels / 8, min(sizes), max(sizes)))) for b in bpp]
    return curve.bd_rate([points], [base], "psnr", curve.common(ends, curve.span_of([points], "psnr")))


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--efforts", type=int, nargs="+", default=[2, 4, 6, 7, 8, 9])
parser.add_argument("files", nargs="+")
arguments = parser.parse_args()
sources = [gdal.Open(file) for file in arguments.files]
pictures = [source.ReadAsArray() for source in sources]
areas = [source.RasterXSize * source.RasterYSize for source in sources]
base = [measure(*item, 1) for item in zip(sources, pictures)]
print("EFFORT=1: %.2f Mpixel/s" % (sum(areas) / 1e6 / sum(seconds for _, seconds in base)))
for effort in arguments.efforts:
    measured = [measure(*item, effort) for item in zip(sources, pictures)]
    means = []
    for bpp in RANGES:
        rates = [bd_rate(m[0], b[0], area, bpp) for m, b, area in zip(measured, base, areas)]
        means.append("%+.2f %% at %g-%g bpp" % (np.mean([r for r in rates if r is not None]), *bpp))
    speed = sum(areas) / 1e6 / sum(seconds for _, seconds in measured)
    print("EFFORT=%d: %s; %.2f Mpixel/s" % (effort, ", ".join(means), speed), flush=True)
