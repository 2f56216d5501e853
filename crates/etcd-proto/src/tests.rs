//! The interface against facts that clients of etcd rely on: JSON byte for byte, field
//! numbers by bytes written by hand, and the table of methods.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;
use serde_json::{Value, json};

use crate::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::etcdserverpb::{
    Compare, LeaseGrantRequest, Member, MemberListResponse, PutRequest, RangeRequest, RangeResponse,
    RequestOp, ResponseHeader, TxnRequest, WatchCreateRequest, WatchRequest, WatchResponse, request_op,
    watch_request,
};
use crate::mvccpb::{Event, KeyValue, event::EventType};
use crate::{FILE_DESCRIPTOR_SET, METHODS, Method, method, method_at};

fn at(path: &str) -> &'static Method {
    method_at(path).unwrap_or_else(|| panic!("{path} is no path"))
}

fn request<M: Message + Default>(path: &str, json: &str) -> M {
    let protobuf = (at(path).to_protobuf)(json.as_bytes()).unwrap();
    M::decode(protobuf).unwrap()
}

fn refusal(path: &str, json: &str) -> String {
    (at(path).to_protobuf)(json.as_bytes()).unwrap_err().to_string()
}

fn response(path: &str, message: &impl Message) -> String {
    String::from_utf8((at(path).to_json)(message.encode_to_vec().into()).unwrap()).unwrap()
}

#[test]
fn range_response_is_written_as_etcd_writes_it() {
    let message = RangeResponse {
        header: Some(ResponseHeader { cluster_id: 1, revision: 5, ..Default::default() }),
        kvs: vec![KeyValue {
            key: "foo".into(),
            create_revision: 2,
            mod_revision: 5,
            version: 1,
            value: "bar".into(),
            lease: 0,
        }],
        more: false,
        count: 1,
    };
    assert_eq!(
        response("/v3/kv/range", &message),
        r#"{"header":{"cluster_id":"1","revision":"5"},"kvs":[{"key":"Zm9v","create_revision":"2","mod_revision":"5","version":"1","value":"YmFy"}],"count":"1"}"#
    );
    assert_eq!(response("/v3/kv/range", &RangeResponse::default()), "{}");
}

#[test]
fn names_are_written_as_defined_and_enumerations_by_name() {
    let member = Member {
        id: u64::MAX,
        name: "one".into(),
        peer_ur_ls: vec!["http://a:1".into()],
        is_learner: true,
        ..Default::default()
    };
    assert_eq!(
        response("/v3/cluster/member/list", &MemberListResponse { header: None, members: vec![member] }),
        r#"{"members":[{"ID":"18446744073709551615","name":"one","peerURLs":["http://a:1"],"isLearner":true}]}"#
    );
    let events = vec![
        Event { r#type: EventType::Delete.into(), kv: Some(KeyValue::default()), prev_kv: None },
        Event { r#type: EventType::Put.into(), kv: None, prev_kv: None },
    ];
    assert_eq!(
        response("/v3/watch", &WatchResponse { watch_id: -1, created: true, events, ..Default::default() }),
        r#"{"watch_id":"-1","created":true,"events":[{"type":"DELETE","kv":{}},{}]}"#
    );
}

#[test]
fn requests_may_be_written_in_all_forms_of_the_mapping() {
    let expected = RangeRequest {
        key: "foo".into(),
        range_end: Bytes::from_static(&[0xfb, 0xff]),
        limit: 7,
        sort_order: SortOrder::Descend.into(),
        sort_target: SortTarget::Mod.into(),
        ..Default::default()
    };
    for json in [
        r#"{"key":"Zm9v","range_end":"+/8=","limit":"7","sort_order":"DESCEND","sort_target":"MOD"}"#,
        r#"{"key":"Zm9v","rangeEnd":"-_8=","limit":7,"sortOrder":2,"sortTarget":3}"#,
        r#"{"unknown":[{"deep":null}],"key":"Zm9v","range_end":"-_8","limit":7,"sort_order":2,"sort_target":"MOD"}"#,
    ] {
        assert_eq!(request::<RangeRequest>("/v3/kv/range", json), expected, "{json}");
    }
    assert_eq!(
        request::<LeaseGrantRequest>("/v3/lease/grant", r#"{"TTL":"-5","ID":9223372036854775807}"#),
        LeaseGrantRequest { ttl: -5, id: i64::MAX }
    );
}

#[test]
fn transactions_and_watches_keep_their_choice() {
    let json = r#"{"compare":[{"result":"EQUAL","target":"CREATE","key":"Zm9v","createRevision":"2"},
        {"result":"GREATER","target":"VALUE","key":"Zm9v","value":""}],
        "success":[{"requestPut":{"key":"Zm9v","value":"YmFy"}}],
        "failure":[{"request_txn":{"success":[{"request_range":{"key":"AA=="}}]}}]}"#;
    let put = PutRequest { key: "foo".into(), value: "bar".into(), ..Default::default() };
    let range = RangeRequest { key: Bytes::from_static(&[0]), ..Default::default() };
    let inner = TxnRequest {
        success: vec![RequestOp { request: Some(request_op::Request::RequestRange(range)) }],
        ..Default::default()
    };
    let expected = TxnRequest {
        compare: vec![
            Compare {
                result: CompareResult::Equal.into(),
                target: CompareTarget::Create.into(),
                key: "foo".into(),
                target_union: Some(TargetUnion::CreateRevision(2)),
                ..Default::default()
            },
            Compare {
                result: CompareResult::Greater.into(),
                target: CompareTarget::Value.into(),
                key: "foo".into(),
                target_union: Some(TargetUnion::Value(Bytes::new())),
                ..Default::default()
            },
        ],
        success: vec![RequestOp { request: Some(request_op::Request::RequestPut(put)) }],
        failure: vec![RequestOp { request: Some(request_op::Request::RequestTxn(inner)) }],
    };
    assert_eq!(request::<TxnRequest>("/v3/kv/txn", json), expected);

    let create = WatchCreateRequest { key: "foo".into(), filters: vec![0, 1], ..Default::default() };
    assert_eq!(
        request::<WatchRequest>(
            "/v3/watch",
            r#"{"cancel_request":null,"create_request":{"key":"Zm9v","filters":["NOPUT",1]}}"#
        ),
        WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) }
    );
}

#[test]
fn null_stands_for_an_absent_field_of_every_request() {
    let definitions = [
        include_str!("../proto/etcdserverpb/rpc.proto"),
        include_str!("../proto/v3lockpb/v3lock.proto"),
        include_str!("../proto/v3electionpb/v3election.proto"),
    ];
    let names: BTreeSet<&str> = definitions
        .iter()
        .flat_map(|text| text.lines())
        .filter_map(|line| line.split_once(" = ")?.0.split_whitespace().last())
        .collect();
    assert!(names.contains("create_request") && names.contains("sort_order") && names.contains("peerURLs"));
    for method in &METHODS {
        // Names that a request does not have are skipped, so all may be tried on each.
        for name in &names {
            let json = format!(r#"{{"{name}":null}}"#);
            assert!((method.to_protobuf)(json.as_bytes()).unwrap().is_empty(), "{} {json}", method.path);
        }
    }
}

#[test]
fn malformed_requests_are_refused_with_the_place() {
    for (json, problem) in [
        ("", "EOF"),
        ("nil", "expected"),
        ("null", "invalid type: null"),
        ("[]", "invalid type"),
        (r#"{"key":"Zm9v"}x"#, "trailing characters"),
        (r#"{"key":"*"}"#, "key: Invalid symbol 42, offset 0. at line 1 column 10"),
        (r#"{"limit":"9223372036854775808"}"#, "limit: number too large"),
        (r#"{"limit":1.5}"#, "limit: not a number that fits the field"),
        (r#"{"sort_order":"UPWARDS"}"#, "sort_order: unknown variant"),
        (r#"{"key":"","key":""}"#, "duplicate field"),
    ] {
        let refusal = refusal("/v3/kv/range", json);
        assert!(refusal.contains(problem), "{json}: {refusal}");
    }
    let refusal = refusal("/v3/kv/txn", r#"{"success":[{},{"request_put":{"lease":"x"}}]}"#);
    assert!(refusal.starts_with("success[1].request_put.lease: invalid digit"), "{refusal}");
}

#[test]
fn deep_nesting_is_refused_before_the_stack_ends() {
    let deep = r#"{"success":[{"request_txn":"#.repeat(100_000);
    assert!(refusal("/v3/kv/txn", &deep).contains("recursion limit"));
}

#[test]
fn an_enumeration_without_a_name_is_an_error_and_not_a_panic() {
    let event = Event { r#type: 9, ..Default::default() };
    let message = WatchResponse { events: vec![event], ..Default::default() };
    (at("/v3/watch").to_json)(message.encode_to_vec().into()).unwrap_err();
    (at("/v3/watch").to_json)(Bytes::from_static(&[0x0a, 0x05])).unwrap_err();
}

#[test]
fn fields_have_the_numbers_of_etcd() {
    let compare = Compare::decode(&b"\x08\x03\x10\x04\x1a\x01a\x40\x07\x82\x04\x01b"[..]).unwrap();
    assert_eq!(
        compare,
        Compare {
            result: CompareResult::NotEqual.into(),
            target: CompareTarget::Lease.into(),
            key: "a".into(),
            range_end: "b".into(),
            target_union: Some(TargetUnion::Lease(7)),
        }
    );
    let watch =
        WatchResponse::decode(&b"\x0a\x02\x18\x05\x10\x02\x5a\x0a\x08\x01\x12\x06\x0a\x01k\x2a\x01v"[..]);
    let kv = KeyValue { key: "k".into(), value: "v".into(), ..Default::default() };
    assert_eq!(
        watch.unwrap(),
        WatchResponse {
            header: Some(ResponseHeader { revision: 5, ..Default::default() }),
            watch_id: 2,
            events: vec![Event { r#type: EventType::Delete.into(), kv: Some(kv), prev_kv: None }],
            ..Default::default()
        }
    );
    let range = RangeRequest::decode(&b"\x0a\x01a\x38\x01\x50\x02\x68\x03"[..]).unwrap();
    assert_eq!(
        range,
        RangeRequest {
            key: "a".into(),
            serializable: true,
            min_mod_revision: 2,
            max_create_revision: 3,
            ..Default::default()
        }
    );
}

#[test]
fn every_method_is_in_the_table_with_its_paths() {
    let services = [
        ("etcdserverpb.KV", "Range RangeStream> Put DeleteRange Txn Compact"),
        ("etcdserverpb.Watch", "<Watch>"),
        ("etcdserverpb.Lease", "LeaseGrant LeaseRevoke <LeaseKeepAlive> LeaseTimeToLive LeaseLeases"),
        ("etcdserverpb.Cluster", "MemberAdd MemberRemove MemberUpdate MemberList MemberPromote"),
        ("etcdserverpb.Maintenance", "Alarm Status Defragment Hash HashKV Snapshot> MoveLeader Downgrade"),
        (
            "etcdserverpb.Auth",
            "AuthEnable AuthDisable AuthStatus Authenticate UserAdd UserGet UserList UserDelete UserChangePassword \
             UserGrantRole UserRevokeRole RoleAdd RoleGet RoleList RoleDelete RoleGrantPermission RoleRevokePermission",
        ),
        ("v3lockpb.Lock", "Lock Unlock"),
        ("v3electionpb.Election", "Campaign Proclaim Leader Observe> Resign"),
    ];
    let mut expected: Vec<String> = services
        .iter()
        .flat_map(|(service, names)| names.split_whitespace().map(move |name| format!("/{service}/{name}")))
        .map(|path| if path.contains("/<") { format!("<{}", path.replace("/<", "/")) } else { path })
        .collect();
    let mut found: Vec<String> = METHODS
        .iter()
        .map(|method| {
            let before = if method.client_streaming { "<" } else { "" };
            format!("{before}{}{}", method.path, if method.server_streaming { ">" } else { "" })
        })
        .collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);

    for method in &METHODS {
        assert_eq!(super::method(method.path).map(|found| found.path), Some(method.path));
        assert_eq!(method.http_paths.is_empty(), method.path.ends_with("/RangeStream"));
        for path in method.http_paths {
            assert_eq!(at(path).path, method.path);
        }
    }
    for (http, path) in [
        ("/v3/kv/compaction", "/etcdserverpb.KV/Compact"),
        ("/v3/kv/lease/revoke", "/etcdserverpb.Lease/LeaseRevoke"),
        ("/v3/lease/leases", "/etcdserverpb.Lease/LeaseLeases"),
        ("/v3/kv/lease/timetolive", "/etcdserverpb.Lease/LeaseTimeToLive"),
        ("/v3/cluster/member/promote", "/etcdserverpb.Cluster/MemberPromote"),
        ("/v3/maintenance/transfer-leadership", "/etcdserverpb.Maintenance/MoveLeader"),
        ("/v3/auth/user/changepw", "/etcdserverpb.Auth/UserChangePassword"),
        ("/v3/election/observe", "/v3electionpb.Election/Observe"),
        ("/v3/lock/unlock", "/v3lockpb.Lock/Unlock"),
    ] {
        assert_eq!(at(http).path, path);
    }
    assert!(method_at("/v3/kv").is_none());
    assert_eq!(at("/v3beta/kv/range").path, "/etcdserverpb.KV/Range");
    assert!(method_at("/v3alpha/kv/range").is_none());
    assert!(method_at("/v3beta").is_none());
    assert!(method("/etcdserverpb.KV/Get").is_none());
}

#[test]
fn every_method_takes_and_gives_empty_messages() {
    for method in &METHODS {
        assert!((method.to_protobuf)(b"{}").unwrap().is_empty(), "{}", method.path);
        let json = (method.to_json)(Bytes::new()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&json).unwrap(), json!({}), "{}", method.path);
    }
}

#[test]
fn descriptors_carry_the_names_that_etcd_registers() {
    for name in ["rpc.proto", "kv.proto", "auth.proto", "v3lock.proto", "v3election.proto", "/v3/kv/range"] {
        let found = FILE_DESCRIPTOR_SET.windows(name.len()).any(|window| window == name.as_bytes());
        assert!(found, "{name}");
    }
}
