//! Pruning with a refit: accuracies for a list of numbers of knots, and the fewest that a tolerance allows.

use super::histograms::input_histograms;
use super::search::last_that_holds;
use crate::config::{Config, Judged, Search};
use crate::results::metrics::PruningRow;
use crate::run::evaluation::{Evaluation, evaluate};
use crate::run::setup::Setup;
use anyhow::Result;
use ds_core::sparsify::{Cost, KeptKnots, Pruning};
use ds_nn::InputHistograms;

/// Numbers of knots from all of them to one for each function, both included.
const BUDGETS: usize = 20;

/// Points of accuracy below the tolerance at which a curve ends.
const END_OF_CURVE: f64 = 10.0;

/// A network whose splines are pruned with a refit.
pub(super) struct Refitted {
    /// Fewest knots that the tolerance allows, and what the network does with them; `None` if every number costs too much.
    pub chosen: Option<(KeptKnots, PruningRow)>,
    /// What was tried, the most knots first, with the mean test losses.
    pub curve: Vec<(PruningRow, f64)>,
    /// Where the inputs of the splines lie.
    pub histograms: InputHistograms,
}

/// Descending numbers of knots, in equal ratios from all knots to one for each function, and on to a quarter of a knot.
pub(super) fn budgets(knots: usize, functions: usize) -> Vec<usize> {
    let (most, fewest) = (knots.max(1) as f64, functions.max(1) as f64);
    let ratio = (fewest / most).powf(1.0 / (BUDGETS - 1) as f64).min(0.9);
    let mut all = vec![knots];
    for k in 1.. {
        let budget = (most * ratio.powi(k)).round();
        if budget < fewest / 4.0 || budget < 1.0 {
            break;
        }
        if (budget as usize) < all[all.len() - 1] {
            all.push(budget as usize);
        }
    }
    all
}

/// Prunes to the config's number of knots, or to the fewest that cost no more than the tolerance of the accuracy before. The network
/// keeps the pruned splines.
pub(super) fn refitted(config: &Config, setup: &Setup, before: Option<f64>) -> Result<Refitted> {
    let (pruning, histograms) = pruning_of(config, setup)?;
    let mut curve = Vec::new();
    let mut row_at = |budget: usize| -> Result<PruningRow> {
        let kept = pruning.prune(budget)?;
        let (row, test_loss) = row(config, setup, kept.count(), 0)?;
        curve.push((row.clone(), test_loss));
        Ok(row)
    };
    let functions = histograms.counts.iter().map(ds_core::sparsify::Histogram::channels).sum();
    let budgets = budgets(pruning.knots(), functions);
    let budget = match (config.sparsify.knots, before) {
        (Some(knots), _) => Some(knots.min(pruning.knots())),
        (None, None) => None,
        (None, Some(before)) => {
            let loss = |row: &PruningRow| before - judged_of(config, row).unwrap_or(0.0);
            let tolerance = config.sparsify.tolerance;
            let holds = match config.sparsify.search {
                Search::Every => {
                    let mut last = None;
                    let mut holds = true;
                    for (k, &budget) in budgets.iter().enumerate() {
                        let loss = loss(&row_at(budget)?);
                        holds &= loss <= tolerance;
                        last = if holds { Some(k) } else { last };
                        if loss > tolerance + END_OF_CURVE {
                            break;
                        }
                    }
                    last
                }
                Search::Bisect => last_that_holds(budgets.len(), |k| Ok(loss(&row_at(budgets[k])?) <= tolerance))?,
            };
            holds.map(|k| budgets[k])
        }
    };
    let chosen = match budget {
        Some(budget) => {
            let kept = pruning.prune(budget)?;
            let known = curve.iter().find(|(row, _)| row.knots == kept.count()).map(|(row, _)| row.clone());
            let row = match known {
                Some(row) => row,
                None => {
                    let (row, test_loss) = row(config, setup, kept.count(), 0)?;
                    curve.push((row.clone(), test_loss));
                    row
                }
            };
            Some((kept, row))
        }
        None => {
            pruning.restore()?;
            None
        }
    };
    curve.sort_by_key(|(row, _)| std::cmp::Reverse(row.knots));
    Ok(Refitted { chosen, curve, histograms })
}

/// The removal of knots from the network as it is.
pub(super) fn pruning_of(config: &Config, setup: &Setup) -> Result<(Pruning, InputHistograms)> {
    let network = &setup.network;
    let cost = config.sparsify.cost;
    let histograms = input_histograms(network, &setup.train, cost == Cost::SquaredGradient)?;
    let weights = match cost {
        Cost::MeanSquare => &histograms.counts,
        Cost::SquaredGradient => &histograms.squared_gradients,
    };
    let splines = network.activations().into_iter().filter(|activation| activation.channels_of_splines().is_some());
    Ok((Pruning::new(splines.zip(weights), cost)?, histograms))
}

/// The network as it is, and its mean test loss.
pub(super) fn row(config: &Config, setup: &Setup, knots: usize, finetune_epochs: usize) -> Result<(PruningRow, f64)> {
    let network = &setup.network;
    let validation = setup.validation.as_ref().map(|samples| evaluate(network, samples)).transpose()?;
    let test = evaluate(network, &setup.test)?;
    let row = PruningRow {
        knots,
        finetune_epochs,
        train_accuracy: evaluate(network, &setup.train)?.accuracy,
        validation_accuracy: validation.and_then(|evaluation| evaluation.accuracy),
        test_accuracy: test.accuracy,
        cost: Some(config.sparsify.cost.to_string()),
    };
    Ok((row, test.loss))
}

/// The accuracy that may fall by the tolerance, of the network as it is, with its evaluation over the training samples.
pub(super) fn judged(config: &Config, setup: &Setup, training: Evaluation) -> Result<Option<f64>> {
    Ok(match (config.sparsify.accuracy, &setup.validation) {
        (Judged::Validation, Some(samples)) => evaluate(&setup.network, samples)?.accuracy,
        _ => training.accuracy,
    })
}

/// The same of a pruned network.
pub(super) fn judged_of(config: &Config, row: &PruningRow) -> Option<f64> {
    match config.sparsify.accuracy {
        Judged::Validation => row.validation_accuracy,
        Judged::Training => row.train_accuracy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_go_from_all_knots_past_one_for_each_function() {
        let all = budgets(55_664, 1136);
        assert_eq!((all[0], all[19]), (55_664, 1136));
        assert!(all.is_sorted_by(|a, b| a > b));
        assert!(all.last().is_some_and(|&last| (284..400).contains(&last)));
        // PReLU-like splines have one knot for each function.
        assert_eq!(budgets(10, 10), [10, 9, 8, 7, 6, 5, 4, 3]);
        assert_eq!(budgets(1, 1), [1]);
        assert_eq!(budgets(0, 3), [0]);
    }
}
