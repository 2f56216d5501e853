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

/// How far all nodes must come: to the end that the log had when their leader was first
/// seen. Under load the log grows on, and nodes that keep up are never at its end together.
#[derive(Debug, Default)]
pub(crate) struct Goal {
    /// The leader's id and term, and the end of its log.
    end: Option<(NodeId, u64, u64)>,
}

impl Goal {
    /// Whether all nodes follow one leader and have come so far; the error says how far they
    /// are.
    pub(crate) fn reached(
        &mut self,
        statuses: &BTreeMap<NodeId, Result<Status, String>>,
    ) -> Result<(), String> {
        let leader = leader_of(statuses).and_then(|id| statuses.get(&id)?.as_ref().ok());
        let Some(leader) = leader else { return Err(summary(statuses)) };
        // Another leader's log may be shorter.
        let (_, _, end) = *match &mut self.end {
            Some(seen) if (seen.0, seen.1) == (leader.node_id, leader.term) => seen,
            other => other.insert((leader.node_id, leader.term, leader.last_log_index.unwrap_or(0))),
        };
        let is_reached = statuses.values().all(|account| {
            account.as_ref().is_ok_and(|status| {
                (status.leader_id, status.term) == (Some(leader.node_id), leader.term)
                    && status.applied_index >= Some(end)
            })
        });
        if is_reached { Ok(()) } else { Err(format!("to reach {end}: {}", summary(statuses))) }
    }
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
