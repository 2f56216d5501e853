//! A client: it makes one call after the other and writes down what it was told.
//!
//! After a call whose outcome is unknown it goes on under a new number, because the call
//! may still be under way, and a client has one call at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::wire::{Granted, Renewal, Wire};
use super::{Endpoint, judge};
use crate::dice::Dice;
use crate::history::{Call, NodeId, Operation, Outcome};
use crate::record::Clock;

/// Of a hundred clients, how many do not leave a node alone that did not answer.
const INSISTS: usize = 30;
/// How long a node that did not answer is mostly left alone.
const AVOIDED: Duration = Duration::from_secs(2);

/// What a client is told about the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
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
pub struct Shared {
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
    /// Of a run whose calls take `limit` at most. Clients follow `endpoints` and `phase`.
    pub fn new(
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
    pub fn new_value(&self) -> u64 {
        self.next_value.fetch_add(1, Ordering::Relaxed)
    }

    /// Any node, if there is one.
    pub(super) fn any_endpoint(&self, dice: &mut Dice) -> Option<Endpoint> {
        let endpoints = self.endpoints.borrow();
        if endpoints.is_empty() { None } else { Some(dice.pick(&endpoints).clone()) }
    }

    /// What a client does that was told nothing good.
    pub(super) async fn rest(&self, dice: &mut Dice) {
        let time = dice.millis(30, 150);
        self.pause(time).await;
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

/// A client.
pub(super) struct Session<W> {
    pub(super) shared: Arc<Shared>,
    pub(super) dice: Dice,
    /// Its number at present.
    pub(super) client: u32,
    wire: W,
    operations: Vec<Operation>,
    /// A node that did not answer, and until when it is mostly left alone.
    avoided: Option<(NodeId, Instant)>,
    /// Whether it goes back to such a node all the same: a node that comes back from standing
    /// still tells its old lies, if any, to those who wait there.
    insists: bool,
}

impl<W: Wire> Session<W> {
    /// A client that reaches nodes by `wire`.
    pub(super) fn new(shared: Arc<Shared>, mut dice: Dice, wire: W) -> Self {
        let client = shared.new_number();
        let insists = dice.chance(INSISTS);
        Self { shared, dice, client, wire, operations: Vec::new(), avoided: None, insists }
    }

    /// All that it did.
    pub(super) fn into_operations(self) -> Vec<Operation> {
        self.operations
    }

    /// Makes a call to any node, over any way that has it, and writes it down.
    pub(super) async fn call(&mut self, call: Call) -> Outcome {
        let Some(endpoint) = self.choose_node() else {
            self.shared.pause(Duration::from_millis(100)).await;
            return Outcome::Failed { reason: "not sent: there is no node".to_owned() };
        };
        let way = self.wire.choose_way(&call, &mut self.dice);
        let begun = self.shared.clock.now();
        let outcome = self.wire.call(way, &endpoint, &call, &mut self.dice).await;
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

    /// Asks any node for a lease; `None` unless one was certainly granted.
    pub(super) async fn grant(&mut self, ttl: i64) -> Option<Granted> {
        let endpoint = self.shared.any_endpoint(&mut self.dice)?;
        self.wire.grant(&endpoint, ttl, &mut self.dice).await
    }

    /// Asks any node for a lease's time to begin anew.
    pub(super) async fn keep_alive(&mut self, id: i64) -> Renewal {
        let Some(endpoint) = self.shared.any_endpoint(&mut self.dice) else { return Renewal::Unknown };
        self.wire.keep_alive(&endpoint, id, &mut self.dice).await
    }

    /// Asks any node for a lease's end; whether it came is not asked.
    pub(super) async fn revoke(&mut self, id: i64) {
        if let Some(endpoint) = self.shared.any_endpoint(&mut self.dice) {
            self.wire.revoke(&endpoint, id, &mut self.dice).await;
        }
    }

    /// Waits at any node for a lock of etcd's lock service.
    pub(super) async fn acquire(&mut self, name: &str, lease: i64) -> Option<String> {
        let endpoint = self.shared.any_endpoint(&mut self.dice)?;
        self.wire.acquire(&endpoint, name, lease).await
    }

    /// Gives up a lock of etcd's lock service at any node.
    pub(super) async fn release(&mut self, key: &str) {
        if let Some(endpoint) = self.shared.any_endpoint(&mut self.dice) {
            self.wire.release(&endpoint, key).await;
        }
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
        self.shared.rest(&mut self.dice).await;
    }
}
