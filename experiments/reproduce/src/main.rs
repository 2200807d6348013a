//! Runs all experiments.
fn main() {}
