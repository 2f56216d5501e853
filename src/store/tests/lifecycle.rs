//! What a state is after a restart, and which folders a start refuses.

use super::*;
use crate::error::StorageError;

#[tokio::test]
async fn everything_survives_a_restart() {
    let node = Node::new();
    node.apply_to(700).await;
    let (hash, bytes, membership) = (node.hash(), node.dump(), node.membership().await);
    assert_eq!(membership.log_id(), &Some(log_id(657)));
    let node = node.restart();
    assert_eq!(node.store.applied_log_id(), Some(log_id(700)));
    assert_eq!(*node.store.watch_applied().borrow(), 700);
    assert_eq!((node.hash(), node.membership().await), (hash, membership));
    assert_same(&node.dump(), &bytes);
    // And the log goes on as if nothing had been.
    let other = Node::new();
    other.apply_to(900).await;
    node.apply_to(900).await;
    assert_same(&node.dump(), &other.dump());
}

#[tokio::test]
async fn an_empty_state_knows_nothing_and_stays_so() {
    let node = Node::new().restart();
    assert_eq!(node.store.applied_log_id(), None);
    assert_eq!(node.membership().await, StoredMembership::default());
    assert_eq!(node.hash(), (1, 0));
    assert!(node.store.current_snapshot().is_none());
    assert!(!node.store.knows_node(1));
}

#[tokio::test]
async fn nodes_that_left_are_remembered_across_restarts_and_snapshots() {
    let knows = |node: &Node| {
        let members: Vec<_> = (0..200).filter(|id| node.store.knows_node(*id)).collect();
        members
    };
    let node = Node::new();
    node.apply_to(200).await;
    // Nodes 100 to 103 were learners one after the other; the last is one still.
    assert_eq!(knows(&node), [1, 2, 3, 100, 101, 102, 103]);
    assert_eq!(node.membership().await.nodes().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2, 3, 103]);
    let node = node.restart();
    assert_eq!(knows(&node), [1, 2, 3, 100, 101, 102, 103]);
    let other = Node::new();
    other.install(node.build().await).await.unwrap();
    assert_eq!(knows(&other), [1, 2, 3, 100, 101, 102, 103]);
    other.apply_to(210).await;
    let other = other.restart();
    assert_eq!(knows(&other), [1, 2, 3, 100, 101, 102, 103, 104]);
}

#[tokio::test]
async fn idempotency_keys_survive_restarts_and_snapshots() {
    let command = |now: u64| Command {
        idempotency: Some(Idempotency { token: "t".into(), proposed_at_ms: now, expires_at_ms: now + 1000 }),
        ..Command::put("k", format!("{}", now / 1_000_000))
    };
    let node = Node::new();
    apply(&node.store, [normal(0, &command(5))]).await;
    let hash = node.hash();
    let node = node.restart();
    apply(&node.store, [normal(1, &command(900))]).await;
    let other = Node::new();
    other.install(node.build().await).await.unwrap();
    for node in [&node, &other] {
        apply(&node.store, [normal(2, &command(1004))]).await;
        assert_eq!(node.hash(), hash, "the retries changed nothing");
        apply(&node.store, [normal(3, &command(1005))]).await;
        assert_ne!(node.hash(), hash, "the key has expired");
    }
    assert_eq!(node.hash(), other.hash());
}

/// The folder of a stopped node that has applied something.
async fn stopped() -> TempDir {
    let node = Node::new();
    node.apply_to(10).await;
    let ahead = Node::new();
    ahead.apply_to(20).await;
    node.install(ahead.build().await).await.unwrap();
    node.close()
}

fn reopen(dir: &TempDir) -> Result<StateMachineStore, StorageError> {
    let data = DataDir::open(&dir.path().join("data"), NODE).unwrap();
    StateMachineStore::open(
        &data,
        &small(),
        watch::Sender::new(None).subscribe(),
        InflightBytes::new(usize::MAX),
    )
}

fn check_with_log(dir: &TempDir, last: Option<LogId>) -> Result<(), StorageError> {
    let data = DataDir::open(&dir.path().join("data"), NODE).unwrap();
    StateMachineStore::open(
        &data,
        &small(),
        watch::Sender::new(last).subscribe(),
        InflightBytes::new(usize::MAX),
    )
    .unwrap()
    .check_log()
}

#[tokio::test]
async fn a_state_ahead_of_the_log_is_refused_unless_a_snapshot_explains_it() {
    let installed = stopped().await;
    for last in [None, Some(log_id(10)), Some(log_id(20)), Some(log_id(21))] {
        check_with_log(&installed, last).unwrap();
    }

    let node = Node::in_folder(installed);
    node.apply_to(23).await;
    node.store.flush().unwrap();
    let applied = node.close();
    for last in [Some(log_id(23)), Some(log_id(30))] {
        check_with_log(&applied, last).unwrap();
    }
    for last in [None, Some(log_id(20)), Some(log_id(22))] {
        let refused = check_with_log(&applied, last).unwrap_err().to_string();
        assert!(refused.contains("lost its end") && refused.contains("23 were applied"), "{refused}");
    }
}

#[tokio::test]
async fn leftovers_are_removed_at_a_start() {
    let dir = stopped().await;
    let (state, snapshots) = (dir.path().join("data/state"), dir.path().join("data/snapshots"));
    assert_eq!(names(&state), ["CURRENT", "gen-000002"]);
    let current = names(&snapshots);
    assert_eq!(current.len(), 1);
    for leftover in ["gen-000001", "gen-000003", "gen-000017"] {
        copy_tree(&state.join("gen-000002"), &state.join(leftover)).unwrap();
    }
    fs::write(state.join("CURRENT.new"), "gen-0").unwrap();
    fs::create_dir(state.join("gen-000004")).unwrap();
    let newest = snapshots.join(&current[0]);
    copy_tree(&newest, &snapshots.join("unfinished-1-7")).unwrap();
    copy_tree(&newest, &snapshots.join("00000000000000000003-1-7")).unwrap();
    fs::create_dir(snapshots.join("unfinished-1-8")).unwrap();

    let store = reopen(&dir).unwrap();
    assert_eq!(store.applied_log_id(), Some(log_id(20)));
    assert_eq!(store.current_snapshot().unwrap().0.last_log_id, Some(log_id(20)));
    assert_eq!(names(&snapshots), current);
    assert!(names(&state).iter().all(|name| ["CURRENT", "CURRENT.new", "gen-000002"].contains(&&**name)));
}

#[tokio::test]
async fn what_is_not_ours_in_the_folders_is_left_alone() {
    let dir = stopped().await;
    for folder in ["state", "snapshots"] {
        fs::create_dir(dir.path().join("data").join(folder).join("lost+found")).unwrap();
        fs::write(dir.path().join("data").join(folder).join("notes.txt"), "mine").unwrap();
    }
    reopen(&dir).unwrap();
    for folder in ["state", "snapshots"] {
        let names = names(&dir.path().join("data").join(folder));
        assert!(names.contains(&"lost+found".to_owned()) && names.contains(&"notes.txt".to_owned()));
    }
}

#[tokio::test]
async fn a_first_start_that_was_interrupted_is_begun_again() {
    let dir = Node::new().close();
    fs::remove_file(dir.path().join("data/state/CURRENT")).unwrap();
    assert_eq!(reopen(&dir).unwrap().applied_log_id(), None);
    fs::remove_file(dir.path().join("data/state/CURRENT")).unwrap();
    fs::remove_dir_all(dir.path().join("data/state/gen-000001")).unwrap();
    assert_eq!(reopen(&dir).unwrap().applied_log_id(), None);
    assert_eq!(names(&dir.path().join("data/state")), ["CURRENT", "gen-000001"]);
}

#[tokio::test]
async fn a_state_that_lost_its_name_or_its_folder_is_refused_and_not_replaced() {
    let dir = stopped().await;
    let state = dir.path().join("data/state");
    fs::rename(state.join("CURRENT"), dir.path().join("kept")).unwrap();
    let refused = reopen(&dir).unwrap_err().to_string();
    assert!(refused.contains("gen-000002") && refused.contains("CURRENT"), "{refused}");
    assert_eq!(names(&state), ["gen-000002"]);

    for nonsense in ["", "gen-", "gen-x", "000002", "gen-000002/.."] {
        fs::write(state.join("CURRENT"), nonsense).unwrap();
        let refused = reopen(&dir).unwrap_err().to_string();
        assert!(refused.contains("no generation"), "{refused}");
    }

    fs::rename(dir.path().join("kept"), state.join("CURRENT")).unwrap();
    fs::rename(state.join("gen-000002"), dir.path().join("kept")).unwrap();
    let refused = reopen(&dir).unwrap_err().to_string();
    assert!(refused.contains("missing"), "{refused}");
    assert_eq!(names(&state), ["CURRENT"]);

    fs::rename(dir.path().join("kept"), state.join("gen-000002")).unwrap();
    assert_eq!(reopen(&dir).unwrap().applied_log_id(), Some(log_id(20)));
}
