#!/usr/bin/python3
"""Make README's picture: a window of a drawn scene, as it is, in NSVQ at its lowest rates, in JPEG 2000 of as many bytes.

usage: picture.py SCENE X Y SIDE OUT.png. README's: the first scene of ./setup.sh demo, 500 500 320.
Needs the driver (GDAL_DRIVER_PATH).
"""
import os
import sys

import numpy as np
from osgeo import gdal

import compare

GAP = 6


def main():
    scene, x, y, side, out = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]
    source = gdal.Open(scene)
    size = compare.write("NSVQ", "/vsimem/a.nsvq", source, ["FAMILY=VQ", "QUALITY=50", "OVERVIEWS=NONE"])
    compare.write_jpeg2000("/vsimem/a.jp2", source, size)
    panels = [gdal.Open(path).ReadAsArray(x, y, side, side)[:3] for path in (scene, "/vsimem/a.nsvq", "/vsimem/a.jp2")]
    white = np.full((3, side, GAP), 255, np.uint8)
    row = np.concatenate([panels[0], white, panels[1], white, panels[2]], 2)
    memory = gdal.GetDriverByName("MEM").Create("", row.shape[2], side, 3)
    memory.WriteArray(row)
    gdal.GetDriverByName("PNG").CreateCopy(out, memory, 1, ["ZLEVEL=9"]).FlushCache()
    pixels = source.RasterXSize * source.RasterYSize
    for path in "/vsimem/a.nsvq", "/vsimem/a.jp2":
        compare.row(scene[-28:], path[10:], gdal.VSIStatL(path).size, pixels, compare.psnr(path, source.ReadAsArray()))
    if os.path.exists(out + ".aux.xml"):
        os.remove(out + ".aux.xml")


main()
