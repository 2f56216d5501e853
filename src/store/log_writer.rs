//! The thread that owns all writes of the log.
//!
//! It takes whatever waits in the queue, writes it as one batch with one sync,
//! and only then tells those who wait, in the queue's order: that is group
//! commit. The first failure is final. Nothing is retried, since after a failed
//! sync nobody can tell what is on disk; everyone who waits learns of the failure,
//! and so does everyone who comes later.

use std::mem;
use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use openraft::storage::IOFlushed;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use super::log_codec::{Entry, LogId, Vote, entry_size};
use super::log_db::{LogBatch, LogDb};
use super::log_store::Shared;
use crate::TypeConfig;
use crate::error::StorageError;
use crate::mutants::Mutant;

/// A batch takes no further request once its entries have so many bytes.
const BATCH_BYTES: usize = 16 * 1024 * 1024;

/// Files are dropped once so many more entries are purged.
const DROP_EVERY: u64 = 256;

pub(super) type Done = oneshot::Sender<Result<(), StorageError>>;

/// One thing to write.
pub(super) enum Op {
    /// Adds entries at the end.
    Append {
        entries: Vec<Entry>,
        flushed: IOFlushed<TypeConfig>,
        /// Room in the queue, given back when the entries are written.
        room: OwnedSemaphorePermit,
    },
    /// Replaces the vote.
    Vote { vote: Vote, done: Done },
    /// Removes the entries of `range`, which may be empty.
    Truncate { range: Range<u64>, done: Done },
    /// Makes the entries up to `upto` count no more. If that is past the end,
    /// the purged log id is all the log has.
    Purge { upto: LogId },
    /// Writes what is left to write, closes the database and ends the thread.
    Close,
}

/// An operation with its place in the order of all.
pub(super) struct Request {
    pub(super) op: Op,
    pub(super) seq: u64,
    /// Where the log ends after this operation.
    pub(super) last: Option<LogId>,
    /// What was known to be committed when it was requested.
    pub(super) committed: Option<LogId>,
}

/// What stands around the writer's disk accesses: nothing in production; in
/// tests, something that delays them, lets them fail, or looks at the disk.
pub(super) trait Probe: Send + 'static {
    /// Before a batch is written.
    fn before_write(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    /// After a write has returned, synced, and before anyone is told.
    fn after_sync(&mut self) -> Result<(), StorageError> {
        Ok(())
    }
}

/// The probe of production.
pub(super) struct NoProbe;

impl Probe for NoProbe {}

/// The running thread; dropping this waits until it has ended. That takes the
/// last sender of its queue to go first, or a request to close.
pub(super) struct WriterThread {
    handle: Option<thread::JoinHandle<()>>,
    /// Fails to change once the thread has ended.
    ended: watch::Receiver<()>,
}

impl WriterThread {
    pub(super) fn start<P: Probe>(
        shared: Arc<Shared>,
        queue: mpsc::Receiver<Request>,
        probe: P,
    ) -> Result<Self, StorageError> {
        let (running, ended) = watch::channel(());
        // Here and not in the thread, which may begin after the first requests.
        let writer = Writer::new(Arc::clone(&shared), probe);
        let guard = PanicIsFatal(shared);
        #[cfg(not(feature = "simulation"))]
        let handle = thread::Builder::new()
            .name("kvorum-log".to_owned())
            .spawn(move || {
                writer.run(queue);
                drop(guard);
                drop(running);
            })
            .map(Some)
            .map_err(|error| StorageError::file("starting the thread", "kvorum-log", &error))?;
        #[cfg(feature = "simulation")]
        let handle = {
            crate::tasks::spawn(async move {
                writer.run(queue).await;
                drop(guard);
                drop(running);
            });
            None
        };
        Ok(Self { handle, ended })
    }

    /// Waits until the thread has ended.
    pub(super) async fn ended(&self) {
        let mut ended = self.ended.clone();
        while ended.changed().await.is_ok() {}
    }
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take()
            && handle.thread().id() != thread::current().id()
        {
            // A panic was reported when it happened.
            let _ = handle.join();
        }
    }
}

/// A writer that panicked would leave everyone waiting for ever.
struct PanicIsFatal(Arc<Shared>);

impl Drop for PanicIsFatal {
    fn drop(&mut self) {
        if thread::panicking() {
            let reason = "the log's thread panicked".to_owned();
            let error = StorageError::Database { action: "writing the log", reason };
            self.0.poison(&error);
            (self.0.fatal)(&error);
        }
    }
}

/// Someone to tell when a batch is written.
enum Waiter {
    Flushed(IOFlushed<TypeConfig>, OwnedSemaphorePermit),
    Done(Done),
}

impl Waiter {
    fn tell(self, result: Result<(), StorageError>) {
        match self {
            Self::Flushed(flushed, room) => {
                drop(room);
                flushed.io_completed(result.map_err(Into::into));
            }
            // Whoever asked may have gone.
            Self::Done(done) => drop(done.send(result)),
        }
    }
}

/// What a batch will have changed, and who waits for it.
#[derive(Default)]
struct Outcome {
    waiters: Vec<Waiter>,
    vote: Option<Vote>,
    purged: Option<LogId>,
    committed: Option<LogId>,
    entries: u64,
    bytes: usize,
}

/// A batch that is to be written.
struct Prepared {
    batch: LogBatch,
    outcome: Outcome,
    /// The last request, and where the log ends after it.
    end: Option<(u64, Option<LogId>)>,
    /// Whether the batch holds all that was asked for.
    filled: Result<(), StorageError>,
}

struct Writer<P> {
    shared: Arc<Shared>,
    probe: P,
    /// The committed log id that was last written.
    committed: Option<LogId>,
    /// The purged log id that was last written.
    purged: Option<LogId>,
    /// Index up to which purged files were dropped.
    dropped: u64,
}

impl<P: Probe> Writer<P> {
    fn new(shared: Arc<Shared>, probe: P) -> Self {
        let (committed, purged) = {
            let tail = shared.tail.lock();
            (tail.committed, tail.purged)
        };
        Self { shared, probe, committed, purged, dropped: 0 }
    }

    #[cfg(not(feature = "simulation"))]
    fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        let mut closing = false;
        while let Some(first) = queue.blocking_recv() {
            let requests = Self::take(first, &mut queue, &mut closing);
            let prepared = self.prepare(requests);
            self.write(prepared);
        }
        self.finish();
        if closing {
            self.shared.drop_db();
        }
    }

    /// The same as a task of a simulation, whose disk takes its time for a sync: what is
    /// being synced meanwhile may or may not survive a crash.
    #[cfg(feature = "simulation")]
    async fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        let mut closing = false;
        while let Some(first) = queue.recv().await {
            let requests = Self::take(first, &mut queue, &mut closing);
            let prepared = self.prepare(requests);
            if !prepared.batch.is_empty() && self.shared.check_poison().is_ok() {
                let in_flight = prepared.batch.clone();
                let written = self.shared.with_db(|db| db.write_in_flight(in_flight));
                drop(written);
                let took = crate::simulation::world().sync_time(crate::simulation::current_node());
                tokio::time::sleep(took).await;
            }
            self.write(prepared);
        }
        self.finish();
        if closing {
            self.shared.drop_db();
        }
    }

    /// What waits, as far as one batch takes it.
    fn take(first: Request, queue: &mut mpsc::Receiver<Request>, closing: &mut bool) -> Vec<Request> {
        let mut bytes = first.op.bytes();
        let mut requests = vec![first];
        while bytes < BATCH_BYTES {
            let Ok(next) = queue.try_recv() else { break };
            bytes += next.op.bytes();
            requests.push(next);
        }
        if requests.iter().any(|request| matches!(request.op, Op::Close)) {
            // What is in the queue by now is still written.
            queue.close();
            *closing = true;
        }
        requests
    }

    /// Writes the committed log id when no request is left to carry it.
    fn finish(&mut self) {
        let (last, committed) = {
            let tail = self.shared.tail.lock();
            (tail.last, tail.committed)
        };
        let mut outcome = Outcome::default();
        let shared = Arc::clone(&self.shared);
        let result = shared.with_db(|db| {
            let mut batch = LogBatch::default();
            self.add_committed(db, &mut batch, &mut outcome, last, committed);
            self.commit(db, batch, &outcome)
        });
        self.conclude(result, outcome, None);
    }

    fn prepare(&self, requests: Vec<Request>) -> Prepared {
        let end = requests.last().map(|request| (request.seq, request.last));
        let committed = requests.last().and_then(|request| request.committed);
        let mut outcome = Outcome::default();
        let mut batch = LogBatch::default();
        let filled = self.shared.with_db(|db| {
            for request in requests {
                Self::add(db, &mut batch, &mut outcome, request.op);
            }
            self.add_committed(db, &mut batch, &mut outcome, end.and_then(|(_, last)| last), committed);
            Ok(())
        });
        Prepared { batch, outcome, end, filled }
    }

    fn write(&mut self, prepared: Prepared) {
        let Prepared { batch, outcome, end, filled } = prepared;
        let shared = Arc::clone(&self.shared);
        let result = filled.and_then(|()| shared.with_db(|db| self.commit(db, batch, &outcome)));
        self.conclude(result, outcome, end);
    }

    fn add(db: &LogDb, batch: &mut LogBatch, outcome: &mut Outcome, op: Op) {
        match op {
            Op::Append { entries, flushed, room } => {
                for entry in &entries {
                    outcome.bytes += batch.append(db, entry);
                }
                outcome.entries += entries.len() as u64;
                outcome.waiters.push(Waiter::Flushed(flushed, room));
            }
            Op::Vote { vote, done } => {
                if !Mutant::ForgetVote.is_awake() {
                    batch.vote(db, &vote);
                }
                outcome.vote = Some(vote);
                outcome.waiters.push(Waiter::Done(done));
            }
            Op::Truncate { range, done } => {
                batch.truncate(db, range);
                outcome.waiters.push(Waiter::Done(done));
            }
            Op::Purge { upto } => {
                batch.purged(db, &upto);
                outcome.purged = Some(upto);
            }
            Op::Close => {}
        }
    }

    /// Lets the committed log id ride with a batch after which the log ends at
    /// `last`. It is never written before the entry it names.
    fn add_committed(
        &self,
        db: &LogDb,
        batch: &mut LogBatch,
        outcome: &mut Outcome,
        last: Option<LogId>,
        committed: Option<LogId>,
    ) {
        if let Some(id) = committed
            && committed > self.committed
            && last.is_some_and(|last| id.index() <= last.index())
        {
            batch.committed(db, &id);
            outcome.committed = committed;
        }
    }

    fn commit(&mut self, db: &LogDb, batch: LogBatch, outcome: &Outcome) -> Result<(), StorageError> {
        self.shared.check_poison()?;
        if batch.is_empty() {
            return Ok(());
        }
        self.probe.before_write()?;
        let started = Instant::now();
        // Also what nobody waits for, a purge alone, is synced: see `log_audit`.
        db.write(batch)?;
        let took = started.elapsed();
        self.probe.after_sync()?;
        self.shared.counters.batch(outcome.entries, outcome.bytes as u64, took);
        self.committed = self.committed.max(outcome.committed);
        self.purged = outcome.purged.or(self.purged);
        self.drop_purged_files(db)
    }

    /// Called when all that was written is synced, and so is the purge.
    fn drop_purged_files(&mut self, db: &LogDb) -> Result<(), StorageError> {
        if let Some(purged) = self.purged
            && purged.index() >= self.dropped.saturating_add(DROP_EVERY)
        {
            db.drop_files(purged.index())?;
            self.dropped = purged.index();
        }
        Ok(())
    }

    fn conclude(
        &mut self,
        result: Result<(), StorageError>,
        outcome: Outcome,
        end: Option<(u64, Option<LogId>)>,
    ) {
        match result {
            Ok(()) => {
                if let Some((seq, last)) = end {
                    // Before anyone is told: whoever has heard of the end of a
                    // write must find it in what the store says of itself.
                    self.shared.written(seq, outcome.vote);
                    self.shared.durable.send_if_modified(|durable| mem::replace(durable, last) != last);
                }
                for waiter in outcome.waiters {
                    waiter.tell(Ok(()));
                }
            }
            Err(error) => {
                let first = self.shared.poison(&error);
                for waiter in outcome.waiters {
                    waiter.tell(Err(error.clone()));
                }
                if first {
                    (self.shared.fatal)(&error);
                }
            }
        }
    }
}

impl Op {
    fn bytes(&self) -> usize {
        match self {
            Self::Append { entries, .. } => entries.iter().map(entry_size).sum(),
            Self::Vote { .. } | Self::Truncate { .. } | Self::Purge { .. } | Self::Close => 0,
        }
    }
}
