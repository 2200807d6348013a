//! Metrics as CSV: rows that are appended while a run goes on, and one summary row a run.

mod rows;
mod table;
mod writers;

pub use rows::{DivergedRow, FailedRow, MetricsRow, PruningRow, Split, SummaryRow, SummaryRows, ThresholdRow};
pub use table::{MetricsError, read_metrics, read_summary, read_table, write_summary, write_table};
pub use writers::{MetricsMark, MetricsWriter, SummaryWriter, read_whole_rows};

#[cfg(test)]
mod tests;
