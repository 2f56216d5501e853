//! Who is watching, and the cursor that all who are up to date share.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::catch_up::{self, ReadSize};
use super::counters::{Counters, WatchCounters, count, get};
use super::index::Index;
use super::queue::Queue;
use super::watcher::{Place, Watcher};
use super::{CancelReason, History, WatchOptions, WatchRefusal, WatchRequest, WatchSession};
use crate::error::StorageError;
use crate::mutants::Mutant;
use crate::mvcc::{OLDEST_REVISION, ReadError, RevisionEvents};
use crate::store::Since;
use crate::store::recent::retained_bytes;
use crate::tasks::{self, Handle};

/// Most revisions that dispatch takes from memory at once.
const DISPATCH_REVISIONS: usize = 128;
/// After so many deliveries dispatch lets other tasks run.
const DELIVERIES_PER_SLICE: usize = 8_192;
/// How long to wait before history that could not be read is read again.
pub(super) const RETRY: Duration = Duration::from_millis(500);
/// Idle watchers are looked for this often in an interval, so that not all of them
/// are told at once.
const PROGRESS_SLICES: u32 = 32;
const LEAST_TICK: Duration = Duration::from_millis(1);

/// The node's watchers; clones share them.
#[derive(Clone)]
pub struct WatchHub {
    hub: Arc<Hub>,
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl WatchHub {
    /// A hub over `history`. Its tasks run on `runtime` until it [stops](Self::stop)
    /// or the runtime does.
    pub fn start(history: impl History, options: WatchOptions, runtime: &Handle) -> Self {
        let hub = Arc::new(Hub::new(Arc::new(history), options));
        let tasks = vec![
            runtime.spawn(dispatch_forever(Arc::clone(&hub))),
            runtime.spawn(catch_up::serve_forever(Arc::clone(&hub))),
        ];
        Self { hub, tasks: Arc::new(Mutex::new(tasks)) }
    }

    /// A stream of watchers for one client.
    pub fn session(&self) -> WatchSession {
        WatchSession::new(Arc::clone(&self.hub))
    }

    /// Figures for metrics.
    pub fn counters(&self) -> WatchCounters {
        self.hub.figures()
    }

    /// Ends all sessions with [`super::WatchMessage::Closed`], and then the tasks.
    ///
    /// # Cancel safety
    /// Sessions are ended by the first poll; only the waiting for the tasks is lost.
    pub async fn stop(&self) {
        self.hub.close();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            if let Err(error) = task.await
                && error.is_panic()
            {
                tracing::error!(%error, "a task of the watch hub had failed");
            }
        }
    }
}

impl fmt::Debug for WatchHub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchHub").field("counters", &self.counters()).finish_non_exhaustive()
    }
}

/// What the tasks and all sessions share.
pub(super) struct Hub {
    pub(super) history: Arc<dyn History>,
    pub(super) options: WatchOptions,
    pub(super) counters: Counters,
    /// Taken before the lock of a queue, never while one is held.
    pub(super) registry: Mutex<Registry>,
    /// Sessions that stand in line for catch-up. Taken last.
    pub(super) line: Mutex<VecDeque<Arc<Queue>>>,
    pub(super) line_grew: Notify,
    pub(super) read_size: ReadSize,
    closed: watch::Sender<bool>,
    started: Instant,
}

/// All watchers, each in exactly one place.
pub(super) struct Registry {
    /// Dispatch's cursor: synced watchers were given everything up to here, and
    /// unsynced ones were not.
    pub(super) at: i64,
    /// Synced watchers. One that starts in the future is among them.
    synced: Index,
    /// Unsynced watchers by session, the revision that each needs next, and number.
    pub(super) unsynced: BTreeMap<(u64, i64, u64), Arc<Watcher>>,
    /// Open sessions by number.
    sessions: HashMap<u64, Arc<Queue>>,
    /// Sessions that asked for progress, and the revision that they must have seen.
    awaiting: HashMap<u64, (Arc<Queue>, i64)>,
    /// Watchers that asked for progress, by when they may get it, and number.
    due: BTreeMap<(u64, u64), Arc<Watcher>>,
    watchers: usize,
    numbers: u64,
    is_closed: bool,
}

impl Registry {
    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Gives a watcher that is nowhere its place. Unsynced ones need a turn.
    pub(super) fn place(&mut self, watcher: Arc<Watcher>) {
        if watcher.next() > self.at {
            watcher.set_place(Place::Synced);
            self.synced.insert(watcher);
        } else {
            watcher.set_place(Place::Unsynced);
            self.unsynced.insert(unsynced_key(&watcher), watcher);
        }
    }

    /// Takes a watcher out for good, unless it is already. Tells whether it was here.
    fn remove(&mut self, watcher: &Arc<Watcher>) -> bool {
        if watcher.is(Place::Ended) {
            return false;
        }
        if watcher.is(Place::Synced) {
            self.synced.remove(watcher);
        } else {
            self.unsynced.remove(&unsynced_key(watcher));
        }
        self.due.remove(&(watcher.progress_due(), watcher.number));
        watcher.set_place(Place::Ended);
        self.watchers -= 1;
        true
    }

    /// The unsynced watchers of a session that need a revision from `from` to `to` next.
    pub(super) fn unsynced_of(
        &self,
        session: u64,
        from: i64,
        to: i64,
    ) -> impl Iterator<Item = &Arc<Watcher>> {
        self.unsynced.range((session, from, 0)..=(session, to, u64::MAX)).map(|(_, watcher)| watcher)
    }

    pub(super) fn has_unsynced(&self, session: u64) -> bool {
        self.unsynced_of(session, i64::MIN, i64::MAX).next().is_some()
    }

    /// Answers sessions that asked for progress and have been told everything.
    pub(super) fn answer_progress(&mut self) {
        if self.awaiting.is_empty() {
            return;
        }
        let mut awaiting = std::mem::take(&mut self.awaiting);
        awaiting.retain(|session, (queue, wanted)| {
            let is_told = self.at >= *wanted && !self.has_unsynced(*session);
            if is_told {
                queue.all_told(self.at);
            }
            !is_told
        });
        self.awaiting = awaiting;
    }
}

#[cfg(test)]
impl Registry {
    pub(super) fn due_len(&self) -> usize {
        self.due.len()
    }

    pub(super) fn any_session(&self) -> Arc<Queue> {
        Arc::clone(self.sessions.values().next().expect("a session is open"))
    }

    /// What each part holds.
    pub(super) fn sizes(&self) -> [usize; 6] {
        let Self { synced, unsynced, sessions, awaiting, due, watchers, .. } = self;
        [synced.len(), unsynced.len(), sessions.len(), awaiting.len(), due.len(), *watchers]
    }
}

pub(super) fn unsynced_key(watcher: &Watcher) -> (u64, i64, u64) {
    (watcher.queue.number, watcher.next(), watcher.number)
}

impl Hub {
    pub(super) fn new(history: Arc<dyn History>, options: WatchOptions) -> Self {
        let registry = Registry {
            at: history.recent().revision(),
            synced: Index::default(),
            unsynced: BTreeMap::new(),
            sessions: HashMap::new(),
            awaiting: HashMap::new(),
            due: BTreeMap::new(),
            watchers: 0,
            numbers: 0,
            is_closed: false,
        };
        Self {
            history,
            options,
            counters: Counters::default(),
            registry: Mutex::new(registry),
            line: Mutex::default(),
            line_grew: Notify::new(),
            read_size: ReadSize::new(),
            closed: watch::Sender::new(false),
            started: Instant::now(),
        }
    }

    pub(super) fn open_session(&self) -> Arc<Queue> {
        let mut registry = self.registry.lock();
        let queue = Arc::new(Queue::new(registry.number()));
        registry.sessions.insert(queue.number, Arc::clone(&queue));
        self.counters.sessions.store(registry.sessions.len(), Ordering::Relaxed);
        if registry.is_closed {
            queue.close(&self.counters);
        }
        queue
    }

    pub(super) fn end_session<'a>(
        &self,
        queue: &Arc<Queue>,
        watchers: impl Iterator<Item = &'a Arc<Watcher>>,
    ) {
        let mut registry = self.registry.lock();
        let before = registry.watchers;
        for watcher in watchers {
            registry.remove(watcher);
        }
        registry.awaiting.remove(&queue.number);
        registry.sessions.remove(&queue.number);
        self.counters.sessions.store(registry.sessions.len(), Ordering::Relaxed);
        self.follow_while_watched(&registry, before);
        queue.abandon(&self.counters);
    }

    pub(super) fn create(
        &self,
        id: i64,
        request: WatchRequest,
        queue: &Arc<Queue>,
    ) -> Result<Arc<Watcher>, WatchRefusal> {
        let mut registry = self.registry.lock();
        if registry.watchers >= self.options.max_watchers {
            return Err(WatchRefusal::TooMany { limit: self.options.max_watchers });
        }
        let before = registry.watchers;
        registry.watchers += 1;
        self.follow_while_watched(&registry, before);
        self.rest(&mut registry);
        // After the ring was told to keep what comes, and within the lock: dispatch
        // must not pass a revision between reading it here and giving the watcher its
        // place.
        let (revision, compacted) = (self.history.revision(), self.history.compacted());
        let (from, progress) = (request.from, request.progress);
        let from = from.map(|from| from.max(OLDEST_REVISION));
        let from = if Mutant::WatchGap.is_awake() { from.map(|from| from.max(compacted)) } else { from };
        // The oldest revision is that of the empty store: no change made it.
        let next = from.map_or(revision.saturating_add(1), |from| from.max(OLDEST_REVISION + 1));
        let watcher = Arc::new(Watcher::new(registry.number(), id, request, Arc::clone(queue), next));
        queue.created(id, revision);
        if progress {
            self.schedule_progress(&mut registry, &watcher, self.now_ms());
        }
        if from.is_some_and(|from| from < compacted) {
            self.end_compacted(&mut registry, &watcher, compacted);
            return Ok(watcher);
        }
        registry.place(Arc::clone(&watcher));
        if watcher.is(Place::Unsynced) {
            self.want_turn(queue);
        }
        Ok(watcher)
    }

    pub(super) fn cancel(&self, watcher: &Arc<Watcher>) -> bool {
        let mut registry = self.registry.lock();
        let before = registry.watchers;
        let was_here = registry.remove(watcher);
        if was_here {
            self.follow_while_watched(&registry, before);
            watcher.queue.canceled(Arc::clone(watcher), self.history.revision(), CancelReason::ByClient);
            registry.answer_progress();
        }
        was_here
    }

    pub(super) fn request_progress(&self, queue: &Arc<Queue>) {
        let mut registry = self.registry.lock();
        let revision = self.history.revision();
        self.rest(&mut registry);
        registry.awaiting.insert(queue.number, (Arc::clone(queue), revision));
        registry.answer_progress();
    }

    /// Ends a watcher because history no longer has what it needs.
    pub(super) fn end_compacted(&self, registry: &mut Registry, watcher: &Arc<Watcher>, compacted: i64) {
        let before = registry.watchers;
        if registry.remove(watcher) {
            self.follow_while_watched(registry, before);
            count(&self.counters.compacted, 1);
            let reason = CancelReason::Compacted { compacted };
            watcher.queue.canceled(Arc::clone(watcher), self.history.revision(), reason);
        }
    }

    /// Lets recent changes be kept in memory only while anybody needs them.
    fn follow_while_watched(&self, registry: &Registry, before: usize) {
        let is_watched = registry.watchers > 0;
        if is_watched != (before > 0) {
            self.history.recent().follow(is_watched);
        }
    }

    /// Moves dispatch's cursor to the end while nobody depends on it.
    fn rest(&self, registry: &mut Registry) {
        if registry.synced.len() == 0 {
            registry.at = registry.at.max(self.history.recent().revision());
        }
    }

    /// Lets a session stand in line for catch-up, or do so once it has room.
    pub(super) fn want_turn(&self, queue: &Arc<Queue>) {
        if queue.want_turn(&self.options, &self.counters) {
            self.stand_in_line(queue);
        }
    }

    pub(super) fn stand_in_line(&self, queue: &Arc<Queue>) {
        self.line.lock().push_back(Arc::clone(queue));
        self.line_grew.notify_one();
    }

    /// The revision that dispatch needs next, if it is committed.
    pub(super) fn upcoming(&self) -> Option<i64> {
        let mut registry = self.registry.lock();
        self.rest(&mut registry);
        registry.answer_progress();
        (registry.at < self.history.recent().revision()).then(|| registry.at.saturating_add(1))
    }

    /// Gives a revision to all synced watchers that want it; tells how many got it.
    /// Those whose session is full become unsynced.
    pub(super) fn dispatch(&self, events: &Arc<RevisionEvents>) -> usize {
        let size = retained_bytes(events);
        let mut delivered = 0;
        let mut behind = Vec::new();
        let mut registry = self.registry.lock();
        if events.revision <= registry.at {
            return 0;
        }
        registry.synced.matching(events, |watcher| {
            if watcher.next() > events.revision {
                return;
            }
            delivered += 1;
            if !watcher.queue.offer(watcher, events, size, &self.options, &self.counters) {
                behind.push(Arc::clone(watcher));
            }
        });
        registry.at = events.revision;
        count(&self.counters.fell_behind, behind.len());
        for watcher in behind {
            registry.synced.remove(&watcher);
            watcher.set_next(events.revision);
            let queue = Arc::clone(&watcher.queue);
            registry.place(watcher);
            self.want_turn(&queue);
        }
        delivered
    }

    /// Ends the synced watchers that need a revision before `oldest`, all of which
    /// history has lost, and goes on from there.
    pub(super) fn skip_compacted(&self, oldest: i64) {
        let mut registry = self.registry.lock();
        let lost: Vec<_> =
            registry.synced.all().into_iter().filter(|watcher| watcher.next() < oldest).cloned().collect();
        for watcher in lost {
            self.end_compacted(&mut registry, &watcher, oldest);
        }
        registry.at = registry.at.max(oldest - 1);
        registry.answer_progress();
    }

    /// Changes from `from` on out of memory; `None` if it doesn't go back so far.
    pub(super) fn recent(&self, from: i64, revisions: usize) -> Option<Vec<Arc<RevisionEvents>>> {
        match self.history.recent().since(from, revisions) {
            Since::Events(events) => Some(events),
            Since::Behind => None,
        }
    }

    /// Changes from `from` on out of history; blocks.
    pub(super) fn past(&self, from: i64, changes: usize) -> Result<Vec<Arc<RevisionEvents>>, ReadError> {
        count(&self.counters.disk_reads, 1);
        let read: Vec<_> =
            self.history.events(from, changes, self.options.queue_bytes)?.into_iter().map(Arc::new).collect();
        self.read_size.learn(changes, &read);
        Ok(read)
    }

    fn schedule_progress(&self, registry: &mut Registry, watcher: &Arc<Watcher>, now_ms: u64) {
        let interval = u64::try_from(self.options.progress_interval.as_millis()).unwrap_or(u64::MAX);
        let due = now_ms.saturating_add(interval);
        watcher.set_progress_due(due);
        registry.due.insert((due, watcher.number), Arc::clone(watcher));
    }

    /// Tells watchers that asked for it, whose time has come and that were told
    /// nothing since the last time, how far they are.
    pub(super) fn tell_progress(&self, now_ms: u64) {
        let mut registry = self.registry.lock();
        self.rest(&mut registry);
        while let Some(entry) = registry.due.first_entry()
            && entry.key().0 <= now_ms
        {
            let watcher = entry.remove();
            let was_active = watcher.take_activity();
            if !was_active && watcher.is(Place::Synced) && watcher.next() <= registry.at.saturating_add(1) {
                watcher.queue.told_if_idle(&watcher, registry.at);
            }
            self.schedule_progress(&mut registry, &watcher, now_ms);
        }
    }

    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn close(&self) {
        let mut registry = self.registry.lock();
        registry.is_closed = true;
        for queue in registry.sessions.values() {
            queue.close(&self.counters);
        }
        self.closed.send_replace(true);
    }

    /// Ends when the hub is closed.
    pub(super) async fn closed(&self) {
        let mut closed = self.closed.subscribe();
        // An error would mean that the sender is gone, which `self` holds.
        if closed.wait_for(|closed| *closed).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn figures(&self) -> WatchCounters {
        let registry = self.registry.lock();
        WatchCounters {
            sessions: registry.sessions.len() as u64,
            watchers: registry.watchers as u64,
            unsynced: registry.unsynced.len() as u64,
            queue_bytes: self.counters.queue_bytes.load(Ordering::Relaxed) as u64,
            recent_bytes: self.history.recent().bytes() as u64,
            events: get(&self.counters.events),
            fell_behind: get(&self.counters.fell_behind),
            catch_up_turns: get(&self.counters.catch_up_turns),
            disk_reads: get(&self.counters.disk_reads),
            compacted: get(&self.counters.compacted),
        }
    }
}

/// Reads history on a thread where blocking is no harm.
pub(super) async fn past(
    hub: &Arc<Hub>,
    from: i64,
    changes: usize,
) -> Result<Vec<Arc<RevisionEvents>>, ReadError> {
    let hub = Arc::clone(hub);
    let read = tasks::spawn_blocking(move || hub.past(from, changes)).await;
    read.unwrap_or_else(|error| {
        let (action, reason) = ("reading past changes", error.to_string());
        Err(ReadError::Storage(StorageError::Database { action, reason }))
    })
}

/// Follows the newest changes until the hub is closed.
async fn dispatch_forever(hub: Arc<Hub>) {
    let mut news = hub.history.recent().subscribe();
    let mut progress =
        tokio::time::interval((hub.options.progress_interval / PROGRESS_SLICES).max(LEAST_TICK));
    progress.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        news.borrow_and_update();
        let work = async {
            dispatch_all(&hub).await;
            tokio::select! {
                _ = news.changed() => {}
                _ = progress.tick() => hub.tell_progress(hub.now_ms()),
            }
        };
        tokio::select! {
            () = hub.closed() => return,
            () = work => {}
        }
    }
}

/// Dispatches whatever is committed.
async fn dispatch_all(hub: &Arc<Hub>) {
    while let Some(from) = hub.upcoming() {
        let events = match hub.recent(from, DISPATCH_REVISIONS) {
            Some(events) => Ok(events),
            None => past(hub, from, hub.read_size.get()).await,
        };
        match events {
            Ok(events) if !events.is_empty() => {
                let mut delivered = 0;
                for events in &events {
                    delivered += hub.dispatch(events);
                    if delivered >= DELIVERIES_PER_SLICE {
                        delivered = 0;
                        tokio::task::yield_now().await;
                    }
                }
                tokio::task::yield_now().await;
            }
            Err(ReadError::Compacted { oldest, .. }) if oldest > from => hub.skip_compacted(oldest),
            other => retry_later(from, other).await,
        }
    }
}

/// Waits before history is read again that should have given something.
pub(super) async fn retry_later(from: i64, read: Result<Vec<Arc<RevisionEvents>>, ReadError>) {
    if let Err(error) = read {
        tracing::warn!(%error, from, "watchers wait: past changes could not be read");
    } else {
        tracing::warn!(from, "watchers wait: the store does not show these changes");
    }
    tokio::time::sleep(RETRY).await;
}
