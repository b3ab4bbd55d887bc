"""Rate and distortion: the points of every codec on one image, and their comparison."""

import hashlib
import json
import os
import shutil
import subprocess

import numpy as np

import curve
import peers
import quality

RANGES = {"0.1-0.8": (0.1, 0.8), "0.8-2.5": (0.8, 2.5)}  # bpp of the anchor
LADDER = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.5)  # bpp of the anchor
VQ_QUALITIES = (50, 99)  # of FAMILY=VQ, which has its own scale
STRIDE, CODE_BYTES = 16, 6  # flat: 4 codes of 12 bits for 16 x 16 pixels
NO_OVERVIEWS = "OVERVIEWS=NONE"  # the other codecs have none


class Tools:
    """How to run GDAL and nsvq-speed; a folder for files and one for what is known already."""

    def __init__(self, build, work, model):
        self.work = work
        self.cache = os.path.join(os.path.dirname(work), "bench-cache")
        self.speed = os.path.join(build, "tests", "bench", "nsvq-speed")
        self.model = os.path.abspath(model) if model else None
        os.makedirs(self.work, exist_ok=True)
        os.makedirs(self.cache, exist_ok=True)
        self.env = {
            **os.environ,
            "GDAL_DRIVER_PATH": os.path.join(build, "driver"),
            "GDAL_PAM_ENABLED": "NO",
        }
        self.options = []
        self.nsvq = None  # version, kernels, models; None: cannot be measured
        formats = self.run(["gdalinfo", "--formats"])
        if " NSVQ " not in formats or not os.path.exists(self.speed):
            print("NSVQ is not built: only the other codecs are measured")
            return
        self.nsvq = json.loads(self.run([self.speed, *self.model_option(), "-i", "-"]))
        if self.model:  # readers look for <id>.nsvqm
            folder = os.path.join(work, "models")
            os.makedirs(folder, exist_ok=True)
            shutil.copy(self.model, os.path.join(folder, self.nsvq["id"] + ".nsvqm"))
            self.env["NSVQ_MODEL_PATH"] = folder
            self.options = [f"MODEL={self.model}", "EMBED_MODEL=NO"]
            self.nsvq["models"] = [[self.nsvq["model"], self.nsvq["id"]]]
        else:
            self.nsvq["models"] = [self.model_at(1), self.model_at(99)]

    def model_at(self, setting):
        """Name and id of the model that the driver takes at a QUALITY."""
        stem = os.path.join(self.work, "probe")
        with open(stem + ".ppm", "wb") as f:
            f.write(b"P6\n64 64\n255\n" + bytes(3 * 64 * 64))
        self.translate("NSVQ", stem + ".ppm", stem + ".nsvq", [f"QUALITY={setting}"])
        about = json.loads(self.run(["gdalinfo", "-json", "-mdd", "NSVQ", stem + ".nsvq"]))
        os.remove(stem + ".ppm")
        os.remove(stem + ".nsvq")
        return [about["metadata"]["NSVQ"][key] for key in ("MODEL", "MODEL_ID")]

    def model_option(self):
        return ["-m", self.model] if self.model else []

    def run(self, command):
        done = subprocess.run(command, env=self.env, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def translate(self, form, source, target, options=(), window=None):
        if os.path.exists(target):
            os.remove(target)
        words = [word for option in options for word in ("-co", option)]
        words += ["-srcwin", *map(str, window)] if window else []
        self.run(["gdal_translate", "-q", "-of", form, *words, source, target])

    def to_ppm(self, source, target, window=None):
        """Pixels alone: no georeferencing, no metadata. window: x, y, width, height."""
        self.translate("PNM", source, target, window=window)

    def inspect(self, path):
        return json.loads(self.run([self.speed, *self.model_option(), "-i", path]))


def load_ppm(path):
    with open(path, "rb") as f:
        kind, size, top = f.readline(), f.readline(), f.readline()
        if kind.strip() != b"P6" or top.strip() != b"255":
            raise RuntimeError(f"{path}: only RGB of 8 bits")
        width, height = map(int, size.split())
        return np.frombuffer(f.read(), np.uint8).reshape(height, width, 3)


class Cache:
    """Points of the peers on one image: they change with the codecs' versions only."""

    def __init__(self, folder, pixels):
        key = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
        self.path = os.path.join(folder, key[:32] + ".json")
        self.versions = peers.versions()
        self.points = {}
        self.saved = 0  # how many points the file holds
        if os.path.exists(self.path):
            with open(self.path) as f:
                kept = json.load(f)
            if set(kept["versions"].split(", ")) <= set(self.versions):
                self.points = kept["points"]
                self.saved = len(self.points)

    def save(self):
        if len(self.points) == self.saved:
            return
        part = f"{self.path}.{os.getpid()}"
        with open(part, "w") as f:
            json.dump({"versions": ", ".join(self.versions), "points": self.points}, f)
        os.replace(part, self.path)
        self.saved = len(self.points)


def point(pixels, decoded, size, setting):
    return {
        "setting": setting,
        "bytes": size,
        "psnr": quality.psnr(pixels, decoded),
        "msssim": quality.msssim(pixels, decoded),
    }


def measure_variant(name, pixels, cache, size):
    """The points of the grid, up to a large enough file, and those that refine around size (None:
    no refinement)."""
    variant = peers.VARIANTS[name]
    enough = variant.enough * pixels.shape[0] * pixels.shape[1] / 8

    def measure(setting):
        key = f"{name} {setting}"
        if key not in cache.points:
            data = variant.encode(pixels, setting)
            cache.points[key] = point(pixels, variant.decode(data), len(data), setting)
            cache.save()
        return cache.points[key]

    points = []
    for setting in variant.settings:
        points.append(measure(setting))
        if points[-1]["bytes"] >= enough:
            break
    if size:
        peers.refine(points, measure, size, variant.near)
    return points


def pixels_of(tools, picture):
    """The raster as a PPM in the working folder, and its pixels."""
    path = os.path.join(tools.work, f"{picture.set}_{picture.name}_{os.getpid()}.ppm")
    tools.to_ppm(picture.path, path, picture.window)
    return path, load_ppm(path)


def fill_cache(job):
    """Grids of some variants on one image, so that they can be measured beforehand."""
    tools, picture, variants = job
    path, pixels = pixels_of(tools, picture)
    os.remove(path)
    cache = Cache(tools.cache, pixels)
    for variant in variants:
        measure_variant(variant, pixels, cache, None)
    return f"{picture.set}/{picture.name}: {', '.join(variants)}"


def variants_of(names):
    return list(dict.fromkeys(v for members, _ in peers.chosen(names).values() for v in members))


def measure_nsvq(tools, ppm, pixels, qualities, options=()):
    points = []
    for q in qualities:
        coded, back = f"{ppm}_q{q}.nsvq", f"{ppm}_q{q}.ppm"
        words = [f"QUALITY={q}", NO_OVERVIEWS, *options, *tools.options]
        tools.translate("NSVQ", ppm, coded, words)
        tools.to_ppm(coded, back)
        info = tools.inspect(coded)
        if info["embedded"]:
            raise RuntimeError(f"{coded} holds its model")
        points.append(
            {**point(pixels, load_ppm(back), info["bytes"], q), "block_bytes": info["block_bytes"]}
        )
        os.remove(back)
        os.remove(coded)
    return points


def monotone(points):
    """Settings whose next one, a higher QUALITY, has the larger error or the smaller file."""
    pairs = list(zip(points, points[1:]))
    return {
        "worse": [
            [a["setting"], b["setting"], b["psnr"] - a["psnr"]]
            for a, b in pairs
            if b["psnr"] < a["psnr"]
        ],
        "smaller": [
            [a["setting"], b["setting"], b["bytes"] / a["bytes"] - 1]
            for a, b in pairs
            if b["bytes"] < a["bytes"]
        ],
    }


def against_anchor(curves, area):
    """BD-rates over RANGES and size ratios at LADDER, metric by metric."""
    anchor = curves[peers.ANCHOR]
    others = {name: points for name, points in curves.items() if name != peers.ANCHOR}
    bd = {metric: {} for metric in curve.METRICS}
    ladder = {}
    for metric in curve.METRICS:
        for span_name, ends in RANGES.items():
            span = [curve.at_bytes(anchor, metric, bpp * area / 8) for bpp in ends]
            known = None not in span
            row = bd[metric][span_name] = {"span": span if known else None, "codecs": {}}
            for name, points in others.items() if known else ():
                shared = curve.common(span, curve.span_of(points, metric))
                row["codecs"][name] = {
                    "range": shared,
                    "percent": curve.bd_rate(points, anchor, metric, shared),
                }
        sizes = [bpp * area / 8 for bpp in LADDER]
        ladder[metric] = {
            name: [
                None if np.isnan(r) else 100 * np.expm1(r)
                for r in curve.log_ratios(points, anchor, metric, sizes)
            ]
            for name, points in others.items()
        }
    return bd, ladder


def compare(image, curves, default):
    """Against the anchor; NSVQ against each codec over all of their common range, and at equal
    bytes."""
    area = image["width"] * image["height"]
    nsvq = image["nsvq"]
    rows = {"NSVQ": [nsvq], **curves} if nsvq else curves
    image["bd_anchor"], image["ladder"] = against_anchor(rows, area)
    if not nsvq:
        return
    image["monotone"] = monotone(nsvq)
    image["bd_nsvq"] = {metric: {} for metric in curve.METRICS}
    image["equal_bytes"] = {}
    at = next(p for p in nsvq if p["setting"] == default)
    for name, points in curves.items():
        row = image["equal_bytes"][name] = {}
        for metric in curve.METRICS:
            shared = curve.common(curve.span_of([nsvq], metric), curve.span_of(points, metric))
            image["bd_nsvq"][metric][name] = {
                "range": shared,
                "percent": curve.bd_rate([nsvq], points, metric, shared),
            }
            value = curve.at_bytes(points, metric, at["bytes"])
            row[metric] = None if value is None else curve.decibels(at, metric) - value
    if image["vq"]:
        image["prior"] = prior(image)


def prior(image):
    """What entropy coding saves of the codes of FAMILY=VQ."""
    flat = CODE_BYTES * -(-image["width"] // STRIDE) * -(-image["height"] // STRIDE)
    usual, best = image["vq"]
    return {
        "flat_bpp": 8 * flat / (image["width"] * image["height"]),
        "saving_best": 1 - best["bytes"] / flat,
        "saving_best_blocks": 1 - best["block_bytes"] / flat,
        "saving_default": 1 - usual["bytes"] / flat,
        "psnr_cost_default": best["psnr"] - usual["psnr"],
    }


def measure_image(job):
    tools, picture, args = job
    path, pixels = pixels_of(tools, picture)
    nsvq, vq = [], []
    if tools.nsvq:
        nsvq = measure_nsvq(tools, path, pixels, args.quality)
        if not tools.model:
            vq = measure_nsvq(tools, path, pixels, VQ_QUALITIES, ["FAMILY=VQ"])
    os.remove(path)

    size = next((p["bytes"] for p in nsvq if p["setting"] == args.default_quality), None)
    cache = Cache(tools.cache, pixels)
    variants = {v: measure_variant(v, pixels, cache, size) for v in variants_of(args.peers)}
    curves = {
        name: [variants[v] for v in members]
        for name, (members, _) in peers.chosen(args.peers).items()
    }
    image = {
        "set": picture.set,
        "name": picture.name,
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "scales": quality.n_scales(pixels.shape),
        "nsvq": nsvq,
        "vq": vq,
        "variants": variants,
    }
    compare(image, curves, args.default_quality)
    return image


def mean(values):
    """Mean, smallest and largest of those that are there, and how many."""
    known = [v for v in values if v is not None]
    return {
        "mean": float(np.mean(known)) if known else None,
        "min": min(known, default=None),
        "max": max(known, default=None),
        "n": len(known),
        "of": len(values),
    }


def summarise_set(images):
    first = images[0]
    out = {"bd_anchor": {}, "ladder": {}}
    for metric in curve.METRICS:
        names = list(first["ladder"][metric])
        out["bd_anchor"][metric] = {
            span: {
                name: mean(
                    [
                        i["bd_anchor"][metric][span]["codecs"].get(name, {}).get("percent")
                        for i in images
                    ]
                )
                for name in names
            }
            for span in RANGES
        }
        out["ladder"][metric] = {
            name: [mean(column) for column in zip(*(i["ladder"][metric][name] for i in images))]
            for name in names
        }
    if first["nsvq"]:
        out["bd_nsvq"] = {
            metric: {
                name: mean([i["bd_nsvq"][metric][name]["percent"] for i in images])
                for name in first["bd_nsvq"][metric]
            }
            for metric in curve.METRICS
        }
        out["equal_bytes"] = {
            name: {
                metric: mean([i["equal_bytes"][name][metric] for i in images])
                for metric in curve.METRICS
            }
            for name in first["equal_bytes"]
        }
    if "prior" in first:
        out["prior"] = {k: mean([i["prior"][k] for i in images]) for k in first["prior"]}
    return out


def summarise(images):
    """Set -> means over its images; where there are sipi images, also without them."""
    out = {}
    for name in dict.fromkeys(i["set"] for i in images):
        members = [i for i in images if i["set"] == name]
        out[name] = summarise_set(members)
        rest = [i for i in members if not i["name"].startswith("sipi")]
        if rest and len(rest) < len(members):
            out[name + " without sipi"] = summarise_set(rest)
    return out
