//! Layers, and what a network does with a list of them.

mod batch_norm;
mod constrained;
mod conv2d;
mod init;
mod layer;
mod linear;
mod mode;
mod pool;

pub use batch_norm::BatchNorm;
pub use constrained::{ConstrainedConv2d, ConstrainedLinear, Constraint};
pub use conv2d::Conv2d;
pub use init::WeightInit;
pub use layer::{Layer, Layers, Residual};
pub(crate) use layer::{buffers, forward_in, map_tensors, operators, parameters, visit, visit_mut};
pub use linear::Linear;
pub use mode::Mode;
