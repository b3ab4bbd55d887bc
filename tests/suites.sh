#!/usr/bin/env bash
# suites.sh SUITE... - all tests with the compiler and the GDAL of other Debian suites (trixie has 3.10, sid what is
# newest), each in a system of its own under build/suites. As root, with debootstrap; takes the last commit.
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

in_suite() { chroot "$root" /usr/bin/env -i HOME=/root LANG=C.UTF-8 PATH=/usr/bin:/bin:/usr/sbin:/sbin "$@"; }

release()
{
    local at
    for at in proc root/shared; do mountpoint -q "$root/$at" && umount "$root/$at"; done
    return 0
}

[ $# -gt 0 ] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }
for suite in "$@"; do
    root=$top/build/suites/$suite
    trap release EXIT
    if [ ! -e "$root/complete" ]; then
        mkdir -p "$root"
        debootstrap --variant=minbase --include=ca-certificates "$suite" "$root" >"$root.log"
        touch "$root/complete"
    fi
    rm -rf "$root/root/main"
    git clone -q "$top" "$root/root/main"
    mkdir -p "$root/root/shared"
    mount -t proc proc "$root/proc"
    [ ! -d "$top/../shared" ] || mount --bind "$top/../shared" "$root/root/shared"
    echo "== $suite"
    in_suite /root/main/setup.sh deps >>"$root.log"
    in_suite gdalinfo --version
    in_suite bash -c 'cd /root/main && cmake --preset release -B build/test -DNSVQ_WERROR=ON >build.log &&
        cmake --build build/test >>build.log || { tail -40 build.log; exit 1; }
        ctest --test-dir build/test --output-on-failure'
    release
done
