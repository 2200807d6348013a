//! Sparsification at the end of a run: knots below a threshold are eliminated from the trained splines.

use super::checkpoint::write_network;
use super::evaluation::{Evaluation, evaluate};
use super::setup::Setup;
use crate::config::{Config, Search};
use crate::file_names::{SPARSIFIED, THRESHOLDS};
use crate::results::metrics::{ThresholdRow, write_table};
use anyhow::{Result, bail};
use candle_core::Tensor;
use ds_core::activation::Spline;
use ds_core::sparsify::{eliminate_knots, largest_threshold, papers_thresholds};
use std::path::Path;

/// The sparsified network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sparsified {
    /// Knots with |a| at most this were eliminated.
    pub threshold: f64,
    /// The knots that are kept.
    pub active_knots: usize,
    /// Training accuracy afterwards.
    pub train_accuracy: Option<f64>,
    /// Test accuracy afterwards.
    pub test_accuracy: Option<f64>,
}

/// What came of a sparsification.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// The sparsified network; `None` if there is nothing to sparsify, or every threshold costs too much.
    pub sparsified: Option<Sparsified>,
    /// The thresholds that were tried, the smallest first; none if the config gives the threshold.
    pub tried: Vec<ThresholdRow>,
}

/// Splines as they were, to start again from for each threshold.
struct Unchanged<'a>(Vec<(&'a Spline, Tensor)>);

impl<'a> Unchanged<'a> {
    fn of(setup: &'a Setup) -> candle_core::Result<Self> {
        let copy = |spline: &'a Spline| Ok((spline, spline.knot_parameters().as_tensor().copy()?));
        setup.network.splines().into_iter().map(copy).collect::<candle_core::Result<_>>().map(Self)
    }

    fn restore(&self) -> candle_core::Result<()> {
        self.0.iter().try_for_each(|(spline, saved)| spline.knot_parameters().set(saved))
    }

    /// Eliminates from the unchanged splines; returns how many knots are kept.
    fn eliminate(&self, threshold: f64) -> Result<usize> {
        self.restore()?;
        let mut kept = 0;
        for (spline, _) in &self.0 {
            kept += eliminate_knots(spline, threshold)?.iter().sum::<usize>();
        }
        Ok(kept)
    }
}

/// Eliminates knots at the config's threshold, or at the largest of the papers' that costs no more training accuracy than
/// the tolerance, and saves the parameters ([`SPARSIFIED`]) and what the search saw ([`THRESHOLDS`]) in the directory. The network
/// is left as it was.
///
/// # Errors
/// If a file cannot be written.
pub fn run(config: &Config, setup: &Setup, unchanged: Evaluation, directory: &Path) -> Result<Outcome> {
    let network = &setup.network;
    if !config.sparsify.enabled || network.splines().is_empty() {
        return Ok(Outcome::default());
    }
    let splines = Unchanged::of(setup)?;
    let mut tried = Vec::new();
    let threshold = match (config.sparsify.threshold, unchanged.accuracy) {
        (Some(threshold), _) => Some(threshold),
        (None, Some(accuracy)) => {
            let threshold;
            (threshold, tried) = search(config, setup, &splines, accuracy)?;
            tried.sort_by(|a, b| a.threshold.total_cmp(&b.threshold));
            write_table(&directory.join(THRESHOLDS), &tried)?;
            threshold
        }
        (None, None) => bail!(
            "sparsify.threshold is needed for `{}`: without an accuracy there is nothing to search with",
            config.experiment
        ),
    };
    let Some(threshold) = threshold else {
        splines.restore()?;
        return Ok(Outcome { sparsified: None, tried });
    };
    let active_knots = splines.eliminate(threshold)?;
    let (train, test) = (evaluate(network, &setup.train)?, evaluate(network, &setup.test)?);
    write_network(&directory.join(SPARSIFIED), network, &config.to_toml())?;
    splines.restore()?;
    let (train_accuracy, test_accuracy) = (train.accuracy, test.accuracy);
    Ok(Outcome { sparsified: Some(Sparsified { threshold, active_knots, train_accuracy, test_accuracy }), tried })
}

/// The largest threshold that costs no more than the tolerance, and all that were tried.
fn search(
    config: &Config,
    setup: &Setup,
    splines: &Unchanged<'_>,
    accuracy: f64,
) -> Result<(Option<f64>, Vec<ThresholdRow>)> {
    let thresholds = papers_thresholds();
    let mut tried = Vec::new();
    let mut evaluate_at = |threshold: f64| -> Result<f64> {
        let active_knots = splines.eliminate(threshold)?;
        let train_accuracy = evaluate(&setup.network, &setup.train)?.accuracy.unwrap_or(0.0);
        tried.push(ThresholdRow { threshold, active_knots, train_accuracy });
        Ok(train_accuracy)
    };
    let best = match config.sparsify.search {
        Search::Every => {
            let best = largest_threshold(&thresholds, accuracy, config.sparsify.tolerance, evaluate_at)?;
            best.map(|(threshold, _)| threshold)
        }
        Search::Bisect => {
            // The first threshold that falls, taking accuracy to fall for all larger ones.
            let (mut holds, mut falls) = (0, thresholds.len());
            while holds < falls {
                let middle = (holds + falls) / 2;
                if accuracy - evaluate_at(thresholds[middle])? > config.sparsify.tolerance {
                    falls = middle;
                } else {
                    holds = middle + 1;
                }
            }
            holds.checked_sub(1).map(|k| thresholds[k])
        }
    };
    Ok((best, tried))
}
