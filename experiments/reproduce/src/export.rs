//! A run's network for other programs.

use crate::run_folder;
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use ds_lab::config::Config;
use ds_lab::file_names::{FINETUNED, SPARSIFIED, SUMMARY};
use ds_lab::files;
use ds_lab::outln;
use ds_lab::results::metrics::read_summary;
use ds_lab::run::checkpoint::{Checkpoint, read_network, write_network_with};
use ds_lab::run::network;
use ds_lab::torch::write_state_dict;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What the file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Safetensors with the names and shapes of DeepSplines' classes, for load_state_dict.
    Torch,
    /// Safetensors with this project's names, for ds-nn and candle-nn.
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
    if let Some((file, _)) = args.pruned() {
        let path = args.run.join(file);
        if !path.exists() {
            bail!("there is no {}; reproduce sparsify {} writes it", path.display(), args.run.display());
        }
        read_network(&path, &network)?;
    }
    let out = args.file();
    if out.symlink_metadata().is_ok() && !args.overwrite {
        bail!("{} is there already: --overwrite replaces it, --out FILE writes elsewhere", out.display());
    }
    let metadata = metadata(args, &config, &checkpoint, &args.run)?;
    match args.format {
        Format::Torch => write_state_dict(&out, &config, &network, batches(&checkpoint), metadata)?,
        Format::Safetensors => write_network_with(&out, &network, metadata)?,
    }
    outln!("{}", out.display());
    Ok(())
}

/// The count that a batch norm of PyTorch would have.
fn batches(checkpoint: &Checkpoint) -> u64 {
    let position = &checkpoint.position;
    position.imported.as_ref().map_or(position.step, |from| from.batches + position.step.saturating_sub(from.step))
}

/// Where the network comes from.
fn metadata(
    args: &ExportArgs,
    config: &Config,
    checkpoint: &Checkpoint,
    run: &Path,
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
        if let Some(row) = rows.iter().rev().find(|row| row.is_of(config)) {
            let accuracy = match (args.sparsified, args.finetuned) {
                (true, _) => row.refit_test_accuracy.or(row.sparsified_test_accuracy),
                (_, true) => row.finetuned_test_accuracy,
                _ => row.test_accuracy,
            };
            metadata.extend(accuracy.map(|accuracy| ("test_accuracy".to_owned(), accuracy.to_string())));
            metadata.insert("run_revision".to_owned(), row.revision.clone());
        }
    }
    Ok(metadata)
}
