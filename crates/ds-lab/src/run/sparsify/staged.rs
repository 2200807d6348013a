//! The files of a pruning, which come to their places together when all of them are written.

use crate::file_names::{OF_PRUNING, STAGED};
use crate::files::{self, FileError};
use crate::run::directory::{check_no_folders, remove_staged};
use anyhow::Result;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Files of a pruning that goes on. Without [`put`](Self::put) they are removed.
pub(super) struct Staged<'a> {
    directory: &'a Path,
}

impl<'a> Staged<'a> {
    /// No file yet. Those of a process that was killed are removed.
    pub fn begin(directory: &'a Path) -> Result<Self> {
        check_no_folders(directory, &OF_PRUNING)?;
        remove_staged(directory)?;
        Ok(Self { directory })
    }

    /// Where to write one of [`OF_PRUNING`].
    pub fn path(&self, file: &str) -> Result<PathBuf, FileError> {
        let path = self.directory.join(STAGED);
        match std::fs::create_dir_all(&path) {
            Ok(()) => Ok(path.join(file)),
            Err(source) => Err(FileError { action: "make the folder", path, source }),
        }
    }

    /// Puts what was written in the places of the files of an earlier pruning, and removes those of its files that were not written.
    /// Returns their names.
    pub fn put(self) -> Result<Vec<&'static str>> {
        // A folder that was made since the beginning.
        check_no_folders(self.directory, &OF_PRUNING)?;
        let mut left = Vec::new();
        for file in OF_PRUNING {
            let path = self.directory.join(file);
            match std::fs::rename(self.directory.join(STAGED).join(file), &path) {
                Ok(()) => {}
                Err(source) if source.kind() == io::ErrorKind::NotFound => left.push(file),
                Err(source) => return Err(FileError { action: "write", path, source }.into()),
            }
        }
        left.retain(|file| self.directory.join(file).symlink_metadata().is_ok());
        for file in &left {
            files::remove_written(self.directory, file)?;
        }
        // Not every system can sync a directory.
        let _ = File::open(self.directory).and_then(|directory| directory.sync_all());
        Ok(left)
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next pruning.
        let _ = remove_staged(self.directory);
    }
}
