//! The newest committed changes, kept in memory for those who follow them.
//!
//! A bounded ring: whoever falls behind it reads the same changes from disk, so
//! nothing is ever lost by forgetting one here, and nothing here is told apart
//! from what the store holds. It knows no watcher; it is told whether there are
//! any and, while there are none, keeps nothing.
//!
//! Invariants: what the ring holds is a run of whole revisions without gaps that
//! ends at [`RecentEvents::revision`]; a revision is announced only once the store
//! has it.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::mvcc::{Event, RevisionEvents};

/// Most bytes of changes in the ring. A larger revision is kept alone.
pub const RECENT_BYTES: usize = 16 << 20;

/// What a change takes beside its key and values.
const EVENT_BYTES: usize = size_of::<Event>();
/// What a revision takes beside its changes.
const REVISION_BYTES: usize = size_of::<RevisionEvents>() + 4 * size_of::<usize>();

/// How much memory `events` holds, in bytes: keys and values, old ones included.
pub fn retained_bytes(events: &RevisionEvents) -> usize {
    let of = |event: &Event| EVENT_BYTES + event.bytes();
    REVISION_BYTES + events.events.iter().map(of).sum::<usize>()
}

/// What the ring has from some revision on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Since {
    /// Revisions from the one asked for on, in order and without gaps; none if it
    /// is not committed yet.
    Events(Vec<Arc<RevisionEvents>>),
    /// The ring no longer goes back so far: the store has to be read.
    Behind,
}

/// The ring.
#[derive(Debug)]
pub struct RecentEvents {
    ring: Mutex<Ring>,
    limit: usize,
    /// The last revision; those who wait on it are told only while somebody follows.
    revision: watch::Sender<i64>,
}

#[derive(Debug)]
struct Ring {
    /// Each with its size in bytes.
    events: VecDeque<(Arc<RevisionEvents>, usize)>,
    bytes: usize,
    /// The last revision that was committed, in the ring or not.
    revision: i64,
    is_followed: bool,
}

impl Ring {
    /// The least revision that the ring can tell about.
    fn first(&self) -> i64 {
        self.events.front().map_or(self.revision.saturating_add(1), |(oldest, _)| oldest.revision)
    }

    /// Forgets everything, and hands it back so that no lock is held while it is freed.
    fn clear(&mut self) -> VecDeque<(Arc<RevisionEvents>, usize)> {
        self.bytes = 0;
        std::mem::take(&mut self.events)
    }
}

impl RecentEvents {
    /// An empty ring of at most `limit` bytes behind a store at `revision`.
    pub fn new(revision: i64, limit: usize) -> Self {
        let ring = Ring { events: VecDeque::new(), bytes: 0, revision, is_followed: false };
        Self { ring: Mutex::new(ring), limit, revision: watch::Sender::new(revision) }
    }

    /// Adds what a batch changed. The batch is committed and visible to readers.
    pub fn push(&self, batch: Vec<RevisionEvents>) {
        let Some(last) = batch.last().map(|events| events.revision) else { return };
        let mut forgotten = VecDeque::new();
        {
            let mut ring = self.ring.lock();
            if ring.is_followed {
                for events in batch {
                    if events.revision != ring.revision.saturating_add(1) {
                        forgotten.append(&mut ring.clear());
                    }
                    let bytes = retained_bytes(&events);
                    ring.revision = events.revision;
                    ring.bytes += bytes;
                    ring.events.push_back((Arc::new(events), bytes));
                    while ring.bytes > self.limit && ring.events.len() > 1 {
                        let Some(oldest) = ring.events.pop_front() else { break };
                        ring.bytes -= oldest.1;
                        forgotten.push_back(oldest);
                    }
                }
            }
            ring.revision = last;
            self.announce(&ring);
        }
        drop(forgotten);
    }

    /// Starts again behind a store that came to `revision` without telling what
    /// happened: whatever did up to it has to be read there.
    pub fn reset(&self, revision: i64) {
        let forgotten = {
            let mut ring = self.ring.lock();
            ring.revision = revision;
            self.announce(&ring);
            ring.clear()
        };
        drop(forgotten);
    }

    /// Tells of the last revision. Within the lock: a follower that comes now either
    /// finds it or is told of it.
    fn announce(&self, ring: &Ring) {
        self.revision.send_if_modified(|revision| {
            *revision = ring.revision;
            ring.is_followed
        });
    }

    /// Whether anybody follows, so that changes are worth collecting.
    pub fn is_followed(&self) -> bool {
        self.ring.lock().is_followed
    }

    /// Says whether anybody follows. While nobody does, the ring stays empty and
    /// wakes nobody.
    pub fn follow(&self, is_followed: bool) {
        let forgotten = {
            let mut ring = self.ring.lock();
            ring.is_followed = is_followed;
            if is_followed { VecDeque::new() } else { ring.clear() }
        };
        drop(forgotten);
    }

    /// Revisions from `from` on, at most `limit` of them.
    pub fn since(&self, from: i64, limit: usize) -> Since {
        let ring = self.ring.lock();
        if from < ring.first() {
            return Since::Behind;
        }
        let start = ring.events.partition_point(|(events, _)| events.revision < from);
        Since::Events(
            ring.events.iter().skip(start).take(limit).map(|(events, _)| Arc::clone(events)).collect(),
        )
    }

    /// The last committed revision.
    pub fn revision(&self) -> i64 {
        self.ring.lock().revision
    }

    /// The least revision that the ring can tell about, present or to come.
    pub fn first(&self) -> i64 {
        self.ring.lock().first()
    }

    /// Bytes of changes in the ring.
    pub fn bytes(&self) -> usize {
        self.ring.lock().bytes
    }

    /// To wait for the next revision, while somebody [follows](Self::follow).
    pub fn subscribe(&self) -> watch::Receiver<i64> {
        self.revision.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyspace::Record;
    use crate::mvcc::ChangeKind;
    use bytes::Bytes;

    fn put(revision: i64, value_bytes: usize) -> RevisionEvents {
        let value = Bytes::from(vec![b'v'; value_bytes]);
        let record =
            Record { value, create_revision: revision, mod_revision: revision, version: 1, lease: 0 };
        let key = Bytes::from_static(b"k");
        let event = Event { kind: ChangeKind::Put, key, record: Some(record), previous: None };
        RevisionEvents { revision, events: vec![event] }
    }

    fn revisions(since: Since) -> Option<Vec<i64>> {
        match since {
            Since::Events(events) => Some(events.iter().map(|events| events.revision).collect()),
            Since::Behind => None,
        }
    }

    fn followed(limit: usize) -> RecentEvents {
        let recent = RecentEvents::new(1, limit);
        recent.follow(true);
        recent
    }

    #[test]
    fn a_follower_finds_each_revision_from_where_it_asks() {
        let recent = followed(usize::MAX);
        recent.push(vec![put(2, 1), put(3, 1)]);
        recent.push(vec![put(4, 1)]);
        assert_eq!(revisions(recent.since(2, 9)), Some(vec![2, 3, 4]));
        assert_eq!(revisions(recent.since(3, 1)), Some(vec![3]));
        assert_eq!(revisions(recent.since(5, 9)), Some(vec![]));
        assert_eq!(revisions(recent.since(1, 9)), None);
    }

    #[test]
    fn the_oldest_revisions_go_when_the_bytes_run_out() {
        let one = retained_bytes(&put(2, 100));
        let recent = followed(2 * one);
        recent.push((2..=5).map(|revision| put(revision, 100)).collect());
        assert_eq!((revisions(recent.since(3, 9)), revisions(recent.since(4, 9))), (None, Some(vec![4, 5])));
        assert_eq!(recent.bytes(), 2 * one);
        recent.push(vec![put(6, 1_000)]);
        assert_eq!(revisions(recent.since(6, 9)), Some(vec![6]), "a large revision is kept alone");
        assert_eq!(recent.first(), 6);
    }

    #[test]
    fn a_reset_forgets_and_moves_on() {
        let recent = followed(usize::MAX);
        recent.push(vec![put(2, 1)]);
        let mut news = recent.subscribe();
        recent.reset(10);
        assert!(news.has_changed().unwrap() && *news.borrow_and_update() == 10);
        assert_eq!((revisions(recent.since(10, 9)), revisions(recent.since(11, 9))), (None, Some(vec![])));
        recent.push(vec![put(11, 1)]);
        assert_eq!(revisions(recent.since(11, 9)), Some(vec![11]));
        recent.push(vec![put(15, 1)]);
        assert_eq!(revisions(recent.since(12, 9)), None, "a gap is never bridged");
    }

    #[test]
    fn nothing_is_kept_and_nobody_woken_while_nobody_follows() {
        let recent = RecentEvents::new(1, usize::MAX);
        let mut news = recent.subscribe();
        recent.push(vec![put(2, 1)]);
        assert!(!recent.is_followed() && !news.has_changed().unwrap());
        assert_eq!((recent.bytes(), recent.revision()), (0, 2));
        recent.follow(true);
        recent.push(vec![put(3, 1)]);
        assert!(news.has_changed().unwrap());
        assert_eq!(*news.borrow_and_update(), 3);
        assert_eq!((revisions(recent.since(2, 9)), revisions(recent.since(3, 9))), (None, Some(vec![3])));
        recent.follow(false);
        assert_eq!((recent.bytes(), revisions(recent.since(3, 9))), (0, None));
        recent.reset(4);
        assert!(!news.has_changed().unwrap());
        assert_eq!(revisions(recent.since(5, 9)), Some(vec![]));
    }
}
