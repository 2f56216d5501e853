//! Read index: the log index that a linearizable read must have applied.
//!
//! The leader takes its commit index, confirms with a majority that it still leads
//! (`leadership.rs`), and answers with that index. Readers share
//! confirmations: while one is under way the next readers gather for the next
//! one. They must not join the one under way, since it may have begun before a
//! write that they have to see was acknowledged.

use std::sync::Arc;
use std::time::Duration;

use openraft::LinearizerOption;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{LinearizableReadError, RaftError};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::forwarder::{to_forward_error, unless_deposed};
use super::handle::{RequestCounters, View};
use super::leadership::{Leadership, Unconfirmed};
use crate::openraft_network::Transport;
use crate::openraft_network::forward::{FORWARD, ForwardError, ForwardRequest, ForwardResponse};
use crate::openraft_network::transport::Purpose;
use crate::tasks::Handle;
use crate::{NodeId, Raft};

/// How often readers may gather before a round goes without those that would still come.
const MAX_TURNS: usize = 8;

type Answer = Result<u64, ForwardError>;

#[derive(Debug, Default)]
struct Queue {
    /// Whether a task is confirming.
    busy: bool,
    /// Readers of the next confirmation.
    waiting: Vec<oneshot::Sender<Answer>>,
}

/// Confirms reads; clones share it.
#[derive(Clone)]
pub(super) struct ReadIndex {
    inner: Arc<Inner>,
}

struct Inner {
    raft: Raft,
    transport: Transport,
    leadership: Leadership,
    view: watch::Receiver<View>,
    runtime: Handle,
    deadline: Duration,
    counters: Arc<RequestCounters>,
    /// Confirmations for this node's own readers, through the leader if need be.
    own: Mutex<Queue>,
    /// Confirmations that this node gives as the leader.
    led: Mutex<Queue>,
}

impl ReadIndex {
    pub(super) fn new(
        raft: Raft,
        transport: Transport,
        view: watch::Receiver<View>,
        runtime: Handle,
        deadline: Duration,
        counters: Arc<RequestCounters>,
    ) -> Self {
        let inner = Inner {
            raft,
            leadership: Leadership::new(transport.clone(), runtime.clone()),
            transport,
            view,
            runtime,
            deadline,
            counters,
            own: Mutex::default(),
            led: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The index that a read which begins now must have applied.
    pub(super) async fn get(&self) -> Answer {
        let view = self.inner.view.borrow().leader_addr();
        match view {
            Some((leader, _)) if leader == self.inner.transport.node_id() => self.get_as_leader().await,
            _ => self.join(Which::Own).await,
        }
    }

    /// The same, answered only if this node leads; what peers ask for.
    pub(super) async fn get_as_leader(&self) -> Answer {
        self.join(Which::Led).await
    }

    async fn join(&self, which: Which) -> Answer {
        let (sender, receiver) = oneshot::channel();
        {
            let mut queue = self.queue(which).lock();
            queue.waiting.push(sender);
            if !queue.busy {
                queue.busy = true;
                let this = self.clone();
                self.inner.runtime.spawn(async move { this.serve(which).await });
            }
        }
        receiver.await.unwrap_or_else(|_| Err(ForwardError::Unavailable("the node is stopping".to_owned())))
    }

    fn queue(&self, which: Which) -> &Mutex<Queue> {
        match which {
            Which::Own => &self.inner.own,
            Which::Led => &self.inner.led,
        }
    }

    /// Confirms for all who wait, again and again until nobody does.
    async fn serve(&self, which: Which) {
        loop {
            self.let_gather(which).await;
            let waiting = {
                let mut queue = self.queue(which).lock();
                if queue.waiting.is_empty() {
                    queue.busy = false;
                    return;
                }
                std::mem::take(&mut queue.waiting)
            };
            RequestCounters::add(&self.inner.counters.read_index_rounds);
            let answer = match which {
                Which::Own => self.ask_leader().await,
                Which::Led => self.confirm().await,
            };
            for reader in waiting {
                let _ = reader.send(answer.clone());
            }
        }
    }

    /// Lets the tasks that are ready run, as long as readers come with each turn. A round of
    /// answers makes many readers ready together, and what they make ready are the next readers.
    async fn let_gather(&self, which: Which) {
        let mut gathered = 0;
        for _ in 0..MAX_TURNS {
            tokio::task::yield_now().await;
            let waiting = self.queue(which).lock().waiting.len();
            if waiting <= gathered {
                return;
            }
            gathered = waiting;
        }
    }

    /// The index of what is committed, once a majority confirms that this node led
    /// when it was taken.
    async fn confirm(&self) -> Answer {
        let until = Instant::now() + self.inner.deadline;
        let before = self.inner.raft.metrics().borrow_watched().vote;
        let index = self.committed(until).await?;
        let (vote, membership) = {
            let metrics = self.inner.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.vote, Arc::clone(&metrics.membership_config))
        };
        let transport = &self.inner.transport;
        // Another's, if this node has just been deposed: it must not speak for that one.
        // Nor may a later vote of its own confirm an index that an earlier one left behind.
        if vote != before || !vote.is_committed() || vote.leader_id().node_id != transport.node_id() {
            return Err(ForwardError::NotLeader { leader: None });
        }
        let left = until.saturating_duration_since(Instant::now());
        match self.inner.leadership.confirm(vote, membership.membership(), left).await {
            Ok(()) => Ok(index),
            Err(Unconfirmed::Deposed) => Err(ForwardError::NotLeader { leader: None }),
            Err(Unconfirmed::TooFew { confirmed }) => Err(ForwardError::Unavailable(format!(
                "no majority confirms that node {} leads: only {confirmed:?} answered",
                transport.node_id()
            ))),
        }
    }

    /// The index that a leader has committed, all of earlier terms included.
    ///
    /// Openraft answers if a majority has followed not long ago, and waits for it
    /// otherwise; that is no proof, but a reason not to ask.
    async fn committed(&self, until: Instant) -> Answer {
        let recently_followed = LinearizerOption::new(None, true);
        let taking = self.inner.raft.get_read_linearizer(recently_followed);
        match tokio::time::timeout_at(until, taking).await {
            Ok(Ok(linearizer)) => Ok(linearizer.read_log_id().index()),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                let addr = forward.leader_node.map(|node| node.addr);
                Err(ForwardError::NotLeader { leader: forward.leader_id.zip(addr) })
            }
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(missing)))) => {
                Err(ForwardError::Unavailable(format!(
                    "no majority confirms that node {} leads: only {:?} answered",
                    self.inner.transport.node_id(),
                    missing.got
                )))
            }
            Ok(Err(RaftError::Fatal(fatal))) => Err(ForwardError::Unavailable(fatal.to_string())),
            Err(_) => Err(ForwardError::Unavailable(format!(
                "no majority confirmed the leader within {:?}",
                self.inner.deadline
            ))),
        }
    }

    async fn ask_leader(&self) -> Answer {
        let leader = self.inner.view.borrow().leader_addr();
        let Some((id, addr)) = leader else {
            return Err(ForwardError::NotLeader { leader: None });
        };
        if id == self.inner.transport.node_id() {
            // Elected since the readers came.
            return self.confirm().await;
        }
        self.ask(id, &addr).await
    }

    async fn ask(&self, leader: NodeId, addr: &str) -> Answer {
        let body = ForwardRequest::ReadIndex.encode();
        let transport = &self.inner.transport;
        let call =
            transport.call_as(Purpose::Forward, leader, addr, "/forward", FORWARD, body, self.inner.deadline);
        let Some(answer) = unless_deposed(self.inner.view.clone(), leader, call).await else {
            return Err(ForwardError::NotLeader { leader: None });
        };
        let answer = answer.map_err(|error| to_forward_error(&error))?;
        match ForwardResponse::decode(answer) {
            Ok(ForwardResponse::ReadIndex(index)) => index,
            Ok(ForwardResponse::Write { .. }) | Err(_) => {
                Err(ForwardError::Unavailable(format!("node {leader} answered something else")))
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Which {
    Own,
    Led,
}
