#!/bin/sh
# tests/gpu/train.sh PACK MINUTES FOLDER [options of nsvq-train] - the one command for a borrowed GPU: builds,
# trains (hyper family, on the GPU but for the quantisation-aware end), writes FOLDER/model.nsvqm.ckpt every
# two minutes and at the end FOLDER/model.nsvqm with its training card. After SIGTERM or Ctrl-C it does the
# same at once. Run again with the same FOLDER it goes on with an unfinished run, on its last checkpoint.
if [ $# -lt 3 ]; then
    echo "usage: tests/gpu/train.sh PACK MINUTES FOLDER [options of nsvq-train]" >&2
    exit 2
fi
. "$(dirname "$0")/build.sh"
build_all || exit 1
data=$1 minutes=$2 folder=$3
shift 3
mkdir -p "$folder" || exit 1
if [ -e "$folder/model.nsvqm.ckpt" ] && [ ! -e "$folder/model.nsvqm" ]; then
    set -- --resume "$folder/model.nsvqm.ckpt" "$@"
else
    set -- --preset hyper16 --batch 32 --minutes "$minutes" "$@"
fi
exec "$build/trainer/nsvq-train" --device cuda --data "$data" --out "$folder/model.nsvqm" --save 2 \
    --log "$folder/log" "$@"
