//! What splines cost beside ReLU: time and peak memory of an epoch.

use super::papers::PaperRow;
use super::rows::is_spline;
use crate::device;
use crate::results::metrics::SummaryRow;
use crate::results::statistics::median;
use crate::results::table::Table;

/// Runs that had a process of their own (the others have no peak memory) and one device to the end, with ReLU and with splines on
/// one protocol; and what the original reports. `None` if there is no such pair.
pub(super) fn table(papers: &[PaperRow], summaries: &[SummaryRow]) -> Option<Table> {
    let mut table = Table::new(
        "Splines beside ReLU: cost",
        "Seconds are those of the whole training with its evaluations, over its epochs; memory is the peak of the process. \
         \"Theirs\": ResNet32, 5 epochs on CIFAR, by the docstring of deepBspline_base.py in DeepSplines (July 2021, GPU not \
         named; ReLU 116 s and 2009 MB).",
        &[
            "what",
            "device",
            "s/epoch, ReLU",
            "s/epoch, splines",
            "ratio",
            "theirs",
            "MB, ReLU",
            "MB, splines",
            "ratio of MB",
            "theirs of MB",
        ],
    );
    let alone = |row: &&SummaryRow| row.peak_memory_mb.is_some() && !row.device.contains(device::DEVICE_SEPARATOR);
    let key = |row: &SummaryRow| {
        (
            row.experiment.clone(),
            row.dataset.clone(),
            row.network.clone(),
            row.hidden.clone(),
            row.epochs,
            row.protocol.clone(),
            row.device.clone(),
            row.threads,
            row.trained_in().to_owned(),
        )
    };
    let mut keys = Vec::new();
    for row in summaries.iter().filter(alone) {
        if !keys.contains(&key(row)) {
            keys.push(key(row));
        }
    }
    for wanted in keys {
        let of = |wants: &dyn Fn(&str) -> bool| -> Vec<&SummaryRow> {
            summaries.iter().filter(alone).filter(|row| key(row) == wanted && wants(&row.activation)).collect()
        };
        let (relu, splines) = (of(&|name| name == "relu"), of(&is_spline));
        if relu.is_empty() || splines.is_empty() {
            continue;
        }
        let seconds = |rows: &[&SummaryRow]| median(rows.iter().map(|row| row.seconds / row.epochs as f64).collect());
        let memory = |rows: &[&SummaryRow]| median(rows.iter().filter_map(|row| row.peak_memory_mb).collect());
        let first = relu[0];
        let theirs = |quantity: &str| {
            let value = |wants: &str| {
                let mut rows = papers.iter().filter(|row| row.quantity == quantity && row.network == first.network);
                rows.find(|row| row.activation == wants).and_then(|row| row.value)
            };
            value("spline")
                .zip(value("relu"))
                .map(|(splines, relu)| format!("{:.2}", splines / relu))
                .unwrap_or_default()
        };
        let hidden = first.hidden.as_ref().map(|hidden| format!(" 2x{hidden}x1")).unwrap_or_default();
        table.rows.push(vec![
            format!("{} {}{hidden}, {}", first.dataset, first.network, first.protocol),
            first.machine(),
            format!("{:.3}", seconds(&relu)),
            format!("{:.3}", seconds(&splines)),
            format!("{:.2}", seconds(&splines) / seconds(&relu)),
            theirs("seconds"),
            format!("{:.0}", memory(&relu)),
            format!("{:.0}", memory(&splines)),
            format!("{:.2}", memory(&splines) / memory(&relu)),
            theirs("peak_memory_mb"),
        ]);
    }
    (!table.rows.is_empty()).then_some(table)
}
