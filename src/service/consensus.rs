//! Writes: propose here if this node leads, else carry them to the leader.

use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::ServerState;
use openraft::errors::ForwardToLeader;
use tokio::sync::TryAcquireError;
use tokio::time::Instant;

use super::check::{check_key, check_value};
use super::handle::{RequestCounters, Service};
use super::txn::answer_bytes;
use super::write_queue::{Answer, WriteQueue};
use crate::TypeConfig;
use crate::command::{Command, Outcome, OutcomeResult, Proposal, Rejection, Write};
use crate::error::Error;
use crate::openraft_network::forward::{ForwardError, ForwardRequest, ForwardResponse};

/// How long to wait before asking again when nothing new is known of the leader.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// Most bytes of answers to transactions that go back to another node in one
/// message; the rest of what it may hold is for all other outcomes.
const MAX_FORWARDED_ANSWERS: usize = 56 << 20;
/// What a client is told to wait before it tries an unavailable cluster again.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

impl Service {
    /// Commits and applies `command` and returns what it did.
    ///
    /// # Errors
    /// When a limit is exceeded, the condition does not hold, or the cluster
    /// can't carry it out. [`Error::Unknown`] alone means that it may still
    /// happen; with any other error it certainly does not.
    pub async fn write(&self, command: Command) -> Result<Outcome, Error> {
        let counters = &self.inner.counters;
        RequestCounters::add(&counters.writes);
        let result = self.write_inner(&command).await;
        let met_no_condition =
            matches!(result, Err(Error::ConditionFailed { .. } | Error::IdempotencyMismatch));
        if result.is_err() && !met_no_condition {
            RequestCounters::add(&counters.writes_failed);
        }
        result
    }

    async fn write_inner(&self, command: &Command) -> Result<Outcome, Error> {
        self.check_limits(command)?;
        let _permit = self.inner.waiting_writes.try_acquire().map_err(|error| self.no_place(&error))?;
        let proposal = command.encode();
        if let Write::Txn(_) = command.write {
            self.check_size(&proposal)?;
        }
        let deadline = Instant::now() + self.inner.options.request_timeout;
        let outcome = self.commit_by(&proposal, deadline).await?;
        match outcome.result {
            OutcomeResult::Rejected(rejection) => Err(self.refusal(rejection, outcome.revision)),
            OutcomeResult::Nothing
            | OutcomeResult::Put { .. }
            | OutcomeResult::Deleted { .. }
            | OutcomeResult::Txn(_)
            | OutcomeResult::Compacted
            | OutcomeResult::LeaseGranted { .. }
            | OutcomeResult::LeaseRevoked { .. }
            | OutcomeResult::LeasesRenewed { .. }
            | OutcomeResult::Alarm { .. } => Ok(outcome),
        }
    }

    /// Waits until all writes that came through this node are answered, but no longer than
    /// `patience`. New ones are refused from now on.
    pub async fn finish_writes(&self, patience: Duration) {
        let all = u32::try_from(self.inner.options.max_waiting_writes).unwrap_or(u32::MAX);
        let places = &self.inner.waiting_writes;
        // The last one who holds a place is the last one to be answered.
        let _ = tokio::time::timeout(patience, places.acquire_many(all)).await;
        places.close();
    }

    /// Why no further write may wait here.
    fn no_place(&self, error: &TryAcquireError) -> Error {
        match error {
            TryAcquireError::NoPermits => Error::Overloaded { node: self.node_id() },
            TryAcquireError::Closed => {
                let reason = format!("node {} is stopping", self.node_id());
                Error::Unavailable { reason, retry_after: RETRY_AFTER }
            }
        }
    }

    /// The answer to a command that every replica refused at `revision`.
    pub(super) fn refusal(&self, rejection: Rejection, revision: i64) -> Error {
        match rejection {
            Rejection::ConditionFailed { mod_revision } => Error::ConditionFailed { mod_revision, revision },
            Rejection::IdempotencyMismatch => Error::IdempotencyMismatch,
            Rejection::Undecodable(reason) => Error::Internal {
                node: self.node_id(),
                reason: format!("a node of another release refused the command: {reason}"),
            },
            Rejection::LeaseNotFound { id } => Error::LeaseNotFound { id },
            Rejection::LeaseExists { id } => Error::LeaseExists { id },
            Rejection::KeyNotFound => Error::KeyNotFound,
            Rejection::Compacted { requested, oldest } => Error::Compacted { requested, oldest },
            Rejection::FutureRevision { requested, current } => Error::FutureRevision { requested, current },
            Rejection::AnswerForgotten { revision } => Error::AnswerLost {
                revision,
                reason: "it was too large to be kept or carried to another node, or too much is in flight to hold it",
            },
            Rejection::NoSpace { member } => Error::NoSpace { member },
            Rejection::Corrupt { member } => Error::Corrupt { member },
            Rejection::DeletionTooLarge { max_keys, max_bytes } => {
                Error::DeletionTooLarge { max_keys, max_bytes }
            }
        }
    }

    fn check_limits(&self, command: &Command) -> Result<(), Error> {
        let limits = self.limits();
        let (key, value) = match &command.write {
            Write::Put { key, value, .. } => (key, value.len()),
            Write::Delete { key } => (key, 0),
            // Checked by whoever makes them; only a transaction's size is left.
            Write::Txn(_)
            | Write::Compact { .. }
            | Write::LeaseGrant { .. }
            | Write::LeaseRevoke { .. }
            | Write::LeaseRenew { .. }
            | Write::LeaseTick { .. }
            | Write::Alarm { .. } => return Ok(()),
        };
        check_key(key, limits)?;
        check_value(value, limits)
    }

    fn check_size(&self, proposal: &Proposal) -> Result<(), Error> {
        let (size, limit) = (proposal.as_bytes().len(), self.limits().max_request_bytes);
        if size <= limit {
            return Ok(());
        }
        Err(Error::TooLarge { what: "the transaction", size, limit, option: "max_request_bytes" })
    }

    /// An answer to `asked` that the state machine never gives.
    pub(super) fn unexpected(&self, asked: &str) -> Error {
        Error::Internal {
            node: self.node_id(),
            reason: format!("the state machine answered {asked} with something else"),
        }
    }

    /// Commits and applies `proposal`, wherever the leader is.
    pub(super) async fn commit_by(&self, proposal: &Proposal, deadline: Instant) -> Result<Outcome, Error> {
        self.on_leader(deadline, || async {
            if self.is_leader() {
                self.propose(proposal.clone(), deadline).await
            } else {
                RequestCounters::add(&self.inner.counters.writes_forwarded);
                self.hand_over(&self.inner.forwarder, proposal.clone(), deadline).await
            }
        })
        .await
    }

    /// Tries `attempt` until it succeeds, its fate is unknown, or time is up.
    /// Attempts that certainly did nothing are repeated, at once when another
    /// leader is known and after a pause otherwise.
    pub(super) async fn on_leader<T, F>(
        &self,
        deadline: Instant,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, ForwardError>>,
    {
        let mut view = self.inner.view.clone();
        loop {
            view.borrow_and_update();
            let has_leader = self.inner.view.borrow().leader.is_some();
            let reason = if has_leader {
                match attempt().await {
                    Ok(value) => return Ok(value),
                    Err(ForwardError::Unknown(reason)) => return Err(Error::Unknown { reason }),
                    Err(ForwardError::NotLeader { .. }) if self.is_leader() => format!(
                        "node {} leads but has lost its majority; a majority of the voters must be running and reachable",
                        self.node_id()
                    ),
                    Err(ForwardError::NotLeader { .. }) => "the leader is changing".to_owned(),
                    Err(ForwardError::Unavailable(reason)) => reason,
                }
            } else {
                self.why_no_leader()
            };
            // Nothing to gain from waiting once the view has changed.
            let pause = Instant::now() + RETRY_PAUSE;
            if let Ok(Err(_)) = tokio::time::timeout_at(pause.min(deadline), view.changed()).await {
                // Raft has stopped: there will be no other view to wait for.
                let reason = "the node is stopping".to_owned();
                return Err(Error::Unavailable { reason, retry_after: RETRY_AFTER });
            }
            // An attempt that begins too late to be answered could only turn
            // "not carried out" into "unknown".
            if Instant::now() >= deadline {
                return Err(Error::Unavailable { reason, retry_after: RETRY_AFTER });
            }
        }
    }

    /// Proposes as the leader and waits until it is applied here.
    pub(super) async fn propose(
        &self,
        proposal: Proposal,
        deadline: Instant,
    ) -> Result<Outcome, ForwardError> {
        self.hand_over(&self.inner.proposer, proposal, deadline).await
    }

    async fn hand_over(&self, to: &WriteQueue, proposal: Proposal, deadline: Instant) -> Answer {
        let handing_over = async { to.put(proposal).await?.answer().await };
        tokio::time::timeout_at(deadline, handing_over)
            .await
            .unwrap_or_else(|_| Err(ForwardError::Unknown(self.timed_out())))
    }

    fn timed_out(&self) -> String {
        format!("no answer within {:?}", self.inner.options.request_timeout)
    }

    fn why_no_leader(&self) -> String {
        let view = self.inner.view.borrow();
        if view.membership.log_id().is_none() && view.membership.nodes().next().is_none() {
            return format!(
                "node {} is not initialized; initialize the cluster on one node (POST /init) or add this one to a cluster",
                self.node_id()
            );
        }
        match view.state {
            ServerState::Candidate => "no leader: an election is going on".to_owned(),
            ServerState::Learner | ServerState::Follower | ServerState::Leader | ServerState::Shutdown => {
                "no leader is known; a majority of the voters must be running and reachable".to_owned()
            }
        }
    }

    /// Carries out what a peer forwarded. Never forwards again.
    pub async fn handle_forwarded(&self, request: ForwardRequest) -> ForwardResponse {
        match request {
            ForwardRequest::Write(proposals) => {
                let results = self.propose_forwarded(proposals).await;
                // Read when all of them have their outcome, which they get once applied.
                let applied_index = self.inner.store.applied_index().load(Ordering::Acquire);
                ForwardResponse::Write { results, applied_index }
            }
            ForwardRequest::ReadIndex => {
                ForwardResponse::ReadIndex(self.inner.read_index.get_as_leader().await)
            }
        }
    }

    async fn propose_forwarded(&self, proposals: Vec<Proposal>) -> Vec<Result<Outcome, ForwardError>> {
        let count = proposals.len();
        // A newer node may forward what this one could not apply.
        if let Some(error) = proposals.iter().find_map(|proposal| proposal.decode().err()) {
            let reason = format!("node {} can't propose it: {error}", self.node_id());
            return vec![Err(ForwardError::Unavailable(reason)); count];
        }
        let permits = u32::try_from(count).unwrap_or(u32::MAX);
        let _permit = match self.inner.waiting_writes.try_acquire_many(permits) {
            Ok(permit) => permit,
            Err(error) => {
                return vec![Err(ForwardError::Unavailable(self.no_place(&error).to_string())); count];
            }
        };
        let deadline = Instant::now() + self.inner.options.request_timeout;
        let mut pending = Vec::with_capacity(count);
        for proposal in proposals {
            pending.push(self.inner.proposer.put(proposal).await);
        }
        let mut results = Vec::with_capacity(count);
        let mut room = MAX_FORWARDED_ANSWERS;
        for pending in pending {
            let answer = match pending {
                Ok(pending) => tokio::time::timeout_at(deadline, pending.answer())
                    .await
                    .unwrap_or_else(|_| Err(ForwardError::Unknown(self.timed_out()))),
                Err(stopping) => Err(stopping),
            };
            results.push(answer.map(|outcome| fit_in(outcome, &mut room)));
        }
        results
    }
}

/// The outcome, or that it is too large for what is left of one message.
fn fit_in(outcome: Outcome, room: &mut usize) -> Outcome {
    let OutcomeResult::Txn(done) = &outcome.result else { return outcome };
    let size = answer_bytes(done);
    if let Some(left) = room.checked_sub(size) {
        *room = left;
        return outcome;
    }
    let revision = outcome.revision;
    Outcome { revision, result: OutcomeResult::Rejected(Rejection::AnswerForgotten { revision }) }
}

pub(super) fn leader_of(forward: ForwardToLeader<TypeConfig>) -> Option<(crate::NodeId, String)> {
    let addr = forward.leader_node.map(|node| node.addr);
    forward.leader_id.zip(addr)
}
