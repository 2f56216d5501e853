//! Refuses Raft messages that no correct peer sends.
//!
//! Openraft trusts its peers and asserts what the protocol guarantees; a message
//! that breaks a guarantee would end the node. Whoever can reach a node can send
//! one, so the guarantees are checked here, before Raft sees the message. This
//! does not make a forged message harmless: only the cluster secret does that.

use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};

use crate::{LogId, SnapshotMeta, TypeConfig, Vote};

/// The highest term that is believed. Terms are counted up by one, so no cluster
/// comes near it; believing the very highest would leave no next one to elect.
const MAX_TERM: u64 = u64::MAX - (1 << 32);

/// What is wrong with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Implausible {
    /// No cluster counts so many terms.
    #[error("the sender's term is beyond any that elections reach")]
    AbsurdTerm,
    /// Only an elected leader may append or send a snapshot.
    #[error("the sender's vote is not one of an elected leader")]
    NotLeader,
    /// A log id's leader is newer than the sender itself.
    #[error("a log id is newer than the vote of the node that sends it")]
    NewerThanVote,
    /// The entries are not one consecutive piece of a log.
    #[error("the entries do not follow each other or their predecessor")]
    NotConsecutive,
    /// A snapshot must cover something.
    #[error("the snapshot covers nothing")]
    EmptySnapshot,
    /// The snapshot holds other entries than this node has committed.
    #[error("the snapshot contradicts what is committed here")]
    ContradictsCommitted,
}

fn not_newer_than(vote: &Vote, log_id: Option<&LogId>) -> Result<(), Implausible> {
    match log_id {
        Some(log_id) if log_id.committed_leader_id() > vote.leader_id() => Err(Implausible::NewerThanVote),
        Some(_) | None => Ok(()),
    }
}

fn has_plausible_term(vote: &Vote) -> Result<(), Implausible> {
    if vote.leader_id().term <= MAX_TERM { Ok(()) } else { Err(Implausible::AbsurdTerm) }
}

fn from_leader(vote: &Vote) -> Result<(), Implausible> {
    has_plausible_term(vote)?;
    if vote.is_committed() { Ok(()) } else { Err(Implausible::NotLeader) }
}

/// Checks an append: from a leader, one consecutive piece, nothing from the future.
pub(super) fn check_append(request: &AppendEntriesRequest<TypeConfig>) -> Result<(), Implausible> {
    from_leader(&request.vote)?;
    not_newer_than(&request.vote, request.prev_log_id.as_ref())?;
    not_newer_than(&request.vote, request.leader_commit.as_ref())?;
    let mut previous = request.prev_log_id;
    for entry in &request.entries {
        not_newer_than(&request.vote, Some(&entry.log_id))?;
        let expected = previous.map_or(Some(0), |previous| previous.index.checked_add(1));
        if expected != Some(entry.log_id.index) || previous > Some(entry.log_id) {
            return Err(Implausible::NotConsecutive);
        }
        previous = Some(entry.log_id);
    }
    Ok(())
}

/// Checks a vote request: a candidate's log can't be newer than its candidacy.
pub(super) fn check_vote(request: &VoteRequest<TypeConfig>) -> Result<(), Implausible> {
    has_plausible_term(&request.vote)?;
    not_newer_than(&request.vote, request.last_log_id.as_ref())
}

/// Checks a request to take over: it comes from a leader.
pub(super) fn check_transfer(request: &TransferLeaderRequest<TypeConfig>) -> Result<(), Implausible> {
    from_leader(request.from_leader())?;
    not_newer_than(request.from_leader(), request.last_log_id())
}

/// Checks a snapshot's announcement against the sender's vote and what is
/// committed here.
pub(super) fn check_snapshot(
    vote: &Vote,
    meta: &SnapshotMeta,
    committed: Option<LogId>,
) -> Result<(), Implausible> {
    from_leader(vote)?;
    let Some(covered) = meta.last_log_id else { return Err(Implausible::EmptySnapshot) };
    not_newer_than(vote, Some(&covered))?;
    match committed {
        Some(committed) if covered > committed && covered.index <= committed.index => {
            Err(Implausible::ContradictsCommitted)
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Entry;
    use openraft::EntryPayload;
    use openraft::impls::leader_id_adv::LeaderId;

    fn log_id(term: u64, index: u64) -> LogId {
        LogId::new(LeaderId { term, node_id: 1 }, index)
    }

    fn append(prev: Option<LogId>, ids: &[LogId]) -> AppendEntriesRequest<TypeConfig> {
        let entries = ids.iter().map(|id| Entry { log_id: *id, payload: EntryPayload::Blank }).collect();
        AppendEntriesRequest {
            vote: Vote::new_committed(3, 1),
            prev_log_id: prev,
            entries,
            leader_commit: prev,
        }
    }

    #[test]
    fn what_leaders_send_is_plausible() {
        assert_eq!(check_append(&append(None, &[])), Ok(()));
        assert_eq!(check_append(&append(None, &[log_id(1, 0), log_id(3, 1)])), Ok(()));
        assert_eq!(check_append(&append(Some(log_id(2, 7)), &[log_id(3, 8)])), Ok(()));
    }

    #[test]
    fn what_no_leader_sends_is_refused() {
        let mut candidate = append(None, &[]);
        candidate.vote = Vote::new(3, 1);
        assert_eq!(check_append(&candidate), Err(Implausible::NotLeader));
        for (prev, ids) in [
            (None, vec![log_id(1, 5)]),
            (Some(log_id(1, 5)), vec![log_id(1, 7)]),
            (Some(log_id(1, 5)), vec![log_id(1, 6), log_id(1, 6)]),
            (Some(log_id(2, 5)), vec![log_id(1, 6)]),
            (Some(log_id(1, u64::MAX)), vec![log_id(1, 0)]),
        ] {
            assert_eq!(check_append(&append(prev, &ids)), Err(Implausible::NotConsecutive), "{ids:?}");
        }
        assert_eq!(check_append(&append(None, &[log_id(4, 0)])), Err(Implausible::NewerThanVote));
    }

    #[test]
    fn a_snapshot_must_fit_its_sender_and_this_log() {
        let vote = Vote::new_committed(3, 1);
        let meta = |last_log_id| SnapshotMeta { last_log_id, ..SnapshotMeta::default() };
        assert_eq!(check_snapshot(&vote, &meta(Some(log_id(3, 9))), Some(log_id(2, 4))), Ok(()));
        assert_eq!(check_snapshot(&vote, &meta(None), None), Err(Implausible::EmptySnapshot));
        assert_eq!(check_snapshot(&vote, &meta(Some(log_id(4, 9))), None), Err(Implausible::NewerThanVote));
        assert_eq!(
            check_snapshot(&vote, &meta(Some(log_id(3, 4))), Some(log_id(2, 4))),
            Err(Implausible::ContradictsCommitted)
        );
    }

    #[test]
    fn a_candidates_log_is_not_newer_than_its_candidacy() {
        assert_eq!(check_vote(&VoteRequest::new(Vote::new(3, 2), Some(log_id(2, 9)))), Ok(()));
        assert_eq!(
            check_vote(&VoteRequest::new(Vote::new(3, 2), Some(log_id(9, 9)))),
            Err(Implausible::NewerThanVote)
        );
    }

    #[test]
    fn the_last_term_is_not_believed_since_none_could_follow() {
        assert_eq!(check_vote(&VoteRequest::new(Vote::new(u64::MAX, 2), None)), Err(Implausible::AbsurdTerm));
        let transfer = TransferLeaderRequest::new(Vote::new_committed(u64::MAX, 2), 1, None);
        assert_eq!(check_transfer(&transfer), Err(Implausible::AbsurdTerm));
    }
}
