//! `sparsify`, and `export` of what it leaves: files say what they hold, and options without effect are refused.
#![allow(clippy::unwrap_used)]

mod common;

use common::text;
use ds_lab::results::metrics::{PruningRow, read_summary};
use ds_lab::results::read_rows;
use ds_lab::run::sparsify::METADATA;
use ds_lab::run::verified;
use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::process::Output;

const RUN: &str = "experiment = \"area2d\"\ndata.train_points = 200\ndata.test_grid = 20\ndata.validation = 0.3\n\
                   train.epochs = 60\ntrain.milestones = []\nsparsify.method = \"both\"\nsparsify.finetune_epochs = 2\n";

/// A finished run with all files of pruning.
struct Run(tempfile::TempDir);

impl Run {
    fn new() -> Self {
        let run = Self(tempfile::tempdir().unwrap());
        let config = run.0.path().join("run.toml");
        fs::write(&config, RUN).unwrap();
        let mut command = common::reproduce();
        command.args(["train", "--quiet", "--config"]).arg(config).arg("--out").arg(run.folder());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        run
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
