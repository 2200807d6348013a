//! CSV tables that grow by rows: the metrics of a run, and the summary of a sweep.

use super::table::{header, parse_table, to_csv, write_error};
use super::{MetricsError, MetricsRow, SummaryRow, SummaryRows, write_table};
use crate::files::{self, FileError, hexadecimal};
use md5::{Digest, Md5};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Appends rows to `metrics.csv`.
pub struct MetricsWriter {
    path: PathBuf,
    file: File,
    position: u64,
    hasher: Md5,
}

/// The length of a metrics file at some time, with the state of its digest.
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

/// Appends rows to the `summary.csv` of a sweep, one a finished run.
pub struct SummaryWriter {
    path: PathBuf,
    file: File,
    rows: SummaryRows,
    /// Why the file may end with a part of a row, to which no other must be appended.
    broken: Option<String>,
}

/// The rows of a summary that may be growing, or none if there is no file. A last line that was cut off is no row.
///
/// # Errors
/// If it cannot be read, or is no summary.
pub fn read_whole_rows(path: &Path) -> Result<SummaryRows, MetricsError> {
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(SummaryRows::default()),
        read => read.map_err(|source| FileError { action: "read", path: path.to_owned(), source })?,
    };
    let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    // A header that was cut off is no loss.
    if whole == 0 && !header::<SummaryRow>().as_bytes().starts_with(&text) {
        let message = "it is no summary of this program; --out DIR writes elsewhere".to_owned();
        return Err(MetricsError::Table { path: path.to_owned(), message });
    }
    let rows = parse_table(path, &text[..whole]).map_err(|error| match error {
        MetricsError::Table { path, message } => {
            let message = format!("{message}; remove a line that is no row, and its run is made again");
            MetricsError::Table { path, message }
        }
        other => other,
    })?;
    Ok(rows.into_iter().collect())
}

impl SummaryWriter {
    /// The file with the rows that it has. A last line that was cut off is no row.
    ///
    /// # Errors
    /// If it cannot be read or written, or is no summary; it is then untouched.
    pub fn open(path: &Path) -> Result<Self, MetricsError> {
        let error = |source| write_error(path, source);
        let rows = read_whole_rows(path)?;
        // Without a cut line, in the columns of this version, and a run in one row.
        write_table(path, rows.all())?;
        let file = OpenOptions::new().append(true).open(path).map_err(error)?;
        Ok(Self { path: path.to_owned(), file, rows, broken: None })
    }

    /// The rows so far.
    pub fn rows(&self) -> &SummaryRows {
        &self.rows
    }

    /// Appends a row, on the disk when this returns.
    ///
    /// # Errors
    /// If it cannot be written, as on a full disk: the file then ends with the row before.
    pub fn append(&mut self, row: SummaryRow) -> Result<(), MetricsError> {
        let bytes = to_csv(std::slice::from_ref(&row), false)
            .map_err(|message| MetricsError::Table { path: self.path.clone(), message })?;
        let error = |source| write_error(&self.path, source);
        if let Some(reason) = &self.broken {
            return Err(error(io::Error::other(format!("a row before was written in part: {reason}"))));
        }
        let end = self.file.metadata().map_err(error)?.len();
        if let Err(source) = self.file.write_all(&bytes).and_then(|()| files::sync(&self.file)) {
            // Others go on, and their rows must not follow a part of this one.
            if self.file.set_len(end).is_err() {
                self.broken = Some(source.to_string());
            }
            return Err(error(source));
        }
        self.rows.put(row);
        Ok(())
    }

    /// Keeps these rows only.
    ///
    /// # Errors
    /// If the file cannot be written; it is then untouched.
    pub fn retain(&mut self, keep: impl Fn(&SummaryRow) -> bool) -> Result<(), MetricsError> {
        let rows: Vec<SummaryRow> = self.rows.all().iter().filter(|row| keep(row)).cloned().collect();
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
        (self.rows, self.broken) = (rows.into_iter().collect(), None);
        Ok(())
    }
}

fn first_line(file: &File) -> io::Result<String> {
    let mut line = String::new();
    let mut start = file;
    start.seek(SeekFrom::Start(0))?;
    BufReader::new(start).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}
