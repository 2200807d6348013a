//! The names of the files of runs, sweeps and folders of results.

/// Of a run: the resolved config.
pub const CONFIG: &str = "config.toml";
/// Of a run: a row per epoch and split.
pub const METRICS: &str = "metrics.csv";
/// A row per finished run: in the directory of the run, of its sweep, and of all results.
pub const SUMMARY: &str = "summary.csv";
/// Of a run: parameters, optimiser state and position.
pub const CHECKPOINT: &str = "checkpoint.safetensors";
/// Of a run: the network with the best validation.
pub const BEST: &str = "best.safetensors";
/// Of a run: the network after sparsification.
pub const SPARSIFIED: &str = "sparsified.safetensors";
/// Of a run: the network that was trained on after pruning.
pub const FINETUNED: &str = "finetuned.safetensors";
/// Of a run: the thresholds that the papers' way of pruning tried.
pub const THRESHOLDS: &str = "thresholds.csv";
/// Of a run: the accuracies for the numbers of knots that pruning tried.
pub const PRUNING: &str = "pruning.csv";
/// Of a run: bounds of the Lipschitz constant, from `reproduce bounds`.
pub const BOUNDS: &str = "bounds.csv";
/// Of a run: the same near test samples, from `reproduce bounds --local`.
pub const LOCAL_BOUNDS: &str = "bounds-local.csv";
/// Of a sweep: a copy of its definition.
pub const SWEEP: &str = "sweep.toml";
/// Of a sweep: the runs whose loss became infinite or NaN.
pub const DIVERGED: &str = "diverged.csv";
/// Of a sweep: the runs that failed in the last call, with their errors.
pub const FAILED: &str = "failed.csv";
/// Of a sweep: the folder with the directories of its runs.
pub const RUNS: &str = "runs";
/// Of a sweep: the folder with a folder for each shard.
pub const SHARDS: &str = "shards";
/// Of a shard: what it is and where it was run last.
pub const SHARD: &str = "shard.toml";
/// Of a sweep: the folder with the scripts and logs of Slurm jobs.
pub const SLURM: &str = "slurm";
/// Of a folder of results: the tables of the comparison.
pub const COMPARISON: &str = "comparison.md";
/// Of a folder of results: tables and pictures on one page.
pub const REPORT: &str = "report.html";
/// The file that is locked in a directory that a process writes to.
pub const LOCK: &str = ".lock";
/// Marks the directory of a run that has its row in the summary of its sweep and is not kept.
pub const DISCARDED: &str = ".discarded";

/// Of a run: the folder where a pruning writes its files before all of them are put into their places.
pub const STAGED: &str = ".pruning";

/// The files that a pruning writes.
pub const OF_PRUNING: [&str; 4] = [SPARSIFIED, FINETUNED, THRESHOLDS, PRUNING];
/// All files that a run writes.
pub const OF_RUN: [&str; 9] = [CONFIG, METRICS, SUMMARY, CHECKPOINT, BEST, SPARSIFIED, FINETUNED, THRESHOLDS, PRUNING];
