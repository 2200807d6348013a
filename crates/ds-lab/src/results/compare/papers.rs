//! Values of the papers, and ours beside them.

use super::rows::{accuracy_margin, groups, interval, is_spline, parameters_with};
use crate::results::TableRow;
use crate::results::metrics::SummaryRow;
use crate::results::statistics::{Verdict, median, spread};
use crate::results::table::Table;
use serde::{Deserialize, Serialize};

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provenance {
    /// Read in the publication.
    Verified,
    /// Read in the original's code.
    Code,
    /// Known from elsewhere.
    Unverified,
    /// Not known: the value is empty.
    Unknown,
}

/// One value of a paper. An empty cell is not known, or does not apply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are the columns")]
pub struct PaperRow {
    pub paper: String,
    pub table: String,
    pub experiment: String,
    pub dataset: String,
    pub network: String,
    /// One of ours, or `spline` for any of the three kinds.
    pub activation: String,
    /// Parameters of the network, as the paper counts them.
    pub parameters: Option<usize>,
    /// test_accuracy, active_knots, seconds or peak_memory_mb.
    pub quantity: String,
    pub value: Option<f64>,
    pub unit: String,
    pub provenance: Provenance,
    pub note: String,
}

const QUANTITIES: [&str; 4] = ["test_accuracy", "active_knots", "seconds", "peak_memory_mb"];

impl TableRow for PaperRow {
    const FIRST_VERSION: usize = 12;
    // People fill it in.
    const GENERATED: bool = false;

    fn columns() -> Vec<String> {
        [
            "paper",
            "table",
            "experiment",
            "dataset",
            "network",
            "activation",
            "parameters",
            "quantity",
            "value",
            "unit",
            "provenance",
            "note",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    fn check(&self) -> Result<(), String> {
        if !QUANTITIES.contains(&self.quantity.as_str()) {
            return Err(format!("`quantity` is `{}`, expected one of {}", self.quantity, QUANTITIES.join(", ")));
        }
        if self.value.is_none() != (self.provenance == Provenance::Unknown) {
            return Err("`value` must be empty if `provenance` is unknown, and only then".to_owned());
        }
        match self.value {
            Some(value) if !value.is_finite() => Err(format!("`value` is {value}, expected a finite number")),
            _ => Ok(()),
        }
    }
}

/// Which of ours is compared, and how well it is known.
struct Ours<'a> {
    group: Vec<&'a SummaryRow>,
    values: Vec<f64>,
    parameters: usize,
}

/// Ours beside the papers' values, for accuracies and knots.
pub(super) fn table(papers: &[PaperRow], summaries: &[SummaryRow]) -> Table {
    let mut table = Table::new(
        "Ours and the papers",
        "Ours: median [least, largest] over n seeds, after pruning where splines are pruned: by the papers' thresholds, or in a row of \
         its own with a refit. Where a paper gives a \
         number of parameters, ours is the largest network that has no more (for splines: weights, kept knots and a line for \
         each function); elsewhere it is the longest training, with a λ chosen on validation data if there is one, and then \
         the one that fits the training set best. A value is unverified until someone has read it in the publication; one that is not known is \
         empty and can be filled in in results/papers.csv. Differences are means over our seeds from the paper's one value, with their 95 % \
         interval by Student's t. Verdicts are those of two one-sided tests at 5 % with a margin in points.",
        &[
            "paper",
            "what",
            "quantity",
            "ours",
            "n",
            "paper's",
            "provenance",
            "difference",
            "verdict",
            "run of ours",
            "protocol",
        ],
    );
    let compared = papers.iter().filter(|row| matches!(row.quantity.as_str(), "test_accuracy" | "active_knots"));
    for (paper, method) in compared.flat_map(|paper| [(paper, Method::Papers), (paper, Method::Refit)]) {
        let show = |v: f64| if paper.quantity == "active_knots" { format!("{v:.0}") } else { format!("{v:.2}") };
        let mut what = format!("{} {} {}", paper.dataset, paper.network, paper.activation);
        if let Some(parameters) = paper.parameters {
            what += &format!(", {parameters} parameters");
        }
        let ours = best_match(paper, summaries, method);
        if method == Method::Refit {
            if ours.is_none() {
                continue;
            }
            what += ", refit";
        }
        let mut cells = [String::new(), String::new(), String::new(), String::new()];
        let (mut difference, mut verdict) = (String::new(), String::new());
        if let Some(ours) = &ours {
            let mut run = ours.group[0].run.clone();
            if paper.parameters.is_some() {
                run += &format!(" ({} parameters)", ours.parameters);
            }
            cells = [spread(&ours.values, show), ours.values.len().to_string(), run, ours.group[0].protocol.clone()];
            if let Some(value) = paper.value {
                let differences: Vec<f64> = ours.values.iter().map(|ours| ours - value).collect();
                difference = match differences[..] {
                    [one] => format!("{one:+.2}"),
                    _ => interval(&differences),
                };
                if paper.quantity == "test_accuracy" {
                    let margin = accuracy_margin(&paper.experiment);
                    verdict = format!("{} within {margin}", Verdict::of(&differences, margin));
                }
            }
        }
        let [value, n, run, protocol] = cells;
        table.rows.push(vec![
            paper.paper.clone(),
            what,
            match paper.unit.as_str() {
                "" => paper.quantity.clone(),
                unit => format!("{} ({unit})", paper.quantity),
            },
            value,
            n,
            paper.value.map(show).unwrap_or_default(),
            match paper.provenance {
                Provenance::Verified => "verified",
                Provenance::Code => "code",
                Provenance::Unverified => "unverified",
                Provenance::Unknown => "unknown",
            }
            .to_owned(),
            difference,
            verdict,
            run,
            protocol,
        ]);
    }
    table
}

/// How splines were pruned.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Method {
    /// By the papers' thresholds, or not at all.
    Papers,
    Refit,
}

impl Method {
    fn knots(self, row: &SummaryRow) -> Option<usize> {
        match self {
            Self::Papers => row.sparsified_active_knots,
            Self::Refit => row.refit_knots,
        }
    }

    fn value(self, row: &SummaryRow, quantity: &str) -> Option<f64> {
        let of_network =
            |own: Option<f64>, unpruned: Option<f64>| if self == Self::Papers { own.or(unpruned) } else { own };
        match quantity {
            "active_knots" => of_network(self.knots(row).map(|v| v as f64), row.active_knots.map(|v| v as f64)),
            _ => of_network(
                if self == Self::Papers { row.sparsified_test_accuracy } else { row.refit_test_accuracy },
                row.test_accuracy,
            ),
        }
    }
}

fn best_match<'a>(paper: &PaperRow, summaries: &'a [SummaryRow], method: Method) -> Option<Ours<'a>> {
    let is_meant = |row: &&SummaryRow| {
        let same = row.experiment == paper.experiment && row.dataset == paper.dataset && row.network == paper.network;
        let activation =
            if paper.activation == "spline" { is_spline(&row.activation) } else { row.activation == paper.activation };
        same && activation && row.validation.unwrap_or(0.0) == 0.0
    };
    let candidates = groups(summaries.iter().filter(is_meant)).into_iter().filter_map(|group| {
        let values: Vec<f64> = group.iter().filter_map(|row| method.value(row, &paper.quantity)).collect();
        let parameters = median(group.iter().map(|row| parameters_with(row, method.knots(row)) as f64).collect());
        (!values.is_empty()).then(|| Ours { group, values, parameters: parameters.ceil() as usize })
    });
    match paper.parameters {
        // A full protocol before a reduced one, then the network that comes nearest, then the one with more seeds.
        Some(limit) => candidates
            .filter(|ours| ours.parameters <= limit)
            .max_by_key(|ours| (ours.group[0].protocol == "full", ours.parameters, ours.values.len())),
        // The longest training, then a selected λ, then what fits the training set best: never what tests best.
        None => candidates.max_by(|a, b| {
            let rank = |ours: &Ours<'_>| {
                let first = ours.group[0];
                (first.protocol == "full", first.epochs, first.run.ends_with("-selected"))
            };
            let fit = |ours: &Ours<'_>| {
                let of = |row: &&SummaryRow| row.sparsified_train_accuracy.or(row.train_accuracy);
                median(ours.group.iter().filter_map(of).collect())
            };
            rank(a).cmp(&rank(b)).then(fit(a).total_cmp(&fit(b)))
        }),
    }
}
