//! A client: it makes one call after the other and writes down what it was told.
//!
//! After a call whose outcome is unknown it goes on under a new number, because the call
//! may still be under way, and a client has one call at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

use super::http::{self, Link, Question, Trouble};
use super::over_http::{self, Freshness, Route};
use super::{Endpoint, judge, over_grpc};
use crate::dice::Dice;
use crate::history::{Call, NodeId, Operation, Outcome, Way};
use crate::record::Clock;

/// See [`Session::repeats`].
const REPEATS: usize = 10;
/// Of a hundred clients, how many do not leave a node alone that did not answer.
const INSISTS: usize = 30;
/// How long a node that did not answer is mostly left alone.
const AVOIDED: Duration = Duration::from_secs(2);
/// Times that a write under an idempotency key is made at most.
const ATTEMPTS: usize = 3;

/// What a client is told about the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Go on.
    Work,
    /// No further calls.
    Halt,
    /// Watchers of everything go on until this revision, or until their time is over.
    Finish {
        /// The last revision that is to be seen.
        revision: i64,
        /// Until when.
        deadline: tokio::time::Instant,
    },
}

/// What all clients of a run share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) clock: Clock,
    pub(super) limit: Duration,
    pub(super) endpoints: watch::Receiver<Arc<[Endpoint]>>,
    pub(super) phase: watch::Receiver<Phase>,
    /// The newest revision that anybody has seen.
    pub(super) newest: AtomicI64,
    next_client: AtomicU32,
    next_value: AtomicU64,
}

impl Shared {
    pub(super) fn new(
        clock: Clock,
        limit: Duration,
        endpoints: watch::Receiver<Arc<[Endpoint]>>,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        Self {
            clock,
            limit,
            endpoints,
            phase,
            newest: AtomicI64::new(0),
            next_client: AtomicU32::new(0),
            next_value: AtomicU64::new(0),
        }
    }

    pub(super) fn goes_on(&self) -> bool {
        *self.phase.borrow() == Phase::Work
    }

    /// A number for a client or watcher that no other has.
    pub(super) fn new_number(&self) -> u32 {
        self.next_client.fetch_add(1, Ordering::Relaxed)
    }

    /// A number that no other value has.
    pub(super) fn new_value(&self) -> u64 {
        self.next_value.fetch_add(1, Ordering::Relaxed)
    }

    /// Any node, if there is one.
    pub(super) fn any_endpoint(&self, dice: &mut Dice) -> Option<Endpoint> {
        let endpoints = self.endpoints.borrow();
        if endpoints.is_empty() { None } else { Some(dice.pick(&endpoints).clone()) }
    }

    /// Waits, but no longer than the clients work.
    pub(super) async fn pause(&self, time: Duration) {
        let mut phase = self.phase.clone();
        tokio::select! {
            () = sleep(time) => {}
            // Its end is the end of the run too.
            _ = phase.wait_for(|phase| *phase != Phase::Work) => {}
        }
    }
}

/// The connections of a client to one node.
struct Node {
    http: Link,
    grpc: Option<(String, Channel)>,
}

/// A client.
pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
    pub(super) dice: Dice,
    /// Its number at present.
    pub(super) client: u32,
    nodes: BTreeMap<NodeId, Node>,
    operations: Vec<Operation>,
    /// A node that did not answer, and until when it is mostly left alone.
    avoided: Option<(NodeId, Instant)>,
    /// Whether it goes back to such a node all the same: a node that comes back from standing
    /// still tells its old lies, if any, to those who wait there.
    insists: bool,
    /// In how many of a hundred writes over HTTP an unknown outcome is asked for again.
    repeats: usize,
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>, mut dice: Dice) -> Self {
        let client = shared.new_number();
        let insists = dice.chance(INSISTS);
        Self {
            shared,
            dice,
            client,
            nodes: BTreeMap::new(),
            operations: Vec::new(),
            avoided: None,
            insists,
            repeats: REPEATS,
        }
    }

    #[cfg(test)]
    pub(super) fn never_repeat(&mut self) {
        self.repeats = 0;
    }

    #[cfg(test)]
    pub(super) fn always_repeat(&mut self) {
        self.repeats = 100;
    }

    /// All that it did.
    pub(super) fn into_operations(self) -> Vec<Operation> {
        self.operations
    }

    /// Makes a call to any node, over any way that has it, and writes it down.
    pub(super) async fn call(&mut self, call: Call) -> Outcome {
        let way = match call {
            Call::Txn { .. } => {
                if self.dice.chance(50) {
                    Way::Http
                } else {
                    Way::Grpc
                }
            }
            Call::SeedWrite { .. } | Call::SeedRead { .. } => Way::Seed,
        };
        let Some(endpoint) = self.choose_node() else {
            self.shared.pause(Duration::from_millis(100)).await;
            return Outcome::Failed { reason: "not sent: there is no node".to_owned() };
        };
        let begun = self.shared.clock.now();
        let outcome = match way {
            Way::Http | Way::Seed => self.over_http(&endpoint, &call).await,
            Way::Grpc => self.over_grpc(&endpoint, &call).await,
        };
        let ended = self.shared.clock.now();
        let told = outcome.clone();
        self.operations.push(Operation {
            client: self.client,
            node: endpoint.node,
            way,
            begun,
            ended,
            call,
            outcome,
        });
        match &told {
            Outcome::Done { revision, .. } => {
                self.shared.newest.fetch_max(*revision, Ordering::Relaxed);
            }
            Outcome::SeedWritten | Outcome::SeedFound { .. } => {}
            // Who is refused in no time must not fill the history with refusals.
            Outcome::Failed { reason } => {
                if reason.starts_with(judge::NOT_SENT) {
                    self.avoid(endpoint.node);
                }
                self.rest().await;
            }
            Outcome::Unknown { .. } => {
                self.client = self.shared.new_number();
                self.avoid(endpoint.node);
                self.rest().await;
            }
        }
        told
    }

    fn avoid(&mut self, node: NodeId) {
        self.avoided = Some((node, Instant::now() + AVOIDED));
    }

    /// Any node; mostly none that did not answer just now, because a client that is told
    /// nothing proves nothing.
    fn choose_node(&mut self) -> Option<Endpoint> {
        let endpoint = self.shared.any_endpoint(&mut self.dice)?;
        let (node, until) = self.avoided.unwrap_or_else(|| (endpoint.node, Instant::now()));
        if !self.insists && endpoint.node == node && Instant::now() < until && self.dice.chance(90) {
            return self.shared.any_endpoint(&mut self.dice);
        }
        Some(endpoint)
    }

    async fn rest(&mut self) {
        let time = self.dice.millis(30, 150);
        self.shared.pause(time).await;
    }

    async fn over_http(&mut self, endpoint: &Endpoint, call: &Call) -> Outcome {
        let freshness = if self.dice.chance(25) { Freshness::Leased } else { Freshness::Confirmed };
        let plain = self.dice.chance(65);
        let (route, question) = over_http::question(call, plain, freshness);
        if !judge::only_reads(call) && self.dice.chance(self.repeats) {
            return self.over_http_repeatedly(endpoint, call, route, question).await;
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
    ) -> Outcome {
        let token = format!("{:016x}-{}", self.dice.next(), self.shared.new_value());
        let question = question.with("idempotency-key", token);
        let mut outcome = self.over_http_once(endpoint, call, route, question.clone()).await;
        for _ in 1..ATTEMPTS {
            if !matches!(outcome, Outcome::Unknown { .. }) {
                break;
            }
            self.rest().await;
            let Some(endpoint) = self.shared.any_endpoint(&mut self.dice) else { break };
            let told = self.over_http_once(&endpoint, call, route, question.clone()).await;
            // That this attempt did nothing says nothing of the ones before it.
            if !matches!(told, Outcome::Failed { .. }) {
                outcome = told;
            }
        }
        outcome
    }

    async fn over_grpc(&mut self, endpoint: &Endpoint, call: &Call) -> Outcome {
        let plain = self.dice.chance(65);
        match self.channel(endpoint) {
            Ok(channel) => over_grpc::call(channel, call, plain, self.shared.limit).await,
            Err(error) => judge::trouble(&Trouble::NotSent(error.to_string())),
        }
    }

    /// Asks over HTTP what is no call of the history.
    pub(super) async fn ask(
        &mut self,
        endpoint: &Endpoint,
        question: Question,
    ) -> Result<http::Answer, Trouble> {
        let limit = self.shared.limit;
        self.node(endpoint).http.send(question, limit).await
    }

    /// The channel to a node.
    pub(super) fn channel(&mut self, endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
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
