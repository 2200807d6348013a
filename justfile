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

# The kernels against the CPU's, on a GPU; needs nvcc. Without a GPU it says so and tests nothing
gpu-test:
    cargo test --release -p ds-core --features cuda --test gpu -- --nocapture

# Registers, spills and shared memory of every GPU kernel, and how wide its memory accesses are; needs nvcc and cuobjdump
gpu-report ARCH="sm_90":
    #!/usr/bin/env bash
    set -euo pipefail
    object=$(mktemp); trap 'rm -f "$object"' EXIT
    "${NVCC:-nvcc}" -cubin -O3 -std=c++17 -arch={{ARCH}} -Xptxas -v -o "$object" crates/ds-core/src/ops/linear_spline/kernel.cu 2>&1 \
        | grep -E "Compiling|registers|spill"
    cuobjdump -sass "$object" | awk '
        /Function :/ { name = $3 }
        match($0, /(LDG|STG|LDL|STL|LDS|STS)[A-Z0-9._]*/) { count[name " " substr($0, RSTART, RLENGTH)]++ }
        END { for (k in count) print k, count[k] }' | sort
