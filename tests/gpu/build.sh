# build.sh - sourced by run.sh and train.sh: nsvq-train with --device cuda and nsvq-gpu-check into $build,
# for the GPU of this machine, without driver and tests. Needs a C compiler, CUDA and zlib; GDAL and oneDNN
# are used where they are. With cmake, or, where that is missing or old, with plain command lines.
# NSVQ_CMAKE_ARGS: more arguments for cmake.
top=$(cd "$(dirname "$0")/../.." && pwd)
build=${NSVQ_GPU_BUILD:-$top/build/gpu}
jobs=$(nproc)

with_cmake() {
    # shellcheck disable=SC2086
    cmake -S "$top" -B "$build" -DCMAKE_BUILD_TYPE=Release -DNSVQ_DRIVER=OFF -DNSVQ_TESTS=OFF -DNSVQ_CUDA=ON \
        -DNSVQ_CUDA_ARCHITECTURES="${NSVQ_GPU_ARCH:-native}" $NSVQ_CMAKE_ARGS >"$build/cmake.log" 2>&1 ||
        { cat "$build/cmake.log"; return 1; }
    cmake --build "$build" -j "$jobs" --target nsvq-train nsvq_train_cuda nsvq-gpu-check >"$build/build.log" 2>&1 ||
        { cat "$build/build.log"; return 1; }
}

# compile FOLDER FLAGS... FILES: objects into FOLDER, a few at a time.
compile() {
    mkdir -p "$build/$1"; folder=$1; shift
    flags=; while case $1 in -*) true;; *) false;; esac; do flags="$flags $1"; shift; done
    printf '%s\n' "$@" | xargs -P "$jobs" -I{} sh -c \
        '${CC:-cc} -std=c11 -O3 -fPIC -fno-math-errno -ffp-contract=off -fopenmp -w -DNDEBUG -D_POSIX_C_SOURCE=200809L \
         -I"$1/trainer" -I"$1/codec" -I"$1/kernels" -I"$1/tests/trainer" '"$flags"' -c "$3" -o "$2/$(basename "$3").o"' \
        sh "$top" "$build/$folder" {}
}

with_plain_commands() {
    nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
    cuda=$(dirname "$(dirname "$(readlink -f "$nvcc")")")
    isa=
    if [ "$(uname -m)" = x86_64 ]; then isa='-DNSVQ_HAVE_AVX2=1 -DNSVQ_HAVE_AVX512VNNI=1'; fi
    # shellcheck disable=SC2086
    compile kernels $isa "$top"/kernels/*.c &&
    if [ -n "$isa" ]; then
        compile kernels -mavx2 $isa "$top"/kernels/x86/*_avx2.c &&
        compile kernels -mavx512f -mavx512bw -mavx512vl -mavx512vnni $isa "$top"/kernels/x86/*_avx512vnni.c
    fi &&
    compile model "$top"/codec/model/*.c && compile embed "$top/codec/tool/embed.c" &&
    ${CC:-cc} -o "$build/nsvq-embed" "$build"/embed/*.o "$build"/model/*.o -lz &&
    rm -rf "$build/shipped" && mkdir -p "$build/shipped/models" "$build/codec" &&
    "$build/nsvq-embed" "$build/shipped" $(ls "$top"/data/models/*.nsvqm 2>/dev/null) &&
    compile codec "-DNSVQ_MODEL_FOLDER=\\\"/nowhere\\\"" "$top"/codec/*.c "$build/shipped/shipped.c" &&
    ${CC:-cc} -c "$build/shipped/shipped.S" -o "$build/codec/shipped.S.o" &&
    compile trainer "$top"/trainer/*.c && mkdir -p "$build/trainer/cuda" "$build/main" "$build/tests/gpu" &&
    mv "$build/trainer/main.c.o" "$build/main/" &&
    compile check "$top/tests/gpu/check.c" "$top/tests/trainer/host.c" "$top/tests/trainer/steps.c" &&
    for program in trainer/nsvq-train:main tests/gpu/nsvq-gpu-check:check; do
        ${CC:-cc} -fopenmp -o "$build/${program%:*}" "$build/${program#*:}"/*.o "$build"/trainer/*.o "$build"/codec/*.o \
            "$build"/model/*.o "$build"/kernels/*.o -Wl,-rpath,"$build/trainer/cuda" -lz -lm -ldl -lpthread || return 1
    done &&
    "$nvcc" -std=c++17 -O3 -arch="${NSVQ_GPU_ARCH:-native}" -Xcompiler -fPIC,-fvisibility=hidden -shared -I"$top/trainer" \
        -I"$top/codec" -I"$top/kernels" "$top/trainer/cuda/device.cu" -L"$cuda/lib64" -lcublasLt \
        -Xlinker -rpath,"$cuda/lib64" -o "$build/trainer/cuda/libnsvq_train_cuda.so"
}

build_all() {
    mkdir -p "$build" || return 1
    minor=$(cmake --version 2>/dev/null | sed -n 's/^cmake version \([0-9]*\)\.\([0-9]*\).*/\1 \2/p' | awk '{print 1000 * $1 + $2}')
    if [ "${minor:-0}" -ge 3025 ]; then with_cmake; else with_plain_commands; fi
}

if ! echo '#include <zlib.h>' | ${CC:-cc} -E - >/dev/null 2>&1 && [ -z "$NSVQ_CMAKE_ARGS$CPATH" ]; then
    echo "zlib.h is missing: install zlib1g-dev; or unpack it somewhere and set NSVQ_CMAKE_ARGS=-DZLIB_ROOT=FOLDER," \
        "without cmake CPATH and LIBRARY_PATH" >&2
    exit 1
fi
