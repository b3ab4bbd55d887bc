#!/bin/sh
# tests/gpu/run.sh - the trainer's GPU backend on this machine's GPU: builds it, checks every kernel, product
# and step against the CPU's, and prints its speed. NSVQ_GPU_BUILD: build folder (build/gpu).
. "$(dirname "$0")/build.sh"
build_all || exit 1
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader 2>/dev/null
"$build/tests/gpu/nsvq-gpu-check" || exit 1
for preset in hyper16 hyper8; do
    for batch in 8 32 128; do
        "$build/trainer/nsvq-train" bench --device cuda --preset $preset --batch $batch >"$build/bench" || exit 1
        if [ $batch = 32 ]; then cat "$build/bench"; else head -2 "$build/bench"; fi
    done
done
