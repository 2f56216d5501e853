//! What nodes tell about themselves and the members.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::history::NodeId;

/// A node's own account of itself: the parts of `GET /v1/status` that the harness needs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Status {
    /// The node's id.
    pub node_id: NodeId,
    /// `leader`, `follower`, `candidate`, `learner` or `uninitialized`.
    pub role: String,
    /// The current term.
    pub term: u64,
    /// The leader that it knows of.
    pub leader_id: Option<NodeId>,
    /// Index of the last entry in its log.
    pub last_log_index: Option<u64>,
    /// Index of the last entry that it has applied.
    pub applied_index: Option<u64>,
    /// The revision of its data.
    pub revision: i64,
    /// The newest compacted revision.
    pub compacted_revision: i64,
    /// Hash over all changes up to the revision.
    pub state_hash: String,
}

/// The members as a node sees them.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Members {
    pub(crate) members: Vec<Member>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Member {
    pub(crate) id: NodeId,
    pub(crate) role: String,
}

/// Who leads, of nodes that were asked at about the same time: several may say so, and
/// the one with the highest term is right.
pub(crate) fn leader_of(statuses: &BTreeMap<NodeId, Result<Status, String>>) -> Option<NodeId> {
    let known = statuses.values().flatten();
    known
        .filter(|status| status.role == "leader")
        .max_by_key(|status| status.term)
        .map(|status| status.node_id)
}

/// Whether all nodes have applied the same log to its end under one leader; the error
/// says how far they are.
pub(crate) fn agreed(statuses: &BTreeMap<NodeId, Result<Status, String>>) -> Result<(), String> {
    let mut accounts = statuses.values();
    let Some(Ok(first)) = accounts.next() else { return Err(summary(statuses)) };
    let reached = |status: &Status| (status.last_log_index, status.term, status.leader_id);
    let is_agreed = statuses.values().all(|account| match account {
        Ok(status) => {
            status.applied_index == status.last_log_index
                && status.leader_id.is_some()
                && reached(status) == reached(first)
        }
        Err(_) => false,
    });
    if is_agreed { Ok(()) } else { Err(summary(statuses)) }
}

fn summary(statuses: &BTreeMap<NodeId, Result<Status, String>>) -> String {
    let lines = statuses.iter().map(|(id, account)| match account {
        Ok(status) => format!(
            "node {id}: {} in term {} of leader {:?}, log to {:?}, applied to {:?}",
            status.role, status.term, status.leader_id, status.last_log_index, status.applied_index
        ),
        Err(error) => format!("node {id}: {error}"),
    });
    lines.collect::<Vec<_>>().join("; ")
}
