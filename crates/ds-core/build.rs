//! Compiles the GPU kernels where the feature `cuda` is on.

#[path = "build/nvcc.rs"]
mod nvcc;

fn main() {
    println!("cargo::rerun-if-changed=build/nvcc.rs");
    let kernels =
        [("src/ops/linear_spline/kernel.cu", "linear_spline.fatbin"), ("src/ops/gpu/kernels.cu", "kernels.fatbin")];
    nvcc::compile_kernels(&kernels, &["src/ops/gpu/common.cuh"]);
}
