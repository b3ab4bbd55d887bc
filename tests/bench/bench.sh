#!/usr/bin/env bash
# bench.sh - rate, distortion, speed and memory of NSVQ beside other codecs; see README.md.
# usage: tests/bench/bench.sh [OPTION...] [FOLDER|FILE...]     (--help lists the options)
# NSVQ_BUILD=FOLDER uses that build as it is; otherwise build/release is brought up to date first.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
exec "$python" "$here/bench.py" --build "$build" "$@"
