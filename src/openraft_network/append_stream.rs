//! Pipelined log replication: one HTTP exchange whose request body is a stream
//! of appends and whose response body is the stream of their answers.
//!
//! The leader sends without waiting; the follower answers in order. The exchange
//! lasts as long as the leader keeps replicating, so an append costs a frame
//! each way and no HTTP head. A peer that stops answering while appends are
//! outstanding ends the exchange with an error after [`STALL`], after which
//! Openraft backs off and starts a new one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use hyper::body::Frame;
use openraft::errors::{NetworkError, RPCError, Timeout, Unreachable};
use openraft::network::RPCTypes;
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};

use super::transport::{AnswerBody, CallError, PeerBody, Purpose, Transport};
use super::wire::{BINARY_STREAM, Encoding, FrameDecoder, JSON_STREAM, encode_frame};
use crate::{NodeId, TypeConfig};

/// How long a peer may leave appends unanswered. Well above a slow disk's
/// hiccup, since giving up means sending again.
pub const STALL: Duration = Duration::from_secs(2);

type Answer = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

/// Opens the exchange; the answers come as a stream that ends with the exchange.
///
/// Takes the first request before it connects: Openraft waits inside the stream
/// of requests when it backs off from a peer, so that connecting first would try
/// a dead peer without any pause.
///
/// # Errors
/// When the peer can't be reached or refuses.
pub async fn open<S>(
    transport: Transport,
    target: NodeId,
    addr: String,
    mut requests: S,
) -> Result<stream::BoxStream<'static, Answer>, RPCError<TypeConfig>>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
{
    let Some(first) = requests.next().await else {
        return Ok(stream::empty().boxed());
    };
    let encoding = transport.encoding();
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    let frames = stream::iter([first]).chain(requests).map(move |request| {
        counter.fetch_add(1, Ordering::Relaxed);
        Ok::<_, io::Error>(Frame::data(encode_frame(&request, encoding)))
    });
    let body: PeerBody = StreamBody::new(frames).boxed_unsync();
    let content_type = match encoding {
        Encoding::Binary => BINARY_STREAM,
        Encoding::Json => JSON_STREAM,
    };
    let opening = transport.open(Purpose::Append, target, &addr, "/append", content_type, body);
    let response = match tokio::time::timeout(STALL, opening).await {
        Ok(response) => response.map_err(|error| to_rpc_error(&error))?,
        Err(_) => return Err(timed_out(&transport, target)),
    };
    let answers = Answers {
        body: BodyStream::new(response.into_body()),
        decoder: FrameDecoder::new(encoding),
        sent,
        received: 0,
        transport,
        target,
        ended: false,
    };
    Ok(stream::unfold(answers, Answers::next).boxed())
}

struct Answers {
    body: BodyStream<AnswerBody>,
    decoder: FrameDecoder,
    sent: Arc<AtomicU64>,
    received: u64,
    transport: Transport,
    target: NodeId,
    ended: bool,
}

impl Answers {
    async fn next(mut self) -> Option<(Answer, Self)> {
        if self.ended {
            return None;
        }
        loop {
            match self.decoder.next_frame::<StreamAppendResult<TypeConfig>>() {
                Ok(Some(answer)) => {
                    self.received += 1;
                    return Some((Ok(answer), self));
                }
                Ok(None) => {}
                Err(error) => return Some(self.fail(RPCError::Network(NetworkError::new(&error)))),
            }
            match self.next_piece().await {
                Ok(Some(piece)) => self.decoder.push(&piece),
                Ok(None) => return None,
                Err(error) => return Some(self.fail(error)),
            }
        }
    }

    /// Waits for bytes as long as nothing is outstanding, and for [`STALL`] if
    /// something is.
    async fn next_piece(&mut self) -> Result<Option<Bytes>, RPCError<TypeConfig>> {
        loop {
            let outstanding_before = self.sent.load(Ordering::Relaxed) > self.received;
            match tokio::time::timeout(STALL, self.body.next()).await {
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Ok(Some(Err(error))) => return Err(RPCError::Network(NetworkError::new(&error))),
                Ok(None) => return Ok(None),
                // What was sent only during the wait has not had its time yet.
                Err(_) if outstanding_before => return Err(timed_out(&self.transport, self.target)),
                Err(_) => {}
            }
        }
    }

    fn fail(mut self, error: RPCError<TypeConfig>) -> (Answer, Self) {
        self.ended = true;
        (Err(error), self)
    }
}

fn timed_out(transport: &Transport, target: NodeId) -> RPCError<TypeConfig> {
    RPCError::Timeout(Timeout {
        action: RPCTypes::AppendEntries,
        id: transport.node_id(),
        target,
        timeout: STALL,
    })
}

/// Tells Openraft whether to back off before it tries again.
pub fn to_rpc_error(error: &CallError) -> RPCError<TypeConfig> {
    match error {
        // Nobody there, or somebody who will refuse again: back off.
        CallError::Unreachable { .. } | CallError::Refused { .. } => {
            RPCError::Unreachable(Unreachable::new(error))
        }
        CallError::Broken { .. } | CallError::Timeout { .. } => RPCError::Network(NetworkError::new(error)),
    }
}
