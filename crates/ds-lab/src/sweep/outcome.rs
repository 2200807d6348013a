//! What has come of a sweep.

use crate::results::metrics::{DivergedRow, SummaryRow};
use crate::results::statistics::spread;
use anyhow::{Result, bail};
use indicatif::HumanDuration;
use std::path::PathBuf;
use std::time::Duration;

/// The result of a sweep.
#[derive(Debug)]
pub struct Outcome {
    /// A row a run, in the order of the definition.
    pub rows: Vec<SummaryRow>,
    /// Runs that failed, and selections that could not be made, with their errors.
    pub failures: Vec<(String, anyhow::Error)>,
    /// Runs whose loss became infinite or NaN, now or before.
    pub diverged: Vec<DivergedRow>,
    /// How many runs were made now; the others were there.
    pub made: usize,
    /// Seconds for those.
    pub seconds: f64,
    /// What was selected, a line each.
    pub choices: Vec<String>,
    /// The file with the rows of runs that were made now.
    pub summary: PathBuf,
    /// Whether runs of a selection follow when the rows of all shards have been merged.
    pub awaits_merge: bool,
}

impl Outcome {
    /// The outcome as text: the number of runs, what was selected, what diverged and what failed.
    pub fn describe(&self, name: &str) -> String {
        let ended = self.rows.len() + self.diverged.len();
        let (runs, of_them) = if ended == 1 { ("run", "") } else { ("runs", " of them") };
        let mut text = format!(
            "{name}: {ended} {runs}, {}{of_them} made now in {}; {}",
            self.made,
            HumanDuration(Duration::from_secs_f64(self.seconds)),
            self.summary.display()
        );
        if self.awaits_merge {
            text += "\n  the runs of the selection follow when all shards have ended and `--merge` was called";
        }
        for choice in &self.choices {
            text += &format!("\n  selected: {choice}");
        }
        for row in &self.diverged {
            text += &format!(
                "\n  DIVERGED: {} with seed {}: the loss was {} at step {} (epoch {}); it is not trained again",
                row.run, row.seed, row.loss, row.step, row.epoch
            );
        }
        for (title, error) in &self.failures {
            text += &format!("\n  FAILED: {title}: {error:#}");
        }
        text
    }

    /// Refuses an outcome with failures; `again` is the command that tries them again.
    ///
    /// # Errors
    /// If a run failed or a selection could not be made.
    pub fn check(&self, again: &str) -> Result<()> {
        match self.failures.len() {
            0 => Ok(()),
            1 => bail!("1 run or selection failed; {again} tries it again"),
            count => bail!("{count} runs or selections failed; {again} tries them again"),
        }
    }

    /// Median, least and largest test accuracy, or test loss where there is none, before and after pruning: for runs that differ in
    /// their seeds only.
    pub fn describe_seeds(&self) -> String {
        let line = |what: &str, digits: usize, of: &dyn Fn(&SummaryRow) -> Option<f64>| {
            let values: Vec<f64> = self.rows.iter().filter_map(of).collect();
            let shown = spread(&values, |value| format!("{value:.digits$}"));
            match values.len() {
                0 => None,
                1 => Some(format!("{what} {shown} of 1 seed")),
                count => Some(format!("{what} {shown}, median [least, largest] of {count} seeds")),
            }
        };
        let accuracy = line("test accuracy (%)", 2, &|row| row.test_accuracy);
        let measure = accuracy.or_else(|| line("test loss", 8, &|row| Some(row.test_loss)));
        let pruned = line("test accuracy (%) after pruning", 2, &|row| row.refit_test_accuracy);
        let knots = line("knots after pruning", 0, &|row| row.refit_knots.map(|knots| knots as f64));
        [measure, pruned, knots].into_iter().flatten().collect::<Vec<_>>().join("\n  ")
    }
}
