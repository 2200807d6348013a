//! Downloads into the hub's cache, by the hub's client and as `candle-datasets` asks it.

use super::cache::{Snapshot, snapshots};
use ::parquet::file::reader::SerializedFileReader;
use candle_datasets::hub::{Error, from_hub};
use hf_hub::{HFClient, HFClientSync, HFError, split_id};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long another process may take to fetch the same file.
const PATIENCE: Duration = Duration::from_secs(1800);

/// The client of one repository.
pub(super) struct Client {
    client: HFClientSync,
    repository: &'static str,
}

impl Client {
    /// The endpoint (`HF_ENDPOINT`) and the token are taken from the environment.
    pub fn new(repository: &'static str, cache: PathBuf) -> Result<Self, String> {
        let client = HFClient::builder().cache_dir(cache).build_sync().map_err(|error| chain(&error))?;
        Ok(Self { client, repository })
    }

    /// Fetches all parquet files that the cache lacks, and again those that are no parquet; `fetched` has what was fetched again,
    /// which is done once.
    pub fn all(&self, fetched: &mut Vec<PathBuf>) -> Result<(), String> {
        loop {
            match waited(|| from_hub(&self.client, self.repository.to_owned()), is_locked)? {
                Ok(_) => return Ok(()),
                // A file is no parquet, and what comes after it was not fetched.
                Err(Error::ParquetError(_)) => {
                    let damaged: Vec<PathBuf> =
                        self.unreadable().into_iter().filter(|path| !fetched.contains(path)).collect();
                    if damaged.is_empty() {
                        return Ok(());
                    }
                    for path in damaged {
                        self.again(&path)?;
                        fetched.push(path);
                    }
                }
                Err(Error::HubError(error)) => return Err(chain(&error)),
                Err(error) => return Err(chain(&error)),
            }
        }
    }

    /// Fetches a file of the cache again; the old one is replaced when the new one is whole.
    pub fn again(&self, path: &Path) -> Result<(), String> {
        let of =
            |snapshot: Snapshot| Some((path.strip_prefix(&snapshot.directory).ok()?.to_owned(), snapshot.revision));
        let Some((file, revision)) = snapshots(self.repository).into_iter().find_map(of) else {
            return Err(format!("{} is no file of {}", path.display(), self.repository));
        };
        // On the hub, folders are separated by `/` everywhere.
        let name = file.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/");
        let (owner, repository) = split_id(self.repository);
        let repository = self.client.dataset(owner, repository);
        let download = || repository.download_file().filename(&name).revision(&revision).force_download(true).send();
        waited(download, |error| matches!(error, HFError::CacheLockTimeout { .. }))?.map_err(|error| chain(&error))?;
        Ok(())
    }

    /// The parquet files of the cache that cannot be opened.
    pub fn unreadable(&self) -> Vec<PathBuf> {
        let mut directories: Vec<PathBuf> = snapshots(self.repository).into_iter().map(|s| s.directory).collect();
        let mut found = Vec::new();
        while let Some(directory) = directories.pop() {
            for path in std::fs::read_dir(&directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
            {
                if path.is_dir() {
                    directories.push(path);
                } else if path.extension().is_some_and(|extension| extension == "parquet")
                    && std::fs::File::open(&path).is_ok_and(|file| SerializedFileReader::new(file).is_err())
                {
                    found.push(path);
                }
            }
        }
        found
    }
}

fn is_locked(error: &Error) -> bool {
    matches!(error, Error::HubError(HFError::CacheLockTimeout { .. }))
}

/// Tries again while another process holds the lock of a file in the cache.
fn waited<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    is_locked: impl Fn(&E) -> bool,
) -> Result<Result<T, E>, String> {
    let start = Instant::now();
    loop {
        match attempt() {
            Err(error) if is_locked(&error) => {
                if start.elapsed() > PATIENCE {
                    return Err("another process has held the lock of the cache for half an hour".to_owned());
                }
                crate::status!("another process is downloading the same file; waiting for it");
            }
            outcome => return Ok(outcome),
        }
    }
}

/// An error with its causes; what was said is not repeated.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}
