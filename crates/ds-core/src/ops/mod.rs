//! Custom Candle ops: each has its own backward pass and works in Candle's graph (`Tensor::apply_op*`) as well as on a tape.
//!
//! All of them take f32 and f64 on the CPU, and most f32 or bf16 with parameters in f32 on a GPU (feature `cuda`). Sums over a
//! batch are split into pieces that depend on the shapes alone and merged in a fixed order, so results are the same, bit for bit,
//! for every number of threads.

pub mod channel_affine;
pub mod clip;
pub mod gpu;
pub mod hinges;
pub mod lanes;
pub mod linear_spline;
pub mod pairs;
pub mod parallel;
pub mod planes;
pub mod pointwise;
pub mod real;
pub mod rectifier;
pub mod reparametrization;
pub mod simd;
pub mod slope_projection;
