//! `scan` over several pages in each form.

use kvorum_scripted::{Scripted, Step};
use serde_json::json;

use crate::failure::Exit;
use crate::testing::Captured;

fn page(pairs: &[(&str, &str)], cursor: Option<&str>) -> Step {
    let items: Vec<_> = pairs
        .iter()
        .map(|(key, value)| json!({"key":key,"value":value,"create_revision":2,"mod_revision":3,"version":2}))
        .collect();
    let body = json!({"revision":5,"items":items,"more":cursor.is_some(),"cursor":cursor});
    Step::reply(200, body.to_string())
}

async fn run(steps: Vec<Step>, line: &[&str]) -> (Exit, Captured, Vec<String>) {
    let node = Scripted::steps(steps).await;
    let mut captured = Captured::default();
    let exit = captured.run(&node, line).await;
    let targets = node.requests().into_iter().map(|request| request.target).collect();
    (exit, captured, targets)
}

fn two_pages() -> Vec<Step> {
    vec![page(&[("a", "1"), ("b\t", "2\n3")], Some("c1")), page(&[("c", "4")], None)]
}

#[tokio::test]
async fn text_has_one_key_a_line_over_all_pages() {
    let (exit, captured, targets) = run(two_pages(), &["scan", "p/"]).await;
    assert_eq!((exit, captured.out()), (Exit::Done, "a\t1\nb\\t\t2\\n3\nc\t4\n"));
    assert_eq!(targets, ["/v1/kv?prefix=p%2F", "/v1/kv?prefix=p%2F&cursor=c1"]);
}

#[tokio::test]
async fn json_is_one_document_over_all_pages() {
    let (_, captured, _) = run(two_pages(), &["scan", "-o", "json"]).await;
    let shown: serde_json::Value = serde_json::from_str(captured.out()).unwrap();
    assert_eq!((&shown["revision"], &shown["more"]), (&json!(5), &json!(false)));
    let keys: Vec<_> = shown["items"].as_array().unwrap().iter().map(|item| &item["key"]).collect();
    assert_eq!(keys, [&json!("a"), &json!("b\t"), &json!("c")]);
}

#[tokio::test]
async fn json_of_nothing_is_a_document_too() {
    let (exit, captured, _) = run(vec![page(&[], None)], &["scan", "-o", "json"]).await;
    assert_eq!((exit, captured.out()), (Exit::Done, "{\"revision\":5,\"items\":[],\"more\":false}\n"));
}

#[tokio::test]
async fn a_limit_ends_the_listing_and_json_says_that_more_is_left() {
    let (_, captured, targets) = run(two_pages(), &["scan", "--limit", "2", "-o", "json"]).await;
    let shown: serde_json::Value = serde_json::from_str(captured.out()).unwrap();
    assert_eq!(shown["more"], true);
    assert_eq!(targets, ["/v1/kv?limit=2"]);
}

#[tokio::test]
async fn tables_hold_all_pages() {
    let (_, captured, _) = run(two_pages(), &["scan", "--keys-only", "-o", "table"]).await;
    assert!(captured.out().starts_with('┌') && captured.out().contains(" c "), "{}", captured.out());
    assert!(!captured.out().contains("VALUE"));
}

#[tokio::test]
async fn count_prints_the_number() {
    let body = r#"{"revision":5,"count":12}"#;
    let line = ["scan", "--start", "a", "--end", "b", "--count"];
    let (_, captured, targets) = run(vec![Step::reply(200, body)], &line).await;
    assert_eq!(captured.out(), "12\n");
    assert_eq!(targets, ["/v1/kv?start=a&end=b&count_only=true"]);
}

#[tokio::test]
async fn a_failure_before_the_first_page_prints_no_half_document() {
    let (exit, captured, _) = run(vec![Step::error(410, "compacted")], &["scan", "-o", "json"]).await;
    assert_eq!((exit, captured.out()), (Exit::Failed, ""));
}
