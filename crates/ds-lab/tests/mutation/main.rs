//! Damaged files of users: each parser gives an error that names the file, or a value, and never panics.
//!
//! Some thousand inputs a parser; `DS_FUZZ_COUNT=1000000 cargo test --release -p ds-lab --test mutation -- --nocapture`
//! for more.
#![allow(clippy::unwrap_used)]

mod data;
mod mutator;
mod torch;

use anyhow::Result;
use ds_lab::config::Config;
use ds_lab::data::{AreaShape, Source, area_csv, area_random};
use ds_lab::device::Context;
use ds_lab::results::metrics::{read_metrics, read_summary};
use ds_lab::run::checkpoint::Checkpoint;
use ds_lab::run::{Existing, RunOptions, run};
use ds_lab::sweep::Sweep;
use mutator::fuzz;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Fuzzes a parser that reads a file, whose errors must name it.
fn fuzz_file<T>(target: &str, corpus: &[Vec<u8>], parse: impl Fn(&Path) -> Result<T>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("damaged");
    fuzz(target, corpus, |bytes| {
        std::fs::write(&path, bytes).unwrap();
        parse(&path).map(|_| ()).map_err(|error| {
            let error = format!("{error:#}");
            assert!(error.contains(path.to_str().unwrap()), "the error does not name the file: {error}");
            error
        })
    });
}

/// The TOML files below a folder of the project; those of sweeps, or the others.
fn configs(sweeps: bool) -> Vec<Vec<u8>> {
    fn files(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "toml") {
                found.push(path);
            }
        }
    }
    let mut paths = Vec::new();
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs"), &mut paths);
    // The order of a folder is the system's; an input's index must give the same bytes everywhere.
    paths.sort();
    let texts = paths.iter().map(|path| std::fs::read(path).unwrap());
    texts.filter(|text| text.windows(6).any(|part| part == b"[[grid") == sweeps).collect()
}

/// A folder with the files of a finished run of a tiny network.
fn finished_run() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let config = "experiment = \"area2d\"\nnetwork.hidden = [2]\nactivation.size = 5\ndata.train_points = 20\n\
                  data.test_grid = 4\ntrain.epochs = 2\ntrain.milestones = []";
    let options = RunOptions { directory: directory.path().to_owned(), existing: Existing::Refuse, quiet: true };
    run(&Config::from_toml(config).unwrap(), &Source::Auto { dir: None }, &options, &Context::cpu()).unwrap();
    directory
}

fn file_of_run(name: &str) -> Vec<Vec<u8>> {
    vec![std::fs::read(finished_run().path().join(name)).unwrap()]
}

#[test]
fn damaged_configs_never_panic() {
    fuzz_file("config", &configs(false), |path| Ok(Config::load(path, &[])?));
}

#[test]
fn damaged_configs_of_checkpoints_never_panic() {
    let resolved: Vec<Vec<u8>> = configs(false)
        .iter()
        .map(|text| Config::from_toml(std::str::from_utf8(text).unwrap()).unwrap().to_toml().into_bytes())
        .collect();
    fuzz("resolved-config", &resolved, |bytes| {
        let config = Config::from_toml(&String::from_utf8_lossy(bytes)).map_err(|error| error.to_string())?;
        assert_eq!(Config::from_toml(&config.to_toml()).unwrap(), config, "what it writes is what it read");
        Ok(())
    });
}

/// The sweeps of few runs: planning thousands would be most of the time.
#[test]
fn damaged_sweeps_never_panic() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sweep.toml");
    let is_small = |text: &Vec<u8>| {
        std::fs::write(&path, text).unwrap();
        Sweep::load(&path).unwrap().count().unwrap() < 40
    };
    let corpus: Vec<Vec<u8>> = configs(true).into_iter().filter(is_small).collect();
    fuzz_file("sweep", &corpus, |path| Ok(Sweep::load(path)?));
}

#[test]
fn damaged_checkpoints_never_panic() {
    fuzz_file("checkpoint", &file_of_run("checkpoint.safetensors"), Checkpoint::read);
}

#[test]
fn damaged_metrics_never_panic() {
    fuzz_file("metrics", &file_of_run("metrics.csv"), |path| Ok(read_metrics(path)?));
}

#[test]
fn damaged_summaries_never_panic() {
    fuzz_file("summary", &file_of_run("summary.csv"), |path| Ok(read_summary(path)?));
}

#[test]
fn damaged_points_never_panic() {
    let set = area_random(AreaShape::Circle, 20, 0);
    let mut text = "x1,x2,label\n".to_owned();
    for ([x1, x2], label) in set.points.iter().zip(&set.labels) {
        text += &format!("{x1},{x2},{label}\n");
    }
    fuzz_file("area-csv", &[text.into_bytes()], |path| Ok(area_csv(path)?));
}
