//! One page that shows what a results folder holds: `report.html`, and its pictures as files.

mod html;
mod overview;
mod pictures;
mod results;

use crate::config::Experiment;
use crate::files::write_atomically;
use crate::plot::basis::Basis;
use crate::table::Table;
use anyhow::{Context, Result, bail};
use html::{Picture, Section};
use pictures::{Gallery, drawn_runs};
use std::path::{Path, PathBuf};

const TITLE: &str = "Deep spline networks";

const INTRODUCTION: &str = "In a deep spline network each neuron or channel learns its activation function along with the \
    weights. The function is linear between knots on a fixed grid. A penalty on the changes of its slope, λ·TV² or λ·BV², \
    keeps it simple: most knots turn out not to be needed and are eliminated after training. The pictures below are drawn \
    from the files of the runs that they name.";

/// The experiments in the order of the page, with their headings and what they are.
const EXPERIMENTS: [(Experiment, &str, &str); 4] = [
    (
        Experiment::Area2d,
        "Area classification",
        "A small fully connected network learns from 1500 points of the square which ones lie inside of an area. ReLU \
         networks cut the square along straight lines; learned activations bend them.",
    ),
    (
        Experiment::Fit1d,
        "Functions of one variable",
        "A single activation is fitted to a function, without any weights.",
    ),
    (
        Experiment::Mnist,
        "MNIST and Fashion-MNIST",
        "A convolutional network with two channels a layer tells ten classes apart.",
    ),
    (
        Experiment::Cifar10,
        "CIFAR-10 and CIFAR-100",
        "ResNet32 and network in network, with one learned function for each channel.",
    ),
];

/// Draws what the results hold into RESULTS/figures (svg and png) and writes RESULTS/report.html; returns its path.
///
/// # Errors
/// If there are no results, a file of them is wrong, or something cannot be written.
pub fn write(results: &Path, tables: &[Table]) -> Result<PathBuf> {
    if !results.is_dir() {
        bail!("there is no folder {}: name the folder that runs have written to, such as results", results.display());
    }
    let found = results::read(results)?;
    if found.runs.is_empty() && found.sweeps.iter().all(|sweep| sweep.rows.is_empty()) {
        bail!(
            "{} holds no results, neither runs (config.toml, metrics.csv) nor sweeps (sweep.toml, summary.csv): run an \
             experiment first, such as `cargo run --release -p area2d -- --config configs/area2d.toml`",
            results.display()
        );
    }
    let folder = results.join("figures");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let mut gallery = Gallery::new(&folder);
    let basis = gallery.add(
        &Basis::new()?,
        "basis",
        "",
        "A linear spline as a sum of triangles".to_owned(),
        "Seven knots. The coefficient at a knot is the function's value there; a knot is active if the slope changes \
         at it. Made-up coefficients."
            .to_owned(),
    )?;
    let mut sections = Vec::new();
    for (experiment, title, text) in EXPERIMENTS {
        let of_experiment = drawn_runs(&found.runs, experiment);
        let mut pictures: Vec<Picture> = Vec::new();
        for run in &of_experiment {
            pictures.extend(gallery.of_run(run)?);
        }
        pictures.extend(gallery.of_training(&of_experiment)?);
        for sweep in &found.sweeps {
            pictures.extend(gallery.of_sweep(sweep, experiment)?);
        }
        if !pictures.is_empty() {
            sections.push(Section { title: title.to_owned(), text: text.to_owned(), pictures, tables: Vec::new() });
        }
    }
    if !tables.is_empty() {
        let title = "In numbers".to_owned();
        sections.push(Section { title, tables: tables.to_vec(), ..Section::default() });
    }
    let all = vec![overview::runs(&found.runs), overview::sweeps(&found.sweeps)];
    let tables = all.into_iter().filter(|table| !table.rows.is_empty()).collect();
    sections.push(Section { title: "All runs and sweeps".to_owned(), tables, ..Section::default() });
    let page = html::page(TITLE, INTRODUCTION, &basis, &sections);
    let path = results.join("report.html");
    write_atomically(&path, |file| file.write_all(page.as_bytes()))?;
    Ok(path)
}

#[cfg(test)]
mod tests;
