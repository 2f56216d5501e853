//! Nodes that stop or die: leadership moves on, and nothing acknowledged is lost.

use std::time::{Duration, Instant};

use crate::support::cluster::Builder;
use crate::support::eventually;
use crate::support::load::Load;
use crate::support::node::Mode;

async fn fails_over(mode: Mode) {
    let mut cluster = Builder::new().mode(mode).form(3).await;
    let old = cluster.leader().await;
    cluster.put(old, "before", "1").await.ok();

    cluster.node(old).kill();
    let new = cluster.leader().await;
    assert_ne!(new, old);
    cluster.put(new, "after", "2").await.ok();

    cluster.node(old).start().await;
    cluster.settle().await;
    for id in cluster.ids() {
        for consistency in ["linearizable", "local"] {
            assert_eq!(cluster.get(id, "before", consistency).await.as_deref(), Some("1"));
            assert_eq!(cluster.get(id, "after", consistency).await.as_deref(), Some("2"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_processes_elect_another_leader_when_it_dies() {
    fails_over(Mode::Process).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_in_process_elect_another_leader_when_it_is_dropped() {
    fails_over(Mode::InProcess).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_the_leader_under_load_loses_nothing_acknowledged() {
    let mut cluster = Builder::new().form(3).await;
    let load = Load::start(&cluster.addrs(), 6);
    for _ in 0..3 {
        load.progress(100).await;
        let leader = cluster.leader().await;
        cluster.node(leader).kill();
        load.progress(100).await;
        cluster.node(leader).start().await;
    }
    let acknowledged = load.stop().await;
    cluster.assert_has_all(&acknowledged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_all_nodes_at_once_under_load_loses_nothing_acknowledged() {
    let mut cluster = Builder::new().form(3).await;
    let load = Load::start(&cluster.addrs(), 6);
    for _ in 0..3 {
        load.progress(100).await;
        for id in cluster.ids() {
            cluster.node(id).kill();
        }
        for id in cluster.ids() {
            cluster.node(id).start_at_once().await;
        }
    }
    load.progress(50).await;
    let acknowledged = load.stop().await;
    cluster.assert_has_all(&acknowledged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_restarted_one_after_the_other_under_load_lose_nothing_acknowledged() {
    let mut cluster = Builder::new().form(3).await;
    let load = Load::start(&cluster.addrs(), 4);
    for id in cluster.ids() {
        load.progress(50).await;
        let (code, _) = cluster.node(id).terminate().await;
        assert_eq!(code, Some(0));
        load.progress(50).await;
        cluster.node(id).start().await;
        cluster.leader().await;
    }
    let acknowledged = load.stop().await;
    cluster.assert_has_all(&acknowledged).await;
}

/// A leader that lost its power says nothing on connections that are there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_through_a_follower_do_not_wait_for_a_leader_that_fell_silent() {
    let mut cluster =
        Builder::new().options(|options| options.request_timeout_ms = Some(600_000)).form(3).await;
    let old = cluster.leader().await;
    cluster.put(old, "k", "v").await.ok();
    let followers: Vec<_> = cluster.ids().into_iter().filter(|id| *id != old).collect();
    for id in &followers {
        // So that there are connections.
        assert_eq!(cluster.get(*id, "k", "linearizable").await.as_deref(), Some("v"));
        cluster.put(*id, "k", "v").await.ok();
    }
    cluster.node(old).pause();
    let calls = followers.iter().map(|id| {
        let cluster = &cluster;
        async move {
            assert_eq!(cluster.get(*id, "k", "linearizable").await.as_deref(), Some("v"), "node {id}");
            let answer = cluster.put(*id, "k", "v").await;
            assert!(matches!(answer.status, 200 | 504), "{}: {}", answer.status, answer.text());
        }
    });
    futures_util::future::join_all(calls).await;
    cluster.node(old).resume();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_is_told_to_stop_answers_the_writes_under_way() {
    let mut cluster = Builder::new().with_links().form(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.other_than(leader);
    let before = cluster.counter(follower, "writes_forwarded").await;
    cluster.links.delay(leader, follower, Duration::from_millis(200));
    let (http, addr) = (cluster.http.clone(), cluster.addr(follower).to_owned());
    let writing = tokio::spawn(async move { http.put(&addr, "k", "v".to_owned()).await });
    eventually("the write is under way", async || {
        match cluster.counter(follower, "writes_forwarded").await {
            count if count == before => Err("not yet".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    assert_eq!(cluster.node(follower).terminate().await.0, Some(0));
    writing.await.unwrap().ok();
}

/// It builds snapshots and catches up meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_node_that_is_told_to_stop_ends_well() {
    let mut cluster = Builder::new().short_log().form(3).await;
    let leader = cluster.leader().await;
    let busy = cluster.other_than(leader);
    let load = Load::start(&[cluster.addr(leader).to_owned()], 8);
    for nth in 0..20 {
        load.progress(5 + 5 * nth).await;
        assert_eq!(cluster.node(busy).terminate().await.0, Some(0));
        load.progress(150).await;
        cluster.node(busy).start().await;
    }
    let acknowledged = load.stop().await;
    cluster.assert_has_all(&acknowledged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_stopped_as_a_whole_comes_back_as_it_was() {
    let mut cluster = Builder::new().form(3).await;
    let load = Load::start(&cluster.addrs(), 4);
    load.progress(100).await;
    let acknowledged = load.stop().await;
    let before = cluster.settle().await;
    for id in cluster.ids() {
        assert_eq!(cluster.node(id).terminate().await.0, Some(0));
    }
    for id in cluster.ids() {
        cluster.node(id).start().await;
    }
    let after = cluster.settle().await;
    assert_eq!((after.revision, &after.state_hash), (before.revision, &before.state_hash));
    assert_eq!(cluster.voters(1).await, [1, 2, 3]);
    cluster.assert_has_all(&acknowledged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_told_to_stop_hands_leadership_over_first() {
    let mut cluster = Builder::new().form(3).await;
    let old = cluster.leader().await;
    let (code, took) = cluster.node(old).terminate().await;
    let stopped = Instant::now();
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(10), "stopping took {took:?}");
    // Handed over before it ended, so the others need not wait for its silence.
    let new = cluster.leader().await;
    assert_ne!(new, old);
    assert!(stopped.elapsed() < Duration::from_secs(2), "there was no leader for {:?}", stopped.elapsed());
    assert!(cluster.nodes[&old].log().contains("handed leadership over"));
    cluster.put(new, "k", "v").await.ok();
}
