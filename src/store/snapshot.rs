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
use super::state_machine::read_applied;
use crate::SnapshotMeta;
use crate::engine::EngineOptions;
use crate::error::StorageError;
use crate::mvcc::Store;

/// Prefix of folders that are being written; whatever bears it is removed at boot.
pub(super) const UNFINISHED: &str = "unfinished-";
/// A look into a checkpoint reads a handful of cells.
const LOOK: EngineOptions = EngineOptions { block_cache_bytes: 1 << 20, write_buffer_bytes: 1 << 20 };

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
        let dir = Self::unfinished(snapshots, name);
        remove_dir(dir.path())?;
        fs::create_dir_all(dir.path())
            .map_err(|error| StorageError::file("creating the folder", dir.path(), &error))?;
        Ok(dir)
    }

    /// A folder that may or may not be there, and goes with its last user.
    fn unfinished(snapshots: &Path, name: &str) -> Self {
        let path = snapshots.join(format!("{UNFINISHED}{name}"));
        Self { inner: Arc::new(Inner { path, retired: AtomicBool::new(true) }) }
    }

    /// Where the files lie.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The snapshot's name.
    pub fn id(&self) -> String {
        self.inner.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Whether someone else holds the folder too: it is being sent.
    pub(super) fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.inner) > 1
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
    pub fn meta(&self) -> Result<SnapshotMeta, StorageError> {
        let store = Store::open_read_only(self.path(), &LOOK)?;
        Ok(read_applied(&store)?.into_meta())
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
/// files instead of copying them. When it fails, nothing is left of it.
///
/// # Errors
/// When RocksDB or the file system fails.
pub(super) fn build(
    store: &Store,
    snapshots: &Path,
    name: &str,
) -> Result<(SnapshotMeta, SnapshotDir), StorageError> {
    let unfinished = SnapshotDir::unfinished(snapshots, name);
    remove_dir(unfinished.path())?;
    store.checkpoint(unfinished.path())?;
    let meta = unfinished.meta()?;
    sync_files(unfinished.path())?;
    let index = meta.last_log_id.as_ref().map_or(0, |id| id.index);
    let path = snapshots.join(format!("{index:020}-{name}"));
    fs::rename(unfinished.path(), &path)
        .map_err(|error| StorageError::file("renaming", unfinished.path(), &error))?;
    sync_dir(snapshots)?;
    Ok((meta, SnapshotDir::kept(path)))
}

/// Finds the newest snapshot and removes what else lies in the folder: remains
/// of interrupted builds and transfers, and superseded snapshots.
///
/// A newest one that can't be read is removed too, and none takes its place:
/// the log may be purged beyond an older one, which would then be of no use to
/// anyone who asks for it, while Openraft has a new one built if there is none.
///
/// # Errors
/// When the folder can't be read or cleared.
pub(super) fn recover(snapshots: &Path) -> Result<Option<(SnapshotMeta, SnapshotDir)>, StorageError> {
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
    let newest = names.pop().map(|name| SnapshotDir::kept(snapshots.join(name)));
    for superseded in names {
        remove_dir(&snapshots.join(superseded))?;
    }
    let Some(dir) = newest else { return Ok(None) };
    match dir.meta() {
        Ok(meta) => Ok(Some((meta, dir))),
        Err(error) => {
            tracing::warn!(%error, snapshot = dir.id(), "a snapshot can't be read and is removed");
            remove_dir(dir.path())?;
            Ok(None)
        }
    }
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
