//! What deep spline networks need and Candle lacks, or has wrong or slow: layers with their own backward passes, a tape, the
//! optimisers and the networks of the papers.
//!
//! Layers are generic over [`ds_core::graph::Graph`]: they train on the fast [`tape::Tape`] and also work in Candle's own
//! graph. A [`Network`] is a list of named layers; those of the papers are functions in [`networks`].
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use ds_core::graph::{Gradients, Graph};
//! use ds_core::activation::{ActivationConfig, ActivationKind, Init};
//! use ds_nn::layers::Mode;
//! use ds_nn::networks::convnet;
//! use ds_nn::ops::loss::{Kind, Loss};
//! use ds_nn::optim::{Decay, Optimizer, Rule};
//! use ds_nn::rng::{Purpose, Seed};
//! use ds_nn::tape::Tape;
//!
//! let activation = ActivationConfig::spline(ActivationKind::BSpline, 51, 4.0, Init::LeakyRelu);
//! let network = convnet(&mut Seed(0).generator(Purpose::Weights, 0), 10, activation)?;
//! let decay = Decay { weights: 5e-4, hinges: 0.0 };
//! let mut optimizer = Optimizer::new(Rule::Sgd { momentum: 0.9 }, decay, network.parameters())?;
//! let images = Tensor::randn(0f32, 1.0, (2, 1, 28, 28), &Device::Cpu)?;
//! let labels = Tensor::new(&[3u8, 7], &Device::Cpu)?;
//!
//! let mut tape = Tape::recording();
//! let (x, targets) = (tape.constant(&images), tape.constant(&labels));
//! let logits = network.forward_in(&mut tape, &x, Mode::training(0))?;
//! let loss = tape.apply(Loss::from(Kind::CrossEntropy), [&logits, &targets])?;
//! let gradients = tape.backward(&loss)?;
//! optimizer.step(&gradients, 0.1)?;
//! # Ok::<(), ds_core::Error>(())
//! ```
//!
//! [`Network::with_builder`] puts a network behind a `candle_nn::VarBuilder`, and each layer has the same method. With a `VarMap` its
//! tensors are variables of the map, which start as they were drawn. With a file they are constants, and evaluation keeps nothing for
//! gradients. The names are those of checkpoints.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use candle_nn::{ModuleT, Optimizer, SGD, VarBuilder, VarMap, loss::cross_entropy};
//! use ds_core::activation::{ActivationKind, Groups};
//! use ds_nn::{Network, networks::convnet, rng::{Purpose, Seed}};
//!
//! let network = |vb: VarBuilder<'_>| -> ds_core::Result<Network> {
//!     convnet(&mut Seed(0).generator(Purpose::Weights, 0), 10, ActivationKind::BSpline)?.with_builder(vb)
//! };
//! let map = VarMap::new();
//! let trained = network(VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu))?;
//! let groups = Groups::of(&map, &trained.parameters());
//! let mut optimizer = SGD::new([groups.weights, groups.splines].concat(), 0.1)?;
//! let images = Tensor::randn(0f32, 1.0, (2, 1, 28, 28), &Device::Cpu)?;
//! let loss = cross_entropy(&trained.forward_t(&images, true)?, &Tensor::new(&[3u32, 7], &Device::Cpu)?)?;
//! optimizer.backward_step(&loss)?;
//!
//! # let folder = tempfile::tempdir().map_err(candle_core::Error::wrap)?;
//! let file = "convnet.safetensors";
//! # let file = folder.path().join(file);
//! map.save(&file)?;
//! // SAFETY: nobody writes to the file.
//! let loaded = network(unsafe { VarBuilder::from_mmaped_safetensors(&[&file], DType::F32, &Device::Cpu) }?)?;
//! let [ours, expected] = [&loaded, &trained].map(|network| network.forward_t(&images, false));
//! let (ours, expected) = (ours?, expected?);
//! assert_eq!(ours.to_vec2::<f32>()?, expected.to_vec2::<f32>()?);
//! assert!(expected.track_op() && !ours.track_op());
//! # Ok::<(), ds_core::Error>(())
//! ```

#[doc(hidden)]
pub mod backend;
mod histograms;
pub mod layers;
pub mod memory;
mod network;
pub mod networks;
pub mod ops;
pub mod optim;
pub mod parallel;
pub mod rng;
pub mod tape;

pub use histograms::{HookedTape, InputHistograms};
pub use network::Network;

/// The README's example is tested with those of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
