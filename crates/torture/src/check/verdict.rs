//! What the checkers found.
//!
//! Nothing here judges. A checker that found very much keeps the first of it and counts
//! the rest, so that a broken run gives a report that people can read.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Problems that are kept of one checker; what comes after them is only counted.
const KEPT: u64 = 50;

/// One lie that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The checker, such as `revision`.
    pub check: String,
    /// Which of its promises was broken, such as `stale-read`.
    pub kind: String,
    /// What happened, in one sentence.
    pub text: String,
    /// The key, if it is about one.
    pub key: Option<String>,
    /// The operations that contradict each other, as indexes into the history's.
    pub operations: Vec<usize>,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}: {}", self.check, self.kind, self.text)?;
        if !self.operations.is_empty() {
            write!(out, " (operations {:?})", self.operations)?;
        }
        Ok(())
    }
}

/// All that the checkers found, and how much they looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// What was found, the first of each checker.
    pub problems: Vec<Problem>,
    /// How much of what was looked at, by `checker.what`: a verdict that rests on nothing
    /// shows here. `checker.problems` counts all problems, those too that were not kept.
    pub counts: BTreeMap<String, u64>,
}

impl Verdict {
    /// Whether no lie was found.
    pub fn passed(&self) -> bool {
        self.problems.is_empty()
    }

    /// How much of `what` was looked at.
    pub fn counted(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or_default()
    }

    /// Adds to what was looked at.
    pub(super) fn count(&mut self, what: &str, more: u64) {
        match self.counts.get_mut(what) {
            Some(count) => *count += more,
            None => drop(self.counts.insert(what.to_owned(), more)),
        }
    }

    /// Keeps a problem, or counts it if there are very many already.
    pub(super) fn problem(
        &mut self,
        (check, kind): (&str, &str),
        key: Option<&str>,
        operations: &[usize],
        text: impl FnOnce() -> String,
    ) {
        let counter = format!("{check}.problems");
        self.count(&counter, 1);
        if self.counted(&counter) > KEPT {
            return;
        }
        self.problems.push(Problem {
            check: check.to_owned(),
            kind: kind.to_owned(),
            text: text(),
            key: key.map(str::to_owned),
            operations: operations.to_vec(),
        });
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.passed() {
            writeln!(out, "no contradiction found")?;
        }
        for problem in &self.problems {
            writeln!(out, "{problem}")?;
        }
        for (what, count) in &self.counts {
            writeln!(out, "{what}: {count}")?;
        }
        Ok(())
    }
}
