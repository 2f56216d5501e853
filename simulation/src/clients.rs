//! How clients reach the simulated nodes: by their services, as if over a connection.
//!
//! What clients do and how it is judged is the torture's: see `kvorum_torture::workload`.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use kvorum::NodeId;
use kvorum::command::{self, Command, Op, OpOutcome, OutcomeResult, PutOp, Relation, Target, TxnOutcome};
use kvorum::error::Error;
use kvorum::keyspace::{KeyRange, KeyValue, RangeRequest};
use kvorum::service::{Consistency, Service};
use kvorum_torture::dice::Dice;
use kvorum_torture::history::{Call, Compare, Outcome, Record, Step, StepResult, Way};
use kvorum_torture::workload::{Endpoint, Granted, Renewal, Wire};

use crate::cluster::Cluster;
use crate::trace;

/// How long a client waits that is patient: longer than a node takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// One client's way to all nodes.
pub(crate) struct Direct {
    pub(crate) cluster: Rc<Cluster>,
}

/// How often a write under an idempotency key is made at most.
const ATTEMPTS: usize = 3;

/// What became of a call.
type Told = Result<(i64, bool, Vec<StepResult>), Error>;

/// What became of a question.
enum Heard<T> {
    /// Nobody was there to be asked.
    Nobody,
    /// The node answered.
    Answer(T),
    /// It was asked, and there was no answer.
    Nothing(String),
}

impl Direct {
    /// Asks a node as one of its tasks, which ends with it.
    async fn ask<T, F>(
        &self,
        node: NodeId,
        dice: &mut Dice,
        work: impl FnOnce(Service) -> F + Send + 'static,
    ) -> Heard<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let Some((scope, service)) = self.cluster.service(node) else { return Heard::Nobody };
        let asking = scope.handle().spawn(work(service));
        let stop = asking.abort_handle();
        let patience = if dice.chance(10) { dice.millis(1, 500) } else { PATIENCE };
        match tokio::time::timeout(patience, asking).await {
            Ok(Ok(answer)) => Heard::Answer(answer),
            Ok(Err(gone)) => Heard::Nothing(gone.to_string()),
            Err(_) => {
                // Some servers notice that their client has gone.
                if dice.chance(50) {
                    stop.abort();
                }
                Heard::Nothing("the client gave up".to_owned())
            }
        }
    }

    /// Makes a call once, at one node.
    async fn attempt(
        &self,
        node: NodeId,
        call: &Call,
        is_plain: bool,
        token: Option<Bytes>,
        dice: &mut Dice,
    ) -> Outcome {
        let (asked, named) = (call.clone(), token.clone());
        let heard = self
            .ask(node, dice, move |service| async move {
                match &asked {
                    Call::Txn { .. } => {
                        let done = carry_out(&service, &asked, is_plain, named).await;
                        done.map(|(revision, succeeded, results)| Outcome::Done {
                            revision,
                            succeeded,
                            results,
                        })
                    }
                    Call::SeedWrite { key, value } => {
                        seed_write(&service, key, value.as_deref(), named).await
                    }
                    Call::SeedRead { key } => seed_read(&service, key).await,
                }
            })
            .await;
        let outcome = match heard {
            Heard::Nobody => Outcome::Failed { reason: "not sent: nobody is there".to_owned() },
            Heard::Answer(Ok(outcome)) => outcome,
            Heard::Answer(Err(error)) => told(&error),
            Heard::Nothing(reason) => Outcome::Unknown { reason },
        };
        trace::note(|| format!("a client at {node}: {call:?} under {token:?} -> {outcome:?}"));
        outcome
    }
}

impl Wire for Direct {
    fn choose_way(&mut self, call: &Call, _dice: &mut Dice) -> Way {
        match call {
            Call::Txn { .. } => Way::Grpc,
            Call::SeedWrite { .. } | Call::SeedRead { .. } => Way::Seed,
        }
    }

    async fn call(&mut self, _way: Way, endpoint: &Endpoint, call: &Call, dice: &mut Dice) -> Outcome {
        let node = endpoint.node;
        let is_plain = dice.chance(50);
        let token =
            (!call.only_reads() && dice.chance(20)).then(|| Bytes::from(format!("{:016x}", dice.next())));
        let attempts = if token.is_some() { ATTEMPTS } else { 1 };
        let mut outcome = self.attempt(node, call, is_plain, token.clone(), dice).await;
        for _ in 1..attempts {
            if !matches!(outcome, Outcome::Unknown { .. }) {
                break;
            }
            let pause = dice.millis(1, 300);
            tokio::time::sleep(pause).await;
            let nodes = self.cluster.all();
            let node = *dice.pick(&nodes);
            let told = self.attempt(node, call, is_plain, token.clone(), dice).await;
            // That this attempt did nothing says nothing of the ones before it.
            if !matches!(told, Outcome::Failed { .. }) {
                outcome = told;
            }
        }
        outcome
    }

    async fn grant(&mut self, endpoint: &Endpoint, ttl: i64, dice: &mut Dice) -> Option<Granted> {
        let granting = move |service: Service| async move { service.lease_grant(0, ttl).await };
        let heard = self.ask(endpoint.node, dice, granting).await;
        let Heard::Answer(Ok(granted)) = heard else { return None };
        trace::note(|| format!("a client at {}: {granted:?}", endpoint.node));
        Some(Granted { id: granted.id, ttl: seconds(granted.ttl)? })
    }

    async fn keep_alive(&mut self, endpoint: &Endpoint, id: i64, dice: &mut Dice) -> Renewal {
        let renewing = move |service: Service| async move { service.lease_keep_alive(id).await };
        let heard = self.ask(endpoint.node, dice, renewing).await;
        let Heard::Answer(Ok(renewed)) = heard else { return Renewal::Unknown };
        trace::note(|| format!("a client at {}: lease {id}: {renewed:?}", endpoint.node));
        seconds(renewed.ttl).map_or(Renewal::Gone, Renewal::Renewed)
    }

    /// The lock service belongs to the gRPC front, which is not simulated.
    async fn acquire(&mut self, _endpoint: &Endpoint, _name: &str, _lease: i64) -> Option<String> {
        None
    }

    async fn release(&mut self, _endpoint: &Endpoint, _key: &str) {}

    async fn revoke(&mut self, endpoint: &Endpoint, id: i64, dice: &mut Dice) {
        let revoking = move |service: Service| async move { service.lease_revoke(id).await.is_ok() };
        if let Heard::Answer(is_revoked) = self.ask(endpoint.node, dice, revoking).await {
            trace::note(|| format!("a client at {}: lease {id} revoked: {is_revoked}", endpoint.node));
        }
    }
}

fn seconds(number: i64) -> Option<Duration> {
    u64::try_from(number).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs)
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

fn put(key: &str, value: &str, lease: i64) -> Command {
    let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()));
    Command::of(command::Write::Put { key, value, lease })
}

/// Carries a call out; what is a single read or write goes the way of those if
/// `is_plain`.
async fn carry_out(service: &Service, call: &Call, is_plain: bool, token: Option<Bytes>) -> Told {
    let Call::Txn { compares, then, otherwise, local } = call else {
        unreachable!("only transactions are carried out as such")
    };
    let idempotency = token.map(|token| service.idempotency(token)).transpose()?;
    let consistency = if *local { Consistency::Local } else { Consistency::Linearizable };
    if is_plain && compares.is_empty() {
        match then.as_slice() {
            [Step::Put { key, value, lease }] => {
                let command = Command { idempotency, ..put(key, value, lease.unwrap_or(0)) };
                let outcome = service.write(command).await?;
                return Ok((outcome.revision, true, vec![StepResult::Put]));
            }
            [Step::Delete { key }] => {
                let command = Command { idempotency, ..Command::delete(key.clone()) };
                let outcome = service.write(command).await?;
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
    let (revision, done) = service.txn(txn, idempotency, consistency).await?;
    Ok((revision, done.succeeded, results(&done)))
}

/// What the seed's `/write` asks of the service.
async fn seed_write(
    service: &Service,
    key: &str,
    value: Option<&str>,
    token: Option<Bytes>,
) -> Result<Outcome, Error> {
    let command = match value {
        Some(value) => put(key, value, 0),
        None => Command::delete(key.to_owned()),
    };
    let idempotency = token.map(|token| service.idempotency(token)).transpose()?;
    let command = Command { idempotency, ..command };
    service.write(command).await.map(|_| Outcome::SeedWritten)
}

/// What the seed's `/read` asks of it.
async fn seed_read(service: &Service, key: &str) -> Result<Outcome, Error> {
    let (_, found) = service.read(RangeRequest::of(one(key)), Consistency::Linearizable).await?;
    let value = found.items.first().map(|item| String::from_utf8_lossy(&item.record.value).into_owned());
    Ok(Outcome::SeedFound { value: value.unwrap_or_default() })
}
