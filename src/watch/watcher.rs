//! One watcher: what it wants and how far it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;

use super::WatchRequest;
use super::queue::Queue;
use crate::keyspace::KeyRange;
use crate::mvcc::{ChangeKind, Event};

/// Which kinds of change a revision brings to a range, as bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Kinds(u8);

impl Kinds {
    pub(super) fn of(kind: ChangeKind) -> Self {
        match kind {
            ChangeKind::Put => Self(1),
            ChangeKind::Delete => Self(2),
        }
    }

    pub(super) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(super) fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Who serves a watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Place {
    /// Dispatch does.
    Synced,
    /// Catch-up does.
    Unsynced,
    /// Catch-up did, until the session's queue was full in the turn that runs now.
    Blocked,
    /// Nobody any more.
    Ended,
}

/// A watcher. What changes of it changes under the hub's lock only; the atomics
/// are there so that sessions may hold it without that lock.
pub(super) struct Watcher {
    /// Unique within the hub.
    pub(super) number: u64,
    /// Unique within the session.
    pub(super) id: i64,
    pub(super) keys: KeyRange,
    wants: Kinds,
    pub(super) with_previous: bool,
    pub(super) fragment: bool,
    pub(super) queue: Arc<Queue>,
    next: AtomicI64,
    place: AtomicU8,
    /// Where the index has it among others of the same range.
    position: AtomicUsize,
    /// When it may next be told of its progress, in milliseconds since the hub started.
    progress_due: AtomicU64,
    /// Whether it was told of changes since that was last decided.
    active: AtomicBool,
    /// Whether a message about its progress waits to be read.
    progress_waits: AtomicBool,
}

impl Watcher {
    pub(super) fn new(number: u64, id: i64, request: WatchRequest, queue: Arc<Queue>, next: i64) -> Self {
        let mut wants = Kinds::of(ChangeKind::Put).with(Kinds::of(ChangeKind::Delete));
        if request.no_put {
            wants = wants.without(Kinds::of(ChangeKind::Put));
        }
        if request.no_delete {
            wants = wants.without(Kinds::of(ChangeKind::Delete));
        }
        Self {
            number,
            id,
            keys: owned(request.keys),
            wants,
            with_previous: request.with_previous,
            fragment: request.fragment,
            queue,
            next: AtomicI64::new(next),
            place: AtomicU8::new(Place::Unsynced as u8),
            position: AtomicUsize::new(0),
            progress_due: AtomicU64::new(0),
            active: AtomicBool::new(false),
            progress_waits: AtomicBool::new(false),
        }
    }

    /// Whether it is to be told of any change of these kinds.
    pub(super) fn wants(&self, kinds: Kinds) -> bool {
        self.wants.meets(kinds)
    }

    pub(super) fn wants_event(&self, event: &Event) -> bool {
        self.wants(Kinds::of(event.kind)) && self.keys.contains(&event.key)
    }

    /// The revision before which it has been given everything. While it is synced,
    /// this is a lower bound and dispatch's cursor is the other.
    pub(super) fn next(&self) -> i64 {
        self.next.load(Ordering::Relaxed)
    }

    pub(super) fn set_next(&self, next: i64) {
        self.next.store(next, Ordering::Relaxed);
    }

    pub(super) fn is(&self, place: Place) -> bool {
        self.place.load(Ordering::Relaxed) == place as u8
    }

    pub(super) fn set_place(&self, place: Place) {
        self.place.store(place as u8, Ordering::Relaxed);
    }

    pub(super) fn position(&self) -> usize {
        self.position.load(Ordering::Relaxed)
    }

    pub(super) fn set_position(&self, position: usize) {
        self.position.store(position, Ordering::Relaxed);
    }

    pub(super) fn progress_due(&self) -> u64 {
        self.progress_due.load(Ordering::Relaxed)
    }

    pub(super) fn set_progress_due(&self, due: u64) {
        self.progress_due.store(due, Ordering::Relaxed);
    }

    pub(super) fn note_activity(&self) {
        self.active.store(true, Ordering::Relaxed);
    }

    /// Whether no message about its progress waited, so that one may now.
    pub(super) fn may_tell_progress(&self) -> bool {
        !self.progress_waits.swap(true, Ordering::Relaxed)
    }

    pub(super) fn progress_was_told(&self) {
        self.progress_waits.store(false, Ordering::Relaxed);
    }

    /// Whether it was told of changes since the last call.
    pub(super) fn take_activity(&self) -> bool {
        self.active.swap(false, Ordering::Relaxed)
    }
}

/// The same range in memory of its own: a slice of a request would keep all of
/// the request as long as the watcher lives.
fn owned(keys: KeyRange) -> KeyRange {
    let own = |key: Bytes| Bytes::copy_from_slice(&key);
    match keys {
        KeyRange::One(key) => KeyRange::One(own(key)),
        KeyRange::From(start) => KeyRange::From(own(start)),
        KeyRange::Between { start, end } => KeyRange::Between { start: own(start), end: own(end) },
    }
}
