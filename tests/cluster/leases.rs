//! Leases at real speed: none ends before its time, whatever happens to the leader, and none
//! lives for ever because leaders change.
//!
//! Times are taken at the client, from before a grant or renewal is sent until the end is seen,
//! which can only be longer than what the cluster counts.

use std::time::{Duration, Instant};

use kvorum::NodeId;
use serde_json::{Value, json};

use crate::support::cluster::{Builder, TestCluster};
use crate::support::{POLL, eventually};

/// More than a leader's clock, an election and a busy machine may add to a lease's time.
const SLOW: Duration = Duration::from_secs(15);

/// Calls etcd's interface in JSON; any answer but a success is told.
pub(crate) async fn call(
    cluster: &TestCluster,
    through: NodeId,
    path: &str,
    body: &Value,
) -> Result<Value, String> {
    let http = cluster.http.with_timeout(Duration::from_secs(10));
    let answer = http.send("POST", cluster.addr(through), path, &[], body.to_string()).await;
    let answer = answer.map_err(|trouble| trouble.to_string())?;
    if answer.status == 200 { Ok(answer.json()) } else { Err(answer.text()) }
}

/// Grants a lease of `ttl` seconds and attaches `key` to it; answers its id and when it was asked for.
pub(crate) async fn grant(cluster: &TestCluster, through: NodeId, ttl: u32, key: &str) -> (String, Instant) {
    let asked = Instant::now();
    let granted = call(cluster, through, "/v3/lease/grant", &json!({"TTL": ttl})).await.unwrap();
    let id = granted["ID"].as_str().unwrap().to_owned();
    let path = format!("/v1/kv/{key}?lease={id}");
    cluster.http.call("PUT", cluster.addr(through), &path, &[], "held").await.ok();
    (id, asked)
}

/// The time to live that a renewal began anew; zero if the lease is gone.
async fn renew(cluster: &TestCluster, through: NodeId, id: &str) -> Result<u64, String> {
    let renewed = call(cluster, through, "/v3/lease/keepalive", &json!({"ID": id})).await?;
    let renewed = &renewed["result"];
    if renewed.is_null() {
        return Err("no answer".to_owned());
    }
    Ok(renewed["TTL"].as_str().map_or(0, |ttl| ttl.parse().unwrap()))
}

/// Renews a lease of three seconds for as long as `time`.
async fn keep_alive(cluster: &TestCluster, through: NodeId, id: &str, time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        assert_eq!(renew(cluster, through, id).await, Ok(3));
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Seconds that a lease has left, and -1 if it is gone.
async fn left(cluster: &TestCluster, through: NodeId, id: &str) -> Result<i64, String> {
    let known = call(cluster, through, "/v3/lease/timetolive", &json!({"ID": id})).await?;
    Ok(known["TTL"].as_str().map_or(0, |ttl| ttl.parse().unwrap()))
}

/// Waits until `key` is gone on `node` as a linearizable read sees it.
pub(crate) async fn gone(cluster: &TestCluster, node: NodeId, key: &str) -> Instant {
    eventually("the key is gone with its lease", async || {
        let path = format!("/v1/kv/{key}?consistency=linearizable");
        let http = cluster.http.with_timeout(Duration::from_secs(10));
        match http.send("GET", cluster.addr(node), &path, &[], "").await {
            Ok(answer) if answer.status == 404 => Ok(Instant::now()),
            Ok(answer) => Err(answer.text()),
            Err(trouble) => Err(trouble.to_string()),
        }
    })
    .await
}

async fn has(cluster: &TestCluster, node: NodeId, key: &str) -> bool {
    cluster.get(node, key, "linearizable").await.is_some()
}

/// Waits until the lease's clock has taken about `seconds` from a lease of `ttl`.
async fn used(cluster: &TestCluster, node: NodeId, id: &str, ttl: i64, seconds: i64) {
    eventually("time passes", async || match left(cluster, node, id).await {
        Ok(left) if left <= ttl - seconds => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_goes_on_with_its_remaining_time_under_the_next_leader() {
    let mut cluster = Builder::new().form(3).await;
    let old = cluster.leader().await;
    let (id, asked) = grant(&cluster, old, 8, "k").await;
    used(&cluster, old, &id, 8, 4).await;
    cluster.node(old).kill();
    let killed = Instant::now();
    let new = cluster.leader().await;
    let elected = Instant::now();
    // Not its whole time again, and not less than it has by the clock of the wall.
    let now_left = eventually("the new leader tells", async || left(&cluster, new, &id).await).await;
    assert!((1..=5).contains(&now_left), "{now_left} s are left");
    let ended = gone(&cluster, new, "k").await;
    assert!(ended - asked >= Duration::from_secs(8), "it lived for {:?}", ended - asked);
    let most = Duration::from_secs(8) + (elected - killed) + SLOW;
    assert!(ended - asked < most, "it lived for {:?}", ended - asked);
    assert_eq!(left(&cluster, new, &id).await, Ok(-1));
    assert_eq!(renew(&cluster, new, &id).await, Ok(0));
    cluster.node(old).start().await;
    cluster.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn elections_do_not_renew_a_lease_for_ever() {
    let mut cluster = Builder::new().form(3).await;
    let through = cluster.leader().await;
    let (_, asked) = grant(&cluster, through, 6, "k").await;
    let mut without_leader = Duration::ZERO;
    let mut leaders = 0;
    // A new leader every two seconds: each would find the lease young if it began anew.
    let ended = loop {
        let leader = cluster.leader().await;
        if !has(&cluster, leader, "k").await {
            break Instant::now();
        }
        assert!(asked.elapsed() < 4 * SLOW, "the lease lives for ever");
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until && has(&cluster, leader, "k").await {
            tokio::time::sleep(POLL).await;
        }
        let cut = Instant::now();
        cluster.node(leader).kill();
        cluster.leader().await;
        without_leader += cut.elapsed();
        leaders += 1;
        cluster.node(leader).start().await;
    };
    let lived = ended - asked;
    assert!(lived >= Duration::from_secs(6), "it lived for {lived:?}");
    // Each change costs its own time and at most what the old leader had not told.
    let most = Duration::from_secs(6) + without_leader + leaders * Duration::from_secs(1) + SLOW;
    assert!(lived < most, "it lived for {lived:?} through {leaders} changes of the leader");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_comes_back_from_a_pause_ends_no_lease_that_was_renewed_meanwhile() {
    let mut cluster = Builder::new().form(3).await;
    for round in 0..2 {
        let old = cluster.leader().await;
        let key = format!("k{round}");
        let (id, _) = grant(&cluster, old, 3, &key).await;
        cluster.node(old).pause();
        let others: Vec<_> = cluster.ids().into_iter().filter(|node| *node != old).collect();
        let new = cluster.leader_among(&others).await;
        // For longer than it would live, by the old leader's clock too.
        keep_alive(&cluster, new, &id, Duration::from_secs(6)).await;
        cluster.node(old).resume();
        keep_alive(&cluster, new, &id, Duration::from_secs(4)).await;
        for node in cluster.ids() {
            assert!(has(&cluster, node, &key).await, "node {node} lost the key");
        }
        let renewed = Instant::now();
        assert_eq!(renew(&cluster, new, &id).await, Ok(3));
        let ended = gone(&cluster, new, &key).await;
        assert!(ended - renewed >= Duration::from_secs(3), "it ended after {:?}", ended - renewed);
        cluster.settle().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_that_is_answered_is_never_taken_back() {
    let cluster = Builder::new().form(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.other_than(leader);
    // Renewed about when they end, each a little later than the one before.
    let leases = (0..40_u32).map(async |number| {
        let key = format!("k{number}");
        let (id, asked) = grant(&cluster, leader, 2, &key).await;
        tokio::time::sleep_until((asked + Duration::from_millis(2_300 + 10 * u64::from(number))).into())
            .await;
        let renewed = Instant::now();
        let ttl = renew(&cluster, if number % 2 == 0 { leader } else { follower }, &id).await.unwrap();
        if ttl == 0 {
            assert_eq!(left(&cluster, leader, &id).await, Ok(-1));
            assert!(!has(&cluster, leader, &key).await);
            return false;
        }
        assert_eq!(ttl, 2);
        let ended = gone(&cluster, leader, &key).await;
        assert!(ended - renewed >= Duration::from_secs(2), "it ended {:?} after that", ended - renewed);
        true
    });
    let renewed = futures_util::future::join_all(leases).await;
    println!("{} of {} came in time", renewed.iter().filter(|renewed| **renewed).count(), renewed.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_renewals_of_one_stream_are_answered_in_the_order_of_their_requests() {
    let cluster = Builder::new().form(3).await;
    let leader = cluster.leader().await;
    for id in 1..=300 {
        call(&cluster, leader, "/v3/lease/grant", &json!({"TTL": 100 + id, "ID": id})).await.unwrap();
    }
    // Every fourth does not exist. The requests end at once, and all are answered.
    let ids: Vec<_> =
        (1..=400).map(|number| if number % 4 == 0 { 1_000 } else { number * 3 / 4 + 1 }).collect();
    let body: String = ids.iter().map(|id| json!({"ID": id}).to_string()).collect();
    for node in cluster.ids() {
        let answer =
            cluster.http.call("POST", cluster.addr(node), "/v3/lease/keepalive", &[], body.clone()).await;
        let text = answer.ok().text();
        let found: Vec<(i64, i64)> = text
            .lines()
            .filter(|line| !line.is_empty())
            .map(|line| {
                let line: Value = serde_json::from_str(line).unwrap();
                let number =
                    |name: &str| line["result"][name].as_str().map_or(0, |text| text.parse().unwrap());
                (number("ID"), number("TTL"))
            })
            .collect();
        let wanted: Vec<_> = ids.iter().map(|id| (*id, if *id <= 300 { 100 + id } else { 0 })).collect();
        let differs = found.iter().zip(&wanted).find(|(found, wanted)| found != wanted);
        assert_eq!((found.len(), differs), (wanted.len(), None), "through node {node}");
    }
}
