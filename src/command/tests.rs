//! Commands and outcomes round-trip in every form, and nothing that is read can
//! panic.

use proptest::prelude::*;

use super::*;
use crate::inflight::InflightBytes;
use crate::keyspace::{KeyRange, KeyValue, RangeRequest, RangeResult, Record, RevisionBounds, Sort, SortBy};

fn bytes() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn ranges() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        bytes().prop_map(KeyRange::One),
        bytes().prop_map(KeyRange::From),
        (bytes(), bytes()).prop_map(|(start, end)| KeyRange::Between { start, end }),
    ]
}

fn range_requests() -> impl Strategy<Value = RangeRequest> {
    let by = prop_oneof![
        Just(SortBy::Key),
        Just(SortBy::Version),
        Just(SortBy::CreateRevision),
        Just(SortBy::ModRevision),
        Just(SortBy::Value),
    ];
    let sort = proptest::option::of(
        (by, any::<bool>(), any::<bool>()).prop_map(|(by, descending, first_only)| Sort {
            by,
            descending,
            first_only,
        }),
    );
    let bounds = any::<[i64; 4]>().prop_map(|[min_mod, max_mod, min_create, max_create]| RevisionBounds {
        min_mod,
        max_mod,
        min_create,
        max_create,
    });
    let bounds = prop_oneof![Just(RevisionBounds::default()), bounds];
    (ranges(), any::<Option<i64>>(), any::<Option<u64>>(), sort, any::<[bool; 2]>(), bounds).prop_map(
        |(keys, at, limit, sort, [keys_only, count_only], revisions)| RangeRequest {
            keys,
            at,
            limit,
            sort,
            keys_only,
            count_only,
            revisions,
        },
    )
}

fn compares() -> impl Strategy<Value = Compare> {
    let target = prop_oneof![
        any::<i64>().prop_map(Target::Version),
        any::<i64>().prop_map(Target::CreateRevision),
        any::<i64>().prop_map(Target::ModRevision),
        any::<i64>().prop_map(Target::Lease),
        bytes().prop_map(Target::Value),
    ];
    let relation = prop_oneof![
        Just(Relation::Equal),
        Just(Relation::Greater),
        Just(Relation::Less),
        Just(Relation::NotEqual)
    ];
    (ranges(), target, relation).prop_map(|(keys, target, relation)| Compare { keys, target, relation })
}

fn txns() -> impl Strategy<Value = Txn> {
    let put = (bytes(), proptest::option::of(bytes()), any::<Option<i64>>(), any::<bool>())
        .prop_map(|(key, value, lease, want_previous)| Op::Put(PutOp { key, value, lease, want_previous }));
    let delete = (ranges(), any::<bool>())
        .prop_map(|(keys, want_previous)| Op::Delete(DeleteOp { keys, want_previous }));
    let op = prop_oneof![put, delete, range_requests().prop_map(Op::Range)].boxed();
    let txn = |op: BoxedStrategy<Op>| {
        let ops = proptest::collection::vec(op, 0..3);
        (proptest::collection::vec(compares(), 0..3), ops.clone(), ops)
            .prop_map(|(compares, success, failure)| Txn { compares, success, failure })
    };
    let nested = prop_oneof![3 => op.clone(), 1 => txn(op).prop_map(Op::Txn)].boxed();
    txn(nested)
}

fn alarm_kinds() -> impl Strategy<Value = AlarmKind> {
    prop_oneof![Just(AlarmKind::NoSpace), Just(AlarmKind::Corrupt)]
}

fn commands() -> impl Strategy<Value = Command> {
    let condition = proptest::option::of(prop_oneof![
        any::<i64>().prop_map(Condition::ModRevision),
        Just(Condition::Exists),
        Just(Condition::Absent),
    ]);
    let write = prop_oneof![
        4 => (bytes(), bytes(), any::<i64>()).prop_map(|(key, value, lease)| Write::Put { key, value, lease }),
        2 => bytes().prop_map(|key| Write::Delete { key }),
        4 => txns().prop_map(Write::Txn),
        1 => any::<i64>().prop_map(|revision| Write::Compact { revision }),
        1 => any::<(i64, i64)>().prop_map(|(id, ttl)| Write::LeaseGrant { id, ttl }),
        1 => any::<i64>().prop_map(|id| Write::LeaseRevoke { id }),
        1 => any::<Vec<i64>>().prop_map(|ids| Write::LeaseRenew { ids }),
        1 => any::<(u64, u64, Vec<i64>)>()
            .prop_map(|(term, clock, expired)| Write::LeaseTick { term, clock, expired }),
        1 => (alarm_kinds(), any::<u64>(), any::<bool>())
            .prop_map(|(kind, member, raised)| Write::Alarm { kind, member, raised }),
    ];
    let idempotency = proptest::option::of((bytes(), any::<u64>(), any::<u64>()).prop_map(
        |(token, proposed_at_ms, expires_at_ms)| Idempotency { token, proposed_at_ms, expires_at_ms },
    ));
    (write, condition, idempotency).prop_map(|(write, condition, idempotency)| Command {
        write,
        condition,
        idempotency,
    })
}

fn key_values() -> impl Strategy<Value = KeyValue> {
    (bytes(), bytes(), any::<[i64; 4]>()).prop_map(
        |(key, value, [create_revision, mod_revision, version, lease])| KeyValue {
            key,
            record: Record { value, create_revision, mod_revision, version, lease },
        },
    )
}

fn txn_outcomes() -> impl Strategy<Value = TxnOutcome> {
    let items = || proptest::collection::vec(key_values(), 0..3);
    let response =
        prop_oneof![
            (any::<i64>(), proptest::option::of(key_values()))
                .prop_map(|(revision, previous)| OpOutcome::Put { revision, previous }),
            (any::<i64>(), any::<u64>(), items())
                .prop_map(|(revision, count, previous)| OpOutcome::Deleted { revision, count, previous }),
            (any::<i64>(), items(), any::<u64>(), any::<[bool; 2]>()).prop_map(
                |(revision, items, count, [more, truncated])| OpOutcome::Range {
                    revision,
                    found: RangeResult { items, more, count, truncated, ..RangeResult::default() }
                }
            ),
        ]
        .boxed();
    let txn = |response: BoxedStrategy<OpOutcome>| {
        (any::<bool>(), proptest::collection::vec(response, 0..3))
            .prop_map(|(succeeded, responses)| TxnOutcome { succeeded, responses, ..TxnOutcome::default() })
    };
    let nested = prop_oneof![3 => response.clone(), 1 => txn(response).prop_map(OpOutcome::Txn)].boxed();
    txn(nested)
}

#[test]
fn a_long_answer_that_does_not_fit_is_forgotten_and_a_short_one_never() {
    let outcome = |value: usize| {
        let value = vec![7; value].into();
        let record = Record { value, create_revision: 1, mod_revision: 2, version: 2, lease: 0 };
        let previous = Some(KeyValue { key: Bytes::from_static(b"k"), record });
        let responses = vec![OpOutcome::Put { revision: 9, previous }];
        let done = TxnOutcome { succeeded: true, responses, ..TxnOutcome::default() };
        Outcome { revision: 9, result: OutcomeResult::Txn(done) }
    };
    let inflight = InflightBytes::new(100_000);
    let long = outcome(80_000).counted_in(&inflight);
    assert_eq!(long, outcome(80_000));
    assert!(inflight.held() > 80_000);
    let rejection = Rejection::AnswerForgotten { revision: 9 };
    let forgotten = Outcome { revision: 9, result: OutcomeResult::Rejected(rejection) };
    assert_eq!(outcome(80_000).counted_in(&inflight), forgotten);
    assert_eq!(outcome(10_000).counted_in(&inflight), outcome(10_000));
    drop(long);
    assert_eq!(inflight.held(), 0);
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    let rejection = prop_oneof![
        any::<i64>().prop_map(|mod_revision| Rejection::ConditionFailed { mod_revision }),
        Just(Rejection::IdempotencyMismatch),
        ".*".prop_map(Rejection::Undecodable),
        any::<i64>().prop_map(|id| Rejection::LeaseNotFound { id }),
        any::<i64>().prop_map(|id| Rejection::LeaseExists { id }),
        Just(Rejection::KeyNotFound),
        any::<(i64, i64)>().prop_map(|(requested, oldest)| Rejection::Compacted { requested, oldest }),
        any::<(i64, i64)>().prop_map(|(requested, current)| Rejection::FutureRevision { requested, current }),
        any::<i64>().prop_map(|revision| Rejection::AnswerForgotten { revision }),
        any::<u64>().prop_map(|member| Rejection::NoSpace { member }),
        any::<u64>().prop_map(|member| Rejection::Corrupt { member }),
        any::<(u64, u64)>()
            .prop_map(|(max_keys, max_bytes)| Rejection::DeletionTooLarge { max_keys, max_bytes }),
    ];
    let result = prop_oneof![
        Just(OutcomeResult::Nothing),
        any::<(bool, i64)>().prop_map(|(created, version)| OutcomeResult::Put { created, version }),
        any::<u64>().prop_map(|count| OutcomeResult::Deleted { count }),
        rejection.prop_map(OutcomeResult::Rejected),
        txn_outcomes().prop_map(OutcomeResult::Txn),
        Just(OutcomeResult::Compacted),
        any::<(i64, i64)>().prop_map(|(id, ttl)| OutcomeResult::LeaseGranted { id, ttl }),
        any::<bool>().prop_map(|more| OutcomeResult::LeaseRevoked { more }),
        any::<Vec<i64>>().prop_map(|ttls| OutcomeResult::LeasesRenewed { ttls }),
        any::<bool>().prop_map(|was_raised| OutcomeResult::Alarm { was_raised }),
    ];
    (any::<i64>(), result).prop_map(|(revision, result)| Outcome { revision, result })
}

proptest! {
    #[test]
    fn commands_round_trip_in_binary_and_json(command in commands()) {
        let proposal = command.encode();
        prop_assert_eq!(proposal.decode(), Ok(command));
        let json = serde_json::to_string(&proposal).expect("a valid command has a JSON form");
        prop_assert_eq!(serde_json::from_str::<Proposal>(&json).expect("it parses"), proposal);
    }

    #[test]
    fn a_proposed_command_gets_its_time_and_nothing_else(command in commands(), now in any::<u64>()) {
        let mut expected = command.clone();
        if let Some(idempotency) = &mut expected.idempotency {
            let lifetime = idempotency.expires_at_ms.saturating_sub(idempotency.proposed_at_ms);
            (idempotency.proposed_at_ms, idempotency.expires_at_ms) = (now, now.saturating_add(lifetime));
        }
        prop_assert_eq!(command.encode().proposed_at(now).decode(), Ok(expected));
    }

    #[test]
    fn outcomes_round_trip(outcome in outcomes()) {
        prop_assert_eq!(Outcome::decode(outcome.encode().into()), Ok(outcome));
    }

    #[test]
    fn any_bytes_decode_or_are_refused(input in any::<Vec<u8>>()) {
        let _ = Proposal::from_bytes(input.clone().into()).decode();
        let _ = Outcome::decode(input.into());
    }

    #[test]
    fn a_cut_command_is_refused(command in commands(), cut in 1_usize..8) {
        let whole = command.encode().as_bytes().clone();
        let kept = whole.len().saturating_sub(cut);
        prop_assert!(Proposal::from_bytes(whole.slice(..kept)).decode().is_err());
    }
}

#[test]
fn a_put_is_written_as_the_first_release_wrote_it() {
    let proposal = Command::put("k", "v").encode();
    let written = [[1, 0, 0, 1].as_slice(), b"\x01\0\0\0k", &[0; 8], b"\x01\0\0\0v"].concat();
    assert_eq!(proposal.as_bytes(), &written);
}

#[test]
fn what_the_first_release_does_not_know_carries_a_newer_version() {
    let proposal = Command::of(Write::Compact { revision: 1 }).encode();
    assert_eq!(proposal.as_bytes().first(), Some(&2));
    let newer = Proposal::from_bytes(Bytes::from_static(&[3, 0, 0, 1]));
    assert_eq!(newer.decode(), Err(DecodeError::Version { what: "command", found: 3, known: 2 }));
}

#[test]
fn transactions_are_nested_only_so_deep() {
    let nest = |depth: usize| {
        let innermost = Txn::default();
        (1..depth).fold(innermost, |txn, _| Txn::of(Op::Txn(txn)))
    };
    let command = |depth| Command::of(Write::Txn(nest(depth)));
    assert_eq!(command(MAX_TXN_DEPTH).encode().decode(), Ok(command(MAX_TXN_DEPTH)));
    assert_eq!(
        command(MAX_TXN_DEPTH + 1).encode().decode(),
        Err(DecodeError::TooDeep { field: "nested transaction", limit: MAX_TXN_DEPTH })
    );
}
