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

# Everything beside PyTorch and DeepSplines, in turn (needs: pip install torch deepsplines)
bench *ARGS:
    python3 benches/compare_pytorch.py {{ARGS}}

# All experiments with reduced protocols, in minutes; CIFAR takes the shipped sample where the data set is not found
reproduce-quick *ARGS:
    cargo run --release -p reproduce -- --configs configs/quick --out results/quick --sample-if-missing {{ARGS}}

# All experiments with the full protocols; says first what they will take, and goes on where it was cut off
reproduce-all *ARGS:
    cargo run --release -p reproduce -- --configs configs --out results {{ARGS}}
