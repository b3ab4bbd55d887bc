#!/usr/bin/env bash
# lossless.sh - size and speed of the lossless layer beside other lossless codecs; see README.md.
# usage: tests/bench/lossless.sh [OPTION...] [FOLDER|FILE...]     (--help lists the options)
# NSVQ_BUILD=FOLDER uses that build as it is; otherwise build/release is brought up to date first.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
exec "$python" "$here/lossless.py" --build "$build" "$@"
