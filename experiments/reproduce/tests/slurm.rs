//! Sweeps on Slurm: a real one where `SLURM_CONF` names it (`.ci/slurm start DIR`), else what can be tested without.
//!
//! `DS_SLURM_SWEEP=FILE` runs the array of eight with another sweep, such as `tests/area-width-200.toml`; `DS_SLURM_LONG=1` tries a time
//! limit, which takes minutes.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use common::{assert_rows, reproduce, summary, text};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const SWEEP: &str = r#"
    [config]
    experiment = "area2d"
    train.threads = 1
    train.epochs = 150
    train.checkpoint_seconds = 0.2
    data.validation = 0.1
    [[grid]]
    activation.kind = ["relu", "bspline"]
    network.hidden = [[2], [4, 4]]
    seed = "0..4"
"#;

const SELECT: &str = r#"
    [[grid]]
    activation.kind = "explicit_linear"
    regularization.lambda = [1e-5, 1e-2]
    seed = [0, 1]
    [select]
    key = "regularization.lambda"
    final.data.validation = 0.0
    final.seed = [5, 6]
"#;

/// Whether there is a Slurm; the tests that need it take turns.
fn slurm(test: &str) -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    let answers = Command::new("sinfo").arg("--noheader").output().is_ok_and(|output| output.status.success());
    if std::env::var_os("SLURM_CONF").is_none() || !answers {
        println!("SKIPPED {test}: no Slurm; `.ci/slurm start DIR` starts one");
        return None;
    }
    Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

fn said(command: &str, arguments: &[&str]) -> String {
    let output = Command::new(command).args(arguments).output().unwrap();
    assert!(output.status.success(), "{command} {arguments:?}: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The states of a job's tasks, by their numbers.
fn states(job: &str) -> Vec<(String, String)> {
    let lines = said("squeue", &["--noheader", "--array", "--states=all", "--format=%i %T", "--jobs", job]);
    let pair = |line: &str| line.split_once(' ').map(|(id, state)| (id.to_owned(), state.to_owned())).unwrap();
    lines.lines().map(pair).collect()
}

fn wait_until(what: &str, seconds: u64, is_true: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_true() {
        assert!(
            begin.elapsed() < Duration::from_secs(seconds),
            "{what}: not after {seconds} s\n{}",
            said("squeue", &[])
        );
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn has_ended(job: &str) -> bool {
    let ended = ["COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"];
    states(job).iter().all(|(_, state)| ended.contains(&state.as_str()))
}

/// Starts a requeued task before the two minutes have passed that Slurm makes it wait; a node refuses one that it has ended in the
/// same second.
fn start_soon(task: &str) {
    said("scontrol", &["update", &format!("jobid={task}"), "StartTime=now+3"]);
}

/// Ends a task as a machine that dies does, and puts it back into the queue.
fn kill_and_requeue(task: &str) {
    said("scancel", &["--signal=KILL", "--full", task]);
    wait_until("the end of a killed task", 30, || !states(task).iter().any(|(_, state)| state == "RUNNING"));
    said("scontrol", &["requeue", task]);
    start_soon(task);
}

struct Submitted {
    folder: tempfile::TempDir,
    jobs: Vec<String>,
}

impl Submitted {
    fn new(sweep: &str, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("jobs.toml"), sweep).unwrap();
        let mut submitted = Self { folder, jobs: Vec::new() };
        let output = submitted.call("slurm", options);
        assert!(output.status.success(), "{}", text(&output));
        let lines = text(&output);
        submitted.jobs =
            lines.lines().filter_map(|line| line.split_once(": job ")).map(|(_, job)| job.to_owned()).collect();
        submitted
    }

    fn file(&self) -> String {
        self.folder.path().join("jobs.toml").display().to_string()
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    /// `reproduce slurm` or `reproduce sweep` in the same directory.
    fn call(&self, command: &str, options: &[&str]) -> std::process::Output {
        let mut call = reproduce();
        call.args([command, &self.file(), "--device", "cpu", "--out"]).arg(self.out()).args(options).output().unwrap()
    }

    fn wait(&self, seconds: u64) {
        for job in &self.jobs {
            wait_until(&format!("job {job}"), seconds, || has_ended(job));
        }
    }

    /// Compares the merged rows with those of one process.
    fn compare(&self) {
        let whole = self.folder.path().join("whole");
        let mut call = reproduce();
        let output =
            call.args(["sweep", &self.file(), "--device", "cpu", "--quiet", "--out"]).arg(&whole).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        assert_rows(&summary(&self.out().join("summary.csv")), &summary(&whole.join("summary.csv")), "merged");
    }
}

#[test]
fn an_array_with_killed_tasks_has_the_rows_of_one_process() {
    let Some(_turn) = slurm("an_array_with_killed_tasks") else { return };
    let sweep = std::env::var("DS_SLURM_SWEEP")
        .map_or_else(|_| SWEEP.replace("epochs = 150", "epochs = 1000"), |file| std::fs::read_to_string(file).unwrap());
    let sweep = Submitted::new(&sweep, &["--array", "8", "--cpus", "1"]);
    let array = &sweep.jobs[0];
    let mut killed: Vec<String> = Vec::new();
    while killed.len() < 2 {
        // One that has begun a run, and not yet ended.
        let rows = |task: &str| sweep.out().join("shards").join(format!("{}-of-8", task.split_once('_').unwrap().1));
        wait_until("a task with a run", 120, || {
            states(array).iter().any(|(task, state)| state == "RUNNING" && rows(task).join("summary.csv").exists())
        });
        let running = states(array).into_iter().find(|(task, state)| {
            state == "RUNNING" && rows(task).join("summary.csv").exists() && !killed.contains(task)
        });
        let Some((task, _)) = running else {
            std::thread::sleep(Duration::from_millis(300));
            continue;
        };
        kill_and_requeue(&task);
        killed.push(task);
    }
    // A second submission is refused, and one by hand adds nothing: each of its tasks finds its shard in use, or made.
    let again = sweep.call("slurm", &["--array", "8", "--cpus", "1"]);
    assert!(!again.status.success() && text(&again).contains("have not ended"), "{}", text(&again));
    let second = said("sbatch", &["--parsable", &sweep.out().join("slurm/array.sh").display().to_string()]);
    sweep.wait(900);
    wait_until("the second array", 900, || has_ended(&second));
    // The last tasks may have been requeued after the merge.
    let merge = sweep.call("sweep", &["--merge"]);
    assert!(merge.status.success(), "{}", text(&merge));
    sweep.compare();
}

#[test]
fn a_selection_is_made_and_run_by_one_command() {
    let Some(_turn) = slurm("a_selection") else { return };
    let sweep = Submitted::new(&format!("{SWEEP}{SELECT}"), &["--array", "3", "--cpus", "1"]);
    assert_eq!(sweep.jobs.len(), 4);
    sweep.wait(600);
    let merge = sweep.call("sweep", &["--merge"]);
    assert!(merge.status.success() && text(&merge).contains("selected: "), "{}", text(&merge));
    let status = reproduce().args(["status", "--json"]).arg(sweep.out()).output().unwrap();
    assert!(text(&status).contains("\"left\": 0"), "{}", text(&status));
    sweep.compare();
}

/// What Slurm does a minute before the time limit, three times.
#[test]
fn a_task_that_is_told_of_its_time_limit_goes_on() {
    let Some(_turn) = slurm("a_task_that_is_told_of_its_time_limit") else { return };
    let sweep = Submitted::new(&SWEEP.replace("epochs = 150", "epochs = 1000"), &["--array", "1", "--cpus", "2"]);
    let task = format!("{}_1", sweep.jobs[0]);
    let checkpoint = || {
        let runs = std::fs::read_dir(sweep.out().join("runs"));
        runs.is_ok_and(|runs| runs.flatten().any(|run| run.path().join("checkpoint.safetensors").exists()))
    };
    for _ in 0..3 {
        wait_until("a running task", 120, || states(&task).iter().any(|(_, state)| state == "RUNNING"));
        wait_until("a checkpoint", 60, checkpoint);
        // The script is at work before a signal comes; the shortest limit is a minute.
        std::thread::sleep(Duration::from_secs(1));
        said("scancel", &["--signal=USR1", "--batch", &task]);
        wait_until("the requeued task", 60, || states(&task).iter().any(|(_, state)| state == "PENDING"));
        start_soon(&task);
    }
    sweep.wait(600);
    let restarts = said("scontrol", &["show", "job", &task]);
    assert!(restarts.contains("Restarts=3"), "{restarts}");
    sweep.compare();
}

/// The same with the limit itself, which Slurm counts in minutes.
#[test]
fn a_task_that_meets_its_time_limit_goes_on() {
    if std::env::var_os("DS_SLURM_LONG").is_none() {
        println!("SKIPPED a_task_that_meets_its_time_limit: it takes some ten minutes; DS_SLURM_LONG=1 runs it");
        return;
    }
    let Some(_turn) = slurm("a_task_that_meets_its_time_limit") else { return };
    let longer = SWEEP.replace("epochs = 150", "epochs = 12000");
    let sweep = Submitted::new(&longer, &["--array", "1", "--cpus", "2", "--time", "00:02:00"]);
    let task = format!("{}_1", sweep.jobs[0]);
    while !has_ended(&task) {
        if states(&task).iter().any(|(_, state)| state == "PENDING") {
            start_soon(&task);
        }
        std::thread::sleep(Duration::from_secs(5));
    }
    sweep.wait(60);
    let job = said("scontrol", &["show", "job", &task]);
    let restarts = job.split("Restarts=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap().to_owned();
    println!("met its time limit {restarts} times");
    assert!(restarts.parse::<u32>().unwrap() >= 3, "{job}");
    sweep.compare();
}

#[test]
fn without_slurm_the_scripts_are_written_and_what_is_missing_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("no slurm's.toml"), folder.path().join("a b"));
    std::fs::write(&file, format!("name = \"jobs\"\n{SWEEP}{SELECT}")).unwrap();
    let call = |options: &[&str]| {
        let mut call = reproduce();
        call.args(["slurm"]).arg(&file).arg("--out").arg(&out).args(options).env("PATH", "/nowhere").output().unwrap()
    };
    let refused = call(&[]);
    assert!(!refused.status.success(), "{}", text(&refused));
    for part in ["sbatch", "login node", "--dry-run"] {
        assert!(text(&refused).contains(part), "{part}: {}", text(&refused));
    }
    let options = [
        "--dry-run",
        "--time",
        "1-00:00:00",
        "--partition",
        "gpu",
        "--gpus",
        "2",
        "--sbatch=--account=lab",
        "--array",
        "99",
    ];
    let dry = call(&options);
    assert!(dry.status.success(), "{}", text(&dry));
    let said = text(&dry);
    // There are 20 runs.
    assert!(said.contains("20 shards of 20 runs") && said.matches("sbatch --parsable").count() == 4, "{said}");
    let script = std::fs::read_to_string(out.join("slurm/array.sh")).unwrap();
    for part in [
        "#SBATCH --array=1-20\n",
        "#SBATCH --time=1-00:00:00\n",
        "#SBATCH --partition=gpu\n",
        "#SBATCH --gpus=2\n",
        "#SBATCH --account=lab\n",
        "--signal=B:USR1@60\n",
        "shards=20\n",
        "scontrol requeue",
    ] {
        assert!(script.contains(part), "{part}: {script}");
    }
    for name in ["array.sh", "merge.sh"] {
        let checked = Command::new("bash").arg("-n").arg(out.join("slurm").join(name)).output().unwrap();
        assert!(checked.status.success(), "{}", text(&checked));
    }
    // A task of the script, as Slurm would start it.
    let task = Command::new("bash")
        .arg(out.join("slurm/array.sh"))
        .env("SLURM_ARRAY_TASK_ID", "3")
        .env("SLURM_ARRAY_JOB_ID", "1")
        .output()
        .unwrap();
    assert!(task.status.success(), "{}", text(&task));
    assert_eq!(summary(&out.join("shards/3-of-20/summary.csv")).len(), 1);
    let merge = Command::new("bash").arg(out.join("slurm/merge.sh")).output().unwrap();
    assert!(!merge.status.success() && text(&merge).contains("19 runs are missing"), "{}", text(&merge));
    for wrong in [["--time", "soon"], ["--partition", "a b"], ["--sbatch", "account"], ["--array", "0"]] {
        assert!(!call(&["--dry-run", wrong[0], wrong[1]]).status.success(), "{wrong:?}");
    }
}

#[test]
fn scripts_of_another_definition_leave_that_of_jobs_that_wait() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("jobs.toml"), folder.path().join("out"));
    let definitions = |text_of_sweep: &str| {
        std::fs::write(&file, text_of_sweep).unwrap();
        let output = reproduce().arg("slurm").arg(&file).args(["--dry-run", "--out"]).arg(&out).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        ["array.sh", "merge.sh"].map(|script| {
            let script = std::fs::read_to_string(out.join("slurm").join(script)).unwrap();
            let named = script.lines().find_map(|line| line.strip_prefix("sweep=")).unwrap();
            PathBuf::from(named.trim_matches('\''))
        })
    };
    let edited = SWEEP.replace("epochs = 150", "epochs = 7");
    let ([first, of_merge], [second, _]) = (definitions(SWEEP), definitions(&edited));
    assert!(first == of_merge && first != second, "{first:?} {of_merge:?} {second:?}");
    assert_eq!(std::fs::read_to_string(&first).unwrap(), SWEEP);
    assert_eq!(std::fs::read_to_string(&second).unwrap(), edited);
    // A sweep without a name has that of its file.
    assert!(first.ends_with("jobs.toml"), "{first:?}");
}

#[test]
fn arrays_whose_tasks_would_all_fail_get_no_scripts() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("jobs.toml"), folder.path().join("out"));
    let tiny = "[config]\nexperiment = \"area2d\"\ndata.train_points = 60\ndata.test_grid = 20\ntrain.epochs = 1\n\
                train.milestones = []\n[[grid]]\nseed = \"0..4\"\n";
    std::fs::write(&file, tiny).unwrap();
    let call = |command: &str, options: &[&str]| {
        let mut call = reproduce();
        call.arg(command).arg(&file).args(["--device", "cpu", "--out"]).arg(&out).args(options).output().unwrap()
    };
    let made = call("sweep", &["--shard", "1/2", "--quiet"]);
    assert!(made.status.success(), "{}", text(&made));
    let refused = |array: &str, part: &str| {
        let output = call("slurm", &["--dry-run", "--array", array]);
        assert!(!output.status.success() && text(&output).contains(part), "{}", text(&output));
        assert!(text(&output).contains("sweep.toml --out "), "{}", text(&output));
        assert!(!out.join("slurm").exists());
    };
    refused("3", "--array 2");
    std::fs::write(&file, tiny.replace("epochs = 1", "epochs = 2")).unwrap();
    refused("2", "another definition");
    std::fs::write(&file, tiny).unwrap();
    let same = call("slurm", &["--dry-run", "--array", "2"]);
    assert!(same.status.success() && out.join("slurm/array.sh").exists(), "{}", text(&same));
}

#[test]
fn a_tilde_is_the_home_folder_in_scripts() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("jobs.toml"), SWEEP).unwrap();
    let arguments = ["slurm", "~/jobs.toml", "--dry-run", "--data-dir=~/data", "--out=~/out"];
    let output = reproduce().args(arguments).env("HOME", home.path()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let script = std::fs::read_to_string(home.path().join("out/slurm/array.sh")).unwrap();
    let expected = format!(" --data-dir {}", home.path().join("data").display());
    assert!(script.contains(&expected) && !script.contains('~'), "{expected}: {script}");
}

#[test]
fn a_directory_without_a_sweep_has_no_status() {
    let folder = tempfile::tempdir().unwrap();
    let output = reproduce().arg("status").arg(folder.path()).output().unwrap();
    assert!(!output.status.success() && text(&output).contains("no sweep.toml"), "{}", text(&output));
    assert!(!Path::new(&folder.path().join(".lock")).exists());
}
