//! Replicas: equal logs give equal bytes, however they are cut into batches and
//! whatever happened in between; and no state is ahead of its own log.

use std::sync::Arc;

use futures_util::StreamExt as _;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn key() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        Just(Bytes::from_static(b"a")),
        Just(Bytes::from_static(b"a\0")),
        Just(Bytes::from_static(b"ab")),
        Just(Bytes::from_static(b"\xff")),
        vec(any::<u8>(), 1..4).prop_map(Bytes::from),
    ]
}

fn commands() -> impl Strategy<Value = Command> {
    let write = prop_oneof![
        3 => (key(), vec(any::<u8>(), 0..50), 0..3_i64)
            .prop_map(|(key, value, lease)| Write::Put { key, value: value.into(), lease }),
        1 => key().prop_map(|key| Write::Delete { key }),
        1 => (any::<bool>(), 0..2_u64, 0..3_u8).prop_map(|(corrupt, member, dice)| {
            let kind = if corrupt { AlarmKind::Corrupt } else { AlarmKind::NoSpace };
            Write::Alarm { kind, member, raised: dice == 0 }
        }),
    ];
    let condition = proptest::option::of(prop_oneof![
        (0..20_i64).prop_map(Condition::ModRevision),
        Just(Condition::Exists),
        Just(Condition::Absent),
    ]);
    let idempotency = proptest::option::of((0..6_u8, 0..1000_u64, 0..300_u64).prop_map(
        |(token, proposed_at_ms, lifetime)| Idempotency {
            token: vec![token].into(),
            proposed_at_ms,
            expires_at_ms: proposed_at_ms + lifetime,
        },
    ));
    (write, condition, idempotency).prop_map(|(write, condition, idempotency)| Command {
        write,
        condition,
        idempotency,
    })
}

#[derive(Debug, Clone)]
enum Item {
    Command(Command),
    Noise(Vec<u8>),
    Blank,
    Member(u64),
}

fn items() -> impl Strategy<Value = Vec<Item>> {
    vec(
        prop_oneof![
            20 => commands().prop_map(Item::Command),
            1 => vec(any::<u8>(), 0..30).prop_map(|noise| Item::Noise([&[0], noise.as_slice()].concat())),
            1 => Just(Item::Blank),
            1 => (0..500_u64).prop_map(Item::Member),
        ],
        1..120,
    )
}

fn log_of(items: &[Item]) -> Vec<Entry> {
    let payload = |item: &Item| match item {
        Item::Command(command) => Payload::Normal(command.encode()),
        Item::Noise(bytes) => Payload::Normal(Proposal::from_bytes(bytes.clone().into())),
        Item::Blank => Payload::Blank,
        Item::Member(seed) => Payload::Membership(membership(*seed)),
    };
    let numbered = items.iter().enumerate();
    numbered.map(|(index, item)| Entry { log_id: log_id(index as u64), payload: payload(item) }).collect()
}

/// Applies `log` in pieces of the given sizes, over and over.
async fn apply_in_pieces(mut node: Node, mut log: Vec<Entry>, sizes: &[usize], restarts: bool) -> Node {
    let mut sizes = sizes.iter().cycle();
    while !log.is_empty() {
        let rest = log.split_off(log.len().min(*sizes.next().unwrap()));
        apply(&node.store, log).await;
        log = rest;
        if restarts && log.len().is_multiple_of(3) {
            node = node.restart();
        }
    }
    node
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn equal_logs_give_equal_bytes_however_they_are_cut(
        items in items(),
        left in vec(1..40_usize, 1..6),
        right in vec(1..40_usize, 1..6),
        cut in any::<proptest::sample::Index>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let log = log_of(&items);
            let one = apply_in_pieces(Node::new(), log.clone(), &left, false).await;
            let two = apply_in_pieces(Node::new(), log.clone(), &right, true).await;
            assert_eq!(one.hash(), two.hash());
            assert_eq!(one.membership().await, two.membership().await);
            let bytes = one.dump();
            assert_same(&bytes, &two.dump());

            // A third one begins with a snapshot of a part.
            let rest = cut.index(log.len());
            let three = Node::new();
            let source = apply_in_pieces(Node::new(), log[..=rest].to_vec(), &right, false).await;
            three.install(source.build().await).await.unwrap();
            let three = apply_in_pieces(three, log[rest + 1..].to_vec(), &left, false).await;
            assert_same(&bytes, &three.dump());
        });
    }
}

#[tokio::test]
async fn nothing_is_applied_before_the_own_log_has_it_on_disk() {
    let node = Node::new();
    node.durable.send_replace(Some(log_id(9)));
    node.apply_to(9).await;
    let applied = node.store.watch_applied();
    let store = node.store.clone();
    let applying = tokio::spawn(async move { apply(&store, (10..=30).map(entry)).await });

    // The log's end moves, but not far enough for the batch.
    for durable in [10, 20, 29] {
        node.durable.send_replace(Some(log_id(durable)));
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!applying.is_finished());
        assert_eq!((*applied.borrow(), node.store.applied_log_id()), (9, Some(log_id(9))));
        // What reaches the disk meanwhile is not ahead either: a node that now
        // lost the tail of its log, which nobody synced, would still be whole.
        let (meta, _) = node.build().await;
        assert!(meta.last_log_id <= Some(log_id(durable)));
    }
    node.durable.send_replace(Some(log_id(30)));
    applying.await.unwrap();
    assert_eq!((*applied.borrow(), node.store.applied_log_id()), (30, Some(log_id(30))));
}

#[tokio::test]
async fn an_older_term_s_tail_does_not_count_as_the_own_log() {
    let node = Node::new();
    // The log is long, but what it holds will be truncated for a newer leader.
    let old = LogId::new(LeaderId::new(1, NODE), 1000);
    node.durable.send_replace(Some(old));
    let new = Entry { log_id: LogId::new(LeaderId::new(2, NODE), 5), payload: Payload::Blank };
    let store = node.store.clone();
    let mut applying = tokio::spawn(async move { apply(&store, [new]).await });
    assert!(tokio::time::timeout(Duration::from_millis(30), &mut applying).await.is_err());
    assert_eq!(node.store.applied_log_id(), None);
    node.durable.send_replace(Some(LogId::new(LeaderId::new(2, NODE), 5)));
    applying.await.unwrap();
}

#[tokio::test]
async fn a_log_that_has_stopped_ends_the_wait_with_an_error() {
    let Node { store, durable, data: _data, dir: _dir } = Node::new();
    durable.send_replace(None);
    drop(durable);
    let refused = store.clone().apply(stream::iter([Ok((entry(0), None))])).await.unwrap_err();
    assert!(refused.to_string().contains("stopped"), "{refused}");
    assert_eq!(store.applied_log_id(), None);
}

#[tokio::test]
async fn entries_that_wait_share_a_batch_and_a_large_log_is_cut() {
    let node = Node::new();
    let batches = || node.store.counters().batches.load(std::sync::atomic::Ordering::Relaxed);
    let small = |index| normal(index, &Command::put("small", "value"));
    apply(&node.store, (0..=1).map(small)).await;
    assert_eq!(batches(), 1);
    apply(&node.store, (2..=2025).map(small)).await;
    assert_eq!(batches(), 3);
    let large = |index| normal(index, &Command::put("large", vec![0; 3 << 20]));
    apply(&node.store, (2026..2029).map(large)).await;
    assert_eq!(batches(), 5);
    assert_eq!(node.store.counters().entries.load(std::sync::atomic::Ordering::Relaxed), 2029);

    // What has not come yet holds nobody up.
    let (entries, waiting) = tokio::sync::mpsc::channel(10);
    let mut store = node.store.clone();
    let waiting = tokio_stream::wrappers::ReceiverStream::new(waiting);
    let applying = tokio::spawn(async move { store.apply(waiting.map(Ok)).await });
    let mut applied = node.store.watch_applied();
    for index in 2029..2035 {
        entries.send((entry(index), None)).await.unwrap();
        applied.wait_for(|applied| *applied == index).await.unwrap();
    }
    drop(entries);
    applying.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_batch_that_has_removed_much_takes_no_further_entry() {
    let node = Node::new();
    let batches = || node.store.counters().batches.load(std::sync::atomic::Ordering::Relaxed);
    let large = |index: u64| normal(index, &Command::put(index.to_string(), vec![0; 3 << 20]));
    apply(&node.store, (0..24).map(large)).await;
    let before = batches();
    let all = Op::Delete(DeleteOp { keys: KeyRange::all(), want_previous: false });
    let deletion = Command::of(Write::Txn(Txn::of(all)));
    let small = |index| normal(index, &Command::put("small", "value"));
    apply(&node.store, [small(24), normal(25, &deletion), small(26), small(27)]).await;
    assert_eq!(batches() - before, 2);
    let left = node.store.store().read(&RangeRequest::of(KeyRange::all()), &mut Room::of(1 << 20)).unwrap().1;
    assert_eq!(left.count, 1);
}

#[tokio::test]
async fn deletions_of_large_values_are_cut_into_batches_of_a_bounded_size() {
    let put = |index: u64| normal(index, &Command::put(index.to_string(), vec![index as u8; 2 << 20]));
    let delete = |index: u64| normal(index, &Command::delete((index - 10).to_string()));
    let (node, reference) = (Node::new(), Node::new());
    for index in 0..10 {
        apply(&node.store, [put(index)]).await;
        apply(&reference.store, [put(index)]).await;
    }
    let batches = || node.store.counters().batches.load(std::sync::atomic::Ordering::Relaxed);
    let before = batches();
    apply(&node.store, (10..20).map(delete)).await;
    assert_eq!(batches() - before, 2);
    for index in 10..20 {
        apply(&reference.store, [delete(index)]).await;
    }
    assert_same(&node.dump(), &reference.dump());
}

#[test]
fn only_few_and_small_writes_of_single_keys_are_applied_at_once() {
    use crate::store::state_machine::is_large;

    let token = Idempotency { token: "t".into(), proposed_at_ms: 0, expires_at_ms: 1 };
    let small = [
        Command::put("k", "v"),
        Command::put("k", "v").only_if(Condition::Absent),
        Command::put("k", "v").only_if(Condition::ModRevision(7)),
        Command::delete("k"),
    ];
    let large = [
        Command { idempotency: Some(token.clone()), ..Command::put("k", "v") },
        Command { idempotency: Some(token), ..Command::delete("k").only_if(Condition::ModRevision(7)) },
        Command::put("k", vec![0; 1 << 20]),
        Command::of(Write::Txn(Txn::default())),
        Command::of(Write::LeaseRevoke { id: 1 }),
        Command::of(Write::LeaseTick { term: 1, clock: 1, expired: vec![1] }),
    ];
    let few: Vec<_> = small.iter().map(|command| (normal(1, command), None)).collect();
    assert!(!is_large(&few));
    assert!(!is_large(&[(entry(0), None), (entry(TERM_ENTRIES), None)]));
    for command in &large {
        assert!(is_large(&[(normal(1, &small[0]), None), (normal(2, command), None)]), "{command:?}");
    }
    let many: Vec<_> = (0..100).map(|index| (normal(index, &small[0]), None)).collect();
    assert!(is_large(&many));
}

#[tokio::test]
async fn an_unreadable_entry_ends_the_apply_and_keeps_what_was_before() {
    let node = Node::new();
    let broken = stream::iter([Ok((entry(0), None)), Err(std::io::Error::other("bad sector"))]);
    assert!(node.store.clone().apply(broken).await.is_err());
    assert!(node.store.applied_log_id() <= Some(log_id(0)));
    let hash = node.hash();
    let node = node.restart();
    assert_eq!(node.hash(), hash);
}

/// A node of its own, with a real log, whose answers are looked at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_answered_finds_the_write() {
    use crate::openraft_network::factory::Network;
    use crate::openraft_network::snapshot_sender::Pace;
    use crate::openraft_network::transport::Transport;
    use crate::openraft_network::wire::Encoding;
    use crate::store::{LogOptions, RocksLogStore};

    let dir = tempfile::tempdir().unwrap();
    let data = Arc::new(DataDir::open(&dir.path().join("data"), NODE).unwrap());
    let log = RocksLogStore::open(&data.log(), LogOptions::default(), Arc::new(|_| {})).unwrap();
    let store =
        StateMachineStore::open(&data, &small(), log.durable(), InflightBytes::new(usize::MAX)).unwrap();
    let transport = Transport::new(Arc::clone(&data), None, Encoding::Binary).unwrap();
    let network = Network::new(transport, Pace { bytes_per_second: 0 });
    let config = Arc::new(openraft::Config::default().validate().unwrap());
    let raft = crate::Raft::new(NODE, config, network, log.clone(), store.clone()).await.unwrap();
    raft.initialize(BTreeMap::from([(NODE, Member { addr: "127.0.0.1:1".into() })])).await.unwrap();
    raft.wait(Some(Duration::from_secs(20))).state(openraft::ServerState::Leader, "elected").await.unwrap();

    let writers = (0..16_u64).map(|writer| {
        let (raft, store, durable) = (raft.clone(), store.clone(), log.durable());
        tokio::spawn(async move {
            for round in 0..50_u64 {
                let key = Bytes::from(format!("{writer}/{round}"));
                let answer = raft.client_write(Command::put(key.clone(), "v").encode()).await.unwrap();
                let found = store.store().get(&key, None).unwrap();
                assert_eq!(found.record.unwrap().mod_revision, answer.data.revision);
                assert!(found.revision >= answer.data.revision);
                assert!(store.applied_log_id().unwrap() >= answer.log_id);
                assert!(*durable.borrow() >= Some(answer.log_id));
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let refused = raft.client_write(Proposal::from_bytes(Bytes::from_static(b"\x00"))).await.unwrap();
    assert!(matches!(refused.data.result, crate::command::OutcomeResult::Rejected(_)));
    raft.client_write(Command::put("after", "v").encode()).await.unwrap();
    raft.shutdown().await.unwrap();
    log.close().await.unwrap();
}
