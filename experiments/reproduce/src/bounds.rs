//! Bounds of the Lipschitz constant of a trained network, from its checkpoint.

use crate::run_folder;
use anyhow::Result;
use ds_lab::cli::DataArgs;
use ds_lab::file_names::BOUNDS;
use ds_lab::lock::DirectoryLock;
use ds_lab::results::metrics::write_table;
use ds_lab::results::table::Table;
use ds_lab::run::bounds::{Bounds, POINTS, certified_accuracy};
use ds_lab::run::{Setup, radii};
use ds_lab::{out, outln};
use std::path::PathBuf;

/// Arguments of `reproduce bounds`.
#[derive(Debug, clap::Args)]
pub struct BoundsArgs {
    /// The run's directory, with its checkpoint; bounds.csv is written to it.
    run: PathBuf,
    #[command(flatten)]
    data: DataArgs,
    /// Test samples that the search for the lower bound starts from.
    #[arg(long, value_name = "N", default_value_t = POINTS)]
    points: usize,
}

pub fn run(args: &BoundsArgs) -> Result<()> {
    let (checkpoint, config) = run_folder::open(&args.run)?;
    let _lock = DirectoryLock::acquire(&args.run)?;
    let file = args.run.join(BOUNDS);
    run_folder::check_table::<Bounds>(&file)?;
    let setup = Setup::new(&config, &args.data.source()?, &args.data.context(0)?)?;
    checkpoint.restore_network(&setup.network)?;
    let bounds = Bounds::new(&setup.network, &setup.test, args.points.max(1))?;
    write_table(&file, &[bounds])?;
    let mut table = Table::new(
        &format!("{}, seed {}", config.name, config.seed),
        "Lipschitz constant of the network as a function of its (normalised) inputs",
        &["bound", "norms", "value", "seconds"],
    );
    let rows = [
        ("largest quotient found", "ℓ2", Some(bounds.lower_l2), bounds.lower_seconds),
        ("certified", "ℓ2", Some(bounds.certified_l2), bounds.certified_seconds),
        ("Aziznejad2020, p = 2", "ℓ2", bounds.papers_l2, bounds.papers_seconds),
        ("Aziznejad2020, p = 1", "ℓ1 to ℓ∞", bounds.papers_l1, bounds.papers_seconds),
    ];
    let exact = bounds.exact_l2.zip(bounds.exact_seconds);
    let exact = exact.map(|(value, seconds)| ("exact", "ℓ2", Some(value), seconds));
    for (name, norms, value, seconds) in rows[..1].iter().copied().chain(exact).chain(rows[1..].iter().copied()) {
        let value = match value {
            None => "none: activations of pairs".to_owned(),
            Some(value) if value < 1e6 => format!("{value:.6}"),
            Some(value) => format!("{value:.4e}"),
        };
        table.rows.push(vec![name.to_owned(), norms.to_owned(), value, format!("{seconds:.3}")]);
    }
    out!("{table}");
    if let Some(pieces) = bounds.pieces {
        outln!("exact: the largest gradient of {pieces} linear pieces");
    }
    if let Some(radii) = radii(config.data.dataset)
        && let Some(accuracies) = certified_accuracy(&setup.network, &setup.test, bounds.certified_l2, &radii)?
    {
        for (radius, accuracy) in radii.iter().zip(accuracies) {
            outln!("certified test accuracy at radius {radius:.4} (ℓ2, pixels in [0, 1]): {accuracy:.2} %");
        }
    }
    Ok(())
}
