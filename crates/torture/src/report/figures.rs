//! Numbers out of a history: what is drawn and listed, without how.

use std::collections::BTreeMap;

use crate::history::{Call, Compare, History, Nanos, Operation, Outcome, Step, StepResult, Way, keys};
use crate::timeline::{Kind, Mishap};

/// The most columns that a chart has.
const COLUMNS: u64 = 240;
const SECOND: Nanos = 1_000_000_000;

/// What a call was part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Workload {
    /// Registers.
    Registers,
    /// The seed's calls.
    Seed,
    /// Lists that transactions append to.
    Lists,
    /// Counters.
    Counters,
    /// The bank.
    Bank,
    /// Locks.
    Locks,
    /// Anything else.
    Other,
}

impl Workload {
    /// All of them, in the order in which they are drawn.
    pub(super) const ALL: [Self; 7] =
        [Self::Registers, Self::Seed, Self::Lists, Self::Counters, Self::Bank, Self::Locks, Self::Other];

    /// What a call belongs to, by the prefix of its keys.
    pub fn of(call: &Call) -> Self {
        let key = first_key(call).unwrap_or_default();
        let known = [
            (keys::REGISTER, Self::Registers),
            (keys::SEED, Self::Seed),
            (keys::LIST, Self::Lists),
            (keys::COUNTER, Self::Counters),
            (keys::BANK, Self::Bank),
            (keys::LOCK, Self::Locks),
        ];
        known
            .into_iter()
            .find(|(prefix, _)| key.starts_with(prefix))
            .map_or(Self::Other, |(_, workload)| workload)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Registers => "registers",
            Self::Seed => "seed calls",
            Self::Lists => "lists",
            Self::Counters => "counters",
            Self::Bank => "bank",
            Self::Locks => "locks",
            Self::Other => "other",
        }
    }
}

fn first_key(call: &Call) -> Option<&str> {
    match call {
        Call::Txn { compares, then, otherwise, .. } => {
            let step = then.iter().chain(otherwise).next().map(|step| match step {
                Step::Get { key } | Step::Put { key, .. } | Step::Delete { key } => key.as_str(),
            });
            step.or_else(|| {
                compares.first().map(|compare| match compare {
                    Compare::ModRevision { key, .. }
                    | Compare::CreateRevision { key, .. }
                    | Compare::Value { key, .. } => key.as_str(),
                })
            })
        }
        Call::SeedWrite { key, .. } | Call::SeedRead { key } => Some(key),
    }
}

/// Whether a call may change something.
fn may_write(call: &Call) -> bool {
    match call {
        Call::Txn { then, otherwise, .. } => {
            then.iter().chain(otherwise).any(|step| !matches!(step, Step::Get { .. }))
        }
        Call::SeedWrite { .. } => true,
        Call::SeedRead { .. } => false,
    }
}

/// Whether a client was told that its write was carried out.
fn is_acknowledged_write(operation: &Operation) -> bool {
    match &operation.outcome {
        Outcome::Done { results, .. } => {
            results.iter().any(|result| matches!(result, StepResult::Put | StepResult::Deleted(_)))
        }
        Outcome::SeedWritten => true,
        Outcome::SeedFound { .. } | Outcome::Failed { .. } | Outcome::Unknown { .. } => false,
    }
}

/// Calls by their outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Carried out.
    pub ok: u64,
    /// Certainly not carried out.
    pub failed: u64,
    /// Nobody knows.
    pub unknown: u64,
}

impl Tally {
    /// All calls.
    pub fn of<'a>(operations: impl IntoIterator<Item = &'a Operation>) -> Self {
        let mut tally = Self::default();
        operations.into_iter().for_each(|operation| tally.count(&operation.outcome));
        tally
    }

    fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Done { .. } | Outcome::SeedWritten | Outcome::SeedFound { .. } => self.ok += 1,
            Outcome::Failed { .. } => self.failed += 1,
            Outcome::Unknown { .. } => self.unknown += 1,
        }
    }

    /// How many there are.
    pub fn all(&self) -> u64 {
        self.ok + self.failed + self.unknown
    }
}

/// How long it took after a fault until a client was told that a new write was carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// The fault's name.
    pub fault: String,
    /// Its kind.
    pub kind: Kind,
    /// Since it began; `None` if no write was acknowledged any more.
    pub from_begin: Option<Nanos>,
    /// Since it ended.
    pub from_end: Option<Nanos>,
}

/// Of each fault, the time to recover from it, in the order of `mishaps`.
pub fn recoveries(history: &History, mishaps: &[Mishap]) -> Vec<Recovery> {
    let writes = history.operations.iter().filter(|operation| is_acknowledged_write(operation));
    let mut writes: Vec<_> = writes.map(|operation| (operation.begun, operation.ended)).collect();
    writes.sort_unstable();
    // For each write, the first end of all that did not begin before it.
    let mut first = Nanos::MAX;
    for (_, ended) in writes.iter_mut().rev() {
        first = first.min(*ended);
        *ended = first;
    }
    let after = |moment: Nanos| {
        let place = writes.partition_point(|(begun, _)| *begun < moment);
        writes.get(place).map(|(_, ended)| ended.saturating_sub(moment))
    };
    let recovery = |mishap: &Mishap| Recovery {
        fault: mishap.fault.clone(),
        kind: mishap.kind,
        from_begin: after(mishap.begun),
        from_end: after(mishap.ended),
    };
    mishaps.iter().map(recovery).collect()
}

/// The middle and the largest of several times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread {
    /// The middle one; of two, the larger.
    pub median: Nanos,
    /// The largest.
    pub largest: Nanos,
}

/// The middle and the largest of `times`; `None` if there are none.
pub fn spread(times: impl IntoIterator<Item = Nanos>) -> Option<Spread> {
    let mut times: Vec<_> = times.into_iter().collect();
    times.sort_unstable();
    Some(Spread { median: *times.get(times.len() / 2)?, largest: *times.last()? })
}

/// Latencies of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Latency {
    pub(super) median: Nanos,
    pub(super) high: Nanos,
}

/// The calls that ended within a column.
#[derive(Debug, Clone, Default)]
pub(super) struct Column {
    pub(super) outcomes: Tally,
    pub(super) by_workload: [u64; Workload::ALL.len()],
    pub(super) reads: Option<Latency>,
    pub(super) writes: Option<Latency>,
}

/// All numbers of a run.
#[derive(Debug)]
pub(super) struct Figures {
    /// From the first call to the last one or the run's end.
    pub(super) span: Nanos,
    /// How much time a column has.
    pub(super) column: Nanos,
    pub(super) columns: Vec<Column>,
    pub(super) total: Tally,
    pub(super) by_workload: BTreeMap<(Workload, Way), Tally>,
    pub(super) failed: Vec<(String, u64)>,
    pub(super) unknown: Vec<(String, u64)>,
    pub(super) recoveries: Vec<Recovery>,
    /// The longest time in which no write was acknowledged.
    pub(super) longest_gap: Option<Nanos>,
    pub(super) holdings: usize,
}

impl Figures {
    pub(super) fn of(history: &History, mishaps: &[Mishap], duration: Nanos) -> Self {
        let ends = history.operations.iter().map(|operation| operation.ended);
        let span = ends
            .chain(mishaps.iter().map(|mishap| mishap.ended))
            .max()
            .unwrap_or(0)
            .max(duration)
            .max(SECOND);
        let column = SECOND * span.div_ceil(SECOND * COLUMNS);
        let mut by_workload = BTreeMap::<_, Tally>::new();
        for operation in &history.operations {
            let place = (Workload::of(&operation.call), operation.way);
            by_workload.entry(place).or_default().count(&operation.outcome);
        }
        Self {
            span,
            column,
            columns: columns(&history.operations, span, column),
            total: Tally::of(&history.operations),
            by_workload,
            failed: reasons(&history.operations, |outcome| match outcome {
                Outcome::Failed { reason } => Some(reason),
                Outcome::Done { .. }
                | Outcome::SeedWritten
                | Outcome::SeedFound { .. }
                | Outcome::Unknown { .. } => None,
            }),
            unknown: reasons(&history.operations, |outcome| match outcome {
                Outcome::Unknown { reason } => Some(reason),
                Outcome::Done { .. }
                | Outcome::SeedWritten
                | Outcome::SeedFound { .. }
                | Outcome::Failed { .. } => None,
            }),
            recoveries: recoveries(history, mishaps),
            longest_gap: longest_gap(&history.operations),
            holdings: history.holdings.len(),
        }
    }
}

fn columns(operations: &[Operation], span: Nanos, width: Nanos) -> Vec<Column> {
    let count = span.div_ceil(width).max(1) as usize;
    let mut columns = vec![Column::default(); count];
    let mut times: Vec<[Vec<Nanos>; 2]> = vec![Default::default(); count];
    for operation in operations {
        let place = ((operation.ended / width) as usize).min(count - 1);
        let (Some(column), Some([reads, writes])) = (columns.get_mut(place), times.get_mut(place)) else {
            continue;
        };
        let before = column.outcomes.ok;
        column.outcomes.count(&operation.outcome);
        if column.outcomes.ok > before {
            let workload = Workload::of(&operation.call);
            if let Some(count) = column.by_workload.get_mut(workload as usize) {
                *count += 1;
            }
            let times = if may_write(&operation.call) { writes } else { reads };
            times.push(operation.ended.saturating_sub(operation.begun));
        }
    }
    for (column, [mut reads, mut writes]) in columns.iter_mut().zip(times) {
        column.reads = latency(&mut reads);
        column.writes = latency(&mut writes);
    }
    columns
}

fn latency(times: &mut [Nanos]) -> Option<Latency> {
    times.sort_unstable();
    let high = times.len().checked_sub(1)?.min(times.len() * 99 / 100);
    Some(Latency { median: *times.get(times.len() / 2)?, high: *times.get(high)? })
}

/// Each reason with how often it came, the most frequent first.
fn reasons<'a>(
    operations: &'a [Operation],
    reason: impl Fn(&'a Outcome) -> Option<&'a String>,
) -> Vec<(String, u64)> {
    let mut counts = BTreeMap::<&str, u64>::new();
    for reason in operations.iter().filter_map(|operation| reason(&operation.outcome)) {
        *counts.entry(reason).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts
}

fn longest_gap(operations: &[Operation]) -> Option<Nanos> {
    let writes = operations.iter().filter(|operation| is_acknowledged_write(operation));
    let mut ends: Vec<_> = writes.map(|operation| operation.ended).collect();
    ends.sort_unstable();
    ends.windows(2).filter_map(|pair| Some(pair.last()? - pair.first()?)).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(begun: Nanos, ended: Nanos, outcome: Outcome) -> Operation {
        let then = vec![Step::Put { key: "reg/1/0".to_owned(), value: "v".to_owned(), lease: None }];
        let call = Call::Txn { compares: Vec::new(), then, otherwise: Vec::new(), local: false };
        Operation { client: 1, node: 1, way: Way::Grpc, begun, ended, call, outcome }
    }

    fn done() -> Outcome {
        Outcome::Done { revision: 3, succeeded: true, results: vec![StepResult::Put] }
    }

    fn mishap(begun: Nanos, ended: Nanos) -> Mishap {
        Mishap {
            fault: "kill-leader".to_owned(),
            kind: Kind::Kill,
            detail: String::new(),
            nodes: vec![1],
            count: 1,
            begun,
            ended,
        }
    }

    #[test]
    fn recovery_is_the_first_acknowledged_write_that_began_later() {
        let unknown = Outcome::Unknown { reason: "x".to_owned() };
        let not_held = Outcome::Done { revision: 3, succeeded: false, results: Vec::new() };
        let operations = vec![
            // It began before the fault, so its end says nothing.
            write(90, 120, done()),
            write(101, 103, unknown),
            write(102, 104, not_held),
            write(105, 300, done()),
            write(110, 150, done()),
            write(400, 410, done()),
        ];
        let history = History { operations, ..History::default() };
        let found = recoveries(&history, &[mishap(100, 200), mishap(395, 500)]);
        let times: Vec<_> = found.iter().map(|recovery| (recovery.from_begin, recovery.from_end)).collect();
        assert_eq!(times, [(Some(50), Some(210)), (Some(15), None)]);
        assert_eq!(spread([5, 1, 9]), Some(Spread { median: 5, largest: 9 }));
        assert_eq!(spread([]), None);
    }

    #[test]
    fn calls_are_counted_where_they_ended() {
        let failed = Outcome::Failed { reason: "503 unavailable".to_owned() };
        let operations = vec![
            write(0, SECOND / 2, done()),
            write(0, SECOND + 1, failed.clone()),
            write(0, SECOND + 2, failed),
            write(SECOND, 3 * SECOND, done()),
        ];
        let history = History { operations, ..History::default() };
        let figures = Figures::of(&history, &[], 3 * SECOND);
        assert_eq!((figures.columns.len(), figures.column), (3, SECOND));
        let outcomes: Vec<_> = figures.columns.iter().map(|column| column.outcomes).collect();
        let ok = Tally { ok: 1, ..Tally::default() };
        assert_eq!(outcomes, [ok, Tally { failed: 2, ..Tally::default() }, ok]);
        assert_eq!(figures.columns[0].writes, Some(Latency { median: SECOND / 2, high: SECOND / 2 }));
        assert_eq!((figures.columns[0].reads, figures.columns[1].writes), (None, None));
        assert_eq!(figures.columns[2].by_workload, [1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(figures.failed, [("503 unavailable".to_owned(), 2)]);
        assert_eq!(figures.by_workload[&(Workload::Registers, Way::Grpc)].all(), 4);
        assert_eq!(figures.longest_gap, Some(5 * SECOND / 2));
        assert_eq!(Figures::of(&History::default(), &[], 0).columns.len(), 1);
        assert_eq!(Figures::of(&History::default(), &[], 3_600 * SECOND).columns.len(), 240);
    }

    #[test]
    fn a_high_latency_is_one_that_one_in_a_hundred_exceeds() {
        let mut times: Vec<_> = (1..=1_000).rev().collect();
        assert_eq!(latency(&mut times), Some(Latency { median: 501, high: 991 }));
        assert_eq!(latency(&mut [7]), Some(Latency { median: 7, high: 7 }));
        assert_eq!(latency(&mut []), None);
    }
}
