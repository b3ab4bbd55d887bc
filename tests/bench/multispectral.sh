#!/usr/bin/env bash
# multispectral.sh - PSNR of lossy coding of 16 bits and floats beside JPEG 2000 at the same size; see README.md.
# usage: tests/bench/multispectral.sh [FILE...]
# NSVQ_BUILD=FOLDER uses that build as it is; otherwise build/release is brought up to date first.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# Debian's own Python: GDAL's arrays need its numpy.
GDAL_DRIVER_PATH=$build/driver exec /usr/bin/python3 "$here/multispectral.py" "$@"
