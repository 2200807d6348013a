//! The hub's cache on this machine.

use crate::files::expand_home;
use std::path::{Path, PathBuf};

/// The branch that has the hub's parquet files.
pub(super) const PARQUET: &str = "refs/convert/parquet";

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(|value| expand_home(Path::new(&value)))
}

/// The directory of the hub's cache.
pub(super) fn cache() -> PathBuf {
    let home = || variable("HF_HOME").or_else(|| Some(variable("XDG_CACHE_HOME")?.join("huggingface")));
    let usual = || expand_home(Path::new("~/.cache/huggingface"));
    variable("HF_HUB_CACHE")
        .or_else(|| variable("HUGGINGFACE_HUB_CACHE"))
        .unwrap_or_else(|| home().unwrap_or_else(usual).join("hub"))
}

/// A version of a repository in the cache.
pub(super) struct Snapshot {
    /// A branch, or else a commit.
    #[cfg_attr(not(feature = "hub"), expect(dead_code))]
    pub(super) revision: String,
    pub(super) directory: PathBuf,
}

/// What the cache has of a repository: the parquet branch, the main one, and then all other commits.
pub(super) fn snapshots(repository: &str) -> Vec<Snapshot> {
    let folder = cache().join(format!("datasets--{}", repository.replace('/', "--")));
    let all = folder.join("snapshots");
    let branch = |revision: &str| {
        let commit = std::fs::read_to_string(folder.join("refs").join(revision)).ok()?;
        let commit = commit.trim();
        let is_name = !commit.is_empty() && commit.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_name.then(|| Snapshot { revision: revision.to_owned(), directory: all.join(commit) })
    };
    let mut snapshots: Vec<Snapshot> = [PARQUET, "main"].into_iter().filter_map(branch).collect();
    let mut others: Vec<PathBuf> =
        std::fs::read_dir(&all).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    others.sort();
    for directory in others {
        if let Some(revision) = directory.file_name().map(|name| name.to_string_lossy().into_owned())
            && !snapshots.iter().any(|snapshot| snapshot.directory == directory)
        {
            snapshots.push(Snapshot { revision, directory });
        }
    }
    snapshots
}
