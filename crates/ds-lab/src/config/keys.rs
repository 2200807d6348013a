//! Every key of a config in one entry: what it means, what it may be, its defaults, and what it belongs to. Help, parsing,
//! validation and defaults follow from it.

use super::key::{Key, Owner, key};
use super::kinds::Kind;
use super::names::{
    Dataset, Experiment, Judged, NetworkKind, OptimizerKind, Points, Precision, PruningMethod, Search, norm_or_none,
};
use super::nearest::nearest_of;
use super::profile::Profile::{self, *};
use ds_core::activation::{ActivationKind, Init};
use ds_core::sparsify::Cost;
use ds_nn::layers::Constraint;

const MANY: u64 = 1_000_000_000;

const ALL: &[Profile] = Profile::ALL;
/// The papers' networks for images of CIFAR.
const CIFAR: &[Profile] = &[Resnet32, Nin];
/// Networks with a given Lipschitz constant.
const LIPSCHITZ: &[Profile] = &[Fit1dLipschitz, MnistLipschitz, MnistLipschitzConv, Cifar10LipschitzConv];
const LIPSCHITZ_IMAGES: &[Profile] = &[MnistLipschitz, MnistLipschitzConv, Cifar10LipschitzConv];
/// All fits of functions.
const FITS: &[Profile] = &[Fit1d, Fit1dLipschitz];

/// All keys.
pub const KEYS: &[Key] = &[
    key("experiment", Kind::Choice(Experiment::NAMES), "which experiment the config is for"),
    key(
        "name",
        Kind::Text,
        "name of the run, in its files and directory [NETWORK-ACTIVATION, and the data set if it is not the usual one]",
    ),
    key("seed", Kind::Integer(0, i64::MAX as u64), "fixes weights, order, augmentation, dropout and generated data")
        .defaults(&[(ALL, "0")]),
    key("data.dataset", Kind::Choice(Dataset::NAMES), "data set or problem").defaults(&[
        (&[Resnet32, Nin, Cifar10LipschitzConv], r#""cifar10""#),
        (&[Mnist, MnistLipschitz, MnistLipschitzConv], r#""mnist""#),
        (&[Area2d], r#""circle""#),
        (&[Fit1d], r#""square""#),
        (&[Fit1dLipschitz], r#""slopes_pm1""#),
    ]),
    key(
        "data.validation",
        Kind::Number(0.0, 0.9),
        "fraction of the training set held out for validation; 0: none, and only the test set is evaluated",
    )
    .defaults(&[(ALL, "0.0")]),
    key("data.augment", Kind::Bool, "random crops (4 pixels of padding) and flips of training images")
        .defaults(&[(ALL, "false"), (CIFAR, "true"), (&[Cifar10LipschitzConv], "true")])
        .of(Owner::Cifar),
    key(
        "data.points",
        Kind::Choice(Points::NAMES),
        "training points of an area: drawn, or the original's from CSV files",
    )
    .defaults(&[(ALL, r#""generated""#)])
    .of(Owner::Area),
    key("data.train_points", Kind::Integer(1, MANY), "training points of an area or a function")
        .defaults(&[(ALL, "1500"), (FITS, "1000")])
        .of(Owner::Generated),
    key("data.test_grid", Kind::Integer(1, 10_000), "an area is tested on this many by this many cells of [-1, 1]²")
        .defaults(&[(ALL, "200")])
        .of(Owner::Area),
    key(
        "data.normalize",
        Kind::Bool,
        "subtract channel means of images and divide by deviations; false: pixels in [0, 1]",
    )
    .defaults(&[(LIPSCHITZ_IMAGES, "false")])
    .implied("true")
    .of(Owner::Images),
    key("network.kind", Kind::Choice(NetworkKind::NAMES), "network").defaults(&[
        (&[Resnet32], r#""resnet32""#),
        (&[Nin], r#""nin""#),
        (&[Mnist], r#""convnet""#),
        (&[Area2d], r#""area""#),
        (&[Fit1d], r#""scalar""#),
        (&[Fit1dLipschitz, MnistLipschitz], r#""lipschitz""#),
        (&[MnistLipschitzConv, Cifar10LipschitzConv], r#""lipschitz_conv""#),
    ]),
    key(
        "network.hidden",
        Kind::Integers(1, 100_000),
        "units of the hidden layers of area and lipschitz; channels of the first layer of lipschitz_conv, then its dense units",
    )
    .defaults(&[
        (ALL, "[]"),
        (&[Area2d], "[4, 4]"),
        (&[Fit1dLipschitz], "[10, 10, 10]"),
        (&[MnistLipschitz], "[256, 256]"),
        (&[MnistLipschitzConv], "[16, 128]"),
        (&[Cifar10LipschitzConv], "[32, 256]"),
    ])
    .of(Owner::Hidden),
    key("network.dropout", Kind::Number(0.0, 0.95), "probability to drop a value, in NiN")
        .defaults(&[(ALL, "0.0"), (&[Nin], "0.5")])
        .of(Owner::Nin),
    key("network.lipschitz", Kind::Positive(1e6), "the constant L of a lipschitz network, from l2 to l2")
        .implied("1.0")
        .of(Owner::Lipschitz),
    key(
        "network.weights",
        Kind::Choice(Constraint::NAMES),
        "how dense weights of a lipschitz network are kept at norm 1",
    )
    .implied(r#""orthonormal""#)
    .of(Owner::Lipschitz),
    key("network.stages", Kind::Integer(1, 16), "how often lipschitz_conv halves the resolution and doubles the channels")
        .implied("2")
        .of(Owner::LipschitzConv),
    key("network.depth", Kind::Integer(1, 1000), "3x3 convolutions of lipschitz_conv at each resolution")
        .implied("1")
        .of(Owner::LipschitzConv),
    key("activation.kind", Kind::Choice(ActivationKind::NAMES), "activation").defaults(&[
        (&[Mnist, Area2d, Fit1d], r#""bspline""#),
        (CIFAR, r#""explicit_linear""#),
        (LIPSCHITZ, r#""lipschitz_spline""#),
    ]),
    key("activation.size", Kind::Integer(3, 100_001), "knots of a spline: odd, or of lipschitz_spline even too")
        .defaults(&[
            (CIFAR, "51"),
            (&[Mnist], "51"),
            (&[Area2d], "21"),
            (&[Fit1d], "31"),
            (LIPSCHITZ_IMAGES, "21"),
            (&[Fit1dLipschitz], "50"),
        ]),
    key(
        "activation.range",
        Kind::PositiveOrAuto(1e6),
        "the knots lie on [-range, range]; auto: each layer's where 99.9 % of its inputs lie, [-4, 4] before that is known",
    )
    .defaults(&[
        (ALL, "1.0"),
        (CIFAR, "4.0"),
        (&[Mnist], "4.0"),
        (&[Fit1dLipschitz], "0.5"),
    ]),
    key("activation.range_epochs", Kind::Integers(1, MANY), "epochs after which automatic ranges are fitted to the inputs")
        .implied("[1]")
        .of(Owner::AutoRange),
    key("activation.step", Kind::Positive(1e6), "distance of the knots, instead of a range"),
    key(
        "activation.init",
        Kind::Choice(Init::NAMES),
        "shape before training (even_odd, max_min, zigzag: not for relu_spline)",
    )
    .defaults(&[(ALL, r#""leaky_relu""#), (LIPSCHITZ, r#""absolute""#)])
    .formerly(&[("absolute_value", "absolute"), ("maxmin", "max_min")]),
    key(
        "activation.fixed_bias",
        Kind::Bool,
        "whether b0 of explicit_linear and relu_spline stays as it is [as the network needs it]",
    ),
    key("activation.scaling", Kind::Bool, "whether lipschitz_spline learns a scaling of its argument")
        .implied("true")
        .of(Owner::LipschitzSpline),
    key("activation.hinges", Kind::Integer(1, 1000), "hinges of apl per channel").defaults(&[(ALL, "1")]),
    key("activation.hinge_penalty", Kind::Number(0.0, 1e6), "L2 penalty of the hinges of apl")
        .defaults(&[(ALL, "1e-3")]),
    key("regularization.norm", Kind::Choice(norm_or_none::NAMES), "norm of the splines that is penalised")
        .defaults(&[(ALL, r#""tv2""#)]),
    key("regularization.lambda", Kind::Number(0.0, 1e6), "weight λ of the penalised norm").defaults(&[
        (CIFAR, "1e-4"),
        (&[Mnist, Area2d], "1e-5"),
        (&[Fit1d], "1e-4"),
        (LIPSCHITZ_IMAGES, "1e-6"),
        (&[Fit1dLipschitz], "0.0"),
    ]),
    key(
        "regularization.weight_decay",
        Kind::Number(0.0, 1e6),
        "weight of half the squares of weights, biases, norms' scales and splines' linear terms",
    )
    .defaults(&[(ALL, "0.0"), (CIFAR, "5e-4"), (&[Mnist, Area2d], "1e-5")]),
    key(
        "regularization.per_layer",
        Kind::Bool,
        "divide lambda by the TV2 of a layer's splines, and weight_decay by the squares of its weights, before training",
    )
    .defaults(&[(ALL, "false")]),
    key("optimizer.weights.kind", Kind::Choice(OptimizerKind::NAMES), "optimiser of all other parameters than splines")
        .defaults(&[(ALL, r#""adam""#), (CIFAR, r#""sgd""#)]),
    key(
        "optimizer.weights.lr",
        Kind::Positive(1e6),
        "learning rate of all other parameters than splines, before the first milestone",
    )
    .defaults(&[
        (ALL, "1e-3"),
        (CIFAR, "0.1"),
        (&[Mnist], "5e-3"),
    ]),
    key("optimizer.weights.momentum", Kind::Number(0.0, 0.9999), "Nesterov momentum of sgd")
        .defaults(&[(ALL, "0.9")]),
    key("optimizer.splines.kind", Kind::Choice(OptimizerKind::NAMES), "optimiser of the splines; prox_adam: Adam with proximal steps for TV2")
        .defaults(&[(ALL, r#""adam""#)]),
    key("optimizer.splines.lr", Kind::Positive(1e6), "learning rate of the splines, before the first milestone")
        .defaults(&[(ALL, "1e-3"), (&[Mnist], "3e-3")]),
    key("optimizer.splines.momentum", Kind::Number(0.0, 0.9999), "Nesterov momentum of sgd")
        .defaults(&[(ALL, "0.9")]),
    key(
        "optimizer.splines.warmup_epochs",
        Kind::Integer(0, MANY),
        "epochs of prox_adam along the subgradient of TV2, as adam, before its proximal steps begin",
    )
    .implied("0"),
    key(
        "optimizer.scalings.lr",
        Kind::Positive(1e6),
        "learning rate of the scalings of lipschitz_spline, for the splines' optimiser [that of the splines]",
    )
    .of(Owner::Scalings),
    key("train.epochs", Kind::Integer(1, MANY), "epochs").defaults(&[
        (&[Resnet32], "300"),
        (&[Nin], "320"),
        (&[Mnist], "40"),
        (&[Area2d, Fit1d], "500"),
        (&[Fit1dLipschitz], "1000"),
        (&[MnistLipschitz], "6"),
        (&[MnistLipschitzConv], "20"),
        (&[Cifar10LipschitzConv], "50"),
    ]),
    key("train.batch_size", Kind::Integer(1, 1_000_000), "samples of a step").defaults(&[
        (ALL, "128"),
        (&[Mnist], "64"),
        (&[Area2d, Fit1dLipschitz], "10"),
        (&[Fit1d], "100"),
    ]),
    key(
        "train.milestones",
        Kind::Integers(1, MANY),
        "epochs after which all learning rates are multiplied by gamma; ascending",
    )
    .defaults(&[
        (&[Resnet32], "[150, 225, 262]"),
        (&[Nin], "[80, 160, 240]"),
        (&[Mnist], "[22, 31, 36]"),
        (&[Area2d, Fit1d], "[440, 480]"),
        (&[Fit1dLipschitz], "[750, 900]"),
        (&[MnistLipschitz], "[4, 5]"),
        (&[MnistLipschitzConv], "[14, 18]"),
        (&[Cifar10LipschitzConv], "[35, 45]"),
    ]),
    key("train.gamma", Kind::Positive(1.0), "factor of all learning rates at each milestone").defaults(&[(ALL, "0.1")]),
    key(
        "train.eval_every",
        Kind::Integer(1, MANY),
        "epochs from one evaluation to the next; the last epoch always has one",
    )
    .defaults(&[(ALL, "1"), (&[Area2d, Fit1d], "50"), (&[Fit1dLipschitz], "100")])
    .not_of_training(),
    key("train.log_steps", Kind::Integer(0, MANY), "steps from one metrics row to the next within an epoch; 0: none")
        .defaults(&[(ALL, "0")])
        .not_of_training(),
    key("train.checkpoint_seconds", Kind::Number(0.0, 1e9), "seconds from one checkpoint to the next; 0: every step")
        .defaults(&[(ALL, "60.0")])
        .not_of_training(),
    key("train.threads", Kind::Integer(0, 1024), "number of threads; 0: one per core")
        .defaults(&[(ALL, "0")])
        .not_of_training(),
    key(
        "train.keep_best",
        Kind::Bool,
        "keep the network of the epoch with the best validation accuracy, or loss where there is no accuracy, in \
         best.safetensors; needs data.validation above 0",
    )
    .defaults(&[(ALL, "false")])
    .not_of_training(),
    key(
        "train.precision",
        Kind::Choice(Precision::NAMES),
        "type of what flows between layers in training; bf16 on a GPU only; parameters, their gradients, losses and evaluation \
         are f32",
    )
    .defaults(&[(ALL, r#""f32""#)]),
    key(
        "train.margin",
        Kind::Number(0.0, 1e6),
        "what the logit of the right class is reduced by in the training loss, for certified accuracy; evaluations are without it",
    )
    .implied("0.0")
    .of(Owner::Images),
    key("train.max_train_images", Kind::Integer(0, MANY), "use only the first N training images; 0: all")
        .defaults(&[(ALL, "0")])
        .of(Owner::Images),
    key("train.max_test_images", Kind::Integer(0, MANY), "use only the first N test images; 0: all")
        .defaults(&[(ALL, "0")])
        .of(Owner::Images),
    key("sparsify.enabled", Kind::Bool, "prune knots at the end")
        .defaults(&[(ALL, "true"), (LIPSCHITZ, "false"), (&[Fit1d], "false")])
        .not_of_training(),
    key(
        "sparsify.method",
        Kind::Choice(PruningMethod::NAMES),
        "refit: remove the cheapest knots of all functions and fit these again; papers: eliminate knots below a threshold (the default \
         where sparsify.threshold is given)",
    )
    .implied(r#""refit""#)
    .not_of_training(),
    key(
        "sparsify.cost",
        Kind::Choice(Cost::NAMES),
        "the error of a function that refit keeps small: its mean square over the inputs, or that times the squared gradient of the \
         training loss",
    )
    .defaults(&[(ALL, r#""squared_gradient""#)])
    .not_of_training(),
    key("sparsify.knots", Kind::Integer(0, 1 << 40), "the knots that refit keeps, instead of a search").not_of_training(),
    key(
        "sparsify.threshold",
        Kind::Number(0.0, 1e12),
        "eliminate knots with a slope change up to this, instead of a search",
    )
    .not_of_training(),
    key("sparsify.accuracy", Kind::Choice(Judged::NAMES), "the accuracy that the search may lose points of")
        .defaults(&[(ALL, r#""training""#)])
        .not_of_training(),
    key("sparsify.tolerance", Kind::Number(0.0, 100.0), "points of accuracy that the search may lose")
        .defaults(&[(ALL, "0.25")])
        .not_of_training(),
    key(
        "sparsify.search",
        Kind::Choice(Search::NAMES),
        "try every entry of the list of knots or thresholds, or bisect it",
    )
    .defaults(&[(ALL, r#""every""#), (CIFAR, r#""bisect""#), (&[Mnist], r#""bisect""#)])
    .not_of_training(),
    key("sparsify.finetune_epochs", Kind::Integer(0, 1_000_000), "epochs of training after refit, with the kept knots fixed")
        .defaults(&[(ALL, "0")])
        .not_of_training(),
    key("sparsify.finetune_lr", Kind::Positive(1e6), "what the learning rates are multiplied with in these epochs")
        .implied("0.1")
        .not_of_training(),
    key("sparsify.iterate", Kind::Bool, "remove more knots after these epochs and train again, while the tolerance allows it")
        .defaults(&[(ALL, "false")])
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

/// All keys with what they mean and may be, and their defaults, for `--help`.
pub fn reference_doc() -> String {
    let mut text = String::from("Config keys (in the TOML file, or as --set KEY=VALUE):\n");
    for key in KEYS {
        let resumes = if key.changes_training { "" } else { "; may change where a run is resumed" };
        text += &format!("  {}\n      {} ({}{resumes})\n", key.path, key.meaning, key.kind);
        if let Some(defaults) = key.defaults_doc() {
            text += &format!("      default: {defaults}\n");
        }
    }
    text
}
