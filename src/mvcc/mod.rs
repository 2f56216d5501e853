//! Versions of keys, ordered by revision.
//!
//! Every command that changes something takes one new main revision. The newest
//! record of each key is kept apart from what it replaced: reads at the present
//! meet no old versions, and reads in the past follow undo images. Readers never
//! wait for the writer and see whole batches only.
//!
//! Nothing here knows Raft, sockets or time: equal state and equal command give
//! equal bytes, and a hash that is chained over all changes proves it. Nor does
//! this write a log of its own: after a crash the store is as it was after one
//! of its batches, and whoever applied the batches applies the lost ones again,
//! from the position that it stored in the same batch.
//!
//! `docs/format.md` describes every stored byte.

use bytes::Bytes;

use crate::error::{Error, StorageError};

mod alarm;
mod compaction;
mod lease;
mod moment;
mod newest;
mod range;
mod schema;
mod store;
mod txn;
mod view;
mod write;

pub use crate::engine::{EngineOptions, MemoryUsage};
pub use crate::keyspace::{KeyValue, Record};
pub use moment::{KeptChange, Moment};
pub use range::Room;
pub use schema::{ChangeKind, FORMAT_VERSION, OLDEST_REVISION};
pub use store::Store;
pub use txn::Removal;
pub use write::{Committed, PutDone, WriteSession};

/// What a point read found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// The store's revision at the time of the read. A read of the present is
    /// exactly the state at this revision.
    pub revision: i64,
    /// The key's record; `None` if absent.
    pub record: Option<Record>,
}

/// Which keys to read, and how much of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeQuery {
    /// The first key.
    pub start: Bytes,
    /// The key before which the range ends; `None` is the end of the keyspace.
    pub end: Option<Bytes>,
    /// The revision to read at; `None` is the present.
    pub at: Option<i64>,
    /// At most so many items. Counting ignores it.
    pub limit: usize,
    /// At most so many bytes of keys and values, but at least one item, so that
    /// whoever pages always gets on. Counting ignores it.
    pub max_bytes: usize,
    /// Leave the values out.
    pub keys_only: bool,
    /// Count the range's keys and return none.
    pub count_only: bool,
}

/// A part of a range, in key order, all at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The store's revision at the time of the read.
    pub revision: i64,
    /// The revision that the page reflects.
    pub at: i64,
    /// Keys from the start of the range.
    pub items: Vec<KeyValue>,
    /// Whether the range holds keys after the last item.
    pub more: bool,
    /// How many keys the range holds; only when counting.
    pub count: Option<u64>,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The revision of the command.
    pub main: i64,
    /// The position among the command's changes, from zero.
    pub sub: u32,
    /// What happened to the key.
    pub kind: ChangeKind,
    /// The key.
    pub key: Bytes,
    /// The state hash after this change.
    pub hash: u64,
}

/// One change of one key, with what the key held before and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What happened to the key.
    pub kind: ChangeKind,
    /// The key.
    pub key: Bytes,
    /// What it holds since; `None` after a deletion.
    pub record: Option<Record>,
    /// What it held before; `None` if it was absent, or if that was compacted.
    pub previous: Option<Record>,
}

impl Event {
    /// Bytes of its key and both values.
    pub fn bytes(&self) -> usize {
        let value = |record: &Option<Record>| record.as_ref().map_or(0, |record| record.value.len());
        self.key.len() + value(&self.record) + value(&self.previous)
    }
}

/// All changes of one revision, in the order in which they were made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionEvents {
    /// The revision.
    pub revision: i64,
    /// The changes; at least one.
    pub events: Vec<Event>,
}

impl RevisionEvents {
    /// Adds a change of `revision` behind `revisions`, of which none is later.
    fn append(revisions: &mut Vec<Self>, revision: i64, event: Event) {
        match revisions.last_mut().filter(|last| last.revision == revision) {
            Some(last) => last.events.push(event),
            None => revisions.push(Self { revision, events: vec![event] }),
        }
    }
}

/// A promise to keep the keys attached to it until its time is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Its id; never zero.
    pub id: i64,
    /// Its time to live in seconds.
    pub ttl: i64,
    /// When it may be ended, in milliseconds on the lease clock.
    pub expires_at: u64,
    /// Whether it has ended and only its last keys are still to be removed. Nobody
    /// can attach to it or renew it any more.
    pub ending: bool,
}

/// A change of the leases or of their clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseChange {
    /// The lease was granted, renewed or is now ending.
    Set(Lease),
    /// The lease of this id is gone.
    Removed(i64),
    /// The lease clock stands here, in milliseconds.
    Clock(u64),
}

/// Why a read gave no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The revision asked for was compacted, or never existed.
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
        /// The store's revision.
        current: i64,
    },
    /// The node's storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl ReadError {
    /// The answer that a client of `node` gets.
    pub fn into_answer(self, node: crate::NodeId) -> Error {
        match self {
            Self::Compacted { requested, oldest } => Error::Compacted { requested, oldest },
            Self::FutureRevision { requested, current } => Error::FutureRevision { requested, current },
            Self::Storage(error) => Error::Internal { node, reason: error.to_string() },
        }
    }
}

#[cfg(test)]
mod tests;
