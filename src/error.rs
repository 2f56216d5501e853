//! What can go wrong, in two kinds that must never be mixed up.
//!
//! A [`StorageError`] is this node's own trouble with its disk: it is never
//! answered as a result and stops the node, because a node that goes on after a
//! failed write may acknowledge what it does not have. An [`Error`] is an answer
//! to a caller. (A refusal that every replica agrees on is neither: it is a
//! [`crate::command::Rejection`] inside an outcome.)

use std::path::PathBuf;
use std::time::Duration;

use crate::NodeId;
use crate::codec::DecodeError;

/// Trouble with this node's own storage. The node stops.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StorageError {
    /// RocksDB reported an error.
    #[error("{action} failed: {reason}")]
    Database {
        /// What was being done.
        action: &'static str,
        /// RocksDB's message.
        reason: String,
    },
    /// The operating system reported an error.
    #[error("{action} {path} failed: {reason}", path = path.display())]
    File {
        /// What was being done.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's message.
        reason: String,
    },
    /// The Raft log lost something that was synced, and what came after it is there.
    #[error(
        "the log is damaged in the middle: {path} at byte {at}: {why}; starting without what is lost could lose acknowledged writes: remove this node from the cluster and add it again under a new id and with an empty folder; see docs/operations.md, \"A damaged log or state\"",
        path = path.display()
    )]
    DamagedLog {
        /// The file.
        path: PathBuf,
        /// Where in the file the damage begins.
        at: u64,
        /// How it shows.
        why: String,
    },
    /// The Raft log ends before what was applied from it.
    #[error(
        "the log lost its end: it ends at {last}, and entries up to {applied} were applied; starting with it could lose acknowledged writes: remove this node from the cluster and add it again under a new id and with an empty folder; see docs/operations.md, \"A damaged log or state\""
    )]
    LogBehindState {
        /// Where the log ends.
        last: String,
        /// The last entry that the state holds.
        applied: String,
    },
    /// Stored bytes do not decode.
    #[error("{what} is corrupt: {source}")]
    Corrupt {
        /// What was being read.
        what: &'static str,
        /// Why it does not decode.
        #[source]
        source: DecodeError,
    },
    /// The store refuses to work after an earlier failure.
    #[error("an earlier write failed, so nothing more is written: {0}")]
    Poisoned(String),
}

impl StorageError {
    /// Wraps a file system error.
    pub fn file(action: &'static str, path: impl Into<PathBuf>, error: &std::io::Error) -> Self {
        Self::File { action, path: path.into(), reason: error.to_string() }
    }
}

impl From<StorageError> for std::io::Error {
    fn from(error: StorageError) -> Self {
        Self::other(error)
    }
}

/// An answer to a caller whose request could not be carried out.
///
/// Every front maps it with one exhaustive `match`; [`Error::code`] is stable.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The request is malformed or asks for what can't be.
    #[error("{0}")]
    Invalid(String),
    /// A stated limit is exceeded.
    #[error("{what} is {size} bytes, and the limit is {limit} ({option})")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
        /// The configuration option that sets the limit.
        option: &'static str,
    },
    /// The named thing does not exist.
    #[error("{0}")]
    NotFound(String),
    /// Credentials are missing or wrong.
    #[error("{0}")]
    Unauthorized(String),
    /// The write's condition did not hold.
    #[error("the condition does not hold: the key's modification revision is {mod_revision}")]
    ConditionFailed {
        /// The key's modification revision; zero if absent.
        mod_revision: i64,
        /// The store's revision at that time.
        revision: i64,
    },
    /// A lease that the request names does not exist, or has ended.
    #[error("lease {id} does not exist")]
    LeaseNotFound {
        /// The lease.
        id: i64,
    },
    /// The lease to be granted exists already.
    #[error("lease {id} exists already; choose another id, or none to be given one")]
    LeaseExists {
        /// The lease.
        id: i64,
    },
    /// The time to live that is asked for is longer than a lease may live.
    #[error("a time to live of {ttl} s is too long; the limit is {limit} s")]
    LeaseTtlTooLarge {
        /// What was asked for, in seconds.
        ttl: i64,
        /// The longest, in seconds.
        limit: i64,
    },
    /// A put that keeps a key's value or lease met no key.
    #[error("the key whose value or lease should be kept does not exist")]
    KeyNotFound,
    /// A transaction would change a key more than once.
    #[error(
        "the transaction changes a key more than once; a key may be set once, and not be deleted besides"
    )]
    DuplicateKey,
    /// A transaction has more operations than allowed.
    #[error("the transaction has {count} operations, and the limit is {limit} (max_txn_ops)")]
    TooManyOperations {
        /// How many it has.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// A write would remove more than one may. Not carried out.
    #[error(
        "it would delete more than {max_keys} keys, or {max_bytes} bytes of keys and values, at once; delete smaller ranges"
    )]
    DeletionTooLarge {
        /// The most keys.
        max_keys: u64,
        /// The most bytes of keys and values.
        max_bytes: u64,
    },
    /// A read found more than one answer may hold.
    #[error(
        "the answer would be larger than {limit} bytes; ask for fewer keys at a time, or read the range as a stream"
    )]
    AnswerTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// A write was carried out, but its answer is too large to be sent, or is no
    /// longer known.
    #[error("the write was carried out at revision {revision}, but its answer is not available: {reason}")]
    AnswerLost {
        /// The store's revision after it.
        revision: i64,
        /// Why.
        reason: &'static str,
    },
    /// An alarm says that there is no room for more. Not carried out.
    #[error(
        "the NOSPACE alarm is raised on member {member}: nothing more is stored; delete what is not needed, compact, and disarm it (`etcdctl alarm disarm`)"
    )]
    NoSpace {
        /// The first member that it is raised on.
        member: u64,
    },
    /// An alarm says that the data may be damaged. Not carried out.
    #[error(
        "the CORRUPT alarm is raised on member {member}: keys are neither read nor changed; replace damaged members, and disarm it (`etcdctl alarm disarm`)"
    )]
    Corrupt {
        /// The first member that it is raised on.
        member: u64,
    },
    /// The idempotency key was used by another write.
    #[error("the idempotency key was already used for a different write; use a new one")]
    IdempotencyMismatch,
    /// The node or cluster is in a state in which the call makes no sense.
    #[error("{message}")]
    Conflict {
        /// A stable code: `already_initialized`, `membership_change_in_progress`, …
        code: &'static str,
        /// What to do.
        message: String,
    },
    /// The revision asked for was compacted.
    #[error("revision {requested} has been compacted; the oldest that can be read is {oldest}")]
    Compacted {
        /// The revision asked for.
        requested: i64,
        /// The oldest readable revision.
        oldest: i64,
    },
    /// The revision asked for is not written yet.
    #[error("revision {requested} is in the future; the current one is {current}")]
    FutureRevision {
        /// The revision asked for.
        requested: i64,
        /// The current revision.
        current: i64,
    },
    /// This node is not the leader, and the call may not be forwarded again.
    /// The request was certainly not carried out.
    #[error("node {node} is not the leader{}", leader.as_ref().map(|(id, addr)| format!("; node {id} at {addr} is")).unwrap_or_default())]
    NotLeader {
        /// The node that answers.
        node: NodeId,
        /// The leader it knows of, with its peer address.
        leader: Option<(NodeId, String)>,
    },
    /// The cluster has no leader or no majority. Not carried out.
    #[error("{reason}")]
    Unavailable {
        /// Why, and what to do.
        reason: String,
        /// When a retry makes sense.
        retry_after: Duration,
    },
    /// Too much is waiting. Not carried out.
    #[error("node {node} has too many requests waiting; retry later")]
    Overloaded {
        /// The node that refused.
        node: NodeId,
    },
    /// A read took too long. Nothing was changed.
    #[error("no answer within {0:?}; nothing was changed, retry")]
    ReadTimeout(Duration),
    /// A write's outcome is unknown: it may still commit.
    #[error(
        "the outcome is unknown ({reason}); the write may still commit: read the key, or retry with the same Idempotency-Key"
    )]
    Unknown {
        /// What happened to the request.
        reason: String,
    },
    /// The operation works but did not end in time; it goes on.
    #[error("{0}")]
    StillRunning(String),
    /// A node has not caught up with the log within the time limit; it goes on.
    #[error("{message}")]
    CatchUp {
        /// What to do.
        message: String,
        /// The learner's last matching log index, if it answered at all.
        matched_index: Option<u64>,
        /// The leader's last log index.
        last_log_index: Option<u64>,
    },
    /// The node is stopping because of an internal failure.
    #[error("node {node} failed: {reason}")]
    Internal {
        /// The node.
        node: NodeId,
        /// What failed.
        reason: String,
    },
}

impl Error {
    /// The stable machine-readable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid_request",
            Self::TooLarge { .. } => "too_large",
            Self::NotFound(_) => "not_found",
            Self::Unauthorized(_) => "unauthorized",
            Self::ConditionFailed { .. } => "condition_failed",
            Self::LeaseNotFound { .. } => "lease_not_found",
            Self::LeaseExists { .. } => "lease_exists",
            Self::LeaseTtlTooLarge { .. } => "lease_ttl_too_large",
            Self::KeyNotFound => "key_not_found",
            Self::DuplicateKey => "duplicate_key",
            Self::TooManyOperations { .. } => "too_many_operations",
            Self::DeletionTooLarge { .. } => "deletion_too_large",
            Self::AnswerTooLarge { .. } => "answer_too_large",
            Self::AnswerLost { .. } => "answer_lost",
            Self::NoSpace { .. } => "no_space",
            Self::Corrupt { .. } => "corrupt",
            Self::IdempotencyMismatch => "idempotency_mismatch",
            Self::Conflict { code, .. } => code,
            Self::Compacted { .. } => "compacted",
            Self::FutureRevision { .. } => "future_revision",
            Self::NotLeader { .. } => "not_leader",
            Self::Unavailable { .. } => "unavailable",
            Self::Overloaded { .. } => "overloaded",
            Self::ReadTimeout(_) | Self::StillRunning(_) | Self::CatchUp { .. } => "timeout",
            Self::Unknown { .. } => "outcome_unknown",
            Self::Internal { .. } => "internal",
        }
    }
}
