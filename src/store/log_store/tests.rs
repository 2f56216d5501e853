//! What the tests of the log store share: entries, probes, and a model.
//!
//! The model is what the store promises, in plain memory. Random operations are
//! drawn against it, so that each one is something Raft could ask for.

mod behaviour;
mod crash;
mod model;
mod power_loss;
mod suite;
mod throughput;

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use openraft::type_config::TypeConfigExt as _;
use openraft::vote::RaftLeaderId as _;

use super::super::log_codec::{LeaderId, Payload};
use super::*;
use crate::command::Proposal;

type Flushed = oneshot::Receiver<Result<(), io::Error>>;

const NODE: u64 = 1;

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId::new(term, NODE), index)
}

/// A normal entry whose bytes follow from its log id and `size`.
fn entry(term: u64, index: u64, size: usize) -> Entry {
    let seed = term.wrapping_mul(31).wrapping_add(index);
    let bytes = (0..size as u64).map(|at| (seed ^ at.wrapping_mul(7)) as u8).collect::<Vec<_>>();
    Entry { log_id: log_id(term, index), payload: Payload::Normal(Proposal::from_bytes(bytes.into())) }
}

fn entries(term: u64, indexes: std::ops::Range<u64>) -> Vec<Entry> {
    indexes.map(|index| entry(term, index, 100)).collect()
}

fn indexes(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.log_id.index()).collect()
}

/// A hook that counts instead of ending the process.
fn recording() -> (FatalHook, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let hook = Arc::clone(&seen);
    (Arc::new(move |error: &StorageError| hook.lock().push(error.to_string())), seen)
}

/// A hook for tests in which nothing may fail.
fn panicking() -> FatalHook {
    Arc::new(|error| panic!("the store failed: {error}"))
}

fn open(dir: &Path) -> RocksLogStore {
    RocksLogStore::open(dir, LogOptions::default(), panicking()).unwrap()
}

/// Queues entries and gives what will hear of their sync.
async fn append(store: &RocksLogStore, entries: Vec<Entry>) -> Flushed {
    let (tx, rx) = TypeConfig::oneshot();
    store.clone().append(entries, IOFlushed::signal(tx)).await.unwrap();
    rx
}

async fn append_and_wait(store: &RocksLogStore, entries: Vec<Entry>) {
    append(store, entries).await.await.unwrap().unwrap();
}

async fn read(store: &RocksLogStore, range: impl RangeBounds<u64> + Clone + Debug + Send) -> Vec<Entry> {
    store.clone().get_log_reader().await.try_get_log_entries(range).await.unwrap()
}

/// A probe that lets each synced write end only when the test says how.
struct Stepper(Receiver<Result<(), StorageError>>);

impl Probe for Stepper {
    fn after_sync(&mut self) -> Result<(), StorageError> {
        // A test that has gone, or hangs, lets everything through.
        self.0.recv_timeout(std::time::Duration::from_secs(30)).unwrap_or(Ok(()))
    }
}

fn stepper() -> (Stepper, SyncSender<Result<(), StorageError>>) {
    let (tx, rx) = sync_channel(100);
    (Stepper(rx), tx)
}

fn open_with(dir: &Path, probe: impl Probe, fatal: FatalHook) -> RocksLogStore {
    RocksLogStore::open_with(dir, LogOptions::default(), fatal, probe).unwrap()
}

/// A small generator whose run is repeatable from its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn draw(&mut self) -> Draw {
        Draw { kind: self.roll(256) as u8, a: self.roll(1 << 16) as u16, b: self.roll(1 << 16) as u16 }
    }
}

/// The seed of `variable`, or one that no run had before.
fn seed_of(variable: &str) -> u64 {
    std::env::var(variable).map_or_else(
        |_| std::collections::hash_map::RandomState::new().build_hasher().finish(),
        |seed| seed.parse().expect("the seed is a number"),
    )
}

/// Numbers that [`Model::choose`] turns into an operation that makes sense.
#[derive(Debug, Clone, Copy)]
struct Draw {
    kind: u8,
    a: u16,
    b: u16,
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<Entry>),
    Vote(Vote),
    Truncate(Option<LogId>),
    Purge(LogId),
    Commit(LogId),
}

impl Step {
    /// Whether whoever asks for it hears when it is on disk.
    fn is_confirmed(&self) -> bool {
        matches!(self, Self::Append(_) | Self::Vote(_) | Self::Truncate(_))
    }
}

/// What the log must be after the steps so far.
#[derive(Debug, Clone, PartialEq, Default)]
struct Model {
    entries: BTreeMap<u64, Entry>,
    purged: Option<LogId>,
    committed: Option<LogId>,
    vote: Option<Vote>,
    term: u64,
}

impl Model {
    /// What `store` holds, with a term that is newer than all it has seen.
    async fn of(store: &RocksLogStore) -> Self {
        let mut store = store.clone();
        let entries = read(&store, ..).await;
        let state = store.get_log_state().await.unwrap();
        let vote = store.get_log_reader().await.read_vote().await.unwrap();
        let terms = entries.iter().map(|entry| entry.log_id.committed_leader_id().term);
        let term = terms.chain(vote.map(|vote| vote.leader_id.term)).max().unwrap_or(0);
        let term = term.max(state.last_log_id.map_or(0, |id| id.committed_leader_id().term)) + 1;
        let model = Self {
            entries: entries.into_iter().map(|entry| (entry.log_id.index(), entry)).collect(),
            purged: state.last_purged_log_id,
            committed: store.read_committed().await.unwrap(),
            vote,
            term,
        };
        assert_eq!(model.last(), state.last_log_id);
        if let (Some(first), Some(purged)) = (model.entries.keys().next(), model.purged) {
            assert_eq!(*first, purged.index() + 1, "there is a hole after what was purged");
        }
        model
    }

    /// Whether the entries, the purge and the vote are the same; what is known to
    /// be committed may lag.
    fn agrees_with(&self, other: &Self) -> bool {
        self.entries == other.entries && self.purged == other.purged && self.vote == other.vote
    }

    fn last(&self) -> Option<LogId> {
        self.entries.values().next_back().map(|entry| entry.log_id).or(self.purged)
    }

    fn next_index(&self) -> u64 {
        self.last().map_or(0, |last| last.index() + 1)
    }

    /// The log id at the place `pick` between the committed entry and the end.
    fn pick(&self, pick: u16) -> Option<LogId> {
        let floor = self.committed.max(self.purged).map_or(0, |id| id.index());
        let ids: Vec<_> = self.entries.range(floor..).map(|(_, entry)| entry.log_id).collect();
        ids.get(usize::from(pick) % ids.len().max(1)).copied()
    }

    fn choose(&self, draw: Draw) -> Step {
        let Draw { kind, a, b } = draw;
        let target = self.pick(a);
        match (kind % 12, target) {
            (0, _) => {
                let leader_id = LeaderId::new(self.term + 1, u64::from(a % 3));
                Step::Vote(Vote { leader_id, committed: b % 2 == 0 })
            }
            (1, Some(last)) => Step::Truncate(Some(last)),
            (2, Some(upto)) => Step::Purge(upto),
            (3, _) if a % 8 == 0 => Step::Purge(log_id(self.term, self.next_index() + u64::from(b % 4))),
            (4 | 5, Some(committed)) => Step::Commit(committed),
            (6, _) if self.committed.is_none() && a % 4 == 0 => Step::Truncate(None),
            _ => {
                let first = self.next_index();
                let size = usize::from(b % 3000);
                let indexes = first..first + 1 + u64::from(a % 6);
                Step::Append(indexes.map(|index| entry(self.term, index, size)).collect())
            }
        }
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Append(entries) => {
                self.entries.extend(entries.iter().map(|entry| (entry.log_id.index(), entry.clone())));
            }
            Step::Vote(vote) => {
                self.term = vote.leader_id.term;
                self.vote = Some(*vote);
            }
            Step::Truncate(last) => {
                self.entries.split_off(&last.map_or(0, |last| last.index() + 1));
                self.term += 1;
            }
            Step::Purge(upto) => {
                self.entries = self.entries.split_off(&(upto.index() + 1));
                self.purged = Some(*upto);
            }
            Step::Commit(id) => self.committed = self.committed.max(Some(*id)),
        }
    }
}

/// Asks the store for a step; what is to be confirmed is handed back.
async fn request(store: &RocksLogStore, step: &Step) -> Option<Flushed> {
    let mut store = store.clone();
    match step {
        Step::Append(entries) => return Some(append(&store, entries.clone()).await),
        Step::Vote(vote) => store.save_vote(vote).await.unwrap(),
        Step::Truncate(last) => store.truncate_after(*last).await.unwrap(),
        Step::Purge(upto) => store.purge(*upto).await.unwrap(),
        Step::Commit(id) => store.save_committed(Some(*id)).await.unwrap(),
    }
    None
}

/// Takes `step` and waits until it is confirmed, if it will be.
async fn carry_out(store: &RocksLogStore, step: &Step) {
    if let Some(flushed) = request(store, step).await {
        flushed.await.unwrap().unwrap();
    }
}
