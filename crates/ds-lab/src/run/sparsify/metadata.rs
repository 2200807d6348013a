//! What the file of a pruned network says of it: whatever is pruned later, it is known which network the file holds.

use super::threshold::Sparsified;
use crate::config::PruningMethod;
use crate::files::hexadecimal;
use crate::results::metrics::PruningRow;
use anyhow::Result;
use candle_core::DType;
use ds_nn::Network;
use md5::{Digest, Md5};
use std::collections::HashMap;

/// The entries in the metadata of a pruned network's file: the method, the kept knots, the epochs of training after pruning, and the
/// test accuracy in percent. Where there is no accuracy, the last one is missing; files of earlier versions have none of them.
pub const METADATA: [&str; 4] = ["pruning_method", "kept_knots", "finetune_epochs", "test_accuracy"];

/// The entry with the [`network_md5`] of the network before pruning. Files of earlier versions do not have it.
pub const PRUNED_FROM: &str = "pruned_from";

/// The MD5 of all parameters and running statistics, by their names.
///
/// # Errors
/// If the device fails.
pub fn network_md5(network: &Network) -> Result<String> {
    let mut hasher = Md5::new();
    let parameters = network.parameters().into_iter().map(|p| (p.name, p.var.into_inner()));
    for (name, tensor) in parameters.chain(network.buffers()) {
        let values = tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        hasher.update(name.as_bytes());
        hasher.update(bytes);
    }
    Ok(hexadecimal(hasher))
}

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
