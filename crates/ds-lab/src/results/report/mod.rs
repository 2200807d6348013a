//! One page that shows what a results folder holds: `report.html`, and its pictures as files.

mod html;
mod overview;
mod pictures;

use crate::config::Experiment;
use crate::file_names::REPORT;
use crate::results::plot::basis::Basis;
use crate::results::table::Table;
use crate::results::{Kind, Output, PAGE_TITLE, Results};
use anyhow::Result;
use html::{Picture, Section};
use pictures::{Gallery, drawn_runs};

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

/// Draws what the results hold: RESULTS/report.html with the tables, and its pictures in RESULTS/figures (svg and png). Pictures
/// whose files are damaged are left out, and [`Results::left_out`] then has these files, too.
///
/// # Errors
/// If nothing can be drawn at all.
pub fn outputs(results: &mut Results, tables: &[Table]) -> Result<Vec<Output>> {
    let mut gallery = Gallery::new(&results.folder);
    let basis = gallery.draw(
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
        let of_experiment = drawn_runs(&results.runs, experiment);
        let mut pictures: Vec<Picture> = Vec::new();
        for run in &of_experiment {
            pictures.extend(gallery.of_run(run));
        }
        pictures.extend(gallery.of_training(&of_experiment));
        for sweep in &results.sweeps {
            pictures.extend(gallery.of_sweep(sweep, experiment));
        }
        if !pictures.is_empty() {
            sections.push(Section { title: title.to_owned(), text: text.to_owned(), pictures, tables: Vec::new() });
        }
    }
    if !tables.is_empty() {
        let title = "In numbers".to_owned();
        sections.push(Section { title, tables: tables.to_vec(), ..Section::default() });
    }
    let Gallery { mut outputs, left_out, .. } = gallery;
    results.left_out.extend(left_out);
    let all = [overview::runs(&results.runs), overview::sweeps(&results.sweeps)];
    let mut tables: Vec<Table> = all.into_iter().filter(|table| !table.rows.is_empty()).collect();
    tables.extend(results.diverged_table());
    tables.extend(results.left_out_table());
    sections.push(Section { title: "All runs and sweeps".to_owned(), tables, ..Section::default() });
    let page = html::page(PAGE_TITLE, INTRODUCTION, &basis, &sections);
    outputs.push(Output { path: results.folder.join(REPORT), kind: Kind::Page, bytes: page.into_bytes() });
    Ok(outputs)
}

#[cfg(test)]
mod tests;
