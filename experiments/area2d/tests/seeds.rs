//! `--seeds`: several runs of one config, killed and gone on with, have the rows of each alone.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

fn command(out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_area2d"));
    command
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .args(["--config", "configs/area2d.toml", "--set", "train.epochs=20", "--set", "train.milestones=[10]"])
        .args(["--set", "train.threads=1", "--set", "train.checkpoint_seconds=0", "--out"])
        .arg(out)
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// All columns but the last two, which the clock writes.
fn rows(run: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(run.join("metrics.csv")).unwrap();
    text.lines().map(|line| line.rsplitn(3, ',').last().unwrap().to_owned()).collect()
}

#[test]
fn seeds_are_trained_as_alone() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("seeds");
    let mut killed = command(&out, &["--seeds", "0..3", "--jobs", "2"]).spawn().unwrap();
    let checkpoints = || {
        let runs = std::fs::read_dir(out.join("runs")).into_iter().flatten().flatten();
        runs.filter(|run| run.path().join("checkpoint.safetensors").exists()).count()
    };
    while checkpoints() < 2 {
        assert!(killed.try_wait().unwrap().is_none(), "the runs ended before they could be killed");
        std::thread::sleep(Duration::from_millis(2));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();

    let resumed = command(&out, &["--seeds", "0..3", "--resume"]).output().unwrap();
    let text = String::from_utf8_lossy(&resumed.stdout);
    assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
    assert!(text.contains("median [least, largest] of 3 seeds"), "{text}");
    assert_eq!(std::fs::read_to_string(out.join("summary.csv")).unwrap().lines().count(), 4);
    for seed in 0..3 {
        let alone = directory.path().join(format!("alone{seed}"));
        assert!(command(&alone, &["--set", &format!("seed={seed}")]).output().unwrap().status.success());
        let beside = std::fs::read_dir(out.join("runs")).unwrap().flatten().map(|run| run.path());
        let beside = beside.into_iter().find(|run| run.to_string_lossy().ends_with(&format!("-seed{seed}"))).unwrap();
        assert_eq!(rows(&beside), rows(&alone), "seed {seed}");
    }
}

#[test]
fn what_does_not_go_with_seeds_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let error_of = |more: &[&str]| {
        let output = command(&directory.path().join("none"), more).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(error_of(&["--seeds", "0..3", "--resume"]).contains("no runs of --seeds"));
    assert!(error_of(&["--seeds", "3-5"]).contains("--seeds 3-5"));
    assert!(error_of(&["--jobs", "2"]).contains("--seeds"));
    assert!(!directory.path().join("none").exists());
}
