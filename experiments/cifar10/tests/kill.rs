//! A run that is killed in the middle of an epoch and resumed ends with the rows of an unbroken one, times aside.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

fn start(out: &Path, more: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_cifar10"))
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .args(["--config", "configs/resnet.toml", "--data", "sample", "--quiet"])
        .args(["--set", "train.epochs=2", "--set", "train.milestones=[1]", "--set", "train.batch_size=32"])
        .args(["--set", "train.max_train_images=330", "--set", "train.max_test_images=64"])
        .args(["--set", "train.log_steps=3", "--set", "train.checkpoint_seconds=0"])
        .args(["--set", "sparsify.enabled=false", "--out"])
        .arg(out)
        .args(more)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// All columns but the last two, which the clock writes.
fn rows(out: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(out.join("metrics.csv")).unwrap();
    text.lines().map(|line| line.rsplitn(3, ',').last().unwrap().to_owned()).collect()
}

/// The number of steps that the checkpoint knows of, if there is one yet.
fn checkpointed_steps(out: &Path) -> Option<u64> {
    let bytes = std::fs::read(out.join("checkpoint.safetensors")).ok()?;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(1 << 16)]).into_owned();
    let rest = &text[text.find("step\\\":")? + 7..];
    rest[..rest.find(',')?].parse().ok()
}

#[test]
fn killed_and_resumed() {
    let directory = tempfile::tempdir().unwrap();
    let (whole, broken) = (directory.path().join("whole"), directory.path().join("broken"));
    assert!(start(&whole, &[]).wait().unwrap().success());
    let expected = rows(&whole);
    // 22 steps with a row each third, 2 epochs, 2 evaluations, the header.
    assert_eq!(expected.len(), 7 + 2 + 2 + 1);

    for (kill_at, more) in [(4, &[][..]), (15, &["--resume"])] {
        let mut run = start(&broken, more);
        while checkpointed_steps(&broken).is_none_or(|steps| steps < kill_at) {
            assert!(run.try_wait().unwrap().is_none(), "the run ended before it could be killed");
            std::thread::sleep(Duration::from_millis(2));
        }
        // SIGKILL: the process can do nothing about it.
        run.kill().unwrap();
        run.wait().unwrap();
        assert!(!broken.join("summary.csv").exists());
    }
    assert!(start(&broken, &["--resume"]).wait().unwrap().success());
    assert_eq!(rows(&broken), expected);
    assert!(broken.join("summary.csv").exists());
}
