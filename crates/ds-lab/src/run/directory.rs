//! The directory of a run: what it holds, who may write to it, and what may be replaced.

use super::checkpoint::{Checkpoint, Position};
use crate::config::{Config, Train};
use crate::file_names::{
    CHECKPOINT, COMPARISON, CONFIG, DISCARDED, LOCK, METRICS, OF_PRUNING, OF_RUN, REPORT, STAGED, SUMMARY, SWEEP,
};
use crate::files::{self, FileError, write_atomically};
use crate::lock::{DirectoryLock, lock_checked};
use crate::results::metrics::{self, SummaryRow};
use anyhow::{Context, Result, bail};
use ds_nn::optim::multi_step;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Files of a sweep or of a folder of results, which is no place for a run.
const OF_OTHERS: [&str; 3] = [SWEEP, COMPARISON, REPORT];

/// What to do with a run that the output directory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// An error.
    Refuse,
    /// It goes on from its checkpoint, which must be there.
    Resume,
    /// It goes on from its checkpoint; without one the run starts.
    ResumeOrStart,
    /// Its files are removed, and the run starts again.
    Overwrite,
}

/// Where a run writes, and what to do with what is there already.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// The directory of the run.
    pub directory: PathBuf,
    /// What to do with a run that is there.
    pub existing: Existing,
    /// Print nothing but errors and warnings.
    pub quiet: bool,
}

/// The state of a run in its directory.
pub(super) enum RunState {
    /// It has ended, with this summary.
    Finished(Box<SummaryRow>),
    /// It begins, or goes on from a checkpoint.
    Unfinished(Option<Box<Checkpoint>>),
}

/// The directory of a run for a process that works on it.
pub(super) struct RunDirectory<'a> {
    config: &'a Config,
    path: &'a Path,
    existing: Existing,
    /// Whether this process is the one that writes.
    writes: bool,
    lock: Option<DirectoryLock>,
}

impl<'a> RunDirectory<'a> {
    /// Nothing is read or written yet.
    pub(super) fn new(config: &'a Config, options: &'a RunOptions, writes: bool) -> Self {
        Self { config, path: &options.directory, existing: options.existing, writes, lock: None }
    }

    /// The state of the run; a directory that exists is locked. Nothing else is written.
    ///
    /// # Errors
    /// If the directory holds something that the run must not replace, or another process writes to it.
    pub(super) fn inspect(&mut self) -> Result<RunState> {
        if self.writes && self.lock.is_none() && self.path.exists() {
            self.lock = Some(lock_checked(self.path, || self.check_contents())?);
        } else {
            self.check_contents()?;
        }
        let goes_on = matches!(self.existing, Existing::Resume | Existing::ResumeOrStart);
        if !goes_on {
            return Ok(RunState::Unfinished(None));
        }
        if !self.has(CHECKPOINT) {
            // A finished run whose checkpoint was removed, or was not copied along, is finished all the same.
            let row = self.finished(SummaryRow::has_training_of)?;
            return Ok(row.map_or(RunState::Unfinished(None), |row| RunState::Finished(Box::new(row))));
        }
        let checkpoint = self.checkpoint()?;
        // With another sparsification the same training gets another summary.
        if checkpoint.position.epoch >= self.config.train.epochs
            && let Some(row) = self.finished(|row, config| row.has_config(config) || self.has_summary_of(row))?
        {
            return Ok(RunState::Finished(Box::new(row)));
        }
        Ok(RunState::Unfinished(Some(Box::new(checkpoint))))
    }

    /// Makes and locks the directory. A run that starts takes away what it replaces, and writes the resolved config; one that goes on
    /// changes nothing before [`write_config`](Self::write_config). If another process has run here since the inspection, its state
    /// is returned and nothing is changed.
    ///
    /// # Errors
    /// As for [`inspect`](Self::inspect), if a folder has the name of a file, or if a file cannot be written.
    pub(super) fn claim(&mut self, resumes: bool) -> Result<Option<RunState>> {
        make_directory(self.path)?;
        if self.lock.is_none() {
            let state = self.inspect()?;
            if !matches!(state, RunState::Unfinished(None)) {
                return Ok(Some(state));
            }
        }
        check_no_folders(self.path, &OF_RUN)?;
        for file in OF_RUN {
            let is_replaced = !resumes && (self.existing == Existing::Overwrite || file == METRICS);
            // The config is replaced in one step, so that the directory always says whose it is.
            if is_replaced && file != CONFIG {
                files::remove_written(self.path, file)?;
            }
        }
        // What cannot be read now could not be added to after the training.
        let summary = self.path.join(SUMMARY);
        if summary.exists() {
            metrics::read_summary(&summary)?;
        }
        if !resumes {
            self.write_config()?;
        }
        Ok(None)
    }

    /// Writes the resolved config and removes what killed processes left. A run that goes on does this once its checkpoint has been found
    /// to fit, for a finished run is known by its config.
    ///
    /// # Errors
    /// If a file cannot be written or removed.
    pub(super) fn write_config(&self) -> Result<()> {
        for file in OF_RUN {
            files::remove_temporaries(self.path, file)?;
        }
        write_atomically(&self.path.join(CONFIG), |file| file.write_all(self.config.to_toml().as_bytes()))?;
        Ok(())
    }

    fn has(&self, file: &str) -> bool {
        // A dangling link is there, too.
        self.path.join(file).symlink_metadata().is_ok()
    }

    /// Refuses a directory whose files the run would replace without being asked to.
    fn check_contents(&self) -> Result<()> {
        let path = self.path.display();
        match self.existing {
            Existing::Overwrite => Ok(()),
            Existing::Resume if self.has(CHECKPOINT) => Ok(()),
            Existing::Resume => bail!(
                "--resume: there is no checkpoint {}; start the run without --resume, or name its directory with --out DIR",
                self.path.join(CHECKPOINT).display()
            ),
            Existing::Refuse if self.has(CHECKPOINT) || self.has(METRICS) => bail!(
                "{path} already holds a run: --resume goes on with it, --overwrite starts again, --out DIR writes elsewhere"
            ),
            // A run that was ended before its first checkpoint begins again.
            Existing::ResumeOrStart if self.has(CHECKPOINT) || self.has_own_config() => Ok(()),
            Existing::Refuse | Existing::ResumeOrStart => {
                let is_own_config = |file: &str| file == CONFIG && self.has_own_config();
                match OF_OTHERS.into_iter().chain(OF_RUN).find(|file| self.has(file) && !is_own_config(file)) {
                    None => Ok(()),
                    Some(file) => bail!(
                        "{path} is not the directory of this run, and it has a file {file}: --out DIR writes elsewhere, \
                         --overwrite replaces it"
                    ),
                }
            }
        }
    }

    /// Whether there is the resolved config that a run like this one has left, and not a file of the user's that says the same.
    fn has_own_config(&self) -> bool {
        let Ok(text) = std::fs::read_to_string(self.path.join(CONFIG)) else { return false };
        Config::from_toml(&text)
            .is_ok_and(|there| there.to_toml() == text && there.training_differences(self.config).is_empty())
    }

    /// Whether the row is that of the config in the directory, and that config differs from this one in nothing that a summary tells of.
    fn has_summary_of(&self, row: &SummaryRow) -> bool {
        let Ok(there) = Config::load(&self.path.join(CONFIG), &[]) else { return false };
        row.has_config(&there) && row.has_training_of(self.config) && there.sparsify == self.config.sparsify
    }

    fn checkpoint(&self) -> Result<Checkpoint> {
        let path = self.path.join(CHECKPOINT);
        let checkpoint = Checkpoint::read(&path)?;
        let saved =
            Config::from_toml(&checkpoint.config).with_context(|| format!("the config in {}", path.display()))?;
        let differences = resume_conflicts(&saved, self.config, &checkpoint.position);
        if !differences.is_empty() {
            bail!(
                "{} was made with another config; it cannot be resumed with this one:\n  {}\n--out DIR writes elsewhere, \
                 --overwrite starts again",
                path.display(),
                differences.join("\n  ")
            );
        }
        Ok(checkpoint)
    }

    /// The summary of a run that was finished before and has this config.
    fn finished(&self, has_config: impl Fn(&SummaryRow, &Config) -> bool) -> Result<Option<SummaryRow>> {
        let path = self.path.join(SUMMARY);
        if !path.exists() {
            return Ok(None);
        }
        let rows = metrics::read_summary(&path)?;
        let is_meant = |row: &SummaryRow| row.is_of(self.config) && has_config(row, self.config);
        Ok(rows.into_iter().find(|row| is_meant(row) && row.epochs == self.config.train.epochs))
    }
}

/// Refuses folders with the names of files, which could be neither removed nor replaced: before the first file is.
pub(super) fn check_no_folders(directory: &Path, names: &[&str]) -> Result<()> {
    let mut paths = names.iter().map(|name| directory.join(name));
    match paths.find(|path| path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())) {
        Some(path) => bail!("{} is a folder where a run has a file: rename it or move it away", path.display()),
        None => Ok(()),
    }
}

/// Removes the files of a run, and its directory if nothing else is in it.
///
/// # Errors
/// If a folder has the name of a file, or a file cannot be removed.
pub fn remove_run(directory: &Path) -> Result<()> {
    check_no_folders(directory, &OF_RUN)?;
    for file in OF_RUN {
        files::remove_written(directory, file)?;
    }
    files::remove_written(directory, LOCK)?;
    files::remove_written(directory, DISCARDED)?;
    remove_staged(directory)?;
    remove_if_empty(directory)
}

/// Removes the files of a pruning that was killed.
///
/// # Errors
/// If one cannot be removed.
pub(super) fn remove_staged(directory: &Path) -> Result<()> {
    let folder = directory.join(STAGED);
    if !folder.is_dir() {
        return Ok(());
    }
    for file in OF_PRUNING {
        files::remove_written(&folder, file)?;
    }
    remove_if_empty(&folder)
}

/// Removes a directory that has nothing in it; another one stays.
///
/// # Errors
/// If it is empty and cannot be removed.
pub fn remove_if_empty(directory: &Path) -> Result<()> {
    let is_empty = std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none());
    if !is_empty {
        return Ok(());
    }
    match std::fs::remove_dir(directory) {
        // Another process has removed it, or put something into it, since it was looked at.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => Ok(()),
        removed => {
            let path = directory.to_owned();
            Ok(removed.map_err(|source| FileError { action: "remove", path, source })?)
        }
    }
}

/// Makes a directory below one that other processes remove when it is empty.
fn make_directory(path: &Path) -> Result<()> {
    const TRIES: usize = 10;
    let mut made = std::fs::create_dir_all(path);
    for _ in 1..TRIES {
        if !made.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            break;
        }
        made = std::fs::create_dir_all(path);
    }
    made.with_context(|| format!("cannot make the run's directory {}", path.display()))
}

/// What keeps a run of `saved` from going on as one of `config`: all that changes the training, but for what is left of its
/// schedule. Its last epoch may come later or, if something is left of it, earlier, and other milestones may follow, if the
/// learning rates so far are those of `config`. Rows are then those of a run of `config` from the start, but that an end that was
/// reached before keeps the row of its evaluation.
fn resume_conflicts(saved: &Config, config: &Config, position: &Position) -> Vec<String> {
    let past = position.epoch + usize::from(position.batch > 0);
    let factor = |config: &Config, epoch| multi_step(epoch, &config.train.milestones, config.train.gamma);
    // The last epoch ends with an evaluation.
    let is_over = config.train.epochs <= position.epoch && config.train.epochs != saved.train.epochs;
    if is_over || config.train.epochs < past || (0..past).any(|epoch| factor(saved, epoch) != factor(config, epoch)) {
        return saved.training_differences(config);
    }
    let (epochs, milestones) = (config.train.epochs, config.train.milestones.clone());
    Config { train: Train { epochs, milestones, ..saved.train.clone() }, ..saved.clone() }.training_differences(config)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_is_left_of_a_schedule_may_change() {
        let of = |epochs: usize, milestones: &str| {
            let text = format!("experiment = \"mnist\"\ntrain.epochs = {epochs}\ntrain.milestones = {milestones}");
            Config::from_toml(&text).unwrap()
        };
        let saved = of(10, "[4, 8]");
        let goes_on = |epoch, batch, config| {
            resume_conflicts(&saved, &config, &Position { epoch, batch, ..Position::default() }).is_empty()
        };
        assert!(goes_on(5, 0, of(10, "[4, 8]")));
        assert!(goes_on(5, 0, of(20, "[4, 12]")));
        assert!(goes_on(5, 0, of(6, "[4]")));
        assert!(goes_on(5, 3, of(6, "[4]")));
        assert!(goes_on(10, 0, of(12, "[4, 8, 11]")));
        // The learning rate of epoch 5, which has begun, and of epoch 4.
        assert!(!goes_on(5, 3, of(10, "[4, 5]")));
        assert!(goes_on(5, 0, of(10, "[4, 5]")));
        assert!(!goes_on(5, 0, of(10, "[5, 8]")));
        // Nothing is left to be trained, so that the last epoch would not be evaluated.
        assert!(!goes_on(5, 0, of(5, "[4]")));
        assert!(!goes_on(5, 3, of(5, "[4]")));
        assert!(goes_on(10, 0, of(10, "[4, 8]")));
    }

    #[test]
    fn a_run_is_removed_and_the_files_of_others_stay() {
        let directory = tempfile::tempdir().unwrap();
        let run = directory.path().join("run");
        std::fs::create_dir(&run).unwrap();
        for file in OF_RUN.into_iter().chain(["notes.txt", LOCK, DISCARDED, "metrics.csv.77.tmp"]) {
            std::fs::write(run.join(file), "").unwrap();
        }
        remove_run(&run).unwrap();
        let left: Vec<_> = std::fs::read_dir(&run).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["notes.txt"]);
        std::fs::remove_file(run.join("notes.txt")).unwrap();
        remove_run(&run).unwrap();
        assert!(!run.exists());
        remove_run(&run).unwrap();
    }
}
