//! Rows of CSV tables, read one by one: a damaged row does not hide the others.

use crate::results::metrics::{DivergedRow, MetricsRow, PruningRow, SummaryRow, ThresholdRow};
use crate::run::bounds::Bounds;
use crate::run::local_bounds::LocalBoundsRow;
use csv::{ErrorKind, StringRecord};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// A row of a table with a fixed header.
pub trait TableRow: DeserializeOwned {
    /// The number of columns in the first version of the table; later versions added columns.
    const FIRST_VERSION: usize;

    /// A column that a later version put between others.
    const INSERTED: Option<&'static str> = None;

    /// Whether the table is written by this program, which ends each row with a line break.
    const GENERATED: bool = true;

    /// The columns, in order.
    fn columns() -> Vec<String>;

    /// What cannot be in a row that is whole.
    ///
    /// # Errors
    /// The column and its value.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// The rows of a table.
#[derive(Debug)]
pub struct Rows<R> {
    /// The rows that are whole, with the numbers of their lines.
    pub whole: Vec<(usize, R)>,
    /// What is wrong with the first of the others.
    wrong: Vec<String>,
    /// The number of rows that are wrong.
    wrong_count: usize,
}

/// A file above this size is no table of this program.
const LARGEST_FILE: u64 = 64 << 20;
/// A header above this size is not one of this program.
const LARGEST_HEADER: u64 = 64 << 10;

impl<R> Rows<R> {
    /// What is wrong with rows that are not whole, in one text; `None` if all are whole.
    pub fn complaint(&self) -> Option<String> {
        let more = self.wrong_count - self.wrong.len();
        let and_more = if more > 0 { format!("; and {more} more rows") } else { String::new() };
        (self.wrong_count > 0).then(|| self.wrong.join("; ") + &and_more)
    }

    /// Counts rows that `objection` objects to as wrong.
    pub fn reject(&mut self, objection: impl Fn(&R) -> Option<String>) {
        for (line, row) in std::mem::take(&mut self.whole) {
            match objection(&row) {
                Some(text) => self.add_wrong(line, &text),
                None => self.whole.push((line, row)),
            }
        }
    }

    fn add_wrong(&mut self, line: usize, text: &str) {
        const SHOWN: usize = 3;
        self.wrong_count += 1;
        if self.wrong.len() < SHOWN {
            self.wrong.push(format!("line {line}: {text}"));
        }
    }
}

/// Reads the rows of a file.
///
/// # Errors
/// If the file is unreadable or has another header, as a text without the file's name.
pub fn read_rows<R: TableRow>(path: &Path) -> Result<Rows<R>, String> {
    let error = |error: io::Error| format!("cannot be read: {error}");
    let metadata = std::fs::metadata(path).map_err(error)?;
    if !metadata.is_file() {
        return Err(if metadata.is_dir() { "is a folder" } else { "is not a regular file" }.to_owned());
    }
    let mut file = File::open(path).map_err(error)?;
    let mut bytes = Vec::new();
    (&mut file).take(LARGEST_HEADER).read_to_end(&mut bytes).map_err(error)?;
    header::<R>(&bytes)?;
    (&mut file).take(LARGEST_FILE).read_to_end(&mut bytes).map_err(error)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(format!("is larger than {} MB", LARGEST_FILE >> 20));
    }
    parse_rows(&bytes)
}

/// Reads the rows of a table in memory.
///
/// # Errors
/// If the header is another one.
pub fn parse_rows<R: TableRow>(bytes: &[u8]) -> Result<Rows<R>, String> {
    let header = header::<R>(bytes)?;
    let mut rows = Rows { whole: Vec::new(), wrong: Vec::new(), wrong_count: 0 };
    let mut rest = &bytes[first_line(bytes).len()..];
    let mut number = 1;
    while !rest.is_empty() {
        let line = first_line(rest);
        rest = &rest[line.len()..];
        number += 1;
        if line.trim_ascii().is_empty() {
            continue;
        }
        if R::GENERATED && !line.ends_with(b"\n") {
            rows.add_wrong(number, "is cut off");
            continue;
        }
        let error = match row(line, &header) {
            Ok(row) => {
                rows.whole.push((number, row));
                continue;
            }
            Err(error) => error,
        };
        // A quoted cell may have line breaks in it; a stray quotation mark takes no other row with it.
        let following = following_of_open_quote(line, rest);
        match row(&[line, following].concat(), &header) {
            Ok(row) if !following.is_empty() => {
                rows.whole.push((number, row));
                rest = &rest[following.len()..];
                number += following.split_inclusive(|&byte| byte == b'\n').count();
            }
            _ => rows.add_wrong(number, &error),
        }
    }
    Ok(rows)
}

/// The first line, with its line break.
fn first_line(bytes: &[u8]) -> &[u8] {
    bytes.split_inclusive(|&byte| byte == b'\n').next().unwrap_or_default()
}

/// The lines of `rest` that end the quotation that `line` leaves open; none if it leaves none open.
fn following_of_open_quote<'a>(line: &[u8], rest: &'a [u8]) -> &'a [u8] {
    let has_odd_quotes = |line: &[u8]| line.iter().filter(|&&byte| byte == b'"').count() % 2 == 1;
    if !has_odd_quotes(line) {
        return &[];
    }
    let mut end = 0;
    for line in rest.split_inclusive(|&byte| byte == b'\n') {
        end += line.len();
        if has_odd_quotes(line) {
            return &rest[..end];
        }
    }
    &[]
}

/// The header of a table, if it is one of R's.
fn header<R: TableRow>(bytes: &[u8]) -> Result<StringRecord, String> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let line = first_line(bytes);
    if line.trim_ascii().is_empty() {
        return Err(if bytes.is_empty() { "is empty" } else { "has no header" }.to_owned());
    }
    let found = record(line).map_err(|error| format!("has no header: {error}"))?;
    let columns = R::columns();
    let older: Vec<String> = columns.iter().filter(|name| Some(name.as_str()) != R::INSERTED).cloned().collect();
    let inserted = columns.len() - older.len();
    let mut fit = 0;
    for (version, least) in [(&columns, R::FIRST_VERSION + inserted), (&older, R::FIRST_VERSION)] {
        let same = found.iter().zip(version).take_while(|(a, b)| a == b).count();
        // Columns of a newer version may follow.
        let is_known = |name: &str| columns.iter().any(|column| column == name);
        if same >= least && !found.iter().skip(same).any(is_known) {
            return Ok(found);
        }
        fit = fit.max(same);
    }
    let expected = columns.get(fit).map_or("no column that is there already", String::as_str);
    Err(match found.get(fit) {
        Some(name) => format!("has other columns: column {} is `{name}`, expected `{expected}`", fit + 1),
        None => format!("lacks columns: `{expected}` and those after it"),
    })
}

/// The only record of a text.
fn record(text: &[u8]) -> Result<StringRecord, String> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .buffer_capacity(text.len().max(1))
        .from_reader(text);
    let mut records = reader.records();
    let record = records.next().transpose().map_err(|error| match error.kind() {
        ErrorKind::Utf8 { .. } => "is not UTF-8".to_owned(),
        _ => error.to_string(),
    })?;
    match (record, records.next()) {
        (Some(record), None) => Ok(record),
        _ => Err("is not one row".to_owned()),
    }
}

fn row<R: TableRow>(text: &[u8], header: &StringRecord) -> Result<R, String> {
    let record = record(text)?;
    if record.len() != header.len() {
        return Err(format!("has {} cells, the header has {}", record.len(), header.len()));
    }
    let row: R = record.deserialize(Some(header)).map_err(|error| match error.kind() {
        ErrorKind::Deserialize { err, .. } => {
            let cell = err.field().and_then(|k| usize::try_from(k).ok());
            match cell.and_then(|k| Some((header.get(k)?, record.get(k)?))) {
                Some((column, value)) => format!("`{column}` is `{value}`: {}", err.kind()),
                None => err.kind().to_string(),
            }
        }
        _ => error.to_string(),
    })?;
    row.check()?;
    Ok(row)
}

/// The names of a row's fields.
fn fields<R: Serialize>(row: &R) -> Vec<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let text = writer.serialize(row).ok().and_then(|()| writer.into_inner().ok()).unwrap_or_default();
    let names = record(first_line(&text));
    names.map(|names| names.iter().map(str::to_owned).collect()).unwrap_or_default()
}

fn percentage(column: &str, value: Option<f64>) -> Result<(), String> {
    match value {
        Some(v) if !(0.0..=100.0).contains(&v) => Err(format!("`{column}` is {v}, expected 0 to 100")),
        _ => Ok(()),
    }
}

impl TableRow for SummaryRow {
    const FIRST_VERSION: usize = 28;

    fn columns() -> Vec<String> {
        fields(&Self::default())
    }

    fn check(&self) -> Result<(), String> {
        for (column, value) in [("train_loss", self.train_loss), ("test_loss", self.test_loss)] {
            if !value.is_finite() {
                return Err(format!("`{column}` is {value}: the training diverged"));
            }
        }
        if !self.seconds.is_finite() || self.seconds < 0.0 {
            return Err(format!("`seconds` is {}", self.seconds));
        }
        for (column, value) in [
            ("train_accuracy", self.train_accuracy),
            ("validation_accuracy", self.validation_accuracy),
            ("test_accuracy", self.test_accuracy),
            ("sparsified_train_accuracy", self.sparsified_train_accuracy),
            ("sparsified_test_accuracy", self.sparsified_test_accuracy),
            ("refit_train_accuracy", self.refit_train_accuracy),
            ("refit_validation_accuracy", self.refit_validation_accuracy),
            ("refit_test_accuracy", self.refit_test_accuracy),
            ("finetuned_train_accuracy", self.finetuned_train_accuracy),
            ("finetuned_test_accuracy", self.finetuned_test_accuracy),
            ("certified_accuracy_1", self.certified_accuracy_1),
            ("certified_accuracy_2", self.certified_accuracy_2),
            ("certified_accuracy_3", self.certified_accuracy_3),
            ("certified_accuracy_4", self.certified_accuracy_4),
            ("certified_accuracy_5", self.certified_accuracy_5),
        ] {
            percentage(column, value)?;
        }
        let all = [
            ("spline_parameters", Some(self.spline_parameters), "parameters", Some(self.parameters)),
            ("active_knots", self.active_knots, "knots", self.knots),
            ("sparsified_active_knots", self.sparsified_active_knots, "knots", self.knots),
            ("refit_knots", self.refit_knots, "knots", self.knots),
            ("finetuned_knots", self.finetuned_knots, "refit_knots", self.refit_knots),
            ("reached_knots", self.reached_knots, "knots", self.knots),
        ];
        for (column, part, whole, total) in all {
            if let Some((part, total)) = part.zip(total).filter(|(part, total)| part > total) {
                return Err(format!("`{column}` is {part}, more than `{whole}`, {total}"));
            }
        }
        Ok(())
    }
}

impl TableRow for MetricsRow {
    const FIRST_VERSION: usize = 18;
    const INSERTED: Option<&'static str> = Some("lipschitz_certified_l2");

    fn columns() -> Vec<String> {
        fields(&Self::default())
    }

    fn check(&self) -> Result<(), String> {
        percentage("accuracy", self.accuracy)
    }
}

impl TableRow for ThresholdRow {
    const FIRST_VERSION: usize = 3;

    fn columns() -> Vec<String> {
        fields(&Self { threshold: 0.0, active_knots: 0, train_accuracy: 0.0 })
    }

    fn check(&self) -> Result<(), String> {
        if !self.threshold.is_finite() || self.threshold < 0.0 {
            return Err(format!("`threshold` is {}", self.threshold));
        }
        percentage("train_accuracy", Some(self.train_accuracy))
    }
}

impl TableRow for PruningRow {
    const FIRST_VERSION: usize = 5;

    fn columns() -> Vec<String> {
        fields(&Self::default())
    }

    fn check(&self) -> Result<(), String> {
        percentage("train_accuracy", self.train_accuracy)?;
        percentage("validation_accuracy", self.validation_accuracy)?;
        percentage("test_accuracy", self.test_accuracy)
    }
}

impl TableRow for Bounds {
    const FIRST_VERSION: usize = 7;

    fn columns() -> Vec<String> {
        fields(&Self {
            lower_l2: 0.0,
            certified_l2: 0.0,
            papers_l2: None,
            papers_l1: None,
            lower_seconds: 0.0,
            certified_seconds: 0.0,
            papers_seconds: 0.0,
            exact_l2: None,
            pieces: None,
            exact_seconds: None,
            attained_l2: None,
        })
    }
}

impl TableRow for LocalBoundsRow {
    const FIRST_VERSION: usize = 6;

    fn columns() -> Vec<String> {
        fields(&Self::default())
    }
}

impl TableRow for DivergedRow {
    const FIRST_VERSION: usize = 7;

    fn columns() -> Vec<String> {
        fields(&Self::default())
    }
}
