//! Runs by several replicas, here threads on the CPU: the same rows as those of one process, and the same weights everywhere.
#![allow(clippy::unwrap_used)]

#[path = "../../ds-nn/tests/common/threads.rs"]
mod threads;

use anyhow::Result;
use candle_core::Tensor;
use ds_lab::config::Config;
use ds_lab::data::Source;
use ds_lab::device::Context;
use ds_lab::results::metrics::{MetricsRow, SummaryRow, read_metrics};
use ds_lab::run::checkpoint::Checkpoint;
use ds_lab::run::{Existing, RunOptions, Setup, Trainer, run, run_replica};
use ds_nn::parallel::Communicator;
use std::path::Path;
use tempfile::tempdir;
use threads::{Counting, replicas};

const GENERATED: Source = Source::Auto { dir: None };

/// Rows within and after epochs, a penalty, and 2 samples in the last of 215 batches.
fn area() -> Config {
    let text = "experiment = \"area2d\"\ntrain.batch_size = 7\ntrain.epochs = 4\ntrain.eval_every = 2\ntrain.log_steps = 100\n\
                train.milestones = [3]\ndata.test_grid = 20\ntrain.checkpoint_seconds = 0\nregularization.lambda = 0.001";
    Config::from_toml(text).unwrap()
}

/// With batch norm, crops and flips.
fn resnet() -> Config {
    let text = "experiment = \"cifar10\"\ntrain.batch_size = 8\ntrain.epochs = 2\ntrain.milestones = [1]\n\
                train.max_train_images = 21\ntrain.max_test_images = 10";
    Config::from_toml(text).unwrap()
}

fn options(directory: &Path, resume: bool) -> RunOptions {
    let existing = if resume { Existing::Resume } else { Existing::Refuse };
    RunOptions { directory: directory.to_owned(), existing, quiet: true }
}

/// What every rank returns.
fn run_on(size: usize, config: &Config, source: &Source, options: &RunOptions) -> Vec<Result<Option<SummaryRow>>> {
    replicas(size, |communicator| run_replica(config, source, options, communicator, &Context::cpu()))
}

/// Trains, and leaves out what comes after the last step.
fn train(config: &Config, source: &Source, directory: &Path, communicator: Option<&dyn Communicator>) -> Setup {
    let setup = Setup::new(config, source, &Context::cpu()).unwrap();
    Trainer::new(config, &setup, directory, None, communicator).unwrap().run(true).unwrap();
    setup
}

/// The rows without what the clock says.
fn rows(directory: &Path) -> Vec<MetricsRow> {
    let rows = read_metrics(&directory.join("metrics.csv")).unwrap();
    rows.into_iter().map(|row| MetricsRow { seconds: 0.0, images_per_second: None, ..row }).collect()
}

/// Equal but for rounding, which grows from step to step, most of all where a slope change is about 0: its penalty pulls it to either
/// side.
fn assert_alike(what: &str, ours: &[MetricsRow], expected: &[MetricsRow]) {
    assert_eq!(ours.len(), expected.len(), "{what}: rows");
    for (ours, expected) in ours.iter().zip(expected) {
        let at = |row: &MetricsRow| (row.epoch, row.step, row.split, row.lr_weights.to_bits());
        assert_eq!(at(ours), at(expected), "{what}");
        let close = |ours: f64, expected: f64, tolerance: f64| (ours - expected).abs() <= tolerance * expected.abs();
        assert!(close(ours.loss, expected.loss, 1e-3), "{what}: {ours:?}, expected {expected:?}");
        assert!(close(ours.regularizer, expected.regularizer, 2e-2), "{what}: {ours:?}, expected {expected:?}");
        let accuracies = (ours.accuracy.unwrap(), expected.accuracy.unwrap());
        assert!((accuracies.0 - accuracies.1).abs() <= 0.5, "{what}: {ours:?}, expected {expected:?}");
    }
}

#[test]
fn the_rows_of_one_process() {
    let alone = tempdir().unwrap();
    let summary = run(&area(), &GENERATED, &options(alone.path(), false), &Context::cpu()).unwrap();
    for size in [1, 2, 3] {
        let together = tempdir().unwrap();
        let results = run_on(size, &area(), &GENERATED, &options(together.path(), false));
        let summaries: Vec<Option<SummaryRow>> = results.into_iter().map(Result::unwrap).collect();
        assert!(summaries.iter().skip(1).all(Option::is_none));
        let ours = summaries[0].clone().unwrap();
        assert!((ours.test_loss - summary.test_loss).abs() < 2e-3 * summary.test_loss, "{ours:?}, alone {summary:?}");
        assert_alike(&format!("{size} replicas"), &rows(together.path()), &rows(alone.path()));
        if size == 1 {
            assert_eq!(rows(together.path()), rows(alone.path()));
            assert_eq!((ours.device.as_str(), ours.test_loss), ("cpu", summary.test_loss));
        } else {
            assert_eq!(ours.device, format!("{size} × cpu"));
        }
        // A run that is done is done for all.
        let again = run_on(size, &area(), &GENERATED, &options(together.path(), true));
        assert_eq!(again.into_iter().map(Result::unwrap).collect::<Vec<_>>(), summaries);
    }
}

#[test]
fn one_replica_with_batch_norm_changes_nothing() {
    let (alone, together) = (tempdir().unwrap(), tempdir().unwrap());
    train(&resnet(), &Source::Sample, alone.path(), None);
    replicas(1, |communicator| drop(train(&resnet(), &Source::Sample, together.path(), Some(&*communicator))));
    assert_eq!(rows(together.path()), rows(alone.path()));
}

#[test]
fn weights_and_statistics_are_the_same_bits_everywhere() {
    // Orthonormal weights are changed in the forward pass, too; of 100 numbers the last batch has 1.
    let orthonormal = "experiment = \"fit1d\"\nnetwork.kind = \"lipschitz\"\nnetwork.hidden = [6, 6]\ntrain.epochs = 3\n\
                       activation.kind = \"lipschitz_spline\"\ntrain.batch_size = 9\ndata.train_points = 100";
    let orthonormal = Config::from_toml(orthonormal).unwrap();
    for (config, source) in [(area(), GENERATED), (orthonormal, GENERATED), (resnet(), Source::Sample)] {
        let directory = tempdir().unwrap();
        let of_ranks = replicas(3, |communicator| {
            let setup = train(&config, &source, directory.path(), Some(&*communicator));
            communicator.finish().unwrap();
            let parameters = setup.network.parameters().into_iter().map(|p| (p.name, p.var.into_inner()));
            let flat = |(name, tensor): (String, candle_core::Tensor)| (name, bits(&tensor));
            parameters.chain(setup.network.buffers()).map(flat).collect::<Vec<_>>()
        });
        for other in &of_ranks[1..] {
            for ((name, ours), (_, expected)) in other.iter().zip(&of_ranks[0]) {
                assert_eq!(ours, expected, "{}: {name}", config.network.kind);
            }
        }
        // What the first one wrote is that, too.
        let setup = Setup::new(&config, &source, &Context::cpu()).unwrap();
        Checkpoint::read(&directory.path().join("checkpoint.safetensors"))
            .unwrap()
            .restore_network(&setup.network)
            .unwrap();
        assert_eq!(bits(&setup.network.parameters()[0].var), of_ranks[0][0].1);
    }
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

/// A run that the last rank leaves in its third epoch; all fail with it.
fn broken_off(size: usize, directory: &Path) {
    let errors = replicas(size, |communicator| {
        let sums = if communicator.rank() + 1 == size { 550 } else { usize::MAX };
        let dying = Counting::new(communicator, sums);
        format!(
            "{:#}",
            run_replica(&area(), &GENERATED, &options(directory, false), dying, &Context::cpu()).unwrap_err()
        )
    });
    let (last, others) = errors.split_last().unwrap();
    assert!(last.contains("killed") && others.iter().all(|error| error.contains("has ended")), "{errors:?}");
    assert!(!directory.join("summary.csv").exists());
    let checkpoint = Checkpoint::read(&directory.join("checkpoint.safetensors")).unwrap();
    assert_eq!((checkpoint.position.epoch, checkpoint.position.batch), (2, 0));
}

#[test]
fn a_run_goes_on_with_another_number_of_replicas() {
    let whole = tempdir().unwrap();
    run_on(2, &area(), &GENERATED, &options(whole.path(), false)).into_iter().for_each(|row| drop(row.unwrap()));
    for size in [0, 1, 2, 3] {
        let broken = tempdir().unwrap();
        broken_off(2, broken.path());
        let options = options(broken.path(), true);
        if size == 0 {
            run(&area(), &GENERATED, &options, &Context::cpu()).unwrap();
        } else {
            run_on(size, &area(), &GENERATED, &options).into_iter().for_each(|row| drop(row.unwrap()));
        }
        assert_alike(&format!("2, then {size}"), &rows(broken.path()), &rows(whole.path()));
        if size == 2 {
            assert_eq!(rows(broken.path()), rows(whole.path()));
        }
    }
}

#[test]
fn all_fail_when_one_does_or_the_run_diverges() {
    let directory = tempdir().unwrap();
    let results = replicas(3, |communicator| {
        if communicator.rank() == 1 {
            anyhow::bail!("no data here");
        }
        run_replica(&area(), &GENERATED, &options(directory.path(), false), communicator, &Context::cpu())
    });
    assert!(results.iter().all(Result::is_err));
    let mut config = area();
    config.optimizer.weights.lr = 1e30;
    let results = run_on(2, &config, &GENERATED, &options(directory.path(), false));
    for result in results {
        let message = format!("{:#}", result.unwrap_err());
        assert!(message.contains("the run diverged"), "{message}");
    }
}
