//! The cluster under torture: nodes as processes, linked through proxies.
//!
//! Nothing here chooses what is done to the cluster, and nothing passes over what a node
//! did that it must not do: an end that nobody asked for, a panic, a start that fails.

mod control;
mod disk;
mod doors;
mod dump;
mod error;
mod form;
mod http;
#[path = "../../../torture-preload/src/layout.rs"]
mod layout;
mod links;
mod node;
mod ports;
mod proxy;
mod replace;
mod settings;
mod status;
mod system;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use self::control::{ControlFile, Counts, DiskFaults, Folders};
pub use self::disk::{Disk, image_disks_work, unmount_leftovers};
pub use self::error::HarnessError;
pub use self::links::{CLIENTS, Effect, Link, Links, RuleId, between};
pub use self::node::Node;
pub use self::ports::Ports;
pub use self::proxy::{Callers, Proxy};
pub(crate) use self::replace::Way;
pub use self::settings::Settings;
pub use self::status::Status;
pub use self::system::Journal;

use self::http::Http;
use self::node::End;
use self::replace::Replacement;
use crate::history::{Nanos, NodeId};

/// How often the cluster is looked after while something is waited for.
const TICK: Duration = Duration::from_millis(50);
/// How long a node may take to tell its status.
const STATUS_LIMIT: Duration = Duration::from_secs(1);

/// Where clients call a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The node.
    pub node: NodeId,
    /// Its HTTP API, `host:port`.
    pub http: String,
    /// Its etcd API over gRPC, `host:port`.
    pub grpc: String,
}

/// Something that a node did and must not do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// When it was noticed.
    pub at: Nanos,
    /// The node.
    pub node: NodeId,
    /// What it was, with the end of its log.
    pub what: String,
}

/// A cluster under torture. Dropping it kills all nodes and unmounts their disks.
#[derive(Debug)]
pub struct Cluster {
    settings: Settings,
    links: Links,
    nodes: BTreeMap<NodeId, Node>,
    retired: Vec<(NodeId, PathBuf)>,
    http: Http,
    ports: Ports,
    next_id: NodeId,
    endpoints: watch::Sender<Vec<Endpoint>>,
    replacements: Vec<Replacement>,
    problems: Vec<Problem>,
    ends: Vec<(NodeId, String)>,
    panicked: BTreeSet<NodeId>,
}

impl Cluster {
    /// What clients call, as it changes with the members.
    pub fn endpoints(&self) -> watch::Receiver<Vec<Endpoint>> {
        self.endpoints.subscribe()
    }

    /// The links between the nodes, and between clients and nodes.
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// The choices for the run.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Nanoseconds since the run began.
    pub fn now(&self) -> Nanos {
        self.settings.begun.elapsed().as_nanos() as Nanos
    }

    /// The nodes that are there, members or about to become or to cease to be so.
    pub fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    /// A node that is there.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id)
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(&id)
    }

    /// The nodes that will stay: none that is being replaced, and none that is not yet a
    /// member.
    pub fn settled_ids(&self) -> Vec<NodeId> {
        let is_changing = |id: &NodeId| {
            self.replacements.iter().any(|change| change.old() == *id || change.new_id() == *id)
        };
        self.nodes.keys().copied().filter(|id| !is_changing(id)).collect()
    }

    /// Whether a member is being replaced.
    pub fn is_changing(&self) -> bool {
        !self.replacements.is_empty()
    }

    /// What nodes did that they must not do, so far. Whether a log tells of a panic is
    /// looked for by [`Self::search_logs`].
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Which nodes ended by themselves as a fault allowed, and why.
    pub fn allowed_ends(&self) -> &[(NodeId, String)] {
        &self.ends
    }

    /// Looks after the cluster: notices what has ended, starts what is to run, carries on
    /// with changes of the members. To be called often.
    pub async fn tick(&mut self) -> Result<(), HarnessError> {
        let mut news = Vec::new();
        for (id, node) in &mut self.nodes {
            match node.reap()? {
                None | Some(End::Stopped | End::PortTaken) => {}
                Some(End::Allowed(why)) => self.ends.push((*id, why)),
                Some(End::Problem(what)) => news.push((*id, what)),
            }
            if node.wants_start() {
                node.start()?;
            }
        }
        for (id, what) in news {
            self.add_problem(id, what);
        }
        self.carry_on_replacing().await
    }

    pub(crate) fn add_problem(&mut self, node: NodeId, what: String) {
        let at = self.now();
        self.problems.push(Problem { at, node, what });
    }

    /// Looks after the cluster for a while.
    pub async fn tend(&mut self, time: Duration) -> Result<(), HarnessError> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.tick().await?;
            tokio::time::sleep(TICK.min(end.saturating_duration_since(Instant::now()))).await;
        }
        Ok(())
    }

    /// What a node tells about itself, past the proxies.
    pub async fn status(&self, id: NodeId) -> Result<Status, String> {
        let node = self.nodes.get(&id).ok_or("there is no such node")?;
        if !node.is_responsive() {
            return Err("it does not run".to_owned());
        }
        self.http.get(node.direct(), "/v1/status", STATUS_LIMIT).await?.parse()
    }

    /// What all nodes tell about themselves.
    pub async fn statuses(&self) -> BTreeMap<NodeId, Result<Status, String>> {
        let asked = self.nodes.keys().map(|id| async { (*id, self.status(*id).await) });
        join_all(asked).await.into_iter().collect()
    }

    /// Who leads, as far as can be seen.
    pub async fn leader(&self) -> Option<NodeId> {
        status::leader_of(&self.statuses().await)
    }

    /// Waits until something holds of all nodes' statuses, and looks after the cluster
    /// meanwhile.
    pub(crate) async fn wait_for(
        &mut self,
        goal: &str,
        limit: Duration,
        mut holds: impl FnMut(&Self, &BTreeMap<NodeId, Result<Status, String>>) -> Result<(), String>,
    ) -> Result<(), HarnessError> {
        let end = Instant::now() + limit;
        loop {
            self.tick().await?;
            if let Some(id) = self.nodes.values().find(|node| node.is_given_up()).map(|node| node.id) {
                return Err(HarnessError::Refused(format!("node {id} does not start any more")));
            }
            let statuses = self.statuses().await;
            match holds(self, &statuses) {
                Ok(()) => return Ok(()),
                Err(seen) if Instant::now() >= end => {
                    return Err(HarnessError::TooLate { waited: limit, goal: goal.to_owned(), seen });
                }
                Err(_) => tokio::time::sleep(TICK).await,
            }
        }
    }

    /// Makes everything whole that faults have left broken: links, disks, clocks, and all
    /// nodes run.
    pub fn heal(&mut self) -> Result<(), HarnessError> {
        self.links.heal();
        self.nodes.values_mut().try_for_each(Node::heal)
    }

    /// Makes everything whole and waits as [`Self::settle`] does.
    pub async fn recover(&mut self, limit: Duration) -> Result<(), HarnessError> {
        self.heal()?;
        self.settle(limit).await
    }

    /// Waits until no member is being replaced and all have applied the log as far as it
    /// went when their leader was first seen.
    pub async fn settle(&mut self, limit: Duration) -> Result<(), HarnessError> {
        let mut end = status::Goal::default();
        let settled = |cluster: &Self, statuses: &BTreeMap<_, _>| {
            if let Some(change) = cluster.replacements.first() {
                return Err(change.to_string());
            }
            end.reached(statuses)
        };
        self.wait_for("all nodes follow one leader and have applied its log", limit, settled).await
    }

    /// Asks a node for something that changes the cluster, in the background and once;
    /// whether it succeeds is not promised. Gives false if there is no such node.
    pub(crate) fn ask(&self, id: NodeId, path: &str, body: String, limit: Duration) -> bool {
        let Some(node) = self.nodes.get(&id) else { return false };
        let (http, address, path) = (self.http.clone(), node.direct().to_owned(), path.to_owned());
        tokio::spawn(async move { http.post(&address, &path, body, limit).await });
        true
    }

    /// Looks into all logs, those of removed nodes too, for panics; each node that had
    /// one is one problem, however often this is called.
    pub fn search_logs(&mut self) {
        let running = self.nodes.iter().map(|(id, node)| (*id, node.log_path()));
        let logs: Vec<_> = running.chain(self.retired.iter().cloned()).collect();
        for (id, path) in logs {
            let log = node::read_log(&path);
            let mut lines = log.lines().skip_while(|line| !line.contains("panicked at")).take(3).peekable();
            if lines.peek().is_some() && self.panicked.insert(id) {
                let quoted = lines.collect::<Vec<_>>().join("\n");
                self.add_problem(id, format!("it panicked: {quoted}"));
            }
        }
    }

    /// Tells all nodes to stop and waits until they have; a node that does not stop
    /// cleanly is a problem.
    pub async fn stop(&mut self) -> Result<(), HarnessError> {
        self.nodes.values_mut().try_for_each(Node::terminate)?;
        while self.nodes.values().any(Node::is_running) {
            self.tick().await?;
            tokio::time::sleep(TICK).await;
        }
        Ok(())
    }

    fn publish(&self) {
        let joining = |id: &NodeId| self.replacements.iter().any(|change| change.is_joining(*id));
        let list = self.nodes.values().filter(|node| !joining(&node.id)).map(|node| Endpoint {
            node: node.id,
            http: node.http().to_owned(),
            grpc: node.grpc().to_owned(),
        });
        self.endpoints.send_replace(list.collect());
    }
}
