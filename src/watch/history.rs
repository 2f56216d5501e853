//! Where past changes come from.

use crate::mvcc::{ReadError, RevisionEvents};
use crate::store::{RecentEvents, StateMachineStore};

/// The changes that the hub distributes: the newest from memory, all others from
/// a slower place.
pub trait History: Send + Sync + 'static {
    /// The last revision that a reader can see; it never goes back.
    fn revision(&self) -> i64;

    /// The revision below which changes are gone; zero if none are.
    fn compacted(&self) -> i64;

    /// The newest changes. It announces a revision only once [`Self::events`] finds it.
    fn recent(&self) -> &RecentEvents;

    /// Changes from revision `from` on, whole revisions in order: until there are
    /// `limit` changes or `max_bytes` bytes or more, and at least one revision. May
    /// block.
    ///
    /// # Errors
    /// `Compacted` if those of `from` are gone.
    fn events(&self, from: i64, limit: usize, max_bytes: usize) -> Result<Vec<RevisionEvents>, ReadError>;
}

impl History for StateMachineStore {
    fn revision(&self) -> i64 {
        self.store().revision()
    }

    fn compacted(&self) -> i64 {
        self.store().compacted_revision()
    }

    fn recent(&self) -> &RecentEvents {
        self.recent()
    }

    fn events(&self, from: i64, limit: usize, max_bytes: usize) -> Result<Vec<RevisionEvents>, ReadError> {
        self.store().events(from, limit, max_bytes)
    }
}
