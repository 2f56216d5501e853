//! Snapshots on one node: what they cover, how long they live, how they are
//! installed, and what is left when that fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;

/// A snapshot of the made-up log up to `last`, and the node that keeps it.
async fn snapshot_at(last: u64) -> (Node, (SnapshotMeta, SnapshotDir)) {
    let node = Node::new();
    node.apply_to(last).await;
    let built = node.build().await;
    (node, built)
}

fn hash_in(dir: &SnapshotDir) -> (i64, u64) {
    Store::open_read_only(dir.path(), &small()).unwrap().state_hash()
}

fn snapshots(node: &Node) -> Vec<String> {
    names(node.store.snapshots_dir())
}

fn state_folders(node: &Node) -> Vec<String> {
    names(&node.data.state())
}

/// Waits until nothing else lies in the state's folder: superseded states go in the background.
#[track_caller]
fn assert_state_folders(node: &Node, expected: &[&str]) {
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while state_folders(node) != expected && std::time::Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(state_folders(node), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn what_a_snapshot_says_is_what_it_holds_while_writes_go_on() {
    let node = Arc::new(Node::new());
    let (reference, ended) = (Node::new(), Arc::new(AtomicBool::new(false)));
    // The reference has to follow, so the writer runs ahead of it only so far.
    let bound = Arc::new(AtomicU64::new(500));
    let writer = {
        let (node, ended, bound) = (Arc::clone(&node), Arc::clone(&ended), Arc::clone(&bound));
        tokio::spawn(async move {
            let mut index = 0;
            while !ended.load(Ordering::Relaxed) {
                if index < bound.load(Ordering::Relaxed) {
                    index += 7;
                    node.apply_to(index).await;
                } else {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        })
    };
    let mut applied = node.store.watch_applied();
    let mut last = None;
    for _ in 0..25 {
        let before = node.store.applied_log_id();
        let (meta, dir) = node.build().await;
        assert!(meta.last_log_id >= before && meta.last_log_id >= last);
        last = meta.last_log_id;
        let Some(at) = last else { continue };
        reference.apply_to(at.index).await;
        assert_eq!(hash_in(&dir), reference.hash(), "at {at}");
        assert_eq!(meta.last_membership, reference.membership().await);
        assert_eq!(node.store.current_snapshot().unwrap().0, meta);
        assert_same(&dump_folder(dir.path()), &reference.dump());
        bound.store(at.index + 500, Ordering::Relaxed);
        applied.wait_for(|applied| *applied > at.index + 50).await.unwrap();
    }
    ended.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    assert!(last.is_some_and(|last| last.index > 500));
}

#[tokio::test]
async fn a_snapshot_makes_the_state_below_it_durable() {
    let (node, (meta, _)) = snapshot_at(100).await;
    node.apply_to(150).await;
    let durable = node.store.store().durable_meta("applied").unwrap();
    let other = snapshot_at(100).await;
    // What a crash would leave now is what the snapshot covers, at least: the log
    // may be purged up to there (I5).
    assert_eq!(durable, other.0.store.store().meta("applied").unwrap());
    assert_eq!(meta, other.1.0);
}

#[tokio::test]
async fn nothing_new_is_no_new_snapshot() {
    let (node, (meta, dir)) = snapshot_at(10).await;
    let again = node.build().await;
    assert_eq!((again.0, again.1.path()), (meta, dir.path()));
    assert_eq!(node.store.counters().snapshots_built.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_snapshot_is_put_off_while_the_current_one_is_being_sent() {
    let (node, (_, being_sent)) = snapshot_at(10).await;
    node.apply_to(20).await;
    let mut store = node.store.clone();
    assert!(store.try_create_snapshot_builder(false).await.is_none());
    // Openraft forces one when it has none to send.
    assert!(store.try_create_snapshot_builder(true).await.is_some());
    drop(being_sent);
    assert!(store.try_create_snapshot_builder(false).await.is_some());
}

#[tokio::test]
async fn a_superseded_snapshot_goes_with_its_last_user() {
    let (node, (_, first)) = snapshot_at(10).await;
    let also_first = first.clone();
    let path = first.path().to_owned();
    let files = first.files().unwrap();
    assert!(files.iter().any(|(name, _)| name == "CURRENT") && files.is_sorted());
    node.apply_to(20).await;
    let (_, second) = node.build().await;
    drop(first);
    assert_eq!(also_first.files().unwrap(), files);
    assert_eq!(also_first.meta().unwrap().last_log_id, Some(log_id(10)));
    assert_eq!(snapshots(&node).len(), 2);
    drop(also_first);
    assert!(!path.exists());
    assert_eq!(snapshots(&node), [second.id()]);
    drop(second);
    assert_eq!(snapshots(&node).len(), 1, "the current one stays without users");
    assert_eq!(node.restart().store.current_snapshot().unwrap().0.last_log_id, Some(log_id(20)));
}

#[tokio::test]
async fn names_repeat_neither_within_a_run_nor_after_it() {
    // Without entries, and with the entry at index zero: both names begin alike.
    let node = Node::new();
    let (meta, _) = node.build().await;
    assert_eq!(meta.last_log_id, None);
    let mut node = node.restart();
    node.apply_to(0).await;
    for _ in 0..3 {
        let (meta, _) = node.build().await;
        assert_eq!(meta.last_log_id, Some(log_id(0)));
        node = node.restart();
        node.install(node.build().await).await.unwrap();
    }
    assert_eq!(snapshots(&node).len(), 1);
}

#[tokio::test]
async fn an_installation_replaces_all_of_the_state_and_can_be_passed_on() {
    let (source, built) = snapshot_at(400).await;
    let node = Node::new();
    node.apply_to(120).await;
    node.build().await;
    let mut applied = node.store.watch_applied();
    node.install(built.clone()).await.unwrap();

    assert_eq!(*applied.borrow_and_update(), 400);
    assert_eq!((node.store.applied_log_id(), node.hash()), (Some(log_id(400)), source.hash()));
    assert_eq!(node.membership().await, source.membership().await);
    assert_same(&node.dump(), &source.dump());
    assert_state_folders(&node, &["CURRENT", "gen-000002"]);
    let (meta, dir) = node.build().await;
    assert_eq!((&meta, snapshots(&node)), (&built.0, vec![dir.id()]));
    assert_eq!(hash_in(&dir), source.hash());
    assert!(built.1.path().exists(), "the sender's files are not touched");

    node.apply_to(500).await;
    source.apply_to(500).await;
    assert_same(&node.dump(), &source.dump());
    let node = node.restart();
    assert_eq!(node.store.applied_log_id(), Some(log_id(500)));
    assert_eq!(node.store.current_snapshot().unwrap().0, meta);
    assert_same(&node.dump(), &source.dump());
}

#[tokio::test]
async fn a_snapshot_carries_the_raised_alarms() {
    let alarm = Alarm { kind: AlarmKind::NoSpace, member: 3 };
    let Alarm { kind, member } = alarm;
    let set = |index, raised| normal(index, &Command::of(Write::Alarm { kind, member, raised }));
    let source = Node::new();
    source.apply_to(20).await;
    apply(&source.store, [set(21, true)]).await;

    let node = Node::new();
    node.install(source.build().await).await.unwrap();
    let hash = node.hash();
    for node in [&node, &source] {
        assert_eq!(node.store.store().alarms(), [alarm]);
        apply(&node.store, [normal(22, &Command::put("k", "v"))]).await;
        assert_eq!(node.hash(), hash, "nothing is stored");
    }
    assert_same(&node.dump(), &source.dump());

    let node = node.restart();
    assert_eq!(node.store.store().alarms(), [alarm]);
    apply(&node.store, [set(23, false), normal(24, &Command::put("k", "v"))]).await;
    assert_eq!((node.store.store().alarms(), node.hash().0), (Vec::new(), hash.0 + 1));
}

#[tokio::test]
async fn readers_keep_the_state_that_they_hold_and_its_files_go_after_them() {
    let node = Node::new();
    node.apply_to(100).await;
    let old = node.store.store();
    let (hash, page) = (old.state_hash(), old.changes(1, usize::MAX).unwrap());
    let (_source, built) = snapshot_at(400).await;
    node.install(built).await.unwrap();
    assert_ne!(node.hash(), hash);
    assert_eq!(old.state_hash(), hash);
    assert_eq!(old.changes(1, usize::MAX).unwrap(), page);
    assert_eq!(state_folders(&node), ["CURRENT", "gen-000001", "gen-000002"]);
    drop(old);
    assert_state_folders(&node, &["CURRENT", "gen-000002"]);
}

#[tokio::test]
async fn a_node_that_closes_leaves_no_state_half_removed() {
    let (_source, built) = snapshot_at(400).await;
    let node = Node::new();
    node.apply_to(100).await;
    node.install(built).await.unwrap();
    let state = node.data.state();
    let dir = node.close();
    assert_eq!(names(&state), ["CURRENT", "gen-000002"]);
    assert_eq!(Node::in_folder(dir).store.applied_log_id(), Some(log_id(400)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn readers_see_one_state_or_the_other_while_it_is_replaced() {
    const ENDS: [u64; 5] = [0, 100, 300, 600, 900];
    let node = Arc::new(Node::new());
    node.apply_to(ENDS[0]).await;
    let mut sources = Vec::new();
    for last in ENDS.into_iter().skip(1) {
        sources.push(snapshot_at(last).await);
    }
    let known: Vec<_> = std::iter::once(node.hash()).chain(sources.iter().map(|(at, _)| at.hash())).collect();
    let (reads, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (node, known) = (Arc::clone(&node), known.clone());
            let (reads, ended) = (Arc::clone(&reads), Arc::clone(&ended));
            tokio::task::spawn_blocking(move || {
                let mut seen = 0;
                while !ended.load(Ordering::Relaxed) {
                    let applied = node.store.applied_log_id();
                    let store = node.store.store();
                    let (revision, hash) = store.state_hash();
                    let at = known.iter().position(|state| *state == (revision, hash)).unwrap();
                    assert!(at >= seen, "the state went back");
                    seen = at;
                    if at > 0 {
                        assert!(
                            applied <= Some(log_id(ENDS[at])),
                            "what is applied is said before it can be read"
                        );
                    }
                    let oldest = store.compacted_revision().max(2);
                    let changes = store.changes(oldest, usize::MAX).unwrap();
                    assert_eq!(changes.last().map_or(1, |change| change.main), revision);
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for (_, built) in &sources {
        let before = reads.load(Ordering::Relaxed);
        while reads.load(Ordering::Relaxed) < before + 4 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        node.install(built.clone()).await.unwrap();
    }
    ended.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
    assert_state_folders(&node, &["CURRENT", "gen-000005"]);
}

#[tokio::test]
async fn a_snapshot_that_is_not_what_it_was_announced_as_is_refused() {
    let (_source, (meta, dir)) = snapshot_at(400).await;
    let node = Node::new();
    node.apply_to(120).await;
    let (hash, names_before) = (node.hash(), (state_folders(&node), snapshots(&node)));
    let other_log_id = SnapshotMeta { last_log_id: Some(log_id(401)), ..meta.clone() };
    let nothing = SnapshotMeta { last_log_id: None, ..meta.clone() };
    let other_membership = SnapshotMeta {
        last_membership: StoredMembership::new(Some(log_id(357)), membership(0)),
        ..meta.clone()
    };
    for announced in [other_log_id, nothing, other_membership] {
        let refused = node.install((announced, dir.clone())).await.unwrap_err();
        assert!(refused.to_string().contains("announced"), "{refused}");
        assert_eq!((node.hash(), node.store.applied_log_id()), (hash, Some(log_id(120))));
        let folders: Vec<_> = names_before.0.iter().map(String::as_str).collect();
        assert_state_folders(&node, &folders);
        assert_eq!(snapshots(&node), names_before.1);
    }
    node.apply_to(130).await;
    let node = node.restart();
    assert_eq!(node.store.applied_log_id(), Some(log_id(130)));
    node.install((meta, dir)).await.unwrap();
}

#[tokio::test]
async fn an_installation_that_fails_half_way_leaves_the_old_state_and_can_be_tried_again() {
    let (source, (meta, dir)) = snapshot_at(400).await;
    let node = Node::new();
    node.apply_to(120).await;
    let hash = node.hash();

    // A damaged copy, as a failing disk gives it.
    for damage in ["CURRENT", "MANIFEST", ".sst"] {
        let copy = node.dir.path().join("copy");
        copy_tree(dir.path(), &copy).unwrap();
        let damaged = names(&copy).into_iter().find(|name| name.contains(damage)).unwrap();
        fs::remove_file(copy.join(damaged)).unwrap();
        assert!(node.install((meta.clone(), SnapshotDir::kept(copy.clone()))).await.is_err(), "{damage}");
        assert_eq!(node.hash(), hash);
        assert_state_folders(&node, &["CURRENT", "gen-000001"]);
        fs::remove_dir_all(copy).unwrap();
    }
    // The snapshot that it must be able to pass on can't be built.
    let path = node.store.snapshots_dir().to_owned();
    fs::rename(&path, path.with_extension("away")).unwrap();
    assert!(node.install((meta.clone(), dir.clone())).await.is_err());
    assert_eq!(node.hash(), hash);
    assert_state_folders(&node, &["CURRENT", "gen-000001"]);
    fs::rename(path.with_extension("away"), &path).unwrap();
    // The switch itself fails: then nobody knows what a restart will find, and the
    // new state's folder must stay.
    fs::create_dir(node.data.state().join("CURRENT.new")).unwrap();
    assert!(node.install((meta.clone(), dir.clone())).await.is_err());
    assert_eq!(node.hash(), hash);
    assert_state_folders(&node, &["CURRENT", "CURRENT.new", "gen-000001", "gen-000002"]);
    fs::remove_dir(node.data.state().join("CURRENT.new")).unwrap();

    node.install((meta.clone(), dir)).await.unwrap();
    assert_eq!(node.hash(), source.hash());
    assert_eq!(fs::read_to_string(node.data.state().join("CURRENT")).unwrap(), "gen-000003");
    let node = node.restart();
    assert_eq!((node.hash(), node.store.current_snapshot().unwrap().0), (source.hash(), meta));
    assert_state_folders(&node, &["CURRENT", "gen-000003"]);
}

#[tokio::test]
async fn a_crash_before_the_switch_leaves_the_old_state_and_a_snapshot_to_install() {
    let (source, (meta, dir)) = snapshot_at(400).await;
    let node = Node::new();
    node.apply_to(120).await;
    let hash = node.hash();
    fs::create_dir(node.data.state().join("CURRENT.new")).unwrap();
    assert!(node.install((meta.clone(), dir)).await.is_err());
    fs::remove_dir(node.data.state().join("CURRENT.new")).unwrap();

    let node = node.restart();
    assert_eq!(node.hash(), hash);
    // As Openraft does at a start when the snapshot is ahead of the state.
    let current = node.store.clone().get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(current.meta, meta);
    node.install((current.meta, current.snapshot)).await.unwrap();
    assert_eq!((node.hash(), node.store.current_snapshot().unwrap().0), (source.hash(), meta));
    assert_state_folders(&node, &["CURRENT", "gen-000002"]);
    assert_eq!(snapshots(&node).len(), 1);
}

#[tokio::test]
async fn a_failed_build_leaves_nothing_and_the_next_one_works() {
    let node = Node::new();
    node.apply_to(10).await;
    let path = node.store.snapshots_dir().to_owned();
    fs::rename(&path, path.with_extension("away")).unwrap();
    assert!(node.try_build().await.is_err());
    fs::rename(path.with_extension("away"), &path).unwrap();
    assert!(snapshots(&node).is_empty() && node.store.current_snapshot().is_none());
    node.apply_to(20).await;
    assert_eq!(node.build().await.0.last_log_id, Some(log_id(20)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn builds_and_installations_race_and_the_newest_snapshot_stays() {
    let mut sources = Vec::new();
    for last in [200, 400, 600, 800] {
        sources.push(snapshot_at(last).await);
    }
    for round in 0..6 {
        let node = Arc::new(Node::new());
        node.apply_to(100).await;
        let ended = Arc::new(AtomicBool::new(false));
        let builder = {
            let (node, ended) = (Arc::clone(&node), Arc::clone(&ended));
            tokio::spawn(async move {
                let mut last = None;
                while !ended.load(Ordering::Relaxed) {
                    let (meta, dir) = node.build().await;
                    assert!(meta.last_log_id >= last, "an older snapshot replaced a newer one");
                    assert_eq!(dir.meta().unwrap(), meta);
                    last = meta.last_log_id;
                }
            })
        };
        for (source, built) in &sources {
            tokio::time::sleep(Duration::from_millis(round)).await;
            node.install(built.clone()).await.unwrap();
            assert_eq!(node.hash(), source.hash());
            assert!(node.store.current_snapshot().unwrap().0.last_log_id >= built.0.last_log_id);
            node.apply_to(built.0.last_log_id.unwrap().index + 50).await;
        }
        ended.store(true, Ordering::Relaxed);
        builder.await.unwrap();
        let (meta, dir) = node.build().await;
        assert_eq!(meta.last_log_id, Some(log_id(850)));
        assert_eq!(hash_in(&dir), node.hash());
        assert_state_folders(&node, &["CURRENT", "gen-000005"]);
        assert_eq!(snapshots(&node).len(), 1);
    }
}

#[tokio::test]
async fn a_snapshot_that_can_t_be_read_at_a_start_is_dropped_and_no_older_one_takes_its_place() {
    let damages: [&dyn Fn(&Path); 4] = [
        &|dir| fs::remove_file(dir.join("CURRENT")).unwrap(),
        &|dir| fs::write(dir.join("CURRENT"), "nonsense").unwrap(),
        &|dir| {
            let manifest = names(dir).into_iter().find(|name| name.starts_with("MANIFEST")).unwrap();
            fs::write(dir.join(manifest), b"nonsense").unwrap();
        },
        &|dir| {
            let tables: Vec<_> = names(dir)
                .into_iter()
                .filter(|name| Path::new(name).extension().is_some_and(|end| end == "sst"))
                .collect();
            for table in tables {
                fs::remove_file(dir.join(table)).unwrap();
            }
        },
    ];
    for damage in damages {
        let (node, (_, first)) = snapshot_at(10).await;
        node.apply_to(20).await;
        let (_, second) = node.build().await;
        let hash = node.hash();
        // The first is still being sent when the process dies.
        let older = first.path().to_owned();
        copy_tree(&older, &older.with_extension("kept")).unwrap();
        let newest = second.path().to_owned();
        drop((first, second));
        fs::rename(older.with_extension("kept"), &older).unwrap();
        let dir = node.close();
        damage(&newest);
        let node = Node::in_folder(dir);
        assert!(node.store.current_snapshot().is_none());
        assert!(snapshots(&node).is_empty());
        assert_eq!(node.hash(), hash);
        assert_eq!(node.build().await.0.last_log_id, Some(log_id(20)));
    }
}
