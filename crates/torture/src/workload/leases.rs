//! Leases over both ways: granted, kept alive, revoked. Each call is made once.

use std::time::Duration;

use hyper::Method;
use kvorum_etcd_proto::etcdserverpb as pb;
use pb::lease_client::LeaseClient;
use serde_json::{Value, json};
use tokio::time::timeout;
use tonic::Status;

use super::http::Question;
use super::session::Session;

/// What a keep-alive was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Renewal {
    /// The lease lives for this long from then on.
    Renewed(Duration),
    /// There is no such lease.
    Gone,
    /// Nothing is known.
    Unknown,
}

/// A lease that was granted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Granted {
    pub(super) id: i64,
    pub(super) ttl: Duration,
}

fn seconds(number: i64) -> Option<Duration> {
    u64::try_from(number).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs)
}

/// Asks for a lease; `None` unless one was certainly granted.
pub(super) async fn grant(session: &mut Session, ttl: i64) -> Option<Granted> {
    let endpoint = session.shared.any_endpoint(&mut session.dice)?;
    if session.dice.chance(50) {
        let question = Question::new(Method::POST, "/v1/leases").with_body(json!({ "ttl": ttl }).to_string());
        let answer = session.ask(&endpoint, question).await.ok().filter(|answer| answer.status == 201)?;
        let body = answer.json();
        let number = |name| body.get(name).and_then(Value::as_i64);
        return Some(Granted { id: number("id")?, ttl: seconds(number("ttl")?)? });
    }
    let mut lease = LeaseClient::new(session.channel(&endpoint).ok()?);
    let granted = lease.lease_grant(pb::LeaseGrantRequest { id: 0, ttl });
    let granted = timeout(session.shared.limit, granted).await.ok()?.ok()?.into_inner();
    Some(Granted { id: granted.id, ttl: seconds(granted.ttl)? })
}

/// Asks for a lease's time to begin anew.
pub(super) async fn keep_alive(session: &mut Session, id: i64) -> Renewal {
    let Some(endpoint) = session.shared.any_endpoint(&mut session.dice) else { return Renewal::Unknown };
    if session.dice.chance(50) {
        let question = Question::new(Method::POST, format!("/v1/leases/{id}/keep-alive"));
        let Ok(answer) = session.ask(&endpoint, question).await else { return Renewal::Unknown };
        return match answer.status {
            200 => {
                let ttl = answer.json().get("ttl").and_then(Value::as_i64).and_then(seconds);
                ttl.map_or(Renewal::Unknown, Renewal::Renewed)
            }
            404 if answer.code().as_deref() == Some("lease_not_found") => Renewal::Gone,
            _ => Renewal::Unknown,
        };
    }
    let Ok(channel) = session.channel(&endpoint) else { return Renewal::Unknown };
    let mut lease = LeaseClient::new(channel);
    let asked = async {
        let requests = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
        lease.lease_keep_alive(requests).await?.into_inner().message().await
    };
    let answered: Result<Result<_, Status>, _> = timeout(session.shared.limit, asked).await;
    match answered {
        Ok(Ok(Some(answer))) if answer.id == id => {
            seconds(answer.ttl).map_or(Renewal::Gone, Renewal::Renewed)
        }
        _ => Renewal::Unknown,
    }
}

/// Asks for a lease's end; whether it came is not asked.
pub(super) async fn revoke(session: &mut Session, id: i64) {
    let Some(endpoint) = session.shared.any_endpoint(&mut session.dice) else { return };
    if session.dice.chance(50) {
        let question = Question::new(Method::DELETE, format!("/v1/leases/{id}"));
        // A lease whose end nobody heard of ends by itself.
        let _ = session.ask(&endpoint, question).await;
    } else if let Ok(channel) = session.channel(&endpoint) {
        let mut lease = LeaseClient::new(channel);
        let revoked = lease.lease_revoke(pb::LeaseRevokeRequest { id });
        let _ = timeout(session.shared.limit, revoked).await;
    }
}
