//! The files that results are compared with.

use super::original::Training;
use super::papers::PaperRow;
use crate::results::{LeftOut, Rows, TableRow, parse_rows, read_rows};
use anyhow::{Result, anyhow};
use std::path::Path;

/// The papers' values, as they were when the program was built.
const PAPERS: &str = include_str!("papers.csv");
/// Trainings of the original's code, as they were when the program was built.
const ORIGINAL: &str = include_str!("original.csv");

/// What results are compared with.
#[derive(Debug, Clone)]
pub struct References {
    /// Values of the papers.
    pub(super) papers: Vec<PaperRow>,
    /// Trainings by the original's code and by this one, from `benches/original.py`.
    pub(super) original: Vec<Training>,
    /// Files in the default places, or rows of them, that are left out.
    pub left_out: Vec<LeftOut>,
}

impl References {
    /// Reads the files that are given. For others it is `results/papers.csv` and `results/original.csv` below the current directory,
    /// and where these are not there or not readable the copies in the program.
    ///
    /// # Errors
    /// If a file that is given is missing or wrong.
    pub fn load(papers: Option<&Path>, original: Option<&Path>) -> Result<Self> {
        let mut left_out = Vec::new();
        let papers = table(papers, "results/papers.csv", PAPERS, &mut left_out)?;
        let original = table(original, "results/original.csv", ORIGINAL, &mut left_out)?;
        Ok(Self { papers, original, left_out })
    }
}

fn table<R: TableRow>(
    given: Option<&Path>,
    usual: &str,
    built_in: &str,
    left_out: &mut Vec<LeftOut>,
) -> Result<Vec<R>> {
    if let Some(path) = given {
        let rows = read_rows(path).and_then(|rows: Rows<R>| match rows.complaint() {
            Some(complaint) => Err(complaint),
            None => Ok(rows),
        });
        return Ok(whole(rows.map_err(|reason| anyhow!("{}: {reason}", path.display()))?));
    }
    let usual = Path::new(usual);
    if std::fs::symlink_metadata(usual).is_ok() {
        match read_rows(usual) {
            Ok(rows) => {
                left_out.extend(rows.complaint().map(|complaint| LeftOut::new(usual, &complaint)));
                return Ok(whole(rows));
            }
            Err(reason) => {
                left_out.push(LeftOut::new(usual, &format!("{reason}; the copy in the program is used instead")));
            }
        }
    }
    let rows = parse_rows(built_in.as_bytes());
    Ok(whole(rows.map_err(|reason| anyhow!("the copy of {} in the program {reason}", usual.display()))?))
}

fn whole<R>(rows: Rows<R>) -> Vec<R> {
    rows.whole.into_iter().map(|(_, row)| row).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::results::compare::papers::Provenance;

    #[test]
    fn the_copies_in_the_program_are_whole() {
        let papers = parse_rows::<PaperRow>(PAPERS.as_bytes()).unwrap();
        let original = parse_rows::<Training>(ORIGINAL.as_bytes()).unwrap();
        assert_eq!((papers.complaint(), original.complaint()), (None, None));
        let papers = whole(papers);
        assert!(papers.iter().any(|row| row.value == Some(98.54) && row.provenance == Provenance::Unverified));
        assert!(papers.iter().all(|row| row.provenance != Provenance::Verified));
        assert!(original.whole.len() > 50);
    }
}
