//! Clients: what they ask, and what they write down of it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use kvorum::NodeId;
use kvorum::command::{self, Command, Op, OpOutcome, OutcomeResult, PutOp, Relation, Target, TxnOutcome};
use kvorum::error::Error;
use kvorum::keyspace::{KeyRange, KeyValue, RangeRequest};
use kvorum::service::{Consistency, Service};
use kvorum_torture::dice::Dice;
use kvorum_torture::history::{Call, Compare, Operation, Outcome, Record, Step, StepResult, Way, keys};
use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::{system, trace};

/// What all clients of a run share.
pub(crate) struct Book {
    pub(crate) operations: RefCell<Vec<Operation>>,
    values: RefCell<u64>,
}

impl Book {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self { operations: RefCell::default(), values: RefCell::new(0) })
    }

    /// A value that no one else has.
    fn value(&self) -> String {
        let mut values = self.values.borrow_mut();
        *values += 1;
        format!("v{values}")
    }
}

/// One client.
pub(crate) struct Client {
    pub(crate) number: u32,
    pub(crate) cluster: Rc<Cluster>,
    pub(crate) book: Rc<Book>,
    pub(crate) dice: Dice,
    pub(crate) keys: usize,
    pub(crate) think_ms: usize,
    /// A lease of its own, if it has one.
    lease: Option<i64>,
    /// The last revision at which it saw a key.
    seen: BTreeMap<String, i64>,
}

/// What became of a call.
type Told = Result<(i64, bool, Vec<StepResult>), Error>;

impl Client {
    pub(crate) fn new(
        number: u32,
        cluster: Rc<Cluster>,
        book: Rc<Book>,
        dice: Dice,
        keys: usize,
        think_ms: usize,
    ) -> Self {
        Self { number, cluster, book, dice, keys, think_ms, lease: None, seen: BTreeMap::new() }
    }

    /// Asks until `until`, on the run's clock.
    pub(crate) async fn run(mut self, until: Duration) {
        while u128::from(system::now()) < until.as_nanos() {
            let pause = self.dice.millis(1, self.think_ms + 1);
            sleep(pause).await;
            let nodes = self.cluster.all();
            let node = *self.dice.pick(&nodes);
            if self.dice.chance(6) {
                self.lease(node).await;
            } else {
                let call = self.draw();
                self.ask(node, call).await;
            }
        }
    }

    fn key(&mut self) -> String {
        format!("{}{}", keys::REGISTER, self.dice.below(self.keys))
    }

    fn draw(&mut self) -> Call {
        let key = self.key();
        let get = |key: &String| Step::Get { key: key.clone() };
        let plain =
            |then: Vec<Step>, local: bool| Call::Txn { compares: vec![], then, otherwise: vec![], local };
        match self.dice.below(100) {
            0..30 => plain(vec![self.put(key)], false),
            30..36 => plain(vec![Step::Delete { key }], false),
            36..60 => plain(vec![get(&key)], false),
            60..66 => plain(vec![get(&key)], true),
            66..72 => {
                let other = self.key();
                plain(vec![get(&key), get(&other)], false)
            }
            72..88 => {
                let revision = self.seen.get(&key).copied().unwrap_or(0);
                let compare = Compare::ModRevision { key: key.clone(), revision };
                let then = vec![get(&key), self.put(key.clone())];
                Call::Txn { compares: vec![compare], then, otherwise: vec![get(&key)], local: false }
            }
            _ => {
                let other = self.key();
                let mut then = vec![self.put(key.clone())];
                if other != key {
                    then.push(self.put(other.clone()));
                }
                then.push(get(&other));
                let compare = Compare::CreateRevision { key: key.clone(), revision: 0 };
                let compares = if self.dice.chance(30) { vec![compare] } else { vec![] };
                Call::Txn { compares, then, otherwise: vec![get(&key)], local: false }
            }
        }
    }

    fn put(&mut self, key: String) -> Step {
        let lease = self.lease.filter(|_| self.dice.chance(30));
        Step::Put { key, value: self.book.value(), lease }
    }

    /// Asks a node and writes down what it was told.
    pub(crate) async fn ask(&mut self, node: NodeId, call: Call) {
        let begun = system::now();
        let Some((scope, service)) = self.cluster.service(node) else {
            // Nobody there: not worth a line in the history.
            return;
        };
        let asked = call.clone();
        let is_single = self.dice.chance(50);
        let asking = scope.handle().spawn(async move { carry_out(&service, &asked, is_single).await });
        let stop = asking.abort_handle();
        let patience = if self.dice.chance(10) { self.dice.millis(1, 500) } else { Duration::from_secs(30) };
        let outcome = match tokio::time::timeout(patience, asking).await {
            Ok(Ok(Ok((revision, succeeded, results)))) => Outcome::Done { revision, succeeded, results },
            Ok(Ok(Err(error))) => told(&error),
            Ok(Err(gone)) => Outcome::Unknown { reason: gone.to_string() },
            Err(_) => {
                if self.dice.chance(50) {
                    stop.abort();
                }
                Outcome::Unknown { reason: "the client gave up".to_owned() }
            }
        };
        trace::note(|| format!("client {} at {node}: {call:?} -> {outcome:?}", self.number));
        self.remember(&outcome);
        let ended = system::now();
        let operation = Operation { client: self.number, node, way: Way::Http, begun, ended, call, outcome };
        self.book.operations.borrow_mut().push(operation);
    }

    fn remember(&mut self, outcome: &Outcome) {
        if let Outcome::Done { results, .. } = outcome {
            for (place, result) in results.iter().enumerate() {
                if let StepResult::Got(Some(record)) = result
                    && let Some(Operation { call: Call::Txn { then, .. }, .. }) =
                        self.book.operations.borrow().last()
                    && let Some(Step::Get { key }) = then.get(place)
                {
                    self.seen.insert(key.clone(), record.mod_revision);
                }
            }
        }
    }

    /// Grants, renews or revokes a lease; keys that end with it are seen by watchers.
    async fn lease(&mut self, node: NodeId) {
        let Some((scope, service)) = self.cluster.service(node) else { return };
        let lease = self.lease;
        let choice = self.dice.below(3);
        let ttl = 1 + self.dice.below(3) as i64;
        let asking = scope.handle().spawn(async move {
            match (lease, choice) {
                (Some(id), 0) => service.lease_revoke(id).await.map(|_| None),
                (Some(id), _) => {
                    service.lease_keep_alive(id).await.map(|renewed| (renewed.ttl > 0).then_some(id))
                }
                (None, _) => service.lease_grant(0, ttl).await.map(|granted| Some(granted.id)),
            }
        });
        let told = tokio::time::timeout(Duration::from_secs(30), asking).await;
        trace::note(|| format!("client {} at {node}: lease {lease:?} -> {told:?}", self.number));
        self.lease = told.ok().and_then(Result::ok).and_then(Result::ok).flatten();
    }
}

fn told(error: &Error) -> Outcome {
    let reason = error.to_string();
    if matches!(error, Error::Unknown { .. } | Error::AnswerLost { .. }) {
        Outcome::Unknown { reason }
    } else {
        Outcome::Failed { reason }
    }
}

fn one(key: &str) -> KeyRange {
    KeyRange::One(Bytes::copy_from_slice(key.as_bytes()))
}

fn op(step: &Step) -> Op {
    match step {
        Step::Get { key } => Op::Range(RangeRequest::of(one(key))),
        Step::Put { key, value, lease } => Op::Put(PutOp {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Some(Bytes::copy_from_slice(value.as_bytes())),
            lease: Some(lease.unwrap_or(0)),
            want_previous: false,
        }),
        Step::Delete { key } => Op::Delete(command::DeleteOp { keys: one(key), want_previous: false }),
    }
}

fn compare(compare: &Compare) -> command::Compare {
    let (key, target) = match compare {
        Compare::ModRevision { key, revision } => (key, Target::ModRevision(*revision)),
        Compare::CreateRevision { key, revision } => (key, Target::CreateRevision(*revision)),
        Compare::Value { key, value } => (key, Target::Value(Bytes::copy_from_slice(value.as_bytes()))),
    };
    command::Compare { keys: one(key), target, relation: Relation::Equal }
}

/// A key's record as the history has it.
pub(crate) fn record(record: &kvorum::keyspace::Record) -> Record {
    Record {
        value: String::from_utf8_lossy(&record.value).into_owned(),
        create_revision: record.create_revision,
        mod_revision: record.mod_revision,
        version: record.version,
        lease: record.lease,
    }
}

fn got(items: &[KeyValue]) -> StepResult {
    StepResult::Got(items.first().map(|item| record(&item.record)))
}

fn results(done: &TxnOutcome) -> Vec<StepResult> {
    let result = |response: &OpOutcome| match response {
        OpOutcome::Put { .. } => StepResult::Put,
        OpOutcome::Deleted { count, .. } => StepResult::Deleted(*count as i64),
        OpOutcome::Range { found, .. } => got(&found.items),
        OpOutcome::Txn(_) => unreachable!("no client nests transactions"),
    };
    done.responses.iter().map(result).collect()
}

/// Carries a call out; what is a single read or write goes the way of those if
/// `is_single`.
async fn carry_out(service: &Service, call: &Call, is_single: bool) -> Told {
    let Call::Txn { compares, then, otherwise, local } = call else {
        unreachable!("clients ask for transactions")
    };
    let consistency = if *local { Consistency::Local } else { Consistency::Linearizable };
    if is_single && compares.is_empty() {
        match then.as_slice() {
            [Step::Put { key, value, lease }] => {
                let lease = lease.unwrap_or(0);
                let (key, value) = (Bytes::from(key.clone()), Bytes::from(value.clone()));
                let outcome = service.write(Command::of(command::Write::Put { key, value, lease })).await?;
                return Ok((outcome.revision, true, vec![StepResult::Put]));
            }
            [Step::Delete { key }] => {
                let outcome = service.write(Command::delete(key.clone())).await?;
                let OutcomeResult::Deleted { count } = outcome.result else {
                    return Err(Error::Invalid("a deletion was answered with something else".to_owned()));
                };
                return Ok((outcome.revision, true, vec![StepResult::Deleted(count as i64)]));
            }
            [Step::Get { key }] => {
                let (revision, found) = service.read(RangeRequest::of(one(key)), consistency).await?;
                return Ok((revision, true, vec![got(&found.items)]));
            }
            _ => {}
        }
    }
    let txn = command::Txn {
        compares: compares.iter().map(compare).collect(),
        success: then.iter().map(op).collect(),
        failure: otherwise.iter().map(op).collect(),
    };
    let (revision, done) = service.txn(txn, None, consistency).await?;
    Ok((revision, done.succeeded, results(&done)))
}
