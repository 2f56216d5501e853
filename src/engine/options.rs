//! How `RocksDB` is tuned, and why.

use rocksdb::{
    BlockBasedOptions, Cache, CompactionPri, DBCompressionType, DataBlockIndexType, InfoLogger, LogLevel,
    LruCacheOptions, Options,
};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Open table files that are kept. Bounded because each costs a descriptor and
/// some KiB of memory, and many systems allow a process 1,024 descriptors, which
/// sockets and the other database share. A file beyond it is opened again.
const MAX_OPEN_FILES: i32 = 512;

/// The level of compression with Zstandard.
const ZSTD_LEVEL: i32 = 1;
/// What zlib would look at, with which nothing is compressed.
const ZLIB_WINDOW_BITS: i32 = -14;

/// The memory a database may use, and nothing else: what else there is to tune
/// has one good value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Bytes of blocks, indexes and filters kept in memory.
    pub block_cache_bytes: usize,
    /// Bytes of writes, over all column families, that are held in memory before
    /// they are flushed. While a flush is slow, up to three times as much.
    pub write_buffer_bytes: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { block_cache_bytes: 256 * MIB, write_buffer_bytes: 64 * MIB }
    }
}

/// Who makes writes survive a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Journal {
    /// The database's own write-ahead log.
    Own,
    /// Somebody else, who replays what is lost. Writes go to memory only, and all
    /// column families are flushed together: after a crash the database is as it
    /// was after one of the batches, whole.
    External,
}

/// How a column family is used, which decides its tuning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// Looked up by whole key, and scanned: filters spare a lookup the files that
    /// do not hold its key.
    Lookup,
    /// Only sought and scanned.
    Scan,
    /// Written in key order and removed from the front.
    Queue,
    /// A handful of small entries that are rewritten all the time.
    Cells,
}

/// A column family: its name and its use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FamilySpec {
    /// The stored name.
    pub name: &'static str,
    /// What it is for.
    pub workload: Workload,
}

/// The options that column families share, and the cache they share.
pub(super) struct Tuning {
    cache: Cache,
    write_buffer_bytes: usize,
}

impl Tuning {
    pub(super) fn new(options: &EngineOptions) -> Self {
        let mut lru = LruCacheOptions::default();
        lru.set_capacity(options.block_cache_bytes);
        Self {
            cache: Cache::new_lru_cache_opts(&lru),
            write_buffer_bytes: options.write_buffer_bytes.max(256 * KIB),
        }
    }

    pub(super) fn database(&self, journal: Journal) -> Options {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_atomic_flush(journal == Journal::External);
        options.set_db_write_buffer_size(self.write_buffer_bytes);
        options.set_max_background_jobs(2);
        options.set_max_open_files(MAX_OPEN_FILES);
        // Hand written bytes to the disk as they come, so that the sync at a
        // file's end does not stall the log's.
        options.set_bytes_per_sync(MIB as u64);
        options.set_wal_bytes_per_sync(MIB as u64);
        options.set_max_total_wal_size(4 * self.write_buffer_bytes as u64);
        options.set_max_manifest_file_size(16 * MIB);
        // There is one writer; concurrent insertion only costs it atomics.
        options.set_allow_concurrent_memtable_write(false);
        // RocksDB's own statistics dumps go nowhere.
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options.set_info_logger(logger());
        options
    }

    pub(super) fn family(&self, workload: Workload) -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.cache);
        // Indexes and filters grow with the number of keys: they count against
        // the cache, in its high-priority part, instead of living beside it.
        table.set_cache_index_and_filter_blocks(true);
        table.set_cache_index_and_filter_blocks_with_high_priority(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        table.set_optimize_filters_for_memory(true);

        let mut options = Options::default();
        options.set_write_buffer_size(self.write_buffer_bytes / 2);
        options.set_max_write_buffer_number(3);
        options.set_level_compaction_dynamic_level_bytes(true);
        options.set_max_bytes_for_level_base(4 * self.write_buffer_bytes as u64);
        options.set_target_file_size_base(self.write_buffer_bytes as u64);
        // What was just flushed is rewritten soon: compressing it would cost more than it saves.
        options.set_compression_per_level(&[DBCompressionType::None, DBCompressionType::Lz4]);
        match workload {
            Workload::Lookup => {
                table.set_block_size(8 * KIB);
                table.set_bloom_filter(10.0, false);
                table.set_whole_key_filtering(true);
                table.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
                options.set_memtable_whole_key_filtering(true);
                options.set_memtable_prefix_bloom_ratio(0.02);
                compress_what_lasts(&mut options);
                options.set_compaction_pri(CompactionPri::MinOverlappingRatio);
                compact_tombstones(&mut options);
            }
            Workload::Scan => {
                table.set_block_size(16 * KIB);
                compress_what_lasts(&mut options);
                options.set_compaction_pri(CompactionPri::MinOverlappingRatio);
            }
            Workload::Queue => {
                table.set_block_size(16 * KIB);
                // Files in key order do not overlap, so that most are moved down
                // and later dropped without being rewritten.
                options.set_compaction_pri(CompactionPri::OldestSmallestSeqFirst);
                compact_tombstones(&mut options);
            }
            Workload::Cells => {
                table.set_block_size(4 * KIB);
                // Every common flush adds a file of a few hundred bytes. While a
                // compaction elsewhere takes its time, these may pile up, and are
                // no reason to slow all writes down.
                options.set_level_zero_slowdown_writes_trigger(500);
                options.set_level_zero_stop_writes_trigger(1000);
            }
        }
        options.set_block_based_table_factory(&table);
        options
    }

    /// Bytes of the cache in use.
    pub(super) fn cache_bytes(&self) -> u64 {
        self.cache.get_usage() as u64
    }
}

/// Compresses the last level well, at Zstandard's cheapest level: while a store is small,
/// the last level is the only one and rewritten with every compaction, and what the usual
/// level saves besides is a few percent of the space for twice the time.
fn compress_what_lasts(options: &mut Options) {
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    options.set_bottommost_compression_options(ZLIB_WINDOW_BITS, ZSTD_LEVEL, 0, 0, true);
}

/// Rewrites files that are mostly deletions soon, because whoever scans from
/// before a run of deletions steps over each of them.
fn compact_tombstones(options: &mut Options) {
    options.add_compact_on_deletion_collector_factory(4096, 2048, 0.5);
}

/// Sends `RocksDB`'s warnings where all others go, instead of to log files in the
/// data folder that nobody bounds or reads.
fn logger() -> InfoLogger {
    InfoLogger::new_callback_logger(LogLevel::Warn, |level, message| match level {
        LogLevel::Warn => tracing::warn!(target: "kvorum::engine", "{message}"),
        LogLevel::Error | LogLevel::Fatal => tracing::error!(target: "kvorum::engine", "{message}"),
        LogLevel::Debug | LogLevel::Info | LogLevel::Header => {}
    })
}
