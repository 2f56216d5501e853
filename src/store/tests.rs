//! Tests of the stores together: what they share.
//!
//! [`entry`] gives the log of a made-up cluster: the entry of each index follows
//! from the index alone, so that any test, and any process, can work out what
//! the state must be after it.

mod crash;
mod lifecycle;
mod power_loss;
mod replicas;
mod snapshots;
mod suite;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{BuildHasher as _, Hasher as _};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use openraft::RaftSnapshotBuilder;
use openraft::storage::RaftStateMachine as _;
use openraft::vote::RaftLeaderId as _;
use tempfile::TempDir;
use tokio::sync::watch;

use super::StateMachineStore;
use super::data_dir::DataDir;
use super::log_codec::{LeaderId, Payload};
use super::snapshot::SnapshotDir;
use crate::command::{Command, Condition, Idempotency, Proposal, Write};
use crate::engine::{Db, EngineOptions, FamilySpec, Journal, Scan, Workload};
use crate::mvcc::Store;
use crate::{Entry, LogId, Member, Membership, SnapshotMeta, StoredMembership};

const NODE: u64 = 1;

fn small() -> EngineOptions {
    EngineOptions { block_cache_bytes: 1 << 20, write_buffer_bytes: 1 << 18 }
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
}

/// The seed of `variable`, or one that no run had before.
fn seed_of(variable: &str) -> u64 {
    std::env::var(variable).map_or_else(
        |_| std::collections::hash_map::RandomState::new().build_hasher().finish(),
        |seed| seed.parse().expect("the seed is a number"),
    )
}

/// A term lasts for this many entries.
const TERM_ENTRIES: u64 = 300;

fn log_id(index: u64) -> LogId {
    LogId::new(LeaderId::new(1 + index / TERM_ENTRIES, NODE), index)
}

fn normal(index: u64, command: &Command) -> Entry {
    Entry { log_id: log_id(index), payload: Payload::Normal(command.encode()) }
}

/// The entry of the made-up cluster at `index`.
fn entry(index: u64) -> Entry {
    let mut dice = Dice(index);
    let payload = match index {
        0 => Payload::Membership(membership(0)),
        _ if index.is_multiple_of(TERM_ENTRIES) => Payload::Blank,
        _ if index % 50 == 7 => Payload::Membership(membership(index)),
        _ if index % 37 == 5 => Payload::Normal(Proposal::from_bytes(Bytes::from_static(b"\x00noise"))),
        _ => Payload::Normal(command(index, &mut dice).encode()),
    };
    Entry { log_id: log_id(index), payload }
}

/// Three voters and a learner that comes and goes.
fn membership(index: u64) -> Membership {
    let member = |id: u64| (id, Member { addr: format!("127.0.0.1:{id}") });
    let nodes: BTreeMap<_, _> = [1, 2, 3, 100 + index / 50].map(member).into();
    Membership::new(vec![BTreeSet::from([1, 2, 3])], nodes).unwrap()
}

fn command(index: u64, dice: &mut Dice) -> Command {
    let key = Bytes::from(format!("key {:02}", dice.roll(40)));
    let write = if dice.roll(5) == 0 {
        Write::Delete { key }
    } else {
        let value = vec![dice.roll(256) as u8; dice.roll(400) as usize];
        Write::Put { key, value: value.into(), lease: dice.roll(3) as i64 }
    };
    let condition = match dice.roll(8) {
        0 => Some(Condition::Exists),
        1 => Some(Condition::Absent),
        2 => Some(Condition::ModRevision(dice.roll(index) as i64)),
        _ => None,
    };
    let idempotency = (dice.roll(3) == 0).then(|| {
        let proposed_at_ms = 10 * index + dice.roll(100);
        let token = Bytes::from(format!("token {}", dice.roll(15)));
        Idempotency { token, proposed_at_ms, expires_at_ms: proposed_at_ms + dice.roll(500) }
    });
    Command { write, condition, idempotency }
}

/// A state machine in a folder of its own, and the log's durable end to turn.
struct Node {
    store: StateMachineStore,
    durable: watch::Sender<Option<LogId>>,
    /// Before the folder, so that it is closed before the folder goes.
    data: DataDir,
    dir: TempDir,
}

/// The log id after all others: of a log that is always durable.
fn end_of_time() -> LogId {
    LogId::new(LeaderId::new(u64::MAX, NODE), u64::MAX)
}

impl Node {
    fn new() -> Self {
        Self::in_folder(tempfile::tempdir().unwrap())
    }

    fn in_folder(dir: TempDir) -> Self {
        let data = DataDir::open(&dir.path().join("data"), NODE).unwrap();
        let durable = watch::Sender::new(Some(end_of_time()));
        let store = StateMachineStore::open(&data, &small(), durable.subscribe()).unwrap();
        Self { store, durable, data, dir }
    }

    /// Closes everything and opens it again.
    fn restart(self) -> Self {
        Self::in_folder(self.close())
    }

    fn close(self) -> TempDir {
        self.dir
    }

    /// Applies the made-up log from where the state is, up to and with `last`.
    async fn apply_to(&self, last: u64) {
        let first = self.store.applied_log_id().map_or(0, |log_id| log_id.index + 1);
        apply(&self.store, (first..=last).map(entry)).await;
    }

    async fn build(&self) -> (SnapshotMeta, SnapshotDir) {
        self.try_build().await.unwrap()
    }

    /// Builds a snapshot as Openraft does.
    async fn try_build(&self) -> std::io::Result<(SnapshotMeta, SnapshotDir)> {
        let mut builder = self.store.clone().get_snapshot_builder().await;
        let built = RaftSnapshotBuilder::build_snapshot(&mut builder).await?;
        Ok((built.meta, built.snapshot))
    }

    async fn install(&self, (meta, dir): (SnapshotMeta, SnapshotDir)) -> std::io::Result<()> {
        self.store.clone().install_snapshot(&meta, dir).await
    }

    fn hash(&self) -> (i64, u64) {
        self.store.store().state_hash()
    }

    async fn membership(&self) -> StoredMembership {
        self.store.clone().applied_state().await.unwrap().1
    }

    fn dump(&self) -> Dump {
        dump(&self.store.store())
    }
}

/// Applies entries as Openraft hands them over.
async fn apply(store: &StateMachineStore, entries: impl IntoIterator<Item = Entry> + Send) {
    let entries: Vec<_> = entries.into_iter().map(|entry| Ok((entry, None))).collect();
    store.clone().apply(stream::iter(entries)).await.unwrap();
}

/// Every stored byte, by family.
type Dump = BTreeMap<&'static str, Vec<(Vec<u8>, Vec<u8>)>>;

const FAMILIES: [FamilySpec; 5] = [
    FamilySpec { name: "current", workload: Workload::Lookup },
    FamilySpec { name: "history", workload: Workload::Scan },
    FamilySpec { name: "changes", workload: Workload::Queue },
    FamilySpec { name: "dedup", workload: Workload::Lookup },
    FamilySpec { name: "meta", workload: Workload::Cells },
];

fn dump(store: &Store) -> Dump {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = dir.path().join("checkpoint");
    store.checkpoint(&checkpoint).unwrap();
    dump_folder(&checkpoint)
}

fn dump_folder(folder: &Path) -> Dump {
    let db = Db::open_read_only(folder, &FAMILIES, Journal::External, &small()).unwrap();
    let dump_family = |name| {
        let mut cursor = db.cursor(db.family(name), Scan::default());
        cursor.first().unwrap();
        let mut entries = Vec::new();
        while let Some((key, value)) = cursor.entry() {
            entries.push((key.to_vec(), value.to_vec()));
            cursor.step().unwrap();
        }
        (name, entries)
    };
    FAMILIES.iter().map(|family| dump_family(family.name)).collect()
}

/// Names the first difference, and not all that is equal.
#[track_caller]
fn assert_same(found: &Dump, expected: &Dump) {
    for (family, expected) in expected {
        let found = &found[family];
        for (one, other) in found.iter().zip(expected) {
            assert_eq!(one, other, "in the family {family}");
        }
        assert_eq!(found.len(), expected.len(), "entries of the family {family}");
    }
}

/// What lies in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Copies a folder with all below it.
fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &to.join(entry.file_name()))?;
        } else {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
