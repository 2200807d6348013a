//! The contract of an op with one result, and its adapter to Candle's custom ops.
//!
//! An [`Op`] states the shape of its result and how the CPU and a GPU compute it and its gradient. [`Apply`] makes a Candle custom op
//! of it; [`forward`] and [`backward`] run it outside any graph, which is what `ds_nn::tape::Tape` records.
//!
//! `contract.rs` has what an op states, `values.rs` what it is given and gives back, `run.rs` the passes outside any graph, and
//! `apply.rs` the adapter. What runs an op takes it as a [`DynOp`], so that kernels are compiled once, in the crate of their op.

mod apply;
mod contract;
mod run;
mod values;

pub use crate::dyn_op;
pub use apply::Apply;
pub use contract::{DynOp, Op};
pub use run::{Pass, backward, backward_foreach, forward, forward_foreach};
pub use values::{Backward, CpuInput, Gradient, Gradients, MAX_INPUTS, gradient, gradients2, gradients3, only};
