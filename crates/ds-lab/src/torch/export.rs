//! Networks as state dicts of the original's classes.

use super::import::BATCHES;
use super::names;
use crate::config::Config;
use crate::run::verified;
use anyhow::Result;
use candle_core::{Device, Tensor};
use ds_nn::Network;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Writes a network as a safetensors file with the original's names and shapes, which `load_state_dict` of its class takes. `batches`
/// is the count that its batch norms begin with.
///
/// # Errors
/// If the original has no such network or activation, or the file cannot be written.
pub fn write_state_dict(
    path: &Path,
    config: &Config,
    network: &Network,
    batches: u64,
    metadata: HashMap<String, String>,
) -> Result<()> {
    let mut tensors = BTreeMap::new();
    for entry in names::entries(config, network)? {
        if let Some(norm) = entry.name.strip_suffix(".running_mean") {
            let count = Tensor::new(i64::try_from(batches).unwrap_or(i64::MAX), &Device::Cpu)?;
            tensors.insert(format!("{norm}{BATCHES}"), count);
        }
        tensors.insert(entry.name.clone(), entry.reshaped()?);
    }
    verified::write(path, &tensors, metadata)
}
