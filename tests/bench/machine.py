"""What the figures were taken with: processor, commit, model, versions."""

import datetime
import os
import re
import subprocess

import peers


def processor():
    with open("/proc/cpuinfo") as f:
        names = re.findall(r"^model name\s*: (.*)$", f.read(), re.M)
    return names[0] if names else os.uname().machine


def commit(top):
    command = ["git", "-C", top, "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"


def about(top, tools, args):
    gdal = subprocess.run(["gdalinfo", "--version"], capture_output=True, text=True).stdout.strip()
    slug = re.sub(r"[^a-z0-9]+", "-", processor().lower()).strip("-")
    return {
        "date": str(datetime.date.today()),
        "processor": processor(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "machine": f"{slug}-{os.cpu_count()}cpu",
        "commit": commit(top),
        "nsvq": tools.nsvq,
        "default_quality": args.default_quality,
        "qualities": args.quality,
        "quick": args.quick,
        "runs": args.runs,
        "gdal": gdal,
        "versions": peers.versions(),
        "peers": {name: text for name, (_, text) in peers.chosen(args.peers).items()},
    }
