//! Comparison, report, `sparsify` and `bounds` as a user meets them: with closed pipes, from another folder, on files of others.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

const RUN: &str = "experiment = \"area2d\"\ndata.train_points = 60\ndata.test_grid = 20\n\
                   train.epochs = 2\ntrain.milestones = []\n";

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), bytes).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn copy(&self, from: &str, to: &str) {
        fs::copy(self.path(from), self.path(to)).unwrap();
    }

    /// Runs the program in this folder, which is no checkout.
    fn reproduce(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reproduce"));
        command.current_dir(self.0.path()).args(arguments).output().unwrap()
    }

    /// A finished run in `results/NAME`; `keys` overrides keys of its config.
    fn train(&self, name: &str, keys: &[&str]) {
        self.write("run.toml", RUN);
        let out = format!("results/{name}");
        let mut arguments = vec!["train", "--config", "run.toml", "--quiet", "--out", &out];
        arguments.extend(keys.iter().flat_map(|key| ["--set", key]));
        let output = self.reproduce(&arguments);
        assert!(output.status.success(), "{}", text(&output));
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{}", text(output));
    assert!(output.stdout.is_empty(), "{}", text(output));
    errors(output)
}

#[test]
fn a_closed_pipe_loses_no_report() {
    let folder = Folder::new();
    folder.train("a", &[]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = Command::new(env!("CARGO_BIN_EXE_reproduce"))
        .current_dir(folder.path(""))
        .args(["report", "results"])
        .stdout(writer)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    for file in ["comparison.md", "comparison-papers.csv", "report.html", "figures/basis.svg", "figures/basis.png"] {
        assert!(folder.path("results").join(file).exists(), "{file}");
    }
}

#[test]
fn a_damaged_file_is_named_and_the_rest_is_reported() {
    let folder = Folder::new();
    folder.train("a", &[]);
    folder.train("b", &["data.dataset=s_shape"]);
    let whole = fs::read(folder.path("results/b/checkpoint.safetensors")).unwrap();
    folder.write("results/b/checkpoint.safetensors", &whole[..whole.len() / 2]);
    folder.write("results/c/summary.csv", "not,ours\n1,2\n");
    folder.write(
        "results/d/diverged.csv",
        "run,seed,training_md5,step,epoch,loss,revision\nsteep,7,0123,640,3,NaN,abc\n",
    );
    let output = folder.reproduce(&["report", "results"]);
    assert!(output.status.success(), "{}", text(&output));
    let page = folder.read("results/report.html");
    let comparison = folder.read("results/comparison.md");
    for file in ["b/checkpoint.safetensors", "c/summary.csv"] {
        let line = format!("left out: results/{file}: ");
        assert!(errors(&output).lines().any(|text| text.starts_with(&line)), "{}", errors(&output));
        assert!(page.contains(&format!("<td>{file}</td>")), "{file}");
        assert!(comparison.contains(&format!("| {file} | ")), "{file}");
    }
    assert!(page.contains("Decision: circle") && !page.contains("Decision: S-shape"));
    assert!(page.contains("Diverged runs") && comparison.contains("| d | steep | 7 | 3 | 640 |"));
    let output = folder.reproduce(&["compare", "results"]);
    assert!(output.status.success() && errors(&output).contains("c/summary.csv"), "{}", text(&output));

    folder.write("nothing/c/summary.csv", "not,ours\n1,2\n");
    let error = refused(&folder.reproduce(&["report", "nothing"]));
    assert!(error.contains("no results") && error.contains("c/summary.csv"), "{error}");
}

#[test]
fn the_papers_values_are_found_from_every_folder_and_a_wrong_file_is_an_error_at_once() {
    let folder = Folder::new();
    folder.train("a", &[]);
    let output = folder.reproduce(&["report", "results"]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(folder.read("results/comparison.md").contains("Aziznejad2020"));
    for option in ["--papers", "--original"] {
        let other = Folder::new();
        fs::create_dir(other.path("results")).unwrap();
        fs::copy(folder.path("results/a/summary.csv"), other.path("results/summary.csv")).unwrap();
        for wrong in ["missing.csv", "wrong.csv"] {
            other.write("wrong.csv", "a,b\n1,2\n");
            let error = refused(&other.reproduce(&["report", "results", option, wrong]));
            assert!(error.contains(wrong), "{error}");
            assert_eq!(fs::read_dir(other.path("results")).unwrap().count(), 1);
        }
    }
    // The file below the current directory is the one that people fill in; a wrong row of it is left out.
    let header = "paper,table,experiment,dataset,network,activation,parameters,quantity,value,unit,provenance,note\n";
    let row = "Mine,t,area2d,circle,area,relu,,test_accuracy,98,%,verified,\n";
    folder.write("results/papers.csv", format!("{header}{row}Mine,t,area2d,circle,area,relu,,speed,98,%,verified,\n"));
    let output = folder.reproduce(&["compare", "results"]);
    assert!(errors(&output).contains("results/papers.csv: line 3: `quantity` is `speed`"), "{}", text(&output));
    let comparison = folder.read("results/comparison.md");
    assert!(comparison.contains("| Mine | ") && !comparison.contains("Aziznejad2020 |"), "{comparison}");
}

#[test]
fn a_report_is_not_written_over_files_of_others() {
    let folder = Folder::new();
    folder.train("a", &[]);
    for name in ["comparison.md", "comparison-papers.csv", "report.html", "figures/basis.png"] {
        folder.write(&format!("results/{name}"), "mine");
        let output = folder.reproduce(&["report", "results"]);
        assert!(!output.status.success() && errors(&output).contains(name), "{}", text(&output));
        assert_eq!(folder.read(&format!("results/{name}")), "mine");
        for other in ["comparison.md", "report.html"] {
            assert_eq!(folder.path("results").join(other).exists(), name == other, "{name} {other}");
        }
        fs::remove_file(folder.path("results").join(name)).unwrap();
    }
    assert!(folder.reproduce(&["report", "results"]).status.success());
    assert!(folder.reproduce(&["report", "results"]).status.success());
}

#[test]
fn sparsify_and_bounds_refuse_a_checkpoint_of_another_run() {
    let folder = Folder::new();
    folder.train("a", &["activation.kind=bspline"]);
    folder.train("b", &["activation.kind=bspline", "network.hidden=[3]"]);
    folder.train("c", &["activation.kind=bspline", "seed=1"]);
    let whole = fs::read(folder.path("results/a/checkpoint.safetensors")).unwrap();
    for command in ["sparsify", "bounds"] {
        let output = folder.reproduce(&[command, "results/a"]);
        assert!(output.status.success() && !output.stdout.is_empty(), "{}", text(&output));
    }
    let old = folder.read("results/a/thresholds.csv");
    for (other, without, expected) in [
        ("b", vec![], "config.toml: network.hidden"),
        ("c", vec![], "config.toml: seed"),
        ("c", vec!["config.toml"], "metrics.csv: seed: 1 there, 0 here"),
        ("b", vec!["config.toml", "metrics.csv"], "summary.csv: config_md5"),
    ] {
        let kept: Vec<_> = without.iter().map(|name| (name, folder.read(&format!("results/a/{name}")))).collect();
        without.iter().for_each(|name| fs::remove_file(folder.path("results/a").join(name)).unwrap());
        folder.copy(&format!("results/{other}/checkpoint.safetensors"), "results/a/checkpoint.safetensors");
        for command in ["sparsify", "bounds"] {
            let error = refused(&folder.reproduce(&[command, "results/a"]));
            assert!(error.contains(expected) && error.contains("results/a/checkpoint.safetensors"), "{error}");
        }
        assert_eq!(folder.read("results/a/thresholds.csv"), old);
        kept.into_iter().for_each(|(name, text)| folder.write(&format!("results/a/{name}"), text));
    }
    folder.write("results/a/checkpoint.safetensors", &whole);
    // Keys that change no network do not count, nor do damaged rows; a config that cannot be read does.
    let config = folder.read("results/a/config.toml");
    folder.write("results/a/config.toml", config.replace("checkpoint_seconds = 60.0", "checkpoint_seconds = 7.0"));
    folder.write("results/a/summary.csv", "cut");
    let output = folder.reproduce(&["sparsify", "results/a"]);
    assert!(output.status.success() && errors(&output).contains("summary.csv"), "{}", text(&output));
    folder.write("results/a/config.toml", "novelty = 1");
    let error = refused(&folder.reproduce(&["bounds", "results/a"]));
    assert!(error.contains("config.toml") && error.contains("novelty"), "{error}");
    fs::remove_file(folder.path("results/a/config.toml")).unwrap();
    let output = folder.reproduce(&["bounds", "results/a"]);
    assert!(output.status.success() && errors(&output).contains("config.toml is not there"), "{}", text(&output));
    // A table of someone else.
    folder.write("results/a/bounds.csv", "mine\n");
    assert!(refused(&folder.reproduce(&["bounds", "results/a"])).contains("bounds.csv"));
    assert_eq!(folder.read("results/a/bounds.csv"), "mine\n");
    fs::remove_file(folder.path("results/a/bounds.csv")).unwrap();
    // Near samples.
    let output = folder.reproduce(&["bounds", "results/a", "--points", "5", "--local", "0.1"]);
    assert!(output.status.success() && text(&output).contains("median"), "{}", text(&output));
    let table = folder.read("results/a/bounds-local.csv");
    let rows: Vec<Vec<f64>> =
        table.lines().skip(1).map(|line| line.split(',').map(|cell| cell.parse().unwrap()).collect()).collect();
    assert!(table.starts_with("sample,radius,lower_l2,certified_l2") && rows.len() == 5, "{table}");
    assert!(rows.iter().all(|row| row[1] == 0.1 && row[2] <= row[3] * (1.0 + 1e-8)), "{table}");
    assert!(!folder.reproduce(&["bounds", "results/a", "--local", "-1"]).status.success());
    folder.write("results/a/bounds-local.csv", "mine\n");
    assert!(refused(&folder.reproduce(&["bounds", "results/a", "--local", "0.1"])).contains("bounds-local.csv"));
}

#[test]
fn only_splines_are_sparsified_and_only_new_numbers_are_printed() {
    let folder = Folder::new();
    let old = "threshold,active_knots,train_accuracy\n0.5,1234,12.25\n";
    for kind in ["relu", "prelu", "apl"] {
        folder.train(kind, &[&format!("activation.kind={kind}")]);
        folder.write(&format!("results/{kind}/thresholds.csv"), old);
        let error = refused(&folder.reproduce(&["sparsify", &format!("results/{kind}")]));
        assert!(error.contains(&format!("its activation is {kind}")) && error.contains("bspline"), "{error}");
        assert_eq!(folder.read(&format!("results/{kind}/thresholds.csv")), old);
    }
    folder.write(
        "fit.toml",
        "experiment = \"fit1d\"\nactivation.kind = \"lipschitz_spline\"\nnetwork.kind = \"lipschitz\"\n",
    );
    let more = ["--set", "train.epochs=1", "--set", "train.milestones=[]", "--set", "data.train_points=20"];
    let train = ["train", "--config", "fit.toml", "--quiet", "--out", "results/fit"];
    let output = folder.reproduce(&[&train[..], &more[..]].concat());
    assert!(output.status.success(), "{}", text(&output));
    // A fit has no accuracy to search with, and 1-Lipschitz splines are only fitted again.
    let refit = ["sparsify", "results/fit", "--method", "refit"];
    assert!(refused(&folder.reproduce(&refit)).contains("--knots"));
    assert!(refused(&folder.reproduce(&["sparsify", "results/fit", "--knots", "5"])).contains("--method refit"));
    let output = folder.reproduce(&[&refit[..], &["--knots", "5"]].concat());
    assert!(output.status.success() && text(&output).contains("refit *"), "{}", text(&output));
    assert!(folder.read("results/fit/pruning.csv").lines().nth(1).unwrap().starts_with("5,0,"));

    folder.train("bspline", &["activation.kind=bspline"]);
    folder.write("results/bspline/thresholds.csv", old);
    let output = folder.reproduce(&["sparsify", "results/bspline"]);
    assert!(output.status.success() && !text(&output).contains("1234"), "{}", text(&output));
    assert!(!folder.read("results/bspline/thresholds.csv").contains("1234"));
    assert!(text(&output).contains("refit") && text(&output).contains("papers, threshold 0 "));
    assert!(folder.read("results/bspline/pruning.csv").lines().count() > 5);
    for (options, expected) in [
        (&["--iterate"][..], "--finetune-epochs"),
        (&["--iterate", "--finetune-epochs", "1", "--knots", "3"], "no --knots"),
        (&["--method", "papers", "--knots", "3"], "--method refit"),
        (&["--accuracy", "validation"], "data.validation"),
    ] {
        let error = refused(&folder.reproduce(&[&["sparsify", "results/bspline"], options].concat()));
        assert!(error.contains(expected), "{options:?}: {error}");
    }
}

#[test]
fn sparsify_writes_into_no_folder_of_another_run() {
    let folder = Folder::new();
    folder.train("a", &["activation.kind=bspline"]);
    folder.train("b", &["activation.kind=bspline", "network.hidden=[3]"]);
    let files = |name: &str| {
        let mut all: Vec<_> = fs::read_dir(folder.path(name))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect();
        all.sort();
        all
    };
    let before = files("results/b");
    let error = refused(&folder.reproduce(&["sparsify", "results/a", "--out", "results/b"]));
    assert!(error.contains("results/b has files of another run") && error.contains("network.hidden"), "{error}");
    assert_eq!(files("results/b"), before);
    folder.write("loose/thresholds.csv", "threshold,active_knots,train_accuracy\n");
    folder.write("sweep/sweep.toml", "");
    for out in ["loose", "sweep"] {
        let error = refused(&folder.reproduce(&["sparsify", "results/a", "--out", out]));
        assert!(error.contains("no config.toml"), "{error}");
    }
    // A folder of its own, again and again, also beside other things.
    let output = folder.reproduce(&["sparsify", "results/a", "--out", "results/../results/a"]);
    assert!(output.status.success(), "{}", text(&output));
    folder.write("own/notes.txt", "mine");
    for _ in 0..2 {
        let output = folder.reproduce(&["sparsify", "results/a", "--out", "own"]);
        assert!(output.status.success(), "{}", text(&output));
        assert!(folder.path("own/thresholds.csv").exists());
    }
    assert_eq!(folder.read("own/notes.txt"), "mine");
    let error = refused(&folder.reproduce(&["sparsify", "results/b", "--out", "own"]));
    assert!(error.contains("own has files of another run"), "{error}");
}

#[test]
fn a_run_whose_extension_was_killed_before_its_checkpoint_is_still_evaluated() {
    let folder = Folder::new();
    folder.train("a", &["activation.kind=bspline"]);
    // What `--resume --set train.epochs=400` writes before it trains.
    let config = folder.read("results/a/config.toml");
    let longer = config.replace("\nepochs = 2\n", "\nepochs = 400\n");
    assert_ne!(config, longer);
    folder.write("results/a/config.toml", &longer);
    for command in ["bounds", "sparsify"] {
        let output = folder.reproduce(&[command, "results/a"]);
        assert!(output.status.success(), "{command}: {}", text(&output));
        assert!(text(&output).contains("config.toml has 400 epochs, and the checkpoint is of a run of 2"));
    }
    folder.write("results/a/config.toml", longer.replace("seed = 0", "seed = 1"));
    assert!(refused(&folder.reproduce(&["bounds", "results/a"])).contains("seed"));
}
