#![allow(clippy::unwrap_used)]
use super::*;
use crate::config::Config;
use crate::data::Source;
use crate::experiment::{self, Existing, RunOptions};
use crate::metrics::{SummaryRow, write_table};

/// A small run in RESULTS/area2d/SHAPE.
fn run(results: &Path, shape: &str) -> SummaryRow {
    let text = format!(
        "experiment = \"area2d\"\nname = \"<{shape}>\"\ndata.dataset = \"{shape}\"\ndata.train_points = 100\n\
         data.test_grid = 10\ntrain.epochs = 4\ntrain.eval_every = 1\nnetwork.hidden = [3]\n"
    );
    let config = Config::from_toml(&text).unwrap();
    let directory = results.join("area2d").join(shape);
    let options = RunOptions { directory, existing: Existing::Refuse, quiet: true };
    experiment::run(&config, &Source::Auto { dir: None }, &options).unwrap()
}

fn sweep(results: &Path, row: &SummaryRow) {
    let directory = results.join("sweeps/widths");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("sweep.toml"), "").unwrap();
    let rows: Vec<SummaryRow> = [2, 4, 8]
        .into_iter()
        .flat_map(|units: usize| {
            [0, 1].map(|seed| SummaryRow {
                hidden: Some(units.to_string()),
                parameters: 20 * units,
                seed,
                test_accuracy: Some(80.0 + units as f64 + seed as f64),
                ..row.clone()
            })
        })
        .collect();
    write_table(&directory.join("summary.csv"), &rows).unwrap();
}

#[test]
fn a_page_holds_what_the_folder_holds() {
    let directory = tempfile::tempdir().unwrap();
    let results = directory.path();
    let row = run(results, "circle");
    run(results, "s_shape");
    sweep(results, &row);
    let table = Table {
        title: "Papers & here".to_owned(),
        columns: vec!["what".to_owned()],
        rows: vec![vec!["<b>98.5</b>".to_owned()]],
        ..Table::default()
    };
    let page = std::fs::read_to_string(write(results, std::slice::from_ref(&table)).unwrap()).unwrap();
    let mut files: Vec<String> = std::fs::read_dir(results.join("figures"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".svg"))
        .collect();
    files.sort();
    assert_eq!(
        files,
        [
            "activations-area2d-circle.svg",
            "activations-area2d-s_shape.svg",
            "basis.svg",
            "decision-area2d-circle.svg",
            "decision-area2d-s_shape.svg",
            "parameters-sweeps-widths-circle-area.svg",
            "thresholds-area2d-circle.svg",
            "thresholds-area2d-s_shape.svg",
            "training-circle-area.svg",
            "training-s_shape-area.svg",
        ]
    );
    assert_eq!(page.matches("<svg ").count(), files.len());
    assert!(files.iter().all(|name| results.join("figures").join(name.replace(".svg", ".png")).exists()));
    assert!(page.contains("Papers &amp; here") && page.contains("&lt;b&gt;98.5&lt;/b&gt;"));
    assert!(page.contains("Config &lt;circle&gt;, seed 0, 4 epochs; protocol reduced"));
    // Nothing is loaded, nothing runs, and no two pictures can share an id.
    assert!(["<script", "<link", "<img", "src=", "url(", " id=", "<circle>"].iter().all(|no| !page.contains(no)));

    // Without checkpoints, what needs them is left out.
    for shape in ["circle", "s_shape"] {
        std::fs::remove_file(results.join("area2d").join(shape).join("checkpoint.safetensors")).unwrap();
    }
    let page = std::fs::read_to_string(write(results, &[]).unwrap()).unwrap();
    assert!(!page.contains("Decision: ") && !page.contains("Learned activations: "));
    assert!(page.contains("Training: circle") && page.contains("Sparsification: S-shape"));
}

#[test]
fn of_a_sweep_that_goes_on_the_finished_runs_count() {
    let directory = tempfile::tempdir().unwrap();
    run(directory.path(), "circle");
    std::fs::write(directory.path().join("area2d/sweep.toml"), "").unwrap();
    let page = std::fs::read_to_string(write(directory.path(), &[]).unwrap()).unwrap();
    // The sweep's row: its name, one run, one seed. The run is drawn, as there are no others.
    assert!(page.contains("<tr><td>area2d</td><td class=\"number\">1</td><td class=\"number\">1</td>"), "{page}");
    assert!(page.contains("Decision: circle"));
}

#[test]
fn a_broken_checkpoint_is_named() {
    let directory = tempfile::tempdir().unwrap();
    run(directory.path(), "circle");
    let checkpoint = directory.path().join("area2d/circle/checkpoint.safetensors");
    std::fs::write(&checkpoint, "cut").unwrap();
    let error = format!("{:#}", write(directory.path(), &[]).unwrap_err());
    assert!(error.contains(&checkpoint.display().to_string()), "{error}");
}

#[test]
fn a_folder_without_results_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let error = write(directory.path(), &[]).unwrap_err().to_string();
    assert!(error.contains(&directory.path().display().to_string()) && error.contains("cargo run"), "{error}");
    let error = write(&directory.path().join("missing"), &[]).unwrap_err().to_string();
    assert!(error.contains("missing") && error.contains("no folder"), "{error}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
