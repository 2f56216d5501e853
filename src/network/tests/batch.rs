//! `/v1/batch`: many writes in order, and how far a failed one came.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::memory::Memory;
use super::{Fixture, options};
use crate::error::Error;
use crate::inflight::InflightBytes;
use crate::network::HttpOptions;

fn puts(count: usize) -> String {
    let mut body = r#"{"operations":["#.to_owned();
    for n in 0..count {
        let comma = if n == 0 { "" } else { "," };
        write!(body, r#"{comma}{{"put":{{"key":"{n:05}","value":"v{n}"}}}}"#).unwrap();
    }
    body + "]}"
}

fn batch(operations: &Value) -> String {
    json!({ "operations": operations }).to_string()
}

#[test]
fn a_batch_is_carried_out_in_as_few_transactions_as_the_limit_permits() {
    let t = Fixture::new();
    let answer = t.call("POST", "/v1/batch", &puts(300));
    assert_eq!(
        (answer.status, answer.json()),
        (200, json!({"revision": 3, "operations": 300, "transactions": 3}))
    );
    assert_eq!(t.memory.count("txn Linearizable"), 3);
    for n in 0..300 {
        assert_eq!(t.memory.value(format!("{n:05}").as_bytes()).unwrap(), format!("v{n}"));
    }
}

#[test]
fn the_last_write_of_a_key_wins() {
    let t = Fixture::new();
    let answer = t.call(
        "POST",
        "/v1/batch",
        &batch(&json!([
            {"put": {"key": "a", "value": "1"}},
            {"put": {"key": "b", "value": "1"}},
            {"put": {"key": "a", "value": "2"}},
            {"delete": {"prefix": "b"}},
            {"put": {"key": "c", "value_base64": "/w=="}},
            {"put": {"key": "b", "value": "3"}},
            {"put": {"key": "c", "keep_value": true, "keep_lease": true}},
            {"delete": {"key": "a"}},
        ])),
    );
    assert_eq!(answer.json(), json!({"revision": 3, "operations": 8, "transactions": 3}));
    assert_eq!(t.memory.value(b"a"), None);
    assert_eq!(t.memory.value(b"b").unwrap(), "3");
    assert_eq!(t.memory.value(b"c").unwrap(), &b"\xff"[..]);
}

#[test]
fn an_empty_batch_answers_the_revision() {
    let t = Fixture::new();
    t.memory.put(b"k", b"v");
    let answer = t.call("POST", "/v1/batch", r#"{"operations":[]}"#);
    assert_eq!(answer.json(), json!({"revision": 1, "operations": 0, "transactions": 0}));
}

#[test]
fn a_mistake_anywhere_changes_nothing() {
    let t = Fixture::new();
    let good = || json!({"put": {"key": "k", "value": "v"}});
    for (bad, expected) in [
        (json!({}), "operations[1] must be exactly one of put and delete"),
        (json!({"put": {"key": "k"}}), "operations[1].put needs value"),
        (json!({"put": {"key": "k", "value_base64": "*"}}), "operations[1].put.value_base64 is not base64"),
        (json!({"put": {"key": "", "value": ""}}), "operations[1].put.key is empty"),
        (json!({"delete": {"key": "k", "prefix": "k"}}), "operations[1].delete must name its keys"),
        (
            json!({"put": {"key": "k", "value": "", "previous": true}}),
            "operations[1].put.previous is not answered by a batch",
        ),
        (
            json!({"delete": {"key": "k", "previous": true}}),
            "operations[1].delete.previous is not answered by a batch",
        ),
    ] {
        let answer = t.call("POST", "/v1/batch", &batch(&json!([good(), bad])));
        answer.error(400, "invalid_request");
        assert!(answer.message().starts_with(expected), "{}", answer.message());
    }
    for (bad, details) in [
        (
            json!({"put": {"key": "k".repeat(65), "value": ""}}),
            json!({"what": "the key", "size": 65, "limit": 64, "option": "max_key_bytes"}),
        ),
        (
            json!({"delete": {"start": "k", "end": "l".repeat(66)}}),
            json!({"what": "the key", "size": 66, "limit": 64, "option": "max_key_bytes"}),
        ),
        (
            json!({"put": {"key": "k", "value": "v".repeat(262_145)}}),
            json!({"what": "the value", "size": 262_145, "limit": 262_144, "option": "max_value_bytes"}),
        ),
    ] {
        let answer = t.call("POST", "/v1/batch", &batch(&json!([good(), bad])));
        assert_eq!(answer.error(413, "too_large"), details);
        assert!(answer.message().starts_with("operations[1]."), "{}", answer.message());
    }
    for (body, expected) in [
        ("{}", "missing field `operations`"),
        (r#"{"operations":[{"get":{"key":"k"}}]}"#, "operations[0].get: unknown field `get`"),
        (r#"{"operations":[{"txn":{}}]}"#, "operations[0].txn: unknown field `txn`"),
        (r#"{"operations":[],"x":1}"#, "x: unknown field `x`"),
        (r#"{"operations":[{"put":{"key":"k","value":"v"}}"#, "EOF while parsing a list"),
    ] {
        let answer = t.call("POST", "/v1/batch", body);
        answer.error(400, "invalid_request");
        assert!(answer.message().contains(expected), "{}", answer.message());
    }
    let token = [("Idempotency-Key", "t")];
    t.call_with("POST", "/v1/batch", &token, &puts(1)).error(400, "invalid_request");
    t.call("POST", "/v1/batch?x=1", &puts(1)).error(400, "invalid_request");
    assert_eq!(t.memory.count("txn"), 0);
}

#[test]
fn a_failure_midway_says_how_many_operations_were_carried_out() {
    let t = Fixture::new();
    let failing = |skipped, error| {
        t.memory.fail_after(skipped, error);
        t.call("POST", "/v1/batch", &puts(300))
    };
    let wait = Duration::from_secs(2);
    let answer = failing(1, Error::Unavailable { reason: "no leader".to_owned(), retry_after: wait });
    assert_eq!(answer.error(503, "unavailable"), json!({"completed": 128}));
    assert_eq!(answer.message(), "128 of 300 operations were carried out, and then: no leader");
    assert_eq!(answer.header("retry-after"), Some("2"));
    let answer = failing(2, Error::Unknown { reason: "timed out".to_owned() });
    assert_eq!(answer.error(504, "outcome_unknown"), json!({"completed": 256}));
    assert_eq!(
        answer.message(),
        "256 of 300 operations were carried out, and then: \
         the outcome of the transaction after them is unknown (timed out); it may still commit"
    );
    let answer = failing(0, Error::NotLeader { node: 7, leader: None });
    let details = json!({"completed": 0, "leader_id": null, "leader_addr": null});
    assert_eq!(answer.error(503, "not_leader"), details);
    assert_eq!(answer.header("retry-after"), Some("1"));

    let mut operations: Vec<_> =
        (0..200).map(|n| json!({"put": {"key": format!("{n}"), "value": ""}})).collect();
    operations[150]["put"]["lease"] = json!(9);
    let answer = t.call("POST", "/v1/batch", &batch(&json!(operations)));
    assert_eq!(answer.error(404, "lease_not_found"), json!({"completed": 128, "lease": 9}));
    assert!(t.memory.value(b"127").is_some());
    assert!(t.memory.value(b"128").is_none());
}

#[test]
fn what_a_body_is_read_into_counts_as_in_flight() {
    let options = HttpOptions { inflight_bytes: InflightBytes::new(512 << 10), ..options() };
    let t = Fixture::with(&options, Memory::default());
    let small = format!(r#"{{"then":[{}{{}}]}}"#, r#"{"txn":{}},"#.repeat(20_000));
    t.call("POST", "/v1/txn", &small).error(429, "overloaded");
    let lists = format!(r#"{{"then":[{}{{}}]}}"#, "[null,null,null,[]],".repeat(20_000));
    t.call("POST", "/v1/txn", &lists).error(429, "overloaded");
    t.call("POST", "/v1/batch", &puts(10_000)).error(429, "overloaded");
    assert_eq!(t.call("POST", "/v1/batch", &puts(500)).status, 200);
    let braces = "{[".repeat(50_000);
    let body = batch(&json!([{"put": {"key": "k", "value": braces}}]));
    assert_eq!(t.call("POST", "/v1/batch", &body).status, 200, "those of a value are no objects");
}
