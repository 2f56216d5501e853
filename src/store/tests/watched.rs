//! The watch hub over the real store: what is read from disk is what was told
//! when it was committed.

use super::*;
use crate::keyspace::Record;
use crate::mvcc::ChangeKind;
use crate::watch::{CancelReason, WatchHub, WatchMessage, WatchOptions, WatchRequest, WatchSession};

/// Revision, kind, key, and what the key held after and before.
type Told = (i64, ChangeKind, Bytes, Option<Record>, Option<Record>);

fn all(from: i64) -> WatchRequest {
    WatchRequest { from: Some(from), with_previous: true, ..WatchRequest::of(KeyRange::all()) }
}

fn hub(node: &Node) -> WatchHub {
    WatchHub::start(node.store.clone(), WatchOptions::default(), &tokio::runtime::Handle::current())
}

/// Reads until everything that is committed was told, or the watcher is canceled
/// with the revision that this returns.
async fn read(session: &mut WatchSession, told: &mut Vec<Told>) -> Option<i64> {
    session.request_progress();
    loop {
        match tokio::time::timeout(Duration::from_secs(60), session.next()).await.unwrap() {
            WatchMessage::Created { .. } => {}
            WatchMessage::Events { events, .. } => told.extend(events.iter().map(|event| {
                let (record, previous) = (event.record().cloned(), event.previous().cloned());
                (event.revision(), event.kind(), event.key().clone(), record, previous)
            })),
            WatchMessage::Progress { .. } => return None,
            WatchMessage::Canceled { reason: CancelReason::Compacted { compacted }, .. } => {
                return Some(compacted);
            }
            message @ (WatchMessage::Canceled { .. } | WatchMessage::Closed) => panic!("{message:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn watchers_from_the_past_are_told_what_others_were_told_at_once() {
    let node = Node::new();
    let hub = hub(&node);
    let mut live = hub.session();
    live.create(all(2)).unwrap();
    let mut told = Vec::new();
    for last in (10..1_500).step_by(10) {
        node.apply_to(last).await;
        assert_eq!(read(&mut live, &mut told).await, None);
    }
    let (last, oldest) = (node.store.store().revision(), node.store.store().compacted_revision());
    assert!(told.len() > 500 && last - oldest > 50, "the log must hold enough to see");
    drop(live);
    assert_eq!(node.store.recent().bytes(), 0, "from here on all is read from disk");
    for from in (oldest..=last).step_by(29).chain([oldest - 1, last, last + 1]) {
        let mut late = hub.session();
        late.create(all(from)).unwrap();
        let mut late_told = Vec::new();
        let canceled = read(&mut late, &mut late_told).await;
        if from < oldest {
            assert_eq!((canceled, late_told), (Some(oldest), Vec::new()));
            continue;
        }
        assert_eq!(canceled, None);
        let expected = told.iter().filter(|told| told.0 >= from);
        for (late, live) in late_told.iter().zip(expected.clone()) {
            assert_eq!((late.0, late.1, &late.2, &late.3), (live.0, live.1, &live.2, &live.3));
            assert!(late.4 == live.4 || (late.4.is_none() && late.0 == oldest), "{late:?} {live:?}");
        }
        assert_eq!(late_told.len(), expected.count());
    }
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn changes_that_nobody_followed_are_told_from_disk() {
    let node = Node::new();
    let hub = hub(&node);
    node.apply_to(100).await;
    assert_eq!((node.store.recent().bytes(), hub.counters().disk_reads), (0, 0));
    let mut late = hub.session();
    late.create(all(2)).unwrap();
    let mut told = Vec::new();
    assert_eq!(read(&mut late, &mut told).await, None);
    let (before, reads) = (told.len(), hub.counters().disk_reads);
    assert!(before > 0 && reads > 0);
    node.apply_to(110).await;
    assert_eq!(read(&mut late, &mut told).await, None);
    assert!(told.len() > before && node.store.recent().bytes() > 0);
    assert_eq!(hub.counters().disk_reads, reads, "what is followed comes from memory");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_watcher_goes_on_over_a_snapshot_or_learns_what_is_compacted() {
    for (before, after) in [(100, 140), (100, 900), (700, 720)] {
        let (leader, node) = (Node::new(), Node::new());
        let (leader_hub, node_hub) = (hub(&leader), hub(&node));
        let (mut expected, mut told) = (Vec::new(), Vec::new());
        let mut reference = leader_hub.session();
        reference.create(all(2)).unwrap();
        for last in (10..=after).step_by(10) {
            leader.apply_to(last).await;
            assert_eq!(read(&mut reference, &mut expected).await, None);
        }
        let mut session = node_hub.session();
        session.create(all(2)).unwrap();
        for last in (10..=before).step_by(10) {
            node.apply_to(last).await;
            assert_eq!(read(&mut session, &mut told).await, None);
        }
        let seen = node.store.store().revision();
        node.install(leader.build().await).await.unwrap();
        let canceled = read(&mut session, &mut told).await;
        let compacted = leader.store.store().compacted_revision();
        if seen + 1 < compacted {
            assert_eq!(canceled, Some(compacted));
            continue;
        }
        assert_eq!(canceled, None);
        leader.apply_to(after + 30).await;
        node.apply_to(after + 30).await;
        read(&mut reference, &mut expected).await;
        read(&mut session, &mut told).await;
        // What a compacted key held before may be known to one of them only.
        for told in told.iter_mut().chain(&mut expected) {
            told.4 = None;
        }
        assert_eq!(told, expected);
        node_hub.stop().await;
        leader_hub.stop().await;
    }
}
