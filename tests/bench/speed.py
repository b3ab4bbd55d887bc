"""Speed of NSVQ in process (nsvq-speed) and through GDAL beside other drivers (gdal_times.py)."""

import json
import os
import sys

import mosaic

HERE = os.path.dirname(os.path.abspath(__file__))


def measure(tools, files, side, args):
    picture = os.path.join(tools.work, "mosaic.ppm")
    mosaic.save(picture, mosaic.pixels(tools, files, side))
    quality = str(args.default_quality)
    print("speed in process", file=sys.stderr)
    in_process = json.loads(
        tools.run(
            [
                tools.speed,
                "-n",
                str(args.runs),
                "-q",
                quality,
                "-t",
                "1,2",
                *tools.model_option(),
                picture,
            ]
        )
    )
    print("speed through GDAL", file=sys.stderr)
    through_gdal = json.loads(
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
                f"QUALITY={quality}",
                *tools.options,
            ]
        )
    )
    os.remove(picture)
    return {"in_process": in_process, "gdal": through_gdal}
