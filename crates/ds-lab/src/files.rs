//! Files that are written whole or not at all, and what a result says about its origin.

use md5::{Digest, Md5};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct FileError {
    /// `write`, `read`, …
    pub action: &'static str,
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// Writes a file beside its place, syncs it and renames it: a reader sees the old file or the whole new one.
///
/// # Errors
/// If the directory is missing or not writable, or the disk is full; the old file is then untouched.
pub fn write_atomically(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), FileError> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = directory.join(name);
    let write = || -> io::Result<()> {
        let mut file = BufWriter::new(std::fs::File::create(&temporary)?);
        content(&mut file)?;
        file.flush()?;
        file.get_ref().sync_all()?;
        std::fs::rename(&temporary, path)?;
        // The rename itself must survive a power cut.
        std::fs::File::open(directory)?.sync_all()
    };
    write().map_err(|source| {
        // Nothing half-written stays behind; that it may not be there is no second error.
        let _ = std::fs::remove_file(&temporary);
        FileError { action: "write", path: path.to_owned(), source }
    })
}

/// The git revision of the source, with `-dirty` where it was changed. Where there is no repository it is what `DS_REVISION` says,
/// which those set who bring a binary to another machine, or else `unknown`.
pub fn git_revision() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(revision) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return std::env::var("DS_REVISION")
            .ok()
            .filter(|said| !said.is_empty())
            .unwrap_or_else(|| "unknown".to_owned());
    };
    // Results that a run writes do not change what it computes.
    match git(&["status", "--porcelain", "--untracked-files=no", "--", ":/crates", ":/experiments", ":/Cargo.lock"]) {
        Some(changes) if changes.is_empty() => revision,
        _ => revision + "-dirty",
    }
}

/// The path with a leading `~` as the user's home folder, as shells have it; they leave `--out=~/x` and variables as they are.
/// `~user` is left, and so is everything where no home folder is known.
pub fn expand_home(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::home_dir()) {
        (Ok(rest), Some(home)) if rest.as_os_str().is_empty() => home,
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

/// The MD5 of bytes, as hexadecimal digits.
pub fn md5(bytes: &[u8]) -> String {
    Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The most memory that the process has held, in MB (10⁶ bytes), where the system tells.
pub fn peak_memory_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some((kibibytes * 1.024).round() / 1e3)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        write_atomically(&path, |file| file.write_all(b"old")).unwrap();
        let error = write_atomically(&path, |file| {
            file.write_all(b"half")?;
            Err(io::Error::other("disk full"))
        });
        assert!(error.unwrap_err().to_string().contains("disk full"));
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_tilde_is_the_home_folder() {
        let home = std::env::home_dir().unwrap();
        assert_eq!(expand_home(Path::new("~")), home);
        assert_eq!(expand_home(Path::new("~/data/x")), home.join("data/x"));
        for path in ["data/~/x", "~user/x", "/a", "", "x~"] {
            assert_eq!(expand_home(Path::new(path)), Path::new(path));
        }
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = write_atomically(Path::new("no/such/place"), |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("no/such/place"));
    }
}
