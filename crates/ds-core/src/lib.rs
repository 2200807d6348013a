//! Learnable linear-spline activations and Lipschitz control on Candle tensors.
//!
//! A [`Spline`](activation::Spline) layer holds one continuous piecewise-linear function σ(x) = Σ_k c_k·β¹(x/T − k) per
//! channel, on a uniform [`Grid`] of knots. Its values are learned with the weights of the network, and the ℓ1 penalty on
//! its slope changes ([`regularization::Norm::Tv2`]) leaves few knots, which [`sparsify`] then makes exact. The BV² norms
//! give a bound of the network's Lipschitz constant ([`lipschitz`]).
//!
//! The crate knows neither data sets nor files; it is all that a Candle network needs to have spline activations.
//!
//! - Bohra, Campos, Gupta, Aziznejad, Unser: *Learning Activation Functions in Deep (Spline) Neural Networks*, 2020
//!   (Bohra-Campos2020).
//! - Aziznejad, Gupta, Campos, Unser: *Deep Neural Networks with Trainable Activations and Controlled Lipschitz Constant*,
//!   2020 (Aziznejad2020).

pub mod activation;
mod error;
pub mod graph;
mod grid;
pub mod lipschitz;
pub mod ops;
mod parameter;
pub mod regularization;
pub mod sparsify;

pub use error::{Error, Result};
pub use grid::Grid;
pub use parameter::{Group, L2, Parameter};
