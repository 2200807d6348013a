//! Ours beside the original's code on identical protocols.

use super::rows::{accuracy_margin, interval, interval_of_ratios};
use crate::progress::Loss;
use crate::results::TableRow;
use crate::results::statistics::{Verdict, median, spread};
use crate::results::table::Table;
use serde::Deserialize;

/// One training that `benches/original.py` made, ours or theirs.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Training {
    code: String,
    experiment: String,
    dataset: String,
    network: String,
    hidden: String,
    activation: String,
    epochs: usize,
    seed: u64,
    test_loss: f64,
    test_accuracy: Option<f64>,
    seconds: f64,
}

const OURS: &str = "ours";
const THEIRS: &str = "DeepSplines";

/// The margin of equivalence of losses, as a factor.
const FACTOR: f64 = 1.05;

impl TableRow for Training {
    const FIRST_VERSION: usize = 18;

    fn columns() -> Vec<String> {
        [
            "code",
            "experiment",
            "dataset",
            "network",
            "hidden",
            "activation",
            "size",
            "norm",
            "lambda",
            "epochs",
            "seed",
            "threads",
            "train_loss",
            "train_accuracy",
            "test_loss",
            "test_accuracy",
            "seconds",
            "version",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    fn check(&self) -> Result<(), String> {
        match self.code.as_str() {
            OURS | THEIRS => Ok(()),
            code => Err(format!("`code` is `{code}`, expected {OURS} or {THEIRS}")),
        }
    }
}

pub(super) fn table(rows: &[Training]) -> Table {
    let mut table = Table::new(
        "Ours and the original",
        "Trainings of benches/original.py, ours and theirs in turn on one machine with the same data, protocol and number of \
         threads: median [least, largest] over n seeds. Differences are ours minus theirs, of losses their ratio: mean over \
         pairs of one seed, which fixes the data and not the draws of the weights, with its 95 % interval. \"Equivalent\": both \
         one-sided tests at 5 % reject a difference as large as the margin, 0.2 points, for losses a factor of 1.05. \"Different\": \
         the interval excludes equality. Margins were set after the runs, and n was not chosen to decide.",
        &[
            "what",
            "quantity",
            "ours",
            "n",
            "DeepSplines",
            "difference",
            "margin",
            "verdict",
            "seconds",
            "theirs",
            "times faster",
        ],
    );
    let key = |row: &Training| {
        let names = [&row.experiment, &row.dataset, &row.network, &row.hidden, &row.activation];
        (names.map(String::clone), row.epochs)
    };
    let mut keys = Vec::new();
    for row in rows {
        if !keys.contains(&key(row)) {
            keys.push(key(row));
        }
    }
    for wanted in keys {
        let of =
            |ours: bool| rows.iter().filter(|row| key(row) == wanted && (row.code == OURS) == ours).collect::<Vec<_>>();
        let (ours, theirs) = (of(true), of(false));
        if ours.is_empty() || theirs.is_empty() {
            continue;
        }
        let accuracies = |rows: &[&Training]| rows.iter().map(|row| row.test_accuracy).collect::<Option<Vec<f64>>>();
        let losses = |rows: &[&Training]| rows.iter().map(|row| row.test_loss).collect::<Vec<f64>>();
        let (quantity, a, b) = match (accuracies(&ours), accuracies(&theirs)) {
            (Some(a), Some(b)) => ("test accuracy (%)", a, b),
            _ => ("test loss", losses(&ours), losses(&theirs)),
        };
        let is_accuracy = quantity != "test loss";
        let show = |v: f64| if is_accuracy { format!("{v:.2}") } else { Loss(v).to_string() };
        // Pairs of one seed; losses by their logarithms.
        let scale = |v: f64| if is_accuracy { v } else { v.ln() };
        let of_seed = |seed: u64| theirs.iter().position(|row| row.seed == seed).map(|k| b[k]);
        let pairs = ours.iter().zip(&a).filter_map(|(row, &a)| Some(scale(a) - scale(of_seed(row.seed)?)));
        let differences: Vec<f64> = pairs.collect();
        let of_accuracy = accuracy_margin(&wanted.0[0]);
        let margin = if is_accuracy { of_accuracy } else { FACTOR.ln() };
        let difference = if is_accuracy { interval(&differences) } else { interval_of_ratios(&differences) };
        let seconds = |rows: &[&Training]| median(rows.iter().map(|row| row.seconds).collect());
        let ([experiment, dataset, _, hidden, activation], epochs) = &wanted;
        let layers = if hidden.is_empty() { String::new() } else { format!(" 2x{hidden}x1") };
        table.rows.push(vec![
            format!("{experiment} {dataset}{layers}, {activation}, {epochs} epochs"),
            quantity.to_owned(),
            spread(&a, show),
            a.len().to_string(),
            spread(&b, show),
            difference,
            if is_accuracy { of_accuracy.to_string() } else { format!("× {FACTOR}") },
            Verdict::of(&differences, margin).to_string(),
            format!("{:.2}", seconds(&ours)),
            format!("{:.1}", seconds(&theirs)),
            format!("{:.0}", seconds(&theirs) / seconds(&ours)),
        ]);
    }
    table
}
