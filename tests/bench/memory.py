"""Peak memory of converting a large raster, from VmHWM of the converting process."""

import os
import re
import subprocess
import sys
import time

import mosaic

CACHE_MB = 64  # of GDAL's blocks; its default depends on the machine
SOURCE_SIDE = 4096


def peak_of(command, env):
    """Seconds, MiB. The peak is polled: wait4() would give the parent's where that is larger."""
    start = time.perf_counter()
    child = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    peak = 0
    while child.poll() is None:
        try:
            with open(f"/proc/{child.pid}/status") as f:
                found = re.search(r"VmHWM:\s+(\d+) kB", f.read())
            peak = max(peak, int(found.group(1)) if found else 0)
        except OSError:
            pass
        time.sleep(0.02)
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {child.returncode}")
    return {"seconds": time.perf_counter() - start, "peak_mib": peak / 1024}


def measure(tools, pictures, side):
    source = os.path.join(tools.work, "memory.tif")
    picture = os.path.join(tools.work, "memory.ppm")
    mosaic.save(picture, mosaic.pixels(tools, pictures, min(side, SOURCE_SIDE)))
    tools.translate("GTiff", picture, source, ["TILED=YES", "BLOCKXSIZE=512", "BLOCKYSIZE=512"])
    os.remove(picture)
    vrt = os.path.join(tools.work, "memory.vrt")
    mosaic.save_vrt(vrt, source, min(side, SOURCE_SIDE), side)

    env = {**tools.env, "GDAL_CACHEMAX": str(CACHE_MB), "GDAL_NUM_THREADS": "2"}
    nsvq, jpeg = os.path.join(tools.work, "memory.nsvq"), os.path.join(
        tools.work, "memory_jpeg.tif"
    )
    jpeg_options = ["-co", "TILED=YES", "-co", "COMPRESS=JPEG", "-co", "PHOTOMETRIC=YCBCR"]
    nsvq_options = [word for option in tools.options for word in ("-co", option)]
    table = {}
    for name, arguments in {
        "raster to JPEG in GTiff": ["-of", "GTiff", *jpeg_options, vrt, jpeg],
        "raster to NSVQ": ["-of", "NSVQ", *nsvq_options, vrt, nsvq],
        "NSVQ to JPEG in GTiff": ["-of", "GTiff", *jpeg_options, nsvq, jpeg],
    }.items():
        print(f"memory: {name}", file=sys.stderr)
        table[name] = peak_of(["gdal_translate", "-q", *arguments], env)
    for path in (source, vrt, nsvq, jpeg):
        os.remove(path)
    return {"side": side, "cache_mib": CACHE_MB, "threads": 2, "conversions": table}
