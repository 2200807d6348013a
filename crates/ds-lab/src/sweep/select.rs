//! The choice of a value on validation data.

use super::ended::is_of;
use super::{PlannedRun, Select, Sweep, show};
use crate::config::{ConfigError, Setting};
use crate::results::metrics::{DivergedRow, SummaryRows};
use anyhow::{Context, Result, bail};

/// The runs of the second stage.
#[derive(Debug, Default)]
pub(super) struct Selection {
    pub(super) runs: Vec<PlannedRun>,
    /// A line for each choice.
    pub(super) choices: Vec<String>,
    /// Choices that could not be made.
    pub(super) problems: Vec<(String, anyhow::Error)>,
}

impl Select {
    /// The runs that differ in the chosen key and the seed only, group by group.
    pub(super) fn groups<'a>(&self, runs: &'a [PlannedRun]) -> Vec<(Vec<Setting>, Vec<&'a PlannedRun>)> {
        let mut groups: Vec<(usize, Vec<Setting>, Vec<&PlannedRun>)> = Vec::new();
        for run in runs {
            let fixed: Vec<Setting> =
                run.settings.iter().filter(|s| s.key != "seed" && !self.keys.contains(&s.key)).cloned().collect();
            match groups.iter_mut().find(|(grid, settings, _)| *grid == run.grid && *settings == fixed) {
                Some((_, _, members)) => members.push(run),
                None => groups.push((run.grid, fixed, vec![run])),
            }
        }
        groups.into_iter().map(|(_, settings, members)| (settings, members)).collect()
    }

    /// The settings of the chosen key: of the candidates whose mean validation accuracy is within the tolerance of the best,
    /// the one with the largest value, or the most accurate one where values are no numbers. The mean, since a median does not
    /// see a value that fails for some seeds. A value that diverged for a seed is worse than all that did not.
    fn choose(&self, members: &[&PlannedRun], rows: &SummaryRows, diverged: &[DivergedRow]) -> Result<Vec<Setting>> {
        let mut candidates: Vec<(Vec<Setting>, Vec<f64>)> = Vec::new();
        for run in members {
            let config = &run.config;
            let accuracy = match rows.of(config) {
                None if diverged.iter().any(|row| is_of(row, config)) => f64::NEG_INFINITY,
                None => bail!("the run {} with seed {} failed", config.name, config.seed),
                Some(row) => row.validation_accuracy.with_context(|| {
                    format!("{} has no validation accuracy; set data.validation above 0 in [config]", config.name)
                })?,
            };
            let accuracy = if accuracy.is_nan() { f64::NEG_INFINITY } else { accuracy };
            let chosen = self.chosen_by(run);
            match candidates.iter_mut().find(|(settings, _)| *settings == chosen) {
                Some((_, accuracies)) => accuracies.push(accuracy),
                None => candidates.push((chosen, vec![accuracy])),
            }
        }
        let mean = |accuracies: &[f64]| accuracies.iter().sum::<f64>() / accuracies.len() as f64;
        let means: Vec<(Vec<Setting>, f64)> =
            candidates.into_iter().map(|(settings, accuracies)| (settings, mean(&accuracies))).collect();
        let best = means.iter().map(|(_, accuracy)| *accuracy).fold(f64::NEG_INFINITY, f64::max);
        if best == f64::NEG_INFINITY {
            bail!("every value of {} diverged", self.keys.join(" + "));
        }
        let near = means.into_iter().filter(|(_, accuracy)| *accuracy >= best - self.tolerance);
        let size = |settings: &[Setting]| {
            let value = settings.first().map(|setting| &setting.value);
            value.and_then(|value| value.as_float().or(value.as_integer().map(|v| v as f64))).unwrap_or(0.0)
        };
        match near.max_by(|a, b| size(&a.0).total_cmp(&size(&b.0)).then(a.1.total_cmp(&b.1))) {
            Some((settings, _)) => Ok(settings),
            None => bail!("nothing to select from"),
        }
    }
}

impl Sweep {
    /// Whether runs with a chosen value follow those that the file lists.
    pub fn has_selection(&self) -> bool {
        self.select.is_some()
    }

    /// The runs with the values that the rows of the others choose. A choice that cannot be made keeps no other one from being
    /// made.
    ///
    /// # Errors
    /// If a value of `select.final` is not allowed, or two runs have one name.
    pub(super) fn selected(
        &self,
        runs: &[PlannedRun],
        rows: &SummaryRows,
        diverged: &[DivergedRow],
    ) -> Result<Selection, ConfigError> {
        let mut selection = Selection::default();
        let Some(select) = &self.select else { return Ok(selection) };
        for (fixed, members) in select.groups(runs) {
            let chosen = match select.choose(&members, rows, diverged) {
                Ok(chosen) => chosen,
                Err(error) => {
                    let of = |setting: &Setting| format!("{} = {}", setting.key, show(&setting.value));
                    let group = fixed.iter().map(of).collect::<Vec<_>>().join(", ");
                    selection.problems.push((format!("{}: selection for {group}", self.name), error));
                    continue;
                }
            };
            let runs = self.runs_with_choice(select, members[0].grid, &fixed, &chosen)?;
            let last_run = runs.last().map(|run| run.config.name.clone());
            selection.runs.extend(runs);
            if let (Some(setting), Some(run)) = (chosen.first(), last_run) {
                selection.choices.push(format!("{run}: {} = {}", setting.key, show(&setting.value)));
            }
        }
        self.check_names(&selection.runs)?;
        Ok(selection)
    }
}
