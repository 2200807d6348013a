//! The columns of `metrics.csv`, `summary.csv`, `thresholds.csv`, `pruning.csv` and `diverged.csv`.

use crate::config::{Config, Train};
use ds_core::regularization::Norm;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Which samples a row is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Training samples, as seen in the epoch (augmented, with dropout).
    #[default]
    Train,
    /// Samples held out of the training set.
    Validation,
    /// Test samples.
    Test,
}

impl std::fmt::Display for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        })
    }
}

/// One row of `metrics.csv`. Accuracies are percentages; what has no meaning is an empty cell.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are the columns")]
pub struct MetricsRow {
    pub run: String,
    pub experiment: String,
    pub dataset: String,
    pub network: String,
    pub activation: String,
    pub seed: u64,
    pub epoch: usize,
    pub step: u64,
    pub split: Split,
    pub loss: f64,
    pub accuracy: Option<f64>,
    pub regularizer: f64,
    pub lr_weights: f64,
    pub lr_splines: f64,
    pub active_knots: Option<usize>,
    pub lipschitz_bound_l1: Option<f64>,
    /// Of 1-Lipschitz networks; others have it in the summary.
    #[serde(default)]
    pub lipschitz_certified_l2: Option<f64>,
    pub seconds: f64,
    pub images_per_second: Option<f64>,
}

/// One row of `summary.csv`. Losses and accuracies are those of the network after the last epoch, in evaluation mode.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are the columns")]
pub struct SummaryRow {
    pub run: String,
    pub experiment: String,
    pub dataset: String,
    pub data_origin: String,
    pub network: String,
    pub activation: String,
    pub seed: u64,
    pub epochs: usize,
    pub parameters: usize,
    pub spline_parameters: usize,
    pub protocol: String,
    pub device: String,
    pub threads: usize,
    pub revision: String,
    pub train_loss: f64,
    pub train_accuracy: Option<f64>,
    pub validation_accuracy: Option<f64>,
    pub test_loss: f64,
    pub test_accuracy: Option<f64>,
    pub knots: Option<usize>,
    pub active_knots: Option<usize>,
    pub sparsified_threshold: Option<f64>,
    pub sparsified_active_knots: Option<usize>,
    pub sparsified_train_accuracy: Option<f64>,
    pub sparsified_test_accuracy: Option<f64>,
    pub lipschitz_bound_l1: Option<f64>,
    pub seconds: f64,
    pub peak_memory_mb: Option<f64>,
    /// Units of the hidden layers of an area network, such as `4x4`.
    #[serde(default)]
    pub hidden: Option<String>,
    /// Knots of a spline, the outermost two included.
    #[serde(default)]
    pub spline_size: Option<usize>,
    #[serde(default)]
    pub spline_range: Option<f64>,
    /// Norm of the splines that was penalised: tv2, bv2 or none.
    #[serde(default)]
    pub norm: Option<String>,
    #[serde(default)]
    pub lambda: Option<f64>,
    #[serde(default)]
    pub weight_decay: Option<f64>,
    /// Fraction of the training set that was held out.
    #[serde(default)]
    pub validation: Option<f64>,
    /// Of the resolved config.
    #[serde(default)]
    pub config_md5: Option<String>,
    /// The largest quotient ‖f(x) − f(y)‖₂/‖x − y‖₂ that was found.
    #[serde(default)]
    pub lipschitz_lower_l2: Option<f64>,
    #[serde(default)]
    pub lipschitz_certified_l2: Option<f64>,
    /// The bound of Aziznejad2020 with p = 2.
    #[serde(default)]
    pub lipschitz_papers_l2: Option<f64>,
    #[serde(default)]
    pub lower_seconds: Option<f64>,
    #[serde(default)]
    pub certified_seconds: Option<f64>,
    #[serde(default)]
    pub papers_seconds: Option<f64>,
    /// Radii in ℓ2 of the certified accuracies, for pixels in [0, 1].
    #[serde(default)]
    pub certified_radii: Option<String>,
    #[serde(default)]
    pub certified_accuracy_1: Option<f64>,
    #[serde(default)]
    pub certified_accuracy_2: Option<f64>,
    #[serde(default)]
    pub certified_accuracy_3: Option<f64>,
    /// f32 or bf16, of what flows between layers in training.
    #[serde(default)]
    pub precision: Option<String>,
    /// Of the keys of the config that change the training.
    #[serde(default)]
    pub training_md5: Option<String>,
    /// The epoch with the best validation accuracy (of the lowest validation loss in regression), if its network is kept.
    #[serde(default)]
    pub best_epoch: Option<usize>,
    #[serde(default)]
    pub best_validation_accuracy: Option<f64>,
    #[serde(default)]
    pub best_test_accuracy: Option<f64>,
    /// Knots after pruning with a refit; `sparsified_…` are those of the papers' way.
    #[serde(default)]
    pub refit_knots: Option<usize>,
    #[serde(default)]
    pub refit_train_accuracy: Option<f64>,
    #[serde(default)]
    pub refit_validation_accuracy: Option<f64>,
    #[serde(default)]
    pub refit_test_accuracy: Option<f64>,
    /// Epochs of training after that, with the kept knots fixed.
    #[serde(default)]
    pub finetune_epochs: Option<usize>,
    #[serde(default)]
    pub finetuned_knots: Option<usize>,
    #[serde(default)]
    pub finetuned_train_accuracy: Option<f64>,
    #[serde(default)]
    pub finetuned_test_accuracy: Option<f64>,
    /// Knots that inputs of the training samples are next to.
    #[serde(default)]
    pub reached_knots: Option<usize>,
    /// The same for each spline layer.
    #[serde(default)]
    pub reached_knots_of_layers: Option<String>,
    /// Percent of the inputs of each spline layer that lie outside its grid.
    #[serde(default)]
    pub inputs_outside_of_layers: Option<String>,
    /// The training loss, λ·norm of the splines and the L2 terms.
    #[serde(default)]
    pub objective: Option<f64>,
    #[serde(default)]
    pub splines_optimizer: Option<String>,
    /// Of each layer, where ranges were fitted to the inputs; `spline_range` is empty there.
    #[serde(default)]
    pub spline_ranges_of_layers: Option<String>,
    /// The Lipschitz constant over all inputs, of networks of one or two inputs.
    #[serde(default)]
    pub lipschitz_exact_l2: Option<f64>,
    /// The linear pieces of such a network.
    #[serde(default)]
    pub pieces: Option<u64>,
    #[serde(default)]
    pub exact_seconds: Option<f64>,
    /// At the radii after the third.
    #[serde(default)]
    pub certified_accuracy_4: Option<f64>,
    #[serde(default)]
    pub certified_accuracy_5: Option<f64>,
    /// Of the training loss; none without one.
    #[serde(default)]
    pub margin: Option<f64>,
    /// The quotient of a pair of points in the steepest piece: what the exact constant is attained to.
    #[serde(default)]
    pub lipschitz_attained_l2: Option<f64>,
    /// Epochs of `prox_adam` before its proximal steps; none without a warm-up.
    #[serde(default)]
    pub splines_warmup_epochs: Option<usize>,
}

impl SummaryRow {
    /// Whether it is of a run with the config's name and seed.
    pub fn is_of(&self, config: &Config) -> bool {
        self.run == config.name && self.seed == config.seed
    }

    /// Whether both are of one run: of the same name and seed, experiment and data set.
    pub(crate) fn is_of_run_of(&self, other: &Self) -> bool {
        (&self.run, self.seed, &self.experiment, &self.dataset)
            == (&other.run, other.seed, &other.experiment, &other.dataset)
    }

    /// The precision of the training. Rows of older versions name none: there was one.
    pub fn trained_in(&self) -> &str {
        self.precision.as_deref().unwrap_or("f32")
    }

    /// What it was computed on, and in which precision if that is not f32.
    pub fn machine(&self) -> String {
        let machine = format!("{}, {} threads", self.device, self.threads);
        if self.trained_in() == "f32" { machine } else { format!("{machine}, {}", self.trained_in()) }
    }

    /// Whether it was made with this very config.
    pub fn has_config(&self, config: &Config) -> bool {
        self.config_md5 == Some(config.md5())
    }

    /// Whether it was trained as this config trains. Rows of older versions know their whole config only.
    pub fn has_training_of(&self, config: &Config) -> bool {
        self.training_md5.as_ref().is_some_and(|md5| *md5 == config.training_md5()) || self.has_config(config)
    }

    /// Whether it is of an earlier end of the config's run, from which that goes on. What is left of a schedule may change then.
    pub fn is_of_earlier_end(&self, config: &Config) -> bool {
        let epochs = self.epochs;
        let ended = |milestones: Vec<usize>| {
            let train = Train { epochs, milestones, ..config.train.clone() };
            self.has_training_of(&Config { train, ..config.clone() })
        };
        let milestones = &config.train.milestones;
        let reached = || milestones.iter().copied().filter(|&milestone| milestone < epochs).collect();
        epochs < config.train.epochs && (ended(milestones.clone()) || ended(reached()))
    }

    /// Kept knots and test accuracy of the pruned network: of the refit, or of the papers' threshold where there is none.
    pub fn pruned(&self) -> Option<(usize, Option<f64>)> {
        let of_papers = self.sparsified_active_knots.map(|knots| (knots, self.sparsified_test_accuracy));
        self.refit_knots.map(|knots| (knots, self.refit_test_accuracy)).or(of_papers)
    }

    /// The settings of the run's config that tables and pictures group by.
    #[must_use]
    pub fn with_settings(mut self, config: &Config) -> Self {
        let hidden: Vec<String> = config.network.hidden.iter().map(ToString::to_string).collect();
        self.hidden = (!hidden.is_empty()).then(|| hidden.join("x"));
        let kind = config.activation.kind;
        let has_splines = kind.has_knots();
        self.spline_size = has_splines.then_some(config.activation.size);
        let has_range = has_splines && !config.activation.range.is_auto();
        self.spline_range = has_range.then(|| config.activation.layer().knot_range());
        self.splines_optimizer = has_splines.then(|| config.optimizer.splines.kind.to_string());
        let warmup = config.optimizer.splines.warmup_epochs;
        self.splines_warmup_epochs = (has_splines && warmup > 0).then_some(warmup);
        self.norm = has_splines.then(|| config.regularization.norm.map_or("none", Norm::name).to_owned());
        self.lambda = has_splines.then_some(config.regularization.lambda);
        self.weight_decay = Some(config.regularization.weight_decay);
        self.validation = Some(config.data.validation);
        self.precision = Some(config.train.precision.to_string());
        self.config_md5 = Some(config.md5());
        self.training_md5 = Some(config.training_md5());
        self
    }
}

/// Rows of finished runs of a sweep, one a run, in the order in which the runs came. No two runs of a sweep have one name and seed.
#[derive(Debug, Clone, Default)]
pub struct SummaryRows {
    rows: Vec<SummaryRow>,
    /// By name and seed.
    places: HashMap<(String, u64), usize>,
}

impl SummaryRows {
    /// All rows.
    pub fn all(&self) -> &[SummaryRow] {
        &self.rows
    }

    /// The row of a run with this config's name and seed.
    pub fn of(&self, config: &Config) -> Option<&SummaryRow> {
        self.of_run(&config.name, config.seed)
    }

    /// The row of a run.
    pub fn of_run(&self, name: &str, seed: u64) -> Option<&SummaryRow> {
        self.places.get(&(name.to_owned(), seed)).map(|&place| &self.rows[place])
    }

    /// A run's last row is the one that counts.
    pub fn put(&mut self, row: SummaryRow) {
        match self.places.entry((row.run.clone(), row.seed)) {
            Entry::Occupied(place) => self.rows[*place.get()] = row,
            Entry::Vacant(place) => {
                place.insert(self.rows.len());
                self.rows.push(row);
            }
        }
    }
}

impl FromIterator<SummaryRow> for SummaryRows {
    fn from_iter<I: IntoIterator<Item = SummaryRow>>(rows: I) -> Self {
        let mut all = Self::default();
        rows.into_iter().for_each(|row| all.put(row));
        all
    }
}

/// One row of `thresholds.csv`: what the search for the largest threshold saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are the columns")]
pub struct ThresholdRow {
    pub threshold: f64,
    pub active_knots: usize,
    pub train_accuracy: f64,
}

/// One row of `pruning.csv`: what is left with so many knots. Accuracies are percentages.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are the columns")]
pub struct PruningRow {
    pub knots: usize,
    /// Of training after pruning, with these knots fixed.
    pub finetune_epochs: usize,
    pub train_accuracy: Option<f64>,
    pub validation_accuracy: Option<f64>,
    pub test_accuracy: Option<f64>,
    /// The error that the fits kept small: `sparsify.cost`.
    #[serde(default)]
    pub cost: Option<String>,
}

/// One row of a sweep's `diverged.csv`: a run whose loss became infinite or NaN. It is not trained again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are the columns")]
pub struct DivergedRow {
    pub run: String,
    pub seed: u64,
    /// Of the keys of the config that change the training.
    pub training_md5: String,
    pub step: u64,
    /// Counted from 1.
    pub epoch: usize,
    pub loss: f64,
    pub revision: String,
}

impl DivergedRow {
    /// What tells it from rows of other runs and of other trainings.
    pub(crate) fn training(&self) -> (&str, u64, &str) {
        (&self.run, self.seed, &self.training_md5)
    }
}

/// One row of `failed.csv`: a run of a sweep that ended with an error in the last call.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are the columns")]
pub struct FailedRow {
    pub run: String,
    pub seed: u64,
    pub error: String,
    pub revision: String,
}
