//! What nodes accept from each other, and from those that only claim to be nodes.

use std::time::Duration;

use kvorum::config::PeerEncoding;
use kvorum::service::Status;
use kvorum::{NodeId, TypeConfig, Vote};
use openraft::raft::{AppendEntriesRequest, VoteRequest};
use serde_json::json;

use crate::support::cluster::{Builder, TestCluster};
use crate::support::eventually;
use crate::support::http::Answer;
use crate::support::load::Load;

/// A vote request of a term far ahead, which would depose any leader.
fn coup(from: NodeId) -> String {
    let request: VoteRequest<TypeConfig> =
        VoteRequest { vote: Vote::new(1_000_000, from), last_log_id: None, leadership_transfer: true };
    serde_json::to_string(&request).unwrap()
}

async fn send(cluster: &TestCluster, to: NodeId, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    cluster.http.with_secret(None).call("POST", cluster.addr(to), path, headers, body.to_owned()).await
}

/// What a refused message must leave as it is.
fn essence(status: &Status) -> (u64, Option<NodeId>, Option<u64>, i64, String) {
    (status.term, status.leader_id, status.last_log_index, status.revision, status.state_hash.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_another_cluster_or_for_another_node_are_refused_and_change_nothing() {
    let cluster = Builder::new().form(3).await;
    let before = cluster.settle().await;
    let ours = before.cluster_id.clone().unwrap();
    let append: AppendEntriesRequest<TypeConfig> = AppendEntriesRequest {
        vote: Vote::new_committed(1_000_000, 2),
        prev_log_id: None,
        entries: Vec::new(),
        leader_commit: None,
    };
    let append = serde_json::to_string(&append).unwrap();
    for (path, body) in [("/vote", coup(2)), ("/pre-vote", coup(2)), ("/append", append)] {
        let stranger = [("x-kvorum-cluster", "00000000deadbeef"), ("x-kvorum-to", "1")];
        send(&cluster, 1, path, &stranger, &body).await.error(409, "wrong_cluster");
        let nonsense = [("x-kvorum-cluster", "ours"), ("x-kvorum-to", "1")];
        send(&cluster, 1, path, &nonsense, &body).await.error(409, "wrong_cluster");
        let misled = [("x-kvorum-cluster", ours.as_str()), ("x-kvorum-to", "2")];
        send(&cluster, 1, path, &misled, &body).await.error(409, "wrong_node");
        let named = [("x-kvorum-cluster", ours.as_str()), ("x-kvorum-to", "1")];
        send(&cluster, 1, path, &named, "{\"vote\":7}").await.error(400, "invalid_request");
    }
    for path in ["/forward", "/manage", "/snapshot", "/transfer-leader", "/peer-status"] {
        let stranger = [("x-kvorum-cluster", "00000000deadbeef"), ("x-kvorum-to", "1")];
        send(&cluster, 1, path, &stranger, "{}").await.error(409, "wrong_cluster");
    }
    assert_eq!(essence(&cluster.settle().await), essence(&before));
}

/// Many more heartbeats than connections that may be made pass meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_share_the_connections_that_are_there() {
    let cluster = Builder::new().with_links().form(3).await;
    let term = cluster.settle().await.term;
    let before = cluster.links.connections();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let made = cluster.links.connections() - before;
    assert_eq!(cluster.settle().await.term, term, "the cluster was not at rest");
    assert!(made < 10, "a cluster at rest made {made} connections");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_secret_peers_and_management_must_know_it_and_clients_need_not() {
    let mut cluster = Builder::new().secret("correct-horse").form(3).await;
    let before = cluster.settle().await;
    let ours = before.cluster_id.clone().unwrap();
    let named = [("x-kvorum-cluster", ours.as_str()), ("x-kvorum-to", "1")];
    let wrong = [named[0], named[1], ("authorization", "Bearer wrong-horse")];
    for path in
        ["/vote", "/pre-vote", "/append", "/snapshot", "/forward", "/manage", "/introduce", "/peer-status"]
    {
        send(&cluster, 1, path, &named, &coup(2)).await.error(401, "unauthorized");
        send(&cluster, 1, path, &wrong, &coup(2)).await.error(401, "unauthorized");
    }
    for (method, path, body) in [
        ("POST", "/init", "[]"),
        ("POST", "/add-learner", "[9,\"127.0.0.1:1\"]"),
        ("POST", "/change-membership", "[1]"),
        ("POST", "/v1/members", "{\"id\":9,\"addr\":\"127.0.0.1:1\"}"),
        ("POST", "/v1/members/2/promote", ""),
        ("DELETE", "/v1/members/2", ""),
        ("POST", "/v1/leader/transfer", "{}"),
        ("POST", "/v1/snapshot", ""),
    ] {
        let bare = cluster.http.with_secret(None);
        bare.call(method, cluster.addr(1), path, &[], body).await.error(401, "unauthorized");
        let guess = cluster.http.with_secret(Some("wrong-horse"));
        guess.call(method, cluster.addr(1), path, &[], body).await.error(401, "unauthorized");
    }
    assert_eq!(essence(&cluster.settle().await), essence(&before));

    let client = cluster.http.with_secret(None);
    client.put(cluster.addr(2), "k", "v").await.ok();
    assert_eq!(client.get(cluster.addr(3), "/v1/kv/k").await.ok().text(), "v");

    // A node with another secret is no node of this cluster.
    let stranger = Builder::new().secret("wrong-horse").beside_another().start(1).await;
    let body = json!([9, stranger.addr(1)]);
    cluster.http.post(cluster.addr(1), "/add-learner", &body).await.error(409, "wrong_node");
    cluster.add_node(4).await;
    cluster.add_learner(1, 4).await.ok();
    assert_eq!(cluster.status(4).await.role, "learner");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_cluster_is_not_taken_in() {
    let cluster = Builder::new().form(1).await;
    let mut other = Builder::new().beside_another().start(2).await;
    other.http.post(other.addr(2), "/init", &json!([])).await.ok();
    let body = json!([2, other.addr(2)]);
    let refused = cluster.http.post(cluster.addr(1), "/add-learner", &body).await;
    let (message, _) = refused.error(409, "wrong_node");
    assert!(message.contains("another cluster"), "{message}");

    // Nor as a founder.
    other.node(1).kill();
    let founders = Builder::new().beside_another().start(1).await;
    let body = json!([[1, founders.addr(1)], [2, other.addr(2)]]);
    founders.http.post(founders.addr(1), "/init", &body).await.error(409, "already_initialized");
    assert_eq!(founders.status(1).await.role, "uninitialized");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founders_named_together_become_one_cluster() {
    let cluster = Builder::new().start(3).await;
    let founders: Vec<_> = cluster.nodes.values().map(|node| json!([node.id, node.advertised])).collect();
    cluster.http.post(cluster.addr(2), "/init", &json!(founders)).await.ok();
    cluster.settle().await;
    assert_eq!(cluster.voters(3).await, [1, 2, 3]);
    cluster.http.post(cluster.addr(1), "/init", &json!(founders)).await.error(409, "already_initialized");
    cluster.put(1, "k", "v").await.ok();
}

/// Replicates, forwards, fails over and sends a snapshot, with these encodings
/// at nodes 1, 2 and 3.
async fn works_with(encodings: [PeerEncoding; 3]) {
    let mut cluster = Builder::new().short_log().start(3).await;
    for (id, encoding) in (1..).zip(encodings) {
        cluster.node(id).kill();
        cluster.node(id).options_mut().peer_encoding = Some(encoding);
        cluster.node(id).start().await;
    }
    cluster.http.post(cluster.addr(1), "/init", &json!([])).await.ok();
    for id in [2, 3] {
        cluster.add_learner(1, id).await.ok();
    }
    cluster.change_membership(2, &[1, 2, 3]).await.ok();
    let load = Load::start(&cluster.addrs(), 3);
    for leader in [1, 2] {
        let body = json!({ "to": leader });
        cluster.http.post(cluster.addr(3), "/v1/leader/transfer", &body).await.ok();
        let away = cluster.other_than(leader);
        let last = cluster.status(away).await.last_log_index;
        cluster.node(away).kill();
        eventually("the log is purged", async || {
            load.progress(20).await;
            let purged = cluster.status(leader).await.purged_index;
            if purged > last { Ok(()) } else { Err(format!("purged up to {purged:?}")) }
        })
        .await;
        cluster.node(away).start().await;
        eventually("a snapshot is installed", async || {
            match cluster.counter(away, "snapshots_installed").await {
                0 => Err("none yet".to_owned()),
                _ => Ok(()),
            }
        })
        .await;
    }
    let acknowledged = load.stop().await;
    cluster.assert_has_all(&acknowledged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_nodes_speak_json_works() {
    works_with([PeerEncoding::Json; 3]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_nodes_speak_json_and_binary_works() {
    works_with([PeerEncoding::Json, PeerEncoding::Binary, PeerEncoding::Binary]).await;
}
