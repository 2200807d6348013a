//! `sparsify`, and `export` of what it leaves: files say what they hold, and options without effect are refused.
#![allow(clippy::unwrap_used)]

mod common;

use common::text;
use ds_lab::file_names::OF_PRUNING;
use ds_lab::results::metrics::{PruningRow, read_summary};
use ds_lab::results::read_rows;
use ds_lab::run::sparsify::METADATA;
use ds_lab::run::verified;
use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

const RUN: &str = "experiment = \"area2d\"\ndata.train_points = 200\ndata.test_grid = 20\ndata.validation = 0.3\n\
                   train.epochs = 60\ntrain.milestones = []\nsparsify.method = \"both\"\nsparsify.finetune_epochs = 2\n";

/// A finished run with all files of pruning.
struct Run(tempfile::TempDir);

impl Run {
    fn new() -> Self {
        Self::of(RUN)
    }

    fn of(config: &str) -> Self {
        let run = Self(tempfile::tempdir().unwrap());
        fs::write(run.0.path().join("run.toml"), config).unwrap();
        let output = run.train(&[]).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        run
    }

    fn train(&self, options: &[&str]) -> Command {
        let mut command = common::reproduce();
        command.args(["train", "--quiet", "--config"]).arg(self.0.path().join("run.toml"));
        command.arg("--out").arg(self.folder()).args(options);
        command
    }

    fn folder(&self) -> PathBuf {
        self.0.path().join("run")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    fn call(&self, command: &str, options: &[&str]) -> Output {
        common::reproduce().arg(command).arg(self.folder()).args(options).output().unwrap()
    }

    /// Prunes again, which must succeed; returns what it prints.
    fn sparsify(&self, options: &[&str]) -> String {
        let output = self.call("sparsify", options);
        assert!(output.status.success(), "{options:?}: {}", text(&output));
        text(&output)
    }

    /// The metadata of an export, and what it prints.
    fn export(&self, which: &str) -> (HashMap<String, String>, String) {
        let output = self.call("export", &["--format", "safetensors", "--overwrite", which]);
        assert!(output.status.success(), "{which}: {}", text(&output));
        let file = self.file(&format!("network{}.safetensors", &which[1..]));
        (verified::parse(&fs::read(file).unwrap()).unwrap().0, text(&output))
    }
}

fn said(metadata: &HashMap<String, String>) -> [Option<&str>; 4] {
    METADATA.map(|name| metadata.get(name).map(String::as_str))
}

#[test]
fn an_export_says_the_accuracy_of_the_network_that_it_holds() {
    let run = Run::new();
    let row = read_summary(&run.file("summary.csv")).unwrap().pop().unwrap();
    let number = |value: Option<f64>| value.unwrap().to_string();
    let (first, _) = run.export("--sparsified");
    let knots = row.refit_knots.unwrap().to_string();
    assert_eq!(said(&first), [Some("refit"), Some(&*knots), Some("0"), Some(&*number(row.refit_test_accuracy))]);
    let (finetuned, _) = run.export("--finetuned");
    let knots = row.finetuned_knots.unwrap().to_string();
    assert_eq!(
        said(&finetuned),
        [Some("refit"), Some(&*knots), Some("2"), Some(&*number(row.finetuned_test_accuracy))]
    );

    // Pruned again, so that the summary is of another pruning.
    run.sparsify(&["--method", "refit", "--knots", "3", "--finetune-epochs", "0"]);
    let (second, _) = run.export("--sparsified");
    let (_, pruned) = read_rows::<PruningRow>(&run.file("pruning.csv")).unwrap().whole.pop().unwrap();
    assert_eq!(said(&second), [Some("refit"), Some("3"), Some("0"), Some(&*number(pruned.test_accuracy))]);
    assert_ne!(pruned.test_accuracy, row.refit_test_accuracy);
    run.sparsify(&["--method", "papers"]);
    let (third, _) = run.export("--sparsified");
    let knots = row.sparsified_active_knots.unwrap().to_string();
    assert_eq!(said(&third), [Some("papers"), Some(&*knots), Some("0"), Some(&*number(row.sparsified_test_accuracy))]);

    // A file of an earlier version does not say of which pruning it is.
    let file = run.file("sparsified.safetensors");
    let (mut metadata, tensors) = verified::parse(&fs::read(&file).unwrap()).unwrap();
    metadata.retain(|name, _| !METADATA.contains(&name.as_str()));
    verified::write(&file, &tensors, metadata).unwrap();
    let (old, printed) = run.export("--sparsified");
    assert!(said(&old).iter().all(Option::is_none), "{old:?}");
    assert!(printed.contains("does not say its test accuracy"), "{printed}");
    assert_eq!(old["config_md5"], first["config_md5"]);
}

#[test]
fn files_of_an_earlier_pruning_are_removed_and_named() {
    let run = Run::new();
    let printed = run.sparsify(&["--method", "refit", "--finetune-epochs", "0"]);
    for file in ["finetuned.safetensors", "thresholds.csv"] {
        let is_named = printed.lines().any(|line| line.contains("removed") && line.contains(file));
        assert!(is_named && !run.file(file).exists(), "{file}: {printed}");
    }
    assert!(run.file("sparsified.safetensors").exists() && run.file("pruning.csv").exists());
    let output = run.call("export", &["--format", "safetensors", "--finetuned"]);
    assert!(!output.status.success() && text(&output).contains("--finetune-epochs N writes it"), "{}", text(&output));
    // Again, with nothing to remove.
    let printed = run.sparsify(&["--method", "refit", "--finetune-epochs", "0"]);
    assert!(!printed.contains("removed"), "{printed}");
}

#[test]
fn options_of_pruning_without_effect_are_refused() {
    let run = Run::new();
    let before = fs::read(run.file("sparsified.safetensors")).unwrap();
    for (options, named) in [
        (&["--method", "papers", "--cost", "mean_square"][..], "--cost"),
        (&["--method", "papers", "--finetune-epochs", "5"], "--finetune-epochs"),
        (&["--method", "papers", "--finetune-lr", "0.5"], "--finetune-lr"),
        (&["--method", "papers", "--iterate"], "--iterate"),
        (&["--finetune-epochs", "0", "--finetune-lr", "0.5"], "--finetune-lr"),
        (&["--method", "refit", "--knots", "3", "--tolerance", "1"], "--tolerance"),
        (&["--method", "refit", "--knots", "3", "--accuracy", "validation"], "--accuracy"),
    ] {
        let output = run.call("sparsify", options);
        let error = text(&output);
        assert!(!output.status.success() && output.stdout.is_empty(), "{options:?}: {error}");
        assert!(error.contains(&format!("{named}: ")) && error.contains("leave"), "{options:?}: {error}");
    }
    assert_eq!(fs::read(run.file("sparsified.safetensors")).unwrap(), before);
    // Keys of the run are no options: its training after pruning does not keep the papers' method from being chosen.
    run.sparsify(&["--method", "papers", "--finetune-epochs", "0"]);
}

#[test]
fn numbers_beyond_those_of_the_config_are_refused() {
    let run = Run::new();
    for (options, expected) in [
        (&["--finetune-epochs", "5", "--finetune-lr", "1e30"][..], "--finetune-lr 1"),
        (&["--finetune-epochs", "5", "--finetune-lr", "NaN"], "above 0 and up to 1000000"),
        (&["--finetune-epochs", "1000001"], "--finetune-epochs 1000001: expected a whole number from 0 to 1000000"),
        (&["--tolerance", "101"], "--tolerance 101: expected a number from 0 to 100"),
        (&["--method", "refit", "--knots", "99999999999"], "--knots 99999999999: the network has 152 knots"),
    ] {
        let output = run.call("sparsify", options);
        let error = text(&output);
        assert!(!output.status.success() && error.contains(expected), "{options:?}: {error}");
    }
    run.sparsify(&["--method", "refit", "--knots", "152"]);
}

#[test]
fn the_table_of_a_pruning_says_what_a_star_means() {
    let run = Run::new();
    let printed = run.sparsify(&["--method", "refit", "--knots", "0", "--finetune-epochs", "0"]);
    assert!(printed.contains("refit *") && printed.contains("*: 0 knots as given"), "{printed}");
    assert!(!printed.contains("that lose"), "{printed}");
    let printed = run.sparsify(&["--knots", "3", "--finetune-epochs", "0"]);
    assert!(
        printed.contains("*: 3 knots as given, whatever they lose; largest threshold that loses at most"),
        "{printed}"
    );

    // Of the networks that were trained on, one is saved.
    let printed = run.sparsify(&["--method", "refit", "--iterate", "--finetune-epochs", "2", "--tolerance", "10"]);
    let starred = |head: &str| printed.lines().filter(|line| line.starts_with(head) && line.contains(" * ")).count();
    assert_eq!((starred("  refit *"), starred("  refit, ")), (1, 1), "{printed}");
    assert!(
        printed.contains("with a star is in sparsified.safetensors or, with epochs, finetuned.safetensors"),
        "{printed}"
    );

    // A fit has no accuracy.
    let run = Run::of(
        "experiment = \"fit1d\"\ndata.train_points = 50\ntrain.epochs = 2\ntrain.milestones = []\n\
         activation.kind = \"bspline\"\nsparsify.enabled = false\n",
    );
    let printed = run.sparsify(&["--method", "refit", "--knots", "5"]);
    assert!(printed.contains("test loss") && !printed.contains("accuracy"), "{printed}");
    let rows = printed.lines().filter(|line| ["  none ", "  refit * "].iter().any(|method| line.starts_with(method)));
    let losses: Vec<f64> = rows.map(|row| row.split_whitespace().last().unwrap().parse().unwrap()).collect();
    assert!(losses.len() == 2 && losses.iter().all(|loss| *loss > 0.0), "{printed}");
}

#[test]
fn a_resumption_names_the_pruned_networks_that_it_removes() {
    for (key, kept) in [
        ("sparsify.enabled=false", &[][..]),
        ("sparsify.finetune_epochs=0", &["sparsified.safetensors", "thresholds.csv", "pruning.csv"][..]),
    ] {
        let run = Run::new();
        let output = run.train(&["--resume", "--set", key]).output().unwrap();
        let printed = text(&output);
        assert!(output.status.success(), "{printed}");
        for file in OF_PRUNING {
            let is_named = printed.lines().any(|line| line.contains("removed") && line.contains(file));
            assert_eq!((run.file(file).exists(), is_named), (kept.contains(&file), !kept.contains(&file)), "{file}");
        }
    }
}

/// Programs that a signal ends.
#[cfg(unix)]
mod interrupted {
    use super::*;
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    /// Starts a command, waits until something is so, and ends it with SIGINT.
    fn interrupted(mut command: Command, is_so: impl Fn() -> bool) -> String {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let start = Instant::now();
        while !is_so() {
            if start.elapsed() > Duration::from_secs(60) {
                child.kill().unwrap();
                panic!("{command:?} did not come to it: {}", text(&child.wait_with_output().unwrap()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{}", text(&output));
        text(&output)
    }

    #[test]
    fn a_pruning_that_is_interrupted_changes_no_file() {
        let run = Run::new();
        let files = || OF_PRUNING.map(|file| fs::read(run.file(file)).unwrap());
        let before = files();
        let elsewhere = run.0.path().join("elsewhere");
        for out in [run.folder(), elsewhere.clone()] {
            let mut command = common::reproduce();
            command.arg("sparsify").arg(run.folder()).arg("--out").arg(&out);
            command.args(["--tolerance", "10", "--finetune-epochs", "1000000"]);
            let printed = interrupted(command, || out.join(".pruning/sparsified.safetensors").exists());
            assert!(printed.contains("sparsify was interrupted; no file was changed"), "{printed}");
            assert!(files() == before && !out.join(".pruning").exists());
        }
        assert!(!elsewhere.join("config.toml").exists());
    }

    #[test]
    fn a_finished_run_that_goes_on_is_no_other_run() {
        let run = Run::new();
        let length = || fs::metadata(run.file("metrics.csv")).unwrap().len();
        let before = length();
        let longer = run.train(&["--resume", "--set", "train.epochs=1000000"]);
        interrupted(longer, || length() > before);

        let output = run.call("bounds", &["--points", "3"]);
        assert!(output.status.success(), "{}", text(&output));
        assert!(text(&output).contains("NOTE: summary.csv is of an earlier end, after 60 epochs"), "{}", text(&output));
        let output = run.call("export", &["--format", "safetensors"]);
        assert!(output.status.success(), "{}", text(&output));
        let (metadata, _) = verified::parse(&fs::read(run.file("network.safetensors")).unwrap()).unwrap();
        assert!(!metadata.contains_key("test_accuracy") && !metadata.contains_key("run_revision"), "{metadata:?}");
        for which in ["--sparsified", "--finetuned"] {
            let output = run.call("export", &["--format", "safetensors", which]);
            let error = text(&output);
            assert!(!output.status.success() && error.contains("from another network"), "{error}");
            assert!(error.contains("reproduce sparsify"), "{error}");
        }
        run.sparsify(&["--tolerance", "10"]);
        let (metadata, _) = run.export("--finetuned");
        assert!(said(&metadata).iter().all(Option::is_some), "{metadata:?}");

        // A summary of another training is no earlier end.
        let row = read_summary(&run.file("summary.csv")).unwrap().pop().unwrap();
        let (md5, training_md5) = (row.config_md5.unwrap(), row.training_md5.unwrap());
        let (rows, zeros) = (fs::read_to_string(run.file("summary.csv")).unwrap(), "0".repeat(32));
        fs::write(run.file("summary.csv"), rows.replace(&md5, &zeros).replace(&training_md5, &zeros)).unwrap();
        let output = run.call("bounds", &["--points", "3"]);
        assert!(!output.status.success() && text(&output).contains("summary.csv: epochs"), "{}", text(&output));
    }
}
