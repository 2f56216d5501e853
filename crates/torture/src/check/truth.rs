//! The order of all changes, as watchers tell it: what every other answer is held
//! against.
//!
//! The union of what the watchers of all keys saw. They must agree wherever two of them
//! saw the same revision, no revision may be missing, each record must follow from the
//! one before it, and the end must be what every node holds.
//!
//! Nothing here looks at what clients asked or were told.

use std::collections::{BTreeMap, HashMap};

use super::Verdict;
use crate::history::{Event, History, NodeState, Record, WatchLog, WatchNote};

const CHECK: &str = "truth";

/// The revision of a store that nothing was written to.
pub(super) const EMPTY_REVISION: i64 = 1;

/// A change of one key.
#[derive(Debug)]
pub(super) struct Fact<'h> {
    /// As it was told.
    pub(super) event: &'h Event,
    /// What it changed: the record before, if there was one.
    pub(super) before: Option<&'h Record>,
}

/// Everything that happened, by revision.
#[derive(Debug, Default)]
pub(super) struct Truth<'h> {
    facts: Vec<Fact<'h>>,
    /// The revisions that exist and where their facts begin.
    changes: Vec<(i64, usize)>,
    /// Places of a key's facts.
    chains: HashMap<&'h str, Vec<u32>>,
}

impl<'h> Truth<'h> {
    /// Gathers what the watchers of all keys saw, and tells where they disagree.
    pub(super) fn gather(history: &'h History, verdict: &mut Verdict) -> Self {
        let mut told: Vec<(&'h Event, u32)> = Vec::new();
        for watch in history.watches.iter().filter(|watch| watch.prefix.is_empty()) {
            told.extend(events_of(watch).map(|event| (event, watch.watcher)));
        }
        told.sort_by(|(one, _), (other, _)| {
            one.mod_revision.cmp(&other.mod_revision).then_with(|| one.key.cmp(&other.key))
        });
        let mut truth = Self::default();
        for group in told.chunk_by(|(one, _), (other, _)| one.mod_revision == other.mod_revision) {
            truth.add(group, verdict);
        }
        truth
    }

    /// Adds a revision from what watchers say of it, ordered by key.
    fn add(&mut self, told: &[(&'h Event, u32)], verdict: &mut Verdict) {
        let Some((Event { mod_revision: revision, .. }, _)) = told.first() else { return };
        self.changes.push((*revision, self.facts.len()));
        let mut tellers: BTreeMap<u32, u64> = BTreeMap::new();
        let mut keys = 0;
        for same in told.chunk_by(|(one, _), (other, _)| one.key == other.key) {
            let Some((first, by)) = same.first() else { continue };
            keys += 1;
            let mut counted = None;
            let mut told_by: Vec<u32> = same.iter().map(|(_, watcher)| *watcher).collect();
            told_by.sort_unstable();
            for watcher in told_by {
                // Who tells a change again, after it resumed, tells one change.
                if counted.replace(watcher) != Some(watcher) {
                    *tellers.entry(watcher).or_default() += 1;
                }
            }
            if let Some((other, watcher)) = same.iter().find(|(other, _)| other.record != first.record) {
                verdict.problem((CHECK, "disagreement"), Some(&first.key), &[], || {
                    format!(
                        "at revision {revision} watcher {by} saw {:?} and watcher {watcher} saw {:?}",
                        first.record, other.record
                    )
                });
            }
            let chain = self.chains.entry(first.key.as_str()).or_default();
            let before = chain.last().and_then(|place| self.facts.get(*place as usize));
            let before = before.and_then(|fact| fact.event.record.as_ref());
            chain.push(u32::try_from(self.facts.len()).expect("a run has fewer than 2^32 changes"));
            self.facts.push(Fact { event: first, before });
        }
        if let Some((watcher, saw)) = tellers.iter().find(|(_, saw)| **saw != keys) {
            verdict.problem((CHECK, "disagreement"), None, &[], || {
                format!(
                    "watcher {watcher} saw {saw} changes at revision {revision}, of {keys} that others saw"
                )
            });
        }
    }

    /// The greatest revision that exists.
    pub(super) fn last_revision(&self) -> i64 {
        self.changes.last().map_or(EMPTY_REVISION, |(revision, _)| *revision)
    }

    /// How many revisions exist.
    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    /// All facts, by revision.
    pub(super) fn facts(&self) -> &[Fact<'h>] {
        &self.facts
    }

    /// The revisions that exist, and the facts of each.
    pub(super) fn changes(&self) -> impl Iterator<Item = (i64, &[Fact<'h>])> {
        (0..self.changes.len()).filter_map(|place| self.change(place))
    }

    /// The revision at that place of the order of those that exist, and its facts.
    pub(super) fn change(&self, place: usize) -> Option<(i64, &[Fact<'h>])> {
        let (revision, from) = *self.changes.get(place)?;
        let to = self.changes.get(place + 1).map_or(self.facts.len(), |(_, to)| *to);
        Some((revision, self.facts.get(from..to).unwrap_or_default()))
    }

    /// The place of a revision, if it exists.
    pub(super) fn place(&self, revision: i64) -> Option<usize> {
        self.changes.binary_search_by_key(&revision, |(revision, _)| *revision).ok()
    }

    /// The facts of a revision, if it exists.
    pub(super) fn at(&self, revision: i64) -> Option<&[Fact<'h>]> {
        self.change(self.place(revision)?).map(|(_, facts)| facts)
    }

    fn chain(&self, key: &str) -> &[u32] {
        self.chains.get(key).map(Vec::as_slice).unwrap_or_default()
    }

    /// The facts of a key that came after a revision.
    pub(super) fn after(&self, key: &str, revision: i64) -> impl Iterator<Item = &Fact<'h>> {
        let chain = self.chain(key);
        let from = self.until(chain, revision);
        chain.iter().skip(from).filter_map(|place| self.facts.get(*place as usize))
    }

    /// How many of a key's facts came no later than a revision.
    fn until(&self, chain: &[u32], revision: i64) -> usize {
        chain.partition_point(|place| {
            self.facts.get(*place as usize).is_some_and(|fact| fact.event.mod_revision <= revision)
        })
    }

    /// The record of a key after a revision.
    pub(super) fn record(&self, key: &str, revision: i64) -> Option<&'h Record> {
        let chain = self.chain(key);
        let place = chain.get(self.until(chain, revision).checked_sub(1)?)?;
        self.facts.get(*place as usize)?.event.record.as_ref()
    }

    /// Judges the order by itself, and by what the nodes hold in the end.
    pub(super) fn check(&self, history: &History, verdict: &mut Verdict) {
        verdict.count("truth.revisions", self.changes.len() as u64);
        verdict.count("truth.changes", self.facts.len() as u64);
        let last = history.final_states.iter().map(|state| state.revision).max();
        let mut expected = EMPTY_REVISION + 1;
        for (revision, _) in &self.changes {
            if *revision > expected {
                verdict.problem((CHECK, "hole"), None, &[], || {
                    format!("no watcher saw the revisions {expected} to {}", revision - 1)
                });
            } else if *revision < expected {
                verdict.problem((CHECK, "hole"), None, &[], || {
                    format!("a change has revision {revision}, and the first one is {}", EMPTY_REVISION + 1)
                });
            }
            expected = expected.max(revision.saturating_add(1));
        }
        if let Some(last) = last
            && last != expected - 1
        {
            verdict.problem((CHECK, "hole"), None, &[], || {
                format!("the nodes are at revision {last}, and watchers saw all to {}", expected - 1)
            });
        }
        for fact in &self.facts {
            follows(fact, verdict);
        }
        for state in &history.final_states {
            self.check_state(state, verdict);
        }
    }

    fn check_state(&self, state: &NodeState, verdict: &mut Verdict) {
        let last = self.last_revision();
        for (key, record) in &state.records {
            let expected = self.record(key, last);
            if expected != Some(record) {
                verdict.problem((CHECK, "final-state"), Some(key), &[], || {
                    format!("node {} holds {key} = {record:?}, and the changes give {expected:?}", state.node)
                });
            }
        }
        let mut missing: Vec<&&str> =
            self.chains.keys().filter(|key| !state.records.contains_key(**key)).collect();
        missing.sort_unstable();
        for key in missing {
            if let Some(record) = self.record(key, last) {
                verdict.problem((CHECK, "final-state"), Some(key), &[], || {
                    format!("node {} has lost {key}, which the changes leave as {record:?}", state.node)
                });
            }
        }
    }
}

/// All events that a watcher was told.
pub(super) fn events_of(watch: &WatchLog) -> impl Iterator<Item = &Event> {
    watch.notes.iter().flat_map(|note| match note {
        WatchNote::Events { events, .. } => events.as_slice(),
        WatchNote::Opened { .. }
        | WatchNote::Progress { .. }
        | WatchNote::Compacted { .. }
        | WatchNote::Lost { .. } => &[],
    })
}

/// Whether a change follows from the record before it.
fn follows(fact: &Fact<'_>, verdict: &mut Verdict) {
    let Event { key, mod_revision, record } = fact.event;
    let Some(record) = record else {
        if fact.before.is_none() {
            verdict.problem((CHECK, "record"), Some(key), &[], || {
                format!("{key} was deleted at revision {mod_revision}, and was not there")
            });
        }
        return;
    };
    let version = fact.before.map_or(1, |before| before.version.saturating_add(1));
    let created = fact.before.map_or(*mod_revision, |before| before.create_revision);
    if record.mod_revision != *mod_revision || record.version != version || record.create_revision != created
    {
        verdict.problem((CHECK, "record"), Some(key), &[], || {
            format!(
                "{key} was put at revision {mod_revision} as {record:?}, which should have version {version} and \
                 create revision {created}"
            )
        });
    }
}
