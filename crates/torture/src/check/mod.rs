//! The checkers: is what clients were told one story?
//!
//! Each looks at a [`History`] in its own way, so that one lie usually shows in several.
//! None knows which faults there were. All of them are near-linear in the length of the
//! history, but for the searches of `wgl` and the smallest parts of what they find,
//! which are bounded: what was given up is counted.
//!
//! What a run must hold for them is written down in [`crate::history`]. Besides, the bank
//! opens with one transaction that sets all accounts, and keys of the seed's calls and
//! registers with a lease are left to the checkers that can judge them.

mod answer;
mod append;
mod bank;
mod elements;
mod finals;
mod floors;
mod graph;
mod lock;
mod register;
mod revision;
mod settle;
mod shrink;
mod truth;
mod verdict;
mod watch;
mod wgl;

#[cfg(test)]
mod tests;

pub use verdict::{Problem, Verdict};

use crate::history::History;
use truth::Truth;

/// Judges a run by all checkers.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    verdict.count("history.operations", history.operations.len() as u64);
    let truth = Truth::gather(history, &mut verdict);
    truth.check(history, &mut verdict);
    revision::check(history, &truth, &mut verdict);
    register::check(history, &mut verdict);
    append::check(history, &mut verdict);
    bank::check(history, &truth, &mut verdict);
    lock::check(history, &truth, &mut verdict);
    watch::check(history, &truth, &mut verdict);
    finals::check(history, &mut verdict);
    verdict
}
