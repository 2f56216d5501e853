//! Locks: nobody believes to hold one while another one does, and fencing numbers grow.
//!
//! Also the promise on which that rests: a key whose lease is kept alive is not seen to be
//! gone before the lease can have ended.

use std::collections::{BTreeMap, HashMap};

use super::Verdict;
use super::truth::Truth;
use crate::history::{History, Holding, Nanos, WatchNote, keys};

const CHECK: &str = "lock";

/// Judges all times during which a lock was held.
pub(super) fn check(history: &History, truth: &Truth<'_>, verdict: &mut Verdict) {
    let mut by_lock: BTreeMap<&str, Vec<&Holding>> = BTreeMap::new();
    for holding in &history.holdings {
        by_lock.entry(&holding.lock).or_default().push(holding);
    }
    verdict.count("lock.locks", by_lock.len() as u64);
    verdict.count("lock.holdings", history.holdings.len() as u64);
    let gone = seen_gone(history, truth);
    for (lock, mut holdings) in by_lock {
        holdings.sort_by_key(|holding| (holding.from, holding.until));
        one_at_a_time(lock, &holdings, verdict);
        fencing_grows(lock, &holdings, verdict);
        for holding in holdings {
            rests_on_a_key(lock, holding, truth, &gone, verdict);
        }
    }
}

fn one_at_a_time(lock: &str, holdings: &[&Holding], verdict: &mut Verdict) {
    let mut longest: Option<&Holding> = None;
    for holding in holdings {
        if holding.until < holding.from {
            verdict.problem((CHECK, "malformed"), Some(lock), &[], || {
                format!("client {} held {lock} from {} until {}", holding.client, holding.from, holding.until)
            });
        }
        if let Some(other) = longest
            && holding.from < other.until
        {
            verdict.problem((CHECK, "overlap"), Some(lock), &[], || {
                format!(
                    "client {} held {lock} from {} until {} (fencing {}), and client {} from {} until {} (fencing {})",
                    other.client,
                    other.from,
                    other.until,
                    other.fencing,
                    holding.client,
                    holding.from,
                    holding.until,
                    holding.fencing
                )
            });
        }
        if longest.is_none_or(|longest| longest.until < holding.until) {
            longest = Some(holding);
        }
    }
}

fn fencing_grows(lock: &str, holdings: &[&Holding], verdict: &mut Verdict) {
    for pair in holdings.windows(2) {
        let [earlier, later] = pair else { continue };
        // One that is held on is the same one.
        let same = (earlier.client, earlier.lease) == (later.client, later.lease);
        if later.fencing < earlier.fencing || (later.fencing == earlier.fencing && !same) {
            verdict.problem((CHECK, "fencing"), Some(lock), &[], || {
                format!(
                    "client {} held {lock} from {} with fencing {}, and client {} later, from {}, with {}",
                    earlier.client, earlier.from, earlier.fencing, later.client, later.from, later.fencing
                )
            });
        }
    }
}

fn is_of_a_lock(key: &str) -> bool {
    key.starts_with(keys::LOCK) || key.starts_with(keys::MUTEX)
}

/// When anybody was first told that a lock's key was gone, by the revision at which the
/// key had come to be and its lease.
fn seen_gone(history: &History, truth: &Truth<'_>) -> HashMap<(i64, i64), Nanos> {
    let mut gone: HashMap<(i64, i64), Nanos> = HashMap::new();
    for note in history.watches.iter().flat_map(|watch| &watch.notes) {
        let WatchNote::Events { at, events } = note else { continue };
        for event in events.iter().filter(|event| event.record.is_none() && is_of_a_lock(&event.key)) {
            if let Some(record) = truth.record(&event.key, event.mod_revision.saturating_sub(1)) {
                let first = gone.entry((record.create_revision, record.lease)).or_insert(*at);
                *first = (*first).min(*at);
            }
        }
    }
    gone
}

fn rests_on_a_key(
    lock: &str,
    holding: &Holding,
    truth: &Truth<'_>,
    gone: &HashMap<(i64, i64), Nanos>,
    verdict: &mut Verdict,
) {
    let created = truth.at(holding.fencing).into_iter().flatten().any(|fact| {
        is_of_a_lock(&fact.event.key)
            && fact.event.record.as_ref().is_some_and(|record| {
                record.create_revision == holding.fencing && record.lease == holding.lease
            })
    });
    if !created {
        verdict.problem((CHECK, "no-key"), Some(lock), &[], || {
            format!(
                "client {} held {lock} with fencing {} and lease {:x}, and no key of a lock came to be so",
                holding.client, holding.fencing, holding.lease
            )
        });
    }
    if let Some(at) = gone.get(&(holding.fencing, holding.lease))
        && *at < holding.until
    {
        verdict.problem((CHECK, "ended-early"), Some(lock), &[], || {
            format!(
                "client {} had reason to hold {lock} until {}, and a watcher saw at {at} that its key was gone",
                holding.client, holding.until
            )
        });
    }
}
