//! The data folder of one node: who owns it, and where things lie in it.
//!
//! ```text
//! DATA/LOCK              held by the running process
//! DATA/IDENTITY          format version, node id, cluster id (JSON)
//! DATA/log/              the Raft log (RocksDB)
//! DATA/state/CURRENT     name of the generation that is in use
//! DATA/state/gen-N/      the state machine (RocksDB)
//! DATA/snapshots/ID/     the current snapshot (a RocksDB checkpoint)
//! ```
//!
//! A folder belongs to one node of one cluster for good. This module refuses
//! what it does not recognise and never deletes what it did not make.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::NodeId;
use crate::error::StorageError;

/// The version of the whole folder's layout.
pub const FORMAT: u32 = 1;

/// Identifies a cluster: a random number that its first node draws at `init`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClusterId(pub u64);

impl std::fmt::Display for ClusterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl std::str::FromStr for ClusterId {
    type Err = std::num::ParseIntError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(s, 16).map(Self)
    }
}

/// Why a data folder can't be used. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process runs on the folder.
    #[error(
        "the data folder {} is in use by a running process; stop that one first, or give this node a folder of its own", .0.display()
    )]
    Locked(PathBuf),
    /// The folder belongs to another node.
    #[error(
        "the data folder {} belongs to node {found}, and this is node {wanted}; start with --id {found}, or use another folder", path.display()
    )]
    OtherNode {
        /// The folder.
        path: PathBuf,
        /// The node id stored there.
        found: NodeId,
        /// The node id that was asked for.
        wanted: NodeId,
    },
    /// The folder was written by a newer release.
    #[error(
        "the data folder {} has format {found}, and this release reads up to {FORMAT}; use the newer release that wrote it", path.display()
    )]
    Newer {
        /// The folder.
        path: PathBuf,
        /// The format stored there.
        found: u32,
    },
    /// The folder holds something else.
    #[error(
        "{} is neither empty nor a Kvorum data folder (it has no IDENTITY file, but holds {found:?}); choose another folder", path.display()
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// One thing that lies there.
        found: String,
    },
    /// The identity file can't be read.
    #[error(
        "{} cannot be understood ({reason}); restore it from a backup, or remove this node from the cluster and add it again with a new id and an empty folder", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The node belongs to another cluster.
    #[error("this node belongs to cluster {mine} and can't join cluster {other}")]
    OtherCluster {
        /// The cluster it belongs to.
        mine: ClusterId,
        /// The cluster that called.
        other: ClusterId,
    },
    /// The file system refused.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    format: u32,
    node_id: NodeId,
    #[serde(default)]
    cluster_id: Option<String>,
    /// Whether the cluster id came from a peer rather than from this node's `init`.
    #[serde(default)]
    adopted: bool,
    /// The term of the leader through which the cluster was joined; zero for a
    /// founding member.
    #[serde(default)]
    joined_in_term: u64,
}

/// What the folder says of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Belonging {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// Whether a peer gave the id, rather than this node's own `init`.
    pub adopted: bool,
    /// The term of the leader through which the node joined; zero for a founding
    /// member. Until it has applied an entry of that term or a later one, the
    /// node may lack what it once confirmed and must not vote.
    pub joined_in_term: u64,
}

/// An open, locked data folder.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    node_id: NodeId,
    belonging: Mutex<Option<Belonging>>,
    /// The lock is released when the file is closed.
    _lock: File,
}

impl DataDir {
    /// Opens or creates the folder `root` for node `node_id` and locks it.
    ///
    /// # Errors
    /// See [`DataDirError`]: locked, foreign, another node's, newer, damaged.
    pub fn open(root: &Path, node_id: NodeId) -> Result<Self, DataDirError> {
        let identity_path = root.join("IDENTITY");
        if !identity_path.exists() {
            refuse_foreign(root)?;
        }
        create_root(root)?;
        let lock = lock(root)?;
        // Looked at again: another process may have been here before the lock was ours.
        let identity = if identity_path.exists() {
            read_identity(&identity_path)?
        } else {
            let identity =
                Identity { format: FORMAT, node_id, cluster_id: None, adopted: false, joined_in_term: 0 };
            write_identity(root, &identity)?;
            identity
        };
        if identity.format > FORMAT {
            return Err(DataDirError::Newer { path: root.into(), found: identity.format });
        }
        if identity.node_id != node_id {
            return Err(DataDirError::OtherNode {
                path: root.into(),
                found: identity.node_id,
                wanted: node_id,
            });
        }
        let belonging = match identity.cluster_id {
            None => None,
            Some(text) => Some(Belonging {
                cluster_id: text.parse().map_err(|error| DataDirError::Damaged {
                    path: identity_path,
                    reason: format!("cluster id {text:?}: {error}"),
                })?,
                adopted: identity.adopted,
                joined_in_term: identity.joined_in_term,
            }),
        };
        for folder in ["log", "state", "snapshots"] {
            create_dir(&root.join(folder))?;
        }
        sync_dir(root)?;
        Ok(Self { root: root.into(), node_id, belonging: Mutex::new(belonging), _lock: lock })
    }

    /// The folder of the Raft log.
    pub fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    /// Bytes of the files of the Raft log, its write-ahead log included; what
    /// can't be read counts nothing.
    pub fn log_bytes(&self) -> u64 {
        let Ok(files) = fs::read_dir(self.log()) else { return 0 };
        files.filter_map(|file| file.ok()?.metadata().ok()).map(|metadata| metadata.len()).sum()
    }

    /// The folder of the state machine's generations.
    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// The folder of the snapshots.
    pub fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// The node that owns the folder.
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// The cluster this node belongs to, once it does.
    pub fn belonging(&self) -> Option<Belonging> {
        *self.belonging.lock()
    }

    /// Founds `cluster_id`: the node belongs to it for good. Durable when this
    /// returns.
    ///
    /// # Errors
    /// [`DataDirError::OtherCluster`] when it belongs to another cluster.
    pub fn found(&self, cluster_id: ClusterId) -> Result<(), DataDirError> {
        self.join(Belonging { cluster_id, adopted: false, joined_in_term: 0 })
    }

    /// Joins `cluster_id`, whose leader of `term` called (zero if the cluster has
    /// no history yet). Durable when this returns.
    ///
    /// # Errors
    /// [`DataDirError::OtherCluster`] when it belongs to another cluster.
    pub fn adopt(&self, cluster_id: ClusterId, term: u64) -> Result<(), DataDirError> {
        self.join(Belonging { cluster_id, adopted: true, joined_in_term: term })
    }

    fn join(&self, wanted: Belonging) -> Result<(), DataDirError> {
        let mut belonging = self.belonging.lock();
        match *belonging {
            Some(mine) if mine.cluster_id == wanted.cluster_id => Ok(()),
            Some(mine) => Err(DataDirError::OtherCluster { mine: mine.cluster_id, other: wanted.cluster_id }),
            None => {
                let identity = Identity {
                    format: FORMAT,
                    node_id: self.node_id,
                    cluster_id: Some(wanted.cluster_id.to_string()),
                    adopted: wanted.adopted,
                    joined_in_term: wanted.joined_in_term,
                };
                write_identity(&self.root, &identity)?;
                *belonging = Some(wanted);
                Ok(())
            }
        }
    }
}

fn refuse_foreign(root: &Path) -> Result<(), DataDirError> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StorageError::file("reading the folder", root, &error).into()),
    };
    for entry in entries {
        let entry = entry.map_err(|error| StorageError::file("reading the folder", root, &error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // What a first start leaves behind when it ends before the identity is
        // written; `lost+found` is what a fresh file system holds.
        if !matches!(name.as_str(), "LOCK" | "IDENTITY.new" | "lost+found") {
            return Err(DataDirError::Foreign { path: root.into(), found: name });
        }
    }
    Ok(())
}

fn lock(root: &Path) -> Result<File, DataDirError> {
    let path = root.join("LOCK");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| StorageError::file("opening", &path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DataDirError::Locked(root.into())),
        Err(TryLockError::Error(error)) => Err(StorageError::file("locking", &path, &error).into()),
    }
}

fn read_identity(path: &Path) -> Result<Identity, DataDirError> {
    #[derive(Deserialize)]
    struct FormatOnly {
        format: u32,
    }
    let damaged = |reason: String| DataDirError::Damaged { path: path.into(), reason };
    let text = fs::read_to_string(path).map_err(|error| damaged(error.to_string()))?;
    // A newer release may have added fields: look at the version before them.
    let FormatOnly { format } = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    if format > FORMAT {
        let root = path.parent().unwrap_or(path);
        return Err(DataDirError::Newer { path: root.into(), found: format });
    }
    serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))
}

fn write_identity(root: &Path, identity: &Identity) -> Result<(), StorageError> {
    let text = serde_json::to_string_pretty(identity).expect("an identity has a JSON form");
    write_atomically(root, "IDENTITY", text.as_bytes())
}

/// Replaces the file `name` in `dir` by `content`: after a crash it holds the
/// old content or the new, whole.
///
/// # Errors
/// When the file system refuses; the old content is then still there.
pub fn write_atomically(dir: &Path, name: &str, content: &[u8]) -> Result<(), StorageError> {
    let path = dir.join(name);
    let temporary = dir.join(format!("{name}.new"));
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    };
    write().map_err(|error| StorageError::file("writing", &path, &error))?;
    sync_dir(dir)
}

/// Makes the names in `dir` durable.
///
/// # Errors
/// When the file system refuses.
pub fn sync_dir(dir: &Path) -> Result<(), StorageError> {
    File::open(dir)
        .and_then(|file| file.sync_all())
        .map_err(|error| StorageError::file("syncing the folder", dir, &error))
}

/// Creates the folder and those above it, each with a durable name: a node that
/// has promised something must not come back without it.
fn create_root(root: &Path) -> Result<(), StorageError> {
    let missing: Vec<_> = missing_folders(root).collect();
    create_dir(root)?;
    for folder in missing {
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync_dir(parent.unwrap_or(Path::new(".")))?;
    }
    Ok(())
}

/// The folder and those above it, as far as they are not there.
fn missing_folders(folder: &Path) -> impl Iterator<Item = &Path> {
    folder.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
}

fn create_dir(path: &Path) -> Result<(), StorageError> {
    fs::create_dir_all(path).map_err(|error| StorageError::file("creating the folder", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reopening_keeps_node_and_cluster() {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path().join("data");
        let dir = DataDir::open(&root, 7).unwrap();
        assert_eq!(dir.belonging(), None);
        dir.adopt(ClusterId(0xabc), 3).unwrap();
        drop(dir);
        let dir = DataDir::open(&root, 7).unwrap();
        let joined = Belonging { cluster_id: ClusterId(0xabc), adopted: true, joined_in_term: 3 };
        assert_eq!(dir.belonging(), Some(joined));
    }

    #[test]
    fn folders_above_are_made_and_relative_ones_are_understood() {
        let tmp = tempfile::tempdir().unwrap();
        let deep = tmp.path().join("a/b/c");
        drop(DataDir::open(&deep, 1).unwrap());
        assert!(deep.join("IDENTITY").exists());
        // Relative to where the test runs, which is no place to leave anything.
        let missing: Vec<_> = missing_folders(Path::new("no/such/folder")).collect();
        assert_eq!(missing, [Path::new("no/such/folder"), Path::new("no/such"), Path::new("no")]);
        assert_eq!(missing_folders(tmp.path()).count(), 0);
    }

    #[test]
    fn a_folder_in_use_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let _first = DataDir::open(tmp.path(), 1).unwrap();
        assert!(matches!(DataDir::open(tmp.path(), 1), Err(DataDirError::Locked(_))));
    }

    #[test]
    fn another_nodes_folder_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        drop(DataDir::open(tmp.path(), 1).unwrap());
        let error = DataDir::open(tmp.path(), 2).unwrap_err();
        assert!(error.to_string().contains("--id 1"), "{error}");
    }

    #[test]
    fn another_cluster_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = DataDir::open(tmp.path(), 1).unwrap();
        dir.found(ClusterId(1)).unwrap();
        dir.adopt(ClusterId(1), 7).unwrap();
        assert!(matches!(dir.adopt(ClusterId(2), 7), Err(DataDirError::OtherCluster { .. })));
        let founded = Belonging { cluster_id: ClusterId(1), adopted: false, joined_in_term: 0 };
        assert_eq!(dir.belonging(), Some(founded));
    }

    #[test]
    fn a_newer_folder_is_refused_even_with_unknown_fields() {
        let tmp = tempfile::tempdir().unwrap();
        fs::write(tmp.path().join("IDENTITY"), r#"{"format":9,"node_id":1,"shards":3}"#).unwrap();
        assert!(matches!(DataDir::open(tmp.path(), 1), Err(DataDirError::Newer { found: 9, .. })));
    }

    #[test]
    fn a_foreign_folder_is_refused_and_left_alone() {
        let tmp = tempfile::tempdir().unwrap();
        fs::write(tmp.path().join("thesis.tex"), "precious").unwrap();
        assert!(matches!(DataDir::open(tmp.path(), 1), Err(DataDirError::Foreign { .. })));
        assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_identity_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        drop(DataDir::open(tmp.path(), 1).unwrap());
        fs::write(tmp.path().join("IDENTITY"), "{").unwrap();
        assert!(matches!(DataDir::open(tmp.path(), 1), Err(DataDirError::Damaged { .. })));
    }
}
