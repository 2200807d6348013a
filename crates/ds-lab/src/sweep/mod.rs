//! Sweeps: one TOML file that stands for many runs, with lists of values for any key.
//!
//! ```toml
//! # name = "…"                     # the file's name, if it is not said
//! keep_runs = false                # true: the directories of runs stay beside the summary; "selected": those of [select]
//!
//! [config]                         # as in the config of one run
//! experiment = "area2d"
//! activation.init = "even_odd"
//!
//! [[grid]]                         # every combination of the lists; a value that is no list holds for all of them
//! activation.kind = ["relu", "prelu"]
//! network.hidden = [[2], [4], [8]]
//! seed = [0, 1, 2]
//!
//! [[grid]]                         # and every combination of these
//! activation.kind = "bspline"
//! network.hidden = [[2], [4], [8]]
//! "regularization.lambda + regularization.weight_decay" = [1e-6, 1e-5]    # one value for both
//! seed = [0, 1, 2]
//!
//! [select]                         # then, for each combination of all other keys, the value with the best mean
//! key = "regularization.lambda + regularization.weight_decay"   # validation accuracy over the seeds: the largest that
//! tolerance = 0.0                  # is at most so many points below the best;
//! final.data.validation = 0.0      # and runs with it and these values
//! final.seed = [0, 1, 2]
//! ```

mod directory;
mod ended;
mod merge;
mod outcome;
mod parse;
mod run;
mod seeds;
mod select;
mod shard;
mod status;

pub use directory::{Place, check_shards};
pub use merge::{Merged, merge};
pub use outcome::Outcome;
pub(crate) use run::at_once;
pub use run::{SweepOptions, count_done, run_sweep};
pub use shard::{Shard, ShardError};
pub use status::{Failed, ShardStatus, Status, status};

use crate::config::{self, Config, ConfigError, Origin, Setting};
use std::collections::HashMap;
use toml::{Table, Value};

/// A sweep as its file defines it.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// Its name, and that of its directory.
    pub name: String,
    /// Which directories of finished runs stay.
    pub keep_runs: KeepRuns,
    text: String,
    origin: Origin,
    base: Table,
    grids: Vec<Axes>,
    select: Option<Select>,
}

/// Which runs of a sweep keep their directories, and with them their networks, beside the summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeepRuns {
    /// No run.
    #[default]
    None,
    /// The runs with a selected value.
    Selected,
    /// All runs.
    All,
}

/// One run of a sweep.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedRun {
    /// What to run; its name is unique together with its seed.
    pub config: Config,
    /// All that its grid sets.
    settings: Vec<Setting>,
    /// Which grid it is of.
    grid: usize,
}

/// What is chosen on validation data, and what is run with the choice.
#[derive(Debug, Clone)]
struct Select {
    keys: Vec<String>,
    tolerance: f64,
    last: Axes,
}

/// One or more keys that take the same values.
#[derive(Debug, Clone)]
struct Axis {
    keys: Vec<String>,
    values: Vec<Value>,
    /// Whether they were given as a list, so that names tell them.
    is_list: bool,
}

type Axes = Vec<Axis>;

impl Sweep {
    /// All runs but those of a selection, in the order of the file, seeds together.
    ///
    /// # Errors
    /// If a value is not allowed, or two runs have one name.
    pub fn runs(&self) -> Result<Vec<PlannedRun>, ConfigError> {
        let mut runs = Vec::new();
        for (grid, axes) in self.grids.iter().enumerate() {
            for (settings, lists) in combinations(axes, &self.origin) {
                runs.push(self.planned(grid, settings, &lists, "")?);
            }
        }
        self.check_names(&runs)?;
        Ok(runs)
    }

    /// How many runs the file stands for, those of a selection included.
    ///
    /// # Errors
    /// As for [`runs`](Self::runs).
    pub fn count(&self) -> Result<usize, ConfigError> {
        Ok(self.count_with(&self.runs()?))
    }

    /// The same, where the runs that the file lists are known.
    fn count_with(&self, runs: &[PlannedRun]) -> usize {
        let of_selection = self.select.as_ref().map_or(0, |select| {
            select.groups(runs).len() * select.last.iter().map(|axis| axis.values.len()).product::<usize>()
        });
        runs.len() + of_selection
    }

    /// The runs of a selection, with the first values that could be chosen.
    ///
    /// # Errors
    /// As for [`runs`](Self::runs).
    pub(crate) fn runs_of_any_choice(&self) -> Result<Vec<PlannedRun>, ConfigError> {
        let Some(select) = &self.select else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for (fixed, members) in select.groups(&self.runs()?) {
            let Some(first) = members.first() else { continue };
            all.extend(self.runs_with_choice(select, first.grid, &fixed, &select.chosen_by(first))?);
        }
        Ok(all)
    }

    fn planned(
        &self,
        grid: usize,
        settings: Vec<Setting>,
        lists: &[String],
        ending: &str,
    ) -> Result<PlannedRun, ConfigError> {
        let mut config = Config::from_table(self.base.clone(), self.origin.clone(), &settings)?;
        let is_named = self.base.contains_key("name");
        for setting in settings.iter().filter(|setting| lists.contains(&setting.key)) {
            let shown = ["network.kind", "activation.kind", "data.dataset"].contains(&setting.key.as_str());
            if setting.key != "seed" && (is_named || !shown) {
                config.name += &format!("-{}", label(setting));
            }
        }
        config.name += ending;
        if let Some(rule) = config::broken_rule(&config.name) {
            let (origin, value) = (self.origin.clone(), format!("a run `{}`", config.name));
            let allowed = format!("{rule}, with what the lists add to it");
            return Err(ConfigError::Value { origin, key: "grid".to_owned(), value, allowed });
        }
        Ok(PlannedRun { config, settings, grid })
    }

    /// The runs of a selection with the chosen settings: those of a group, whose other settings are `fixed`.
    fn runs_with_choice(
        &self,
        select: &Select,
        grid: usize,
        fixed: &[Setting],
        chosen: &[Setting],
    ) -> Result<Vec<PlannedRun>, ConfigError> {
        let varied = self.grids[grid].iter().filter(|axis| axis.is_list && !select.keys.contains(&axis.keys[0]));
        let lists: Vec<String> = varied.map(|axis| axis.keys[0].clone()).collect();
        let run = |(last, more): (Vec<Setting>, Vec<String>)| {
            let settings = [fixed, chosen, &last].concat();
            self.planned(grid, settings, &[lists.clone(), more].concat(), "-selected")
        };
        combinations(&select.last, &self.origin).into_iter().map(run).collect()
    }

    /// The runs of a selection for each choice that can be made, group by group.
    fn runs_of_choices<'a>(
        &'a self,
        runs: &'a [PlannedRun],
    ) -> impl Iterator<Item = Result<Vec<PlannedRun>, ConfigError>> {
        let groups = |select: &'a Select| select.groups(runs).into_iter().map(move |group| (select, group));
        self.select.iter().flat_map(groups).flat_map(move |(select, (fixed, members))| {
            let mut choices: Vec<(usize, Vec<Setting>)> = Vec::new();
            for run in members {
                let choice = (run.grid, select.chosen_by(run));
                if !choices.contains(&choice) {
                    choices.push(choice);
                }
            }
            choices.into_iter().map(move |(grid, chosen)| self.runs_with_choice(select, grid, &fixed, &chosen))
        })
    }

    fn check_names(&self, runs: &[PlannedRun]) -> Result<(), ConfigError> {
        let mut seen = HashMap::new();
        for run in runs {
            if seen.insert((&run.config.name, run.config.seed), ()).is_some() {
                return Err(ConfigError::Value {
                    origin: self.origin.clone(),
                    key: "grid".to_owned(),
                    value: format!("two runs `{}` with seed {}", run.config.name, run.config.seed),
                    allowed: "grids that do not overlap".to_owned(),
                });
            }
        }
        Ok(())
    }
}

impl Select {
    /// The settings of the keys that are chosen, as a run has them.
    fn chosen_by(&self, run: &PlannedRun) -> Vec<Setting> {
        run.settings.iter().filter(|setting| self.keys.contains(&setting.key)).cloned().collect()
    }
}

/// Every combination of the axes' values, the last axis fastest but for the seeds, which are fastest of all; with the first
/// keys of the axes that were lists.
fn combinations(axes: &[Axis], origin: &Origin) -> Vec<(Vec<Setting>, Vec<String>)> {
    let lists: Vec<String> = axes.iter().filter(|axis| axis.is_list).map(|axis| axis.keys[0].clone()).collect();
    let (seeds, others): (Vec<&Axis>, Vec<&Axis>) = axes.iter().partition(|axis| axis.keys == ["seed"]);
    let mut all: Vec<Vec<Setting>> = vec![Vec::new()];
    for axis in others.into_iter().chain(seeds) {
        let mut longer = Vec::with_capacity(all.len() * axis.values.len());
        for settings in &all {
            for value in &axis.values {
                let mut settings = settings.clone();
                settings.extend(axis.keys.iter().map(|key| Setting {
                    key: key.clone(),
                    value: value.clone(),
                    origin: origin.clone(),
                }));
                longer.push(settings);
            }
        }
        all = longer;
    }
    all.into_iter().map(|settings| (settings, lists.clone())).collect()
}

/// How a run's name tells a setting: `lambda1e-5`, `hidden4x4`, `tv2`.
fn label(setting: &Setting) -> String {
    let name = setting.key.rsplit('.').next().unwrap_or_default();
    match &setting.value {
        Value::String(text) => text.clone(),
        Value::Boolean(yes) => format!("{name}-{yes}"),
        value => format!("{name}{}", show(value)),
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::Float(v) if *v != 0.0 && !(1e-2..1e4).contains(&v.abs()) => format!("{v:e}"),
        Value::Float(v) => v.to_string(),
        Value::Array(values) => values.iter().map(show).collect::<Vec<_>>().join("x"),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests;
