//! A run that has a folder of its own.

use crate::config::Config;
use crate::file_names::{CHECKPOINT, SPARSIFIED};
use crate::results::metrics::{MetricsRow, PruningRow, SummaryRow, ThresholdRow};
use crate::run;
use crate::run::checkpoint::{Checkpoint, read_network};
use anyhow::{Context, Result, bail};
use ds_core::Group;
use ds_nn::Network;
use std::path::PathBuf;

/// The folder of a run.
#[derive(Debug)]
pub struct Run {
    /// The path inside of the results folder.
    pub name: String,
    /// The name of the sweep that the run belongs to.
    pub sweep: Option<String>,
    /// The resolved config.
    pub config: Config,
    /// The rows of `metrics.csv`.
    pub metrics: Vec<MetricsRow>,
    /// The row of `summary.csv`; `None` until the run has ended.
    pub summary: Option<SummaryRow>,
    /// The row of an earlier end, from which the run goes on and has not ended yet.
    pub earlier: Option<SummaryRow>,
    /// The rows of `thresholds.csv`.
    pub thresholds: Vec<ThresholdRow>,
    /// The rows of `pruning.csv`.
    pub pruning: Vec<PruningRow>,
    pub(super) directory: PathBuf,
}

impl Run {
    /// The path of the checkpoint.
    pub fn checkpoint(&self) -> PathBuf {
        self.directory.join(CHECKPOINT)
    }

    /// The path of the sparsified network.
    pub fn sparsified_network(&self) -> PathBuf {
        self.directory.join(SPARSIFIED)
    }

    /// The network with the parameters of the checkpoint; `None` without a checkpoint.
    ///
    /// # Errors
    /// If the checkpoint is damaged or of another run.
    pub fn network(&self) -> Result<Option<Network>> {
        let path = self.checkpoint();
        if !path.is_file() {
            return Ok(None);
        }
        let checkpoint = Checkpoint::read(&path)?;
        // Before the network is built, which could be one that does not fit into the memory.
        let saved = Config::from_toml(&checkpoint.config).context("the config in it is wrong")?;
        let mut config = self.config.clone();
        if self.summary.is_none() {
            // A run that was resumed with a longer schedule has a checkpoint of the shorter one for a while.
            (config.train.epochs, config.train.milestones) = (saved.train.epochs, saved.train.milestones.clone());
        }
        let differences = saved.training_differences(&config);
        if !differences.is_empty() {
            bail!("is of another run (there: the checkpoint, here: config.toml): {}", differences.join(", "));
        }
        let (epoch, epochs) = (checkpoint.position.epoch, config.train.epochs);
        if self.summary.is_some() && epoch < epochs {
            bail!("is of epoch {epoch}, the row of summary.csv is of the end of the run after {epochs} epochs");
        }
        let network = self.initial_network()?;
        checkpoint.restore_network(&network)?;
        Ok(Some(network))
    }

    /// The network after sparsification, for the one that it was made from; `None` if it was not saved.
    ///
    /// # Errors
    /// If the file is damaged or of another network.
    pub fn sparsified(&self, unchanged: &Network) -> Result<Option<Network>> {
        let path = self.sparsified_network();
        if !path.is_file() {
            return Ok(None);
        }
        let network = self.initial_network()?;
        read_network(&path, &network)?;
        if let Some(name) = changed_weights(unchanged, &network)? {
            bail!("is of another network: {name} differs from that of the checkpoint");
        }
        Ok(Some(network))
    }

    fn initial_network(&self) -> Result<Network> {
        run::network(&self.config, self.config.data.dataset.outputs())
            .with_context(|| format!("the network of {}", self.name))
    }
}

/// The first parameter outside of splines that differs between two networks of one architecture. Sparsification changes splines
/// only.
fn changed_weights(a: &Network, b: &Network) -> Result<Option<String>> {
    for (a, b) in a.parameters().into_iter().zip(b.parameters()).filter(|(a, _)| a.group == Group::Weights) {
        let values = |parameter: &ds_core::Parameter| parameter.var.flatten_all()?.to_vec1::<f32>();
        let is_same = values(&a)?.iter().zip(values(&b)?).all(|(a, b)| a.to_bits() == b.to_bits());
        if !is_same {
            return Ok(Some(a.name));
        }
    }
    Ok(None)
}
