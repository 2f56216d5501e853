//! Raft's log and vote, kept on disk.
//!
//! A handle checks each request against the end of the log, makes new entries
//! readable, and puts the request into one queue; the writer thread behind it
//! writes, syncs and answers (group commit). Both happen under one short lock,
//! so the order in memory is the order on disk. Reads come from the tail cache
//! and go to disk only for what is older.
//!
//! Invariants:
//! - An entry, a vote and a truncation are confirmed only after their sync.
//! - What is on disk is a prefix of what was requested, in the order requested.
//! - Indexes are consecutive: a hole is refused when written and when found.
//! - After the first failed write nothing is confirmed, and nothing is read.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use futures_util::stream::{self, Stream, StreamExt as _, TryStreamExt as _};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::log_cache::{Cached, TailCache};
use super::log_codec::{Entry, LogId, Vote, entry_size};
use super::log_db::{Found, LogDb};
use super::log_metrics::{Counters, LogMetrics};
use super::log_writer::{NoProbe, Op, Probe, Request, WriterThread};
use crate::TypeConfig;
use crate::error::StorageError;
use crate::tasks;

/// How many requests may wait for the writer. Each is small but for its entries,
/// whose bytes [`LogOptions::queue_bytes`] bounds.
const QUEUE_LENGTH: usize = 1024;

/// How many entries are copied out of the cache under one hold of its lock.
const COPY_CHUNK: usize = 512;

/// Room in the queue is counted in units of so many bytes.
const ROOM_UNIT: usize = 1024;

/// Called once with the first failure of a store. It should end the process: a
/// node that cannot write its log must not take part.
pub type FatalHook = Arc<dyn Fn(&StorageError) + Send + Sync>;

/// The hook of production: says what happened and ends the process with code 1,
/// at once.
pub fn exit_on_failure() -> FatalHook {
    Arc::new(|error| {
        tracing::error!(%error, "the Raft log cannot be written; the node stops, because going on could lose acknowledged writes");
        exit_at_once(1);
    })
}

/// Ends the process with this exit code, whatever still runs in it.
#[expect(unsafe_code, reason = "the standard library's exit runs the destructors of C++ statics first")]
pub fn exit_at_once(code: u8) -> ! {
    // Those destructors would race with the database's threads, which still run,
    // and could hang or abort a process that must be gone with its exit code.
    // SAFETY: `_exit` has no preconditions and does not return.
    unsafe { libc::_exit(i32::from(code)) }
}

/// Sizes of the log store.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Bytes of recent entries kept in memory. Entries not yet written are kept
    /// in any case.
    pub cache_bytes: usize,
    /// Bytes of entries that one limited read gives, past the first entry.
    pub read_bytes: usize,
    /// Bytes of entries that may wait to be written before appends wait too.
    pub queue_bytes: usize,
    /// Bytes that the database collects before it writes a file; it holds two such
    /// buffers, and up to four times as much in its write-ahead log.
    pub write_buffer_bytes: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        Self {
            cache_bytes: 64 * MIB,
            read_bytes: 2 * MIB,
            queue_bytes: 64 * MIB,
            write_buffer_bytes: 32 * MIB,
        }
    }
}

/// The log as it will be when all requests are written.
pub(super) struct Tail {
    cache: TailCache,
    /// Index of the first entry; means nothing while the log is empty.
    first: u64,
    /// The last entry, or the purged log id if there is none after it.
    pub(super) last: Option<LogId>,
    pub(super) purged: Option<LogId>,
    pub(super) committed: Option<LogId>,
    /// The vote on disk: one that is still being written is not told to anyone.
    vote: Option<Vote>,
    /// The number of the last request.
    seq: u64,
    /// Grows whenever entries disappear, so that a read can tell.
    removals: u64,
}

/// What the handles, the readers and the writer share.
pub(super) struct Shared {
    pub(super) tail: Mutex<Tail>,
    /// The last log id that is on disk.
    pub(super) durable: watch::Sender<Option<LogId>>,
    pub(super) counters: Counters,
    pub(super) fatal: FatalHook,
    db: RwLock<Option<LogDb>>,
    failure: OnceLock<String>,
    closed: AtomicBool,
    options: LogOptions,
}

fn closed() -> StorageError {
    StorageError::Database { action: "using the log", reason: "it is closed".to_owned() }
}

fn refused(action: &'static str, reason: String) -> StorageError {
    StorageError::Database { action, reason }
}

fn show(id: Option<LogId>) -> String {
    id.map_or_else(|| "the start".to_owned(), |id| id.to_string())
}

impl Shared {
    /// Refuses work after a failure.
    pub(super) fn check_poison(&self) -> Result<(), StorageError> {
        self.failure.get().map_or(Ok(()), |reason| Err(StorageError::Poisoned(reason.clone())))
    }

    fn check(&self) -> Result<(), StorageError> {
        self.check_poison()?;
        if self.closed.load(Ordering::Acquire) { Err(closed()) } else { Ok(()) }
    }

    /// Remembers a failure; says whether it is the first one.
    pub(super) fn poison(&self, error: &StorageError) -> bool {
        self.failure.set(error.to_string()).is_ok()
    }

    /// Closes the database once nobody reads it.
    pub(super) fn drop_db(&self) {
        drop(self.db.write().take());
    }

    /// Lends the database, which stays open meanwhile.
    pub(super) fn with_db<T>(
        &self,
        work: impl FnOnce(&LogDb) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        self.db.read().as_ref().map_or_else(|| Err(closed()), work)
    }

    /// Learns that all requests up to `seq` are written, `vote` among them.
    pub(super) fn written(&self, seq: u64, vote: Option<Vote>) {
        let mut tail = self.tail.lock();
        let evicted = tail.cache.written(seq);
        tail.vote = vote.or(tail.vote);
        self.counters.set_cache_bytes(tail.cache.bytes());
        drop(tail);
        drop(evicted);
    }

    /// Reads the entries of `start..end` that the log has, with a `budget` only
    /// the first ones: at least one, and no more than so many bytes.
    ///
    /// What is read is the log at one moment: a read starts again when entries
    /// disappear meanwhile.
    async fn read(
        self: &Arc<Self>,
        start: u64,
        end: u64,
        budget: Option<usize>,
    ) -> Result<Vec<Entry>, StorageError> {
        loop {
            self.check()?;
            if let Some(entries) = self.try_read(start, end, budget.unwrap_or(usize::MAX)).await? {
                return Ok(entries);
            }
        }
    }

    /// One attempt at [`Self::read`]; `None` if entries disappeared meanwhile.
    async fn try_read(
        self: &Arc<Self>,
        start: u64,
        end: u64,
        budget: usize,
    ) -> Result<Option<Vec<Entry>>, StorageError> {
        let (mut next, end, removals) = {
            let tail = self.tail.lock();
            let end = end.min(tail.last.map_or(0, |last| last.index() + 1));
            (start.max(tail.first), end, tail.removals)
        };
        let mut entries = Vec::new();
        let mut left = budget;
        while next < end {
            let before = entries.len();
            let below_cache = {
                let tail = self.tail.lock();
                if tail.removals != removals {
                    return Ok(None);
                }
                if next < tail.cache.first() {
                    Some(end.min(tail.cache.first()))
                } else {
                    left -= tail.cache.copy(next, end, COPY_CHUNK, left, &mut entries).min(left);
                    None
                }
            };
            if let Some(disk_end) = below_cache {
                // What is below the cache is written, and not under the lock: the
                // disk may take its time.
                let read = self.read_disk(next, disk_end, left, entries).await;
                if self.tail.lock().removals != removals {
                    return Ok(None);
                }
                let (bytes, found) = read?;
                left -= bytes.min(left);
                entries = found;
            }
            let got = (entries.len() - before) as u64;
            let wanted = below_cache.map_or((end - next).min(COPY_CHUNK as u64), |disk_end| disk_end - next);
            next += got;
            // Fewer than were asked for: the budget is spent.
            if got < wanted {
                break;
            }
        }
        Ok(Some(entries))
    }

    async fn read_disk(
        self: &Arc<Self>,
        start: u64,
        end: u64,
        budget: usize,
        mut entries: Vec<Entry>,
    ) -> Result<(usize, Vec<Entry>), StorageError> {
        let shared = Arc::clone(self);
        let read = move || {
            let bytes = shared.with_db(|db| db.read(start, end, budget, &mut entries))?;
            Ok((bytes, entries))
        };
        tasks::spawn_blocking(read).await.map_err(|error| refused("reading the log", error.to_string()))?
    }
}

/// The Raft log: a handle, cheap to clone, to the store behind it.
///
/// The store closes when [`Self::close`] is called, or when the last handle goes,
/// which waits for what is still to be written. Readers left over then keep the
/// database open, but it is complete.
#[derive(Clone)]
pub struct RocksLogStore {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Request>,
    room: Arc<Semaphore>,
    /// After the queue, so that the last handle lets the thread end and waits.
    thread: Arc<WriterThread>,
}

impl RocksLogStore {
    /// Opens the log in the folder `dir`, which is created if need be. Waits for
    /// the disk: not for an asynchronous task.
    ///
    /// # Errors
    /// If the folder cannot be used or what it holds is not a whole log.
    pub fn open(dir: &Path, options: LogOptions, fatal: FatalHook) -> Result<Self, StorageError> {
        Self::open_with(dir, options, fatal, NoProbe)
    }

    fn open_with<P: Probe>(
        dir: &Path,
        options: LogOptions,
        fatal: FatalHook,
        probe: P,
    ) -> Result<Self, StorageError> {
        let db = LogDb::open(dir, options.write_buffer_bytes)?;
        let Found { vote, committed, purged, first, last } = db.load()?;
        let next = last.map_or(0, |last| last.index() + 1);
        let room = Arc::new(Semaphore::new(options.queue_bytes.div_ceil(ROOM_UNIT).max(1)));
        let shared = Arc::new(Shared {
            tail: Mutex::new(Tail {
                cache: TailCache::new(next, options.cache_bytes),
                first: first.unwrap_or(next),
                last,
                purged,
                committed,
                vote,
                seq: 0,
                removals: 0,
            }),
            durable: watch::Sender::new(last),
            counters: Counters::default(),
            fatal,
            db: RwLock::new(Some(db)),
            failure: OnceLock::new(),
            closed: AtomicBool::new(false),
            options,
        });
        let (queue, requests) = mpsc::channel(QUEUE_LENGTH);
        let thread = WriterThread::start(Arc::clone(&shared), requests, probe)?;
        Ok(Self { shared, queue, room, thread: Arc::new(thread) })
    }

    /// The last log id that is on disk; it goes back when entries are truncated.
    ///
    /// Whoever makes something durable that follows from an entry (the state
    /// machine) waits until the entry is at or before this, or a lost tail of the
    /// log would leave the consequence without its cause.
    pub fn durable(&self) -> watch::Receiver<Option<LogId>> {
        self.shared.durable.subscribe()
    }

    /// What the store has done and holds.
    pub fn metrics(&self) -> LogMetrics {
        self.shared.counters.read(self.queue.max_capacity() - self.queue.capacity())
    }

    /// Writes what waits, ends the writer thread and closes the database. Every
    /// later call on any handle or reader fails. Closing again does nothing.
    ///
    /// # Errors
    /// If the last writes fail, or an earlier one had.
    pub async fn close(&self) -> Result<(), StorageError> {
        self.shared.closed.store(true, Ordering::Release);
        // An error says that the writer has ended, or is about to.
        let _ = self.enqueue(|_| Ok(Op::Close)).await;
        self.thread.ended().await;
        self.shared.check_poison()
    }

    /// Puts an operation into the queue. `prepare` sees the end of the log and
    /// moves it; the next request sees it moved.
    async fn enqueue(
        &self,
        prepare: impl FnOnce(&mut Tail) -> Result<Op, StorageError>,
    ) -> Result<(), StorageError> {
        // The place first, so that nothing can come between changing the tail and
        // queueing the change: no wait, no cancellation, no other request.
        let place = self.queue.reserve().await.map_err(|_| closed())?;
        let mut tail = self.shared.tail.lock();
        let op = prepare(&mut tail)?;
        tail.seq += 1;
        place.send(Request { op, seq: tail.seq, last: tail.last, committed: tail.committed });
        self.shared.counters.set_cache_bytes(tail.cache.bytes());
        Ok(())
    }

    async fn append_entries(
        &self,
        entries: Vec<Entry>,
        flushed: IOFlushed<TypeConfig>,
    ) -> Result<(), StorageError> {
        self.shared.check()?;
        let bytes = entries.iter().map(entry_size).sum::<usize>();
        let units = bytes.min(self.shared.options.queue_bytes).div_ceil(ROOM_UNIT).max(1);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(units).await.map_err(|_| closed())?;
        // Copies share the proposals' bytes; made here, not under the lock.
        let cached = entries.iter().cloned().map(Cached::new).collect::<Vec<_>>();
        self.enqueue(move |tail| {
            tail.append(&entries, cached)?;
            Ok(Op::Append { entries, flushed, room })
        })
        .await
    }

    async fn save_vote_durably(&self, vote: Vote) -> Result<(), StorageError> {
        self.shared.check()?;
        let (done, synced) = oneshot::channel();
        self.enqueue(move |_| Ok(Op::Vote { vote, done })).await?;
        synced.await.map_err(|_| closed())?
    }

    async fn truncate_durably(&self, last: Option<LogId>) -> Result<(), StorageError> {
        self.shared.check()?;
        let (done, synced) = oneshot::channel();
        let mut gone = None;
        self.enqueue(|tail| {
            let (range, cached) = tail.truncate(last)?;
            gone = Some(cached);
            Ok(Op::Truncate { range, done })
        })
        .await?;
        drop(gone);
        synced.await.map_err(|_| closed())?
    }

    async fn purge_lazily(&self, upto: LogId) -> Result<(), StorageError> {
        self.shared.check()?;
        let mut gone = None;
        self.enqueue(|tail| {
            let (upto, cached) = tail.purge(upto);
            gone = Some(cached);
            Ok(Op::Purge { upto })
        })
        .await
    }
}

impl Tail {
    fn is_empty(&self) -> bool {
        self.last.map(|last| last.index()) == self.purged.map(|purged| purged.index())
    }

    /// Adds entries at the end. An empty log that was never purged may begin
    /// anywhere.
    fn append(&mut self, entries: &[Entry], cached: Vec<Cached>) -> Result<(), StorageError> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Ok(()) };
        let first = first.log_id.index();
        let next = self.last.map_or(first, |last| last.index() + 1);
        for (entry, index) in entries.iter().zip(next..) {
            if entry.log_id.index() != index {
                let reason = format!("{} would follow {}", entry.log_id, show(self.last));
                return Err(refused("appending to the log", reason));
            }
        }
        if self.is_empty() {
            self.first = first;
        }
        self.last = Some(last.log_id);
        self.cache.push(first, cached, self.seq + 1);
        Ok(())
    }

    /// Removes what is after `last` and returns the range of indexes, with what
    /// the cache held of it.
    fn truncate(&mut self, last: Option<LogId>) -> Result<(Range<u64>, VecDeque<Cached>), StorageError> {
        // Raft never does this; doing it would lose what a majority relies on.
        if let Some(committed) = self.committed
            && last.is_none_or(|last| last.index() < committed.index())
        {
            let reason = format!("{committed} is committed, but all after {} was to go", show(last));
            return Err(refused("truncating the log", reason));
        }
        let end = self.last.map_or(0, |last| last.index() + 1);
        let start = if self.is_empty() { end } else { self.first };
        let from = last.map_or(0, |last| last.index() + 1).clamp(start, end);
        if from == end {
            return Ok((end..end, VecDeque::new()));
        }
        self.last = if from == start { self.purged } else { last };
        self.removals += 1;
        Ok((from..end, self.cache.truncate(from)))
    }

    /// Takes what is up to `upto` out of the log, or what was purged already if
    /// that is more. Says up to where, with what the cache held of it.
    fn purge(&mut self, upto: LogId) -> (LogId, VecDeque<Cached>) {
        let upto = self.purged.filter(|purged| purged.index() >= upto.index()).unwrap_or(upto);
        // Past the end, the purge alone says where the log ends.
        if self.last.is_none_or(|last| last.index() <= upto.index()) {
            self.last = Some(upto);
        }
        self.purged = Some(upto);
        self.first = self.first.max(upto.index() + 1);
        self.removals += 1;
        (upto, self.cache.purge(upto.index() + 1))
    }
}

impl RaftLogStorage<TypeConfig> for RocksLogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        self.shared.check()?;
        let tail = self.shared.tail.lock();
        Ok(LogState { last_purged_log_id: tail.purged, last_log_id: tail.last })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader { shared: Arc::clone(&self.shared) }
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        Ok(self.save_vote_durably(*vote).await?)
    }

    /// Remembers the log id; it is written with the next batch.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.shared.check()?;
        let mut tail = self.shared.tail.lock();
        tail.committed = tail.committed.max(committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        self.shared.check()?;
        Ok(self.shared.tail.lock().committed)
    }

    /// Makes the entries readable and queues them.
    ///
    /// # Cancel safety
    /// If dropped before it is ready, nothing has happened and the callback is
    /// not called.
    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().collect::<Vec<_>>();
        Ok(self.append_entries(entries, callback).await?)
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        Ok(self.truncate_durably(last_log_id).await?)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        Ok(self.purge_lazily(log_id).await?)
    }
}

/// Reads the log while it is written; as many as there are replication streams.
#[derive(Clone)]
pub struct LogReader {
    shared: Arc<Shared>,
}

/// The half-open range that `range` means.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(index) => *index,
        Bound::Excluded(index) => index.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(index) => index.saturating_add(1),
        Bound::Excluded(index) => *index,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (start, end) = bounds(&range);
        Ok(self.shared.read(start, end, None).await?)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let budget = self.shared.options.read_bytes;
        Ok(self.shared.read(start, end, Some(budget)).await?)
    }

    /// Reads piece by piece, so that applying a long range takes no more memory
    /// than a short one. Fails if entries disappear before they were reached.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        stream::try_unfold((self.clone(), start), move |(mut reader, next)| async move {
            let entries = reader.limited_get_log_entries(next, end).await?;
            let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Ok(None) };
            // The log may begin after the range, but it may have no hole.
            if next != start && first.log_id.index() != next {
                let reason = format!("entry {next} was purged while the range was read");
                return Err(refused("reading the log", reason).into());
            }
            let next = last.log_id.index() + 1;
            Ok::<_, io::Error>(Some((stream::iter(entries.into_iter().map(Ok)), (reader, next))))
        })
        .try_flatten()
        .boxed()
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.shared.check()?;
        Ok(self.shared.tail.lock().vote)
    }
}

#[cfg(test)]
mod tests;
