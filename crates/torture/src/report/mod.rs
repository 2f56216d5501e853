//! One page that shows a run to people: what was done to the cluster, what clients were told
//! meanwhile, and what the checkers say of it.
//!
//! The page needs nothing but itself: no network, no fonts, no files. What nodes and checkers
//! said comes from outside and is escaped wherever it goes. Nothing here judges.

mod chart;
mod figures;
mod format;
mod html;
mod lanes;
mod problem;
mod sections;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use self::figures::Figures;
pub use self::figures::{Recovery, Spread, Tally, Workload, recoveries, spread};
use self::html::Page;
use crate::history::{History, Nanos};
use crate::timeline::Mishap;

/// What a run was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The commit of the nodes' program.
    pub commit: String,
    /// When it began, as it is to be read.
    pub date: String,
    /// How many nodes there were.
    pub nodes: usize,
    /// The seed of all choices.
    pub seed: u64,
    /// How long clients worked.
    pub duration: Nanos,
    /// What is typed to repeat it.
    pub command: String,
    /// The mistake that was built into the nodes on purpose, if any.
    pub mutant: Option<String>,
}

/// What the checkers say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Every promise that was broken.
    pub problems: Vec<Problem>,
    /// What was checked at all.
    pub checks: Vec<Check>,
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The checker that found it.
    pub check: String,
    /// What must not be, for people.
    pub text: String,
    /// The key that it is about, if it is about one.
    pub key: Option<String>,
    /// Places in [`History::operations`] that show it; as few as possible.
    pub operations: Vec<usize>,
}

/// A checker, and how much it looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// How many things it looked at.
    pub checked: u64,
    /// What these things are, such as `operations`.
    pub unit: String,
    /// How many problems it found.
    pub problems: u64,
}

/// The page of a run.
pub fn page(run: &Run, history: &History, mishaps: &[Mishap], verdict: &Verdict) -> String {
    let figures = Figures::of(history, mishaps, run.duration);
    let mut page = Page::default();
    sections::head(&mut page, run, verdict);
    sections::summary(&mut page, run, &figures, mishaps, verdict);
    if !verdict.problems.is_empty() {
        problem::section(&mut page, history, verdict);
    }
    lanes::section(&mut page, run, &figures, mishaps);
    chart::section(&mut page, &figures, mishaps);
    sections::recovery(&mut page, &figures);
    sections::calls(&mut page, &figures);
    sections::reasons(&mut page, &figures);
    sections::watchers(&mut page, history);
    sections::checks(&mut page, verdict);
    sections::foot(&mut page);
    page.into_string()
}
