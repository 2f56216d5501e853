//! Leadership on purpose: to the voter that is named, or before this node leaves or stops.
//!
//! Openraft gives it up at once and lets the chosen node stand for election. So whoever is
//! chosen here must be able to win.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::cluster::{POLL, lacks_little};
use super::handle::Service;
use crate::NodeId;
use crate::error::Error;
use crate::openraft_network::forward::{ManageRequest, ManageResponse};

/// How long a node may take until it can lead, and then until it does.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(5);

impl Service {
    /// Hands leadership to `to`, or to the most up-to-date other voter.
    ///
    /// # Errors
    /// When there is no such voter or it does not take over in time.
    pub async fn transfer_leader(&self, to: Option<NodeId>) -> Result<NodeId, Error> {
        match self.manage(ManageRequest::TransferLeader { to }).await? {
            ManageResponse::Leader(id) => Ok(id),
            other @ (ManageResponse::Done
            | ManageResponse::Replication { .. }
            | ManageResponse::Failed(_)) => {
                Err(Error::Internal { node: self.node_id(), reason: format!("unexpected answer {other:?}") })
            }
        }
    }

    /// Passes leadership to `to`, or to whom it suits best.
    pub(super) async fn transfer_here(&self, to: Option<NodeId>) -> Result<NodeId, Error> {
        let mine = self.node_id();
        let membership = self.view().membership;
        let others: BTreeSet<_> = membership.voter_ids().filter(|id| *id != mine).collect();
        let to = match to {
            Some(to) if to == mine => return Ok(mine),
            Some(to) if !others.contains(&to) => {
                return Err(Error::Conflict {
                    code: "not_a_voter",
                    message: format!("node {to} is not a voter; only a voter can lead"),
                });
            }
            Some(to) => to,
            None => self.successor_among(&others).await?,
        };
        self.ready_to_lead(to).await?;
        let triggered = self.inner.raft.trigger().transfer_leader(to).await;
        triggered.map_err(|fatal| Error::Internal { node: mine, reason: fatal.to_string() })?;
        let mut view = self.inner.view.clone();
        let changed = view.wait_for(|view| view.leader == Some(to));
        match tokio::time::timeout(TRANSFER_TIMEOUT, changed).await {
            Ok(Ok(_)) => Ok(to),
            Ok(Err(_)) => Err(Error::Internal { node: mine, reason: "Raft has stopped".to_owned() }),
            Err(_) => Err(Error::StillRunning(format!(
                "node {to} did not take over within {TRANSFER_TIMEOUT:?}; it may be down or behind"
            ))),
        }
    }

    /// The node that answers and has caught up best.
    pub(super) async fn successor_among(&self, voters: &BTreeSet<NodeId>) -> Result<NodeId, Error> {
        if voters.is_empty() {
            return Err(Error::Conflict {
                code: "not_a_voter",
                message: "there is no other voter that could lead".to_owned(),
            });
        }
        let reachable = self.reachable_among(voters).await;
        let replication = self.metrics().replication.unwrap_or_default();
        reachable.into_iter().max_by_key(|id| replication.get(id).copied().flatten()).ok_or_else(|| {
            Error::Conflict {
                code: "unreachable_successor",
                message: format!("none of the voters {voters:?} answers, one of which would have to lead"),
            }
        })
    }

    /// Waits until node `id` answers and lacks little of the log. While leadership moves
    /// nothing is written, and with a node that can't take over that lasts until an
    /// election has found another one.
    async fn ready_to_lead(&self, id: NodeId) -> Result<(), Error> {
        let deadline = Instant::now() + TRANSFER_TIMEOUT;
        loop {
            self.require_leadership()?;
            self.probe_member(id).await.map_err(|error| Error::Conflict {
                code: "unreachable_successor",
                message: format!("{error}, so it can't take over; start it first, or choose another node"),
            })?;
            let (last_log_index, matched_index) = self.progress_of(id);
            let purged_index = self.metrics().purged.map(|log_id| log_id.index);
            // What is purged would have to come as a snapshot.
            if matched_index >= purged_index && lacks_little(matched_index, last_log_index) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::CatchUp {
                    message: format!(
                        "node {id} is too far behind to take over; wait until it has caught up, or choose another node"
                    ),
                    matched_index,
                    last_log_index,
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Hands leadership over if this node leads and another voter could; used
    /// before a shutdown and never fails it.
    pub async fn resign(&self) {
        if !self.is_leader() {
            return;
        }
        match self.transfer_here(None).await {
            Ok(id) => tracing::info!(leader = id, "handed leadership over"),
            Err(error) => tracing::info!(%error, "stopping without handing leadership over"),
        }
    }
}
