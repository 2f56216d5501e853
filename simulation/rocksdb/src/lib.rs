//! A database in memory with the interface of the `rocksdb` crate, as far as Kvorum
//! uses it, that can be crashed.
//!
//! It keeps the promises on which Kvorum builds and no more: a batch is written whole
//! or not at all; with a journal, what was synced survives a crash and the rest as a
//! prefix; without one, all families survive at one batch that is not older than the
//! last flush. Whatever else a crash may leave is drawn by [`disk::Fate`]. It must
//! never keep more than the real one promises.

pub mod checkpoint;
pub mod disk;
pub mod properties;

mod content;
mod db;
mod options;

pub use db::{
    AsColumnFamilyRef, ColumnFamily, DB, DBPinnableSlice, DBRawIterator, Error, Snapshot, WriteBatch,
};
pub use options::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, CompactionPri, DBCompressionType, DBRecoveryMode,
    DataBlockIndexType, FlushOptions, InfoLogger, LogLevel, LruCacheOptions, Options, ReadOptions, ReadTier,
    WriteOptions,
};
