//! The program as a user meets it, on configs that take no time.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

const RUN: &str = "experiment = \"area2d\"\ndata.train_points = 60\ndata.test_grid = 20\n\
                   train.epochs = 2\ntrain.milestones = []\n";

fn reproduce(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_reproduce"))
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .args(arguments)
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir_all(folder.0.path().join("configs/sweeps")).unwrap();
        folder.write("configs/a.toml", RUN);
        let grid =
            "[[grid]]\nactivation.kind = [\"relu\", \"bspline\"]\nnetwork.hidden = [[1], [2], [3]]\nseed = [0, 1]\n";
        folder.write("configs/sweeps/widths.toml", &format!("[config]\n{RUN}{grid}"));
        folder
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_string_lossy().into_owned()
    }

    fn all(&self, more: &[&str]) -> Output {
        let (configs, out) = (self.path("configs"), self.path("out"));
        reproduce(&[&["all", "--configs", configs.as_str(), "--out", out.as_str()], more].concat())
    }
}

#[test]
fn everything_runs_once_and_ends_in_a_report() {
    let folder = Folder::new();
    let planned = folder.all(&["--dry-run"]);
    assert!(planned.status.success() && text(&planned).contains("sweep widths (12 runs)"), "{}", text(&planned));
    assert!(!Path::new(&folder.path("out")).exists());

    let output = folder.all(&[]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("widths: 12 runs, 12 of them made now"), "{}", text(&output));
    assert!(text(&output).contains("Ours and the papers"));
    for file in ["report.html", "comparison.md", "comparison-papers.csv", "summary.csv", "widths/summary.csv"] {
        assert!(Path::new(&folder.path("out")).join(file).exists(), "{file}");
    }
    let rows = std::fs::read_to_string(folder.path("out/widths/summary.csv")).unwrap();

    let planned = folder.all(&["--dry-run"]);
    assert!(text(&planned).contains("12 of 12 runs are there"), "{}", text(&planned));
    let again = folder.all(&[]);
    assert!(again.status.success() && text(&again).contains("12 runs, 0 of them made now"), "{}", text(&again));
    assert_eq!(std::fs::read_to_string(folder.path("out/widths/summary.csv")).unwrap(), rows);

    let sparsified = reproduce(&["sparsify", &folder.path("out/area2d/area-bspline-circle-seed0")]);
    assert!(sparsified.status.success() && text(&sparsified).contains(" *"), "{}", text(&sparsified));
}

#[test]
fn what_cannot_run_is_told_with_its_reason() {
    let folder = Folder::new();
    folder.write("configs/b.toml", "experiment = \"mnist\"\ntrain.epochs = 1\ntrain.milestones = []\n");
    let output = folder.all(&["--data-dir", &folder.path("nowhere")]);
    assert!(!output.status.success());
    let text = text(&output);
    assert!(text.contains("CANNOT RUN") && text.contains("1 of 3 could not be made"), "{text}");
    assert!(text.contains("mnist") && text.contains("nowhere"), "{text}");
    // The others were made all the same.
    assert!(text.contains("12 of them made now"), "{text}");
}

#[test]
fn runs_of_two_experiments_with_one_name_have_a_row_each() {
    let folder = Folder::new();
    let fit = RUN.replace("area2d", "fit1d").replace("data.test_grid = 20\n", "");
    folder.write("configs/a.toml", &format!("name = \"baseline\"\n{RUN}"));
    folder.write("configs/b.toml", &format!("name = \"baseline\"\n{fit}"));
    let output = folder.all(&["--only", "a", "--only", "b"]);
    assert!(output.status.success(), "{}", text(&output));
    let rows = std::fs::read_to_string(folder.path("out/summary.csv")).unwrap();
    for of in ["baseline,area2d,circle,", "baseline,fit1d,square,"] {
        assert_eq!(rows.lines().filter(|row| row.starts_with(of)).count(), 1, "{of}: {rows}");
    }
}

#[test]
fn only_missing_data_is_no_failure() {
    let folder = Folder::new();
    folder.write("configs/b.toml", "experiment = \"mnist\"\ntrain.epochs = 1\ntrain.milestones = []\n");
    std::fs::create_dir_all(folder.path("data/cifar10")).unwrap();
    let data = folder.path("data");
    let all = |more: &[&str]| folder.all(&[&["--sample-if-missing", "--data-dir", data.as_str()], more].concat());
    let output = all(&[]);
    assert!(output.status.success() && text(&output).contains("mnist was not found"), "{}", text(&output));
    folder.write("out/widths/summary.csv", "a,b\n1,2\n");
    let output = all(&[]);
    assert!(!output.status.success(), "{}", text(&output));
    for part in ["widths/summary.csv", "1 of 3 could not be made"] {
        assert!(text(&output).contains(part), "{part}: {}", text(&output));
    }
    // Nor does the sample take the place of files that are damaged.
    folder.write(
        "configs/c.toml",
        "experiment = \"cifar10\"\ntrain.epochs = 1\ntrain.milestones = []\ntrain.batch_size = 8\n",
    );
    folder.write("data/cifar10/data_batch_1.bin", "");
    let output = all(&["--dry-run", "--only", "c"]);
    assert!(text(&output).contains("CANNOT RUN"), "{}", text(&output));
    assert!(text(&output).contains("data_batch_2.bin: the file is missing"), "{}", text(&output));
}

#[test]
fn runs_of_a_selection_are_counted_and_estimated() {
    let folder = Folder::new();
    let sweep = |name: &str, epochs: usize| {
        let text = format!(
            "[config]\n{RUN}data.validation = 0.1\n[[grid]]\nactivation.kind = \"explicit_linear\"\n\
             regularization.lambda = [1e-5, 1e-2]\nseed = [0, 1]\n[select]\nkey = \"regularization.lambda\"\n\
             final.data.validation = 0.0\nfinal.train.epochs = {epochs}\nfinal.seed = [5, 6]\n"
        );
        folder.write(&format!("configs/sweeps/{name}.toml"), &text);
        folder.path(&format!("configs/sweeps/{name}.toml"))
    };
    let planned = |name: &str| {
        let output = folder.all(&["--dry-run", "--only", name]);
        assert!(output.status.success(), "{}", text(&output));
        let text = text(&output);
        text.lines().find(|line| line.contains(&format!("sweep {name}"))).unwrap().to_owned()
    };
    // A shard makes the runs that the file lists, and no others before a merge.
    let (file, out) = (sweep("long", 1_000_000), folder.path("out/long"));
    let output = reproduce(&["sweep", &file, "--out", &out, "--shard", "1/1", "--quiet"]);
    assert!(output.status.success(), "{}", text(&output));
    let line = planned("long");
    assert!(line.contains("4 of 6 runs are there") && !line.contains(" 0 seconds"), "{line}");
    // One run of the selection is missing.
    let (file, out) = (sweep("short", 3), folder.path("out/short"));
    let output = reproduce(&["sweep", &file, "--out", &out, "--quiet"]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(planned("short").contains("6 of 6 runs are there"), "{}", planned("short"));
    let rows = std::fs::read_to_string(folder.path("out/short/summary.csv")).unwrap();
    let (last, _) = rows.trim_end().rmatch_indices('\n').next().unwrap();
    folder.write("out/short/summary.csv", &rows[..=last]);
    assert!(planned("short").contains("5 of 6 runs are there"), "{}", planned("short"));
}

#[test]
fn a_summary_of_others_is_refused_before_the_first_run() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("out")).unwrap();
    folder.write("out/summary.csv", "a,b\n");
    let output = folder.all(&[]);
    assert!(!output.status.success() && text(&output).contains("out/summary.csv"), "{}", text(&output));
    assert_eq!(std::fs::read_to_string(folder.path("out/summary.csv")).unwrap(), "a,b\n");
    assert!(!Path::new(&folder.path("out/area2d")).exists());
}

#[test]
fn wrong_arguments_say_what_to_do() {
    let folder = Folder::new();
    folder.write("configs/sweeps/wrong.toml", "[config]\nexperiment = \"area2d\"\n[[grid]]\ntrain.epoch = [1]\n");
    for (arguments, expected) in [
        (vec!["sweep", "no/such.toml"], "no/such.toml"),
        (vec!["sweep", &folder.path("configs/sweeps/wrong.toml")], "train.epochs"),
        (vec!["sparsify", &folder.path("configs")], "checkpoint"),
        (vec!["report", &folder.path("configs")], "no results"),
        (vec!["compare", &folder.path("configs"), "--papers", "no/papers.csv"], "no/papers.csv"),
    ] {
        let output = reproduce(&arguments);
        assert!(!output.status.success() && text(&output).contains(expected), "{arguments:?}: {}", text(&output));
    }
    assert!(!folder.all(&[]).status.success());
}
