//! `export` over several pages, to the output and into a file.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kvorum_scripted::{Request, Scripted, Step};
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

/// An empty folder of a test's own.
fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("kvorum-export-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir(&path).unwrap();
    path
}

/// The names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

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
    let folder = folder("whole");
    let path = folder.join("f");
    let line = ["export", "--out", path.to_str().unwrap(), "--json"];
    let failing = Scripted::steps([two_pages()[0].clone(), Step::error(410, "compacted")]).await;
    let mut captured = Captured::default();
    assert_eq!(captured.run(&failing, &line).await, Exit::Failed);
    assert!(names(&folder).is_empty());

    let node = Scripted::steps(two_pages()).await;
    let mut captured = Captured::default();
    assert_eq!(captured.run(&node, &line).await, Exit::Done);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), LINES);
    assert_eq!(captured.out(), "{\"exported\":3,\"leased\":1,\"revision\":5}\n");
    assert_eq!(names(&folder), ["f"]);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn exports_that_overlap_do_not_write_into_each_others_file() {
    let folder = folder("overlap");
    let path = folder.join("f");
    let line = ["export", "--out", path.to_str().unwrap()];
    let overtaken = Arc::new(AtomicBool::new(false));
    let may_end = Arc::clone(&overtaken);
    let [first_page, last_page] = two_pages();
    let slow = Scripted::start(move |request: &Request| {
        if !request.target.contains("cursor=") {
            first_page.clone()
        } else if may_end.load(Ordering::Relaxed) {
            last_page.clone()
        } else {
            Step::error(503, "unavailable")
        }
    })
    .await;
    let quick = Scripted::steps([page(&[("z", None)], None)]).await;
    let (mut first, mut second) = (Captured::default(), Captured::default());
    let overtaking = async {
        while slow.requests().len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let exit = second.run(&quick, &line).await;
        let written = std::fs::read_to_string(&path).unwrap();
        overtaken.store(true, Ordering::Relaxed);
        (exit, written)
    };
    let (slow_exit, (quick_exit, quick_file)) = tokio::join!(first.run(&slow, &line), overtaking);
    assert_eq!((slow_exit, quick_exit), (Exit::Done, Exit::Done));
    assert_eq!(quick_file, "{\"key\":\"z\",\"value_base64\":\"/w==\"}\n");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), LINES);
    assert_eq!(names(&folder), ["f"]);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn what_a_killed_export_left_behind_is_in_nobodys_way() {
    let folder = folder("leftover");
    let path = folder.join("f");
    let leftover = format!("f.unfinished-{}", std::process::id());
    std::fs::write(folder.join(&leftover), "left").unwrap();
    let node = Scripted::steps(two_pages()).await;
    let line = ["export", "--out", path.to_str().unwrap()];
    assert_eq!(Captured::default().run(&node, &line).await, Exit::Done);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), LINES);
    assert_eq!(std::fs::read_to_string(folder.join(&leftover)).unwrap(), "left");
    assert_eq!(names(&folder), ["f", leftover.as_str()]);
    std::fs::remove_dir_all(&folder).unwrap();
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
