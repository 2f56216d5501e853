//! Kvorum: a strongly consistent, replicated key-value store.
//!
//! One process is one node: an Openraft instance over RocksDB that speaks HTTP.
//! Read [`start_node`] first: it wires the parts in the order in which they
//! depend on each other and names what each of them owns. A request then flows
//! one way: `network` (or a peer) → `service` → Raft → `store` → `mvcc`.

pub mod codec;
pub mod command;
pub mod config;
pub mod engine;
pub mod error;
#[cfg(not(feature = "simulation"))]
pub mod etcd_api;
pub mod inflight;
pub mod keyspace;
pub mod metrics;
pub mod mutants;
pub mod mvcc;
#[cfg(not(feature = "simulation"))]
pub mod network;
#[cfg(not(feature = "simulation"))]
pub mod node;
pub mod openraft_network;
mod raft_types;
pub mod replica;
pub mod service;
#[cfg(feature = "simulation")]
pub mod simulation;
#[cfg(not(feature = "simulation"))]
mod sockets;
pub mod store;
mod tasks;
pub mod telemetry;
pub mod watch;

#[cfg(not(feature = "simulation"))]
pub use node::{Node, start_node};
pub use raft_types::{
    Entry, LogId, Member, Membership, NodeId, SnapshotMeta, StoredMembership, TypeConfig, Vote,
};

/// The Raft instance of a node.
pub type Raft = openraft::Raft<TypeConfig, store::StateMachineStore>;
