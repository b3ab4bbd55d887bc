"""The other codecs, each at its strongest and some also as a user gets them.

A variant is one way to run an encoder: settings from the smallest file to the largest, and a
function from pixels and setting to bytes. A peer is at every size the best of its variants. Names
of variants are keys of the cache: another way to run an encoder needs another name."""

import functools
import io

import imagecodecs
import numpy as np
from PIL import Image, features


class Variant:
    def __init__(self, settings, encode, decode, slow=False):
        self.settings, self.encode, self.decode, self.slow = settings, encode, decode, slow
        self.enough = 3.5 if slow else 4.5  # bpp: larger files than the first above are not made
        self.near = 1.2 if slow else 1.05  # ratio of the two files around a size, see refine()


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
        [1, 3, 5, 8, 12, 18, 26, 38, 52, 68, 80, 90, 95, 98], encode, imagecodecs.jpeg8_decode
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
        functools.partial(imagecodecs.jpeg2k_decode, numthreads=1),
    )


def htj2k(pixels, step):
    return imagecodecs.htj2k_encode(pixels, level=step, reversible=False, rgb=True, resolutions=6)


def jpegxl(effort, slow=False):
    def encode(pixels, distance):
        return imagecodecs.jpegxl_encode(pixels, distance=distance, effort=effort, numthreads=1)

    # From 20 on libjxl halves the picture.
    distances = [25.0, 20.0, 19.9, 15.0, 11.0, 8.0, 6.0, 4.5, 3.3, 2.4, 1.7, 1.2, 0.8, 0.5]
    decode = functools.partial(imagecodecs.jpegxl_decode, numthreads=1)
    return Variant(distances + [0.35, 0.25], encode, decode, slow)


def avif(tune, speed):
    def encode(pixels, quality):
        options = {"advanced": {"tune": tune}} if tune else {}
        return saved(
            pixels,
            "AVIF",
            quality=quality,
            speed=speed,
            subsampling="4:4:4",
            codec="aom",
            autotiling=False,
            max_threads=1,
            **options,
        )

    decode = functools.partial(imagecodecs.avif_decode, numthreads=1)
    if speed < 6:
        grid = [0, 7, 16, 25, 33, 42, 51, 60, 70, 80, 90, 95, 98]
        return Variant(grid, encode, decode, slow=True)
    return Variant([0, 3, 7, 12, 18, 25, 33, 42, 51, 60, 70, 80, 90, 95, 98], encode, decode)


VARIANTS = {
    "JPEG 4:2:0": jpeg("4:2:0"),
    "JPEG 4:4:4": jpeg("4:4:4"),
    "WebP": Variant(
        [0.0, 3.0, 7.0, 13.0, 22.0, 35.0, 50.0, 65.0, 78.0, 88.0, 95.0, 98.0, 100.0],
        webp,
        imagecodecs.webp_decode,
    ),
    "JPEG 2000 one tile": jpeg2000(None),
    "JPEG 2000 512 tiles": jpeg2000(512),
    "HTJ2K": Variant(
        [1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.13, 0.09, 0.065, 0.045, 0.032, 0.022, 0.015, 0.01]
        + [0.007, 0.005],
        htj2k,
        # OpenJPEG decodes it: imagecodecs.htj2k_decode wraps 256 to 0 (2026.3.6).
        functools.partial(imagecodecs.jpeg2k_decode, numthreads=1),
    ),
    "JPEG XL": jpegxl(7),
    "JPEG XL effort 9": jpegxl(9, slow=True),
    "AVIF tune=psnr": avif("psnr", 6),
    "AVIF default tune": avif(None, 6),
    "AVIF speed 4 tune=psnr": avif("psnr", 4),
    "AVIF speed 4 default tune": avif(None, 4),
}

ANCHOR = "JPEG 2000"
PEERS = {  # name -> variants, what it is
    "JPEG": (
        ["JPEG 4:2:0", "JPEG 4:4:4"],
        "better of 4:2:0 and 4:4:4, smaller of sequential and progressive, optimised tables",
    ),
    "WebP": (["WebP"], "method 6"),
    ANCHOR: (
        ["JPEG 2000 one tile"],
        "OpenJPEG codestream, one tile, 9-7 irreversible, colour transform, 6 resolutions",
    ),
    "J2K 512": (["JPEG 2000 512 tiles"], "the same in tiles of 512 x 512"),
    "HTJ2K": (
        ["HTJ2K"],
        "OpenJPH codestream, one tile, 9-7 irreversible, colour transform, 6 decompositions",
    ),
    "JPEG XL": (["JPEG XL", "JPEG XL effort 9"], "better of efforts 7 and 9, bare codestream"),
    "JXL e7": (["JPEG XL"], "effort 7 only"),
    "AVIF": (
        [
            "AVIF tune=psnr",
            "AVIF default tune",
            "AVIF speed 4 tune=psnr",
            "AVIF speed 4 default tune",
        ],
        "aom, 4:4:4, one tile, best of speeds 6 and 4, each with tune=psnr and the default tune",
    ),
    "AVIF s6": (["AVIF tune=psnr", "AVIF default tune"], "speed 6 only, both tunes"),
    "AVIF def.": (["AVIF default tune"], "speed 6 and the default tune only"),
}
ALONE = ("J2K 512", "JXL e7", "AVIF s6", "AVIF def.")  # not in plots

TIMED = {  # in process, one thread; settings as in VARIANTS where a name is there
    "JPEG 2000": VARIANTS["JPEG 2000 one tile"],
    "HTJ2K": Variant(VARIANTS["HTJ2K"].settings, htj2k, imagecodecs.htj2k_decode),
    "JPEG XL, effort 7": VARIANTS["JPEG XL"],
    "WebP, method 6": VARIANTS["WebP"],
    "WebP, method 4": Variant(
        VARIANTS["WebP"].settings,
        lambda pixels, quality: imagecodecs.webp_encode(pixels, level=quality, lossless=False),
        imagecodecs.webp_decode,
    ),
    "AVIF, speed 6": VARIANTS["AVIF tune=psnr"],
    "JPEG, baseline 4:2:0": Variant(
        VARIANTS["JPEG 4:2:0"].settings,
        lambda pixels, quality: imagecodecs.jpeg8_encode(pixels, level=quality, subsampling="420"),
        imagecodecs.jpeg8_decode,
    ),
}


def chosen(names):
    """The peers of these names, always with the anchor; all without names."""
    return {n: p for n, p in PEERS.items() if not names or n in names or n == ANCHOR}


def versions():
    wanted = ("libjxl", "libwebp", "openjph")
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


def refine(points, measure, size, near):
    """Adds points until the two around size are within a factor of near of each other.

    points: of one variant, in the order of their settings; measure: setting -> point."""
    for _ in range(7):
        for i in range(len(points) - 1):
            if points[i]["bytes"] <= size < points[i + 1]["bytes"]:
                break
        else:
            return
        if points[i + 1]["bytes"] < near * points[i]["bytes"]:
            return
        setting = between(points[i]["setting"], points[i + 1]["setting"])
        if setting is None:
            return
        points.insert(i + 1, measure(setting))


def setting_near(variant, pixels, size):
    """The setting whose file is nearest to size, within about 3 %, and that file."""
    known = {}

    def made(setting):
        if setting not in known:
            known[setting] = variant.encode(pixels, setting)
        return known[setting]

    low, high = 0, len(variant.settings) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if len(made(variant.settings[middle])) < size:
            low = middle
        else:
            high = middle
    a, b = variant.settings[low], variant.settings[high]
    for _ in range(6):
        if min(abs(len(data) / size - 1) for data in known.values()) < 0.03:
            break
        middle = between(a, b)
        if middle is None:
            break
        if len(made(middle)) < size:
            a = middle
        else:
            b = middle
    made(a)
    return min(known.items(), key=lambda item: abs(len(item[1]) - size))
