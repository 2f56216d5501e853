//! A cluster of one.

use serde_json::json;

use crate::support::cluster::Builder;
use crate::support::node::Mode;

async fn keeps_its_data(mode: Mode) {
    let mut cluster = Builder::new().mode(mode).start(1).await;
    let addr = cluster.addr(1).to_owned();
    let early = cluster.put(1, "k", "v").await;
    early.error(503, "unavailable");

    cluster.http.post(&addr, "/init", &json!([])).await.ok();
    cluster.http.post(&addr, "/init", &json!([])).await.error(409, "already_initialized");
    let written = cluster.http.post(&addr, "/write", &json!({"Put": {"key": "k", "value": "v"}})).await;
    assert_eq!(written.ok().json(), json!("Ok"));
    let before = cluster.settle().await;

    let (code, _) = cluster.node(1).terminate().await;
    assert_eq!(code, Some(0));
    cluster.node(1).start().await;
    cluster.leader().await;
    assert_eq!(cluster.http.post(&addr, "/read", &json!("k")).await.ok().json(), json!("v"));
    assert_eq!(cluster.put(1, "k", "w").await.ok().json()["version"], 2);

    cluster.node(1).kill();
    cluster.node(1).start().await;
    assert_eq!(cluster.get(1, "k", "linearizable").await.as_deref(), Some("w"));
    let after = cluster.status(1).await;
    assert_eq!(after.revision, before.revision + 1);
    cluster.http.post(&addr, "/init", &json!([])).await.error(409, "already_initialized");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_process_keeps_its_data_when_stopped_and_when_killed() {
    keeps_its_data(Mode::Process).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_in_process_keeps_its_data_when_stopped_and_when_dropped() {
    keeps_its_data(Mode::InProcess).await;
}
