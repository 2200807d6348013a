//! What ops are made of: the op contract, element types, vector instructions, threads, and launches on a GPU.
//!
//! Not part of the public interface: `ds-nn` depends on the exact version of this crate.

pub mod gpu;
pub mod lanes;
pub mod op;
pub mod parallel;
pub mod planes;
pub mod pointwise;
pub mod real;
pub mod simd;
pub mod sync;
