//! The GPU side of ops: kernels, launches and their arguments.
//!
//! Ops are written against [`Gpu`], which is a CUDA device ([`CudaGpu`](cuda::CudaGpu)) or, in tests, an emulation on the CPU that
//! runs the same kernels compiled as C++. Without the feature `cuda`, `CudaGpu` has no values, so that host code compiles everywhere.
//! All arrays are contiguous; numbers are f32 where nothing else is said. Where a function takes a [`DType`](candle_core::DType) it is that of x, y and
//! their gradients: f32 or bf16. Kernels compute in f32 with both; parameters, their gradients and sums stay f32 or f64.

mod arguments;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(not(feature = "cuda"))]
#[path = "no_cuda.rs"]
pub mod cuda;
mod device;
mod elementwise;
mod foreach;
pub mod launch;

pub use arguments::{
    Address, Argument, LaunchDims, all_aligned, by_channel, in_vector, int, kernel_of, kernel_of_mapping, knots,
    mapping, pointwise_blocks, rows_of,
};
pub use device::{Gpu, GpuInput, KERNELS, Kernels, Matrix, reduce_partials, tensor_on};
pub use elementwise::{OfChannels, pointwise};
pub use foreach::{launch_foreach, table};
