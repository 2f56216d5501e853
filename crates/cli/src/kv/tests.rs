//! `put`, `get` and `del` as a user sees them, against a scripted node.

use std::io::Cursor;

use kvorum_scripted::{Scripted, Step};
use serde_json::json;

use crate::failure::Exit;
use crate::testing::Captured;

fn found(value: &[u8]) -> Step {
    Step::reply(200, value)
        .with("etag", "\"3\"")
        .with("x-kvorum-revision", "9")
        .with("x-kvorum-create-revision", "2")
        .with("x-kvorum-version", "2")
}

fn written() -> Step {
    Step::reply(201, r#"{"revision":7,"created":true,"version":1}"#)
}

async fn run(step: Step, line: &[&str]) -> (Exit, Captured, Scripted) {
    let node = Scripted::steps([step]).await;
    let mut captured = Captured::default();
    let exit = captured.run(&node, line).await;
    (exit, captured, node)
}

#[tokio::test]
async fn get_prints_the_raw_value_and_nothing_more_into_a_pipe() {
    let (exit, captured, _) = run(found(b"a\xff\n"), &["get", "k"]).await;
    assert_eq!((exit, captured.out.as_slice()), (Exit::Done, b"a\xff\n".as_slice()));
}

#[tokio::test]
async fn get_ends_the_line_on_a_terminal() {
    let node = Scripted::steps([found(b"v")]).await;
    let mut captured = Captured { out_is_terminal: true, ..Captured::default() };
    captured.run(&node, &["get", "k"]).await;
    assert_eq!(captured.out(), "v\n");
}

#[tokio::test]
async fn get_as_json_tells_everything() {
    let (_, captured, _) = run(found(&[0xff]), &["get", "k", "-o", "json"]).await;
    let shown: serde_json::Value = serde_json::from_str(captured.out()).unwrap();
    let expected = json!({
        "key": "k", "value_base64": "/w==", "create_revision": 2, "mod_revision": 3, "version": 2, "revision": 9
    });
    assert_eq!(shown, expected);
}

#[tokio::test]
async fn get_writes_into_a_file() {
    let path = std::env::temp_dir().join(format!("kvorum-get-{}", std::process::id()));
    let (exit, captured, _) = run(found(b"v"), &["get", "k", "--write-to", path.to_str().unwrap()]).await;
    let value = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!((exit, captured.out(), value.as_slice()), (Exit::Done, "", b"v".as_slice()));
}

#[tokio::test]
async fn get_of_an_absent_key_is_not_found() {
    let (exit, captured, _) = run(Step::error(404, "not_found"), &["get", "k\t", "--revision", "4"]).await;
    assert_eq!(exit, Exit::NotFound);
    assert_eq!(captured.err(), "error: key \"k\\t\" does not exist at revision 4\n");
    assert_eq!(captured.out(), "");
}

#[tokio::test]
async fn put_takes_its_value_from_the_argument_a_file_or_standard_input() {
    let path = std::env::temp_dir().join(format!("kvorum-put-{}", std::process::id()));
    std::fs::write(&path, "from a file").unwrap();
    let file = path.to_str().unwrap();
    let cases: [(&[&str], &str); 4] = [
        (&["put", "k", "v"], "v"),
        (&["put", "k", "--file", file], "from a file"),
        (&["put", "k", "-"], "from input"),
        (&["put", "k", "--file", "-"], "from input"),
    ];
    for (line, value) in cases {
        let node = Scripted::steps([written()]).await;
        let mut captured = Captured { input: Cursor::new(b"from input".to_vec()), ..Captured::default() };
        assert_eq!(captured.run(&node, line).await, Exit::Done, "{line:?}");
        assert_eq!(captured.out(), "revision 7 (created)\n");
        assert_eq!(node.requests()[0].body, value.as_bytes(), "{line:?}");
    }
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn put_from_a_missing_file_sends_nothing() {
    let (exit, captured, node) = run(written(), &["put", "k", "--file", "/nowhere/at/all"]).await;
    assert_eq!(exit, Exit::Failed);
    assert!(captured.err().contains("/nowhere/at/all"), "{}", captured.err());
    assert!(node.requests().is_empty());
}

#[tokio::test]
async fn put_sends_its_condition_and_reports_that_it_is_not_met() {
    let body =
        r#"{"error":{"code":"condition_failed","message":"m","details":{"mod_revision":4,"revision":9}}}"#;
    let line = ["put", "k", "v", "--if-revision", "3", "-o", "json"];
    let (exit, captured, node) = run(Step::reply(412, body), &line).await;
    assert_eq!(exit, Exit::ConditionFailed);
    assert_eq!(node.requests()[0].header("if-match"), Some("\"3\""));
    let error: serde_json::Value = serde_json::from_str(captured.err()).unwrap();
    assert_eq!(error["error"]["details"]["mod_revision"], 4);
    assert_eq!(captured.out(), "");
}

#[tokio::test]
async fn put_whose_outcome_is_unknown_says_so() {
    let (exit, captured, _) = run(Step::Close, &["put", "k", "v"]).await;
    assert_eq!(exit, Exit::Unavailable);
    assert!(captured.err().contains("the outcome is unknown"), "{}", captured.err());
}

#[tokio::test]
async fn del_of_an_absent_key_is_done_and_counts_nothing() {
    let answer = || Step::reply(200, r#"{"revision":8,"deleted":0}"#);
    let (exit, captured, node) = run(answer(), &["del", "k", "--idempotency-key", "t"]).await;
    assert_eq!((exit, captured.out()), (Exit::Done, "deleted 0 (revision 8)\n"));
    assert_eq!(node.requests()[0].header("idempotency-key"), Some("t"));
    let (_, captured, _) = run(answer(), &["del", "k", "-o", "json"]).await;
    let shown: serde_json::Value = serde_json::from_str(captured.out()).unwrap();
    assert_eq!(shown, json!({ "key": "k", "revision": 8, "deleted": 0 }));
}
