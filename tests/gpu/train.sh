#!/bin/sh
# tests/gpu/train.sh PACK MINUTES FOLDER [options of nsvq-train] - the one command for a borrowed GPU: builds,
# trains (hyper family, on the GPU but for the quantisation-aware end), writes FOLDER/model.nsvqm.ckpt every
# two minutes and at the end FOLDER/model.nsvqm with its training card. SIGTERM and Ctrl-C bring the end
# forward. With the checkpoint of an unfinished run in FOLDER it goes on with that, to the run's own length.
if [ $# -lt 3 ]; then
    echo "usage: tests/gpu/train.sh PACK MINUTES FOLDER [options of nsvq-train]" >&2
    exit 2
fi
. "$(dirname "$0")/build.sh"
data=$1 minutes=$2 folder=$3 pid=
shift 3
if [ -e "$folder/finished" ]; then
    echo "the run in $folder is finished: take another folder, or --init its model" >&2
    exit 2
fi
build_all && mkdir -p "$folder" || exit 1
if [ -e "$folder/model.nsvqm.ckpt" ]; then
    set -- --resume "$folder/model.nsvqm.ckpt" "$@"
else
    set -- --preset hyper16 --batch 32 --minutes "$minutes" "$@"
fi
stopped=
trap 'stopped=1; kill -TERM $pid' TERM INT
"$build/trainer/nsvq-train" --device cuda --data "$data" --out "$folder/model.nsvqm" --save 2 \
    --log "$folder/log" "$@" &
pid=$!
wait $pid
status=$?
if [ -n "$stopped" ]; then # the signal ended the first wait
    wait $pid
    status=$?
elif [ $status = 0 ]; then
    touch "$folder/finished"
fi
exit $status
