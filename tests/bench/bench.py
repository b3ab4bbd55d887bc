"""Rate, distortion, speed and memory of NSVQ beside other codecs; README.md defines the figures."""

import argparse
import collections
import datetime
import json
import multiprocessing
import os
import sys

import machine
import memory
import peers
import rate
import report
import speed

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
VALID = os.path.join(TOP, "..", "shared", "data", "valid")
PARTS = ("rate", "speed", "memory")
QUALITIES = [1, 4, 7, 9, 10, 14, 18, 23, 28, 34, 40, 46, 50, 56, 62, 69, 76, 84, 92, 97]
SIDECARS = (".aux.xml", ".ovr", ".msk")
SMALLEST = 32  # pixels of side
Picture = collections.namedtuple("Picture", "set name path window")  # window: None = all


def parse_arguments():
    parser = argparse.ArgumentParser(prog="bench.sh", description=__doc__)
    parser.add_argument("--build", required=True, help="build folder (bench.sh gives it)")
    parser.add_argument(
        "--model",
        help="model file instead of the library's default; not counted, as if it were shipped",
    )
    parser.add_argument(
        "--options", nargs="+", default=[], metavar="NAME=VALUE", help="further creation options of NSVQ"
    )
    parser.add_argument("--quality", type=int, nargs="+", default=QUALITIES)
    parser.add_argument("--default-quality", type=int, default=50)
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS + ("peers",),
        default=PARTS,
        help="peers: only fills the cache of the other codecs' points, and reports nothing",
    )
    parser.add_argument(
        "--peers",
        nargs="+",
        choices=list(peers.PEERS),
        help=f"some of them; {peers.ANCHOR} is always there",
    )
    parser.add_argument(
        "--window",
        type=int,
        default=2048,
        help="of larger rasters only the middle, so many pixels square",
    )
    parser.add_argument("--runs", type=int, default=5, help="of every timing")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), help="images at a time, while no timing runs"
    )
    parser.add_argument(
        "--quick", action="store_true", help="two images, small rasters: a smoke test"
    )
    parser.add_argument("--name", help="of the result files, instead of date and machine")
    parser.add_argument("--results", default=os.path.join(HERE, "results"))
    parser.add_argument("images", nargs="*", metavar="FOLDER|FILE")
    args = parser.parse_args()
    args.quality = sorted(set(args.quality) | {args.default_quality})
    return args


def list_files(paths):
    """Set -> files. A set is a folder."""
    if not paths:
        paths = [os.path.join(VALID, "aerial")]
        satellite = os.path.join(VALID, "satellite")
        if not os.path.isdir(satellite):
            sys.exit("no images: give a folder or files")
        paths += [os.path.join(satellite, n) for n in os.listdir(satellite) if "RGB" in n]
    sets = {}
    for path in paths:
        files = [path]
        if os.path.isdir(path):
            files = [os.path.join(path, n) for n in os.listdir(path) if not n.startswith(".")]
            files = [f for f in files if os.path.isfile(f) and not f.endswith(SIDECARS)]
        for file in files:
            folder = os.path.basename(os.path.dirname(os.path.abspath(file)))
            sets.setdefault(folder, []).append(file)
    return {name: sorted(files) for name, files in sets.items()}


def unfit(raster):
    """Why a raster cannot be measured (what gdalinfo says of it), None if it can."""
    bands = raster["bands"]
    kinds = [b["type"] for b in bands]
    if kinds != ["Byte"] * 3:
        return f"{len(kinds)} x {kinds[0]}" if kinds else "no bands"
    if any(b["colorInterpretation"] in ("Palette", "Alpha") for b in bands):
        return "no RGB"
    if min(raster["size"]) < SMALLEST:
        return f"under {SMALLEST} pixels of side"
    return None


def list_pictures(tools, paths, window):
    """The RGB rasters of 8 bits among these files, and what was left out."""
    pictures, left_out = [], []
    for name, files in list_files(paths).items():
        for file in files:
            try:
                raster = json.loads(tools.run(["gdalinfo", "-json", file]))
                reason = unfit(raster)
            except RuntimeError:
                reason = "not a raster"
            if reason:
                left_out.append(f"{file}: {reason}")
                continue
            w, h = raster["size"]
            part = None
            if max(w, h) > window:
                part = (max(w - window, 0) // 2, max(h - window, 0) // 2)
                part += (min(w, window), min(h, window))
            stem = os.path.splitext(os.path.basename(file))[0]
            pictures.append(Picture(name, stem, file, part))
    return pictures, left_out


def measure_rates(tools, pictures, args):
    jobs = [(tools, picture, args) for picture in pictures]
    done = []
    with multiprocessing.Pool(args.jobs) as pool:
        for one in pool.imap(rate.measure_image, jobs, chunksize=1):
            done.append(one)
            print(f"{len(done)}/{len(jobs)} {one['set']}/{one['name']}", file=sys.stderr)
    return {"images": done, "sets": rate.summarise(done)}


def fill_cache(tools, pictures, args):
    """The fast variants of all images, then the slow ones one by one. No image is in two processes
    at a time: they would write the same file."""
    names = rate.variants_of(args.peers)
    slow = [n for n in names if peers.VARIANTS[n].slow]
    with multiprocessing.Pool(args.jobs) as pool:
        for group in [[n for n in names if n not in slow]] + [[n] for n in slow]:
            jobs = [(tools, picture, group) for picture in pictures]
            for line in pool.imap(rate.fill_cache, jobs, chunksize=1):
                print(line, file=sys.stderr, flush=True)


def main():
    args = parse_arguments()
    tools = rate.Tools(args.build, os.path.join(TOP, "build", "bench"), args.model)
    tools.options += args.options
    pictures, left_out = list_pictures(tools, args.images, args.window)
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    if not pictures:
        sys.exit("no RGB raster of 8 bits among these")
    if args.quick:
        pictures = [p for p in pictures if p.set == pictures[0].set][:2]
        args.quality = sorted({5, 20, 80, args.default_quality})
        args.peers = args.peers or ["JPEG", "WebP", "HTJ2K", "JXL e7"]
        args.runs = 2
    if "peers" in args.parts:
        fill_cache(tools, pictures, args)
        return
    result = {"about": machine.about(TOP, tools, args)}
    result["about"]["left_out"] = left_out
    result["about"]["windows"] = {f"{p.set}/{p.name}": p.window for p in pictures if p.window}

    if "rate" in args.parts:
        result["rate"] = measure_rates(tools, pictures, args)
    if tools.nsvq and "speed" in args.parts:
        side = 1024 if args.quick else 4096
        result["speed"] = speed.measure(tools, pictures, side, args)
    if tools.nsvq and "memory" in args.parts:
        result["memory"] = memory.measure(tools, pictures, 4000 if args.quick else 20000)

    os.makedirs(args.results, exist_ok=True)
    stem = os.path.join(
        args.results, args.name or f"{datetime.date.today()}-{result['about']['machine']}"
    )
    text = report.text(result)
    print(text, end="")
    with open(stem + ".txt", "w") as f:
        f.write(text)
    with open(stem + ".json", "w") as f:
        json.dump(result, f, indent=1)
    if "rate" in result:
        report.plot(result, stem)


if __name__ == "__main__":
    main()
