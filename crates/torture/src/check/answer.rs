//! What a transaction says of itself: what it asked, what it was told, what it changed.
//!
//! Reads an operation without judging it, and judges it by the state that the order of
//! changes gives at its revision. Nothing here knows times.

use super::Verdict;
use super::truth::{Fact, Truth};
use crate::history::{Call, Compare, Operation, Outcome, Record, Step, StepResult};

/// The checker that judges answers.
pub(super) const CHECK: &str = "revision";

/// A transaction that was answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer<'h> {
    /// The revision that was told.
    pub(super) revision: i64,
    /// Whether the compares were said to hold.
    pub(super) succeeded: bool,
    /// The compares.
    pub(super) compares: &'h [Compare],
    /// The steps of the branch that was said to be taken.
    pub(super) steps: &'h [Step],
    /// What they gave.
    pub(super) results: &'h [StepResult],
    /// Whether it read the node's own state.
    pub(super) local: bool,
}

/// What a step did to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect<'h> {
    /// It was set, with a lease or with 0.
    Put(&'h str, i64),
    /// It was deleted.
    Delete,
}

impl<'h> Answer<'h> {
    /// The answer, if the operation is a transaction that was answered.
    pub(super) fn of(operation: &'h Operation) -> Option<Self> {
        let Call::Txn { compares, then, otherwise, local } = &operation.call else { return None };
        let Outcome::Done { revision, succeeded, results } = &operation.outcome else { return None };
        let steps = if *succeeded { then } else { otherwise };
        Some(Self { revision: *revision, succeeded: *succeeded, compares, steps, results, local: *local })
    }

    /// Each step with its result.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&'h Step, &'h StepResult)> + use<'h> {
        self.steps.iter().zip(self.results)
    }

    /// What it changed, by its own account.
    pub(super) fn effects(&self) -> impl Iterator<Item = (&'h str, Effect<'h>)> + use<'h> {
        self.pairs().filter_map(|(step, result)| match (step, result) {
            (Step::Delete { .. }, StepResult::Deleted(0)) => None,
            _ => effect(step),
        })
    }

    /// Whether it changed anything.
    pub(super) fn writes(&self) -> bool {
        self.effects().next().is_some()
    }

    /// What it read: keys and what was there.
    pub(super) fn gets(&self) -> impl Iterator<Item = (&'h str, Option<&'h Record>)> + use<'h> {
        self.pairs().filter_map(|(step, result)| match (step, result) {
            (Step::Get { key }, StepResult::Got(record)) => Some((key.as_str(), record.as_ref())),
            _ => None,
        })
    }

    /// Whether each step was answered as such a step is.
    pub(super) fn is_well_formed(&self) -> bool {
        self.steps.len() == self.results.len()
            && self.pairs().all(|(step, result)| {
                matches!(
                    (step, result),
                    (Step::Get { .. }, StepResult::Got(_))
                        | (Step::Put { .. }, StepResult::Put)
                        | (Step::Delete { .. }, StepResult::Deleted(0 | 1))
                )
            })
            && !(self.local && self.writes())
    }

    /// Judges compares and results by the state at the revision that was told.
    pub(super) fn judge(&self, index: usize, truth: &Truth<'_>, verdict: &mut Verdict) {
        let before = if self.writes() { self.revision - 1 } else { self.revision };
        let held = self.compares.iter().all(|compare| holds(compare, truth, before));
        if held != self.succeeded {
            verdict.problem((CHECK, "compare"), self.compares.first().map(compared), &[index], || {
                let state: Vec<_> = self.compares.iter().map(compared).map(|key| truth.record(key, before)).collect();
                format!(
                    "a transaction at revision {} was told succeeded = {}, and its compares {:?} say {held} of the \
                     state {state:?}",
                    self.revision, self.succeeded, self.compares
                )
            });
        }
        // What the steps before have changed.
        let mut changed: Vec<(&str, Option<&Record>)> = Vec::new();
        for (step, result) in self.pairs() {
            let key = step_key(step);
            let earlier = changed.iter().rev().find(|(other, _)| *other == key);
            let state = earlier.map_or_else(|| truth.record(key, before), |(_, record)| *record);
            match (step, result) {
                (Step::Get { .. }, StepResult::Got(got)) => {
                    if got.as_ref() != state {
                        let kind = if self.local { "local-read" } else { "wrong-read" };
                        verdict.problem((CHECK, kind), Some(key), &[index], || {
                            format!(
                                "a read at revision {} found {key} = {got:?}, and the state there is {state:?}",
                                self.revision
                            )
                        });
                    }
                }
                (Step::Put { .. }, _) => changed.push((key, truth.record(key, self.revision))),
                (Step::Delete { .. }, StepResult::Deleted(count)) => {
                    if *count != i64::from(state.is_some()) {
                        verdict.problem((CHECK, "wrong-delete"), Some(key), &[index], || {
                            format!(
                                "a deletion of {key} at revision {} was told {count}, and the state before is \
                                 {state:?}",
                                self.revision
                            )
                        });
                    }
                    changed.push((key, None));
                }
                (Step::Get { .. } | Step::Delete { .. }, _) => {}
            }
        }
    }
}

/// What a step does, if it is more than a read.
pub(super) fn effect(step: &Step) -> Option<(&str, Effect<'_>)> {
    match step {
        Step::Get { .. } => None,
        Step::Put { key, value, lease } => Some((key, Effect::Put(value, lease.unwrap_or_default()))),
        Step::Delete { key } => Some((key, Effect::Delete)),
    }
}

/// The key of a step.
pub(super) fn step_key(step: &Step) -> &str {
    match step {
        Step::Get { key } | Step::Put { key, .. } | Step::Delete { key } => key,
    }
}

/// The key of a compare.
pub(super) fn compared(compare: &Compare) -> &str {
    match compare {
        Compare::ModRevision { key, .. } | Compare::CreateRevision { key, .. } | Compare::Value { key, .. } => key,
    }
}

/// Whether a compare holds of the state after a revision.
pub(super) fn holds(compare: &Compare, truth: &Truth<'_>, revision: i64) -> bool {
    let record = truth.record(compared(compare), revision);
    match compare {
        Compare::ModRevision { revision, .. } => record.map_or(0, |record| record.mod_revision) == *revision,
        Compare::CreateRevision { revision, .. } => record.map_or(0, |record| record.create_revision) == *revision,
        Compare::Value { value, .. } => record.is_some_and(|record| record.value == *value),
    }
}

/// Whether a fact is what an effect leaves behind.
pub(super) fn matches(fact: &Fact<'_>, key: &str, effect: Effect<'_>) -> bool {
    fact.event.key == key
        && match (&fact.event.record, effect) {
            (Some(record), Effect::Put(value, lease)) => record.value == value && record.lease == lease,
            (None, Effect::Delete) => true,
            (Some(_), Effect::Delete) | (None, Effect::Put(..)) => false,
        }
}

/// Whether an operation, carried out at a revision that exists, would have made exactly
/// the changes there.
pub(super) fn explains(operation: &Operation, truth: &Truth<'_>, revision: i64) -> bool {
    let Some(facts) = truth.at(revision) else { return false };
    let effects: Vec<(&str, Effect<'_>)> = match &operation.call {
        Call::Txn { compares, then, otherwise, .. } => {
            let held = compares.iter().all(|compare| holds(compare, truth, revision - 1));
            (if held { then } else { otherwise }).iter().filter_map(effect).collect()
        }
        Call::SeedWrite { key, value: Some(value) } => vec![(key, Effect::Put(value, 0))],
        Call::SeedWrite { key, value: None } => vec![(key, Effect::Delete)],
        Call::SeedRead { .. } => return false,
    };
    let mut left = facts.len();
    for (key, effect) in effects {
        if facts.iter().any(|fact| matches(fact, key, effect)) {
            left = left.saturating_sub(1);
        } else if effect != Effect::Delete || truth.record(key, revision - 1).is_some() {
            return false;
        }
    }
    left == 0
}
