//! Compiles the GPU kernels where the feature `cuda` is on.

#[path = "../ds-core/build/nvcc.rs"]
mod nvcc;

fn main() {
    println!("cargo::rerun-if-changed=../ds-core/build/nvcc.rs");
    let headers = ["../ds-core/src/ops/gpu/common.cuh", "src/ops/gpu/conv.cuh", "src/ops/gpu/norm.cuh"];
    nvcc::compile_kernels(&[("src/ops/gpu/kernels.cu", "kernels.fatbin")], &headers);
}
