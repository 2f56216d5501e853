//! Sessions: that a lease is renewed in time, and when it is given up for lost. When
//! exactly that is, the tests of the schedule say.

use super::*;
use kvorum_scripted::{Request, Scripted, Step};

/// Ample: it only costs time when a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

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

/// Waits until that many requests have arrived while the session lives.
async fn requests(node: &Scripted, session: &Session, count: usize) {
    let arrived = async {
        while node.requests().len() < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = arrived => {}
        error = session.lost() => panic!("lost after {} requests: {error}", node.requests().len()),
        () = tokio::time::sleep(PATIENCE) => panic!("only {} requests", node.requests().len()),
    }
}

#[tokio::test]
async fn a_session_renews_its_lease_until_it_is_ended() {
    let (node, client) = node(2, |_| granted(2)).await;
    let session = client.session(Duration::from_secs(2)).await.unwrap();
    assert_eq!((session.lease(), session.ttl()), (7, Duration::from_secs(2)));
    // The fourth renewal is sent when the granted time is over.
    requests(&node, &session, 5).await;
    session.end().await.unwrap();
    assert_eq!(node.requests().last().map(|request| request.method.clone()).as_deref(), Some("DELETE"));
}

#[tokio::test]
async fn a_lease_that_took_longer_to_be_granted_than_it_lives_is_renewed_first() {
    let mut steps = [
        Step::error(503, "unavailable").with("retry-after", "2"),
        granted(2),
        Step::error(503, "unavailable"),
    ]
    .into_iter();
    let node = Scripted::start(move |_| steps.next().unwrap_or_else(|| granted(2))).await;
    let client = Client::builder().endpoints([node.addr()]).build().unwrap();
    let session = client.session(Duration::from_secs(2)).await.unwrap();
    let sent: Vec<_> = node.requests().into_iter().map(|request| request.target).collect();
    let renewal = "/v1/leases/7/keep-alive";
    assert_eq!(sent, ["/v1/leases", "/v1/leases", renewal, renewal]);
    requests(&node, &session, 6).await;
}

#[tokio::test]
async fn a_lease_that_ended_before_its_grant_was_answered_is_lost() {
    let steps = [
        Step::error(503, "unavailable").with("retry-after", "1"),
        granted(1),
        Step::error(404, "lease_not_found"),
    ];
    let node = Scripted::steps(steps).await;
    let client = Client::builder().endpoints([node.addr()]).build().unwrap();
    let outcome = client.session(Duration::from_secs(1)).await;
    assert!(matches!(outcome, Err(Error::LeaseLost { .. })), "{outcome:?}");
}

#[tokio::test]
async fn a_lease_that_has_ended_is_lost_at_once() {
    let (_first, client) = node(30, |_| Step::error(404, "lease_not_found")).await;
    // The cluster's word on the time counts, not what was asked for.
    let session = client.session(Duration::from_millis(1)).await.unwrap();
    assert_eq!(session.ttl(), Duration::from_secs(30));
    drop(session);
    let (node, client) = node(1, |_| Step::error(404, "lease_not_found")).await;
    let session = client.session(Duration::from_secs(1)).await.unwrap();
    let error = session.lost().await;
    assert_eq!(error, Error::LeaseLost { message: "lease 7 has ended".to_owned() });
    assert_eq!(session.lost().await, error);
    assert_eq!(node.requests().len(), 2);
}

#[tokio::test]
async fn a_lease_that_cannot_be_renewed_is_lost_when_it_may_have_ended() {
    let (node, client) = node(1, |_| Step::error(503, "unavailable")).await;
    let session = client.session(Duration::from_secs(1)).await.unwrap();
    let error = session.lost().await;
    assert!(error.to_string().contains("was not renewed within 1 s: unavailable"), "{error}");
    assert!(node.requests().len() > 2, "it was tried more than once");
}

#[tokio::test]
async fn trouble_that_passes_in_time_does_no_harm() {
    let (node, client) = node(2, |renewal| if renewal % 2 == 1 { Step::Close } else { granted(2) }).await;
    let session = client.session(Duration::from_secs(2)).await.unwrap();
    requests(&node, &session, 7).await;
}

#[tokio::test]
async fn ending_what_has_ended_is_done() {
    let node = Scripted::steps([granted(30), Step::error(404, "lease_not_found")]).await;
    let client = Client::builder().endpoints([node.addr()]).build().unwrap();
    client.session(Duration::from_secs(30)).await.unwrap().end().await.unwrap();
}
