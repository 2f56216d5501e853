//! Watchers that are not up to date: those that started in the past, and those
//! whose session was full.
//!
//! Sessions stand in line, and each turn reads one bounded piece of history for
//! the session at its head. Others in the line that need the same piece are served
//! along with it, so that a thousand clients that come back at once read history
//! once. Within a session the turns go round among its watchers too. A session
//! without room does not stand in line until its client has read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::counters::count;
use super::hub::{Hub, past, retry_later, unsynced_key};
use super::index::Index;
use super::queue::Queue;
use super::watcher::{Place, Watcher};
use crate::mvcc::{ReadError, RevisionEvents};
use crate::store::recent::retained_bytes;

/// Sessions that are served along with the one at the head of the line.
const SESSIONS_PER_TURN: usize = 128;
/// Most watchers that a turn serves.
const WATCHERS_PER_TURN: usize = 16_384;
/// Deliveries after which a turn ends; the hub's lock is held for them.
const DELIVERIES_PER_TURN: usize = 32_768;
/// Most revisions that are taken from memory at once.
const REVISIONS_PER_STEP: usize = 128;
/// Least and most changes that one read asks for.
const LEAST_CHANGES: usize = 16;
const MOST_CHANGES: usize = 256;
/// Bytes that one read should give, about.
const READ_BYTES: usize = 4 << 20;

/// A piece of history to read for the session at the head of the line.
pub(super) struct Turn {
    pub(super) queue: Arc<Queue>,
    pub(super) from: i64,
    pub(super) changes: usize,
}

/// How many changes a read asks for, learnt from how large the last ones were.
pub(super) struct ReadSize(AtomicUsize);

impl ReadSize {
    pub(super) fn new() -> Self {
        Self(AtomicUsize::new(LEAST_CHANGES))
    }

    pub(super) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Learns from a read that asked for `asked` changes.
    pub(super) fn learn(&self, asked: usize, read: &[Arc<RevisionEvents>]) {
        let bytes: usize = read.iter().map(|events| retained_bytes(events)).sum();
        let changes: usize = read.iter().map(|events| events.events.len()).sum();
        if changes < asked {
            return;
        }
        let fitting = changes.saturating_mul(READ_BYTES) / bytes.max(1);
        let next = fitting.min(asked * 2).clamp(LEAST_CHANGES, MOST_CHANGES);
        self.0.store(next, Ordering::Relaxed);
    }
}

impl Hub {
    /// Takes the session at the head of the line and finds what it needs; `None` if
    /// nobody stands in line.
    pub(super) fn begin_turn(&self) -> Option<Turn> {
        loop {
            let queue = self.line.lock().pop_front()?;
            let registry = self.registry.lock();
            let Some(cursor) = queue.begin_turn(&self.options, &self.counters) else { continue };
            let next = |from| registry.unsynced_of(queue.number, from, i64::MAX).next();
            // Round about: after the last one it is the first one's turn again.
            let Some(first) = next(cursor).or_else(|| next(i64::MIN)) else { continue };
            let from = first.next();
            let watchers = registry.unsynced_of(queue.number, from, from).take(WATCHERS_PER_TURN).count();
            let changes = (DELIVERIES_PER_TURN / watchers.max(1)).clamp(LEAST_CHANGES, self.read_size.get());
            drop(registry);
            count(&self.counters.catch_up_turns, 1);
            return Some(Turn { queue, from, changes });
        }
    }

    /// Gives watchers what was read, and hands those that are up to date over to
    /// dispatch. `read` begins where the turn does and is not empty.
    pub(super) fn end_turn(&self, turn: &Turn, mut read: Vec<Arc<RevisionEvents>>) {
        let mut queues = vec![Arc::clone(&turn.queue)];
        {
            // The session itself may stand in line again already.
            let line = self.line.lock();
            let others = line.iter().filter(|other| other.number != turn.queue.number);
            queues.extend(others.take(SESSIONS_PER_TURN).cloned());
        }
        let last = read.last().map_or(turn.from, |events| events.revision);

        let mut registry = self.registry.lock();
        let served = queues.iter().flat_map(|queue| registry.unsynced_of(queue.number, turn.from, last));
        let served: Vec<Arc<Watcher>> = served.take(WATCHERS_PER_TURN).cloned().collect();
        let mut index = Index::default();
        for watcher in &served {
            registry.unsynced.remove(&unsynced_key(watcher));
            index.insert(Arc::clone(watcher));
        }

        let mut told_up_to = turn.from - 1;
        let mut left = DELIVERIES_PER_TURN;
        let mut open = served.len();
        'serving: loop {
            for events in &read {
                if left == 0 || open == 0 {
                    break 'serving;
                }
                let (delivered, blocked) = self.deliver(&index, events);
                left = left.saturating_sub(1 + delivered);
                open = open.saturating_sub(blocked);
                told_up_to = events.revision;
            }
            if told_up_to >= registry.at {
                break;
            }
            // Dispatch stands still meanwhile, so what it is ahead by is not much and
            // is surely all there is.
            match self.recent(told_up_to.saturating_add(1), REVISIONS_PER_STEP) {
                Some(events) if !events.is_empty() => read = events,
                Some(_) | None => break,
            }
        }

        for watcher in served {
            if watcher.is(Place::Blocked) {
                watcher.set_place(Place::Unsynced);
                registry.unsynced.insert(unsynced_key(&watcher), watcher);
            } else {
                watcher.set_next(watcher.next().max(told_up_to.saturating_add(1)));
                registry.place(watcher);
            }
        }
        turn.queue.end_turn(told_up_to.saturating_add(2));
        for queue in &queues {
            if registry.has_unsynced(queue.number) {
                self.want_turn(queue);
            }
        }
        registry.answer_progress();
    }

    /// Gives one revision to the watchers of `index`: how many were offered it, and
    /// how many of them have no room for it and get nothing more in this turn.
    fn deliver(&self, index: &Index, events: &Arc<RevisionEvents>) -> (usize, usize) {
        let size = retained_bytes(events);
        let (mut delivered, mut blocked) = (0, 0);
        index.matching(events, |watcher| {
            if watcher.next() > events.revision || watcher.is(Place::Blocked) {
                return;
            }
            delivered += 1;
            if !watcher.queue.offer(watcher, events, size, &self.options, &self.counters) {
                watcher.set_next(events.revision);
                watcher.set_place(Place::Blocked);
                blocked += 1;
            }
        });
        (delivered, blocked)
    }

    /// Ends those watchers of the turn's session that need what is compacted.
    pub(super) fn end_turn_compacted(&self, turn: &Turn, oldest: i64) {
        let mut registry = self.registry.lock();
        // What is compacted may still be in memory.
        let lost_before = oldest.min(self.history.recent().first());
        let lost = registry.unsynced_of(turn.queue.number, i64::MIN, lost_before.saturating_sub(1));
        let lost: Vec<_> = lost.cloned().collect();
        for watcher in lost {
            self.end_compacted(&mut registry, &watcher, oldest);
        }
        if registry.has_unsynced(turn.queue.number) {
            self.want_turn(&turn.queue);
        }
        registry.answer_progress();
    }
}

/// Serves those who stand in line until the hub is closed.
pub(super) async fn serve_forever(hub: Arc<Hub>) {
    let work = async {
        loop {
            while let Some(turn) = hub.begin_turn() {
                serve(&hub, turn).await;
                tokio::task::yield_now().await;
            }
            hub.line_grew.notified().await;
        }
    };
    tokio::select! {
        () = hub.closed() => {}
        () = work => {}
    }
}

async fn serve(hub: &Arc<Hub>, turn: Turn) {
    let read = match hub.recent(turn.from, REVISIONS_PER_STEP) {
        Some(events) => Ok(events),
        None => past(hub, turn.from, turn.changes).await,
    };
    match read {
        Ok(read) if !read.is_empty() => hub.end_turn(&turn, read),
        Err(ReadError::Compacted { oldest, .. }) if oldest > turn.from => {
            hub.end_turn_compacted(&turn, oldest);
        }
        other => {
            retry_later(turn.from, other).await;
            hub.want_turn(&turn.queue);
        }
    }
}
