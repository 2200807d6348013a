//! A sweep as a Slurm job array: scripts that can be read, edited and submitted by hand, and their submission.

use crate::sweep::directory;
use anyhow::{Context, Result, bail};
use ds_lab::cli::DataArgs;
use ds_lab::data::Source;
use ds_lab::file_names::SLURM;
use ds_lab::files::{md5, write_atomically};
use ds_lab::lock::DirectoryLock;
use ds_lab::outln;
use ds_lab::sweep::{Sweep, check_shards};
use std::path::{Path, PathBuf, absolute};
use std::process::Command;

/// Arguments of `reproduce slurm`.
#[derive(Debug, clap::Args)]
pub struct SlurmArgs {
    /// The sweep (TOML).
    pub sweep: PathBuf,
    #[command(flatten)]
    pub data: DataArgs,
    /// The sweep's directory [default: results/NAME].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Tasks of the job array, each a shard of the runs [default: 8, or as many as there are runs].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub array: Option<u32>,
    /// Time limit of a task; one that meets it is requeued and goes on.
    #[arg(long, value_name = "TIME", default_value = "02:00:00", value_parser = time)]
    pub time: String,
    /// Partition.
    #[arg(long, value_name = "P", value_parser = word)]
    pub partition: Option<String>,
    /// GPUs of a task.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub gpus: u32,
    /// CPUs of a task.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub cpus: u32,
    /// More options of sbatch, each as one value, such as --sbatch=--account=A --sbatch=--mem=8G.
    #[arg(long = "sbatch", value_name = "OPTION", allow_hyphen_values = true, value_parser = option)]
    pub options: Vec<String>,
    /// Write the scripts, print the commands that submit them, and submit nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// Scripts in the sweep's directory.
const ARRAY: &str = "array.sh";
const MERGE: &str = "merge.sh";
/// The numbers of the jobs that were submitted last.
const JOBS: &str = "jobs";

/// As Slurm has it, such as `90`, `90:00`, `01:30:00`, `1-12` or `1-12:00:00`.
fn time(text: &str) -> Result<String, String> {
    let (days, rest) = text.split_once('-').map_or((None, text), |(days, rest)| (Some(days), rest));
    let parts: Vec<&str> = rest.split(':').collect();
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if parts.len() <= 3 && parts.iter().chain(&days).all(is_number) {
        return Ok(text.to_owned());
    }
    Err("a time of Slurm, such as 02:00:00 or 1-12:00:00".to_owned())
}

fn word(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) { Ok(text.to_owned()) } else { Err("a name".to_owned()) }
}

fn option(text: &str) -> Result<String, String> {
    if text.starts_with("--") && !text.chars().any(char::is_control) {
        return Ok(text.to_owned());
    }
    Err("an option of sbatch on one line, beginning with --".to_owned())
}

pub fn run(args: &SlurmArgs) -> Result<()> {
    let sweep = Sweep::load(&args.sweep)?;
    args.data.source()?;
    let runs = sweep.runs()?;
    let count = runs.len();
    let shards = args.array.map_or(8.min(count), |array| (array as usize).min(count)).max(1);
    let out = absolute(directory(&sweep, args.out.as_deref())).context("--out")?;
    // Else all tasks would fail, perhaps hours later.
    check_shards(&out, &sweep, &runs, shards)?;
    let folder = out.join(SLURM);
    make_directory(&folder)?;
    let _lock = DirectoryLock::acquire(&folder)?;
    if !args.dry_run {
        check_slurm()?;
        check_submitted(&folder)?;
    }
    // Jobs that wait read the copy that their script names: another definition, as of a dry run, has another one.
    let text = std::fs::read(&args.sweep).with_context(|| format!("cannot read {}", args.sweep.display()))?;
    let copies = folder.join(md5(&text));
    make_directory(&copies)?;
    let copy = copies.join(format!("{}.toml", sweep.name));
    write(&copy, &text)?;
    let call = Call { program: std::env::current_exe().context("the path of this program")?, sweep: copy, out };
    write(&folder.join(ARRAY), call.array(args, &sweep.name, shards)?.as_bytes())?;
    write(&folder.join(MERGE), call.merge(args, &sweep.name)?.as_bytes())?;
    // A selection is made by the first merge, and its runs are a second array.
    let stages = if sweep.has_selection() { 2 } else { 1 };
    let scripts = [ARRAY, MERGE].into_iter().cycle().take(2 * stages);
    if args.dry_run {
        outln!("{} shards of {count} runs; to submit them:", shards);
        for (k, script) in scripts.enumerate() {
            let after = if k == 0 { String::new() } else { format!(" --dependency=afterany:\"$job{}\"", k - 1) };
            outln!("job{k}=$(sbatch --parsable{after} {})", quoted(&folder.join(script))?);
        }
        return Ok(());
    }
    let mut jobs: Vec<String> = Vec::new();
    for script in scripts {
        match submit(&folder.join(script), jobs.last()) {
            Ok(job) => jobs.push(job),
            Err(error) => {
                // What was submitted is known all the same.
                write(&folder.join(JOBS), jobs.join("\n").as_bytes())?;
                return Err(error);
            }
        }
        outln!("{}: job {}", folder.join(script).display(), jobs[jobs.len() - 1]);
    }
    write(&folder.join(JOBS), (jobs.join("\n") + "\n").as_bytes())?;
    outln!("{shards} shards of {count} runs; `reproduce status {}` tells how far they are", call.out.display());
    Ok(())
}

fn make_directory(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("cannot make the directory {}", path.display()))
}

fn write(path: &Path, text: &[u8]) -> Result<()> {
    Ok(write_atomically(path, |file| file.write_all(text))?)
}

/// A path for a shell.
fn quoted(path: &Path) -> Result<String> {
    let Some(text) = path.to_str() else { bail!("{} is no UTF-8, which a job script must be", path.display()) };
    if text.contains(['\n', '\r']) {
        bail!("{text:?} has a line break, which a job script cannot have");
    }
    Ok(shell(text))
}

fn shell(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/-_.,=:+".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// What jobs call.
struct Call {
    program: PathBuf,
    /// The copy of the sweep's file.
    sweep: PathBuf,
    out: PathBuf,
}

impl Call {
    /// The lines that both scripts begin with.
    fn head(&self, args: &SlurmArgs, name: &str, directives: &[String]) -> Result<String> {
        let mut text = String::from("#!/bin/bash\n");
        let partition = args.partition.iter().map(|partition| format!("--partition={partition}"));
        for option in
            [format!("--job-name={}", shell(name))].into_iter().chain(directives.iter().cloned()).chain(partition)
        {
            text += &format!("#SBATCH {option}\n");
        }
        let folder = std::env::current_dir().context("the current directory")?;
        text += &format!(
            "# Written by `reproduce slurm`. It may be edited, and submitted with sbatch.\nset -u\ncd {}\nreproduce={}\n",
            quoted(&folder)?,
            quoted(&self.program)?
        );
        text += &format!("sweep={}\nout={}\n", quoted(&self.sweep)?, quoted(&self.out)?);
        Ok(text)
    }

    fn array(&self, args: &SlurmArgs, name: &str, shards: usize) -> Result<String> {
        let mut directives = vec![
            format!("--array=1-{shards}"),
            format!("--time={}", args.time),
            format!("--cpus-per-task={}", args.cpus),
            format!("--output={}", quoted(&self.out.join(SLURM).join("%A_%a.log"))?),
            "--open-mode=append".to_owned(),
            "--requeue".to_owned(),
            "--signal=B:USR1@60".to_owned(),
        ];
        if args.gpus > 0 {
            directives.push(format!("--gpus={}", args.gpus));
        }
        directives.extend(args.options.iter().cloned());
        let mut text = self.head(args, name, &directives)?;
        let data = data_options(&args.data)?;
        text += &format!(
            r#"# A minute before the time limit the runs write their checkpoints, and the task goes on in the queue. One that is cancelled ends.
program= ended= limit=
end() {{ ended=yes; [ -z "$program" ] || kill -TERM "$program" 2> /dev/null; }}
trap 'limit=yes; end' USR1
trap end TERM

# The division of the runs: it stays the same if only some tasks are submitted again, with sbatch --array=3,5.
shards={shards}
"$reproduce" sweep "$sweep" --shard "$SLURM_ARRAY_TASK_ID/$shards" --out "$out" --quiet{data} &
program=$!
[ -z "$ended" ] || end
wait "$program"; status=$?
# A signal ends the first wait before the program has ended.
while kill -0 "$program" 2> /dev/null; do wait "$program"; status=$?; done
if [ -n "$limit" ] && [ "$status" -ne 0 ]; then
    exec scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$status"
"#
        );
        Ok(text)
    }

    fn merge(&self, args: &SlurmArgs, name: &str) -> Result<String> {
        let mut directives = vec![
            "--time=00:30:00".to_owned(),
            "--cpus-per-task=1".to_owned(),
            format!("--output={}", quoted(&self.out.join(SLURM).join("merge-%j.log"))?),
        ];
        directives.extend(args.options.iter().cloned());
        let text = self.head(args, &format!("{name}-merge"), &directives)?;
        Ok(text + "\n\"$reproduce\" sweep \"$sweep\" --merge --out \"$out\"\n")
    }
}

/// The options of data and device, as a job gets them.
fn data_options(data: &DataArgs) -> Result<String> {
    let source = match data.source()? {
        Source::Sample => " --data sample".to_owned(),
        Source::Auto { dir: Some(dir) } => format!(" --data-dir {}", quoted(&absolute(&dir).context("--data-dir")?)?),
        Source::Auto { dir: None } => String::new(),
    };
    let device = data.device_arguments().iter().map(|option| format!(" {}", shell(option))).collect::<String>();
    Ok(source + &device)
}

/// Refuses to go on without Slurm's commands.
fn check_slurm() -> Result<()> {
    for command in ["sbatch", "squeue"] {
        let found = Command::new(command).arg("--version").output();
        if !found.is_ok_and(|output| output.status.success()) {
            bail!(
                "Slurm's `{command}` does not run here: call this on a login node of the cluster, or write the scripts with \
                 --dry-run and submit them there"
            );
        }
    }
    Ok(())
}

/// Refuses a second submission while jobs of the first one wait or run.
fn check_submitted(folder: &Path) -> Result<()> {
    let Ok(text) = std::fs::read_to_string(folder.join(JOBS)) else { return Ok(()) };
    let mut waiting = Vec::new();
    for job in text.split_whitespace() {
        // It fails for a job that has ended some time ago.
        let output =
            Command::new("squeue").args(["--noheader", "--format=%i", "--jobs", job]).output().context("squeue")?;
        if output.status.success() && !output.stdout.trim_ascii().is_empty() {
            waiting.push(job);
        }
    }
    if waiting.is_empty() {
        return Ok(());
    }
    let jobs = waiting.join(" ");
    bail!(
        "this sweep has been submitted, and its jobs {jobs} have not ended: wait for them, or end them with `scancel {jobs}`"
    )
}

fn submit(script: &Path, after: Option<&String>) -> Result<String> {
    let mut command = Command::new("sbatch");
    command.arg("--parsable");
    if let Some(job) = after {
        command.arg(format!("--dependency=afterany:{job}"));
    }
    let output = command.arg(script).output().context("sbatch")?;
    if !output.status.success() {
        bail!("sbatch {} failed: {}", script.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    // The number, and the cluster behind a semicolon.
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(text.split(';').next().unwrap_or_default().to_owned())
}
