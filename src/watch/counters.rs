//! Figures of the hub.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What the hub has done since it was started, and what it holds now. No
/// consistent cut: each figure is exact for itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WatchCounters {
    /// Open sessions now.
    pub sessions: u64,
    /// Watchers now.
    pub watchers: u64,
    /// Watchers now that are not up to date and read from history.
    pub unsynced: u64,
    /// Bytes that wait in sessions now. Counted for each session, though sessions
    /// share them.
    pub queue_bytes: u64,
    /// Bytes of the newest changes, kept for all of them.
    pub recent_bytes: u64,
    /// Changes handed to clients, counted for each watcher.
    pub events: u64,
    /// How often a watcher's queue was full, so that it had to catch up later.
    pub fell_behind: u64,
    /// Pieces of history read for watchers that catch up.
    pub catch_up_turns: u64,
    /// Reads of changes from disk.
    pub disk_reads: u64,
    /// Watchers that ended because what they needed was compacted.
    pub compacted: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) sessions: AtomicUsize,
    pub(super) queue_bytes: AtomicUsize,
    pub(super) events: AtomicU64,
    pub(super) fell_behind: AtomicU64,
    pub(super) catch_up_turns: AtomicU64,
    pub(super) disk_reads: AtomicU64,
    pub(super) compacted: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}

pub(super) fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
