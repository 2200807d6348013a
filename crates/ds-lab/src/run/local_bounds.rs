//! Bounds of a trained network's Lipschitz constant near samples.

use crate::data::Samples;
use crate::interrupt;
use anyhow::Result;
use candle_core::DType;
use ds_core::lipschitz::certified::{self, LocalBounds, Region};
use ds_core::lipschitz::empirical::lower_bound_in_ball;
use ds_core::lipschitz::piecewise_linear::PiecewiseLinear;
use ds_nn::Network;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Bounds in ℓ2 of a network on the ball of a radius round a sample, as a function of its (normalised) inputs, and the seconds
/// that each took: lower ≤ truth ≤ certified. One row of `bounds-local.csv`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are the columns")]
pub struct LocalBoundsRow {
    pub sample: usize,
    pub radius: f64,
    pub lower_l2: f64,
    pub certified_l2: f64,
    pub lower_seconds: f64,
    pub certified_seconds: f64,
}

/// Points of a ball whose Jacobian is taken.
const POINTS: usize = 60;

/// Of the balls round the first `count` samples.
///
/// # Errors
/// If the network is too large to be unrolled into matrices, or a parameter is not finite.
pub fn local_bounds(network: &Network, samples: &Samples, radius: f64, count: usize) -> Result<Vec<LocalBoundsRow>> {
    let architecture = network.architecture()?;
    let unrolled = PiecewiseLinear::new(&architecture)?;
    let local = LocalBounds::new(&unrolled)?;
    let everywhere = certified::bound(&architecture)?;
    let row = |sample: usize| {
        interrupt::check()?;
        let inputs = samples.batch(&[sample], None)?.inputs;
        let centre: Vec<f64> = inputs.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
        let started = Instant::now();
        let lower_l2 = lower_bound_in_ball(&unrolled, &centre, radius, POINTS, sample as u64)?.quotient;
        let lower_seconds = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let certified_l2 = local.on(&Region::Ball { centre, radius })?.min(everywhere);
        let certified_seconds = started.elapsed().as_secs_f64();
        Ok(LocalBoundsRow { sample, radius, lower_l2, certified_l2, lower_seconds, certified_seconds })
    };
    (0..samples.len().min(count)).map(row).collect()
}
