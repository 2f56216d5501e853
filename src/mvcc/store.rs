//! The store as a whole: opening it, where it is, and its upkeep.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::alarm::Alarms;
use super::compaction::Reclaimer;
use super::newest::Newest;
use super::schema::{self, FORMAT_CELL, FORMAT_VERSION, HEAD_CELL, Head, OLDEST_FORMAT_VERSION};
use super::{EngineOptions, MemoryUsage, WriteSession};
use crate::codec::DecodeError;
use crate::engine::{Batch, Db, Family, Journal};
use crate::error::StorageError;

/// A multi-version store in a folder of its own. Clones share it; the folder is
/// released when the last one is gone.
#[derive(Clone)]
pub struct Store {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    /// First, because it must have let go of the database before that is closed.
    reclaimer: Option<Reclaimer>,
    pub(super) db: Arc<Db>,
    pub(super) newest: Newest,
    /// The head of the last batch that is known to be visible.
    head: ArcSwap<Head>,
    /// The revision of the last batch that began to become visible.
    committing: AtomicI64,
    /// The alarms that are raised as of the last visible batch.
    pub(super) alarms: ArcSwap<Alarms>,
    /// Up to which key leases have none any more, of those that take none and have too many to
    /// lose at once. What was removed stays in the way of a scan for some time.
    pub(super) swept: Mutex<BTreeMap<i64, Bytes>>,
    /// By prefix, a key before which there is no dedup entry of the prefix, as of the last visible
    /// batch. Removed entries stay in the way of a scan too.
    pub(super) dedup_fronts: Mutex<BTreeMap<Bytes, Bytes>>,
    turnstile: Turnstile,
}

impl Store {
    /// Opens the store in `dir`, and creates it first if there is none.
    ///
    /// # Errors
    /// When the folder can't be used, is open elsewhere, is damaged, or has a
    /// format that this release does not know.
    pub fn open(dir: &Path, options: &EngineOptions) -> Result<Self, StorageError> {
        let (options, newest_bytes) = parted(options);
        let db = Db::open(dir, &schema::FAMILIES, Journal::External, &options)?;
        let head = match stored_head(&db, dir)? {
            Some(head) => head,
            None => initialize(&db)?,
        };
        let alarms = Alarms::stored(&db)?;
        let db = Arc::new(db);
        let reclaimer = Reclaimer::start(Arc::clone(&db), head.compacted)?;
        Ok(Self::new(db, Newest::new(newest_bytes), head, alarms, Some(reclaimer)))
    }

    /// Opens an existing store for reading and changes no file of it: for a look
    /// into a checkpoint.
    ///
    /// # Errors
    /// As [`Self::open`], and when there is no store.
    pub fn open_read_only(dir: &Path, options: &EngineOptions) -> Result<Self, StorageError> {
        let db = Db::open_read_only(dir, &schema::FAMILIES, Journal::External, options)?;
        let head =
            stored_head(&db, dir)?.ok_or_else(|| refusal(format!("{} holds no state yet", dir.display())))?;
        let alarms = Alarms::stored(&db)?;
        // Nothing is written, so that nothing is noted.
        Ok(Self::new(Arc::new(db), Newest::new(0), head, alarms, None))
    }

    fn new(db: Arc<Db>, newest: Newest, head: Head, alarms: Alarms, reclaimer: Option<Reclaimer>) -> Self {
        Self {
            shared: Arc::new(Shared {
                reclaimer,
                db,
                newest,
                head: ArcSwap::from_pointee(head),
                committing: AtomicI64::new(head.revision),
                alarms: ArcSwap::from_pointee(alarms),
                swept: Mutex::default(),
                dedup_fronts: Mutex::default(),
                turnstile: Turnstile::default(),
            }),
        }
    }

    /// The last revision. Everything up to it can be read.
    pub fn revision(&self) -> i64 {
        self.shared.head().revision
    }

    /// The last revision and the state hash after it. Replicas at the same
    /// revision have the same hash, or one of them is wrong.
    pub fn state_hash(&self) -> (i64, u64) {
        let head = self.shared.head();
        (head.revision, head.hash)
    }

    /// The revision below which nothing can be read; zero if nothing was
    /// compacted.
    pub fn compacted_revision(&self) -> i64 {
        self.shared.head().compacted
    }

    /// Waits until all that was compacted up to now is removed, but not past
    /// `until`; answers whether it is.
    ///
    /// # Errors
    /// When the storage failed meanwhile.
    pub fn wait_reclaimed(&self, until: Instant) -> Result<bool, StorageError> {
        let compacted = self.compacted_revision();
        // What is open for reading only removes nothing.
        self.shared.reclaimer.as_ref().map_or(Ok(false), |reclaimer| reclaimer.wait(compacted, until))
    }

    /// A blob that was stored under `name` by [`WriteSession::set_meta`].
    pub fn meta(&self, name: &str) -> Result<Option<Bytes>, StorageError> {
        let found = self.shared.db.get(self.shared.family(schema::META), &schema::blob_cell(name))?;
        Ok(found.map(|bytes| Bytes::copy_from_slice(&bytes)))
    }

    /// The entry that was stored under `key` by [`WriteSession::dedup_put`].
    pub fn dedup(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let found = self.shared.db.get(self.shared.family(schema::DEDUP), key)?;
        Ok(found.map(|bytes| Bytes::copy_from_slice(&bytes)))
    }

    /// The blob of this name that a crash right now would leave: whatever was
    /// applied after it has to be applied again then, and nothing before it.
    pub fn durable_meta(&self, name: &str) -> Result<Option<Bytes>, StorageError> {
        let meta = self.shared.family(schema::META);
        let found = self.shared.db.get_durable(meta, &schema::blob_cell(name))?;
        Ok(found.map(|bytes| Bytes::copy_from_slice(&bytes)))
    }

    /// Starts the next batch. There is one session at a time: waits for the one
    /// before to end.
    pub fn begin(&self) -> WriteSession<'_> {
        WriteSession::new(&self.shared)
    }

    /// Makes all committed batches survive a crash, and waits for it.
    ///
    /// # Errors
    /// As [`WriteSession::commit`].
    pub fn flush(&self) -> Result<(), StorageError> {
        self.shared.db.flush()
    }

    /// Builds a copy of the store at its present state in `dir`, which must not
    /// exist: hard links, whatever the size. Reads and writes go on meanwhile.
    pub fn checkpoint(&self, dir: &Path) -> Result<(), StorageError> {
        self.shared.db.checkpoint(dir)
    }

    /// Bytes of the store's data files.
    pub fn disk_bytes(&self) -> u64 {
        self.shared.db.disk_bytes()
    }

    /// Roughly how many keys there are.
    pub fn approximate_keys(&self) -> u64 {
        self.shared.db.approximate_keys(self.shared.family(schema::CURRENT))
    }

    /// What the store holds in memory.
    pub fn memory_bytes(&self) -> MemoryUsage {
        self.shared.db.memory()
    }

    /// Why nothing more is written, if an earlier write failed.
    pub fn poison(&self) -> Option<&str> {
        self.shared.db.poison()
    }

    /// Leaves out the flush when the last handle is dropped: for a store whose folder goes then.
    pub fn abandon(&self) {
        self.shared.db.abandon();
    }

    /// Flushes, and gives up this handle. (Dropping the last handle flushes too,
    /// but can't tell when it fails.)
    ///
    /// # Errors
    /// As [`Self::flush`].
    pub fn close(self) -> Result<(), StorageError> {
        self.flush()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("revision", &self.revision()).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn family(&self, name: &str) -> Family<'_> {
        self.db.family(name)
    }

    pub(super) fn head(&self) -> Head {
        **self.head.load()
    }

    /// Whether no batch after `revision` had begun to become visible.
    ///
    /// Call it after reading: a read that saw a batch sees the mark that was set
    /// before it.
    pub(super) fn is_settled_at(&self, revision: i64) -> bool {
        self.committing.load(Ordering::SeqCst) == revision
    }

    /// Makes a batch visible, and then its head known, with the alarms if it
    /// changed them.
    pub(super) fn commit(
        &self,
        batch: Batch,
        head: Head,
        alarms: Option<Alarms>,
    ) -> Result<(), StorageError> {
        self.committing.store(head.revision, Ordering::SeqCst);
        self.db.write(batch)?;
        if let Some(alarms) = alarms {
            self.alarms.store(Arc::new(alarms));
        }
        // Only now: whoever is told a revision must find it.
        self.publish(head);
        if let Some(reclaimer) = &self.reclaimer {
            reclaimer.request(head.compacted);
        }
        Ok(())
    }

    /// Makes a head known that was found to be visible: by the writer, or by a
    /// reader that came between the writer's two steps.
    pub(super) fn publish(&self, head: Head) {
        let order = |head: &Head| (head.revision, head.compacted);
        self.head.rcu(|known| if order(known) < order(&head) { Arc::new(head) } else { Arc::clone(known) });
    }

    pub(super) fn take_turn(&self) -> Turn<'_> {
        self.turnstile.enter()
    }
}

/// Lets one session in at a time. Unlike a mutex's guard, a [`Turn`] may move to
/// another thread, as an async task does.
#[derive(Default)]
struct Turnstile {
    occupied: Mutex<bool>,
    freed: Condvar,
}

impl Turnstile {
    fn enter(&self) -> Turn<'_> {
        let mut occupied = self.occupied.lock();
        while *occupied {
            self.freed.wait(&mut occupied);
        }
        *occupied = true;
        Turn { turnstile: self }
    }
}

/// The right to write, until it is dropped.
pub(super) struct Turn<'a> {
    turnstile: &'a Turnstile,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.turnstile.occupied.lock() = false;
        self.turnstile.freed.notify_one();
    }
}

/// The share of the memory for what was read or written last that whole records take.
const NEWEST_SHARE: usize = 8;

/// The options of the database, and the bytes that are left for the newest records.
fn parted(options: &EngineOptions) -> (EngineOptions, usize) {
    let newest = options.block_cache_bytes / NEWEST_SHARE;
    (EngineOptions { block_cache_bytes: options.block_cache_bytes - newest, ..options.clone() }, newest)
}

/// Where the stored state is; `None` if nothing was stored yet.
fn stored_head(db: &Db, dir: &Path) -> Result<Option<Head>, StorageError> {
    let meta = db.family(schema::META);
    let head = db
        .get(meta, HEAD_CELL)?
        .map(|bytes| Head::decode(&bytes))
        .transpose()
        .map_err(|source| StorageError::Corrupt { what: "the state's head", source })?;
    let Some(format) = db.get(meta, FORMAT_CELL)? else {
        return match head {
            None => Ok(None),
            Some(_) => Err(refusal(format!("{} holds state without a format version", dir.display()))),
        };
    };
    let format =
        <[u8; 4]>::try_from(&*format).map(u32::from_le_bytes).map_err(|_| StorageError::Corrupt {
            what: "the state's format version",
            source: DecodeError::Truncated { field: "format version", need: 4, have: format.len() },
        })?;
    if !(OLDEST_FORMAT_VERSION..=FORMAT_VERSION).contains(&format) {
        return Err(refusal(format!(
            "{} has format version {format}, but this release reads {FORMAT_VERSION}; use the release that wrote it or a newer one",
            dir.display()
        )));
    }
    if format != FORMAT_VERSION && !db.is_read_only() {
        let mut batch = Batch::new();
        batch.put(meta, FORMAT_CELL, &FORMAT_VERSION.to_le_bytes());
        db.write_synced(batch)?;
    }
    match head {
        Some(head) => Ok(Some(head)),
        None => Err(refusal(format!("{} holds state without a revision", dir.display()))),
    }
}

fn initialize(db: &Db) -> Result<Head, StorageError> {
    let meta = db.family(schema::META);
    let mut batch = Batch::new();
    batch.put(meta, FORMAT_CELL, &FORMAT_VERSION.to_le_bytes());
    batch.put(meta, HEAD_CELL, &Head::EMPTY.encode());
    db.write_synced(batch)?;
    Ok(Head::EMPTY)
}

fn refusal(reason: String) -> StorageError {
    StorageError::Database { action: "opening the state", reason }
}
