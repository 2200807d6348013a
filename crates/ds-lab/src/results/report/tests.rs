#![allow(clippy::unwrap_used)]
use super::*;
use crate::config::Config;
use crate::data::Source;
use crate::device::Context;
use crate::results::metrics::{SummaryRow, write_table};
use crate::results::save;
use crate::run::{Existing, RunOptions};
use std::path::{Path, PathBuf};

/// Writes the report of a folder; returns the path of the page.
fn write(folder: &Path, tables: &[Table]) -> Result<PathBuf> {
    let mut results = Results::read(folder)?;
    save(&outputs(&mut results, tables)?)?;
    Ok(folder.join("report.html"))
}

/// A small run in RESULTS/area2d/SHAPE.
fn run(results: &Path, shape: &str) -> SummaryRow {
    let text = format!(
        "experiment = \"area2d\"\nname = \"<{shape}>\"\ndata.dataset = \"{shape}\"\ndata.train_points = 100\n\
         data.test_grid = 10\ntrain.epochs = 4\ntrain.eval_every = 1\nnetwork.hidden = [3]\n"
    );
    let config = Config::from_toml(&text).unwrap();
    let directory = results.join("area2d").join(shape);
    let options = RunOptions { directory, existing: Existing::Refuse, quiet: true };
    crate::run::run(&config, &Source::Auto { dir: None }, &options, &Context::cpu()).unwrap()
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
                parameters: 200 * units,
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
            "pieces-area2d-circle.svg",
            "pieces-area2d-s_shape.svg",
            "pruning-area2d-circle.svg",
            "pruning-area2d-s_shape.svg",
            "training-circle-area.svg",
            "training-s_shape-area.svg",
        ]
    );
    assert_eq!(page.matches("<svg ").count(), files.len());
    assert!(files.iter().all(|name| results.join("figures").join(name.replace(".svg", ".png")).exists()));
    // Pruned by the default method.
    assert!(page.contains(&format!(">{} of {}<", row.refit_knots.unwrap(), row.knots.unwrap())));
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
    assert!(page.contains("Training: circle") && page.contains("Pruning: S-shape"));
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

/// The page with the table of what is left out, without the rest.
fn left_out(folder: &Path) -> String {
    let page = std::fs::read_to_string(write(folder, &[]).unwrap()).unwrap();
    let (_, after) = page.split_once("<h3>Left out</h3>").unwrap_or_default();
    after.split_once("</table>").unwrap_or_default().0.to_owned()
}

#[test]
fn a_network_that_is_damaged_or_of_another_run_is_left_out_and_the_rest_is_drawn() {
    let directory = tempfile::tempdir().unwrap();
    let results = directory.path();
    run(results, "circle");
    run(results, "s_shape");
    let file = |shape: &str, name: &str| results.join("area2d").join(shape).join(name);
    assert_eq!(left_out(results), "");
    let pictures = |shape: &str| {
        let page = std::fs::read_to_string(results.join("report.html")).unwrap();
        ["Decision", "Learned activations", "Pruning"]
            .map(|kind| page.contains(&format!("aria-label=\"{kind}: {shape}")))
    };
    assert_eq!((pictures("circle"), pictures("S-shape")), ([true; 3], [true; 3]));

    let checkpoint = std::fs::read(file("circle", "checkpoint.safetensors")).unwrap();
    std::fs::write(file("circle", "checkpoint.safetensors"), &checkpoint[..checkpoint.len() / 2]).unwrap();
    let reasons = left_out(results);
    assert!(reasons.contains("area2d/circle/checkpoint.safetensors"), "{reasons}");
    assert_eq!((pictures("circle"), pictures("S-shape")), ([false, false, true], [true; 3]));

    std::fs::copy(file("s_shape", "checkpoint.safetensors"), file("circle", "checkpoint.safetensors")).unwrap();
    let reasons = left_out(results);
    assert!(reasons.contains("is of another run") && reasons.contains("data.dataset"), "{reasons}");
    assert_eq!(pictures("circle"), [false, false, true]);

    std::fs::write(file("circle", "checkpoint.safetensors"), &checkpoint).unwrap();
    std::fs::copy(file("s_shape", "sparsified.safetensors"), file("circle", "sparsified.safetensors")).unwrap();
    let reasons = left_out(results);
    assert!(
        reasons.contains("area2d/circle/sparsified.safetensors") && reasons.contains("another network"),
        "{reasons}"
    );
    assert_eq!(pictures("circle"), [true; 3]);

    let other = std::fs::read_to_string(file("circle", "config.toml")).unwrap();
    std::fs::write(file("circle", "config.toml"), other.replace("[train]", "[train]\nnovelty = 1")).unwrap();
    let reasons = left_out(results);
    assert!(reasons.contains("area2d/circle/config.toml") && reasons.contains("train.novelty"), "{reasons}");
    assert_eq!((pictures("circle"), pictures("S-shape")), ([false; 3], [true; 3]));
}

#[test]
fn files_of_others_are_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let results = directory.path();
    run(results, "circle");
    let names = ["report.html", "figures/basis.svg", "figures/basis.png", "figures/training-circle-area.svg"];
    let mine = "<!DOCTYPE html>\n<html><head><title>Deep spline networks</title></head>mine</html>";
    for name in names {
        std::fs::create_dir_all(results.join("figures")).unwrap();
        std::fs::write(results.join(name), mine).unwrap();
        let error = format!("{:#}", write(results, &[]).unwrap_err());
        assert!(error.contains(name) && error.contains("rename it"), "{error}");
        assert_eq!(std::fs::read_to_string(results.join(name)).unwrap(), mine);
        // Nothing else was written.
        assert_eq!(results.join("report.html").exists(), name == "report.html");
        assert!(std::fs::read_dir(results.join("figures")).unwrap().count() <= 1);
        std::fs::remove_file(results.join(name)).unwrap();
    }
    // Those of the program are, also without the generator that older versions did not write, and empty ones.
    let page = std::fs::read_to_string(write(results, &[]).unwrap()).unwrap();
    let older = page.replacen("<meta name=\"generator\" content=\"deep-splines: reproduce report\">\n", "", 1);
    assert_ne!(older, page);
    std::fs::write(results.join("report.html"), older).unwrap();
    std::fs::write(results.join("figures/basis.svg"), "").unwrap();
    write(results, &[]).unwrap();
    assert_eq!(std::fs::read_to_string(results.join("report.html")).unwrap(), page);
    assert!(std::fs::read_to_string(results.join("figures/basis.svg")).unwrap().starts_with("<svg "));
    // A folder in the place of a file, and a file in the place of the folder.
    std::fs::remove_file(results.join("report.html")).unwrap();
    std::fs::create_dir(results.join("report.html")).unwrap();
    assert!(write(results, &[]).unwrap_err().to_string().contains("report.html is not a file"));
    std::fs::remove_dir(results.join("report.html")).unwrap();
    std::fs::remove_dir_all(results.join("figures")).unwrap();
    std::fs::write(results.join("figures"), "mine").unwrap();
    assert!(write(results, &[]).unwrap_err().to_string().contains("figures is not a folder"));
    assert!(!results.join("report.html").exists());
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
