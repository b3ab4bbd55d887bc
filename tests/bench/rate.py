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
STRIDE, CODE_BYTES = 16, 6  # flat: 4 codes of 12 bits for 16 x 16 pixels


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
        self.nsvq = None  # the library's version, model, id; None: cannot be measured
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

    def model_option(self):
        return ["-m", self.model] if self.model else []

    def run(self, command):
        done = subprocess.run(command, env=self.env, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def translate(self, form, source, target, options=()):
        if os.path.exists(target):
            os.remove(target)
        co = [word for option in options for word in ("-co", option)]
        self.run(["gdal_translate", "-q", "-of", form, *co, source, target])

    def to_ppm(self, source, target):
        """Pixels alone: no georeferencing, no metadata."""
        self.translate("PNM", source, target)

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
        self.versions = ", ".join(peers.versions())
        self.points = {}
        if os.path.exists(self.path):
            with open(self.path) as f:
                kept = json.load(f)
            if kept["versions"] == self.versions:
                self.points = kept["points"]

    def save(self):
        with open(self.path, "w") as f:
            json.dump({"versions": self.versions, "points": self.points}, f)


def point(pixels, decoded, size, setting):
    return {
        "setting": setting,
        "bytes": size,
        "psnr": quality.psnr(pixels, decoded),
        "msssim": quality.msssim(pixels, decoded),
    }


def measure_variant(name, pixels, cache, size):
    """All grid points, and those that refine around size (None: no refinement)."""
    variant = peers.VARIANTS[name]

    def measure(setting):
        key = f"{name} {setting}"
        if key not in cache.points:
            data = variant.encode(pixels, setting)
            cache.points[key] = point(pixels, variant.decode(data), len(data), setting)
        return cache.points[key]

    points = [measure(s) for s in variant.settings]
    if size:
        peers.refine(points, measure, size)
    return points


def measure_nsvq(tools, stem, ppm, pixels, qualities):
    points = []
    for q in qualities:
        coded, back = f"{stem}_q{q}.nsvq", f"{stem}_q{q}.ppm"
        tools.translate("NSVQ", ppm, coded, [f"QUALITY={q}", *tools.options])
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


def compare(image, nsvq, curves, default):
    """At equal bytes, and BD-rates."""
    anchor = curves[peers.ANCHOR]
    area = image["width"] * image["height"]
    spans = {}
    for name, (low, high) in RANGES.items():
        ends = [curve.at_bytes(anchor, "psnr", bpp * area / 8) for bpp in (low, high)]
        if None not in ends:
            spans[name] = tuple(ends)
    image["bd_anchor"] = {name: {} for name in RANGES}
    rows = {"NSVQ": [nsvq], **curves} if nsvq else curves
    for span_name, span in spans.items():
        for name, points in rows.items():
            if name == peers.ANCHOR:
                continue
            shared = curve.common(span, curve.psnr_range(points))
            image["bd_anchor"][span_name][name] = {
                "range": shared,
                "percent": curve.bd_rate(points, anchor, shared),
            }
    if not nsvq:
        return
    image["bd_nsvq"], image["equal_bytes"] = {}, {}
    at = next(p for p in nsvq if p["setting"] == default)
    for name, points in curves.items():
        shared = curve.common(curve.psnr_range([nsvq]), curve.psnr_range(points))
        image["bd_nsvq"][name] = {"range": shared, "percent": curve.bd_rate([nsvq], points, shared)}
        row = image["equal_bytes"][name] = {}
        for metric in ("psnr", "msssim"):
            row[metric] = curve.at_bytes(points, metric, at["bytes"])
            row[metric + "_gain"] = None if row[metric] is None else at[metric] - row[metric]
    flat = CODE_BYTES * -(-image["width"] // STRIDE) * -(-image["height"] // STRIDE)
    best = nsvq[-1]
    image["prior"] = {
        "flat_bytes": flat,
        "flat_bpp": 8 * flat / area,
        "saving_100": 1 - best["bytes"] / flat,
        "saving_100_blocks": 1 - best["block_bytes"] / flat,
        "saving_default": 1 - at["bytes"] / flat,
        "psnr_cost_default": best["psnr"] - at["psnr"],
    }


def measure_image(job):
    tools, set_name, path, qualities, default = job
    name = os.path.splitext(os.path.basename(path))[0]
    stem = os.path.join(tools.work, f"{set_name}_{name}")
    tools.to_ppm(path, stem + ".ppm")
    pixels = load_ppm(stem + ".ppm")
    nsvq = measure_nsvq(tools, stem, stem + ".ppm", pixels, qualities) if tools.nsvq else []
    os.remove(stem + ".ppm")

    size = next((p["bytes"] for p in nsvq if p["setting"] == default), None)
    cache = Cache(tools.cache, pixels)
    variants = {v: measure_variant(v, pixels, cache, size) for v in peers.VARIANTS}
    cache.save()
    curves = {name: [variants[v] for v in names] for name, (names, _) in peers.PEERS.items()}
    image = {
        "set": set_name,
        "name": name,
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "scales": quality.n_scales(pixels.shape),
        "nsvq": nsvq,
        "variants": variants,
    }
    compare(image, nsvq, curves, default)
    return image


def mean(values):
    """Mean of those that are there, and how many."""
    known = [v for v in values if v is not None]
    return {"mean": float(np.mean(known)) if known else None, "n": len(known), "of": len(values)}


def summarise_set(images):
    out = {"bd_anchor": {}}
    names = list(peers.PEERS)
    for span in RANGES:
        out["bd_anchor"][span] = {
            name: mean([i["bd_anchor"][span].get(name, {}).get("percent") for i in images])
            for name in ["NSVQ"] + names
            if name != peers.ANCHOR
        }
    if images[0]["nsvq"]:
        out["bd_nsvq"] = {n: mean([i["bd_nsvq"][n]["percent"] for i in images]) for n in names}
        out["equal_bytes"] = {
            n: {
                m: mean([i["equal_bytes"][n][m + "_gain"] for i in images])
                for m in ("psnr", "msssim")
            }
            for n in names
        }
        out["prior"] = {k: mean([i["prior"][k] for i in images]) for k in images[0]["prior"]}
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
