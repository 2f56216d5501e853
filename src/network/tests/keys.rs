//! `/v1/kv/{key}`: values, conditions, revisions, and keys as they are written in paths.

use serde_json::json;

use super::Fixture;
use crate::error::Error;

#[test]
fn a_key_is_created_replaced_read_and_deleted() {
    let t = Fixture::new();
    let put = t.call("PUT", "/v1/kv/a", "one");
    assert_eq!(put.json(), json!({"revision": 1, "created": true, "version": 1}));
    assert_eq!((put.status, put.header("etag")), (201, Some("\"1\"")));
    let put = t.call("PUT", "/v1/kv/a?lease=9", "two");
    assert_eq!(put.json(), json!({"revision": 2, "created": false, "version": 2}));
    assert_eq!((put.status, put.header("etag")), (200, Some("\"2\"")));

    let get = t.call("GET", "/v1/kv/a", "");
    assert_eq!((get.status, get.text()), (200, "two"));
    for (name, value) in [
        ("content-type", "application/octet-stream"),
        ("etag", "\"2\""),
        ("x-kvorum-revision", "2"),
        ("x-kvorum-create-revision", "1"),
        ("x-kvorum-version", "2"),
        ("x-kvorum-lease", "9"),
    ] {
        assert_eq!(get.header(name), Some(value), "{name}");
    }
    let past = t.call("GET", "/v1/kv/a?revision=1", "");
    assert_eq!((past.text(), past.header("x-kvorum-lease")), ("one", None));

    let delete = t.call("DELETE", "/v1/kv/a", "");
    assert_eq!((delete.status, delete.json()), (200, json!({"revision": 3, "deleted": 1})));
    assert_eq!(t.call("DELETE", "/v1/kv/a", "").json(), json!({"revision": 3, "deleted": 0}));
    let gone = t.call("GET", "/v1/kv/a", "");
    assert_eq!(gone.error(404, "not_found"), json!({"revision": 3}));
    assert_eq!(gone.header("x-kvorum-revision"), Some("3"));
    t.call("GET", "/v1/kv/a?revision=9", "").error(400, "future_revision");
}

#[test]
fn head_answers_as_get_without_the_body() {
    let t = Fixture::new();
    t.memory.put(b"k", b"value");
    let mut client = t.client();
    let head = client.call("HEAD", "/v1/kv/k", &[], b"");
    assert_eq!((head.status, head.header("content-length")), (200, Some("5")));
    assert_eq!(head.header("etag"), Some("\"1\""));
    assert_eq!(client.call("HEAD", "/v1/kv/none", &[], b"").status, 404);
    assert_eq!(client.call("GET", "/v1/kv/k", &[], b"").text(), "value", "the connection is in step");
}

#[test]
fn values_are_bytes_and_may_be_empty_or_chunked() {
    let t = Fixture::new();
    let all: Vec<u8> = (0..=255).collect();
    let mut client = t.client();
    assert_eq!(client.call("PUT", "/v1/kv/bytes", &[], &all).status, 201);
    assert_eq!(client.call("GET", "/v1/kv/bytes", &[], b"").body, all);
    assert_eq!(client.call("PUT", "/v1/kv/empty", &[], b"").status, 201);
    assert_eq!(client.call("GET", "/v1/kv/empty", &[], b"").header("content-length"), Some("0"));
    client.send(b"PUT /v1/kv/c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
    assert_eq!(client.answer(false).unwrap().status, 201);
    assert_eq!(t.memory.value(b"c").unwrap(), "abcde");
}

#[test]
fn large_values_pass_in_both_directions() {
    let t = Fixture::new();
    let value: Vec<u8> = (0..256 << 10).map(|n: u32| (n % 251) as u8).collect();
    let mut client = t.client();
    assert_eq!(client.call("PUT", "/v1/kv/k", &[], &value).status, 201);
    assert_eq!(client.call("GET", "/v1/kv/k", &[], b"").body, value);
    assert_eq!(client.call("GET", "/v1/kv/k", &[], b"").body, value, "the connection is in step");
}

#[test]
fn writes_are_compare_and_set_with_entity_tags() {
    let t = Fixture::new();
    let put = |header: (&str, &str)| t.call_with("PUT", "/v1/kv/k", &[header], "v");
    let details = put(("If-Match", "*")).error(412, "condition_failed");
    assert_eq!(details, json!({"mod_revision": 0, "revision": 0}));
    assert_eq!(put(("If-None-Match", "*")).status, 201);
    let details = put(("If-None-Match", "*")).error(412, "condition_failed");
    assert_eq!(details, json!({"mod_revision": 1, "revision": 1}));
    assert_eq!(put(("If-Match", "\"1\"")).status, 200);
    put(("If-Match", "\"1\"")).error(412, "condition_failed");
    assert_eq!(put(("If-Match", "*")).status, 200);
    for refused in
        [("If-Match", "W/\"3\""), ("If-Match", "\"3\", \"4\""), ("If-None-Match", "\"3\""), ("If-Match", "3")]
    {
        put(refused).error(400, "invalid_request");
    }
    put(("Content-Range", "bytes 0-1/2")).error(400, "invalid_request");

    let delete = |header: (&str, &str)| t.call_with("DELETE", "/v1/kv/k", &[header], "");
    delete(("If-Match", "\"1\"")).error(412, "condition_failed");
    delete(("If-None-Match", "*")).error(400, "invalid_request");
    assert_eq!(delete(("If-Match", "\"3\"")).json(), json!({"revision": 4, "deleted": 1}));
}

#[test]
fn reads_are_conditional_with_entity_tags() {
    let t = Fixture::new();
    t.memory.put(b"k", b"v");
    let mut client = t.client();
    let known = client.call("GET", "/v1/kv/k", &[("If-None-Match", "\"9\", W/\"1\"")], b"");
    assert_eq!((known.status, known.header("etag"), known.body.len()), (304, Some("\"1\""), 0));
    let other = client.call("GET", "/v1/kv/k", &[("If-None-Match", "\"9\"")], b"");
    assert_eq!((other.status, other.text()), (200, "v"), "the connection is in step");
    let failed = client.call("GET", "/v1/kv/k", &[("If-Match", "\"9\"")], b"");
    failed.error(412, "condition_failed");
    client.call("GET", "/v1/kv/k", &[("If-None-Match", "k")], b"").error(400, "invalid_request");
}

#[test]
fn deletes_and_puts_are_idempotent_with_a_key() {
    let t = Fixture::new();
    let token = [("Idempotency-Key", "p")];
    for _ in 0..2 {
        let put = t.call_with("PUT", "/v1/kv/k", &token, "v");
        assert_eq!((put.status, put.json()["revision"].as_i64()), (201, Some(1)));
    }
    let token = [("Idempotency-Key", "d")];
    for _ in 0..2 {
        assert_eq!(
            t.call_with("DELETE", "/v1/kv/k", &token, "").json(),
            json!({"revision": 2, "deleted": 1})
        );
    }
}

#[test]
fn keys_in_paths_are_bytes_and_nothing_is_normalised() {
    let t = Fixture::new();
    for (path, key) in [
        ("a/b", &b"a/b"[..]),
        ("a//b", b"a//b"),
        ("/", b"/"),
        ("a/", b"a/"),
        ("a%2Fb%2f", b"a/b/"),
        (".", b"."),
        ("..", b".."),
        ("a/../b", b"a/../b"),
        ("%2E%2e", b".."),
        ("%00%ff", b"\x00\xff"),
        ("a+b", b"a+b"),
        ("a%20b%25", b"a b%"),
        ("%C3%A9", "é".as_bytes()),
        ("kv/v1/kv/", b"kv/v1/kv/"),
        ("a:b@c;d,e=f&g", b"a:b@c;d,e=f&g"),
    ] {
        let target = format!("/v1/kv/{path}");
        assert!(t.call("PUT", &target, path).status < 300, "{path}");
        assert_eq!(t.memory.value(key).unwrap(), path, "{path}");
        assert_eq!(t.call("GET", &target, "").text(), path);
    }
    for path in ["", "%", "%4", "%zz", "a%"] {
        t.call("PUT", &format!("/v1/kv/{path}"), "v").error(400, "invalid_request");
    }
    t.call("PUT", &format!("/v1/kv/{}", "k".repeat(65)), "v").error(413, "too_large");
    assert_eq!(t.call("PUT", &format!("/v1/kv/{}", "%6b".repeat(64)), "v").status, 201);
    // Only a key's own bytes are decoded; another spelling of the route is none.
    t.call("PUT", "/v1/%6bv/k", "v").error(404, "not_found");
    t.call("GET", "//v1/kv/k", "").error(404, "not_found");
    t.call("GET", "/v1/kvx", "").error(404, "not_found");
}

#[test]
fn parameters_are_checked() {
    let t = Fixture::new();
    for target in [
        "/v1/kv/k?revison=1",
        "/v1/kv/k?revision=0",
        "/v1/kv/k?revision=1&revision=1",
        "/v1/kv/k?consistency=",
    ] {
        t.call("GET", target, "").error(400, "invalid_request");
    }
    t.call("PUT", "/v1/kv/k?revision=1", "v").error(400, "invalid_request");
    t.call("PUT", "/v1/kv/k?lease=-1", "v").error(400, "invalid_request");
    t.call("DELETE", "/v1/kv/k?consistency=local", "").error(400, "invalid_request");
    t.call("GET", "/v1/kv/k?consistency=lease", "");
    t.call("GET", "/v1/kv/k?", "");
    assert_eq!(t.memory.calls(), ["get Lease", "get Linearizable"]);
}

#[test]
fn failures_of_the_store_keep_their_status_and_details() {
    let t = Fixture::new();
    let wait = std::time::Duration::from_secs(2);
    t.memory.fail_after(0, Error::NotLeader { node: 7, leader: Some((2, "h:1".to_owned())) });
    let answer = t.call("PUT", "/v1/kv/k", "v");
    assert_eq!(answer.error(503, "not_leader"), json!({"leader_id": 2, "leader_addr": "h:1"}));
    assert_eq!(answer.header("retry-after"), Some("1"));
    t.memory.fail_after(0, Error::NotLeader { node: 7, leader: None });
    let details = t.call("PUT", "/v1/kv/k", "v").error(503, "not_leader");
    assert_eq!(details, json!({"leader_id": null, "leader_addr": null}));
    t.memory.fail_after(0, Error::Unavailable { reason: "no leader".to_owned(), retry_after: wait });
    let answer = t.call("PUT", "/v1/kv/k", "v");
    answer.error(503, "unavailable");
    assert_eq!(answer.header("retry-after"), Some("2"));
    t.memory.fail_after(0, Error::Unknown { reason: "timed out".to_owned() });
    let answer = t.call("PUT", "/v1/kv/k", "v");
    answer.error(504, "outcome_unknown");
    assert!(answer.message().contains("may still commit"));
    t.memory.fail_after(0, Error::ReadTimeout(wait));
    t.call("GET", "/v1/kv/k", "").error(504, "timeout");
    t.memory.fail_after(0, Error::Compacted { requested: 1, oldest: 5 });
    let details = t.call("GET", "/v1/kv/k?revision=1", "").error(410, "compacted");
    assert_eq!(details, json!({"requested": 1, "oldest": 5}));
    t.memory.fail_after(0, Error::Internal { node: 7, reason: "disk".to_owned() });
    t.call("GET", "/v1/kv/k", "").error(500, "internal");
}
