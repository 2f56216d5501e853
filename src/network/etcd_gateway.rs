//! etcd's calls in JSON on the HTTP port: unpacks Actix and hands the rest on.
//!
//! What a call means, its limits and its errors are the business of whoever answers; this
//! module only carries bodies. Actix's bodies belong to the worker thread that reads them, so
//! a bounded channel carries the pieces of a request out of it, no faster than they are taken.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::web::{self, Payload};
use actix_web::{HttpRequest, HttpResponse, rt};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyDataStream, BodyExt as _, StreamBody};
use hyper::body::{Body as _, Frame};
use hyper::{HeaderMap, Method, Request, Response, Uri};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::paced;

/// Where the calls are mounted: under their own names, and under those of etcd 3.3.
const PREFIXES: [&str; 2] = ["/v3", "/v3beta"];

/// Pieces of a body that may wait to be taken.
const PIECES_AHEAD: usize = 1;

/// A body of either direction.
pub type EtcdBody = UnsyncBoxBody<Bytes, io::Error>;

/// A call's answer, as it is being made.
pub type EtcdAnswer = Pin<Box<dyn Future<Output = Response<EtcdBody>> + Send>>;

/// Whatever answers calls in etcd's JSON form. It is polled on the worker's thread, and its
/// answer is read no faster than the client reads.
pub type EtcdCalls = Arc<dyn Fn(Request<EtcdBody>) -> EtcdAnswer + Send + Sync>;

/// What registers the calls with each worker.
pub fn routes(calls: EtcdCalls) -> impl Fn(&mut web::ServiceConfig) + Clone + Send + use<> {
    routes_with(calls, paced::STALL)
}

/// [`routes`], with the time that a client may take for a slice of a large answer.
pub(super) fn routes_with(
    calls: EtcdCalls,
    stall: Duration,
) -> impl Fn(&mut web::ServiceConfig) + Clone + Send + use<> {
    move |config| {
        for prefix in PREFIXES {
            let calls = Arc::clone(&calls);
            let answer = move |request: HttpRequest, payload: Payload| {
                call(Arc::clone(&calls), stall, request, payload)
            };
            config.service(web::scope(prefix).default_service(web::to(answer)));
        }
    }
}

async fn call(calls: EtcdCalls, stall: Duration, request: HttpRequest, payload: Payload) -> HttpResponse {
    let Some(call) = unpack(&request, payload) else {
        return HttpResponse::BadRequest().finish();
    };
    let (head, body) = calls(call).await.into_parts();
    let status = StatusCode::from_u16(head.status.as_u16()).expect("both take the same codes");
    let mut response = HttpResponse::build(status);
    for (name, value) in &head.headers {
        response.append_header((name.as_str(), value.as_bytes()));
    }
    // What a long one holds of the bytes in flight goes with its body, once that is out.
    let length = body.size_hint().exact();
    paced::carried(&request, &mut response, stall, length, BodyDataStream::new(body))
}

/// The request in the vocabulary of the other front; `None` if it does not fit it.
fn unpack(request: &HttpRequest, payload: Payload) -> Option<Request<EtcdBody>> {
    let mut call = Request::new(StreamBody::new(pieces(payload)).boxed_unsync());
    *call.method_mut() = Method::from_bytes(request.method().as_str().as_bytes()).ok()?;
    *call.uri_mut() = Uri::try_from(request.path()).ok()?;
    let headers: &mut HeaderMap = call.headers_mut();
    for (name, value) in request.headers() {
        let name = hyper::header::HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
        headers.append(name, hyper::header::HeaderValue::from_bytes(value.as_bytes()).ok()?);
    }
    if let Some(peer) = request.peer_addr() {
        call.extensions_mut().insert(peer);
    }
    Some(call)
}

/// The pieces of a body, carried out of its thread.
fn pieces(mut payload: Payload) -> impl Stream<Item = Result<Frame<Bytes>, io::Error>> + Send {
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    rt::spawn(async move {
        loop {
            // Whoever takes the pieces may be gone while the client says nothing.
            let piece = tokio::select! {
                piece = payload.next() => piece,
                () = sender.closed() => return,
            };
            let Some(piece) = piece else { return };
            let piece = piece.map(Frame::data).map_err(io::Error::other);
            let failed = piece.is_err();
            if sender.send(piece).await.is_err() || failed {
                return;
            }
        }
    });
    ReceiverStream::new(receiver)
}
