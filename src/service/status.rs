//! What a node tells about itself and its cluster.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::metrics::RaftMetrics;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::handle::Service;
use crate::command::Alarm;
use crate::error::Error;
use crate::openraft_network::forward::{ManageRequest, ManageResponse};
use crate::openraft_network::transport::Purpose;
use crate::openraft_network::wire::JSON;
use crate::{NodeId, TypeConfig};

/// How long a peer may take to tell its status.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a snapshot that was asked for may take to be built.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a leader may take to confirm that it leads.
const READY_TIMEOUT: Duration = Duration::from_secs(1);
/// How long to wait before a snapshot is asked for again.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(2);
/// How far behind a node that is ready may be.
const READY_LAG: u64 = 10_000;

/// One node's own account of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// The node's id.
    pub node_id: NodeId,
    /// The cluster it belongs to, 16 hexadecimal digits.
    pub cluster_id: Option<String>,
    /// The release.
    pub version: String,
    /// Where peers reach it.
    pub addr: String,
    /// Where clients reach it.
    pub http_addr: String,
    /// Where clients of etcd reach it over gRPC; absent if it does not serve them.
    pub grpc_addr: Option<String>,
    /// `leader`, `follower`, `candidate`, `learner` or `uninitialized`.
    pub role: String,
    /// The current term.
    pub term: u64,
    /// The leader it knows of.
    pub leader_id: Option<NodeId>,
    /// Index of the last entry in its log.
    pub last_log_index: Option<u64>,
    /// Index of the last entry that it knows to be committed.
    pub committed_index: Option<u64>,
    /// Index of the last entry that it has applied.
    pub applied_index: Option<u64>,
    /// Index of the last entry in its snapshot.
    pub snapshot_index: Option<u64>,
    /// Index of the last entry that was purged from its log.
    pub purged_index: Option<u64>,
    /// The revision of its data.
    pub revision: i64,
    /// The newest compacted revision; zero when nothing was compacted.
    pub compacted_revision: i64,
    /// Hash over all changes up to `revision`, 16 hexadecimal digits: replicas at
    /// equal revisions agree on it.
    pub state_hash: String,
    /// Bytes of its data on disk.
    pub data_bytes: u64,
    /// Bytes of memory in use.
    pub resident_bytes: u64,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// The raised alarms that it knows of.
    #[serde(default)]
    pub alarms: Vec<RaisedAlarm>,
}

/// An alarm that is raised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RaisedAlarm {
    /// Whose it is; any number.
    pub member_id: u64,
    /// `NOSPACE` or `CORRUPT`.
    pub alarm: String,
}

impl RaisedAlarm {
    fn of(Alarm { kind, member }: Alarm) -> Self {
        Self { member_id: member, alarm: kind.to_string() }
    }
}

/// One member as the answering node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemberStatus {
    /// The member's id.
    pub id: NodeId,
    /// Where peers reach it.
    pub addr: String,
    /// `voter` or `learner`.
    pub role: String,
    /// Whether it leads.
    pub leader: bool,
    /// Whether it answered just now.
    pub reachable: bool,
    /// Index up to which its log matches the leader's.
    pub matched_index: Option<u64>,
    /// How many entries it is behind the leader's log.
    pub lag: Option<u64>,
    /// Its own account, if it answered.
    pub status: Option<Status>,
    /// Why it did not answer.
    pub error: Option<String>,
}

/// The cluster as the answering node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Members {
    /// The cluster, 16 hexadecimal digits.
    pub cluster_id: Option<String>,
    /// Who leads.
    pub leader_id: Option<NodeId>,
    /// All voters and learners.
    pub members: Vec<MemberStatus>,
}

/// Term, leader and index of a log entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogPosition {
    /// The term in which it was proposed.
    pub term: u64,
    /// The leader that proposed it.
    pub node_id: NodeId,
    /// Its index.
    pub index: u64,
}

/// A snapshot that was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotInfo {
    /// The snapshot's name in the data folder.
    pub snapshot_id: String,
    /// The last log entry that it covers.
    pub log_id: LogPosition,
}

/// Who answers, as answers to etcd's clients say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The cluster; zero while the node belongs to none.
    pub cluster_id: u64,
    /// The node.
    pub member_id: u64,
    /// The current term.
    pub term: u64,
}

/// A hash over all changes up to a revision. Replicas agree on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateHash {
    /// The hash.
    pub hash: u64,
    /// The revision that it reaches.
    pub revision: i64,
    /// The revision below which nothing can be read; zero if nothing was compacted.
    pub compacted: i64,
}

impl Service {
    pub(super) fn metrics(&self) -> RaftMetrics<TypeConfig> {
        self.inner.raft.metrics().borrow_watched().clone()
    }

    /// Who this node is.
    pub fn identity(&self) -> Identity {
        Identity {
            // Zero stands for none, here and at the clients.
            cluster_id: self.inner.data.belonging().map_or(0, |it| it.cluster_id.0.max(1)),
            member_id: self.node_id(),
            term: self.inner.view.borrow().vote.leader_id.term,
        }
    }

    /// Whether this node is a member without a vote.
    pub fn is_learner(&self) -> bool {
        let membership = &self.inner.view.borrow().membership;
        let node = self.node_id();
        membership.get_node(&node).is_some() && !membership.voter_ids().any(|voter| voter == node)
    }

    /// Whether a leader that a quorum follows answers this node just now.
    pub async fn has_leader(&self) -> bool {
        let confirmed = tokio::time::timeout(READY_TIMEOUT, self.inner.read_index.get()).await;
        matches!(confirmed, Ok(Ok(_)))
    }

    /// The revision of this node's data.
    pub fn revision(&self) -> i64 {
        self.inner.store.store().revision()
    }

    /// The hash of this node's state at `revision`, or now if that is zero.
    ///
    /// # Errors
    /// When the revision can't be read.
    pub async fn hash_at(&self, revision: i64) -> Result<StateHash, Error> {
        let deadline = Instant::now() + self.inner.options.request_timeout;
        self.scan(deadline, move |store| {
            let (revision, hash) = match revision {
                0 => store.state_hash(),
                past => (past, store.hash_at(past)?),
            };
            Ok(StateHash { hash, revision, compacted: store.compacted_revision() })
        })
        .await
    }

    /// This node's account of itself.
    pub fn status(&self) -> Status {
        let metrics = self.metrics();
        let store = self.inner.store.store();
        let (revision, hash) = store.state_hash();
        let index = |log_id: Option<crate::LogId>| log_id.map(|it| it.index);
        Status {
            node_id: self.node_id(),
            cluster_id: self.inner.data.belonging().map(|it| it.cluster_id.to_string()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            addr: self.inner.options.advertise_addr.clone(),
            http_addr: self.inner.options.http_addr.to_string(),
            grpc_addr: self.inner.options.grpc_addr.clone(),
            role: self.role(&metrics).to_owned(),
            term: metrics.current_term,
            leader_id: metrics.current_leader,
            last_log_index: metrics.last_log_index,
            committed_index: index(metrics.local_committed),
            applied_index: index(metrics.last_applied),
            snapshot_index: index(metrics.snapshot),
            purged_index: index(metrics.purged),
            revision,
            compacted_revision: store.compacted_revision(),
            state_hash: format!("{hash:016x}"),
            data_bytes: store.disk_bytes() + self.inner.data.log_bytes(),
            resident_bytes: resident_bytes(),
            uptime_seconds: self.inner.started.elapsed().as_secs(),
            alarms: self.known_alarms().into_iter().map(RaisedAlarm::of).collect(),
        }
    }

    fn role(&self, metrics: &RaftMetrics<TypeConfig>) -> &'static str {
        let is_member = metrics.membership_config.get_node(&self.node_id()).is_some();
        match metrics.state {
            ServerState::Leader => "leader",
            ServerState::Follower => "follower",
            ServerState::Candidate => "candidate",
            ServerState::Learner if !is_member && metrics.last_log_index.is_none() => "uninitialized",
            ServerState::Learner => "learner",
            ServerState::Shutdown => "stopping",
        }
    }

    /// All members, each asked for its status.
    ///
    /// # Errors
    /// None today; unreachable members are part of the answer.
    pub async fn members(&self) -> Result<Members, Error> {
        let view = self.view();
        let progress = self.known_progress().await;
        let voters: std::collections::BTreeSet<_> = view.membership.voter_ids().collect();
        let nodes: Vec<_> = view.membership.nodes().map(|(id, member)| (*id, member.addr.clone())).collect();
        let asked = nodes.iter().map(|(id, addr)| self.status_of(*id, addr));
        let statuses = join_all(asked).await;
        let members = nodes.iter().zip(statuses).map(|((id, addr), status)| {
            let (last_log_index, matched) = &progress;
            let matched_index = matched.iter().find(|(node, _)| node == id).and_then(|(_, index)| *index);
            let lag = last_log_index.zip(matched_index).map(|(last, matched)| last.saturating_sub(matched));
            let (status, error) = match status {
                Ok(status) => (Some(status), None),
                Err(error) => (None, Some(error)),
            };
            MemberStatus {
                id: *id,
                addr: addr.clone(),
                role: if voters.contains(id) { "voter" } else { "learner" }.to_owned(),
                leader: view.leader == Some(*id),
                reachable: status.is_some(),
                matched_index,
                lag,
                status,
                error,
            }
        });
        Ok(Members {
            cluster_id: self.inner.data.belonging().map(|it| it.cluster_id.to_string()),
            leader_id: view.leader,
            members: members.collect(),
        })
    }

    /// The leader's last index and each member's matching one, if a leader tells.
    async fn known_progress(&self) -> (Option<u64>, Vec<(NodeId, Option<u64>)>) {
        if self.view().leader.is_none() {
            return (None, Vec::new());
        }
        let asked = tokio::time::timeout(STATUS_TIMEOUT, self.manage(ManageRequest::Replication)).await;
        match asked {
            Ok(Ok(ManageResponse::Replication { last_log_index, matched })) => (last_log_index, matched),
            Ok(_) | Err(_) => (None, Vec::new()),
        }
    }

    pub(super) async fn status_of(&self, id: NodeId, addr: &str) -> Result<Status, String> {
        if id == self.node_id() {
            return Ok(self.status());
        }
        let body = bytes::Bytes::from_static(b"{}");
        let answer = self
            .inner
            .transport
            .call_as(Purpose::Forward, id, addr, "/peer-status", JSON, body, STATUS_TIMEOUT)
            .await
            .map_err(|error| error.to_string())?;
        let status = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
        self.inner.client_addrs.remember(&status);
        Ok(status)
    }

    /// Whether the node serves: a leader confirms with a majority that it leads,
    /// and this node is a member that has nearly caught up with it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] with the reason when it does not.
    pub async fn ready(&self) -> Result<(), Error> {
        let not_ready = |reason: String| Error::Unavailable { reason, retry_after: Duration::from_secs(1) };
        if self.view().membership.get_node(&self.node_id()).is_none() {
            return Err(not_ready(format!("node {} is not a member of a cluster yet", self.node_id())));
        }
        let confirmed = tokio::time::timeout(READY_TIMEOUT, self.inner.read_index.get()).await;
        let committed = match confirmed {
            Ok(Ok(index)) => index,
            Ok(Err(error)) => return Err(not_ready(format!("no leader confirms that it leads: {error}"))),
            Err(_) => {
                return Err(not_ready(format!("no leader confirmed within {READY_TIMEOUT:?} that it leads")));
            }
        };
        let applied = self.inner.store.applied_index().load(Ordering::Acquire);
        if applied + READY_LAG < committed {
            return Err(not_ready(format!(
                "node {} is catching up: it has applied log index {applied} of {committed}",
                self.node_id()
            )));
        }
        Ok(())
    }

    /// Builds a snapshot on this node and purges the log behind it.
    ///
    /// # Errors
    /// [`Error::Conflict`] when there is nothing to put into one.
    pub async fn build_snapshot(&self) -> Result<SnapshotInfo, Error> {
        let node = self.node_id();
        let internal = |reason: String| Error::Internal { node, reason };
        let Some(applied) = self.inner.store.applied_log_id() else {
            return Err(Error::Conflict {
                code: "conflict",
                message: format!(
                    "node {node} has applied nothing yet, so there is nothing to put into a snapshot"
                ),
            });
        };
        let trigger = self.inner.raft.trigger();
        let deadline = Instant::now() + SNAPSHOT_TIMEOUT;
        loop {
            // Asked for again and again: it is put off while a snapshot is being sent.
            trigger.snapshot().await.map_err(|fatal| internal(fatal.to_string()))?;
            let soon = (Instant::now() + SNAPSHOT_RETRY).min(deadline);
            if self.wait_metrics(soon, |metrics| metrics.snapshot >= Some(applied)).await {
                break;
            }
            if Instant::now() >= deadline {
                return Err(Error::StillRunning(format!(
                    "no snapshot was built within {SNAPSHOT_TIMEOUT:?}; it waits while one is being sent to a node"
                )));
            }
        }
        let Some((meta, snapshot_id)) = self.inner.store.current_snapshot() else {
            return Err(internal("the snapshot that was just built is gone".to_owned()));
        };
        let log_id = meta.last_log_id.unwrap_or(applied);
        trigger.purge_log(log_id.index).await.map_err(|fatal| internal(fatal.to_string()))?;
        // Purging lags behind while entries are on their way to a follower; the
        // snapshot is there all the same.
        let soon = Instant::now() + Duration::from_secs(1);
        self.wait_metrics(soon, |metrics| metrics.purged >= Some(log_id)).await;
        let leader = log_id.committed_leader_id();
        Ok(SnapshotInfo {
            snapshot_id,
            log_id: LogPosition { term: leader.term, node_id: leader.node_id, index: log_id.index },
        })
    }

    async fn wait_metrics(
        &self,
        deadline: Instant,
        condition: impl Fn(&RaftMetrics<TypeConfig>) -> bool,
    ) -> bool {
        let mut metrics = self.inner.raft.metrics();
        loop {
            if condition(&metrics.borrow_watched()) {
                return true;
            }
            match tokio::time::timeout_at(deadline, metrics.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return false,
            }
        }
    }
}

/// Resident memory of this process in bytes; zero where it can't be read.
pub(super) fn resident_bytes() -> u64 {
    const PAGE_BYTES: u64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * PAGE_BYTES
}
