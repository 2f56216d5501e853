//! One peer as Openraft sees it: the calls of its network trait.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use openraft::OptionalSend;
use openraft::alias::SnapshotOf;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout};
use openraft::network::{Backoff, RPCOption, RPCTypes, RaftNetworkV2, stream_append_sequential};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

use super::append_stream::{self, STALL, to_rpc_error};
use super::snapshot_sender::{self, Pace};
use super::transport::{CallError, Purpose, Transport};
use super::wire::Message;
use crate::store::snapshot::SnapshotDir;
use crate::tasks;
use crate::{NodeId, TypeConfig, Vote};

/// First and longest pause before an unreachable peer is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// The connection to one peer for one of Openraft's purposes.
#[derive(Debug, Clone)]
pub struct Peer {
    transport: Transport,
    target: NodeId,
    addr: String,
    append_purpose: Purpose,
    pace: Pace,
}

impl Peer {
    pub(super) fn new(
        transport: Transport,
        target: NodeId,
        addr: String,
        append_purpose: Purpose,
        pace: Pace,
    ) -> Self {
        Self { transport, target, addr, append_purpose, pace }
    }

    async fn call<Q: Message, A: Message>(
        &self,
        purpose: Purpose,
        action: RPCTypes,
        path: &str,
        request: &Q,
        deadline: Duration,
    ) -> Result<A, RPCError<TypeConfig>> {
        let encoding = self.transport.encoding();
        let body: Bytes = request.encode(encoding);
        let answer =
            self.transport.call(purpose, self.target, &self.addr, path, body, deadline).await.map_err(
                |error| match error {
                    CallError::Timeout { target, after, .. } => RPCError::Timeout(Timeout {
                        action,
                        id: self.transport.node_id(),
                        target,
                        timeout: after,
                    }),
                    other @ (CallError::Unreachable { .. }
                    | CallError::Broken { .. }
                    | CallError::Refused { .. }) => to_rpc_error(&other),
                },
            )?;
        A::decode(encoding, answer).map_err(|error| RPCError::Network(NetworkError::new(&error)))
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotDir;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        // Openraft gives a heartbeat up when the next one is due. A call that is given up
        // takes its connection with it, and on a long way the next one would come no
        // further than to make another. So it goes on by itself, and what is late counts
        // for the follower, if not for the leader.
        let peer = self.clone();
        let call = tasks::spawn(async move {
            peer.call(peer.append_purpose, RPCTypes::AppendEntries, "/append", &rpc, STALL).await
        });
        call.await.unwrap_or_else(|error| Err(RPCError::Network(NetworkError::new(&error))))
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
            RPCError<TypeConfig>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        // Openraft makes a stream of each heartbeat. As one would be over with its first
        // message, it would cost a connection each; as a call it finds one that is there.
        if self.append_purpose == Purpose::Heartbeat {
            return stream_append_sequential(self, input, option);
        }
        let opening = append_stream::open(self.transport.clone(), self.target, self.addr.clone(), input);
        Box::pin(async move { opening.await.map(|answers| answers as BoxStream<'s, _>) })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(Purpose::Heartbeat, RPCTypes::Vote, "/vote", &rpc, option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(Purpose::Heartbeat, RPCTypes::Vote, "/pre-vote", &rpc, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotDir>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        snapshot_sender::send(&self.transport, self.target, &self.addr, vote, snapshot, self.pace, cancel)
            .await
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(Purpose::Heartbeat, RPCTypes::TransferLeader, "/transfer-leader", &req, option.hard_ttl())
            .await
    }

    fn backoff(&self) -> Option<Backoff> {
        let (first, longest) = BACKOFF;
        Some(Backoff::new(std::iter::successors(Some(first), move |pause| Some((*pause * 2).min(longest)))))
    }
}
