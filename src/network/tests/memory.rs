//! A store in memory that keeps every version, and fails or waits on demand.

mod past;
mod txn;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::NodeId;
use crate::command::{Command, Condition, Idempotency, Outcome, OutcomeResult, Txn, TxnOutcome, Write};
use crate::config::Limits;
use crate::error::Error;
use crate::inflight::AnswerBytes;
use crate::mvcc::{KeyValue, Lookup, Page, RangeQuery, Record};
use crate::network::Backend;
use crate::service::{Consistency, LeaseGranted, LeaseRenewed, LeaseStatus};
use crate::watch::WatchHub;

#[derive(Clone)]
pub(super) struct Memory(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    limits: Limits,
    secret: Option<String>,
    /// Writes wait for a permit of it, if it is there.
    gate: Option<Semaphore>,
    watch: OnceLock<WatchHub>,
}

#[derive(Default)]
struct State {
    revision: i64,
    versions: BTreeMap<Bytes, Vec<(i64, Option<Record>)>>,
    outcomes: HashMap<Bytes, (Write, Outcome)>,
    compacted: i64,
    /// Times to live by id.
    leases: BTreeMap<i64, i64>,
    failures: Vec<(usize, Error)>,
    calls: Vec<String>,
    recent: past::Recent,
}

impl Default for Memory {
    fn default() -> Self {
        Self::build(None, None)
    }
}

impl Memory {
    fn build(secret: Option<String>, gate: Option<Semaphore>) -> Self {
        let limits = Limits {
            max_key_bytes: 64,
            max_value_bytes: 256 << 10,
            max_request_bytes: 512 << 10,
            max_txn_ops: 128,
            max_page_keys: 2000,
            max_page_bytes: 256 << 10,
            ..Limits::default()
        };
        Self(Arc::new(Inner { state: Mutex::default(), limits, secret, gate, watch: OnceLock::new() }))
    }

    pub(super) fn with_secret(secret: &str) -> Self {
        Self::build(Some(secret.to_owned()), None)
    }

    /// A store whose writes wait for [`Self::let_through`].
    pub(super) fn gated() -> Self {
        Self::build(None, Some(Semaphore::new(0)))
    }

    pub(super) fn let_through(&self, writes: usize) {
        self.0.gate.as_ref().unwrap().add_permits(writes);
    }

    /// How many calls of the named kind have reached the store.
    pub(super) fn count(&self, call: &str) -> usize {
        self.0.state.lock().calls.iter().filter(|known| known.starts_with(call)).count()
    }

    /// The calls that are not reads or writes, in order.
    pub(super) fn calls(&self) -> Vec<String> {
        self.0.state.lock().calls.clone()
    }

    /// Lets the call after the next `skipped` ones fail.
    pub(super) fn fail_after(&self, skipped: usize, error: Error) {
        self.0.state.lock().failures.push((skipped, error));
    }

    pub(super) fn put(&self, key: &[u8], value: &[u8]) {
        let command = Command::put(key.to_vec(), value.to_vec());
        self.0.state.lock().apply(&command);
    }

    pub(super) fn value(&self, key: &[u8]) -> Option<Bytes> {
        let state = self.0.state.lock();
        state.record(key, state.revision).map(|record| record.value)
    }

    fn enter(&self, call: impl Into<String>) -> Result<(), Error> {
        let mut state = self.0.state.lock();
        state.calls.push(call.into());
        if let Some((skipped, _)) = state.failures.first_mut() {
            if *skipped == 0 {
                return Err(state.failures.remove(0).1);
            }
            *skipped -= 1;
        }
        Ok(())
    }
}

impl State {
    fn record(&self, key: &[u8], at: i64) -> Option<Record> {
        let versions = self.versions.get(key)?;
        versions.iter().rev().find(|(revision, _)| *revision <= at)?.1.clone()
    }

    fn lease_keys(&self, id: i64) -> Vec<Bytes> {
        let attached = |key: &&Bytes| self.record(key, self.revision).is_some_and(|found| found.lease == id);
        self.versions.keys().filter(attached).cloned().collect()
    }

    fn check(&self, at: Option<i64>) -> Result<i64, Error> {
        match at {
            Some(requested) if requested > self.revision => {
                Err(Error::FutureRevision { requested, current: self.revision })
            }
            Some(requested) if requested < self.compacted => {
                Err(Error::Compacted { requested, oldest: self.compacted })
            }
            at => Ok(at.unwrap_or(self.revision)),
        }
    }

    fn apply(&mut self, command: &Command) -> Outcome {
        let next = self.revision + 1;
        let result = match &command.write {
            Write::Put { key, value, lease } => {
                let before = self.record(key, self.revision);
                let version = before.as_ref().map_or(1, |record| record.version + 1);
                let record = Record {
                    value: value.clone(),
                    create_revision: before.as_ref().map_or(next, |record| record.create_revision),
                    mod_revision: next,
                    version,
                    lease: *lease,
                };
                self.versions.entry(key.clone()).or_default().push((next, Some(record)));
                self.revision = next;
                OutcomeResult::Put { created: before.is_none(), version }
            }
            Write::Delete { key } => {
                let count = u64::from(self.record(key, self.revision).is_some());
                if count > 0 {
                    self.versions.entry(key.clone()).or_default().push((next, None));
                    self.revision = next;
                }
                OutcomeResult::Deleted { count }
            }
            Write::Txn(txn) => OutcomeResult::Txn(self.run(txn)),
            Write::Compact { .. }
            | Write::LeaseGrant { .. }
            | Write::LeaseRevoke { .. }
            | Write::LeaseRenew { .. }
            | Write::LeaseTick { .. }
            | Write::Alarm { .. } => panic!("the HTTP API makes no such write"),
        };
        if self.revision == next {
            self.recent.0.push(self.events(next));
        }
        Outcome { revision: self.revision, result }
    }

    fn submit(&mut self, command: &Command) -> Result<Outcome, Error> {
        let token = command.idempotency.as_ref().map(|idempotency| idempotency.token.clone());
        if let Some((write, outcome)) = token.as_ref().and_then(|token| self.outcomes.get(token)) {
            let same = *write == command.write;
            return if same { Ok(outcome.clone()) } else { Err(Error::IdempotencyMismatch) };
        }
        let mod_revision = match &command.write {
            Write::Put { key, .. } | Write::Delete { key } => {
                self.record(key, self.revision).map_or(0, |record| record.mod_revision)
            }
            Write::Txn(_)
            | Write::Compact { .. }
            | Write::LeaseGrant { .. }
            | Write::LeaseRevoke { .. }
            | Write::LeaseRenew { .. }
            | Write::LeaseTick { .. }
            | Write::Alarm { .. } => 0,
        };
        let holds = command.condition.is_none_or(|condition| match condition {
            Condition::ModRevision(wanted) => wanted == mod_revision,
            Condition::Exists => mod_revision > 0,
            Condition::Absent => mod_revision == 0,
        });
        if !holds {
            return Err(Error::ConditionFailed { mod_revision, revision: self.revision });
        }
        let outcome = self.apply(command);
        if let Some(token) = token {
            self.outcomes.insert(token, (command.write.clone(), outcome.clone()));
        }
        Ok(outcome)
    }
}

impl Backend for Memory {
    fn node_id(&self) -> NodeId {
        7
    }

    fn limits(&self) -> &Limits {
        &self.0.limits
    }

    async fn write(&self, command: Command) -> Result<Outcome, Error> {
        self.enter("write")?;
        if let Some(gate) = &self.0.gate {
            gate.acquire().await.unwrap().forget();
        }
        let (Write::Put { key, .. } | Write::Delete { key }) = &command.write else {
            panic!("the HTTP API makes no such write")
        };
        if key.is_empty() {
            return Err(Error::Invalid("the key is empty".to_owned()));
        }
        self.0.state.lock().submit(&command)
    }

    async fn txn(
        &self,
        txn: Txn,
        idempotency: Option<Idempotency>,
        consistency: Consistency,
    ) -> Result<(i64, TxnOutcome), Error> {
        self.enter(format!("txn {consistency:?}"))?;
        if let Some(gate) = &self.0.gate {
            gate.acquire().await.unwrap().forget();
        }
        let mut state = self.0.state.lock();
        state.check_txn(&txn, self.limits())?;
        let outcome = state.submit(&Command { write: Write::Txn(txn), condition: None, idempotency })?;
        let OutcomeResult::Txn(done) = outcome.result else { unreachable!("it was a transaction") };
        Ok((outcome.revision, done))
    }

    async fn revision(&self, consistency: Consistency) -> Result<i64, Error> {
        self.enter(format!("revision {consistency:?}"))?;
        Ok(self.0.state.lock().revision)
    }

    fn watch(&self) -> &WatchHub {
        self.0.watch.get_or_init(|| past::hub(&self.0))
    }

    async fn compact(&self, revision: i64, physical: bool) -> Result<i64, Error> {
        self.enter(format!("compact {revision} {physical}"))?;
        let mut state = self.0.state.lock();
        if revision <= state.compacted {
            return Err(Error::Compacted { requested: revision, oldest: state.compacted });
        }
        state.check(Some(revision))?;
        state.compacted = revision;
        Ok(state.revision)
    }

    async fn lease_grant(&self, id: i64, ttl: i64) -> Result<LeaseGranted, Error> {
        self.enter(format!("lease_grant {id} {ttl}"))?;
        let mut state = self.0.state.lock();
        let id = if id == 0 { 1 << 52 } else { id };
        if state.leases.contains_key(&id) {
            return Err(Error::LeaseExists { id });
        }
        let ttl = ttl.max(2);
        state.leases.insert(id, ttl);
        Ok(LeaseGranted { revision: state.revision, id, ttl })
    }

    async fn lease_revoke(&self, id: i64) -> Result<i64, Error> {
        self.enter(format!("lease_revoke {id}"))?;
        let mut state = self.0.state.lock();
        state.leases.remove(&id).ok_or(Error::LeaseNotFound { id })?;
        for key in state.lease_keys(id) {
            state.apply(&Command::delete(key));
        }
        Ok(state.revision)
    }

    async fn lease_keep_alive(&self, id: i64) -> Result<LeaseRenewed, Error> {
        self.enter(format!("lease_keep_alive {id}"))?;
        let state = self.0.state.lock();
        Ok(LeaseRenewed { revision: state.revision, ttl: state.leases.get(&id).copied().unwrap_or(0) })
    }

    async fn lease_time_to_live(&self, id: i64, keys: bool) -> Result<LeaseStatus, Error> {
        self.enter(format!("lease_time_to_live {id} {keys}"))?;
        let state = self.0.state.lock();
        let (ttl, granted_ttl) = state.leases.get(&id).map_or((-1, 0), |ttl| (ttl - 1, *ttl));
        let keys = if keys { state.lease_keys(id) } else { Vec::new() };
        let counted = AnswerBytes::default();
        Ok(LeaseStatus { revision: state.revision, id, ttl, granted_ttl, keys, counted })
    }

    async fn leases(&self) -> Result<(i64, Vec<i64>), Error> {
        self.enter("leases")?;
        let state = self.0.state.lock();
        Ok((state.revision, state.leases.keys().copied().collect()))
    }

    fn idempotency(&self, token: Bytes) -> Result<Idempotency, Error> {
        if token.is_empty() || token.len() > 256 {
            return Err(Error::Invalid("an Idempotency-Key has 1 to 256 bytes".to_owned()));
        }
        Ok(Idempotency { token, proposed_at_ms: 0, expires_at_ms: 1 })
    }

    async fn get(&self, key: &[u8], at: Option<i64>, consistency: Consistency) -> Result<Lookup, Error> {
        self.enter(format!("get {consistency:?}"))?;
        let state = self.0.state.lock();
        let at = state.check(at)?;
        Ok(Lookup { revision: state.revision, record: state.record(key, at) })
    }

    async fn range(&self, query: RangeQuery, consistency: Consistency) -> Result<Page, Error> {
        self.enter(format!("range {consistency:?}"))?;
        let state = self.0.state.lock();
        let at = state.check(query.at)?;
        let end = query.end.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let mut all = state
            .versions
            .range((Bound::Included(query.start.clone()), end))
            .filter_map(|(key, _)| Some(KeyValue { key: key.clone(), record: state.record(key, at)? }));
        if query.count_only {
            let count = Some(all.count() as u64);
            return Ok(Page { revision: state.revision, at, items: Vec::new(), more: false, count });
        }
        let (mut items, mut bytes) = (Vec::new(), 0);
        for item in all.by_ref() {
            bytes += item.key.len() + if query.keys_only { 0 } else { item.record.value.len() };
            items.push(item);
            if items.len() == query.limit || bytes >= query.max_bytes {
                break;
            }
        }
        let more = all.next().is_some();
        Ok(Page { revision: state.revision, at, items, more, count: None })
    }

    async fn init(&self, members: Vec<(NodeId, String)>) -> Result<(), Error> {
        self.enter(format!("init {members:?}"))
    }

    async fn add_learner(&self, id: NodeId, addr: String) -> Result<(), Error> {
        self.enter(format!("add_learner {id} {addr}"))
    }

    async fn change_membership(&self, voters: BTreeSet<NodeId>, force: bool) -> Result<(), Error> {
        self.enter(format!("change_membership {voters:?} {force}"))
    }

    async fn promote(&self, id: NodeId) -> Result<(), Error> {
        self.enter(format!("promote {id}"))
    }

    async fn remove_member(&self, id: NodeId, force: bool) -> Result<(), Error> {
        self.enter(format!("remove_member {id} {force}"))
    }

    async fn transfer_leader(&self, to: Option<NodeId>) -> Result<NodeId, Error> {
        self.enter(format!("transfer_leader {to:?}"))?;
        Ok(to.unwrap_or(3))
    }

    async fn build_snapshot(&self) -> Result<impl Serialize, Error> {
        self.enter("build_snapshot")?;
        Ok(json!({ "snapshot_id": "s" }))
    }

    fn status(&self) -> impl Serialize {
        json!({ "node_id": 7 })
    }

    async fn members(&self) -> Result<impl Serialize, Error> {
        self.enter("members")?;
        Ok(json!({ "members": [] }))
    }

    fn raft_metrics(&self) -> Value {
        json!({ "id": 7 })
    }

    fn prometheus(&self) -> String {
        "# EOF\n".to_owned()
    }

    async fn ready(&self) -> Result<(), Error> {
        self.enter("ready")
    }

    fn authorize(&self, bearer: Option<&str>) -> Result<(), Error> {
        if self.0.secret.is_none() || self.0.secret.as_deref() == bearer {
            Ok(())
        } else {
            Err(Error::Unauthorized("the cluster's secret is missing or wrong".to_owned()))
        }
    }
}
