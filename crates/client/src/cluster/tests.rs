//! Management calls: what they send and how their answers are read.

use super::*;
use kvorum_scripted::{Scripted, Step};

const STATUS: &str = r#"{"node_id":1,"cluster_id":null,"version":"0.1.0","addr":"127.0.0.1:21001",
    "http_addr":"127.0.0.1:21001","role":"uninitialized","term":0,"leader_id":null,"last_log_index":null,
    "committed_index":null,"applied_index":null,"snapshot_index":null,"purged_index":null,"revision":0,
    "compacted_revision":0,"state_hash":"0000000000000000","data_bytes":0,"resident_bytes":0,"uptime_seconds":1}"#;

async fn node(body: &str) -> (Scripted, Client) {
    let node = Scripted::steps([Step::reply(200, body)]).await;
    let client = Client::builder().endpoints([node.addr()]).build().unwrap();
    (node, client)
}

#[tokio::test]
async fn status_of_a_fresh_node_is_read() {
    let (_node, client) = node(STATUS).await;
    let status = client.status().await.unwrap();
    assert_eq!((status.node_id, status.role, status.applied_index), (1, NodeRole::Uninitialized, None));
}

#[tokio::test]
async fn members_with_one_that_does_not_answer_are_read() {
    let body = format!(
        r#"{{"cluster_id":"00000000000000ab","leader_id":1,"members":[
        {{"id":1,"addr":"a:1","role":"voter","leader":true,"reachable":true,"matched_index":5,"lag":0,
          "status":{STATUS},"error":null}},
        {{"id":2,"addr":"b:1","role":"observer","leader":false,"reachable":false,"matched_index":null,
          "lag":null,"status":null,"error":"connection refused"}}]}}"#
    );
    let (_node, client) = node(&body).await;
    let members = client.members().await.unwrap();
    assert!(members.members[0].leader && members.members[0].status.is_some());
    assert_eq!(members.members[1].role, MemberRole::Unknown);
    assert_eq!(members.members[1].error.as_deref(), Some("connection refused"));
}

#[tokio::test]
async fn management_calls_send_what_the_api_documents() {
    let (node, client) = node(r#"{"leader_id":2,"snapshot_id":"s","log_id":null}"#).await;
    client.add_member(4, "d:1").await.unwrap();
    client.promote(4).await.unwrap();
    client.remove(4, false).await.unwrap();
    client.remove(4, true).await.unwrap();
    client.change_membership(&[1, 2, 3]).await.unwrap();
    assert_eq!(client.transfer_leader(None).await.unwrap(), 2);
    assert_eq!(client.transfer_leader(Some(2)).await.unwrap(), 2);
    assert_eq!(client.snapshot().await.unwrap().snapshot_id, "s");
    client.init(&[]).await.unwrap();
    client.init(&[(1, "a:1".to_owned())]).await.unwrap();
    let sent: Vec<_> = node
        .requests()
        .into_iter()
        .map(|r| format!("{} {} {}", r.method, r.target, String::from_utf8(r.body).unwrap()))
        .collect();
    let expected = [
        r#"POST /v1/members {"addr":"d:1","id":4}"#,
        "POST /v1/members/4/promote ",
        "DELETE /v1/members/4 ",
        "DELETE /v1/members/4?force=true ",
        "POST /change-membership [1,2,3]",
        "POST /v1/leader/transfer {}",
        r#"POST /v1/leader/transfer {"to":2}"#,
        "POST /v1/snapshot ",
        "POST /init []",
        r#"POST /init [[1,"a:1"]]"#,
    ];
    assert_eq!(sent, expected);
}

#[tokio::test]
async fn a_learner_that_still_catches_up_is_a_timeout_with_its_progress() {
    let body =
        r#"{"error":{"code":"timeout","message":"m","details":{"matched_index":5,"last_log_index":9}}}"#;
    let node = Scripted::steps([Step::reply(504, body)]).await;
    let client = Client::builder().endpoints([node.addr()]).build().unwrap();
    let Err(Error::Timeout { details, .. }) = client.add_member(4, "d:1").await else {
        panic!("it is still catching up");
    };
    assert_eq!(details.get("matched_index"), Some(&5.into()));
    assert_eq!(node.requests().len(), 1);
}
