//! Sweeps that are run.

use super::*;

#[test]
fn rows_do_not_depend_on_jobs_or_on_a_stop() {
    let directory = tempfile::tempdir().unwrap();
    let (source, sweep) = (Source::Auto { dir: None }, sweep(TINY).unwrap());
    let path = |name: &str| directory.path().join(name);
    let at_once = run_sweep(&sweep, &source, &options(&path("a"), 3)).unwrap();
    assert_eq!((at_once.rows.len(), at_once.made, at_once.failures.len()), (12, 12, 0));
    assert!(!path("a").join("runs").exists());
    let one_by_one = run_sweep(&sweep, &source, &options(&path("b"), 1)).unwrap();
    let same_threads = |rows: &[SummaryRow]| {
        without_clock(rows).into_iter().map(|row| SummaryRow { threads: 0, ..row }).collect::<Vec<_>>()
    };
    assert_eq!(same_threads(&at_once.rows), same_threads(&one_by_one.rows));

    // A stop in the middle of a line: the rest is run, what is whole is kept.
    let summary = path("a").join("summary.csv");
    let text = std::fs::read_to_string(&summary).unwrap();
    let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at + 1).collect();
    std::fs::write(&summary, &text[..ends[7] + 20]).unwrap();
    let resumed = run_sweep(&sweep, &source, &options(&path("a"), 2)).unwrap();
    assert_eq!(resumed.made, 5);
    assert_eq!(same_threads(&resumed.rows), same_threads(&one_by_one.rows));
    assert_eq!(read_summary(&summary).unwrap(), resumed.rows);
}

#[test]
fn a_run_alone_has_the_row_that_it_has_in_a_sweep() {
    let directory = tempfile::tempdir().unwrap();
    let (source, sweep) = (Source::Auto { dir: None }, sweep(TINY).unwrap());
    let rows = run_sweep(&sweep, &source, &options(&directory.path().join("sweep"), 2)).unwrap().rows;
    let runs = sweep.runs().unwrap();
    for k in [3, 11] {
        let options = crate::run::RunOptions {
            directory: directory.path().join(k.to_string()),
            existing: crate::run::Existing::Refuse,
            quiet: true,
        };
        let alone = crate::run::run(&runs[k].config, &source, &options, &Context::cpu()).unwrap();
        assert_eq!((alone.train_loss, alone.test_loss), (rows[k].train_loss, rows[k].test_loss));
        assert_eq!(alone.active_knots, rows[k].active_knots);
    }
}

#[test]
fn runs_of_seeds_are_those_of_the_config_alone() {
    let directory = tempfile::tempdir().unwrap();
    let source = Source::Auto { dir: None };
    let text =
        "experiment = \"area2d\"\ndata.train_points = 60\ndata.test_grid = 20\ntrain.epochs = 2\ntrain.milestones = []";
    let config = Config::from_toml(text).unwrap();
    let sweep = Sweep::of_seeds(&config, "1..3").unwrap();
    let outcome = run_sweep(&sweep, &source, &options(directory.path(), 2)).unwrap();
    let runs = sweep.runs().unwrap();
    assert_eq!(runs.len(), 2);
    for (run, row) in runs.iter().zip(&outcome.rows) {
        let alone = Config { seed: run.config.seed, ..config.clone() };
        assert_eq!((&run.config, row.config_md5.as_deref()), (&alone, Some(alone.md5().as_str())));
        let kept = directory.path().join("runs").join(format!("{}-seed{}", alone.name, alone.seed));
        assert!(kept.join("checkpoint.safetensors").exists() && kept.join("metrics.csv").exists());
    }
    let of = |k: usize| outcome.rows[k].test_accuracy.unwrap();
    let median =
        format!("test accuracy (%) {:.2} [{:.2}, {:.2}]", (of(0) + of(1)) / 2.0, of(0).min(of(1)), of(0).max(of(1)));
    assert!(outcome.describe_seeds().starts_with(&median), "{} {median}", outcome.describe_seeds());
    // More seeds later; what is there stays.
    let more = Sweep::of_seeds(&config, "2, 1, 5").unwrap();
    assert_eq!(run_sweep(&more, &source, &options(directory.path(), 0)).unwrap().made, 1);
    for wrong in ["", "3..3", "a", "1,b", "1,1", "0.5"] {
        let error = Sweep::of_seeds(&config, wrong).unwrap_err().to_string();
        assert!(error.contains(&format!("--seeds {wrong}")), "{error}");
    }
}

#[test]
fn rows_of_another_config_are_not_taken_for_these() {
    let directory = tempfile::tempdir().unwrap();
    let source = Source::Auto { dir: None };
    run_sweep(&sweep(TINY).unwrap(), &source, &options(directory.path(), 0)).unwrap();
    let longer = sweep(&TINY.replace("train.epochs = 2", "train.epochs = 3")).unwrap();
    let error = run_sweep(&longer, &source, &options(directory.path(), 0)).unwrap_err().to_string();
    assert!(error.contains("another config") && error.contains("--overwrite"), "{error}");
    let options = SweepOptions { overwrite: true, ..options(directory.path(), 0) };
    assert_eq!(run_sweep(&longer, &source, &options).unwrap().made, 12);
}

#[test]
fn runs_that_diverge_are_named_and_not_tried_again_and_the_choice_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let (source, sweep) = (Source::Auto { dir: None }, sweep(DIVERGES).unwrap());
    let outcome = run_sweep(&sweep, &source, &options(directory.path(), 2)).unwrap();
    assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
    assert_eq!((outcome.rows.len(), outcome.diverged.len(), outcome.choices.len()), (3, 2, 1));
    assert!(outcome.choices[0].contains("lr = 1e-3"), "{:?}", outcome.choices);
    let text = outcome.describe("rates");
    assert!(text.starts_with("rates: 5 runs, 5 of them made now in "), "{text}");
    assert!(outcome.diverged.iter().all(|row| row.run.contains("lr1e6") && !row.loss.is_finite() && row.epoch >= 1));
    // The run of the selection, too.
    assert_eq!(count_done(&sweep, directory.path()).unwrap(), 5);
    assert!(!directory.path().join("runs").exists());
    let again = run_sweep(&sweep, &source, &options(directory.path(), 2)).unwrap();
    assert_eq!((again.made, again.diverged.len(), again.rows.len()), (0, 2, 3));
    let overwrite = SweepOptions { overwrite: true, ..options(directory.path(), 2) };
    assert_eq!(run_sweep(&sweep, &source, &overwrite).unwrap().made, 5);
}

#[test]
fn a_run_that_ends_with_another_config_has_diverged_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let source = Source::Auto { dir: None };
    let run = |text: &str| run_sweep(&sweep(text).unwrap(), &source, &options(directory.path(), 1)).unwrap();
    let diverged = directory.path().join("diverged.csv");
    assert!(run(ONE_DIVERGES).diverged.len() == 1 && diverged.exists());
    let lower = run(&ONE_DIVERGES.replace("1e6", "1e-3"));
    assert_eq!((lower.rows.len(), lower.made, lower.diverged.len()), (1, 1, 0));
    assert!(!diverged.exists());
}

/// A choice of one value.
const ONE_CHOICE: &str = "[config]\nexperiment = \"area2d\"\ndata.train_points = 60\ndata.test_grid = 20\n\
                          data.validation = 0.5\ntrain.epochs = 1\ntrain.milestones = []\n\
                          optimizer.weights.kind = \"sgd\"\noptimizer.weights.lr = 1e-3\n\
                          [[grid]]\nregularization.lambda = [1e-5]\n\
                          [select]\nkey = \"regularization.lambda\"\nfinal.seed = [3]\n";

#[test]
fn another_config_of_selected_runs_is_refused_before_their_networks_are_removed() {
    let directory = tempfile::tempdir().unwrap();
    let source = Source::Auto { dir: None };
    let text = format!("keep_runs = \"selected\"\n{ONE_CHOICE}");
    run_sweep(&sweep(&text).unwrap(), &source, &options(directory.path(), 1)).unwrap();
    let before = walk(directory.path());
    let network = "runs/area-bspline-circle-selected-seed3/checkpoint.safetensors";
    assert!(before.iter().any(|file| file == network), "{before:?}");
    let longer = sweep(&format!("{text}final.train.epochs = 2\n")).unwrap();
    let whole = options(directory.path(), 1);
    for options in [SweepOptions { shard: Some("1/1".parse().unwrap()), ..whole.clone() }, whole.clone()] {
        let error = run_sweep(&longer, &source, &options).unwrap_err().to_string();
        assert!(error.contains("-selected with seed 3") && error.contains("--overwrite"), "{error}");
        assert_eq!(walk(directory.path()), before);
    }
    assert_eq!(std::fs::read_to_string(directory.path().join("sweep.toml")).unwrap(), text);
    assert_eq!(run_sweep(&longer, &source, &SweepOptions { overwrite: true, ..whole }).unwrap().made, 2);
}

#[test]
fn overwriting_makes_the_runs_of_a_selection_again() {
    let directory = tempfile::tempdir().unwrap();
    let (source, whole) = (Source::Auto { dir: None }, options(directory.path(), 1));
    let overwrite = SweepOptions { overwrite: true, ..whole.clone() };
    // A selected run that diverged.
    let text = ONE_CHOICE.replace("final.seed = [3]", "final.seed = [0]");
    let diverges = sweep(&format!("{text}final.optimizer.weights.lr = 1e6\nfinal.train.epochs = 2\n")).unwrap();
    for options in [&whole, &overwrite] {
        let outcome = run_sweep(&diverges, &source, options).unwrap();
        assert_eq!((outcome.made, outcome.rows.len(), outcome.diverged.len()), (2, 1, 1));
    }
    // One that has ended, where the call that overwrites does not come to it: a file is in the place of another run's directory.
    let sweep = sweep(ONE_CHOICE).unwrap();
    assert_eq!(run_sweep(&sweep, &source, &overwrite).unwrap().made, 2);
    let place = run::run_directory(directory.path(), &sweep.runs().unwrap()[0]);
    std::fs::create_dir_all(place.parent().unwrap()).unwrap();
    std::fs::write(&place, "").unwrap();
    assert!(run_sweep(&sweep, &source, &overwrite).is_err());
    std::fs::remove_file(&place).unwrap();
    assert_eq!(run_sweep(&sweep, &source, &whole).unwrap().made, 2);
}

#[test]
fn so_many_runs_at_once_as_asked_for_and_no_more_than_there_are() {
    let runs = sweep(TINY).unwrap().runs().unwrap();
    let at_once = |count: usize, asked: usize| run::at_once(&runs[..count], asked, &Context::cpu());
    assert_eq!((at_once(12, 5), at_once(2, 5), at_once(0, 0)), (5, 2, 1));
    assert_eq!(at_once(12, 0), crate::device::cores().min(12));
}

#[test]
fn one_failure_may_be_a_selection() {
    let outcome = |count: usize| Outcome {
        rows: Vec::new(),
        failures: (0..count).map(|k| (k.to_string(), anyhow::anyhow!("none"))).collect(),
        diverged: Vec::new(),
        made: 0,
        seconds: 0.0,
        choices: Vec::new(),
        summary: "summary.csv".into(),
        awaits_merge: false,
    };
    let error = |count: usize| outcome(count).check("again").unwrap_err().to_string();
    assert_eq!(error(1), "1 run or selection failed; again tries it again");
    assert_eq!(error(2), "2 runs or selections failed; again tries them again");
    assert!(outcome(0).check("again").is_ok());
}

#[test]
fn rows_of_runs_that_are_not_planned_any_more_stay() {
    let directory = tempfile::tempdir().unwrap();
    let source = Source::Auto { dir: None };
    let run = |text: &str, overwrite: bool| {
        run_sweep(&sweep(text).unwrap(), &source, &SweepOptions { overwrite, ..options(directory.path(), 1) }).unwrap()
    };
    let there = || read_summary(&directory.path().join("summary.csv")).unwrap();
    let first = run(TINY, false);
    let edited = TINY.replace("seed = [0, 1]", "seed = [2]").replace("\"prelu\"", "\"leaky_relu\"");
    let second = run(&edited, false);
    assert_eq!((second.rows.len(), second.made), (6, 6));
    assert_eq!(there(), [second.rows.clone(), first.rows.clone()].concat());
    // Nor does --overwrite take more than the runs of the definition.
    let again = run(&edited, true);
    assert_eq!((again.made, there().len()), (6, 18));
    assert_eq!(there()[6..], first.rows);
    assert_eq!(run(TINY, false).made, 0);
}

#[test]
fn what_is_not_the_sweeps_own_stays() {
    let directory = tempfile::tempdir().unwrap();
    let (source, sweep) = (Source::Auto { dir: None }, sweep(TINY).unwrap());
    let path = |name: &str| directory.path().join(name);
    for file in ["runs/mine/data.bin", "runs/area-relu-circle-hidden2-seed0/notes.txt", "runs/notes.txt"] {
        std::fs::create_dir_all(path(file).parent().unwrap()).unwrap();
        std::fs::write(path(file), "mine").unwrap();
    }
    let files = || {
        let mut all: Vec<_> = walk(directory.path());
        all.retain(|file| file != ".lock");
        all
    };
    run_sweep(&sweep, &source, &options(directory.path(), 2)).unwrap();
    run_sweep(&sweep, &source, &SweepOptions { overwrite: true, ..options(directory.path(), 2) }).unwrap();
    let left = [
        "runs/area-relu-circle-hidden2-seed0/notes.txt",
        "runs/mine/data.bin",
        "runs/notes.txt",
        "summary.csv",
        "sweep.toml",
    ];
    assert_eq!(files(), left);
    // A folder that is not a sweep's is refused without a trace.
    let foreign = tempfile::tempdir().unwrap();
    for (file, text) in
        [("summary.csv", "a,b\n1,2"), ("config.toml", "x = 1"), ("metrics.csv", ""), ("report.html", "")]
    {
        std::fs::write(foreign.path().join(file), text).unwrap();
        let error = run_sweep(&sweep, &source, &options(foreign.path(), 1)).unwrap_err().to_string();
        assert!(error.contains(file) && error.contains("--out DIR") && error.contains("--overwrite"), "{error}");
        assert_eq!(walk(foreign.path()), [file]);
        assert_eq!(std::fs::read_to_string(foreign.path().join(file)).unwrap(), text);
        std::fs::remove_file(foreign.path().join(file)).unwrap();
    }
}

/// All files below a directory, by name.
fn walk(directory: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let (path, name) = (entry.as_ref().unwrap().path(), entry.unwrap().file_name().into_string().unwrap());
        if path.is_dir() {
            all.extend(walk(&path).into_iter().map(|inner| format!("{name}/{inner}")));
        } else {
            all.push(name);
        }
    }
    all.sort();
    all
}

#[test]
fn keys_that_change_no_training_do_not_make_another_sweep() {
    let directory = tempfile::tempdir().unwrap();
    let source = Source::Auto { dir: None };
    let run = |text: &str| run_sweep(&sweep(text).unwrap(), &source, &options(directory.path(), 2)).unwrap();
    run(TINY);
    let keys = "train.threads = 2\ntrain.log_steps = 3\ntrain.eval_every = 2\ntrain.checkpoint_seconds = 1\n\
                sparsify.tolerance = 1.0\n";
    assert_eq!(
        run(&TINY.replace(
            "[[grid]]\n    activation.kind = [\"relu\"",
            &format!("{keys}[[grid]]\n    activation.kind = [\"relu\"")
        ))
        .made,
        0
    );
}

#[test]
fn two_sweeps_do_not_share_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let (source, sweep) = (Source::Auto { dir: None }, sweep(TINY).unwrap());
    let lock = DirectoryLock::acquire(directory.path()).unwrap();
    let error = run_sweep(&sweep, &source, &options(directory.path(), 1)).unwrap_err().to_string();
    assert!(error.contains("in use by process"), "{error}");
    assert_eq!(walk(directory.path()), [".lock"]);
    drop(lock);
    assert_eq!(run_sweep(&sweep, &source, &options(directory.path(), 1)).unwrap().made, 12);
}

#[test]
fn failed_runs_are_told_and_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let points = directory.path().join("data/area2d");
    std::fs::create_dir_all(&points).unwrap();
    let source = Source::Auto { dir: Some(directory.path().join("data")) };
    let sweep = sweep(&TINY.replace("data.validation = 0.5", "data.points = \"original\"")).unwrap();
    let run = || run_sweep(&sweep, &source, &options(&directory.path().join("out"), 2)).unwrap();
    let outcome = run();
    assert_eq!((outcome.rows.len(), outcome.made, outcome.failures.len()), (8, 8, 4));
    let (title, error) = &outcome.failures[0];
    assert!(title.contains("area-bspline") && error.to_string().contains("area2d/"), "{title}: {error}");
    let original = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/area2d/circle_train.csv");
    if !original.exists() {
        println!("SKIPPED: the second half, without {}", original.display());
        return;
    }
    std::fs::copy(original, points.join("circle_train.csv")).unwrap();
    let outcome = run();
    assert_eq!((outcome.rows.len(), outcome.made, outcome.failures.len()), (12, 4, 0));
}

#[test]
fn a_choice_among_more_candidates_replaces_the_old_one() {
    let directory = tempfile::tempdir().unwrap();
    let source = Source::Auto { dir: None };
    // The selected runs have another number of epochs than the candidates, whose rows stay.
    let text = "[config]\nexperiment = \"area2d\"\ndata.train_points = 60\ndata.test_grid = 20\ndata.validation = 0.5\n\
                train.epochs = 1\ntrain.milestones = []\n[[grid]]\nregularization.lambda = [1e-5]\n\
                [select]\nkey = \"regularization.lambda\"\ntolerance = 100\nfinal.seed = [3, 4]\n";
    let lambdas = |rows: &[SummaryRow]| -> Vec<f64> { rows.iter().filter_map(|row| row.lambda).collect() };
    let first = run_sweep(&sweep(text).unwrap(), &source, &options(directory.path(), 1)).unwrap();
    assert_eq!((lambdas(&first.rows), first.made), (vec![1e-5; 3], 3));
    let more = sweep(&text.replace("[1e-5]", "[1e-5, 1e-3]")).unwrap();
    let second = run_sweep(&more, &source, &options(directory.path(), 1)).unwrap();
    assert_eq!((lambdas(&second.rows), second.made), (vec![1e-5, 1e-3, 1e-3, 1e-3], 3));
    assert_eq!(read_summary(&directory.path().join("summary.csv")).unwrap(), second.rows);
}

#[test]
fn the_networks_of_selected_runs_can_be_kept() {
    let directory = tempfile::tempdir().unwrap();
    let source = Source::Auto { dir: None };
    let text = format!("keep_runs = \"selected\"\n{DIVERGES}");
    run_sweep(&sweep(&text).unwrap(), &source, &options(directory.path(), 2)).unwrap();
    let runs: Vec<_> =
        std::fs::read_dir(directory.path().join("runs")).unwrap().map(|run| run.unwrap().path()).collect();
    assert!(runs.len() == 1 && runs[0].ends_with("area-bspline-circle-selected-seed2"), "{runs:?}");
    assert!(runs[0].join("checkpoint.safetensors").exists());
}

#[test]
fn a_definition_is_replaced_only_where_its_rows_allow_it() {
    let directory = tempfile::tempdir().unwrap();
    let (root, source) = (directory.path(), Source::Auto { dir: None });
    let (path, failed) = (root.join("sweep.toml"), root.join("failed.csv"));
    let run_here =
        |sweep: &Sweep, overwrite: bool| run_sweep(sweep, &source, &SweepOptions { overwrite, ..options(root, 2) });
    let tiny = sweep(TINY).unwrap();
    // Files that no sweep has left here.
    std::fs::write(&failed, "mine").unwrap();
    let message = run_here(&tiny, false).unwrap_err().to_string();
    assert!(message.contains("has a file failed.csv"), "{message}");
    assert_eq!(std::fs::read_to_string(&failed).unwrap(), "mine");
    std::fs::remove_file(&failed).unwrap();
    std::fs::write(&path, "# mine").unwrap();
    let message = run_here(&tiny, false).unwrap_err().to_string();
    assert!(message.contains("definition of another sweep"), "{message}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "# mine");
    std::fs::remove_file(&path).unwrap();

    run_here(&tiny, false).unwrap();
    let definition = std::fs::read_to_string(&path).unwrap();
    let other = sweep(&TINY.replace("train.epochs = 2", "train.epochs = 3")).unwrap();
    assert_ne!(other.definition(), tiny.definition());
    let message = run_here(&other, false).unwrap_err().to_string();
    assert!(message.contains("made with another config"), "{message}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), definition);
    assert_eq!(count_done(&tiny, root).unwrap(), tiny.runs().unwrap().len());

    // What cannot be read is kept beside the new rows.
    let summary = root.join("summary.csv");
    std::fs::write(&summary, "a,b\n1,2\n").unwrap();
    run_here(&other, true).unwrap();
    assert_eq!(std::fs::read_to_string(root.join("summary.csv.damaged")).unwrap(), "a,b\n1,2\n");
    assert_eq!(read_summary(&summary).unwrap().len(), tiny.runs().unwrap().len());
}

#[test]
fn the_command_that_goes_on_does_not_overwrite() {
    let options = options(Path::new("a"), 1);
    assert_eq!(options.again(), "the same command");
    assert_eq!(SweepOptions { overwrite: true, ..options }.again(), "the same command without --overwrite");
}
