//! Signals, closed outputs and parents that end: nothing is lost, and it is said how to go on.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use common::{metrics, reproduce, text};
use ds_lab::lock::DirectoryLock;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A training of some seconds.
const RUN: &str = "experiment = \"area2d\"\ndata.train_points = 60\ndata.test_grid = 20\ntrain.epochs = 30000\n\
                   train.milestones = []\ntrain.eval_every = 10000\ntrain.log_steps = 30000\ntrain.checkpoint_seconds = 1e6\n";

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(folder.path("configs")).unwrap();
        std::fs::write(folder.path("configs/a.toml"), RUN).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn train(&self, out: &str, more: &[&str]) -> Command {
        let mut command = reproduce();
        command
            .arg("train")
            .arg("--config")
            .arg(self.path("configs/a.toml"))
            .arg("--out")
            .arg(self.path(out))
            .args(more);
        command
    }
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Starts a command and waits until it trains: until it has written to the run's metrics, twice where it goes on.
fn training(mut command: Command, run: &Path) -> Child {
    let written =
        || std::fs::metadata(run.join("metrics.csv")).and_then(|file| Ok((file.len(), file.modified()?))).ok();
    let before = written();
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the training starts", || written() != before);
    // A resumed run cuts the file to the rows of its checkpoint before it trains.
    let length = written().map(|(length, _)| length);
    wait_for("the training goes on", || written().map(|(length, _)| length) > length);
    child
}

fn send(signal: &str, child: &Child) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

fn ended_by(signal: &str, child: Child) -> Output {
    send(signal, &child);
    child.wait_with_output().unwrap()
}

#[test]
fn a_signal_ends_a_run_after_its_checkpoint_and_the_run_goes_on() {
    let folder = Folder::new();
    assert!(folder.train("whole", &["-q"]).status().unwrap().success());
    let expected = metrics(&folder.path("whole/metrics.csv"));
    let mut resume: &[&str] = &[];
    for (signal, status) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129)] {
        // Programs that this one starts inherit that, as under nohup.
        if signal == "-HUP" && is_ignored(1) {
            println!("SKIPPED: SIGHUP is ignored here");
            continue;
        }
        let output = ended_by(signal, training(folder.train("run", resume), &folder.path("run")));
        assert_eq!(output.status.code(), Some(status), "{}", text(&output));
        assert!(text(&output).contains(&format!("ended by SIG{}", &signal[1..])), "{}", text(&output));
        assert!(
            text(&output).contains("the checkpoint after step") && text(&output).contains("--resume"),
            "{}",
            text(&output)
        );
        assert!(folder.path("run/checkpoint.safetensors").exists() && !folder.path("run/summary.csv").exists());
        resume = &["--resume"];
    }
    assert!(folder.train("run", &["--resume", "-q"]).status().unwrap().success());
    assert_eq!(metrics(&folder.path("run/metrics.csv")), expected);
    // A finished run says so.
    let output = folder.train("run", &["--resume"]).output().unwrap();
    assert!(output.status.success() && text(&output).contains("finished before"), "{}", text(&output));
    let output = folder.train("run", &["--resume", "-q"]).output().unwrap();
    assert_eq!((output.status.success(), text(&output).as_str()), (true, ""));
}

#[test]
fn a_signal_that_is_ignored_stays_ignored() {
    let folder = Folder::new();
    let program = folder.train("run", &["-q"]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(program.get_program()).args(program.get_args());
    let output = ended_by("-HUP", training(shell, &folder.path("run")));
    assert!(output.status.success(), "{}", text(&output));
    assert!(folder.path("run/summary.csv").exists());
}

/// Whether this process ignores a signal, by the system's bit mask.
fn is_ignored(signal: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[test]
fn a_sweep_that_a_signal_ends_goes_on() {
    let folder = Folder::new();
    let sweep = folder.path("sweep.toml");
    std::fs::write(&sweep, format!("[config]\n{}[[grid]]\nseed = [0, 1, 2]\n", RUN.replace("30000", "10000"))).unwrap();
    let run = |out: &str| {
        let mut command = reproduce();
        command.arg("sweep").arg(&sweep).arg("--out").arg(folder.path(out)).args(["--jobs", "2"]);
        command
    };
    assert!(run("whole").status().unwrap().success());
    let output = ended_by("-TERM", training(run("out"), &folder.path("out/runs/area-bspline-circle-seed1")));
    assert_eq!(output.status.code(), Some(143), "{}", text(&output));
    assert!(text(&output).contains("of 3 runs have ended; the same command goes on"), "{}", text(&output));
    assert!(folder.path("out/runs/area-bspline-circle-seed1/checkpoint.safetensors").exists());
    assert!(run("out").status().unwrap().success());
    let rows = |out: &str| common::summary(&folder.path(out).join("summary.csv"));
    assert_eq!(rows("out"), rows("whole"));
}

#[test]
fn runs_end_with_the_process_that_started_them() {
    for signal in ["-KILL", "-TERM"] {
        let folder = Folder::new();
        let mut all = reproduce();
        all.arg("all").arg("--configs").arg(folder.path("configs")).arg("--out").arg(folder.path("out"));
        let run = folder.path("out/area2d/area-bspline-circle-seed0");
        let child = training(all, &run);
        assert!(DirectoryLock::acquire(&run).is_err(), "the run holds its lock while it trains");
        let output = ended_by(signal, child);
        // The lock of the run ends with its process.
        wait_for("the run ends", || DirectoryLock::acquire(&run).is_ok());
        assert!(run.join("checkpoint.safetensors").exists() && !run.join("summary.csv").exists());
        if signal == "-TERM" {
            assert_eq!(output.status.code(), Some(143), "{}", text(&output));
            assert!(text(&output).contains("the same command goes on"), "{}", text(&output));
        }
    }
}

#[test]
fn a_closed_or_full_output_ends_no_training() {
    let folder = Folder::new();
    std::fs::write(folder.path("configs/a.toml"), RUN.replace("30000", "300").replace("10000", "1")).unwrap();
    let shell = |script: &str, out: &str| {
        let program = folder.train(out, &[]);
        let mut command = Command::new("bash");
        command.args(["-c", &format!("set -o pipefail; {script}"), "bash"]).arg(program.get_program());
        command.args(program.get_args()).current_dir(program.get_current_dir().unwrap());
        command.output().unwrap()
    };
    for (k, script) in ["\"$@\" 2> >(head -n 1)", "\"$@\" 2>&1 | head -n 1", "\"$@\" 2> /dev/full", "\"$@\" 2>&-"]
        .into_iter()
        .enumerate()
    {
        let output = shell(script, &format!("run{k}"));
        assert!(output.status.success(), "{script}: {}", text(&output));
        assert!(folder.path(&format!("run{k}/summary.csv")).exists(), "{script}");
    }
    // What is piped into a reader that has enough ends quietly; what cannot be written at all is an error.
    let output = shell("\"$@\" --print-config | true", "none");
    assert_eq!((output.status.success(), text(&output).as_str()), (true, ""));
    let output = shell("\"$@\" --print-config > /dev/full", "none");
    assert!(!output.status.success() && text(&output).contains("cannot write to standard output"), "{}", text(&output));
}
