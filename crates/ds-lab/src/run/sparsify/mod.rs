//! Pruning at the end of a run: knots that the trained splines can do without are removed.

mod finetune;
mod histograms;
mod metadata;
mod refit;
mod saved;
mod search;
mod threshold;

pub use histograms::input_histograms;
pub use metadata::METADATA;
pub use threshold::Sparsified;

use self::saved::Saved;
use super::checkpoint::write_network_with;
use super::evaluation::Evaluation;
use super::setup::Setup;
use crate::config::Config;
use crate::file_names::{FINETUNED, PRUNING, SPARSIFIED, THRESHOLDS};
use crate::files;
use crate::results::metrics::{PruningRow, ThresholdRow, write_table};
use anyhow::Result;
use ds_nn::InputHistograms;
use std::collections::HashMap;
use std::path::Path;

/// The files that [`run`] writes.
pub const FILES: [&str; 4] = [SPARSIFIED, FINETUNED, THRESHOLDS, PRUNING];

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
    /// Where the inputs of the splines lie, if functions were fitted again.
    pub histograms: Option<InputHistograms>,
    /// The files of [`FILES`] that an earlier pruning had left and that were removed.
    pub removed: Vec<&'static str>,
}

/// Prunes as the config says, and saves the pruned network ([`SPARSIFIED`], the refit one if there is one), the one that was trained
/// on ([`FINETUNED`]) and what the searches saw ([`PRUNING`], [`THRESHOLDS`]) in the directory. The files of networks say what they
/// hold ([`METADATA`]). Then those of [`FILES`] are removed that were not written. The network is left as it was.
///
/// # Errors
/// If a file cannot be written, or a signal was received; no file is removed then.
pub fn run(config: &Config, setup: &Setup, unchanged: Evaluation, directory: &Path) -> Result<Outcome> {
    let network = &setup.network;
    let mut outcome = Outcome::default();
    if !config.sparsify.enabled || super::count_knots(network) == 0 {
        return Ok(outcome);
    }
    let method = config.sparsify.method();
    let before = refit::judged(config, setup, unchanged)?;
    let save = |file: &str, mut metadata: HashMap<String, String>| {
        metadata.insert("config".to_owned(), config.to_toml());
        write_network_with(&directory.join(file), network, metadata)
    };
    let mut written = Vec::new();
    if method.thresholds() && !network.splines().is_empty() {
        let saved = Saved::of(network)?;
        (outcome.sparsified, outcome.thresholds) = threshold::eliminated(config, setup, &saved, before, directory)?;
        if !outcome.thresholds.is_empty() {
            written.push(THRESHOLDS);
        }
        if let Some(pruned) = outcome.sparsified.filter(|_| !method.refits()) {
            save(SPARSIFIED, metadata::of_papers(&pruned))?;
            written.push(SPARSIFIED);
        }
        saved.restore()?;
    }
    if method.refits() {
        let saved = Saved::of(network)?;
        let refit::Refitted { chosen, curve, histograms } = refit::refitted(config, setup, before)?;
        (outcome.curve, outcome.histograms) = (curve, Some(histograms));
        if let Some((kept, row)) = chosen {
            save(SPARSIFIED, metadata::of_refit(&row))?;
            written.push(SPARSIFIED);
            outcome.refit = Some(row);
            if config.sparsify.finetune_epochs > 0 {
                let save = |row: &PruningRow| save(FINETUNED, metadata::of_refit(row));
                let tried = finetune::pruned_and_trained(config, setup, kept, before, save)?;
                written.push(FINETUNED);
                outcome.finetuned = tried.chosen;
                outcome.curve.extend(tried.curve);
            }
        }
        write_table(&directory.join(PRUNING), &outcome.curve)?;
        written.push(PRUNING);
        saved.restore()?;
    }
    // The last step, so that a pruning that fails takes nothing away.
    for file in FILES.into_iter().filter(|file| !written.contains(file)) {
        if directory.join(file).symlink_metadata().is_ok() {
            files::remove_written(directory, file)?;
            outcome.removed.push(file);
        }
    }
    Ok(outcome)
}
