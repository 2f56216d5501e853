//! Where versions of etcd answer differently, and what is right then.
//!
//! The newest version is followed. A difference that stands here is no failure as long
//! as one of the two servers claims to be older than the change and the other does not.

use crate::step::{Put, Range, Step};

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
pub const CHANGES: [Change; 2] = [
    Change {
        since: (3, 6),
        reason: "an order that is none is refused; earlier versions take it for no order",
        concerns: |step| {
            let alone = matches!(step, Step::Range(range) if range.has_unknown_order());
            let within = matches!(step, Step::Txn(txn) if txn.has_range(Range::has_unknown_order));
            alone || within
        },
    },
    Change {
        since: (3, 6),
        reason: "of several operations of a transaction that can't be done, the first is named; \
                 earlier versions look at all puts before any range",
        concerns: |step| {
            matches!(step, Step::Txn(txn)
                if txn.has_range(Range::has_revision) && txn.has_put(Put::may_be_impossible))
        },
    },
];

/// Whether two servers of these versions may answer the step differently because Kvorum, which
/// claims a version that none of the others has, keeps etcd's rule where etcd overlooks it:
/// that no transaction changes a key twice. etcd takes a deletion up to the end of the keyspace
/// for one of nothing, and does not look for the keys of a nested transaction among what
/// later ones delete; then it makes two changes at one revision, or panics.
pub fn kept_rule(step: &Step, left: (u32, u32), right: (u32, u32)) -> bool {
    left != right && matches!(step, Step::Txn(txn) if txn.may_change_twice_unseen())
}

/// The change by which two servers of these versions may answer the step differently.
pub fn change_between(step: &Step, left: (u32, u32), right: (u32, u32)) -> Option<&'static Change> {
    CHANGES.iter().find(|change| (left < change.since) != (right < change.since) && (change.concerns)(step))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::{Delete, Keys, Op, Revision, Txn};

    const KVORUM: (u32, u32) = (3, 7);
    const ETCD: (u32, u32) = (3, 5);

    fn put() -> Op {
        Op::Put(Put {
            key: "b".into(),
            value: "x".into(),
            lease: 0,
            previous: false,
            ignore_value: false,
            ignore_lease: false,
        })
    }

    fn delete(key: &'static str, end: &'static str) -> Op {
        Op::Delete(Delete { keys: Keys { key: key.into(), end: end.into() }, previous: false })
    }

    fn txn(ops: &[Op]) -> Txn {
        Txn { compares: Vec::new(), success: ops.to_vec(), failure: Vec::new() }
    }

    #[test]
    fn only_what_etcd_overlooks_is_excused_and_only_beside_etcd() {
        let within = |op: Op| Op::Txn(txn(&[op]));
        for overlooked in [[put(), delete("a", "\0")], [within(put()), within(delete("b", ""))]] {
            let step = Step::Txn(txn(&overlooked));
            assert!(kept_rule(&step, ETCD, KVORUM), "{step:?}");
            assert!(!kept_rule(&step, ETCD, ETCD), "{step:?}");
        }
        for seen in [
            [put(), delete("b", "")],
            [put(), delete("a", "c")],
            [put(), delete("c", "\0")],
            [within(put()), within(delete("c", ""))],
            [put(), put()],
        ] {
            let step = Step::Txn(txn(&seen));
            assert!(!kept_rule(&step, ETCD, KVORUM), "{step:?}");
        }
    }

    #[test]
    fn which_of_two_reasons_is_told_may_differ_and_only_between_versions() {
        let keys = Keys { key: "a".into(), end: "".into() };
        let range = |revision| {
            Op::Range(Range {
                keys: keys.clone(),
                limit: 0,
                revision,
                order: 0,
                target: 0,
                serializable: false,
                keys_only: false,
                count_only: false,
                bounds: [Revision::Exactly(0); 4],
            })
        };
        let leased = Op::Put(Put {
            key: "b".into(),
            value: "x".into(),
            lease: 7,
            previous: false,
            ignore_value: false,
            ignore_lease: false,
        });
        let past = Revision::Since(1);
        let both = Step::Txn(txn(&[range(past), Op::Txn(txn(std::slice::from_ref(&leased)))]));
        assert!(change_between(&both, ETCD, KVORUM).is_some());
        assert!(change_between(&both, (3, 6), KVORUM).is_none());
        for one in [vec![range(past), put()], vec![range(Revision::Exactly(0)), leased]] {
            assert!(change_between(&Step::Txn(txn(&one)), ETCD, KVORUM).is_none(), "{one:?}");
        }
    }
}
