//! JSON over HTTP for whatever serves gRPC.
//!
//! A call becomes a gRPC request in memory and goes through the same service, with all its
//! layers, as one that came over a gRPC connection. The gateway knows the table of methods
//! and no meaning of any of them.
//!
//! Nothing is buffered but the message under way: streams are read and written as they come,
//! at the pace of the slower side. No task is started; dropping the body of a response ends
//! the call.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use tokio::sync::oneshot;
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

use crate::{MalformedRequest, Method, method_at};
use documents::Documents;
use frames::{Messages, frame};

mod answer;
mod documents;
mod frames;
mod prompt;
#[cfg(test)]
mod tests;

pub use answer::{Refusal, failed, http_status};
pub use prompt::PromptBody;

/// What a body may cost.
#[derive(Debug, Clone, Copy)]
pub struct GatewayLimits {
    /// The largest JSON document that is the body of a simple call.
    pub max_document_bytes: usize,
    /// The largest that is one request of a stream.
    pub max_streamed_bytes: usize,
    /// How long each 64 KiB of a simple call's body may take. Streams may pause for ever.
    pub body_patience: Duration,
}

/// Takes calls in JSON and makes them gRPC calls of `S`. Cheap to clone if `S` is.
#[derive(Debug, Clone)]
pub struct Gateway<S> {
    calls: S,
    limits: GatewayLimits,
}

impl<S> Gateway<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    /// A gateway to `calls`.
    pub fn new(calls: S, limits: GatewayLimits) -> Self {
        Self { calls, limits }
    }

    /// Answers one call; errors are answers too.
    ///
    /// Of the request's headers `Authorization`, `Grpc-Timeout` and those that start with
    /// `Grpc-Metadata-` reach the service; so do its extensions.
    pub async fn answer<B>(mut self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<tonic::codegen::StdError>,
    {
        let (head, body) = request.into_parts();
        let Some(method) = method_at(head.uri.path()) else {
            return answer::failed(&Status::not_found("Not Found"));
        };
        if head.method != http::Method::POST {
            return answer::failed(&Status::unimplemented("Method Not Allowed"));
        }
        let call = |body| {
            let mut call = Request::new(body);
            *call.method_mut() = http::Method::POST;
            *call.version_mut() = Version::HTTP_2;
            *call.uri_mut() = http::Uri::from_static(method.path);
            *call.headers_mut() = metadata(&head.headers);
            *call.extensions_mut() = head.extensions;
            call
        };
        if method.client_streaming {
            let (failing, failed) = oneshot::channel();
            let requests = requests(body, method, self.limits.max_streamed_bytes, failing);
            self.stream(method, call(Body::new(StreamBody::new(requests))), Some(failed)).await
        } else {
            let message = match message(method, body, self.limits).await {
                Ok(message) => message,
                Err(status) => return answer::failed(&status),
            };
            let call = call(Body::new(Full::new(frame(&message))));
            if method.server_streaming {
                self.stream(method, call, None).await
            } else {
                self.simple(method, call).await
            }
        }
    }

    async fn simple(&mut self, method: &Method, call: Request<Body>) -> Response<Body> {
        let response = self.call(call).await;
        if let Some(status) = failure(response.headers()) {
            return answer::failed(&status);
        }
        let mut responses = Responses::new(response.into_body());
        let message = match responses.next().await {
            Some(Ok(message)) => message,
            Some(Err(status)) => return answer::failed(&status),
            None => return answer::failed(&Status::internal("the call ended without a response")),
        };
        // The status comes after the message, and only it says whether the call succeeded.
        match responses.next().await {
            None => {}
            Some(Err(status)) => return answer::failed(&status),
            Some(Ok(_)) => return answer::failed(&Status::internal("the call gave more than one response")),
        }
        match (method.to_json)(message) {
            Ok(json) => answer::json(StatusCode::OK, json),
            Err(error) => answer::failed(&Status::internal(error.to_string())),
        }
    }

    /// `failed` tells why the requests ended, if that was the caller's fault.
    async fn stream(
        &mut self,
        method: &'static Method,
        call: Request<Body>,
        mut failed: Option<oneshot::Receiver<Status>>,
    ) -> Response<Body> {
        let response = tokio::select! {
            biased;
            status = requests_failed(&mut failed) => return answer::stream_refused(&status),
            response = self.call(call) => response,
        };
        if let Some(status) = failure(response.headers()) {
            return answer::stream_refused(&status);
        }
        let lines = lines(Responses::new(response.into_body()), method, failed);
        answer::with_body(StatusCode::OK, Body::new(StreamBody::new(lines)))
    }

    async fn call(&mut self, call: Request<Body>) -> Response<Body> {
        let Ok(()) = poll_fn(|context| self.calls.poll_ready(context)).await;
        let Ok(response) = self.calls.call(call).await;
        response
    }
}

impl<S, B> Service<Request<B>> for Gateway<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<tonic::codegen::StdError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Each call waits for a clone of its own.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let gateway = self.clone();
        Box::pin(async move { Ok(gateway.answer(request).await) })
    }
}

/// The headers of the gRPC request.
fn metadata(given: &HeaderMap) -> HeaderMap {
    const PREFIX: &str = "grpc-metadata-";
    const TIMEOUT: &str = "grpc-timeout";
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let Some(name) = name.as_str().strip_prefix(PREFIX) else { continue };
        // What the protocol itself says with headers is not the caller's to say.
        let reserved =
            name.starts_with("grpc-") || ["te", "content-type", "content-length", "host"].contains(&name);
        if let (false, Ok(name)) = (reserved, HeaderName::try_from(name)) {
            headers.append(name, value.clone());
        }
    }
    if let Some(credentials) = given.get(header::AUTHORIZATION) {
        for name in [HeaderName::from_static("token"), header::AUTHORIZATION] {
            headers.entry(name).or_insert_with(|| credentials.clone());
        }
    }
    if let Some(timeout) = given.get(TIMEOUT) {
        headers.insert(HeaderName::from_static(TIMEOUT), timeout.clone());
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers
}

/// Reads the only message of a call; an empty body is an empty message.
async fn message<B>(method: &Method, body: B, limits: GatewayLimits) -> Result<Bytes, Status>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<tonic::codegen::StdError>,
{
    let max = limits.max_document_bytes;
    if body.size_hint().lower() > max as u64 {
        return Err(answer::too_large());
    }
    let whole = Limited::new(PromptBody::new(body, limits.body_patience), max).collect().await;
    let whole = whole.map_err(|error| match error.downcast::<Status>() {
        Ok(status) => *status,
        Err(_) => answer::too_large(),
    })?;
    let whole = whole.to_bytes();
    if whole.is_empty() {
        return Ok(whole);
    }
    (method.to_protobuf)(&whole).map_err(|error| malformed(&error))
}

/// The requests of a stream, framed, as their JSON arrives.
///
/// The first that can't be read ends them; `failing` is told why, because what the service
/// makes of a broken stream is its own affair.
fn requests<B>(
    body: B,
    method: &'static Method,
    max_bytes: usize,
    failing: oneshot::Sender<Status>,
) -> impl Stream<Item = Result<Frame<Bytes>, Status>> + Send + 'static
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<tonic::codegen::StdError>,
{
    struct Reading<B> {
        body: Pin<Box<B>>,
        documents: Documents,
        failing: oneshot::Sender<Status>,
    }
    let reading = Reading { body: Box::pin(body), documents: Documents::new(max_bytes), failing };
    stream::unfold(Some(reading), move |reading| async move {
        let mut reading = reading?;
        let next = loop {
            match reading.documents.next() {
                Ok(None) => {}
                Ok(Some(document)) => {
                    break (method.to_protobuf)(&document).map_err(|error| malformed(&error));
                }
                Err(status) => break Err(status),
            }
            match reading.body.frame().await {
                // Trailers say nothing here.
                Some(Ok(part)) => reading.documents.push(part.data_ref().map_or(&[], |data| data)),
                Some(Err(error)) => break Err(answer::broken_off(&error.into())),
                None => match reading.documents.finish() {
                    Ok(()) => return None,
                    Err(status) => break Err(status),
                },
            }
        };
        match next {
            Ok(message) => Some((Ok(Frame::data(frame(&message))), Some(reading))),
            Err(status) => {
                // Nobody listens if the caller is gone.
                let _ = reading.failing.send(status.clone());
                Some((Err(status), None))
            }
        }
    })
}

/// The lines of a streamed answer: one for each response, and one for the error if there is.
fn lines(
    responses: Responses,
    method: &'static Method,
    failed: Option<oneshot::Receiver<Status>>,
) -> impl Stream<Item = Result<Frame<Bytes>, Status>> + Send + 'static {
    stream::unfold(Some((responses, failed)), move |writing| async move {
        let (mut responses, mut failed) = writing?;
        let next = tokio::select! {
            biased;
            status = requests_failed(&mut failed) => Some(Err(status)),
            next = responses.next() => next,
        };
        let line = next?.and_then(|message| {
            (method.to_json)(message).map_err(|error| Status::internal(error.to_string()))
        });
        Some(match line {
            Ok(json) => (Ok(Frame::data(answer::stream_line(&json))), Some((responses, failed))),
            Err(status) => (Ok(Frame::data(answer::stream_failed(&status))), None),
        })
    })
}

/// Waits for the caller's fault that ends the requests; for ever if there is none.
async fn requests_failed(failed: &mut Option<oneshot::Receiver<Status>>) -> Status {
    if let Some(receiver) = failed {
        if let Ok(status) = receiver.await {
            return status;
        }
        // The requests ended well, and a receiver may not be asked twice.
        *failed = None;
    }
    std::future::pending().await
}

/// The responses of a gRPC call as they come.
struct Responses {
    body: Body,
    messages: Messages,
}

impl Responses {
    fn new(body: Body) -> Self {
        Self { body, messages: Messages::default() }
    }

    /// The next response; `None` after the last of a call that succeeded.
    async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        loop {
            match self.messages.next() {
                Ok(None) => {}
                Ok(Some(message)) => return Some(Ok(message)),
                Err(status) => return Some(Err(status)),
            }
            match self.body.frame().await {
                Some(Ok(part)) => match part.into_data() {
                    Ok(data) => self.messages.push(&data),
                    Err(part) => return failure(part.trailers_ref()?).map(Err),
                },
                Some(Err(status)) => return Some(Err(status)),
                None => return None,
            }
        }
    }
}

/// The failure that headers or trailers tell of.
fn failure(headers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(headers).filter(|status| status.code() != tonic::Code::Ok)
}

fn malformed(error: &MalformedRequest) -> Status {
    Status::invalid_argument(format!("the request is malformed: {error}"))
}
