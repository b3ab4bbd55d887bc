"""What overviews cost and how good they are, by OVERVIEW_QUALITY: bytes over a file without, PSNR of the first level.
usage: GDAL_DRIVER_PATH=build/release/driver python3 tests/bench/overviews.py FILE..."""
import sys

import numpy as np
from osgeo import gdal

gdal.UseExceptions()


def size(source, *options):
    gdal.GetDriverByName("NSVQ").CreateCopy("/vsimem/a.nsvq", source, 1, list(options))
    return gdal.VSIStatL("/vsimem/a.nsvq").size


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


for quality in [25, 50, 80]:
    for less in [0, 10, 15, 20, 30]:
        if quality - less < 5:
            continue
        more, full, half = [], [], []
        for file in sys.argv[1:]:
            source = gdal.Open(file)
            if max(source.RasterXSize, source.RasterYSize) <= 512:
                continue  # has none
            pixels = source.ReadAsArray()
            alone = size(source, "QUALITY=%d" % quality, "OVERVIEWS=NONE")
            more.append(size(source, "QUALITY=%d" % quality, "OVERVIEW_QUALITY=%d" % (quality - less)) / alone - 1)
            ds = gdal.Open("/vsimem/a.nsvq")
            full.append(psnr(pixels, ds.ReadAsArray()))
            got = np.array([ds.GetRasterBand(b + 1).GetOverview(0).ReadAsArray() for b in range(3)])
            h, w = pixels.shape[1] // 2, pixels.shape[2] // 2
            want = pixels[:, :2 * h, :2 * w].reshape(3, h, 2, w, 2).mean((2, 4))
            half.append(psnr(want, got[:, :h, :w]))
        print("QUALITY=%d, OVERVIEW_QUALITY=%d: %+.1f %% bytes; PSNR %.2f dB, of the first overview %.2f"
              % (quality, quality - less, 100 * np.mean(more), np.mean(full), np.mean(half)), flush=True)
