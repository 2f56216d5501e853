//! One database: open, read, write, flush, checkpoint.

use std::ops::Deref;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::properties::{
    CUR_SIZE_ALL_MEM_TABLES, ESTIMATE_NUM_KEYS, ESTIMATE_TABLE_READERS_MEM, TOTAL_SST_FILES_SIZE,
};
use rocksdb::{ColumnFamily, ColumnFamilyDescriptor, DB, DBPinnableSlice, FlushOptions, ReadOptions};
use rocksdb::{Options, ReadTier, Snapshot, WriteOptions};

use super::options::Tuning;
use super::{Batch, Cursor, EngineOptions, FamilySpec, Journal, Scan, Workload, database_error};
use crate::codec::DecodeError;
use crate::error::StorageError;

/// `RocksDB` insists on this family. It holds the flush mark and nothing else.
const DEFAULT_FAMILY: &str = "default";
/// The number of the last flush that was asked for, little-endian.
const FLUSH_MARK: &[u8] = b"flush";
/// How long to wait before looking again whether a flush reached the disk.
const FLUSH_RECHECK: Duration = Duration::from_millis(1);

/// An open database. Dropping it flushes what an external journal does not have
/// to replay then, unless it was [abandoned](Self::abandon), and waits for background
/// work to end.
pub struct Db {
    inner: DB,
    /// All of them, with the one that holds the flush mark.
    families: Vec<&'static str>,
    tuning: Tuning,
    journal: Journal,
    buffered: WriteOptions,
    synced: WriteOptions,
    point_reads: ReadOptions,
    durable_reads: ReadOptions,
    is_read_only: bool,
    /// Whether its folder goes once it is closed.
    is_abandoned: AtomicBool,
    /// The number of the last flush; held while one runs.
    flushes: Mutex<u64>,
    poison: OnceLock<String>,
}

/// A column family of an open [`Db`].
#[derive(Clone, Copy)]
pub struct Family<'a>(&'a ColumnFamily);

impl<'a> Family<'a> {
    pub(super) fn handle(self) -> &'a ColumnFamily {
        self.0
    }
}

/// Bytes that are read where `RocksDB` holds them, without a copy. Short-lived: it
/// keeps a cached block from being evicted.
pub struct Pinned<'a>(DBPinnableSlice<'a>);

impl Deref for Pinned<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// What a database holds in memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryUsage {
    /// Blocks, indexes and filters in the cache.
    pub block_cache: u64,
    /// Writes that are not flushed yet.
    pub write_buffers: u64,
    /// Descriptions of open files outside the cache.
    pub table_readers: u64,
}

impl MemoryUsage {
    /// All parts together.
    pub fn total(&self) -> u64 {
        self.block_cache + self.write_buffers + self.table_readers
    }
}

impl Db {
    /// Opens the database in `dir` and creates it, or missing families, first.
    ///
    /// # Errors
    /// When the folder can't be used, is open in a process, or holds families
    /// that are not among `families`: a newer release wrote it.
    pub fn open(
        dir: &Path,
        families: &[FamilySpec],
        journal: Journal,
        options: &EngineOptions,
    ) -> Result<Self, StorageError> {
        std::fs::create_dir_all(dir).map_err(|e| StorageError::file("creating", dir, &e))?;
        let mut db = Self::open_with(dir, families, journal, options, |database, descriptors| {
            DB::open_cf_descriptors(database, dir, descriptors)
        })?;
        db.is_read_only = false;
        Ok(db)
    }

    /// Opens an existing database for reading, without changing a file. Writes
    /// fail.
    ///
    /// # Errors
    /// As [`Self::open`], and when there is no database.
    pub fn open_read_only(
        dir: &Path,
        families: &[FamilySpec],
        journal: Journal,
        options: &EngineOptions,
    ) -> Result<Self, StorageError> {
        Self::open_with(dir, families, journal, options, |database, descriptors| {
            DB::open_cf_descriptors_read_only(database, dir, descriptors, false)
        })
    }

    fn open_with(
        dir: &Path,
        families: &[FamilySpec],
        journal: Journal,
        options: &EngineOptions,
        open: impl FnOnce(&Options, Vec<ColumnFamilyDescriptor>) -> Result<DB, rocksdb::Error>,
    ) -> Result<Self, StorageError> {
        let tuning = Tuning::new(options);
        let database = tuning.database(journal);
        refuse_unknown_families(&database, dir, families)?;
        let descriptors = families
            .iter()
            .map(|f| ColumnFamilyDescriptor::new(f.name, tuning.family(f.workload)))
            .chain([ColumnFamilyDescriptor::new(DEFAULT_FAMILY, tuning.family(Workload::Cells))])
            .collect();
        let inner =
            open(&database, descriptors).map_err(|error| database_error("opening the database", &error))?;
        let mut buffered = WriteOptions::default();
        buffered.disable_wal(journal == Journal::External);
        let mut synced = WriteOptions::default();
        match journal {
            Journal::Own => synced.set_sync(true),
            Journal::External => synced.disable_wal(true),
        }
        let mut durable_reads = ReadOptions::default();
        durable_reads.set_read_tier(ReadTier::Persisted);
        let db = Self {
            inner,
            families: families.iter().map(|f| f.name).chain([DEFAULT_FAMILY]).collect(),
            tuning,
            journal,
            buffered,
            synced,
            point_reads: ReadOptions::default(),
            durable_reads,
            is_read_only: true,
            is_abandoned: AtomicBool::new(false),
            flushes: Mutex::new(0),
            poison: OnceLock::new(),
        };
        *db.flushes.lock() = db.durable_flush_mark()?;
        Ok(db)
    }

    /// The family called `name`.
    ///
    /// # Panics
    /// If the database was opened without it.
    pub fn family(&self, name: &str) -> Family<'_> {
        Family(self.inner.cf_handle(name).expect("families are named when the database is opened"))
    }

    /// The value of `key` now.
    pub fn get(&self, family: Family<'_>, key: &[u8]) -> Result<Option<Pinned<'_>>, StorageError> {
        self.inner
            .get_pinned_cf_opt(&family.handle(), key, &self.point_reads)
            .map(|found| found.map(Pinned))
            .map_err(|error| database_error("reading a key", &error))
    }

    /// The value of `key` that a crash right now would leave: as it was after the
    /// batch, common to all families, up to which everything is on disk.
    pub fn get_durable(&self, family: Family<'_>, key: &[u8]) -> Result<Option<Pinned<'_>>, StorageError> {
        self.inner
            .get_pinned_cf_opt(&family.handle(), key, &self.durable_reads)
            .map(|found| found.map(Pinned))
            .map_err(|error| database_error("reading a key", &error))
    }

    /// A cursor over one family as it is now.
    pub fn cursor(&self, family: Family<'_>, scan: Scan) -> Cursor<'_> {
        Cursor::new(self.inner.raw_iterator_cf_opt(&family.handle(), scan.read_options()))
    }

    /// The last key of a family.
    pub fn last_key(&self, family: Family<'_>) -> Result<Option<Vec<u8>>, StorageError> {
        let mut cursor = self.cursor(family, Scan::default());
        cursor.last()?;
        Ok(cursor.key().map(<[u8]>::to_vec))
    }

    /// All families as they are after the last batch. While it lives, what later
    /// batches overwrite is kept; drop it soon.
    pub fn view(&self) -> DbView<'_> {
        DbView { snapshot: self.inner.snapshot() }
    }

    /// Makes the batch visible, atomically. It survives a crash once it is
    /// synced by a later write or flush.
    ///
    /// # Errors
    /// The first failure is answered as it is and poisons the database; from then
    /// on it is [`StorageError::Poisoned`].
    pub fn write(&self, batch: Batch) -> Result<(), StorageError> {
        self.write_with(batch, &self.buffered)
    }

    /// Makes the batch visible, and returns once it and all before it survive a
    /// crash.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_synced(&self, batch: Batch) -> Result<(), StorageError> {
        self.write_with(batch, &self.synced)?;
        match self.journal {
            Journal::Own => Ok(()),
            Journal::External => self.flush(),
        }
    }

    fn write_with(&self, batch: Batch, options: &WriteOptions) -> Result<(), StorageError> {
        self.refuse_poisoned()?;
        self.inner
            .write_opt(batch.into_inner(), options)
            .map_err(|error| self.poisoned_by("writing a batch", &error))
    }

    /// Gives files that hold nothing but keys from `start` to `end`, both included,
    /// back to the disk at once. Follows a `delete_range` of the same keys, which
    /// removes the rest. It happens at once, whatever a crash makes of batches that
    /// are not on disk yet.
    pub fn delete_files_in_range(
        &self,
        family: Family<'_>,
        start: &[u8],
        end: &[u8],
    ) -> Result<(), StorageError> {
        self.refuse_poisoned()?;
        self.inner
            .delete_file_in_range_cf(&family.handle(), start, end)
            .map_err(|error| self.poisoned_by("deleting files", &error))
    }

    /// Writes all that is in memory to synced files, every family at the same
    /// batch, and waits for it.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn flush(&self) -> Result<(), StorageError> {
        match self.journal {
            Journal::Own => self.request_flush(),
            Journal::External => self.flush_up_to_mark(),
        }
    }

    /// `RocksDB` 11.8 can answer an atomic flush before it is done: it compares
    /// each family with the awaited memtable of another one, so that a flush
    /// which was under way before can pass for the one that was asked for. The
    /// caller would believe durable what is not. So a mark is written first, and
    /// the flush is over once the mark, and with it all before it, is on disk.
    fn flush_up_to_mark(&self) -> Result<(), StorageError> {
        let mut flushes = self.flushes.lock();
        let mark = *flushes + 1;
        let mut batch = Batch::new();
        batch.put(self.family(DEFAULT_FAMILY), FLUSH_MARK, &mark.to_le_bytes());
        self.write(batch)?;
        *flushes = mark;
        self.request_flush()?;
        while self.durable_flush_mark()? < mark {
            std::thread::sleep(FLUSH_RECHECK);
            self.request_flush()?;
        }
        Ok(())
    }

    fn request_flush(&self) -> Result<(), StorageError> {
        self.refuse_poisoned()?;
        let handles: Vec<_> = self.families.iter().map(|name| self.family(name).handle()).collect();
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.inner.flush_cfs_opt(&handles, &options).map_err(|error| self.poisoned_by("flushing", &error))
    }

    fn durable_flush_mark(&self) -> Result<u64, StorageError> {
        let Some(mark) = self.get_durable(self.family(DEFAULT_FAMILY), FLUSH_MARK)? else { return Ok(0) };
        <[u8; 8]>::try_from(&*mark).map(u64::from_le_bytes).map_err(|_| StorageError::Corrupt {
            what: "the flush mark",
            source: DecodeError::Truncated { field: "flush number", need: 8, have: mark.len() },
        })
    }

    /// Builds a copy of the database at its present state in `dir`, which must
    /// not exist. Files are hard links where the file system allows it. Writes go
    /// on meanwhile; what is in memory is flushed first.
    pub fn checkpoint(&self, dir: &Path) -> Result<(), StorageError> {
        self.flush()?;
        Checkpoint::new(&self.inner)
            .and_then(|checkpoint| checkpoint.create_checkpoint(dir))
            .map_err(|error| database_error("building a checkpoint", &error))
    }

    /// Bytes of all data files.
    pub fn disk_bytes(&self) -> u64 {
        self.sum_property(TOTAL_SST_FILES_SIZE)
    }

    /// Roughly how many keys a family holds.
    pub fn approximate_keys(&self, family: Family<'_>) -> u64 {
        self.property(family, ESTIMATE_NUM_KEYS)
    }

    /// What is held in memory.
    pub fn memory(&self) -> MemoryUsage {
        MemoryUsage {
            block_cache: self.tuning.cache_bytes(),
            write_buffers: self.sum_property(CUR_SIZE_ALL_MEM_TABLES),
            table_readers: self.sum_property(ESTIMATE_TABLE_READERS_MEM),
        }
    }

    /// Keeps files that are no longer needed, so that a test can copy the folder
    /// as a crash would leave it.
    #[cfg(test)]
    pub(crate) fn keep_obsolete_files(&self) {
        self.inner.disable_file_deletions().expect("file deletions can be switched off");
    }

    /// Lets what is not flushed go when this is dropped, with more or less of the rest: for a
    /// database whose folder goes then.
    pub fn abandon(&self) {
        self.is_abandoned.store(true, Ordering::Release);
    }

    /// Whether it was opened for reading only.
    pub fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// Why nothing more is written, if so.
    pub fn poison(&self) -> Option<&str> {
        self.poison.get().map(String::as_str)
    }

    fn sum_property(&self, name: &'static rocksdb::properties::PropName) -> u64 {
        self.families.iter().map(|family| self.property(self.family(family), name)).sum()
    }

    /// An unknown property counts as zero: these numbers are for people.
    fn property(&self, family: Family<'_>, name: &'static rocksdb::properties::PropName) -> u64 {
        self.inner.property_int_value_cf(&family.handle(), name).ok().flatten().unwrap_or(0)
    }

    fn refuse_poisoned(&self) -> Result<(), StorageError> {
        match self.poison.get() {
            None => Ok(()),
            Some(reason) => Err(StorageError::Poisoned(reason.clone())),
        }
    }

    fn poisoned_by(&self, action: &'static str, error: &rocksdb::Error) -> StorageError {
        let error = database_error(action, error);
        self.poison.get_or_init(|| error.to_string());
        error
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        if self.journal == Journal::External && !self.is_read_only {
            // A clean stop need not lose what a crash may. `RocksDB` would flush by
            // itself here, but not wait for all of it, for the same reason as above; and
            // it spares only families that are gone.
            if *self.is_abandoned.get_mut() {
                let mut families = self.families.iter().filter(|family| **family != DEFAULT_FAMILY);
                if let Err(error) = families.try_for_each(|family| self.inner.drop_cf(family)) {
                    tracing::warn!(%error, "a database whose folder goes is flushed all the same");
                }
            } else if let Err(error) = self.flush() {
                tracing::warn!(%error, "the last writes are not on disk; they have to be replayed");
            }
        }
        // Compactions are abandoned rather than finished.
        self.inner.cancel_all_background_work(true);
    }
}

/// All families of a [`Db`] at one state.
pub struct DbView<'a> {
    snapshot: Snapshot<'a>,
}

impl DbView<'_> {
    /// The value of `key` in this state.
    pub fn get(&self, family: Family<'_>, key: &[u8]) -> Result<Option<Pinned<'_>>, StorageError> {
        self.snapshot
            .get_pinned_cf(&family.handle(), key)
            .map(|found| found.map(Pinned))
            .map_err(|error| database_error("reading a key", &error))
    }

    /// A cursor over one family in this state.
    pub fn cursor(&self, family: Family<'_>, scan: Scan) -> Cursor<'_> {
        Cursor::new(self.snapshot.raw_iterator_cf_opt(&family.handle(), scan.read_options()))
    }
}

/// `RocksDB` would refuse them too, but not say what it means.
fn refuse_unknown_families(
    options: &Options,
    dir: &Path,
    families: &[FamilySpec],
) -> Result<(), StorageError> {
    if !dir.join("CURRENT").exists() {
        return Ok(());
    }
    let stored = DB::list_cf(options, dir)
        .map_err(|error| database_error("listing the database's column families", &error))?;
    let unknown: Vec<_> = stored
        .into_iter()
        .filter(|name| name != DEFAULT_FAMILY && families.iter().all(|f| f.name != name))
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    Err(StorageError::Database {
        action: "opening the database",
        reason: format!(
            "{} holds data that this release does not know ({}); a newer release wrote it",
            dir.display(),
            unknown.join(", ")
        ),
    })
}
