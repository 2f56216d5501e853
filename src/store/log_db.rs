//! The log's database: one column family of entries, one of the few facts beside
//! them.
//!
//! The only file of the log store that uses `rocksdb`, and one that knows no
//! queues, caches or Openraft. One thread writes; anyone reads. A purge writes
//! nothing but the purged log id: entries up to it do not count any more
//! wherever they still are, and [`LogDb::drop_files`] gives their space back.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode,
    LogLevel, Options, ReadOptions, WriteBatch, WriteOptions,
};

#[cfg(not(feature = "simulation"))]
use super::log_audit::audit;
use super::log_codec::{
    Entry, LogId, Vote, entry_size, put_stored_entry, read_stored_entry, read_stored_log_id,
    read_stored_vote, stored_log_id, stored_vote,
};
use crate::codec::DecodeError;
use crate::error::StorageError;
use crate::mutants::Mutant;

const LOGS: &str = "logs";
const META: &str = "meta";

const VOTE: &[u8] = b"vote";
const COMMITTED: &[u8] = b"committed";
const PURGED: &[u8] = b"last_purged";

/// An empty folder that exists while the log is being opened.
#[cfg(not(feature = "simulation"))]
const NO_WAL: &str = "no-wal";

const MIB: usize = 1024 * 1024;

/// What the folder holds when it is opened.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    /// Index of the first entry, if there is one.
    pub(super) first: Option<u64>,
    /// The last entry, or the purged log id if there is no entry after it.
    pub(super) last: Option<LogId>,
}

/// Writes that become durable together or not at all.
#[derive(Default)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(super) struct LogBatch {
    writes: WriteBatch,
    scratch: Vec<u8>,
}

/// The open database.
pub(super) struct LogDb {
    db: DB,
    /// Kept for the statistics it gives access to.
    #[cfg(test)]
    options: Options,
}

fn failed(action: &'static str) -> impl FnOnce(rocksdb::Error) -> StorageError {
    move |error| StorageError::Database { action, reason: error.into_string() }
}

fn corrupt(what: &'static str) -> impl FnOnce(DecodeError) -> StorageError {
    move |source| StorageError::Corrupt { what, source }
}

fn damaged(reason: String) -> StorageError {
    StorageError::Database { action: "reading the log", reason }
}

fn index_of(key: &[u8]) -> Result<u64, StorageError> {
    let key = <[u8; 8]>::try_from(key).map_err(|_| damaged(format!("a key has {} bytes", key.len())))?;
    Ok(u64::from_be_bytes(key))
}

/// Creates the folder if need be, durably: a synced file in a folder that is
/// gone after a power loss is no file.
fn create_folder(dir: &Path) -> Result<(), StorageError> {
    let missing = dir.ancestors().take_while(|folder| !folder.exists()).collect::<Vec<_>>();
    std::fs::create_dir_all(dir).map_err(|error| StorageError::file("creating", dir, &error))?;
    for folder in missing {
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        File::open(parent)
            .and_then(|parent| parent.sync_all())
            .map_err(|error| StorageError::file("syncing", parent, &error))?;
    }
    Ok(())
}

/// Number of the oldest write-ahead log that recovery would read; `None` if there
/// is no database.
///
/// Only the database knows. It is opened to be read, without any write-ahead log:
/// that takes the list of its files and no more, and changes nothing.
#[cfg(not(feature = "simulation"))]
pub(super) fn oldest_needed(dir: &Path) -> Result<Option<u64>, StorageError> {
    let current = dir.join("CURRENT");
    if !current.try_exists().map_err(|error| StorageError::file("looking for", &current, &error))? {
        return Ok(None);
    }
    let nowhere = dir.join(NO_WAL);
    std::fs::create_dir_all(&nowhere).map_err(|error| StorageError::file("creating", &nowhere, &error))?;
    let mut options = Options::default();
    options.set_wal_dir(&nowhere);
    let asked = DB::open_for_read_only(&options, dir, false)
        .and_then(|db| db.property_int_value("rocksdb.min-log-number-to-keep"));
    std::fs::remove_dir(&nowhere).map_err(|error| StorageError::file("removing", &nowhere, &error))?;
    let oldest = asked.map_err(failed("opening the log"))?;
    let unknown = || damaged("the database does not say which log it needs".to_owned());
    oldest.map(Some).ok_or_else(unknown)
}

impl LogDb {
    /// Opens or creates the database in `dir`. All that it then holds is durable:
    /// recovery writes what it finds in the write-ahead log into synced files.
    ///
    /// # Errors
    /// Besides I/O: if the write-ahead log is damaged before its end.
    pub(super) fn open(dir: &Path, write_buffer_bytes: usize) -> Result<Self, StorageError> {
        create_folder(dir)?;
        // The simulated database has no files.
        #[cfg(not(feature = "simulation"))]
        audit(dir, oldest_needed(dir)?)?;
        let families = [
            ColumnFamilyDescriptor::new(LOGS, logs_options(write_buffer_bytes)),
            ColumnFamilyDescriptor::new(META, meta_options()),
        ];
        #[cfg_attr(not(test), expect(unused_mut, reason = "only tests count"))]
        let mut options = database_options(write_buffer_bytes);
        #[cfg(test)]
        options.enable_statistics();
        let db = DB::open_cf_descriptors(&options, dir, families).map_err(failed("opening the log"))?;
        Ok(Self {
            db,
            #[cfg(test)]
            options,
        })
    }

    /// How often the write-ahead log was synced, as the database counts it.
    #[cfg(test)]
    pub(super) fn syncs(&self) -> u64 {
        self.options.get_ticker_count(rocksdb::statistics::Ticker::WalFileSynced)
    }

    fn family(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("the database was opened with its column families")
    }

    fn fact<T>(
        &self,
        what: &'static str,
        key: &[u8],
        read: impl FnOnce(Bytes) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, StorageError> {
        let value = self.db.get_cf(self.family(META), key).map_err(failed("reading the log"))?;
        value.map(|value| read(value.into()).map_err(corrupt(what))).transpose()
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// Besides I/O and undecodable bytes: a log that lacks entries which it must
    /// have, because starting with it could lose what a majority relies on.
    pub(super) fn load(&self) -> Result<Found, StorageError> {
        let vote = self.fact("the vote", VOTE, read_stored_vote)?;
        let committed = self.fact("the committed log id", COMMITTED, read_stored_log_id)?;
        let purged = self.fact("the purged log id", PURGED, read_stored_log_id)?;

        let start = purged.map_or(0, |purged| purged.index() + 1);
        let mut iterator = self.db.raw_iterator_cf(self.family(LOGS));
        iterator.seek(start.to_be_bytes());
        let first = iterator.key().map(index_of).transpose()?;
        let mut last = purged;
        if first.is_some() {
            iterator.seek_to_last();
            if let Some((key, value)) = iterator.item() {
                let index = index_of(key)?;
                let entry = read_stored_entry(index, Bytes::copy_from_slice(value));
                last = Some(entry.map_err(corrupt("a log entry"))?.log_id);
            }
        }
        iterator.status().map_err(failed("reading the log"))?;

        if let (Some(first), Some(purged)) = (first, purged)
            && first != start
        {
            return Err(damaged(format!("entries are missing between {purged} (purged) and index {first}")));
        }
        if committed.map(|id| id.index()) > last.map(|id| id.index()) {
            let end = last.map_or_else(|| "nothing".to_owned(), |id| id.to_string());
            let committed = committed.map(|id| id.to_string()).unwrap_or_default();
            return Err(damaged(format!("the log ends at {end}, but {committed} is committed")));
        }
        Ok(Found { vote, committed, purged, first, last })
    }

    /// Reads the entries of `start..end` into `out`, past the first at most
    /// `budget` bytes, and returns how many bytes.
    ///
    /// # Errors
    /// If an entry of the range is missing, among others.
    pub(super) fn read(
        &self,
        start: u64,
        end: u64,
        budget: usize,
        out: &mut Vec<Entry>,
    ) -> Result<usize, StorageError> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(end.to_be_bytes());
        options.fill_cache(false);
        let mut iterator = self.db.raw_iterator_cf_opt(self.family(LOGS), options);
        iterator.seek(start.to_be_bytes());
        let mut bytes = 0;
        let mut expected = start;
        while let Some((key, value)) = iterator.item() {
            let index = index_of(key)?;
            if index != expected {
                return Err(damaged(format!("entry {expected} is missing; the next is {index}")));
            }
            let entry =
                read_stored_entry(index, Bytes::copy_from_slice(value)).map_err(corrupt("a log entry"))?;
            let size = entry_size(&entry);
            if bytes + size > budget && !out.is_empty() {
                return Ok(bytes);
            }
            bytes += size;
            out.push(entry);
            expected += 1;
            iterator.next();
        }
        iterator.status().map_err(failed("reading the log"))?;
        if expected < end {
            return Err(damaged(format!("entry {expected} is missing")));
        }
        Ok(bytes)
    }

    /// Writes a batch, which is on disk on return. There is no other way to write:
    /// [`audit`] can tell damage from a torn write only because no batch is
    /// written before the one before it is synced.
    pub(super) fn write(&self, batch: LogBatch) -> Result<(), StorageError> {
        let mut options = WriteOptions::default();
        options.set_sync(!Mutant::AcknowledgeUnsynced.is_awake());
        self.db.write_opt(batch.writes, &options).map_err(failed("writing the log"))
    }

    /// Writes a batch that a crash may take or leave: one that is being synced.
    #[cfg(feature = "simulation")]
    pub(super) fn write_in_flight(&self, batch: LogBatch) -> Result<(), StorageError> {
        self.db.write_opt(batch.writes, &WriteOptions::default()).map_err(failed("writing the log"))
    }

    /// Gives the files back whose entries are all at or before `upto`.
    ///
    /// The purge up to there must be durable: files go at once, and a purge that
    /// was lost afterwards would leave a hole at the log's start.
    pub(super) fn drop_files(&self, upto: u64) -> Result<(), StorageError> {
        self.db
            .delete_file_in_range_cf(self.family(LOGS), 0_u64.to_be_bytes(), upto.to_be_bytes())
            .map_err(failed("deleting purged log files"))
    }
}

impl LogBatch {
    /// Adds an entry and returns how many bytes it takes.
    pub(super) fn append(&mut self, db: &LogDb, entry: &Entry) -> usize {
        // RocksDB wants the value in one piece: one copy, into reused memory.
        self.scratch.clear();
        put_stored_entry(&mut self.scratch, entry);
        self.writes.put_cf(db.family(LOGS), entry.log_id.index().to_be_bytes(), &self.scratch);
        self.scratch.len()
    }

    /// Removes the entries of `range`.
    pub(super) fn truncate(&mut self, db: &LogDb, range: Range<u64>) {
        if !range.is_empty() {
            self.writes.delete_range_cf(db.family(LOGS), range.start.to_be_bytes(), range.end.to_be_bytes());
        }
    }

    pub(super) fn vote(&mut self, db: &LogDb, vote: &Vote) {
        self.writes.put_cf(db.family(META), VOTE, stored_vote(vote));
    }

    pub(super) fn committed(&mut self, db: &LogDb, id: &LogId) {
        self.writes.put_cf(db.family(META), COMMITTED, stored_log_id(id));
    }

    pub(super) fn purged(&mut self, db: &LogDb, id: &LogId) {
        self.writes.put_cf(db.family(META), PURGED, stored_log_id(id));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// How many bytes it takes in the write-ahead log, without headers.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.writes.size_in_bytes()
    }
}

fn database_options(write_buffer_bytes: usize) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // After power loss the last record may be torn and was acknowledged to
    // nobody. Recovery keeps everything up to the first damage and nothing after
    // it, so that there is never a hole; this mode also allows recycling. That
    // the damage is at the end was made sure of before.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    // Overwriting an old file in place spares the file system the journal commit
    // that growing one costs at every sync.
    options.set_recycle_log_file_num(4);
    options.set_wal_compression_type(DBCompressionType::None);
    // The rarely flushed meta family would otherwise keep every old file alive.
    options.set_max_total_wal_size(4 * write_buffer_bytes as u64);
    options.set_allow_concurrent_memtable_write(false);
    options.set_max_background_jobs(2);
    options.set_bytes_per_sync(MIB as u64);
    options.set_max_open_files(256);
    options.set_max_log_file_size(8 * MIB);
    options.set_keep_log_file_num(4);
    options.set_log_level(LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

fn logs_options(write_buffer_bytes: usize) -> Options {
    let mut options = Options::default();
    options.set_write_buffer_size(write_buffer_bytes);
    options.set_max_write_buffer_number(2);
    options.set_compression_type(DBCompressionType::Lz4);
    // Files hold ascending runs that do not overlap, so going from level 0 to
    // level 1 moves them without rewriting. They must get there soon, since only
    // files below level 0 can be dropped whole.
    options.set_num_levels(2);
    options.set_level_zero_file_num_compaction_trigger(2);
    options.set_target_file_size_base(write_buffer_bytes as u64);
    options.set_block_based_table_factory(&table_options());
    options
}

fn meta_options() -> Options {
    let mut options = Options::default();
    options.set_write_buffer_size(MIB);
    options.set_max_write_buffer_number(2);
    options.set_compression_type(DBCompressionType::None);
    options.set_block_based_table_factory(&table_options());
    options
}

fn table_options() -> BlockBasedOptions {
    let mut options = BlockBasedOptions::default();
    options.set_block_size(64 * 1024);
    options.set_block_cache(&Cache::new_lru_cache(4 * MIB));
    options.set_cache_index_and_filter_blocks(true);
    options
}
