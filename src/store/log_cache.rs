//! The end of the log in memory: what replication and apply read.
//!
//! Holds a run of consecutive entries that ends where the log ends. Entries that
//! the writer has not written yet are never evicted, so whatever is below the
//! cache can be read from disk. Knows neither locks nor the disk; what it lets
//! go of is handed back, so that the caller can free it outside its lock.

use std::collections::VecDeque;

use super::log_codec::{Entry, entry_size};

/// An entry and what it costs.
#[derive(Debug)]
pub(super) struct Cached {
    entry: Entry,
    bytes: usize,
    /// The request that appends it.
    seq: u64,
}

impl Cached {
    /// Prepares an entry for [`TailCache::push`], which gives it its request.
    pub(super) fn new(entry: Entry) -> Self {
        let bytes = entry_size(&entry) + size_of::<Self>();
        Self { entry, bytes, seq: 0 }
    }
}

/// Entries from [`Self::first`] to the end of the log.
#[derive(Debug)]
pub(super) struct TailCache {
    entries: VecDeque<Cached>,
    /// Index of the front, or of the entry that would be appended next.
    first: u64,
    bytes: usize,
    limit: usize,
    /// The last request that was written.
    written: u64,
}

impl TailCache {
    /// An empty cache at the end of a log whose next entry has the index `next`.
    pub(super) fn new(next: u64, limit: usize) -> Self {
        Self { entries: VecDeque::new(), first: next, bytes: 0, limit, written: 0 }
    }

    /// The first index that is answered from memory.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds consecutive entries that start at `first`, which is the next index
    /// unless the log is empty, and that the request `seq` will write.
    pub(super) fn push(&mut self, first: u64, entries: Vec<Cached>, seq: u64) {
        if self.entries.is_empty() {
            self.first = first;
        }
        self.bytes += entries.iter().map(|cached| cached.bytes).sum::<usize>();
        self.entries.extend(entries.into_iter().map(|cached| Cached { seq, ..cached }));
    }

    /// Forgets the entries from `index` on.
    pub(super) fn truncate(&mut self, index: u64) -> VecDeque<Cached> {
        let kept = usize::try_from(index.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let gone = self.entries.split_off(kept.min(self.entries.len()));
        self.first = self.first.min(index);
        self.release(gone)
    }

    /// Forgets the entries before `index`.
    pub(super) fn purge(&mut self, index: u64) -> VecDeque<Cached> {
        let gone = usize::try_from(index.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let gone = self.drop_front(gone);
        // The log is empty when the purge went past its end.
        self.first = self.first.max(index);
        gone
    }

    /// Learns that all requests up to `seq` are written and makes room.
    pub(super) fn written(&mut self, seq: u64) -> VecDeque<Cached> {
        self.written = seq;
        let mut excess = self.bytes.saturating_sub(self.limit);
        let mut count = 0;
        for cached in &self.entries {
            if excess == 0 || cached.seq > self.written {
                break;
            }
            excess = excess.saturating_sub(cached.bytes);
            count += 1;
        }
        self.drop_front(count)
    }

    fn drop_front(&mut self, count: usize) -> VecDeque<Cached> {
        let count = count.min(self.entries.len());
        // Not `split_off`, which would move all that is kept.
        let gone = self.entries.drain(..count).collect();
        self.first += count as u64;
        self.release(gone)
    }

    fn release(&mut self, gone: VecDeque<Cached>) -> VecDeque<Cached> {
        self.bytes -= gone.iter().map(|cached| cached.bytes).sum::<usize>();
        gone
    }

    /// Copies entries of `start..end`, at most `count` and, past the first, at
    /// most `budget` bytes. Stops early where the cache ends.
    ///
    /// `start` is not below [`Self::first`].
    pub(super) fn copy(
        &self,
        start: u64,
        end: u64,
        count: usize,
        budget: usize,
        out: &mut Vec<Entry>,
    ) -> usize {
        let skip = usize::try_from(start.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let count = count.min(usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX));
        let mut bytes = 0;
        for cached in self.entries.iter().skip(skip).take(count) {
            let size = entry_size(&cached.entry);
            if bytes + size > budget && !out.is_empty() {
                break;
            }
            bytes += size;
            out.push(cached.entry.clone());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::super::log_codec::{LeaderId, LogId, Payload};
    use super::*;
    use openraft::vote::RaftLeaderId as _;

    fn blanks(range: std::ops::Range<u64>) -> Vec<Cached> {
        let leader = LeaderId::new(1, 1);
        let entry = |index| Entry { log_id: LogId::new(leader, index), payload: Payload::Blank };
        range.map(|index| Cached::new(entry(index))).collect()
    }

    fn indexes(cache: &TailCache, start: u64, end: u64) -> Vec<u64> {
        let mut out = Vec::new();
        cache.copy(start, end, usize::MAX, usize::MAX, &mut out);
        out.iter().map(|entry| entry.log_id.index()).collect()
    }

    #[test]
    fn unwritten_entries_stay_whatever_the_limit() {
        let mut cache = TailCache::new(1, 0);
        cache.push(1, blanks(1..4), 1);
        cache.push(4, blanks(4..6), 2);
        cache.written(0);
        assert_eq!(indexes(&cache, 1, 9), [1, 2, 3, 4, 5]);
        cache.written(1);
        assert_eq!((cache.first(), indexes(&cache, 4, 9)), (4, vec![4, 5]));
        cache.written(2);
        assert_eq!((cache.first(), cache.bytes()), (6, 0));
    }

    #[test]
    fn truncation_and_purge_keep_the_run_at_the_log_s_end() {
        let mut cache = TailCache::new(1, usize::MAX);
        cache.push(1, blanks(1..10), 1);
        cache.truncate(6);
        cache.purge(3);
        assert_eq!((cache.first(), indexes(&cache, 3, 99)), (3, vec![3, 4, 5]));
        cache.truncate(2);
        assert_eq!((cache.first(), cache.bytes()), (2, 0));
        cache.push(2, blanks(2..4), 2);
        cache.purge(50);
        assert_eq!((cache.first(), cache.bytes()), (50, 0));
        cache.push(50, blanks(50..52), 3);
        assert_eq!(indexes(&cache, 50, 51), [50]);
    }

    #[test]
    fn a_copy_stops_at_its_budget_but_gives_at_least_one_entry() {
        let mut cache = TailCache::new(1, usize::MAX);
        cache.push(1, blanks(1..10), 1);
        let size = {
            let mut out = Vec::new();
            cache.copy(1, 2, 1, 0, &mut out)
        };
        let mut out = Vec::new();
        assert_eq!(cache.copy(1, 10, 99, size * 3, &mut out), size * 3);
        assert_eq!(out.len(), 3);
    }
}
