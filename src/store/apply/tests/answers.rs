//! What becomes of answers that are large.

use super::*;
use crate::command::{PutOp, Txn};
use crate::keyspace::{KeyRange, RangeRequest, Sort, SortBy};

#[test]
fn an_answer_is_remembered_or_not_alike_whoever_waits() {
    let put = PutOp { key: "k".into(), value: Some("new".into()), lease: Some(0), want_previous: true };
    let least = RangeRequest {
        sort: Some(Sort::ascending(SortBy::Value)),
        limit: Some(1),
        keys_only: true,
        ..RangeRequest::of(KeyRange::all())
    };
    let txn = Txn { success: vec![Op::Put(put), Op::Range(least)], ..Txn::default() };
    let command = once("t", 0, 1000, Command::of(Write::Txn(txn)));
    let done = |replaced: usize, sorted: usize, wants_answer: bool| {
        let machine = Machine::new();
        machine.run(&Command::put("k", vec![7; replaced]));
        machine.run(&Command::put("other", vec![b'z'; sorted]));
        let mut session = machine.store().begin();
        let answer = apply(&mut session, &command, Context { term: TERM, wants_answer }).unwrap();
        session.commit().unwrap();
        let stored = machine.store().dedup(b"tt").unwrap().unwrap();
        (answer, Token::decode(stored).unwrap().outcome)
    };
    for (replaced, sorted, is_kept) in [
        (10, 10, true),
        (60 << 10, 10, true),
        (70 << 10, 10, false),
        (300 << 10, 10, false),
        (10, 200 << 10, true),
        (10, 300 << 10, false),
    ] {
        let (answer, kept) = done(replaced, sorted, true);
        assert!(matches!(answer.result, OutcomeResult::Txn(_)), "{answer}");
        let forgotten = outcome(4, OutcomeResult::Rejected(Rejection::AnswerForgotten { revision: 4 }));
        assert_eq!(kept, if is_kept { answer } else { forgotten });
        assert_eq!(done(replaced, sorted, false).1, kept);
    }
}

#[test]
fn what_has_no_room_in_an_answer_is_carried_out_and_not_told() {
    let machine = Machine::new();
    machine.run(&Command::put("k", vec![7; MAX_ANSWER_BYTES / 2]));
    let read = Op::Range(RangeRequest::of(KeyRange::One("k".into())));
    let put = PutOp { key: "l".into(), value: Some("v".into()), lease: Some(0), want_previous: false };
    let txn = Txn { success: vec![read.clone(), read, Op::Put(put)], ..Txn::default() };
    let command = Command::of(Write::Txn(txn));
    let lost = |revision| outcome(revision, OutcomeResult::Rejected(Rejection::AnswerForgotten { revision }));
    assert_eq!(machine.run(&command), lost(3));
    assert_eq!(machine.value("l"), Some("v".into()));
    let command = once("t", 0, 1000, command);
    assert_eq!(machine.run(&command), lost(4));
    assert_eq!(machine.run(&command), lost(4), "once");
    assert_eq!(machine.store().revision(), 4);
}
