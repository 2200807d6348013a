//! Shards: parts of a sweep's runs, one for each job of a cluster.

use super::PlannedRun;
use crate::config::Config;
use crate::run::memory;
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

/// One of the parts into which the runs of a sweep are divided: `3/8` is the third of eight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// From 1 on.
    number: usize,
    count: usize,
}

/// The most shards: more than a job array has tasks.
const MAX_SHARDS: usize = 100_000;

/// Why a text or an environment names no shard.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShardError {
    /// The text.
    #[error(
        "`{0}` is no shard: it must be K/N with K from 1 to N, such as 3/8 for the third of eight, and N at most {most}",
        most = MAX_SHARDS
    )]
    Text(String),
    /// There is no array task.
    #[error(
        "--shard without a value takes the task of a Slurm job array, and {0} is not set: give the shard as K/N, such as 3/8"
    )]
    NoTask(&'static str),
    /// Only some of the array's tasks.
    #[error(
        "this array has {count} tasks with numbers from {first} to {last}, so that they are no whole division of the runs: \
         give the shard as --shard K/N with the number of shards of the first submission as N"
    )]
    SomeTasks {
        /// Tasks of the array.
        count: usize,
        /// The smallest number.
        first: usize,
        /// The largest number.
        last: usize,
    },
}

impl Shard {
    /// The third of eight is `new(3, 8)`; `None` where there is no such shard.
    pub fn new(number: usize, count: usize) -> Option<Self> {
        (count <= MAX_SHARDS && (1..=count).contains(&number)).then_some(Self { number, count })
    }

    /// The shard of this task of a Slurm job array, of which `variable` gives the environment variables.
    ///
    /// # Errors
    /// Outside of an array, or if the array lacks some of the tasks.
    pub fn of_slurm(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ShardError> {
        let number = |name: &'static str| {
            variable(name).and_then(|text| text.trim().parse::<usize>().ok()).ok_or(ShardError::NoTask(name))
        };
        let task = number("SLURM_ARRAY_TASK_ID")?;
        let count = number("SLURM_ARRAY_TASK_COUNT")?;
        let first = number("SLURM_ARRAY_TASK_MIN")?;
        let last = number("SLURM_ARRAY_TASK_MAX")?;
        let wrong = ShardError::SomeTasks { count, first, last };
        if last.checked_sub(first).is_none_or(|steps| steps + 1 != count) || task < first {
            return Err(wrong);
        }
        Self::new(task - first + 1, count).ok_or(wrong)
    }

    /// Which of them it is, from 1 on.
    pub fn number(self) -> usize {
        self.number
    }

    /// How many shards there are.
    pub fn count(self) -> usize {
        self.count
    }

    /// The name of its directory: `3-of-8`.
    pub(super) fn directory(self) -> String {
        format!("{}-of-{}", self.number, self.count)
    }

    /// The shard of a directory's name.
    pub(super) fn of_directory(name: &str) -> Option<Self> {
        let (number, count) = name.split_once("-of-")?;
        let shard = Self::new(number.parse().ok()?, count.parse().ok()?)?;
        (shard.directory() == name).then_some(shard)
    }

    /// Its runs, in their order.
    pub fn of(self, runs: &[PlannedRun]) -> Vec<&PlannedRun> {
        shares(runs, self.count).swap_remove(self.number - 1)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.count)
    }
}

impl FromStr for Shard {
    type Err = ShardError;

    fn from_str(text: &str) -> Result<Self, ShardError> {
        let parse = || {
            let (number, count) = text.split_once('/')?;
            Self::new(number.trim().parse().ok()?, count.trim().parse().ok()?)
        };
        parse().ok_or_else(|| ShardError::Text(text.to_owned()))
    }
}

/// The runs of each of so many shards. They depend on the configs alone.
///
/// Runs that differ only in seed, λ, weight decay or learning rates stay together in pieces, one a shard where there are enough
/// of them. The pieces go, the most expensive first, to the shard with the least to do.
pub(super) fn shares(runs: &[PlannedRun], count: usize) -> Vec<Vec<&PlannedRun>> {
    let mut kinds: HashMap<String, Vec<usize>> = HashMap::new();
    for (k, run) in runs.iter().enumerate() {
        kinds.entry(kind(&run.config)).or_default().push(k);
    }
    let mut pieces: Vec<(f64, Vec<usize>)> = Vec::new();
    for members in kinds.into_values() {
        for piece in members.chunks(members.len().div_ceil(count)) {
            pieces.push((piece.iter().map(|&k| cost(&runs[k].config)).sum(), piece.to_vec()));
        }
    }
    pieces.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let (mut shards, mut loads) = (vec![0; runs.len()], vec![(0.0f64, 0usize); count.max(1)]);
    for (cost, piece) in pieces {
        let least =
            (0..loads.len()).min_by(|&a, &b| loads[a].0.total_cmp(&loads[b].0).then(loads[a].1.cmp(&loads[b].1)));
        let shard = least.unwrap_or(0);
        loads[shard].0 += cost;
        loads[shard].1 += piece.len();
        piece.into_iter().for_each(|k| shards[k] = shard);
    }
    let mut shares = vec![Vec::new(); count.max(1)];
    runs.iter().zip(shards).for_each(|(run, shard)| shares[shard].push(run));
    shares
}

/// What runs have in common that differ only in what one network could be trained with beside the other.
fn kind(config: &Config) -> String {
    let mut kind = config.clone();
    (kind.name, kind.seed) = (String::new(), 0);
    (kind.regularization.lambda, kind.regularization.weight_decay) = (0.0, 0.0);
    (kind.optimizer.weights.lr, kind.optimizer.splines.lr) = (1.0, 1.0);
    kind.to_toml()
}

/// Multiplications and additions that take a step's time without any arithmetic, 8 µs at 30 per ns.
const OF_A_STEP: f64 = 2.5e5;
/// Passes over the training samples of a search for the sparsest network.
const PRUNING: f64 = 30.0;

/// What a run costs beside others, from its config alone: multiplications and additions.
pub(super) fn cost(config: &Config) -> f64 {
    let of_sample = memory::multiplications(config);
    let (train, held_out) = memory::sample_counts(config);
    let epochs = config.train.epochs as f64;
    let steps = epochs * (train / config.train.batch_size as f64).ceil();
    let evaluations = (config.train.epochs / config.train.eval_every.max(1)) as f64 + 1.0;
    let pruned = if config.is_pruned() { PRUNING * train } else { 0.0 };
    steps * OF_A_STEP + (3.0 * epochs * train + evaluations * held_out + pruned) * of_sample
}
