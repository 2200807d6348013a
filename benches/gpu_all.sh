#!/usr/bin/env bash
# Everything that is to be done on a GPU, unattended and in pieces: tests, benchmarks of ours and of PyTorch, sums over GPUs, and
# ResNet32 on CIFAR-10 with ReLU and with splines, in f32 and in bf16, and a 1-Lipschitz network. What is done is skipped, and
# trainings go on from their checkpoints.
#
#   benches/gpu_all.sh BINARIES DATA OUT [SECONDS]
#
# BINARIES is the folder that `just gpu-pack` leaves, or its archive beside it (no Rust is needed where this runs), DATA the
# folder of the data sets; OUT gets all results and must be there again for the next piece. A piece ends after SECONDS (default
# 560): exit status 0 says that all is done, 75 that it must be called again.
set -uo pipefail
if [ $# -lt 3 ]; then
    sed -n '2,/^set/p' "$0" | grep '^#' >&2
    exit 2
fi
binaries=$(realpath "$1"); data=$(realpath "$2"); mkdir -p "$3"; out=$(realpath "$3")
end=$((SECONDS + ${4:-560}))
cd "$(dirname "$0")/.."

if ! nvidia-smi -L > /dev/null 2>&1 && [ ! -e /dev/nvidia0 ]; then
    echo "no CUDA device: nothing was tested, measured or trained"
    exit 0
fi
if [ -f "$binaries" ]; then
    unpacked=$(mktemp -d); trap 'rm -rf "$unpacked"' EXIT
    tar xf "$binaries" -C "$unpacked" || python3 -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])' "$binaries" "$unpacked"
    binaries=$unpacked
fi

# What results say they come from, where the source's repository is not at hand.
if [ -f "$binaries/REVISION" ]; then DS_REVISION=$(< "$binaries/REVISION"); export DS_REVISION; fi

# The CUDA libraries of PyTorch, where there are no others.
folders=$(python3 - <<'END' 2> /dev/null
import glob, os, site, sysconfig
roots = [*site.getsitepackages(), site.getusersitepackages(), sysconfig.get_paths()["purelib"]]
print(":".join(sorted({f for r in roots for f in glob.glob(os.path.join(r, "nvidia", "*", "lib"))})))
END
)
export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:-}${folders:+:$folders}:/usr/local/cuda/lib64"

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv > "$out/card.csv" 2>&1

failed=0
# stage NAME COMMAND…: once, its output in OUT/NAME.log; what fails is kept and done again in the next piece.
stage() {
    local name=$1; shift
    [ -e "$out/$name.done" ] && return
    local left=$((end - SECONDS))
    if [ "$left" -lt 20 ]; then echo "time is up before $name"; exit 75; fi
    echo "== $name"
    timeout "$left" "$@" > "$out/$name.log" 2>&1
    local status=$?
    tail -n 20 "$out/$name.log"
    if [ $status -eq 124 ]; then echo "$name goes on in the next piece"; exit 75; fi
    if grep -q "no CUDA device" "$out/$name.log"; then
        # There is a card, or this line would not have been reached.
        echo "$name: CUDA does not find the card, most often for its driver: see $out/$name.log"; failed=1
    elif [ $status -ne 0 ]; then
        echo "$name failed ($status)"; failed=1
    elif ! grep -q "nothing was measured" "$out/$name.log"; then
        touch "$out/$name.done"
    fi
}

stage test-core "$binaries/gpu-test-core" --nocapture --test-threads 1
stage test-nn "$binaries/gpu-test-nn" --nocapture --test-threads 1
stage test-lab "$binaries/gpu-test-lab" --nocapture --test-threads 1
stage bench "$binaries/gpu_bench" --json "$out/bench.json"
stage kernels python3 benches/gpu_kernels.py "$binaries/gpu_bench"
# pytorch NAME ROWS: a stage of its own for some rows. torch.compile takes a minute or more for each, and a stage that is cut off
# begins again.
pytorch() { stage "pytorch-$1" python3 benches/pytorch_gpu.py --json "$out/pytorch-$1.json" --only "$2"; }
pytorch layers '^copy|, forward and backward'
for network in resnet32 nin; do
    for precision in '' ', bf16'; do
        name=$network${precision/, /-} step="^$network step, batch 128"
        pytorch "$name-splines" "$step, bspline$precision\$"
        pytorch "$name-relu" "$step, relu$precision(, channels_last)?(, graph)?\$"
        for ways in ', compiled' ', compiled, graph' ', channels_last, compiled' ', channels_last, compiled, graph'; do
            pytorch "$name-relu${ways//, /-}" "$step, relu$precision$ways\$"
        done
    done
done
if [ -e "$out/bench.json" ] && compgen -G "$out/pytorch-*.json" > /dev/null; then
    python3 benches/gpu_table.py "$out/bench.json" "$out"/pytorch-*.json > "$out/table.md" || failed=1
fi
if [ -x "$binaries/cifar10-nccl" ]; then
    stage test-nccl "$binaries/gpu-test-nccl" --nocapture --test-threads 1
    # A short run alone and with --gpus 1: the same rows, the clock's two columns aside. And with --gpus 2, where there are two.
    stage gpus bash -euo pipefail -c '
        rows() { sed "s/,[^,]*,[^,]*$//" "$1/metrics.csv"; }
        short() {
            local name=$1; shift
            "$binary" --config configs/resnet.toml --data-dir "$data" --device cuda --deterministic --overwrite \
                --set train.epochs=2 --set "train.milestones=[1]" --set train.max_train_images=12800 \
                --set sparsify.enabled=false --out "$out/$name" "$@"
        }
        binary=$1 data=$2 out=$3
        short gpus-0; short gpus-1 --gpus 1
        diff <(rows "$out/gpus-0") <(rows "$out/gpus-1")
        echo "--gpus 1: the same rows"
        if [ "$(nvidia-smi -L | wc -l)" -gt 1 ]; then short gpus-2 --gpus 2; fi
    ' _ "$binaries/cifar10-nccl" "$data" "$out"
fi
# train NAME CONFIG SETTING…: the rows of a run that was cut off stay; --resume-or-start starts where there is nothing yet.
train() {
    local name=$1 config=$2; shift 2
    stage "train-$name" "$binaries/cifar10" --config "configs/$config.toml" --data-dir "$data" --device cuda --resume-or-start \
        --set train.checkpoint_seconds=20 "$@" --out "$out/$name"
}
for config in resnet-relu resnet; do train "$config" "$config"; done
for config in resnet-relu resnet; do
    train "$config-bf16" "$config" --set train.precision=bf16 --set "name=$config-bf16"
done
train cifar10-lipschitz cifar10-lipschitz
if [ $failed -eq 0 ]; then echo "all is done: $out"; else echo "some of it failed: see $out/*.log"; fi
exit $failed
