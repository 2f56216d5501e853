//! `GET /v1/kv`: ranges, pages, cursors.

use serde_json::{Value, json};

use super::Fixture;

fn keys(page: &Value) -> Vec<&str> {
    page["items"].as_array().unwrap().iter().map(|item| item["key"].as_str().unwrap()).collect()
}

#[test]
fn items_are_shown_as_text_or_base64() {
    let t = Fixture::new();
    t.call("PUT", "/v1/kv/b?lease=5", "v");
    t.memory.put(b"\xff", b"\xfe");
    let page = t.call("GET", "/v1/kv", "").json();
    let expected = json!({"revision": 2, "more": false, "cursor": null, "items": [
        {"key": "b", "value": "v", "create_revision": 1, "mod_revision": 1, "version": 1, "lease": 5},
        {"key_base64": "/w==", "value_base64": "/g==", "create_revision": 2, "mod_revision": 2, "version": 1},
    ]});
    assert_eq!(page, expected);
    let page = t.call("GET", "/v1/kv?keys_only=true&prefix=b", "").json();
    assert_eq!(
        page["items"][0],
        json!({"key": "b", "create_revision": 1, "mod_revision": 1, "version": 1, "lease": 5})
    );
    assert_eq!(t.call("GET", "/v1/kv?count_only=true", "").json(), json!({"revision": 2, "count": 2}));
    assert_eq!(
        t.call("GET", "/v1/kv?count_only&prefix=%FF&revision=1", "").json(),
        json!({"revision": 1, "count": 0})
    );
}

#[test]
fn ranges_are_a_prefix_or_a_half_open_interval() {
    let t = Fixture::new();
    for key in ["a", "a/1", "a/2", "a0", "b"] {
        t.memory.put(key.as_bytes(), b"");
    }
    for (query, expected) in [
        ("prefix=a/", &["a/1", "a/2"][..]),
        ("prefix=a%2F", &["a/1", "a/2"]),
        ("prefix=", &["a", "a/1", "a/2", "a0", "b"]),
        ("start=a/2", &["a/2", "a0", "b"]),
        ("end=a/2", &["a", "a/1"]),
        ("start=a/1&end=b", &["a/1", "a/2", "a0"]),
        ("start=a0&end=", &["a0", "b"]),
        ("prefix=z", &[]),
    ] {
        assert_eq!(keys(&t.call("GET", &format!("/v1/kv?{query}"), "").json()), expected, "{query}");
    }
}

#[test]
fn pages_of_one_cursor_reflect_one_revision() {
    let t = Fixture::new();
    for n in 0..5 {
        t.memory.put(format!("k{n}").as_bytes(), b"old");
    }
    t.memory.put(b"l", b"outside");
    let mut page = t.call("GET", "/v1/kv?prefix=k&limit=2", "").json();
    let mut seen = Vec::new();
    loop {
        assert_eq!(page["revision"], 6);
        for item in page["items"].as_array().unwrap() {
            assert_eq!(item["value"], "old");
            seen.push(item["key"].as_str().unwrap().to_owned());
        }
        t.memory.put(b"k0a", b"new");
        t.memory.put(b"k4", b"new");
        let Some(cursor) = page["cursor"].as_str() else { break };
        assert_eq!(page["more"], true);
        let prefix = if seen.len() == 2 { "&prefix=k" } else { "" };
        page = t.call("GET", &format!("/v1/kv?limit=2&cursor={cursor}{prefix}"), "").json();
    }
    assert_eq!(seen, ["k0", "k1", "k2", "k3", "k4"]);
}

#[test]
fn pages_end_by_size_too() {
    let t = Fixture::new();
    for n in 0..4 {
        t.memory.put(format!("{n}").as_bytes(), &vec![b'v'; 200_000]);
    }
    let page = t.call("GET", "/v1/kv", "").json();
    assert_eq!((keys(&page).len(), page["more"].as_bool()), (2, Some(true)));
}

#[test]
fn a_page_has_at_most_a_thousand_keys_unless_asked_otherwise() {
    let t = Fixture::new();
    for n in 0..1500 {
        t.memory.put(format!("{n:04}").as_bytes(), b"");
    }
    assert_eq!(keys(&t.call("GET", "/v1/kv", "").json()).len(), 1000);
    assert_eq!(keys(&t.call("GET", "/v1/kv?limit=2000", "").json()).len(), 1500);
    t.call("GET", "/v1/kv?limit=2001", "").error(400, "invalid_request");
}

#[test]
fn contradictions_and_foreign_cursors_are_refused() {
    let t = Fixture::new();
    for key in ["a", "b", "c"] {
        t.memory.put(key.as_bytes(), b"");
    }
    let page = t.call("GET", "/v1/kv?start=a&limit=1", "").json();
    let cursor = page["cursor"].as_str().unwrap();
    let long = "k".repeat(65);
    for query in [
        "prefx=a".to_owned(),
        "prefix=a&start=a".to_owned(),
        "start=b&end=a".to_owned(),
        "start=a&end=a".to_owned(),
        "limit=0".to_owned(),
        "limit=-1".to_owned(),
        "keys_only=maybe".to_owned(),
        "count_only=true&limit=1".to_owned(),
        "count_only=true&keys_only".to_owned(),
        "cursor=".to_owned(),
        "cursor=AAAA".to_owned(),
        "cursor=!".to_owned(),
        format!("cursor={cursor}A"),
        format!("cursor={cursor}&prefix=a"),
        format!("cursor={cursor}&start=b"),
        format!("cursor={cursor}&start=a&end=z"),
        format!("cursor={cursor}&revision=1"),
    ] {
        let answer = t.call("GET", &format!("/v1/kv?{query}"), "");
        answer.error(400, "invalid_request");
    }
    assert!(t.call("GET", "/v1/kv?prefx=a", "").message().contains("\"prefx\""));
    t.call("GET", &format!("/v1/kv?prefix={long}"), "").error(413, "too_large");
    let next = t.call("GET", &format!("/v1/kv?cursor={cursor}&start=a&revision=3"), "").json();
    assert_eq!(keys(&next), ["b", "c"]);
}
