//! `export` over several pages, to the output and into a file.

use kvorum_scripted::{Scripted, Step};
use serde_json::json;

use super::*;
use crate::testing::Captured;

fn page(items: &[(&str, Option<i64>)], cursor: Option<&str>) -> Step {
    let item = |(key, lease): &(&str, Option<i64>)| {
        let mut item = json!({ "key": key, "value_base64": "/w==", "create_revision": 2, "mod_revision": 3, "version": 2 });
        if let Some(lease) = lease {
            item["lease"] = (*lease).into();
        }
        item
    };
    let items: Vec<_> = items.iter().map(item).collect();
    let body = json!({ "revision": 5, "items": items, "more": cursor.is_some(), "cursor": cursor });
    Step::reply(200, body.to_string())
}

fn two_pages() -> [Step; 2] {
    [page(&[("a", None), ("b\n", Some(7))], Some("c1")), page(&[("c", None)], None)]
}

const LINES: &str = "{\"key\":\"a\",\"value_base64\":\"/w==\"}\n{\"key\":\"b\\n\",\"value_base64\":\"/w==\"}\n\
                     {\"key\":\"c\",\"value_base64\":\"/w==\"}\n";

#[tokio::test]
async fn each_key_is_a_line_and_leases_are_warned_of() {
    let node = Scripted::steps(two_pages()).await;
    let mut captured = Captured::default();
    assert_eq!(captured.run(&node, &["export", "--prefix", "p/"]).await, Exit::Done);
    assert_eq!(captured.out(), LINES);
    let said = "exported 3 keys at revision 5\nwarning: 1 of the keys have a lease, which is not exported\n";
    assert_eq!(captured.err(), said);
    assert_eq!(node.requests()[0].target, "/v1/kv?prefix=p%2F");
}

#[tokio::test]
async fn a_file_is_there_when_it_is_whole_and_not_before() {
    let path = std::env::temp_dir().join(format!("kvorum-export-{}", std::process::id()));
    let line = ["export", "--out", path.to_str().unwrap(), "--json"];
    let failing = Scripted::steps([two_pages()[0].clone(), Step::error(410, "compacted")]).await;
    let mut captured = Captured::default();
    assert_eq!(captured.run(&failing, &line).await, Exit::Failed);
    let mut unfinished = path.clone().into_os_string();
    unfinished.push(".unfinished");
    assert!(!path.exists() && !Path::new(&unfinished).exists());

    let node = Scripted::steps(two_pages()).await;
    let mut captured = Captured::default();
    assert_eq!(captured.run(&node, &line).await, Exit::Done);
    let written = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(written, LINES);
    assert_eq!(captured.out(), "{\"exported\":3,\"leased\":1,\"revision\":5}\n");
    assert!(!Path::new(&unfinished).exists());
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_named() {
    let node = Scripted::steps(two_pages()).await;
    let mut captured = Captured::default();
    assert_eq!(captured.run(&node, &["export", "--out", "/nowhere/at/all"]).await, Exit::Failed);
    assert!(captured.err().contains("cannot write /nowhere/at/all"), "{}", captured.err());
}

#[tokio::test]
async fn an_export_whose_reader_has_gone_does_not_seem_complete() {
    let node = Scripted::steps(two_pages()).await;
    let mut captured = Captured::default();
    let mut io = captured.io();
    let mut closed = crate::testing::ClosedPipe;
    io.out = &mut closed;
    let command = crate::testing::parse(&["export", "--endpoints", node.addr()]).unwrap();
    assert_eq!(crate::run_with(command, clap::Command::default, &mut io).await, Exit::BrokenPipe);
    assert_eq!((captured.err(), node.requests().len()), ("", 1));
}
