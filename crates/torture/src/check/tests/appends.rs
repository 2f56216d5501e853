//! Lists with each anomaly of Adya's and Elle's, and without any.

use super::super::{Verdict, append};
use super::kinds;
use super::model::{Scene, failed, get, mod_revision, put, txn, unknown};
use crate::history::{Call, History, Nanos, Outcome, Record, StepResult};

/// Transactions over lists, whose revisions are only names here.
struct Lists(Scene);

fn record(value: &str, revision: i64) -> Record {
    Record { value: value.to_owned(), create_revision: 1, mod_revision: revision, version: 1, lease: 0 }
}

impl Lists {
    fn new() -> Self {
        Self(Scene::new())
    }

    /// A transaction that finds such lists. A list's revision is its length.
    fn read(&mut self, span: (Nanos, Nanos), lists: &[(&str, &str)]) -> usize {
        let then: Vec<_> = lists.iter().map(|(list, _)| get(list)).collect();
        let results = lists
            .iter()
            .map(|(_, value)| StepResult::Got((!value.is_empty()).then(|| record(value, length(value)))))
            .collect();
        let outcome = Outcome::Done { revision: 1, succeeded: true, results };
        self.0.record(span, txn(&[], &then, &[]), outcome)
    }

    /// A call that compares some lists' lengths and sets some lists.
    fn call(compared: &[(&str, &str)], set: &[(&str, &str)]) -> Call {
        let conditions: Vec<_> = compared.iter().map(|(list, old)| mod_revision(list, length(old))).collect();
        let then: Vec<_> = set.iter().map(|(list, value)| put(list, value)).collect();
        txn(&conditions, &then, &[])
    }

    fn append(&mut self, span: (Nanos, Nanos), compared: &[(&str, &str)], set: &[(&str, &str)]) -> usize {
        let results = set.iter().map(|_| StepResult::Put).collect();
        let revision = set.iter().map(|(_, value)| length(value)).max().unwrap_or_default();
        let outcome = Outcome::Done { revision, succeeded: true, results };
        self.0.record(span, Self::call(compared, set), outcome)
    }

    fn judge(&self) -> Verdict {
        judge(&self.0.history)
    }
}

fn length(value: &str) -> i64 {
    value.split(',').filter(|element| !element.is_empty()).count() as i64
}

fn judge(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    append::check(history, &mut verdict);
    verdict
}

#[track_caller]
fn assert_found(verdict: &Verdict, kind: &str, operations: &[usize]) {
    assert_eq!(kinds(verdict), [format!("append/{kind}")], "{verdict}");
    let mut named = verdict.problems[0].operations.clone();
    named.sort_unstable();
    assert_eq!(named, operations, "{verdict}");
}

const X: &str = "list/x";
const Y: &str = "list/y";

#[test]
fn serial_appends_are_believed() {
    let mut lists = Lists::new();
    lists.append((0, 1), &[(X, "")], &[(X, "1")]);
    lists.append((2, 3), &[(X, "1"), (Y, "")], &[(X, "1,2"), (Y, "3")]);
    lists.read((4, 5), &[(X, "1,2"), (Y, "3")]);
    lists.0.record((6, 7), Lists::call(&[(X, "1,2")], &[(X, "1,2,4")]), unknown());
    lists.0.record((6, 7), Lists::call(&[(Y, "3")], &[(Y, "3,5")]), unknown());
    lists.read((8, 9), &[(X, "1,2,4"), (Y, "3")]);
    let verdict = lists.judge();
    assert!(verdict.passed(), "{verdict}");
    assert_eq!(verdict.counted("append.elements"), 4);
}

#[test]
fn two_that_overwrite_each_other_are_a_write_cycle() {
    let mut lists = Lists::new();
    lists.append((0, 100), &[], &[(X, "1"), (Y, "2,1")]);
    lists.append((0, 100), &[], &[(Y, "2"), (X, "1,2")]);
    lists.read((200, 201), &[(X, "1,2"), (Y, "2,1")]);
    assert_found(&lists.judge(), "G0", &[0, 1]);
}

#[test]
fn two_that_read_each_other_are_a_circular_flow_of_information() {
    let mut lists = Lists::new();
    for (own, other) in [(X, Y), (Y, X)] {
        let results = vec![StepResult::Put, StepResult::Got(Some(record("1", 1)))];
        let outcome = Outcome::Done { revision: 1, succeeded: true, results };
        lists.0.record((0, 100), txn(&[], &[put(own, "1"), get(other)], &[]), outcome);
    }
    assert_found(&lists.judge(), "G1c", &[0, 1]);
}

#[test]
fn what_was_aborted_must_not_be_read() {
    let mut lists = Lists::new();
    lists.0.record((0, 1), Lists::call(&[(X, "")], &[(X, "1")]), failed());
    lists.read((2, 3), &[(X, "1")]);
    assert_found(&lists.judge(), "G1a", &[0, 1]);
    // A transaction whose compares did not hold has not appended either.
    let Outcome::Done { succeeded, .. } = &mut lists.0.history.operations[1].outcome else {
        panic!("answered")
    };
    assert!(*succeeded);
    lists.0.history.operations[0].outcome =
        Outcome::Done { revision: 5, succeeded: false, results: Vec::new() };
    assert_found(&lists.judge(), "G1a", &[0, 1]);
}

#[test]
fn what_a_transaction_had_in_between_must_not_be_read() {
    let mut lists = Lists::new();
    lists.append((0, 100), &[(X, "")], &[(X, "1,2")]);
    lists.read((0, 100), &[(X, "1")]);
    let verdict = lists.judge();
    assert!(kinds(&verdict).contains(&"append/G1b".to_owned()), "{verdict}");
}

#[test]
fn a_read_of_half_a_transaction_is_a_single_anti_dependency() {
    let mut lists = Lists::new();
    lists.append((0, 100), &[(X, ""), (Y, "")], &[(X, "1"), (Y, "2")]);
    lists.read((0, 100), &[(X, "1"), (Y, "")]);
    assert_found(&lists.judge(), "G-single", &[0, 1]);
}

#[test]
fn write_skew_is_a_cycle_of_anti_dependencies() {
    let mut lists = Lists::new();
    lists.append((0, 100), &[(X, ""), (Y, "")], &[(X, "1")]);
    lists.append((0, 100), &[(X, ""), (Y, "")], &[(Y, "2")]);
    lists.read((200, 201), &[(X, "1"), (Y, "2")]);
    assert_found(&lists.judge(), "G2", &[0, 1]);
}

#[test]
fn two_readers_that_see_two_writes_in_two_orders_are_a_cycle() {
    let mut lists = Lists::new();
    lists.append((0, 100), &[(X, "")], &[(X, "1")]);
    lists.append((0, 100), &[(Y, "")], &[(Y, "2")]);
    lists.read((0, 100), &[(X, "1"), (Y, "")]);
    lists.read((0, 100), &[(X, ""), (Y, "2")]);
    assert_found(&lists.judge(), "G2", &[0, 1, 2, 3]);
}

#[test]
fn cycles_through_real_time_are_told_as_such() {
    let mut lists = Lists::new();
    lists.append((0, 1), &[(X, "")], &[(X, "1")]);
    lists.read((2, 3), &[(X, "")]);
    assert_found(&lists.judge(), "G-single-realtime", &[0, 1]);

    let mut lists = Lists::new();
    lists.append((10, 11), &[(X, "")], &[(X, "1")]);
    lists.read((0, 5), &[(X, "1")]);
    assert_found(&lists.judge(), "G1c-realtime", &[0, 1]);

    let mut lists = Lists::new();
    lists.append((10, 11), &[], &[(X, "1")]);
    lists.append((0, 5), &[], &[(X, "1,2")]);
    assert_found(&lists.judge(), "G0-realtime", &[0, 1]);

    let mut lists = Lists::new();
    lists.append((0, 10), &[(X, "")], &[(X, "1")]);
    lists.append((0, 10), &[(Y, "")], &[(Y, "2")]);
    lists.append((20, 30), &[(X, "1")], &[(X, "1,3")]);
    lists.read((11, 40), &[(X, "1,3"), (Y, "")]);
    assert_found(&lists.judge(), "G-single-realtime", &[1, 3]);

    let mut lists = Lists::new();
    lists.read((0, 100), &[(X, ""), (Y, "2")]);
    lists.append((0, 10), &[(X, "")], &[(X, "1")]);
    lists.append((20, 30), &[(Y, "")], &[(Y, "2")]);
    assert_found(&lists.judge(), "G-single-realtime", &[0, 1, 2]);

    // Nobody reads what the other one wrote, but each missed what had ended before.
    let mut lists = Lists::new();
    lists.append((0, 10), &[(X, "")], &[(X, "1")]);
    lists.append((20, 30), &[(X, ""), (Y, "")], &[(Y, "2")]);
    lists.read((40, 50), &[(X, "1"), (Y, "")]);
    let verdict = lists.judge();
    assert!(!verdict.passed(), "{verdict}");
}

#[test]
fn a_local_read_may_be_old_but_not_from_the_future() {
    let local = |lists: &mut Lists, index: usize| {
        let Call::Txn { local, .. } = &mut lists.0.history.operations[index].call else { panic!("txn") };
        *local = true;
    };
    let mut lists = Lists::new();
    lists.append((0, 1), &[(X, "")], &[(X, "1")]);
    let read = lists.read((2, 3), &[(X, "")]);
    local(&mut lists, read);
    assert!(lists.judge().passed(), "{}", lists.judge());

    let mut lists = Lists::new();
    lists.append((10, 11), &[(X, "")], &[(X, "1")]);
    let read = lists.read((0, 5), &[(X, "1")]);
    local(&mut lists, read);
    assert_found(&lists.judge(), "G1c-realtime", &[0, 1]);
}

#[test]
fn updates_that_are_lost_are_found() {
    let mut lists = Lists::new();
    lists.append((0, 100), &[(X, "")], &[(X, "1")]);
    lists.append((0, 100), &[(X, "")], &[(X, "2")]);
    let verdict = lists.judge();
    assert!(kinds(&verdict).contains(&"append/incompatible-order".to_owned()), "{verdict}");
    assert!(kinds(&verdict).contains(&"append/lost-append".to_owned()), "{verdict}");

    let mut lists = Lists::new();
    lists.append((0, 1), &[(X, "")], &[(X, "1")]);
    lists.append((2, 3), &[(X, "1")], &[(X, "1,2")]);
    let mut state = lists.0.model.node_state(1);
    state.records.insert(X.to_owned(), record("1", 2));
    lists.0.history.final_states = vec![state];
    assert_found(&lists.judge(), "lost-append", &[1]);
    lists.0.history.final_states[0].records.clear();
    assert!(kinds(&lists.judge()).contains(&"append/lost-append".to_owned()), "{}", lists.judge());
    let records = &mut lists.0.history.final_states[0].records;
    records.insert(X.to_owned(), record("2,1", 2));
    assert_found(&lists.judge(), "incompatible-order", &[1]);
}

#[test]
fn elements_come_once_and_from_somebody() {
    let mut lists = Lists::new();
    lists.append((0, 1), &[(X, "")], &[(X, "1")]);
    lists.read((2, 3), &[(X, "1,1")]);
    assert!(kinds(&lists.judge()).contains(&"append/duplicate".to_owned()), "{}", lists.judge());

    let mut lists = Lists::new();
    lists.append((0, 1), &[(X, "")], &[(X, "1")]);
    lists.read((2, 3), &[(X, "1,7")]);
    assert_found(&lists.judge(), "garbage", &[1]);

    let mut lists = Lists::new();
    lists.append((0, 1), &[(X, "")], &[(X, "1")]);
    lists.0.record((0, 1), Lists::call(&[(X, "")], &[(X, "1")]), unknown());
    let verdict = lists.judge();
    assert!(kinds(&verdict).contains(&"append/not-unique".to_owned()), "{verdict}");
}
