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

#[test]
fn another_config_is_not_resumed() {
    let source = Source::Auto { dir: None };
    let directory = tempfile::tempdir().unwrap();
    run(&area(2), &source, &options(directory.path())).unwrap();
    let other = run(&area(5), &source, &RunOptions { resume: true, ..options(directory.path()) });
    let message = format!("{:#}", other.unwrap_err());
    assert!(message.contains("train.epochs: 2 there, 5 here"), "{message}");
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
