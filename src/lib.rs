//! Kvorum: a strongly consistent, replicated key-value store.

pub mod codec;
pub mod command;
pub mod engine;
pub mod error;
pub mod mvcc;

/// Identifies a node for good; never reused within a cluster.
pub type NodeId = u64;
