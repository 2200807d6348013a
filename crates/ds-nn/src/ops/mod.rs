//! Custom Candle ops that networks need and Candle lacks, or has wrong or slow. Each has its own backward pass; all take f32 and
//! f64 on the CPU, and most f32 or bf16 with parameters in f32 on a GPU (feature `cuda`). Results are bit-identical for every number
//! of threads.

pub mod almost_orthogonal;
pub mod batch_sums;
mod bias;
pub mod blocks;
pub mod conv2d;
pub mod dense;
mod device_matrix;
pub mod dropout;
pub mod images;
pub mod loss;
pub mod norm_activation;
pub mod orthonormal;
pub mod pack;
pub mod pool;
mod product;
pub mod scale;
pub mod spectral;
pub mod sum;
mod window;

pub use window::Window;
