//! The seed's key-value calls.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::Fixture;
use crate::error::Error;

#[test]
fn a_write_is_read_back_with_a_bare_client() {
    let t = Fixture::new();
    let put = t.call("POST", "/write", r#"{"Put":{"key":"k\u00e9","value":"v\n"}}"#);
    assert_eq!((put.status, put.text()), (200, "\"Ok\""));
    assert_eq!(put.header("content-type"), Some("application/json"));
    assert_eq!(t.call("POST", "/read", "\"ké\"").json(), json!("v\n"));
    assert_eq!(t.call("POST", "/write", r#"{"Del":{"key":"ké"}}"#).text(), "\"Ok\"");
    assert_eq!(t.call("POST", "/read", "\"ké\"").text(), "\"\"");
}

#[test]
fn any_content_type_is_tolerated() {
    let t = Fixture::new();
    for content_type in ["application/x-www-form-urlencoded", "text/plain", "nonsense"] {
        let headers = [("Content-Type", content_type)];
        let body = r#"{"Put":{"key":"k","value":"v"}}"#;
        assert_eq!(t.call_with("POST", "/write", &headers, body).status, 200);
    }
}

#[test]
fn a_retry_with_the_same_idempotency_key_applies_once() {
    let t = Fixture::new();
    let token = [("Idempotency-Key", "t")];
    let body = r#"{"Put":{"key":"k","value":"v"}}"#;
    for _ in 0..2 {
        assert_eq!(t.call_with("POST", "/write", &token, body).status, 200);
    }
    assert_eq!(t.call("GET", "/v1/kv/k", "").header("etag"), Some("\"1\""));
    let other = r#"{"Put":{"key":"k","value":"w"}}"#;
    t.call_with("POST", "/write", &token, other).error(409, "idempotency_mismatch");
    let long = "x".repeat(257);
    t.call_with("POST", "/write", &[("Idempotency-Key", &long)], body).error(400, "invalid_request");
    let twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")];
    t.call_with("POST", "/write", &twice, body).error(400, "invalid_request");
}

#[test]
fn reads_are_local_unless_asked_otherwise() {
    let t = Fixture::new();
    t.call("POST", "/read", "\"k\"");
    t.call("POST", "/read?consistency=linearizable", "\"k\"");
    t.call("POST", "/read-all?consistency=lease", "");
    assert_eq!(t.memory.calls(), ["get Local", "get Linearizable", "range Lease"]);
    t.call("POST", "/read?consistency=eventual", "\"k\"").error(400, "invalid_request");
}

#[test]
fn malformed_bodies_are_refused() {
    let t = Fixture::new();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for body in [
        "",
        "{",
        "null",
        "{}",
        r#"{"Put":{"key":"k"}}"#,
        r#"{"Put":{"key":"k","value":1}}"#,
        r#"{"Put":{"key":"k","value":"v","x":1}}"#,
        r#"{"Put":{"key":"k","key":"l","value":"v"}}"#,
        r#"{"Put":{"key":"k","value":"v"}} x"#,
        r#"{"Put":{"key":"k","value":"v"},"Del":{"key":"k"}}"#,
        r#"{"Put":{"key":"\ud800","value":"v"}}"#,
        r#"{"Drop":{"key":"k"}}"#,
        &deep,
    ] {
        let answer = t.call("POST", "/write", body);
        answer.error(400, "invalid_request");
        assert!(answer.message().contains("\"Put\""), "it says what is expected");
    }
    t.call("POST", "/read", &deep).error(400, "invalid_request");
    t.call("POST", "/read", "1").error(400, "invalid_request");
    t.call("POST", "/read", "\"\"").error(400, "invalid_request");
    t.call("POST", "/write", r#"{"Put":{"key":"","value":"v"}}"#).error(400, "invalid_request");
    t.call("POST", "/write?key=k", r#"{"Del":{"key":"k"}}"#).error(400, "invalid_request");
    let bad_utf8 = t.client().call("POST", "/read", &[], b"\"\xff\"");
    bad_utf8.error(400, "invalid_request");
    let details = t.call("POST", "/read", &format!("\"{}\"", "k".repeat(65))).error(413, "too_large");
    assert_eq!(details, json!({"what": "key", "size": 65, "limit": 64, "option": "max_key_bytes"}));
    assert_eq!(t.memory.count("write"), 1, "only the empty key got as far as the store");
    t.assert_serves();
}

#[test]
fn a_message_does_not_repeat_a_huge_input() {
    let t = Fixture::new();
    let answer = t.call("POST", "/write", &format!(r#"{{"{}":1}}"#, "x".repeat(100_000)));
    answer.error(400, "invalid_request");
    assert!(answer.body.len() < 2000);
}

#[test]
fn binary_values_are_refused_with_the_name_of_the_call_that_reads_them() {
    let t = Fixture::new();
    t.memory.put(b"k", b"\xff");
    for answer in [t.call("POST", "/read", "\"k\""), t.call("GET", "/read-all", "")] {
        answer.error(400, "invalid_request");
        assert!(answer.message().contains("GET /v1/kv/{key}"));
    }
}

#[test]
fn read_all_is_an_object_of_everything_whatever_the_method_and_body() {
    let t = Fixture::new();
    assert_eq!(t.call("GET", "/read-all", "").text(), "{}");
    t.memory.put(b"a\"", b"1");
    t.memory.put(b"b", b"");
    for answer in [t.call("GET", "/read-all", ""), t.call("POST", "/read-all", "{anything")] {
        assert_eq!(answer.text(), r#"{"a\"":"1","b":""}"#);
        assert!(answer.header("content-length").is_some());
    }
    t.call("GET", "/read-all?prefix=a", "").error(400, "invalid_request");
}

fn fill(t: &Fixture, keys: usize) -> Value {
    let mut expected = json!({});
    for n in 0..keys {
        let (mut key, value) = (String::new(), "v".repeat(40_000));
        write!(key, "{n:04}").unwrap();
        t.memory.put(key.as_bytes(), value.as_bytes());
        expected[key] = value.into();
    }
    expected
}

#[test]
fn read_all_streams_many_pages_of_one_revision() {
    let t = Fixture::new();
    let expected = fill(&t, 60);
    let answer = t.call("GET", "/read-all", "");
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    assert_eq!(answer.json(), expected);
    assert!(t.memory.count("range") > 5);

    let mut old = t.client();
    old.send(b"GET /read-all HTTP/1.0\r\n\r\n");
    assert_eq!(old.answer(false).unwrap().json(), expected, "HTTP/1.0 ends with the connection");
}

#[test]
fn read_all_that_fails_midway_aborts_the_connection() {
    let t = Fixture::new();
    fill(&t, 60);
    t.memory.fail_after(3, Error::Compacted { requested: 1, oldest: 2 });
    let mut client = t.client();
    client.send(b"GET /read-all HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(client.answer(false).is_none(), "the answer has no end");

    t.memory.fail_after(0, Error::ReadTimeout(std::time::Duration::from_secs(1)));
    t.call("GET", "/read-all", "").error(504, "timeout");
    t.assert_serves();
}
