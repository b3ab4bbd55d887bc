"""What EFFORT brings and costs: BD-rate against EFFORT=1 at equal PSNR, mean over the files, and the speed of writing
with one thread at QUALITY=50.
usage: GDAL_DRIVER_PATH=build/release/driver python3 tests/bench/efforts.py [--efforts N...] FILE..."""
import argparse
import time

import numpy as np
from osgeo import gdal

gdal.UseExceptions()
RANGES = (0.1, 0.8), (0.8, 2.5)  # bits per pixel


def write(source, effort, quality):
    """Seconds, log of bits per pixel."""
    start = time.perf_counter()
    gdal.GetDriverByName("NSVQ").CreateCopy(
        "/vsimem/a.nsvq", source, 1,
        ["EFFORT=%d" % effort, "QUALITY=%g" % quality, "OVERVIEWS=NONE", "NUM_THREADS=1"])
    return time.perf_counter() - start, np.log(gdal.VSIStatL("/vsimem/a.nsvq").size * 8 / source.RasterXSize / source.RasterYSize)


def psnr(pixels):
    return 10 * np.log10(255**2 / np.mean((pixels - gdal.Open("/vsimem/a.nsvq").ReadAsArray()) ** 2))


def curve(source, pixels, effort):
    """[quality][dB, log of bits per pixel], seconds at QUALITY=50."""
    points = []
    for quality in (12, 20, 30, 40, 50, 62, 75, 88):
        seconds, rate = write(source, effort, quality)
        points.append((psnr(pixels), rate))
        if quality == 50:
            at_50 = seconds
    return np.array(points), at_50


def bd_rate(base, other, low, high):
    """%, over the dB that base spans at these rates as far as both reach; None below half a dB."""
    at = np.interp(np.log([low, high]), base[:, 1], base[:, 0])
    least, most = max(at[0], other[0, 0]), min(at[1], other[-1, 0])
    if most - least < 0.5:
        return None
    db = np.linspace(least, most, 200)
    return 100 * np.expm1(np.mean(np.interp(db, *other.T) - np.interp(db, *base.T)))


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--efforts", type=int, nargs="+", default=[2, 4, 6, 7, 8, 9])
parser.add_argument("files", nargs="+")
arguments = parser.parse_args()
sources = [gdal.Open(file) for file in arguments.files]
pixels = [source.ReadAsArray().astype(float) for source in sources]
mpixel = sum(source.RasterXSize * source.RasterYSize for source in sources) / 1e6
base = [curve(source, p, 1) for source, p in zip(sources, pixels)]
print("EFFORT=1: %.2f Mpixel/s" % (mpixel / sum(seconds for _, seconds in base)))
for effort in arguments.efforts:
    curves = [curve(source, p, effort) for source, p in zip(sources, pixels)]
    rates = [[bd_rate(b[0], c[0], *bpp) for b, c in zip(base, curves)] for bpp in RANGES]
    means = ["%+.2f %% at %g-%g bpp" % (np.mean([r for r in rate if r is not None]), *bpp) for rate, bpp in zip(rates, RANGES)]
    print("EFFORT=%d: %s; %.2f Mpixel/s" % (effort, ", ".join(means), mpixel / sum(seconds for _, seconds in curves)), flush=True)
