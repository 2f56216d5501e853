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
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

use super::plausible::{Implausible, check_append, check_snapshot, check_transfer, check_vote};
use super::snapshot_receiver::{ReceiveError, Received, receive};
use super::wire::{Encoding, FrameDecoder, Message, WireError, encode_frame};
use crate::store::StateMachineStore;
use crate::store::data_dir::{ClusterId, DataDir, DataDirError};
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

    /// Checks who speaks and whom they mean.
    ///
    /// Kvorum's nodes always name both. The readable JSON form may come without,
    /// from a person or a tool: absent is then not a mismatch.
    ///
    /// # Errors
    /// When the secret, the node or the cluster is wrong.
    pub fn admit(&self, headers: Headers<'_>) -> Result<(), Refusal> {
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
        if let Some(cluster) = headers.cluster {
            let cluster: ClusterId = cluster.parse().unwrap_or(ClusterId(0));
            self.inner.data.join(cluster, true).map_err(Refusal::WrongCluster)?;
        }
        Ok(())
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
    pub async fn append(&self, encoding: Encoding, body: Bytes) -> Result<Bytes, Refusal> {
        let request = AppendEntriesRequest::decode(encoding, body)?;
        check_append(&request)?;
        Ok(self.inner.raft.append_entries(request).await.map_err(stopped)?.encode(encoding))
    }

    /// `/append` with a stream of messages: the stream of answers.
    ///
    /// A frame that can't be understood ends the stream; the leader starts anew.
    /// All of it runs on Raft's own runtime, whichever thread calls.
    pub fn append_stream(
        &self,
        encoding: Encoding,
        mut pieces: mpsc::Receiver<Bytes>,
    ) -> mpsc::Receiver<Bytes> {
        let (answers, receiver) = mpsc::channel(STREAM_WINDOW);
        let raft = self.inner.raft.clone();
        let mut closed = self.inner.closed.subscribe();
        self.inner.runtime.spawn(async move {
            let mut decoder = FrameDecoder::new(encoding);
            let requests = poll_fn(move |context| next_request(&mut decoder, &mut pieces, context));
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
    pub async fn vote(&self, encoding: Encoding, body: Bytes) -> Result<Bytes, Refusal> {
        let request = VoteRequest::decode(encoding, body)?;
        check_vote(&request)?;
        Ok(self.inner.raft.vote(request).await.map_err(stopped)?.encode(encoding))
    }

    /// `/pre-vote`.
    ///
    /// # Errors
    /// When it can't be understood or the node is stopping.
    pub async fn pre_vote(&self, encoding: Encoding, body: Bytes) -> Result<Bytes, Refusal> {
        let request = VoteRequest::decode(encoding, body)?;
        check_vote(&request)?;
        Ok(self.inner.raft.pre_vote(request).await.map_err(stopped)?.encode(encoding))
    }

    /// `/transfer-leader`.
    ///
    /// # Errors
    /// When it can't be understood or the node is stopping.
    pub async fn transfer_leader(&self, encoding: Encoding, body: Bytes) -> Result<Bytes, Refusal> {
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
        encoding: Encoding,
        pieces: mpsc::Receiver<Bytes>,
    ) -> Result<Bytes, Refusal> {
        let (announced, announcement) = oneshot::channel();
        let (go_on, gone_on) = oneshot::channel();
        let snapshots = self.inner.store.snapshots_dir().to_owned();
        let name = self.inner.store.next_snapshot_name();
        let receiving = self
            .inner
            .runtime
            .spawn_blocking(move || receive(pieces, encoding, &snapshots, &name, announced, gone_on));
        if let Ok(announced) = announcement.await {
            let mine: Vote = self.inner.raft.metrics().borrow_watched().vote;
            if mine > announced.vote {
                return Ok(SnapshotResponse::<TypeConfig>::new(mine).encode(encoding));
            }
            let _ = go_on.send(());
        }
        let Received { vote, meta, dir } =
            receiving.await.map_err(|error| Refusal::Stopped(error.to_string()))??;
        // Raft would stop the node over a snapshot that can't be installed.
        let committed = self.inner.raft.metrics().borrow_watched().local_committed;
        check_snapshot(&vote, &meta, committed)?;
        let (store, announced_meta) = (self.inner.store.clone(), meta.clone());
        let (dir, is_as_announced) = self
            .inner
            .runtime
            .spawn_blocking(move || {
                let is_as_announced = store.holds(&dir, &announced_meta);
                (dir, is_as_announced)
            })
            .await
            .map_err(|error| Refusal::Stopped(error.to_string()))?;
        if !is_as_announced {
            return Err(Implausible::NotAsAnnounced.into());
        }
        let snapshot = Snapshot { meta, snapshot: dir };
        let answer = self
            .inner
            .raft
            .install_full_snapshot(vote, snapshot)
            .await
            .map_err(|error| Refusal::Stopped(error.to_string()))?;
        Ok(answer.encode(encoding))
    }
}

/// The next append of a stream, once all of its pieces are here.
fn next_request(
    decoder: &mut FrameDecoder,
    pieces: &mut mpsc::Receiver<Bytes>,
    context: &mut Context<'_>,
) -> Poll<Option<AppendEntriesRequest<TypeConfig>>> {
    loop {
        match decoder.next_frame() {
            Ok(Some(request)) => match check_append(&request) {
                Ok(()) => return Poll::Ready(Some(request)),
                Err(error) => {
                    tracing::warn!(%error, "a peer's append stream is not valid; closing it");
                    return Poll::Ready(None);
                }
            },
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

fn stopped(error: impl std::fmt::Display) -> Refusal {
    Refusal::Stopped(error.to_string())
}
