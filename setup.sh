#!/usr/bin/env bash
# setup.sh - from a fresh clone on Debian or Ubuntu to a working NSVQ, without a question asked.
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

packages="build-essential cmake ninja-build pkg-config libgdal-dev gdal-bin python3-gdal
python3-numpy python3-pytest libdnnl-dev libcmocka-dev zlib1g-dev"
# What the tests open files with; where one cannot be had, its test is skipped.
clients="python3-rasterio python3-rioxarray python3-qgis"

usage()
{
    cat <<'USAGE'
usage: ./setup.sh COMMAND

  deps            install the Debian packages that building and testing need
  build           deps, then an optimised build in build/release
  demo [FILE...]  build, then compress sample scenes (or FILEs) and compare with JPEG 2000
  test            deps, a build with warnings as errors in build/test, all tests
  install         build, then install: GDAL programs and QGIS open .nsvq from then on

Every command may be repeated. Run as root, or as a user who may use sudo.
USAGE
}

as_root()
{
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

deps()
{
    local missing=() package
    for package in $packages ${1:-}; do
        dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
            missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "installing: ${missing[*]}"
    as_root apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends \
        "${missing[@]}"
}

build()
{
    cmake --preset release -S "$top" >/dev/null
    cmake --build "$top/build/release"
}

run_demo()
{
    local folder="$top/build/demo"
    mkdir -p "$folder"
    if [ $# = 0 ]; then
        "$top/build/release/data/nsvq-scenes" --count 3 --size 1536 "$folder"
        set -- "$folder"/scene*.tif
    fi
    GDAL_DRIVER_PATH="$top/build/release/driver" /usr/bin/python3 "$top/data/compare.py" \
        --folder "$folder" "$@"
    cat <<TEXT

Converted files are in build/demo. To look at one in QGIS, drag it into the window, after
    ./setup.sh install
or without installing anything:
    GDAL_DRIVER_PATH="$top/build/release/driver" qgis build/demo/*.nsvq
Your own imagery: ./setup.sh demo FILE, or gdal_translate -of NSVQ -co QUALITY=50 in.tif out.nsvq
TEXT
}

run_tests()
{
    cmake --preset release -S "$top" -B "$top/build/test" -DNSVQ_WERROR=ON >/dev/null
    cmake --build "$top/build/test"
    ctest --test-dir "$top/build/test" --output-on-failure
}

command=${1:-}
[ $# = 0 ] || shift
for file in "$@"; do # later steps may run in another folder
    set -- "$@" "$(realpath "$file")"
    shift
done
cd "$top"
case $command in
deps)
    deps
    ;;
build)
    deps
    build
    ;;
demo)
    deps
    build
    run_demo "$@"
    ;;
test)
    deps "$clients"
    run_tests
    ;;
install)
    deps
    build
    as_root cmake --install build/release
    as_root ldconfig
    env -u GDAL_DRIVER_PATH gdalinfo --format NSVQ >/dev/null
    echo "installed: gdalinfo --format NSVQ describes the driver"
    ;;
*)
    usage >&2
    exit 2
    ;;
esac
