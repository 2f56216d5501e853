//! `/v1/leases` and `/v1/compact`.

use std::time::Duration;

use serde_json::json;

use super::Fixture;
use crate::error::Error;

#[test]
fn a_lease_lives_through_all_of_its_calls() {
    let t = Fixture::new();
    let granted = t.call("POST", "/v1/leases", r#"{"ttl":30,"id":7}"#);
    assert_eq!((granted.status, granted.json()), (201, json!({"revision": 0, "id": 7, "ttl": 30})));
    assert_eq!(granted.header("location"), Some("/v1/leases/7"));
    t.call("PUT", "/v1/kv/b?lease=7", "v");
    t.call("PUT", "/v1/kv/%FF?lease=7", "v");
    t.call("PUT", "/v1/kv/other", "v");
    let known = json!({"revision": 3, "id": 7, "ttl": 29, "granted_ttl": 30});
    assert_eq!(t.call("GET", "/v1/leases/7", "").json(), known);
    assert_eq!(t.call("GET", "/v1/leases/7?keys=false", "").json(), known);
    assert_eq!(
        t.call("GET", "/v1/leases/7?keys=true", "").json(),
        json!({"revision": 3, "id": 7, "ttl": 29, "granted_ttl": 30,
            "keys": [{"key": "b"}, {"key_base64": "/w=="}]})
    );
    let renewed = t.call("POST", "/v1/leases/7/keep-alive", "");
    assert_eq!((renewed.status, renewed.json()), (200, json!({"revision": 3, "id": 7, "ttl": 30})));
    assert_eq!(t.call("GET", "/v1/leases", "").json(), json!({"revision": 3, "leases": [7]}));
    let revoked = t.call("DELETE", "/v1/leases/7", "");
    assert_eq!((revoked.status, revoked.json()), (200, json!({"revision": 5, "revoked": 7})));
    assert_eq!(t.call("GET", "/v1/leases", "").json(), json!({"revision": 5, "leases": []}));
    assert_eq!(t.memory.value(b"b"), None);
    assert!(t.memory.value(b"other").is_some());
}

#[test]
fn an_id_is_chosen_unless_one_is_given() {
    let t = Fixture::new();
    let chosen = t.call("POST", "/v1/leases", r#"{"ttl":1}"#).json();
    assert_eq!(chosen, json!({"revision": 0, "id": 1_u64 << 52, "ttl": 2}), "and the time is at least 2 s");
    t.call("POST", "/v1/leases", r#"{"ttl":60,"id":-9223372036854775807}"#);
    assert_eq!(t.call("GET", "/v1/leases/-9223372036854775807", "").json()["granted_ttl"], 60);
    let details =
        t.call("POST", "/v1/leases", r#"{"ttl":60,"id":-9223372036854775807}"#).error(409, "lease_exists");
    assert_eq!(details, json!({"lease": i64::MIN + 1}));
    t.memory.fail_after(0, Error::LeaseTtlTooLarge { ttl: 10, limit: 9 });
    let details = t.call("POST", "/v1/leases", r#"{"ttl":10}"#).error(400, "lease_ttl_too_large");
    assert_eq!(details, json!({"ttl": 10, "limit": 9}));
}

#[test]
fn a_lease_that_is_gone_is_not_found() {
    let t = Fixture::new();
    for (method, path) in [
        ("GET", "/v1/leases/7"),
        ("GET", "/v1/leases/7?keys"),
        ("DELETE", "/v1/leases/7"),
        ("POST", "/v1/leases/7/keep-alive"),
    ] {
        assert_eq!(t.call(method, path, "").error(404, "lease_not_found"), json!({"lease": 7}));
    }
    t.memory.fail_after(0, Error::StillRunning("its keys are being removed".to_owned()));
    t.call("DELETE", "/v1/leases/7", "").error(504, "timeout");
}

#[test]
fn malformed_calls_of_leases_are_refused() {
    let t = Fixture::new();
    for body in ["", "{}", "30", r#"{"ttl":0}"#, r#"{"ttl":-1}"#, r#"{"ttl":"30"}"#, r#"{"ttl":1.5}"#] {
        t.call("POST", "/v1/leases", body).error(400, "invalid_request");
    }
    let unknown = t.call("POST", "/v1/leases", r#"{"ttl":30,"name":"x"}"#);
    unknown.error(400, "invalid_request");
    assert!(unknown.message().contains("name: unknown field `name`"), "{}", unknown.message());
    for (method, path) in [
        ("GET", "/v1/leases/x"),
        ("GET", "/v1/leases/9223372036854775808"),
        ("DELETE", "/v1/leases/1.5"),
        ("POST", "/v1/leases/%20/keep-alive"),
        ("GET", "/v1/leases/7?key=true"),
        ("GET", "/v1/leases?keys=true"),
        ("DELETE", "/v1/leases/7?force=true"),
        ("POST", "/v1/leases/7/keep-alive?ttl=5"),
        ("POST", "/v1/leases?ttl=5"),
    ] {
        t.call(method, path, r#"{"ttl":30}"#).error(400, "invalid_request");
    }
    assert!(t.memory.calls().is_empty());
}

#[test]
fn compaction_answers_the_oldest_revision_that_is_left() {
    let t = Fixture::new();
    for _ in 0..5 {
        t.memory.put(b"k", b"v");
    }
    let answer = t.call("POST", "/v1/compact", r#"{"revision":3}"#);
    assert_eq!((answer.status, answer.json()), (200, json!({"revision": 5, "compacted_revision": 3})));
    assert_eq!(t.call("POST", "/v1/compact", r#"{"revision":4,"physical":true}"#).status, 200);
    assert_eq!(t.memory.calls(), ["compact 3 false", "compact 4 true"]);
    let details = t.call("POST", "/v1/compact", r#"{"revision":4}"#).error(410, "compacted");
    assert_eq!(details, json!({"requested": 4, "oldest": 4}));
    let details = t.call("POST", "/v1/compact", r#"{"revision":6}"#).error(400, "future_revision");
    assert_eq!(details, json!({"requested": 6, "current": 5}));
    t.call("GET", "/v1/kv/k?revision=3", "").error(410, "compacted");
    assert_eq!(t.call("GET", "/v1/kv/k?revision=4", "").status, 200);
    for body in ["", "{}", "3", r#"{"revision":0}"#, r#"{"revision":-1}"#, r#"{"revision":5,"x":1}"#] {
        t.call("POST", "/v1/compact", body).error(400, "invalid_request");
    }
    t.call("POST", "/v1/compact?physical=true", r#"{"revision":5}"#).error(400, "invalid_request");
    t.memory.fail_after(0, Error::Unavailable { reason: "x".to_owned(), retry_after: Duration::ZERO });
    t.call("POST", "/v1/compact", r#"{"revision":5}"#).error(503, "unavailable");
}
