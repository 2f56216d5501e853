//! All of the store as a snapshot file of etcd's, made while requests go on.
//!
//! The file is written from one moment of the store: what was there at the compacted
//! revision, the changes since, and the leases. Memory does not grow with the store.
//! Files here have no name, so that nothing is left of them when the node ends or
//! nobody wants them any more, and their number is bounded.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kvorum_etcd_snapshot as etcd;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::sorter::Sorter;
use super::handle::Service;
use crate::LogId;
use crate::error::{Error, StorageError};
use crate::keyspace::KeyValue;
use crate::mvcc::{KeptChange, Lease, Moment};

mod sorter;

/// Snapshots that are made or read at once: each takes as much disk as the store.
const EXPORTS_AT_ONCE: usize = 2;
/// Bytes of keys and values that are sorted in memory.
const SORTED_IN_MEMORY_BYTES: usize = 16 << 20;

/// Free disk that a snapshot leaves to the node, which stops when it can't write any more.
const SPARED_BYTES: u64 = 64 << 20;
/// Items that are written between two looks at how much of the disk is free: few enough that
/// large ones don't take what is spared.
const ITEMS_BETWEEN_LOOKS: u32 = 16;

/// The places of snapshots that are made or read.
pub(super) fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(EXPORTS_AT_ONCE))
}

/// A place for a snapshot that is to be made.
pub struct EtcdExport {
    service: Service,
    place: OwnedSemaphorePermit,
}

/// A finished snapshot.
pub struct EtcdSnapshot {
    /// Its file, which has no name.
    pub file: File,
    /// Its size in bytes, including the 32 of the checksum at its end.
    pub size: u64,
    /// Given back with the file.
    _place: OwnedSemaphorePermit,
}

/// Tells the writer that nobody waits for it any more.
struct Abandon(Arc<AtomicBool>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Write(#[from] etcd::WriteError),
    #[error("a temporary file: {0}")]
    File(#[from] io::Error),
    #[error("its disk has {free} bytes free, and {wanted} are needed")]
    Full { free: u64, wanted: u64 },
    #[error("it is not wanted any more")]
    Abandoned,
}

impl Service {
    /// Takes a place for a snapshot of this node's state.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when there is none.
    pub fn etcd_export(&self) -> Result<EtcdExport, Error> {
        let place = Arc::clone(&self.inner.exports).try_acquire_owned();
        let place = place.map_err(|_| Error::Overloaded { node: self.node_id() })?;
        Ok(EtcdExport { service: self.clone(), place })
    }

    fn etcd_members(&self) -> Vec<etcd::Member> {
        let url = |addr: String| format!("http://{addr}");
        let members = self.known_members().into_iter().map(|member| etcd::Member {
            id: member.id,
            peer_urls: vec![url(member.addr)],
            is_learner: member.is_learner,
            name: format!("node-{}", member.id),
            client_urls: member.client_addr.into_iter().map(url).collect(),
        });
        members.collect()
    }
}

impl EtcdExport {
    /// Makes the snapshot.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the disk has too little room, [`Error::Internal`] when it fails.
    ///
    /// # Cancel safety
    /// When dropped, the making ends soon and leaves nothing.
    pub async fn make(self) -> Result<EtcdSnapshot, Error> {
        let Self { service, place } = self;
        let node = service.node_id();
        let abandoned = Arc::new(AtomicBool::new(false));
        let _abandon = Abandon(Arc::clone(&abandoned));
        let members = service.etcd_members();
        let store = service.inner.store.clone();
        let making = service.inner.runtime.spawn_blocking(move || {
            let dir = store.snapshots_dir();
            let file =
                |purpose: &str| unnamed_file(dir, &format!("{purpose}-{}", store.next_snapshot_name()));
            let (snapshot, scratch) = (file("etcd")?, file("etcd-sort")?);
            let current = store.store();
            // What it will take is not known, but hardly less than what is compressed now.
            has_free(dir, current.disk_bytes().saturating_add(SPARED_BYTES))?;
            let moment = current.moment()?;
            let info = snapshot_info(&moment, store.applied_log_id(), members);
            let sealed = write(&moment, info, snapshot, scratch, brakes(dir, SPARED_BYTES, &abandoned))?;
            // The place is kept until here, also when nobody waits for it any more.
            Ok(EtcdSnapshot { file: sealed.file, size: sealed.size, _place: place })
        });
        let failed =
            |reason: String| Error::Internal { node, reason: format!("making a snapshot: {reason}") };
        match making.await {
            Ok(made) => made.map_err(|error: ExportError| {
                if let ExportError::Full { .. } = error {
                    let message = format!("no snapshot is made on node {node}: {error}; ask another node");
                    return Error::Conflict { code: "disk_full", message };
                }
                failed(error.to_string())
            }),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

/// A file without a name. A crash in the moment in which it has one leaves an empty
/// file, which the next one of that name takes the place of.
fn unnamed_file(dir: &Path, name: &str) -> io::Result<File> {
    let path = dir.join(name);
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// Ends the making of a snapshot when nobody waits for it any more, and before less than
/// `spared` bytes of the disk of `dir` are free. To be asked before each item.
fn brakes(dir: &Path, spared: u64, abandoned: &AtomicBool) -> impl FnMut() -> Result<(), ExportError> {
    let mut items = 0_u32;
    move || {
        if abandoned.load(Ordering::Relaxed) {
            return Err(ExportError::Abandoned);
        }
        if items.is_multiple_of(ITEMS_BETWEEN_LOOKS) {
            has_free(dir, spared)?;
        }
        items = items.wrapping_add(1);
        Ok(())
    }
}

/// Fails if less than `wanted` bytes of the disk of `dir` are free. What does not tell its
/// size is taken to have room.
fn has_free(dir: &Path, wanted: u64) -> Result<(), ExportError> {
    let disk = rustix::fs::statvfs(dir).map_err(io::Error::from)?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if disk.f_blocks > 0 && free < wanted { Err(ExportError::Full { free, wanted }) } else { Ok(()) }
}

fn snapshot_info(
    moment: &Moment<'_>,
    applied: Option<LogId>,
    members: Vec<etcd::Member>,
) -> etcd::SnapshotInfo {
    etcd::SnapshotInfo {
        // They start at 1 at etcd, which begins them anew in a cluster that is restored.
        term: applied.map_or(1, |applied| applied.committed_leader_id().term.max(1)),
        applied_index: applied.map_or(1, |applied| applied.index.max(1)),
        compact_revision: Some(moment.compacted()).filter(|revision| *revision > 0),
        cluster_version: None,
        members,
    }
}

/// Writes all of `moment` into `snapshot`, with `scratch` for what has to be sorted, for as
/// long as `check` has no objections.
fn write(
    moment: &Moment<'_>,
    info: etcd::SnapshotInfo,
    snapshot: File,
    scratch: File,
    mut check: impl FnMut() -> Result<(), ExportError>,
) -> Result<etcd::Sealed, ExportError> {
    let mut writer = etcd::Writer::new(snapshot, info)?;
    moment.leases(|lease, left_ms| {
        check()?;
        if let Some(lease) = exported(lease, left_ms) {
            writer.lease(&lease)?;
        }
        Ok::<_, ExportError>(())
    })?;
    // A snapshot is in the order of revisions, the store in that of keys.
    let mut sorter = Sorter::new(scratch, SORTED_IN_MEMORY_BYTES);
    moment.base(|item| {
        check()?;
        Ok::<_, ExportError>(sorter.push(item)?)
    })?;
    // Where among the changes of its command the write of a key was is not known any
    // more, and of no importance: it is numbered anew.
    let mut last = etcd::Revision { main: 0, sub: 0 };
    sorter.finish(|item| {
        check()?;
        let main = item.record.mod_revision;
        last = etcd::Revision { main, sub: if last.main == main { last.sub + 1 } else { 0 } };
        Ok::<_, ExportError>(writer.push(last, &put(item))?)
    })?;
    moment.changes(|change| {
        check()?;
        let KeptChange { main, sub, key, record } = change;
        let event = match record {
            Some(record) => put(KeyValue { key, record }),
            None => etcd::Event::Delete { key },
        };
        Ok::<_, ExportError>(writer.push(etcd::Revision { main, sub: i64::from(sub) }, &event)?)
    })?;
    check()?;
    Ok(writer.finish()?)
}

fn put(item: KeyValue) -> etcd::Event {
    let KeyValue { key, record } = item;
    etcd::Event::Put(etcd::KeyValue {
        key,
        create_revision: record.create_revision,
        mod_revision: record.mod_revision,
        version: record.version,
        value: record.value,
        // A lease that can't be carried over leaves its keys behind.
        lease: record.lease.max(0),
    })
}

/// A lease as etcd keeps it; its ids are above zero. One that has ended, but not all of
/// whose keys are gone, ends there at once.
fn exported(lease: Lease, left_ms: u64) -> Option<etcd::Lease> {
    if lease.id <= 0 {
        return None;
    }
    let ttl = lease.ttl.max(1);
    let left = if lease.ending { 0 } else { i64::try_from(left_ms / 1_000).unwrap_or(i64::MAX) };
    Some(etcd::Lease { id: lease.id, ttl, remaining_ttl: left.clamp(1, ttl) })
}

#[cfg(test)]
mod tests;
