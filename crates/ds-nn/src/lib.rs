//! What deep spline networks need and Candle lacks, or has wrong or slow: layers with their own backward passes, a tape, the
//! optimisers and the networks of the papers.
//!
//! Layers are generic over [`ds_core::graph::Graph`]: they train on the fast [`tape::Tape`] and also work in Candle's own
//! graph.

pub mod constrained;
pub mod layers;
pub mod memory;
pub mod networks;
pub mod ops;
pub mod optim;
pub mod parallel;
pub mod rng;
pub mod tape;
