//! Management and status calls.

use serde_json::json;

use super::memory::Memory;
use super::{Fixture, options};
use crate::error::Error;

#[test]
fn the_seeds_calls_translate() {
    let t = Fixture::new();
    for (path, body) in [
        ("/init", "[]"),
        ("/init", r#"[[1,"h:1"],[2,"h:2"]]"#),
        ("/add-learner", r#"[2,"h:2"]"#),
        ("/change-membership", "[3,1,1]"),
        ("/change-membership?force=true", "[1]"),
    ] {
        let answer = t.call("POST", path, body);
        assert_eq!((answer.status, answer.text()), (200, "\"Ok\""), "{path}");
    }
    let expected = [
        "init []",
        r#"init [(1, "h:1"), (2, "h:2")]"#,
        "add_learner 2 h:2",
        "change_membership {1, 3} false",
        "change_membership {1} true",
    ];
    assert_eq!(t.memory.calls(), expected);
}

#[test]
fn the_v1_calls_translate() {
    let t = Fixture::new();
    for (method, path, body, expected) in [
        ("POST", "/v1/members", r#"{"id":4,"addr":"h:4"}"#, json!({"id": 4, "role": "learner"})),
        ("POST", "/v1/members/4/promote", "", json!({"id": 4, "role": "voter"})),
        ("DELETE", "/v1/members/4", "", json!({"removed": 4})),
        ("DELETE", "/v1/members/4?force=true", "", json!({"removed": 4})),
        ("POST", "/v1/leader/transfer", r#"{"to":2}"#, json!({"leader_id": 2})),
        ("POST", "/v1/leader/transfer", "{}", json!({"leader_id": 3})),
        ("POST", "/v1/snapshot", "", json!({"snapshot_id": "s"})),
        ("GET", "/v1/members", "", json!({"members": []})),
        ("GET", "/v1/status", "", json!({"node_id": 7})),
        ("GET", "/health", "", json!({"status": "alive"})),
        ("GET", "/ready", "", json!({"status": "ready"})),
        ("GET", "/version", "", json!({"name": "kvorum", "version": env!("CARGO_PKG_VERSION"), "format": 1})),
        ("GET", "/metrics", "", json!({"id": 7})),
    ] {
        let answer = t.call(method, path, body);
        assert_eq!((answer.status, answer.json()), (200, expected), "{method} {path}");
    }
    let calls = t.memory.calls();
    let expected = ["add_learner 4 h:4", "promote 4", "remove_member 4 false", "remove_member 4 true"];
    assert_eq!(calls[..4], expected);
}

#[test]
fn senseless_management_is_refused_before_it_reaches_the_cluster() {
    let t = Fixture::new();
    for (method, path, body) in [
        ("POST", "/init", ""),
        ("POST", "/init", "{}"),
        ("POST", "/init", r#"[[1,"h"]]"#),
        ("POST", "/init", r#"[[1,"h:1"],[1,"h:2"]]"#),
        ("POST", "/init", r#"[[-1,"h:1"]]"#),
        ("POST", "/add-learner", "[2]"),
        ("POST", "/add-learner", r#"[2,"h:1",3]"#),
        ("POST", "/change-membership", "[]"),
        ("POST", "/change-membership", "[1.5]"),
        ("POST", "/change-membership?forse=true", "[1]"),
        ("POST", "/v1/members", r#"{"id":4}"#),
        ("POST", "/v1/members", r#"{"id":4,"addr":"h:4","x":1}"#),
        ("POST", "/v1/members/x/promote", ""),
        ("DELETE", "/v1/members/-1", ""),
        ("DELETE", "/v1/members/1?force=yes", ""),
        ("POST", "/v1/leader/transfer", r#"{"two":2}"#),
    ] {
        t.call(method, path, body).error(400, "invalid_request");
    }
    assert_eq!(t.memory.calls(), [""; 0]);
}

#[test]
fn management_needs_the_secret_and_data_does_not() {
    let t = Fixture::with(&options(), Memory::with_secret("s3cret"));
    for (method, path) in [
        ("POST", "/init"),
        ("POST", "/add-learner"),
        ("POST", "/change-membership"),
        ("POST", "/v1/members"),
        ("POST", "/v1/members/4/promote"),
        ("DELETE", "/v1/members/4"),
        ("POST", "/v1/leader/transfer"),
        ("POST", "/v1/snapshot"),
    ] {
        for headers in [
            &[][..],
            &[("Authorization", "Bearer wrong")],
            &[("Authorization", "Basic s3cret")],
            &[("Authorization", "s3cret")],
        ] {
            let answer = t.call_with(method, path, headers, "");
            answer.error(401, "unauthorized");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        }
    }
    for scheme in ["Bearer", "bearer"] {
        let secret = format!("{scheme} s3cret");
        let headers = [("Authorization", secret.as_str())];
        assert_eq!(t.call_with("POST", "/v1/snapshot", &headers, "").status, 200);
    }
    assert_eq!(t.call("PUT", "/v1/kv/k", "v").status, 201);
    assert_eq!(t.call("GET", "/v1/members", "").status, 200);
}

#[test]
fn failures_keep_their_codes() {
    let t = Fixture::new();
    let message = "x".to_owned();
    t.memory.fail_after(0, Error::Conflict { code: "already_initialized", message: message.clone() });
    t.call("POST", "/init", "[]").error(409, "already_initialized");
    t.memory.fail_after(0, Error::CatchUp { message, matched_index: None, last_log_index: Some(9) });
    let details = t.call("POST", "/v1/members", r#"{"id":4,"addr":"h:4"}"#).error(504, "timeout");
    assert_eq!(details, json!({"matched_index": null, "last_log_index": 9}));
    let retry_after = std::time::Duration::from_millis(1);
    t.memory.fail_after(0, Error::Unavailable { reason: "no leader".to_owned(), retry_after });
    let answer = t.call("GET", "/ready", "");
    answer.error(503, "unavailable");
    assert_eq!(answer.header("retry-after"), Some("1"));
}

#[test]
fn prometheus_gets_text() {
    let t = Fixture::new();
    let accept = [(
        "Accept",
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
    )];
    let answer = t.call_with("GET", "/metrics", &accept, "");
    assert_eq!(answer.text(), "# EOF\n");
    assert!(answer.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    assert_eq!(t.call_with("GET", "/metrics", &[("Accept", "*/*")], "").json(), json!({"id": 7}));
}
