#![allow(clippy::unwrap_used)]
use super::metrics::SummaryRow;
use super::*;
use crate::config::Config;
use crate::results::compare::{self, References};
use crate::results::metrics::{MetricsRow, write_table};
use std::fs;
use std::path::PathBuf;

fn row(run: &str, seed: u64) -> SummaryRow {
    SummaryRow {
        run: run.into(),
        experiment: "area2d".into(),
        dataset: "circle".into(),
        network: "area".into(),
        activation: "relu".into(),
        seed,
        epochs: 5,
        protocol: "full".into(),
        train_loss: seed as f64 + 0.25,
        test_accuracy: Some(90.0),
        ..SummaryRow::default()
    }
}

type RunAndSeed = (String, u64);

struct Folder(tempfile::TempDir);

impl Folder {
    /// A sweep `whole` with three runs.
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("whole/sweep.toml", "");
        folder.write_rows("whole/summary.csv", &[row("a", 0), row("a", 1), row("b", 0)]);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), bytes).unwrap();
    }

    fn write_rows(&self, name: &str, rows: &[SummaryRow]) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        write_table(&self.path(name), rows).unwrap();
    }

    /// A run with its config, one row of metrics and its summary.
    fn run(&self, name: &str, more: &str) -> Config {
        let config = Config::from_toml(&format!("experiment = \"area2d\"\nname = \"{name}\"\n{more}")).unwrap();
        self.write(&format!("{name}/config.toml"), config.to_toml());
        let metrics = MetricsRow { run: name.into(), epoch: 1, ..MetricsRow::default() };
        write_table(&self.path(&format!("{name}/metrics.csv")), &[metrics]).unwrap();
        self.write_rows(&format!("{name}/summary.csv"), &[row(name, 0).with_settings(&config)]);
        config
    }

    fn read(&self) -> Results {
        Results::read(self.0.path()).unwrap()
    }

    /// (run, seed) of all rows, and the files with the reasons why they are left out.
    fn found(&self) -> (Vec<RunAndSeed>, Vec<(String, String)>) {
        let results = self.read();
        let table = results.left_out_table().unwrap_or_default();
        let left_out = table.rows.into_iter().map(|row| (row[0].clone(), row[1].clone())).collect();
        (results.rows.into_iter().map(|row| (row.run, row.seed)).collect(), left_out)
    }
}

fn whole() -> Vec<RunAndSeed> {
    vec![("a".to_owned(), 0), ("a".to_owned(), 1), ("b".to_owned(), 0)]
}

#[test]
fn one_damaged_or_foreign_file_hides_no_other() {
    let folder = Folder::new();
    assert_eq!(folder.found(), (whole(), vec![]));
    let bytes = fs::read(folder.path("whole/summary.csv")).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let cut = |column: &str| text.split_once(&format!(",{column},")).unwrap().0.as_bytes();
    for (bytes, reason) in [
        (&b""[..], "is empty"),
        (&b"\n\n"[..], "has no header"),
        (&b"name,age\nx,1\n"[..], "column 1 is `name`, expected `run`"),
        (cut("threads"), "lacks columns: `threads`"),
        (&cut("threads")[..100], "column 11 is `proto`, expected `protocol`"),
        (&b"\xff\xfe\x00run"[..], "is not UTF-8"),
        (&b"\x1f\x8b\x08\x00binary\x00"[..], "is not UTF-8"),
        (&b"<!DOCTYPE html>\n<html></html>\n"[..], "column 1 is `<!DOCTYPE html>`"),
    ] {
        folder.write("damaged/summary.csv", bytes);
        let (rows, left_out) = folder.found();
        assert_eq!(rows, whole());
        assert_eq!(left_out.len(), 1, "{left_out:?}");
        assert!(left_out[0].0 == "damaged/summary.csv" && left_out[0].1.contains(reason), "{left_out:?} {reason}");
    }
    fs::remove_file(folder.path("damaged/summary.csv")).unwrap();
    fs::create_dir(folder.path("damaged/summary.csv")).unwrap();
    assert_eq!(folder.found(), (whole(), vec![("damaged/summary.csv".to_owned(), "is a folder".to_owned())]));
}

#[test]
fn damaged_rows_hide_no_other_row() {
    let folder = Folder::new();
    let text = fs::read_to_string(folder.path("whole/summary.csv")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let with_line = |k: usize, line: &str| {
        let mut lines = lines.clone();
        lines[k] = line;
        lines.join("\n") + "\n"
    };
    let broken = with_line(2, &lines[2].replace("1.25", "1.25x"));
    assert_ne!(broken, text);
    for (text, reason) in [
        (with_line(2, "a,area2d"), "line 3: has 2 cells, the header has"),
        (broken, "line 3: `train_loss` is `1.25x`"),
        (with_line(2, &lines[2].replace("1.25", "NaN")), "line 3: `train_loss` is NaN: the training diverged"),
        (with_line(2, &lines[2].replace("90", "900")), "line 3: `test_accuracy` is 900"),
        (with_line(2, &format!("\"{}", lines[2])), "line 3: has 1 cells"),
        (with_line(2, &lines[2].replace(",area,", ",\"area,")), "line 3: has"),
        (with_line(2, &format!("{}{}", lines[2], lines[2])), "the header has"),
        (with_line(2, "\0\0\0\0\0\0"), "line 3: has 1 cells"),
    ] {
        folder.write("whole/summary.csv", &text);
        let (rows, left_out) = folder.found();
        assert_eq!(rows, [("a".to_owned(), 0), ("b".to_owned(), 0)], "{text}");
        assert!(left_out.len() == 1 && left_out[0].0 == "whole/summary.csv", "{left_out:?}");
        assert!(left_out[0].1.contains(reason), "{left_out:?} {reason}");
    }
    // A last line without its end was cut off, wherever.
    folder.write("whole/summary.csv", text.trim_end());
    let (rows, left_out) = folder.found();
    assert_eq!(rows.len(), 2);
    assert!(left_out[0].1.contains("line 4: is cut off"), "{left_out:?}");
    // Blank lines, line breaks of Windows and a byte order mark are no damage, nor are more columns at the end.
    folder.write("whole/summary.csv", format!("\u{feff}{}\r\n\r\n", text.replace('\n', "\r\n")));
    assert_eq!(folder.found(), (whole(), vec![]));
    let newer = lines.iter().enumerate().map(|(k, line)| format!("{line},{}\n", if k == 0 { "novelty" } else { "1" }));
    folder.write("whole/summary.csv", newer.collect::<String>());
    assert_eq!(folder.found(), (whole(), vec![]));
    // Columns that came later may be missing at the end, but none in between.
    let columns = |keep: &dyn Fn(usize) -> bool| -> String {
        let kept = |line: &str| {
            let cells = line.split(',').enumerate().filter(|(k, _)| keep(*k)).map(|(_, cell)| cell);
            cells.collect::<Vec<_>>().join(",") + "\n"
        };
        lines.iter().map(|line| kept(line)).collect()
    };
    folder.write("whole/summary.csv", columns(&|k| k < 30));
    assert_eq!(folder.found(), (whole(), vec![]));
    folder.write("whole/summary.csv", columns(&|k| k != 30));
    assert!(Results::read(folder.0.path()).unwrap_err().to_string().contains("column 31 is `norm`"));
    // Many damaged rows are one row of the table.
    folder.write("whole/summary.csv", text + &"x\n".repeat(1000));
    let (rows, left_out) = folder.found();
    assert!(rows == whole() && left_out.len() == 1 && left_out[0].1.ends_with("and 997 more rows"), "{left_out:?}");
}

#[test]
fn quoted_cells_may_have_line_breaks() {
    let folder = Folder::new();
    folder.write_rows("whole/summary.csv", &[row("two\nlines \"quoted\"", 0), row("b", 0)]);
    let (rows, left_out) = folder.found();
    assert_eq!((rows.len(), left_out.len()), (2, 0), "{left_out:?}");
}

#[test]
fn rows_of_another_config_or_run_are_left_out() {
    let folder = Folder::new();
    let config = folder.run("r", "");
    let (rows, left_out) = folder.found();
    assert_eq!((rows.len(), left_out.len()), (4, 0), "{left_out:?}");
    let other = Config::from_toml("experiment = \"area2d\"\nname = \"r\"\nregularization.lambda = 0.5").unwrap();
    for (row, reason) in [
        (row("r", 0).with_settings(&other), "line 2: its config_md5"),
        (row("r", 3).with_settings(&config), "line 2: is of the run r, seed 3"),
        (SummaryRow { config_md5: None, ..row("s", 0) }, "line 2: is of the run s, seed 0"),
    ] {
        folder.write_rows("r/summary.csv", &[row]);
        let (rows, left_out) = folder.found();
        assert_eq!(rows, [("a".to_owned(), 0), ("a".to_owned(), 1), ("b".to_owned(), 0)]);
        assert!(left_out.len() == 1 && left_out[0].0 == "r/summary.csv", "{left_out:?}");
        assert!(left_out[0].1.contains(reason), "{left_out:?}");
    }
    // Older versions knew fewer keys, and the oldest wrote no digest.
    let older = config.to_toml().replace("per_layer = false\n", "");
    assert_ne!(older, config.to_toml());
    folder.write("r/config.toml", &older);
    for config_md5 in [Some(crate::files::md5(older.as_bytes())), None] {
        folder.write_rows("r/summary.csv", &[SummaryRow { config_md5, ..row("r", 0).with_settings(&config) }]);
        assert_eq!(folder.found().1, []);
    }
    // A config that cannot be read hides no row.
    folder.write("r/config.toml", "novelty = 1\n");
    let (rows, left_out) = folder.found();
    assert_eq!(rows.len(), 4);
    assert!(left_out[0].0 == "r/config.toml" && left_out[0].1.contains("novelty"), "{left_out:?}");
    assert!(!left_out[0].1.contains(folder.path("").to_str().unwrap()), "the path twice: {left_out:?}");
}

#[test]
fn the_row_of_an_earlier_end_counts_until_the_run_has_ended_again() {
    let folder = Folder::new();
    let ended = folder.run("r", "train.epochs = 5\ntrain.milestones = [3]");
    let row = folder.read().runs[0].summary.clone().unwrap();
    assert!(row.has_config(&ended) && folder.read().runs[0].earlier.is_none());
    let longer = |more: &str| {
        let text =
            format!("experiment = \"area2d\"\nname = \"r\"\ntrain.epochs = 9\ntrain.milestones = [3, 7]\n{more}");
        folder.write("r/config.toml", Config::from_toml(&text).unwrap().to_toml());
    };
    longer("");
    let (rows, left_out) = folder.found();
    assert_eq!((rows.len(), left_out.len()), (4, 0), "{left_out:?}");
    let run = &folder.read().runs[0];
    assert_eq!((run.summary.as_ref(), run.earlier.as_ref()), (None, Some(&row)));
    // Another training is no earlier end.
    longer("train.batch_size = 7");
    assert_eq!((folder.found().0.len(), folder.found().1.len()), (3, 1));
}

#[test]
fn metrics_and_thresholds_of_another_run_are_left_out() {
    let folder = Folder::new();
    folder.run("r", "");
    let foreign = MetricsRow { run: "s".into(), epoch: 2, ..MetricsRow::default() };
    let own = MetricsRow { run: "r".into(), epoch: 1, ..MetricsRow::default() };
    write_table(&folder.path("r/metrics.csv"), &[own.clone(), foreign]).unwrap();
    let results = folder.read();
    assert_eq!(results.runs[0].metrics, [own]);
    assert!(results.left_out[0].reason.contains("line 3: is of the run s, seed 0"), "{:?}", results.left_out);

    folder.run("r", "");
    let mut row = folder.read().runs[0].summary.clone().unwrap();
    (row.sparsified_threshold, row.sparsified_active_knots, row.knots) = (Some(0.1), Some(7), Some(50));
    folder.write_rows("r/summary.csv", &[row]);
    let header = "threshold,active_knots,train_accuracy\n";
    folder.write("r/thresholds.csv", format!("{header}0.1,7,90\n0.2,x,90\n0.3,5,80\n"));
    let results = folder.read();
    assert_eq!(results.runs[0].thresholds.len(), 2);
    assert!(results.left_out[0].reason.contains("line 3: `active_knots` is `x`"), "{:?}", results.left_out);
    folder.write("r/thresholds.csv", format!("{header}0.1,8,90\n"));
    let results = folder.read();
    assert!(results.runs[0].thresholds.is_empty() && results.left_out[0].reason.contains("another run"));

    fs::remove_file(folder.path("r/config.toml")).unwrap();
    let (rows, left_out) = folder.found();
    assert!(rows.len() == 4 && left_out[0].0 == "r/metrics.csv", "{left_out:?}");
}

#[cfg(unix)]
#[test]
fn links_are_followed_once_and_lead_nowhere_without_harm() {
    use std::os::unix::fs::symlink;
    let folder = Folder::new();
    let elsewhere = Folder::new();
    elsewhere.write_rows("whole/summary.csv", &[row("linked", 0)]);
    symlink(elsewhere.path("whole"), folder.path("linked")).unwrap();
    symlink(folder.path(""), folder.path("whole/again")).unwrap();
    symlink(folder.path("whole"), folder.path("a-link")).unwrap();
    symlink(folder.path("itself"), folder.path("itself")).unwrap();
    symlink(folder.path("nowhere"), folder.path("dangling")).unwrap();
    fs::create_dir(folder.path("run")).unwrap();
    symlink(folder.path("nowhere.csv"), folder.path("run/summary.csv")).unwrap();
    symlink("/", folder.path("up")).unwrap();
    fs::create_dir(folder.path(".hidden")).unwrap();
    symlink(folder.path("nowhere"), folder.path(".hidden/summary.csv")).unwrap();
    let (mut rows, left_out) = folder.found();
    rows.sort();
    assert_eq!(rows, [whole(), vec![("linked".to_owned(), 0)]].concat());
    let names: Vec<&str> = left_out.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["dangling", "itself", "run/summary.csv", "up"]);
    assert!(left_out[0].1.contains("leads nowhere") && left_out[3].1.contains("contains this one"), "{left_out:?}");
    assert_eq!(folder.read().sweeps.len(), 2);
}

#[cfg(unix)]
#[test]
fn what_may_not_be_read_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    folder.write_rows("closed/summary.csv", &[row("c", 0)]);
    folder.write_rows("unreadable/summary.csv", &[row("d", 0)]);
    let lock = |name: &str, mode| fs::set_permissions(folder.path(name), fs::Permissions::from_mode(mode)).unwrap();
    lock("closed", 0o000);
    lock("unreadable/summary.csv", 0o000);
    let found = fs::read_dir(folder.path("closed")).is_err().then(|| folder.found());
    lock("closed", 0o755);
    let Some((rows, left_out)) = found else {
        println!("SKIPPED: this user may read everything");
        return;
    };
    assert_eq!(rows, whole());
    let names: Vec<&str> = left_out.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["closed", "unreadable/summary.csv"]);
}

#[test]
fn a_folder_of_which_nothing_is_whole_is_an_error_with_all_reasons() {
    let folder = Folder(tempfile::tempdir().unwrap());
    let error = Results::read(folder.0.path()).unwrap_err().to_string();
    assert!(error.contains("no results") && error.contains("reproduce all"), "{error}");
    folder.write("a/summary.csv", "x");
    folder.write("b/summary.csv", "");
    let error = Results::read(folder.0.path()).unwrap_err().to_string();
    assert!(error.contains("no results") && error.contains("a/summary.csv: has other columns"), "{error}");
    assert!(error.contains("b/summary.csv: is empty"), "{error}");
    let error = Results::read(&folder.path("missing")).unwrap_err().to_string();
    assert!(error.contains("no folder") && error.contains("missing"), "{error}");
}

#[test]
fn a_sweep_has_the_rows_of_runs_that_its_summary_lacks() {
    let folder = Folder::new();
    let config = Config::from_toml("experiment = \"area2d\"\nname = \"x-seed0\"").unwrap();
    let inside = |name: &str| SummaryRow {
        peak_memory_mb: Some(1.0),
        ..SummaryRow { run: name.into(), ..row(name, 0).with_settings(&config) }
    };
    folder.write("whole/runs/x-seed0/config.toml", config.to_toml());
    folder.write_rows("whole/runs/x-seed0/summary.csv", &[inside("x-seed0")]);
    let results = folder.read();
    assert_eq!((results.rows.len(), results.sweeps[0].rows.len()), (4, 4), "{:?}", results.left_out);
    assert!(results.rows.iter().all(|row| row.peak_memory_mb.is_none()));
    // With its row in the summary it is there once.
    let rows = [whole(), vec![("x-seed0".to_owned(), 0)]].concat();
    folder.write_rows("whole/summary.csv", &rows.iter().map(|(run, seed)| row(run, *seed)).collect::<Vec<_>>());
    let results = folder.read();
    assert_eq!((results.rows.len(), results.sweeps[0].rows.len()), (4, 4));
}

#[test]
fn runs_that_diverged_have_a_table() {
    let folder = Folder::new();
    assert!(folder.read().diverged_table().is_none());
    let header = "run,seed,training_md5,step,epoch,loss,revision\n";
    folder.write(
        "whole/diverged.csv",
        format!("{header}steep,1,0123,640,3,NaN,abc\nx,y,,,,,\nflat,0,0123,7,0,inf,abc\n"),
    );
    let results = folder.read();
    let table = results.diverged_table().unwrap();
    assert_eq!(table.rows, [["whole", "steep", "1", "3", "640"], ["whole", "flat", "0", "0", "7"]]);
    assert!(results.left_out[0].reason.contains("line 3: `seed` is `y`"), "{:?}", results.left_out);
    let references = References::load(None, None).unwrap();
    let outputs = compare::outputs(&results, &compare::tables(&results, &references)).unwrap();
    let text = String::from_utf8(outputs[0].bytes.clone()).unwrap();
    assert!(text.contains("## Diverged runs") && text.contains("| whole | steep | 1 | 3 | 640 |"), "{text}");
    assert!(text.contains("## Left out") && text.contains("| whole/diverged.csv | line 3"), "{text}");
}

#[test]
fn a_run_that_diverged_is_listed_once() {
    let folder = Folder::new();
    let header = "run,seed,training_md5,step,epoch,loss,revision\n";
    let steep = "steep,1,0123,640,3,NaN,abc\n";
    folder.write("whole/diverged.csv", format!("{header}{steep}"));
    // As after a merge beside a shard that goes on.
    folder.write("whole/shards/1-of-2/diverged.csv", format!("{header}{steep}flat,0,4567,7,0,inf,abc\n"));
    let table = folder.read().diverged_table().unwrap();
    let runs: Vec<(&str, &str)> = table.rows.iter().map(|row| (row[0].as_str(), row[1].as_str())).collect();
    assert_eq!(runs, [("whole", "steep"), ("whole/shards/1-of-2", "flat")]);
}

#[test]
fn comparisons_of_others_are_not_replaced() {
    let folder = Folder::new();
    let references = References::load(None, None).unwrap();
    let results = folder.read();
    let outputs = compare::outputs(&results, &compare::tables(&results, &references)).unwrap();
    let names: Vec<&str> = outputs.iter().map(|output| output.path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["comparison.md", "comparison-papers.csv", "comparison-original.csv"]);
    for name in &names {
        folder.write(name, "# My notes\n");
        let error = save(&outputs).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("not replaced"), "{error}");
        assert_eq!(fs::read_to_string(folder.path(name)).unwrap(), "# My notes\n");
        assert_eq!(names.iter().filter(|name| folder.path(name).exists()).count(), 1);
        fs::remove_file(folder.path(name)).unwrap();
    }
    save(&outputs).unwrap();
    save(&outputs).unwrap();
    // A table of an older version has other columns, which comparison.md beside it has, too.
    let older = |text: &str| text.replacen("provenance", "source", 1);
    folder.write("comparison.md", older(&fs::read_to_string(folder.path("comparison.md")).unwrap()));
    folder.write("comparison-papers.csv", older(&fs::read_to_string(folder.path("comparison-papers.csv")).unwrap()));
    save(&outputs).unwrap();
    assert_eq!(fs::read(folder.path("comparison-papers.csv")).unwrap(), outputs[1].bytes);
}

/// Mutations of files in a results folder: bytes changed, inserted, removed, cut off, lines doubled or swapped.
#[test]
fn no_mutation_of_a_table_is_a_panic() {
    use rand::{Rng, SeedableRng};
    let folder = Folder::new();
    folder.run("r", "");
    folder.write("r/thresholds.csv", "threshold,active_knots,train_accuracy\n0,9,99\n0.1,7,90\n0.2,4,90\n0.3,5,80\n");
    folder.write("whole/diverged.csv", "run,seed,training_md5,step,epoch,loss,revision\nsteep,1,0123,640,3,NaN,abc\n");
    let names = [
        "whole/summary.csv",
        "r/summary.csv",
        "r/metrics.csv",
        "r/thresholds.csv",
        "whole/diverged.csv",
        "r/config.toml",
    ];
    let originals = names.map(|name| fs::read(folder.path(name)).unwrap());
    let references = References::load(None, None).unwrap();
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(18);
    let numbers = [
        "NaN",
        "inf",
        "-inf",
        "1e308",
        "-1e308",
        "5e-324",
        "1e-300",
        "18446744073709551615",
        "-1",
        "0",
        "",
        "\"",
        "\n",
        "é",
    ];
    let rounds: usize = std::env::var("DS_MUTATIONS").map_or(30, |text| text.parse().unwrap());
    for _ in 0..rounds {
        let k = random.random_range(0..names.len());
        let mut bytes = originals[k].clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..bytes.len().max(1)).min(bytes.len());
            match random.random_range(0..5) {
                0 if at < bytes.len() => bytes[at] = random.random(),
                1 => bytes.truncate(at),
                2 => {
                    // A cell with another value.
                    let end = bytes[at..].iter().position(|byte| b",\n".contains(byte)).map_or(bytes.len(), |n| at + n);
                    let start = bytes[..at].iter().rposition(|byte| b",\n".contains(byte)).map_or(0, |n| n + 1);
                    let value = numbers[random.random_range(0..numbers.len())];
                    bytes.splice(start..end.max(start), value.bytes());
                }
                3 if at < bytes.len() => {
                    bytes.remove(at);
                }
                _ => bytes.insert(at, b",\n\"=["[random.random_range(0..5)]),
            }
        }
        folder.write(names[k], &bytes);
        if let Ok(mut results) = Results::read(folder.0.path()) {
            let tables = compare::tables(&results, &references);
            compare::outputs(&results, &tables).unwrap();
            crate::results::report::outputs(&mut results, &[]).unwrap();
        }
        folder.write(names[k], &originals[k]);
    }
}
