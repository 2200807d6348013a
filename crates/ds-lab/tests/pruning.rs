//! Pruning at the end of a run, and training after it.
#![allow(clippy::unwrap_used)]

use ds_lab::config::{Config, Judged, PruningMethod};
use ds_lab::data::{Samples, Source};
use ds_lab::device::Context;
use ds_lab::file_names::OF_PRUNING;
use ds_lab::run::checkpoint::{Checkpoint, read_network};
use ds_lab::run::{self, Diverged, Evaluation, Existing, RunOptions, Setup, evaluate, sparsify, verified};
use std::collections::HashMap;
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

#[test]
fn the_papers_method_judges_by_the_accuracy_of_the_config() {
    let directory = tempfile::tempdir().unwrap();
    let of_validation =
        config("sparsify.method = \"papers\"\nsparsify.accuracy = \"validation\"\ndata.validation = 0.3");
    let mut of_training = of_validation.clone();
    of_training.sparsify.accuracy = Judged::Training;
    let mut setup = trained(&of_validation, directory.path());
    let unchanged = evaluate(&setup.network, &setup.train).unwrap();
    let pruned = |config: &Config, setup: &Setup| {
        sparsify::run(config, setup, unchanged, directory.path()).unwrap().sparsified.unwrap()
    };
    let before = evaluate(&setup.network, setup.validation.as_ref().unwrap()).unwrap().accuracy.unwrap();
    let by_validation = pruned(&of_validation, &setup);
    assert!(before - by_validation.validation_accuracy.unwrap() <= of_validation.sparsify.tolerance);

    // A sample that the network has wrong: nothing can be lost, so that the largest threshold is allowed.
    let centre = |label: f32| Samples::points(&[[0.0, 0.0]], vec![label]).unwrap();
    let accuracy = |samples: &Samples| evaluate(&setup.network, samples).unwrap().accuracy;
    let wrong = [centre(0.0), centre(1.0)].into_iter().find(|samples| accuracy(samples) == Some(0.0)).unwrap();
    setup.validation = Some(wrong);
    assert_eq!(pruned(&of_validation, &setup).threshold, 100.0);
    assert!(pruned(&of_training, &setup).threshold < 100.0);
}

#[test]
fn files_of_pruned_networks_say_what_they_hold() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config("sparsify.method = \"both\"\nsparsify.finetune_epochs = 2");
    let setup = trained(&config, directory.path());
    let unchanged = evaluate(&setup.network, &setup.train).unwrap();
    let said = |file: &str| -> HashMap<String, String> {
        let bytes = std::fs::read(directory.path().join(file)).unwrap();
        let (mut metadata, _) = verified::parse(&bytes).unwrap();
        metadata.retain(|name, _| sparsify::METADATA.contains(&name.as_str()));
        metadata
    };
    let expected = |method: &str, knots: usize, epochs: usize, accuracy: Option<f64>| {
        let values = [method.to_owned(), knots.to_string(), epochs.to_string(), accuracy.unwrap().to_string()];
        sparsify::METADATA.map(str::to_owned).into_iter().zip(values).collect::<HashMap<_, _>>()
    };
    let outcome = sparsify::run(&config, &setup, unchanged, directory.path()).unwrap();
    let (refit, finetuned) = (outcome.refit.unwrap(), outcome.finetuned.unwrap());
    assert_eq!(said("sparsified.safetensors"), expected("refit", refit.knots, 0, refit.test_accuracy));
    assert_eq!(said("finetuned.safetensors"), expected("refit", finetuned.knots, 2, finetuned.test_accuracy));

    (config.sparsify.method, config.sparsify.finetune_epochs) = (Some(PruningMethod::Papers), 0);
    let outcome = sparsify::run(&config, &setup, unchanged, directory.path()).unwrap();
    let papers = outcome.sparsified.unwrap();
    assert_eq!(said("sparsified.safetensors"), expected("papers", papers.active_knots, 0, papers.test_accuracy));
}

#[test]
fn a_pruning_leaves_only_files_of_its_own_and_one_that_fails_all() {
    let directory = tempfile::tempdir().unwrap();
    let all = config("sparsify.method = \"both\"\nsparsify.finetune_epochs = 2");
    let mut refit = all.clone();
    (refit.sparsify.method, refit.sparsify.finetune_epochs) = (Some(PruningMethod::Refit), 0);
    let setup = trained(&all, directory.path());
    let unchanged = evaluate(&setup.network, &setup.train).unwrap();
    let left = || -> Vec<&str> { OF_PRUNING.into_iter().filter(|file| directory.path().join(file).exists()).collect() };
    let prune = |config: &Config, unchanged: Evaluation| sparsify::run(config, &setup, unchanged, directory.path());
    assert_eq!(left(), OF_PRUNING);
    let outcome = prune(&refit, unchanged).unwrap();
    assert_eq!(left(), ["sparsified.safetensors", "pruning.csv"]);
    assert_eq!(outcome.removed, ["finetuned.safetensors", "thresholds.csv"]);
    // No number of knots is good enough.
    let outcome = prune(&refit, Evaluation { accuracy: Some(200.0), ..unchanged }).unwrap();
    assert!(outcome.refit.is_none());
    assert_eq!(left(), ["pruning.csv"]);
    assert_eq!(outcome.removed, ["sparsified.safetensors"]);

    assert!(prune(&all, unchanged).unwrap().removed.is_empty());
    let table = directory.path().join("pruning.csv");
    std::fs::remove_file(&table).unwrap();
    std::fs::create_dir(&table).unwrap();
    assert!(prune(&refit, unchanged).is_err());
    assert_eq!(left(), OF_PRUNING);
}

/// The files of pruning that are there, with their contents.
fn files(directory: &Path) -> Vec<(&'static str, Vec<u8>)> {
    let read = |file: &'static str| std::fs::read(directory.join(file)).ok().map(|bytes| (file, bytes));
    OF_PRUNING.into_iter().filter_map(read).collect()
}

#[test]
fn files_of_pruned_networks_say_which_network_was_pruned() {
    let directory = tempfile::tempdir().unwrap();
    let config = config("sparsify.finetune_epochs = 2");
    // The run pruned what it had trained, and this is what its checkpoint holds.
    let setup = trained(&config, directory.path());
    let expected = sparsify::network_md5(&setup.network).unwrap();
    for file in ["sparsified.safetensors", "finetuned.safetensors"] {
        let bytes = std::fs::read(directory.path().join(file)).unwrap();
        assert_eq!(verified::parse(&bytes).unwrap().0[sparsify::PRUNED_FROM], expected, "{file}");
    }
    assert_ne!(sparsify::network_md5(&run::network(&config, 1).unwrap()).unwrap(), expected);
}

#[test]
fn a_training_after_pruning_that_diverges_is_an_error_and_changes_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let config = config("sparsify.method = \"both\"\nsparsify.finetune_epochs = 2");
    let setup = trained(&config, directory.path());
    let unchanged = evaluate(&setup.network, &setup.train).unwrap();
    let (before, network) = (files(directory.path()), parameters(&setup));
    assert_eq!(before.len(), 4);
    let mut steep = config.clone();
    // Other knots than those of the run, so that each file would be another one.
    steep.sparsify.tolerance = 10.0;
    steep.sparsify.finetune_lr = Some(1e30);
    // A single step, after which no other one has a loss.
    let mut one_step = steep.clone();
    (one_step.train.batch_size, one_step.sparsify.finetune_epochs) = (200, 1);
    for config in [steep, one_step] {
        let error = sparsify::run(&config, &setup, unchanged, directory.path()).unwrap_err();
        assert!(error.is::<Diverged>(), "{error:#}");
        assert!(format!("{error:#}").contains("choose a sparsify.finetune_lr"), "{error:#}");
        assert_eq!(files(directory.path()), before);
        assert_eq!(parameters(&setup), network);
        assert!(!directory.path().join(".pruning").exists());
    }
}

#[test]
fn files_that_a_killed_pruning_left_are_no_result() {
    let directory = tempfile::tempdir().unwrap();
    let config = config("");
    let setup = trained(&config, directory.path());
    let unchanged = evaluate(&setup.network, &setup.train).unwrap();
    let left = directory.path().join(".pruning");
    std::fs::create_dir(&left).unwrap();
    for file in ["finetuned.safetensors", "thresholds.csv.7.tmp"] {
        std::fs::write(left.join(file), "cut").unwrap();
    }
    sparsify::run(&config, &setup, unchanged, directory.path()).unwrap();
    let names: Vec<&str> = files(directory.path()).into_iter().map(|(file, _)| file).collect();
    assert_eq!((names, left.exists()), (vec!["sparsified.safetensors", "pruning.csv"], false));
}

#[test]
fn a_resumption_removes_pruned_networks_only_once_it_has_succeeded() {
    let config = config("sparsify.method = \"both\"\nsparsify.finetune_epochs = 2");
    let (mut steep, mut none) = (config.clone(), config.clone());
    steep.sparsify.finetune_lr = Some(1e30);
    none.sparsify.enabled = false;
    for (changed, succeeds) in [(steep, false), (none, true)] {
        let directory = tempfile::tempdir().unwrap();
        trained(&config, directory.path());
        let before = files(directory.path());
        let options = RunOptions { directory: directory.path().to_owned(), existing: Existing::Resume, quiet: true };
        let resumed = run::run(&changed, &Source::Auto { dir: None }, &options, &Context::cpu());
        assert_eq!(resumed.is_ok(), succeeds, "{resumed:?}");
        assert_eq!(files(directory.path()), if succeeds { Vec::new() } else { before });
    }
}
