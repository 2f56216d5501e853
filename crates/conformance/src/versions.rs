//! Where versions of etcd answer differently, and what is right then.
//!
//! The newest version is followed. A difference that stands here is no failure as long
//! as one of the two servers claims to be older than the change and the other does not.

use crate::step::{Range, Step};

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
    reason: "an order that is none is refused; earlier versions take it for no order",
    concerns: |step| {
        let alone = matches!(step, Step::Range(range) if range.has_unknown_order());
        let within = matches!(step, Step::Txn(txn) if txn.has_range(&Range::has_unknown_order));
        alone || within
    },
}];

/// Whether two servers of these versions may answer the step differently because Kvorum, which
/// claims a version that none of the others has, keeps etcd's rule where etcd overlooks it:
/// that no transaction changes a key twice. etcd takes a deletion up to the end of the keyspace
/// for one of nothing, and does not look for the keys of a nested transaction among what
/// later ones delete; then it makes two changes at one revision, or panics.
pub fn kept_rule(step: &Step, left: (u32, u32), right: (u32, u32)) -> bool {
    left != right && matches!(step, Step::Txn(txn) if txn.may_change_twice())
}

/// The change by which two servers of these versions may answer the step differently.
pub fn change_between(step: &Step, left: (u32, u32), right: (u32, u32)) -> Option<&'static Change> {
    CHANGES.iter().find(|change| (left < change.since) != (right < change.since) && (change.concerns)(step))
}
