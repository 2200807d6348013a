//! Checkpoints: one safetensors file with everything that a run needs to go on as if it had never stopped.
//!
//! Tensors: `parameter/…`, `buffer/…`, `weights/…` and `splines/…` (state of the optimisers). The header's metadata holds
//! the position in the run and the config. The file is written beside its place, synced and renamed.

use crate::files::write_atomically;
use crate::train::Optimizers;
use anyhow::{Context, Result, anyhow, bail};
use candle_core::{Device, Tensor, Var};
use ds_nn::networks::Network;
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Sums over the part of an epoch that is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochSums {
    /// Σ loss · batch size.
    pub loss: f64,
    /// Right answers.
    pub correct: usize,
    /// Samples seen.
    pub samples: usize,
}

/// Where a run stands: between two steps.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// The epoch that runs, from 0; equal to the number of epochs at the end.
    pub epoch: usize,
    /// Batches of the epoch that are done.
    pub batch: usize,
    /// Steps done.
    pub step: u64,
    /// The epoch so far.
    pub sums: EpochSums,
    /// Seconds of training so far.
    pub seconds: f64,
    /// Bytes of the metrics file that belong to it.
    pub metrics_bytes: u64,
    /// What it was trained on, one after the other.
    #[serde(default)]
    pub devices: Vec<String>,
}

/// A checkpoint in memory.
pub struct Checkpoint {
    /// Where the run stands.
    pub position: Position,
    /// The resolved config, as TOML.
    pub config: String,
    tensors: BTreeMap<String, Tensor>,
}

/// A copy on the CPU.
fn copied(var: &Var) -> candle_core::Result<Tensor> {
    if var.device().is_cpu() { var.as_tensor().copy() } else { var.as_tensor().to_device(&Device::Cpu) }
}

const FORMAT: &str = "deep-splines checkpoint 1";

impl Checkpoint {
    /// The state of a run.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn of_run(position: Position, config: String, network: &Network, optimizers: &Optimizers) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for parameter in network.parameters() {
            tensors.insert(format!("parameter/{}", parameter.name), copied(&parameter.var)?);
        }
        for (name, buffer) in network.buffers() {
            tensors.insert(format!("buffer/{name}"), copied(&buffer)?);
        }
        // Scalings are told apart from other parameters of splines by their names.
        let Optimizers { weights, splines, scalings, .. } = optimizers;
        for (group, optimizer) in [("weights", weights), ("splines", splines), ("splines", scalings)] {
            for (name, state) in optimizer.state()? {
                tensors.insert(format!("{group}/{name}"), state);
            }
        }
        Ok(Self { position, config, tensors })
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let metadata = HashMap::from([
            ("format".to_owned(), FORMAT.to_owned()),
            ("position".to_owned(), serde_json::to_string(&self.position)?),
            ("config".to_owned(), self.config.clone()),
        ]);
        let bytes = safetensors::serialize(&self.tensors, Some(metadata))
            .with_context(|| format!("checkpoint {}", path.display()))?;
        write_atomically(path, |file| file.write_all(&bytes))?;
        Ok(())
    }

    /// Reads the file.
    ///
    /// # Errors
    /// If it is not there, cut, or not a checkpoint of this program.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read checkpoint {}", path.display()))?;
        let whole = || {
            format!(
                "{} is not a whole checkpoint of this program; start the run again with --overwrite",
                path.display()
            )
        };
        let (_, header) = SafeTensors::read_metadata(&bytes).with_context(whole)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let field =
            |name: &str| metadata.get(name).ok_or_else(|| anyhow!("no `{name}` in its header")).with_context(whole);
        if field("format")? != FORMAT {
            bail!("{}: its format is `{}`, expected `{FORMAT}`", path.display(), field("format")?);
        }
        let position = serde_json::from_str(field("position")?).with_context(whole)?;
        let config = field("config")?.clone();
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).with_context(whole)?;
        Ok(Self { position, config, tensors: tensors.into_iter().collect() })
    }

    /// Puts the parameters and running statistics into a network.
    ///
    /// # Errors
    /// If one is missing or has another shape.
    pub fn restore_network(&self, network: &Network) -> Result<()> {
        let parameters = network.parameters().into_iter().map(|p| (format!("parameter/{}", p.name), p.var));
        let buffers = network.buffers().into_iter().map(|(name, var)| (format!("buffer/{name}"), var));
        for (name, var) in parameters.chain(buffers) {
            let saved = self.tensors.get(&name).ok_or_else(|| anyhow!("the checkpoint has no {name}"))?;
            if saved.shape() != var.shape() {
                bail!("the checkpoint's {name} has shape {:?}, the network's {:?}", saved.shape(), var.shape());
            }
            var.set(&saved.to_device(var.device())?)?;
        }
        Ok(())
    }

    /// Puts the state of the optimisers back.
    ///
    /// # Errors
    /// If a parameter's state is missing or has another size.
    pub fn restore_optimizers(&self, optimizers: &mut Optimizers) -> Result<()> {
        let Optimizers { weights, splines, scalings, .. } = optimizers;
        for (group, optimizer) in [("weights", weights), ("splines", splines), ("splines", scalings)] {
            optimizer.restore(self.position.step, |name| self.tensors.get(&format!("{group}/{name}")).cloned())?;
        }
        Ok(())
    }
}
