//! Learnable linear-spline activations and Lipschitz control on Candle tensors.
//!
//! A [`Spline`](activation::Spline) layer holds one continuous piecewise-linear function σ(x) = Σ_k c_k·β¹(x/T − k) per
//! channel, on a uniform [`Grid`] of knots. Its values are learned with the weights of the network, and the ℓ1 penalty on
//! its slope changes ([`regularization::Norm::Tv2`]) leaves few knots, which [`sparsify`] then makes exact. The BV² norms
//! give a bound of the network's Lipschitz constant ([`lipschitz`]).
//!
//! The crate knows neither data sets nor files; it is all that a Candle network needs to have spline activations.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use candle_nn::Module;
//! use ds_core::{Grid, activation::{Init, Spline}, regularization::Norm, sparsify::eliminate_knots};
//!
//! // One function for each of 16 channels, 51 knots on [-4, 4].
//! let spline = Spline::bspline(16, Grid::from_range(51, 4.0)?, Init::LeakyRelu, DType::F32, &Device::Cpu)?;
//! let x = Tensor::randn(0f32, 1.0, (8, 16, 32, 32), &Device::Cpu)?;
//! let loss = spline.forward(&x)?.sqr()?.mean_all()?;
//! let mut gradients = loss.backward()?;
//! Norm::Tv2.add_gradient(&spline, 1e-4, &mut gradients)?; // λ·TV², in closed form
//! // … after training:
//! let kept = eliminate_knots(&spline, 0.05)?; // knots of each channel that are left
//! assert_eq!(kept, [1; 16]);
//! # Ok::<(), ds_core::Error>(())
//! ```
//!
//! Ops share their work out over the threads of rayon's pool. Let one of them do the training, `rayon::scope(|_| train())`:
//! from any other thread, each op wakes one of them and waits to be woken, some tens of µs.
//!
//! - Bohra, Campos, Gupta, Aziznejad, Unser: *Learning Activation Functions in Deep (Spline) Neural Networks*, 2020
//!   (Bohra-Campos2020).
//! - Aziznejad, Gupta, Campos, Unser: *Deep Neural Networks with Trainable Activations and Controlled Lipschitz Constant*,
//!   2020 (Aziznejad2020).

pub mod activation;
#[doc(hidden)]
pub mod backend;
mod error;
pub mod graph;
mod grid;
pub mod lipschitz;
mod names;
pub mod ops;
mod parameter;
pub mod regularization;
pub mod sparsify;

pub use error::{Error, Result};
pub use grid::Grid;
pub use parameter::{Group, L2, Parameter, copied, variable};

/// The README's example is tested with those of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
