//! Tables of everything that a results folder holds.

use super::pictures::dataset_title;
use crate::results::metrics::SummaryRow;
use crate::results::table::Table;
use crate::results::{Run, Sweep};
use std::collections::BTreeSet;

fn percent(v: Option<f64>) -> String {
    v.map_or(String::new(), |v| format!("{v:.2}"))
}

fn cells(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A row for each run outside of sweeps.
pub fn runs(runs: &[Run]) -> Table {
    let row = |run: &Run| {
        let config = &run.config;
        let mut row = vec![
            run.name.clone(),
            dataset_title(&config.data.dataset.to_string()),
            config.network.kind.to_string(),
            config.activation.kind.to_string(),
            config.seed.to_string(),
        ];
        match (&run.summary, &run.earlier) {
            (Some(summary), _) => row.extend(numbers(summary)),
            (None, Some(earlier)) => {
                let protocol =
                    format!("{}; of {} epochs, goes on to {}", earlier.protocol, earlier.epochs, config.train.epochs);
                row.extend(numbers(&SummaryRow { protocol, ..earlier.clone() }));
            }
            (None, None) => row.extend(cells(&["", "has not ended", "", "", "", "", "", "", ""])),
        }
        row
    };
    Table {
        title: "Runs".to_owned(),
        note:
            "Accuracies in %, after the last epoch; times in seconds of training. Pruned by refit, or by the papers' thresholds \
             where there is no refit. The runs of a sweep are rows of its summary.csv."
                .to_owned(),
        columns: cells(&[
            "run",
            "data",
            "network",
            "activation",
            "seed",
            "parameters",
            "protocol",
            "test accuracy",
            "test loss",
            "after pruning",
            "knots kept",
            "time",
            "device",
            "revision",
        ]),
        rows: runs.iter().filter(|run| run.sweep.is_none()).map(row).collect(),
    }
}

fn numbers(row: &SummaryRow) -> [String; 9] {
    let (kept, accuracy) = row.pruned().unzip();
    [
        row.parameters.to_string(),
        row.protocol.clone(),
        percent(row.test_accuracy),
        if row.test_loss < 1e-3 { format!("{:.2e}", row.test_loss) } else { format!("{:.4}", row.test_loss) },
        percent(accuracy.flatten()),
        kept.zip(row.knots).map_or(String::new(), |(kept, all)| format!("{kept} of {all}")),
        format!("{:.1}", row.seconds),
        row.machine(),
        row.revision.clone(),
    ]
}

/// A row for each sweep.
pub fn sweeps(sweeps: &[Sweep]) -> Table {
    let row = |sweep: &Sweep| {
        let distinct = |value: fn(&SummaryRow) -> Option<String>| {
            let all: BTreeSet<String> = sweep.rows.iter().filter_map(value).collect();
            all.into_iter().collect::<Vec<_>>().join(", ")
        };
        let seeds = sweep.rows.iter().map(|row| row.seed).collect::<BTreeSet<_>>().len();
        let best = sweep.rows.iter().filter_map(|row| Some((row.test_accuracy?, &row.run)));
        let best = best.max_by(|a, b| a.0.total_cmp(&b.0));
        vec![
            sweep.name.clone(),
            sweep.rows.len().to_string(),
            seeds.to_string(),
            distinct(|row| Some(dataset_title(&row.dataset))),
            distinct(|row| Some(row.activation.clone())),
            best.map_or(String::new(), |(accuracy, run)| format!("{accuracy:.2}, {run}")),
            format!("{:.1}", sweep.rows.iter().map(|row| row.seconds).sum::<f64>()),
            distinct(|row| Some(row.protocol.split(':').next().unwrap_or_default().to_owned())),
            distinct(|row| Some(row.revision.clone())),
        ]
    };
    Table {
        title: "Sweeps".to_owned(),
        note: "Best test accuracy in %, with its run; times in seconds of training of all runs.".to_owned(),
        columns: cells(&["sweep", "runs", "seeds", "data", "activations", "best", "time", "protocol", "revision"]),
        rows: sweeps.iter().map(row).collect(),
    }
}
