//! Proposes writes as the leader, many at once.

use std::time::Duration;

use futures_util::StreamExt as _;
use openraft::errors::ClientWriteError;
use tokio::time::Instant;

use super::consensus::leader_of;
use super::write_queue::{Bounds, Waiting, WriteQueue};
use crate::command::Proposal;
use crate::openraft_network::forward::ForwardError;
use crate::tasks::Handle;
use crate::{Raft, TypeConfig};

/// While one batch is synced and replicated, the next one gathers: of those that the
/// clients of this node and the other nodes send.
const BOUNDS: Bounds = Bounds { enough: 64, writes: 4096, bytes: 4 << 20 };

/// The way of writes into the log of the leader. On a node that does not lead they
/// are refused.
pub(super) fn start(raft: Raft, runtime: &Handle, deadline: Duration) -> WriteQueue {
    WriteQueue::start(runtime, BOUNDS, move |proposals, waiting| {
        propose(raft.clone(), proposals, waiting, deadline)
    })
}

async fn propose(raft: Raft, proposals: Vec<Proposal>, mut waiting: Waiting, deadline: Duration) {
    let until = Instant::now() + deadline;
    let mut written = match raft.client_write_many(proposals).await {
        Ok(written) => written,
        Err(fatal) => return waiting.fail(&ForwardError::Unknown(fatal.to_string())),
    };
    while waiting.len() > 0 {
        let answer = match tokio::time::timeout_at(until, written.next()).await {
            Ok(Some(Ok(Ok(response)))) => Ok(response.response),
            Ok(Some(Ok(Err(error)))) => Err(refusal(error)),
            Ok(Some(Err(fatal))) => Err(ForwardError::Unknown(fatal.to_string())),
            // A stream that has ended must not be asked again.
            Ok(None) => return waiting.fail(&ForwardError::Unknown("the leader is stopping".to_owned())),
            // Others may go on; these are not in the way of the next ones for ever.
            Err(_) => return waiting.fail(&ForwardError::Unknown(format!("no answer within {deadline:?}"))),
        };
        waiting.answer(answer);
    }
}

/// What Openraft's refusal says about the write's fate. Only a redirect is
/// certain; a discarded entry may survive on another node.
fn refusal(error: ClientWriteError<TypeConfig>) -> ForwardError {
    match error {
        ClientWriteError::ForwardToLeader(forward) => ForwardError::NotLeader { leader: leader_of(forward) },
        other @ (ClientWriteError::LogEntryDiscarded(_)
        | ClientWriteError::ChangeMembershipError(_)
        | ClientWriteError::PreconditionFailed(_)) => ForwardError::Unknown(other.to_string()),
    }
}
