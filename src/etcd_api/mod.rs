//! The etcd front: tonic in, gRPC or JSON out.
//!
//! [`EtcdApi`] is what answers, wherever a call came from: the listener of this module
//! ([`GrpcServer`]) or the HTTP front, which hands JSON in. Every call passes the same gate
//! ([`gate`]), so that what is counted, limited and demanded of one is of all.
//!
//! What holds whatever a client sends:
//!
//! 1. A connection that says nothing or garbage is dropped, and so is one whose client has
//!    vanished; their number is bounded, and so are streams and headers of each.
//! 2. Memory is bounded by the messages under way: nothing is read ahead of them, and a client
//!    that does not read its answers stops them being made.
//! 3. Stopping waits for simple calls and ends streams with a status that clients go elsewhere
//!    for. What is left at the deadline is cut.

mod bodies;
mod dispatch;
pub mod gate;
mod health;
mod server;
pub mod services;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Body as _;
use hyper::{Request, Response, header};
use kvorum_etcd_proto::gateway::{self, Gateway, GatewayLimits};
use kvorum_etcd_proto::{FILE_DESCRIPTOR_SET, method_at};
use tonic::body::Body;
use tonic::codegen::{Service as _, StdError};
use tonic::transport::server::TcpConnectInfo;

use bodies::{Arriving, CallBytes, Cut, Leaving};
use dispatch::Direct;
pub use dispatch::Dispatch;
use gate::{Bounds, Gate, Traffic};
pub use health::Condition;
use health::{Health, Probe};
pub use server::{GrpcServer, ServerOptions};

use crate::inflight::InflightBytes;

/// The version of etcd whose interface is served, as `/version` and `Status` tell it.
pub const ETCD_LEVEL: &str = "3.7.0";

/// What a message may have beyond the request that it carries: field heads, headers, keys of
/// the operations.
const MESSAGE_OVERHEAD_BYTES: usize = 512 << 10;

/// The largest message of a stream of requests: to watch or to keep a lease alive. There is room
/// for two of the longest keys.
pub const MAX_STREAMED_BYTES: usize = 256 << 10;

/// The largest message that a service has to decode, so that a request somewhat above
/// `max_request_bytes` is refused in etcd's words rather than by the decoder.
///
/// Services are given it by `max_decoding_message_size`.
pub fn max_message_bytes(max_request_bytes: usize) -> usize {
    max_request_bytes.saturating_add(MESSAGE_OVERHEAD_BYTES)
}

/// What calls may cost.
#[derive(Debug, Clone)]
pub struct EtcdOptions {
    /// The largest request.
    pub max_request_bytes: usize,
    /// The most simple calls in flight; streams do not count.
    pub max_inflight_requests: usize,
    /// What simple calls in flight hold counts here: requests, and large answers.
    pub inflight_bytes: Arc<InflightBytes>,
    /// How long each 64 KiB of a simple call's body may take to arrive.
    pub body_patience: Duration,
}

/// A body of a call that another front carries.
type CarriedBody = UnsyncBoxBody<Bytes, io::Error>;

/// Answers calls in JSON, in the vocabulary of HTTP alone.
pub type JsonCalls = Arc<
    dyn Fn(Request<CarriedBody>) -> Pin<Box<dyn Future<Output = Response<CarriedBody>> + Send>> + Send + Sync,
>;

/// An answer on its way.
pub type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// Everything that is served to clients of etcd. Cheap to clone; clones share the gate.
#[derive(Clone)]
pub struct EtcdApi {
    calls: Gate<Dispatch>,
    gateway: Gateway<Gate<Dispatch>>,
    inflight: Arc<InflightBytes>,
    condition: Arc<dyn Condition>,
}

impl EtcdApi {
    /// Serves `services`, and beside them health checks by the node's `condition`, and reflection.
    pub fn new(services: Dispatch, condition: Arc<dyn Condition>, options: EtcdOptions) -> Self {
        let (v1, v1alpha) = (reflection(), reflection());
        let services = services.and(|others| {
            others
                .add_service(Health::server(Arc::clone(&condition)))
                .add_service(v1.build_v1().expect("the descriptors were compiled with this crate"))
                .add_service(v1alpha.build_v1alpha().expect("the descriptors were compiled with this crate"))
                .prepare()
        });
        let bounds = Bounds {
            max_inflight: options.max_inflight_requests,
            max_message_bytes: max_message_bytes(options.max_request_bytes),
            body_patience: options.body_patience,
        };
        let calls = Gate::new(services, bounds, Arc::clone(&options.inflight_bytes));
        let limits = GatewayLimits {
            max_streamed_bytes: 2 * MAX_STREAMED_BYTES,
            // Base64 takes four bytes for three, and names and quotes take some.
            max_document_bytes: max_message_bytes(options.max_request_bytes).saturating_mul(2),
            body_patience: options.body_patience,
        };
        let gateway = Gateway::new(calls.clone(), limits);
        Self { gateway, calls, inflight: options.inflight_bytes, condition }
    }

    /// Answers one request: a gRPC call, a call in JSON, or a question for health or version.
    ///
    /// The future lies on the heap, for connections move what they are given several times.
    pub fn answer<B>(&self, request: Request<B>) -> Answer
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<StdError>,
    {
        if is_grpc(&request) {
            return self.calls.clone().call(request.map(Body::new));
        }
        match Probe::of(&request) {
            Some(probe) => {
                let condition = Arc::clone(&self.condition);
                Box::pin(async move { Ok(probe.answer(&*condition).await) })
            }
            None => self.json(request),
        }
    }

    /// Answers one call in JSON, whatever its content type says.
    fn json<B>(&self, request: Request<B>) -> Answer
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<StdError>,
    {
        let bytes = CallBytes::of(&self.inflight);
        let cut = request.extensions().get::<Cut>().cloned();
        let method = method_at(request.uri().path());
        let counted = method.is_some_and(|method| !method.client_streaming).then(|| bytes.clone());
        let name = method.map_or("", |method| method.path);
        let answer = self.gateway.clone().call(request.map(|body| Arriving::json(body, counted)));
        Box::pin(async move {
            let Ok(response) = answer.await;
            let Some(size) = response.body().size_hint().exact().filter(|size| bodies::is_counted(*size))
            else {
                return Ok(response);
            };
            Ok(if bytes.grow(usize::try_from(size).unwrap_or(usize::MAX)) {
                response.map(|body| Body::new(Leaving::counted(body, name, bytes, cut)))
            } else {
                gateway::failed(&bodies::unanswered(name))
            })
        })
    }

    /// Calls in JSON for a front that brings connections of its own; the address of its client
    /// is an extension of the request.
    pub fn json_calls(&self) -> JsonCalls {
        let api = self.clone();
        Arc::new(move |mut request| {
            let remote_addr = request.extensions().get().copied();
            request.extensions_mut().insert(TcpConnectInfo { local_addr: None, remote_addr });
            let api = api.clone();
            Box::pin(async move {
                let Ok(response) = api.json(request).await;
                response.map(|body| body.map_err(io::Error::other).boxed_unsync())
            })
        })
    }

    /// What has been and is being called.
    pub fn traffic(&self) -> &Arc<Traffic> {
        self.calls.traffic()
    }

    /// Ends all streams, those of the HTTP front too, and takes no new ones.
    pub fn close(&self) {
        self.calls.close();
    }
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

fn is_grpc<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}
