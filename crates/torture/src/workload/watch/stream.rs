//! An open watch over either way, as one kind of stream.
//!
//! What a message says is taken as it is; whether it may say so is for the checkers.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::Method;
use hyper::body::Incoming;
use kvorum_etcd_proto::{etcdserverpb as pb, mvccpb};
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::sse::{Message, Parser};
use crate::history::{Event, Way};
use crate::workload::Endpoint;
use crate::workload::http::{self, Question, StreamRefused};
use crate::workload::{over_grpc, over_http};

/// The largest message over gRPC: what was missed while a node was away may come at once.
const LARGEST: usize = 256 << 20;

/// What a watch is asked for.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    /// The prefix of the keys; empty is every key.
    pub(super) prefix: String,
    /// The first revision; 0 is from now on.
    pub(super) from_revision: i64,
    /// Whether it goes on where another one ended.
    pub(super) resumes: bool,
}

/// What a watch told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    /// It begins behind this revision, if it was asked from now on.
    Created(i64),
    Events(Vec<Event>),
    Progress(i64),
    Compacted(i64),
    /// It ended, and why.
    Ended(String),
}

/// An open watch.
pub(super) enum Stream {
    Http { body: Incoming, parser: Parser, ready: Vec<Told> },
    Grpc { told: Box<Streaming<pb::WatchResponse>>, asked: mpsc::Sender<pb::WatchRequest>, id: i64 },
}

/// Opens a watch at a node.
///
/// # Errors
/// What the node told instead.
pub(super) async fn open(
    way: Way,
    endpoint: &Endpoint,
    wish: &Wish,
    limit: Duration,
) -> Result<Stream, Told> {
    match way {
        Way::Http | Way::Seed => open_http(endpoint, wish, limit).await,
        Way::Grpc => open_grpc(endpoint, wish, limit).await,
    }
}

async fn open_http(endpoint: &Endpoint, wish: &Wish, limit: Duration) -> Result<Stream, Told> {
    let mut path = format!("/v1/watch?prefix={}", wish.prefix.replace('/', "%2F"));
    if wish.from_revision > 0 && !wish.resumes {
        path = format!("{path}&from_revision={}", wish.from_revision);
    }
    let mut question = Question::new(Method::GET, path);
    if wish.resumes {
        question = question.with("last-event-id", (wish.from_revision - 1).to_string());
    }
    match http::stream(&endpoint.http, question, limit).await {
        Ok(body) => Ok(Stream::Http { body, parser: Parser::default(), ready: Vec::new() }),
        Err(StreamRefused::Told(answer)) => Err(error(answer.status, &answer.json())),
        Err(StreamRefused::Silent(trouble)) => Err(Told::Ended(format!("{trouble:?}"))),
    }
}

fn error(status: u16, body: &Value) -> Told {
    let code = body.pointer("/error/code").and_then(Value::as_str).unwrap_or_default();
    match body.pointer("/error/details/oldest").and_then(Value::as_i64) {
        Some(oldest) if code == "compacted" => Told::Compacted(oldest),
        _ => Told::Ended(format!("{status} {code}")),
    }
}

async fn open_grpc(endpoint: &Endpoint, wish: &Wish, limit: Duration) -> Result<Stream, Told> {
    let ended = |reason: String| Told::Ended(reason);
    let channel = over_grpc::channel(&endpoint.grpc).map_err(|error| ended(error.to_string()))?;
    let (key, range_end) = keys(&wish.prefix);
    let create = pb::WatchCreateRequest {
        key,
        range_end,
        start_revision: wish.from_revision,
        progress_notify: true,
        ..Default::default()
    };
    let (asked, requests) = mpsc::channel(4);
    let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    asked.try_send(create).map_err(|error| ended(error.to_string()))?;
    let mut client = WatchClient::new(channel).max_decoding_message_size(LARGEST);
    let opened = timeout(limit, client.watch(ReceiverStream::new(requests))).await;
    let opened = opened.map_err(|_| ended(format!("no answer within {limit:?}")))?;
    let told = opened.map_err(|status| ended(format!("{:?} {}", status.code(), status.message())))?;
    Ok(Stream::Grpc { told: Box::new(told.into_inner()), asked, id: 0 })
}

/// The range of all keys that begin with `prefix`.
fn keys(prefix: &str) -> (Bytes, Bytes) {
    if prefix.is_empty() {
        return (Bytes::from_static(b"\0"), Bytes::from_static(b"\0"));
    }
    let mut end = prefix.as_bytes().to_vec();
    // Prefixes are ASCII.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    (Bytes::copy_from_slice(prefix.as_bytes()), end.into())
}

impl Stream {
    /// The next that is told; a stream that has ended is asked no more.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    pub(super) async fn next(&mut self) -> Told {
        loop {
            match self {
                Self::Grpc { told, id, .. } => {
                    return match told.message().await {
                        Ok(Some(message)) => {
                            if message.created {
                                *id = message.watch_id;
                            }
                            of_grpc(&message)
                        }
                        Ok(None) => Told::Ended("the stream ended".to_owned()),
                        Err(status) => Told::Ended(format!("{:?} {}", status.code(), status.message())),
                    };
                }
                Self::Http { body, parser, ready } => {
                    if !ready.is_empty() {
                        return ready.remove(0);
                    }
                    let frame = match body.frame().await {
                        Some(Ok(frame)) => frame,
                        Some(Err(error)) => return Told::Ended(error.to_string()),
                        None => return Told::Ended("the stream ended".to_owned()),
                    };
                    let Some(piece) = frame.data_ref() else { continue };
                    match parser.feed(piece) {
                        Ok(messages) => ready.extend(messages.iter().map(of_http)),
                        Err(reason) => return Told::Ended(reason.to_owned()),
                    }
                }
            }
        }
    }

    /// Asks how far it is, where that can be asked.
    pub(super) fn ask_progress(&self) {
        if let Self::Grpc { asked, .. } = self {
            let request = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
            // Who is not asked now is asked the next time.
            let _ = asked.try_send(pb::WatchRequest { request_union: Some(request) });
        }
    }
}

impl Stream {
    /// Asks for the watch's end, where that can be asked; what was under way is told still.
    pub(super) fn cancel(&self) -> bool {
        let Self::Grpc { asked, id, .. } = self else { return false };
        let request = RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: *id });
        asked.try_send(pb::WatchRequest { request_union: Some(request) }).is_ok()
    }
}

fn of_grpc(message: &pb::WatchResponse) -> Told {
    let revision = message.header.as_ref().map_or(0, |header| header.revision);
    if message.canceled {
        return if message.compact_revision > 0 {
            Told::Compacted(message.compact_revision)
        } else {
            Told::Ended(format!("canceled: {}", message.cancel_reason))
        };
    }
    if message.created {
        return Told::Created(revision);
    }
    if message.events.is_empty() {
        return Told::Progress(revision);
    }
    let events: Option<Vec<_>> = message.events.iter().map(event_of_grpc).collect();
    events.map_or_else(|| Told::Ended("strange event over gRPC".to_owned()), Told::Events)
}

fn event_of_grpc(event: &mvccpb::Event) -> Option<Event> {
    let found = event.kv.as_ref()?;
    let record = match event.r#type() {
        mvccpb::event::EventType::Put => Some(over_grpc::record(found)?),
        mvccpb::event::EventType::Delete => None,
    };
    let key = String::from_utf8(found.key.to_vec()).ok()?;
    Some(Event { key, mod_revision: found.mod_revision, record })
}

fn of_http(message: &Message) -> Told {
    let data: Value = serde_json::from_str(&message.data).unwrap_or(Value::Null);
    let revision = data.get("revision").and_then(Value::as_i64);
    let told = match (message.event.as_str(), revision) {
        // The id is by what a client comes back, so that it must be the revision.
        ("created" | "change" | "progress", Some(revision)) if message.id != revision.to_string() => None,
        ("created", Some(revision)) => Some(Told::Created(revision)),
        ("progress", Some(revision)) => Some(Told::Progress(revision)),
        ("change", Some(revision)) => changes(&data, revision).map(Told::Events),
        ("error", None) => Some(error(200, &data)),
        _ => None,
    };
    told.unwrap_or_else(|| Told::Ended(format!("strange message {message:?}")))
}

/// The events of one revision.
fn changes(data: &Value, revision: i64) -> Option<Vec<Event>> {
    let events = data.get("events")?.as_array()?.iter().map(|event| {
        let key = event.get("key")?.as_str()?.to_owned();
        let mod_revision = event.get("mod_revision")?.as_i64()?;
        let record = match event.get("type")?.as_str()? {
            "put" => Some(over_http::record(event)?),
            "delete" => None,
            _ => return None,
        };
        (mod_revision == revision).then_some(Event { key, mod_revision, record })
    });
    let events: Vec<_> = events.collect::<Option<_>>()?;
    if events.is_empty() { None } else { Some(events) }
}

#[cfg(test)]
mod tests {
    use kvorum_scripted::{Scripted, Step};
    use serde_json::json;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(2);

    fn endpoint(addr: &str) -> Endpoint {
        Endpoint { node: 1, http: addr.to_owned(), grpc: addr.to_owned() }
    }

    fn wish(from_revision: i64, resumes: bool) -> Wish {
        Wish { prefix: "reg/".to_owned(), from_revision, resumes }
    }

    #[tokio::test]
    async fn messages_over_http_become_what_they_tell() {
        let put = json!({ "type": "put", "key": "reg/a", "value": "v", "create_revision": 5, "mod_revision": 9,
            "version": 3 });
        let gone = json!({ "type": "delete", "key": "reg/b", "mod_revision": 9 });
        let server = Scripted::steps([Step::events(
            &[
                ("created", 8, json!({ "revision": 8 })),
                ("change", 9, json!({ "revision": 9, "events": [put, gone] })),
                ("progress", 12, json!({ "revision": 12 })),
                ("change", 14, json!({ "revision": 13, "events": [] })),
                ("error", 0, json!({ "error": { "code": "compacted", "details": { "oldest": 40 } } })),
            ],
            false,
        )])
        .await;
        let mut stream = open(Way::Http, &endpoint(server.addr()), &wish(9, true), LIMIT).await.ok().unwrap();
        assert_eq!(stream.next().await, Told::Created(8));
        let Told::Events(events) = stream.next().await else { panic!("no events") };
        assert_eq!(events.len(), 2);
        assert_eq!(
            events[0].record.as_ref().map(|record| (record.create_revision, record.version)),
            Some((5, 3))
        );
        assert_eq!((events[1].key.as_str(), events[1].mod_revision, &events[1].record), ("reg/b", 9, &None));
        assert_eq!(stream.next().await, Told::Progress(12));
        assert!(matches!(stream.next().await, Told::Ended(reason) if reason.starts_with("strange message")));
        assert_eq!(stream.next().await, Told::Compacted(40));
        assert!(matches!(stream.next().await, Told::Ended(_)));
        let request = &server.requests()[0];
        assert_eq!(request.target, "/v1/watch?prefix=reg%2F");
        assert_eq!(request.header("last-event-id"), Some("8"));
    }

    #[tokio::test]
    async fn refusals_over_http_are_told() {
        let compacted = r#"{"error":{"code":"compacted","details":{"requested":2,"oldest":40}}}"#;
        let server = Scripted::steps([Step::reply(410, compacted), Step::error(503, "unavailable")]).await;
        let at = endpoint(server.addr());
        assert_eq!(open(Way::Http, &at, &wish(2, false), LIMIT).await.err(), Some(Told::Compacted(40)));
        let refused = open(Way::Http, &at, &wish(0, false), LIMIT).await.err();
        assert_eq!(refused, Some(Told::Ended("503 unavailable".to_owned())));
        let targets: Vec<_> = server.requests().into_iter().map(|request| request.target).collect();
        assert_eq!(targets, ["/v1/watch?prefix=reg%2F&from_revision=2", "/v1/watch?prefix=reg%2F"]);
    }

    #[test]
    fn messages_over_grpc_become_what_they_tell() {
        let header = Some(pb::ResponseHeader { revision: 7, ..Default::default() });
        let of = |message: pb::WatchResponse| of_grpc(&pb::WatchResponse { header, ..message });
        let created = pb::WatchResponse { created: true, ..Default::default() };
        assert_eq!(of(created), Told::Created(7));
        assert_eq!(of(pb::WatchResponse::default()), Told::Progress(7));
        let canceled = pb::WatchResponse { canceled: true, compact_revision: 5, ..Default::default() };
        assert_eq!(of(canceled), Told::Compacted(5));
        let refused = pb::WatchResponse { created: true, canceled: true, ..Default::default() };
        assert_eq!(of(refused), Told::Ended("canceled: ".to_owned()));
        let kv = mvccpb::KeyValue { key: "k".into(), mod_revision: 7, ..Default::default() };
        let delete =
            mvccpb::Event { r#type: mvccpb::event::EventType::Delete.into(), kv: Some(kv), prev_kv: None };
        let event = Event { key: "k".to_owned(), mod_revision: 7, record: None };
        let events = pb::WatchResponse { events: vec![delete], ..Default::default() };
        assert_eq!(of(events), Told::Events(vec![event]));
        assert_eq!(keys("reg/"), (Bytes::from_static(b"reg/"), Bytes::from_static(b"reg0")));
        assert_eq!(keys(""), (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")));
    }
}
