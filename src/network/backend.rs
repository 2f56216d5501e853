//! What the front asks of the layer below.
//!
//! The trait is resolved at compile time: a request costs no dynamic call and
//! no boxed future for it. It exists so that every answer of the front can be
//! tested without a disk or a cluster.

use std::collections::BTreeSet;
use std::future::Future;

use bytes::Bytes;
use serde::Serialize;

use crate::NodeId;
use crate::command::{Command, Idempotency, Outcome, Txn, TxnOutcome};
use crate::config::Limits;
use crate::error::Error;
use crate::mvcc::{Lookup, Page, RangeQuery};
use crate::service::{Consistency, LeaseGranted, LeaseRenewed, LeaseStatus, Service};
use crate::watch::WatchHub;

/// The calls behind the HTTP API. A clone is cheap and means the same node.
///
/// Time limits, forwarding to the leader and the limits of keys and values of
/// writes are the implementation's. The front drops one of these futures only
/// if its connection breaks or the server is stopped at once, so dropping one
/// must abandon nothing but the answer.
pub trait Backend: Clone + Send + 'static {
    /// This node's id.
    fn node_id(&self) -> NodeId;

    /// The limits that requests are checked against.
    fn limits(&self) -> &Limits;

    /// Commits and applies `command`.
    fn write(&self, command: Command) -> impl Future<Output = Result<Outcome, Error>>;

    /// Makes a client's token into the part of a command that carries it.
    fn idempotency(&self, token: Bytes) -> Result<Idempotency, Error>;

    /// Reads one key, at revision `at` or now.
    fn get(
        &self,
        key: &[u8],
        at: Option<i64>,
        consistency: Consistency,
    ) -> impl Future<Output = Result<Lookup, Error>>;

    /// The store's revision, as recent as `consistency` demands.
    fn revision(&self, consistency: Consistency) -> impl Future<Output = Result<i64, Error>>;

    /// What tells of changes.
    fn watch(&self) -> &WatchHub;

    /// Reads a page of a range.
    fn range(&self, query: RangeQuery, consistency: Consistency)
    -> impl Future<Output = Result<Page, Error>>;

    /// Carries a transaction out; answers the store's revision with what happened.
    fn txn(
        &self,
        txn: Txn,
        idempotency: Option<Idempotency>,
        consistency: Consistency,
    ) -> impl Future<Output = Result<(i64, TxnOutcome), Error>>;

    /// Makes revisions below `revision` unreadable; answers the store's revision.
    fn compact(&self, revision: i64, physical: bool) -> impl Future<Output = Result<i64, Error>>;

    /// Grants a lease under `id`, or under one that is chosen if that is zero.
    fn lease_grant(&self, id: i64, ttl: i64) -> impl Future<Output = Result<LeaseGranted, Error>>;

    /// Ends a lease with its keys; answers the store's revision.
    fn lease_revoke(&self, id: i64) -> impl Future<Output = Result<i64, Error>>;

    /// Starts the time to live of a lease anew.
    fn lease_keep_alive(&self, id: i64) -> impl Future<Output = Result<LeaseRenewed, Error>>;

    /// What is known of a lease, with its keys if `keys` is set.
    fn lease_time_to_live(&self, id: i64, keys: bool) -> impl Future<Output = Result<LeaseStatus, Error>>;

    /// The store's revision and all leases, the next to expire first.
    fn leases(&self) -> impl Future<Output = Result<(i64, Vec<i64>), Error>>;

    /// Forms a cluster of `members`; of this node alone if there are none.
    fn init(&self, members: Vec<(NodeId, String)>) -> impl Future<Output = Result<(), Error>>;

    /// Adds a learner and waits until it has caught up.
    fn add_learner(&self, id: NodeId, addr: String) -> impl Future<Output = Result<(), Error>>;

    /// Makes exactly `voters` the voting members.
    fn change_membership(
        &self,
        voters: BTreeSet<NodeId>,
        force: bool,
    ) -> impl Future<Output = Result<(), Error>>;

    /// Makes a learner a voter.
    fn promote(&self, id: NodeId) -> impl Future<Output = Result<(), Error>>;

    /// Removes a member.
    fn remove_member(&self, id: NodeId, force: bool) -> impl Future<Output = Result<(), Error>>;

    /// Hands leadership over and answers the new leader.
    fn transfer_leader(&self, to: Option<NodeId>) -> impl Future<Output = Result<NodeId, Error>>;

    /// Builds a snapshot on this node.
    fn build_snapshot(&self) -> impl Future<Output = Result<impl Serialize, Error>>;

    /// The answer of `/v1/status`.
    fn status(&self) -> impl Serialize;

    /// The answer of `/v1/members`.
    fn members(&self) -> impl Future<Output = Result<impl Serialize, Error>>;

    /// The Raft metrics of `/metrics`.
    fn raft_metrics(&self) -> serde_json::Value;

    /// All metrics in the `OpenMetrics` text form.
    fn prometheus(&self) -> String;

    /// Whether this node can serve; the error says why not.
    fn ready(&self) -> impl Future<Output = Result<(), Error>>;

    /// Checks a bearer token, in constant time; anything passes if no secret is configured.
    fn authorize(&self, bearer: Option<&str>) -> Result<(), Error>;
}

impl Backend for Service {
    fn node_id(&self) -> NodeId {
        Self::node_id(self)
    }

    fn limits(&self) -> &Limits {
        Self::limits(self)
    }

    fn write(&self, command: Command) -> impl Future<Output = Result<Outcome, Error>> {
        Self::write(self, command)
    }

    fn idempotency(&self, token: Bytes) -> Result<Idempotency, Error> {
        Self::idempotency(self, token)
    }

    fn get(
        &self,
        key: &[u8],
        at: Option<i64>,
        consistency: Consistency,
    ) -> impl Future<Output = Result<Lookup, Error>> {
        Self::get(self, key, at, consistency)
    }

    fn revision(&self, consistency: Consistency) -> impl Future<Output = Result<i64, Error>> {
        self.revision_as_of(consistency)
    }

    fn watch(&self) -> &WatchHub {
        Self::watch(self)
    }

    fn range(
        &self,
        query: RangeQuery,
        consistency: Consistency,
    ) -> impl Future<Output = Result<Page, Error>> {
        Self::range(self, query, consistency)
    }

    fn txn(
        &self,
        txn: Txn,
        idempotency: Option<Idempotency>,
        consistency: Consistency,
    ) -> impl Future<Output = Result<(i64, TxnOutcome), Error>> {
        Self::txn(self, txn, idempotency, consistency)
    }

    fn compact(&self, revision: i64, physical: bool) -> impl Future<Output = Result<i64, Error>> {
        Self::compact(self, revision, physical)
    }

    fn lease_grant(&self, id: i64, ttl: i64) -> impl Future<Output = Result<LeaseGranted, Error>> {
        Self::lease_grant(self, id, ttl)
    }

    fn lease_revoke(&self, id: i64) -> impl Future<Output = Result<i64, Error>> {
        Self::lease_revoke(self, id)
    }

    fn lease_keep_alive(&self, id: i64) -> impl Future<Output = Result<LeaseRenewed, Error>> {
        Self::lease_keep_alive(self, id)
    }

    fn lease_time_to_live(&self, id: i64, keys: bool) -> impl Future<Output = Result<LeaseStatus, Error>> {
        Self::lease_time_to_live(self, id, keys)
    }

    fn leases(&self) -> impl Future<Output = Result<(i64, Vec<i64>), Error>> {
        Self::leases(self)
    }

    fn init(&self, members: Vec<(NodeId, String)>) -> impl Future<Output = Result<(), Error>> {
        Self::init(self, members)
    }

    fn add_learner(&self, id: NodeId, addr: String) -> impl Future<Output = Result<(), Error>> {
        Self::add_learner(self, id, addr)
    }

    fn change_membership(
        &self,
        voters: BTreeSet<NodeId>,
        force: bool,
    ) -> impl Future<Output = Result<(), Error>> {
        Self::change_membership(self, voters, force)
    }

    fn promote(&self, id: NodeId) -> impl Future<Output = Result<(), Error>> {
        Self::promote(self, id)
    }

    fn remove_member(&self, id: NodeId, force: bool) -> impl Future<Output = Result<(), Error>> {
        Self::remove_member(self, id, force)
    }

    fn transfer_leader(&self, to: Option<NodeId>) -> impl Future<Output = Result<NodeId, Error>> {
        Self::transfer_leader(self, to)
    }

    fn build_snapshot(&self) -> impl Future<Output = Result<impl Serialize, Error>> {
        Self::build_snapshot(self)
    }

    fn status(&self) -> impl Serialize {
        Self::status(self)
    }

    fn members(&self) -> impl Future<Output = Result<impl Serialize, Error>> {
        Self::members(self)
    }

    fn raft_metrics(&self) -> serde_json::Value {
        Self::raft_metrics(self)
    }

    fn prometheus(&self) -> String {
        Self::prometheus(self)
    }

    fn ready(&self) -> impl Future<Output = Result<(), Error>> {
        Self::ready(self)
    }

    fn authorize(&self, bearer: Option<&str>) -> Result<(), Error> {
        Self::authorize(self, bearer)
    }
}
