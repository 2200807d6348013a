//! Records the revision of the source that the crate is built from, for the results that its runs write.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What decides what the program computes.
const SOURCES: [&str; 3] = ["crates", "experiments", "Cargo.lock"];

fn main() {
    println!("cargo::rerun-if-env-changed=DS_REVISION");
    // Of this build, not of that of the script: checkouts may share a target directory, and with it the compiled script.
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("../..");
    for source in SOURCES {
        rerun_if_changed(&root.join(source));
    }
    let said = std::env::var("DS_REVISION").ok().filter(|said| !said.is_empty());
    let revision = said.or_else(|| revision(&root)).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=DS_BUILD_REVISION={revision}");
}

/// HEAD, with `-dirty` where the sources were changed; `None` where the root is not that of a repository, but a folder inside of
/// another one, or no git is there.
fn revision(root: &Path) -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let of_repository = PathBuf::from(git(&["rev-parse", "--show-toplevel"])?).canonicalize().ok()?;
    if of_repository != root.canonicalize().ok()? {
        return None;
    }
    let directory = PathBuf::from(git(&["rev-parse", "--absolute-git-dir"])?);
    for file in ["HEAD", "logs/HEAD"] {
        rerun_if_changed(&directory.join(file));
    }
    let revision = git(&["rev-parse", "--short=12", "HEAD"])?;
    let mut status = vec!["status", "--porcelain", "--untracked-files=no", "--"];
    status.extend(SOURCES);
    let is_clean = git(&status).is_some_and(|changes| changes.is_empty());
    Some(if is_clean { revision } else { revision + "-dirty" })
}

/// Cargo runs the script at every build for a path that is not there.
fn rerun_if_changed(path: &Path) {
    if path.exists() {
        println!("cargo::rerun-if-changed={}", path.display());
    }
}
