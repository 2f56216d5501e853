//! What Openraft is told about our types, and the names of its own for them.
//!
//! It knows nodes by number and address, and commands and outcomes only as what
//! enters the log and what comes out of it.

use std::fmt;

use openraft::alias;
use serde::{Deserialize, Serialize};

use crate::{command, tasks};

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
        AsyncRuntime = tasks::Runtime,
);

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
