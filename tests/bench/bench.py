"""Rate, distortion, speed and memory of NSVQ beside other codecs; README.md defines the figures."""

import argparse
import datetime
import json
import multiprocessing
import os
import sys

import machine
import memory
import rate
import report
import speed

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
VALID = os.path.join(TOP, "..", "shared", "data", "valid")
PARTS = ("rate", "speed", "memory")


def parse_arguments():
    parser = argparse.ArgumentParser(prog="bench.sh", description=__doc__)
    parser.add_argument("--build", required=True, help="build folder (bench.sh gives it)")
    parser.add_argument(
        "--model",
        help="model file instead of the library's default; not counted, as if it were shipped",
    )
    parser.add_argument("--quality", type=int, nargs="+", default=[1, 20, 35, 50, 65, 80, 100])
    parser.add_argument("--default-quality", type=int, default=50)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
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
    args.quality = sorted(set(args.quality) | {args.default_quality, 100})
    return args


def list_images(paths):
    """Set -> files. A set is a folder."""
    if not paths:
        paths = [os.path.join(VALID, "aerial")]
        satellite = os.path.join(VALID, "satellite")
        paths += [os.path.join(satellite, n) for n in os.listdir(satellite) if "RGB" in n]
    sets = {}
    for path in paths:
        files = [path]
        if os.path.isdir(path):
            files = [
                os.path.join(path, n) for n in os.listdir(path) if n.endswith((".tif", ".tiff"))
            ]
        for file in files:
            folder = os.path.basename(os.path.dirname(os.path.abspath(file)))
            sets.setdefault(folder, []).append(file)
    return {name: sorted(files) for name, files in sets.items()}


def main():
    args = parse_arguments()
    tools = rate.Tools(args.build, os.path.join(TOP, "build", "bench"), args.model)
    sets = list_images(args.images)
    if args.quick:
        name = sorted(sets)[0]
        sets = {name: sets[name][:2]}
        args.quality = [20, args.default_quality, 100]
        args.runs = 2
    result = {"about": machine.about(TOP, tools, args)}
    images = [(name, file) for name in sets for file in sets[name]]

    if "rate" in args.parts:
        jobs = [(tools, name, file, args.quality, args.default_quality) for name, file in images]
        with multiprocessing.Pool(args.jobs) as pool:
            done = []
            for one in pool.imap(rate.measure_image, jobs, chunksize=1):
                done.append(one)
                print(f"{len(done)}/{len(jobs)} {one['set']}/{one['name']}", file=sys.stderr)
        result["rate"] = {"images": done, "sets": rate.summarise(done)}
    if tools.nsvq and "speed" in args.parts:
        side = 1024 if args.quick else 4096
        result["speed"] = speed.measure(tools, [f for _, f in images], side, args)
    if tools.nsvq and "memory" in args.parts:
        result["memory"] = memory.measure(
            tools, [f for _, f in images], 4000 if args.quick else 20000
        )

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
