//! What is counted while a run goes on, and how the counts of several threads
//! become one.
//!
//! Latencies are of successful operations only; failures are counted by kind
//! and show in the gap between acknowledged writes.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::workload::Operation;

/// Latencies above this count as this.
const LONGEST: Duration = Duration::from_secs(10 * 60);
/// The most kinds of error that are told apart; the rest count as one kind.
const MAX_ERROR_KINDS: usize = 32;
/// How many errors are shown in full.
const MAX_SAMPLES: usize = 5;
/// The length of one slot of the timeline.
pub(crate) const SLOT: Duration = Duration::from_millis(100);
/// A day of slots; what comes later counts into the last one.
const MAX_SLOTS: usize = 864_000;

/// Counts of one stretch of 100 ms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) operations: u64,
    pub(crate) errors: u64,
    pub(crate) max_latency: Duration,
}

/// A time in which no write was acknowledged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Gap {
    pub(crate) length: Duration,
    /// When it began, from the start of the measurement.
    pub(crate) began: Duration,
}

/// The counts of one thread, or of all of them.
#[derive(Debug)]
pub(crate) struct Stats {
    latencies: Vec<(Operation, Histogram<u64>)>,
    pub(crate) absent: u64,
    pub(crate) wrong: u64,
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) samples: Vec<String>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) longest_gap: Gap,
    /// When the last operation ended, from the start of the measurement.
    pub(crate) last_end: Duration,
}

impl Stats {
    pub(crate) fn new() -> Self {
        Self {
            latencies: Vec::new(),
            absent: 0,
            wrong: 0,
            errors: BTreeMap::new(),
            samples: Vec::new(),
            slots: Vec::new(),
            longest_gap: Gap::default(),
            last_end: Duration::ZERO,
        }
    }

    /// Counts an operation that succeeded at `at` from the start.
    pub(crate) fn succeeded(&mut self, operation: Operation, at: Duration, latency: Duration) {
        let nanos = u64::try_from(latency.min(LONGEST).as_nanos()).unwrap_or(u64::MAX);
        self.histogram(operation).saturating_record(nanos);
        self.last_end = self.last_end.max(at);
        let slot = self.slot(at);
        slot.operations = slot.operations.saturating_add(1);
        slot.max_latency = slot.max_latency.max(latency);
    }

    /// Counts an operation that failed at `at`.
    pub(crate) fn failed(&mut self, kind: &str, detail: &str, at: Duration) {
        self.last_end = self.last_end.max(at);
        let slot = self.slot(at);
        slot.errors = slot.errors.saturating_add(1);
        let known = self.errors.contains_key(kind) || self.errors.len() < MAX_ERROR_KINDS;
        add(&mut self.errors, if known { kind } else { "other" }, 1);
        self.add_sample(detail);
    }

    /// Counts a time without an acknowledged write.
    pub(crate) fn gap(&mut self, gap: Gap) {
        if gap.length > self.longest_gap.length {
            self.longest_gap = gap;
        }
    }

    /// Adds what another thread counted.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (operation, latencies) in &other.latencies {
            self.histogram(*operation).add(latencies).expect("all histograms have the same bounds");
        }
        self.absent = self.absent.saturating_add(other.absent);
        self.wrong = self.wrong.saturating_add(other.wrong);
        for (kind, count) in &other.errors {
            add(&mut self.errors, kind, *count);
        }
        for sample in &other.samples {
            self.add_sample(sample);
        }
        if self.slots.len() < other.slots.len() {
            self.slots.resize(other.slots.len(), Slot::default());
        }
        for (mine, theirs) in self.slots.iter_mut().zip(&other.slots) {
            mine.operations = mine.operations.saturating_add(theirs.operations);
            mine.errors = mine.errors.saturating_add(theirs.errors);
            mine.max_latency = mine.max_latency.max(theirs.max_latency);
        }
        self.gap(other.longest_gap);
        self.last_end = self.last_end.max(other.last_end);
    }

    /// Latencies in nanoseconds, by kind of operation; kinds that never
    /// succeeded are left out.
    pub(crate) fn latencies(&self) -> impl Iterator<Item = (Operation, &Histogram<u64>)> {
        Operation::ALL.into_iter().filter_map(|operation| {
            self.latencies.iter().find(|(other, _)| *other == operation).map(|(kind, counts)| (*kind, counts))
        })
    }

    /// How many operations succeeded.
    pub(crate) fn operations(&self) -> u64 {
        self.latencies.iter().map(|(_, latencies)| latencies.len()).sum()
    }

    /// How many failed.
    pub(crate) fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }

    fn histogram(&mut self, operation: Operation) -> &mut Histogram<u64> {
        let at = self.latencies.iter().position(|(other, _)| *other == operation);
        let at = at.unwrap_or_else(|| {
            let longest = u64::try_from(LONGEST.as_nanos()).unwrap_or(u64::MAX);
            let latencies = Histogram::new_with_bounds(1, longest, 3).expect("the bounds are valid");
            self.latencies.push((operation, latencies));
            self.latencies.len().saturating_sub(1)
        });
        &mut self.latencies.get_mut(at).expect("it was found or added").1
    }

    fn slot(&mut self, at: Duration) -> &mut Slot {
        let index = usize::try_from(at.as_millis() / SLOT.as_millis()).unwrap_or(usize::MAX);
        let index = index.min(MAX_SLOTS);
        if self.slots.len() <= index {
            self.slots.resize(index.saturating_add(1), Slot::default());
        }
        self.slots.get_mut(index).expect("the timeline was made long enough")
    }

    fn add_sample(&mut self, sample: &str) {
        if self.samples.len() < MAX_SAMPLES && !self.samples.iter().any(|other| other == sample) {
            self.samples.push(sample.to_owned());
        }
    }
}

fn add(errors: &mut BTreeMap<String, u64>, kind: &str, count: u64) {
    if let Some(before) = errors.get_mut(kind) {
        *before = before.saturating_add(count);
    } else {
        errors.insert(kind.to_owned(), count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn merged_counts_are_those_of_one_thread_that_did_it_all() {
        let mut parts = [Stats::new(), Stats::new()];
        let mut whole = Stats::new();
        for n in 0..1_000_u64 {
            let operation = if n % 3 == 0 { Operation::Put } else { Operation::Get };
            for stats in [&mut parts[(n % 2) as usize], &mut whole] {
                stats.succeeded(operation, millis(n), Duration::from_micros(n * 7));
                if n % 10 == 0 {
                    stats.failed("status 503", "no leader", millis(n));
                }
                stats.gap(Gap { length: millis(n % 100), began: millis(n) });
            }
        }
        let [mut merged, second] = parts;
        merged.merge(&second);
        assert_eq!(merged.operations(), 1_000);
        assert_eq!(merged.error_count(), 100);
        assert_eq!(merged.samples, ["no leader"]);
        assert_eq!(merged.slots, whole.slots);
        assert_eq!(merged.slots.iter().map(|slot| slot.operations).sum::<u64>(), 1_000);
        assert_eq!(merged.longest_gap, Gap { length: millis(99), began: millis(99) });
        assert_eq!(merged.last_end, millis(999));
        for ((kind, one), (other_kind, other)) in merged.latencies().zip(whole.latencies()) {
            assert_eq!(kind, other_kind);
            assert_eq!(one.len(), other.len());
            for quantile in [0.5, 0.99, 0.999, 1.0] {
                assert_eq!(one.value_at_quantile(quantile), other.value_at_quantile(quantile));
            }
        }
    }

    #[test]
    fn percentiles_are_within_a_thousandth() {
        let mut stats = Stats::new();
        (1..=10_000).for_each(|n| stats.succeeded(Operation::Put, millis(1), Duration::from_micros(n)));
        let (_, latencies) = stats.latencies().next().unwrap();
        let p99 = latencies.value_at_quantile(0.99) as f64;
        assert!((p99 / 9_900_000.0 - 1.0).abs() < 0.001, "{p99}");
    }

    #[test]
    fn kinds_of_error_are_bounded() {
        let mut stats = Stats::new();
        (0..1_000).for_each(|n| stats.failed(&format!("kind {n}"), "detail", millis(n)));
        assert!(stats.errors.len() <= MAX_ERROR_KINDS + 1);
        assert_eq!(stats.error_count(), 1_000);
    }
}
