//! Pruning at the end of a run: knots that the trained splines can do without are removed.

mod finetune;
mod histograms;
mod metadata;
mod refit;
mod saved;
mod search;
mod staged;
mod threshold;

pub use histograms::input_histograms;
pub use metadata::{METADATA, PRUNED_FROM, network_md5};
pub use threshold::Sparsified;

use self::saved::Saved;
use self::staged::Staged;
use super::checkpoint::write_network_with;
use super::evaluation::Evaluation;
use super::setup::Setup;
use crate::config::Config;
use crate::file_names::{FINETUNED, PRUNING, SPARSIFIED, THRESHOLDS};
use crate::results::metrics::{PruningRow, ThresholdRow, write_table};
use anyhow::Result;
use ds_nn::InputHistograms;
use std::collections::HashMap;
use std::path::Path;

/// What came of pruning. Nothing, where the config wants none or the network has no splines.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// The papers' way; `None` if every threshold costs too much.
    pub sparsified: Option<Sparsified>,
    /// The thresholds that were tried, the smallest first; none if the config gives the threshold.
    pub thresholds: Vec<ThresholdRow>,
    /// With a refit; `None` if every number of knots costs too much.
    pub refit: Option<PruningRow>,
    /// Trained on after that.
    pub finetuned: Option<PruningRow>,
    /// The numbers of knots that were tried, the most first.
    pub curve: Vec<PruningRow>,
    /// The mean test losses of these rows.
    pub test_losses: Vec<f64>,
    /// Where the inputs of the splines lie, if functions were fitted again.
    pub histograms: Option<InputHistograms>,
    /// The files of [`OF_PRUNING`](crate::file_names::OF_PRUNING) that an earlier pruning had left and that were removed.
    pub removed: Vec<&'static str>,
}

/// Prunes as the config says, and saves the pruned network ([`SPARSIFIED`], the refit one if there is one), the one that was trained
/// on ([`FINETUNED`]) and what the searches saw ([`PRUNING`], [`THRESHOLDS`]) in the directory. The files of networks say what they
/// hold ([`METADATA`]) and which network was pruned ([`PRUNED_FROM`]). They replace older ones together, at the end. Then those of
/// [`OF_PRUNING`](crate::file_names::OF_PRUNING) are removed that were not written, also where nothing is to be pruned. The network is
/// left as it was.
///
/// # Errors
/// If a file cannot be written, the training after pruning diverges ([`Diverged`](super::Diverged)), or a signal was received; no file
/// is changed then.
pub fn run(config: &Config, setup: &Setup, unchanged: Evaluation, directory: &Path) -> Result<Outcome> {
    let staged = Staged::begin(directory)?;
    let mut outcome = Outcome::default();
    // A network without hidden layers has no functions.
    if config.is_pruned() && super::count_knots(&setup.network) > 0 {
        let saved = Saved::of(&setup.network)?;
        let pruned = pruned(config, setup, (unchanged, &saved), &staged);
        // A pruning that fails leaves the network as it was, too.
        saved.restore()?;
        outcome = pruned?;
    }
    outcome.removed = staged.put()?;
    Ok(outcome)
}

/// Prunes a network that has this evaluation and these variables, and leaves it pruned.
fn pruned(
    config: &Config,
    setup: &Setup,
    (unchanged, saved): (Evaluation, &Saved),
    staged: &Staged<'_>,
) -> Result<Outcome> {
    let network = &setup.network;
    let mut outcome = Outcome::default();
    let method = config.sparsify.method();
    let before = refit::judged(config, setup, unchanged)?;
    let pruned_from = network_md5(network)?;
    let save = |file: &str, mut metadata: HashMap<String, String>| -> Result<()> {
        metadata.insert("config".to_owned(), config.to_toml());
        metadata.insert(PRUNED_FROM.to_owned(), pruned_from.clone());
        write_network_with(&staged.path(file)?, network, metadata)
    };
    if method.thresholds() && !network.splines().is_empty() {
        (outcome.sparsified, outcome.thresholds) = threshold::eliminated(config, setup, saved, before)?;
        if !outcome.thresholds.is_empty() {
            write_table(&staged.path(THRESHOLDS)?, &outcome.thresholds)?;
        }
        if let Some(pruned) = outcome.sparsified.filter(|_| !method.refits()) {
            save(SPARSIFIED, metadata::of_papers(&pruned))?;
        }
        saved.restore()?;
    }
    if method.refits() {
        let refit::Refitted { chosen, mut curve, histograms } = refit::refitted(config, setup, before)?;
        outcome.histograms = Some(histograms);
        if let Some((kept, row)) = chosen {
            save(SPARSIFIED, metadata::of_refit(&row))?;
            outcome.refit = Some(row);
            if config.sparsify.finetune_epochs > 0 {
                let save = |row: &PruningRow| save(FINETUNED, metadata::of_refit(row));
                let tried = finetune::pruned_and_trained(config, setup, kept, before, save)?;
                outcome.finetuned = tried.chosen;
                curve.extend(tried.curve);
            }
        }
        (outcome.curve, outcome.test_losses) = curve.into_iter().unzip();
        write_table(&staged.path(PRUNING)?, &outcome.curve)?;
    }
    Ok(outcome)
}
