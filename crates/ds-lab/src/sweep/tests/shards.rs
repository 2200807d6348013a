//! Sweeps that are run in shards.

use super::*;
use crate::file_names::{DIVERGED, FAILED, SHARDS, SUMMARY};
use crate::results::metrics::{FailedRow, read_table, write_table};
use std::collections::BTreeSet;
use std::time::Instant;

/// Like TINY, with a choice of λ and of nothing.
fn with_selection() -> Sweep {
    let text = TINY.replace("data.validation = 0.5", "").replace("[config]", "[config]\ndata.validation = 0.5");
    let select = "[select]\nkey = \"regularization.lambda + regularization.weight_decay\"\nfinal.data.validation = 0.0\n\
                  final.seed = [5, 6]\n";
    sweep(&format!("{text}{select}")).unwrap()
}

fn shard(text: &str) -> Shard {
    text.parse().unwrap()
}

fn of_shard(directory: &Path, text: &str) -> SweepOptions {
    SweepOptions { shard: Some(shard(text)), ..options(directory, 1) }
}

#[test]
fn a_division_has_each_run_once_and_parts_of_like_cost() {
    let text =
        "[config]\nexperiment = \"area2d\"\n[[grid]]\nnetwork.hidden = [[2], [20, 20], [200, 200]]\nseed = \"0..30\"\n";
    let runs = sweep(text).unwrap().runs().unwrap();
    let cost = |shard: &Shard| shard.of(&runs).iter().map(|run| shard::cost(&run.config)).sum::<f64>();
    for count in [1, 2, 7, 8, 30] {
        let all: Vec<Shard> = (1..=count).map(|number| Shard::new(number, count).unwrap()).collect();
        let names: Vec<String> = all.iter().flat_map(|shard| shard.of(&runs)).map(run::title).collect();
        assert_eq!(names.len(), runs.len());
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), runs.len());
        assert_eq!(all.iter().flat_map(|shard| shard.of(&runs)).map(run::title).collect::<Vec<_>>(), names);
        let costs: Vec<f64> = all.iter().map(cost).collect();
        let (least, most) = costs.iter().fold((f64::MAX, 0.0f64), |(a, b), &cost| (a.min(cost), b.max(cost)));
        assert!(most <= 1.35 * least, "{count}: {costs:?}");
    }
    // Seeds of one network stay beside each other.
    let first = Shard::new(1, 3).unwrap();
    let seeds: Vec<u64> = first.of(&runs).iter().map(|run| run.config.seed).collect();
    assert!(seeds.windows(2).filter(|pair| pair[0] + 1 != pair[1]).count() <= 3, "{seeds:?}");
}

#[test]
fn pruning_is_a_part_of_the_cost_of_all_splines() {
    let cost = |kind: &str, is_pruned: bool| {
        let lines = format!("activation.kind = \"{kind}\"\nsparsify.enabled = {is_pruned}\n");
        shard::cost(&Config::from_toml(&format!("experiment = \"area2d\"\n{lines}")).unwrap())
    };
    for (kind, has_knots) in [("bspline", true), ("lipschitz_spline", true), ("relu", false)] {
        assert_eq!(cost(kind, true) > cost(kind, false), has_knots, "{kind}");
    }
}

#[test]
fn a_wrong_shard_says_what_is_allowed() {
    for wrong in ["0/8", "9/8", "3", "a/b", "3/0", "-1/8", "1/1000000", ""] {
        let error = wrong.parse::<Shard>().unwrap_err().to_string();
        assert!(error.contains("K/N with K from 1 to N") && error.contains("at most 100000"), "{error}");
    }
    let of = |id: &str, count: &str, min: &str, max: &str| {
        let values = [("ID", id), ("COUNT", count), ("MIN", min), ("MAX", max)]
            .map(|(name, value)| (format!("SLURM_ARRAY_TASK_{name}"), value.to_owned()));
        Shard::of_slurm(|name| values.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, value)| value.clone()))
    };
    assert_eq!(of("3", "8", "1", "8").unwrap(), shard("3/8"));
    assert_eq!(of("2", "8", "0", "7").unwrap(), shard("3/8"));
    let some = of("3", "2", "3", "5").unwrap_err().to_string();
    assert!(some.contains("--shard K/N") && some.contains("2 tasks with numbers from 3 to 5"), "{some}");
    assert!(of("", "8", "1", "8").unwrap_err().to_string().contains("SLURM_ARRAY_TASK_ID is not set"));
}

#[test]
fn shards_and_their_merge_have_the_rows_of_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let (source, sweep) = (Source::Auto { dir: None }, with_selection());
    let [whole, parts] = ["whole", "parts"].map(|name| folder.path().join(name));
    let expected = run_sweep(&sweep, &source, &options(&whole, 1)).unwrap();
    assert_eq!((expected.rows.len(), expected.failures.len()), (22, 0));
    let run_all = || ["2/3", "1/3", "3/3"].map(|text| run_sweep(&sweep, &source, &of_shard(&parts, text)).unwrap());
    let grid = run_all();
    assert!(grid.iter().all(|outcome| outcome.awaits_merge && outcome.made > 0));
    // Before the merge there is nothing more to do for a shard.
    assert_eq!(run_all().iter().map(|outcome| outcome.made).sum::<usize>(), 0);
    let before = status(&sweep, &parts).unwrap();
    assert_eq!((before.runs, before.done, before.left, before.shards.len()), (22, 12, 10, 3));
    assert!(!parts.join(SUMMARY).exists());
    let merged = merge(&sweep, &parts).unwrap();
    assert_eq!((merged.rows, merged.missing.len(), merged.next), (12, 0, 10));
    assert_eq!(merged.choices, expected.choices);
    assert!(!parts.join(SHARDS).exists());
    let selected = run_all();
    assert_eq!(selected.iter().map(|outcome| outcome.made).sum::<usize>(), 10);
    let merged = merge(&sweep, &parts).unwrap();
    assert_eq!((merged.rows, merged.missing.len(), merged.next), (22, 0, 0));
    let of = |directory: &Path| without_clock(&read_summary(&directory.join(SUMMARY)).unwrap());
    assert_eq!(of(&parts), of(&whole));
    assert!(!parts.join("runs").exists());
    let last = status(&sweep, &parts).unwrap();
    assert_eq!((last.done, last.left, last.seconds_left), (22, 0, Some(0.0)));
}

#[test]
fn what_shards_have_made_is_taken_in_by_one_process_and_by_another_division() {
    let folder = tempfile::tempdir().unwrap();
    let (source, sweep) = (Source::Auto { dir: None }, sweep(TINY).unwrap());
    let first = run_sweep(&sweep, &source, &of_shard(folder.path(), "1/3")).unwrap().made;
    // Another division while there are rows of this one.
    let error = run_sweep(&sweep, &source, &of_shard(folder.path(), "1/2")).unwrap_err().to_string();
    let kept = folder.path().join("sweep.toml");
    let way = format!("`reproduce sweep {} --out {} --merge`", kept.display(), folder.path().display());
    assert!(error.contains("divided into 3 shards") && error.contains("--shard K/3"), "{error}");
    assert!(error.contains(&way), "{error}");
    // An edited file while there are rows of the kept one, which has what the named command merges.
    let edited = with_selection();
    let error = run_sweep(&edited, &source, &of_shard(folder.path(), "2/3")).unwrap_err().to_string();
    assert!(error.contains("another definition") && error.contains(&way), "{error}");
    let error = merge(&edited, folder.path()).unwrap_err().to_string();
    assert!(error.contains("another definition") && error.contains(&way), "{error}");
    let missing = merge(&Sweep::load(&kept).unwrap(), folder.path()).unwrap().missing;
    assert_eq!(missing.len(), 12 - first);
    let second = run_sweep(&sweep, &source, &of_shard(folder.path(), "1/2")).unwrap().made;
    let all = run_sweep(&sweep, &source, &options(folder.path(), 2)).unwrap();
    assert_eq!((all.rows.len(), all.made), (12, 12 - first - second));
    assert!(!folder.path().join(SHARDS).exists());
}

#[test]
fn one_process_at_a_time_makes_a_shard_and_no_shard_beside_one_that_makes_all() {
    let folder = tempfile::tempdir().unwrap();
    let (source, sweep) = (Source::Auto { dir: None }, sweep(TINY).unwrap());
    let in_use = |options: &SweepOptions| {
        let error = run_sweep(&sweep, &source, options).unwrap_err().to_string();
        assert!(error.contains("in use by"), "{error}");
        error
    };
    let whole = DirectoryLock::acquire(folder.path()).unwrap();
    in_use(&of_shard(folder.path(), "1/2"));
    drop(whole);
    run_sweep(&sweep, &source, &of_shard(folder.path(), "1/2")).unwrap();
    // As a process has them that makes the other shard.
    let other = folder.path().join(SHARDS).join("2-of-2");
    std::fs::create_dir_all(&other).unwrap();
    let locks = (DirectoryLock::acquire_shared(folder.path()).unwrap(), DirectoryLock::acquire(&other).unwrap());
    in_use(&of_shard(folder.path(), "2/2"));
    let error = in_use(&options(folder.path(), 1));
    assert!(error.contains("shards of this sweep"), "{error}");
    assert!(status(&sweep, folder.path()).unwrap().shards[1].running);
    // A merge takes in the rows that are there, and removes nothing under the hands of a shard.
    let merged = merge(&sweep, folder.path()).unwrap();
    assert!(merged.rows > 0 && !merged.missing.is_empty());
    assert!(folder.path().join(SHARDS).join("1-of-2").join(SUMMARY).exists());
    drop(locks);
    let overwrite = SweepOptions { overwrite: true, ..of_shard(folder.path(), "2/2") };
    assert!(run_sweep(&sweep, &source, &overwrite).unwrap_err().to_string().contains("requeued"));
    run_sweep(&sweep, &source, &of_shard(folder.path(), "2/2")).unwrap();
    assert_eq!(merge(&sweep, folder.path()).unwrap().rows, 12);
}

#[test]
fn equal_rows_are_one_and_others_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (source, sweep) = (Source::Auto { dir: None }, sweep(TINY).unwrap());
    run_sweep(&sweep, &source, &of_shard(folder.path(), "1/2")).unwrap();
    let [one, two] = ["1-of-2", "2-of-2"].map(|name| folder.path().join(SHARDS).join(name));
    let rows = read_summary(&one.join(SUMMARY)).unwrap();
    std::fs::create_dir_all(&two).unwrap();
    let slower = SummaryRow { seconds: 1e3, device: "another".to_owned(), ..rows[0].clone() };
    write_table(&two.join(SUMMARY), &[slower]).unwrap();
    let ended = ended::Ended::of_sweep(folder.path()).unwrap();
    assert_eq!(ended.rows.all(), rows);
    let wrong = SummaryRow { test_loss: rows[0].test_loss + 1e-9, ..rows[0].clone() };
    write_table(&two.join(SUMMARY), &[wrong]).unwrap();
    let error = merge(&sweep, folder.path()).unwrap_err().to_string();
    for part in ["do not agree", &rows[0].run, "`test_loss` is ", "1-of-2", "2-of-2", "remove one"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert_eq!(read_summary(&one.join(SUMMARY)).unwrap(), rows);
    // The other row is among those of the sweep.
    std::fs::rename(one.join(SUMMARY), folder.path().join(SUMMARY)).unwrap();
    let error = merge(&sweep, folder.path()).unwrap_err().to_string();
    let file = folder.path().join(SUMMARY).display().to_string();
    assert!(error.contains(&file) && error.contains("2-of-2"), "{error}");
}

#[test]
fn failed_runs_are_named_with_their_error() {
    let folder = tempfile::tempdir().unwrap();
    let (source, sweep) = (Source::Auto { dir: None }, sweep(TINY).unwrap());
    let runs = sweep.runs().unwrap();
    let failing = shard("1/2").of(&runs)[0].clone();
    // A file in the place of its directory.
    std::fs::create_dir_all(folder.path().join("runs")).unwrap();
    let place = run::run_directory(folder.path(), &failing);
    std::fs::write(&place, "").unwrap();
    let outcome = run_sweep(&sweep, &source, &of_shard(folder.path(), "1/2")).unwrap();
    assert_eq!(outcome.failures.len(), 1);
    let found = status(&sweep, folder.path()).unwrap();
    assert_eq!((found.failed.len(), found.failed[0].run.as_str()), (1, run::title(&failing).as_str()));
    let missing = merge(&sweep, folder.path()).unwrap().missing;
    assert!(missing.iter().any(|(title, error)| *title == run::title(&failing) && error.is_some()), "{missing:?}");
    assert!(folder.path().join(FAILED).exists());
    // It fails again, for another reason, and that one counts.
    std::fs::remove_file(&place).unwrap();
    std::fs::create_dir(&place).unwrap();
    std::fs::write(place.join("config.toml"), "# mine").unwrap();
    run_sweep(&sweep, &source, &of_shard(folder.path(), "1/2")).unwrap();
    let missing = merge(&sweep, folder.path()).unwrap().missing;
    let errors: Vec<String> = missing.into_iter().filter_map(|(_, error)| error).collect();
    assert!(errors.len() == 1 && errors[0].contains("config.toml"), "{errors:?}");
    assert_eq!(read_table::<FailedRow>(&folder.path().join(FAILED)).unwrap().len(), 1);
    std::fs::remove_dir_all(&place).unwrap();
    run_sweep(&sweep, &source, &options(folder.path(), 1)).unwrap();
    assert!(!folder.path().join(FAILED).exists());
    assert!(status(&sweep, folder.path()).unwrap().failed.is_empty());
}

#[test]
fn a_run_that_ends_with_another_config_has_diverged_no_more_after_the_merge() {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::Auto { dir: None };
    let run = |text: &str| {
        let sweep = sweep(text).unwrap();
        let outcome = run_sweep(&sweep, &source, &of_shard(folder.path(), "1/1")).unwrap();
        // A shard that finds the row of its run in the summary of the sweep tells of it.
        let merged = merge(&sweep, folder.path()).unwrap();
        let again = run_sweep(&sweep, &source, &of_shard(folder.path(), "1/1")).unwrap();
        assert_eq!((again.made, again.diverged.len()), (0, outcome.diverged.len()));
        assert_eq!(merge(&sweep, folder.path()).unwrap().diverged, merged.diverged);
        (outcome.made, merged.rows, merged.diverged, folder.path().join(DIVERGED).exists())
    };
    assert_eq!(run(ONE_DIVERGES), (1, 0, 1, true));
    assert_eq!(run(&ONE_DIVERGES.replace("1e6", "1e-3")), (1, 1, 0, false));
}

/// `cargo test --release -p ds-lab --lib ten_thousand -- --nocapture` tells times and memory.
#[test]
fn ten_thousand_runs_are_planned_divided_watched_and_merged() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[config]\nexperiment = \"area2d\"\n[[grid]]\ndata.dataset = [\"circle\", \"s_shape\"]\n\
                activation.kind = [\"relu\", \"prelu\", \"apl\", \"bspline\", \"explicit_linear\"]\n\
                network.hidden = [[1], [2], [3], [4], [5], [6], [7], [8], [9], [10]]\nseed = \"0..100\"\n";
    let clock = Instant::now();
    let told = |what: &str| println!("{what}: after {:.2} s", clock.elapsed().as_secs_f64());
    let sweep = sweep(text).unwrap();
    let runs = sweep.runs().unwrap();
    told("planned twice");
    assert_eq!(runs.len(), 10_000);
    let row = |run: &&PlannedRun| SummaryRow {
        run: run.config.name.clone(),
        seed: run.config.seed,
        config_md5: Some(run.config.md5()),
        training_md5: Some(run.config.training_md5()),
        seconds: 1.0,
        ..SummaryRow::default()
    };
    let shares = shard::shares(&runs, 100);
    told("divided");
    for (number, of) in (1..=100).zip(&shares) {
        let shard = Shard::new(number, 100).unwrap();
        let place = folder.path().join(SHARDS).join(shard.directory());
        std::fs::create_dir_all(&place).unwrap();
        let (ended, diverged) = of.split_at(of.len() - 1);
        // The last of each has diverged.
        write_table(&place.join(SUMMARY), &ended.iter().map(row).collect::<Vec<_>>()).unwrap();
        write_table(&place.join(DIVERGED), &[diverged_row(&diverged[0].config)]).unwrap();
    }
    std::fs::write(folder.path().join("sweep.toml"), text).unwrap();
    told("rows of a hundred shards written");
    let status = status(&sweep, folder.path()).unwrap();
    told("status");
    assert_eq!((status.done, status.diverged, status.left, status.shards.len()), (9_900, 100, 0, 100));
    let merged = merge(&sweep, folder.path()).unwrap();
    told("merge");
    assert_eq!((merged.rows, merged.diverged, merged.missing.len()), (9_900, 100, 0));
    if let Some(megabytes) = crate::files::peak_memory_mb() {
        println!("at most {megabytes:.0} MB, other tests of the process included");
    }
}
