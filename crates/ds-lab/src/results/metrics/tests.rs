#![allow(clippy::unwrap_used)]
use super::table::to_csv;
use super::*;
use crate::files;

fn row(epoch: usize) -> MetricsRow {
    MetricsRow {
        run: "a, \"quoted\" name".into(),
        experiment: "mnist".into(),
        dataset: "mnist".into(),
        network: "convnet".into(),
        activation: "relu".into(),
        seed: 1,
        epoch,
        step: epoch as u64 * 10,
        split: Split::Train,
        loss: 0.1 + 0.2,
        accuracy: None,
        regularizer: 0.0,
        lr_weights: 1e-3,
        lr_splines: 1e-3,
        active_knots: Some(3),
        lipschitz_bound_l1: None,
        seconds: 1.5,
        images_per_second: Some(100.0),
        lipschitz_certified_l2: None,
    }
}

#[test]
fn rows_after_the_checkpoint_are_cut_off() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("metrics.csv");
    let mut writer = MetricsWriter::create(&path).unwrap();
    writer.append(&row(1)).unwrap();
    let (known, md5) = (writer.position(), writer.md5());
    writer.append(&row(2)).unwrap();
    drop(writer);
    let mut writer = MetricsWriter::resume(&path, known, Some(&md5)).unwrap();
    writer.append(&row(3)).unwrap();
    assert_eq!(read_metrics(&path).unwrap(), [row(1), row(3)]);
    let error = MetricsWriter::resume(&path, 1 << 20, None).err().unwrap().to_string();
    assert!(error.contains("metrics.csv") && error.contains("--overwrite"), "{error}");
    assert_eq!(writer.md5(), files::md5(&std::fs::read(&path).unwrap()));
}

#[test]
fn metrics_that_were_changed_are_not_gone_on_with() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("metrics.csv");
    let mut writer = MetricsWriter::create(&path).unwrap();
    writer.append(&row(1)).unwrap();
    writer.append(&row(2)).unwrap();
    let (known, md5) = (writer.position(), writer.md5());
    let good = std::fs::read(&path).unwrap();
    let mut wrong = good.clone();
    let at = good.len() - 20;
    wrong[at] ^= 1;
    for (bytes, part) in [(wrong, "the file was changed"), (good[..at].to_vec(), "rows are lost")] {
        std::fs::write(&path, &bytes).unwrap();
        let error = MetricsWriter::resume(&path, known, Some(&md5)).err().unwrap().to_string();
        assert!(error.contains(part) && error.contains("metrics.csv"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
    std::fs::remove_file(&path).unwrap();
    let error = MetricsWriter::resume(&path, known, Some(&md5)).err().unwrap().to_string();
    assert!(error.contains("rows are lost") && !path.exists(), "{error}");
}

#[test]
fn a_foreign_file_is_not_emptied() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("summary.csv");
    for text in ["my only copy, without a line end", "a,b\n1,2\n", "a,b\n1", "a,b\n"] {
        std::fs::write(&path, text).unwrap();
        let error = SummaryWriter::open(&path).err().unwrap().to_string();
        assert!(error.contains("summary.csv"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        let error = write_summary(&path, &SummaryRow::default()).unwrap_err().to_string();
        assert!(error.contains("summary.csv") && std::fs::read_to_string(&path).unwrap() == text, "{error}");
    }
    // A summary without rows is one.
    write_table::<SummaryRow>(&path, &[]).unwrap();
    assert!(SummaryWriter::open(&path).unwrap().rows().all().is_empty());
}

#[test]
fn rows_of_an_older_version_get_the_new_columns() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("summary.csv");
    let row = |seed| SummaryRow { run: "r".into(), seed, lipschitz_lower_l2: Some(2.0), ..SummaryRow::default() };
    let text = String::from_utf8(to_csv(&[row(0)], true).unwrap()).unwrap();
    let older = |line: &str| line.split(',').take(30).collect::<Vec<_>>().join(",") + "\n";
    std::fs::write(&path, text.lines().map(older).collect::<String>()).unwrap();
    let mut writer = SummaryWriter::open(&path).unwrap();
    writer.append(row(1)).unwrap();
    let rows = read_summary(&path).unwrap();
    assert_eq!(rows, [SummaryRow { lipschitz_lower_l2: None, ..row(0) }, row(1)]);
    assert_eq!((rows[0].precision.as_deref(), rows[0].trained_in()), (None, "f32"));
    // Metrics go on under their own header only.
    let path = directory.path().join("metrics.csv");
    std::fs::write(&path, "run,epoch\nr,1\n").unwrap();
    let error = MetricsWriter::resume(&path, 14, None).err().unwrap().to_string();
    assert!(error.contains("--overwrite"), "{error}");
}

#[test]
fn runs_of_other_experiments_and_data_sets_keep_their_summary_rows() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("summary.csv");
    let row = |experiment: &str, dataset: &str, test_loss| SummaryRow {
        run: "baseline".into(),
        experiment: experiment.into(),
        dataset: dataset.into(),
        test_loss,
        ..SummaryRow::default()
    };
    let [circle, s_shape] = ["circle", "s_shape"].map(|dataset| row("area2d", dataset, 1.0));
    let (square, again) = (row("fit1d", "square", 2.0), row("area2d", "s_shape", 3.0));
    for row in [&circle, &s_shape, &square, &again] {
        write_summary(&path, row).unwrap();
    }
    assert_eq!(read_summary(&path).unwrap(), [circle, again, square]);
}

#[test]
fn a_run_replaces_its_own_summary_row() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("summary.csv");
    let text = "run,experiment,dataset,data_origin,network,activation,seed,epochs,parameters,spline_parameters,\
                protocol,device,threads,revision,train_loss,train_accuracy,validation_accuracy,test_loss,\
                test_accuracy,knots,active_knots,sparsified_threshold,sparsified_active_knots,\
                sparsified_train_accuracy,sparsified_test_accuracy,lipschitz_bound_l1,seconds,peak_memory_mb\n\
                r,mnist,mnist,d,convnet,relu,0,1,2,0,full,cpu,2,x,0.5,,,0.5,90,,,,,,,,1.5,\n";
    std::fs::write(&path, text).unwrap();
    let old = read_summary(&path).unwrap().remove(0);
    write_summary(&path, &SummaryRow { test_loss: 0.25, ..old.clone() }).unwrap();
    write_summary(&path, &SummaryRow { seed: 1, ..old.clone() }).unwrap();
    let rows = read_summary(&path).unwrap();
    assert_eq!((rows.len(), rows[0].test_loss, rows[1].seed), (2, 0.25, 1));
    std::fs::write(&path, "other,columns\n1,2\n").unwrap();
    assert!(write_summary(&path, &old).unwrap_err().to_string().contains("summary.csv"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "other,columns\n1,2\n");
}
