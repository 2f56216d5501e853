//! HTTP to peers: pooled keep-alive connections, one pool per purpose.
//!
//! Knows addresses, headers, deadlines and status codes; knows nothing of what
//! the messages mean. Every call has a deadline.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use parking_lot::Mutex;

pub use super::carrier::AnswerBody;
use super::carrier::Carrier;
use super::wire::{BINARY, Encoding, HEADER_CLUSTER, HEADER_FROM, HEADER_TO, JSON, MAX_FRAME_BYTES};
use crate::NodeId;
use crate::store::data_dir::DataDir;

/// A request body: one piece or a stream.
pub type PeerBody = UnsyncBoxBody<Bytes, std::io::Error>;

/// The target of a call to whichever node is at an address; no node has this id.
pub const ANY_NODE: NodeId = 0;

/// What a connection is used for. Purposes never share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Log replication.
    Append,
    /// Heartbeats, votes and leader transfer: small and urgent.
    Heartbeat,
    /// Snapshots.
    Snapshot,
    /// Forwarded client calls.
    Forward,
}

/// Why a call to a peer gave no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// No connection: the peer certainly did not see the request.
    #[error("node {target} at {addr} can't be reached: {reason}")]
    Unreachable {
        /// The peer.
        target: NodeId,
        /// Its address.
        addr: String,
        /// Why.
        reason: String,
    },
    /// The connection broke or made no sense: the peer may have seen the request.
    #[error("the connection to node {target} at {addr} failed: {reason}")]
    Broken {
        /// The peer.
        target: NodeId,
        /// Its address.
        addr: String,
        /// Why.
        reason: String,
    },
    /// No answer in time: the peer may have seen the request.
    #[error("node {target} at {addr} did not answer within {after:?}")]
    Timeout {
        /// The peer.
        target: NodeId,
        /// Its address.
        addr: String,
        /// The deadline that passed.
        after: Duration,
    },
    /// The peer refused the message and did nothing.
    #[error("node {target} at {addr} refused: {status}: {message}")]
    Refused {
        /// The peer.
        target: NodeId,
        /// Its address.
        addr: String,
        /// The HTTP status.
        status: StatusCode,
        /// The peer's words.
        message: String,
    },
}

/// The node's end of all connections to peers.
#[derive(Debug, Clone)]
pub struct Transport {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    data: Arc<DataDir>,
    authorization: Option<HeaderValue>,
    encoding: Encoding,
    carrier: Carrier,
    /// Peers that could not be reached when last tried.
    down: Mutex<BTreeSet<NodeId>>,
}

impl Transport {
    /// A transport that speaks for the node that owns `data`.
    ///
    /// # Errors
    /// When the secret can't stand in an HTTP header.
    pub fn new(data: Arc<DataDir>, secret: Option<&str>, encoding: Encoding) -> Result<Self, String> {
        let authorization = match secret {
            None => None,
            Some(secret) => {
                let mut value = HeaderValue::from_str(&format!("Bearer {secret}"))
                    .map_err(|_| "the cluster secret holds characters that HTTP forbids".to_owned())?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Self {
            inner: Arc::new(Inner {
                data,
                authorization,
                encoding,
                carrier: Carrier::new(),
                down: Mutex::default(),
            }),
        })
    }

    /// The node that speaks.
    pub fn node_id(&self) -> NodeId {
        self.inner.data.node_id()
    }

    /// How messages to peers are encoded.
    pub fn encoding(&self) -> Encoding {
        self.inner.encoding
    }

    /// Starts a POST and returns once the peer's response head is here.
    ///
    /// # Errors
    /// See [`CallError`]; any status but 200 is [`CallError::Refused`].
    pub async fn open(
        &self,
        purpose: Purpose,
        target: NodeId,
        addr: &str,
        path: &str,
        content_type: &'static str,
        body: PeerBody,
    ) -> Result<Response<AnswerBody>, CallError> {
        let inner = &self.inner;
        let broken = |reason: String| CallError::Broken { target, addr: addr.to_owned(), reason };
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{addr}{path}"))
            .header(CONTENT_TYPE, content_type)
            .header(HEADER_FROM, self.node_id());
        if target != ANY_NODE {
            request = request.header(HEADER_TO, target);
        }
        if let Some(belonging) = inner.data.belonging() {
            request = request.header(HEADER_CLUSTER, belonging.cluster_id.to_string());
        }
        if let Some(authorization) = &inner.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(body).map_err(|error| broken(error.to_string()))?;
        let response = inner.carrier.send(purpose, request).await.map_err(|lost| {
            if lost.is_unseen {
                self.note_reachable(target, addr, Err(&lost.reason));
                CallError::Unreachable { target, addr: addr.to_owned(), reason: lost.reason }
            } else {
                broken(lost.reason)
            }
        })?;
        self.note_reachable(target, addr, Ok(()));
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let status = response.status();
        let message = match Limited::new(response.into_body(), 64 << 10).collect().await {
            Ok(body) => words_of(&body.to_bytes()),
            Err(error) => error.to_string(),
        };
        Err(CallError::Refused { target, addr: addr.to_owned(), status, message })
    }

    /// Logs a peer's going and coming, once each: who retries many times a second
    /// must not fill the log.
    fn note_reachable(&self, target: NodeId, addr: &str, reachable: Result<(), &str>) {
        if target == ANY_NODE {
            return;
        }
        let mut down = self.inner.down.lock();
        match reachable {
            Ok(()) if down.remove(&target) => {
                tracing::info!(node = target, addr, "a peer is reachable again");
            }
            Err(reason) if down.insert(target) => {
                tracing::warn!(node = target, addr, reason, "a peer can't be reached");
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// Sends one message and reads the whole answer, both within `deadline`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(
        &self,
        purpose: Purpose,
        target: NodeId,
        addr: &str,
        path: &str,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        let content_type = content_type(self.inner.encoding);
        self.call_as(purpose, target, addr, path, content_type, body, deadline).await
    }

    /// Like [`Self::call`] with a content type of its own.
    ///
    /// # Errors
    /// See [`CallError`].
    #[expect(clippy::too_many_arguments, reason = "one call is one request; a struct would only rename them")]
    pub async fn call_as(
        &self,
        purpose: Purpose,
        target: NodeId,
        addr: &str,
        path: &str,
        content_type: &'static str,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        let exchange = async {
            let body = Full::new(body).map_err(|never| match never {}).boxed_unsync();
            let response = self.open(purpose, target, addr, path, content_type, body).await?;
            let body =
                Limited::new(response.into_body(), MAX_FRAME_BYTES).collect().await.map_err(|error| {
                    CallError::Broken { target, addr: addr.to_owned(), reason: error.to_string() }
                })?;
            Ok(body.to_bytes())
        };
        tokio::time::timeout(deadline, exchange)
            .await
            .unwrap_or_else(|_| Err(CallError::Timeout { target, addr: addr.to_owned(), after: deadline }))
    }
}

/// The message inside a node's JSON error, or the text as it is.
fn words_of(body: &[u8]) -> String {
    let parsed = serde_json::from_slice::<serde_json::Value>(body).ok();
    let message = parsed.as_ref().and_then(|json| json.pointer("/error/message")?.as_str());
    message.map_or_else(|| String::from_utf8_lossy(body).into_owned(), ToOwned::to_owned)
}

/// The `Content-Type` of one message in `encoding`.
pub fn content_type(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Binary => BINARY,
        Encoding::Json => JSON,
    }
}
