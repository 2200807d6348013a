//! Options that are too large, too small or without effect, and what `--quiet` leaves.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Tensor};
use common::text;
use std::collections::HashMap;

const RUN: &str = "experiment = \"area2d\"\ndata.train_points = 60\ndata.test_grid = 20\n\
                   train.epochs = 1\ntrain.milestones = []\n";

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let write = |name: &str, text: &str| std::fs::write(folder.0.path().join(name), text).unwrap();
        write("run.toml", RUN);
        write("one.toml", &format!("[config]\n{RUN}[[grid]]\nseed = [0]\n"));
        folder
    }

    /// Runs the program in this folder: whether it succeeds, and what it says.
    fn call(&self, line: &str) -> (bool, String) {
        let output = common::reproduce().current_dir(self.0.path()).args(line.split(' ')).output().unwrap();
        (output.status.success(), text(&output))
    }

    fn succeeds(&self, line: &str) -> String {
        let (is_success, said) = self.call(line);
        assert!(is_success, "{line}: {said}");
        said
    }

    fn fails(&self, line: &str, parts: &[&str]) {
        let (is_success, said) = self.call(line);
        assert!(!is_success, "{line}: {said}");
        for part in parts {
            assert!(said.contains(part), "{line}: {part}: {said}");
        }
    }
}

#[test]
fn quiet_runs_print_nothing_and_one_run_is_no_runs() {
    let folder = Folder::new();
    assert_eq!(folder.succeeds("sweep one.toml --out quiet --jobs 1 --device cpu -q"), "");
    assert_eq!(folder.succeeds("train --config run.toml --seeds 0..2 --out seeds --jobs 1 --device cpu -q"), "");
    assert!(folder.0.path().join("quiet/summary.csv").exists() && folder.0.path().join("seeds/summary.csv").exists());
    let said = folder.succeeds("sweep one.toml --out loud --jobs 1 --device cpu");
    assert!(said.contains("one: 1 run, 1 made now in "), "{said}");
    let said = folder.succeeds("train --config run.toml --seeds 0..1 --out one-seed --jobs 1 --device cpu");
    assert!(said.contains(": 1 run, 1 made now in ") && said.contains(" of 1 seed\n"), "{said}");
    let said = folder.succeeds("sweep one.toml --out loud --merge");
    assert!(said.contains("one: 1 run in "), "{said}");
    assert_eq!(folder.succeeds("sweep one.toml --out loud --merge -q"), "");
}

#[test]
fn limits_are_named() {
    let folder = Folder::new();
    folder.fails("train --config run.toml --seeds 0..1000000000000 --out o", &["at most 100000 seeds"]);
    folder.fails("sweep one.toml --out o --shard 1/99999999999", &["K/N with K from 1 to N", "N at most 100000"]);
    for radius in ["1e308", "1e-300", "0", "nan"] {
        folder.fails(&format!("bounds o --local {radius}"), &["--local", "a number from 1e-6 to 1e6"]);
    }
    folder.fails("bounds o --points 0", &["--points", "from 1 on"]);
    assert!(!folder.0.path().join("o").exists());
}

#[test]
fn a_seed_beside_seeds_is_refused() {
    let folder = Folder::new();
    let parts = ["--seeds 0..2 and --set seed=5 contradict each other", "leave one of them out"];
    folder.fails("train --config run.toml --seeds 0..2 --set seed=5 --out o", &parts);
    assert!(!folder.0.path().join("o").exists());
}

#[test]
fn a_constant_network_has_no_ratio_of_bounds() {
    let folder = Folder::new();
    let tensor = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
    let zeros = HashMap::from([
        ("fc1.weight", tensor(&[4, 2])),
        ("fc_last.weight", tensor(&[1, 4])),
        ("fc_last.bias", tensor(&[1])),
        ("activations.0._coefficients_vect", tensor(&[4 * 21])),
    ]);
    candle_core::safetensors::save(&zeros, folder.0.path().join("zeros.safetensors")).unwrap();
    let known = "--network area --activation bspline --dataset circle --range 1";
    folder.succeeds(&format!("import zeros.safetensors --out run {known}"));
    let said = folder.succeeds("bounds run --points 2 --local 1e-6");
    let median = said.lines().find(|line| line.contains("median")).unwrap();
    assert!(median.contains(" - ") && !median.contains("NaN"), "{said}");
    assert!(said.contains("radius 0.000001 "), "{said}");
}
