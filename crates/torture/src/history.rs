//! What clients did and what they were told: all that the checkers believe.
//!
//! Every call is written down with its start, its end and its outcome, by the client
//! that made it, before anybody judges it. Times are nanoseconds of the one monotonic
//! clock of the process that runs the clients, counted from the start of the run.
//!
//! Nothing here judges, and nothing here knows faults.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Nanoseconds since the run began.
pub type Nanos = u64;

/// The number of a node.
pub type NodeId = u64;

/// The interface over which a call went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// The HTTP API v1.
    Http,
    /// etcd's API over gRPC.
    Grpc,
    /// `/write` and `/read`, which tell no revisions.
    Seed,
}

/// A call and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// The client; it makes one call after the other.
    pub client: u32,
    /// The node that was asked.
    pub node: NodeId,
    /// How it was asked.
    pub way: Way,
    /// Before the call was sent.
    pub begun: Nanos,
    /// After the outcome was known, or the client gave up. A call whose outcome is
    /// unknown may still take effect later.
    pub ended: Nanos,
    /// What was asked.
    pub call: Call,
    /// What was told.
    pub outcome: Outcome,
}

/// What a client asks. All keys and values are text; every value that a register is
/// given is unique in the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// An atomic transaction. A plain get or put is one without compares.
    Txn {
        /// All must hold for `then`, else `otherwise` is done.
        compares: Vec<Compare>,
        /// Steps if the compares hold.
        then: Vec<Step>,
        /// Steps if they do not.
        otherwise: Vec<Step>,
        /// A read of the node's own state, which may be old. Only if all steps read.
        local: bool,
    },
    /// The seed's `/write`: sets the key, or deletes it.
    SeedWrite {
        /// The key.
        key: String,
        /// The new value; `None` deletes.
        value: Option<String>,
    },
    /// The seed's `/read?consistency=linearizable`.
    SeedRead {
        /// The key.
        key: String,
    },
}

impl Call {
    /// Whether it can't change anything.
    pub fn only_reads(&self) -> bool {
        match self {
            Self::Txn { then, otherwise, .. } => {
                then.iter().chain(otherwise).all(|step| matches!(step, Step::Get { .. }))
            }
            Self::SeedWrite { .. } => false,
            Self::SeedRead { .. } => true,
        }
    }
}

/// A condition on a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compare {
    /// The revision of its last change; 0 if it is absent.
    ModRevision {
        /// The key.
        key: String,
        /// What it must be.
        revision: i64,
    },
    /// The revision at which it came to be; 0 if it is absent.
    CreateRevision {
        /// The key.
        key: String,
        /// What it must be.
        revision: i64,
    },
    /// Its value; never holds for an absent key.
    Value {
        /// The key.
        key: String,
        /// What it must be.
        value: String,
    },
}

/// One step of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Reads a key.
    Get {
        /// The key.
        key: String,
    },
    /// Sets a key.
    Put {
        /// The key.
        key: String,
        /// Its new value.
        value: String,
        /// The lease with which it ends, if any.
        lease: Option<i64>,
    },
    /// Deletes a key.
    Delete {
        /// The key.
        key: String,
    },
}

/// A key's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The value.
    pub value: String,
    /// The revision at which it came to be.
    pub create_revision: i64,
    /// The revision of its last change.
    pub mod_revision: i64,
    /// Changes since it came to be, with that one.
    pub version: i64,
    /// Its lease; 0 if it has none.
    pub lease: i64,
}

/// What a client was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A transaction was carried out.
    Done {
        /// The store's revision after it, or the one that a read reflects.
        revision: i64,
        /// Whether the compares held.
        succeeded: bool,
        /// One for each step of the branch that was taken.
        results: Vec<StepResult>,
    },
    /// The seed's `/write` was carried out.
    SeedWritten,
    /// The seed's `/read` was answered; an absent key reads as `""`.
    SeedFound {
        /// The value.
        value: String,
    },
    /// It certainly was not and will not be carried out.
    Failed {
        /// What the client was told.
        reason: String,
    },
    /// It may or may not have been carried out, or may yet be.
    Unknown {
        /// What the client was told, or that it was told nothing.
        reason: String,
    },
}

/// What a step of a transaction gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepResult {
    /// Of a get: the record; `None` if the key is absent.
    Got(Option<Record>),
    /// Of a put.
    Put,
    /// Of a delete: how many keys were deleted.
    Deleted(i64),
}

/// A time during which a client had reason to believe that it alone held a lock.
///
/// A lease lasts at least its time to live from the moment at which the last
/// keep-alive that was answered was *sent*; beyond that the client must not believe it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// The client.
    pub client: u32,
    /// The name of the lock.
    pub lock: String,
    /// The lease on which it rests.
    pub lease: i64,
    /// The create revision of the lock's key: greater for every later holder.
    pub fencing: i64,
    /// When the client was told that it holds the lock.
    pub from: Nanos,
    /// Until when it believed so: it began to release it, was told that it lost it, or
    /// the lease could have ended.
    pub until: Nanos,
}

/// A change of a key, as a watcher saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The key.
    pub key: String,
    /// The revision of the change.
    pub mod_revision: i64,
    /// The new record, or `None` if it was deleted.
    pub record: Option<Record>,
}

/// What happened to a watcher, in its order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchNote {
    /// It asked a node for everything from a revision on; 0 is from now on.
    Opened {
        /// When.
        at: Nanos,
        /// Whom.
        node: NodeId,
        /// From where.
        from_revision: i64,
    },
    /// Changes that came together in one message.
    Events {
        /// When.
        at: Nanos,
        /// In the order in which they came.
        events: Vec<Event>,
    },
    /// It was told that it has seen all changes up to a revision.
    Progress {
        /// When.
        at: Nanos,
        /// The revision.
        revision: i64,
    },
    /// It was told that what it asked for is compacted.
    Compacted {
        /// When.
        at: Nanos,
        /// The oldest revision that can be watched from.
        compact_revision: i64,
    },
    /// The stream ended some other way.
    Lost {
        /// When.
        at: Nanos,
        /// What was told.
        reason: String,
    },
}

/// All that a watcher was told during the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchLog {
    /// Its number.
    pub watcher: u32,
    /// How it watched.
    pub way: Way,
    /// The prefix of the keys that it watched; empty is all keys.
    pub prefix: String,
    /// What happened to it.
    pub notes: Vec<WatchNote>,
}

/// A node's state once all faults were over and all nodes had applied the whole log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// The node.
    pub node: NodeId,
    /// Its revision.
    pub revision: i64,
    /// The last log index that it had applied.
    pub applied_index: u64,
    /// The hash over all that it ever applied.
    pub state_hash: String,
    /// All keys, by local reads.
    pub records: BTreeMap<String, Record>,
}

/// A whole run, as the checkers see it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// All calls, in no particular order.
    pub operations: Vec<Operation>,
    /// All watchers. At least one of them watches all keys from revision 2 to the end.
    pub watches: Vec<WatchLog>,
    /// All times during which a lock was held.
    pub holdings: Vec<Holding>,
    /// The sum of all accounts of the bank; `None` if there was no bank.
    pub bank_total: Option<i64>,
    /// The nodes at the end.
    pub final_states: Vec<NodeState>,
}

/// Prefixes of keys by workload. What a key's prefix says is all that a checker of a
/// workload knows of it.
pub mod keys {
    /// Registers, whose every value is unique: put, get, compare-and-set, delete.
    pub const REGISTER: &str = "reg/";
    /// The same through the seed's calls; their values are unique too.
    pub const SEED: &str = "seed/";
    /// Lists of unique numbers, joined by commas, that transactions read and append to.
    pub const LIST: &str = "list/";
    /// Numbers that are counted up by compare-and-set.
    pub const COUNTER: &str = "ctr/";
    /// Balances, between which transactions move money.
    pub const BANK: &str = "bank/";
    /// Keys of locks, which end with their lease.
    pub const LOCK: &str = "lock/";
    /// Keys of etcd's lock service, one for each client below the name of its lock. The
    /// service sets and deletes them, and no call says so.
    pub const MUTEX: &str = "mutex/";
}
