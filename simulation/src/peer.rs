//! The peers' end of messages: does with `Inbound` and `Service` what the HTTP front
//! does with them.

use bytes::{Bytes, BytesMut};
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::http::request::Parts;
use kvorum::openraft_network::Inbound;
use kvorum::openraft_network::forward::ForwardRequest;
use kvorum::openraft_network::inbound::{Headers, Refusal, Sender};
use kvorum::openraft_network::wire::{
    BINARY, BINARY_STREAM, Encoding, HEADER_CLUSTER, HEADER_TO, JSON_STREAM,
};
use kvorum::service::Service;
use kvorum::simulation::Handle;
use tokio::sync::mpsc;

use crate::net::Arriving;

/// Pieces of a stream that may wait between the network and Raft.
const PIECES_AHEAD: usize = 16;

/// What of a node peers can reach.
#[derive(Clone)]
pub(crate) struct Doors {
    pub(crate) inbound: Inbound,
    pub(crate) service: Service,
}

/// The body of an answer.
pub(crate) enum Answer {
    Whole(Bytes),
    Stream(mpsc::Receiver<Bytes>),
}

type Answered = (StatusCode, Answer);

fn refused(status: StatusCode, message: &str) -> Answered {
    let body = serde_json::json!({ "error": { "message": message } }).to_string();
    (status, Answer::Whole(body.into()))
}

fn refusal(refusal: &Refusal) -> Answered {
    let status = match refusal {
        Refusal::Unauthorized => StatusCode::UNAUTHORIZED,
        Refusal::Forgetful | Refusal::WrongNode { .. } | Refusal::WrongCluster(_) => StatusCode::CONFLICT,
        Refusal::Malformed(_) | Refusal::Implausible(_) | Refusal::Snapshot(_) => StatusCode::BAD_REQUEST,
        Refusal::Stopped(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    refused(status, &refusal.to_string())
}

fn answered(result: Result<Bytes, Refusal>) -> Answered {
    match result {
        Ok(body) => (StatusCode::OK, Answer::Whole(body)),
        Err(error) => refusal(&error),
    }
}

fn json(value: &impl serde::Serialize) -> Answered {
    (StatusCode::OK, Answer::Whole(serde_json::to_vec(value).expect("answers have a JSON form").into()))
}

fn header<'a>(head: &'a Parts, name: &str) -> Option<&'a str> {
    head.headers.get(name).and_then(|value| value.to_str().ok())
}

fn admit(inbound: &Inbound, head: &Parts) -> Result<Sender, Answered> {
    let bearer =
        head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let headers = Headers { cluster: header(head, HEADER_CLUSTER), to: header(head, HEADER_TO), bearer };
    inbound.admit(headers).map_err(|error| refusal(&error))
}

async fn whole(mut body: Arriving) -> Result<Bytes, Answered> {
    let mut all = BytesMut::new();
    loop {
        match body.next().await {
            Ok(Some(piece)) => all.extend_from_slice(&piece),
            Ok(None) => return Ok(all.freeze()),
            Err(error) => return Err(refused(StatusCode::BAD_REQUEST, &error.to_string())),
        }
    }
}

/// Hands a body's pieces on as they come; one that breaks off just ends.
fn pump(mut body: Arriving) -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    Handle::current().spawn(async move {
        while let Ok(Some(piece)) = body.next().await {
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// Carries a request out.
pub(crate) async fn serve(doors: &Doors, head: &Parts, body: Arriving) -> Answered {
    match try_serve(doors, head, body).await {
        Ok(answered) | Err(answered) => answered,
    }
}

async fn try_serve(doors: &Doors, head: &Parts, body: Arriving) -> Result<Answered, Answered> {
    let Doors { inbound, service } = doors;
    let path = head.uri.path();
    if path == "/introduce" {
        let headers = Headers { cluster: None, to: header(head, HEADER_TO), bearer: None };
        inbound.admit(headers).map_err(|error| refusal(&error))?;
        let introduction = service.introduce().await;
        return introduction
            .map(|it| json(&it))
            .map_err(|error| refused(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()));
    }
    let sender = admit(inbound, head)?;
    let (encoding, is_stream) = match header(head, CONTENT_TYPE.as_str()) {
        Some(BINARY) => (Encoding::Binary, false),
        Some(BINARY_STREAM) => (Encoding::Binary, true),
        Some(JSON_STREAM) => (Encoding::Json, true),
        Some(_) | None => (Encoding::Json, false),
    };
    let malformed = |error: String| refused(StatusCode::BAD_REQUEST, &error);
    match path {
        "/append" if is_stream => {
            let answers = inbound.append_stream(sender, encoding, pump(body));
            Ok((StatusCode::OK, Answer::Stream(answers)))
        }
        "/append" => Ok(answered(inbound.append(sender, encoding, whole(body).await?).await)),
        "/vote" => Ok(answered(inbound.vote(sender, encoding, whole(body).await?).await)),
        "/pre-vote" => Ok(answered(inbound.pre_vote(sender, encoding, whole(body).await?).await)),
        "/transfer-leader" => {
            Ok(answered(inbound.transfer_leader(sender, encoding, whole(body).await?).await))
        }
        "/snapshot" => Ok(answered(inbound.snapshot(sender, encoding, pump(body)).await)),
        "/forward" => {
            let request =
                ForwardRequest::decode(whole(body).await?).map_err(|error| malformed(error.to_string()))?;
            let response = service.handle_forwarded(request).await;
            Ok((StatusCode::OK, Answer::Whole(response.encode())))
        }
        "/manage" => {
            let request = serde_json::from_slice(&whole(body).await?)
                .map_err(|error: serde_json::Error| malformed(error.to_string()))?;
            Ok(json(&service.handle_management(request).await))
        }
        "/peer-status" => Ok(json(&service.status())),
        _ => Err(refused(StatusCode::NOT_FOUND, "there is no such route")),
    }
}
