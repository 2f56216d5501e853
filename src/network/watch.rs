//! `/v1/watch`: changes as server-sent events.
//!
//! A message is one revision, whole, and its id is that revision, so that whoever comes back
//! with the last id that it saw goes on behind it. The stream is made at the pace of the client
//! that reads it; what a slow one has not read waits in the hub, which bounds it.

use std::pin::Pin;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderValue};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use tokio::time::{Instant, Sleep};
use utoipa::ToSchema;

use super::backend::Backend;
use super::call::Call;
use super::error::{ErrorAnswer, Failure};
use super::kv::{InBase64, Item, text_or_base64};
use super::paced;
use super::query::Query;
use crate::error::Error;
use crate::keyspace::KeyRange;
use crate::mvcc::ChangeKind;
use crate::service::Consistency;
use crate::watch::{CancelReason, WatchEvent, WatchMessage, WatchRefusal, WatchRequest, WatchSession};

/// After what silence a comment is sent, which keeps proxies from closing the connection.
const LONGEST_SILENCE: Duration = Duration::from_secs(15);

/// The header by which a client says what it saw last.
const LAST_EVENT_ID: &str = "last-event-id";

/// The data of `created` and `progress`.
#[derive(Serialize, ToSchema)]
pub(super) struct ProgressMessage {
    /// Everything up to this revision has been told, or is not asked for.
    revision: i64,
}

/// The data of `change`.
#[derive(Serialize, ToSchema)]
pub(super) struct ChangeMessage<'a> {
    /// The revision.
    revision: i64,
    /// What it did to the keys that are watched, in its order.
    events: Vec<EventBody<'a>>,
}

/// What happened to a key.
#[derive(Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum EventBody<'a> {
    /// It was set.
    Put {
        /// The key as it is since.
        #[serde(flatten)]
        item: Item<'a>,
        /// The key as it was before, if that was asked for, is known and was anything.
        #[serde(skip_serializing_if = "Option::is_none")]
        previous: Option<Item<'a>>,
    },
    /// It was removed.
    Delete {
        /// The key, if it is UTF-8.
        #[serde(skip_serializing_if = "Option::is_none")]
        key: Option<&'a str>,
        /// The key in base64, if it is not UTF-8.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<String>)]
        key_base64: Option<InBase64<'a>>,
        /// The revision that removed it.
        mod_revision: i64,
        /// The key as it was before, if that was asked for and is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        previous: Option<Item<'a>>,
    },
}

impl<'a> EventBody<'a> {
    fn of(event: &'a WatchEvent) -> Self {
        let previous = event.previous().map(|record| Item::of_parts(event.key(), record, false));
        match (event.kind(), event.record()) {
            (ChangeKind::Put, Some(record)) => {
                Self::Put { item: Item::of_parts(event.key(), record, false), previous }
            }
            (ChangeKind::Put | ChangeKind::Delete, _) => {
                let (key, key_base64) = text_or_base64(event.key());
                Self::Delete { key, key_base64, mod_revision: event.revision(), previous }
            }
        }
    }
}

/// Watch keys.
///
/// A stream of server-sent events. `created` says behind which revision it begins; `change` has
/// all that one revision did to the keys; `progress` says up to which revision everything was
/// told; `error` is the last message of a stream that can't go on. The id of each is its
/// revision: a client that comes back with `Last-Event-ID` goes on behind it.
#[utoipa::path(
    get,
    path = "/v1/watch",
    tag = "kv",
    params(
        ("key" = Option<String>, Query, description = "only this key; without any range, all keys"),
        ("prefix" = Option<String>, Query, description = "only keys that begin with these bytes"),
        ("start" = Option<String>, Query, description = "only keys from this one on"),
        ("end" = Option<String>, Query, description = "only keys before this one; needs start"),
        ("from_revision" = Option<i64>, Query, description = "the first revision to tell of; otherwise what comes after now"),
        ("previous" = Option<bool>, Query, description = "tell what a key held before"),
        ("only" = Option<String>, Query, description = "put or delete: leave the other out"),
        ("progress" = Option<bool>, Query, description = "false: tell no progress"),
        ("Last-Event-ID" = Option<i64>, Header, description = "the last revision that was seen; wins over from_revision"),
    ),
    responses(
        (status = 200, description = "the stream", body = ChangeMessage, content_type = "text/event-stream"),
        (status = 410, description = "what it should begin with is compacted", body = ErrorAnswer),
        (status = "default", description = "refused or failed", body = ErrorAnswer),
    )
)]
pub(super) async fn watch<B: Backend>(call: Call<B>) -> Result<HttpResponse, Failure> {
    let query =
        call.query(&["key", "prefix", "start", "end", "from_revision", "previous", "only", "progress"])?;
    call.check_query_keys(&query, &["key", "prefix", "start", "end"])?;
    let keys = keys(&query)?;
    let (no_put, no_delete) = match query.bytes("only").map(AsRef::as_ref) {
        None => (false, false),
        Some(b"put") => (false, true),
        Some(b"delete") => (true, false),
        Some(_) => return Err(Failure::invalid("only must be put or delete")),
    };
    let wanted = match call.request.headers().get(LAST_EVENT_ID) {
        Some(seen) => Some(after(seen)?),
        None => query.number("from_revision", 1)?,
    };
    let wish = WatchRequest {
        with_previous: query.flag("previous")?,
        progress: !query.has("progress") || query.flag("progress")?,
        no_put,
        no_delete,
        ..WatchRequest::of(keys)
    };
    // What is acknowledged when the call begins is past, whichever node it comes to.
    let from = if let Some(from) = wanted {
        from
    } else {
        // Until that is known this is a request like any other.
        let _permit = call.admit()?;
        call.backend().revision(Consistency::Linearizable).await?.saturating_add(1)
    };
    let mut response = HttpResponse::Ok();
    response.insert_header((header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")));
    response.insert_header((header::CACHE_CONTROL, HeaderValue::from_static("no-store")));
    // Proxies that collect answers would keep events back.
    response.insert_header(("x-accel-buffering", "no"));
    if call.request.method() == Method::HEAD {
        return Ok(response.finish());
    }
    let mut session = call.backend().watch().session();
    session.create(WatchRequest { from: Some(from), ..wish }).map_err(|refusal| match refusal {
        WatchRefusal::DuplicateId | WatchRefusal::TooMany { .. } => {
            Error::Overloaded { node: call.backend().node_id() }
        }
    })?;
    // That it was created is known here. Of one that begins too early the end comes next, which
    // can still be told as an answer.
    session.try_next();
    let next = session.try_next();
    if let Some(WatchMessage::Canceled { reason: CancelReason::Compacted { compacted }, .. }) = next {
        return Err(Error::Compacted { requested: from, oldest: compacted }.into());
    }
    let begun = ProgressMessage { revision: from - 1 };
    let first = message_of("created", Some(from - 1), &begun);
    let telling = Telling {
        session,
        next,
        told: from - 1,
        is_over: false,
        quiet: Box::pin(tokio::time::sleep(LONGEST_SILENCE)),
    };
    let messages = stream::unfold(telling, async |mut telling| {
        let text = telling.next().await?;
        Some((Ok(text), telling))
    });
    Ok(paced::endless(&call, &mut response, first, messages))
}

/// A stream under way.
struct Telling {
    session: WatchSession,
    /// A message that was taken already.
    next: Option<WatchMessage>,
    /// Up to where everything was told.
    told: i64,
    is_over: bool,
    /// Ends when it is time for a sign of life.
    quiet: Pin<Box<Sleep>>,
}

impl Telling {
    /// What to send next; `None` once the stream is over.
    async fn next(&mut self) -> Option<Bytes> {
        if self.is_over {
            return None;
        }
        let message = if let Some(message) = self.next.take() {
            message
        } else {
            tokio::select! {
                message = self.session.next() => message,
                () = self.quiet.as_mut() => {
                    self.be_quiet();
                    return Some(Bytes::from_static(b":\n\n"));
                }
            }
        };
        self.be_quiet();
        Some(self.text(&message))
    }

    fn be_quiet(&mut self) {
        self.quiet.as_mut().reset(Instant::now() + LONGEST_SILENCE);
    }

    fn text(&mut self, message: &WatchMessage) -> Bytes {
        match message {
            WatchMessage::Created { id: _, revision: _ } => Bytes::new(),
            WatchMessage::Events { id: _, revision: _, events, more: _ } => {
                let mut text = Vec::new();
                for of_one in events.chunk_by(|one, next| one.revision() == next.revision()) {
                    let Some(revision) = of_one.first().map(WatchEvent::revision) else { continue };
                    let change =
                        ChangeMessage { revision, events: of_one.iter().map(EventBody::of).collect() };
                    write_message(&mut text, "change", Some(revision), &change);
                    self.told = revision;
                }
                text.into()
            }
            WatchMessage::Progress { id: _, revision } => {
                // One that begins in the future has nothing to tell of before.
                self.told = self.told.max(*revision);
                message_of("progress", Some(self.told), &ProgressMessage { revision: self.told })
            }
            WatchMessage::Canceled { id: _, revision: _, reason } => {
                let error = match reason {
                    CancelReason::Compacted { compacted } => {
                        Error::Compacted { requested: self.told + 1, oldest: *compacted }
                    }
                    // Nobody but this stream could have asked for it.
                    CancelReason::ByClient => stopping(),
                };
                self.end(error)
            }
            WatchMessage::Closed => self.end(stopping()),
        }
    }

    fn end(&mut self, error: Error) -> Bytes {
        self.is_over = true;
        // Without an id: a client that comes back goes on behind what it has seen.
        message_of("error", None, &Failure::from(error).answer())
    }
}

fn stopping() -> Error {
    Error::Unavailable {
        reason: "the node is stopping; watch at another node".to_owned(),
        retry_after: Duration::from_secs(1),
    }
}

/// The keys that the query names; all of them if it names none.
fn keys(query: &Query) -> Result<KeyRange, Failure> {
    let of = |name| query.bytes(name).cloned();
    match (of("key"), of("prefix"), of("start"), of("end")) {
        (None, None, None, None) => Ok(KeyRange::all()),
        (Some(key), None, None, None) if key.is_empty() => Err(Failure::invalid("the key is empty")),
        (Some(key), None, None, None) => Ok(KeyRange::One(key)),
        (None, Some(prefix), None, None) => Ok(KeyRange::prefix(prefix)),
        (None, None, Some(start), None) => Ok(KeyRange::From(start)),
        (None, None, Some(start), Some(end)) if start < end => Ok(KeyRange::Between { start, end }),
        (None, None, Some(_), Some(_)) => Err(Failure::invalid("end must be greater than start")),
        (None, None, None, Some(_)) => Err(Failure::invalid("end needs start")),
        _ => Err(Failure::invalid("key, prefix and start can't be combined")),
    }
}

/// The revision after the one that the client saw last.
fn after(seen: &HeaderValue) -> Result<i64, Failure> {
    let revision = seen.to_str().ok().and_then(|text| text.parse::<i64>().ok());
    let after = revision.filter(|revision| *revision >= 0).and_then(|revision| revision.checked_add(1));
    after.ok_or_else(|| {
        Failure::invalid("Last-Event-ID must be the id of a message of this stream, a revision")
    })
}

fn message_of(kind: &str, id: Option<i64>, data: &impl Serialize) -> Bytes {
    let mut text = Vec::new();
    write_message(&mut text, kind, id, data);
    text.into()
}

/// Writes one message. JSON has no line breaks, so its data is one line.
fn write_message(out: &mut Vec<u8>, kind: &str, id: Option<i64>, data: &impl Serialize) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(kind.as_bytes());
    if let Some(id) = id {
        out.extend_from_slice(b"\nid: ");
        out.extend_from_slice(id.to_string().as_bytes());
    }
    out.extend_from_slice(b"\ndata: ");
    serde_json::to_writer(&mut *out, data).expect("the data is made of strings and numbers");
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_a_kind_an_id_and_a_line_of_data() {
        let text = message_of("progress", Some(7), &ProgressMessage { revision: 7 });
        assert_eq!(text, "event: progress\nid: 7\ndata: {\"revision\":7}\n\n");
        let text = message_of("error", None, &serde_json::json!({"a": "b\nc"}));
        assert_eq!(text, "event: error\ndata: {\"a\":\"b\\nc\"}\n\n");
    }

    #[test]
    fn a_range_is_named_in_one_way() {
        let of = |raw: &str| {
            keys(&Query::parse(raw, &["key", "prefix", "start", "end"]).unwrap())
                .map_err(|error| error.to_string())
        };
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        assert_eq!(of(""), Ok(KeyRange::all()));
        assert_eq!(of("key=a"), Ok(KeyRange::One(bytes("a"))));
        assert_eq!(of("prefix="), Ok(KeyRange::all()));
        assert_eq!(of("start=a&end=b"), Ok(KeyRange::Between { start: bytes("a"), end: bytes("b") }));
        assert_eq!(of("start=a"), Ok(KeyRange::From(bytes("a"))));
        for bad in ["key=", "key=a&prefix=b", "end=b", "start=b&end=a", "key=a&start=b&end=c"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_client_goes_on_behind_the_last_id_that_it_saw() {
        let of = |text: &'static str| after(&HeaderValue::from_static(text)).ok();
        assert_eq!((of("7"), of("0")), (Some(8), Some(1)));
        for bad in ["", "-1", "x", "9223372036854775807"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
