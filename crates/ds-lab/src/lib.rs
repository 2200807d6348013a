//! What an experiment with deep spline networks needs around the network: configuration, data sets, the training
//! loop, checkpoints and metrics.

pub mod config;
pub mod data;
pub mod files;
pub mod metrics;
