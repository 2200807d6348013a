//! A table of a sweep on a disk that is full for a while: rows before and after are whole.
#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

use ds_lab::results::metrics::{SummaryRow, SummaryWriter, read_summary};

/// Lets files of this process grow to so many bytes.
fn limit(bytes: u64) {
    let mut both = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a value of the type that these calls read and write.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_FSIZE, &mut both), 0);
        both.rlim_cur = bytes.min(both.rlim_max);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &both), 0);
        // A write beyond the limit is to fail, and not to end the process.
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

#[test]
fn a_row_that_was_written_in_part_is_taken_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("summary.csv");
    let row = |seed: u64| SummaryRow { run: "run".to_owned(), seed, ..SummaryRow::default() };
    let mut writer = SummaryWriter::open(&path).unwrap();
    writer.append(row(0)).unwrap();
    let length = std::fs::metadata(&path).unwrap().len();
    limit(length + 20);
    let error = writer.append(row(1)).unwrap_err();
    limit(u64::MAX);
    assert!(error.to_string().contains("summary.csv"), "{error}");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), length);
    writer.append(row(2)).unwrap();
    let seeds = |rows: &[SummaryRow]| rows.iter().map(|row| row.seed).collect::<Vec<_>>();
    assert_eq!(seeds(&read_summary(&path).unwrap()), [0, 2]);
    assert_eq!(seeds(SummaryWriter::open(&path).unwrap().rows().all()), [0, 2]);
}
