//! Metrics as CSV: rows that are appended while a run goes on, and one summary row a run.

use crate::config::{ActivationName, Config};
use crate::files::{self, FileError, hexadecimal, md5, write_atomically};
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Which samples a row is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Training samples, as seen in the epoch (augmented, with dropout).
    #[default]
    Train,
    /// Samples held out of the training set.
    Validation,
    /// Test samples.
    Test,
}

impl std::fmt::Display for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        })
    }
}

/// One row of `metrics.csv`. Accuracies are percentages; what has no meaning is an empty cell.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are the columns")]
pub struct MetricsRow {
    pub run: String,
    pub experiment: String,
    pub dataset: String,
    pub network: String,
    pub activation: String,
    pub seed: u64,
    pub epoch: usize,
    pub step: u64,
    pub split: Split,
    pub loss: f64,
    pub accuracy: Option<f64>,
    pub regularizer: f64,
    pub lr_weights: f64,
    pub lr_splines: f64,
    pub active_knots: Option<usize>,
    pub lipschitz_bound_l1: Option<f64>,
    /// Of 1-Lipschitz networks; others have it in the summary.
    #[serde(default)]
    pub lipschitz_certified_l2: Option<f64>,
    pub seconds: f64,
    pub images_per_second: Option<f64>,
}

/// One row of `summary.csv`. Losses and accuracies are those of the network after the last epoch, in evaluation mode.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are the columns")]
pub struct SummaryRow {
    pub run: String,
    pub experiment: String,
    pub dataset: String,
    pub data_origin: String,
    pub network: String,
    pub activation: String,
    pub seed: u64,
    pub epochs: usize,
    pub parameters: usize,
    pub spline_parameters: usize,
    pub protocol: String,
    pub device: String,
    pub threads: usize,
    pub revision: String,
    pub train_loss: f64,
    pub train_accuracy: Option<f64>,
    pub validation_accuracy: Option<f64>,
    pub test_loss: f64,
    pub test_accuracy: Option<f64>,
    pub knots: Option<usize>,
    pub active_knots: Option<usize>,
    pub sparsified_threshold: Option<f64>,
    pub sparsified_active_knots: Option<usize>,
    pub sparsified_train_accuracy: Option<f64>,
    pub sparsified_test_accuracy: Option<f64>,
    pub lipschitz_bound_l1: Option<f64>,
    pub seconds: f64,
    pub peak_memory_mb: Option<f64>,
    /// Units of the hidden layers of an area network, such as `4x4`.
    #[serde(default)]
    pub hidden: Option<String>,
    /// Knots of a spline, the outermost two included.
    #[serde(default)]
    pub spline_size: Option<usize>,
    #[serde(default)]
    pub spline_range: Option<f64>,
    /// Norm of the splines that was penalised: tv2, bv2 or none.
    #[serde(default)]
    pub norm: Option<String>,
    #[serde(default)]
    pub lambda: Option<f64>,
    #[serde(default)]
    pub weight_decay: Option<f64>,
    /// Fraction of the training set that was held out.
    #[serde(default)]
    pub validation: Option<f64>,
    /// Of the resolved config.
    #[serde(default)]
    pub config_md5: Option<String>,
    /// The largest quotient ‖f(x) − f(y)‖₂/‖x − y‖₂ that was found.
    #[serde(default)]
    pub lipschitz_lower_l2: Option<f64>,
    #[serde(default)]
    pub lipschitz_certified_l2: Option<f64>,
    /// The bound of Aziznejad2020 with p = 2.
    #[serde(default)]
    pub lipschitz_papers_l2: Option<f64>,
    #[serde(default)]
    pub lower_seconds: Option<f64>,
    #[serde(default)]
    pub certified_seconds: Option<f64>,
    #[serde(default)]
    pub papers_seconds: Option<f64>,
    /// Radii in ℓ2 of the certified accuracies, for pixels in [0, 1].
    #[serde(default)]
    pub certified_radii: Option<String>,
    #[serde(default)]
    pub certified_accuracy_1: Option<f64>,
    #[serde(default)]
    pub certified_accuracy_2: Option<f64>,
    #[serde(default)]
    pub certified_accuracy_3: Option<f64>,
    /// f32 or bf16, of what flows between layers in training.
    #[serde(default)]
    pub precision: Option<String>,
    /// Of the keys of the config that change the training.
    #[serde(default)]
    pub training_md5: Option<String>,
    /// The epoch with the best validation accuracy (of the lowest validation loss in regression), if its network is kept.
    #[serde(default)]
    pub best_epoch: Option<usize>,
    #[serde(default)]
    pub best_validation_accuracy: Option<f64>,
    #[serde(default)]
    pub best_test_accuracy: Option<f64>,
}

impl SummaryRow {
    /// Whether it is of a run with the config's name and seed.
    pub fn is_of(&self, config: &Config) -> bool {
        self.run == config.name && self.seed == config.seed
    }

    /// The precision of the training. Rows of older versions name none: there was one.
    pub fn trained_in(&self) -> &str {
        self.precision.as_deref().unwrap_or("f32")
    }

    /// What it was computed on, and in which precision if that is not f32.
    pub fn machine(&self) -> String {
        let machine = format!("{}, {} threads", self.device, self.threads);
        if self.trained_in() == "f32" { machine } else { format!("{machine}, {}", self.trained_in()) }
    }

    /// Whether it was made with this very config.
    pub fn has_config(&self, config: &Config) -> bool {
        self.config_md5 == Some(md5(config.to_toml().as_bytes()))
    }

    /// Whether it was trained as this config trains. Rows of older versions know their whole config only.
    pub fn has_training_of(&self, config: &Config) -> bool {
        self.training_md5.as_ref().is_some_and(|md5| *md5 == config.training_md5()) || self.has_config(config)
    }

    /// The settings of the run's config that tables and pictures group by.
    #[must_use]
    pub fn with_settings(mut self, config: &Config) -> Self {
        let hidden: Vec<String> = config.network.hidden.iter().map(ToString::to_string).collect();
        self.hidden = (!hidden.is_empty()).then(|| hidden.join("x"));
        let kind = config.activation.kind;
        let has_splines = kind.is_spline() || kind == ActivationName::LipschitzSpline;
        self.spline_size = has_splines.then_some(config.activation.size);
        self.spline_range = has_splines.then(|| config.activation.knot_range());
        self.norm = has_splines.then(|| config.regularization.norm.to_string());
        self.lambda = has_splines.then_some(config.regularization.lambda);
        self.weight_decay = Some(config.regularization.weight_decay);
        self.validation = Some(config.data.validation);
        self.precision = Some(config.train.precision.to_string());
        self.config_md5 = Some(md5(config.to_toml().as_bytes()));
        self.training_md5 = Some(config.training_md5());
        self
    }
}

/// What can be wrong with a metrics file.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The system's error.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file holds less than the checkpoint counts on.
    #[error("{} has {found} bytes, but the checkpoint beside it was made after {expected}: rows are lost, so the run cannot go on; start it again with --overwrite", path.display())]
    Short {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// The length that the checkpoint knows.
        expected: u64,
    },
    /// The file holds other rows than the checkpoint counts on.
    #[error("the first {bytes} bytes of {} are not those that the checkpoint beside it was made after: the file was changed, so the run cannot go on; put it back, or start the run again with --overwrite", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// The length that the checkpoint knows.
        bytes: u64,
    },
    /// The file is no table of this kind.
    #[error("{}: {message}", path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line.
        message: String,
    },
}

/// Appends rows to `metrics.csv`.
pub struct MetricsWriter {
    path: PathBuf,
    file: File,
    position: u64,
    hasher: Md5,
}

/// An end of a metrics file.
pub struct MetricsMark {
    position: u64,
    hasher: Md5,
}

impl MetricsWriter {
    /// A new file, in the place of one that may be there.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(path: &Path) -> Result<Self, MetricsError> {
        let file = File::create(path).map_err(|source| write_error(path, source))?;
        Ok(Self { path: path.to_owned(), file, position: 0, hasher: Md5::new() })
    }

    /// The file of a run that goes on: rows after `bytes` were written after its checkpoint and are cut off. What stands before
    /// must have this MD5, if the checkpoint knows one.
    ///
    /// # Errors
    /// If the file is missing, shorter than that, or was changed; it is then untouched.
    pub fn resume(path: &Path, bytes: u64, md5: Option<&str>) -> Result<Self, MetricsError> {
        let error = |source| write_error(path, source);
        if bytes == 0 {
            return Self::create(path);
        }
        let mut file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(MetricsError::Short { path: path.to_owned(), found: 0, expected: bytes });
            }
            file => file.map_err(error)?,
        };
        let found = file.metadata().map_err(error)?.len();
        if found < bytes {
            return Err(MetricsError::Short { path: path.to_owned(), found, expected: bytes });
        }
        if first_line(&file).map_err(error)? != header::<MetricsRow>() {
            let message = "it has the columns of another version of this program, so the run cannot go on; start it again \
                           with --overwrite";
            return Err(MetricsError::Table { path: path.to_owned(), message: message.to_owned() });
        }
        let mut hasher = Md5::new();
        file.seek(SeekFrom::Start(0)).map_err(error)?;
        io::copy(&mut (&file).take(bytes), &mut hasher).map_err(error)?;
        if md5.is_some_and(|md5| md5 != hexadecimal(hasher.clone())) {
            return Err(MetricsError::Changed { path: path.to_owned(), bytes });
        }
        file.set_len(bytes).map_err(error)?;
        file.seek(SeekFrom::End(0)).map_err(error)?;
        Ok(Self { path: path.to_owned(), file, position: bytes, hasher })
    }

    /// Appends a row, and the header before the first.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn append(&mut self, row: &MetricsRow) -> Result<(), MetricsError> {
        let bytes = to_csv(std::slice::from_ref(row), self.position == 0)
            .map_err(|message| MetricsError::Table { path: self.path.clone(), message })?;
        self.file.write_all(&bytes).map_err(|source| write_error(&self.path, source))?;
        self.position += bytes.len() as u64;
        self.hasher.update(&bytes);
        Ok(())
    }

    /// Where the file ends now, for [`cut`](Self::cut).
    pub fn mark(&self) -> MetricsMark {
        MetricsMark { position: self.position, hasher: self.hasher.clone() }
    }

    /// Cuts off the rows that were appended since a mark.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn cut(&mut self, mark: MetricsMark) -> Result<(), MetricsError> {
        let cut = self.file.set_len(mark.position).and_then(|()| self.file.seek(SeekFrom::Start(mark.position)));
        cut.map_err(|source| write_error(&self.path, source))?;
        (self.position, self.hasher) = (mark.position, mark.hasher);
        Ok(())
    }

    /// Bytes written so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The MD5 of the bytes written so far.
    pub fn md5(&self) -> String {
        hexadecimal(self.hasher.clone())
    }

    /// Waits until all rows are on the disk.
    ///
    /// # Errors
    /// If the system cannot.
    pub fn sync(&self) -> Result<(), MetricsError> {
        files::sync(&self.file).map_err(|source| write_error(&self.path, source))
    }
}

fn write_error(path: &Path, source: io::Error) -> MetricsError {
    MetricsError::File(FileError { action: "write", path: path.to_owned(), source })
}

fn to_csv<R: Serialize>(rows: &[R], header: bool) -> Result<Vec<u8>, String> {
    let mut writer = csv::WriterBuilder::new().has_headers(header).from_writer(Vec::new());
    for row in rows {
        writer.serialize(row).map_err(|error| error.to_string())?;
    }
    writer.into_inner().map_err(|error| error.to_string())
}

/// The line with the names of the columns, as this version writes it.
fn header<R: Serialize + Default>() -> String {
    let table = to_csv(&[R::default()], true).unwrap_or_default();
    String::from_utf8_lossy(&table).lines().next().unwrap_or_default().to_owned()
}

/// Whether a table has a column of this name. A table without rows is read whatever its columns are.
fn has_column(table: &[u8], name: &str) -> bool {
    let headers = csv::Reader::from_reader(table).headers().cloned();
    headers.is_ok_and(|headers| headers.iter().any(|header| header == name))
}

fn first_line(file: &File) -> io::Result<String> {
    let mut line = String::new();
    let mut start = file;
    start.seek(SeekFrom::Start(0))?;
    BufReader::new(start).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

/// The rows of a `metrics.csv`.
///
/// # Errors
/// If the file is missing or has other columns.
pub fn read_metrics(path: &Path) -> Result<Vec<MetricsRow>, MetricsError> {
    read_table(path)
}

/// One row of `thresholds.csv`: what the search for the largest threshold saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are the columns")]
pub struct ThresholdRow {
    pub threshold: f64,
    pub active_knots: usize,
    pub train_accuracy: f64,
}

/// Writes the rows of a table, in the place of one that may be there.
///
/// # Errors
/// If it cannot be written; the old one is then untouched.
pub fn write_table<R: Serialize + Default>(path: &Path, rows: &[R]) -> Result<(), MetricsError> {
    // A table without rows has its header all the same.
    let bytes = if rows.is_empty() { Ok((header::<R>() + "\n").into_bytes()) } else { to_csv(rows, true) };
    let bytes = bytes.map_err(|message| MetricsError::Table { path: path.to_owned(), message })?;
    Ok(write_atomically(path, |file| file.write_all(&bytes))?)
}

/// The rows of a table.
///
/// # Errors
/// If the file is missing or has other columns.
pub fn read_table<R: DeserializeOwned>(path: &Path) -> Result<Vec<R>, MetricsError> {
    let bytes = std::fs::read(path).map_err(|source| FileError { action: "read", path: path.to_owned(), source })?;
    parse_table(path, &bytes)
}

fn parse_table<R: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<Vec<R>, MetricsError> {
    let error = |error: csv::Error| MetricsError::Table { path: path.to_owned(), message: error.to_string() };
    csv::Reader::from_reader(bytes).deserialize().collect::<Result<_, _>>().map_err(error)
}

/// The rows of a `summary.csv`.
///
/// # Errors
/// If the file is missing or has other columns.
pub fn read_summary(path: &Path) -> Result<Vec<SummaryRow>, MetricsError> {
    read_table(path)
}

/// A run's last row is the one that counts.
fn put(rows: &mut Vec<SummaryRow>, row: SummaryRow) {
    match rows.iter_mut().find(|old| old.run == row.run && old.seed == row.seed) {
        Some(old) => *old = row,
        None => rows.push(row),
    }
}

/// One row of a sweep's `diverged.csv`: a run whose loss became infinite or NaN. It is not trained again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are the columns")]
pub struct DivergedRow {
    pub run: String,
    pub seed: u64,
    /// Of the keys of the config that change the training.
    pub training_md5: String,
    pub step: u64,
    /// Counted from 1.
    pub epoch: usize,
    pub loss: f64,
    pub revision: String,
}

/// Puts a row into a summary: in the place of the row of the same run and seed, or after the others.
///
/// # Errors
/// If the file there has other columns, or cannot be written; it is then untouched.
pub fn write_summary(path: &Path, row: &SummaryRow) -> Result<(), MetricsError> {
    let mut rows = if path.exists() { read_summary(path)? } else { Vec::new() };
    put(&mut rows, row.clone());
    write_table(path, &rows)
}

/// Appends rows to the `summary.csv` of a sweep, one a finished run.
pub struct SummaryWriter {
    path: PathBuf,
    file: File,
    rows: Vec<SummaryRow>,
}

impl SummaryWriter {
    /// The file with the rows that it has. A last line that was cut off is no row.
    ///
    /// # Errors
    /// If it cannot be read or written, or is no summary; it is then untouched.
    pub fn open(path: &Path) -> Result<Self, MetricsError> {
        let error = |source| write_error(path, source);
        let mut rows = Vec::new();
        if path.exists() {
            let text = std::fs::read(path).map_err(error)?;
            let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
            let is_summary = match whole {
                0 => header::<SummaryRow>().as_bytes().starts_with(&text),
                _ => ["run", "seed", "epochs", "test_loss"].iter().all(|name| has_column(&text, name)),
            };
            if !is_summary {
                let message = "it is no summary of this program; --out DIR writes elsewhere".to_owned();
                return Err(MetricsError::Table { path: path.to_owned(), message });
            }
            parse_table(path, &text[..whole])?.into_iter().for_each(|row| put(&mut rows, row));
        }
        // Without a cut line, in the columns of this version, and a run in one row.
        write_table(path, &rows)?;
        let file = OpenOptions::new().append(true).open(path).map_err(error)?;
        Ok(Self { path: path.to_owned(), file, rows })
    }

    /// The rows so far.
    pub fn rows(&self) -> &[SummaryRow] {
        &self.rows
    }

    /// Appends a row, on the disk when this returns.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn append(&mut self, row: SummaryRow) -> Result<(), MetricsError> {
        let bytes = to_csv(std::slice::from_ref(&row), false)
            .map_err(|message| MetricsError::Table { path: self.path.clone(), message })?;
        let written = self.file.write_all(&bytes).and_then(|()| files::sync(&self.file));
        written.map_err(|source| write_error(&self.path, source))?;
        put(&mut self.rows, row);
        Ok(())
    }

    /// Keeps these rows only.
    ///
    /// # Errors
    /// If the file cannot be written; it is then untouched.
    pub fn retain(&mut self, keep: impl Fn(&SummaryRow) -> bool) -> Result<(), MetricsError> {
        let rows: Vec<SummaryRow> = self.rows.iter().filter(|row| keep(row)).cloned().collect();
        self.replace(rows)
    }

    /// Puts these rows in the place of all.
    ///
    /// # Errors
    /// If the file cannot be written; it is then untouched.
    pub fn replace(&mut self, rows: Vec<SummaryRow>) -> Result<(), MetricsError> {
        write_table(&self.path, &rows)?;
        self.file =
            OpenOptions::new().append(true).open(&self.path).map_err(|source| write_error(&self.path, source))?;
        self.rows = rows;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn row(epoch: usize) -> MetricsRow {
        MetricsRow {
            run: "a, \"quoted\" name".into(),
            experiment: "mnist".into(),
            dataset: "mnist".into(),
            network: "convnet".into(),
            activation: "relu".into(),
            seed: 1,
            epoch,
            step: epoch as u64 * 10,
            split: Split::Train,
            loss: 0.1 + 0.2,
            accuracy: None,
            regularizer: 0.0,
            lr_weights: 1e-3,
            lr_splines: 1e-3,
            active_knots: Some(3),
            lipschitz_bound_l1: None,
            seconds: 1.5,
            images_per_second: Some(100.0),
            lipschitz_certified_l2: None,
        }
    }

    #[test]
    fn rows_after_the_checkpoint_are_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.csv");
        let mut writer = MetricsWriter::create(&path).unwrap();
        writer.append(&row(1)).unwrap();
        let (known, md5) = (writer.position(), writer.md5());
        writer.append(&row(2)).unwrap();
        drop(writer);
        let mut writer = MetricsWriter::resume(&path, known, Some(&md5)).unwrap();
        writer.append(&row(3)).unwrap();
        assert_eq!(read_metrics(&path).unwrap(), [row(1), row(3)]);
        let error = MetricsWriter::resume(&path, 1 << 20, None).err().unwrap().to_string();
        assert!(error.contains("metrics.csv") && error.contains("--overwrite"), "{error}");
        assert_eq!(writer.md5(), files::md5(&std::fs::read(&path).unwrap()));
    }

    #[test]
    fn metrics_that_were_changed_are_not_gone_on_with() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.csv");
        let mut writer = MetricsWriter::create(&path).unwrap();
        writer.append(&row(1)).unwrap();
        writer.append(&row(2)).unwrap();
        let (known, md5) = (writer.position(), writer.md5());
        let good = std::fs::read(&path).unwrap();
        let mut wrong = good.clone();
        let at = good.len() - 20;
        wrong[at] ^= 1;
        for (bytes, part) in [(wrong, "the file was changed"), (good[..at].to_vec(), "rows are lost")] {
            std::fs::write(&path, &bytes).unwrap();
            let error = MetricsWriter::resume(&path, known, Some(&md5)).err().unwrap().to_string();
            assert!(error.contains(part) && error.contains("metrics.csv"), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
        std::fs::remove_file(&path).unwrap();
        let error = MetricsWriter::resume(&path, known, Some(&md5)).err().unwrap().to_string();
        assert!(error.contains("rows are lost") && !path.exists(), "{error}");
    }

    #[test]
    fn a_foreign_file_is_not_emptied() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("summary.csv");
        for text in ["my only copy, without a line end", "a,b\n1,2\n", "a,b\n1"] {
            std::fs::write(&path, text).unwrap();
            let error = SummaryWriter::open(&path).err().unwrap().to_string();
            assert!(error.contains("summary.csv"), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn rows_of_an_older_version_get_the_new_columns() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("summary.csv");
        let row = |seed| SummaryRow { run: "r".into(), seed, lipschitz_lower_l2: Some(2.0), ..SummaryRow::default() };
        let text = String::from_utf8(to_csv(&[row(0)], true).unwrap()).unwrap();
        let older = |line: &str| line.split(',').take(30).collect::<Vec<_>>().join(",") + "\n";
        std::fs::write(&path, text.lines().map(older).collect::<String>()).unwrap();
        let mut writer = SummaryWriter::open(&path).unwrap();
        writer.append(row(1)).unwrap();
        let rows = read_summary(&path).unwrap();
        assert_eq!(rows, [SummaryRow { lipschitz_lower_l2: None, ..row(0) }, row(1)]);
        assert_eq!((rows[0].precision.as_deref(), rows[0].trained_in()), (None, "f32"));
        // Metrics go on under their own header only.
        let path = directory.path().join("metrics.csv");
        std::fs::write(&path, "run,epoch\nr,1\n").unwrap();
        let error = MetricsWriter::resume(&path, 14, None).err().unwrap().to_string();
        assert!(error.contains("--overwrite"), "{error}");
    }

    #[test]
    fn a_run_replaces_its_own_summary_row() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("summary.csv");
        let text = "run,experiment,dataset,data_origin,network,activation,seed,epochs,parameters,spline_parameters,\
                    protocol,device,threads,revision,train_loss,train_accuracy,validation_accuracy,test_loss,\
                    test_accuracy,knots,active_knots,sparsified_threshold,sparsified_active_knots,\
                    sparsified_train_accuracy,sparsified_test_accuracy,lipschitz_bound_l1,seconds,peak_memory_mb\n\
                    r,mnist,mnist,d,convnet,relu,0,1,2,0,full,cpu,2,x,0.5,,,0.5,90,,,,,,,,1.5,\n";
        std::fs::write(&path, text).unwrap();
        let old = read_summary(&path).unwrap().remove(0);
        write_summary(&path, &SummaryRow { test_loss: 0.25, ..old.clone() }).unwrap();
        write_summary(&path, &SummaryRow { seed: 1, ..old.clone() }).unwrap();
        let rows = read_summary(&path).unwrap();
        assert_eq!((rows.len(), rows[0].test_loss, rows[1].seed), (2, 0.25, 1));
        std::fs::write(&path, "other,columns\n1,2\n").unwrap();
        assert!(write_summary(&path, &old).unwrap_err().to_string().contains("summary.csv"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "other,columns\n1,2\n");
    }
}
