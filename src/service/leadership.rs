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
//!
//! No more voters are asked than a majority needs, those first that were quickest to
//! answer lately; the others once one of them does not answer soon. Every message costs
//! both sides more than the read that it is for.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::openraft_network::Transport;
use crate::openraft_network::transport::Purpose;
use crate::openraft_network::wire::Message;
use crate::tasks::Handle;
use crate::{Membership, NodeId, TypeConfig, Vote};

/// How many rounds may have an answer outstanding that no longer matters to them.
const MAX_STRAGGLERS: usize = 64;

/// How long those who are asked first may take before the others are asked too. Long
/// beside the way to a near voter; where all are far away, all are asked.
const PATIENCE: Duration = Duration::from_millis(10);
/// How often all are asked, which shows who is the quickest.
const COMPARISON_PAUSE: Duration = Duration::from_secs(1);

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
    pace: Arc<Mutex<Pace>>,
}

impl Leadership {
    pub(super) fn new(transport: Transport, runtime: Handle) -> Self {
        Self {
            transport,
            runtime,
            stragglers: Arc::new(Semaphore::new(MAX_STRAGGLERS)),
            pace: Arc::default(),
        }
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
        let ask = |voter: NodeId| {
            let addr = membership.get_node(&voter).map(|node| node.addr.clone()).unwrap_or_default();
            let (transport, body, pace) = (transport.clone(), body.clone(), Arc::clone(&self.pace));
            async move {
                let begun = Instant::now();
                let answer =
                    transport.call(Purpose::Heartbeat, voter, &addr, "/append", body, deadline).await;
                let answer = answer
                    .map(|answer| AppendEntriesResponse::<TypeConfig>::decode(transport.encoding(), answer));
                pace.lock().note(voter, matches!(answer, Ok(Ok(_))).then(|| begun.elapsed()));
                (voter, answer)
            }
        };
        let (first, mut others) = self.pace.lock().part(membership, me);
        let mut answers: FuturesUnordered<_> = first.iter().copied().map(ask).collect();
        let mut patience = pin!(tokio::time::sleep(PATIENCE));
        while !is_majority(membership, &confirmed) {
            // None if those who were asked have answered or are silent.
            let next = tokio::select! {
                biased;
                next = answers.next() => next,
                () = &mut patience, if !others.is_empty() => {
                    // The next round does not wait for them; what they take shows once they answer.
                    let silent = first.iter().filter(|voter| !confirmed.contains(voter));
                    silent.for_each(|voter| self.pace.lock().note(*voter, None));
                    None
                }
            };
            match next {
                Some((_, Ok(Ok(AppendEntriesResponse::HigherVote(_))))) => return Err(Unconfirmed::Deposed),
                Some((
                    voter,
                    Ok(Ok(
                        AppendEntriesResponse::Success
                        | AppendEntriesResponse::PartialSuccess(_)
                        | AppendEntriesResponse::Conflict,
                    )),
                )) => {
                    confirmed.insert(voter);
                }
                None if others.is_empty() => return Err(Unconfirmed::TooFew { confirmed }),
                // Nobody who is silent or talks nonsense confirms anything.
                Some((_, Ok(Err(_)) | Err(_))) | None => answers.extend(others.drain(..).map(ask)),
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

/// How quickly voters answered lately.
#[derive(Debug, Default)]
struct Pace {
    /// `None` for one that did not answer.
    last: BTreeMap<NodeId, Option<Duration>>,
    compared: Option<Instant>,
}

impl Pace {
    fn note(&mut self, voter: NodeId, took: Option<Duration>) {
        self.last.insert(voter, took);
    }

    /// The voters besides `me`: those to ask at once, and the others. All at once when it
    /// is time to compare them, and while two sets of voters have to agree.
    fn part(&mut self, membership: &Membership, me: NodeId) -> (Vec<NodeId>, Vec<NodeId>) {
        let mut voters: Vec<_> = membership.voter_ids().filter(|voter| *voter != me).collect();
        let now = Instant::now();
        let is_time = self.compared.is_none_or(|then| now.duration_since(then) >= COMPARISON_PAUSE);
        let [set] = membership.get_joint_config().as_slice() else { return (voters, Vec::new()) };
        if is_time {
            self.compared = Some(now);
            // Whoever is no voter any more is forgotten, and who never answers comes last.
            self.last = voters.iter().map(|voter| (*voter, None)).collect();
            return (voters, Vec::new());
        }
        voters.sort_by_key(|voter| self.last.get(voter).copied().flatten().unwrap_or(Duration::MAX));
        let needed = set.len() / 2 + usize::from(!set.contains(&me));
        let others = voters.split_off(needed.min(voters.len()));
        (voters, others)
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

    fn pace(answers: &[(NodeId, Option<u64>)]) -> Pace {
        let mut pace = Pace { compared: Some(Instant::now()), ..Pace::default() };
        for &(voter, millis) in answers {
            pace.note(voter, millis.map(Duration::from_millis));
        }
        pace
    }

    #[test]
    fn the_quickest_are_asked_first_and_no_more_than_a_majority_needs() {
        let five = membership(&[&[1, 2, 3, 4, 5]]);
        let mut known = pace(&[(2, Some(9)), (3, None), (4, Some(1)), (5, Some(5))]);
        assert_eq!(known.part(&five, 1), (vec![4, 5], vec![2, 3]));
        known.note(4, None);
        known.note(3, Some(Duration::from_millis(2)));
        assert_eq!(known.part(&five, 1), (vec![3, 5], vec![2, 4]));
        // A leader that is no voter needs one more.
        assert_eq!(known.part(&membership(&[&[2, 3, 4]]), 1), (vec![3, 2], vec![4]));
        assert_eq!(pace(&[]).part(&membership(&[&[1, 2]]), 1), (vec![2], vec![]));
        assert_eq!(pace(&[]).part(&membership(&[&[1]]), 1), (vec![], vec![]));
    }

    #[test]
    fn all_are_asked_at_first_and_now_and_then_and_while_two_sets_decide() {
        let three = membership(&[&[1, 2, 3]]);
        let mut pace = Pace::default();
        assert_eq!(pace.part(&three, 1), (vec![2, 3], vec![]));
        pace.note(3, Some(Duration::from_millis(1)));
        assert_eq!(pace.part(&three, 1), (vec![3], vec![2]));
        assert_eq!(pace.part(&membership(&[&[1, 2, 3], &[3, 4]]), 1), (vec![2, 3, 4], vec![]));
        pace.compared = pace.compared.map(|then| then.checked_sub(COMPARISON_PAUSE).unwrap());
        assert_eq!(pace.part(&three, 1), (vec![2, 3], vec![]));
        assert_eq!(pace.part(&three, 1), (vec![2], vec![3]));
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
