//! A whole call in JSON, whose body arrives in pieces, to a service that answers anything.

#![no_main]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt as _, stream};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use kvorum_etcd_proto::METHODS;
use kvorum_etcd_proto::gateway::{Gateway, GatewayLimits};
use libfuzzer_sys::fuzz_target;
use tonic::body::Body;
use tower_service::Service;

/// Small, so that the limit is met.
const MAX_DOCUMENT: usize = 512;

fuzz_target!(|data: &[u8]| {
    let [choice, piece, cut, rest @ ..] = data else { return };
    let with_paths: Vec<_> = METHODS.iter().filter(|method| !method.http_paths.is_empty()).collect();
    let method = with_paths[usize::from(*choice) % with_paths.len()];
    let (body, answer) = rest.split_at(rest.len() * usize::from(*cut) / 256);
    let piece = usize::from(*piece % 64) + 1;

    let service = Answers { answer: Bytes::copy_from_slice(answer), piece };
    let limits = GatewayLimits {
        max_document_bytes: MAX_DOCUMENT,
        max_streamed_bytes: MAX_DOCUMENT,
        body_patience: Duration::from_secs(60),
    };
    let mut request = Request::new(pieces(Bytes::copy_from_slice(body), piece, None));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = http::Uri::from_static(method.http_paths[0]);
    if let Ok(value) = HeaderValue::from_bytes(&body[..body.len().min(8)]) {
        request.headers_mut().insert("grpc-metadata-token", value.clone());
        request.headers_mut().insert("grpc-timeout", value);
    }
    // Everything is there at once, so nothing has to be waited for; a stream of answers whose
    // requests have not failed may.
    let whole = async {
        let response = Gateway::new(service, limits).answer(request).await;
        let _ = response.into_body().collect().await;
    };
    let _ = whole.now_or_never();
});

/// A body in pieces, with trailers if there are.
fn pieces(
    mut whole: Bytes,
    piece: usize,
    trailers: Option<HeaderMap>,
) -> StreamBody<impl futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>>> {
    let mut frames = VecDeque::new();
    while !whole.is_empty() {
        frames.push_back(Ok(Frame::data(whole.split_to(piece.min(whole.len())))));
    }
    frames.extend(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
    StreamBody::new(stream::iter(frames))
}

/// Reads each request to its end, and answers with whatever bytes it was given.
#[derive(Clone)]
struct Answers {
    answer: Bytes,
    piece: usize,
}

impl Service<Request<Body>> for Answers {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let _ = request.into_body().collect().now_or_never();
        let mut trailers = HeaderMap::new();
        let status = match self.answer.first() {
            Some(byte) if byte % 4 == 3 => "5",
            _ => "0",
        };
        trailers.insert("grpc-status", HeaderValue::from_static(status));
        let answer = self.answer.slice(self.answer.len().min(1)..);
        let body = pieces(answer, self.piece, Some(trailers));
        ready(Ok(Response::new(Body::new(body))))
    }
}
