//! The cluster itself: its nodes, its membership, its leader.
//!
//! What is about one node ([`Client::status`], [`Client::health`],
//! [`Client::snapshot`], …) is asked of whichever endpoint answers; use
//! [`Client::only`] to choose it.

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::call::{Call, Effect};
use crate::query::Query;
use crate::{Client, Error};

/// What a node is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    /// Orders the writes.
    Leader,
    /// Votes and follows a leader.
    Follower,
    /// Asks to be elected.
    Candidate,
    /// Follows without a vote.
    Learner,
    /// Belongs to no cluster yet.
    Uninitialized,
    /// A role that this client does not know.
    #[serde(other)]
    Unknown,
}

/// What a member is by the cluster's membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberRole {
    /// Counts for majorities.
    Voter,
    /// Receives all data and has no vote.
    Learner,
    /// A role that this client does not know.
    #[serde(other)]
    Unknown,
}

/// How one node sees itself and its cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node.
    pub node_id: u64,
    /// The cluster it belongs to, in hexadecimal.
    pub cluster_id: Option<String>,
    /// The release it runs.
    pub version: String,
    /// Where its peers reach it.
    pub addr: String,
    /// Where its HTTP API listens.
    pub http_addr: Option<String>,
    /// What it is.
    pub role: NodeRole,
    /// Its Raft term.
    pub term: u64,
    /// The leader it knows.
    pub leader_id: Option<u64>,
    /// The end of its log.
    pub last_log_index: Option<u64>,
    /// Up to where it knows the log to be agreed.
    pub committed_index: Option<u64>,
    /// Up to where it has executed the log.
    pub applied_index: Option<u64>,
    /// The log index of its newest snapshot.
    pub snapshot_index: Option<u64>,
    /// Up to where its log was dropped.
    pub purged_index: Option<u64>,
    /// The store's revision.
    pub revision: i64,
    /// The revision below which the past cannot be read.
    #[serde(default)]
    pub compacted_revision: i64,
    /// A hash of its state, in hexadecimal; equal on nodes at equal revisions.
    pub state_hash: Option<String>,
    /// Bytes of its data on disk.
    #[serde(default)]
    pub data_bytes: u64,
    /// Bytes of its memory.
    #[serde(default)]
    pub resident_bytes: u64,
    /// Seconds since it started.
    #[serde(default)]
    pub uptime_seconds: f64,
}

/// One member, as the node that answers sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// The member.
    pub id: u64,
    /// Where its peers reach it.
    pub addr: String,
    /// What it is by the membership.
    pub role: MemberRole,
    /// Whether it leads.
    #[serde(default)]
    pub leader: bool,
    /// Whether it answered.
    #[serde(default)]
    pub reachable: bool,
    /// Up to where the leader knows its log to match.
    pub matched_index: Option<u64>,
    /// How many log entries it is behind the leader.
    pub lag: Option<u64>,
    /// Its own words.
    pub status: Option<NodeStatus>,
    /// Why it did not answer.
    pub error: Option<String>,
}

/// The membership.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Members {
    /// The cluster, in hexadecimal.
    pub cluster_id: Option<String>,
    /// The leader, if one is known.
    pub leader_id: Option<u64>,
    /// All members.
    pub members: Vec<Member>,
}

/// Where in the log something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogId {
    /// The term.
    pub term: u64,
    /// The leader of that term.
    pub node_id: u64,
    /// The index.
    pub index: u64,
}

/// A snapshot that was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name.
    pub snapshot_id: String,
    /// The last log entry in it.
    pub log_id: Option<LogId>,
}

/// What a node runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionInfo {
    /// The program, `kvorum`.
    pub name: String,
    /// The release.
    pub version: String,
    /// The version of the stored format.
    pub format: u64,
}

#[derive(Debug, Deserialize)]
struct Transferred {
    leader_id: u64,
}

impl Client {
    /// How the node that answers sees itself.
    pub async fn status(&self) -> Result<NodeStatus, Error> {
        self.execute(&Call::new(Method::GET, "/v1/status", Effect::Read)).await?.json()
    }

    /// All members, each with its own status if it is reachable.
    pub async fn members(&self) -> Result<Members, Error> {
        self.execute(&Call::new(Method::GET, "/v1/members", Effect::Read)).await?.json()
    }

    /// Adds a learner and waits until it has caught up. Repeating it for the
    /// same node goes on waiting.
    ///
    /// # Errors
    /// `Timeout` if it is still catching up at the time limit; the cluster goes
    /// on, and the details hold `matched_index` and `last_log_index`.
    pub async fn add_member(&self, id: u64, addr: &str) -> Result<(), Error> {
        self.manage(Method::POST, "/v1/members", Some(&json!({ "id": id, "addr": addr }))).await
    }

    /// Makes a learner a voter.
    pub async fn promote(&self, id: u64) -> Result<(), Error> {
        self.manage(Method::POST, &format!("/v1/members/{id}/promote"), None).await
    }

    /// Takes a member out. `force` does so even where the cluster would warn.
    pub async fn remove(&self, id: u64, force: bool) -> Result<(), Error> {
        let mut query = Query::default();
        query.flag("force", force);
        self.manage(Method::DELETE, &query.append_to(format!("/v1/members/{id}")), None).await
    }

    /// Makes exactly these members the voters, in one change.
    pub async fn change_membership(&self, voters: &[u64]) -> Result<(), Error> {
        self.manage(Method::POST, "/change-membership", Some(&json!(voters))).await
    }

    /// Hands leadership to `to`, or to the member that has caught up best, and
    /// returns the new leader.
    pub async fn transfer_leader(&self, to: Option<u64>) -> Result<u64, Error> {
        let body = to.map_or_else(|| json!({}), |to| json!({ "to": to }));
        let call = Call::new(Method::POST, "/v1/leader/transfer", Effect::Write).json(&body).privileged();
        self.execute(&call).await?.json().map(|done: Transferred| done.leader_id)
    }

    /// Builds a snapshot on the node that answers and drops its log behind it.
    pub async fn snapshot(&self) -> Result<Snapshot, Error> {
        let call = Call::new(Method::POST, "/v1/snapshot", Effect::Write).privileged();
        self.execute(&call).await?.json()
    }

    /// Forms a cluster of `voters`, or of the node that answers alone if there
    /// are none. Choose the node with [`Client::only`].
    ///
    /// # Errors
    /// `Api` with code `already_initialized` if the node belongs to a cluster.
    pub async fn init(&self, voters: &[(u64, String)]) -> Result<(), Error> {
        self.manage(Method::POST, "/init", Some(&json!(voters))).await
    }

    /// Whether the node is alive: an error if not.
    pub async fn health(&self) -> Result<(), Error> {
        self.execute(&Call::new(Method::GET, "/health", Effect::Probe)).await.map(drop)
    }

    /// Whether the node has a leader and has caught up: `Unavailable`, with why,
    /// if not.
    pub async fn ready(&self) -> Result<(), Error> {
        self.execute(&Call::new(Method::GET, "/ready", Effect::Probe)).await.map(drop)
    }

    /// What the node that answers runs.
    pub async fn version(&self) -> Result<VersionInfo, Error> {
        self.execute(&Call::new(Method::GET, "/version", Effect::Read)).await?.json()
    }

    async fn manage(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<(), Error> {
        let mut call = Call::new(method, path, Effect::Write).privileged();
        if let Some(body) = body {
            call = call.json(body);
        }
        self.execute(&call).await.map(drop)
    }
}

#[cfg(test)]
mod tests;
