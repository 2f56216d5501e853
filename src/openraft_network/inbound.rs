//! What a node does with a message from a peer, whatever carried it here.
//!
//! First the envelope: wrong secret, wrong node or wrong cluster, and the message
//! is refused unread. A node without a cluster adopts the one that first
//! addresses it by its node id. The HTTP front only unpacks headers and bodies.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::poll_fn;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest, VoteRequest,
};
use openraft::storage::Snapshot;
use subtle::ConstantTimeEq as _;
use tokio::sync::{mpsc, oneshot, watch};

use super::plausible::{Implausible, check_append, check_snapshot, check_transfer, check_vote};
use super::snapshot_receiver::{ReceiveError, Received, receive};
use super::wire::{Encoding, FrameDecoder, Message, WireError, encode_frame};
use crate::store::StateMachineStore;
use crate::store::data_dir::{ClusterId, DataDir, DataDirError};
use crate::tasks::{self, Handle};
use crate::{NodeId, Raft, TypeConfig, Vote};

/// Answers that may wait to be sent on one stream.
const STREAM_WINDOW: usize = 64;

/// Why a peer's message was refused. Nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The secret is missing or wrong.
    #[error("the cluster secret is missing or wrong; start all nodes with the same --cluster-secret")]
    Unauthorized,
    /// The message is for another node.
    #[error("this is node {mine}, and the message is for node {meant}; check the address of node {meant}")]
    WrongNode {
        /// This node.
        mine: NodeId,
        /// The node that was meant.
        meant: NodeId,
    },
    /// The node may have forgotten what it confirmed, and so does not vote.
    #[error(
        "this node has an empty data folder or is still catching up, so it does not vote; if it was a voter before and lost its data, remove it and add it again with a new id"
    )]
    Forgetful,
    /// The message is from another cluster.
    #[error("{0}")]
    WrongCluster(DataDirError),
    /// The message can't be understood.
    #[error(transparent)]
    Malformed(#[from] WireError),
    /// No correct peer sends this.
    #[error(transparent)]
    Implausible(#[from] Implausible),
    /// A snapshot could not be taken over.
    #[error(transparent)]
    Snapshot(#[from] ReceiveError),
    /// The Raft instance has stopped.
    #[error("the node is stopping: {0}")]
    Stopped(String),
}

/// Headers of a peer's message, as far as they are there.
#[derive(Debug, Clone, Copy, Default)]
pub struct Headers<'a> {
    /// `x-kvorum-cluster`.
    pub cluster: Option<&'a str>,
    /// `x-kvorum-to`.
    pub to: Option<&'a str>,
    /// The secret after `Authorization: Bearer`.
    pub bearer: Option<&'a str>,
}

/// Who sent a message, as far as they said so.
#[derive(Debug, Clone, Copy)]
pub struct Sender {
    cluster: Option<ClusterId>,
}

/// The receiving end of all messages from peers; clones share it.
#[derive(Clone)]
pub struct Inbound {
    inner: Arc<Inner>,
}

struct Inner {
    raft: Raft,
    data: Arc<DataDir>,
    store: StateMachineStore,
    secret: Option<String>,
    /// Raft's own runtime.
    runtime: Handle,
    /// Whether the node is stopping.
    closed: watch::Sender<bool>,
}

impl Inbound {
    /// The receiving end of the node that owns `data`, whose Raft runs on `runtime`.
    pub fn new(
        raft: Raft,
        data: Arc<DataDir>,
        store: StateMachineStore,
        secret: Option<String>,
        runtime: Handle,
    ) -> Self {
        let closed = watch::Sender::new(false);
        Self { inner: Arc::new(Inner { raft, data, store, secret, runtime, closed }) }
    }

    /// Ends all append streams and refuses new messages: the node is stopping.
    pub fn close(&self) {
        self.inner.closed.send_replace(true);
    }

    /// Checks who speaks and whom they mean, and tells the cluster they name.
    ///
    /// Kvorum's nodes always name both. The readable JSON form may come without,
    /// from a person or a tool: absent is then not a mismatch.
    ///
    /// # Errors
    /// When the secret, the node or the cluster is wrong.
    pub fn admit(&self, headers: Headers<'_>) -> Result<Sender, Refusal> {
        if *self.inner.closed.borrow() {
            return Err(Refusal::Stopped("it was told to".to_owned()));
        }
        self.authorize(headers.bearer)?;
        let mine = self.inner.data.node_id();
        if let Some(to) = headers.to {
            let meant = to.parse().unwrap_or(0);
            if meant != mine {
                return Err(Refusal::WrongNode { mine, meant });
            }
        }
        let cluster = headers.cluster.map(|cluster| cluster.parse().unwrap_or(ClusterId(0)));
        if let (Some(other), Some(belonging)) = (cluster, self.inner.data.belonging())
            && belonging.cluster_id != other
        {
            return Err(Refusal::WrongCluster(DataDirError::OtherCluster {
                mine: belonging.cluster_id,
                other,
            }));
        }
        Ok(Sender { cluster })
    }

    /// Makes this node a member of the cluster of a leader that called it.
    fn adopt(&self, sender: Sender, vote: &Vote) -> Result<(), Refusal> {
        match sender.cluster {
            Some(cluster) if self.inner.data.belonging().is_none() => {
                self.inner.data.adopt(cluster, vote.leader_id().term).map_err(Refusal::WrongCluster)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Refuses to vote as long as this node may have forgotten what it confirmed.
    ///
    /// A voter whose folder was emptied would help to elect a leader that lacks
    /// what it once had confirmed. A node with an empty folder therefore votes
    /// only in a cluster that has no history either, and one that joined a
    /// cluster with history only once it has applied an entry of the term in
    /// which it joined: that leader was elected without it, and so had all that
    /// was committed before.
    fn may_vote(&self, sender: Sender, request: &VoteRequest<TypeConfig>) -> Result<(), Refusal> {
        let has_history = request.last_log_id.is_some_and(|last| last.index > 0);
        match self.inner.data.belonging() {
            None if has_history => Err(Refusal::Forgetful),
            None => match sender.cluster {
                Some(cluster) => self.inner.data.adopt(cluster, 0).map_err(Refusal::WrongCluster),
                None => Ok(()),
            },
            Some(belonging) => {
                let applied = self.inner.store.applied_log_id();
                let applied_term = applied.map_or(0, |applied| applied.committed_leader_id().term);
                if applied_term >= belonging.joined_in_term { Ok(()) } else { Err(Refusal::Forgetful) }
            }
        }
    }

    /// Checks the secret alone, in constant time.
    ///
    /// # Errors
    /// [`Refusal::Unauthorized`].
    pub fn authorize(&self, bearer: Option<&str>) -> Result<(), Refusal> {
        let Some(secret) = &self.inner.secret else { return Ok(()) };
        let given = bearer.unwrap_or_default();
        if bool::from(secret.as_bytes().ct_eq(given.as_bytes())) {
            Ok(())
        } else {
            Err(Refusal::Unauthorized)
        }
    }

    /// `/append` with one message.
    ///
    /// # Errors
    /// When it can't be understood or the node is stopping.
    pub async fn append(&self, sender: Sender, encoding: Encoding, body: Bytes) -> Result<Bytes, Refusal> {
        let request = AppendEntriesRequest::decode(encoding, body)?;
        check_append(&request)?;
        self.adopt(sender, &request.vote)?;
        Ok(self.inner.raft.append_entries(request).await.map_err(stopped)?.encode(encoding))
    }

    /// `/append` with a stream of messages: the stream of answers.
    ///
    /// A frame that can't be understood ends the stream; the leader starts anew.
    /// All of it runs on Raft's own runtime, whichever thread calls.
    pub fn append_stream(
        &self,
        sender: Sender,
        encoding: Encoding,
        mut pieces: mpsc::Receiver<Bytes>,
    ) -> mpsc::Receiver<Bytes> {
        let (answers, receiver) = mpsc::channel(STREAM_WINDOW);
        let (this, raft) = (self.clone(), self.inner.raft.clone());
        let mut closed = self.inner.closed.subscribe();
        self.inner.runtime.spawn(async move {
            let mut decoder = FrameDecoder::new(encoding);
            let requests =
                poll_fn(move |context| this.next_request(sender, &mut decoder, &mut pieces, context));
            let mut results = std::pin::pin!(raft.stream_append(requests));
            loop {
                // Without an answer the leader sees the exchange end and starts anew.
                let answer: StreamAppendResult<TypeConfig> = tokio::select! {
                    result = results.next() => match result {
                        Some(Ok(answer)) => answer,
                        Some(Err(_)) | None => return,
                    },
                    _ = closed.wait_for(|closed| *closed) => return,
                };
                if answers.send(encode_frame(&answer, encoding)).await.is_err() {
                    return;
                }
            }
        });
        receiver
    }

    /// `/vote`.
    ///
    /// # Errors
    /// When it can't be understood or the node is stopping.
    pub async fn vote(&self, sender: Sender, encoding: Encoding, body: Bytes) -> Result<Bytes, Refusal> {
        let request = VoteRequest::decode(encoding, body)?;
        check_vote(&request)?;
        self.may_vote(sender, &request)?;
        Ok(self.inner.raft.vote(request).await.map_err(stopped)?.encode(encoding))
    }

    /// `/pre-vote`.
    ///
    /// # Errors
    /// When it can't be understood or the node is stopping.
    pub async fn pre_vote(&self, sender: Sender, encoding: Encoding, body: Bytes) -> Result<Bytes, Refusal> {
        let request = VoteRequest::decode(encoding, body)?;
        check_vote(&request)?;
        self.may_vote(sender, &request)?;
        Ok(self.inner.raft.pre_vote(request).await.map_err(stopped)?.encode(encoding))
    }

    /// `/transfer-leader`.
    ///
    /// # Errors
    /// When it can't be understood or the node is stopping.
    pub async fn transfer_leader(
        &self,
        _sender: Sender,
        encoding: Encoding,
        body: Bytes,
    ) -> Result<Bytes, Refusal> {
        let request = TransferLeaderRequest::decode(encoding, body)?;
        check_transfer(&request)?;
        Ok(self.inner.raft.handle_transfer_leader(request).await.map_err(stopped)?.encode(encoding))
    }

    /// `/snapshot`: collects the stream's pieces, then installs the snapshot.
    ///
    /// A stale leader is answered with the newer vote before it sends the files.
    ///
    /// # Errors
    /// When the stream is not valid, can't be written, or the node is stopping.
    pub async fn snapshot(
        &self,
        sender: Sender,
        encoding: Encoding,
        pieces: mpsc::Receiver<Bytes>,
    ) -> Result<Bytes, Refusal> {
        let (announced, announcement) = oneshot::channel();
        let (go_on, gone_on) = oneshot::channel();
        let snapshots = self.inner.store.snapshots_dir().to_owned();
        let name = self.inner.store.next_snapshot_name();
        let receiving = tasks::spawn_waiting(&self.inner.runtime, async move {
            receive(pieces, encoding, &snapshots, &name, announced, gone_on).await
        });
        if let Ok(announced) = announcement.await {
            let mine: Vote = self.inner.raft.metrics().borrow_watched().vote;
            if mine > announced.vote {
                return Ok(SnapshotResponse::<TypeConfig>::new(mine).encode(encoding));
            }
            self.adopt(sender, &announced.vote)?;
            let _ = go_on.send(());
        }
        let Received { vote, meta, dir } =
            receiving.await.map_err(|error| Refusal::Stopped(error.to_string()))??;
        // Raft would stop the node over a snapshot that can't be installed.
        let committed = self.inner.raft.metrics().borrow_watched().local_committed;
        check_snapshot(&vote, &meta, committed)?;
        let snapshot = Snapshot { meta, snapshot: dir };
        let answer = self
            .inner
            .raft
            .install_full_snapshot(vote, snapshot)
            .await
            .map_err(|error| Refusal::Stopped(error.to_string()))?;
        Ok(answer.encode(encoding))
    }

    /// The next append of a stream, once all of its pieces are here.
    fn next_request(
        &self,
        sender: Sender,
        decoder: &mut FrameDecoder,
        pieces: &mut mpsc::Receiver<Bytes>,
        context: &mut Context<'_>,
    ) -> Poll<Option<AppendEntriesRequest<TypeConfig>>> {
        loop {
            match self.decode_append(sender, decoder) {
                Ok(Some(request)) => return Poll::Ready(Some(request)),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "a peer's append stream is not valid; closing it");
                    return Poll::Ready(None);
                }
            }
            match ready!(pieces.poll_recv(context)) {
                Some(piece) => decoder.push(&piece),
                None => return Poll::Ready(None),
            }
        }
    }

    fn decode_append(
        &self,
        sender: Sender,
        decoder: &mut FrameDecoder,
    ) -> Result<Option<AppendEntriesRequest<TypeConfig>>, Refusal> {
        let request: Option<AppendEntriesRequest<TypeConfig>> = decoder.next_frame()?;
        if let Some(request) = &request {
            check_append(request)?;
            self.adopt(sender, &request.vote)?;
        }
        Ok(request)
    }
}

fn stopped(error: impl std::fmt::Display) -> Refusal {
    Refusal::Stopped(error.to_string())
}
