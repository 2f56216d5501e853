//! Linearizability by revision: strict serializability of all that was answered.
//!
//! The order of changes says in which order writes took effect, and every answer names
//! the revision that it reflects. So there is nothing to search for: each answer must be
//! exactly what the state at its revision gives, each change must be somebody's work, and
//! revisions must follow real time. Only the seed's calls, which tell no revision, have
//! some room: between what had been told before they began and what can have happened
//! before they ended.

use super::Verdict;
use super::answer::{Answer, CHECK};
use super::floors::{Ceilings, Floor, floors};
use super::settle::Owners;
use super::truth::{Fact, Truth};
use crate::history::{Call, History, Operation, Outcome, Record};

/// Judges all operations.
pub(super) fn check(history: &History, truth: &Truth<'_>, verdict: &mut Verdict) {
    let last = truth.last_revision();
    let mut owners = Owners::claimed(history, truth, verdict);
    let first = floors(history, last, |index, _| answered(history, index));
    owners.settle_puts(&first);
    let ceilings = owners.ceilings();
    let told = floors(history, last, |index, floor| {
        let operation = history.operations.get(index)?;
        match &operation.outcome {
            Outcome::Done { .. } => answered(history, index),
            Outcome::SeedWritten => {
                owners.settled(index).or_else(|| deleted_at(truth, operation, floor, &ceilings))
            }
            Outcome::SeedFound { value } => found_at(truth, operation, value, floor, &ceilings),
            Outcome::Failed { .. } | Outcome::Unknown { .. } => None,
        }
    });
    owners.settle_deletes(&told, &ceilings);
    owners.check_all_owned(&told, verdict);
    let judge = Judge { truth, owners: &owners, ceilings: &ceilings };
    for (index, (operation, floor)) in history.operations.iter().zip(&told).enumerate() {
        judge.operation(index, operation, *floor, verdict);
    }
}

/// The revision with which a transaction was answered.
fn answered(history: &History, index: usize) -> Option<i64> {
    history.operations.get(index).and_then(Answer::of).map(|answer| answer.revision)
}

/// The first revision at which the seed's read can have found that value.
fn found_at(
    truth: &Truth<'_>,
    operation: &Operation,
    value: &str,
    floor: Floor,
    ceilings: &Ceilings,
) -> Option<i64> {
    let Call::SeedRead { key } = &operation.call else { return None };
    first_state(truth, key, floor.revision, ceilings.at(operation.ended), |record| {
        record.map_or("", |record| record.value.as_str()) == value
    })
}

/// The first revision at which the key of the seed's deletion was gone, by that or before.
fn deleted_at(truth: &Truth<'_>, operation: &Operation, floor: Floor, ceilings: &Ceilings) -> Option<i64> {
    let Call::SeedWrite { key, value: None } = &operation.call else { return None };
    first_state(truth, key, floor.revision, ceilings.at(operation.ended), |record| record.is_none())
}

/// The first revision of a range at which a key's state is such.
fn first_state(
    truth: &Truth<'_>,
    key: &str,
    from: i64,
    to: i64,
    such: impl Fn(Option<&Record>) -> bool,
) -> Option<i64> {
    if such(truth.record(key, from)) {
        return Some(from);
    }
    let record = |fact: &Fact<'_>| (fact.event.mod_revision, such(fact.event.record.as_ref()));
    let later = truth.after(key, from).map(record).take_while(|(revision, _)| *revision <= to);
    later.filter(|(_, such)| *such).map(|(revision, _)| revision).next()
}

struct Judge<'a, 'h> {
    truth: &'a Truth<'h>,
    owners: &'a Owners<'a, 'h>,
    ceilings: &'a Ceilings,
}

impl Judge<'_, '_> {
    fn operation(&self, index: usize, operation: &Operation, floor: Floor, verdict: &mut Verdict) {
        if operation.ended < operation.begun {
            verdict.problem((CHECK, "malformed"), None, &[index], || {
                format!("an operation ended at {} and began at {}", operation.ended, operation.begun)
            });
        }
        match (&operation.call, &operation.outcome) {
            (Call::Txn { .. }, Outcome::Done { .. }) => {
                let Some(answer) = Answer::of(operation) else { return };
                self.answer(index, &answer, floor, verdict);
            }
            (Call::SeedWrite { key, value: Some(_) }, Outcome::SeedWritten) => {
                verdict.count("revision.seed_writes", 1);
                self.seed_put(index, key, floor, verdict);
            }
            (Call::SeedWrite { key, value: None }, Outcome::SeedWritten) => {
                verdict.count("revision.seed_writes", 1);
                self.seed_delete(index, operation, key, floor, verdict);
            }
            (Call::SeedRead { key }, Outcome::SeedFound { value }) => {
                verdict.count("revision.seed_reads", 1);
                if found_at(self.truth, operation, value, floor, self.ceilings).is_none() {
                    let to = self.ceilings.at(operation.ended);
                    verdict.problem((CHECK, "stale-read"), Some(key), &floor.with(index), || {
                        format!(
                            "the seed's read of {key} found {value:?}, which it was at no revision from {}, told by \
                             {} before it began, to {to}, the last that can have been there when it ended",
                            floor.revision,
                            floor.teller()
                        )
                    });
                }
            }
            (_, Outcome::Failed { .. }) => verdict.count("revision.failed", 1),
            (_, Outcome::Unknown { .. }) => {
                let settled = self.owners.settled(index).is_some();
                verdict.count("revision.unknown", 1);
                verdict.count("revision.unknown_that_happened", u64::from(settled));
            }
            (_, Outcome::Done { .. } | Outcome::SeedWritten | Outcome::SeedFound { .. }) => {
                verdict.problem((CHECK, "malformed"), None, &[index], || {
                    "the outcome is not one of such a call".to_owned()
                });
            }
        }
    }

    fn answer(&self, index: usize, answer: &Answer<'_>, floor: Floor, verdict: &mut Verdict) {
        let (writes, revision) = (answer.writes(), answer.revision);
        let what = match (writes, answer.local) {
            (true, _) => "revision.writes",
            (false, true) => "revision.local_reads",
            (false, false) => "revision.reads",
        };
        verdict.count(what, 1);
        verdict.count("revision.compares_that_failed", u64::from(!answer.succeeded));
        let key = answer.steps.first().map(super::answer::step_key);
        if !answer.is_well_formed() {
            verdict.problem((CHECK, "malformed"), key, &[index], || {
                format!("the steps {:?} can't give {:?}", answer.steps, answer.results)
            });
            return;
        }
        let last = self.truth.last_revision();
        if revision > last {
            // A lost write is told of already.
            if !writes {
                verdict.problem((CHECK, "future-revision"), key, &[index], || {
                    format!("an answer names revision {revision}, and the last change has revision {last}")
                });
            }
            return;
        }
        if writes && revision <= floor.revision {
            verdict.problem((CHECK, "real-time"), key, &floor.with(index), || {
                format!(
                    "a write was acknowledged at revision {revision}, and before it began {} had told revision {}",
                    floor.teller(),
                    floor.revision
                )
            });
        }
        if !writes && !answer.local && revision < floor.revision {
            verdict.problem((CHECK, "stale-read"), key, &floor.with(index), || {
                format!(
                    "a linearizable read reflects revision {revision}, and before it began {} had told revision {}",
                    floor.teller(),
                    floor.revision
                )
            });
        }
        answer.judge(index, self.truth, verdict);
    }

    fn seed_put(&self, index: usize, key: &str, floor: Floor, verdict: &mut Verdict) {
        match self.owners.settled(index) {
            None => verdict.problem((CHECK, "lost-write"), Some(key), &[index], || {
                format!(
                    "the seed's write of {key} was acknowledged, and no change after revision {} is its work",
                    floor.revision
                )
            }),
            Some(revision) if revision <= floor.revision => {
                verdict.problem((CHECK, "real-time"), Some(key), &floor.with(index), || {
                    format!(
                        "the seed's write of {key} took effect at revision {revision}, and before it began {} had \
                         told revision {}",
                        floor.teller(),
                        floor.revision
                    )
                });
            }
            Some(_) => {}
        }
    }

    fn seed_delete(
        &self,
        index: usize,
        operation: &Operation,
        key: &str,
        floor: Floor,
        verdict: &mut Verdict,
    ) {
        if deleted_at(self.truth, operation, floor, self.ceilings).is_none() {
            let to = self.ceilings.at(operation.ended);
            verdict.problem((CHECK, "lost-write"), Some(key), &floor.with(index), || {
                format!(
                    "the seed's deletion of {key} was acknowledged, and the key was there at all revisions from {}, \
                     told by {} before it began, to {to}, the last that can have been there when it ended",
                    floor.revision,
                    floor.teller()
                )
            });
        }
    }
}
