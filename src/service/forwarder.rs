//! Carries writes to the leader, many in one request.

use std::time::Duration;

use tokio::sync::watch;

use super::handle::View;
use super::write_queue::{Answer, Bounds, Waiting, WriteQueue};
use crate::NodeId;
use crate::command::Proposal;
use crate::openraft_network::Transport;
use crate::openraft_network::forward::{FORWARD, ForwardError, ForwardRequest, ForwardResponse};
use crate::openraft_network::transport::{CallError, Purpose};
use crate::tasks::Handle;

/// No request is larger than what the leader should read and propose at once.
const BOUNDS: Bounds = Bounds { enough: 64, writes: 512, bytes: 1 << 20 };

/// The way of writes to the leader, from a node that does not lead.
pub(super) fn start(
    transport: Transport,
    view: watch::Receiver<View>,
    runtime: &Handle,
    deadline: Duration,
) -> WriteQueue {
    WriteQueue::start(runtime, BOUNDS, move |proposals, waiting| {
        let leader = view.borrow().leader_addr();
        send(proposals, waiting, leader, transport.clone(), deadline)
    })
}

async fn send(
    proposals: Vec<Proposal>,
    mut waiting: Waiting,
    leader: Option<(NodeId, String)>,
    transport: Transport,
    deadline: Duration,
) {
    let results = match leader {
        Some((id, _)) if id == transport.node_id() => {
            // Elected meanwhile: the caller tries again and proposes by itself.
            Err(ForwardError::NotLeader { leader: None })
        }
        Some((id, addr)) => exchange(proposals, id, &addr, &transport, deadline).await,
        None => Err(ForwardError::NotLeader { leader: None }),
    };
    match results {
        Ok(results) => {
            for result in results {
                waiting.answer(result);
            }
        }
        Err(error) => waiting.fail(&error),
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
