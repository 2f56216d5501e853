//! A node's parts without its servers, as its only voter.

use tempfile::TempDir;

use super::*;
use crate::command::Command;
use crate::error::Error;
use crate::keyspace::{KeyRange, RangeRequest};
use crate::service::Consistency;

async fn alone(dir: &TempDir) -> Replica {
    let mut config = Config::with_defaults(1, dir.path().join("data"));
    config.limits.request_timeout = Duration::from_secs(60);
    let data = DataDir::open(&config.data_dir, config.id).unwrap();
    let addrs = Addrs {
        advertise: "127.0.0.1:9".to_owned(),
        http: SocketAddr::from(([127, 0, 0, 1], 9)),
        grpc: None,
    };
    let fatal: FatalHook = Arc::new(|error| panic!("{error}"));
    let replica = start_replica(&config, Arc::new(data), addrs, fatal, Handle::current()).await.unwrap();
    replica.service.init(vec![(1, "127.0.0.1:9".to_owned())]).await.unwrap();
    replica
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_a_leader_is_told_that_raft_has_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let replica = alone(&dir).await;
    replica.service.write(Command::put("k", "v")).await.unwrap();
    replica.raft.shutdown().await.unwrap();
    let all = RangeRequest::of(KeyRange::all());
    match replica.service.read(all, Consistency::Linearizable).await {
        Err(Error::Unavailable { reason, .. }) => assert_eq!(reason, "the node is stopping"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idempotency_keys_grow_old_by_no_wall_clock() {
    let dir = tempfile::tempdir().unwrap();
    let replica = alone(&dir).await;
    let a_day = 86_400_000;
    let mut before = 0;
    for token in ["a", "b"] {
        let idempotency = replica.service.idempotency(token.into()).unwrap();
        assert_eq!(idempotency.proposed_at_ms, 0, "its time is the leader's to tell");
        let command = Command { idempotency: Some(idempotency), ..Command::put("k", token) };
        replica.service.write(command).await.unwrap();
        // The clock begins with this cluster.
        let clock = replica.store.token_clock().unwrap();
        assert!((before..a_day).contains(&clock), "{clock} after {before}");
        before = clock;
    }
}
