//! The routes for peers: unpacks HTTP and hands the rest to [`Inbound`].
//!
//! Actix's request bodies belong to the worker thread that reads them, and Raft
//! runs on a runtime of its own; bounded channels carry the pieces between them.

use std::fmt::Display;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix_web::http::Method;
use actix_web::http::header::{AUTHORIZATION, CONTENT_TYPE};
use actix_web::web::{self, Bytes, Payload};
use actix_web::{HttpRequest, HttpResponse, ResponseError as _};
use futures_util::{Stream, StreamExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::error::Failure;
use super::paced::{self, STALL};
use crate::error::Error;
use crate::openraft_network::Inbound;
use crate::openraft_network::forward::{FORWARD, ForwardRequest, ManageRequest};
use crate::openraft_network::inbound::{Headers, Refusal, Sender};
use crate::openraft_network::wire::{
    BINARY, BINARY_STREAM, Encoding, HEADER_CLUSTER, HEADER_TO, JSON, JSON_STREAM, MAX_FRAME_BYTES,
};
use crate::service::Service;

/// How long the sender of a message or a snapshot may be silent.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pieces of a stream that may wait between a worker and Raft.
const PIECES_AHEAD: usize = 16;

/// Bytes of whole messages that may be in memory at once, over all workers. Far
/// above what peers send; it bounds what strangers can make a node hold.
const MAX_BODIES_BYTES: usize = 4 * MAX_FRAME_BYTES;

/// What registers the routes for peers with each worker.
pub fn routes(
    inbound: &Inbound,
    service: &Service,
) -> impl Fn(&mut web::ServiceConfig) + Clone + Send + use<> {
    let (inbound, service) = (inbound.clone(), service.clone());
    let budget = web::Data::new(Budget(AtomicUsize::new(0)));
    move |config| {
        config.app_data(budget.clone());
        configure(config, &inbound, &service);
    }
}

/// Bytes of message bodies that are in memory.
struct Budget(AtomicUsize);

/// A body with its share of the budget.
struct Body<'a> {
    bytes: web::BytesMut,
    counted: usize,
    budget: &'a Budget,
}

impl<'a> Body<'a> {
    fn new(budget: &'a Budget) -> Self {
        Self { bytes: web::BytesMut::new(), counted: 0, budget }
    }

    fn push(&mut self, piece: &[u8]) -> Result<(), Error> {
        let size = self.bytes.len() + piece.len();
        if size > MAX_FRAME_BYTES {
            let (what, limit) = ("the message", MAX_FRAME_BYTES);
            return Err(Error::TooLarge { what, size, limit, option: "not configurable" });
        }
        let before = self.budget.0.fetch_add(piece.len(), Ordering::Relaxed);
        // Given back with the body, refused or not.
        self.counted += piece.len();
        if before + piece.len() > MAX_BODIES_BYTES {
            let reason = "too many messages from peers are being read".to_owned();
            return Err(Error::Unavailable { reason, retry_after: Duration::from_secs(1) });
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }
}

impl Drop for Body<'_> {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

fn configure(config: &mut web::ServiceConfig, inbound: &Inbound, service: &Service) {
    config.app_data(web::Data::new(inbound.clone())).app_data(web::Data::new(service.clone()));
    let post = |path: &str| web::resource(path.to_owned()).default_service(web::to(only_post));
    config
        .service(post("/append").route(web::post().to(append)))
        .service(post("/vote").route(web::post().to(vote)))
        .service(post("/pre-vote").route(web::post().to(pre_vote)))
        .service(post("/transfer-leader").route(web::post().to(transfer_leader)))
        .service(post("/snapshot").route(web::post().to(snapshot)))
        .service(post("/forward").route(web::post().to(forward)))
        .service(post("/manage").route(web::post().to(manage)))
        .service(post("/introduce").route(web::post().to(introduce)))
        .service(post("/peer-status").route(web::post().to(peer_status)));
}

async fn only_post() -> HttpResponse {
    Failure::MethodNotAllowed { allow: Method::POST.to_string() }.error_response()
}

fn error_response(error: Error) -> HttpResponse {
    Failure::Service(error).error_response()
}

/// How a body is encoded, and whether it is a stream. Whatever claims to be none
/// of ours is read as JSON, so that a bare `curl -d` works.
fn encoding(request: &HttpRequest) -> (Encoding, bool) {
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    match content_type {
        Some(BINARY) => (Encoding::Binary, false),
        Some(BINARY_STREAM) => (Encoding::Binary, true),
        Some(JSON_STREAM) => (Encoding::Json, true),
        Some(_) | None => (Encoding::Json, false),
    }
}

fn header<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    request.headers().get(name).and_then(|value| value.to_str().ok())
}

fn bearer(request: &HttpRequest) -> Option<&str> {
    request.headers().get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

fn admit(inbound: &Inbound, request: &HttpRequest) -> Result<Sender, Refusal> {
    inbound.admit(Headers {
        cluster: header(request, HEADER_CLUSTER),
        to: header(request, HEADER_TO),
        bearer: bearer(request),
    })
}

/// Reads a whole body of bounded size.
async fn read_body(request: &HttpRequest, payload: Payload) -> Result<Bytes, HttpResponse> {
    let budget = request.app_data::<web::Data<Budget>>().expect("the budget is registered with the routes");
    read_whole(budget, payload, PATIENCE).await.map_err(error_response)
}

/// Puts the pieces of a body together, each of which may take as long as `patience`.
async fn read_whole<E: Display>(
    budget: &Budget,
    mut pieces: impl Stream<Item = Result<Bytes, E>> + Unpin,
    patience: Duration,
) -> Result<Bytes, Error> {
    let mut body = Body::new(budget);
    loop {
        let piece = tokio::time::timeout(patience, pieces.next()).await;
        let piece =
            piece.map_err(|_| Error::Invalid(format!("nothing of the body came for {patience:?}")))?;
        let Some(piece) = piece else { break };
        let piece = piece.map_err(|error| Error::Invalid(format!("the body broke off: {error}")))?;
        body.push(&piece)?;
    }
    // What it is decoded to waits in queues that have bounds of their own.
    Ok(std::mem::take(&mut body.bytes).freeze())
}

fn refused(refusal: &Refusal) -> HttpResponse {
    let message = refusal.to_string();
    error_response(match refusal {
        Refusal::Unauthorized => Error::Unauthorized(message),
        Refusal::Forgetful => Error::Conflict { code: "may_not_vote", message },
        Refusal::WrongNode { .. } => Error::Conflict { code: "wrong_node", message },
        Refusal::WrongCluster(_) => Error::Conflict { code: "wrong_cluster", message },
        Refusal::Malformed(_) | Refusal::Implausible(_) | Refusal::Snapshot(_) => Error::Invalid(message),
        Refusal::Stopped(_) => Error::Unavailable { reason: message, retry_after: Duration::from_secs(1) },
    })
}

fn answer(encoding: Encoding, result: Result<Bytes, Refusal>) -> HttpResponse {
    match result {
        Ok(body) => {
            let content_type = match encoding {
                Encoding::Binary => BINARY,
                Encoding::Json => JSON,
            };
            HttpResponse::Ok().insert_header((CONTENT_TYPE, content_type)).body(body)
        }
        Err(refusal) => refused(&refusal),
    }
}

/// Carries a body's pieces to another thread; a body that breaks off ends the
/// channel, and whoever reads it must notice that its end frame is missing.
///
/// A sender that is silent for longer than `patience` counts as gone.
fn pump(mut payload: Payload, patience: Duration) -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    actix_web::rt::spawn(async move {
        while let Ok(Some(Ok(piece))) = tokio::time::timeout(patience, payload.next()).await {
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    });
    receiver
}

async fn append(request: HttpRequest, payload: Payload, inbound: web::Data<Inbound>) -> HttpResponse {
    let sender = match admit(&inbound, &request) {
        Ok(sender) => sender,
        Err(refusal) => return refused(&refusal),
    };
    let (encoding, is_stream) = encoding(&request);
    if is_stream {
        let answers = inbound.append_stream(sender, encoding, pump(payload, Duration::MAX));
        let content_type = match encoding {
            Encoding::Binary => BINARY_STREAM,
            Encoding::Json => JSON_STREAM,
        };
        return HttpResponse::Ok()
            .insert_header((CONTENT_TYPE, content_type))
            .streaming(ReceiverStream::new(answers).map(Ok::<_, std::convert::Infallible>));
    }
    match read_body(&request, payload).await {
        Ok(body) => answer(encoding, inbound.append(sender, encoding, body).await),
        Err(response) => response,
    }
}

/// Handles a message that is one body and one answer.
macro_rules! unary {
    ($name:ident) => {
        async fn $name(request: HttpRequest, payload: Payload, inbound: web::Data<Inbound>) -> HttpResponse {
            let sender = match admit(&inbound, &request) {
                Ok(sender) => sender,
                Err(refusal) => return refused(&refusal),
            };
            let (encoding, _) = encoding(&request);
            match read_body(&request, payload).await {
                Ok(body) => answer(encoding, inbound.$name(sender, encoding, body).await),
                Err(response) => response,
            }
        }
    };
}

unary!(vote);
unary!(pre_vote);
unary!(transfer_leader);

async fn snapshot(request: HttpRequest, payload: Payload, inbound: web::Data<Inbound>) -> HttpResponse {
    let sender = match admit(&inbound, &request) {
        Ok(sender) => sender,
        Err(refusal) => return refused(&refusal),
    };
    let (encoding, _) = encoding(&request);
    answer(encoding, inbound.snapshot(sender, encoding, pump(payload, PATIENCE)).await)
}

async fn forward(
    request: HttpRequest,
    payload: Payload,
    inbound: web::Data<Inbound>,
    service: web::Data<Service>,
) -> HttpResponse {
    if let Err(refusal) = admit(&inbound, &request) {
        return refused(&refusal);
    }
    let body = match read_body(&request, payload).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    match ForwardRequest::decode(body) {
        Ok(forwarded) => {
            let response = service.handle_forwarded(forwarded).await;
            let (body, counted) = (response.encode(), response.counted());
            let mut answer = HttpResponse::Ok();
            answer.insert_header((CONTENT_TYPE, FORWARD));
            paced::held(&request, STALL, &mut answer, body, counted)
        }
        Err(error) => error_response(Error::Invalid(error.to_string())),
    }
}

/// Admits the sender and reads a JSON message.
async fn read_json<T: DeserializeOwned>(
    request: &HttpRequest,
    payload: Payload,
    inbound: &Inbound,
) -> Result<T, HttpResponse> {
    admit(inbound, request).map_err(|refusal| refused(&refusal))?;
    let body = read_body(request, payload).await?;
    serde_json::from_slice(&body).map_err(|error| error_response(Error::Invalid(error.to_string())))
}

async fn manage(
    request: HttpRequest,
    payload: Payload,
    inbound: web::Data<Inbound>,
    service: web::Data<Service>,
) -> HttpResponse {
    match read_json::<ManageRequest>(&request, payload, &inbound).await {
        Ok(call) => HttpResponse::Ok().json(service.handle_management(call).await),
        Err(response) => response,
    }
}

/// Tells who this node is. Asked before the sender and this node need to share a
/// cluster, so only the secret and the node that is meant are checked.
async fn introduce(
    request: HttpRequest,
    inbound: web::Data<Inbound>,
    service: web::Data<Service>,
) -> HttpResponse {
    let headers = Headers { cluster: None, to: header(&request, HEADER_TO), bearer: bearer(&request) };
    if let Err(refusal) = inbound.admit(headers) {
        return refused(&refusal);
    }
    match service.introduce().await {
        Ok(introduction) => HttpResponse::Ok().json(introduction),
        Err(error) => error_response(error),
    }
}

async fn peer_status(
    request: HttpRequest,
    inbound: web::Data<Inbound>,
    service: web::Data<Service>,
) -> HttpResponse {
    match admit(&inbound, &request) {
        Ok(_) => HttpResponse::Ok().json(service.status()),
        Err(refusal) => refused(&refusal),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;

    use super::*;

    #[tokio::test]
    async fn a_body_that_stops_arriving_gives_its_share_back() {
        let budget = Budget(AtomicUsize::new(0));
        let pieces = || stream::iter(["one", "two"]).map(|piece| Ok::<_, Infallible>(Bytes::from(piece)));
        let patience = Duration::from_millis(20);
        assert_eq!(read_whole(&budget, pieces(), PATIENCE).await.unwrap(), "onetwo");
        let stopped = read_whole(&budget, pieces().chain(stream::pending()), patience).await.unwrap_err();
        assert_eq!(stopped.to_string(), "nothing of the body came for 20ms");
        let broken = pieces().map(|_| Err::<Bytes, _>("reset"));
        let broken = read_whole(&budget, broken, PATIENCE).await.unwrap_err();
        assert_eq!(broken.to_string(), "the body broke off: reset");
        assert_eq!(budget.0.load(Ordering::Relaxed), 0);
    }
}
