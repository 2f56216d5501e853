//! Lost power, as far as the state is concerned.
//!
//! The state is not synced on the write path: what a crash leaves of it is some
//! earlier batch, and the log gives the rest. Here folders are copied while
//! entries are applied, flushed and compacted, which leaves out what is in memory
//! only. What opens must be the state after one of its batches, whole: log id,
//! membership, revision, hash and every byte as a run of the same log gives them;
//! never less than the last flush promised, never more than the own log has on
//! disk; and the rest of the log, applied again, must lead to the same state.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use std::path::PathBuf;

use super::*;

/// Copies the data folder; again if files came or went meanwhile.
fn picture(from: &Path, to: &Path) {
    loop {
        let _ = fs::remove_dir_all(to);
        let before = listing(from);
        if copy_tree(from, to).is_ok() && listing(from) == before {
            let _ = fs::remove_file(to.join("LOCK"));
            return;
        }
    }
}

/// All files below a folder with their sizes.
fn listing(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                Ok(metadata) => drop(files.insert(entry.path(), metadata.len())),
                Err(_) => {}
            }
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_crashed_state_is_one_of_its_batches_and_the_log_leads_on_from_there() {
    const LAST: u64 = 5_000;
    let seed = seed_of("KVORUM_POWER_SEED");
    println!("KVORUM_POWER_SEED={seed}");
    let mut dice = Dice(seed);
    let node = Arc::new(Node::new());
    node.durable.send_replace(None);
    let (flushed, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let writer = {
        let (node, mut dice) = (Arc::clone(&node), Dice(dice.roll(u64::MAX)));
        let (flushed, ended) = (Arc::clone(&flushed), Arc::clone(&ended));
        tokio::spawn(async move {
            let mut index = 0;
            while index < LAST {
                index = (index + 1 + dice.roll(60)).min(LAST);
                node.durable.send_replace(Some(log_id(index)));
                node.apply_to(index).await;
                match dice.roll(12) {
                    0 => {
                        node.store.flush().unwrap();
                        flushed.store(index, Ordering::Release);
                    }
                    1 => flushed.store(node.build().await.0.last_log_id.unwrap().index, Ordering::Release),
                    _ => {}
                }
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            ended.store(true, Ordering::Release);
        })
    };
    let end = Node::new();
    let (reference, mut looks) = (Node::new(), Vec::new());
    let pictures = tempfile::tempdir().unwrap();
    for number in 0_u64.. {
        let is_over = ended.load(Ordering::Acquire);
        let copy = pictures.path().join(number.to_string()).join("data");
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        let promised = flushed.load(Ordering::Acquire);
        picture(&node.dir.path().join("data"), &copy);
        let at_most = node.durable.borrow().map_or(0, |durable| durable.index);
        looks.push((number, promised, at_most));
        if is_over {
            break;
        }
        tokio::time::sleep(Duration::from_millis(dice.roll(30))).await;
    }
    writer.await.unwrap();
    end.apply_to(LAST).await;
    assert_eq!(node.hash(), end.hash());

    let mut found_at = BTreeSet::new();
    for (number, promised, at_most) in looks {
        let data = DataDir::open(&pictures.path().join(number.to_string()).join("data"), NODE).unwrap();
        let durable = watch::Sender::new(Some(end_of_time()));
        let store =
            StateMachineStore::open(&data, &small(), durable.subscribe(), InflightBytes::new(usize::MAX))
                .unwrap();
        let found = store.applied_log_id();
        let index = found.map_or(0, |found| found.index);
        assert!((promised..=at_most).contains(&index), "{promised} ≤ {index} ≤ {at_most}");
        if let Some((meta, _)) = store.current_snapshot() {
            assert!(
                meta.last_log_id <= found,
                "the log was purged below a snapshot that the state is behind"
            );
        }
        if found.is_some() {
            reference.apply_to(index).await;
            assert_eq!((found, store.store().state_hash()), (Some(log_id(index)), reference.hash()));
            if found_at.insert(index) {
                assert_same(&dump(&store.store()), &reference.dump());
            }
        }
        if number % 4 == 0 {
            let next = found.map_or(0, |found| found.index + 1);
            apply(&store, (next..=LAST).map(entry)).await;
            assert_eq!(store.store().state_hash(), end.hash());
        }
    }
    println!("states found at {found_at:?}");
    assert!(found_at.len() > 1, "the run was too short to show anything");
}

/// The first hazard of Raft over two stores: a leader commits through its
/// followers, applies, and loses what its own log had not synced.
#[tokio::test]
async fn a_lost_log_tail_never_leaves_a_state_that_knows_more() {
    for synced in [0, 49, 130] {
        let node = Node::new();
        node.durable.send_replace(Some(log_id(synced)));
        let store = node.store.clone();
        let applying = tokio::spawn(async move {
            for first in (0..200).step_by(10) {
                apply(&store, (first..first + 10).map(entry)).await;
            }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        node.store.flush().unwrap();
        let copy = tempfile::tempdir().unwrap();
        picture(&node.dir.path().join("data"), &copy.path().join("data"));
        applying.abort();
        let crashed = Node::in_folder(copy);
        assert!(crashed.store.applied_log_id() <= Some(log_id(synced)));
        // Another leader puts other entries in the place of what was lost.
        let next = crashed.store.applied_log_id().map_or(0, |applied| applied.index + 1);
        let other = |index| Entry { log_id: LogId::new(LeaderId::new(9, 2), index), payload: Payload::Blank };
        apply(&crashed.store, (next..=synced).map(entry)).await;
        apply(&crashed.store, (synced + 1..220).map(other)).await;
        let expected = Node::new();
        apply(&expected.store, (0..=synced).map(entry)).await;
        apply(&expected.store, (synced + 1..220).map(other)).await;
        assert_same(&crashed.dump(), &expected.dump());
    }
}
