//! Checkpoints: one safetensors file with everything that a run needs to go on as if it had never stopped.
//!
//! Tensors: `parameter/…`, `buffer/…`, `weights/…` and `splines/…` (state of the optimisers), `grid_step/…` where ranges were fitted to
//! the inputs. The header's metadata holds
//! the position in the run, the config, and a digest of the file ([`verified`]). The file is written beside its place, synced and
//! renamed.

use super::optimizers::Optimizers;
use super::setup::{Setup, TrainedOn};
use super::verified;
use crate::device::DEVICE_SEPARATOR;
use anyhow::{Context, Result, anyhow, bail};
use candle_core::{DType, Device, Tensor};
use ds_core::Grid;
use ds_core::activation::Spline;
use ds_nn::Network;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Sums over the finished part of an epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochSums {
    /// Σ loss · batch size.
    pub loss: f64,
    /// Number of correct predictions.
    pub correct: usize,
    /// Samples seen.
    pub samples: usize,
}

/// The epoch with the best validation, whose network is kept in [`BEST`](crate::file_names::BEST).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BestEpoch {
    /// Counted from 1, as in `metrics.csv`.
    pub epoch: usize,
    /// Mean validation loss.
    pub loss: f64,
    /// Validation accuracy in percent; `None` for regression.
    pub accuracy: Option<f64>,
}

impl BestEpoch {
    /// Whether it is strictly better than another one: by accuracy, then by loss.
    pub fn is_better_than(&self, other: &Self) -> bool {
        let accuracy = |best: &Self| best.accuracy.unwrap_or(0.0);
        accuracy(self) > accuracy(other) || (accuracy(self) == accuracy(other) && self.loss < other.loss)
    }
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
    /// The MD5 of these bytes.
    #[serde(default)]
    pub metrics_md5: Option<String>,
    /// The epoch with the best validation so far, where the config keeps its network.
    #[serde(default)]
    pub best: Option<BestEpoch>,
    /// What it was trained on, one after the other.
    #[serde(default)]
    pub devices: Vec<String>,
    /// Where its data came from, one after the other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<String>,
    /// What it is trained on; checkpoints of older versions do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trained_on: Option<TrainedOn>,
    /// The epochs after which ranges were fitted to the inputs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub range_epochs: Vec<usize>,
    /// The file that the network was imported from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported: Option<Import>,
}

/// The file that a network was imported from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Import {
    /// Its name.
    pub file: String,
    /// Its MD5.
    pub md5: String,
    /// Steps that were done when it was imported.
    pub step: u64,
    /// Batches that its batch norms had counted.
    pub batches: u64,
}

/// A checkpoint in memory.
pub struct Checkpoint {
    /// Where the run stands.
    pub position: Position,
    /// The resolved config, as TOML.
    pub config: String,
    tensors: BTreeMap<String, Tensor>,
}

/// A copy on the CPU, outside any graph.
fn detached_copy(tensor: &Tensor) -> candle_core::Result<Tensor> {
    let tensor = tensor.detach();
    if tensor.device().is_cpu() { tensor.copy() } else { tensor.to_device(&Device::Cpu) }
}

const FORMAT: &str = "deep-splines checkpoint 2";
/// Before there was a digest.
const FORMAT_WITHOUT_DIGEST: &str = "deep-splines checkpoint 1";
const NETWORK_FORMAT: &str = "deep-splines network 1";

impl Checkpoint {
    /// The state of a run.
    pub fn of_run(position: Position, config: String, network: &Network, optimizers: &Optimizers) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for parameter in network.parameters() {
            tensors.insert(format!("parameter/{}", parameter.name), detached_copy(&parameter.var)?);
        }
        for (name, buffer) in network.buffers() {
            tensors.insert(format!("buffer/{name}"), detached_copy(&buffer)?);
        }
        if !position.range_epochs.is_empty() {
            tensors.extend(grid_steps(network)?);
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
        verified::write(path, &self.tensors, metadata)
    }

    /// Reads the file and verifies its digest.
    ///
    /// # Errors
    /// If it is not there, cut, damaged, or not a checkpoint of this program.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read checkpoint {}", path.display()))?;
        Self::parse(&bytes).with_context(|| {
            format!(
                "{} is not a whole checkpoint of this program; put a copy of it there, or start the run again with --overwrite",
                path.display()
            )
        })
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let (metadata, tensors) = verified::parse(bytes)?;
        let field = |name: &str| metadata.get(name).ok_or_else(|| anyhow!("there is no `{name}` in its header"));
        match field("format")?.as_str() {
            FORMAT if !verified::has_digest(&metadata) => bail!("there is no digest in its header"),
            FORMAT | FORMAT_WITHOUT_DIGEST => {}
            other => bail!("its format is `{other}`, expected `{FORMAT}`"),
        }
        let position = serde_json::from_str(field("position")?).context("the position in its header")?;
        Ok(Self { position, config: field("config")?.clone(), tensors })
    }

    /// Refuses other data than that on which the run was trained.
    ///
    /// # Errors
    /// If it is the shipped sample here and was the data set there, the other way round, or of another size.
    pub fn check_data(&self, setup: &Setup) -> Result<()> {
        let Some(there) = self.position.trained_on.filter(|there| *there != setup.trained_on()) else { return Ok(()) };
        bail!(
            "the run was trained on {there} ({}), and here are {} ({}): give it the same data (--data, --data-dir), or write elsewhere \
             with --out DIR",
            self.position.origins.join(DEVICE_SEPARATOR),
            setup.trained_on(),
            setup.origin
        )
    }

    /// Puts the parameters and running statistics into a network.
    ///
    /// # Errors
    /// If one is missing or has another shape, or the network is frozen.
    pub fn restore_network(&self, network: &Network) -> Result<()> {
        network.check_variables()?;
        let parameters =
            network.parameters().into_iter().map(|p| (format!("parameter/{}", p.name), p.var.into_inner()));
        let buffers = network.buffers().into_iter().map(|(name, tensor)| (format!("buffer/{name}"), tensor));
        verified::restore("the checkpoint", &self.tensors, parameters.chain(buffers))?;
        restore_fixed(&self.tensors, network)
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

/// The distance of the knots of each spline layer, by the name of its coefficients.
fn grid_steps(network: &Network) -> Result<Vec<(String, Tensor)>> {
    let step = |(name, spline): (String, &Spline)| {
        Ok((format!("grid_step/{name}"), Tensor::new(&[spline.grid().step()], &Device::Cpu)?))
    };
    network.named_splines().into_iter().map(step).collect()
}

/// Moves knots to where a file has them, and puts back offsets that are not trained but that pruning changes. Files of earlier versions
/// have neither.
fn restore_fixed(tensors: &BTreeMap<String, Tensor>, network: &Network) -> Result<()> {
    for (name, spline) in network.named_splines() {
        let layer = name.rsplit_once('.').map_or("", |(layer, _)| layer);
        let names = [format!("{layer}.grid_step"), format!("grid_step/{name}")];
        if let Some((name, saved)) = names.iter().find_map(|name| Some((name, tensors.get(name)?))) {
            let step = saved.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
            let [step] = step[..] else { bail!("`{name}` has {} numbers, expected one", step.len()) };
            let grid = Grid::from_step(spline.grid().size(), step).with_context(|| format!("`{name}`"))?;
            spline.set_grid(grid)?;
        }
        let name = format!("{layer}.b0");
        if let Some(linear) = spline.linear_term().filter(|linear| linear.fixed_bias && tensors.contains_key(&name)) {
            verified::restore("it", tensors, [(name, linear.bias.clone())].into_iter())?;
        }
    }
    Ok(())
}

/// Writes a network without the state of its training, with a digest: all tensors by the names that [`Network::with_builder`] reads,
/// the distances of knots included. The entry `config` of the metadata is the config of the run.
///
/// # Errors
/// If the file cannot be written, or the network is frozen.
pub fn write_network_with(path: &Path, network: &Network, mut metadata: HashMap<String, String>) -> Result<()> {
    network.check_variables()?;
    let mut tensors = BTreeMap::new();
    network.map_tensors(|name, tensor| {
        tensors.insert(name.to_owned(), detached_copy(tensor)?);
        Ok(tensor.clone())
    })?;
    metadata.insert("format".to_owned(), NETWORK_FORMAT.to_owned());
    verified::write(path, &tensors, metadata)
}

/// The metadata entry of [`BEST`](crate::file_names::BEST) with the epoch that its network is of, counted from 1.
const EPOCH: &str = "epoch";

/// Writes the network of an epoch as [`BEST`](crate::file_names::BEST).
pub(super) fn write_best(path: &Path, network: &Network, config: &str, epoch: usize) -> Result<()> {
    let metadata = [("config".to_owned(), config.to_owned()), (EPOCH.to_owned(), epoch.to_string())];
    write_network_with(path, network, HashMap::from(metadata))
}

/// The epoch that the network of [`BEST`](crate::file_names::BEST) is of; files of older versions do not say it.
pub(super) fn epoch_of_best(path: &Path) -> Result<Option<usize>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read the network {}", path.display()))?;
    let read = || {
        let (metadata, _) = verified::parse(&bytes)?;
        metadata.get(EPOCH).map(|epoch| epoch.parse().with_context(|| format!("its epoch `{epoch}`"))).transpose()
    };
    read().with_context(|| {
        format!(
            "{} is not a whole file of a network; put a copy of it there, or move it away to go on without the best network so far",
            path.display()
        )
    })
}

/// Reads what [`write_network_with`] wrote into a network, and verifies its digest. Files of versions before there was one have no
/// metadata at all and are taken as they are.
///
/// # Errors
/// If the file cannot be read, is damaged, or a tensor is missing or has another shape, or if the network is frozen.
pub fn read_network(path: &Path, network: &Network) -> Result<()> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read the network {}", path.display()))?;
    let parse = || {
        let (metadata, tensors) = verified::parse(&bytes)?;
        match metadata.get("format").map(String::as_str) {
            Some(NETWORK_FORMAT) if verified::has_digest(&metadata) => {}
            None if metadata.is_empty() => {}
            Some(NETWORK_FORMAT) | None => bail!("there is no digest in its header"),
            Some(other) => bail!("its format is `{other}`, expected `{NETWORK_FORMAT}`"),
        }
        network.check_variables()?;
        let parameters = network.parameters().into_iter().map(|p| (p.name, p.var.into_inner()));
        verified::restore("it", &tensors, parameters.chain(network.buffers()))?;
        restore_fixed(&tensors, network)
    };
    parse().with_context(|| format!("{} is not a whole file of this network", path.display()))
}
