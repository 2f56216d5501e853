//! Single calls of etcd's API: one message there, one message back.
//!
//! The framing of gRPC is two headers, five bytes before a message and a status
//! in the trailers, so it is written here, straight on an HTTP/2 connection.
//! A general client allocates more for one call than all of this does, and the
//! load generator takes its CPU time from the servers that it measures.

use std::io;
use std::str::FromStr as _;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Buf as _;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kvorum_etcd_proto::etcdserverpb as pb;
use kvorum_gathering::Gathering;
use prost::Message;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::exchange::Failure;
use crate::route::CONNECT_TIMEOUT;

/// The largest answer that is taken.
const MAX_ANSWER: usize = 64 << 20;
/// A flag that says whether the message is compressed, and its length.
const PREFIX: usize = 5;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The server says that it did not do it, or does not know.
    #[error("{code:?}: {message}")]
    Refused { code: Code, message: String },
    #[error(transparent)]
    Broke(#[from] Failure),
}

/// A call: what is asked, where, and what is answered.
pub(crate) trait Call: Message {
    /// `/package.Service/Method`.
    const PATH: &'static str;
    type Answer: Message + Default;
}

macro_rules! calls {
    ($($path:literal: $ask:ident -> $answer:ident),+ $(,)?) => {
        $(impl Call for pb::$ask {
            const PATH: &'static str = concat!("/etcdserverpb.", $path);
            type Answer = pb::$answer;
        })+
    };
}

calls! {
    "KV/Put": PutRequest -> PutResponse,
    "KV/Range": RangeRequest -> RangeResponse,
    "Lease/LeaseGrant": LeaseGrantRequest -> LeaseGrantResponse,
    "Lease/LeaseRevoke": LeaseRevokeRequest -> LeaseRevokeResponse,
    "Lease/LeaseTimeToLive": LeaseTimeToLiveRequest -> LeaseTimeToLiveResponse,
    "Lease/LeaseLeases": LeaseLeasesRequest -> LeaseLeasesResponse,
}

/// An HTTP/2 connection; clones share it, and their calls run side by side.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// `http://host:port`.
    server: Uri,
    headers: HeaderMap,
}

impl Connection {
    /// Connects to `host:port`. What moves the bytes runs until all clones are dropped.
    pub(crate) async fn open(host: &str) -> Result<Self, Failure> {
        let server = Uri::from_str(&format!("http://{host}"))
            .map_err(|error| Failure::Connect(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let connecting = async {
            let stream = TcpStream::connect(host).await.map_err(Failure::Connect)?;
            stream.set_nodelay(true).map_err(Failure::Connect)?;
            Ok(http2::handshake(TokioExecutor::new(), TokioIo::new(Gathering::new(stream))).await?)
        };
        let connected: Result<_, Failure> = match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(Failure::Connect(io::ErrorKind::TimedOut.into())),
        };
        let (sender, connection) = connected?;
        // A connection that breaks shows in the calls on it.
        tokio::spawn(async { drop(connection.await) });
        let mut headers = HeaderMap::with_capacity(2);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        Ok(Self { sender, server, headers })
    }

    /// Where the calls of type `C` go.
    pub(crate) fn target<C: Call>(&self) -> Uri {
        let mut parts = self.server.clone().into_parts();
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static(C::PATH));
        Uri::from_parts(parts).expect("a server and a path make an address")
    }

    /// Calls, and waits for the answer.
    pub(crate) async fn call<C: Call>(&mut self, message: &C) -> Result<C::Answer, CallError> {
        let target = self.target::<C>();
        self.call_at(target, message).await
    }

    /// The same, at a target made beforehand.
    pub(crate) async fn call_at<C: Call>(
        &mut self,
        target: Uri,
        message: &C,
    ) -> Result<C::Answer, CallError> {
        let len = message.encoded_len();
        let mut frame = BytesMut::with_capacity(PREFIX.saturating_add(len));
        frame.put_u8(0);
        frame.put_u32(u32::try_from(len).expect("requests are far smaller than 4 GiB"));
        message.encode(&mut frame).expect("the buffer grows");
        let mut request = Request::new(Full::new(frame.freeze()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = target;
        *request.headers_mut() = self.headers.clone();

        let response = self.sender.send_request(request).await.map_err(Failure::from)?;
        if response.status() != http::StatusCode::OK {
            let message = format!("HTTP status {}", response.status());
            return Err(CallError::Refused { code: Code::Unknown, message });
        }
        // An answer without a message has its status where others have their headers.
        status(response.headers())?;
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| Failure::Transport(io::Error::other(error)))?;
        if let Some(trailers) = body.trailers() {
            status(trailers)?;
        }
        let mut body = body.to_bytes();
        if body.len() < PREFIX || body.get_u8() != 0 || body.get_u32() as usize != body.len() {
            return Err(Failure::NoMessage.into());
        }
        Ok(C::Answer::decode(body).map_err(|_| Failure::NoMessage)?)
    }
}

/// The status among headers or trailers, if it is there and no success.
fn status(headers: &HeaderMap) -> Result<(), CallError> {
    match headers.get("grpc-status") {
        None => Ok(()),
        Some(status) if status == "0" => Ok(()),
        Some(_) => {
            let status = Status::from_header_map(headers).unwrap_or_else(|| Status::unknown(""));
            Err(CallError::Refused { code: status.code(), message: status.message().to_owned() })
        }
    }
}
