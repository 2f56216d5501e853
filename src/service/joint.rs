//! Ends changes of the voters that were left between their two steps.
//!
//! Such a change first makes the old and the new voters decide together, and then the new
//! ones alone (Raft, section 4.3 of Ongaro's dissertation). Openraft leaves the second
//! step to whoever began the change, who may be gone by then, or lead no longer. Both
//! majorities would be needed from then on, without anybody's knowing. So each leader
//! looks after it.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::errors::RaftError;
use openraft::{ChangeMembers, ServerState};
use tokio::sync::watch;

use super::handle::View;
use crate::Raft;

/// How long whoever began a change has for its second step.
const PATIENCE: Duration = Duration::from_secs(2);

/// Follows `view` and ends when Raft does.
pub(super) async fn run(raft: Raft, mut view: watch::Receiver<View>) {
    loop {
        let Ok(joint) = view.wait_for(leads_joint).await.map(|view| *view.membership.log_id()) else {
            return;
        };
        let moved_on = view.wait_for(|view| !leads_joint(view) || *view.membership.log_id() != joint);
        match tokio::time::timeout(PATIENCE, moved_on).await {
            Ok(Ok(_)) => continue,
            Ok(Err(_)) => return,
            Err(_) => {}
        }
        // Adds nobody, which is what the second step does: it leaves the new voters.
        match raft.change_membership(ChangeMembers::AddVoterIds(BTreeSet::new()), false).await {
            Ok(_) => tracing::info!("ended a change of the voters that was left half done"),
            Err(RaftError::Fatal(_)) => return,
            // Its first step is not committed yet, or this node leads no longer.
            Err(RaftError::APIError(error)) => {
                tracing::debug!(%error, "a change of the voters can't be ended yet");
            }
        }
    }
}

/// Whether this node leads voters that are being changed.
fn leads_joint(view: &View) -> bool {
    view.state == ServerState::Leader && view.membership.membership().get_joint_config().len() > 1
}
