//! What the file of a pruned network says of it: whatever is pruned later, it is known which network the file holds.

use super::threshold::Sparsified;
use crate::config::PruningMethod;
use crate::results::metrics::PruningRow;
use std::collections::HashMap;

/// The entries in the metadata of a pruned network's file: the method, the kept knots, the epochs of training after pruning, and the
/// test accuracy in percent. Where there is no accuracy, the last one is missing; files of earlier versions have none of them.
pub const METADATA: [&str; 4] = ["pruning_method", "kept_knots", "finetune_epochs", "test_accuracy"];

/// The entries of a network that was pruned in the papers' way.
pub(super) fn of_papers(pruned: &Sparsified) -> HashMap<String, String> {
    entries(PruningMethod::Papers, pruned.active_knots, 0, pruned.test_accuracy)
}

/// The entries of a network whose functions were fitted again, and of one that was trained after that.
pub(super) fn of_refit(row: &PruningRow) -> HashMap<String, String> {
    entries(PruningMethod::Refit, row.knots, row.finetune_epochs, row.test_accuracy)
}

fn entries(method: PruningMethod, knots: usize, epochs: usize, accuracy: Option<f64>) -> HashMap<String, String> {
    let accuracy = accuracy.map(|accuracy| accuracy.to_string());
    let values = [Some(method.to_string()), Some(knots.to_string()), Some(epochs.to_string()), accuracy];
    METADATA.into_iter().zip(values).filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}
