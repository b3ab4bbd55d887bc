"""The other codecs, each at its strongest and some also as a user gets them.

A variant is one way to run an encoder: settings from the smallest file to the largest, and a
function from pixels and setting to bytes. A peer is at every size the best of its variants."""

import io

import imagecodecs
import numpy as np
from PIL import Image, features


class Variant:
    def __init__(self, settings, encode, decode):
        self.settings, self.encode, self.decode = settings, encode, decode


def saved(pixels, form, **options):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form, **options)
    return out.getvalue()


def jpeg(subsampling):
    def encode(pixels, quality):  # optimised Huffman tables; sequential wins in small files
        return min(
            (
                saved(
                    pixels,
                    "JPEG",
                    quality=quality,
                    subsampling=subsampling,
                    optimize=True,
                    progressive=p,
                )
                for p in (False, True)
            ),
            key=len,
        )

    return Variant(
        [1, 3, 5, 8, 12, 18, 26, 38, 52, 68, 80, 90, 95], encode, imagecodecs.jpeg8_decode
    )


def webp(pixels, quality):
    return imagecodecs.webp_encode(pixels, level=quality, method=6, lossless=False)


def jpeg2000(tile):
    def encode(pixels, bpp):  # a bare codestream; one quality layer at 24 / bpp : 1
        options = {"tile_size": (tile, tile)} if tile else {}
        return saved(
            pixels,
            "JPEG2000",
            no_jp2=True,
            irreversible=True,
            mct=1,
            num_resolutions=6,
            quality_mode="rates",
            quality_layers=[24 / bpp],
            **options,
        )

    return Variant(
        [0.015, 0.03, 0.05, 0.08, 0.12, 0.18, 0.27, 0.4, 0.6, 0.9, 1.35, 2.0, 2.8, 4.0],
        encode,
        imagecodecs.jpeg2k_decode,
    )


def jpegxl(pixels, distance):
    return imagecodecs.jpegxl_encode(pixels, distance=distance, effort=7, numthreads=1)


def avif(tune):
    def encode(pixels, quality):
        options = {"advanced": {"tune": tune}} if tune else {}
        return saved(
            pixels,
            "AVIF",
            quality=quality,
            speed=6,
            subsampling="4:4:4",
            codec="aom",
            autotiling=False,
            max_threads=1,
            **options,
        )

    return Variant(
        [0, 3, 7, 12, 18, 25, 33, 42, 51, 60, 70, 80, 90], encode, imagecodecs.avif_decode
    )


VARIANTS = {
    "JPEG 4:2:0": jpeg("4:2:0"),
    "JPEG 4:4:4": jpeg("4:4:4"),
    "WebP": Variant(
        [0.0, 3.0, 7.0, 13.0, 22.0, 35.0, 50.0, 65.0, 78.0, 88.0, 95.0],
        webp,
        imagecodecs.webp_decode,
    ),
    "JPEG 2000 one tile": jpeg2000(None),
    "JPEG 2000 512 tiles": jpeg2000(512),
    "JPEG XL": Variant(
        [25.0, 20.0, 19.9, 15.0, 11.0, 8.0, 6.0, 4.5, 3.3, 2.4, 1.7, 1.2, 0.8, 0.5],
        jpegxl,
        imagecodecs.jpegxl_decode,
    ),
    "AVIF tune=psnr": avif("psnr"),
    "AVIF default tune": avif(None),
}

ANCHOR = "JPEG 2000"
PEERS = {  # name -> variants, what it is
    "JPEG": (
        ["JPEG 4:2:0", "JPEG 4:4:4"],
        "better of 4:2:0 and 4:4:4, smaller of sequential and " "progressive, optimised tables",
    ),
    "WebP": (["WebP"], "method 6"),
    ANCHOR: (
        ["JPEG 2000 one tile"],
        "OpenJPEG codestream, one tile, 9-7 irreversible, colour " "transform, 6 resolutions",
    ),
    "J2K 512": (["JPEG 2000 512 tiles"], "the same in tiles of 512 x 512"),
    "JPEG XL": (["JPEG XL"], "effort 7, bare codestream"),
    "AVIF": (
        ["AVIF tune=psnr", "AVIF default tune"],
        "aom, speed 6, 4:4:4, one tile, better of " "tune=psnr and the default tune",
    ),
    "AVIF def.": (["AVIF default tune"], "the same with the default tune only"),
}


def versions():
    wanted = ("libjxl", "libwebp")
    found = [v for v in imagecodecs.version().split(", ") if v.startswith(wanted)]
    pillow = {"libjpeg_turbo": "libjpeg-turbo", "jpg_2000": "openjpeg", "avif": "libavif"}
    found += [f"{name}-{features.version(key)}" for key, name in pillow.items()]
    import PIL

    return found + [
        f"imagecodecs-{imagecodecs.__version__}",
        f"pillow-{PIL.__version__}",
        f"numpy-{np.__version__}",
    ]


def between(a, b):
    """A setting between two, None where there is none."""
    if isinstance(a, int):
        return (a + b) // 2 if abs(a - b) > 1 else None
    return (a + b) / 2 if abs(a - b) > 1e-3 * max(a, b) else None


def refine(points, measure, size):
    """Adds points until the two around size are within 5 % of each other.

    points: of one variant, in the order of their settings; measure: setting -> point."""
    for _ in range(7):
        for i in range(len(points) - 1):
            if points[i]["bytes"] <= size < points[i + 1]["bytes"]:
                break
        else:
            return
        if points[i + 1]["bytes"] < 1.05 * points[i]["bytes"]:
            return
        setting = between(points[i]["setting"], points[i + 1]["setting"])
        if setting is None:
            return
        points.insert(i + 1, measure(setting))
