# common.sh - sourced by the benchmarks: brings build/release up to date, unless NSVQ_BUILD names a build, and makes
# build/bench-venv, a Python with imagecodecs and GDAL. Sets $here, $build, $python.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
venv=$top/build/bench-venv
python=$venv/bin/python

build=$top/build/release
if [ -n "${NSVQ_BUILD:-}" ]; then
    build=$(realpath "$NSVQ_BUILD")
else
    "$top/setup.sh" build
fi

if [ ! -e "$venv/complete" ]; then
    # Debian's Python: its osgeo belongs to the GDAL that the driver is built for.
    if ! /usr/bin/python3 -c 'import ensurepip, osgeo' 2>/dev/null; then
        echo "missing: apt-get install python3-venv python3-gdal" >&2
        exit 1
    fi
    rm -rf "$venv"
    /usr/bin/python3 -m venv --system-site-packages "$venv"
    "$venv/bin/pip" install -q --upgrade imagecodecs numpy matplotlib pillow
    touch "$venv/complete"
fi
