//! Proposes writes as the leader, many at once.

use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use openraft::errors::{ClientWriteError, Fatal};
use openraft::raft::WriteResult;
use tokio::time::Instant;

use super::consensus::leader_of;
use super::token_clock::TokenClock;
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
pub(super) fn start(raft: Raft, clock: TokenClock, runtime: &Handle, deadline: Duration) -> WriteQueue {
    WriteQueue::start(runtime, BOUNDS, move |proposals, waiting| {
        // As late as can be: what waited longer may have waited for another leader.
        let now = clock.read();
        let proposals = proposals.into_iter().map(|proposal| proposal.proposed_at(now)).collect();
        propose(raft.clone(), proposals, waiting, deadline)
    })
}

async fn propose(raft: Raft, proposals: Vec<Proposal>, waiting: Waiting, deadline: Duration) {
    let until = Instant::now() + deadline;
    match raft.client_write_many(proposals).await {
        Ok(written) => answer_all(written, waiting, until, deadline).await,
        Err(fatal) => waiting.fail(&ForwardError::Unknown(fatal.to_string())),
    }
}

/// Passes on what becomes of the writes, until all are answered or Raft has ended.
async fn answer_all(
    mut written: impl Stream<Item = Result<WriteResult<TypeConfig>, Fatal<TypeConfig>>> + Unpin,
    mut waiting: Waiting,
    until: Instant,
    deadline: Duration,
) {
    while waiting.len() > 0 {
        let answer = match tokio::time::timeout_at(until, written.next()).await {
            Ok(Some(Ok(Ok(response)))) => Ok(response.response),
            Ok(Some(Ok(Err(error)))) => Err(refusal(error)),
            // Nothing follows either of these two, and the stream must not be asked again.
            Ok(Some(Err(fatal))) => return waiting.fail(&ForwardError::Unknown(fatal.to_string())),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;

    /// As Raft's own streams do, this one panics when it is asked again after its end.
    fn that_ends(
        first: Option<Fatal<TypeConfig>>,
    ) -> impl Stream<Item = Result<WriteResult<TypeConfig>, Fatal<TypeConfig>>> + Unpin {
        let next = |left: Option<_>| async move { left.map(|fatal| (Err(fatal), None)) };
        Box::pin(futures_util::stream::unfold(first, next))
    }

    #[tokio::test]
    async fn writes_that_raft_no_longer_answers_are_of_unknown_fate() {
        for first in [None, Some(Fatal::Stopped)] {
            let first = std::sync::Mutex::new(Some(that_ends(first)));
            let queue = WriteQueue::start(&Handle::current(), BOUNDS, move |_, waiting| {
                let written = first.lock().unwrap().take();
                async move {
                    let until = Instant::now() + Duration::from_secs(60);
                    answer_all(written.unwrap(), waiting, until, Duration::from_secs(60)).await;
                }
            });
            let key = |key: &str| Command::delete(key.to_owned()).encode();
            let (one, other) = tokio::join!(queue.put(key("a")), queue.put(key("b")));
            for pending in [one.unwrap(), other.unwrap()] {
                let answer = pending.answer().await;
                assert!(
                    matches!(&answer, Err(ForwardError::Unknown(reason)) if reason != "the node is stopping"),
                    "{answer:?}"
                );
            }
        }
    }
}
