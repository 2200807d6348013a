//! Ours beside the original's code on identical protocols.

use crate::progress::Loss;
use crate::results::TableRow;
use crate::results::statistics::median;
use crate::results::statistics::spread;
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
    test_loss: f64,
    test_accuracy: Option<f64>,
    seconds: f64,
}

const OURS: &str = "ours";
const THEIRS: &str = "DeepSplines";

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
         threads: median [least, largest] over the seeds. \"Holds\": our median is no worse than theirs by more than their \
         spread over seeds.",
        &["what", "quantity", "ours", "n", "DeepSplines", "n theirs", "holds", "seconds", "theirs", "times faster"],
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
        // (quantity, ours, theirs, whether more is better)
        let (quantity, a, b, more) = match (accuracies(&ours), accuracies(&theirs)) {
            (Some(a), Some(b)) => ("test accuracy (%)", a, b, 1.0),
            _ => ("test loss", losses(&ours), losses(&theirs), -1.0),
        };
        let show = |v: f64| if more > 0.0 { format!("{v:.2}") } else { Loss(v).to_string() };
        let (least, largest) = b.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(*v), h.max(*v)));
        let holds = more * (median(a.clone()) - median(b.clone())) >= -(largest - least);
        let seconds = |rows: &[&Training]| median(rows.iter().map(|row| row.seconds).collect());
        let ([experiment, dataset, _, hidden, activation], epochs) = &wanted;
        let layers = if hidden.is_empty() { String::new() } else { format!(" 2x{hidden}x1") };
        table.rows.push(vec![
            format!("{experiment} {dataset}{layers}, {activation}, {epochs} epochs"),
            quantity.to_owned(),
            spread(&a, show),
            a.len().to_string(),
            spread(&b, show),
            b.len().to_string(),
            if holds { "yes" } else { "NO" }.to_owned(),
            format!("{:.2}", seconds(&ours)),
            format!("{:.1}", seconds(&theirs)),
            format!("{:.0}", seconds(&theirs) / seconds(&ours)),
        ]);
    }
    table
}
