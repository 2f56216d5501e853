//! A cluster under test: how it is made, changed, watched and compared.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use kvorum::NodeId;
use kvorum::config::Options;
use kvorum::service::{Members, Status};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::eventually;
use super::http::{Answer, Http};
use super::links::Links;
use super::load::Acknowledged;
use super::node::{Mode, TestNode, free_addr};

/// Clusters that run at once, whatever the number of test threads: with more of
/// them, elections on a small machine begin to depend on luck.
static CLUSTERS: Semaphore = Semaphore::const_new(2);

/// How a cluster is to be made.
#[derive(Debug, Clone)]
pub(crate) struct Builder {
    mode: Mode,
    options: Options,
    secret: Option<String>,
    with_links: bool,
    is_second: bool,
}

impl Builder {
    pub(crate) fn new() -> Self {
        let options = Options { raft_workers: Some(1), http_workers: Some(1), ..Options::default() };
        Self { mode: Mode::Process, options, secret: None, with_links: false, is_second: false }
    }

    pub(crate) fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets options of all nodes.
    pub(crate) fn options(mut self, set: impl FnOnce(&mut Options)) -> Self {
        set(&mut self.options);
        self
    }

    /// A snapshot every few entries, and few entries kept behind it: a node that
    /// was away needs a snapshot to come back.
    pub(crate) fn short_log(self) -> Self {
        self.options(|options| {
            options.snapshot_log_entries = Some(100);
            options.log_entries_to_keep = Some(20);
        })
    }

    pub(crate) fn secret(mut self, secret: &str) -> Self {
        self.secret = Some(secret.to_owned());
        self
    }

    /// Puts links between the nodes that can be cut and slowed down.
    pub(crate) fn with_links(mut self) -> Self {
        self.with_links = true;
        self
    }

    /// A cluster beside one that the same test already has: it takes no second
    /// turn, for which two tests could wait for each other.
    pub(crate) fn beside_another(mut self) -> Self {
        self.is_second = true;
        self
    }

    /// Starts nodes 1 to `nodes`, which belong to no cluster yet.
    pub(crate) async fn start(self, nodes: u64) -> TestCluster {
        let turn = if self.is_second { None } else { Some(CLUSTERS.acquire().await.unwrap()) };
        let http = Http::new().with_secret(self.secret.as_deref());
        let mut cluster = TestCluster {
            nodes: BTreeMap::new(),
            http,
            links: Links::new(),
            builder: self,
            root: tempfile::tempdir().unwrap(),
            _turn: turn,
        };
        for id in 1..=nodes {
            cluster.add_node(id).await;
        }
        cluster
    }

    /// Starts nodes 1 to `nodes` and makes them a cluster of that many voters, as
    /// the seed does: one by one.
    pub(crate) async fn form(self, nodes: u64) -> TestCluster {
        let cluster = self.start(nodes).await;
        let first = cluster.addr(1).to_owned();
        cluster.http.post(&first, "/init", &json!([])).await.ok();
        for id in 2..=nodes {
            cluster.add_learner(1, id).await.ok();
        }
        if nodes > 1 {
            let voters: Vec<_> = (1..=nodes).collect();
            cluster.http.post(&first, "/change-membership", &json!(voters)).await.ok();
        }
        cluster.settle().await;
        cluster
    }
}

/// Some nodes, usually of one cluster.
pub(crate) struct TestCluster {
    pub(crate) nodes: BTreeMap<NodeId, TestNode>,
    pub(crate) http: Http,
    pub(crate) links: Links,
    builder: Builder,
    root: TempDir,
    _turn: Option<SemaphorePermit<'static>>,
}

impl TestCluster {
    /// Starts one more node with an empty folder.
    pub(crate) async fn add_node(&mut self, id: NodeId) {
        let dir = self.fresh_dir(id);
        let advertised = if self.builder.with_links {
            let (outer, inner) = (free_addr(), free_addr());
            let listener = TcpListener::bind(&outer).await.unwrap();
            self.links.serve(id, listener, inner.clone());
            Some((inner, outer))
        } else {
            None
        };
        let secret = self.builder.secret.as_deref();
        let options = self.builder.options.clone();
        let mut node = TestNode::new(id, dir, self.builder.mode, options, secret, advertised);
        node.start().await;
        self.nodes.insert(id, node);
    }

    fn fresh_dir(&self, id: NodeId) -> PathBuf {
        let names = (0..).map(|nth| self.root.path().join(format!("node-{id}-{nth}")));
        names.into_iter().find(|path| !path.exists()).unwrap()
    }

    pub(crate) fn addr(&self, id: NodeId) -> &str {
        &self.nodes[&id].addr
    }

    pub(crate) fn node(&mut self, id: NodeId) -> &mut TestNode {
        self.nodes.get_mut(&id).unwrap()
    }

    pub(crate) fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    pub(crate) fn addrs(&self) -> Vec<String> {
        self.nodes.values().map(|node| node.addr.clone()).collect()
    }

    fn responsive(&self) -> impl Iterator<Item = &TestNode> {
        self.nodes.values().filter(|node| node.is_responsive())
    }

    /// Any node but this one.
    pub(crate) fn other_than(&self, id: NodeId) -> NodeId {
        self.ids().into_iter().find(|other| *other != id).unwrap()
    }

    pub(crate) async fn add_learner(&self, through: NodeId, id: NodeId) -> Answer {
        let body = json!([id, self.nodes[&id].advertised]);
        self.http.post(self.addr(through), "/add-learner", &body).await
    }

    pub(crate) async fn change_membership(&self, through: NodeId, voters: &[NodeId]) -> Answer {
        self.http.post(self.addr(through), "/change-membership", &json!(voters)).await
    }

    pub(crate) async fn put(&self, through: NodeId, key: &str, value: &str) -> Answer {
        self.http.put(self.addr(through), key, value.to_owned()).await
    }

    /// Reads `key` and gives its value; `None` when it is absent.
    pub(crate) async fn get(&self, from: NodeId, key: &str, consistency: &str) -> Option<String> {
        let path = format!("/v1/kv/{key}?consistency={consistency}");
        let answer = self.http.get(self.addr(from), &path).await;
        match answer.status {
            404 => None,
            _ => Some(answer.ok().text()),
        }
    }

    pub(crate) async fn status(&self, id: NodeId) -> Status {
        serde_json::from_value(self.http.get(self.addr(id), "/v1/status").await.ok().json()).unwrap()
    }

    async fn try_status(&self, node: &TestNode) -> Result<Status, String> {
        let http = self.http.with_timeout(Duration::from_secs(5));
        let answer = http.send("GET", &node.addr, "/v1/status", &[], "").await;
        let answer = answer.map_err(|trouble| trouble.to_string())?;
        serde_json::from_slice(&answer.body).map_err(|error| error.to_string())
    }

    pub(crate) async fn members(&self, from: NodeId) -> Members {
        serde_json::from_value(self.http.get(self.addr(from), "/v1/members").await.ok().json()).unwrap()
    }

    /// The ids of the voters, as node `from` sees them.
    pub(crate) async fn voters(&self, from: NodeId) -> Vec<NodeId> {
        let members = self.members(from).await.members;
        members.into_iter().filter(|member| member.role == "voter").map(|member| member.id).collect()
    }

    /// A counter of a node's metrics.
    pub(crate) async fn counter(&self, id: NodeId, name: &str) -> u64 {
        let headers = [("accept", "application/openmetrics-text")];
        let text = self.http.call("GET", self.addr(id), "/metrics", &headers, "").await.ok().text();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("kvorum_{name}_total ")));
        line.unwrap_or_else(|| panic!("no counter {name} in {text}")).trim().parse().unwrap()
    }

    /// Waits until one of the running nodes leads and the others that belong to
    /// the cluster follow it.
    pub(crate) async fn leader(&self) -> NodeId {
        self.leader_among(&self.responsive().map(|node| node.id).collect::<Vec<_>>()).await
    }

    /// Waits until one of `nodes` leads and the others of them follow it.
    pub(crate) async fn leader_among(&self, nodes: &[NodeId]) -> NodeId {
        eventually("there is a leader", async || {
            let mut seen = Vec::new();
            for id in nodes {
                let status = self.try_status(&self.nodes[id]).await?;
                if status.role != "uninitialized" {
                    seen.push((status.node_id, status.role, status.term, status.leader_id));
                }
            }
            let Some((leader, _, term, _)) = seen.iter().find(|(_, role, _, _)| role == "leader") else {
                return Err(format!("{seen:?}"));
            };
            if seen.iter().all(|(_, _, theirs, known)| theirs == term && *known == Some(*leader)) {
                Ok(*leader)
            } else {
                Err(format!("{seen:?}"))
            }
        })
        .await
    }

    /// Waits until all running nodes have applied the same log to its end, and
    /// checks that this gave the same state.
    pub(crate) async fn settle(&self) -> Status {
        eventually("all nodes have applied the same", async || {
            let mut statuses = Vec::new();
            for node in self.responsive() {
                statuses.push(self.try_status(node).await?);
            }
            let first = statuses.first().ok_or("no node runs")?.clone();
            let reached = |status: &Status| (status.last_log_index, status.term, status.leader_id);
            let even = statuses.iter().all(|status| {
                status.applied_index == status.last_log_index
                    && status.leader_id.is_some()
                    && reached(status) == reached(&first)
            });
            if !even {
                let short = statuses.iter().map(|status| {
                    (status.node_id, &status.role, status.term, status.last_log_index, status.applied_index)
                });
                return Err(format!("{:?}", short.collect::<Vec<_>>()));
            }
            for status in &statuses {
                assert_eq!(
                    (status.revision, &status.state_hash),
                    (first.revision, &first.state_hash),
                    "nodes {} and {} have applied the same log and differ",
                    status.node_id,
                    first.node_id
                );
            }
            Ok(first)
        })
        .await
    }

    /// All keys that begin with `prefix`, with value and modification revision.
    pub(crate) async fn scan(
        &self,
        from: NodeId,
        prefix: &str,
        consistency: &str,
    ) -> BTreeMap<String, Acknowledged> {
        let mut found = BTreeMap::new();
        let mut cursor = String::new();
        loop {
            let path = format!("/v1/kv?prefix={prefix}&consistency={consistency}&limit=5000{cursor}");
            let page = self.http.get(self.addr(from), &path).await.ok().json();
            for item in page["items"].as_array().unwrap() {
                let text = |name: &str| item[name].as_str().unwrap().to_owned();
                let revision = item["mod_revision"].as_i64().unwrap();
                found.insert(text("key"), Acknowledged { value: text("value"), revision });
            }
            let Some(next) = page["cursor"].as_str() else { return found };
            cursor = format!("&cursor={next}");
        }
    }

    /// Checks that every running node has every acknowledged write, at the
    /// revision that was acknowledged, by linearizable and by local reads.
    pub(crate) async fn assert_has_all(&self, acknowledged: &BTreeMap<String, Acknowledged>) {
        self.settle().await;
        let revisions: std::collections::BTreeSet<_> = acknowledged.values().map(|it| it.revision).collect();
        assert_eq!(revisions.len(), acknowledged.len(), "a revision was acknowledged twice");
        for node in self.responsive() {
            for consistency in ["linearizable", "local"] {
                let found = self.scan(node.id, "load-", consistency).await;
                for (key, write) in acknowledged {
                    assert_eq!(found.get(key), Some(write), "{key} on node {} ({consistency})", node.id);
                }
            }
        }
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in self.nodes.values() {
                node.show_log();
            }
        }
    }
}
