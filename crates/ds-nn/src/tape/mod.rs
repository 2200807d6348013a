//! A tape for the ops of this project: what Candle's backward pass does, without its zeros, its additions into them and its
//! searches.
//!
//! A gradient that arrives first is kept as it is, and everything that is not needed any more is dropped while the tape unwinds.
//!
//! Small ops of parameters alone, such as packing weights, are computed for all layers together where a tape knows them from the one
//! before it ([`ParameterOps`]). `record.rs` is the tape, `value.rs` what flows on it and the sums of its gradients, and `foreach.rs`
//! those ops.

mod foreach;
mod record;
mod value;

pub use foreach::ParameterOps;
pub use record::{Tape, TapeGradients};
pub use value::Value;
