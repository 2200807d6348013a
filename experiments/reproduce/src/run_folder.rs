//! The folder of a run whose checkpoint is evaluated again: the checkpoint must be of the run that the folder's other files are of.

use anyhow::{Context, Result, bail};
use ds_lab::config::{Config, Train};
use ds_lab::file_names::{BOUNDS, CHECKPOINT, CONFIG, LOCAL_BOUNDS, METRICS, OF_RUN, SUMMARY, SWEEP};
use ds_lab::files::md5;
use ds_lab::note;
use ds_lab::results::metrics::{MetricsRow, SummaryRow};
use ds_lab::results::{TableRow, read_rows};
use ds_lab::run::checkpoint::Checkpoint;
use ds_lab::run::sparsify::{PRUNED_FROM, network_md5};
use ds_lab::run::verified;
use ds_nn::Network;
use std::path::Path;

/// The files by which a folder is known to be that of a run or sweep, or to have results of `reproduce`.
fn files() -> impl Iterator<Item = &'static str> {
    OF_RUN.into_iter().chain([SWEEP, BOUNDS, LOCAL_BOUNDS])
}

/// The checkpoint of a run and the config in it.
///
/// # Errors
/// If there is no checkpoint, it is damaged, or config.toml, metrics.csv or summary.csv are of another run. The summary may be of an end
/// from which the run has gone on.
pub fn open(folder: &Path) -> Result<(Checkpoint, Config)> {
    let path = folder.join(CHECKPOINT);
    let checkpoint = Checkpoint::read(&path)?;
    let config = Config::from_toml(&checkpoint.config).with_context(|| format!("the config in {}", path.display()))?;
    let mut differences = Vec::new();
    let config_file = folder.join(CONFIG);
    if exists(&config_file) {
        let here = Config::load(&config_file, &[]).context(
            "the config of the run cannot be read, so that it is not known whether the checkpoint is of this run; mend it, or \
             move it away",
        )?;
        let all = config.training_differences(&with_schedule_of(&config, &here));
        differences.extend(all.into_iter().map(|difference| format!("config.toml: {difference}")));
    } else {
        note!("NOTE: {} is not there; the config is that in the checkpoint", config_file.display());
    }
    differences.extend(of_metrics(&rows(&folder.join(METRICS)), &config));
    differences.extend(of_summary(&rows(&folder.join(SUMMARY)), &config, &checkpoint));
    if !differences.is_empty() {
        bail!(
            "{} is of another run than the files beside it (there: in the checkpoint, here: in the other file):\n  {}\nput each \
             run into a folder of its own",
            path.display(),
            differences.join("\n  ")
        );
    }
    let (epoch, epochs) = (checkpoint.position.epoch, config.train.epochs);
    if epoch < epochs {
        note!("NOTE: the run is not finished: epoch {epoch} of {epochs}");
    }
    Ok((checkpoint, config))
}

/// A config with the end of another one's schedule. A run that is to go on for longer has its new config before its first new checkpoint.
fn with_schedule_of(checkpoint: &Config, here: &Config) -> Config {
    let (epochs, milestones) = (checkpoint.train.epochs, checkpoint.train.milestones.clone());
    if here.train.epochs != epochs {
        note!("NOTE: {CONFIG} has {} epochs, and the checkpoint is of a run of {epochs}", here.train.epochs);
    }
    Config { train: Train { epochs, milestones, ..here.train.clone() }, ..here.clone() }
}

/// Refuses the file of a pruned network if another one than that of the checkpoint was pruned.
///
/// # Errors
/// If it was, or the file cannot be read.
pub fn check_pruned(path: &Path, unchanged: &Network, config: &Config) -> Result<()> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read the network {}", path.display()))?;
    let (metadata, _) =
        verified::parse(&bytes).with_context(|| format!("{} is not a whole file of this network", path.display()))?;
    let is_of_other = match (metadata.get(PRUNED_FROM), metadata.get("config")) {
        (Some(md5), _) => *md5 != network_md5(unchanged)?,
        // Files of earlier versions have the config only.
        (None, Some(text)) => Config::from_toml(text).is_ok_and(|there| !there.training_differences(config).is_empty()),
        (None, None) => false,
    };
    if is_of_other {
        let folder = path.parent().unwrap_or(Path::new("."));
        bail!(
            "{} was not pruned from the network of {CHECKPOINT}, but from another network, such as that of an earlier end of the run; \
             reproduce sparsify {} prunes that of {CHECKPOINT}",
            path.display(),
            folder.display()
        );
    }
    Ok(())
}

/// Refuses a folder for results of a run if it has files of another one.
///
/// # Errors
/// If the folder has files of a run, a sweep or `reproduce`, and its config.toml is missing or of another run.
pub fn check_target(folder: &Path, config: &Config) -> Result<()> {
    let there: Vec<&str> = files().filter(|name| exists(&folder.join(name))).collect();
    if there.is_empty() {
        return Ok(());
    }
    let differences = match Config::load(&folder.join(CONFIG), &[]) {
        Ok(here) => config.training_differences(&here),
        Err(_) if !there.contains(&CONFIG) => vec!["no config.toml says of which run they are".to_owned()],
        Err(error) => return Err(error).with_context(|| format!("{} has files of another run", folder.display())),
    };
    if !differences.is_empty() {
        bail!(
            "{} has files of another run ({}); name another folder with --out\n  {}",
            folder.display(),
            there.join(", "),
            differences.join("\n  ")
        );
    }
    Ok(())
}

/// Refuses a folder that has files of a run, a sweep or `reproduce`.
///
/// # Errors
/// If it has one.
pub fn check_new(folder: &Path) -> Result<()> {
    match files().find(|name| exists(&folder.join(name))) {
        Some(file) => bail!("{} has a file {file} already; name another folder with --out", folder.display()),
        None => Ok(()),
    }
}

/// Refuses to replace a table that has other columns than those of `R`.
///
/// # Errors
/// If such a file is there.
pub fn check_table<R: TableRow>(path: &Path) -> Result<()> {
    // An empty file is no loss.
    let is_free = !exists(path) || path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0);
    match read_rows::<R>(path) {
        Err(reason) if !is_free => {
            bail!("{} {reason}: it is not replaced; rename it or move it away", path.display())
        }
        _ => Ok(()),
    }
}

/// Whether there is a file, a folder or a link of this name.
fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// The whole rows of a table; a note about what is wrong with others.
fn rows<R: TableRow>(path: &Path) -> Vec<R> {
    if !exists(path) {
        return Vec::new();
    }
    match read_rows(path) {
        Ok(rows) => {
            if let Some(complaint) = rows.complaint() {
                note!("NOTE: {}: {complaint}; these rows are not compared with the checkpoint", path.display());
            }
            rows.whole.into_iter().map(|(_, row)| row).collect()
        }
        Err(reason) => {
            note!("NOTE: {}: {reason}; it is not compared with the checkpoint", path.display());
            Vec::new()
        }
    }
}

/// Columns with their values in the checkpoint and in a file.
type Columns<'a> = Vec<(&'static str, String, &'a str)>;

fn different(file: &str, columns: Columns<'_>) -> Vec<String> {
    let differs = columns.into_iter().filter(|(_, there, here)| there != here);
    differs.map(|(column, there, here)| format!("{file}: {column}: {there} there, {here} here")).collect()
}

/// The first row that is of another run.
fn of_metrics(rows: &[MetricsRow], config: &Config) -> Vec<String> {
    let of = |row: &MetricsRow| {
        let seed = row.seed.to_string();
        let columns =
            identity(config, (&row.run, &seed), (&row.experiment, &row.dataset, &row.network, &row.activation));
        different(METRICS, columns)
    };
    rows.iter().map(of).find(|differences| !differences.is_empty()).unwrap_or_default()
}

fn identity<'a>(
    config: &Config,
    (run, seed): (&'a str, &'a str),
    (experiment, dataset, network, activation): (&'a str, &'a str, &'a str, &'a str),
) -> Columns<'a> {
    vec![
        ("run", config.name.clone(), run),
        ("seed", config.seed.to_string(), seed),
        ("experiment", config.experiment.to_string(), experiment),
        ("dataset", config.data.dataset.to_string(), dataset),
        ("network", config.network.kind.to_string(), network),
        ("activation", config.activation.kind.to_string(), activation),
    ]
}

/// What the last row of the run's summary, or the only row of another run, says otherwise.
fn of_summary(rows: &[SummaryRow], config: &Config, checkpoint: &Checkpoint) -> Vec<String> {
    let Some(row) = rows.iter().rev().find(|row| row.is_of(config)).or(rows.last()) else { return Vec::new() };
    let seed = row.seed.to_string();
    let columns = identity(config, (&row.run, &seed), (&row.experiment, &row.dataset, &row.network, &row.activation));
    let epochs = row.epochs.to_string();
    let mut differences = different(SUMMARY, columns);
    if differences.is_empty() && is_of_earlier_end(row, config, checkpoint.position.epoch) {
        note!("NOTE: {SUMMARY} is of an earlier end, after {epochs} epochs");
        return differences;
    }
    differences.extend(different(SUMMARY, vec![("epochs", config.train.epochs.to_string(), &epochs)]));
    // The digest of the text itself is that of an older version, which knew fewer keys.
    let text_md5 = md5(checkpoint.config.as_bytes());
    let given = row.config_md5.as_ref().filter(|given| !row.has_training_of(config) && **given != text_md5);
    if let (Some(given), true) = (given, differences.is_empty()) {
        differences.push(format!("summary.csv: config_md5: {} there, {given} here", md5(config.to_toml().as_bytes())));
    }
    differences
}

/// Whether the run of a row of its name ended earlier, and has gone on from there to this epoch.
fn is_of_earlier_end(row: &SummaryRow, config: &Config, epoch: usize) -> bool {
    // The oldest rows do not say their config.
    let is_older = row.config_md5.is_none() && row.epochs < config.train.epochs;
    row.epochs <= epoch && (is_older || row.is_of_earlier_end(config))
}
