//! The hub with its tasks, and clients and writers at work at the same time.

use std::time::Duration;

use super::*;
use crate::watch::WatchHub;

#[tokio::test]
async fn the_tasks_serve_sessions_until_the_hub_stops() {
    let memory = Arc::new(Memory::new(1_000));
    let options = WatchOptions { queue_messages: 4, ..WatchOptions::default() };
    let hub = WatchHub::start(Arc::clone(&memory), options, &tokio::runtime::Handle::current());
    let mut session = hub.session();
    session.create(one("a")).unwrap();
    for _ in 0..500 {
        let events = memory.state.lock().change(&[(b"a", Some(b"v"))]);
        memory.recent.push(vec![events]);
    }
    session.request_progress();
    let mut revisions = Vec::new();
    loop {
        let message = tokio::time::timeout(Duration::from_secs(30), session.next()).await.unwrap();
        if matches!(message, WatchMessage::Progress { revision: 501, .. }) {
            break;
        }
        revisions.extend(told(&[message]).into_iter().map(|(revision, _)| revision));
    }
    assert_eq!(revisions, (2..=501).collect::<Vec<_>>());
    assert_eq!(hub.counters().events, 500);

    let waiting = tokio::spawn(async move { session.next().await });
    hub.stop().await;
    assert!(matches!(waiting.await.unwrap(), WatchMessage::Closed));
    assert_eq!(Arc::strong_count(&memory), 2, "the tasks have ended");
    let mut late = hub.session();
    assert!(matches!(late.next().await, WatchMessage::Closed));
}

/// Follows `keys` until `last` is told of, now and then coming back from where it
/// was, and slowly enough to fall behind.
async fn follow(hub: WatchHub, keys: KeyRange, last: i64, sequence: usize) -> Vec<i64> {
    let mut revisions: Vec<i64> = Vec::new();
    loop {
        let mut session = hub.session();
        let from = revisions.last().map_or(2, |revision| revision + 1);
        session.create(WatchRequest { from: Some(from), ..WatchRequest::of(keys.clone()) }).unwrap();
        for read in 0..300 + 50 * sequence {
            let message = tokio::time::timeout(Duration::from_secs(60), session.next()).await.unwrap();
            revisions.extend(told(&[message]).into_iter().map(|(revision, _)| revision));
            if revisions.last() == Some(&last) {
                return revisions;
            }
            if read % (10 + sequence) == 0 {
                tokio::task::yield_now().await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_tasks_and_clients_in_parallel_lose_nothing() {
    const REVISIONS: i64 = 20_000;
    let memory = Arc::new(Memory::new(20_000));
    let options = WatchOptions {
        queue_messages: 50,
        total_queue_bytes: 60_000,
        message_bytes: 400,
        ..WatchOptions::default()
    };
    let hub = WatchHub::start(Arc::clone(&memory), options, &tokio::runtime::Handle::current());
    let key_of = |revision: i64| if revision == REVISIONS { 0 } else { revision % 7 };
    let mut clients = Vec::new();
    for sequence in 0..8 {
        let keys = if sequence == 7 { KeyRange::all() } else { KeyRange::prefix("0") };
        clients.push(tokio::spawn(follow(hub.clone(), keys, REVISIONS, sequence)));
    }
    let writer = tokio::task::spawn_blocking(move || {
        for revision in 2..=REVISIONS {
            let key = key_of(revision).to_string();
            let events = memory.state.lock().change(&[(key.as_bytes(), Some(b"v"))]);
            assert_eq!(events.revision, revision);
            if revision % 5_000 == 0 {
                memory.recent.reset(revision);
            } else {
                memory.recent.push(vec![events]);
            }
            if revision % 64 == 0 {
                std::thread::yield_now();
            }
        }
    });
    writer.await.unwrap();
    let all: Vec<i64> = (2..=REVISIONS).collect();
    for (sequence, client) in clients.into_iter().enumerate() {
        let expected: Vec<_> =
            all.iter().copied().filter(|revision| sequence == 7 || key_of(*revision) == 0).collect();
        assert_eq!(client.await.unwrap(), expected, "client {sequence}");
    }
    hub.stop().await;
    assert_eq!(hub.counters().unsynced, 0);
}
