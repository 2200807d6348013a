//! CSV tables that are read and written as a whole.

use super::{MetricsRow, SummaryRow};
use crate::files::{FileError, write_atomically};
use serde::{Serialize, de::DeserializeOwned};
use std::io;
use std::path::{Path, PathBuf};

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

pub(super) fn write_error(path: &Path, source: io::Error) -> MetricsError {
    MetricsError::File(FileError { action: "write", path: path.to_owned(), source })
}

pub(super) fn to_csv<R: Serialize>(rows: &[R], header: bool) -> Result<Vec<u8>, String> {
    let mut writer = csv::WriterBuilder::new().has_headers(header).from_writer(Vec::new());
    for row in rows {
        writer.serialize(row).map_err(|error| error.to_string())?;
    }
    writer.into_inner().map_err(|error| error.to_string())
}

/// The line with the names of the columns, as this version writes it.
pub(super) fn header<R: Serialize + Default>() -> String {
    let table = to_csv(&[R::default()], true).unwrap_or_default();
    String::from_utf8_lossy(&table).lines().next().unwrap_or_default().to_owned()
}

/// The rows of a `metrics.csv`.
///
/// # Errors
/// If the file is missing or has other columns.
pub fn read_metrics(path: &Path) -> Result<Vec<MetricsRow>, MetricsError> {
    read_table(path)
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
pub fn read_table<R: Serialize + DeserializeOwned + Default>(path: &Path) -> Result<Vec<R>, MetricsError> {
    let bytes = std::fs::read(path).map_err(|source| FileError { action: "read", path: path.to_owned(), source })?;
    parse_table(path, &bytes)
}

pub(super) fn parse_table<R>(path: &Path, bytes: &[u8]) -> Result<Vec<R>, MetricsError>
where
    R: Serialize + DeserializeOwned + Default,
{
    let error = |error: csv::Error| MetricsError::Table { path: path.to_owned(), message: error.to_string() };
    let mut reader = csv::Reader::from_reader(bytes);
    let columns = reader.headers().map_err(error)?.clone();
    let rows: Vec<R> = reader.deserialize().collect::<Result<_, _>>().map_err(error)?;
    // Without a row nothing has compared the columns. An older version has fewer.
    if rows.is_empty() && !columns.iter().zip(header::<R>().split(',')).all(|(found, ours)| found == ours) {
        let found = columns.iter().collect::<Vec<_>>().join(",");
        let message = format!("it has other columns than a table of this program: {found}");
        return Err(MetricsError::Table { path: path.to_owned(), message });
    }
    Ok(rows)
}

/// The rows of a `summary.csv`.
///
/// # Errors
/// If the file is missing or has other columns.
pub fn read_summary(path: &Path) -> Result<Vec<SummaryRow>, MetricsError> {
    read_table(path)
}

/// Puts a row into a summary: in the place of the row of the same run, or after the others. Runs of different experiments or data sets
/// may have one name and seed, as in the summary of all results.
///
/// # Errors
/// If the file there has other columns, or cannot be written; it is then untouched.
pub fn write_summary(path: &Path, row: &SummaryRow) -> Result<(), MetricsError> {
    let mut rows = if path.exists() { read_summary(path)? } else { Vec::new() };
    match rows.iter_mut().find(|old| old.is_of_run_of(row)) {
        Some(old) => *old = row.clone(),
        None => rows.push(row.clone()),
    }
    write_table(path, &rows)
}
