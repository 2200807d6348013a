//! Runs that repeat and runs that go on: the same rows, times aside.
#![allow(clippy::unwrap_used)]

use ds_lab::config::{Config, OptimizerKind, Precision, Train};
use ds_lab::data::Source;
use ds_lab::device::Context;
use ds_lab::lock::DirectoryLock;
use ds_lab::results::metrics::{MetricsRow, Split, SummaryRow, read_metrics, read_summary};
use ds_lab::run::checkpoint::{BestEpoch, Checkpoint};
use ds_lab::run::{Existing, RunOptions, Setup, TrainedOn, verified};
use std::path::Path;

/// A run on the CPU.
fn run(config: &Config, source: &Source, options: &RunOptions) -> anyhow::Result<SummaryRow> {
    ds_lab::run::run(config, source, options, &Context::cpu())
}

fn config(text: &str) -> Config {
    Config::from_toml(text).unwrap()
}

fn options(directory: &Path) -> RunOptions {
    RunOptions { directory: directory.to_owned(), existing: Existing::Refuse, quiet: true }
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
    let options = RunOptions { existing: Existing::Resume, ..options(directory) };
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
    let resume = || run(&longer, &source, &RunOptions { existing: Existing::Resume, ..options(parts.path()) }).unwrap();
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
fn a_warm_up_is_adam_and_a_resumption_after_it_goes_on_with_proximal_steps() {
    let source = Source::Auto { dir: None };
    let with = |kind, warmup_epochs, epochs| {
        let mut config = area(epochs);
        let splines = &mut config.optimizer.splines;
        (splines.kind, splines.warmup_epochs) = (kind, warmup_epochs);
        config
    };
    let trained = |config: &Config| {
        let directory = tempfile::tempdir().unwrap();
        run(config, &source, &options(directory.path())).unwrap();
        directory
    };
    let adam = trained(&with(OptimizerKind::Adam, 0, 4));
    let warm = trained(&with(OptimizerKind::ProxAdam, 2, 4));
    let (of_adam, of_warm) = (rows(adam.path()), rows(warm.path()));
    let count = of_adam.iter().take_while(|row| row.epoch <= 2).count();
    assert_eq!(of_adam[..count], of_warm[..count]);
    assert!(of_warm.last().unwrap().active_knots < of_adam.last().unwrap().active_knots);
    let parts = trained(&with(OptimizerKind::ProxAdam, 2, 3));
    let resume = RunOptions { existing: Existing::Resume, ..options(parts.path()) };
    run(&with(OptimizerKind::ProxAdam, 2, 4), &source, &resume).unwrap();
    let at_the_end = |rows: Vec<MetricsRow>| rows.into_iter().filter(|row| row.epoch == 4).collect::<Vec<_>>();
    assert_eq!(at_the_end(rows(parts.path())), at_the_end(of_warm));
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
    let error = run(&narrow, &source, &RunOptions { existing: Existing::Resume, ..options(&out) }).unwrap_err();
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
    let again =
        run(&area(2), &source, &RunOptions { existing: Existing::Resume, ..options(directory.path()) }).unwrap();
    assert_eq!(first, again);
    assert_eq!(read_summary(&directory.path().join("summary.csv")).unwrap(), [again]);
    run(&area(2), &source, &RunOptions { existing: Existing::Overwrite, ..options(directory.path()) }).unwrap();
}

#[test]
fn a_config_of_the_users_is_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let (path, source) = (directory.path().join("config.toml"), Source::Auto { dir: None });
    let resolved = area(1).to_toml();
    for text in [format!("# mine\n{resolved}"), "experiment = \"area2d\"\n".to_owned()] {
        std::fs::write(&path, &text).unwrap();
        for existing in [Existing::Refuse, Existing::ResumeOrStart] {
            let options = RunOptions { existing, ..options(directory.path()) };
            let message = run(&area(1), &source, &options).unwrap_err().to_string();
            assert!(message.contains("it has a file config.toml"), "{message}");
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
    // A run that was ended before its first checkpoint has left this.
    std::fs::write(&path, resolved).unwrap();
    run(&area(1), &source, &options(directory.path())).unwrap();
}

#[test]
fn keys_of_execution_do_not_make_a_finished_run_anew() {
    let directory = tempfile::tempdir().unwrap();
    let source = Source::Auto { dir: None };
    let first = run(&area(2), &source, &options(directory.path())).unwrap();
    // As from a pruning with other options.
    let finetuned = directory.path().join("finetuned.safetensors");
    std::fs::write(&finetuned, "kept").unwrap();
    let resume = |config: &Config| {
        run(config, &source, &RunOptions { existing: Existing::Resume, ..options(directory.path()) }).unwrap()
    };
    let mut other = area(2);
    (other.train.checkpoint_seconds, other.train.threads) = (30.0, 1);
    assert_eq!(resume(&other), first);
    assert_eq!(std::fs::read_to_string(&finetuned).unwrap(), "kept");
    other.sparsify.enabled = false;
    assert_eq!(resume(&other).refit_knots, None);
}

#[test]
fn a_run_does_not_go_on_with_other_data() {
    let directory = tempfile::tempdir().unwrap();
    let source = Source::Auto { dir: None };
    run(&area(2), &source, &options(directory.path())).unwrap();
    let path = directory.path().join("checkpoint.safetensors");
    let mut checkpoint = Checkpoint::read(&path).unwrap();
    assert_eq!(checkpoint.position.trained_on, Some(TrainedOn { is_sample: false, samples: 1500 }));
    checkpoint.position.trained_on = Some(TrainedOn { is_sample: true, samples: 1000 });
    checkpoint.write(&path).unwrap();
    let metrics = std::fs::read(directory.path().join("metrics.csv")).unwrap();
    let message = refusal(&area(4), directory.path());
    for part in ["1000 training samples of the shipped sample", "here are 1500 training samples", "--data"] {
        assert!(message.contains(part), "{part} is not in: {message}");
    }
    assert_eq!(std::fs::read(directory.path().join("metrics.csv")).unwrap(), metrics);
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
        let resumed = run(&area(2), &source, &RunOptions { existing: Existing::Resume, ..options(directory.path()) });
        let message = format!("{:#}", resumed.unwrap_err());
        assert!(message.contains("checkpoint.safetensors is not a whole checkpoint"), "{length}: {message}");
    }
}

/// The files of a directory with their contents, but for the lock.
fn contents(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().is_some_and(|name| name != ".lock"))
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()))
        .collect();
    all.sort();
    all
}

#[test]
fn every_changed_byte_of_a_checkpoint_is_refused_and_everything_stays() {
    let directory = tempfile::tempdir().unwrap();
    let source = Source::Auto { dir: None };
    let smallest = config(
        "experiment = \"fit1d\"\ndata.train_points = 4\nactivation.size = 5\ntrain.epochs = 1\ntrain.milestones = []\n\
         sparsify.enabled = false",
    );
    run(&smallest, &source, &options(directory.path())).unwrap();
    let path = directory.path().join("checkpoint.safetensors");
    let good = std::fs::read(&path).unwrap();
    let rest = |all: Vec<(String, Vec<u8>)>| all.into_iter().filter(|(name, _)| !name.starts_with("check")).collect();
    let before: Vec<_> = rest(contents(directory.path()));
    // All changes of all bytes take long: one for each, another one for each bit in turn.
    for i in 0..good.len() {
        let mut bad = good.clone();
        bad[i] ^= 1 << (i % 8);
        std::fs::write(&path, &bad).unwrap();
        let resumed = run(&smallest, &source, &RunOptions { existing: Existing::Resume, ..options(directory.path()) });
        let message = format!("{:#}", resumed.expect_err(&format!("byte {i}")));
        assert!(message.contains("checkpoint.safetensors"), "{i}: {message}");
    }
    let after: Vec<_> = rest(contents(directory.path()));
    assert_eq!(before, after);
    std::fs::write(&path, &good).unwrap();
    run(&smallest, &source, &RunOptions { existing: Existing::Resume, ..options(directory.path()) }).unwrap();
}

#[test]
fn metrics_that_were_changed_are_not_gone_on_with() {
    let directory = tempfile::tempdir().unwrap();
    let source = Source::Auto { dir: None };
    run(&area(2), &source, &options(directory.path())).unwrap();
    let path = directory.path().join("metrics.csv");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen(",train,0.", ",train,1.", 1)).unwrap();
    assert_ne!(std::fs::read_to_string(&path).unwrap(), text);
    let resume =
        |epochs| run(&area(epochs), &source, &RunOptions { existing: Existing::Resume, ..options(directory.path()) });
    let message = format!("{:#}", resume(3).unwrap_err());
    assert!(message.contains("metrics.csv") && message.contains("was changed"), "{message}");
    std::fs::write(&path, text).unwrap();
    assert_eq!(resume(3).unwrap().epochs, 3);
}

#[test]
fn resuming_needs_a_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let source = Source::Auto { dir: None };
    let out = directory.path().join("run");
    let of = |existing| run(&area(2), &source, &RunOptions { existing, ..options(&out) });
    let message = of(Existing::Resume).unwrap_err().to_string();
    assert!(message.contains("run/checkpoint.safetensors") && message.contains("without --resume"), "{message}");
    assert!(!out.exists());
    let first = of(Existing::ResumeOrStart).unwrap();
    std::fs::remove_file(out.join("checkpoint.safetensors")).unwrap();
    let before = contents(&out);
    of(Existing::Resume).unwrap_err();
    assert_eq!(contents(&out), before);
    // A finished run without its checkpoint is finished all the same.
    assert_eq!(of(Existing::ResumeOrStart).unwrap(), first);
    assert_eq!(contents(&out), before);
    // One that was ended before its first checkpoint begins again.
    std::fs::remove_file(out.join("summary.csv")).unwrap();
    assert_eq!(of(Existing::ResumeOrStart).unwrap().test_loss, first.test_loss);
}

#[test]
fn a_folder_that_is_not_the_runs_own_is_refused_and_stays_as_it_is() {
    let source = Source::Auto { dir: None };
    for file in
        ["summary.csv", "thresholds.csv", "config.toml", "sweep.toml", "comparison.md", "sparsified.safetensors"]
    {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(file), "mine").unwrap();
        for existing in [Existing::Refuse, Existing::Resume, Existing::ResumeOrStart] {
            let error = run(&area(1), &source, &RunOptions { existing, ..options(directory.path()) }).unwrap_err();
            let names = if existing == Existing::Resume { "checkpoint.safetensors" } else { file };
            assert!(error.to_string().contains(names), "{error}");
            assert_eq!(contents(directory.path()), [(file.to_owned(), b"mine".to_vec())]);
            assert!(!directory.path().join(".lock").exists());
        }
        run(&area(1), &source, &RunOptions { existing: Existing::Overwrite, ..options(directory.path()) }).unwrap();
    }
    // Other files are in nobody's way.
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("notes.txt"), "mine").unwrap();
    run(&area(1), &source, &options(directory.path())).unwrap();
    run(&area(1), &source, &RunOptions { existing: Existing::Overwrite, ..options(directory.path()) }).unwrap();
    assert_eq!(std::fs::read(directory.path().join("notes.txt")).unwrap(), b"mine");
}

#[test]
fn two_runs_do_not_share_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let source = Source::Auto { dir: None };
    let lock = DirectoryLock::acquire(directory.path()).unwrap();
    for existing in [Existing::Refuse, Existing::ResumeOrStart, Existing::Overwrite] {
        let error = run(&area(1), &source, &RunOptions { existing, ..options(directory.path()) }).unwrap_err();
        assert!(error.to_string().contains("in use by process"), "{error}");
        assert!(contents(directory.path()).is_empty());
    }
    drop(lock);
    run(&area(1), &source, &options(directory.path())).unwrap();
}

#[test]
fn keys_that_change_no_training_may_change_on_the_way() {
    let directory = tempfile::tempdir().unwrap();
    let source = Source::Auto { dir: None };
    run(&area(2), &source, &options(directory.path())).unwrap();
    let mut other = area(4);
    other.train = Train { threads: 3, checkpoint_seconds: 7.0, log_steps: 9, eval_every: 1, ..other.train };
    other.sparsify.tolerance = 1.0;
    let resume = |config: &Config| {
        run(config, &source, &RunOptions { existing: Existing::Resume, ..options(directory.path()) }).unwrap()
    };
    assert_eq!(resume(&other).epochs, 4);
    // Another sparsification of a finished run needs no training.
    let (trained, metrics) = (resume(&other), rows(directory.path()));
    other.sparsify.threshold = Some(0.5);
    let again = resume(&other);
    assert_eq!((again.sparsified_threshold, again.train_loss), (Some(0.5), trained.train_loss));
    assert_eq!(rows(directory.path()), metrics);
}

#[test]
fn the_network_of_the_best_epoch_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let source = Source::Auto { dir: None };
    let mut kept = area(8);
    kept.data.validation = 0.3;
    kept.train.eval_every = 1;
    kept.train.keep_best = true;
    kept.optimizer.weights.lr = 0.3;
    let summary = run(&kept, &source, &options(directory.path())).unwrap();
    let of_validation: Vec<MetricsRow> =
        rows(directory.path()).into_iter().filter(|row| row.split == Split::Validation).collect();
    let best = of_validation.iter().filter_map(|row| row.accuracy).fold(0.0, f64::max);
    assert_eq!(summary.best_validation_accuracy, Some(best));
    let epoch = of_validation.iter().find(|row| row.accuracy == Some(best)).unwrap().epoch;
    let network = ds_lab::run::network(&kept, 1).unwrap();
    ds_lab::run::checkpoint::read_network(&directory.path().join("best.safetensors"), &network).unwrap();
    let setup = Setup::new(&kept, &source, &Context::cpu()).unwrap();
    let evaluation = ds_lab::run::evaluate(&network, setup.validation.as_ref().unwrap()).unwrap();
    assert_eq!(evaluation.accuracy, Some(best));
    assert!(summary.best_epoch.is_some_and(|of_summary| of_summary >= epoch), "{summary:?}");
    // It is not of the last epoch, and a test set is nothing to choose on.
    assert!(summary.best_epoch != Some(8), "the test needs a run whose last epoch is not its best");
    let error = Config::from_toml("experiment = \"area2d\"\ntrain.keep_best = true").unwrap_err().to_string();
    assert!(error.contains("data.validation"), "{error}");
}

#[test]
fn a_resumed_run_has_the_best_network_that_its_checkpoint_counts_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let with = |epochs| {
        let mut kept = area(epochs);
        kept.data.validation = 0.3;
        (kept.train.eval_every, kept.train.keep_best, kept.sparsify.enabled) = (1, true, false);
        kept
    };
    let resume = |epochs| {
        let options = RunOptions { existing: Existing::Resume, ..options(path) };
        run(&with(epochs), &Source::Auto { dir: None }, &options).unwrap()
    };
    let best = path.join("best.safetensors");
    let epoch = || verified::parse(&std::fs::read(&best).unwrap()).unwrap().0["epoch"].clone();
    let first = run(&with(1), &Source::Auto { dir: None }, &options(path)).unwrap();
    assert_eq!((first.best_epoch, epoch()), (Some(1), "1".to_owned()));
    // As by a kill after the checkpoint of the best epoch, and before the file of its network.
    let without_summary = || std::fs::remove_file(path.join("summary.csv")).unwrap();
    std::fs::remove_file(&best).unwrap();
    without_summary();
    assert_eq!(resume(1).best_test_accuracy, first.best_test_accuracy);
    assert_eq!(epoch(), "1");
    // With another network in its place, none is said to be the best of the epochs before.
    let file = path.join("checkpoint.safetensors");
    let mut checkpoint = Checkpoint::read(&file).unwrap();
    let other = checkpoint.position.best.map(|best| BestEpoch { epoch: 0, accuracy: Some(100.0), ..best });
    checkpoint.position.best = other;
    checkpoint.write(&file).unwrap();
    without_summary();
    assert_eq!((resume(1).best_epoch, resume(1).best_test_accuracy), (None, None));
    let later = resume(2);
    assert_eq!((later.best_epoch, epoch()), (Some(2), "2".to_owned()));
}

#[test]
fn validation_takes_samples_out_of_training() {
    let source = Source::Auto { dir: None };
    let held_out = Config { data: ds_lab::config::Data { validation: 0.1, ..area(1).data }, ..area(1) };
    let setup = Setup::new(&held_out, &source, &Context::cpu()).unwrap();
    assert_eq!((setup.train.len(), setup.validation.as_ref().unwrap().len()), (1350, 150));
    let directory = tempfile::tempdir().unwrap();
    let summary = run(&held_out, &source, &options(directory.path())).unwrap();
    assert!(summary.validation_accuracy.is_some());
}
