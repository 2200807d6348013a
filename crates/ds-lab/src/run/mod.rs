//! Training runs: what they need, their steps, their checkpoints, and what is measured of the trained network.
//!
//! [`run`] is the way through: [`Setup`] loads the data and makes the network, [`Trainer`] makes the steps and writes the rows of
//! `metrics.csv`, and the trained network is evaluated, bounded and sparsified for `summary.csv`.

pub mod bounds;
pub mod checkpoint;
mod directory;
mod diverged;
mod driver;
pub mod estimate;
mod evaluation;
mod execution;
mod graph;
pub mod local_bounds;
pub mod memory;
mod optimizers;
pub mod penalty;
pub mod ranges;
mod rate;
mod replica;
mod replicated;
mod setup;
pub mod sparsify;
mod step;
mod trainer;
pub mod verified;

pub use directory::{Existing, RunOptions, remove_if_empty, remove_run};
pub use diverged::Diverged;
pub use driver::run;
pub use evaluation::{Evaluation, count_active_knots, count_knots, evaluate};
pub use execution::execution;
pub use optimizers::Optimizers;
pub use replica::Replica;
pub use replicated::run_replica;
pub use setup::{Setup, TrainedOn, network, network_on_device, radii, target};
pub use step::{At, Eager, Model, Step};
pub use trainer::Trainer;
