//! Which pictures the results give.

use super::html::Picture;
use crate::config::{Config, Dataset, Experiment};
use crate::data::AreaShape;
use crate::results::metrics::SummaryRow;
use crate::results::plot::activations::Activations;
use crate::results::plot::curves::{Curve, Curves};
use crate::results::plot::decision::Decision;
use crate::results::plot::fit::Fit;
use crate::results::plot::functions::Layer;
use crate::results::plot::grouping::scientific;
use crate::results::plot::pieces::Pieces;
use crate::results::plot::spread::SpreadChart;
use crate::results::plot::{Figure, bounds, lambda, palette, parameters, pruning, size, to_png, to_svg};
use crate::results::{Kind, LeftOut, Output, Run, Sweep};
use crate::run::target;
use anyhow::{Result, bail};
use ds_core::lipschitz::piecewise_linear::PiecewiseLinear;
use ds_nn::Network;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The pictures of a report.
pub struct Gallery {
    /// RESULTS/figures.
    folder: PathBuf,
    names: BTreeSet<String>,
    /// The pictures as files.
    pub outputs: Vec<Output>,
    /// Files whose pictures could not be drawn.
    pub left_out: Vec<LeftOut>,
}

/// The name of an activation in texts.
fn plain(name: &str) -> String {
    name.replace('_', " ")
}

/// The name of a data set in texts.
pub fn dataset_title(name: &str) -> String {
    match name {
        "cifar10" => "CIFAR-10".to_owned(),
        "cifar100" => "CIFAR-100".to_owned(),
        "mnist" => "MNIST".to_owned(),
        "fashion_mnist" => "Fashion-MNIST".to_owned(),
        "s_shape" => "S-shape".to_owned(),
        "square" => "x²".to_owned(),
        "sine" => "sin(πx)".to_owned(),
        "absolute" => "|x|".to_owned(),
        "cube" => "x³".to_owned(),
        "cosine7" => "cos(7πx)/(7π)".to_owned(),
        "slopes_pm1" => "slopes ±1".to_owned(),
        "slopes_pm1_0" => "slopes −1, 0, 1".to_owned(),
        other => plain(other),
    }
}

/// The name of a network in texts; empty where there is only one for the data.
fn network_title(name: &str) -> &str {
    match name {
        "resnet32" => "ResNet32",
        "nin" => "NiN",
        "convnet" => "ConvNet",
        "lipschitz" => "Lipschitz network",
        "lipschitz_conv" => "Lipschitz ConvNet",
        _ => "",
    }
}

fn joined<'t>(parts: impl IntoIterator<Item = &'t str>, between: &str) -> String {
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(between)
}

/// Config, seed, protocol, device and revision of a run.
fn origin(run: &Run) -> String {
    let (config, seed) = (&run.config.name, run.config.seed);
    match &run.summary {
        Some(row) => format!(
            "Config {config}, seed {seed}, {} epochs; protocol {}; {}; revision {}",
            row.epochs,
            row.protocol,
            row.machine(),
            row.revision
        ),
        None => format!("Config {config}, seed {seed}; the run has not ended"),
    }
}

/// What rows of a sweep have in common: how many runs and seeds, protocols, devices and revisions.
fn rows_origin(sweep: &str, rows: &[&SummaryRow]) -> String {
    let all = |value: fn(&SummaryRow) -> String| {
        let distinct: BTreeSet<String> = rows.iter().map(|row| value(row)).collect();
        match distinct.len() {
            0..=2 => distinct.into_iter().collect::<Vec<_>>().join(" and "),
            n => format!("{n} different"),
        }
    };
    let seeds = rows.iter().map(|row| row.seed).collect::<BTreeSet<_>>().len();
    format!(
        "Sweep {sweep}: {} runs, {seeds} {}; protocol {}; {}, threads: {}; revision {}",
        rows.len(),
        if seeds == 1 { "seed" } else { "seeds" },
        all(|row| row.protocol.clone()),
        all(|row| row.device.clone()),
        all(|row| row.threads.to_string()),
        all(|row| row.revision.clone())
    )
}

/// The settings of a run that tell it from others of its data set and network.
fn settings(config: &Config) -> String {
    let activation = plain(&config.activation.kind.to_string());
    if !config.activation.kind.is_spline() {
        return activation;
    }
    format!("{activation}, K = {}, λ = {}", config.activation.size, scientific(config.regularization.lambda))
}

impl Gallery {
    /// A gallery without pictures.
    pub fn new(results: &Path) -> Self {
        let folder = results.join("figures");
        Self { folder, names: BTreeSet::new(), outputs: Vec::new(), left_out: Vec::new() }
    }

    /// Draws a picture; the name of its file is the kind and the name of its origin.
    ///
    /// # Errors
    /// If the picture cannot be drawn.
    pub fn draw(
        &mut self,
        figure: &impl Figure,
        kind: &str,
        of: &str,
        title: String,
        caption: String,
    ) -> Result<Picture> {
        let path = self.path(kind, of);
        self.draw_at(figure, &path, title, caption)
    }

    /// A path without an extension, which no other picture has.
    fn path(&mut self, kind: &str, of: &str) -> PathBuf {
        let safe = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
        let base: String = joined([kind, of], "-").chars().map(safe).collect();
        let mut name = base.clone();
        let mut copies = 1;
        while !self.names.insert(name.clone()) {
            copies += 1;
            name = format!("{base}-{copies}");
        }
        self.folder.join(name)
    }

    fn draw_at(&mut self, figure: &impl Figure, path: &Path, title: String, caption: String) -> Result<Picture> {
        /// Pixels of CSS; a picture that is higher has more entries than anyone reads.
        const HIGHEST: u32 = 10_000;
        let (_, height) = figure.size();
        if height > HIGHEST {
            bail!("would be {height} pixels high, more than {HIGHEST}");
        }
        let printable = |c: char| if c.is_control() && c != '\n' { ' ' } else { c };
        let (svg, png) = (to_svg(figure)?.chars().map(printable).collect::<String>(), to_png(figure)?);
        let svg_file = Output { path: path.with_extension("svg"), kind: Kind::Svg, bytes: svg.clone().into_bytes() };
        self.outputs.extend([svg_file, Output { path: path.with_extension("png"), kind: Kind::Png, bytes: png }]);
        Ok(Picture { svg, title, caption })
    }

    /// Draws a picture as [`draw`](Self::draw) does; one that cannot be drawn is left out.
    fn add(&mut self, figure: &impl Figure, kind: &str, of: &str, title: String, caption: String) -> Option<Picture> {
        let path = self.path(kind, of);
        let picture = self.draw_at(figure, &path, title, caption);
        self.or_leave_out(picture, &path.with_extension("svg"), "is not drawn")
    }

    fn or_leave_out<T>(&mut self, result: Result<T>, path: &Path, what: &str) -> Option<T> {
        let leave_out = |error: anyhow::Error| {
            let text = format!("{error:#}");
            self.left_out.push(LeftOut::new(path, &format!("{what}: {text}")));
        };
        result.map_err(leave_out).ok()
    }

    /// The pictures of one run, but for its training.
    pub fn of_run(&mut self, run: &Run) -> Vec<Picture> {
        let mut pictures = Vec::new();
        let (config, origin) = (&run.config, origin(run));
        let data = dataset_title(&config.data.dataset.to_string());
        let what = joined([data.as_str(), network_title(&config.network.kind.to_string()), &settings(config)], ", ");
        const UNUSED: &str = "pictures are left out";
        if let Some(network) = self.or_leave_out(run.network(), &run.checkpoint(), UNUSED).flatten() {
            let drawn = self.of_network(run, &network, &what, &origin);
            pictures.extend(self.or_leave_out(drawn, &run.checkpoint(), UNUSED).into_iter().flatten());
        }
        let title = format!("Pruning: {what}");
        let summary = run.summary.as_ref();
        if let Some(chart) = pruning::chart(title.clone(), &run.pruning, &run.thresholds, summary) {
            let caption = format!("{}{origin}", knots_kept(summary));
            pictures.extend(self.add(&chart, "pruning", &run.name, title, caption));
        }
        pictures
    }

    /// The pictures of a run's network.
    fn of_network(&mut self, run: &Run, network: &Network, what: &str, origin: &str) -> Result<Vec<Picture>> {
        let mut pictures = Vec::new();
        let config = &run.config;
        let colour = palette::activation(&config.activation.kind.to_string());
        if let Some(shape) = area(config.data.dataset) {
            let title = format!("Decision: {what}");
            let accuracy = run.summary.as_ref().and_then(|row| row.test_accuracy);
            let accuracy = accuracy.map_or(String::new(), |a| format!("Test accuracy {a:.2} %. "));
            let figure = Decision::of(title.clone(), shape, network)?;
            pictures.extend(self.add(&figure, "decision", &run.name, title, accuracy + origin));
            pictures.extend(self.of_pieces(run, network, what, origin)?);
        }
        if let Some(function) = target(config) {
            let title = format!("Fit: {what}");
            let figure = Fit::of(title.clone(), colour, function, network)?;
            let (largest, mean) = figure.errors();
            let caption = format!("Largest error {largest:.2e}, root mean square {mean:.2e}. {origin}");
            pictures.extend(self.add(&figure, "fit", &run.name, title, caption));
        }
        let sparsified = run.sparsified(network);
        let sparsified = self.or_leave_out(sparsified, &run.sparsified_network(), "is not drawn").flatten();
        // A fit shows its only function already.
        let shown = target(config).is_some() && sparsified.is_none();
        if !network.splines().is_empty() && !shown {
            let title = format!("Learned activations: {what}");
            let sparsified = sparsified.as_ref().map(layers).transpose()?;
            let figure = Activations { title: title.clone(), colour, layers: layers(network)?, sparsified };
            let caption = format!("{}{origin}", knots_kept(run.summary.as_ref()));
            pictures.extend(self.add(&figure, "activations", &run.name, title, caption));
        }
        Ok(pictures)
    }

    /// The linear pieces of a network of two inputs.
    fn of_pieces(&mut self, run: &Run, network: &Network, what: &str, origin: &str) -> Result<Option<Picture>> {
        /// More of them are smaller than what the picture shows.
        const MOST: u64 = 100_000;
        let title = format!("Linear pieces: {what}");
        let network = PiecewiseLinear::new(&network.architecture()?)?;
        if !network.is_finite() {
            return Ok(None);
        }
        let Some(figure) = Pieces::of(title.clone(), &network, MOST)? else { return Ok(None) };
        let caption =
            format!("{} pieces in the square, steepest gradient {:.4}. {origin}", figure.count, figure.steepest);
        Ok(self.add(&figure, "pieces", &run.name, title, caption))
    }

    /// The training of runs on the same data with the same network, one picture each.
    pub fn of_training(&mut self, runs: &[&Run]) -> Vec<Picture> {
        let mut alike: BTreeMap<(String, String), Vec<&Run>> = BTreeMap::new();
        for run in runs.iter().filter(|run| run.metrics.iter().any(|row| row.epoch >= 2)) {
            let key = (run.config.data.dataset.to_string(), run.config.network.kind.to_string());
            alike.entry(key).or_default().push(run);
        }
        let mut pictures = Vec::new();
        for ((dataset, network), runs) in alike {
            let curves = curves(&runs);
            let what = joined([dataset_title(&dataset).as_str(), network_title(&network)], ", ");
            let title = format!("Training: {what}");
            let figure = Curves { title: title.clone(), curves };
            let origins: Vec<String> = runs.iter().map(|run| origin(run)).collect();
            let of = format!("{dataset}-{network}");
            pictures.extend(self.add(&figure, "training", &of, title, origins.join(". ")));
        }
        pictures
    }

    /// The pictures of the rows of a sweep that are about one experiment.
    pub fn of_sweep(&mut self, sweep: &Sweep, experiment: Experiment) -> Vec<Picture> {
        let mut alike: BTreeMap<(&str, &str), Vec<&SummaryRow>> = BTreeMap::new();
        for row in sweep.rows.iter().filter(|row| row.experiment == experiment.to_string()) {
            alike.entry((&row.dataset, &row.network)).or_default().push(row);
        }
        type Kind = (&'static str, &'static str, fn(String, &[&SummaryRow]) -> Option<SpreadChart>);
        let kinds: [Kind; 4] = [
            ("parameters", "Accuracy and parameters", parameters::chart),
            ("lambda", "What λ does", lambda::chart),
            ("bounds", "Bounds of the Lipschitz constant", bounds::chart),
            ("size", "Accuracy and knots", size::chart),
        ];
        let mut pictures = Vec::new();
        for ((dataset, network), rows) in alike {
            let what = joined([dataset_title(dataset).as_str(), network_title(network)], ", ");
            for (kind, heading, chart) in kinds {
                let title = format!("{heading}: {what}");
                if let Some(figure) = chart(title.clone(), &rows) {
                    let of = format!("{}-{dataset}-{network}", sweep.name);
                    pictures.extend(self.add(&figure, kind, &of, title, rows_origin(&sweep.name, &rows)));
                }
            }
        }
        pictures
    }
}

/// Runs with their labels and colours; runs of one label have different seeds.
fn curves(runs: &[&Run]) -> Vec<Curve> {
    let short: Vec<String> = runs.iter().map(|run| plain(&run.config.activation.kind.to_string())).collect();
    let is_unique = |labels: &[String]| labels.iter().collect::<BTreeSet<_>>().len() == labels.len();
    let mut labels = short.clone();
    if !is_unique(&labels) {
        labels = runs.iter().map(|run| settings(&run.config)).collect();
    }
    if !is_unique(&labels) {
        labels = runs.iter().map(|run| format!("{}, seed {}", run.config.name, run.config.seed)).collect();
    }
    let own_colours = is_unique(&short);
    let curve = |(k, (run, label)): (usize, (&&Run, String))| {
        let activation = palette::activation(&run.config.activation.kind.to_string());
        let colour = if own_colours { activation } else { palette::series(k) };
        Curve { label, colour, rows: run.metrics.clone() }
    };
    runs.iter().zip(labels).enumerate().map(curve).collect()
}

fn knots_kept(row: Option<&SummaryRow>) -> String {
    let Some((row, all)) = row.and_then(|row| Some((row, row.knots?))) else { return String::new() };
    let refit = row.refit_knots.map(|kept| format!("{kept} of {all} knots are kept by refit. "));
    let papers = row.sparsified_active_knots.zip(row.sparsified_threshold);
    let papers = papers.map(|(kept, threshold)| format!("{kept} of {all} are kept at the threshold {threshold}. "));
    refit.unwrap_or_default() + &papers.unwrap_or_default()
}

fn layers(network: &Network) -> Result<Vec<Layer>> {
    network.splines().into_iter().map(Layer::of).collect()
}

fn area(dataset: Dataset) -> Option<AreaShape> {
    match dataset {
        Dataset::Circle => Some(AreaShape::Circle),
        Dataset::SShape => Some(AreaShape::SShape),
        _ => None,
    }
}

/// The runs of an experiment that are drawn one by one: those outside of sweeps, and of those that differ in their seeds
/// only the first. Where there are none, the few different ones of sweeps.
pub fn drawn_runs(runs: &[Run], experiment: Experiment) -> Vec<&Run> {
    const FEW: usize = 6;
    let first_seeds = |in_sweeps: bool| {
        let mut drawn: Vec<&Run> = Vec::new();
        for run in runs.iter().filter(|run| run.config.experiment == experiment && run.sweep.is_some() == in_sweeps) {
            let is_same = |other: &&Run| Config { seed: run.config.seed, ..other.config.clone() } == run.config;
            if !drawn.iter().any(is_same) {
                drawn.push(run);
            }
        }
        drawn
    };
    let mut outside = first_seeds(false);
    // A shorter training of the same network shows nothing that the longer one does not.
    let kind = |run: &Run| (run.config.data.dataset, run.config.network.clone(), run.config.activation.clone());
    let epochs = |run: &Run| run.config.train.epochs;
    let longest = |run: &&Run| outside.iter().all(|other| kind(other) != kind(run) || epochs(other) <= epochs(run));
    outside = outside.iter().copied().filter(longest).collect();
    if !outside.is_empty() {
        return outside;
    }
    let inside = first_seeds(true);
    if inside.len() <= FEW { inside } else { Vec::new() }
}
