//! Bounds of the Lipschitz constant of a trained network, from its checkpoint.

use crate::run_folder;
use anyhow::{Context, Result};
use ds_lab::cli::DataArgs;
use ds_lab::config::Config;
use ds_lab::file_names::{BOUNDS, LOCAL_BOUNDS};
use ds_lab::lock::DirectoryLock;
use ds_lab::results::metrics::write_table;
use ds_lab::results::statistics::median;
use ds_lab::results::table::Table;
use ds_lab::run::bounds::{Bounds, POINTS, certified_accuracy};
use ds_lab::run::local_bounds::{LocalBoundsRow, local_bounds};
use ds_lab::run::{Setup, radii};
use ds_lab::{out, outln};
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// Arguments of `reproduce bounds`.
#[derive(Debug, clap::Args)]
pub struct BoundsArgs {
    /// The run's directory, with its checkpoint; bounds.csv is written to it.
    run: PathBuf,
    #[command(flatten)]
    data: DataArgs,
    /// Test samples that the search for the lower bound starts from.
    #[arg(long, value_name = "N", default_value_t = POINTS, value_parser = points)]
    points: usize,
    /// Bounds on the ball of this radius (ℓ2, normalised inputs) round each of these samples as well; bounds-local.csv is
    /// written.
    #[arg(long, value_name = "RADIUS", value_parser = radius)]
    local: Option<f64>,
}

/// Within smaller balls, differences of outputs are those of rounding; no normalised input is outside of larger ones.
const RADII: RangeInclusive<f64> = 1e-6..=1e6;

fn radius(text: &str) -> Result<f64, String> {
    let radius = text.parse::<f64>().ok().filter(|radius| RADII.contains(radius));
    radius.ok_or_else(|| format!("a radius is a number from {:e} to {:e}", RADII.start(), RADII.end()))
}

fn points(text: &str) -> Result<usize, String> {
    text.parse::<usize>()
        .ok()
        .filter(|&points| points > 0)
        .ok_or_else(|| "expected a whole number from 1 on".to_owned())
}

pub fn run(args: &BoundsArgs) -> Result<()> {
    let (checkpoint, config) = run_folder::open(&args.run)?;
    let _lock = DirectoryLock::acquire(&args.run)?;
    let file = args.run.join(BOUNDS);
    run_folder::check_table::<Bounds>(&file)?;
    let local_file = args.run.join(LOCAL_BOUNDS);
    if args.local.is_some() {
        run_folder::check_table::<LocalBoundsRow>(&local_file)?;
    }
    let setup = Setup::new(&config, &args.data.source()?, &args.data.context(0)?)?;
    checkpoint.check_data(&setup)?;
    checkpoint.restore_network(&setup.network)?;
    let bounds = Bounds::new(&setup.network, &setup.test, args.points)?;
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
    if let (Some(pieces), Some(attained)) = (bounds.pieces, bounds.attained_l2) {
        outln!("exact: the largest gradient of {pieces} linear pieces; a pair of points attains {attained:.6}");
    }
    if let Some(radii) = radii(config.data.dataset)
        && let Some(accuracies) = certified_accuracy(&setup.network, &setup.test, bounds.certified_l2, radii)?
    {
        for (radius, accuracy) in radii.iter().zip(accuracies) {
            outln!("certified test accuracy at radius {radius:.4} (ℓ2, pixels in [0, 1]): {accuracy:.2} %");
        }
    }
    if let Some(radius) = args.local {
        let rows = local_bounds(&setup.network, &setup.test, radius, args.points)
            .context("bounds near the samples; without --local there are the others")?;
        write_table(&local_file, &rows)?;
        out!("{}", local_table(&config, radius, &rows));
    }
    Ok(())
}

fn local_table(config: &Config, radius: f64, rows: &[LocalBoundsRow]) -> Table {
    let mut table = Table::new(
        &format!("{}, seed {}, near test samples", config.name, config.seed),
        &format!("Lipschitz constant (ℓ2) on the ball of radius {radius} round each sample, for (normalised) inputs"),
        &["sample", "largest quotient found", "certified", "ratio", "seconds"],
    );
    let mut add = |name: String, lower: f64, certified: f64, ratio: Option<f64>, seconds: f64| {
        let ratio = ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.3}"));
        let cells = [format!("{lower:.6}"), format!("{certified:.6}"), ratio, format!("{seconds:.3}")];
        table.rows.push([name].into_iter().chain(cells).collect());
    };
    // None where the network is constant.
    let ratio = |row: &LocalBoundsRow| (row.lower_l2 > 0.0).then(|| row.certified_l2 / row.lower_l2);
    let seconds = |row: &LocalBoundsRow| row.lower_seconds + row.certified_seconds;
    for row in rows {
        add(row.sample.to_string(), row.lower_l2, row.certified_l2, ratio(row), seconds(row));
    }
    let median_of = |value: &dyn Fn(&LocalBoundsRow) -> f64| median(rows.iter().map(value).collect());
    let medians = (median_of(&|row| row.lower_l2), median_of(&|row| row.certified_l2));
    let ratios: Vec<f64> = rows.iter().filter_map(ratio).collect();
    let median_ratio = (!ratios.is_empty()).then(|| median(ratios));
    add("median".to_owned(), medians.0, medians.1, median_ratio, median_of(&seconds));
    table
}
