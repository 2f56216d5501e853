//! Whose work each change is.
//!
//! A write that was answered with a revision claims it. What is left is the end of a
//! lease, or the work of an operation that was told no revision: one whose outcome is
//! unknown, or a call of the seed's. Those are found by what they would have changed,
//! and each is good for one change at most. A change that nobody could have made is a
//! lie of its own.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use super::Verdict;
use super::answer::{Answer, CHECK, Effect, effect, explains, matches};
use super::floors::{Ceilings, Floor};
use super::truth::{Fact, Truth};
use crate::history::{Call, History, Nanos, Operation, Outcome, keys};

/// Who made a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// Not known.
    Nobody,
    /// An operation.
    Operation(usize),
    /// The end of a lease.
    Lease,
    /// The lock service.
    Service,
}

/// Who made which change, and at which revision an operation took effect.
#[derive(Debug)]
pub(super) struct Owners<'a, 'h> {
    truth: &'a Truth<'h>,
    history: &'h History,
    /// By place in the order of changes.
    by_place: Vec<Owner>,
    /// Of the operations that were told no revision.
    settled: HashMap<usize, i64>,
}

/// Operations by what they would set or delete.
type Index<'h, K> = HashMap<K, Vec<usize>>;

impl<'a, 'h> Owners<'a, 'h> {
    /// Who made which change, so far as answers with revisions and leases tell it.
    pub(super) fn claimed(history: &'h History, truth: &'a Truth<'h>, verdict: &mut Verdict) -> Self {
        let mut owners =
            Self { truth, history, by_place: vec![Owner::Nobody; truth.len()], settled: HashMap::new() };
        for (index, operation) in history.operations.iter().enumerate() {
            if let Some(answer) = Answer::of(operation).filter(Answer::writes) {
                owners.claim(index, &answer, verdict);
            }
        }
        for place in owners.unowned() {
            let Some((_, facts)) = truth.change(place) else { continue };
            if is_end_of_lease(facts) {
                owners.set(place, Owner::Lease);
                verdict.count("revision.lease_ends", 1);
            } else if facts.iter().all(|fact| fact.event.key.starts_with(keys::MUTEX)) {
                owners.set(place, Owner::Service);
                verdict.count("revision.changes_by_the_lock_service", 1);
            }
        }
        owners
    }

    /// The revision at which an operation that was told none took effect, if it did.
    pub(super) fn settled(&self, index: usize) -> Option<i64> {
        self.settled.get(&index).copied()
    }

    fn owner(&self, place: usize) -> Owner {
        self.by_place.get(place).copied().unwrap_or(Owner::Nobody)
    }

    fn set(&mut self, place: usize, owner: Owner) {
        if let Some(slot) = self.by_place.get_mut(place) {
            *slot = owner;
        }
    }

    fn unowned(&self) -> Vec<usize> {
        (0..self.by_place.len()).filter(|place| self.owner(*place) == Owner::Nobody).collect()
    }

    fn operation(&self, index: usize) -> &'h Operation {
        self.history.operations.get(index).expect("only places of operations are kept")
    }

    fn claim(&mut self, index: usize, answer: &Answer<'h>, verdict: &mut Verdict) {
        let key = answer.effects().next().map(|(key, _)| key);
        let Some(place) = self.truth.place(answer.revision) else {
            verdict.problem((CHECK, "lost-write"), key, &[index], || {
                format!(
                    "a write was acknowledged at revision {}, and no such change happened",
                    answer.revision
                )
            });
            return;
        };
        if let Owner::Operation(other) = self.owner(place) {
            verdict.problem((CHECK, "duplicate-revision"), key, &[other, index], || {
                format!("two writes were acknowledged at revision {}", answer.revision)
            });
            return;
        }
        self.set(place, Owner::Operation(index));
        let facts = self.truth.change(place).map(|(_, facts)| facts).unwrap_or_default();
        let all = answer.effects().all(|(key, effect)| facts.iter().any(|fact| matches(fact, key, effect)));
        if !all || answer.effects().count() != facts.len() {
            verdict.problem((CHECK, "lost-write"), key, &[index], || {
                let asked: Vec<_> = answer.effects().collect();
                format!(
                    "the write that was acknowledged at revision {} did {asked:?}, and what happened there is {}",
                    answer.revision,
                    told(facts)
                )
            });
        }
    }

    /// Finds who made the changes that set something. `floors` tell what had been told
    /// before an operation began.
    pub(super) fn settle_puts(&mut self, floors: &[Floor]) {
        let by_put: Index<'h, (&str, &str)> = self.index(is_unsettled, |effects, add| {
            for (key, effect) in effects {
                if let Effect::Put(value, _) = effect {
                    add((key, value));
                }
            }
        });
        for place in self.unowned() {
            let Some((revision, facts)) = self.truth.change(place) else { continue };
            let Some((key, value)) = facts.iter().find_map(put_of) else { continue };
            // All that fits is equally good, for what is unknown has no latest time; the
            // one that began first promises the least to everybody else.
            let fitting = by_put.get(&(key, value)).into_iter().flatten().copied().filter(|index| {
                !self.settled.contains_key(index)
                    && floor_of(floors, *index) < revision
                    && explains(self.operation(*index), self.truth, revision)
            });
            if let Some(index) = fitting.min_by_key(|index| self.operation(*index).begun) {
                self.set(place, Owner::Operation(index));
                self.settled.insert(index, revision);
            }
        }
    }

    /// Finds who made the changes that only deleted something. `ceilings` tell what can't
    /// have happened yet when an operation ended.
    pub(super) fn settle_deletes(&mut self, floors: &[Floor], ceilings: &Ceilings) {
        let by_delete = self.unsettled_deletes();
        for (key, places) in self.unowned_deletes() {
            let mut coming: Vec<(i64, i64, usize)> = by_delete
                .get(key)
                .into_iter()
                .flatten()
                .map(|index| (floor_of(floors, *index), self.deadline(*index, ceilings), *index))
                .collect();
            coming.sort_unstable();
            self.settle_in_order(&places, &coming);
        }
    }

    /// Those who may have deleted a key and are not known to have done something else.
    fn unsettled_deletes(&self) -> Index<'h, &'h str> {
        let mut found: Index<'h, &str> = self.index(is_unsettled, |effects, add| {
            for (key, effect) in effects {
                if effect == Effect::Delete {
                    add(key);
                }
            }
        });
        for indexes in found.values_mut() {
            indexes.retain(|index| !self.settled.contains_key(index));
        }
        found
    }

    /// The changes that only deleted something and have no owner: places and revisions.
    fn unowned_deletes(&self) -> BTreeMap<&'h str, Vec<(usize, i64)>> {
        let mut by_key: BTreeMap<&str, Vec<(usize, i64)>> = BTreeMap::new();
        for place in self.unowned() {
            let Some((revision, facts)) = self.truth.change(place) else { continue };
            if facts.iter().all(|fact| fact.event.record.is_none())
                && let Some(fact) = facts.first()
            {
                by_key.entry(fact.event.key.as_str()).or_default().push((place, revision));
            }
        }
        by_key
    }

    /// Gives each change to who must have made its own the soonest: if that leaves one
    /// without, every other way does.
    fn settle_in_order(&mut self, places: &[(usize, i64)], coming: &[(i64, i64, usize)]) {
        let mut coming = coming.iter().peekable();
        let mut ready: BinaryHeap<Reverse<(i64, usize)>> = BinaryHeap::new();
        for (place, revision) in places {
            while let Some((_, deadline, index)) = coming.next_if(|(floor, ..)| floor < revision) {
                ready.push(Reverse((*deadline, *index)));
            }
            let mut unfit = Vec::new();
            while let Some(Reverse((deadline, index))) = ready.pop() {
                if deadline < *revision || self.settled.contains_key(&index) {
                    continue;
                }
                if explains(self.operation(index), self.truth, *revision) {
                    self.set(*place, Owner::Operation(index));
                    self.settled.insert(index, *revision);
                    break;
                }
                unfit.push(Reverse((deadline, index)));
            }
            ready.extend(unfit);
        }
    }

    /// The last revision at which an operation can have taken effect.
    fn deadline(&self, index: usize, ceilings: &Ceilings) -> i64 {
        let operation = self.operation(index);
        match operation.outcome {
            Outcome::SeedWritten => ceilings.at(operation.ended),
            Outcome::Unknown { .. }
            | Outcome::Failed { .. }
            | Outcome::Done { .. }
            | Outcome::SeedFound { .. } => i64::MAX,
        }
    }

    fn index<K: std::hash::Hash + Eq>(
        &self,
        which: fn(&Operation) -> bool,
        keys: impl Fn(Vec<(&'h str, Effect<'h>)>, &mut dyn FnMut(K)),
    ) -> Index<'h, K> {
        let mut found: Index<'h, K> = HashMap::new();
        for (index, operation) in self.history.operations.iter().enumerate() {
            if which(operation) {
                keys(possible_effects(&operation.call), &mut |key| {
                    let places = found.entry(key).or_default();
                    if places.last() != Some(&index) {
                        places.push(index);
                    }
                });
            }
        }
        found
    }

    /// Tells of every change that nobody made.
    pub(super) fn check_all_owned(&self, floors: &[Floor], verdict: &mut Verdict) {
        let orphans = self.unowned();
        if orphans.is_empty() {
            return;
        }
        let suspects: Index<'h, (&str, Option<&str>)> = self.index(
            |operation| !matches!(operation.outcome, Outcome::SeedFound { .. }),
            |effects, add| {
                for (key, effect) in effects {
                    match effect {
                        Effect::Put(value, _) => add((key, Some(value))),
                        Effect::Delete => add((key, None)),
                    }
                }
            },
        );
        for place in orphans {
            let Some((revision, facts)) = self.truth.change(place) else { continue };
            let Some(first) = facts.first() else { continue };
            let mark =
                (first.event.key.as_str(), first.event.record.as_ref().map(|record| record.value.as_str()));
            let suspects = suspects.get(&mark).map(Vec::as_slice).unwrap_or_default();
            self.accuse(revision, facts, suspects, floors, verdict);
        }
    }

    /// Says who comes nearest to having made a change that nobody can have made.
    fn accuse(
        &self,
        revision: i64,
        facts: &[Fact<'h>],
        suspects: &[usize],
        floors: &[Floor],
        verdict: &mut Verdict,
    ) {
        let fits = |index: &&usize| explains(self.operation(**index), self.truth, revision);
        let failed = |index: &&usize| matches!(self.operation(**index).outcome, Outcome::Failed { .. });
        let key = facts.first().map(|fact| fact.event.key.as_str());
        let what = told(facts);
        if let Some(index) = suspects.iter().filter(failed).find(fits) {
            verdict.problem((CHECK, "failed-write"), key, &[*index], || {
                format!("revision {revision} is {what}, asked for by a call that was told it had failed")
            });
        } else if let Some(index) = suspects.iter().find(fits) {
            let floor = floor_of(floors, *index);
            let elsewhere =
                self.settled(*index).or_else(|| Answer::of(self.operation(*index)).map(|told| told.revision));
            verdict.problem((CHECK, "unexplained-change"), key, &[*index], || match elsewhere {
                Some(elsewhere) => format!(
                    "revision {revision} is {what}, which one call asked for, and that one took effect at \
                     revision {elsewhere}"
                ),
                None => format!(
                    "revision {revision} is {what}, and the call that asked for it can't have made it: revision \
                     {floor} had been told before it began, or it had ended before what came earlier began"
                ),
            });
        } else {
            let nearest: Vec<usize> = suspects.iter().copied().take(3).collect();
            verdict.problem((CHECK, "unexplained-change"), key, &nearest, || {
                format!("revision {revision} is {what}, and no call can have done that to the state before")
            });
        }
    }

    /// What can't have happened yet at a time.
    pub(super) fn ceilings(&self) -> Ceilings {
        let mut earliest: Vec<Nanos> = self
            .by_place
            .iter()
            .map(|owner| match owner {
                Owner::Operation(index) => self.operation(*index).begun,
                Owner::Nobody | Owner::Lease | Owner::Service => 0,
            })
            .collect();
        // So many deletions of a key are the work of as many operations, whichever.
        let by_delete = self.unsettled_deletes();
        for (key, places) in self.unowned_deletes() {
            let operations = by_delete.get(key).into_iter().flatten();
            let mut begun: Vec<Nanos> = operations.map(|index| self.operation(*index).begun).collect();
            begun.sort_unstable();
            for ((place, _), begun) in places.iter().zip(begun) {
                if let Some(slot) = earliest.get_mut(*place) {
                    *slot = begun;
                }
            }
        }
        Ceilings::new(earliest.into_iter().zip(self.truth.changes().map(|(revision, _)| revision)))
    }
}

fn floor_of(floors: &[Floor], index: usize) -> i64 {
    floors.get(index).map_or(0, |floor| floor.revision)
}

/// Whether an operation may have changed something and was told no revision.
fn is_unsettled(operation: &Operation) -> bool {
    matches!(operation.outcome, Outcome::Unknown { .. } | Outcome::SeedWritten)
}

/// All that a call could change, whatever its compares say.
fn possible_effects(call: &Call) -> Vec<(&str, Effect<'_>)> {
    match call {
        Call::Txn { then, otherwise, .. } => then.iter().chain(otherwise).filter_map(effect).collect(),
        Call::SeedWrite { key, value: Some(value) } => vec![(key, Effect::Put(value, 0))],
        Call::SeedWrite { key, value: None } => vec![(key, Effect::Delete)],
        Call::SeedRead { .. } => Vec::new(),
    }
}

fn put_of<'h>(fact: &Fact<'h>) -> Option<(&'h str, &'h str)> {
    fact.event.record.as_ref().map(|record| (fact.event.key.as_str(), record.value.as_str()))
}

/// Whether these are deletions of keys of one lease.
fn is_end_of_lease(facts: &[Fact<'_>]) -> bool {
    let lease_of = |fact: &Fact<'_>| fact.before.map_or(0, |before| before.lease);
    let lease = facts.first().map_or(0, lease_of);
    lease != 0 && facts.iter().all(|fact| fact.event.record.is_none() && lease_of(fact) == lease)
}

/// The facts of a revision, for people.
pub(super) fn told(facts: &[Fact<'_>]) -> String {
    let each: Vec<String> = facts
        .iter()
        .take(5)
        .map(|fact| match &fact.event.record {
            Some(record) if record.lease != 0 => {
                format!("{} = {:?} with lease {}", fact.event.key, record.value, record.lease)
            }
            Some(record) => format!("{} = {:?}", fact.event.key, record.value),
            None => format!("no {}", fact.event.key),
        })
        .collect();
    each.join(", ")
}
