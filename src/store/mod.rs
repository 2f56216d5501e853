//! What a node keeps on disk.
//!
//! The log store is the only thing that is synced on the write path; it knows
//! entries by index and bytes, and nothing of what they mean.

pub mod log_codec;
pub mod log_metrics;
pub mod log_store;

mod log_cache;
mod log_db;
mod log_writer;

pub use log_metrics::LogMetrics;
pub use log_store::{FatalHook, LogOptions, LogReader, RocksLogStore, exit_on_failure};
