//! Carries writes to the leader, many in one request.
//!
//! What the leader has done is answered only once it is applied here too: whoever
//! wrote through this node finds the write in this node's own state (I1).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::handle::View;
use super::write_queue::{Answer, Bounds, Waiting, WriteQueue};
use crate::NodeId;
use crate::command::Proposal;
use crate::inflight::InflightBytes;
use crate::openraft_network::Transport;
use crate::openraft_network::forward::{FORWARD, ForwardError, ForwardRequest, ForwardResponse};
use crate::openraft_network::transport::{CallError, Purpose};
use crate::tasks::{Handle, spawn};

/// No request is larger than what the leader should read and propose at once.
const BOUNDS: Bounds = Bounds { enough: 64, writes: 512, bytes: 1 << 20 };

/// How long a leader that was replaced has for answers that it still owes.
const GRACE: Duration = Duration::from_millis(500);

/// The way of writes to the leader, from a node that does not lead.
pub(super) fn start(
    transport: Transport,
    view: watch::Receiver<View>,
    applied: watch::Receiver<u64>,
    runtime: &Handle,
    deadline: Duration,
    inflight: Arc<InflightBytes>,
) -> WriteQueue {
    WriteQueue::start(runtime, BOUNDS, move |proposals, waiting| {
        let (transport, inflight) = (transport.clone(), Arc::clone(&inflight));
        send(proposals, waiting, view.clone(), transport, applied.clone(), deadline, inflight)
    })
}

async fn send(
    proposals: Vec<Proposal>,
    waiting: Waiting,
    view: watch::Receiver<View>,
    transport: Transport,
    applied: watch::Receiver<u64>,
    deadline: Duration,
    inflight: Arc<InflightBytes>,
) {
    let leader = view.borrow().leader_addr();
    let answer = match leader {
        Some((id, _)) if id == transport.node_id() => {
            // Elected meanwhile: the caller tries again and proposes by itself.
            Err(ForwardError::NotLeader { leader: None })
        }
        Some((id, addr)) => {
            let exchange = exchange(proposals, id, &addr, &transport, deadline);
            unless_deposed(view, id, exchange).await.unwrap_or_else(|| {
                Err(ForwardError::Unknown(format!("node {id} was replaced as the leader before it answered")))
            })
        }
        None => Err(ForwardError::NotLeader { leader: None }),
    };
    match answer {
        // Apart, since the next batch need not wait for this node to catch up.
        Ok((results, index)) => {
            // Here, where this node begins to hold what the leader held until now.
            let results = results.into_iter().map(|result| result.map(|it| it.counted_in(&inflight)));
            drop(spawn(answer_once_applied((results.collect(), index), waiting, applied, deadline)));
        }
        Err(error) => waiting.fail(&error),
    }
}

/// What the leader answered: the results, and how far it had applied then.
type Answered = (Vec<Answer>, u64);

async fn answer_once_applied(
    (results, index): Answered,
    mut waiting: Waiting,
    mut applied: watch::Receiver<u64>,
    deadline: Duration,
) {
    let reached = applied.wait_for(|applied| *applied >= index);
    let is_applied = results.iter().all(Result::is_err)
        || matches!(tokio::time::timeout(deadline, reached).await, Ok(Ok(_)));
    for result in results {
        waiting.answer(result.and_then(|outcome| if is_applied { Ok(outcome) } else { Err(late(deadline)) }));
    }
}

fn late(deadline: Duration) -> ForwardError {
    ForwardError::Unknown(format!(
        "the leader carried it out, but this node did not apply it within {deadline:?}"
    ))
}

async fn exchange(
    proposals: Vec<Proposal>,
    leader: NodeId,
    addr: &str,
    transport: &Transport,
    deadline: Duration,
) -> Result<Answered, ForwardError> {
    let expected = proposals.len();
    let body = ForwardRequest::Write(proposals).encode();
    let answer = transport
        .call_as(Purpose::Forward, leader, addr, "/forward", FORWARD, body, deadline)
        .await
        .map_err(|error| to_forward_error(&error))?;
    match ForwardResponse::decode(answer) {
        Ok(ForwardResponse::Write { results, applied_index }) if results.len() == expected => {
            Ok((results, applied_index))
        }
        Ok(_) => Err(ForwardError::Unknown(format!("node {leader} answered something else"))),
        Err(error) => Err(ForwardError::Unknown(format!("node {leader} answered nonsense: {error}"))),
    }
}

/// Waits for what `call` gets from `leader`; gives up once another leader is known. One
/// that lost its power says nothing on connections that are there, and would be waited for
/// much longer than it takes to replace it.
pub(super) async fn unless_deposed<T>(
    mut view: watch::Receiver<View>,
    leader: NodeId,
    call: impl Future<Output = T>,
) -> Option<T> {
    let deposed = async {
        let replaced = view.wait_for(|view| view.leader.is_some_and(|id| id != leader)).await.is_ok();
        if !replaced {
            // Raft has stopped, and there will be no other leader.
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        biased;
        answer = call => Some(answer),
        () = deposed => None,
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
