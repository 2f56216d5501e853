//! What a node keeps on disk: its identity, the Raft log, the replicated state
//! and snapshots of it.
//!
//! The log is the only thing that is synced on the write path; it knows entries
//! by index and bytes and nothing of what they mean. The state machine applies
//! them to the MVCC store and leans on the log for durability.

pub mod apply;
pub mod data_dir;
pub mod lease_table;
pub mod log_codec;
pub mod log_metrics;
pub mod log_store;
pub mod recent;
pub mod snapshot;
pub mod state_machine;

mod generation;
#[cfg(not(feature = "simulation"))]
mod log_audit;
mod log_cache;
mod log_db;
mod log_writer;

#[cfg(test)]
mod tests;

pub use apply::{KEYS_IN_PART, MAX_ANSWER_BYTES, MAX_LEASES_ENDED};
pub use lease_table::LeaseTable;
pub use log_metrics::LogMetrics;
pub use log_store::{FatalHook, LogOptions, LogReader, RocksLogStore, exit_at_once, exit_on_failure};
pub use recent::{RecentEvents, Since};
pub use state_machine::StateMachineStore;
