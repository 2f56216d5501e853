//! Nodes that run but can't reach each other.

use std::time::Duration;

use crate::support::cluster::{Builder, TestCluster};
use crate::support::eventually;

fn partitionable() -> Builder {
    Builder::new().with_links().options(|options| options.request_timeout_ms = Some(1_500))
}

fn isolate(cluster: &TestCluster, id: u64) -> Vec<u64> {
    cluster.links.isolate(id, cluster.ids());
    cluster.ids().into_iter().filter(|other| *other != id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_isolated_leader_acknowledges_nothing_and_the_majority_goes_on() {
    let cluster = partitionable().form(3).await;
    let old = cluster.leader().await;
    cluster.put(old, "k", "before").await.ok();
    let majority = isolate(&cluster, old);

    // Some while it still believes to lead, some after.
    for number in 0..3 {
        let answer = cluster.put(old, "k", &format!("doubtful {number}")).await;
        assert!(matches!(answer.status, 503 | 504), "{}: {}", answer.status, answer.text());
        assert!(matches!(answer.code().as_str(), "unavailable" | "outcome_unknown" | "not_leader"));
    }
    for consistency in ["linearizable", "lease"] {
        let path = format!("/v1/kv/k?consistency={consistency}");
        let answer = cluster.http.get(cluster.addr(old), &path).await;
        assert!(matches!(answer.status, 503 | 504), "{}: {}", answer.status, answer.text());
    }
    let new = cluster.leader_among(&majority).await;
    assert_ne!(new, old);
    cluster.put(new, "k", "after").await.ok();
    assert_eq!(cluster.get(old, "k", "local").await.as_deref(), Some("before"));

    cluster.links.heal();
    cluster.settle().await;
    for id in cluster.ids() {
        for consistency in ["linearizable", "local"] {
            assert_eq!(cluster.get(id, "k", consistency).await.as_deref(), Some("after"));
        }
    }
    let history = cluster.status(new).await.revision;
    cluster.put(old, "k", "healed").await.ok();
    assert_eq!(cluster.settle().await.revision, history + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_isolated_follower_that_comes_back_does_not_depose_the_leader() {
    let cluster = partitionable().form(3).await;
    let leader = cluster.leader().await;
    let term = cluster.status(leader).await.term;
    let follower = cluster.other_than(leader);
    let majority = isolate(&cluster, follower);
    // It knows by now that it has heard of no leader for too long.
    eventually("the follower misses its leader", async || {
        let answer = cluster.http.get(cluster.addr(follower), "/v1/kv/k").await;
        if answer.status == 404 { Err("it still reads".to_owned()) } else { Ok(()) }
    })
    .await;
    cluster.put(leader, "k", "v").await.ok();
    assert_eq!(cluster.leader_among(&majority).await, leader);

    cluster.links.heal();
    let settled = cluster.settle().await;
    assert_eq!((settled.leader_id, settled.term), (Some(leader), term));
    assert_eq!(cluster.get(follower, "k", "linearizable").await.as_deref(), Some("v"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_can_send_but_not_hear_is_replaced_or_serves_correctly() {
    let cluster = partitionable().form(3).await;
    let old = cluster.leader().await;
    let others: Vec<_> = cluster.ids().into_iter().filter(|id| *id != old).collect();
    for other in &others {
        cluster.links.cut(*other, old);
    }
    let answer = cluster.put(old, "k", "doubtful").await;
    assert!(matches!(answer.status, 503 | 504), "{}: {}", answer.status, answer.text());
    let read = cluster.http.get(cluster.addr(old), "/v1/kv/k?consistency=lease").await;
    assert!(matches!(read.status, 503 | 504), "{}: {}", read.status, read.text());
    cluster.links.heal();
    cluster.settle().await;
    cluster.put(others[0], "k", "sure").await.ok();
    for id in cluster.ids() {
        assert_eq!(cluster.get(id, "k", "linearizable").await.as_deref(), Some("sure"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_links_slow_writes_down_and_nothing_else() {
    let cluster = partitionable().form(3).await;
    let delay = Duration::from_millis(20);
    for from in cluster.ids() {
        for to in cluster.ids() {
            cluster.links.delay(from, to, delay);
        }
    }
    let leader = cluster.leader().await;
    let term = cluster.status(leader).await.term;
    for number in 0..10 {
        let begun = std::time::Instant::now();
        cluster.put(leader, "k", &number.to_string()).await.ok();
        assert!(begun.elapsed() >= 2 * delay, "{:?} is less than a round trip", begun.elapsed());
        let follower = cluster.other_than(leader);
        assert_eq!(cluster.get(follower, "k", "linearizable").await, Some(number.to_string()));
    }
    assert_eq!(cluster.status(leader).await.term, term);
    cluster.links.heal();
    cluster.settle().await;
}
