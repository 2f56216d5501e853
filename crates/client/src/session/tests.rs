//! Sessions: that a lease is renewed in time, and when it is given up for lost.

use super::*;
use crate::scripted::{Request, Scripted, Step};

fn granted(ttl: i64) -> Step {
    Step::reply(201, serde_json::json!({ "revision": 5, "id": 7, "ttl": ttl }).to_string())
}

/// A node that grants a lease of `ttl` seconds and answers renewals by `renew`.
async fn node(ttl: i64, mut renew: impl FnMut(usize) -> Step + Send + 'static) -> (Scripted, Client) {
    let mut renewals = 0;
    let node =
        Scripted::start(move |request: &Request| match (request.method.as_str(), request.target.as_str()) {
            ("POST", "/v1/leases") => granted(ttl),
            ("POST", "/v1/leases/7/keep-alive") => {
                renewals += 1;
                renew(renewals)
            }
            ("DELETE", "/v1/leases/7") => Step::reply(200, r#"{"revision":6,"revoked":7}"#),
            other => panic!("{other:?}"),
        })
        .await;
    let client = Client::builder().endpoints([node.addr()]).build().unwrap();
    (node, client)
}

#[tokio::test]
async fn a_session_renews_its_lease_until_it_is_ended() {
    let (node, client) = node(3, |_| granted(3)).await;
    let session = client.session(Duration::from_secs(3)).await.unwrap();
    assert_eq!((session.lease(), session.ttl()), (7, Duration::from_secs(3)));
    let lost = tokio::time::timeout(Duration::from_millis(3500), session.lost()).await;
    assert!(lost.is_err(), "{lost:?}");
    session.end().await.unwrap();
    let requests = node.requests();
    assert!((4..7).contains(&requests.len()), "{}", requests.len());
    assert_eq!(requests.last().map(|request| request.method.as_str()), Some("DELETE"));
}

#[tokio::test]
async fn a_lease_that_has_ended_is_lost_at_once() {
    let (_node, client) = node(30, |_| Step::error(404, "lease_not_found")).await;
    // The cluster's word on the time counts, not what was asked for.
    let session = client.session(Duration::from_millis(1)).await.unwrap();
    assert_eq!(session.ttl(), Duration::from_secs(30));
    drop(session);
    let (_node, client) = node(3, |_| Step::error(404, "lease_not_found")).await;
    let session = client.session(Duration::from_secs(3)).await.unwrap();
    let started = Instant::now();
    let error = session.lost().await;
    assert!(matches!(error, Error::LeaseLost { .. }) && started.elapsed() < session.ttl(), "{error}");
    assert_eq!(session.lost().await, error);
}

#[tokio::test]
async fn a_lease_that_cannot_be_renewed_is_lost_when_it_may_have_ended_and_not_before() {
    let (node, client) = node(1, |_| Step::error(503, "unavailable")).await;
    let started = Instant::now();
    let session = client.session(Duration::from_secs(1)).await.unwrap();
    let error = session.lost().await;
    let lived = started.elapsed();
    assert!(error.to_string().contains("was not renewed within 1 s"), "{error}");
    assert!(lived >= Duration::from_millis(900) && lived < Duration::from_secs(4), "{lived:?}");
    assert!(node.requests().len() > 2, "it was tried more than once");
}

#[tokio::test]
async fn trouble_that_passes_in_time_does_no_harm() {
    let (_node, client) = node(2, |renewal| if renewal % 2 == 1 { Step::Close } else { granted(2) }).await;
    let session = client.session(Duration::from_secs(2)).await.unwrap();
    let lost = tokio::time::timeout(Duration::from_millis(2500), session.lost()).await;
    assert!(lost.is_err(), "{lost:?}");
}

#[tokio::test]
async fn ending_what_has_ended_is_done() {
    let node = Scripted::steps([granted(30), Step::error(404, "lease_not_found")]).await;
    let client = Client::builder().endpoints([node.addr()]).build().unwrap();
    client.session(Duration::from_secs(30)).await.unwrap().end().await.unwrap();
}
