//! From a file of PyTorch to the directory of a run.

use crate::run_folder;
use anyhow::{Context, Result};
use ds_lab::cli::DataArgs;
use ds_lab::lock::DirectoryLock;
use ds_lab::note;
use ds_lab::run::{Existing, RunOptions, Setup, run as evaluated};
use ds_lab::torch::{Given, import};
use std::path::PathBuf;

/// Arguments of `reproduce import`.
#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// A checkpoint of DeepSplines' program or a state_dict (.pth), or a safetensors file with the same names.
    file: PathBuf,
    /// Directory of the run, which gets its config, checkpoint and, where the data is at hand, summary.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The network of a file that does not say it: resnet32, nin, convnet or area.
    #[arg(long, value_name = "KIND")]
    network: Option<String>,
    /// The activation of a file that does not say it: bspline, explicit_linear, relu_spline, relu or leaky_relu.
    #[arg(long, value_name = "KIND")]
    activation: Option<String>,
    /// The data set of a file that does not say it, such as cifar10.
    #[arg(long, value_name = "NAME")]
    dataset: Option<String>,
    /// The range of the knots of a file that does not say it.
    #[arg(long, value_name = "RANGE", value_parser = positive)]
    range: Option<f64>,
    /// Another key of the run's config, but not other epochs than those that the file tells; may be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    data: DataArgs,
}

fn positive(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|v: &f64| *v > 0.0 && v.is_finite()).ok_or("expected a number above 0".to_owned())
}

pub fn run(args: &ImportArgs) -> Result<()> {
    let given = Given {
        network: args.network.clone(),
        activation: args.activation.clone(),
        dataset: args.dataset.clone(),
        range: args.range,
        set: args.set.clone(),
    };
    let imported = import(&args.file, &given)?;
    let (config, context) = (&imported.config, args.data.context(0)?);
    run_folder::check_new(&args.out)?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make the folder {}", args.out.display()))?;
    {
        let _lock = DirectoryLock::acquire(&args.out)?;
        run_folder::check_new(&args.out)?;
        imported.write(&args.out)?;
    }
    let (kind, activation) = (config.network.kind, config.activation.kind);
    let count = imported.network.parameter_count();
    note!("{}: {kind} with {activation}, {count} parameters, in {}", config.name, args.out.display());
    for text in &imported.notes {
        note!("NOTE: {text}");
    }
    let source = args.data.source()?;
    if let Err(problem) = Setup::new(config, &source, &context) {
        note!(
            "NOTE: there are no accuracies and no summary.csv: {problem:#}\n  once the data is there: reproduce train --config \
             {0}/config.toml --out {0} --resume",
            args.out.display()
        );
        return Ok(());
    }
    // A run without epochs left is evaluated.
    let options = RunOptions { directory: args.out.clone(), existing: Existing::Resume, quiet: false };
    evaluated(config, &source, &options, &context).map(|_| ())
}
