//! The order of real time, in revisions: what had been told to anybody before an
//! operation began, and what can't have happened yet when it ended.
//!
//! One pass over all beginnings and ends, in the order of time, keeps the greatest
//! revision told so far. Whoever begins later must not be answered from before it. So
//! no pair of operations is ever compared. What ends at the very nanosecond at which
//! something else begins counts as concurrent with it.

use super::truth::EMPTY_REVISION;
use crate::history::{History, Nanos, WatchNote};

/// Who told a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Teller {
    /// Nobody yet.
    Nobody,
    /// The answer to an operation.
    Operation(usize),
    /// A message to a watcher.
    Watcher(u32),
}

/// What had been told before an operation began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Floor {
    /// The greatest revision.
    pub(super) revision: i64,
    /// By whom it was told first.
    pub(super) by: Teller,
}

impl Floor {
    /// The operation that told it, and `index`: what contradicts what.
    pub(super) fn with(&self, index: usize) -> Vec<usize> {
        match self.by {
            Teller::Operation(other) => vec![other, index],
            Teller::Nobody | Teller::Watcher(_) => vec![index],
        }
    }

    /// Who told it, for people.
    pub(super) fn teller(&self) -> String {
        match self.by {
            Teller::Nobody => "nobody".to_owned(),
            Teller::Operation(index) => format!("operation {index}"),
            Teller::Watcher(watcher) => format!("a message to watcher {watcher}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    // Beginnings sort before ends of the same time.
    Begin(u32),
    End(u32),
    Seen(i64, u32),
}

/// For each operation what had been told before it began. `told` is asked in the order
/// of ends what an operation's answer told, given its own floor; `None` is nothing.
pub(super) fn floors(
    history: &History,
    last: i64,
    mut told: impl FnMut(usize, Floor) -> Option<i64>,
) -> Vec<Floor> {
    let mut moments = moments(history, last);
    moments.sort_unstable();
    let mut highest = Floor { revision: 0, by: Teller::Nobody };
    let mut floors = vec![highest; history.operations.len()];
    for (_, moment) in moments {
        match moment {
            Moment::Begin(index) => {
                if let Some(floor) = floors.get_mut(index as usize) {
                    *floor = highest;
                }
            }
            Moment::End(index) => {
                let index = index as usize;
                let Some(floor) = floors.get(index) else { continue };
                if let Some(revision) = told(index, *floor)
                    && revision > highest.revision
                    && revision <= last
                {
                    highest = Floor { revision, by: Teller::Operation(index) };
                }
            }
            Moment::Seen(revision, watcher) if revision > highest.revision => {
                highest = Floor { revision, by: Teller::Watcher(watcher) };
            }
            Moment::Seen(..) => {}
        }
    }
    floors
}

fn moments(history: &History, last: i64) -> Vec<(Nanos, Moment)> {
    let mut moments = Vec::with_capacity(history.operations.len() * 2);
    for (index, operation) in history.operations.iter().enumerate() {
        let index = u32::try_from(index).expect("a run has fewer than 2^32 operations");
        moments.push((operation.begun, Moment::Begin(index)));
        moments.push((operation.ended, Moment::End(index)));
    }
    for watch in &history.watches {
        for note in &watch.notes {
            let seen = match note {
                WatchNote::Events { at, events } => {
                    events.iter().map(|event| event.mod_revision).max().map(|revision| (*at, revision))
                }
                WatchNote::Progress { at, revision } => Some((*at, *revision)),
                WatchNote::Opened { .. } | WatchNote::Compacted { .. } | WatchNote::Lost { .. } => None,
            };
            // What is newer than everything is a problem of its own, told elsewhere; it
            // must not make one of every later answer.
            if let Some((at, revision)) = seen.filter(|(_, revision)| *revision <= last) {
                moments.push((at, Moment::Seen(revision, watch.watcher)));
            }
        }
    }
    moments
}

/// For each revision the time before which it can't have existed: when the last of the
/// operations began that made it or what came before it.
#[derive(Debug)]
pub(super) struct Ceilings(Vec<(Nanos, i64)>);

impl Ceilings {
    /// From all revisions in their order, each with a time before which it can't have come.
    pub(super) fn new(revisions: impl Iterator<Item = (Nanos, i64)>) -> Self {
        let mut latest = 0;
        let known = revisions.map(|(begun, revision)| {
            latest = latest.max(begun);
            (latest, revision)
        });
        Self(known.collect())
    }

    /// The greatest revision that can have existed at a time.
    pub(super) fn at(&self, time: Nanos) -> i64 {
        let count = self.0.partition_point(|(begun, _)| *begun <= time);
        count
            .checked_sub(1)
            .and_then(|place| self.0.get(place))
            .map_or(EMPTY_REVISION, |(_, revision)| *revision)
    }
}
