//! Every key of a config: what it means and what it may be. One table serves the checks, the error messages and `--help`.

use super::load::Layers;
use super::*;
use toml::Value;

/// What values a key takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// true or false.
    Bool,
    /// Free text that is not empty.
    Text,
    /// One of these names.
    Choice(&'static [&'static str]),
    /// A whole number from the first to the second.
    Integer(u64, u64),
    /// A number from the first to the second.
    Number(f64, f64),
    /// A number above 0 and up to this.
    Positive(f64),
    /// A list of whole numbers from the first to the second.
    Integers(u64, u64),
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bool => f.write_str("true or false"),
            Self::Text => f.write_str("a text that is not empty"),
            Self::Choice(names) => write!(f, "one of {}", names.join(", ")),
            Self::Integer(low, high) => write!(f, "a whole number from {low} to {high}"),
            Self::Number(low, high) => write!(f, "a number from {low} to {high}"),
            Self::Positive(high) => write!(f, "a number above 0 and up to {high}"),
            Self::Integers(low, high) => write!(f, "a list of whole numbers from {low} to {high}"),
        }
    }
}

/// One key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Key {
    /// Its path, such as `train.batch_size`.
    pub path: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// What it does.
    pub meaning: &'static str,
    /// Whether it changes the parameters after a step, or what the rows of metrics and summaries mean. The other keys only say
    /// how a run is executed and reported, so that they may change where a run is resumed.
    pub changes_training: bool,
}

const fn key(path: &'static str, kind: Kind, meaning: &'static str) -> Key {
    Key { path, kind, meaning, changes_training: true }
}

impl Key {
    /// The same as a key of execution and reporting.
    const fn not_of_training(self) -> Self {
        Self { changes_training: false, ..self }
    }

    /// The error about a value that the key does not take, with one that it takes.
    pub(super) fn refuse(&self, origin: &Origin, value: String) -> ConfigError {
        let example = match (self.kind, origin) {
            // All values are listed.
            (Kind::Choice(_), _) | (_, Origin::Defaults) => String::new(),
            (_, Origin::File(_)) => format!(", such as {} = {}", self.path, self.example()),
            (_, Origin::Set(_)) => {
                let example = match self.example() {
                    Value::Array(all) => all.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
                    Value::String(text) => text,
                    value => value.to_string(),
                };
                format!(", such as --set {}={example}", self.path)
            }
        };
        let (origin, key) = (origin.clone(), self.path.to_owned());
        ConfigError::Value { origin, key, value, allowed: format!("{}{example}", self.kind) }
    }

    /// A value that it takes: a default, if there is one.
    fn example(&self) -> Value {
        let of_defaults = |(_, text): &(&str, &str)| Layers::of_text(text).get(self.path).cloned();
        let is_empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
        let default = super::load::ALL_DEFAULTS.iter().filter_map(of_defaults).find(|value| !is_empty(value));
        default.unwrap_or_else(|| match self.kind {
            Kind::Bool => Value::Boolean(true),
            Kind::Text => Value::String("my-run".to_owned()),
            Kind::Choice(names) => Value::String(names.first().copied().unwrap_or_default().to_owned()),
            Kind::Integer(low, _) => Value::Integer(low as i64),
            Kind::Integers(low, _) => Value::Array(vec![Value::Integer(low as i64)]),
            Kind::Number(low, high) => Value::Float(0.5f64.clamp(low, high)),
            Kind::Positive(high) => Value::Float(high.min(0.5)),
        })
    }
}

/// The most bytes of a path that is compared with others to find the nearest.
const LONGEST: usize = 200;

const MANY: u64 = 1_000_000_000;

/// All keys.
pub const KEYS: &[Key] = &[
    key("experiment", Kind::Choice(Experiment::NAMES), "which experiment the config is for"),
    key(
        "name",
        Kind::Text,
        "name of the run, in its files and directory [NETWORK-ACTIVATION, and the data set if it is not the usual one]",
    ),
    key("seed", Kind::Integer(0, i64::MAX as u64), "fixes weights, order, augmentation, dropout and generated data"),
    key("data.dataset", Kind::Choice(Dataset::NAMES), "data set or problem"),
    key(
        "data.validation",
        Kind::Number(0.0, 0.9),
        "fraction of the training set held out; 0: the test set serves for validation",
    ),
    key("data.augment", Kind::Bool, "random crops (4 pixels of padding) and flips of training images"),
    key(
        "data.points",
        Kind::Choice(Points::NAMES),
        "training points of an area: drawn, or the original's from CSV files",
    ),
    key("data.train_points", Kind::Integer(1, MANY), "training points of an area or a function"),
    key("data.test_grid", Kind::Integer(1, 10_000), "an area is tested on this many by this many cells of [-1, 1]²"),
    key(
        "data.normalize",
        Kind::Bool,
        "subtract channel means of images and divide by deviations; false: pixels in [0, 1] [true]",
    ),
    key("network.kind", Kind::Choice(NetworkKind::NAMES), "network"),
    key(
        "network.hidden",
        Kind::Integers(1, 100_000),
        "units of the hidden layers of area and lipschitz; channels of the first layer of lipschitz_conv, then its dense units",
    ),
    key("network.dropout", Kind::Number(0.0, 0.95), "probability to drop a value, in NiN"),
    key("network.lipschitz", Kind::Positive(1e6), "the constant L of a lipschitz network, from l2 to l2 [1]"),
    key(
        "network.weights",
        Kind::Choice(WeightConstraint::NAMES),
        "how dense weights of a lipschitz network are kept at norm 1 [orthonormal]",
    ),
    key("activation.kind", Kind::Choice(ActivationName::NAMES), "activation"),
    key("activation.size", Kind::Integer(3, 100_001), "knots of a spline: odd, or of lipschitz_spline even too"),
    key("activation.range", Kind::Positive(1e6), "the knots lie on [-range, range]"),
    key("activation.step", Kind::Positive(1e6), "distance of the knots, instead of a range"),
    key(
        "activation.init",
        Kind::Choice(InitShape::NAMES),
        "shape before training (even_odd, maxmin, zigzag: not for relu_spline)",
    ),
    key(
        "activation.fixed_bias",
        Kind::Bool,
        "whether b0 of explicit_linear and relu_spline stays as it is [as the network needs it]",
    ),
    key("activation.scaling", Kind::Bool, "whether lipschitz_spline learns a scaling of its argument [true]"),
    key("activation.hinges", Kind::Integer(1, 1000), "hinges of apl, a channel"),
    key("activation.hinge_penalty", Kind::Number(0.0, 1e6), "L2 penalty of the hinges of apl"),
    key("regularization.norm", Kind::Choice(NormName::NAMES), "norm of the splines that is penalised"),
    key("regularization.lambda", Kind::Number(0.0, 1e6), "weight of that norm"),
    key(
        "regularization.weight_decay",
        Kind::Number(0.0, 1e6),
        "weight of half the squares of weights, biases, norms' scales and splines' linear terms",
    ),
    key(
        "regularization.per_layer",
        Kind::Bool,
        "divide lambda by the TV2 of a layer's splines, and weight_decay by the squares of its weights, before training",
    ),
    key("optimizer.weights.kind", Kind::Choice(OptimizerKind::NAMES), "optimiser of all that is no spline"),
    key("optimizer.weights.lr", Kind::Positive(1e6), "its learning rate"),
    key("optimizer.weights.momentum", Kind::Number(0.0, 0.9999), "Nesterov momentum of sgd"),
    key("optimizer.splines.kind", Kind::Choice(OptimizerKind::NAMES), "optimiser of the splines"),
    key("optimizer.splines.lr", Kind::Positive(1e6), "its learning rate"),
    key("optimizer.splines.momentum", Kind::Number(0.0, 0.9999), "Nesterov momentum of sgd"),
    key(
        "optimizer.scalings.lr",
        Kind::Positive(1e6),
        "learning rate of the scalings of lipschitz_spline, for the splines' optimiser [that of the splines]",
    ),
    key("train.epochs", Kind::Integer(1, MANY), "epochs"),
    key("train.batch_size", Kind::Integer(1, 1_000_000), "samples of a step"),
    key(
        "train.milestones",
        Kind::Integers(1, MANY),
        "epochs after which all learning rates are multiplied by gamma; ascending",
    ),
    key("train.gamma", Kind::Positive(1.0), "that factor"),
    key(
        "train.eval_every",
        Kind::Integer(1, MANY),
        "epochs from one evaluation to the next; the last epoch always has one",
    )
    .not_of_training(),
    key("train.log_steps", Kind::Integer(0, MANY), "steps from one metrics row to the next within an epoch; 0: none")
        .not_of_training(),
    key("train.checkpoint_seconds", Kind::Number(0.0, 1e9), "seconds from one checkpoint to the next; 0: every step")
        .not_of_training(),
    key("train.threads", Kind::Integer(0, 1024), "threads; 0: one a core").not_of_training(),
    key(
        "train.keep_best",
        Kind::Bool,
        "keep the network of the epoch with the best validation accuracy, or loss where there is no accuracy, in \
         best.safetensors; needs data.validation above 0",
    )
    .not_of_training(),
    key(
        "train.precision",
        Kind::Choice(Precision::NAMES),
        "type of what flows between layers in training; bf16 on a GPU only; parameters, their gradients, losses and evaluation \
         are f32",
    ),
    key("train.max_train_images", Kind::Integer(0, MANY), "only the first so many training images; 0: all"),
    key("train.max_test_images", Kind::Integer(0, MANY), "only the first so many test images; 0: all"),
    key("sparsify.enabled", Kind::Bool, "eliminate knots at the end").not_of_training(),
    key(
        "sparsify.threshold",
        Kind::Number(0.0, 1e12),
        "eliminate knots with a slope change up to this, instead of a search",
    )
    .not_of_training(),
    key("sparsify.tolerance", Kind::Number(0.0, 100.0), "points of training accuracy that the search may lose")
        .not_of_training(),
    key("sparsify.search", Kind::Choice(Search::NAMES), "try every threshold of the papers' list, or bisect it")
        .not_of_training(),
];

/// The key of a path.
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Whether a path is a section that holds keys.
pub(super) fn is_section(path: &str) -> bool {
    KEYS.iter().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// The names directly inside a section ("" for the top).
pub(super) fn inside(section: &str) -> Vec<&'static str> {
    let mut names = Vec::new();
    for key in KEYS {
        let rest = if section.is_empty() {
            Some(key.path)
        } else {
            key.path.strip_prefix(section).and_then(|rest| rest.strip_prefix('.'))
        };
        let name = rest.and_then(|rest| rest.split('.').next());
        names.extend(name.filter(|name| !names.contains(name)));
    }
    names
}

/// The nearest path to a wrong one, if any is near.
pub(super) fn nearest(path: &str) -> Option<&'static str> {
    nearest_of(path, KEYS.iter().map(|key| key.path))
}

/// The same among these paths.
pub(crate) fn nearest_of<'a>(path: &str, paths: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if path.len() > LONGEST {
        return None;
    }
    let last = |path: &str| path.rsplit('.').next().unwrap_or(path).to_owned();
    let distance = |other: &str| {
        let whole = edit_distance(path, other);
        let tail = edit_distance(&last(path), &last(other)) + 1;
        whole.min(tail)
    };
    let (near, other) = paths.map(|other| (distance(other), other)).min_by_key(|(distance, _)| *distance)?;
    (near <= 1 + last(path).chars().count() / 3).then_some(other)
}

/// The least number of insertions, deletions and substitutions.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &b) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// All keys with what they mean and may be, and their defaults by experiment, for `--help`.
pub fn reference_doc() -> String {
    let mut text = String::from("Config keys (in the TOML file, or as --set KEY=VALUE):\n");
    for key in KEYS {
        let resumes = if key.changes_training { "" } else { "; may change where a run is resumed" };
        text += &format!("  {}\n      {} ({}{resumes})\n", key.path, key.meaning, key.kind);
    }
    text += "\nDefaults:\n";
    for (title, defaults) in super::load::ALL_DEFAULTS {
        text += &format!("\n# {title}\n{defaults}");
    }
    text
}
