//! Pruning of knots: which of them go, and what the functions look like without them.
//!
//! Two methods:
//! - [`Pruning`] removes the knots whose loss is least over all functions of a network and fits each function again, by least
//!   squares weighted with where its inputs lie ([`Histogram`]).
//! - [`eliminate_knots`] is the papers' (Bohra-Campos2020, section IV-A): knots whose slope change is at most a threshold go, and the
//!   function is rebuilt from its first segment, which adds up errors to the right.
//!
//! Coefficients that either of them writes are integer multiples of one power of two, few enough that all of them are exact: the
//! slope change of a removed knot, c_{k−1} − 2c_k + c_{k+1}, is then exactly 0.

mod exact;
mod function;
mod histogram;
mod kept;
mod layer;
mod pruning;
mod threshold;

pub use exact::exact_active_knots;
pub use histogram::Histogram;
pub use kept::KeptKnots;
pub use pruning::{Cost, Pruning};
pub use threshold::{eliminate_knots, largest_threshold, papers_thresholds};
