//! Several processes that train together, one a GPU, as `torchrun` starts them: the one that the user started computes nothing, but
//! starts a copy of itself for each GPU and ends them all when one of them fails.
//!
//! A worker knows its [`WorkerRank`] from the environment, and gets what all must share as a line of its standard input. That stays open
//! as long as the launcher lives: a worker whose input ends has nobody to end it any more, and ends itself.

use crate::interrupt;
use anyhow::{Context, Result, anyhow, bail};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStderr, ChildStdin, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The variable that tells a worker its rank, as RANK/SIZE.
const WORKER_ENV: &str = "DS_WORKER";

/// Time from one look at the workers to the next.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Time to wait for rank 0's own message, which the user sees directly, when another worker has failed.
const GRACE: Duration = Duration::from_secs(2);

/// Number of lines of a worker's output that are kept.
const LINES: usize = 20;

/// A worker's place among the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerRank {
    /// From 0; also the number of its GPU.
    pub rank: usize,
    /// Number of workers.
    pub size: usize,
}

impl WorkerRank {
    /// The rank of this process; `None` if it is no worker.
    ///
    /// # Errors
    /// If the variable is set to anything else.
    pub fn of_this_process() -> Result<Option<Self>> {
        let Some(text) = std::env::var_os(WORKER_ENV) else { return Ok(None) };
        let text = text.to_string_lossy();
        let numbers = text.split_once('/').and_then(|(rank, size)| Some((rank.parse().ok()?, size.parse().ok()?)));
        match numbers {
            Some((rank, size)) if rank < size => Ok(Some(Self { rank, size })),
            _ => bail!(
                "{WORKER_ENV} is `{text}`; it is for processes that --gpus starts, which have RANK/SIZE there: unset it"
            ),
        }
    }

    /// The command that starts this program once more, with the same arguments, as the worker of this rank.
    ///
    /// # Errors
    /// If the program cannot be found any more.
    pub fn command(self) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe().context("cannot find this program to start it again")?);
        command.args(std::env::args_os().skip(1)).env(WORKER_ENV, format!("{}/{}", self.rank, self.size));
        Ok(command)
    }

    /// The line that the launcher sends. From then on the process ends when the launcher does, after its checkpoint.
    ///
    /// # Errors
    /// If there is no such line.
    pub fn line_from_launcher(self) -> Result<String> {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).context("reading from the launcher")?;
        if !line.ends_with('\n') {
            bail!("{WORKER_ENV} is set, but no launcher has started this process: unset it");
        }
        interrupt::end_with_parent();
        Ok(line.trim_end().to_owned())
    }
}

/// Ends a worker that failed, once it has said why. What is done at a usual end of a process would wait for the GPU, which may be
/// waiting for other workers.
pub fn exit_immediately() -> ! {
    #[cfg(target_os = "linux")]
    // SAFETY: nothing of the process is used any more.
    unsafe {
        libc::_exit(1)
    }
    #[cfg(not(target_os = "linux"))]
    std::process::exit(1)
}

/// Starts a command for each rank, sends it a line, and waits until all have ended well. Rank 0 has the terminal; what the others
/// say is told if one of them fails.
///
/// # Errors
/// If one cannot be started or fails; all others are ended then.
pub fn supervise(commands: Vec<Command>, line: &str) -> Result<()> {
    let mut workers = Workers(Vec::with_capacity(commands.len()));
    for (rank, mut command) in commands.into_iter().enumerate() {
        command.stdin(Stdio::piped());
        if rank > 0 {
            command.stdout(Stdio::null()).stderr(Stdio::piped());
        }
        let mut process = command.spawn().with_context(|| format!("cannot start the process of rank {rank}"))?;
        let said = process.stderr.take().map(|pipe| std::thread::spawn(|| last_lines(pipe)));
        let mut input = process.stdin.take().ok_or_else(|| anyhow!("the process of rank {rank} has no input"))?;
        // One that is gone already is found below, with its reason.
        writeln!(input, "{line}").ok();
        workers.0.push(Worker { process, input: Some(input), said });
    }
    workers.watch()
}

fn last_lines(pipe: ChildStderr) -> String {
    let mut lines = VecDeque::new();
    // All of it must be read, or the worker would wait.
    for line in BufReader::new(pipe).split(b'\n').map_while(std::io::Result::ok) {
        lines.push_back(String::from_utf8_lossy(&line).into_owned());
        if lines.len() > LINES {
            lines.pop_front();
        }
    }
    Vec::from(lines).join("\n")
}

struct Worker {
    process: Child,
    /// Open as long as the launcher lives and the worker is to train.
    input: Option<ChildStdin>,
    said: Option<JoinHandle<String>>,
}

/// All of them; they end with it.
struct Workers(Vec<Worker>);

impl Workers {
    fn watch(mut self) -> Result<()> {
        // Signals are for the workers, which write a checkpoint first.
        let _deferred = interrupt::Deferred::begin();
        loop {
            if interrupt::received().is_some() {
                // The workers of a terminal have the signal, too; those that have not end with their input.
                self.0.iter_mut().for_each(|worker| drop(worker.input.take()));
            }
            let mut running = false;
            for rank in 0..self.0.len() {
                match self.0[rank].process.try_wait()? {
                    None => running = true,
                    Some(status) if status.success() => {}
                    Some(_) if interrupt::received().is_some() => {}
                    Some(status) => return self.failed(rank, status),
                }
            }
            if !running {
                return Ok(interrupt::check()?);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn failed(mut self, rank: usize, status: ExitStatus) -> Result<()> {
        let (size, end) = (self.0.len(), Instant::now() + GRACE);
        while Instant::now() < end {
            if let Some(status) = self.0[0].process.try_wait()?.filter(|status| !status.success()) {
                bail!("rank 0 of {size} failed ({status}); what it said is above, and all others were ended");
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        let said = self.0[rank].said.take().and_then(|said| said.join().ok()).unwrap_or_default();
        bail!("rank {rank} of {size} failed ({status}), and all others were ended; it said:\n{said}")
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in &mut self.0 {
            // One that has ended cannot be killed, and need not be.
            worker.process.kill().ok();
            worker.process.wait().ok();
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn workers_get_the_line_and_end_well() {
        let reads = || shell("read line; test \"$line\" = hello");
        supervise(vec![reads(), reads()], "hello").unwrap();
        let message = supervise(vec![reads(), reads()], "goodbye").unwrap_err().to_string();
        assert!(message.contains("rank 0 of 2 failed"), "{message}");
    }

    #[test]
    fn one_that_fails_ends_the_others_and_is_told_of() {
        let directory = tempfile::tempdir().unwrap();
        let pid = directory.path().join("pid");
        let sleeps = shell(&format!("echo $$ > {}; exec sleep 600", pid.display()));
        let fails = shell(&format!("while ! [ -s {} ]; do sleep 0.01; done; echo no room >&2; exit 3", pid.display()));
        let message = supervise(vec![sleeps, shell("exec sleep 600"), fails], "").unwrap_err().to_string();
        assert!(message.contains("rank 2 of 3") && message.contains("no room") && message.contains('3'), "{message}");
        let pid = std::fs::read_to_string(pid).unwrap();
        let is_there = shell(&format!("kill -0 {} 2> /dev/null", pid.trim())).status().unwrap();
        assert!(!is_there.success(), "rank 0 still runs");
    }

    #[test]
    fn the_first_one_has_the_word() {
        // Both fail for the same reason, the first one a little later.
        let message = supervise(vec![shell("sleep 0.2; exit 1"), shell("echo why >&2; exit 1")], "").unwrap_err();
        assert!(message.to_string().contains("rank 0 of 2 failed"), "{message}");
    }

    /// This test as a process of its own is a worker that would wait for ever.
    #[test]
    fn a_worker_ends_with_its_launcher() {
        if let Some(worker) = WorkerRank::of_this_process().unwrap() {
            assert_eq!(
                (worker, worker.line_from_launcher().unwrap().as_str()),
                (WorkerRank { rank: 1, size: 2 }, "hello")
            );
            println!("ranked");
            loop {
                std::thread::park();
            }
        }
        let mut worker = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "launch::tests::a_worker_ends_with_its_launcher", "--nocapture"])
            .env(WORKER_ENV, "1/2")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = worker.stdin.take().unwrap();
        writeln!(input, "hello").unwrap();
        let mut lines = BufReader::new(worker.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("ranked")));
        assert!(worker.try_wait().unwrap().is_none());
        drop(input);
        assert_eq!(worker.wait().unwrap().code(), Some(143));
    }

    #[test]
    fn a_rank_that_no_launcher_gave_is_refused() {
        let command = WorkerRank { rank: 0, size: 1 }.command().unwrap();
        assert!(command.get_envs().any(|(name, value)| name == WORKER_ENV && value == Some("0/1".as_ref())));
        for worker in ["2/2", "x"] {
            let mut test = Command::new(std::env::current_exe().unwrap());
            test.args(["--exact", "launch::tests::a_worker_ends_with_its_launcher"]).env(WORKER_ENV, worker);
            let output = test.output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(!output.status.success() && text.contains("unset it"), "{text}");
        }
    }
}
