//! The networks of the papers: functions that return a list of layers.

mod area;
mod convnet;
mod lipschitz;
mod nin;
mod resnet32;
mod scalar;

pub use area::area;
pub use convnet::convnet;
pub use lipschitz::{Images, LipschitzConv, lipschitz, lipschitz_conv};
pub use nin::nin;
pub use resnet32::resnet32;
pub use scalar::scalar;
