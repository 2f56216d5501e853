//! Kvorum: a strongly consistent, replicated key-value store.

pub mod codec;
pub mod command;
pub mod error;
pub mod store;

use std::fmt;

/// Identifies a node for good; never reused within a cluster.
pub type NodeId = u64;

/// Where a node can be reached by its peers.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
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
    /// What Openraft is instantiated with: proposals in, outcomes out. A leader
    /// is identified by its term and node id, and everything runs on Tokio.
    pub TypeConfig:
        D = command::Proposal,
        R = command::Outcome,
        NodeId = u64,
        Node = Member,
);
