//! `txn` in words and as a document, and what it prints.

use std::io::Cursor;

use kvorum_scripted::{Scripted, Step};
use serde_json::{Value, json};

use crate::failure::Exit;
use crate::testing::{Captured, parse};

fn answer(succeeded: bool) -> Step {
    let item = json!({ "key": "k\t", "value": "1", "create_revision": 2, "mod_revision": 3, "version": 2 });
    let body = json!({ "revision": 9, "succeeded": succeeded, "results": [
        { "put": { "revision": 9, "previous": item } },
        { "delete": { "revision": 9, "deleted": 2, "previous": [] } },
        { "get": { "revision": 9, "items": [item], "count": 5, "more": true } },
        { "txn": { "succeeded": false, "results": [{ "put": { "revision": 9, "previous": null } }] } },
    ]});
    Step::reply(200, body.to_string())
}

async fn run(step: Step, input: &str, line: &[&str]) -> (Exit, Captured, Scripted) {
    let node = Scripted::steps([step]).await;
    let input = Cursor::new(input.as_bytes().to_vec());
    let mut captured = Captured { input, ..Captured::default() };
    let exit = captured.run(&node, line).await;
    (exit, captured, node)
}

fn body(node: &Scripted) -> Value {
    serde_json::from_slice(&node.requests()[0].body).unwrap()
}

#[tokio::test]
async fn words_of_the_command_line_become_a_transaction() {
    let line = [
        "txn",
        "--if",
        "a b",
        "exists",
        "--if",
        "b",
        "absent",
        "--if",
        "c",
        "value",
        "!=",
        "x y",
        "--if",
        "d",
        "mod_revision",
        "gt",
        "41",
        "--then",
        "put",
        "n",
        "-5",
        "--then",
        "del",
        "a b",
        "--else",
        "get",
        "c",
    ];
    let (exit, _, node) = run(answer(true), "", &line).await;
    let expected = json!({
        "compare": [
            { "key": "a b", "target": "create_revision", "relation": ">", "number": 0 },
            { "key": "b", "target": "create_revision", "relation": "=", "number": 0 },
            { "key": "c", "target": "value", "relation": "!=", "value": "x y" },
            { "key": "d", "target": "mod_revision", "relation": ">", "number": 41 },
        ],
        "then": [{ "put": { "key": "n", "value": "-5" } }, { "delete": { "key": "a b" } }],
        "else": [{ "get": { "key": "c" } }],
    });
    assert_eq!((exit, body(&node)), (Exit::Done, expected));
}

#[tokio::test]
async fn a_document_goes_to_the_cluster_as_it_is() {
    // A field that comes twice is for the cluster to refuse.
    let document =
        "{ \"then\": [{\"put\": {\"key\":\"a\", \"key\":\"b\", \"value\":\"1\", \"later\":true}}]}\n";
    let (exit, _, node) = run(answer(true), document, &["txn", "-", "--idempotency-key", "t"]).await;
    assert_eq!((exit, node.requests()[0].body.as_slice()), (Exit::Done, document.as_bytes()));
    assert_eq!(node.requests()[0].header("idempotency-key"), Some("t"));
    let (exit, captured, node) = run(answer(true), "{", &["txn", "-"]).await;
    assert_eq!(exit, Exit::Usage);
    assert!(captured.err().contains("no JSON document") && node.requests().is_empty(), "{}", captured.err());
}

#[tokio::test]
async fn text_has_the_outcome_first_and_a_line_for_each_operation() {
    let (exit, captured, _) = run(answer(true), "", &["txn", "--then", "get", "k"]).await;
    let expected =
        "succeeded (revision 9)\nput\nk\\t\t1\ndeleted 2\ngot 1 of 5\nk\\t\t1\nnot succeeded\nput\n";
    assert_eq!((exit, captured.out()), (Exit::Done, expected));
}

#[tokio::test]
async fn what_does_not_hold_is_told_by_the_exit_code_too() {
    let (exit, captured, _) = run(answer(false), "", &["txn", "--if", "k", "exists"]).await;
    assert_eq!((exit, captured.err()), (Exit::ConditionFailed, ""));
    assert!(captured.out().starts_with("not succeeded (revision 9)\n"), "{}", captured.out());
}

#[tokio::test]
async fn json_is_the_answer_of_the_api() {
    let (_, captured, _) = run(answer(true), "", &["txn", "--then", "get", "k", "-o", "json"]).await;
    let Step::Reply { body, .. } = answer(true) else { panic!("a reply") };
    assert_eq!(captured.out(), String::from_utf8(body).unwrap() + "\n");
}

#[test]
fn clauses_that_mean_nothing_are_refused_with_how_to_write_them() {
    for (line, expected) in [
        ("txn --if k there", "--if KEY exists"),
        ("txn --if k size = 3", "--if KEY exists"),
        ("txn --if k version = many", "a number"),
        ("txn --if k version ~ 3", "no relation"),
        ("txn --then set k v", "put KEY VALUE"),
        ("txn --then put k", "put KEY VALUE"),
        ("txn --else del k v", "put KEY VALUE"),
        ("txn --if k", "required"),
        ("txn", "required"),
        ("txn f --then get k", "cannot be used with"),
    ] {
        let words: Vec<_> = line.split(' ').collect();
        let error = parse(&words).expect_err(line);
        assert!(error.to_string().contains(expected) && error.exit_code() == 2, "{line}: {error}");
    }
}
