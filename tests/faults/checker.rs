//! Compares what clients were told with what took place.
//!
//! The store's revisions are the order in which it claims that writes took place.
//! That order is right if it contains every acknowledged write where its client
//! was told, nothing that was refused, nothing twice, and nothing before something
//! that had ended when it began; and if every read shows exactly the writes up to
//! the revision that it reflects, a linearizable one at least all that had ended
//! when it began.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Instant;

use super::history::{Action, Operation, Outcome, Versions};

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) acknowledged: usize,
    refused: usize,
    unknown: usize,
    unknown_but_done: usize,
    linearizable_reads: usize,
    local_reads: usize,
    /// Broken promises, each in words.
    pub(crate) problems: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "writes: {} acknowledged, {} refused, {} unknown of which {} took place; reads: {} linearizable, {} local",
            self.acknowledged,
            self.refused,
            self.unknown,
            self.unknown_but_done,
            self.linearizable_reads,
            self.local_reads
        )?;
        self.problems.iter().try_for_each(|problem| write!(f, "\nBROKEN: {problem}"))
    }
}

/// Checks `operations` against the `versions` of a store at `revision`.
pub(crate) fn check(operations: &[Operation], versions: &Versions, revision: i64) -> Report {
    let mut report = Report::default();
    check_versions(&mut report, versions, revision);
    check_writes(&mut report, operations, versions);
    check_reads(&mut report, operations, versions);
    check_real_time(&mut report, operations, versions);
    report
}

/// Revisions are dense, and values, which are written once, appear once.
fn check_versions(report: &mut Report, versions: &Versions, revision: i64) {
    let first = versions.keys().next().copied().unwrap_or(revision + 1);
    for missing in (first..=revision).filter(|revision| !versions.contains_key(revision)) {
        report.problems.push(format!("revision {missing} belongs to no write"));
    }
    let mut seen = BTreeSet::new();
    for (revision, (key, value)) in versions {
        if !seen.insert(value) {
            report.problems.push(format!("{value} was written to {key} twice, again at {revision}"));
        }
    }
}

fn check_writes(report: &mut Report, operations: &[Operation], versions: &Versions) {
    let places = places(versions);
    let mut known = BTreeSet::new();
    for operation in operations {
        let Action::Write { key, value, outcome } = &operation.action else { continue };
        known.insert(value.as_str());
        let place = places.get(value.as_str()).copied();
        match outcome {
            Outcome::Acknowledged(revision) => {
                report.acknowledged += 1;
                if place != Some((*revision, key)) {
                    let problem =
                        format!("{value} to {key} was acknowledged at {revision}, found at {place:?}");
                    report.problems.push(problem);
                }
            }
            Outcome::Refused => {
                report.refused += 1;
                if place.is_some() {
                    report.problems.push(format!("{value} to {key} was refused, found at {place:?}"));
                }
            }
            Outcome::Unknown => {
                report.unknown += 1;
                report.unknown_but_done += usize::from(place.is_some());
            }
        }
    }
    for (value, place) in places.into_iter().filter(|(value, _)| !known.contains(value)) {
        report.problems.push(format!("{value} at {place:?} was written by nobody"));
    }
}

fn places(versions: &Versions) -> BTreeMap<&str, (i64, &'static str)> {
    versions.iter().map(|(revision, (key, value))| (value.as_str(), (*revision, *key))).collect()
}

/// Each read shows the newest version of its key at the revision that it reflects.
fn check_reads(report: &mut Report, operations: &[Operation], versions: &Versions) {
    for operation in operations {
        let Action::Read { key, linearizable, revision, found } = &operation.action else { continue };
        if *linearizable {
            report.linearizable_reads += 1;
        } else {
            report.local_reads += 1;
        }
        let newest = versions.range(..=*revision).rev().find(|(_, (written, _))| written == key);
        let expected = newest.map(|(revision, (_, value))| (value.clone(), *revision));
        if *found != expected {
            let problem = format!("a read of {key} at revision {revision} gave {found:?}, not {expected:?}");
            report.problems.push(problem);
        }
    }
}

/// What had ended before something began comes before it, and is seen by it.
fn check_real_time(report: &mut Report, operations: &[Operation], versions: &Versions) {
    let places = places(versions);
    // By the moment at which each revision was certainly reached.
    let mut reached: Vec<(Instant, i64)> = operations
        .iter()
        .filter_map(|operation| match &operation.action {
            Action::Write { outcome: Outcome::Acknowledged(revision), .. }
            | Action::Read { linearizable: true, revision, .. } => Some((operation.ended, *revision)),
            Action::Write { .. } | Action::Read { .. } => None,
        })
        .collect();
    reached.sort_unstable();
    let mut newest = 0;
    let reached: Vec<_> = reached
        .into_iter()
        .map(|(ended, revision)| {
            newest = newest.max(revision);
            (ended, newest)
        })
        .collect();
    let before = |moment: Instant| {
        let count = reached.partition_point(|(ended, _)| *ended < moment);
        count.checked_sub(1).map_or(0, |last| reached[last].1)
    };
    for operation in operations {
        let floor = before(operation.begun);
        match &operation.action {
            Action::Write { key, value, .. } => {
                let place = places.get(value.as_str()).map(|(revision, _)| *revision);
                if place.is_some_and(|revision| revision <= floor) {
                    let problem =
                        format!("{value} to {key} has {place:?}, but {floor} was reached before it began");
                    report.problems.push(problem);
                }
            }
            Action::Read { key, linearizable: true, revision, .. } if *revision < floor => {
                let problem = format!(
                    "a read of {key} saw revision {revision}, but {floor} was reached before it began"
                );
                report.problems.push(problem);
            }
            Action::Read { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// An operation from the first to the second millisecond.
    fn at(origin: Instant, from: u64, to: u64, action: Action) -> Operation {
        let moment = |millis| origin + Duration::from_millis(millis);
        Operation { begun: moment(from), ended: moment(to), action }
    }

    fn write(value: &str, outcome: Outcome) -> Action {
        Action::Write { key: "a", value: value.to_owned(), outcome }
    }

    fn read(revision: i64, found: Option<(&str, i64)>) -> Action {
        let found = found.map(|(value, revision)| (value.to_owned(), revision));
        Action::Read { key: "a", linearizable: true, revision, found }
    }

    fn versions(values: &[(i64, &str)]) -> Versions {
        values.iter().map(|(revision, value)| (*revision, ("a", (*value).to_owned()))).collect()
    }

    fn problems(actions: Vec<(u64, u64, Action)>, values: &[(i64, &str)], revision: i64) -> Vec<String> {
        let origin = Instant::now();
        let operations: Vec<_> =
            actions.into_iter().map(|(from, to, action)| at(origin, from, to, action)).collect();
        check(&operations, &versions(values), revision).problems
    }

    #[test]
    fn a_correct_history_passes() {
        let actions = vec![
            (0, 10, write("v1", Outcome::Acknowledged(2))),
            (5, 20, write("v2", Outcome::Unknown)),
            (0, 9, write("v3", Outcome::Refused)),
            (11, 15, read(2, Some(("v1", 2)))),
            (16, 30, read(3, Some(("v2", 3)))),
            (40, 50, write("v4", Outcome::Unknown)),
        ];
        assert_eq!(problems(actions, &[(2, "v1"), (3, "v2")], 3), Vec::<String>::new());
    }

    #[test]
    fn every_kind_of_broken_promise_is_found() {
        let acknowledged = |revision| write("v1", Outcome::Acknowledged(revision));
        for (actions, values, revision, word) in [
            (vec![(0, 1, acknowledged(2))], vec![], 1, "found at None"),
            (vec![(0, 1, acknowledged(3))], vec![(2, "v1")], 2, "acknowledged at 3"),
            (vec![(0, 1, write("v1", Outcome::Refused))], vec![(2, "v1")], 2, "was refused"),
            (vec![(0, 1, write("v1", Outcome::Unknown))], vec![(2, "v1"), (3, "v1")], 3, "twice"),
            (vec![(0, 1, acknowledged(2))], vec![(2, "v1")], 3, "belongs to no write"),
            (vec![], vec![(2, "v1")], 2, "by nobody"),
            (
                vec![(0, 1, acknowledged(3)), (2, 3, write("v2", Outcome::Unknown))],
                vec![(2, "v2"), (3, "v1")],
                3,
                "before it began",
            ),
            (vec![(0, 1, acknowledged(2)), (2, 3, read(1, None))], vec![(2, "v1")], 2, "saw revision 1"),
            (vec![(0, 9, acknowledged(2)), (2, 3, read(2, None))], vec![(2, "v1")], 2, "gave None"),
        ] {
            let problems = problems(actions, &values, revision);
            assert!(problems.iter().any(|problem| problem.contains(word)), "{word}: {problems:?}");
        }
    }
}
