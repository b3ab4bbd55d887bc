# cli.sh - nsvq-train through its command line. Arguments: nsvq-train, nsvq-scenes, the man page, the
# folder with a module for --device cuda that needs no GPU.
train=$1 scenes=$2 man=$3 host=$4
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1

fail() { echo "FAILED: $*"; echo '--- stdout'; cat out; echo '--- stderr'; cat err; exit 1; }

# expect STATUS ARGUMENTS..: runs nsvq-train. What fails says why, on stderr alone.
expect() {
    want=$1; shift
    timeout 120 "$train" "$@" >out 2>err; got=$?
    [ $got = "$want" ] || fail "status $got, not $want: $*"
    [ $want = 0 ] && return
    grep -q '^nsvq-train: ' err || fail "no message: $*"
    [ ! -s out ] || fail "writes to stdout: $*"
}
says() { grep -q -e "$1" "$2" || fail "'$1' is not in $2"; }
field() { sed -n "s/.*$2.*/\\1/p" "$1"; } # what \(..\) matches

mkdir -p scenes/town scenes/land  # town/scene38.tif is held out
"$scenes" --size 192 --count 8 --seed 31 scenes/town >out 2>err || fail 'nsvq-scenes'
"$scenes" --size 192 --count 12 --seed 9 scenes/land >out 2>err || fail 'nsvq-scenes'

# ---- help, usage

expect 0 --help
says 'usage: nsvq-train' out
[ ! -s err ] || fail 'help on stderr'
grep -o -e '--[a-z-]*' out | sort -u | grep -v -e '^--help$' >options
while read -r o; do says "$o" "$man"; done <options
grep -o -e '--[a-z-]*' "$man" | sort -u | grep -v -x -F -f options >extra
[ ! -s extra ] || fail "only in the man page: $(cat extra)"

expect 2
says '--data is missing' err
for bad in '--frobnicate 1' '--steps' '--steps 1x' '--steps -1' '--minutes nan' '--batch 0' '--batch two' \
           '--patch 100' '--patch 1024' '--lr 0' '--lambda -1' '--qat 1.5' '--threads -1' '--family vae' \
           '--preset huge' '--trellis' '--family hyper --preset small' '--quality-range 50' '--quality-range 0-90' \
           '--quality-range 60-50' '--part-mib 0' '--device gpu' '--device cuda' '--save 0'; do
    expect 2 --data scenes $bad
done
expect 2 pack --data scenes
expect 2 --data scenes --name ''
expect 2 --data scenes --name 32-characters-are-one-too-many--
expect 2 --data scenes --name Köln
expect 2 info
expect 2 info a b
[ ! -e model.nsvqm ] || fail 'a model after wrong usage'

# ---- bad data

mkdir empty
echo 'no raster' >empty/notes.txt
printf 'NSVQPACKbroken' >broken.pack
cp empty/notes.txt notes.ckpt
for data in empty nowhere broken.pack; do
    expect 3 --data $data --out bad.nsvqm
    expect 3 pack --data $data --out bad.pack
done
expect 3 info notes.ckpt
expect 3 info nowhere
expect 3 --data scenes --resume notes.ckpt
expect 3 --data scenes --init notes.ckpt
[ ! -e bad.nsvqm ] && [ ! -e bad.pack ] || fail 'output made of bad data'

# ---- a short run, its model and its card

short='--preset small --batch 2 --patch 64 --threads 1'
expect 0 --data scenes $short --steps 6 --qat 0.5 --lambda 0.4 --name first --out a.nsvqm
cp out card
says '^20 pictures, 0.7 Mpixel, 2 classes$' err
says '^step 3: quantisation-aware' err
[ -s a.nsvqm.ckpt ] && [ ! -e a.nsvqm.part ] || fail 'files of a run'
expect 0 info a.nsvqm
says '^model first, id [0-9a-f]\{16\}$' out
sed 1d out | cmp -s - card || fail 'info does not show the card'
says '^trained: 6 steps' out
says 'lambda 0.4,' out
id=$(field out 'id \([0-9a-f]*\)')
patches=$(field out 'held out (\([0-9]*\) patches')
[ "$patches" -ge 1 ] || fail 'nothing is held out'
db=$(field out 'float \([0-9]*\)\.')
[ "$db" -ge 15 ] && [ "$db" -le 60 ] || fail "float network: $db dB"
db=$(field out 'integer \([0-9]*\)\.')
[ "$db" -ge 15 ] && [ "$db" -le 60 ] || fail "integer network: $db dB"

# ---- the same from a pack: pictures, held-out share and order are those of the folder

expect 0 pack --data scenes --out scenes.pack --part-mib 1
says '^20 pictures, 0.7 Mpixel packed' out
[ -s scenes.pack ] && [ -s scenes.pack.2 ] || fail 'parts of a pack'
expect 0 -q --data scenes.pack $short --steps 6 --qat 0.5 --lambda 0.4 --name first --out packed.nsvqm
[ ! -s out ] && [ ! -s err ] || fail '-q is not quiet'
expect 0 info packed.nsvqm
says "id $id" out

# ---- too few pictures to hold one out

mkdir few
cp scenes/land/scene9.tif few
expect 0 --data few $short --steps 2 --out few.nsvqm
says 'trained on, none held out (1 patches' out

# ---- --resume goes on, --init starts anew; both keep lambda unless told otherwise

expect 0 --data scenes --resume a.nsvqm.ckpt --steps 2 --batch 1 --patch 64 --out b.nsvqm
says '^trained: 8 steps' out
says 'lambda 0.4,' out
expect 0 --data scenes --resume b.nsvqm.ckpt --steps 1 --batch 1 --patch 64 --lambda 0.7 --out b.nsvqm
says '^trained: 9 steps' out
says 'lambda 0.7,' out
expect 0 --data scenes --init a.nsvqm --steps 2 --batch 1 --patch 64 --lr 1e-9 --out c.nsvqm
says '^trained: 2 steps' out
says 'preset small' out
says 'lambda 0.4,' out
db=$(field out 'float \([0-9]*\)\.')
[ "$db" = "$(field card 'float \([0-9]*\)\.')" ] || fail "$db dB after --init, card: $(cat card)"
expect 0 info b.nsvqm
[ "$(field out 'id \([0-9a-f]*\)')" != "$id" ] || fail 'training changed nothing'

# ---- the hyper family

short='--preset hyper-small --batch 2 --patch 64 --threads 1'
expect 0 --data scenes --family hyper $short --steps 6 --qat 0.5 --name broad --out h.nsvqm
says '^family: hyper, preset hyper-small$' out
says 'qualities 5 to 95,' out
[ "$(grep -c '^held out' out)" = 5 ] || fail 'figures of five qualities'
says '^rate at equal PSNR: integer against float' out
expect 0 info h.nsvqm
says '^model broad, id' out
expect 0 --data scenes --resume h.nsvqm.ckpt --steps 2 --batch 1 --patch 64 --quality-range 30-40.5 --out i.nsvqm
says '^trained: 8 steps' out
says 'qualities 30 to 40.5,' out
expect 0 --data scenes --init h.nsvqm --steps 1 --batch 1 --patch 64 --out i.nsvqm
says '^trained: 1 steps' out
expect 0 --data scenes --init h.nsvqm --preset hyper-small --steps 1 --batch 1 --patch 64 --out i.nsvqm
expect 0 --data scenes --resume h.nsvqm.ckpt --steps 0 --minutes 0 --patch 64 --trellis --out t.nsvqm
says '^family: hyper, preset hyper-small, trellis$' out
says '^trained: 6 steps' out
expect 2 --data scenes --resume a.nsvqm.ckpt --steps 1 --batch 1 --patch 64 --trellis --out bad.nsvqm
says '--trellis: for the hyper family' err
expect 2 --data scenes --init h.nsvqm --body 3 --steps 1
says '--body: the model has its shape already' err
expect 2 --data scenes --init h.nsvqm --preset hyper16 --steps 1 --batch 1 --patch 64 --out bad.nsvqm
says '--preset hyper16: h.nsvqm cannot take this shape' err

# ---- --device cuda, up to the quantisation-aware part

LD_LIBRARY_PATH=$host; export LD_LIBRARY_PATH
expect 0 --data scenes --device cuda $short --steps 6 --qat 0.5 --name broad --out g.nsvqm
says '^step 3: quantisation-aware' err
says '^trained: 6 steps, 0 Mpixel' out
[ "$(grep -c '^held out' out)" = 5 ] || fail 'figures of five qualities'
expect 0 --data scenes --device cuda --resume g.nsvqm.ckpt --steps 3 --qat 0 --batch 1 --patch 128 --out g.nsvqm
says '^trained: 9 steps' out
expect 2 --data few --device cuda --init a.nsvqm --out bad.nsvqm
says 'for the hyper family' err
expect 1 --data scenes --device cuda --init h.nsvqm --patch 256 --out bad.nsvqm # scenes are smaller
says 'no picture is as large as a patch' err
expect 0 bench --device cuda --preset hyper-small --batch 1 --patch 64 --steps 2
says '^# host, preset hyper-small, batch 1 of 64 x 64, 2 steps, GEMM peak ' out
says '^multiply  ' out
expect 2 --data scenes --device cuda $short --ms-ssim 0.5 --out bad.nsvqm
says 'not with --ms-ssim' err
"$train" --data scenes $short --ms-ssim 0.5 --minutes 60 --save 0.01 --out r.nsvqm >out 2>err &
pid=$!
n=0
until [ -s r.nsvqm.ckpt ]; do
    n=$((n + 1))
    [ $n -lt 600 ] || { kill -KILL $pid; fail 'no checkpoint'; }
    sleep 0.1
done
kill -KILL $pid
wait $pid
expect 1 --data scenes --device cuda --resume r.nsvqm.ckpt --out r.nsvqm
says 'which has --ms-ssim' err
unset LD_LIBRARY_PATH

# ---- speed

for preset in small hyper-small; do
    expect 0 bench --preset $preset --batch 1 --patch 64 --steps 2 --threads 1
    says "^# preset $preset, batch 1 of 64 x 64, 1 threads, 2 steps, GEMM peak [1-9]" out
    says '^[0-9.]* Mpixel/s, ' out
    says '^analysis backward  ' out
done
expect 2 bench --preset huge

# ---- what cannot be written

expect 1 --data scenes --minutes 60 --out nowhere/d.nsvqm # at once
says 'nowhere/d.nsvqm' err
expect 1 pack --data scenes --out nowhere/d.pack

# ---- a signal saves the checkpoint and writes the model

for signal in INT TERM; do
    rm -f s.nsvqm s.nsvqm.ckpt
    "$train" --data scenes --init a.nsvqm --minutes 60 --qat 1 --batch 1 --patch 64 --threads 1 \
        --out s.nsvqm >out 2>err &
    pid=$!
    n=0
    until grep -q 'quantisation-aware' err; do
        n=$((n + 1))
        [ $n -lt 600 ] || { kill -KILL $pid; fail 'training does not begin'; }
        sleep 0.1
    done
    sleep 0.5
    kill -$signal $pid
    while kill -0 $pid 2>/dev/null; do
        n=$((n + 1))
        [ $n -lt 1200 ] || { kill -KILL $pid; fail "SIG$signal does not end it"; }
        sleep 0.1
    done
    wait $pid || fail "status after SIG$signal"
    [ -s s.nsvqm.ckpt ] || fail "no checkpoint after SIG$signal"
    expect 0 info s.nsvqm
    [ "$(field out 'trained: \([0-9]*\) steps')" -ge 2 ] || fail "steps before SIG$signal"
done
