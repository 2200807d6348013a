//! From nothing but a config to a trained network: CIFAR-10 comes from the hub, here from a server on this machine that has the
//! rows in the hub's order, and later from its cache.
#![cfg(feature = "hub")]
#![allow(clippy::unwrap_used)]

#[path = "../../../crates/ds-lab/tests/common/fake_hub.rs"]
mod fake_hub;

use ds_lab::data::parquet::{Record, read_records, write_records};
use fake_hub::{FakeHub, without_data};
use std::path::Path;
use std::process::{Command, Output};

const REPOSITORY: &str = "uoft-cs/cifar10";

/// The batches as the hub has them: in the order of the archive's members.
const ORDER: [usize; 5] = [4, 3, 2, 5, 1];

fn cifar10(home: &Path, hub: Option<&FakeHub>, out: &str, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cifar10"));
    command
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .args(["--config", "configs/quick/resnet.toml", "--device", "cpu"])
        .args(["--set", "train.max_train_images=200", "--set", "train.max_test_images=50"])
        .args(["--set", "train.epochs=1", "--set", "train.milestones=[]", "--set", "train.log_steps=1"])
        .args(["--set", "train.batch_size=50", "--set", "sparsify.enabled=false"])
        .arg("--out")
        .arg(home.join(out))
        .args(more);
    match hub {
        Some(hub) => hub.environment(&mut command, home),
        None => without_data(&mut command, home),
    }
    command.output().unwrap()
}

/// All columns but the last two, which the clock writes.
fn rows(out: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(out.join("metrics.csv")).unwrap();
    text.lines().map(|line| line.rsplitn(3, ',').last().unwrap().to_owned()).collect()
}

#[test]
fn a_config_alone_downloads_and_trains_and_the_next_run_needs_no_network() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if !data.join("cifar10").exists() {
        println!("SKIPPED: no CIFAR-10 in {}", data.display());
        return;
    }
    let records = |name: &str| read_records(&data.join("cifar10").join(name), "").unwrap();
    let train: Vec<Record> = (0..4).flat_map(|k| records(&format!("train-{k:05}-of-00004.parquet"))).collect();
    let train: Vec<Record> = ORDER.iter().flat_map(|k| train[(k - 1) * 10_000..k * 10_000].to_vec()).collect();
    // The first labels of the hub's file.
    assert_eq!(train[..5].iter().map(|record| record.labels[0]).collect::<Vec<_>>(), [0, 6, 0, 2, 7]);
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    let file = |records: &[Record]| {
        let path = home.join("file");
        write_records(&path, records).unwrap();
        std::fs::read(path).unwrap()
    };
    let hub = FakeHub::start();
    hub.put(REPOSITORY, "plain_text/train/0000.parquet", file(&train));
    hub.put(REPOSITORY, "plain_text/test/0000.parquet", file(&records("test-00000-of-00001.parquet")));

    let check = |output: Output, name: &str| {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{name}: {text}");
        text
    };
    let text = check(cifar10(home, Some(&hub), "first", &[]), "first");
    assert!(text.contains("fetching uoft-cs/cifar10"), "{text}");
    let expected = rows(&home.join("first"));
    // A row each of the steps and one of the epoch, below the header.
    assert!(expected.len() >= 4, "{expected:?}");
    let requests = hub.requests().len();
    drop(hub);
    let text = check(cifar10(home, None, "second", &[]), "second");
    assert!(!text.contains("fetching") && requests > 0, "{text}");
    assert_eq!(rows(&home.join("second")), expected);
    // The canonical order in four files gives the same training.
    check(cifar10(home, None, "third", &["--data-dir", data.to_str().unwrap()]), "third");
    assert_eq!(rows(&home.join("third")), expected);
}
