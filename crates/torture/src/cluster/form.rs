//! How a cluster comes to be: nodes are started and made members one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;

use super::error::HarnessError;
use super::http::Http;
use super::links::Links;
use super::node::{self, Node};
use super::ports::Ports;
use super::settings::Settings;
use super::{Cluster, disk};
use crate::history::NodeId;

/// How long the whole formation may take, and each wait in it.
const LIMIT: Duration = Duration::from_secs(60);

impl Cluster {
    /// Starts nodes 1 to n and makes them a cluster of that many voters.
    pub async fn form(settings: Settings) -> Result<Self, HarnessError> {
        let folder = &settings.folder;
        fs::create_dir_all(folder).map_err(HarnessError::io(format!("creating {}", folder.display())))?;
        node::kill_leftovers(folder)?;
        disk::unmount_leftovers(folder)?;
        if folder.join("node-1").exists() {
            let folder = folder.display();
            return Err(HarnessError::Refused(format!(
                "{folder} holds an earlier run; remove it or choose another"
            )));
        }
        let mut cluster = Self {
            links: Links::default(),
            nodes: BTreeMap::new(),
            retired: Vec::new(),
            http: Http::new(),
            ports: Ports::new(settings.ports.clone()),
            next_id: 1,
            endpoints: watch::Sender::new(Vec::new()),
            replacements: Vec::new(),
            problems: Vec::new(),
            ends: Vec::new(),
            panicked: BTreeSet::new(),
            settings,
        };
        cluster.ports.check()?;
        for _ in 0..cluster.settings.nodes {
            cluster.add_node()?;
        }
        cluster.wait_until_alive().await?;
        cluster.join().await?;
        cluster.settle(LIMIT).await?;
        cluster.publish();
        match cluster.problems.first() {
            None => Ok(cluster),
            Some(problem) => Err(HarnessError::Refused(format!("node {}: {}", problem.node, problem.what))),
        }
    }

    /// Adds a node with an id that was never used and an empty disk; it is started at the
    /// next look and belongs to no cluster yet.
    pub(crate) fn add_node(&mut self) -> Result<NodeId, HarnessError> {
        let id = self.next_id;
        self.next_id += 1;
        let node = Node::new(id, &self.settings, &mut self.ports, &self.links)?;
        self.nodes.insert(id, node);
        Ok(id)
    }

    async fn wait_until_alive(&mut self) -> Result<(), HarnessError> {
        self.wait_for("all nodes answer", LIMIT, |_, statuses| {
            let silent = statuses.iter().find_map(|(id, status)| Some((id, status.as_ref().err()?)));
            silent.map_or(Ok(()), |(id, error)| Err(format!("node {id}: {error}")))
        })
        .await
    }

    async fn join(&self) -> Result<(), HarnessError> {
        let mut nodes = self.nodes.values();
        let Some(first) = nodes.next() else { return Ok(()) };
        self.demand(first, "/init", "[]".to_owned()).await?;
        for node in nodes {
            self.demand(first, "/add-learner", json!([node.id, node.advertised()]).to_string()).await?;
        }
        self.demand(first, "/change-membership", json!(self.ids()).to_string()).await
    }

    async fn demand(&self, node: &Node, path: &str, body: String) -> Result<(), HarnessError> {
        let answer = self.http.post(node.direct(), path, body, LIMIT).await;
        let accepted = answer.and_then(|answer| answer.ok());
        accepted.map_err(|error| HarnessError::Refused(format!("{path} was refused: {error}")))
    }
}
