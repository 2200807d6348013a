//! A run's network for other programs.

use crate::run_folder;
use anyhow::{Context as _, Result, bail};
use candle_core::{DType, Device, Tensor};
use clap::ValueEnum;
use ds_core::graph::Graph;
use ds_lab::cli::DataArgs;
use ds_lab::config::Config;
use ds_lab::device::Context;
use ds_lab::file_names::{BOUNDS, CHECKPOINT, CONFIG, FINETUNED, LOCAL_BOUNDS, OF_RUN, SPARSIFIED, SUMMARY};
use ds_lab::files;
use ds_lab::onnx;
use ds_lab::results::metrics::{SummaryRow, read_summary};
use ds_lab::run::checkpoint::{Checkpoint, read_network, write_network_with};
use ds_lab::run::sparsify::METADATA;
use ds_lab::run::{Setup, network, verified};
use ds_lab::torch::write_state_dict;
use ds_lab::{note, outln};
use ds_nn::Network;
use ds_nn::layers::Mode;
use ds_nn::tape::Tape;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// What the file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// ONNX, opset 17: the network in evaluation mode, for any batch size.
    Onnx,
    /// Safetensors with the names and shapes of DeepSplines' classes, for load_state_dict.
    Torch,
    /// Safetensors with this project's names, for ds-nn's networks behind a VarBuilder of candle-nn.
    Safetensors,
}

/// Arguments of `reproduce export`.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// The run's directory, with its checkpoint.
    run: PathBuf,
    /// What the file is for.
    #[arg(long, value_enum)]
    format: Format,
    /// The network after sparsification.
    #[arg(long)]
    sparsified: bool,
    /// The network that was trained on after sparsification.
    #[arg(long, conflicts_with = "sparsified")]
    finetuned: bool,
    /// The file to write [default: in the run's directory, named after the format].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Writes the first N test samples, as the network takes them, and what it makes of them into a safetensors file beside the
    /// other one (`input` and `output` in NAME.samples.safetensors), to check another program with.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    samples: Option<u32>,
    #[command(flatten)]
    data: DataArgs,
    /// Replace a file that is there.
    #[arg(long)]
    overwrite: bool,
}

impl ExportArgs {
    /// The name of the pruned network's file, and what is added to the name of the exported one.
    fn pruned(&self) -> Option<(&'static str, &'static str)> {
        match (self.sparsified, self.finetuned) {
            (true, _) => Some((SPARSIFIED, "-sparsified")),
            (_, true) => Some((FINETUNED, "-finetuned")),
            _ => None,
        }
    }

    fn file(&self) -> PathBuf {
        let suffix = self.pruned().map_or("", |(_, suffix)| suffix);
        let name = match self.format {
            Format::Onnx => format!("network{suffix}.onnx"),
            Format::Torch => format!("torch{suffix}.safetensors"),
            Format::Safetensors => format!("network{suffix}.safetensors"),
        };
        self.out.clone().unwrap_or_else(|| self.run.join(name))
    }
}

pub fn run(args: &ExportArgs) -> Result<()> {
    let (checkpoint, config) = run_folder::open(&args.run)?;
    let network = network(&config, config.data.dataset.outputs())?;
    checkpoint.restore_network(&network)?;
    let pruned = args.pruned().map(|(file, _)| args.run.join(file));
    if let Some(path) = &pruned {
        if !path.exists() {
            let option = if args.finetuned { " --finetune-epochs N" } else { "" };
            bail!("there is no {}; reproduce sparsify {}{option} writes it", path.display(), args.run.display());
        }
        run_folder::check_pruned(path, &network, &config)?;
        read_network(path, &network)?;
    }
    let (out, samples) = (args.file(), args.file().with_extension("samples.safetensors"));
    for file in [Some(&out), args.samples.map(|_| &samples)].into_iter().flatten() {
        check_name(file)?;
        if file.symlink_metadata().is_ok() && !args.overwrite {
            bail!("{} is there already: --overwrite replaces it, --out FILE writes elsewhere", file.display());
        }
    }
    // Where the data is missing, nothing is written.
    let of_samples = args.samples.map(|count| test_samples(count as usize, &config, &checkpoint, &network, args));
    let of_samples = of_samples.transpose()?;
    let metadata = metadata(&config, &checkpoint, &args.run, pruned.as_deref())?;
    match args.format {
        Format::Onnx => onnx::write(&out, &network, config.data.dataset.sample(), metadata)?,
        Format::Torch => write_state_dict(&out, &config, &network, batches(&checkpoint), metadata)?,
        Format::Safetensors => write_network_with(&out, &network, metadata)?,
    }
    outln!("{}", out.display());
    if let Some(tensors) = of_samples {
        verified::write(&samples, &tensors, HashMap::new())?;
        outln!("{}", samples.display());
    }
    Ok(())
}

/// Refuses the name of a run's own file in the folder of a run.
fn check_name(file: &Path) -> Result<()> {
    let has = |name: &str| file.with_file_name(name).symlink_metadata().is_ok();
    let mut own = OF_RUN.into_iter().chain([BOUNDS, LOCAL_BOUNDS]);
    if own.any(|name| file.file_name().is_some_and(|file| file == name)) && [CHECKPOINT, CONFIG].into_iter().any(has) {
        bail!("{} is the name of a file of the run itself: --out FILE takes another name", file.display());
    }
    Ok(())
}

/// Test samples and what the network makes of them.
fn test_samples(
    count: usize,
    config: &Config,
    checkpoint: &Checkpoint,
    network: &Network,
    args: &ExportArgs,
) -> Result<BTreeMap<String, Tensor>> {
    let setup = Setup::new(config, &args.data.source()?, &Context::cpu())?;
    checkpoint.check_data(&setup)?;
    let test = setup.test.to(DType::F32, &Device::Cpu)?;
    let indices: Vec<usize> = (0..count.min(test.len())).collect();
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    for indices in indices.chunks(256) {
        let input = test.batch(indices, None)?.inputs;
        let mut tape = Tape::inference();
        let x = tape.constant(&input);
        let output = network.forward_in(&mut tape, &x, Mode::Evaluation)?;
        outputs.push(tape.tensor(&output).clone());
        inputs.push(input);
    }
    let [inputs, outputs] = [Tensor::cat(&inputs, 0)?, Tensor::cat(&outputs, 0)?];
    Ok(BTreeMap::from([("input".to_owned(), inputs), ("output".to_owned(), outputs)]))
}

/// The count that a batch norm of PyTorch would have.
fn batches(checkpoint: &Checkpoint) -> u64 {
    let position = &checkpoint.position;
    position.imported.as_ref().map_or(position.step, |from| from.batches + position.step.saturating_sub(from.step))
}

/// Where the network comes from; `pruned` is the file of a pruned one.
fn metadata(
    config: &Config,
    checkpoint: &Checkpoint,
    run: &Path,
    pruned: Option<&Path>,
) -> Result<HashMap<String, String>> {
    let mut metadata = HashMap::from([
        ("config".to_owned(), config.to_toml()),
        ("config_md5".to_owned(), config.md5()),
        ("seed".to_owned(), config.seed.to_string()),
        ("revision".to_owned(), files::revision()),
        ("step".to_owned(), checkpoint.position.step.to_string()),
    ]);
    if let Some(imported) = &checkpoint.position.imported {
        metadata.insert("imported".to_owned(), format!("{} (MD5 {})", imported.file, imported.md5));
    }
    let path = run.join(SUMMARY);
    if path.exists() {
        let rows = read_summary(&path).with_context(|| format!("cannot read {}", path.display()))?;
        // A row of an earlier end of the run is of another network.
        let is_meant = |row: &&SummaryRow| row.is_of(config) && row.epochs == config.train.epochs;
        if let Some(row) = rows.iter().rev().find(is_meant) {
            let accuracy = row.test_accuracy.filter(|_| pruned.is_none());
            metadata.extend(accuracy.map(|accuracy| ("test_accuracy".to_owned(), accuracy.to_string())));
            metadata.insert("run_revision".to_owned(), row.revision.clone());
        }
    }
    if let Some(path) = pruned {
        metadata.extend(of_pruned(path)?);
    }
    Ok(metadata)
}

/// What the file of a pruned network says of it. The summary may be of another pruning of the run.
fn of_pruned(path: &Path) -> Result<HashMap<String, String>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read the network {}", path.display()))?;
    let (mut entries, _) = verified::parse(&bytes).with_context(|| format!("cannot read {}", path.display()))?;
    entries.retain(|name, _| METADATA.contains(&name.as_str()));
    if entries.is_empty() {
        note!(
            "NOTE: {} is of an earlier version and does not say its test accuracy, so that the exported file has none; reproduce \
             sparsify writes it anew",
            path.display()
        );
    }
    Ok(entries)
}
