//! What a run refuses to do changes no file of its directory.
#![allow(clippy::unwrap_used)]

use ds_lab::config::Config;
use ds_lab::data::Source;
use ds_lab::device::Context;
use ds_lab::results::metrics::SummaryRow;
use ds_lab::run::checkpoint::Checkpoint;
use ds_lab::run::{Existing, RunOptions, TrainedOn, remove_run};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

fn area(epochs: usize) -> Config {
    let keys = "experiment = \"area2d\"\ndata.train_points = 60\ndata.test_grid = 20\ntrain.milestones = []";
    Config::from_toml(&format!("{keys}\ntrain.epochs = {epochs}")).unwrap()
}

fn run(config: &Config, directory: &Path, existing: Existing) -> anyhow::Result<SummaryRow> {
    let options = RunOptions { directory: directory.to_owned(), existing, quiet: true };
    ds_lab::run::run(config, &Source::Auto { dir: None }, &options, &Context::cpu())
}

/// The files of a directory with their contents, but for the lock; folders without.
fn contents(directory: &Path) -> BTreeMap<String, Option<Vec<u8>>> {
    let all = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let named = all.map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).ok()));
    named.filter(|(name, _)| name != ".lock").collect()
}

#[test]
fn a_resumption_that_is_refused_changes_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    run(&area(2), directory.path(), Existing::Refuse).unwrap();
    let (checkpoint, metrics) = (path("checkpoint.safetensors"), path("metrics.csv"));
    let [whole, rows] = [&checkpoint, &metrics].map(|path| fs::read(path).unwrap());
    // Left by a process that was killed.
    fs::write(path("config.toml.7.tmp"), "cut").unwrap();

    let of_other_data = || {
        let mut there = Checkpoint::read(&checkpoint).unwrap();
        there.position.trained_on = Some(TrainedOn { is_sample: true, samples: 1000 });
        there.write(&checkpoint).unwrap();
    };
    let with_other_rows = || {
        let text = String::from_utf8(rows.clone()).unwrap();
        fs::write(&metrics, text.replacen(",train,0.", ",train,1.", 1)).unwrap();
    };
    let without_rows = || fs::remove_file(&metrics).unwrap();
    let changes: [(&dyn Fn(), &str); 3] =
        [(&of_other_data, "--data"), (&with_other_rows, "was changed"), (&without_rows, "rows are lost")];
    for (change, expected) in changes {
        change();
        let before = contents(directory.path());
        let message = format!("{:#}", run(&area(4), directory.path(), Existing::Resume).unwrap_err());
        assert!(message.contains(expected), "{expected}: {message}");
        assert_eq!(contents(directory.path()), before, "{expected}");
        fs::write(&checkpoint, &whole).unwrap();
        fs::write(&metrics, &rows).unwrap();
    }
    assert_eq!(run(&area(4), directory.path(), Existing::Resume).unwrap().epochs, 4);
    assert_eq!(fs::read_to_string(path("config.toml")).unwrap(), area(4).to_toml());
    assert!(!path("config.toml.7.tmp").exists());
}

#[test]
fn a_run_with_a_folder_in_the_place_of_a_file_is_not_overwritten_in_part() {
    let directory = tempfile::tempdir().unwrap();
    run(&area(1), directory.path(), Existing::Refuse).unwrap();
    for name in ["checkpoint.safetensors", "config.toml", "pruning.csv"] {
        let place = directory.path().join(name);
        let file = fs::read(&place).unwrap();
        fs::remove_file(&place).unwrap();
        fs::create_dir(&place).unwrap();
        let before = contents(directory.path());
        let errors = [
            run(&area(2), directory.path(), Existing::Overwrite).unwrap_err(),
            remove_run(directory.path()).unwrap_err(),
        ];
        for message in errors.map(|error| format!("{error:#}")) {
            assert!(message.contains(name) && message.contains("is a folder"), "{message}");
        }
        assert_eq!(contents(directory.path()), before, "{name}");
        fs::remove_dir(&place).unwrap();
        fs::write(&place, file).unwrap();
    }
    assert_eq!(run(&area(2), directory.path(), Existing::Overwrite).unwrap().epochs, 2);
}
