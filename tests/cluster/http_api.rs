//! Transactions, batches, leases and compaction over HTTP, through any node.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::cluster::{Builder, TestCluster};
use crate::support::http::Answer;
use crate::support::{POLL, eventually};

async fn post(cluster: &TestCluster, through: u64, path: &str, body: &Value) -> Answer {
    cluster.http.post(cluster.addr(through), path, body).await
}

/// What the seed's call reads, from the node that is asked.
async fn read(cluster: &TestCluster, from: u64, key: &str) -> Value {
    post(cluster, from, "/read?consistency=linearizable", &json!(key)).await.ok().json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_carried_out_once_and_read_on_every_node() {
    let cluster = Builder::new().form(3).await;
    for through in cluster.ids() {
        let (lock, log) = (format!("lock-{through}"), format!("log-{through}"));
        let take = json!({
            "compare": [{"key": lock, "target": "create_revision", "relation": "=", "number": 0}],
            "then": [
                {"put": {"key": lock, "value": "mine"}},
                {"put": {"key": log, "value": "taken"}},
                {"get": {"prefix": "lo", "keys_only": true, "count_only": true}},
            ],
            "else": [{"get": {"key": lock}}],
        });
        let taken = post(&cluster, through, "/v1/txn", &take).await.ok().json();
        let revision = &taken["revision"];
        assert_eq!(taken["succeeded"], true, "{taken}");
        assert_eq!(&taken["results"][0]["put"]["revision"], revision);
        assert_eq!(taken["results"][2]["get"]["count"], 2 * through);
        for from in cluster.ids() {
            assert_eq!(read(&cluster, from, &lock).await, "mine");
            assert_eq!(read(&cluster, from, &log).await, "taken");
            let late = post(&cluster, from, "/v1/txn", &take).await.ok().json();
            assert_eq!(late["succeeded"], false);
            let item = &late["results"][0]["get"]["items"][0];
            assert_eq!((&item["value"], &item["mod_revision"]), (&json!("mine"), revision));
        }
        assert_eq!(cluster.settle().await.revision, revision.as_i64().unwrap());
    }
    let nested = json!({"then": [{"txn": {"then": [{"delete": {"prefix": "lock-"}}]}}]});
    let headers = [("idempotency-key", "release")];
    let release = async |through: u64| {
        let addr = cluster.addr(through);
        cluster.http.call("POST", addr, "/v1/txn", &headers, nested.to_string()).await.ok().json()
    };
    let released = release(1).await;
    assert_eq!(released["results"][0]["txn"]["results"][0]["delete"]["deleted"], 3);
    for through in cluster.ids() {
        assert_eq!(release(through).await, released);
        assert_eq!(read(&cluster, through, "lock-1").await, "");
    }
    post(&cluster, 2, "/v1/txn", &json!({"then": [{"put": {"key": "k", "value": "", "lease": 9}}]}))
        .await
        .error(404, "lease_not_found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_a_thousand_operations_is_carried_out_in_order() {
    let cluster = Builder::new().form(3).await;
    let follower = cluster.other_than(cluster.leader().await);
    let before = cluster.settle().await.revision;
    let mut operations: Vec<_> = (0..998)
        .map(|n| json!({"put": {"key": format!("bulk-{:03}", n % 900), "value": format!("v{n}")}}))
        .collect();
    operations.push(json!({"delete": {"prefix": "bulk-00"}}));
    operations.push(json!({"put": {"key": "bulk-000", "value": "last"}}));
    let answer = post(&cluster, follower, "/v1/batch", &json!({"operations": operations})).await.ok().json();
    // Seven full ones, the rest of the first puts, the deletion, the last put.
    assert_eq!(answer, json!({"revision": before + 10, "operations": 1_000, "transactions": 10}));

    cluster.settle().await;
    for from in cluster.ids() {
        let found = cluster.scan(from, "bulk-", "local").await;
        assert_eq!(found.len(), 891);
        for (key, expected) in [("bulk-000", "last"), ("bulk-097", "v997"), ("bulk-098", "v98")] {
            assert_eq!(found[key].value, expected);
        }
    }

    let doubtful = json!({"operations": [
        {"put": {"key": "a", "value": ""}},
        {"put": {"key": "a", "value": "", "lease": 9}},
    ]});
    let (_, details) = post(&cluster, follower, "/v1/batch", &doubtful).await.error(404, "lease_not_found");
    assert_eq!(details, json!({"lease": 9, "completed": 1}));
    assert_eq!(cluster.get(follower, "a", "linearizable").await.as_deref(), Some(""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_lives_as_long_as_it_is_kept_alive_and_then_takes_its_keys_along() {
    let cluster = Builder::new().form(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.other_than(leader);
    let granted = post(&cluster, follower, "/v1/leases", &json!({"ttl": 4})).await;
    let lease = granted.json();
    assert_eq!((granted.status, &lease["ttl"]), (201, &json!(4)));
    let id = lease["id"].as_i64().unwrap();
    assert!((1..1 << 53).contains(&id), "{id} is exact in every reader of JSON");
    let txn = json!({"then": [{"put": {"key": "leased", "value": "v", "lease": id}}]});
    post(&cluster, leader, "/v1/txn", &txn).await.ok();

    let path = format!("/v1/leases/{id}");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(6) {
        let kept = post(&cluster, follower, &format!("{path}/keep-alive"), &json!({})).await.ok().json();
        assert_eq!((&kept["id"], &kept["ttl"]), (&json!(id), &json!(4)));
        tokio::time::sleep(5 * POLL).await;
    }
    for from in cluster.ids() {
        let known = cluster.http.get(cluster.addr(from), &format!("{path}?keys=true")).await.ok().json();
        assert_eq!((&known["granted_ttl"], &known["keys"]), (&json!(4), &json!([{"key": "leased"}])));
        let all = cluster.http.get(cluster.addr(from), "/v1/leases").await.ok().json();
        assert_eq!(all["leases"], json!([id]));
        assert_eq!(read(&cluster, from, "leased").await, "v");
    }

    eventually("the lease has expired", async || {
        let known = cluster.http.get(cluster.addr(follower), &path).await;
        if known.status == 404 { Ok(()) } else { Err(known.text()) }
    })
    .await;
    cluster.http.get(cluster.addr(leader), &path).await.error(404, "lease_not_found");
    for from in cluster.ids() {
        assert_eq!(cluster.get(from, "leased", "linearizable").await, None);
        let late = post(&cluster, from, &format!("{path}/keep-alive"), &json!({})).await;
        late.error(404, "lease_not_found");
    }
    cluster.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_lease_takes_its_keys_along_at_once() {
    let cluster = Builder::new().form(3).await;
    let granted = post(&cluster, 1, "/v1/leases", &json!({"ttl": 600, "id": 7})).await.ok().json();
    assert_eq!((&granted["id"], &granted["ttl"]), (&json!(7), &json!(600)));
    post(&cluster, 2, "/v1/leases", &json!({"ttl": 600, "id": 7})).await.error(409, "lease_exists");
    for (through, key) in [(1, "a"), (2, "b"), (3, "c")] {
        let addr = cluster.addr(through);
        cluster.http.call("PUT", addr, &format!("/v1/kv/{key}?lease=7"), &[], "v").await.ok();
    }
    let before = cluster.settle().await.revision;
    let revoked = cluster.http.call("DELETE", cluster.addr(3), "/v1/leases/7", &[], "").await.ok();
    assert_eq!(revoked.json(), json!({"revision": before + 1, "revoked": 7}));
    for from in cluster.ids() {
        assert!(cluster.scan(from, "", "linearizable").await.is_empty());
        cluster
            .http
            .call("DELETE", cluster.addr(from), "/v1/leases/7", &[], "")
            .await
            .error(404, "lease_not_found");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compacted_revisions_are_gone_on_every_node() {
    let cluster = Builder::new().form(3).await;
    for number in 1..=9 {
        cluster.put(1, "k", &number.to_string()).await.ok();
    }
    let last = cluster.settle().await.revision;
    let body = json!({"revision": last - 2, "physical": true});
    let follower = cluster.other_than(cluster.leader().await);
    let compacted = post(&cluster, follower, "/v1/compact", &body).await.ok().json();
    assert_eq!(compacted, json!({"revision": last, "compacted_revision": last - 2}));
    let (_, details) = post(&cluster, 1, "/v1/compact", &body).await.error(410, "compacted");
    assert_eq!(details, json!({"requested": last - 2, "oldest": last - 2}));
    post(&cluster, 1, "/v1/compact", &json!({"revision": last + 1})).await.error(400, "future_revision");
    for from in cluster.ids() {
        let at = async |revision: i64| {
            cluster.http.get(cluster.addr(from), &format!("/v1/kv/k?revision={revision}")).await
        };
        at(last - 3).await.error(410, "compacted");
        assert_eq!(at(last - 2).await.ok().text(), "7");
    }
}
