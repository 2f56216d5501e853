//! `/v1/txn`: the JSON of transactions, there and back.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::memory::Memory;
use super::{Fixture, options};
use crate::error::Error;
use crate::inflight::InflightBytes;
use crate::network::HttpOptions;

impl Fixture {
    fn txn(&self, body: &Value) -> Value {
        let answer = self.call("POST", "/v1/txn", &body.to_string());
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// The message with which a transaction is refused.
    #[track_caller]
    fn refused(&self, body: &str) -> String {
        let answer = self.call("POST", "/v1/txn", body);
        answer.error(400, "invalid_request");
        assert_eq!(self.memory.count("txn"), 0, "{body}");
        answer.message()
    }
}

#[test]
fn a_transaction_is_carried_out_at_one_revision() {
    let t = Fixture::new();
    t.memory.put(b"a", b"1");
    t.memory.put(b"b/1", b"x");
    t.memory.put(b"b/2", b"\xff");
    let answer = t.txn(&json!({
        "compare": [{"key": "a", "target": "value", "relation": "=", "value": "1"}],
        "then": [
            {"put": {"key": "a", "value": "2", "previous": true}},
            {"put": {"key": "new", "value_base64": "/w==", "previous": true}},
            {"put": {"key_base64": "/g==", "value": ""}},
            {"get": {"key": "a"}},
            {"delete": {"prefix": "b/", "previous": true}},
            {"delete": {"start": "c", "end": "d"}},
            {"get": {"start_base64": "bg=="}},
        ],
    }));
    let item = |key, value, created, modified, version| {
        json!({"key": key, "value": value,
        "create_revision": created, "mod_revision": modified, "version": version})
    };
    let new =
        json!({"key": "new", "value_base64": "/w==", "create_revision": 4, "mod_revision": 4, "version": 1});
    let bytes =
        json!({"key_base64": "/g==", "value": "", "create_revision": 4, "mod_revision": 4, "version": 1});
    let b2 =
        json!({"key": "b/2", "value_base64": "/w==", "create_revision": 3, "mod_revision": 3, "version": 1});
    let expected = json!({"revision": 4, "succeeded": true, "results": [
        {"put": {"revision": 4, "previous": item("a", "1", 1, 1, 1)}},
        {"put": {"revision": 4, "previous": null}},
        {"put": {"revision": 4}},
        {"get": {"revision": 4, "items": [item("a", "2", 1, 4, 2)], "count": 1, "more": false}},
        {"delete": {"revision": 4, "deleted": 2, "previous": [item("b/1", "x", 2, 2, 1), b2]}},
        {"delete": {"revision": 4, "deleted": 0}},
        {"get": {"revision": 4, "items": [new, bytes], "count": 2, "more": false}},
    ]});
    assert_eq!(answer, expected);
    assert_eq!(t.memory.value(b"a").unwrap(), "2");
    assert_eq!(t.memory.value(b"b/1"), None);
}

#[test]
fn a_compare_that_does_not_hold_is_an_answer() {
    let t = Fixture::new();
    let take = |who: &str| {
        t.txn(&json!({
            "compare": [{"key": "lock", "target": "create_revision", "relation": "=", "number": 0}],
            "then": [{"put": {"key": "lock", "value": who}}],
            "else": [{"get": {"key": "lock"}}],
        }))
    };
    assert_eq!(take("me")["succeeded"], true);
    let late = take("you");
    assert_eq!(late["succeeded"], false);
    assert_eq!(late["results"][0]["get"]["items"][0]["value"], "me");
}

#[test]
fn compares_ask_for_everything_that_is_known_of_a_key() {
    let t = Fixture::new();
    t.memory.put(b"before", b"");
    t.memory.put(b"k", b"v");
    t.memory.put(b"k", b"w");
    t.call("PUT", "/v1/kv/leased?lease=5", "");
    for (compare, holds) in [
        (json!({"key": "k", "target": "value", "relation": "=", "value": "w"}), true),
        (json!({"key": "k", "target": "value", "relation": "!=", "value_base64": "/w=="}), true),
        (json!({"key_base64": "aw==", "target": "value", "relation": ">", "value": "w"}), false),
        (json!({"key": "k", "target": "version", "relation": "=", "number": 2}), true),
        (json!({"key": "k", "target": "version", "relation": "<", "number": 2}), false),
        (json!({"key": "k", "target": "create_revision", "relation": "=", "number": 2}), true),
        (json!({"key": "k", "target": "mod_revision", "relation": ">", "number": 2}), true),
        (json!({"key": "leased", "target": "lease", "relation": "=", "number": 5}), true),
        (json!({"key": "none", "target": "version", "relation": "=", "number": 0}), true),
        (json!({"key": "none", "target": "value", "relation": "!=", "value": ""}), false),
        (json!({"prefix": "", "target": "version", "relation": ">", "number": 0}), true),
        (json!({"start": "k", "end": "l", "target": "version", "relation": ">", "number": 1}), true),
        (json!({"start": "a", "target": "version", "relation": ">", "number": 1}), false),
    ] {
        assert_eq!(t.txn(&json!({"compare": [compare]}))["succeeded"], holds, "{compare}");
    }
}

#[test]
fn gets_have_an_order_a_limit_and_a_revision() {
    let t = Fixture::new();
    for (key, value) in [("a", "3"), ("b", "1"), ("c", "2"), ("b", "1")] {
        t.memory.put(key.as_bytes(), value.as_bytes());
    }
    let get = |get: Value| t.txn(&json!({"then": [{"get": get}]}))["results"][0]["get"].clone();
    let keys = |found: &Value| -> Vec<String> {
        let items = found["items"].as_array().unwrap().iter();
        items.map(|item| item["key"].as_str().unwrap().to_owned()).collect()
    };
    for (order, expected) in [
        (json!({}), ["a", "b", "c"]),
        (json!({"sort_by": "key"}), ["a", "b", "c"]),
        (json!({"descending": true}), ["c", "b", "a"]),
        (json!({"sort_by": "value"}), ["b", "c", "a"]),
        (json!({"sort_by": "version", "descending": true}), ["b", "c", "a"]),
        (json!({"sort_by": "mod_revision"}), ["a", "c", "b"]),
        (json!({"sort_by": "create_revision", "descending": true}), ["c", "b", "a"]),
    ] {
        let mut asked = order.clone();
        asked["prefix"] = json!("");
        assert_eq!(keys(&get(asked)), expected, "{order}");
    }
    let limited = get(json!({"prefix": "", "limit": 2, "keys_only": true}));
    assert_eq!(
        limited,
        json!({"revision": 4, "count": 3, "more": true, "items": [
            {"key": "a", "create_revision": 1, "mod_revision": 1, "version": 1},
            {"key": "b", "create_revision": 2, "mod_revision": 4, "version": 2},
        ]})
    );
    let counted = get(json!({"start": "b", "count_only": true}));
    assert_eq!(counted, json!({"revision": 4, "items": [], "count": 2, "more": false}));
    assert_eq!(keys(&get(json!({"prefix": "", "revision": 2}))), ["a", "b"]);
    t.call("POST", "/v1/txn", r#"{"then":[{"get":{"key":"a","revision":9}}]}"#).error(400, "future_revision");
}

#[test]
fn puts_keep_what_they_are_told_to() {
    let t = Fixture::new();
    let lease = t.call("POST", "/v1/leases", r#"{"ttl":30,"id":7}"#).json()["id"].clone();
    t.txn(&json!({"then": [{"put": {"key": "k", "value": "v", "lease": lease}}]}));
    t.txn(&json!({"then": [{"put": {"key": "k", "value": "w", "keep_lease": true}}]}));
    let kept = json!({"put": {"key": "k", "keep_value": true, "previous": true}});
    let answer = t.txn(&json!({"then": [kept, {"get": {"key": "k"}}]}));
    let previous = &answer["results"][0]["put"]["previous"];
    assert_eq!((&previous["value"], &previous["lease"]), (&json!("w"), &json!(7)));
    let now = &answer["results"][1]["get"]["items"][0];
    assert_eq!((&now["value"], &now["lease"], &now["version"]), (&json!("w"), &Value::Null, &json!(3)));
    for (put, code, details) in [
        (json!({"key": "none", "keep_value": true}), "key_not_found", json!({})),
        (json!({"key": "k", "value": "", "lease": 8}), "lease_not_found", json!({"lease": 8})),
    ] {
        let body = json!({"then": [{"put": put}]}).to_string();
        assert_eq!(t.call("POST", "/v1/txn", &body).error(404, code), details);
    }
}

#[test]
fn transactions_are_nested() {
    let t = Fixture::new();
    let answer = t.txn(&json!({"then": [
        {"put": {"key": "a", "value": "1"}},
        {"txn": {
            "compare": [{"key": "a", "target": "version", "relation": ">", "number": 0}],
            "then": [{"put": {"key": "b", "value": ""}}],
            "else": [{"txn": {}}, {"get": {"key": "a", "keys_only": true}}],
        }},
    ]}));
    let expected = json!({"revision": 1, "succeeded": true, "results": [
        {"put": {"revision": 1}},
        {"txn": {"succeeded": false, "results": [
            {"txn": {"succeeded": true, "results": []}},
            {"get": {"revision": 1, "count": 1, "more": false, "items": [
                {"key": "a", "create_revision": 1, "mod_revision": 1, "version": 1},
            ]}},
        ]}},
    ]});
    assert_eq!(answer, expected);
}

#[test]
fn an_empty_transaction_answers_the_revision() {
    let t = Fixture::new();
    t.memory.put(b"k", b"v");
    assert_eq!(t.txn(&json!({})), json!({"revision": 1, "succeeded": true, "results": []}));
    t.call("POST", "/v1/txn?consistency=local", "{}");
    assert_eq!(t.memory.calls(), ["txn Linearizable", "txn Local"]);
    t.call("POST", "/v1/txn?consistency=some", "{}").error(400, "invalid_request");
    t.call("POST", "/v1/txn?revision=1", "{}").error(400, "invalid_request");
}

#[test]
fn a_retry_with_the_same_idempotency_key_is_answered_as_before() {
    let t = Fixture::new();
    let token = [("Idempotency-Key", "t")];
    let body = r#"{"then":[{"put":{"key":"k","value":"v","previous":true}}]}"#;
    let first = t.call_with("POST", "/v1/txn", &token, body).json();
    assert_eq!(t.call_with("POST", "/v1/txn", &token, body).json(), first);
    let other = r#"{"then":[{"put":{"key":"k","value":"w"}}]}"#;
    t.call_with("POST", "/v1/txn", &token, other).error(409, "idempotency_mismatch");
    t.call_with("POST", "/v1/txn", &[("Idempotency-Key", "")], body).error(400, "invalid_request");
}

#[test]
fn what_means_nothing_is_refused_where_it_stands() {
    let t = Fixture::new();
    for (body, expected) in [
        (r#"{"then":[{},{}]}"#, "then[0] must be exactly one of put, delete, get and txn"),
        (
            r#"{"else":[{"get":{"key":"a"},"put":{"key":"a","value":""}}]}"#,
            "else[0] must be exactly one of put, delete, get and txn",
        ),
        (
            r#"{"then":[{"txn":{}},{"txn":{"else":[{"put":{"key":"a","value_base64":"!"}}]}}]}"#,
            "then[1].txn.else[0].put.value_base64 is not base64",
        ),
        (r#"{"then":[{"put":{"key_base64":"/w","value":""}}]}"#, "then[0].put.key_base64 is not base64"),
        (
            r#"{"then":[{"put":{"key":"a","key_base64":"YQ==","value":""}}]}"#,
            "then[0].put has both key and key_base64; give one of them",
        ),
        (
            r#"{"then":[{"put":{"key":"a","value":"","value_base64":""}}]}"#,
            "then[0].put has both value and value_base64",
        ),
        (r#"{"then":[{"put":{"value":""}}]}"#, "then[0].put needs a key"),
        (r#"{"then":[{"put":{"key":"a"}}]}"#, "then[0].put needs value, value_base64 or keep_value"),
        (
            r#"{"then":[{"put":{"key":"a","value":"","keep_value":true}}]}"#,
            "then[0].put has a value and keep_value",
        ),
        (
            r#"{"then":[{"put":{"key":"a","value":"","lease":0,"keep_lease":true}}]}"#,
            "then[0].put has lease and keep_lease",
        ),
        (r#"{"then":[{"put":{"key":"","value":""}}]}"#, "then[0].put.key is empty"),
        (r#"{"then":[{"delete":{"key_base64":""}}]}"#, "then[0].delete.key_base64 is empty"),
        (r#"{"then":[{"delete":{}}]}"#, "then[0].delete must name its keys in exactly one way"),
        (
            r#"{"then":[{"get":{"key":"a","prefix":"a"}}]}"#,
            "then[0].get must name its keys in exactly one way: key, prefix or start",
        ),
        (r#"{"then":[{"get":{"prefix":"a","end":"b"}}]}"#, "then[0].get.end makes sense only beside start"),
        (r#"{"then":[{"get":{"end_base64":"YQ=="}}]}"#, "then[0].get must name its keys"),
        (
            r#"{"then":[{"get":{"start":"b","end_base64":"YQ=="}}]}"#,
            "then[0].get.end_base64 must come after start",
        ),
        (r#"{"then":[{"get":{"start":"","end":""}}]}"#, "then[0].get.end must come after start"),
        (r#"{"then":[{"get":{"key":"a","limit":0}}]}"#, "then[0].get.limit must be at least 1"),
        (r#"{"then":[{"get":{"key":"a","revision":0}}]}"#, "then[0].get.revision must be at least 1"),
        (
            r#"{"compare":[{"key":"a","target":"value","relation":"=","number":1}]}"#,
            "compare[0] compares a value, so it needs value or value_base64, and no number",
        ),
        (
            r#"{"compare":[{"key":"a","target":"lease","relation":"=","value":"1"}]}"#,
            "compare[0] compares a number, so it needs number, and no value",
        ),
        (r#"{"compare":[{"target":"lease","relation":"=","number":1}]}"#, "compare[0] must name its keys"),
    ] {
        let message = t.refused(body);
        assert!(message.starts_with(expected), "{message}");
    }
}

#[test]
fn what_has_another_form_is_refused_where_it_stands() {
    let t = Fixture::new();
    for (body, expected) in [
        (r#"{"then":[{"put":{"key":"a","value":""}},{"put":{"key":1}}]}"#, ": then[1].put.key: invalid type"),
        (r#"{"then":[{"put":{"key":"a","valu":""}}]}"#, ": then[0].put.valu: unknown field `valu`"),
        (r#"{"then":[{"set":{"key":"a"}}]}"#, ": then[0].set: unknown field `set`, expected one of `put`"),
        (r#"{"when":[]}"#, ": when: unknown field `when`, expected one of `compare`, `then`, `else`"),
        (r#"{"then":{"put":{}}}"#, ": then: invalid type: map, expected a sequence"),
        (r#"{"compare":[{"key":"a","relation":"="}]}"#, ": compare[0]: missing field `target`"),
        (
            r#"{"compare":[{"key":"a","target":"size","relation":"=","number":1}]}"#,
            ": compare[0].target: unknown variant `size`, expected one of `value`",
        ),
        (
            r#"{"compare":[{"key":"a","target":"version","relation":"==","number":1}]}"#,
            ": compare[0].relation: unknown variant `==`, expected one of `=`, `!=`, `>`, `<`",
        ),
        (
            r#"{"compare":[{"key":"a","target":"version","relation":"=","number":9223372036854775808}]}"#,
            ": compare[0].number: invalid value",
        ),
        (r#"{"then":[{"get":{"key":"a","limit":-1}}]}"#, ": then[0].get.limit: invalid value"),
        (r#"{"then":[{"get":{"key":"a","key":"b"}}]}"#, ": then[0].get.key: duplicate field `key`"),
        (r#"{"then":[{"put":{"key":"\ud800"}}]}"#, "unexpected end of hex escape"),
        (r#"{"then":[{"get":{"key":"a"}},]}"#, "trailing comma at line 1 column 30"),
        ("", "EOF while parsing"),
        ("7", "invalid type: integer `7`"),
    ] {
        let message = t.refused(body);
        assert!(message.contains(expected), "{message}");
        assert!(message.starts_with(r#"the body must be JSON such as {"then":"#), "{message}");
    }
}

#[test]
fn nesting_has_a_bound_and_no_depth_is_a_crash() {
    let t = Fixture::new();
    let nested = |depth: usize| {
        let (open, close) = (r#"{"then":[{"txn":"#, "}]}");
        format!("{}{{}}{}", open.repeat(depth - 1), close.repeat(depth - 1))
    };
    assert_eq!(t.call("POST", "/v1/txn", &nested(32)).status, 200);
    for depth in [33, 43] {
        let message = t.call("POST", "/v1/txn", &nested(depth)).message();
        assert!(message.ends_with("then[0].txn is nested more than 32 deep"), "{message}");
    }
    for depth in [44, 1_000, 25_000] {
        let answer = t.call("POST", "/v1/txn", &nested(depth));
        answer.error(400, "invalid_request");
        assert!(answer.message().contains("recursion limit exceeded"), "{}", answer.message());
    }
    assert_eq!(t.memory.count("txn"), 1);
    t.assert_serves();
}

#[test]
fn failures_of_the_store_keep_their_status_and_details() {
    let t = Fixture::new();
    let puts = |count: usize| {
        let put = |n: usize| json!({"put": {"key": n.to_string(), "value": ""}});
        json!({"then": (0..count).map(put).collect::<Vec<_>>()}).to_string()
    };
    let details = t.call("POST", "/v1/txn", &puts(129)).error(400, "too_many_operations");
    assert_eq!(details, json!({"count": 129, "limit": 128}));
    let twice = r#"{"then":[{"put":{"key":"k","value":""}},{"put":{"key":"k","value":""}}]}"#;
    t.call("POST", "/v1/txn", twice).error(400, "duplicate_key");
    t.memory.fail_after(0, Error::AnswerLost { revision: 5, reason: "it is too large" });
    assert_eq!(t.call("POST", "/v1/txn", &puts(1)).error(409, "answer_lost"), json!({"revision": 5}));
    t.memory.fail_after(0, Error::AnswerTooLarge { limit: 7 });
    assert_eq!(t.call("POST", "/v1/txn", &puts(1)).error(413, "answer_too_large"), json!({"limit": 7}));
    t.memory.fail_after(0, Error::Unknown { reason: "timed out".to_owned() });
    t.call("POST", "/v1/txn", &puts(1)).error(504, "outcome_unknown");
}

#[test]
fn an_answer_that_is_too_much_never_hides_that_something_was_written() {
    let options = HttpOptions { inflight_bytes: InflightBytes::new(512 << 10), ..options() };
    let t = Fixture::with(&options, Memory::default());
    for key in ["a", "b", "c"] {
        t.memory.put(key.as_bytes(), &vec![b'v'; 200_000]);
    }
    let reading = r#"{"then":[{"get":{"prefix":""}}]}"#;
    t.call("POST", "/v1/txn", reading).error(429, "overloaded");
    let removing = r#"{"then":[{"delete":{"prefix":"","previous":true}}]}"#;
    let details = t.call("POST", "/v1/txn", removing).error(409, "answer_lost");
    assert_eq!(details, json!({"revision": 4}));
    assert_eq!(t.memory.value(b"a"), None);
    assert_eq!(t.call("POST", "/v1/txn", reading).status, 200, "nothing stayed counted");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_transaction_is_answered_or_refused(
        damages in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        end in any::<prop::sample::Index>(),
    ) {
        let t = Fixture::new();
        let mut body = br#"{"compare":[{"key":"a","target":"version","relation":">","number":0}],
            "then":[{"put":{"key":"a","value_base64":"/w==","lease":0}},{"txn":{"else":[]}}],
            "else":[{"get":{"start":"a","end":"b","limit":3}}]}"#.to_vec();
        for (at, byte) in damages {
            let at = at.index(body.len());
            body[at] = byte;
        }
        body.truncate(body.len() - end.index(body.len()) / 2);
        let answer = t.client().call("POST", "/v1/txn", &[], &body);
        // A digit more or less may name a lease that is not there.
        match answer.status {
            200 => {}
            404 => drop(answer.error(404, "lease_not_found")),
            _ => drop(answer.error(400, "invalid_request")),
        }
        t.assert_serves();
    }
}
