//! What a results folder holds: runs and sweeps.

use crate::checkpoint::Checkpoint;
use crate::config::{Config, Dataset};
use crate::experiment;
use crate::metrics::{MetricsRow, SummaryRow, ThresholdRow, read_metrics, read_summary, read_table};
use crate::sparsify;
use anyhow::{Context, Result};
use ds_nn::networks::Network;
use std::path::{Path, PathBuf};

/// A directory of a run.
pub struct Run {
    /// Its path inside the results.
    pub name: String,
    /// The name of the sweep that it is part of, if it is.
    pub sweep: Option<String>,
    /// Its resolved config.
    pub config: Config,
    /// Its rows by epoch.
    pub metrics: Vec<MetricsRow>,
    /// Its summary, once it has ended.
    pub summary: Option<SummaryRow>,
    /// What the search for a threshold saw.
    pub thresholds: Vec<ThresholdRow>,
    directory: PathBuf,
}

/// A directory of a sweep.
pub struct Sweep {
    /// Its path inside the results.
    pub name: String,
    /// A row for each run.
    pub rows: Vec<SummaryRow>,
}

/// All runs and sweeps, by path.
pub struct Results {
    /// The runs.
    pub runs: Vec<Run>,
    /// The sweeps.
    pub sweeps: Vec<Sweep>,
}

impl Run {
    /// The network with its trained parameters; `None` without a checkpoint.
    ///
    /// # Errors
    /// If the checkpoint is not one of this run's network.
    pub fn network(&self) -> Result<Option<Network>> {
        let path = self.directory.join("checkpoint.safetensors");
        if !path.exists() {
            return Ok(None);
        }
        let network = self.initial_network()?;
        Checkpoint::read(&path)?.restore_network(&network).with_context(|| format!("checkpoint {}", path.display()))?;
        Ok(Some(network))
    }

    /// The network after sparsification; `None` if it was not saved.
    ///
    /// # Errors
    /// If the file is not one of this run's network.
    pub fn sparsified(&self) -> Result<Option<Network>> {
        let path = self.directory.join(sparsify::NETWORK);
        if !path.exists() {
            return Ok(None);
        }
        let network = self.initial_network()?;
        sparsify::restore_network(&path, &network)?;
        Ok(Some(network))
    }

    fn initial_network(&self) -> Result<Network> {
        let classes = match self.config.data.dataset {
            Dataset::Cifar100 => 100,
            Dataset::Cifar10 | Dataset::Mnist | Dataset::FashionMnist => 10,
            _ => 1,
        };
        experiment::network(&self.config, classes).with_context(|| format!("the network of {}", self.name))
    }
}

/// Reads a folder and all folders inside it, but for those that begin with a dot and links.
///
/// # Errors
/// If a file cannot be read or has other contents than it should; the error names it.
pub fn read(root: &Path) -> Result<Results> {
    let mut results = Results { runs: Vec::new(), sweeps: Vec::new() };
    walk(root, root, None, &mut results)?;
    // A sweep that goes on has no table of its own yet.
    for sweep in results.sweeps.iter_mut().filter(|sweep| sweep.rows.is_empty()) {
        let inside = results.runs.iter().filter(|run| run.sweep.as_ref() == Some(&sweep.name));
        sweep.rows = inside.filter_map(|run| run.summary.clone()).collect();
    }
    Ok(results)
}

fn walk(root: &Path, directory: &Path, sweep: Option<&str>, results: &mut Results) -> Result<()> {
    let relative = directory.strip_prefix(root).unwrap_or(directory);
    let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
    let name = if parts.is_empty() { "results".to_owned() } else { parts.join("/") };
    let has = |file: &str| directory.join(file).is_file();
    let summary = directory.join("summary.csv");
    let mut sweep = sweep.map(str::to_owned);
    if has("sweep.toml") {
        let rows = if summary.is_file() { read_summary(&summary)? } else { Vec::new() };
        results.sweeps.push(Sweep { name: name.clone(), rows });
        sweep = Some(name);
    } else if has("config.toml") && has("metrics.csv") {
        let path = directory.join("config.toml");
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let config = Config::from_toml(&text).with_context(|| format!("config {}", path.display()))?;
        let rows = if summary.is_file() { read_summary(&summary)? } else { Vec::new() };
        let thresholds = directory.join(sparsify::THRESHOLDS);
        results.runs.push(Run {
            name,
            sweep: sweep.clone(),
            metrics: read_metrics(&directory.join("metrics.csv"))?,
            summary: rows.into_iter().find(|row| row.seed == config.seed),
            thresholds: if thresholds.is_file() { read_table(&thresholds)? } else { Vec::new() },
            config,
            directory: directory.to_owned(),
        });
    }
    let entries = std::fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut inner = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", directory.display()))?;
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if !hidden && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            inner.push(entry.path());
        }
    }
    inner.sort();
    inner.iter().try_for_each(|inner| walk(root, inner, sweep.as_deref(), results))
}
