//! What sequences are made of: few keys, few values and few leases, so that calls
//! meet, and every field of every request.
//!
//! Simpler comes first in every choice, because that is what shrinking leads to.

use std::ops::RangeInclusive;

use bytes::Bytes;
use kvorum_etcd_proto::etcdserverpb::compare::{CompareResult, CompareTarget};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::step::{Compare, Delete, Keys, Op, Operand, Put, Range, Revision, Step, Txn};

/// Keys that lie between, before and after each other in every way.
const KEYS: [&[u8]; 8] = [b"a", b"b", b"c", b"ab", b"a\0", b"\0", b"b/x", b"\xff"];

/// Ends of ranges that are no keys: all that follow, and the end of a prefix.
const ENDS: [&[u8]; 4] = [b"\0", b"b0", b"d", b"\xff\xff"];

const VALUES: [&[u8]; 5] = [b"x", b"", b"y", b"xx", b"\0\xff"];

const LEASES: [i64; 3] = [101, 102, 103];

const RESULTS: [CompareResult; 4] =
    [CompareResult::Equal, CompareResult::Greater, CompareResult::Less, CompareResult::NotEqual];

/// Sequences of that many calls.
pub fn sequences(lengths: RangeInclusive<usize>) -> impl Strategy<Value = Vec<Step>> {
    vec(step(), lengths)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => put().prop_map(Step::Put),
        10 => range().prop_map(Step::Range),
        4 => delete().prop_map(Step::Delete),
        8 => txn(2).prop_map(|txn| Step::Txn(survivable(txn))),
        2 => (since(), any::<bool>()).prop_map(|(revision, physical)| Step::Compact { revision, physical }),
        3 => (lease(), prop_oneof![8 => 60_i64..1000, 1 => Just(9_000_000_000), 1 => Just(9_000_000_001)])
            .prop_map(|(id, ttl)| Step::Grant { id, ttl }),
        2 => lease().prop_map(|id| Step::Revoke { id }),
        1 => lease().prop_map(|id| Step::KeepAlive { id }),
        2 => (lease(), any::<bool>()).prop_map(|(id, keys)| Step::TimeToLive { id, keys }),
        1 => Just(Step::Leases),
    ]
}

fn key() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        30 => select(&KEYS[..]).prop_map(Bytes::from_static),
        1 => Just(Bytes::new()),
    ]
}

fn value() -> impl Strategy<Value = Bytes> {
    select(&VALUES[..]).prop_map(Bytes::from_static)
}

fn lease() -> impl Strategy<Value = i64> {
    select(&LEASES[..])
}

fn keys() -> impl Strategy<Value = Keys> {
    let end = prop_oneof![
        4 => Just(Bytes::new()),
        3 => select(&ENDS[..]).prop_map(Bytes::from_static),
        2 => key(),
    ];
    (key(), end).prop_map(|(key, end)| Keys { key, end })
}

fn since() -> impl Strategy<Value = Revision> {
    prop_oneof![
        8 => (0_i64..16).prop_map(Revision::Since),
        1 => (-3_i64..0).prop_map(Revision::Since),
        1 => (-2_i64..2).prop_map(Revision::Exactly),
    ]
}

/// Mostly none.
fn now_or_since() -> impl Strategy<Value = Revision> {
    prop_oneof![3 => Just(Revision::Exactly(0)), 1 => since()]
}

fn bound() -> impl Strategy<Value = Revision> {
    prop_oneof![6 => Just(Revision::Exactly(0)), 1 => since()]
}

fn rarely(times_in_a_hundred: u32) -> impl Strategy<Value = bool> {
    prop_oneof![100 - times_in_a_hundred => Just(false), times_in_a_hundred => Just(true)]
}

fn range() -> impl Strategy<Value = Range> {
    let limit = prop_oneof![4 => Just(0_i64), 3 => 1_i64..5, 1 => Just(-1_i64)];
    let order = prop_oneof![20 => 0..3_i32, 1 => Just(7_i32)];
    // No unknown target: it ends the process of an etcd before 3.6, which does not check.
    let target = 0..5_i32;
    let bounds = [bound().boxed(), bound().boxed(), bound().boxed(), bound().boxed()];
    let flags = (rarely(20), rarely(15), rarely(15));
    (keys(), limit, now_or_since(), order, target, flags, bounds).prop_map(
        |(keys, limit, revision, order, target, (serializable, keys_only, count_only), bounds)| Range {
            keys,
            limit,
            revision,
            order,
            target,
            serializable,
            keys_only,
            count_only,
            bounds,
        },
    )
}

fn put() -> impl Strategy<Value = Put> {
    let lease = prop_oneof![3 => Just(0_i64), 1 => lease()];
    // What is to be ignored is mostly left empty, as it must be.
    (key(), value(), lease, rarely(30), rarely(10), rarely(10), rarely(80)).prop_map(
        |(key, value, lease, previous, ignore_value, ignore_lease, fitting)| Put {
            key,
            value: if fitting && ignore_value { Bytes::new() } else { value },
            lease: if fitting && ignore_lease { 0 } else { lease },
            previous,
            ignore_value,
            ignore_lease,
        },
    )
}

fn delete() -> impl Strategy<Value = Delete> {
    (keys(), any::<bool>()).prop_map(|(keys, previous)| Delete { keys, previous })
}

fn operand() -> impl Strategy<Value = Operand> {
    prop_oneof![
        (0_i64..3).prop_map(Operand::Version),
        since().prop_map(Operand::Create),
        since().prop_map(Operand::Mod),
        value().prop_map(Operand::Value),
        prop_oneof![Just(0_i64), lease()].prop_map(Operand::Lease),
    ]
}

/// The operand mostly fits its target; when it does not, etcd takes it as absent.
fn compare() -> impl Strategy<Value = Compare> {
    let result = select(&RESULTS[..]);
    let other =
        prop_oneof![30 => Just(None), 1 => operand().prop_map(Some), 1 => Just(Some(Operand::Absent))];
    (keys(), result, operand(), other).prop_map(|(keys, result, operand, other)| {
        let target = match &operand {
            Operand::Version(_) | Operand::Absent => CompareTarget::Version,
            Operand::Create(_) => CompareTarget::Create,
            Operand::Mod(_) => CompareTarget::Mod,
            Operand::Value(_) => CompareTarget::Value,
            Operand::Lease(_) => CompareTarget::Lease,
        };
        Compare { keys, result, target, operand: other.unwrap_or(operand) }
    })
}

fn txn(depth: u32) -> BoxedStrategy<Txn> {
    let op = || {
        let flat = prop_oneof![
            40 => put().prop_map(Op::Put),
            30 => range().prop_map(Op::Range),
            20 => delete().prop_map(Op::Delete),
            1 => Just(Op::Nothing),
        ];
        if depth == 0 {
            flat.boxed()
        } else {
            prop_oneof![9 => flat, 1 => txn(depth - 1).prop_map(Op::Txn)].boxed()
        }
    };
    (vec(compare(), 0..3), vec(op(), 0..4), vec(op(), 0..3))
        .prop_map(|(compares, success, failure)| Txn { compares, success, failure })
        .boxed()
}

/// The transaction without what ends etcd's process.
///
/// A deletion of all keys from one on is not held against the puts of the same
/// transaction, although it deletes their keys. That is answered, and compared. A put
/// that keeps the value or the lease of a key that is gone by then is a panic.
fn survivable(txn: Txn) -> Txn {
    if has_open_deletion(&txn.success) || has_open_deletion(&txn.failure) {
        keeping_nothing(txn)
    } else {
        txn
    }
}

fn has_open_deletion(ops: &[Op]) -> bool {
    ops.iter().any(|op| match op {
        Op::Delete(delete) => &delete.keys.end[..] == b"\0",
        Op::Txn(txn) => has_open_deletion(&txn.success) || has_open_deletion(&txn.failure),
        Op::Range(_) | Op::Put(_) | Op::Nothing => false,
    })
}

fn keeping_nothing(txn: Txn) -> Txn {
    let all = |ops: Vec<Op>| {
        ops.into_iter().map(|op| match op {
            Op::Put(put) => Op::Put(Put { ignore_value: false, ignore_lease: false, ..put }),
            Op::Txn(txn) => Op::Txn(keeping_nothing(txn)),
            Op::Range(_) | Op::Delete(_) | Op::Nothing => op,
        })
    };
    Txn { compares: txn.compares, success: all(txn.success).collect(), failure: all(txn.failure).collect() }
}
