//! What a results folder holds: runs, sweeps, and the rows of their summaries.
//!
//! One damaged or foreign file does not hide the others: it is left out, and [`Results::left_out`] says why.

pub mod compare;
mod contents;
mod folder;
pub mod metrics;
mod outputs;
pub mod plot;
pub mod report;
mod rows;
mod run;
pub mod statistics;
pub mod table;

pub use contents::{LeftOut, Results, Sweep};
pub(crate) use outputs::{COMPARISON_HEAD, PAGE_GENERATOR, PAGE_HEAD, PAGE_TITLE};
pub use outputs::{Kind, Output, save};
pub use rows::{Rows, TableRow, parse_rows, read_rows};
pub use run::Run;

#[cfg(test)]
mod tests;
