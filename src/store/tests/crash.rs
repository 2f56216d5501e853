//! Killed processes.
//!
//! The test starts itself again as a child that is a whole node but for Raft: it
//! appends entries of the made-up log to a real log store, applies them once they
//! are on disk, flushes, builds snapshots and purges the log behind them, and now
//! and then installs a snapshot that is ahead of it, all as Raft would ask for
//! it. It says what it is about to install, and which entries are applied and
//! on disk, with the revision and the hash after them. The parent kills it with
//! SIGKILL at a random moment and looks at a copy of its folder:
//!
//! - the log holds every entry that was confirmed, or the state is beyond it;
//! - the state is that of the made-up log at its log id, to the byte, and not
//!   ahead of the log unless by an installed snapshot (I4, I6);
//! - the log is not purged beyond the state, nor beyond the snapshot (I5);
//! - the snapshot holds the state that it says it covers;
//! - what the log holds beyond the state leads to every confirmed hash;
//! - nothing else lies around after the start.
//!
//! The next child goes on with the folder as the kill left it, so that damage
//! would pile up. `KVORUM_CRASH_ROUNDS` (20) and `KVORUM_CRASH_SEED` choose the run.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Command as Process, Stdio};
use std::sync::Arc;
use std::thread;

use openraft::RaftLogReader as _;
use openraft::storage::{IOFlushed, RaftLogStorage as _, RaftLogStorageExt as _};

use super::*;
use crate::TypeConfig;
use crate::store::{LogOptions, RocksLogStore};

const FOLDER: &str = "KVORUM_STATE_CRASH_FOLDER";
const SEED: &str = "KVORUM_CRASH_SEED";

fn open_log(data: &DataDir) -> RocksLogStore {
    let options = LogOptions { cache_bytes: 50_000, write_buffer_bytes: 128 * 1024, ..LogOptions::default() };
    let folder = data.log();
    RocksLogStore::open(&folder, options, Arc::new(|error| panic!("the log failed: {error}"))).unwrap()
}

fn next_index(log_id: Option<LogId>) -> u64 {
    log_id.map_or(0, |log_id| log_id.index + 1)
}

/// The node of the child.
struct Child {
    log: RocksLogStore,
    store: StateMachineStore,
    /// What it receives snapshots from; survives the kills as well.
    donor: StateMachineStore,
    dice: Dice,
}

impl Child {
    fn say_applied(&self) {
        let (revision, hash) = self.store.store().state_hash();
        println!("applied {} {revision} {hash}", next_index(self.store.applied_log_id()));
    }

    async fn last_log_id(&self) -> Option<LogId> {
        self.log.clone().get_log_state().await.unwrap().last_log_id
    }

    /// Applies what the log holds beyond the state, as at a start.
    async fn replay(&self) {
        let (first, end) = (next_index(self.store.applied_log_id()), next_index(self.last_log_id().await));
        if first < end {
            let entries = self.log.clone().get_log_reader().await.try_get_log_entries(first..end).await;
            apply(&self.store, entries.unwrap()).await;
        }
        self.say_applied();
    }

    /// Cleans up after an installation whose purge did not happen any more.
    async fn close_hole(&self) {
        let applied = self.store.applied_log_id();
        if self.last_log_id().await < applied {
            self.log.clone().purge(applied.unwrap()).await.unwrap();
        }
    }

    async fn write(&mut self) {
        let first = next_index(self.last_log_id().await);
        let last = first + self.dice.roll(80);
        // Sometimes the disk is the last to know, and apply has to wait for it.
        if self.dice.roll(2) == 0 {
            self.log
                .clone()
                .append((first..=last).map(entry), IOFlushed::<TypeConfig>::noop())
                .await
                .unwrap();
        } else {
            self.log.clone().blocking_append((first..=last).map(entry)).await.unwrap();
        }
        apply(&self.store, (first..=last).map(entry)).await;
        self.say_applied();
    }

    async fn install(&mut self) {
        let ahead = next_index(self.store.applied_log_id()) + 20 + self.dice.roll(200);
        let first = next_index(self.donor.applied_log_id());
        apply(&self.donor, (first..=ahead).map(entry)).await;
        let built = RaftSnapshotBuilder::build_snapshot(&mut self.donor).await.unwrap();
        let end = built.meta.last_log_id.unwrap();
        println!("install {}", end.index);
        self.store.install_snapshot(&built.meta, built.snapshot).await.unwrap();
        self.say_applied();
        self.log.clone().purge(end).await.unwrap();
    }

    async fn compact(&self) {
        let mut builder = self.store.clone();
        let built = RaftSnapshotBuilder::build_snapshot(&mut builder).await.unwrap();
        self.log.clone().purge(built.meta.last_log_id.unwrap()).await.unwrap();
    }
}

/// The child; does nothing when run as a test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_of_the_crash_test() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let folder = Path::new(&folder);
    let data = DataDir::open(&folder.join("data"), NODE).unwrap();
    let donor_data = DataDir::open(&folder.join("donor"), NODE).unwrap();
    let durable = watch::Sender::new(Some(end_of_time()));
    let log = open_log(&data);
    let store =
        StateMachineStore::open(&data, &small(), log.durable(), InflightBytes::new(usize::MAX)).unwrap();
    let donor =
        StateMachineStore::open(&donor_data, &small(), durable.subscribe(), InflightBytes::new(usize::MAX))
            .unwrap();
    store.check_log().unwrap();
    let mut child = Child { log, store, donor, dice: Dice(seed_of(SEED)) };
    println!("\nopen");
    if let Some(snapshot) = child.store.get_current_snapshot().await.unwrap()
        && snapshot.meta.last_log_id > child.store.applied_log_id()
    {
        // A kill came between the new snapshot and the switch to its state.
        child.store.install_snapshot(&snapshot.meta, snapshot.snapshot).await.unwrap();
    }
    child.close_hole().await;
    child.replay().await;
    let mut compacting: Option<tokio::task::JoinHandle<()>> = None;
    loop {
        match child.dice.roll(16) {
            0 => child.store.flush().unwrap(),
            1 | 2 if compacting.as_ref().is_none_or(tokio::task::JoinHandle::is_finished) => {
                let (log, store, donor) = (child.log.clone(), child.store.clone(), child.donor.clone());
                let task = Child { log, store, donor, dice: Dice(0) };
                compacting = Some(tokio::spawn(async move { task.compact().await }));
            }
            3 | 4 => child.install().await,
            _ => child.write().await,
        }
    }
}

/// What the child said.
#[derive(Default)]
struct Said {
    began: bool,
    /// Revision and hash after that many entries.
    applied: BTreeMap<u64, (i64, u64)>,
    /// Indexes of snapshots that it began to install.
    installs: BTreeSet<u64>,
}

fn run_and_kill(folder: &Path, seed: u64, after: Duration) -> Said {
    let mut child = Process::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::crash::child_of_the_crash_test", "--nocapture"])
        .env(FOLDER, folder)
        .env(SEED, seed.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let (opened, child_opened) = std::sync::mpsc::sync_channel(1);
    let listener = thread::Builder::new()
        .spawn(move || {
            let mut said = Said::default();
            for line in output.lines().map(Result::unwrap) {
                let words: Vec<_> = line.split(' ').collect();
                match words[..] {
                    ["open"] => {
                        said.began = true;
                        let _ = opened.send(());
                    }
                    ["applied", count, revision, hash] => {
                        let state = (revision.parse().unwrap(), hash.parse().unwrap());
                        said.applied.insert(count.parse().unwrap(), state);
                    }
                    ["install", index] => drop(said.installs.insert(index.parse().unwrap())),
                    _ => {}
                }
            }
            said
        })
        .unwrap();
    // A child that dies at once ends its output, and the wait with it.
    let _ = child_opened.recv_timeout(Duration::from_secs(60));
    thread::sleep(after);
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert!(!status.success(), "the child ended by itself");
    listener.join().unwrap()
}

/// The states of the made-up log, worked out as far as anyone asked.
struct Chain {
    node: Node,
    /// Revision and hash after that many entries.
    states: Vec<(i64, u64)>,
}

impl Chain {
    fn new() -> Self {
        let node = Node::new();
        let states = vec![node.hash()];
        Self { node, states }
    }

    async fn after(&mut self, entries: u64) -> (i64, u64) {
        while (self.states.len() as u64) <= entries {
            self.node.apply_to(self.states.len() as u64 - 1).await;
            self.states.push(self.node.hash());
        }
        self.states[entries as usize]
    }
}

/// Looks at what a kill left, and gives how many entries the state and the log had.
async fn look(
    copy: &Path,
    said: &Said,
    installs: &BTreeSet<u64>,
    chain: &mut Chain,
    at: &Node,
) -> (u64, u64) {
    let data = DataDir::open(&copy.join("data"), NODE).unwrap();
    let log = open_log(&data);
    let store =
        StateMachineStore::open(&data, &small(), log.durable(), InflightBytes::new(usize::MAX)).unwrap();
    store.check_log().unwrap();
    let state = log.clone().get_log_state().await.unwrap();
    let (applied, end) = (store.applied_log_id(), next_index(state.last_log_id));
    let found = next_index(applied);

    let hash = store.store().state_hash();
    assert_eq!(hash, chain.after(found).await, "the state is not that of {applied:?}");
    if let Some(applied) = applied {
        at.apply_to(applied.index).await;
        assert_same(&dump(&store.store()), &at.dump());
        assert_eq!(store.clone().applied_state().await.unwrap().1, at.membership().await);
    }
    assert!(found <= end || installs.contains(&(found - 1)), "the state is ahead: {found} of {end}");
    assert!(state.last_purged_log_id <= applied, "the log was purged beyond the state");
    let snapshot = store.current_snapshot();
    let covers = snapshot.as_ref().and_then(|(meta, _)| meta.last_log_id);
    assert!(state.last_purged_log_id <= covers, "the log was purged beyond the snapshot");
    if let Some((_, name)) = &snapshot {
        let snapshot = Store::open_read_only(&data.snapshots().join(name), &small()).unwrap();
        assert_eq!(snapshot.state_hash(), chain.after(next_index(covers)).await);
    }
    assert_eq!(names(&data.snapshots()).len(), usize::from(snapshot.is_some()));
    let generations = names(&data.state());
    assert_eq!(generations.iter().filter(|name| name.starts_with("gen-")).count(), 1, "{generations:?}");

    for (count, state) in &said.applied {
        assert_eq!(*state, chain.after(*count).await, "it answered what never was");
        // The snapshot counts: it is installed before anything else happens.
        assert!(*count <= end.max(found).max(next_index(covers)), "entry {count} was confirmed and is lost");
    }
    if found < end {
        let entries = log.clone().get_log_reader().await.try_get_log_entries(found..end).await.unwrap();
        apply(&store, entries).await;
        assert_eq!(store.store().state_hash(), chain.after(end).await);
    }
    log.close().await.unwrap();
    (found, end)
}

#[tokio::test]
async fn killed_at_any_moment_log_state_and_snapshot_belong_together() {
    if std::env::var(FOLDER).is_ok() {
        return;
    }
    let rounds = std::env::var("KVORUM_CRASH_ROUNDS").map_or(20, |rounds| rounds.parse().unwrap());
    let seed = seed_of(SEED);
    println!("{SEED}={seed}");
    let mut dice = Dice(seed);
    let dir = tempfile::tempdir().unwrap();
    let (folder, copy) = (dir.path().join("node"), dir.path().join("copy"));
    let (mut chain, mut at) = (Chain::new(), Node::new());
    let mut totals: HashMap<&str, u64> = HashMap::new();
    let mut last_found = 0;
    // Of all rounds: the next child may die before it has closed the hole.
    let mut installs = BTreeSet::new();
    for round in 0..rounds {
        let seed = dice.roll(u64::MAX);
        let mut said = run_and_kill(&folder, seed, Duration::from_millis(dice.roll(300)));
        assert!(said.began, "round {round}: the child did not start");
        println!("round {round}, child seed {seed}: {} applies", said.applied.len());
        *totals.entry("installations").or_default() += said.installs.len() as u64;
        installs.append(&mut said.installs);
        let _ = fs::remove_dir_all(&copy);
        copy_tree(&folder, &copy).unwrap();
        if at.store.applied_log_id().is_some_and(|applied| applied.index + 1 > last_found) {
            at = Node::new();
        }
        let (found, end) = look(&copy, &said, &installs, &mut chain, &at).await;
        assert!(found >= last_found, "round {round}: what was durable went back");
        last_found = found;
        *totals.entry("applies").or_default() += said.applied.len() as u64;
        *totals.entry("behind their log").or_default() += u64::from(found < end);
        *totals.entry("ahead of their log").or_default() += u64::from(found > end);
    }
    println!("{rounds} rounds, {last_found} entries: {totals:?}");
}
