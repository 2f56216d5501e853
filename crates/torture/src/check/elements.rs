//! What became of the elements of lists, and what transactions saw of them.
//!
//! Part of [`append`](super::append): the order of each list's elements, by the longest
//! list that anybody saw, which all others must be the beginning of.

use std::collections::{HashMap, HashSet};

use super::Verdict;
use super::answer::{Answer, compared};
use super::append::CHECK;
use super::graph::{Graph, Why};
use crate::history::{Call, Compare, History, Operation, Outcome, Record, Step, StepResult, keys};

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was acknowledged.
    Committed,
    /// Nobody knows.
    Unknown,
    /// It was certainly not carried out.
    Aborted,
}

/// What a transaction saw of a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Touch<'h> {
    /// The list.
    pub(super) list: &'h str,
    /// How many elements it had.
    pub(super) seen: usize,
}

/// A list as somebody saw it, or made it.
#[derive(Debug, Clone, Copy)]
struct Sight<'h> {
    value: &'h str,
    operation: usize,
}

#[derive(Debug, Default)]
struct List<'h> {
    longest: Option<Sight<'h>>,
    /// Values by the revision at which clients were told they were set.
    values: HashMap<i64, &'h str>,
    /// Who appended an element.
    appended: HashMap<&'h str, (usize, Fate)>,
    /// The elements of the longest.
    order: Vec<&'h str>,
    /// Where an element is in it.
    places: HashMap<&'h str, usize>,
}

/// All lists.
#[derive(Debug, Default)]
pub(super) struct Lists<'h> {
    by_key: HashMap<&'h str, List<'h>>,
}

impl<'h> Lists<'h> {
    /// Gathers all elements and the longest sight of each list.
    pub(super) fn gather(history: &'h History, verdict: &mut Verdict) -> Self {
        let mut lists = Self::default();
        for (index, operation) in history.operations.iter().enumerate() {
            lists.learn(index, operation);
        }
        for (index, operation) in history.operations.iter().enumerate() {
            lists.add_appends(index, operation, verdict);
        }
        for list in lists.by_key.values_mut() {
            list.order = list.longest.map_or_else(Vec::new, |sight| elements(sight.value).collect());
            for (place, element) in list.order.iter().enumerate() {
                list.places.entry(element).or_insert(place);
            }
        }
        for (index, operation) in history.operations.iter().enumerate() {
            if let Some(answer) = Answer::of(operation) {
                for (key, value) in sights(&answer) {
                    lists.compare_with_longest(key, Sight { value, operation: index }, verdict);
                }
            }
        }
        verdict.count("append.lists", lists.by_key.len() as u64);
        verdict.count("append.elements", lists.by_key.values().map(|list| list.order.len() as u64).sum());
        lists
    }

    fn learn(&mut self, index: usize, operation: &'h Operation) {
        let Some(answer) = Answer::of(operation) else { return };
        for (key, value) in sights(&answer) {
            let list = self.by_key.entry(key).or_default();
            if list.longest.is_none_or(|longest| longest.value.len() < value.len()) {
                list.longest = Some(Sight { value, operation: index });
            }
        }
        for (step, result) in answer.pairs() {
            match (step, result) {
                (Step::Get { key }, StepResult::Got(Some(Record { value, mod_revision, .. })))
                    if key.starts_with(keys::LIST) =>
                {
                    self.by_key.entry(key).or_default().values.insert(*mod_revision, value);
                }
                (Step::Put { key, value, .. }, StepResult::Put) if key.starts_with(keys::LIST) => {
                    self.by_key.entry(key).or_default().values.insert(answer.revision, value);
                }
                (Step::Get { .. } | Step::Put { .. } | Step::Delete { .. }, _) => {}
            }
        }
    }

    fn add_appends(&mut self, index: usize, operation: &'h Operation, verdict: &mut Verdict) {
        let Call::Txn { compares, then, otherwise, .. } = &operation.call else { return };
        let fates = match &operation.outcome {
            Outcome::Done { succeeded: true, .. } => [Fate::Committed, Fate::Aborted],
            Outcome::Done { succeeded: false, .. } => [Fate::Aborted, Fate::Committed],
            Outcome::Unknown { .. } => [Fate::Unknown, Fate::Unknown],
            Outcome::Failed { .. } | Outcome::SeedWritten | Outcome::SeedFound { .. } => [Fate::Aborted; 2],
        };
        for (steps, fate) in [then, otherwise].into_iter().zip(fates) {
            for step in steps {
                let Step::Put { key, value, .. } = step else { continue };
                if !key.starts_with(keys::LIST) {
                    continue;
                }
                for element in elements(self.appended_by(compares, key, value)) {
                    self.add_append(key, element, (index, fate), verdict);
                }
            }
        }
    }

    fn add_append(&mut self, key: &'h str, element: &'h str, by: (usize, Fate), verdict: &mut Verdict) {
        let appended = &mut self.by_key.entry(key).or_default().appended;
        match appended.get(element).copied() {
            Some((other, Fate::Committed | Fate::Unknown)) if by.1 != Fate::Aborted && other != by.0 => {
                verdict.problem((CHECK, "not-unique"), Some(key), &[other, by.0], || {
                    format!("{element} was appended to {key} by two operations")
                });
            }
            // Who may have done it goes before who did not.
            Some((_, Fate::Committed | Fate::Unknown)) if by.1 == Fate::Aborted => {}
            Some(_) | None => drop(appended.insert(element, by)),
        }
    }

    /// The part of a list's new value that a transaction appends to what it had read.
    fn appended_by(&self, compares: &[Compare], key: &str, value: &'h str) -> &'h str {
        if let Some(old) = self.known_old(compares, key)
            && begins_with(value, old)
        {
            return value.get(old.len()..).unwrap_or_default().trim_start_matches(',');
        }
        value.rsplit(',').next().unwrap_or_default()
    }

    /// The list that a transaction's compares say it had read, if any client was told.
    fn known_old<'a>(&'a self, compares: &'a [Compare], key: &str) -> Option<&'a str> {
        compares.iter().filter(|compare| compared(compare) == key).find_map(|compare| match compare {
            Compare::ModRevision { revision: 0, .. } | Compare::CreateRevision { revision: 0, .. } => Some(""),
            Compare::ModRevision { revision, .. } => self.by_key.get(key)?.values.get(revision).copied(),
            Compare::CreateRevision { .. } => None,
            Compare::Value { value, .. } => Some(value),
        })
    }

    fn compare_with_longest(&self, key: &str, sight: Sight<'_>, verdict: &mut Verdict) {
        let Some(longest) = self.by_key.get(key).and_then(|list| list.longest) else { return };
        if !begins_with(longest.value, sight.value) {
            verdict.problem(
                (CHECK, "incompatible-order"),
                Some(key),
                &[longest.operation, sight.operation],
                || format!("{key} was {:?} to one and {:?} to another", longest.value, sight.value),
            );
        }
    }

    /// Judges the elements of each list: each once, each somebody's.
    pub(super) fn check_elements(&self, verdict: &mut Verdict) {
        for (key, list) in &self.by_key {
            let witness = list.longest.map_or(0, |sight| sight.operation);
            let mut seen = HashSet::new();
            for element in &list.order {
                if !seen.insert(element) {
                    verdict.problem((CHECK, "duplicate"), Some(key), &[witness], || {
                        format!("{key} has {element} twice")
                    });
                }
                match list.appended.get(element) {
                    None => verdict.problem((CHECK, "garbage"), Some(key), &[witness], || {
                        format!("{key} has {element}, which nobody appended")
                    }),
                    Some((writer, Fate::Aborted)) => {
                        verdict.problem((CHECK, "G1a"), Some(key), &[*writer, witness], || {
                            format!("{key} has {element}, whose append was told not to be carried out")
                        });
                    }
                    Some((_, Fate::Committed | Fate::Unknown)) => {}
                }
            }
            for (element, (writer, fate)) in &list.appended {
                if *fate == Fate::Committed && !list.places.contains_key(element) {
                    verdict.problem((CHECK, "lost-append"), Some(key), &[*writer, witness], || {
                        format!("{element} was appended to {key}, and the longest list does not have it")
                    });
                }
            }
        }
    }

    /// Whether every node holds the longest lists that anybody saw.
    pub(super) fn check_finals(&self, history: &History, verdict: &mut Verdict) {
        for state in &history.final_states {
            for (key, list) in &self.by_key {
                let value = state.records.get(*key).map_or("", |record| record.value.as_str());
                let Some(longest) = list.longest else { continue };
                if begins_with(value, longest.value) {
                    continue;
                }
                let lost = elements(longest.value).find(|element| !elements(value).any(|other| other == *element));
                let writer = lost.and_then(|element| list.appended.get(element)).map(|(writer, _)| *writer);
                let mut named: Vec<usize> = writer.into_iter().chain([longest.operation]).collect();
                named.dedup();
                let kind = if lost.is_some() { "lost-append" } else { "incompatible-order" };
                verdict.problem((CHECK, kind), Some(key), &named, || {
                    format!("node {} ends with {key} = {value:?}, and it was {:?}", state.node, longest.value)
                });
            }
        }
    }

    /// Who wrote the element at a place of a list.
    pub(super) fn writer(&self, key: &str, place: usize) -> Option<(usize, Fate)> {
        let list = self.by_key.get(key)?;
        list.appended.get(list.order.get(place)?).copied()
    }

    /// Adds the order in which elements were written, and who wrote them to `nodes`.
    pub(super) fn add_writes(&self, graph: &mut Graph, nodes: &mut HashSet<usize>) {
        for list in self.by_key.values() {
            let mut last = None;
            for element in &list.order {
                let Some((writer, _)) = list.appended.get(element) else { continue };
                nodes.insert(*writer);
                if let Some(last) = last.replace(*writer) {
                    graph.add(last, Why::WriteWrite, *writer);
                }
            }
        }
    }

    /// What a transaction saw of lists: by its gets, and by what its compares say it had
    /// read. One of unknown outcome saw it if one of its elements is in a list.
    pub(super) fn touches(&self, index: usize, operation: &'h Operation) -> Vec<Touch<'h>> {
        let Call::Txn { compares, then, .. } = &operation.call else { return Vec::new() };
        let mut touches = Vec::new();
        let mut add = |list: &'h str, value: &str| touches.extend(self.seen(list, value));
        let answer = Answer::of(operation);
        let mut own: HashSet<&str> = HashSet::new();
        for (step, result) in answer.iter().flat_map(Answer::pairs) {
            match (step, result) {
                (Step::Put { key, .. } | Step::Delete { key }, _) => drop(own.insert(key)),
                // What it reads of itself says nothing of others.
                (Step::Get { key }, StepResult::Got(record)) if !own.contains(key.as_str()) => {
                    add(key, record.as_ref().map_or("", |record| record.value.as_str()));
                }
                (Step::Get { .. }, _) => {}
            }
        }
        let happened = match &answer {
            Some(answer) => answer.succeeded,
            None => then.iter().any(|step| self.shows(index, step)),
        };
        if happened {
            for key in compares.iter().map(compared).filter(|key| key.starts_with(keys::LIST)) {
                if let Some(old) = self.known_old(compares, key) {
                    add(key, old);
                }
            }
        }
        touches
    }

    /// Whether a list has what this step of that operation appends.
    fn shows(&self, index: usize, step: &Step) -> bool {
        let Step::Put { key, value, .. } = step else { return false };
        let (Some(list), Some(element)) = (self.by_key.get(key.as_str()), value.rsplit(',').next()) else {
            return false;
        };
        list.places.contains_key(element)
            && list.appended.get(element).is_some_and(|(writer, _)| *writer == index)
    }

    /// How many elements a value has, if it is a beginning of the longest list.
    fn seen(&self, key: &'h str, value: &str) -> Option<Touch<'h>> {
        if !key.starts_with(keys::LIST) {
            return None;
        }
        let last = value.rsplit(',').next().filter(|last| !last.is_empty());
        let Some(last) = last else { return Some(Touch { list: key, seen: 0 }) };
        let list = self.by_key.get(key)?;
        let longest = list.longest?;
        let place = list.places.get(last)?;
        begins_with(longest.value, value).then_some(Touch { list: key, seen: place + 1 })
    }
}

/// What an answer shows of lists: what it read of them and what it made of them.
fn sights<'h>(answer: &Answer<'h>) -> Vec<(&'h str, &'h str)> {
    let mut sights = Vec::new();
    for (step, result) in answer.pairs() {
        match (step, result) {
            (Step::Get { key }, StepResult::Got(Some(record))) => sights.push((key.as_str(), record.value.as_str())),
            (Step::Put { key, value, .. }, StepResult::Put) => sights.push((key.as_str(), value.as_str())),
            (Step::Get { .. } | Step::Put { .. } | Step::Delete { .. }, _) => {}
        }
    }
    sights.retain(|(key, _)| key.starts_with(keys::LIST));
    sights
}

fn elements(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').filter(|element| !element.is_empty())
}

/// Whether a list begins with another one.
fn begins_with(list: &str, start: &str) -> bool {
    start.is_empty()
        || list.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with(','))
}
