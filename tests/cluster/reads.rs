//! Any node takes any call, and a linearizable read misses nothing.

use serde_json::json;

use crate::support::cluster::Builder;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_follower_forwards_writes_and_serves_linearizable_reads() {
    let cluster = Builder::new().form(3).await;
    let leader = cluster.leader().await;
    for id in cluster.ids().into_iter().filter(|id| *id != leader) {
        let addr = cluster.addr(id);
        let key = format!("through-{id}");
        let written = cluster.http.post(addr, "/write", &json!({"Put": {"key": key, "value": "v"}})).await;
        assert_eq!(written.ok().json(), json!("Ok"));
        for reader in cluster.ids() {
            assert_eq!(cluster.get(reader, &key, "linearizable").await.as_deref(), Some("v"));
            let path = "/read?consistency=linearizable";
            assert_eq!(cluster.http.post(cluster.addr(reader), path, &json!(key)).await.ok().json(), "v");
        }
        let deleted = cluster.http.call("DELETE", addr, &format!("/v1/kv/{key}"), &[], "").await;
        assert_eq!(deleted.ok().json()["deleted"], 1);
        assert_eq!(cluster.get(leader, &key, "linearizable").await, None);
        assert!(cluster.counter(id, "writes_forwarded").await >= 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_linearizable_read_on_a_follower_sees_what_the_leader_just_acknowledged() {
    let cluster = Builder::new().form(3).await;
    let leader = cluster.leader().await;
    for number in 0..300_u32 {
        let value = number.to_string();
        cluster.put(leader, "k", &value).await.ok();
        for id in cluster.ids() {
            let consistency = if number % 2 == 0 { "linearizable" } else { "lease" };
            assert_eq!(cluster.get(id, "k", consistency).await.as_deref(), Some(value.as_str()), "node {id}");
        }
    }
}

/// The leader needs one follower to confirm it and asks two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn linearizable_reads_share_the_connections_that_are_there() {
    const READS: u64 = 200;
    let cluster = Builder::new().with_links().form(3).await;
    let leader = cluster.leader().await;
    cluster.put(leader, "k", "v").await.ok();
    let before = cluster.links.connections();
    for _ in 0..READS {
        assert_eq!(cluster.get(leader, "k", "linearizable").await.as_deref(), Some("v"));
    }
    let made = cluster.links.connections() - before;
    assert!(made < READS / 4, "{READS} reads made {made} connections");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_condition_holds_whichever_node_takes_the_write() {
    let cluster = Builder::new().form(3).await;
    let mut revision = cluster.put(1, "k", "0").await.ok().json()["revision"].as_i64().unwrap();
    for number in 0..12_u64 {
        let addr = cluster.addr(1 + number % 3);
        let tag = format!("\"{revision}\"");
        let headers = [("if-match", tag.as_str())];
        let written = cluster.http.call("PUT", addr, "/v1/kv/k", &headers, number.to_string()).await.ok();
        let again = cluster.http.call("PUT", addr, "/v1/kv/k", &headers, "late").await;
        revision = written.json()["revision"].as_i64().unwrap();
        let (_, details) = again.error(412, "condition_failed");
        assert_eq!(details["mod_revision"].as_i64(), Some(revision));
    }
}

/// Local reads promise nothing about others' writes, but whoever was told by a node
/// that a write took place finds it there.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_acknowledges_a_write_has_applied_it() {
    let cluster = Builder::new().form(3).await;
    let leader = cluster.leader().await;
    let writers =
        cluster.ids().into_iter().filter(|id| *id != leader).flat_map(|id| [(id, 0), (id, 1), (id, 2)]);
    let writing = writers.map(|(follower, writer)| {
        let cluster = &cluster;
        async move {
            for round in 0..100 {
                let (key, value) = (format!("of-{follower}-{writer}"), round.to_string());
                cluster.put(follower, &key, &value).await.ok();
                assert_eq!(cluster.get(follower, &key, "local").await, Some(value));
            }
        }
    });
    futures_util::future::join_all(writing).await;
}
