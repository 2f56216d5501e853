//! A store that does what is right, and the one place where tests build histories.
//!
//! The order in which calls are given to a [`Scene`] is the order in which they take
//! effect; their times are free.

use std::collections::{BTreeMap, HashMap};

use crate::history::{
    Call, Compare, Event, History, Holding, Nanos, NodeState, Operation, Outcome, Record, Step, StepResult,
    WatchLog, WatchNote, Way,
};

/// A store in memory.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) revision: i64,
    records: BTreeMap<String, Record>,
    past: HashMap<String, Vec<(i64, Option<Record>)>>,
    /// All changes: when they happened, and what.
    pub(super) changes: Vec<(Nanos, Vec<Event>)>,
}

impl Model {
    pub(super) fn new() -> Self {
        Self { revision: 1, records: BTreeMap::new(), past: HashMap::new(), changes: Vec::new() }
    }

    pub(super) fn record(&self, key: &str) -> Option<&Record> {
        self.records.get(key)
    }

    fn record_at(&self, key: &str, revision: i64) -> Option<Record> {
        let past = self.past.get(key)?;
        let count = past.partition_point(|(at, _)| *at <= revision);
        past.get(count.checked_sub(1)?)?.1.clone()
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::ModRevision { key, revision } => {
                self.record(key).map_or(0, |record| record.mod_revision) == *revision
            }
            Compare::CreateRevision { key, revision } => {
                self.record(key).map_or(0, |record| record.create_revision) == *revision
            }
            Compare::Value { key, value } => self.record(key).is_some_and(|record| record.value == *value),
        }
    }

    fn change(&mut self, key: &str, revision: i64, record: Option<Record>) -> Event {
        match &record {
            Some(record) => drop(self.records.insert(key.to_owned(), record.clone())),
            None => drop(self.records.remove(key)),
        }
        self.past.entry(key.to_owned()).or_default().push((revision, record.clone()));
        Event { key: key.to_owned(), mod_revision: revision, record }
    }

    fn step(&mut self, step: &Step, revision: i64, events: &mut Vec<Event>) -> StepResult {
        match step {
            Step::Get { key } => StepResult::Got(self.record(key).cloned()),
            Step::Put { key, value, lease } => {
                let before = self.record(key);
                let record = Record {
                    value: value.clone(),
                    create_revision: before.map_or(revision, |before| before.create_revision),
                    mod_revision: revision,
                    version: before.map_or(1, |before| before.version + 1),
                    lease: lease.unwrap_or_default(),
                };
                events.push(self.change(key, revision, Some(record)));
                StepResult::Put
            }
            Step::Delete { key } => {
                let there = self.record(key).is_some();
                if there {
                    events.push(self.change(key, revision, None));
                }
                StepResult::Deleted(i64::from(there))
            }
        }
    }

    /// Carries a call out.
    pub(super) fn run(&mut self, call: &Call, at: Nanos) -> Outcome {
        let mut events = Vec::new();
        let revision = self.revision + 1;
        let (succeeded, steps) = match call {
            Call::Txn { compares, then, otherwise, .. } => {
                let succeeded = compares.iter().all(|compare| self.holds(compare));
                (succeeded, if succeeded { then.clone() } else { otherwise.clone() })
            }
            Call::SeedWrite { key, value: Some(value) } => (true, vec![put(key, value)]),
            Call::SeedWrite { key, value: None } => (true, vec![delete(key)]),
            Call::SeedRead { key } => {
                let value = self.record(key).map_or_else(String::new, |record| record.value.clone());
                return Outcome::SeedFound { value };
            }
        };
        let results = steps.iter().map(|step| self.step(step, revision, &mut events)).collect();
        if !events.is_empty() {
            self.revision = revision;
            self.changes.push((at, events));
        }
        match call {
            Call::Txn { .. } => Outcome::Done { revision: self.revision, succeeded, results },
            Call::SeedWrite { .. } | Call::SeedRead { .. } => Outcome::SeedWritten,
        }
    }

    /// What a node finds that is only so far.
    pub(super) fn run_local(&self, keys: &[&str], revision: i64) -> Outcome {
        let results = keys.iter().map(|key| StepResult::Got(self.record_at(key, revision))).collect();
        Outcome::Done { revision, succeeded: true, results }
    }

    /// Ends a lease: all its keys go at one revision.
    pub(super) fn end_lease(&mut self, lease: i64, at: Nanos) {
        let keys: Vec<String> = self
            .records
            .iter()
            .filter(|(_, record)| record.lease == lease)
            .map(|(key, _)| key.clone())
            .collect();
        if !keys.is_empty() {
            self.revision += 1;
            let revision = self.revision;
            let events = keys.iter().map(|key| self.change(key, revision, None)).collect();
            self.changes.push((at, events));
        }
    }

    pub(super) fn node_state(&self, node: u64) -> NodeState {
        NodeState {
            node,
            revision: self.revision,
            applied_index: self.revision as u64 + 7,
            state_hash: format!("hash-{}", self.revision),
            records: self.records.clone(),
        }
    }
}

pub(super) fn get(key: &str) -> Step {
    Step::Get { key: key.to_owned() }
}

pub(super) fn put(key: &str, value: &str) -> Step {
    Step::Put { key: key.to_owned(), value: value.to_owned(), lease: None }
}

pub(super) fn put_leased(key: &str, value: &str, lease: i64) -> Step {
    Step::Put { key: key.to_owned(), value: value.to_owned(), lease: Some(lease) }
}

pub(super) fn delete(key: &str) -> Step {
    Step::Delete { key: key.to_owned() }
}

pub(super) fn mod_revision(key: &str, revision: i64) -> Compare {
    Compare::ModRevision { key: key.to_owned(), revision }
}

pub(super) fn txn(compares: &[Compare], then: &[Step], otherwise: &[Step]) -> Call {
    Call::Txn {
        compares: compares.to_vec(),
        then: then.to_vec(),
        otherwise: otherwise.to_vec(),
        local: false,
    }
}

pub(super) fn steps(then: &[Step]) -> Call {
    txn(&[], then, &[])
}

pub(super) fn seed_write(key: &str, value: Option<&str>) -> Call {
    Call::SeedWrite { key: key.to_owned(), value: value.map(str::to_owned) }
}

pub(super) fn seed_read(key: &str) -> Call {
    Call::SeedRead { key: key.to_owned() }
}

pub(super) fn unknown() -> Outcome {
    Outcome::Unknown { reason: "no answer".to_owned() }
}

pub(super) fn failed() -> Outcome {
    Outcome::Failed { reason: "no leader".to_owned() }
}

/// A history in the making.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) model: Model,
    pub(super) history: History,
}

impl Scene {
    pub(super) fn new() -> Self {
        Self { model: Model::new(), history: History::default() }
    }

    pub(super) fn record(&mut self, span: (Nanos, Nanos), call: Call, outcome: Outcome) -> usize {
        let index = self.history.operations.len();
        let way = match call {
            Call::Txn { .. } => Way::Grpc,
            Call::SeedWrite { .. } | Call::SeedRead { .. } => Way::Seed,
        };
        self.history.operations.push(Operation {
            client: index as u32 % 5,
            node: 1 + index as u64 % 3,
            way,
            begun: span.0,
            ended: span.1,
            call,
            outcome,
        });
        index
    }

    /// A call that is answered.
    pub(super) fn call(&mut self, span: (Nanos, Nanos), call: Call) -> usize {
        let outcome = self.model.run(&call, span.0);
        self.record(span, call, outcome)
    }

    /// A call that takes effect and is not answered.
    pub(super) fn unanswered(&mut self, span: (Nanos, Nanos), call: Call) -> usize {
        self.model.run(&call, span.0);
        self.record(span, call, unknown())
    }

    /// A read of a node's own state.
    pub(super) fn local(&mut self, span: (Nanos, Nanos), keys: &[&str], revision: i64) -> usize {
        let outcome = self.model.run_local(keys, revision);
        let then = keys.iter().map(|key| get(key)).collect();
        let call = Call::Txn { compares: Vec::new(), then, otherwise: Vec::new(), local: true };
        self.record(span, call, outcome)
    }

    pub(super) fn hold(&mut self, client: u32, span: (Nanos, Nanos), lease: i64, fencing: i64) {
        let (from, until) = span;
        self.history.holdings.push(Holding { client, lock: "l".to_owned(), lease, fencing, from, until });
    }

    /// Adds two watchers of all keys, and the nodes at the end.
    pub(super) fn finish(mut self) -> History {
        for (watcher, way) in [(0, Way::Http), (1, Way::Grpc)] {
            let notes = watch_notes(&self.model, "", 2, 1 + watcher);
            let log = WatchLog { watcher: watcher as u32, way, prefix: String::new(), notes };
            self.history.watches.insert(watcher, log);
        }
        self.history.final_states = (1..=3).map(|node| self.model.node_state(node)).collect();
        self.history
    }
}

/// What a watcher is told that opens once, with so many revisions in a message.
pub(super) fn watch_notes(model: &Model, prefix: &str, from: i64, group: usize) -> Vec<WatchNote> {
    let mut notes = vec![WatchNote::Opened { at: 0, node: 1, from_revision: from }];
    for changes in model.changes.chunks(group) {
        let at = changes.iter().map(|(at, _)| *at).max().unwrap_or_default() + 1_000_000_000;
        let events: Vec<Event> = changes
            .iter()
            .flat_map(|(_, events)| events)
            .filter(|event| event.mod_revision >= from && event.key.starts_with(prefix))
            .cloned()
            .collect();
        if !events.is_empty() {
            notes.push(WatchNote::Events { at, events });
        }
    }
    notes
}
