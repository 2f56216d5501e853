//! Confirms with a majority that this node still leads.
//!
//! Openraft 0.10.0-alpha.37 offers to do this itself, but can take an answer for
//! younger than it is: it matches answers to appends by their last log id, so that
//! an old answer counts for an append that was sent later and ends at the same log
//! id. A leader that stood still, was replaced, and then found old answers in its
//! sockets served reads from its old state. So what a read rests on is a round of
//! messages of our own: each is sent after the reader came, and its answer is the
//! answer to it and to nothing else.
//!
//! A message is an append without entries, which is what a heartbeat is: whoever
//! takes it has voted for nobody newer by then, and so no newer leader had its
//! vote when the reader came (Raft, section 6.4 of Ongaro's dissertation).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use tokio::sync::Semaphore;

use crate::openraft_network::Transport;
use crate::openraft_network::transport::Purpose;
use crate::openraft_network::wire::Message;
use crate::tasks::Handle;
use crate::{Membership, NodeId, TypeConfig, Vote};

/// How many rounds may have an answer outstanding that no longer matters to them.
const MAX_STRAGGLERS: usize = 64;

/// Why leadership is not confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unconfirmed {
    /// Somebody follows a newer leader or candidate.
    Deposed,
    /// Too few answered.
    TooFew {
        /// Those who did, this node included.
        confirmed: BTreeSet<NodeId>,
    },
}

/// Asks the other voters on behalf of this node.
pub(super) struct Leadership {
    transport: Transport,
    runtime: Handle,
    stragglers: Arc<Semaphore>,
}

impl Leadership {
    pub(super) fn new(transport: Transport, runtime: Handle) -> Self {
        Self { transport, runtime, stragglers: Arc::new(Semaphore::new(MAX_STRAGGLERS)) }
    }

    /// Asks the voters of `membership` whether the leader of `vote`, this node, still
    /// leads, until a majority has said so.
    ///
    /// # Errors
    /// As soon as one says no, or when all have answered or failed within `deadline`.
    pub(super) async fn confirm(
        &self,
        vote: Vote,
        membership: &Membership,
        deadline: Duration,
    ) -> Result<(), Unconfirmed> {
        let transport = &self.transport;
        let me = transport.node_id();
        let request = AppendEntriesRequest::<TypeConfig> {
            vote,
            prev_log_id: None,
            entries: Vec::new(),
            leader_commit: None,
        };
        let body = request.encode(transport.encoding());
        let mut confirmed = BTreeSet::from([me]);
        let mut answers: FuturesUnordered<_> = membership
            .voter_ids()
            .filter(|voter| *voter != me)
            .filter_map(|voter| membership.get_node(&voter).map(|node| (voter, node.addr.clone())))
            .map(|(voter, addr)| {
                let (transport, body) = (transport.clone(), body.clone());
                async move {
                    let answer =
                        transport.call(Purpose::Heartbeat, voter, &addr, "/append", body, deadline).await;
                    (voter, answer)
                }
            })
            .collect();
        while !is_majority(membership, &confirmed) {
            let Some((voter, answer)) = answers.next().await else {
                return Err(Unconfirmed::TooFew { confirmed });
            };
            let answer = answer
                .map(|answer| AppendEntriesResponse::<TypeConfig>::decode(transport.encoding(), answer));
            match answer {
                Ok(Ok(AppendEntriesResponse::HigherVote(_))) => return Err(Unconfirmed::Deposed),
                Ok(Ok(
                    AppendEntriesResponse::Success
                    | AppendEntriesResponse::PartialSuccess(_)
                    | AppendEntriesResponse::Conflict,
                )) => {
                    confirmed.insert(voter);
                }
                // Nobody who is silent or talks nonsense confirms anything.
                Ok(Err(_)) | Err(_) => {}
            }
        }
        // A call that is given up takes its connection with it, and the next round would
        // have to make another. Only so many, for a voter that never answers.
        if !answers.is_empty()
            && let Ok(place) = Arc::clone(&self.stragglers).try_acquire_owned()
        {
            self.runtime.spawn(async move {
                while answers.next().await.is_some() {}
                drop(place);
            });
        }
        Ok(())
    }
}

/// Whether `nodes` are a majority of the voters, of both sets while these change.
fn is_majority(membership: &Membership, nodes: &BTreeSet<NodeId>) -> bool {
    membership.get_joint_config().iter().all(|voters| voters.intersection(nodes).count() > voters.len() / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Member;
    use std::collections::BTreeMap;

    fn membership(configs: &[&[NodeId]]) -> Membership {
        let configs: Vec<BTreeSet<_>> =
            configs.iter().map(|voters| voters.iter().copied().collect()).collect();
        let nodes: BTreeMap<_, _> =
            configs.iter().flatten().map(|id| (*id, Member { addr: format!("127.0.0.1:{id}") })).collect();
        Membership::new(configs, nodes).unwrap()
    }

    #[test]
    fn a_majority_of_each_set_of_voters_is_needed() {
        for (configs, nodes, is_enough) in [
            (&[&[1][..]][..], &[1][..], true),
            (&[&[1, 2]], &[1], false),
            (&[&[1, 2]], &[1, 2], true),
            (&[&[1, 2, 3]], &[1], false),
            (&[&[1, 2, 3]], &[1, 3], true),
            (&[&[1, 2, 3, 4]], &[1, 2], false),
            // A leader that is no voter does not count for itself.
            (&[&[2, 3, 4]], &[1, 2], false),
            (&[&[2, 3, 4]], &[1, 2, 3], true),
            (&[&[1, 2, 3], &[3, 4, 5]], &[1, 2, 3], false),
            (&[&[1, 2, 3], &[3, 4, 5]], &[2, 3, 4], true),
        ] {
            let nodes = nodes.iter().copied().collect();
            assert_eq!(is_majority(&membership(configs), &nodes), is_enough, "{configs:?} {nodes:?}");
        }
    }
}
