//! Watches: every change of a range, once, in order, from any revision that is
//! still there.
//!
//! A client opens a [`WatchSession`] and creates watchers in it. The store's
//! `changes` on disk are the truth; this module only moves a cursor for each
//! watcher over them. Two tasks do all the work, however many watchers there are:
//!
//! ```text
//!             push                 dispatch                     next()
//!  apply ───────────▶ RecentEvents ───────▶ synced watchers ──▶ session's queue ──▶ client
//!                          │                    ▲    │ queue full
//!                          ▼          caught up │    ▼
//!  store (disk) ───────────┴──── catch up ──▶ unsynced watchers
//! ```
//!
//! - **Dispatch** (`hub`) follows the newest revisions. It looks up who watches
//!   the changed keys (`index`) and appends a pointer to the shared revision to
//!   the queue of each such session. All synced watchers share its one cursor.
//! - **Catch-up** (`catch_up`) serves watchers that began in the past or whose
//!   session's queue was full, session by session, a bounded piece of history at a
//!   time. A watcher that has caught up with dispatch is handed over to it under
//!   the hub's lock, so that no revision is missed or seen twice.
//!
//! Nothing here knows a protocol, Raft or the clock of the cluster. What it keeps:
//!
//! - A watcher is given exactly the changes of its range from its start on, each
//!   once, in the order of revisions and the changes of one revision together
//!   (split only for those who asked for fragments), or it is canceled and told
//!   the revision up to which changes were compacted.
//! - A progress message with revision R comes after every change up to R.
//! - Applying commands never waits for a watcher, and a session that is not read
//!   holds a bounded queue and nothing else; its watchers go on from where they
//!   were when there is room again.
//! - A snapshot from a peer is no event: revisions only grow, and what the new
//!   state holds up to its revision is read from there.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::keyspace::{KeyRange, Record};
use crate::mvcc::{ChangeKind, Event, RevisionEvents};

mod catch_up;
mod counters;
mod history;
mod hub;
mod index;
mod intervals;
mod queue;
mod session;
mod watcher;

pub use counters::WatchCounters;
pub use history::History;
pub use hub::WatchHub;
pub use session::WatchSession;

/// The id in messages that are about all watchers of a session; none has it.
pub const ALL_WATCHERS: i64 = -1;

/// What to watch and how to tell of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a wish of its own, as clients state them")]
pub struct WatchRequest {
    /// Which keys.
    pub keys: KeyRange,
    /// The first revision to tell of. `None` is what comes after now.
    pub from: Option<i64>,
    /// Tell what a key held before.
    pub with_previous: bool,
    /// Leave out what was set.
    pub no_put: bool,
    /// Leave out what was removed.
    pub no_delete: bool,
    /// Tell now and then how far an idle watcher is.
    pub progress: bool,
    /// Split a large revision over several messages.
    pub fragment: bool,
    /// The id that messages carry; `None` chooses one.
    pub id: Option<i64>,
}

impl WatchRequest {
    /// All that happens to `keys` after now.
    pub fn of(keys: KeyRange) -> Self {
        Self {
            keys,
            from: None,
            with_previous: false,
            no_put: false,
            no_delete: false,
            progress: false,
            fragment: false,
            id: None,
        }
    }
}

/// Why a watcher was not created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatchRefusal {
    /// The session has a watcher of this id, or it is [`ALL_WATCHERS`].
    #[error("the watch id is in use on this stream; choose another or let the server choose")]
    DuplicateId,
    /// The session or the node has no room for one more.
    #[error("no more than {limit} watchers are possible here; cancel some or read the answers that wait")]
    TooMany {
        /// The limit that was met.
        limit: usize,
    },
}

/// Why a watcher ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelReason {
    /// The client asked for it.
    ByClient,
    /// What it should have been told next is gone.
    Compacted {
        /// The oldest revision from which a new watcher can start.
        compacted: i64,
    },
}

/// What a session tells its client.
#[derive(Debug, Clone)]
pub enum WatchMessage {
    /// The watcher exists. Its first message.
    Created {
        /// The watcher.
        id: i64,
        /// The store's revision when it was created.
        revision: i64,
    },
    /// Changes, in order. Those of one revision are in one message, unless `more`.
    Events {
        /// The watcher.
        id: i64,
        /// The store's revision, which may be past that of the changes.
        revision: i64,
        /// The changes; at least one.
        events: Vec<WatchEvent>,
        /// Whether the last revision goes on in the next message.
        more: bool,
    },
    /// Everything up to `revision` has been told.
    Progress {
        /// The watcher; [`ALL_WATCHERS`] when it was asked for.
        id: i64,
        /// How far.
        revision: i64,
    },
    /// The watcher is gone. Its last message.
    Canceled {
        /// The watcher.
        id: i64,
        /// The store's revision.
        revision: i64,
        /// Why.
        reason: CancelReason,
    },
    /// The node stops: nothing follows, and nothing was lost that a client can't
    /// ask another node for.
    Closed,
}

/// One change, as a watcher is told of it. Shares the change with all others who
/// are told.
#[derive(Clone)]
pub struct WatchEvent {
    of: Arc<RevisionEvents>,
    at: usize,
    with_previous: bool,
}

impl WatchEvent {
    /// The revision that made the change.
    pub fn revision(&self) -> i64 {
        self.of.revision
    }

    /// What happened to the key.
    pub fn kind(&self) -> ChangeKind {
        self.event().kind
    }

    /// The key.
    pub fn key(&self) -> &Bytes {
        &self.event().key
    }

    /// What the key holds since; `None` after a deletion.
    pub fn record(&self) -> Option<&Record> {
        self.event().record.as_ref()
    }

    /// What the key held before, if that was asked for, is known and was anything.
    pub fn previous(&self) -> Option<&Record> {
        self.event().previous.as_ref().filter(|_| self.with_previous)
    }

    fn event(&self) -> &Event {
        self.of.events.get(self.at).expect("it was made from the position of an event")
    }
}

impl fmt::Debug for WatchEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchEvent")
            .field("revision", &self.revision())
            .field("kind", &self.kind())
            .field("key", self.key())
            .field("record", &self.record())
            .field("previous", &self.previous())
            .finish()
    }
}

/// Bounds of a hub and its pace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchOptions {
    /// After how long an idle watcher that asked for it is told how far it is.
    pub progress_interval: Duration,
    /// Most watchers on the node.
    pub max_watchers: usize,
    /// Most watchers in one session.
    pub max_session_watchers: usize,
    /// Most answers to requests that a session holds unread before it refuses new
    /// watchers.
    pub max_unread_answers: usize,
    /// Most revisions that wait in one session, each counted once for each watcher.
    pub queue_messages: usize,
    /// Most bytes that wait in one session. An empty queue takes any one revision.
    pub queue_bytes: usize,
    /// Bytes that wait in all sessions before each is held to an equal share of
    /// them, so that sessions that aren't read take nothing from those that are.
    pub total_queue_bytes: usize,
    /// Bytes of keys and values after which a message takes no further revision,
    /// and a single revision is split for those who asked for it.
    pub message_bytes: usize,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self {
            progress_interval: Duration::from_secs(600),
            max_watchers: 1_000_000,
            max_session_watchers: 100_000,
            max_unread_answers: 16_384,
            queue_messages: 32_768,
            queue_bytes: 4 << 20,
            total_queue_bytes: 256 << 20,
            message_bytes: 3 << 19,
        }
    }
}

#[cfg(test)]
mod tests;
