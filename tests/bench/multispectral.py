"""PSNR of NSVQ on UInt16, Int16 and Float32 and, at as many bytes, of JPEG 2000: one table."""
import glob
import os
import sys

import numpy as np
from osgeo import gdal

gdal.UseExceptions()
gdal.PushErrorHandler("CPLQuietErrorHandler")

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FILES = os.path.join(os.path.dirname(TOP), "shared", "data", "valid", "multispectral", "*.tif")
QUALITIES = [15, 30, 50, 70, 90]


def load(path):
    """Pixels [band][row][column] and where they are valid."""
    ds = gdal.Open(path)
    pixels = ds.ReadAsArray().reshape(ds.RasterCount, ds.RasterYSize, ds.RasterXSize)
    masks = [ds.GetRasterBand(b + 1).GetMaskBand().ReadAsArray() != 0 for b in range(ds.RasterCount)]
    return ds, pixels, np.array(masks) & np.isfinite(pixels)


def nsvq(ds, quality):
    gdal.GetDriverByName("NSVQ").CreateCopy("/vsimem/a.nsvq", ds, 1, ["QUALITY=%g" % quality, "OVERVIEWS=NONE"])
    return gdal.VSIStatL("/vsimem/a.nsvq").size, gdal.Open("/vsimem/a.nsvq").ReadAsArray()


def jpeg2000(pixels, valid, size):
    """One tile, a bare codestream, missing pixels filled with the mean; floats as 16 bits of their range. With the
    colour transform or without it, whichever is better."""
    low, high = pixels[valid].min(), pixels[valid].max()
    filled = np.array([np.where(v, p, p[v].mean() if v.any() else 0) for p, v in zip(pixels, valid)])
    step = (float(high) - float(low)) / 65535 if pixels.dtype.kind == "f" else 1
    codes = np.rint((filled.astype(float) - float(low)) / step).astype(np.uint16)
    n, h, w = codes.shape
    source = gdal.GetDriverByName("MEM").Create("", w, h, n, gdal.GDT_UInt16)
    source.WriteArray(codes)
    best = None
    for transform in ["NO", "YES"][: 1 + (n == 3)]:
        options = ["QUALITY=%.5f" % (100 * size / (2 * codes.size)), "REVERSIBLE=NO", "RESOLUTIONS=6", "CODEC=J2K",
                   "BLOCKXSIZE=%d" % w, "BLOCKYSIZE=%d" % h, "YCC=" + transform]
        gdal.GetDriverByName("JP2OpenJPEG").CreateCopy("/vsimem/a.j2k", source, 1, options)
        got = gdal.Open("/vsimem/a.j2k").ReadAsArray().reshape(n, h, w) * step + float(low)
        if best is None or np.sum((got - filled)[valid] ** 2) < np.sum((best[1] - filled)[valid] ** 2):
            best = gdal.VSIStatL("/vsimem/a.j2k").size, got
    return best


def psnr(pixels, got, valid):
    """At most 70 dB, so that a band without error does not outweigh all others."""
    a = pixels[valid].astype(float)
    return -10 * np.log10(np.mean((a - got[valid]) ** 2) / np.ptp(a) ** 2 + 1e-7)


def decibels(pixels, got, valid):
    """Over all bands, peak: the range of all; and the mean over bands, peak: the range of each."""
    got = got.reshape(pixels.shape)
    bands = [psnr(*x) for x in zip(pixels, got, valid) if np.ptp(x[0][x[2]]) > 0]
    return psnr(pixels, got, valid), np.mean(bands)


def main():
    print("bps: bits per sample. all: dB over all bands, bands: mean over bands; each NSVQ, JPEG 2000 (size), difference")
    gains = {q: [] for q in QUALITIES}
    for path in sys.argv[1:] or sorted(glob.glob(FILES)):
        ds, pixels, valid = load(path)
        if pixels.dtype == np.uint8:
            continue
        for quality in QUALITIES:
            size, got = nsvq(ds, quality)
            peer_size, peer = jpeg2000(pixels, valid, size)
            ours, theirs = decibels(pixels, got, valid), decibels(pixels, peer, valid)
            gains[quality].append(np.subtract(ours, theirs))
            print("%-36s %-8s %2d  QUALITY=%-3d %6.3f bps   all %6.2f %6.2f (%3.0f %%) %+6.2f   bands %6.2f %6.2f %+6.2f"
                  % (os.path.basename(path), pixels.dtype, len(pixels), quality, 8 * size / pixels.size, ours[0],
                     theirs[0], 100 * peer_size / size, ours[0] - theirs[0], ours[1], theirs[1], ours[1] - theirs[1]))
    for quality, found in gains.items():
        print("QUALITY=%-3d mean difference: all %+.2f dB, bands %+.2f dB" % (quality, *np.mean(found, axis=0)))


main()
