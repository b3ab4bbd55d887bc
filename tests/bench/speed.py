"""Speed of NSVQ and other codecs: in process with one thread, NSVQ alone with more threads, and
through GDAL beside other drivers (gdal_times.py)."""

import json
import os
import sys
import time

import mosaic
import peers
import quality
import rate

HERE = os.path.dirname(os.path.abspath(__file__))
COMPARED_SIDE = 2048  # in process beside other codecs


def model_file(tools, setting):
    """The model that the driver takes at this QUALITY; None where its file is not at hand."""
    if tools.model:
        return tools.model
    name, number = tools.model_at(setting)
    path = os.path.join(HERE, "..", "..", "data", "models", name + ".nsvqm")
    if not os.path.exists(path):
        return None
    known = json.loads(tools.run([tools.speed, "-m", path, "-i", "-"]))
    return path if known["id"] == number else None


def time_nsvq(tools, model, picture, setting, threads, runs):
    command = [tools.speed, "-m", model, "-n", str(runs), "-q", str(setting), "-t", threads]
    return json.loads(tools.run([*command, picture]))


def file_of(tools, picture, setting):
    """Size and PSNR of what the driver makes, without overviews."""
    coded, back = picture + ".nsvq", picture + ".back"
    words = [f"QUALITY={setting}", rate.NO_OVERVIEWS, *tools.options]
    tools.translate("NSVQ", picture, coded, words)
    tools.to_ppm(coded, back)
    size = os.path.getsize(coded)
    psnr = quality.psnr(rate.load_ppm(picture), rate.load_ppm(back))
    os.remove(coded)
    os.remove(back)
    return size, psnr


def time_codecs(tools, model, side, pictures, args):
    """One thread, everybody at NSVQ's size without overviews, in turns: run after run."""
    pixels = mosaic.pixels(tools, pictures, side)
    picture = os.path.join(tools.work, "compared.ppm")
    mosaic.save(picture, pixels)
    mega = side * side / 1e6
    size, psnr = file_of(tools, picture, args.default_quality)
    table = {"NSVQ": {"bpp": 8 * size / (side * side), "psnr": psnr, "encode": [], "decode": []}}
    settings = {}
    for name in (n for n in peers.TIMED if not args.quick or not n.startswith("AVIF")):
        variant = peers.TIMED[name]
        settings[name], data = peers.setting_near(variant, pixels, size)
        decoded = peers.VARIANTS.get(name, variant).decode(data)  # HTJ2K: not the timed decoder
        table[name] = {
            "setting": settings[name],
            "bpp": 8 * len(data) / (side * side),
            "psnr": quality.psnr(pixels, decoded),
            "encode": [],
            "decode": [],
        }
    for _ in range(args.runs):
        once = time_nsvq(tools, model, picture, args.default_quality, "1", 1)["threads"]["1"]
        table["NSVQ"]["encode"] += [mega / s for s in once["encode_s"]]
        table["NSVQ"]["decode"] += [mega / s for s in once["decode_s"]]
        for name, setting in settings.items():
            variant = peers.TIMED[name]
            start = time.perf_counter()
            data = variant.encode(pixels, setting)
            middle = time.perf_counter()
            variant.decode(data)
            table[name]["encode"].append(mega / (middle - start))
            table[name]["decode"].append(mega / (time.perf_counter() - middle))
    os.remove(picture)
    return {"side": side, "codecs": table}


def measure(tools, pictures, side, args):
    result = {}
    picture = os.path.join(tools.work, "mosaic.ppm")
    mosaic.save(picture, mosaic.pixels(tools, pictures, side))
    setting = args.default_quality
    model = model_file(tools, setting)
    if model:
        print("speed in process", file=sys.stderr)
        result["in_process"] = time_nsvq(tools, model, picture, setting, "1,2", args.runs)
        print("speed beside other codecs", file=sys.stderr)
        result["codecs"] = time_codecs(tools, model, min(side, COMPARED_SIDE), pictures, args)
    else:
        print("speed in process: left out, no file of the model", file=sys.stderr)
    print("speed through GDAL", file=sys.stderr)
    result["gdal"] = json.loads(
        tools.run(
            [
                sys.executable,
                os.path.join(HERE, "gdal_times.py"),
                "--source",
                picture,
                "--folder",
                tools.work,
                "--runs",
                str(args.runs),
                "--threads",
                "1",
                "2",
                "--nsvq",
                f"QUALITY={setting}",
                *tools.options,
            ]
        )
    )
    os.remove(picture)
    return result
