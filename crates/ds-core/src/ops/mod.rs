//! Custom Candle ops: each has its own backward pass and works in Candle's graph (`Tensor::apply_op*` with
//! [`Apply`]) as well as on a tape.
//!
//! All ops take f32 and f64 on the CPU, and f32 or bf16 with parameters in f32 on a GPU (feature `cuda`). Sums over a batch
//! are split into pieces that depend on the shapes alone and merged in a fixed order, so results are bit-identical for every number
//! of threads.

pub mod channel_affine;
pub mod clip;
pub mod hinges;
pub mod linear_spline;
pub mod pairs;
pub mod rectifier;
pub mod reparametrization;
pub mod slope_projection;

pub use crate::backend::op::Apply;
