//! What a run shows while it works: a bar on a terminal, plain lines elsewhere.

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// How often plain lines come at most.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// The progress of one run, on standard error.
pub struct Progress {
    bar: Option<ProgressBar>,
    name: String,
    steps: u64,
    first_step: u64,
    start: Instant,
    last_line: Option<Instant>,
    quiet: bool,
}

/// A loss as it is shown: four decimals, or three digits where that would be none.
pub struct Loss(pub f64);

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.abs() < 0.01 { write!(f, "{:.2e}", self.0) } else { write!(f, "{:.4}", self.0) }
    }
}

/// What is known after a step.
#[derive(Debug, Clone, Copy)]
pub struct Status {
    /// Steps done, those before a resumption included.
    pub step: u64,
    /// The epoch that runs, from 1.
    pub epoch: usize,
    /// Mean loss of the epoch so far.
    pub loss: f64,
    /// Accuracy of the epoch so far, in percent.
    pub accuracy: Option<f64>,
    /// Training images (or points) a second.
    pub images_per_second: f64,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "epoch {}  loss {}", self.epoch, Loss(self.loss))?;
        if let Some(accuracy) = self.accuracy {
            write!(f, "  accuracy {accuracy:.2} %")?;
        }
        write!(f, "  {:.0} samples/s", self.images_per_second)
    }
}

/// The progress of a sweep, on standard error: one bar over all of its runs.
pub struct SweepProgress {
    bar: Option<ProgressBar>,
    name: String,
    runs: usize,
    finished: usize,
    /// Runs that were finished before.
    before: usize,
    failed: usize,
    start: Instant,
    last_line: Instant,
    quiet: bool,
}

impl SweepProgress {
    /// Progress towards `runs` runs.
    pub fn new(name: &str, runs: usize, quiet: bool) -> Self {
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let bar = (terminal && !quiet).then(|| {
            let style = ProgressStyle::with_template("{prefix} {bar:30} {pos} of {len} runs  {msg}  {eta} left")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(runs as u64).with_style(style).with_prefix(name.to_owned())
        });
        let (name, start) = (name.to_owned(), Instant::now());
        Self { bar, name, runs, finished: 0, before: 0, failed: 0, start, last_line: start, quiet }
    }

    /// A run is done: now, by this name, or before.
    pub fn done(&mut self, title: Option<&str>) {
        self.finished += 1;
        match (&self.bar, title) {
            (Some(bar), None) => {
                self.before += 1;
                bar.set_position(self.finished as u64);
                bar.reset_eta();
            }
            (Some(bar), Some(title)) => {
                bar.set_position(self.finished as u64);
                bar.set_message(title.to_owned());
            }
            (None, None) => self.before += 1,
            (None, Some(_)) if !self.quiet && self.last_line.elapsed() >= LINE_EVERY => {
                self.last_line = Instant::now();
                let made = (self.finished - self.before).max(1);
                let left = self.runs.saturating_sub(self.finished + self.failed);
                let left = self.start.elapsed().mul_f64(left as f64 / made as f64);
                crate::note!("{}: {} of {} runs  {} left", self.name, self.finished, self.runs, HumanDuration(left));
            }
            _ => {}
        }
    }

    /// A run failed; prints the error.
    pub fn failed(&mut self, title: &str, error: &anyhow::Error) {
        self.failed += 1;
        let line = format!("{}: {title} FAILED: {error:#}", self.name);
        match &self.bar {
            Some(bar) => bar.println(line),
            None => crate::note!("{line}"),
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Progress {
    /// Progress towards `steps`, of which `first_step` are done.
    pub fn new(name: &str, steps: u64, first_step: u64, quiet: bool) -> Self {
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let bar = (terminal && !quiet).then(|| {
            let style = ProgressStyle::with_template("{prefix} {bar:30} {percent:>3} %  {msg}  {eta} left")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(steps).with_style(style).with_prefix(name.to_owned());
            bar.set_position(first_step);
            bar.reset_eta();
            bar
        });
        Self { bar, name: name.to_owned(), steps, first_step, start: Instant::now(), last_line: None, quiet }
    }

    /// Whether the next step should be shown: formatting costs more than a step of a tiny network.
    pub fn is_due(&self) -> bool {
        let last = self.last_line.unwrap_or(self.start);
        !self.quiet && last.elapsed() >= if self.bar.is_some() { Duration::from_millis(100) } else { LINE_EVERY }
    }

    /// Shows the state after a step.
    pub fn show(&mut self, status: &Status) {
        self.last_line = Some(Instant::now());
        match &self.bar {
            Some(bar) => {
                bar.set_position(status.step);
                bar.set_message(status.to_string());
            }
            None if !self.quiet => {
                let done = (status.step - self.first_step).max(1) as f64;
                let left = self.start.elapsed().mul_f64(self.steps.saturating_sub(status.step) as f64 / done);
                crate::note!("{}: {status}  {} left", self.name, HumanDuration(left));
            }
            None => {}
        }
    }

    /// A line that stays, above the bar.
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(format!("{}: {text}", self.name)),
            None if !self.quiet => crate::note!("{}: {text}", self.name),
            None => {}
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
