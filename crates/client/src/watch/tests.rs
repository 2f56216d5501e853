//! Watches against scripted nodes: what is asked for, what is told, and that a
//! broken connection leaves neither gap nor repetition.

use serde_json::{Value, json};

use super::*;
use kvorum_scripted::{Request, Scripted, Step};

const LONG: Duration = Duration::from_secs(10);

fn client(nodes: &[&Scripted], timeout: Duration) -> Client {
    Client::builder().endpoints(nodes.iter().map(|node| node.addr())).timeout(timeout).build().unwrap()
}

fn at(revision: i64) -> Value {
    json!({ "revision": revision })
}

fn created(revision: i64) -> (&'static str, i64, Value) {
    ("created", revision, at(revision))
}

fn change(revision: i64) -> (&'static str, i64, Value) {
    let put = json!({ "type": "put", "key": "k", "value": revision.to_string(), "create_revision": 2,
                      "mod_revision": revision, "version": revision });
    ("change", revision, json!({ "revision": revision, "events": [put] }))
}

fn error(code: &str) -> (&'static str, i64, Value) {
    ("error", 0, json!({ "error": { "code": code, "message": "m", "details": { "oldest": 9 } } }))
}

/// The revisions of `count` changes, and the last error if it comes before.
async fn changes(watch: &mut Watch, count: usize) -> (Vec<i64>, Option<Error>) {
    let mut revisions = Vec::new();
    while revisions.len() < count {
        match watch.next().await {
            Ok(WatchMessage::Change { revision, .. }) => revisions.push(revision),
            Ok(_) => {}
            Err(error) => return (revisions, Some(error)),
        }
    }
    (revisions, None)
}

fn resumed_after(request: &Request) -> Option<&str> {
    request.header("last-event-id")
}

#[tokio::test]
async fn a_watch_asks_for_what_it_was_told() {
    let node = Scripted::steps([Step::events(&[created(4)], true)]).await;
    let client = client(&[&node], LONG);
    let options = WatchOptions {
        range: Range::prefix("a b/"),
        from_revision: Some(5),
        previous: true,
        only: Some(EventKind::Delete),
    };
    let mut watch = client.watch(options);
    assert_eq!(watch.next().await, Ok(WatchMessage::Created { revision: 4 }));
    client.watch(WatchOptions { range: Range::key([0xff]), ..WatchOptions::default() }).next().await.unwrap();
    client.watch(WatchOptions::default()).next().await.unwrap();
    // The API takes no end without a start.
    let range = Range::Between { start: None, end: Some("b".into()) };
    client.watch(WatchOptions { range, ..WatchOptions::default() }).next().await.unwrap();
    let targets: Vec<_> = node.requests().iter().map(|request| request.target.clone()).collect();
    let expected = [
        "/v1/watch?prefix=a%20b%2F&from_revision=5&previous=true&only=delete",
        "/v1/watch?key=%FF",
        "/v1/watch",
        "/v1/watch?start=%00&end=b",
    ];
    assert_eq!(targets, expected);
    assert_eq!(node.requests()[0].header("accept"), Some("text/event-stream"));
}

#[tokio::test]
async fn events_are_told_whole() {
    let item = json!({ "key": "a", "value": "0", "create_revision": 3, "mod_revision": 3, "version": 1 });
    let events = json!({ "revision": 7, "events": [
        { "type": "put", "key": "a", "value_base64": "/w==", "create_revision": 3, "mod_revision": 7,
          "version": 2, "lease": 5, "previous": item },
        { "type": "delete", "key": "b", "mod_revision": 7 },
    ]});
    let node = Scripted::steps([Step::events(&[created(6), ("change", 7, events)], true)]).await;
    let mut watch = client(&[&node], LONG).watch(WatchOptions::default());
    watch.next().await.unwrap();
    let Ok(WatchMessage::Change { revision: 7, events }) = watch.next().await else { panic!("a change") };
    let [put, delete] = events.as_slice() else { panic!("two events") };
    let Event::Put { item, previous } = put else { panic!("a put") };
    assert_eq!((item.value.as_deref(), item.version, item.lease), (Some(&[0xff][..]), 2, Some(5)));
    assert_eq!(previous.as_ref().and_then(|item| item.value.as_deref()), Some(&b"0"[..]));
    assert_eq!(*delete, Event::Delete { key: "b".into(), previous: None });
    assert_eq!(watch.revision(), Some(7));
}

#[tokio::test]
async fn a_broken_watch_goes_on_at_the_next_endpoint_without_gap_or_repetition() {
    let first = Scripted::steps([Step::events(&[created(4), change(5), change(7)], false)]).await;
    // This one says again what was told, as a node may that has the revision as its bound.
    let second = Scripted::steps([Step::events(&[created(7), change(7), change(8), change(9)], true)]).await;
    let mut watch = client(&[&first, &second], LONG).watch(WatchOptions::default());
    assert_eq!(changes(&mut watch, 4).await, (vec![5, 7, 8, 9], None));
    assert_eq!(resumed_after(&first.requests()[0]), None);
    assert_eq!(resumed_after(&second.requests()[0]), Some("7"));
}

#[tokio::test]
async fn progress_moves_where_a_watch_goes_on() {
    let steps = [
        Step::events(&[created(4), ("progress", 20, at(20))], false),
        Step::events(&[created(20), ("progress", 20, at(20)), change(21)], true),
    ];
    let node = Scripted::steps(steps).await;
    let mut watch = client(&[&node], LONG).watch(WatchOptions::default());
    assert_eq!(watch.next().await, Ok(WatchMessage::Created { revision: 4 }));
    assert_eq!(watch.next().await, Ok(WatchMessage::Progress { revision: 20 }));
    assert!(matches!(watch.next().await, Ok(WatchMessage::Change { revision: 21, .. })));
    assert_eq!(resumed_after(&node.requests()[1]), Some("20"));
}

#[tokio::test]
async fn a_stopping_node_is_left_for_another() {
    let first = Scripted::steps([Step::events(&[created(4), change(5), error("unavailable")], true)]).await;
    let second = Scripted::steps([Step::events(&[created(5), change(6)], true)]).await;
    let mut watch = client(&[&first, &second], LONG).watch(WatchOptions::default());
    assert_eq!(changes(&mut watch, 2).await, (vec![5, 6], None));
}

#[tokio::test]
async fn a_message_that_was_cut_off_is_not_told() {
    let Step::Stream { mut body, .. } = Step::events(&[created(4), change(5)], false) else {
        panic!("a stream")
    };
    body.truncate(body.len() - 1);
    let steps = [Step::Stream { body, stays: false }, Step::events(&[created(4), change(5)], true)];
    let node = Scripted::steps(steps).await;
    let mut watch = client(&[&node], LONG).watch(WatchOptions::default());
    assert_eq!(changes(&mut watch, 1).await, (vec![5], None));
    assert_eq!(resumed_after(&node.requests()[1]), Some("4"));
}

#[tokio::test]
async fn what_was_compacted_ends_the_watch_for_good() {
    let node = Scripted::steps([Step::events(&[created(4), change(5), error("compacted")], true)]).await;
    let mut watch = client(&[&node], LONG).watch(WatchOptions::default());
    let (revisions, error) = changes(&mut watch, 2).await;
    let Some(Error::Api { status: 410, code, details, .. }) = error else { panic!("{error:?}") };
    assert_eq!((revisions, code.as_str(), details.get("oldest")), (vec![5], "compacted", Some(&9.into())));
    assert_eq!(watch.next().await.unwrap_err().code(), "compacted");
    assert_eq!(node.requests().len(), 1);
}

#[tokio::test]
async fn a_start_that_was_compacted_is_refused() {
    let node = Scripted::steps([Step::error(410, "compacted")]).await;
    let mut watch = client(&[&node], LONG).watch(WatchOptions::default());
    assert_eq!(watch.next().await.unwrap_err().code(), "compacted");
}

#[tokio::test]
async fn a_watch_that_would_go_on_with_a_gap_ends() {
    let steps = [Step::events(&[created(4), change(5)], false), Step::events(&[created(9)], true)];
    let node = Scripted::steps(steps).await;
    let mut watch = client(&[&node], LONG).watch(WatchOptions::default());
    let (revisions, error) = changes(&mut watch, 2).await;
    assert!(revisions == [5] && matches!(error, Some(Error::Protocol { .. })), "{error:?}");
}

#[tokio::test]
async fn nodes_that_never_serve_it_end_a_watch_at_the_time_limit() {
    let node = Scripted::steps([Step::events(&[], false)]).await;
    let started = Instant::now();
    let mut watch = client(&[&node], Duration::from_millis(700)).watch(WatchOptions::default());
    let error = watch.next().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    let requests = node.requests().len();
    assert!(
        (3..12).contains(&requests) && started.elapsed() < LONG / 2,
        "{requests} in {:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn a_watch_that_nobody_waited_for_loses_nothing() {
    let node = Scripted::steps([Step::events(&[created(4), change(5), change(6)], true)]).await;
    let mut watch = client(&[&node], LONG).watch(WatchOptions::default());
    let mut told = Vec::new();
    let mut patience = Duration::ZERO;
    while told.len() < 3 {
        // Given up at any point of its way, the next call takes it up.
        patience += Duration::from_micros(50);
        if let Ok(message) = tokio::time::timeout(patience, watch.next()).await {
            told.push(message.unwrap());
        }
    }
    let revisions = told.iter().filter_map(|message| match message {
        WatchMessage::Change { revision, .. } => Some(*revision),
        WatchMessage::Created { .. } | WatchMessage::Progress { .. } => None,
    });
    assert_eq!(revisions.collect::<Vec<_>>(), [5, 6]);
}

#[tokio::test]
async fn messages_that_cannot_be_read_end_the_watch_instead_of_being_asked_for_again() {
    let Step::Stream { mut body, .. } = Step::events(&[created(4), change(5)], true) else {
        panic!("a stream")
    };
    body.extend_from_slice(b"event: change\ndata: \xff\n\n");
    let node = Scripted::steps([Step::Stream { body, stays: true }]).await;
    let mut watch = client(&[&node], LONG).watch(WatchOptions::default());
    let (revisions, error) = changes(&mut watch, 2).await;
    assert!(matches!(error, Some(Error::Protocol { .. })), "{error:?}");
    assert_eq!((revisions, watch.next().await.err(), node.requests().len()), (vec![5], error, 1));

    let large = ("change", 6, json!({ "revision": 6, "events": [], "more": "x".repeat(1_000) }));
    let node = Scripted::steps([Step::events(&[created(4), change(5), large], true)]).await;
    let mut watch = client(&[&node], LONG).watch(WatchOptions::default());
    watch.largest_message = 1_000;
    let (revisions, error) = changes(&mut watch, 2).await;
    let message = error.map(|error| error.to_string()).unwrap_or_default();
    assert!(message.contains("larger than 1000 bytes"), "{message}");
    assert_eq!((revisions, node.requests().len()), (vec![5], 1));
}
