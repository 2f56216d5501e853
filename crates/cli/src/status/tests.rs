//! The table of nodes: a healthy cluster, one with a node down, and none at all.

use kvorum_scripted::{Scripted, Step};
use serde_json::{Value, json};

use crate::failure::Exit;
use crate::testing::Captured;

fn status(id: u64, role: &str) -> Value {
    json!({
        "node_id": id, "cluster_id": "00000000000000ab", "version": "0.1.0", "addr": "h:1", "http_addr": "h:1",
        "role": role, "term": 3, "leader_id": null, "last_log_index": 9, "committed_index": 9,
        "applied_index": 9, "snapshot_index": null, "purged_index": null, "revision": 7,
        "compacted_revision": 0, "state_hash": "00000000000000cd", "data_bytes": 1_572_864,
        "resident_bytes": 1, "uptime_seconds": 5
    })
}

fn members(leader: Option<u64>) -> Value {
    json!({ "cluster_id": "00000000000000ab", "leader_id": leader, "members": [
        { "id": 1, "addr": "a:1", "role": "voter", "leader": leader == Some(1), "reachable": true,
          "matched_index": 9, "lag": 0, "status": status(1, "leader"), "error": null },
        { "id": 2, "addr": "b:1", "role": "voter", "leader": false, "reachable": false,
          "matched_index": 4, "lag": 5, "status": null, "error": "connection refused" },
    ]})
}

async fn run(members: Step, own: Step, line: &[&str]) -> (Exit, Captured) {
    let node = Scripted::start(
        move |request| {
            if request.target == "/v1/members" { members.clone() } else { own.clone() }
        },
    )
    .await;
    let mut captured = Captured::default();
    let exit = captured.run(&node, line).await;
    (exit, captured)
}

fn reply(body: &Value) -> Step {
    Step::reply(200, body.to_string())
}

#[tokio::test]
async fn nodes_are_rows_with_the_leader_marked_and_the_unreachable_explained() {
    let (exit, captured) = run(reply(&members(Some(1))), Step::Close, &["status"]).await;
    assert_eq!(exit, Exit::Done);
    let lines: Vec<_> =
        captured.out().lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!(lines[1][..8], ["1", "a:1", "leader", "*", "3", "9", "0", "1.5"]);
    assert_eq!(lines[2][..6], ["2", "b:1", "voter", "-", "-", "5"]);
    assert_eq!(lines[3].join(" "), "node 2 at b:1 is unreachable: connection refused");
}

#[tokio::test]
async fn json_has_a_stable_shape() {
    let (exit, captured) = run(reply(&members(Some(1))), Step::Close, &["status", "-o", "json"]).await;
    assert_eq!(exit, Exit::Done);
    let shown: Value = serde_json::from_str(captured.out()).unwrap();
    assert_eq!((&shown["leader_id"], &shown["cluster_id"]), (&json!(1), &json!("00000000000000ab")));
    let expected = json!({
        "id": 1, "addr": "a:1", "role": "leader", "leader": true, "reachable": true, "term": 3,
        "applied_index": 9, "lag": 0, "data_bytes": 1_572_864, "revision": 7,
        "state_hash": "00000000000000cd", "version": "0.1.0", "error": null
    });
    assert_eq!(shown["nodes"][0], expected);
    assert_eq!(shown["nodes"][1]["error"], "connection refused");
}

#[tokio::test]
async fn a_cluster_without_a_leader_is_shown_and_unavailable() {
    let (exit, captured) = run(reply(&members(None)), Step::Close, &["status"]).await;
    assert_eq!(exit, Exit::Unavailable);
    assert!(captured.out().contains("a:1"));
    assert!(captured.err().contains("no leader"), "{}", captured.err());
}

#[tokio::test]
async fn a_fresh_node_is_shown_by_itself() {
    let none = json!({ "cluster_id": null, "leader_id": null, "members": [] });
    for members in [reply(&none), Step::error(409, "not_initialized")] {
        let (exit, captured) = run(members, reply(&status(1, "uninitialized")), &["status"]).await;
        assert_eq!(exit, Exit::Unavailable);
        assert!(captured.out().contains("uninitialized"), "{}", captured.out());
        assert!(captured.err().contains("kvorum init"), "{}", captured.err());
    }
}
