//! Leases: granted, renewed, looked at and ended.
//!
//! Keys that are attached to a lease are deleted when it ends, by revocation or
//! because nobody renewed it in time. Times are whole seconds, as the cluster
//! counts them.

use bytes::Bytes;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::call::{Call, Effect, Settled};
use crate::item::KeyBody;
use crate::query::Query;
use crate::{Client, Error};

/// A lease with its time to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The store's revision.
    pub revision: i64,
    /// The lease.
    pub id: i64,
    /// Seconds that it lives from now on unless it is renewed.
    pub ttl: i64,
}

/// What is known about a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseStatus {
    /// The store's revision.
    pub revision: i64,
    /// The lease.
    pub id: i64,
    /// Seconds that are left.
    pub ttl: i64,
    /// Seconds that a renewal gives.
    pub granted_ttl: i64,
    /// The keys that are attached to it, if they were asked for.
    pub keys: Option<Vec<Bytes>>,
}

/// All leases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leases {
    /// The store's revision.
    pub revision: i64,
    /// Their ids.
    pub leases: Vec<i64>,
}

/// The answer to a revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// The store's revision after it.
    pub revision: i64,
    /// The lease.
    pub revoked: i64,
}

impl Client {
    /// Grants a lease of `ttl` seconds; the cluster may make it longer. It chooses
    /// the id unless one is given.
    ///
    /// Without an id a grant whose answer is lost is repeated: the first lease, if
    /// there is one, ends by itself.
    ///
    /// # Errors
    /// `Api` with code `lease_exists` or `lease_ttl_too_large`.
    pub async fn lease_grant(&self, ttl: i64, id: Option<i64>) -> Result<Lease, Error> {
        let (effect, body) = match id {
            None => (Effect::RepeatableWrite, json!({ "ttl": ttl })),
            Some(id) => (Effect::Write, json!({ "ttl": ttl, "id": id })),
        };
        self.execute(&Call::new(Method::POST, "/v1/leases", effect).json(&body)).await?.json()
    }

    /// Renews a lease: it lives its whole time again.
    ///
    /// # Errors
    /// `Api` with code `lease_not_found` if it has ended.
    pub async fn lease_keep_alive(&self, id: i64) -> Result<Lease, Error> {
        let path = format!("/v1/leases/{id}/keep-alive");
        self.execute(&Call::new(Method::POST, path, Effect::RepeatableWrite)).await?.json()
    }

    /// Ends a lease and deletes its keys.
    ///
    /// # Errors
    /// `Api` with code `lease_not_found` if it had ended before this call.
    pub async fn lease_revoke(&self, id: i64) -> Result<Revoked, Error> {
        let path = format!("/v1/leases/{id}");
        let call = Call::new(Method::DELETE, path, Effect::RepeatableWrite);
        match self.settle(&call, "lease_not_found").await? {
            Settled::Done(answer) => answer.json(),
            Settled::Already { .. } => {
                let revision = self.revision_after(&format!("lease {id} has ended")).await?;
                Ok(Revoked { revision, revoked: id })
            }
        }
    }

    /// How long a lease still lives, and which keys it has if `keys`.
    ///
    /// # Errors
    /// `Api` with code `lease_not_found` if it has ended.
    pub async fn lease_time_to_live(&self, id: i64, keys: bool) -> Result<LeaseStatus, Error> {
        let mut query = Query::default();
        query.flag("keys", keys);
        let path = query.append_to(format!("/v1/leases/{id}"));
        let answer = self.execute(&Call::new(Method::GET, path, Effect::Read)).await?;
        let body: StatusBody = answer.json()?;
        let decode = |keys: Vec<KeyBody>| keys.into_iter().map(|key| key.decode(&answer.endpoint)).collect();
        let keys = body.keys.map(decode).transpose()?;
        let StatusBody { revision, id, ttl, granted_ttl, .. } = body;
        Ok(LeaseStatus { revision, id, ttl, granted_ttl, keys })
    }

    /// The ids of all leases.
    pub async fn leases(&self) -> Result<Leases, Error> {
        self.execute(&Call::new(Method::GET, "/v1/leases", Effect::Read)).await?.json()
    }
}

#[derive(Debug, Deserialize)]
struct StatusBody {
    revision: i64,
    id: i64,
    ttl: i64,
    granted_ttl: i64,
    keys: Option<Vec<KeyBody>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_scripted::{Scripted, Step};

    async fn node(steps: impl IntoIterator<Item = Step>) -> (Scripted, Client) {
        let node = Scripted::steps(steps).await;
        let client = Client::builder().endpoints([node.addr()]).build().unwrap();
        (node, client)
    }

    fn sent(node: &Scripted) -> Vec<String> {
        let line = |r: kvorum_scripted::Request| {
            format!("{} {} {}", r.method, r.target, String::from_utf8(r.body).unwrap())
        };
        node.requests().into_iter().map(line).collect()
    }

    #[tokio::test]
    async fn calls_send_what_the_api_documents() {
        let steps = [
            Step::reply(201, r#"{"revision":5,"id":7,"ttl":30}"#),
            Step::reply(201, r#"{"revision":5,"id":9,"ttl":30}"#),
            Step::reply(200, r#"{"revision":5,"id":7,"ttl":30}"#),
            Step::reply(200, r#"{"revision":5,"leases":[7,9]}"#),
            Step::reply(200, r#"{"revision":6,"revoked":7}"#),
        ];
        let (node, client) = node(steps).await;
        assert_eq!(client.lease_grant(30, None).await.unwrap(), Lease { revision: 5, id: 7, ttl: 30 });
        client.lease_grant(30, Some(9)).await.unwrap();
        client.lease_keep_alive(7).await.unwrap();
        assert_eq!(client.leases().await.unwrap().leases, [7, 9]);
        assert_eq!(client.lease_revoke(7).await.unwrap(), Revoked { revision: 6, revoked: 7 });
        let expected = [
            r#"POST /v1/leases {"ttl":30}"#,
            r#"POST /v1/leases {"id":9,"ttl":30}"#,
            "POST /v1/leases/7/keep-alive ",
            "GET /v1/leases ",
            "DELETE /v1/leases/7 ",
        ];
        assert_eq!(sent(&node), expected);
    }

    #[tokio::test]
    async fn keys_of_a_lease_are_read_when_asked_for() {
        let plain = r#"{"revision":5,"id":7,"ttl":28,"granted_ttl":30}"#;
        let keys =
            r#"{"revision":5,"id":7,"ttl":28,"granted_ttl":30,"keys":[{"key":"a"},{"key_base64":"/w=="}]}"#;
        let (node, client) = node([Step::reply(200, plain), Step::reply(200, keys)]).await;
        let status = client.lease_time_to_live(7, false).await.unwrap();
        assert_eq!((status.ttl, status.granted_ttl, status.keys), (28, 30, None));
        let status = client.lease_time_to_live(7, true).await.unwrap();
        assert_eq!(status.keys.unwrap(), [&b"a"[..], &[0xff][..]]);
        assert_eq!(sent(&node), ["GET /v1/leases/7 ", "GET /v1/leases/7?keys=true "]);
    }

    #[tokio::test]
    async fn a_lost_grant_is_repeated_only_if_the_cluster_chooses_the_id() {
        let granted = || Step::reply(201, r#"{"revision":5,"id":7,"ttl":30}"#);
        let (first, client) = node([Step::Close, granted()]).await;
        client.lease_grant(30, None).await.unwrap();
        assert_eq!(first.requests().len(), 2);
        let (second, client) = node([Step::Close, granted()]).await;
        let outcome = client.lease_grant(30, Some(7)).await;
        assert!(matches!(outcome, Err(Error::OutcomeUnknown { .. })), "{outcome:?}");
        assert_eq!(second.requests().len(), 1);
    }

    #[tokio::test]
    async fn a_revocation_whose_answer_was_lost_is_done_when_the_lease_has_ended() {
        let ended = || Step::error(404, "lease_not_found");
        let (_first, client) =
            node([Step::Close, ended(), Step::reply(200, r#"{"revision":9,"count":0}"#)]).await;
        assert_eq!(client.lease_revoke(7).await.unwrap(), Revoked { revision: 9, revoked: 7 });
        let (_second, client) = node([ended()]).await;
        assert_eq!(client.lease_revoke(7).await.unwrap_err().code(), "lease_not_found");
        let (_third, client) = node([Step::Close, ended(), Step::error(400, "invalid_request")]).await;
        let outcome = client.lease_revoke(7).await.unwrap_err();
        assert!(
            outcome.code() == "outcome_unknown" && outcome.to_string().contains("has ended"),
            "{outcome}"
        );
    }

    #[tokio::test]
    async fn an_ended_lease_is_not_found() {
        let (_node, client) = node([Step::error(404, "lease_not_found")]).await;
        let outcome = client.lease_keep_alive(7).await.unwrap_err();
        assert_eq!(outcome.code(), "lease_not_found");
    }
}
