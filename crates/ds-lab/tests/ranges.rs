//! Ranges that are fitted to the inputs of each layer.
#![allow(clippy::unwrap_used)]

use ds_lab::config::Config;
use ds_lab::data::Source;
use ds_lab::device::Context;
use ds_lab::results::metrics::{MetricsRow, SummaryRow, read_metrics};
use ds_lab::run::checkpoint::{Checkpoint, read_network};
use ds_lab::run::penalty::SplinePenalty;
use ds_lab::run::{self, Existing, Optimizers, RunOptions, Setup, evaluate, ranges, sparsify};
use std::path::Path;

const AREA: &str = "experiment = \"area2d\"\ndata.train_points = 300\ndata.test_grid = 20\ntrain.epochs = 6\n\
                    train.milestones = []\nactivation.range = \"auto\"\n";

fn config(more: &str) -> Config {
    Config::from_toml(&format!("{AREA}{more}")).unwrap()
}

fn setup(config: &Config) -> Setup {
    Setup::new(config, &Source::Auto { dir: None }, &Context::cpu()).unwrap()
}

fn run(config: &Config, directory: &Path, existing: Existing) -> SummaryRow {
    let options = RunOptions { directory: directory.to_owned(), existing, quiet: true };
    run::run(config, &Source::Auto { dir: None }, &options, &Context::cpu()).unwrap()
}

fn rows(directory: &Path) -> Vec<MetricsRow> {
    let rows = read_metrics(&directory.join("metrics.csv")).unwrap();
    rows.into_iter().map(|row| MetricsRow { seconds: 0.0, images_per_second: None, ..row }).collect()
}

fn ranges_of(setup: &Setup) -> Vec<f64> {
    setup.network.splines().iter().map(|spline| spline.grid().knot(spline.grid().size() - 1)).collect()
}

#[test]
fn a_fit_takes_in_the_inputs_and_keeps_the_function() {
    for optimizer in ["adam", "prox_adam"] {
        let config = config(&format!("activation.size = 101\noptimizer.splines.kind = \"{optimizer}\""));
        let setup = setup(&config);
        let penalty = SplinePenalty::new(&config, &setup.network).unwrap();
        let mut optimizers = Optimizers::new(&config, &setup.network, penalty.as_ref()).unwrap();
        let before = evaluate(&setup.network, &setup.train).unwrap();
        assert_eq!(ranges_of(&setup), [4.0; 2]);
        ranges::fit(&setup.network, &setup.train, &mut optimizers, penalty.as_ref()).unwrap();
        let after = evaluate(&setup.network, &setup.train).unwrap();
        // LeakyReLU has its kink at a knot of both grids.
        assert!((before.loss - after.loss).abs() < 1e-6, "{} {}", before.loss, after.loss);
        let fitted = ranges_of(&setup);
        assert!(fitted.iter().all(|range| (0.05..3.0).contains(range)), "{fitted:?}");
        let outside = sparsify::input_histograms(&setup.network, &setup.train, false).unwrap().counts;
        let shares: Vec<f64> = outside.iter().map(|histogram| histogram.share_outside()).collect();
        assert!(shares.iter().all(|share| *share < 0.005), "{shares:?}");
    }
}

#[test]
fn a_run_goes_on_with_the_grids_of_its_checkpoint() {
    // Epochs after 2 and 4; the second run stops between them and after both.
    let text = "activation.range_epochs = [2, 4]\ntrain.checkpoint_seconds = 0\ntrain.eval_every = 1\ndata.validation = 0.1\ntrain.keep_best = true\n";
    let whole = config(text);
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let summary = run(&whole, a.path(), Existing::Refuse);
    let fitted: Vec<f64> = summary.spline_ranges_of_layers.unwrap().split(' ').map(|r| r.parse().unwrap()).collect();
    assert_eq!((fitted.len(), summary.spline_range), (2, None));
    for (epochs, existing) in
        [(2, Existing::Refuse), (3, Existing::Resume), (5, Existing::Resume), (6, Existing::Resume)]
    {
        let mut cut = whole.clone();
        cut.train.epochs = epochs;
        run(&cut, b.path(), existing);
    }
    assert_eq!(rows(a.path()), rows(b.path()));
    // Every file of the run brings its grids along.
    let setup = setup(&whole);
    Checkpoint::read(&a.path().join("checkpoint.safetensors")).unwrap().restore_network(&setup.network).unwrap();
    for (range, expected) in ranges_of(&setup).iter().zip(&fitted) {
        assert!((range - expected).abs() < 1e-3);
    }
    assert_eq!(evaluate(&setup.network, &setup.test).unwrap().loss, summary.test_loss);
    for file in ["best.safetensors", "sparsified.safetensors"] {
        if a.path().join(file).exists() {
            let setup = self::setup(&whole);
            read_network(&a.path().join(file), &setup.network).unwrap();
            assert_ne!(ranges_of(&setup), [4.0; 2], "{file}");
        }
    }
}

#[test]
fn where_there_is_no_automatic_range() {
    for (text, expected) in [
        ("activation.range = \"auto\"\nactivation.kind = \"relu_spline\"", "bspline and explicit_linear"),
        ("activation.range = \"wide\"", "a number above 0 and up to 1000000, or \"auto\""),
        ("activation.range_epochs = [1]", "activation.range = \"auto\""),
        ("activation.range = \"auto\"\nactivation.range_epochs = [3, 2]", "ascending"),
    ] {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("experiment = \"area2d\"\n{text}")).unwrap();
        let error = Config::load(file.path(), &[]).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
