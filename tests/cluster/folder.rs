//! Data folders that a node must not use.

use std::fs;
use std::process::{Command, Output};

use crate::support::cluster::Builder;
use crate::support::node::{BINARY, free_addr};

/// Starts a node that is expected to refuse its folder at once.
fn serve(id: u64, data_dir: &std::path::Path) -> Output {
    let mut command = Command::new(BINARY);
    command.args(["serve", "--id", &id.to_string(), "--http-addr", &free_addr(), "--data-dir"]);
    command.arg(data_dir).output().unwrap()
}

#[track_caller]
fn assert_refused(output: &Output, why: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(why), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_in_use_or_of_another_node_is_refused_and_unharmed() {
    let mut cluster = Builder::new().form(1).await;
    cluster.put(1, "k", "v").await.ok();
    let data_dir = cluster.nodes[&1].data_dir();
    assert_refused(&serve(1, &data_dir), "in use by a running process");
    cluster.node(1).terminate().await;
    assert_refused(&serve(2, &data_dir), "--id 1");
    cluster.node(1).start().await;
    assert_eq!(cluster.get(1, "k", "linearizable").await.as_deref(), Some("v"));
}

#[test]
fn a_folder_of_something_else_is_refused_and_unharmed() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("thesis.tex"), "precious").unwrap();
    assert_refused(&serve(1, folder.path()), "neither empty nor a Kvorum data folder");
    let names: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["thesis.tex"]);
}

#[test]
fn a_folder_of_a_newer_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("IDENTITY"), r#"{"format":99,"node_id":1}"#).unwrap();
    assert_refused(&serve(1, folder.path()), "format 99");
}
