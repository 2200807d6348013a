//! How far a sweep is.

use anyhow::{Context, Result, bail};
use ds_lab::file_names::SWEEP;
use ds_lab::outln;
use ds_lab::sweep::{Status, Sweep, status};
use indicatif::HumanDuration;
use std::path::PathBuf;
use std::time::Duration;

/// Arguments of `reproduce status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// The sweep's directory.
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

pub fn run(args: &StatusArgs) -> Result<()> {
    let definition = args.directory.join(SWEEP);
    if !definition.exists() {
        bail!("{} has no {SWEEP}: no run of a sweep has begun there", args.directory.display());
    }
    let status = status(&Sweep::load(&definition)?, &args.directory)?;
    if args.json {
        outln!("{}", serde_json::to_string_pretty(&status).context("status as JSON")?);
    } else {
        outln!("{}", describe(&status, &args.directory.display().to_string()));
    }
    Ok(())
}

fn describe(status: &Status, directory: &str) -> String {
    let Status { runs, done, diverged, failed, running, left, seconds_left, shards } = status;
    let mut text = format!(
        "{directory}: {runs} runs: {done} done, {diverged} diverged, {} running, {} failed, {left} left",
        running.len(),
        failed.len()
    );
    match seconds_left {
        Some(seconds) if *seconds > 0.0 => {
            text += &format!(
                "; about {} left with {} at once",
                HumanDuration(Duration::from_secs_f64(*seconds)),
                running.len()
            );
        }
        _ => {}
    }
    for shard in shards {
        let state = match (shard.running, shard.done == shard.runs) {
            (true, _) => "running",
            (false, true) => "ended",
            (false, false) => "stopped",
        };
        text += &format!("\n  shard {}: {} of {} runs, {state}", shard.shard, shard.done, shard.runs);
        if let Some(place) = &shard.place {
            text += &format!(" on {}", place.host);
            if let Some(job) = &place.slurm_job {
                text += &format!(", job {job}");
            }
        }
    }
    for name in running {
        text += &format!("\n  running: {name}");
    }
    for run in failed {
        text += &format!("\n  FAILED: {}: {}", run.run, run.error);
    }
    text
}
