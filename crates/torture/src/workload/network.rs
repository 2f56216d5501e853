//! The way to nodes over the network: HTTP, gRPC, and the seed's calls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use kvorum_etcd_proto::etcdserverpb as pb;
use kvorum_etcd_proto::v3lockpb::lock_client::LockClient;
use kvorum_etcd_proto::v3lockpb::{LockRequest, UnlockRequest};
use pb::lease_client::LeaseClient;
use serde_json::{Value, json};
use tokio::time::timeout;
use tonic::Status;
use tonic::transport::Channel;

use super::http::{self, Link, Question, Trouble};
use super::over_http::{self, Freshness, Route};
use super::session::Shared;
use super::wire::{Granted, Renewal, Wire};
use super::{Endpoint, judge, over_grpc};
use crate::dice::Dice;
use crate::history::{Call, NodeId, Outcome, Way};

/// See [`Network::repeats`].
const REPEATS: usize = 10;
/// Times that a write under an idempotency key is made at most.
const ATTEMPTS: usize = 3;

/// The connections of a client to one node.
struct Node {
    http: Link,
    grpc: Option<(String, Channel)>,
}

/// The connections of a client.
pub(super) struct Network {
    shared: Arc<Shared>,
    nodes: BTreeMap<NodeId, Node>,
    /// In how many of a hundred writes over HTTP an unknown outcome is asked for again.
    repeats: usize,
}

impl Network {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, nodes: BTreeMap::new(), repeats: REPEATS }
    }

    #[cfg(test)]
    pub(super) fn repeating(mut self, repeats: usize) -> Self {
        self.repeats = repeats;
        self
    }

    async fn over_http(&mut self, endpoint: &Endpoint, call: &Call, dice: &mut Dice) -> Outcome {
        let freshness = if dice.chance(25) { Freshness::Leased } else { Freshness::Confirmed };
        let plain = dice.chance(65);
        let (route, question) = over_http::question(call, plain, freshness);
        if !call.only_reads() && dice.chance(self.repeats) {
            return self.over_http_repeatedly(endpoint, call, route, question, dice).await;
        }
        self.over_http_once(endpoint, call, route, question).await
    }

    async fn over_http_once(
        &mut self,
        endpoint: &Endpoint,
        call: &Call,
        route: Route,
        question: Question,
    ) -> Outcome {
        match self.ask(endpoint, question).await {
            Ok(answer) => over_http::outcome(call, route, &answer),
            Err(trouble) => judge::trouble(&trouble),
        }
    }

    /// Makes a write under an idempotency key, at one node after another, until the outcome
    /// is known or it was tried often enough. All attempts are one call, which is promised to
    /// be carried out once at most.
    async fn over_http_repeatedly(
        &mut self,
        endpoint: &Endpoint,
        call: &Call,
        route: Route,
        question: Question,
        dice: &mut Dice,
    ) -> Outcome {
        let token = format!("{:016x}-{}", dice.next(), self.shared.new_value());
        let question = question.with("idempotency-key", token);
        let mut outcome = self.over_http_once(endpoint, call, route, question.clone()).await;
        for _ in 1..ATTEMPTS {
            if !matches!(outcome, Outcome::Unknown { .. }) {
                break;
            }
            self.shared.rest(dice).await;
            let Some(endpoint) = self.shared.any_endpoint(dice) else { break };
            let told = self.over_http_once(&endpoint, call, route, question.clone()).await;
            // That this attempt did nothing says nothing of the ones before it.
            if !matches!(told, Outcome::Failed { .. }) {
                outcome = told;
            }
        }
        outcome
    }

    async fn over_grpc(&mut self, endpoint: &Endpoint, call: &Call, dice: &mut Dice) -> Outcome {
        let plain = dice.chance(65);
        match self.channel(endpoint) {
            Ok(channel) => over_grpc::call(channel, call, plain, self.shared.limit).await,
            Err(error) => judge::trouble(&Trouble::NotSent(error.to_string())),
        }
    }

    async fn ask(&mut self, endpoint: &Endpoint, question: Question) -> Result<http::Answer, Trouble> {
        let limit = self.shared.limit;
        self.node(endpoint).http.send(question, limit).await
    }

    fn channel(&mut self, endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
        let node = self.node(endpoint);
        if let Some((addr, channel)) = &node.grpc
            && *addr == endpoint.grpc
        {
            return Ok(channel.clone());
        }
        let channel = over_grpc::channel(&endpoint.grpc)?;
        node.grpc = Some((endpoint.grpc.clone(), channel.clone()));
        Ok(channel)
    }

    fn node(&mut self, endpoint: &Endpoint) -> &mut Node {
        let node = self
            .nodes
            .entry(endpoint.node)
            .or_insert_with(|| Node { http: Link::new(&endpoint.http), grpc: None });
        if node.http.addr() != endpoint.http {
            node.http = Link::new(&endpoint.http);
        }
        node
    }
}

fn seconds(number: i64) -> Option<Duration> {
    u64::try_from(number).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs)
}

impl Wire for Network {
    fn choose_way(&mut self, call: &Call, dice: &mut Dice) -> Way {
        match call {
            Call::Txn { .. } => {
                if dice.chance(50) {
                    Way::Http
                } else {
                    Way::Grpc
                }
            }
            Call::SeedWrite { .. } | Call::SeedRead { .. } => Way::Seed,
        }
    }

    async fn call(&mut self, way: Way, endpoint: &Endpoint, call: &Call, dice: &mut Dice) -> Outcome {
        match way {
            Way::Http | Way::Seed => self.over_http(endpoint, call, dice).await,
            Way::Grpc => self.over_grpc(endpoint, call, dice).await,
        }
    }

    async fn grant(&mut self, endpoint: &Endpoint, ttl: i64, dice: &mut Dice) -> Option<Granted> {
        if dice.chance(50) {
            let body = json!({ "ttl": ttl }).to_string();
            let question = Question::new(Method::POST, "/v1/leases").with_body(body);
            let answer = self.ask(endpoint, question).await.ok().filter(|answer| answer.status == 201)?;
            let body = answer.json();
            let number = |name| body.get(name).and_then(Value::as_i64);
            return Some(Granted { id: number("id")?, ttl: seconds(number("ttl")?)? });
        }
        let mut lease = LeaseClient::new(self.channel(endpoint).ok()?);
        let granted = lease.lease_grant(pb::LeaseGrantRequest { id: 0, ttl });
        let granted = timeout(self.shared.limit, granted).await.ok()?.ok()?.into_inner();
        Some(Granted { id: granted.id, ttl: seconds(granted.ttl)? })
    }

    async fn keep_alive(&mut self, endpoint: &Endpoint, id: i64, dice: &mut Dice) -> Renewal {
        if dice.chance(50) {
            let question = Question::new(Method::POST, format!("/v1/leases/{id}/keep-alive"));
            let Ok(answer) = self.ask(endpoint, question).await else { return Renewal::Unknown };
            return match answer.status {
                200 => {
                    let ttl = answer.json().get("ttl").and_then(Value::as_i64).and_then(seconds);
                    ttl.map_or(Renewal::Unknown, Renewal::Renewed)
                }
                404 if answer.code().as_deref() == Some("lease_not_found") => Renewal::Gone,
                _ => Renewal::Unknown,
            };
        }
        let Ok(channel) = self.channel(endpoint) else { return Renewal::Unknown };
        let mut lease = LeaseClient::new(channel);
        let asked = async {
            let requests = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
            lease.lease_keep_alive(requests).await?.into_inner().message().await
        };
        let answered: Result<Result<_, Status>, _> = timeout(self.shared.limit, asked).await;
        match answered {
            Ok(Ok(Some(answer))) if answer.id == id => {
                seconds(answer.ttl).map_or(Renewal::Gone, Renewal::Renewed)
            }
            _ => Renewal::Unknown,
        }
    }

    async fn revoke(&mut self, endpoint: &Endpoint, id: i64, dice: &mut Dice) {
        if dice.chance(50) {
            let question = Question::new(Method::DELETE, format!("/v1/leases/{id}"));
            let _ = self.ask(endpoint, question).await;
        } else if let Ok(channel) = self.channel(endpoint) {
            let mut lease = LeaseClient::new(channel);
            let revoked = lease.lease_revoke(pb::LeaseRevokeRequest { id });
            let _ = timeout(self.shared.limit, revoked).await;
        }
    }

    async fn acquire(&mut self, endpoint: &Endpoint, name: &str, lease: i64) -> Option<String> {
        let mut locks = LockClient::new(self.channel(endpoint).ok()?);
        let asked = locks.lock(LockRequest { name: name.to_owned().into(), lease });
        let answer = timeout(self.shared.limit, asked).await.ok()?.ok()?.into_inner();
        String::from_utf8(answer.key.to_vec()).ok()
    }

    async fn release(&mut self, endpoint: &Endpoint, key: &str) {
        if let Ok(channel) = self.channel(endpoint) {
            let mut locks = LockClient::new(channel);
            let released = locks.unlock(UnlockRequest { key: key.to_owned().into() });
            let _ = timeout(self.shared.limit, released).await;
        }
    }
}
