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
pub mod etcd_api;
pub mod keyspace;
pub mod metrics;
pub mod mvcc;
pub mod network;
pub mod node;
pub mod openraft_network;
pub mod service;
pub mod store;
pub mod telemetry;
pub mod watch;

use std::fmt;

use openraft::alias;
use serde::{Deserialize, Serialize};

pub use node::{Node, start_node};

/// Identifies a node for good; never reused within a cluster.
pub type NodeId = u64;

/// Where a node can be reached by its peers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Member {
    /// `host:port` of the peer endpoint.
    pub addr: String,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.addr)
    }
}

openraft::declare_raft_types!(
    /// What Openraft is told about our types: encoded commands in, outcomes out.
    pub TypeConfig:
        D = command::Proposal,
        R = command::Outcome,
        NodeId = NodeId,
        Node = Member,
);

/// The Raft instance of a node.
pub type Raft = openraft::Raft<TypeConfig, store::StateMachineStore>;
/// Term, leader and index of a log entry.
pub type LogId = alias::LogIdOf<TypeConfig>;
/// A vote: term, candidate and whether a majority granted it.
pub type Vote = alias::VoteOf<TypeConfig>;
/// A log entry.
pub type Entry = alias::EntryOf<TypeConfig>;
/// Voters (possibly two sets of them) and learners, with their addresses.
pub type Membership = openraft::Membership<NodeId, Member>;
/// A membership and the log entry that set it.
pub type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
/// What a snapshot covers.
pub type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;
