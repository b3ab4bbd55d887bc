"""Large rasters from small images, by mirroring."""

import os

import numpy as np

import rate


def pixels(tools, pictures, side):
    """side x side RGB in cells of up to 1024, one image each, mirrored where it is smaller."""
    cell = min(side, 1024)
    images = []
    for picture in pictures:
        path, image = rate.pixels_of(tools, picture)
        image = image[:cell, :cell]
        pad = [(0, cell - image.shape[0]), (0, cell - image.shape[1]), (0, 0)]
        images.append(np.pad(image, pad, mode="symmetric"))
        os.remove(path)
    n = -(-side // cell)
    rows = [
        np.concatenate([images[(r * n + c) % len(images)] for c in range(n)], axis=1)
        for r in range(n)
    ]
    return np.ascontiguousarray(np.concatenate(rows)[:side, :side])


def save(path, picture):
    with open(path, "wb") as f:
        f.write(b"P6\n%d %d\n255\n" % (picture.shape[1], picture.shape[0]))
        f.write(picture.tobytes())


def save_vrt(path, source, source_side, side):
    """A side x side raster that shows source again and again."""
    bands = []
    for band, colour in enumerate(("Red", "Green", "Blue"), 1):
        parts = []
        for y in range(0, side, source_side):
            for x in range(0, side, source_side):
                w, h = min(source_side, side - x), min(source_side, side - y)
                parts.append(
                    f"<SimpleSource><SourceFilename relativeToVRT='1'>{os.path.basename(source)}"
                    f"</SourceFilename><SourceBand>{band}</SourceBand>"
                    f"<SrcRect xOff='0' yOff='0' xSize='{w}' ySize='{h}'/>"
                    f"<DstRect xOff='{x}' yOff='{y}' xSize='{w}' ySize='{h}'/></SimpleSource>"
                )
        bands.append(
            f"<VRTRasterBand dataType='Byte' band='{band}'><ColorInterp>{colour}"
            f"</ColorInterp>{''.join(parts)}</VRTRasterBand>"
        )
    with open(path, "w") as f:
        f.write(
            f"<VRTDataset rasterXSize='{side}' rasterYSize='{side}'>{''.join(bands)}</VRTDataset>"
        )
