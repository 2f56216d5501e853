//! Lines of the ledger for simulated clusters.

use super::{cells, row};

/// What stands above the table.
pub(super) const TITLE: &str = "\n## Simulated clusters\n\n";

pub(super) const HEADS: [&str; 9] = [
    "date",
    "commit",
    "first seed",
    "seeds",
    "simulated seconds",
    "steps of tasks",
    "operations told",
    "operations unknown",
    "seeds with a broken promise",
];

/// Many seeds of the simulation, one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Simulated {
    /// When they began, such as `2026-01-31 12:00`.
    pub date: String,
    /// The commit of the nodes' code.
    pub commit: String,
    /// The first seed.
    pub from: u64,
    /// How many.
    pub seeds: u64,
    /// How much time passed in all of them.
    pub seconds: u64,
    /// How often a task took a step.
    pub steps: u64,
    /// Operations whose outcome is known.
    pub operations: u64,
    /// Operations whose outcome is unknown.
    pub unknown: u64,
    /// Seeds in which a promise was broken.
    pub broken: u64,
}

impl Simulated {
    pub(super) fn line(&self) -> String {
        let numbers =
            [self.from, self.seeds, self.seconds, self.steps, self.operations, self.unknown, self.broken];
        let mut cells = vec![self.date.clone(), self.commit.clone()];
        cells.extend(numbers.map(|number| number.to_string()));
        row(&cells)
    }

    pub(super) fn parse(line: &str) -> Result<Self, String> {
        let [date, commit, numbers @ ..] = cells::<{ HEADS.len() }>(line)?;
        let mut numbers = HEADS.into_iter().skip(2).zip(numbers);
        let mut next = || {
            let (head, cell) = numbers.next().unwrap_or_default();
            cell.parse::<u64>().map_err(|_| format!("{head} is {cell:?}"))
        };
        Ok(Self {
            date: date.to_owned(),
            commit: commit.to_owned(),
            from: next()?,
            seeds: next()?,
            seconds: next()?,
            steps: next()?,
            operations: next()?,
            unknown: next()?,
            broken: next()?,
        })
    }
}
