//! `--gpus` where there is nothing to sum with says so and leaves no trace.
#![allow(clippy::unwrap_used)]
#![cfg(not(feature = "nccl"))]

use std::path::Path;
use std::process::Command;

/// What it says when it fails.
fn failure(gpus: &str, out: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_cifar10"))
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .args(["--config", "configs/resnet.toml", "--data", "sample", "--gpus", gpus, "--out"])
        .arg(out)
        .output()
        .unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_build_without_nccl_says_how_to_make_one_with() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("run");
    for gpus in ["1", "2"] {
        let message = failure(gpus, &out);
        let is_whole =
            [format!("--gpus {gpus}:"), "--features nccl".to_owned()].iter().all(|part| message.contains(part));
        assert!(is_whole && message.lines().count() == 1, "{message}");
    }
    for wrong in ["0", "two"] {
        let message = failure(wrong, &out);
        assert!(message.contains("--gpus <N>") && message.contains(wrong), "{message}");
    }
    assert!(!out.exists());
}
