#![allow(clippy::unwrap_used)]
use super::*;
use crate::results::metrics::{SummaryRow, write_table};

fn row(activation: &str, hidden: &str, seed: u64, accuracy: f64) -> SummaryRow {
    SummaryRow {
        run: format!("area-{activation}-circle-hidden{hidden}"),
        experiment: "area2d".into(),
        dataset: "circle".into(),
        network: "area".into(),
        activation: activation.into(),
        hidden: Some(hidden.into()),
        seed,
        epochs: 500,
        parameters: 4 * hidden.parse::<usize>().unwrap() + 1,
        protocol: "full".into(),
        train_loss: accuracy / 3.0,
        test_accuracy: Some(accuracy),
        seconds: 1.0,
        ..SummaryRow::default()
    }
}

/// (2, h, 1) with splines of 21 knots of which 3 a function are kept.
fn spline(hidden: usize, seed: u64, accuracy: f64, sparsified: f64) -> SummaryRow {
    SummaryRow {
        parameters: 3 * hidden + 1 + 21 * hidden,
        spline_parameters: 21 * hidden,
        spline_size: Some(21),
        knots: Some(19 * hidden),
        sparsified_active_knots: Some(3 * hidden),
        sparsified_test_accuracy: Some(sparsified),
        ..row("bspline", &hidden.to_string(), seed, accuracy)
    }
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new(summaries: &[(&str, Vec<SummaryRow>)], papers: &str, original: Option<&str>) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let header =
            "paper,table,experiment,dataset,network,activation,parameters,quantity,value,unit,provenance,note\n";
        std::fs::write(folder.path("papers.csv"), format!("{header}{papers}")).unwrap();
        for (name, rows) in summaries {
            std::fs::create_dir_all(folder.path(name)).unwrap();
            write_table(&folder.path(name).join("summary.csv"), rows).unwrap();
        }
        let header = "code,experiment,dataset,network,hidden,activation,size,norm,lambda,epochs,seed,threads,train_loss,\
                      train_accuracy,test_loss,test_accuracy,seconds,version\n";
        std::fs::write(folder.path("original.csv"), format!("{header}{}", original.unwrap_or_default())).unwrap();
        folder
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn references(&self) -> anyhow::Result<References> {
        References::load(Some(&self.path("papers.csv")), Some(&self.path("original.csv")))
    }

    fn tables(&self) -> Vec<Table> {
        let results = Results::read(self.0.path()).unwrap();
        assert_eq!(results.left_out, []);
        tables(&results, &self.references().unwrap()).into_iter().map(|(_, table)| table).collect()
    }
}

fn cell<'a>(table: &'a Table, row: usize, column: &str) -> &'a str {
    &table.rows[row][table.columns.iter().position(|name| name == column).unwrap()]
}

#[test]
fn effective_parameters_count_weights_kept_knots_and_lines() {
    // 2·2 + 2 + 1 weights, 6 knots and 2 lines of 2 numbers.
    assert_eq!(effective_parameters(&spline(2, 0, 99.0, 98.0)), 7 + 6 + 4);
    assert_eq!(effective_parameters(&row("relu", "10", 0, 90.0)), 41);
}

#[test]
fn a_paper_is_compared_with_the_largest_network_of_no_more_parameters() {
    let sweep = vec![
        row("relu", "9", 0, 97.0),
        row("relu", "10", 0, 96.0),
        row("relu", "10", 1, 98.0),
        row("relu", "10", 2, 97.5),
        row("relu", "11", 0, 99.0),
        spline(1, 0, 99.0, 91.0),
        spline(2, 0, 99.0, 98.5),
        spline(3, 0, 99.9, 99.8),
    ];
    // The same run once more, as a run of its own.
    let again = vec![row("relu", "10", 0, 96.0)];
    let papers = "Az,areas,area2d,circle,area,relu,41,test_accuracy,98.15,%,unverified,\n\
                  Az,areas,area2d,circle,area,spline,17,test_accuracy,98.54,%,unverified,\n\
                  Az,areas,area2d,circle,area,prelu,51,test_accuracy,98.19,%,unverified,\n\
                  Bo,areas,area2d,circle,area,relu,,test_accuracy,,%,unknown,\n";
    let folder = Folder::new(&[("sweep", sweep), ("alone/a", again)], papers, None);
    let table = &folder.tables()[0];
    assert_eq!((cell(table, 0, "ours"), cell(table, 0, "n")), ("97.50 [96.00, 98.00]", "3"));
    // scipy.stats.ttest_1samp
    assert_eq!((cell(table, 0, "difference"), cell(table, 0, "provenance")), ("-0.98 (-3.57 to +1.60)", "unverified"));
    assert_eq!(cell(table, 0, "verdict"), "undecided within 0.2");
    assert_eq!((cell(table, 1, "ours"), cell(table, 1, "difference")), ("98.50", "-0.04"));
    assert_eq!(cell(table, 1, "run of ours"), "area-bspline-circle-hidden2 (17 parameters)");
    assert_eq!((cell(table, 2, "ours"), cell(table, 2, "paper's")), ("", "98.19"));
    assert_eq!((cell(table, 3, "paper's"), cell(table, 3, "provenance")), ("", "unknown"));
}

#[test]
fn proximal_steps_are_compared_with_the_same_seeds() {
    let of = |optimizer: &str, seed: usize, objective: f64, accuracy: f64| SummaryRow {
        run: format!("area-{optimizer}"),
        objective: Some(objective),
        splines_optimizer: Some(optimizer.to_owned()),
        active_knots: Some(if optimizer == "adam" { 38 } else { 10 + seed }),
        seconds: 1.0,
        test_accuracy: Some(accuracy),
        ..spline(2, seed as u64, 99.0, 98.0)
    };
    let adam = [(1.0, 98.0), (1.2, 98.0), (1.0, 98.2), (1.1, 98.2)];
    let proximal = [(0.9, 98.1), (1.3, 97.9), (0.8, 98.3), (1.0, 97.9)];
    let rows = |optimizer: &'static str, all: [(f64, f64); 4]| {
        all.into_iter().enumerate().map(move |(seed, (objective, accuracy))| of(optimizer, seed, objective, accuracy))
    };
    let all: Vec<SummaryRow> = rows("prox_adam", proximal).chain(rows("adam", adam)).collect();
    let table = proximal::table(&all).unwrap();
    assert_eq!((table.rows.len(), cell(&table, 0, "n"), cell(&table, 0, "warm-up")), (1, "4", "0"));
    assert_eq!((cell(&table, 0, "knots, adam"), cell(&table, 0, "knots, prox_adam")), ("38", "12"));
    // scipy.stats.ttest_1samp
    assert_eq!(cell(&table, 0, "ratio"), "× 0.918 (0.752 to 1.120)");
    assert_eq!(cell(&table, 0, "lower in"), "3 runs");
    assert_eq!(cell(&table, 0, "difference"), "-0.05 (-0.35 to +0.25)");
    // Runs of another revision come after those of the same.
    let older = rows("adam", [(9.0, 50.0); 4]).map(|row| SummaryRow { revision: "older".to_owned(), ..row });
    let with_older: Vec<SummaryRow> = older.chain(all.iter().cloned()).collect();
    assert_eq!(proximal::table(&with_older).unwrap().rows, table.rows);
    // A warm-up makes another row of the table, beside the same runs of Adam.
    let warm = rows("prox_adam", adam).map(|row| SummaryRow { splines_warmup_epochs: Some(2), ..row });
    let table = proximal::table(&warm.chain(all.iter().cloned()).collect::<Vec<_>>()).unwrap();
    assert_eq!((cell(&table, 0, "warm-up"), cell(&table, 1, "warm-up")), ("2", "0"));
    assert_eq!((cell(&table, 0, "ratio"), cell(&table, 0, "lower in")), ("× 1.000 (1.000 to 1.000)", "0 runs"));
    // Another optimiser of the same splines is no pair.
    let sgd: Vec<SummaryRow> = rows("prox_adam", proximal).chain(rows("sgd", adam)).collect();
    assert!(proximal::table(&sgd).is_none() && proximal::table(&all[..4]).is_none());
}

#[test]
fn grids_are_compared_with_the_one_of_most_knots() {
    let of = |size: usize, range: Option<f64>, seed: usize, accuracy: f64| SummaryRow {
        run: format!("area-{size}-{range:?}"),
        spline_size: Some(size),
        spline_range: range,
        spline_ranges_of_layers: range.is_none().then(|| "1.5 2.5".to_owned()),
        test_accuracy: Some(accuracy),
        ..spline(2, seed as u64, 99.0, 98.0)
    };
    let adam = [98.0, 98.0, 98.2, 98.2];
    let other = [98.1, 97.9, 98.3, 97.9];
    let rows = |size: usize, range: Option<f64>, all: [f64; 4]| {
        all.into_iter().enumerate().map(move |(seed, accuracy)| of(size, range, seed, accuracy))
    };
    let fixed: Vec<SummaryRow> = rows(13, Some(4.0), other).chain(rows(51, Some(4.0), adam)).collect();
    assert!(grids::table(&fixed).is_none());
    let all: Vec<SummaryRow> = fixed.into_iter().chain(rows(13, None, other)).collect();
    let table = grids::table(&all).unwrap();
    let found: Vec<_> = (0..3).map(|row| (cell(&table, row, "K"), cell(&table, row, "range"))).collect();
    assert_eq!(found, [("51", "4"), ("13", "4"), ("13", "automatic")]);
    assert_eq!((cell(&table, 0, "difference"), cell(&table, 2, "difference")), ("", "-0.05 (-0.35 to +0.25)"));
    assert_eq!((cell(&table, 2, "margin"), cell(&table, 2, "verdict")), ("0.2", "undecided"));
    // Each range has a row of its own; of one grid in two sweeps the one with more runs.
    let one_more = SummaryRow { run: "again".to_owned(), ..of(51, Some(4.0), 0, 90.0) };
    let others = rows(51, Some(1.0), adam).chain(rows(51, Some(2.0), other)).chain([one_more]);
    let table = grids::table(&all.into_iter().chain(others).collect::<Vec<_>>()).unwrap();
    let found: Vec<_> = table.rows.iter().map(|row| (row[3].as_str(), row[4].as_str(), row[5].as_str())).collect();
    let fixed = [("51", "1", "4"), ("51", "2", "4"), ("51", "4", "4"), ("13", "4", "4")];
    assert_eq!(found, [&fixed[..], &[("13", "automatic", "4")]].concat());
    assert_eq!(
        (cell(&table, 1, "difference"), cell(&table, 2, "difference").starts_with('+')),
        ("-0.05 (-0.35 to +0.25)", true)
    );
}

#[test]
fn pruning_is_compared_on_the_same_networks() {
    // Differences as in the test of intervals: 0.12, −0.31, 0.05, 0.22, −0.07.
    let refits = [98.12, 97.69, 98.05, 98.22, 97.93];
    let of = |(seed, refit): (usize, f64)| SummaryRow {
        refit_knots: Some(2 + seed),
        refit_test_accuracy: Some(refit),
        reached_knots: Some(30),
        ..spline(2, seed as u64, 99.0, 98.0)
    };
    let rows: Vec<SummaryRow> = refits.into_iter().enumerate().map(of).collect();
    let table = pruning::table(&rows).unwrap();
    assert_eq!((cell(&table, 0, "method"), cell(&table, 1, "method")), ("papers' thresholds", "refit"));
    assert_eq!((cell(&table, 0, "knots"), cell(&table, 1, "knots"), cell(&table, 1, "of")), ("6", "4", "38"));
    assert_eq!(cell(&table, 1, "minus the papers' method"), "+0.00 (-0.25 to +0.26)");
    assert_eq!(cell(&table, 0, "minus the trained network"), "-1.00 (-1.00 to -1.00)");
    assert_eq!(table.rows.len(), 2);
    assert!(pruning::table(&[spline(2, 0, 99.0, 98.0)]).is_none());

    // Beside a paper's value, each method has a row of its own.
    let papers = "Az,areas,area2d,circle,area,spline,17,test_accuracy,98.54,%,unverified,\n";
    let folder = Folder::new(&[("sweep", rows)], papers, None);
    let table = &folder.tables()[0];
    assert_eq!((cell(table, 0, "ours"), cell(table, 1, "ours")), ("98.00 [98.00, 98.00]", "98.05 [97.69, 98.22]"));
    assert!(cell(table, 1, "what").ends_with(", refit"));
}

#[test]
fn the_original_is_compared_seed_by_seed() {
    let training = |code: &str, seed: usize, loss: f64, accuracy: &str, seconds: f64| {
        format!("{code},area2d,circle,area,4x4,bspline,21,tv2,1e-05,500,{seed},1,0.1,,{loss},{accuracy},{seconds},v\n")
    };
    let rows = |ours: [&str; 3]| {
        let theirs = ["98.0", "98.5", "98.2"];
        // Theirs in another order: pairs are those of one seed.
        let ours: String = (0..3).map(|k| training("ours", k, 0.1, ours[k], 1.0)).collect();
        ours + &(0..3).rev().map(|k| training("DeepSplines", k, 0.1, theirs[k], 80.0)).collect::<String>()
    };
    for (ours, difference, verdict) in [
        (["98.05", "98.55", "98.26"], "+0.05 (+0.04 to +0.07)", "equivalent"),
        (["97.5", "98.1", "97.7"], "-0.47 (-0.61 to -0.32)", "different"),
        (["97.0", "98.9", "98.9"], "+0.03 (-2.22 to +2.29)", "undecided"),
    ] {
        let folder = Folder::new(&[("a", vec![row("relu", "1", 0, 90.0)])], "", Some(&rows(ours)));
        let table = folder.tables().remove(1);
        assert_eq!((cell(&table, 0, "difference"), cell(&table, 0, "verdict")), (difference, verdict));
        assert_eq!(cell(&table, 0, "times faster"), "80");
    }
    // Losses by their ratio.
    let losses: String = (0..2)
        .map(|k| {
            let theirs = 0.1 * (k + 1) as f64;
            training("ours", k, 1.5 * theirs, "", 1.0) + &training("DeepSplines", k, theirs, "", 2.0)
        })
        .collect();
    let folder = Folder::new(&[("a", vec![row("relu", "1", 0, 90.0)])], "", Some(&losses));
    let table = folder.tables().remove(1);
    assert_eq!((cell(&table, 0, "difference"), cell(&table, 0, "verdict")), ("× 1.500 (1.500 to 1.500)", "different"));
}

#[test]
fn costs_are_ratios_of_runs_with_a_process_of_their_own() {
    let with_memory = |row: SummaryRow, seconds, memory| SummaryRow { seconds, peak_memory_mb: Some(memory), ..row };
    let rows = vec![
        with_memory(row("relu", "4", 0, 90.0), 10.0, 100.0),
        with_memory(SummaryRow { hidden: Some("4".into()), ..spline(4, 0, 90.0, 90.0) }, 15.0, 120.0),
        row("relu", "4", 1, 91.0),
    ];
    let table = Folder::new(&[("a", rows)], "", None).tables().remove(1);
    assert_eq!(table.rows.len(), 1);
    assert_eq!((cell(&table, 0, "ratio"), cell(&table, 0, "ratio of MB")), ("1.50", "1.20"));
}

#[test]
fn fits_of_lipschitz_networks_stand_by_function_from_the_lowest_median_on() {
    let fit = |activation: &str, dataset: &str, seed, test_loss| SummaryRow {
        run: format!("lipschitz-{activation}-{dataset}"),
        experiment: "fit1d".into(),
        dataset: dataset.into(),
        network: "lipschitz".into(),
        train_loss: test_loss,
        test_loss,
        ..row(activation, "10", seed, 0.0)
    };
    let rows = vec![
        fit("relu", "slopes_pm1", 0, 6e-3),
        fit("relu", "slopes_pm1", 1, 2e-3),
        fit("relu", "slopes_pm1", 2, 3e-3),
        fit("lipschitz_spline", "slopes_pm1", 0, 2e-6),
        fit("lipschitz_spline", "slopes_pm1", 1, 4e-6),
        fit("absolute", "cosine7", 0, 1e-5),
        SummaryRow { network: "scalar".into(), ..fit("bspline", "cosine7", 0, 1e-9) },
    ];
    let table = Folder::new(&[("a", rows)], "", None).tables().pop().unwrap();
    let told: Vec<[&str; 5]> = (0..table.rows.len())
        .map(|k| ["function", "activation", "median", "n", "beside splines"].map(|column| cell(&table, k, column)))
        .collect();
    assert_eq!(
        told,
        [
            ["cosine7", "absolute", "1.00e-5", "1", ""],
            ["slopes_pm1", "lipschitz_spline", "3.00e-6", "2", ""],
            // Pairs of the seeds 0 and 1: 10^3.48 and 10^2.70 times.
            ["slopes_pm1", "relu", "3.00e-3", "3", "+3.09 (-1.86 to +8.03)"],
        ]
    );
    assert_eq!((cell(&table, 2, "least"), cell(&table, 2, "largest")), ("2.00e-3", "6.00e-3"));
}

#[test]
fn certified_accuracies_are_ordered_by_the_middle_radius() {
    let certified = |activation: &str, seed: u64, middle: f64| SummaryRow {
        run: format!("lipschitz-{activation}"),
        experiment: "mnist".into(),
        dataset: "mnist".into(),
        network: "lipschitz".into(),
        certified_radii: Some("0.1 0.5 1".into()),
        certified_accuracy_1: Some(95.0),
        certified_accuracy_2: Some(middle),
        certified_accuracy_3: Some(70.0),
        ..row(activation, "10", seed, 97.0)
    };
    let rows = vec![certified("relu", 0, 80.0), certified("max_min", 0, 90.0), certified("max_min", 1, 92.0)];
    let table = Folder::new(&[("a", rows)], "", None).tables().pop().unwrap();
    assert_eq!(table.rows.len(), 2);
    assert_eq!((cell(&table, 0, "activation"), cell(&table, 0, "n")), ("max_min", "2"));
    assert_eq!(cell(&table, 0, "certified"), "95.00 [95.00, 95.00], 91.00 [90.00, 92.00], 70.00 [70.00, 70.00]");
    assert_eq!((cell(&table, 1, "radii"), cell(&table, 1, "clean")), ("0.100, 0.500, 1.000", "97.00"));
    // Networks trained with another margin are not compared.
    let with_margin = |activation: &str, margin: f64, middle: f64| SummaryRow {
        margin: Some(margin),
        run: format!("lipschitz-{activation}-margin{margin}"),
        ..certified(activation, 0, middle)
    };
    let rows =
        [("lipschitz_spline", 1.0, 91.0), ("relu", 1.0, 80.0), ("lipschitz_spline", 2.0, 95.0), ("relu", 2.0, 85.0)];
    let others = rows.map(|(activation, margin, middle)| with_margin(activation, margin, middle)).to_vec();
    let seconds = others.iter().map(|row| SummaryRow { seed: 1, ..row.clone() });
    let table =
        Folder::new(&[("a", others.iter().cloned().chain(seconds).collect())], "", None).tables().pop().unwrap();
    let of = |row: usize| [cell(&table, row, "margin"), cell(&table, row, "certified, minus splines")];
    assert_eq!((of(1), of(3)), (["1", "-11.00 (-11.00 to -11.00)"], ["2", "-10.00 (-10.00 to -10.00)"]));
    // The third of five radii is in the middle, and so is the second of four.
    let of_five = |activation: &str, third: f64| SummaryRow {
        certified_radii: Some("0.1 0.3 0.5 1 1.58".into()),
        certified_accuracy_3: Some(third),
        certified_accuracy_4: Some(60.0),
        certified_accuracy_5: Some(40.0),
        ..certified(activation, 0, 85.0)
    };
    let table = Folder::new(&[("a", vec![of_five("relu", 80.0), of_five("max_min", 90.0)])], "", None);
    let table = table.tables().pop().unwrap();
    assert_eq!((cell(&table, 0, "activation"), cell(&table, 1, "activation")), ("max_min", "relu"));
    assert_eq!(cell(&table, 0, "certified"), "95.00, 85.00, 90.00, 60.00, 40.00");
}

#[test]
fn a_file_of_references_that_was_named_must_be_right() {
    for (papers, expected) in [
        ("Az,t,area2d,circle,area,relu,41,speed,98.15,%,unverified,\n", "line 2: `quantity` is `speed`"),
        ("Az,t,area2d,circle,area,relu,41,test_accuracy,,%,verified,\n", "unknown"),
        ("Az,t,area2d,circle,area,relu,41,test_accuracy,98,%,unknown,\n", "unknown"),
        ("Az,t,area2d,circle,area,relu,41,test_accuracy,98,%,perhaps,\n", "perhaps"),
        ("Az,t,area2d\n", "has 3 cells, the header has 12"),
    ] {
        let error = format!("{:#}", Folder::new(&[], papers, None).references().unwrap_err());
        assert!(error.contains(expected) && error.contains("papers.csv"), "{error}");
    }
    let folder = Folder::new(&[], "", Some("theirs,area2d,circle,area,4,relu,,,,1,0,1,0.1,90,0.1,90,1,v\n"));
    let error = format!("{:#}", folder.references().unwrap_err());
    assert!(error.contains("original.csv: line 2: `code` is `theirs`"), "{error}");
    for (papers, original) in [("no.csv", "original.csv"), ("papers.csv", "no.csv")] {
        let loaded = References::load(Some(&folder.path(papers)), Some(&folder.path(original)));
        let error = format!("{:#}", loaded.unwrap_err());
        assert!(error.contains("no.csv") || error.contains("original.csv"), "{error}");
    }
}

#[test]
fn without_files_the_copies_in_the_program_are_compared_with() {
    // The current directory of this test has no folder `results`.
    let references = References::load(None, None).unwrap();
    assert_eq!(references.left_out, []);
    let folder = Folder::new(&[("a", vec![row("relu", "10", 0, 96.0)])], "", None);
    let all = tables(&Results::read(folder.0.path()).unwrap(), &references);
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["papers", "original"]);
    assert!(all[0].1.rows.iter().any(|row| row.iter().any(|cell| cell.starts_with("96"))), "{}", all[0].1);
}
