//! Pruning at the end of a run, and training after it.
#![allow(clippy::unwrap_used)]

use ds_lab::config::Config;
use ds_lab::data::Source;
use ds_lab::device::Context;
use ds_lab::run::checkpoint::{Checkpoint, read_network};
use ds_lab::run::{self, Existing, RunOptions, Setup, evaluate, sparsify};
use std::path::Path;

const AREA: &str = "experiment = \"area2d\"\ndata.train_points = 200\ndata.test_grid = 20\ntrain.epochs = 60\n\
                    train.milestones = []\nsparsify.tolerance = 3\n";

fn config(more: &str) -> Config {
    Config::from_toml(&format!("{AREA}{more}")).unwrap()
}

/// A trained network, and all of its parameters.
fn trained(config: &Config, directory: &Path) -> Setup {
    let source = Source::Auto { dir: None };
    let options = RunOptions { directory: directory.to_owned(), existing: Existing::Refuse, quiet: true };
    run::run(config, &source, &options, &Context::cpu()).unwrap();
    let setup = Setup::new(config, &source, &Context::cpu()).unwrap();
    let checkpoint = Checkpoint::read(&directory.join("checkpoint.safetensors")).unwrap();
    checkpoint.restore_network(&setup.network).unwrap();
    setup
}

fn parameters(setup: &Setup) -> Vec<Vec<f32>> {
    let values = |parameter: ds_core::Parameter| parameter.var.flatten_all().unwrap().to_vec1().unwrap();
    setup.network.parameters().into_iter().map(values).collect()
}

#[test]
fn the_network_is_left_as_it_was_whatever_is_tried() {
    let directory = tempfile::tempdir().unwrap();
    let config = config("sparsify.method = \"both\"\nsparsify.finetune_epochs = 3\nsparsify.iterate = true");
    let setup = trained(&config, directory.path());
    let (before, unchanged) = (parameters(&setup), evaluate(&setup.network, &setup.train).unwrap());
    let outcome = sparsify::run(&config, &setup, unchanged, directory.path()).unwrap();
    assert_eq!(parameters(&setup), before);

    let (refit, finetuned) = (outcome.refit.unwrap(), outcome.finetuned.unwrap());
    let least = unchanged.accuracy.unwrap() - config.sparsify.tolerance;
    assert!(refit.train_accuracy.unwrap() >= least && finetuned.knots <= refit.knots);
    // Turns have ever fewer knots; the chosen one is the last within the tolerance, or the first.
    let turns: Vec<_> = outcome.curve.iter().filter(|row| row.finetune_epochs > 0).collect();
    assert!(turns.iter().enumerate().all(|(k, row)| row.finetune_epochs == 3 * (k + 1)));
    assert!(turns.is_sorted_by(|a, b| a.knots > b.knots));
    let holds = turns.iter().filter(|row| row.train_accuracy.unwrap() >= least).count();
    assert_eq!(*turns[holds.max(1) - 1], finetuned);
    assert!(holds + 1 >= turns.len(), "{turns:?}");
    for file in ["sparsified.safetensors", "finetuned.safetensors", "thresholds.csv", "pruning.csv"] {
        assert!(directory.path().join(file).exists(), "{file}");
    }
}

#[test]
fn a_number_of_knots_needs_no_search() {
    let directory = tempfile::tempdir().unwrap();
    let config = config("sparsify.knots = 11\nsparsify.finetune_epochs = 2");
    let setup = trained(&config, directory.path());
    let unchanged = evaluate(&setup.network, &setup.train).unwrap();
    let outcome = sparsify::run(&config, &setup, unchanged, directory.path()).unwrap();
    let knots: Vec<(usize, usize)> = outcome.curve.iter().map(|row| (row.knots, row.finetune_epochs)).collect();
    assert_eq!(knots, [(11, 0), (11, 2)]);
}

/// Pruning fits the offset of a function again, also where training leaves it alone.
#[test]
fn an_offset_that_is_not_trained_is_pruned_saved_and_put_back() {
    let directory = tempfile::tempdir().unwrap();
    let config = config("sparsify.knots = 6\nactivation.kind = \"relu_spline\"\nactivation.fixed_bias = true");
    let setup = trained(&config, directory.path());
    let offsets = |network: &ds_nn::Network| -> Vec<f32> {
        let of = |spline: &&ds_core::activation::Spline| spline.linear_term().unwrap().bias.to_vec1::<f32>().unwrap();
        network.splines().iter().flat_map(of).collect()
    };
    let (before, unchanged) = (offsets(&setup.network), evaluate(&setup.network, &setup.train).unwrap());
    let outcome = sparsify::run(&config, &setup, unchanged, directory.path()).unwrap();
    assert_eq!(offsets(&setup.network), before);
    assert_eq!(evaluate(&setup.network, &setup.train).unwrap(), unchanged);

    let pruned = run::network(&config, 1).unwrap();
    read_network(&directory.path().join("sparsified.safetensors"), &pruned).unwrap();
    assert_ne!(offsets(&pruned), before);
    let accuracy = evaluate(&pruned, &setup.train).unwrap().accuracy;
    assert_eq!(accuracy, outcome.refit.unwrap().train_accuracy);
}
