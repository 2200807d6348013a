# Deep spline networks in Rust. `just` lists what there is.

default:
    @just --list

# All tests; reference numbers and real data are used where they are found
test:
    cargo test --release --workspace

# Formatting and lints, as CI has them
check:
    cargo fmt --all --check
    cargo clippy --release --workspace --all-targets -- -D warnings

# Results beside the papers' values and the original's; comparison.md and comparison-*.csv in DIR
compare DIR="results":
    cargo run --release -p reproduce -- compare {{DIR}}

# Pictures and tables of a folder of results: DIR/report.html and DIR/figures
report DIR="results":
    cargo run --release -p reproduce -- report {{DIR}}

# Everything beside PyTorch and DeepSplines, in turn (needs: pip install torch deepsplines)
bench *ARGS:
    python3 benches/compare_pytorch.py {{ARGS}}

# All experiments with reduced protocols, in minutes; CIFAR takes the shipped sample where the data set is not found
reproduce-quick *ARGS:
    cargo run --release -p reproduce -- all --configs configs/quick --out results-quick --sample-if-missing {{ARGS}}

# All experiments with the full protocols; says first what they will take, and goes on where it was cut off
reproduce-all *ARGS:
    cargo run --release -p reproduce -- all --configs configs --out results {{ARGS}}

# All ops and networks against the CPU's, and steps with graphs against single launches, on a GPU; needs nvcc. Without a GPU it says so and tests nothing
gpu-test:
    cargo test --release -p ds-core -p ds-nn -p ds-lab --features ds-core/cuda,ds-nn/cuda,ds-lab/cuda --test gpu \
        -- --nocapture --test-threads 1

# Sums over GPUs, on one and on two where there are two; needs nvcc and NCCL
gpu-test-nccl:
    cargo test --release -p ds-nn --features nccl --test nccl -- --nocapture --test-threads 1

# Splines, ReLU, a copy, and steps of networks on a GPU, each beside its floor (--json FILE), and the kernels of a step, where Nsight Compute is; benches/pytorch_gpu.py has the same rows
gpu-bench *ARGS:
    cargo run --release -p ds-lab --features cuda --example gpu_bench -- {{ARGS}}
    python3 benches/gpu_kernels.py "${CARGO_TARGET_DIR:-target}/release/examples/gpu_bench"

# The binaries that gpu-all needs, in DIR, and packed in DIR.tar.xz (some 16 MB); with those for several GPUs, where there is NCCL
gpu-pack DIR="gpu-binaries":
    #!/usr/bin/env bash
    set -euo pipefail
    mkdir -p {{DIR}}
    features=ds-core/cuda,ds-nn/cuda,ds-lab/cuda,cifar10/cuda
    cargo build --release -p ds-core -p ds-nn -p ds-lab -p cifar10 --features $features --bin cifar10 --example gpu_bench
    target=${CARGO_TARGET_DIR:-target}/release
    cp "$target/cifar10" "$target/examples/gpu_bench" {{DIR}}/
    for crate in core nn lab; do
        test=$(cargo test --release -p ds-core -p ds-nn -p ds-lab -p cifar10 --features $features --test gpu --no-run \
            --message-format json | grep "crates/ds-$crate/tests/gpu.rs" | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
        cp "$test" {{DIR}}/gpu-test-$crate
    done
    # Binaries of their own: they start only where NCCL is.
    if cargo build --release -p cifar10 --features nccl; then
        cp "$target/cifar10" {{DIR}}/cifar10-nccl
        cp "$(cargo test --release -p ds-nn --features nccl --test nccl --no-run --message-format json \
            | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')" {{DIR}}/gpu-test-nccl
    fi
    rm -f {{DIR}}/REVISION; strip {{DIR}}/*
    git describe --always --abbrev=12 --dirty --exclude '*' > {{DIR}}/REVISION
    # A dictionary that reaches over all of them: most of each is the same kernels.
    tar c -C {{DIR}} . | xz -T1 --lzma2=preset=6,dict=512MiB > {{DIR}}.tar.xz

# Tests, benchmarks of both and the trainings of ResNet32 on a GPU, all results in OUT; call it again while it exits with 75
gpu-all DATA="data" OUT="results-gpu" DIR="gpu-binaries":
    [ -x {{DIR}}/cifar10 ] || just gpu-pack {{DIR}}
    benches/gpu_all.sh {{DIR}} {{DATA}} {{OUT}}

# Registers, spills and shared memory of every GPU kernel, and how wide its memory accesses are; needs nvcc and cuobjdump
gpu-report ARCH="sm_90":
    #!/usr/bin/env bash
    set -euo pipefail
    object=$(mktemp); trap 'rm -f "$object"' EXIT
    for source in crates/ds-core/src/backend/gpu/kernels.cu crates/ds-nn/src/backend/kernels.cu; do
        echo "== $source"
        "${NVCC:-nvcc}" -cubin -O3 -std=c++17 -I crates/ds-core/src -arch={{ARCH}} -Xptxas -v -o "$object" "$source" 2>&1 \
            | grep -E "Compiling|registers|spill"
        cuobjdump -sass "$object" | awk '
            /Function :/ { name = $3 }
            match($0, /(LDG|STG|LDL|STL|LDS|STS)[A-Z0-9._]*/) { count[name " " substr($0, RSTART, RLENGTH)]++ }
            END { for (k in count) print k, count[k] }' | sort
    done
