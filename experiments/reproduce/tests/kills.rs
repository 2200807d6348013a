//! Processes that are killed at any moment, and two at a time in one folder: the results are those of an unbroken run.
//!
//! `DS_KILLS` (default 20) kills of a sweep, each followed by the same command, and `DS_ROUNDS` (default 20) rounds with two
//! processes; `DS_SEED` draws other moments. The long form: `DS_KILLS=1000 DS_ROUNDS=200 cargo test --release -p reproduce --test
//! kills -- --nocapture`.
#![allow(clippy::unwrap_used)]

mod common;

use common::{assert_rows, metrics, reproduce, summary, text};
use ds_lab::results::metrics::SummaryRow;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const RUN: &str = "experiment = \"area2d\"\ndata.train_points = 60\ndata.test_grid = 20\ntrain.epochs = 1000\n\
                   train.milestones = []\ntrain.eval_every = 250\ntrain.checkpoint_seconds = 0.005\n";
const GRID: &str = "[[grid]]\nactivation.kind = [\"relu\", \"bspline\"]\nseed = [0, 1, 2]\n";

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect(variable))
}

fn rng() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(number("DS_SEED", 0))
}

fn start(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn sweep(file: &Path, out: &Path) -> Command {
    let mut command = reproduce();
    command.arg("sweep").arg(file).arg("--out").arg(out).args(["--jobs", "2"]);
    command
}

/// A moment of a process that takes so long.
fn moment(rng: &mut ChaCha8Rng, whole: Duration) -> Duration {
    whole.mul_f64(rng.random_range(0.0..1.1))
}

fn files(directory: &Path) -> Vec<String> {
    let mut all: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    all
}

/// The rows of the sweep in a new folder, and the time that it takes.
fn unbroken(file: &Path, out: &Path) -> (Vec<SummaryRow>, Duration) {
    let begin = Instant::now();
    let output = sweep(file, out).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    (summary(&out.join("summary.csv")), begin.elapsed())
}

#[test]
fn a_sweep_that_is_killed_again_and_again_ends_with_the_rows_of_an_unbroken_one() {
    let (folder, mut rng, kills) = (tempfile::tempdir().unwrap(), rng(), number("DS_KILLS", 20));
    let file = folder.path().join("sweep.toml");
    std::fs::write(&file, format!("[config]\n{RUN}{GRID}")).unwrap();
    let (expected, whole) = unbroken(&file, &folder.path().join("whole"));
    assert_eq!(expected.len(), 6);
    let (mut killed, mut sweeps, mut early) = (0, 0, 0);
    while killed < kills {
        let out = folder.path().join(format!("out{sweeps}"));
        let mut ended = false;
        // Many kills within one sweep, so that most of them hit one that goes on.
        while killed < kills && !ended {
            let mut process = start(&mut sweep(&file, &out));
            std::thread::sleep(moment(&mut rng, whole / 4));
            process.kill().unwrap();
            ended = process.wait().unwrap().success();
            killed += u64::from(!ended);
            early += u64::from(!out.exists());
        }
        let output = sweep(&file, &out).output().unwrap();
        assert!(output.status.success(), "after {killed} kills: {}", text(&output));
        assert_rows(&summary(&out.join("summary.csv")), &expected, &format!("after {killed} kills"));
        assert_eq!(files(&out), [".lock", "summary.csv", "sweep.toml"], "after {killed} kills");
        sweeps += 1;
    }
    println!(
        "{killed} kills of {sweeps} sweeps, {early} of them before there was a folder; an unbroken one takes {whole:.2?}"
    );
}

#[test]
fn of_two_processes_in_one_folder_one_is_told_of_the_other() {
    let (folder, mut rng, rounds) = (tempfile::tempdir().unwrap(), rng(), number("DS_ROUNDS", 20));
    let path = |name: &str| folder.path().join(name);
    let (file, config) = (path("sweep.toml"), path("configs/a.toml"));
    std::fs::create_dir_all(path("configs/sweeps")).unwrap();
    std::fs::write(&file, format!("[config]\n{RUN}{GRID}")).unwrap();
    std::fs::write(path("configs/sweeps/s.toml"), format!("[config]\n{RUN}{GRID}")).unwrap();
    std::fs::write(&config, RUN).unwrap();
    let (rows, whole) = unbroken(&file, &path("whole"));
    let train = |out: &Path| {
        let mut command = reproduce();
        command.arg("train").arg("--config").arg(&config).arg("--resume-or-start").arg("--out").arg(out);
        command
    };
    let all = |out: &Path| {
        let mut command = reproduce();
        command.arg("all").arg("--configs").arg(path("configs")).arg("--out").arg(out);
        command
    };
    assert!(train(&path("one")).status().unwrap().success());
    let (one_metrics, one_summary) = (metrics(&path("one/metrics.csv")), summary(&path("one/summary.csv")));
    let mut refused = 0;
    for round in 0..rounds {
        let out = path(&format!("out{round}"));
        let run = out.join("area2d/area-bspline-circle-seed0");
        let (command, run): (&dyn Fn(&Path) -> Command, &Path) = match round % 4 {
            0 | 1 => (&|out| sweep(&file, out), &out),
            2 => (&train, &out),
            _ => (&all, &run),
        };
        let first = start(&mut command(&out));
        let latest = if rng.random_bool(0.5) { whole / 10 } else { whole };
        std::thread::sleep(moment(&mut rng, latest));
        let second = start(&mut command(&out));
        let outputs = [first.wait_with_output().unwrap(), second.wait_with_output().unwrap()];
        for output in &outputs {
            let said = text(output);
            assert!(output.status.success() || said.contains("is in use by"), "round {round}: {said}");
            refused += u32::from(!output.status.success());
        }
        assert!(outputs.iter().any(|output| output.status.success()), "round {round}");
        if round % 4 < 2 {
            assert_rows(&summary(&out.join("summary.csv")), &rows, &format!("round {round}"));
        } else {
            assert_rows(&metrics(&run.join("metrics.csv")), &one_metrics, &format!("round {round}"));
            assert_rows(&summary(&run.join("summary.csv")), &one_summary, &format!("round {round}"));
        }
        if round % 4 == 3 {
            assert_rows(&summary(&out.join("summary.csv")), &one_summary, &format!("round {round}"));
            assert_rows(&summary(&out.join("s/summary.csv")), &rows, &format!("round {round}"));
        }
    }
    assert!(refused > 0, "no two processes met");
    println!("{rounds} rounds, {refused} processes refused");
}
