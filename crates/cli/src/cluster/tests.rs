//! Management commands against a scripted node.

use kvorum_scripted::{Scripted, Step};
use serde_json::Value;

use super::parse_voter;
use crate::failure::Exit;
use crate::testing::{Captured, parse};

async fn run(steps: Vec<Step>, line: &[&str]) -> (Exit, Captured, Vec<String>) {
    let node = Scripted::steps(steps).await;
    let mut captured = Captured::default();
    let exit = captured.run(&node, line).await;
    let sent = node
        .requests()
        .into_iter()
        .map(|r| format!("{} {} {}", r.method, r.target, String::from_utf8(r.body).unwrap()))
        .collect();
    (exit, captured, sent)
}

#[tokio::test]
async fn commands_send_one_call_each_and_confirm_it() {
    let cases: [(&[&str], &str, &str, &str); 6] = [
        (
            &["member", "promote", "4"],
            r#"{"id":4,"role":"voter"}"#,
            "POST /v1/members/4/promote ",
            "node 4 is a voter\n",
        ),
        (
            &["member", "remove", "4", "--force"],
            r#"{"removed":4}"#,
            "DELETE /v1/members/4?force=true ",
            "node 4 is no member any more\n",
        ),
        (&["leader", "transfer"], r#"{"leader_id":2}"#, "POST /v1/leader/transfer {}", "node 2 leads\n"),
        (
            &["leader", "transfer", "2", "-o", "json"],
            r#"{"leader_id":2}"#,
            r#"POST /v1/leader/transfer {"to":2}"#,
            "{\"leader_id\":2}\n",
        ),
        (&["init"], "\"Ok\"", "POST /init []", "a cluster of 1 voter is formed\n"),
        (
            &["init", "1=a:1", "2=b:1"],
            "\"Ok\"",
            r#"POST /init [[1,"a:1"],[2,"b:1"]]"#,
            "a cluster of 2 voters is formed\n",
        ),
    ];
    for (line, answer, call, shown) in cases {
        let (exit, captured, sent) = run(vec![Step::reply(200, answer)], line).await;
        assert_eq!((exit, captured.out(), sent), (Exit::Done, shown, vec![call.to_owned()]), "{line:?}");
    }
}

#[tokio::test]
async fn add_waits_on_while_the_learner_catches_up() {
    let behind = Step::error(504, "timeout");
    let steps = vec![behind, Step::reply(200, r#"{"id":4,"role":"learner"}"#)];
    let (exit, captured, sent) = run(steps, &["member", "add", "4", "d:1", "-o", "json"]).await;
    assert_eq!((exit, sent.len()), (Exit::Done, 2));
    assert_eq!(captured.out(), "{\"id\":4,\"role\":\"learner\"}\n");
    assert_eq!(captured.err(), "", "no progress where there is no terminal");
}

#[tokio::test]
async fn add_ends_at_its_time_limit_as_timed_out() {
    let line = ["member", "add", "4", "d:1", "--timeout", "300ms"];
    let (exit, captured, _) = run(vec![Step::error(504, "timeout")], &line).await;
    assert_eq!(exit, Exit::Unavailable);
    assert!(captured.err().contains("--timeout"), "{}", captured.err());
}

#[tokio::test]
async fn a_missing_secret_is_explained() {
    let (exit, captured, _) = run(vec![Step::error(401, "unauthorized")], &["member", "promote", "4"]).await;
    assert_eq!(exit, Exit::Failed);
    assert!(captured.err().contains("KVORUM_CLUSTER_SECRET"), "{}", captured.err());
}

#[tokio::test]
async fn snapshot_lists_what_each_endpoint_built() {
    let body = r#"{"snapshot_id":"s-1","log_id":{"term":1,"node_id":1,"index":42}}"#;
    let (_, captured, sent) = run(vec![Step::reply(200, body)], &["snapshot"]).await;
    let row: Vec<_> = captured.out().lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[1..], ["42", "s-1"]);
    assert_eq!(sent, ["POST /v1/snapshot "]);
    let (_, captured, _) = run(vec![Step::reply(200, body)], &["snapshot", "-o", "json"]).await;
    let shown: Value = serde_json::from_str(captured.out()).unwrap();
    assert_eq!(shown["snapshots"][0]["log_id"]["index"], 42);
}

#[tokio::test]
async fn snapshot_tells_each_endpoint_that_failed_and_exits_by_the_first() {
    let refusing = Scripted::steps([Step::error(401, "unauthorized")]).await;
    let built = Scripted::steps([Step::reply(200, r#"{"snapshot_id":"s-1","log_id":null}"#)]).await;
    let silent = Scripted::steps([Step::error(504, "outcome_unknown")]).await;
    let endpoints = [&refusing, &built, &silent].map(Scripted::addr).join(",");
    let failed = [(&refusing, "unauthorized"), (&silent, "outcome_unknown")];

    let mut captured = Captured::default();
    let command = parse(&["snapshot", "--endpoints", &endpoints]).unwrap();
    assert_eq!(crate::run_with(command, clap::Command::default, &mut captured.io()).await, Exit::Failed);
    assert_eq!(captured.out().lines().count(), 2, "{}", captured.out());
    let told: Vec<_> = captured.err().lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(told, failed.map(|(node, code)| format!("error: {}: {code}", node.addr())));

    let mut captured = Captured::default();
    let command = parse(&["snapshot", "--endpoints", &endpoints, "--json"]).unwrap();
    assert_eq!(crate::run_with(command, clap::Command::default, &mut captured.io()).await, Exit::Failed);
    let told: Vec<Value> = captured.err().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = told
        .iter()
        .map(|told| (told["error"]["details"]["endpoint"].as_str(), told["error"]["code"].as_str()))
        .collect();
    assert_eq!(told, failed.map(|(node, code)| (Some(node.addr()), Some(code))));
}

#[test]
fn voters_are_ids_with_addresses() {
    assert_eq!(parse_voter("1=a:1"), Ok((1, "a:1".to_owned())));
    for text in ["1", "a:1", "x=a:1", "1=a", "=a:1"] {
        assert!(parse_voter(text).is_err(), "{text}");
    }
}
