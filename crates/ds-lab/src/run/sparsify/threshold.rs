//! The papers' way: knots below a threshold are eliminated.

use super::refit;
use super::saved::Saved;
use super::search::last_that_holds;
use crate::config::{Config, Search};
use crate::results::metrics::ThresholdRow;
use crate::run::evaluation::evaluate;
use crate::run::setup::Setup;
use anyhow::{Result, bail};
use ds_core::sparsify::{eliminate_knots, largest_threshold, papers_thresholds};
use ds_nn::Network;

/// The network after the papers' way of pruning.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sparsified {
    /// Knots with |a| at most this were eliminated.
    pub threshold: f64,
    /// The knots that are kept.
    pub active_knots: usize,
    /// Training accuracy afterwards.
    pub train_accuracy: Option<f64>,
    /// Validation accuracy afterwards, where samples are held out.
    pub validation_accuracy: Option<f64>,
    /// Test accuracy afterwards.
    pub test_accuracy: Option<f64>,
}

/// Eliminates from the splines as they were; returns how many knots are kept.
fn eliminate(network: &Network, saved: &Saved, threshold: f64) -> Result<usize> {
    saved.restore()?;
    let mut kept = 0;
    for spline in network.splines() {
        kept += eliminate_knots(spline, threshold)?.iter().sum::<usize>();
    }
    Ok(kept)
}

/// Eliminates knots at the config's threshold, or at the largest of the papers' that costs no more than the tolerance of the judged
/// accuracy before. The network is left with the knots that are kept. `None` if every threshold costs too much. Also the thresholds
/// that were tried, the smallest first.
pub(super) fn eliminated(
    config: &Config,
    setup: &Setup,
    saved: &Saved,
    before: Option<f64>,
) -> Result<(Option<Sparsified>, Vec<ThresholdRow>)> {
    let mut tried = Vec::new();
    let threshold = match (config.sparsify.threshold, before) {
        (Some(threshold), _) => Some(threshold),
        (None, Some(before)) => {
            let threshold;
            (threshold, tried) = search(config, setup, saved, before)?;
            tried.sort_by(|a, b| a.threshold.total_cmp(&b.threshold));
            threshold
        }
        (None, None) => bail!(
            "sparsify.threshold is needed for `{}`: without an accuracy there is nothing to search with",
            config.experiment
        ),
    };
    let Some(threshold) = threshold else { return Ok((None, tried)) };
    let network = &setup.network;
    let active_knots = eliminate(network, saved, threshold)?;
    let validation = setup.validation.as_ref().map(|samples| evaluate(network, samples)).transpose()?;
    let sparsified = Sparsified {
        threshold,
        active_knots,
        train_accuracy: evaluate(network, &setup.train)?.accuracy,
        validation_accuracy: validation.and_then(|evaluation| evaluation.accuracy),
        test_accuracy: evaluate(network, &setup.test)?.accuracy,
    };
    Ok((Some(sparsified), tried))
}

/// The largest threshold that costs no more than the tolerance of the judged accuracy, and all that were tried.
fn search(config: &Config, setup: &Setup, saved: &Saved, before: f64) -> Result<(Option<f64>, Vec<ThresholdRow>)> {
    let thresholds = papers_thresholds();
    let tolerance = config.sparsify.tolerance;
    let mut tried = Vec::new();
    let mut judged_at = |threshold: f64| -> Result<f64> {
        let active_knots = eliminate(&setup.network, saved, threshold)?;
        let training = evaluate(&setup.network, &setup.train)?;
        tried.push(ThresholdRow { threshold, active_knots, train_accuracy: training.accuracy.unwrap_or(0.0) });
        Ok(refit::judged(config, setup, training)?.unwrap_or(0.0))
    };
    let best = match config.sparsify.search {
        Search::Every => {
            let best = largest_threshold(&thresholds, before, tolerance, judged_at)?;
            best.map(|(threshold, _)| threshold)
        }
        Search::Bisect => {
            let holds = last_that_holds(thresholds.len(), |k| Ok(before - judged_at(thresholds[k])? <= tolerance))?;
            holds.map(|k| thresholds[k])
        }
    };
    Ok((best, tried))
}
