//! Kvorum's parsers without what they need not: storage, sockets and Raft itself.
//!
//! The modules below are the server's own files, compiled once more under the paths by
//! which they name each other. A build of the server with the fuzzer's instrumentation
//! would compile RocksDB with it, which takes far longer and finds nothing here. What
//! stands in for the rest of the server is below them, and as small as it can be.

#![expect(dead_code, reason = "the server uses more of these files than the targets do")]

/// Files that only know each other, and Openraft.
#[path = "../../src"]
mod server {
    pub mod codec;
    pub mod command;
    pub mod error;
    pub mod inflight;
    pub mod keyspace;
    pub mod raft_types;
}

/// How log ids, votes, memberships and entries are written.
#[path = "../../src/store"]
pub mod store {
    pub mod log_codec;
}

/// What peers say to each other.
#[path = "../../src/openraft_network"]
pub mod openraft_network {
    use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};

    pub mod forward;
    mod plausible;
    pub mod wire;

    use crate::{LogId, SnapshotMeta, TypeConfig, Vote};

    /// Looks at an append as a node does before Raft sees it.
    pub fn check_append(request: &AppendEntriesRequest<TypeConfig>) -> bool {
        plausible::check_append(request).is_ok()
    }

    /// Looks at a vote request as a node does before Raft sees it.
    pub fn check_vote(request: &VoteRequest<TypeConfig>) -> bool {
        plausible::check_vote(request).is_ok()
    }

    /// Looks at a request to take over as a node does before Raft sees it.
    pub fn check_transfer(request: &TransferLeaderRequest<TypeConfig>) -> bool {
        plausible::check_transfer(request).is_ok()
    }

    /// Looks at a snapshot's announcement as a node does before it takes it.
    pub fn check_snapshot(vote: &Vote, meta: &SnapshotMeta, committed: Option<LogId>) -> bool {
        plausible::check_snapshot(vote, meta, committed).is_ok()
    }
}

/// The rules for requests.
#[path = "../../src/service"]
pub mod service {
    mod check;

    use crate::command::Txn;
    use crate::config::Limits;
    use crate::error::Error;

    /// Checks a transaction as every front's are.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check_txn(txn: &Txn, limits: &Limits) -> Result<(), Error> {
        check::check_txn(txn, limits)
    }
}

/// etcd's messages to requests of ours, and outcomes back.
#[path = "../../src/etcd_api"]
pub mod etcd_api {
    pub mod services {
        mod convert;
        mod status;

        use kvorum_etcd_proto::etcdserverpb as pb;
        use tonic::Status;

        use crate::command::{Txn, TxnOutcome};

        /// Reads a transaction of at most `max_operations`.
        ///
        /// # Errors
        /// What etcd says of such a request.
        pub fn txn(request: pb::TxnRequest, max_operations: usize) -> Result<Txn, Status> {
            convert::txn(request, max_operations)
        }

        /// Whether a transaction may be answered from the state of the node that is asked.
        pub fn may_be_behind(request: &pb::TxnRequest) -> bool {
            convert::may_be_behind(request)
        }

        /// Writes the answer to a transaction.
        pub fn txn_response(done: TxnOutcome) -> pb::TxnResponse {
            convert::txn_response(pb::ResponseHeader::default(), done)
        }
    }
}

/// Stands in for the configuration: what the rules for requests look at.
pub mod config {
    /// The largest request that may be allowed.
    pub const MOST_REQUEST_BYTES: usize = 62 << 20;

    /// Bounds on what one request may take.
    pub struct Limits {
        /// Longest key, in bytes.
        pub max_key_bytes: usize,
        /// Longest value, in bytes.
        pub max_value_bytes: usize,
        /// Most operations in one transaction.
        pub max_txn_ops: usize,
    }
}

/// Stands in for how tasks are started: what Openraft is told to run on.
pub(crate) mod tasks {
    pub(crate) use openraft::TokioRuntime as Runtime;
}

pub use server::raft_types::{Entry, LogId, Member, NodeId, SnapshotMeta, TypeConfig, Vote};
pub use server::{codec, command, error, inflight, keyspace};
