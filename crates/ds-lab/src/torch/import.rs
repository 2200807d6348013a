//! From a file of the original's program, or of its classes, to the directory of a run.

use super::archive::{self, Checkpoint as Saved, Optimizer as SavedOptimizer};
use super::names::{self, Entry};
use super::params::{self, Keys};
use crate::config::{Config, ConfigError, NetworkKind, Origin, Setting};
use crate::file_names::{CHECKPOINT, CONFIG};
use crate::files::{md5, write_atomically};
use crate::run::checkpoint::{Checkpoint, Import, Position};
use crate::run::{Optimizers, network, verified};
use anyhow::{Context, Result, anyhow, bail};
use candle_core::{DType, Tensor};
use ds_core::activation::ActivationKind;
use ds_core::variable;
use ds_nn::Network;
use ds_nn::optim::Optimizer;
use std::collections::BTreeMap;
use std::path::Path;

/// What the user says of a file that does not say it itself, such as a plain `state_dict`.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// The network.
    pub network: Option<String>,
    /// The activation.
    pub activation: Option<String>,
    /// The data set.
    pub dataset: Option<String>,
    /// The knots lie on [−range, range].
    pub range: Option<f64>,
    /// Other keys of the config, as `key.path=value`.
    pub set: Vec<String>,
}

impl Given {
    /// The options for what a file may say itself: name, key of the config, and value if it is given.
    fn options(&self) -> [(&'static str, &'static str, Option<String>); 4] {
        [
            ("network", "network.kind", self.network.clone()),
            ("activation", "activation.kind", self.activation.clone()),
            ("dataset", "data.dataset", self.dataset.clone()),
            ("range", "activation.range", self.range.map(|range| range.to_string())),
        ]
    }
}

/// A network that was read, before anything is written.
pub struct Imported {
    /// The config of its run.
    pub config: Config,
    /// The network.
    pub network: Network,
    /// What there is to know beside it.
    pub notes: Vec<String>,
    checkpoint: Checkpoint,
}

impl Imported {
    /// Writes config and checkpoint into a directory that is there, the config first.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, directory: &Path) -> Result<()> {
        write_atomically(&directory.join(CONFIG), |file| file.write_all(self.config.to_toml().as_bytes()))?;
        self.checkpoint.write(&directory.join(CHECKPOINT))
    }
}

/// What a file holds.
struct Contents {
    state: Vec<(String, Tensor)>,
    saved: Option<Saved>,
    /// The config in the metadata of a file of `reproduce export`.
    config: Option<String>,
}

/// Reads a file of `torch.save`, a checkpoint of the original's program or a `state_dict`, or a safetensors file with the same names.
///
/// # Errors
/// If the file cannot be read, is damaged, or does not fit the network; the message names the file and the entry.
pub fn import(path: &Path, given: &Given) -> Result<Imported> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    from_bytes(path, &bytes, given).with_context(|| format!("{} is not imported", path.display()))
}

fn from_bytes(path: &Path, bytes: &[u8], given: &Given) -> Result<Imported> {
    let Contents { state: entries, saved, config: exported } = contents(bytes)?;
    let order: Vec<String> = entries.iter().map(|(name, _)| name.clone()).collect();
    let state: BTreeMap<String, Tensor> = entries.into_iter().collect();
    let table = match &exported {
        Some(text) => text.parse::<toml::Table>().context("the config in its metadata")?,
        None => keys(path, saved.as_ref(), &state, given)?.0,
    };
    let is_told = exported.is_some() || saved.as_ref().is_some_and(|saved| saved.epochs.is_some());
    let told = table.get("train").and_then(|train| train.get("epochs")?.as_integer()).filter(|_| is_told);
    let config = overlaid(table, given, |key| {
        if exported.is_some() {
            return "the config in its metadata".to_owned();
        }
        if saved.as_ref().is_some_and(|saved| !saved.params.is_empty()) {
            return "the settings in it".to_owned();
        }
        let network = given.network.as_ref().and_then(|name| name.parse::<NetworkKind>().ok());
        network.and_then(|network| params::shapes_of(key, network, &state)).unwrap_or_else(|| "the file".to_owned())
    })?;
    if let Some(told) = told {
        check_epochs(told, config.train.epochs)?;
    }
    let network = network(&config, config.data.dataset.outputs())?;
    let entries = names::entries(&config, &network)?;
    fill(&entries, &state)?;
    let mut notes = Vec::new();
    let mut optimizers = Optimizers::new(&config, &network, None)?;
    let steps = saved.as_ref().and_then(|saved| saved.steps).unwrap_or(0);
    match &saved {
        Some(saved) => {
            if let Err(problem) = restore(&mut optimizers, saved, &entries, &order, steps) {
                // Some of them may have been restored.
                optimizers = Optimizers::new(&config, &network, None)?;
                notes.push(format!("the optimisers start from zero averages: {problem:#}"));
            }
        }
        None => notes.push("the file has no optimisers: training would start from zero averages".to_owned()),
    }
    let batches = state.iter().filter(|(name, _)| name.ends_with(BATCHES)).map(|(_, count)| scalar(count)).max();
    let imported = Import {
        file: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        md5: md5(bytes),
        step: steps,
        batches: batches.flatten().unwrap_or(0),
    };
    let position = Position {
        epoch: config.train.epochs,
        step: steps,
        devices: vec!["unknown".to_owned()],
        imported: Some(imported),
        ..Position::default()
    };
    let checkpoint = Checkpoint::of_run(position, config.to_toml(), &network, &optimizers)?;
    Ok(Imported { config, network, notes, checkpoint })
}

/// Refuses other epochs than those that a file tells: an imported run has had all epochs of its config, and its row says how many.
fn check_epochs(told: i64, epochs: usize) -> Result<()> {
    if i64::try_from(epochs) == Ok(told) {
        return Ok(());
    }
    bail!(
        "--set train.epochs={epochs}: by its file the network has had {told} epochs, and the run's row says as many; import it \
         without this key, and train it on with `reproduce train --config DIR/config.toml --out DIR --resume --set \
         train.epochs={epochs}`"
    )
}

/// The end of the names of batch norms' counters.
pub(super) const BATCHES: &str = ".num_batches_tracked";

fn scalar(count: &Tensor) -> Option<u64> {
    let count = count.to_dtype(DType::I64).and_then(|count| count.flatten_all()?.to_vec1::<i64>()).ok()?;
    u64::try_from(*count.first()?).ok()
}

/// What the formats of checkpoints and networks of this program begin with.
const OWN_FORMATS: &str = "deep-splines ";

fn contents(bytes: &[u8]) -> Result<Contents> {
    // The header of a safetensors file begins behind eight bytes of its length.
    if bytes.get(8) != Some(&b'{') {
        let file = archive::parse(bytes).map_err(|problem| anyhow!(problem))?;
        return Ok(Contents { state: file.state, saved: file.checkpoint, config: None });
    }
    let (metadata, tensors) = verified::parse(bytes)?;
    if let Some(format) = metadata.get("format").filter(|format| format.starts_with(OWN_FORMATS)) {
        bail!(
            "it is a file of this program ({format}) and not of PyTorch: `reproduce export RUN --format torch` writes the network \
             of a run as a file that can be imported (--sparsified, --finetuned: a pruned one)"
        );
    }
    Ok(Contents { state: tensors.into_iter().collect(), saved: None, config: metadata.get("config").cloned() })
}

/// The keys that the file and the user give.
fn keys(path: &Path, saved: Option<&Saved>, state: &BTreeMap<String, Tensor>, given: &Given) -> Result<Keys> {
    let mut keys = Keys::default();
    keys.set("name", run_name(path));
    // `reproduce sparsify` does it when it is wanted.
    keys.set("sparsify.enabled", false);
    match saved.filter(|saved| !saved.params.is_empty()) {
        Some(saved) => params::set_params(&mut keys, saved)?,
        None => {
            let flag = |value: &Option<String>, name: &str| {
                value.clone().with_context(|| format!("the file does not say its {name}; give --{name}"))
            };
            let network = flag(&given.network, "network")?;
            let kind = network.parse::<NetworkKind>().map_err(|error| anyhow!("--network: {error}"))?;
            let experiment = params::experiment(kind);
            let experiment =
                experiment.with_context(|| format!("--network {kind}: DeepSplines has no such network"))?;
            let activation = flag(&given.activation, "activation")?;
            let function = activation.parse::<ActivationKind>().map_err(|error| anyhow!("--activation: {error}"))?;
            if let Some(range) = given.range.filter(|_| !function.is_spline()) {
                bail!("--range {range}: {function} has no knots; leave --range out");
            }
            keys.set("experiment", experiment.name());
            keys.set("network.kind", network);
            keys.set("activation.kind", activation);
            keys.set("data.dataset", flag(&given.dataset, "dataset")?);
            let epochs = saved.and_then(|saved| saved.epochs).map_or(1, |epochs| epochs.max(1));
            keys.set("train.epochs", i64::try_from(epochs)?);
            keys.set("train.milestones", toml::Value::Array(Vec::new()));
            params::set_hidden(&mut keys, kind, state)?;
            if function.is_spline() {
                params::set_grid(&mut keys, kind, state, given.range)?;
            }
        }
    }
    Ok(keys)
}

/// The config of a table, with what the user gives for keys that the table does not have; `place` names where it has a key from.
fn overlaid(table: toml::Table, given: &Given, place: impl Fn(&str) -> String) -> Result<Config> {
    let mut keys = Keys(table);
    for (option, path, text) in given.options() {
        let Some(text) = text else { continue };
        let value = value_of(path, &text);
        match keys.get(path).map(shown) {
            None if option == "range" && keys.get("activation.step").is_some() => {
                bail!("--range {text}: the file says activation.step, by which the knots lie; leave --range out")
            }
            None => keys.set(path, value),
            Some(told) if value_of(path, &told) == value => {}
            Some(told) => {
                bail!("the file says {option} {told}; leave --{option} out, or use --set {path}={text}")
            }
        }
    }
    let settings = given.set.iter().map(|text| Setting::parse(text)).collect::<Result<Vec<_>, ConfigError>>()?;
    Config::from_table(keys.0, Origin::Defaults, &settings).map_err(|error| placed(error, given, place))
}

/// The value that a text stands for, under its present name.
fn value_of(path: &str, text: &str) -> toml::Value {
    let setting = Setting::parse(&format!("{path}={text}"));
    setting.map_or_else(|_| toml::Value::String(text.to_owned()), |setting| setting.value)
}

fn shown(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Float(number) => number.to_string(),
        other => other.to_string(),
    }
}

/// An error of a config with the option or the part of the file that its key comes from, instead of the defaults.
fn placed(error: ConfigError, given: &Given, place: impl Fn(&str) -> String) -> anyhow::Error {
    let text = error.to_string();
    let Some(rest) = text.strip_prefix(&format!("{}: ", Origin::Defaults)) else { return error.into() };
    let key = match &error {
        ConfigError::Value { key, .. } | ConfigError::UnknownKey { key, .. } => key.as_str(),
        _ => "",
    };
    let option = given.options().into_iter().find_map(|(option, path, text)| {
        let text = text.filter(|_| path == key)?;
        Some(format!("--{option} {text}"))
    });
    anyhow!("{}: {rest}", option.unwrap_or_else(|| place(key)))
}

/// A run's name from that of a file.
fn run_name(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name: String = stem.chars().map(|c| if c.is_alphanumeric() || "._-=".contains(c) { c } else { '_' }).collect();
    let name = name.trim_start_matches('.');
    if name.is_empty() { "imported".to_owned() } else { name.chars().take(100).collect() }
}

/// Puts a state dict into a network; each has what the other has.
fn fill(entries: &[Entry], state: &BTreeMap<String, Tensor>) -> Result<()> {
    for entry in entries {
        let Some(tensor) = state.get(&entry.name) else {
            bail!("it has no entry `{}` ({} of the network)", entry.name, entry.ours)
        };
        if tensor.dims() != entry.shape() {
            bail!("its entry `{}` has shape {:?}, expected {:?}", entry.name, tensor.dims(), entry.shape());
        }
        if !tensor.dtype().is_float() {
            bail!("its entry `{}` is of type {:?}, expected floating-point numbers", entry.name, tensor.dtype());
        }
        let tensor = tensor.to_dtype(DType::F32)?;
        if !tensor.flatten_all()?.to_vec1::<f32>()?.iter().all(|number| number.is_finite()) {
            bail!(
                "its entry `{}` has numbers that are NaN or too large for f32: save a network from before its training diverged",
                entry.name
            );
        }
        variable(&entry.ours, &entry.tensor)?.set(&tensor.reshape(entry.tensor.shape())?)?;
    }
    let is_known = |name: &String| name.ends_with(BATCHES) || entries.iter().any(|entry| entry.name == *name);
    if let Some(name) = state.keys().find(|name| !is_known(name)) {
        bail!("its entry `{name}` is of no parameter of the network");
    }
    Ok(())
}

/// Puts the moving averages of the original's optimisers into ours.
fn restore(optimizers: &mut Optimizers, saved: &Saved, entries: &[Entry], order: &[String], steps: u64) -> Result<()> {
    let of_name = |name: &String| entries.iter().find(|entry| entry.name == *name);
    // In the order of the modules, without running statistics.
    let parameters = order.iter().filter_map(of_name).filter(|entry| !entry.ours.contains(".running_"));
    let is_spline = |entry: &&Entry| {
        let last = entry.ours.rsplit('.').next().unwrap_or_default();
        ["coefficients", "slopes", "b1", "b0"].contains(&last)
    };
    let main = saved.main.as_ref().context("the file has none")?;
    let (splines, weights): (Vec<&Entry>, Vec<&Entry>) = match &saved.aux {
        Some(_) => parameters.partition(is_spline),
        // One optimiser has all of them.
        None => (Vec::new(), parameters.collect()),
    };
    let mut averages = BTreeMap::new();
    for (optimizer, entries) in [(Some(main), weights), (saved.aux.as_ref(), splines)] {
        let Some(optimizer) = optimizer else { continue };
        if optimizer.state.len() != entries.len() {
            bail!("an optimiser has {} parameters, the network {}", optimizer.state.len(), entries.len());
        }
        for (entry, state) in entries.into_iter().zip(&optimizer.state) {
            averages.insert(entry.ours.clone(), flat_state(optimizer, state, entry)?);
        }
    }
    let put = |optimizer: &mut Optimizer| optimizer.restore(steps, |name| averages.get(name).cloned());
    put(&mut optimizers.weights)?;
    put(&mut optimizers.splines)?;
    Ok(())
}

/// Moving averages one after the other, as [`Optimizer::state`] has them.
fn flat_state(optimizer: &SavedOptimizer, state: &[(String, Tensor)], entry: &Entry) -> Result<Tensor> {
    let names: &[&str] = if optimizer.momentum.is_some() { &["momentum_buffer"] } else { &["exp_avg", "exp_avg_sq"] };
    let count = entry.tensor.elem_count();
    let mut all = Vec::with_capacity(names.len() * count);
    for name in names {
        let average = state.iter().find(|(key, _)| key == name);
        let (_, average) = average.with_context(|| format!("there is no {name} of `{}`", entry.name))?;
        if average.elem_count() != count {
            bail!("{name} of `{}` has {} numbers, expected {count}", entry.name, average.elem_count());
        }
        all.extend(average.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?);
        if !all.iter().all(|number| number.is_finite()) {
            bail!("{name} of `{}` has numbers that are NaN or too large for f32", entry.name);
        }
    }
    Ok(Tensor::from_vec(all, (names.len(), count), &candle_core::Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_averages_of_one_optimiser_are_those_of_weights_and_splines() {
        let text = "experiment = \"area2d\"\nnetwork.hidden = [3]\noptimizer.weights.kind = \"sgd\"\n";
        let config = |more: &str| Config::from_toml(&format!("{text}{more}")).unwrap();
        let of_both = config("optimizer.splines.kind = \"sgd\"");
        let network = network(&of_both, of_both.data.dataset.outputs()).unwrap();
        let entries = names::entries(&of_both, &network).unwrap();
        let order: Vec<String> = entries.iter().map(|entry| entry.name.clone()).collect();
        let average = |(k, entry): (usize, &Entry)| {
            let average = Tensor::full(k as f32, entry.tensor.dims(), &candle_core::Device::Cpu).unwrap();
            vec![("momentum_buffer".to_owned(), average)]
        };
        let state = entries.iter().enumerate().map(average).collect();
        let main = SavedOptimizer { lr: Some(0.1), momentum: Some(0.9), state };
        let saved =
            Saved { params: Vec::new(), epochs: None, steps: Some(3), main: Some(main), aux: None, schedule: None };
        let mut optimizers = Optimizers::new(&of_both, &network, None).unwrap();
        restore(&mut optimizers, &saved, &entries, &order, 3).unwrap();
        let restored = [optimizers.weights.state().unwrap(), optimizers.splines.state().unwrap()];
        assert_eq!(restored.iter().map(Vec::len).sum::<usize>(), entries.len());
        for (name, state) in restored.into_iter().flatten() {
            let place = entries.iter().position(|entry| entry.ours == name).unwrap();
            let averages = state.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(averages.iter().all(|average| *average == place as f32), "{name}: {averages:?}");
        }
        // Splines with another rule than that of the file have nothing to take from it.
        let mut other = Optimizers::new(&config("optimizer.splines.kind = \"adam\""), &network, None).unwrap();
        assert!(restore(&mut other, &saved, &entries, &order, 3).is_err());
    }
}
