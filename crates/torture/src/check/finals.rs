//! The end: all nodes are alike, and the last acknowledged write of every register is
//! there.
//!
//! Looks at no watcher, so that a lie that watchers and clients share is seen.

use std::collections::HashMap;

use super::Verdict;
use super::answer::{Answer, Effect, effect};
use crate::history::{Call, History, Nanos, NodeState, Operation, Outcome, keys};

const CHECK: &str = "finals";

/// Judges the nodes' states.
pub(super) fn check(history: &History, verdict: &mut Verdict) {
    verdict.count("finals.nodes", history.final_states.len() as u64);
    let Some((first, others)) = history.final_states.split_first() else {
        verdict.problem((CHECK, "no-nodes"), None, &[], || "nobody looked at the nodes in the end".to_owned());
        return;
    };
    verdict.count("finals.records", first.records.len() as u64);
    for other in others {
        alike(first, other, verdict);
    }
    registers(history, first, verdict);
    seed_keys(history, first, verdict);
}

fn alike(one: &NodeState, other: &NodeState, verdict: &mut Verdict) {
    let mut differ = |kind: &str, one_has: &dyn std::fmt::Debug, other_has: &dyn std::fmt::Debug| {
        verdict.problem((CHECK, kind), None, &[], || {
            format!("node {} ends with {one_has:?} and node {} with {other_has:?}", one.node, other.node)
        });
    };
    if one.revision != other.revision {
        differ("revision", &one.revision, &other.revision);
    }
    if one.applied_index != other.applied_index {
        differ("applied-index", &one.applied_index, &other.applied_index);
    }
    if one.state_hash != other.state_hash {
        differ("state-hash", &one.state_hash, &other.state_hash);
    }
    for key in one.records.keys().chain(other.records.keys()) {
        let (here, there) = (one.records.get(key), other.records.get(key));
        if here != there {
            verdict.problem((CHECK, "records"), Some(key), &[], || {
                format!("{key} is {here:?} on node {} and {there:?} on node {}", one.node, other.node)
            });
            break;
        }
    }
}

/// What is known of a register's writes.
#[derive(Debug, Default)]
struct Writes<'h> {
    /// The last acknowledged one: its revision, what it set, the operation.
    last: Option<(i64, Option<&'h str>, usize)>,
    /// What those of unknown outcome would set.
    unknown: Vec<Option<&'h str>>,
    /// It may end with a lease.
    leased: bool,
}

fn registers(history: &History, state: &NodeState, verdict: &mut Verdict) {
    let mut by_key: HashMap<&str, Writes<'_>> = HashMap::new();
    for (index, operation) in history.operations.iter().enumerate() {
        let Call::Txn { then, otherwise, .. } = &operation.call else { continue };
        let unknown = matches!(operation.outcome, Outcome::Unknown { .. });
        for (key, change) in then.iter().chain(otherwise).filter_map(effect) {
            if !key.starts_with(keys::REGISTER) {
                continue;
            }
            let writes = by_key.entry(key).or_default();
            writes.leased |= matches!(change, Effect::Put(_, lease) if lease != 0);
            if unknown {
                writes.unknown.push(value_of(change));
            }
        }
        let Some(answer) = Answer::of(operation) else { continue };
        for (key, change) in answer.effects().filter(|(key, _)| key.starts_with(keys::REGISTER)) {
            let writes = by_key.entry(key).or_default();
            if writes.last.is_none_or(|(revision, ..)| revision < answer.revision) {
                writes.last = Some((answer.revision, value_of(change), index));
            }
        }
    }
    verdict.count("finals.registers", by_key.len() as u64);
    for (key, writes) in by_key {
        let Some((revision, value, index)) = writes.last else { continue };
        let record = state.records.get(key);
        let found = record.map(|record| record.value.as_str());
        let as_written = found == value && record.is_none_or(|record| record.mod_revision == revision);
        let later = record.is_none_or(|record| record.mod_revision > revision);
        let excused = later && (writes.unknown.contains(&found) || (found.is_none() && writes.leased));
        if !as_written && !excused {
            verdict.problem((CHECK, "lost-write"), Some(key), &[index], || {
                format!(
                    "the last acknowledged write of {key} set {value:?} at revision {revision}, and the nodes end \
                     with {record:?}"
                )
            });
        }
    }
}

fn value_of(effect: Effect<'_>) -> Option<&str> {
    match effect {
        Effect::Put(value, _) => Some(value),
        Effect::Delete => None,
    }
}

/// A write of the seed's.
#[derive(Debug, Clone, Copy)]
struct SeedWrite<'h> {
    value: Option<&'h str>,
    begun: Nanos,
    /// `None` if it may take effect at any later time.
    ended: Option<Nanos>,
    index: usize,
}

fn seed_write(index: usize, operation: &Operation) -> Option<(&str, SeedWrite<'_>)> {
    let Call::SeedWrite { key, value } = &operation.call else { return None };
    let ended = match operation.outcome {
        Outcome::SeedWritten => Some(operation.ended),
        Outcome::Unknown { .. } => None,
        Outcome::Failed { .. } | Outcome::Done { .. } | Outcome::SeedFound { .. } => return None,
    };
    Some((key, SeedWrite { value: value.as_deref(), begun: operation.begun, ended, index }))
}

/// The last write of a key must not have ended before another one that was acknowledged
/// began.
fn seed_keys(history: &History, state: &NodeState, verdict: &mut Verdict) {
    let mut by_key: HashMap<&str, Vec<SeedWrite<'_>>> = HashMap::new();
    for (index, operation) in history.operations.iter().enumerate() {
        if let Some((key, write)) = seed_write(index, operation) {
            by_key.entry(key).or_default().push(write);
        }
    }
    verdict.count("finals.seed_keys", by_key.len() as u64);
    for (key, writes) in by_key {
        let acknowledged = writes.iter().filter(|write| write.ended.is_some());
        let Some(last) = acknowledged.max_by_key(|write| write.begun) else { continue };
        let found = state.records.get(key).map(|record| record.value.as_str());
        let mut candidates = writes.iter().filter(|write| write.value == found);
        if !candidates.any(|write| write.ended.is_none_or(|ended| ended >= last.begun)) {
            verdict.problem((CHECK, "lost-write"), Some(key), &[last.index], || {
                format!(
                    "the last acknowledged write of {key} set {:?} and the nodes end with {found:?}",
                    last.value
                )
            });
        }
    }
}
