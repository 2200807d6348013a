//! Files that are written whole or not at all, and what a result says about its origin.

use md5::{Digest, Md5};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// A file that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
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
    write_and_sync(path, content, |directory| File::open(directory)?.sync_all())
}

fn write_and_sync(
    path: &Path,
    content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    sync_directory: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<(), FileError> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = directory.join(name);
    let write = || -> io::Result<()> {
        let mut file = BufWriter::new(File::create(&temporary)?);
        content(&mut file)?;
        file.flush()?;
        sync(file.get_ref())?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|source| {
        // Nothing half-written stays behind; that it may not be there is no second error.
        let _ = std::fs::remove_file(&temporary);
        FileError { action: "write", path: path.to_owned(), source }
    })?;
    // The rename itself should survive a power cut. Not every system can sync a directory (Windows, SMB, FUSE), and the file is in
    // its place all the same.
    let _ = sync_directory(directory);
    Ok(())
}

/// Waits until the contents of a file are on the disk, where the file system can tell.
///
/// # Errors
/// If the data could not be written, because the disk is full or fails.
pub fn sync(file: &File) -> io::Result<()> {
    match file.sync_data() {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        result => result,
    }
}

/// Whether a file name is that of a temporary of [`write_atomically`] for the file `name`, left by a process that was killed.
pub fn is_temporary_of(file: &OsStr, name: &str) -> bool {
    let pid = file.to_str().and_then(|file| file.strip_prefix(name)?.strip_prefix('.')?.strip_suffix(".tmp"));
    pid.is_some_and(|pid| !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Renames a file to its name with `.damaged` behind it, and a number where there is one already; returns the new path.
///
/// # Errors
/// If it cannot be renamed.
pub fn set_aside(path: &Path) -> Result<PathBuf, FileError> {
    let named = |end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    let mut free = named(".damaged");
    let mut number = 2;
    while free.symlink_metadata().is_ok() {
        free = named(&format!(".damaged{number}"));
        number += 1;
    }
    let failed = |source| FileError { action: "rename", path: path.to_owned(), source };
    std::fs::rename(path, &free).map_err(failed)?;
    Ok(free)
}

/// Removes a file and the temporaries that killed processes left of it.
///
/// # Errors
/// If one is there and cannot be removed.
pub fn remove_written(directory: &Path, name: &str) -> Result<(), FileError> {
    let remove = |path: PathBuf| match std::fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(FileError { action: "remove", path, source }),
        _ => Ok(()),
    };
    remove_temporaries(directory, name)?;
    remove(directory.join(name))
}

/// Removes the temporaries that killed processes left of a file. Only for directories that are locked.
///
/// # Errors
/// If one is there and cannot be removed.
pub fn remove_temporaries(directory: &Path, name: &str) -> Result<(), FileError> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Ok(()) };
    for entry in entries.flatten().filter(|entry| is_temporary_of(&entry.file_name(), name)) {
        let path = entry.path();
        std::fs::remove_file(&path).map_err(|source| FileError { action: "remove", path, source })?;
    }
    Ok(())
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

/// The git revision that the program was built from, with `-dirty` where the source was changed, or `unknown`. `DS_REVISION` is
/// taken first, at build time and at run time.
pub fn revision() -> String {
    let said = std::env::var("DS_REVISION").ok().filter(|said| !said.is_empty());
    said.unwrap_or_else(|| env!("DS_BUILD_REVISION").to_owned())
}

/// The MD5 of bytes, as hexadecimal digits.
pub fn md5(bytes: &[u8]) -> String {
    hexadecimal(Md5::new_with_prefix(bytes))
}

/// The digest of all that a hasher was given, as hexadecimal digits.
pub fn hexadecimal(hasher: Md5) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
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
        assert_eq!(error.unwrap_err().source.to_string(), "disk full");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_that_cannot_be_synced_is_no_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let not_here = |_: &Path| Err(io::Error::from(io::ErrorKind::InvalidInput));
        write_and_sync(&path, |file| file.write_all(b"new"), not_here).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn temporaries_of_killed_processes_are_removed_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let others = ["a.csv", "a.csv.tmp", "a.csv.12x.tmp", "b.csv.12.tmp", "a.csv.12.tmp.bak"];
        for name in others.into_iter().chain(["a.csv.12.tmp", "a.csv.3.tmp"]) {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        remove_temporaries(directory.path(), "a.csv").unwrap();
        let left = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut left: Vec<_> = left.map(|name| name.into_string().unwrap()).collect();
        left.sort();
        let mut others = others.map(str::to_owned);
        others.sort();
        assert_eq!(left, others);
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
    fn the_cause_of_an_error_is_said_once() {
        let error = anyhow::Error::from(write_atomically(Path::new("no/such/place"), |_| Ok(())).unwrap_err());
        let text = format!("{error:#}");
        assert_eq!(text.matches("No such file").count(), 1, "{text}");
    }

    #[test]
    fn the_revision_is_that_of_the_build() {
        let built = env!("DS_BUILD_REVISION");
        let is_revision = |text: &str| text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(
            built == "unknown" || is_revision(built.trim_end_matches("-dirty")) || option_env!("DS_REVISION").is_some()
        );
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = write_atomically(Path::new("no/such/place"), |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("no/such/place"));
    }
}
