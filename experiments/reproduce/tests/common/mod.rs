//! What the tests of the program share.
#![allow(dead_code, clippy::unwrap_used, reason = "not every test uses all of it")]

use ds_lab::results::metrics::{MetricsRow, SummaryRow, read_metrics, read_summary};
use std::path::Path;
use std::process::{Command, Output};

/// The program, started in the root of the project.
pub fn reproduce() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reproduce"));
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
    command
}

/// What a program wrote to both of its outputs.
pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The rows of a summary without times.
pub fn summary(path: &Path) -> Vec<SummaryRow> {
    let without_times = |row| SummaryRow {
        seconds: 0.0,
        peak_memory_mb: None,
        lower_seconds: None,
        certified_seconds: None,
        papers_seconds: None,
        exact_seconds: None,
        ..row
    };
    read_summary(path).unwrap().into_iter().map(without_times).collect()
}

/// The rows of a run's metrics without times.
pub fn metrics(path: &Path) -> Vec<MetricsRow> {
    let without_times = |row| MetricsRow { seconds: 0.0, images_per_second: None, ..row };
    read_metrics(path).unwrap().into_iter().map(without_times).collect()
}

/// Compares rows, and shows the first one that differs.
pub fn assert_rows<R: PartialEq + std::fmt::Debug>(ours: &[R], expected: &[R], when: &str) {
    assert_eq!(ours.len(), expected.len(), "{when}: number of rows");
    for (k, (ours, expected)) in ours.iter().zip(expected).enumerate() {
        assert!(ours == expected, "{when}: row {k} is\n{ours:?}, expected\n{expected:?}");
    }
}
