#![allow(clippy::unwrap_used)]
mod runs;
mod shards;

use super::select::Selection;
use super::*;
use crate::data::Source;
use crate::device::Context;
use crate::lock::DirectoryLock;
use crate::results::metrics::{DivergedRow, SummaryRow, SummaryRows, read_summary};
use std::path::Path;

const TINY: &str = r#"
    [config]
    experiment = "area2d"
    data.train_points = 60
    data.test_grid = 20
    train.epochs = 2
    train.milestones = []
    [[grid]]
    activation.kind = ["relu", "prelu"]
    network.hidden = [[2], [3, 3]]
    seed = [0, 1]
    [[grid]]
    activation.kind = "bspline"
    data.validation = 0.5
    "regularization.lambda + regularization.weight_decay" = [1e-5, 0.5]
    seed = [0, 1]
"#;

/// A sweep on the CPU.
fn run_sweep(sweep: &Sweep, source: &Source, options: &SweepOptions) -> anyhow::Result<Outcome> {
    super::run_sweep(sweep, source, options, &Context::cpu())
}

fn sweep(text: &str) -> Result<Sweep, String> {
    let sweep = Sweep::from_text(text, "tiny", Origin::Defaults).map_err(|error| error.to_string())?;
    let runs = sweep.runs().map_err(|error| error.to_string())?;
    sweep.check_selection(&runs).map_err(|error| error.to_string())?;
    Ok(sweep)
}

fn options(directory: &Path, jobs: usize) -> SweepOptions {
    SweepOptions { directory: directory.to_owned(), jobs, overwrite: false, quiet: true, shard: None }
}

fn by_run(rows: &[SummaryRow]) -> SummaryRows {
    rows.iter().cloned().collect()
}

fn without_seconds(row: &SummaryRow) -> SummaryRow {
    SummaryRow {
        seconds: 0.0,
        lower_seconds: None,
        certified_seconds: None,
        papers_seconds: None,
        exact_seconds: None,
        ..row.clone()
    }
}

fn without_clock(rows: &[SummaryRow]) -> Vec<SummaryRow> {
    rows.iter().map(without_seconds).collect()
}

#[test]
fn seeds_may_be_a_range() {
    let with = |seeds: &str| sweep(&TINY.replace("seed = [0, 1]", &format!("seed = {seeds}")));
    let seeds = |sweep: Sweep| sweep.runs().unwrap().iter().map(|run| run.config.seed).collect::<Vec<_>>();
    assert_eq!(seeds(with("\"3..6\"").unwrap()), seeds(with("[3, 4, 5]").unwrap()));
    for wrong in ["\"3..3\"", "\"-1..3\"", "\"0..1000000000\"", "\"3\"", "\"a..b\""] {
        let error = with(wrong).unwrap_err();
        assert!(error.contains("`seed` = ") && error.contains("such as \"0..40\""), "{error}");
    }
    let error = with("\"0..1000000000\"").unwrap_err();
    assert!(error.contains("at most 100000 seeds"), "{error}");
}

#[test]
fn a_grid_is_every_combination_with_stable_names() {
    let runs = sweep(TINY).unwrap().runs().unwrap();
    let names: Vec<String> = runs.iter().map(|run| format!("{} {}", run.config.name, run.config.seed)).collect();
    let expected = [
        "area-relu-circle-hidden2 0",
        "area-relu-circle-hidden2 1",
        "area-relu-circle-hidden3x3 0",
        "area-relu-circle-hidden3x3 1",
        "area-prelu-circle-hidden2 0",
        "area-prelu-circle-hidden2 1",
        "area-prelu-circle-hidden3x3 0",
        "area-prelu-circle-hidden3x3 1",
        "area-bspline-circle-lambda1e-5 0",
        "area-bspline-circle-lambda1e-5 1",
        "area-bspline-circle-lambda0.5 0",
        "area-bspline-circle-lambda0.5 1",
    ];
    assert_eq!(names, expected);
    let last = &runs[10].config;
    assert_eq!((last.regularization.lambda, last.regularization.weight_decay), (0.5, 0.5));
    assert_eq!((last.network.hidden.as_slice(), last.data.validation), (&[4, 4][..], 0.5));
}

#[test]
fn a_wrong_sweep_says_what_is_allowed() {
    let config = "[config]\nexperiment = \"area2d\"\n";
    for (text, expected) in [
        ("[[grid]]\nseed = [0]".to_owned(), "`config` = missing"),
        (config.to_owned(), "`grid` = missing"),
        (format!("{config}[[grid]]\nseed = []"), "at least one value"),
        (format!("{config}[[grid]]\ntrain.epoch = [1]"), "did you mean `train.epochs`"),
        (format!("{config}[[grid]]\nactivation.size = [20]"), "odd"),
        (format!("{config}[[grid]]\nseed = [1]\n[[grid]]\nseed = [1]"), "do not overlap"),
        (format!("speed = 1\n{config}[[grid]]\nseed = [1]"), "allowed here: name, keep_runs"),
        (format!("{config}[[grid]]\nseed = [1]\n[select]\nkey = \"a\""), "select.final"),
        (format!("name = \"a/b\"\n{config}[[grid]]\nseed = [1]"), "directory"),
        (format!("name = \"a\\u001b[31m\"\n{config}[[grid]]\nseed = [1]"), "without control characters"),
        (format!("seed = 1\n{config}[[grid]]\nseed = [1]"), "did you mean `config.seed`"),
        (format!("keepruns = true\n{config}[[grid]]\nseed = [1]"), "did you mean `keep_runs`"),
        (format!("keep_runs = \"some\"\n{config}[[grid]]\nseed = [1]"), "true, false or \"selected\""),
        (format!("keep_runs = \"selected\"\n{config}[[grid]]\nseed = [1]"), "with a [select] section"),
        (format!("{config}[[grid]]\nseed = [1]\na.b.c.d.e.f.g.h.i.j.k = [1]"), "unknown key"),
        (
            format!("{config}[[grid]]\nregularization.lambda = [1e-5]\n\"regularization.lambda + seed\" = [1]"),
            "two values of regularization.lambda",
        ),
        (format!("{config}[[grid]]\nnetwork.hidden = [{:?}]", [[2]; 99].concat()), "at most 200 bytes"),
        (format!("{config}[[grid]]\n{}", grid_of_many_runs()), "at most 100000 runs"),
    ] {
        let error = sweep(&text).err().unwrap_or_else(|| panic!("accepted: {text}"));
        assert!(error.contains(expected), "{error}");
    }
}

fn grid_of_many_runs() -> String {
    let keys = ["data.train_points", "data.test_grid", "train.epochs", "train.batch_size", "train.eval_every", "seed"];
    keys.map(|key| format!("{key} = {:?}\n", (1..100).collect::<Vec<u64>>())).concat()
}

const SELECT: &str = "[config]\nexperiment = \"area2d\"\ndata.validation = 0.5\n\
    [[grid]]\nactivation.kind = \"relu\"\nseed = [0, 1]\n\
    [[grid]]\n\"regularization.lambda + regularization.weight_decay\" = [1e-5, 1e-3]\n\
    network.hidden = [[2], [4]]\nseed = [0, 1]\n\
    [select]\nkey = \"regularization.lambda + regularization.weight_decay\"\n\
    final.data.validation = 0.0\nfinal.seed = [0, 1, 2]\n";

#[test]
fn a_selection_that_cannot_be_made_is_refused_before_the_first_run() {
    assert_eq!(sweep(SELECT).unwrap().count().unwrap(), 10 + 3 * 3);
    let key = "key = \"regularization.lambda + regularization.weight_decay\"";
    for (old, new, expected) in [
        (key, "key = \"nope.x\"", "`select.key` = \"nope.x\": expected a key with a list in a [[grid]]: "),
        (key, "key = \"network.hiden\"", "did you mean \"network.hidden\"?"),
        (key, "key = \"train.epochs\"", "network.hidden"),
        // No list of the grid has it as its only key.
        (key, "key = \"activation.kind\"", "a key with a list"),
        (
            key,
            "key = \"regularization.lambda\"",
            "all keys of the list: \"regularization.lambda + regularization.weight_decay\"",
        ),
        (key, "key = \"seed\"", "other than seed"),
        (key, "key = 3", "`select.key` = 3"),
        ("final.seed", "final.sed", "did you mean `seed`"),
        ("final.seed", "finals.seed", "unknown key `select.finals` (did you mean `final`?)"),
        ("final.seed", "tolerence = 0.5\nfinal.seed", "did you mean `tolerance`"),
        ("final.seed", "tolerance = -0.5\nfinal.seed", "from 0 to 100"),
        ("final.seed", "tolerance = inf\nfinal.seed", "from 0 to 100"),
        ("final.seed", "tolerance = nan\nfinal.seed", "from 0 to 100"),
        ("final.seed = [0, 1, 2]", "final.seed = [0, 0]", "do not overlap"),
        ("final.seed", "final.regularization.lambda = 1\nfinal.seed", "leave out select.final.regularization.lambda"),
        ("final.seed", "final.train.epochs = 0\nfinal.seed", "`train.epochs` = 0"),
        // Only the runs of the selection would be refused.
        ("[config]\n", "[config]\ntrain.keep_best = true\n", "`train.keep_best`"),
        ("data.validation = 0.5", "data.validation = 0", "compares accuracies on validation data"),
        ("[0, 1]\n[[grid]]", "[0, 1]\ndata.validation = 0\n[[grid]]", "compares accuracies on validation data"),
        ("network.hidden = [[2], [4]]", "network.hidden = [[2], []]", "at least one hidden layer"),
    ] {
        let text = SELECT.replacen(old, new, 1);
        assert_ne!(text, SELECT, "{old}");
        let error = sweep(&text).err().unwrap_or_else(|| panic!("accepted: {text}"));
        assert!(error.contains(expected), "{new}: {error}");
    }
    let fit = "[config]\nexperiment = \"fit1d\"\ndata.validation = 0.5\n[[grid]]\nregularization.lambda = [1, 2]\n\
               [select]\nkey = \"regularization.lambda\"\nfinal.seed = [1]";
    assert!(sweep(fit).unwrap_err().contains("no accuracy to select by"));
}

#[test]
fn the_order_of_coupled_keys_is_free_and_pairs_of_lists_can_be_selected() {
    let turned = "key = \"regularization.weight_decay + regularization.lambda\"";
    sweep(&SELECT.replace("key = \"regularization.lambda + regularization.weight_decay\"", turned)).unwrap();
    let coupled = "\"regularization.lambda + regularization.weight_decay\" = [1e-5, 1e-3]";
    let apart = "regularization.lambda = [1e-5, 1e-3]\nregularization.weight_decay = [1e-5, 1e-3]";
    let pairs = sweep(&SELECT.replace(coupled, apart)).unwrap();
    assert_eq!(pairs.count().unwrap(), 2 + 16 + 3 * 3);
}

#[test]
fn keep_runs_is_true_false_or_selected() {
    for (line, expected) in [
        ("", KeepRuns::None),
        ("keep_runs = false\n", KeepRuns::None),
        ("keep_runs = true\n", KeepRuns::All),
        ("keep_runs = \"selected\"\n", KeepRuns::Selected),
    ] {
        assert_eq!(sweep(&format!("{line}{SELECT}")).unwrap().keep_runs, expected);
    }
}

#[test]
fn the_largest_value_within_the_tolerance_is_selected() {
    let text = TINY.replace("data.validation = 0.5", "").replace("[config]", "[config]\ndata.validation = 0.5");
    let select = "[select]\nkey = \"regularization.lambda + regularization.weight_decay\"\ntolerance = 1.0\n\
                  final.data.validation = 0.0\nfinal.seed = [5, 6, 7]\n";
    let sweep = sweep(&format!("{text}{select}")).unwrap();
    let runs = sweep.runs().unwrap();
    assert_eq!(sweep.count().unwrap(), 12 + 3 * 5);
    let rows = |accuracy: &dyn Fn(&PlannedRun) -> f64| -> Vec<SummaryRow> {
        let row = |run: &PlannedRun| SummaryRow {
            run: run.config.name.clone(),
            seed: run.config.seed,
            validation_accuracy: Some(accuracy(run)),
            ..SummaryRow::default()
        };
        runs.iter().map(row).collect()
    };
    for (at_half, expected) in [(89.5, 0.5), (88.5, 1e-5)] {
        let rows = rows(&|run| if run.config.regularization.lambda == 0.5 { at_half } else { 90.0 });
        let Selection { runs: selected, choices, problems } = sweep.selected(&runs, &by_run(&rows), &[]).unwrap();
        assert!(problems.is_empty(), "{problems:?}");
        // ReLU and PReLU have no λ to choose.
        assert_eq!((selected.len(), choices.len()), (15, 1));
        let spline = &selected[12].config;
        assert_eq!((spline.name.as_str(), spline.seed), ("area-bspline-circle-selected", 5));
        assert_eq!((spline.regularization.lambda, spline.regularization.weight_decay), (expected, expected));
        assert_eq!(spline.data.validation, 0.0);
        assert_eq!(selected[3].config.name, "area-relu-circle-hidden3x3-selected");
    }
    let missing = rows(&|_| 90.0)[1..].to_vec();
    // One choice cannot be made, all others are.
    let selection = sweep.selected(&runs, &by_run(&missing), &[]).unwrap();
    let (title, error) = &selection.problems[0];
    assert!(
        title.contains("selection for activation.kind = relu") && error.to_string().contains("seed 0 failed"),
        "{title}"
    );
    assert_eq!((selection.problems.len(), selection.runs.len()), (1, 12));

    // A value that diverged for one seed is the worst, however good it is for the other.
    let diverged = |lambda: f64| -> Vec<DivergedRow> {
        let meant = runs.iter().filter(|run| run.config.regularization.lambda == lambda && run.grid == 1);
        meant.take(1).map(|run| diverged_row(&run.config)).collect()
    };
    let better = rows(&|run| if run.config.regularization.lambda == 0.5 { 99.0 } else { 90.0 });
    let without = |lambda: f64| -> Vec<SummaryRow> {
        let gone = &diverged(lambda)[0];
        better.iter().filter(|row| (&row.run, row.seed) != (&gone.run, gone.seed)).cloned().collect()
    };
    let selection = sweep.selected(&runs, &by_run(&without(0.5)), &diverged(0.5)).unwrap();
    assert_eq!((selection.problems.len(), selection.runs[12].config.regularization.lambda), (0, 1e-5));
    // One that diverged with another config, and has failed now, keeps the choice from being made.
    let of_before = |row: DivergedRow| DivergedRow { training_md5: "0".to_owned(), ..row };
    let before: Vec<DivergedRow> = diverged(0.5).into_iter().map(of_before).collect();
    let selection = sweep.selected(&runs, &by_run(&without(0.5)), &before).unwrap();
    assert!(selection.problems.len() == 1 && selection.problems[0].1.to_string().contains("failed"));
    // With all of them diverged there is nothing to choose, and NaN is no best accuracy.
    let nan = rows(&|run| if run.config.regularization.lambda == 0.5 { f64::NAN } else { 90.0 });
    assert_eq!(sweep.selected(&runs, &by_run(&nan), &[]).unwrap().runs[12].config.regularization.lambda, 1e-5);
    let all: Vec<DivergedRow> = runs.iter().map(|run| diverged_row(&run.config)).collect();
    let selection = sweep.selected(&runs, &SummaryRows::default(), &all).unwrap();
    assert!(selection.runs.is_empty() && selection.problems[4].1.to_string().contains("diverged"));
}

fn diverged_row(config: &Config) -> DivergedRow {
    let (run, seed, training_md5) = (config.name.clone(), config.seed, config.training_md5());
    DivergedRow { run, seed, training_md5, step: 3, epoch: 1, loss: f64::NAN, ..DivergedRow::default() }
}

/// One of the learning rates is too high by far.
const DIVERGES: &str = "[config]\nexperiment = \"area2d\"\ndata.train_points = 60\ndata.test_grid = 20\n\
                        data.validation = 0.5\ntrain.epochs = 2\ntrain.milestones = []\n\
                        optimizer.weights.kind = \"sgd\"\n[[grid]]\noptimizer.weights.lr = [1e-3, 1e6]\nseed = [0, 1]\n\
                        [select]\nkey = \"optimizer.weights.lr\"\nfinal.seed = [2]\n";

/// The only run has too high a learning rate.
const ONE_DIVERGES: &str = "[config]\nexperiment = \"area2d\"\ndata.train_points = 60\ndata.test_grid = 20\n\
                            data.validation = 0.5\ntrain.epochs = 2\ntrain.milestones = []\noptimizer.weights.kind = \"sgd\"\n\
                            optimizer.weights.lr = 1e6\n[[grid]]\nseed = [0]\n";

#[test]
fn of_values_that_are_no_numbers_the_best_is_selected() {
    let text = "[config]\nexperiment = \"area2d\"\ndata.validation = 0.5\n[[grid]]\nnetwork.hidden = [[2], [4], [8]]\n\
                [select]\nkey = \"network.hidden\"\ntolerance = 5\nfinal.seed = [1]\n";
    let sweep = sweep(text).unwrap();
    let runs = sweep.runs().unwrap();
    let row = |(run, accuracy): (&PlannedRun, f64)| SummaryRow {
        run: run.config.name.clone(),
        seed: run.config.seed,
        validation_accuracy: Some(accuracy),
        ..SummaryRow::default()
    };
    let rows: SummaryRows = runs.iter().zip([89.0, 90.0, 88.0]).map(row).collect();
    let selection = sweep.selected(&runs, &rows, &[]).unwrap();
    assert_eq!((selection.runs.len(), selection.runs[0].config.network.hidden.as_slice()), (1, &[4][..]));
}

#[test]
fn lists_for_more_runs_than_a_memory_holds_are_refused() {
    let numbers = (0..1000).map(|k| k.to_string()).collect::<Vec<_>>().join(", ");
    let keys = ["seed", "train.epochs", "train.batch_size", "data.train_points", "data.test_grid", "train.threads"];
    let lists: String = keys.map(|key| format!("{key} = [{numbers}]\n")).concat();
    let error = sweep(&format!("[config]\nexperiment = \"area2d\"\n[[grid]]\n{lists}")).unwrap_err();
    assert!(error.contains("at most 100000 runs"), "{error}");
}
