//! Nodes that were away come back: by the log, or by a snapshot when the log that
//! they need is gone.

use crate::support::cluster::{Builder, TestCluster};
use crate::support::eventually;
use crate::support::load::Load;

/// Writes until `id`, which is down, needs a snapshot to come back.
async fn write_until_purged_for(cluster: &TestCluster, last_log_index: u64, load: &Load) {
    for id in cluster.ids() {
        if cluster.nodes[&id].is_responsive() {
            eventually("the log that the absent node needs is purged", async || {
                load.progress(20).await;
                let purged = cluster.status(id).await.purged_index;
                if purged > Some(last_log_index) { Ok(()) } else { Err(format!("purged up to {purged:?}")) }
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_missed_a_little_catches_up_by_the_log() {
    let mut cluster = Builder::new().form(3).await;
    let leader = cluster.leader().await;
    let away = cluster.other_than(leader);
    cluster.node(away).kill();
    let load = Load::start(&[cluster.addr(leader).to_owned()], 4);
    load.progress(200).await;
    cluster.node(away).start().await;
    load.progress(50).await;
    let acknowledged = load.stop().await;
    cluster.assert_has_all(&acknowledged).await;
    assert_eq!(cluster.counter(away, "snapshots_installed").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_missed_too_much_comes_back_by_snapshot_while_writes_go_on() {
    let mut cluster = Builder::new().short_log().form(3).await;
    let leader = cluster.leader().await;
    let away = cluster.other_than(leader);
    let last_log_index = cluster.status(away).await.last_log_index.unwrap();
    cluster.node(away).kill();
    let load = Load::start(&[cluster.addr(leader).to_owned()], 4);
    write_until_purged_for(&cluster, last_log_index, &load).await;

    cluster.node(away).start().await;
    eventually("a snapshot is installed", async || {
        load.progress(10).await;
        match cluster.counter(away, "snapshots_installed").await {
            0 => Err("none yet".to_owned()),
            count => Ok(count),
        }
    })
    .await;
    load.progress(100).await;
    let acknowledged = load.stop().await;
    cluster.assert_has_all(&acknowledged).await;

    // What came by snapshot is as durable as what came by the log.
    cluster.node(away).kill();
    cluster.node(away).start().await;
    cluster.assert_has_all(&acknowledged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_of_a_cluster_with_a_purged_log_comes_by_snapshot() {
    let mut cluster = Builder::new().short_log().form(1).await;
    let load = Load::start(&cluster.addrs(), 4);
    write_until_purged_for(&cluster, 1, &load).await;
    cluster.add_node(2).await;
    cluster.add_learner(1, 2).await.ok();
    assert!(cluster.counter(2, "snapshots_installed").await > 0);
    load.progress(50).await;
    let acknowledged = load.stop().await;
    cluster.assert_has_all(&acknowledged).await;
    assert_eq!(cluster.status(2).await.role, "learner");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_on_demand_purges_the_log_and_serves_a_node_that_was_away() {
    let mut cluster = Builder::new().form(3).await;
    let leader = cluster.leader().await;
    let away = cluster.other_than(leader);
    cluster.node(away).kill();
    let load = Load::start(&[cluster.addr(leader).to_owned()], 4);
    load.progress(100).await;
    let acknowledged = load.stop().await;
    let last = cluster.settle().await.last_log_index;
    let built = cluster.http.call("POST", cluster.addr(leader), "/v1/snapshot", &[], "").await.ok().json();
    assert_eq!(built["log_id"]["index"].as_u64(), last);
    cluster.node(away).start().await;
    cluster.assert_has_all(&acknowledged).await;
    if cluster.status(leader).await.purged_index == last {
        assert!(cluster.counter(away, "snapshots_installed").await > 0);
    }
}
