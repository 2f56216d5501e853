//! `lock` and `elect` against a scripted node that has one lock, with real commands.

use std::time::Instant;

use kvorum_client::scripted::{Request, Scripted, Step};
use serde_json::{Value, json};

use super::*;
use crate::testing::Captured;

fn item(key: &str, value: &str, revision: i64) -> Value {
    json!({ "key": key, "value": value, "create_revision": revision, "mod_revision": revision, "version": 1 })
}

/// A node whose lease 0xab1 lives `ttl` seconds and can be renewed as `alive` says;
/// the first in every queue is `first`.
async fn node(ttl: i64, first: &'static str, alive: bool) -> Scripted {
    let lease = move || Step::reply(200, json!({ "revision": 5, "id": 2737, "ttl": ttl }).to_string());
    Scripted::start(move |request: &Request| {
        let first = item(first, "", if first == "l/ab1" { 9 } else { 3 });
        match (request.method.as_str(), request.target.as_str()) {
            ("POST", "/v1/leases") => lease(),
            ("POST", "/v1/leases/2737/keep-alive") if alive => lease(),
            ("POST", "/v1/leases/2737/keep-alive") => Step::error(404, "lease_not_found"),
            ("DELETE", "/v1/leases/2737") => Step::reply(200, r#"{"revision":20,"revoked":2737}"#),
            ("POST", "/v1/txn") => {
                let results = json!([
                    { "put": { "revision": 9 } },
                    { "get": { "revision": 9, "items": [first], "count": 1, "more": false } },
                ]);
                let body = json!({ "revision": 9, "succeeded": true, "results": results });
                Step::reply(200, body.to_string())
            }
            ("GET", target) if target.starts_with("/v1/watch") => {
                Step::events(&[("created", 9, json!({ "revision": 9 }))], true)
            }
            ("GET", _) => {
                let items = [first, item("l/ab1", "", 9)];
                let body = json!({ "revision": 9, "items": items, "more": false, "cursor": null });
                Step::reply(200, body.to_string())
            }
            other => panic!("{other:?}"),
        }
    })
    .await
}

fn released(node: &Scripted) -> bool {
    node.requests().last().is_some_and(|request| request.method == "DELETE")
}

async fn run(node: &Scripted, line: &[&str]) -> (Exit, Captured) {
    // Options stand before the command, which takes all that follows.
    let split = line.iter().position(|word| *word == "--").unwrap_or(line.len());
    let (options, command) = line.split_at(split);
    let words: Vec<_> = options.iter().chain(&["--endpoints", node.addr()]).chain(command).copied().collect();
    let mut captured = Captured::default();
    let command = crate::testing::parse(&words).unwrap();
    let exit = crate::run_with(command, clap::Command::default, &mut captured.io()).await;
    (exit, captured)
}

#[tokio::test]
async fn the_command_runs_under_the_lock_and_its_exit_code_is_passed_on() {
    let node = node(30, "l/ab1", true).await;
    let script = r#"test "$KVORUM_LOCK_KEY $KVORUM_LOCK_REVISION $1" = "l/ab1 9 --ttl" && exit 77"#;
    let (exit, captured) = run(&node, &["lock", "l", "--", "sh", "-c", script, "sh", "--ttl"]).await;
    assert_eq!((exit, captured.err()), (Exit::Command(77), ""));
    assert!(released(&node));
    let (exit, _) = run(&node, &["lock", "l", "--", "true"]).await;
    assert_eq!(exit, Exit::Done);
    let (exit, _) = run(&node, &["lock", "l", "--", "sh", "-c", "kill -9 $$"]).await;
    assert_eq!(exit, Exit::Command(137));
}

#[tokio::test]
async fn a_command_that_cannot_be_run_releases_the_lock() {
    let node = node(30, "l/ab1", true).await;
    let (exit, captured) = run(&node, &["lock", "l", "--", "/nowhere/at/all"]).await;
    assert_eq!(exit, Exit::Failed);
    assert!(captured.err().contains("/nowhere/at/all") && released(&node), "{}", captured.err());
}

#[tokio::test]
async fn a_lost_lock_kills_the_command_and_says_so_by_the_exit_code() {
    let node = node(1, "l/ab1", false).await;
    let started = Instant::now();
    let (exit, captured) = run(&node, &["lock", "l", "--", "sh", "-c", "sleep 60; true"]).await;
    assert_eq!(exit, Exit::LeaseLost);
    assert!(captured.err().contains("has ended") && started.elapsed().as_secs() < 30, "{}", captured.err());
    assert_eq!(exit.code(), 6);
}

#[tokio::test]
async fn a_lock_that_is_taken_is_waited_for_no_longer_than_said() {
    let node = node(30, "l/1", true).await;
    for wait in ["0s", "50ms"] {
        let (exit, captured) = run(&node, &["lock", "l", "--wait", wait, "-o", "json", "--", "true"]).await;
        assert_eq!(exit, Exit::ConditionFailed, "{wait}");
        let error: Value = serde_json::from_str(captured.err()).unwrap();
        assert_eq!(error["error"]["code"], "lock_held", "{wait}");
        assert!(released(&node), "{wait}: it does not stay in the queue");
    }
}

#[tokio::test]
async fn what_is_held_is_printed_until_it_is_lost() {
    for (line, shown) in [
        (vec!["lock", "l"], "l/ab1\n"),
        (vec!["lock", "l", "--json"], "{\"key\":\"l/ab1\",\"lease\":2737,\"revision\":9}\n"),
        (vec!["elect", "l", "me"], "l/ab1\n"),
        (
            vec!["elect", "l", "me", "--json"],
            "{\"key\":\"l/ab1\",\"lease\":2737,\"revision\":9,\"value\":\"me\"}\n",
        ),
    ] {
        let node = node(1, "l/ab1", false).await;
        let (exit, captured) = run(&node, &line).await;
        assert_eq!((exit, captured.out()), (Exit::LeaseLost, shown), "{line:?}");
    }
}

#[tokio::test]
async fn observers_print_each_leader_on_a_line() {
    let events = [
        ("created", 9, json!({ "revision": 9 })),
        (
            "change",
            10,
            json!({ "revision": 10, "events": [{ "type": "delete", "key": "e/a", "mod_revision": 10 }] }),
        ),
        ("error", 0, json!({ "error": { "code": "invalid_request", "message": "end", "details": {} } })),
    ];
    let listed = json!({ "revision": 9, "items": [item("e/a", "one\n", 3)], "more": false, "cursor": null });
    let steps = [Step::reply(200, listed.to_string()), Step::events(&events, true)];
    let expected = [
        ("text", "e/a\tone\\n\n-\n"),
        ("json", "{\"leader\":{\"key\":\"e/a\",\"revision\":3,\"value\":\"one\\n\"}}\n{\"leader\":null}\n"),
    ];
    for (form, shown) in expected {
        let node = Scripted::steps(steps.clone()).await;
        let (exit, captured) = run(&node, &["elect", "e", "--observe", "-o", form]).await;
        assert_eq!((exit, captured.out()), (Exit::Failed, shown));
    }
}

#[tokio::test]
async fn a_reader_that_has_gone_does_not_keep_the_lock_held() {
    let node = node(30, "l/ab1", true).await;
    let mut captured = Captured::default();
    let mut io = captured.io();
    let mut closed = crate::testing::ClosedPipe;
    io.out = &mut closed;
    let command = crate::testing::parse(&["lock", "l", "--endpoints", node.addr()]).unwrap();
    assert_eq!(crate::run_with(command, clap::Command::default, &mut io).await, Exit::Done);
    assert!(released(&node));
}

#[test]
fn waiting_not_at_all_can_be_said() {
    assert_eq!(parse_wait("0s"), Ok(Duration::ZERO));
    assert_eq!(parse_wait("2s"), Ok(Duration::from_secs(2)));
    assert!(parse_wait("soon").is_err());
}
