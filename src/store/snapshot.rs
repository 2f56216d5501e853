//! Snapshots on disk: RocksDB checkpoints, and the folders they lie in.
//!
//! A snapshot is a folder of immutable files. What it covers (log id and
//! membership) is read out of the checkpoint itself and so can't disagree with
//! its data. A folder is deleted when the last one who reads it lets go, never
//! earlier: a snapshot that is being sent outlives its successor's birth.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::data_dir::sync_dir;
use super::state_machine::{Applied, read_applied};
use crate::SnapshotMeta;
use crate::engine::EngineOptions;
use crate::error::StorageError;
use crate::mvcc::Store;

/// Prefix of folders that are being written; whatever bears it is removed at boot.
pub(super) const UNFINISHED: &str = "unfinished-";

/// A folder of snapshot files, shared by those who send or install it.
#[derive(Debug, Clone)]
pub struct SnapshotDir {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// Whether the folder goes when its last user does.
    retired: AtomicBool,
}

impl SnapshotDir {
    /// A folder that stays.
    pub(super) fn kept(path: PathBuf) -> Self {
        Self { inner: Arc::new(Inner { path, retired: AtomicBool::new(false) }) }
    }

    /// A new, empty folder for files that arrive from a peer, deleted with its
    /// last user unless it was installed before.
    ///
    /// # Errors
    /// When the folder can't be made.
    pub fn incoming(snapshots: &Path, name: &str) -> Result<Self, StorageError> {
        let path = snapshots.join(format!("{UNFINISHED}{name}"));
        remove_dir(&path)?;
        fs::create_dir_all(&path)
            .map_err(|error| StorageError::file("creating the folder", &path, &error))?;
        Ok(Self { inner: Arc::new(Inner { path, retired: AtomicBool::new(true) }) })
    }

    /// Where the files lie.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The snapshot's name.
    pub fn id(&self) -> String {
        self.inner.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Lets the folder go with its last user.
    pub(super) fn retire(&self) {
        self.inner.retired.store(true, Ordering::Release);
    }

    /// The files of the snapshot with their sizes in bytes, sorted by name.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub fn files(&self) -> Result<Vec<(String, u64)>, StorageError> {
        let failed = |error: std::io::Error| StorageError::file("reading the folder", self.path(), &error);
        let mut files = Vec::new();
        for entry in fs::read_dir(self.path()).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let metadata = entry.metadata().map_err(failed)?;
            if metadata.is_file() {
                files.push((entry.file_name().to_string_lossy().into_owned(), metadata.len()));
            }
        }
        files.sort();
        Ok(files)
    }

    /// Reads from the checkpoint what it covers.
    ///
    /// # Errors
    /// When the files don't make a readable checkpoint.
    pub fn applied(&self, options: &EngineOptions) -> Result<Applied, StorageError> {
        let store = Store::open_read_only(self.path(), options)?;
        read_applied(&store)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.retired.load(Ordering::Acquire)
            && let Err(error) = remove_dir(&self.path)
        {
            tracing::warn!(%error, "a superseded snapshot could not be removed; it is retried at the next start");
        }
    }
}

/// Builds a snapshot of `store` in `snapshots` and returns what it covers.
///
/// Writers go on: the checkpoint flushes memtables in the background and links
/// files instead of copying them.
///
/// # Errors
/// When RocksDB or the file system fails.
pub(super) fn build(
    store: &Store,
    snapshots: &Path,
    name: &str,
    options: &EngineOptions,
) -> Result<(SnapshotMeta, SnapshotDir), StorageError> {
    let unfinished = snapshots.join(format!("{UNFINISHED}{name}"));
    remove_dir(&unfinished)?;
    store.checkpoint(&unfinished)?;
    let built = SnapshotDir::kept(unfinished.clone());
    let applied = built.applied(options)?;
    sync_files(&unfinished)?;
    let index = applied.log_id.as_ref().map_or(0, |id| id.index);
    let path = snapshots.join(format!("{index:020}-{name}"));
    fs::rename(&unfinished, &path).map_err(|error| StorageError::file("renaming", &unfinished, &error))?;
    sync_dir(snapshots)?;
    Ok((applied.into_meta(), SnapshotDir::kept(path)))
}

/// Finds the newest snapshot and removes what else lies in the folder: remains
/// of interrupted builds and transfers, and superseded snapshots.
///
/// # Errors
/// When the folder can't be read or cleared.
pub(super) fn recover(
    snapshots: &Path,
    options: &EngineOptions,
) -> Result<Option<(SnapshotMeta, SnapshotDir)>, StorageError> {
    let failed = |error: std::io::Error| StorageError::file("reading the folder", snapshots, &error);
    let mut names = Vec::new();
    for entry in fs::read_dir(snapshots).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if name.starts_with(UNFINISHED) {
            remove_dir(&snapshots.join(&name))?;
        } else if name.split_once('-').is_some_and(|(index, _)| index.parse::<u64>().is_ok()) {
            names.push(name);
        }
    }
    // Names begin with the log index, zero-padded, so the newest sorts last.
    names.sort();
    let mut newest = None;
    while let Some(name) = names.pop() {
        let dir = SnapshotDir::kept(snapshots.join(&name));
        if newest.is_some() {
            dir.retire();
            continue;
        }
        match dir.applied(options) {
            Ok(applied) => newest = Some((applied.into_meta(), dir)),
            Err(error) => {
                // The state itself is elsewhere; Openraft has a new snapshot
                // built when it finds the log purged and none to send.
                tracing::warn!(%error, snapshot = name, "a snapshot can't be read and is removed");
                dir.retire();
            }
        }
    }
    Ok(newest)
}

/// Puts a snapshot's files into the new folder `target`: immutable table files
/// are linked, the small rest is copied because RocksDB appends to it.
///
/// # Errors
/// When the file system refuses.
pub(super) fn link_files(source: &SnapshotDir, target: &Path) -> Result<(), StorageError> {
    remove_dir(target)?;
    fs::create_dir_all(target).map_err(|error| StorageError::file("creating the folder", target, &error))?;
    for (name, _) in source.files()? {
        let (from, to) = (source.path().join(&name), target.join(&name));
        let is_table = Path::new(&name).extension().is_some_and(|extension| extension == "sst");
        let linked = is_table && fs::hard_link(&from, &to).is_ok();
        if !linked {
            fs::copy(&from, &to).map_err(|error| StorageError::file("copying", &from, &error))?;
        }
    }
    sync_files(target)
}

/// Makes all files in `dir` and their names durable.
pub(super) fn sync_files(dir: &Path) -> Result<(), StorageError> {
    let failed = |error: std::io::Error| StorageError::file("syncing the folder", dir, &error);
    for entry in fs::read_dir(dir).map_err(failed)? {
        File::open(entry.map_err(failed)?.path()).and_then(|file| file.sync_all()).map_err(failed)?;
    }
    sync_dir(dir)
}

/// Removes a folder and all in it, if it is there.
pub(super) fn remove_dir(path: &Path) -> Result<(), StorageError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StorageError::file("removing the folder", path, &error)),
    }
}
