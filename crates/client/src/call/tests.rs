//! What is repeated and what is not, against scripted nodes: each test names the
//! way an attempt ends and the result for the caller.

use std::time::{Duration, Instant};

use crate::{Client, DeleteOptions, Error, GetOptions, PutOptions};
use kvorum_scripted::{Scripted, Step};

/// An address that refuses connections: it was free a moment ago.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

fn client(endpoints: &[&str], timeout: Duration) -> Client {
    Client::builder().endpoints(endpoints.iter().copied()).timeout(timeout).build().unwrap()
}

fn written() -> Step {
    Step::reply(201, r#"{"revision":7,"created":true,"version":1}"#)
}

fn value() -> Step {
    Step::reply(200, "v")
        .with("etag", "\"3\"")
        .with("x-kvorum-revision", "9")
        .with("x-kvorum-create-revision", "2")
        .with("x-kvorum-version", "2")
}

fn keyed() -> PutOptions {
    PutOptions { idempotency_key: Some("t-1".to_owned()), ..PutOptions::default() }
}

const SHORT: Duration = Duration::from_millis(1200);
const LONG: Duration = Duration::from_secs(10);

#[tokio::test]
async fn write_moves_on_from_a_refused_connection_and_stays_with_who_answers() {
    let node = Scripted::steps([written()]).await;
    let client = client(&[&nobody(), node.addr()], LONG);
    for _ in 0..2 {
        client.put("k", "v", PutOptions::default()).await.unwrap();
    }
    assert_eq!(client.preferred_endpoint(), node.addr());
    assert_eq!(node.requests().len(), 2);
}

#[tokio::test]
async fn write_is_repeated_when_the_node_says_that_it_did_not_happen() {
    for code in [(503, "not_leader"), (503, "unavailable"), (429, "overloaded")] {
        let node = Scripted::steps([Step::error(code.0, code.1), written()]).await;
        client(&[node.addr()], LONG).put("k", "v", PutOptions::default()).await.unwrap();
        assert_eq!(node.requests().len(), 2, "{code:?}");
    }
}

#[tokio::test]
async fn lost_write_without_a_key_is_sent_once_and_its_outcome_is_unknown() {
    let lost = [
        Step::Close,
        Step::Hang,
        Step::error(504, "outcome_unknown"),
        Step::error(500, "internal"),
        Step::reply(502, "a proxy's page"),
        Step::reply(503, "a proxy's page"),
    ];
    for step in lost {
        let node = Scripted::steps([step.clone(), written()]).await;
        let other = Scripted::steps([written()]).await;
        let outcome = client(&[node.addr(), other.addr()], SHORT).put("k", "v", PutOptions::default()).await;
        assert!(matches!(outcome, Err(Error::OutcomeUnknown { .. })), "{step:?}: {outcome:?}");
        assert_eq!((node.requests().len(), other.requests().len()), (1, 0), "{step:?}");
    }
}

#[tokio::test]
async fn write_that_an_alarm_forbids_is_not_repeated_and_certainly_did_not_happen() {
    for (status, code) in [(507, "no_space"), (500, "corrupt")] {
        let node = Scripted::steps([Step::error(status, code), written()]).await;
        let outcome = client(&[node.addr()], SHORT).put("k", "v", keyed()).await;
        assert!(matches!(&outcome, Err(Error::Api { code: found, .. }) if found == code), "{outcome:?}");
        assert_eq!(node.requests().len(), 1, "{code}");
    }
}

#[tokio::test]
async fn lost_write_with_a_key_is_repeated_with_the_same_key() {
    for step in [Step::Close, Step::Hang, Step::error(504, "outcome_unknown"), Step::error(500, "internal")] {
        let node = Scripted::steps([step.clone()]).await;
        let other = Scripted::steps([written()]).await;
        let done = client(&[node.addr(), other.addr()], LONG).with_timeout(Duration::from_secs(4));
        assert_eq!(done.put("k", "v", keyed()).await.unwrap().revision, 7, "{step:?}");
        for server in [&node, &other] {
            assert_eq!(server.requests()[0].header("idempotency-key"), Some("t-1"), "{step:?}");
        }
    }
}

#[tokio::test]
async fn doubt_of_an_earlier_attempt_outlives_a_later_refusal() {
    let node = Scripted::steps([Step::Close, Step::error(503, "unavailable")]).await;
    let outcome = client(&[node.addr()], SHORT).put("k", "v", keyed()).await;
    assert!(matches!(outcome, Err(Error::OutcomeUnknown { .. })), "{outcome:?}");
    assert!(node.requests().len() > 1);
}

#[tokio::test]
async fn read_is_repeated_whatever_happens_to_it() {
    let lost = [
        Step::Close,
        Step::Hang,
        Step::error(504, "timeout"),
        Step::error(500, "internal"),
        Step::reply(502, ""),
    ];
    for step in lost {
        let node = Scripted::steps([step.clone(), value()]).await;
        let other = Scripted::steps([value()]).await;
        let client = client(&[node.addr(), other.addr()], Duration::from_secs(4));
        let found = client.get("k", GetOptions::default()).await.unwrap().unwrap();
        assert_eq!(found.value, "v", "{step:?}");
    }
}

#[tokio::test]
async fn hanging_nodes_end_a_read_at_the_time_limit() {
    let node = Scripted::steps([Step::Hang]).await;
    let started = Instant::now();
    let outcome = client(&[node.addr()], SHORT).get("k", GetOptions::default()).await;
    assert!(matches!(outcome, Err(Error::Timeout { .. })), "{outcome:?}");
    assert!(started.elapsed() < SHORT * 2, "{:?}", started.elapsed());
}

#[tokio::test]
async fn retry_after_is_waited_for_within_the_limit_and_not_beyond() {
    let busy = || Step::error(429, "overloaded").with("retry-after", "1");
    let node = Scripted::steps([busy(), value()]).await;
    let started = Instant::now();
    client(&[node.addr()], LONG).get("k", GetOptions::default()).await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));

    let node = Scripted::steps([busy().with("retry-after", "1")]).await;
    let started = Instant::now();
    let outcome = client(&[node.addr()], Duration::from_millis(600)).get("k", GetOptions::default()).await;
    assert!(matches!(outcome, Err(Error::Unavailable { .. })), "{outcome:?}");
    assert!(started.elapsed() < Duration::from_millis(600));
    assert_eq!(node.requests().len(), 1);
}

#[tokio::test]
async fn definite_refusals_are_not_repeated() {
    let node = Scripted::steps([Step::error(401, "unauthorized")]).await;
    let outcome = client(&[node.addr()], LONG).promote(4).await;
    assert!(matches!(outcome, Err(Error::Api { status: 401, .. })), "{outcome:?}");
    let node = Scripted::steps([Step::reply(
        412,
        r#"{"error":{"code":"condition_failed","message":"m","details":{"mod_revision":4,"revision":9}}}"#,
    )])
    .await;
    let outcome = client(&[node.addr()], LONG).delete("k", DeleteOptions::default()).await;
    let expected = Error::ConditionFailed { mod_revision: 4, revision: 9, message: "m".to_owned() };
    assert_eq!(outcome, Err(expected));
    assert_eq!(node.requests().len(), 1);
}

#[tokio::test]
async fn unreachable_endpoints_are_all_named_once_patience_ends() {
    let (a, b) = (nobody(), nobody());
    let client = Client::builder()
        .endpoints([a.as_str(), b.as_str()])
        .patience_when_unreachable(Duration::from_millis(100))
        .build()
        .unwrap();
    let started = Instant::now();
    let Err(Error::Transport { message }) = client.get("k", GetOptions::default()).await else {
        panic!("nobody answers");
    };
    assert!(message.contains(&a) && message.contains(&b), "{message}");
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_refused_probe_is_the_answer() {
    let node = Scripted::steps([Step::error(503, "unavailable"), Step::reply(200, "{}")]).await;
    let client = client(&[node.addr()], LONG);
    assert!(matches!(client.ready().await, Err(Error::Unavailable { .. })));
    client.ready().await.unwrap();
}

#[tokio::test]
async fn the_secret_goes_with_management_calls_only() {
    let node = Scripted::steps([value(), Step::reply(200, "{}")]).await;
    let client = Client::builder().endpoints([node.addr()]).cluster_secret("hush").build().unwrap();
    client.get("k", GetOptions::default()).await.unwrap();
    client.promote(2).await.unwrap();
    let sent: Vec<_> =
        node.requests().iter().map(|request| request.header("authorization").map(str::to_owned)).collect();
    assert_eq!(sent, [None, Some("Bearer hush".to_owned())]);
}

#[tokio::test]
async fn an_answer_of_another_service_is_told_apart() {
    let node = Scripted::steps([Step::reply(404, "<html>"), Step::reply(200, "<html>")]).await;
    let client = client(&[node.addr()], SHORT);
    assert!(matches!(client.get("k", GetOptions::default()).await, Err(Error::Protocol { .. })));
    assert!(matches!(client.members().await, Err(Error::Protocol { .. })));
}
