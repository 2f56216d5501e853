//! Gives back what only compacted revisions needed.
//!
//! Compacting is a mark in the head: from then on older revisions are refused.
//! What they needed is removed behind it by a thread of its own, in small batches
//! between which writes and reads go on, and RocksDB returns the space as it
//! merges files. There is nothing to remember of how far it came: what is still to
//! be removed begins with the oldest change that is still there.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::Change;
use super::schema::{self, CHANGES, HISTORY};
use super::view::corrupt_change;
use crate::engine::{Batch, Db, Scan};
use crate::error::StorageError;

/// Changes whose undo images are removed in one batch.
const CHANGES_PER_BATCH: usize = 2_000;
/// Batches after which the changes themselves are removed, as one range: each
/// such removal costs every later scan a little.
const BATCHES_PER_RANGE: usize = 50;

/// The thread that removes. Dropping this ends it, in the middle of the work if
/// need be.
pub(super) struct Reclaimer {
    progress: Arc<Progress>,
    thread: Option<JoinHandle<()>>,
}

struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Changes below this revision are to go.
    wanted: i64,
    /// Changes below this revision are gone.
    done: i64,
    stopping: bool,
    failed: Option<StorageError>,
}

impl Reclaimer {
    /// Starts the thread; it finishes first what an earlier run left of the
    /// compaction to `compacted`.
    pub(super) fn start(db: Arc<Db>, compacted: i64) -> Result<Self, StorageError> {
        let state = State { wanted: compacted, done: 0, stopping: false, failed: None };
        let progress = Arc::new(Progress { state: Mutex::new(state), changed: Condvar::new() });
        #[cfg(not(feature = "simulation"))]
        let thread = {
            let work = Arc::clone(&progress);
            let thread = std::thread::Builder::new()
                .name("kvorum-reclaim".to_owned())
                .spawn(move || work.run(&db))
                .map_err(|error| StorageError::file("starting the thread", "kvorum-reclaim", &error))?;
            Some(thread)
        };
        #[cfg(feature = "simulation")]
        let thread = {
            progress.start(Arc::downgrade(&db));
            None
        };
        Ok(Self { progress, thread })
    }

    /// Asks for what revisions below `compacted` needed to be removed.
    pub(super) fn request(&self, compacted: i64) {
        let mut state = self.progress.state.lock();
        if state.wanted < compacted {
            state.wanted = compacted;
            self.progress.changed.notify_all();
        }
    }

    /// Waits until all below `compacted` is removed, but not past `until`; answers
    /// whether it is.
    pub(super) fn wait(&self, compacted: i64, until: Instant) -> Result<bool, StorageError> {
        let mut state = self.progress.state.lock();
        loop {
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            if state.done >= compacted {
                return Ok(true);
            }
            if self.progress.changed.wait_until(&mut state, until).timed_out() {
                return Ok(false);
            }
        }
    }
}

impl Drop for Reclaimer {
    fn drop(&mut self) {
        self.progress.state.lock().stopping = true;
        self.progress.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that removes compacted revisions panicked");
        }
    }
}

impl Progress {
    #[cfg(not(feature = "simulation"))]
    fn run(&self, db: &Db) {
        loop {
            let wanted = {
                let mut state = self.state.lock();
                while state.done >= state.wanted && !state.stopping {
                    self.changed.wait(&mut state);
                }
                if state.stopping {
                    return;
                }
                state.wanted
            };
            if !self.turn(db, wanted) {
                return;
            }
        }
    }

    /// The same as a task of a simulation, which has no threads: it looks now and then
    /// whether there is work.
    #[cfg(feature = "simulation")]
    fn start(self: &Arc<Self>, db: std::sync::Weak<Db>) {
        const LOOK: std::time::Duration = std::time::Duration::from_millis(200);
        let this = Arc::clone(self);
        crate::tasks::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                let (wanted, is_idle) = {
                    let state = this.state.lock();
                    if state.stopping {
                        return;
                    }
                    (state.wanted, state.done >= state.wanted)
                };
                let Some(db) = db.upgrade() else { return };
                if !is_idle && !this.turn(&db, wanted) {
                    return;
                }
            }
        });
    }

    /// Removes what is below `wanted`; answers whether to go on.
    fn turn(&self, db: &Db, wanted: i64) -> bool {
        let result = self.reclaim(db, wanted);
        let mut state = self.state.lock();
        match result {
            Ok(true) => state.done = wanted,
            Ok(false) => return false,
            Err(error) => {
                // The store is as right as before, only larger. If it was a write
                // that failed, the next one of the log stops the node.
                tracing::error!(%error, "compacted revisions can't be removed; this is tried again at the next start");
                state.failed = Some(error);
            }
        }
        self.changed.notify_all();
        state.failed.is_none()
    }

    fn is_stopping(&self) -> bool {
        self.state.lock().stopping
    }

    /// Removes the changes below `compacted`, and the undo images that serve reads
    /// below it. Answers false if it was told to stop before the end.
    fn reclaim(&self, db: &Db, compacted: i64) -> Result<bool, StorageError> {
        let (changes, history) = (db.family(CHANGES), db.family(HISTORY));
        let mut from = Vec::new();
        let mut batches = 0;
        let mut stored_key = Vec::new();
        loop {
            if self.is_stopping() {
                return Ok(false);
            }
            let mut batch = Batch::new();
            let mut seen = 0;
            // An undo image that was made at the compacted revision served only reads
            // before it; the change itself stays, for watches that begin there.
            let end = schema::change_key(compacted.saturating_add(1), 0);
            let scan = Scan { start: Some(from.clone()), end: Some(end.to_vec()), bypass_cache: true };
            let mut cursor = db.cursor(changes, scan);
            cursor.first()?;
            while let Some((key, value)) = cursor.entry()
                && seen < CHANGES_PER_BATCH
            {
                let change = Change::decode(key, value).map_err(corrupt_change)?;
                stored_key.clear();
                schema::history_key(&mut stored_key, &change.key, change.main);
                batch.delete(history, &stored_key);
                seen += 1;
                from.clear();
                from.extend_from_slice(key);
                // The least key after this one.
                from.push(0);
                cursor.step()?;
            }
            drop(cursor);
            if !batch.is_empty() {
                db.write(batch)?;
            }
            batches += 1;
            let is_last = seen < CHANGES_PER_BATCH;
            if is_last || batches % BATCHES_PER_RANGE == 0 {
                let removed = from.as_slice().min(schema::change_key(compacted, 0).as_slice()).to_vec();
                remove_changes(db, &removed)?;
            }
            if is_last {
                return Ok(true);
            }
        }
    }
}

/// Removes the changes before `end`.
fn remove_changes(db: &Db, end: &[u8]) -> Result<(), StorageError> {
    let changes = db.family(CHANGES);
    let mut cursor = db.cursor(changes, Scan { end: Some(end.to_vec()), ..Scan::default() });
    cursor.first()?;
    let Some(start) = cursor.key().map(<[u8]>::to_vec) else { return Ok(()) };
    drop(cursor);
    let mut batch = Batch::new();
    batch.delete_range(changes, &start, end);
    // Files are not dropped at once, outside the order of batches: a crash that
    // takes the compaction back would leave a hole.
    db.write(batch)
}
