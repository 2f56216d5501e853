//! Carries writes to the leader, many in one request.
//!
//! While some requests are under way the next writes gather, so that a busy
//! follower sends few large requests and an idle one sends each write at once.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

use super::handle::View;
use crate::NodeId;
use crate::command::{Outcome, Proposal};
use crate::openraft_network::Transport;
use crate::openraft_network::forward::{FORWARD, ForwardError, ForwardRequest, ForwardResponse};
use crate::openraft_network::transport::{CallError, Purpose};

/// Writes that may wait to be sent; beyond that the caller waits.
const QUEUE: usize = 4096;
/// Requests under way at once.
const REQUESTS_AT_ONCE: usize = 4;
/// Most writes in one request.
const MAX_BATCH_WRITES: usize = 512;
/// Most bytes of proposals in one request.
const MAX_BATCH_BYTES: usize = 1 << 20;

type Answer = Result<Outcome, ForwardError>;

struct Job {
    proposal: Proposal,
    answer: oneshot::Sender<Answer>,
}

/// The way of writes to the leader.
#[derive(Debug, Clone)]
pub(super) struct Forwarder {
    jobs: mpsc::Sender<Job>,
}

impl Forwarder {
    pub(super) fn start(
        transport: Transport,
        view: watch::Receiver<View>,
        runtime: &Handle,
        deadline: Duration,
    ) -> Self {
        let (jobs, queue) = mpsc::channel(QUEUE);
        runtime.spawn(run(queue, transport, view, deadline));
        Self { jobs }
    }

    /// Sends `proposal` to the leader and waits for its outcome.
    pub(super) async fn forward(&self, proposal: Proposal) -> Answer {
        let (answer, outcome) = oneshot::channel();
        if self.jobs.send(Job { proposal, answer }).await.is_err() {
            return Err(ForwardError::Unavailable("the node is stopping".to_owned()));
        }
        outcome.await.unwrap_or_else(|_| Err(ForwardError::Unknown("the node is stopping".to_owned())))
    }
}

async fn run(
    mut queue: mpsc::Receiver<Job>,
    transport: Transport,
    view: watch::Receiver<View>,
    deadline: Duration,
) {
    let permits = std::sync::Arc::new(tokio::sync::Semaphore::new(REQUESTS_AT_ONCE));
    while let Some(first) = queue.recv().await {
        // Waiting here is what lets writes gather.
        let Ok(permit) = std::sync::Arc::clone(&permits).acquire_owned().await else { return };
        let mut bytes = first.proposal.as_bytes().len();
        let mut batch = vec![first];
        while batch.len() < MAX_BATCH_WRITES
            && bytes < MAX_BATCH_BYTES
            && let Ok(job) = queue.try_recv()
        {
            bytes += job.proposal.as_bytes().len();
            batch.push(job);
        }
        let leader = view.borrow().leader_addr();
        let transport = transport.clone();
        tokio::spawn(async move {
            send(batch, leader, &transport, deadline).await;
            drop(permit);
        });
    }
}

async fn send(batch: Vec<Job>, leader: Option<(NodeId, String)>, transport: &Transport, deadline: Duration) {
    let (proposals, answers): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|job| (job.proposal, job.answer)).unzip();
    let results = match leader {
        Some((id, _)) if id == transport.node_id() => {
            // Elected meanwhile: the caller tries again and proposes by itself.
            Err(ForwardError::NotLeader { leader: None })
        }
        Some((id, addr)) => exchange(proposals, id, &addr, transport, deadline).await,
        None => Err(ForwardError::NotLeader { leader: None }),
    };
    match results {
        Ok(results) => {
            for (answer, result) in answers.into_iter().zip(results) {
                let _ = answer.send(result);
            }
        }
        Err(error) => {
            for answer in answers {
                let _ = answer.send(Err(error.clone()));
            }
        }
    }
}

async fn exchange(
    proposals: Vec<Proposal>,
    leader: NodeId,
    addr: &str,
    transport: &Transport,
    deadline: Duration,
) -> Result<Vec<Answer>, ForwardError> {
    let expected = proposals.len();
    let body = ForwardRequest::Write(proposals).encode();
    let answer = transport
        .call_as(Purpose::Forward, leader, addr, "/forward", FORWARD, body, deadline)
        .await
        .map_err(|error| to_forward_error(&error))?;
    match ForwardResponse::decode(answer) {
        Ok(ForwardResponse::Write(results)) if results.len() == expected => Ok(results),
        Ok(_) => Err(ForwardError::Unknown(format!("node {leader} answered something else"))),
        Err(error) => Err(ForwardError::Unknown(format!("node {leader} answered nonsense: {error}"))),
    }
}

/// What a failed call says about the fate of what it carried.
pub(super) fn to_forward_error(error: &CallError) -> ForwardError {
    match error {
        CallError::Unreachable { .. } | CallError::Refused { .. } => {
            ForwardError::Unavailable(error.to_string())
        }
        CallError::Broken { .. } | CallError::Timeout { .. } => ForwardError::Unknown(error.to_string()),
    }
}
