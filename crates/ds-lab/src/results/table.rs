//! Tables for people: as text, Markdown and CSV.

use std::fmt::Write;

/// A table with a title, a note on what it says, and cells of text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// The title.
    pub title: String,
    /// How to read the table.
    pub note: String,
    /// The columns' names.
    pub columns: Vec<String>,
    /// Rows with a cell a column.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(title: &str, note: &str, columns: &[&str]) -> Self {
        let columns = columns.iter().map(|name| (*name).to_owned()).collect();
        Self { title: title.to_owned(), note: note.to_owned(), columns, rows: Vec::new() }
    }

    /// As a Markdown section.
    pub fn to_markdown(&self) -> String {
        let mut text = format!("## {}\n\n", self.title);
        if !self.note.is_empty() {
            let _ = writeln!(text, "{}\n", self.note);
        }
        let row = |cells: &[String]| {
            let cells = cells.iter().map(|cell| printable(cell).replace('|', "\\|"));
            format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
        };
        text += &row(&self.columns);
        text += &format!("|{}\n", " --- |".repeat(self.columns.len()));
        for cells in &self.rows {
            text += &row(cells);
        }
        text
    }

    /// As CSV, with a header.
    ///
    /// # Errors
    /// If a row has another number of cells than there are columns.
    pub fn to_csv(&self) -> Result<Vec<u8>, csv::Error> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(&self.columns)?;
        for row in &self.rows {
            writer.write_record(row)?;
        }
        writer.into_inner().map_err(|error| error.into_error().into())
    }
}

/// A cell on one line, without characters that control a terminal.
fn printable(cell: &str) -> String {
    cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// In columns for a terminal.
impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = |k: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(k)).chain(self.columns.get(k));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        writeln!(f, "{}", self.title)?;
        for row in std::iter::once(&self.columns).chain(&self.rows) {
            let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{:width$}", printable(cell)));
            writeln!(f, "  {}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        if self.note.is_empty() { Ok(()) } else { writeln!(f, "  {}", self.note) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn three_forms() {
        let mut table = Table::new("Title", "a note", &["a", "long name"]);
        table.rows.push(vec!["x|y, z".to_owned(), "1".to_owned()]);
        assert_eq!(table.to_markdown(), "## Title\n\na note\n\n| a | long name |\n| --- | --- |\n| x\\|y, z | 1 |\n");
        assert_eq!(String::from_utf8(table.to_csv().unwrap()).unwrap(), "a,long name\n\"x|y, z\",1\n");
        assert_eq!(table.to_string(), "Title\n  a       long name\n  x|y, z  1\n  a note\n");
        table.rows[0][0] = "a\n\u{1b}b".to_owned();
        assert!(table.to_markdown().contains("| a  b | 1 |") && table.to_string().contains("a  b "), "{table}");
        table.rows.push(vec!["alone".to_owned()]);
        assert!(table.to_csv().is_err());
    }
}
