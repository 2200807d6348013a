//! Runs that repeat and runs that go on: the same rows, times aside.
#![allow(clippy::unwrap_used)]

use ds_lab::config::{Config, Precision, Train};
use ds_lab::data::Source;
use ds_lab::experiment::{RunOptions, Setup, run};
use ds_lab::metrics::{MetricsRow, read_metrics, read_summary};
use std::path::Path;

fn config(text: &str) -> Config {
    Config::from_toml(text).unwrap()
}

fn options(directory: &Path) -> RunOptions {
    RunOptions { directory: directory.to_owned(), resume: false, overwrite: false, quiet: true }
}

/// The rows without what the clock says.
fn rows(directory: &Path) -> Vec<MetricsRow> {
    let rows = read_metrics(&directory.join("metrics.csv")).unwrap();
    rows.into_iter().map(|row| MetricsRow { seconds: 0.0, images_per_second: None, ..row }).collect()
}

fn area(epochs: usize) -> Config {
    config(&format!(
        "experiment = \"area2d\"\ntrain.epochs = {epochs}\ntrain.eval_every = 2\ntrain.log_steps = 70\n\
         train.milestones = [3]\ndata.test_grid = 20\ntrain.checkpoint_seconds = 0"
    ))
}

#[test]
fn one_seed_gives_one_result() {
    let (a, b, c) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = Source::Auto { dir: None };
    let config = area(4);
    run(&config, &source, &options(a.path())).unwrap();
    run(&config, &source, &options(b.path())).unwrap();
    assert_eq!(rows(a.path()), rows(b.path()));
    // 4 × 150 steps with a row each 70, 4 epochs, 2 evaluations.
    assert_eq!(rows(a.path()).len(), 8 + 4 + 2);
    run(&Config { seed: 1, ..config }, &source, &options(c.path())).unwrap();
    assert_ne!(rows(a.path()), rows(c.path()));
}

/// What it says when `config` is to go on with what is there.
fn refusal(config: &Config, directory: &Path) -> String {
    let options = RunOptions { resume: true, ..options(directory) };
    format!("{:#}", run(config, &Source::Auto { dir: None }, &options).unwrap_err())
}

#[test]
fn another_config_is_not_resumed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    run(&area(4), &Source::Auto { dir: None }, &options(path)).unwrap();
    let with = |train: Train| Config { train, ..area(4) };
    let of = || area(4).train;
    let message = refusal(&with(Train { batch_size: 7, ..of() }), path);
    assert!(message.contains("train.batch_size: 10 there, 7 here"), "{message}");
    // Neither is a past that would have been another.
    let message = refusal(&with(Train { epochs: 2, ..of() }), path);
    assert!(message.contains("train.epochs: 4 there, 2 here"), "{message}");
    let message = refusal(&with(Train { milestones: vec![2], ..of() }), path);
    assert!(message.contains("train.milestones: [3] there, [2] here"), "{message}");
    let message = refusal(&with(Train { gamma: 0.5, ..of() }), path);
    assert!(message.contains("train.gamma"), "{message}");
}

#[test]
fn the_rest_of_a_schedule_may_change() {
    let source = Source::Auto { dir: None };
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let longer = Config { train: Train { milestones: vec![3, 5], ..area(6).train }, ..area(6) };
    run(&longer, &source, &options(whole.path())).unwrap();
    run(&area(4), &source, &options(parts.path())).unwrap();
    let summary = parts.path().join("summary.csv");
    let of_four = std::fs::read(&summary).unwrap();
    let resume = || run(&longer, &source, &RunOptions { resume: true, ..options(parts.path()) }).unwrap();
    let resumed = resume();
    assert_eq!(rows(whole.path()), rows(parts.path()));
    assert_eq!((resumed.epochs, resumed.device.as_str()), (6, "cpu"));
    assert_eq!(read_summary(&summary).unwrap(), [resumed]);
    // Cut off before its summary was written, it does not take that of the shorter run for its own.
    std::fs::write(&summary, of_four).unwrap();
    assert_eq!(resume().epochs, 6);
    assert_eq!(read_summary(&summary).unwrap()[0].epochs, 6);
}

#[test]
fn bf16_is_refused_on_the_cpu_before_anything_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let narrow = Config { train: Train { precision: Precision::Bf16, ..area(2).train }, ..area(2) };
    let out = directory.path().join("run");
    let message = run(&narrow, &Source::Auto { dir: None }, &options(&out)).unwrap_err().to_string();
    for part in ["train.precision = \"bf16\"", "on the CPU", "--device cuda", "\"f32\""] {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
    assert!(!out.exists());
    // Nor does a run in f32 go on in bf16.
    let source = Source::Auto { dir: None };
    let first = run(&area(1), &source, &options(&out)).unwrap();
    assert_eq!((first.precision.as_deref(), first.machine().contains("bf16")), (Some("f32"), false));
    let narrow = Config { train: Train { precision: Precision::Bf16, ..area(1).train }, ..area(1) };
    let error = run(&narrow, &source, &RunOptions { resume: true, ..options(&out) }).unwrap_err();
    assert!(format!("{error:#}").contains("train.precision: not set there, \"bf16\" here"), "{error:#}");
}

#[test]
fn a_directory_with_a_run_is_not_overwritten_by_accident() {
    let directory = tempfile::tempdir().unwrap();
    let source = Source::Auto { dir: None };
    let first = run(&area(2), &source, &options(directory.path())).unwrap();
    let message = run(&area(2), &source, &options(directory.path())).unwrap_err().to_string();
    assert!(message.contains("--resume") && message.contains("--overwrite"), "{message}");
    // Resuming a finished run gives its summary back.
    let again = run(&area(2), &source, &RunOptions { resume: true, ..options(directory.path()) }).unwrap();
    assert_eq!(first, again);
    assert_eq!(read_summary(&directory.path().join("summary.csv")).unwrap(), [again]);
    run(&area(2), &source, &RunOptions { overwrite: true, ..options(directory.path()) }).unwrap();
}

#[test]
fn a_cut_checkpoint_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let source = Source::Auto { dir: None };
    run(&area(2), &source, &options(directory.path())).unwrap();
    let path = directory.path().join("checkpoint.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    for length in [0, 7, 100, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let resumed = run(&area(2), &source, &RunOptions { resume: true, ..options(directory.path()) });
        let message = format!("{:#}", resumed.unwrap_err());
        assert!(message.contains("checkpoint.safetensors is not a whole checkpoint"), "{length}: {message}");
    }
}

#[test]
fn validation_takes_samples_out_of_training() {
    let source = Source::Auto { dir: None };
    let held_out = Config { data: ds_lab::config::Data { validation: 0.1, ..area(1).data }, ..area(1) };
    let setup = Setup::new(&held_out, &source).unwrap();
    assert_eq!((setup.train.len(), setup.validation.as_ref().unwrap().len()), (1350, 150));
    let directory = tempfile::tempdir().unwrap();
    let summary = run(&held_out, &source, &options(directory.path())).unwrap();
    assert!(summary.validation_accuracy.is_some());
}
