//! Locks and elections against a scripted node: who gets them, who waits for
//! whom, and what is sent for it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use kvorum_scripted::{Request, Scripted, Step};

fn item(key: &str, revision: i64) -> Value {
    json!({ "key": key, "value": "", "create_revision": revision, "mod_revision": revision, "version": 1 })
}

fn entered(revision: i64, first: &Value) -> Step {
    let results = json!([{ "put": { "revision": revision } },
                         { "get": { "revision": revision, "items": [first], "count": 1, "more": false } }]);
    Step::reply(200, json!({ "revision": revision, "succeeded": true, "results": results }).to_string())
}

fn listed(revision: i64, items: &[Value]) -> Step {
    let body = json!({ "revision": revision, "items": items, "more": false, "cursor": null });
    Step::reply(200, body.to_string())
}

fn deleted(revision: i64, key: &str) -> Step {
    let event = json!({ "type": "delete", "key": key, "mod_revision": revision });
    let created = ("created", revision - 1, json!({ "revision": revision - 1 }));
    let change = ("change", revision, json!({ "revision": revision, "events": [event] }));
    Step::events(&[created, change], true)
}

fn left(revision: i64) -> Step {
    let results = json!([{ "delete": { "revision": revision, "deleted": 1 } }]);
    Step::reply(200, json!({ "revision": revision, "succeeded": true, "results": results }).to_string())
}

/// What must be sent to leave the queue in which the key was created at `revision`.
fn leave(revision: i64) -> Value {
    json!({
        "compare": [{ "key": "l/ab1", "target": "create_revision", "relation": "=", "number": revision }],
        "then": [{ "delete": { "key": "l/ab1" } }],
    })
}

/// A node that grants lease 0xab1 and takes these steps for everything else but renewals.
async fn node(steps: impl IntoIterator<Item = Step>) -> (Scripted, Client) {
    let steps = Mutex::new(steps.into_iter().collect::<Vec<_>>().into_iter());
    let node = Scripted::start(move |request: &Request| {
        let lease = Step::reply(201, r#"{"revision":5,"id":2737,"ttl":30}"#);
        match request.target.as_str() {
            "/v1/leases" | "/v1/leases/2737/keep-alive" => lease,
            _ => steps.lock().unwrap().next().unwrap_or(Step::Hang),
        }
    })
    .await;
    let client = Client::builder().endpoints([node.addr()]).build().unwrap();
    (node, client)
}

async fn session(client: &Client) -> Session {
    client.session(Duration::from_secs(30)).await.unwrap()
}

fn held(revision: i64) -> Held {
    Held { key: "l/ab1".into(), revision }
}

fn sent(node: &Scripted) -> Vec<String> {
    node.requests().iter().skip(1).map(|request| format!("{} {}", request.method, request.target)).collect()
}

#[tokio::test]
async fn a_free_lock_is_taken_with_one_transaction_in_etcds_layout() {
    let (node, client) = node([entered(9, &item("l/ab1", 9))]).await;
    assert_eq!(session(&client).await.lock("l").await, Ok(held(9)));
    let body: Value = serde_json::from_slice(&node.requests()[1].body).unwrap();
    let first =
        json!({ "get": { "prefix": "l/", "limit": 1, "keys_only": true, "sort_by": "create_revision" } });
    let expected = json!({
        "compare": [{ "key": "l/ab1", "target": "create_revision", "relation": "=", "number": 0 }],
        "then": [{ "put": { "key": "l/ab1", "value": "", "lease": 2737 } }, first],
        "else": [{ "get": { "key": "l/ab1" } }, first],
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn a_waiter_waits_for_the_one_just_before_it_until_none_is_left() {
    let own = item("l/ab1", 9);
    let (node, client) = node([
        entered(9, &item("l/1", 3)),
        listed(9, &[item("l/1", 3), own.clone(), item("l/c", 6), item("l/d", 12)]),
        deleted(13, "l/c"),
        listed(13, &[item("l/1", 3), own.clone(), item("l/d", 12)]),
        deleted(14, "l/1"),
        listed(14, &[own, item("l/d", 12)]),
    ])
    .await;
    assert_eq!(session(&client).await.lock("l").await, Ok(held(9)));
    let list = "GET /v1/kv?prefix=l%2F&keys_only=true";
    let expected = [
        "POST /v1/txn",
        list,
        "GET /v1/watch?key=l%2Fc&from_revision=10&only=delete",
        list,
        "GET /v1/watch?key=l%2F1&from_revision=14&only=delete",
        list,
    ];
    assert_eq!(sent(&node), expected);
}

#[tokio::test]
async fn a_compaction_while_waiting_leads_to_another_look() {
    let (_node, client) = node([
        entered(9, &item("l/1", 3)),
        listed(9, &[item("l/1", 3), item("l/ab1", 9)]),
        Step::error(410, "compacted"),
        listed(20, &[item("l/ab1", 9)]),
    ])
    .await;
    assert_eq!(session(&client).await.lock("l").await, Ok(held(9)));
}

#[tokio::test]
async fn a_waiter_whose_key_has_gone_does_not_take_the_lock() {
    for left in [vec![], vec![item("l/ab1", 17)]] {
        let (_node, client) = node([
            entered(9, &item("l/1", 3)),
            listed(9, &[item("l/1", 3), item("l/ab1", 9)]),
            deleted(13, "l/1"),
            listed(18, &left),
        ])
        .await;
        let outcome = session(&client).await.lock("l").await;
        assert!(matches!(outcome, Err(Error::LeaseLost { .. })), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_waiter_whose_lease_is_lost_waits_no_longer() {
    let lost = Arc::new(Mutex::new(false));
    let told = Arc::clone(&lost);
    let node = Scripted::start(move |request: &Request| match request.target.as_str() {
        "/v1/leases" => Step::reply(201, r#"{"revision":5,"id":2737,"ttl":1}"#),
        "/v1/leases/2737/keep-alive" => {
            *told.lock().unwrap() = true;
            Step::error(404, "lease_not_found")
        }
        "/v1/txn" => entered(9, &item("l/1", 3)),
        target if target.starts_with("/v1/watch") => {
            Step::events(&[("created", 9, json!({ "revision": 9 }))], true)
        }
        _ => listed(9, &[item("l/1", 3), item("l/ab1", 9)]),
    })
    .await;
    let client = Client::builder().endpoints([node.addr()]).build().unwrap();
    let outcome = session(&client).await.lock("l").await;
    assert!(matches!(outcome, Err(Error::LeaseLost { .. })) && *lost.lock().unwrap(), "{outcome:?}");
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_and_finds_the_own_key() {
    let results = json!([
        { "get": { "revision": 9, "items": [item("l/ab1", 8)], "count": 1, "more": false } },
        { "get": { "revision": 9, "items": [item("l/ab1", 8)], "count": 1, "more": false } },
    ]);
    let found = json!({ "revision": 9, "succeeded": false, "results": results });
    let (node, client) = node([Step::Close, Step::reply(200, found.to_string())]).await;
    assert_eq!(session(&client).await.lock("l").await, Ok(held(8)));
    assert_eq!(sent(&node), ["POST /v1/txn", "POST /v1/txn"]);
}

#[tokio::test]
async fn a_lock_that_is_held_is_not_waited_for_by_try_lock() {
    let (node, client) = node([entered(9, &item("l/1", 3)), left(10)]).await;
    assert_eq!(session(&client).await.try_lock("l").await, Ok(None));
    let body: Value = serde_json::from_slice(&node.requests()[2].body).unwrap();
    assert_eq!(body, leave(9));
}

#[tokio::test]
async fn a_late_copy_of_what_try_lock_sent_cannot_touch_a_later_hold() {
    let steps = [entered(9, &item("l/1", 3)), Step::Close, left(10), entered(12, &item("l/ab1", 12))];
    let (node, client) = node(steps).await;
    let session = session(&client).await;
    assert_eq!(session.try_lock("l").await, Ok(None));
    assert_eq!(session.try_lock("l").await, Ok(Some(held(12))));
    let sent = node.requests();
    // Any copy of the leave, whenever it arrives, spares the key that was created at 12.
    for copy in &sent[2..=3] {
        assert_eq!(serde_json::from_slice::<Value>(&copy.body).unwrap(), leave(9));
    }
    // And each is known again as the write that it copies, as are those of the enters.
    let keys: Vec<_> = sent[1..].iter().map(|request| request.header("idempotency-key").unwrap()).collect();
    assert_eq!((keys.len(), keys[1]), (4, keys[2]));
    assert_eq!(keys.iter().collect::<HashSet<_>>().len(), 3, "{keys:?}");
}

#[tokio::test]
async fn an_election_carries_the_value_that_others_see() {
    let (node, client) = node([entered(9, &item("e/ab1", 9))]).await;
    let won = session(&client).await.elect("e", "me").await.unwrap();
    assert_eq!(won, Held { key: "e/ab1".into(), revision: 9 });
    let body: Value = serde_json::from_slice(&node.requests()[1].body).unwrap();
    assert_eq!(body["then"][0]["put"]["value"], "me");
}

#[tokio::test]
async fn an_observer_tells_each_leader_once() {
    let candidate = |key: &str, value: &str, revision: i64, version: i64| {
        json!({ "key": key, "value": value, "create_revision": revision, "mod_revision": revision + version - 1,
                "version": version })
    };
    let put = |item: Value| {
        let mut event = json!({ "type": "put" });
        event.as_object_mut().unwrap().extend(item.as_object().unwrap().clone());
        event
    };
    let delete = |key: &str| json!({ "type": "delete", "key": key, "mod_revision": 0 });
    let change = |revision: i64, events: Vec<Value>| {
        ("change", revision, json!({ "revision": revision, "events": events }))
    };
    let events = [
        ("created", 9, json!({ "revision": 9 })),
        change(10, vec![put(candidate("e/c", "three", 10, 1))]),
        change(11, vec![put(candidate("e/a", "one again", 3, 2))]),
        change(12, vec![delete("e/a")]),
        change(13, vec![delete("e/c"), delete("e/b")]),
        change(14, vec![put(candidate("e/d", "four", 14, 1))]),
    ];
    let candidates = [candidate("e/a", "one", 3, 1), candidate("e/b", "two", 7, 1)];
    let node = Scripted::steps([listed(9, &candidates), Step::events(&events, true)]).await;
    let client = Client::builder().endpoints([node.addr()]).build().unwrap();
    let mut observer = client.observe("e");
    let mut told = Vec::new();
    for _ in 0..5 {
        let leader = observer.next().await.unwrap();
        told.push(leader.map(|leader| String::from_utf8(leader.value.to_vec()).unwrap()));
    }
    let told: Vec<_> = told.iter().map(Option::as_deref).collect();
    assert_eq!(told, [Some("one"), Some("one again"), Some("two"), None, Some("four")]);
    let targets: Vec<_> = node.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(targets, ["/v1/kv?prefix=e%2F", "/v1/watch?prefix=e%2F&from_revision=10"]);
}

#[tokio::test]
async fn an_observer_goes_on_with_the_present_after_a_compaction() {
    let node = Scripted::steps([
        listed(9, &[item("e/a", 3)]),
        Step::error(410, "compacted"),
        listed(20, &[item("e/b", 15)]),
        Step::events(&[("created", 20, json!({ "revision": 20 }))], true),
    ])
    .await;
    let client = Client::builder().endpoints([node.addr()]).build().unwrap();
    let mut observer = client.observe("e");
    for key in ["e/a", "e/b"] {
        assert_eq!(observer.next().await.unwrap().unwrap().key, key);
    }
}
