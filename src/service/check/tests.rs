//! The rules one by one, and then against an interpreter: what the check lets
//! pass changes no key twice, and what it calls a duplicate may do so.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::command::{Compare, DeleteOp, PutOp, Relation, Target};

fn bytes(key: &str) -> Bytes {
    Bytes::copy_from_slice(key.as_bytes())
}

fn put(key: &str) -> Op {
    let value = Some(Bytes::from_static(b"v"));
    Op::Put(PutOp { key: bytes(key), value, lease: Some(0), want_previous: false })
}

fn delete(keys: KeyRange) -> Op {
    Op::Delete(DeleteOp { keys, want_previous: false })
}

fn one(key: &str) -> KeyRange {
    KeyRange::One(bytes(key))
}

fn between(start: &str, end: &str) -> KeyRange {
    KeyRange::Between { start: bytes(start), end: bytes(end) }
}

fn range(keys: KeyRange) -> Op {
    Op::Range(RangeRequest::of(keys))
}

fn compare(keys: KeyRange) -> Compare {
    Compare { keys, target: Target::Version(0), relation: Relation::Equal }
}

fn success(ops: Vec<Op>) -> Txn {
    Txn { success: ops, ..Txn::default() }
}

fn nested(success: Vec<Op>, failure: Vec<Op>) -> Op {
    Op::Txn(Txn { compares: Vec::new(), success, failure })
}

fn code(txn: &Txn, limits: &Limits) -> &'static str {
    check_txn(txn, limits).map_or_else(|error| error.code(), |()| "ok")
}

#[test]
fn each_key_is_changed_once() {
    let cases = [
        ("nothing", vec![], "ok"),
        ("two keys", vec![put("a"), put("b")], "ok"),
        ("a key put twice", vec![put("a"), put("b"), put("a")], "duplicate_key"),
        ("a key put, then deleted", vec![put("a"), delete(one("a"))], "duplicate_key"),
        ("a key deleted, then put", vec![delete(one("a")), put("a")], "duplicate_key"),
        ("a key put inside a deleted range", vec![delete(between("a", "c")), put("b")], "duplicate_key"),
        (
            "a key put before a range that holds it goes",
            vec![put("b"), delete(between("a", "c"))],
            "duplicate_key",
        ),
        ("a key put at a deleted range's end", vec![delete(between("a", "c")), put("c")], "ok"),
        ("a key put before a deleted range", vec![delete(between("b", "c")), put("a")], "ok"),
        (
            "a key put after all to come is deleted",
            vec![delete(KeyRange::From(bytes("b"))), put("x")],
            "duplicate_key",
        ),
        ("a key put before all that is deleted", vec![delete(KeyRange::From(bytes("b"))), put("a")], "ok"),
        ("a range that ends before it begins", vec![delete(between("c", "a")), put("b")], "ok"),
        ("a key deleted twice", vec![delete(one("a")), delete(one("a"))], "ok"),
        (
            "ranges deleted across each other",
            vec![delete(between("a", "d")), delete(between("c", "f"))],
            "ok",
        ),
        (
            "a key put in what two ranges cover together",
            vec![delete(between("a", "c")), delete(between("c", "e")), put("d")],
            "duplicate_key",
        ),
        ("a key read and put", vec![range(one("a")), put("a"), range(one("a"))], "ok"),
        ("one key in both branches", vec![nested(vec![put("a")], vec![put("a")])], "ok"),
        (
            "a key put in one branch and deleted in the other",
            vec![nested(vec![put("a")], vec![delete(one("a"))])],
            "ok",
        ),
        ("a key twice in a nested branch", vec![nested(vec![], vec![put("a"), put("a")])], "duplicate_key"),
        ("a key above and below", vec![nested(vec![put("a")], vec![]), put("a")], "duplicate_key"),
        (
            "a key deleted above and put below",
            vec![delete(one("a")), nested(vec![], vec![put("a")])],
            "duplicate_key",
        ),
        (
            "a key put above and deleted below",
            vec![put("a"), nested(vec![delete(one("a"))], vec![])],
            "duplicate_key",
        ),
        (
            "a key in two nested ones",
            vec![nested(vec![put("a")], vec![]), nested(vec![], vec![put("a")])],
            "duplicate_key",
        ),
        (
            "a key deleted in one nested and put in the next",
            vec![nested(vec![delete(one("a"))], vec![]), nested(vec![put("a")], vec![])],
            "duplicate_key",
        ),
        (
            // The one case in which etcd is laxer.
            "a key put in one nested and deleted in the next",
            vec![nested(vec![put("a")], vec![]), nested(vec![delete(one("a"))], vec![])],
            "duplicate_key",
        ),
        (
            "a key two levels down",
            vec![put("a"), nested(vec![nested(vec![], vec![delete(between("a", "b"))])], vec![])],
            "duplicate_key",
        ),
    ];
    for (what, ops, expected) in cases {
        assert_eq!(code(&success(ops.clone()), &Limits::default()), expected, "{what}");
        let failure = Txn { failure: ops, ..Txn::default() };
        assert_eq!(code(&failure, &Limits::default()), expected, "{what}, in the other branch");
    }
    let both = Txn { success: vec![put("a")], failure: vec![put("a")], ..Txn::default() };
    assert_eq!(code(&both, &Limits::default()), "ok");
}

#[test]
fn keys_and_values_keep_to_the_limits() {
    let limits = Limits { max_key_bytes: 3, max_value_bytes: 4, ..Limits::default() };
    let valued = |size| {
        Op::Put(PutOp {
            key: bytes("k"),
            value: Some(vec![0; size].into()),
            lease: None,
            want_previous: false,
        })
    };
    let keeping = Op::Put(PutOp { key: bytes("k"), value: None, lease: None, want_previous: true });
    let cases = [
        (put(""), "invalid_request"),
        (put("abc"), "ok"),
        (put("abcd"), "too_large"),
        (valued(4), "ok"),
        (valued(5), "too_large"),
        (keeping, "ok"),
        (delete(one("")), "invalid_request"),
        (delete(one("abcd")), "too_large"),
        (delete(between("abcd", "abcde")), "ok"),
        (delete(KeyRange::all()), "ok"),
        (range(one("")), "invalid_request"),
        (range(one("abcd")), "ok"),
        (range(KeyRange::all()), "ok"),
    ];
    for (op, expected) in cases {
        assert_eq!(code(&success(vec![op.clone()]), &limits), expected, "{op:?}");
        assert_eq!(
            code(&success(vec![nested(vec![], vec![op.clone()])]), &limits),
            expected,
            "nested {op:?}"
        );
    }
    let comparing = |keys| Txn { compares: vec![compare(keys)], ..Txn::default() };
    assert_eq!(code(&comparing(one("")), &limits), "invalid_request");
    assert_eq!(code(&comparing(one("abcd")), &limits), "ok");
    assert_eq!(code(&comparing(KeyRange::all()), &limits), "ok");
}

#[test]
fn operations_are_counted_by_the_longest_list_of_each_level() {
    let limits = Limits { max_txn_ops: 4, ..Limits::default() };
    let reads = |count| vec![range(one("k")); count];
    let compares = |count| vec![compare(one("k")); count];
    let flat = |compared, succeeded, failed| Txn {
        compares: compares(compared),
        success: reads(succeeded),
        failure: reads(failed),
    };
    assert_eq!(code(&flat(4, 4, 4), &limits), "ok");
    for (txn, count) in [
        (flat(5, 0, 0), 5),
        (flat(0, 5, 0), 5),
        (flat(0, 0, 6), 6),
        // Two of the four are used above.
        (success(vec![range(one("k")), nested(reads(3), vec![])]), 5),
        (success(vec![nested(vec![nested(vec![], reads(3))], vec![])]), 5),
    ] {
        let Err(Error::TooManyOperations { count: counted, limit: 4 }) = check_txn(&txn, &limits) else {
            panic!("{txn:?} was not refused");
        };
        assert_eq!(counted, count, "{txn:?}");
    }
    assert_eq!(code(&success(vec![range(one("k")), nested(reads(2), reads(2))]), &limits), "ok");
    // Each nested one gets all that is left.
    assert_eq!(code(&success(vec![nested(reads(2), vec![]), nested(reads(2), vec![])]), &limits), "ok");
    assert_eq!(code(&success(vec![nested(vec![], vec![]); 4]), &limits), "ok");
}

#[test]
fn the_number_of_operations_is_looked_at_before_duplicates() {
    let limits = Limits { max_txn_ops: 2, ..Limits::default() };
    assert_eq!(code(&success(vec![put("a"), put("a"), put("")]), &limits), "too_many_operations");
    assert_eq!(code(&success(vec![put("a"), put("a")]), &limits), "duplicate_key");
}

#[test]
fn nesting_is_as_deep_as_what_can_be_encoded() {
    let deep = |depth| (1..depth).fold(Txn::default(), |inner, _| Txn::of(Op::Txn(inner)));
    assert_eq!(code(&deep(MAX_TXN_DEPTH), &Limits::default()), "ok");
    assert_eq!(code(&deep(MAX_TXN_DEPTH + 1), &Limits::default()), "invalid_request");
}

#[test]
fn a_transaction_of_many_operations_is_checked_quickly() {
    let limits = Limits { max_txn_ops: 1 << 20, ..Limits::default() };
    let mut ops: Vec<Op> = (0..50_000).map(|at| put(&format!("p{at:06}"))).collect();
    ops.extend((0..50_000).map(|at| delete(between(&format!("d{at:06}"), &format!("d{at:06}~")))));
    let mut txn = success(ops);
    for _ in 1..MAX_TXN_DEPTH {
        txn = success(vec![put("top"), Op::Txn(txn)]);
        assert_eq!(txn.success.remove(0), put("top"));
    }
    let began = std::time::Instant::now();
    assert_eq!(code(&txn, &limits), "ok");
    assert!(began.elapsed().as_secs() < 5, "took {:?}", began.elapsed());
}

/// Runs transactions on a few keys and counts how often each one changes.
struct Interpreter<'a> {
    keys: BTreeMap<Bytes, usize>,
    present: std::collections::BTreeSet<Bytes>,
    /// Whether the compares of each transaction hold, in the order of execution.
    branches: &'a mut dyn FnMut() -> bool,
}

impl Interpreter<'_> {
    fn run(&mut self, txn: &Txn) {
        let ops = if (self.branches)() { &txn.success } else { &txn.failure };
        for op in ops {
            match op {
                Op::Range(_) => {}
                Op::Put(put) => {
                    self.present.insert(put.key.clone());
                    *self.keys.entry(put.key.clone()).or_default() += 1;
                }
                Op::Delete(delete) => {
                    let gone: Vec<_> =
                        self.present.iter().filter(|key| delete.keys.contains(key)).cloned().collect();
                    for key in gone {
                        self.present.remove(&key);
                        *self.keys.entry(key).or_default() += 1;
                    }
                }
                Op::Txn(txn) => self.run(txn),
            }
        }
    }
}

const ALPHABET: &str = "[a-d]{1,2}";

/// Most changes of one key, with `branches` as bits and every key there before.
fn most_changes(txn: &Txn, mut branches: u32) -> usize {
    let mut next = || {
        let taken = branches & 1 == 1;
        branches >>= 1;
        taken
    };
    let letters = ["", "a", "b", "c", "d"];
    let present = letters.iter().flat_map(|one| letters.iter().map(move |two| bytes(&format!("{one}{two}"))));
    let mut interpreter =
        Interpreter { keys: BTreeMap::new(), present: present.collect(), branches: &mut next };
    interpreter.run(txn);
    interpreter.keys.into_values().max().unwrap_or(0)
}

fn key_range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        3 => ALPHABET.prop_map(|key| one(&key)),
        1 => ALPHABET.prop_map(|key| KeyRange::From(bytes(&key))),
        3 => (ALPHABET, ALPHABET).prop_map(|(start, end)| between(&start, &end)),
    ]
}

fn txn() -> impl Strategy<Value = Txn> {
    let op = prop_oneof![
        4 => ALPHABET.prop_map(|key| put(&key)),
        3 => key_range().prop_map(delete),
        1 => key_range().prop_map(range),
    ];
    let ops = proptest::collection::vec(op, 0..4);
    let leaf = (ops.clone(), ops).prop_map(|(success, failure)| Txn { success, failure, ..Txn::default() });
    leaf.prop_recursive(3, 6, 3, |inner| {
        let op = prop_oneof![
            2 => inner.prop_map(Op::Txn),
            2 => ALPHABET.prop_map(|key| put(&key)),
            1 => key_range().prop_map(delete),
        ];
        let ops = proptest::collection::vec(op, 0..3);
        (ops.clone(), ops).prop_map(|(success, failure)| Txn { success, failure, ..Txn::default() })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_transaction_that_passes_never_changes_a_key_twice_and_one_that_does_not_may(txn in txn()) {
        let may_change_twice = (0..1 << 10).any(|branches| most_changes(&txn, branches) > 1);
        match check_txn(&txn, &Limits::default()) {
            Ok(()) => prop_assert!(!may_change_twice),
            Err(Error::DuplicateKey) => prop_assert!(may_change_twice),
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        }
    }
}
