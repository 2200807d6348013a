//! Locks of directories: one process writes to a run, a sweep or a folder of results at a time.
//!
//! The lock is an advisory one of the operating system (`flock`, `LockFileEx`) on a file `.lock` in the directory. It ends with the
//! process that holds it, however that ends; the file stays.

use crate::file_names::LOCK;
use crate::files::FileError;
use crate::note;
use anyhow::{Context, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why a directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error(
        "{} is in use by {holder}: wait for it, end it, or write elsewhere with --out DIR",
        directory.display()
    )]
    Held {
        /// The directory.
        directory: PathBuf,
        /// The process, as it describes itself in the file.
        holder: String,
    },
    /// The file of the lock cannot be made.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A process that only looks whether a lock is held holds it for a moment: more tries, so many pauses after each other, see whether
/// it was one of these.
const TRIES: usize = 4;
const PAUSE: Duration = Duration::from_millis(30);

/// The lock of a directory, for as long as the value lives.
#[derive(Debug)]
#[must_use = "the lock ends with the value"]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Locks a directory that exists. On file systems without locks this prints a warning and succeeds.
    ///
    /// # Errors
    /// If another process (or another part of this one) has locked the directory, or cannot write to it.
    pub fn acquire(directory: &Path) -> Result<Self, LockError> {
        Self::acquire_for(directory, Holders::One)
    }

    /// Locks a directory that exists together with others who do the same, and against those who [`acquire`](Self::acquire) it.
    ///
    /// # Errors
    /// As for [`acquire`](Self::acquire).
    pub fn acquire_shared(directory: &Path) -> Result<Self, LockError> {
        Self::acquire_for(directory, Holders::Several)
    }

    fn acquire_for(directory: &Path, holders: Holders) -> Result<Self, LockError> {
        let path = directory.join(LOCK);
        let failed = |source| FileError { action: "write", path: path.clone(), source };
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        let lock = || match holders {
            Holders::One => file.try_lock(),
            Holders::Several => file.try_lock_shared(),
        };
        let mut locked = lock();
        for _ in 0..TRIES {
            if !matches!(locked, Err(TryLockError::WouldBlock)) {
                break;
            }
            std::thread::sleep(PAUSE);
            locked = lock();
        }
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let (directory, holder) = (directory.to_owned(), holder(&mut file));
                return Err(LockError::Held { directory, holder });
            }
            Err(TryLockError::Error(error)) => {
                note!(
                    "NOTE: {} is on a file system without locks ({error}): make sure that no other process writes to it",
                    directory.display()
                );
            }
        }
        if holders == Holders::One {
            // For the message of the next one. What it cannot say it leaves out.
            let text = description();
            let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(text.as_bytes()));
        }
        Ok(Self { _file: file })
    }
}

/// How many processes may hold a lock at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holders {
    One,
    Several,
}

/// Whether a process holds the lock of a directory.
pub fn is_locked(directory: &Path) -> bool {
    let Ok(file) = OpenOptions::new().read(true).write(true).open(directory.join(LOCK)) else { return false };
    matches!(file.try_lock(), Err(TryLockError::WouldBlock))
}

/// Locks a directory whose contents pass a check, and makes it if it is missing. A directory that does not pass is left as it is,
/// unless its lock says that another process may just be writing there.
///
/// # Errors
/// Those of the check, or if the directory cannot be made or locked.
pub fn lock_checked(directory: &Path, check: impl Fn() -> Result<()>) -> Result<DirectoryLock> {
    lock_checked_with(directory, check, DirectoryLock::acquire)
}

/// The same with a lock that several processes may hold ([`DirectoryLock::acquire_shared`]).
///
/// # Errors
/// As for [`lock_checked`].
pub fn lock_shared_checked(directory: &Path, check: impl Fn() -> Result<()>) -> Result<DirectoryLock> {
    lock_checked_with(directory, check, DirectoryLock::acquire_shared)
}

fn lock_checked_with(
    directory: &Path,
    check: impl Fn() -> Result<()>,
    acquire: impl Fn(&Path) -> Result<DirectoryLock, LockError>,
) -> Result<DirectoryLock> {
    let is_locked_by_programs = || directory.join(LOCK).exists();
    if let Err(error) = check()
        && !is_locked_by_programs()
    {
        return Err(error);
    }
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make the directory {}", directory.display()))?;
    let lock = acquire(directory)?;
    // Its last holder may have written since.
    check()?;
    Ok(lock)
}

/// The name of this machine; empty where it is not known.
pub fn host() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    host.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default().trim().to_owned()
}

/// This process, for a message of another one.
fn description() -> String {
    let command: Vec<String> = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let (mut text, host) = (format!("process {}", std::process::id()), host());
    if !host.is_empty() {
        text += &format!(" on {host}");
    }
    text + &format!(" ({})", command.join(" "))
}

/// What the holder wrote; several do not. Elsewhere than on Unix a locked file cannot be read.
fn holder(file: &mut File) -> String {
    if file.try_lock_shared().is_ok() {
        return "shards of this sweep (`reproduce status` tells where)".to_owned();
    }
    let mut bytes = Vec::new();
    let _ = file.rewind().and_then(|()| file.take(2000).read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let line = text.lines().next().unwrap_or_default().trim();
    if line.is_empty() { "another process".to_owned() } else { line.to_owned() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_directory_has_one_holder_at_a_time_who_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let lock = DirectoryLock::acquire(directory.path()).unwrap();
        let message = DirectoryLock::acquire(directory.path()).unwrap_err().to_string();
        let pid = format!("process {}", std::process::id());
        for part in [pid.as_str(), "in use by", "--out DIR", &directory.path().display().to_string()] {
            assert!(message.contains(part), "{part}: {message}");
        }
        drop(lock);
        drop(DirectoryLock::acquire(directory.path()).unwrap());
        assert!(directory.path().join(LOCK).exists());
    }

    #[test]
    fn shared_locks_go_together_and_shut_others_out() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!is_locked(directory.path()));
        let shared = [(); 2].map(|()| DirectoryLock::acquire_shared(directory.path()).unwrap());
        assert!(is_locked(directory.path()));
        let message = DirectoryLock::acquire(directory.path()).unwrap_err().to_string();
        assert!(message.contains("shards of this sweep"), "{message}");
        drop(shared);
        let lock = DirectoryLock::acquire(directory.path()).unwrap();
        let message = DirectoryLock::acquire_shared(directory.path()).unwrap_err().to_string();
        assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
        drop(lock);
        assert!(!is_locked(directory.path()));
    }

    #[test]
    fn to_look_for_a_lock_keeps_nobody_from_it() {
        let directory = tempfile::tempdir().unwrap();
        let look = |stop: &AtomicBool| {
            while !stop.load(Ordering::Relaxed) {
                is_locked(directory.path());
                std::thread::sleep(Duration::from_micros(100));
            }
        };
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| look(&stop));
            for _ in 0..300 {
                drop(DirectoryLock::acquire(directory.path()).unwrap());
            }
            stop.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = DirectoryLock::acquire(Path::new("no/such/place")).unwrap_err();
        assert!(error.to_string().contains("no/such/place"), "{error}");
    }
}
