//! How often a run does what, and how the runs of a sweep follow each other.

use super::rates::Rates;
use crate::config::Range;
use crate::config::{Config, Dataset, Experiment, Judged, Search, Sparsify};
use crate::run::{Setup, radii};
use ds_core::activation::Init;
use ds_core::sparsify::Cost;

/// Thresholds that a search through all of them tries until one falls: about so many in the sweeps of areas.
const TRIED: f64 = 30.0;
/// Numbers of knots that a search through all of them tries until accuracy has fallen.
const BUDGETS: f64 = 22.0;
/// What a sample costs whose inputs are counted, in evaluations.
const HISTOGRAM: f64 = 6.0;
/// Seconds for the directory and the files of a run.
const FILES: f64 = 0.02;
/// Runs of a sweep that are measured.
const MEASURED: usize = 10;

/// How many samples a run trains on and evaluates.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    train: usize,
    validation: usize,
    test: usize,
}

impl Sizes {
    pub(super) fn of(config: &Config, setup: &Setup) -> Self {
        let validation = setup.validation.as_ref().map_or(0, crate::data::Samples::len);
        let sizes = Self { train: setup.train.len(), validation, test: setup.test.len() };
        sizes.split_as(config)
    }

    /// The same data with the validation set of another config.
    pub(super) fn split_as(self, config: &Config) -> Self {
        let all = self.train + self.validation;
        let validation = (config.data.validation * all as f64).round() as usize;
        Self { train: all.saturating_sub(validation), validation, ..self }
    }
}

/// Seconds of a run at these rates.
pub(super) fn seconds(config: &Config, sizes: &Sizes, rates: &Rates) -> f64 {
    let [train, validation, test] = [sizes.train, sizes.validation, sizes.test].map(|count| count as f64);
    let epochs = config.train.epochs as f64;
    let steps = epochs * (train / config.train.batch_size as f64).max(1.0);
    let evaluations = config.train.epochs.div_ceil(config.train.eval_every) as f64;
    let evaluated_rows = evaluations * if sizes.validation > 0 { 2.0 } else { 1.0 };
    let logged = if config.train.log_steps > 0 { steps / config.train.log_steps as f64 } else { 0.0 };
    let is_lipschitz = config.network.kind.is_lipschitz();
    // In the rows of evaluations; the certified bound follows once at the end.
    let norms = if is_lipschitz { evaluated_rows } else { 0.0 };
    let mut evaluated = evaluations * (validation + test) + train + validation + test;
    if is_lipschitz && radii(config.data.dataset).is_some() {
        evaluated += test;
    }
    let mut steps = steps;
    if config.is_pruned() {
        let pruning = &config.sparsify;
        let tried = |is_given: bool, every: f64| match pruning.search {
            _ if is_given => 0.0,
            Search::Every => every,
            Search::Bisect => every.log2().ceil(),
        };
        // 1-Lipschitz splines are pruned with a refit alone.
        if pruning.method().thresholds() && config.activation.kind.is_spline() {
            evaluated += (tried(pruning.threshold.is_some(), TRIED) + 1.0) * train + test;
        }
        if pruning.method().refits() {
            let rows = tried(pruning.knots.is_some(), BUDGETS) + 1.0;
            evaluated += HISTOGRAM * train.min(10_000.0) + rows * (train + validation + test);
            steps += (pruning.finetune_epochs * sizes.train.div_ceil(config.train.batch_size)) as f64;
        }
    }
    FILES
        + rates.first_steps
        + steps * rates.step
        + (epochs + logged + evaluated_rows) * rates.row
        + evaluated * rates.sample
        + norms * rates.norms
        + rates.certified
        + rates.lower
}

/// Seconds until the last of the runs has ended, which start in their order as soon as one of `jobs` is free.
pub(super) fn makespan(seconds: impl Iterator<Item = f64>, jobs: usize) -> f64 {
    let mut free_at = vec![0.0f64; jobs.max(1)];
    for seconds in seconds {
        if let Some(first) = free_at.iter_mut().min_by(|a, b| a.total_cmp(b)) {
            *first += seconds;
        }
    }
    free_at.into_iter().fold(0.0, f64::max)
}

/// The kinds of runs of a sweep, and some that stand for them.
pub(super) struct Kinds<'a> {
    /// One config without what costs no time, a kind; similar ones beside each other.
    kinds: Vec<Config>,
    /// The kinds that are measured, with a config of each.
    pub(super) measured: Vec<(usize, &'a Config)>,
}

impl Kinds<'_> {
    /// Which of the measured kinds is nearest to that of a config: with the same network and activation, if there is one.
    pub(super) fn nearest(&self, config: &Config) -> Option<usize> {
        let kind = without_schedule(config);
        let place = self.kinds.iter().position(|other| *other == kind)?;
        let names = |config: &Config| (config.network.kind, config.activation.kind);
        let distance = |(at, of): &(usize, &Config)| (names(of) != names(config), at.abs_diff(place));
        let nearest = self.measured.iter().enumerate().min_by_key(|(_, measured)| distance(measured));
        nearest.map(|(k, _)| k)
    }
}

/// Groups configs by what their steps cost, and takes some, evenly among the kinds.
pub(super) fn representatives<'a>(configs: &[&'a Config]) -> Kinds<'a> {
    let mut kinds: Vec<(Config, &Config)> = Vec::new();
    for &config in configs {
        let kind = without_schedule(config);
        if !kinds.iter().any(|(other, _)| *other == kind) {
            kinds.push((kind, config));
        }
    }
    kinds.sort_by_key(|(kind, _)| {
        let network = &kind.network;
        (
            network.kind.to_string(),
            kind.activation.kind.to_string(),
            network.hidden.iter().sum::<usize>(),
            kind.activation.size,
        )
    });
    let count = kinds.len().min(MEASURED);
    // In the middle of equal parts of the list.
    let measured = (0..count).map(|k| (2 * k + 1) * kinds.len() / (2 * count)).map(|at| (at, kinds[at].1)).collect();
    Kinds { kinds: kinds.into_iter().map(|(kind, _)| kind).collect(), measured }
}

/// A config without what changes how many steps and evaluations there are, or only their results.
fn without_schedule(config: &Config) -> Config {
    let mut kind = config.clone();
    (kind.name, kind.seed, kind.data.validation) = (String::new(), 0, 0.0);
    kind.regularization.lambda = f64::from(u8::from(config.regularization.lambda > 0.0));
    (kind.regularization.weight_decay, kind.regularization.per_layer) = (0.0, false);
    (kind.optimizer.weights.lr, kind.optimizer.splines.lr, kind.optimizer.scalings) = (1.0, 1.0, None);
    kind.activation.init = Init::Zero;
    (kind.activation.range, kind.activation.step, kind.network.lipschitz) = (Range::Fixed(1.0), None, None);
    (kind.train.epochs, kind.train.milestones, kind.train.gamma) = (1, Vec::new(), 1.0);
    (kind.train.eval_every, kind.train.log_steps, kind.train.checkpoint_seconds) = (1, 0, 0.0);
    kind.train.keep_best = false;
    kind.sparsify = Sparsify {
        enabled: false,
        method: None,
        cost: Cost::MeanSquare,
        knots: None,
        threshold: None,
        accuracy: Judged::Training,
        tolerance: 0.0,
        search: Search::Every,
        finetune_epochs: 0,
        finetune_lr: None,
        iterate: false,
    };
    // The areas, and the functions, have the same cost.
    if !matches!(config.experiment, Experiment::Mnist | Experiment::Cifar10) {
        kind.data.dataset = Dataset::Circle;
    }
    kind
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config(text: &str) -> Config {
        Config::from_toml(text).unwrap()
    }

    #[test]
    fn runs_follow_each_other_on_the_first_free_job() {
        assert_eq!(makespan([1.0, 1.0, 1.0, 5.0].into_iter(), 2), 6.0);
        assert_eq!(makespan([5.0, 1.0, 1.0, 1.0].into_iter(), 2), 5.0);
        assert_eq!(makespan([1.0, 2.0].into_iter(), 1), 3.0);
        assert_eq!(makespan(std::iter::empty(), 3), 0.0);
    }

    #[test]
    fn evaluations_bounds_and_sparsification_are_counted() {
        let rates =
            Rates { step: 1.0, row: 0.0, sample: 0.0, lower: 0.0, certified: 0.0, norms: 0.0, first_steps: 0.0 };
        let sizes = Sizes { train: 100, validation: 0, test: 50 };
        let usual = config("experiment = \"area2d\"\ntrain.epochs = 7\ntrain.batch_size = 10\ntrain.eval_every = 3");
        let at = |config: &Config, rates: &Rates| seconds(config, &sizes.split_as(config), rates) - FILES;
        let only = |set: fn(&mut Rates)| {
            let mut rates = Rates { step: 0.0, ..rates };
            set(&mut rates);
            at(&usual, &rates)
        };
        assert_eq!(at(&usual, &rates), 70.0);
        // Three evaluations during the training, train and test set at the end and for each number of knots, and the histograms.
        let evaluated = 3.0 * 50.0 + 150.0 + HISTOGRAM * 100.0 + (BUDGETS + 1.0) * 150.0;
        assert_eq!(only(|rates| rates.sample = 1.0), evaluated);
        assert_eq!(only(|rates| rates.row = 1.0), 10.0);
        assert_eq!((only(|rates| rates.lower = 1.0), only(|rates| rates.certified = 1.0)), (1.0, 1.0));
        let split = Config { data: crate::config::Data { validation: 0.2, ..usual.data.clone() }, ..usual.clone() };
        assert_eq!(at(&split, &rates), 56.0);
        // 1-Lipschitz splines are pruned, too, without thresholds; other activations are not.
        let evaluations_of = |kind: &str, method: &str| {
            let more = format!("activation.kind = \"{kind}\"\nsparsify.method = \"{method}\"");
            let rates = Rates { step: 0.0, sample: 1.0, ..rates };
            at(&config(&format!("experiment = \"area2d\"\n{more}")), &rates)
        };
        let [relu, lipschitz] = ["relu", "lipschitz_spline"].map(|kind| evaluations_of(kind, "refit"));
        assert!((lipschitz - relu - (HISTOGRAM * 100.0 + (BUDGETS + 1.0) * 150.0)).abs() < 1e-6, "{lipschitz} {relu}");
        assert_eq!(evaluations_of("lipschitz_spline", "both"), lipschitz);
        // A batch that is larger than the set is a step an epoch.
        let large = config("experiment = \"area2d\"\ntrain.epochs = 7\ntrain.batch_size = 1000");
        assert_eq!(at(&large, &rates), 7.0);
    }

    #[test]
    fn runs_that_differ_in_their_steps_are_measured_each() {
        let base = config("experiment = \"area2d\"");
        let seeds: Vec<Config> = (0..9).map(|seed| Config { seed, ..base.clone() }).collect();
        let kinds = representatives(&seeds.iter().collect::<Vec<_>>());
        assert_eq!((kinds.kinds.len(), kinds.measured.len()), (1, 1));
        let widths: Vec<Config> = (1..=20)
            .flat_map(|width| ["relu", "bspline"].map(|kind| (width, kind)))
            .map(|(width, kind)| {
                config(&format!("experiment = \"area2d\"\nactivation.kind = \"{kind}\"\nnetwork.hidden = [{width}]"))
            })
            .collect();
        let kinds = representatives(&widths.iter().collect::<Vec<_>>());
        assert_eq!((kinds.kinds.len(), kinds.measured.len()), (40, MEASURED));
        for config in &widths {
            let (_, near) = kinds.measured[kinds.nearest(config).unwrap()];
            assert_eq!(near.activation.kind, config.activation.kind);
            assert!(near.network.hidden[0].abs_diff(config.network.hidden[0]) <= 2);
        }
    }
}
