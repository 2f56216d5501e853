//! `/v1/watch`: server-sent events.

use serde_json::{Value, json};

use super::Fixture;
use super::wire::{Client, request};
use crate::error::Error;

/// A stream of messages, as a client reads them.
struct Stream {
    client: Client,
    text: String,
}

/// Kind, id and data of a message.
type Message = (String, Option<i64>, Value);

impl Stream {
    #[track_caller]
    fn open(fixture: &Fixture, target: &str, headers: &[(&str, &str)]) -> Self {
        let mut client = fixture.client();
        client.send(&request("GET", target, headers, b""));
        let head = client.head().unwrap();
        assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
        assert_eq!(head.header("cache-control"), Some("no-store"));
        Self { client, text: String::new() }
    }

    /// The next message; `None` at the end of the stream.
    fn next(&mut self) -> Option<Message> {
        let text = loop {
            if let Some((message, rest)) = self.text.split_once("\n\n") {
                let message = message.to_owned();
                self.text = rest.to_owned();
                // Comments are signs of life.
                if message.starts_with(':') {
                    continue;
                }
                break message;
            }
            self.text += &self.client.chunk()?;
        };
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned)
        };
        let data = serde_json::from_str(&field("data").unwrap()).unwrap();
        Some((field("event").unwrap(), field("id").map(|id| id.parse().unwrap()), data))
    }

    #[track_caller]
    fn expect(&mut self, kind: &str, id: i64, data: &Value) {
        let (got_kind, got_id, got_data) = self.next().unwrap();
        assert_eq!((got_kind.as_str(), got_id, &got_data), (kind, Some(id), data));
    }
}

fn put(key: &str, value: &str, created: i64, revision: i64, version: i64) -> Value {
    json!({"type": "put", "key": key, "value": value, "create_revision": created, "mod_revision": revision,
        "version": version})
}

#[test]
fn a_revision_is_one_message_and_begins_after_what_is_known() {
    let t = Fixture::new();
    t.memory.put(b"a", b"0");
    let mut stream = Stream::open(&t, "/v1/watch?prefix=a&previous", &[]);
    stream.expect("created", 1, &json!({"revision": 1}));
    t.call(
        "POST",
        "/v1/txn",
        r#"{"then":[{"put":{"key":"a","value":"1"}},{"put":{"key":"ab","value":"2"}}]}"#,
    );
    t.memory.put(b"b", b"not watched");
    t.call("DELETE", "/v1/kv/a", "");
    let before = json!({"key": "a", "value": "0", "create_revision": 1, "mod_revision": 1, "version": 1});
    let mut first = put("a", "1", 1, 2, 2);
    first["previous"] = before;
    stream.expect("change", 2, &json!({"revision": 2, "events": [first, put("ab", "2", 2, 2, 1)]}));
    let before = json!({"key": "a", "value": "1", "create_revision": 1, "mod_revision": 2, "version": 2});
    let gone = json!({"type": "delete", "key": "a", "mod_revision": 4, "previous": before});
    stream.expect("change", 4, &json!({"revision": 4, "events": [gone]}));
    assert_eq!(t.memory.count("revision Linearizable"), 1);
}

#[test]
fn a_client_that_comes_back_goes_on_behind_what_it_saw() {
    let t = Fixture::new();
    for value in [b"1", b"2", b"3"] {
        t.memory.put(b"a", value);
    }
    let mut stream = Stream::open(&t, "/v1/watch?key=a&from_revision=2", &[]);
    stream.expect("created", 1, &json!({"revision": 1}));
    stream.expect("change", 2, &json!({"revision": 2, "events": [put("a", "2", 1, 2, 2)]}));
    drop(stream);
    // What it saw wins over where it once began.
    let mut stream = Stream::open(&t, "/v1/watch?key=a&from_revision=2", &[("Last-Event-ID", "2")]);
    stream.expect("created", 2, &json!({"revision": 2}));
    stream.expect("change", 3, &json!({"revision": 3, "events": [put("a", "3", 1, 3, 3)]}));
    assert_eq!(t.memory.count("revision"), 0, "nobody asked for the present");
}

#[test]
fn only_what_is_wanted_is_told() {
    let t = Fixture::new();
    t.memory.put(b"before", b"");
    let mut puts = Stream::open(&t, "/v1/watch?only=put&progress=false", &[]);
    let mut deletes = Stream::open(&t, "/v1/watch?only=delete", &[]);
    for stream in [&mut puts, &mut deletes] {
        stream.expect("created", 1, &json!({"revision": 1}));
    }
    t.call("PUT", "/v1/kv/%FF?lease=7", "v");
    t.call("DELETE", "/v1/kv/%FF", "");
    t.memory.put(b"last", b"");
    let put = json!({"type": "put", "key_base64": "/w==", "value": "v", "create_revision": 2, "mod_revision": 2,
        "version": 1, "lease": 7});
    puts.expect("change", 2, &json!({"revision": 2, "events": [put]}));
    let gone = json!({"type": "delete", "key_base64": "/w==", "mod_revision": 3});
    deletes.expect("change", 3, &json!({"revision": 3, "events": [gone]}));
    assert_eq!(puts.next().unwrap().1, Some(4));
}

#[test]
fn what_is_compacted_is_refused_before_the_stream_begins() {
    let t = Fixture::new();
    for _ in 0..5 {
        t.memory.put(b"a", b"");
    }
    t.call("POST", "/v1/compact", r#"{"revision":4}"#);
    let details = t.call("GET", "/v1/watch?from_revision=3", "").error(410, "compacted");
    assert_eq!(details, json!({"requested": 3, "oldest": 4}));
    let details = t.call_with("GET", "/v1/watch", &[("Last-Event-ID", "1")], "").error(410, "compacted");
    assert_eq!(details, json!({"requested": 2, "oldest": 4}));
    let mut stream = Stream::open(&t, "/v1/watch?from_revision=4", &[]);
    stream.expect("created", 3, &json!({"revision": 3}));
    assert_eq!(stream.next().unwrap().1, Some(4));
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let t = Fixture::new();
    for (query, name) in [
        ("only=all", "only"),
        ("key=a&prefix=b", "combined"),
        ("end=a", "start"),
        ("key=", "empty"),
        ("from_revision=0", "from_revision"),
        ("progress=no", "progress"),
        ("rev=1", "rev"),
    ] {
        let answer = t.call("GET", &format!("/v1/watch?{query}"), "");
        answer.error(400, "invalid_request");
        assert!(answer.message().contains(name), "{query}: {}", answer.message());
    }
    for name in ["key", "prefix", "start", "start=a&end"] {
        let answer = t.call("GET", &format!("/v1/watch?{name}={}", "k".repeat(65)), "");
        assert_eq!(answer.error(413, "too_large")["option"], "max_key_bytes", "{name}");
    }
    for seen in ["x", "-1", "9223372036854775807"] {
        let answer = t.call_with("GET", "/v1/watch", &[("Last-Event-ID", seen)], "");
        answer.error(400, "invalid_request");
    }
    t.memory.fail_after(0, Error::ReadTimeout(std::time::Duration::from_secs(5)));
    t.call("GET", "/v1/watch", "").error(504, "timeout");
    assert_eq!(t.call("HEAD", "/v1/watch", "").header("content-type"), Some("text/event-stream"));
    t.assert_serves();
}

#[test]
fn watchers_take_no_place_of_a_request() {
    let t = Fixture::new();
    t.memory.put(b"before", b"");
    let mut streams: Vec<_> = (0..100).map(|_| Stream::open(&t, "/v1/watch?key=a", &[])).collect();
    t.call("PUT", "/v1/kv/a", "v");
    for stream in &mut streams {
        assert_eq!(stream.next().unwrap().0, "created");
        assert_eq!(stream.next().unwrap().1, Some(2));
    }
}

#[test]
fn a_stream_ends_with_a_reason_when_the_node_stops() {
    let t = Fixture::new();
    let mut stream = Stream::open(&t, "/v1/watch", &[]);
    assert_eq!(stream.next().unwrap().0, "created");
    let hub = crate::network::Backend::watch(&t.memory).clone();
    tokio::runtime::Runtime::new().unwrap().block_on(hub.stop());
    let (kind, id, data) = stream.next().unwrap();
    assert_eq!((kind.as_str(), id, data["error"]["code"].as_str()), ("error", None, Some("unavailable")));
    assert!(stream.next().is_none());
}
