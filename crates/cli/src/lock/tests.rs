//! `lock` and `elect` against a scripted node that has one lock, with real commands.

use std::ffi::OsStr;

use kvorum_scripted::{Request, Scripted, Step};
use serde_json::{Value, json};

use super::*;
use crate::signals::StopSignal;
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

/// Whether a process has ended, though perhaps nobody has waited for it yet.
fn ended(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap_or_default();
    !status.contains("State:") || status.contains("State:\tZ")
}

#[tokio::test]
async fn a_lost_lock_kills_the_command_with_its_children_and_says_so_by_the_exit_code() {
    let node = node(1, "l/ab1", false).await;
    let path = std::env::temp_dir().join(format!("kvorum-lock-{}", std::process::id()));
    let script = r#"sleep 600 & echo $! > "$1"; wait"#;
    let command = ["lock", "l", "--", "sh", "-c", script, "sh", path.to_str().unwrap()];
    let (exit, captured) = run(&node, &command).await;
    let child = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!((exit, exit.code()), (Exit::LeaseLost, 6));
    assert!(captured.err().contains("has ended"), "{}", captured.err());
    while !ended(&child) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// These signals, each as soon as the one before it has been taken.
fn signals(signals: &[StopSignal]) -> StopSignals {
    let (tell, told) = tokio::sync::mpsc::channel(signals.len());
    for signal in signals {
        tell.try_send(*signal).unwrap();
    }
    StopSignals::scripted(told)
}

async fn holding(node: &Scripted) -> (Session, Held) {
    let client = Client::builder().endpoints([node.addr()]).build().unwrap();
    let session = client.session(Duration::from_secs(30)).await.unwrap();
    let held = session.lock("l").await.unwrap();
    (session, held)
}

#[tokio::test]
async fn signals_reach_the_command_unless_the_terminal_has_sent_them_already() {
    use StopSignal::{Hangup, Interrupt, Quit, Terminate};
    use rustix::process::Signal;
    for (signal, on_terminal, elsewhere) in [
        (Interrupt, None, Signal::INT),
        (Quit, None, Signal::QUIT),
        (Terminate, Some(Signal::TERM), Signal::TERM),
        (Hangup, Some(Signal::HUP), Signal::HUP),
    ] {
        let passed = [false, true].map(|own_group| child::passed_to(own_group, signal));
        assert_eq!(passed, [on_terminal, Some(elsewhere)]);
    }
    let node = node(30, "l/ab1", true).await;
    let (session, held) = holding(&node).await;
    let run = async |own_group, signal, script: &str| {
        let arguments = ["-c".into(), script.into()];
        let mut stop = signals(&[signal]);
        let outcome = child::run(OsStr::new("sh"), &arguments, &session, &held, own_group, &mut stop).await;
        // It was taken, whatever became of the command in the same moment.
        assert!(stop.next().now_or_never().is_none(), "{signal:?}");
        outcome.err().map(|failure| failure.exit().code())
    };
    for (own_group, signal, script, code) in [
        (true, Terminate, "sleep 600; exit 9", 143),
        (false, Terminate, "exec sleep 600", 143),
        (false, Interrupt, "exit 9", 9),
        (false, Quit, "exit 9", 9),
    ] {
        assert_eq!(run(own_group, signal, script).await, Some(code), "{own_group} {signal:?}");
    }
}

#[tokio::test]
async fn signals_from_before_the_release_do_not_cut_it_short() {
    // Which of two things that are ready is taken first must not be left to chance.
    for _ in 0..10 {
        let node = node(30, "l/ab1", true).await;
        let (session, _) = holding(&node).await;
        let mut captured = Captured::default();
        let mut stop = signals(&[StopSignal::Interrupt, StopSignal::Terminate]);
        release(session, &mut stop, &mut captured.io()).await;
        assert!(released(&node) && captured.err().is_empty(), "{}", captured.err());
    }
}

#[tokio::test]
async fn a_lease_that_is_lost_in_the_queue_is_followed_by_another() {
    let mut grants = 0;
    let node = Scripted::start(move |request: &Request| {
        let (revision, first) = if grants < 2 { (9, "l/1") } else { (15, "l/ab1") };
        match (request.method.as_str(), request.target.as_str()) {
            ("POST", "/v1/leases") => {
                grants += 1;
                Step::reply(201, r#"{"revision":5,"id":2737,"ttl":1}"#)
            }
            ("POST", "/v1/leases/2737/keep-alive") if grants < 2 => Step::error(404, "lease_not_found"),
            ("POST", "/v1/leases/2737/keep-alive") => Step::reply(200, r#"{"revision":5,"id":2737,"ttl":1}"#),
            ("DELETE", _) => Step::reply(200, r#"{"revision":20,"revoked":2737}"#),
            ("POST", "/v1/txn") => {
                let results = json!([
                    { "put": { "revision": revision } },
                    { "get": { "revision": revision, "items": [item(first, "", 3)], "count": 1 } },
                ]);
                let body = json!({ "revision": revision, "succeeded": true, "results": results });
                Step::reply(200, body.to_string())
            }
            ("GET", target) if target.starts_with("/v1/watch") => {
                Step::events(&[("created", 9, json!({ "revision": 9 }))], true)
            }
            _ => {
                let items = [item("l/1", "", 3), item("l/ab1", "", 9)];
                Step::reply(200, json!({ "revision": 9, "items": items, "more": false }).to_string())
            }
        }
    })
    .await;
    let script = r#"exit "$KVORUM_LOCK_REVISION""#;
    let (exit, captured) = run(&node, &["lock", "l", "--wait", "1m", "--", "sh", "-c", script]).await;
    assert_eq!((exit, captured.err()), (Exit::Command(15), ""));
}

#[tokio::test]
async fn a_cluster_that_does_not_answer_in_time_has_not_said_that_the_lock_is_held() {
    for silent in ["/v1/leases", "/v1/txn"] {
        let node = Scripted::start(move |request: &Request| match request.target.as_str() {
            target if target == silent => Step::Hang,
            "/v1/leases" => Step::reply(201, r#"{"revision":5,"id":2737,"ttl":30}"#),
            _ => Step::reply(200, r#"{"revision":20,"revoked":2737}"#),
        })
        .await;
        let (exit, captured) =
            run(&node, &["lock", "l", "--wait", "300ms", "-o", "json", "--", "true"]).await;
        let error: Value = serde_json::from_str(captured.err()).unwrap();
        assert_eq!((exit, &error["error"]["code"]), (Exit::Unavailable, &json!("timeout")), "{silent}");
    }
}

#[tokio::test]
async fn a_lock_that_is_taken_is_waited_for_no_longer_than_said() {
    let node = node(30, "l/1", true).await;
    for wait in ["0s", "1s"] {
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
    assert_eq!(crate::run_with(command, clap::Command::default, &mut io).await, Exit::BrokenPipe);
    assert!(released(&node));
}

#[test]
fn waiting_not_at_all_can_be_said() {
    assert_eq!(parse_wait("0s"), Ok(Duration::ZERO));
    assert_eq!(parse_wait("2s"), Ok(Duration::from_secs(2)));
    assert!(parse_wait("soon").is_err());
}
