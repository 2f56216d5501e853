//! A write that is sent twice under one token happens once.

use serde_json::json;

use crate::support::cluster::{Builder, TestCluster};
use crate::support::http::Answer;

async fn put_once(cluster: &TestCluster, through: u64, token: &str, value: &str) -> Answer {
    let headers = [("idempotency-key", token)];
    cluster.http.call("PUT", cluster.addr(through), "/v1/kv/k", &headers, value.to_owned()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_write_under_the_same_key_applies_once_across_failover_and_restart() {
    let mut cluster = Builder::new().form(3).await;
    let old = cluster.leader().await;
    let first = put_once(&cluster, old, "token-1", "v").await.ok();
    for through in cluster.ids() {
        let again = put_once(&cluster, through, "token-1", "v").await;
        assert_eq!((again.status, again.json()), (first.status, first.json()));
    }
    cluster.put(old, "k", "later").await.ok();

    cluster.node(old).kill();
    let new = cluster.leader().await;
    let again = put_once(&cluster, new, "token-1", "v").await;
    assert_eq!((again.status, again.json()), (first.status, first.json()));

    for id in cluster.ids() {
        cluster.node(id).kill();
    }
    for id in cluster.ids() {
        cluster.node(id).start().await;
    }
    cluster.leader().await;
    let again = put_once(&cluster, old, "token-1", "v").await;
    assert_eq!((again.status, again.json()), (first.status, first.json()));
    assert_eq!(cluster.get(old, "k", "linearizable").await.as_deref(), Some("later"));
    let settled = cluster.settle().await;
    assert_eq!(settled.revision, first.json()["revision"].as_i64().unwrap() + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_of_keys_travels_with_a_snapshot() {
    let mut cluster = Builder::new().form(1).await;
    let first = put_once(&cluster, 1, "token-1", "v").await.ok();
    cluster.http.call("POST", cluster.addr(1), "/v1/snapshot", &[], "").await.ok();
    for id in [2, 3] {
        cluster.add_node(id).await;
        cluster.add_learner(1, id).await.ok();
        assert!(cluster.counter(id, "snapshots_installed").await > 0);
    }
    cluster.change_membership(1, &[2, 3]).await.ok();
    cluster.node(1).terminate().await;
    cluster.leader().await;
    let again = put_once(&cluster, 3, "token-1", "v").await;
    assert_eq!((again.status, again.json()), (first.status, first.json()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_write_under_a_used_key_is_refused() {
    let cluster = Builder::new().form(3).await;
    put_once(&cluster, 1, "token-1", "v").await.ok();
    for through in cluster.ids() {
        put_once(&cluster, through, "token-1", "w").await.error(409, "idempotency_mismatch");
    }
    let headers = [("idempotency-key", "token-1"), ("content-type", "application/json")];
    let body = json!({"Del": {"key": "k"}}).to_string();
    let deleted = cluster.http.call("POST", cluster.addr(2), "/write", &headers, body).await;
    deleted.error(409, "idempotency_mismatch");
    assert_eq!(cluster.get(3, "k", "linearizable").await.as_deref(), Some("v"));
}
