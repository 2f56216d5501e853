//! A transaction as clients send it: to ours, through the rules, into the log and back.
//!
//! The rule that no key is changed twice is held to a slow and simple form of itself, and the
//! count of operations before decoding to what is decoded.

#![no_main]

use bytes::Bytes;
use kvorum_etcd_proto::{etcdserverpb as pb, operations_in_txn};
use kvorum_fuzz::command::{Command, Op, Txn, Write};
use kvorum_fuzz::config::Limits;
use kvorum_fuzz::error::Error;
use kvorum_fuzz::etcd_api::services;
use kvorum_fuzz::keyspace::KeyRange;
use kvorum_fuzz::service::check_txn;
use libfuzzer_sys::fuzz_target;
use prost::Message;

/// Small, so that the limits are met.
const LIMITS: Limits = Limits { max_key_bytes: 16, max_value_bytes: 64, max_txn_ops: 32 };

fuzz_target!(|data: &[u8]| {
    let counted = operations_in_txn(data);
    let Ok(request) = pb::TxnRequest::decode(data) else { return };
    // Of a part that is sent twice, only the later may be left.
    assert!(operations_of(&request) <= counted, "{counted} of {request:?}");
    let _ = services::may_be_behind(&request);
    let Ok(txn) = services::txn(request, LIMITS.max_txn_ops) else { return };
    match check_txn(&txn, &LIMITS) {
        Ok(()) => assert!(!changes_twice(&txn.success) && !changes_twice(&txn.failure), "{txn:?}"),
        Err(Error::DuplicateKey) => {
            assert!(changes_twice(&txn.success) || changes_twice(&txn.failure), "{txn:?}");
        }
        Err(_) => return,
    }
    let command = Command::of(Write::Txn(txn));
    assert_eq!(command.encode().decode().as_ref(), Ok(&command));
});

/// The compares and operations of a transaction, nested ones too.
fn operations_of(txn: &pb::TxnRequest) -> usize {
    let nested = txn.success.iter().chain(&txn.failure).map(|op| match &op.request {
        Some(pb::request_op::Request::RequestTxn(txn)) => 1 + operations_of(txn),
        _ => 1,
    });
    txn.compare.len() + nested.sum::<usize>()
}

/// One change that an operation may make.
enum Change<'a> {
    Put(&'a Bytes),
    Delete(&'a KeyRange),
}

/// Whether two operations of the list, or of a list inside, may change one key.
fn changes_twice(ops: &[Op]) -> bool {
    let changes: Vec<Vec<Change<'_>>> = ops.iter().map(changes_of).collect();
    let inside = |txn: &Txn| changes_twice(&txn.success) || changes_twice(&txn.failure);
    ops.iter().any(|op| matches!(op, Op::Txn(txn) if inside(txn)))
        || changes.iter().enumerate().any(|(at, one)| {
            changes.iter().skip(at + 1).any(|other| one.iter().any(|a| other.iter().any(|b| clash(a, b))))
        })
}

fn changes_of(op: &Op) -> Vec<Change<'_>> {
    match op {
        Op::Range(_) => Vec::new(),
        Op::Put(put) => vec![Change::Put(&put.key)],
        Op::Delete(delete) => vec![Change::Delete(&delete.keys)],
        Op::Txn(txn) => txn.success.iter().chain(&txn.failure).flat_map(changes_of).collect(),
    }
}

/// To delete twice is to change once.
fn clash(one: &Change<'_>, other: &Change<'_>) -> bool {
    match (one, other) {
        (Change::Put(one), Change::Put(other)) => one == other,
        (Change::Put(key), Change::Delete(keys)) | (Change::Delete(keys), Change::Put(key)) => match keys {
            KeyRange::One(only) => only == *key,
            KeyRange::From(start) => *key >= start,
            KeyRange::Between { start, end } => *key >= start && *key < end,
        },
        (Change::Delete(_), Change::Delete(_)) => false,
    }
}
