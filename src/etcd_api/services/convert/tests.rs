//! Messages in, requests out, and the checks on the way.

use tonic::Code;

use super::*;

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn put_of(key: &'static str) -> pb::RequestOp {
    let put = pb::PutRequest { key: bytes(key), ..pb::PutRequest::default() };
    pb::RequestOp { request: Some(Request::RequestPut(put)) }
}

fn nested(txn: pb::TxnRequest) -> pb::RequestOp {
    pb::RequestOp { request: Some(Request::RequestTxn(txn)) }
}

/// Code and text of a refusal.
fn refusal<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, String) {
    let status = result.unwrap_err();
    (status.code(), status.message().to_owned())
}

#[test]
fn the_end_of_a_range_says_which_keys_are_meant() {
    assert_eq!(keys(bytes("a"), Bytes::new()).unwrap(), KeyRange::One(bytes("a")));
    assert_eq!(keys(bytes("a"), bytes("\0")).unwrap(), KeyRange::From(bytes("a")));
    let backwards = KeyRange::Between { start: bytes("b"), end: bytes("a") };
    assert_eq!(keys(bytes("b"), bytes("a")).unwrap(), backwards);
    for end in ["", "\0", "b"] {
        let refused = refusal(keys(Bytes::new(), bytes(end)));
        assert_eq!(refused, (Code::InvalidArgument, "etcdserver: key is not provided".to_owned()));
    }
}

#[test]
fn an_order_without_a_direction_ascends_and_that_of_keys_costs_nothing() {
    let sort = |order: SortOrder, target: SortTarget| {
        let (sort_order, sort_target) = (order.into(), target.into());
        range(pb::RangeRequest { key: bytes("a"), sort_order, sort_target, ..Default::default() })
            .unwrap()
            .sort
    };
    assert_eq!(sort(SortOrder::None, SortTarget::Key), None);
    assert_eq!(sort(SortOrder::Ascend, SortTarget::Key), None);
    assert_eq!(sort(SortOrder::Descend, SortTarget::Key), Some(Sort::descending(SortBy::Key)));
    let of_first = Sort { first_only: true, ..Sort::ascending(SortBy::Value) };
    assert_eq!(sort(SortOrder::None, SortTarget::Value), Some(of_first));
    assert_eq!(sort(SortOrder::Ascend, SortTarget::Mod), Some(Sort::ascending(SortBy::ModRevision)));
    assert_eq!(sort(SortOrder::Descend, SortTarget::Version), Some(Sort::descending(SortBy::Version)));
}

#[test]
fn unknown_orders_and_targets_are_refused() {
    for (sort_order, sort_target) in [(3, 0), (-1, 0), (0, 5), (1, 17)] {
        let request = pb::RangeRequest { key: bytes("a"), sort_order, sort_target, ..Default::default() };
        let refused = refusal(range(request));
        assert_eq!(refused, (Code::InvalidArgument, "etcdserver: invalid sort option".to_owned()));
    }
}

#[test]
fn limits_and_revisions_below_one_are_none() {
    let request =
        |limit, revision| pb::RangeRequest { key: bytes("a"), limit, revision, ..Default::default() };
    for number in [0, -1, i64::MIN] {
        let read = range(request(number, number)).unwrap();
        assert_eq!((read.limit, read.at), (None, None));
    }
    let read = range(request(3, 7)).unwrap();
    assert_eq!((read.limit, read.at), (Some(3), Some(7)));
}

#[test]
fn a_put_keeps_what_it_is_told_to_and_must_not_give_it_too() {
    let plain = pb::PutRequest { key: bytes("a"), value: bytes("1"), lease: 7, ..Default::default() };
    let made = put(plain.clone()).unwrap();
    assert_eq!((made.value, made.lease, made.want_previous), (Some(bytes("1")), Some(7), false));
    let refused = refusal(put(pb::PutRequest { ignore_value: true, ..plain.clone() }));
    assert_eq!(refused, (Code::InvalidArgument, "etcdserver: value is provided".to_owned()));
    let refused = refusal(put(pb::PutRequest { ignore_lease: true, ..plain.clone() }));
    assert_eq!(refused, (Code::InvalidArgument, "etcdserver: lease is provided".to_owned()));
    let keeping =
        pb::PutRequest { value: Bytes::new(), lease: 0, ignore_value: true, ignore_lease: true, ..plain };
    let made = put(keeping).unwrap();
    assert_eq!((made.value, made.lease), (None, None));
}

#[test]
fn operations_count_from_the_longest_list_and_inside_from_what_is_left() {
    let of = |count: usize| pb::TxnRequest { success: vec![put_of("a"); count], ..Default::default() };
    assert!(txn(of(4), 4).is_ok());
    let too_many = (Code::InvalidArgument, "etcdserver: too many operations in txn request".to_owned());
    assert_eq!(refusal(txn(of(5), 4)), too_many);
    let around = |inner| pb::TxnRequest { failure: vec![nested(inner)], ..Default::default() };
    assert!(txn(around(of(3)), 4).is_ok());
    assert_eq!(refusal(txn(around(of(4)), 4)), too_many);
}

#[test]
fn an_operation_that_is_none_is_refused_in_etcds_words() {
    let request = pb::TxnRequest { success: vec![pb::RequestOp { request: None }], ..Default::default() };
    assert_eq!(refusal(txn(request, 4)), (Code::InvalidArgument, "etcdserver: key not found".to_owned()));
}

#[test]
fn a_compare_without_an_operand_compares_with_zero_or_nothing() {
    let asked = |target: CompareTarget, target_union| {
        let request =
            pb::Compare { key: bytes("a"), target: target.into(), target_union, ..Default::default() };
        compare(request).unwrap().target
    };
    assert_eq!(asked(CompareTarget::Version, Some(TargetUnion::Version(3))), Target::Version(3));
    assert_eq!(asked(CompareTarget::Version, None), Target::Version(0));
    // A number of another kind is none.
    assert_eq!(asked(CompareTarget::Mod, Some(TargetUnion::Version(3))), Target::ModRevision(0));
    assert_eq!(asked(CompareTarget::Create, Some(TargetUnion::CreateRevision(4))), Target::CreateRevision(4));
    assert_eq!(asked(CompareTarget::Lease, Some(TargetUnion::Lease(5))), Target::Lease(5));
    assert_eq!(asked(CompareTarget::Value, Some(TargetUnion::Value(bytes("v")))), Target::Value(bytes("v")));
    assert_eq!(asked(CompareTarget::Value, Some(TargetUnion::Lease(5))), Target::Value(Bytes::new()));
}

#[test]
fn unknown_compares_are_refused() {
    for (result, target) in [(4, 0), (0, 5), (-1, 0), (0, -1)] {
        let request = pb::Compare { key: bytes("a"), result, target, ..Default::default() };
        assert_eq!(refusal(compare(request)).0, Code::InvalidArgument);
    }
}

#[test]
fn only_transactions_whose_reads_all_say_so_may_be_behind() {
    let read = |serializable| {
        let read = pb::RangeRequest { key: bytes("a"), serializable, ..Default::default() };
        pb::RequestOp { request: Some(Request::RequestRange(read)) }
    };
    let of = |success, failure| pb::TxnRequest { success, failure, ..Default::default() };
    assert!(may_be_behind(&of(vec![read(true)], vec![read(true)])));
    assert!(!may_be_behind(&of(vec![read(true)], vec![read(false)])));
    assert!(!may_be_behind(&of(vec![read(true), put_of("a")], vec![])));
    // Its compares may still decide something.
    assert!(!may_be_behind(&of(vec![], vec![])));
}

#[test]
fn headers_inside_a_transaction_carry_the_revision_alone() {
    let done = |responses| TxnOutcome { succeeded: true, responses, ..TxnOutcome::default() };
    let done = done(vec![
        OpOutcome::Deleted { revision: 4, count: 2, previous: Vec::new() },
        OpOutcome::Range { revision: 5, found: RangeResult::default() },
        OpOutcome::Txn(done(vec![OpOutcome::Put { revision: 5, previous: None }])),
    ]);
    let outer = pb::ResponseHeader { cluster_id: 1, member_id: 2, revision: 5, raft_term: 3 };
    let answer = txn_response(outer, done);
    assert_eq!(answer.header, Some(outer));
    let inside = |revision| Some(pb::ResponseHeader { revision, ..Default::default() });
    let headers = answer.responses.into_iter().map(|op| match op.response.unwrap() {
        Response::ResponseRange(answer) => answer.header,
        Response::ResponsePut(answer) => answer.header,
        Response::ResponseDeleteRange(answer) => answer.header,
        Response::ResponseTxn(answer) => answer.header,
    });
    assert_eq!(headers.collect::<Vec<_>>(), [inside(4), inside(5), inside(0)]);
}
