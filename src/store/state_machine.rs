//! The replicated state machine: Openraft's view of the MVCC store.
//!
//! One write batch per apply holds the data, the applied log id and the
//! membership, so that they become durable together (I4). The batch is not
//! synced: the Raft log is its write-ahead log, and after a crash the node
//! applies again from the log id that the state remembers. Two rules make that
//! safe. An entry is applied only once this node's own log holds it on disk, so
//! that a durable state never outruns the durable log; and the log is purged
//! only below a snapshot, whose checkpoint has flushed the state before.
//!
//! A snapshot from a peer becomes a new generation of the state's folder, and
//! the file `CURRENT` switches to it at once or not at all (I6).

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use bytes::{BufMut, Bytes};
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use openraft::alias::SnapshotOf;
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::apply;
use super::data_dir::DataDir;
use super::generation::{self, Generation};
use super::lease_table::LeaseTable;
use super::log_codec::{put_log_id, put_stored_membership, read_log_id, read_stored_membership};
use super::recent::{RECENT_BYTES, RecentEvents};
use super::snapshot::{self, SnapshotDir};
use crate::codec::Reader;
use crate::command::{Outcome, OutcomeResult};
use crate::engine::EngineOptions;
use crate::error::StorageError;
use crate::inflight::InflightBytes;
use crate::mutants::Mutant;
use crate::mvcc::{Store, WriteSession};
use crate::tasks;
use crate::{LogId, NodeId, SnapshotMeta, StoredMembership, TypeConfig};

const APPLIED: &str = "applied";
const MEMBERSHIP: &str = "membership";
const KNOWN_NODES: &str = "known_nodes";
const META_VERSION: u8 = 1;
/// Most entries in one write batch. Large enough to amortise the batch, small
/// enough that the first writer's answer isn't held up for long.
const MAX_BATCH_ENTRIES: usize = 1024;
/// Most bytes of proposals in one write batch.
const MAX_BATCH_BYTES: usize = 4 << 20;
/// From this many bytes that it holds on, a write batch takes no further entry: a short
/// deletion may change much. Where batches are cut changes nothing of the state (I3).
const FULL_BATCH_BYTES: usize = 16 << 20;
/// From this many entries on, a batch is worth moving the other tasks away from
/// the thread that applies it.
const LARGE_BATCH_ENTRIES: usize = 32;
/// From this many bytes of proposals on, it is too.
const LARGE_BATCH_BYTES: usize = 128 << 10;

/// How far a state has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// The last applied log entry.
    pub log_id: Option<LogId>,
    /// The last applied membership.
    pub membership: StoredMembership,
}

impl Applied {
    /// The same as Openraft's description of a snapshot.
    pub(super) fn into_meta(self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.log_id, last_membership: self.membership }
    }
}

/// Reads how far `store` has come from the store itself.
///
/// # Errors
/// When the stored form is damaged.
pub(super) fn read_applied(store: &Store) -> Result<Applied, StorageError> {
    let corrupt = |what| move |source| StorageError::Corrupt { what, source };
    let log_id =
        store.meta(APPLIED)?.map(decode_log_id).transpose().map_err(corrupt("the applied log id"))?;
    let membership =
        store.meta(MEMBERSHIP)?.map(decode_membership).transpose().map_err(corrupt("the membership"))?;
    Ok(Applied { log_id, membership: membership.unwrap_or_default() })
}

fn decode_log_id(bytes: Bytes) -> Result<LogId, crate::codec::DecodeError> {
    let mut r = Reader::new(bytes);
    r.version("applied log id", META_VERSION)?;
    let log_id = read_log_id(&mut r)?;
    r.finish()?;
    Ok(log_id)
}

fn decode_membership(bytes: Bytes) -> Result<StoredMembership, crate::codec::DecodeError> {
    let mut r = Reader::new(bytes);
    r.version("membership", META_VERSION)?;
    let membership = read_stored_membership(&mut r)?;
    r.finish()?;
    Ok(membership)
}

fn index_of(applied: &Applied) -> u64 {
    applied.log_id.as_ref().map_or(0, |log_id| log_id.index)
}

fn encode_known_nodes(nodes: &BTreeSet<NodeId>) -> Vec<u8> {
    let mut out = vec![META_VERSION];
    for id in nodes {
        out.put_u64_le(*id);
    }
    out
}

fn read_known_nodes(store: &Store) -> Result<BTreeSet<NodeId>, StorageError> {
    let Some(stored) = store.meta(KNOWN_NODES)? else { return Ok(BTreeSet::new()) };
    let read = || {
        let mut r = Reader::new(stored);
        r.version("known nodes", META_VERSION)?;
        let mut nodes = BTreeSet::new();
        while r.remaining() > 0 {
            nodes.insert(r.u64("node id")?);
        }
        Ok(nodes)
    };
    read().map_err(|source| StorageError::Corrupt { what: "the list of known nodes", source })
}

/// Figures of the state machine that only go up.
#[derive(Debug, Default)]
pub struct ApplyCounters {
    /// Applied log entries.
    pub entries: AtomicU64,
    /// Write batches.
    pub batches: AtomicU64,
    /// Snapshots built here.
    pub snapshots_built: AtomicU64,
    /// Snapshots installed from a peer.
    pub snapshots_installed: AtomicU64,
}

/// A write batch in the making, and whom to answer once it is committed.
struct Applying<'a> {
    session: WriteSession<'a>,
    applied: Applied,
    /// With every membership of the batch: what is stored must not depend on where
    /// this replica happened to cut the log (I3).
    known_nodes: Option<BTreeSet<NodeId>>,
    answers: Vec<(ApplyResponder<TypeConfig>, Outcome)>,
    entries: u64,
}

impl<'a> Applying<'a> {
    /// A batch on `store`; its changes are collected if somebody follows them.
    fn new(store: &'a Store, applied: Applied, is_followed: bool) -> Self {
        let mut session = store.begin();
        if is_followed {
            session.collect_events();
        }
        Self { session, applied, known_nodes: None, answers: Vec::new(), entries: 0 }
    }

    fn outcome(&self, result: OutcomeResult) -> Outcome {
        Outcome { revision: self.session.revision(), result }
    }
}

/// The state machine of a node; clones share it.
#[derive(Debug, Clone)]
pub struct StateMachineStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: PathBuf,
    snapshots: PathBuf,
    options: EngineOptions,
    generation: ArcSwap<Generation>,
    applied: Mutex<Applied>,
    /// Index of the last applied entry: to look at, and to wait for.
    applied_index: AtomicU64,
    applied_watch: watch::Sender<u64>,
    /// Every node id that ever was a member.
    known_nodes: Mutex<BTreeSet<NodeId>>,
    leases: LeaseTable,
    snapshot: Mutex<Option<(SnapshotMeta, SnapshotDir)>>,
    /// Held while a snapshot is built, so that two builds can't cross.
    building: Mutex<()>,
    /// Makes the names of snapshots unique within a run, and other than the name of
    /// the one that the run found: process ids repeat.
    sequence: AtomicU64,
    /// The last entry that this node's own log holds on disk.
    durable_log: watch::Receiver<Option<LogId>>,
    /// The newest changes, for those who follow them.
    recent: RecentEvents,
    /// All that is in flight on this node, which answers to writes count among.
    inflight: Arc<InflightBytes>,
    counters: ApplyCounters,
    /// Whether nothing that a mutant would apply twice is to come any more.
    has_applied: AtomicBool,
}

impl StateMachineStore {
    /// Opens the state in `data`. `durable_log` tells how far this node's own
    /// log is on disk; what writes answer counts as `inflight`.
    ///
    /// # Errors
    /// When the folder can't be read or was written by a newer release.
    pub fn open(
        data: &DataDir,
        options: &EngineOptions,
        durable_log: watch::Receiver<Option<LogId>>,
        inflight: Arc<InflightBytes>,
    ) -> Result<Self, StorageError> {
        let state = data.state();
        let generation = generation::open_current(&state, options)?;
        let applied = read_applied(generation.store())?;
        let snapshots = data.snapshots();
        let snapshot = snapshot::recover(&snapshots)?;
        let sequence = snapshot.as_ref().map_or(0, |(_, dir)| next_sequence(&dir.id()));
        let known_nodes = read_known_nodes(generation.store())?;
        let leases = LeaseTable::default();
        leases.load(generation.store())?;
        let applied_index = index_of(&applied);
        let recent = RecentEvents::new(generation.store().revision(), RECENT_BYTES);
        let shared = Shared {
            state,
            snapshots,
            options: options.clone(),
            generation: ArcSwap::from_pointee(generation),
            applied: Mutex::new(applied),
            applied_index: AtomicU64::new(applied_index),
            applied_watch: watch::Sender::new(applied_index),
            known_nodes: Mutex::new(known_nodes),
            leases,
            snapshot: Mutex::new(snapshot),
            building: Mutex::new(()),
            sequence: AtomicU64::new(sequence),
            durable_log,
            recent,
            inflight,
            counters: ApplyCounters::default(),
            has_applied: AtomicBool::new(applied_index == 0),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Refuses, before anything is applied, a state that is ahead of the node's own
    /// log: the log must have lost its end since.
    ///
    /// Apply waits for the log, so one thing alone puts the state ahead: a
    /// snapshot from a peer, if the node stopped before the log was purged up to
    /// it. Then the state is what the snapshot holds, and the snapshot is on disk,
    /// since it was before the state was replaced.
    ///
    /// # Errors
    /// [`StorageError::LogBehindState`].
    pub fn check_log(&self) -> Result<(), StorageError> {
        let applied = self.shared.applied.lock().log_id;
        let last = *self.shared.durable_log.borrow();
        let installed = self.shared.snapshot.lock().as_ref().and_then(|(meta, _)| meta.last_log_id);
        match applied {
            Some(id) if Some(id.index) > last.map(|last| last.index) && installed != applied => {
                Err(StorageError::LogBehindState {
                    last: last.map_or_else(|| "nothing".to_owned(), |last| last.to_string()),
                    applied: id.to_string(),
                })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The store as it is now; a snapshot from a peer may replace it later, so
    /// hold it for one request only.
    pub fn store(&self) -> StoreRef {
        StoreRef { generation: self.shared.generation.load() }
    }

    /// The last applied log entry.
    pub fn applied_log_id(&self) -> Option<LogId> {
        self.shared.applied.lock().log_id
    }

    /// Index of the last applied log entry; zero when nothing is applied.
    pub fn applied_index(&self) -> &AtomicU64 {
        &self.shared.applied_index
    }

    /// The same, to wait for.
    pub fn watch_applied(&self) -> watch::Receiver<u64> {
        self.shared.applied_watch.subscribe()
    }

    /// Whether `id` is or ever was a member of the cluster.
    pub fn knows_node(&self, id: NodeId) -> bool {
        self.shared.known_nodes.lock().contains(&id)
    }

    /// The leases as of the last applied log entry.
    pub fn leases(&self) -> &LeaseTable {
        &self.shared.leases
    }

    /// Where the clock of idempotency keys stands as of the last applied log entry, in
    /// milliseconds.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn token_clock(&self) -> Result<u64, StorageError> {
        apply::token_clock(&self.store())
    }

    fn publish_applied(&self, applied: Applied) {
        let index = index_of(&applied);
        *self.shared.applied.lock() = applied;
        self.shared.applied_index.store(index, Ordering::Release);
        self.shared.applied_watch.send_replace(index);
    }

    /// Name and reach of the current snapshot.
    pub fn current_snapshot(&self) -> Option<(SnapshotMeta, String)> {
        self.shared.snapshot.lock().as_ref().map(|(meta, dir)| (meta.clone(), dir.id()))
    }

    /// The folder in which incoming snapshots are collected.
    pub fn snapshots_dir(&self) -> &Path {
        &self.shared.snapshots
    }

    /// A name for an incoming snapshot that is unique within this run.
    pub fn next_snapshot_name(&self) -> String {
        let sequence = self.shared.sequence.fetch_add(1, Ordering::Relaxed);
        format!("{}-{sequence}", std::process::id())
    }

    /// The newest changes, for those who follow them.
    pub fn recent(&self) -> &RecentEvents {
        &self.shared.recent
    }

    /// Figures for metrics.
    pub fn counters(&self) -> &ApplyCounters {
        &self.shared.counters
    }

    /// Writes everything applied so far to disk, so that the next start has
    /// nothing to apply again.
    ///
    /// # Errors
    /// When RocksDB fails.
    pub fn flush(&self) -> Result<(), StorageError> {
        self.store().flush()
    }

    /// Waits until this node's own log holds `log_id` on disk.
    ///
    /// Openraft commits an entry when a majority has it, which may be before
    /// this node's disk does. Applied data may reach the disk at any time, so
    /// without the wait a power loss could leave a state that knows more than
    /// the log.
    async fn wait_until_durable(&self, log_id: &LogId) -> io::Result<()> {
        let mut durable = self.shared.durable_log.clone();
        durable
            .wait_for(|durable| durable.as_ref() >= Some(log_id))
            .await
            .map(|_| ())
            .map_err(|_| io::Error::other("the log store stopped before the entry was on disk"))
    }

    async fn apply_batch(&self, batch: Vec<EntryResponder<TypeConfig>>) -> io::Result<()> {
        let Some(last) = batch.last().map(|(entry, _)| entry.log_id) else {
            return Ok(());
        };
        self.wait_until_durable(&last).await?;
        off_the_runtime(is_large(&batch), || self.commit_batch(batch))?;
        Ok(())
    }

    /// Applies the entries as one write batch and only then answers.
    fn commit_batch(&self, batch: Vec<EntryResponder<TypeConfig>>) -> Result<(), StorageError> {
        let generation = self.shared.generation.load();
        let store = generation.store();
        let is_followed = self.shared.recent.is_followed();
        let mut applying = Applying::new(store, self.shared.applied.lock().clone(), is_followed);
        for (entry, responder) in batch {
            let outcome = match &entry.payload {
                EntryPayload::Normal(proposal) => match apply::decode(proposal)? {
                    Ok(command) => {
                        let session = &applying.session;
                        // What is read as the past must have been settled before.
                        if (apply::reads_the_past(&command) && !session.is_untouched())
                            || session.size_in_bytes() >= FULL_BATCH_BYTES
                        {
                            let applied = applying.applied.clone();
                            self.settle(applying)?;
                            applying = Applying::new(store, applied, is_followed);
                        }
                        let term = entry.log_id.committed_leader_id().term;
                        let context = apply::Context { term, wants_answer: responder.is_some() };
                        if Mutant::ApplyTwice.is_awake()
                            && !self.shared.has_applied.swap(true, Ordering::Relaxed)
                        {
                            apply::apply(&mut applying.session, &command, context)?;
                        }
                        apply::apply(&mut applying.session, &command, context)?
                    }
                    Err(rejection) => applying.outcome(OutcomeResult::Rejected(rejection)),
                },
                EntryPayload::Membership(membership) => {
                    applying.applied.membership =
                        StoredMembership::new(Some(entry.log_id), membership.clone());
                    applying
                        .known_nodes
                        .get_or_insert_with(|| self.shared.known_nodes.lock().clone())
                        .extend(membership.nodes().map(|(id, _)| *id));
                    applying.outcome(OutcomeResult::Nothing)
                }
                EntryPayload::Blank => applying.outcome(OutcomeResult::Nothing),
            };
            applying.applied.log_id = Some(entry.log_id);
            applying.entries += 1;
            if let Some(responder) = responder {
                // Only here, where what is stored no longer depends on it.
                applying.answers.push((responder, outcome.counted_in(&self.shared.inflight)));
            }
        }
        self.settle(applying)
    }

    /// Commits what was applied, tells those who follow, and answers.
    fn settle(&self, applying: Applying<'_>) -> Result<(), StorageError> {
        let Applying { mut session, applied, known_nodes, answers, entries } = applying;
        if let Some(log_id) = &applied.log_id {
            let mut out = vec![META_VERSION];
            put_log_id(&mut out, log_id);
            session.set_meta(APPLIED, out);
        }
        if let Some(known_nodes) = &known_nodes {
            session.set_meta(KNOWN_NODES, encode_known_nodes(known_nodes));
            let mut out = vec![META_VERSION];
            put_stored_membership(&mut out, &applied.membership);
            session.set_meta(MEMBERSHIP, out);
        }
        let revision = session.revision();
        let committed = session.commit()?;
        self.shared.leases.apply(&committed.leases);
        match committed.revisions {
            Some(revisions) => self.shared.recent.push(revisions),
            // Whoever came to follow meanwhile finds it in the store.
            None => self.shared.recent.reset(revision),
        }
        if let Some(known_nodes) = known_nodes {
            *self.shared.known_nodes.lock() = known_nodes;
        }
        self.publish_applied(applied);
        self.shared.counters.entries.fetch_add(entries, Ordering::Relaxed);
        self.shared.counters.batches.fetch_add(1, Ordering::Relaxed);
        // Answer only now: whoever is told of a revision must find it.
        for (responder, outcome) in answers {
            responder.send(outcome);
        }
        Ok(())
    }

    /// Builds a snapshot unless the current one already covers all that is applied.
    ///
    /// # Errors
    /// When RocksDB or the file system fails.
    pub(super) fn build_snapshot(&self) -> Result<(SnapshotMeta, SnapshotDir), StorageError> {
        let _one_at_a_time = self.shared.building.lock();
        let applied = self.shared.applied.lock().log_id;
        if let Some((meta, dir)) = self.shared.snapshot.lock().as_ref()
            && meta.last_log_id == applied
        {
            return Ok((meta.clone(), dir.clone()));
        }
        let generation = self.shared.generation.load_full();
        let name = self.next_snapshot_name();
        let (meta, dir) = snapshot::build(generation.store(), &self.shared.snapshots, &name)?;
        self.shared.counters.snapshots_built.fetch_add(1, Ordering::Relaxed);
        Ok(self.publish_snapshot(meta, dir))
    }

    /// Makes a snapshot the current one unless a newer one came first (a peer's,
    /// installed meanwhile), and lets the loser go.
    fn publish_snapshot(&self, meta: SnapshotMeta, dir: SnapshotDir) -> (SnapshotMeta, SnapshotDir) {
        let mut current = self.shared.snapshot.lock();
        if let Some((newer_meta, newer_dir)) = current.as_ref()
            && newer_meta.last_log_id > meta.last_log_id
        {
            dir.retire();
            return (newer_meta.clone(), newer_dir.clone());
        }
        if let Some((_, superseded)) = current.replace((meta.clone(), dir.clone()))
            && superseded.path() != dir.path()
        {
            superseded.retire();
        }
        (meta, dir)
    }

    /// Replaces the state by what `received` holds. Up to the switch of `CURRENT`
    /// a failure leaves the old state as it was, and nothing else.
    fn install(&self, meta: &SnapshotMeta, received: &SnapshotDir) -> Result<(), StorageError> {
        let shared = &self.shared;
        let previous = shared.generation.load_full();
        let number = generation::unused(&shared.state, previous.number());
        let generation = previous.successor(&shared.state, number, received, &shared.options)?;
        let applied = read_applied(generation.store())?;
        let holds = applied.clone().into_meta();
        if holds != *meta {
            return Err(StorageError::Database {
                action: "installing a snapshot",
                reason: format!("it was announced as {meta:?} but holds {holds:?}"),
            });
        }
        let known_nodes = read_known_nodes(generation.store())?;
        // The node must be able to pass on what it can no longer replay: once the
        // state is there, the log below it may be purged at any time. After a crash
        // before the switch, Openraft finds the snapshot ahead of the state and
        // installs it.
        {
            let _one_at_a_time = shared.building.lock();
            let (meta, dir) =
                snapshot::build(generation.store(), &shared.snapshots, &self.next_snapshot_name())?;
            self.publish_snapshot(meta, dir);
        }
        if Mutant::TornInstall.is_awake() {
            self.publish_applied(applied.clone());
            std::thread::sleep(Duration::from_millis(500));
        }
        // From here on a restart may open the new generation, even if this fails.
        generation.keep();
        generation::set_current(&shared.state, number)?;
        *shared.known_nodes.lock() = known_nodes;
        // Before the applied index is known: whoever waited for it must find them.
        shared.leases.load(generation.store())?;
        let revision = generation.store().revision();
        shared.generation.store(Arc::new(generation));
        // After the switch: whoever is sent to the store for what happened up to this
        // revision must find it there.
        shared.recent.reset(revision);
        self.publish_applied(applied);
        previous.retire();
        drop(previous);
        shared.counters.snapshots_installed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// A loaded store; dereferences to it.
pub struct StoreRef {
    generation: Guard<Arc<Generation>>,
}

impl std::ops::Deref for StoreRef {
    type Target = Store;

    fn deref(&self) -> &Store {
        self.generation.store()
    }
}

/// Whether applying the entries may take long: unless they are few and small, and none
/// does more than set or remove one key. A transaction, the end of a lease or an
/// idempotency key may cost many reads and writes.
pub(super) fn is_large(batch: &[EntryResponder<TypeConfig>]) -> bool {
    let does_more = |(entry, _): &EntryResponder<TypeConfig>| match &entry.payload {
        EntryPayload::Normal(proposal) => !proposal.is_single_write(),
        EntryPayload::Blank | EntryPayload::Membership(_) => false,
    };
    batch.len() >= LARGE_BATCH_ENTRIES
        || payload_bytes(batch) >= LARGE_BATCH_BYTES
        || batch.iter().any(does_more)
}

/// Runs blocking work; large work first moves the thread's other tasks away, if
/// the runtime can.
fn off_the_runtime<T>(is_large: bool, work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    let can_move = is_large
        && Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
    if can_move { tokio::task::block_in_place(work) } else { work() }
}

/// The sequence number after the one in the name of a snapshot.
fn next_sequence(id: &str) -> u64 {
    id.rsplit_once('-').and_then(|(_, sequence)| sequence.parse::<u64>().ok()).map_or(0, |last| last + 1)
}

impl RaftStateMachine<TypeConfig> for StateMachineStore {
    type SnapshotData = SnapshotDir;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let applied = self.shared.applied.lock().clone();
        Ok((applied.log_id, applied.membership))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(first) = entries.next().await {
            let mut batch = vec![first?];
            let mut bytes = payload_bytes(&batch);
            while batch.len() < MAX_BATCH_ENTRIES && bytes < MAX_BATCH_BYTES {
                let Some(Some(next)) = entries.next().now_or_never() else { break };
                batch.push(next?);
                bytes += payload_bytes(batch.last());
            }
            self.apply_batch(batch).await?;
        }
        Ok(())
    }

    /// Puts a snapshot off while the current one is being sent: the log is purged
    /// behind each new one, and a follower must find the log where the snapshot
    /// that it receives ends, or it would need the next one, and so for ever.
    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Self> {
        let is_being_sent =
            self.shared.snapshot.lock().as_ref().is_some_and(|(_, current)| current.is_in_use());
        (force || !is_being_sent).then(|| self.clone())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotDir,
    ) -> Result<(), io::Error> {
        off_the_runtime(true, || self.install(meta, &snapshot))?;
        tracing::info!(log_id = ?meta.last_log_id, "installed a snapshot from a peer");
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<TypeConfig, SnapshotDir>>, io::Error> {
        let current = self.shared.snapshot.lock().clone();
        Ok(current.map(|(meta, snapshot)| openraft::storage::Snapshot { meta, snapshot }))
    }
}

fn payload_bytes<'a>(entries: impl IntoIterator<Item = &'a EntryResponder<TypeConfig>>) -> usize {
    let size = |(entry, _): &EntryResponder<TypeConfig>| match &entry.payload {
        EntryPayload::Normal(proposal) => proposal.as_bytes().len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    };
    entries.into_iter().map(size).sum()
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachineStore {
    type SnapshotData = SnapshotDir;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, SnapshotDir>, io::Error> {
        let started = std::time::Instant::now();
        let this = self.clone();
        let (meta, snapshot) =
            tasks::spawn_blocking(move || this.build_snapshot()).await.map_err(io::Error::other)??;
        let elapsed: Duration = started.elapsed();
        tracing::info!(log_id = ?meta.last_log_id, ?elapsed, snapshot = snapshot.id(), "built a snapshot");
        Ok(openraft::storage::Snapshot { meta, snapshot })
    }
}
