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
mod watched;

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
use crate::command::{
    Alarm, AlarmKind, Command, Compare, Condition, DeleteOp, Idempotency, Op, Proposal, PutOp, Relation,
    Target, Txn, Write,
};
use crate::engine::{Db, EngineOptions, FamilySpec, Journal, Scan, Workload};
use crate::inflight::InflightBytes;
use crate::keyspace::{KeyRange, RangeRequest};
use crate::mvcc::{Room, Store};
use crate::{Entry, LogId, Member, Membership, SnapshotMeta, StoredMembership};

const NODE: u64 = 1;

fn small() -> EngineOptions {
    EngineOptions { block_cache_bytes: 1 << 20, write_buffer_bytes: 1 << 19 }
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
    let lease = dice.roll(3) as i64;
    let value = Bytes::from(vec![dice.roll(256) as u8; dice.roll(400) as usize]);
    let write = match dice.roll(30) {
        0..=4 => Write::Delete { key },
        5 | 6 => Write::LeaseGrant { id: 1 + lease, ttl: dice.roll(9) as i64 },
        7 => Write::LeaseRevoke { id: 1 + lease },
        8 => Write::LeaseRenew { ids: vec![1, 2, 3] },
        9 => {
            let term = 1 + index / TERM_ENTRIES - dice.roll(2).min(index / TERM_ENTRIES);
            Write::LeaseTick { term, clock: 20 * index, expired: vec![1, 2, 3] }
        }
        10 if dice.roll(4) == 0 => Write::Compact { revision: dice.roll(index) as i64 },
        10..=14 => Write::Txn(txn(key, value, lease, dice)),
        _ => Write::Put { key, value, lease },
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

/// Compares one key, and then sets it beside a range that is removed, or reads.
fn txn(key: Bytes, value: Bytes, lease: i64, dice: &mut Dice) -> Txn {
    let start = Bytes::from(format!("key {:02}", dice.roll(40)));
    let removed = KeyRange::Between { end: [start.as_ref(), b"~"].concat().into(), start };
    let put = PutOp { key: key.clone(), value: Some(value), lease: Some(lease), want_previous: true };
    let past = RangeRequest { at: Some(dice.roll(60) as i64), ..RangeRequest::of(KeyRange::all()) };
    let read = if dice.roll(3) == 0 { past } else { RangeRequest::of(KeyRange::all()) };
    Txn {
        compares: vec![Compare {
            keys: KeyRange::One(key),
            target: Target::Version(dice.roll(4) as i64),
            relation: Relation::Greater,
        }],
        success: vec![
            Op::Put(put),
            Op::Delete(DeleteOp { keys: removed, want_previous: false }),
            Op::Put(PutOp {
                key: "counter".into(),
                value: Some("+".into()),
                lease: Some(0),
                want_previous: false,
            }),
        ],
        failure: vec![Op::Range(read.clone()), Op::Txn(Txn::of(Op::Range(read)))],
    }
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
        let store =
            StateMachineStore::open(&data, &small(), durable.subscribe(), InflightBytes::new(usize::MAX))
                .unwrap();
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

const FAMILIES: [FamilySpec; 7] = [
    FamilySpec { name: "current", workload: Workload::Lookup },
    FamilySpec { name: "history", workload: Workload::Scan },
    FamilySpec { name: "changes", workload: Workload::Queue },
    FamilySpec { name: "dedup", workload: Workload::Lookup },
    FamilySpec { name: "leases", workload: Workload::Lookup },
    FamilySpec { name: "lease_keys", workload: Workload::Scan },
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
    let mut dump: Dump = FAMILIES.iter().map(|family| dump_family(family.name)).collect();
    leave_out_compacted(&mut dump);
    dump
}

/// Leaves out what only compacted revisions needed: when that leaves the disk is
/// each replica's own affair.
fn leave_out_compacted(dump: &mut Dump) {
    let number = |bytes: &[u8]| i64::from_be_bytes(bytes.try_into().unwrap());
    let (_, head) = dump["meta"].iter().find(|(name, _)| name == b"head").unwrap();
    let compacted = i64::from_le_bytes(head[16..24].try_into().unwrap());
    let history = dump.get_mut("history").unwrap();
    history.retain(|(key, _)| number(&key[key.len() - 8..]) > compacted);
    dump.get_mut("changes").unwrap().retain(|(key, _)| number(&key[..8]) >= compacted);
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
