//! Comparison and report of a folder of results.

use anyhow::{Result, bail};
use ds_lab::file_names::COMPARISON;
use ds_lab::results::compare::{self, References};
use ds_lab::results::table::Table;
use ds_lab::results::{self, Kind, Results, save};
use ds_lab::{note, outln};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct CompareArgs {
    /// Folder of results; comparison.md and comparison-*.csv are written to it, and by `report` also report.html and figures/.
    #[arg(default_value = "results")]
    pub results: PathBuf,
    #[command(flatten)]
    pub references: ReferenceArgs,
}

#[derive(Debug, clap::Args)]
pub struct ReferenceArgs {
    /// The papers' values [default: results/papers.csv if it is there, else the copy in the program].
    #[arg(long, value_name = "FILE")]
    pub papers: Option<PathBuf>,
    /// Runs of the original's code, from benches/original.py [default: results/original.csv if it is there, else the copy in the
    /// program].
    #[arg(long, value_name = "FILE")]
    pub original: Option<PathBuf>,
}

impl ReferenceArgs {
    /// The files, or their copies in the program.
    ///
    /// # Errors
    /// If a file that was named is missing or wrong.
    pub fn load(&self) -> Result<References> {
        References::load(self.papers.as_deref(), self.original.as_deref())
    }
}

/// The tables of the comparison, printed and as files.
pub fn compare(folder: &Path, args: &ReferenceArgs) -> Result<()> {
    let references = args.load()?;
    let results = read_results(folder, &references)?;
    let tables = compare::tables(&results, &references);
    if tables.is_empty() && results.diverged.is_empty() {
        list_left_out(&results);
        bail!("{} has no run that has ended (no row of a summary.csv): there is nothing to compare", folder.display());
    }
    let saved = compare::outputs(&results, &tables).and_then(|outputs| save(&outputs));
    print(&results, &tables);
    saved?;
    outln!("written to {}", folder.join(COMPARISON).display());
    Ok(())
}

/// The comparison, and the page of figures.
pub fn report(folder: &Path, args: &ReferenceArgs) -> Result<()> {
    let references = args.load()?;
    let mut results = read_results(folder, &references)?;
    let tables = compare::tables(&results, &references);
    let shown: Vec<Table> = tables.iter().map(|(_, table)| known(table)).collect();
    let mut outputs = results::report::outputs(&mut results, &shown)?;
    if !tables.is_empty() || !results.diverged.is_empty() {
        outputs.extend(compare::outputs(&results, &tables)?);
    }
    let saved = save(&outputs);
    print(&results, &tables);
    saved?;
    for output in outputs.iter().filter(|output| matches!(output.kind, Kind::Comparison | Kind::Page)) {
        outln!("written to {}", output.path.display());
    }
    Ok(())
}

fn read_results(folder: &Path, references: &References) -> Result<Results> {
    let mut results = Results::read(folder)?;
    results.left_out.extend(references.left_out.iter().cloned());
    Ok(results)
}

/// Prints tables. Files are saved before, so that a closed pipe does not prevent that.
fn print(results: &Results, tables: &[(&'static str, Table)]) {
    for table in tables.iter().map(|(_, table)| table).chain(&results.diverged_table()) {
        outln!("{}", known(table));
    }
    list_left_out(results);
}

fn list_left_out(results: &Results) {
    for left_out in &results.left_out {
        note!("left out: {left_out}");
    }
}

/// A table without the rows that have neither our value nor the paper's.
fn known(table: &Table) -> Table {
    let column = |name: &str| table.columns.iter().position(|column| column == name);
    let (Some(ours), Some(papers)) = (column("ours"), column("paper's")) else { return table.clone() };
    let is_known = |row: &&Vec<String>| [ours, papers].iter().any(|&k| row.get(k).is_some_and(|cell| !cell.is_empty()));
    let rows: Vec<_> = table.rows.iter().filter(is_known).cloned().collect();
    let left_out = table.rows.len() - rows.len();
    let note = match left_out {
        0 => table.note.clone(),
        _ => format!("{} {left_out} rows with neither value are in comparison.md.", table.note),
    };
    Table { rows, note, ..table.clone() }
}
