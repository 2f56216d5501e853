//! Options: all are taken, and those that decide what a crash leaves are kept.

/// Defines an options type whose setters do nothing: they tune what is not there.
macro_rules! deaf {
    ($(#[$doc:meta])* $name:ident { $($setter:ident($($kind:ty),*);)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default)]
        pub struct $name;

        impl $name {
            $(
                /// Changes nothing here.
                pub fn $setter(&mut self $(, _: $kind)*) {}
            )*
        }
    };
}

deaf! {
    /// Options of a table's format.
    BlockBasedOptions {
        set_block_cache(&Cache);
        set_cache_index_and_filter_blocks(bool);
        set_cache_index_and_filter_blocks_with_high_priority(bool);
        set_pin_l0_filter_and_index_blocks_in_cache(bool);
        set_optimize_filters_for_memory(bool);
        set_block_size(usize);
        set_bloom_filter(f64, bool);
        set_whole_key_filtering(bool);
        set_data_block_index_type(DataBlockIndexType);
    }
}

deaf! {
    /// Options of a cache.
    LruCacheOptions {
        set_capacity(usize);
    }
}

deaf! {
    /// Options of a flush.
    FlushOptions {
        set_wait(bool);
    }
}

deaf! {
    /// Options of a database or a column family.
    Options {
        create_if_missing(bool);
        create_missing_column_families(bool);
        set_atomic_flush(bool);
        set_db_write_buffer_size(usize);
        set_max_background_jobs(i32);
        set_max_open_files(i32);
        set_bytes_per_sync(u64);
        set_wal_bytes_per_sync(u64);
        set_max_total_wal_size(u64);
        set_max_manifest_file_size(usize);
        set_allow_concurrent_memtable_write(bool);
        set_stats_dump_period_sec(u32);
        set_stats_persist_period_sec(u32);
        set_info_logger(InfoLogger);
        set_write_buffer_size(usize);
        set_max_write_buffer_number(i32);
        set_level_compaction_dynamic_level_bytes(bool);
        set_max_bytes_for_level_base(u64);
        set_target_file_size_base(u64);
        set_compression_per_level(&[DBCompressionType]);
        set_memtable_whole_key_filtering(bool);
        set_memtable_prefix_bloom_ratio(f64);
        set_bottommost_compression_type(DBCompressionType);
        set_bottommost_compression_options(i32, i32, i32, i32, bool);
        set_compaction_pri(CompactionPri);
        set_level_zero_slowdown_writes_trigger(i32);
        set_level_zero_stop_writes_trigger(i32);
        set_block_based_table_factory(&BlockBasedOptions);
        add_compact_on_deletion_collector_factory(usize, usize, f64);
        set_wal_recovery_mode(DBRecoveryMode);
        set_recycle_log_file_num(usize);
        set_wal_compression_type(DBCompressionType);
        set_max_log_file_size(usize);
        set_keep_log_file_num(usize);
        set_log_level(LogLevel);
        set_compression_type(DBCompressionType);
        set_num_levels(i32);
        set_level_zero_file_num_compaction_trigger(i32);
    }
}

/// A cache that holds nothing.
#[derive(Debug, Clone)]
pub struct Cache;

impl Cache {
    /// A cache.
    pub fn new_lru_cache(_capacity: usize) -> Self {
        Self
    }

    /// A cache.
    pub fn new_lru_cache_opts(_options: &LruCacheOptions) -> Self {
        Self
    }

    /// Bytes in use.
    pub fn get_usage(&self) -> usize {
        0
    }
}

/// Where warnings would go.
#[derive(Debug, Clone)]
pub struct InfoLogger;

impl InfoLogger {
    /// A logger that is never called.
    pub fn new_callback_logger(_level: LogLevel, _log: impl Fn(LogLevel, &str)) -> Self {
        Self
    }
}

/// Levels of warnings.
#[derive(Debug, Clone, Copy)]
pub enum LogLevel {
    /// Of no interest.
    Debug,
    /// Of little interest.
    Info,
    /// Of interest.
    Warn,
    /// Bad.
    Error,
    /// Worse.
    Fatal,
    /// A heading.
    Header,
}

/// Kinds of compression.
#[derive(Debug, Clone, Copy)]
pub enum DBCompressionType {
    /// None.
    None,
    /// Quick.
    Lz4,
    /// Thorough.
    Zstd,
}

/// Kinds of indexes in blocks.
#[derive(Debug, Clone, Copy)]
pub enum DataBlockIndexType {
    /// With hashes.
    BinaryAndHash,
}

/// Which files are merged first.
#[derive(Debug, Clone, Copy)]
pub enum CompactionPri {
    /// Those that overlap least.
    MinOverlappingRatio,
    /// The oldest.
    OldestSmallestSeqFirst,
}

/// What recovery makes of a damaged journal.
#[derive(Debug, Clone, Copy)]
pub enum DBRecoveryMode {
    /// It ends at the first damage.
    PointInTime,
}

/// Which data a read may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadTier {
    /// All of it.
    All,
    /// What a crash would leave.
    Persisted,
}

/// Options of reads.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    pub(crate) lower: Option<Vec<u8>>,
    pub(crate) upper: Option<Vec<u8>>,
    pub(crate) tier: ReadTier,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { lower: None, upper: None, tier: ReadTier::All }
    }
}

impl ReadOptions {
    /// The first key that may be seen.
    pub fn set_iterate_lower_bound(&mut self, key: impl Into<Vec<u8>>) {
        self.lower = Some(key.into());
    }

    /// The key before which a walk ends.
    pub fn set_iterate_upper_bound(&mut self, key: impl Into<Vec<u8>>) {
        self.upper = Some(key.into());
    }

    /// Changes nothing here.
    pub fn fill_cache(&mut self, _fill: bool) {}

    /// Which data may be seen.
    pub fn set_read_tier(&mut self, tier: ReadTier) {
        self.tier = tier;
    }
}

/// Options of writes.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    pub(crate) sync: bool,
    pub(crate) without_journal: bool,
}

impl WriteOptions {
    /// Whether the write returns only once it is on disk.
    pub fn set_sync(&mut self, sync: bool) {
        self.sync = sync;
    }

    /// Whether the write goes to memory only.
    pub fn disable_wal(&mut self, disable: bool) {
        self.without_journal = disable;
    }
}

/// A column family that is to be opened.
#[derive(Debug, Clone)]
pub struct ColumnFamilyDescriptor {
    pub(crate) name: String,
}

impl ColumnFamilyDescriptor {
    /// The family called `name`.
    pub fn new(name: impl Into<String>, _options: Options) -> Self {
        Self { name: name.into() }
    }
}
