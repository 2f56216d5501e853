//! Where versions of etcd answer differently, and what is right then.
//!
//! The newest version is followed. A difference that stands here is no failure as long
//! as one of the two servers claims to be older than the change and the other does not.

use crate::step::Step;

/// A change of behaviour between versions of etcd.
pub struct Change {
    /// The first version that behaves in the new way: major and minor.
    pub since: (u32, u32),
    /// What changed, and why the new way is right.
    pub reason: &'static str,
    /// Whether an answer to that step may differ.
    pub concerns: fn(&Step) -> bool,
}

/// Every known change, the oldest first.
pub const CHANGES: [Change; 1] = [Change {
    since: (3, 6),
    reason: "a sort order or target that is none is refused; earlier versions take it as no order",
    concerns: |step| match step {
        Step::Range(range) => range.sorts_by_unknown(),
        Step::Txn(txn) => txn.has_range(&|range| range.sorts_by_unknown()),
        _ => false,
    },
}];

/// The change by which two servers of these versions may answer the step differently.
pub fn change_between(step: &Step, left: (u32, u32), right: (u32, u32)) -> Option<&'static Change> {
    CHANGES.iter().find(|change| (left < change.since) != (right < change.since) && (change.concerns)(step))
}
