//! What raised alarms forbid, and what goes on.

use super::*;
use crate::command::{DeleteOp, PutOp, Txn};
use crate::keyspace::{KeyRange, RangeRequest};

const NO_SPACE: AlarmKind = AlarmKind::NoSpace;
const CORRUPT: AlarmKind = AlarmKind::Corrupt;

fn alarm(kind: AlarmKind, member: u64, raised: bool) -> Command {
    Command::of(Write::Alarm { kind, member, raised })
}

fn raise(machine: &Machine, kind: AlarmKind, member: u64) -> OutcomeResult {
    machine.run(&alarm(kind, member, true)).result
}

fn disarm(machine: &Machine, kind: AlarmKind, member: u64) -> OutcomeResult {
    machine.run(&alarm(kind, member, false)).result
}

fn set_before(was_raised: bool) -> OutcomeResult {
    OutcomeResult::Alarm { was_raised }
}

fn no_space(member: u64) -> OutcomeResult {
    OutcomeResult::Rejected(Rejection::NoSpace { member })
}

fn corrupt(member: u64) -> OutcomeResult {
    OutcomeResult::Rejected(Rejection::Corrupt { member })
}

fn put_op() -> Op {
    Op::Put(PutOp { key: "k".into(), value: Some("v".into()), lease: Some(0), want_previous: false })
}

fn delete_op() -> Op {
    Op::Delete(DeleteOp { keys: KeyRange::One("k".into()), want_previous: false })
}

fn txn(success: Vec<Op>, failure: Vec<Op>) -> Command {
    Command::of(Write::Txn(Txn { compares: Vec::new(), success, failure }))
}

/// What takes room, also if only in a branch that is not taken.
fn storing() -> Vec<Command> {
    vec![
        Command::put("k", "v"),
        Command::put("k", "v").only_if(Condition::Exists),
        Command::of(Write::LeaseGrant { id: 9, ttl: 60 }),
        txn(vec![put_op()], Vec::new()),
        txn(vec![delete_op()], vec![put_op()]),
        txn(vec![Op::Txn(Txn { failure: vec![put_op()], ..Txn::default() })], Vec::new()),
    ]
}

/// What changes something without taking room. All of it works after one lease,
/// 7, was granted and a key was set.
fn removing() -> Vec<Command> {
    vec![
        Command::of(Write::Compact { revision: 2 }),
        txn(vec![delete_op(), Op::Range(RangeRequest::of(KeyRange::all()))], Vec::new()),
        Command::delete("k"),
        Command::of(Write::LeaseRevoke { id: 7 }),
    ]
}

fn filled() -> Machine {
    let machine = Machine::new();
    machine.put("k", "v");
    machine.run(&Command::of(Write::LeaseGrant { id: 7, ttl: 60 }));
    machine
}

#[test]
fn alarms_are_kept_by_kind_and_member_and_take_no_revision() {
    let mut machine = Machine::new();
    assert_eq!(machine.run(&alarm(CORRUPT, 1, true)), outcome(1, set_before(false)));
    for member in [3, 0] {
        assert_eq!(raise(&machine, NO_SPACE, member), set_before(false));
        assert_eq!(raise(&machine, NO_SPACE, member), set_before(true));
    }
    machine.restart();
    let raised = |kind, member| Alarm { kind, member };
    let all = [raised(NO_SPACE, 0), raised(NO_SPACE, 3), raised(CORRUPT, 1)];
    assert_eq!(machine.store().alarms(), all);
    assert_eq!(disarm(&machine, NO_SPACE, 0), set_before(true));
    assert_eq!(disarm(&machine, NO_SPACE, 0), set_before(false));
    assert_eq!(machine.store().alarm_of(NO_SPACE), Some(raised(NO_SPACE, 3)));
    assert_eq!(disarm(&machine, NO_SPACE, 3), set_before(true));
    assert_eq!(machine.store().alarm_of(NO_SPACE), None);
    assert_eq!(machine.store().alarm_of(CORRUPT), Some(raised(CORRUPT, 1)));
}

#[test]
fn a_session_that_is_dropped_raises_nothing() {
    let machine = Machine::new();
    let mut session = machine.store().begin();
    session.set_alarm(Alarm { kind: NO_SPACE, member: 1 }, true);
    assert!(session.alarm_of(NO_SPACE).is_some());
    drop(session);
    assert_eq!(machine.store().alarms(), []);
}

#[test]
fn without_space_nothing_is_stored_and_the_rest_goes_on() {
    let machine = filled();
    raise(&machine, NO_SPACE, 3);
    let hash = machine.store().state_hash();
    for command in storing() {
        assert_eq!(machine.run(&command), outcome(2, no_space(3)), "{command:?}");
    }
    assert_eq!(machine.store().state_hash(), hash);
    let renewed = machine.run(&Command::of(Write::LeaseRenew { ids: vec![7] })).result;
    assert_eq!(renewed, OutcomeResult::LeasesRenewed { ttls: vec![60] });
    for command in removing() {
        let result = machine.run(&command).result;
        assert!(!matches!(result, OutcomeResult::Rejected(_)), "{command:?}: {result:?}");
    }
    assert_eq!(machine.value("k"), None);
}

#[test]
fn every_alarm_of_a_kind_has_to_be_disarmed() {
    let machine = Machine::new();
    raise(&machine, NO_SPACE, 3);
    raise(&machine, NO_SPACE, 0);
    assert_eq!(machine.put("k", "v").result, no_space(0));
    disarm(&machine, NO_SPACE, 0);
    assert_eq!(machine.put("k", "v").result, no_space(3));
    disarm(&machine, NO_SPACE, 3);
    assert_eq!(machine.put("k", "v").result, set(true, 1));
}

#[test]
fn damaged_data_is_not_changed_at_all() {
    let machine = filled();
    raise(&machine, NO_SPACE, 1);
    raise(&machine, CORRUPT, 2);
    let hash = machine.store().state_hash();
    for command in storing().into_iter().chain(removing()) {
        assert_eq!(machine.run(&command), outcome(2, corrupt(2)), "{command:?}");
    }
    // Time passes, but it ends nothing.
    let tick = |clock| Command::of(Write::LeaseTick { term: TERM, clock, expired: vec![7] });
    machine.run(&tick(200_000));
    assert_eq!(machine.store().lease_clock().unwrap(), 200_000);
    assert!(machine.store().lease(7).unwrap().is_some());
    assert_eq!(machine.store().state_hash(), hash);
    disarm(&machine, CORRUPT, 2);
    assert_eq!(machine.put("k", "v").result, no_space(1));
    machine.run(&tick(200_001));
    assert!(machine.store().lease(7).unwrap().is_none());
}

#[test]
fn an_alarm_counts_from_its_place_in_the_batch() {
    let machine = Machine::new();
    let put = || Command::put("k", "v").encode();
    let outcomes = machine.batch(&[
        put(),
        alarm(NO_SPACE, 1, true).encode(),
        put(),
        alarm(CORRUPT, 1, true).encode(),
        Command::delete("k").encode(),
        alarm(CORRUPT, 1, false).encode(),
        Command::delete("k").encode(),
        alarm(NO_SPACE, 1, false).encode(),
        put(),
    ]);
    let results: Vec<_> = outcomes.into_iter().map(|outcome| outcome.result).collect();
    let expected = [
        set(true, 1),
        set_before(false),
        no_space(1),
        set_before(false),
        corrupt(1),
        set_before(true),
        OutcomeResult::Deleted { count: 1 },
        set_before(true),
        set(true, 1),
    ];
    assert_eq!(results, expected);
}

#[test]
fn a_refusal_by_an_alarm_uses_up_no_token_and_a_known_answer_is_repeated() {
    let machine = Machine::new();
    let done = once("done", 0, 1000, Command::put("k", "1"));
    let first = machine.run(&done);
    raise(&machine, NO_SPACE, 1);
    let later = once("later", 5, 1000, Command::put("k", "2"));
    assert_eq!(machine.run(&later), outcome(2, no_space(1)));
    assert_eq!((machine.entries(), machine.book()), ((1, 1), (5, 1)));
    assert_eq!(machine.run(&done), first);
    disarm(&machine, NO_SPACE, 1);
    assert_eq!(machine.run(&later), outcome(3, set(false, 2)));
}

#[test]
fn an_expired_token_that_an_alarm_keeps_out_is_forgotten_whole_and_once() {
    let machine = Machine::new();
    let tokens = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    for token in tokens {
        machine.run(&once(token, 0, 10, Command::put("k", "v")));
    }
    raise(&machine, NO_SPACE, 1);
    // The first eight are cleared, the last is asked for again, and one is left.
    let again = once("9", 1000, 10, Command::put("k", "v"));
    assert_eq!(machine.run(&again), outcome(11, no_space(1)));
    assert_eq!((machine.entries(), machine.book()), ((1, 1), (1000, 1)));
    for _ in 0..2 {
        assert_eq!(machine.run(&again), outcome(11, no_space(1)));
        assert_eq!((machine.entries(), machine.book()), ((0, 0), (1000, 0)));
    }
    disarm(&machine, NO_SPACE, 1);
    assert_eq!(machine.run(&again), outcome(12, set(false, 11)));
    assert_eq!((machine.entries(), machine.book()), ((1, 1), (1000, 1)));
}
