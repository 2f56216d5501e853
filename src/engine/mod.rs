//! Ordered, crash-consistent byte storage: the only user of the `rocksdb` crate.
//!
//! It knows column families, batches, cursors and views, and nothing of what the
//! bytes mean. A batch is written whole or not at all, and after the first write
//! that fails every later one is refused, because what a failed write left
//! behind is unknown. Memory is bounded by [`EngineOptions`], not by how much is
//! stored.

mod batch;
mod cursor;
mod db;
mod options;

pub use batch::Batch;
pub use cursor::{Cursor, Scan};
pub use db::{Db, DbView, Family, MemoryUsage, Pinned};
pub use options::{EngineOptions, FamilySpec, Journal, Workload};

use crate::error::StorageError;

/// Wraps `RocksDB`'s message; `action` says what was being done.
fn database_error(action: &'static str, error: &rocksdb::Error) -> StorageError {
    StorageError::Database { action, reason: error.to_string() }
}

#[cfg(test)]
pub(crate) mod tests;
