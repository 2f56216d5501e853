//! Counters of the log store, written by its thread and readable at any time.
//!
//! Each counter is exact; together they are no consistent cut, since nothing is
//! locked to read them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds in microseconds of the classes of [`LogMetrics::sync_counts`];
/// a last class without bound follows.
pub const SYNC_BOUNDS_MICROS: [u64; 12] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000];

/// Upper bounds in entries of the classes of [`LogMetrics::batch_counts`];
/// a last class without bound follows.
pub const BATCH_BOUNDS: [u64; 8] = [0, 1, 4, 16, 64, 256, 1_024, 4_096];

/// What the log store has done since it was opened, and what it holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogMetrics {
    /// Entries written.
    pub appended_entries: u64,
    /// Encoded bytes of the entries written.
    pub appended_bytes: u64,
    /// Batches written, with or without a sync.
    pub batches: u64,
    /// Batches written with a sync.
    pub syncs: u64,
    /// Time that synced writes took, in microseconds.
    pub sync_micros: u64,
    /// How many synced writes took at most [`SYNC_BOUNDS_MICROS`], each counted once.
    pub sync_counts: [u64; SYNC_BOUNDS_MICROS.len() + 1],
    /// How many batches had at most [`BATCH_BOUNDS`] entries, each counted once.
    pub batch_counts: [u64; BATCH_BOUNDS.len() + 1],
    /// Requests that wait for the writer now.
    pub queue_length: u64,
    /// Bytes in the tail cache now.
    pub cache_bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    appended_entries: AtomicU64,
    appended_bytes: AtomicU64,
    batches: AtomicU64,
    syncs: AtomicU64,
    sync_micros: AtomicU64,
    sync_counts: [AtomicU64; SYNC_BOUNDS_MICROS.len() + 1],
    batch_counts: [AtomicU64; BATCH_BOUNDS.len() + 1],
    cache_bytes: AtomicU64,
}

impl Counters {
    /// Counts one batch; `took` is how long its write and sync took.
    pub(super) fn batch(&self, entries: u64, bytes: u64, took: Duration) {
        add(&self.appended_entries, entries);
        add(&self.appended_bytes, bytes);
        add(&self.batches, 1);
        count(&self.batch_counts, &BATCH_BOUNDS, entries);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        add(&self.syncs, 1);
        add(&self.sync_micros, micros);
        count(&self.sync_counts, &SYNC_BOUNDS_MICROS, micros);
    }

    pub(super) fn set_cache_bytes(&self, bytes: usize) {
        self.cache_bytes.store(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn read(&self, queue_length: usize) -> LogMetrics {
        LogMetrics {
            appended_entries: get(&self.appended_entries),
            appended_bytes: get(&self.appended_bytes),
            batches: get(&self.batches),
            syncs: get(&self.syncs),
            sync_micros: get(&self.sync_micros),
            sync_counts: self.sync_counts.each_ref().map(get),
            batch_counts: self.batch_counts.each_ref().map(get),
            queue_length: queue_length as u64,
            cache_bytes: get(&self.cache_bytes),
        }
    }
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

// Wraps instead of panicking: a counter must never stop the writer.
fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

fn count(classes: &[AtomicU64], bounds: &[u64], value: u64) {
    if let Some(class) = classes.get(bounds.partition_point(|bound| *bound < value)) {
        add(class, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_counts_in_the_class_of_that_bound() {
        let counters = Counters::default();
        counters.batch(4, 40, Duration::from_micros(100));
        counters.batch(5, 50, Duration::from_secs(9));
        counters.batch(0, 0, Duration::from_micros(101));
        let metrics = counters.read(3);
        assert_eq!((metrics.appended_entries, metrics.appended_bytes), (9, 90));
        assert_eq!((metrics.batches, metrics.syncs, metrics.queue_length), (3, 3, 3));
        assert_eq!((metrics.sync_counts[0], metrics.sync_counts[SYNC_BOUNDS_MICROS.len()]), (1, 1));
        assert_eq!((metrics.batch_counts[0], metrics.batch_counts[2], metrics.batch_counts[3]), (1, 1, 1));
    }
}
